//! One stop under way: which step it is at, what was sent, until when.
//!
//! Only the part before the main process is gone; `end.rs` has the rest. The
//! promises of DESIGN 1 that are kept here: each step at most once, and a deadline
//! that only ever moves earlier.
//!
//! Longer than a file should be: a step is begun, waited for and ended by the same few fields.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::event::{ActionId, Check, Effect, Instance, Outcome, ServiceId};
use super::hook::{Call, Kind};
use super::poll::{look_at, Poll};
use super::report::{Happening, Origin, StepOutcome, StepReport, Stuck};
use super::resume;
use super::service::{Context, Run};
use super::signal::Signal;
use super::spec::{Action, Schedule, Step, To, Until};
use super::time::{Span, Tick};
use crate::json::{FromJson, ToJson};

/// Who asked for a stop, and when. Kept from the first request on, also while the stop
/// has to wait for services that go down first.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct Order {
    /// Who asked first.
    pub by: Origin,
    /// When.
    pub asked: Tick,
    /// Requests after the first.
    pub absorbed: u32,
    /// Somebody asked for `--now`.
    pub force: bool,
    /// It is not to be started again by itself, although it is wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stay: bool,
    /// It was not ready in time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unready: bool,
}

impl Order {
    /// A first request.
    pub fn new(by: Origin, asked: Tick) -> Order {
        Order {
            by,
            asked,
            absorbed: 0,
            force: false,
            stay: false,
            unready: false,
        }
    }

    /// superd itself found that the service does not do what it should: what follows is for
    /// the restart policy.
    pub fn is_unfit(&self) -> bool {
        matches!(self.by, Origin::Unfit { .. })
    }

    /// SERVICE_RESULT (systemd.exec(5)), as far as it is known why it is stopped.
    pub fn result(&self) -> &'static str {
        match (self.unready, self.is_unfit()) {
            (true, _) => "timeout",
            (false, true) => "watchdog",
            (false, false) => "success",
        }
    }
}

/// What the present step is doing.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
enum Phase {
    /// The notify socket is read once more before anything is sent.
    Looking,
    /// The action is out (or held back); its condition is awaited.
    Acting,
    /// The action failed; the notify socket tells whether the service stops already.
    Doubting(String),
    /// The condition holds; the pause after it.
    Settling(Tick),
}

/// So many connections, in words.
struct Connections(u32);

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 connection"),
            n => write!(f, "{n} connections"),
        }
    }
}

/// Whether the schedule goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Course {
    /// It waits for something.
    GoesOn,
    /// No step is left: KILL what is there.
    Exhausted,
}

/// One stop under way.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct Stop {
    /// Who asked.
    pub order: Order,
    /// When the schedule began (later than `order.asked` when others had to go first).
    began: Tick,
    /// As it was when the stop began; a reload does not change a stop under way.
    schedule: Rc<Schedule>,
    step: usize,
    phase: Phase,
    step_began: Tick,
    /// Fixed when the step's action is performed.
    step_deadline: Tick,
    /// Of the whole stop. Only ever moves earlier: a repeated stop must not postpone the kill.
    deadline: Tick,
    /// Signals, commands and requests of ours that have reached the service, or may have.
    reached: u32,
    /// The service said STOPPING=1 before any of ours had reached it: a rival stops it.
    rival: bool,
    /// The hands are off the service in the present step, because of a rival.
    held: bool,
    /// A rival had a whole step's time, in vain: from now on as configured.
    rival_had_time: bool,
    /// A step ran into its time limit, or a failed action (not a drain) was passed over.
    pub escalated: bool,
    /// `--now` cut the schedule short.
    pub forced: bool,
    /// KILL was sent to the tree while the main process was alive.
    pub killed: bool,
    /// What is stuck was asked for.
    pub has_looked: bool,
    /// What was seen then.
    pub stuck: Vec<Stuck>,
    /// Signals that the steps have sent.
    pub sent: Vec<Signal>,
    /// A TERM went to every process besides the main one: leftovers have had theirs.
    pub told_tree: bool,
    /// Listening sockets that the tree had when the stop began, once they are counted.
    pub ports: Option<u32>,
    /// The step's action that still runs or may still report.
    action: Option<ActionId>,
    /// Connections that were open when a drain looked last.
    #[serde(default)]
    connections: Option<u32>,
    /// A step has held back new connections: the sockets are to be let go in the end.
    #[serde(default)]
    pub drained: bool,
    #[serde(skip)]
    poll: Option<Poll>,
    /// What the command or request of the present step complained of.
    unhappy: Option<String>,
    what: String,
    /// The steps that are over.
    pub steps: Vec<StepReport>,
}

