//! All of /proc in one scan, with buffers that are made once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::{number, parse_stat, Stat};

/// The pids among the entries that getdents64(2) wrote. A record is inode (8 bytes),
/// offset (8), length (2), type (1), name.
pub(super) fn pids_in(entries: &[u8]) -> impl Iterator<Item = i32> + '_ {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.get(16)?, *rest.get(17)?]));
        let record = rest.get(..length.max(20))?;
        rest = rest.get(length.max(20)..)?;
        Some(record.get(19..).unwrap_or_default())
    })
    .filter_map(|name| number(name.split(|b| *b == 0).next()?))
    .filter(|pid| *pid > 0)
}

/// Reads /proc, with buffers that are made once.
#[derive(Debug)]
pub struct Scanner {
    proc: OwnedFd,
    /// Given up while a file is open, when superd has no other descriptor left: who is alive
    /// must be known then, too.
    spare: Option<OwnedFd>,
    entries: Vec<u8>,
    file: Vec<u8>,
}

impl Scanner {
    /// Fails where /proc is not mounted.
    pub fn new() -> io::Result<Scanner> {
        let proc = open_proc()?;
        Ok(Scanner {
            spare: open_proc().ok(),
            proc,
            entries: vec![0; 4096],
            file: vec![0; 4096],
        })
    }

    /// Every process that can be seen and has a session here, zombies included, in no promised
    /// order. A process born during the scan may be missed: scan again after stopping its
    /// parents. False if one that was listed was gone before it could be read.
    ///
    /// # Errors
    /// Of reading the directory; and where a process cannot be looked at although it may be
    /// there (EMFILE, ENFILE, ENOMEM): then who is there is not known.
    ///
    /// The kernel's threads, and what entered this pid namespace from outside, have session 0
    /// (getsid(2)); to ask for that costs a hundredth of reading a file of theirs.
    pub fn each(&mut self, mut f: impl FnMut(&Stat)) -> io::Result<bool> {
        use nix::unistd::{lseek, Whence};
        lseek(&self.proc, 0, Whence::SeekSet)?;
        let mut entries = std::mem::take(&mut self.entries);
        let is_whole = self.each_in(&mut entries, &mut f);
        self.entries = entries;
        is_whole
    }

