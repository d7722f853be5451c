//! Replies: one JSON object per line. A request is answered by one line, or by a
//! stream: lines with `"more":true`, then (unless the client follows) one without.

use std::time::Duration;

use super::crash::{CrashLine, CrashReport, Repeat};
use crate::config::Plan;
use crate::json::{FromJson, ToJson};
use crate::machine::report::{Happening, Verdict};

/// One line to a client.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct Reply {
    /// The number of the request; 0 when the request could not be read.
    pub id: u64,
    /// Whether it went well so far.
    pub ok: bool,
    /// What went wrong, in a form that programs can use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// What to tell the user, a line without the program's name; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Further lines with this id follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// How a stop ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The longest that a stop which was not waited for can still take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// The request joined a stop that was under way already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
    /// `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<Status>>,
    /// `why` and `events`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Box<EventLine>>,
    /// `logs`, and the last output in `why`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<LogLine>,
    /// `plan`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanLine>,
    /// `plan --max-stop-seconds`; only superctl says this, with `--json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_stop_seconds: Option<u64>,
    /// `graph`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Box<Node>>,
    /// `doctor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
    /// `crashes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<Box<CrashLine>>,
    /// `why` of everything: what is on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<CrashReport>>,
}

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// It was done and failed.
    Failed,
    /// The request makes no sense.
    BadRequest,
    /// The client may not do that.
    NotPermitted,
    /// No such service.
    UnknownService,
    /// Impossible in the present state.
    Refused,
    /// Too many clients or requests; try again.
    Busy,
    /// Nobody listens on the socket (which only superctl says, with `--json`); or superd is
    /// ending, and is asked for what the next one is to do.
    NotRunning,
    /// It took longer than the client wanted to wait. Only superctl says this, with `--json`.
    TimedOut,
}

/// State of a service.
#[derive(Clone, PartialEq, Debug, Default, ToJson, FromJson)]
pub struct Status {
    /// Its name.
    pub service: String,
    /// `down`, `waiting`, `starting`, `up`, `stopping`, `killing`, `sweeping`, `backoff`, `failed`,
    /// `done` (a oneshot), `scheduled` (a oneshot whose time of day has not come yet).
    pub state: String,
    /// `up` or `down`.
    pub want: String,
    /// How long it has been in that state, in milliseconds.
    pub since_ms: u64,
    /// Main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Processes of the tree.
    pub processes: u32,
    /// An earlier superd has started it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// Resident memory of the tree in KiB.
    pub memory_kib: u64,
    /// Automatic restarts since superd began.
    pub restarts: u32,
    /// The last exit, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_exit: String,
    /// Milliseconds until the next automatic start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
    /// Milliseconds until its timer (`every`, `at`) runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_ms: Option<u64>,
    /// Services it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_on: Vec<String>,
    /// Of these, the ones that are not to run: it waits until somebody starts them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unwanted: Vec<String>,
    /// Why it cannot be started: one of them has failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub blocked: String,
    /// A stop under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopStatus>,
    /// Open connections, while new ones are held back and these are waited for, and of a
    /// service with a limit on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// With a limit on connections: so many are let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// New connections are held back because there are too many.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub limited: bool,
    /// New connections are held back without a stop: `draining` while some are open, then
    /// `drained`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<String>,
    /// Whether the running instance is ready, as `ready` in its configuration says: `yes`, `no`.
    /// Where there is none, what it has said (sd_notify(3)): `yes` (READY=1), `no` (it has sent
    /// messages, but not that one), `not-told` (it has sent none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// What is waited for until it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaiting: Option<Awaiting>,
    /// What its health check finds: `well`, or how many have failed and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// It said RELOADING=1, and no READY=1 since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reloading: bool,
    /// What the service says about itself (STATUS=).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub says: String,
}

/// A start under way: the program executes and is not ready.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Awaiting {
    /// What is waited for, or what the last probe found.
    pub what: String,
    /// Until `start-timeout` is over, in milliseconds; absent: as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
}

/// A stop under way.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct StopStatus {
    /// The present step in words, `TERM sent`.
    pub step: String,
    /// Milliseconds since the step began.
    pub step_ms: u64,
    /// Its longest wait in milliseconds.
    pub step_of_ms: u64,
    /// The longest the whole stop can still take, in milliseconds.
    pub left_ms: u64,
    /// Requests absorbed so far.
    pub absorbed: u32,
}

/// A line of a service's output.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct LogLine {
    /// Whose.
    pub service: String,
    /// Milliseconds ago.
    pub ago_ms: u64,
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Something that happened.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct EventLine {
    /// To whom; empty for superd itself.
    pub service: String,
    /// Milliseconds ago.
    pub ago_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
    /// With the end of an instance: the last lines it wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// With a crash: how often it has happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<Repeat>,
    /// With a crash that is a known fault: what is known about it, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub known: String,
}

/// The longest possible stop.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct PlanLine {
    /// The service; empty for the sum over everything, in the order of the shutdown.
    pub service: String,
    /// The steps in words, without the sum's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// The services that are restarted when it has begun anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<String>,
    /// The longest it can take, in milliseconds.
    pub longest_ms: u64,
}

impl PlanLine {
    /// A line for each service, in an order in which they can be stopped, then the sum.
    pub fn all(plan: &Plan) -> Vec<PlanLine> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let each = plan.services.iter().map(|s| PlanLine {
            service: s.name.clone(),
            steps: s.steps.clone(),
            restarts: s.restarts.clone(),
            longest_ms: ms(s.longest),
        });
        let all = PlanLine {
            service: String::new(),
            steps: Vec::new(),
            restarts: Vec::new(),
            longest_ms: ms(plan.longest),
        };
        each.chain(std::iter::once(all)).collect()
    }
}

/// A service in the graph.
#[derive(Clone, PartialEq, Eq, Debug, Default, ToJson, FromJson)]
pub struct Node {
    /// Its name.
    pub service: String,
    /// As in [`Status`].
    pub state: String,
    /// 1: it waits for nobody; else one more than the highest of those that it waits for.
    /// Services of the same level start together.
    pub level: u32,
    /// It cannot run without these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// These are started along with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<String>,
    /// Order alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// It is restarted when one of these has begun anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart_with: Vec<String>,
    /// Never at the same time as these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
}

/// Something that `doctor` looked at.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Finding {
    /// What: `cgroup v2`, `pidfd_open`, `/dev/log`.
    pub what: String,
    /// Whether it is as it should be.
    pub good: bool,
    /// What was found, and what superd does instead or what to do about it.
    pub text: String,
}

impl Reply {
    /// A last line that says it went well.
    pub fn ok(id: u64) -> Reply {
        Reply {
            id,
            ok: true,
            code: None,
            message: String::new(),
            more: false,
            verdict: None,
            left_ms: None,
            joined: false,
            status: None,
            event: None,
            line: None,
            plan: None,
            max_stop_seconds: None,
            node: None,
            finding: None,
            crash: None,
            report: None,
        }
    }

    /// A last line that says what went wrong.
    pub fn error(id: u64, code: Code, message: impl Into<String>) -> Reply {
        Reply {
            ok: false,
            code: Some(code),
            message: message.into(),
            ..Reply::ok(id)
        }
    }
}
