//! `why`, `events` and `logs`: what happened, in words for the person at 3 a.m.

use std::fmt::Write as _;

use crate::control::reply::{EventLine, LogLine};
use crate::machine::report::{
    hook_in_words, left_out, wait_over, waiting_for, EndReport, Exit, Happening, Origin, Verdict,
};
use crate::machine::time::Span;

use super::{count, crash, span, Style};

/// One line of a service's output. Control characters stay when nobody's terminal reads them.
pub fn log_line(line: &LogLine, style: Style) -> String {
    format!("{} {}\n", style.stamp(line.ago_ms), style.line(&line.text))
}

/// One happening on one line.
pub fn event(e: &EventLine, style: Style) -> String {
    let who = match e.service.as_str() {
        "" => "superd",
        name => name,
    };
    let text = format!("{who}: {}", happening(&e.what));
    format!("{} {}\n", style.stamp(e.ago_ms), style.line(&text))
}

/// The story of a service, oldest first.
pub fn why(name: &str, events: &[EventLine], style: Style) -> String {
    if events.is_empty() {
        let name = style.line(name);
        return format!("{name}: nothing happened to it since superd was started\n");
    }
    // The steps of a stop that is over are told in its report.
    let told: Vec<_> = events
        .iter()
        .filter_map(|e| match &e.what {
            Happening::Ended(end) => Some(end.instance),
            _ => None,
        })
        .collect();
    let mut out = String::new();
    for e in events {
        match &e.what {
            Happening::Stopping { instance, .. } | Happening::Step { instance, .. }
                if told.contains(instance) => {}
            // So are the hooks, but for the one that came before the end.
            Happening::Hook {
                instance,
                outcome,
                what,
                ..
            } if told.contains(instance)
                && (outcome.is_none() || !what.starts_with("post-start")) => {}
            Happening::Ended(end) => out.push_str(&ending(e, end, style)),
            what => {
                let line = style.line(&happening(what));
                writeln!(out, "{}: {line}", when(e.ago_ms, style)).ok(); // a String takes everything
            }
        }
    }
    out
}

/// `12 min 3 s ago (2026-07-31 12:34:56Z)`.
fn when(ago_ms: u64, style: Style) -> String {
    match style.at(ago_ms) {
        Some(date) => format!("{} ago ({date})", span(ago_ms)),
        None => format!("{} ago", span(ago_ms)),
    }
}

/// A row of a story: a word, and what is said.
pub type Row = (&'static str, String);

/// The end of an instance with everything that is known about it.
fn ending(e: &EventLine, end: &EndReport, style: Style) -> String {
    let mut out = format!(
        "{}: {}\n",
        when(e.ago_ms, style),
        style.line(&ended(end, &e.service))
    );
    let mut rows = ending_rows(end);
    let verdict = rows.pop();
    if let Some(crash) = &end.crash {
        rows.extend(crash::rows(crash, e.repeat, &e.known, style));
    } else if let Some(text) = e.repeat.and_then(|r| crash::repeated(r, None, style)) {
        rows.push(("repeated", text));
    }
    rows.extend(verdict);
    for (i, line) in e.output.iter().enumerate() {
        rows.push((if i == 0 { "last output" } else { "" }, format!("| {line}")));
    }
    for (name, text) in rows {
        writeln!(out, "  {name:<11} {}", style.line(&text)).ok(); // a String takes everything
    }
    out
}

/// What a report of an end says, without its crash; the verdict comes last.
pub fn ending_rows(end: &EndReport) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let pid = match end.pid {
        Some(pid) => format!(", pid {}", pid.0),
        None => String::new(),
    };
    rows.push((
        "run",
        format!("number {}{pid}, ran {}", end.instance.0, Span(end.ran)),
    ));
    if end.by != Origin::Itself {
        rows.push(("asked by", end.by.to_string()));
    }
    if end.absorbed > 0 {
        let n = count(end.absorbed, "further request", "further requests");
        rows.push(("absorbed", format!("{n} to stop changed nothing")));
    }
    if end.stopping_seen > 0 {
        let n = count(end.stopping_seen, "time", "times");
        rows.push(("said", format!("that it was stopping, {n}")));
    }
    for (i, step) in end.steps.iter().enumerate() {
        rows.push((if i == 0 { "steps" } else { "" }, step.to_string()));
    }
    let exit = match (end.exit, end.pid) {
        (Exit::Unknown, None) => "there was no main process".to_owned(),
        (exit, _) => exit.to_string(),
    };
    rows.push(("exit", exit));
    for (i, hook) in end.hooks.iter().enumerate() {
        let text = hook_in_words(&hook.what, Some(&hook.outcome), hook.took);
        rows.push((if i == 0 { "hooks" } else { "" }, text));
    }
    for (i, process) in end.stuck.iter().enumerate() {
        rows.push((if i == 0 { "stuck" } else { "" }, process.to_string()));
    }
    if end.left > 0 {
        let n = count(end.left, "process", "processes");
        rows.push(("left behind", format!("{n}, which superd removed")));
    }
    if end.ports_held > 0 {
        let n = count(end.ports_held, "listening socket", "listening sockets");
        rows.push(("ports", format!("not free: somebody else holds {n}")));
    }
    rows.push(("verdict", end.verdict.to_string()));
    rows
}

