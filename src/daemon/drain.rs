//! Drains: new connections of an instance are held back, and the open ones are counted until
//! there is none (DESIGN 4.1).
//!
//! The filter is attached through a copy of the service's own listening socket, so the
//! service takes no part in it and is not disturbed. The copies are kept until the instance
//! is over: who comes while it ends is delayed, and not refused. What is kept is let go
//! before ports are looked at and before a next instance can bind them; but in a restart what
//! was opened with SO_REUSEPORT keeps the place until the next instance listens, see [`Kept`].
//! That is in no journal and no state: a killed superd's copies are closed with it, and so are
//! those of one that is upgraded. Then who comes is refused for a moment, as everywhere else.
//!
//! Nothing is looked at here while nothing is drained. While something is, all drains are
//! counted in one look, at most [`PAUSE`] apart, and less often when a look takes long.
//!
//! Longer than a file should be: what holds back, what counts and what is kept work on the same
//! copies of sockets, and each has to know which of them the others still need.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::rundir::plain;
use super::tree::{Reachable, Reached};
use super::trees::Trees;
use crate::machine::event::{ActionId, Event, Instance, Outcome, ServiceId};
use crate::machine::spec::{self, Drain, MaxConnections};
use crate::machine::time::{Span, Tick};
use crate::map::{Map, Set};
use crate::sys::conntrack;
use crate::sys::features;
use crate::sys::filter::{self, Attached};
use crate::sys::limits;
use crate::sys::pidfd::PidFd;
use crate::sys::proc::{self, Connection, Listener, Transport};
use crate::sys::tcp;
use crate::sys::timer::cpu_used;

/// The first look. A packet that another processor was working on when the filter came has
/// become a connection by then.
const FIRST: Duration = Duration::from_millis(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Looking may take two thirds of a hundredth of one processor, which leaves the rest for who
/// asks how it goes (superd's own time: on a busy machine a look takes longer than it costs) ...
const SHARE: u32 = 150;
/// ... but the end of a drain is not found out later than this.
const PAUSE_LONGEST: Duration = Duration::from_secs(2);
/// Between two looks for idle connections, which cost some system calls each.
const SWEEP: Duration = Duration::from_secs(1);
/// Between two looks at a limit that is far away.
const FAR: Duration = Duration::from_millis(500);
/// So long a handshake that was under way counts: it ends in a connection soon, or it is one
/// of those that never end.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// A UDP socket counts as one connection until nothing has come for so long: what is open
/// there only the server knows.
const QUIET: Duration = Duration::from_secs(5);
/// Sockets of one instance, at most.
const SOCKETS: usize = 256;
/// Of superd's own descriptors, copies may take one in so many: the others are for starts,
/// clients and logs.
const COPIES: u64 = 2;
/// Lines about what cannot be held back, at most, each time.
const LINES: usize = 8;
/// And sockets that such a line names.
const NAMES: usize = 16;
/// Between two looks whether the next instance listens, while its place is kept ...
const KEPT_PAUSE: Duration = Duration::from_millis(10);
/// ... and for how long that is done.
const KEPT: Duration = Duration::from_secs(10);

/// Everything that is drained.
#[derive(Default)]
pub struct Drains {
    holds: Map<ServiceId, Hold>,
    /// Places of instances that are over, for the next ones.
    kept: Vec<Kept>,
    /// When the next instances of those are looked for.
    kept_next: Option<Tick>,
    /// Running instances with a limit on their connections.
    watches: Map<ServiceId, Watch>,
    next: Option<Tick>,
    /// Listening sockets that are no news.
    seen: Set<u64>,
}

/// An instance whose new connections are held back.
struct Hold {
    instance: Instance,
    /// Who waits for its last connection.
    action: Option<ActionId>,
    what: Rc<Drain>,
    began: Tick,
    sockets: Vec<Held>,
    /// What could not be held back has been told.
    told: Set<String>,
    /// Open connections, as they were told last.
    open: Option<u32>,
    /// When idle connections are looked for.
    sweep: Tick,
}

/// A listening socket of an instance that is over. Its filter drops what asks for a connection,
/// so who comes before the next instance listens is delayed, and not refused. It was opened with
/// SO_REUSEPORT, so it keeps nobody from the port who does the same.
struct Kept {
    service: ServiceId,
    /// The one that is over.
    instance: Instance,
    held: Held,
    until: Tick,
}

/// A running instance whose connections are counted when there may be too many.
struct Watch {
    instance: Instance,
    max: MaxConnections,
    what: Rc<Drain>,
    next: Tick,
    /// The side of the limits that was told last.
    above: bool,
    /// Its sockets, and the listening sockets of everybody when they were looked for.
    sockets: Vec<Bound>,
    seen: Set<u64>,
}

/// A TCP socket that takes connections, and where.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bound {
    /// Its address.
    pub local: SocketAddr,
    /// None: superd's own.
    network: Option<PathBuf>,
}

