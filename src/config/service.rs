//! `[service.NAME]` and `[defaults]`: reading their keys, filling in what is not said,
//! and the checks that concern one service alone.
//!
//! Whether the services of `after`, `requires` and so on exist is seen in `order`. Longer than
//! other files because a service has 50 keys, each with a line in four places: what was
//! said, how it is read, what it is by default, what is made of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::machine::files::{self, OnChange, Watched};
use crate::machine::health::Health;
use crate::machine::outlook::WaitFor;
use crate::machine::ready::Sign;
use crate::machine::signal::Signal;
use crate::machine::spec::{
    Action, Checker, CrashLoop, MaxConnections, Oneshot, Policy, Reload, Restart, Schedule, Step,
    Until,
};
use crate::machine::timer::Timer;

use super::keys;
use super::model::{FileOutput, Limit, Made, Output, PolicyDef, Program, ServiceDef};
use super::problem::{word, Place};
use super::read::{Reader, Value};
use super::stop::positive;
use super::{confine, health, hooks, limits, outlook, output, ready, stop, value};

/// What a section says, key by key; `None` where it is silent or wrong.
#[derive(Clone, Default)]
pub(super) struct Said {
    command: Option<Vec<String>>,
    user: Option<String>,
    group: Option<String>,
    groups: Option<Vec<String>>,
    umask: Option<u32>,
    nice: Option<i32>,
    oom_score_adj: Option<i32>,
    environment: BTreeMap<String, String>,
    environment_file: Option<String>,
    directory: Option<String>,
    limits: Vec<Limit>,
    notify: Option<bool>,
    output: Option<(Output, Option<FileOutput>)>,
    autostart: Option<bool>,
    wait_for: Option<Option<Rc<WaitFor>>>,
    ready: Option<Option<Sign>>,
    ready_after: Option<Duration>,
    start_timeout: Option<Option<Duration>>,
    health: Option<Option<Rc<Health>>>,
    watchdog: Option<Option<Duration>>,
    stop: Option<Rc<Schedule>>,
    steps: Option<Vec<Step>>,
    leftover_grace: Option<Duration>,
    restart: Option<Policy>,
    restart_delay: Option<Duration>,
    max_delay: Option<Duration>,
    stable: Option<Duration>,
    crash_loop: Option<Option<CrashLoop>>,
    success: Option<(Vec<i32>, Vec<Signal>)>,
    reload: Option<Option<Reload>>,
    check: Option<Option<Rc<[String]>>>,
    check_timeout: Option<Duration>,
    watch: Option<Vec<Rc<str>>>,
    on_change: Option<OnChange>,
    hooks: hooks::Said,
    max_connections: Option<Option<MaxConnections>>,
    sockets: Vec<SocketAddr>,
    confine: confine::Said,
    kind: Option<Kind>,
    remain: Option<(bool, Range<usize>)>,
    /// `every` and `at`, with their names and places.
    timers: Vec<(&'static str, Timer, Range<usize>)>,
    /// Names of other services, with their places: they are checked at the end.
    after: Vec<(String, Place)>,
    requires: Vec<(String, Place)>,
    wants: Vec<(String, Place)>,
    conflicts: Vec<(String, Place)>,
    /// The command was there but wrong: that it is missing is not told on top.
    command_broken: bool,
}

/// Reads a section. `known` is what may stand in it.
pub(super) fn read(r: &mut Reader, table: &DeTable, known: &[&'static str]) -> Said {
    let mut said = Said::default();
    read_into(r, &mut said, table, known);
    said
}

/// Reads a section over what another one has said: its keys replace those; variables and
/// limits come one by one.
pub(super) fn read_into(r: &mut Reader, said: &mut Said, table: &DeTable, known: &[&'static str]) {
    for (key, value) in table.iter() {
        let name = key.get_ref().as_ref();
        if !known.contains(&name) && keys::NOT_IN_DEFAULTS.contains(&name) {
            r.problem(
                key.span(),
                format_args!("`{name}` belongs to [service.NAME]"),
            );
            continue;
        }
        if !known.contains(&name) && looks_like_a_service(value.get_ref()) {
            r.problem(
                key.span(),
                format_args!(
                    "unknown key `{}`: if it is part of a service's name, quote the whole name: \
                     [service.\"a.b\"]",
                    word(name)
                ),
            );
            continue;
        }
        if r.known(key, known) {
            read_key(r, said, name, value);
        }
    }
}

/// `[service.my.app]` is a table `app` in the service `my`.
fn looks_like_a_service(value: &DeValue) -> bool {
    matches!(value, DeValue::Table(t) if t.contains_key("command"))
}

fn read_key(r: &mut Reader, said: &mut Said, key: &str, v: &Value) {
    match key {
        "command" => {
            said.command = r.command(key, v);
            said.command_broken = said.command.is_none();
        }
        "user" => said.user = r.text(key, v),
        "group" => said.group = r.text(key, v),
        "groups" => said.groups = read_names(r, key, v),
        "umask" => said.umask = read_umask(r, key, v),
        "nice" => said.nice = read_i32(r, key, v, -20..20),
        "oom-score-adj" => said.oom_score_adj = read_i32(r, key, v, -1000..1001),
        "environment" => said.environment.append(&mut read_environment(r, key, v)),
        "environment-file" => said.environment_file = read_environment_file(r, key, v),
        "directory" => said.directory = r.path(key, v),
        "limits" => said.limits = limits::merged(limits::read(r, key, v), &said.limits),
        "notify" => said.notify = r.boolean(key, v),
        "output" => said.output = output::read(r, key, v),
        "autostart" => said.autostart = r.boolean(key, v),
        "wait-for" => said.wait_for = outlook::read(r, key, v),
        "ready" => said.ready = ready::read(r, key, v),
        "ready-after" => said.ready_after = positive(r, key, v),
        "start-timeout" => said.start_timeout = ready::read_timeout(r, key, v),
        "after" => said.after = read_services(r, key, v),
        "requires" => said.requires = read_services(r, key, v),
        "wants" => said.wants = read_services(r, key, v),
        "conflicts" => said.conflicts = read_services(r, key, v),
        "health" => said.health = health::read(r, key, v),
        "watchdog" => said.watchdog = ready::read_timeout(r, key, v),
        "type" => said.kind = r.choice(key, v, KIND),
        "remain" => said.remain = r.boolean(key, v).map(|b| (b, v.span())),
        "every" => said.timers.extend(read_every(r, v)),
        "at" => said.timers.extend(read_at(r, v)),
        "stop" => said.steps = stop::read(r, v),
        "leftover-grace" => said.leftover_grace = r.duration(key, v),
        "restart" => said.restart = r.choice(key, v, RESTART),
        "restart-delay" => said.restart_delay = r.duration(key, v),
        "max-delay" => said.max_delay = r.duration(key, v),
        "stable" => said.stable = r.duration(key, v),
        "crash-loop" => said.crash_loop = read_crash_loop(r, key, v),
        "success-exit" => said.success = read_success(r, key, v),
        "reload" => said.reload = read_reload(r, key, v),
        "check" => said.check = read_check(r, key, v),
        "check-timeout" => said.check_timeout = positive(r, key, v),
        "watch" => said.watch = read_watch(r, key, v),
        "on-change" => said.on_change = r.choice(key, v, ON_CHANGE),
        "pre-start" => said.hooks.pre_start = hooks::read(r, key, v),
        "post-start" => said.hooks.post_start = hooks::read(r, key, v),
        "pre-stop" => said.hooks.pre_stop = hooks::read(r, key, v),
        "post-stop" => said.hooks.post_stop = hooks::read(r, key, v),
        "on-crash" => said.hooks.on_crash = hooks::read(r, key, v),
        "sockets" => said.sockets = read_sockets(r, key, v),
        "max-connections" => said.max_connections = read_max_connections(r, key, v),
        _ if confine::read_key(r, &mut said.confine, key, v) => {}
        // A key that is in the list and not here would be accepted and ignored.
        _ => r.problem(v.span(), format_args!("key `{key}` is known but not read")),
    }
}

/// What becomes of a service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It runs until it is stopped.
    Daemon,
    /// It runs to its end.
    Oneshot,
}

const KIND: &[(&str, Kind)] = &[("daemon", Kind::Daemon), ("oneshot", Kind::Oneshot)];

const RESTART: &[(&str, Policy)] = &[
    ("always", Policy::Always),
    ("on-failure", Policy::OnFailure),
    ("never", Policy::Never),
];

const ON_CHANGE: &[(&str, OnChange)] =
    &[("restart", OnChange::Restart), ("reload", OnChange::Reload)];

fn read_i32(r: &mut Reader, key: &str, v: &Value, range: Range<i64>) -> Option<i32> {
    i32::try_from(r.integer(key, v, range)?).ok()
}

/// Not so often that it is a daemon.
fn read_every(r: &mut Reader, v: &Value) -> Option<(&'static str, Timer, Range<usize>)> {
    let key = "every";
    let every = r.duration(key, v)?;
    if every < Duration::from_secs(1) {
        r.problem(v.span(), format_args!("`{key}` must be at least 1s"));
        return None;
    }
    Some((key, Timer::Every(every), v.span()))
}

fn read_at(r: &mut Reader, v: &Value) -> Option<(&'static str, Timer, Range<usize>)> {
    let key = "at";
    let text = r.string(key, v)?;
    let time = r.parsed(key, v, value::time_of_day(&text))?;
    Some((key, Timer::At(time), v.span()))
}

fn read_umask(r: &mut Reader, key: &str, v: &Value) -> Option<u32> {
    if let DeValue::Integer(n) = v.get_ref() {
        // 022 is no TOML, 22 and 0o22 are two different masks: only text says what is meant.
        r.problem(
            v.span(),
            format_args!("`{key}` is a string of octal digits: write \"022\", not {n}"),
        );
        return None;
    }
    let text = r.string(key, v)?;
    r.parsed(key, v, value::umask(&text))
}

fn read_names(r: &mut Reader, key: &str, v: &Value) -> Option<Vec<String>> {
    let names = r.strings(key, v)?;
    if names.iter().any(String::is_empty) {
        r.problem(v.span(), format_args!("`{key}` has an empty name"));
        return None;
    }
    Some(names)
}

fn read_environment(r: &mut Reader, key: &str, v: &Value) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let Some(table) = r.table(key, v) else {
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

/// An absolute path; a leading `-` means that the file may be missing.
fn read_environment_file(r: &mut Reader, key: &str, v: &Value) -> Option<String> {
    let text = r.text(key, v)?;
    if !text.strip_prefix('-').unwrap_or(&text).starts_with('/') {
        r.problem(
            v.span(),
            format_args!(
                "`{key}` must be a path that begins with / (or -/), not `{}`",
                word(&text)
            ),
        );
        return None;
    }
    Some(text)
}

/// Names of other services, each with its place.
fn read_services(r: &mut Reader, key: &str, v: &Value) -> Vec<(String, Place)> {
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
fn read_crash_loop(r: &mut Reader, key: &str, v: &Value) -> Option<Option<CrashLoop>> {
    match v.get_ref() {
        DeValue::Boolean(false) => return Some(None),
        DeValue::Boolean(true) => return Some(Some(CRASH_LOOP)),
        _ => {}
    }
    let mut crash_loop = CRASH_LOOP;
    for (name, value) in r.table(key, v)?.iter() {
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
fn read_sockets(r: &mut Reader, key: &str, v: &Value) -> Vec<SocketAddr> {
    let texts = r.strings(key, v).unwrap_or_default();
    if texts.len() > SOCKETS {
        r.problem(
            v.span(),
            format_args!("`{key}` has more than {SOCKETS} sockets"),
        );
        return Vec::new();
    }
    let mut sockets = Vec::new();
    for text in &texts {
        let address = text
            .strip_prefix("tcp://")
            .and_then(|a| a.parse::<SocketAddr>().ok());
        match address.filter(|a| a.port() > 0 && !a.ip().is_multicast()) {
            Some(address) if sockets.contains(&address) => {
                r.problem(v.span(), format_args!("`{key}` has `{}` twice", word(text)));
            }
            Some(address) => sockets.push(address),
            None => r.problem(
                v.span(),
                format_args!(
                    "`{key}`: `{}` is not a socket: write \"tcp://0.0.0.0:443\" or \"tcp://[::]:443\"",
                    word(text)
                ),
            ),
        }
    }
    sockets
}

/// The most sockets of a service.
const SOCKETS: usize = 16;

/// `{ high = 200, low = 180 }`, or false.
fn read_max_connections(r: &mut Reader, key: &str, v: &Value) -> Option<Option<MaxConnections>> {
    if let DeValue::Boolean(false) = v.get_ref() {
        return Some(None);
    }
    let (mut high, mut low) = (None, None);
    for (name, value) in r.table(key, v)?.iter() {
        if !r.known(name, keys::MAX_CONNECTIONS) {
            continue;
        }
        match name.get_ref().as_ref() {
            "high" => high = Some(r.integer("high", value, 1..1_000_001)?),
            _ => low = Some(r.integer("low", value, 1..1_000_001)?),
        }
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
                format_args!("`{key}` has two limits: write {{ high = 200, low = 180 }}"),
            );
            None
        }
    }
}

/// `[1, 143, "HUP"]`: statuses and signals.
fn read_success(r: &mut Reader, key: &str, v: &Value) -> Option<(Vec<i32>, Vec<Signal>)> {
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
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// `["/program", "validate"]`, or false.
fn read_check(r: &mut Reader, key: &str, v: &Value) -> Option<Option<Rc<[String]>>> {
    match v.get_ref() {
        DeValue::Boolean(false) => Some(None),
        _ => Some(Some(r.command(key, v)?.into())),
    }
}

/// `["/etc/caddy/Caddyfile"]`, or false.
fn read_watch(r: &mut Reader, key: &str, v: &Value) -> Option<Vec<Rc<str>>> {
    if let DeValue::Boolean(false) = v.get_ref() {
        return Some(Vec::new());
    }
    let texts = r.strings(key, v)?;
    if texts.len() > files::MOST {
        let most = files::MOST;
        r.problem(v.span(), format_args!("`{key}` has more than {most} files"));
        return None;
    }
    let mut paths: Vec<Rc<str>> = Vec::with_capacity(texts.len());
    for text in texts {
        let is_path = text.starts_with('/') && text.len() < 4096;
        if !is_path || paths.iter().any(|p| **p == *text) {
            let why = match is_path {
                true => "is there twice",
                false => "is not a path that begins with /",
            };
            r.problem(v.span(), format_args!("`{key}`: `{}` {why}", word(&text)));
            return None;
        }
        paths.push(text.into());
    }
    Some(paths)
}

/// What is done when a file changes: a reload where the service can.
fn define_files(
    r: &mut Reader,
    at: &Range<usize>,
    (watch, on_change): (Option<Vec<Rc<str>>>, Option<OnChange>),
    defaults: &Said,
    reload: bool,
) -> Option<Rc<Watched>> {
    let files = watch.or_else(|| defaults.watch.clone());
    let files = files.unwrap_or_default();
    if files.is_empty() {
        if on_change.is_some() {
            r.problem(at.clone(), "`on-change` goes with `watch`");
        }
        return None;
    }
    let then = match on_change.or(defaults.on_change) {
        Some(OnChange::Reload) if !reload => {
            r.problem(at.clone(), "on-change = \"reload\" needs `reload`");
            return None;
        }
        Some(then) => then,
        None if reload => OnChange::Reload,
        None => OnChange::Restart,
    };
    Some(Rc::new(Watched { files, then }))
}

/// `{ signal = "HUP" }`, `{ run = ["..."], wait = "30s" }`, `{ http = "POST ..." }`, or false.
fn read_reload(r: &mut Reader, key: &str, v: &Value) -> Option<Option<Reload>> {
    if let DeValue::Boolean(false) = v.get_ref() {
        return Some(None);
    }
    let table = r.table(key, v)?;
    let mut found = Vec::new();
    let mut wait = None;
    for (name, value) in table.iter() {
        if !r.known(name, keys::RELOAD) {
            return None;
        }
        found.push(match name.get_ref().as_ref() {
            "wait" => {
                wait = Some((r.duration("wait", value)?, value.span()));
                continue;
            }
            "signal" => {
                let signal = stop::read_signal(r, "signal", value)?;
                if signal == Signal::KILL {
                    r.problem(value.span(), "KILL ends a service, it does not reload it");
                    return None;
                }
                Reload::Signal(signal)
            }
            "http" => match stop::read_http(r, value)? {
                Action::Http(http) => Reload::Http(http, RELOAD_WAIT),
                Action::Signal(..) | Action::Run(_) | Action::Drain(_) | Action::Hook(_) => {
                    return None
                }
            },
            _ => Reload::Run(r.command("run", value)?.into(), RELOAD_WAIT),
        });
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

const CRASH_LOOP: CrashLoop = CrashLoop {
    burst: 5,
    within: Duration::from_secs(60),
    retry: Duration::from_secs(300),
};

/// How long leftovers get between TERM and KILL.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);

/// A schedule of these steps that says nothing else.
pub(super) fn schedule_of(steps: Vec<Step>) -> Schedule {
    Schedule {
        steps,
        leftover_grace: LEFTOVER_GRACE,
        after: Duration::ZERO,
    }
}

impl Said {
    /// The names of other services, by key.
    pub fn names(&self) -> [(&'static str, &[(String, Place)]); 4] {
        [
            ("after", &self.after),
            ("requires", &self.requires),
            ("wants", &self.wants),
            ("conflicts", &self.conflicts),
        ]
    }

    /// What a section without any key says. Every `[defaults]` goes through here, so that
    /// services which do not name a `stop` of their own share one schedule.
    pub fn with_schedule(mut self) -> Said {
        self.stop = Some(Rc::new(Schedule {
            steps: self.steps.clone().unwrap_or_else(stop::default),
            leftover_grace: self.leftover_grace.unwrap_or(LEFTOVER_GRACE),
            after: Duration::ZERO,
        }));
        self
    }

    fn schedule(&mut self, defaults: &Said) -> Rc<Schedule> {
        match (&self.steps, self.leftover_grace, &defaults.stop) {
            (None, None, Some(shared)) => shared.clone(),
            _ => Rc::new(Schedule {
                steps: self
                    .steps
                    .take()
                    .or_else(|| defaults.steps.clone())
                    .unwrap_or_else(stop::default),
                leftover_grace: self
                    .leftover_grace
                    .or(defaults.leftover_grace)
                    .unwrap_or(LEFTOVER_GRACE),
                after: Duration::ZERO,
            }),
        }
    }
}

/// Makes a definition of what a service's section says and what the defaults say, and
/// checks what concerns this service alone. None when there is nothing to execute.
pub(super) fn define(
    r: &mut Reader,
    name: &str,
    at: Range<usize>,
    mut said: Said,
    defaults: &Said,
) -> Option<ServiceDef> {
    let stop = said.schedule(defaults);
    let notify = said.notify.or(defaults.notify).unwrap_or(true);
    let to = said.output.take().or_else(|| defaults.output.clone());
    let (output, log_file) = to.unwrap_or((Output::Log, None));
    let parts = |s: &Said| ready::Parts {
        ready: s.ready.clone(),
        after: s.ready_after,
        within: s.start_timeout,
    };
    let oneshot = define_oneshot(r, &at, &said);
    let ready = match oneshot {
        Some(_) => ready::of_oneshot(r, &at, &parts(&said)),
        None => ready::define(r, &at, parts(&said), parts(defaults), notify, output),
    };
    if let Some(Sign::Descriptor(number)) = ready.as_ref().map(|r| &r.sign) {
        let sockets = i32::try_from(said.sockets.len()).unwrap_or(i32::MAX);
        if *number < sockets.saturating_add(3) {
            r.problem(
                at.clone(),
                format_args!("`notify-fd` = {number} is the number of one of its `sockets`"),
            );
        }
    }
    let (health, watchdog) = define_watch(r, &at, &said, defaults, oneshot, notify);
    let policy = match (said.restart.or(defaults.restart), oneshot) {
        // What the defaults say is about those that run.
        (None | Some(Policy::Always), Some(_)) => Policy::OnFailure,
        (policy, _) => policy.unwrap_or(Policy::Always),
    };
    let restart = Restart {
        policy,
        delay: said
            .restart_delay
            .or(defaults.restart_delay)
            .unwrap_or(Duration::from_millis(200)),
        max_delay: said
            .max_delay
            .or(defaults.max_delay)
            .unwrap_or(Duration::from_secs(30)),
        stable: said
            .stable
            .or(defaults.stable)
            .unwrap_or(Duration::from_secs(10)),
        crash_loop: said
            .crash_loop
            .or_else(|| defaults.crash_loop.clone())
            .unwrap_or(Some(CRASH_LOOP)),
    };
    check_restart(r, &at, &restart);
    check_stop(r, &at, &stop, notify, output);
    let reload = said.reload.take();
    let reload = reload.or_else(|| defaults.reload.clone()).flatten();
    let own_hooks = std::mem::take(&mut said.hooks);
    let (hooks, stop) = hooks::define(r, &at, own_hooks, &defaults.hooks, oneshot, stop);
    check_reload(r, &at, &stop, &reload);
    let watch = define_files(
        r,
        &at,
        (said.watch.take(), said.on_change),
        defaults,
        reload.is_some(),
    );
    let check = said
        .check
        .take()
        .or_else(|| defaults.check.clone())
        .flatten();
    if check.is_none() && said.check_timeout.is_some() {
        r.problem(at.clone(), "`check-timeout` goes with `check`");
    }
    let check_timeout = said.check_timeout.or(defaults.check_timeout);
    let check = check.map(|argv| Checker {
        argv,
        wait: check_timeout.unwrap_or(CHECK_TIMEOUT),
    });
    let success = said.success.or_else(|| defaults.success.clone());
    let (success_exit, success_signal) = success.unwrap_or_default();
    let Some(command) = said.command else {
        if !said.command_broken {
            r.problem(at, "has no `command`");
        }
        return None;
    };
    let confine = confine::define(r, &at, said.confine, &defaults.confine);
    let mut environment = defaults.environment.clone();
    environment.append(&mut said.environment);
    Some(ServiceDef {
        name: name.to_owned(),
        place: r.place(&at).to_string(),
        made: Made::InFile,
        program: Rc::new(Program {
            command,
            user: said.user.or_else(|| defaults.user.clone()),
            group: said.group.or_else(|| defaults.group.clone()),
            groups: said.groups.or_else(|| defaults.groups.clone()),
            umask: said.umask.or(defaults.umask).unwrap_or(0o022),
            nice: said.nice.or(defaults.nice),
            oom_score_adj: said.oom_score_adj.or(defaults.oom_score_adj),
            environment,
            environment_file: said
                .environment_file
                .or_else(|| defaults.environment_file.clone()),
            directory: said.directory.or_else(|| defaults.directory.clone()),
            limits: limits::merged(said.limits, &defaults.limits),
            notify,
            watchdog,
            output,
            log_file,
            sockets: said.sockets,
            confine,
        }),
        policy: PolicyDef {
            autostart: said.autostart.or(defaults.autostart).unwrap_or(true),
            after: names(said.after),
            requires: names(said.requires),
            wants: names(said.wants),
            conflicts: names(said.conflicts),
            oneshot,
            timer: said.timers.first().map(|(_, timer, _)| *timer),
            wait_for: said
                .wait_for
                .or_else(|| defaults.wait_for.clone())
                .flatten(),
            ready,
            health,
            stop,
            restart,
            success_exit,
            success_signal,
            reload,
            check,
            watch,
            max_connections: said.max_connections.or(defaults.max_connections).flatten(),
            hooks,
        },
    })
}

/// What is watched when it is up. A oneshot never is.
fn define_watch(
    r: &mut Reader,
    at: &Range<usize>,
    said: &Said,
    defaults: &Said,
    oneshot: Option<Oneshot>,
    notify: bool,
) -> (Option<Rc<Health>>, Option<Duration>) {
    if oneshot.is_some() {
        if said.health.iter().flatten().next().is_some() || said.watchdog.flatten().is_some() {
            r.problem(
                at.clone(),
                "a oneshot is watched by `start-timeout` only: neither `health` nor `watchdog`",
            );
        }
        return (None, None);
    }
    let health = said.health.clone().or_else(|| defaults.health.clone());
    let watchdog = said.watchdog.or(defaults.watchdog).flatten();
    if watchdog.is_some() && !notify {
        r.problem(at.clone(), "`watchdog` needs notify = true");
    }
    (health.flatten(), watchdog)
}

fn define_oneshot(r: &mut Reader, at: &Range<usize>, said: &Said) -> Option<Oneshot> {
    if said.kind != Some(Kind::Oneshot) {
        if let Some((_, at)) = &said.remain {
            r.problem(at.clone(), "`remain` goes with type = \"oneshot\"");
        }
        for (key, _, at) in &said.timers {
            r.problem(
                at.clone(),
                format_args!("`{key}` goes with type = \"oneshot\""),
            );
        }
        return None;
    }
    if let [_, (_, _, at)] = said.timers.as_slice() {
        r.problem(at.clone(), "`every` or `at`, not both");
    }
    if said.restart == Some(Policy::Always) {
        r.problem(
            at.clone(),
            "a oneshot that has succeeded is not started again: restart = \"on-failure\" or \"never\"",
        );
    }
    Some(match said.remain {
        None | Some((true, _)) => Oneshot::Remains,
        Some((false, _)) => Oneshot::Again,
    })
}

/// The names, sorted and each once: their order in the file means nothing, and a
/// change of it is no change.
fn names(list: Vec<(String, Place)>) -> Vec<String> {
    let mut names: Vec<String> = list.into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn check_restart(r: &mut Reader, at: &Range<usize>, restart: &Restart) {
    if restart.delay > restart.max_delay {
        r.problem(at.clone(), "`restart-delay` is longer than `max-delay`");
    }
    let spins = restart.delay.is_zero() && restart.crash_loop.is_none();
    if spins && restart.policy != Policy::Never {
        r.problem(
            at.clone(),
            "restart-delay = \"0s\" with crash-loop = false would restart without any pause",
        );
    }
}

/// A step that waits for what nobody can see would wait its whole time.
fn check_stop(r: &mut Reader, at: &Range<usize>, stop: &Schedule, notify: bool, output: Output) {
    let waits = |what: fn(&Until) -> bool| stop.steps.iter().any(|s| what(&s.until));
    if !notify && waits(|u| matches!(u, Until::Stopping)) {
        r.problem(
            at.clone(),
            "until = \"stopping\" in `stop` needs notify = true",
        );
    }
    let unseen = matches!(output, Output::Null | Output::Inherit);
    if unseen && waits(|u| matches!(u, Until::Log(_))) {
        r.problem(
            at.clone(),
            "until = \"log=...\" in `stop` needs output = \"log\", \"ring\" or a file",
        );
    }
}

/// A signal that begins the stop would come twice: for the reload, and for the stop.
fn check_reload(r: &mut Reader, at: &Range<usize>, stop: &Schedule, reload: &Option<Reload>) {
    match reload {
        Some(Reload::Signal(signal)) if stop.sends_to_main(*signal) => r.problem(
            at.clone(),
            format_args!("`reload` sends {signal}, which `stop` sends too: it must come once"),
        ),
        Some(Reload::Signal(_) | Reload::Run(..) | Reload::Http(..)) | None => {}
    }
}
