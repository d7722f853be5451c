//! A service that begins: `pre-start`, the order to fork, the wait until it is ready.
//!
//! When each of these is done the table in `service.rs` says.

use std::time::Duration;

use super::finish::begin_without_steps;
use super::{Context, Input, Moved, Run, Service, State};
use crate::machine::end::{End, Swept};
use crate::machine::event::{Check, Effect, Instance};
use crate::machine::health::Watch;
use crate::machine::hook::{HookRun, Kind};
use crate::machine::ready::{self, About, Await};
use crate::machine::report::{Happening, Origin, SpawnError};
use crate::machine::restart::How;
use crate::machine::stop::Order;
use crate::machine::time::Tick;

impl Service {
    /// Starting, while `pre-start` is under way: of the program there is nothing yet.
    pub(super) fn prepare(&mut self, now: Tick, input: Input, cx: &mut Context<'_>) -> Moved {
        match input {
            Input::Halt(order) | Input::Force(order) => return self.abandon(order, now, cx),
            Input::Checked(Check::Commands, found) => {
                let hook = self.run().and_then(|run| run.hook.as_ref());
                if hook.is_some_and(|h| h.is_done(found.0)) {
                    return self.prepared(now, cx);
                }
            }
            Input::ActionEnded(action, outcome) => self.with_hook(now, cx, |hook, about| {
                hook.action_ended(action, &outcome, about);
            }),
            Input::OrphanReaped => {
                self.with_hook(now, cx, |hook, about| hook.tree_shrank(about));
            }
            Input::Timeout => {
                self.leave_out(now, cx);
                self.with_hook(now, cx, HookRun::timeout);
            }
            Input::Start(_)
            | Input::Spawned(_)
            | Input::NotSpawned(_)
            | Input::Execed
            | Input::ExecFailed(_)
            | Input::Exited(..)
            | Input::PortsNoted(_)
            | Input::Checked(..)
            | Input::Notified(_)
            | Input::Connections(_)
            | Input::OutputMatched
            | Input::Looked(_) => {}
        }
        Moved::default()
    }

    pub(super) fn begin_start(&mut self, by: Origin, now: Tick, cx: &mut Context<'_>) -> Moved {
        if self.instance == Instance(0) && !self.is_of_day() {
            // The first start is what the next ones are counted from.
            self.due = None;
        }
        self.instance = Instance(self.instance.0.wrapping_add(1).max(1));
        if by == Origin::Policy {
            self.restarts = self.restarts.saturating_add(1);
        }
        self.says.clear();
        self.keep_step(now);
        self.order = None;
        self.cycle = false;
        let (id, instance) = (self.id, self.instance);
        cx.publish(id, Happening::Starting { instance, by });
        let mut run = Run::new(instance, now);
        run.awaits = self.spec.ready.clone().map(|r| Box::new(Await::new(r)));
        self.renew_files(cx.effects);
        let mut about = About::new(now, id, instance, cx);
        let hooks = self.spec.hooks.as_ref();
        match hooks.and_then(|h| h.pre_start.as_ref()) {
            Some(hook) => run.begin_hook(Kind::PreStart, hook, Vec::new(), &mut about),
            None => order_to_fork(&run, &mut about),
        }
        self.enter(State::Starting(run), now)
    }

    /// `pre-start` is done, and nothing of it is left.
    pub(super) fn prepared(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        let (id, instance) = (self.id, self.instance);
        let State::Starting(run) = &mut self.state else {
            return Moved::default();
        };
        let fault = run.hook.take().and_then(|hook| hook.fault());
        if let Some(error) = fault {
            return self.never_ran(error, now, cx);
        }
        run.began = now;
        // It may have written them.
        self.renew_files(cx.effects);
        let ready = self.spec.ready.clone();
        let State::Starting(run) = &mut self.state else {
            return Moved::default();
        };
        // A reload may have come meanwhile, and what is forked now is of the new kind.
        run.awaits = ready.map(|r| Box::new(Await::new(r)));
        let mut about = About::new(now, id, instance, cx);
        order_to_fork(run, &mut about);
        let run = run.clone();
        self.enter(State::Starting(run), now)
    }

    /// A stop comes while `pre-start` is under way: it is killed, and nothing is started.
    pub(super) fn abandon(&mut self, order: Order, now: Tick, cx: &mut Context<'_>) -> Moved {
        let id = self.id;
        let after = self.spec.stop.after;
        let Some((mut run, _, _)) = self.take_run() else {
            return Moved::default();
        };
        let instance = run.instance;
        let stop = begin_without_steps(order, Duration::ZERO, after, &run, id, now, cx);
        let hook = run.hook.take();
        let mut end = End::of_nothing(run, Some(stop), now);
        if let Some(mut hook) = hook {
            hook.cut_short(&mut About::new(now, id, instance, cx));
            end.note_hook(&hook, now);
        }
        let moved = self.enter(State::Sweeping(Box::new(end)), now);
        self.swept(moved, Swept::Clean, now, cx)
    }

