//! The configuration as it is meant, after every check has passed.
//!
//! Nothing here reads a file; `raw` does, `check` turns that into this.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::template::Templates;
use crate::json::{FromJson, ToJson};
use crate::machine::event::ServiceId;
use crate::machine::files::Watched;
use crate::machine::health::Health;
use crate::machine::hook::Hooks;
use crate::machine::outlook::WaitFor;
use crate::machine::ready::Ready;
use crate::machine::signal::Signal;
use crate::machine::spec::{Checker, MaxConnections, Oneshot, Reload, Restart, Schedule, Spec};
use crate::machine::timer::Timer;
use crate::map::Map;

/// The whole configuration.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct Config {
    /// What concerns superd itself.
    pub daemon: Daemon,
    /// The services, by name.
    pub services: Map<String, ServiceDef>,
    /// What services are made from.
    #[serde(default)]
    pub templates: Templates,
    /// Every file that was read, the main one first.
    pub files: Vec<PathBuf>,
}

/// `[daemon]`.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
#[serde(default)]
pub struct Daemon {
    /// Lock and sockets. Default `/var/run/superd`.
    pub run_dir: PathBuf,
    /// Where superd's own messages and the services' output go.
    pub log: LogTo,
    /// Members may do everything that root may.
    pub control_group: Option<String>,
    /// Members may look.
    pub status_group: Option<String>,
    /// The longest that superd's own shutdown may take before it KILLs the rest;
    /// none: as long as the schedules take.
    pub shutdown_deadline: Option<Duration>,
    /// Whether services get cgroups.
    pub cgroup: CgroupUse,
    /// Bytes of output kept in memory per service for `logs` and `why`.
    pub ring: usize,
    /// What is written about crashes.
    pub crashes: CrashReports,
    /// The file that says which crashes are known faults. It may be missing.
    pub known_faults: PathBuf,
}

/// Crash reports: files that outlive superd and a power cut.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
#[serde(default)]
pub struct CrashReports {
    /// Whether any are written.
    pub written: bool,
    /// Where. Default `/etc/superd/crashes`.
    pub dir: PathBuf,
    /// Different crashes that are kept of a service, and new ones that are written at once.
    pub keep: usize,
    /// A crash that repeats is written again at most this often, because flash wears out.
    pub pause: Duration,
}

/// Where messages go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum LogTo {
    /// syslog, and standard error until the log daemon answers; standard error in the foreground.
    Auto,
    /// syslog only.
    Syslog,
    /// Standard error only.
    Stderr,
    /// Nowhere (rings and history are still kept).
    None,
}

impl LogTo {
    /// As it is written in the file.
    pub fn word(self) -> &'static str {
        match self {
            LogTo::Auto => "auto",
            LogTo::Syslog => "syslog",
            LogTo::Stderr => "stderr",
            LogTo::None => "none",
        }
    }
}

/// Whether services get cgroups of their own.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum CgroupUse {
    /// Where cgroup v2 is mounted and writable.
    Auto,
    /// Never.
    Off,
    /// Below this directory of a cgroup v2 mount; it is an error if that is impossible.
    Below(PathBuf),
}

/// `[service.NAME]`, with `[defaults]` filled in.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct ServiceDef {
    /// The name.
    pub name: String,
    /// Where it is defined, for messages: `file:line:col`.
    pub place: String,
    /// Why there is such a service.
    #[serde(default, skip_serializing_if = "Made::is_in_file")]
    pub made: Made,
    /// What is executed and how. A change here replaces a running instance.
    pub program: Rc<Program>,
    /// What superd does with it. A change here takes effect in place.
    pub policy: PolicyDef,
}

/// Why there is such a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ToJson, FromJson)]
pub enum Made {
    /// It has a section.
    #[default]
    InFile,
    /// An instance of a template: another one requires or wants it.
    Named,
    /// An instance of a template: somebody asked for its start.
    Asked,
}

impl Made {
    fn is_in_file(&self) -> bool {
        *self == Made::InFile
    }
}

/// What is executed and how.
#[derive(Clone, PartialEq, Eq, Hash, Debug, ToJson, FromJson)]
pub struct Program {
    /// Program and arguments; a program without a slash is searched in the service's PATH.
    pub command: Vec<String>,
    /// User by name or number; none: superd's own.
    pub user: Option<String>,
    /// Primary group; none: the user's.
    pub group: Option<String>,
    /// Supplementary groups; none: those of the user (initgroups(3)).
    pub groups: Option<Vec<String>>,
    /// File mode creation mask.
    pub umask: u32,
    /// -20 to 19; none: superd's own.
    pub nice: Option<i32>,
    /// -1000 to 1000; none: what superd was started with.
    pub oom_score_adj: Option<i32>,
    /// Variables to set.
    pub environment: Map<String, String>,
    /// A file of `NAME=value` lines, read at each start; a leading `-` means it may be missing.
    pub environment_file: Option<String>,
    /// Working directory; none: `/`.
    pub directory: Option<String>,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// Whether NOTIFY_SOCKET is given to it.
    pub notify: bool,
    /// WATCHDOG_USEC: it is to say WATCHDOG=1 at least this often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<Duration>,
    /// What happens to standard output and error.
    pub output: Output,
    /// With [`Output::File`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_file: Option<FileOutput>,
    /// Listening TCP sockets that superd opens for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<SocketAddr>,
    /// What it gets no more of, and may no more.
    #[serde(default, skip_serializing_if = "Confine::is_nothing")]
    pub confine: Confine,
}

