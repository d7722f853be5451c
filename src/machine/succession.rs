//! superd killed at every point of a life of a service, and a successor that goes on: no
//! second instance, no signal twice, nothing left in the end.
//!
//! The journal is written as the daemon does it: before each effect that weighs (before a
//! start only that it begins), and at the end of a turn. A point is before that, after it, and after the effect itself.
//!
//! Longer than a file should be: a superd, its journal and the world that it dies in are played here.

use std::collections::VecDeque;
use std::rc::Rc;

use super::event::{
    ActionId, Adopted, Change, Check, Effect, Event, Found, Instance, Outcome, Pid, Presence,
    ServiceId, Target, Ticket, Verb, Wait,
};
use super::hook::{Hook, Hooks, Kind};
use super::keep::Whole;
use super::memory::{Begun, Memory};
use super::ready::{Probe, Question, Ready, Sign};
use super::report::{Exit, Origin};
use super::rig::{by, ms, schedule, signal, step, A};
use super::service::State;
use super::signal::Signal;
use super::spec::{Action, Policy, Spec, Step, To, Until};
use super::supervisor::{Ending, Supervisor};
use super::testing::spec;
use super::time::Tick;
use crate::map::Map;

/// What ends the main process, and how many processes it leaves.
#[derive(Clone, Copy)]
struct Character {
    ends_by: Option<Signal>,
    leaves: u32,
    leftovers_end_by_term: bool,
    /// It ends by itself so many milliseconds after its start, the first few times.
    crashes: Option<(u64, u32)>,
    ports_close_by: Option<Signal>,
}

struct Process {
    pid: i32,
    instance: Instance,
    born: Tick,
}

#[derive(Default, PartialEq, Debug)]
struct Counts {
    spawns: u32,
    signals: Map<(i32, Signal), u32>,
    leftover_terms: Map<i32, u32>,
    runs: Map<ActionId, u32>,
    hooks: Map<(Instance, String), u32>,
    spawned: Vec<Instance>,
}

struct World {
    spec: Spec,
    who: Character,
    now: Tick,
    machine: Supervisor,
    journal: Option<String>,
    /// The start that was written down after that.
    begun: Option<String>,
    main: Option<Process>,
    leftovers: u32,
    last_pid: i32,
    ports_open: bool,
    counts: Counts,
    events: VecDeque<Event>,
    /// Points until superd is killed, from one killing to the next.
    kills: Vec<u32>,
    points: u32,
    dead: bool,
    killed: usize,
    /// superd becomes another program after each turn that did something.
    upgrades: Option<u32>,
    /// Requests so far, and how often each was answered.
    asked: u64,
    answered: Map<u64, u32>,
}

impl World {
    fn new(spec: Spec, who: Character, kills: &[u32]) -> World {
        let mut kills = kills.to_vec();
        kills.reverse();
        World {
            spec,
            who,
            now: Tick(1_000_000_000),
            machine: Supervisor::new(1, Ending::WhenAsked),
            journal: None,
            begun: None,
            main: None,
            leftovers: 0,
            last_pid: 100,
            ports_open: false,
            counts: Counts::default(),
            events: VecDeque::new(),
            kills,
            points: 0,
            dead: false,
            killed: 0,
            upgrades: None,
            asked: 0,
            answered: Map::new(),
        }
    }

