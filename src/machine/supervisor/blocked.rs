//! Who waits for a service that has failed: that he cannot be started, and why.
//!
//! | what it requires                  | one that runs         | one that is to be started                    |
//! |-----------------------------------|-----------------------|----------------------------------------------|
//! | crashed, and comes back           | runs on               | waits                                        |
//! | is tried slowly (crash loop, ...) | runs on               | blocked, until that one is up                |
//! | has failed for good               | is stopped by its own | blocked, until that one is up                |
//! |                                   | schedule, and blocked |                                              |
//! | has ended, or is not to run       | is stopped            | waits until somebody starts that one         |
//!
//! Blocked is [`State::Waiting`] with a reason: nothing else is needed to start it when the
//! other one is up. Who waits for one that is blocked is blocked by the same.

use std::fmt::Display;

use super::Supervisor;
use crate::machine::event::{Effect, ServiceId};
use crate::machine::report::Happening;
use crate::machine::service::{Rest, Service, State, Waiter, GIVEN_UP};

/// One that waits cannot be started, because of another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// The one that has failed.
    pub by: ServiceId,
    /// It is so. Else it was, in this wait: it is told once, however often that one is tried
    /// again.
    pub now: bool,
}

impl Service {
    /// The service that has failed, and keeps this one, which waits, from its start.
    pub fn blocked_by(&self) -> Option<ServiceId> {
        self.blocked.filter(|b| b.now).map(|b| b.by)
    }

    /// Why the last start did not succeed, or why it is not tried again, where its last exit
    /// does not say that.
    pub fn error(&self) -> Option<&str> {
        match &self.state {
            State::Backoff { error, .. } => error.as_deref(),
            State::Down(Rest::Failed(why)) if self.last.is_none() || why != GIVEN_UP => Some(why),
            State::Down(_)
            | State::Waiting
            | State::Starting(_)
            | State::Up(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_) => None,
        }
    }

    /// It has failed, and is not tried again soon.
    fn has_failed(&self) -> bool {
        match &self.state {
            State::Down(Rest::Failed(_)) | State::Backoff { slow: true, .. } => true,
            State::Down(_)
            | State::Waiting
            | State::Starting(_)
            | State::Up(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_)
            | State::Backoff { .. } => false,
        }
    }
}

/// For who requires it: `it requires db, which has failed: exited with status 3`.
pub(super) fn failure_of(dep: &Service) -> Option<String> {
    if !dep.has_failed() {
        return None;
    }
    let error = dep.error();
    let how: &dyn Display = match (&error, &dep.last) {
        (Some(error), _) => error,
        (None, Some((exit, _))) => exit,
        (None, None) => &GIVEN_UP,
    };
    let name = &dep.spec.name;
    Some(format!("it requires {name}, which has failed: {how}"))
}

impl Supervisor {
    /// Why one that waits cannot be started, if what it requires has failed.
    pub fn why_blocked(&self, id: ServiceId) -> Option<String> {
        let by = self.services.get(&id)?.blocked_by()?;
        failure_of(self.services.get(&by)?)
    }

    /// Notes whether it is blocked, when that may have changed.
    pub(super) fn settle_blocked(&mut self, id: ServiceId, effects: &mut Vec<Effect>) {
        let Some(service) = self.services.all.get(&id) else {
            return;
        };
        let by = match service.state {
            State::Waiting => self.culprit(id),
            _ => None,
        };
        if service.blocked_by() == by {
            return;
        }
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let old = service.blocked;
        service.blocked = match by {
            Some(by) => Some(Blocked { by, now: true }),
            None => old.map(|b| Blocked { now: false, ..b }),
        };
        if let Some(why) = self.why_blocked(id) {
            self.dismiss(id, Waiter::wants_it_up, &why, effects);
            if old.map(|b| b.by) != by {
                effects.push(Effect::Publish(id, Happening::Blocked { why }));
            }
        }
        let dependents = &self.order.of(id).dependents;
        let places = dependents.iter().filter_map(|d| self.order.place(*d));
        self.dirty.extend(places);
    }

