//! Another configuration: services come, go and change, and what that means for their instances.

use std::rc::Rc;

use super::Supervisor;
use crate::machine::event::{Change, Effect, ServiceId};
use crate::machine::report::Origin;
use crate::machine::service::{Context, Rest, Service, State, Want};
use crate::machine::spec::Spec;
use crate::machine::stop;
use crate::machine::time::Tick;

impl Supervisor {
    pub(super) fn configure(
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
        let mut relist = Vec::new();
        for (id, spec, change) in changed {
            match self.services.get_mut(&id) {
                None => {
                    let mut service = Service::new(id, spec, now);
                    service.start_by = by.clone();
                    if service.want == Want::Up {
                        service.schedule(now);
                    }
                    self.services.insert(id, service);
                }
                Some(service) => {
                    if service.gone {
                        service.gone = false;
                        back.push(id);
                        service.want = if spec.autostart { Want::Up } else { Want::Down };
                    }
                    if self.redefine(id, spec, by, now, effects) {
                        relist.push(id);
                    }
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
        for id in relist {
            self.list_deadline(id);
        }
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
            let rests = |s: &Service| s.is_of_day() && s.timer_rests();
            match self.services.get_mut(&id).filter(|s| rests(s)) {
                // No reason to run it at another time of day.
                Some(service) => {
                    service.record.clear();
                    service.schedule(now);
                    self.list_deadline(id);
                }
                None => self.try_afresh(id, by, now),
            }
        }
        self.watch_clock(effects);
        self.look_at_everything(effects);
    }

    /// Gives a service another definition, with what takes effect in place. Says whether its
    /// deadline may be another one now.
    fn redefine(
        &mut self,
        id: ServiceId,
        spec: Rc<Spec>,
        by: &Origin,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(service) = self.services.get_mut(&id) else {
            return false;
        };
        let mut relist = false;
        let old = std::mem::replace(&mut service.spec, spec);
        if old.restart_with != service.spec.restart_with {
            service.heeded = Some(now);
        }
        let watched = |s: &Spec| (s.health.clone(), s.watchdog);
        if watched(&old) != watched(&service.spec) {
            let mut cx = Context {
                effects,
                rng: &mut self.rng,
                actions: &mut self.actions,
            };
            service.renew_watch(now, &mut cx);
            relist = true;
        }
        if old.timer != service.spec.timer {
            service.begin_timer(now);
            if service.start_by == Origin::Timer {
                // It waits for its start, and that timer is no more.
                service.start_by = by.clone();
            }
            if service.state == State::Down(Rest::Scheduled) && !service.is_of_day() {
                service.start_by = by.clone();
                service.enter(State::Down(Rest::Stopped), now);
            }
            relist = true;
        }
        if old.wait_for != service.spec.wait_for {
            service.look_away(effects);
            relist = true;
        }
        if old.watch != service.spec.watch && service.files.is_some() {
            service.files = None;
            effects.push(Effect::WatchFiles(id, None));
            service.keep_files(effects);
            relist = true;
        }
        if old.max_connections != service.spec.max_connections {
            service.watch(effects);
        }
        relist
    }

    /// The running instance is to be replaced, and with it those that cannot be without it.
    /// A list instead of recursion, as for `dirty`.
    pub(in crate::machine) fn cycle(&mut self, id: ServiceId, by: &Origin, now: Tick) {
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
    pub(in crate::machine) fn try_afresh(&mut self, id: ServiceId, by: &Origin, now: Tick) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        match service.state {
            State::Down(Rest::Failed(_) | Rest::Finished | Rest::Done | Rest::Scheduled)
            | State::Backoff { .. } => {
                service.record.clear();
                service.start_by = by.clone();
                service.enter(State::Down(Rest::Stopped), now);
                self.list_deadline(id);
            }
            // What is to be decided soon is decided without the past.
            State::Waiting | State::Sweeping(_) | State::Stopping(..) | State::Killing(..) => {
                if service.stop().is_some_and(|s| s.order.is_unfit()) {
                    // Started again because of this wish, and not by the restart policy.
                    service.cycle = true;
                    service.start_by = by.clone();
                }
                service.record.clear();
            }
            // Its failures are of before it was stopped.
            State::Down(Rest::Stopped) => service.record.clear(),
            State::Starting(_) | State::Up(_) => {}
        }
    }
}
