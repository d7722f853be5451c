//! When a service that executes counts as up: what it says, what a probe finds, how long it
//! has run. And the wait for that, which is a part of [`State::Starting`].
//!
//! A probe that is under way is not written down: the next superd begins it again.
//!
//! [`State::Starting`]: super::service::State::Starting

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{ActionId, Effect, Instance, Outcome, ServiceId};
use super::service::Context;
use super::spec::{Http, HttpAddress};
use super::time::{Span, Tick};

/// The pause after the first probe that failed; doubles up to the interval.
pub const PROBE_FIRST: Duration = Duration::from_millis(20);

/// How a service becomes ready, and until when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// What tells that it is.
    pub sign: Sign,
    /// The longest that may take, from the moment at which the program executes; none: as
    /// long as it takes.
    pub within: Option<Duration>,
}

/// What tells that a service is ready.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Sign {
    /// READY=1 (sd_notify(3)).
    Notify,
    /// A line written to the descriptor of this number (s6's notification-fd).
    Descriptor(i32),
    /// A line of its output contains this text.
    Log(Rc<str>),
    /// It ends with success: a oneshot is done.
    Exit,
    /// It has run for so long.
    After(Duration),
    /// Somebody asks it, or looks.
    Probe(Rc<Probe>),
}

impl Sign {
    /// Whether superd could miss it while it is away.
    fn is_said_once(&self) -> bool {
        match self {
            Sign::Notify | Sign::Descriptor(_) | Sign::Log(_) => true,
            Sign::Exit | Sign::After(_) | Sign::Probe(_) => false,
        }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sign::Notify => f.write_str("READY=1"),
            Sign::Descriptor(n) => write!(f, "a line on descriptor {n}"),
            Sign::Log(text) => write!(f, "output with `{text}`"),
            Sign::Exit => f.write_str("its end"),
            Sign::After(time) => write!(f, "a run of {}", Span(*time)),
            Sign::Probe(probe) => write!(f, "{}", probe.what),
        }
    }
}

/// A question that is asked again and again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// What is asked.
    pub what: Question,
    /// The pause after an answer, at most.
    pub interval: Duration,
    /// The longest wait for one.
    pub timeout: Duration,
    /// And does it use no more memory than this many KiB?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

/// What a probe asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Question {
    /// Does somebody accept connections here?
    Tcp(HttpAddress),
    /// Is the answer one of these statuses? None: any of the 200s.
    Http(Rc<Http>, Rc<[u16]>),
    /// Does this command end with status 0?
    Exec(Rc<[String]>),
    /// Is this file there, and another one than before the start?
    File(Rc<str>),
    /// Nothing but what [`Probe::memory`] asks.
    Memory,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Tcp(HttpAddress::Tcp(address)) => write!(f, "tcp {address}"),
            Question::Tcp(HttpAddress::Unix(path)) => write!(f, "unix:{path}"),
            Question::Http(http, _) => write!(f, "{http}"),
            Question::Exec(argv) => write!(f, "exec {}", argv.join(" ")),
            Question::File(path) => write!(f, "file {path}"),
            Question::Memory => f.write_str("memory"),
        }
    }
}

/// A service and one run of it, for one turn.
pub struct About<'a, 'b> {
    /// The time.
    pub now: Tick,
    /// Which service.
    pub id: ServiceId,
    /// Which run of it.
    pub instance: Instance,
    /// Where orders go.
    pub cx: &'a mut Context<'b>,
}

impl About<'_, '_> {
    fn emit(&mut self, effect: Effect) {
        self.cx.effects.push(effect);
    }
}

/// A probe at work: one question at a time, with a pause between.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Asking {
    /// The question that is out, and when its answer is no longer waited for.
    out: Option<(ActionId, Tick)>,
    /// When the next one is asked, if none is out.
    next: Tick,
    pause: Duration,
}

impl Asking {
    /// The first question is asked now; after an answer it pauses so long at first.
    pub fn begin(now: Tick, pause: Duration) -> Asking {
        Asking {
            out: None,
            next: now,
            pause,
        }
    }

