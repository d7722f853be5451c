//! The control socket's listener: who connects gets a slot, or is told why not.

use std::io;
use std::path::Path;
use std::time::Duration;

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry};
use nix::sys::socket::{listen, socket, AddressFamily, Backlog, SockFlag, SockType};

use super::access::{Access, Peer, Rights};
use super::connection::Connection;
use super::{drop_slot, ClientEvent, Clients, CLIENTS};
use crate::control::codec::encode_reply;
use crate::control::reply::{Code, Reply};
use crate::daemon::rundir::{bind_anew, plain};
use crate::daemon::token::Source;
use crate::machine::time::Tick;
use crate::sys::file;

/// Connections taken in one turn.
const ACCEPTS: usize = 64;

/// Descriptors that are kept for clients.
const RESERVE: usize = 3;

/// With no descriptor left, the next attempt to accept.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

impl Clients {
    pub(super) fn accept(&mut self, now: Tick, registry: &Registry, out: &mut Vec<ClientEvent>) {
        for _ in 0..ACCEPTS {
            if !self.acceptable {
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.welcome(stream, false, now, registry, out),
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR | libc::ECONNABORTED) => {}
                    Some(libc::EMFILE | libc::ENFILE) => {
                        self.accept_by_reserve(now, registry, out);
                    }
                    Some(libc::EAGAIN) => self.acceptable = false,
                    // ENOMEM, ENOBUFS and the like: the edge is spent, so a timer.
                    _ => {
                        self.acceptable = false;
                        self.accept_again = Some(now + ACCEPT_AGAIN);
                    }
                },
            }
        }
    }

    /// No descriptor is left: gives up one of the reserve for the connection. accept(2) says so
    /// even when nobody waits, and then there is nothing to do.
    fn accept_by_reserve(&mut self, now: Tick, registry: &Registry, out: &mut Vec<ClientEvent>) {
        let had = self.reserve.give_up();
        match had.then(|| self.listener.accept()) {
            Some(Ok((stream, _))) => {
                let is_last = self.reserve.is_empty();
                self.welcome(stream, is_last, now, registry, out);
            }
            Some(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => self.acceptable = false,
            Some(Err(_)) | None => {
                self.acceptable = false;
                self.accept_again = Some(now + ACCEPT_AGAIN);
            }
        }
        self.reserve.fill();
    }

    /// `is_last`: it has the last descriptor, and stays only in the place of another one.
    fn welcome(
        &mut self,
        mut stream: UnixStream,
        is_last: bool,
        now: Tick,
        registry: &Registry,
        out: &mut Vec<ClientEvent>,
    ) {
        let Ok(peer) = Peer::of(&stream) else {
            return; // gone already
        };
        let rights = self.access.rights(&peer, &stream);
        if rights == Rights::None {
            let text = "you may not use this socket (see control-group and status-group)";
            say(&stream, &Reply::error(0, Code::NotPermitted, text));
            self.refused(now, peer, None, out);
            return;
        }
        let Some(slot) = self.free_slot(rights, is_last, registry) else {
            let what = match is_last {
                true => "was turned away: superd has no file descriptor left (see RLIMIT_NOFILE)",
                false => "was turned away: there are too many clients",
            };
            say_busy(&stream, is_last);
            return self.troubled(now, peer, what);
        };
        let token = Source::Client(u32::try_from(slot).unwrap_or(0)).token();
        let both = Interest::READABLE | Interest::WRITABLE;
        if registry.register(&mut stream, token, both).is_err() {
            say_busy(&stream, is_last);
            return;
        }
        let number = self.next;
        self.next += 1;
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Connection::new(number, stream, peer, rights, now));
        }
        // At once: who has already asked is not evicted by those behind it.
        self.serve(slot, now, out);
    }

    /// A slot for a newcomer: a free one, or that of the connection which has been idle
    /// longest, or, for somebody who may do all, of one who may only look.
    fn free_slot(&mut self, rights: Rights, is_last: bool, registry: &Registry) -> Option<usize> {
        let free = self.slots.iter().position(Option::is_none);
        if let Some(free) = free.filter(|_| !is_last) {
            return Some(free);
        }
        if self.slots.len() < CLIENTS && !is_last {
            self.slots.push(None);
            return Some(self.slots.len() - 1);
        }
        let all = || {
            let slots = self.slots.iter().enumerate();
            slots.filter_map(|(i, c)| c.as_ref().map(|c| (i, c)))
        };
        let idle = all().filter(|(_, c)| c.is_idle());
        let looking = all().filter(|(_, c)| rights == Rights::All && c.rights == Rights::Look);
        let (i, _) = idle
            .min_by_key(|(_, c)| c.last)
            .or_else(|| looking.min_by_key(|(_, c)| c.last))?;
        let slot = self.slots.get_mut(i)?;
        if let Some(c) = slot {
            say_busy(&c.stream, is_last);
        }
        drop_slot(slot, registry, &mut self.gone);
        Some(i)
    }
}

/// Binds and listens. A file of that name is removed first.
pub(super) fn listen_at(
    path: &Path,
    access: &Access,
    registry: &Registry,
) -> io::Result<UnixListener> {
    let named = |e: io::Error| {
        let text = format!("{}: {}", path.display(), plain(&e));
        io::Error::new(e.kind(), text)
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind_anew(&fd, path).map_err(named)?;
    access.apply(path).map_err(named)?;
    listen(&fd, Backlog::MAXCONN).map_err(|e| named(e.into()))?;
    let mut listener = UnixListener::from_std(fd.into());
    registry.register(&mut listener, Source::Listener.token(), Interest::READABLE)?;
    Ok(listener)
}

/// Descriptors that are given up for clients when there are no others: services may take all
/// that superd may have, and the operator must be able to ask, and to stop them, all the same.
/// With the last one somebody is told that there is none.
pub(super) struct Reserve(Vec<std::fs::File>);

impl Reserve {
    pub fn new() -> Reserve {
        let mut reserve = Reserve(Vec::new());
        reserve.fill();
        reserve
    }

    /// As many as there should be, as far as there are any.
    pub fn fill(&mut self) {
        while self.0.len() < RESERVE {
            match file::open_to_read("/dev/null") {
                Ok(file) => self.0.push(file),
                Err(_) => return,
            }
        }
    }

    /// Closes one; false: there is none.
    fn give_up(&mut self) -> bool {
        self.0.pop().is_some()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn say_busy(stream: &UnixStream, is_last: bool) {
    let text = match is_last {
        true => "superd has no file descriptor left (its services need more than its limit RLIMIT_NOFILE); try again",
        false => "too many clients; try again",
    };
    say(stream, &Reply::error(0, Code::Busy, text));
}

/// One line to somebody who is about to be closed, as far as it gets.
fn say(mut stream: &UnixStream, reply: &Reply) {
    let mut line = Vec::new();
    encode_reply(reply, &mut line);
    io::Write::write(&mut stream, &line).ok(); // it is closed either way
}
