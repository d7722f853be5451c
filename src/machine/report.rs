//! Reports: what is told afterwards about an exit, a stop, a crash, a restart.
//!
//! These types travel over the control socket, so their serde names are part of the
//! protocol. They hold no behaviour beyond putting themselves into words.
//!
//! Longer than a file should be: it is a list of what can be told, each with its words.

use std::fmt;
use std::time::Duration;

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

/// The stage at which a start failed, in the order in which a start goes through them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Reading the `environment-file`.
    EnvironmentFile,
    /// Opening a socket that is passed to it.
    Socket,
    /// Making the output pipe or the status pipe.
    Pipe,
    /// Making the service's cgroup or moving into it.
    Cgroup,
    /// fork(2) or clone3(2).
    Fork,
    /// setsid(2).
    Session,
    /// Standard input, output or error.
    Stdio,
    /// setrlimit(2).
    Limits,
    /// setpriority(2).
    Nice,
    /// `/proc/self/oom_score_adj`.
    OomScore,
    /// Looking up or setting the user.
    User,
    /// Looking up or setting the groups.
    Group,
    /// chdir(2).
    Directory,
    /// execve(2).
    Exec,
    /// A limit of its cgroup.
    Control,
    /// setns(2).
    Network,
    /// An own /tmp.
    PrivateTmp,
    /// mount_setattr(2).
    ReadOnly,
    /// Landlock.
    Writable,
    /// capset(2), prctl(2).
    Capabilities,
    /// prctl(2).
    NoNewPrivileges,
    /// The hook before the start.
    PreStart,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::EnvironmentFile => "reading the environment file",
            Stage::Socket => "opening socket",
            Stage::Pipe => "making a pipe",
            Stage::Cgroup => "entering the cgroup",
            Stage::Fork => "forking",
            Stage::Session => "making a session",
            Stage::Stdio => "setting up standard input and output",
            Stage::Limits => "setting limit",
            Stage::Nice => "setting nice",
            Stage::OomScore => "setting oom-score-adj",
            Stage::User => "setting user",
            Stage::Group => "setting group",
            Stage::Directory => "changing to directory",
            Stage::Exec => "executing",
            Stage::Control => "setting",
            Stage::Network => "entering network-namespace",
            Stage::PrivateTmp => "making private-tmp",
            Stage::ReadOnly => "setting read-only-paths",
            Stage::Writable => "setting writable-paths",
            Stage::Capabilities => "setting capabilities",
            Stage::NoNewPrivileges => "setting no-new-privileges",
            Stage::PreStart => "pre-start",
        })
    }
}

/// Why a service could not be started. Reads as
/// `setting user "dns": no such user`.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct SpawnError {
    /// Where it failed.
    pub stage: Stage,
    /// What was being set or opened (a path, a user, a limit); may be empty.
    pub thing: String,
    /// The errno, 0 when there is none (no such user).
    pub errno: i32,
    /// The cause in words.
    pub cause: String,
}

