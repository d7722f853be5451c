//! Each effect, held against what was promised.
//!
//! Longer than a file should be: an effect each.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use superd::machine::event::{ActionId, Effect, Instance, ServiceId, Target, Verb};
use superd::machine::files::{OnChange, SETTLE, SETTLE_LONGEST};
use superd::machine::health::{Health, Remedy};
use superd::machine::hook::{Call, Kind};
use superd::machine::outlook::Then;
use superd::machine::ready::Sign;
use superd::machine::report::{Happening, Origin};
use superd::machine::service::{Want, KILL_AGAIN};
use superd::machine::signal::Signal;
use superd::machine::spec::{Action, Drain, Policy, Reload, To, Until};
use superd::machine::time::Tick;

use super::shadow::{Course, Edits, Live, Shadow};
use super::{broken, require, Broken, Judge, Ruling};
use crate::world::{Key, World};

impl Judge {
    pub fn rule(&mut self, now: Tick, effect: &Effect, world: &World) -> Ruling {
        self.now = now;
        require(!self.finished, "nothing after Finish", || {
            format!("{effect:?}")
        })?;
        match effect {
            Effect::Spawn(s, i) if self.is_prepared(*s, *i) => {
                let ready = self.services.get(s).and_then(|s| s.spec.ready.clone());
                self.knows_nothing(*s);
                let left = world.of_hooks(*s);
                let happy = |l: &Live| matches!(l.prepares, Some((_, Some(true))));
                let live = self.live(*s, *i)?;
                let ok = happy(live) && live.stop.is_none();
                live.awaits = ready;
                live.prepares = None;
                live.began = now;
                self.knows_others(*s);
                require(ok, "started when its pre-start is happy", || {
                    format!("{s:?}")
                })?;
                require(self.target(*s), "never without being wanted", || {
                    format!("{s:?}")
                })?;
                require(left == 0, "nothing is left of pre-start", || {
                    format!("{s:?}: {left}")
                })
            }
            Effect::Spawn(s, i) => {
                self.knows_nothing(*s);
                self.begin(now, *s, *i, world)?;
                self.knows_others(*s);
                let spec = self.services.get(s).and_then(|s| s.spec.hooks.clone());
                let due = spec.is_some_and(|h| h.pre_start.is_some());
                require(!due, "pre-start comes before the start", || {
                    format!("{s:?}")
                })
            }
            Effect::Hook(s, i, a, call) if call.kind == Kind::PreStop => {
                self.action(now, *s, *i, *a, &Action::Hook(call.argv.clone()))
            }
            Effect::Hook(s, i, a, call) => self.hook(now, (*s, *i), *a, call, world),
            Effect::Signal(s, i, signal, to) => self.signal(now, *s, *i, *signal, *to),
            Effect::Wake(s, i, _) => {
                let live = self.live(*s, *i)?;
                let asked = live.stop.is_some() || live.exited.is_some();
                require(asked, "only who was asked to end is woken", || {
                    format!("{s:?}")
                })
            }
            Effect::KillTree(s, i) => self.kill(now, *s, *i),
            Effect::Run(s, i, a, x) => self.action(now, *s, *i, *a, &Action::Run(x.clone())),
            Effect::Verify(s, i, a, x) => self.verify((*s, *i), *a, x),
            Effect::Http(s, i, a, x) => self.action(now, *s, *i, *a, &Action::Http(x.clone())),
            Effect::Probe(s, i, a, _) => self.probe(now, *s, *i, *a),
            Effect::Drain(s, i, a, x) => self.drain(now, (*s, *i), *a, x),
            Effect::LetGo(s, i) => self.let_go(now, *s, *i, world),
            Effect::Limit(s, i, _) => {
                let live = self.live(*s, *i)?;
                let ok = !live.limited && live.stop.is_none();
                live.limited = true;
                live.was_held = true;
                require(ok, "a limit holds back once", || format!("{s:?}"))
            }
            Effect::Watch(s, i, _) => self.live(*s, *i).map(|_| ()),
            Effect::EndAction(s, i, a) => {
                let live = self.live(*s, *i)?;
                let probe = live.probes.remove(a).is_some();
                live.failed += u32::from(probe && live.up);
                let open = live.actions.remove(a) || probe;
                require(open, "an action ends once", || format!("{a:?} of {s:?}"))
            }
            Effect::NotePorts(s, i)
            | Effect::WatchOutput(s, i, _)
            | Effect::Check(s, i, _)
            | Effect::Look(s, i) => self.live(*s, *i).map(|_| ()),
            Effect::NoteFile(s, i, _) => {
                let is_new = self.services.get(s).is_some_and(|s| *i > s.last);
                let is_early = is_new || self.is_prepared(*s, *i);
                require(is_early, "a file is noted before the start", || {
                    format!("{s:?}")
                })
            }
            Effect::LookOut(s, Some(_)) => {
                self.outlooks.entry(*s).or_insert(now);
                let at_rest = self.services.get(s).is_some_and(|s| s.live.is_none());
                require(at_rest, "only who does not run looks out", || {
                    format!("{s:?}")
                })
            }
            Effect::LookOut(s, None) => {
                self.outlooks.remove(s);
                if let Some(s) = self.services.get_mut(s) {
                    s.excuse(now, self.clock.as_deref());
                }
                Ok(())
            }
            Effect::WatchClock(_) | Effect::ReadClock => Ok(()),
            Effect::WatchFiles(s, Some(_)) => {
                let edits = self.files.entry(*s).or_default();
                if !self.succeeds {
                    *edits = Edits::default();
                }
                edits.since = None;
                Ok(())
            }
            Effect::WatchFiles(s, None) => {
                let was = self.files.remove(s).is_some();
                require(was, "files are let alone once", || format!("{s:?}"))
            }
            Effect::Release(s, i) => self.release(now, *s, *i, world),
            Effect::Forget(s) => {
                let at_rest = |s: Shadow| s.gone && s.live.is_none();
                self.files.remove(s);
                for id in self.services.keys().copied().collect::<Vec<_>>() {
                    let owed = self.news(id).contains(s);
                    if let Some(live) = self.services.get_mut(&id).and_then(|s| s.live.as_mut()) {
                        live.owed |= owed;
                    }
                }
                let ok = self.services.remove(s).is_some_and(at_rest);
                require(ok, "only a gone service at rest is forgotten", || {
                    format!("{s:?}")
                })
            }
            Effect::Reply(ticket, answer) => {
                self.replies += 1;
                let known = self.pending.remove(ticket).is_some();
                require(known, "one reply for each request", || {
                    format!("{ticket:?}: {answer:?}")
                })
            }
            Effect::Publish(s, what) => self.publish(now, *s, what),
            Effect::Finish => {
                self.finished = true;
                let busy = self.services.values().any(|s| s.live.is_some());
                require(
                    self.shutdown && !busy,
                    "Finish when asked and nothing runs",
                    String::new,
                )
            }
        }
    }

