//! Values of a service's keys, read one by one.

use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use toml::de::DeValue;

use crate::config::problem::{word, Place};
use crate::config::read::{Reader, Value};
use crate::config::stop::positive;
use crate::config::{keys, stop, value};
use crate::machine::files::{self, OnChange};
use crate::machine::signal::Signal;
use crate::machine::spec::{CrashLoop, MaxConnections, Policy, Reload};
use crate::map::Map;

/// What becomes of a service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It runs until it is stopped.
    Daemon,
    /// It runs to its end.
    Oneshot,
}

/// With a shorter watchdog a service would be stopped because it had to wait for a CPU.
pub(super) const WATCHDOG: Duration = Duration::from_millis(100);

pub(super) const KIND: &[(&str, Kind)] = &[("daemon", Kind::Daemon), ("oneshot", Kind::Oneshot)];

pub(super) const RESTART: &[(&str, Policy)] = &[
    ("always", Policy::Always),
    ("on-failure", Policy::OnFailure),
    ("never", Policy::Never),
];

pub(super) const ON_CHANGE: &[(&str, OnChange)] =
    &[("restart", OnChange::Restart), ("reload", OnChange::Reload)];

/// What `crash-loop = true` means, and its keys that are not said.
pub(super) const CRASH_LOOP: CrashLoop = CrashLoop {
    burst: 5,
    within: Duration::from_secs(60),
    retry: Duration::from_secs(300),
};

pub(super) fn read_i32(r: &mut Reader, key: &str, v: &Value, range: Range<i64>) -> Option<i32> {
    i32::try_from(r.integer(key, v, range)?).ok()
}

pub(super) fn read_names(r: &mut Reader, key: &str, v: &Value) -> Option<Vec<String>> {
    let names = r.strings(key, v)?;
    if names.iter().any(String::is_empty) {
        r.problem(v.span(), format_args!("`{key}` has an empty name"));
        return None;
    }
    Some(names)
}

pub(super) fn read_environment(r: &mut Reader, key: &str, v: &Value) -> Map<String, String> {
    let mut variables = Map::new();
    let Some(table) = r.table(key, v, "NAME = \"value\"") else {
        return variables;
    };
    for (name, value) in table.iter() {
        let n = name.get_ref();
        if n.is_empty() || n.contains(['=', '\0']) {
            r.problem(
                name.span(),
                format_args!("`{key}`: `{}` is not a variable's name", word(n)),
            );
        }
        if let Some(value) = r.string(n, value) {
            variables.insert(n.clone().into_owned(), value);
        }
    }
    variables
}

/// Names of other services, each with its place.
pub(super) fn read_services(r: &mut Reader, key: &str, v: &Value) -> Vec<(String, Place)> {
    let Some(names) = r.strings(key, v) else {
        return Vec::new();
    };
    let DeValue::Array(list) = v.get_ref() else {
        return Vec::new();
    };
    let places = list.iter().map(|item| r.place(&item.span()));
    names.into_iter().zip(places).collect()
}

/// `{ burst = 5, within = "1m", retry = "5m" }`, or false.
pub(super) fn read_crash_loop(r: &mut Reader, key: &str, v: &Value) -> Option<Option<CrashLoop>> {
    match v.get_ref() {
        DeValue::Boolean(false) => return Some(None),
        DeValue::Boolean(true) => return Some(Some(CRASH_LOOP)),
        _ => {}
    }
    let mut crash_loop = CRASH_LOOP;
    for (name, value) in r.table(key, v, "burst = 5")?.iter() {
        if !r.known(name, keys::CRASH_LOOP) {
            continue;
        }
        match name.get_ref().as_ref() {
            "burst" => {
                let n = r.integer("burst", value, 1..1001);
                crash_loop.burst = n.and_then(|n| n.try_into().ok()).unwrap_or(1);
            }
            "within" => crash_loop.within = positive(r, "within", value).unwrap_or_default(),
            _ => crash_loop.retry = positive(r, "retry", value).unwrap_or_default(),
        }
    }
    Some(Some(crash_loop))
}

/// `["tcp://0.0.0.0:443"]`
pub(super) fn read_sockets(r: &mut Reader, key: &str, v: &Value) -> Vec<SocketAddr> {
    let texts = r.list(key, v, "\"tcp://0.0.0.0:443\"", |r, key, v| {
        r.parse(key, v, |text| socket(text).map(|_| text.to_owned()))
    });
    let mut sockets = Vec::new();
    for text in texts.unwrap_or_default() {
        match socket(&text) {
            Ok(address) if sockets.contains(&address) => {
                r.problem(
                    v.span(),
                    format_args!("`{key}` has `{}` twice", word(&text)),
                );
            }
            socket => sockets.extend(socket),
        }
    }
    if sockets.len() > SOCKETS {
        r.problem(
            v.span(),
            format_args!("`{key}` has more than {SOCKETS} sockets"),
        );
    }
    sockets
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    let address = text.strip_prefix("tcp://").and_then(|a| a.parse().ok());
    let address = address.filter(|a: &SocketAddr| a.port() > 0 && !a.ip().is_multicast());
    address.ok_or_else(|| {
        format!(
            "`{}` is not a socket: write \"tcp://0.0.0.0:443\" or \"tcp://[::]:443\"",
            word(text)
        )
    })
}

/// The most sockets of a service.
const SOCKETS: usize = 16;