impl SpawnError {
    /// Whether it may work a moment later without anybody changing anything
    /// (EAGAIN, EMFILE, ENFILE, ENOMEM, EIO, ETXTBSY, EINTR).
    pub fn is_passing(&self) -> bool {
        matches!(
            self.errno,
            libc::EAGAIN
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::EIO
                | libc::ETXTBSY
                | libc::EINTR
                | libc::ENOSPC
                | libc::EBUSY
                | libc::EADDRINUSE
                | libc::EADDRNOTAVAIL
        )
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.thing.is_empty() {
            true => write!(f, "{}: {}", self.stage, self.cause),
            false => write!(f, "{} \"{}\": {}", self.stage, self.thing, self.cause),
        }
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

/// `db, cache (not to run: superctl start cache)`.
pub fn waiting_for(on: &[String], unwanted: &[String]) -> String {
    let one = |name: &String| match unwanted.contains(name) {
        true => format!("{name} (not to run: superctl start {name})"),
        false => name.clone(),
    };
    on.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// For a run that is not begun because the one before has not ended.
pub fn left_out(ran: Duration) -> String {
    let ran = Span(ran);
    format!("due again, and still running after {ran}: not started twice, this time is left out")
}

/// For a wait for the world that is over.
pub fn wait_over(on: &[String], after: Duration, starts: bool) -> String {
    let what = match on {
        [] => "what it waits for".to_owned(),
        on => on.join(", "),
    };
    let then = match starts {
        true => "started all the same",
        false => "not started",
    };
    format!("{what} not there after {}: {then}", Span(after))
}

impl EndReport {
    /// Whether `--now` (or SIGQUIT to superd) ended it before its schedule was over.
    pub fn was_forced(&self) -> bool {
        let cut = |s: &StepReport| s.outcome == StepOutcome::CutShort;
        self.verdict == Verdict::Killed && self.steps.last().is_none_or(cut)
    }
}

/// Something that happened to a service, for history, subscribers and the log.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Happening {
    /// A start was begun.
    Starting {
        /// Which run.
        instance: Instance,
        /// Who asked; `Policy` for an automatic restart.
        by: Origin,
    },
    /// The program is executing, and is waited for until it is ready.
    Executing {
        /// Which run.
        instance: Instance,
        /// Its main process.
        pid: Pid,
        /// What is waited for, in words.
        awaited: String,
    },
    /// The program is executing (and ready, as far as readiness is configured).
    Up {
        /// Which run.
        instance: Instance,
        /// Its main process.
        pid: Pid,
    },
    /// An earlier superd has started it; this one has taken it over.
    Adopted {
        /// Which run.
        instance: Instance,
        /// Its main process.
        pid: Pid,
        /// How long it has run by then.
        ran: Duration,
    },
    /// It ended while no superd was there.
    GoneMeanwhile {
        /// Which run.
        instance: Instance,
        /// What was its main process.
        pid: Option<Pid>,
        /// Processes that it left behind.
        left: u32,
    },
    /// A start did not succeed.
    StartFailed {
        /// Which run.
        instance: Instance,
        /// Stage, thing and cause.
        error: SpawnError,
    },
    /// A stop was begun.
    Stopping {
        /// Which run.
        instance: Instance,
        /// Who asked first.
        by: Origin,
        /// The longest it can take.
        longest: Duration,
    },
    /// A step of the stop began.
    Step {
        /// Which run.
        instance: Instance,
        /// What it does, in words.
        what: String,
        /// Its longest wait.
        wait: Duration,
    },
    /// A hook began, or is over.
    Hook {
        /// Which run.
        instance: Instance,
        /// Which hook, and its command.
        what: String,
        /// How long it took; of one that begins: the longest.
        took: Duration,
        /// How it went; none: it begins.
        outcome: Option<StepOutcome>,
    },
    /// A process of the tree survived SIGKILL so far (it hangs in the kernel).
    Unkillable {
        /// Which run.
        instance: Instance,
        /// How many processes.
        left: u32,
        /// Since the first KILL.
        since: Duration,
    },
    /// The instance is over, its tree is dead and reaped.
    Ended(Box<EndReport>),
    /// A health check failed: the first one, or one too many.
    Unhealthy {
        /// Which run.
        instance: Instance,
        /// Wrong answers in a row.
        failures: u32,
        /// So many are too many.
        of: u32,
        /// The last one.
        why: String,
    },
    /// A health check succeeded after some that had failed.
    Healthy {
        /// Which run.
        instance: Instance,
    },
    /// A oneshot has ended with success, and is done.
    Done {
        /// Which run.
        instance: Instance,
    },
    /// Its timer was to run it, and the run before is still under way.
    LeftOut {
        /// Which run that is.
        instance: Instance,
        /// How long it has run.
        ran: Duration,
    },
    /// It will be started again after a pause.
    Restarting {
        /// The pause.
        pause: Duration,
        /// Exits in a row that were not stable runs.
        failures: u32,
        /// It is in slow retry because of a crash loop.
        crash_loop: bool,
    },
    /// It will not be started again by itself.
    GivenUp {
        /// Why.
        why: String,
    },
    /// It is wanted up and waits for these services.
    Waiting {
        /// Their names.
        on: Vec<String>,
        /// Of these, the ones that are not to run: it waits until somebody starts them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unwanted: Vec<String>,
    },
    /// It waits, and cannot be started: what it requires has failed.
    Blocked {
        /// What, and how.
        why: String,
    },
    /// What it waited for was not there in time.
    WaitOver {
        /// What was missing.
        on: Vec<String>,
        /// How long it has waited.
        after: Duration,
        /// It is started all the same; else that start has failed.
        starts: bool,
    },
    /// A file that it watches changed, and something is done about it.
    FileChanged {
        /// Which.
        path: String,
    },
    /// A signal was sent because somebody asked for just that.
    Signalled {
        /// Which.
        signal: Signal,
        /// Who asked.
        by: Origin,
    },
    /// New connections are held back: there are too many.
    Limited {
        /// So many are open.
        connections: u32,
        /// More than this.
        high: u32,
    },
    /// New connections are let in again.
    Unlimited {
        /// So many are open.
        connections: u32,
        /// Less than this.
        low: u32,
    },
    /// New connections are held back, outside of a stop.
    Draining {
        /// Who asked.
        by: Origin,
    },
    /// They are held back no longer.
    Undrained {
        /// Who asked.
        by: Origin,
    },
    /// It was asked to reload.
    Reloading {
        /// Who asked.
        by: Origin,
    },
    /// A command of a step or of `reload` failed.
    ActionFailed {
        /// What went wrong.
        error: String,
    },
    /// A start goes on without something that is optional and not possible.
    Without {
        /// What it is, and why.
        error: SpawnError,
    },
    /// READY=1 of the service: it is ready, or ready again after a reload.
    Ready {
        /// Which run.
        instance: Instance,
    },
    /// RELOADING=1 of the service.
    SaysReloading {
        /// Which run.
        instance: Instance,
    },
    /// MAINPID= of the service: another process is the main one now.
    MainProcess {
        /// Which run.
        instance: Instance,
        /// The one before.
        before: Pid,
        /// The new one.
        pid: Pid,
    },
    /// MAINPID= of the service named a process that cannot be the main one.
    MainProcessRefused {
        /// Which run.
        instance: Instance,
        /// Which process.
        pid: Pid,
        /// Why.
        why: String,
    },
    /// STATUS= of the service.
    Status {
        /// Its words.
        text: String,
    },
}
