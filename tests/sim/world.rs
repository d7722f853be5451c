//! The fake world: processes with characters of their own. It performs effects the way
//! the daemon does and says what happened as events; it judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use superd::machine::event::{
    ActionId, Check, Effect, Event, Found, Instance, Notice, Outcome, Pid, ServiceId,
};
use superd::machine::files::Print;
use superd::machine::outlook::{Condition, WaitFor};
use superd::machine::report::{Crash, Exit, SpawnError, Stage, Stuck};
use superd::machine::signal::Signal;
use superd::machine::spec::To;
use superd::machine::time::Tick;
use superd::machine::timer::Clock;
use superd::machine::zone::Zone;

use crate::dice::Dice;

/// One run of one service.
pub type Key = (ServiceId, Instance);

/// What is going to happen.
#[derive(Clone, Debug)]
pub enum Thing {
    Fork(Key),
    Exec(Key),
    /// The main process with this number (MAINPID= makes another one the main one).
    Dies(Key, usize, Exit, Option<Crash>),
    HandsOver(Key),
    OrphanDies(Key, usize),
    ActionEnds(Key, ActionId, Outcome),
    /// What hooks have left behind is dead.
    LitterGoes(ServiceId),
    SaysStopping(Key),
    ReadsNotice(Key),
    Says(Key, Notice),
    PortsClose(Key),
    Output(Key),
    /// The output of one that has become ready.
    Opens(Key),
    Connections(Key, u32),
    Rival(Key),
    /// Interfaces come and go, and so does the time.
    World,
    /// Somebody is at the files of a service.
    Edited(ServiceId),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    Forking,
    Forked,
    Running,
    Reaped,
}

/// How a process takes a wish to stop.
#[derive(Clone, Debug)]
enum OnStop {
    Ends(Duration, i32),
    Panics(Duration),
    Never,
}

#[derive(Clone, Debug)]
struct Orphan {
    alive: bool,
    /// Ends so long after a TERM; none: ignores it.
    term: Option<Duration>,
    /// Ends together with the main process.
    faithful: bool,
    forks: bool,
    hang: Duration,
}

/// A fake service process and its tree.
#[derive(Debug)]
pub struct Child {
    pub stage: Life,
    on_stop: OnStop,
    /// A second stop wish while it is stopping makes it panic (Caddy, NATS, Air, go2rtc).
    fragile: bool,
    says_stopping: Option<Duration>,
    pub stopping: bool,
    unread: u32,
    hang: Duration,
    orphans: Vec<Orphan>,
    ports_open: bool,
    ports_outlive: bool,
    /// superd has no cgroups, and somebody has just died: what it sees proves nothing.
    unsure: bool,
    watched: bool,
    exec_fails: bool,
    /// Of the main processes before this one: which orphan each is now.
    before: Vec<usize>,
}

impl Child {
    pub fn orphans_alive(&self) -> u32 {
        self.orphans.iter().filter(|o| o.alive).count() as u32
    }

    pub fn tree(&self) -> u32 {
        self.orphans_alive() + u32::from(matches!(self.stage, Life::Forked | Life::Running))
    }
}

#[derive(Debug)]
pub struct World {
    pub dice: Dice,
    pub now: Tick,
    /// No more faults and no more ideas of their own: everybody comes to an end.
    pub calm: bool,
    pub children: BTreeMap<Key, Child>,
    pub due: BTreeMap<(Tick, u64), Thing>,
    /// Services that are to end by themselves.
    pub oneshots: BTreeSet<ServiceId>,
    /// Who looks out for what, and what each was told.
    pub outlooks: BTreeMap<ServiceId, (Rc<WaitFor>, Vec<Condition>)>,
    /// What the wall clock is ahead of `now`, in nanoseconds.
    wall: i64,
    /// How long the machine has slept, in nanoseconds.
    slept: u64,
    /// Somebody wants to know when the wall clock is set.
    pub clock_is_watched: bool,
    /// The files of each service that has some.
    pub files: BTreeMap<ServiceId, Vec<Print>>,
    /// Whose files are looked after, and what was told.
    pub watched: BTreeMap<ServiceId, Vec<Print>>,
    /// Hooks whose command runs.
    pub hooks: BTreeMap<ActionId, Key>,
    /// What hooks have left behind: so many processes.
    pub litter: BTreeMap<ServiceId, u32>,
    /// What is there now.
    there: Vec<Condition>,
    count: u64,
    pids: i32,
}

