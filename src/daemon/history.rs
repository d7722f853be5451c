//! What happened to each service, for `superctl why` and `events`, and the one line that
//! tells a person of it. Bounded per service; nothing is written to disk.
//!
//! Longer than a file should be, but for its tests: half of it is a line for each happening.

use std::collections::VecDeque;

use super::sink::Severity;
use crate::control::crash::{ordinal, Repeat};
use crate::control::reply::EventLine;
use crate::machine::event::ServiceId;
use crate::machine::report::{
    hook_in_words, left_out, wait_over, waiting_for, EndReport, Happening, Origin, StepOutcome,
    Verdict,
};
use crate::machine::time::{Span, Tick};
use crate::map::Map;

/// Ends of instances kept per service; they are what `why` is asked for.
const ENDS: usize = 8;

/// Other happenings kept per service.
const SMALL: usize = 32;

/// Bytes of output kept with one end.
const OUTPUT: usize = 4 * 1024;

/// Bytes kept per service in all, roughly.
const BYTES: usize = 32 * 1024;

/// Everybody's history.
#[derive(Default)]
pub struct History {
    services: Map<ServiceId, One>,
    /// Numbers entries, so that those of one tick stay in order.
    next: u64,
}

#[derive(Default)]
struct One {
    small: VecDeque<Entry>,
    ends: VecDeque<Entry>,
}

struct Entry {
    number: u64,
    at: Tick,
    what: Happening,
    about: About,
}

/// What else is told with the end of an instance.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The last lines it wrote, oldest first.
    pub output: Vec<String>,
    /// How often it has crashed like that.
    pub repeat: Option<Repeat>,
    /// The sentence about a known fault, or nothing.
    pub known: String,
}

impl History {
    /// Nothing has happened.
    pub fn new() -> History {
        History::default()
    }

    /// Keeps it. Of the output the last 4 KiB are kept.
    pub fn record(&mut self, at: Tick, service: ServiceId, what: &Happening, about: About) {
        let one = self.services.entry(service).or_default();
        let entry = Entry {
            number: self.next,
            at,
            what: what.clone(),
            about: About {
                output: last_bytes(about.output),
                ..about
            },
        };
        self.next += 1;
        let (list, cap) = match what {
            Happening::Ended(_) => (&mut one.ends, ENDS),
            _ => (&mut one.small, SMALL),
        };
        // Room for one more at a time: most services have three entries all their life.
        if list.len() >= cap {
            list.pop_front();
        }
        list.reserve_exact(1);
        list.push_back(entry);
        while one.bytes() > BYTES && one.drop_oldest() {}
    }

    /// For a superd that becomes another program: everything, as it travels to clients, and
    /// when it was; oldest first.
    pub fn keep(&self) -> Vec<(ServiceId, Tick, EventLine)> {
        let mut all: Vec<(ServiceId, &Entry)> = Vec::new();
        for (service, one) in &self.services {
            all.extend(one.small.iter().chain(&one.ends).map(|e| (*service, e)));
        }
        all.sort_unstable_by_key(|(_, e)| e.number);
        let line = |e: &Entry| event_line("", e.at, e.at, &e.what, e.about.clone());
        all.iter().map(|(s, e)| (*s, e.at, line(e))).collect()
    }

    /// What [`History::keep`] said, in the new one.
    pub fn kept(kept: Vec<(ServiceId, Tick, EventLine)>) -> History {
        let mut history = History::new();
        for (service, at, line) in kept {
            let about = About {
                output: line.output,
                repeat: line.repeat,
                known: line.known,
            };
            history.record(at, service, &line.what, about);
        }
        history
    }

    /// The last `n` happenings of a service, oldest first.
    pub fn events(&self, service: ServiceId, name: &str, now: Tick, n: usize) -> Vec<EventLine> {
        let Some(one) = self.services.get(&service) else {
            return Vec::new();
        };
        let mut all: Vec<&Entry> = one.small.iter().chain(&one.ends).collect();
        all.sort_unstable_by_key(|e| e.number);
        let skip = all.len().saturating_sub(n);
        all.into_iter()
            .skip(skip)
            .map(|e| event_line(name, now, e.at, &e.what, e.about.clone()))
            .collect()
    }

    /// The service is no longer configured.
    pub fn forget(&mut self, service: ServiceId) {
        self.services.remove(&service);
    }
}

impl One {
    fn bytes(&self) -> usize {
        let all = self.small.iter().chain(&self.ends);
        let output = |e: &Entry| e.about.output.iter().map(String::len).sum::<usize>();
        all.map(|e| weight(&e.what) + output(e) + e.about.known.len())
            .sum()
    }

