//! The invariants (DESIGN 1 and 9), worked out a second time from the events and effects
//! alone. The machine is asked for nothing but the deadline of a stop.
//!
//! Longer than a file should be: it is one list of promises, read from top to bottom.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use superd::machine;
use superd::machine::event::{
    ActionId, Change, Check, Effect, Event, Instance, Notice, Outcome, Pid, ServiceId, Target,
    Ticket, Verb,
};
use superd::machine::files::{OnChange, Print, SETTLE, SETTLE_LONGEST};
use superd::machine::health::{Health, Remedy};
use superd::machine::hook::{Call, Kind};
use superd::machine::outlook::Then;
use superd::machine::ready::{Ready, Sign};
use superd::machine::report::{Exit, Happening, Origin};
use superd::machine::service::{Rest, State, Want, KILL_AGAIN};
use superd::machine::signal::Signal;
use superd::machine::spec::{Action, Drain, Policy, Reload, Schedule, Spec, Step, To, Until};
use superd::machine::supervisor::Supervisor;
use superd::machine::time::Tick;
use superd::machine::timer::Clock;

use crate::world::{Key, World};

/// A promise that was not kept.
#[derive(Debug)]
pub struct Broken {
    pub rule: &'static str,
    pub text: String,
}

type Ruling = Result<(), Broken>;

fn broken(rule: &'static str, text: impl Into<String>) -> Ruling {
    Err(Broken {
        rule,
        text: text.into(),
    })
}

pub fn require(holds: bool, rule: &'static str, text: impl FnOnce() -> String) -> Ruling {
    match holds {
        true => Ok(()),
        false => broken(rule, text()),
    }
}

/// A stop as the schedule allows it.
#[derive(Debug)]
struct Course {
    schedule: Rc<Schedule>,
    began: Tick,
    forced: bool,
    /// The step announced last.
    last: Option<usize>,
    step_at: Tick,
    cond_at: Option<Tick>,
    impossible: bool,
    /// The action of the step after `last` is out and not announced yet.
    acted: bool,
    action: Option<ActionId>,
    /// The hands were off the service during this step, because of a rival.
    held: bool,
    /// Actions that reached the service, or may have.
    reached: u32,
    rival: bool,
    rival_had_time: bool,
    term_to_tree: bool,
    /// It had no listening socket when the stop began.
    portless: bool,
    deadline: Option<Tick>,
}

impl Course {
    fn may_go_on(&self, now: Tick) -> bool {
        let Some(step) = self.last.and_then(|n| self.schedule.steps.get(n)) else {
            return true;
        };
        self.impossible
            || now >= self.step_at + step.wait
            || self.cond_at.is_some_and(|at| now >= at + step.settle)
    }

    fn is_at_hook(&self) -> bool {
        let step = self.last.and_then(|n| self.schedule.steps.get(n));
        step.is_some_and(Step::is_hook)
    }

    fn until(&self) -> Option<&Until> {
        self.schedule.steps.get(self.last?).map(|s| &s.until)
    }

    fn wait(&self) -> Duration {
        let step = self.last.and_then(|n| self.schedule.steps.get(n));
        step.map_or(Duration::ZERO, |s| s.wait)
    }
}

/// An instance that is not released.
#[derive(Debug)]
struct Live {
    instance: Instance,
    forked: bool,
    /// The main process, as far as it is told.
    main: Option<Pid>,
    execed: Option<Tick>,
    /// How it becomes ready.
    awaits: Option<Rc<Ready>>,
    /// It has said so, or a probe has found it.
    met: bool,
    /// It counts as up.
    up: bool,
    /// Questions that are out, and since when.
    probes: BTreeMap<ActionId, Tick>,
    /// Commands about its health.
    remedies: BTreeSet<ActionId>,
    /// Health checks in a row that have failed.
    failed: u32,
    /// So many have at some time been too many, and it is to stay down for that.
    stay: bool,
    /// It has given up by itself.
    triggered: bool,
    /// When its watchdog began to wait.
    pinged: Tick,
    stopping_said: bool,
    stop: Option<Course>,
    exited: Option<Tick>,
    /// It has ended by itself, and as it should.
    success: bool,
    /// For what it leaves behind when it was not stopped.
    grace: Duration,
    /// Somebody said `--now` and nobody called it off.
    forced: bool,
    /// Somebody has said `--now`.
    may_force: bool,
    killed_at: Option<Tick>,
    /// Another superd has taken it over then.
    adopted_at: Option<Tick>,
    term_to_leftovers: bool,
    /// New connections are held back, and the sockets are not let go yet.
    held: bool,
    /// They have been at some time.
    was_held: bool,
    /// There are too many.
    limited: bool,
    /// It is so because somebody asked for just that.
    maintained: bool,
    actions: BTreeSet<ActionId>,
    /// Its checker, as it was asked last.
    check: Option<ActionId>,
    /// And a restart waits for what it says.
    check_restarts: bool,
    /// Which a file has made superd ask for.
    check_by_file: bool,
    /// There is no order to fork yet: this is its `pre-start`, and how it went.
    prepares: Option<(ActionId, Option<bool>)>,
    /// The hooks that have been begun, besides the one that is a step.
    hooks: Vec<Kind>,
    /// Its definition has changed since its end began.
    redefined: bool,
}

impl Live {
    fn is_awaited(&self, sign: impl Fn(&Sign) -> bool) -> bool {
        self.awaits.as_ref().is_some_and(|r| sign(&r.sign))
    }

