//! The new program's part of an upgrade: what the one before has left is taken over before
//! anything is opened, and gone on from.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use mio::unix::SourceFd;
use mio::Interest;
use syslog::Severity;

use super::state::{self, Body, Head, Work};
use super::STATE;
use crate::control::reply::Reply;
use crate::daemon::actions::Actions;
use crate::daemon::adopt::AdoptedCommand;
use crate::daemon::checkers::Checkers;
use crate::daemon::history::History;
use crate::daemon::journal::{self, Journal};
use crate::daemon::probes::Probes;
use crate::daemon::reactor::{Command, Followed, Reactor, Role, Start};
use crate::daemon::rundir::plain;
use crate::daemon::sockets::Sockets;
use crate::daemon::token::Source;
use crate::machine::report::Origin;
use crate::map::Map;
use crate::sys::handover::{self, Inherited};
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::StatusPipe;

/// What the program before has left.
pub enum Received {
    /// Nothing: superd was started and nothing else.
    Nothing,
    /// Something that cannot be used, and why. Its descriptors are closed.
    Bad(String),
    /// Everything.
    State(Box<(Head, Body, Inherited)>),
}

/// Takes over what the program before has left. To be called before anything is opened.
pub fn receive() -> Received {
    let Some(place) = std::env::var_os(STATE) else {
        return Received::Nothing;
    };
    std::env::remove_var(STATE); // superd has one thread
    let number = place.to_str().and_then(|n| n.parse().ok());
    let Some(number) = number.filter(|n: &i32| *n > 2) else {
        return Received::Nothing;
    };
    let text = Inherited::take_all(&[number])
        .and_then(|mut left| left.take(number))
        .and_then(|fd| state::read(File::from(fd)));
    let Ok(text) = text else {
        return Received::Nothing; // somebody else's variable
    };
    let bad = |why: String| {
        handover::close_what_was_left();
        Received::Bad(why)
    };
    let (head, rest) = match state::head(&text) {
        Ok(both) => both,
        Err(why) => return bad(why),
    };
    if head.pid != std::process::id() {
        return Received::Nothing; // of the superd that has started what has started this one
    }
    let own = journal::Head::of_this_process();
    let checked = own
        .and_then(|own| state::is_of(&head, &own))
        .and_then(|()| state::body(rest));
    let body = match checked {
        Ok(body) => body,
        Err(why) => return bad(why),
    };
    let fds: Vec<i32> = head
        .fds
        .iter()
        .copied()
        .filter(|fd| *fd != number)
        .collect();
    match Inherited::take_all(&fds) {
        Ok(left) => Received::State(Box::new((head, body, left))),
        Err(e) => bad(plain(&e)),
    }
}

impl Reactor {
    /// Takes up what the program before was doing, but for what the reactor was built with.
    ///
    /// # Errors
    /// Of epoll_ctl(2), and where a descriptor is missing.
    pub(in crate::daemon) fn take_up(
        &mut self,
        from: &Head,
        work: Work,
        left: &mut Inherited,
    ) -> io::Result<()> {
        let daemon = work.registry.daemon().clone();
        self.take_up_starts(work.starts, left)?;
        self.take_up_children(work.children, left)?;
        self.take_up_watched(work.followed, work.commands, left)?;
        self.registry = work.registry;
        self.sockets = Sockets::kept(work.sockets, left)?;
        self.logs.take_up(work.logs, left, self.poll.registry())?;
        self.actions = Actions::kept(work.actions, left, self.poll.registry())?;
        self.probes = Probes::kept(work.probes, left, self.poll.registry())?;
        self.checkers = Checkers::kept(work.checkers, left, self.poll.registry())?;
        self.history = History::kept(work.history);
        self.crashes = work.crashes;
        self.sink.set_lost(work.lost_lines);
        self.absorbed = work.absorbed;
        self.unheld = work.unheld;
        self.look_at_unheld = (!self.unheld.is_empty()).then(|| self.now());
        self.next_start = work.next_start;
        if let (Ok(own), Some(run_dir)) = (journal::Head::of_this_process(), &self.run_dir) {
            let mut journal = Journal::new(run_dir.file("journal"), own);
            journal.inherit();
            self.journal = Some(journal);
        }
        // Children may have ended while nobody heard the signal.
        self.reap_again = true;
        self.put_in_force(&daemon);
        let now = self.now();
        let registry = &self.registry;
        let mut effects = Vec::new();
        let services = work.machine.services();
        self.machine.go_on(
            work.machine,
            |id| registry.spec(id).map(Rc::new),
            now,
            &mut effects,
        );
        self.effects.extend(effects);
        let (old, new) = (&from.by, env!("CARGO_PKG_VERSION"));
        let by = work.wish.by.unwrap_or(Origin::Policy);
        let s = if services == 1 { "" } else { "s" };
        let text = format!("upgraded from {old} to {new} with {services} service{s}: {by} asked");
        self.say(Severity::LOG_NOTICE, &text);
        for ticket in work.wish.tickets {
            let reply = Reply {
                message: format!("upgraded from {old} to {new}"),
                ..Reply::ok(0)
            };
            self.reply(ticket, reply);
        }
        Ok(())
    }

    fn take_up_starts(
        &mut self,
        starts: Vec<state::Starting>,
        left: &mut Inherited,
    ) -> io::Result<()> {
        for s in starts {
            let status = StatusPipe::left(left.take(s.status)?);
            self.watch(status.as_raw_fd(), Source::Spawn(s.index))?;
            let start = Start {
                service: s.service,
                instance: s.instance,
                status,
            };
            self.starts.insert(s.index, start);
        }
        Ok(())
    }

    fn take_up_children(
        &mut self,
        children: Map<i32, state::Child>,
        left: &mut Inherited,
    ) -> io::Result<()> {
        for (pid, child) in children {
            let role = match child {
                state::Child::Main(service, instance) => Role::Main(service, instance),
                state::Child::Command {
                    service,
                    instance,
                    action,
                    argv,
                    status,
                } => {
                    let status = StatusPipe::left(left.take(status)?);
                    let command = Command {
                        service,
                        instance,
                        action,
                        argv,
                    };
                    Role::Command(command, status)
                }
            };
            self.children.insert(pid, role);
        }
        Ok(())
    }

    fn take_up_watched(
        &mut self,
        followed: Vec<state::Watched>,
        commands: Vec<state::Adopted>,
        left: &mut Inherited,
    ) -> io::Result<()> {
        for w in followed {
            let held = PidFd::left(left.take(w.fd)?, w.pid);
            self.watch(held.as_raw_fd(), Source::Process(w.service.0))?;
            let instance = w.instance;
            self.followed.insert(w.service, Followed { instance, held });
        }
        for c in commands {
            let held = PidFd::left(left.take(c.process.fd)?, c.process.pid);
            self.watch(held.as_raw_fd(), Source::Process(c.slot))?;
            let command = AdoptedCommand {
                service: c.process.service,
                instance: c.process.instance,
                action: c.action,
                program: c.program,
                held,
            };
            self.adopted_commands.insert(c.slot, command);
        }
        Ok(())
    }

    fn watch(&self, fd: i32, source: Source) -> io::Result<()> {
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&fd), source.token(), Interest::READABLE)
    }
}
