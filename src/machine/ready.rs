//! When a service that executes counts as up: what it says, what a probe finds, how long it
//! has run. And the wait for that, which is a part of [`State::Starting`].
//!
//! A probe that is under way is not written down: the next superd begins it again.
//!
//! Longer than a file should be, but for its tests: who asks, what is asked and the wait are one thing.
//!
//! [`State::Starting`]: super::service::State::Starting

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::event::{ActionId, Effect, Instance, Outcome, ServiceId};
use super::service::Context;
use super::spec::{Http, HttpAddress};
use super::time::{Span, Tick};
use crate::json::{FromJson, ToJson};

/// The pause after the first probe that failed; doubles up to the interval.
pub const PROBE_FIRST: Duration = Duration::from_millis(20);

/// How a service becomes ready, and until when.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Ready {
    /// What tells that it is.
    pub sign: Sign,
    /// The longest that may take, from the moment at which the program executes; none: as
    /// long as it takes.
    pub within: Option<Duration>,
}

/// What tells that a service is ready.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
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
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
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
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
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

impl<'a, 'b> About<'a, 'b> {
    /// Of this run of this service, now.
    pub fn new(
        now: Tick,
        id: ServiceId,
        instance: Instance,
        cx: &'a mut Context<'b>,
    ) -> About<'a, 'b> {
        About {
            now,
            id,
            instance,
            cx,
        }
    }
}

impl About<'_, '_> {
    fn emit(&mut self, effect: Effect) {
        self.cx.effects.push(effect);
    }
}

/// A probe at work: one question at a time, with a pause between.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
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
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
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
            Outcome::Unhappy(why) | Outcome::Impossible(why) | Outcome::NotTried(why) => {
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
mod tests;