/// What a stop needs to know of its service for one turn.
pub struct Scene<'a, 'b> {
    /// The time.
    pub now: Tick,
    /// Which service.
    pub id: ServiceId,
    /// Which run of it.
    pub instance: Instance,
    /// Whether it has said STOPPING=1.
    pub says_stopping: bool,
    /// Where effects go.
    pub cx: &'a mut Context<'b>,
}

impl<'a, 'b> Scene<'a, 'b> {
    /// That of a run.
    pub fn of(run: &Run, id: ServiceId, now: Tick, cx: &'a mut Context<'b>) -> Scene<'a, 'b> {
        Scene {
            now,
            id,
            instance: run.instance,
            says_stopping: run.stopping_seen > 0,
            cx,
        }
    }

    fn emit(&mut self, effect: Effect) {
        self.cx.effects.push(effect);
    }
}

impl Stop {
    /// Begins the schedule: the first step's [`Check::Notify`] is asked for.
    pub fn begin(order: Order, schedule: Rc<Schedule>, scene: &mut Scene<'_, '_>) -> Stop {
        let now = scene.now;
        let longest = schedule.longest();
        let mut stop = Stop {
            began: now,
            step: 0,
            phase: Phase::Looking,
            step_began: now,
            step_deadline: now,
            deadline: now + longest,
            reached: 0,
            rival: scene.says_stopping,
            held: false,
            rival_had_time: false,
            escalated: false,
            forced: false,
            killed: false,
            has_looked: false,
            stuck: Vec::new(),
            sent: Vec::new(),
            told_tree: false,
            ports: None,
            action: None,
            connections: None,
            drained: false,
            poll: None,
            unhappy: None,
            what: String::new(),
            steps: Vec::new(),
            order,
            schedule,
        };
        let by = stop.order.by.clone();
        scene.cx.publish(
            scene.id,
            Happening::Stopping {
                instance: scene.instance,
                by,
                longest,
            },
        );
        scene.emit(Effect::NotePorts(scene.id, scene.instance));
        stop.begin_step(scene);
        stop
    }

    fn current(&self) -> Option<&Step> {
        self.schedule.steps.get(self.step)
    }

    /// The longest the rest can take, seen from the start of the present step.
    fn rest(&self) -> Duration {
        let steps = self.schedule.steps.iter().skip(self.step);
        let steps = steps.map(|s| s.wait + s.settle).sum::<Duration>();
        steps + self.schedule.leftover_grace + self.schedule.after
    }

    fn awaits_action(&self) -> bool {
        self.current()
            .is_some_and(|s| s.until == Until::ActionEnded)
    }

    fn begin_step(&mut self, scene: &mut Scene<'_, '_>) -> Course {
        let now = scene.now;
        let Some((what, wait)) = self.current().map(|s| (s.action.to_string(), s.wait)) else {
            self.deadline = self.deadline.min(now + self.rest());
            return Course::Exhausted;
        };
        self.what = what;
        self.phase = Phase::Looking;
        self.step_began = now;
        self.step_deadline = now + wait;
        self.deadline = self.deadline.min(now + self.rest());
        self.poll = None;
        self.action = None;
        self.connections = None;
        scene.emit(Effect::Check(scene.id, scene.instance, Check::Notify));
        Course::GoesOn
    }

    /// Ends the present step and begins the next one.
    fn end_step(&mut self, outcome: StepOutcome, scene: &mut Scene<'_, '_>) -> Course {
        if matches!(outcome, StepOutcome::TimedOut) {
            self.escalated = true;
            self.rival_had_time |= self.held;
        }
        self.close_step(outcome, scene);
        self.step += 1;
        self.begin_step(scene)
    }

