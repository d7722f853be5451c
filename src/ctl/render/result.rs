//! What became of a request, in one line; and what a wait is waiting for.

use std::time::Duration;

use crate::control::reply::{Reply, Status, StopStatus};
use crate::control::request::{Request, Verb};
use crate::machine::report::waiting_for;
use crate::machine::time::Span;

use super::{count, span};

/// So many services are named while several are waited for.
const NAMED: usize = 2;

/// Whom a request is about: the service's name, or none for all of them and superd.
fn subject(asked: &Request) -> Option<&str> {
    asked.service.as_deref()
}

/// The line for a request that went well.
pub fn done(asked: &Request, reply: &Reply) -> String {
    let who = match (subject(asked), asked.verb) {
        (Some(name), _) => name,
        (None, Verb::Shutdown | Verb::Reload | Verb::Upgrade) => "superd",
        (None, _) => "all services",
    };
    if !reply.message.is_empty() {
        return with_subject(who, &reply.message);
    }
    let at_most = |left: Option<u64>| match left {
        Some(ms) => format!(", at most {}", span(ms)),
        None => String::new(),
    };
    let verdict = match reply.verdict {
        Some(verdict) => format!(", {verdict}"),
        None => String::new(),
    };
    let left = at_most(reply.left_ms);
    let what = match asked.verb {
        Verb::Start if asked.wait => "up".to_owned(),
        Verb::Start => "starting".to_owned(),
        Verb::Stop if asked.wait => format!("stopped{verdict}"),
        Verb::Stop if reply.joined => format!("is stopping already{left}"),
        Verb::Stop => format!("stopping{left}"),
        Verb::Restart if asked.wait => "restarted".to_owned(),
        Verb::Restart => format!("restarting{left}"),
        Verb::Reload => "reloaded".to_owned(),
        Verb::Drain if asked.wait => "drained, no connection is open".to_owned(),
        Verb::Drain => "draining".to_owned(),
        Verb::Undrain => "takes connections again".to_owned(),
        Verb::Signal => format!("{} sent", asked.signal.as_deref().unwrap_or("signal")),
        Verb::Shutdown => format!("ending{left}"),
        Verb::Upgrade => "upgraded".to_owned(),
        Verb::Status
        | Verb::Logs
        | Verb::Why
        | Verb::Crashes
        | Verb::Events
        | Verb::Plan
        | Verb::Graph
        | Verb::Doctor => "done".to_owned(),
    };
    format!("{who}: {what}")
}

/// The line for a request that did not go well, without the program's name.
pub fn failed(asked: &Request, reply: &Reply) -> String {
    let message = match reply.message.as_str() {
        "" => "superd refused it and gave no reason",
        said => said,
    };
    match subject(asked) {
        Some(name) => with_subject(name, message),
        None => message.to_owned(),
    }
}

/// Names the subject unless the message does.
fn with_subject(who: &str, message: &str) -> String {
    let leads = message
        .strip_prefix(who)
        .is_some_and(|rest| rest.starts_with([':', ' ']));
    let named = leads || message.contains(&format!("\"{who}\""));
    match named {
        true => message.to_owned(),
        false => format!("{who}: {message}"),
    }
}

/// What is being waited for: `caddy: TERM sent, 3.2 s of 15 s, 4 processes left`.
pub fn progress(pending: &[&Request], states: &[Status]) -> String {
    let about_all = pending.iter().any(|r| r.service.is_none());
    let waited_for = |s: &&Status| {
        let stops = pending.iter().any(|r| {
            (r.service.is_none() || r.service.as_deref() == Some(&s.service))
                && matches!(r.verb, Verb::Stop | Verb::Shutdown)
        });
        let drains = pending.iter().any(|r| {
            (r.service.is_none() || r.service.as_deref() == Some(&s.service))
                && r.verb == Verb::Drain
        });
        let settled = match (s.state.as_str(), stops) {
            ("up", _) if drains => s.drain.as_deref() == Some("drained"),
            ("down", _) | ("failed", _) => true,
            ("up", false) => about_all,
            _ => false,
        };
        !settled
            && (about_all
                || pending
                    .iter()
                    .any(|r| r.service.as_deref() == Some(&s.service)))
    };
    let mut open: Vec<String> = states.iter().filter(waited_for).map(one).collect();
    let more = open.len().saturating_sub(NAMED);
    open.truncate(NAMED);
    let mut line = open.join("; ");
    if more > 0 {
        line.push_str(&format!("; and {more} more"));
    }
    line
}

