//! One control connection and its limits. What the bytes mean is `control::codec`'s business.
//!
//! A little long: reading, asking and sending share the limits.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Duration;

use mio::net::UnixStream;

use super::access::{Peer, Rights};
use super::Stream;
use crate::control::codec::{decode_line, encode_reply, BadLine, Lines};
use crate::control::reply::{Code, Reply};
use crate::control::request::{Request, Verb, LINE_CAP};
use crate::daemon::upgrade::state::{Bytes, Fds};
use crate::json::{FromJson, ToJson};
use crate::machine::event::{ServiceId, Ticket};
use crate::machine::time::Tick;

/// Requests without an answer, beyond which no further one is read.
const OUTSTANDING: usize = 64;

/// Bytes waiting to be sent, beyond which no further request is read.
const SOFT: usize = 64 * 1024;

/// Bytes waiting to be sent, beyond which a follower misses lines.
const STREAM: usize = 256 * 1024;

/// Bytes waiting to be sent, beyond which the client is dropped.
const HARD: usize = 4 * 1024 * 1024;

/// For this long a connection may do nothing.
const IDLE: Duration = Duration::from_secs(60);

/// For this long a line may be half sent.
const HALF_LINE: Duration = Duration::from_secs(10);

/// For this long a client may not read while something waits for it.
const NOT_READING: Duration = Duration::from_secs(30);

/// What a line turned out to be. All but a request have been answered.
pub enum Heard {
    Request(Ticket, Box<Request>),
    Refused(Verb),
    /// No request; it was told so.
    Garbage,
    Nothing,
}

/// What of a connection outlives a change of the program.
#[derive(ToJson, FromJson)]
pub struct Kept {
    number: u64,
    pub stream: i32,
    may_only_look: bool,
    last: Tick,
    peer: Peer,
    requests: u64,
    open: VecDeque<Open>,
    lines: Bytes,
    discarding: bool,
    half: Option<Tick>,
    eof: bool,
    hung_up: bool,
    closing: bool,
    output: Bytes,
    stuck: Option<Tick>,
}

/// A request that is owed an answer.
#[derive(Clone, ToJson, FromJson)]
struct Open {
    request: u64,
    id: u64,
    follows: Option<(Stream, Option<ServiceId>)>,
    /// Lines it missed.
    missed: u64,
}

/// One connection.
pub struct Connection {
    pub number: u64,
    pub stream: UnixStream,
    pub rights: Rights,
    /// When the last byte came or went.
    pub last: Tick,
    peer: Peer,
    requests: u64,
    open: VecDeque<Open>,
    lines: Lines,
    /// Since when half a line is there and no whole one.
    half: Option<Tick>,
    readable: bool,
    /// It sends no more.
    eof: bool,
    /// It does not read any more either.
    hung_up: bool,
    /// Nothing further is read: it is closed when all is sent.
    closing: bool,
    output: Vec<u8>,
    sent: usize,
    writable: bool,
    /// Since when nothing could be sent although something waits.
    stuck: Option<Tick>,
}

impl Connection {
    pub fn new(number: u64, stream: UnixStream, peer: Peer, rights: Rights, now: Tick) -> Self {
        Connection {
            number,
            stream,
            rights,
            last: now,
            peer,
            requests: 0,
            open: VecDeque::new(),
            lines: Lines::new(LINE_CAP),
            half: None,
            readable: true,
            eof: false,
            hung_up: false,
            closing: false,
            output: Vec::new(),
            sent: 0,
            writable: true,
            stuck: None,
        }
    }

    /// For a superd that becomes another program.
    pub fn keep(&self, fds: &mut Fds) -> Kept {
        let (lines, discarding) = self.lines.keep();
        Kept {
            number: self.number,
            stream: fds.pass(&self.stream),
            may_only_look: self.rights == Rights::Look,
            last: self.last,
            peer: self.peer.clone(),
            requests: self.requests,
            open: self.open.clone(),
            lines: Bytes(lines.to_vec()),
            discarding,
            half: self.half,
            eof: self.eof,
            hung_up: self.hung_up,
            closing: self.closing,
            output: Bytes(self.output.get(self.sent..).unwrap_or_default().to_vec()),
            stuck: self.stuck,
        }
    }

