//! Reports: what is told afterwards about an exit, a stop, a crash, a restart.
//!
//! These types travel over the control socket, so their serde names are part of the
//! protocol. They hold no behaviour beyond putting themselves into words.
//!
//! Here are the parts of a report; [`Happening`] is the list of what can be told.

mod happening;
mod spawn;

use std::fmt;
use std::time::Duration;

pub use happening::{left_out, wait_over, waiting_for, Happening};
pub use spawn::{SpawnError, Stage};

use super::event::{Instance, Pid};
use super::signal::Signal;
use super::time::Span;
use crate::json::{FromJson, ToJson};

/// Who asked for something.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Origin {
    /// A client of the control socket (peer credentials; the command name is `/proc/PID/comm`).
    Client {
        /// Its pid.
        pid: i32,
        /// Its user.
        uid: u32,
        /// Its command name, empty when it was gone already.
        command: String,
    },
    /// A signal to superd (siginfo; pid 0 when the kernel does not say).
    Signal {
        /// Which.
        signal: Signal,
        /// Sender.
        pid: i32,
        /// Sender's user.
        uid: u32,
        /// Sender's command name, empty when it was gone already.
        command: String,
    },
    /// Another service that this one requires, or that requires this one.
    Dependency {
        /// Its name.
        service: String,
    },
    /// Another service that was to start, and conflicts with this one.
    Conflict {
        /// Its name.
        service: String,
    },
    /// Another service that has begun anew, and this one is restarted with it.
    RestartWith {
        /// Its name.
        service: String,
    },
    /// The configuration was loaded or changed.
    Config,
    /// Its time has come (`every`, `at`).
    Timer,
    /// superd itself: the restart policy, or its own shutdown deadline.
    Policy,
    /// A file that it watches changed.
    File {
        /// Which.
        path: String,
    },
    /// superd found it unfit: it was not ready in time, or failed its health check.
    Unfit {
        /// What was found.
        why: String,
    },
    /// The service did it by itself.
    Itself,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |c: &str| {
            if c.is_empty() {
                "?".to_owned()
            } else {
                c.to_owned()
            }
        };
        match self {
            // The kernel gives no pid for a client outside of superd's pid namespace.
            Origin::Client { pid: 0, uid, .. } => {
                write!(f, "a client outside of this container (uid {uid})")
            }
            Origin::Client { pid, uid, command } => {
                write!(f, "{} (pid {pid}, uid {uid})", named(command))
            }
            Origin::Signal { signal, pid: 0, .. } => write!(f, "SIG{signal} to superd"),
            Origin::Signal {
                signal,
                pid,
                uid,
                command,
            } => {
                write!(
                    f,
                    "SIG{signal} to superd from {} (pid {pid}, uid {uid})",
                    named(command)
                )
            }
            Origin::Timer => f.write_str("its timer"),
            Origin::Dependency { service } => write!(f, "dependency {service}"),
            Origin::Conflict { service } => write!(f, "{service} (conflicts with it)"),
            Origin::RestartWith { service } => write!(f, "{service}, which was restarted"),
            Origin::Config => f.write_str("configuration"),
            Origin::File { path } => write!(f, "its changed file {path}"),
            Origin::Policy => f.write_str("superd"),
            Origin::Unfit { why } => write!(f, "superd: {why}"),
            Origin::Itself => f.write_str("the service itself"),
        }
    }
}

/// How a process ended (`wait(2)`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// exit(3) with this status, 0 to 255.
    Code(i32),
    /// Ended by this signal.
    Signal(Signal),
    /// Nobody can say (the process was adopted and the kernel does not tell).
    Unknown,
}

impl Exit {
    /// As a shell says it: the status, or 128 + the signal; 255 when unknown.
    pub fn shell_status(self) -> i32 {
        match self {
            Exit::Code(n) => n,
            Exit::Signal(s) => 128 + s.0,
            Exit::Unknown => 255,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(n) => write!(f, "exited with status {n}"),
            Exit::Signal(s) => write!(f, "ended by SIG{s}"),
            Exit::Unknown => f.write_str("ended, status unknown"),
        }
    }
}

/// A crash as the output tells it.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Crash {
    /// The class: `go-panic`, `go-fatal`, `rust-panic` ...
    pub kind: String,
    /// The first line without its prefix: `close of closed channel`.
    pub text: String,
    /// The top frame in the program's own code, empty when none was recognised.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub frame: String,
    /// The top frames in the program's own code with their functions, the innermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<String>,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.text)
    }
}

/// What an exit was, all things considered (DESIGN 4). The exit status alone is not it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Stopped as the schedule says: expected status, no crash text, nothing left behind.
    Clean,
    /// Stopped, but a step ran into its time limit first.
    CleanAfterEscalation,
    /// superd had to KILL it.
    Killed,
    /// It printed a crash while it was stopping.
    PanickedWhileStopping,
    /// It crashed in service.
    Crashed,
    /// It ended without being asked to, without a sign of a crash.
    ExitedByItself,
    /// It ended and left processes behind, which superd removed.
    LeftChildren,
    /// It ended, and somebody who is none of its processes still listens where it did.
    PortsHeld,
    /// It ended during a stop with a status that is not among `success-exit`.
    FailedWhileStopping,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Clean => "clean",
            Verdict::CleanAfterEscalation => "clean after escalation",
            Verdict::Killed => "killed",
            Verdict::PanickedWhileStopping => "panicked while stopping",
            Verdict::Crashed => "crashed",
            Verdict::ExitedByItself => "exited by itself",
            Verdict::LeftChildren => "left processes behind, which superd removed",
            Verdict::PortsHeld => "somebody else holds its ports",
            Verdict::FailedWhileStopping => "failed while stopping",
        })
    }
}

