//! `[service.NAME]` and `[defaults]`: reading their keys, filling in what is not said,
//! and the checks that concern one service alone.
//!
//! Whether the services of `after`, `requires` and so on exist is seen in `order`. Each of the
//! 50 keys has a line in four places: what was said (`Said`), how it is read (`read_key`,
//! `values`), what it is by default and what is made of it (`define`).

mod define;
mod values;

use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

pub(super) use define::define;

use values::{
    read_check, read_crash_loop, read_environment, read_i32, read_max_connections, read_names,
    read_reload, read_services, read_sockets, read_success, read_watch, Kind, KIND, ON_CHANGE,
    RESTART, WATCHDOG,
};

use crate::machine::files::OnChange;
use crate::machine::health::Health;
use crate::machine::outlook::WaitFor;
use crate::machine::ready::Sign;
use crate::machine::signal::Signal;
use crate::machine::spec::{CrashLoop, MaxConnections, Policy, Reload, Schedule, Step};
use crate::machine::timer::Timer;
use crate::map::Map;

use super::keys;
use super::model::{FileOutput, Limit, Output};
use super::problem::{word, Place};
use super::read::{Reader, Value};
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

    /// Its stop: what is not said is as in the defaults.
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