    fn each_in(&mut self, room: &mut [u8], f: &mut dyn FnMut(&Stat)) -> io::Result<bool> {
        let mut is_whole = true;
        loop {
            let (fd, buffer) = (self.proc.as_raw_fd(), room.as_mut_ptr());
            // SAFETY: getdents64(2) writes at most as many bytes as the buffer is long.
            let n = unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer, room.len()) };
            let entries = match usize::try_from(n) {
                Ok(0) => return Ok(is_whole),
                Ok(n) => room.get(..n).unwrap_or_default(),
                Err(_) => return Err(io::Error::last_os_error()),
            };
            for pid in pids_in(entries).filter(|pid| has_session(*pid)) {
                match self.try_stat(pid)? {
                    Some(stat) => f(&stat),
                    None => is_whole = false,
                }
            }
        }
    }

    /// One process; none when it is gone.
    pub fn stat(&mut self, pid: i32) -> Option<Stat> {
        self.try_stat(pid).ok().flatten()
    }

    /// None: it is gone, or not for this user to see.
    fn try_stat(&mut self, pid: i32) -> nix::Result<Option<Stat>> {
        use nix::errno::Errno;
        let opened = self.with_file(pid, "stat", |file, buffer| {
            let n = nix::unistd::read(file.as_fd(), &mut *buffer)?;
            Ok(buffer.get(..n).and_then(parse_stat))
        });
        match opened {
            Ok(stat) => Ok(stat),
            Err(e @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => Err(e),
            Err(_) => Ok(None),
        }
    }

    /// Opens a file of a process, if need be with the descriptor that is kept for that.
    fn with_file<T>(
        &mut self,
        pid: i32,
        name: &str,
        read: impl FnOnce(OwnedFd, &mut [u8]) -> nix::Result<T>,
    ) -> nix::Result<T> {
        use nix::errno::Errno;
        let file = match open_at(&self.proc, pid, name) {
            Err(Errno::EMFILE | Errno::ENFILE) if self.spare.take().is_some() => {
                open_at(&self.proc, pid, name)
            }
            other => other,
        };
        let result = file.and_then(|file| read(file, &mut self.file));
        if self.spare.is_none() {
            self.spare = open_proc().ok();
        }
        result
    }

    /// Whether the environment that a process was started with holds exactly this
    /// `NAME=value`. False when it may not be read. None: nobody can tell now, because the
    /// process is in the middle of execve(2) or of its end; ask again.
    pub fn has_variable(&mut self, pid: i32, variable: &[u8]) -> Option<bool> {
        // In the middle of execve(2) a process has no environment for some microseconds.
        for _ in 0..4 {
            match self.search_environ(pid, variable) {
                Some(found) => return Some(found),
                None => std::thread::yield_now(),
            }
        }
        // And no arguments either, unlike one that was started without an environment.
        let read = self.with_file(pid, "cmdline", |file, buffer| {
            nix::unistd::read(file.as_fd(), buffer)
        });
        matches!(read, Ok(1..)).then_some(false)
    }

    /// None: the environment is empty.
    fn search_environ(&mut self, pid: i32, variable: &[u8]) -> Option<bool> {
        let mut search = Search::new(variable);
        let found = self.with_file(pid, "environ", |file, buffer| {
            // execve(2) takes at most 6 MiB; the loop is bounded by more than that.
            for i in 0..2048 {
                match nix::unistd::read(file.as_fd(), &mut *buffer) {
                    Ok(0) if i == 0 => return Ok(None),
                    Ok(n) if n > 0 => {
                        if search.feed(buffer.get(..n).unwrap_or_default()) {
                            return Ok(Some(true));
                        }
                    }
                    _ => break,
                }
            }
            Ok(Some(search.finish()))
        });
        found.unwrap_or(Some(false))
    }
}

/// Asks for the process group as well: while a process calls setsid(2) each of the two may
/// be 0 for a moment, but never both.
fn has_session(pid: i32) -> bool {
    use nix::unistd::{getpgid, getsid, Pid};
    let pid = Some(Pid::from_raw(pid));
    // Gone, or a security module says no: then its file tells.
    let is_not_0 = |id: nix::Result<Pid>| id.is_err() || id.is_ok_and(|id| id.as_raw() != 0);
    is_not_0(getsid(pid)) || is_not_0(getpgid(pid))
}

fn open_proc() -> io::Result<OwnedFd> {
    Ok(crate::sys::file::open_to_read("/proc")?.into())
}

fn open_at(proc: &OwnedFd, pid: i32, file: &str) -> nix::Result<OwnedFd> {
    use nix::fcntl::{openat, OFlag};
    use std::io::Write;
    let mut path = [0_u8; 40];
    write!(path.as_mut_slice(), "{pid}/{file}\0").map_err(|_| nix::Error::ENAMETOOLONG)?;
    let path = std::ffi::CStr::from_bytes_until_nul(&path).unwrap_or_default();
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(proc, path, flags, nix::sys::stat::Mode::empty())
}

/// Looks for one entry among NUL-terminated ones that arrive in pieces.
pub(super) struct Search<'a> {
    wanted: &'a [u8],
    /// How much of `wanted` the current entry has matched; none: it differs.
    matched: Option<usize>,
}

impl<'a> Search<'a> {
    pub(super) fn new(wanted: &'a [u8]) -> Self {
        Search {
            wanted,
            matched: Some(0),
        }
    }

    pub(super) fn feed(&mut self, piece: &[u8]) -> bool {
        for b in piece {
            if *b == 0 {
                if self.finish() {
                    return true;
                }
                self.matched = Some(0);
            } else {
                let next = self.matched.filter(|n| self.wanted.get(*n) == Some(b));
                self.matched = next.map(|n| n + 1);
            }
        }
        false
    }

    /// Whether the entry that was fed last is the wanted one.
    pub(super) fn finish(&self) -> bool {
        self.matched == Some(self.wanted.len()) && !self.wanted.is_empty()
    }
}
