//! What the machine hears and what it asks for.
//!
//! [`Event`]s are facts and wishes, [`Effect`]s are orders to the daemon, which
//! performs them and answers with further events. Nothing here does anything.
//!
//! Longer than a file should be: it is two lists.

use std::rc::Rc;
use std::time::Duration;

use super::files::{Print, Watched};
use super::hook::Call;
use super::memory::Memory;
use super::outlook::{Condition, WaitFor};
use super::ready::Probe;
use super::report::{Crash, Exit, Happening, Origin, SpawnError, Stuck, Verdict};
use super::signal::Signal;
use super::spec::{Drain, MaxConnections, Spec, To};
use super::timer::Clock;
use crate::json::{Fault, FromJson, Key, ToJson};

/// One configured service. Never used again for another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ToJson, FromJson)]
#[serde(transparent)]
pub struct ServiceId(pub u32);

impl Key for ServiceId {
    fn of_key(text: &str) -> Result<ServiceId, Fault> {
        u32::of_key(text).map(ServiceId)
    }
}

/// One run of a service, counted from 1 over the life of this superd. Events about an
/// instance that is no longer the current one are stale and change nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, ToJson, FromJson)]
#[serde(transparent)]
pub struct Instance(pub u32);

impl Instance {
    /// Whether it is a later run than the other one; numbers wrap round.
    pub fn is_after(self, other: Instance) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() > 0
    }
}

/// A process id, always greater than 1 (`superd` never signals 0, 1 or itself).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ToJson, FromJson)]
#[serde(transparent)]
pub struct Pid(pub i32);

/// Who waits for an answer: a client connection and the number of its request there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ToJson, FromJson)]
pub struct Ticket {
    /// Connection, never used again for another one.
    pub client: u64,
    /// Request, unique within the connection; chosen by the daemon, not by the client.
    pub request: u64,
}

/// One command, HTTP request or drain, so that its end is not taken for that of another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ToJson, FromJson)]
#[serde(transparent)]
pub struct ActionId(pub u64);

impl Key for ActionId {
    fn of_key(text: &str) -> Result<ActionId, Fault> {
        u64::of_key(text).map(ActionId)
    }
}

/// How an action went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Done: status 0, HTTP 2xx, no connection left.
    Done,
    /// It reached the service, which did not like it (status 1, HTTP 500, reply cut off).
    Unhappy(String),
    /// It never reached the service (no such command, connection refused).
    Impossible(String),
    /// superd could not even try (no descriptor, no memory, no such user): nothing is known of the
    /// service.
    NotTried(String),
}

/// What a request is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// One service.
    One(ServiceId),
    /// Every service, in the order that `after` and `requires` ask for.
    All,
}

/// What somebody wants done. "Now" (the escalation) is part of the verb because it
/// is the only thing that may move a deadline earlier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// want = up.
    Start,
    /// want = down, by the stop schedule.
    Stop,
    /// want = down, KILL of the tree at once.
    StopNow,
    /// End this instance by the schedule, then start the next one.
    Restart,
    /// End this instance by KILL, then start the next one.
    RestartNow,
    /// Ask the service to read its configuration again (its `reload` action).
    Reload,
    /// Send this signal to the main process and change nothing else.
    Signal(Signal),
    /// Hold back new connections of the present instance, and go on running.
    Drain,
    /// Hold them back no longer.
    Undrain,
}

/// Whether the asker wants the answer now or when it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Answer at once: accepted, joined, or refused.
    No,
    /// Answer when the goal is reached or can no longer be.
    Done,
}