fn crash() -> Option<Crash> {
    Some(Crash {
        kind: "go-panic".to_owned(),
        text: "close of closed channel".to_owned(),
        frame: String::new(),
        frames: Vec::new(),
    })
}

impl World {
    pub fn new(seed: u64, now: Tick) -> World {
        World {
            dice: Dice::new(seed),
            now,
            calm: false,
            children: BTreeMap::new(),
            due: BTreeMap::new(),
            oneshots: BTreeSet::new(),
            outlooks: BTreeMap::new(),
            // It has not been told yet what year it is.
            wall: 0,
            slept: 0,
            clock_is_watched: false,
            files: BTreeMap::new(),
            watched: BTreeMap::new(),
            hooks: BTreeMap::new(),
            litter: BTreeMap::new(),
            there: Vec::new(),
            count: 0,
            pids: 1,
        }
    }

    pub fn plan(&mut self, after: Duration, thing: Thing) {
        self.count += 1;
        self.due.insert((self.now + after, self.count), thing);
    }

    pub fn next(&self) -> Option<Tick> {
        self.due.keys().next().map(|(t, _)| *t)
    }

    fn soon(&mut self) -> Duration {
        match self.dice.below(5) {
            0 | 1 => Duration::ZERO,
            2 => Duration::from_micros(self.dice.below(900)),
            3 => self.dice.ms(20),
            _ => self.dice.ms(4_000),
        }
    }

    /// How long SIGKILL takes; a process in D state takes its time.
    fn hang(&mut self) -> Duration {
        match self.dice.below(20) {
            0 => self.dice.ms(100_000),
            1..=9 => Duration::ZERO,
            _ => self.dice.ms(5),
        }
    }

    fn orphan(&mut self, forks: bool) -> Orphan {
        Orphan {
            alive: true,
            term: match self.dice.chance(60) {
                true => Some(self.soon()),
                false => None,
            },
            faithful: self.dice.chance(40),
            forks: forks && self.dice.chance(20),
            hang: self.hang(),
        }
    }

    fn newborn(&mut self) -> Child {
        let stop = match self.dice.below(12) {
            0 | 1 if !self.calm => OnStop::Never,
            2 if !self.calm => OnStop::Panics(self.soon()),
            3..=8 => OnStop::Ends(self.dice.ms(50), 0),
            _ => OnStop::Ends(self.soon(), *self.dice.pick(&[0, 0, 1, 3])),
        };
        let many = match self.dice.below(4) {
            0 => 1 + self.dice.below(3),
            _ => 0,
        };
        Child {
            stage: Life::Forking,
            on_stop: stop,
            fragile: self.dice.chance(50),
            says_stopping: match self.dice.chance(40) {
                true => Some(self.soon()),
                false => None,
            },
            stopping: false,
            unread: 0,
            hang: self.hang(),
            orphans: (0..many).map(|_| self.orphan(true)).collect(),
            ports_open: self.dice.chance(70),
            ports_outlive: self.dice.chance(3),
            unsure: self.dice.chance(20),
            watched: false,
            exec_fails: !self.calm && self.dice.chance(4),
            before: Vec::new(),
        }
    }

