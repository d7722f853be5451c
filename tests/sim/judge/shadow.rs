//! What the judge keeps of a service: its run, its stop, its timer, its files.
//!
//! Nothing is judged here.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use superd::machine;
use superd::machine::event::{ActionId, Instance, Pid, ServiceId};
use superd::machine::files::Print;
use superd::machine::hook::Kind;
use superd::machine::ready::{Ready, Sign};
use superd::machine::service::Want;
use superd::machine::spec::{Schedule, Spec, Step, Until};
use superd::machine::time::Tick;
use superd::machine::timer::Clock;

/// A stop as the schedule allows it.
#[derive(Debug)]
pub struct Course {
    pub schedule: Rc<Schedule>,
    pub began: Tick,
    pub forced: bool,
    /// The step announced last.
    pub last: Option<usize>,
    pub step_at: Tick,
    pub cond_at: Option<Tick>,
    pub impossible: bool,
    /// The action of the step after `last` is out and not announced yet.
    pub acted: bool,
    pub action: Option<ActionId>,
    /// The hands were off the service during this step, because of a rival.
    pub held: bool,
    /// Actions that reached the service, or may have.
    pub reached: u32,
    pub rival: bool,
    pub rival_had_time: bool,
    pub term_to_tree: bool,
    /// It had no listening socket when the stop began.
    pub portless: bool,
    pub deadline: Option<Tick>,
}

impl Course {
    pub fn may_go_on(&self, now: Tick) -> bool {
        let Some(step) = self.last.and_then(|n| self.schedule.steps.get(n)) else {
            return true;
        };
        self.impossible
            || now >= self.step_at + step.wait
            || self.cond_at.is_some_and(|at| now >= at + step.settle)
    }

    pub fn is_at_hook(&self) -> bool {
        let step = self.last.and_then(|n| self.schedule.steps.get(n));
        step.is_some_and(Step::is_hook)
    }

    pub fn until(&self) -> Option<&Until> {
        self.schedule.steps.get(self.last?).map(|s| &s.until)
    }

    pub fn wait(&self) -> Duration {
        let step = self.last.and_then(|n| self.schedule.steps.get(n));
        step.map_or(Duration::ZERO, |s| s.wait)
    }
}

/// An instance that is not released.
#[derive(Debug)]
pub struct Live {
    pub instance: Instance,
    pub forked: bool,
    /// The main process, as far as it is told.
    pub main: Option<Pid>,
    pub execed: Option<Tick>,
    /// How it becomes ready.
    pub awaits: Option<Rc<Ready>>,
    /// It has said so, or a probe has found it.
    pub met: bool,
    /// It counts as up.
    pub up: bool,
    /// Questions that are out, and since when.
    pub probes: BTreeMap<ActionId, Tick>,
    /// Commands about its health.
    pub remedies: BTreeSet<ActionId>,
    /// Health checks in a row that have failed.
    pub failed: u32,
    /// So many have at some time been too many, and it is to stay down for that.
    pub stay: bool,
    /// It has given up by itself.
    pub triggered: bool,
    /// When its watchdog began to wait.
    pub pinged: Tick,
    pub stopping_said: bool,
    pub stop: Option<Course>,
    pub exited: Option<Tick>,
    /// It has ended by itself, and as it should.
    pub success: bool,
    /// For what it leaves behind when it was not stopped.
    pub grace: Duration,
    /// Somebody said `--now` and nobody called it off.
    pub forced: bool,
    /// Somebody has said `--now`.
    pub may_force: bool,
    pub killed_at: Option<Tick>,
    /// Another superd has taken it over then.
    pub adopted_at: Option<Tick>,
    pub term_to_leftovers: bool,
    /// New connections are held back, and the sockets are not let go yet.
    pub held: bool,
    /// They have been at some time.
    pub was_held: bool,
    /// There are too many.
    pub limited: bool,
    /// It is so because somebody asked for just that.
    pub maintained: bool,
    pub actions: BTreeSet<ActionId>,
    /// Its checker, as it was asked last.
    pub check: Option<ActionId>,
    /// And a restart waits for what it says.
    pub check_restarts: bool,
    /// Which a file has made superd ask for, or another service.
    pub check_by_itself: bool,
    /// There is no order to fork yet: this is its `pre-start`, and how it went.
    pub prepares: Option<(ActionId, Option<bool>)>,
    /// The hooks that have been begun, besides the one that is a step.
    pub hooks: Vec<Kind>,
    /// Its definition has changed since its end began.
    pub redefined: bool,
    /// Of those that it is restarted with: how often each had begun when it was forked, or when
    /// that was last a reason to restart it.
    pub knows: BTreeMap<ServiceId, u64>,
    /// And when that was.
    pub knew_at: Tick,
    /// Instances of those that were taken over on their way: when one is up, that may be no news.
    pub excused: Vec<(ServiceId, Instance)>,
    /// When it was forked.
    pub began: Tick,
    /// They were a reason, and its stop may have been ordered and wait for others to go first.
    pub owed: bool,
}

impl Live {
    pub fn is_awaited(&self, sign: impl Fn(&Sign) -> bool) -> bool {
        self.awaits.as_ref().is_some_and(|r| sign(&r.sign))
    }

    pub fn is_ready(&self, now: Tick) -> bool {
        let Some(since) = self.execed else {
            return self.adopted_at.is_some();
        };
        let Some(ready) = &self.awaits else {
            return true;
        };
        match &ready.sign {
            Sign::Exit => false,
            Sign::After(time) => now >= since + *time,
            Sign::Probe(_) => self.met,
            // What was said while superd was away is lost.
            Sign::Notify | Sign::Descriptor(_) | Sign::Log(_) => {
                self.met || self.adopted_at.is_some()
            }
        }
    }
}

