//! The state that a superd leaves to the program which it becomes: two lines of JSON in a file
//! in memory. The first names version, boot, pid namespace, process and descriptors; the
//! second is everything. Definitions, memories and trees are written as in the journal; what
//! only an upgrade can keep is added: rings, history, connections, who waits for what.
//!
//! Keys that are not known are ignored, those that are new have a default. What a superd of
//! another version cannot go on from by that gets another version number.
//!
//! (Past 400 lines because it is a list of everything that superd has.)

use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::control::reply::EventLine;
use crate::daemon::crashes::Crashes;
use crate::daemon::journal;
use crate::daemon::logs::KeptLog;
use crate::daemon::registry::Registry;
use crate::daemon::sockets;
use crate::daemon::{actions, checkers, clients, notify, probes, signals, trees};
use crate::json::{self, Fault, FromJson, Node, Place, ToJson, Writer};
use crate::machine::event::{ActionId, Instance, ServiceId, Ticket};
use crate::machine::keep::Whole;
use crate::machine::report::Origin;
use crate::machine::time::Tick;
use crate::map::Map;

/// Of the format. Another one is not read.
pub const VERSION: u32 = 1;

/// A state may be this long: a thousand services with rings of 64 KiB.
const CAP: u64 = 128 << 20;

/// The descriptors that the state speaks of.
#[derive(Debug, Default)]
pub struct Fds(Vec<i32>);

impl Fds {
    /// This one is to be there in the next program; its number.
    pub fn pass(&mut self, fd: &impl AsRawFd) -> i32 {
        let number = fd.as_raw_fd();
        self.0.push(number);
        number
    }

    /// All of them.
    pub fn numbers(&self) -> &[i32] {
        &self.0
    }
}

/// Bytes that are mostly text: a string where they are UTF-8, else a list of numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bytes(pub Vec<u8>);

impl ToJson for Bytes {
    fn write(&self, to: &mut Writer<'_>) {
        match std::str::from_utf8(&self.0) {
            Ok(text) => to.text(text),
            Err(_) => self.0.write(to),
        }
    }
}

impl FromJson for Bytes {
    fn blank() -> Bytes {
        Bytes(Vec::new())
    }
}

impl Place for Bytes {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        match from.text() {
            Ok(text) => self.0 = text.into_owned().into_bytes(),
            Err(_) => self.0.read(from)?,
        }
        Ok(())
    }
}

/// The first line.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Head {
    /// [`VERSION`].
    #[serde(rename = "superd-state")]
    pub version: u32,
    /// The version of the superd that has written it, for people.
    pub by: String,
    /// As in the journal.
    pub boot: String,
    /// As in the journal.
    pub pids: String,
    /// The process that it is for.
    pub pid: u32,
    /// Descriptors that are there.
    pub fds: Vec<i32>,
}

/// A start whose execve(2) has not been reported yet.
#[derive(ToJson, FromJson)]
pub struct Starting {
    /// Index in its token.
    pub index: u32,
    /// Which service.
    pub service: ServiceId,
    /// Which run of it.
    pub instance: Instance,
    /// Its status pipe.
    pub status: i32,
}

/// What a child is.
#[derive(ToJson, FromJson)]
pub enum Child {
    /// The main process of an instance.
    Main(ServiceId, Instance),
    /// A command.
    Command {
        /// Whose.
        service: ServiceId,
        /// Of which run.
        instance: Instance,
        /// Its number.
        action: ActionId,
        /// What is executed.
        argv: Rc<[String]>,
        /// Its status pipe.
        status: i32,
    },
}

/// A process that is watched by a pidfd.
#[derive(ToJson, FromJson)]
pub struct Watched {
    /// Whose.
    pub service: ServiceId,
    /// Of which run.
    pub instance: Instance,
    /// Its number.
    pub pid: i32,
    /// The pidfd.
    pub fd: i32,
}

/// A command of an earlier superd, which is no child.
#[derive(ToJson, FromJson)]
pub struct Adopted {
    /// Index in its token.
    pub slot: u32,
    /// Its number.
    pub action: ActionId,
    /// What is executed.
    pub program: String,
    /// The process.
    pub process: Watched,
}

/// Who wished for the upgrade, and who waits for it.
#[derive(ToJson, FromJson)]
pub struct Wish {
    /// The first one.
    pub by: Option<Origin>,
    /// Everybody who waits.
    pub tickets: Vec<Ticket>,
}

