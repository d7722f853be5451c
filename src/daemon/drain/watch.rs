//! Limits on connections (`max-connections`): the open ones of a running instance are counted
//! when there may be too many. What follows from a number is the machine's to decide.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::hold::SOCKETS;
use super::socket::{copy, is_transient, port_range, reader_of, Bound};
use super::{pause_after, PAUSE};
use crate::daemon::tree::Reached;
use crate::daemon::trees::Trees;
use crate::machine::event::{Event, Instance, ServiceId};
use crate::machine::spec::{self, Drain, MaxConnections};
use crate::machine::time::Tick;
use crate::map::{Map, Set};
use crate::sys::proc::{self, Transport};
use crate::sys::timer::cpu_used;

/// Between two looks at a limit that is far away: it is not reached within the next tenths of a
/// second.
const FAR: Duration = Duration::from_millis(500);

/// Running instances with a limit on their connections.
#[derive(Default)]
pub(super) struct Watches(Map<ServiceId, Watch>);

/// One of them.
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

impl Watches {
    /// Counts the connections of this instance from now on, or no longer.
    pub(super) fn set(
        &mut self,
        service: ServiceId,
        instance: Instance,
        limits: Option<(MaxConnections, Rc<Drain>)>,
        now: Tick,
    ) {
        self.0.remove(&service);
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
            self.0.insert(service, watch);
        }
    }

    /// The open connections now; none: it has no limit, or they cannot be told.
    pub(super) fn count(&mut self, trees: &mut Trees, service: ServiceId) -> Option<u32> {
        let watch = self.0.get_mut(&service)?;
        watch.count(trees, service).ok()
    }

    /// The instance is over.
    pub(super) fn forget(&mut self, service: ServiceId, instance: Instance) {
        self.0
            .retain(|id, w| *id != service || w.instance != instance);
    }

    /// When [`Watches::look`] is due.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        self.0.values().map(|w| w.next).min()
    }

    /// Counts those that are due, and reports who has crossed a limit.
    pub(super) fn look(
        &mut self,
        trees: &mut Trees,
        clock: &impl Fn() -> Tick,
        events: &mut Vec<Event>,
    ) {
        for (service, watch) in &mut self.0 {
            let began = clock();
            if watch.next > began {
                continue;
            }
            if watch.is_far() {
                watch.next = began + FAR;
                continue;
            }
            let before = cpu_used();
            let n = watch.count(trees, *service);
            let cost = cpu_used().saturating_sub(before);
            let Ok(n) = n else {
                watch.next = clock() + pause_after(cost, FAR);
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
            let least = match watch.above || n >= watch.max.low / 2 {
                true => PAUSE,
                false => FAR,
            };
            watch.next = clock() + pause_after(cost, least);
        }
    }
}

impl Watch {
    /// Nothing is to be counted: the whole machine has fewer sockets than the limit.
    fn is_far(&self) -> bool {
        !self.above
            && !self.sockets.is_empty()
            && self.sockets.iter().all(|s| s.network.is_none())
            && proc::tcp_in_use().is_some_and(|n| n <= self.max.high)
    }

    /// Its open connections.
    fn count(&mut self, trees: &mut Trees, service: ServiceId) -> io::Result<u32> {
        self.find_sockets(trees, service)?;
        let networks: Set<_> = self.sockets.iter().map(|s| s.network.clone()).collect();
        let mut n = 0_u32;
        for network in networks {
            let network = network.as_deref();
            let reader = reader_of(network, trees, service, self.instance);
            let own = self.sockets.iter();
            let own = own.filter(|s| s.network.as_deref() == network);
            if let (Some(pid), Some(ports)) = (reader, port_range(own)) {
                proc::connections(&pid, &ports, &mut |c| {
                    let is_to = |s: &Bound| s.has(&c, network);
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
            Some(e) if is_transient(&e) => return Err(e),
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
