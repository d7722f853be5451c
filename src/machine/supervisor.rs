//! All services together: wishes, order, and who is told what.
//!
//! A wish sets `want` (and `cycle`, for a restart); `settle` then brings
//! each service towards what is wanted, as far as the order allows. Facts go to the
//! service they are about, and then to its neighbours. Past 400 lines because every event
//! passes through here; wishes, answers and `settle` have files of their own.

mod answers;
mod blocked;
mod configure;
mod places;
mod settle;
mod wishes;

use std::rc::Rc;

use super::event::{Adopted, Answer, Effect, Event, Instance, ServiceId, Ticket};
use super::order::Order;
use super::report::Origin;
use super::restart::Rng;
use super::service::{Context, Input, Rest, Service, State, Want};
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
