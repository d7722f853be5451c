//! `every` and `at`: a oneshot is run again and again.
//!
//! | the time comes when it is    | what follows                                         |
//! |------------------------------|------------------------------------------------------|
//! | Down (scheduled, done, failed) | a start                                            |
//! | Down (stopped), not wanted   | nothing: a stop ends the timer, a start begins it    |
//! | Starting, or being stopped   | nothing: it is not run twice at once; that is said   |
//! | Waiting, Backoff             | nothing: the start that is to come is the one due    |
//!
//! `every` is counted by the clock that does not jump, from the first start, which is as that of
//! any service. `at` is a time of day of the local wall clock; the first start waits for it
//! (scheduled). A run that somebody asks for in between moves nothing, and one that comes late
//! (superd was away, the run before took longer) does neither: what was missed meanwhile is
//! run once or was under way, and then it goes on in step.
//!
//! The wall clock enters as a [`Clock`], when the daemon has read it: at the beginning, whenever it
//! was set, and once more before a run of `at`. With `at`, a time is *missed* when it really
//! passed since the timer began or since the last look: the look back is by the clock as it is
//! now, over the time that a clock has counted which counts suspend and cannot be set (CLOCK_BOOTTIME).
//! What a clock has skipped that was put forward never was, and is not run; a clock that was put
//! back does not run the same moment again.

use std::rc::Rc;
use std::time::Duration;

use super::event::Effect;
use super::memory::LONGEST;
use super::report::{Happening, Origin};
use super::service::{Context, Moved, Rest, Service, State, Want};
use super::spec::Oneshot;
use super::time::Tick;
use super::zone::{Zone, DAY};
use crate::json::{FromJson, ToJson};

/// When a oneshot is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Timer {
    /// So often.
    Every(Duration),
    /// At this time of day, in seconds.
    At(u32),
}

impl Timer {
    /// A time of day that there is, and no pause that never ends or is none.
    pub(super) fn is_sound(&self) -> bool {
        match self {
            Timer::Every(every) => !every.is_zero() && *every <= LONGEST,
            Timer::At(time) => i64::from(*time) < DAY,
        }
    }
}

/// What the clocks showed at one moment. Between two settings of the wall clock, and without a
/// suspend, all of them go on together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clock {
    /// The clock of the machine.
    pub at: Tick,
    /// The wall clock: nanoseconds since 1970.
    pub unix: i64,
    /// Time since the boot, suspend included, in nanoseconds.
    pub boot: u64,
    /// Of the wall clock.
    pub zone: Rc<Zone>,
}

impl Clock {
    fn boot_at(&self, now: Tick) -> u64 {
        let later = self.boot.saturating_add(now.0.saturating_sub(self.at.0));
        later.saturating_sub(self.at.0.saturating_sub(now.0))
    }

    /// What the wall clock, as it goes now, would have shown when so much time had passed since the
    /// boot; whole seconds.
    fn unix_at(&self, boot: u64) -> i64 {
        let ns = i128::from(self.unix) + i128::from(boot) - i128::from(self.boot);
        i64::try_from(ns.div_euclid(SECOND)).unwrap_or(i64::MAX)
    }

    /// When it will show this.
    fn tick_of(&self, unix: i64) -> Tick {
        let ns = i128::from(unix) * SECOND - i128::from(self.unix);
        let at = (i128::from(self.at.0) + ns).max(0);
        Tick(u64::try_from(at).unwrap_or(u64::MAX))
    }

    /// The last time of day that is not after this moment.
    fn last(&self, time: u32, unix: i64) -> i64 {
        let day = self.zone.day_at(unix).saturating_add(1);
        let days = (0..4).map(|n| day.saturating_sub(n));
        let mut moments = days.map(|d| self.zone.moment(d, i64::from(time)));
        moments.find(|at| *at <= unix).unwrap_or(i64::MIN)
    }

    /// The first one after this moment, but not that one.
    fn next(&self, time: u32, unix: i64, but: Option<i64>) -> i64 {
        let day = self.zone.day_at(unix).saturating_sub(1);
        let days = (0..5).map(|n| day.saturating_add(n));
        let mut moments = days.map(|d| self.zone.moment(d, i64::from(time)));
        let fits = |at: &i64| *at > unix && Some(*at) != but;
        moments.find(fits).unwrap_or(i64::MAX)
    }
}

