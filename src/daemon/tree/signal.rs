//! Signals to exactly the members of a tree.
//!
//! They go to single processes that were verified a moment ago: the pidfd is opened
//! first, then the process is looked at again, then the pidfd is signalled. Without pidfds
//! (before Linux 5.3) the same look is taken right before kill(2).

use super::forest::{deliver, Forest};
use super::members::Then;
use super::{Main, Tree};
use crate::machine::spec::To;
use crate::map::Set;
use crate::sys::kill::{kill, may_signal};
use crate::sys::pidfd::PidFd;

/// How often one call of [`Tree::kill`] looks for new processes. The caller repeats it.
const PASSES: usize = 8;
/// So many pidfds are held at once.
const BATCH: usize = 64;

impl Tree {
    /// Sends a signal (1 to 64). Says to how many processes it went; those that are gone, or
    /// that superd may not signal, are not counted.
    pub fn signal(&mut self, forest: &mut Forest, signal: i32, to: To) -> u32 {
        let main = self.main.map_or(0, |m| m.pid);
        let sent = match to {
            To::Main => self.signal_main(forest, signal),
            To::Tree => self.signal_where(forest, signal, |_, _| true),
            To::Descendants => self.signal_where(forest, signal, |_, pid| pid != main),
            To::Group => {
                let leader = self.leader;
                let is_in =
                    move |f: &mut Forest, pid| f.stat(pid).is_some_and(|s| s.pgrp == leader);
                self.signal_where(forest, signal, is_in)
            }
        };
        self.needs = forest.scans + 1;
        sent
    }

    /// SIGCONT to those that are stopped; a frozen cgroup is thawed as a whole.
    pub fn wake(&mut self, forest: &mut Forest, to: To) {
        if let Some(group) = &self.group {
            group.thaw();
        }
        let main = self.main.map_or(0, |m| m.pid);
        let leader = self.leader;
        let is_stopped = |f: &mut Forest, pid| f.stat(pid).filter(|s| s.state == b'T');
        match to {
            To::Main if is_stopped(forest, main).is_none() => 0,
            To::Main => self.signal_main(forest, libc::SIGCONT),
            To::Group => self.signal_where(forest, libc::SIGCONT, |f, pid| {
                is_stopped(f, pid).is_some_and(|s| s.pgrp == leader)
            }),
            To::Tree => {
                self.signal_where(forest, libc::SIGCONT, |f, pid| is_stopped(f, pid).is_some())
            }
            To::Descendants => self.signal_where(forest, libc::SIGCONT, |f, pid| {
                pid != main && is_stopped(f, pid).is_some()
            }),
        };
    }

    fn signal_main(&mut self, forest: &mut Forest, signal: i32) -> u32 {
        match self.main {
            None => 0,
            Some(Main { pid, start: None }) => u32::from(kill(pid, signal).is_ok()),
            Some(Main {
                pid,
                start: Some(start),
            }) => {
                let held = PidFd::open(pid);
                let is_it = forest.is_still(pid, start);
                u32::from(is_it && deliver(held, pid, signal))
            }
        }
    }

    fn signal_where(
        &mut self,
        forest: &mut Forest,
        signal: i32,
        mut wanted: impl FnMut(&mut Forest, i32) -> bool,
    ) -> u32 {
        let Some(pids) = self.pids(forest) else {
            let mut members = self.find(forest);
            members.retain(|m| wanted(forest, m.pid));
            return forest.send(&members, signal);
        };
        // In a cgroup membership itself is the identity: what is listed again after its
        // pidfd was opened is a member, whatever the pid was before.
        let mut sent = 0;
        for batch in pids.chunks(BATCH) {
            let allowed = batch.iter().filter(|pid| may_signal(**pid));
            let held: Vec<_> = allowed.map(|pid| (*pid, PidFd::open(*pid))).collect();
            let again = self.pids(forest).unwrap_or_default();
            for (pid, fd) in held {
                if again.contains(&pid) && wanted(forest, pid) {
                    sent += u32::from(deliver(fd, pid, signal));
                }
            }
        }
        sent
    }

    /// SIGKILL to every process of the tree. Bounded, and not waiting: call it again while
    /// [`Tree::count`] is not 0. Without a cgroup everything is stopped first (SIGSTOP), so
    /// that what forks faster than we look cannot run away.
    pub fn kill(&mut self, forest: &mut Forest) {
        self.kill_all(forest);
        self.needs = forest.scans + 1;
    }

    fn kill_all(&mut self, forest: &mut Forest) {
        if let Some(group) = &self.group {
            let done = group.kill();
            // It may not have entered yet, if it enters by itself.
            self.signal_main(forest, libc::SIGKILL);
            if done.is_ok() {
                return;
            }
        }
        // Who was born since a scan of this turn is found by the next ones: below if there is more
        // than the main process, else when the caller counts.
        let mut members = match self.is_told(forest) {
            true => self.find_in(forest),
            false => self.find(forest),
        };
        let main = self.main.map_or(0, |m| m.pid);
        if !self.is_elusive && members.iter().all(|m| m.pid == main) {
            self.signal_main(forest, libc::SIGKILL);
            return;
        }
        forest.send(&members, libc::SIGSTOP);
        let mut seen: Set<(i32, u64)> = Set::new();
        for _ in 0..PASSES {
            let before = seen.len();
            seen.extend(members.iter().map(|m| (m.pid, m.start)));
            if seen.len() == before && !self.is_elusive {
                break;
            }
            members = self.look(forest, Then::Stop);
        }
        forest.send(&members, libc::SIGKILL);
    }
}
