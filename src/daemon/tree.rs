//! Who belongs to an instance, and signals to exactly those.
//!
//! With a cgroup the kernel keeps the list. Without one a process belongs to an instance if
//! one of these holds, looked up in one pass over /proc:
//!
//! - it is the main process;
//! - it was a member when we last looked (same pid, same start time);
//! - its parent is a member;
//! - its session is that of a member (never superd's own), which includes the session the
//!   main process began, as long as that is not reaped;
//! - it was left to superd (its parent is superd, the subreaper, and it is nobody's main
//!   process) and carries the instance's mark in its environment.
//!
//! Hence the reaper's order: peek, [`Tree::before_reap`], reap. The zombie keeps its session
//! id from being used again while leftovers are looked for.
//!
//! What escapes without a cgroup: a process that has left its session, lost its parent and
//! replaced its environment, all between two looks. [`Forest::kill_strays`] gets those when
//! superd ends. Zombies are not members: they are dead, and their parents', or ours, to reap.
//!
//! [`Forest`] looks at /proc for all trees; `members` applies these rules, `signal` sends to
//! those found, and `sockets` and `usage` say what they hold.

mod forest;
mod members;
mod signal;
mod sockets;
mod usage;

use std::path::PathBuf;

pub use forest::{Forest, KeptForest};
pub use sockets::{Reachable, Reached};
pub use usage::Usage;

use super::spawn::INSTANCE;
use crate::json::{FromJson, ToJson};
use crate::machine::event::Pid;
use crate::sys::cgroup::Group;
use crate::sys::pidfd::PidFd;
use crate::sys::proc::{Listener, Stat};

/// The main process, as long as it is not reaped.
#[derive(Clone, Copy, Debug, ToJson, FromJson)]
struct Main {
    pid: i32,
    /// None: it is our child, so its pid cannot be another process's before we reap it.
    start: Option<u64>,
}

/// The processes of one instance.
#[derive(Debug, ToJson, FromJson)]
pub struct Tree {
    main: Option<Main>,
    /// The process group of the main process: its own session's, unless MAINPID= named
    /// another process.
    leader: i32,
    /// `SUPERD_INSTANCE=...`
    mark: Vec<u8>,
    group: Option<Group>,
    /// Members besides the main one when we last looked. Not used with a cgroup.
    known: Vec<Stat>,
    /// It may have orphans that went to init while no superd was there.
    is_adopted: bool,
    /// When we last looked, a process died that may have left one that we did not see.
    is_elusive: bool,
    /// When we last looked, that was not so, and no zombie was there that may be of this tree.
    is_settled: bool,
    ports: Vec<(Option<PathBuf>, Listener)>,
    /// Looks in a row in which somebody vanished (only of an adopted tree) or could not be
    /// recognized.
    blurred: u8,
    /// Start time of our own child, once it is known.
    noted_start: Option<u64>,
    /// Only a scan of at least this number tells of it: it was begun, or signalled, after the one
    /// before. Scans are counted anew by each program.
    #[serde(skip)]
    needs: u64,
}

impl Tree {
    /// The tree of a child that was just made; `start` is its start time where that is known.
    pub fn started(
        forest: &mut Forest,
        (main, start): (Pid, Option<u64>),
        cookie: &str,
        group: Option<Group>,
    ) -> Tree {
        let mut tree = Tree::new(forest, main, cookie, group);
        tree.noted_start = start.filter(|start| forest.agrees(main.0, *start));
        tree
    }

    fn new(forest: &mut Forest, main: Pid, cookie: &str, group: Option<Group>) -> Tree {
        forest.claim(main.0);
        Tree {
            main: Some(Main {
                pid: main.0,
                start: None,
            }),
            leader: main.0,
            mark: format!("{INSTANCE}={cookie}").into_bytes(),
            group,
            known: Vec::new(),
            is_adopted: false,
            is_elusive: false,
            is_settled: false,
            ports: Vec::new(),
            blurred: 0,
            noted_start: None,
            needs: forest.scans + 1,
        }
    }

    /// In a superd that has become another program: its cgroup is the one that the next
    /// instance will get, if it is the same.
    pub fn share_group(&mut self, group: &Group) {
        let is_it = |g: &Group| g.path() == group.path();
        if self.group.as_ref().is_some_and(is_it) {
            self.group = Some(group.clone());
        }
    }

    /// The tree of a process that an earlier superd started. `start` is its start time as
    /// the caller has verified it; none for `main`: only leftovers are to be found.
    pub fn adopt(
        forest: &mut Forest,
        main: Option<(Pid, u64)>,
        leader: Pid,
        cookie: &str,
        group: Option<Group>,
    ) -> Tree {
        let mut tree = Tree::new(forest, leader, cookie, group);
        forest.unclaim(leader.0);
        tree.main = main.map(|(pid, start)| Main {
            pid: pid.0,
            start: Some(start),
        });
        if let Some(main) = tree.main {
            forest.claim(main.pid);
            // What loses its parent goes where the main process went.
            let reaper = forest.stat(main.pid).map(|s| s.ppid);
            forest.note_reapers(reaper);
        }
        forest.note_reapers(None);
        tree.is_adopted = true;
        tree
    }

    /// The main process, until [`Tree::before_reap`].
    pub fn main(&self) -> Option<Pid> {
        self.main.map(|m| Pid(m.pid))
    }

