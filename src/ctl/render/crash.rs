//! Crashes: the words that `why` and `crashes` have for them.

use std::fmt::Write as _;

use crate::control::crash::{ordinal, CrashLine, CrashReport, Repeat};
use crate::machine::crash::GO_DUMP;
use crate::machine::report::Crash;

use super::story::{ending_rows, Row};
use super::{span, Style};

/// `go-panic: close of closed channel, in tls.go:338`
pub fn head(crash: &Crash) -> String {
    match crash.frame.as_str() {
        "" => crash.to_string(),
        frame => format!("{crash}, in {frame}"),
    }
}

/// `7th time since Tuesday, always at tls.go:338`; none the first time.
pub fn repeated(repeat: Repeat, crash: Option<&Crash>, style: Style) -> Option<String> {
    if repeat.count < 2 {
        return None;
    }
    let mut text = format!("{} time", ordinal(repeat.count));
    if let Some(day) = style.day(repeat.first) {
        write!(text, " since {day}").ok(); // a String takes everything
    }
    let frame = crash.map_or("", |c| c.frame.as_str());
    if !frame.is_empty() {
        write!(text, ", always at {frame}").ok();
    }
    Some(text)
}

/// What is said about a crash, row by row.
pub fn rows(crash: &Crash, repeat: Option<Repeat>, known: &str, style: Style) -> Vec<Row> {
    let name = match crash.kind.as_str() {
        GO_DUMP => "dump",
        _ => "crash",
    };
    let mut rows = vec![(name, head(crash))];
    // The first frame is in the line above, unless it has a function to name.
    let frames = crash.frames.iter().filter(|f| **f != crash.frame);
    for (i, frame) in frames.enumerate() {
        rows.push((if i == 0 { "frames" } else { "" }, frame.clone()));
    }
    if let Some(text) = repeat.and_then(|r| repeated(r, Some(crash), style)) {
        rows.push(("repeated", text));
    }
    if !known.is_empty() {
        rows.push(("known fault", known.to_owned()));
    }
    rows
}

/// `superctl crashes`.
pub fn list(name: Option<&str>, crashes: &[CrashLine], style: Style) -> String {
    let mut out = String::new();
    for c in crashes {
        let repeat = Repeat {
            count: c.count,
            first: c.first,
        };
        let head = format!("{}: {}", c.service, head(&c.crash));
        writeln!(out, "{}", style.line(&head)).ok(); // a String takes everything
        let mut times = match repeated(repeat, None, style) {
            Some(text) => text,
            None => "once".to_owned(),
        };
        if let Some(last) = ago(c.last, style) {
            write!(times, ", last {last}").ok();
        }
        writeln!(out, "  {times}").ok();
        if !c.known.is_empty() {
            writeln!(out, "  known fault: {}", style.line(&c.known)).ok();
        }
    }
    match (crashes.is_empty(), name) {
        (true, Some(name)) => format!("{}: no crash is known\n", style.line(name)),
        (true, None) => "no crash is known\n".to_owned(),
        (false, _) => out,
    }
}

/// `12 min 3 s ago (2026-07-31 12:34:56Z)`; none when a clock was not set.
fn ago(then: u64, style: Style) -> Option<String> {
    let ms = style.now?.checked_sub(then)?.saturating_mul(1000);
    let date = style.at(ms)?;
    Some(format!("{} ago ({date})", span(ms)))
}

