//! The invariants (DESIGN 1 and 9), worked out a second time from the events and effects
//! alone. The machine is asked for nothing but the deadline of a stop.
//!
//! Each effect is judged in `judge/rule.rs`. Longer than a file should be: here is what the judge
//! knows, as one list of what it hears.

#[path = "judge/rule.rs"]
mod rule;
#[path = "judge/shadow.rs"]
mod shadow;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use superd::machine;
use superd::machine::event::{
    ActionId, Change, Check, Event, Instance, Notice, Outcome, ServiceId, Target, Ticket, Verb,
};
use superd::machine::ready::Sign;
use superd::machine::report::Exit;
use superd::machine::service::{Rest, Service, State, Want};
use superd::machine::spec::{Action, Spec, Until};
use superd::machine::supervisor::Supervisor;
use superd::machine::time::Tick;
use superd::machine::timer::Clock;

use crate::world::Key;
use shadow::{Daily, Edits, Live, Shadow, Timer};

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
    now: Tick,
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

    /// That others have begun is no reason to restart it from now on, or has been one.
    fn knows_others(&mut self, id: ServiceId) {
        let Some(s) = self.services.get(&id) else {
            return;
        };
        let ups = |d: &ServiceId| self.services.get(d).map_or(0, |d| d.ups);
        let knows = s.spec.restart_with.iter().map(|d| (*d, ups(d))).collect();
        if let Some(live) = self.services.get_mut(&id).and_then(|s| s.live.as_mut()) {
            live.knows = knows;
            live.knew_at = self.now;
        }
    }

    /// One that is on its way is taken over: whether it was up before is not known, and who was
    /// forked since it was has perhaps waited for that.
    fn knows_who_is_taken_over(&mut self, id: ServiceId) {
        let lead = self.services.get(&id);
        let Some((instance, live)) = lead.and_then(|s| Some((s.last, s.live.as_ref()?))) else {
            return;
        };
        let began = live.began;
        if live.up {
            return;
        }
        for s in self.services.values_mut() {
            let names = s.spec.restart_with.contains(&id);
            if let Some(live) = s.live.as_mut().filter(|l| names && l.knew_at >= began) {
                live.excused.push((id, instance));
            }
        }
    }

    /// It is up: no news for those who are excused from it.
    fn excuses(&mut self, id: ServiceId, instance: Instance) {
        let ups = self.services.get(&id).map_or(0, |s| s.ups);
        for live in self.services.values_mut().filter_map(|s| s.live.as_mut()) {
            if live.excused.contains(&(id, instance)) {
                live.knows.insert(id, ups);
            }
        }
    }

    /// Those that it is restarted with, and that have begun since.
    fn news(&self, id: ServiceId) -> Vec<ServiceId> {
        let s = self.services.get(&id);
        let Some((s, live)) = s.and_then(|s| Some((s, s.live.as_ref()?))) else {
            return Vec::new();
        };
        let knows = |d: &ServiceId| live.knows.get(d).copied().unwrap_or(0);
        let is_news = |d: &&ServiceId| self.services.get(d).is_some_and(|s| s.ups > knows(d));
        s.spec
            .restart_with
            .iter()
            .filter(is_news)
            .copied()
            .collect()
    }

    /// One of them can be used, as far as is seen here, and it is up itself.
    fn is_behind(&self, id: ServiceId, stays: impl Fn(&ServiceId) -> bool) -> bool {
        let well = |l: &Live| l.up && l.stop.is_none() && l.exited.is_none();
        let is_up = |s: &Shadow| s.done || s.live.as_ref().is_some_and(well);
        let can = |d: &ServiceId| self.target(*d) && self.services.get(d).is_some_and(is_up);
        let own = self.services.get(&id).and_then(|s| s.live.as_ref());
        own.is_some_and(well) && self.target(id) && self.news(id).iter().any(|d| can(d) && stays(d))
    }

    // ---- events ------------------------------------------------------------

    /// Something else happens than before.
    pub fn nobody_asks(&mut self) {
        self.decide();
        self.asked = None;
        self.passed = None;
        self.by_file = false;
    }

    pub fn hear(&mut self, now: Tick, event: &Event) {
        self.nobody_asks();
        self.now = now;
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
                self.knows_who_is_taken_over(adopted.service);
                if let Some(s) = self.services.get_mut(&adopted.service) {
                    s.told = None; // the next superd says it once more
                }
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
                let (mut passed, mut restarts, mut by_itself) = (false, false, false);
                self.with(*s, *i, |l| {
                    let open = l.actions.contains(action);
                    passed = happy && open && l.check == Some(*action);
                    restarts = passed && l.check_restarts && l.stop.is_none();
                    by_itself = l.check_by_itself;
                });
                self.passed = passed.then_some((*s, *i));
                self.with(*s, *i, |l| Self::action_ended(l, *action, outcome, now));
                // Who has asked for something else meanwhile has the last word.
                if restarts && !by_itself && self.target(*s) {
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
        let news = self.news(id);
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
            told: None,
            last: Instance(0),
            ups: 0,
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
        let others = s.spec.restart_with != spec.restart_with;
        s.spec = spec.clone();
        s.given_up &= change == Change::Policy;
        s.done &= change == Change::Policy;
        if std::mem::take(&mut s.gone) {
            s.want = first;
            if let (Want::Up, Some(live)) = (first, &mut s.live) {
                live.forced &= live.stop.is_some();
            }
        }
        if others {
            let owed = !news.is_empty();
            if let Some(live) = self.services.get_mut(&id).and_then(|s| s.live.as_mut()) {
                live.owed |= owed;
            }
            self.knows_others(id);
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
            live.failed = match outcome {
                Outcome::Done => 0,
                // No answer, neither a right one nor a wrong one.
                Outcome::NotTried(_) => live.failed,
                Outcome::Unhappy(_) | Outcome::Impossible(_) => live.failed + 1,
            };
        }
        let Some(stop) = live.stop.as_mut().filter(|s| s.action == Some(action)) else {
            return;
        };
        stop.action = None;
        match outcome {
            Outcome::Impossible(_) | Outcome::NotTried(_) => {
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

    pub fn after(&mut self, now: Tick, machine: &Supervisor) -> Ruling {
        self.decide();
        for id in self.services.keys() {
            let goes = |s: &Service| s.cycle || s.order.is_some();
            let busy = |s: &Service| goes(s) || s.reload.is_some();
            let stays = |d: &ServiceId| !machine.service(*d).is_some_and(goes);
            let idle = !machine.service(*id).is_some_and(busy);
            require(
                !(idle && self.is_behind(*id, stays)),
                "who is restarted with one that begins anew is at once",
                || format!("{id:?} with {:?}", self.news(*id)),
            )?;
        }
        for id in self.services.keys() {
            self.rule_blocked(*id, machine)?;
        }
        for (id, s) in &mut self.services {
            let waits = |s: &Service| s.state == State::Waiting;
            if !machine.service(*id).is_some_and(waits) {
                s.told = None;
            }
        }
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

    /// The services which have failed that keep this one, which waits, from its start.
    fn culprits(&self, id: ServiceId, machine: &Supervisor) -> Vec<ServiceId> {
        let requires = self.services.get(&id).map(|s| s.spec.requires.clone());
        let mut all = Vec::new();
        for dep in requires.unwrap_or_default() {
            match machine.service(dep).map(|d| &d.state) {
                Some(State::Down(Rest::Failed(_)) | State::Backoff { slow: true, .. }) => {
                    all.push(dep);
                }
                Some(State::Waiting) => all.extend(self.culprits(dep, machine)),
                _ => {}
            }
        }
        all
    }

    /// Who waits for what has failed says so, and nobody else.
    fn rule_blocked(&self, id: ServiceId, machine: &Supervisor) -> Ruling {
        let Some(real) = machine.service(id) else {
            return Ok(());
        };
        let culprits = match real.state {
            State::Waiting => self.culprits(id, machine),
            _ => Vec::new(),
        };
        let by = real.blocked_by();
        let fits = match by {
            None => culprits.is_empty(),
            Some(by) => culprits.contains(&by),
        };
        require(fits, "who waits for what has failed is blocked", || {
            format!("{id:?}: by {by:?}, because of {culprits:?}")
        })?;
        let told = self.services.get(&id).and_then(|s| s.told.as_deref());
        let name = by.and_then(|by| machine.service(by));
        let is_told = name.is_none_or(|by| {
            let why = format!("it requires {}, which has failed: ", by.spec.name);
            told.is_some_and(|told| told.starts_with(&why))
        });
        require(is_told, "who cannot be started says why", || {
            format!("{id:?}: by {by:?}, told {told:?}")
        })
    }

    /// superd has become another program: only what is so now was told for sure.
    pub fn forget_what_is_over(&mut self, machine: &Supervisor) {
        for (id, s) in &mut self.services {
            let blocked = |s: &Service| s.blocked_by().is_some();
            s.told
                .take_if(|_| !machine.service(*id).is_some_and(blocked));
        }
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
            let is_up = |d: &Service| matches!(d.state, State::Up(_) | State::Down(Rest::Done));
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