/// The head line of an end. `name` may be empty.
fn ended(end: &EndReport, name: &str) -> String {
    let by_itself = end.by == Origin::Itself;
    let after = Span(end.ran);
    let took = Span(end.took);
    let what = match (end.verdict, by_itself) {
        (Verdict::Crashed, _) => format!("crashed after {after}"),
        (Verdict::ExitedByItself, _) => format!("ended by itself after {after}"),
        (Verdict::LeftChildren, true) => {
            format!("ended by itself after {after} and left processes behind")
        }
        (Verdict::LeftChildren, false) => {
            format!("was stopped in {took}, but left processes behind")
        }
        (Verdict::PortsHeld, _) => format!("ended after {after}, but {}", end.verdict),
        (Verdict::Clean, true) => format!("ended by itself after {after}, cleanly"),
        (Verdict::Clean, false) => format!("was stopped cleanly in {took}"),
        (Verdict::CleanAfterEscalation, _) => {
            format!("was stopped in {took}, not by its first step")
        }
        (Verdict::Killed, _) => format!("was killed by superd after {took}"),
        (Verdict::PanickedWhileStopping, _) => format!("panicked while it was stopping, {took}"),
        (Verdict::FailedWhileStopping, _) => {
            format!("was stopped in {took}, but reported a failure")
        }
    };
    match name {
        "" => what,
        name => format!("{name} {what}"),
    }
}