    /// Does what the effect says. Events that the daemon has in the same turn come back.
    pub fn perform(&mut self, effect: &Effect, out: &mut Vec<Event>) {
        match effect {
            Effect::Spawn(s, i) => self.spawn((*s, *i), out),
            Effect::Signal(s, i, signal, to) => self.signal((*s, *i), *signal, *to),
            Effect::KillTree(s, i) => self.kill((*s, *i)),
            Effect::Run(s, i, a, _) | Effect::Verify(s, i, a, _) | Effect::Http(s, i, a, _) => {
                self.act((*s, *i), *a, out);
            }
            Effect::Hook(s, i, a, _) => self.hook((*s, *i), *a, out),
            Effect::EndAction(_, _, a) => {
                // Its end is told later, and nobody is to care.
                if let Some(key) = self.hooks.get(a).copied() {
                    let (pause, why) = (self.hang(), "killed".to_owned());
                    self.plan(pause, Thing::ActionEnds(key, *a, Outcome::Unhappy(why)));
                }
            }
            Effect::Probe(s, i, a, _) => self.probe((*s, *i), *a, out),
            Effect::Drain(s, i, a, _) => self.drain((*s, *i), *a, out),
            Effect::WatchOutput(s, i, _) => {
                if let Some(child) = self.children.get_mut(&(*s, *i)) {
                    child.watched = true;
                    let stopping = child.stopping;
                    if stopping && self.dice.chance(70) {
                        let pause = self.soon();
                        self.plan(pause, Thing::Output((*s, *i)));
                    }
                }
            }
            Effect::NotePorts(s, i) => {
                let child = self.children.get(&(*s, *i));
                let open = child.is_some_and(|c| c.ports_open);
                out.push(Event::PortsNoted(*s, *i, u32::from(open)));
            }
            Effect::Check(s, i, check) => self.look((*s, *i), *check, out),
            Effect::Look(s, i) => {
                let stuck = self.children.contains_key(&(*s, *i)).then(stuck);
                out.push(Event::Looked(*s, *i, stuck.into_iter().collect()));
            }
            Effect::LookOut(s, Some(what)) => {
                let missing = self.missing(what);
                self.outlooks.insert(*s, (what.clone(), missing.clone()));
                out.push(Event::World(*s, missing));
                let pause = self.soon();
                self.plan(pause, Thing::World);
            }
            Effect::LookOut(s, None) => {
                self.outlooks.remove(s);
            }
            Effect::WatchClock(wanted) => self.clock_is_watched = *wanted,
            Effect::ReadClock => out.push(self.clock()),
            Effect::WatchFiles(s, Some(watched)) => {
                let now = self
                    .files
                    .entry(*s)
                    .or_insert_with(|| vec![1; watched.files.len()]);
                self.watched.insert(*s, now.clone());
                out.push(Event::Files(*s, now.clone()));
                if !self.calm && self.dice.chance(50) {
                    let pause = self.soon();
                    self.plan(pause, Thing::Edited(*s));
                }
            }
            Effect::WatchFiles(s, None) => {
                self.watched.remove(s);
            }
            Effect::Release(s, i) => {
                self.children.remove(&(*s, *i));
            }
            Effect::Watch(s, i, Some(_)) => {
                for _ in 0..self.dice.below(6) {
                    let (pause, n) = (self.soon(), self.dice.below(40) as u32);
                    self.plan(pause, Thing::Connections((*s, *i), n));
                }
            }
            Effect::NoteFile(..)
            | Effect::Watch(_, _, None)
            | Effect::Limit(..)
            | Effect::LetGo(..)
            | Effect::Wake(..)
            | Effect::Forget(_)
            | Effect::Reply(..)
            | Effect::Publish(..)
            | Effect::Finish => {}
        }
    }

    fn clock(&self) -> Event {
        Event::Clock(Rc::new(Clock {
            at: self.now,
            unix: self.now.0 as i64 + self.wall,
            boot: self.now.0 + self.slept,
            zone: Rc::new(Zone::default()),
        }))
    }