    /// Writes the present step into the report and lets go of its action.
    fn close_step(&mut self, outcome: StepOutcome, scene: &mut Scene<'_, '_>) {
        if let Some(action) = self.action.take() {
            scene.emit(Effect::EndAction(scene.id, scene.instance, action));
        }
        let outcome = match (self.unhappy.take(), outcome) {
            (Some(why), StepOutcome::Held) if self.awaits_action() => StepOutcome::Failed(why),
            (_, outcome) => outcome,
        };
        if let (StepOutcome::TimedOut, Some(n)) = (&outcome, self.connections) {
            self.what.push_str(&format!(", {} left", Connections(n)));
        }
        if self.current().is_some() {
            self.steps.push(StepReport {
                what: std::mem::take(&mut self.what),
                began: self.step_began - self.order.asked,
                took: scene.now - self.step_began,
                outcome,
            });
        }
    }

    /// The notify socket has been read: act, or keep the hands off.
    pub fn looked(&mut self, scene: &mut Scene<'_, '_>) -> Course {
        match std::mem::replace(&mut self.phase, Phase::Acting) {
            Phase::Looking => self.act(scene),
            Phase::Doubting(_) if scene.says_stopping && !self.is_hook() => {
                self.rival |= self.reached == 0;
                self.held = self.rival;
                Course::GoesOn
            }
            Phase::Doubting(why) => {
                // A drain only spares the clients; without it the stop is still orderly.
                self.escalated |= self.reaches();
                self.end_step(StepOutcome::Skipped(why), scene)
            }
            phase @ (Phase::Acting | Phase::Settling(_)) => {
                self.phase = phase;
                Course::GoesOn
            }
        }
    }

    fn act(&mut self, scene: &mut Scene<'_, '_>) -> Course {
        // STOPPING=1 before anything of ours has reached the service (a drain does not)
        // means that somebody else has asked it already: a signal on top is what makes
        // it panic. Once a step has waited in vain, it goes on as configured.
        self.rival |= scene.says_stopping && self.reached == 0;
        let hands_off = self.rival && !self.rival_had_time && !self.is_hook();
        self.held = hands_off;
        let Some(step) = self.current().cloned() else {
            return Course::Exhausted;
        };
        if let (Until::Log(text), false) = (&step.until, hands_off) {
            scene.emit(Effect::WatchOutput(scene.id, scene.instance, text.clone()));
        }
        if hands_off {
            self.what = format!(
                "{} held back, it is stopping already (STOPPING=1)",
                self.what
            );
        } else {
            // Looking (at ports, at the notify socket) took superd's time. The service has
            // its grace from the moment at which it is told.
            self.step_began = scene.now;
            self.step_deadline = scene.now + step.wait;
            self.perform(&step, scene);
        }
        if step.until == Until::PortsClosed && self.ports == Some(0) {
            self.what
                .push_str(", until it is gone: it has no open port");
        }
        let what = self.what.clone();
        let happening = Happening::Step {
            instance: scene.instance,
            what,
            wait: step.wait,
        };
        scene.cx.publish(scene.id, happening);
        self.await_condition(&step.until, scene)
    }

    fn perform(&mut self, step: &Step, scene: &mut Scene<'_, '_>) {
        let (id, instance) = (scene.id, scene.instance);
        let action = &step.action;
        let result = self.order.result();
        let mut number = || {
            let n = scene.cx.next_action();
            self.action = Some(n);
            n
        };
        match action {
            Action::Drain(_) => self.drained = true,
            Action::Hook(_) => {}
            Action::Signal(..) | Action::Run(_) | Action::Http(_) => self.reached += 1,
        }
        let effect = match action {
            Action::Signal(signal, to) => {
                self.sent.push(*signal);
                self.told_tree |=
                    *signal == Signal::TERM && matches!(to, To::Tree | To::Descendants);
                Effect::Signal(id, instance, *signal, *to)
            }
            Action::Run(argv) => Effect::Run(id, instance, number(), argv.clone()),
            Action::Http(http) => Effect::Http(id, instance, number(), http.clone()),
            Action::Drain(what) => Effect::Drain(id, instance, number(), what.clone()),
            Action::Hook(argv) => {
                let call = Call {
                    kind: Kind::PreStop,
                    argv: argv.clone(),
                    news: vec![("SERVICE_RESULT", result.to_owned())],
                };
                Effect::Hook(id, instance, number(), Rc::new(call))
            }
        };
        scene.emit(effect);
        // As systemd does: who stands still would sit out its grace.
        if let Action::Signal(signal, to) = action {
            if signal.ends_a_process() {
                scene.emit(Effect::Wake(id, instance, *to));
            }
        }
    }

