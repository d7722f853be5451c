//! Hooks: commands of the operator's own around the life of a service.
//!
//! | hook         | when                                                  | while it runs | when it fails           |
//! |--------------|-------------------------------------------------------|---------------|-------------------------|
//! | `pre-start`  | before each start                                     | Starting      | the start has failed    |
//! | `post-start` | when it is up                                         | Up            | told                    |
//! | `pre-stop`   | the first step of the stop schedule (`stop.rs`)       | Stopping      | told; the stop goes on  |
//! | `on-crash`   | after a crash, when the tree is dead and its ports free | Sweeping    | told                    |
//! | `post-stop`  | after each attempt to start and each run, as the last | Sweeping      | told                    |
//!
//! A hook is a command with a deadline. It is over when its process has ended, and done when
//! what it has left behind is dead, too: nothing of a hook is there when the program is
//! executed, or when "stopped" is said. Which hooks come when is decided in `service.rs` and
//! `end.rs`; here is one that is under way.
//!
//! It is written down before it is begun: the next superd goes on with one that still runs,
//! and does not begin one again that may have begun.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::end::KILLED_POLL_LONGEST;
use super::event::{ActionId, Check, Effect, Outcome};
use super::poll::Poll;
use super::ready::About;
use super::report::{Happening, SpawnError, Stage, StepOutcome, StepReport};
use super::service::KILL_AGAIN;
use super::time::{Span, Tick};
use crate::json::{FromJson, ToJson};

/// Which hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Before a start.
    PreStart,
    /// It is up.
    PostStart,
    /// Before the first step of a stop.
    PreStop,
    /// After a crash.
    OnCrash,
    /// After everything.
    PostStop,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::PreStart => "pre-start",
            Kind::PostStart => "post-start",
            Kind::PreStop => "pre-stop",
            Kind::OnCrash => "on-crash",
            Kind::PostStop => "post-stop",
        })
    }
}

/// A command with a deadline.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Hook {
    /// The command.
    pub argv: Rc<[String]>,
    /// The longest it takes; then it is killed with its tree.
    pub wait: Duration,
}

/// The hooks of a service. `pre-stop` is a step of its stop schedule.
#[derive(Clone, PartialEq, Eq, Debug, Default, ToJson, FromJson)]
#[serde(default)]
pub struct Hooks {
    /// Before each start.
    pub pre_start: Option<Hook>,
    /// When it is up.
    pub post_start: Option<Hook>,
    /// After a crash.
    pub on_crash: Option<Hook>,
    /// After each attempt to start and each run.
    pub post_stop: Option<Hook>,
}

impl Hooks {
    fn all(&self) -> impl Iterator<Item = &Hook> {
        let all = [
            &self.pre_start,
            &self.post_start,
            &self.on_crash,
            &self.post_stop,
        ];
        all.into_iter().flatten()
    }

    /// Whether there is none.
    pub fn is_nothing(&self) -> bool {
        self.all().next().is_none()
    }

    /// The longest that the hooks after an end can take.
    pub fn after(&self) -> Duration {
        let hooks = [&self.on_crash, &self.post_stop];
        let waits = hooks.into_iter().flatten().map(|h| h.wait);
        waits.fold(Duration::ZERO, Duration::saturating_add)
    }

    /// Whether sums of its times do not overflow.
    pub fn is_sound(&self, longest: Duration) -> bool {
        self.all().all(|hook| hook.wait <= longest)
    }
}

/// A hook that is to be run now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// Which.
    pub kind: Kind,
    /// The command.
    pub argv: Rc<[String]>,
    /// What has happened, as systemd.exec(5) names and values it. The daemon adds MAINPID, if
    /// there is a main process.
    pub news: Vec<(&'static str, String)>,
}

/// A hook that is under way.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct HookRun {
    /// Which.
    pub kind: Kind,
    action: ActionId,
    /// Its command, for reports.
    program: String,
    began: Tick,
    /// When it is killed.
    until: Tick,
    wait: Duration,
    /// Its command has ended, or had its KILL: what it has left behind is cleared away.
    over: bool,
    outcome: StepOutcome,
    /// Since when that is so, until it was told that something survives its KILL.
    #[serde(skip)]
    untold: Option<Tick>,
    #[serde(skip, default = "Poll::at_once")]
    poll: Poll,
}

