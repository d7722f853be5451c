//! The loop: one thread, one poll, in the order of DESIGN 3.2.
//!
//! 1. poll
//! 2. drain the self-pipe, *then* take the latch
//! 3. reap: peek, look at the tree, reap, until there is nothing
//! 4. control clients
//! 5. output, notify socket, starts, actions
//! 6. timers
//! 7. effects
//! 8. what the init system is to know
//! 9. an upgrade, if one is agreed and nothing is left to be done
//!
//! Nothing in here blocks, and each step has a budget; what is left over makes the next
//! poll return at once. What is to be done the machine decides: the daemon performs
//! effects (`perform.rs`) and reports facts. A fact is given to the machine as soon as it
//! is known, with a time read just before.
//!
//! Longer than other files because it is the list of everything that superd has, and one
//! short function for each step; configuration and telling have files of their own.

mod reload;
mod tell;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use syslog::Severity;

use super::actions::{Actions, Ended};
use super::adopt::AdoptedCommand;
use super::announce::Announcer;
use super::checkers::Checkers;
use super::clients::{ClientEvent, Clients, Stream};
use super::clock::Clocks;
use super::crashes::Crashes;
use super::drain::Drains;
use super::history::History;
use super::journal::Journal;
use super::keep::Again;
use super::logs::{LastWords, Logs, Said};
use super::notify::{self, Notify};
use super::packer::Packer;
use super::probes::Probes;
use super::registry::Registry;
use super::rundir::RunDir;
use super::signals::{self, Wakeup, LATCH};
use super::sink::Sink;
use super::sockets::Sockets;
use super::token::Source;
use super::trees::Trees;
use super::upgrade::Asked;
use super::watches::{self, Watches};
use super::world::World;
use crate::config::faults::Fault;
use crate::config::model::Output;
use crate::control::reply::Reply;
use crate::latch::{Bit, Phase, Seen, Taken};
use crate::machine::event::{ActionId, Effect, Event, Instance, Notice, Pid, ServiceId, Ticket};
use crate::machine::report::Origin;
use crate::machine::service::Service;
use crate::machine::signal::Signal;
use crate::machine::supervisor::Supervisor;
use crate::machine::time::Tick;
use crate::machine::upgrade::Upgrade;
use crate::map::Map;
use crate::sys;
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::StatusPipe;
use crate::sys::timer::Timer;

/// Events of one poll.
const EVENTS: usize = 128;

/// Lines of output kept with the end of an instance.
const OUTPUT_LINES: usize = 20;

/// How long superd waits, after everything is down, for its last answers to be read.
const FAREWELL: Duration = Duration::from_millis(500);

/// A disk is not written to when something is due within this time.
const QUIET: Duration = Duration::from_millis(30);

/// What superd is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Many services, a control socket.
    Daemon,
    /// `superd run`: one service in the foreground.
    Wrap {
        /// HUP is ignored, as it was when superd was started (nohup(1)).
        ignores_hup: bool,
    },
}

/// What the reactor is told at the start.
#[derive(Clone, Debug)]
pub struct Options {
    /// What superd is for.
    pub mode: Mode,
    /// The main configuration file; none in wrap mode.
    pub config: Option<PathBuf>,
    /// `log = "auto"` means standard error.
    pub foreground: bool,
    /// What is executed by an upgrade; empty in wrap mode.
    pub program: PathBuf,
}

/// A start whose execve(2) has not been reported yet.
pub(super) struct Start {
    pub service: ServiceId,
    pub instance: Instance,
    pub status: StatusPipe,
}

/// What a child process of ours is.
pub(super) enum Role {
    /// The main process of an instance.
    Main(ServiceId, Instance),
    /// The command of a stop step or a reload. Its status pipe is read at its exit.
    Command(Command, StatusPipe),
    /// The new program of an upgrade, which is asked; none: nobody waits for its answer.
    NewOne(Option<Asked>),
    /// Makes a log file smaller; `Reactor::packer` is about it, unless nobody waits for it.
    Packer,
}

/// A main process that was named by MAINPID=. It need not be superd's child, and then no
/// SIGCHLD tells of its end.
pub(super) struct Followed {
    pub instance: Instance,
    pub held: PidFd,
}

/// A command that runs.
pub(super) struct Command {
    pub service: ServiceId,
    pub instance: Instance,
    pub action: ActionId,
    pub argv: Rc<[String]>,
}