    /// What [`Connection::keep`] said, in the new one.
    pub fn kept(kept: Kept, stream: UnixStream) -> Connection {
        Connection {
            number: kept.number,
            stream,
            rights: match kept.may_only_look {
                true => Rights::Look,
                false => Rights::All,
            },
            last: kept.last,
            peer: kept.peer,
            requests: kept.requests,
            open: kept.open,
            lines: Lines::kept(LINE_CAP, &kept.lines.0, kept.discarding),
            half: kept.half,
            readable: !kept.eof,
            eof: kept.eof,
            hung_up: kept.hung_up,
            closing: kept.closing,
            output: kept.output.0,
            sent: 0,
            writable: true,
            stuck: kept.stuck,
        }
    }

    pub fn ready(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable() || event.is_read_closed();
        self.writable |= event.is_writable();
        // The whole connection, not only its sending half: nobody is there to answer.
        self.hung_up |= event.is_write_closed() || event.is_error();
    }

    /// As an event that says "readable".
    #[cfg(test)]
    pub fn wake(&mut self) {
        self.readable = true;
    }

    /// Who it is; with the command's name once it asks for more than to look.
    pub fn peer(&mut self, verb: Verb) -> Peer {
        if !verb.only_looks() && self.peer.command.is_empty() {
            self.peer = self.peer.clone().with_command();
        }
        self.peer.clone()
    }

    /// Whether reading on would find something and is allowed to.
    pub fn runnable(&self) -> bool {
        (self.lines.has_line() || (self.readable && !self.eof)) && !self.closing && !self.is_held()
    }

