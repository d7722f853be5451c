//! What outlives superd, from both ends: this superd writes the journal, the next one goes
//! on from it.
//!
//! Nobody is taken for an instance because a journal says so. The pidfd is opened, then the
//! start time is compared; from then on the pidfd is watched, because what another superd
//! has started is no child of ours. What was being started and has no number yet is found
//! by its cgroup or its mark. What is not there is told to the machine as gone, and its
//! policy decides.
//!
//! Longer than a file should be: what is written and what is made of it are held against each other.

use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::Interest;
use syslog::Severity;

use super::journal::{self, Begin, Entry, Found, Head, Item, Journal, Left, Place, Running};
use super::keep::Again;
use super::perform::Ready;
use super::reactor::{Followed, Reactor, Role};
use super::rundir::plain;
use super::token::Source;
use super::trees::{Main, Trees};
use crate::config::model::{Config, Made, Output, ServiceDef};
use crate::machine::event::{
    ActionId, Adopted, Event, Instance, Outcome, Pid, Presence, ServiceId,
};
use crate::machine::memory::{Begun, Memory};
use crate::machine::report::Exit;
use crate::machine::service::State;
use crate::machine::supervisor::Supervisor;
use crate::map::{Map, Set};
use crate::sys::pidfd::PidFd;
use crate::sys::proc;

/// What is not urgent is written down within this time. Longer than a boot takes: to write of
/// those who run would make those wait who do not yet.
const WRITE_WITHIN: Duration = Duration::from_millis(250);

/// Between two looks at an adopted process where there are no pidfds.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Tokens of adopted commands; those of main processes are the numbers of services.
const COMMAND: u32 = 0x0800_0000;

/// A command of an earlier superd that still runs.
pub(super) struct AdoptedCommand {
    pub service: ServiceId,
    pub instance: Instance,
    pub action: ActionId,
    pub program: String,
    pub held: PidFd,
}

/// What it means that the journal cannot be written.
pub(super) fn unwritten(why: &str) -> String {
    format!(
        "the journal cannot be written: {why}; if superd is killed now, the next one finds \
         services by cgroup or mark only, and knows of no stop under way"
    )
}

impl Reactor {
    // ---- for the next superd -------------------------------------------------

    /// The end of a turn: what happened is written down. While programs are on their way to
    /// be executed that can wait: with its mark each of them is found.
    pub(super) fn remember_soon(&mut self) {
        let is_unsaved = self.journal.as_ref().is_some_and(Journal::is_unsaved);
        if !self.machine.is_touched() && !is_unsaved {
            return;
        }
        let now = self.now();
        let due = *self.remember_at.get_or_insert(now + WRITE_WITHIN);
        let is_starting = !self.starts.is_empty() || !self.effects.is_empty();
        if !is_starting || due <= now || self.journal.is_none() {
            self.remember();
        }
    }

    /// Writes down what is about to be started.
    pub(super) fn remember_starts(&mut self, ready: &[Ready]) {
        let mut starts = Vec::with_capacity(ready.len());
        for one in ready {
            let service = self.machine.service(one.service);
            let begun = service.and_then(|s| Begun::of(s, one.instance));
            let place = self.trees.journal(one.service, false);
            // In the middle of something else: all of it has to be written.
            let (Some(begun), Some(place)) = (begun, place) else {
                return self.remember();
            };
            starts.push(Begin {
                name: Rc::clone(&one.name),
                begun,
                place,
                program: Some(journal::fingerprint(&one.program)),
            });
        }
        let Some(journal) = &mut self.journal else {
            return;
        };
        if !journal.begin(&starts, ready.iter().map(|r| r.service)) {
            self.remember();
        }
    }

