//! All services together: wishes, order, and who is told what.
//!
//! A wish sets `want` (and `cycle`, for a restart); `settle` then brings
//! each service towards what is wanted, as far as the order allows. Facts go to the
//! service they are about, and then to its neighbours.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::event::{
    Adopted, Answer, Change, Effect, Event, Instance, ServiceId, Target, Ticket, Verb, Wait,
};
use super::order::Order;
use super::report::{Happening, Origin, Verdict};
use super::restart::{How, Rng};
use super::service::{Context, Goal, Input, Moved, ReloadRun, Rest, Service, State, Waiter, Want};
use super::signal::Signal;
use super::spec::{Reload, Spec, To};
use super::stop;
use super::time::Tick;

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
    all: BTreeMap<ServiceId, Service>,
    touched: BTreeSet<ServiceId>,
}

impl Services {
    fn get_mut(&mut self, id: &ServiceId) -> Option<&mut Service> {
        let found = self.all.get_mut(id)?;
        self.touched.insert(*id);
        Some(found)
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut Service> {
        self.touched.extend(self.all.keys());
        self.all.values_mut()
    }

    fn insert(&mut self, id: ServiceId, service: Service) {
        self.touched.insert(id);
        self.all.insert(id, service);
    }

    fn remove(&mut self, id: &ServiceId) -> Option<Service> {
        self.touched.insert(*id);
        self.all.remove(id)
    }
}

impl std::ops::Deref for Services {
    type Target = BTreeMap<ServiceId, Service>;

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
#[derive(Clone, Debug)]
struct Group {
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
    groups: BTreeMap<Ticket, Group>,
    /// The deadlines of the services, soonest first; `Service::listed` says which is whose.
    deadlines: BTreeSet<(Tick, ServiceId)>,
    /// Services to be looked at, by their place in the order of starts. A queue instead
    /// of recursion: the depth of the stack must not depend on the configuration.
    dirty: BTreeSet<usize>,
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
            groups: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            dirty: BTreeSet::new(),
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
            Event::OutputMatched(id, instance) => {
                self.fact(id, instance, Input::OutputMatched, now, effects);
            }
            Event::Looked(id, instance, stuck) => {
                self.fact(id, instance, Input::Looked(stuck), now, effects);
            }
            Event::OrphanReaped => {
                let shrinking =
                    |s: &&Service| matches!(s.state, State::Stopping(..) | State::Sweeping(_));
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
    pub fn take_touched(&mut self) -> BTreeSet<ServiceId> {
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

    /// Services that a service which is wanted up waits for.
    pub fn waits_for(&self, id: ServiceId) -> Vec<Rc<str>> {
        let edges = self.order.of(id);
        let name = |dep: &ServiceId| self.services.get(dep).map(|s| s.spec.name.clone());
        let missing = |dep: &&ServiceId| {
            let required = edges.requires.contains(dep);
            self.services
                .get(dep)
                .is_some_and(|d| self.is_missing(d, required))
        };
        edges
            .before
            .iter()
            .filter(missing)
            .filter_map(name)
            .collect()
    }

    /// Of the services that it requires, those that are not to run.
    pub fn unwanted(&self, id: ServiceId) -> Vec<Rc<str>> {
        let requires = self.order.of(id).requires.iter();
        let known = requires.filter_map(|dep| self.services.get(dep));
        let unwanted = known.filter(|d| d.want == Want::Down);
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
        self.services.insert(id, service);
        self.list_deadline(id);
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
        self.list_deadline(id);
        self.tell_waiters(id, &moved, effects);
        if let Some(why) = &moved.start_failed {
            self.tell_dependents(id, why, effects);
        }
        if moved.state {
            self.note_move(id, effects);
        }
    }

    fn list_deadline(&mut self, id: ServiceId) {
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
        if self.services.get(&id).is_some_and(lost) {
            self.retarget(effects);
        }
        let edges = self.order.of(id);
        let near = edges
            .followers
            .iter()
            .chain(&edges.before)
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
        self.dirty = (0..self.order.line().len()).collect();
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

    /// Why a service is not to be up, for those who wait for it.
    fn why_not_up(&self, id: ServiceId) -> String {
        let Some(service) = self.services.get(&id) else {
            return "it is no longer configured".to_owned();
        };
        if self.shutdown.is_some() {
            return "superd is shutting down".to_owned();
        }
        if service.gone {
            return "it is no longer configured".to_owned();
        }
        if service.want == Want::Down {
            return "somebody else asked for a stop meanwhile".to_owned();
        }
        let culprit = |dep: &&ServiceId| {
            let lost = |d: &Service| !d.target || matches!(d.state, State::Down(_));
            self.services.get(dep).is_some_and(lost)
        };
        let name = self.order.of(id).requires.iter().find(culprit);
        match name.and_then(|dep| self.services.get(dep)) {
            Some(dep) if dep.want == Want::Down => {
                format!("it requires {}, which is stopped", dep.spec.name)
            }
            Some(dep) => format!("it requires {}, which is not up", dep.spec.name),
            None => "something that it requires is not up".to_owned(),
        }
    }

    /// Tells some of those who wait that it will not be.
    fn dismiss(
        &mut self,
        id: ServiceId,
        whom: impl Fn(&Waiter) -> bool,
        why: &str,
        effects: &mut Vec<Effect>,
    ) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let all = std::mem::take(&mut service.waiters);
        let (away, kept): (Vec<Waiter>, Vec<Waiter>) = all.into_iter().partition(whom);
        service.waiters = kept;
        let name = service.spec.name.clone();
        for waiter in away {
            let answer = Answer::Failed(why.to_owned());
            self.answer(waiter.ticket, Some(&name), answer, effects);
        }
    }

    /// Brings everybody who was noted one step towards what is wanted, until nobody moves.
    /// Ends because a step that does not wait for an event leads only downwards (to Down
    /// or Waiting) or into a state that waits for one.
    fn settle(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        while let Some(place) = self.dirty.pop_first() {
            let Some(id) = self.order.line().get(place).copied() else {
                continue;
            };
            self.settle_stop(id, now, effects);
            self.settle_start(id, now, effects);
            self.forget_if_gone(id, effects);
        }
    }

    fn settle_stop(&mut self, id: ServiceId, now: Tick, effects: &mut Vec<Effect>) {
        let Some(service) = self.services.get(&id) else {
            return;
        };
        if !service.is_running() || !self.is_going_down(service) {
            return;
        }
        let order = self.order_for(id, now);
        if let (Origin::Dependency { .. }, Some(service)) = (&order.by, self.services.get_mut(&id))
        {
            // It comes back with that one, whoever had asked for it before.
            service.start_by = order.by.clone();
        }
        if order.force {
            self.feed(id, Input::Force(order), now, effects);
        } else if !self.is_held(id) {
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
        let missing = self.waits_for(id);
        if service.target && missing.is_empty() {
            let by = match matches!(service.state, State::Backoff { .. }) {
                true => Origin::Policy,
                false => service.start_by.clone(),
            };
            self.feed(id, Input::Start(by), now, effects);
        } else if !matches!(service.state, State::Waiting) {
            self.wait(id, &missing, now, effects);
        }
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
            State::Starting(_)
            | State::Waiting
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_) => required || dep.target,
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

    // ---- wishes ------------------------------------------------------------

    fn configure(
        &mut self,
        changed: Vec<(ServiceId, Rc<Spec>, Change)>,
        gone: &[ServiceId],
        by: &Origin,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        let mut cycling = Vec::new();
        let mut retrying = Vec::new();
        let mut back = Vec::new();
        for (id, spec, change) in changed {
            match self.services.get_mut(&id) {
                None => {
                    let mut service = Service::new(id, spec, now);
                    service.start_by = by.clone();
                    self.services.insert(id, service);
                }
                Some(service) => {
                    if service.gone {
                        service.gone = false;
                        back.push(id);
                        service.want = if spec.autostart { Want::Up } else { Want::Down };
                    }
                    service.spec = spec;
                    match change {
                        Change::New | Change::Program => cycling.push(id),
                        Change::Policy => retrying.push(id),
                    }
                }
            }
        }
        for id in gone {
            if let Some(service) = self.services.get_mut(id) {
                service.gone = true;
                service.want = Want::Down;
                service
                    .order
                    .get_or_insert_with(|| stop::Order::new(by.clone(), now));
            }
        }
        self.reorder();
        for id in back {
            if self.services.get(&id).is_some_and(|s| s.want == Want::Up) {
                self.call_off(id, effects);
            }
        }
        for id in retrying {
            let waits = |s: &Service| matches!(s.state, State::Backoff { .. });
            if self.services.get(&id).is_some_and(waits) {
                self.try_afresh(id, by, now);
            }
        }
        for id in cycling {
            self.cycle(id, by, now);
            self.try_afresh(id, by, now);
        }
        self.retarget(effects);
        self.look_at_all();
    }

    /// The running instance is to be replaced, and with it those that cannot be without it.
    /// A list instead of recursion, as for `dirty`.
    fn cycle(&mut self, id: ServiceId, by: &Origin, now: Tick) {
        let mut todo = vec![(id, by.clone())];
        while let Some((id, by)) = todo.pop() {
            let Some(service) = self.services.get_mut(&id) else {
                continue;
            };
            if !service.is_running() || service.cycle {
                continue;
            }
            service.cycle = true;
            service.start_by = by.clone();
            service
                .order
                .get_or_insert_with(|| stop::Order::new(by, now));
            let because = Origin::Dependency {
                service: service.spec.name.to_string(),
            };
            for dependent in &self.order.of(id).dependents {
                todo.push((*dependent, because.clone()));
            }
        }
    }

    /// What was given up, or waits for its next try, is tried again at once.
    fn try_afresh(&mut self, id: ServiceId, by: &Origin, now: Tick) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        match service.state {
            State::Down(Rest::Failed(_) | Rest::Finished) | State::Backoff { .. } => {
                service.record.clear();
                service.start_by = by.clone();
                service.enter(State::Down(Rest::Stopped), now);
                self.list_deadline(id);
            }
            // What is to be decided soon is decided without the past.
            State::Waiting | State::Sweeping(_) => service.record.clear(),
            State::Down(Rest::Stopped)
            | State::Starting(_)
            | State::Up(_)
            | State::Stopping(..)
            | State::Killing(..) => {}
        }
    }

    #[allow(clippy::too_many_arguments)] // one line of the event, taken apart
    fn request(
        &mut self,
        ticket: Option<Ticket>,
        target: Target,
        verb: Verb,
        wait: Wait,
        by: &Origin,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        let ids = match target {
            Target::One(id) => vec![id],
            Target::All => self.order.line().to_vec(),
        };
        if let (Target::All, Some(ticket)) = (target, ticket) {
            // One more than there are, taken back below: an answer that comes at once
            // must not complete the group while it is still being made.
            self.groups.insert(
                ticket,
                Group {
                    left: ids.len() + 1,
                    worst: Answer::Already,
                    of: Vec::new(),
                },
            );
        }
        // First everybody's wish, then the movement: with all wishes known, the order of
        // a stop of everything is seen as a whole.
        let stays =
            |early: &Option<Answer>| matches!(early, Some(Answer::Already | Answer::Refused(_)));
        let early: Vec<Option<Answer>> = ids
            .iter()
            .map(|id| self.wish(*id, verb, by, now, effects))
            .collect();
        let waiting: Vec<bool> = ids
            .iter()
            .zip(&early)
            .map(|(id, early)| {
                early.is_none() && wait == Wait::Done && self.enlist(*id, verb, ticket)
            })
            .collect();
        if matches!(
            verb,
            Verb::Start | Verb::Stop | Verb::StopNow | Verb::Restart | Verb::RestartNow
        ) && !early.iter().all(stays)
        {
            self.retarget(effects);
            if matches!(verb, Verb::StopNow | Verb::RestartNow) {
                for (id, early) in ids.iter().zip(&early) {
                    if early.is_none() {
                        let order = self.order_for(*id, now);
                        self.feed(*id, Input::Force(order), now, effects);
                    }
                }
            }
            self.look_at_all();
            self.settle(now, effects);
        }
        let Some(ticket) = ticket else { return };
        for ((id, early), waits) in ids.iter().zip(early).zip(waiting) {
            let name = self.services.get(id).map(|s| s.spec.name.clone());
            match (early, waits) {
                (Some(answer), _) => self.answer(ticket, name.as_ref(), answer, effects),
                (None, true) => {}
                (None, false) => {
                    let answer = self.accepted(*id, verb, now);
                    self.answer(ticket, name.as_ref(), answer, effects);
                }
            }
        }
        if target == Target::All {
            self.answer(ticket, None, Answer::Already, effects);
        }
    }

    /// Notes what is wanted. An answer when there is nothing more to it.
    fn wish(
        &mut self,
        id: ServiceId,
        verb: Verb,
        by: &Origin,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) -> Option<Answer> {
        let shutting = self.shutdown.is_some();
        let Some(service) = self.services.get_mut(&id) else {
            return Some(Answer::Refused("it is no longer configured".to_owned()));
        };
        match verb {
            Verb::Start | Verb::Restart | Verb::RestartNow if shutting => {
                Some(Answer::Refused("superd is shutting down".to_owned()))
            }
            Verb::Start | Verb::Restart | Verb::RestartNow if service.gone => {
                Some(Answer::Refused("it is no longer configured".to_owned()))
            }
            Verb::Start => {
                let up = matches!(service.state, State::Up(_)) && !service.cycle;
                if up && service.want == Want::Up && service.target {
                    return Some(Answer::Already);
                }
                self.want_up(id, by, now, effects);
                // Still up: a stop of it, or of what it requires, is called off.
                up.then_some(Answer::Done(None))
            }
            Verb::Restart | Verb::RestartNow => {
                let running = service.is_running();
                service.note_absorbed();
                if running {
                    // First: a stop that had not begun is not called off but joined.
                    self.cycle(id, by, now);
                    self.note_force(id, verb == Verb::RestartNow);
                }
                self.want_up(id, by, now, effects);
                None
            }
            Verb::Stop | Verb::StopNow => {
                let at_rest = matches!(service.state, State::Down(_));
                if at_rest && service.want == Want::Down {
                    return Some(Answer::Already);
                }
                service.note_absorbed();
                service.want = Want::Down;
                service
                    .order
                    .get_or_insert_with(|| stop::Order::new(by.clone(), now));
                if at_rest {
                    // Given up, or finished: now it is stopped.
                    service.order = None;
                    service.enter(State::Down(Rest::Stopped), now);
                    return Some(Answer::Already);
                }
                self.note_force(id, verb == Verb::StopNow);
                None
            }
            Verb::Signal(signal) => Some(self.signal(id, signal, by, effects)),
            Verb::Reload => self.reload(id, by, now, effects),
        }
    }

    /// `--now` for a stop that has not begun: it will begin with the KILL.
    fn note_force(&mut self, id: ServiceId, force: bool) {
        if let Some(order) = self.services.get_mut(&id).and_then(|s| s.order.as_mut()) {
            order.force |= force;
        }
    }

    /// Wants it, and everything that it requires, up.
    fn want_up(&mut self, id: ServiceId, by: &Origin, now: Tick, effects: &mut Vec<Effect>) {
        let asked = id;
        let mut seen = BTreeSet::from([id]);
        let mut todo = vec![(id, by.clone())];
        while let Some((id, by)) = todo.pop() {
            self.try_afresh(id, &by, now);
            let Some(service) = self.services.get_mut(&id) else {
                continue;
            };
            if service.gone {
                continue;
            }
            if service.want == Want::Down || id == asked {
                service.start_by = by;
            }
            service.want = Want::Up;
            let because = Origin::Dependency {
                service: service.spec.name.to_string(),
            };
            self.call_off(id, effects);
            for dep in &self.order.of(id).requires {
                if seen.insert(*dep) {
                    todo.push((*dep, because.clone()));
                }
            }
        }
    }

    /// A stop that had not begun, because others had to go first, will not begin.
    fn call_off(&mut self, id: ServiceId, effects: &mut Vec<Effect>) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if !service.is_running() || service.cycle {
            return;
        }
        service.order = None;
        let why = "somebody else asked for a start meanwhile";
        self.dismiss(id, Waiter::wants_it_over, why, effects);
    }

    fn signal(
        &mut self,
        id: ServiceId,
        signal: Signal,
        by: &Origin,
        effects: &mut Vec<Effect>,
    ) -> Answer {
        let Some(service) = self.services.get(&id) else {
            return Answer::Refused("it is no longer configured".to_owned());
        };
        let instance = service.instance;
        match &service.state {
            State::Up(_) if service.spec.stop.sends_to_main(signal) => {
                let text =
                    format!("its stop sends {signal}, and sends it once: use `stop` or `restart`");
                return Answer::Refused(text);
            }
            State::Up(_) => {}
            State::Stopping(..) | State::Killing(..) | State::Sweeping(_)
                if signal.ends_or_stops_a_process() =>
            {
                let text = "it is stopping; a second signal on top is what superd prevents \
                            (`stop --now` ends it at once)";
                return Answer::Refused(text.to_owned());
            }
            State::Stopping(..) => {}
            State::Starting(_) => {
                return Answer::Refused("it has not started yet".to_owned());
            }
            State::Down(_)
            | State::Waiting
            | State::Killing(..)
            | State::Sweeping(_)
            | State::Backoff { .. } => return Answer::Refused("it is not running".to_owned()),
        }
        effects.push(Effect::Signal(id, instance, signal, To::Main));
        effects.push(Effect::Publish(
            id,
            Happening::Signalled {
                signal,
                by: by.clone(),
            },
        ));
        Answer::Done(None)
    }

    fn reload(
        &mut self,
        id: ServiceId,
        by: &Origin,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) -> Option<Answer> {
        let service = self.services.get_mut(&id)?;
        let Some(reload) = service.spec.reload.clone() else {
            let text = "it has no `reload` in its configuration";
            return Some(Answer::Refused(text.to_owned()));
        };
        if !matches!(service.state, State::Up(_)) || service.cycle {
            return Some(Answer::Refused("it is not running".to_owned()));
        }
        if service.reload.is_some() {
            // One at a time: this request waits for the one under way.
            return None;
        }
        effects.push(Effect::Publish(id, Happening::Reloading { by: by.clone() }));
        match reload {
            Reload::Signal(signal) => {
                effects.push(Effect::Signal(id, service.instance, signal, To::Main));
                Some(Answer::Done(None))
            }
            Reload::Run(argv, wait) => {
                self.actions += 1;
                let action = super::event::ActionId(self.actions);
                let until = now + wait;
                service.reload = Some(ReloadRun {
                    action,
                    until,
                    wait,
                });
                effects.push(Effect::Run(id, service.instance, action, argv));
                self.list_deadline(id);
                None
            }
        }
    }

    fn client_gone(&mut self, client: u64) {
        for service in self.services.values_mut() {
            service.waiters.retain(|w| w.ticket.client != client);
        }
        self.groups.retain(|ticket, _| ticket.client != client);
    }

    fn shut_down(
        &mut self,
        force: bool,
        by: Origin,
        absorbed: u32,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        let again = self.shutdown.is_some();
        if again {
            for service in self.services.values_mut() {
                service.absorb(absorbed.saturating_add(u32::from(!force)));
            }
        } else {
            let deadline = self
                .shutdown_within
                .map_or(Tick::NEVER, |within| now + within);
            self.shutdown = Some(Shutdown {
                by: by.clone(),
                deadline,
                forced: false,
            });
            for service in self.services.values_mut() {
                // One who was asked to stop before is asked once more by this.
                let again = service.order.is_some() || service.stop().is_some();
                if service.is_running() {
                    service
                        .order
                        .get_or_insert_with(|| stop::Order::new(by.clone(), now));
                }
                service.absorb(absorbed.saturating_add(u32::from(again)));
            }
            self.retarget(effects);
        }
        if force {
            self.force_everything(by, now, effects);
        }
        if !again {
            self.look_at_all();
        }
    }

    fn force_everything(&mut self, by: Origin, now: Tick, effects: &mut Vec<Effect>) {
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.forced = true;
        }
        for id in self.order.line().to_vec().into_iter().rev() {
            if let Some(service) = self.services.get_mut(&id).filter(|s| s.is_running()) {
                service
                    .order
                    .get_or_insert_with(|| stop::Order::new(by.clone(), now));
            }
            self.note_force(id, true);
            let order = self.order_for(id, now);
            self.feed(id, Input::Force(order), now, effects);
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

    // ---- answers -----------------------------------------------------------

    /// Puts the asker on the list of those who wait; false when there is nothing to wait for.
    fn enlist(&mut self, id: ServiceId, verb: Verb, ticket: Option<Ticket>) -> bool {
        let (Some(ticket), Some(service)) = (ticket, self.services.get_mut(&id)) else {
            return false;
        };
        let goal = match verb {
            Verb::Stop | Verb::StopNow => Goal::Over(service.instance),
            Verb::Start => match service.state {
                // The present start will do.
                State::Starting(_) if !service.cycle => {
                    Goal::UpAfter(Instance(service.instance.0.wrapping_sub(1)))
                }
                State::Starting(_)
                | State::Down(_)
                | State::Waiting
                | State::Up(_)
                | State::Stopping(..)
                | State::Killing(..)
                | State::Sweeping(_)
                | State::Backoff { .. } => Goal::UpAfter(service.instance),
            },
            Verb::Restart | Verb::RestartNow => Goal::UpAfter(service.instance),
            Verb::Reload => Goal::Reloaded,
            Verb::Signal(_) => return false,
        };
        service.waiters.push(Waiter { ticket, goal });
        true
    }

    fn accepted(&self, id: ServiceId, verb: Verb, now: Tick) -> Answer {
        let stop = self.services.get(&id).and_then(Service::stop);
        let stopping = matches!(
            verb,
            Verb::Stop | Verb::StopNow | Verb::Restart | Verb::RestartNow
        );
        match stop.filter(|_| stopping) {
            Some(stop) => Answer::Accepted {
                joined: stop.order.absorbed > 0,
                left: Some(stop.left(now)),
            },
            None => Answer::Accepted {
                joined: false,
                left: None,
            },
        }
    }

    fn tell_waiters(&mut self, id: ServiceId, moved: &Moved, effects: &mut Vec<Effect>) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if service.waiters.is_empty() {
            return;
        }
        let mut kept = Vec::new();
        let mut answers = Vec::new();
        for waiter in std::mem::take(&mut service.waiters) {
            match verdict_for(service, waiter.goal, moved) {
                Some(answer) => answers.push((waiter.ticket, answer)),
                None => kept.push(waiter),
            }
        }
        service.waiters = kept;
        let name = service.spec.name.clone();
        for (ticket, answer) in answers {
            self.answer(ticket, Some(&name), answer, effects);
        }
    }

    /// A start came to nothing, and with it the starts of all that cannot be without it. It
    /// is tried again, but that may take minutes: who waits for one of those is told so.
    fn tell_dependents(&mut self, id: ServiceId, why: &str, effects: &mut Vec<Effect>) {
        let Some(name) = self.services.get(&id).map(|s| s.spec.name.clone()) else {
            return;
        };
        let text = format!("it requires {name}, which could not be started: {why}");
        let mut seen = BTreeSet::from([id]);
        let mut todo = self.order.of(id).dependents.clone();
        while let Some(dependent) = todo.pop() {
            if seen.insert(dependent) {
                self.dismiss(dependent, Waiter::wants_it_up, &text, effects);
                todo.extend(&self.order.of(dependent).dependents);
            }
        }
    }

    /// Answers a request, or a part of one about everything.
    fn answer(
        &mut self,
        ticket: Ticket,
        of: Option<&Rc<str>>,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        let Some(group) = self.groups.get_mut(&ticket) else {
            effects.push(Effect::Reply(ticket, answer));
            return;
        };
        group.left = group.left.saturating_sub(1);
        let (bad, worst) = (badness(&answer), badness(&group.worst));
        if bad > worst {
            group.worst = answer;
            group.of.clear();
        }
        if bad >= worst && bad > badness(&Answer::Done(Some(Verdict::Clean))) {
            group.of.extend(of.cloned());
        }
        if group.left > 0 {
            return;
        }
        if let Some(Group { worst, of, .. }) = self.groups.remove(&ticket) {
            let answer = match of.is_empty() {
                true => worst,
                false => Answer::Worst(of, Box::new(worst)),
            };
            effects.push(Effect::Reply(ticket, answer));
        }
    }
}

impl Service {
    /// A request that found a stop ordered or under way already changes nothing but this count.
    fn note_absorbed(&mut self) {
        self.absorb(1);
    }

