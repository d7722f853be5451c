//! What is done to, and asked about, one running instance.

use std::path::Path;

use super::Trees;
use crate::daemon::tree::{Forest, Reachable, Tree, Usage};
use crate::machine::event::{Instance, Pid, ServiceId};
use crate::machine::report::Stuck;
use crate::machine::signal::Signal;
use crate::machine::spec::To;
use crate::map::Set;
use crate::sys::cgroup::Group;
use crate::sys::pidfd::PidFd;

impl Trees {
    fn tree(&mut self, service: ServiceId, instance: Instance) -> Option<(&mut Tree, &mut Forest)> {
        let live = self
            .live
            .get_mut(&service)
            .filter(|l| l.instance == instance)?;
        Some((&mut live.tree, &mut self.forest))
    }

    /// Sends a signal.
    pub fn signal(&mut self, service: ServiceId, instance: Instance, signal: Signal, to: To) {
        if let Some((tree, forest)) = self.tree(service, instance) {
            tree.signal(forest, signal.0, to);
        }
    }

    /// Lets those run that stand still.
    pub fn wake(&mut self, service: ServiceId, instance: Instance, to: To) {
        if let Some((tree, forest)) = self.tree(service, instance) {
            tree.wake(forest, to);
        }
    }

    /// SIGKILL to the whole tree.
    pub fn kill(&mut self, service: ServiceId, instance: Instance) {
        if let Some((tree, forest)) = self.tree(service, instance) {
            tree.kill(forest);
        }
    }

    /// What at most `most` processes of the tree are at.
    pub fn look(&mut self, service: ServiceId, instance: Instance, most: usize) -> Vec<Stuck> {
        self.tree(service, instance)
            .map_or_else(Vec::new, |(t, f)| t.see_stuck(f, most))
    }

    /// Remembers the listening sockets of the tree. Says how many.
    pub fn note_ports(&mut self, service: ServiceId, instance: Instance) -> u32 {
        self.tree(service, instance)
            .map_or(0, |(tree, forest)| tree.note_ports(forest))
    }

    /// How many of those are still open.
    ///
    /// Of those that superd has a copy of (`held`) only what the tree itself holds counts.
    pub fn ports_open(&mut self, service: ServiceId, instance: Instance, held: &[u64]) -> u32 {
        let Some((tree, forest)) = self.tree(service, instance) else {
            return 0;
        };
        let mut open = tree.open_ports(forest);
        if open.iter().any(|l| held.contains(&l.inode)) {
            let own = tree.holds_sockets(forest, held);
            open.retain(|l| !held.contains(&l.inode) || own.contains(&l.inode));
        }
        u32::try_from(open.len()).unwrap_or(u32::MAX)
    }

    /// The sockets by which an instance can be reached now; see [`Tree::sockets`].
    pub fn sockets(
        &mut self,
        service: ServiceId,
        instance: Instance,
        seen: &mut Set<u64>,
    ) -> Reachable {
        self.tree(service, instance)
            .map_or_else(Reachable::default, |(t, f)| t.sockets(f, seen))
    }

    /// Who of an instance holds these sockets: inode, process, descriptor; each once.
    pub fn holders(
        &mut self,
        service: ServiceId,
        instance: Instance,
        inodes: &Set<u64>,
    ) -> Vec<(u64, i32, i32)> {
        self.tree(service, instance)
            .map_or_else(Vec::new, |(t, f)| t.holders(f, inodes))
    }

    /// Some process of an instance in this network namespace.
    pub fn one_in(
        &mut self,
        service: ServiceId,
        instance: Instance,
        network: &Path,
    ) -> Option<i32> {
        let (tree, forest) = self.tree(service, instance)?;
        tree.one_in(forest, network)
    }

    /// How many processes are alive besides the main one; none: it cannot be told yet.
    pub fn descendants(&mut self, service: ServiceId, instance: Instance) -> Option<u32> {
        self.tree(service, instance)
            .map_or(Some(0), |(t, f)| t.count_descendants(f))
    }

    /// How many processes are alive; none: it cannot be told yet.
    pub fn alive(&mut self, service: ServiceId, instance: Instance) -> Option<u32> {
        self.tree(service, instance)
            .map_or(Some(0), |(t, f)| t.count(f))
    }

    /// MAINPID=: this process is the main one from now on. False, and nothing changes, if it
    /// is not alive and of the instance's tree.
    pub fn set_main(&mut self, service: ServiceId, instance: Instance, held: &PidFd) -> bool {
        self.tree(service, instance)
            .is_some_and(|(t, f)| t.set_main(f, held))
    }

    /// The start time of the main process, if it is known.
    pub fn main_start(&self, service: ServiceId) -> Option<u64> {
        self.live.get(&service)?.tree.known_start()
    }

    /// The main process is a zombie: how many processes it leaves; none: it
    /// cannot be told yet.
    pub fn before_reap(&mut self, service: ServiceId, instance: Instance) -> Option<u32> {
        self.tree(service, instance)
            .map_or(Some(0), |(t, f)| t.before_reap(f))
    }

    /// Whether the kernel has killed this main process for want of memory, as far as it
    /// says so. To be asked only when it died of a SIGKILL that superd did not send.
    pub fn died_of_no_memory(&mut self, service: ServiceId, pid: Pid) -> bool {
        let Some(live) = self.live.get(&service) else {
            return false;
        };
        let now = live.tree.group().and_then(Group::oom_kills);
        match (live.oom_kills, now) {
            (Some(before), Some(now)) => now > before,
            // A clock that is a little behind is no reason not to believe it.
            _ => self.klog.has_killed(pid.0, live.began.saturating_sub(2)),
        }
    }

    /// Processes and memory.
    pub fn usage(&mut self, service: ServiceId) -> Usage {
        match self.live.get_mut(&service) {
            Some(live) => live.tree.usage(&mut self.forest),
            None => Usage::default(),
        }
    }

    /// Resident memory of the tree, as [`Trees::usage`] counts it.
    pub fn memory_kib(&mut self, service: ServiceId) -> u64 {
        match self.live.get_mut(&service) {
            Some(live) => live.tree.memory_kib(&mut self.forest),
            None => 0,
        }
    }

    /// Whether the main process of an instance runs. Only for one that cannot be held.
    pub fn is_main_alive(&mut self, service: ServiceId) -> bool {
        let Some(live) = self.live.get(&service) else {
            return false;
        };
        let (main, start) = (live.tree.main(), live.tree.known_start());
        main.is_some_and(|Pid(pid)| self.forest.alive(pid, start).is_some())
    }
}