    fn await_condition(&mut self, until: &Until, scene: &mut Scene<'_, '_>) -> Course {
        let check = match until {
            // What was never open does not close: that would hold at once.
            Until::PortsClosed if self.ports == Some(0) => return Course::GoesOn,
            Until::PortsClosed => Check::Ports,
            Until::DescendantsGone => Check::Descendants,
            Until::Stopping if scene.says_stopping => return self.hold(scene),
            Until::Gone
            | Until::Stopping
            | Until::Log(_)
            | Until::NoConnections
            | Until::ActionEnded => return Course::GoesOn,
        };
        self.poll = Some(Poll::begin(scene.now));
        scene.emit(Effect::Check(scene.id, scene.instance, check));
        Course::GoesOn
    }

    /// The condition of the present step holds.
    fn hold(&mut self, scene: &mut Scene<'_, '_>) -> Course {
        let last = self.step + 1 == self.schedule.steps.len();
        if self.held && last {
            // KILL comes next: the rival gets the whole wait first.
            self.poll = None;
            return Course::GoesOn;
        }
        let settle = self.current().map_or(Duration::ZERO, |s| s.settle);
        if settle.is_zero() {
            return self.end_step(StepOutcome::Held, scene);
        }
        self.poll = None;
        self.phase = Phase::Settling(scene.now + settle);
        Course::GoesOn
    }

    fn is_acting_until(&self, wanted: impl Fn(&Until) -> bool) -> bool {
        matches!(self.phase, Phase::Acting) && self.current().is_some_and(|s| wanted(&s.until))
    }

    /// A look at ports or descendants has its answer.
    pub fn checked(&mut self, check: Check, found: u32, scene: &mut Scene<'_, '_>) -> Course {
        let holds = found == 0
            && self.is_acting_until(|until| match check {
                Check::Ports => *until == Until::PortsClosed,
                Check::Descendants => *until == Until::DescendantsGone,
                Check::Notify | Check::Tree | Check::Commands => false,
            });
        match holds {
            true => self.hold(scene),
            false => Course::GoesOn,
        }
    }

    /// The service said STOPPING=1.
    pub fn said_stopping(&mut self, scene: &mut Scene<'_, '_>) -> Course {
        self.rival |= self.reached == 0;
        match self.is_acting_until(|u| *u == Until::Stopping) {
            true => self.hold(scene),
            false => Course::GoesOn,
        }
    }

    /// The awaited text was in the output.
    pub fn output_matched(&mut self, scene: &mut Scene<'_, '_>) -> Course {
        match self.is_acting_until(|u| matches!(u, Until::Log(_))) {
            true => self.hold(scene),
            false => Course::GoesOn,
        }
    }

    /// An orphan was reaped: perhaps that was the last descendant.
    pub fn tree_shrank(&mut self, scene: &mut Scene<'_, '_>) {
        if self.is_acting_until(|u| *u == Until::DescendantsGone) {
            scene.emit(Effect::Check(scene.id, scene.instance, Check::Descendants));
        }
    }

    /// The command, request or drain of the present step ended.
    pub fn action_ended(
        &mut self,
        action: ActionId,
        outcome: Outcome,
        scene: &mut Scene<'_, '_>,
    ) -> Course {
        if self.action != Some(action) {
            return Course::GoesOn;
        }
        self.action = None;
        let acting = matches!(self.phase, Phase::Acting);
        match outcome {
            Outcome::Done => {
                let ends = |u: &Until| matches!(u, Until::ActionEnded | Until::NoConnections);
                match self.is_acting_until(ends) {
                    true => self.hold(scene),
                    false => Course::GoesOn,
                }
            }
            // The service got it: what it does now is worth the wait, whatever it
            // answered. (The status of a stop command is not the verdict.)
            Outcome::Unhappy(error) => {
                self.unhappy = Some(error.clone());
                let error = self.complaint(error);
                scene
                    .cx
                    .publish(scene.id, Happening::ActionFailed { error });
                match self.is_acting_until(|u| *u == Until::ActionEnded) {
                    true => self.hold(scene),
                    false => Course::GoesOn,
                }
            }
            Outcome::Impossible(error) | Outcome::NotTried(error) => {
                let happening = Happening::ActionFailed {
                    error: self.complaint(error.clone()),
                };
                scene.cx.publish(scene.id, happening);
                if self.reaches() {
                    self.reached = self.reached.saturating_sub(1);
                }
                if scene.says_stopping && self.reached == 0 && !self.is_hook() {
                    // It stops, and not because of us.
                    self.rival = true;
                    self.held = !self.rival_had_time;
                }
                if acting {
                    self.phase = Phase::Doubting(error);
                    scene.emit(Effect::Check(scene.id, scene.instance, Check::Notify));
                }
                Course::GoesOn
            }
        }
    }