    /// Lets the hook that is under way do something.
    pub(super) fn with_hook(
        &mut self,
        now: Tick,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut HookRun, &mut About<'_, '_>),
    ) {
        let (id, instance) = (self.id, self.instance);
        let (State::Starting(run) | State::Up(run)) = &mut self.state else {
            return;
        };
        if let Some(hook) = &mut run.hook {
            act(hook, &mut About::new(now, id, instance, cx));
        }
    }

    /// What `post-start` has left behind is dead before the end of the instance; nobody waits
    /// for that now.
    pub(super) fn end_post_start(&mut self) {
        if let State::Up(run) = &mut self.state {
            run.hook.take_if(|hook| hook.action().is_none());
        }
    }

    pub(in crate::machine) fn begin_post_start(&mut self, now: Tick, cx: &mut Context<'_>) {
        let (id, instance) = (self.id, self.instance);
        let hooks = self.spec.hooks.clone();
        let Some(hook) = hooks.as_ref().and_then(|h| h.post_start.as_ref()) else {
            return;
        };
        if let State::Up(run) = &mut self.state {
            let mut about = About::new(now, id, instance, cx);
            run.begin_hook(Kind::PostStart, hook, Vec::new(), &mut about);
        }
    }

    pub(super) fn never_ran(
        &mut self,
        error: SpawnError,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> Moved {
        if let State::Starting(run) = &mut self.state {
            let hooks = self.spec.hooks.as_ref();
            if run.hooked || hooks.is_some_and(|h| h.post_stop.is_some()) {
                run.exec_error = Some(error);
                let end = End::of_nothing(run.clone(), None, now);
                let moved = self.enter(State::Sweeping(Box::new(end)), now);
                return self.swept(moved, Swept::Clean, now, cx);
            }
        }
        let how = match error.is_transient() {
            true => How::PassingSpawnError,
            false => How::LastingSpawnError,
        };
        let text = error.to_string();
        let happening = Happening::StartFailed {
            instance: self.instance,
            error,
        };
        cx.publish(self.id, happening);
        cx.effects.push(Effect::Release(self.id, self.instance));
        let error = Some(text.clone());
        let mut moved = self.decide_next(how, Duration::ZERO, error, false, now, cx);
        moved.start_failed = Some(text);
        moved
    }

    /// The program executes: it is up, or waited for.
    pub(super) fn executes(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        let State::Starting(run) = &self.state else {
            return Moved::default();
        };
        let Some(wait) = run.awaits.as_ref().filter(|w| !w.executing) else {
            return match run.awaits {
                None => self.become_up(now, cx),
                Some(_) => Moved::default(),
            };
        };
        if let Some(pid) = run.pid {
            let happening = Happening::Executing {
                instance: run.instance,
                pid,
                awaited: wait.ready.sign.to_string(),
            };
            cx.publish(self.id, happening);
        }
        self.in_wait(now, cx, Await::execed)
    }

    /// Lets the wait for its readiness do something; when it is over, Up or the stop of what
    /// is not fit.
    pub(in crate::machine) fn in_wait(
        &mut self,
        now: Tick,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Await, &mut About<'_, '_>) -> ready::Course,
    ) -> Moved {
        let (id, instance) = (self.id, self.instance);
        let State::Starting(run) = &mut self.state else {
            return Moved::default();
        };
        let Some(wait) = &mut run.awaits else {
            return Moved::default();
        };
        let mut about = About::new(now, id, instance, cx);
        match act(wait, &mut about) {
            ready::Course::GoesOn => Moved::default(),
            ready::Course::Ready => self.become_up(now, cx),
            ready::Course::TimeIsUp(why) => {
                let by = Origin::Unfit { why: why.clone() };
                let mut order = Order::new(by, now);
                order.unready = true;
                let mut moved = self.begin_stop(order, now, cx);
                moved.start_failed = Some(why);
                moved
            }
        }
    }

    pub(super) fn become_up(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        let State::Starting(run) = &self.state else {
            return Moved::default();
        };
        let mut run = run.clone();
        run.awaits = None;
        if let Some(pid) = run.pid {
            cx.publish(
                self.id,
                Happening::Up {
                    instance: run.instance,
                    pid,
                },
            );
        }
        self.watch = Watch::begin(&self.spec, now);
        // What was on its way when another superd took it over may have been up for that one,
        // and others may have been started since: they do not come before it.
        let since = match run.adopted {
            true => self.since,
            false => now,
        };
        let mut moved = self.enter(State::Up(run), since);
        if self.spec.max_connections.is_some() {
            self.watch(cx.effects);
        }
        self.begin_post_start(now, cx);
        moved.up = true;
        moved
    }
}

/// The order to fork, and what has to be noted before it and looked at from then on.
fn order_to_fork(run: &Run, about: &mut About<'_, '_>) {
    if let Some(wait) = &run.awaits {
        wait.before_start(about);
    }
    let (id, instance) = (about.id, about.instance);
    about.cx.effects.push(Effect::Spawn(id, instance));
    if let Some(wait) = &run.awaits {
        wait.after_start(about);
    }
}
