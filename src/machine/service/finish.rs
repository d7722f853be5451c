//! A service that ends: the stop and the KILL, what is left of it, and what comes after that.
//!
//! When each of these is done the table in `service.rs` says.

use std::rc::Rc;
use std::time::Duration;

use super::{Context, Kill, Moved, Rest, Run, Service, State, Want, GIVEN_UP, KILL_AGAIN};
use crate::machine::end::{End, Swept};
use crate::machine::event::{Effect, ServiceId};
use crate::machine::ready::About;
use crate::machine::report::{Crash, EndReport, Exit, Happening, Origin, SpawnError, Stage};
use crate::machine::restart::{How, Next};
use crate::machine::spec::Schedule;
use crate::machine::stop::{Course, Order, Scene, Stop};
use crate::machine::time::Tick;

impl Service {
    pub(super) fn take_run(&mut self) -> Option<(Run, Option<Box<Stop>>, bool)> {
        match std::mem::replace(&mut self.state, State::Waiting) {
            State::Starting(run) | State::Up(run) => Some((run, None, false)),
            State::Stopping(run, stop) => Some((run, Some(stop), false)),
            State::Killing(run, stop, _) => Some((run, Some(stop), true)),
            other @ (State::Down(_)
            | State::Waiting
            | State::Sweeping(_)
            | State::Backoff { .. }) => {
                self.state = other;
                None
            }
        }
    }

    pub(super) fn begin_stop(&mut self, order: Order, now: Tick, cx: &mut Context<'_>) -> Moved {
        if self.spec.stop.steps.is_empty() {
            // `config` refuses that; should one reach this place, it must not hang.
            return self.begin_kill(order, now, cx);
        }
        self.end_own_actions(now, cx);
        let schedule = self.spec.stop.clone();
        let Some((run, _, _)) = self.take_run() else {
            return Moved::default();
        };
        let mut scene = Scene::of(&run, self.id, now, cx);
        let stop = Stop::begin(order, schedule, &mut scene);
        self.enter(State::Stopping(run, Box::new(stop)), now)
    }

    pub(super) fn begin_kill(&mut self, order: Order, now: Tick, cx: &mut Context<'_>) -> Moved {
        self.end_own_actions(now, cx);
        let Schedule {
            leftover_grace: grace,
            after,
            ..
        } = *self.spec.stop;
        let Some((run, _, _)) = self.take_run() else {
            return Moved::default();
        };
        let stop = begin_without_steps(order, grace, after, &run, self.id, now, cx);
        self.kill(run, Box::new(stop), now, cx)
    }

    pub(super) fn cut_short(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        let Some((run, Some(mut stop), _)) = self.take_run() else {
            return Moved::default();
        };
        let mut scene = Scene::of(&run, self.id, now, cx);
        stop.look(&mut scene);
        stop.force(&mut scene);
        self.kill(run, stop, now, cx)
    }

    pub(super) fn kill(
        &mut self,
        run: Run,
        mut stop: Box<Stop>,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> Moved {
        stop.killed = true;
        let what = "KILL to the tree".to_owned();
        let happening = Happening::Step {
            instance: run.instance,
            what,
            wait: KILL_AGAIN,
        };
        // First the deed: to say it takes time.
        cx.effects.push(Effect::KillTree(self.id, run.instance));
        cx.publish(self.id, happening);
        self.enter(State::Killing(run, stop, Kill::begin(now)), now)
    }

    pub(super) fn kill_again(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        if let State::Killing(run, _, kill) = &mut self.state {
            if kill.is_due(now) {
                cx.effects.push(Effect::KillTree(self.id, run.instance));
                let since = now - kill.since;
                let happening = Happening::Unkillable {
                    instance: run.instance,
                    left: 1,
                    since,
                };
                cx.publish(self.id, happening);
            }
        }
        Moved::default()
    }

    /// Lets the stop under way do something; when no step is left, KILL.
    pub(super) fn in_stop(
        &mut self,
        now: Tick,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Stop, &mut Scene<'_, '_>) -> Course,
    ) -> Moved {
        let id = self.id;
        let State::Stopping(run, stop) = &mut self.state else {
            return Moved::default();
        };
        let mut scene = Scene::of(run, id, now, cx);
        match act(stop, &mut scene) {
            Course::GoesOn => Moved::default(),
            Course::Exhausted => {
                // At a deadline this was done before it. Here no deadline is near.
                stop.look(&mut scene);
                match self.take_run() {
                    Some((run, Some(stop), _)) => self.kill(run, stop, now, cx),
                    Some(_) | None => Moved::default(),
                }
            }
        }
    }

