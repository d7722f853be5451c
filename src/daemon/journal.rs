//! The journal: what the next superd has to know if this one is killed.
//!
//! A file of JSON lines in the run directory. The first names version, boot and pid
//! namespace; then come lines about one service each, and the last one about a service
//! counts. It is written before an effect whose loss would matter (a signal, an answer) and
//! at the end of a turn, only about services that have changed, all in one write(2): what
//! was not written whole has no end of line and is not read. Before a start only a short
//! line is written: how to find what was started; the rest when it runs. When too much
//! of it is old it is written anew and renamed. The run directory is a tmpfs or as good as
//! one: nothing is synced, because nothing in here outlives a boot.
//!
//! What is read is a hint where to look and never a fact: who is alive, the kernel says.
//!
//! Longer than a file should be: what is written and what is read are held against each other.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::rundir::{create_anew, plain};
use crate::config::model::{Program, ServiceDef};
use crate::json::{self, FromJson, ToJson};
use crate::machine::event::{ActionId, ServiceId};
use crate::machine::memory::{Begun, Memory};
use crate::map::{Map, Set};
use crate::sys::file;
use crate::sys::proc::{read_capped, Listener};

/// Of the format. Another one is not read.
pub const VERSION: u32 = 1;
/// Another one after each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// A journal may be this long; nobody needs a thousandth of that.
const CAP: u64 = 64 << 20;
/// A new file is written in pieces of about this many bytes.
const CHUNK: usize = 8 * 1024;
/// It is written anew when it is longer than this and mostly old.
const SLACK: u64 = 256 * 1024;

/// The first line.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Head {
    /// [`VERSION`].
    #[serde(rename = "superd-journal")]
    pub version: u32,
    /// `/proc/sys/kernel/random/boot_id`: times and pids are of this boot.
    pub boot: String,
    /// The pid namespace.
    pub pids: String,
    /// Who may get the orphans of this superd: its parent, that one's parent, and so on. Looked
    /// for when it is to be written.
    #[serde(default)]
    pub reapers: Vec<i32>,
}

impl Head {
    /// Of this superd.
    ///
    /// # Errors
    /// Where /proc does not tell the boot id, and why.
    pub fn of_this_process() -> Result<Head, String> {
        let boot = read_capped(BOOT_ID, 64) // 36 letters
            .map_err(|e| format!("{BOOT_ID}: {}", plain(&e)))?;
        let pids = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Ok(Head {
            version: VERSION,
            boot: String::from_utf8_lossy(&boot).trim().to_owned(),
            pids: pids.display().to_string(),
            reapers: Vec::new(),
        })
    }
}

/// Any other line.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// How a service is defined.
    Def(Box<ServiceDef>),
    /// What is known of it.
    Is(Box<Entry>),
    /// An instance of it is about to be started.
    Begin(Box<Begin>),
    /// There is no such service any more.
    Forget(String),
}

/// A start that is about to be carried out.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct Begin {
    /// The service.
    pub name: Rc<str>,
    /// What the machine has decided.
    pub begun: Begun,
    /// Where its processes will be.
    pub place: Place,
    /// The [`fingerprint`] of what is executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<u64>,
}

/// Tells one definition of a program from another one, for the same superd. Another build may
/// see a difference where there is none, and then starts the program anew.
pub fn fingerprint(program: &Program) -> u64 {
    let mut hasher = DefaultHasher::new();
    program.hash(&mut hasher);
    hasher.finish()
}

/// A process by number and start time (ticks after boot, `/proc/PID/stat`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// When it started; none: not looked at yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
}

/// How the processes of an instance or a command are found.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Place {
    /// The main process, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<Process>,
    /// The process group that it began.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub leader: i32,
    /// The value of SUPERD_INSTANCE.
    pub cookie: String,
    /// The cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<PathBuf>,
    /// Listening sockets that a stop has noted, with their network namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<(Option<PathBuf>, Listener)>,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// A command under way.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Running {
    /// Its number.
    pub action: ActionId,
    /// What is executed.
    pub program: String,
    /// Where it is.
    pub place: Place,
}

/// What is known of a service.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What the machine knows.
    pub memory: Memory,
    /// Where its instance is, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Its commands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Running>,
}

