//! How a service goes on when another superd takes it over: from the state that was recalled
//! ([`Memory`](super::memory::Memory)) and what is found to be there. A row of the table at the head of
//! `service`, so to speak, for an input that comes once.

use super::event::{Check, Effect, Pid, Presence, ServiceId};
use super::ready::{About, Await};
use super::report::{Exit, Happening};
use super::service::{Context, Moved, Rest, Run, Service, State, Want};
use super::stop::Scene;
use super::time::Tick;

impl Service {
    /// Goes on from a state that was recalled, with what is found to be there.
    pub fn resume(&mut self, found: Presence, now: Tick, cx: &mut Context<'_>) -> Moved {
        let id = self.id;
        let instance = self.instance;
        match (&mut self.state, found) {
            (State::Down(_) | State::Waiting | State::Backoff { .. }, _) => {
                if self.due.is_none() {
                    // An earlier superd knew nothing of timers.
                    self.keep_step(now);
                }
                Moved::default()
            }
            // There is no main process yet; the hook goes on, or is told to have ended.
            (State::Starting(run), Presence::Gone { .. } | Presence::Running(_))
                if run.is_preparing() =>
            {
                if let Some(hook) = &mut run.hook {
                    hook.resume(&mut About::new(now, id, instance, cx));
                }
                Moved::default()
            }
            // It never came into being.
            (State::Starting(run), Presence::Gone { left: Some(0), .. }) if run.pid.is_none() => {
                cx.effects.push(Effect::Release(id, instance));
                match self.want {
                    Want::Up => self.enter(State::Waiting, now),
                    Want::Down => self.enter(State::Down(Rest::Stopped), now),
                }
            }
            (State::Starting(run), Presence::Running(pid)) if run.awaits.is_some() => {
                run.adopt(id, pid, now, cx);
                self.in_wait(now, cx, Await::resume)
            }
            (State::Starting(run) | State::Up(run), Presence::Running(pid)) => {
                run.hold_again(id, cx);
                run.adopt(id, pid, now, cx);
                let (run, since) = (run.clone(), self.since);
                let is_new = matches!(self.state, State::Starting(_));
                let moved = self.enter(State::Up(run), now);
                self.since = since;
                self.renew_watch(now, cx);
                if self.spec.max_connections.is_some() {
                    self.watch(cx.effects);
                }
                if is_new {
                    self.begin_post_start(now, cx);
                }
                moved
            }
            (State::Stopping(run, stop), Presence::Running(pid)) => {
                run.adopt(id, pid, now, cx);
                stop.resume(&mut Scene::of(run, id, now, cx));
                Moved::default()
            }
            (State::Killing(run, ..), Presence::Running(pid)) => {
                run.adopt(id, pid, now, cx);
                // Perhaps it had none yet; another one does no harm.
                cx.effects.push(Effect::KillTree(id, instance));
                Moved::default()
            }
            (
                State::Starting(run)
                | State::Up(run)
                | State::Stopping(run, _)
                | State::Killing(run, ..),
                Presence::Gone { crash, left },
            ) => {
                run.adopted = true;
                let (pid, seen) = (run.pid, left.unwrap_or(0));
                cx.publish(
                    id,
                    Happening::GoneMeanwhile {
                        instance,
                        pid,
                        left: seen,
                    },
                );
                self.sweep(Exit::Unknown, crash, left, now, cx)
            }
            (State::Sweeping(end), Presence::Running(_)) => {
                // Its main process had ended; this is not it.
                end.resume(id, Some(1), now, cx);
                Moved::default()
            }
            (State::Sweeping(end), Presence::Gone { left, .. }) => {
                end.resume(id, left, now, cx);
                Moved::default()
            }
        }
    }
}

impl Run {
    /// Its main process is there, and superd is not its parent.
    fn adopt(&mut self, id: ServiceId, pid: Pid, now: Tick, cx: &mut Context<'_>) {
        self.pid = Some(pid);
        self.adopted = true;
        let (instance, ran) = (self.instance, now - self.began);
        cx.publish(id, Happening::Adopted { instance, pid, ran });
    }

    /// Another program has held back connections, and what it attached is still there.
    pub(super) fn hold_again(&mut self, id: ServiceId, cx: &mut Context<'_>) {
        if let Some(hold) = &mut self.drain {
            // Counted is again: what has come since?
            let action = *hold.action.get_or_insert_with(|| cx.next_action());
            let what = hold.what.clone();
            cx.effects
                .push(Effect::Drain(id, self.instance, action, what));
        } else if self.filtered {
            // If there are too many still, that will be noticed anew.
            self.limited = false;
            cx.effects.push(Effect::LetGo(id, self.instance));
        }
    }
}

/// What a look is repeated with after an adoption.
pub(super) fn look(check: Check, scene: &mut Scene<'_, '_>) {
    let (id, instance) = (scene.id, scene.instance);
    scene.cx.effects.push(Effect::Check(id, instance, check));
}
