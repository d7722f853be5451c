//! Restart on change: what is done when a file of a service (`watch`) changes.
//!
//! | it is \ hears | a file changed          | the files are quiet again                      |
//! |---------------|-------------------------|------------------------------------------------|
//! | Down, Waiting | not looked at           | -                                              |
//! | Down: failed  | noted                   | it is tried again at once                      |
//! | Down: done    | noted                   | a oneshot: it is done once more                |
//! | Starting      | noted                   | waits until it is Up or has failed             |
//! | Up            | noted                   | its checker, if it has one; restart or reload  |
//! | Stopping ...  | noted                   | waits; the next start reads the file anyway    |
//! | Backoff       | noted                   | it is tried again at once                      |
//!
//! The daemon says in which state the files are, a number for each; what of that is a change
//! is seen here, against what the present instance was started with or was told of last. So
//! a change is also seen by a superd that was not there when it happened. A file that is
//! not there is no change: an editor may be at it, and a service that runs well is not
//! taken down for it. It is one when it comes back as another one.
//!
//! A start is no change: each looks at the files just before it.

use std::rc::Rc;
use std::time::Duration;

use super::event::{Effect, ServiceId};
use super::report::{Happening, Origin};
use super::service::{Rest, Service, State, Want};
use super::supervisor::Supervisor;
use super::time::Tick;
use crate::json::{FromJson, ToJson};

/// Nothing is done before the files have been quiet for so long.
pub const SETTLE: Duration = Duration::from_secs(1);

/// Files that are never quiet are acted upon after so long.
pub const SETTLE_LONGEST: Duration = Duration::from_secs(30);

/// The most files of a service.
pub const MOST: usize = 16;

/// The state of a file, as a number that tells one from another; 0: it is not there.
pub type Print = u64;

/// `watch`, `on-change`.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Watched {
    /// Absolute paths of files and directories.
    pub files: Vec<Rc<str>>,
    /// What is done.
    pub then: OnChange,
}

/// What is done when a file has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum OnChange {
    /// The service is restarted.
    Restart,
    /// It is told to read its configuration again.
    Reload,
}

/// The files of a service that is looked after.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Files {
    /// As the present instance knows them; none: nobody has looked yet.
    pub known: Option<Vec<Print>>,
    /// As they were seen last.
    now: Vec<Print>,
    /// There is a change: when it was noticed first, and when something is done about it.
    news: Option<(Tick, Tick)>,
}

impl Files {
    /// As an earlier superd knew them.
    pub fn known(known: Vec<Print>) -> Files {
        Files {
            known: Some(known),
            ..Files::default()
        }
    }

    /// The first file that is another one than is known.
    fn changed(&self) -> Option<usize> {
        let known = self.known.as_ref()?;
        let mut pairs = known.iter().zip(&self.now);
        pairs.position(|(known, now)| *now != 0 && known != now)
    }

    fn seen(&mut self, prints: Vec<Print>, now: Tick) {
        let is_news = self.now != prints;
        self.now = prints;
        let Some(known) = &mut self.known else {
            self.known = Some(self.now.clone());
            return;
        };
        // Another number of files: they are those of another definition.
        known.resize(self.now.len(), 0);
        match (self.changed(), self.news) {
            (None, _) => self.news = None,
            (Some(_), None) => self.news = Some((now, now + SETTLE)),
            (Some(_), Some((since, _))) if is_news => {
                let latest = (since + SETTLE_LONGEST).max(now);
                self.news = Some((since, (now + SETTLE).min(latest)));
            }
            (Some(_), Some(_)) => {}
        }
    }

    /// All changes are dealt with.
    pub(super) fn settled(&mut self) {
        self.news = None;
        if let Some(known) = &mut self.known {
            for (known, now) in known.iter_mut().zip(&self.now) {
                if *now != 0 {
                    *known = *now;
                }
            }
        }
    }
}

impl Service {
    /// Whether a change would mean something.
    fn is_to_be_looked_after(&self) -> bool {
        let wanted = self.want == Want::Up && !self.gone;
        self.spec.watch.is_some()
            && match &self.state {
                State::Down(Rest::Stopped | Rest::Finished | Rest::Scheduled) | State::Waiting => {
                    false
                }
                State::Down(Rest::Failed(_) | Rest::Done) => wanted,
                State::Starting(_)
                | State::Up(_)
                | State::Stopping(..)
                | State::Killing(..)
                | State::Sweeping(_)
                | State::Backoff { .. } => true,
            }
    }