    /// Writes down what has changed.
    pub(super) fn remember(&mut self) {
        self.remember_at = None;
        let Some(journal) = &mut self.journal else {
            self.machine.take_touched(); // nobody wants to know
            return;
        };
        if !self.machine.is_touched() && !journal.is_unsaved() {
            return;
        }
        let mut ids = self.machine.take_touched();
        ids.extend(journal.take_unsaved());
        let all = journal.wants_all();
        if all {
            ids = self.machine.services().map(|s| s.id).collect();
        }
        let mut commands = self.commands_of(&ids);
        let (machine, registry, trees) = (&self.machine, &self.registry, &mut self.trees);
        let items = ids.into_iter().filter_map(|id| {
            let commands = commands.remove(&id).unwrap_or_default();
            Some(Item {
                id,
                def: registry.def(id)?,
                entry: entry(machine, trees, id, commands)?,
            })
        });
        let Some(journal) = &mut self.journal else {
            return;
        };
        let is_news = journal.write(items, all);
        let failing = journal.failing().map(str::to_owned);
        let now = self.now();
        let was_failing = self.journal_again.is_some();
        self.journal_again = match self.journal_again {
            _ if failing.is_none() => None,
            Some(again) if again.at > now => Some(again),
            before => Some(Again::after(before, now)),
        };
        match failing {
            Some(why) if is_news => self.say(Severity::LOG_ERR, &unwritten(&why)),
            None if was_failing => self.say(Severity::LOG_NOTICE, "the journal is written again"),
            Some(_) | None => {}
        }
    }

    fn commands_of(&mut self, ids: &Set<ServiceId>) -> Map<ServiceId, Vec<Running>> {
        let mut found: Map<ServiceId, Vec<Running>> = Map::new();
        let own = self.children.values().filter_map(|role| match role {
            Role::Command(c, _) => Some((c.service, c.action, c.argv.first().cloned())),
            Role::Main(..) | Role::NewOne(_) | Role::Packer => None,
        });
        let adopted = self.adopted_commands.values();
        let adopted = adopted.map(|c| (c.service, c.action, Some(c.program.clone())));
        for (service, action, program) in own.chain(adopted) {
            if !ids.contains(&service) {
                continue;
            }
            if let Some(place) = self.trees.journal_command(action) {
                found.entry(service).or_default().push(Running {
                    action,
                    program: program.unwrap_or_default(),
                    place,
                });
            }
        }
        if let Some((service, action, program, place)) = self.trees.marked_command() {
            found.entry(service).or_default().push(Running {
                action,
                program,
                place,
            });
        }
        found
    }

    /// The journal's part of [`crate::machine::event::Effect::Forget`].
    pub(super) fn forget_in_journal(&mut self, id: ServiceId, name: &str) {
        if let Some(journal) = &mut self.journal {
            journal.forget(id, name);
            journal.note(id); // so that it is written
        }
    }

    /// Something about the service changed that the machine does not know.
    pub(super) fn note_for_journal(&mut self, id: ServiceId) {
        if let Some(journal) = &mut self.journal {
            journal.note(id);
        }
    }

    // ---- from the one before ---------------------------------------------------

    /// Takes over what an earlier superd has left, before the configuration is; returns that
    /// with the instances of templates that somebody had asked for.
    pub(super) fn take_over(&mut self, config: Config) -> Config {
        let (mut config, left) = self.what_is_left(config);
        if let Some(left) = left {
            let asked = |(name, (def, _)): (&String, &(ServiceDef, Entry))| {
                (def.made == Made::Asked).then(|| name.clone())
            };
            let asked = left.services.iter().filter_map(asked).collect();
            config = self.make_again(config, asked);
            self.adopt_all(left);
        }
        config
    }

