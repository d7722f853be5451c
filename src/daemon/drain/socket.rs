//! A listening socket that another process holds: superd's copy of it, its address, and the
//! filter on it. Whose socket it is, and when the filter comes and goes, is not known here.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::daemon::rundir::plain;
use crate::daemon::tree::Reached;
use crate::daemon::trees::Trees;
use crate::machine::event::{Instance, ServiceId};
use crate::machine::time::Tick;
use crate::map::Set;
use crate::sys::features;
use crate::sys::filter::{self, Attached};
use crate::sys::pidfd::PidFd;
use crate::sys::proc::{Connection, Listener, Transport};
use crate::sys::tcp;

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

/// What is said of a socket whose filter the service itself has locked.
const LOCKED: &str = "its filter is locked (SO_LOCK_FILTER)";

/// A socket that takes connections or packets, and where.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::daemon) struct Bound {
    /// Its address.
    pub local: SocketAddr,
    /// Its network namespace; none: superd's own.
    pub network: Option<PathBuf>,
}

/// A socket with superd's filter.
pub(super) struct Held {
    /// Keeps the socket open for as long as it is here.
    pub copy: OwnedFd,
    pub listener: Listener,
    pub bound: Bound,
    /// UDP: the last packet, and when it was seen.
    pub packet: ([u64; 2], Tick),
}

impl Bound {
    /// Whether what comes to this address comes to this socket; IPv4 also by one of IPv6.
    pub(super) fn is_at(&self, local: SocketAddr) -> bool {
        let (own, ip) = (self.local.ip().to_canonical(), local.ip().to_canonical());
        self.local.port() == local.port()
            && (own == ip || (own.is_unspecified() && (self.local.is_ipv6() || local.is_ipv4())))
    }

    /// Whether one address is the other, or takes in what comes to it.
    pub(super) fn meets(&self, other: SocketAddr) -> bool {
        let (own, ip) = (self.local.ip().to_canonical(), other.ip().to_canonical());
        self.local.port() == other.port()
            && (own == ip || own.is_unspecified() || ip.is_unspecified())
    }

    /// Whether a connection is to this socket.
    pub(super) fn has(&self, connection: &Connection, network: Option<&Path>) -> bool {
        let (own, local) = (self.local, connection.local);
        own.port() == local.port()
            && own.is_ipv4() == local.is_ipv4()
            && (own.ip().is_unspecified() || own.ip() == local.ip())
            && self.network.as_deref() == network
    }
}

impl Held {
    /// Copies the socket and attaches the filter. None: it is no longer there.
    ///
    /// # Errors
    /// Why it cannot have the filter, for the log.
    pub(super) fn attach(reached: &Reached, now: Tick) -> Result<Option<Held>, String> {
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
}

/// Copies a socket out of the process that holds it (pidfd_getfd(2)). None: it is no longer
/// there.
///
/// # Errors
/// Why it cannot be copied, for the log.
pub(in crate::daemon) fn copy(reached: &Reached) -> Result<Option<(OwnedFd, Bound)>, String> {
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

/// Removes every filter of superd's from the sockets of an instance that runs, also those of
/// an earlier superd. Returns the names of the sockets that had one, and what could not be done.
///
/// `held`: the inodes of those of which superd has copies, by which it can remove them anyway.
pub(in crate::daemon) fn remove_filters(
    trees: &mut Trees,
    service: ServiceId,
    instance: Instance,
    held: &[u64],
) -> (String, Option<String>) {
    let found = trees.sockets(service, instance, &mut Set::new());
    let mut names: Vec<String> = Vec::new();
    let mut left = match &found.unseen {
        // What may not be looked at has no filter either.
        Some(e) if is_transient(e) && held.is_empty() => Some(unseen(e)),
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

/// Half-closes a connection (inode, process, descriptor) if it is the one that was found, and
/// has been idle for so long. The copy that superd makes for that is closed at once.
pub(super) fn is_closed((inode, pid, fd): &(u64, i32, i32), idle: Duration) -> bool {
    let Ok(copy) = PidFd::open(*pid).and_then(|held| held.copy_of(*fd)) else {
        return false; // closed meanwhile
    };
    let is_it = filter::identity(copy.as_fd()).is_ok_and(|(i, _)| i == *inode);
    let silent = || tcp::idle(copy.as_fd()).ok().flatten();
    is_it && silent().is_some_and(|d| d >= idle) && tcp::half_close(copy.as_fd()).is_ok()
}

/// The ports of these sockets, from the lowest to the highest; none: there is no socket.
pub(super) fn port_range<'a>(
    sockets: impl Iterator<Item = &'a Bound>,
) -> Option<RangeInclusive<u16>> {
    let ports: Vec<u16> = sockets.map(|bound| bound.local.port()).collect();
    Some(*ports.iter().min()?..=*ports.iter().max()?)
}

/// The process in whose `/proc/PID/net` the connections of a network namespace are listed; none:
/// no process of the instance is in it.
pub(super) fn reader_of(
    network: Option<&Path>,
    trees: &mut Trees,
    service: ServiceId,
    instance: Instance,
) -> Option<String> {
    match network {
        None => Some("self".to_owned()),
        Some(network) => trees
            .one_in(service, instance, network)
            .map(|pid| pid.to_string()),
    }
}

/// What is said where superd could not look at everything.
pub(super) fn unseen(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::PermissionDenied => BLIND.to_owned(),
        _ => format!("superd cannot see all of its sockets: {}", plain(e)),
    }
}

/// Whether it may be seen the next time: superd has no descriptor or memory left for now.
pub(super) fn is_transient(e: &io::Error) -> bool {
    e.raw_os_error().is_some() && e.kind() != io::ErrorKind::PermissionDenied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Bound {
        Bound {
            local: text.parse().unwrap(),
            network: None,
        }
    }

    #[test]
    fn a_wildcard_takes_in_what_comes_to_its_port() {
        let comes = |to: &str, bound: &str| at(bound).is_at(to.parse().unwrap());
        assert!(comes("192.0.2.1:80", "192.0.2.1:80"));
        assert!(comes("192.0.2.1:80", "0.0.0.0:80"));
        assert!(comes("192.0.2.1:80", "[::]:80"), "IPv4 by a socket of IPv6");
        assert!(comes("[::ffff:192.0.2.1]:80", "192.0.2.1:80"));
        assert!(!comes("[2001:db8::1]:80", "0.0.0.0:80"));
        assert!(!comes("192.0.2.1:80", "192.0.2.2:80"));
        assert!(!comes("192.0.2.1:81", "0.0.0.0:80"));
    }

    #[test]
    fn two_addresses_meet_where_one_takes_in_the_other() {
        let meet = |a: &str, b: &str| at(a).meets(b.parse().unwrap());
        assert!(meet("192.0.2.1:80", "0.0.0.0:80"));
        assert!(meet("0.0.0.0:80", "192.0.2.1:80"));
        assert!(!meet("192.0.2.1:80", "192.0.2.2:80"));
        assert!(!meet("0.0.0.0:80", "0.0.0.0:81"));
    }

    #[test]
    fn the_ports_of_sockets_are_a_range() {
        let sockets = [at("0.0.0.0:443"), at("0.0.0.0:80"), at("[::]:80")];
        assert_eq!(port_range(sockets.iter()), Some(80..=443));
        assert_eq!(port_range([].iter()), None);
    }
}
