//! A machine on the bench, for unit tests: short words for events, short words for
//! effects, and a clock that stands still until it is told to go on.
//!
//! Looks ([`Effect::Check`]) are answered at once with what the test has set; starts
//! succeed at once unless the test holds them.
//!
//! A little long: a short word each.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::event::{
    Answer, Change, Check, Effect, Event, Found, Instance, Notice, Outcome, Pid, ServiceId, Target,
    Ticket, Verb, Wait,
};
use super::report::{Exit, Happening, Origin, Stuck};
use super::service::{Service, State};
use super::signal::Signal;
use super::spec::{Action, Schedule, Spec, Step, To, Until};
use super::supervisor::{Ending, Supervisor};
use super::time::Tick;
use super::timer::Clock;
use super::zone::Zone;

/// The first service; tests that need more count on.
pub const A: ServiceId = ServiceId(0);
/// The second.
pub const B: ServiceId = ServiceId(1);
/// The third.
pub const C: ServiceId = ServiceId(2);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A step that waits for the service to be gone.
pub fn step(action: Action, until: Until, wait: u64) -> Step {
    Step {
        action,
        until,
        wait: ms(wait),
        settle: Duration::ZERO,
    }
}

pub fn signal(signal: Signal) -> Action {
    Action::Signal(signal, To::Main)
}

pub fn schedule(steps: Vec<Step>) -> Rc<Schedule> {
    Rc::new(Schedule {
        steps,
        leftover_grace: ms(2000),
        after: Duration::ZERO,
    })
}

pub fn by() -> Origin {
    Origin::Client {
        pid: 9,
        uid: 0,
        command: "superctl".to_owned(),
    }
}

pub struct Rig {
    pub machine: Supervisor,
    pub now: Tick,
    /// Effects in short words, without looks and reports.
    pub did: Vec<String>,
    pub told: Vec<(ServiceId, Happening)>,
    /// Starts are answered by the test.
    pub slow_start: bool,
    /// Looks are written down and not answered.
    pub silent: bool,
    /// STOPPING=1 that lies unread in the notify socket.
    pub unread: u32,
    pub ports: u32,
    pub descendants: u32,
    pub tree: u32,
    /// Processes that hooks have left behind.
    pub commands: u32,
    /// What is seen of stuck processes.
    pub stuck: Vec<Stuck>,
    /// When it was looked for them.
    pub looks: Vec<Tick>,
    /// The wall clock, if it is read: ahead of `now` by so many nanoseconds.
    pub wall: Option<i64>,
    pub zone: Rc<Zone>,
    tickets: u64,
    answers: VecDeque<Event>,
}

impl Rig {
    /// Configured with these services, numbered from 0.
    pub fn new(specs: Vec<Spec>) -> Rig {
        let mut rig = Rig::bare();
        rig.configure(specs);
        rig
    }

    pub fn bare() -> Rig {
        Rig {
            machine: Supervisor::new(1, Ending::WhenAsked),
            now: Tick(1_000_000_000),
            did: Vec::new(),
            told: Vec::new(),
            slow_start: false,
            silent: false,
            unread: 0,
            ports: 0,
            descendants: 0,
            tree: 0,
            commands: 0,
            stuck: Vec::new(),
            looks: Vec::new(),
            wall: None,
            zone: Rc::default(),
            tickets: 0,
            answers: VecDeque::new(),
        }
    }

    pub fn configure(&mut self, specs: Vec<Spec>) {
        let number = |(n, spec)| (ServiceId(n as u32), Rc::new(spec), Change::New);
        let changed = specs.into_iter().enumerate().map(number).collect();
        self.hear(Event::Configure {
            changed,
            gone: Vec::new(),
            by: Origin::Config,
        });
    }

    pub fn change(&mut self, id: ServiceId, spec: Spec, change: Change) {
        self.hear(Event::Configure {
            changed: vec![(id, Rc::new(spec), change)],
            gone: Vec::new(),
            by: Origin::Config,
        });
    }

    pub fn hear(&mut self, event: Event) {
        self.answers.push_back(event);
        self.work();
    }

    /// What the clocks show: nanoseconds since 1970, and since the boot.
    pub fn clock(&self, unix: i64, boot: u64) -> Event {
        Event::Clock(Rc::new(Clock {
            at: self.now,
            unix,
            boot,
            zone: self.zone.clone(),
        }))
    }

    fn work(&mut self) {
        while let Some(event) = self.answers.pop_front() {
            let mut effects = Vec::new();
            self.machine.handle(self.now, event, &mut effects);
            self.perform(effects);
        }
    }

