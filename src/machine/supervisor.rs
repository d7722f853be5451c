//! All services together: wishes, order, and who is told what.
//!
//! A wish sets `want` (and `cycle`, for a restart); `settle` then brings
//! each service towards what is wanted, as far as the order allows. Facts go to the
//! service they are about, and then to its neighbours. Past 400 lines because facts and
//! order are one loop; wishes and answers have files of their own.

mod answers;
mod blocked;
mod places;
mod wishes;

use std::rc::Rc;

use super::event::{Adopted, Answer, Effect, Event, Instance, ServiceId, Ticket};
use super::order::Order;
use super::outlook::Condition;
use super::report::{Happening, Origin};
use super::restart::Rng;
use super::service::{Context, Input, Rest, Run, Service, State, Waiter, Want};
use super::stop;
use super::time::Tick;
use super::timer::Clock;
use crate::json::{FromJson, ToJson};
use crate::map::{Map, Set};

pub use blocked::Blocked;
use places::Places;

/// When superd itself is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// When it was asked to end and everything is down.
    WhenAsked,
    /// As soon as nothing runs and nothing is planned (wrap mode).
    WhenIdle,
}

/// The services, and which of them may have changed since somebody asked for that.
#[derive(Debug, Default)]
struct Services {
    /// In boxes: a node of the map has eleven places, and half of them are empty.
    all: Map<ServiceId, Box<Service>>,
    touched: Set<ServiceId>,
}

impl Services {
    fn get(&self, id: &ServiceId) -> Option<&Service> {
        self.all.get(id).map(|s| &**s)
    }

    fn values(&self) -> impl Iterator<Item = &Service> {
        self.all.values().map(|s| &**s)
    }

    fn get_mut(&mut self, id: &ServiceId) -> Option<&mut Service> {
        let found = self.all.get_mut(id)?;
        self.touched.insert(*id);
        Some(&mut **found)
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut Service> {
        self.touched.extend(self.all.keys().copied());
        self.all.values_mut().map(|s| &mut **s)
    }

    fn insert(&mut self, id: ServiceId, service: Service) {
        self.touched.insert(id);
        self.all.insert(id, Box::new(service));
    }

    fn remove(&mut self, id: &ServiceId) -> Option<Box<Service>> {
        self.touched.insert(*id);
        self.all.remove(id)
    }
}

impl std::ops::Deref for Services {
    type Target = Map<ServiceId, Box<Service>>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

/// superd's own end.
#[derive(Clone, Debug)]
struct Shutdown {
    by: Origin,
    /// KILL everything then.
    deadline: Tick,
    forced: bool,
}

/// A request about all services, which is answered once.
#[derive(Clone, Debug, ToJson, FromJson)]
pub struct Group {
    left: usize,
    worst: Answer,
    /// Whose answer that is, if it is one to be told.
    of: Vec<Rc<str>>,
}

/// The machine.
#[derive(Debug)]
pub struct Supervisor {
    services: Services,
    order: Order,
    rng: Rng,
    actions: u64,
    ending: Ending,
    shutdown: Option<Shutdown>,
    shutdown_within: Option<std::time::Duration>,
    finished: bool,
    groups: Map<Ticket, Group>,
    /// The deadlines of the services, soonest first; `Service::listed` says which is whose.
    deadlines: Set<(Tick, ServiceId)>,
    /// Services to be looked at, by their place in the order of starts. A queue instead
    /// of recursion: the depth of the stack must not depend on the configuration.
    dirty: Places,
    /// Some service has a timer by the wall clock, and the daemon watches that clock.
    watches_clock: bool,
}

impl Supervisor {
    /// No services yet. `seed` is the only chance there is.
    pub fn new(seed: u64, ending: Ending) -> Supervisor {
        Supervisor {
            services: Services::default(),
            order: Order::default(),
            rng: Rng::new(seed),
            actions: 0,
            ending,
            shutdown: None,
            shutdown_within: None,
            finished: false,
            groups: Map::new(),
            deadlines: Set::default(),
            dirty: Places::default(),
            watches_clock: false,
        }
    }

