//! Towards what is wanted: who is to be up, who moves next, who waits for whom.

use std::rc::Rc;

use super::Supervisor;
use crate::machine::event::{Effect, ServiceId};
use crate::machine::outlook::Condition;
use crate::machine::report::{Happening, Origin};
use crate::machine::service::{Context, Input, Rest, Run, Service, State, Waiter, Want};
use crate::machine::stop;
use crate::machine::time::Tick;

impl Supervisor {
    /// Works out for every service whether it is to be up: wanted, and so is everything
    /// that it requires. Who waits for a start that will not come is told so.
    pub(super) fn retarget(&mut self, effects: &mut Vec<Effect>) {
        let shutting = self.shutdown.is_some();
        let mut hopeless = Vec::new();
        for (place, id) in self.order.line().iter().enumerate() {
            let needs_met = self.order.of(*id).requires.iter().all(|dep| {
                let lost =
                    |s: &Service| matches!(s.state, State::Down(Rest::Failed(_) | Rest::Finished));
                self.services.get(dep).is_some_and(|d| d.target && !lost(d))
            });
            let Some(service) = self.services.get_mut(id) else {
                continue;
            };
            let target = service.want == Want::Up && !service.gone && !shutting && needs_met;
            if target != service.target {
                service.target = target;
                self.dirty.insert(place);
                // Who only comes after it need not wait for what will not be.
                let followers = &self.order.of(*id).followers;
                self.dirty
                    .extend(followers.iter().filter_map(|f| self.order.place(*f)));
            }
            if !target && service.waiters.iter().any(Waiter::wants_it_up) {
                hopeless.push(*id);
            }
        }
        for id in hopeless {
            let why = self.why_not_up(id);
            self.dismiss(id, Waiter::wants_it_up, &why, effects);
        }
    }

    /// Brings everybody who was noted one step towards what is wanted, until nobody moves.
    /// Ends because a step that does not wait for an event leads only downwards (to Down
    /// or Waiting) or into a state that waits for one.
    pub(super) fn settle(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        let mut companions = Vec::new();
        loop {
            // First who is to be restarted, so that nobody is started beside what is about to go.
            let mut from = 0;
            while let Some(place) = self.dirty.next(from) {
                companions.extend(self.with_others(place));
                from = place + 1;
            }
            self.settle_companions(&companions, now, effects);
            companions.clear();
            if self.dirty.next(0).is_none() {
                return;
            }
            while let Some(place) = self.dirty.pop_first() {
                let Some(id) = self.order.line().get(place).copied() else {
                    continue;
                };
                companions.extend(self.with_others(place));
                self.settle_stop(id, now, effects);
                self.settle_start(id, now, effects);
                self.settle_blocked(id, effects);
                self.settle_files(id, effects);
                self.forget_if_gone(id, effects);
            }
        }
    }

    /// The service at this place, if it is restarted with others.
    pub(super) fn with_others(&self, place: usize) -> Option<ServiceId> {
        let id = self.order.line().get(place)?;
        let has = |s: &&Service| !s.spec.restart_with.is_empty();
        self.services.get(id).filter(has).map(|s| s.id)
    }

    pub(super) fn settle_files(&mut self, id: ServiceId, effects: &mut Vec<Effect>) {
        let Some(service) = self.services.all.get(&id) else {
            return;
        };
        if service.spec.watch.is_some() || service.files.is_some() {
            if let Some(service) = self.services.get_mut(&id) {
                service.keep_files(effects);
            }
            self.list_deadline(id);
        }
    }

    pub(super) fn settle_stop(&mut self, id: ServiceId, now: Tick, effects: &mut Vec<Effect>) {
        let Some(service) = self.services.get(&id) else {
            return;
        };
        if !service.is_running() || !self.is_going_down(service) {
            return;
        }
        // Nobody uses what has not begun: it has to wait for nobody, and must not begin.
        let is_preparing = service.run().is_some_and(Run::is_preparing);
        let order = self.order_for(id, now);
        if let (Origin::Dependency { .. }, Some(service)) = (&order.by, self.services.get_mut(&id))
        {
            // It comes back with that one, whoever had asked for it before.
            service.start_by = order.by.clone();
        }
        if order.force {
            self.feed(id, Input::Force(order), now, effects);
        } else if is_preparing || !self.is_held(id) {
            self.feed(id, Input::Halt(order), now, effects);
        }
    }

