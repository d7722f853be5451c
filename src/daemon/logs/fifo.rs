//! A service's output as a FIFO in the run directory (fifo(7)).
//!
//! Everybody opens it for reading and writing, the service's standard output too: so there
//! is always a reader and always a writer. A service that writes while no superd is there
//! fills the pipe and then waits; it meets no SIGPIPE. The next superd opens the same FIFO
//! and reads on.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{fcntl, FcntlArg};
use nix::sys::stat::Mode;

use crate::machine::event::Pid;
use crate::sys::file;

/// What a pipe may hold while nobody reads, in bytes. The kernel takes the memory only as it
/// is filled, and users other than root get no more than `pipe-user-pages-soft` in all.
pub(super) const SIZE: i32 = 256 * 1024;

/// The same of one into which somebody writes without a pause: superd is woken less often.
const WIDE: i32 = 1024 * 1024;

/// Where the FIFO of a service is.
pub fn path(run_dir: &Path, service: &str) -> PathBuf {
    run_dir.join(format!("{service}.out"))
}

/// Superd's end, which does not block, and the service's, which does. Makes the FIFO if it is
/// not there; what is in one that is there comes first.
pub fn open(path: &Path) -> io::Result<(File, OwnedFd)> {
    // Nobody but superd's user can put something into its run directory.
    let is_other = || fs::symlink_metadata(path).is_ok_and(|m| !m.file_type().is_fifo());
    match make(path) {
        Err(nix::Error::EEXIST) if is_other() => {
            fs::remove_file(path)?;
            make(path)?;
        }
        Err(nix::Error::EEXIST) => {}
        other => other?,
    }
    let read = open_as(path, libc::O_NONBLOCK)?;
    let write = open_as(path, 0)?;
    narrow(&read);
    Ok((read, write.into()))
}

/// Makes it hold more; whether it does.
pub fn widen(pipe: impl AsFd) -> bool {
    fcntl(pipe, FcntlArg::F_SETPIPE_SZ(WIDE)).is_ok() // the size that it has has to do
}

/// Gives it the size that it has usually. Not as long as there is more in it, and not where no
/// more memory is for pipes: then the size that it has has to do.
pub fn narrow(pipe: impl AsFd) -> bool {
    fcntl(pipe, FcntlArg::F_SETPIPE_SZ(SIZE)).is_ok()
}

/// One that is there, for reading without waiting.
pub fn find(path: &Path) -> Option<File> {
    let file = open_as(path, libc::O_NONBLOCK).ok()?;
    let is_fifo = file.metadata().ok()?.file_type().is_fifo();
    is_fifo.then_some(file)
}

/// The FIFO that a process has for its standard output or error, if that was made here and is
/// here no more: somebody has removed it, or put another one in its place.
pub fn held(path: &Path, Pid(pid): Pid) -> Option<(File, OwnedFd)> {
    let which = |m: &fs::Metadata| (m.dev(), m.ino());
    let here = fs::symlink_metadata(path).ok();
    let name = path.file_name()?.as_bytes();
    [1, 2].into_iter().find_map(|fd| {
        let at = PathBuf::from(format!("/proc/{pid}/fd/{fd}"));
        let meta = fs::metadata(&at).ok()?;
        let is_here = here.as_ref().is_some_and(|h| which(h) == which(&meta));
        if is_here || !meta.file_type().is_fifo() {
            return None;
        }
        let link = fs::read_link(&at).ok()?;
        let was = link.file_name()?.as_bytes();
        if was.strip_suffix(b" (deleted)").unwrap_or(was) != name {
            return None; // a pipe of the service's own
        }
        let open = |flags| file::open(&at, libc::O_RDWR | flags, 0);
        Some((open(libc::O_NONBLOCK).ok()?, open(0).ok()?.into()))
    })
}

/// Removes every FIFO of a service.
pub fn remove_all(run_dir: &Path) {
    for entry in fs::read_dir(run_dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_fifo = entry.file_type().is_ok_and(|t| t.is_fifo());
        if is_fifo
            && path
                .extension()
                .is_some_and(|e| e == "out" || e == "ready" || e == "check")
        {
            fs::remove_file(path).ok(); // a read-only directory: nothing to do
        }
    }
}

fn make(path: &Path) -> nix::Result<()> {
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)
}

fn open_as(path: &Path, flags: i32) -> io::Result<File> {
    let flags = libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NOCTTY | flags;
    file::open(path, flags, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_is_written_while_nobody_reads_is_there_for_the_next_reader() {
        let dir = std::env::temp_dir().join(format!("superd-fifo-home-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let path = path(&dir, "web");
        let (read, write) = open(&path).unwrap();
        let mut service = File::from(write);
        drop(read);
        service.write_all(&[b'x'; 60_000]).unwrap();
        let (mut read, _write) = open(&path).unwrap();
        let mut text = vec![0; 100_000];
        let mut n = 0;
        while let Ok(more) = read.read(&mut text[n..]) {
            n += more;
        }
        assert_eq!(n, 60_000);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "not a pipe").unwrap();
        assert!(open(&path).is_ok(), "what is no FIFO is replaced");
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
