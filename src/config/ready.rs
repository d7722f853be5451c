//! `ready` as typed: what tells that a service is ready. And the probes, which are the same for
//! `health`.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use toml::de::DeValue;

use crate::machine::ready::{Probe, Question, Ready, Sign};

use super::keys;
use super::model::Output;
use super::read::{Reader, Spots, Value};
use super::{confine, value};

/// How long a start may take when it does not say.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest pause between two probes when it does not say.
const INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait for an answer when it does not say.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Descriptors that a service can be given.
const DESCRIPTORS: Range<i64> = 3..256;

const LIKE: &str = "notify = true";

/// What a table with a probe says, before it is known whether it makes sense.
#[derive(Default)]
pub(super) struct Asked {
    /// The questions, and where each stands; one is right.
    pub questions: Vec<(Question, Range<usize>)>,
    status: Option<(Vec<u16>, Range<usize>)>,
    memory: Option<u64>,
    interval: Option<Duration>,
    timeout: Option<(Duration, Range<usize>)>,
}

impl Asked {
    /// Reads a key that belongs to a probe. None: it was wrong, and that is reported.
    pub fn read(&mut self, r: &mut Reader, key: &str, v: &Value) -> Option<()> {
        let question = match key {
            "tcp" => Question::Tcp(r.parse(key, v, value::endpoint)?),
            "http" => Question::Http(Rc::new(r.parse(key, v, value::question)?), Rc::default()),
            "exec" => Question::Exec(r.command(key, v)?.into()),
            "file" => Question::File(r.path(key, v)?.into()),
            "status" => {
                self.status = Some((read_statuses(r, key, v)?, v.span()));
                return Some(());
            }
            "memory" => {
                self.memory = Some(confine::read_size(r, key, v)? / 1024);
                return Some(());
            }
            "interval" => {
                self.interval = Some(at_least(r, key, v, Duration::from_millis(10))?);
                return Some(());
            }
            _ => {
                self.timeout = Some((at_least(r, key, v, Duration::from_millis(1))?, v.span()));
                return Some(());
            }
        };
        self.questions.push((question, v.span()));
        Some(())
    }

    /// The one question that there is. None: what does not fit is reported.
    pub fn probe(self, r: &mut Reader, interval: Duration) -> Option<Probe> {
        let first = self.questions.into_iter().next();
        let mut what = match (first, self.memory) {
            (Some((what, _)), _) => what,
            (None, Some(_)) => Question::Memory,
            (None, None) => return None,
        };
        match (&mut what, self.status) {
            (Question::Http(_, statuses), Some((wanted, _))) => *statuses = wanted.into(),
            (_, Some((_, at))) => {
                r.problem(at, "`status` goes with `http`");
                return None;
            }
            (_, None) => {}
        }
        if let (Question::File(_) | Question::Memory, Some((_, at))) = (&what, &self.timeout) {
            let text = match what {
                Question::Memory => "memory is looked at, not waited for: no `timeout`",
                _ => "a file is looked at, not waited for: no `timeout`",
            };
            r.problem(at.clone(), text);
            return None;
        }
        Some(Probe {
            what,
            interval: self.interval.unwrap_or(interval),
            timeout: self.timeout.map_or(TIMEOUT, |(t, _)| t),
            memory: self.memory,
        })
    }

    /// Whether it asks for one thing: memory can be asked for besides.
    pub fn is_one(&self) -> bool {
        match self.questions.len() {
            0 => self.memory.is_some(),
            n => n == 1,
        }
    }

    /// Where something stands that only a probe has.
    fn strays(&self) -> Option<Range<usize>> {
        let status = self.status.as_ref().map(|(_, at)| at);
        let timeout = self.timeout.as_ref().map(|(_, at)| at);
        status.or(timeout).cloned()
    }
}

/// A duration that is not shorter than this.
pub(super) fn at_least(r: &mut Reader, key: &str, v: &Value, least: Duration) -> Option<Duration> {
    let duration = r.duration(key, v)?;
    if duration < least {
        let ms = least.as_millis();
        r.problem(v.span(), format_args!("`{key}` must be at least {ms}ms"));
        return None;
    }
    Some(duration)
}

/// `204`, or `[200, 204]`.
fn read_statuses(r: &mut Reader, key: &str, v: &Value) -> Option<Vec<u16>> {
    let one = |r: &mut Reader, v: &Value| {
        let n = r.integer(key, v, 200..600)?;
        u16::try_from(n).ok()
    };
    match v.get_ref() {
        DeValue::Array(list) if list.is_empty() => {
            r.problem(v.span(), format_args!("`{key}` has no status"));
            None
        }
        DeValue::Array(list) => list.iter().map(|item| one(r, item)).collect(),
        _ => Some(vec![one(r, v)?]),
    }
}