/// A fact or a wish.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Services to begin with, or after a reload. `gone` are no longer configured:
    /// they are stopped by their schedule and then forgotten.
    Configure {
        /// New services and services whose definition changed.
        changed: Vec<(ServiceId, Rc<Spec>, Change)>,
        /// Services that are no longer in the configuration.
        gone: Vec<ServiceId>,
        /// Who asked.
        by: Origin,
    },
    /// An earlier superd has left this. Comes before the first `Configure`, once for each of
    /// its services; nothing is decided before that.
    Adopt(Box<Adopted>),
    /// Somebody asks for something. Exactly one [`Effect::Reply`] follows when there
    /// is a ticket, unless the client goes away first.
    Request {
        /// Where the answer goes; none when nobody can be answered (a signal).
        ticket: Option<Ticket>,
        /// About which service.
        target: Target,
        /// What.
        verb: Verb,
        /// When to answer.
        wait: Wait,
        /// Who.
        by: Origin,
    },
    /// The client hung up: nothing more is sent to its tickets.
    ClientGone(u64),
    /// superd itself is to end (SIGTERM, `superctl shutdown`; `force`: SIGQUIT, `--now`).
    Shutdown {
        /// KILL at once instead of the schedules.
        force: bool,
        /// Who.
        by: Origin,
        /// Further requests that the latch absorbed since the last event of this kind.
        absorbed: u32,
    },
    /// The fork happened; the child has not executed the program yet.
    Spawned(ServiceId, Instance, Pid),
    /// No process came into being (fork failed, or its cgroup or pipe could not be made).
    NotSpawned(ServiceId, Instance, SpawnError),
    /// execve(2) succeeded.
    Execed(ServiceId, Instance),
    /// The child could not become the program. Its exit follows.
    ExecFailed(ServiceId, Instance, SpawnError),
    /// The main process ended, and is reaped if it was a child of superd's (a process named
    /// by MAINPID= may have another parent). `left`: processes of the tree still alive.
    Exited {
        /// Which service.
        service: ServiceId,
        /// Which run of it.
        instance: Instance,
        /// How it ended.
        exit: Exit,
        /// What it said, if that looks like a crash.
        crash: Option<Crash>,
        /// Processes of the tree that were still alive when it was reaped. None: none was
        /// seen, but that proves nothing yet.
        left: Option<u32>,
    },
    /// Answer to [`Effect::NotePorts`]: how many there are.
    PortsNoted(ServiceId, Instance, u32),
    /// Answer to [`Effect::Check`]. There may be none when it cannot be told yet; whoever asked
    /// asks again when an orphan is reaped or after a pause.
    Checked(ServiceId, Instance, Check, Found),
    /// sd_notify(3) message of the service's own tree.
    Notified(ServiceId, Instance, Notice),
    /// The command, HTTP request, probe or drain with this number ended, or could not be begun.
    ActionEnded(ServiceId, Instance, ActionId, Outcome),
    /// So many connections are open: a drain has looked, or a limit was crossed.
    Connections(ServiceId, Instance, u32),
    /// The output contained the text of [`Effect::WatchOutput`].
    OutputMatched(ServiceId, Instance),
    /// Answer to [`Effect::Look`].
    Looked(ServiceId, Instance, Vec<Stuck>),
    /// Answer to [`Effect::LookOut`]: of what it waits for this is missing now. Comes in the same
    /// turn, and again when that changes.
    World(ServiceId, Vec<Condition>),
    /// What the clocks show: answer to [`Effect::ReadClock`], and whenever the wall clock was
    /// set or the machine comes out of suspend, while that is watched for.
    Clock(Rc<Clock>),
    /// Answer to [`Effect::WatchFiles`]: the state of each file now. Comes in the same turn, and
    /// again when that changes.
    Files(ServiceId, Vec<Print>),
    /// A process that is nobody's main process was reaped: some tree got smaller.
    OrphanReaped,
}

/// A service as an earlier superd has left it, and what of it was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Adopted {
    /// Its number here.
    pub service: ServiceId,
    /// Its definition there.
    pub spec: Rc<Spec>,
    /// What that superd knew of it.
    pub memory: Memory,
    /// What is there.
    pub found: Presence,
}

