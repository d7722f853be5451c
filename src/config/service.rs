//! `[service.NAME]` and `[defaults]`: reading their keys, filling in what is not said,
//! and the checks that concern one service alone.
//!
//! Whether the services of `after`, `requires` and so on exist is seen in `order`. Longer than
//! other files because a service has 50 keys, each with a line in four places: what was
//! said, how it is read, what it is by default, what is made of it.

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
    Checker, CrashLoop, MaxConnections, Oneshot, Policy, Reload, Restart, Schedule, Step, Until,
};
use crate::machine::timer::Timer;
use crate::map::Map;

use super::keys;
use super::model::{FileOutput, Limit, Made, Output, PolicyDef, Program, ServiceDef};
use super::problem::{word, Place};
use super::read::{Reader, Spots, Value};
use super::ready::at_least;
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
    environment: Map<String, String>,
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
    remain: Option<bool>,
    /// `every` and `at`.
    timers: Vec<Timer>,
    /// Names of other services, with their places: they are checked at the end.
    after: Vec<(String, Place)>,
    requires: Vec<(String, Place)>,
    wants: Vec<(String, Place)>,
    restart_with: Vec<(String, Place)>,
    conflicts: Vec<(String, Place)>,
    /// Where the keys of the section stand.
    spots: Vec<(&'static str, Range<usize>)>,
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
            let name = known.iter().copied().find(|k| *k == name);
            let name = name.unwrap_or_default();
            said.spots.push((name, key.span()));
            r.enter(name, value);
            read_key(r, said, name, value);
            r.leave();
        }
    }
}

/// `[service.my.app]` is a table `app` in the service `my`.
fn looks_like_a_service(value: &DeValue) -> bool {
    matches!(value, DeValue::Table(t) if t.contains_key("command"))
}

