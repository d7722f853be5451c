//! `every`: a oneshot is run again and again by the clock that does not jump.
//!
//! | the time comes when it is    | what follows                                         |
//! |------------------------------|------------------------------------------------------|
//! | Down (done, failed)          | a start                                              |
//! | Down (stopped), not wanted   | nothing: a stop ends the timer, a start begins it    |
//! | anything else                | nothing: that run, or its retry, is the one that is due |
//!
//! The first run is the start as any service has it; the next ones are due `every` after that.
//! A run that somebody asks for in between does not move them, and one that comes late (superd
//! was away, the run before took longer) does neither: what was missed meanwhile is run once or
//! was under way, and then it goes on in step.

use std::time::Duration;

use super::report::Origin;
use super::service::{Moved, Rest, Service, State, Want};
use super::time::Tick;

/// The first time after `now` that is in step with `due`.
fn next(due: Tick, every: Duration, now: Tick) -> Tick {
    if due > now {
        return due;
    }
    let step = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX).max(1);
    let late = (now - due).as_nanos() % u128::from(step);
    let late = u64::try_from(late).unwrap_or(0);
    now + Duration::from_nanos(step - late)
}

impl Service {
    /// A run begins or has ended, or the definition is new: what is due by now is done with.
    pub(super) fn keep_step(&mut self, now: Tick) {
        self.due = self
            .spec
            .every
            .map(|every| self.due.map_or(now + every, |due| next(due, every, now)));
    }

    /// When its timer starts it, if nothing happens before.
    pub fn timer_due(&self) -> Option<Tick> {
        match self.state {
            State::Down(Rest::Done | Rest::Failed(_) | Rest::Finished) => {
                self.due.filter(|_| self.want == Want::Up && !self.gone)
            }
            State::Down(Rest::Stopped)
            | State::Waiting
            | State::Starting(_)
            | State::Up(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_)
            | State::Backoff { .. } => None,
        }
    }

    /// Time has passed while it was down.
    pub(super) fn timer_timeout(&mut self, now: Tick) -> Moved {
        if self.timer_due().is_none_or(|due| due > now) {
            return Moved::default();
        }
        self.record.clear();
        self.start_by = Origin::Timer;
        self.enter(State::Down(Rest::Stopped), now)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::event::Verb;
    use super::super::ready::{Ready, Sign};
    use super::super::report::{Exit, Happening};
    use super::super::rig::{ms, Rig, A};
    use super::super::spec::{Oneshot, Policy, Spec};
    use super::super::testing::spec;
    use super::*;

    fn job() -> Rig {
        let mut job = Spec {
            every: Some(ms(1_000)),
            oneshot: Some(Oneshot::Remains),
            ready: Some(Rc::new(Ready {
                sign: Sign::Exit,
                within: None,
            })),
            ..spec("a")
        };
        job.restart.policy = Policy::Never;
        Rig::new(vec![job])
    }

    #[test]
    fn steps_are_kept_whatever_is_missed() {
        let (s, at) = (Duration::from_secs(1), |n: u64| Tick(n * 1_000_000_000));
        assert_eq!(next(at(5), s, at(4)), at(5));
        assert_eq!(next(at(5), s, at(5)), at(6));
        assert_eq!(next(at(5), s, at(9)), at(10));
        assert_eq!(next(at(5), s, Tick(9_100_000_000)), at(10));
        assert_eq!(
            next(at(5), Duration::MAX, at(6)),
            Tick(5 * 1_000_000_000) + Duration::MAX
        );
    }

    #[test]
    fn it_runs_at_the_start_and_then_in_step() {
        let mut rig = job();
        assert_eq!(rig.did(), ["spawn a1"]);
        rig.pass(300);
        rig.exits(A, Exit::Code(0), 0);
        rig.pass(699);
        assert_eq!(rig.state(A), "down");
        rig.pass(1);
        assert_eq!(rig.at(A).instance.0, 2);
        let by_timer = |h: &Happening| {
            matches!(
                h,
                Happening::Starting {
                    by: Origin::Timer,
                    ..
                }
            )
        };
        assert!(rig.told.iter().any(|(_, h)| by_timer(h)));
        // A failure is no reason not to run it the next time.
        rig.exits(A, Exit::Code(1), 0);
        assert_eq!(rig.state(A), "down");
        rig.pass(1_000);
        assert_eq!(rig.at(A).instance.0, 3);
        // By hand in between: that does not move the next one.
        rig.exits(A, Exit::Code(0), 0);
        rig.pass(500);
        rig.ask(A, Verb::Restart);
        rig.exits(A, Exit::Code(0), 0);
        rig.pass(499);
        assert_eq!(rig.at(A).instance.0, 4);
        rig.pass(1);
        assert_eq!(rig.at(A).instance.0, 5);
    }

    #[test]
    fn a_run_under_way_is_not_doubled_and_a_stop_ends_the_timer() {
        let mut rig = job();
        rig.pass(2_500);
        assert_eq!(rig.did(), ["spawn a1"]);
        rig.exits(A, Exit::Code(0), 0);
        assert_eq!(rig.state(A), "down");
        rig.pass(499);
        assert_eq!(rig.at(A).instance.0, 1);
        rig.pass(1);
        assert_eq!(rig.at(A).instance.0, 2);
        rig.exits(A, Exit::Code(0), 0);
        rig.ask(A, Verb::Stop);
        assert_eq!(rig.machine.next_deadline(), None);
        rig.ask(A, Verb::Start);
        assert_eq!(rig.at(A).instance.0, 3);
        rig.exits(A, Exit::Code(0), 0);
        rig.pass(1_000);
        assert_eq!(rig.at(A).instance.0, 4);
    }
}
