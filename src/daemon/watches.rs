//! The files that services are restarted or reloaded for when they change (`watch`).
//!
//! inotify(7) says *that* something happened, and then all files are looked at afresh: events
//! are not read but thrown away, so that a lost one costs nothing. What is watched is the
//! directory of a file: so a file that is replaced by a rename is seen, and one that comes
//! back. Where the directory is missing, the nearest one above it is watched; and all above
//! that for being moved away. A symbolic link is followed, and each directory that it leads
//! through is watched.
//!
//! However much is written in such a directory, superd looks at most every [`PAUSE`]: in
//! between it does not listen. Nothing is open while nobody has files, and nothing is polled.

use std::fs::{self, Metadata};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use syslog::Severity;

use super::reactor::Reactor;
use super::token::Source;
use super::world;
use crate::machine::event::{Event, ServiceId};
use crate::machine::files::{Print, Watched};
use crate::machine::time::Tick;

/// The index of this among those of [`Source::World`].
pub(super) const TOKEN: u32 = 3;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// Reads of events in a turn; each takes some hundred.
const READS: usize = 256;

/// Of a directory so many files are looked at.
const ENTRIES: usize = 1000;

/// Symbolic links that lead from one to another.
const LINKS: usize = 8;

/// One service that has files.
struct Asked {
    service: ServiceId,
    watched: Rc<Watched>,
    /// What was told.
    told: Vec<Print>,
}

/// All files, and what tells of changes.
#[derive(Default)]
pub(super) struct Watches {
    asked: Vec<Asked>,
    inotify: Option<Inotify>,
    /// Whether it is registered: for a while after an event it is not.
    is_listening: bool,
    watched: Vec<WatchDescriptor>,
    look_at: Option<Tick>,
    /// What cannot be watched, to be told.
    complaint: Option<String>,
    has_complained: bool,
}

impl Watches {
    /// Looks after the files of a service, or no longer; how they are now.
    pub fn watch(
        &mut self,
        service: ServiceId,
        watched: Option<Rc<Watched>>,
        registry: &Registry,
    ) -> Vec<Print> {
        let before = self.asked.len();
        self.asked.retain(|a| a.service != service);
        let Some(watched) = watched else {
            if self.asked.len() != before {
                self.open(registry);
            }
            return Vec::new();
        };
        self.asked.push(Asked {
            service,
            watched: watched.clone(),
            told: Vec::new(),
        });
        self.open(registry);
        let told = prints(&watched);
        if let Some(asked) = self.asked.last_mut() {
            asked.told.clone_from(&told);
        }
        told
    }

    /// Has watches where they are needed, and nowhere else.
    fn open(&mut self, registry: &Registry) {
        if self.asked.is_empty() {
            self.listen(false, registry);
            self.inotify = None;
            self.watched.clear();
            self.look_at = None;
            self.has_complained = false;
            return;
        }
        if self.inotify.is_none() {
            match Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK) {
                Ok(inotify) => self.inotify = Some(inotify),
                Err(e) => return self.complain("inotify", e),
            }
        }
        self.set_watches();
        // Between an event and the look after it nobody listens.
        if self.look_at.is_none() {
            self.listen(true, registry);
        }
    }

    fn listen(&mut self, listen: bool, registry: &Registry) {
        let Some(inotify) = self
            .inotify
            .as_ref()
            .filter(|_| self.is_listening != listen)
        else {
            return;
        };
        let fd = inotify.as_fd().as_raw_fd();
        let done = match listen {
            true => {
                let token = Source::World(TOKEN).token();
                registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
            }
            false => registry.deregister(&mut SourceFd(&fd)),
        };
        // What cannot be registered is tried again with the next file.
        self.is_listening = listen && done.is_ok();
    }

    fn set_watches(&mut self) {
        let mut set = Vec::with_capacity(self.watched.len());
        let mut failed = None;
        let Some(inotify) = &self.inotify else { return };
        for file in self.asked.iter().flat_map(|a| &a.watched.files) {
            // What appears before its watch is set moves the place of the next one.
            let mut last = None;
            for _ in 0..LINKS {
                let places = places(Path::new(&**file));
                if last.as_ref() == Some(&places) {
                    break;
                }
                for (place, how) in &places {
                    match inotify.add_watch(place, *how) {
                        Ok(watch) if !set.contains(&watch) => set.push(watch),
                        // Gone meanwhile: the next round sees it.
                        Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                        Err(e) => failed = Some((place.display().to_string(), e)),
                    }
                }
                last = Some(places);
            }
        }
        world::replace(inotify, &mut self.watched, set);
        match failed {
            Some((place, e)) => self.complain(&place, e),
            None => self.has_complained = false,
        }
    }

    fn complain(&mut self, what: &str, e: Errno) {
        if std::mem::replace(&mut self.has_complained, true) {
            return;
        }
        let (limit, desc) = match e {
            Errno::ENOSPC => (": see fs.inotify.max_user_watches", "no watch is left"),
            Errno::EMFILE => (": see fs.inotify.max_user_instances", e.desc()),
            _ => ("", e.desc()),
        };
        self.complaint = Some(format!(
            "watching {what}: {desc}{limit}; changes of files are not noticed"
        ));
    }

    pub fn take_complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// Something happened in one of the directories.
    pub fn ready(&mut self, now: Tick, registry: &Registry) {
        self.listen(false, registry);
        self.look_at.get_or_insert(now + PAUSE);
    }

    pub fn next_deadline(&self) -> Option<Tick> {
        self.look_at
    }

    /// Looks at all files; whose are how, where that is news.
    pub fn look(&mut self, registry: &Registry) -> Vec<(ServiceId, Vec<Print>)> {
        self.look_at = None;
        // First forget what was told, then look: what comes between is told again.
        if let Some(inotify) = &self.inotify {
            world::drain(inotify.as_fd(), false, READS);
        }
        self.open(registry);
        let mut news = Vec::new();
        for one in &mut self.asked {
            let now = prints(&one.watched);
            if now != one.told {
                one.told.clone_from(&now);
                news.push((one.service, now));
            }
        }
        news
    }
}

