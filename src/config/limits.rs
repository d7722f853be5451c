//! `limits`: the resource limits of setrlimit(2). Nothing is limited here.

use toml::de::DeValue;

use super::model::Limit;
use super::problem::{did_you_mean, word};
use super::read::{Reader, Value};

/// setrlimit(2): name, RLIMIT_ constant, whether it counts bytes.
///
/// libc's constants are of different types on gnu and musl.
#[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
pub const LIMITS: &[(&str, u32, bool)] = &[
    ("as", libc::RLIMIT_AS as u32, true),
    ("core", libc::RLIMIT_CORE as u32, true),
    ("cpu", libc::RLIMIT_CPU as u32, false),
    ("data", libc::RLIMIT_DATA as u32, true),
    ("fsize", libc::RLIMIT_FSIZE as u32, true),
    ("locks", libc::RLIMIT_LOCKS as u32, false),
    ("memlock", libc::RLIMIT_MEMLOCK as u32, true),
    ("msgqueue", libc::RLIMIT_MSGQUEUE as u32, true),
    ("nice", libc::RLIMIT_NICE as u32, false),
    ("nofile", libc::RLIMIT_NOFILE as u32, false),
    ("nproc", libc::RLIMIT_NPROC as u32, false),
    ("rss", libc::RLIMIT_RSS as u32, true),
    ("rtprio", libc::RLIMIT_RTPRIO as u32, false),
    ("rttime", libc::RLIMIT_RTTIME as u32, false),
    ("sigpending", libc::RLIMIT_SIGPENDING as u32, false),
    ("stack", libc::RLIMIT_STACK as u32, true),
];

/// The name of a limit as superd has once written it.
pub(super) fn known<'de, D: serde::Deserializer<'de>>(from: D) -> Result<&'static str, D::Error> {
    let text: String = serde::Deserialize::deserialize(from)?;
    let found = LIMITS.iter().find(|(name, ..)| *name == text);
    found
        .map(|(name, ..)| *name)
        .ok_or_else(|| serde::de::Error::custom("unknown limit"))
}

/// Reads the table `limits`.
pub(super) fn read(r: &mut Reader, key: &str, v: &Value) -> Vec<Limit> {
    let mut limits = Vec::new();
    let Some(table) = r.table(key, v) else {
        return limits;
    };
    for (name, value) in table.iter() {
        let typed = name.get_ref().as_ref();
        let Some((name, resource, bytes)) = LIMITS.iter().find(|(n, ..)| *n == typed) else {
            let hint = did_you_mean(typed, LIMITS.iter().map(|(n, ..)| *n));
            r.problem(
                name.span(),
                format_args!("unknown limit `{}`{hint}", word(typed)),
            );
            continue;
        };
        let pair = match value.get_ref() {
            DeValue::Array(pair) => match pair.iter().as_slice() {
                [soft, hard] => {
                    read_limit(r, name, soft, *bytes).zip(read_limit(r, name, hard, *bytes))
                }
                _ => {
                    r.problem(
                        value.span(),
                        format_args!("limit `{name}` is one value, or [soft, hard]"),
                    );
                    None
                }
            },
            _ => read_limit(r, name, value, *bytes).map(|n| (n, n)),
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

fn read_limit(r: &mut Reader, name: &str, v: &Value, bytes: bool) -> Option<u64> {
    match v.get_ref() {
        DeValue::String(s) if s == "unlimited" => Some(u64::MAX),
        DeValue::String(_) if bytes => r.size(name, v, i64::MAX),
        DeValue::Integer(_) => Some(r.integer(name, v, 0..i64::MAX)?.unsigned_abs()),
        _ => {
            let size = if bytes { ", a size like \"64MiB\"" } else { "" };
            r.problem(
                v.span(),
                format_args!("limit `{name}` must be a whole number{size} or \"unlimited\""),
            );
            None
        }
    }
}

/// The service's limits, and those of the defaults that it does not name; by name.
pub(super) fn merged(mut own: Vec<Limit>, defaults: &[Limit]) -> Vec<Limit> {
    for limit in defaults {
        if !own.iter().any(|l| l.name == limit.name) {
            own.push(limit.clone());
        }
    }
    own.sort_by_key(|l| l.name);
    own
}