    /// The wall clock is set, or the machine has slept.
    pub fn jump(&mut self, out: &mut Vec<Event>) {
        const SECOND: u64 = 1_000_000_000;
        const DAY: u64 = 86_400 * SECOND;
        let by = match self.dice.below(5) {
            0 => self.dice.below(SECOND),
            1 => self.dice.below(DAY),
            2 => DAY,
            3 => self.dice.below(9 * DAY),
            _ => 50 * 365 * DAY,
        };
        match self.dice.below(4) {
            0 => {
                let by = by.min(9 * DAY);
                self.slept += by;
                self.wall += by as i64;
            }
            1 => self.wall -= (by as i64).min(self.wall + self.now.0 as i64),
            // Not to where the sums of nanoseconds end.
            _ if self.wall > 150 * 365 * DAY as i64 => self.wall = 0,
            _ => self.wall += by as i64,
        }
        if self.clock_is_watched {
            out.push(self.clock());
        }
    }

    fn missing(&self, what: &WaitFor) -> Vec<Condition> {
        let is_missing = |c: &&Condition| !self.there.contains(c);
        what.all.iter().filter(is_missing).cloned().collect()
    }

    /// Something comes or goes; in the end everything is there.
    fn change(&mut self, out: &mut Vec<Event>) {
        for what in [Condition::Interface("wan".into()), Condition::Synced] {
            let is_there = self.calm || self.dice.chance(60);
            self.there.retain(|c| *c != what);
            if is_there {
                self.there.push(what);
            }
        }
        let asked: Vec<ServiceId> = self.outlooks.keys().copied().collect();
        for id in asked {
            let Some((what, told)) = self.outlooks.get(&id) else {
                continue;
            };
            let missing = self.missing(what);
            if missing != *told {
                let what = what.clone();
                self.outlooks.insert(id, (what, missing.clone()));
                out.push(Event::World(id, missing));
            }
        }
        if !self.calm && !self.outlooks.is_empty() {
            let pause = self.soon();
            self.plan(pause, Thing::World);
        }
    }

    /// A file is written, removed, or put back as it was; in the end all are there.
    fn edit(&mut self, id: ServiceId, out: &mut Vec<Event>) {
        let n = self.dice.below(2) as usize;
        let print = match self.calm {
            true => 1 + self.dice.below(3),
            false => self.dice.below(4),
        };
        let Some(files) = self.files.get_mut(&id) else {
            return;
        };
        if let Some(file) = files.get_mut(n) {
            *file = print;
        }
        if self.calm {
            files.iter_mut().for_each(|f| *f = (*f).max(1));
        }
        let now = files.clone();
        if self.watched.get(&id).is_some_and(|told| *told != now) {
            self.watched.insert(id, now.clone());
            out.push(Event::Files(id, now));
        }
        if !self.calm && self.dice.chance(60) {
            let pause = self.soon();
            self.plan(pause, Thing::Edited(id));
        }
    }

    fn spawn(&mut self, key: Key, out: &mut Vec<Event>) {
        let child = self.newborn();
        self.children.insert(key, child);
        match self.dice.chance(70) {
            true => self.fork(key, out),
            false => {
                let pause = self.dice.ms(2);
                self.plan(pause, Thing::Fork(key));
            }
        }
    }

    fn fork(&mut self, key: Key, out: &mut Vec<Event>) {
        if !self.calm && self.dice.chance(4) {
            self.children.remove(&key);
            let errno = *self.dice.pick(&[libc::EAGAIN, libc::EAGAIN, libc::EPERM]);
            out.push(Event::NotSpawned(key.0, key.1, error(Stage::Fork, errno)));
            return;
        }
        self.pids += 1;
        out.push(Event::Spawned(key.0, key.1, Pid(self.pids)));
        if let Some(child) = self.children.get_mut(&key) {
            child.stage = Life::Forked;
        }
        let pause = self.dice.ms(3);
        self.plan(pause, Thing::Exec(key));
    }