/// Any happening in one line, without the service's name.
fn happening(what: &Happening) -> String {
    match what {
        Happening::Starting { instance, by } => match by {
            Origin::Policy => format!("automatic restart, run number {}", instance.0),
            by => format!("starting, run number {}, asked by {by}", instance.0),
        },
        Happening::Executing { pid, awaited, .. } => {
            format!("executing, pid {}, waiting for {awaited}", pid.0)
        }
        Happening::Up { pid, .. } => format!("up, pid {}", pid.0),
        Happening::Adopted { pid, ran, .. } => {
            format!(
                "adopted from an earlier superd, pid {}, has run for {}",
                pid.0,
                Span(*ran)
            )
        }
        Happening::GoneMeanwhile { left: 0, .. } => "ended while no superd was there".to_owned(),
        Happening::GoneMeanwhile { left, .. } => {
            let left = count(*left, "process", "processes");
            format!("ended while no superd was there, {left} left behind")
        }
        Happening::Hook {
            what,
            took,
            outcome,
            ..
        } => hook_in_words(what, outcome.as_ref(), *took),
        Happening::StartFailed { error, .. } => format!("could not be started: {error}"),
        Happening::Stopping { by, longest, .. } => {
            format!("stopping, at most {}, asked by {by}", Span(*longest))
        }
        Happening::Step { what, wait, .. } => format!("{what}, waiting at most {}", Span(*wait)),
        Happening::Unkillable { left, since, .. } => format!(
            "{} survived KILL for {}, stuck in the kernel; superd tries on",
            count(*left, "process", "processes"),
            Span(*since)
        ),
        Happening::Ended(end) => summary(end),
        Happening::Restarting {
            pause,
            failures,
            crash_loop,
        } => {
            let next = match pause.is_zero() {
                true => "starting again at once".to_owned(),
                false => format!("starting again in {}", Span(*pause)),
            };
            match (crash_loop, failures) {
                (true, n) => format!("{next}: it crashes again and again, {n} times so far"),
                (false, 0 | 1) => next,
                (false, n) => format!("{next}, {n} failures in a row"),
            }
        }
        Happening::Done { .. } => "done".to_owned(),
        Happening::LeftOut { ran, .. } => left_out(*ran),
        Happening::Unhealthy {
            failures, of, why, ..
        } => format!("health check failed, {failures} of {of}: {why}"),
        Happening::Healthy { .. } => "well again".to_owned(),
        Happening::GivenUp { why } => format!("not started again: {why}"),
        Happening::Waiting { on, unwanted } => {
            format!("waiting for {}", waiting_for(on, unwanted))
        }
        Happening::Blocked { why } => format!("cannot be started: {why}"),
        Happening::WaitOver { on, after, starts } => wait_over(on, *after, *starts),
        Happening::FileChanged { path } => format!("its file {path} changed"),
        Happening::Signalled { signal, by } => format!("{signal} sent, asked by {by}"),
        Happening::Limited { connections, high } => {
            format!("{connections} connections, more than {high}: new ones are held back")
        }
        Happening::Unlimited { connections, low } => {
            format!("{connections} connections, less than {low}: new ones are let in again")
        }
        Happening::Draining { by } => format!("new connections are held back, asked by {by}"),
        Happening::Undrained { by } => {
            format!("new connections are held back no longer, asked by {by}")
        }
        Happening::Reloading { by } => format!("reloading, asked by {by}"),
        Happening::ActionFailed { error } => format!("failed: {error}"),
        Happening::Without { error } => format!("starts without what is optional: {error}"),
        Happening::Ready { .. } => "says that it is ready".to_owned(),
        Happening::SaysReloading { .. } => "says that it is reloading".to_owned(),
        Happening::MainProcess { before, pid, .. } => {
            format!("its main process is pid {} now, before {}", pid.0, before.0)
        }
        Happening::MainProcessRefused { pid, why, .. } => {
            format!("MAINPID={} ignored: {why}", pid.0)
        }
        Happening::Talkative { seconds } => {
            format!("says too much by sd_notify: no more of it is told for {seconds} s")
        }
        Happening::Status { text } => format!("says: {text}"),
    }
}