    /// Commands and requests have numbers after this one. A number that no superd of this boot
    /// has used: those of the last one may still run.
    pub fn number_actions_after(&mut self, number: u64) {
        self.actions = self.actions.max(number);
    }

    /// The longest that superd's own end may take before it KILLs; none: as long as the
    /// schedules take.
    pub fn set_shutdown_deadline(&mut self, within: Option<std::time::Duration>) {
        self.shutdown_within = within;
    }

    /// When [`Supervisor::handle_timeout`] wants to be called, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Tick> {
        let own = self
            .shutdown
            .as_ref()
            .filter(|s| !s.forced)
            .map(|s| s.deadline);
        let own = own.filter(|t| *t < Tick::NEVER && !self.finished);
        let first = self.deadlines.first().map(|(t, _)| *t);
        match (own, first) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        let late = |s: &Shutdown| !s.forced && now >= s.deadline;
        if self.shutdown.as_ref().is_some_and(late) && !self.finished {
            self.force_everything(Origin::Policy, now, effects);
        }
        let due: Vec<ServiceId> = self
            .deadlines
            .iter()
            .take_while(|(t, _)| *t <= now)
            .map(|(_, id)| *id)
            .collect();
        for id in due {
            self.feed(id, Input::Timeout, now, effects);
            self.heed_files(id, now, effects);
        }
        self.settle(now, effects);
        self.finish_if_done(effects);
    }

    /// Something happened, or somebody wants something.
    pub fn handle(&mut self, now: Tick, event: Event, effects: &mut Vec<Effect>) {
        match event {
            // What is required may not be known yet: nothing is settled before `Configure`.
            Event::Adopt(adopted) => return self.adopt(*adopted, now, effects),
            Event::Configure { changed, gone, by } => {
                self.configure(changed, &gone, &by, now, effects);
            }
            Event::Request {
                ticket,
                target,
                verb,
                wait,
                by,
            } => {
                self.request(ticket, target, verb, wait, &by, now, effects);
            }
            Event::ClientGone(client) => self.client_gone(client),
            Event::Shutdown {
                force,
                by,
                absorbed,
            } => {
                self.shut_down(force, by, absorbed, now, effects);
            }
            Event::Spawned(id, instance, pid) => {
                self.fact(id, instance, Input::Spawned(pid), now, effects);
            }
            Event::NotSpawned(id, instance, error) => {
                self.fact(id, instance, Input::NotSpawned(error), now, effects);
            }
            Event::Execed(id, instance) => self.fact(id, instance, Input::Execed, now, effects),
            Event::ExecFailed(id, instance, error) => {
                self.fact(id, instance, Input::ExecFailed(error), now, effects);
            }
            Event::Exited {
                service,
                instance,
                exit,
                crash,
                left,
            } => {
                self.fact(
                    service,
                    instance,
                    Input::Exited(exit, crash, left),
                    now,
                    effects,
                );
            }
            Event::PortsNoted(id, instance, n) => {
                self.fact(id, instance, Input::PortsNoted(n), now, effects);
            }
            Event::Checked(id, instance, check, found) => {
                self.fact(id, instance, Input::Checked(check, found), now, effects);
            }
            Event::Notified(id, instance, notice) => {
                self.fact(id, instance, Input::Notified(notice), now, effects);
            }
            Event::ActionEnded(id, instance, action, outcome) => {
                self.fact(
                    id,
                    instance,
                    Input::ActionEnded(action, outcome),
                    now,
                    effects,
                );
            }
            Event::Connections(id, instance, n) => {
                self.fact(id, instance, Input::Connections(n), now, effects);
            }
            Event::OutputMatched(id, instance) => {
                self.fact(id, instance, Input::OutputMatched, now, effects);
            }
            Event::Looked(id, instance, stuck) => {
                self.fact(id, instance, Input::Looked(stuck), now, effects);
            }
            Event::World(id, missing) => self.world_seen(id, missing, effects),
            Event::Clock(clock) => self.hear_clock(&clock, now, effects),
            Event::Files(id, prints) => self.files_seen(id, prints, now),
            Event::OrphanReaped => {
                let shrinking = |s: &&Service| match &s.state {
                    State::Stopping(..) | State::Sweeping(_) => true,
                    State::Starting(run) => run.is_preparing(),
                    State::Down(_)
                    | State::Waiting
                    | State::Up(_)
                    | State::Killing(..)
                    | State::Backoff { .. } => false,
                };
                let ids: Vec<ServiceId> = self
                    .services
                    .values()
                    .filter(shrinking)
                    .map(|s| s.id)
                    .collect();
                for id in ids {
                    self.feed(id, Input::OrphanReaped, now, effects);
                }
            }
        }
        self.settle(now, effects);
        self.finish_if_done(effects);
    }

