//! Listening sockets that superd owns and passes to a service (`sockets` in its definition).
//!
//! They stay open from one instance to the next, so who comes in between waits in the queue of
//! the kernel instead of being refused. They are closed when the service is down. A superd that
//! is killed loses its own; the next one gets them back from the instance that runs.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::sys::socket::{listen, Backlog};

use super::drain;
use super::trees::Trees;
use super::upgrade::state::Fds;
use crate::json::{FromJson, ToJson};
use crate::machine::event::{Instance, ServiceId};
use crate::map::{Map, Set};
use crate::sys::filter;
use crate::sys::handover::Inherited;

/// The sockets of all services.
#[derive(Default)]
pub struct Sockets {
    open: Map<ServiceId, Vec<(SocketAddr, OwnedFd)>>,
}

/// A socket for the next program of this process.
#[derive(ToJson, FromJson)]
pub struct Kept {
    service: ServiceId,
    address: SocketAddr,
    fd: i32,
}

impl Sockets {
    /// Opens what is not open yet, and closes what is no longer wanted. What an earlier run may
    /// have done to them does not reach the next one: see [`is_as_new`].
    ///
    /// # Errors
    /// Which address it is about, and the error of bind(2). What is open stays so, for who has
    /// come already.
    pub fn prepare(
        &mut self,
        service: ServiceId,
        wanted: &[SocketAddr],
    ) -> Result<(), (SocketAddr, io::Error)> {
        let mut had = self.open.remove(&service).unwrap_or_default();
        had.retain(|(_, socket)| is_as_new(socket));
        let mut have = Vec::with_capacity(wanted.len());
        let mut failed = None;
        for address in wanted {
            match had.iter().position(|(a, _)| a == address) {
                Some(at) => have.push(had.swap_remove(at)),
                None => match bind(*address) {
                    Ok(socket) => have.push((*address, socket)),
                    Err(e) => failed = Some((*address, e)),
                },
            }
        }
        if !have.is_empty() {
            self.open.insert(service, have);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Takes copies of the sockets that an instance of an earlier superd holds.
    pub fn adopt(
        &mut self,
        trees: &mut Trees,
        service: ServiceId,
        instance: Instance,
        wanted: &[SocketAddr],
    ) {
        if wanted.is_empty() {
            return;
        }
        let found = trees.sockets(service, instance, &mut Set::new());
        let mut have: Vec<(SocketAddr, OwnedFd)> = Vec::new();
        for reached in &found.listening {
            // What cannot be had is opened with the next start.
            if let Ok(Some((copy, bound))) = drain::copy(reached) {
                let is_new = have.iter().all(|(a, _)| *a != bound.local);
                if wanted.contains(&bound.local) && is_new {
                    have.push((bound.local, copy));
                }
            }
        }
        if !have.is_empty() {
            self.open.insert(service, have);
        }
    }

    /// To be passed, in the order of the definition.
    pub fn of(&self, service: ServiceId) -> Vec<BorrowedFd<'_>> {
        let open = self.open.get(&service).into_iter().flatten();
        open.map(|(_, socket)| socket.as_fd()).collect()
    }

    /// Their inodes.
    pub fn inodes(&self, service: ServiceId) -> Vec<u64> {
        let inode = |socket| filter::identity(socket).ok().map(|(inode, _)| inode);
        self.of(service).into_iter().filter_map(inode).collect()
    }

    /// For the next program of this process.
    pub fn keep(&self, fds: &mut Fds) -> Vec<Kept> {
        let open = self.open.iter();
        let all = open.flat_map(|(id, sockets)| sockets.iter().map(|s| (*id, s)));
        all.map(|(service, (address, socket))| Kept {
            service,
            address: *address,
            fd: fds.pass(socket),
        })
        .collect()
    }

    /// What [`Sockets::keep`] has passed on.
    ///
    /// # Errors
    /// A descriptor is missing.
    pub fn kept(all: Vec<Kept>, left: &mut Inherited) -> io::Result<Sockets> {
        let mut sockets = Sockets::default();
        for kept in all {
            let socket = (kept.address, left.take(kept.fd)?);
            sockets.open.entry(kept.service).or_default().push(socket);
        }
        Ok(sockets)
    }

    /// The service is down.
    pub fn close(&mut self, service: ServiceId) {
        self.open.remove(&service);
    }

    /// Who has any.
    pub fn services(&self) -> Vec<ServiceId> {
        self.open.keys().copied().collect()
    }
}

/// Whether a socket that was passed before is as good as a new one, after all that is shared with
/// who had it is set back: that it does not block, and what its filter drops. One that no longer
/// listens (shutdown(2) on it is for everybody), or whose filter is locked, is not.
fn is_as_new(socket: &OwnedFd) -> bool {
    filter::detach(socket.as_fd()).ok(); // it has none, or one that is locked
    let listens = filter::identity(socket.as_fd()).is_ok_and(|(_, listens)| listens);
    listens && !filter::is_locked(socket.as_fd()) && blocks(socket).is_ok()
}

fn blocks(socket: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}

fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    // With SO_REUSEADDR, close-on-exec.
    let listener = TcpListener::bind(address)?;
    // So many may wait to be accepted as the kernel allows (somaxconn). Not a number: the C library
    // of routers knows 128 as the highest, and more is an error.
    listen(&listener, Backlog::MAXALLOWABLE)?;
    Ok(listener.into())
}