/// `{ high = 200, low = 180 }`, or false.
pub(super) fn read_max_connections(
    r: &mut Reader,
    key: &str,
    v: &Value,
) -> Option<Option<MaxConnections>> {
    if let DeValue::Boolean(false) = v.get_ref() {
        return Some(None);
    }
    const LIKE: &str = "high = 200, low = 180";
    let (mut high, mut low) = (None, None);
    let mut is_whole = true;
    for (name, value) in r.table(key, v, LIKE)?.iter() {
        if !r.known(name, keys::MAX_CONNECTIONS) {
            is_whole = false;
            continue;
        }
        let is_high = name.get_ref() == "high";
        let to = if is_high { &mut high } else { &mut low };
        *to = r.integer(name.get_ref(), value, 1..1_000_001);
        is_whole &= to.is_some();
    }
    if !is_whole {
        return None;
    }
    match (high, low) {
        (Some(high), Some(low)) if low < high => Some(Some(MaxConnections {
            high: u32::try_from(high).ok()?,
            low: u32::try_from(low).ok()?,
        })),
        (Some(_), Some(_)) => {
            r.problem(
                v.span(),
                format_args!("`{key}`: `low` must be less than `high`"),
            );
            None
        }
        _ => {
            r.problem(
                v.span(),
                format_args!("`{key}` has two limits: write {{ {LIKE} }}"),
            );
            None
        }
    }
}

/// `[1, 143, "HUP"]`: statuses and signals.
pub(super) fn read_success(
    r: &mut Reader,
    key: &str,
    v: &Value,
) -> Option<(Vec<i32>, Vec<Signal>)> {
    let DeValue::Array(list) = v.get_ref() else {
        r.problem(
            v.span(),
            format_args!("`{key}` is an array of exit statuses and signals: write [1, \"HUP\"]"),
        );
        return None;
    };
    let (mut statuses, mut signals) = (Vec::new(), Vec::new());
    for item in list.iter() {
        match item.get_ref() {
            DeValue::Integer(_) => statuses.extend(read_i32(r, key, item, 0..256)),
            _ => signals.extend(stop::read_signal(r, key, item)),
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    signals.sort_unstable();
    signals.dedup();
    Some((statuses, signals))
}

/// The longest a reload command takes before it is killed.
const RELOAD_WAIT: Duration = Duration::from_secs(30);

/// The longest a checker takes before it is killed.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// `["/program", "validate"]`, or false.
pub(super) fn read_check(r: &mut Reader, key: &str, v: &Value) -> Option<Option<Rc<[String]>>> {
    match v.get_ref() {
        DeValue::Boolean(false) => Some(None),
        _ => Some(Some(r.command(key, v)?.into())),
    }
}

/// `["/etc/caddy/Caddyfile"]`, or false.
pub(super) fn read_watch(r: &mut Reader, key: &str, v: &Value) -> Option<Vec<Rc<str>>> {
    if let DeValue::Boolean(false) = v.get_ref() {
        return Some(Vec::new());
    }
    let texts = r.list(key, v, "\"/etc/name.conf\"", Reader::path)?;
    let most = files::MOST;
    let mut paths: Vec<Rc<str>> = Vec::with_capacity(texts.len());
    for text in &texts {
        let why = match () {
            () if text.contains(['*', '?']) => {
                "is a pattern, which is not understood here: name each file"
            }
            () if paths.iter().any(|p| **p == **text) => "is there twice",
            () if text.len() >= 4096 => "is too long",
            () if paths.len() == most => "is one too many: at most 16 files",
            () => {
                paths.push(text.as_str().into());
                continue;
            }
        };
        r.problem(v.span(), format_args!("`{key}`: `{}` {why}", word(text)));
        return None;
    }
    Some(paths)
}

/// `{ signal = "HUP" }`, `{ run = ["..."], wait = "30s" }`, `{ http = "POST ..." }`, or false.
pub(super) fn read_reload(r: &mut Reader, key: &str, v: &Value) -> Option<Option<Reload>> {
    if let DeValue::Boolean(false) = v.get_ref() {
        return Some(None);
    }
    let mut found = Vec::new();
    let mut wait = None;
    let mut is_whole = true;
    for (name, value) in r.table(key, v, "signal = \"HUP\"")?.iter() {
        if !r.known(name, keys::RELOAD) {
            is_whole = false;
            continue;
        }
        let read = match name.get_ref().as_ref() {
            "wait" => {
                wait = positive(r, "wait", value).map(|w| (w, value.span()));
                is_whole &= wait.is_some();
                continue;
            }
            "signal" => match stop::read_signal(r, "signal", value) {
                Some(Signal::KILL) => {
                    r.problem(value.span(), "KILL ends a service, it does not reload it");
                    None
                }
                signal => signal.map(Reload::Signal),
            },
            "http" => {
                let http = r.parse("http", value, value::http);
                http.map(|http| Reload::Http(Rc::new(http), RELOAD_WAIT))
            }
            _ => {
                let argv = r.command("run", value);
                argv.map(|argv| Reload::Run(argv.into(), RELOAD_WAIT))
            }
        };
        is_whole &= read.is_some();
        found.extend(read);
    }
    if !is_whole {
        return None;
    }
    match (found.pop(), found.pop()) {
        (Some(Reload::Run(argv, default)), None) => {
            let wait = wait.map_or(default, |(wait, _)| wait);
            Some(Some(Reload::Run(argv, wait)))
        }
        (Some(Reload::Http(http, default)), None) => {
            let wait = wait.map_or(default, |(wait, _)| wait);
            Some(Some(Reload::Http(http, wait)))
        }
        (Some(signal), None) => match wait {
            None => Some(Some(signal)),
            Some((_, at)) => {
                r.problem(
                    at,
                    "a signal is not waited for: `wait` goes with `run` and `http`",
                );
                None
            }
        },
        _ => {
            r.problem(
                v.span(),
                format_args!(
                    "`{key}` has one of {{ signal = \"HUP\" }}, {{ run = [...] }} and {{ http = \"POST ...\" }}"
                ),
            );
            None
        }
    }
}