/// A socket with a filter of ours.
struct Held {
    copy: OwnedFd,
    listener: Listener,
    bound: Bound,
    /// UDP: the last packet, and when it was seen.
    packet: ([u64; 2], Tick),
}

impl Drains {
    /// Holds back new connections from now on, and begins to count the open ones. Returns
    /// what there is to be said about it.
    ///
    /// # Errors
    /// Why nothing can be held back here.
    pub fn begin(
        &mut self,
        trees: &mut Trees,
        key: (ServiceId, Instance),
        action: Option<ActionId>,
        what: &Rc<Drain>,
        now: Tick,
    ) -> Result<Vec<String>, String> {
        let (service, instance) = key;
        let mut hold = match self.holds.remove(&service) {
            Some(hold) if hold.instance == instance => hold,
            Some(_) | None => Hold {
                instance,
                action: None,
                what: what.clone(),
                began: now,
                sockets: Vec::new(),
                told: Set::new(),
                open: None,
                sweep: now,
            },
        };
        hold.what = what.clone();
        hold.began = now;
        let found = trees.sockets(service, instance, &mut self.seen);
        for held in &mut hold.sockets {
            held.packet.1 = now;
        }
        let taken = hold.take(&found, Which::All, self.room(), now);
        if hold.sockets.is_empty() {
            return Err(why_none(&taken, &found));
        }
        hold.action = action;
        hold.open = None;
        let mut lines = vec![format!(
            "new connections to {} are held back",
            names(&hold.sockets)
        )];
        lines.extend(hold.complaints(&taken, &found));
        self.holds.insert(service, hold);
        if action.is_some() {
            let first = now + FIRST;
            self.next = Some(self.next.map_or(first, |at| at.min(first)));
        }
        Ok(lines)
    }

    /// How many more copies superd may have.
    fn room(&self) -> usize {
        let most = limits::get(limits::NOFILE).map_or(0, |l| l.soft / COPIES);
        let held = self.holds.values().map(|h| h.sockets.len()).sum::<usize>();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        most.saturating_sub(held + self.kept.len())
    }

    /// It is no longer waited for. What is held back stays so.
    pub fn end_action(&mut self, action: ActionId) {
        for hold in self.holds.values_mut() {
            if hold.action == Some(action) {
                hold.action = None;
            }
        }
        self.rest();
    }

    /// The filters go, and superd's copies of the sockets. What it has no copy of:
    /// [`remove_filters`].
    pub fn let_go(&mut self, service: ServiceId, instance: Instance) {
        let is_it = |hold: &Hold| hold.instance == instance;
        if self.holds.get(&service).is_some_and(is_it) {
            if let Some(hold) = self.holds.remove(&service) {
                for held in hold.sockets {
                    // Whoever else holds the socket is to get connections again.
                    filter::detach(held.copy.as_fd()).ok(); // gone already: so much the better
                }
            }
        }
        self.rest();
    }

