//! What the checkers of services say (`check`): the end of it, for the reason why one is not
//! happy. Of one that is happy nothing is kept.
//!
//! A checker's output is a channel, which outlives superd. It is read as it comes, so that no
//! checker waits for a reader, however much it has to say.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mio::{Registry, Token};

use super::channel::Channel;
use super::reactor::Reactor;
use super::token::Source;
use super::upgrade::state::{Bytes, Fds};
use crate::json::{FromJson, ToJson};
use crate::machine::event::{ActionId, Instance, Outcome, ServiceId};
use crate::map::Map;
use crate::sys::handover::Inherited;

/// So many bytes of the end of its output are kept.
const KEPT: usize = 4096;

/// A reason has so many lines of it at most, and so many bytes: it is one line of the log.
const LINES: usize = 5;
const BYTES: usize = 700;

/// Reads of 4 KiB in one turn of the loop.
const READS: usize = 64;

/// One that is at work.
struct Checker {
    action: ActionId,
    channel: Channel,
    end: Vec<u8>,
}

impl Checker {
    /// Reads what is there, up to what a pipe can hold: who waits for room in it writes on
    /// after that, which is news again.
    fn read(&mut self) {
        let mut buf = [0; 4096];
        for _ in 0..READS {
            match self.channel.read.read(&mut buf) {
                Ok(0) => return,
                Ok(n) => {
                    self.end.extend_from_slice(buf.get(..n).unwrap_or_default());
                    let surplus = self.end.len().saturating_sub(KEPT);
                    self.end.drain(..surplus);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return, // WouldBlock
            }
        }
    }
}

/// All that are at work.
#[derive(Default)]
pub struct Checkers(Map<ServiceId, Checker>);

/// What outlives a change of the program.
#[derive(ToJson, FromJson)]
pub struct Kept {
    service: ServiceId,
    action: ActionId,
    read: i32,
    path: Option<PathBuf>,
    end: Bytes,
}

impl Checkers {
    /// Makes the output of one. `fresh`: what an earlier one has left is removed.
    ///
    /// # Errors
    /// Of pipe2(2) and epoll_ctl(2).
    fn open(
        &mut self,
        registry: &Registry,
        home: Option<PathBuf>,
        service: ServiceId,
        action: ActionId,
        fresh: bool,
    ) -> io::Result<()> {
        self.0.remove(&service);
        let checker = Checker {
            action,
            channel: Channel::open(registry, token(service), home, fresh)?,
            end: Vec::new(),
        };
        self.0.insert(service, checker);
        Ok(())
    }

    fn writer(&self, service: ServiceId) -> Option<BorrowedFd<'_>> {
        self.0.get(&service)?.channel.writer()
    }

    /// The child has its end.
    fn is_given(&mut self, service: ServiceId) {
        if let Some(checker) = self.0.get_mut(&service) {
            checker.channel.is_given();
        }
    }

    /// It has said something.
    pub fn hear(&mut self, service: ServiceId) {
        if let Some(checker) = self.0.get_mut(&service) {
            checker.read();
        }
    }

    /// It is over; what it said last, in one line.
    fn last_words(&mut self, action: ActionId) -> Option<String> {
        let is_it = |(_, c): &(&ServiceId, &Checker)| c.action == action;
        let service = *self.0.iter().find(is_it)?.0;
        let mut checker = self.0.remove(&service)?;
        checker.read();
        Some(in_a_line(&checker.end))
    }

    /// It is no longer needed.
    pub fn end(&mut self, action: ActionId) {
        self.0.retain(|_, c| c.action != action);
    }

    /// For a superd that becomes another program.
    pub fn keep(&self, fds: &mut Fds) -> Vec<Kept> {
        let mut keep = |(service, c): (&ServiceId, &Checker)| {
            let (read, path) = c.channel.keep(fds);
            Kept {
                service: *service,
                action: c.action,
                read,
                path,
                end: Bytes(c.end.clone()),
            }
        };
        self.0.iter().map(&mut keep).collect()
    }