    /// Whether there was one that may go: the last entry of all stays.
    fn drop_oldest(&mut self) -> bool {
        if self.small.len() > 1 {
            return self.small.pop_front().is_some();
        }
        self.ends.len() > 1 && self.ends.pop_front().is_some()
    }
}

/// Roughly the bytes that it takes.
fn weight(what: &Happening) -> usize {
    let texts = match what {
        Happening::Ended(r) => {
            let crash = r.crash.as_ref();
            let steps = r.steps.iter().chain(&r.hooks);
            steps.map(|s| 64 + s.what.len()).sum::<usize>()
                + crash.map_or(0, |c| {
                    let frames = c.frames.iter().map(|f| 32 + f.len()).sum::<usize>();
                    c.kind.len() + c.text.len() + c.frame.len() + frames
                })
                + r.stuck.iter().map(|_| 192).sum::<usize>()
                + 160
        }
        Happening::Step { what: text, .. }
        | Happening::Hook { what: text, .. }
        | Happening::GivenUp { why: text }
        | Happening::Blocked { why: text }
        | Happening::ActionFailed { error: text }
        | Happening::MainProcessRefused { why: text, .. }
        | Happening::Executing { awaited: text, .. }
        | Happening::Unhealthy { why: text, .. }
        | Happening::FileChanged { path: text }
        | Happening::Status { text } => text.len(),
        Happening::WaitOver { on, .. } => on.iter().map(String::len).sum(),
        Happening::Waiting { on, unwanted } => on.iter().chain(unwanted).map(String::len).sum(),
        Happening::StartFailed { error, .. } | Happening::Without { error } => {
            error.thing.len() + error.cause.len()
        }
        Happening::Starting { .. }
        | Happening::Done { .. }
        | Happening::LeftOut { .. }
        | Happening::Healthy { .. }
        | Happening::Up { .. }
        | Happening::Adopted { .. }
        | Happening::GoneMeanwhile { .. }
        | Happening::Stopping { .. }
        | Happening::Unkillable { .. }
        | Happening::Restarting { .. }
        | Happening::Signalled { .. }
        | Happening::Ready { .. }
        | Happening::SaysReloading { .. }
        | Happening::Talkative { .. }
        | Happening::MainProcess { .. }
        | Happening::Limited { .. }
        | Happening::Unlimited { .. }
        | Happening::Draining { .. }
        | Happening::Undrained { .. }
        | Happening::Reloading { .. } => 0,
    };
    std::mem::size_of::<Entry>() + texts
}

/// Of these lines the last 4 KiB.
pub fn last_bytes(mut output: Vec<String>) -> Vec<String> {
    let mut room = OUTPUT;
    let fits = |l: &&String| {
        let fits = l.len() <= room;
        room = room.saturating_sub(l.len());
        fits
    };
    let keep = output.iter().rev().take_while(fits).count();
    output.drain(..output.len() - keep);
    output.shrink_to_fit();
    output
}

/// As it travels to a client.
pub fn event_line(name: &str, now: Tick, at: Tick, what: &Happening, about: About) -> EventLine {
    EventLine {
        service: name.to_owned(),
        ago_ms: u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX),
        what: what.clone(),
        output: about.output,
        repeat: about.repeat,
        known: about.known,
    }
}

/// What the log says of it behind the line about the end.
pub fn about_line(about: &About) -> String {
    let mut text = String::new();
    if let Some(repeat) = about.repeat.filter(|r| r.count > 1) {
        text.push_str(&format!("; {} time", ordinal(repeat.count)));
    }
    if !about.known.is_empty() {
        text.push_str("; a known fault, see superctl why");
    }
    text
}

