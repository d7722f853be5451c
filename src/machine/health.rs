//! Whether a service that is up is well: questions in turns, and its own WATCHDOG=1.
//!
//! What is known of it is not written into the journal: the next superd begins to count again.
//! One that becomes another program goes on.

use std::rc::Rc;
use std::time::Duration;

use super::event::{ActionId, Effect, Outcome};
use super::ready::{About, Asking, Probe};
use super::report::Happening;
use super::spec::Spec;
use super::time::{Span, Tick};
use crate::json::{FromJson, ToJson};

/// The longest that the command of [`Remedy::Run`] takes before it is killed.
pub const RUN_WAIT: Duration = Duration::from_secs(30);

/// `health`.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Health {
    /// What is asked.
    pub probe: Rc<Probe>,
    /// So many wrong answers in a row are too many; at least 1.
    pub failures: u32,
    /// What is done then.
    pub remedy: Remedy,
}

/// What is done about a service that is not well.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Remedy {
    /// Stopped by its schedule, then started again as its policy says.
    Restart,
    /// Stopped by its schedule, and left so.
    Stop,
    /// This command is run, and it runs on.
    Run(Rc<[String]>),
}

/// What comes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Course {
    /// Nothing.
    GoesOn,
    /// It is not well, and why: it is to be stopped, and not started again if `stay`.
    Unfit {
        /// In words.
        why: String,
        /// Whether it stays down.
        stay: bool,
    },
}

/// The watch over one run, as long as it is up.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct Watch {
    health: Option<Rc<Health>>,
    asking: Asking,
    /// Wrong answers in a row.
    failed: u32,
    /// There has been a right one; so it is not said of a service that nobody has asked yet.
    #[serde(default)]
    was_well: bool,
    /// Why it could not be asked the last time.
    #[serde(default)]
    not_tried: Option<String>,
    /// The last answer was wrong.
    sick: bool,
    last: String,
    /// The command that is run about it, and when it is killed.
    remedy: Option<(ActionId, Tick)>,
    /// WATCHDOG=1 has to come this often, and by then.
    watchdog: Option<(Duration, Tick)>,
}

impl Watch {
    /// Of one that has just come up; none when there is nothing to watch.
    pub fn begin(spec: &Spec, now: Tick) -> Option<Box<Watch>> {
        let health = spec.health.clone();
        if health.is_none() && spec.watchdog.is_none() {
            return None;
        }
        let interval = health.as_ref().map_or(Duration::ZERO, |h| h.probe.interval);
        Some(Box::new(Watch {
            asking: Asking::begin(now + interval, interval),
            health,
            failed: 0,
            was_well: false,
            not_tried: None,
            sick: false,
            last: String::new(),
            remedy: None,
            watchdog: spec.watchdog.map(|d| (d, now + d)),
        }))
    }

    /// WATCHDOG=1.
    pub fn pinged(&mut self, now: Tick) {
        if let Some((every, until)) = &mut self.watchdog {
            *until = now + *every;
        }
    }

    /// WATCHDOG=trigger.
    pub fn gave_up(&self) -> Course {
        match self.watchdog {
            Some(_) => unfit("it said WATCHDOG=trigger".to_owned()),
            None => Course::GoesOn,
        }
    }

    /// An action of this watch, or another one, ended.
    pub fn action_ended(
        &mut self,
        action: ActionId,
        outcome: Outcome,
        about: &mut About<'_, '_>,
    ) -> Course {
        if self.remedy.is_some_and(|(remedy, _)| remedy == action) {
            self.remedy = None;
            if let Outcome::Unhappy(error) | Outcome::Impossible(error) | Outcome::NotTried(error) =
                outcome
            {
                about
                    .cx
                    .publish(about.id, Happening::ActionFailed { error });
            }
            return Course::GoesOn;
        }
        let Some(health) = self.health.clone() else {
            return Course::GoesOn;
        };
        if !self.asking.ended(action, &health.probe, about.now) {
            return Course::GoesOn;
        }
        match outcome {
            Outcome::Done => {
                self.failed = 0;
                self.was_well = true;
                self.not_tried = None;
                if std::mem::take(&mut self.sick) {
                    let instance = about.instance;
                    about.cx.publish(about.id, Happening::Healthy { instance });
                }
                Course::GoesOn
            }
            Outcome::Unhappy(why) | Outcome::Impossible(why) => self.fail(&health, why, about),
            // That is no answer, neither a right one nor a wrong one.
            Outcome::NotTried(why) => {
                if self.not_tried.is_none() {
                    let error = format!("its health could not be checked: {why}");
                    about
                        .cx
                        .publish(about.id, Happening::ActionFailed { error });
                }
                self.not_tried = Some(why);
                Course::GoesOn
            }
        }
    }

