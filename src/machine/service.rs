//! One service: want x state, and what every input does in every state.
//!
//! The table is what we argue about; [`Service::input`] is its transcript, matched
//! without a wildcard arm.
//!
//! | state \ input | `Start`   | `Halt`    | `Force`   | `Spawned`/`NotSpawned` | `Execed`/`ExecFailed` | `Exited`  | checks, notices, action ends | timeout          |
//! |---------------|-----------|-----------|-----------|------------------------|-----------------------|-----------|------------------------------|------------------|
//! | Down          | Starting  | -         | -         | -                      | -                     | -         | -                            | Down, due⁵       |
//! | Waiting       | Starting  | Down      | Down      | -                      | -                     | -         | -                            | time is up       |
//! | Starting      | -         | Stopping¹ | Killing¹  | pid / Backoff          | Up / remembered       | Sweeping² | STOPPING remembered; hook    | hook ends; late⁵ |
//! | Up            | -         | Stopping  | Killing   | -                      | -                     | Sweeping² | STOPPING remembered          | -                |
//! | Stopping      | -         | absorbed  | Killing   | -                      | remembered            | Sweeping² | step goes on or ends         | step ends        |
//! | Killing       | -         | absorbed  | absorbed  | -                      | remembered            | Sweeping² | -                            | KILL again       |
//! | Sweeping      | -         | absorbed  | KILL tree | -                      | -                     | -         | tree empty: hooks, over³     | KILL; look again |
//! | Backoff       | Starting  | Down      | Down      | -                      | -                     | -         | -                            | due⁴             |
//!
//! ¹ once the pid is known: an order to spawn has its answer in the same turn.
//! ² when nothing of the tree is left, straight on to ³.
//! ³ over: Down when it is not wanted, else what the restart policy says (Starting,
//!   Backoff, or Down). `Start` in a state that runs is decided above, in `supervisor`,
//!   by setting want: an instance that is going down ends first (never two).
//! In Up, a timeout ends a reload command, or a checker, that takes too long. A checker runs
//! before a reload and before a restart that somebody asks for: until it is happy nothing is
//! sent to the service, and nothing of the service ends. Whatever stops the service ends it. New connections may be held
//! back there, because somebody asked for a drain or there are too many: that is in the run
//! and changes no state.
//!
//! In Up, a service with `health` or `watchdog` that is not well is stopped like one that is not
//! ready in time.
//!
//! A service with `ready` stays in Starting after `Execed`: its message, its output, a probe's
//! answer or the time makes it Up. When it is not ready in time it is stopped by its schedule
//! (Stopping), and that counts as a failure: what follows ³ is for the restart policy.
//!
//! A oneshot stays there until its end. After a success it is Down and done: `supervisor` counts
//! it as up for those who require it.
//! A service with `pre-start` is in Starting before the fork, too, while that hook runs: when it
//! succeeds, and nothing of it is left, the order to fork follows; when it fails the start has
//! failed. A stop ends it at once, and leads to Sweeping. So does an attempt to start that came
//! to nothing, if a hook follows it: `on-crash` and `post-stop` belong to Sweeping, between the
//! last look at the ports and ³. `post-start` runs in Up, and ends with it.
//!
//! With `wait-for`, a service that has all the services it needs stays in Waiting until the world
//! is as it should be (`outlook`); a timeout there starts it all the same, or is a failed start
//! (Backoff or Down).
//!
//! With `watch`, a file that changes makes the supervisor restart or reload it, or try it again
//! (`files`): in Up, in Backoff, and Down when it has failed or is done.
//!
//! ⁴ `supervisor` looks whether everything that it requires is up, and gives it `Start`
//!   or lets it wait.
//! ⁵ a oneshot with `every` or `at` is as if it had never run, and what follows is as for ⁴; where
//!   it still runs, that is said, and nothing else follows (`timer`).
//!
//! What was seen of a stuck process (`Looked`) is remembered in Stopping, Killing and
//! Sweeping, for the report.
//!
//! MAINPID= replaces the pid in every state that has one, and changes nothing else: it is
//! that process whose exit is awaited from then on.
//!
//! `want` is the operator's word and survives every state; `pid` exists only in states
//! in which the process is not reaped.

use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::end::{End, Swept};
use super::event::{
    ActionId, Check, Effect, Found, Instance, Notice, Outcome, Pid, ServiceId, Ticket,
};
use super::files::Files;
use super::health::{self, Watch};
use super::hook::{Hook, HookRun, Kind};
use super::memory::LONGEST;
use super::outlook::Outlook;
use super::ready::{self, About, Await};
use super::report::{Crash, EndReport, Exit, Happening, Origin, SpawnError, Stage, Stuck, Verdict};
use super::restart::{How, Next, Record, Rng};
use super::spec::{Drain, Reload, Schedule, Spec, To};
use super::stop::{Course, Order, Scene, Stop};
use super::time::{Span, Tick};
use super::timer::{Clock, Covered};

/// The pause before a KILL that had no effect is sent again; doubles each time.
pub const KILL_AGAIN: Duration = Duration::from_secs(1);
/// The longest such pause.
pub const KILL_AGAIN_LONGEST: Duration = Duration::from_secs(60);

/// What an input may use besides the service itself.
pub struct Context<'a> {
    /// Where orders go.
    pub effects: &'a mut Vec<Effect>,
    /// Chance.
    pub rng: &'a mut Rng,
    /// The number of the last action.
    pub actions: &'a mut u64,
}

impl Context<'_> {
    /// Tell the world.
    pub fn publish(&mut self, id: ServiceId, what: Happening) {
        self.effects.push(Effect::Publish(id, what));
    }

    /// A number for an action, never used before.
    pub fn next_action(&mut self) -> ActionId {
        *self.actions += 1;
        ActionId(*self.actions)
    }
}

/// What the operator asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Want {
    /// It is to run.
    Up,
    /// It is not to run.
    Down,
}

/// Why nothing runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Rest {
    /// It was never started, or it was stopped.
    Stopped,
    /// It ended by itself and its policy is not to start it again.
    Finished,
    /// A oneshot that ended with success: what requires it may run.
    Done,
    /// A oneshot whose time of day has not come yet.
    Scheduled,
    /// It failed and its policy is not to start it again.
    Failed(String),
}

/// A running main process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Which run.
    pub instance: Instance,
    /// Its process; none until the fork is reported.
    pub pid: Option<Pid>,
    /// When the start began.
    pub began: Tick,
    /// How many times it has said STOPPING=1.
    pub stopping_seen: u32,
    /// It could not become its program; its exit is about to be reported.
    pub exec_error: Option<SpawnError>,
    /// What it has said of its readiness.
    pub ready: Readiness,
    /// The wait for it to be ready, until it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<Box<Await>>,
    /// The hook that is under way; before the fork it is `pre-start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Box<HookRun>>,
    /// One has been begun at some time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hooked: bool,
    /// It said RELOADING=1, and no READY=1 since.
    pub reloading: bool,
    /// The last MAINPID= that could not be followed, so that it is told once.
    pub refused: Option<Pid>,
    /// An earlier superd has started it.
    #[serde(default)]
    pub adopted: bool,
    /// New connections are held back, outside of a stop.
    #[serde(default)]
    pub drain: Option<Hold>,
    /// New connections are held back because there are too many.
    #[serde(default)]
    pub limited: bool,
    /// It was said that the next run is left out because this one takes so long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overdue: bool,
    /// New connections have been held back at some time, by this superd or, perhaps, an earlier one. Never taken
    /// back: a superd that is killed while it lets go leaves that to the next.
    #[serde(default)]
    pub filtered: bool,
}

/// New connections are held back because somebody asked for that.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hold {
    /// What counts the open ones; none: there are none any more.
    pub action: Option<ActionId>,
    /// What is held back.
    pub what: Rc<Drain>,
    /// Open connections at the last look.
    pub connections: Option<u32>,
}

