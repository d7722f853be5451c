//! Reaping: peek, look at the tree, reap, until there is nothing (DESIGN 3.2).
//!
//! While the zombie is not reaped its pid cannot be another process, and with it the
//! session of that number cannot be another one: that is when the tree is looked at.
//! As subreaper (or PID 1) superd also gets orphans; whose they were does not matter here.

use super::reactor::{Command, Reactor, Role, Start};
use super::spawn;
use crate::machine::crash;
use crate::machine::event::{Event, Instance, Outcome, Pid, ServiceId};
use crate::machine::report::Exit;
use crate::machine::signal::Signal;
use crate::sys::spawn::StatusPipe;
use crate::sys::wait::{self, Ended};

/// Children reaped in one turn of the loop. A fork bomb must not keep the clients waiting.
const PER_TURN: usize = 256;

impl Reactor {
    /// Reaps what has ended, up to a budget.
    pub(super) fn reap(&mut self) {
        self.reap_again = false;
        let mut orphans = false;
        for _ in 0..PER_TURN {
            let Ok(Some((pid, ended))) = wait::peek() else {
                if orphans {
                    self.feed(Event::OrphanReaped);
                }
                return;
            };
            match self.children.remove(&pid) {
                Some(Role::Main(service, instance)) => {
                    self.reap_main(pid, ended, service, instance);
                }
                Some(Role::Command(command, status)) => {
                    self.trees.command_over(command.action);
                    self.bury(pid);
                    self.command_ended(&command, &status, ended);
                    orphans = true;
                }
                None => {
                    self.bury(pid);
                    orphans = true;
                }
            }
        }
        self.reap_again = true;
        if orphans {
            self.feed(Event::OrphanReaped);
        }
    }

    fn bury(&mut self, pid: i32) {
        wait::reap(pid).ok(); // it was there a moment ago, and nobody else reaps
    }

    fn command_ended(&mut self, command: &Command, status: &StatusPipe, ended: Ended) {
        let Command {
            service,
            instance,
            action,
            argv,
        } = command;
        let program = self.registry.program(*service);
        let started = program.and_then(|p| spawn::outcome(status, &p, argv));
        let first = argv.first().map_or("", String::as_str);
        let outcome = match (started, exit_of(ended)) {
            (Some(Err(error)), _) => Outcome::Impossible(error.to_string()),
            (_, Exit::Code(0)) => Outcome::Done,
            (_, exit) => Outcome::Unhappy(format!("{first}: {exit}")),
        };
        self.feed(Event::ActionEnded(*service, *instance, *action, outcome));
    }

    fn reap_main(&mut self, pid: i32, ended: Ended, service: ServiceId, instance: Instance) {
        self.hear_starts_of(service, instance);
        // What it said last counts for the verdict.
        self.drain_output(service);
        self.hear_notices();
        let left = self.trees.before_reap(service, instance);
        self.bury(pid);
        let exit = exit_of(ended);
        if exit == Exit::Signal(Signal(libc::SIGKILL)) {
            self.trees.doubt_group(service);
        }
        self.last_exit = Some(exit);
        let now = self.now();
        let killed = exit == Exit::Signal(Signal::KILL) && !self.has_killed(service);
        let no_memory = killed && self.trees.died_of_no_memory(service, Pid(pid));
        let crash = match no_memory {
            true => Some(crash::out_of_memory()),
            false => self.logs.crash(service, exit, now),
        };
        self.feed(Event::Exited {
            service,
            instance,
            exit,
            crash,
            left,
        });
    }

    /// Whether the main process had its SIGKILL from superd.
    fn has_killed(&self, service: ServiceId) -> bool {
        self.machine.service(service).is_some_and(|s| {
            let stop = s.stop();
            stop.is_some_and(|s| s.killed || s.sent.contains(&Signal::KILL))
        })
    }

    /// The exit of a child may be seen before the end of its status pipe.
    fn hear_starts_of(&mut self, service: ServiceId, instance: Instance) {
        let of = |s: &Start| s.service == service && s.instance == instance;
        let index = self.starts.iter().find(|(_, s)| of(s)).map(|(i, _)| *i);
        if let Some(index) = index {
            self.hear_start(index);
            self.starts.remove(&index); // whatever it said: the process is over
        }
    }
}

fn exit_of(ended: Ended) -> Exit {
    match ended {
        Ended::Code(n) => Exit::Code(n),
        Ended::Signal(n) => Exit::Signal(Signal(n)),
    }
}