    pub(super) fn live(&mut self, id: ServiceId, instance: Instance) -> Result<&mut Live, Broken> {
        let live = self.services.get_mut(&id).and_then(|s| s.live.as_mut());
        live.filter(|l| l.instance == instance)
            .ok_or_else(|| Broken {
                rule: "nothing is done to an instance that is not there",
                text: format!("{id:?} {instance:?}"),
            })
    }

    pub(super) fn missing_before(&self, id: ServiceId) -> Vec<ServiceId> {
        let Some(s) = self.services.get(&id) else {
            return Vec::new();
        };
        let live = |dep: &ServiceId| self.services.get(dep).and_then(|d| d.live.as_ref());
        let untouched = |l: &Live| l.stop.is_none() && l.exited.is_none();
        let up = |l: &Live| l.up && untouched(l);
        let on_its_way = |l: &Live| !l.up && untouched(l);
        let done = |d: &ServiceId| self.services.get(d).is_some_and(|s| s.done);
        let lacks = |d: &&ServiceId| !done(d) && !live(d).is_some_and(up);
        let required = s.spec.requires.iter().filter(lacks);
        let late = |d: &&ServiceId| self.target(**d) && live(d).is_some_and(on_its_way);
        let order = s.spec.after.iter().chain(&s.spec.wants);
        let order = order.chain(&s.spec.restart_with);
        required.chain(order.filter(late)).copied().collect()
    }

    /// What it waits for is there, or it has waited long enough.
    pub(super) fn world_allows(&self, now: Tick, id: ServiceId, world: &World) -> Ruling {
        let wait_for = self
            .services
            .get(&id)
            .and_then(|s| s.spec.wait_for.as_ref());
        let Some(wait_for) = wait_for else {
            return Ok(());
        };
        let told = world.outlooks.get(&id).map(|(_, missing)| missing);
        let is_there = told.is_some_and(Vec::is_empty);
        let since = self.outlooks.get(&id);
        let is_over = wait_for.then == Then::Start
            && since.is_some_and(|at| wait_for.timeout.is_some_and(|t| now >= *at + t));
        require(
            is_there || is_over,
            "never while something is missing",
            || format!("{id:?}: {told:?} since {since:?}"),
        )
    }