    /// The instance is over, and another one is to begin: TCP sockets with SO_REUSEPORT are
    /// kept until that one listens, see [`Drains::let_places_go`]. All else is let go.
    ///
    /// Not in another network namespace: with the last process there is nobody left by whom
    /// superd could see who listens in it.
    pub fn keep_places(&mut self, service: ServiceId, instance: Instance, now: Tick) {
        let hold = self.holds.get_mut(&service);
        if let Some(hold) = hold.filter(|h| h.instance == instance) {
            let may_stay = |held: &Held| {
                held.listener.transport == Transport::Tcp
                    && held.bound.network.is_none()
                    && filter::shares_port(held.copy.as_fd())
            };
            let (kept, rest) = std::mem::take(&mut hold.sockets)
                .into_iter()
                .partition(may_stay);
            hold.sockets = rest;
            let kept: Vec<Held> = kept;
            for held in kept {
                let until = now + KEPT;
                self.kept.push(Kept {
                    service,
                    instance,
                    held,
                    until,
                });
            }
            if !self.kept.is_empty() {
                self.kept_next = Some(now + KEPT_PAUSE);
            }
        }
        self.let_go(service, instance);
    }

    /// Whose places are kept.
    pub fn kept(&self) -> Vec<ServiceId> {
        let mut services: Vec<ServiceId> = self.kept.iter().map(|k| k.service).collect();
        services.dedup();
        services
    }

    /// No next instance of this service is to be waited for.
    pub fn let_places_go(&mut self, service: ServiceId) {
        self.kept.retain(|k| k.service != service);
        if self.kept.is_empty() {
            self.kept_next = None;
        }
    }

    /// An address where anybody else listens is left to who does: of what comes there the kernel
    /// gives each socket its part, and what is kept would drop it.
    fn look_at_places(&mut self, now: Tick) {
        if self.kept_next.is_none_or(|at| at > now) {
            return;
        }
        let Some(ports) = range(self.kept.iter().map(|k| &k.held.bound)) else {
            return;
        };
        // Who cannot tell who listens there lets it go when the time is up.
        let listening = proc::listening(&ports).unwrap_or_default();
        let own: Vec<u64> = self.kept.iter().map(|k| k.held.listener.inode).collect();
        let is_taken = |bound: &Bound| {
            let mut others = listening.iter().filter(|(_, inode)| !own.contains(inode));
            others.any(|(at, _)| bound.meets(*at))
        };
        self.kept
            .retain(|k| now < k.until && !is_taken(&k.held.bound));
        self.kept_next = (!self.kept.is_empty()).then_some(now + KEPT_PAUSE);
    }

    /// The instance is over.
    pub fn forget(&mut self, service: ServiceId, instance: Instance) {
        self.let_go(service, instance);
        // The next one has not made it: perhaps it could not bind.
        self.kept
            .retain(|k| k.service != service || k.instance == instance);
        self.watches
            .retain(|id, w| *id != service || w.instance != instance);
    }

    /// The sockets of which superd has a copy.
    pub fn held(&self, service: ServiceId, instance: Instance) -> Vec<u64> {
        let hold = self.holds.get(&service).filter(|h| h.instance == instance);
        let sockets = hold.map_or(&[][..], |h| &h.sockets);
        let kept = self.kept.iter().filter(|k| k.service == service);
        let kept = kept.map(|k| k.held.listener.inode);
        sockets
            .iter()
            .map(|held| held.listener.inode)
            .chain(kept)
            .collect()
    }

    /// When [`Drains::look`] is due.
    pub fn next_deadline(&self) -> Option<Tick> {
        let watch = self.watches.values().map(|w| w.next).min();
        [self.next, self.kept_next, watch]
            .into_iter()
            .flatten()
            .min()
    }

    /// See [`Effect::Watch`](crate::machine::event::Effect::Watch).
    pub fn watch(
        &mut self,
        service: ServiceId,
        instance: Instance,
        limits: Option<(MaxConnections, Rc<Drain>)>,
        now: Tick,
    ) {
        self.watches.remove(&service);
        if let Some((max, what)) = limits {
            let watch = Watch {
                instance,
                max,
                what,
                next: now + PAUSE,
                above: false,
                sockets: Vec::new(),
                seen: Set::new(),
            };
            self.watches.insert(service, watch);
        }
    }

    /// Of an instance with a limit: its open connections now, if that can be told.
    pub fn watched(&mut self, trees: &mut Trees, service: ServiceId) -> Option<u32> {
        let watch = self.watches.get_mut(&service)?;
        watch.count(trees, service).ok()
    }

