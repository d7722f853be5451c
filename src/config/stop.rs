//! The stop schedule as typed: `stop = [...]`, a preset's name, or a signal's.
//!
//! What the steps do is the machine's business; here it is decided which of them make
//! sense (DESIGN 4).
//!
//! A little long: a step is a table of ten keys, each with its rules.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::machine::signal::Signal;
use crate::machine::spec::{Action, Drain, Port, Schedule, Step, To, Transport, Until};

use super::keys;
use super::problem::{did_you_mean, word};
use super::read::{Reader, Value};
use super::value;

/// How long a step waits when it does not say. Caddy needs 6 s, sing-box 10 s.
pub const WAIT: Duration = Duration::from_secs(15);

/// The most steps of a schedule.
const STEPS: usize = 16;

/// The most ports that a drain names.
const PORTS: usize = 64;

/// The schedules we ship, and for whom.
pub const PRESETS: &[&str] = &[
    "caddy-api",
    "nats-lame-duck",
    "children-first",
    "go-default",
];

/// Signals worth a suggestion.
const SIGNALS: &[&str] = &[
    "TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL", "ABRT", "ALRM", "CONT", "WINCH",
];

/// The steps of a preset.
pub fn preset(name: &str) -> Option<Vec<Step>> {
    let quit = || signal(Signal::QUIT, 2);
    Some(match name {
        // POST /stop while a signal is on its way panics Caddy 2.7.0 to 2.9.0; API calls
        // among themselves do not. QUIT still cleans its locks.
        "caddy-api" => {
            let stop = value::http("POST http://127.0.0.1:2019/stop").ok()?;
            let stop = Action::Http(Rc::new(stop));
            vec![step(stop, Until::Gone, 10), quit()]
        }
        // USR2 reaches NATS alone; when its ports are closed, TERM reaches a NATS that is
        // down already and an application that still has to clean up.
        "nats-lame-duck" => vec![
            Step {
                settle: Duration::from_millis(200),
                ..step(
                    Action::Signal(Signal::USR2, To::Main),
                    Until::PortsClosed,
                    30,
                )
            },
            signal(Signal::TERM, 15),
        ],
        // A wrapper that panics, hangs or leaves its child when it gets a signal gets none.
        "children-first" => vec![step(
            Action::Signal(Signal::TERM, To::Descendants),
            Until::DescendantsGone,
            5,
        )],
        // QUIT makes a Go program say what all of its goroutines wait for.
        "go-default" => vec![signal(Signal::TERM, 15), quit()],
        _ => return None,
    })
}

/// The schedule of a service that names none.
pub fn default() -> Vec<Step> {
    vec![step(
        Action::Signal(Signal::TERM, To::Main),
        Until::Gone,
        WAIT.as_secs(),
    )]
}

fn step(action: Action, until: Until, seconds: u64) -> Step {
    Step {
        action,
        until,
        wait: Duration::from_secs(seconds),
        settle: Duration::ZERO,
    }
}

fn signal(signal: Signal, seconds: u64) -> Step {
    step(Action::Signal(signal, To::Main), Until::Gone, seconds)
}

/// Reads the value of `stop`.
pub(super) fn read(r: &mut Reader, value: &Value) -> Option<Vec<Step>> {
    match value.get_ref() {
        DeValue::Array(steps) if steps.len() > STEPS => {
            r.problem(
                value.span(),
                format_args!("`stop` has more than {STEPS} steps"),
            );
            None
        }
        DeValue::Array(steps) if !steps.is_empty() => {
            let read: Vec<Option<Step>> = steps
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::Table(table) => read_step(r, table, item.span()),
                    _ => {
                        r.problem(
                            item.span(),
                            "a step of `stop` is a table: write { signal = \"TERM\", wait = \"15s\" }",
                        );
                        None
                    }
                })
                .collect();
            let steps = read.into_iter().collect::<Option<Vec<Step>>>()?;
            finish(r, value, steps)
        }
        DeValue::String(name) if preset(name).is_some() => preset(name),
        DeValue::String(name) if name.parse::<Signal>().is_ok() => {
            let named = name.parse().ok()?;
            Some(vec![signal(usable(r, value, named)?, WAIT.as_secs())])
        }
        typed => {
            let known = PRESETS.iter().chain(SIGNALS).copied();
            let hint = did_you_mean(typed.as_str().unwrap_or_default(), known);
            let hint = format!(
                "{hint}: write [{{ signal = \"TERM\", wait = \"15s\" }}], a signal or one of {}",
                PRESETS.join(", ")
            );
            r.wrong("stop", value, "a schedule", &hint);
            None
        }
    }
}