    /// Asks, if it is time to.
    pub fn ask(&mut self, probe: &Rc<Probe>, about: &mut About<'_, '_>) {
        if self.out.is_some() || about.now < self.next {
            return;
        }
        let action = about.cx.next_action();
        self.out = Some((action, about.now + probe.timeout));
        about.emit(Effect::Probe(
            about.id,
            about.instance,
            action,
            probe.clone(),
        ));
    }

    /// An action ended. None: it was another one.
    pub fn ended(&mut self, action: ActionId, probe: &Probe, now: Tick) -> bool {
        if self.out.is_none_or(|(out, _)| out != action) {
            return false;
        }
        self.out = None;
        self.rest(probe, now);
        true
    }

    /// If the answer is late: gives the question up, and says so.
    pub fn is_late(&mut self, probe: &Probe, about: &mut About<'_, '_>) -> bool {
        if self.out.is_none_or(|(_, until)| about.now < until) {
            return false;
        }
        self.end(about);
        self.rest(probe, about.now);
        true
    }

    fn rest(&mut self, probe: &Probe, now: Tick) {
        let pause = self.pause.min(probe.interval);
        self.next = now + pause;
        self.pause = (pause * 2).min(probe.interval);
    }

    /// No answer is wanted any more.
    pub fn end(&mut self, about: &mut About<'_, '_>) {
        if let Some((action, _)) = self.out.take() {
            about.emit(Effect::EndAction(about.id, about.instance, action));
        }
    }

    /// Whether its times are such that sums of them do not overflow.
    pub fn is_sound(&self, longest: Duration) -> bool {
        self.pause <= longest
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Tick {
        self.out.map_or(self.next, |(_, until)| until)
    }
}

/// Whether the wait is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Course {
    /// It goes on.
    GoesOn,
    /// It is ready.
    Ready,
    /// Its time is up, and why it is not ready.
    TimeIsUp(String),
}

/// The wait of one run, from the order to fork on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Await {
    /// As it was when the start began: a reload does not change a start under way.
    pub ready: Rc<Ready>,
    /// The program executes.
    pub executing: bool,
    /// It was ready before superd knew that it executes.
    met: bool,
    /// When it has to be ready.
    until: Tick,
    /// Since when it has run.
    since: Tick,
    #[serde(skip)]
    asking: Option<Asking>,
    /// What the last probe found.
    #[serde(skip)]
    last: String,
}

impl Await {
    /// A start is ordered.
    pub fn new(ready: Rc<Ready>) -> Await {
        Await {
            ready,
            executing: false,
            met: false,
            until: Tick::NEVER,
            since: Tick::NEVER,
            asking: None,
            last: String::new(),
        }
    }

    /// The order to fork comes next: what has to be known before.
    pub fn before_start(&self, about: &mut About<'_, '_>) {
        if let Sign::Probe(probe) = &self.ready.sign {
            if let Question::File(path) = &probe.what {
                let note = Effect::NoteFile(about.id, about.instance, path.clone());
                about.emit(note);
            }
        }
    }

    /// The order to fork was given: from here on it may speak.
    pub fn after_start(&self, about: &mut About<'_, '_>) {
        if let Sign::Log(text) = &self.ready.sign {
            let watch = Effect::WatchOutput(about.id, about.instance, text.clone());
            about.emit(watch);
        }
    }

    /// The program executes.
    pub fn execed(&mut self, about: &mut About<'_, '_>) -> Course {
        self.executing = true;
        self.since = about.now;
        self.until = self.ready.within.map_or(Tick::NEVER, |w| about.now + w);
        self.go_on(about)
    }

    /// Goes on after another superd.
    pub fn resume(&mut self, about: &mut About<'_, '_>) -> Course {
        self.after_start(about);
        match self.executing {
            true => self.go_on(about),
            // The last one was killed before it knew.
            false => self.execed(about),
        }
    }

    fn go_on(&mut self, about: &mut About<'_, '_>) -> Course {
        if self.met {
            return Course::Ready;
        }
        if let Sign::Probe(probe) = &self.ready.sign {
            let mut asking = Asking::begin(about.now, PROBE_FIRST);
            asking.ask(probe, about);
            self.asking = Some(asking);
        }
        Course::GoesOn
    }