impl Run {
    pub(super) fn new(instance: Instance, now: Tick) -> Run {
        Run {
            instance,
            pid: None,
            began: now,
            stopping_seen: 0,
            exec_error: None,
            ready: Readiness::NotTold,
            awaits: None,
            hook: None,
            hooked: false,
            reloading: false,
            refused: None,
            adopted: false,
            drain: None,
            limited: false,
            overdue: false,
            filtered: false,
        }
    }

    /// `pre-start` is under way, or what it has left: there is no order to fork yet.
    pub fn is_preparing(&self) -> bool {
        self.pid.is_none() && self.hook.is_some()
    }

    fn begin_hook(
        &mut self,
        kind: Kind,
        hook: &Hook,
        news: Vec<(&'static str, String)>,
        about: &mut About<'_, '_>,
    ) {
        self.hooked = true;
        self.hook = Some(HookRun::begin(kind, hook, news, about));
    }
}

/// What a service has said of its readiness (sd_notify(3)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Readiness {
    /// It has sent no message at all.
    NotTold,
    /// It has sent messages, but no READY=1.
    No,
    /// READY=1.
    Yes,
}

/// KILL was sent; the main process is not reaped yet.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Kill {
    /// When it was sent first.
    pub since: Tick,
    /// When it is sent again.
    pub next: Tick,
    /// The pause after that.
    pub pause: Duration,
}

impl Kill {
    /// KILL has just been sent.
    pub fn begin(now: Tick) -> Kill {
        Kill {
            since: now,
            next: now + KILL_AGAIN,
            pause: KILL_AGAIN,
        }
    }

    /// If it is time for another one: yes, and plan the next.
    pub fn is_due(&mut self, now: Tick) -> bool {
        if now < self.next {
            return false;
        }
        self.pause = (self.pause * 2).min(KILL_AGAIN_LONGEST);
        self.next = now + self.pause;
        true
    }
}

/// What is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum State {
    /// Nothing runs.
    Down(Rest),
    /// Wanted up; something it needs is not.
    Waiting,
    /// Forked or about to be; the program is not executing yet, or it is not ready yet.
    Starting(Run),
    /// The program runs, and is ready.
    Up(Run),
    /// The stop schedule is under way.
    Stopping(Run, Box<Stop>),
    /// KILL was sent to the tree.
    Killing(Run, Box<Stop>, Kill),
    /// The main process is reaped; the rest of the tree is cleared away.
    Sweeping(Box<End>),
    /// Nothing runs; the next start is planned.
    Backoff {
        /// When.
        until: Tick,
        /// It is the slow retry after a crash loop or a lasting error.
        slow: bool,
        /// Why the last start did not succeed, if it did not.
        error: Option<String>,
    },
}

/// Something that happens to one service.
#[derive(Debug)]
pub enum Input {
    /// Start now: it is wanted and what it needs is there.
    Start(Origin),
    /// Stop now: it is not wanted (any more) and nobody has to go first.
    Halt(Order),
    /// KILL now.
    Force(Order),
    /// The fork happened.
    Spawned(Pid),
    /// It did not.
    NotSpawned(SpawnError),
    /// execve succeeded.
    Execed,
    /// It did not; the exit follows.
    ExecFailed(SpawnError),
    /// The main process is reaped; so many of its tree are left, if that is known.
    Exited(Exit, Option<Crash>, Option<u32>),
    /// So many listening sockets were there when the stop began.
    PortsNoted(u32),
    /// A look has its answer.
    Checked(Check, Found),
    /// sd_notify.
    Notified(Notice),
    /// An action ended.
    ActionEnded(ActionId, Outcome),
    /// So many connections are open.
    Connections(u32),
    /// The awaited text was in the output.
    OutputMatched,
    /// What is stuck.
    Looked(Vec<Stuck>),
    /// Some tree got smaller.
    OrphanReaped,
    /// Time has passed.
    Timeout,
}

/// What the supervisor has to look at after an input.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Moved {
    /// The state changed in a way that others may wait for.
    pub state: bool,
    /// It is up: the program executes and is ready.
    pub up: bool,
    /// A start came to nothing, with the reason.
    pub start_failed: Option<String>,
    /// The instance is over, with its verdict; the supervisor decides what is next.
    pub over: Option<(Verdict, How)>,
    /// The reload action ended.
    pub reloaded: Option<Result<(), String>>,
    /// The checker before a restart ended: who had asked for the restart, or why it is not to be.
    pub verified: Option<Result<Origin, String>>,
    /// No connection is open any more, outside of a stop; or that cannot be seen.
    pub drained: Option<Result<(), String>>,
}

/// A command or request of `reload`, or a checker, that is under way. One at a time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReloadRun {
    /// Its number.
    pub action: ActionId,
    /// When it is killed.
    pub until: Tick,
    /// How long that is after its start.
    pub wait: Duration,
    /// What it is.
    #[serde(default)]
    pub what: Doing,
}

impl ReloadRun {
    /// Whether a restart waits for it.
    pub fn is_before_restart(&self) -> bool {
        matches!(self.what, Doing::CheckForRestart(_))
    }

    /// Whether it is a checker.
    pub fn is_check(&self) -> bool {
        match self.what {
            Doing::Reload => false,
            Doing::CheckForReload | Doing::CheckForRestart(_) => true,
        }
    }

    fn name(&self) -> &'static str {
        match self.is_check() {
            true => "`check`",
            false => "`reload`",
        }
    }
}

/// What a [`ReloadRun`] is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Doing {
    /// The reload itself.
    #[default]
    Reload,
    /// The checker; then the reload.
    CheckForReload,
    /// The checker; then the restart that this one has asked for.
    CheckForRestart(Origin),
}

/// Somebody who waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Waiter {
    /// Where the answer goes.
    pub ticket: Ticket,
    /// For what.
    pub goal: Goal,
}

impl Waiter {
    /// It waits for a next instance.
    pub fn wants_it_up(&self) -> bool {
        matches!(self.goal, Goal::UpAfter(_))
    }

    /// It waits for the end of a reload.
    pub fn wants_it_reloaded(&self) -> bool {
        matches!(self.goal, Goal::Reloaded)
    }

    /// It waits for the last connection.
    pub fn wants_it_drained(&self) -> bool {
        matches!(self.goal, Goal::Drained)
    }

    /// It waits for the end of an instance.
    pub fn wants_it_over(&self) -> bool {
        matches!(self.goal, Goal::Over(_))
    }
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Goal {
    /// This instance is over.
    Over(Instance),
    /// An instance after this one is up.
    UpAfter(Instance),
    /// The reload action ended.
    Reloaded,
    /// No connection is open any more.
    Drained,
}

/// One service.
#[derive(Debug)]
pub struct Service {
    /// Which.
    pub id: ServiceId,
    /// Its definition.
    pub spec: Rc<Spec>,
    /// What the operator asked for.
    pub want: Want,
    /// What is.
    pub state: State,
    /// Since when.
    pub since: Tick,
    /// The last run begun.
    pub instance: Instance,
    /// want, and everything it requires is to be up too; kept by the supervisor.
    pub target: bool,
    /// The present instance must go although the service is wanted (restart, change).
    pub cycle: bool,
    /// Who asked for the stop that is to come or under way.
    pub order: Option<Order>,
    /// Who asked for the next start.
    pub start_by: Origin,
    /// No longer configured.
    pub gone: bool,
    /// Automatic starts.
    pub restarts: u32,
    /// Earlier failures.
    pub record: Record,
    /// How the last instance ended.
    pub last: Option<(Exit, Verdict)>,
    /// The last STATUS=.
    pub says: String,
    /// The reload command that runs.
    pub reload: Option<ReloadRun>,
    /// When its timer runs it next.
    pub due: Option<Tick>,
    /// What is done with, of a timer by the wall clock.
    pub covered: Option<Covered>,
    /// That clock, as it was read last.
    pub clock: Option<Rc<Clock>>,
    /// While it waits for the world: what is known of that.
    pub outlook: Option<Outlook>,
    /// The watch over its health, while it is up.
    pub watch: Option<Box<Watch>>,
    /// Its files, while a change of them would mean something.
    pub files: Option<Box<Files>>,
    /// Who waits.
    pub waiters: Vec<Waiter>,
    /// Under which deadline the supervisor has it in its list.
    pub listed: Option<Tick>,
}

impl Service {
    /// A service that has never run.
    pub fn new(id: ServiceId, spec: Rc<Spec>, now: Tick) -> Service {
        Service {
            id,
            want: if spec.autostart { Want::Up } else { Want::Down },
            spec,
            state: State::Down(Rest::Stopped),
            since: now,
            instance: Instance(0),
            target: false,
            cycle: false,
            order: None,
            start_by: Origin::Config,
            gone: false,
            restarts: 0,
            record: Record::default(),
            last: None,
            says: String::new(),
            reload: None,
            due: None,
            covered: None,
            clock: None,
            outlook: None,
            watch: None,
            files: None,
            waiters: Vec::new(),
            listed: None,
        }
    }