/// The daemon.
pub struct Reactor {
    pub(super) options: Options,
    pub(super) poll: Poll,
    wakeup: Wakeup,
    timer: Timer,
    /// What the timer is set to.
    armed: Option<Tick>,
    pub(super) machine: Supervisor,
    pub(super) registry: Registry,
    pub(super) run_dir: Option<RunDir>,
    /// The run directory was removed and could not be made again.
    pub(super) run_dir_again: Option<Again>,
    /// The journal could not be written.
    pub(super) journal_again: Option<Again>,
    pub(super) clients: Option<Clients>,
    pub(super) logs: Logs,
    pub(super) notify: Option<Notify>,
    /// None where nobody wants to hear of superd, and in wrap mode.
    pub(super) announcer: Option<Announcer>,
    pub(super) actions: Actions,
    pub(super) probes: Probes,
    pub(super) checkers: Checkers,
    pub(super) drains: Drains,
    pub(super) sockets: Sockets,
    pub(super) world: World,
    pub(super) clocks: Clocks,
    pub(super) watches: Watches,
    pub(super) history: History,
    pub(super) crashes: Crashes,
    /// From the file of known faults, as it was when it could be read last.
    pub(super) faults: Vec<Fault>,
    pub(super) sink: Sink,
    pub(super) trees: Trees,
    /// Our children that are not reaped, by pid.
    pub(super) children: Map<i32, Role>,
    /// Starts under way, by the index in their token.
    pub(super) starts: Map<u32, Start>,
    pub(super) next_start: u32,
    /// What is to be done.
    pub(super) effects: VecDeque<Effect>,
    /// For the machine to write into.
    pub(super) fresh: Vec<Effect>,
    /// Clients that wait for superd's end.
    pub(super) awaiting_end: Vec<Ticket>,
    /// Children were left unreaped when the budget of a turn was used up.
    pub(super) reap_again: bool,
    /// Of the requests that the latch has absorbed, those that the machine knows of.
    pub(super) absorbed: u32,
    /// Processes that may still be looked at in this turn before they are killed.
    pub(super) looks_left: usize,
    /// Of instances after whose end a hook runs: what they have said.
    pub(super) last_words: Vec<(ServiceId, Instance, LastWords)>,
    /// Main processes that were named by MAINPID=.
    pub(super) followed: Map<ServiceId, Followed>,
    /// None in wrap mode, and where it cannot be kept.
    pub(super) journal: Option<Journal>,
    /// Adopted instances whose main process cannot be held by a pidfd.
    pub(super) unheld: Map<ServiceId, Instance>,
    /// When they are looked at.
    pub(super) look_at_unheld: Option<Tick>,
    /// When what is not urgent is written into the journal.
    pub(super) remember_at: Option<Tick>,
    /// Commands of an earlier superd, by the index in their token.
    pub(super) adopted_commands: Map<u32, AdoptedCommand>,
    /// What is to be told of adopted services after the configuration.
    pub(super) resumed: Vec<Event>,
    pub(super) upgrade: Upgrade,
    pub(super) packer: Option<Packer>,
    heard: Vec<(Pid, Notice)>,
    asked: Vec<ClientEvent>,
    ended: Vec<Ended>,
    /// superd ends and its services do not.
    pub(super) leaving: bool,
    finished: bool,
    /// How the last main process ended, for wrap mode's own exit status.
    pub(super) last_exit: Option<crate::machine::report::Exit>,
}

/// What a reactor is made of.
pub struct Parts {
    /// See there.
    pub options: Options,
    /// See there.
    pub machine: Supervisor,
    /// Nothing configured yet.
    pub sink: Sink,
    /// None in wrap mode.
    pub run_dir: Option<RunDir>,
    /// None where the socket could not be made.
    pub notify: Option<Notify>,
    /// Containment.
    pub trees: Trees,
    /// Bytes of output kept per service.
    pub ring: usize,
    /// The poll that the parts are registered with.
    pub poll: Poll,
    /// Signal handlers.
    pub wakeup: Wakeup,
}

