//! `restart-with`: a service is restarted when another one has begun anew.
//!
//! | the other one \ it is        | Up             | Starting, Stopping ...      | Down, Waiting, Backoff |
//! |------------------------------|----------------|-----------------------------|------------------------|
//! | is up (again), and this one  | its checker,   | looked at again when it     | -                      |
//! | began before that            | if it has one; | is Up: a later fork is one  |                        |
//! |                              | restart        | that knows the other        |                        |
//! | is up, and this one began    | -              | -                           | -                      |
//! | after that                   |                |                             |                        |
//! | goes, or is on its way       | -              | -                           | -                      |
//!
//! This is what holds and no event that could be missed: after each turn no service that is up
//! began before one of those is up, unless it is about to go. So whatever has made the other
//! one begin (a request, a crash, a file, its health) is the same, each instance of it that
//! becomes ready restarts this one at most once, and one that crashes before it is ready
//! restarts nobody. Chains follow from the order: who is restarted begins anew itself.
//!
//! What is compared are times that are in the journal anyway, so a superd that comes after a
//! killed one sees what that one would have done, and does nothing that it had done.

use std::rc::Rc;

use super::event::{Effect, ServiceId};
use super::report::Origin;
use super::service::{Rest, Service, State};
use super::supervisor::Supervisor;
use super::time::Tick;
use crate::map::Set;

impl Service {
    /// Since when its present instance can be used, if nothing is about to end it.
    fn usable_since(&self) -> Option<Tick> {
        let is_usable = matches!(&self.state, State::Up(_) | State::Down(Rest::Done));
        (is_usable && self.target && !self.is_going()).then_some(self.since)
    }

    /// Until when others may have begun without being a reason to restart it; none: it does
    /// not run, or is about to go.
    fn knows_until(&self) -> Option<Tick> {
        let State::Up(run) = &self.state else {
            return None;
        };
        let known = self.heeded.map_or(run.began, |at| at.max(run.began));
        self.is_well().then_some(known)
    }
}

impl Supervisor {
    /// Restarts those of `ids` that began before one that they are restarted with. First all of
    /// them are told, then they move: they stop in the order of a stop.
    pub(super) fn settle_companions(
        &mut self,
        ids: &[ServiceId],
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        let due = ids.iter().map(|id| (*id, self.begun_anew(*id)));
        let due: Vec<(ServiceId, Option<Rc<str>>)> = due.collect();
        let mut any = false;
        for (id, by) in due {
            let (Some(by), Some(service)) = (by, self.service_mut(id)) else {
                continue;
            };
            any = true;
            service.heeded = Some(now);
            let by = Origin::RestartWith {
                service: by.to_string(),
            };
            match service.asks_before_restart() {
                true => self.check_restart(id, &by, now, effects),
                false => self.cycle(id, &by, now),
            }
        }
        if any {
            self.look_at_everything(effects);
        }
    }

    /// Of those that it is restarted with, one that can be used and began after it.
    fn begun_anew(&self, id: ServiceId) -> Option<Rc<str>> {
        let service = self.service(id)?;
        if service.spec.restart_with.is_empty() {
            return None;
        }
        let known = service.knows_until()?;
        // What is being asked of it may end first: it is looked at again then.
        if service.reload.is_some() {
            return None;
        }
        let mut others = self.companions(service);
        let anew = others.find(|other| other.usable_since().is_some_and(|at| at > known));
        anew.map(|other| other.spec.name.clone())
    }

    /// Those that it is restarted with. `config` reports cycles; should one reach this place,
    /// the edge that closes it is left out, as in the order.
    fn companions<'s>(&'s self, service: &'s Service) -> impl Iterator<Item = &'s Service> {
        let before = &self.order().of(service.id).before;
        let known = service.spec.restart_with.iter();
        known
            .filter(|other| before.contains(other))
            .filter_map(|other| self.service(*other))
    }

