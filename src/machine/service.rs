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
//! While what it requires has failed, a service in Waiting is `blocked` (`supervisor/blocked.rs`).
//!
//! With `wait-for`, a service that has all the services it needs stays in Waiting until the world
//! is as it should be (`outlook`); a timeout there starts it all the same, or is a failed start
//! (Backoff or Down).
//!
//! With `watch`, a file that changes makes the supervisor restart or reload it, or try it again
//! (`files`): in Up, in Backoff, and Down when it has failed or is done.
//!
//! With `restart-with`, the supervisor restarts it when one of those has begun anew (`companions`):
//! in Up, and in no other state.
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
//!
//! Longer than a file should be: the table and its transcript belong together. How each move of the
//! transcript is made is in the files of `service/`; what has a table of its own has a file of its own.

mod attend;
mod begin;
mod finish;
mod run;

use std::rc::Rc;

use super::end::End;
use super::event::{ActionId, Check, Effect, Found, Instance, Notice, Outcome, Pid, ServiceId};
use super::files::Files;
use super::health::Watch;
use super::hook::HookRun;
use super::outlook::Outlook;
use super::ready::About;
use super::report::{Crash, Exit, Happening, Origin, SpawnError, Stuck, Verdict};
use super::restart::{How, Record, Rng};
use super::spec::Spec;
use super::stop::{Course, Order, Stop};
use super::supervisor::Blocked;
use super::time::Tick;
use super::timer::{Clock, Covered};
use crate::json::{FromJson, ToJson};

pub use run::{Doing, Goal, Hold, Kill, Readiness, ReloadRun, Run, Waiter, KILL_AGAIN};

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
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Want {
    /// It is to run.
    Up,
    /// It is not to run.
    Down,
}

/// Why nothing runs.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
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

/// Why it is not started again, where how it ended says the rest.
pub const GIVEN_UP: &str = "it failed, and its policy is not to start it again";

/// What is.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
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
    /// It ended because somebody had asked for its stop, if only to start it again.
    pub by_order: bool,
    /// The reload action ended.
    pub reloaded: Option<Result<(), String>>,
    /// The checker before a restart ended: who had asked for the restart, or why it is not to be.
    pub verified: Option<Result<Origin, String>>,
    /// No connection is open any more, outside of a stop; or that cannot be seen.
    pub drained: Option<Result<(), String>>,
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
    /// Messages of its own that were told since this time.
    pub told: (Tick, u32),
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
    /// While it waits: what it requires has failed, or had.
    pub blocked: Option<Blocked>,
    /// The watch over its health, while it is up.
    pub watch: Option<Box<Watch>>,
    /// Its files, while a change of them would mean something.
    pub files: Option<Box<Files>>,
    /// Services of its `restart-with` that were up by then are no reason to restart it: what
    /// they asked for has been refused, or it did not name them then (`companions`).
    pub heeded: Option<Tick>,
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
            told: (now, 0),
            reload: None,
            due: None,
            covered: None,
            clock: None,
            outlook: None,
            blocked: None,
            watch: None,
            files: None,
            heeded: None,
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
            State::Down(_) => soonest(&[self.files_until(), self.timer_due()]),
            State::Waiting => self.outlook_until(),
            State::Starting(run) => {
                let own = match run.is_preparing() {
                    true => run.hook.as_ref().map(|h| h.next_deadline()),
                    false => run.awaits.as_ref().and_then(|w| w.next_deadline()),
                };
                soonest(&[own, self.left_out_at()])
            }
            State::Up(run) => {
                let reload = self.reload.as_ref().map(|r| r.until);
                let watch = self.watch.as_ref().map(|w| w.next_deadline());
                let hook = run.hook.as_ref().map(|h| h.next_deadline());
                let first = soonest(&[reload, watch, hook, self.files_until()]);
                first.filter(|at| *at < Tick::NEVER)
            }
            State::Stopping(_, stop) => stop.next_deadline(),
            State::Killing(_, _, kill) => Some(kill.next),
            State::Sweeping(end) => end.next_deadline(),
            State::Backoff { until, .. } => soonest(&[Some(*until), self.files_until()]),
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
                let mut about = About::new(now, self.id, instance, cx);
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
}

/// Of those that there are.
fn soonest(all: &[Option<Tick>]) -> Option<Tick> {
    all.iter().flatten().min().copied()
}
