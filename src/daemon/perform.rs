//! Effects, performed. No decision is made here: what cannot be done is reported back.
//!
//! Longer than a file should be: an effect each, and what several of them need.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use mio::unix::SourceFd;
use mio::Interest;
use syslog::Severity;

use super::drain;
use super::reactor::{Command, Reactor, Role, Start};
use super::spawn;
use super::token::Source;
use super::trees::Wanted;
use crate::config::model::{Output, Program};
use crate::machine::event::{
    ActionId, Check, Effect, Event, Found, Instance, Outcome, Pid, ServiceId,
};
use crate::machine::hook::{Call, Kind};
use crate::machine::report::{Happening, SpawnError, Stage};
use crate::machine::service::{Service, State};
use crate::machine::spec::{Drain, Http};
use crate::machine::time::Tick;
use crate::sys;
use crate::sys::cgroup::Group;
use crate::sys::spawn::Child;

/// Starts per turn of the loop; the rest has to wait for signals and clients.
const STARTS_PER_TURN: usize = 32;

/// At a boot so many are started at first: they run on the other cores while those after them
/// are prepared.
const FIRST_STARTS: usize = 4;

/// Room for effects that is kept from turn to turn.
const EFFECTS_KEPT: usize = 64;

/// Of a tree that is about to be killed, so many processes are looked at.
const STUCK_PROCESSES: usize = 8;

/// In one turn of the loop, so many in all.
const LOOKS_PER_TURN: usize = 24;

/// An instance that can be started: it has an output and a place.
pub(super) struct Ready {
    pub(super) service: ServiceId,
    pub(super) instance: Instance,
    pub(super) name: Rc<str>,
    pub(super) program: Rc<Program>,
    group: Option<Group>,
    /// By which it says that it is ready.
    descriptor: Option<i32>,
}

impl Reactor {
    /// Performs what is to be done, also what comes of it, up to the budget of a turn.
    pub(super) fn perform(&mut self) {
        let mut starts = 0;
        let mut together = Vec::new();
        self.looks_left = LOOKS_PER_TURN;
        loop {
            match self.effects.pop_front() {
                Some(Effect::Spawn(service, instance)) => {
                    starts += 1;
                    together.push((service, instance));
                    if starts == FIRST_STARTS && self.children.is_empty() {
                        self.spawn_all(&mut together);
                    }
                }
                // Between two starts: to those who listen it is the same whether it is said
                // before or after the fork.
                Some(Effect::Publish(service, happening)) => self.publish(service, happening),
                Some(effect) => {
                    self.spawn_all(&mut together);
                    if effect.weighs() {
                        self.remember();
                    }
                    self.perform_one(effect);
                }
                None if together.is_empty() && self.look_at_world() => {}
                None if together.is_empty() => break,
                None => self.spawn_all(&mut together),
            }
            if starts == STARTS_PER_TURN {
                self.spawn_all(&mut together);
                break;
            }
        }
        if self.effects.is_empty() {
            // After a boot of hundreds they are long, and copied with every fork.
            self.effects.shrink_to(EFFECTS_KEPT);
            self.fresh.shrink_to(EFFECTS_KEPT);
        }
        self.close_sockets();
        let now = self.now();
        if let Some(clients) = &mut self.clients {
            clients.flush(now, self.poll.registry());
        }
    }

    fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn(service, instance) => self.spawn_all(&mut vec![(service, instance)]),
            Effect::Signal(service, instance, signal, to) => {
                self.trees.signal(service, instance, signal, to);
            }
            Effect::Wake(service, instance, to) => self.trees.wake(service, instance, to),
            Effect::KillTree(service, instance) => self.trees.kill(service, instance),
            Effect::NotePorts(service, instance) => {
                let n = self.trees.note_ports(service, instance);
                self.feed(Event::PortsNoted(service, instance, n));
            }
            Effect::Run(service, instance, action, argv) => {
                self.run_command(service, instance, action, &argv);
            }
            Effect::Hook(service, instance, action, call) => {
                self.run_hook(service, instance, action, &call);
            }
            Effect::Verify(service, instance, action, argv) => {
                self.verify(service, instance, action, &argv);
            }
            Effect::Http(service, instance, action, http) => {
                self.request(service, instance, action, &http);
            }
            Effect::Probe(service, instance, action, probe) => {
                self.probe(service, instance, action, &probe);
            }
            Effect::NoteFile(service, instance, path) => {
                self.note_file(service, instance, &path);
            }
            Effect::Drain(service, instance, action, what) => {
                self.drain(service, instance, action, &what);
            }
            Effect::Watch(service, instance, limits) => {
                let now = self.now();
                self.drains.watch(service, instance, limits, now);
            }
            Effect::Limit(service, instance, what) => {
                let now = self.now();
                let key = (service, instance);
                let begun = self.drains.begin(&mut self.trees, key, None, &what, now);
                let lines = begun.unwrap_or_else(|why| vec![format!("cannot limit: {why}")]);
                for line in lines {
                    self.say_of(service, Severity::LOG_NOTICE, &line);
                }
            }
            Effect::LetGo(service, instance) => {
                // Of a tree that is dead nothing is found, and its sockets are superd's alone.
                let held = self.drains.held(service, instance);
                let (names, left) =
                    drain::remove_filters(&mut self.trees, service, instance, &held);
                if !names.is_empty() {
                    let text = format!("new connections to {names} are let in again");
                    self.say_of(service, Severity::LOG_NOTICE, &text);
                }
                if let Some(why) = left {
                    let text = format!("new connections may still be held back: {why}");
                    self.say_of(service, Severity::LOG_WARNING, &text);
                }
                let is_over = |s: &Service| matches!(s.state, State::Sweeping(_));
                let state = self.machine.service(service);
                if state.is_some_and(|s| is_over(s) && s.is_to_follow()) {
                    let now = self.now();
                    self.drains.keep_places(service, instance, now);
                } else {
                    self.drains.let_go(service, instance);
                }
            }
            Effect::EndAction(service, instance, action) => {
                self.end_action(service, instance, action);
            }
            Effect::WatchOutput(service, instance, text) => {
                self.logs.watch(service, instance, text);
            }
            Effect::Check(service, instance, check) => self.check(service, instance, check),
            Effect::Look(service, instance) => self.look(service, instance),
            Effect::LookOut(service, wait_for) => {
                self.world.look_out(service, wait_for, self.poll.registry());
            }
            Effect::WatchClock(wanted) => self.watch_clock(wanted),
            Effect::ReadClock => self.read_clock(),
            Effect::WatchFiles(service, watched) => self.watch_files(service, watched),
            Effect::Release(service, instance) => {
                self.last_words.retain(|(id, ..)| *id != service);
                self.drains.forget(service, instance);
                self.trees.release(service, instance);
                self.probes.release(service);
                self.close_sockets();
            }
            Effect::Forget(service) => self.forget(service),
            Effect::Reply(ticket, answer) => {
                self.close_sockets();
                self.answer(ticket, answer);
            }
            Effect::Publish(service, happening) => self.publish(service, happening),
            Effect::Finish => self.finish(),
        }
    }

    fn check(&mut self, service: ServiceId, instance: Instance, check: Check) {
        let found = match check {
            Check::Notify => {
                self.hear_notices();
                0
            }
            Check::Ports => {
                // The last look before "stopped" is said: dead is not enough, see below.
                self.reap_all();
                let mut held = self.drains.held(service, instance);
                held.extend(self.sockets.inodes(service));
                self.trees.ports_open(service, instance, &held)
            }
            Check::Descendants => match self.trees.descendants(service, instance) {
                Some(left) => left,
                None => return self.reap_again = true,
            },
            Check::Tree => match self.trees.alive(service, instance) {
                // Dead is not enough: "stopped" is said when they are reaped, too.
                Some(0) => {
                    self.reap();
                    u32::from(self.reap_again)
                }
                Some(left) => left,
                // The machine asks again, at the latest when the next orphan is reaped.
                None => return self.reap_again = true,
            },
            Check::Commands => {
                // What it has said is not taken for the service's words.
                self.drain_output(service);
                self.reap();
                self.trees.commands_alive(service)
            }
        };
        self.feed(Event::Checked(service, instance, check, Found(found)));
    }

    /// What is stuck in this tree. When many trees are to be killed at once, only the first
    /// ones are looked at: a KILL must not wait for that.
    fn look(&mut self, service: ServiceId, instance: Instance) {
        let most = STUCK_PROCESSES.min(self.looks_left);
        let stuck = match most {
            0 => Vec::new(),
            most => self.trees.look(service, instance, most),
        };
        // What was found is the smaller part of the work without cgroups.
        self.looks_left = self.looks_left.saturating_sub(stuck.len().max(2));
        self.feed(Event::Looked(service, instance, stuck));
    }

    /// Starts these, in this order, with one answer for each. One that fails does not
    /// concern the others.
    fn spawn_all(&mut self, together: &mut Vec<(ServiceId, Instance)>) {
        if together.is_empty() {
            return;
        }
        let mut ready = Vec::with_capacity(together.len());
        for (service, instance) in together.drain(..) {
            match self.make_ready(service, instance) {
                Ok(one) => ready.push(one),
                Err(error) => self.feed(Event::NotSpawned(service, instance, error)),
            }
        }
        // From here on it cannot be said that nothing was started.
        self.remember_starts(&ready);
        let (logs, probes) = (&self.logs, &self.probes);
        let notify = self.notify.as_ref().map(|n| n.path());
        let sockets = &self.sockets;
        let wanted = ready.iter().map(|r| Wanted {
            service: r.service,
            instance: r.instance,
            name: &r.name,
            program: &r.program,
            group: r.group.clone(),
            out: match r.program.output {
                Output::Log | Output::Ring | Output::File => logs.writer(r.service),
                Output::Null | Output::Inherit => None,
            },
            notify: notify.filter(|_| r.program.notify),
            ready: r
                .descriptor
                .and_then(|n| Some((probes.writer(r.service)?, n))),
            sockets: sockets.of(r.service),
        });
        let made = self.trees.start_all(wanted.collect());
        for (
            Ready {
                service, instance, ..
            },
            made,
        ) in ready.into_iter().zip(made)
        {
            match made {
                Ok(child) => self.note_child(service, instance, child),
                Err(error) => self.feed(Event::NotSpawned(service, instance, error)),
            }
        }
    }

    fn make_ready(&mut self, service: ServiceId, instance: Instance) -> Result<Ready, SpawnError> {
        let Some(program) = self.registry.program(service) else {
            return Err(failure(Stage::Fork, "", "it is not configured"));
        };
        let name = self.registry.name(service);
        if self.open_log(service, &name, &program)? {
            self.logs.begin(service, instance);
        }
        let line = self.open_ready_descriptor(service, instance, &name, true);
        line.map_err(|e| io_failure(Stage::Pipe, &e))?;
        let descriptor = self.ready_descriptor(service);
        self.sockets
            .prepare(service, &program.sockets)
            .map_err(|(address, e)| SpawnError {
                thing: format!("tcp://{address}"),
                ..io_failure(Stage::Socket, &e)
            })?;
        let mut without = Vec::new();
        let group = self.trees.place(service, &name, &program, &mut without)?;
        self.tell_without(service, without);
        self.trees.mark(service, &name);
        self.note_for_journal(service);
        Ok(Ready {
            service,
            instance,
            name,
            program,
            group,
            descriptor,
        })
    }

    /// Makes the pipe for its output, if it has one that superd reads.
    fn open_log(
        &mut self,
        service: ServiceId,
        name: &Rc<str>,
        program: &Program,
    ) -> Result<bool, SpawnError> {
        match program.output {
            Output::Log | Output::Ring | Output::File => {}
            Output::Null | Output::Inherit => return Ok(false),
        }
        let registry = self.poll.registry();
        let pipe = self.logs.open(registry, service, name, program.output);
        pipe.map_err(|e| io_failure(Stage::Pipe, &e))?;
        self.logs.set_file(service, program.log_file.as_ref());
        self.say_of_output();
        Ok(true)
    }

    fn note_child(&mut self, service: ServiceId, instance: Instance, child: Child) {
        let index = self.next_start;
        self.next_start = self.next_start.wrapping_add(1) & 0x0fff_ffff;
        let fd = child.status.as_raw_fd();
        let token = Source::Spawn(index).token();
        // Without a place in the poll set the exec is noticed at the exit only; that is
        // better than a process nobody knows of.
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), token, Interest::READABLE)
            .ok();
        let status = child.status;
        let start = Start {
            service,
            instance,
            status,
        };
        self.starts.insert(index, start);
        self.children
            .insert(child.pid, Role::Main(service, instance));
        self.feed(Event::Spawned(service, instance, Pid(child.pid)));
        // A fast exec may be known already.
    }

    fn tell_without(&mut self, service: ServiceId, without: Vec<SpawnError>) {
        for error in without {
            self.publish(service, Happening::Without { error });
        }
    }

    /// Says what is known of a start: executing, or failed. Nothing while it is pending.
    pub(super) fn hear_start(&mut self, index: u32) {
        let Some(start) = self.starts.get(&index) else {
            return;
        };
        let Some(program) = self.registry.program(start.service) else {
            return;
        };
        let (service, instance) = (start.service, start.instance);
        let mut without = Vec::new();
        let outcome = spawn::outcome(&start.status, &program, &program.command, &mut without);
        self.tell_without(service, without);
        let Some(result) = outcome else { return };
        self.starts.remove(&index); // closes the pipe, which also leaves the poll set
        match result {
            Ok(()) => self.feed(Event::Execed(service, instance)),
            Err(error) => self.feed(Event::ExecFailed(service, instance, error)),
        }
    }

    pub(super) fn run_command(
        &mut self,
        service: ServiceId,
        instance: Instance,
        action: ActionId,
        argv: &Rc<[String]>,
    ) {
        let out = self.output_of(service);
        self.run_command_into((service, instance, action), argv, out, &[]);
    }

    /// The service's own output, for a command of it.
    fn output_of(&self, service: ServiceId) -> Option<OwnedFd> {
        let out = self.logs.writer(service)?;
        out.try_clone_to_owned().ok()
    }

    /// Runs a hook. What it says is the service's output, also before the first start.
    fn run_hook(
        &mut self,
        service: ServiceId,
        instance: Instance,
        action: ActionId,
        call: &Rc<Call>,
    ) {
        let name = self.registry.name(service);
        if let Some(program) = self.registry.program(service) {
            // Without one, what it says is lost, and its status is not.
            self.open_log(service, &name, &program).ok();
        }
        match call.kind {
            Kind::OnCrash | Kind::PostStop => self.note_last_words(service, instance),
            Kind::PreStart | Kind::PostStart | Kind::PreStop => {}
        }
        let mut news = call.news.clone();
        news.push(("HOOK", call.kind.to_string()));
        if let Some(Pid(pid)) = self.machine.service(service).and_then(Service::pid) {
            news.push(("MAINPID", pid.to_string()));
        }
        let out = self.output_of(service);
        let of = (service, action);
        if self.trees.mark_command(of, &name, &call.argv).is_ok() {
            // Before there is a process: a successor has to find it.
            self.note_for_journal(service);
            self.remember();
        }
        self.run_command_into((service, instance, action), &call.argv, out, &news);
    }

    /// Runs a command that has this for its output; none: what superd's is.
    pub(super) fn run_command_into(
        &mut self,
        (service, instance, action): (ServiceId, Instance, ActionId),
        argv: &Rc<[String]>,
        out: Option<OwnedFd>,
        news: &[(&'static str, String)],
    ) {
        let Some(program) = self.registry.program(service) else {
            return;
        };
        let name = self.registry.name(service);
        let stdout = out.as_ref().map(AsFd::as_fd);
        let of = (service, action);
        let outcome = match self.trees.run(of, &name, &program, argv, stdout, news) {
            Ok(child) => {
                let command = Command {
                    service,
                    instance,
                    action,
                    argv: argv.clone(),
                };
                self.children
                    .insert(child.pid, Role::Command(command, child.status));
                self.note_for_journal(service);
                return;
            }
            Err(error) => Outcome::NotTried(error.to_string()),
        };
        self.checkers.end(action);
        self.feed(Event::ActionEnded(service, instance, action, outcome));
    }

    fn request(
        &mut self,
        service: ServiceId,
        instance: Instance,
        action: ActionId,
        http: &Rc<Http>,
    ) {
        let registry = self.poll.registry();
        let begun = self
            .actions
            .begin_http(registry, service, instance, action, http);
        if let Err(outcome) = begun {
            self.feed(Event::ActionEnded(service, instance, action, outcome));
        }
    }

    fn drain(
        &mut self,
        service: ServiceId,
        instance: Instance,
        action: ActionId,
        what: &Rc<Drain>,
    ) {
        let now = self.now();
        let begun = self.drains.begin(
            &mut self.trees,
            (service, instance),
            Some(action),
            what,
            now,
        );
        match begun {
            Ok(lines) => {
                for line in lines {
                    self.say_of(service, Severity::LOG_NOTICE, &line);
                }
            }
            Err(why) => {
                let outcome = Outcome::Impossible(format!("cannot drain: {why}"));
                self.feed(Event::ActionEnded(service, instance, action, outcome));
            }
        }
    }

    /// The sockets of services that are down, and the places of those that do not begin again:
    /// before that is said, and at the end of a turn.
    fn close_sockets(&mut self) {
        for service in self.sockets.services() {
            let is_down = |s: &Service| matches!(s.state, State::Down(_));
            if self.machine.service(service).is_none_or(is_down) {
                self.sockets.close(service);
            }
        }
        for service in self.drains.kept() {
            let state = self.machine.service(service);
            if !state.is_some_and(Service::is_to_follow) {
                self.drains.let_places_go(service);
            }
        }
    }

    /// A line about one service.
    pub(super) fn say_of(&mut self, service: ServiceId, severity: Severity, text: &str) {
        let line = format!("{}: {text}", self.registry.name(service));
        self.say(severity, &line);
    }

    /// Counts the open connections of what is drained.
    pub(super) fn look_at_drains(&mut self) {
        let clock = || Tick(sys::timer::monotonic());
        let mut said = Vec::new();
        let mut say = |service, line| said.push((service, line));
        let events = self.drains.look(&mut self.trees, clock, &mut say);
        for (service, line) in said {
            self.say_of(service, Severity::LOG_NOTICE, &line);
        }
        for event in events {
            self.feed(event);
        }
    }

    fn end_action(&mut self, service: ServiceId, instance: Instance, action: ActionId) {
        self.actions.cancel(action);
        self.checkers.end(action);
        self.drains.end_action(action);
        self.trees.kill_command(action);
        self.logs.unwatch(service, instance);
    }

    fn forget(&mut self, service: ServiceId) {
        if let Some(clients) = &mut self.clients {
            clients.end_streams(service);
        }
        self.logs.close(self.poll.registry(), service);
        self.history.forget(service);
        self.watches.watch(service, None, self.poll.registry());
        let name = self.registry.name(service);
        self.trees.forget(service, &name);
        self.forget_in_journal(service, &name);
        self.registry.forget(service);
    }

    /// Removes what superd made: sockets and cgroups. The run directory stays.
    pub fn clear_up(&mut self) {
        // First: what follows needs a descriptor, and this may be the last one.
        self.notify = None;
        self.dismiss_new_one();
        self.dismiss_packer();
        let now = self.now();
        self.crashes.flush(now);
        self.say_of_reports();
        if self.leaving {
            self.trees.leave();
        } else {
            self.trees.end();
            self.logs.remove_fifos();
            if let Some(journal) = &mut self.journal {
                journal.remove();
            }
        }
        self.clients = None;
        if let Some(run_dir) = &self.run_dir {
            remove(&run_dir.file("superd.sock"));
            remove(&run_dir.file("notify"));
            remove(&run_dir.file("pid"));
            remove(&run_dir.file("starting"));
        }
    }

    /// Wrap mode: what the child's exit was, as a shell says it.
    pub fn wrapped_status(&self) -> i32 {
        self.last_exit.map_or(127, |exit| exit.shell_status())
    }
}

fn remove(path: &Path) {
    std::fs::remove_file(path).ok(); // not there, or a read-only directory: nothing to do
}

fn failure(stage: Stage, thing: &str, cause: &str) -> SpawnError {
    SpawnError {
        stage,
        thing: thing.to_owned(),
        errno: 0,
        cause: cause.to_owned(),
    }
}

fn io_failure(stage: Stage, e: &std::io::Error) -> SpawnError {
    let errno = sys::errno_of(e);
    SpawnError {
        errno,
        ..failure(stage, "", sys::strerror(errno))
    }
}
