//! Keeps the run directory: when somebody removes it, or what is in it, under a running
//! superd, directory, lock and sockets are made again. Without that nobody could reach
//! superd any more, and a second one would start on the same services.

use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::Interest;
use syslog::Severity;

use super::journal::Journal;
use super::reactor::Reactor;
use super::rundir::{plain, RunDir};
use super::token::Source;
use crate::machine::time::Tick;

/// The first pause after an attempt that failed; doubles each time.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest such pause.
const AGAIN_LONGEST: Duration = Duration::from_secs(60);

/// The next attempt after one that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Again {
    pub at: Tick,
    pause: Duration,
}

impl Again {
    /// The next attempt, after a pause that is longer than the one before, if there was one.
    pub(super) fn after(before: Option<Again>, now: Tick) -> Again {
        let pause = before.map_or(AGAIN, |a| (a.pause * 2).min(AGAIN_LONGEST));
        let at = now + pause;
        Again { at, pause }
    }
}

impl Reactor {
    /// Puts the watch of the run directory into the poll set. Where that cannot be done the
    /// removal goes unnoticed until the next reload.
    pub(super) fn watch_run_dir(&self) {
        if let Some(fd) = self.run_dir.as_ref().and_then(RunDir::watch) {
            let token = Source::Other(0).token();
            let registry = self.poll.registry();
            registry
                .register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)
                .ok(); // as said above
        }
    }

    /// Something in the run directory was removed, or it is time to try again.
    pub(super) fn keep_run_dir(&mut self) {
        self.keep_journal();
        let Some(run_dir) = &self.run_dir else { return };
        run_dir.drain_watch();
        if self.is_run_dir_whole() {
            self.run_dir_again = None;
            return;
        }
        let shown = run_dir.path().display().to_string();
        let now = self.now();
        match self.restore_run_dir() {
            Ok(()) => {
                self.run_dir_again = None;
                let text = format!("{shown}, or what is in it, was removed: made again");
                self.say(Severity::LOG_WARNING, &text);
            }
            Err(why) => {
                if self.run_dir_again.is_none() {
                    let text = format!("{shown} was removed and cannot be made again yet: {why}");
                    self.say(Severity::LOG_ERR, &text);
                }
                self.run_dir_again = Some(Again::after(self.run_dir_again, now));
            }
        }
    }

    /// Sees to it that a journal that was removed is written again at the end of the turn.
    fn keep_journal(&mut self) {
        if self.journal.as_ref().is_some_and(Journal::is_lost) {
            self.note_all_for_journal();
        }
    }

    /// Sees to it that everything is written at the end of the turn.
    pub(super) fn note_all_for_journal(&mut self) {
        if let Some(journal) = &mut self.journal {
            self.machine.services().for_each(|s| journal.note(s.id));
        }
    }

    fn is_run_dir_whole(&self) -> bool {
        let Some(run_dir) = &self.run_dir else {
            return true;
        };
        let has = |name: &str| run_dir.file(name).exists();
        run_dir.is_there()
            && (self.clients.is_none() || has("superd.sock"))
            && (self.notify.is_none() || has("notify"))
    }

    fn restore_run_dir(&mut self) -> Result<(), String> {
        let Some(run_dir) = &mut self.run_dir else {
            return Ok(());
        };
        let is_new = !run_dir.is_there();
        if is_new {
            let path = run_dir.path().to_owned();
            *run_dir = RunDir::take(&path)?;
        }
        run_dir.note_pid();
        let (socket, notify) = (run_dir.file("superd.sock"), run_dir.file("notify"));
        if is_new {
            self.watch_run_dir();
        }
        self.hear_notices();
        if let Some(old) = self.notify.as_mut().filter(|_| !notify.exists()) {
            let again = old.bind_again(self.poll.registry());
            again.map_err(|e| plain(&e))?;
        }
        if let Some(clients) = self.clients.as_mut().filter(|_| !socket.exists()) {
            let again = clients.listen_again(self.poll.registry());
            again.map_err(|e| plain(&e))?;
        }
        match self.is_run_dir_whole() {
            true => Ok(()),
            false => Err("it was removed again".to_owned()),
        }
    }
}
