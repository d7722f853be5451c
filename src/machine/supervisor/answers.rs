//! Who waits, for what, and what they are told. Each request has one answer.

use std::rc::Rc;

use super::blocked::failure_of;
use super::{Group, Supervisor};
use crate::machine::event::{Answer, Effect, Instance, ServiceId, Ticket, Verb};
use crate::machine::report::Verdict;
use crate::machine::restart::How;
use crate::machine::service::{Goal, Moved, Rest, Service, State, Waiter, Want};
use crate::machine::time::Tick;
use crate::map::Set;

impl Supervisor {
    /// Puts the asker on the list of those who wait; false when there is nothing to wait for.
    pub(super) fn enlist(&mut self, id: ServiceId, verb: Verb, ticket: Option<Ticket>) -> bool {
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
            Verb::Drain => Goal::Drained,
            Verb::Signal(_) | Verb::Undrain => return false,
        };
        service.waiters.push(Waiter { ticket, goal });
        true
    }

    pub(super) fn accepted(&self, id: ServiceId, verb: Verb, now: Tick) -> Answer {
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

    pub(super) fn tell_waiters(&mut self, id: ServiceId, moved: &Moved, effects: &mut Vec<Effect>) {
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
        let along = match moved.up && !answers.is_empty() {
            true => self.taken_along(id),
            false => Vec::new(),
        };
        for (ticket, answer) in answers {
            let finished = answer == Answer::Finished;
            let answer = match answer {
                Answer::Done(None) | Answer::Finished if !along.is_empty() => Answer::Along {
                    finished,
                    names: along.clone(),
                },
                other => other,
            };
            self.answer(ticket, Some(&name), answer, effects);
        }
    }

    /// A start came to nothing, and with it the starts of all that cannot be without it. It
    /// is tried again, but that may take minutes: who waits for one of those is told so.
    pub(super) fn tell_dependents(&mut self, id: ServiceId, why: &str, effects: &mut Vec<Effect>) {
        let Some(name) = self.services.get(&id).map(|s| s.spec.name.clone()) else {
            return;
        };
        let text = format!("it requires {name}, which could not be started: {why}");
        let mut seen = Set::from([id]);
        let mut todo = self.order.of(id).dependents.clone();
        while let Some(dependent) = todo.pop() {
            if seen.insert(dependent) {
                self.dismiss(dependent, Waiter::wants_it_up, &text, effects);
                todo.extend(&self.order.of(dependent).dependents);
            }
        }
    }

    /// Tells some of those who wait that it will not be.
    pub(super) fn dismiss(
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

    /// Why a service is not to be up, for those who wait for it.
    pub(super) fn why_not_up(&self, id: ServiceId) -> String {
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
            let down = |d: &Service| matches!(d.state, State::Down(_));
            let done = |d: &Service| matches!(d.state, State::Down(Rest::Done));
            let lost = |d: &Service| !d.target || (down(d) && !done(d));
            self.services.get(dep).is_some_and(lost)
        };
        // The one at the end of the chain; who requires whom is no circle.
        let mut last = None;
        let mut next = id;
        while let Some(dep) = self.order.of(next).requires.iter().find(culprit) {
            next = *dep;
            last = self.services.get(dep);
        }
        let Some(dep) = last else {
            return "something that it requires is not up".to_owned();
        };
        let how = match dep.want {
            Want::Down => "is stopped",
            Want::Up => "is not up",
        };
        let failed = failure_of(dep);
        failed.unwrap_or_else(|| format!("it requires {}, which {how}", dep.spec.name))
    }

    /// Answers a request, or a part of one about everything.
    pub(super) fn answer(
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
        let answer = match answer {
            // Of all services; whom each takes along is of no interest.
            Answer::Along { .. } => Answer::Done(None),
            other => other,
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
                return Some(match service.state {
                    State::Down(Rest::Done) => Answer::Finished,
                    _ => Answer::Done(None),
                });
            }
            if let (Some(why), true) = (&moved.start_failed, reached) {
                return Some(Answer::Failed(why.clone()));
            }
            // One that was stopped with what it requires, say, comes back with it.
            if let (Some((_, how)), true) = (&moved.over, reached && !moved.by_order) {
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
                State::Down(Rest::Done) => Some(Answer::Finished),
                State::Down(Rest::Scheduled) => Some(Answer::Failed(
                    "its definition has changed: it waits for its time of day".to_owned(),
                )),
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
        Goal::Drained => match (&moved.drained, &service.state) {
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
        Answer::Done(None) | Answer::Finished | Answer::Along { .. } => 1,
        Answer::Accepted { joined: true, .. } => 2,
        Answer::Accepted { joined: false, .. } => 3,
        Answer::Done(Some(Verdict::Clean)) => 4,
        Answer::Done(Some(Verdict::CleanAfterEscalation)) => 5,
        Answer::Done(Some(Verdict::ExitedByItself)) => 6,
        Answer::Done(Some(Verdict::LeftChildren | Verdict::PortsHeld)) => 7,
        Answer::Done(Some(Verdict::FailedWhileStopping)) => 8,
        Answer::Done(Some(Verdict::Killed)) => 9,
        Answer::Done(Some(Verdict::Crashed | Verdict::PanickedWhileStopping)) => 10,
        Answer::Failed(_) => 11,
        Answer::Refused(_) => 12,
        Answer::Worst(_, answer) => badness(answer),
    }
}