/// What is there of an instance that an earlier superd has started.
#[derive(Clone, PartialEq, Debug)]
pub enum Presence {
    /// Its main process runs, and is watched.
    Running(Pid),
    /// It does not.
    Gone {
        /// What it said, if that looks like a crash.
        crash: Option<Crash>,
        /// Processes of its tree that are alive, if that is known.
        left: Option<u32>,
    },
}

/// How a changed definition differs from the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Not known before.
    New,
    /// Only what superd does with it (stop, restart, order): takes effect in place.
    Policy,
    /// What is executed, or how: a running instance is replaced.
    Program,
}

/// A question about the present state of an instance; answered in the same turn of the loop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Check {
    /// Read the notify socket now; a STOPPING=1 found there is reported before this answer.
    Notify,
    /// How many listening sockets recorded by [`Effect::NotePorts`] are still open.
    Ports,
    /// How many processes of the tree are alive besides the main one.
    Descendants,
    /// How many processes of the tree are alive.
    Tree,
    /// How many processes of the service's commands are alive: of hooks, steps, probes. What
    /// a command that is over has left is KILLed.
    Commands,
}

/// Answer to a [`Check`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found(pub u32);

/// What a service says about itself (sd_notify(3)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// READY=1
    Ready,
    /// STOPPING=1
    Stopping,
    /// RELOADING=1
    Reloading,
    /// STATUS=...
    Status(String),
    /// WATCHDOG=1
    Watchdog,
    /// WATCHDOG=trigger
    WatchdogTrigger,
    /// EXTEND_TIMEOUT_USEC=: it needs so long from now on.
    Extend(Duration),
    /// MAINPID=: this process is the main one from now on. The daemon has checked that it
    /// is a process of the tree, and watches it.
    MainPid(Pid),
    /// MAINPID= of a process that cannot be the main one, and why.
    NotMain(Pid, String),
}

/// Something the daemon is to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Fork and execute. Answered by `Spawned` or `NotSpawned`.
    Spawn(ServiceId, Instance),
    /// Send a signal. Processes that are gone are no error.
    Signal(ServiceId, Instance, Signal, To),
    /// To those that have just been signalled and stand still (SIGSTOP, a frozen cgroup):
    /// let them run, so that they can do what the signal asks for.
    Wake(ServiceId, Instance, To),
    /// SIGKILL everything of the tree, main process included.
    KillTree(ServiceId, Instance),
    /// Remember the listening sockets the tree has now. Answered by `PortsNoted`.
    NotePorts(ServiceId, Instance),
    /// Run the command of a stop step or of `reload`. Answered by `ActionEnded`.
    Run(ServiceId, Instance, ActionId, Rc<[String]>),
    /// Run a service's checker: as `Run`, and the reason why it is not happy ends with what
    /// it said last. Its output goes nowhere else.
    Verify(ServiceId, Instance, ActionId, Rc<[String]>),
    /// Run a hook. Answered by `ActionEnded`.
    Hook(ServiceId, Instance, ActionId, Rc<Call>),
    /// Make the HTTP request of a stop step or of `reload`. Answered by `ActionEnded`.
    Http(ServiceId, Instance, ActionId, Rc<super::spec::Http>),
    /// Ask a question of `ready` or `health`. Answered by `ActionEnded`.
    Probe(ServiceId, Instance, ActionId, Rc<Probe>),
    /// A start is near: remember which file has this name now, if one has.
    NoteFile(ServiceId, Instance, Rc<str>),
    /// Hold back new connections. Answered by `ActionEnded` when none is open any more,
    /// or with the reason why this cannot be done here; until then by `Connections` whenever
    /// their number has changed. May come again for the same action, from the next superd.
    Drain(ServiceId, Instance, ActionId, Rc<Drain>),
    /// From now on report when more connections than `high` are open, and then when there are
    /// less than `low`, by `Connections`. None: no longer.
    Watch(ServiceId, Instance, Option<(MaxConnections, Rc<Drain>)>),
    /// Hold back new connections, and count none: that is watched already.
    Limit(ServiceId, Instance, Rc<Drain>),
    /// What held back new connections goes: filters off, also those of an earlier superd, and
    /// superd's copies of the sockets closed. In the end it comes before ports are looked at.
    LetGo(ServiceId, Instance),
    /// It is no longer needed: end the command or request if it still runs; a drain goes on
    /// to hold back, and counts no more.
    EndAction(ServiceId, Instance, ActionId),
    /// Report the first output line from now on that contains this text.
    WatchOutput(ServiceId, Instance, Rc<str>),
    /// Look at something. Answered by `Checked` with the same check.
    Check(ServiceId, Instance, Check),
    /// A KILL is near: see what the processes of the tree are at, a few of them. Answered by
    /// `Looked` in the same turn.
    Look(ServiceId, Instance),
    /// From now on tell, by `World`, what of this is missing. None: no longer.
    LookOut(ServiceId, Option<Rc<WaitFor>>),
    /// From now on tell, by `Clock`, when the wall clock was set. False: no longer.
    WatchClock(bool),
    /// Read the clocks and the time zone. Answered by `Clock` in the same turn.
    ReadClock,
    /// From now on tell, by `Files`, in which state these files are. None: no longer.
    WatchFiles(ServiceId, Option<Rc<Watched>>),
    /// The instance is over: tree empty, reaped. Its cgroup and sockets may be let go.
    Release(ServiceId, Instance),
    /// The service is no longer configured and gone.
    Forget(ServiceId),
    /// The answer to a request.
    Reply(Ticket, Answer),
    /// Something happened that history, subscribers and the log want to know.
    Publish(ServiceId, Happening),
    /// Everything is down and superd was asked to end.
    Finish,
}