    /// The variable that its processes carry: `SUPERD_INSTANCE=...`
    pub fn mark(&self) -> &[u8] {
        &self.mark
    }

    /// Its cgroup.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Start time of the main process, for the journal; none when it is gone. Read once.
    pub fn main_start(&mut self, forest: &mut Forest) -> Option<u64> {
        let main = self.main?;
        if let Some(start) = main.start.or(self.noted_start) {
            return Some(start);
        }
        self.noted_start = Some(forest.stat(main.pid)?.start);
        self.noted_start
    }

    /// Start time of the main process, if it was read before.
    pub fn known_start(&self) -> Option<u64> {
        self.main.and_then(|m| m.start.or(self.noted_start))
    }

    /// The process group that it began.
    pub fn leader(&self) -> i32 {
        self.leader
    }

    /// What [`Tree::note_ports`] has noted.
    pub fn noted_ports(&self) -> &[(Option<PathBuf>, Listener)] {
        &self.ports
    }

    /// What another superd's [`Tree::note_ports`] has noted.
    pub fn recall_ports(&mut self, ports: Vec<(Option<PathBuf>, Listener)>) {
        self.ports = ports;
    }

    /// Of the members, the one that began the session in which most of them live: what an
    /// earlier superd has started and whose number it could not write down any more.
    pub fn find_leader(&mut self, forest: &mut Forest) -> Option<Stat> {
        let members = self.members(forest);
        let is_member = |pid: i32| members.iter().any(|m| m.pid == pid);
        let leads = |m: &&Stat| m.is_alive() && m.session == m.pid && !is_member(m.ppid);
        members
            .iter()
            .filter(leads)
            .min_by_key(|m| m.start)
            .copied()
    }

    /// This member is the main process.
    pub fn put_main(&mut self, forest: &mut Forest, main: &Stat) {
        forest.claim(main.pid);
        forest.note_reapers(Some(main.ppid));
        self.leader = main.pgrp;
        self.known.retain(|k| k.pid != main.pid);
        self.main = Some(Main {
            pid: main.pid,
            start: Some(main.start),
        });
    }

    /// Another process of the tree is the main one now (MAINPID=). False, and nothing
    /// changes, if it is not alive and of this tree, or if the main process is gone already.
    pub fn set_main(&mut self, forest: &mut Forest, held: &PidFd) -> bool {
        let members = self.members_with(forest, held.pid());
        let Some(new) = members.iter().find(|m| m.pid == held.pid()) else {
            return false;
        };
        // Held since before the look: if it still is that process, it was during the look.
        if self.main.is_none() || held.send(0).is_err() {
            return false;
        }
        if let Some(old) = self.main.take() {
            forest.unclaim(old.pid);
            let stat = members.iter().find(|m| m.pid == old.pid);
            self.known.extend(stat);
        }
        forest.claim(new.pid);
        self.leader = new.pgrp;
        self.noted_start = None;
        self.main = Some(Main {
            pid: new.pid,
            start: Some(new.start),
        });
        true
    }

    /// Whether this process belongs to the tree.
    pub fn holds(&mut self, forest: &mut Forest, pid: Pid) -> bool {
        self.main.is_some_and(|m| m.pid == pid.0)
            || (self.members_with(forest, pid.0).iter()).any(|m| m.pid == pid.0)
    }

    /// How many processes are alive, the main one included. None: nobody was seen, but
    /// without a cgroup that proves nothing yet; reap, and ask again.
    pub fn count(&mut self, forest: &mut Forest) -> Option<u32> {
        match self.pids(forest) {
            Some(pids) => Some(count(pids.len())),
            None => {
                let found = self.find_in_turn(forest, |_| true).len();
                (found > 0 || self.is_settled).then(|| count(found))
            }
        }
    }

    /// How many processes are alive besides the main one; none as with [`Tree::count`].
    pub fn count_descendants(&mut self, forest: &mut Forest) -> Option<u32> {
        let main = self.main.map_or(0, |m| m.pid);
        match self.pids(forest) {
            Some(pids) => Some(count(pids.iter().filter(|p| **p != main).count())),
            None => {
                let found = self.find_in_turn(forest, |m| m.pid != main);
                self.descendants_in(&found, main)
            }
        }
    }

    fn descendants_in(&self, found: &[Stat], main: i32) -> Option<u32> {
        let found = found.iter().filter(|m| m.pid != main).count();
        (found > 0 || self.is_settled).then(|| count(found))
    }

    /// To be called when the main process is seen as a zombie, before it is reaped. Says
    /// how many processes of the tree are left, or none as [`Tree::count`] does. From here on
    /// there is no main process.
    pub fn before_reap(&mut self, forest: &mut Forest) -> Option<u32> {
        let main = self.main.map_or(0, |m| m.pid);
        let left = match &self.group {
            // The usual case: three system calls.
            Some(group) if matches!(group.populated(), Ok(false)) => Some(0),
            _ => match self.pids(forest) {
                Some(pids) => Some(count(pids.iter().filter(|p| **p != main).count())),
                None => {
                    forest.scan_for(main);
                    let found = self.find_in(forest);
                    self.descendants_in(&found, main)
                }
            },
        };
        self.main = None;
        forest.unclaim(main);
        left
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
