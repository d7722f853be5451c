//! One instance whose new connections are held back: which of its sockets have the filter, what
//! could not get it, and which connections are waited for.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::socket::{is_closed, port_range, reader_of, unseen, Bound, Held};
use crate::daemon::tree::Reachable;
use crate::daemon::trees::Trees;
use crate::machine::event::{ActionId, Instance, ServiceId};
use crate::machine::spec::{self, Drain};
use crate::machine::time::Tick;
use crate::map::{Map, Set};
use crate::sys::conntrack;
use crate::sys::filter;
use crate::sys::proc::{self, Connection, Listener, Transport};

/// So long a handshake that was under way counts: it ends in a connection soon, or it is one
/// of those that never end.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// A UDP socket counts as one connection until nothing has come for so long: what is open
/// there only the server knows.
const QUIET: Duration = Duration::from_secs(5);
/// Sockets of one instance, at most.
pub(super) const SOCKETS: usize = 256;
/// Lines about what cannot be held back, at most, each time.
const LINES: usize = 8;
/// And sockets that such a line names.
const NAMES: usize = 16;

/// An instance whose new connections are held back.
pub(super) struct Hold {
    pub instance: Instance,
    /// Who waits for its last connection.
    pub action: Option<ActionId>,
    pub what: Rc<Drain>,
    pub began: Tick,
    pub sockets: Vec<Held>,
    /// Open connections, as they were told last.
    pub open: Option<u32>,
    /// When idle connections are looked for.
    pub sweep: Tick,
    /// What could not be held back has been told.
    told: Set<String>,
}

/// Which sockets a drain takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// At its beginning.
    All,
    /// What was opened later. A UDP socket is often opened for one question: then a copy
    /// would only keep its port from being used again.
    Later,
}

/// What could not be held back, and why.
pub(super) struct Untaken {
    listener: Listener,
    why: String,
}

impl Hold {
    /// Nothing is held back yet.
    pub(super) fn new(instance: Instance, what: &Rc<Drain>, now: Tick) -> Hold {
        Hold {
            instance,
            action: None,
            what: what.clone(),
            began: now,
            sockets: Vec::new(),
            open: None,
            sweep: now,
            told: Set::new(),
        }
    }

    /// Attaches the filter to what is not held yet. Returns what that is impossible for.
    ///
    /// `room` is for how many superd may take here.
    pub(super) fn take(
        &mut self,
        found: &Reachable,
        which: Which,
        room: usize,
        now: Tick,
    ) -> Vec<Untaken> {
        let mut untaken = Vec::new();
        let most = SOCKETS.min(self.sockets.len().saturating_add(room));
        for reached in &found.listening {
            let listener = reached.listener;
            let is_held = |h: &Held| h.listener.inode == listener.inode;
            let later = which == Which::Later && listener.transport == Transport::Udp;
            if !self.wants(&listener) || later || self.sockets.iter().any(is_held) {
                continue;
            }
            let taken = match self.sockets.len() < most {
                true => Held::attach(reached, now),
                false => Err(format!(
                    "superd holds back {most} of its sockets, and no more"
                )),
            };
            match taken {
                Ok(Some(held)) => self.sockets.push(held),
                Ok(None) => {} // closed meanwhile
                Err(why) => untaken.push(Untaken { listener, why }),
            }
        }
        untaken
    }

    fn wants(&self, listener: &Listener) -> bool {
        match listener.transport {
            Transport::Tcp => self.what.takes(spec::Transport::Tcp, listener.port),
            Transport::Udp => self.what.takes(spec::Transport::Udp, listener.port),
        }
    }