    fn meet(&mut self, about: &mut About<'_, '_>) -> Course {
        self.met = true;
        match self.executing {
            true => {
                self.end(about);
                Course::Ready
            }
            false => Course::GoesOn,
        }
    }

    /// READY=1, or a line on its descriptor.
    pub fn said_ready(&mut self, about: &mut About<'_, '_>) -> Course {
        match self.ready.sign {
            Sign::Notify | Sign::Descriptor(_) => self.meet(about),
            Sign::Exit | Sign::Log(_) | Sign::After(_) | Sign::Probe(_) => Course::GoesOn,
        }
    }

    /// The awaited text was in its output.
    pub fn output_matched(&mut self, about: &mut About<'_, '_>) -> Course {
        match self.ready.sign {
            Sign::Log(_) => self.meet(about),
            Sign::Notify | Sign::Descriptor(_) | Sign::Exit | Sign::After(_) | Sign::Probe(_) => {
                Course::GoesOn
            }
        }
    }

    /// EXTEND_TIMEOUT_USEC=: it needs so long from now on, and no less than before.
    pub fn extend(&mut self, by: Duration, now: Tick) {
        if self.executing && self.until < Tick::NEVER {
            self.until = self.until.max(now + by);
        }
    }

    /// A probe has its answer.
    pub fn action_ended(
        &mut self,
        action: ActionId,
        outcome: Outcome,
        about: &mut About<'_, '_>,
    ) -> Course {
        let (Sign::Probe(probe), Some(asking)) = (&self.ready.sign, &mut self.asking) else {
            return Course::GoesOn;
        };
        if !asking.ended(action, probe, about.now) {
            return Course::GoesOn;
        }
        match outcome {
            Outcome::Done => self.meet(about),
            Outcome::Unhappy(why) | Outcome::Impossible(why) => {
                self.last = why;
                Course::GoesOn
            }
        }
    }

    /// Time has passed. `adopted`: another superd has started it.
    pub fn timeout(&mut self, adopted: bool, about: &mut About<'_, '_>) -> Course {
        let now = about.now;
        if !self.executing {
            return Course::GoesOn;
        }
        if let Sign::After(time) = self.ready.sign {
            if now >= self.since + time {
                return Course::Ready;
            }
        }
        if now >= self.until {
            self.end(about);
            // It may have said it while nobody was there to hear.
            return match adopted && self.ready.sign.is_said_once() {
                true => Course::Ready,
                false => Course::TimeIsUp(self.why_not(now)),
            };
        }
        if let (Sign::Probe(probe), Some(asking)) = (&self.ready.sign, &mut self.asking) {
            if asking.is_late(probe, about) {
                self.last = format!("no answer within {}", Span(probe.timeout));
            }
            asking.ask(probe, about);
        }
        Course::GoesOn
    }

    fn why_not(&self, now: Tick) -> String {
        let waited = Span(now - self.since);
        match &self.ready.sign {
            Sign::Exit => format!("not done within {waited}"),
            sign if self.last.is_empty() => {
                format!("not ready within {waited}: waited for {sign}")
            }
            _ => format!("not ready within {waited}: {}", self.last),
        }
    }

    /// What only a superd that becomes another program can keep: the question that is out.
    pub fn asking(&self) -> Option<(Asking, String)> {
        Some((self.asking.clone()?, self.last.clone()))
    }

    /// And takes up again.
    pub fn take_up(&mut self, asking: Option<(Asking, String)>) {
        if let Some((asking, last)) = asking {
            self.asking = Some(asking);
            self.last = last;
        }
    }

