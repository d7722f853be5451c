//! What is asked and looked at to see whether a service is ready or well. What an answer
//! means, and when the next question is asked, the machine decides.
//!
//! Nothing here waits: connections and requests are `actions`, commands are processes like
//! those of a stop step, a file is one stat(2), a descriptor (s6's notification-fd) is a channel,
//! which outlives superd.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mio::{Registry, Token};

use super::channel::Channel;
use super::reactor::Reactor;
use super::token::Source;
use super::upgrade::state::Fds;
use crate::json::{FromJson, ToJson};
use crate::machine::event::{ActionId, Event, Instance, Notice, Outcome, ServiceId};
use crate::machine::ready::{Probe, Question, Sign};
use crate::map::Map;
use crate::sys::handover::Inherited;

/// An amount of memory in words.
struct Kib(u64);

impl fmt::Display for Kib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            kib @ 0..=1023 => write!(f, "{kib} KiB"),
            kib => write!(f, "{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024),
        }
    }
}

/// Which file it is, and since when it is as it is (stat(2)): a file of an earlier run that
/// was not removed is no sign of this one.
type Identity = (u64, u64, i64, i64);

fn identity(path: &str) -> Option<Identity> {
    let m = fs::metadata(path).ok()?;
    Some((m.dev(), m.ino(), m.ctime(), m.ctime_nsec()))
}

/// The descriptor by which a service says that it is ready.
struct Line {
    instance: Instance,
    channel: Channel,
}

/// What is remembered for probes.
#[derive(Default)]
pub struct Probes {
    /// Files as they were before a start.
    files: Map<ServiceId, (Instance, Option<Identity>)>,
    lines: Map<ServiceId, Line>,
}

impl Probes {
    fn note_file(&mut self, service: ServiceId, instance: Instance, path: &str) {
        self.files.insert(service, (instance, identity(path)));
    }