    /// Of UDP sockets to which something has come not long ago: the connections that the
    /// kernel's connection tracking knows, each socket at least one. Where it tracks nothing
    /// (no firewall asks it to) there is one for each.
    pub(super) fn count_udp(&mut self, now: Tick) -> u32 {
        let mut active: Vec<&Bound> = Vec::new();
        let is_udp = |held: &&mut Held| held.listener.transport == Transport::Udp;
        for held in self.sockets.iter_mut().filter(is_udp) {
            let packet = filter::last_packet(held.copy.as_fd());
            if packet != held.packet.0 {
                held.packet = (packet, now);
            }
            if now < held.packet.1 + QUIET {
                active.push(&held.bound);
            }
        }
        let mut counts = vec![0_u32; active.len()];
        if !active.is_empty() {
            conntrack::udp(QUIET, &mut |local| {
                let of_this = |b: &Bound| b.network.is_none() && b.is_at(local);
                for (_, n) in active.iter().zip(&mut counts).filter(|(b, _)| of_this(b)) {
                    *n = n.saturating_add(1);
                }
            });
        }
        // Sockets that share a port are told the same number: it is the one of them all.
        let mut ports: Map<(u16, bool), u32> = Map::new();
        for (bound, n) in active.iter().zip(counts) {
            let of_port = ports.entry((bound.local.port(), n > 0)).or_default();
            *of_port = match n {
                0 => of_port.saturating_add(1),
                _ => n.max(*of_port),
            };
        }
        ports.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The network namespaces of its sockets, without superd's own.
    pub(super) fn networks(&self) -> Set<PathBuf> {
        let networks = self.sockets.iter().filter_map(|s| s.bound.network.clone());
        networks.collect()
    }

    /// What is not held back, each once.
    pub(super) fn complaints(&mut self, untaken: &[Untaken], found: &Reachable) -> Vec<String> {
        let sockets = untaken
            .iter()
            .map(|u| format!("{} cannot be held back: {}", u.listener, u.why));
        let unix = found.unix.iter().filter(|_| self.what.ports.is_empty());
        let unix = unix.map(|path| {
            let path = if path.is_empty() { "(no name)" } else { path };
            format!("unix:{path} cannot be held back: unix sockets have no such filter")
        });
        let unseen = found.unseen.as_ref().map(unseen);
        // What matters most comes first: a service may have thousands of sockets.
        let mut lines: Vec<String> = Vec::new();
        let mut more = 0_usize;
        for line in unseen.into_iter().chain(sockets).chain(unix) {
            if self.told.len() >= SOCKETS || !self.told.insert(line.clone()) {
                continue;
            }
            match lines.len() < LINES {
                true => lines.push(line),
                false => more += 1,
            }
        }
        if more > 0 {
            lines.push(format!("nor can {more} others be held back"));
        }
        lines
    }

    /// Half-closes the connections that have been idle for so long. Says how many.
    pub(super) fn close_idle(
        &self,
        trees: &mut Trees,
        service: ServiceId,
        idle: Duration,
    ) -> usize {
        let networks: Set<_> = self
            .sockets
            .iter()
            .map(|s| s.bound.network.clone())
            .collect();
        let mut inodes = Vec::new();
        for network in networks {
            let network = network.as_deref();
            let reader = reader_of(network, trees, service, self.instance);
            let own = self.sockets.iter().map(|s| &s.bound);
            if let (Some(pid), Some(ports)) = (reader, port_range(own)) {
                let read = proc::connections(&pid, &ports, &mut |c| {
                    if c.inode > 0 && self.has(&c, network, Tick::NEVER) {
                        inodes.push(c.inode);
                    }
                });
                read.ok(); // the others are found the next time
            }
        }
        if inodes.is_empty() {
            return 0;
        }
        let inodes = inodes.into_iter().collect();
        let found = trees.holders(service, self.instance, &inodes);
        let closed = found.into_iter().filter(|h| is_closed(h, idle));
        closed.count()
    }

    /// Whether a connection is to one of its sockets, and is to be waited for.
    pub(super) fn has(&self, connection: &Connection, network: Option<&Path>, now: Tick) -> bool {
        if connection.is_handshake && now >= self.began + HANDSHAKE {
            return false;
        }
        self.sockets.iter().any(|held| {
            held.listener.transport == Transport::Tcp && held.bound.has(connection, network)
        })
    }
}

/// `tcp/80, tcp/443`: once for IPv4 and IPv6. Not all of a thousand.
pub(super) fn names(sockets: &[Held]) -> String {
    let mut names: Vec<String> = Vec::new();
    for held in sockets {
        let name = held.listener.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let more = names.len().saturating_sub(NAMES);
    names.truncate(NAMES);
    match more {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// Why nothing at all could be held back.
pub(super) fn why_none(untaken: &[Untaken], found: &Reachable) -> String {
    match (untaken.first(), &found.unseen) {
        (Some(first), _) => format!("{}: {}", first.listener, first.why),
        (None, Some(e)) => unseen(e),
        (None, None) if !found.listening.is_empty() => {
            "it takes no connections on the ports that are to be drained".to_owned()
        }
        (None, None) if !found.unix.is_empty() => {
            "it takes connections on unix sockets only, which cannot be held back".to_owned()
        }
        (None, None) => "it takes no connections".to_owned(),
    }
}
