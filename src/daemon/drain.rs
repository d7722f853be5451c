//! Drains: new connections of an instance are held back, and the open ones are counted until
//! there is none (DESIGN 4.1).
//!
//! The filter is attached through a copy of the service's own listening socket, so the
//! service takes no part in it and is not disturbed. The copies are kept until the instance
//! is over: who comes while it ends is delayed, and not refused. What is kept is let go
//! before ports are looked at and before a next instance can bind them; but in a restart what
//! was opened with SO_REUSEPORT keeps the place until the next instance listens, see [`places`].
//! That is in no journal and no state: a killed superd's copies are closed with it, and so are
//! those of one that is upgraded. Then who comes is refused for a moment, as everywhere else.
//!
//! Nothing is looked at here while nothing is drained. While something is, all drains are
//! counted in one look, at most [`PAUSE`] apart, and less often when a look takes long.
//!
//! Here is what concerns all drains at once; [`hold`] is one of them, [`socket`] one of its
//! sockets, and [`watch`] the limits of instances that are not drained.

mod hold;
mod places;
mod socket;
mod watch;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

pub(super) use socket::{copy, remove_filters, NO_FILTER, NO_GETFD};

use hold::{names, why_none, Hold, Which};
use places::Places;
use socket::{is_transient, port_range, reader_of, Bound};
use watch::Watches;

use super::trees::Trees;
use crate::machine::event::{ActionId, Event, Instance, Outcome, ServiceId};
use crate::machine::spec::{Drain, MaxConnections};
use crate::machine::time::{Span, Tick};
use crate::map::{Map, Set};
use crate::sys::filter;
use crate::sys::limits;
use crate::sys::proc::{self, Transport};
use crate::sys::timer::cpu_used;

/// The first look. A packet that another processor was working on when the filter came has
/// become a connection by then.
const FIRST: Duration = Duration::from_millis(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Looks may take one part in so many of one processor, which leaves the rest of a hundredth for
/// who asks how it goes (superd's own time: on a busy machine a look takes longer than it
/// costs) ...
const SHARE: u32 = 150;
/// ... but the end of a drain is not found out later than this.
const PAUSE_LONGEST: Duration = Duration::from_secs(2);
/// Between two looks for idle connections, which cost some system calls each.
const SWEEP: Duration = Duration::from_secs(1);
/// Of superd's own descriptors, copies may take one in so many: the others are for starts,
/// clients and logs.
const COPIES: u64 = 2;

/// Everything that is drained.
#[derive(Default)]
pub struct Drains {
    holds: Map<ServiceId, Hold>,
    /// When the open connections are counted; none: nobody waits for their end.
    next: Option<Tick>,
    /// Listening sockets that are no news.
    seen: Set<u64>,
    places: Places,
    watches: Watches,
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
            Some(_) | None => Hold::new(instance, what, now),
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
        most.saturating_sub(held + self.places.len())
    }

    /// It is no longer waited for. What is held back stays so.
    pub fn end_action(&mut self, action: ActionId) {
        for hold in self.holds.values_mut() {
            if hold.action == Some(action) {
                hold.action = None;
            }
        }
        self.stop_if_done();
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
        self.stop_if_done();
    }

    /// The instance is over, and another one is to begin: what may stay is kept until that one
    /// listens, see [`places`]. All else is let go.
    pub fn keep_places(&mut self, service: ServiceId, instance: Instance, now: Tick) {
        let hold = self.holds.get_mut(&service);
        if let Some(hold) = hold.filter(|h| h.instance == instance) {
            let sockets = std::mem::take(&mut hold.sockets);
            hold.sockets = self.places.keep((service, instance), sockets, now);
        }
        self.let_go(service, instance);
    }

    /// Whose places are kept.
    pub fn kept(&self) -> Vec<ServiceId> {
        self.places.services()
    }

    /// No next instance of this service is to be waited for.
    pub fn let_places_go(&mut self, service: ServiceId) {
        self.places.let_go(service);
    }

    /// The instance is over.
    pub fn forget(&mut self, service: ServiceId, instance: Instance) {
        self.let_go(service, instance);
        self.places.forget(service, instance);
        self.watches.forget(service, instance);
    }

    /// The inodes of the sockets of which superd has a copy.
    pub fn held(&self, service: ServiceId, instance: Instance) -> Vec<u64> {
        let hold = self.holds.get(&service).filter(|h| h.instance == instance);
        let sockets = hold.map_or(&[][..], |h| &h.sockets);
        let held = sockets.iter().map(|held| held.listener.inode);
        held.chain(self.places.inodes(service)).collect()
    }

    /// When [`Drains::look`] is due.
    pub fn next_deadline(&self) -> Option<Tick> {
        let (places, watches) = (self.places.next_deadline(), self.watches.next_deadline());
        [self.next, places, watches].into_iter().flatten().min()
    }

    /// See [`Effect::Watch`](crate::machine::event::Effect::Watch).
    pub fn watch(
        &mut self,
        service: ServiceId,
        instance: Instance,
        limits: Option<(MaxConnections, Rc<Drain>)>,
        now: Tick,
    ) {
        self.watches.set(service, instance, limits, now);
    }

    /// Of an instance with a limit: its open connections now, if that can be told.
    pub fn watched(&mut self, trees: &mut Trees, service: ServiceId) -> Option<u32> {
        self.watches.count(trees, service)
    }

    /// Stops counting when nobody waits for it.
    fn stop_if_done(&mut self) {
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
        self.places.look(began);
        self.watches.look(trees, &clock, &mut events);
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
            let n = n.saturating_add(hold.count_udp(began));
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
        self.next = Some(clock() + pause_after(cost, PAUSE));
        self.stop_if_done();
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
            if found.unseen.as_ref().is_some_and(is_transient) {
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
            let Some(pid) = reader_of(network.as_deref(), trees, service, instance) else {
                // With the last process in it its connections are gone.
                if trees.alive(service, instance).is_none() {
                    unknown.insert(service);
                }
                continue;
            };
            let of_this = |bound: &&Bound| bound.network == network;
            let ports = active().flat_map(|(_, h)| h.sockets.iter().map(|s| &s.bound));
            let Some(ports) = port_range(ports.filter(of_this)) else {
                continue;
            };
            let read = proc::connections(&pid, &ports, &mut |connection| {
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

/// How long to wait after a look that has cost so much of superd's time.
fn pause_after(cost: Duration, least: Duration) -> Duration {
    (cost * SHARE).clamp(least, PAUSE_LONGEST)
}
