//! After the main process: the rest of the tree, the ports, the verdict, and the hooks that
//! come then (`on-crash`, `post-stop`).
//!
//! The sweep follows every exit, also a clean one, before "stopped" is said or a next
//! instance starts. An attempt to start that came to nothing has an end, too, if there is a
//! hook to follow it. (Past 400 lines because this is one story, and its phases share one
//! state.)

use std::time::Duration;

use super::crash::{is_out_of_memory, BY_SIGNAL, GO_DUMP};
use super::event::{ActionId, Check, Effect, Outcome, ServiceId};
use super::hook::{HookRun, Kind};
use super::memory::LONGEST;
use super::poll::{look_at, Poll, POLL_LONGEST};
use super::ready::About;
use super::report::{Crash, EndReport, Exit, Happening, Origin, Stage, StepReport, Stuck, Verdict};
use super::service::{Context, Kill, Run};
use super::signal::Signal;
use super::spec::{Schedule, Spec, To};
use super::stop::Stop;
use super::time::Tick;
use crate::json::{FromJson, ToJson};

/// How long a port may stay open after its tree is gone (somebody else was handed the
/// socket) before that is reported and life goes on.
pub const PORTS_WAIT: Duration = Duration::from_secs(2);

/// The longest pause between two looks at what has had its KILL. The reaping of an orphan is
/// another occasion to look; what is left in the end hangs in the kernel.
pub const KILLED_POLL_LONGEST: Duration = Duration::from_secs(5);

/// Whether the tree is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swept {
    /// Something is left.
    NotYet,
    /// Nothing is left.
    Clean,
}

#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
enum Phase {
    /// It is not known yet whether anything is left. KILL at this time, in case.
    Unsure {
        until: Tick,
        grace: Duration,
        killing: bool,
    },
    /// Leftovers had a TERM; KILL at this time, and before it a look at them, if that is
    /// still to come.
    Grace(Tick, Option<Tick>),
    /// They had a KILL.
    Kill(Kill),
    /// The tree is empty; the ports are looked at until this time.
    Ports(Tick),
    /// The hooks, in order; this one is next. Before each, what commands have left is dead.
    Hooks(Turn),
}

/// The hooks after an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
enum Turn {
    OnCrash,
    PostStop,
    Over,
}

/// The end of one instance.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct End {
    /// What ran.
    pub run: Run,
    /// The stop during which it ended, if any.
    pub stop: Option<Stop>,
    exit: Exit,
    crash: Option<Crash>,
    ended: Tick,
    phase: Phase,
    #[serde(skip, default = "Poll::at_once")]
    poll: Poll,
    /// Processes that outlived the main one without having been KILLed.
    left: u32,
    /// Processes still alive at the last look.
    pub alive: u32,
    ports_held: u32,
    /// What was seen of the leftovers before their KILL.
    stuck: Vec<Stuck>,
    /// Leftovers had a KILL after their grace.
    killed: bool,
    /// The hooks that are over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hooks: Vec<StepReport>,
}

impl End {
    /// The main process is reaped.
    pub fn new(run: Run, exit: Exit, crash: Option<Crash>, stop: Option<Stop>, now: Tick) -> End {
        End {
            run,
            stop,
            exit,
            crash,
            ended: now,
            phase: Phase::Ports(now),
            poll: Poll::begin(now),
            left: 0,
            alive: 0,
            ports_held: 0,
            stuck: Vec::new(),
            killed: false,
            hooks: Vec::new(),
        }
    }

    /// The instance never came into being: of it there is nothing to clear away.
    pub fn of_nothing(run: Run, stop: Option<Stop>, now: Tick) -> End {
        End::new(run, Exit::Unknown, None, stop, now)
    }