    /// It is waited for no longer.
    pub fn end(&mut self, about: &mut About<'_, '_>) {
        if let Some(mut asking) = self.asking.take() {
            asking.end(about);
        }
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Option<Tick> {
        let asking = self.asking.as_ref().map(Asking::next_deadline);
        let after = match self.ready.sign {
            Sign::After(time) => Some(self.since + time),
            Sign::Notify | Sign::Descriptor(_) | Sign::Log(_) | Sign::Exit | Sign::Probe(_) => None,
        };
        let all = [Some(self.until), asking, after];
        let first = all.into_iter().flatten().min();
        first.filter(|at| self.executing && *at < Tick::NEVER)
    }

    /// For `status`: what is waited for, and the longest that may still take.
    pub fn progress(&self, now: Tick) -> (String, Option<Duration>) {
        let what = match self.last.is_empty() {
            true => self.ready.sign.to_string(),
            false => self.last.clone(),
        };
        let left = (self.until < Tick::NEVER).then(|| self.until - now);
        (what, left)
    }
}

impl Ready {
    /// Whether its times are such that sums of them do not overflow.
    pub fn is_sound(&self, longest: Duration) -> bool {
        let sign = match &self.sign {
            Sign::After(time) => *time <= longest,
            Sign::Probe(probe) => probe.is_sound(longest),
            Sign::Notify | Sign::Descriptor(_) | Sign::Log(_) | Sign::Exit => true,
        };
        sign && self.within.is_none_or(|w| w <= longest)
    }
}

impl Probe {
    /// The same of a probe.
    pub fn is_sound(&self, longest: Duration) -> bool {
        self.interval <= longest && self.timeout <= longest
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Change, Event, Notice, Pid, Presence, Verb};
    use super::super::memory::Memory;
    use super::super::report::{Exit, Happening, Origin};
    use super::super::rig::{ms, Rig, A, B};
    use super::super::service::{Rest, State};
    use super::super::spec::{Policy, Spec};
    use super::super::testing::spec;
    use super::*;

    fn ready(sign: Sign, within: u64) -> Option<Rc<Ready>> {
        let within = Some(ms(within));
        Some(Rc::new(Ready { sign, within }))
    }

    fn asks(timeout: u64) -> Spec {
        let probe = Probe {
            what: Question::Exec(vec!["/bin/ready".to_owned()].into()),
            interval: ms(100),
            timeout: ms(timeout),
            memory: None,
        };
        Spec {
            ready: ready(Sign::Probe(Rc::new(probe)), 10_000),
            ..spec("a")
        }
    }

    fn says() -> Spec {
        Spec {
            ready: ready(Sign::Notify, 10_000),
            ..spec("a")
        }
    }

    fn says_ready(rig: &mut Rig) {
        let instance = rig.at(A).instance;
        rig.hear(Event::Notified(A, instance, Notice::Ready));
    }

    fn refused(rig: &mut Rig, action: u64) {
        let why = "connection refused".to_owned();
        rig.action_ends(A, action, Outcome::Impossible(why));
    }

    #[test]
    fn who_requires_it_and_who_waits_for_its_start_wait_until_it_is_ready() {
        let mut b = spec("b");
        b.requires = vec![A];
        let mut a = says();
        a.autostart = false;
        let mut rig = Rig::new(vec![a, b]);
        rig.ask(A, Verb::Start);
        assert_eq!(rig.did(), ["spawn a1"]);
        assert_eq!((rig.state(A), rig.state(B)), ("starting", "waiting"));
        says_ready(&mut rig);
        assert_eq!(rig.did(), ["reply 1: done", "spawn b1"]);
        assert_eq!(rig.machine.next_deadline(), None, "nothing is due any more");
    }

    #[test]
    fn questions_are_asked_one_at_a_time_with_growing_pauses() {
        let mut rig = Rig::new(vec![asks(50)]);
        assert_eq!(rig.did(), ["spawn a1", "probe a1"]);
        let mut times = Vec::new();
        for n in 1..=5 {
            refused(&mut rig, n);
            assert_eq!(rig.did(), [""; 0]);
            let before = rig.now;
            rig.wake();
            times.push((rig.now - before).as_millis());
            assert_eq!(rig.did(), ["probe a1"]);
        }
        assert_eq!(times, [20, 40, 80, 100, 100]);
        // One that has no answer is ended, and asked again.
        rig.wake();
        assert_eq!(rig.did(), ["end action a1"]);
        let (what, left) = match &rig.at(A).state {
            State::Starting(run) => run.awaits.as_ref().unwrap().progress(rig.now),
            other => panic!("{other:?}"),
        };
        assert_eq!(what, "no answer within 50 ms");
        assert_eq!(left, Some(ms(10_000 - 340 - 50)));
        rig.wake();
        assert_eq!(rig.did(), ["probe a1"]);
        rig.action_ends(A, 6, Outcome::Done);
        assert_eq!(rig.state(A), "starting", "that was the one before");
        rig.action_ends(A, 7, Outcome::Done);
        assert_eq!(rig.state(A), "up");
    }

