//! A service that runs: its health, what it says of itself, its reload, its drain.
//!
//! When each of these is done the table in `service.rs` says. A little long: they end with the
//! instance, and together.

use std::time::Duration;

use super::{Context, Doing, Moved, Readiness, ReloadRun, Service, State, Want};
use crate::machine::event::{ActionId, Effect, Notice, Outcome};
use crate::machine::health::{self, Watch};
use crate::machine::hook::HookRun;
use crate::machine::memory::LONGEST;
use crate::machine::ready::{About, Await};
use crate::machine::report::{Happening, Origin};
use crate::machine::spec::{Reload, To};
use crate::machine::stop::{Order, Stop};
use crate::machine::time::{Span, Tick};

/// What a service says of itself is told so many times ...
const TOLD: u32 = 20;
/// ... within this time.
const TOLD_IN: Duration = Duration::from_secs(10);

impl Service {
    /// Its definition changed, or another superd has taken it over: the watch begins anew.
    pub(in crate::machine) fn renew_watch(&mut self, now: Tick, cx: &mut Context<'_>) {
        self.end_watch(now, cx);
        if matches!(self.state, State::Up(_)) {
            self.watch = Watch::begin(&self.spec, now);
        }
    }

    pub(super) fn end_watch(&mut self, now: Tick, cx: &mut Context<'_>) {
        let (id, instance) = (self.id, self.instance);
        if let Some(mut watch) = self.watch.take() {
            watch.end(&mut About::new(now, id, instance, cx));
        }
    }