    /// A drain has looked: so many connections are open.
    pub fn counted(&mut self, connections: u32) {
        if self.is_drain() {
            self.connections = Some(connections);
        }
    }

    fn is_drain(&self) -> bool {
        self.current()
            .is_some_and(|s| matches!(s.action, Action::Drain(_)))
    }

    fn is_hook(&self) -> bool {
        self.current().is_some_and(Step::is_hook)
    }

    /// Whether the present step asks the service for anything.
    fn reaches(&self) -> bool {
        !self.is_drain() && !self.is_hook()
    }

    fn complaint(&self, error: String) -> String {
        match self.is_hook() {
            true => format!("{}: {error}", Kind::PreStop),
            false => error,
        }
    }

    /// Whether a hook is, or was, a step of it.
    pub fn has_hook(&self) -> bool {
        self.schedule.has_hook()
    }

    /// Connections that were open when a drain that is under way looked last.
    pub fn connections(&self) -> Option<u32> {
        self.connections
    }

    /// The command or request of the present step. A drain is none: it is begun again.
    pub fn action(&self) -> Option<ActionId> {
        self.action.filter(|_| !self.is_drain())
    }

    /// Whether it can be what [`Stop::begin`] and time have made.
    pub fn is_sound(&self, schedule: &impl Fn(&Schedule) -> bool) -> bool {
        schedule(&self.schedule)
            && self.step <= self.schedule.steps.len()
            && self.reached <= 1_000_000
            && self.order.absorbed <= u32::MAX / 2
    }

    /// Goes on after another superd: what was done is not done again, what was only looked
    /// at is looked at again.
    pub fn resume(&mut self, scene: &mut Scene<'_, '_>) {
        if self.reached == 0 && matches!(self.phase, Phase::Looking) {
            scene.emit(Effect::NotePorts(scene.id, scene.instance));
        }
        match self.phase {
            Phase::Looking | Phase::Doubting(_) => resume::look(Check::Notify, scene),
            Phase::Settling(_) => {}
            Phase::Acting => match self.current().map(|s| s.until.clone()) {
                // What was never open does not close.
                Some(Until::PortsClosed) if self.ports == Some(0) => {}
                Some(Until::PortsClosed) => {
                    self.poll = Some(Poll::begin(scene.now));
                    resume::look(Check::Ports, scene);
                }
                Some(Until::DescendantsGone) => {
                    self.poll = Some(Poll::begin(scene.now));
                    resume::look(Check::Descendants, scene);
                }
                Some(Until::Log(text)) => {
                    scene.emit(Effect::WatchOutput(scene.id, scene.instance, text));
                }
                Some(Until::Gone | Until::Stopping | Until::NoConnections | Until::ActionEnded)
                | None => {}
            },
        }
        let drain = match self.current().map(|s| &s.action) {
            Some(Action::Drain(what)) => self.action.map(|n| (n, what.clone())),
            Some(Action::Signal(..) | Action::Run(_) | Action::Http(_) | Action::Hook(_))
            | None => None,
        };
        if let Some((number, what)) = drain {
            // What it holds back it still holds back; to count is begun again.
            scene.emit(Effect::Drain(scene.id, scene.instance, number, what));
        }
    }

