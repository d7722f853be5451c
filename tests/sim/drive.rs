//! Puts the machine into the fake world and lets things happen, one after another, in
//! the order in which the daemon's loop would let them happen.
//!
//! Longer than a file should be: people, time and the daemon take turns in one loop.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use superd::machine::event::{
    Adopted, Change, Check, Effect, Event, Found, Instance, Notice, Presence, ServiceId, Target,
    Ticket, Verb, Wait,
};
use superd::machine::keep::Whole;
use superd::machine::memory::Memory;
use superd::machine::report::Origin;
use superd::machine::service::{Rest, Service, State, Want};
use superd::machine::signal::Signal;
use superd::machine::spec::{Oneshot, Spec};
use superd::machine::supervisor::{Ending, Supervisor};
use superd::machine::time::Tick;

use crate::dice::Dice;
use crate::draw;
use crate::judge::{require, Broken, Judge};
use crate::tamper::Tamper;
use crate::world::{Child, Life, World};

/// Lines kept for the report of a failure.
const KEPT: usize = 40;
/// No two turns of the loop are at the same time.
const A_TURN: Duration = Duration::from_nanos(1);
/// Steps of one episode; each has a machine and a world of its own.
const EPISODE: u64 = 400;

/// What is written down of what happens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Notes {
    None,
    /// A hash of all events and effects.
    Hash,
    /// And the last lines, for people.
    Lines,
}

pub struct Sim {
    dice: Dice,
    now: Tick,
    machine: Supervisor,
    world: World,
    judge: Judge,
    tamper: Tamper,
    steps: u64,
    next_id: u32,
    client: u64,
    request: u64,
    within: Option<Duration>,
    shutdown_deadline: Option<Tick>,
    notes: Notes,
    pub lines: VecDeque<String>,
    hash: DefaultHasher,
    calls: VecDeque<Tick>,
}

/// How an episode went.
pub struct Outcome {
    pub steps: u64,
    pub hash: u64,
    pub spawns: u64,
    pub stops: u64,
    pub replies: u64,
}

fn who() -> Origin {
    Origin::Client {
        pid: 100,
        uid: 0,
        command: "superctl".to_owned(),
    }
}

fn is_up(service: &Service) -> bool {
    let up = match service.state {
        State::Up(_) => !service.cycle,
        State::Down(Rest::Done) => {
            service.spec.oneshot == Some(Oneshot::Remains) && service.spec.timer.is_none()
        }
        _ => false,
    };
    up && service.target
}

/// It is down, and its timer starts it.
fn is_left_to_its_timer(service: &Service) -> bool {
    let rests = match &service.state {
        State::Down(rest) => *rest != Rest::Stopped,
        _ => false,
    };
    rests && service.spec.timer.is_some() && service.want == Want::Up
}

impl Sim {
    pub fn new(seed: u64, tamper: Tamper, notes: Notes) -> Sim {
        let mut dice = Dice::new(seed);
        let now = Tick(1_000_000_000 + dice.below(1_000_000));
        let mut machine = Supervisor::new(dice.roll(), Ending::WhenAsked);
        let within = dice
            .chance(40)
            .then(|| Duration::from_secs(1 + dice.below(40)));
        machine.set_shutdown_deadline(within);
        Sim {
            world: World::new(dice.roll(), now),
            dice,
            now,
            machine,
            judge: Judge::default(),
            tamper,
            steps: 0,
            next_id: 0,
            client: 1,
            request: 0,
            within,
            shutdown_deadline: None,
            notes,
            lines: VecDeque::new(),
            hash: DefaultHasher::new(),
            calls: VecDeque::new(),
        }
    }