    /// Of what it requires the one that has failed, or that keeps that from its start.
    fn culprit(&self, id: ServiceId) -> Option<ServiceId> {
        self.order.of(id).requires.iter().find_map(|dep| {
            let dep = self.services.get(dep)?;
            dep.blocked_by()
                .or_else(|| dep.has_failed().then_some(dep.id))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::event::{Change, Event, Verb};
    use super::super::super::report::{Exit, SpawnError, Stage};
    use super::super::super::rig::{Rig, A, B, C};
    use super::super::super::spec::{CrashLoop, Policy, Spec};
    use super::super::super::testing::spec;
    use super::*;

    fn needs(name: &str, requires: &[ServiceId]) -> Spec {
        Spec {
            requires: requires.to_vec(),
            ..spec(name)
        }
    }

    /// What it was told, and whether it is so.
    fn blocked(rig: &mut Rig, id: ServiceId) -> (Vec<String>, bool) {
        let told = std::mem::take(&mut rig.told);
        let why = |(of, what)| match what {
            Happening::Blocked { why } if of == id => Some(why),
            _ => None,
        };
        let told = told.into_iter().filter_map(why).collect();
        (told, rig.at(id).blocked_by().is_some())
    }

    const WHY: &str = "it requires a, which has failed: exited with status 3";

    /// `a`, which is not tried again, `b` which requires it, and `c`, which requires `b`.
    fn chain(policy: Policy) -> Rig {
        let mut a = spec("a");
        a.restart.policy = policy;
        a.restart.crash_loop = Some(CrashLoop {
            burst: 1,
            within: Duration::from_secs(60),
            retry: Duration::from_secs(300),
        });
        Rig::new(vec![a, needs("b", &[A]), needs("c", &[B])])
    }

    #[test]
    fn what_requires_one_that_fails_for_good_is_stopped_and_blocked_until_that_is_up() {
        let mut rig = chain(Policy::Never);
        rig.did();
        rig.exits(A, Exit::Code(3), 0);
        assert_eq!(rig.did(), ["release a1", "TERM c1"]);
        assert_eq!(blocked(&mut rig, B), (vec![], false), "it runs still");
        rig.exits(C, Exit::Code(0), 0);
        rig.exits(B, Exit::Code(0), 0);
        assert_eq!((rig.state(B), rig.state(C)), ("waiting", "waiting"));
        assert_eq!(rig.at(C).blocked_by(), Some(A), "by the same");
        assert_eq!(blocked(&mut rig, B), (vec![WHY.to_owned()], true));
        // It comes back by itself.
        rig.did();
        rig.ask(A, Verb::Start);
        assert_eq!(
            rig.did(),
            ["spawn a2", "reply 1: done", "spawn b2", "spawn c2"]
        );
        for id in [B, C] {
            assert_eq!(rig.at(id).blocked, None);
        }
    }

    #[test]
    fn what_requires_one_that_is_tried_slowly_is_blocked_and_told_so_once() {
        let mut rig = Rig::bare();
        rig.slow_start = true;
        rig.configure(vec![spec("a"), needs("b", &[A])]);
        let error = || SpawnError {
            stage: Stage::Exec,
            thing: "/bin/a".to_owned(),
            errno: libc::ENOENT,
            cause: "no".to_owned(),
        };
        let why = format!("it requires a, which has failed: {}", error());
        let fails = |rig: &mut Rig| {
            let instance = rig.at(A).instance;
            rig.hear(Event::NotSpawned(A, instance, error()));
        };
        fails(&mut rig);
        assert_eq!(blocked(&mut rig, B), (vec![why], true));
        rig.pass(300_000);
        assert_eq!(rig.state(A), "starting");
        assert_eq!(blocked(&mut rig, B), (vec![], false), "it is tried");
        fails(&mut rig);
        assert_eq!(blocked(&mut rig, B), (vec![], true), "as before");
        rig.slow_start = false;
        rig.pass(300_000);
        assert_eq!((rig.state(A), rig.state(B)), ("up", "up"));
        assert_eq!(rig.at(B).blocked, None);
    }

    #[test]
    fn what_runs_is_left_alone_when_what_it_requires_is_tried_slowly() {
        let mut rig = chain(Policy::Always);
        rig.exits(A, Exit::Code(3), 0);
        rig.did();
        rig.exits(A, Exit::Code(3), 0);
        assert_eq!(rig.did(), ["release a2"]);
        assert_eq!((rig.state(A), rig.state(B)), ("backoff", "up"));
        // But it does not come back before that one.
        rig.exits(B, Exit::Code(1), 0);
        assert_eq!(blocked(&mut rig, B), (vec![WHY.to_owned()], true));
        assert_eq!((rig.state(B), rig.state(C)), ("waiting", "up"));
        rig.pass(300_000);
        assert_eq!((rig.state(A), rig.state(B)), ("up", "up"));
    }

    #[test]
    fn who_asks_for_it_is_told_and_what_is_not_to_run_blocks_nobody() {
        let mut rig = chain(Policy::OnFailure);
        rig.exits(A, Exit::Code(0), 0);
        rig.exits(C, Exit::Code(0), 0);
        rig.exits(B, Exit::Code(0), 0);
        assert_eq!(blocked(&mut rig, B), (vec![], false), "it has ended");
        assert_eq!(rig.machine.unwanted(B), ["a".into()]);
        rig.ask(C, Verb::Start);
        rig.exits(A, Exit::Code(3), 0);
        rig.exits(A, Exit::Code(3), 0);
        assert_eq!(rig.state(A), "backoff");
        rig.exits(B, Exit::Code(1), 0);
        assert_eq!(blocked(&mut rig, C), (vec![], false), "it runs");
        rig.exits(C, Exit::Code(1), 0);
        assert_eq!(blocked(&mut rig, C), (vec![WHY.to_owned()], true));
        rig.ask(A, Verb::Stop);
        for id in [B, C] {
            assert_eq!(rig.at(id).blocked_by(), None, "somebody has stopped it");
        }
        rig.change(C, needs("c", &[]), Change::Policy);
        assert_eq!(rig.state(C), "up");
    }

    #[test]
    fn it_says_the_same_after_an_upgrade() {
        let mut rig = chain(Policy::Never);
        rig.exits(A, Exit::Code(3), 0);
        rig.exits(C, Exit::Code(0), 0);
        rig.exits(B, Exit::Code(0), 0);
        let whole = rig.machine.keep();
        let specs: Vec<_> = rig.machine.services().map(|s| s.spec.clone()).collect();
        let mut next = Rig::bare();
        let mut effects = Vec::new();
        let spec = |id: ServiceId| specs.get(id.0 as usize).cloned();
        next.machine.go_on(whole, spec, rig.now, &mut effects);
        assert_eq!(effects, [], "told already");
        assert_eq!(next.machine.why_blocked(C).unwrap(), WHY);
    }
}