/// What an earlier superd has left.
#[derive(Debug, Default)]
pub struct Left {
    /// Who may have got its orphans.
    pub reapers: Vec<i32>,
    /// Its services, by name.
    pub services: Map<String, (ServiceDef, Entry)>,
    /// Services that were started and not defined yet, with [`Begin::program`].
    pub begun: Vec<(Entry, Option<u64>)>,
}

/// What was found in the place of the journal.
#[derive(Debug)]
pub enum Found {
    /// Nothing: no superd was there, or it ended in order.
    Nothing,
    /// A superd was there and could not write it.
    Lost,
    /// What an earlier superd has left.
    Left(Left),
    /// Something else, and what: it is not used.
    Bad(String),
}

/// Reads a journal that this superd can go on from.
pub fn read(path: &Path, head: &Head) -> Found {
    let mut text = Vec::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = file::open(path, flags, 0);
    let got = file.and_then(|f| match f.metadata()?.is_file() {
        true => f.take(CAP).read_to_end(&mut text),
        false => Err(io::Error::other("not a regular file")),
    });
    match got {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return Found::Bad("it is a symbolic link".to_owned());
        }
        Err(e) => return Found::Bad(plain(&e)),
        Ok(0) => return Found::Lost,
        Ok(_) => {}
    }
    match parse(&text, head) {
        Ok(left) => Found::Left(left),
        Err(why) => Found::Bad(why),
    }
}

/// What the bytes of a journal say to the superd of this head.
///
/// # Errors
/// Why they are not to be used.
pub fn parse(text: &[u8], own: &Head) -> Result<Left, String> {
    // A last line without its end was being written.
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    let mut lines = text
        .get(..whole)
        .unwrap_or_default()
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty());
    let Some(Ok(head)) = lines.next().map(json::from_slice::<Head>) else {
        return Err("it does not begin like a journal".to_owned());
    };
    if head.version != VERSION {
        return Err(format!("it is of version {}, not {VERSION}", head.version));
    }
    if head.boot != own.boot {
        return Err("it is of another boot".to_owned());
    }
    if head.pids != own.pids {
        return Err("it is of another container".to_owned());
    }
    let mut defs = Map::new();
    let mut entries: Map<String, Entry> = Map::new();
    let mut programs = Map::new();
    for (n, line) in lines.enumerate() {
        let fail = |why: String| format!("line {}: {why}", n + 2);
        match json::from_slice(line).map_err(|e| fail(e.to_string()))? {
            Line::Def(def) => drop(defs.insert(def.name.clone(), *def)),
            Line::Is(entry) => drop(entries.insert(entry.name.clone(), *entry)),
            Line::Begin(begin) => {
                let Begin {
                    name,
                    begun,
                    place,
                    program,
                } = *begin;
                programs.insert(name.to_string(), program);
                let entry = match entries.remove(&*name) {
                    Some(mut entry) => {
                        entry.memory.begin(begun);
                        entry.place = Some(place);
                        entry
                    }
                    None => Entry {
                        name: name.to_string(),
                        memory: Memory::of_start(begun),
                        place: Some(place),
                        commands: Vec::new(),
                    },
                };
                entries.insert(entry.name.clone(), entry);
            }
            Line::Forget(name) => {
                defs.remove(&name);
                entries.remove(&name);
            }
        }
    }
    let mut services = Map::new();
    let mut begun = Vec::new();
    for (name, entry) in entries {
        let fail = |why: &str| format!("service {name:?}: {why}");
        crate::config::service_name(&name).map_err(&fail)?;
        match defs.remove(&name) {
            Some(def) => {
                if let Some(what) = entry.memory.fault(&def.spec(|_| None)) {
                    return Err(fail(&format!("{what} cannot be so")));
                }
                services.insert(name, (def, entry));
            }
            None if entry.memory.is_unborn() => {
                begun.push((entry, programs.remove(&name).flatten()));
            }
            None => return Err(fail("there is no definition")),
        }
    }
    Ok(Left {
        reapers: head.reapers,
        services,
        begun,
    })
}

/// Puts a journal that cannot be used out of the way, for people to look at.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let bad = path.with_extension("bad");
    fs::rename(path, &bad)?;
    Ok(bad)
}

/// What was last written about a service.
#[derive(Clone, Copy, Default)]
struct Written {
    hash: u64,
    size: u64,
}