    /// A whole life: some services, some hundred things that happen to them, calm, and
    /// the end of superd.
    pub fn episode(&mut self) -> Result<Outcome, Broken> {
        self.configure_first()?;
        let busy = *self.dice.pick(&[3, 10, 30, 70]);
        let shuts = self.dice.chance(15).then(|| self.dice.below(EPISODE));
        while self.steps < EPISODE {
            if shuts.is_some_and(|at| self.steps >= at) && !self.judge.shutdown {
                self.shut_down(false)?;
            }
            if self.judge.finished {
                break;
            }
            match self.dice.chance(busy) {
                true => self.stimulate()?,
                false => self.let_time_pass()?,
            }
        }
        self.calm_down()?;
        self.judge.at_the_end(&self.machine)?;
        if !self.judge.shutdown {
            let force = self.dice.chance(20);
            self.shut_down(force)?;
            self.calm_down()?;
            self.judge.at_the_end(&self.machine)?;
        }
        require(self.judge.finished, "Finish comes in the end", String::new)?;
        Ok(Outcome {
            steps: self.steps,
            hash: self.hash.finish(),
            spawns: self.judge.spawns,
            stops: self.judge.stops,
            replies: self.judge.replies,
        })
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.notes == Notes::None {
            return;
        }
        let line = what();
        line.hash(&mut self.hash);
        if self.notes == Notes::Lines {
            if self.lines.len() == KEPT {
                self.lines.pop_front();
            }
            let at = (self.now.0 - 1_000_000_000) as f64 / 1e6;
            self.lines
                .push_back(format!("{:>5} {at:>12.3} ms  {line}", self.steps));
        }
    }

    // ---- what the daemon does --------------------------------------------------