fn one(status: &Status) -> String {
    let name = &status.service;
    if let Some(stop) = &status.stop {
        let left = count(status.processes, "process", "processes");
        return format!("{name}: {}, {left} left", step(stop));
    }
    if let Some(drain) = drain(status) {
        return format!("{name}: {drain}");
    }
    let since = tenths(status.since_ms);
    match status.waiting_on.as_slice() {
        [] => format!("{name}: {}, {since}", status.state),
        on => format!(
            "{name}: waiting for {}, {since}",
            waiting_for(on, &status.unwanted)
        ),
    }
}

/// `draining: 7 connections`, `drained`; none while new connections are let in.
pub fn drain(status: &Status) -> Option<String> {
    let word = status.drain.as_deref()?;
    Some(match (word, status.connections) {
        ("draining", Some(n)) => format!("draining: {}", count(n, "connection", "connections")),
        (word, _) => word.to_owned(),
    })
}

/// `TERM sent, 3.2 s of 15 s`.
pub fn step(stop: &StopStatus) -> String {
    let so_far = tenths(stop.step_ms);
    match stop.step_of_ms {
        0 => format!("{}, {so_far}", stop.step),
        of => format!("{}, {so_far} of {}", stop.step, span(of)),
    }
}

/// A number that does not change its shape while it counts: `0.8 s`, `3.0 s`.
fn tenths(ms: u64) -> String {
    match ms {
        0..=59_999 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => Span(Duration::from_millis(ms)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::reply::Code;
    use crate::machine::report::Verdict;

    fn asked(verb: Verb, service: Option<&str>, wait: bool) -> Request {
        Request {
            service: service.map(str::to_owned),
            wait,
            ..Request::new(1, verb)
        }
    }

    fn stopping(name: &str) -> Status {
        Status {
            service: name.to_owned(),
            state: "stopping".to_owned(),
            processes: 4,
            stop: Some(StopStatus {
                step: "TERM sent".to_owned(),
                step_ms: 3210,
                step_of_ms: 15_000,
                left_ms: 13_790,
                absorbed: 0,
            }),
            ..Status::default()
        }
    }

    #[test]
    fn progress_reads_as_the_operator_needs_it() {
        let stop = asked(Verb::Stop, Some("caddy"), true);
        assert_eq!(
            progress(&[&stop], &[stopping("caddy")]),
            "caddy: TERM sent, 3.2 s of 15 s, 4 processes left"
        );
        let start = asked(Verb::Start, Some("web"), true);
        let waits = Status {
            service: "web".to_owned(),
            state: "waiting".to_owned(),
            since_ms: 850,
            waiting_on: vec!["nats".to_owned(), "dns".to_owned()],
            ..Status::default()
        };
        assert_eq!(
            progress(&[&start], &[waits]),
            "web: waiting for nats, dns, 0.8 s"
        );
    }

    #[test]
    fn progress_of_many_stays_on_one_line() {
        let all = asked(Verb::Stop, None, true);
        let mut states: Vec<Status> = ["a", "b", "c", "d"].map(stopping).into();
        states[0].state = "down".to_owned();
        let line = progress(&[&all], &states);
        assert!(
            line.starts_with("b: TERM sent, 3.2 s of 15 s, 4 processes left; c:"),
            "{line}"
        );
        assert!(line.ends_with("; and 1 more"), "{line}");
    }

    #[test]
    fn a_result_is_one_line_about_one_service() {
        let mut reply = Reply::ok(1);
        let stop = asked(Verb::Stop, Some("caddy"), true);
        reply.verdict = Some(Verdict::CleanAfterEscalation);
        assert_eq!(
            done(&stop, &reply),
            "caddy: stopped, clean after escalation"
        );
        reply = Reply::ok(1);
        reply.left_ms = Some(12_000);
        reply.joined = true;
        let no_wait = asked(Verb::Stop, Some("caddy"), false);
        assert_eq!(
            done(&no_wait, &reply),
            "caddy: is stopping already, at most 12 s"
        );
        reply = Reply::ok(1);
        reply.message = "already stopped".to_owned();
        assert_eq!(done(&stop, &reply), "caddy: already stopped");
        let all = asked(Verb::Stop, None, true);
        assert_eq!(done(&all, &Reply::ok(1)), "all services: stopped");
        let reload = asked(Verb::Reload, None, true);
        assert_eq!(done(&reload, &Reply::ok(1)), "superd: reloaded");
    }

    #[test]
    fn an_error_names_its_service_once() {
        let stop = asked(Verb::Stop, Some("caddy"), true);
        let error = |text: &str| failed(&stop, &Reply::error(1, Code::Failed, text));
        assert_eq!(error("it hangs"), "caddy: it hangs");
        assert_eq!(error("service \"caddy\": gone"), "service \"caddy\": gone");
        let a = asked(Verb::Stop, Some("a"), true);
        let already = Reply::error(1, Code::Refused, "already there");
        assert_eq!(failed(&a, &already), "a: already there");
        assert_eq!(error(""), "caddy: superd refused it and gave no reason");
    }
}