    fn soon(&mut self, event: Event) {
        self.answers.push_back(event);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Some(words) = words(&effect) {
                self.did.push(words);
            }
            match effect {
                Effect::Publish(id, what) => self.told.push((id, what)),
                Effect::NotePorts(s, i) => self.soon(Event::PortsNoted(s, i, self.ports)),
                Effect::Spawn(s, i) if !self.slow_start => {
                    self.soon(Event::Spawned(s, i, Pid(100 + i.0 as i32)));
                    self.soon(Event::Execed(s, i));
                }
                Effect::Check(s, i, check) if self.silent => {
                    let what = format!("{check:?}").to_lowercase();
                    self.did.push(format!("look {what} {}{}", letter(s), i.0));
                }
                Effect::Check(s, i, check) => {
                    let found = match check {
                        Check::Notify => 0,
                        Check::Ports => self.ports,
                        Check::Descendants => self.descendants,
                        Check::Tree => self.tree,
                        Check::Commands => self.commands,
                    };
                    if check == Check::Notify {
                        for _ in 0..std::mem::take(&mut self.unread) {
                            self.soon(Event::Notified(s, i, Notice::Stopping));
                        }
                    }
                    self.soon(Event::Checked(s, i, check, Found(found)));
                }
                Effect::ReadClock => {
                    if let Some(ahead) = self.wall {
                        let clock = self.clock(self.now.0 as i64 + ahead, self.now.0);
                        self.soon(clock);
                    }
                }
                Effect::Look(s, i) => {
                    let stuck = self.stuck.clone();
                    self.soon(Event::Looked(s, i, stuck));
                    self.looks.push(self.now);
                }
                _ => {}
            }
        }
    }

    /// Lets time pass, waking the machine when it wants to be woken.
    pub fn pass(&mut self, n: u64) {
        let end = self.now + ms(n);
        while let Some(next) = self.machine.next_deadline().filter(|t| *t <= end) {
            self.now = next.max(self.now);
            let mut effects = Vec::new();
            self.machine.handle_timeout(self.now, &mut effects);
            self.perform(effects);
            self.work();
        }
        self.now = end;
    }

    /// Time passes until the machine wants to be woken, or for an hour.
    pub fn wake(&mut self) {
        let looks = self.looks.len();
        self.wake_once();
        if self.looks.len() > looks {
            // It was for a look at what is stuck.
            self.wake_once();
        }
    }

    fn wake_once(&mut self) {
        let hour = self.now + ms(3_600_000);
        self.now = self.machine.next_deadline().unwrap_or(hour);
        let mut effects = Vec::new();
        self.machine.handle_timeout(self.now, &mut effects);
        self.perform(effects);
        self.work();
    }

    /// A client asks and waits. Its number is in the reply.
    pub fn ask(&mut self, id: ServiceId, verb: Verb) -> u64 {
        self.request(Target::One(id), verb, Wait::Done)
    }

    pub fn request(&mut self, target: Target, verb: Verb, wait: Wait) -> u64 {
        self.tickets += 1;
        let ticket = Some(Ticket {
            client: 1,
            request: self.tickets,
        });
        self.hear(Event::Request {
            ticket,
            target,
            verb,
            wait,
            by: by(),
        });
        self.tickets
    }

    pub fn shut_down(&mut self, force: bool) {
        let (by, absorbed) = (by(), 0);
        self.hear(Event::Shutdown {
            force,
            by,
            absorbed,
        });
    }

    pub fn says_stopping(&mut self, id: ServiceId) {
        let instance = self.at(id).instance;
        self.hear(Event::Notified(id, instance, Notice::Stopping));
    }

    /// The main process ends with this status and leaves `left` processes.
    pub fn exits(&mut self, id: ServiceId, exit: Exit, left: u32) {
        let instance = self.at(id).instance;
        self.tree = left;
        self.hear(Event::Exited {
            service: id,
            instance,
            exit,
            crash: None,
            left: Some(left),
        });
    }

    /// The last of its actions ends.
    pub fn action_ends(&mut self, id: ServiceId, number: u64, outcome: Outcome) {
        let instance = self.at(id).instance;
        let action = super::event::ActionId(number);
        self.hear(Event::ActionEnded(id, instance, action, outcome));
    }

    pub fn at(&self, id: ServiceId) -> &Service {
        self.machine.service(id).unwrap()
    }

    pub fn state(&self, id: ServiceId) -> &'static str {
        state_name(&self.at(id).state)
    }

    /// What it did since the last time this was asked.
    pub fn did(&mut self) -> Vec<String> {
        std::mem::take(&mut self.did)
    }

    /// How often it did this, ever.
    pub fn count(&self, what: &str) -> usize {
        self.did.iter().filter(|d| *d == what).count()
    }

    /// The report of the last end.
    pub fn report(&self) -> &super::report::EndReport {
        let end = |(_, h): &'_ (ServiceId, Happening)| matches!(h, Happening::Ended(_));
        match self.told.iter().rev().find(|t| end(t)) {
            Some((_, Happening::Ended(report))) => report,
            _ => panic!("nothing has ended"),
        }
    }
}

