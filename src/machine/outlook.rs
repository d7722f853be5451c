//! What of the world a service waits for before it starts (`wait-for`): an interface, a path,
//! an address, a clock that is right.
//!
//! | is \ hears    | start is due     | the world: all there | something missing | time is up  |
//! |---------------|------------------|----------------------|-------------------|-------------|
//! | not looking   | look out         | -                    | -                 | -           |
//! | looking out   | -                | start                | wait, told once   | start, or a failed start |
//!
//! Looked out for is only while the service is Waiting and everything else that it needs is
//! there. Whatever else becomes of it ends that, and the next start begins it anew. What
//! ceases to be there later is not noticed: the service runs.

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::event::Effect;
use super::report::Happening;
use super::restart::How;
use super::service::{Context, Moved, Service, State};
use super::time::Tick;
use crate::json::{FromJson, ToJson};

/// What has to be there before each start.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct WaitFor {
    /// All of these.
    pub all: Vec<Condition>,
    /// For so long; none: for ever.
    pub timeout: Option<Duration>,
    /// And then.
    pub then: Then,
}

/// One thing that is there or is not.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Condition {
    /// A network interface of this name, up and with a carrier.
    Interface(Rc<str>),
    /// Something of this name in the file system.
    Path(Rc<str>),
    /// An address of this machine.
    Address(IpAddr),
    /// The kernel has been told that its clock is synchronised.
    Synced,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Interface(name) => write!(f, "interface {name}"),
            Condition::Path(path) => write!(f, "path {path}"),
            Condition::Address(address) => write!(f, "address {address}"),
            Condition::Synced => f.write_str("synchronised time"),
        }
    }
}

/// What is done when the time is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Then {
    /// The start has failed; the restart policy says what follows.
    Fail,
    /// It is started all the same.
    Start,
}

/// A look-out that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outlook {
    /// When it began, perhaps under an earlier superd.
    pub since: Tick,
    /// What is known.
    pub seen: Seen,
}

/// What a look-out has seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// An earlier superd has begun it; this one has not asked yet.
    NotAsked,
    /// Asked, not answered.
    Nothing,
    /// This is not there.
    Missing(Vec<Condition>),
    /// All is there, or the time is up and that does not matter.
    Enough,
}

impl Service {
    /// Everything else that it needs is there: whether the world lets it start now. If that is
    /// not known, it is looked for.
    pub(super) fn world_allows(&mut self, now: Tick, effects: &mut Vec<Effect>) -> bool {
        let Some(wait_for) = &self.spec.wait_for else {
            return true;
        };
        let since = match &self.outlook {
            None => now,
            Some(outlook) => match outlook.seen {
                Seen::Enough => return true,
                Seen::Nothing | Seen::Missing(_) => return false,
                Seen::NotAsked => outlook.since,
            },
        };
        self.outlook = Some(Outlook {
            since,
            seen: Seen::Nothing,
        });
        effects.push(Effect::LookOut(self.id, Some(wait_for.clone())));
        false
    }

    /// What is missing of the world, as it was seen last. True when the supervisor has to look
    /// at it again.
    pub(super) fn world_seen(&mut self, missing: Vec<Condition>, cx: &mut Context<'_>) -> bool {
        let Some(outlook) = self.outlook.as_mut() else {
            return false;
        };
        match (&outlook.seen, missing.is_empty()) {
            (Seen::NotAsked | Seen::Enough, _) => return false,
            (Seen::Nothing | Seen::Missing(_), true) => {
                outlook.seen = Seen::Enough;
                return true;
            }
            (Seen::Nothing, false) => {
                let on = missing.iter().map(Condition::to_string).collect();
                let unwanted = Vec::new();
                cx.publish(self.id, Happening::Waiting { on, unwanted });
            }
            (Seen::Missing(_), false) => {}
        }
        outlook.seen = Seen::Missing(missing);
        false
    }

    /// When the time of the look-out is up.
    pub(super) fn outlook_until(&self) -> Option<Tick> {
        let outlook = self.outlook.as_ref()?;
        let timeout = self.spec.wait_for.as_ref()?.timeout?;
        match outlook.seen {
            Seen::NotAsked | Seen::Enough => None,
            Seen::Nothing | Seen::Missing(_) => Some(outlook.since + timeout),
        }
    }

    /// Time has passed.
    pub(super) fn outlook_timeout(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        let due = self.outlook_until().is_some_and(|at| at <= now);
        let (Some(outlook), Some(wait_for), true) =
            (self.outlook.as_mut(), self.spec.wait_for.clone(), due)
        else {
            return Moved::default();
        };
        let on: Vec<String> = match &outlook.seen {
            Seen::Missing(missing) => missing.iter().map(Condition::to_string).collect(),
            Seen::NotAsked | Seen::Nothing | Seen::Enough => Vec::new(),
        };
        let after = now - outlook.since;
        let starts = wait_for.then == Then::Start;
        let why = format!("{} not there in time", on.join(", "));
        cx.publish(self.id, Happening::WaitOver { on, after, starts });
        match wait_for.then {
            Then::Start => {
                outlook.seen = Seen::Enough;
                Moved {
                    state: true,
                    ..Moved::default()
                }
            }
            Then::Fail => {
                let error = Some(why.clone());
                let how = How::PassingSpawnError;
                let mut moved = self.decide_next(how, Duration::ZERO, error, false, now, cx);
                moved.start_failed = Some(why);
                moved
            }
        }
    }

    /// It waits no longer for the world, if it did.
    pub(super) fn look_away(&mut self, effects: &mut Vec<Effect>) {
        match self.outlook.take() {
            None => {}
            Some(outlook) if outlook.seen == Seen::NotAsked => {}
            Some(_) => effects.push(Effect::LookOut(self.id, None)),
        }
    }

    /// What of the world is missing, for people.
    pub fn missing_of_world(&self) -> Vec<Rc<str>> {
        match (&self.state, self.outlook.as_ref().map(|o| &o.seen)) {
            (State::Waiting, Some(Seen::Missing(missing))) => {
                missing.iter().map(|c| c.to_string().into()).collect()
            }
            _ => Vec::new(),
        }
    }
}