    /// An instance begins, with a fork or with `pre-start`.
    pub(super) fn begin(&mut self, now: Tick, id: ServiceId, i: Instance, world: &World) -> Ruling {
        self.decide();
        self.world_allows(now, id, world)?;
        self.spawn(now, id, i, world)
    }

    pub(super) fn is_prepared(&self, id: ServiceId, instance: Instance) -> bool {
        let live = self.services.get(&id).and_then(|s| s.live.as_ref());
        live.is_some_and(|l| l.instance == instance && l.prepares.is_some())
    }

    pub(super) fn hook(
        &mut self,
        now: Tick,
        key: Key,
        a: ActionId,
        call: &Call,
        world: &World,
    ) -> Ruling {
        let kind = call.kind;
        let text = || format!("{kind} of {key:?}");
        require(self.actions.insert(a), "actions have new numbers", text)?;
        if kind == Kind::PreStart {
            self.begin(now, key.0, key.1, world)?;
        }
        let hooks = self.services.get(&key.0).and_then(|s| s.spec.hooks.clone());
        let hook = hooks.as_ref().and_then(|h| match kind {
            Kind::PreStart => h.pre_start.as_ref(),
            Kind::PostStart => h.post_start.as_ref(),
            Kind::OnCrash => h.on_crash.as_ref(),
            Kind::PostStop => h.post_stop.as_ref(),
            Kind::PreStop => None,
        });
        require(
            hook.is_some_and(|h| h.argv == call.argv),
            "a hook is configured",
            text,
        )?;
        let left = world.children.get(&key).map_or(0, |c| c.tree());
        let others = world.of_hooks(key.0);
        let live = self.live(key.0, key.1)?;
        require(!live.hooks.contains(&kind), "each hook once", text)?;
        let fit = match kind {
            Kind::PreStart => {
                live.prepares = Some((a, None));
                true
            }
            Kind::PostStart => live.up && live.stop.is_none() && live.exited.is_none(),
            Kind::OnCrash => live.exited.is_some() && !live.hooks.contains(&Kind::PostStop),
            Kind::PostStop => live.exited.is_some() || !live.forked,
            Kind::PreStop => false,
        };
        live.hooks.push(kind);
        live.actions.insert(a);
        require(fit, "a hook has its time", text)?;
        let alone = kind == Kind::PostStart || (left == 0 && others == 0);
        require(alone, "a hook has no company", || {
            format!("{kind} of {key:?}: {left} and {others}")
        })
    }

    pub(super) fn spawn(
        &mut self,
        now: Tick,
        id: ServiceId,
        instance: Instance,
        world: &World,
    ) -> Ruling {
        self.spawns += 1;
        let wanted = self.target(id);
        let missing = self.missing_before(id);
        let own = world.children.iter().filter(|((s, _), _)| *s == id);
        let before: u32 = own.map(|(_, child)| child.tree()).sum();
        require(before == 0, "never two", || {
            format!("{before} processes of {id:?} are left")
        })?;
        require(wanted, "never without being wanted", || {
            format!("{id:?} {instance:?}")
        })?;
        require(missing.is_empty(), "start order", || {
            format!("{id:?} before {missing:?}")
        })?;
        let rivals = self.rivals(id);
        let runs = |r: &ServiceId| self.services.get(r).is_some_and(|s| s.live.is_some());
        require(!rivals.iter().any(runs), "never two that conflict", || {
            format!("{id:?} with {rivals:?}")
        })?;
        let Some(s) = self.services.get_mut(&id) else {
            return broken("never without being wanted", format!("{id:?}"));
        };
        s.done = false;
        s.given_up = false;
        if s.last == Instance(0) {
            s.timer = None;
        }
        s.cover(now, self.clock.as_deref());
        require(s.live.is_none(), "never two", || {
            format!("{instance:?} of {id:?} before the one before was released")
        })?;
        require(instance > s.last, "instances count up", || {
            format!("{instance:?}")
        })?;
        s.last = instance;
        s.live = Some(Live {
            instance,
            forked: false,
            main: None,
            execed: None,
            awaits: s.spec.ready.clone(),
            met: false,
            up: false,
            probes: BTreeMap::new(),
            remedies: BTreeSet::new(),
            failed: 0,
            stay: false,
            triggered: false,
            pinged: Tick(0),
            stopping_said: false,
            stop: None,
            exited: None,
            success: false,
            grace: Duration::ZERO,
            forced: false,
            may_force: false,
            killed_at: None,
            adopted_at: None,
            term_to_leftovers: false,
            held: false,
            was_held: false,
            limited: false,
            maintained: false,
            actions: BTreeSet::new(),
            check: None,
            check_restarts: false,
            check_by_itself: false,
            prepares: None,
            hooks: Vec::new(),
            redefined: false,
            knows: BTreeMap::new(),
            knew_at: now,
            excused: Vec::new(),
            began: now,
            owed: false,
        });
        Ok(())
    }

