//! What of a service outlives superd: written down by one superd ([`Memory::of`]), read by
//! the next, which goes on from there ([`Event::Adopt`](super::event::Event::Adopt)).
//!
//! Times are of the monotonic clock, so a memory is worth something in the same boot only.
//! What is written down before an order was carried out says that it was: a signal that
//! was perhaps sent is not sent again.

use std::time::Duration;

use super::event::{ActionId, Instance};
use super::files::{Files, Print, MOST};
use super::outlook::{Outlook, Seen};
use super::report::{Exit, Origin, Verdict};
use super::restart::Record;
use super::service::{Kill, ReloadRun, Run, Service, State, Want};
use super::spec::{Schedule, Spec};
use super::stop::Order;
use super::time::Tick;
use super::timer::Covered;
use crate::json::{FromJson, ToJson};

/// No duration of a sound memory is longer.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
/// No counter of a sound memory is higher.
const HIGHEST: u32 = u32::MAX / 2;

/// What one superd knew of a service.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct Memory {
    want: Want,
    state: State,
    since: Tick,
    instance: Instance,
    cycle: bool,
    order: Option<Order>,
    start_by: Origin,
    gone: bool,
    restarts: u32,
    record: Record,
    last: Option<(Exit, Verdict)>,
    says: String,
    reload: Option<ReloadRun>,
    /// Since when it waits for the world.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    looks_out: Option<Tick>,
    /// When its timer runs it next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<Tick>,
    /// What is done with, of the times of day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    covered: Option<Covered>,
    /// Its files as it knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    files: Option<Vec<Print>>,
    /// By when other services have been a reason to restart it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heeded: Option<Tick>,
}

/// A start that is about to be carried out: all that is written down before it, because
/// what it was started with can be written when it runs.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct Begun {
    instance: Instance,
    at: Tick,
    by: Origin,
    restarts: u32,
    /// When its timer runs it next; an earlier superd said nothing of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<Tick>,
    /// As in a [`Memory`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    covered: Option<Covered>,
}

impl Begun {
    /// Of this service, if it is at that point and nothing else is going on with it.
    pub fn of(service: &Service, instance: Instance) -> Option<Begun> {
        match &service.state {
            // One that is to be waited for is written down as a whole.
            State::Starting(run) if run.awaits.is_some() => return None,
            State::Starting(_) if service.files.is_some() => return None,
            State::Starting(run) if run.pid.is_none() && run.instance == instance => {}
            State::Starting(_)
            | State::Up(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_)
            | State::Down(_)
            | State::Waiting
            | State::Backoff { .. } => return None,
        }
        let is_plain = service.want == Want::Up && !service.gone;
        is_plain.then(|| Begun {
            instance,
            at: service.since,
            by: service.start_by.clone(),
            restarts: service.restarts,
            due: service.due,
            covered: service.covered,
        })
    }
}

impl Memory {
    /// Of a service of which nothing was known before this start.
    pub fn of_start(begun: Begun) -> Memory {
        let mut memory = Memory::of_stranger(begun.at);
        memory.begin(begun);
        memory
    }

    /// And then this start was ordered.
    pub fn begin(&mut self, begun: Begun) {
        let Begun {
            instance,
            at,
            by,
            restarts,
            due,
            covered,
        } = begun;
        self.restarts = restarts;
        self.due = due;
        self.covered = covered;
        self.want = Want::Up;
        self.state = State::Starting(Run::new(instance, at));
        self.since = at;
        self.instance = instance;
        self.cycle = false;
        self.order = None;
        self.start_by = by;
        self.says.clear();
        self.reload = None;
        self.looks_out = None;
        self.files = None;
    }

    /// Of this service, as it is now.
    pub fn of(service: &Service) -> Memory {
        Memory {
            want: service.want,
            state: service.state.clone(),
            since: service.since,
            instance: service.instance,
            cycle: service.cycle,
            order: service.order.clone(),
            start_by: service.start_by.clone(),
            gone: service.gone,
            restarts: service.restarts,
            record: service.record.clone(),
            last: service.last,
            says: service.says.clone(),
            reload: service.reload.clone(),
            looks_out: service.outlook.as_ref().map(|o| o.since),
            due: service.due,
            covered: service.covered,
            files: service.files.as_ref().and_then(|f| f.known.clone()),
            heeded: service.heeded,
        }
    }

    /// Of a service that runs, and of which nothing else is known.
    pub fn of_stranger(now: Tick) -> Memory {
        Memory {
            want: Want::Up,
            state: State::Up(Run {
                filtered: true, // nobody knows
                ..Run::new(Instance(1), now)
            }),
            since: now,
            instance: Instance(1),
            cycle: false,
            order: None,
            start_by: Origin::Config,
            gone: false,
            restarts: 0,
            record: Record::default(),
            last: None,
            says: String::new(),
            reload: None,
            looks_out: None,
            due: None,
            covered: None,
            files: None,
            heeded: None,
        }
    }

    /// What the operator had asked for.
    pub fn want(&self) -> Want {
        self.want
    }

    /// Whether the service was no longer configured.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// The run it was about.
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// Whether there was an instance, or one was about to be.
    pub fn is_of_instance(&self) -> bool {
        match self.state {
            State::Starting(_)
            | State::Up(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_) => true,
            State::Down(_) | State::Waiting | State::Backoff { .. } => false,
        }
    }

    /// Whether a start had been ordered and no process was known yet.
    pub fn is_unborn(&self) -> bool {
        matches!(&self.state, State::Starting(run) | State::Up(run) if run.pid.is_none())
    }

