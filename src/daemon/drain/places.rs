//! Places: listening sockets of an instance that is over, kept until the next one listens, so
//! that who comes in between is delayed, and not refused.
//!
//! Only sockets with SO_REUSEPORT (socket(7)): such a one keeps nobody from the port who sets
//! the same option.

use std::os::fd::AsFd;
use std::time::Duration;

use super::socket::{port_range, Bound, Held};
use crate::machine::event::{Instance, ServiceId};
use crate::machine::time::Tick;
use crate::sys::filter;
use crate::sys::proc::{self, Transport};

/// Between two looks whether the next instance listens, while its place is kept ...
const PAUSE: Duration = Duration::from_millis(10);
/// ... and for how long that is done.
const LONGEST: Duration = Duration::from_secs(10);

/// All places.
#[derive(Default)]
pub(super) struct Places {
    kept: Vec<Place>,
    /// When the next instances are looked for; none: no place is kept.
    next: Option<Tick>,
}

/// A socket whose filter goes on dropping what asks for a connection.
struct Place {
    service: ServiceId,
    /// The one that is over.
    instance: Instance,
    held: Held,
    until: Tick,
}

impl Places {
    /// Keeps those of these sockets that may stay. Returns the others.
    ///
    /// Not in another network namespace: with the last process there is nobody left by whom
    /// superd could see who listens in it.
    pub(super) fn keep(
        &mut self,
        (service, instance): (ServiceId, Instance),
        sockets: Vec<Held>,
        now: Tick,
    ) -> Vec<Held> {
        let may_stay = |held: &Held| {
            held.listener.transport == Transport::Tcp
                && held.bound.network.is_none()
                && filter::shares_port(held.copy.as_fd())
        };
        let (kept, rest): (Vec<Held>, Vec<Held>) = sockets.into_iter().partition(may_stay);
        let place = |held| Place {
            service,
            instance,
            held,
            until: now + LONGEST,
        };
        self.kept.extend(kept.into_iter().map(place));
        if !self.kept.is_empty() {
            self.next = Some(now + PAUSE);
        }
        rest
    }

    /// Whose places are kept.
    pub(super) fn services(&self) -> Vec<ServiceId> {
        let mut services: Vec<ServiceId> = self.kept.iter().map(|k| k.service).collect();
        services.dedup();
        services
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// The inodes of those of one service.
    pub(super) fn inodes(&self, service: ServiceId) -> impl Iterator<Item = u64> + '_ {
        let of_this = self.kept.iter().filter(move |k| k.service == service);
        of_this.map(|k| k.held.listener.inode)
    }

    /// No next instance of this service is to be waited for.
    pub(super) fn let_go(&mut self, service: ServiceId) {
        self.kept.retain(|k| k.service != service);
        if self.kept.is_empty() {
            self.next = None;
        }
    }

    /// This instance is over: what was kept for it is let go, for perhaps it could not bind.
    pub(super) fn forget(&mut self, service: ServiceId, instance: Instance) {
        self.kept
            .retain(|k| k.service != service || k.instance == instance);
    }

    /// When [`Places::look`] is due.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        self.next
    }

    /// Lets go of an address where anybody else listens: of what comes there the kernel gives
    /// each socket its part, and what is kept would drop it.
    pub(super) fn look(&mut self, now: Tick) {
        if self.next.is_none_or(|at| at > now) {
            return;
        }
        let Some(ports) = port_range(self.kept.iter().map(|k| &k.held.bound)) else {
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
        self.next = (!self.kept.is_empty()).then_some(now + PAUSE);
    }
}