impl Reactor {
    /// Puts the parts together.
    ///
    /// # Errors
    /// Of timerfd_create(2) and epoll_ctl(2).
    pub fn new(parts: Parts) -> io::Result<Reactor> {
        let timer = Timer::new()?;
        let registry = parts.poll.registry();
        let fd = parts.wakeup.as_raw_fd();
        registry.register(&mut SourceFd(&fd), Source::Wake.token(), Interest::READABLE)?;
        let fd = timer.as_raw_fd();
        registry.register(
            &mut SourceFd(&fd),
            Source::Timer.token(),
            Interest::READABLE,
        )?;
        let mut logs = Logs::new(parts.ring);
        let mut sink = parts.sink;
        if let Some(run_dir) = &parts.run_dir {
            logs.set_home(run_dir.path(), sink.file_was());
            if !run_dir.is_clean() {
                logs.open_carry();
            }
        }
        sink.set_carry(logs.take_carry());
        Ok(Reactor {
            options: parts.options,
            poll: parts.poll,
            wakeup: parts.wakeup,
            timer,
            armed: None,
            machine: parts.machine,
            registry: Registry::default(),
            run_dir: parts.run_dir,
            run_dir_again: None,
            journal_again: None,
            clients: None,
            logs,
            notify: parts.notify,
            announcer: None,
            actions: Actions::default(),
            probes: Probes::default(),
            checkers: Checkers::default(),
            drains: Drains::default(),
            sockets: Sockets::default(),
            world: World::default(),
            clocks: Clocks::default(),
            watches: Watches::default(),
            history: History::default(),
            crashes: Crashes::default(),
            faults: Vec::new(),
            sink,
            trees: parts.trees,
            children: Map::new(),
            starts: Map::new(),
            next_start: 0,
            effects: VecDeque::new(),
            fresh: Vec::new(),
            awaiting_end: Vec::new(),
            reap_again: false,
            absorbed: 0,
            looks_left: 0,
            last_words: Vec::new(),
            followed: Map::new(),
            journal: None,
            unheld: Map::new(),
            look_at_unheld: None,
            remember_at: None,
            adopted_commands: Map::new(),
            resumed: Vec::new(),
            upgrade: Upgrade::default(),
            packer: None,
            leaving: false,
            heard: Vec::new(),
            asked: Vec::new(),
            ended: Vec::new(),
            finished: false,
            last_exit: None,
        })
    }