    fn what_is_left(&mut self, mut config: Config) -> (Config, Option<Left>) {
        let Some(run_dir) = &self.run_dir else {
            return (config, None);
        };
        let stale = run_dir.is_stale();
        let path = run_dir.file("journal");
        self.say_of_output();
        let head = match Head::of_this_process() {
            Ok(head) => head,
            Err(why) => {
                let text = format!(
                    "no journal is kept, because the boot id cannot be read: {why}; if superd is \
                     killed, the next one may start a second instance of a service"
                );
                self.say(Severity::LOG_WARNING, &text);
                return (config, None);
            }
        };
        let found = journal::read(&path, &head);
        if stale || !matches!(found, Found::Nothing) {
            self.trees.note_reapers(proc::ancestors());
        }
        self.journal = Some(Journal::new(path.clone(), head));
        if let (Some(journal), false) = (&mut self.journal, matches!(found, Found::Nothing)) {
            journal.inherit();
        }
        let strangers = match found {
            Found::Nothing => stale,
            Found::Lost => true,
            Found::Bad(why) => {
                let (shown, aside) = (path.display(), journal::set_aside(&path));
                let now = match aside {
                    Ok(to) => format!("it is {} now", to.display()),
                    Err(e) => format!("and cannot be renamed: {}", plain(&e)),
                };
                let text = format!("{shown} is not used: {why}; {now}");
                self.say(Severity::LOG_ERR, &text);
                true
            }
            Found::Left(mut left) => {
                self.trees.note_reapers(left.reapers.iter().copied());
                let begun = left.begun.iter().map(|(entry, _)| entry.name.clone());
                config = self.make_again(config, begun.collect());
                for (entry, program) in std::mem::take(&mut left.begun) {
                    let is_sound =
                        |d: &&ServiceDef| entry.memory.fault(&d.spec(|_| None)).is_none();
                    match config.services.get(&entry.name).filter(is_sound) {
                        Some(def) => {
                            let name = entry.name.clone();
                            let def = as_begun(def, program);
                            left.services.insert(name, (def, entry));
                        }
                        None => self.leave_alone(&entry.name),
                    }
                }
                return (config, Some(left));
            }
        };
        match strangers {
            true => self.strangers(config),
            false => (config, None),
        }
    }

    fn adopt_all(&mut self, left: Left) {
        let (defs, entries): (Map<_, _>, Vec<_>) = left
            .services
            .into_iter()
            .map(|(name, (def, entry))| ((name, def), entry))
            .unzip();
        let outputs: Map<String, Output> = defs
            .iter()
            .map(|(name, def)| (name.clone(), def.program.output))
            .collect();
        let specs: Map<ServiceId, _> = self
            .registry
            .recall(defs)
            .changed
            .into_iter()
            .map(|(id, spec, _)| (id, spec))
            .collect();
        let (mut adopted, mut gone) = (0, 0);
        for entry in entries {
            let Some(id) = self.registry.id(&entry.name) else {
                continue;
            };
            let Some(spec) = specs.get(&id).cloned() else {
                continue;
            };
            let output = outputs.get(&entry.name).copied().unwrap_or(Output::Null);
            let found = self.find_instance(id, &entry, output);
            if entry.memory.is_of_instance() {
                match found {
                    Presence::Running(_) => adopted += 1,
                    Presence::Gone { .. } => gone += 1,
                }
            }
            let (instance, memory) = (entry.memory.instance(), entry.memory);
            let actions: Vec<ActionId> = memory.actions().collect();
            let checker = memory.checker();
            self.feed(Event::Adopt(Box::new(Adopted {
                service: id,
                spec,
                memory,
                found,
            })));
            let alive = self.adopt_commands(id, instance, &entry.commands, &actions);
            if let Some(action) = checker.filter(|a| alive.contains(a)) {
                self.open_checker(id, action, false);
            }
            for action in actions.into_iter().filter(|a| !alive.contains(a)) {
                let text = "it was under way when superd was killed; how it ended is not known";
                self.resumed.push(Event::ActionEnded(
                    id,
                    instance,
                    action,
                    Outcome::Unhappy(text.to_owned()),
                ));
            }
        }
        let text = format!(
            "going on from an earlier superd: {adopted} services adopted, {gone} gone meanwhile"
        );
        self.say(Severity::LOG_NOTICE, &text);
    }