    pub(super) fn signal(
        &mut self,
        now: Tick,
        id: ServiceId,
        i: Instance,
        signal: Signal,
        to: To,
    ) -> Ruling {
        let asked = self.asked;
        let may_reload = self.may_reload(id, i);
        let reload = self.services.get(&id).and_then(|s| s.spec.reload.clone());
        let live = self.live(id, i)?;
        require(
            live.forked,
            "no signal to a process that is not there",
            || format!("{id:?}"),
        )?;
        if live.exited.is_some() {
            let had_it = live.stop.as_ref().is_some_and(|s| s.term_to_tree);
            let first = !live.term_to_leftovers && live.killed_at.is_none() && !had_it;
            live.term_to_leftovers = true;
            let ok = first && (signal, to) == (Signal::TERM, To::Tree);
            return require(ok, "leftovers get one TERM", || {
                format!("{id:?} {signal} to {to}")
            });
        }
        let by_hand = match asked {
            Some((_, Verb::Signal(wanted))) => {
                let harmless = live.stop.is_none() || !signal.ends_or_stops_a_process();
                wanted == signal && to == To::Main && harmless
            }
            _ => may_reload && live.stop.is_none() && reload == Some(Reload::Signal(signal)),
        };
        match by_hand {
            true => {
                if may_reload && reload == Some(Reload::Signal(signal)) {
                    self.reads_files(id);
                }
                Ok(())
            }
            false => self.step(now, id, i, &Action::Signal(signal, to)),
        }
    }

    /// Whether this is a moment for a reload: somebody has asked for it, and the checker, if
    /// there is one, is happy.
    pub(super) fn may_reload(&self, id: ServiceId, i: Instance) -> bool {
        let is_checked = |s: &Shadow| s.spec.check.is_some();
        let asked = matches!(self.asked, Some((_, Verb::Reload)));
        let unchecked = asked && !self.services.get(&id).is_some_and(is_checked);
        unchecked || self.passed == Some((id, i))
    }

    /// A checker is asked when somebody wants a reload or a restart of what is well.
    pub(super) fn verify(&mut self, key: Key, a: ActionId, argv: &Rc<[String]>) -> Ruling {
        let fresh = self.actions.insert(a);
        let asked = match self.asked {
            Some((Target::One(id), Verb::Reload | Verb::Restart)) => id == key.0,
            Some((Target::All, verb)) => matches!(verb, Verb::Reload | Verb::Restart),
            Some((Target::One(_), _)) | None => false,
        };
        let behind = !asked && self.is_behind(key.0, |_| true);
        let asked = asked || behind;
        let restarts = matches!(self.asked, Some((_, Verb::Restart))) || behind;
        let by_itself = self.by_file || behind;
        if behind {
            self.knows_others(key.0);
        }
        let check = self.services.get(&key.0).and_then(|s| s.spec.check.clone());
        let live = self.live(key.0, key.1)?;
        let idle = live.check.is_none_or(|c| !live.actions.contains(&c));
        let well = live.up && live.stop.is_none() && live.exited.is_none();
        live.actions.insert(a);
        live.check = Some(a);
        live.check_restarts = restarts;
        live.check_by_itself = by_itself;
        if restarts {
            self.undecided.retain(|id| *id != key.0);
        }
        let ok = fresh && asked && idle && well && check.is_some_and(|c| c.argv == *argv);
        require(ok, "a checker is asked once, of what is up", || {
            format!("{key:?}")
        })
    }

    /// A drain is a step like others, but for one thing: the next superd begins it again.
    pub(super) fn drain(&mut self, now: Tick, key: Key, a: ActionId, what: &Rc<Drain>) -> Ruling {
        let asked = self.asked;
        let became = self.became;
        let fresh = !self.actions.contains(&a);
        let live = self.live(key.0, key.1)?;
        live.held = true;
        live.was_held = true;
        live.maintained |= live.stop.is_none() && matches!(asked, Some((_, Verb::Drain)));
        let is_open = live.actions.contains(&a);
        let again = live.adopted_at == Some(now) || became == Some(now);
        if again && (is_open || (live.maintained && live.stop.is_none())) {
            live.actions.insert(a);
            self.actions.insert(a);
            return Ok(());
        }
        if live.stop.is_none() {
            live.actions.insert(a);
            self.actions.insert(a);
            let asked = matches!(asked, Some((_, Verb::Drain)));
            return require(asked && fresh, "drained when asked, once", || {
                format!("{key:?}")
            });
        }
        self.action(now, key.0, key.1, a, &Action::Drain(what.clone()))
    }

