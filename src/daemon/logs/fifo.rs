//! A service's output as a FIFO in the run directory (fifo(7)).
//!
//! Everybody opens it for reading and writing, the service's standard output too: so there
//! is always a reader and always a writer. A service that writes while no superd is there
//! fills the pipe and then waits; it meets no SIGPIPE. The next superd opens the same FIFO
//! and reads on.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{fcntl, FcntlArg};
use nix::sys::stat::Mode;

use crate::machine::event::Pid;

/// What a pipe may hold while nobody reads, in bytes. The kernel takes the memory only as it
/// is filled, and users other than root get no more than `pipe-user-pages-soft` in all.
pub(super) const SIZE: i32 = 256 * 1024;

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
    fcntl(&read, FcntlArg::F_SETPIPE_SZ(SIZE)).ok(); // the usual size has to do
    Ok((read, write.into()))
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
        let open = |flags| {
            let mut how = fs::OpenOptions::new();
            how.read(true).write(true).custom_flags(flags).open(&at)
        };
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
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags | libc::O_NOFOLLOW | libc::O_NOCTTY)
        .open(path)
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