    fn fail(&mut self, health: &Rc<Health>, why: String, about: &mut About<'_, '_>) -> Course {
        self.failed += 1;
        self.sick = true;
        self.not_tried = None;
        let too_many = self.failed >= health.failures;
        if self.failed == 1 || too_many {
            let happening = Happening::Unhealthy {
                instance: about.instance,
                failures: self.failed,
                of: health.failures,
                why: why.clone(),
            };
            about.cx.publish(about.id, happening);
        }
        self.last = why;
        if !too_many {
            return Course::GoesOn;
        }
        let why = match self.failed {
            1 => format!("its health check failed: {}", self.last),
            n => format!("its health check failed {n} times in a row: {}", self.last),
        };
        match &health.remedy {
            Remedy::Restart => unfit(why),
            Remedy::Stop => Course::Unfit { why, stay: true },
            Remedy::Run(argv) => {
                self.failed = 0;
                if self.remedy.is_none() {
                    let action = about.cx.next_action();
                    self.remedy = Some((action, about.now + RUN_WAIT));
                    let (id, instance) = (about.id, about.instance);
                    let run = Effect::Run(id, instance, action, argv.clone());
                    about.cx.effects.push(run);
                }
                Course::GoesOn
            }
        }
    }

    /// Time has passed.
    pub fn timeout(&mut self, about: &mut About<'_, '_>) -> Course {
        let now = about.now;
        if let Some((every, _)) = self.watchdog.filter(|(_, until)| now >= *until) {
            return unfit(format!("no WATCHDOG=1 within {}", Span(every)));
        }
        if let Some((action, _)) = self.remedy.filter(|(_, until)| now >= *until) {
            self.remedy = None;
            let end = Effect::EndAction(about.id, about.instance, action);
            about.cx.effects.push(end);
            let error = format!(
                "the command of `health` did not end within {} and was killed",
                Span(RUN_WAIT)
            );
            about
                .cx
                .publish(about.id, Happening::ActionFailed { error });
        }
        let Some(health) = self.health.clone() else {
            return Course::GoesOn;
        };
        if self.asking.is_late(&health.probe, about) {
            let why = format!(
                "{}: no answer within {}",
                health.probe.what,
                Span(health.probe.timeout)
            );
            return self.fail(&health, why, about);
        }
        self.asking.ask(&health.probe, about);
        Course::GoesOn
    }

    /// Whether its times are such that sums of them do not overflow.
    pub fn is_sound(&self, longest: Duration) -> bool {
        self.asking.is_sound(longest)
            && self.health.as_ref().is_none_or(|h| h.is_sound(longest))
            && self.watchdog.is_none_or(|(every, _)| every <= longest)
            && self.failed <= u32::MAX / 2
    }