    pub(super) fn let_go(
        &mut self,
        now: Tick,
        id: ServiceId,
        instance: Instance,
        world: &World,
    ) -> Ruling {
        let child = world.children.get(&(id, instance));
        let left = child.map_or(0, |c| c.tree());
        let (asked, became) = (self.asked, self.became);
        let live = self.live(id, instance)?;
        let held = std::mem::take(&mut live.held);
        let maintained = std::mem::take(&mut live.maintained);
        let limited = std::mem::take(&mut live.limited);
        if live.exited.is_none() {
            // By a successor, too: perhaps the one before was killed on the way.
            let asked = maintained && matches!(asked, Some((_, Verb::Undrain))) || limited;
            let ok = asked || live.adopted_at.is_some() || became == Some(now);
            return require(ok && live.stop.is_none(), "let go when asked", || {
                format!("{id:?}")
            });
        }
        let ok = held || live.was_held;
        require(ok, "what was held is let go", || format!("{id:?}"))?;
        require(left == 0, "what is held is let go in the end", || {
            format!("{id:?}: {left} left")
        })
    }

    pub(super) fn action(
        &mut self,
        now: Tick,
        id: ServiceId,
        i: Instance,
        a: ActionId,
        action: &Action,
    ) -> Ruling {
        require(self.actions.insert(a), "actions have new numbers", || {
            format!("{a:?}")
        })?;
        let may_reload = self.may_reload(id, i);
        let reload = self.services.get(&id).and_then(|s| s.spec.reload.clone());
        let remedy = self.services.get(&id).and_then(|s| s.spec.health.clone());
        let live = self.live(id, i)?;
        live.actions.insert(a);
        if let (true, None, Some(health)) = (live.up, &live.stop, &remedy) {
            let is_it = match (&health.remedy, action) {
                (Remedy::Run(wanted), Action::Run(argv)) => wanted == argv,
                _ => false,
            };
            if is_it && live.failed >= health.failures {
                live.failed = 0;
                live.remedies.insert(a);
                return Ok(());
            }
        }
        if live.stop.is_none() && may_reload {
            let ok = match (reload, action) {
                (Some(Reload::Run(x, _)), Action::Run(y)) => x == *y,
                (Some(Reload::Http(x, _)), Action::Http(y)) => x == *y,
                _ => false,
            };
            self.reads_files(id);
            return require(ok, "reload runs its command", || format!("{id:?}"));
        }
        if let Some(stop) = &mut live.stop {
            stop.action = Some(a);
        }
        self.step(now, id, i, action)
    }

    pub(super) fn probe(&mut self, now: Tick, id: ServiceId, i: Instance, a: ActionId) -> Ruling {
        require(self.actions.insert(a), "actions have new numbers", || {
            format!("{a:?}")
        })?;
        let checked = self
            .services
            .get(&id)
            .is_some_and(|s| s.spec.health.is_some());
        let live = self.live(id, i)?;
        let fit = live.execed.is_some() && live.stop.is_none() && live.exited.is_none();
        let asked = match live.up {
            true => checked,
            false => live.is_awaited(|s| matches!(s, Sign::Probe(_))),
        };
        let first = live.probes.is_empty();
        live.probes.insert(a, now);
        require(fit && asked && first, "one question at a time", || {
            format!("{id:?}")
        })
    }

    /// Something is done to stop the service.
    pub(super) fn step(
        &mut self,
        now: Tick,
        id: ServiceId,
        i: Instance,
        action: &Action,
    ) -> Ruling {
        let live = self.live(id, i)?;
        let gone = live.exited.is_some() || live.killed_at.is_some();
        let Some(stop) = live.stop.as_mut().filter(|_| !gone) else {
            return broken("only a stop does that", format!("{id:?}: {action}"));
        };
        let next = stop.last.map_or(0, |n| n + 1);
        let text = || format!("{id:?} step {next}: {action}");
        require(!stop.acted, "each step once", text)?;
        let planned = stop.schedule.steps.get(next);
        let planned = planned.is_some_and(|s| s.action == *action);
        require(planned, "as the schedule says", text)?;
        require(stop.may_go_on(now), "a step has its time", text)?;
        if stop.rival && !stop.rival_had_time && !matches!(action, Action::Hook(_)) {
            let waited = stop.held && now >= stop.step_at + stop.wait();
            require(waited, "STOPPING=1 means hands off", text)?;
            stop.rival_had_time = true;
        }
        stop.acted = true;
        match action {
            Action::Drain(_) | Action::Hook(_) => {}
            Action::Signal(Signal::TERM, To::Tree | To::Descendants) => {
                stop.term_to_tree = true;
                stop.reached += 1;
            }
            Action::Signal(..) | Action::Run(_) | Action::Http(_) => stop.reached += 1,
        }
        Ok(())
    }

