//! The sockets of a tree: the listening ones that are to be free when it is gone, those by which
//! it can be reached now, and who of it holds them.

use std::io;
use std::path::{Path, PathBuf};

use super::forest::Forest;
use super::{count, Tree};
use crate::map::Set;
use crate::sys::proc::{self, Listener};

/// So many descriptors of a tree are looked at for its sockets. Each costs a system call, and
/// superd has other things to do.
const DESCRIPTORS: usize = 65_536;

/// By which sockets a tree can be reached.
#[derive(Debug, Default)]
pub struct Reachable {
    /// TCP and UDP.
    pub listening: Vec<Reached>,
    /// The paths of unix stream sockets; empty for one without.
    pub unix: Vec<String>,
    /// Why some process could not be looked at.
    pub unseen: Option<io::Error>,
}

/// A listening socket, and who holds it under which number.
#[derive(Debug)]
pub struct Reached {
    /// What it is.
    pub listener: Listener,
    /// Its network namespace; none: superd's own.
    pub network: Option<PathBuf>,
    /// A process that holds it.
    pub pid: i32,
    /// The descriptor there.
    pub fd: i32,
}

impl Tree {
    /// Remembers the listening sockets that the tree holds now. Says how many. When everything
    /// is stopped, one scan tells of all trees.
    pub fn note_ports(&mut self, forest: &mut Forest) -> u32 {
        self.ports.clear();
        let own = proc::network_of("self");
        let mut networks: Vec<(Option<PathBuf>, String)> = Vec::new();
        let mut inodes = Vec::new();
        for member in self.members_in_turn(forest) {
            let pid = member.pid.to_string();
            let network = proc::network_of(&pid).or_else(|| own.clone());
            if !networks.iter().any(|(n, _)| *n == network) {
                networks.push((network, pid));
            }
            proc::socket_inodes(member.pid, &mut inodes);
        }
        inodes.sort_unstable();
        if inodes.is_empty() {
            return 0; // the kernel's lists are long to walk
        }
        for (network, pid) in networks {
            let mut found = Vec::new();
            let read = proc::listeners(if network == own { "self" } else { &pid }, &mut found);
            read.ok(); // what there is
            found.retain(|l| inodes.binary_search(&l.inode).is_ok());
            self.ports
                .extend(found.into_iter().map(|l| (network.clone(), l)));
        }
        count(self.ports.len())
    }

    /// The sockets by which the tree can be reached now. The inodes of all listening sockets
    /// that were seen on the way, also those of others, are added to `seen`.
    pub fn sockets(&mut self, forest: &mut Forest, seen: &mut Set<u64>) -> Reachable {
        let own = proc::network_of("self");
        let mut networks: Vec<(Option<PathBuf>, String)> = Vec::new();
        let mut holders: Vec<(u64, i32, i32)> = Vec::new();
        let mut found = Reachable::default();
        let mut left = DESCRIPTORS;
        for member in self.members(forest) {
            let pid = member.pid.to_string();
            let network = proc::network_of(&pid).or_else(|| own.clone());
            if !networks.iter().any(|(n, _)| *n == network) {
                networks.push((network, pid));
            }
            let mut sockets = Vec::new();
            if let Err(e) = proc::sockets(member.pid, &mut left, &mut sockets) {
                found.unseen = Some(e);
            }
            holders.extend(sockets.iter().map(|(fd, inode)| (*inode, member.pid, *fd)));
        }
        holders.sort_unstable();
        holders.dedup_by_key(|(inode, ..)| *inode);
        let holder = |inode: u64| {
            let at = holders.binary_search_by_key(&inode, |(inode, ..)| *inode);
            holders.get(at.ok()?)
        };
        for (network, pid) in networks {
            let is_own = network == own;
            let pid = if is_own { "self" } else { &pid };
            let mut listeners = Vec::new();
            if let Err(e) = proc::listeners(pid, &mut listeners) {
                found.unseen = Some(e);
            }
            seen.add_many(listeners.iter().map(|l| l.inode));
            let network = network.filter(|_| !is_own);
            for listener in listeners {
                if let Some((_, pid, fd)) = holder(listener.inode) {
                    found.listening.push(Reached {
                        listener,
                        network: network.clone(),
                        pid: *pid,
                        fd: *fd,
                    });
                }
            }
            let mut unix = Vec::new();
            proc::unix_listeners(pid, &mut unix);
            unix.retain(|(inode, _)| holder(*inode).is_some());
            found.unix.extend(unix.into_iter().map(|(_, path)| path));
        }
        // Where not all can be had it is those of low numbers, and not chance.
        found.listening.sort_unstable_by_key(|r| r.listener);
        found
    }

    /// Who holds these sockets: inode, process, descriptor; each once.
    pub fn holders(&mut self, forest: &mut Forest, inodes: &Set<u64>) -> Vec<(u64, i32, i32)> {
        let mut found = Vec::new();
        let mut left = DESCRIPTORS;
        for member in self.members(forest) {
            let mut sockets = Vec::new();
            // What is not seen is left alone.
            proc::sockets(member.pid, &mut left, &mut sockets).ok();
            for (fd, inode) in sockets {
                if inodes.contains(&inode) {
                    found.push((inode, member.pid, fd));
                }
            }
        }
        found.sort_unstable();
        found.dedup_by_key(|(inode, ..)| *inode);
        found
    }

    /// Some process of the tree in this network namespace.
    pub fn one_in(&mut self, forest: &mut Forest, network: &Path) -> Option<i32> {
        let is_in = |pid: i32| proc::network_of(&pid.to_string()).is_some_and(|n| n == network);
        let mut pids = self.members(forest).into_iter().map(|m| m.pid);
        pids.find(|pid| is_in(*pid))
    }

    /// Of these sockets, those that some process of the tree holds.
    pub fn holds_sockets(&mut self, forest: &mut Forest, inodes: &[u64]) -> Vec<u64> {
        let mut held = Vec::new();
        for member in self.members(forest) {
            proc::socket_inodes(member.pid, &mut held);
        }
        held.retain(|inode| inodes.contains(inode));
        held
    }

    /// The sockets noted by [`Tree::note_ports`] that are still open, whoever holds them. All of
    /// them where that cannot be told now, for want of descriptors or memory.
    pub fn open_ports(&mut self, forest: &mut Forest) -> Vec<Listener> {
        let own = proc::network_of("self");
        let (mut open, mut is_whole) = (Vec::new(), true);
        let mut networks: Vec<Option<PathBuf>> = Vec::new();
        for (network, _) in &self.ports {
            if !networks.contains(network) {
                networks.push(network.clone());
            }
        }
        for network in networks {
            if network == own {
                is_whole &= proc::listeners("self", &mut open).is_ok();
                continue;
            }
            // Another network namespace is seen through a process in it; with the last
            // one that we can find, its sockets are gone too.
            let pids = self.members(forest).into_iter().map(|m| m.pid.to_string());
            if let Some(pid) = pids.into_iter().find(|p| proc::network_of(p) == network) {
                is_whole &= proc::listeners(&pid, &mut open).is_ok();
            }
        }
        // After the main process a stop does not go by ports, and "stopped" is not to wait for them.
        is_whole |= self.main.is_none();
        let noted = |l: &Listener| self.ports.iter().any(|(_, n)| n.inode == l.inode);
        match is_whole {
            true => open.retain(noted),
            false => open = self.ports.iter().map(|(_, l)| *l).collect(),
        }
        open
    }
}