    fn exec(&mut self, key: Key, out: &mut Vec<Event>) {
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        if child.stage != Life::Forked {
            return;
        }
        if child.exec_fails {
            child.orphans.clear();
            child.ports_open = false;
            let errno = *self.dice.pick(&[libc::ENOENT, libc::EACCES, libc::ETXTBSY]);
            out.push(Event::ExecFailed(key.0, key.1, error(Stage::Exec, errno)));
            self.plan(Duration::ZERO, Thing::Dies(key, 0, Exit::Code(127), None));
            return;
        }
        child.stage = Life::Running;
        out.push(Event::Execed(key.0, key.1));
        self.become_ready(key);
        if self.oneshots.contains(&key.0) {
            let (pause, status) = match self.calm {
                true => (self.dice.ms(3), 0),
                false => (self.soon(), *self.dice.pick(&[0, 0, 3, 1])),
            };
            self.plan(pause, Thing::Dies(key, 0, Exit::Code(status), None));
        }
        if self.calm {
            return;
        }
        match self.dice.below(8) {
            0 => {
                let life = self.soon();
                let (exit, crash) = match self.dice.below(4) {
                    0 => (Exit::Code(0), None),
                    1 => (Exit::Code(2), crash()),
                    2 => (Exit::Signal(Signal(libc::SIGSEGV)), None),
                    _ => (Exit::Code(1), None),
                };
                self.plan(life, Thing::Dies(key, 0, exit, crash));
            }
            1 => {
                let life = self.soon();
                self.plan(life, Thing::Rival(key));
            }
            2 => {
                let pause = self.soon();
                let thing = match self.dice.below(8) {
                    6 => Thing::Says(key, Notice::Watchdog),
                    7 => Thing::Says(key, Notice::WatchdogTrigger),
                    0 => Thing::Says(key, Notice::Ready),
                    1 => Thing::Says(key, Notice::Reloading),
                    2 => Thing::Says(key, Notice::Status("busy".to_owned())),
                    3 => Thing::Says(key, Notice::NotMain(Pid(77), "gone".to_owned())),
                    _ => Thing::HandsOver(key),
                };
                self.plan(pause, thing);
            }
            _ => {}
        }
    }

    /// A wish to stop reaches the main process, from whomever.
    fn wish(&mut self, key: Key) {
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        let main = child.before.len();
        match child.stage {
            Life::Forking | Life::Reaped => return,
            Life::Forked => {
                self.plan(
                    Duration::ZERO,
                    Thing::Dies(key, main, Exit::Signal(Signal::TERM), None),
                );
                return;
            }
            Life::Running => {}
        }
        if child.stopping {
            if child.fragile {
                self.plan(
                    Duration::ZERO,
                    Thing::Dies(key, main, Exit::Code(2), crash()),
                );
            }
            return;
        }
        child.stopping = true;
        let (on_stop, says, watched) = (child.on_stop.clone(), child.says_stopping, child.watched);
        match on_stop {
            OnStop::Ends(pause, status) => {
                self.plan(pause, Thing::Dies(key, main, Exit::Code(status), None));
            }
            OnStop::Panics(pause) => {
                self.plan(pause, Thing::Dies(key, main, Exit::Code(2), crash()));
            }
            OnStop::Never => {}
        }
        if let Some(pause) = says {
            self.plan(pause, Thing::SaysStopping(key));
        }
        if self.dice.chance(60) {
            let pause = self.soon();
            self.plan(pause, Thing::PortsClose(key));
        }
        if watched && self.dice.chance(60) {
            let pause = self.soon();
            self.plan(pause, Thing::Output(key));
        }
    }

    fn signal(&mut self, key: Key, signal: Signal, to: To) {
        let wishes = [Signal::TERM, Signal::INT, Signal::QUIT];
        let main = matches!(to, To::Main | To::Group | To::Tree);
        if main && wishes.contains(&signal) {
            self.wish(key);
        }
        if main && signal == Signal::USR2 {
            let pause = self.soon();
            self.plan(pause, Thing::PortsClose(key));
        }
        if to == To::Main || !wishes.contains(&signal) {
            return;
        }
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        let mut ends = Vec::new();
        let mut forks = 0;
        for (n, orphan) in child.orphans.iter_mut().enumerate() {
            if let (true, Some(pause)) = (orphan.alive, orphan.term) {
                ends.push((pause, n));
            }
            if orphan.alive && std::mem::take(&mut orphan.forks) {
                forks += 1;
            }
        }
        for (pause, n) in ends {
            self.plan(pause, Thing::OrphanDies(key, n));
        }
        for _ in 0..forks {
            let orphan = self.orphan(false);
            if let Some(child) = self.children.get_mut(&key) {
                child.orphans.push(orphan);
            }
        }
    }