    /// The services, by number.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// One service.
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(&id)
    }

    /// The services that may have changed since this was asked last, those that are gone
    /// among them.
    pub fn take_touched(&mut self) -> Set<ServiceId> {
        std::mem::take(&mut self.services.touched)
    }

    /// Whether [`Supervisor::take_touched`] has something.
    pub fn is_touched(&self) -> bool {
        !self.services.touched.is_empty()
    }

    /// The order of starts.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Whether superd was asked to end.
    pub fn is_shutting_down(&self) -> bool {
        self.shutdown.is_some()
    }

    /// What a service which is wanted up waits for: services, or something of the world.
    pub fn waits_for(&self, id: ServiceId) -> Vec<Rc<str>> {
        let services = self.missing_services(id);
        match self.services.get(&id) {
            Some(service) if services.is_empty() => service.missing_of_world(),
            Some(_) | None => services,
        }
    }

    fn missing_services(&self, id: ServiceId) -> Vec<Rc<str>> {
        let edges = self.order.of(id);
        let name = |dep: &ServiceId| self.services.get(dep).map(|s| s.spec.name.clone());
        let missing = |dep: &&ServiceId| {
            let required = edges.requires.contains(dep);
            self.services
                .get(dep)
                .is_some_and(|d| self.is_missing(d, required))
        };
        let missing = edges.before.iter().filter(missing);
        missing
            .chain(&self.live_rivals(id))
            .filter_map(name)
            .collect()
    }

    /// Of the services that never run at the same time as it, those that do.
    fn live_rivals(&self, id: ServiceId) -> Vec<ServiceId> {
        let runs = |other: &&ServiceId| self.services.get(other).is_some_and(|o| !o.is_at_rest());
        let rivals = self.order.of(id).rivals.iter();
        rivals.filter(runs).copied().collect()
    }

    /// Of the services that it requires, those that are not to run.
    pub fn unwanted(&self, id: ServiceId) -> Vec<Rc<str>> {
        let requires = self.order.of(id).requires.iter();
        let known = requires.filter_map(|dep| self.services.get(dep));
        let ended = |d: &Service| d.state == State::Down(Rest::Finished);
        let unwanted = known.filter(|d| d.want == Want::Down || ended(d));
        unwanted.map(|d| d.spec.name.clone()).collect()
    }

    /// What an earlier superd has left.
    fn adopt(&mut self, adopted: Adopted, now: Tick, effects: &mut Vec<Effect>) {
        let Adopted {
            service: id,
            spec,
            memory,
            found,
        } = adopted;
        let last = memory.actions().map(|a| a.0).max().unwrap_or(0);
        self.actions = self.actions.max(last);
        let mut service = Service::new(id, spec, now);
        service.recall(memory);
        let mut cx = Context {
            effects,
            rng: &mut self.rng,
            actions: &mut self.actions,
        };
        // Nobody waits yet, and everybody is looked at with `Configure`.
        service.resume(found, now, &mut cx);
        service.look_after_files(effects);
        self.services.insert(id, service);
        self.list_deadline(id);
    }

    // ---- for a superd that becomes another program (`keep.rs`) ----------------