    /// Has its files looked after, or no longer.
    pub(super) fn keep_files(&mut self, effects: &mut Vec<Effect>) {
        match (self.is_to_be_looked_after(), self.files.is_some()) {
            (true, false) => self.renew_files(effects),
            (false, true) => {
                self.files = None;
                effects.push(Effect::WatchFiles(self.id, None));
            }
            (true, true) | (false, false) => {}
        }
    }

    /// Before a start, and with another definition: as they are now is how they are known.
    pub(super) fn renew_files(&mut self, effects: &mut Vec<Effect>) {
        if let Some(watched) = self.spec.watch.clone() {
            self.files = Some(Box::default());
            effects.push(Effect::WatchFiles(self.id, Some(watched)));
        }
    }

    /// Another superd has taken it over: what has changed meanwhile?
    pub(super) fn look_after_files(&mut self, effects: &mut Vec<Effect>) {
        match (&self.spec.watch, &self.files) {
            (Some(watched), Some(_)) => {
                effects.push(Effect::WatchFiles(self.id, Some(watched.clone())));
            }
            (None, Some(_)) => self.files = None,
            (Some(_) | None, None) => {}
        }
        self.keep_files(effects);
    }

    /// When something is done about a change.
    pub(super) fn files_until(&self) -> Option<Tick> {
        let (_, at) = self.files.as_ref()?.news?;
        let acts = match &self.state {
            State::Up(_) | State::Backoff { .. } | State::Down(Rest::Failed(_) | Rest::Done) => {
                true
            }
            State::Down(Rest::Stopped | Rest::Finished | Rest::Scheduled)
            | State::Waiting
            | State::Starting(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_) => false,
        };
        acts.then(|| at.max(self.since + SETTLE))
    }

    /// The file that has changed, if it is time to do something about it.
    fn changed_file(&self, now: Tick) -> Option<Rc<str>> {
        let due = self.files_until().is_some_and(|at| at <= now);
        let at = self.files.as_ref().filter(|_| due)?.changed()?;
        self.spec.watch.as_ref()?.files.get(at).cloned()
    }
}

impl Supervisor {
    /// In which state the files of a service are.
    pub(super) fn files_seen(&mut self, id: ServiceId, prints: Vec<Print>, now: Tick) {
        let Some(service) = self.service_mut(id) else {
            return;
        };
        if let Some(files) = &mut service.files {
            files.seen(prints, now);
        }
        self.list_deadline(id);
    }

    /// Time has passed: a change may be ripe.
    pub(super) fn heed_files(&mut self, id: ServiceId, now: Tick, effects: &mut Vec<Effect>) {
        let shutting = self.is_shutting_down();
        let Some(service) = self.service_mut(id) else {
            return;
        };
        let Some(path) = service.changed_file(now) else {
            return;
        };
        if shutting || service.gone {
            // Nothing will come of it.
            if let Some(files) = &mut service.files {
                files.news = None;
            }
            return self.list_deadline(id);
        }
        let stays = service.want == Want::Up;
        let is_busy = match &service.state {
            // What is being asked of it may be about the file as it was.
            State::Up(_) => service.is_going() || service.reload.is_some() || !service.target,
            _ => false,
        };
        if !stays || is_busy {
            if let Some(Files {
                news: Some((_, at)),
                ..
            }) = service.files.as_deref_mut()
            {
                *at = now + SETTLE;
            }
            self.list_deadline(id);
            return;
        }
        if let Some(files) = &mut service.files {
            files.settled();
        }
        let by = Origin::File {
            path: path.to_string(),
        };
        let path = path.to_string();
        effects.push(Effect::Publish(id, Happening::FileChanged { path }));
        self.act_on_file(id, &by, now, effects);
        self.list_deadline(id);
    }

    fn act_on_file(&mut self, id: ServiceId, by: &Origin, now: Tick, effects: &mut Vec<Effect>) {
        let Some(service) = self.service(id) else {
            return;
        };
        let reloads = |s: &Service| {
            let then = s.spec.watch.as_ref().map(|w| w.then);
            then == Some(OnChange::Reload) && s.spec.reload.is_some()
        };
        match &service.state {
            State::Up(_) if reloads(service) => {
                self.reload(id, by, now, effects);
            }
            State::Up(_) if service.asks_before_restart() => {
                self.check_restart(id, by, now, effects);
            }
            State::Up(_) => {
                self.replace(id, by, now, effects);
            }
            State::Backoff { .. } | State::Down(_) => {
                self.try_afresh(id, by, now);
                self.look_at_everything(effects);
            }
            State::Waiting
            | State::Starting(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_) => {}
        }
    }