    pub(super) fn publish(&mut self, now: Tick, id: ServiceId, what: &Happening) -> Ruling {
        match what {
            Happening::Stopping { instance, by, .. } => {
                let unfit = matches!(by, Origin::Unfit { .. });
                if unfit {
                    self.rule_unfit(now, id, *instance)?;
                }
                if let Origin::RestartWith { service } = by {
                    self.rule_companion(id, service)?;
                }
                self.begin_stop(now, id, *instance, unfit)
            }
            Happening::FileChanged { .. } => self.file_changed(now, id),
            Happening::Up { instance, .. } => {
                let live = self.live(id, *instance)?;
                let fit = !live.up && live.is_ready(now);
                live.up = true;
                live.failed = 0;
                live.pinged = now;
                live.triggered = false;
                if let Some(s) = self.services.get_mut(&id) {
                    s.ups += 1;
                }
                self.excuses(id, *instance);
                require(fit, "up when it is ready", || format!("{id:?}"))
            }
            Happening::Starting {
                by: Origin::Timer, ..
            } => {
                let s = self.services.get(&id);
                // It may have waited in vain for its first start.
                let first = s.is_some_and(|s| s.last == Instance(0));
                let timer = s.and_then(|s| s.timer.as_ref());
                let due = match s.and_then(|s| s.daily.as_ref()) {
                    None => first || timer.is_some_and(|t| t.over(now) > t.covered),
                    Some(daily) => daily.owed || self.clock.iter().any(|c| daily.is_due(now, c)),
                };
                require(due, "what is due is run once", || {
                    let daily = s.and_then(|s| s.daily.as_ref());
                    format!("{id:?} at {now:?}: {timer:?}, {daily:?}, {:?}", self.clock)
                })
            }
            Happening::Step { instance, what, .. } if !what.starts_with("KILL to the tree") => {
                let live = self.live(id, *instance)?;
                let said = live.stopping_said;
                let Some(stop) = live.stop.as_mut() else {
                    return broken("only a stop does that", what.clone());
                };
                let held = what.contains("held back");
                let text = || format!("{id:?}: {what}");
                require(held != stop.acted, "each step acts or is held back", text)?;
                require(!held || said, "held back for a rival only", text)?;
                require(stop.may_go_on(now), "a step has its time", text)?;
                stop.last = Some(stop.last.map_or(0, |n| n + 1));
                stop.step_at = now;
                stop.impossible = false;
                stop.acted = false;
                stop.held = held;
                let stopping = said && stop.until() == Some(&Until::Stopping);
                stop.cond_at = stopping.then_some(now);
                Ok(())
            }
            Happening::Done { instance } => {
                let fit = self.services.get(&id).is_some_and(|s| {
                    let is_last = s.live.is_none() && s.last == *instance && s.ended_well;
                    s.spec.oneshot.is_some() && is_last && s.want == Want::Up
                });
                if let Some(s) = self.services.get_mut(&id) {
                    s.done = true;
                    s.ups += 1;
                }
                require(fit, "done when it has ended well", || format!("{id:?}"))
            }
            Happening::GivenUp { .. } => {
                let Some(s) = self.services.get_mut(&id) else {
                    return broken("services are kept", format!("{id:?}"));
                };
                s.given_up = true;
                s.excuse(now, self.clock.as_deref());
                let never = s.spec.restart.policy != Policy::Always || s.stays;
                require(never && s.want == Want::Up, "never given up", || {
                    format!("{id:?}")
                })
            }
            Happening::Waiting { on, .. } => {
                // For services: that is a new wait. For the world: it goes on.
                let names = self.services.values().map(|s| &s.spec.name);
                let is_new = names.into_iter().any(|n| on.iter().any(|o| **o == **n));
                if let Some(s) = self.services.get_mut(&id).filter(|_| is_new) {
                    s.told = None;
                }
                Ok(())
            }
            Happening::Blocked { why } => {
                let before = self.services.get_mut(&id).and_then(|s| {
                    let waits = s.live.is_none() && s.want == Want::Up;
                    waits.then(|| s.told.replace(why.clone()))
                });
                // Of each that has failed.
                let by = |why: &str| why.split(", which").next().map(str::to_owned);
                let new = before.is_some_and(|old| old.as_deref().and_then(by) != by(why));
                require(new, "why one cannot be started is told once", || {
                    format!("{id:?}: {why}")
                })
            }
            _ => Ok(()),
        }
    }

