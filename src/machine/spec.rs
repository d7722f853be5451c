//! What the machine needs to know of a service's definition: order, stop, restart.
//!
//! How a program is executed (user, limits, environment) is none of its business and
//! lives in `config`. The stop schedule is data; DESIGN section 4 is its grammar.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::event::ServiceId;
use super::files::Watched;
use super::health::Health;
use super::hook::{Hook, Hooks};
use super::outlook::WaitFor;
use super::ready::Ready;
use super::signal::Signal;
use super::timer::Timer;
use crate::json::{FromJson, ToJson};

/// A service as the machine sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// Its name, for reports.
    pub name: Rc<str>,
    /// Wanted up as soon as it is configured.
    pub autostart: bool,
    /// Started after these, stopped before them. No cycles: `config` reports them.
    pub after: Vec<ServiceId>,
    /// Like `after`; also: cannot run without them, and stops when they stop.
    pub requires: Vec<ServiceId>,
    /// As `after`, and started along with it.
    pub wants: Vec<ServiceId>,
    /// As `after`, and restarted when one of them has begun anew.
    pub restart_with: Vec<ServiceId>,
    /// They never run at the same time. It is enough that one of two names the other.
    pub conflicts: Vec<ServiceId>,
    /// It runs to its end and is then done, which is when it counts as up.
    pub oneshot: Option<Oneshot>,
    /// What of the world has to be there before it starts.
    pub wait_for: Option<Rc<WaitFor>>,
    /// A oneshot is run again and again.
    pub timer: Option<Timer>,
    /// How it becomes ready; none: it is as soon as the program executes.
    pub ready: Option<Rc<Ready>>,
    /// How it is seen whether it is well.
    pub health: Option<Rc<Health>>,
    /// It says WATCHDOG=1 (sd_notify(3)) at least this often.
    pub watchdog: Option<Duration>,
    /// How it is stopped.
    pub stop: Rc<Schedule>,
    /// When it is started again.
    pub restart: Restart,
    /// Exit statuses that mean success, besides 0.
    pub success_exit: Vec<i32>,
    /// Signals whose death means success (TERM during a stop always does).
    pub success_signal: Vec<Signal>,
    /// How it is told to read its configuration again; none: it cannot.
    pub reload: Option<Reload>,
    /// What says, before a reload and a restart that somebody asks for, whether that may go well.
    pub check: Option<Checker>,
    /// Files whose change it has to be told of, by a restart or a reload.
    pub watch: Option<Rc<Watched>>,
    /// How many connections it may have; none: as many as it likes.
    pub max_connections: Option<MaxConnections>,
    /// What is run before a start, after it, and in the end.
    pub hooks: Option<Rc<Hooks>>,
}

/// A limit that superd keeps: new connections are held back with more than `high` open
/// ones, until there are less than `low`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct MaxConnections {
    /// The most that is let in calmly.
    pub high: u32,
    /// Less than `high`, so that the filter does not come and go with each client.
    pub low: u32,
}

/// What a service is that runs to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Oneshot {
    /// What it has done remains: it is not done again until it was stopped.
    Remains,
    /// It is done again with each start.
    Again,
}

/// How a service reads its configuration again.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Reload {
    /// Send this signal to the main process.
    Signal(Signal),
    /// Run this command, for so long at most; then it is killed with its tree.
    Run(Rc<[String]>, Duration),
    /// Make this request, which may take so long.
    Http(Rc<Http>, Duration),
}

/// A service's own checker of its configuration (`caddy validate`): what it does not like is
/// not given to a service that runs well.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Checker {
    /// The command; status 0 means that all is well.
    pub argv: Rc<[String]>,
    /// The longest it takes; then it is killed with its tree.
    pub wait: Duration,
}

/// The stop schedule: these steps in order, then KILL of whatever is left.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Schedule {
    /// At least one.
    pub steps: Vec<Step>,
    /// How long processes that outlive the main one get between TERM and KILL.
    pub leftover_grace: Duration,
    /// The longest that the hooks after the end take.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub after: Duration,
}

impl Schedule {
    /// Whether a step sends this signal to the main process.
    pub fn sends_to_main(&self, signal: Signal) -> bool {
        self.steps.iter().any(|step| match step.action {
            Action::Signal(s, To::Main | To::Group | To::Tree) => s == signal,
            Action::Signal(_, To::Descendants) => false,
            Action::Run(_) | Action::Http(_) | Action::Drain(_) | Action::Hook(_) => false,
        })
    }

    /// The TCP ports to which superd's own requests go.
    pub fn own_ports(steps: &[Step]) -> Vec<u16> {
        let port = |step: &Step| match &step.action {
            Action::Http(http) => match &http.to {
                HttpAddress::Tcp(to) => Some(to.port()),
                HttpAddress::Unix(_) => None,
            },
            Action::Signal(..) | Action::Run(_) | Action::Drain(_) | Action::Hook(_) => None,
        };
        steps.iter().filter_map(port).collect()
    }

    /// What is held back when somebody asks for a drain outside of a stop: what the first
    /// drain of the schedule would hold back, or everything.
    pub fn drain(&self) -> Rc<Drain> {
        let drain = |step: &Step| match &step.action {
            Action::Drain(what) => Some(what.clone()),
            Action::Signal(..) | Action::Run(_) | Action::Http(_) | Action::Hook(_) => None,
        };
        let all = || Drain {
            ports: Vec::new(),
            except: Schedule::own_ports(&self.steps),
            idle: None,
        };
        let first = self.steps.iter().find_map(drain);
        first.unwrap_or_else(|| Rc::new(all()))
    }