/// The end of an instance on one line.
fn summary(end: &EndReport) -> String {
    let mut text = format!("{}, {}", ended(end, ""), end.exit);
    if let Some(crash) = &end.crash {
        write!(text, ", {crash}").ok(); // a String takes everything
    }
    if end.left > 0 {
        let n = count(end.left, "process", "processes");
        write!(text, ", {n} removed").ok(); // a String takes everything
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::crash::Repeat;
    use crate::machine::event::{Instance, Pid};
    use crate::machine::report::{Crash, Exit, SpawnError, Stage, StepOutcome, StepReport};
    use std::time::Duration;

    const STYLE: Style = Style {
        terminal: true,
        now: Some(1_767_225_600),
    };

    fn step(what: &str, began: u64, took: u64, outcome: StepOutcome) -> StepReport {
        StepReport {
            what: what.to_owned(),
            began: Duration::from_millis(began),
            took: Duration::from_millis(took),
            outcome,
        }
    }

    fn panicked() -> EndReport {
        EndReport {
            instance: Instance(3),
            pid: Some(Pid(1234)),
            by: Origin::Client {
                pid: 4711,
                uid: 0,
                command: "super\u{1b}ctl".to_owned(),
            },
            absorbed: 199,
            stopping_seen: 1,
            ran: Duration::from_secs(10_920),
            took: Duration::from_millis(5_230),
            steps: vec![
                step(
                    "POST http://127.0.0.1:2019/stop",
                    0,
                    10,
                    StepOutcome::Skipped("connection refused".to_owned()),
                ),
                step("TERM to main", 10, 3_200, StepOutcome::Gone),
            ],
            exit: Exit::Code(2),
            crash: Some(Crash {
                kind: "go-panic".to_owned(),
                text: "close of closed channel".to_owned(),
                frame: "main.(*App).Stop".to_owned(),
                frames: Vec::new(),
            }),
            left: 2,
            ports_held: 1,
            hooks: Vec::new(),
            stuck: Vec::new(),
            verdict: Verdict::PanickedWhileStopping,
        }
    }

    fn line(ago_ms: u64, what: Happening) -> EventLine {
        EventLine {
            service: "caddy".to_owned(),
            ago_ms,
            what,
            output: Vec::new(),
            repeat: None,
            known: String::new(),
        }
    }

    #[test]
    fn a_stop_is_told_from_who_asked_to_the_last_words() {
        let mut end = line(723_000, Happening::Ended(Box::new(panicked())));
        end.output = vec![
            "panic: close of closed channel".to_owned(),
            "\u{1b}[2J".to_owned(),
        ];
        end.repeat = Some(Repeat {
            count: 7,
            first: 1_767_225_600,
        });
        end.known = "main: it closes a channel twice. (https://example.org/1)".to_owned();
        let events = [
            line(
                728_230,
                Happening::Stopping {
                    instance: Instance(3),
                    by: Origin::Policy,
                    longest: Duration::from_secs(17),
                },
            ),
            end,
            line(
                700_000,
                Happening::StartFailed {
                    instance: Instance(4),
                    error: SpawnError {
                        stage: Stage::User,
                        thing: "dns".to_owned(),
                        errno: 0,
                        cause: "no such user".to_owned(),
                    },
                },
            ),
            line(
                699_000,
                Happening::Restarting {
                    pause: Duration::from_secs(2),
                    failures: 3,
                    crash_loop: false,
                },
            ),
        ];
        let expected = "\
12 min 3 s ago (2025-12-31 23:47:57Z): caddy panicked while it was stopping, 5.2 s
  run         number 3, pid 1234, ran 3 h 2 min
  asked by    super\\x1bctl (pid 4711, uid 0)
  absorbed    199 further requests to stop changed nothing
  said        that it was stopping, 1 time
  steps       POST http://127.0.0.1:2019/stop at 0 ms, skipped: connection refused
              TERM to main at 10 ms, gone after 3.2 s
  exit        exited with status 2
  left behind 2 processes, which superd removed
  ports       not free: somebody else holds 1 listening socket
  crash       go-panic: close of closed channel, in main.(*App).Stop
  repeated    7th time since today, always at main.(*App).Stop
  known fault main: it closes a channel twice. (https://example.org/1)
  verdict     panicked while stopping
  last output | panic: close of closed channel
              | \\x1b[2J
11 min 40 s ago (2025-12-31 23:48:20Z): could not be started: setting user \"dns\": no such user
11 min 39 s ago (2025-12-31 23:48:21Z): starting again in 2 s, 3 failures in a row
";
        assert_eq!(why("caddy", &events, STYLE), expected);
        assert_eq!(
            why("caddy", &[], STYLE),
            "caddy: nothing happened to it since superd was started\n"
        );
    }

    #[test]
    fn an_event_is_one_line() {
        let text = |what| event(&line(1000, what), STYLE);
        assert_eq!(
            text(Happening::Ended(Box::new(panicked()))),
            "2025-12-31 23:59:59Z caddy: panicked while it was stopping, 5.2 s, \
             exited with status 2, go-panic: close of closed channel, 2 processes removed\n"
        );
        assert_eq!(
            text(Happening::Restarting {
                pause: Duration::ZERO,
                failures: 1,
                crash_loop: false
            }),
            "2025-12-31 23:59:59Z caddy: starting again at once\n"
        );
        assert_eq!(
            text(Happening::Status {
                text: "a\nb".to_owned()
            }),
            "2025-12-31 23:59:59Z caddy: says: a\\nb\n"
        );
    }

    #[test]
    fn an_exit_without_a_request_names_nobody() {
        let end = EndReport {
            by: Origin::Itself,
            verdict: Verdict::Crashed,
            steps: Vec::new(),
            ..panicked()
        };
        let events = [line(1000, Happening::Ended(Box::new(end)))];
        let text = why("caddy", &events, STYLE);
        assert!(text.contains("caddy crashed after 3 h 2 min\n"), "{text}");
        assert!(!text.contains("asked by"), "{text}");
    }

    #[test]
    fn output_is_verbatim_for_programs_and_harmless_for_terminals() {
        let said = LogLine {
            service: "caddy".to_owned(),
            ago_ms: 1000,
            text: "\u{1b}[31mred".to_owned(),
        };
        assert_eq!(
            log_line(&said, STYLE),
            "2025-12-31 23:59:59Z \\x1b[31mred\n"
        );
        let file = Style {
            terminal: false,
            now: None,
        };
        assert_eq!(log_line(&said, file), "1 s ago \u{1b}[31mred\n");
    }
}