/// The second line, written. What it says is told at [`Body`].
#[derive(ToJson)]
#[allow(missing_docs)] // see there
pub struct Writing<'a> {
    pub base: WritingBase<'a>,
    pub work: WritingWork<'a>,
}

/// See [`Base`].
#[derive(ToJson)]
#[allow(missing_docs)] // see there
pub struct WritingBase<'a> {
    pub program: &'a Path,
    pub run_dir: &'a Path,
    pub run_dir_lock: i32,
    pub trees: trees::Keeping<'a>,
    pub clients: Option<clients::Kept>,
    pub notify: Option<notify::Kept>,
    pub signals: signals::Kept,
}

/// See [`Work`].
#[derive(ToJson)]
#[allow(missing_docs)] // see there
pub struct WritingWork<'a> {
    pub registry: &'a Registry,
    pub machine: Whole,
    pub logs: Vec<KeptLog>,
    pub actions: Vec<actions::Kept>,
    pub probes: probes::Kept,
    pub checkers: Vec<checkers::Kept>,
    pub history: Vec<(ServiceId, Tick, EventLine)>,
    pub crashes: &'a Crashes,
    pub lost_lines: u64,
    pub starts: Vec<Starting>,
    pub next_start: u32,
    pub children: Map<i32, Child>,
    pub followed: Vec<Watched>,
    pub unheld: &'a Map<ServiceId, Instance>,
    pub commands: Vec<Adopted>,
    pub sockets: Vec<sockets::Kept>,
    pub absorbed: u32,
    pub wish: Wish,
}

/// The second line, read.
#[derive(FromJson)]
pub struct Body {
    /// What the reactor is built with.
    pub base: Base,
    /// What it then takes up.
    pub work: Work,
}

/// What the reactor is built with.
#[derive(FromJson)]
pub struct Base {
    /// The path that superd was started as.
    pub program: PathBuf,
    /// The run directory.
    pub run_dir: PathBuf,
    /// It itself, locked.
    pub run_dir_lock: i32,
    /// Containment.
    pub trees: trees::Kept,
    /// The control socket and its connections.
    pub clients: Option<clients::Kept>,
    /// The notify socket.
    pub notify: Option<notify::Kept>,
    /// What signals have asked for.
    pub signals: signals::Kept,
}

/// What the reactor takes up.
#[derive(FromJson)]
pub struct Work {
    /// The configuration in force, and the numbers of the services.
    pub registry: Registry,
    /// The machine.
    pub machine: Whole,
    /// Output.
    pub logs: Vec<KeptLog>,
    /// HTTP requests under way.
    pub actions: Vec<actions::Kept>,
    /// What is remembered for probes.
    #[serde(default)]
    pub probes: probes::Kept,
    /// Checkers at work.
    #[serde(default)]
    pub checkers: Vec<checkers::Kept>,
    /// For `why`.
    pub history: Vec<(ServiceId, Tick, EventLine)>,
    /// For `crashes`, and reports that are not written yet.
    pub crashes: Crashes,
    /// Lines of log that nobody took.
    pub lost_lines: u64,
    /// Starts under way.
    pub starts: Vec<Starting>,
    /// Index of the next one.
    pub next_start: u32,
    /// Children that are not reaped, by pid.
    pub children: Map<i32, Child>,
    /// Main processes that are watched by a pidfd.
    pub followed: Vec<Watched>,
    /// Main processes that cannot be.
    pub unheld: Map<ServiceId, Instance>,
    /// Commands of an earlier superd.
    pub commands: Vec<Adopted>,
    /// Sockets that services get from superd.
    #[serde(default)]
    pub sockets: Vec<sockets::Kept>,
    /// Absorbed requests that the machine knows of.
    pub absorbed: u32,
    /// Who asked for the upgrade.
    pub wish: Wish,
}

/// Writes a state for the next program of this process. `own`: of this process.
///
/// # Errors
/// Of write(2): no memory is left.
pub fn write(
    to: &mut (impl Write + Seek),
    own: journal::Head,
    body: &Writing<'_>,
    fds: &Fds,
) -> io::Result<()> {
    let head = Head {
        version: VERSION,
        by: env!("CARGO_PKG_VERSION").to_owned(),
        boot: own.boot,
        pids: own.pids,
        pid: std::process::id(),
        fds: fds.numbers().to_vec(),
    };
    // Into memory first, as the journal: code for another kind of writer would be as much
    // again as all of this.
    let mut text = Vec::new();
    json::append(&mut text, &head).map_err(io::Error::other)?;
    text.push(b'\n');
    json::append(&mut text, body).map_err(io::Error::other)?;
    text.push(b'\n');
    to.write_all(&text)?;
    to.rewind()
}

