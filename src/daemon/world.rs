//! What services wait for before they start: interfaces, addresses, paths, the clock.
//!
//! The kernel says *that* something changed (rtnetlink(7) groups, inotify(7), the mount table),
//! and then everything is looked at afresh: messages are counted and not read, so that a lost
//! one costs nothing and none can lie. Nothing is open while nobody waits.
//!
//! No event tells that the clock became synchronised, and where a source of events cannot be
//! had there is none either: then it is looked every [`PAUSE`], while somebody waits.

use std::fs::File;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};

use super::reactor::Reactor;
use super::token::Source;
use crate::machine::event::{Event, ServiceId};
use crate::machine::outlook::{Condition, WaitFor};
use crate::machine::time::Tick;
use crate::sys;

/// Between two looks at what no event tells of.
const PAUSE: Duration = Duration::from_secs(10);

/// Reads of one source in a turn.
const READS: usize = 64;

const NET: u32 = 0;
const PATHS: u32 = 1;
const MOUNTS: u32 = 2;

/// One service that waits.
struct Asked {
    service: ServiceId,
    wait_for: Rc<WaitFor>,
    /// What was said to be missing.
    told: Option<Vec<Condition>>,
}

/// Everybody who waits, and what tells of changes.
#[derive(Default)]
pub(super) struct World {
    asked: Vec<Asked>,
    /// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
    net: Option<OwnedFd>,
    paths: Option<Inotify>,
    watched: Vec<WatchDescriptor>,
    /// `/proc/self/mountinfo`.
    mounts: Option<File>,
    /// To be looked at in this turn.
    is_due: bool,
    next_look: Option<Tick>,
}

/// The network, as it is now.
struct Net {
    running: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Net {
    fn look() -> Net {
        use nix::net::if_::InterfaceFlags;
        let mut net = Net {
            running: Vec::new(),
            addresses: Vec::new(),
        };
        // Without an answer nothing is there yet; it is looked again.
        let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
        for one in all {
            if one
                .flags
                .contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING)
                && !net.running.contains(&one.interface_name)
            {
                net.running.push(one.interface_name);
            }
            let address = one.address.as_ref();
            let v4 = address.and_then(|a| a.as_sockaddr_in());
            let v4 = v4.map(|a| IpAddr::V4(a.ip()));
            let v6 = address.and_then(|a| a.as_sockaddr_in6());
            let v6 = v6.map(|a| IpAddr::V6(a.ip()));
            net.addresses.extend(v4.or(v6));
        }
        net
    }

    fn has(&self, address: IpAddr) -> bool {
        // An IPv6 address that is not yet known to be unique cannot be bound.
        let usable = |e: io::Error| e.kind() != io::ErrorKind::AddrNotAvailable;
        self.addresses.contains(&address)
            && UdpSocket::bind((address, 0)).map_or_else(usable, |_| true)
    }
}

impl World {
    /// Looks out for a service, or no longer.
    pub fn look_out(
        &mut self,
        service: ServiceId,
        wait_for: Option<Rc<WaitFor>>,
        registry: &Registry,
    ) {
        self.asked.retain(|a| a.service != service);
        if let Some(wait_for) = wait_for {
            self.asked.push(Asked {
                service,
                wait_for,
                told: None,
            });
            self.is_due = true;
        }
        self.open(registry);
    }

    fn waits(&self, what: fn(&Condition) -> bool) -> bool {
        self.asked.iter().any(|a| a.wait_for.all.iter().any(what))
    }

    /// Has open what is needed, and nothing else.
    fn open(&mut self, registry: &Registry) {
        let net = self.waits(|c| matches!(c, Condition::Interface(_) | Condition::Address(_)));
        let paths = self.waits(|c| matches!(c, Condition::Path(_)));
        if !net {
            close(self.net.take(), registry);
        } else if self.net.is_none() {
            self.net = listen().ok().filter(|fd| add(registry, fd.as_fd(), NET));
        }
        if !paths {
            close(self.paths.take(), registry);
            close(self.mounts.take(), registry);
            self.watched.clear();
            return;
        }
        if self.paths.is_none() {
            let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
            self.paths = Inotify::init(flags)
                .ok()
                .filter(|fd| add(registry, fd.as_fd(), PATHS));
        }
        if self.mounts.is_none() {
            self.mounts = sys::file::open_to_read("/proc/self/mountinfo")
                .ok()
                .filter(|fd| add(registry, fd.as_fd(), MOUNTS));
        }
    }

    /// A source has something.
    pub fn ready(&mut self) {
        self.is_due |= !self.asked.is_empty();
    }

    /// Whether there is to be a look in this turn.
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    pub fn next_deadline(&self) -> Option<Tick> {
        self.next_look
    }

