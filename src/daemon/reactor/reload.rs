//! A configuration, at the start and later: what of it is in force, and what is said of it.

use std::path::Path;

use syslog::Severity;

use super::{Mode, Reactor};
use crate::config::faults::{self};
use crate::config::model::{Config, Daemon};
use crate::daemon::clients::{Access, Clients};
use crate::daemon::registry::Delta;
use crate::daemon::rundir::{plain, RunDir};
use crate::daemon::signals;
use crate::machine::event::Event;
use crate::machine::report::Origin;
use crate::machine::signal::Signal;

impl Reactor {
    pub(super) fn reload_by_signal(&mut self) {
        let by = signals::who_sent(Signal::HUP);
        match self.reload(&by) {
            Ok(text) => self.say(Severity::LOG_NOTICE, &text),
            Err(text) => self.say(Severity::LOG_ERR, &text),
        }
    }

    /// Reads the configuration again. What did not change is not touched; with any
    /// problem everything stays as it is.
    pub(in crate::daemon) fn reload(&mut self, by: &Origin) -> Result<String, String> {
        let Some(path) = self.options.config.clone() else {
            return Err("there is no configuration file to read".to_owned());
        };
        if self.machine.is_shutting_down() {
            return Err("superd is shutting down".to_owned());
        }
        // Also when the file is wrong: who has moved a log file waits for the new one.
        self.logs.reopen_files();
        self.announce_reload();
        let done = self.reload_from(&path, by);
        self.announce_ready();
        done
    }

    fn reload_from(&mut self, path: &Path, by: &Origin) -> Result<String, String> {
        let config = crate::config::load(path)
            .and_then(|config| self.with_asked(config))
            .map_err(|problems| format!("configuration not reloaded:\n{problems}"))?;
        // Of what was just started perhaps only that was written down. The next superd would
        // take it for what the file says now.
        self.remember();
        Ok(self.configure(config, by.clone()))
    }

    /// Takes over a configuration; a sentence that says what changed.
    pub fn configure(&mut self, config: Config, by: Origin) -> String {
        let log = self.registry.daemon().log;
        let delta = self.registry.apply(config);
        let daemon = self.registry.daemon().clone();
        let changed = delta.changed.len();
        let new = delta
            .changed
            .iter()
            .filter(|(_, _, c)| *c == crate::machine::event::Change::New)
            .count();
        let (gone, unchanged) = (delta.gone.len(), delta.unchanged);
        let mut later = String::new();
        if by != Origin::Config {
            if daemon.log != log {
                self.sink.redirect(daemon.log, self.options.foreground);
            }
            // At the start there is nothing to compare with.
            for line in delta.now.iter().chain(&delta.next_start) {
                self.say(Severity::LOG_NOTICE, &format!("configuration: {line}"));
            }
            for line in &delta.next_start {
                later = format!("{later}; {line}");
            }
        }
        self.put_in_force(&daemon);
        self.put_services(delta, by);
        for event in std::mem::take(&mut self.resumed) {
            self.feed(event);
        }
        format!(
            "configuration loaded: {new} new, {} changed, {gone} gone, {unchanged} unchanged{later}",
            changed - new
        )
    }

    /// Tells the journal and the machine.
    pub(in crate::daemon) fn put_services(&mut self, delta: Delta, by: Origin) {
        if let Some(journal) = &mut self.journal {
            let ids = delta.changed.iter().map(|(id, ..)| *id);
            ids.for_each(|id| journal.redefine(id));
        }
        self.feed(Event::Configure {
            changed: delta.changed,
            gone: delta.gone,
            by,
        });
    }

    /// What concerns superd itself, but for the log.
    pub(in crate::daemon) fn put_in_force(&mut self, daemon: &Daemon) {
        self.machine.set_shutdown_deadline(daemon.shutdown_deadline);
        self.logs.set_ring(daemon.ring);
        self.crashes.configure(&daemon.crashes);
        if self.options.mode == Mode::Daemon {
            self.read_faults(&daemon.known_faults);
        }
        self.open_to(daemon);
    }

    /// Reads the known faults; with any problem those that are known stay.
    fn read_faults(&mut self, path: &Path) {
        match faults::load(path) {
            Ok(faults) => self.faults = faults,
            Err(problems) => {
                let lines = problems.lines();
                let first = lines.first().map_or("", String::as_str);
                let more = match problems.len() {
                    0 | 1 => String::new(),
                    n => format!(" (and {} more, see superctl check)", n - 1),
                };
                self.say(
                    Severity::LOG_WARNING,
                    &format!("known faults not read: {first}{more}"),
                );
            }
        }
    }

    /// The control socket for the groups of the configuration; made, if it could not be
    /// made before.
    fn open_to(&mut self, daemon: &Daemon) {
        // At the beginning in a clean one there is nothing to be kept.
        if self.clients.is_some() || !self.run_dir.as_ref().is_some_and(RunDir::is_clean) {
            self.keep_run_dir();
        }
        let (access, mut complaints) = Access::of(daemon);
        match (&mut self.clients, &self.run_dir) {
            (Some(clients), _) => {
                if let Err(e) = clients.set_access(access) {
                    complaints.push(format!("control socket: {}", plain(&e)));
                }
            }
            (None, Some(run_dir)) => {
                let path = run_dir.file("superd.sock");
                match Clients::bind(&path, access, self.poll.registry()) {
                    Ok(clients) => self.clients = Some(clients),
                    Err(e) => {
                        complaints.push(format!("no control socket: {e}; SIGHUP tries again"))
                    }
                }
            }
            (None, None) => {}
        }
        for text in complaints {
            self.say(Severity::LOG_WARNING, &text);
        }
    }
}