    /// Whether the file is there, and not as it was before this run.
    fn look(&self, service: ServiceId, instance: Instance, path: &str) -> Result<(), String> {
        let now = identity(path).ok_or_else(|| format!("{path} is not there"))?;
        let known = self.files.get(&service).filter(|(i, _)| *i == instance);
        match known {
            Some((_, Some(before))) if *before == now => {
                Err(format!("{path} is there, but from before the start"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Makes the descriptor of an instance. `fresh`: what an earlier one has left is removed.
    ///
    /// # Errors
    /// Of pipe2(2) and epoll_ctl(2).
    fn open(
        &mut self,
        registry: &Registry,
        home: Option<PathBuf>,
        service: ServiceId,
        instance: Instance,
        fresh: bool,
    ) -> io::Result<()> {
        self.lines.remove(&service);
        let channel = Channel::open(registry, token(service), home, fresh)?;
        self.lines.insert(service, Line { instance, channel });
        Ok(())
    }

    /// What the child gets.
    pub fn writer(&self, service: ServiceId) -> Option<BorrowedFd<'_>> {
        self.lines.get(&service)?.channel.writer()
    }

    /// Reads what is there: whose line has come to an end.
    fn hear(&mut self, service: ServiceId) -> Option<Instance> {
        let line = self.lines.get_mut(&service)?;
        let mut buf = [0; 256];
        // Bounded: who floods this descriptor has said it long since.
        for _ in 0..64 {
            match line.channel.read.read(&mut buf) {
                Ok(n) if buf.get(..n).unwrap_or_default().contains(&b'\n') => {
                    let instance = line.instance;
                    self.lines.remove(&service);
                    return Some(instance);
                }
                Ok(0) => return None,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None, // WouldBlock
            }
        }
        self.lines.remove(&service);
        None
    }

    /// For a superd that becomes another program.
    pub fn keep(&self, fds: &mut Fds) -> Kept {
        let mut line = |(service, line): (&ServiceId, &Line)| {
            let (read, path) = line.channel.keep(fds);
            KeptLine {
                service: *service,
                instance: line.instance,
                read,
                path,
            }
        };
        Kept {
            files: self.files.clone(),
            lines: self.lines.iter().map(&mut line).collect(),
        }
    }

    /// What [`Probes::keep`] said, in the new one.
    ///
    /// # Errors
    /// Of epoll_ctl(2), and where a descriptor is missing.
    pub fn kept(kept: Kept, left: &mut Inherited, registry: &Registry) -> io::Result<Probes> {
        let mut probes = Probes {
            files: kept.files,
            lines: Map::new(),
        };
        for line in kept.lines {
            let token = token(line.service);
            let channel = Channel::kept(line.read, line.path, left, registry, token)?;
            let instance = line.instance;
            probes
                .lines
                .insert(line.service, Line { instance, channel });
        }
        Ok(probes)
    }

    /// The instance is over.
    pub fn release(&mut self, service: ServiceId) {
        self.files.remove(&service);
        self.lines.remove(&service);
    }
}

/// What outlives a change of the program.
#[derive(Default, ToJson, FromJson)]
pub struct Kept {
    files: Map<ServiceId, (Instance, Option<Identity>)>,
    lines: Vec<KeptLine>,
}

#[derive(ToJson, FromJson)]
struct KeptLine {
    service: ServiceId,
    instance: Instance,
    read: i32,
    path: Option<PathBuf>,
}

fn token(service: ServiceId) -> Token {
    Source::Other(service.0 + 1).token()
}

/// Where the FIFO of a service's descriptor is.
fn path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.ready"))
}

impl Reactor {
    /// Asks. [`Event::ActionEnded`] follows, perhaps at once.
    pub(super) fn probe(
        &mut self,
        service: ServiceId,
        instance: Instance,
        action: ActionId,
        probe: &Rc<Probe>,
    ) {
        let memory = probe
            .memory
            .map(|most| (most, self.trees.memory_kib(service)));
        if let Some((most, used)) = memory.filter(|(most, used)| used > most) {
            let why = format!("its memory is {}, more than {}", Kib(used), Kib(most));
            self.feed(Event::ActionEnded(
                service,
                instance,
                action,
                Outcome::Unhappy(why),
            ));
            return;
        }
        let outcome = match &probe.what {
            Question::Memory => Outcome::Done,
            Question::Exec(argv) => {
                return self.run_command(service, instance, action, argv);
            }
            question @ (Question::Tcp(_) | Question::Http(..)) => {
                let registry = self.poll.registry();
                let begun = self
                    .actions
                    .begin_probe(registry, service, instance, action, question);
                match begun {
                    Ok(()) => return,
                    Err(outcome) => outcome,
                }
            }
            Question::File(path) => match self.probes.look(service, instance, path) {
                Ok(()) => Outcome::Done,
                Err(why) => Outcome::Impossible(why),
            },
        };
        self.feed(Event::ActionEnded(service, instance, action, outcome));
    }

    pub(super) fn note_file(&mut self, service: ServiceId, instance: Instance, path: &str) {
        self.probes.note_file(service, instance, path);
    }

    /// The number of the descriptor by which this service says that it is ready.
    pub(super) fn ready_descriptor(&self, service: ServiceId) -> Option<i32> {
        let ready = self.registry.def(service)?.policy.ready.as_ref()?;
        match ready.sign {
            Sign::Descriptor(n) => Some(n),
            Sign::Notify | Sign::Log(_) | Sign::Exit | Sign::After(_) | Sign::Probe(_) => None,
        }
    }

    /// Makes that descriptor, if there is to be one.
    ///
    /// # Errors
    /// Of pipe2(2) and epoll_ctl(2).
    pub(super) fn open_ready_descriptor(
        &mut self,
        service: ServiceId,
        instance: Instance,
        name: &str,
        fresh: bool,
    ) -> io::Result<()> {
        if self.ready_descriptor(service).is_none() {
            return Ok(());
        }
        let home = self.run_dir.as_ref().map(|d| path(d.path(), name));
        let registry = self.poll.registry();
        self.probes.open(registry, home, service, instance, fresh)
    }

    /// Something was written to the descriptor of this service.
    pub(super) fn hear_ready_descriptor(&mut self, service: ServiceId) {
        if let Some(instance) = self.probes.hear(service) {
            self.feed(Event::Notified(service, instance, Notice::Ready));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const X: ServiceId = ServiceId(3);

    #[test]
    fn a_file_that_was_there_before_the_start_is_no_sign() {
        let path = std::env::temp_dir().join(format!("superd-probes-{}", std::process::id()));
        let name = path.to_str().unwrap();
        let mut probes = Probes::default();
        fs::remove_file(&path).ok();
        probes.note_file(X, Instance(1), name);
        assert_eq!(
            probes.look(X, Instance(1), name),
            Err(format!("{name} is not there"))
        );
        fs::write(&path, "1").unwrap();
        assert_eq!(probes.look(X, Instance(1), name), Ok(()));
        probes.note_file(X, Instance(2), name);
        assert_eq!(
            probes.look(X, Instance(2), name),
            Err(format!("{name} is there, but from before the start"))
        );
        // Another one of the same name.
        let other = path.with_extension("new");
        fs::write(&other, "2").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(probes.look(X, Instance(2), name), Ok(()));
        // After an adoption nobody knows how it was before.
        probes.release(X);
        assert_eq!(probes.look(X, Instance(2), name), Ok(()));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_descriptor_says_it_with_a_line_and_is_bounded() {
        use std::io::Write;
        let dir = std::env::temp_dir().join(format!("superd-lines-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let poll = mio::Poll::new().unwrap();
        let mut probes = Probes::default();
        let home = path(&dir, "web");
        let open = |probes: &mut Probes, fresh| {
            let home = Some(home.clone());
            probes
                .open(poll.registry(), home, X, Instance(1), fresh)
                .unwrap();
            File::from(probes.writer(X).unwrap().try_clone_to_owned().unwrap())
        };
        let mut child = open(&mut probes, true);
        assert_eq!(probes.hear(X), None);
        child.write_all(b"rea").unwrap();
        assert_eq!(probes.hear(X), None);
        child.write_all(b"dy\n").unwrap();
        assert_eq!(probes.hear(X), Some(Instance(1)));
        assert!(!dir.join("web.ready").exists());
        child.write_all(b"again\n").unwrap(); // and nobody minds
                                              // The next superd finds what was said while nobody was there; the next start does not.
        let mut child = open(&mut probes, true);
        let kept = std::mem::take(&mut probes.lines);
        child.write_all(b"\n").unwrap();
        let mut next = Probes::default();
        drop(open(&mut next, false));
        assert_eq!(next.hear(X), Some(Instance(1)));
        drop(kept);
        let mut child = open(&mut probes, true);
        child.write_all(&[b'x'; 60_000]).unwrap();
        assert_eq!(probes.hear(X), None);
        assert!(probes.writer(X).is_none(), "a flood is not read to its end");
        fs::remove_dir_all(&dir).unwrap();
    }
}