impl Effect {
    /// Whether what the machine knows must be written down before this is done: its loss
    /// would be noticed, or doing it twice would be.
    pub fn weighs(&self) -> bool {
        match self {
            Effect::Spawn(..)
            | Effect::Signal(..)
            | Effect::KillTree(..)
            | Effect::Run(..)
            | Effect::Verify(..)
            | Effect::Hook(..)
            | Effect::Http(..)
            | Effect::Drain(..)
            | Effect::Limit(..)
            | Effect::EndAction(..)
            | Effect::Release(..)
            | Effect::Forget(_)
            | Effect::Reply(..) => true,
            Effect::Wake(..)
            | Effect::Probe(..)
            | Effect::NoteFile(..)
            | Effect::NotePorts(..)
            | Effect::WatchOutput(..)
            | Effect::Check(..)
            | Effect::Look(..)
            | Effect::LetGo(..)
            | Effect::Watch(..)
            | Effect::LookOut(..)
            | Effect::WatchClock(_)
            | Effect::ReadClock
            | Effect::WatchFiles(..)
            | Effect::Publish(..)
            | Effect::Finish => false,
        }
    }
}

/// The answer to a request.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Answer {
    /// Done: it is as it was asked for. A stop carries its verdict.
    Done(Option<Verdict>),
    /// A oneshot has ended with success.
    Finished,
    /// It is up anew, or has ended with success, and these are restarted with it.
    Along {
        /// It is a oneshot.
        finished: bool,
        /// Their names, in the order in which they go.
        names: Vec<Rc<str>>,
    },
    /// Nothing had to be done: it was so already.
    Already,
    /// Begun; the asker did not want to wait. `left`: the longest it can still take.
    Accepted {
        /// The request joined one that was under way already.
        joined: bool,
        /// Until the deadline of the whole stop, if it is a stop.
        left: Option<Duration>,
    },
    /// It was begun and did not succeed, or somebody else asked for the opposite meanwhile.
    Failed(String),
    /// It was not begun; the state makes it impossible.
    Refused(String),
    /// The worst of the answers about all services, and whose it is.
    Worst(Vec<Rc<str>>, Box<Answer>),
}