/// The directories to be watched for a file, and for what.
fn places(file: &Path) -> Vec<(PathBuf, AddWatchFlags)> {
    let gone = AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_ONLYDIR
        // One directory may be wanted for several reasons.
        | AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
    let comes = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | gone;
    let inside = AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_ATTRIB
        | comes;
    let mut places = Vec::new();
    let mut file = file.to_owned();
    for _ in 0..LINKS {
        if file.is_dir() {
            places.push((file.clone(), inside));
        }
        let above = file.ancestors().skip(1);
        let mut found = false;
        for (n, folder) in above.enumerate() {
            match folder.is_dir() {
                true if found => places.push((folder.to_owned(), gone)),
                // The directory itself, or what is nearest to it.
                true => places.push((folder.to_owned(), if n == 0 { inside } else { comes })),
                false => continue,
            }
            found = true;
        }
        let Ok(to) = fs::read_link(&file) else { break };
        file = file.parent().unwrap_or(Path::new("/")).join(to);
    }
    places
}

/// FNV-1a (draft-eastlake-fnv): the same in every superd that may follow this one.
fn add(hash: &mut u64, bytes: &[u8]) {
    for b in bytes {
        *hash = (*hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    }
}

fn add_meta(hash: &mut u64, meta: &Metadata) {
    let size = if meta.is_dir() { 0 } else { meta.size() };
    add(hash, &meta.dev().to_le_bytes());
    add(hash, &meta.ino().to_le_bytes());
    add(hash, &size.to_le_bytes());
    if !meta.is_dir() {
        add(hash, &meta.mtime().to_le_bytes());
        add(hash, &meta.mtime_nsec().to_le_bytes());
    }
}

/// The state of all files of a service.
fn prints(watched: &Watched) -> Vec<Print> {
    let files = watched.files.iter();
    files.map(|f| print(Path::new(&**f))).collect()
}

/// The state of a file, or of a directory and the files in it. What an editor puts beside a
/// file (a dot in front, a ~ behind) is not of these.
fn print(path: &Path) -> Print {
    const START: u64 = 0xcbf2_9ce4_8422_2325;
    let Ok(meta) = fs::metadata(path) else {
        return 0;
    };
    let mut hash = START;
    add_meta(&mut hash, &meta);
    if meta.is_dir() {
        let mut sum = 0_u64;
        for entry in fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .take(ENTRIES)
        {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            if name.starts_with(b".") || name.ends_with(b"~") {
                continue;
            }
            let mut one = START;
            add(&mut one, name);
            if let Ok(meta) = fs::metadata(entry.path()) {
                add_meta(&mut one, &meta);
            }
            // They come in any order.
            sum = sum.wrapping_add(one);
        }
        add(&mut hash, &sum.to_le_bytes());
    }
    hash.max(1)
}

impl Reactor {
    /// Looks after the files of a service, or no longer.
    pub(super) fn watch_files(&mut self, service: ServiceId, watched: Option<Rc<Watched>>) {
        let is_on = watched.is_some();
        let prints = self.watches.watch(service, watched, self.poll.registry());
        self.say_of_watches();
        if is_on {
            self.feed(Event::Files(service, prints));
        }
    }

    /// It is time to look at them.
    pub(super) fn look_at_files(&mut self) {
        for (service, prints) in self.watches.look(self.poll.registry()) {
            self.feed(Event::Files(service, prints));
        }
        self.say_of_watches();
    }

    fn say_of_watches(&mut self) {
        if let Some(text) = self.watches.take_complaint() {
            self.say(Severity::LOG_WARNING, &text);
        }
    }
}