    /// When something is due, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Tick> {
        match &self.phase {
            // Answered in this turn of the loop.
            Phase::Looking | Phase::Doubting(_) => None,
            Phase::Acting => {
                let poll = self.poll.as_ref().map_or(Tick::NEVER, Poll::at);
                let look = self.look_due().unwrap_or(Tick::NEVER);
                Some(self.step_deadline.min(poll).min(look))
            }
            Phase::Settling(until) => Some(*until),
        }
    }

    /// Time has passed.
    pub fn timeout(&mut self, scene: &mut Scene<'_, '_>) -> Course {
        let now = scene.now;
        match self.phase {
            Phase::Looking | Phase::Doubting(_) => Course::GoesOn,
            Phase::Settling(until) if now >= until => {
                let last = self.step + 1 == self.schedule.steps.len();
                if self.held && last && now < self.step_deadline {
                    // As in `hold`; the rival was found out after the condition held.
                    self.phase = Phase::Acting;
                    return Course::GoesOn;
                }
                self.end_step(StepOutcome::Held, scene)
            }
            Phase::Settling(_) => Course::GoesOn,
            Phase::Acting if now >= self.step_deadline => {
                if self.is_hook() {
                    let wait = Span(self.step_deadline - self.step_began);
                    let error = format!("{} did not end within {wait} and was killed", self.what);
                    let happening = Happening::ActionFailed { error };
                    scene.cx.publish(scene.id, happening);
                    let outcome = StepOutcome::Failed("its time was up, it was killed".to_owned());
                    return self.end_step(outcome, scene);
                }
                self.end_step(StepOutcome::TimedOut, scene)
            }
            Phase::Acting => {
                if self.look_due().is_some_and(|at| now >= at) {
                    self.look(scene);
                }
                if self.poll.as_mut().is_some_and(|p| p.is_due(now)) {
                    let check = match self.current().map(|s| &s.until) {
                        Some(Until::PortsClosed) => Check::Ports,
                        _ => Check::Descendants,
                    };
                    scene.emit(Effect::Check(scene.id, scene.instance, check));
                }
                Course::GoesOn
            }
        }
    }

    /// The time to look at what is stuck: in the last step, when KILL comes next.
    fn look_due(&self) -> Option<Tick> {
        let last = self.step + 1 == self.schedule.steps.len();
        (last && !self.has_looked).then(|| look_at(self.step_began, self.step_deadline))
    }

    /// Asks what is stuck, once in a stop.
    pub fn look(&mut self, scene: &mut Scene<'_, '_>) {
        if !self.has_looked {
            self.has_looked = true;
            scene.emit(Effect::Look(scene.id, scene.instance));
        }
    }

    /// `--now`: the schedule is over.
    pub fn force(&mut self, scene: &mut Scene<'_, '_>) {
        self.close_step(StepOutcome::CutShort, scene);
        self.forced = true;
        self.step = self.schedule.steps.len();
        self.deadline = self.deadline.min(scene.now + self.rest());
    }

    /// The main process is gone.
    pub fn gone(&mut self, scene: &mut Scene<'_, '_>) {
        self.close_step(StepOutcome::Gone, scene);
        self.step = self.schedule.steps.len();
    }

    /// The longest the stop can still take.
    pub fn left(&self, now: Tick) -> Duration {
        self.deadline - now
    }

    /// The deadline of the whole stop.
    pub fn deadline(&self) -> Tick {
        self.deadline
    }

    /// The grace of leftovers.
    pub fn leftover_grace(&self) -> Duration {
        self.schedule.leftover_grace
    }

    /// For `status`: the present step in words, since when, and its longest wait.
    pub fn progress(&self, now: Tick) -> (String, Duration, Duration) {
        let wait = self.step_deadline - self.step_began;
        match &self.phase {
            Phase::Settling(_) => (
                format!("{} done, settling", self.what),
                now - self.step_began,
                wait,
            ),
            Phase::Acting if self.action.is_some() && self.is_drain() => {
                let what = match self.connections {
                    Some(n) => format!("draining: {}", Connections(n)),
                    None => "draining".to_owned(),
                };
                (what, now - self.step_began, wait)
            }
            Phase::Looking | Phase::Acting | Phase::Doubting(_) => {
                let did = if self.is_hook() { "runs" } else { "sent" };
                let what = format!("{} {did}", self.what);
                (what, now - self.step_began, wait)
            }
        }
    }
}