/// `{ notify = true }`, `{ tcp = "127.0.0.1:80" }` ..., or false.
pub(super) fn read(r: &mut Reader, key: &str, v: &Value) -> Option<Option<Sign>> {
    if let DeValue::Boolean(false) = v.get_ref() {
        return Some(None);
    }
    let mut asked = Asked::default();
    let mut signs = Vec::new();
    let mut is_whole = true;
    for (name, value) in r.table(key, v, LIKE)?.iter() {
        if !r.known(name, keys::READY) {
            is_whole = false;
            continue;
        }
        let sign = match name.get_ref().as_ref() {
            "notify" => match r.boolean("notify", value) {
                Some(true) => Some(Sign::Notify),
                Some(false) => {
                    r.problem(value.span(), "`notify` is true here, or ready = false");
                    None
                }
                None => None,
            },
            "notify-fd" => {
                let number = r.integer("notify-fd", value, DESCRIPTORS);
                number.and_then(|n| n.try_into().ok()).map(Sign::Descriptor)
            }
            "log" => read_log(r, value).map(Sign::Log),
            probe => {
                is_whole &= asked.read(r, probe, value).is_some();
                continue;
            }
        };
        is_whole &= sign.is_some();
        signs.extend(sign.map(|s| (s, value.span())));
    }
    if !is_whole {
        return None;
    }
    if signs.len() + asked.questions.len() != 1 {
        r.problem(
            v.span(),
            format_args!(
                "`{key}` has one of notify, notify-fd, tcp, http, exec, log and file: \
                 write {{ {LIKE} }}"
            ),
        );
        return None;
    }
    match signs.pop() {
        None => Some(Some(Sign::Probe(Rc::new(asked.probe(r, INTERVAL)?)))),
        Some((sign, _)) => match asked.strays().or(asked.interval.map(|_| v.span())) {
            None => Some(Some(sign)),
            Some(at) => {
                r.problem(
                    at,
                    "nobody is asked: `interval`, `timeout` and `status` go with tcp, http and exec",
                );
                None
            }
        },
    }
}

fn read_log(r: &mut Reader, value: &Value) -> Option<Rc<str>> {
    let text = r.text("log", value)?;
    if text.trim().is_empty() || text.contains(['\n', '\r']) || text.len() > 256 {
        r.problem(
            value.span(),
            "`log` needs a text of 1 to 256 bytes on one line",
        );
        return None;
    }
    Some(text.into())
}

/// A duration, or false: as long as it takes.
pub(super) fn read_timeout(
    r: &mut Reader,
    key: &str,
    v: &Value,
    least: Duration,
) -> Option<Option<Duration>> {
    match v.get_ref() {
        DeValue::Boolean(false) => Some(None),
        _ => Some(Some(at_least(r, key, v, least)?)),
    }
}

/// What a service and its defaults say of its readiness.
pub(super) struct Parts {
    /// `ready`
    pub ready: Option<Option<Sign>>,
    /// `ready-after`
    pub after: Option<Duration>,
    /// `start-timeout`
    pub within: Option<Option<Duration>>,
}

/// A oneshot is ready when it has ended.
pub(super) fn of_oneshot(r: &mut Reader, at: &Spots, own: &Parts) -> Option<Rc<Ready>> {
    if matches!(own.ready, Some(Some(_))) || own.after.is_some() {
        r.problem(
            at.of(&["ready", "ready-after"]),
            "a oneshot is ready when it has ended: neither `ready` nor `ready-after`",
        );
    }
    // Without a word it may take as long as it takes.
    Some(Rc::new(Ready {
        sign: Sign::Exit,
        within: own.within.flatten(),
    }))
}

/// What is made of it. `own`: what the service says itself.
pub(super) fn define(
    r: &mut Reader,
    at: &Spots,
    own: Parts,
    defaults: Parts,
    notify: bool,
    output: Output,
) -> Option<Rc<Ready>> {
    let sign = match (own.ready, own.after) {
        (Some(Some(_)), Some(_)) => {
            let at = at.of(&["ready", "ready-after"]);
            r.problem(at, "`ready` or `ready-after`, not both");
            return None;
        }
        (Some(Some(sign)), None) => Some(sign),
        (_, Some(after)) => Some(Sign::After(after)),
        (Some(None), None) => None,
        (None, None) => match (defaults.ready.flatten(), defaults.after) {
            (Some(sign), _) => Some(sign),
            (None, after) => after.map(Sign::After),
        },
    };
    let within = match sign {
        // It is over when it is over.
        Some(Sign::After(_)) | None if own.within.is_some() => {
            r.problem(
                at.of(&["start-timeout"]),
                "has `start-timeout` and nothing to wait for: it needs `ready`",
            );
            return None;
        }
        Some(Sign::After(_)) => None,
        _ => own
            .within
            .or(defaults.within)
            .unwrap_or(Some(START_TIMEOUT)),
    };
    match &sign {
        Some(Sign::Notify) if !notify => {
            let text = "ready = { notify = true } needs notify = true";
            r.problem(at.of(&["ready", "notify"]), text);
        }
        Some(Sign::Log(_)) if matches!(output, Output::Null | Output::Inherit) => r.problem(
            at.of(&["ready", "output"]),
            "ready = { log = ... } needs output = \"log\", \"ring\" or a file",
        ),
        _ => {}
    }
    sign.map(|sign| Rc::new(Ready { sign, within }))
}