    fn kill(&mut self, key: Key) {
        let Some(child) = self.children.get(&key) else {
            return;
        };
        let number = child.before.len();
        let main = matches!(child.stage, Life::Forked | Life::Running).then_some(child.hang);
        let ends: Vec<(Duration, usize)> = child
            .orphans
            .iter()
            .enumerate()
            .filter(|(_, o)| o.alive)
            .map(|(n, o)| (o.hang, n))
            .collect();
        if let Some(pause) = main {
            let exit = Exit::Signal(Signal::KILL);
            self.plan(pause, Thing::Dies(key, number, exit, None));
        }
        for (pause, n) in ends {
            self.plan(pause, Thing::OrphanDies(key, n));
        }
    }

    fn act(&mut self, key: Key, action: ActionId, out: &mut Vec<Event>) {
        let ended = |outcome| Event::ActionEnded(key.0, key.1, action, outcome);
        match self.dice.below(8) {
            0 => out.push(ended(Outcome::NotTried("no such command".to_owned()))),
            1 => {
                let (pause, why) = (self.soon(), "connection refused".to_owned());
                self.plan(
                    pause,
                    Thing::ActionEnds(key, action, Outcome::Impossible(why)),
                );
            }
            2 => {
                let (pause, why) = (self.soon(), "status 1".to_owned());
                self.plan(pause, Thing::ActionEnds(key, action, Outcome::Unhappy(why)));
            }
            3 => {
                // And does not return until the daemon loses patience.
                self.wish(key);
                let (pause, why) = (Duration::from_secs(100), "took too long".to_owned());
                self.plan(pause, Thing::ActionEnds(key, action, Outcome::Unhappy(why)));
            }
            _ => {
                self.wish(key);
                let pause = self.soon();
                self.plan(pause, Thing::ActionEnds(key, action, Outcome::Done));
            }
        }
    }

    /// A hook: it may fail, hang, and leave processes behind.
    fn hook(&mut self, key: Key, action: ActionId, out: &mut Vec<Event>) {
        let ended = |outcome| Event::ActionEnded(key.0, key.1, action, outcome);
        let outcome = match self.dice.below(8) {
            _ if self.calm => Outcome::Done,
            0 => {
                out.push(ended(Outcome::NotTried("no such command".to_owned())));
                return;
            }
            1 | 2 => Outcome::Unhappy("status 1".to_owned()),
            _ => Outcome::Done,
        };
        self.hooks.insert(action, key);
        let pause = match self.dice.below(6) {
            0 if !self.calm => Duration::from_secs(1_000),
            _ => self.soon(),
        };
        self.plan(pause, Thing::ActionEnds(key, action, outcome));
    }

    fn hook_ends(&mut self, action: ActionId) {
        if let Some((id, _)) = self.hooks.remove(&action) {
            let left = match self.dice.below(4) {
                0 => 1 + self.dice.below(2) as u32,
                _ => 0,
            };
            if left > 0 {
                *self.litter.entry(id).or_default() += left;
                let pause = self.hang();
                self.plan(pause, Thing::LitterGoes(id));
            }
        }
    }

    /// Processes of hooks of this service that are alive.
    pub fn of_hooks(&self, id: ServiceId) -> u32 {
        let running = self.hooks.values().filter(|(s, _)| *s == id).count() as u32;
        running + self.litter.get(&id).copied().unwrap_or(0)
    }

