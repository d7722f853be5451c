//! What somebody wants: requests, the end of superd. A wish is noted on the
//! services that it is about; what moves then, and in which order, `settle` decides.
//!
//! Longer than a file should be: a verb each, and most are a match on the states.

use std::rc::Rc;

use super::{Group, Shutdown, Supervisor};
use crate::machine::event::{ActionId, Answer, Effect, ServiceId, Target, Ticket, Verb, Wait};
use crate::machine::report::{Happening, Origin};
use crate::machine::service::{Context, Doing, Hold, Input, Rest, Service, State, Waiter, Want};
use crate::machine::signal::Signal;
use crate::machine::spec::To;
use crate::machine::stop;
use crate::machine::time::Tick;
use crate::map::Set;

impl Supervisor {
    #[allow(clippy::too_many_arguments)] // one line of the event, taken apart
    pub(super) fn request(
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
            .map(|id| match target {
                Target::All if self.is_an_alternative(*id, verb) => Some(Answer::Already),
                Target::All if self.is_left_to_its_timer(*id, verb) => {
                    Some(self.begin_timer(*id, by, now))
                }
                Target::All | Target::One(_) => self.wish(*id, verb, by, now, effects),
            })
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

    /// Whether it is not meant when everything is to be started: one that conflicts with
    /// others, and one of them is to run or it has no `autostart`.
    fn is_an_alternative(&self, id: ServiceId, verb: Verb) -> bool {
        let starts = matches!(verb, Verb::Start | Verb::Restart | Verb::RestartNow);
        let rivals = &self.order.of(id).rivals;
        let wanted = |r: &ServiceId| self.services.get(r).is_some_and(|r| r.want == Want::Up);
        let is_it =
            |s: &Service| s.is_at_rest() && (!s.spec.autostart || rivals.iter().any(wanted));
        starts && !rivals.is_empty() && self.services.get(&id).is_some_and(is_it)
    }

    /// Whether a start of everything is no reason to run it: its timer will.
    fn is_left_to_its_timer(&self, id: ServiceId, verb: Verb) -> bool {
        let starts = matches!(verb, Verb::Start | Verb::Restart | Verb::RestartNow);
        let rests = |s: &Service| match s.want {
            Want::Up => s.timer_rests(),
            Want::Down => s.is_of_day() && matches!(s.state, State::Down(_)),
        };
        let open = self.shutdown.is_none();
        let service = self.services.get(&id).filter(|s| !s.gone);
        starts && open && service.is_some_and(rests)
    }

    /// It is to run by its timer from now on.
    fn begin_timer(&mut self, id: ServiceId, by: &Origin, now: Tick) -> Answer {
        let Some(service) = self.services.get_mut(&id) else {
            return Answer::Already;
        };
        if service.want == Want::Up {
            return Answer::Already;
        }
        service.want = Want::Up;
        service.start_by = by.clone();
        service.keep_step(now);
        service.schedule(now);
        self.list_deadline(id);
        Answer::Done(None)
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
                let up = match service.state {
                    State::Up(_) => !service.cycle,
                    State::Down(Rest::Done) => service.stays_done(),
                    _ => false,
                };
                if up && service.want == Want::Up && service.target {
                    return Some(Answer::Already);
                }
                self.want_up(id, by, now, effects);
                // Still up: a stop of it, or of what it requires, is called off.
                up.then_some(Answer::Done(None))
            }
            Verb::Restart if service.asks_before_restart() => {
                self.check_restart(id, by, now, effects);
                None
            }
            Verb::Restart | Verb::RestartNow => {
                let running = service.is_running();
                service.note_absorbed();
                if running {
                    // First: a stop that had not begun is not called off but joined.
                    self.cycle(id, by, now);
                    self.note_force(id, verb == Verb::RestartNow);
                } else if service.spec.oneshot.is_some() {
                    // It has just ended: once more.
                    service.cycle |= matches!(service.state, State::Sweeping(_));
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
                    // Given up, finished or done: now it is stopped.
                    let done = matches!(service.state, State::Down(Rest::Done | Rest::Scheduled));
                    service.order = None;
                    service.enter(State::Down(Rest::Stopped), now);
                    service.keep_files(effects);
                    self.list_deadline(id);
                    // Who requires it is no longer blocked by a failure.
                    self.note_move(id, effects);
                    return Some(match done {
                        // And so are those who require it.
                        true => Answer::Done(None),
                        false => Answer::Already,
                    });
                }
                self.note_force(id, verb == Verb::StopNow);
                None
            }
            Verb::Signal(signal) => Some(self.signal(id, signal, by, effects)),
            Verb::Reload => self.reload(id, by, now, effects),
            Verb::Drain => self.drain(id, by, effects),
            Verb::Undrain => Some(self.undrain(id, by, effects)),
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
        let mut seen = Set::from([id]);
        let mut todo = vec![(id, by.clone())];
        let mut rivals: Vec<(ServiceId, Rc<str>)> = Vec::new();
        while let Some((id, by)) = todo.pop() {
            let done = |s: &Service| matches!(s.state, State::Down(Rest::Done));
            // What is done is not done again for those who require it.
            if id == asked || !self.services.get(&id).is_some_and(done) {
                self.try_afresh(id, &by, now);
            }
            let Some(service) = self.services.get_mut(&id) else {
                continue;
            };
            if service.gone {
                continue;
            }
            let edges = self.order.of(id).clone();
            let name = &service.spec.name;
            rivals.extend(edges.rivals.iter().map(|r| (*r, name.clone())));
            if service.want == Want::Down || id == asked {
                service.start_by = by;
            }
            service.want = Want::Up;
            let because = Origin::Dependency {
                service: service.spec.name.to_string(),
            };
            self.call_off(id, effects);
            for dep in edges.requires.iter().chain(&edges.wants) {
                if seen.insert(*dep) {
                    todo.push((*dep, because.clone()));
                }
            }
        }
        for (rival, service) in rivals {
            let wanted = |s: &Service| s.want == Want::Up;
            if !seen.contains(&rival) && self.services.get(&rival).is_some_and(wanted) {
                let by = Origin::Conflict {
                    service: service.to_string(),
                };
                self.wish(rival, Verb::Stop, &by, now, effects);
            }
        }
    }