    /// The tree is dead and the ports are free: on to the next hook, if there is one. Clean
    /// when everything is over.
    pub fn next_hook(&mut self, spec: &Spec, about: &mut About<'_, '_>) -> Swept {
        let Phase::Hooks(mut turn) = self.phase else {
            let due = spec.hooks.as_ref();
            let due = due.is_some_and(|h| h.on_crash.is_some() || h.post_stop.is_some());
            let had = self.run.hooked || self.stop.as_ref().is_some_and(Stop::has_hook);
            if !due && !had {
                return Swept::Clean;
            }
            // One that was cut short is cleared away first.
            self.phase = Phase::Hooks(Turn::OnCrash);
            self.look_at_commands(about);
            return Swept::NotYet;
        };
        let (verdict, _) = self.judge(spec);
        let crashed = matches!(verdict, Verdict::Crashed | Verdict::PanickedWhileStopping);
        let hooks = spec.hooks.as_ref();
        while turn != Turn::Over {
            let (kind, hook, next) = match turn {
                Turn::OnCrash => (
                    Kind::OnCrash,
                    hooks.and_then(|h| h.on_crash.as_ref()).filter(|_| crashed),
                    Turn::PostStop,
                ),
                Turn::PostStop | Turn::Over => (
                    Kind::PostStop,
                    hooks.and_then(|h| h.post_stop.as_ref()),
                    Turn::Over,
                ),
            };
            turn = next;
            if let Some(hook) = hook {
                self.phase = Phase::Hooks(turn);
                let news = self.news(spec);
                self.run.hook = Some(HookRun::begin(kind, hook, news, about));
                return Swept::NotYet;
            }
        }
        Swept::Clean
    }

    fn look_at_commands(&mut self, about: &mut About<'_, '_>) {
        let (id, instance) = (about.id, about.instance);
        self.poll = Poll::up_to(KILLED_POLL_LONGEST, about.now);
        let check = Effect::Check(id, instance, Check::Commands);
        about.cx.effects.push(check);
    }

    /// What has happened, for a hook: systemd.exec(5) has these names and values.
    fn news(&self, spec: &Spec) -> Vec<(&'static str, String)> {
        let mut news = vec![("SERVICE_RESULT", self.result(spec).to_owned())];
        if let Some(crash) = &self.crash {
            // The service's own words: no line of them is to be another variable.
            let text: String = crash.to_string();
            let text = text.chars().filter(|c| !c.is_control()).collect();
            news.push(("CRASH", text));
        }
        let (code, status) = match self.exit {
            _ if self.run.exec_error.is_some() => return news,
            Exit::Unknown => return news,
            Exit::Code(n) => ("exited", n.to_string()),
            Exit::Signal(s) => ("killed", s.to_string()),
        };
        news.push(("EXIT_CODE", code.to_owned()));
        news.push(("EXIT_STATUS", status));
        news
    }