/// Reads all of it, from the beginning where that is possible.
///
/// # Errors
/// Of read(2).
pub fn read(mut from: impl Read + Seek) -> io::Result<Vec<u8>> {
    from.rewind().ok(); // a pipe is at its beginning anyway
    let mut text = Vec::new();
    from.take(CAP).read_to_end(&mut text)?;
    Ok(text)
}

/// The first line.
///
/// # Errors
/// Why it is none that this superd can use.
pub fn head(text: &[u8]) -> Result<(Head, &[u8]), String> {
    let end = memchr::memchr(b'\n', text).unwrap_or(text.len());
    let (first, rest) = text.split_at_checked(end).unwrap_or((text, &[]));
    // The version is read before all else: of another one nothing else need be there.
    #[derive(FromJson)]
    struct Version {
        #[serde(rename = "superd-state")]
        version: u32,
    }
    let Ok(found) = json::from_slice::<Version>(first) else {
        return Err("it does not begin like a state of superd".to_owned());
    };
    if found.version != VERSION {
        let (theirs, ours) = (found.version, VERSION);
        return Err(format!("it is of version {theirs}, not {ours}"));
    }
    let head = json::from_slice(first).map_err(|e| format!("line 1: {e}"))?;
    Ok((head, rest))
}

/// Everything else.
///
/// # Errors
/// Why this superd cannot go on from it.
pub fn body(rest: &[u8]) -> Result<Body, String> {
    let body: Body = json::from_slice(rest).map_err(|e| format!("line 2: {e}"))?;
    let spec = |id| body.work.registry.spec(id);
    match body.work.machine.fault(spec) {
        None => Ok(body),
        Some(what) => Err(format!("{what} cannot be so")),
    }
}

/// Whether a superd of this process, boot and namespace has written it.
///
/// # Errors
/// What is different.
pub fn is_of(head: &Head, own: &journal::Head) -> Result<(), String> {
    match () {
        () if head.boot != own.boot => Err("it is of another boot".to_owned()),
        () if head.pids != own.pids => Err("it is of another container".to_owned()),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(bytes: &[u8]) -> (String, Vec<u8>) {
        let text = crate::json::to_string(&Bytes(bytes.to_vec())).unwrap();
        let back: Bytes = json::from_str(&text).unwrap();
        (text, back.0)
    }

    #[test]
    fn bytes_come_back_as_they_were() {
        for bytes in [
            &b"line \"one\"\t\n"[..],
            b"",
            b"\xff\xfe",
            "\u{fffd}".as_bytes(),
        ] {
            assert_eq!(again(bytes).1, bytes);
        }
        assert_eq!(again(b"text").0, "\"text\"");
        assert_eq!(again(b"\xff\x01").0, "[255,1]");
    }

    #[test]
    fn what_is_no_state_is_refused_with_a_reason() {
        let why = |text: &str| head(text.as_bytes()).unwrap_err();
        assert!(why("").contains("begin"));
        assert!(why("{}").contains("begin"));
        assert!(why("{\"superd-state\":99,\"what\":1}\nx").contains("version 99, not 1"));
        assert!(why("{\"superd-state\":1}\n").contains("line 1: missing"));
        let Err(why) = body(b"{\"program\":\"x\"}") else {
            panic!("not a state")
        };
        assert!(why.contains("line 2"), "{why}");
    }

    #[test]
    fn a_state_of_another_boot_or_container_is_not_used() {
        let head = |boot: &str, pids: &str| Head {
            version: VERSION,
            by: "0".into(),
            boot: boot.into(),
            pids: pids.into(),
            pid: 1,
            fds: Vec::new(),
        };
        let own = journal::Head {
            version: journal::VERSION,
            boot: "a".into(),
            pids: "b".into(),
            reapers: Vec::new(),
        };
        assert_eq!(is_of(&head("a", "b"), &own), Ok(()));
        assert!(is_of(&head("x", "b"), &own).is_err());
        assert!(is_of(&head("a", "x"), &own).is_err());
    }
}