    fn absorb(&mut self, n: u32) {
        let order = match &mut self.state {
            State::Stopping(_, stop) | State::Killing(_, stop, _) => Some(&mut stop.order),
            State::Sweeping(end) => end.stop.as_mut().map(|s| &mut s.order),
            State::Down(_)
            | State::Waiting
            | State::Starting(_)
            | State::Up(_)
            | State::Backoff { .. } => self.order.as_mut(),
        };
        if let Some(order) = order {
            order.absorbed = order.absorbed.saturating_add(n);
        }
    }
}

/// Whether a goal is reached, or can no longer be.
fn verdict_for(service: &Service, goal: Goal, moved: &Moved) -> Option<Answer> {
    match goal {
        Goal::Over(instance) => {
            let newer = service.instance.is_after(instance);
            match &moved.over {
                Some((verdict, _)) => Some(Answer::Done(Some(*verdict))),
                None if newer || service.is_at_rest() => Some(Answer::Done(None)),
                None => None,
            }
        }
        Goal::UpAfter(instance) => {
            let reached = service.instance.is_after(instance);
            if moved.up && reached {
                return Some(Answer::Done(None));
            }
            if let (Some(why), true) = (&moved.start_failed, reached) {
                return Some(Answer::Failed(why.clone()));
            }
            if let (Some((_, how)), true) = (&moved.over, reached) {
                let text = match how {
                    How::Success => "it ended before it was up",
                    How::Failure | How::PassingSpawnError | How::LastingSpawnError => {
                        "it failed before it was up"
                    }
                };
                return Some(Answer::Failed(text.to_owned()));
            }
            match &service.state {
                State::Down(Rest::Stopped) if service.want == Want::Down => Some(Answer::Failed(
                    "somebody else asked for a stop meanwhile".to_owned(),
                )),
                State::Down(Rest::Failed(why)) => Some(Answer::Failed(why.clone())),
                State::Down(Rest::Finished) => {
                    Some(Answer::Failed("it ended before it was up".to_owned()))
                }
                State::Down(Rest::Stopped)
                | State::Waiting
                | State::Starting(_)
                | State::Up(_)
                | State::Stopping(..)
                | State::Killing(..)
                | State::Sweeping(_)
                | State::Backoff { .. } => None,
            }
        }
        Goal::Reloaded => match (&moved.reloaded, &service.state) {
            (Some(Ok(())), _) => Some(Answer::Done(None)),
            (Some(Err(why)), _) => Some(Answer::Failed(why.clone())),
            (None, State::Up(_)) => None,
            (None, _) => Some(Answer::Failed("it stopped meanwhile".to_owned())),
        },
    }
}

/// Which of two answers about a group tells more of what went wrong.
fn badness(answer: &Answer) -> u32 {
    match answer {
        Answer::Already => 0,
        Answer::Done(None) => 1,
        Answer::Accepted { joined: true, .. } => 2,
        Answer::Accepted { joined: false, .. } => 3,
        Answer::Done(Some(Verdict::Clean)) => 4,
        Answer::Done(Some(Verdict::CleanAfterEscalation)) => 5,
        Answer::Done(Some(Verdict::ExitedByItself)) => 6,
        Answer::Done(Some(Verdict::LeftChildren)) => 7,
        Answer::Done(Some(Verdict::FailedWhileStopping)) => 8,
        Answer::Done(Some(Verdict::Killed)) => 9,
        Answer::Done(Some(Verdict::Crashed | Verdict::PanickedWhileStopping)) => 10,
        Answer::Failed(_) => 11,
        Answer::Refused(_) => 12,
        Answer::Worst(_, answer) => badness(answer),
    }
}