    #[test]
    fn one_that_is_not_ready_in_time_is_stopped_in_order_and_tried_again_with_pauses() {
        let mut a = asks(50);
        a.autostart = false;
        let mut rig = Rig::new(vec![a]);
        rig.ask(A, Verb::Start);
        refused(&mut rig, 1);
        rig.did();
        while rig.state(A) == "starting" {
            rig.wake();
        }
        let did = rig.did();
        assert!(did.contains(&"end action a1".to_owned()), "{did:?}");
        assert_eq!(did.last().unwrap(), "TERM a1", "{did:?}");
        assert!(did.contains(&"reply 1: failed".to_owned()), "{did:?}");
        rig.exits(A, Exit::Code(0), 0);
        let why = "not ready within 10 s: no answer within 50 ms".to_owned();
        assert_eq!(rig.report().by, Origin::Unfit { why });
        // The first time at once; then with pauses, although each run was a stable one's length.
        assert_eq!(rig.state(A), "starting");
        rig.pass(11_000);
        rig.exits(A, Exit::Code(0), 0);
        assert_eq!(rig.state(A), "backoff");
        assert_eq!(rig.at(A).record.failures(), 2);
    }

    #[test]
    fn a_policy_of_never_is_kept_and_a_wish_meanwhile_starts_it_again() {
        let mut a = says();
        a.restart.policy = Policy::Never;
        let mut rig = Rig::new(vec![a.clone()]);
        rig.pass(10_000);
        assert_eq!(rig.state(A), "stopping");
        rig.exits(A, Exit::Code(0), 0);
        let why = "not ready within 10 s: waited for READY=1".to_owned();
        assert_eq!(rig.at(A).state, State::Down(Rest::Failed(why)));
        let mut rig = Rig::new(vec![a]);
        rig.pass(10_000);
        rig.ask(A, Verb::Restart);
        rig.exits(A, Exit::Code(0), 0);
        assert_eq!((rig.state(A), rig.count("spawn a2")), ("starting", 1));
        rig.did();
        says_ready(&mut rig);
        assert_eq!(rig.did(), ["reply 1: done"]);
    }

    #[test]
    fn it_may_ask_for_more_time_and_never_gets_less() {
        let mut rig = Rig::new(vec![says()]);
        let more = |rig: &mut Rig, by| {
            rig.hear(Event::Notified(A, Instance(1), Notice::Extend(ms(by))));
        };
        more(&mut rig, 3_000);
        rig.pass(9_999);
        assert_eq!(rig.state(A), "starting");
        more(&mut rig, 3_000);
        rig.pass(2_999);
        assert_eq!(rig.state(A), "starting");
        rig.pass(1);
        assert_eq!(rig.state(A), "stopping");
        more(&mut rig, 60_000);
        rig.pass(15_000);
        assert_eq!(rig.state(A), "killing", "a stop is not put off");
        let mut rig = Rig::new(vec![says()]);
        more(&mut rig, u64::MAX);
        assert_eq!(rig.machine.next_deadline(), Some(rig.now + ms(10_000)));
    }

    #[test]
    fn what_it_says_before_its_exec_is_known_counts() {
        for sign in [Sign::Notify, Sign::Log("up".into())] {
            let mut rig = Rig::bare();
            rig.slow_start = true;
            rig.configure(vec![Spec {
                ready: ready(sign, 10_000),
                ..spec("a")
            }]);
            rig.hear(Event::Spawned(A, Instance(1), Pid(7)));
            says_ready(&mut rig);
            rig.hear(Event::OutputMatched(A, Instance(1)));
            assert_eq!(rig.state(A), "starting");
            rig.hear(Event::Execed(A, Instance(1)));
            assert_eq!(rig.state(A), "up");
        }
    }