    fn is_ready(&self, now: Tick) -> bool {
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
struct Timer {
    began: Tick,
    every: Duration,
    /// How many of these times were over when a run began or ended last: they are done with.
    covered: u128,
    /// And when it had waited in vain for the world, or was given up.
    excused: u128,
}

impl Timer {
    fn new(now: Tick, every: Duration) -> Timer {
        Timer {
            began: now,
            every,
            covered: 0,
            excused: 0,
        }
    }

    /// How many of them are over.
    fn over(&self, now: Tick) -> u128 {
        (now - self.began).as_nanos() / self.every.as_nanos().max(1)
    }
}

/// The times of day at which a oneshot is run, by a wall clock in UTC.
#[derive(Debug)]
struct Daily {
    time: i64,
    /// All that was due is done with until then, in nanoseconds since the boot; none: the clock has
    /// never been read.
    covered: Option<u64>,
    /// And so is this one, when the clock shows it again.
    last: Option<i64>,
    /// What had come by then may be left out.
    excused: u64,
    /// It was due by the clock as it went at some time, and has not been run.
    owed: bool,
}

impl Daily {
    /// The last such time by now.
    fn latest(&self, now: Tick, clock: &Clock) -> i64 {
        let unix = seconds(clock, boot(clock, now));
        let day = 86_400;
        (unix - self.time).div_euclid(day) * day + self.time
    }

    fn is_due_since(&self, from: u64, now: Tick, clock: &Clock) -> bool {
        let latest = self.latest(now, clock);
        latest > seconds(clock, from) && Some(latest) != self.last
    }

    fn is_due(&self, now: Tick, clock: &Clock) -> bool {
        self.covered
            .is_some_and(|from| self.is_due_since(from, now, clock))
    }

    fn cover(&mut self, now: Tick, clock: &Clock) {
        let from = self.covered.map(|from| seconds(clock, from));
        let latest = self.latest(now, clock);
        if from.is_some_and(|from| latest > from) {
            self.last = Some(latest);
        }
        self.covered = Some(boot(clock, now));
        self.owed = false;
    }
}

fn boot(clock: &Clock, now: Tick) -> u64 {
    clock.boot + (now - clock.at).as_nanos() as u64
}

/// What the wall clock would have shown then.
fn seconds(clock: &Clock, boot: u64) -> i64 {
    (clock.unix + (boot as i64 - clock.boot as i64)).div_euclid(1_000_000_000)
}

/// What has become of the files of a service.
#[derive(Debug, Default)]
struct Edits {
    /// As the present instance knows them.
    known: Option<Vec<Print>>,
    now: Vec<Print>,
    /// When they began to differ, and when they were seen to change last.
    since: Option<(Tick, Tick)>,
}

impl Edits {
    fn is_changed(&self) -> bool {
        let known = self.known.iter().flatten();
        known.zip(&self.now).any(|(k, n)| *n != 0 && k != n)
    }

    fn seen(&mut self, now: Tick, prints: &[Print]) {
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

    fn settle(&mut self) {
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
    given_up: bool,
    /// A oneshot that has ended with success.
    done: bool,
    /// The last run has.
    ended_well: bool,
    /// And was to stay down.
    stays: bool,
    last: Instance,
    live: Option<Live>,
    timer: Option<Timer>,
    daily: Option<Daily>,
}

impl Shadow {
    /// A run begins or ends: what was to be run by now is done with.
    fn cover(&mut self, now: Tick, clock: Option<&Clock>) {
        if let (Some(daily), Some(clock)) = (&mut self.daily, clock) {
            daily.cover(now, clock);
        }
        if let Some(machine::timer::Timer::Every(every)) = self.spec.timer {
            let timer = self.timer.get_or_insert_with(|| Timer::new(now, every));
            timer.covered = timer.over(now);
        }
    }

    /// No run, but what counts as one.
    fn excuse(&mut self, now: Tick, clock: Option<&Clock>) {
        if let (Some(daily), Some(clock)) = (&mut self.daily, clock) {
            daily.excused = boot(clock, now);
        }
        if let Some(timer) = &mut self.timer {
            timer.excused = timer.over(now);
        }
    }
}

#[derive(Debug, Default)]
pub struct Judge {
    pub services: BTreeMap<ServiceId, Shadow>,
    pub shutdown: bool,
    pub forced: bool,
    pub finished: bool,
    pub pending: BTreeMap<Ticket, String>,
    /// The order of starts, which is the order of a request about all.
    pub line: Vec<ServiceId>,
    /// Those that are up, and not about to go: to start one of them changes nothing.
    pub up: BTreeSet<ServiceId>,
    /// Those that are down until their timers start them.
    pub timed: BTreeSet<ServiceId>,
    /// As it was read last.
    clock: Option<Rc<Clock>>,
    asked: Option<(Target, Verb)>,
    /// Restarts asked for in this step that a checker may have to allow.
    undecided: Vec<ServiceId>,
    /// Whose checker has just been happy.
    passed: Option<Key>,
    /// When superd became another program last.
    pub became: Option<Tick>,
    actions: BTreeSet<ActionId>,
    /// A superd takes over from another one: it knows what that one knew.
    pub succeeds: bool,
    /// The files of services, where they are looked after.
    files: BTreeMap<ServiceId, Edits>,
    /// What is done is done because of a file.
    by_file: bool,
    /// Who waits for the world, and since when.
    outlooks: BTreeMap<ServiceId, Tick>,
    pub spawns: u64,
    pub stops: u64,
    pub replies: u64,
}

impl Judge {
    /// Wanted, and so is everything it requires.
    pub fn target(&self, id: ServiceId) -> bool {
        let Some(s) = self.services.get(&id) else {
            return false;
        };
        !self.shutdown
            && !s.gone
            && s.want == Want::Up
            && s.spec.requires.iter().all(|dep| self.can_be_used(*dep))
    }

    fn can_be_used(&self, id: ServiceId) -> bool {
        self.target(id) && self.services.get(&id).is_some_and(|s| !s.given_up)
    }

    /// Started, and all that it takes along; what conflicts with one of them stops.
    fn want_up(&mut self, id: ServiceId) {
        let mut all = BTreeSet::new();
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            let Some(s) = self.services.get_mut(&id).filter(|s| !s.gone) else {
                continue;
            };
            if !all.insert(id) {
                continue;
            }
            s.want = Want::Up;
            s.given_up = false;
            if let Some(live) = s.live.as_mut().filter(|l| l.stop.is_none()) {
                live.forced = false;
            }
            todo.extend(s.spec.requires.iter().chain(&s.spec.wants));
        }
        let rivals: Vec<ServiceId> = all.iter().flat_map(|id| self.rivals(*id)).collect();
        for rival in rivals {
            if !all.contains(&rival) {
                self.stop(rival);
            }
        }
    }

    fn stop(&mut self, id: ServiceId) {
        if let Some(s) = self.services.get_mut(&id) {
            s.want = Want::Down;
            s.given_up = false;
            s.done = false;
        }
    }

    /// Those that never run together with it.
    fn rivals(&self, id: ServiceId) -> Vec<ServiceId> {
        let names = |a: ServiceId, b: &ServiceId| {
            let a = self.services.get(&a);
            a.is_some_and(|s| s.spec.conflicts.contains(b))
        };
        let all = self.services.keys().copied();
        all.filter(|other| *other != id && (names(id, other) || names(*other, &id)))
            .collect()
    }

    // ---- events ------------------------------------------------------------

    pub fn hear(&mut self, now: Tick, event: &Event) {
        self.decide();
        self.asked = None;
        self.passed = None;
        self.by_file = false;
        if !matches!(event, Event::Configure { .. }) {
            self.succeeds = matches!(event, Event::Adopt(_));
        }
        match event {
            Event::Files(id, prints) => {
                if let Some(edits) = self.files.get_mut(id) {
                    edits.seen(now, prints);
                }
            }
            Event::Adopt(adopted) => {
                let live = self.services.get_mut(&adopted.service);
                if let Some(live) = live.and_then(|s| s.live.as_mut()) {
                    live.adopted_at = Some(now);
                    // They are asked again; and what was run about its health is ended.
                    live.probes.clear();
                    for remedy in std::mem::take(&mut live.remedies) {
                        live.actions.remove(&remedy);
                    }
                    live.failed = 0;
                    live.pinged = now;
                }
            }
            Event::Configure { changed, gone, .. } => {
                for (id, spec, change) in changed {
                    self.define(now, *id, spec, *change);
                }
                for id in gone {
                    if let Some(s) = self.services.get_mut(id) {
                        s.gone = true;
                        s.want = Want::Down;
                    }
                }
            }
            Event::Request {
                ticket,
                target,
                verb,
                ..
            } => {
                if let Some(ticket) = ticket {
                    let what = format!("{verb:?} of {target:?}");
                    self.pending.insert(*ticket, what);
                }
                self.asked = Some((*target, *verb));
                let ids: Vec<ServiceId> = match target {
                    Target::One(id) => vec![*id],
                    Target::All => self.line.clone(),
                };
                for id in ids {
                    match target {
                        Target::One(_) => self.wish(id, *verb),
                        Target::All if self.is_an_alternative(id, *verb) => {}
                        Target::All if self.is_left_to_its_timer(now, id, *verb) => {}
                        Target::All => self.wish(id, *verb),
                    }
                }
            }
            Event::ClientGone(client) => self.pending.retain(|t, _| t.client != *client),
            Event::Shutdown { force, .. } => {
                self.shutdown = true;
                if *force {
                    self.force_all();
                }
            }
            Event::Spawned(s, i, pid) => self.with(*s, *i, |l| {
                l.forked = true;
                l.main = Some(*pid);
            }),
            Event::Notified(s, i, Notice::Watchdog) => self.with(*s, *i, |l| l.pinged = now),
            Event::Notified(s, i, Notice::WatchdogTrigger) => {
                self.with(*s, *i, |l| l.triggered = true);
            }
            Event::Notified(s, i, Notice::MainPid(pid)) => {
                self.with(*s, *i, |l| l.main = l.main.and(Some(*pid)));
            }
            Event::Execed(s, i) => self.with(*s, *i, |l| l.execed = Some(now)),
            Event::Notified(s, i, Notice::Ready) => self.with(*s, *i, |l| {
                l.met |= l.is_awaited(|s| matches!(s, Sign::Notify | Sign::Descriptor(_)));
            }),
            Event::Exited {
                service,
                instance,
                exit,
                crash,
                ..
            } => {
                let success = matches!(exit, Exit::Code(0 | 3)) && crash.is_none();
                let grace = self
                    .services
                    .get(service)
                    .map(|s| s.spec.stop.leftover_grace);
                self.with(*service, *instance, |l| {
                    l.exited = Some(now);
                    l.success = success && l.stop.is_none();
                    l.main = None;
                    l.grace = grace.unwrap_or_default();
                });
            }
            Event::Notified(s, i, Notice::Stopping) => self.with(*s, *i, |l| {
                l.stopping_said = true;
                if let Some(stop) = &mut l.stop {
                    stop.rival |= stop.reached == 0;
                    // What could not be done is waited for instead of passed over.
                    let waits = !stop.is_at_hook();
                    stop.held |= stop.impossible && stop.rival && !stop.rival_had_time && waits;
                }
                Self::condition(l, now, |u| *u == Until::Stopping);
            }),
            Event::PortsNoted(s, i, n) => self.with(*s, *i, |l| {
                if let Some(stop) = &mut l.stop {
                    stop.portless = *n == 0;
                }
            }),
            Event::Checked(s, i, check, found) if found.0 == 0 => self.with(*s, *i, |l| {
                Self::condition(l, now, |u| match check {
                    Check::Ports => *u == Until::PortsClosed,
                    Check::Descendants => *u == Until::DescendantsGone,
                    Check::Notify | Check::Tree | Check::Commands => false,
                });
            }),
            Event::OutputMatched(s, i) => self.with(*s, *i, |l| {
                l.met |= l.is_awaited(|s| matches!(s, Sign::Log(_)));
                Self::condition(l, now, |u| matches!(u, Until::Log(_)));
            }),
            Event::ActionEnded(s, i, action, outcome) => {
                let happy = *outcome == Outcome::Done;
                let (mut passed, mut restarts, mut by_file) = (false, false, false);
                self.with(*s, *i, |l| {
                    let open = l.actions.contains(action);
                    passed = happy && open && l.check == Some(*action);
                    restarts = passed && l.check_restarts && l.stop.is_none();
                    by_file = l.check_by_file;
                });
                self.passed = passed.then_some((*s, *i));
                self.with(*s, *i, |l| Self::action_ended(l, *action, outcome, now));
                // Who has asked for something else meanwhile has the last word.
                if restarts && !by_file && self.target(*s) {
                    self.want_up(*s);
                }
            }
            Event::NotSpawned(..)
            | Event::ExecFailed(..)
            | Event::Checked(..)
            | Event::Notified(..)
            | Event::Looked(..)
            | Event::Connections(..)
            | Event::World(..)
            | Event::OrphanReaped => {}
            Event::Clock(clock) => self.set_clock(now, clock),
        }
    }

    fn define(&mut self, now: Tick, id: ServiceId, spec: &Rc<Spec>, change: Change) {
        let first = match spec.autostart {
            true => Want::Up,
            false => Want::Down,
        };
        let s = self.services.entry(id).or_insert_with(|| Shadow {
            spec: spec.clone(),
            want: first,
            gone: false,
            given_up: false,
            done: false,
            ended_well: false,
            stays: false,
            last: Instance(0),
            live: None,
            timer: None,
            daily: None,
        });
        let is_new = s.timer.is_none() && s.daily.is_none();
        if s.spec.timer != spec.timer || is_new {
            s.timer = None;
            s.daily = None;
            match spec.timer {
                None => {}
                Some(machine::timer::Timer::Every(every)) => {
                    s.timer = Some(Timer::new(now, every));
                }
                Some(machine::timer::Timer::At(time)) => {
                    // It begins when the clock is read, in the same turn.
                    s.daily = Some(Daily {
                        time: i64::from(time),
                        covered: None,
                        last: None,
                        excused: 0,
                        owed: false,
                    });
                }
            }
        }
        let watched = |s: &Spec| (s.health.clone(), s.watchdog);
        if watched(&s.spec) != watched(spec) {
            if let Some(live) = &mut s.live {
                live.failed = 0;
                live.pinged = now;
                live.triggered = false;
            }
        }
        if let Some(live) = &mut s.live {
            live.redefined |= live.exited.is_some() || !live.forked;
        }
        s.spec = spec.clone();
        s.given_up &= change == Change::Policy;
        s.done &= change == Change::Policy;
        if std::mem::take(&mut s.gone) {
            s.want = first;
            if let (Want::Up, Some(live)) = (first, &mut s.live) {
                live.forced &= live.stop.is_some();
            }
        }
    }

    /// Not meant by a start of everything.
    fn is_an_alternative(&self, id: ServiceId, verb: Verb) -> bool {
        let starts = matches!(verb, Verb::Start | Verb::Restart | Verb::RestartNow);
        let rivals = self.rivals(id);
        let wanted = |r: &ServiceId| self.services.get(r).is_some_and(|r| r.want == Want::Up);
        let chosen = rivals.iter().any(wanted);
        let rests = |s: &Shadow| s.live.is_none() && (!s.spec.autostart || chosen);
        starts && !rivals.is_empty() && self.services.get(&id).is_some_and(rests)
    }

    /// A start of everything does not run it, and has its time of day come into force again.
    fn is_left_to_its_timer(&mut self, now: Tick, id: ServiceId, verb: Verb) -> bool {
        let starts = matches!(verb, Verb::Start | Verb::Restart | Verb::RestartNow);
        let Some(s) = self.services.get_mut(&id).filter(|s| !s.gone) else {
            return false;
        };
        if !starts || self.shutdown {
            return false;
        }
        if s.want == Want::Down && s.daily.is_some() && s.live.is_none() {
            s.want = Want::Up;
            s.given_up = false;
            s.cover(now, self.clock.as_deref());
            return true;
        }
        self.timed.contains(&id)
    }

    /// The wall clock was read: what was due by it as it went before is still owed.
    fn set_clock(&mut self, now: Tick, clock: &Rc<Clock>) {
        let before = self.clock.replace(clock.clone());
        for s in self.services.values_mut() {
            let Some(daily) = &mut s.daily else { continue };
            if daily.covered.is_none() {
                daily.cover(now, clock);
            }
            let due = |clock: &Rc<Clock>| daily.is_due(now, clock);
            daily.owed |= before.iter().any(due) || due(clock);
        }
    }

    fn wish(&mut self, id: ServiceId, verb: Verb) {
        let open = !self.shutdown && self.services.get(&id).is_some_and(|s| !s.gone);
        match verb {
            Verb::Start if open => {
                let wanted = |s: &Shadow| s.want == Want::Up;
                if !(self.up.contains(&id) && self.services.get(&id).is_some_and(wanted)) {
                    self.want_up(id);
                }
            }
            // Until its checker is happy, nothing has been said.
            Verb::Restart if open && self.may_be_checked(id) => self.undecided.push(id),
            Verb::Restart if open => self.want_up(id),
            Verb::RestartNow if open => {
                self.want_up(id);
                self.force(id);
            }
            Verb::Stop | Verb::StopNow => {
                self.stop(id);
                if verb == Verb::StopNow {
                    self.force(id);
                }
            }
            Verb::Start
            | Verb::Restart
            | Verb::RestartNow
            | Verb::Reload
            | Verb::Signal(_)
            | Verb::Drain
            | Verb::Undrain => {}
        }
    }

    fn may_be_checked(&self, id: ServiceId) -> bool {
        let Some(s) = self.services.get(&id) else {
            return false;
        };
        let well = |l: &Live| l.up && l.stop.is_none() && l.exited.is_none();
        s.spec.check.is_some() && s.want == Want::Up && s.live.as_ref().is_some_and(well)
    }

    /// Restarts that no checker was asked about are as good as said.
    fn decide(&mut self) {
        for id in std::mem::take(&mut self.undecided) {
            let waits = |l: &Live| {
                l.check
                    .is_some_and(|c| l.check_restarts && l.actions.contains(&c))
            };
            let live = self.services.get(&id).and_then(|s| s.live.as_ref());
            if !live.is_some_and(waits) {
                self.want_up(id);
            }
        }
    }

    fn force(&mut self, id: ServiceId) {
        if let Some(live) = self.services.get_mut(&id).and_then(|s| s.live.as_mut()) {
            live.forced = true;
            live.may_force = true;
        }
    }

    pub fn force_all(&mut self) {
        self.forced = true;
        for id in self.services.keys().copied().collect::<Vec<_>>() {
            self.force(id);
        }
    }

    fn with(&mut self, id: ServiceId, instance: Instance, f: impl FnOnce(&mut Live)) {
        let live = self.services.get_mut(&id).and_then(|s| s.live.as_mut());
        if let Some(live) = live.filter(|l| l.instance == instance) {
            f(live);
        }
    }

    fn condition(live: &mut Live, now: Tick, wanted: impl Fn(&Until) -> bool) {
        if let Some(stop) = &mut live.stop {
            let never = stop.portless && stop.until() == Some(&Until::PortsClosed);
            if !never && stop.until().is_some_and(wanted) {
                stop.cond_at.get_or_insert(now);
            }
        }
    }

    fn action_ended(live: &mut Live, action: ActionId, outcome: &Outcome, now: Tick) {
        let is_open = live.actions.remove(&action);
        if let Some((hook, how)) = live.prepares.as_mut().filter(|_| is_open) {
            if *hook == action {
                *how = Some(*outcome == Outcome::Done);
            }
        }
        if live.probes.remove(&action).is_some() {
            let done = *outcome == Outcome::Done;
            live.met |= done && !live.up;
            live.failed = match done {
                true => 0,
                false => live.failed + 1,
            };
        }
        let Some(stop) = live.stop.as_mut().filter(|s| s.action == Some(action)) else {
            return;
        };
        stop.action = None;
        match outcome {
            Outcome::Impossible(_) => {
                stop.impossible = true;
                let step = stop.last.and_then(|n| stop.schedule.steps.get(n));
                if step.is_some_and(|s| !matches!(s.action, Action::Drain(_) | Action::Hook(_))) {
                    stop.reached = stop.reached.saturating_sub(1);
                }
                // It stops, and nothing of ours has reached it: a rival.
                let waits = step.is_none_or(|s| !s.is_hook());
                stop.rival |= live.stopping_said && stop.reached == 0;
                stop.held |= stop.rival && !stop.rival_had_time && waits;
            }
            Outcome::Done | Outcome::Unhappy(_) => {
                let done = *outcome == Outcome::Done;
                Self::condition(live, now, |u| {
                    *u == Until::ActionEnded || (*u == Until::NoConnections && done)
                });
            }
        }
    }

    // ---- effects -----------------------------------------------------------

    pub fn rule(&mut self, now: Tick, effect: &Effect, world: &World) -> Ruling {
        require(!self.finished, "nothing after Finish", || {
            format!("{effect:?}")
        })?;
        match effect {
            Effect::Spawn(s, i) if self.is_prepared(*s, *i) => {
                let ready = self.services.get(s).and_then(|s| s.spec.ready.clone());
                self.knows_nothing(*s);
                let left = world.of_hooks(*s);
                let happy = |l: &Live| matches!(l.prepares, Some((_, Some(true))));
                let live = self.live(*s, *i)?;
                let ok = happy(live) && live.stop.is_none();
                live.awaits = ready;
                live.prepares = None;
                require(ok, "started when its pre-start is happy", || {
                    format!("{s:?}")
                })?;
                require(self.target(*s), "never without being wanted", || {
                    format!("{s:?}")
                })?;
                require(left == 0, "nothing is left of pre-start", || {
                    format!("{s:?}: {left}")
                })
            }
            Effect::Spawn(s, i) => {
                self.knows_nothing(*s);
                self.begin(now, *s, *i, world)?;
                let spec = self.services.get(s).and_then(|s| s.spec.hooks.clone());
                let due = spec.is_some_and(|h| h.pre_start.is_some());
                require(!due, "pre-start comes before the start", || {
                    format!("{s:?}")
                })
            }
            Effect::Hook(s, i, a, call) if call.kind == Kind::PreStop => {
                self.action(now, *s, *i, *a, &Action::Hook(call.argv.clone()))
            }
            Effect::Hook(s, i, a, call) => self.hook(now, (*s, *i), *a, call, world),
            Effect::Signal(s, i, signal, to) => self.signal(now, *s, *i, *signal, *to),
            Effect::Wake(s, i, _) => {
                let live = self.live(*s, *i)?;
                let asked = live.stop.is_some() || live.exited.is_some();
                require(asked, "only who was asked to end is woken", || {
                    format!("{s:?}")
                })
            }
            Effect::KillTree(s, i) => self.kill(now, *s, *i),
            Effect::Run(s, i, a, x) => self.action(now, *s, *i, *a, &Action::Run(x.clone())),
            Effect::Verify(s, i, a, x) => self.verify((*s, *i), *a, x),
            Effect::Http(s, i, a, x) => self.action(now, *s, *i, *a, &Action::Http(x.clone())),
            Effect::Probe(s, i, a, _) => self.probe(now, *s, *i, *a),
            Effect::Drain(s, i, a, x) => self.drain(now, (*s, *i), *a, x),
            Effect::LetGo(s, i) => self.let_go(now, *s, *i, world),
            Effect::Limit(s, i, _) => {
                let live = self.live(*s, *i)?;
                let ok = !live.limited && live.stop.is_none();
                live.limited = true;
                live.was_held = true;
                require(ok, "a limit holds back once", || format!("{s:?}"))
            }
            Effect::Watch(s, i, _) => self.live(*s, *i).map(|_| ()),
            Effect::EndAction(s, i, a) => {
                let live = self.live(*s, *i)?;
                let probe = live.probes.remove(a).is_some();
                live.failed += u32::from(probe && live.up);
                let open = live.actions.remove(a) || probe;
                require(open, "an action ends once", || format!("{a:?} of {s:?}"))
            }
            Effect::NotePorts(s, i)
            | Effect::WatchOutput(s, i, _)
            | Effect::Check(s, i, _)
            | Effect::Look(s, i) => self.live(*s, *i).map(|_| ()),
            Effect::NoteFile(s, i, _) => {
                let is_new = self.services.get(s).is_some_and(|s| *i > s.last);
                let is_early = is_new || self.is_prepared(*s, *i);
                require(is_early, "a file is noted before the start", || {
                    format!("{s:?}")
                })
            }
            Effect::LookOut(s, Some(_)) => {
                self.outlooks.entry(*s).or_insert(now);
                let at_rest = self.services.get(s).is_some_and(|s| s.live.is_none());
                require(at_rest, "only who does not run looks out", || {
                    format!("{s:?}")
                })
            }
            Effect::LookOut(s, None) => {
                self.outlooks.remove(s);
                if let Some(s) = self.services.get_mut(s) {
                    s.excuse(now, self.clock.as_deref());
                }
                Ok(())
            }
            Effect::WatchClock(_) | Effect::ReadClock => Ok(()),
            Effect::WatchFiles(s, Some(_)) => {
                let edits = self.files.entry(*s).or_default();
                if !self.succeeds {
                    *edits = Edits::default();
                }
                edits.since = None;
                Ok(())
            }
            Effect::WatchFiles(s, None) => {
                let was = self.files.remove(s).is_some();
                require(was, "files are let alone once", || format!("{s:?}"))
            }
            Effect::Release(s, i) => self.release(now, *s, *i, world),
            Effect::Forget(s) => {
                let at_rest = |s: Shadow| s.gone && s.live.is_none();
                self.files.remove(s);
                let ok = self.services.remove(s).is_some_and(at_rest);
                require(ok, "only a gone service at rest is forgotten", || {
                    format!("{s:?}")
                })
            }
            Effect::Reply(ticket, answer) => {
                self.replies += 1;
                let known = self.pending.remove(ticket).is_some();
                require(known, "one reply for each request", || {
                    format!("{ticket:?}: {answer:?}")
                })
            }
            Effect::Publish(s, what) => self.publish(now, *s, what),
            Effect::Finish => {
                self.finished = true;
                let busy = self.services.values().any(|s| s.live.is_some());
                require(
                    self.shutdown && !busy,
                    "Finish when asked and nothing runs",
                    String::new,
                )
            }
        }
    }

    fn live(&mut self, id: ServiceId, instance: Instance) -> Result<&mut Live, Broken> {
        let live = self.services.get_mut(&id).and_then(|s| s.live.as_mut());
        live.filter(|l| l.instance == instance)
            .ok_or_else(|| Broken {
                rule: "nothing is done to an instance that is not there",
                text: format!("{id:?} {instance:?}"),
            })
    }

    fn missing_before(&self, id: ServiceId) -> Vec<ServiceId> {
        let Some(s) = self.services.get(&id) else {
            return Vec::new();
        };
        let live = |dep: &ServiceId| self.services.get(dep).and_then(|d| d.live.as_ref());
        let untouched = |l: &Live| l.stop.is_none() && l.exited.is_none();
        let up = |l: &Live| l.up && untouched(l);
        let on_its_way = |l: &Live| !l.up && untouched(l);
        let done = |d: &ServiceId| self.services.get(d).is_some_and(|s| s.done);
        let lacks = |d: &&ServiceId| !done(d) && !live(d).is_some_and(up);
        let required = s.spec.requires.iter().filter(lacks);
        let late = |d: &&ServiceId| self.target(**d) && live(d).is_some_and(on_its_way);
        required
            .chain(s.spec.after.iter().chain(&s.spec.wants).filter(late))
            .copied()
            .collect()
    }

    /// What it waits for is there, or it has waited long enough.
    fn world_allows(&self, now: Tick, id: ServiceId, world: &World) -> Ruling {
        let wait_for = self
            .services
            .get(&id)
            .and_then(|s| s.spec.wait_for.as_ref());
        let Some(wait_for) = wait_for else {
            return Ok(());
        };
        let told = world.outlooks.get(&id).map(|(_, missing)| missing);
        let is_there = told.is_some_and(Vec::is_empty);
        let since = self.outlooks.get(&id);
        let is_over = wait_for.then == Then::Start
            && since.is_some_and(|at| wait_for.timeout.is_some_and(|t| now >= *at + t));
        require(
            is_there || is_over,
            "never while something is missing",
            || format!("{id:?}: {told:?} since {since:?}"),
        )
    }

    /// An instance begins, with a fork or with `pre-start`.
    fn begin(&mut self, now: Tick, id: ServiceId, i: Instance, world: &World) -> Ruling {
        self.decide();
        self.world_allows(now, id, world)?;
        self.spawn(now, id, i, world)
    }

    fn is_prepared(&self, id: ServiceId, instance: Instance) -> bool {
        let live = self.services.get(&id).and_then(|s| s.live.as_ref());
        live.is_some_and(|l| l.instance == instance && l.prepares.is_some())
    }

    fn hook(&mut self, now: Tick, key: Key, a: ActionId, call: &Call, world: &World) -> Ruling {
        let kind = call.kind;
        let text = || format!("{kind} of {key:?}");
        require(self.actions.insert(a), "actions have new numbers", text)?;
        if kind == Kind::PreStart {
            self.begin(now, key.0, key.1, world)?;
        }
        let hooks = self.services.get(&key.0).and_then(|s| s.spec.hooks.clone());
        let hook = hooks.as_ref().and_then(|h| match kind {
            Kind::PreStart => h.pre_start.as_ref(),
            Kind::PostStart => h.post_start.as_ref(),
            Kind::OnCrash => h.on_crash.as_ref(),
            Kind::PostStop => h.post_stop.as_ref(),
            Kind::PreStop => None,
        });
        require(
            hook.is_some_and(|h| h.argv == call.argv),
            "a hook is configured",
            text,
        )?;
        let left = world.children.get(&key).map_or(0, |c| c.tree());
        let others = world.of_hooks(key.0);
        let live = self.live(key.0, key.1)?;
        require(!live.hooks.contains(&kind), "each hook once", text)?;
        let fit = match kind {
            Kind::PreStart => {
                live.prepares = Some((a, None));
                true
            }
            Kind::PostStart => live.up && live.stop.is_none() && live.exited.is_none(),
            Kind::OnCrash => live.exited.is_some() && !live.hooks.contains(&Kind::PostStop),
            Kind::PostStop => live.exited.is_some() || !live.forked,
            Kind::PreStop => false,
        };
        live.hooks.push(kind);
        live.actions.insert(a);
        require(fit, "a hook has its time", text)?;
        let alone = kind == Kind::PostStart || (left == 0 && others == 0);
        require(alone, "a hook has no company", || {
            format!("{kind} of {key:?}: {left} and {others}")
        })
    }

    fn spawn(&mut self, now: Tick, id: ServiceId, instance: Instance, world: &World) -> Ruling {
        self.spawns += 1;
        let wanted = self.target(id);
        let missing = self.missing_before(id);
        let own = world.children.iter().filter(|((s, _), _)| *s == id);
        let before: u32 = own.map(|(_, child)| child.tree()).sum();
        require(before == 0, "never two", || {
            format!("{before} processes of {id:?} are left")
        })?;
        require(wanted, "never without being wanted", || {
            format!("{id:?} {instance:?}")
        })?;
        require(missing.is_empty(), "start order", || {
            format!("{id:?} before {missing:?}")
        })?;
        let rivals = self.rivals(id);
        let runs = |r: &ServiceId| self.services.get(r).is_some_and(|s| s.live.is_some());
        require(!rivals.iter().any(runs), "never two that conflict", || {
            format!("{id:?} with {rivals:?}")
        })?;
        let Some(s) = self.services.get_mut(&id) else {
            return broken("never without being wanted", format!("{id:?}"));
        };
        s.done = false;
        s.given_up = false;
        if s.last == Instance(0) {
            s.timer = None;
        }
        s.cover(now, self.clock.as_deref());
        require(s.live.is_none(), "never two", || {
            format!("{instance:?} of {id:?} before the one before was released")
        })?;
        require(instance > s.last, "instances count up", || {
            format!("{instance:?}")
        })?;
        s.last = instance;
        s.live = Some(Live {
            instance,
            forked: false,
            main: None,
            execed: None,
            awaits: s.spec.ready.clone(),
            met: false,
            up: false,
            probes: BTreeMap::new(),
            remedies: BTreeSet::new(),
            failed: 0,
            stay: false,
            triggered: false,
            pinged: Tick(0),
            stopping_said: false,
            stop: None,
            exited: None,
            success: false,
            grace: Duration::ZERO,
            forced: false,
            may_force: false,
            killed_at: None,
            adopted_at: None,
            term_to_leftovers: false,
            held: false,
            was_held: false,
            limited: false,
            maintained: false,
            actions: BTreeSet::new(),
            check: None,
            check_restarts: false,
            check_by_file: false,
            prepares: None,
            hooks: Vec::new(),
            redefined: false,
        });
        Ok(())
    }

    fn signal(&mut self, now: Tick, id: ServiceId, i: Instance, signal: Signal, to: To) -> Ruling {
        let asked = self.asked;
        let may_reload = self.may_reload(id, i);
        let reload = self.services.get(&id).and_then(|s| s.spec.reload.clone());
        let live = self.live(id, i)?;
        require(
            live.forked,
            "no signal to a process that is not there",
            || format!("{id:?}"),
        )?;
        if live.exited.is_some() {
            let had_it = live.stop.as_ref().is_some_and(|s| s.term_to_tree);
            let first = !live.term_to_leftovers && live.killed_at.is_none() && !had_it;
            live.term_to_leftovers = true;
            let ok = first && (signal, to) == (Signal::TERM, To::Tree);
            return require(ok, "leftovers get one TERM", || {
                format!("{id:?} {signal} to {to}")
            });
        }
        let by_hand = match asked {
            Some((_, Verb::Signal(wanted))) => {
                let harmless = live.stop.is_none() || !signal.ends_or_stops_a_process();
                wanted == signal && to == To::Main && harmless
            }
            _ => may_reload && live.stop.is_none() && reload == Some(Reload::Signal(signal)),
        };
        match by_hand {
            true => {
                if may_reload && reload == Some(Reload::Signal(signal)) {
                    self.reads_files(id);
                }
                Ok(())
            }
            false => self.step(now, id, i, &Action::Signal(signal, to)),
        }
    }

    /// Whether this is a moment for a reload: somebody has asked for it, and the checker, if
    /// there is one, is happy.
    fn may_reload(&self, id: ServiceId, i: Instance) -> bool {
        let is_checked = |s: &Shadow| s.spec.check.is_some();
        let asked = matches!(self.asked, Some((_, Verb::Reload)));
        let unchecked = asked && !self.services.get(&id).is_some_and(is_checked);
        unchecked || self.passed == Some((id, i))
    }

    /// A checker is asked when somebody wants a reload or a restart of what is well.
    fn verify(&mut self, key: Key, a: ActionId, argv: &Rc<[String]>) -> Ruling {
        let fresh = self.actions.insert(a);
        let asked = matches!(self.asked, Some((_, Verb::Reload | Verb::Restart)));
        let restarts = matches!(self.asked, Some((_, Verb::Restart)));
        let by_file = self.by_file;
        let check = self.services.get(&key.0).and_then(|s| s.spec.check.clone());
        let live = self.live(key.0, key.1)?;
        let idle = live.check.is_none_or(|c| !live.actions.contains(&c));
        let well = live.up && live.stop.is_none() && live.exited.is_none();
        live.actions.insert(a);
        live.check = Some(a);
        live.check_restarts = restarts;
        live.check_by_file = by_file;
        if restarts {
            self.undecided.retain(|id| *id != key.0);
        }
        let ok = fresh && asked && idle && well && check.is_some_and(|c| c.argv == *argv);
        require(ok, "a checker is asked once, of what is up", || {
            format!("{key:?}")
        })
    }

    /// A drain is a step like others, but for one thing: the next superd begins it again.
    fn drain(&mut self, now: Tick, key: Key, a: ActionId, what: &Rc<Drain>) -> Ruling {
        let asked = self.asked;
        let became = self.became;
        let fresh = !self.actions.contains(&a);
        let live = self.live(key.0, key.1)?;
        live.held = true;
        live.was_held = true;
        live.maintained |= live.stop.is_none() && matches!(asked, Some((_, Verb::Drain)));
        let is_open = live.actions.contains(&a);
        let again = live.adopted_at == Some(now) || became == Some(now);
        if again && (is_open || (live.maintained && live.stop.is_none())) {
            live.actions.insert(a);
            self.actions.insert(a);
            return Ok(());
        }
        if live.stop.is_none() {
            live.actions.insert(a);
            self.actions.insert(a);
            let asked = matches!(asked, Some((_, Verb::Drain)));
            return require(asked && fresh, "drained when asked, once", || {
                format!("{key:?}")
            });
        }
        self.action(now, key.0, key.1, a, &Action::Drain(what.clone()))
    }

    fn let_go(&mut self, now: Tick, id: ServiceId, instance: Instance, world: &World) -> Ruling {
        let child = world.children.get(&(id, instance));
        let left = child.map_or(0, |c| c.tree());
        let (asked, became) = (self.asked, self.became);
        let live = self.live(id, instance)?;
        let held = std::mem::take(&mut live.held);
        let maintained = std::mem::take(&mut live.maintained);
        let limited = std::mem::take(&mut live.limited);
        if live.exited.is_none() {
            // By a successor, too: perhaps the one before was killed on the way.
            let asked = maintained && matches!(asked, Some((_, Verb::Undrain))) || limited;
            let ok = asked || live.adopted_at.is_some() || became == Some(now);
            return require(ok && live.stop.is_none(), "let go when asked", || {
                format!("{id:?}")
            });
        }
        let ok = held || live.was_held;
        require(ok, "what was held is let go", || format!("{id:?}"))?;
        require(left == 0, "what is held is let go in the end", || {
            format!("{id:?}: {left} left")
        })
    }

    fn action(
        &mut self,
        now: Tick,
        id: ServiceId,
        i: Instance,
        a: ActionId,
        action: &Action,
    ) -> Ruling {
        require(self.actions.insert(a), "actions have new numbers", || {
            format!("{a:?}")
        })?;
        let may_reload = self.may_reload(id, i);
        let reload = self.services.get(&id).and_then(|s| s.spec.reload.clone());
        let remedy = self.services.get(&id).and_then(|s| s.spec.health.clone());
        let live = self.live(id, i)?;
        live.actions.insert(a);
        if let (true, None, Some(health)) = (live.up, &live.stop, &remedy) {
            let is_it = match (&health.remedy, action) {
                (Remedy::Run(wanted), Action::Run(argv)) => wanted == argv,
                _ => false,
            };
            if is_it && live.failed >= health.failures {
                live.failed = 0;
                live.remedies.insert(a);
                return Ok(());
            }
        }
        if live.stop.is_none() && may_reload {
            let ok = match (reload, action) {
                (Some(Reload::Run(x, _)), Action::Run(y)) => x == *y,
                (Some(Reload::Http(x, _)), Action::Http(y)) => x == *y,
                _ => false,
            };
            self.reads_files(id);
            return require(ok, "reload runs its command", || format!("{id:?}"));
        }
        if let Some(stop) = &mut live.stop {
            stop.action = Some(a);
        }
        self.step(now, id, i, action)
    }

    fn probe(&mut self, now: Tick, id: ServiceId, i: Instance, a: ActionId) -> Ruling {
        require(self.actions.insert(a), "actions have new numbers", || {
            format!("{a:?}")
        })?;
        let checked = self
            .services
            .get(&id)
            .is_some_and(|s| s.spec.health.is_some());
        let live = self.live(id, i)?;
        let fit = live.execed.is_some() && live.stop.is_none() && live.exited.is_none();
        let asked = match live.up {
            true => checked,
            false => live.is_awaited(|s| matches!(s, Sign::Probe(_))),
        };
        let first = live.probes.is_empty();
        live.probes.insert(a, now);
        require(fit && asked && first, "one question at a time", || {
            format!("{id:?}")
        })
    }

    /// Something is done to stop the service.
    fn step(&mut self, now: Tick, id: ServiceId, i: Instance, action: &Action) -> Ruling {
        let live = self.live(id, i)?;
        let gone = live.exited.is_some() || live.killed_at.is_some();
        let Some(stop) = live.stop.as_mut().filter(|_| !gone) else {
            return broken("only a stop does that", format!("{id:?}: {action}"));
        };
        let next = stop.last.map_or(0, |n| n + 1);
        let text = || format!("{id:?} step {next}: {action}");
        require(!stop.acted, "each step once", text)?;
        let planned = stop.schedule.steps.get(next);
        let planned = planned.is_some_and(|s| s.action == *action);
        require(planned, "as the schedule says", text)?;
        require(stop.may_go_on(now), "a step has its time", text)?;
        if stop.rival && !stop.rival_had_time && !matches!(action, Action::Hook(_)) {
            let waited = stop.held && now >= stop.step_at + stop.wait();
            require(waited, "STOPPING=1 means hands off", text)?;
            stop.rival_had_time = true;
        }
        stop.acted = true;
        match action {
            Action::Drain(_) | Action::Hook(_) => {}
            Action::Signal(Signal::TERM, To::Tree | To::Descendants) => {
                stop.term_to_tree = true;
                stop.reached += 1;
            }
            Action::Signal(..) | Action::Run(_) | Action::Http(_) => stop.reached += 1,
        }
        Ok(())
    }

    fn publish(&mut self, now: Tick, id: ServiceId, what: &Happening) -> Ruling {
        match what {
            Happening::Stopping { instance, by, .. } => {
                let unfit = matches!(by, Origin::Unfit { .. });
                if unfit {
                    self.rule_unfit(now, id, *instance)?;
                }
                self.begin_stop(now, id, *instance, unfit)
            }
            Happening::FileChanged { .. } => self.file_changed(now, id),
            Happening::Up { instance, .. } => {
                let live = self.live(id, *instance)?;
                let fit = !live.up && live.is_ready(now);
                live.up = true;
                live.failed = 0;
                live.pinged = now;
                live.triggered = false;
                require(fit, "up when it is ready", || format!("{id:?}"))
            }
            Happening::Starting {
                by: Origin::Timer, ..
            } => {
                let s = self.services.get(&id);
                // It may have waited in vain for its first start.
                let first = s.is_some_and(|s| s.last == Instance(0));
                let timer = s.and_then(|s| s.timer.as_ref());
                let due = match s.and_then(|s| s.daily.as_ref()) {
                    None => first || timer.is_some_and(|t| t.over(now) > t.covered),
                    Some(daily) => daily.owed || self.clock.iter().any(|c| daily.is_due(now, c)),
                };
                require(due, "what is due is run once", || {
                    let daily = s.and_then(|s| s.daily.as_ref());
                    format!("{id:?} at {now:?}: {timer:?}, {daily:?}, {:?}", self.clock)
                })
            }
            Happening::Step { instance, what, .. } if !what.starts_with("KILL to the tree") => {
                let live = self.live(id, *instance)?;
                let said = live.stopping_said;
                let Some(stop) = live.stop.as_mut() else {
                    return broken("only a stop does that", what.clone());
                };
                let held = what.contains("held back");
                let text = || format!("{id:?}: {what}");
                require(held != stop.acted, "each step acts or is held back", text)?;
                require(!held || said, "held back for a rival only", text)?;
                require(stop.may_go_on(now), "a step has its time", text)?;
                stop.last = Some(stop.last.map_or(0, |n| n + 1));
                stop.step_at = now;
                stop.impossible = false;
                stop.acted = false;
                stop.held = held;
                let stopping = said && stop.until() == Some(&Until::Stopping);
                stop.cond_at = stopping.then_some(now);
                Ok(())
            }
            Happening::Done { instance } => {
                let fit = self.services.get(&id).is_some_and(|s| {
                    let is_last = s.live.is_none() && s.last == *instance && s.ended_well;
                    s.spec.oneshot.is_some() && is_last && s.want == Want::Up
                });
                if let Some(s) = self.services.get_mut(&id) {
                    s.done = true;
                }
                require(fit, "done when it has ended well", || format!("{id:?}"))
            }
            Happening::GivenUp { .. } => {
                let Some(s) = self.services.get_mut(&id) else {
                    return broken("services are kept", format!("{id:?}"));
                };
                s.given_up = true;
                s.excuse(now, self.clock.as_deref());
                let never = s.spec.restart.policy != Policy::Always || s.stays;
                require(never && s.want == Want::Up, "never given up", || {
                    format!("{id:?}")
                })
            }
            _ => Ok(()),
        }
    }

    /// It is about to read its files.
    fn knows_nothing(&mut self, id: ServiceId) {
        if let Some(edits) = self.files.get_mut(&id) {
            *edits = Edits::default();
        }
    }

    /// It is told to read its files as they are now.
    fn reads_files(&mut self, id: ServiceId) {
        if let Some(edits) = self.files.get_mut(&id) {
            edits.settle();
        }
    }

    /// A file has changed, and it is time to do something about it.
    fn file_changed(&mut self, now: Tick, id: ServiceId) -> Ruling {
        let Some(edits) = self.files.get_mut(&id) else {
            return broken("only files that are looked after change", format!("{id:?}"));
        };
        let changed = edits.is_changed();
        let quiet = edits
            .since
            .is_some_and(|(first, last)| now >= (last + SETTLE).min(first + SETTLE_LONGEST));
        edits.settle();
        require(changed && quiet, "a change is one, and has settled", || {
            format!("{id:?}: {edits:?}")
        })?;
        let wanted = self.target(id) || self.services.get(&id).is_some_and(|s| s.live.is_none());
        let Some(s) = self.services.get_mut(&id) else {
            return broken("services are kept", format!("{id:?}"));
        };
        let reloads = s.spec.watch.as_ref().map(|w| w.then) == Some(OnChange::Reload)
            && s.spec.reload.is_some();
        let well = |l: &Live| l.up && l.stop.is_none() && l.exited.is_none();
        let fit = s.want == Want::Up && s.live.as_ref().is_none_or(well);
        if s.live.is_none() {
            s.given_up = false;
            s.done = false;
        }
        self.asked = Some(match reloads {
            true => (Target::One(id), Verb::Reload),
            false => (Target::One(id), Verb::Restart),
        });
        self.by_file = true;
        require(
            fit && wanted && !self.shutdown,
            "a file changes only what is wanted",
            || format!("{id:?}"),
        )
    }

    /// superd stops a service that does not do what it should.
    fn rule_unfit(&mut self, now: Tick, id: ServiceId, instance: Instance) -> Ruling {
        let spec = self.services.get(&id).map(|s| s.spec.clone());
        let live = self.live(id, instance)?;
        if let (true, Some(spec)) = (live.up, spec) {
            let sick = spec
                .health
                .as_ref()
                .is_some_and(|h| live.failed >= h.failures);
            let stays = |h: &Rc<Health>| h.remedy == Remedy::Stop;
            live.stay = sick && spec.health.as_ref().is_some_and(stays);
            let silent = spec
                .watchdog
                .is_some_and(|d| live.triggered || now >= live.pinged + d);
            return require(sick || silent, "only who is not well is unfit", || {
                format!("{id:?}")
            });
        }
        let since = live.execed.filter(|_| !live.up && !live.met);
        let within = live.awaits.as_ref().and_then(|r| r.within);
        let late = since.zip(within).is_some_and(|(at, w)| now >= at + w);
        require(late, "only who is not ready in time is unfit", || {
            format!("{id:?}")
        })
    }

    fn begin_stop(&mut self, now: Tick, id: ServiceId, instance: Instance, unfit: bool) -> Ruling {
        self.stops += 1;
        let follows = |s: &Shadow| {
            let spec = &s.spec;
            let mut all = spec.after.iter().chain(&spec.requires).chain(&spec.wants);
            all.any(|other| *other == id)
        };
        let late: Vec<ServiceId> = self
            .services
            .iter()
            .filter(|(_, s)| follows(s))
            .filter(|(f, s)| {
                let goes = |l: &Live| l.stop.is_some() || !self.target(**f);
                s.live.as_ref().is_some_and(goes)
            })
            .map(|(f, _)| *f)
            .collect();
        let schedule = self.services.get(&id).map(|s| s.spec.stop.clone());
        let all = self.forced;
        let live = self.live(id, instance)?;
        require(live.stop.is_none(), "one stop", || format!("{id:?}"))?;
        let forced = live.may_force || all;
        let began = live.prepares.is_none();
        require(
            forced || unfit || !began || late.is_empty(),
            "stop order",
            || format!("{id:?} before {late:?}"),
        )?;
        let Some(schedule) = schedule else {
            return Ok(());
        };
        live.stop = Some(Course {
            schedule,
            began: now,
            forced,
            last: None,
            step_at: now,
            cond_at: None,
            impossible: false,
            acted: false,
            action: None,
            held: false,
            reached: 0,
            rival: live.stopping_said,
            rival_had_time: false,
            term_to_tree: false,
            portless: false,
            deadline: None,
        });
        Ok(())
    }

    fn kill(&mut self, now: Tick, id: ServiceId, instance: Instance) -> Ruling {
        let all = self.forced;
        let live = self.live(id, instance)?;
        let text = || format!("{id:?} {instance:?}");
        require(
            live.forked,
            "no signal to a process that is not there",
            text,
        )?;
        let since = live.killed_at.map(|at| now - at);
        // The rest of the tree gets one more at the moment the main process is gone.
        // And a superd that begins does not know whether it was sent.
        let again = since.is_none_or(|d| d >= KILL_AGAIN)
            || live.exited == Some(now)
            || live.adopted_at == Some(now);
        require(again, "KILL is not hammered", text)?;
        let first = live.killed_at.is_none();
        if first || live.adopted_at != Some(now) {
            live.killed_at = Some(now);
        }
        if !first || live.may_force || all {
            return Ok(());
        }
        match (&live.stop, live.exited) {
            (stop, Some(at)) => {
                let grace = stop
                    .as_ref()
                    .map_or(live.grace, |s| s.schedule.leftover_grace);
                require(now >= at + grace, "KILL is never early", text)
            }
            (Some(stop), None) => {
                let all_done = stop.last.map_or(0, |n| n + 1) == stop.schedule.steps.len();
                let due = all_done && !stop.acted && stop.may_go_on(now);
                require(due, "KILL is never early", text)?;
                let hasty = stop.held && now < stop.step_at + stop.wait();
                require(!hasty, "STOPPING=1 means hands off", text)
            }
            (None, None) => broken("only a stop does that", text()),
        }
    }

    fn release(&mut self, now: Tick, id: ServiceId, instance: Instance, world: &World) -> Ruling {
        let hooks = self.services.get(&id).and_then(|s| s.spec.hooks.clone());
        let live = self.live(id, instance)?;
        let due = hooks.is_some_and(|h| h.post_stop.is_some()) && !live.redefined;
        let done = live.hooks.contains(&Kind::PostStop);
        require(done || !due, "post-stop comes before it is over", || {
            format!("{id:?}")
        })?;
        let left = world.of_hooks(id);
        let had = !live.hooks.is_empty();
        require(left == 0 || !had, "no hook outlives its instance", || {
            format!("{id:?}: {left}")
        })?;
        let child = world.children.get(&(id, instance));
        let left = child.map_or(0, |c| c.tree());
        require(left == 0, "released when the tree is empty", || {
            format!("{id:?}: {left} left")
        })?;
        let live = self.services.get_mut(&id).and_then(|s| {
            s.ended_well = s.live.as_ref().is_some_and(|l| l.success);
            s.stays = s.live.as_ref().is_some_and(|l| l.stay);
            s.cover(now, self.clock.as_deref());
            s.live.take()
        });
        // A successor that finds it ended holds nothing any more.
        let held = live
            .as_ref()
            .is_some_and(|l| l.held && l.adopted_at.is_none());
        require(!held, "ports are free before it is over", || {
            format!("{id:?}")
        })?;
        let open = live.map_or(0, |l| l.actions.len() + l.probes.len());
        require(open == 0, "no action outlives its instance", || {
            format!("{id:?}: {open}")
        })
    }

    // ---- after each step -----------------------------------------------------

    pub fn after(&mut self, now: Tick, machine: &Supervisor) -> Ruling {
        self.decide();
        if let Some(next) = machine.next_deadline() {
            require(next > now, "next_deadline is in the future", || {
                format!("{next:?} at {now:?}")
            })?;
        }
        for (id, s) in &mut self.services {
            let timer = s.timer.as_ref().filter(|_| s.live.is_none());
            let mut missed = timer.is_some_and(|t| t.over(now) > t.covered.max(t.excused));
            if let (Some(daily), Some(clock), None) = (&mut s.daily, &self.clock, &s.live) {
                daily.owed |= daily.is_due(now, clock);
                let from = daily.covered.unwrap_or(0).max(daily.excused);
                missed |= daily.is_due_since(from, now, clock);
            }
            if missed && s.want == Want::Up && !s.gone && !self.shutdown {
                let state = machine.service(*id).map(|s| &s.state);
                let waits = matches!(state, Some(State::Waiting | State::Backoff { .. }));
                require(waits, "what is due is not left out", || {
                    format!("{id:?} at {now:?}: {timer:?}, {:?}, {state:?}", s.daily)
                })?;
            }
            let Some(live) = &mut s.live else { continue };
            let pid = machine.service(*id).and_then(|s| s.pid());
            require(
                pid == live.main,
                "its main process is the one it named",
                || format!("{id:?}: {pid:?}, not {:?}", live.main),
            )?;
            let (killed, exited) = (live.killed_at.is_some(), live.exited.is_some());
            let Some(stop) = &mut live.stop else { continue };
            let limit = stop.began + stop.schedule.longest();
            let in_time = killed || exited || !live.forked || now <= limit;
            require(in_time, "a stop ends in time", || {
                format!("{id:?} at {now:?}, began {:?}", stop.began)
            })?;
            let ignored = live.forced && !killed && !exited && live.forked;
            require(!ignored, "--now kills at once", || format!("{id:?}"))?;
            let held = machine.service(*id).and_then(|s| s.stop());
            let held = held.map(|s| s.deadline());
            if let (Some(old), Some(new)) = (stop.deadline, held) {
                require(new <= old, "a deadline never moves later", || {
                    format!("{id:?}: from {old:?} to {new:?}")
                })?;
            }
            stop.deadline = held.or(stop.deadline);
            stop.forced |= live.forced;
        }
        Ok(())
    }

    /// Nothing is under way that has to end in time.
    pub fn is_quiet(&self) -> bool {
        let quiet = |l: &Live| l.stop.is_none() && l.exited.is_none();
        let mut live = self.services.values().filter_map(|s| s.live.as_ref());
        live.all(quiet)
    }

    /// Everything has calmed down and every deadline has run out.
    pub fn at_the_end(&self, machine: &Supervisor) -> Ruling {
        let none = self.pending.is_empty();
        require(none, "each request is answered", || {
            format!("{:?}", self.pending)
        })?;
        for (id, s) in &self.services {
            let Some(real) = machine.service(*id) else {
                return broken("services are kept", format!("{id:?}"));
            };
            require(real.want == s.want, "want is the operator's word", || {
                format!("{id:?}: {:?}, not {:?}", real.want, s.want)
            })?;
            let is_up = |d: &superd::machine::service::Service| {
                matches!(d.state, State::Up(_) | State::Down(Rest::Done))
            };
            let runs = |d: &ServiceId| machine.service(*d).is_some_and(|d| !d.is_at_rest());
            let rivals = self.rivals(*id);
            // What is done, but may not be used: what it requires itself has ended.
            let lost = |d: &ServiceId| !self.target(*d) || !machine.service(*d).is_some_and(is_up);
            let ok = match &real.state {
                State::Down(_) if s.want == Want::Down || self.shutdown => true,
                State::Down(Rest::Done) => s.done,
                State::Down(_) => s.given_up,
                State::Waiting => {
                    s.want == Want::Up
                        && (s.spec.requires.iter().any(lost) || rivals.iter().any(runs))
                }
                State::Up(_) => self.target(*id),
                State::Backoff { .. }
                | State::Starting(_)
                | State::Stopping(..)
                | State::Killing(..)
                | State::Sweeping(_) => false,
            };
            let edits = self
                .files
                .get(id)
                .filter(|_| s.want == Want::Up && !self.shutdown);
            let open = edits.is_some_and(Edits::is_changed) && matches!(real.state, State::Up(_));
            require(!open, "a change is acted upon", || {
                format!("{id:?}: {edits:?}")
            })?;
            require(ok, "it comes to what is wanted", || {
                format!("{id:?}: want {:?}, {:?}", s.want, real.state)
            })?;
        }
        Ok(())
    }
}