    pub(super) fn last_action(&self) -> u64 {
        self.actions
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = (&Ticket, &Group)> {
        self.groups.iter()
    }

    /// A service that was there before.
    pub(super) fn put_back(&mut self, mut service: Service, now: Tick, effects: &mut Vec<Effect>) {
        let id = service.id;
        let mut cx = Context {
            effects,
            rng: &mut self.rng,
            actions: &mut self.actions,
        };
        service.look_again(now, &mut cx);
        service.look_after_files(effects);
        self.services.insert(id, service);
        self.list_deadline(id);
    }

    /// All services are there again: the order, and what of it is derived.
    pub(super) fn settle_again(
        &mut self,
        groups: Vec<(Ticket, Group)>,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        self.groups = groups.into_iter().collect();
        self.reorder();
        self.watch_clock(effects);
        self.retarget(effects);
        for id in self.order.line().to_vec() {
            self.settle_blocked(id, &mut Vec::new()); // told already
        }
        self.settle(now, effects);
    }

    // ---- facts -------------------------------------------------------------

    fn fact(
        &mut self,
        id: ServiceId,
        instance: Instance,
        input: Input,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        if self
            .services
            .get(&id)
            .is_some_and(|s| s.is_current(instance))
        {
            self.feed(id, input, now, effects);
        }
    }

    /// Gives a service an input, tells those who wait, and notes whom to look at next.
    fn feed(&mut self, id: ServiceId, input: Input, now: Tick, effects: &mut Vec<Effect>) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let mut cx = Context {
            effects,
            rng: &mut self.rng,
            actions: &mut self.actions,
        };
        let moved = service.input(now, input, &mut cx);
        if !matches!(service.state, State::Waiting) {
            service.look_away(effects);
            service.blocked = None;
        }
        if moved.state {
            service.keep_files(effects);
        }
        self.list_deadline(id);
        self.tell_waiters(id, &moved, effects);
        if moved.reloaded.is_some() || moved.verified.is_some() {
            // What had to wait for that.
            self.dirty.extend(self.order.place(id));
        }
        if let Some(verdict) = moved.verified {
            self.verified(id, verdict, now, effects);
        }
        if let Some(why) = &moved.start_failed {
            self.tell_dependents(id, why, effects);
        }
        if moved.state {
            self.note_move(id, effects);
        }
    }

    pub(super) fn service_mut(&mut self, id: ServiceId) -> Option<&mut Service> {
        self.services.get_mut(&id)
    }

    /// Somebody's wish has changed: who is to be up, and who has to move.
    pub(super) fn look_at_everything(&mut self, effects: &mut Vec<Effect>) {
        self.retarget(effects);
        self.look_at_all();
    }