    /// Who is restarted because this one is up anew, and because those are, and so on. In
    /// the order of starts.
    pub(super) fn taken_along(&self, id: ServiceId) -> Vec<Rc<str>> {
        let since = self.service(id).and_then(Service::usable_since);
        let mut going = Set::from([id]);
        let mut names = Vec::new();
        // Each comes after those that take it along.
        for next in self.order().line() {
            let Some(service) = self.service(*next) else {
                continue;
            };
            let Some(known) = service.knows_until() else {
                continue;
            };
            let follows = |other: &Service| match other.id == id {
                true => since.is_some_and(|at| at > known),
                false => going.contains(&other.id),
            };
            let requires = &self.order().of(*next).requires;
            let goes = self.companions(service).any(follows)
                || requires.iter().any(|r| *r != id && going.contains(r));
            if goes && going.insert(*next) {
                names.push(service.spec.name.clone());
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Adopted, Change, Event, Instance, Notice, Outcome, Pid, Presence};
    use super::super::event::{Target, Verb, Wait};
    use super::super::memory::Memory;
    use super::super::ready::{Ready, Sign};
    use super::super::report::{Exit, Happening};
    use super::super::rig::{ms, Rig, A, B, C};
    use super::super::signal::Signal;
    use super::super::spec::{Checker, Oneshot, Policy, Reload, Spec};
    use super::super::supervisor::Ending;
    use super::super::testing::spec;
    use super::*;

    const D: ServiceId = ServiceId(3);

    fn with(name: &str, others: &[ServiceId]) -> Spec {
        Spec {
            restart_with: others.to_vec(),
            ..spec(name)
        }
    }

    fn notifies(spec: Spec) -> Spec {
        let sign = Sign::Notify;
        Spec {
            ready: Some(Rc::new(Ready { sign, within: None })),
            ..spec
        }
    }

    fn checked(spec: Spec) -> Spec {
        Spec {
            check: Some(Checker {
                argv: vec!["/bin/check".to_owned()].into(),
                wait: ms(5_000),
            }),
            ..spec
        }
    }

    /// Up for a second.
    fn up(specs: Vec<Spec>) -> Rig {
        let mut rig = Rig::new(specs);
        rig.pass(1_000);
        rig.did();
        rig
    }

    fn is_ready(rig: &mut Rig, id: ServiceId) {
        let instance = rig.at(id).instance;
        rig.hear(Event::Notified(id, instance, Notice::Ready));
    }

    fn ends(rig: &mut Rig, id: ServiceId) {
        rig.exits(id, Exit::Code(0), 0);
        rig.pass(10);
    }

    #[test]
    fn a_crash_restarts_who_is_restarted_with_it_when_it_is_up_again() {
        let mut rig = up(vec![notifies(spec("a")), with("b", &[A]), spec("c")]);
        is_ready(&mut rig, A);
        rig.pass(1_000);
        rig.did();
        rig.exits(A, Exit::Code(1), 0);
        assert_eq!(rig.did(), ["release a1", "spawn a2"]);
        rig.pass(500);
        // Until it is ready nothing happens, and when it fails before, nothing either.
        rig.exits(A, Exit::Code(1), 0);
        rig.pass(1_000);
        assert_eq!(rig.did(), ["release a2", "spawn a3"]);
        is_ready(&mut rig, A);
        assert_eq!(rig.did(), ["TERM b1"]);
        ends(&mut rig, B);
        assert_eq!(rig.did(), ["release b1", "spawn b2"]);
        let by = Origin::RestartWith {
            service: "a".to_owned(),
        };
        assert_eq!(rig.report().by, by);
        let begun = Happening::Starting {
            instance: Instance(2),
            by,
        };
        assert!(rig.told.contains(&(B, begun)));
        rig.pass(3_600_000);
        assert!(rig.did().is_empty(), "once");
        assert_eq!(rig.at(C).instance, Instance(1));
    }

    #[test]
    fn a_restart_by_hand_is_answered_with_who_goes_along() {
        let mut rig = up(vec![
            spec("a"),
            with("b", &[A]),
            with("c", &[B]),
            Spec {
                requires: vec![C],
                ..spec("d")
            },
        ]);
        let n = rig.ask(A, Verb::Restart);
        assert_eq!(rig.did(), ["TERM a1"]);
        ends(&mut rig, A);
        let said = format!("reply {n}: done, and b, c, d with it");
        assert_eq!(
            rig.did(),
            ["release a1", "spawn a2", said.as_str(), "TERM b1"]
        );
        ends(&mut rig, B);
        // The next link of the chain, and who cannot be without it goes first.
        assert_eq!(rig.did(), ["release b1", "spawn b2", "TERM d1"]);
        ends(&mut rig, D);
        assert_eq!(rig.did(), ["release d1", "TERM c1"]);
        ends(&mut rig, C);
        assert_eq!(rig.did(), ["release c1", "spawn c2", "spawn d2"]);
        rig.pass(3_600_000);
        assert!(rig.did().is_empty(), "each once");
        // Of all, nobody is told of any.
        let n = rig.request(Target::All, Verb::Restart, Wait::Done);
        for id in [D, C, B, A] {
            ends(&mut rig, id);
        }
        assert_eq!(rig.count(&format!("reply {n}: done")), 1);
        assert_eq!(rig.at(D).instance, Instance(3), "once");
    }

    #[test]
    fn one_that_is_restarted_with_two_of_a_chain_is_restarted_once() {
        let mut rig = up(vec![spec("a"), with("b", &[A]), with("c", &[A, B])]);
        rig.ask(A, Verb::Restart);
        ends(&mut rig, A);
        // Both go, in the order of a stop.
        assert_eq!(rig.did().last().unwrap(), "TERM c1");
        ends(&mut rig, C);
        ends(&mut rig, B);
        rig.pass(60_000);
        let last = [A, B, C].map(|id| rig.at(id).instance);
        assert_eq!(last, [Instance(2); 3]);
    }

    #[test]
    fn who_does_not_run_is_left_alone_and_who_starts_is_looked_at_when_it_is_up() {
        let never = |mut spec: Spec| {
            spec.restart.policy = Policy::Never;
            spec
        };
        let mut rig = up(vec![
            spec("a"),
            with("b", &[A]),
            never(with("c", &[A])),
            notifies(with("d", &[A])),
        ]);
        rig.ask(B, Verb::Stop);
        ends(&mut rig, B);
        rig.exits(C, Exit::Code(1), 0);
        is_ready(&mut rig, D);
        rig.pass(1_000);
        rig.exits(D, Exit::Code(1), 0);
        assert_eq!(rig.state(D), "starting");
        rig.pass(10);
        rig.did();
        for _ in 0..3 {
            rig.exits(A, Exit::Code(1), 0);
            rig.pass(5_000);
        }
        let did = rig.did();
        assert!(!did.iter().any(|d| !d.contains(" a")), "{did:?}");
        assert_eq!(rig.state(A), "up");
        is_ready(&mut rig, D);
        assert_eq!(rig.did(), ["TERM d2"], "however often that was");
        ends(&mut rig, D);
        is_ready(&mut rig, D);
        rig.pass(60_000);
        assert_eq!(rig.did(), ["release d2", "spawn d3"]);
        assert_eq!((rig.state(B), rig.state(C)), ("down", "down"));
    }

    #[test]
    fn a_reload_or_a_stop_restarts_nobody_and_a_start_after_it_does() {
        let mut rig = up(vec![
            Spec {
                reload: Some(Reload::Signal(Signal::HUP)),
                ..spec("a")
            },
            with("b", &[A]),
        ]);
        rig.ask(A, Verb::Reload);
        rig.ask(A, Verb::Stop);
        ends(&mut rig, A);
        rig.pass(60_000);
        assert_eq!(rig.count("TERM b1"), 0);
        rig.did();
        let n = rig.ask(A, Verb::Start);
        let said = format!("reply {n}: done, and b with it");
        assert_eq!(rig.did(), ["spawn a2", said.as_str(), "TERM b1"]);
    }

    #[test]
    fn the_checkers_of_both_are_asked_and_a_refusal_is_for_this_time() {
        let mut rig = up(vec![checked(spec("a")), checked(with("b", &[A]))]);
        rig.ask(A, Verb::Restart);
        rig.action_ends(A, 1, Outcome::Unhappy("no".to_owned()));
        rig.pass(10);
        assert_eq!(rig.did(), ["check a1", "reply 1: failed"]);
        rig.exits(A, Exit::Code(1), 0);
        assert_eq!(rig.did(), ["release a1", "spawn a2", "check b1"]);
        rig.action_ends(B, 2, Outcome::Unhappy("no".to_owned()));
        rig.pass(3_600_000);
        assert!(rig.did().is_empty(), "it runs on");
        // While its checker is at work for somebody else this waits.
        rig.ask(B, Verb::Restart);
        rig.exits(A, Exit::Code(1), 0);
        assert_eq!(rig.did(), ["check b1", "release a2", "spawn a3"]);
        rig.action_ends(B, 3, Outcome::Unhappy("no".to_owned()));
        assert_eq!(rig.did(), ["reply 2: failed", "check b1"]);
        rig.action_ends(B, 4, Outcome::Done);
        assert_eq!(rig.did(), ["TERM b1"]);
        // And a stop of what it requires is not called off by that.
        assert_eq!(rig.at(B).want, super::super::service::Want::Up);
    }

    #[test]
    fn what_a_new_definition_names_has_not_begun_anew() {
        let mut rig = up(vec![spec("a"), spec("b")]);
        rig.exits(A, Exit::Code(1), 0);
        rig.pass(60_000);
        rig.did();
        rig.change(B, with("b", &[A]), Change::Policy);
        rig.pass(60_000);
        assert!(rig.did().is_empty());
        rig.exits(A, Exit::Code(1), 0);
        assert_eq!(rig.did(), ["release a2", "spawn a3", "TERM b1"]);
    }

    #[test]
    fn a_oneshot_that_is_done_once_more_has_begun_anew() {
        let mut job = spec("a");
        job.oneshot = Some(Oneshot::Again);
        job.ready = Some(Rc::new(Ready {
            sign: Sign::Exit,
            within: None,
        }));
        job.restart.policy = Policy::OnFailure;
        let mut rig = Rig::new(vec![job, with("b", &[A])]);
        rig.pass(100);
        rig.exits(A, Exit::Code(0), 0);
        rig.pass(60_000);
        assert_eq!(rig.did(), ["spawn a1", "release a1", "spawn b1"]);
        let n = rig.ask(A, Verb::Start);
        rig.pass(100);
        rig.exits(A, Exit::Code(0), 0);
        let said = format!("reply {n}: finished, and b with it");
        assert_eq!(
            rig.did(),
            ["spawn a2", "release a2", said.as_str(), "TERM b1"]
        );
    }

    #[test]
    fn superds_end_and_a_cycle_restart_nobody() {
        let mut rig = up(vec![with("a", &[B]), with("b", &[A])]);
        rig.ask(A, Verb::Restart);
        ends(&mut rig, A);
        for _ in 0..9 {
            rig.pass(60_000);
            if rig.state(B) == "stopping" {
                ends(&mut rig, B);
            }
            if rig.state(A) == "stopping" {
                ends(&mut rig, A);
            }
        }
        let last = [A, B].map(|id| rig.at(id).instance.0);
        assert!(last.iter().sum::<u32>() <= 4, "{last:?}");
        rig.exits(A, Exit::Code(1), 0);
        rig.shut_down(false);
        ends(&mut rig, A);
        ends(&mut rig, B);
        assert_eq!(rig.did().last().unwrap(), "finish");
    }

    /// The next superd, with these memories.
    fn next(rig: &mut Rig, memories: Vec<(ServiceId, Memory)>) {
        let spec = |id| rig.at(id).spec.clone();
        let specs: Vec<_> = memories.iter().map(|(id, _)| spec(*id)).collect();
        rig.machine = Supervisor::new(2, Ending::WhenAsked);
        rig.machine.number_actions_after(1 << 32);
        for ((service, memory), spec) in memories.into_iter().zip(specs) {
            let text = crate::json::to_string(&memory).unwrap();
            let memory: Memory = crate::json::from_str(&text).unwrap();
            let pid = Pid(100 + memory.instance().0 as i32);
            rig.hear(Event::Adopt(Box::new(Adopted {
                service,
                spec,
                memory,
                found: Presence::Running(pid),
            })));
        }
        rig.configure(Vec::new());
        rig.pass(100);
    }

    #[test]
    fn a_successor_does_what_was_not_done_and_nothing_twice() {
        let written = |rig: &Rig, id| (id, Memory::of(rig.at(id)));
        // All is as it should be, also when it was written down before it was ready.
        let mut rig = up(vec![notifies(spec("a")), with("b", &[A])]);
        let early = written(&rig, A);
        is_ready(&mut rig, A);
        rig.pass(1_000);
        rig.did();
        let late = (written(&rig, A), written(&rig, B));
        next(&mut rig, vec![late.0.clone(), late.1.clone()]);
        assert!(rig.did().is_empty());
        next(&mut rig, vec![early, late.1]);
        is_ready(&mut rig, A);
        rig.pass(60_000);
        assert!(rig.did().iter().all(|d| d == "spawn b2"), "{:?}", rig.did);

        // It has begun anew, and superd was killed before it knew that it is up.
        let mut rig = up(vec![spec("a"), with("b", &[A])]);
        rig.slow_start = true;
        rig.exits(A, Exit::Code(1), 0);
        let memories = vec![written(&rig, A), written(&rig, B)];
        rig.did();
        next(&mut rig, memories);
        assert_eq!(rig.did(), ["TERM b1"]);
        ends(&mut rig, B);
        assert_eq!(rig.did(), ["release b1", "spawn b2"]);

        // Refused is refused.
        let mut rig = up(vec![spec("a"), checked(with("b", &[A]))]);
        rig.exits(A, Exit::Code(1), 0);
        rig.action_ends(B, 1, Outcome::Unhappy("no".to_owned()));
        rig.did();
        let memories = vec![written(&rig, A), written(&rig, B)];
        next(&mut rig, memories);
        assert!(rig.did().is_empty());
    }
}