    /// It is ahead of its answers, or does not read them.
    fn is_held(&self) -> bool {
        self.open.len() >= OUTSTANDING || self.waiting() > SOFT
    }

    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.waiting() == 0
    }

    pub fn is_flushed(&self) -> bool {
        self.waiting() == 0 || self.hung_up
    }

    /// Nothing will come of it any more.
    pub fn is_over(&self) -> bool {
        // What it asked for before it went is still done, as far as it could be read.
        if self.hung_up {
            return !self.runnable();
        }
        let done = self.eof && !self.lines.has_line() && self.open.is_empty();
        (done || self.closing) && self.waiting() == 0
    }

    /// The earliest of its time limits.
    pub fn deadline(&self) -> Option<Tick> {
        let idle = self.is_idle().then(|| self.last + IDLE);
        let half = self.half.map(|at| at + HALF_LINE);
        let stuck = self.stuck.map(|at| at + NOT_READING);
        [idle, half, stuck].into_iter().flatten().min()
    }

    /// What is wrong with it, if its time is up for that.
    pub fn complaint(&self, now: Tick) -> Option<&'static str> {
        let is_up = |since: Option<Tick>, limit| since.is_some_and(|at| at + limit <= now);
        if is_up(self.half, HALF_LINE) {
            return Some("was hung up on: it sent half a request, and no more for 10 s");
        }
        let is_stuck = is_up(self.stuck, NOT_READING);
        is_stuck.then_some("was hung up on: it took nothing of its answer for 30 s")
    }

    /// The next request, or none when nothing complete is there or it is held back.
    pub fn next(&mut self, now: Tick) -> Option<Heard> {
        loop {
            if self.closing || self.is_held() {
                // Time does not run against it while it is us who do not read.
                self.half = None;
                return None;
            }
            let Some(line) = self.lines.next_line().map(decode_line) else {
                if self.read(now) {
                    continue;
                }
                return None;
            };
            self.half = None;
            self.note_half(now);
            return Some(match line {
                None => Heard::Nothing, // counts, or newlines could go on forever
                Some(Ok(request)) => self.admit(request, now),
                Some(Err(bad)) => {
                    self.last = now;
                    self.push(&bad.reply());
                    if let BadLine::TooLong { .. } = bad {
                        self.closing = true;
                        self.half = None;
                    }
                    Heard::Garbage
                }
            });
        }
    }

    /// Reads once, never beyond the longest line; whether anything came.
    fn read(&mut self, now: Tick) -> bool {
        if !self.readable || self.eof {
            self.note_half(now);
            return false;
        }
        let mut buf = [0; 4096];
        // Not 0: no whole line is there.
        let room = self.lines.room().min(buf.len());
        match self.stream.read(buf.get_mut(..room).unwrap_or_default()) {
            Ok(0) => {
                self.eof = true;
                self.readable = false;
                self.half = None;
                false
            }
            Ok(n) => {
                self.last = now;
                self.lines.push(buf.get(..n).unwrap_or_default());
                true
            }
            Err(e) => match e.kind() {
                io::ErrorKind::Interrupted => true,
                io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    self.note_half(now);
                    false
                }
                _ => {
                    self.hung_up = true;
                    self.eof = true;
                    self.readable = false;
                    false
                }
            },
        }
    }

    /// The clock of a half line starts with its first byte and is not reset by further
    /// ones: a byte every nine seconds does not hold a connection.
    fn note_half(&mut self, now: Tick) {
        self.half = match self.lines.is_partial() {
            true => self.half.or(Some(now)),
            false => None,
        };
    }

    /// A request that can be read: may this client ask for that?
    fn admit(&mut self, request: Request, now: Tick) -> Heard {
        self.last = now;
        if !self.rights.allow(request.verb) {
            let text = "not permitted: members of status-group may only look";
            self.push(&Reply::error(request.id, Code::NotPermitted, text));
            return Heard::Refused(request.verb);
        }
        self.requests += 1;
        self.open.push_back(Open {
            request: self.requests,
            id: request.id,
            follows: None,
            missed: 0,
        });
        let ticket = Ticket {
            client: self.number,
            request: self.requests,
        };
        Heard::Request(ticket, Box::new(request))
    }

    pub fn id_of(&self, request: u64) -> Option<u64> {
        let mut open = self.open.iter();
        open.find(|o| o.request == request).map(|o| o.id)
    }

    /// The request is answered.
    pub fn settle(&mut self, request: u64) {
        self.open.retain(|o| o.request != request);
    }

    pub fn subscribe(&mut self, request: u64, stream: Stream, service: Option<ServiceId>) {
        if let Some(o) = self.open.iter_mut().find(|o| o.request == request) {
            o.follows = Some((stream, service));
        }
    }

    pub fn follows(&self, stream: Stream, service: ServiceId) -> bool {
        self.open.iter().any(|o| o.wants(stream, service))
    }

    pub fn follows_any(&self, stream: Stream) -> bool {
        let of_it = |o: &Open| o.follows.is_some_and(|(s, _)| s == stream);
        self.open.iter().any(of_it)
    }

    pub fn publish(&mut self, stream: Stream, service: ServiceId, reply: &mut Reply) {
        let mut open = std::mem::take(&mut self.open);
        for o in open.iter_mut().filter(|o| o.wants(stream, service)) {
            if self.waiting() > STREAM {
                o.missed += 1;
                continue;
            }
            if o.missed > 0 {
                let mut note = Reply::ok(o.id);
                note.more = true;
                note.message = format!("{} lines dropped: too slow", o.missed);
                o.missed = 0;
                self.push(&note);
            }
            reply.id = o.id;
            self.push(reply);
        }
        self.open = open;
    }

    pub fn end_streams(&mut self, service: ServiceId) {
        let ends = |o: &Open| o.follows.is_some_and(|(_, only)| only == Some(service));
        let over: Vec<u64> = self.open.iter().filter(|o| ends(o)).map(|o| o.id).collect();
        self.open.retain(|o| !ends(o));
        for id in over {
            self.push(&Reply::ok(id));
        }
    }

    /// Queues a line.
    pub fn push(&mut self, reply: &Reply) {
        if self.hung_up {
            return;
        }
        encode_reply(reply, &mut self.output);
        if self.waiting() > HARD {
            self.hang_up();
        }
    }

    /// Nothing is read from it or sent to it any more.
    fn hang_up(&mut self) {
        self.hung_up = true;
        self.closing = true;
        self.output = Vec::new();
        self.sent = 0;
    }

    fn waiting(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Sends what waits, until it is all sent or nothing more is taken.
    pub fn send(&mut self, now: Tick) {
        while self.waiting() > 0 && self.writable && !self.hung_up {
            let rest = self.output.get(self.sent..).unwrap_or_default();
            match self.stream.write(rest) {
                Ok(n) => {
                    self.sent += n;
                    self.stuck = None;
                    self.last = now;
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => self.writable = false,
                    _ => self.hung_up = true,
                },
            }
        }
        if self.waiting() == 0 || self.hung_up {
            self.output = Vec::new();
            self.sent = 0;
            self.stuck = None;
        } else {
            self.stuck = self.stuck.or(Some(now));
            if self.sent > SOFT {
                self.output.drain(..self.sent);
                self.sent = 0;
            }
        }
    }
}

impl Open {
    fn wants(&self, stream: Stream, service: ServiceId) -> bool {
        self.follows
            .is_some_and(|(s, only)| s == stream && only.is_none_or(|id| id == service))
    }
}