    /// One event, the effects it leads to, and the answers that come in the same turn.
    fn deliver(&mut self, event: Event) -> Result<(), Broken> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.steps += 1;
            self.note(|| format!("-> {event:?}"));
            self.judge.line = self.machine.order().line().to_vec();
            let up = self.machine.services().filter(|s| is_up(s));
            self.judge.up = up.map(|s| s.id).collect();
            let timed = self.machine.services().filter(|s| is_left_to_its_timer(s));
            self.judge.timed = timed.map(|s| s.id).collect();
            self.judge.hear(self.now, &event);
            let mut effects = Vec::new();
            self.machine.handle(self.now, event, &mut effects);
            self.perform(effects, &mut events)?;
        }
        Ok(())
    }

    fn perform(
        &mut self,
        mut effects: Vec<Effect>,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Broken> {
        self.tamper.with(&mut effects);
        let mut answers = Vec::new();
        for effect in effects {
            self.note(|| format!("   <- {effect:?}"));
            if let Effect::Spawn(id, _) = effect {
                let known = self.judge.services.get(&id);
                match known.is_some_and(|s| s.spec.oneshot.is_some()) {
                    true => self.world.oneshots.insert(id),
                    false => self.world.oneshots.remove(&id),
                };
            }
            self.judge.rule(self.now, &effect, &self.world)?;
            self.world.perform(&effect, &mut answers);
        }
        events.extend(answers);
        Ok(())
    }

    /// The timers' part of a turn.
    fn time(&mut self) -> Result<(), Broken> {
        let mut calls = 0;
        while self.machine.next_deadline().is_some_and(|t| t <= self.now) {
            calls += 1;
            require(calls < 40, "no busy loop", || "at one moment".to_owned())?;
            self.calls.push_back(self.now);
            self.timeout()?;
        }
        let second = Duration::from_secs(1);
        while self.calls.front().is_some_and(|t| self.now - *t > second) {
            self.calls.pop_front();
        }
        let most = 100 + 100 * self.judge.services.len();
        require(self.calls.len() < most, "no busy loop", || {
            format!("{} calls in a second", self.calls.len())
        })?;
        self.judge.after(self.now, &self.machine)
    }

    fn timeout(&mut self) -> Result<(), Broken> {
        self.steps += 1;
        let late = |within| self.judge.shutdown && within <= self.now;
        if self.shutdown_deadline.is_some_and(late) {
            self.judge.force_all();
        }
        self.note(|| "-> timeout".to_owned());
        self.judge.nobody_asks();
        let mut effects = Vec::new();
        self.machine.handle_timeout(self.now, &mut effects);
        let mut events = VecDeque::new();
        self.perform(effects, &mut events)?;
        for event in events {
            self.deliver(event)?;
        }
        Ok(())
    }

    fn turn(&mut self, event: Event) -> Result<(), Broken> {
        self.deliver(event)?;
        self.time()
    }

    // ---- what happens ------------------------------------------------------------

    fn let_time_pass(&mut self) -> Result<(), Broken> {
        let world = self.world.next();
        let timer = self.machine.next_deadline();
        let Some(next) = world.into_iter().chain(timer).min() else {
            return match self.world.calm {
                true => Ok(()),
                false => self.stimulate(),
            };
        };
        let gap = (next - self.now).as_nanos() as u64;
        if !self.world.calm && gap > 1 && self.dice.chance(10) {
            // Woken for nothing.
            let early = Duration::from_nanos(self.dice.below(gap));
            self.set_clock(self.now + early);
            self.timeout()?;
            return self.time();
        }
        self.set_clock(next.max(self.now + A_TURN));
        let world_is_due = world.is_some_and(|t| t <= self.now);
        let timer_is_due = timer.is_some_and(|t| t <= self.now);
        if world_is_due && (!timer_is_due || self.dice.chance(50)) {
            let mut events = Vec::new();
            let thing = self.world.happen(&mut events);
            self.note(|| format!("** {thing:?}"));
            self.steps += 1;
            for event in events {
                self.deliver(event)?;
            }
        }
        self.time()
    }

    fn set_clock(&mut self, now: Tick) {
        self.now = now;
        self.world.now = now;
    }

    /// No more ideas: everything that is under way comes to its end.
    fn calm_down(&mut self) -> Result<(), Broken> {
        self.world.calm = true;
        self.watch_no_more()?;
        let from = self.steps;
        while self.world.next().is_some() || self.machine.next_deadline().is_some() {
            self.let_time_pass()?;
            require(self.steps - from < 60_000, "it comes to rest", String::new)?;
        }
        Ok(())
    }

    /// A watch has always something due: from here on nobody is watched.
    fn watch_no_more(&mut self) -> Result<(), Broken> {
        let mut changed = Vec::new();
        for id in self.configured() {
            let Some(shadow) = self.judge.services.get(&id) else {
                continue;
            };
            if shadow.spec.health.is_some()
                || shadow.spec.watchdog.is_some()
                || shadow.spec.timer.is_some()
            {
                let spec = Spec {
                    health: None,
                    watchdog: None,
                    timer: None,
                    ..(*shadow.spec).clone()
                };
                changed.push((id, Rc::new(spec), Change::Policy));
            }
        }
        let (gone, by) = (Vec::new(), Origin::Config);
        match changed.is_empty() {
            true => Ok(()),
            false => self.turn(Event::Configure { changed, gone, by }),
        }
    }

    // ---- what people do ------------------------------------------------------------

    fn configure_first(&mut self) -> Result<(), Broken> {
        let mut changed = Vec::new();
        let mut before = Vec::new();
        for _ in 0..=self.dice.below(5) {
            let new = self.a_new_one(&before);
            before.push(new.0);
            changed.push(new);
        }
        let (gone, by) = (Vec::new(), Origin::Config);
        self.turn(Event::Configure { changed, gone, by })
    }

    fn a_new_one(&mut self, others: &[ServiceId]) -> (ServiceId, Rc<Spec>, Change) {
        let id = ServiceId(self.next_id);
        self.next_id += 1;
        let spec = draw::spec(&mut self.dice, id, others);
        (id, Rc::new(spec), Change::New)
    }

    fn configured(&self) -> Vec<ServiceId> {
        let known = self.judge.services.iter();
        known.filter(|(_, s)| !s.gone).map(|(id, _)| *id).collect()
    }

    /// A reload: some come, some change, some go, some come back.
    fn reconfigure(&mut self) -> Result<(), Broken> {
        let mut gone = Vec::new();
        for id in self.configured() {
            if self.dice.chance(15) {
                gone.push(id);
            }
        }
        let mut changed = Vec::new();
        let leaving: Vec<ServiceId> = self.judge.services.keys().copied().collect();
        let mut stay: Vec<ServiceId> = Vec::new();
        for id in leaving {
            let Some(shadow) = self.judge.services.get(&id) else {
                continue;
            };
            let (was_gone, old) = (shadow.gone, shadow.spec.clone());
            if gone.contains(&id) || (was_gone && !self.dice.chance(30)) {
                continue;
            }
            let edges = old.requires.iter().chain(&old.after);
            let mut edges = edges.chain(&old.wants).chain(&old.restart_with);
            let orphaned = edges.any(|d| !stay.contains(d));
            if was_gone || self.dice.chance(30) {
                let spec = draw::spec(&mut self.dice, id, &stay);
                let change = match was_gone || self.dice.chance(50) {
                    true => Change::Program,
                    false => Change::Policy,
                };
                changed.push((id, Rc::new(spec), change));
            } else if orphaned {
                let mut spec = (*old).clone();
                spec.requires.retain(|d| stay.contains(d));
                spec.after.retain(|d| stay.contains(d));
                spec.wants.retain(|d| stay.contains(d));
                spec.restart_with.retain(|d| stay.contains(d));
                changed.push((id, Rc::new(spec), Change::Policy));
            }
            stay.push(id);
        }
        if self.dice.chance(30) && self.judge.services.len() < 6 {
            changed.push(self.a_new_one(&stay));
        }
        let by = Origin::Config;
        self.turn(Event::Configure { changed, gone, by })
    }

    fn shut_down(&mut self, force: bool) -> Result<(), Broken> {
        if let (None, Some(within)) = (self.shutdown_deadline, self.within) {
            self.shutdown_deadline = Some(self.now + within);
        }
        let absorbed = self.dice.below(3) as u32;
        let by = who();
        self.turn(Event::Shutdown {
            force,
            by,
            absorbed,
        })
    }

    /// superd is killed between two turns; the next one goes on from what it has written.
    fn succeed(&mut self) -> Result<(), Broken> {
        // A successor waits until no start is half done.
        let forking = |c: &Child| matches!(c.stage, Life::Forking | Life::Forked);
        if self.judge.shutdown || self.world.children.values().any(forking) {
            return Ok(());
        }
        // Each has numbers of its own, also one that does nothing before it is killed.
        self.steps += 1;
        self.note(|| "** superd is killed".to_owned());
        let gone = Event::ClientGone(self.client);
        self.judge.hear(self.now, &gone);
        self.client += 1;
        let left: Vec<Adopted> = self.machine.services().map(|s| self.left_of(s)).collect();
        let leaving = self.machine.services().filter(|s| s.gone).map(|s| s.id);
        let gone = leaving.collect();
        self.world.outlooks.clear();
        self.world.clock_is_watched = false;
        if self.dice.chance(20) {
            self.world.jump(&mut Vec::new());
        }
        if self.judge.is_quiet() && self.dice.chance(50) {
            // The next one takes its time, or the machine was asleep.
            let away = Duration::from_millis(self.dice.below(100_000));
            self.set_clock(self.now + away);
        }
        self.world.watched.clear();
        self.machine = Supervisor::new(self.dice.roll(), Ending::WhenAsked);
        self.machine.set_shutdown_deadline(self.within);
        self.machine.number_actions_after(self.steps << 32);
        let mut effects = Vec::new();
        for adopted in left {
            let event = Event::Adopt(Box::new(adopted));
            self.judge.hear(self.now, &event);
            self.machine.handle(self.now, event, &mut effects);
        }
        let (changed, by) = (Vec::new(), Origin::Config);
        let event = Event::Configure { changed, gone, by };
        self.judge.hear(self.now, &event);
        self.machine.handle(self.now, event, &mut effects);
        let mut events = VecDeque::new();
        self.perform(effects, &mut events)?;
        for event in events {
            self.deliver(event)?;
        }
        self.time()
    }

    /// superd becomes another program between two turns. Nobody is to notice, the judge least.
    fn become_another(&mut self) -> Result<(), Broken> {
        if self.judge.shutdown {
            return Ok(());
        }
        self.note(|| "** superd becomes another program".to_owned());
        self.judge.became = Some(self.now);
        self.judge.forget_what_is_over(&self.machine);
        self.judge.succeeds = true;
        let Ok(text) = superd::json::to_string(&self.machine.keep()) else {
            panic!("what the machine knows cannot be written");
        };
        let Ok(whole) = superd::json::from_str::<Whole>(&text) else {
            panic!("what the machine knows cannot be read: {text}");
        };
        let specs: BTreeMap<ServiceId, Rc<Spec>> = self
            .machine
            .services()
            .map(|s| (s.id, s.spec.clone()))
            .collect();
        let spec = |id| specs.get(&id).cloned();
        assert_eq!(whole.fault(|id| spec(id).map(|s| (*s).clone())), None);
        self.world.outlooks.clear();
        self.world.clock_is_watched = false;
        self.world.watched.clear();
        self.machine = Supervisor::new(self.dice.roll(), Ending::WhenAsked);
        self.machine.set_shutdown_deadline(self.within);
        let mut effects = Vec::new();
        self.machine.go_on(whole, spec, self.now, &mut effects);
        let mut events = VecDeque::new();
        self.perform(effects, &mut events)?;
        for event in events {
            self.deliver(event)?;
        }
        self.time()
    }

    /// What is written down of a service, and what is there of it.
    fn left_of(&self, service: &Service) -> Adopted {
        let child = self.world.children.get(&(service.id, service.instance));
        let runs = |c: &&Child| matches!(c.stage, Life::Forked | Life::Running);
        let found = match (child.filter(runs), service.pid()) {
            (Some(_), Some(pid)) => Presence::Running(pid),
            _ => Presence::Gone {
                crash: None,
                left: Some(child.map_or(0, Child::orphans_alive)),
            },
        };
        let written = superd::json::to_string(&Memory::of(service)).ok();
        let Some(mut written) = written.and_then(|text| serde_json::from_str(&text).ok()) else {
            panic!("a memory cannot be written");
        };
        self.tamper.with_memory(&mut written);
        let text = written.to_string();
        let Ok(memory) = superd::json::from_str::<Memory>(&text) else {
            panic!("a memory cannot be read: {text}");
        };
        assert_eq!(memory.fault(&service.spec), None, "{text}");
        Adopted {
            service: service.id,
            spec: service.spec.clone(),
            memory,
            found,
        }
    }

    fn stimulate(&mut self) -> Result<(), Broken> {
        self.set_clock(self.now + A_TURN);
        match self.dice.below(60) {
            0 => {
                let gone = self.client;
                self.client += 1;
                self.turn(Event::ClientGone(gone))
            }
            1..=3 => self.reconfigure(),
            4 if self.judge.shutdown => self.shut_down(false),
            5 if self.judge.shutdown => self.shut_down(true),
            6 => self.turn(Event::OrphanReaped),
            7 => self.stale(),
            8 => self.succeed(),
            9 => self.become_another(),
            10..=12 => self.jump(),
            _ => self.ask(),
        }
    }

    /// The wall clock is set, or the machine has slept.
    fn jump(&mut self) -> Result<(), Broken> {
        let mut events = Vec::new();
        self.world.jump(&mut events);
        self.note(|| "** the clock jumps".to_owned());
        self.steps += 1;
        for event in events {
            self.deliver(event)?;
        }
        self.time()
    }

    /// An event about an instance that is over long since.
    fn stale(&mut self) -> Result<(), Broken> {
        let ids: Vec<ServiceId> = self.judge.services.keys().copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = *self.dice.pick(&ids);
        let instance = match self.machine.service(id) {
            Some(s) if s.is_at_rest() => s.instance,
            Some(s) => Instance(s.instance.0.saturating_sub(1)),
            None => return Ok(()),
        };
        let event = match self.dice.below(4) {
            0 => Event::Checked(id, instance, Check::Notify, Found(0)),
            1 => Event::Execed(id, instance),
            2 => Event::Notified(id, instance, Notice::Stopping),
            _ => Event::OutputMatched(id, instance),
        };
        self.turn(event)
    }

    fn ask(&mut self) -> Result<(), Broken> {
        let ids: Vec<ServiceId> = self.judge.services.keys().copied().collect();
        let target = match self.dice.below(8) {
            0 => Target::All,
            1 => Target::One(ServiceId(
                self.dice.below(u64::from(self.next_id) + 1) as u32
            )),
            _ if ids.is_empty() => Target::All,
            _ => Target::One(*self.dice.pick(&ids)),
        };
        let verb = match self.dice.below(16) {
            0..=3 => Verb::Start,
            4..=7 => Verb::Stop,
            8 => Verb::StopNow,
            9..=11 => Verb::Restart,
            12 => Verb::RestartNow,
            13 => *self.dice.pick(&[Verb::Reload, Verb::Drain, Verb::Undrain]),
            _ => {
                let any = [Signal::HUP, Signal::TERM, Signal(libc::SIGWINCH)];
                Verb::Signal(*self.dice.pick(&any))
            }
        };
        self.request += 1;
        let ticket = self.dice.chance(90).then_some(Ticket {
            client: self.client,
            request: self.request,
        });
        let wait = match self.dice.chance(70) {
            true => Wait::Done,
            false => Wait::No,
        };
        let by = who();
        self.turn(Event::Request {
            ticket,
            target,
            verb,
            wait,
            by,
        })
    }

    /// The state of everything, for the report of a failure.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for s in self.machine.services() {
            let edges = self.machine.order().of(s.id);
            let state = match &s.state {
                State::Backoff { until, .. } => format!("Backoff until {until:?}"),
                other => format!("{other:?}").chars().take(160).collect(),
            };
            text.push_str(&format!(
                "  {:?}: want {:?} target {} cycle {} gone {} requires {:?} before {:?} restarted with {:?}\n      {state}\n",
                s.id, s.want, s.target, s.cycle, s.gone, edges.requires, edges.before, s.spec.restart_with
            ));
        }
        text
    }
}