/// How one step of a stop went.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct StepReport {
    /// What it does, in words: `TERM to main`, `POST http://...`, `KILL to the tree`.
    pub what: String,
    /// When it began, after the stop was asked for.
    pub began: Duration,
    /// How long it lasted.
    pub took: Duration,
    /// How it ended.
    pub outcome: StepOutcome,
}

/// How a step ended.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
#[serde(rename_all = "kebab-case")]
pub enum StepOutcome {
    /// The main process ended.
    Gone,
    /// Its condition held.
    Held,
    /// Its command or request ended, and not well; the reason.
    Failed(String),
    /// Its time was up.
    TimedOut,
    /// It could not be done; the reason.
    Skipped(String),
    /// An escalation (`--now`) cut it short.
    CutShort,
}

impl StepOutcome {
    /// In words, of something that took so long.
    pub fn after(&self, took: Duration) -> String {
        let took = Span(took);
        match self {
            StepOutcome::Gone => format!("gone after {took}"),
            StepOutcome::Held => format!("done after {took}"),
            StepOutcome::Failed(why) => format!("failed after {took}: {why}"),
            StepOutcome::TimedOut => format!("still there after {took}"),
            StepOutcome::Skipped(why) => format!("skipped: {why}"),
            StepOutcome::CutShort => format!("cut short after {took}"),
        }
    }

    /// Whether it is nothing to worry about.
    pub fn is_well(&self) -> bool {
        match self {
            StepOutcome::Gone | StepOutcome::Held | StepOutcome::CutShort => true,
            StepOutcome::Failed(_) | StepOutcome::TimedOut | StepOutcome::Skipped(_) => false,
        }
    }
}

impl fmt::Display for StepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = self.outcome.after(self.took);
        write!(f, "{} at {}, {outcome}", self.what, Span(self.began))
    }
}

/// How a hook went; none: it has just begun, and may take so long.
pub fn hook_in_words(what: &str, outcome: Option<&StepOutcome>, took: Duration) -> String {
    match outcome {
        None => format!("{what} runs, at most {}", Span(took)),
        Some(StepOutcome::TimedOut) => {
            format!("{what} did not end within {} and was killed", Span(took))
        }
        Some(outcome) => format!("{what}: {}", outcome.after(took)),
    }
}

/// A process that was still there when superd was about to KILL it: what it was at, as
/// /proc has it (proc_pid_stat(5), proc_pid_wchan(5)).
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Stuck {
    /// The process.
    pub pid: Pid,
    /// Its command name.
    pub name: String,
    /// `R`, `S`, `D` ...
    pub state: char,
    /// The function of the kernel in which it waits; empty where the kernel does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub wchan: String,
    /// How many threads it has.
    pub threads: u32,
    /// Its listening sockets, `tcp/8080`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listens: Vec<String>,
}

impl fmt::Display for Stuck {
    /// `4711 (caddy): sleeping in futex_wait_queue, 9 threads, listens on tcp/8080`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            'R' => "running",
            'S' => "sleeping",
            'D' => "in the kernel, not to be interrupted",
            'T' | 't' => "stopped",
            'Z' => "dead, not reaped",
            'I' => "idle",
            _ => "in an unknown state",
        };
        write!(f, "{} ({}): {state}", self.pid.0, self.name)?;
        if !self.wchan.is_empty() {
            write!(f, " in {}", self.wchan)?;
        }
        match self.threads {
            1 => f.write_str(", 1 thread")?,
            n => write!(f, ", {n} threads")?,
        }
        match self.listens.is_empty() {
            true => Ok(()),
            false => write!(f, ", listens on {}", self.listens.join(", ")),
        }
    }
}

/// The whole story of the end of one instance.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct EndReport {
    /// Which run of the service.
    pub instance: Instance,
    /// Its main process.
    pub pid: Option<Pid>,
    /// Who asked first; `Itself` when nobody did.
    pub by: Origin,
    /// Requests to stop that came while it was stopping already, and changed nothing.
    pub absorbed: u32,
    /// How many times the service said STOPPING=1.
    pub stopping_seen: u32,
    /// How long the instance ran before the end began.
    pub ran: Duration,
    /// From the first request (or the exit) until nothing was left.
    pub took: Duration,
    /// The steps taken, in order.
    pub steps: Vec<StepReport>,
    /// How the main process ended.
    pub exit: Exit,
    /// The crash that its output tells of.
    pub crash: Option<Crash>,
    /// Processes of the tree that were alive after the main process had ended.
    pub left: u32,
    /// Listening sockets that somebody else still holds; the ports are not free.
    pub ports_held: u32,
    /// The hooks that ran before it was over, besides the one that is a step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<StepReport>,
    /// What was left when superd had to KILL, a bounded number of processes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stuck: Vec<Stuck>,
    /// All things considered.
    pub verdict: Verdict,
}

impl EndReport {
    /// Whether `--now` (or SIGQUIT to superd) ended it before its schedule was over.
    pub fn was_forced(&self) -> bool {
        let cut = |s: &StepReport| s.outcome == StepOutcome::CutShort;
        self.verdict == Verdict::Killed && self.steps.last().is_none_or(cut)
    }
}
