//! `status`, `plan` and `doctor` for people.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use crate::control::reply::{Finding, PlanLine, Reply, Status};
use crate::ctl::act::json_reply;
use crate::machine::report::waiting_for;

use super::result::{drain, step};
use super::{count, memory, span, table, Style};

/// All services, one line each.
pub fn all(states: &[Status], style: Style) -> String {
    if states.is_empty() {
        return "no services are configured\n".to_owned();
    }
    let head = [
        "NAME",
        "STATE",
        "SINCE",
        "PID",
        "PROCS",
        "MEMORY",
        "RESTARTS",
        "LAST EXIT / NEXT",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for s in states {
        let lives = s.pid.is_some() || s.processes > 0;
        let or_dash = |text: String| if lives { text } else { "-".to_owned() };
        rows.push(vec![
            style.line(&s.service),
            style.line(&s.state),
            span(s.since_ms).to_string(),
            s.pid.map_or_else(|| "-".to_owned(), |p| p.to_string()),
            or_dash(s.processes.to_string()),
            or_dash(memory(s.memory_kib)),
            s.restarts.to_string(),
            style.line(&remarks(s)),
        ]);
    }
    table(&rows)
}

/// The last column: the present stop, what it waits for, the last exit, the next start.
fn remarks(s: &Status) -> String {
    let mut parts = Vec::new();
    if let Some(stop) = &s.stop {
        parts.push(step(stop));
    }
    parts.extend(drain(s));
    if let (true, Some(n)) = (s.limited, s.connections) {
        parts.push(format!("connections {}", connections(n, s)));
    }
    if s.adopted {
        parts.push("adopted".to_owned());
    }
    if !s.blocked.is_empty() {
        parts.push(s.blocked.clone());
    } else if !s.waiting_on.is_empty() {
        parts.push(format!(
            "waits for {}",
            waiting_for(&s.waiting_on, &s.unwanted)
        ));
    }
    if !s.last_exit.is_empty() {
        parts.push(s.last_exit.clone());
    }
    if let Some(ms) = s.retry_ms {
        parts.push(format!("next start in {}", span(ms)));
    }
    if let Some(ms) = s.next_run_ms {
        parts.push(format!("next run in {}", span(ms)));
    }
    match parts.is_empty() {
        true => "-".to_owned(),
        false => parts.join("; "),
    }
}

/// `187`, `187 of 200`, `201 of 200, new ones are held back`.
fn connections(n: u32, s: &Status) -> String {
    let held = match s.limited {
        true => ", new ones are held back",
        false => "",
    };
    match s.max_connections {
        Some(most) => format!("{n} of {most}{held}"),
        None => n.to_string(),
    }
}

/// One service, everything that is known about it.
pub fn one(s: &Status, style: Style) -> String {
    let mut out = format!(
        "{}: {} for {}, wanted {}\n",
        style.line(&s.service),
        style.line(&s.state),
        span(s.since_ms),
        style.line(&s.want)
    );
    let mut row = |name: &str, text: &str| {
        writeln!(out, "  {name:<13} {}", style.line(text)).ok(); // a String takes everything
    };
    if let Some(pid) = s.pid {
        let adopted = if s.adopted { ", adopted" } else { "" };
        row("main process", &format!("{pid}{adopted}"));
    }
    if s.pid.is_some() || s.processes > 0 {
        row("processes", &s.processes.to_string());
        row("memory", &memory(s.memory_kib));
    }
    row("restarts", &s.restarts.to_string());
    if !s.waiting_on.is_empty() {
        row("waits for", &waiting_for(&s.waiting_on, &s.unwanted));
    }
    if !s.blocked.is_empty() {
        row("blocked", &s.blocked);
    }
    if let Some(health) = &s.health {
        row("health", health);
    }
    if let Some(wait) = &s.awaiting {
        let mut text = wait.what.clone();
        if let Some(ms) = wait.left_ms {
            text.push_str(&format!("; at most {} more", span(ms)));
        }
        row("not ready", &text);
    }
    if let Some(stop) = &s.stop {
        let mut text = format!("{}; at most {} in all", step(stop), span(stop.left_ms));
        if stop.absorbed > 0 {
            let n = count(stop.absorbed, "further request", "further requests");
            text.push_str(&format!("; {n} changed nothing"));
        }
        row("stop", &text);
    }
    if let Some(text) = drain(s) {
        row("drain", &text);
    } else if let Some(n) = s.connections {
        row("connections", &connections(n, s));
    }
    if !s.last_exit.is_empty() {
        row("last exit", &s.last_exit);
    }
    if let Some(ms) = s.retry_ms {
        row("next start", &format!("in {}", span(ms)));
    }
    if let Some(ms) = s.next_run_ms {
        row("next run", &format!("in {}", span(ms)));
    }
    match (s.ready.as_deref(), s.reloading) {
        (_, true) => row("ready", "reloading"),
        // Most services have no such protocol; nothing is missing.
        (None | Some("not-told"), false) => {}
        (Some(_), false) if s.awaiting.is_some() => {}
        (Some(word), false) => row("ready", word),
    }
    if !s.says.is_empty() {
        row("says", &s.says);
    }
    out
}

/// The longest stops, the sum last.
pub fn plan(lines: &[PlanLine], style: Style) -> String {
    let mut rows = vec![["SERVICE", "LONGEST", "STEPS"].map(str::to_owned).to_vec()];
    let mut sum = None;
    for line in lines {
        if line.service.is_empty() {
            sum = Some(line.longest_ms);
            continue;
        }
        let mut steps = line.steps.join("; ");
        match line.restarts.as_slice() {
            [] => {}
            [one] => steps.push_str(&format!("; {one} is restarted with it")),
            all => steps.push_str(&format!("; {} are restarted with it", all.join(", "))),
        }
        rows.push(vec![
            style.line(&line.service),
            span(line.longest_ms).to_string(),
            style.line(&steps),
        ]);
    }
    let mut out = if rows.len() > 1 {
        table(&rows)
    } else {
        String::new()
    };
    if let Some(ms) = sum {
        out.push_str(&format!(
            "everything, in the order of the shutdown: at most {}\n",
            span(ms)
        ));
    }
    out
}

/// What procd needs as `term_timeout`.
pub fn longest_seconds(lines: &[PlanLine]) -> Option<u64> {
    lines
        .iter()
        .find(|l| l.service.is_empty())
        .map(|l| crate::config::term_timeout(Duration::from_millis(l.longest_ms)))
}

/// Prints the answer to `plan --max-stop-seconds`.
pub fn seconds(out: &mut dyn Write, seconds: u64, json: bool, style: Style) -> io::Result<()> {
    if !json {
        return writeln!(out, "{seconds}");
    }
    let reply = Reply {
        max_stop_seconds: Some(seconds),
        ..Reply::ok(0)
    };
    json_reply(out, &reply, style)
}

/// What superd found out about the machine.
pub fn doctor(findings: &[Finding], style: Style) -> String {
    let row = |f: &Finding| {
        vec![
            if f.good { "ok" } else { "no" }.to_owned(),
            style.line(&f.what),
            style.line(&f.text),
        ]
    };
    let rows: Vec<Vec<String>> = findings.iter().map(row).collect();
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::reply::StopStatus;

    const STYLE: Style = Style {
        terminal: true,
        now: None,
    };

    fn three() -> Vec<Status> {
        vec![
            Status {
                service: "caddy".to_owned(),
                state: "stopping".to_owned(),
                want: "down".to_owned(),
                since_ms: 3200,
                pid: Some(1234),
                processes: 4,
                memory_kib: 39_117,
                restarts: 2,
                stop: Some(StopStatus {
                    step: "TERM sent".to_owned(),
                    step_ms: 3210,
                    step_of_ms: 15_000,
                    left_ms: 13_800,
                    absorbed: 12,
                }),
                last_exit: "ended by SIGSEGV".to_owned(),
                ..Status::default()
            },
            Status {
                service: "dns-forwarder".to_owned(),
                state: "backoff".to_owned(),
                want: "up".to_owned(),
                since_ms: 1100,
                restarts: 17,
                last_exit: "exited with status 2".to_owned(),
                retry_ms: Some(4200),
                ..Status::default()
            },
            Status {
                service: "web".to_owned(),
                state: "waiting".to_owned(),
                since_ms: 250_000,
                waiting_on: vec!["dns-forwarder".to_owned()],
                ..Status::default()
            },
        ]
    }

    #[test]
    fn the_table_lines_up() {
        let expected = "\
NAME           STATE     SINCE       PID   PROCS  MEMORY    RESTARTS  LAST EXIT / NEXT
caddy          stopping  3.2 s       1234  4      38.2 MiB  2         TERM sent, 3.2 s of 15 s; ended by SIGSEGV
dns-forwarder  backoff   1.1 s       -     -      -         17        exited with status 2; next start in 4.2 s
web            waiting   4 min 10 s  -     -      -         0         waits for dns-forwarder
";
        assert_eq!(all(&three(), STYLE), expected);
        assert_eq!(all(&[], STYLE), "no services are configured\n");
    }

    #[test]
    fn one_service_is_told_at_length() {
        let mut caddy = three().remove(0);
        caddy.connections = Some(7);
        caddy.says = "draining\u{1b}[31m".to_owned();
        let expected = "\
caddy: stopping for 3.2 s, wanted down
  main process  1234
  processes     4
  memory        38.2 MiB
  restarts      2
  stop          TERM sent, 3.2 s of 15 s; at most 13.8 s in all; 12 further requests changed nothing
  connections   7
  last exit     ended by SIGSEGV
  says          draining\\x1b[31m
";
        assert_eq!(one(&caddy, STYLE), expected);
    }

    #[test]
    fn the_plan_ends_with_the_sum() {
        let line = |service: &str, steps: &[&str], longest_ms| PlanLine {
            service: service.to_owned(),
            steps: steps.iter().map(|s| (*s).to_owned()).collect(),
            restarts: Vec::new(),
            longest_ms,
        };
        let lines = [
            line(
                "caddy",
                &["drain, at most 30 s", "QUIT, at most 2 s"],
                34_000,
            ),
            PlanLine {
                restarts: vec!["api".to_owned(), "web".to_owned()],
                ..line("nats", &["TERM, at most 15 s"], 17_000)
            },
            PlanLine {
                restarts: vec!["web".to_owned()],
                ..line("dns", &["TERM, at most 5 s"], 5_000)
            },
            line("", &[], 34_001),
        ];
        let expected = "\
SERVICE  LONGEST  STEPS
caddy    34 s     drain, at most 30 s; QUIT, at most 2 s
nats     17 s     TERM, at most 15 s; api, web are restarted with it
dns      5 s      TERM, at most 5 s; web is restarted with it
everything, in the order of the shutdown: at most 34 s
";
        assert_eq!(plan(&lines, STYLE), expected);
        assert_eq!(longest_seconds(&lines), Some(36));
    }

    #[test]
    fn doctor_says_what_is_missing_and_what_happens_instead() {
        let finding = |what: &str, good, text: &str| Finding {
            what: what.to_owned(),
            good,
            text: text.to_owned(),
        };
        let lines = [
            finding("pidfd_open", true, "Linux 5.15"),
            finding(
                "cgroup v2",
                false,
                "not mounted: sessions and /proc instead",
            ),
        ];
        let expected = "\
ok  pidfd_open  Linux 5.15
no  cgroup v2   not mounted: sessions and /proc instead
";
        assert_eq!(doctor(&lines, STYLE), expected);
    }
}