    /// Whether it was waited for until it is ready.
    pub fn is_awaited(&self) -> bool {
        matches!(&self.state, State::Starting(run) if run.awaits.is_some())
    }

    /// Whether its main process was known to have ended.
    pub fn is_reaped(&self) -> bool {
        matches!(self.state, State::Sweeping(_))
    }

    /// The commands and requests that were under way.
    pub fn actions(&self) -> impl Iterator<Item = ActionId> + '_ {
        let of_stop = match &self.state {
            State::Stopping(_, stop) => stop.action(),
            State::Down(_)
            | State::Waiting
            | State::Starting(_)
            | State::Up(_)
            | State::Killing(..)
            | State::Sweeping(_)
            | State::Backoff { .. } => None,
        };
        let of_reload = self.reload.as_ref().map(|r| r.action);
        let of_hook = self.run().and_then(|run| run.hook.as_ref()?.action());
        of_stop.into_iter().chain(of_reload).chain(of_hook)
    }

    fn run(&self) -> Option<&Run> {
        match &self.state {
            State::Starting(run)
            | State::Up(run)
            | State::Stopping(run, _)
            | State::Killing(run, ..) => Some(run),
            State::Sweeping(end) => Some(&end.run),
            State::Down(_) | State::Waiting | State::Backoff { .. } => None,
        }
    }

    /// Whether a hook was under way, and no main process there.
    pub fn is_in_hook(&self) -> bool {
        self.run().is_some_and(Run::is_preparing) || self.is_reaped()
    }

    /// The checker that was under way.
    pub fn checker(&self) -> Option<ActionId> {
        let run = self.reload.as_ref().filter(|r| r.is_check());
        run.map(|r| r.action)
    }

    /// Why this cannot be what a superd has written; none: it can. What comes from outside
    /// must not make sums overflow.
    pub fn fault(&self, spec: &Spec) -> Option<&'static str> {
        let sound = |s: &Schedule| {
            s.steps.len() <= 1000
                && s.leftover_grace <= LONGEST
                && s.after <= LONGEST
                && s.steps
                    .iter()
                    .all(|step| step.wait <= LONGEST && step.settle <= LONGEST)
        };
        let calm = |k: &Kill| k.pause <= LONGEST;
        let rule = &spec.restart;
        let crash_loop = rule.crash_loop.as_ref();
        let spec_is_sound = sound(&spec.stop)
            && rule.delay <= LONGEST
            && rule.max_delay <= LONGEST
            && rule.stable <= LONGEST
            && spec.ready.as_ref().is_none_or(|r| r.is_sound(LONGEST))
            && spec.health.as_ref().is_none_or(|h| h.is_sound(LONGEST))
            && spec.watchdog.is_none_or(|d| d <= LONGEST)
            && spec.timer.is_none_or(|t| t.is_sound())
            && spec
                .wait_for
                .as_ref()
                .is_none_or(|w| w.timeout.is_none_or(|t| t <= LONGEST))
            && spec.check.as_ref().is_none_or(|c| c.wait <= LONGEST)
            && spec.hooks.as_ref().is_none_or(|h| h.is_sound(LONGEST))
            && crash_loop
                .is_none_or(|c| c.retry <= LONGEST && c.within <= LONGEST && c.burst <= HIGHEST);
        let state_is_sound = match &self.state {
            State::Starting(run) => {
                let wait = run.awaits.as_ref();
                wait.is_none_or(|w| w.ready.is_sound(LONGEST))
            }
            State::Down(_) | State::Waiting | State::Up(_) | State::Backoff { .. } => true,
            State::Stopping(_, stop) => stop.is_sound(&sound),
            State::Killing(_, stop, kill) => stop.is_sound(&sound) && calm(kill),
            State::Sweeping(end) => end.is_sound(&sound, &calm),
        };
        let instance = self.run().map_or(self.instance, |run| run.instance);
        let hook = self.run().and_then(|run| run.hook.as_ref());
        let state_is_sound = state_is_sound && hook.is_none_or(|h| h.is_sound(LONGEST));
        if !spec_is_sound {
            return Some("its definition");
        }
        if !state_is_sound {
            return Some("its state");
        }
        let reload = self.reload.as_ref();
        if reload.is_some_and(|r| r.wait > LONGEST) || self.actions().any(|a| a.0 > u64::MAX / 2) {
            return Some("its commands");
        }
        if self.files.as_ref().is_some_and(|f| f.len() > MOST) {
            return Some("its files");
        }
        (instance != self.instance).then_some("the number of its run")
    }
}

impl Service {
    /// Takes up what an earlier superd knew.
    pub fn recall(&mut self, memory: Memory) {
        self.want = memory.want;
        self.state = memory.state;
        self.since = memory.since;
        self.instance = memory.instance;
        self.cycle = memory.cycle;
        self.order = memory.order;
        self.start_by = memory.start_by;
        self.restarts = memory.restarts;
        self.record = memory.record;
        self.last = memory.last;
        self.says = memory.says;
        self.reload = memory.reload;
        // When a time of day comes, the clock will say.
        self.due = memory.due.filter(|_| !self.is_of_day());
        self.covered = memory.covered;
        self.files = memory.files.map(|known| Box::new(Files::known(known)));
        self.heeded = memory.heeded;
        let is_waiting = matches!(self.state, State::Waiting);
        self.outlook = memory
            .looks_out
            .filter(|_| is_waiting)
            .map(|since| Outlook {
                since,
                seen: Seen::NotAsked,
            });
        if memory.gone {
            // Whether it still is, the configuration that follows will say.
            self.want = match self.spec.autostart {
                true => Want::Up,
                false => Want::Down,
            };
        }
    }
}