    /// A moment at which superd may be killed. True: it was.
    fn point(&mut self) -> bool {
        self.points += 1;
        if let Some(left) = self.kills.last_mut() {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => {
                    self.kills.pop();
                    self.dead = true;
                }
            }
        }
        self.dead
    }

    fn write_journal(&mut self) {
        let memory = self.machine.service(A).map(Memory::of);
        self.journal = memory.map(|m| crate::json::to_string(&m).unwrap());
        self.begun = None;
    }

    /// Before an effect that weighs.
    fn write_before(&mut self, effect: &Effect) {
        let begun = match effect {
            Effect::Spawn(s, i) => self.machine.service(*s).and_then(|s| Begun::of(s, *i)),
            _ => None,
        };
        match begun {
            Some(begun) => self.begun = Some(crate::json::to_string(&begun).unwrap()),
            None => self.write_journal(),
        }
    }

    fn hear(&mut self, event: Event) {
        self.events.push_back(event);
        self.work();
    }

    /// The machine is written down whole, and another one goes on from that.
    fn become_another(&mut self) {
        let Some(n) = &mut self.upgrades else { return };
        *n += 1;
        let whole = crate::json::to_string(&self.machine.keep()).unwrap();
        let whole: Whole = crate::json::from_str(&whole).unwrap();
        let spec = self.spec.clone();
        assert_eq!(whole.fault(|_| Some(spec.clone())), None);
        let before = format!("{:?}", self.machine.service(A).map(Memory::of));
        let shared = Rc::new(self.spec.clone());
        let mut effects = Vec::new();
        self.machine = Supervisor::new(u64::from(*n), Ending::WhenAsked);
        let spec = |_| Some(shared.clone());
        self.machine.go_on(whole, spec, self.now, &mut effects);
        for effect in &effects {
            // Nothing is done, only looked at; what a drain holds back it holds back already.
            let looks = matches!(
                effect,
                Effect::Check(..)
                    | Effect::NotePorts(..)
                    | Effect::WatchOutput(..)
                    | Effect::Drain(..)
            );
            assert!(looks, "{effect:?} after {before}");
        }
        self.perform(effects);
    }

    /// One turn of the loop; when superd is killed in it, the next one begins.
    fn work(&mut self) {
        self.turn();
        if self.upgrades.is_some() {
            self.become_another();
            self.turn();
        }
    }

    fn turn(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let mut effects = Vec::new();
            self.machine.handle(self.now, event, &mut effects);
            self.perform(effects);
            if self.dead {
                self.succeed();
            }
        }
        self.write_journal();
        if self.point() {
            self.succeed();
            self.turn();
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if self.point() {
                return;
            }
            if effect.weighs() {
                self.write_before(&effect);
                if self.point() {
                    return;
                }
            }
            self.carry_out(effect);
        }
        self.point();
    }

    fn main_of(&self, instance: Instance) -> Option<i32> {
        let main = self.main.as_ref().filter(|m| m.instance == instance);
        main.map(|m| m.pid)
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn(s, i) => {
                assert!(self.main.is_none() && self.leftovers == 0, "never two");
                self.counts.spawns += 1;
                self.counts.spawned.push(i);
                self.last_pid += 1;
                self.ports_open = true;
                self.main = Some(Process {
                    pid: self.last_pid,
                    instance: i,
                    born: self.now,
                });
                self.events
                    .push_back(Event::Spawned(s, i, Pid(self.last_pid)));
                self.events.push_back(Event::Execed(s, i));
            }
            Effect::Signal(s, i, signal, to) => {
                if let (To::Main | To::Tree, Some(pid)) = (to, self.main_of(i)) {
                    *self.counts.signals.entry((pid, signal)).or_default() += 1;
                    if self.who.ports_close_by == Some(signal) {
                        self.ports_open = false;
                    }
                    if self.who.ends_by == Some(signal) {
                        self.ends(s, Exit::Code(0));
                    }
                } else if to == To::Tree && self.leftovers > 0 {
                    *self.counts.leftover_terms.entry(self.last_pid).or_default() += 1;
                    if self.who.leftovers_end_by_term {
                        self.leftovers = 0;
                    }
                }
            }
            Effect::KillTree(s, i) => {
                self.leftovers = 0;
                if self.main_of(i).is_some() {
                    self.ends(s, Exit::Signal(Signal::KILL));
                    self.leftovers = 0;
                }
            }
            Effect::Run(s, i, action, _) | Effect::Verify(s, i, action, _) => {
                *self.counts.runs.entry(action).or_default() += 1;
                self.events
                    .push_back(Event::ActionEnded(s, i, action, Outcome::Done));
            }
            Effect::Hook(s, i, action, call) => {
                assert!(
                    call.kind == Kind::PostStart
                        || self.main.is_none() && self.leftovers == 0
                        || call.kind == Kind::PreStop,
                    "{} beside it",
                    call.kind
                );
                *self
                    .counts
                    .hooks
                    .entry((i, call.kind.to_string()))
                    .or_default() += 1;
                self.events
                    .push_back(Event::ActionEnded(s, i, action, Outcome::Done));
            }
            Effect::Check(s, i, check) => {
                let found = match check {
                    Check::Notify | Check::Commands => 0,
                    Check::Ports => u32::from(self.ports_open && self.main.is_some()),
                    Check::Descendants => 0,
                    Check::Tree => self.leftovers + u32::from(self.main.is_some()),
                };
                self.events
                    .push_back(Event::Checked(s, i, check, Found(found)));
            }
            Effect::Reply(ticket, _) => {
                *self.answered.entry(ticket.request).or_default() += 1;
            }
            Effect::NotePorts(s, i) => self.events.push_back(Event::PortsNoted(s, i, 1)),
            Effect::Http(..)
            | Effect::Drain(..)
            | Effect::LetGo(..)
            | Effect::Limit(..)
            | Effect::Watch(..)
            | Effect::Wake(..)
            | Effect::Look(..)
            | Effect::EndAction(..)
            | Effect::WatchOutput(..)
            | Effect::Release(..)
            | Effect::Forget(_)
            | Effect::Publish(..)
            | Effect::NoteFile(..)
            | Effect::LookOut(..)
            | Effect::WatchClock(_)
            | Effect::ReadClock
            | Effect::WatchFiles(..)
            | Effect::Finish => {}
            // Of its own accord, and after some time.
            Effect::Probe(s, i, a, _) => {
                self.events
                    .push_back(Event::ActionEnded(s, i, a, Outcome::Done))
            }
        }
    }

    fn ends(&mut self, service: ServiceId, exit: Exit) {
        let Some(main) = self.main.take() else { return };
        self.leftovers = self.who.leaves;
        self.events.push_back(Event::Exited {
            service,
            instance: main.instance,
            exit,
            crash: None,
            left: Some(self.leftovers),
        });
    }

    /// The next superd: what the last one had not been told, nobody knows any more.
    fn succeed(&mut self) {
        self.dead = false;
        self.killed += 1;
        self.events.clear();
        self.machine = Supervisor::new(2, Ending::WhenAsked);
        self.machine
            .number_actions_after(u64::from(self.points) << 32);
        let configure = |changed| Event::Configure {
            changed,
            gone: Vec::new(),
            by: Origin::Config,
        };
        let spec = Rc::new(self.spec.clone());
        let begun = self
            .begun
            .as_ref()
            .map(|b| crate::json::from_str(b).unwrap());
        let memory = match (&self.journal, begun) {
            (None, None) => {
                let new = configure(vec![(A, spec, Change::New)]);
                return self.events.push_back(new);
            }
            (None, Some(begun)) => Memory::of_start(begun),
            (Some(journal), begun) => {
                let mut memory: Memory = crate::json::from_str(journal).unwrap();
                if let Some(begun) = begun {
                    memory.begin(begun);
                }
                memory
            }
        };
        assert_eq!(memory.fault(&spec), None);
        let found = match &self.main {
            Some(main) => Presence::Running(Pid(main.pid)),
            None => Presence::Gone {
                crash: None,
                left: Some(self.leftovers),
            },
        };
        let (instance, actions) = (memory.instance(), memory.actions().collect::<Vec<_>>());
        self.events.push_back(Event::Adopt(Box::new(Adopted {
            service: A,
            spec,
            memory,
            found,
        })));
        self.events.push_back(configure(Vec::new()));
        for action in actions {
            let outcome = Outcome::Unhappy("nobody knows".to_owned());
            self.events
                .push_back(Event::ActionEnded(A, instance, action, outcome));
        }
    }

    /// Lets time pass until `is_over`, for some minutes.
    fn pass(&mut self, is_over: impl Fn(&World) -> bool) {
        self.work();
        for _ in 0..10_000 {
            if is_over(self) {
                return;
            }
            let crash = match (self.who.crashes, &self.main) {
                (Some((after, times)), Some(main)) if self.counts.spawns <= times => {
                    Some(main.born + ms(after))
                }
                _ => None,
            };
            let next = self.machine.next_deadline().into_iter().chain(crash).min();
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if crash.is_some_and(|t| t <= self.now) {
                self.ends(A, Exit::Code(1));
            } else {
                let mut effects = Vec::new();
                self.machine.handle_timeout(self.now, &mut effects);
                self.perform(effects);
                if self.dead {
                    self.succeed();
                }
            }
            self.work();
        }
        assert!(
            is_over(self),
            "it comes to rest: {:?}",
            self.machine.service(A)
        );
    }

    fn ask(&mut self, verb: Verb) {
        self.asked += 1;
        let ticket = self.upgrades.map(|_| Ticket {
            client: 1,
            request: self.asked,
        });
        self.hear(Event::Request {
            ticket,
            // One service, or all of them: there is one.
            target: match self.asked % 2 {
                0 => Target::One(A),
                _ => Target::All,
            },
            verb,
            wait: Wait::Done,
            by: by(),
        });
    }

    fn state(&self) -> &State {
        &self.machine.service(A).unwrap().state
    }

    /// Up, asked for something, up again or down, and a final stop.
    fn live(&mut self, verb: Verb) {
        self.hear(Event::Configure {
            changed: vec![(A, Rc::new(self.spec.clone()), Change::New)],
            gone: Vec::new(),
            by: Origin::Config,
        });
        let (times, calm) = (self.who.crashes.map_or(0, |(_, n)| n), self.who.crashes);
        self.pass(|w| {
            matches!(w.state(), State::Up(_)) && (calm.is_none() || w.counts.spawns > times)
        });
        self.ask(verb);
        self.pass(|w| matches!(w.state(), State::Up(_) | State::Down(_)));
        // Who is killed before it has heard a request has not heard it.
        self.ask(Verb::Stop);
        self.pass(|w| matches!(w.state(), State::Up(_) | State::Down(_)));
        self.kills.clear();
        self.ask(Verb::Stop);
        self.pass(|w| matches!(w.state(), State::Down(_)));
        assert!(
            self.main.is_none() && self.leftovers == 0,
            "nothing is left"
        );
        for (what, n) in &self.counts.signals {
            assert!(*n <= 1, "{what:?} {n} times");
        }
        for n in self.counts.leftover_terms.values() {
            assert!(*n <= 1, "leftovers get one TERM");
        }
        for n in self.counts.runs.values() {
            assert!(*n <= 1, "a command runs once");
        }
        for (what, n) in &self.counts.hooks {
            assert!(*n <= 1, "{what:?} {n} times");
        }
        // One that was written down and then, perhaps, begun is not begun again.
        let ran = |i: &Instance, kind: &str| self.counts.hooks.contains_key(&(*i, kind.to_owned()));
        let all = self.counts.spawned.iter();
        let all = all.filter(|_| self.spec.hooks.is_some());
        let missing = all.filter(|i| !ran(i, "pre-start") || !ran(i, "post-stop"));
        assert!(missing.count() <= self.killed, "{:?}", self.counts);
    }
}