    /// Runs until everything is down and superd was asked to end.
    ///
    /// # Errors
    /// Only if epoll itself fails, which leaves nothing to wait with.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        self.warn_if_blind();
        self.watch_run_dir();
        self.perform();
        self.remember_soon();
        self.announce_ready();
        while !self.finished {
            self.turn(&mut events)?;
        }
        self.say_farewell(&mut events);
        Ok(())
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        let wait = self.prepare_to_wait();
        match self.poll.poll(events, wait) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => events.clear(),
            other => other?,
        }
        self.trees.begin_turn();
        let woken = self.note_readiness(events);
        if woken {
            self.wakeup.drain();
        }
        self.heed(LATCH.take());
        self.hear_clients();
        self.hear_output();
        if self.notify.as_ref().is_some_and(Notify::more_work) {
            self.hear_notices();
        }
        self.hear_actions();
        self.heed_clock();
        self.expire();
        self.perform();
        self.remember_soon();
        self.write_reports();
        self.pack_logs();
        self.announce();
        self.become_new_one();
        Ok(())
    }

    /// Arms the timer for the next deadline. Zero when there is work left over.
    fn prepare_to_wait(&mut self) -> Option<Duration> {
        let clients_work = self.clients.as_ref().is_some_and(Clients::more_work);
        let notify_work = self.notify.as_ref().is_some_and(Notify::more_work);
        if clients_work
            || notify_work
            || self.reap_again
            || self.logs.more_work()
            || self.world.is_due()
            || !self.effects.is_empty()
        {
            return Some(Duration::ZERO);
        }
        let clients = self.clients.as_ref().and_then(Clients::next_deadline);
        let reports = self.crashes.next_deadline();
        let announcer = self.announcer.as_ref();
        let announcements = announcer.and_then(|a| a.herald.next_deadline());
        let run_dir = self.run_dir_again.map(|again| again.at);
        let journal = self.journal_again.map(|again| again.at);
        let soonest = [
            self.machine.next_deadline(),
            clients,
            reports,
            run_dir,
            journal,
            self.remember_at,
            self.look_at_unheld,
            self.upgrade.next_deadline(),
            self.drains.next_deadline(),
            self.world.next_deadline(),
            self.watches.next_deadline(),
            self.logs.next_deadline(),
            self.packer.as_ref().map(|p| p.deadline),
            announcements,
        ];
        let next = soonest
            .into_iter()
            .flatten()
            .min()
            .filter(|t| *t < Tick::NEVER);
        if next != self.armed {
            let set = match next {
                Some(at) => self.timer.set(at.0),
                None => self.timer.disarm(),
            };
            match set {
                Ok(()) => self.armed = next,
                // Cannot happen with a valid descriptor; a coarse wait is better than none.
                Err(_) => return Some(Duration::from_millis(10)),
            }
        }
        None
    }

    /// Passes on what mio says. True when a signal handler has written to the self-pipe.
    fn note_readiness(&mut self, events: &Events) -> bool {
        let mut woken = false;
        let mut starts = Vec::new();
        let mut ends = Vec::new();
        let mut run_dir = false;
        let mut touched = false;
        let mut lines = Vec::new();
        let mut talk = Vec::new();
        for event in events {
            match Source::of(event.token()) {
                Some(Source::Wake) => woken = true,
                Some(Source::Timer) => {
                    self.timer.drain();
                    self.armed = None;
                }
                Some(source @ (Source::Listener | Source::Client(_))) => {
                    if let Some(clients) = &mut self.clients {
                        clients.ready(source, event);
                    }
                }
                Some(Source::Log(service)) => self.logs.ready(ServiceId(service)),
                Some(Source::Notify) => {
                    if let Some(notify) = &mut self.notify {
                        notify.ready();
                    }
                }
                Some(Source::Action(slot)) => self.actions.ready(slot),
                Some(Source::Spawn(index)) => starts.push(index),
                Some(Source::Process(index)) => ends.push(index),
                Some(Source::World(watches::TOKEN)) => touched = true,
                Some(Source::World(_)) => self.world.ready(),
                Some(Source::Clock) => self.clocks.ready(),
                Some(Source::Checker(n)) => talk.push(ServiceId(n)),
                Some(Source::Other(0)) => run_dir = true,
                Some(Source::Other(n)) => lines.push(ServiceId(n - 1)),
                None => {}
            }
        }
        if run_dir {
            self.keep_run_dir();
        }
        if touched {
            let now = self.now();
            self.watches.ready(now, self.poll.registry());
        }
        for index in starts {
            self.hear_start(index);
        }
        for index in ends {
            self.process_ended(index);
        }
        for service in lines {
            self.hear_ready_descriptor(service);
        }
        for service in talk {
            self.checkers.hear(service);
        }
        woken
    }

    /// What signals have asked for since the last turn.
    fn heed(&mut self, taken: Taken) {
        if taken.has(Bit::Stop) || taken.has(Bit::Force) {
            let absorbed = taken.absorbed();
            let more = absorbed.saturating_sub(self.absorbed);
            self.absorbed = absorbed;
            let force = taken.has(Bit::Force) && LATCH.phase() < Phase::Killing;
            if LATCH.phase() == Phase::Running || force || more > 0 {
                self.begin_shutdown_with(force, None, more);
            }
        }
        if taken.has(Bit::Reap) || self.reap_again {
            self.reap();
        }
        match self.options.mode {
            Mode::Daemon => {
                if taken.has(Bit::Reload) {
                    self.reload_by_signal();
                }
                if taken.has(Bit::Dump) {
                    self.dump();
                }
                if taken.has(Bit::Upgrade) {
                    self.upgrade_by_signal(signals::who_sent(Signal::USR2));
                }
            }
            Mode::Wrap { ignores_hup } => {
                for (bit, signal) in [
                    (Bit::Reload, Signal::HUP),
                    (Bit::Dump, Signal::USR1),
                    (Bit::Upgrade, Signal::USR2),
                    (Bit::Quit, Signal::QUIT),
                ] {
                    if taken.has(bit) && !(ignores_hup && signal == Signal::HUP) {
                        self.pass_on(signal);
                    }
                }
            }
        }
    }

    /// Wrap mode: HUP, USR1, USR2 and QUIT are for the service. One that its stop sends asks
    /// for that stop: it must not come twice.
    fn pass_on(&mut self, signal: Signal) {
        let by = signals::who_sent(signal);
        let stops = |s: &Service| s.spec.stop.sends_to_main(signal);
        if self.machine.services().any(stops) {
            return self.begin_shutdown(false, Some(by));
        }
        self.feed(Event::Request {
            ticket: None,
            target: crate::machine::event::Target::All,
            verb: crate::machine::event::Verb::Signal(signal),
            wait: crate::machine::event::Wait::No,
            by,
        });
    }

    /// A client asks for superd's end. What the latch counts for it is told to the machine
    /// with the request itself, and must not be told once more by [`Reactor::heed`].
    pub(super) fn note_asked(&mut self, bit: Bit) {
        if LATCH.request(bit) == Seen::Again {
            self.absorbed = self.absorbed.saturating_add(1);
        }
    }

    pub(super) fn begin_shutdown(&mut self, force: bool, by: Option<Origin>) {
        self.begin_shutdown_with(force, by, 0);
    }

    fn begin_shutdown_with(&mut self, force: bool, by: Option<Origin>, more: u32) {
        let first = LATCH.phase() == Phase::Running;
        LATCH.advance(Phase::Terminating);
        if force {
            LATCH.advance(Phase::Killing);
        }
        let from_signal = match force {
            true => signals::who_forced().or_else(signals::who_stopped),
            false => signals::who_stopped(),
        };
        let by = by.or(from_signal).unwrap_or(Origin::Policy);
        if first || force {
            let how = if force { "at once" } else { "by the schedules" };
            self.say(
                Severity::LOG_NOTICE,
                &format!("shutting down {how}: {by} asked"),
            );
        }
        self.hear_notices();
        // The first request is not one that was absorbed.
        let absorbed = if first || force {
            more
        } else {
            more.saturating_sub(1)
        };
        self.feed(Event::Shutdown {
            force,
            by,
            absorbed,
        });
    }

    /// One crash report to disk, when nothing else is to be done and nothing is due soon.
    fn write_reports(&mut self) {
        if self.crashes.next_deadline().is_some() || !self.crashes.is_loaded() {
            let now = self.now();
            let due = self.machine.next_deadline();
            let quiet = self.effects.is_empty()
                && !self.reap_again
                && !self.logs.more_work()
                && due.is_none_or(|at| at > now + QUIET);
            self.crashes.work(now, quiet);
            if quiet {
                self.crashes.load();
            }
        }
        self.say_of_reports();
    }

    /// What there is to be said about writing and reading them.
    pub(super) fn say_of_reports(&mut self) {
        for line in self.crashes.take_lines() {
            self.say(Severity::LOG_WARNING, &line);
        }
    }

    fn hear_clients(&mut self) {
        let now = self.now();
        let Some(clients) = &mut self.clients else {
            return;
        };
        let mut asked = std::mem::take(&mut self.asked);
        clients.turn(now, self.poll.registry(), &mut asked);
        for event in asked.drain(..) {
            self.hear_client(event);
        }
        self.asked = asked;
    }

    /// Also what was left to fill a pipe, because somebody asks.
    pub(super) fn hear_all_output(&mut self) {
        self.logs.hasten(None);
        self.hear_output();
    }

    fn hear_output(&mut self) {
        let now = self.now();
        self.logs.expire(now);
        if self.logs.more_work() {
            let clients = self.clients.as_ref();
            let is_followed = clients.is_some_and(|c| c.is_followed(Stream::Logs));
            self.logs.set_followed(is_followed);
            let mut matched = Vec::new();
            let Reactor {
                logs,
                clients,
                sink,
                machine,
                poll,
                ..
            } = self;
            let mut hear =
                |said: Said<'_>| hear_line(said, now, clients, sink, machine, &mut matched);
            logs.turn(poll.registry(), now, &mut hear);
            self.tell_matches(matched);
            self.say_of_output();
        }
    }

    /// Reads what is in a service's pipe now, before its exit is told.
    pub(super) fn drain_output(&mut self, service: ServiceId) {
        let now = self.now();
        let mut matched = Vec::new();
        let Reactor {
            logs,
            clients,
            sink,
            machine,
            ..
        } = self;
        let mut hear = |said: Said<'_>| hear_line(said, now, clients, sink, machine, &mut matched);
        logs.drain(service, now, &mut hear);
        self.tell_matches(matched);
        self.say_of_output();
    }

    fn tell_matches(&mut self, matched: Vec<(ServiceId, Instance)>) {
        for (service, instance) in matched {
            self.feed(Event::OutputMatched(service, instance));
        }
    }

    /// Reads the notify socket; only a service's own tree may speak for it.
    pub(super) fn hear_notices(&mut self) {
        let Some(notify) = &mut self.notify else {
            return;
        };
        let mut heard = std::mem::take(&mut self.heard);
        notify.drain(&mut heard);
        let trees = &mut self.trees;
        let (said, mains) = notify::attribute(heard.drain(..), |pid| trees.owner(pid));
        self.heard = heard;
        for ((service, instance), notice) in said {
            self.feed(Event::Notified(service, instance, notice));
        }
        for ((service, instance), main) in mains {
            self.follow(service, instance, main);
        }
    }

    fn hear_actions(&mut self) {
        let mut ended = std::mem::take(&mut self.ended);
        self.actions.turn(&mut ended);
        for e in ended.drain(..) {
            self.feed(Event::ActionEnded(
                e.service, e.instance, e.action, e.outcome,
            ));
        }
        self.ended = ended;
    }

    fn expire(&mut self) {
        let now = self.now();
        if let Some(clients) = &mut self.clients {
            if clients.next_deadline().is_some_and(|at| at <= now) {
                clients.expire(now, self.poll.registry());
            }
        }
        if self.drains.next_deadline().is_some_and(|at| at <= now) {
            self.look_at_drains();
        }
        if self.world.next_deadline().is_some_and(|at| at <= now) {
            self.world.ready();
        }
        if self.watches.next_deadline().is_some_and(|at| at <= now) {
            self.look_at_files();
        }
        if self.look_at_unheld.is_some_and(|at| at <= now) {
            self.look_at_unheld();
        }
        if self.run_dir_again.is_some_and(|again| again.at <= now) {
            self.keep_run_dir();
        }
        if self.journal_again.is_some_and(|again| again.at <= now) {
            self.note_all_for_journal();
            self.remember();
        }
        if self.upgrade.next_deadline().is_some_and(|at| at <= now) {
            self.upgrade_timeout();
        }
        if self.machine.next_deadline().is_some_and(|at| at <= now) {
            // What a service has said up to now counts before its time is up.
            self.hear_notices();
            let now = self.now();
            self.machine.handle_timeout(now, &mut self.fresh);
            self.effects.extend(self.fresh.drain(..));
        }
    }

    /// Gives the machine a fact or a wish. Its effects are performed later in the turn.
    pub(super) fn feed(&mut self, event: Event) {
        let now = self.now();
        self.machine.handle(now, event, &mut self.fresh);
        self.effects.extend(self.fresh.drain(..));
    }

    /// Everything is down and superd may end.
    pub(super) fn finish(&mut self) {
        LATCH.advance(Phase::Done);
        for ticket in std::mem::take(&mut self.awaiting_end) {
            self.reply(ticket, Reply::ok(0));
        }
        self.finished = true;
    }

    /// The last answers go out; a client that does not read is not waited for.
    fn say_farewell(&mut self, events: &mut Events) {
        let until = self.now() + FAREWELL;
        loop {
            let now = self.now();
            let Some(clients) = &mut self.clients else {
                return;
            };
            clients.flush(now, self.poll.registry());
            if clients.is_flushed() || now >= until {
                return;
            }
            match self.poll.poll(events, Some(until - now)) {
                // A late signal: those who have not been answered yet are still there.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
                Ok(()) => {}
            }
            for event in events.iter() {
                if let Some(source @ Source::Client(_)) = Source::of(event.token()) {
                    clients.ready(source, event);
                }
            }
        }
    }

    /// CLOCK_MONOTONIC.
    pub(super) fn now(&self) -> Tick {
        Tick(sys::timer::monotonic())
    }
}

/// One line of output: to those who follow it, and to the log.
fn hear_line(
    said: Said<'_>,
    now: Tick,
    clients: &mut Option<Clients>,
    sink: &mut Sink,
    machine: &Supervisor,
    matched: &mut Vec<(ServiceId, Instance)>,
) {
    if let Some(instance) = said.matched {
        matched.push((said.service, instance));
    }
    if said.output == Output::Log {
        let pid = machine
            .service(said.service)
            .and_then(|s| s.pid())
            .map(|Pid(n)| n);
        sink.line(now, said.name, pid, said.line);
    }
    if let Some(clients) = clients {
        clients.publish(Stream::Logs, said.service, || Reply {
            line: Some(crate::control::reply::LogLine {
                service: said.name.to_string(),
                ago_ms: 0,
                text: String::from_utf8_lossy(said.line).into_owned(),
            }),
            ..Reply::ok(0)
        });
    }
}
