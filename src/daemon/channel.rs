//! A pipe by which a child tells superd something of its own: that it is ready (s6's
//! notification-fd), why a checker is not happy. What is said there is the caller's business.
//!
//! It is a FIFO in the run directory, as a service's output is: the child does not see the end of
//! a superd, and the next one finds it. The FIFO goes with the channel.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::unistd::pipe2;

use super::logs::fifo;
use super::upgrade::state::Fds;
use crate::sys::handover::Inherited;

/// One, whose reading end never blocks and is listened to.
pub struct Channel {
    /// What was said.
    pub read: File,
    /// For the child. None: it has it.
    write: Option<OwnedFd>,
    path: Option<PathBuf>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            fs::remove_file(path).ok(); // somebody else did, or the directory is read-only
        }
    }
}

impl Channel {
    /// Makes it, or finds it at `home`. `fresh`: what an earlier one has left there is removed.
    /// Where there is no place for a FIFO it is a pipe, which does not outlive superd.
    ///
    /// # Errors
    /// Of pipe2(2) and epoll_ctl(2).
    pub fn open(
        registry: &Registry,
        token: Token,
        home: Option<PathBuf>,
        fresh: bool,
    ) -> io::Result<Channel> {
        let named = home.and_then(|path| {
            if fresh {
                fs::remove_file(&path).ok(); // usually there is none
            }
            let (read, write) = fifo::open(&path).ok()?;
            Some((read, write, Some(path)))
        });
        let (read, write, path) = match named {
            Some(all) => all,
            None => {
                let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
                fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                (File::from(read), write, None)
            }
        };
        let write = Some(write);
        Channel { read, write, path }.listen(registry, token)
    }

    /// What the child gets.
    pub fn writer(&self) -> Option<BorrowedFd<'_>> {
        self.write.as_ref().map(OwnedFd::as_fd)
    }

    /// The child has its end.
    pub fn is_given(&mut self) {
        self.write = None;
    }

    /// For a superd that becomes another program: the descriptor's number and the FIFO.
    pub fn keep(&self, fds: &mut Fds) -> (i32, Option<PathBuf>) {
        (fds.pass(&self.read), self.path.clone())
    }

    /// What [`Channel::keep`] said, in the new one.
    ///
    /// # Errors
    /// Of epoll_ctl(2), and where the descriptor is missing.
    pub fn kept(
        read: i32,
        path: Option<PathBuf>,
        left: &mut Inherited,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Channel> {
        let read = File::from(left.take(read)?);
        let write = None;
        Channel { read, write, path }.listen(registry, token)
    }

    fn listen(self, registry: &Registry, token: Token) -> io::Result<Channel> {
        let fd = self.read.as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        Ok(self)
    }
}