#[test]
fn superd_that_becomes_another_program_after_every_turn_does_the_same() {
    let mut upgrades = 0;
    for (spec, who, verb) in lives() {
        let mut plain = World::new(spec.clone(), who, &[]);
        plain.live(verb);
        let mut other = World::new(spec, who, &[]);
        other.upgrades = Some(0);
        other.live(verb);
        assert_eq!(other.counts, plain.counts);
        assert!(other.asked >= 3);
        for request in 1..=other.asked {
            assert_eq!(other.answered.get(&request), Some(&1), "request {request}");
        }
        upgrades += other.upgrades.unwrap();
    }
    assert!(upgrades > 100, "{upgrades}");
    println!("{upgrades} upgrades");
}

fn lives() -> Vec<(Spec, Character, Verb)> {
    let base = |steps| Spec {
        stop: schedule(steps),
        ..spec("a")
    };
    let three = || {
        base(vec![
            step(signal(Signal::TERM), Until::Gone, 1000),
            step(signal(Signal::INT), Until::Gone, 1000),
            step(signal(Signal::QUIT), Until::Gone, 1000),
        ])
    };
    let who = Character {
        ends_by: Some(Signal::QUIT),
        leaves: 0,
        leftovers_end_by_term: false,
        crashes: None,
        ports_close_by: None,
    };
    let run = Action::Run(Rc::new(["/bin/true".to_owned()]));
    let mut settled = step(signal(Signal::USR2), Until::PortsClosed, 1000);
    settled.settle = ms(20);
    let mut crashing = three();
    crashing.restart.policy = Policy::Always;
    crashing.restart.delay = ms(200);
    let probe = Probe {
        what: Question::Exec(Rc::new(["/bin/true".to_owned()])),
        interval: ms(100),
        timeout: ms(100),
        memory: None,
    };
    let mut asked = three();
    asked.ready = Some(Rc::new(Ready {
        sign: Sign::Probe(Rc::new(probe)),
        within: Some(ms(1000)),
    }));
    let hook = || Hook {
        argv: Rc::new(["/bin/true".to_owned()]),
        wait: ms(1000),
    };
    let hooked = |mut spec: Spec| {
        let mut stop = (*spec.stop).clone();
        stop.steps.insert(0, Step::hook(&hook()));
        stop.after = ms(2000);
        spec.stop = Rc::new(stop);
        spec.hooks = Some(Rc::new(Hooks {
            pre_start: Some(hook()),
            post_start: Some(hook()),
            on_crash: Some(hook()),
            post_stop: Some(hook()),
        }));
        spec
    };
    vec![
        (hooked(three()), who, Verb::Restart),
        (
            hooked(crashing.clone()),
            Character {
                crashes: Some((50, 1)),
                ..who
            },
            Verb::Restart,
        ),
        (asked, who, Verb::Restart),
        (three(), who, Verb::Stop),
        (
            three(),
            Character {
                ends_by: None,
                ..who
            },
            Verb::Restart,
        ),
        (
            three(),
            Character {
                ends_by: Some(Signal::TERM),
                leaves: 2,
                leftovers_end_by_term: true,
                ..who
            },
            Verb::Restart,
        ),
        (
            three(),
            Character {
                ends_by: Some(Signal::INT),
                leaves: 2,
                ..who
            },
            Verb::Stop,
        ),
        (
            base(vec![
                step(run, Until::ActionEnded, 1000),
                settled,
                step(signal(Signal::TERM), Until::Gone, 1000),
            ]),
            Character {
                ends_by: Some(Signal::TERM),
                ports_close_by: Some(Signal::USR2),
                ..who
            },
            Verb::Restart,
        ),
        (
            base(vec![
                step(Action::Drain(Rc::default()), Until::NoConnections, 300),
                step(signal(Signal::TERM), Until::Gone, 1000),
            ]),
            Character {
                ends_by: Some(Signal::TERM),
                ..who
            },
            Verb::Restart,
        ),
        (
            crashing,
            Character {
                crashes: Some((50, 3)),
                ..who
            },
            Verb::RestartNow,
        ),
    ]
}

#[test]
fn superd_killed_at_any_point_has_a_successor_that_keeps_every_promise() {
    let mut points = 0;
    for (spec, who, verb) in lives() {
        let mut whole = World::new(spec.clone(), who, &[]);
        whole.live(verb);
        for first in 0..whole.points {
            World::new(spec.clone(), who, &[first]).live(verb);
            // And once more, soon after the successor has begun.
            for second in [0, 2, 5, 13] {
                World::new(spec.clone(), who, &[first, second]).live(verb);
                points += 1;
            }
            points += 1;
        }
    }
    assert!(points > 2000, "{points}");
    println!("{points} lives with one or two kills");
}