    /// The running instance goes, and the next one comes.
    pub(super) fn replace(
        &mut self,
        id: ServiceId,
        by: &Origin,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        self.cycle(id, by, now);
        self.look_at_everything(effects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::event::{Change, Event, Outcome, Verb};
    use crate::machine::report::Exit;
    use crate::machine::rig::{Rig, A, B};
    use crate::machine::signal::Signal;
    use crate::machine::spec::{Checker, Policy, Reload, Spec};
    use crate::machine::testing::spec;

    fn watched(then: OnChange) -> Spec {
        Spec {
            watch: Some(Rc::new(Watched {
                files: vec!["/etc/one".into(), "/etc/two".into()],
                then,
            })),
            reload: Some(Reload::Signal(Signal::HUP)),
            ..spec("a")
        }
    }

    /// Up since ten seconds, with both files there.
    fn up(spec: Spec) -> Rig {
        let mut rig = Rig::new(vec![spec]);
        rig.hear(Event::Files(A, vec![10, 20]));
        rig.pass(10_000);
        rig.did();
        rig
    }

    fn changes(rig: &Rig) -> Vec<&str> {
        let told = rig.told.iter().filter_map(|(_, what)| match what {
            Happening::FileChanged { path } => Some(path.as_str()),
            _ => None,
        });
        told.collect()
    }

    #[test]
    fn many_changes_are_one_action_when_they_are_over() {
        let mut rig = up(watched(OnChange::Reload));
        for n in 0..20 {
            rig.hear(Event::Files(A, vec![11 + n, 20]));
            rig.pass(900);
        }
        assert!(rig.did().is_empty());
        rig.pass(99);
        assert!(rig.did().is_empty());
        rig.pass(1);
        assert_eq!(rig.did(), ["HUP a1"]);
        assert_eq!(changes(&rig), ["/etc/one"]);
        rig.pass(100_000);
        assert!(rig.did().is_empty());
    }

    #[test]
    fn files_that_are_never_quiet_are_acted_upon_all_the_same() {
        let mut rig = up(watched(OnChange::Reload));
        for n in 0..59 {
            rig.hear(Event::Files(A, vec![10, 21 + n]));
            rig.pass(500);
        }
        assert!(rig.did().is_empty());
        rig.hear(Event::Files(A, vec![10, 100]));
        rig.pass(500);
        assert_eq!(rig.did(), ["HUP a1"]);
        assert_eq!(changes(&rig), ["/etc/two"]);
    }

    #[test]
    fn what_vanishes_or_comes_back_as_it_was_changes_nothing() {
        let mut rig = up(watched(OnChange::Restart));
        for prints in [[0, 20], [0, 0], [10, 0], [10, 20]] {
            rig.hear(Event::Files(A, prints.to_vec()));
            rig.pass(60_000);
        }
        rig.hear(Event::Files(A, vec![11, 20]));
        rig.hear(Event::Files(A, vec![10, 20]));
        rig.pass(60_000);
        assert!(rig.did().is_empty());
        // As another one it is a change, however long it was away.
        rig.hear(Event::Files(A, vec![0, 20]));
        rig.pass(60_000);
        rig.hear(Event::Files(A, vec![12, 20]));
        rig.pass(1_000);
        assert_eq!(rig.did(), ["TERM a1"]);
        assert_eq!(changes(&rig), ["/etc/one"]);
    }

    #[test]
    fn a_start_has_read_the_files_and_a_change_during_it_waits_until_it_is_up() {
        let mut rig = up(watched(OnChange::Restart));
        rig.hear(Event::Files(A, vec![11, 20]));
        rig.ask(A, Verb::Restart);
        rig.exits(A, Exit::Code(0), 0);
        rig.hear(Event::Files(A, vec![11, 20]));
        rig.pass(60_000);
        assert_eq!(changes(&rig).len(), 0, "the restart has done it");
        rig.slow_start = true;
        rig.ask(A, Verb::Restart);
        rig.exits(A, Exit::Code(0), 0);
        rig.hear(Event::Files(A, vec![11, 20]));
        rig.hear(Event::Files(A, vec![12, 20]));
        rig.pass(60_000);
        assert_eq!(changes(&rig).len(), 0, "it is starting");
        rig.did();
        rig.slow_start = false;
        let instance = rig.at(A).instance;
        rig.hear(Event::Spawned(A, instance, crate::machine::event::Pid(7)));
        rig.hear(Event::Execed(A, instance));
        assert_eq!(rig.did(), ["reply 2: done"]);
        rig.pass(999);
        assert_eq!(rig.did(), [] as [String; 0]);
        rig.pass(1);
        assert_eq!(rig.did(), [format!("TERM a{}", instance.0)]);
    }

    #[test]
    fn the_checker_comes_first_and_a_broken_file_takes_nothing_down() {
        for then in [OnChange::Restart, OnChange::Reload] {
            let mut spec = watched(then);
            spec.check = Some(Checker {
                argv: vec!["/bin/check".to_owned()].into(),
                wait: Duration::from_secs(30),
            });
            let mut rig = up(spec);
            rig.hear(Event::Files(A, vec![11, 20]));
            rig.pass(1_000);
            assert_eq!(rig.did().len(), 1, "the checker");
            let check = |rig: &mut Rig, outcome| {
                let action = rig.at(A).reload.as_ref().unwrap().action;
                let instance = rig.at(A).instance;
                rig.hear(Event::ActionEnded(A, instance, action, outcome));
            };
            // While it is at work the file changes again: it is asked once more.
            rig.hear(Event::Files(A, vec![12, 20]));
            rig.pass(5_000);
            assert!(rig.did().is_empty());
            check(&mut rig, Outcome::Unhappy("no".to_owned()));
            rig.pass(1_000);
            assert_eq!(rig.did().len(), 1, "the checker");
            check(&mut rig, Outcome::Unhappy("no".to_owned()));
            rig.pass(60_000);
            assert!(rig.did().is_empty(), "it runs on");
            rig.hear(Event::Files(A, vec![13, 20]));
            rig.pass(1_000);
            rig.did();
            check(&mut rig, Outcome::Done);
            let what = match then {
                OnChange::Restart => "TERM a1",
                OnChange::Reload => "HUP a1",
            };
            assert_eq!(rig.did(), [what]);
        }
    }

    #[test]
    fn what_has_failed_is_tried_again_at_once_and_what_is_stopped_is_not() {
        let mut spec = watched(OnChange::Reload);
        spec.restart.policy = Policy::Never;
        let mut rig = up(spec.clone());
        rig.exits(A, Exit::Code(1), 0);
        rig.did();
        rig.hear(Event::Files(A, vec![11, 20]));
        rig.pass(1_000);
        assert_eq!(rig.did(), ["watch files of a", "spawn a2"]);
        rig.hear(Event::Files(A, vec![11, 20]));
        rig.exits(A, Exit::Code(1), 0);
        rig.ask(A, Verb::Stop);
        assert!(rig.did().contains(&"watch no files of a".to_owned()));
        rig.hear(Event::Files(A, vec![12, 20]));
        rig.pass(60_000);
        assert!(rig.did().is_empty());
        // A pause before the next try is over, too.
        spec.restart.policy = Policy::Always;
        spec.restart.delay = Duration::from_secs(1_000);
        spec.restart.max_delay = Duration::from_secs(1_000);
        let mut rig = up(spec);
        rig.exits(A, Exit::Code(1), 0);
        rig.hear(Event::Files(A, vec![10, 20]));
        rig.exits(A, Exit::Code(1), 0);
        rig.did();
        rig.hear(Event::Files(A, vec![11, 20]));
        rig.pass(1_000);
        assert_eq!(rig.did(), ["watch files of a", "spawn a3"]);
    }

    #[test]
    fn a_change_starts_nothing_that_somebody_has_stopped() {
        let mut first = watched(OnChange::Restart);
        first.wants = vec![B];
        let mut rig = Rig::new(vec![first, spec("b")]);
        rig.hear(Event::Files(A, vec![10, 20]));
        rig.ask(B, Verb::Stop);
        rig.exits(B, Exit::Code(0), 0);
        rig.pass(10_000);
        rig.did();
        rig.hear(Event::Files(A, vec![11, 20]));
        rig.pass(1_000);
        rig.exits(A, Exit::Code(0), 0);
        assert_eq!(rig.state(B), "down");
        assert_eq!(rig.state(A), "up");
    }

    #[test]
    fn another_list_of_files_is_another_watch() {
        let mut rig = up(watched(OnChange::Restart));
        rig.hear(Event::Files(A, vec![11, 20]));
        let mut other = watched(OnChange::Restart);
        other.watch = Some(Rc::new(Watched {
            files: vec!["/etc/three".into()],
            then: OnChange::Restart,
        }));
        rig.change(A, other.clone(), Change::Policy);
        assert_eq!(rig.did(), ["watch no files of a", "watch files of a"]);
        rig.hear(Event::Files(A, vec![30]));
        rig.pass(60_000);
        assert!(rig.did().is_empty());
        other.watch = None;
        rig.change(A, other, Change::Policy);
        assert_eq!(rig.did(), ["watch no files of a"]);
        assert_eq!(rig.machine.next_deadline(), None);
    }
}