    pub(super) fn list_deadline(&mut self, id: ServiceId) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let next = service.next_deadline();
        if next == service.listed {
            return;
        }
        if let Some(old) = service.listed {
            self.deadlines.remove(&(old, id));
        }
        if let Some(new) = next {
            self.deadlines.insert((new, id));
        }
        service.listed = next;
    }

    /// The service's state changed: look at it and everybody who may have waited for that.
    fn note_move(&mut self, id: ServiceId, effects: &mut Vec<Effect>) {
        let lost = |s: &Service| matches!(s.state, State::Down(Rest::Failed(_) | Rest::Finished));
        // One that is tried anew by its timer is lost no longer.
        let anew = |s: &Service| s.due.is_some() && s.state == State::Down(Rest::Stopped);
        if self.services.get(&id).is_some_and(|s| lost(s) || anew(s)) {
            self.retarget(effects);
        }
        let edges = self.order.of(id);
        let of_rivals = |rival: &ServiceId| &self.order.of(*rival).followers;
        let near = edges
            .followers
            .iter()
            .chain(&edges.before)
            .chain(&edges.rivals)
            .chain(edges.rivals.iter().flat_map(of_rivals))
            .chain(std::iter::once(&id));
        self.dirty
            .extend(near.filter_map(|other| self.order.place(*other)));
    }

    fn forget_if_gone(&mut self, id: ServiceId, effects: &mut Vec<Effect>) {
        let over = |s: &Service| s.gone && matches!(s.state, State::Down(_));
        if !self.services.get(&id).is_some_and(over) {
            return;
        }
        if let Some(service) = self.services.remove(&id) {
            if let Some(at) = service.listed {
                self.deadlines.remove(&(at, id));
            }
            for waiter in service.waiters {
                let text = "it is no longer configured".to_owned();
                let name = Some(&service.spec.name);
                self.answer(waiter.ticket, name, Answer::Failed(text), effects);
            }
            self.reorder();
            effects.push(Effect::Forget(id));
        }
    }

    // ---- order -------------------------------------------------------------

    /// The set of services or their order changed: work the graph out, look at everybody.
    fn reorder(&mut self) {
        self.order = Order::new(self.services.iter().map(|(id, s)| (*id, &*s.spec)));
        self.look_at_all();
    }

    fn look_at_all(&mut self) {
        self.dirty.extend(0..self.order.line().len());
    }

    /// Works out for every service whether it is to be up: wanted, and so is everything
    /// that it requires. Who waits for a start that will not come is told so.
    fn retarget(&mut self, effects: &mut Vec<Effect>) {
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
    fn settle(&mut self, now: Tick, effects: &mut Vec<Effect>) {
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
    fn with_others(&self, place: usize) -> Option<ServiceId> {
        let id = self.order.line().get(place)?;
        let has = |s: &&Service| !s.spec.restart_with.is_empty();
        self.services.get(id).filter(has).map(|s| s.id)
    }

    fn settle_files(&mut self, id: ServiceId, effects: &mut Vec<Effect>) {
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

    fn settle_stop(&mut self, id: ServiceId, now: Tick, effects: &mut Vec<Effect>) {
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

    fn settle_start(&mut self, id: ServiceId, now: Tick, effects: &mut Vec<Effect>) {
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
    fn world_allows(&mut self, id: ServiceId, now: Tick, effects: &mut Vec<Effect>) -> bool {
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

    fn world_seen(&mut self, id: ServiceId, missing: Vec<Condition>, effects: &mut Vec<Effect>) {
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

    /// The wall clock is read and watched while a service goes by it; then a changed definition
    /// is a reason to read it once more, because the zone may be another one.
    fn watch_clock(&mut self, effects: &mut Vec<Effect>) {
        if self.shutdown.is_some() {
            return;
        }
        let wanted = self.services.values().any(|s| s.is_of_day() && !s.gone);
        if wanted != self.watches_clock {
            self.watches_clock = wanted;
            effects.push(Effect::WatchClock(wanted));
        }
        if wanted {
            effects.push(Effect::ReadClock);
        }
    }

    fn hear_clock(&mut self, clock: &Rc<Clock>, now: Tick, effects: &mut Vec<Effect>) {
        let of_day = self.services.values().filter(|s| s.is_of_day());
        let of_day: Vec<ServiceId> = of_day.map(|s| s.id).collect();
        for id in of_day {
            let Some(service) = self.services.get_mut(&id) else {
                continue;
            };
            let moved = service.hear_clock(clock, now);
            self.list_deadline(id);
            if moved.state {
                self.note_move(id, effects);
            }
        }
    }

    fn look_away(&mut self, id: ServiceId, effects: &mut Vec<Effect>) {
        if let Some(service) = self.services.get_mut(&id) {
            service.look_away(effects);
        }
        self.list_deadline(id);
    }

    fn wait(&mut self, id: ServiceId, on: &[Rc<str>], now: Tick, effects: &mut Vec<Effect>) {
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
    fn is_missing(&self, dep: &Service, required: bool) -> bool {
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

    fn is_going_down(&self, service: &Service) -> bool {
        !service.target || service.cycle
    }

    /// Whether a service that has to go has to wait for others that go first.
    fn is_held(&self, id: ServiceId) -> bool {
        self.order.of(id).followers.iter().any(|f| {
            self.services
                .get(f)
                .is_some_and(|s| !s.is_at_rest() && (!s.is_running() || self.is_going_down(s)))
        })
    }

    /// Who asked for the stop that is about to begin.
    fn order_for(&self, id: ServiceId, now: Tick) -> stop::Order {
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

    fn finish_if_done(&mut self, effects: &mut Vec<Effect>) {
        let asked = match self.ending {
            Ending::WhenAsked => self.shutdown.is_some(),
            Ending::WhenIdle => self.shutdown.is_some() || !self.services.is_empty(),
        };
        let down = |s: &Service| matches!(s.state, State::Down(_));
        if asked && !self.finished && self.services.values().all(down) {
            self.finished = true;
            effects.push(Effect::Finish);
        }
    }
}