    /// It is going, or gone.
    pub fn end(&mut self, about: &mut About<'_, '_>) {
        self.asking.end(about);
        if let Some((action, _)) = self.remedy.take() {
            let end = Effect::EndAction(about.id, about.instance, action);
            about.cx.effects.push(end);
        }
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Tick {
        let asking = self.health.as_ref().map(|_| self.asking.next_deadline());
        let watchdog = self.watchdog.map(|(_, until)| until);
        let remedy = self.remedy.map(|(_, until)| until);
        let all = [asking, watchdog, remedy];
        all.into_iter().flatten().min().unwrap_or(Tick::NEVER)
    }

    /// For `status`: nothing when nobody ever asks it.
    pub fn progress(&self) -> Option<String> {
        let health = self.health.as_ref()?;
        if let Some(why) = &self.not_tried {
            return Some(format!("not checked: {why}"));
        }
        Some(match self.failed {
            0 if self.sick => format!("not well: {}", self.last),
            0 if self.was_well => "well".to_owned(),
            0 => "not checked yet".to_owned(),
            n => format!("{n} of {} failures: {}", health.failures, self.last),
        })
    }
}

fn unfit(why: String) -> Course {
    Course::Unfit { why, stay: false }
}

impl Health {
    /// Whether its times are such that sums of them do not overflow.
    pub fn is_sound(&self, longest: Duration) -> bool {
        self.probe.is_sound(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Change, Event, Notice, Verb};
    use super::super::ready::Question;
    use super::super::report::{Exit, Origin};
    use super::super::rig::{ms, Rig, A};
    use super::super::service::{Rest, State};
    use super::super::testing::spec;
    use super::*;

    fn checked(failures: u32, remedy: Remedy) -> Spec {
        let probe = Probe {
            what: Question::Exec(vec!["/bin/check".to_owned()].into()),
            interval: ms(1_000),
            timeout: ms(200),
            memory: None,
        };
        Spec {
            health: Some(Rc::new(Health {
                probe: Rc::new(probe),
                failures,
                remedy,
            })),
            ..spec("a")
        }
    }

    fn answers(rig: &mut Rig, action: u64, well: bool) {
        let outcome = match well {
            true => Outcome::Done,
            false => Outcome::Unhappy("HTTP 503".to_owned()),
        };
        rig.action_ends(A, action, outcome);
    }

    fn by(rig: &Rig) -> String {
        match &rig.report().by {
            Origin::Unfit { why } => why.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn so_many_failures_in_a_row_are_an_orderly_stop_and_a_start() {
        let mut rig = Rig::new(vec![checked(2, Remedy::Restart)]);
        rig.did();
        rig.pass(999);
        assert_eq!(rig.did(), [""; 0], "not before its interval");
        rig.pass(1);
        assert_eq!(rig.did(), ["probe a1"]);
        answers(&mut rig, 1, false);
        rig.pass(1_000);
        answers(&mut rig, 2, true);
        rig.pass(1_000);
        answers(&mut rig, 3, false);
        assert_eq!(rig.state(A), "up", "not in a row");
        rig.pass(1_000);
        rig.did();
        // No answer is a wrong one, and the question is ended.
        rig.pass(200);
        assert_eq!(rig.did(), ["end action a1", "TERM a1"]);
        rig.exits(A, Exit::Code(0), 0);
        assert_eq!(
            by(&rig),
            "its health check failed 2 times in a row: exec /bin/check: no answer within 200 ms"
        );
        assert_eq!(rig.did(), ["release a1", "spawn a2"]);
        // The count begins anew, and the next time there is a pause.
        rig.pass(1_000);
        answers(&mut rig, 5, false);
        assert_eq!(rig.state(A), "up");
        rig.pass(1_000);
        answers(&mut rig, 6, false);
        rig.exits(A, Exit::Code(0), 0);
        assert_eq!(rig.state(A), "backoff");
    }

    #[test]
    fn what_is_to_stay_down_stays_until_somebody_starts_it() {
        let mut rig = Rig::new(vec![checked(1, Remedy::Stop)]);
        rig.pass(1_000);
        answers(&mut rig, 1, false);
        rig.exits(A, Exit::Code(0), 0);
        let why = "its health check failed: HTTP 503".to_owned();
        assert_eq!(rig.at(A).state, State::Down(Rest::Failed(why)));
        rig.pass(3_600_000);
        assert_eq!(rig.state(A), "down");
        rig.ask(A, Verb::Start);
        assert_eq!(rig.state(A), "up");
        // And one who has changed his mind meanwhile is heard.
        rig.pass(1_000);
        answers(&mut rig, 2, false);
        rig.ask(A, Verb::Restart);
        rig.exits(A, Exit::Code(0), 0);
        assert_eq!(rig.state(A), "up");
    }

    #[test]
    fn a_command_in_its_place_is_run_once_at_a_time_and_killed_when_it_hangs() {
        let fix: Rc<[String]> = vec!["/bin/fix".to_owned()].into();
        let mut rig = Rig::new(vec![checked(1, Remedy::Run(fix))]);
        rig.did();
        rig.pass(1_000);
        answers(&mut rig, 1, false);
        assert_eq!(rig.did(), ["probe a1", "run a1"]);
        rig.pass(1_000);
        answers(&mut rig, 3, false);
        assert_eq!(rig.did(), ["probe a1"], "that one runs still");
        for n in 4..=31 {
            rig.pass(1_000);
            answers(&mut rig, n, true);
        }
        rig.pass(1_000);
        let did = rig.did();
        assert_eq!(did.iter().filter(|d| *d == "end action a1").count(), 1);
        assert_eq!(rig.state(A), "up");
        answers(&mut rig, 32, false);
        assert_eq!(rig.did(), ["run a1"], "it may be run again");
        // With the service goes the command.
        rig.ask(A, Verb::Stop);
        assert_eq!(rig.did(), ["end action a1", "TERM a1"]);
    }

    #[test]
    fn what_superd_cannot_ask_is_no_wrong_answer() {
        let mut rig = Rig::new(vec![checked(2, Remedy::Restart)]);
        let health = |rig: &Rig| rig.at(A).watch.as_ref().unwrap().progress().unwrap();
        assert_eq!(health(&rig), "not checked yet");
        for action in 1..=5 {
            rig.pass(1_000);
            rig.action_ends(A, action, Outcome::NotTried("no descriptors".to_owned()));
        }
        assert_eq!(health(&rig), "not checked: no descriptors");
        let told = |what: &&(_, Happening)| {
            let error = "its health could not be checked: no descriptors".to_owned();
            what.1 == Happening::ActionFailed { error }
        };
        assert_eq!(rig.told.iter().filter(told).count(), 1);
        assert_eq!(rig.state(A), "up");
        rig.pass(1_000);
        answers(&mut rig, 6, true);
        assert_eq!(health(&rig), "well");
    }

    #[test]
    fn a_watchdog_that_is_not_fed_and_one_that_gives_up_are_a_stop() {
        let fed = Spec {
            watchdog: Some(ms(500)),
            ..spec("a")
        };
        let mut rig = Rig::new(vec![fed.clone()]);
        let say = |rig: &mut Rig, notice| {
            let instance = rig.at(A).instance;
            rig.hear(Event::Notified(A, instance, notice));
        };
        for _ in 0..10 {
            rig.pass(499);
            say(&mut rig, Notice::Watchdog);
        }
        rig.pass(499);
        assert_eq!(rig.state(A), "up");
        rig.pass(1);
        assert_eq!(rig.state(A), "stopping");
        rig.exits(A, Exit::Signal(super::super::signal::Signal::TERM), 0);
        assert_eq!(by(&rig), "no WATCHDOG=1 within 500 ms");
        assert_eq!(rig.state(A), "up");
        say(&mut rig, Notice::WatchdogTrigger);
        assert_eq!(rig.state(A), "stopping");
        let mut rig = Rig::new(vec![spec("a")]);
        say(&mut rig, Notice::WatchdogTrigger);
        say(&mut rig, Notice::Watchdog);
        assert_eq!(rig.state(A), "up", "it has none");
        assert_eq!(rig.machine.next_deadline(), None);
        // A reload brings one, and takes it away.
        rig.change(A, fed, Change::Policy);
        assert_eq!(rig.machine.next_deadline(), Some(rig.now + ms(500)));
        rig.change(A, spec("a"), Change::Policy);
        assert_eq!(rig.machine.next_deadline(), None);
    }

    #[test]
    fn nobody_is_asked_before_it_is_ready_nor_while_it_stops() {
        let ready = super::super::ready::Ready {
            sign: super::super::ready::Sign::Notify,
            within: None,
        };
        let mut rig = Rig::new(vec![Spec {
            ready: Some(Rc::new(ready)),
            watchdog: Some(ms(100)),
            ..checked(1, Remedy::Restart)
        }]);
        assert_eq!(rig.machine.next_deadline(), None);
        rig.hear(Event::Notified(
            A,
            super::super::event::Instance(1),
            Notice::Ready,
        ));
        assert_eq!(rig.machine.next_deadline(), Some(rig.now + ms(100)));
        rig.ask(A, Verb::Stop);
        rig.did();
        rig.pass(10_000);
        assert_eq!(rig.did(), [""; 0]);
    }
}