    fn result(&self, spec: &Spec) -> &'static str {
        if let Some(error) = &self.run.exec_error {
            return match (error.stage, error.errno) {
                (Stage::PreStart, libc::ETIMEDOUT) => "timeout",
                (Stage::PreStart, _) => "exit-code",
                _ => "resources",
            };
        }
        let stop = self.stop.as_ref();
        let why = stop.map_or("success", |s| s.order.result());
        if why != "success" {
            return why;
        }
        if self.crash.as_ref().is_some_and(is_out_of_memory) {
            return "oom-kill";
        }
        if stop.is_some_and(|s| s.killed && !s.forced) {
            return "timeout";
        }
        let (_, success) = self.judge(spec);
        let asked = |signal| stop.is_some_and(|s| s.sent.contains(&signal));
        match self.exit {
            _ if success => "success",
            Exit::Code(_) => "exit-code",
            Exit::Signal(s) if asked(s) && self.crash.is_none() => "success",
            Exit::Signal(_) => "signal",
            Exit::Unknown if stop.is_some() => "success",
            Exit::Unknown => "resources",
        }
    }

    /// The hook before the start was cut short.
    pub fn note_hook(&mut self, hook: &HookRun, now: Tick) {
        let asked = self.asked();
        self.hooks.push(hook.report(asked, now));
    }

    /// A hook, or another action, ended.
    pub fn action_ended(&mut self, action: ActionId, outcome: &Outcome, about: &mut About<'_, '_>) {
        if let Some(hook) = &mut self.run.hook {
            hook.action_ended(action, outcome, about);
        }
    }

    /// When the end was asked for, or began.
    fn asked(&self) -> Tick {
        self.stop.as_ref().map_or(self.ended, |s| s.order.asked)
    }

    /// What is about to be killed.
    pub fn looked(&mut self, stuck: Vec<Stuck>) {
        self.stuck = stuck;
    }

    /// `left` processes of the tree are alive, if that is known; `killing`: they have had
    /// their KILL.
    pub fn begin(
        &mut self,
        id: ServiceId,
        left: Option<u32>,
        killing: bool,
        grace: Duration,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> Swept {
        self.alive = left.unwrap_or(0);
        let Some(left) = left else {
            if grace.is_zero() {
                self.kill(id, now, cx);
            } else {
                self.phase = Phase::Unsure {
                    until: now + grace,
                    grace,
                    killing,
                };
                self.poll = Poll::begin(now);
                cx.effects
                    .push(Effect::Check(id, self.run.instance, Check::Tree));
            }
            return Swept::NotYet;
        };
        if left == 0 {
            return self.look_at_ports(id, now, cx);
        }
        if killing || grace.is_zero() {
            if !killing {
                self.left = left;
            }
            self.kill(id, now, cx);
        } else {
            self.left = left;
            self.phase = Phase::Grace(now + grace, Some(look_at(now, now + grace)));
            // One TERM in all: a second one is what makes servers panic.
            if !self.stop.as_ref().is_some_and(|s| s.told_tree) {
                cx.effects.push(Effect::Signal(
                    id,
                    self.run.instance,
                    Signal::TERM,
                    To::Tree,
                ));
                cx.effects
                    .push(Effect::Wake(id, self.run.instance, To::Tree));
            }
        }
        Swept::NotYet
    }

    fn kill(&mut self, id: ServiceId, now: Tick, cx: &mut Context<'_>) {
        self.killed = true;
        cx.effects.push(Effect::KillTree(id, self.run.instance));
        self.phase = Phase::Kill(Kill::begin(now));
        self.poll = Poll::up_to(KILLED_POLL_LONGEST, now);
        cx.effects
            .push(Effect::Check(id, self.run.instance, Check::Tree));
    }

    /// Ports were noted only when a stop began; a crash leaves none to look at, and the
    /// kernel has closed what the tree had.
    fn look_at_ports(&mut self, id: ServiceId, now: Tick, cx: &mut Context<'_>) -> Swept {
        let drained = self.stop.as_ref().is_some_and(|s| s.drained);
        if drained || self.run.filtered {
            cx.effects.push(Effect::LetGo(id, self.run.instance));
        }
        if self.stop.is_none() {
            return Swept::Clean;
        }
        self.phase = Phase::Ports(now + PORTS_WAIT);
        self.poll = Poll::begin(now);
        cx.effects
            .push(Effect::Check(id, self.run.instance, Check::Ports));
        Swept::NotYet
    }

    /// A look has its answer.
    pub fn checked(
        &mut self,
        id: ServiceId,
        check: Check,
        found: u32,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> Swept {
        match (&self.phase, check) {
            (Phase::Unsure { grace, killing, .. }, Check::Tree) => {
                let (grace, killing) = (*grace, *killing);
                self.begin(id, Some(found), killing, grace, now, cx)
            }
            (Phase::Grace(..) | Phase::Kill(_), Check::Tree) => {
                self.alive = found;
                match found {
                    0 => self.look_at_ports(id, now, cx),
                    _ => Swept::NotYet,
                }
            }
            (Phase::Ports(until), Check::Ports) => {
                self.ports_held = found;
                match found == 0 || now >= *until {
                    true => Swept::Clean,
                    false => Swept::NotYet,
                }
            }
            (Phase::Hooks(_), Check::Commands) => {
                if self.run.hook.as_ref().is_some_and(|h| !h.is_done(found)) {
                    return Swept::NotYet;
                }
                if let Some(hook) = self.run.hook.take() {
                    self.note_hook(&hook, now);
                }
                match found {
                    0 => Swept::Clean,
                    _ => Swept::NotYet,
                }
            }
            (
                Phase::Unsure { .. } | Phase::Grace(..) | Phase::Kill(_),
                Check::Ports | Check::Notify | Check::Descendants | Check::Commands,
            )
            | (
                Phase::Ports(_),
                Check::Tree | Check::Notify | Check::Descendants | Check::Commands,
            )
            | (Phase::Hooks(_), Check::Ports | Check::Tree | Check::Notify | Check::Descendants) => {
                Swept::NotYet
            }
        }
    }

    /// Some process was reaped that is nobody's main process.
    pub fn tree_shrank(&mut self, id: ServiceId, cx: &mut Context<'_>) {
        let check = match (&self.phase, &self.run.hook) {
            (Phase::Unsure { .. } | Phase::Grace(..) | Phase::Kill(_), _) => Check::Tree,
            (Phase::Hooks(_), Some(hook)) if hook.action().is_some() => return,
            (Phase::Hooks(_), _) => Check::Commands,
            (Phase::Ports(_), _) => return,
        };
        cx.effects.push(Effect::Check(id, self.run.instance, check));
    }

    /// Whether it can be what [`End::begin`] and time have made.
    pub fn is_sound(
        &self,
        schedule: &impl Fn(&Schedule) -> bool,
        kill: &impl Fn(&Kill) -> bool,
    ) -> bool {
        let stop = self.stop.as_ref();
        stop.is_none_or(|s| s.is_sound(schedule))
            && match &self.phase {
                Phase::Unsure { grace, .. } => *grace <= LONGEST,
                Phase::Grace(..) | Phase::Ports(_) | Phase::Hooks(_) => true,
                Phase::Kill(k) => kill(k),
            }
    }

    /// Goes on after another superd: a TERM is not sent again, a KILL is.
    pub fn resume(&mut self, id: ServiceId, left: Option<u32>, now: Tick, cx: &mut Context<'_>) {
        self.alive = left.unwrap_or(0);
        let instance = self.run.instance;
        match self.phase {
            Phase::Unsure { .. } | Phase::Grace(..) => {
                self.poll = Poll::begin(now);
                cx.effects.push(Effect::Check(id, instance, Check::Tree));
            }
            Phase::Kill(_) => {
                self.poll = Poll::up_to(KILLED_POLL_LONGEST, now);
                cx.effects.push(Effect::KillTree(id, instance));
                cx.effects.push(Effect::Check(id, instance, Check::Tree));
            }
            Phase::Ports(_) => {
                self.poll = Poll::begin(now);
                cx.effects.push(Effect::Check(id, instance, Check::Ports));
            }
            Phase::Hooks(_) => self.look_again(id, now, cx),
        }
    }

    /// Looks again, in a superd that has become another program.
    pub fn look_again(&mut self, id: ServiceId, now: Tick, cx: &mut Context<'_>) {
        if let (Phase::Hooks(_), Some(hook)) = (&self.phase, &mut self.run.hook) {
            let instance = self.run.instance;
            return hook.resume(&mut About::new(now, id, instance, cx));
        }
        let (check, longest) = match self.phase {
            Phase::Unsure { .. } | Phase::Grace(..) => (Check::Tree, POLL_LONGEST),
            Phase::Kill(_) => (Check::Tree, KILLED_POLL_LONGEST),
            Phase::Ports(_) => (Check::Ports, POLL_LONGEST),
            Phase::Hooks(_) => (Check::Commands, KILLED_POLL_LONGEST),
        };
        self.poll = Poll::up_to(longest, now);
        cx.effects.push(Effect::Check(id, self.run.instance, check));
    }

    /// `--now`.
    pub fn force(&mut self, id: ServiceId, now: Tick, cx: &mut Context<'_>) {
        match self.phase {
            Phase::Unsure { .. } | Phase::Grace(..) => self.kill(id, now, cx),
            Phase::Kill(_) | Phase::Ports(_) => {}
            Phase::Hooks(_) => {
                let instance = self.run.instance;
                let mut about = About::new(now, id, instance, cx);
                if let Some(hook) = self.run.hook.as_mut().filter(|h| h.action().is_some()) {
                    hook.cut_short(&mut about);
                    hook.resume(&mut about);
                }
            }
        }
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Option<Tick> {
        let own = match &self.phase {
            Phase::Unsure { until, .. } | Phase::Grace(until, _) | Phase::Ports(until) => *until,
            Phase::Kill(kill) => kill.next,
            Phase::Hooks(_) => {
                let hook = self.run.hook.as_ref();
                return Some(hook.map_or(self.poll.at(), |h| h.next_deadline()));
            }
        };
        let look = match &self.phase {
            Phase::Grace(_, Some(at)) => *at,
            Phase::Grace(_, None)
            | Phase::Unsure { .. }
            | Phase::Kill(_)
            | Phase::Ports(_)
            | Phase::Hooks(_) => Tick::NEVER,
        };
        Some(own.min(look).min(self.poll.at()))
    }

    /// Time has passed.
    pub fn timeout(&mut self, id: ServiceId, now: Tick, cx: &mut Context<'_>) -> Swept {
        let instance = self.run.instance;
        if let (Phase::Hooks(_), Some(hook)) = (&self.phase, &mut self.run.hook) {
            hook.timeout(&mut About::new(now, id, instance, cx));
            return Swept::NotYet;
        }
        let look = self.poll.is_due(now);
        match &mut self.phase {
            Phase::Unsure { until, .. } | Phase::Grace(until, _) if now >= *until => {
                self.kill(id, now, cx);
            }
            Phase::Grace(_, at) if at.is_some_and(|at| now >= at) => {
                *at = None;
                cx.effects.push(Effect::Look(id, instance));
            }
            Phase::Kill(kill) if now >= kill.next => {
                kill.is_due(now);
                let since = now - kill.since;
                let left = self.alive;
                cx.effects.push(Effect::KillTree(id, instance));
                cx.publish(
                    id,
                    Happening::Unkillable {
                        instance,
                        left,
                        since,
                    },
                );
                cx.effects.push(Effect::Check(id, instance, Check::Tree));
            }
            Phase::Unsure { .. } | Phase::Grace(..) | Phase::Kill(_) if look => {
                cx.effects.push(Effect::Check(id, instance, Check::Tree));
            }
            Phase::Ports(until) if now >= *until => return Swept::Clean,
            Phase::Ports(_) if look => {
                cx.effects.push(Effect::Check(id, instance, Check::Ports));
            }
            Phase::Hooks(_) if look => {
                cx.effects
                    .push(Effect::Check(id, instance, Check::Commands));
            }
            Phase::Unsure { .. }
            | Phase::Grace(..)
            | Phase::Kill(_)
            | Phase::Ports(_)
            | Phase::Hooks(_) => {}
        }
        Swept::NotYet
    }

    /// For `status`.
    pub fn progress(&self, now: Tick) -> (String, Duration, Duration) {
        if let (Phase::Hooks(_), Some(hook)) = (&self.phase, &self.run.hook) {
            return hook.progress(now);
        }
        let what = match &self.phase {
            Phase::Unsure { .. } => "looking for what it left behind",
            Phase::Grace(..) => "TERM sent to what it left behind",
            Phase::Kill(_) => "KILL sent to the tree",
            Phase::Ports(_) => "waiting for its ports to close",
            Phase::Hooks(_) => "KILL sent to what its commands left behind",
        };
        let until = match &self.phase {
            Phase::Unsure { until, .. } | Phase::Grace(until, _) | Phase::Ports(until) => *until,
            Phase::Kill(kill) => kill.next,
            Phase::Hooks(_) => self.poll.at(),
        };
        (what.to_owned(), now - self.ended, until - self.ended)
    }

    /// The story, and whether the exit is a success for the restart policy.
    pub fn report(self, spec: &Spec, now: Tick) -> (EndReport, bool) {
        let (verdict, success) = self.judge(spec);
        let mut steps = Vec::new();
        // Looked at in time, and then it went by itself: it was not stuck.
        let mut stuck = match self.killed {
            true => self.stuck,
            false => Vec::new(),
        };
        let (by, absorbed, from) = match self.stop {
            Some(stop) => {
                if stop.killed {
                    stuck.splice(..0, stop.stuck);
                }
                steps = stop.steps;
                (stop.order.by, stop.order.absorbed, stop.order.asked)
            }
            None => (Origin::Itself, 0, self.ended),
        };
        let report = EndReport {
            instance: self.run.instance,
            pid: self.run.pid,
            by,
            absorbed,
            stopping_seen: self.run.stopping_seen,
            ran: from - self.run.began,
            took: now - from,
            steps,
            exit: self.exit,
            crash: self.crash,
            left: self.left,
            ports_held: self.ports_held,
            hooks: self.hooks,
            stuck,
            verdict,
        };
        (report, success)
    }

    /// DESIGN 4, "the verdict": the exit status alone is not it.
    fn judge(&self, spec: &Spec) -> (Verdict, bool) {
        // What a step of the stop has asked for is no crash: a dump of the goroutines (QUIT),
        // and a death by the signal that was sent (ABRT).
        let sent = |signal| self.stop.as_ref().is_some_and(|s| s.sent.contains(&signal));
        let asked = self.crash.as_ref().is_some_and(|c| match c.kind.as_str() {
            GO_DUMP => sent(Signal::QUIT),
            BY_SIGNAL => matches!(self.exit, Exit::Signal(s) if sent(s)),
            _ => false,
        });
        let crash = self.crash.as_ref().filter(|_| !asked);
        let listed = match self.exit {
            Exit::Code(n) => n == 0 || spec.success_exit.contains(&n),
            Exit::Signal(s) => spec.success_signal.contains(&s),
            Exit::Unknown => false,
        };
        let success = listed && crash.is_none();
        let left = match (self.left, self.ports_held) {
            (0, 0) => None,
            (0, _) => Some(Verdict::PortsHeld),
            (_, _) => Some(Verdict::LeftChildren),
        };
        let Some(stop) = &self.stop else {
            let verdict = match (crash, self.exit) {
                (Some(_), _) => Verdict::Crashed,
                (None, Exit::Signal(_)) if !success => Verdict::Crashed,
                (None, _) => left.unwrap_or(Verdict::ExitedByItself),
            };
            return (verdict, success);
        };
        let asked_for = match self.exit {
            Exit::Code(_) => listed,
            // Nobody can say, and nothing speaks against it.
            Exit::Unknown => true,
            Exit::Signal(Signal::KILL) if stop.killed => true,
            Exit::Signal(s) => listed || stop.sent.contains(&s),
        };
        let verdict = if crash.is_some() {
            Verdict::PanickedWhileStopping
        } else if stop.killed && (stop.escalated || stop.forced) {
            Verdict::Killed
        } else if let Some(left) = left {
            left
        } else if stop.escalated {
            Verdict::CleanAfterEscalation
        } else if asked_for {
            Verdict::Clean
        } else {
            Verdict::FailedWhileStopping
        };
        (verdict, success)
    }
}
