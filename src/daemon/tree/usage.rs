//! What a tree uses, and what its processes are at.

use super::forest::Forest;
use super::{count, Tree};
use crate::machine::event::Pid;
use crate::machine::report::Stuck;
use crate::sys::proc::{self, Stat};

/// Processes whose memory a health check adds up, at most: some milliseconds.
const WEIGHED: usize = 1024;
/// Of a stuck process so many descriptors are looked at.
const STUCK_FDS: usize = 128;
/// So many of its listening sockets are told.
const STUCK_PORTS: usize = 8;

/// Processes and memory of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// Processes alive.
    pub processes: u32,
    /// Resident memory of all of them; what they share counts for each.
    pub memory_kib: u64,
}

impl Tree {
    /// Processes and memory, for `status`.
    pub fn usage(&mut self, forest: &mut Forest) -> Usage {
        let pids = self.pids_in_turn(forest);
        Usage {
            processes: count(pids.len()),
            memory_kib: pids.iter().map(|pid| proc::resident_kib(*pid)).sum(),
        }
    }

    /// The same memory, for a check that comes again and again: of so many processes at most.
    /// Only `statm`, which waits for no lock (`smaps_rollup` does).
    pub fn memory_kib(&mut self, forest: &mut Forest) -> u64 {
        let pids = self.pids_in_turn(forest);
        let each = pids.iter().take(WEIGHED);
        each.map(|pid| proc::resident_kib(*pid)).sum()
    }

    /// What at most `most` of its processes are at, the main one first: for the report of a
    /// KILL. Only files of /proc that do not wait for a lock that a stuck process may hold
    /// (`stat`, `comm`, `wchan`, `fd`; not `cmdline`, `environ` or `maps`).
    pub fn see_stuck(&mut self, forest: &mut Forest, most: usize) -> Vec<Stuck> {
        let main = self.main.map_or(0, |m| m.pid);
        let mut members = self.members(forest);
        members.retain(Stat::is_alive);
        if let Some(at) = members.iter().position(|m| m.pid == main) {
            members.swap(0, at);
        }
        members.truncate(most);
        let ports = &self.ports;
        let look = |m: Stat| {
            let mut inodes = Vec::new();
            if !ports.is_empty() {
                proc::some_socket_inodes(m.pid, STUCK_FDS, &mut inodes);
            }
            let mut listens: Vec<String> = Vec::new();
            for (_, l) in ports.iter().filter(|(_, l)| inodes.contains(&l.inode)) {
                let text = l.to_string();
                if !listens.contains(&text) {
                    listens.push(text); // once for IPv4 and IPv6
                }
            }
            listens.truncate(STUCK_PORTS);
            Stuck {
                pid: Pid(m.pid),
                name: proc::comm(m.pid),
                state: char::from(m.state),
                wchan: proc::wchan(m.pid),
                threads: m.threads,
                listens,
            }
        };
        members.into_iter().map(look).collect()
    }
}
