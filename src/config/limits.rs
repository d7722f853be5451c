//! `limits`: the resource limits of setrlimit(2). Nothing is limited here.

use toml::de::DeValue;

use super::confine::LEAST;
use super::model::Limit;
use super::problem::{did_you_mean, word};
use super::read::{Reader, Value};
use crate::json::{Fault, Node};

/// setrlimit(2): name, RLIMIT_ constant, whether it counts bytes, and the least with which a
/// program can be executed.
///
/// libc's constants are of different types on gnu and musl.
#[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
pub const LIMITS: &[(&str, u32, bool, u64)] = &[
    ("as", libc::RLIMIT_AS as u32, true, LEAST),
    ("core", libc::RLIMIT_CORE as u32, true, 0),
    ("cpu", libc::RLIMIT_CPU as u32, false, 1),
    ("data", libc::RLIMIT_DATA as u32, true, LEAST),
    ("fsize", libc::RLIMIT_FSIZE as u32, true, 0),
    ("locks", libc::RLIMIT_LOCKS as u32, false, 0),
    ("memlock", libc::RLIMIT_MEMLOCK as u32, true, 0),
    ("msgqueue", libc::RLIMIT_MSGQUEUE as u32, true, 0),
    ("nice", libc::RLIMIT_NICE as u32, false, 0),
    ("nofile", libc::RLIMIT_NOFILE as u32, false, 4),
    ("nproc", libc::RLIMIT_NPROC as u32, false, 1),
    ("rss", libc::RLIMIT_RSS as u32, true, 0),
    ("rtprio", libc::RLIMIT_RTPRIO as u32, false, 0),
    ("rttime", libc::RLIMIT_RTTIME as u32, false, 0),
    ("sigpending", libc::RLIMIT_SIGPENDING as u32, false, 0),
    ("stack", libc::RLIMIT_STACK as u32, true, LEAST),
];

/// The name of a limit as superd has once written it.
pub(super) fn known(from: Node<'_>) -> Result<&'static str, Fault> {
    let text = from.text()?;
    let found = LIMITS.iter().find(|(name, ..)| *name == text);
    found
        .map(|(name, ..)| *name)
        .ok_or_else(|| Fault::new("unknown limit"))
}

/// Reads the table `limits`.
pub(super) fn read(r: &mut Reader, key: &str, v: &Value) -> Vec<Limit> {
    let mut limits = Vec::new();
    let Some(table) = r.table(key, v, "nofile = 1024") else {
        return limits;
    };
    for (name, value) in table.iter() {
        let typed = name.get_ref().as_ref();
        let Some((name, resource, bytes, least)) = LIMITS.iter().find(|(n, ..)| *n == typed) else {
            let hint = did_you_mean(typed, LIMITS.iter().map(|(n, ..)| *n));
            r.problem(
                name.span(),
                format_args!("unknown limit `{}`{hint}", word(typed)),
            );
            continue;
        };
        let one = |r: &mut Reader, v: &Value| read_limit(r, name, v, *bytes, *least);
        let pair = match value.get_ref() {
            DeValue::Array(pair) => match pair.iter().as_slice() {
                [soft, hard] => {
                    let (soft, hard) = (one(r, soft), one(r, hard));
                    soft.zip(hard)
                }
                _ => {
                    r.problem(
                        value.span(),
                        format_args!("limit `{name}` is one value, or [soft, hard]"),
                    );
                    None
                }
            },
            _ => one(r, value).map(|n| (n, n)),
        };
        match pair {
            Some((soft, hard)) if soft > hard => r.problem(
                value.span(),
                format_args!("limit `{name}`: the soft limit is above the hard limit"),
            ),
            Some((soft, hard)) => limits.push(Limit {
                name,
                resource: *resource,
                soft,
                hard,
            }),
            None => {}
        }
    }
    limits
}

fn read_limit(r: &mut Reader, name: &str, v: &Value, bytes: bool, least: u64) -> Option<u64> {
    let number = match v.get_ref() {
        DeValue::String(s) if s == "unlimited" => return Some(u64::MAX),
        _ if bytes => return r.size(name, v, (least, u64::MAX)),
        DeValue::Integer(n) => u64::from_str_radix(n.as_str(), n.radix()).ok(),
        _ => None,
    };
    let number = number.filter(|n| *n >= least);
    if number.is_none() {
        let want = format_args!("a whole number that is at least {least}, or \"unlimited\"");
        r.wrong(name, v, want, "");
    }
    number
}

/// The service's limits, and those of the defaults that it does not name; by name.
pub(super) fn merged(mut own: Vec<Limit>, defaults: &[Limit]) -> Vec<Limit> {
    for limit in defaults {
        if !own.iter().any(|l| l.name == limit.name) {
            own.push(limit.clone());
        }
    }
    own.sort_unstable_by_key(|l| l.name);
    own
}