    /// What is there of a service.
    fn find_instance(&mut self, id: ServiceId, entry: &Entry, output: Output) -> Presence {
        let gone = |crash, left| Presence::Gone { crash, left };
        let instance = entry.memory.instance();
        if !entry.memory.is_of_instance() {
            return gone(None, Some(0));
        }
        if entry.memory.is_awaited() {
            // Else it becomes ready by the end of its time.
            self.open_ready_descriptor(id, instance, &entry.name, false)
                .ok();
        }
        let Some(place) = &entry.place else {
            if entry.memory.is_in_hook() {
                self.open_output(id, &entry.name, output, instance, None);
            }
            return gone(None, Some(0));
        };
        let main = match (entry.memory.is_unborn(), entry.memory.is_reaped()) {
            (_, true) => Main::Gone,
            (true, false) => Main::ToBeFound,
            (false, false) => Main::Noted,
        };
        let main = self.hold_adopted(id, &entry.name, instance, place, main);
        self.open_output(id, &entry.name, output, instance, main);
        if let Some(pid) = main {
            if let Some(program) = self.registry.program(id) {
                self.sockets
                    .adopt(&mut self.trees, id, instance, &program.sockets);
            }
            return Presence::Running(pid);
        }
        self.drain_output(id);
        let crash = self.logs.crash(id, Exit::Unknown, self.now());
        gone(crash, self.trees.alive(id, instance))
    }

    /// The FIFO as it was left: what is in it is read on.
    fn open_output(
        &mut self,
        id: ServiceId,
        name: &str,
        output: Output,
        instance: Instance,
        main: Option<Pid>,
    ) {
        if let Output::Log | Output::Ring | Output::File = output {
            let (name, registry) = (name.into(), self.poll.registry());
            let opened = self.logs.adopt(registry, id, &name, output, main);
            // The next start tries again and says why.
            if opened.is_ok() {
                let program = self.registry.program(id);
                let file = program.as_ref().and_then(|p| p.log_file.as_ref());
                self.logs.set_file(id, file);
                self.logs.begin(id, instance);
            }
            self.say_of_output();
        }
    }

    /// Where output goes outlives superd; why not, if it does not.
    pub(super) fn say_of_output(&mut self) {
        if let Some(carry) = self.logs.take_carry() {
            self.sink.set_carry(Some(carry));
        }
        if let Some(text) = self.logs.take_complaint() {
            self.say(Severity::LOG_WARNING, &text);
        }
        for text in self.logs.take_said() {
            self.say(Severity::LOG_WARNING, &text);
        }
    }

    fn hold_adopted(
        &mut self,
        id: ServiceId,
        name: &str,
        instance: Instance,
        place: &Place,
        main: Main,
    ) -> Option<Pid> {
        if let Some(program) = self.registry.program(id) {
            for error in self.trees.limit_adopted(name, place, &program.confine) {
                let text = format!("service \"{name}\": adopting: {error}");
                self.say(Severity::LOG_WARNING, &text);
            }
        }
        let main = self.trees.adopt(id, name, instance, place, main)?;
        let pid = main.pid;
        let Some(held) = main.held else {
            self.unheld.insert(id, instance);
            self.look_at_unheld = Some(self.now() + LOOK_AGAIN);
            return Some(pid);
        };
        let token = Source::Process(id.0).token();
        // Without a place in the poll set its end would be noticed at the next stop only; it
        // is registered once at the start, when there is room.
        self.poll
            .registry()
            .register(&mut SourceFd(&held.as_raw_fd()), token, Interest::READABLE)
            .ok();
        self.followed.insert(id, Followed { instance, held });
        Some(pid)
    }

    /// Adopted main processes that cannot be held are looked at from time to time.
    pub(super) fn look_at_unheld(&mut self) {
        for (service, instance) in self.unheld.clone() {
            let known = self.machine.service(service);
            let runs = known.is_some_and(|s| s.is_current(instance) && s.run().is_some());
            if runs && self.trees.is_main_alive(service) {
                continue;
            }
            self.unheld.remove(&service);
            if runs {
                self.unheld_ended(service, instance);
            }
        }
        let again = (!self.unheld.is_empty()).then(|| self.now() + LOOK_AGAIN);
        self.look_at_unheld = again;
    }