    /// Looks at everything that somebody waits for; who is to be told what.
    pub fn look(&mut self, now: Tick) -> Vec<(ServiceId, Vec<Condition>)> {
        // First forget what was told, then look: what comes between is told again.
        let socket = self.net.as_ref();
        let net = socket.is_some_and(|fd| !drain(fd.as_fd(), true, READS));
        let inotify = self.paths.as_ref();
        let paths = inotify.is_some_and(|fd| !drain(fd.as_fd(), false, READS));
        self.is_due = net || paths;
        let watches = self.watch_paths();
        let net = match &self.net {
            None if !self
                .waits(|c| matches!(c, Condition::Interface(_) | Condition::Address(_))) =>
            {
                None
            }
            None | Some(_) => Some(Net::look()),
        };
        let is_there = |what: &&Condition| match what {
            Condition::Interface(name) => net
                .as_ref()
                .is_some_and(|n| n.running.iter().any(|r| **r == **name)),
            Condition::Address(address) => net.as_ref().is_some_and(|n| n.has(*address)),
            Condition::Path(path) => Path::new(&**path).exists(),
            Condition::Synced => sys::timer::is_synchronised(),
        };
        let mut news = Vec::new();
        let mut is_blind = !watches;
        for one in &mut self.asked {
            let missing = one.wait_for.all.iter().filter(|c| !is_there(c));
            let missing: Vec<Condition> = missing.cloned().collect();
            is_blind |= missing.iter().any(|c| match c {
                Condition::Synced => true,
                Condition::Interface(_) | Condition::Address(_) => self.net.is_none(),
                Condition::Path(_) => self.paths.is_none() || self.mounts.is_none(),
            });
            if one.told.as_ref() != Some(&missing) {
                news.push((one.service, missing.clone()));
                one.told = Some(missing);
            }
        }
        self.next_look = is_blind.then(|| now + PAUSE);
        news
    }

    /// Watches, for each path that is not there, the nearest folder above it that is. False
    /// where that is impossible.
    fn watch_paths(&mut self) -> bool {
        let Some(inotify) = &self.paths else {
            return true; // there is none to watch, or `look` sees that it cannot
        };
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let mut watched = Vec::new();
        let mut all = true;
        for condition in self.asked.iter().flat_map(|a| &a.wait_for.all) {
            let Condition::Path(path) = condition else {
                continue;
            };
            let path = Path::new(&**path);
            // What appears before the watch is set is seen by the look after it.
            for _ in path.ancestors() {
                let Some(folder) = nearest(path) else { break };
                match inotify.add_watch(folder, what) {
                    Ok(watch) if !watched.contains(&watch) => watched.push(watch),
                    Ok(_) => {}
                    Err(_) => all = false,
                }
                if nearest(path) == Some(folder) {
                    break;
                }
            }
        }
        replace(inotify, &mut self.watched, watched);
        all
    }
}

/// The nearest folder above a path, unless that is there.
fn nearest(path: &Path) -> Option<&Path> {
    match path.exists() {
        true => None,
        false => path.ancestors().skip(1).find(|p| p.is_dir()),
    }
}

fn listen() -> nix::Result<OwnedFd> {
    let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
    let fd = socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkRoute,
    )?;
    socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups.cast_unsigned()))?;
    Ok(fd)
}

fn add(registry: &Registry, fd: BorrowedFd<'_>, index: u32) -> bool {
    // poll(2) on the mount table says POLLPRI.
    let interest = match index {
        MOUNTS => Interest::PRIORITY,
        _ => Interest::READABLE,
    };
    let token = Source::World(index).token();
    registry
        .register(&mut SourceFd(&fd.as_raw_fd()), token, interest)
        .is_ok()
}

/// A child that has not become its program yet may hold it: closing alone is not enough.
fn close(fd: Option<impl AsFd>, registry: &Registry) {
    if let Some(fd) = fd {
        let fd = fd.as_fd().as_raw_fd();
        registry.deregister(&mut SourceFd(&fd)).ok(); // it was registered
    }
}

/// From now on these are watched, and no others.
pub(super) fn replace(
    inotify: &Inotify,
    watched: &mut Vec<WatchDescriptor>,
    by: Vec<WatchDescriptor>,
) {
    for old in watched.iter().filter(|w| !by.contains(w)) {
        inotify.rm_watch(*old).ok(); // gone with its folder
    }
    *watched = by;
}

/// Reads until there is nothing; false when that takes more than so many reads, which is too
/// much for one turn.
pub(super) fn drain(fd: BorrowedFd<'_>, is_socket: bool, reads: usize) -> bool {
    let mut room = [0_u8; 4096];
    for _ in 0..reads {
        let got = match is_socket {
            // The rest of a longer message is dropped by the kernel.
            true => socket::recv(fd.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT),
            false => nix::unistd::read(fd, &mut room),
        };
        match got {
            // Messages were lost: what they said is looked at in any case.
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(_) => return true,
        }
    }
    false
}

impl Reactor {
    /// Looks at the world if that is due, and tells the machine. False: it was not.
    pub(super) fn look_at_world(&mut self) -> bool {
        if !self.world.is_due() {
            return false;
        }
        let now = self.now();
        let news = self.world.look(now);
        let is_news = !news.is_empty();
        for (service, missing) in news {
            self.feed(Event::World(service, missing));
        }
        is_news
    }
}