/// The line for the log: service first, one line, units. How loud it is, too: what an
/// operator has to look at is at least a warning.
pub fn line(name: &str, what: &Happening) -> (Severity, String) {
    use Severity::{LOG_ERR as Err, LOG_INFO as Info, LOG_NOTICE as Notice, LOG_WARNING as Warn};
    let (severity, text) = match what {
        Happening::Starting { instance, by } => {
            (Info, format!("starting (run {}): {by} asked", instance.0))
        }
        Happening::Executing { pid, awaited, .. } => {
            let text = format!("executing: pid {}; waiting for {awaited}", pid.0);
            (Info, text)
        }
        Happening::Up { pid, .. } => (Notice, format!("up: pid {}", pid.0)),
        Happening::Adopted { pid, ran, .. } => (
            Notice,
            format!("adopted: pid {}, has run for {}", pid.0, Span(*ran)),
        ),
        Happening::GoneMeanwhile { left, .. } => (
            Warn,
            match left {
                0 => "ended while no superd was there".to_owned(),
                n => format!("ended while no superd was there; {} left", processes(*n)),
            },
        ),
        Happening::StartFailed { error, .. } => (Err, error.to_string()),
        Happening::Stopping {
            by: Origin::Unfit { why },
            longest,
            ..
        } => (Warn, format!("stopping: {why}; at most {}", Span(*longest))),
        Happening::Stopping { by, longest, .. } => (
            Notice,
            format!("stopping: {by} asked; at most {}", Span(*longest)),
        ),
        Happening::Step { what, wait, .. } => {
            (Info, format!("stopping: {what}, at most {}", Span(*wait)))
        }
        Happening::Hook {
            what,
            took,
            outcome,
            ..
        } => {
            let is_well = outcome.as_ref().is_none_or(StepOutcome::is_well);
            let severity = if is_well { Info } else { Warn };
            (severity, hook_in_words(what, outcome.as_ref(), *took))
        }
        Happening::Unkillable { left, since, .. } => (
            Err,
            format!(
                "{} still there {} after KILL, hanging in the kernel; trying again",
                processes(*left),
                Span(*since)
            ),
        ),
        Happening::Ended(report) => ended(report),
        Happening::Restarting {
            pause,
            failures,
            crash_loop,
        } => match (crash_loop, pause.is_zero()) {
            (true, _) => (
                Err,
                format!(
                    "crash loop, {failures} failures in a row: next start in {}",
                    Span(*pause)
                ),
            ),
            (false, true) => (Notice, "starting again at once".to_owned()),
            (false, false) => {
                let so_far = match failures {
                    0 | 1 => String::new(),
                    n => format!(" ({n} failures in a row)"),
                };
                let text = format!("starting again in {}{so_far}", Span(*pause));
                (Warn, text)
            }
        },
        Happening::Done { .. } => (Notice, "done".to_owned()),
        Happening::LeftOut { ran, .. } => (Warn, left_out(*ran)),
        Happening::Unhealthy {
            failures, of, why, ..
        } => {
            let text = format!("health check failed, {failures} of {of}: {why}");
            (Warn, text)
        }
        Happening::Healthy { .. } => (Notice, "well again".to_owned()),
        Happening::GivenUp { why } => (Err, format!("not starting again: {why}")),
        Happening::Waiting { on, unwanted } => {
            let severity = if unwanted.is_empty() { Info } else { Warn };
            let text = format!("waiting for {}", waiting_for(on, unwanted));
            (severity, text)
        }
        Happening::Blocked { why } => (Err, format!("cannot be started: {why}")),
        Happening::WaitOver { on, after, starts } => (Warn, wait_over(on, *after, *starts)),
        Happening::FileChanged { path } => (Notice, format!("its file {path} changed")),
        Happening::Signalled { signal, by } => (Notice, format!("sent {signal}: {by} asked")),
        Happening::Limited { connections, high } => (
            Warn,
            format!("{connections} connections, more than {high}: new ones are held back"),
        ),
        Happening::Unlimited { connections, low } => (
            Notice,
            format!("{connections} connections, less than {low}: new ones are let in again"),
        ),
        Happening::Draining { by } => (Notice, format!("draining: {by} asked")),
        Happening::Undrained { by } => (Notice, format!("no longer draining: {by} asked")),
        Happening::Reloading { by } => (Notice, format!("reloading: {by} asked")),
        Happening::ActionFailed { error } => (Warn, format!("action failed: {error}")),
        Happening::Without { error } => (Warn, format!("starts without what is optional: {error}")),
        Happening::Ready { .. } => (Info, "says that it is ready".to_owned()),
        Happening::SaysReloading { .. } => (Info, "says that it is reloading".to_owned()),
        Happening::MainProcess { before, pid, .. } => {
            let text = format!("its main process is pid {} now, before {}", pid.0, before.0);
            (Notice, text)
        }
        Happening::MainProcessRefused { pid, why, .. } => {
            (Warn, format!("MAINPID={} is ignored: {why}", pid.0))
        }
        Happening::Talkative { seconds } => (
            Warn,
            format!("says too much by sd_notify: no more of it is told for {seconds} s"),
        ),
        Happening::Status { text } => (Info, format!("says: {text}")),
    };
    // Texts of services and clients are in there.
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(clean).collect();
    (severity, format!("{name}: {text}"))
}

fn processes(n: u32) -> String {
    match n {
        1 => "1 process".to_owned(),
        n => format!("{n} processes"),
    }
}