    pub(super) fn settle_start(&mut self, id: ServiceId, now: Tick, effects: &mut Vec<Effect>) {
        let Some(service) = self.services.get(&id) else {
            return;
        };
        let wanted = service.want == Want::Up && !service.gone && self.shutdown.is_none();
        let at_rest = match &service.state {
            State::Waiting | State::Down(Rest::Stopped) => true,
            State::Backoff { until, .. } => !service.target || now >= *until,
            State::Down(_) => false,
            State::Starting(_)
            | State::Up(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_) => return,
        };
        if !wanted {
            if matches!(service.state, State::Waiting | State::Backoff { .. }) {
                let order = self.order_for(id, now);
                self.feed(id, Input::Halt(order), now, effects);
            }
            return;
        }
        if !at_rest {
            return;
        }
        let missing = self.missing_services(id);
        if service.target && missing.is_empty() {
            if !self.world_allows(id, now, effects) {
                return;
            }
            let Some(service) = self.services.get(&id) else {
                return;
            };
            let by = match matches!(service.state, State::Backoff { .. }) {
                true => Origin::Policy,
                false => service.start_by.clone(),
            };
            self.feed(id, Input::Start(by), now, effects);
        } else if !matches!(service.state, State::Waiting) {
            self.wait(id, &missing, now, effects);
        } else if service.outlook.is_some() {
            self.look_away(id, effects);
        }
    }

    /// Whether the world lets it start now. If that is not known, it waits until it is.
    pub(super) fn world_allows(
        &mut self,
        id: ServiceId,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let waits = |s: &Service| s.spec.wait_for.is_some();
        if !self.services.get(&id).is_some_and(waits) {
            return true;
        }
        let Some(service) = self.services.get_mut(&id) else {
            return true;
        };
        if service.world_allows(now, effects) {
            return true;
        }
        if !matches!(service.state, State::Waiting) {
            if matches!(service.state, State::Backoff { .. }) {
                service.start_by = Origin::Policy;
            }
            service.enter(State::Waiting, now);
            service.order = None;
        }
        self.list_deadline(id);
        false
    }

    pub(super) fn world_seen(
        &mut self,
        id: ServiceId,
        missing: Vec<Condition>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let mut cx = Context {
            effects,
            rng: &mut self.rng,
            actions: &mut self.actions,
        };
        if service.world_seen(missing, &mut cx) {
            self.dirty.extend(self.order.place(id));
        }
        self.list_deadline(id);
    }

    pub(super) fn look_away(&mut self, id: ServiceId, effects: &mut Vec<Effect>) {
        if let Some(service) = self.services.get_mut(&id) {
            service.look_away(effects);
        }
        self.list_deadline(id);
    }

    pub(super) fn wait(
        &mut self,
        id: ServiceId,
        on: &[Rc<str>],
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        let unwanted = self.unwanted(id);
        if let Some(service) = self.services.get_mut(&id) {
            if matches!(service.state, State::Backoff { .. }) {
                service.start_by = Origin::Policy;
            }
            service.enter(State::Waiting, now);
            service.order = None;
            let names = |all: &[Rc<str>]| all.iter().map(|n| n.to_string()).collect();
            let happening = Happening::Waiting {
                on: names(on),
                unwanted: names(&unwanted),
            };
            effects.push(Effect::Publish(id, happening));
            self.list_deadline(id);
        }
    }

    /// Whether a service that comes before another one is not there yet.
    pub(super) fn is_missing(&self, dep: &Service, required: bool) -> bool {
        match &dep.state {
            State::Up(_) => dep.cycle || !dep.target,
            // Order alone: it counts only while it is on its way up.
            State::Starting(_) | State::Stopping(..) | State::Killing(..) | State::Sweeping(_) => {
                required || dep.target
            }
            // What waits until another one is stopped by hand is not on its way.
            State::Waiting => required || (dep.target && self.live_rivals(dep.id).is_empty()),
            State::Down(Rest::Done) => false,
            State::Backoff { .. } | State::Down(_) => required,
        }
    }

    pub(super) fn is_going_down(&self, service: &Service) -> bool {
        !service.target || service.cycle
    }

    /// Whether a service that has to go has to wait for others that go first.
    pub(super) fn is_held(&self, id: ServiceId) -> bool {
        self.order.of(id).followers.iter().any(|f| {
            self.services
                .get(f)
                .is_some_and(|s| !s.is_at_rest() && (!s.is_running() || self.is_going_down(s)))
        })
    }

    /// Who asked for the stop that is about to begin.
    pub(super) fn order_for(&self, id: ServiceId, now: Tick) -> stop::Order {
        let service = self.services.get(&id);
        if let Some(order) = service.and_then(|s| s.order.clone()) {
            return order;
        }
        if let Some(shutdown) = &self.shutdown {
            return stop::Order::new(shutdown.by.clone(), now);
        }
        let missing = self.order.of(id).requires.iter().find_map(|dep| {
            self.services
                .get(dep)
                .filter(|d| !d.target || d.cycle || !matches!(d.state, State::Up(_)))
        });
        let by = match missing {
            Some(dep) => Origin::Dependency {
                service: dep.spec.name.to_string(),
            },
            None => Origin::Policy,
        };
        stop::Order::new(by, now)
    }
}