    #[test]
    fn a_run_of_some_time_is_waited_for_without_anything_else() {
        let mut rig = Rig::new(vec![Spec {
            ready: Some(Rc::new(Ready {
                sign: Sign::After(ms(500)),
                within: None,
            })),
            ..spec("a")
        }]);
        rig.pass(499);
        assert_eq!(rig.state(A), "starting");
        rig.pass(1);
        assert_eq!(rig.state(A), "up");
        assert_eq!(rig.did(), ["spawn a1"]);
    }

    #[test]
    fn who_ends_before_it_is_ready_is_told_so() {
        let mut rig = Rig::new(vec![Spec {
            autostart: false,
            ..says()
        }]);
        rig.ask(A, Verb::Start);
        rig.exits(A, Exit::Code(3), 0);
        assert!(rig.did().contains(&"reply 1: failed".to_owned()));
        assert_eq!(rig.state(A), "starting", "and it is tried again");
    }

    /// What the next superd makes of it.
    fn adopted(rig: &Rig, spec: Spec) -> Rig {
        let text = serde_json::to_string(&Memory::of(rig.at(A))).unwrap();
        let memory: Memory = serde_json::from_str(&text).unwrap();
        assert_eq!(memory.fault(&spec), None);
        assert!(memory.is_awaited());
        let mut next = Rig::bare();
        next.now = rig.now;
        next.hear(Event::Adopt(Box::new(super::super::event::Adopted {
            service: A,
            spec: Rc::new(spec),
            memory,
            found: Presence::Running(Pid(101)),
        })));
        next.hear(Event::Configure {
            changed: Vec::new(),
            gone: Vec::new(),
            by: Origin::Config,
        });
        next
    }

    #[test]
    fn another_superd_asks_again_and_takes_no_more_time_for_it() {
        let mut rig = Rig::new(vec![asks(50)]);
        refused(&mut rig, 1);
        rig.pass(20);
        let mut next = adopted(&rig, asks(50));
        assert_eq!(next.did(), ["probe a1"]);
        next.pass(9_980);
        assert_eq!(next.state(A), "stopping");
    }

    #[test]
    fn another_superd_that_finds_a_start_half_done_listens_from_then_on() {
        let says = Spec {
            ready: ready(Sign::Log("up".into()), 10_000),
            ..spec("a")
        };
        let mut rig = Rig::bare();
        rig.slow_start = true;
        rig.configure(vec![says.clone()]);
        assert_eq!(rig.did(), ["spawn a1", "watch a1"]);
        let mut next = adopted(&rig, says);
        assert_eq!(next.did(), ["watch a1"]);
        assert_eq!(next.machine.next_deadline(), Some(next.now + ms(10_000)));
        next.hear(Event::OutputMatched(A, Instance(1)));
        assert_eq!(next.state(A), "up");
    }

    #[test]
    fn what_was_perhaps_said_while_no_superd_was_there_is_held_against_nobody() {
        let rig = Rig::new(vec![says()]);
        let mut next = adopted(&rig, says());
        assert_eq!(next.state(A), "starting");
        next.pass(10_000);
        assert_eq!(next.state(A), "up");
        let mut next = adopted(&rig, says());
        says_ready(&mut next);
        assert_eq!(next.state(A), "up");
    }

    #[test]
    fn a_changed_definition_does_not_change_a_start_under_way() {
        let mut rig = Rig::new(vec![says()]);
        rig.change(A, spec("a"), Change::Policy);
        assert_eq!(rig.state(A), "starting");
        says_ready(&mut rig);
        assert_eq!(rig.state(A), "up");
        let told = |h: &Happening| matches!(h, Happening::Executing { awaited, .. } if awaited == "READY=1");
        assert!(rig.told.iter().any(|(_, h)| told(h)));
    }
}