/// The verdict, what led to it, and how long it took.
fn ended(r: &EndReport) -> (Severity, String) {
    let crash = r.crash.as_ref().map(|c| match c.frame.is_empty() {
        true => c.to_string(),
        false => format!("{c} at {}", c.frame),
    });
    let because = crash.unwrap_or_else(|| r.exit.to_string());
    let (took, ran) = (Span(r.took), Span(r.ran));
    let exit = match r.crash {
        Some(_) => format!(" ({})", r.exit),
        None => String::new(),
    };
    let (severity, mut text) = match r.verdict {
        Verdict::Clean => (Severity::LOG_NOTICE, format!("stopped: clean after {took}")),
        Verdict::CleanAfterEscalation => (
            Severity::LOG_WARNING,
            format!("stopped: clean after escalation, {took}"),
        ),
        // It was asked for, and no fault of the service.
        Verdict::Killed if r.was_forced() => (
            Severity::LOG_WARNING,
            format!("killed at once, as asked; gone after {took}"),
        ),
        Verdict::Killed => (
            Severity::LOG_ERR,
            format!("killed: did not stop within {took}"),
        ),
        Verdict::PanickedWhileStopping => (
            Severity::LOG_ERR,
            format!("panicked while stopping: {because}{exit}, stopped after {took}"),
        ),
        Verdict::Crashed => (
            Severity::LOG_ERR,
            format!("crashed: {because}{exit} after running for {ran}"),
        ),
        Verdict::ExitedByItself => (
            Severity::LOG_WARNING,
            format!("exited by itself: {because} after running for {ran}"),
        ),
        // What was left follows.
        Verdict::LeftChildren | Verdict::PortsHeld => {
            (Severity::LOG_WARNING, format!("{because}; took {took}"))
        }
        Verdict::FailedWhileStopping => (
            Severity::LOG_WARNING,
            format!("failed while stopping: {because}, stopped after {took}"),
        ),
    };
    if r.left > 0 {
        let left = processes(r.left);
        let were = if r.left == 1 { "was" } else { "were" };
        text.push_str(&format!(
            "; {left} of its tree outlived it and {were} removed"
        ));
    }
    if r.ports_held > 0 {
        let n = r.ports_held;
        text.push_str(&format!("; {n} of its ports still held by somebody else"));
    }
    if r.absorbed > 0 {
        let n = r.absorbed;
        text.push_str(&format!("; further stop requests absorbed: {n}"));
    }
    (severity, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::event::{Instance, Pid};
    use crate::machine::report::{Crash, Exit, SpawnError, Stage};
    use std::time::Duration;

    const X: ServiceId = ServiceId(1);

    fn report(verdict: Verdict) -> EndReport {
        EndReport {
            instance: Instance(3),
            pid: Some(Pid(42)),
            by: Origin::Itself,
            absorbed: 0,
            stopping_seen: 0,
            ran: Duration::from_secs(250),
            took: Duration::from_millis(812),
            steps: Vec::new(),
            exit: Exit::Code(0),
            crash: None,
            left: 0,
            ports_held: 0,
            hooks: Vec::new(),
            stuck: Vec::new(),
            verdict,
        }
    }

    fn said(what: &Happening) -> String {
        line("caddy", what).1
    }

    #[test]
    fn lines_read_like_a_person_wrote_them() {
        let by = Origin::Client {
            pid: 12,
            uid: 0,
            command: "superctl".into(),
        };
        let stopping = Happening::Stopping {
            instance: Instance(1),
            by,
            longest: Duration::from_secs(17),
        };
        assert_eq!(
            said(&stopping),
            "caddy: stopping: superctl (pid 12, uid 0) asked; at most 17 s"
        );
        let step = Happening::Step {
            instance: Instance(1),
            what: "TERM".into(),
            wait: Duration::from_secs(15),
        };
        assert_eq!(said(&step), "caddy: stopping: TERM, at most 15 s");
        assert_eq!(
            said(&Happening::Ended(Box::new(report(Verdict::Clean)))),
            "caddy: stopped: clean after 812 ms"
        );
        let mut panic = report(Verdict::PanickedWhileStopping);
        panic.exit = Exit::Code(2);
        panic.absorbed = 199;
        panic.crash = Some(Crash {
            kind: "go-panic".into(),
            text: "close of nil channel".into(),
            frame: "events.go:1644".into(),
            frames: Vec::new(),
        });
        let (severity, text) = line("nats", &Happening::Ended(Box::new(panic)));
        assert_eq!(severity as u8, Severity::LOG_ERR as u8);
        assert_eq!(
            text,
            "nats: panicked while stopping: go-panic: close of nil channel at events.go:1644 \
             (exited with status 2), stopped after 812 ms; further stop requests absorbed: 199"
        );
        let again = |failures| {
            said(&Happening::Restarting {
                pause: Duration::from_secs(60),
                failures,
                crash_loop: false,
            })
        };
        assert_eq!(again(0), "caddy: starting again in 1 min");
        assert_eq!(
            again(3),
            "caddy: starting again in 1 min (3 failures in a row)"
        );
        let forced = report(Verdict::Killed);
        assert_eq!(
            said(&Happening::Ended(Box::new(forced))),
            "caddy: killed at once, as asked; gone after 812 ms"
        );
        let failed = Happening::StartFailed {
            instance: Instance(1),
            error: SpawnError {
                stage: Stage::User,
                thing: "dns".into(),
                errno: 0,
                cause: "no such user".into(),
            },
        };
        assert_eq!(said(&failed), "caddy: setting user \"dns\": no such user");
        let says = Happening::Status {
            text: "a\nb\u{1b}[0m".into(),
        };
        assert_eq!(said(&says), "caddy: says: a b [0m");
    }

    #[test]
    fn history_is_bounded_in_number_and_bytes_and_keeps_its_order() {
        let mut h = History::new();
        for i in 0..1_000_u64 {
            let up = Happening::Up {
                instance: Instance(i as u32),
                pid: Pid(i as i32 + 2),
            };
            h.record(Tick(i), X, &up, About::default());
            let end = Happening::Ended(Box::new(report(Verdict::Crashed)));
            let output = (0..200).map(|n| format!("{i} {n} {}", "o".repeat(90)));
            let about = About {
                output: output.collect(),
                ..About::default()
            };
            h.record(Tick(i), X, &end, about);
            let one = &h.services[&X];
            assert!(one.bytes() <= BYTES && one.small.len() <= SMALL && one.ends.len() <= ENDS);
        }
        let events = h.events(X, "x", Tick(2_000_000_999), 4);
        assert_eq!(events.len(), 4);
        assert!(matches!(events[3].what, Happening::Ended(_)));
        assert!(events[3].output.last().unwrap().starts_with("999 199 "));
        assert!(events[3].output.iter().map(String::len).sum::<usize>() <= OUTPUT);
        assert_eq!(events[3].ago_ms, 2_000);
        assert!(events.windows(2).all(|w| w[0].ago_ms >= w[1].ago_ms));
        assert_eq!(h.services[&X].ends.back().unwrap().at, Tick(999));
        h.forget(X);
        assert!(h.events(X, "x", Tick(0), 9).is_empty());
    }

    #[test]
    fn an_event_travels_and_comes_back() {
        let end = Happening::Ended(Box::new(report(Verdict::Killed)));
        let sent = event_line(
            "x",
            Tick(5_000_000),
            Tick(0),
            &end,
            About {
                output: vec!["bye".into()],
                repeat: Some(Repeat { count: 7, first: 1 }),
                known: "known".into(),
            },
        );
        let text = crate::json::to_string(&sent).unwrap();
        assert_eq!(crate::json::from_str::<EventLine>(&text).unwrap(), sent);
    }

    #[test]
    fn it_comes_back_as_it_was_in_a_superd_that_is_another_program() {
        let mut h = History::new();
        let other = ServiceId(2);
        for i in 0..50_u64 {
            let up = Happening::Up {
                instance: Instance(i as u32),
                pid: Pid(i as i32 + 2),
            };
            let service = if i % 3 == 0 { other } else { X };
            h.record(Tick(i), service, &up, About::default());
            let end = Happening::Ended(Box::new(report(Verdict::Crashed)));
            let about = About {
                output: vec![format!("last words of {i}")],
                repeat: Some(Repeat { count: i, first: 1 }),
                known: "known".to_owned(),
            };
            h.record(Tick(i), service, &end, about);
        }
        let text = crate::json::to_string(&h.keep()).unwrap();
        let again = History::kept(crate::json::from_str(&text).unwrap());
        for service in [X, other] {
            let of = |h: &History| h.events(service, "x", Tick(100), 1000);
            assert_eq!(of(&again), of(&h));
            assert!(of(&h).len() > ENDS);
        }
    }

    #[test]
    fn one_giant_text_does_not_break_the_bound_for_long() {
        let mut h = History::new();
        let says = |n| Happening::Status {
            text: "s".repeat(n),
        };
        h.record(Tick(0), X, &says(1_000_000), About::default());
        h.record(Tick(1), X, &says(10), About::default());
        assert_eq!(h.events(X, "x", Tick(1), 99).len(), 1);
    }
}