    /// Whether the instance, if any, is this one.
    pub fn is_current(&self, instance: Instance) -> bool {
        instance == self.instance && !self.is_at_rest()
    }

    /// Nothing of it runs.
    pub fn is_at_rest(&self) -> bool {
        match self.state {
            State::Down(_) | State::Waiting | State::Backoff { .. } => true,
            State::Starting(_)
            | State::Up(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_) => false,
        }
    }

    /// An instance that was stopped in order is over, and the next one is to begin at once or
    /// has begun: who comes in between may be let wait for it.
    pub fn is_to_follow(&self) -> bool {
        let wanted = self.want == Want::Up && !self.gone && self.target;
        match &self.state {
            State::Sweeping(end) => wanted && end.stop.is_some(),
            State::Waiting => wanted,
            State::Starting(_) | State::Up(_) => true,
            State::Down(_) | State::Stopping(..) | State::Killing(..) | State::Backoff { .. } => {
                false
            }
        }
    }

    /// It runs and nobody has begun to stop it.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Starting(_) | State::Up(_))
    }

    /// Its main process, if it is not reaped.
    pub fn pid(&self) -> Option<Pid> {
        self.run().and_then(|run| run.pid)
    }

    /// The run whose main process is not reaped.
    pub fn run(&self) -> Option<&Run> {
        match &self.state {
            State::Starting(run) | State::Up(run) => Some(run),
            State::Stopping(run, _) | State::Killing(run, ..) => Some(run),
            State::Down(_) | State::Waiting | State::Sweeping(_) | State::Backoff { .. } => None,
        }
    }

    /// The stop under way.
    pub fn stop(&self) -> Option<&Stop> {
        match &self.state {
            State::Stopping(_, stop) | State::Killing(_, stop, _) => Some(stop),
            State::Sweeping(end) => end.stop.as_ref(),
            State::Down(_)
            | State::Waiting
            | State::Starting(_)
            | State::Up(_)
            | State::Backoff { .. } => None,
        }
    }