    /// Is it ready? In the end it is.
    fn probe(&mut self, key: Key, action: ActionId, out: &mut Vec<Event>) {
        let outcome = match self.dice.below(6) {
            _ if self.calm => Outcome::Done,
            0 | 1 => Outcome::Done,
            2 => Outcome::Unhappy("HTTP 503".to_owned()),
            // No answer at all.
            3 => return,
            4 => Outcome::NotTried("too many open files".to_owned()),
            _ => Outcome::Impossible("connection refused".to_owned()),
        };
        match self.dice.chance(40) {
            true => out.push(Event::ActionEnded(key.0, key.1, action, outcome)),
            false => {
                let pause = match self.calm {
                    true => Duration::ZERO,
                    false => self.soon(),
                };
                self.plan(pause, Thing::ActionEnds(key, action, outcome));
            }
        }
    }

    /// It tells that it is ready, in the ways in which a service can.
    fn become_ready(&mut self, key: Key) {
        if !self.calm && self.dice.chance(25) {
            return;
        }
        let pause = match self.calm {
            true => Duration::ZERO,
            false => self.soon(),
        };
        if !self.calm && self.dice.chance(20) {
            let more = Notice::Extend(self.dice.ms(5_000));
            self.plan(pause / 2, Thing::Says(key, more));
        }
        self.plan(pause, Thing::Says(key, Notice::Ready));
        self.plan(pause, Thing::Opens(key));
    }

    fn drain(&mut self, key: Key, action: ActionId, out: &mut Vec<Event>) {
        let why = "no pidfd_getfd".to_owned();
        if self.dice.chance(50) {
            let n = self.dice.below(3) as u32;
            out.push(Event::Connections(key.0, key.1, n));
        }
        match self.dice.below(4) {
            0 => out.push(Event::ActionEnded(
                key.0,
                key.1,
                action,
                Outcome::Impossible(why),
            )),
            1 => {
                // Longer than the patience of any schedule.
                let pause = Duration::from_secs(1000);
                self.plan(pause, Thing::ActionEnds(key, action, Outcome::Done));
            }
            _ => {
                let pause = self.soon();
                self.plan(pause, Thing::ActionEnds(key, action, Outcome::Done));
            }
        }
    }

    fn look(&mut self, key: Key, check: Check, out: &mut Vec<Event>) {
        let mut unread = 0;
        let of_hooks = self.of_hooks(key.0);
        let found = match self.children.get_mut(&key) {
            _ if check == Check::Commands => of_hooks,
            None => 0,
            Some(child) => match check {
                Check::Notify => {
                    unread = std::mem::take(&mut child.unread);
                    0
                }
                Check::Ports => {
                    let held = child.tree() > 0 || child.ports_outlive;
                    u32::from(child.ports_open && held)
                }
                Check::Descendants => child.orphans_alive(),
                Check::Tree => child.tree(),
                Check::Commands => of_hooks,
            },
        };
        for _ in 0..unread {
            out.push(Event::Notified(key.0, key.1, Notice::Stopping));
        }
        out.push(Event::Checked(key.0, key.1, check, Found(found)));
    }