/// The times at which a oneshot is run by its timer: the beginning, and so often after it.
#[derive(Debug)]
pub struct Timer {
    pub began: Tick,
    pub every: Duration,
    /// How many of these times were over when a run began or ended last: they are done with.
    pub covered: u128,
    /// And when it had waited in vain for the world, or was given up.
    pub excused: u128,
}

impl Timer {
    pub fn new(now: Tick, every: Duration) -> Timer {
        Timer {
            began: now,
            every,
            covered: 0,
            excused: 0,
        }
    }

    /// How many of them are over.
    pub fn over(&self, now: Tick) -> u128 {
        (now - self.began).as_nanos() / self.every.as_nanos().max(1)
    }
}

/// The times of day at which a oneshot is run, by a wall clock in UTC.
#[derive(Debug)]
pub struct Daily {
    pub time: i64,
    /// All that was due is done with until then, in nanoseconds since the boot; none: the clock has
    /// never been read.
    pub covered: Option<u64>,
    /// And so is this one, when the clock shows it again.
    pub last: Option<i64>,
    /// What had come by then may be left out.
    pub excused: u64,
    /// It was due by the clock as it went at some time, and has not been run.
    pub owed: bool,
}

impl Daily {
    /// The last such time by now.
    pub fn latest(&self, now: Tick, clock: &Clock) -> i64 {
        let unix = seconds(clock, boot(clock, now));
        let day = 86_400;
        (unix - self.time).div_euclid(day) * day + self.time
    }

    pub fn is_due_since(&self, from: u64, now: Tick, clock: &Clock) -> bool {
        let latest = self.latest(now, clock);
        latest > seconds(clock, from) && Some(latest) != self.last
    }

    pub fn is_due(&self, now: Tick, clock: &Clock) -> bool {
        self.covered
            .is_some_and(|from| self.is_due_since(from, now, clock))
    }

    pub fn cover(&mut self, now: Tick, clock: &Clock) {
        let from = self.covered.map(|from| seconds(clock, from));
        let latest = self.latest(now, clock);
        if from.is_some_and(|from| latest > from) {
            self.last = Some(latest);
        }
        self.covered = Some(boot(clock, now));
        self.owed = false;
    }
}

pub fn boot(clock: &Clock, now: Tick) -> u64 {
    clock.boot + (now - clock.at).as_nanos() as u64
}

/// What the wall clock would have shown then.
pub fn seconds(clock: &Clock, boot: u64) -> i64 {
    (clock.unix + (boot as i64 - clock.boot as i64)).div_euclid(1_000_000_000)
}

/// What has become of the files of a service.
#[derive(Debug, Default)]
pub struct Edits {
    /// As the present instance knows them.
    pub known: Option<Vec<Print>>,
    pub now: Vec<Print>,
    /// When they began to differ, and when they were seen to change last.
    pub since: Option<(Tick, Tick)>,
}

impl Edits {
    pub fn is_changed(&self) -> bool {
        let known = self.known.iter().flatten();
        known.zip(&self.now).any(|(k, n)| *n != 0 && k != n)
    }

    pub fn seen(&mut self, now: Tick, prints: &[Print]) {
        let differs = self.now != prints;
        self.now = prints.to_vec();
        self.known.get_or_insert_with(|| prints.to_vec());
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = match (self.is_changed(), differs) {
            (false, _) => None,
            (true, false) => self.since.or(Some((now, now))),
            (true, true) => Some((first, now)),
        };
    }

    pub fn settle(&mut self) {
        self.since = None;
        for (known, now) in self.known.iter_mut().flatten().zip(&self.now) {
            if *now != 0 {
                *known = *now;
            }
        }
    }
}

/// A service as its operator sees it.
#[derive(Debug)]
pub struct Shadow {
    pub spec: Rc<Spec>,
    pub want: Want,
    pub gone: bool,
    /// It ended and its policy was not to start it again.
    pub given_up: bool,
    /// A oneshot that has ended with success.
    pub done: bool,
    /// The last run has.
    pub ended_well: bool,
    /// And was to stay down.
    pub stays: bool,
    /// In this wait: why it cannot be started, as it was told last.
    pub told: Option<String>,
    pub last: Instance,
    /// How many of its instances have been ready, or done.
    pub ups: u64,
    pub live: Option<Live>,
    pub timer: Option<Timer>,
    pub daily: Option<Daily>,
}

impl Shadow {
    /// A run begins or ends: what was to be run by now is done with.
    pub fn cover(&mut self, now: Tick, clock: Option<&Clock>) {
        if let (Some(daily), Some(clock)) = (&mut self.daily, clock) {
            daily.cover(now, clock);
        }
        if let Some(machine::timer::Timer::Every(every)) = self.spec.timer {
            let timer = self.timer.get_or_insert_with(|| Timer::new(now, every));
            timer.covered = timer.over(now);
        }
    }

    /// No run, but what counts as one.
    pub fn excuse(&mut self, now: Tick, clock: Option<&Clock>) {
        if let (Some(daily), Some(clock)) = (&mut self.daily, clock) {
            daily.excused = boot(clock, now);
        }
        if let Some(timer) = &mut self.timer {
            timer.excused = timer.over(now);
        }
    }
}
