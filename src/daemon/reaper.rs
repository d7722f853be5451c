//! Reaping: peek, look at the tree, reap, until there is nothing (DESIGN 3.2).
//!
//! While the zombie is not reaped its pid cannot be another process, and with it the
//! session of that number cannot be another one: that is when the tree is looked at.
//! As subreaper (or PID 1) superd also gets orphans; whose they were does not matter here.

use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::Interest;

use super::reactor::{Command, Followed, Reactor, Role, Start};
use super::spawn;
use super::token::Source;
use crate::machine::crash;
use crate::machine::event::{Event, Instance, Notice, Outcome, Pid, ServiceId};
use crate::machine::report::Exit;
use crate::machine::signal::Signal;
use crate::machine::stop::Stop;
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::StatusPipe;
use crate::sys::wait::{self, Ended};

/// Children reaped in one turn of the loop. A fork bomb must not keep the clients waiting.
const PER_TURN: usize = 256;

/// So many budgets are all the pids of a small machine.
const ALL: usize = 128;

impl Reactor {
    /// Reaps what has ended, up to a budget.
    pub(super) fn reap(&mut self) {
        self.reap_again = false;
        let mut orphans = false;
        for _ in 0..PER_TURN {
            let Ok(Some((pid, ended))) = wait::peek() else {
                if orphans {
                    self.tell_orphans();
                }
                return;
            };
            self.forget_namesake(pid);
            if let Some(Role::Main(service, instance)) = self.children.get(&pid) {
                // It may have said that another process is the main one now.
                self.hear_last_words(*service, *instance);
            }
            match self.children.remove(&pid) {
                Some(Role::Main(service, instance)) => {
                    let exit = exit_of(ended);
                    self.end_main(service, instance, exit, |r| r.bury(pid));
                }
                Some(Role::Command(command, status)) => {
                    self.trees.command_over(command.action);
                    self.bury(pid);
                    self.command_ended(&command, &status, ended);
                    orphans = true;
                }
                Some(Role::NewOne(asked)) => {
                    self.bury(pid);
                    self.new_one_ended(pid, asked, ended);
                }
                Some(Role::Packer) => {
                    self.bury(pid);
                    self.packer_ended(pid, ended);
                }
                None => {
                    self.bury(pid);
                    orphans = true;
                }
            }
        }
        self.reap_again = true;
        if orphans {
            self.tell_orphans();
        }
    }

    /// Reaps what the budget of a turn has left over, as far as a whole machine full of
    /// zombies goes.
    pub(super) fn reap_all(&mut self) {
        for _ in 0..ALL {
            if !self.reap_again {
                return;
            }
            self.reap();
        }
    }

    fn tell_orphans(&mut self) {
        self.trees.orphan_reaped();
        self.feed(Event::OrphanReaped);
    }

