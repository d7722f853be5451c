//! What happens to a service, one by one.
//!
use std::time::Duration;

use super::{EndReport, Origin, SpawnError, StepOutcome};
use crate::json::{FromJson, ToJson};
use crate::machine::event::{Instance, Pid};
use crate::machine::signal::Signal;
use crate::machine::time::Span;

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
    /// The service says more of itself by sd_notify than is told.
    Talkative {
        /// No more is told for at most so many seconds.
        seconds: u64,
    },
    /// STATUS= of the service.
    Status {
        /// Its words.
        text: String,
    },
}