    /// The commands that still run.
    fn adopt_commands(
        &mut self,
        service: ServiceId,
        instance: Instance,
        commands: &[Running],
        wanted: &[ActionId],
    ) -> Vec<ActionId> {
        let mut alive = Vec::new();
        for command in commands {
            let action = command.action;
            let Some(held) = self.trees.adopt_command(service, action, &command.place) else {
                continue;
            };
            if !wanted.contains(&action) {
                // Its end was ordered already.
                self.trees.kill_command(action);
            }
            alive.push(action);
            let slot = COMMAND | (action.0 & u64::from(COMMAND - 1)) as u32;
            let token = Source::Process(slot).token();
            self.poll
                .registry()
                .register(&mut SourceFd(&held.as_raw_fd()), token, Interest::READABLE)
                .ok(); // its step ends by its time limit
            let command = AdoptedCommand {
                service,
                instance,
                action,
                program: command.program.clone(),
                held,
            };
            self.adopted_commands.insert(slot, command);
        }
        alive
    }

    /// A pidfd says that its process has ended.
    pub(super) fn process_ended(&mut self, index: u32) {
        if index & COMMAND == 0 {
            return self.followed_ended(ServiceId(index));
        }
        let has_ended = |c: &AdoptedCommand| c.held.has_ended();
        if !self.adopted_commands.get(&index).is_some_and(has_ended) {
            return;
        }
        let Some(command) = self.adopted_commands.remove(&index) else {
            return;
        };
        let start = self.trees.command_start(command.action);
        let exit = self.exit_of_stranger(&command.held, start);
        self.trees.command_over(command.action);
        let outcome = match exit {
            Exit::Code(0) => Outcome::Done,
            exit => Outcome::Unhappy(format!("{}: {exit}", command.program)),
        };
        let outcome = self.with_last_words(command.action, outcome);
        let AdoptedCommand {
            service,
            instance,
            action,
            ..
        } = command;
        self.feed(Event::ActionEnded(service, instance, action, outcome));
    }

    /// What was started by a superd that could not write it down: services that run are
    /// adopted as they are.
    fn strangers(&mut self, config: Config) -> (Config, Option<Left>) {
        let mut marked = self.trees.marked();
        let mut names: Vec<String> = marked.keys().cloned().collect();
        names.extend(self.trees.group_names());
        let config = self.make_again(config, names);
        let mut entries = Map::new();
        let now = self.now();
        for (name, def) in &config.services {
            let group = self.trees.populated_group(name);
            let by_mark = marked.remove(name);
            if group.is_none() && by_mark.is_none() {
                continue;
            }
            let place = Place {
                main: None,
                leader: 0,
                cookie: by_mark.map_or_else(String::new, |(cookie, _)| cookie),
                group: group.map(|g| g.path().to_owned()),
                ports: Vec::new(),
            };
            let entry = Entry {
                name: name.clone(),
                memory: Memory::of_stranger(now),
                place: Some(place),
                commands: Vec::new(),
            };
            entries.insert(name.clone(), (def.clone(), entry));
        }
        for name in marked.keys() {
            self.leave_alone(name);
        }
        let left = (!entries.is_empty()).then(|| Left {
            services: entries,
            ..Left::default()
        });
        (config, left)
    }

    fn leave_alone(&mut self, name: &str) {
        let text = format!(
            "{name}: an earlier superd has started it, and it is neither configured nor \
             defined in the journal: what of it runs is left alone"
        );
        self.say(Severity::LOG_WARNING, &text);
    }
}

/// The definition of a service that was started by it, or by another one, of which no more
/// is known than that it is another: so the configuration changes it.
fn as_begun(now: &ServiceDef, program: Option<u64>) -> ServiceDef {
    let mut def = now.clone();
    if program.is_some_and(|was| was != journal::fingerprint(&now.program)) {
        Rc::make_mut(&mut def.program).command = vec!["(as it was configured)".to_owned()];
    }
    def
}

fn entry(
    machine: &Supervisor,
    trees: &mut Trees,
    id: ServiceId,
    commands: Vec<Running>,
) -> Option<Entry> {
    let service = machine.service(id)?;
    // Of one that is just being started it can be read later as well.
    let look = match &service.state {
        State::Starting(run) => run.awaits.as_ref().is_some_and(|w| w.executing),
        _ => true,
    };
    Some(Entry {
        name: service.spec.name.to_string(),
        memory: Memory::of(service),
        place: trees.journal(id, look),
        commands,
    })
}