    /// The main process of this pid, which was not superd's child, has been reaped by its
    /// parent, and this zombie has got its number.
    fn forget_namesake(&mut self, pid: i32) {
        let Some(Role::Main(service, _)) = self.children.get(&pid) else {
            return;
        };
        let is_gone = |f: &Followed| f.held.pid() == pid && f.held.send(0).is_err();
        if self.followed.get(service).is_some_and(is_gone) {
            self.children.remove(&pid);
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
        // What is optional was told when the service started.
        let started = program.and_then(|p| spawn::outcome(status, &p, argv, &mut Vec::new()));
        let first = argv.first().map_or("", String::as_str);
        let outcome = match (started, exit_of(ended)) {
            (Some(Err(error)), _) => Outcome::NotTried(error.to_string()),
            (_, Exit::Code(0)) => Outcome::Done,
            (_, exit) => Outcome::Unhappy(format!("{first}: {exit}")),
        };
        let outcome = self.with_last_words(*action, outcome);
        self.feed(Event::ActionEnded(*service, *instance, *action, outcome));
    }

    /// What it said last counts for the verdict.
    fn hear_last_words(&mut self, service: ServiceId, instance: Instance) {
        self.hear_starts_of(service, instance);
        self.drain_output(service);
        self.hear_notices();
    }

    /// The main process has ended; `bury` reaps it, if that is ours to do.
    fn end_main(
        &mut self,
        service: ServiceId,
        instance: Instance,
        exit: Exit,
        bury: impl FnOnce(&mut Reactor),
    ) {
        self.followed.remove(&service); // closed, and so out of the poll set
        let left = self.trees.before_reap(service, instance);
        bury(self);
        if exit == Exit::Signal(Signal(libc::SIGKILL)) {
            self.trees.doubt_group(service);
        }
        self.last_exit = Some(exit);
        let now = self.now();
        let crash = match self.died_of_no_memory(service, exit) {
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

    /// Whether it was the kernel that has killed the main process. Only asked when it was
    /// not superd.
    fn died_of_no_memory(&mut self, service: ServiceId, exit: Exit) -> bool {
        let Some(known) = self.machine.service(service) else {
            return false;
        };
        let by_us = |s: &Stop| s.killed || s.sent.contains(&Signal::KILL);
        match known.pid() {
            Some(pid) if exit == Exit::Signal(Signal::KILL) && !known.stop().is_some_and(by_us) => {
                self.trees.died_of_no_memory(service, pid)
            }
            Some(_) | None => false,
        }
    }

    /// MAINPID=: another process of the tree is to be the main one.
    pub(super) fn follow(&mut self, service: ServiceId, instance: Instance, main: Pid) {
        let known = self.machine.service(service);
        let run = known
            .filter(|s| s.is_current(instance))
            .and_then(|s| s.run());
        let Some(before) = run.and_then(|run| run.pid) else {
            return; // it has none any more
        };
        if before == main {
            return;
        }
        let notice = match self.hold(service, instance, main) {
            Ok(held) => {
                self.children.remove(&before.0);
                self.children.insert(main.0, Role::Main(service, instance));
                self.followed.insert(service, Followed { instance, held });
                self.note_for_journal(service);
                Notice::MainPid(main)
            }
            Err(why) => Notice::NotMain(main, why),
        };
        self.feed(Event::Notified(service, instance, notice));
    }

    /// Holds the new main process, and watches it.
    fn hold(&mut self, service: ServiceId, instance: Instance, main: Pid) -> Result<PidFd, String> {
        let held = PidFd::open(main.0).map_err(|e| match e.raw_os_error() {
            Some(libc::ESRCH) => "there is no such process".to_owned(),
            Some(libc::ENOSYS) => "watching it needs Linux 5.3".to_owned(),
            Some(libc::EPERM) | None => "it is not a process of the service".to_owned(),
            Some(n) => format!("watching it: {}", crate::sys::strerror(n)),
        })?;
        let token = Source::Process(service.0).token();
        self.poll
            .registry()
            .register(&mut SourceFd(&held.as_raw_fd()), token, Interest::READABLE)
            .map_err(|e| format!("watching it: {e}"))?;
        match self.trees.set_main(service, instance, &held) {
            true => Ok(held),
            false => Err("it is not a live process of the service".to_owned()),
        }
    }

    /// A main process that was named by MAINPID= has ended, says its pidfd. If it is superd's
    /// child the reaper knows how; of a stranger's child only a new kernel tells.
    pub(super) fn followed_ended(&mut self, service: ServiceId) {
        self.reap();
        let Some(Followed { instance, held }) = self.followed.get(&service) else {
            return;
        };
        let (instance, pid) = (*instance, held.pid());
        let is_left_to_the_reaper = held.send(0).is_ok() && wait::is_child(pid);
        if !held.has_ended() || is_left_to_the_reaper {
            return;
        }
        let exit = self.exit_of(service);
        self.hear_last_words(service, instance);
        let is_it = |f: &Followed| f.instance == instance && f.held.pid() == pid;
        if !self.followed.get(&service).is_some_and(is_it) {
            return; // its last word was that another one follows
        }
        if let Some(Role::Main(s, i)) = self.children.get(&pid) {
            if (*s, *i) == (service, instance) {
                self.children.remove(&pid);
            }
        }
        self.end_main(service, instance, exit, |_| {});
        self.feed(Event::OrphanReaped);
    }

    /// The end of an adopted main process was seen without a pidfd: nobody can say how.
    pub(super) fn unheld_ended(&mut self, service: ServiceId, instance: Instance) {
        self.hear_last_words(service, instance);
        self.end_main(service, instance, Exit::Unknown, |_| {});
        self.feed(Event::OrphanReaped);
    }

    fn exit_of(&self, service: ServiceId) -> Exit {
        let followed = self.followed.get(&service);
        let start = self.trees.main_start(service);
        followed.map_or(Exit::Unknown, |f| self.exit_of_stranger(&f.held, start))
    }

    /// How a process ended that is not ours to reap. Its parent may not have reaped it yet:
    /// then the zombie tells; afterwards only a new kernel does.
    pub(super) fn exit_of_stranger(&self, held: &PidFd, start: Option<u64>) -> Exit {
        let zombie = || {
            let status = crate::sys::proc::zombie_status(held.pid(), start?)?;
            Some(Ended::from_wait_status(status))
        };
        let ended = held.ended().or_else(zombie).or_else(|| held.ended());
        ended.map_or(Exit::Unknown, exit_of)
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