    /// The longest the whole schedule can take, up to the KILL of the last leftover.
    pub fn longest(&self) -> Duration {
        self.steps
            .iter()
            .map(|s| s.wait + s.settle)
            .sum::<Duration>()
            + self.leftover_grace
            + self.after
    }

    /// Whether it begins with a hook.
    pub fn has_hook(&self) -> bool {
        self.steps.iter().any(|s| s.is_hook())
    }
}

/// One step of a stop.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Step {
    /// What is done at its beginning.
    pub action: Action,
    /// What it waits for.
    pub until: Until,
    /// The longest wait.
    pub wait: Duration,
    /// A pause after the condition holds.
    pub settle: Duration,
}

impl Step {
    /// `pre-stop`.
    pub fn hook(hook: &Hook) -> Step {
        Step {
            action: Action::Hook(hook.argv.clone()),
            until: Until::ActionEnded,
            wait: hook.wait,
            settle: Duration::ZERO,
        }
    }

    /// Whether it is the hook before a stop.
    pub fn is_hook(&self) -> bool {
        matches!(self.action, Action::Hook(_))
    }
}

/// What a step does.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Action {
    /// Send a signal.
    Signal(Signal, To),
    /// Run a command.
    Run(Rc<[String]>),
    /// Make an HTTP request.
    Http(Rc<Http>),
    /// Hold back new connections and let the open ones finish.
    Drain(Rc<Drain>),
    /// Run the operator's own command before anything is done to the service.
    Hook(Rc<[String]>),
}

/// Which new connections a drain holds back.
#[derive(Clone, PartialEq, Eq, Debug, Default, ToJson, FromJson)]
pub struct Drain {
    /// On these ports; empty: on all that the tree listens on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Never on these: superd's own requests of later steps go there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<u16>,
    /// Connections that have been answered and then silent for so long are closed; none:
    /// they are waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
}

impl Drain {
    /// Whether new connections to this port are held back.
    pub fn takes(&self, transport: Transport, port: u16) -> bool {
        let named = |p: &Port| p.port == port && p.transport.is_none_or(|t| t == transport);
        let excepted = transport == Transport::Tcp && self.except.contains(&port);
        match self.ports.as_slice() {
            [] => !excepted,
            ports => ports.iter().any(named) && !excepted,
        }
    }
}

/// A port that a drain names: `443`, `tcp/443`, `udp/443`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Port {
    /// None: both.
    pub transport: Option<Transport>,
    /// Its number.
    pub port: u16,
}

/// What carries connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ToJson, FromJson)]
pub enum Transport {
    /// TCP, over IPv4 or IPv6.
    Tcp,
    /// UDP, over IPv4 or IPv6.
    Udp,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Signal(s, To::Main) => write!(f, "{s}"),
            Action::Signal(s, to) => write!(f, "{s} to {to}"),
            Action::Run(argv) => write!(f, "run {}", argv.join(" ")),
            Action::Http(http) => write!(f, "{http}"),
            Action::Drain(_) => f.write_str("drain"),
            Action::Hook(argv) => write!(f, "pre-stop {}", argv.first().map_or("", |s| s)),
        }
    }
}

/// To which processes of an instance a signal goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum To {
    /// The main process.
    Main,
    /// The process group of the main process.
    Group,
    /// The whole tree without the main process.
    Descendants,
    /// The whole tree.
    Tree,
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            To::Main => "main",
            To::Group => "group",
            To::Descendants => "descendants",
            To::Tree => "tree",
        })
    }
}

/// What ends a step before its time. That the service is gone ends every step.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Until {
    /// Nothing else.
    Gone,
    /// The listening sockets that the tree had when the stop began are closed.
    PortsClosed,
    /// No process of the tree is left but the main one.
    DescendantsGone,
    /// The service said STOPPING=1.
    Stopping,
    /// A line of its output contains this text.
    Log(Rc<str>),
    /// No connection is open any more (only a drain can see that).
    NoConnections,
    /// The step's own command or request ended.
    ActionEnded,
}

/// An HTTP/1.1 request in the clear to a loopback or unix address.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Http {
    /// `POST`, `GET`, `PUT` ...
    pub method: String,
    /// Where to connect.
    pub to: HttpAddress,
    /// The `Host:` header.
    pub host: String,
    /// Path and query.
    pub path: String,
}

/// Where an [`Http`] step connects. Names are not resolved: a resolver would block.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum HttpAddress {
    /// An IP address and port.
    Tcp(std::net::SocketAddr),
    /// A unix stream socket.
    Unix(String),
}

impl fmt::Display for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            HttpAddress::Tcp(a) => write!(f, "{} http://{a}{}", self.method, self.path),
            HttpAddress::Unix(p) => write!(f, "{} unix:{p}:{}", self.method, self.path),
        }
    }
}

/// When a service is started again after it ended without being asked to.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Restart {
    /// After which exits.
    pub policy: Policy,
    /// The pause before the second restart in a row; the first one is immediate. It
    /// doubles with each further one. Zero: never a pause.
    pub delay: Duration,
    /// The longest pause.
    pub max_delay: Duration,
    /// A run of at least this long makes the next restart immediate again.
    pub stable: Duration,
    /// When to stop trying quickly.
    pub crash_loop: Option<CrashLoop>,
}

/// After which exits a service is started again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Policy {
    /// After every exit.
    Always,
    /// After an exit that is not a success.
    OnFailure,
    /// Never.
    Never,
}

/// More than `burst` exits `within` that time: try again only every `retry`.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct CrashLoop {
    /// Exits that are still taken calmly.
    pub burst: u32,
    /// Within this time.
    pub within: Duration,
    /// The pause from then on.
    pub retry: Duration,
}