    /// It is about to read its files.
    pub(super) fn knows_nothing(&mut self, id: ServiceId) {
        if let Some(edits) = self.files.get_mut(&id) {
            *edits = Edits::default();
        }
    }

    /// It is told to read its files as they are now.
    pub(super) fn reads_files(&mut self, id: ServiceId) {
        if let Some(edits) = self.files.get_mut(&id) {
            edits.settle();
        }
    }

    /// A file has changed, and it is time to do something about it.
    pub(super) fn file_changed(&mut self, now: Tick, id: ServiceId) -> Ruling {
        let Some(edits) = self.files.get_mut(&id) else {
            return broken("only files that are looked after change", format!("{id:?}"));
        };
        let changed = edits.is_changed();
        let quiet = edits
            .since
            .is_some_and(|(first, last)| now >= (last + SETTLE).min(first + SETTLE_LONGEST));
        edits.settle();
        require(changed && quiet, "a change is one, and has settled", || {
            format!("{id:?}: {edits:?}")
        })?;
        let wanted = self.target(id) || self.services.get(&id).is_some_and(|s| s.live.is_none());
        let Some(s) = self.services.get_mut(&id) else {
            return broken("services are kept", format!("{id:?}"));
        };
        let reloads = s.spec.watch.as_ref().map(|w| w.then) == Some(OnChange::Reload)
            && s.spec.reload.is_some();
        let well = |l: &Live| l.up && l.stop.is_none() && l.exited.is_none();
        let fit = s.want == Want::Up && s.live.as_ref().is_none_or(well);
        if s.live.is_none() {
            s.given_up = false;
            s.done = false;
        }
        self.asked = Some(match reloads {
            true => (Target::One(id), Verb::Reload),
            false => (Target::One(id), Verb::Restart),
        });
        self.by_file = true;
        require(
            fit && wanted && !self.shutdown,
            "a file changes only what is wanted",
            || format!("{id:?}"),
        )
    }

    /// superd stops a service that does not do what it should.
    pub(super) fn rule_unfit(&mut self, now: Tick, id: ServiceId, instance: Instance) -> Ruling {
        let spec = self.services.get(&id).map(|s| s.spec.clone());
        let live = self.live(id, instance)?;
        if let (true, Some(spec)) = (live.up, spec) {
            let sick = spec
                .health
                .as_ref()
                .is_some_and(|h| live.failed >= h.failures);
            let stays = |h: &Rc<Health>| h.remedy == Remedy::Stop;
            live.stay = sick && spec.health.as_ref().is_some_and(stays);
            let silent = spec
                .watchdog
                .is_some_and(|d| live.triggered || now >= live.pinged + d);
            return require(sick || silent, "only who is not well is unfit", || {
                format!("{id:?}")
            });
        }
        let since = live.execed.filter(|_| !live.up && !live.met);
        let within = live.awaits.as_ref().and_then(|r| r.within);
        let late = since.zip(within).is_some_and(|(at, w)| now >= at + w);
        require(late, "only who is not ready in time is unfit", || {
            format!("{id:?}")
        })
    }

    /// It is stopped because another one has begun anew.
    pub(super) fn rule_companion(&mut self, id: ServiceId, by: &str) -> Ruling {
        // A stop that waits for others to go first may come when that one has gone again.
        let allowed = self.services.get(&id).and_then(|s| s.live.as_ref());
        let allowed = allowed.is_some_and(|l| l.check_by_itself || l.owed);
        let name = |d: &ServiceId| self.services.get(d).map(|s| s.spec.name.clone());
        let news = self.news(id);
        let fit = news.iter().any(|d| name(d).as_deref() == Some(by));
        self.knows_others(id);
        require(
            fit || allowed,
            "restarted with what has begun anew, once",
            || format!("{id:?} with {by}: {news:?}"),
        )
    }