impl HookRun {
    /// Begins it.
    pub fn begin(
        kind: Kind,
        hook: &Hook,
        news: Vec<(&'static str, String)>,
        about: &mut About<'_, '_>,
    ) -> Box<HookRun> {
        let action = about.cx.next_action();
        let argv = hook.argv.clone();
        let run = HookRun {
            kind,
            action,
            program: argv.first().cloned().unwrap_or_default(),
            began: about.now,
            until: about.now + hook.wait,
            wait: hook.wait,
            over: false,
            outcome: StepOutcome::Held,
            untold: None,
            poll: Poll::at_once(),
        };
        let call = Rc::new(Call { kind, argv, news });
        let (id, instance) = (about.id, about.instance);
        about
            .cx
            .effects
            .push(Effect::Hook(id, instance, action, call));
        let happening = Happening::Hook {
            instance,
            what: run.what(),
            took: hook.wait,
            outcome: None,
        };
        about.cx.publish(id, happening);
        Box::new(run)
    }

    fn what(&self) -> String {
        format!("{} {}", self.kind, self.program)
    }

    /// Its number, as long as its end is waited for.
    pub fn action(&self) -> Option<ActionId> {
        (!self.over).then_some(self.action)
    }

    /// An action ended: its command, or another one.
    pub fn action_ended(&mut self, action: ActionId, outcome: &Outcome, about: &mut About<'_, '_>) {
        if self.action() != Some(action) {
            return;
        }
        let outcome = match outcome {
            Outcome::Done => StepOutcome::Held,
            Outcome::Unhappy(why) => StepOutcome::Failed(why.clone()),
            Outcome::Impossible(why) | Outcome::NotTried(why) => StepOutcome::Skipped(why.clone()),
        };
        self.be_over(outcome, about);
    }

    fn be_over(&mut self, outcome: StepOutcome, about: &mut About<'_, '_>) {
        self.outcome = outcome;
        self.over = true;
        self.untold = Some(about.now);
        let happening = Happening::Hook {
            instance: about.instance,
            what: self.what(),
            took: about.now - self.began,
            outcome: Some(self.outcome.clone()),
        };
        about.cx.publish(about.id, happening);
        if self.outcome != StepOutcome::CutShort {
            self.resume(about);
        }
    }

    fn look(&self, about: &mut About<'_, '_>) {
        let check = Effect::Check(about.id, about.instance, Check::Commands);
        about.cx.effects.push(check);
    }

    /// It is killed, if its command still runs. Who waits for what it leaves has to look.
    pub fn cut_short(&mut self, about: &mut About<'_, '_>) {
        self.kill(StepOutcome::CutShort, about);
    }

    fn kill(&mut self, outcome: StepOutcome, about: &mut About<'_, '_>) {
        if self.over {
            return;
        }
        let end = Effect::EndAction(about.id, about.instance, self.action);
        about.cx.effects.push(end);
        self.be_over(outcome, about);
    }

    /// Time has passed.
    pub fn timeout(&mut self, about: &mut About<'_, '_>) {
        if !self.over && about.now >= self.until {
            self.kill(StepOutcome::TimedOut, about);
        } else if self.over && self.poll.is_due(about.now) {
            self.look(about);
            let since = self.untold.map_or(Duration::ZERO, |at| about.now - at);
            if since >= KILL_AGAIN {
                self.untold = None;
                let happening = Happening::Unkillable {
                    instance: about.instance,
                    left: 1,
                    since,
                };
                about.cx.publish(about.id, happening);
            }
        }
    }

    /// Something has died: perhaps what it has left behind.
    pub fn tree_shrank(&self, about: &mut About<'_, '_>) {
        if self.over {
            self.look(about);
        }
    }

    /// Another superd, or another program, goes on.
    pub fn resume(&mut self, about: &mut About<'_, '_>) {
        if self.over {
            self.poll = Poll::up_to(KILLED_POLL_LONGEST, about.now);
            self.look(about);
        }
    }

    /// So many processes of it are left; whether that was all.
    pub fn is_done(&self, found: u32) -> bool {
        self.over && found == 0
    }

    /// Why a start fails with it; none: it does not.
    pub fn fault(&self) -> Option<SpawnError> {
        let (cause, errno) = match &self.outcome {
            StepOutcome::Failed(why) | StepOutcome::Skipped(why) => {
                // `/program: exited with status 1`: it is named already.
                let own = why.strip_prefix(&*self.program);
                let own = own.and_then(|rest| rest.strip_prefix(": "));
                (own.unwrap_or(why).to_owned(), 0)
            }
            StepOutcome::TimedOut => {
                let cause = format!("did not end within {} and was killed", Span(self.wait));
                (cause, libc::ETIMEDOUT)
            }
            StepOutcome::Held | StepOutcome::Gone | StepOutcome::CutShort => return None,
        };
        Some(SpawnError {
            stage: Stage::PreStart,
            thing: self.program.clone(),
            errno,
            cause,
        })
    }

    /// When something is due, if nothing happens before.
    pub fn next_deadline(&self) -> Tick {
        match self.over {
            true => self.poll.at(),
            false => self.until,
        }
    }

    /// Whether sums of its times do not overflow.
    pub fn is_sound(&self, longest: Duration) -> bool {
        self.wait <= longest && self.action.0 <= u64::MAX / 2
    }

    /// For the story of an end that was asked for, or began, then.
    pub fn report(&self, asked: Tick, now: Tick) -> StepReport {
        StepReport {
            what: self.what(),
            began: self.began - asked,
            took: now - self.began,
            outcome: self.outcome.clone(),
        }
    }

    /// For `status`: what it is, since when, and its longest time.
    pub fn progress(&self, now: Tick) -> (String, Duration, Duration) {
        let what = match self.over {
            true => format!("KILL sent to what {} left behind", self.kind),
            false => format!("{} runs", self.what()),
        };
        (what, now - self.began, self.wait)
    }
}
