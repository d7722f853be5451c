//! What a service has while an instance of it is there, and who waits for it.

use std::rc::Rc;
use std::time::Duration;

use crate::json::{FromJson, ToJson};
use crate::machine::event::{ActionId, Instance, Pid, Ticket};
use crate::machine::hook::{Hook, HookRun, Kind};
use crate::machine::ready::{About, Await};
use crate::machine::report::{Origin, SpawnError};
use crate::machine::spec::Drain;
use crate::machine::time::Tick;

/// The pause before a KILL that had no effect is sent again; doubles each time.
pub const KILL_AGAIN: Duration = Duration::from_secs(1);
/// The longest such pause.
pub const KILL_AGAIN_LONGEST: Duration = Duration::from_secs(60);

/// A running main process.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
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
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct Hold {
    /// What counts the open ones; none: there are none any more.
    pub action: Option<ActionId>,
    /// What is held back.
    pub what: Rc<Drain>,
    /// Open connections at the last look.
    pub connections: Option<u32>,
}

impl Run {
    pub(in crate::machine) fn new(instance: Instance, now: Tick) -> Run {
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

    pub(super) fn begin_hook(
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Readiness {
    /// It has sent no message at all.
    NotTold,
    /// It has sent messages, but no READY=1.
    No,
    /// READY=1.
    Yes,
}

/// KILL was sent; the main process is not reaped yet.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
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

/// A command or request of `reload`, or a checker, that is under way. One at a time.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
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

    pub(super) fn name(&self) -> &'static str {
        match self.is_check() {
            true => "`check`",
            false => "`reload`",
        }
    }
}

/// What a [`ReloadRun`] is.
#[derive(Clone, PartialEq, Eq, Debug, Default, ToJson, FromJson)]
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
#[derive(Clone, Debug, ToJson, FromJson)]
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
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