pub fn state_name(state: &State) -> &'static str {
    match state {
        State::Down(_) => "down",
        State::Waiting => "waiting",
        State::Starting(_) => "starting",
        State::Up(_) => "up",
        State::Stopping(..) => "stopping",
        State::Killing(..) => "killing",
        State::Sweeping(_) => "sweeping",
        State::Backoff { .. } => "backoff",
    }
}

fn letter(id: ServiceId) -> char {
    char::from(b'a' + (id.0 % 26) as u8)
}

/// `spawn a1`, `TERM a1`, `kill a1`, `reply 3: done, clean`.
fn words(effect: &Effect) -> Option<String> {
    let name = |s: &ServiceId| letter(*s);
    let one = |what: &str, s: &ServiceId, i: &Instance| Some(format!("{what} {}{}", name(s), i.0));
    match effect {
        Effect::Spawn(s, i) => one("spawn", s, i),
        Effect::Signal(s, i, signal, To::Main) => one(&signal.to_string(), s, i),
        Effect::Signal(s, i, signal, to) => one(&format!("{signal} to {to} of"), s, i),
        Effect::KillTree(s, i) => one("kill", s, i),
        Effect::Run(s, i, ..) => one("run", s, i),
        Effect::Verify(s, i, ..) => one("check", s, i),
        Effect::Http(s, i, ..) => one("http", s, i),
        Effect::Hook(s, i, _, call) => one(&call.kind.to_string(), s, i),
        Effect::Probe(s, i, ..) => one("probe", s, i),
        Effect::NoteFile(s, i, _) => one("note file", s, i),
        Effect::Drain(s, i, ..) => one("drain", s, i),
        Effect::EndAction(s, i, _) => one("end action", s, i),
        Effect::LetGo(s, i) => one("let go", s, i),
        Effect::Limit(s, i, _) => one("limit", s, i),
        Effect::Watch(s, i, Some(_)) => one("watch connections of", s, i),
        Effect::Watch(s, i, None) => one("watch no connections of", s, i),
        Effect::WatchOutput(s, i, _) => one("watch", s, i),
        Effect::LookOut(s, Some(_)) => Some(format!("look out {}", name(s))),
        Effect::WatchFiles(s, Some(_)) => Some(format!("watch files of {}", name(s))),
        Effect::WatchFiles(s, None) => Some(format!("watch no files of {}", name(s))),
        Effect::LookOut(s, None) => Some(format!("look away {}", name(s))),
        Effect::WatchClock(true) => Some("watch the clock".to_owned()),
        Effect::WatchClock(false) => Some("watch no clock".to_owned()),
        Effect::ReadClock => Some("read the clock".to_owned()),
        Effect::Release(s, i) => one("release", s, i),
        Effect::Forget(s) => Some(format!("forget {}", name(s))),
        Effect::Reply(ticket, answer) => {
            let text = match answer {
                Answer::Done(None) => "done".to_owned(),
                Answer::Finished => "finished".to_owned(),
                Answer::Along { finished, names } => {
                    let now = if *finished { "finished" } else { "done" };
                    format!("{now}, and {} with it", names.join(", "))
                }
                Answer::Done(Some(verdict)) => format!("done, {verdict}"),
                Answer::Already => "already".to_owned(),
                Answer::Accepted { joined, left } => match (joined, left) {
                    (false, None) => "accepted".to_owned(),
                    (false, Some(d)) => format!("accepted, {} ms left", d.as_millis()),
                    (true, None) => "joined".to_owned(),
                    (true, Some(d)) => format!("joined, {} ms left", d.as_millis()),
                },
                Answer::Failed(_) => "failed".to_owned(),
                Answer::Refused(_) => "refused".to_owned(),
                Answer::Worst(of, answer) => match &**answer {
                    Answer::Done(Some(verdict)) => format!("{}: {verdict}", of.join(", ")),
                    Answer::Failed(_) => format!("{}: failed", of.join(", ")),
                    other => format!("{}: {other:?}", of.join(", ")),
                },
            };
            Some(format!("reply {}: {text}", ticket.request))
        }
        Effect::Finish => Some("finish".to_owned()),
        Effect::NotePorts(..) | Effect::Check(..) | Effect::Look(..) | Effect::Publish(..) => None,
        Effect::Wake(..) => None,
    }
}