    fn look_at_watches(
        &mut self,
        trees: &mut Trees,
        clock: &impl Fn() -> Tick,
        events: &mut Vec<Event>,
    ) {
        for (service, watch) in &mut self.watches {
            let began = clock();
            if watch.next > began {
                continue;
            }
            // With fewer sockets on the whole machine than it may have nothing is to be counted.
            let is_far = !watch.above
                && !watch.sockets.is_empty()
                && watch.sockets.iter().all(|s| s.network.is_none())
                && proc::tcp_in_use().is_some_and(|n| n <= watch.max.high);
            if is_far {
                watch.next = began + FAR;
                continue;
            }
            let before = cpu_used();
            let n = watch.count(trees, *service);
            let cost = cpu_used().saturating_sub(before);
            let Ok(n) = n else {
                watch.next = clock() + (cost * SHARE).clamp(FAR, PAUSE_LONGEST);
                continue;
            };
            let crossed = match watch.above {
                false => n > watch.max.high,
                true => n < watch.max.low,
            };
            if crossed {
                watch.above = !watch.above;
                events.push(Event::Connections(*service, watch.instance, n));
            }
            // A limit that is far away is not reached within the next tenths of a second.
            let least = match watch.above || n >= watch.max.low / 2 {
                true => PAUSE,
                false => FAR,
            };
            watch.next = clock() + (cost * SHARE).clamp(least, PAUSE_LONGEST);
        }
    }

    fn rest(&mut self) {
        if self.holds.values().all(|h| h.action.is_none()) {
            self.next = None;
            self.seen.clear();
        }
    }

    /// Counts the open connections of everything that is drained. `clock` tells the time.
    pub fn look(
        &mut self,
        trees: &mut Trees,
        clock: impl Fn() -> Tick,
        say: &mut dyn FnMut(ServiceId, String),
    ) -> Vec<Event> {
        let began = clock();
        let before = cpu_used();
        let mut events = Vec::new();
        self.look_at_places(began);
        self.look_at_watches(trees, &clock, &mut events);
        if self.next.is_none_or(|at| at > began) {
            return events;
        }
        self.take_new(trees, began, say);
        self.close_idle(trees, began, say);
        let (open, unknown) = self.count(trees, began);
        for (service, hold) in &mut self.holds {
            let Some(action) = hold.action else { continue };
            if unknown.contains(service) {
                continue; // and surely not 0
            }
            let n = open.get(service).copied().unwrap_or(0);
            let n = n.saturating_add(hold.noisy(began));
            if hold.open != Some(n) {
                hold.open = Some(n);
                events.push(Event::Connections(*service, hold.instance, n));
            }
            if n == 0 && began >= hold.began + FIRST {
                hold.action = None;
                let (instance, outcome) = (hold.instance, Outcome::Done);
                events.push(Event::ActionEnded(*service, instance, action, outcome));
            }
        }
        let cost = cpu_used().saturating_sub(before);
        let pause = (cost * SHARE).clamp(PAUSE, PAUSE_LONGEST);
        self.next = Some(clock() + pause);
        self.rest();
        events
    }

    /// What a service has opened since is held back like the rest.
    fn take_new(&mut self, trees: &mut Trees, now: Tick, say: &mut dyn FnMut(ServiceId, String)) {
        let mut listeners = Vec::new();
        // What cannot be told now is told the next time.
        proc::listeners("self", &mut listeners).ok();
        let mut networks = Set::new();
        for (service, hold) in self.holds.iter().filter(|(_, h)| h.action.is_some()) {
            for network in hold.networks() {
                if let Some(pid) = trees.one_in(*service, hold.instance, &network) {
                    if networks.insert(network) {
                        proc::listeners(&pid.to_string(), &mut listeners).ok();
                    }
                }
            }
        }
        let all: Set<u64> = listeners
            .iter()
            .filter(|l| l.transport == Transport::Tcp)
            .map(|l| l.inode)
            .collect();
        let has_news = all.iter().any(|inode| !self.seen.contains(inode));
        self.seen.retain(|inode| all.contains(inode));
        if !has_news {
            return;
        }
        let (mut room, mut seen) = (self.room(), all);
        for (service, hold) in self.holds.iter_mut().filter(|(_, h)| h.action.is_some()) {
            let found = trees.sockets(*service, hold.instance, &mut seen);
            if found.unseen.as_ref().is_some_and(is_passing) {
                seen.clear(); // they are news the next time, too
            }
            let before = hold.sockets.len();
            let taken = hold.take(&found, Which::Later, room, now);
            room = room.saturating_sub(hold.sockets.len().saturating_sub(before));
            let new = names(hold.sockets.get(before..).unwrap_or_default());
            if !new.is_empty() {
                let text = format!("new connections to {new} are held back, too");
                say(*service, text);
            }
            for line in hold.complaints(&taken, &found) {
                say(*service, line);
            }
        }
        self.seen.add_many(seen);
    }

