//! All that the machine knows, for a superd that becomes another program: the memories of the
//! services, which a killed one would have left as well, and who waits for what.
//!
//! Unlike after an adoption nothing has happened meanwhile: the children are the same, and what
//! they have done since is told by the kernel afterwards. So nothing is told, sent or counted
//! again; only what was being looked at is looked at again.

use std::rc::Rc;

use super::event::{Effect, ServiceId, Ticket};
use super::health::Watch;
use super::memory::{Memory, LONGEST};
use super::ready::{About, Asking};
use super::service::{Context, Service, State, Waiter};
use super::spec::Spec;
use super::stop::Scene;
use super::supervisor::{Group, Supervisor};
use super::time::Tick;
use crate::json::{FromJson, ToJson};

/// All of it.
#[derive(Clone, Debug, ToJson, FromJson)]
pub struct Whole {
    /// The number of the last command or request.
    actions: u64,
    services: Vec<Kept>,
    /// Requests about all services that are not answered yet.
    groups: Vec<(Ticket, Group)>,
}

/// One service.
#[derive(Clone, Debug, ToJson, FromJson)]
struct Kept {
    id: ServiceId,
    memory: Memory,
    #[serde(default)]
    waiters: Vec<Waiter>,
    /// What it is asked until it is ready, and what the last answer was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asking: Option<(Asking, String)>,
    /// The watch over its health.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    watch: Option<Box<Watch>>,
}

impl Whole {
    /// Why this cannot be what a superd has written; none: it can.
    pub fn fault(&self, spec: impl Fn(ServiceId) -> Option<Spec>) -> Option<String> {
        if self.actions > u64::MAX / 2 {
            return Some("the number of its commands".to_owned());
        }
        self.services.iter().find_map(|s| match spec(s.id) {
            None => Some("a service without a definition".to_owned()),
            Some(spec) => {
                let asking = s.asking.as_ref();
                let calm = asking.is_none_or(|(a, _)| a.is_sound(LONGEST))
                    && s.watch.as_ref().is_none_or(|w| w.is_sound(LONGEST));
                let what = s.memory.fault(&spec).or((!calm).then_some("its watch"))?;
                Some(format!("service {:?}: {what}", spec.name))
            }
        })
    }

    /// How many services there are.
    pub fn services(&self) -> usize {
        self.services.len()
    }
}

impl Supervisor {
    /// To be called between two turns, when all effects are performed.
    pub fn keep(&self) -> Whole {
        let kept = |s: &Service| Kept {
            id: s.id,
            memory: Memory::of(s),
            waiters: s.waiters.clone(),
            asking: match &s.state {
                State::Starting(run) => run.awaits.as_ref().and_then(|w| w.asking()),
                _ => None,
            },
            watch: s.watch.clone(),
        };
        Whole {
            actions: self.last_action(),
            services: self.services().map(kept).collect(),
            groups: self.groups().map(|(t, g)| (*t, g.clone())).collect(),
        }
    }

    /// Goes on in a new machine from what [`Supervisor::keep`] said in the old one.
    pub fn go_on(
        &mut self,
        whole: Whole,
        spec: impl Fn(ServiceId) -> Option<Rc<Spec>>,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        self.number_actions_after(whole.actions);
        for kept in whole.services {
            let Some(spec) = spec(kept.id) else { continue };
            let mut service = Service::new(kept.id, spec, now);
            service.take_up(kept.memory, kept.waiters);
            service.watch = kept.watch;
            if let State::Starting(run) = &mut service.state {
                if let Some(wait) = &mut run.awaits {
                    wait.take_up(kept.asking);
                }
            }
            self.put_back(service, now, effects);
        }
        self.settle_again(whole.groups, now, effects);
    }
}

impl Service {
    /// What it was, to the letter.
    fn take_up(&mut self, memory: Memory, waiters: Vec<Waiter>) {
        let (gone, want) = (memory.is_gone(), memory.want());
        self.recall(memory);
        self.gone = gone;
        self.want = want;
        self.waiters = waiters;
    }

    /// Looks again at what was being looked at, and counts connections again.
    pub(super) fn look_again(&mut self, now: Tick, cx: &mut Context<'_>) {
        let id = self.id;
        match &mut self.state {
            State::Down(_) | State::Waiting | State::Killing(..) | State::Backoff { .. } => {}
            State::Starting(run) if run.is_preparing() => {
                let instance = run.instance;
                if let Some(hook) = &mut run.hook {
                    hook.resume(&mut About::new(now, id, instance, cx));
                }
            }
            State::Starting(run) => {
                run.hold_again(id, cx);
                let instance = run.instance;
                if let Some(wait) = &run.awaits {
                    wait.after_start(&mut About::new(now, id, instance, cx));
                }
            }
            State::Up(run) => {
                run.hold_again(id, cx);
                if self.spec.max_connections.is_some() {
                    self.watch(cx.effects);
                }
            }
            State::Stopping(run, stop) => {
                stop.resume(&mut Scene::of(run, id, now, cx));
            }
            State::Sweeping(end) => end.look_again(id, now, cx),
        }
    }
}