/// What a service is kept to.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, ToJson, FromJson)]
#[serde(default)]
pub struct Confine {
    /// Limits of its cgroup.
    pub controls: Vec<Control>,
    /// The name of a network namespace.
    pub network_namespace: Option<String>,
    /// /tmp and /var/tmp are its own.
    pub private_tmp: bool,
    /// Cannot be written to; a leading `-` means it may be missing.
    pub read_only_paths: Vec<String>,
    /// Can be written to, and nothing else; a leading `-` means it may be missing.
    pub writable_paths: Option<Vec<String>>,
    /// Capabilities by number; none: superd's own as root, nothing as another user.
    pub capabilities: Option<u64>,
    /// Nothing that it executes has more privileges.
    pub no_new_privileges: bool,
    /// Keys whose failure does not keep it from starting.
    pub optional: Vec<String>,
}

impl Confine {
    /// Whether it is kept to nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Confine::default()
    }
}

/// A limit of a cgroup: one of `confine::CONTROLS`, and its value.
#[derive(Clone, PartialEq, Eq, Hash, Debug, ToJson, FromJson)]
pub struct Control {
    /// The key.
    #[serde(deserialize_with = "super::confine::known")]
    pub key: LimitName,
    /// Bytes, a number, percent.
    pub value: u64,
}

/// Of `limits::LIMITS` or `confine::CONTROLS`.
pub type LimitName = &'static str;

/// One resource limit (setrlimit(2)); `u64::MAX` is "unlimited".
#[derive(Clone, PartialEq, Eq, Hash, Debug, ToJson, FromJson)]
pub struct Limit {
    /// Name as in the configuration: `nofile`.
    #[serde(deserialize_with = "super::limits::known")]
    pub name: LimitName,
    /// The RLIMIT_ constant.
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// What happens to a service's standard output and error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, ToJson, FromJson)]
pub enum Output {
    /// Ring, and the log.
    Log,
    /// Ring only.
    Ring,
    /// Ring, and a file of its own.
    File,
    /// /dev/null.
    Null,
    /// superd's own (wrap mode, debugging).
    Inherit,
}

/// The file that a service's output goes to.
#[derive(Clone, PartialEq, Eq, Hash, Debug, ToJson, FromJson)]
pub struct FileOutput {
    /// Absolute.
    pub path: String,
    /// Bytes; a file that is so long is turned over.
    pub max_size: u64,
    /// Full files beside the one that is written.
    pub keep: u32,
    /// Each line has its time before it.
    pub timestamps: bool,
    /// A command that makes full files smaller; empty: none.
    #[serde(default)]
    pub compress: Vec<String>,
}

/// What superd does with a service.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct PolicyDef {
    /// Started as soon as it is configured.
    pub autostart: bool,
    /// Order only.
    pub after: Vec<String>,
    /// Order and need.
    pub requires: Vec<String>,
    /// Order, and started along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<String>,
    /// Order, and restarted when they begin anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart_with: Vec<String>,
    /// Never at the same time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// It runs to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oneshot: Option<Oneshot>,
    /// A oneshot is run again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer: Option<Timer>,
    /// What of the world it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_for: Option<Rc<WaitFor>>,
    /// How it becomes ready; none: when its program executes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Rc<Ready>>,
    /// How it is seen whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Rc<Health>>,
    /// Stop schedule.
    pub stop: Rc<Schedule>,
    /// Restart policy.
    pub restart: Restart,
    /// Exit statuses that mean success, besides 0.
    pub success_exit: Vec<i32>,
    /// Signals whose death means success.
    pub success_signal: Vec<Signal>,
    /// How it re-reads its configuration.
    pub reload: Option<Reload>,
    /// What is asked before a reload and a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Checker>,
    /// Files whose change it has to be told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Rc<Watched>>,
    /// How many connections it may have.
    #[serde(default)]
    pub max_connections: Option<MaxConnections>,
    /// What is run around it; none: nothing, or `pre-stop` alone, which is a step of `stop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Rc<Hooks>>,
}

impl PolicyDef {
    /// Whether it says something about that service.
    pub fn names(&self, other: &str) -> bool {
        let lists = [
            &self.after,
            &self.requires,
            &self.wants,
            &self.restart_with,
            &self.conflicts,
        ];
        lists.iter().any(|list| list.iter().any(|n| n == other))
    }
}

impl ServiceDef {
    /// The machine's part of the definition. `id` maps the names of other services, which `check` has found to exist.
    pub fn spec(&self, id: impl Fn(&str) -> Option<ServiceId>) -> Spec {
        let p = &self.policy;
        Spec {
            name: self.name.as_str().into(),
            autostart: p.autostart,
            after: p.after.iter().filter_map(|n| id(n)).collect(),
            requires: p.requires.iter().filter_map(|n| id(n)).collect(),
            wants: p.wants.iter().filter_map(|n| id(n)).collect(),
            restart_with: p.restart_with.iter().filter_map(|n| id(n)).collect(),
            conflicts: p.conflicts.iter().filter_map(|n| id(n)).collect(),
            oneshot: p.oneshot,
            wait_for: p.wait_for.clone(),
            timer: p.timer,
            ready: p.ready.clone(),
            health: p.health.clone(),
            watchdog: self.program.watchdog,
            stop: p.stop.clone(),
            restart: p.restart.clone(),
            success_exit: p.success_exit.clone(),
            success_signal: p.success_signal.clone(),
            reload: p.reload.clone(),
            check: p.check.clone(),
            watch: p.watch.clone(),
            max_connections: p.max_connections,
            hooks: p.hooks.clone(),
        }
    }
}