fn read_key(r: &mut Reader, said: &mut Said, key: &str, v: &Value) {
    match key {
        "command" => said.command = r.command(key, v),
        "user" => said.user = r.text(key, v),
        "group" => said.group = r.text(key, v),
        "groups" => said.groups = read_names(r, key, v),
        "umask" => said.umask = r.parse(key, v, value::umask),
        "nice" => said.nice = read_i32(r, key, v, -20..20),
        "oom-score-adj" => said.oom_score_adj = read_i32(r, key, v, -1000..1001),
        "environment" => said.environment.extend(read_environment(r, key, v)),
        "environment-file" => said.environment_file = r.maybe_path(key, v),
        "directory" => said.directory = r.path(key, v),
        "limits" => said.limits = limits::merged(limits::read(r, key, v), &said.limits),
        "notify" => said.notify = r.boolean(key, v),
        "output" => said.output = output::read(r, key, v),
        "autostart" => said.autostart = r.boolean(key, v),
        "wait-for" => said.wait_for = outlook::read(r, key, v),
        "ready" => said.ready = ready::read(r, key, v),
        "ready-after" => said.ready_after = positive(r, key, v),
        "start-timeout" => {
            said.start_timeout = ready::read_timeout(r, key, v, Duration::from_millis(1));
        }
        "after" => said.after = read_services(r, key, v),
        "requires" => said.requires = read_services(r, key, v),
        "wants" => said.wants = read_services(r, key, v),
        "restart-with" => said.restart_with = read_services(r, key, v),
        "conflicts" => said.conflicts = read_services(r, key, v),
        "health" => said.health = health::read(r, key, v),
        "watchdog" => said.watchdog = ready::read_timeout(r, key, v, WATCHDOG),
        "type" => said.kind = r.choice(key, v, KIND),
        "remain" => said.remain = r.boolean(key, v),
        "every" => {
            let every = at_least(r, key, v, Duration::from_secs(1));
            said.timers.extend(every.map(Timer::Every));
        }
        "at" => said
            .timers
            .extend(r.parse(key, v, value::time_of_day).map(Timer::At)),
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

/// With a shorter watchdog a service would be stopped because it had to wait for a CPU.
const WATCHDOG: Duration = Duration::from_millis(100);

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

fn read_names(r: &mut Reader, key: &str, v: &Value) -> Option<Vec<String>> {
    let names = r.strings(key, v)?;
    if names.iter().any(String::is_empty) {
        r.problem(v.span(), format_args!("`{key}` has an empty name"));
        return None;
    }
    Some(names)
}

fn read_environment(r: &mut Reader, key: &str, v: &Value) -> Map<String, String> {
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
fn read_sockets(r: &mut Reader, key: &str, v: &Value) -> Vec<SocketAddr> {
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
fn read_max_connections(r: &mut Reader, key: &str, v: &Value) -> Option<Option<MaxConnections>> {
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

/// What is done when a file changes: a reload where the service can.
fn define_files(
    r: &mut Reader,
    at: &Spots,
    (watch, on_change): (Option<Vec<Rc<str>>>, Option<OnChange>),
    defaults: &Said,
    reload: bool,
) -> Option<Rc<Watched>> {
    let files = watch.or_else(|| defaults.watch.clone());
    let files = files.unwrap_or_default();
    if files.is_empty() {
        if on_change.is_some() {
            let text = "`on-change` goes with `watch`";
            r.problem(at.of(&["on-change", "watch"]), text);
        }
        return None;
    }
    let then = match on_change.or(defaults.on_change) {
        Some(OnChange::Reload) if !reload => {
            let text = "on-change = \"reload\" needs `reload`";
            r.problem(at.of(&["on-change"]), text);
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
    pub fn names(&self) -> [(&'static str, &[(String, Place)]); 5] {
        [
            ("after", &self.after),
            ("requires", &self.requires),
            ("wants", &self.wants),
            ("restart-with", &self.restart_with),
            ("conflicts", &self.conflicts),
        ]
    }

    /// The file that it writes its log into, and where that is said.
    pub fn log_file(&self) -> Option<(&str, Range<usize>)> {
        let (_, file) = self.output.as_ref()?;
        let (_, at) = self.spots.iter().find(|(key, _)| *key == "output")?;
        Some((&file.as_ref()?.path, at.clone()))
    }

    /// As defaults: there are none.
    pub fn forget_cgroups(&mut self) {
        self.confine.no_cgroups = true;
    }

    /// Its keys stand in another text than those that come from now on.
    pub fn forget_places(&mut self) {
        self.spots.clear();
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
    section: Range<usize>,
    mut said: Said,
    defaults: &Said,
) -> Option<ServiceDef> {
    let keys = std::mem::take(&mut said.spots);
    let at = Spots { section, keys };
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
                at.of(&["ready", "sockets"]),
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
        let text = "`check-timeout` goes with `check`";
        r.problem(at.of(&["check-timeout"]), text);
    }
    let check_timeout = said.check_timeout.or(defaults.check_timeout);
    let check = check.map(|argv| Checker {
        argv,
        wait: check_timeout.unwrap_or(CHECK_TIMEOUT),
    });
    let success = said.success.or_else(|| defaults.success.clone());
    let (success_exit, success_signal) = success.unwrap_or_default();
    let confine = confine::define(r, &at, said.confine, &defaults.confine);
    let Some(command) = said.command else {
        // One that is there is wrong: that was said.
        if at.keys.iter().all(|(key, _)| *key != "command") {
            r.problem(at.section, "has no `command`");
        }
        return None;
    };
    let mut environment = defaults.environment.clone();
    environment.extend(said.environment);
    Some(ServiceDef {
        name: name.to_owned(),
        place: r.place(&at.section).to_string(),
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
            restart_with: names(said.restart_with),
            conflicts: names(said.conflicts),
            oneshot,
            timer: said.timers.first().copied(),
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
    at: &Spots,
    said: &Said,
    defaults: &Said,
    oneshot: Option<Oneshot>,
    notify: bool,
) -> (Option<Rc<Health>>, Option<Duration>) {
    if oneshot.is_some() {
        if said.health.iter().flatten().next().is_some() || said.watchdog.flatten().is_some() {
            r.problem(
                at.of(&["health", "watchdog"]),
                "a oneshot is watched by `start-timeout` only: neither `health` nor `watchdog`",
            );
        }
        return (None, None);
    }
    let health = said.health.clone().or_else(|| defaults.health.clone());
    let watchdog = said.watchdog.or(defaults.watchdog).flatten();
    if watchdog.is_some() && !notify {
        let text = "`watchdog` needs notify = true";
        r.problem(at.of(&["watchdog", "notify"]), text);
    }
    (health.flatten(), watchdog)
}

fn define_oneshot(r: &mut Reader, at: &Spots, said: &Said) -> Option<Oneshot> {
    if said.kind != Some(Kind::Oneshot) {
        if said.remain.is_some() || !said.timers.is_empty() {
            let text = "`remain`, `every` and `at` go with type = \"oneshot\"";
            r.problem(at.of(&["remain", "every", "at"]), text);
        }
        return None;
    }
    if said.timers.len() > 1 {
        r.problem(at.of(&["every", "at"]), "`every` or `at`, not both");
    }
    if !said.restart_with.is_empty() {
        r.problem(
            at.of(&["restart-with"]),
            "a oneshot is never restarted: `restart-with` goes with what stays (`requires`, `after`)",
        );
    }
    if said.restart == Some(Policy::Always) {
        r.problem(
            at.of(&["restart"]),
            "a oneshot that has succeeded is not started again: restart = \"on-failure\" or \"never\"",
        );
    }
    Some(match said.remain {
        None | Some(true) => Oneshot::Remains,
        Some(false) => Oneshot::Again,
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

fn check_restart(r: &mut Reader, at: &Spots, restart: &Restart) {
    if restart.delay > restart.max_delay {
        let text = "`restart-delay` is longer than `max-delay`";
        r.problem(at.of(&["restart-delay", "max-delay"]), text);
    }
    let is_quick = restart.delay.is_zero() || restart.stable.is_zero();
    let spins = is_quick && restart.crash_loop.is_none();
    if spins && restart.policy != Policy::Never {
        r.problem(
            at.of(&["restart-delay", "stable", "crash-loop"]),
            "crash-loop = false with \"0s\" as `restart-delay` or `stable` would restart without any pause",
        );
    }
}

/// A step that waits for what nobody can see would wait its whole time.
fn check_stop(r: &mut Reader, at: &Spots, stop: &Schedule, notify: bool, output: Output) {
    let waits = |what: fn(&Until) -> bool| stop.steps.iter().any(|s| what(&s.until));
    if !notify && waits(|u| matches!(u, Until::Stopping)) {
        r.problem(
            at.of(&["stop", "notify"]),
            "until = \"stopping\" in `stop` needs notify = true",
        );
    }
    let unseen = matches!(output, Output::Null | Output::Inherit);
    if unseen && waits(|u| matches!(u, Until::Log(_))) {
        r.problem(
            at.of(&["stop", "output"]),
            "until = \"log=...\" in `stop` needs output = \"log\", \"ring\" or a file",
        );
    }
}

/// A signal that begins the stop would come twice: for the reload, and for the stop.
fn check_reload(r: &mut Reader, at: &Spots, stop: &Schedule, reload: &Option<Reload>) {
    match reload {
        Some(Reload::Signal(signal)) if stop.sends_to_main(*signal) => r.problem(
            at.of(&["reload", "stop"]),
            format_args!("`reload` sends {signal}, which `stop` sends too: it must come once"),
        ),
        Some(Reload::Signal(_) | Reload::Run(..) | Reload::Http(..)) | None => {}
    }
}