    /// Half-closes what has been answered and then silent for longer than the drain says.
    fn close_idle(&mut self, trees: &mut Trees, now: Tick, say: &mut dyn FnMut(ServiceId, String)) {
        for (service, hold) in &mut self.holds {
            let due = hold.action.is_some() && now >= hold.sweep;
            let Some(idle) = hold.what.idle.filter(|_| due) else {
                continue;
            };
            hold.sweep = now + SWEEP;
            let n = hold.close_idle(trees, *service, idle);
            if n > 0 {
                let text = format!("closed {n} connections without data for {}", Span(idle));
                say(*service, text);
            }
        }
    }

    /// The open connections, and of whom they cannot be told now.
    fn count(&self, trees: &mut Trees, now: Tick) -> (Map<ServiceId, u32>, Set<ServiceId>) {
        let mut open: Map<ServiceId, u32> = Map::new();
        let mut unknown = Set::new();
        let active = || self.holds.iter().filter(|(_, h)| h.action.is_some());
        let mut networks: Map<Option<PathBuf>, (ServiceId, Instance)> = Map::new();
        for (service, hold) in active() {
            for held in &hold.sockets {
                networks.insert(held.bound.network.clone(), (*service, hold.instance));
            }
        }
        for (network, (service, instance)) in networks {
            let pid = match &network {
                None => "self".to_owned(),
                // With the last process in it its connections are gone.
                Some(n) => match trees.one_in(service, instance, n) {
                    Some(pid) => pid.to_string(),
                    None => {
                        if trees.alive(service, instance).is_none() {
                            unknown.insert(service);
                        }
                        continue;
                    }
                },
            };
            let of_this = |bound: &&Bound| bound.network == network;
            let ports = active().flat_map(|(_, h)| h.sockets.iter().map(|s| &s.bound));
            let Some(range) = range(ports.filter(of_this)) else {
                continue;
            };
            let read = proc::connections(&pid, &range, &mut |connection| {
                for (service, hold) in active() {
                    if hold.has(&connection, network.as_deref(), now) {
                        let n = open.entry(*service).or_default();
                        *n = n.saturating_add(1);
                    }
                }
            });
            if read.is_err() {
                let is_in = |h: &Hold| h.sockets.iter().any(|s| s.bound.network == network);
                unknown.extend(active().filter(|(_, h)| is_in(h)).map(|(id, _)| *id));
            }
        }
        (open, unknown)
    }
}

/// `tcp/80, tcp/443`: once for IPv4 and IPv6. Not all of a thousand.
fn names(sockets: &[Held]) -> String {
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

/// Which sockets a drain takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// At its beginning.
    All,
    /// What was opened later. A UDP socket is often opened for one question: then a copy
    /// would only keep its port from being used again.
    Later,
}