/// The journal of this superd.
pub struct Journal {
    path: PathBuf,
    head: Head,
    /// None: nothing was written yet, or the last write failed.
    file: Option<File>,
    length: u64,
    written: Map<ServiceId, Written>,
    /// Services whose definition is to be written with them.
    undefined: Set<ServiceId>,
    /// Services that have changed without the machine's knowing.
    unsaved: Set<ServiceId>,
    buffer: Vec<u8>,
    /// Why the last write failed.
    failing: Option<String>,
    /// Nothing was written yet, and there is nothing that an earlier superd has left.
    is_fresh: bool,
    /// Only starts were written yet.
    is_partial: bool,
}

/// A service to be written.
pub struct Item<'a> {
    /// Its number.
    pub id: ServiceId,
    /// Its definition.
    pub def: &'a ServiceDef,
    /// What is known of it.
    pub entry: Entry,
}

impl Journal {
    /// Nothing is written before the first [`Journal::write`].
    pub fn new(path: PathBuf, head: Head) -> Journal {
        Journal {
            path,
            head,
            file: None,
            length: 0,
            written: Map::new(),
            undefined: Set::new(),
            unsaved: Set::new(),
            buffer: Vec::new(),
            failing: None,
            is_fresh: true,
            is_partial: false,
        }
    }

    /// An earlier superd has left something: the first write is of all services.
    pub fn inherit(&mut self) {
        self.is_fresh = false;
    }

    /// The definition of this service is new.
    pub fn redefine(&mut self, id: ServiceId) {
        self.undefined.insert(id);
        self.unsaved.insert(id);
    }

    /// Something of this service changed.
    pub fn note(&mut self, id: ServiceId) {
        self.unsaved.insert(id);
    }

    /// Whether something was noted.
    pub fn is_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// What was noted.
    pub fn take_unsaved(&mut self) -> Set<ServiceId> {
        std::mem::take(&mut self.unsaved)
    }

    /// Whether the next [`Journal::write`] needs all services: there is no file, or it is
    /// mostly old.
    pub fn wants_all(&self) -> bool {
        let live: u64 = self.written.values().map(|w| w.size).sum();
        self.file.is_none() || self.is_partial || self.length > SLACK + 4 * live || !self.is_there()
    }

    /// Somebody may have removed it with its directory. Looked at when there is something
    /// to write, which costs as much as the writing.
    fn is_there(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let file = self.file.as_ref().and_then(|f| f.metadata().ok());
        file.is_some_and(|m| m.nlink() > 0)
    }

    /// Whether somebody has removed it, so that it has to be written anew.
    pub fn is_lost(&self) -> bool {
        self.file.is_some() && !self.is_there()
    }

    /// Forgets a service with the next write.
    pub fn forget(&mut self, id: ServiceId, name: &str) {
        self.undefined.remove(&id);
        self.unsaved.remove(&id);
        if self.written.remove(&id).is_some() {
            let line = Line::Forget(name.to_owned());
            self.push(&line);
        }
    }

    fn push_head(&mut self) {
        if self.head.reapers.is_empty() {
            self.head.reapers = crate::sys::proc::ancestors();
        }
        let head = self.head.clone();
        self.push(&head);
    }

    fn push(&mut self, line: &dyn ToJson) {
        // Of a line with a path that is no text nothing is appended.
        if json::append(&mut self.buffer, line).is_ok() {
            self.buffer.push(b'\n');
        }
    }

    /// Writes down these starts, if that is enough: what else there is to say of these
    /// services was written, or is nothing yet. False: [`Journal::write`] has to be called.
    pub fn begin(&mut self, starts: &[Begin], ids: impl Iterator<Item = ServiceId>) -> bool {
        let is_known = |id: &ServiceId| {
            self.written.contains_key(id) && !self.undefined.contains(id) && self.file.is_some()
        };
        let ids: Vec<ServiceId> = ids.collect();
        let anew = self.is_fresh && self.file.is_none();
        let adds = self.is_partial || ids.iter().all(is_known);
        if !(anew || adds && self.is_there()) {
            return false;
        }
        #[derive(ToJson)]
        #[serde(rename_all = "kebab-case")]
        enum One<'a> {
            Begin(&'a Begin),
        }
        if anew {
            self.push_head();
        }
        for start in starts {
            self.push(&One::Begin(start));
        }
        let done = match anew {
            true => self.open_anew().and_then(|file| self.put(file)),
            false => self.append(),
        };
        self.tidy();
        if done.is_err() {
            // What is wrong is said by who writes all of it.
            self.file = None;
            self.is_fresh = false;
            return false;
        }
        self.is_partial |= anew;
        self.is_fresh = false;
        for id in ids {
            self.unsaved.insert(id);
            if let Some(written) = self.written.get_mut(&id) {
                written.hash = 0; // it is not the last word any more
            }
        }
        true
    }