const SECOND: i128 = 1_000_000_000;

/// What is done with, of the times of `at`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Covered {
    /// All until then, in nanoseconds since the boot.
    boot: u64,
    /// And this moment of the wall clock, also when it comes again.
    last: Option<i64>,
}

/// The first time after `now` that is in step with `due`.
fn in_step(due: Tick, every: Duration, now: Tick) -> Tick {
    if due > now {
        return due;
    }
    let step = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX).max(1);
    let late = (now - due).as_nanos() % u128::from(step);
    let late = u64::try_from(late).unwrap_or(0);
    now + Duration::from_nanos(step - late)
}

impl Service {
    /// The definition is new, or has another timer.
    pub(super) fn begin_timer(&mut self, now: Tick) {
        self.due = None;
        self.covered = None;
        // It may not have been watched for a while; it is read with the new definition.
        self.clock = None;
        self.keep_step(now);
    }

    /// A run begins or has ended, or the timer begins: what is due by now is done with.
    pub(super) fn keep_step(&mut self, now: Tick) {
        match self.spec.timer {
            None => self.due = None,
            Some(Timer::Every(every)) => {
                let next = |due| in_step(due, every, now);
                self.due = Some(self.due.map_or(now + every, next));
            }
            Some(Timer::At(time)) => {
                // Not known yet: it begins when it is.
                let Some(clock) = &self.clock else { return };
                let boot = clock.boot_at(now);
                let last = clock.last(time, clock.unix_at(boot));
                let is_new = |c: &Covered| last > clock.unix_at(c.boot);
                self.covered = Some(match self.covered {
                    Some(before) if !is_new(&before) => Covered { boot, ..before },
                    Some(_) => Covered {
                        boot,
                        last: Some(last),
                    },
                    None => Covered { boot, last: None },
                });
                self.plan_day();
            }
        }
    }

    /// When the time of day comes next; in the past where it was missed.
    fn plan_day(&mut self) {
        let (Some(Timer::At(time)), Some(clock)) = (self.spec.timer, &self.clock) else {
            return;
        };
        self.due = self.covered.map(|c| {
            let from = clock.unix_at(c.boot);
            clock.tick_of(clock.next(time, from, c.last))
        });
    }

    /// The clocks were read.
    pub(super) fn hear_clock(&mut self, clock: &Rc<Clock>, now: Tick) -> Moved {
        if !matches!(self.spec.timer, Some(Timer::At(_))) {
            return Moved::default();
        }
        self.clock = Some(clock.clone());
        match self.covered {
            None => self.keep_step(now),
            Some(_) => self.plan_day(),
        }
        match self.timer_due().is_some_and(|due| due <= now) {
            true => self.run_by_timer(now),
            false => Moved::default(),
        }
    }

    /// It is not to run before the time of day comes.
    pub(super) fn schedule(&mut self, now: Tick) {
        if self.is_of_day() {
            self.enter(State::Down(Rest::Scheduled), now);
        }
    }

    /// It is down, and only its timer, or somebody, starts it again.
    pub(super) fn timer_rests(&self) -> bool {
        self.spec.timer.is_some()
            && match self.state {
                State::Down(Rest::Done | Rest::Failed(_) | Rest::Finished | Rest::Scheduled) => {
                    true
                }
                State::Down(Rest::Stopped)
                | State::Waiting
                | State::Starting(_)
                | State::Up(_)
                | State::Stopping(..)
                | State::Killing(..)
                | State::Sweeping(_)
                | State::Backoff { .. } => false,
            }
    }

    /// Once it is done, to start it changes nothing.
    pub(super) fn stays_done(&self) -> bool {
        self.spec.oneshot == Some(Oneshot::Remains) && self.spec.timer.is_none()
    }

    /// It has `at`.
    pub(super) fn is_of_day(&self) -> bool {
        matches!(self.spec.timer, Some(Timer::At(_)))
    }

    /// When its timer starts it, if nothing happens before.
    pub fn timer_due(&self) -> Option<Tick> {
        self.next_run().filter(|_| self.timer_rests())
    }

