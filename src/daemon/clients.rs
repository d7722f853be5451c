//! The control socket: who may connect, what they ask, and their answers on the way out.
//! What a request means is the reactor's and the machine's business.
//!
//! A client can only ever delay itself. Its requests are read a few per turn and never
//! further than 64 ahead of the answers; what waits to be sent to it is bounded, and so
//! is the time for which it may send half a line, not read, or do nothing. The thousandth
//! connection costs as much as the thirty-third.
//!
//! Here are the slots and what is asked of all of them; who gets one is in [`accept`].

mod accept;
mod access;
mod connection;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry};

use accept::{listen_at, Reserve};
#[cfg(test)]
use access::Rights;
pub use access::{Access, Peer};
use connection::{Connection, Heard};

use super::token::Source;
use super::upgrade::state::Fds;
use crate::control::reply::Reply;
use crate::control::request::{Request, Verb};
use crate::json::{FromJson, ToJson};
use crate::machine::event::{ServiceId, Ticket};
use crate::machine::time::Tick;
use crate::sys::handover::Inherited;

/// Connections at a time.
pub const CLIENTS: usize = 32;

/// Requests of one client that are handled in one turn.
const PER_TURN: usize = 32;

/// Refusals are put into the log at most this often.
const REFUSED_EVERY: Duration = Duration::from_secs(5);

/// What the reactor is told.
#[derive(Debug)]
pub enum ClientEvent {
    /// Somebody who may asks for something. [`Clients::reply`] is owed.
    Request {
        /// Where the answer goes.
        ticket: Ticket,
        /// What is asked. Its `v` is the right one.
        request: Request,
        /// Who asks.
        peer: Peer,
    },
    /// The connection is over: nothing reaches its tickets any more.
    Gone(u64),
    /// Somebody does what no client should. For the log; of these and the refusals at most
    /// one every five seconds.
    Trouble {
        /// Who.
        peer: Peer,
        /// What it does, and what was done about it.
        what: &'static str,
        /// What was not reported since the last event of either kind.
        more: u64,
    },
    /// Somebody asked for what they may not; they have been told. For the log; at most
    /// one every five seconds.
    Refused {
        /// Who.
        peer: Peer,
        /// For what; none: to connect at all.
        verb: Option<Verb>,
        /// Refusals since the last event of this kind that were not reported.
        more: u64,
    },
}

/// What a subscriber follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub enum Stream {
    /// `logs -f`
    Logs,
    /// `events -f`
    Events,
}

/// What outlives a change of the program.
#[derive(ToJson, FromJson)]
pub struct Kept {
    listener: i32,
    path: PathBuf,
    connections: Vec<connection::Kept>,
    next: u64,
    gone: Vec<u64>,
    refused_at: Option<Tick>,
    refused_more: u64,
}

/// The listening socket and its connections.
pub struct Clients {
    listener: UnixListener,
    path: PathBuf,
    access: Access,
    slots: Vec<Option<Connection>>,
    /// Number of the next connection.
    next: u64,
    acceptable: bool,
    accept_again: Option<Tick>,
    reserve: Reserve,
    gone: Vec<u64>,
    /// Where the next turn begins, so that nobody is always first.
    first: usize,
    refused_at: Option<Tick>,
    refused_more: u64,
    /// To be told with the next turn.
    trouble: Option<ClientEvent>,
}

impl Clients {
    /// Binds and listens. A file of that name is removed first: the caller holds the lock
    /// of the run directory, so nobody is behind it. Owner and mode are set before
    /// listen(2), so nobody connects under the wrong ones.
    ///
    /// # Errors
    /// Of socket(2), bind(2), chown(2), chmod(2) and listen(2); the text names the path.
    pub fn bind(path: &Path, access: Access, registry: &Registry) -> io::Result<Clients> {
        let listener = listen_at(path, &access, registry)?;
        Ok(Clients {
            listener,
            path: path.to_owned(),
            access,
            slots: Vec::new(),
            next: 1,
            acceptable: true,
            accept_again: None,
            reserve: Reserve::new(),
            gone: Vec::new(),
            first: 0,
            refused_at: None,
            refused_more: 0,
            trouble: None,
        })
    }

    /// The socket's file is gone: listens on a new one of the same name. Connections that
    /// are open stay.
    ///
    /// # Errors
    /// As [`Clients::bind`].
    pub fn listen_again(&mut self, registry: &Registry) -> io::Result<()> {
        let new = listen_at(&self.path, &self.access, registry)?;
        registry.deregister(&mut self.listener).ok(); // it is closed now anyway
        self.listener = new;
        self.acceptable = true;
        Ok(())
    }