/// Removes every filter of superd's from the sockets of an instance that runs, also those of
/// an earlier superd. Returns the names of the sockets that had one, and what could not be done.
///
/// `held`: those of which superd has copies, by which it can remove them anyway.
pub fn remove_filters(
    trees: &mut Trees,
    service: ServiceId,
    instance: Instance,
    held: &[u64],
) -> (String, Option<String>) {
    let found = trees.sockets(service, instance, &mut Set::new());
    let mut names: Vec<String> = Vec::new();
    let mut left = match &found.unseen {
        // What may not be looked at has no filter either.
        Some(e) if is_passing(e) && held.is_empty() => Some(unseen(e)),
        Some(_) | None => None,
    };
    for reached in &found.listening {
        let process = PidFd::open(reached.pid);
        let copy = match process.and_then(|process| process.copy_of(reached.fd)) {
            Ok(copy) => copy,
            Err(_) if held.contains(&reached.listener.inode) => continue,
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                left = Some(format!("{}: {}", reached.listener, plain(&e)));
                continue;
            }
            Err(_) => continue, // closed, or nothing could have been attached to it either
        };
        if !filter::attached(copy.as_fd()).is_ok_and(|a| a == Attached::Ours) {
            continue;
        }
        let name = reached.listener.to_string();
        match filter::detach(copy.as_fd()) {
            Ok(()) if names.contains(&name) => {}
            Ok(()) => names.push(name),
            Err(e) => left = Some(format!("{name}: {}", plain(&e))),
        }
    }
    (names.join(", "), left)
}

/// What could not be held back, and why.
struct Untaken {
    listener: Listener,
    why: String,
}