    /// Writes what changed of these; `all`: they are all there are, and the file is made anew.
    /// True: it cannot be written, which is news. See [`Journal::failing`].
    pub fn write<'a>(&mut self, items: impl Iterator<Item = Item<'a>>, all: bool) -> bool {
        let mut anew = all.then(|| self.open_anew());
        if all {
            self.buffer.clear();
            self.written.clear();
            self.push_head();
        }
        for item in items {
            let (id, from) = (item.id, self.buffer.len());
            let with_def = self.undefined.contains(&id) || !self.written.contains_key(&id);
            if with_def {
                #[derive(ToJson)]
                #[serde(rename_all = "kebab-case")]
                enum Def<'a> {
                    Def(&'a ServiceDef),
                }
                self.push(&Def::Def(item.def));
            }
            let middle = self.buffer.len();
            self.push(&Line::Is(Box::new(item.entry)));
            let mut hasher = DefaultHasher::new();
            hasher.write(self.buffer.get(middle..).unwrap_or_default());
            let hash = hasher.finish();
            let before = self.written.get(&id).copied().unwrap_or_default();
            if !with_def && before.hash == hash {
                self.buffer.truncate(from);
                continue;
            }
            let size = (self.buffer.len() - from) as u64;
            let size = if with_def { size } else { before.size };
            self.written.insert(id, Written { hash, size });
            self.undefined.remove(&id);
            if self.buffer.len() > CHUNK {
                anew = anew.map(|file| self.flush(file?));
            }
        }
        if self.buffer.is_empty() && !all {
            return false;
        }
        let done = match anew {
            Some(file) => file.and_then(|file| self.put(file)),
            None => self.append(),
        };
        self.tidy();
        self.is_fresh = false;
        match done {
            Ok(()) => {
                self.failing = None;
                self.is_partial &= !all;
                false
            }
            Err(e) => {
                // What is in there is old: the next superd must not believe it.
                match self.file.take() {
                    Some(file) => file.set_len(0).ok(),
                    None => file::open(&self.path, libc::O_WRONLY | libc::O_TRUNC, 0)
                        .map(drop)
                        .ok(),
                };
                self.failing.replace(plain(&e)).is_none()
            }
        }
    }

    /// A new file, which is not the journal before [`Journal::put`].
    fn open_anew(&mut self) -> io::Result<File> {
        let fresh = self.path.with_extension("new");
        self.length = 0;
        create_anew(&fresh, 0o600)
    }

    fn flush(&mut self, mut file: File) -> io::Result<File> {
        self.length += self.buffer.len() as u64;
        let done = file.write_all(&self.buffer);
        self.buffer.clear();
        if done.is_err() {
            // It must not take space from the next try.
            fs::remove_file(self.path.with_extension("new")).ok();
        }
        done.map(|()| file)
    }

    /// The new file is complete: it is the journal.
    fn put(&mut self, file: File) -> io::Result<()> {
        let file = self.flush(file)?;
        let fresh = self.path.with_extension("new");
        if let Err(e) = fs::rename(&fresh, &self.path) {
            fs::remove_file(&fresh).ok(); // likewise
            return Err(e);
        }
        self.file = Some(file);
        Ok(())
    }

    fn tidy(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(CHUNK);
    }

    fn append(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        file.write_all(&self.buffer)?;
        self.length += self.buffer.len() as u64;
        Ok(())
    }

    /// Why the next superd cannot go on from it.
    pub fn failing(&self) -> Option<&str> {
        self.failing.as_deref()
    }

    /// superd ends and nothing of it is left.
    pub fn remove(&mut self) {
        self.file = None;
        fs::remove_file(&self.path).ok(); // there was none
    }
}

#[cfg(test)]
mod tests;
