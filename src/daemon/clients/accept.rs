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

/// With no descriptor left, the next attempt to accept.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

impl Clients {
    pub(super) fn accept(&mut self, now: Tick, registry: &Registry, out: &mut Vec<ClientEvent>) {
        for _ in 0..ACCEPTS {
            if !self.acceptable {
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.welcome(stream, now, registry, out),
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR | libc::ECONNABORTED) => {}
                    Some(libc::EMFILE | libc::ENFILE) => self.turn_away(now),
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

    /// No descriptor is left: gives up the reserve to take one connection and close it.
    /// accept(2) says so even when nobody waits, and then there is nothing to do.
    fn turn_away(&mut self, now: Tick) {
        let had = self.reserve.take().is_some();
        let took = had.then(|| self.listener.accept().map(|(s, _)| say_busy(&s)));
        self.reserve = reserve();
        match took {
            Some(Ok(_)) => {}
            Some(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => self.acceptable = false,
            Some(Err(_)) | None => {
                self.acceptable = false;
                self.accept_again = Some(now + ACCEPT_AGAIN);
            }
        }
    }

    fn welcome(
        &mut self,
        mut stream: UnixStream,
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
        let Some(slot) = self.free_slot(rights, registry) else {
            say_busy(&stream);
            let what = "was turned away: there are too many clients";
            return self.troubled(now, peer, what);
        };
        let token = Source::Client(u32::try_from(slot).unwrap_or(0)).token();
        let both = Interest::READABLE | Interest::WRITABLE;
        if registry.register(&mut stream, token, both).is_err() {
            say_busy(&stream);
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
    fn free_slot(&mut self, rights: Rights, registry: &Registry) -> Option<usize> {
        if let Some(free) = self.slots.iter().position(Option::is_none) {
            return Some(free);
        }
        if self.slots.len() < CLIENTS {
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
            say_busy(&c.stream);
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

/// A descriptor to give up when there is no other.
pub(super) fn reserve() -> Option<std::fs::File> {
    file::open_to_read("/dev/null").ok()
}

fn say_busy(stream: &UnixStream) -> bool {
    let text = "too many clients; try again";
    say(stream, &Reply::error(0, Code::Busy, text));
    true
}

/// One line to somebody who is about to be closed, as far as it gets.
fn say(mut stream: &UnixStream, reply: &Reply) {
    let mut line = Vec::new();
    encode_reply(reply, &mut line);
    io::Write::write(&mut stream, &line).ok(); // it is closed either way
}