    /// The next thing that is due happens; what the daemon hears of it comes back.
    pub fn happen(&mut self, out: &mut Vec<Event>) -> Option<Thing> {
        let (_, thing) = self.due.pop_first()?;
        match thing.clone() {
            Thing::Fork(key) => self.fork(key, out),
            Thing::Exec(key) => self.exec(key, out),
            Thing::Dies(key, main, exit, crash) => self.die(key, main, exit, crash, out),
            Thing::HandsOver(key) => self.hand_over(key, out),
            Thing::OrphanDies(key, n) => self.orphan_dies(key, n, out),
            Thing::ActionEnds(key, action, outcome) => {
                // Also when it is over: the daemon may have it in its queue already.
                self.hook_ends(action);
                out.push(Event::ActionEnded(key.0, key.1, action, outcome));
            }
            Thing::LitterGoes(id) => {
                self.litter.remove(&id);
                if self.dice.chance(80) {
                    out.push(Event::OrphanReaped);
                }
            }
            Thing::SaysStopping(key) => {
                if let Some(child) = self.children.get_mut(&key) {
                    if child.stage == Life::Running {
                        child.unread += 1;
                        let pause = self.dice.ms(2);
                        self.plan(pause, Thing::ReadsNotice(key));
                    }
                }
            }
            Thing::ReadsNotice(key) => {
                if let Some(child) = self.children.get_mut(&key) {
                    for _ in 0..std::mem::take(&mut child.unread) {
                        out.push(Event::Notified(key.0, key.1, Notice::Stopping));
                    }
                }
            }
            Thing::Says(key, notice) => out.push(Event::Notified(key.0, key.1, notice)),
            Thing::PortsClose(key) => {
                if let Some(child) = self.children.get_mut(&key) {
                    child.ports_open = false;
                }
            }
            Thing::Output(key) => {
                if self.children.contains_key(&key) {
                    out.push(Event::OutputMatched(key.0, key.1));
                }
            }
            Thing::Opens(key) => {
                let hears = |c: &Child| c.watched && !c.stopping && c.stage == Life::Running;
                if self.children.get(&key).is_some_and(hears) {
                    out.push(Event::OutputMatched(key.0, key.1));
                }
            }
            Thing::Connections(key, n) => {
                if self.children.contains_key(&key) {
                    out.push(Event::Connections(key.0, key.1, n));
                }
            }
            Thing::Rival(key) => self.wish(key),
            Thing::World => self.change(out),
            Thing::Edited(id) => self.edit(id, out),
        }
        Some(thing)
    }

    /// MAINPID=: another process with a character of its own is the main one, and the one
    /// before is a process like the others.
    fn hand_over(&mut self, key: Key, out: &mut Vec<Event>) {
        let (heir, orphan) = (self.newborn(), self.orphan(false));
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        if child.stage != Life::Running || self.oneshots.contains(&key.0) {
            return;
        }
        self.pids += 1;
        child.before.push(child.orphans.len());
        child.orphans.push(orphan);
        child.on_stop = heir.on_stop;
        child.fragile = heir.fragile;
        child.stopping = false;
        child.hang = heir.hang;
        let main = child.before.len();
        out.push(Event::Notified(
            key.0,
            key.1,
            Notice::MainPid(Pid(self.pids)),
        ));
        if self.dice.chance(30) {
            let pause = self.soon();
            // Its parent is not superd.
            self.plan(pause, Thing::Dies(key, main, Exit::Unknown, None));
        }
    }

    fn die(
        &mut self,
        key: Key,
        main: usize,
        exit: Exit,
        crash: Option<Crash>,
        out: &mut Vec<Event>,
    ) {
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        if let Some(orphan) = child.before.get(main) {
            let orphan = *orphan;
            return self.orphan_dies(key, orphan, out);
        }
        if !matches!(child.stage, Life::Forked | Life::Running) {
            return;
        }
        child.stage = Life::Reaped;
        for orphan in child.orphans.iter_mut().filter(|o| o.faithful) {
            orphan.alive = false;
        }
        // As superd sees it without cgroups, when somebody has just died.
        let left = match child.unsure {
            true if child.orphans_alive() == 0 => None,
            _ => Some(child.orphans_alive()),
        };
        for _ in 0..std::mem::take(&mut child.unread) {
            out.push(Event::Notified(key.0, key.1, Notice::Stopping));
        }
        out.push(Event::Exited {
            service: key.0,
            instance: key.1,
            exit,
            crash,
            left,
        });
    }

    fn orphan_dies(&mut self, key: Key, n: usize, out: &mut Vec<Event>) {
        let heard = self.dice.chance(80);
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        let Some(orphan) = child.orphans.get_mut(n) else {
            return;
        };
        if std::mem::take(&mut orphan.alive) && heard {
            out.push(Event::OrphanReaped);
        }
    }
}

fn error(stage: Stage, errno: i32) -> SpawnError {
    SpawnError {
        stage,
        thing: String::new(),
        errno,
        cause: format!("errno {errno}"),
    }
}

fn stuck() -> Stuck {
    Stuck {
        pid: Pid(2),
        name: "deaf".to_owned(),
        state: 'S',
        wchan: String::new(),
        threads: 1,
        listens: Vec::new(),
    }
}
