//! Requests: one JSON object per line, `{"v":1,"id":7,"do":"stop","service":"caddy"}`.

use crate::json::{FromJson, ToJson};

/// The version of the protocol. A request with another one is refused.
pub const VERSION: u32 = 1;

/// The longest request line in bytes, newline included.
pub const LINE_CAP: usize = 16 * 1024;

/// One request as it travels. Keys that do not belong to the verb are ignored.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// Chosen by the client; every reply line to this request carries it.
    pub id: u64,
    /// What to do.
    #[serde(rename = "do")]
    pub verb: Verb,
    /// The service; absent where the verb allows "all".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `start`, `stop`, `restart`, `drain`, `undrain`: every service. `why`: everything, with the crash reports.
    #[serde(default, skip_serializing_if = "is_false")]
    pub all: bool,
    /// `stop`, `restart`, `shutdown`: KILL instead of the schedule.
    #[serde(default, skip_serializing_if = "is_false")]
    pub now: bool,
    /// `shutdown`: the services stay, for the next superd to adopt.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leave_running: bool,
    /// `start`, `stop`, `restart`, `reload`, `drain`: reply when it is done.
    #[serde(default, skip_serializing_if = "is_false")]
    pub wait: bool,
    /// `upgrade`: only if another file has taken the place of the program that runs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub if_changed: bool,
    /// `signal`: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// `logs`, `why`, `events`: how many of the last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// `logs`, `events`: go on with what comes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub follow: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde wants a reference
fn is_false(b: &bool) -> bool {
    !*b
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// State of one service, or of all: one line with `"status"` each, then the last line.
    Status,
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Stop it and start it.
    Restart,
    /// With a service: tell it to read its configuration again. Without: superd reads its own.
    Reload,
    /// Send a signal.
    Signal,
    /// Hold back new connections, and go on running.
    Drain,
    /// Hold them back no longer.
    Undrain,
    /// Its output.
    Logs,
    /// Its last stops, crashes and restarts.
    Why,
    /// The crashes that are known, of one service or of all, a line each.
    Crashes,
    /// What happens, of one service or of all.
    Events,
    /// The longest stop of each service and of all, in the order of the shutdown.
    Plan,
    /// The services and what they depend on, a line each, in the order of starts.
    Graph,
    /// What superd found out about the kernel and this machine.
    Doctor,
    /// Stop everything and end.
    Shutdown,
    /// Become the program that superd was started as, as it is now.
    Upgrade,
}

impl Verb {
    /// Whether it only looks (`status-group` may).
    pub fn only_looks(self) -> bool {
        match self {
            Verb::Status
            | Verb::Logs
            | Verb::Why
            | Verb::Crashes
            | Verb::Events
            | Verb::Plan
            | Verb::Graph
            | Verb::Doctor => true,
            Verb::Start
            | Verb::Stop
            | Verb::Restart
            | Verb::Reload
            | Verb::Signal
            | Verb::Drain
            | Verb::Undrain
            | Verb::Shutdown
            | Verb::Upgrade => false,
        }
    }
}

impl Request {
    /// Whether it is answered by superd's end: a shutdown that is waited for.
    pub fn awaits_end(&self) -> bool {
        self.verb == Verb::Shutdown && self.wait
    }

    /// A request with nothing set but its number and verb.
    pub fn new(id: u64, verb: Verb) -> Request {
        Request {
            v: VERSION,
            id,
            verb,
            service: None,
            all: false,
            now: false,
            leave_running: false,
            wait: false,
            if_changed: false,
            signal: None,
            lines: None,
            follow: false,
        }
    }
}