    /// Lets the watch do something; when the service is not well, it is stopped.
    pub(super) fn in_watch(
        &mut self,
        now: Tick,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Watch, &mut About<'_, '_>) -> health::Course,
    ) -> Moved {
        let (id, instance) = (self.id, self.instance);
        let (State::Up(_), Some(watch)) = (&self.state, &mut self.watch) else {
            return Moved::default();
        };
        let mut about = About::new(now, id, instance, cx);
        match act(watch, &mut about) {
            health::Course::GoesOn => Moved::default(),
            health::Course::Unfit { why, stay } => {
                let mut order = Order::new(Origin::Unfit { why }, now);
                order.stay = stay;
                self.begin_stop(order, now, cx)
            }
        }
    }

    /// Tells what it says of itself, at most [`TOLD`] times in [`TOLD_IN`]: a service that says
    /// something else a thousand times a second would push everything else out of the log.
    fn tell(&mut self, what: Happening, now: Tick, cx: &mut Context<'_>) {
        if now >= self.told.0 + TOLD_IN {
            self.told = (now, 0);
        }
        self.told.1 = self.told.1.saturating_add(1);
        match self.told.1 {
            ..=TOLD => cx.publish(self.id, what),
            n if n == TOLD + 1 => cx.publish(
                self.id,
                Happening::Talkative {
                    seconds: TOLD_IN.as_secs(),
                },
            ),
            _ => {}
        }
    }

    pub(super) fn hear(&mut self, notice: Notice, now: Tick, cx: &mut Context<'_>) -> Moved {
        let (State::Starting(run)
        | State::Up(run)
        | State::Stopping(run, _)
        | State::Killing(run, ..)) = &mut self.state
        else {
            return Moved::default();
        };
        if run.ready == Readiness::NotTold {
            run.ready = Readiness::No;
        }
        let instance = run.instance;
        match notice {
            Notice::Stopping => {
                run.stopping_seen = run.stopping_seen.saturating_add(1);
                match self.state {
                    State::Stopping(..) => self.in_stop(now, cx, Stop::said_stopping),
                    State::Starting(_)
                    | State::Up(_)
                    | State::Killing(..)
                    | State::Down(_)
                    | State::Waiting
                    | State::Sweeping(_)
                    | State::Backoff { .. } => Moved::default(),
                }
            }
            Notice::Status(text) => {
                if self.says != text {
                    self.says.clone_from(&text);
                    self.tell(Happening::Status { text }, now, cx);
                }
                Moved::default()
            }
            Notice::Ready => {
                let news = run.ready != Readiness::Yes || run.reloading;
                run.ready = Readiness::Yes;
                run.reloading = false;
                if news {
                    self.tell(Happening::Ready { instance }, now, cx);
                }
                self.in_wait(now, cx, Await::said_ready)
            }
            Notice::Watchdog => {
                if let Some(watch) = &mut self.watch {
                    watch.pinged(now);
                }
                Moved::default()
            }
            Notice::WatchdogTrigger => self.in_watch(now, cx, |watch, _| watch.gave_up()),
            Notice::Extend(by) => {
                if let (State::Starting(run), true) = (&mut self.state, by <= LONGEST) {
                    if let Some(wait) = &mut run.awaits {
                        wait.extend(by, now);
                    }
                }
                Moved::default()
            }
            Notice::Reloading => {
                if !std::mem::replace(&mut run.reloading, true) {
                    self.tell(Happening::SaysReloading { instance }, now, cx);
                }
                Moved::default()
            }
            // What a step has sent to the one before is not sent again to this one.
            Notice::MainPid(pid) => {
                if let Some(before) = run.pid.filter(|before| *before != pid) {
                    run.pid = Some(pid);
                    run.refused = None;
                    let happening = Happening::MainProcess {
                        instance,
                        before,
                        pid,
                    };
                    self.tell(happening, now, cx);
                }
                Moved::default()
            }
            Notice::NotMain(pid, why) => {
                if run.refused.replace(pid) != Some(pid) {
                    let happening = Happening::MainProcessRefused { instance, pid, why };
                    self.tell(happening, now, cx);
                }
                Moved::default()
            }
        }
    }

    /// Whether its checker is to be asked before a restart: it runs well, and nothing else is
    /// about to end it.
    pub(in crate::machine) fn asks_before_restart(&self) -> bool {
        self.spec.check.is_some() && self.is_well()
    }

    /// It is up, and nothing is about to end it.
    pub(in crate::machine) fn is_well(&self) -> bool {
        let stays = self.want == Want::Up && self.target && !self.is_going();
        stays && matches!(self.state, State::Up(_))
    }

    /// It is up, and a stop of it has been ordered.
    pub(in crate::machine) fn is_going(&self) -> bool {
        self.cycle || self.order.is_some()
    }

    /// Asks the checker, if there is one; `what` says what for.
    pub(in crate::machine) fn begin_check(&mut self, what: Doing, now: Tick, cx: &mut Context<'_>) {
        let Some(check) = self.spec.check.clone() else {
            return;
        };
        let (id, instance) = (self.id, self.instance);
        let action = self.begin_doing(what, check.wait, now, cx);
        cx.effects
            .push(Effect::Verify(id, instance, action, check.argv));
    }

    /// Reloads. True when that was all.
    pub(in crate::machine) fn begin_reload(&mut self, now: Tick, cx: &mut Context<'_>) -> bool {
        let (id, instance) = (self.id, self.instance);
        // What it reads now is what is there.
        if let Some(files) = &mut self.files {
            files.settled();
        }
        match self.spec.reload.clone() {
            Some(Reload::Signal(signal)) => {
                cx.effects
                    .push(Effect::Signal(id, instance, signal, To::Main));
                true
            }
            Some(Reload::Run(argv, wait)) => {
                let action = self.begin_doing(Doing::Reload, wait, now, cx);
                cx.effects.push(Effect::Run(id, instance, action, argv));
                false
            }
            Some(Reload::Http(http, wait)) => {
                let action = self.begin_doing(Doing::Reload, wait, now, cx);
                cx.effects.push(Effect::Http(id, instance, action, http));
                false
            }
            None => true,
        }
    }

    pub(super) fn begin_doing(
        &mut self,
        what: Doing,
        wait: Duration,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> ActionId {
        self.end_reload(cx);
        let action = cx.next_action();
        self.reload = Some(ReloadRun {
            action,
            until: now + wait,
            wait,
            what,
        });
        action
    }

    pub(super) fn reload_ended(
        &mut self,
        outcome: Outcome,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> Moved {
        let Some(run) = self.reload.take() else {
            return Moved::default();
        };
        let error = match outcome {
            Outcome::Done => None,
            Outcome::Unhappy(error) | Outcome::Impossible(error) | Outcome::NotTried(error) => {
                Some(error)
            }
        };
        match (run.what.clone(), error) {
            (_, Some(error)) => self.reload_failed(&run, error, cx),
            (Doing::Reload, None) => Moved {
                reloaded: Some(Ok(())),
                ..Moved::default()
            },
            // The stop has not begun, because others go first.
            (Doing::CheckForReload, None) if self.is_going() => Moved {
                reloaded: Some(Err("it is being stopped".to_owned())),
                ..Moved::default()
            },
            (Doing::CheckForReload, None) => Moved {
                reloaded: self.begin_reload(now, cx).then_some(Ok(())),
                ..Moved::default()
            },
            (Doing::CheckForRestart(by), None) => Moved {
                verified: Some(Ok(by)),
                ..Moved::default()
            },
        }
    }

    /// Nothing comes of it; the service runs on as it is.
    pub(super) fn reload_failed(
        &mut self,
        run: &ReloadRun,
        error: String,
        cx: &mut Context<'_>,
    ) -> Moved {
        let error = match run.is_check() {
            true => format!("{}: {error}", run.name()),
            false => error,
        };
        let happening = Happening::ActionFailed {
            error: error.clone(),
        };
        cx.publish(self.id, happening);
        match run.is_before_restart() {
            true => Moved {
                verified: Some(Err(error)),
                ..Moved::default()
            },
            false => Moved {
                reloaded: Some(Err(error)),
                ..Moved::default()
            },
        }
    }

    pub(super) fn drain_ended(&mut self, outcome: Outcome, cx: &mut Context<'_>) -> Moved {
        let State::Up(run) = &mut self.state else {
            return Moved::default();
        };
        let result = match outcome {
            Outcome::Done => {
                if let Some(hold) = &mut run.drain {
                    hold.action = None;
                    hold.connections = Some(0);
                }
                Ok(())
            }
            Outcome::Unhappy(error) | Outcome::Impossible(error) | Outcome::NotTried(error) => {
                run.drain = None;
                cx.publish(
                    self.id,
                    Happening::ActionFailed {
                        error: error.clone(),
                    },
                );
                Err(error)
            }
        };
        Moved {
            drained: Some(result),
            ..Moved::default()
        }
    }

    /// It does not come to an end: it is killed, and those who wait are told.
    pub(super) fn reload_timeout(&mut self, now: Tick, cx: &mut Context<'_>) -> Moved {
        let Some(run) = self.reload.clone().filter(|r| now >= r.until) else {
            return Moved::default();
        };
        self.end_reload(cx);
        let text = match run.is_check() {
            true => "it did not end within",
            false => "the reload did not end within",
        };
        let error = format!("{text} {} and was ended", Span(run.wait));
        self.reload_failed(&run, error, cx)
    }

    /// A drain counts, or the number has crossed one of the limits.
    pub(super) fn connections(&mut self, n: u32, cx: &mut Context<'_>) {
        let State::Up(run) = &mut self.state else {
            return;
        };
        if let Some(hold) = &mut run.drain {
            hold.connections = Some(n);
            return;
        }
        let Some(max) = self.spec.max_connections else {
            return;
        };
        if n > max.high && !run.limited {
            run.limited = true;
            run.filtered = true;
            let what = self.spec.stop.drain();
            cx.effects.push(Effect::Limit(self.id, run.instance, what));
            let happening = Happening::Limited {
                connections: n,
                high: max.high,
            };
            cx.publish(self.id, happening);
        } else if n < max.low && run.limited {
            run.limited = false;
            cx.effects.push(Effect::LetGo(self.id, run.instance));
            let happening = Happening::Unlimited {
                connections: n,
                low: max.low,
            };
            cx.publish(self.id, happening);
        }
    }

    /// Connections are counted as the definition says it now.
    pub(in crate::machine) fn watch(&mut self, effects: &mut Vec<Effect>) {
        let State::Up(run) = &mut self.state else {
            return;
        };
        let max = self.spec.max_connections;
        if max.is_none() && std::mem::take(&mut run.limited) && run.drain.is_none() {
            effects.push(Effect::LetGo(self.id, run.instance));
        }
        let watched = max.map(|max| (max, self.spec.stop.drain()));
        effects.push(Effect::Watch(self.id, run.instance, watched));
    }

    /// What was under way outside of a stop ends. What is held back stays so.
    pub(super) fn end_actions(&mut self, cx: &mut Context<'_>) {
        if let State::Up(run) = &mut self.state {
            if self.spec.max_connections.is_some() {
                cx.effects.push(Effect::Watch(self.id, self.instance, None));
            }
            if let Some(action) = run.drain.as_mut().and_then(|hold| hold.action.take()) {
                cx.effects
                    .push(Effect::EndAction(self.id, self.instance, action));
            }
        }
        self.end_reload(cx);
    }

    pub(super) fn end_reload(&mut self, cx: &mut Context<'_>) {
        if let Some(reload) = self.reload.take() {
            cx.effects
                .push(Effect::EndAction(self.id, self.instance, reload.action));
        }
    }

    /// The instance is going, or gone: what superd does with it besides ends.
    pub(super) fn end_own_actions(&mut self, now: Tick, cx: &mut Context<'_>) {
        self.end_actions(cx);
        self.end_watch(now, cx);
        let (id, instance) = (self.id, self.instance);
        self.with_hook(now, cx, HookRun::cut_short);
        self.end_post_start();
        if let State::Starting(run) = &mut self.state {
            if let Some(wait) = &mut run.awaits {
                wait.end(&mut About::new(now, id, instance, cx));
            }
        }
    }
}