    /// When the next run is due, whatever it does now.
    pub fn next_run(&self) -> Option<Tick> {
        self.due.filter(|_| self.want == Want::Up && !self.gone)
    }

    /// Time has passed while it was down.
    pub(super) fn timer_timeout(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        if self.timer_due().is_none_or(|due| due > now) {
            return Moved::default();
        }
        if self.is_of_day() {
            // Is it really that time? The zone may be another one since the clock was read.
            self.due = None;
            cx.effects.push(Effect::ReadClock);
            return Moved::default();
        }
        self.run_by_timer(now)
    }

    fn run_by_timer(&mut self, now: Tick) -> Moved {
        self.record.clear();
        self.start_by = Origin::Timer;
        self.enter(State::Down(Rest::Stopped), now)
    }

    /// When it is to be said that a run is left out: the one before is under way. Said once for
    /// each that takes too long.
    pub(super) fn left_out_at(&self) -> Option<Tick> {
        match &self.state {
            State::Starting(run) if !run.overdue => self.next_run(),
            State::Starting(_)
            | State::Up(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_)
            | State::Down(_)
            | State::Waiting
            | State::Backoff { .. } => None,
        }
    }

    /// Time has passed while it was running.
    pub(super) fn leave_out(&mut self, now: Tick, cx: &mut Context<'_>) {
        if self.left_out_at().is_none_or(|at| at > now) {
            return;
        }
        self.keep_step(now);
        if let State::Starting(run) = &mut self.state {
            run.overdue = true;
            let instance = run.instance;
            let ran = now - run.began;
            cx.publish(self.id, Happening::LeftOut { instance, ran });
        }
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
            timer: Some(Timer::Every(ms(1_000))),
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
        assert_eq!(in_step(at(5), s, at(4)), at(5));
        assert_eq!(in_step(at(5), s, at(5)), at(6));
        assert_eq!(in_step(at(5), s, at(9)), at(10));
        assert_eq!(in_step(at(5), s, Tick(9_100_000_000)), at(10));
        assert_eq!(
            in_step(at(5), Duration::MAX, at(6)),
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

    const DAY_NS: i64 = 86_400_000_000_000;
    const HOUR_NS: i64 = 3_600_000_000_000;

    /// At half past three, on a machine that was just switched on and whose clock shows this.
    fn nightly(unix: i64) -> Rig {
        let mut rig = Rig::bare();
        set(&mut rig, unix);
        let mut job = Spec {
            timer: Some(Timer::At(3 * 3600 + 1800)),
            oneshot: Some(Oneshot::Remains),
            ready: Some(Rc::new(Ready {
                sign: Sign::Exit,
                within: None,
            })),
            ..spec("a")
        };
        job.restart.policy = Policy::Never;
        rig.configure(vec![job]);
        assert_eq!(rig.did(), ["watch the clock", "read the clock"]);
        rig
    }

    fn set(rig: &mut Rig, unix: i64) {
        rig.wall = Some(unix - rig.now.0 as i64);
    }

    /// The clock is set, and superd hears of it.
    fn jump(rig: &mut Rig, unix: i64) {
        set(rig, unix);
        let clock = rig.clock(unix, rig.now.0);
        rig.hear(clock);
    }

    fn runs(rig: &Rig) -> u32 {
        rig.at(A).instance.0
    }

    fn ends(rig: &mut Rig) {
        rig.exits(A, Exit::Code(0), 0);
    }

    #[test]
    fn it_is_run_when_its_time_of_day_comes_and_not_before() {
        let mut rig = nightly(2 * HOUR_NS);
        assert_eq!(rig.at(A).state, State::Down(Rest::Scheduled));
        rig.pass(90 * 60_000 - 1);
        assert_eq!(runs(&rig), 0);
        rig.pass(1);
        assert_eq!(rig.did(), ["read the clock", "spawn a1"]);
        ends(&mut rig);
        rig.pass(24 * 3_600_000 - 1);
        assert_eq!(runs(&rig), 1);
        rig.pass(1);
        assert_eq!(runs(&rig), 2);
    }

    #[test]
    fn a_clock_that_jumps_by_fifty_years_has_missed_nothing() {
        // 1970, ten seconds after the power came, and then NTP knows better.
        let mut rig = nightly(10 * 1_000_000_000);
        rig.pass(60_000);
        let now = 50 * 365 * DAY_NS;
        jump(&mut rig, now + 12 * HOUR_NS);
        assert_eq!(runs(&rig), 0);
        // But that night it is run.
        rig.pass(15 * 3_600_000 + 30 * 60_000);
        assert_eq!(runs(&rig), 1);
        ends(&mut rig);
        // And back: what is to come is not waited for for fifty years.
        jump(&mut rig, 12 * HOUR_NS);
        rig.pass(15 * 3_600_000 + 30 * 60_000);
        assert_eq!(runs(&rig), 2);
    }

    #[test]
    fn what_really_passed_unseen_is_run_once() {
        // Switched on at five to three by the sun; the clock learns that an hour later.
        let mut rig = nightly(0);
        rig.pass(3_600_000);
        jump(&mut rig, 7 * DAY_NS + 3 * HOUR_NS + 55 * HOUR_NS / 60);
        assert_eq!(runs(&rig), 1);
        ends(&mut rig);
        rig.pass(23 * 3_600_000);
        assert_eq!(runs(&rig), 1);
        // Asleep for four nights.
        let four = 4 * DAY_NS;
        let unix = rig.now.0 as i64 + rig.wall.unwrap() + four;
        set(&mut rig, unix);
        let clock = rig.clock(unix, rig.now.0 + four as u64);
        rig.hear(clock);
        assert_eq!(runs(&rig), 2);
    }

    #[test]
    fn a_clock_that_is_put_back_does_not_run_it_again() {
        let mut rig = nightly(3 * HOUR_NS);
        rig.pass(31 * 60_000);
        assert_eq!(runs(&rig), 1);
        ends(&mut rig);
        jump(&mut rig, 3 * HOUR_NS);
        rig.pass(60 * 60_000);
        assert_eq!(runs(&rig), 1);
        rig.pass(23 * 3_600_000 + 30 * 60_000);
        assert_eq!(runs(&rig), 2);
        // One that has not been run may come twice.
        let mut rig = nightly(3 * HOUR_NS + 31 * HOUR_NS / 60);
        jump(&mut rig, 3 * HOUR_NS);
        rig.pass(30 * 60_000);
        assert_eq!(runs(&rig), 1);
    }

    #[test]
    fn a_zone_that_has_changed_is_seen_before_it_is_run() {
        let mut rig = nightly(3 * HOUR_NS);
        rig.zone = Rc::new(Zone::from_text("XXX2").unwrap());
        rig.pass(30 * 60_000);
        assert_eq!(runs(&rig), 0);
        rig.pass(2 * 3_600_000);
        assert_eq!(runs(&rig), 1);
    }

    #[test]
    fn a_run_that_takes_too_long_is_told_of_once() {
        let mut rig = job();
        rig.pass(5_500);
        let late = |h: &Happening| matches!(h, Happening::LeftOut { .. });
        assert_eq!(rig.told.iter().filter(|(_, h)| late(h)).count(), 1);
        assert_eq!(runs(&rig), 1);
        ends(&mut rig);
        rig.pass(500);
        assert_eq!(runs(&rig), 2);
    }

    #[test]
    fn a_start_of_everything_is_no_reason_to_run_it() {
        use super::super::event::{Target, Wait};
        let mut rig = nightly(2 * HOUR_NS);
        rig.request(Target::All, Verb::Start, Wait::Done);
        rig.request(Target::All, Verb::Restart, Wait::Done);
        assert_eq!(rig.did(), ["reply 1: already", "reply 2: already"]);
        rig.ask(A, Verb::Stop);
        rig.pass(48 * 3_600_000);
        assert_eq!(runs(&rig), 0);
        rig.request(Target::All, Verb::Start, Wait::Done);
        assert_eq!(rig.did(), ["reply 3: done", "reply 4: done"]);
        assert_eq!(rig.at(A).state, State::Down(Rest::Scheduled));
        rig.pass(90 * 60_000);
        assert_eq!(runs(&rig), 1);
        ends(&mut rig);
        // Who names it means it.
        rig.ask(A, Verb::Start);
        assert_eq!(runs(&rig), 2);
    }
}