/// A report on disk, with everything that is in it.
pub fn report(report: &CrashReport, style: Style) -> String {
    let mut out = String::new();
    let when = ago(report.last, style).unwrap_or_else(|| "at an unknown time".to_owned());
    writeln!(
        out,
        "crash report {}, last {when}:",
        style.line(&report.fingerprint)
    )
    .ok(); // a String takes everything
    let repeat = Repeat {
        count: report.count,
        first: report.first,
    };
    let mut all = ending_rows(&report.end);
    let verdict = all.pop();
    all.extend(rows(&report.crash, Some(repeat), &report.known, style));
    all.extend(verdict);
    for (name, lines) in [
        ("last output", &report.output),
        ("whole text", &report.dump),
    ] {
        let lines = lines.iter().enumerate();
        all.extend(lines.map(|(i, l)| (if i == 0 { name } else { "" }, format!("| {l}"))));
    }
    for (name, text) in all {
        writeln!(out, "  {name:<11} {}", style.line(&text)).ok();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::crash::VERSION;
    use crate::machine::event::{Instance, Pid};
    use crate::machine::report::{EndReport, Exit, Origin, Stuck, Verdict};
    use std::time::Duration;

    const STYLE: Style = Style {
        terminal: true,
        now: Some(1_767_225_600), // a Thursday, 2026-01-01
    };

    fn panic() -> Crash {
        Crash {
            kind: "go-panic".to_owned(),
            text: "close of closed channel".to_owned(),
            frame: "tls.go:338".to_owned(),
            frames: vec![
                "caddytls.(*TLS).Stop at tls.go:338".to_owned(),
                "v2.unsyncedStop at caddy.go:692".to_owned(),
            ],
        }
    }

    #[test]
    fn a_repeat_is_told_with_its_day_and_place() {
        let repeat = Repeat {
            count: 7,
            first: 1_767_225_600 - 2 * 86_400,
        };
        let crash = panic();
        assert_eq!(
            repeated(repeat, Some(&crash), STYLE).unwrap(),
            "7th time since Tuesday, always at tls.go:338"
        );
        let unknown = Repeat { count: 2, first: 0 };
        assert_eq!(repeated(unknown, None, STYLE).unwrap(), "2nd time");
        assert_eq!(repeated(Repeat { count: 1, first: 0 }, None, STYLE), None);
    }

    #[test]
    fn a_list_has_a_few_lines_for_each_crash() {
        let line = |count, known: &str| CrashLine {
            service: "caddy".to_owned(),
            fingerprint: "10eb31d4b7bf7af0".to_owned(),
            count,
            first: 1_767_225_600 - 86_400,
            last: 1_767_225_600 - 180,
            crash: panic(),
            known: known.to_owned(),
        };
        assert_eq!(
            list(
                None,
                &[line(1, ""), line(3, "Caddy: a \u{1b}[2Jfault")],
                STYLE
            ),
            "caddy: go-panic: close of closed channel, in tls.go:338\n  \
             once, last 3 min ago (2025-12-31 23:57:00Z)\n\
             caddy: go-panic: close of closed channel, in tls.go:338\n  \
             3rd time since Wednesday, last 3 min ago (2025-12-31 23:57:00Z)\n  \
             known fault: Caddy: a \\x1b[2Jfault\n"
        );
        assert_eq!(list(Some("x"), &[], STYLE), "x: no crash is known\n");
    }

    #[test]
    fn a_report_tells_everything() {
        let report = CrashReport {
            v: VERSION,
            service: "stuck".to_owned(),
            fingerprint: "10eb31d4b7bf7af0".to_owned(),
            count: 2,
            first: 1_767_225_600,
            last: 1_767_225_600,
            crash: Crash {
                kind: GO_DUMP.to_owned(),
                text: "SIGQUIT: quit".to_owned(),
                frame: "main.go:44".to_owned(),
                frames: vec!["main.stop at main.go:44".to_owned()],
            },
            known: String::new(),
            end: EndReport {
                instance: Instance(3),
                pid: Some(Pid(1234)),
                by: Origin::Policy,
                absorbed: 0,
                stopping_seen: 0,
                ran: Duration::from_secs(10),
                took: Duration::from_secs(17),
                steps: Vec::new(),
                exit: Exit::Code(2),
                crash: None,
                left: 0,
                ports_held: 0,
                hooks: Vec::new(),
                stuck: vec![Stuck {
                    pid: Pid(1234),
                    name: "stuck".to_owned(),
                    state: 'D',
                    wchan: String::new(),
                    threads: 1,
                    listens: Vec::new(),
                }],
                verdict: Verdict::CleanAfterEscalation,
            },
            dump: vec![
                "SIGQUIT: quit".to_owned(),
                "goroutine 1 [select]:".to_owned(),
            ],
            output: vec!["bye".to_owned()],
        };
        assert_eq!(
            super::report(&report, STYLE),
            "\
crash report 10eb31d4b7bf7af0, last 0 ms ago (2026-01-01 00:00:00Z):
  run         number 3, pid 1234, ran 10 s
  asked by    superd
  exit        exited with status 2
  stuck       1234 (stuck): in the kernel, not to be interrupted, 1 thread
  dump        go-dump: SIGQUIT: quit, in main.go:44
  frames      main.stop at main.go:44
  repeated    2nd time since today, always at main.go:44
  verdict     clean after escalation
  last output | bye
  whole text  | SIGQUIT: quit
              | goroutine 1 [select]:
"
        );
    }
}