    pub(super) fn begin_stop(
        &mut self,
        now: Tick,
        id: ServiceId,
        instance: Instance,
        unfit: bool,
    ) -> Ruling {
        self.stops += 1;
        let follows = |s: &Shadow| {
            let spec = &s.spec;
            let all = spec.after.iter().chain(&spec.requires);
            let mut all = all.chain(&spec.wants).chain(&spec.restart_with);
            all.any(|other| *other == id)
        };
        let late: Vec<ServiceId> = self
            .services
            .iter()
            .filter(|(_, s)| follows(s))
            .filter(|(f, s)| {
                let goes = |l: &Live| l.stop.is_some() || !self.target(**f);
                s.live.as_ref().is_some_and(goes)
            })
            .map(|(f, _)| *f)
            .collect();
        let schedule = self.services.get(&id).map(|s| s.spec.stop.clone());
        let all = self.forced;
        let live = self.live(id, instance)?;
        require(live.stop.is_none(), "one stop", || format!("{id:?}"))?;
        let forced = live.may_force || all;
        let began = live.prepares.is_none();
        require(
            forced || unfit || !began || late.is_empty(),
            "stop order",
            || format!("{id:?} before {late:?}"),
        )?;
        let Some(schedule) = schedule else {
            return Ok(());
        };
        live.stop = Some(Course {
            schedule,
            began: now,
            forced,
            last: None,
            step_at: now,
            cond_at: None,
            impossible: false,
            acted: false,
            action: None,
            held: false,
            reached: 0,
            rival: live.stopping_said,
            rival_had_time: false,
            term_to_tree: false,
            portless: false,
            deadline: None,
        });
        Ok(())
    }

    pub(super) fn kill(&mut self, now: Tick, id: ServiceId, instance: Instance) -> Ruling {
        let all = self.forced;
        let live = self.live(id, instance)?;
        let text = || format!("{id:?} {instance:?}");
        require(
            live.forked,
            "no signal to a process that is not there",
            text,
        )?;
        let since = live.killed_at.map(|at| now - at);
        // The rest of the tree gets one more at the moment the main process is gone.
        // And a superd that begins does not know whether it was sent.
        let again = since.is_none_or(|d| d >= KILL_AGAIN)
            || live.exited == Some(now)
            || live.adopted_at == Some(now);
        require(again, "KILL is not hammered", text)?;
        let first = live.killed_at.is_none();
        if first || live.adopted_at != Some(now) {
            live.killed_at = Some(now);
        }
        if !first || live.may_force || all {
            return Ok(());
        }
        match (&live.stop, live.exited) {
            (stop, Some(at)) => {
                let grace = stop
                    .as_ref()
                    .map_or(live.grace, |s| s.schedule.leftover_grace);
                require(now >= at + grace, "KILL is never early", text)
            }
            (Some(stop), None) => {
                let all_done = stop.last.map_or(0, |n| n + 1) == stop.schedule.steps.len();
                let due = all_done && !stop.acted && stop.may_go_on(now);
                require(due, "KILL is never early", text)?;
                let hasty = stop.held && now < stop.step_at + stop.wait();
                require(!hasty, "STOPPING=1 means hands off", text)
            }
            (None, None) => broken("only a stop does that", text()),
        }
    }

    pub(super) fn release(
        &mut self,
        now: Tick,
        id: ServiceId,
        instance: Instance,
        world: &World,
    ) -> Ruling {
        let hooks = self.services.get(&id).and_then(|s| s.spec.hooks.clone());
        let live = self.live(id, instance)?;
        let due = hooks.is_some_and(|h| h.post_stop.is_some()) && !live.redefined;
        let done = live.hooks.contains(&Kind::PostStop);
        require(done || !due, "post-stop comes before it is over", || {
            format!("{id:?}")
        })?;
        let left = world.of_hooks(id);
        let had = !live.hooks.is_empty();
        require(left == 0 || !had, "no hook outlives its instance", || {
            format!("{id:?}: {left}")
        })?;
        let child = world.children.get(&(id, instance));
        let left = child.map_or(0, |c| c.tree());
        require(left == 0, "released when the tree is empty", || {
            format!("{id:?}: {left} left")
        })?;
        let live = self.services.get_mut(&id).and_then(|s| {
            s.ended_well = s.live.as_ref().is_some_and(|l| l.success);
            s.stays = s.live.as_ref().is_some_and(|l| l.stay);
            s.cover(now, self.clock.as_deref());
            s.live.take()
        });
        // A successor that finds it ended holds nothing any more.
        let held = live
            .as_ref()
            .is_some_and(|l| l.held && l.adopted_at.is_none());
        require(!held, "ports are free before it is over", || {
            format!("{id:?}")
        })?;
        let open = live.map_or(0, |l| l.actions.len() + l.probes.len());
        require(open == 0, "no action outlives its instance", || {
            format!("{id:?}: {open}")
        })
    }

    // ---- after each step -----------------------------------------------------
}