    /// When it wants to be woken, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Tick> {
        match &self.state {
            State::Down(_) => {
                let files = self.files_until();
                files.into_iter().chain(self.timer_due()).min()
            }
            State::Waiting => self.outlook_until(),
            State::Starting(run) => {
                let own = match run.is_preparing() {
                    true => run.hook.as_ref().map(|h| h.next_deadline()),
                    false => run.awaits.as_ref().and_then(|w| w.next_deadline()),
                };
                own.into_iter().chain(self.left_out_at()).min()
            }
            State::Up(run) => {
                let reload = self.reload.as_ref().map(|r| r.until);
                let watch = self.watch.as_ref().map(|w| w.next_deadline());
                let hook = run.hook.as_ref().map(|h| h.next_deadline());
                let all = reload
                    .into_iter()
                    .chain(watch)
                    .chain(hook)
                    .chain(self.files_until());
                all.min().filter(|at| *at < Tick::NEVER)
            }
            State::Stopping(_, stop) => stop.next_deadline(),
            State::Killing(_, _, kill) => Some(kill.next),
            State::Sweeping(end) => end.next_deadline(),
            State::Backoff { until, .. } => {
                let files = self.files_until();
                Some(files.map_or(*until, |at| at.min(*until)))
            }
        }
    }

    /// Goes to a state and says so by `Moved::state`.
    pub fn enter(&mut self, state: State, now: Tick) -> Moved {
        self.state = state;
        self.since = now;
        Moved {
            state: true,
            ..Moved::default()
        }
    }

    /// The transcript of the table at the head of this file.
    pub fn input(&mut self, now: Tick, input: Input, cx: &mut Context<'_>) -> Moved {
        if self.run().is_some_and(Run::is_preparing) {
            return self.prepare(now, input, cx);
        }
        match (&mut self.state, input) {
            (State::Down(_) | State::Waiting | State::Backoff { .. }, Input::Start(by)) => {
                self.begin_start(by, now, cx)
            }
            (
                State::Starting(_)
                | State::Up(_)
                | State::Stopping(..)
                | State::Killing(..)
                | State::Sweeping(_),
                Input::Start(_),
            ) => Moved::default(),

            (State::Waiting | State::Backoff { .. }, Input::Halt(_) | Input::Force(_)) => {
                self.order = None;
                self.enter(State::Down(Rest::Stopped), now)
            }
            (State::Down(_), Input::Halt(_) | Input::Force(_)) => Moved::default(),
            (State::Starting(run), Input::Halt(_) | Input::Force(_)) if run.pid.is_none() => {
                Moved::default()
            }
            (State::Starting(_) | State::Up(_), Input::Halt(order)) => {
                self.begin_stop(order, now, cx)
            }
            (State::Starting(_) | State::Up(_), Input::Force(order)) => {
                self.begin_kill(order, now, cx)
            }
            (State::Stopping(..) | State::Killing(..) | State::Sweeping(_), Input::Halt(_)) => {
                Moved::default()
            }
            (State::Stopping(..), Input::Force(_)) => self.cut_short(now, cx),
            (State::Killing(..), Input::Force(_)) => Moved::default(),
            (State::Sweeping(end), Input::Force(_)) => {
                end.force(self.id, now, cx);
                Moved::default()
            }

            (State::Starting(run), Input::Spawned(pid)) => {
                run.pid = Some(pid);
                Moved {
                    state: true,
                    ..Moved::default()
                }
            }
            (State::Starting(run), Input::NotSpawned(error)) if run.pid.is_none() => {
                self.never_ran(error, now, cx)
            }
            (
                State::Down(_)
                | State::Waiting
                | State::Starting(_)
                | State::Up(_)
                | State::Stopping(..)
                | State::Killing(..)
                | State::Sweeping(_)
                | State::Backoff { .. },
                Input::Spawned(_) | Input::NotSpawned(_),
            ) => Moved::default(),

            (State::Starting(_), Input::Execed) => self.executes(now, cx),
            (
                State::Starting(run)
                | State::Up(run)
                | State::Stopping(run, _)
                | State::Killing(run, ..),
                Input::ExecFailed(error),
            ) => {
                run.exec_error = Some(error);
                Moved::default()
            }
            (
                State::Down(_)
                | State::Waiting
                | State::Up(_)
                | State::Stopping(..)
                | State::Killing(..)
                | State::Sweeping(_)
                | State::Backoff { .. },
                Input::Execed,
            ) => Moved::default(),
            (
                State::Down(_) | State::Waiting | State::Sweeping(_) | State::Backoff { .. },
                Input::ExecFailed(_),
            ) => Moved::default(),

            (
                State::Starting(_) | State::Up(_) | State::Stopping(..) | State::Killing(..),
                Input::Exited(exit, crash, left),
            ) => self.sweep(exit, crash, left, now, cx),
            (
                State::Down(_) | State::Waiting | State::Sweeping(_) | State::Backoff { .. },
                Input::Exited(..),
            ) => Moved::default(),

            (State::Stopping(_, stop), Input::PortsNoted(n)) => {
                stop.ports = Some(n);
                Moved::default()
            }
            (
                State::Down(_)
                | State::Waiting
                | State::Starting(_)
                | State::Up(_)
                | State::Killing(..)
                | State::Sweeping(_)
                | State::Backoff { .. },
                Input::PortsNoted(_),
            ) => Moved::default(),

            (State::Sweeping(end), Input::Checked(check, found)) => {
                let swept = end.checked(self.id, check, found.0, now, cx);
                self.after_sweep(swept, now, cx)
            }
            (State::Stopping(..), Input::Checked(check, found)) => {
                self.in_stop(now, cx, |stop, scene| match check {
                    Check::Notify => stop.looked(scene),
                    Check::Ports | Check::Descendants | Check::Tree | Check::Commands => {
                        stop.checked(check, found.0, scene)
                    }
                })
            }
            (
                State::Down(_)
                | State::Waiting
                | State::Starting(_)
                | State::Up(_)
                | State::Killing(..)
                | State::Backoff { .. },
                Input::Checked(..),
            ) => Moved::default(),

            (
                State::Starting(_) | State::Up(_) | State::Stopping(..) | State::Killing(..),
                Input::Notified(notice),
            ) => self.hear(notice, now, cx),
            (
                State::Down(_) | State::Waiting | State::Sweeping(_) | State::Backoff { .. },
                Input::Notified(_),
            ) => Moved::default(),

            (State::Starting(_), Input::ActionEnded(action, outcome)) => {
                self.in_wait(now, cx, |wait, about| {
                    wait.action_ended(action, outcome, about)
                })
            }
            (State::Up(run), Input::ActionEnded(action, outcome)) => {
                let drain = run.drain.as_ref().and_then(|hold| hold.action);
                let reload = self.reload.as_ref().map(|r| r.action);
                let hook = run.hook.as_ref().and_then(|h| h.action());
                if hook == Some(action) {
                    self.with_hook(now, cx, |hook, about| {
                        hook.action_ended(action, &outcome, about);
                    });
                    self.end_post_start();
                    Moved::default()
                } else if drain == Some(action) {
                    self.drain_ended(outcome, cx)
                } else if reload == Some(action) {
                    self.reload_ended(outcome, now, cx)
                } else {
                    self.in_watch(now, cx, |watch, about| {
                        watch.action_ended(action, outcome, about)
                    })
                }
            }
            (State::Stopping(..), Input::ActionEnded(action, outcome)) => {
                self.in_stop(now, cx, |stop, scene| {
                    stop.action_ended(action, outcome, scene)
                })
            }
            (State::Sweeping(end), Input::ActionEnded(action, outcome)) => {
                let instance = end.run.instance;
                let mut about = About {
                    now,
                    id: self.id,
                    instance,
                    cx,
                };
                end.action_ended(action, &outcome, &mut about);
                Moved::default()
            }
            (
                State::Down(_) | State::Waiting | State::Killing(..) | State::Backoff { .. },
                Input::ActionEnded(..),
            ) => Moved::default(),

            (State::Stopping(_, stop), Input::Connections(n)) => {
                stop.counted(n);
                Moved::default()
            }
            (State::Up(_), Input::Connections(n)) => {
                self.connections(n, cx);
                Moved::default()
            }
            (
                State::Down(_)
                | State::Waiting
                | State::Starting(_)
                | State::Killing(..)
                | State::Sweeping(_)
                | State::Backoff { .. },
                Input::Connections(_),
            ) => Moved::default(),

            (State::Starting(_), Input::OutputMatched) => {
                self.in_wait(now, cx, |wait, about| wait.output_matched(about))
            }
            (State::Stopping(..), Input::OutputMatched) => {
                self.in_stop(now, cx, |stop, scene| stop.output_matched(scene))
            }
            (
                State::Down(_)
                | State::Waiting
                | State::Up(_)
                | State::Killing(..)
                | State::Sweeping(_)
                | State::Backoff { .. },
                Input::OutputMatched,
            ) => Moved::default(),

            (State::Stopping(_, stop) | State::Killing(_, stop, _), Input::Looked(stuck)) => {
                stop.stuck = stuck;
                Moved::default()
            }
            (State::Sweeping(end), Input::Looked(stuck)) => {
                end.looked(stuck);
                Moved::default()
            }
            (
                State::Down(_)
                | State::Waiting
                | State::Starting(_)
                | State::Up(_)
                | State::Backoff { .. },
                Input::Looked(_),
            ) => Moved::default(),

            (State::Stopping(..), Input::OrphanReaped) => self.in_stop(now, cx, |stop, scene| {
                stop.tree_shrank(scene);
                Course::GoesOn
            }),
            (State::Sweeping(end), Input::OrphanReaped) => {
                end.tree_shrank(self.id, cx);
                Moved::default()
            }
            (
                State::Down(_)
                | State::Waiting
                | State::Starting(_)
                | State::Up(_)
                | State::Killing(..)
                | State::Backoff { .. },
                Input::OrphanReaped,
            ) => Moved::default(),

            (State::Stopping(..), Input::Timeout) => {
                self.in_stop(now, cx, |stop, scene| stop.timeout(scene))
            }
            (State::Killing(..), Input::Timeout) => self.kill_again(now, cx),
            (State::Sweeping(end), Input::Timeout) => {
                let swept = end.timeout(self.id, now, cx);
                self.after_sweep(swept, now, cx)
            }
            (State::Backoff { until, .. }, Input::Timeout) => {
                // The start is the supervisor's to give: what is required may be away.
                let due = now >= *until;
                Moved {
                    state: due,
                    ..Moved::default()
                }
            }
            (State::Up(_), Input::Timeout) => {
                self.with_hook(now, cx, HookRun::timeout);
                self.end_post_start();
                let mut moved = self.in_watch(now, cx, Watch::timeout);
                let late = self.reload_timeout(now, cx);
                moved.reloaded = late.reloaded;
                moved.verified = late.verified;
                moved
            }
            (State::Starting(run), Input::Timeout) => {
                let adopted = run.adopted;
                self.leave_out(now, cx);
                self.in_wait(now, cx, |wait, about| wait.timeout(adopted, about))
            }
            (State::Waiting, Input::Timeout) => self.outlook_timeout(now, cx),
            (State::Down(_), Input::Timeout) => self.timer_timeout(now, cx),
        }
    }

    /// Starting, while `pre-start` is under way: of the program there is nothing yet.
    fn prepare(&mut self, now: Tick, input: Input, cx: &mut Context<'_>) -> Moved {
        match input {
            Input::Halt(order) | Input::Force(order) => return self.abandon(order, now, cx),
            Input::Checked(Check::Commands, found) => {
                let hook = self.run().and_then(|run| run.hook.as_ref());
                if hook.is_some_and(|h| h.is_done(found.0)) {
                    return self.prepared(now, cx);
                }
            }
            Input::ActionEnded(action, outcome) => self.with_hook(now, cx, |hook, about| {
                hook.action_ended(action, &outcome, about);
            }),
            Input::OrphanReaped => {
                self.with_hook(now, cx, |hook, about| hook.tree_shrank(about));
            }
            Input::Timeout => {
                self.leave_out(now, cx);
                self.with_hook(now, cx, HookRun::timeout);
            }
            Input::Start(_)
            | Input::Spawned(_)
            | Input::NotSpawned(_)
            | Input::Execed
            | Input::ExecFailed(_)
            | Input::Exited(..)
            | Input::PortsNoted(_)
            | Input::Checked(..)
            | Input::Notified(_)
            | Input::Connections(_)
            | Input::OutputMatched
            | Input::Looked(_) => {}
        }
        Moved::default()
    }

    fn begin_start(&mut self, by: Origin, now: Tick, cx: &mut Context<'_>) -> Moved {
        if self.instance == Instance(0) && !self.is_of_day() {
            // The first start is what the next ones are counted from.
            self.due = None;
        }
        self.instance = Instance(self.instance.0.wrapping_add(1).max(1));
        if by == Origin::Policy {
            self.restarts = self.restarts.saturating_add(1);
        }
        self.says.clear();
        self.keep_step(now);
        self.order = None;
        self.cycle = false;
        let (id, instance) = (self.id, self.instance);
        cx.publish(id, Happening::Starting { instance, by });
        let mut run = Run::new(instance, now);
        run.awaits = self.spec.ready.clone().map(|r| Box::new(Await::new(r)));
        self.renew_files(cx.effects);
        let mut about = About {
            now,
            id,
            instance,
            cx,
        };
        let hooks = self.spec.hooks.as_ref();
        match hooks.and_then(|h| h.pre_start.as_ref()) {
            Some(hook) => run.begin_hook(Kind::PreStart, hook, Vec::new(), &mut about),
            None => order_to_fork(&run, &mut about),
        }
        self.enter(State::Starting(run), now)
    }

    /// `pre-start` is done, and nothing of it is left.
    fn prepared(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        let (id, instance) = (self.id, self.instance);
        let State::Starting(run) = &mut self.state else {
            return Moved::default();
        };
        let fault = run.hook.take().and_then(|hook| hook.fault());
        if let Some(error) = fault {
            return self.never_ran(error, now, cx);
        }
        run.began = now;
        // It may have written them.
        self.renew_files(cx.effects);
        let ready = self.spec.ready.clone();
        let State::Starting(run) = &mut self.state else {
            return Moved::default();
        };
        // A reload may have come meanwhile, and what is forked now is of the new kind.
        run.awaits = ready.map(|r| Box::new(Await::new(r)));
        let mut about = About {
            now,
            id,
            instance,
            cx,
        };
        order_to_fork(run, &mut about);
        let run = run.clone();
        self.enter(State::Starting(run), now)
    }

    /// A stop comes while `pre-start` is under way: it is killed, and nothing is started.
    fn abandon(&mut self, order: Order, now: Tick, cx: &mut Context<'_>) -> Moved {
        let id = self.id;
        let after = self.spec.stop.after;
        let Some((mut run, _, _)) = self.take_run() else {
            return Moved::default();
        };
        let instance = run.instance;
        let stop = begin_without_steps(order, Duration::ZERO, after, &run, id, now, cx);
        let hook = run.hook.take();
        let mut end = End::of_nothing(run, Some(stop), now);
        if let Some(mut hook) = hook {
            hook.cut_short(&mut About {
                now,
                id,
                instance,
                cx,
            });
            end.note_hook(&hook, now);
        }
        let moved = self.enter(State::Sweeping(Box::new(end)), now);
        self.swept(moved, Swept::Clean, now, cx)
    }

    /// Lets the hook that is under way do something.
    fn with_hook(
        &mut self,
        now: Tick,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut HookRun, &mut About<'_, '_>),
    ) {
        let (id, instance) = (self.id, self.instance);
        let (State::Starting(run) | State::Up(run)) = &mut self.state else {
            return;
        };
        if let Some(hook) = &mut run.hook {
            act(
                hook,
                &mut About {
                    now,
                    id,
                    instance,
                    cx,
                },
            );
        }
    }

    /// What `post-start` has left behind is dead before the end of the instance; nobody waits
    /// for that now.
    fn end_post_start(&mut self) {
        if let State::Up(run) = &mut self.state {
            run.hook.take_if(|hook| hook.action().is_none());
        }
    }

    pub(super) fn begin_post_start(&mut self, now: Tick, cx: &mut Context<'_>) {
        let (id, instance) = (self.id, self.instance);
        let hooks = self.spec.hooks.clone();
        let Some(hook) = hooks.as_ref().and_then(|h| h.post_start.as_ref()) else {
            return;
        };
        if let State::Up(run) = &mut self.state {
            let mut about = About {
                now,
                id,
                instance,
                cx,
            };
            run.begin_hook(Kind::PostStart, hook, Vec::new(), &mut about);
        }
    }

    fn never_ran(&mut self, error: SpawnError, now: Tick, cx: &mut Context<'_>) -> Moved {
        if let State::Starting(run) = &mut self.state {
            let hooks = self.spec.hooks.as_ref();
            if run.hooked || hooks.is_some_and(|h| h.post_stop.is_some()) {
                run.exec_error = Some(error);
                let end = End::of_nothing(run.clone(), None, now);
                let moved = self.enter(State::Sweeping(Box::new(end)), now);
                return self.swept(moved, Swept::Clean, now, cx);
            }
        }
        let how = match error.is_passing() {
            true => How::PassingSpawnError,
            false => How::LastingSpawnError,
        };
        let text = error.to_string();
        let happening = Happening::StartFailed {
            instance: self.instance,
            error,
        };
        cx.publish(self.id, happening);
        cx.effects.push(Effect::Release(self.id, self.instance));
        let error = Some(text.clone());
        let mut moved = self.decide_next(how, Duration::ZERO, error, false, now, cx);
        moved.start_failed = Some(text);
        moved
    }

    /// The program executes: it is up, or waited for.
    fn executes(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        let State::Starting(run) = &self.state else {
            return Moved::default();
        };
        let Some(wait) = run.awaits.as_ref().filter(|w| !w.executing) else {
            return match run.awaits {
                None => self.become_up(now, cx),
                Some(_) => Moved::default(),
            };
        };
        if let Some(pid) = run.pid {
            let happening = Happening::Executing {
                instance: run.instance,
                pid,
                awaited: wait.ready.sign.to_string(),
            };
            cx.publish(self.id, happening);
        }
        self.in_wait(now, cx, Await::execed)
    }

    /// Lets the wait for its readiness do something; when it is over, Up or the stop of what
    /// is not fit.
    pub(super) fn in_wait(
        &mut self,
        now: Tick,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Await, &mut About<'_, '_>) -> ready::Course,
    ) -> Moved {
        let (id, instance) = (self.id, self.instance);
        let State::Starting(run) = &mut self.state else {
            return Moved::default();
        };
        let Some(wait) = &mut run.awaits else {
            return Moved::default();
        };
        let mut about = About {
            now,
            id,
            instance,
            cx,
        };
        match act(wait, &mut about) {
            ready::Course::GoesOn => Moved::default(),
            ready::Course::Ready => self.become_up(now, cx),
            ready::Course::TimeIsUp(why) => {
                let by = Origin::Unfit { why: why.clone() };
                let mut order = Order::new(by, now);
                order.unready = true;
                let mut moved = self.begin_stop(order, now, cx);
                moved.start_failed = Some(why);
                moved
            }
        }
    }

    fn become_up(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        let State::Starting(run) = &self.state else {
            return Moved::default();
        };
        let mut run = run.clone();
        run.awaits = None;
        if let Some(pid) = run.pid {
            cx.publish(
                self.id,
                Happening::Up {
                    instance: run.instance,
                    pid,
                },
            );
        }
        self.watch = Watch::begin(&self.spec, now);
        let mut moved = self.enter(State::Up(run), now);
        if self.spec.max_connections.is_some() {
            self.watch(cx.effects);
        }
        self.begin_post_start(now, cx);
        moved.up = true;
        moved
    }

    /// Its definition changed, or another superd has taken it over: the watch begins anew.
    pub(super) fn renew_watch(&mut self, now: Tick, cx: &mut Context<'_>) {
        self.end_watch(now, cx);
        if matches!(self.state, State::Up(_)) {
            self.watch = Watch::begin(&self.spec, now);
        }
    }

    fn end_watch(&mut self, now: Tick, cx: &mut Context<'_>) {
        let (id, instance) = (self.id, self.instance);
        if let Some(mut watch) = self.watch.take() {
            watch.end(&mut About {
                now,
                id,
                instance,
                cx,
            });
        }
    }

    /// Lets the watch do something; when the service is not well, it is stopped.
    fn in_watch(
        &mut self,
        now: Tick,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Watch, &mut About<'_, '_>) -> health::Course,
    ) -> Moved {
        let (id, instance) = (self.id, self.instance);
        let (State::Up(_), Some(watch)) = (&self.state, &mut self.watch) else {
            return Moved::default();
        };
        let mut about = About {
            now,
            id,
            instance,
            cx,
        };
        match act(watch, &mut about) {
            health::Course::GoesOn => Moved::default(),
            health::Course::Unfit { why, stay } => {
                let mut order = Order::new(Origin::Unfit { why }, now);
                order.stay = stay;
                self.begin_stop(order, now, cx)
            }
        }
    }

    fn take_run(&mut self) -> Option<(Run, Option<Box<Stop>>, bool)> {
        match std::mem::replace(&mut self.state, State::Waiting) {
            State::Starting(run) | State::Up(run) => Some((run, None, false)),
            State::Stopping(run, stop) => Some((run, Some(stop), false)),
            State::Killing(run, stop, _) => Some((run, Some(stop), true)),
            other @ (State::Down(_)
            | State::Waiting
            | State::Sweeping(_)
            | State::Backoff { .. }) => {
                self.state = other;
                None
            }
        }
    }

    fn begin_stop(&mut self, order: Order, now: Tick, cx: &mut Context<'_>) -> Moved {
        if self.spec.stop.steps.is_empty() {
            // `config` refuses that; should one reach this place, it must not hang.
            return self.begin_kill(order, now, cx);
        }
        self.end_own_actions(now, cx);
        let schedule = self.spec.stop.clone();
        let Some((run, _, _)) = self.take_run() else {
            return Moved::default();
        };
        let mut scene = Scene {
            now,
            id: self.id,
            instance: run.instance,
            says_stopping: run.stopping_seen > 0,
            cx,
        };
        let stop = Stop::begin(order, schedule, &mut scene);
        self.enter(State::Stopping(run, Box::new(stop)), now)
    }

    fn begin_kill(&mut self, order: Order, now: Tick, cx: &mut Context<'_>) -> Moved {
        self.end_own_actions(now, cx);
        let Schedule {
            leftover_grace: grace,
            after,
            ..
        } = *self.spec.stop;
        let Some((run, _, _)) = self.take_run() else {
            return Moved::default();
        };
        let stop = begin_without_steps(order, grace, after, &run, self.id, now, cx);
        self.kill(run, Box::new(stop), now, cx)
    }

    fn cut_short(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        let Some((run, Some(mut stop), _)) = self.take_run() else {
            return Moved::default();
        };
        let mut scene = Scene {
            now,
            id: self.id,
            instance: run.instance,
            says_stopping: run.stopping_seen > 0,
            cx,
        };
        stop.look(&mut scene);
        stop.force(&mut scene);
        self.kill(run, stop, now, cx)
    }

    fn kill(&mut self, run: Run, mut stop: Box<Stop>, now: Tick, cx: &mut Context<'_>) -> Moved {
        stop.killed = true;
        let what = "KILL to the tree".to_owned();
        let happening = Happening::Step {
            instance: run.instance,
            what,
            wait: KILL_AGAIN,
        };
        // First the deed: to say it takes time.
        cx.effects.push(Effect::KillTree(self.id, run.instance));
        cx.publish(self.id, happening);
        self.enter(State::Killing(run, stop, Kill::begin(now)), now)
    }

    fn kill_again(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        if let State::Killing(run, _, kill) = &mut self.state {
            if kill.is_due(now) {
                cx.effects.push(Effect::KillTree(self.id, run.instance));
                let since = now - kill.since;
                let happening = Happening::Unkillable {
                    instance: run.instance,
                    left: 1,
                    since,
                };
                cx.publish(self.id, happening);
            }
        }
        Moved::default()
    }

    /// Lets the stop under way do something; when no step is left, KILL.
    fn in_stop(
        &mut self,
        now: Tick,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Stop, &mut Scene<'_, '_>) -> Course,
    ) -> Moved {
        let id = self.id;
        let State::Stopping(run, stop) = &mut self.state else {
            return Moved::default();
        };
        let mut scene = Scene {
            now,
            id,
            instance: run.instance,
            says_stopping: run.stopping_seen > 0,
            cx,
        };
        match act(stop, &mut scene) {
            Course::GoesOn => Moved::default(),
            Course::Exhausted => {
                // At a deadline this was done before it. Here no deadline is near.
                stop.look(&mut scene);
                match self.take_run() {
                    Some((run, Some(stop), _)) => self.kill(run, stop, now, cx),
                    Some(_) | None => Moved::default(),
                }
            }
        }
    }

    fn hear(&mut self, notice: Notice, now: Tick, cx: &mut Context<'_>) -> Moved {
        let (State::Starting(run)
        | State::Up(run)
        | State::Stopping(run, _)
        | State::Killing(run, ..)) = &mut self.state
        else {
            return Moved::default();
        };
        if run.ready == Readiness::NotTold {
            run.ready = Readiness::No;
        }
        let instance = run.instance;
        match notice {
            Notice::Stopping => {
                run.stopping_seen = run.stopping_seen.saturating_add(1);
                match self.state {
                    State::Stopping(..) => self.in_stop(now, cx, Stop::said_stopping),
                    State::Starting(_)
                    | State::Up(_)
                    | State::Killing(..)
                    | State::Down(_)
                    | State::Waiting
                    | State::Sweeping(_)
                    | State::Backoff { .. } => Moved::default(),
                }
            }
            Notice::Status(text) => {
                if self.says != text {
                    cx.publish(self.id, Happening::Status { text: text.clone() });
                    self.says = text;
                }
                Moved::default()
            }
            Notice::Ready => {
                let news = run.ready != Readiness::Yes || run.reloading;
                run.ready = Readiness::Yes;
                run.reloading = false;
                if news {
                    cx.publish(self.id, Happening::Ready { instance });
                }
                self.in_wait(now, cx, Await::said_ready)
            }
            Notice::Watchdog => {
                if let Some(watch) = &mut self.watch {
                    watch.pinged(now);
                }
                Moved::default()
            }
            Notice::WatchdogTrigger => self.in_watch(now, cx, |watch, _| watch.gave_up()),
            Notice::Extend(by) => {
                if let (State::Starting(run), true) = (&mut self.state, by <= LONGEST) {
                    if let Some(wait) = &mut run.awaits {
                        wait.extend(by, now);
                    }
                }
                Moved::default()
            }
            Notice::Reloading => {
                if !std::mem::replace(&mut run.reloading, true) {
                    cx.publish(self.id, Happening::SaysReloading { instance });
                }
                Moved::default()
            }
            // What a step has sent to the one before is not sent again to this one.
            Notice::MainPid(pid) => {
                if let Some(before) = run.pid.filter(|before| *before != pid) {
                    run.pid = Some(pid);
                    run.refused = None;
                    let happening = Happening::MainProcess {
                        instance,
                        before,
                        pid,
                    };
                    cx.publish(self.id, happening);
                }
                Moved::default()
            }
            Notice::NotMain(pid, why) => {
                if run.refused.replace(pid) != Some(pid) {
                    let happening = Happening::MainProcessRefused { instance, pid, why };
                    cx.publish(self.id, happening);
                }
                Moved::default()
            }
        }
    }

    /// Whether its checker is to be asked before a restart: it runs well, and nothing else is
    /// about to end it.
    pub(super) fn asks_before_restart(&self) -> bool {
        self.spec.check.is_some() && self.is_well()
    }

    /// It is up, and nothing is about to end it.
    pub(super) fn is_well(&self) -> bool {
        let stays = self.want == Want::Up && self.target && !self.is_going();
        stays && matches!(self.state, State::Up(_))
    }

    /// It is up, and a stop of it has been ordered.
    pub(super) fn is_going(&self) -> bool {
        self.cycle || self.order.is_some()
    }

    /// Asks the checker, if there is one; `what` says what for.
    pub(super) fn begin_check(&mut self, what: Doing, now: Tick, cx: &mut Context<'_>) {
        let Some(check) = self.spec.check.clone() else {
            return;
        };
        let (id, instance) = (self.id, self.instance);
        let action = self.begin_doing(what, check.wait, now, cx);
        cx.effects
            .push(Effect::Verify(id, instance, action, check.argv));
    }

    /// Reloads. True when that was all.
    pub(super) fn begin_reload(&mut self, now: Tick, cx: &mut Context<'_>) -> bool {
        let (id, instance) = (self.id, self.instance);
        // What it reads now is what is there.
        if let Some(files) = &mut self.files {
            files.settled();
        }
        match self.spec.reload.clone() {
            Some(Reload::Signal(signal)) => {
                cx.effects
                    .push(Effect::Signal(id, instance, signal, To::Main));
                true
            }
            Some(Reload::Run(argv, wait)) => {
                let action = self.begin_doing(Doing::Reload, wait, now, cx);
                cx.effects.push(Effect::Run(id, instance, action, argv));
                false
            }
            Some(Reload::Http(http, wait)) => {
                let action = self.begin_doing(Doing::Reload, wait, now, cx);
                cx.effects.push(Effect::Http(id, instance, action, http));
                false
            }
            None => true,
        }
    }

    fn begin_doing(
        &mut self,
        what: Doing,
        wait: Duration,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> ActionId {
        self.end_reload(cx);
        let action = cx.next_action();
        self.reload = Some(ReloadRun {
            action,
            until: now + wait,
            wait,
            what,
        });
        action
    }

    fn reload_ended(&mut self, outcome: Outcome, now: Tick, cx: &mut Context<'_>) -> Moved {
        let Some(run) = self.reload.take() else {
            return Moved::default();
        };
        let error = match outcome {
            Outcome::Done => None,
            Outcome::Unhappy(error) | Outcome::Impossible(error) => Some(error),
        };
        match (run.what.clone(), error) {
            (_, Some(error)) => self.reload_failed(&run, error, cx),
            (Doing::Reload, None) => Moved {
                reloaded: Some(Ok(())),
                ..Moved::default()
            },
            // The stop has not begun, because others go first.
            (Doing::CheckForReload, None) if self.is_going() => Moved {
                reloaded: Some(Err("it is being stopped".to_owned())),
                ..Moved::default()
            },
            (Doing::CheckForReload, None) => Moved {
                reloaded: self.begin_reload(now, cx).then_some(Ok(())),
                ..Moved::default()
            },
            (Doing::CheckForRestart(by), None) => Moved {
                verified: Some(Ok(by)),
                ..Moved::default()
            },
        }
    }

    /// Nothing comes of it; the service runs on as it is.
    fn reload_failed(&mut self, run: &ReloadRun, error: String, cx: &mut Context<'_>) -> Moved {
        let error = match run.is_check() {
            true => format!("{}: {error}", run.name()),
            false => error,
        };
        let happening = Happening::ActionFailed {
            error: error.clone(),
        };
        cx.publish(self.id, happening);
        match run.is_before_restart() {
            true => Moved {
                verified: Some(Err(error)),
                ..Moved::default()
            },
            false => Moved {
                reloaded: Some(Err(error)),
                ..Moved::default()
            },
        }
    }

    fn drain_ended(&mut self, outcome: Outcome, cx: &mut Context<'_>) -> Moved {
        let State::Up(run) = &mut self.state else {
            return Moved::default();
        };
        let result = match outcome {
            Outcome::Done => {
                if let Some(hold) = &mut run.drain {
                    hold.action = None;
                    hold.connections = Some(0);
                }
                Ok(())
            }
            Outcome::Unhappy(error) | Outcome::Impossible(error) => {
                run.drain = None;
                cx.publish(
                    self.id,
                    Happening::ActionFailed {
                        error: error.clone(),
                    },
                );
                Err(error)
            }
        };
        Moved {
            drained: Some(result),
            ..Moved::default()
        }
    }

    /// It does not come to an end: it is killed, and those who wait are told.
    fn reload_timeout(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        let Some(run) = self.reload.clone().filter(|r| now >= r.until) else {
            return Moved::default();
        };
        self.end_reload(cx);
        let text = match run.is_check() {
            true => "it did not end within",
            false => "the reload did not end within",
        };
        let error = format!("{text} {} and was ended", Span(run.wait));
        self.reload_failed(&run, error, cx)
    }

    /// A drain counts, or the number has crossed one of the limits.
    fn connections(&mut self, n: u32, cx: &mut Context<'_>) {
        let State::Up(run) = &mut self.state else {
            return;
        };
        if let Some(hold) = &mut run.drain {
            hold.connections = Some(n);
            return;
        }
        let Some(max) = self.spec.max_connections else {
            return;
        };
        if n > max.high && !run.limited {
            run.limited = true;
            run.filtered = true;
            let what = self.spec.stop.drain();
            cx.effects.push(Effect::Limit(self.id, run.instance, what));
            let happening = Happening::Limited {
                connections: n,
                high: max.high,
            };
            cx.publish(self.id, happening);
        } else if n < max.low && run.limited {
            run.limited = false;
            cx.effects.push(Effect::LetGo(self.id, run.instance));
            let happening = Happening::Unlimited {
                connections: n,
                low: max.low,
            };
            cx.publish(self.id, happening);
        }
    }

    /// Connections are counted as the definition says it now.
    pub(super) fn watch(&mut self, effects: &mut Vec<Effect>) {
        let State::Up(run) = &mut self.state else {
            return;
        };
        let max = self.spec.max_connections;
        if max.is_none() && std::mem::take(&mut run.limited) && run.drain.is_none() {
            effects.push(Effect::LetGo(self.id, run.instance));
        }
        let watched = max.map(|max| (max, self.spec.stop.drain()));
        effects.push(Effect::Watch(self.id, run.instance, watched));
    }

    /// What was under way outside of a stop ends. What is held back stays so.
    fn end_actions(&mut self, cx: &mut Context<'_>) {
        if self.spec.max_connections.is_some() && matches!(self.state, State::Up(_)) {
            cx.effects.push(Effect::Watch(self.id, self.instance, None));
        }
        let hold = match &mut self.state {
            State::Up(run) => run.drain.as_mut(),
            State::Down(_)
            | State::Waiting
            | State::Starting(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_)
            | State::Backoff { .. } => None,
        };
        if let Some(action) = hold.and_then(|hold| hold.action.take()) {
            cx.effects
                .push(Effect::EndAction(self.id, self.instance, action));
        }
        self.end_reload(cx);
    }

    fn end_reload(&mut self, cx: &mut Context<'_>) {
        if let Some(reload) = self.reload.take() {
            cx.effects
                .push(Effect::EndAction(self.id, self.instance, reload.action));
        }
    }

    /// The instance is going, or gone: what superd does with it besides ends.
    fn end_own_actions(&mut self, now: Tick, cx: &mut Context<'_>) {
        self.end_actions(cx);
        self.end_watch(now, cx);
        let (id, instance) = (self.id, self.instance);
        self.with_hook(now, cx, HookRun::cut_short);
        self.end_post_start();
        if let State::Starting(run) = &mut self.state {
            if let Some(wait) = &mut run.awaits {
                wait.end(&mut About {
                    now,
                    id,
                    instance,
                    cx,
                });
            }
        }
    }

    /// The main process is reaped: clear the rest of the tree away.
    pub(super) fn sweep(
        &mut self,
        exit: Exit,
        crash: Option<Crash>,
        left: Option<u32>,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> Moved {
        self.end_own_actions(now, cx);
        let Some((run, stop, killing)) = self.take_run() else {
            return Moved::default();
        };
        let mut stop = stop.map(|s| *s);
        if let Some(stop) = &mut stop {
            let mut scene = Scene {
                now,
                id: self.id,
                instance: run.instance,
                says_stopping: false,
                cx,
            };
            stop.gone(&mut scene);
        }
        // As it was when the stop began: a reload does not postpone a KILL.
        let grace = match &stop {
            Some(stop) => stop.leftover_grace(),
            None => self.spec.stop.leftover_grace,
        };
        let mut end = End::new(run, exit, crash, stop, now);
        let swept = end.begin(self.id, left, killing, grace, now, cx);
        let moved = self.enter(State::Sweeping(Box::new(end)), now);
        self.swept(moved, swept, now, cx)
    }

    /// What it is on the way into Sweeping, and perhaps out of it at once.
    fn swept(&mut self, mut moved: Moved, swept: Swept, now: Tick, cx: &mut Context<'_>) -> Moved {
        let after = self.after_sweep(swept, now, cx);
        moved.up = after.up;
        moved.over = after.over;
        moved.start_failed = after.start_failed;
        moved
    }

    /// If the tree is empty: report, let go, and decide what is next.
    fn after_sweep(&mut self, swept: Swept, now: Tick, cx: &mut Context<'_>) -> Moved {
        match swept {
            Swept::NotYet => return Moved::default(),
            Swept::Clean => {}
        }
        let id = self.id;
        if let State::Sweeping(end) = &mut self.state {
            let instance = end.run.instance;
            let mut about = About {
                now,
                id,
                instance,
                cx,
            };
            match end.next_hook(&self.spec, &mut about) {
                Swept::NotYet => return Moved::default(),
                Swept::Clean => {}
            }
        }
        let State::Sweeping(end) = std::mem::replace(&mut self.state, State::Waiting) else {
            return Moved::default();
        };
        let end = *end;
        let instance = end.run.instance;
        let stopped = end.stop.is_some();
        let order = end.stop.as_ref().map(|s| &s.order);
        let unfit = order.is_some_and(Order::is_unfit);
        let stay = order.is_some_and(|o| o.stay);
        let why = match order.map(|o| &o.by) {
            Some(Origin::Unfit { why }) => Some(why.clone()),
            Some(_) | None => None,
        };
        let unready = end.run.awaits.is_some();
        let was_born = end.run.pid.is_some() || end.run.exec_error.is_none();
        let error = end.run.exec_error.clone();
        let (report, success) = end.report(&self.spec, now);
        // One that never was up was not stable, however long it took.
        let ran = match unready || !was_born {
            true => Duration::ZERO,
            false => report.ran,
        };
        let (verdict, exit) = (report.verdict, report.exit);
        if report.pid.is_some() || report.exit != Exit::Unknown {
            self.last = Some((report.exit, verdict));
        }
        self.publish_end(report, error.clone(), cx);
        cx.effects.push(Effect::Release(self.id, instance));
        let how = match (&error, success) {
            (Some(e), _) if e.stage == Stage::PreStart => How::Failure,
            (Some(e), _) if e.is_passing() => How::PassingSpawnError,
            (Some(_), _) => How::LastingSpawnError,
            (None, _) if unfit => How::Failure,
            (None, true) => How::Success,
            (None, false) => How::Failure,
        };
        let text = error.map(|e| e.to_string());
        let mut moved = match why {
            Some(why) if stay && self.is_to_stay() => self.give_up(why, now, cx),
            why => {
                let why = text.clone().or(why);
                self.decide_next(how, ran, why, stopped && !unfit, now, cx)
            }
        };
        moved.over = (was_born || stopped).then_some((verdict, how));
        moved.start_failed = match (unready && !stopped && !moved.up, self.spec.oneshot) {
            (true, None) => text.or_else(|| Some(format!("it {exit} before it was ready"))),
            (true, Some(_)) => text.or_else(|| Some(format!("it {exit}"))),
            (false, _) => text,
        };
        moved
    }

    fn publish_end(&self, report: EndReport, error: Option<SpawnError>, cx: &mut Context<'_>) {
        let instance = report.instance;
        let happening = match error {
            Some(error) => Happening::StartFailed { instance, error },
            None => Happening::Ended(Box::new(report)),
        };
        cx.publish(self.id, happening);
    }

    /// Nobody has asked for anything else since superd found it unfit.
    fn is_to_stay(&self) -> bool {
        self.want == Want::Up && !self.gone && self.target && !self.cycle && self.order.is_none()
    }

    fn give_up(&mut self, why: String, now: Tick, cx: &mut Context<'_>) -> Moved {
        cx.publish(self.id, Happening::GivenUp { why: why.clone() });
        self.enter(State::Down(Rest::Failed(why)), now)
    }

    /// Nothing runs any more: Down, Backoff, or Waiting for the supervisor to start it.
    /// `stopped`: a stop was under way, so the end is no business of the restart policy.
    pub(super) fn decide_next(
        &mut self,
        how: How,
        ran: Duration,
        error: Option<String>,
        stopped: bool,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> Moved {
        let asked = stopped || self.cycle || self.order.is_some();
        self.keep_step(now);
        self.cycle = false;
        self.order = None;
        if self.gone || self.want == Want::Down {
            return self.enter(State::Down(Rest::Stopped), now);
        }
        if self.spec.oneshot.is_some() && how == How::Success && !asked && self.target {
            let instance = self.instance;
            self.record.clear();
            cx.publish(self.id, Happening::Done { instance });
            let mut moved = self.enter(State::Down(Rest::Done), now);
            moved.up = true;
            return moved;
        }
        if asked || !self.target {
            // It was made to go (restart, dependency, shutdown); the supervisor starts
            // it again when it is to be up.
            if self.start_by == Origin::Timer {
                self.start_by = Origin::Policy; // its timer had this run
            }
            return self.enter(State::Waiting, now);
        }
        let next = self.record.next(&self.spec.restart, now, ran, how, cx.rng);
        let failures = self.record.failures();
        match next {
            Next::Stay => {
                let (rest, why) = match (how, error) {
                    (How::Success, _) => (Rest::Finished, "it has finished".to_owned()),
                    (_, Some(e)) => (Rest::Failed(e.clone()), e),
                    (_, None) => {
                        let why = "it failed, and its policy is not to start it again";
                        (Rest::Failed(why.to_owned()), why.to_owned())
                    }
                };
                cx.publish(self.id, Happening::GivenUp { why });
                self.enter(State::Down(rest), now)
            }
            Next::After(pause) | Next::Slowly(pause) => {
                let slow = matches!(next, Next::Slowly(_));
                let crash_loop = slow && error.is_none();
                let happening = Happening::Restarting {
                    pause,
                    failures,
                    crash_loop,
                };
                cx.publish(self.id, happening);
                let until = now + pause;
                // Without a pause it is due at once, in this turn of the loop.
                self.enter(State::Backoff { until, slow, error }, now)
            }
        }
    }
}

/// The order to fork, and what has to be noted before it and looked at from then on.
fn order_to_fork(run: &Run, about: &mut About<'_, '_>) {
    if let Some(wait) = &run.awaits {
        wait.before_start(about);
    }
    let (id, instance) = (about.id, about.instance);
    about.cx.effects.push(Effect::Spawn(id, instance));
    if let Some(wait) = &run.awaits {
        wait.after_start(about);
    }
}

/// A stop whose schedule is cut short before its first step.
fn begin_without_steps(
    order: Order,
    leftover_grace: Duration,
    after: Duration,
    run: &Run,
    id: ServiceId,
    now: Tick,
    cx: &mut Context<'_>,
) -> Stop {
    let nothing = Schedule {
        steps: Vec::new(),
        leftover_grace,
        after,
    };
    let mut scene = Scene {
        now,
        id,
        instance: run.instance,
        says_stopping: run.stopping_seen > 0,
        cx,
    };
    let mut stop = Stop::begin(order, Rc::new(nothing), &mut scene);
    stop.force(&mut scene);
    stop
}