    /// For a superd that becomes another program. Who connects meanwhile waits in the queue of
    /// the listening socket.
    pub fn keep(&self, fds: &mut Fds) -> Kept {
        let open = self.slots.iter().flatten();
        Kept {
            listener: fds.pass(&self.listener),
            path: self.path.clone(),
            connections: open.map(|c| c.keep(fds)).collect(),
            next: self.next,
            gone: self.gone.clone(),
            refused_at: self.refused_at,
            refused_more: self.refused_more,
        }
    }

    /// What [`Clients::keep`] said, in the new one. Until [`Clients::set_access`] nobody new
    /// but root and superd's own user may do anything.
    ///
    /// # Errors
    /// Of epoll_ctl(2).
    pub fn kept(kept: Kept, left: &mut Inherited, registry: &Registry) -> io::Result<Clients> {
        let mut listener = UnixListener::from_std(left.take(kept.listener)?.into());
        registry.register(&mut listener, Source::Listener.token(), Interest::READABLE)?;
        let mut slots = Vec::new();
        for (slot, c) in (0..).zip(kept.connections) {
            let mut stream = UnixStream::from_std(left.take(c.stream)?.into());
            let both = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut stream, Source::Client(slot).token(), both)?;
            slots.push(Some(Connection::kept(c, stream)));
        }
        Ok(Clients {
            listener,
            path: kept.path,
            access: Access::private(),
            slots,
            next: kept.next,
            acceptable: true,
            accept_again: None,
            reserve: Reserve::new(),
            gone: kept.gone,
            first: 0,
            refused_at: kept.refused_at,
            refused_more: kept.refused_more,
            trouble: None,
        })
    }

    /// Other groups, after a reload. Connections that are open keep their rights.
    ///
    /// # Errors
    /// Of chown(2) and chmod(2).
    pub fn set_access(&mut self, access: Access) -> io::Result<()> {
        access.apply(&self.path)?;
        self.access = access;
        Ok(())
    }

    /// mio says something about the listener or a connection. Only remembered here.
    pub fn ready(&mut self, source: Source, event: &mio::event::Event) {
        match source {
            Source::Listener => self.acceptable = true,
            Source::Client(slot) => {
                if let Some(Some(c)) = self.slots.get_mut(slot as usize) {
                    c.ready(event);
                }
            }
            _ => {}
        }
    }

    /// Takes new connections and reads requests, a bounded number of each.
    pub fn turn(&mut self, now: Tick, registry: &Registry, out: &mut Vec<ClientEvent>) {
        self.accept(now, registry, out);
        let n = self.slots.len();
        self.first = if n == 0 { 0 } else { (self.first + 1) % n };
        for i in 0..n {
            self.serve((self.first + i) % n, now, out);
        }
        self.flush(now, registry);
        out.extend(self.trouble.take());
        out.extend(self.gone.drain(..).map(ClientEvent::Gone));
    }

    /// Something is left over from the last turn: poll with a timeout of zero.
    pub fn more_work(&self) -> bool {
        self.acceptable
            || !self.gone.is_empty()
            || self.trouble.is_some()
            || self.slots.iter().flatten().any(Connection::runnable)
    }

    /// Sends what waits. To be called after replies, before the next poll; also drops
    /// connections that are over (their `Gone` comes with the next turn, for which
    /// [`Clients::more_work`] asks).
    pub fn flush(&mut self, now: Tick, registry: &Registry) {
        for slot in &mut self.slots {
            let over = slot.as_mut().is_some_and(|c| {
                c.send(now);
                c.is_over()
            });
            if over {
                drop_slot(slot, registry, &mut self.gone);
            }
        }
        self.reserve.fill();
    }

    /// When [`Clients::expire`] is to be called; none while nobody is connected.
    pub fn next_deadline(&self) -> Option<Tick> {
        let clients = self.slots.iter().flatten().filter_map(Connection::deadline);
        clients.chain(self.accept_again).min()
    }

    /// Drops those whose time is up.
    pub fn expire(&mut self, now: Tick, registry: &Registry) {
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.acceptable = true;
        }
        let mut late = Vec::new();
        for slot in &mut self.slots {
            let is_due = |c: &&mut Connection| c.deadline().is_some_and(|at| at <= now);
            if let Some(c) = slot.as_mut().filter(is_due) {
                late.extend(c.complaint(now).map(|what| (c.peer(Verb::Status), what)));
                drop_slot(slot, registry, &mut self.gone);
            }
        }
        self.reserve.fill();
        for (peer, what) in late {
            self.troubled(now, peer, what);
        }
    }

    /// Queues a line of the answer; the last one (`more` unset) settles the request. The
    /// id is filled in. A ticket whose client is gone is no error.
    pub fn reply(&mut self, ticket: Ticket, mut reply: Reply) {
        let Some(c) = self.of(ticket) else { return };
        let Some(id) = c.id_of(ticket.request) else {
            return;
        };
        reply.id = id;
        c.push(&reply);
        if !reply.more {
            c.settle(ticket.request);
        }
    }

    /// The client gets what is published about this service, or about all. Its request
    /// stays open until the service or the client goes.
    pub fn subscribe(&mut self, ticket: Ticket, stream: Stream, service: Option<ServiceId>) {
        if let Some(c) = self.of(ticket) {
            c.subscribe(ticket.request, stream, service);
        }
    }

    /// Whether anybody follows this.
    pub fn has_subscribers(&self, stream: Stream, service: ServiceId) -> bool {
        let mut all = self.slots.iter().flatten();
        all.any(|c| c.follows(stream, service))
    }

    /// Whether anybody follows anything of this kind.
    pub fn is_followed(&self, stream: Stream) -> bool {
        let mut all = self.slots.iter().flatten();
        all.any(|c| c.follows_any(stream))
    }

    /// Sends a line to those who follow; `make` is called only if there is one. Who is
    /// more than 256 KiB behind does not get it, and is told how many it missed.
    pub fn publish(&mut self, stream: Stream, service: ServiceId, make: impl FnOnce() -> Reply) {
        if !self.has_subscribers(stream, service) {
            return;
        }
        let mut reply = make();
        reply.more = true;
        for c in self.slots.iter_mut().flatten() {
            c.publish(stream, service, &mut reply);
        }
    }

    /// The service is gone for good: ends the streams that follow only it.
    pub fn end_streams(&mut self, service: ServiceId) {
        for c in self.slots.iter_mut().flatten() {
            c.end_streams(service);
        }
    }

    /// Connections that are open.
    pub fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// All that was to be sent has been sent; asked before superd ends.
    pub fn is_flushed(&self) -> bool {
        self.slots.iter().flatten().all(Connection::is_flushed)
    }

    fn of(&mut self, ticket: Ticket) -> Option<&mut Connection> {
        let mut all = self.slots.iter_mut().flatten();
        all.find(|c| c.number == ticket.client)
    }

    /// Reads and decodes, at most [`PER_TURN`] requests.
    fn serve(&mut self, slot: usize, now: Tick, out: &mut Vec<ClientEvent>) {
        let (mut refused, mut garbage) = (None, None);
        if let Some(Some(c)) = self.slots.get_mut(slot) {
            for _ in 0..PER_TURN {
                match c.next(now) {
                    Some(Heard::Request(ticket, request)) => {
                        let peer = c.peer(request.verb);
                        out.push(ClientEvent::Request {
                            ticket,
                            request: *request,
                            peer,
                        });
                    }
                    Some(Heard::Refused(verb)) => refused = Some((c.peer(verb), verb)),
                    Some(Heard::Garbage) => garbage = Some(c.peer(Verb::Status)),
                    Some(Heard::Nothing) => {}
                    None => break,
                }
            }
        }
        if let Some((peer, verb)) = refused {
            self.refused(now, peer, Some(verb), out);
        }
        if let Some(peer) = garbage {
            self.troubled(now, peer, "sent what is no request, and was told so");
        }
    }

    fn troubled(&mut self, now: Tick, peer: Peer, what: &'static str) {
        if let Some(more) = self.unreported(now) {
            let peer = peer.with_command();
            self.trouble = Some(ClientEvent::Trouble { peer, what, more });
        }
    }

    fn refused(&mut self, now: Tick, peer: Peer, verb: Option<Verb>, out: &mut Vec<ClientEvent>) {
        if let Some(more) = self.unreported(now) {
            let peer = peer.with_command();
            out.push(ClientEvent::Refused { peer, verb, more });
        }
    }

    /// How many of either kind were not reported since the last one that was; none: that is a
    /// moment ago, and this one is counted instead.
    fn unreported(&mut self, now: Tick) -> Option<u64> {
        let soon = |at: Tick| now.since(at) < REFUSED_EVERY;
        if self.refused_at.is_some_and(soon) {
            self.refused_more += 1;
            return None;
        }
        self.refused_at = Some(now);
        Some(std::mem::take(&mut self.refused_more))
    }
}

fn drop_slot(slot: &mut Option<Connection>, registry: &Registry, gone: &mut Vec<u64>) {
    if let Some(mut c) = slot.take() {
        registry.deregister(&mut c.stream).ok(); // closing it does the same
        gone.push(c.number);
    }
}

#[cfg(test)]
mod tests;