    /// A stop that had not begun, because others had to go first, will not begin.
    pub(super) fn call_off(&mut self, id: ServiceId, effects: &mut Vec<Effect>) {
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

    pub(in crate::machine) fn reload(
        &mut self,
        id: ServiceId,
        by: &Origin,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) -> Option<Answer> {
        let service = self.services.get_mut(&id)?;
        if service.spec.reload.is_none() {
            let text = "it has no `reload` in its configuration";
            return Some(Answer::Refused(text.to_owned()));
        }
        if !matches!(service.state, State::Up(_)) || service.cycle {
            return Some(Answer::Refused("it is not running".to_owned()));
        }
        match &service.reload {
            Some(run) if run.is_before_restart() => {
                return Some(Answer::Refused(
                    "a restart of it is being checked".to_owned(),
                ));
            }
            // One at a time: this request waits for the one under way.
            Some(_) => return None,
            None => {}
        }
        effects.push(Effect::Publish(id, Happening::Reloading { by: by.clone() }));
        let mut cx = Context {
            effects,
            rng: &mut self.rng,
            actions: &mut self.actions,
        };
        let done = match service.spec.check {
            Some(_) => {
                service.begin_check(Doing::CheckForReload, now, &mut cx);
                false
            }
            None => service.begin_reload(now, &mut cx),
        };
        self.list_deadline(id);
        done.then_some(Answer::Done(None))
    }

    /// A restart is asked for, and the service's checker is to be asked first. One who asks
    /// while it is at work joins those who wait.
    pub(in crate::machine) fn check_restart(
        &mut self,
        id: ServiceId,
        by: &Origin,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if service
            .reload
            .as_ref()
            .is_some_and(|r| r.is_before_restart())
        {
            return;
        }
        let mut cx = Context {
            effects,
            rng: &mut self.rng,
            actions: &mut self.actions,
        };
        service.begin_check(Doing::CheckForRestart(by.clone()), now, &mut cx);
        self.list_deadline(id);
        let why = "somebody has asked for a restart meanwhile";
        self.dismiss(id, Waiter::wants_it_reloaded, why, effects);
    }

    /// The checker before a restart has ended.
    pub(super) fn verified(
        &mut self,
        id: ServiceId,
        verdict: Result<Origin, String>,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        match verdict {
            Ok(by) => {
                // Who has asked for something else meanwhile has dealt with those who wait. That its
                // definition has no checker any more is nothing of the kind.
                if self.services.get(&id).is_some_and(Service::is_well) {
                    self.cycle(id, &by, now);
                    if !is_about_itself(&by) {
                        self.want_up(id, &by, now, effects);
                    }
                    self.look_at_everything(effects);
                }
            }
            Err(why) => self.dismiss(id, Waiter::wants_it_up, &why, effects),
        }
    }

    fn drain(&mut self, id: ServiceId, by: &Origin, effects: &mut Vec<Effect>) -> Option<Answer> {
        let service = self.services.get_mut(&id)?;
        let goes = service.cycle || service.order.is_some();
        let instance = service.instance;
        let run = match &mut service.state {
            State::Up(run) if !goes => run,
            State::Starting(_) => {
                return Some(Answer::Refused("it has not started yet".to_owned()));
            }
            State::Up(_) | State::Stopping(..) | State::Killing(..) | State::Sweeping(_) => {
                return Some(Answer::Refused("it is being stopped".to_owned()));
            }
            State::Down(_) | State::Waiting | State::Backoff { .. } => {
                return Some(Answer::Refused("it is not running".to_owned()));
            }
        };
        match &run.drain {
            Some(hold) if hold.action.is_none() => return Some(Answer::Already),
            Some(_) => return None, // this request waits with the others
            None => {}
        }
        self.actions += 1;
        let action = ActionId(self.actions);
        let what = service.spec.stop.drain();
        run.filtered = true;
        run.drain = Some(Hold {
            action: Some(action),
            what: what.clone(),
            connections: None,
        });
        effects.push(Effect::Publish(id, Happening::Draining { by: by.clone() }));
        effects.push(Effect::Drain(id, instance, action, what));
        None
    }

    fn undrain(&mut self, id: ServiceId, by: &Origin, effects: &mut Vec<Effect>) -> Answer {
        let Some(service) = self.services.get_mut(&id) else {
            return Answer::Refused("it is no longer configured".to_owned());
        };
        let instance = service.instance;
        let hold = match &mut service.state {
            State::Up(run) => run.drain.take(),
            State::Stopping(..) | State::Killing(..) | State::Sweeping(_) => {
                return Answer::Refused("it is being stopped".to_owned());
            }
            State::Starting(_) | State::Down(_) | State::Waiting | State::Backoff { .. } => None,
        };
        let Some(hold) = hold else {
            return Answer::Already;
        };
        if let Some(action) = hold.action {
            effects.push(Effect::EndAction(id, instance, action));
        }
        if let State::Up(run) = &mut service.state {
            run.limited = false;
        }
        effects.push(Effect::LetGo(id, instance));
        if service.spec.max_connections.is_some() {
            service.watch(effects); // from the beginning
        }
        effects.push(Effect::Publish(id, Happening::Undrained { by: by.clone() }));
        let why = "somebody has ended the drain meanwhile";
        self.dismiss(id, Waiter::wants_it_drained, why, effects);
        Answer::Done(None)
    }

    pub(super) fn client_gone(&mut self, client: u64) {
        for service in self.services.values_mut() {
            service.waiters.retain(|w| w.ticket.client != client);
        }
        self.groups.retain(|ticket, _| ticket.client != client);
    }

    pub(super) fn shut_down(
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

    pub(super) fn force_everything(&mut self, by: Origin, now: Tick, effects: &mut Vec<Effect>) {
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
}

/// Whether a restart that a checker has allowed is about this instance only: nobody asked for
/// what belongs to it to be started.
fn is_about_itself(by: &Origin) -> bool {
    matches!(by, Origin::File { .. } | Origin::RestartWith { .. })
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