impl Hold {
    /// Attaches the filter to what is not held yet. Returns what that is impossible for.
    ///
    /// `room` is for how many superd may take here.
    fn take(&mut self, found: &Reachable, which: Which, room: usize, now: Tick) -> Vec<Untaken> {
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
                true => hold_back(reached, now),
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
    fn noisy(&mut self, now: Tick) -> u32 {
        let mut noisy: Vec<&Bound> = Vec::new();
        let is_udp = |held: &&mut Held| held.listener.transport == Transport::Udp;
        for held in self.sockets.iter_mut().filter(is_udp) {
            let packet = filter::last_packet(held.copy.as_fd());
            if packet != held.packet.0 {
                held.packet = (packet, now);
            }
            if now < held.packet.1 + QUIET {
                noisy.push(&held.bound);
            }
        }
        let mut counts = vec![0_u32; noisy.len()];
        if !noisy.is_empty() {
            conntrack::udp(QUIET, &mut |local| {
                let of_this = |b: &Bound| b.network.is_none() && b.is_at(local);
                for (_, n) in noisy.iter().zip(&mut counts).filter(|(b, _)| of_this(b)) {
                    *n = n.saturating_add(1);
                }
            });
        }
        // Sockets that share a port are told the same number: it is the one of them all.
        let mut ports: Map<(u16, bool), u32> = Map::new();
        for (bound, n) in noisy.iter().zip(counts) {
            let of_port = ports.entry((bound.local.port(), n > 0)).or_default();
            *of_port = match n {
                0 => of_port.saturating_add(1),
                _ => n.max(*of_port),
            };
        }
        ports.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    fn networks(&self) -> Set<PathBuf> {
        let networks = self.sockets.iter().filter_map(|s| s.bound.network.clone());
        networks.collect()
    }

    /// What is not held back, each once.
    fn complaints(&mut self, untaken: &[Untaken], found: &Reachable) -> Vec<String> {
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

    fn close_idle(&self, trees: &mut Trees, service: ServiceId, idle: Duration) -> usize {
        let networks: Set<Option<PathBuf>> = self
            .sockets
            .iter()
            .map(|s| s.bound.network.clone())
            .collect();
        let mut inodes = Vec::new();
        for network in networks {
            let pid = match &network {
                None => Some("self".to_owned()),
                Some(net) => trees
                    .one_in(service, self.instance, net)
                    .map(|pid| pid.to_string()),
            };
            let own = self.sockets.iter().map(|s| &s.bound);
            if let (Some(pid), Some(range)) = (pid, range(own)) {
                let read = proc::connections(&pid, &range, &mut |c| {
                    if c.inode > 0 && self.has(&c, network.as_deref(), Tick::NEVER) {
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
    fn has(&self, connection: &Connection, network: Option<&Path>, now: Tick) -> bool {
        if connection.is_handshake && now >= self.began + HANDSHAKE {
            return false;
        }
        self.sockets.iter().any(|held| {
            held.listener.transport == Transport::Tcp && held.bound.has(connection, network)
        })
    }
}

impl Bound {
    /// Whether what comes to this address comes to this socket; IPv4 also by one of IPv6.
    fn is_at(&self, local: SocketAddr) -> bool {
        let (own, ip) = (self.local.ip().to_canonical(), local.ip().to_canonical());
        self.local.port() == local.port()
            && (own == ip || (own.is_unspecified() && (self.local.is_ipv6() || local.is_ipv4())))
    }

    /// Whether one address is the other, or takes in what comes to it.
    fn meets(&self, other: SocketAddr) -> bool {
        let (own, ip) = (self.local.ip().to_canonical(), other.ip().to_canonical());
        self.local.port() == other.port()
            && (own == ip || own.is_unspecified() || ip.is_unspecified())
    }

    /// Whether a connection is to this socket.
    fn has(&self, connection: &Connection, network: Option<&Path>) -> bool {
        let (own, local) = (self.local, connection.local);
        own.port() == local.port()
            && own.is_ipv4() == local.is_ipv4()
            && (own.ip().is_unspecified() || own.ip() == local.ip())
            && self.network.as_deref() == network
    }
}

impl Watch {
    /// Its open connections.
    fn count(&mut self, trees: &mut Trees, service: ServiceId) -> io::Result<u32> {
        self.find_sockets(trees, service)?;
        let networks: Set<Option<PathBuf>> =
            self.sockets.iter().map(|s| s.network.clone()).collect();
        let mut n = 0_u32;
        for network in networks {
            let pid = match &network {
                None => Some("self".to_owned()),
                Some(net) => trees
                    .one_in(service, self.instance, net)
                    .map(|pid| pid.to_string()),
            };
            let own = self.sockets.iter().filter(|s| s.network == network);
            if let (Some(pid), Some(range)) = (pid, range(own)) {
                proc::connections(&pid, &range, &mut |c| {
                    let is_to = |s: &Bound| s.has(&c, network.as_deref());
                    let counts = !c.is_handshake && self.sockets.iter().any(is_to);
                    n = n.saturating_add(u32::from(counts));
                })?;
            }
        }
        Ok(n)
    }

    /// Looks for its sockets, if anybody's have changed since.
    fn find_sockets(&mut self, trees: &mut Trees, service: ServiceId) -> io::Result<()> {
        let mut listeners = Vec::new();
        proc::listeners("self", &mut listeners)?;
        let tcp = listeners
            .iter()
            .filter(|l| l.transport == Transport::Tcp)
            .map(|l| l.inode);
        let seen: Set<u64> = tcp.collect();
        let is_own = self.sockets.iter().all(|s| s.network.is_none());
        if seen == self.seen && is_own && !self.sockets.is_empty() {
            return Ok(());
        }
        let found = trees.sockets(service, self.instance, &mut Set::new());
        match found.unseen {
            Some(e) if is_passing(&e) => return Err(e),
            Some(_) | None => {} // the rest will not be seen later either
        }
        self.seen = seen;
        let wanted = |r: &&Reached| {
            let l = r.listener;
            l.transport == Transport::Tcp && self.what.takes(spec::Transport::Tcp, l.port)
        };
        let taken = found.listening.iter().filter(wanted).take(SOCKETS);
        self.sockets = taken.filter_map(|r| Some(copy(r).ok()??.1)).collect();
        Ok(())
    }
}

/// The ports of these sockets, from the lowest to the highest.
fn range<'a>(sockets: impl Iterator<Item = &'a Bound>) -> Option<RangeInclusive<u16>> {
    let ports: Vec<u16> = sockets.map(|bound| bound.local.port()).collect();
    Some(*ports.iter().min()?..=*ports.iter().max()?)
}

/// Copies a socket out of the process that holds it. None: it is no longer there.
pub(super) fn copy(reached: &Reached) -> Result<Option<(OwnedFd, Bound)>, String> {
    let copy = match PidFd::open(reached.pid).and_then(|held| held.copy_of(reached.fd)) {
        Ok(copy) => copy,
        Err(e) => match e.raw_os_error() {
            Some(libc::ESRCH | libc::EBADF) => return Ok(None),
            Some(libc::ENOSYS) => return Err(NO_GETFD.to_owned()),
            Some(libc::EPERM) if !features::may_copy_descriptors() => {
                return Err(NO_GETFD.to_owned());
            }
            _ => return Err(format!("superd cannot copy the socket: {}", plain(&e))),
        },
    };
    let failed = |e: io::Error| plain(&e);
    let (inode, listens) = filter::identity(copy.as_fd()).map_err(failed)?;
    let listener = reached.listener;
    if inode != listener.inode || (listener.transport == Transport::Tcp && !listens) {
        return Ok(None);
    }
    // getsockname(2) is the same for UDP.
    let socket = TcpListener::from(copy);
    let local = socket.local_addr().map_err(failed)?;
    let bound = Bound {
        local,
        network: reached.network.clone(),
    };
    Ok(Some((OwnedFd::from(socket), bound)))
}

/// Copies the socket and attaches the filter. None: it is no longer there.
fn hold_back(reached: &Reached, now: Tick) -> Result<Option<Held>, String> {
    let Some((copy, bound)) = copy(reached)? else {
        return Ok(None);
    };
    let failed = |e: io::Error| match e.raw_os_error() {
        Some(libc::EPERM) if filter::is_locked(copy.as_fd()) => LOCKED.to_owned(),
        Some(libc::EPERM | libc::ENOSYS) => NO_FILTER.to_owned(),
        Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT) if filter::is_mptcp(copy.as_fd()) => {
            MPTCP.to_owned()
        }
        _ => plain(&e),
    };
    let listener = reached.listener;
    match filter::attached(copy.as_fd()).map_err(failed)? {
        Attached::Foreign => return Err("it has a filter of its own".to_owned()),
        // Also one of ours: it is of an earlier superd, perhaps of another version.
        Attached::Nothing | Attached::Ours => {}
    }
    filter::attach(copy.as_fd(), listener.transport).map_err(failed)?;
    let packet = match listener.transport {
        Transport::Tcp => [0; 2],
        Transport::Udp => filter::last_packet(copy.as_fd()),
    };
    Ok(Some(Held {
        packet: (packet, now),
        copy,
        listener,
        bound,
    }))
}

/// Half-closes a connection if it is the one that was found, and idle. The copy that superd
/// makes for that is closed at once.
fn is_closed((inode, pid, fd): &(u64, i32, i32), idle: Duration) -> bool {
    let Ok(copy) = PidFd::open(*pid).and_then(|held| held.copy_of(*fd)) else {
        return false; // closed meanwhile
    };
    let is_it = filter::identity(copy.as_fd()).is_ok_and(|(i, _)| i == *inode);
    let silent = || tcp::idle(copy.as_fd()).ok().flatten();
    is_it && silent().is_some_and(|d| d >= idle) && tcp::half_close(copy.as_fd()).is_ok()
}

/// What is said where superd could not look at everything.
fn unseen(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::PermissionDenied => BLIND.to_owned(),
        _ => format!("superd cannot see all of its sockets: {}", plain(e)),
    }
}

/// Whether it may be seen the next time: superd has no descriptor or memory left for now.
fn is_passing(e: &io::Error) -> bool {
    e.raw_os_error().is_some() && e.kind() != io::ErrorKind::PermissionDenied
}

/// What is said where superd is not privileged enough.
const BLIND: &str =
    "superd may not look at the sockets of all its processes (that needs CAP_SYS_PTRACE)";

/// What is said where the kernel is too old, or superd has been forbidden to ask it.
pub const NO_GETFD: &str = "the kernel has no pidfd_getfd (Linux 5.6), or superd may not use it";

/// What is said where the kernel wants more rights for it than superd has.
pub const NO_FILTER: &str =
    "superd may not attach a filter to a TCP socket (with this kernel that needs CAP_NET_ADMIN)";

/// What is said of a socket that can have no filter (seen up to Linux 6.18).
const MPTCP: &str = "it is a socket of MPTCP, which knows no filters; for a program in Go set \
                     GODEBUG = \"multipathtcp=0\" in the service's environment";

/// What is said of a socket of which the service has said that its filter stays as it is.
const LOCKED: &str = "its filter is locked (SO_LOCK_FILTER)";

fn why_none(untaken: &[Untaken], found: &Reachable) -> String {
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