    /// What [`Checkers::keep`] said, in the new one.
    ///
    /// # Errors
    /// Of epoll_ctl(2), and where a descriptor is missing.
    pub fn kept(
        kept: Vec<Kept>,
        left: &mut Inherited,
        registry: &Registry,
    ) -> io::Result<Checkers> {
        let mut checkers = Checkers::default();
        for c in kept {
            let checker = Checker {
                action: c.action,
                channel: Channel::kept(c.read, c.path, left, registry, token(c.service))?,
                end: c.end.0,
            };
            checkers.0.insert(c.service, checker);
        }
        Ok(checkers)
    }
}

fn token(service: ServiceId) -> Token {
    Source::Checker(service.0).token()
}

/// Where the FIFO is.
fn path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.check"))
}

/// The last lines of it, oldest first, in one; without what a terminal would obey.
fn in_a_line(end: &[u8]) -> String {
    let text = String::from_utf8_lossy(end);
    let mut lines: Vec<String> = Vec::new();
    let mut left = BYTES;
    for line in text.lines().rev() {
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let line: String = line.chars().take(left / 4).collect();
        left = left.saturating_sub(line.len() + 3);
        lines.push(line);
        if lines.len() == LINES || left < 80 {
            break;
        }
    }
    lines.reverse();
    lines.join(" | ")
}

impl Reactor {
    /// Runs a checker. [`crate::machine::event::Event::ActionEnded`] follows.
    pub(super) fn verify(
        &mut self,
        service: ServiceId,
        instance: Instance,
        action: ActionId,
        argv: &Rc<[String]>,
    ) {
        self.open_checker(service, action, true);
        let out = self
            .checkers
            .writer(service)
            .map(|w| w.try_clone_to_owned());
        // Without one, what it says is lost, and its status is not.
        let out = out.and_then(Result::ok);
        self.run_command_into((service, instance, action), argv, out, &[]);
        self.checkers.is_given(service);
    }

    /// Makes the output of a checker, or finds it again.
    pub(super) fn open_checker(&mut self, service: ServiceId, action: ActionId, fresh: bool) {
        let name = self.registry.name(service);
        let home = self.run_dir.as_ref().map(|d| path(d.path(), &name));
        let registry = self.poll.registry();
        self.checkers
            .open(registry, home, service, action, fresh)
            .ok(); // no descriptor is left: the status has to do
        if !fresh {
            self.checkers.is_given(service);
        }
    }

    /// How an action went, with what its checker said, if it is one.
    pub(super) fn with_last_words(&mut self, action: ActionId, outcome: Outcome) -> Outcome {
        match (self.checkers.last_words(action), outcome) {
            (Some(words), Outcome::Unhappy(why)) if !words.is_empty() => {
                Outcome::Unhappy(format!("{why}: {words}"))
            }
            (_, outcome) => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn the_last_lines_are_told_in_one() {
        assert_eq!(in_a_line(b""), "");
        assert_eq!(in_a_line(b"\n\nError: no\n"), "Error: no");
        let many = b"1\n2\n3\n4\r\n\n5\n6\x1b[0m\n7";
        assert_eq!(in_a_line(many), "3 | 4 | 5 | 6[0m | 7");
        let long = in_a_line("\u{e9}".repeat(5000).as_bytes());
        assert!(!long.is_empty() && long.len() <= BYTES, "{}", long.len());
    }

    #[test]
    fn a_flood_is_read_on_and_its_end_is_kept() {
        let poll = mio::Poll::new().unwrap();
        let mut checkers = Checkers::default();
        let (x, a) = (ServiceId(3), ActionId(7));
        checkers.open(poll.registry(), None, x, a, true).unwrap();
        let mut child = File::from(checkers.writer(x).unwrap().try_clone_to_owned().unwrap());
        for n in 0..100 {
            child.write_all(&[b'x'; 4000]).unwrap();
            child.write_all(format!("\nline {n}\n").as_bytes()).unwrap();
            checkers.hear(x);
        }
        assert_eq!(checkers.last_words(ActionId(8)), None);
        let words = checkers.last_words(a).unwrap();
        assert!(words.ends_with("| line 99"), "{words}");
        assert_eq!(checkers.last_words(a), None);
    }
}