/// A signal by name.
pub(super) fn read_signal(r: &mut Reader, key: &str, value: &Value) -> Option<Signal> {
    let signal = r.parse(key, value, |typed| {
        let name = typed.strip_prefix("SIG").unwrap_or(typed);
        typed.parse::<Signal>().map_err(|_| {
            format!(
                "`{}` is not a signal{}: write \"TERM\", \"HUP\", \"USR1\" ... or a number up to 64 in quotes",
                word(typed),
                did_you_mean(name, SIGNALS.iter().copied())
            )
        })
    })?;
    usable(r, value, signal)
}

/// Refuses the signals that freeze a process: no step could end, and KILL would follow
/// a service that was never asked.
fn usable(r: &mut Reader, value: &Value, signal: Signal) -> Option<Signal> {
    if matches!(
        signal.0,
        libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU
    ) {
        r.problem(
            value.span(),
            format_args!("{signal} freezes a process, it does not end it"),
        );
        return None;
    }
    Some(signal)
}

/// What a step says, before it is known whether it makes sense.
#[derive(Default)]
struct Typed {
    actions: Vec<(&'static str, Range<usize>)>,
    action: Option<Action>,
    to: Option<(To, Range<usize>)>,
    until: Option<(Until, Range<usize>)>,
    wait: Option<(Duration, Range<usize>)>,
    drain: Option<Duration>,
    ports: Option<(Vec<Port>, Range<usize>)>,
    idle: Option<(Duration, Range<usize>)>,
    settle: Option<(Duration, Range<usize>)>,
    /// Something was wrong already: what follows from it is not told.
    broken: bool,
}

fn read_step(r: &mut Reader, table: &DeTable, span: Range<usize>) -> Option<Step> {
    let mut t = Typed::default();
    for (key, value) in table.iter() {
        let at = key.span();
        if !r.known(key, keys::STEP) {
            t.broken = true;
            continue;
        }
        let read = match key.get_ref().as_ref() {
            "signal" => {
                t.actions.push(("signal", at));
                let signal = read_signal(r, "signal", value);
                t.action = signal.map(|s| Action::Signal(s, To::Main));
                t.action.is_some()
            }
            "run" => {
                t.actions.push(("run", at));
                t.action = r.command("run", value).map(|argv| Action::Run(argv.into()));
                t.action.is_some()
            }
            "http" => {
                t.actions.push(("http", at));
                t.action = read_http(r, value);
                t.action.is_some()
            }
            "drain" => {
                t.actions.push(("drain", at));
                t.action = Some(Action::Drain(Rc::default()));
                t.drain = positive(r, "drain", value);
                t.drain.is_some()
            }
            "ports" => {
                t.ports = read_ports(r, value).map(|ports| (ports, at));
                t.ports.is_some()
            }
            "idle" => {
                t.idle = positive(r, "idle", value).map(|idle| (idle, at));
                t.idle.is_some()
            }
            "to" => {
                t.to = r.choice("to", value, TO).map(|to| (to, at));
                t.to.is_some()
            }
            "until" => {
                t.until = r.parse("until", value, until).map(|until| (until, at));
                t.until.is_some()
            }
            "wait" => {
                t.wait = r.duration("wait", value).map(|wait| (wait, at));
                t.wait.is_some()
            }
            "settle" => {
                t.settle = r.duration("settle", value).map(|d| (d, at));
                t.settle.is_some()
            }
            _ => false,
        };
        t.broken |= !read;
    }
    make_step(r, t, span)
}

const DRAIN: &str = "`drain`";

fn only(r: &mut Reader, at: &Range<usize>, what: &str, which: &str) -> Option<Step> {
    let text = format_args!("{what} is only for a step with {which}");
    r.problem(at.clone(), text);
    None
}

fn make_step(r: &mut Reader, t: Typed, span: Range<usize>) -> Option<Step> {
    if let [(first, _), (second, at), ..] = t.actions.as_slice() {
        r.problem(
            at.clone(),
            format_args!("a step does one thing: `{first}` or `{second}`, not both"),
        );
        return None;
    }
    let signals = matches!(t.actions.as_slice(), [("signal", _)]);
    if let (Some((_, at)), false, false) = (&t.to, signals, t.actions.is_empty()) {
        return only(r, at, "`to`", "`signal`");
    }
    if let (Some((Until::ActionEnded, at)), true) = (&t.until, signals) {
        return only(r, at, "until = \"done\"", "`run` or `http`");
    }
    if let [("drain", _)] = t.actions.as_slice() {
        return make_drain(r, t);
    }
    if let (Some((_, at)), false) = (&t.idle, t.actions.is_empty()) {
        return only(r, at, "`idle`", DRAIN);
    }
    if let (Some((_, at)), false) = (&t.ports, t.actions.is_empty()) {
        return only(r, at, "`ports`", DRAIN);
    }
    if let Some((Until::NoConnections, at)) = &t.until {
        return only(r, at, "until = \"connections=0\"", DRAIN);
    }
    let gone = matches!(t.until, None | Some((Until::Gone, _)));
    if let (Some((_, at)), true, false) = (&t.settle, gone, t.broken) {
        r.problem(
            at.clone(),
            "`settle` needs an `until`: when the service is gone there is nothing to wait for",
        );
        return None;
    }
    if t.broken {
        return None;
    }
    let Some(action) = t.action else {
        r.problem(
            span,
            "a step needs one of `signal`, `run`, `http` and `drain`",
        );
        return None;
    };
    let action = match (action, t.to) {
        (Action::Signal(signal, _), Some((to, _))) => Action::Signal(signal, to),
        (action, _) => action,
    };
    Some(Step {
        action,
        until: t.until.map_or(Until::Gone, |(until, _)| until),
        wait: t.wait.map_or(WAIT, |(wait, _)| wait),
        settle: t.settle.map_or(Duration::ZERO, |(settle, _)| settle),
    })
}

/// A drain has its longest wait as its value, and one condition.
fn make_drain(r: &mut Reader, t: Typed) -> Option<Step> {
    if let Some((_, at)) = t.wait {
        let said = "`drain` is itself the longest wait: leave `wait` out";
        r.problem(at, said);
        return None;
    }
    match t.until {
        None | Some((Until::NoConnections, _)) => {}
        Some((_, at)) => {
            let said = "a step with `drain` ends when no connection is open: leave `until` out";
            r.problem(at, said);
            return None;
        }
    }
    if t.broken {
        return None;
    }
    let drain = Drain {
        ports: t.ports.map_or_else(Vec::new, |(ports, _)| ports),
        except: Vec::new(),
        idle: t.idle.map(|(idle, _)| idle),
    };
    Some(Step {
        action: Action::Drain(Rc::new(drain)),
        until: Until::NoConnections,
        wait: t.drain?,
        settle: t.settle.map_or(Duration::ZERO, |(settle, _)| settle),
    })
}

/// What follows from the steps together: a drain must not hold back superd's own requests,
/// and does not end a service.
fn finish(r: &mut Reader, value: &Value, mut steps: Vec<Step>) -> Option<Vec<Step>> {
    let is_drain = |s: &Step| matches!(s.action, Action::Drain(_));
    if steps.last().is_some_and(is_drain) {
        r.problem(
            value.span(),
            "`stop` ends with `drain`, which does not end the service: add a step like \
             { signal = \"TERM\" }",
        );
        return None;
    }
    let except = Schedule::own_ports(&steps);
    for step in &mut steps {
        if let Action::Drain(drain) = &step.action {
            let drain = Drain {
                except: except.clone(),
                ..(**drain).clone()
            };
            step.action = Action::Drain(Rc::new(drain));
        }
    }
    Some(steps)
}

/// A duration that is not 0.
pub(super) fn positive(r: &mut Reader, key: &str, value: &Value) -> Option<Duration> {
    let duration = r.duration(key, value)?;
    if duration.is_zero() {
        r.problem(value.span(), format_args!("`{key}` must be longer than 0"));
        return None;
    }
    Some(duration)
}

/// `[443, "tcp/80", "udp/443"]`
fn read_ports(r: &mut Reader, value: &Value) -> Option<Vec<Port>> {
    let items = match value.get_ref() {
        DeValue::Array(items) if !items.is_empty() && items.len() <= PORTS => items,
        DeValue::Array(items) if items.is_empty() => {
            r.problem(
                value.span(),
                "`ports` is empty: leave it out for all ports of the service",
            );
            return None;
        }
        _ => {
            r.problem(
                value.span(),
                format_args!("`ports` is an array of up to {PORTS} ports: write [443, \"tcp/80\"]"),
            );
            return None;
        }
    };
    let read: Vec<Option<Port>> = items.iter().map(|item| read_port(r, item)).collect();
    read.into_iter().collect()
}

fn read_port(r: &mut Reader, item: &Value) -> Option<Port> {
    if let DeValue::Integer(_) = item.get_ref() {
        let port = u16::try_from(r.integer("ports", item, 1..65_536)?).ok()?;
        let transport = None;
        return Some(Port { transport, port });
    }
    r.parse("ports", item, |text| {
        let (transport, port) = match text.split_once('/') {
            Some(("tcp", port)) => (Some(Transport::Tcp), port),
            Some(("udp", port)) => (Some(Transport::Udp), port),
            _ => (None, ""),
        };
        let is_number = port.bytes().all(|b| b.is_ascii_digit());
        match port.parse() {
            Ok(port) if is_number && port > 0 => Ok(Port { transport, port }),
            _ => Err(format!(
                "`{}` is not a port: write 443, \"tcp/443\" or \"udp/443\"",
                word(text)
            )),
        }
    })
}

const TO: &[(&str, To)] = &[
    ("main", To::Main),
    ("group", To::Group),
    ("descendants", To::Descendants),
    ("tree", To::Tree),
];

/// The words of `until`; `log=TEXT` besides.
pub const UNTIL: &[(&str, Until)] = &[
    ("gone", Until::Gone),
    ("ports-closed", Until::PortsClosed),
    ("descendants-gone", Until::DescendantsGone),
    ("stopping", Until::Stopping),
    ("connections=0", Until::NoConnections),
    ("done", Until::ActionEnded),
];

pub(super) fn read_http(r: &mut Reader, value: &Value) -> Option<Action> {
    Some(Action::Http(Rc::new(r.parse(
        "http",
        value,
        value::http,
    )?)))
}

fn until(text: &str) -> Result<Until, String> {
    if let Some(line) = text.strip_prefix("log=") {
        if line.trim().is_empty() || line.contains(['\n', '\r']) || line.len() > 256 {
            return Err("\"log=TEXT\" needs a text of 1 to 256 bytes on one line".to_owned());
        }
        return Ok(Until::Log(line.into()));
    }
    if let Some((_, until)) = UNTIL.iter().find(|(w, _)| *w == text) {
        return Ok(until.clone());
    }
    let words: Vec<&str> = UNTIL.iter().map(|(w, _)| *w).collect();
    Err(format!(
        "`{}` is not the end of a step{}: write \"{}\" or \"log=TEXT\"",
        word(text),
        did_you_mean(text, words.iter().copied()),
        words.join("\", \"")
    ))
}
