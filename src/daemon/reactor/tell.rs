//! What happens, told: to the history, the log, those who follow, and as a crash report.

use syslog::Severity;

use super::{Mode, Reactor, OUTPUT_LINES};
use crate::config::faults::{self, Fault};
use crate::control::crash::CrashReport;
use crate::control::reply::Reply;
use crate::daemon::clients::{Clients, Stream};
use crate::daemon::crashes::wall_seconds;
use crate::daemon::history::{self, About};
use crate::daemon::logs::LastWords;
use crate::machine::crash;
use crate::machine::event::{Instance, ServiceId};
use crate::machine::report::{Crash, EndReport, Exit, Happening, StepOutcome, Verdict};

impl Reactor {
    /// A message of superd's own.
    pub(in crate::daemon) fn say(&mut self, severity: Severity, text: &str) {
        let now = self.now();
        for line in text.lines() {
            self.sink.say(now, severity, line);
        }
    }

    /// Something happened: into the history, the log, and to those who follow.
    pub(in crate::daemon) fn publish(&mut self, service: ServiceId, happening: Happening) {
        let now = self.now();
        let name = self.registry.name(service);
        let (severity, mut text) = history::line(&name, &happening);
        let about = match &happening {
            Happening::Ended(end) => self.about_end(service, &name, end),
            _ => About::default(),
        };
        text.push_str(&history::about_line(&about));
        // Who has typed a command knows that it is started, and sees that it is not again.
        let is_told = matches!(
            happening,
            Happening::Starting { .. } | Happening::GivenUp { .. }
        );
        if !is_told || self.options.mode == Mode::Daemon {
            self.sink.say(now, severity, &text);
        }
        if let Some(clients) = &mut self.clients {
            clients.publish(Stream::Events, service, || Reply {
                event: Some(Box::new(history::event_line(
                    &name,
                    now,
                    now,
                    &happening,
                    about.clone(),
                ))),
                ..Reply::ok(0)
            });
        }
        self.history.record(now, service, &happening, about);
    }

    /// What is to be told with an end; if it was a crash, it is counted and reported.
    fn about_end(&mut self, service: ServiceId, name: &str, end: &EndReport) -> About {
        let noted = self.last_words.iter().position(|(id, ..)| *id == service);
        let noted = noted.map(|at| self.last_words.swap_remove(at));
        let mut words = match noted.filter(|(_, i, _)| *i == end.instance) {
            Some((.., words)) => words,
            None => self.logs.last_words(service, OUTPUT_LINES),
        };
        let output = std::mem::take(&mut words.output);
        let Some(crash) = crash_of(end) else {
            return About {
                output,
                ..About::default()
            };
        };
        let fault = faults::find(&self.faults, &crash);
        let known = fault.map_or_else(String::new, Fault::sentence);
        let report = CrashReport {
            v: crate::control::crash::VERSION,
            service: name.to_owned(),
            fingerprint: crash.fingerprint(),
            count: 0,
            first: 0,
            last: wall_seconds(),
            crash,
            known: known.clone(),
            end: EndReport {
                crash: None,
                ..end.clone()
            },
            dump: words.crash_text(end.exit),
            output: history::last_bytes(output.clone()),
        };
        let now = self.now();
        let repeat = self.crashes.note(report, now);
        About {
            output,
            repeat: Some(repeat),
            known,
        }
    }

    /// A hook after the end is about to speak: what the instance itself has said last is kept
    /// for the report.
    pub(in crate::daemon) fn note_last_words(&mut self, service: ServiceId, instance: Instance) {
        let is_it =
            |(id, i, _): &(ServiceId, Instance, LastWords)| (*id, *i) == (service, instance);
        if !self.last_words.iter().any(is_it) {
            self.last_words.retain(|(id, ..)| *id != service);
            let words = self.logs.last_words(service, OUTPUT_LINES);
            self.last_words.push((service, instance, words));
        }
    }

    /// SIGUSR1: the state of everything into the log.
    pub(super) fn dump(&mut self) {
        let now = self.now();
        let ids = self.sorted_ids();
        let clients = self.clients.as_ref().map_or(0, Clients::len);
        let text = format!("state: {} services, {clients} clients", ids.len());
        self.say(Severity::LOG_NOTICE, &text);
        self.trees.hold_look();
        for id in ids {
            if let Some(s) = self.status_line(id, now) {
                let pid = s.pid.map(|p| format!(", pid {p}")).unwrap_or_default();
                let text = format!(
                    "state: {}: {} (want {}) for {} s{pid}, {} processes, {} restarts",
                    s.service,
                    s.state,
                    s.want,
                    s.since_ms / 1000,
                    s.processes,
                    s.restarts
                );
                self.say(Severity::LOG_NOTICE, &text);
            }
        }
        self.trees.release_look();
    }
}

/// The crash that an end is reported as, if it is to be: what the program said, what the
/// signal was that it died of, and a stop that had to end by KILL because it went nowhere.
fn crash_of(end: &EndReport) -> Option<Crash> {
    if let Some(crash) = &end.crash {
        return Some(crash.clone());
    }
    let in_vain = || end.steps.iter().any(|s| s.outcome == StepOutcome::TimedOut);
    let (kind, text) = match (end.verdict, end.exit) {
        (Verdict::Crashed, Exit::Signal(signal)) => (crash::BY_SIGNAL, format!("SIG{signal}")),
        (Verdict::Killed, _) if in_vain() => ("stuck", "did not stop and was killed".to_owned()),
        _ => return None,
    };
    Some(Crash {
        kind: kind.to_owned(),
        text,
        frame: String::new(),
        frames: Vec::new(),
    })
}