    /// The main process is reaped: clear the rest of the tree away.
    pub(in crate::machine) fn sweep(
        &mut self,
        exit: Exit,
        crash: Option<Crash>,
        left: Option<u32>,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> Moved {
        self.end_own_actions(now, cx);
        let Some((run, stop, killing)) = self.take_run() else {
            return Moved::default();
        };
        let mut stop = stop.map(|s| *s);
        if let Some(stop) = &mut stop {
            let mut scene = Scene {
                now,
                id: self.id,
                instance: run.instance,
                says_stopping: false,
                cx,
            };
            stop.gone(&mut scene);
        }
        // As it was when the stop began: a reload does not postpone a KILL.
        let grace = match &stop {
            Some(stop) => stop.leftover_grace(),
            None => self.spec.stop.leftover_grace,
        };
        let mut end = End::new(run, exit, crash, stop, now);
        let swept = end.begin(self.id, left, killing, grace, now, cx);
        let moved = self.enter(State::Sweeping(Box::new(end)), now);
        self.swept(moved, swept, now, cx)
    }

    /// What it is on the way into Sweeping, and perhaps out of it at once.
    pub(super) fn swept(
        &mut self,
        mut moved: Moved,
        swept: Swept,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> Moved {
        let after = self.after_sweep(swept, now, cx);
        moved.up = after.up;
        moved.over = after.over;
        moved.by_order = after.by_order;
        moved.start_failed = after.start_failed;
        moved
    }

    /// If the tree is empty: report, let go, and decide what is next.
    pub(super) fn after_sweep(&mut self, swept: Swept, now: Tick, cx: &mut Context<'_>) -> Moved {
        match swept {
            Swept::NotYet => return Moved::default(),
            Swept::Clean => {}
        }
        let id = self.id;
        if let State::Sweeping(end) = &mut self.state {
            let instance = end.run.instance;
            let mut about = About::new(now, id, instance, cx);
            match end.next_hook(&self.spec, &mut about) {
                Swept::NotYet => return Moved::default(),
                Swept::Clean => {}
            }
        }
        let State::Sweeping(end) = std::mem::replace(&mut self.state, State::Waiting) else {
            return Moved::default();
        };
        let end = *end;
        let instance = end.run.instance;
        let stopped = end.stop.is_some();
        let order = end.stop.as_ref().map(|s| &s.order);
        let unfit = order.is_some_and(Order::is_unfit);
        let stay = order.is_some_and(|o| o.stay);
        let why = match order.map(|o| &o.by) {
            Some(Origin::Unfit { why }) => Some(why.clone()),
            Some(_) | None => None,
        };
        let unready = end.run.awaits.is_some();
        let was_born = end.run.pid.is_some() || end.run.exec_error.is_none();
        let error = end.run.exec_error.clone();
        let (report, success) = end.report(&self.spec, now);
        // One that never was up was not stable, however long it took.
        let ran = match unready || !was_born {
            true => Duration::ZERO,
            false => report.ran,
        };
        let (verdict, exit) = (report.verdict, report.exit);
        // What was never executed has not exited.
        if error.is_none() && (report.pid.is_some() || report.exit != Exit::Unknown) {
            self.last = Some((report.exit, verdict));
        }
        self.publish_end(report, error.clone(), cx);
        cx.effects.push(Effect::Release(self.id, instance));
        let how = match (&error, success) {
            (Some(e), _) if e.stage == Stage::PreStart => How::Failure,
            (Some(e), _) if e.is_transient() => How::PassingSpawnError,
            (Some(_), _) => How::LastingSpawnError,
            (None, _) if unfit => How::Failure,
            (None, true) => How::Success,
            (None, false) => How::Failure,
        };
        let text = error.map(|e| e.to_string());
        let mut moved = match why {
            Some(why) if stay && self.is_to_stay() => self.give_up(why, now, cx),
            why => {
                let why = text.clone().or(why);
                self.decide_next(how, ran, why, stopped && !unfit, now, cx)
            }
        };
        moved.over = (was_born || stopped).then_some((verdict, how));
        moved.by_order = stopped && !unfit;
        moved.start_failed = match (unready && !stopped && !moved.up, self.spec.oneshot) {
            (true, None) => text.or_else(|| Some(format!("it {exit} before it was ready"))),
            (true, Some(_)) => text.or_else(|| Some(format!("it {exit}"))),
            (false, _) => text,
        };
        moved
    }

    pub(super) fn publish_end(
        &self,
        report: EndReport,
        error: Option<SpawnError>,
        cx: &mut Context<'_>,
    ) {
        let instance = report.instance;
        let happening = match error {
            Some(error) => Happening::StartFailed { instance, error },
            None => Happening::Ended(Box::new(report)),
        };
        cx.publish(self.id, happening);
    }

    /// Nobody has asked for anything else since superd found it unfit.
    pub(super) fn is_to_stay(&self) -> bool {
        self.want == Want::Up && !self.gone && self.target && !self.cycle && self.order.is_none()
    }

    pub(super) fn give_up(&mut self, why: String, now: Tick, cx: &mut Context<'_>) -> Moved {
        cx.publish(self.id, Happening::GivenUp { why: why.clone() });
        self.enter(State::Down(Rest::Failed(why)), now)
    }

    /// Nothing runs any more: Down, Backoff, or Waiting for the supervisor to start it.
    /// `stopped`: a stop was under way, so the end is no business of the restart policy.
    pub(in crate::machine) fn decide_next(
        &mut self,
        how: How,
        ran: Duration,
        error: Option<String>,
        stopped: bool,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> Moved {
        let asked = stopped || self.cycle || self.order.is_some();
        self.keep_step(now);
        self.cycle = false;
        self.order = None;
        if self.gone || self.want == Want::Down {
            return self.enter(State::Down(Rest::Stopped), now);
        }
        if self.spec.oneshot.is_some() && how == How::Success && !asked && self.target {
            let instance = self.instance;
            self.record.clear();
            cx.publish(self.id, Happening::Done { instance });
            let mut moved = self.enter(State::Down(Rest::Done), now);
            moved.up = true;
            return moved;
        }
        if asked || !self.target {
            // It was made to go (restart, dependency, shutdown); the supervisor starts
            // it again when it is to be up.
            if self.start_by == Origin::Timer {
                self.start_by = Origin::Policy; // its timer had this run
            }
            return self.enter(State::Waiting, now);
        }
        let next = self.record.next(&self.spec.restart, now, ran, how, cx.rng);
        let failures = self.record.failures();
        match next {
            Next::Stay => {
                let (rest, why) = match (how, error) {
                    (How::Success, _) => (Rest::Finished, "it has finished".to_owned()),
                    (_, Some(e)) => (Rest::Failed(e.clone()), e),
                    (_, None) => (Rest::Failed(GIVEN_UP.to_owned()), GIVEN_UP.to_owned()),
                };
                cx.publish(self.id, Happening::GivenUp { why });
                self.enter(State::Down(rest), now)
            }
            Next::After(pause) | Next::Slowly(pause) => {
                let slow = matches!(next, Next::Slowly(_));
                let crash_loop = slow && error.is_none();
                let happening = Happening::Restarting {
                    pause,
                    failures,
                    crash_loop,
                };
                cx.publish(self.id, happening);
                let until = now + pause;
                // Without a pause it is due at once, in this turn of the loop.
                self.enter(State::Backoff { until, slow, error }, now)
            }
        }
    }
}

/// A stop whose schedule is cut short before its first step.
pub(super) fn begin_without_steps(
    order: Order,
    leftover_grace: Duration,
    after: Duration,
    run: &Run,
    id: ServiceId,
    now: Tick,
    cx: &mut Context<'_>,
) -> Stop {
    let nothing = Schedule {
        steps: Vec::new(),
        leftover_grace,
        after,
    };
    let mut scene = Scene::of(run, id, now, cx);
    let mut stop = Stop::begin(order, Rc::new(nothing), &mut scene);
    stop.force(&mut scene);
    stop
}
