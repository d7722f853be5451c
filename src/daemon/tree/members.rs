//! Who is a member of a tree: the rules at the head of `tree.rs`, applied.
//!
//! A scan is not a snapshot: what was read first may be gone, and its pid or session id
//! somebody else's, when the last is read. So each process is looked at again before it
//! counts, and then what it says now decides. One that is gone by then may have left a
//! child that was born behind the scan: then it is worth another one.

use super::forest::Forest;
use super::{Main, Tree};
use crate::map::Set;
use crate::sys::kill::may_signal;
use crate::sys::proc::Stat;

/// So many looks in a row that find nothing count, although a process vanished in each, or
/// could not be recognized.
const BLURRED: u8 = 8;
/// Looks at most for one process that may be a member.
const LOOKS: usize = 5;

/// What happens to a member the moment it is found: what lives for a few microseconds
/// cannot be stopped later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    Nothing,
    Stop,
}

/// What a scan tells of a tree.
#[derive(Default, Debug)]
struct Found {
    members: Vec<Stat>,
    /// A process that was a member, or may have been, had died when it was looked at again.
    has_lost: bool,
    /// A process that was left to superd is in the middle of execve(2): whose mark it carries
    /// can be read in a moment.
    has_unread: bool,
}

impl Found {
    /// A member: as the scan saw it, and as it is now.
    fn add(&mut self, scanned: &Stat, now: Stat) {
        self.has_lost |= scanned.is_alive() && !now.is_alive();
        self.members.push(now);
    }
}

impl Tree {
    /// The members. When this one is not among them, it may have lost its parent in the
    /// middle of the look: then a few more are worth it.
    pub(super) fn members_with(&mut self, forest: &mut Forest, pid: i32) -> Vec<Stat> {
        let mut members = self.members(forest);
        for _ in 1..LOOKS {
            let is_there = members.iter().any(|m| m.pid == pid);
            if is_there || self.group.is_some() || !self.is_elusive {
                break;
            }
            members = self.members(forest);
        }
        members
    }

    /// The members alive, with what /proc says of them.
    pub(super) fn members(&mut self, forest: &mut Forest) -> Vec<Stat> {
        match self.pids(forest) {
            Some(pids) => pids.iter().filter_map(|pid| forest.stat(*pid)).collect(),
            None => self.find(forest),
        }
    }

    /// The same, perhaps by a scan that was made earlier in this turn.
    pub(super) fn members_in_turn(&mut self, forest: &mut Forest) -> Vec<Stat> {
        match self.group.is_none() && self.is_told(forest) {
            true => self.find_in(forest),
            false => self.members(forest),
        }
    }

    /// The members by cgroup; none: there is no cgroup, or it cannot be read.
    pub(super) fn pids(&self, forest: &mut Forest) -> Option<Vec<i32>> {
        let mut pids = Vec::new();
        self.group.as_ref()?.members(&mut pids).ok()?;
        pids.retain(|pid| may_signal(*pid));
        if let Some(main) = self.main.filter(|m| !pids.contains(&m.pid)) {
            // A zombie is not listed, nor is a child that has not entered yet.
            let is_it = |s: &Stat| s.is_alive() && main.start.is_none_or(|t| t == s.start);
            if forest.stat(main.pid).as_ref().is_some_and(is_it) {
                pids.push(main.pid);
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Some(pids)
    }

    /// The members alive without a cgroup, by a scan of their own.
    pub(super) fn find(&mut self, forest: &mut Forest) -> Vec<Stat> {
        self.look(forest, Then::Nothing)
    }

    /// Who is there, perhaps by a scan that was made earlier in this turn.
    pub(super) fn pids_in_turn(&mut self, forest: &mut Forest) -> Vec<i32> {
        self.pids(forest).unwrap_or_else(|| {
            let found = self.find_in_turn(forest, |_| true);
            found.iter().map(|m| m.pid).collect()
        })
    }

    /// Whether a scan of this turn tells of it.
    pub(super) fn is_told(&self, forest: &Forest) -> bool {
        forest.is_current == Some(true) && forest.scans >= self.needs && !forest.is_held
    }

    /// The same by the scan of this turn, if that can tell: whoever it finds that `counts` is
    /// there, and who says that there is nobody has to be sure.
    pub(super) fn find_in_turn(
        &mut self,
        forest: &mut Forest,
        counts: impl Fn(&Stat) -> bool,
    ) -> Vec<Stat> {
        if !self.is_told(forest) {
            return self.find(forest);
        }
        let blurred = self.blurred;
        let found = self.find_in(forest);
        if self.is_settled || found.iter().any(counts) {
            return found;
        }
        self.blurred = blurred; // of looks that are worth their name
        self.find(forest)
    }

    /// The same by the last scan.
    pub(super) fn find_in(&mut self, forest: &mut Forest) -> Vec<Stat> {
        self.look_at(forest, Then::Nothing)
    }

    pub(super) fn look(&mut self, forest: &mut Forest, then: Then) -> Vec<Stat> {
        forest.scan();
        self.look_at(forest, then)
    }

    fn look_at(&mut self, forest: &mut Forest, then: Then) -> Vec<Stat> {
        let mut found = self.seeds(forest, then);
        while next_generation(forest, &mut found, then) {}
        let mut members = found.members;
        members.sort_unstable_by_key(|s| s.pid);
        let main = self.main.map_or(0, |m| m.pid);
        self.known.clear();
        self.known.extend(members.iter().filter(|s| s.pid != main));
        members.retain(Stat::is_alive);
        // Init reaps, too: of those that went to it there may be no zombie. But on a machine
        // where somebody dies in every look, some looks that find nothing have to do.
        // Nor may one without a mark that hides its arguments hold up a stop for ever.
        self.blurred = match found.has_unread || (self.is_adopted && !forest.is_whole) {
            true => self.blurred.saturating_add(1),
            false => 0,
        };
        let is_blurred = (1..BLURRED).contains(&self.blurred);
        let may_be_ours = |s: &Stat| self.may_have_been_ours(forest, s);
        // What has just died under init may have left a child to it. What has been dead for
        // longer has not, and when init reaps it is nobody's business here.
        let abroad = |s: &Stat| {
            self.is_adopted && s.session == self.leader && forest.reapers.contains(&s.ppid)
        };
        let mut died = forest.died.iter();
        let is_elusive = forest.is_blind
            || found.has_lost
            || is_blurred
            || died.any(|s| may_be_ours(s) || abroad(s));
        let dead = forest.all.iter().filter(|s| !s.is_alive());
        let mut unreaped = dead.filter(|s| forest.peeked.binary_search(&s.pid).is_err());
        self.is_settled = !is_elusive && !unreaped.any(may_be_ours);
        self.is_elusive = is_elusive;
        members
    }

    /// Members that are such by themselves.
    fn seeds(&self, forest: &mut Forest, then: Then) -> Found {
        let all = std::mem::take(&mut forest.all);
        let mut found = Found::default();
        for s in all.iter().filter(|s| may_signal(s.pid)) {
            let is_main = |m: Main| m.pid == s.pid && m.start.is_none_or(|t| t == s.start);
            let same = |k: &Stat| k.pid == s.pid && k.start == s.start;
            let known = self.known.iter().find(|k| same(k));
            let seen = if self.main.is_some_and(is_main) {
                Some(s)
            } else {
                known
            };
            match seen {
                Some(seen) => match forest.meet(seen, then, |_| true) {
                    Some(now) => found.add(s, now),
                    None => found.has_lost |= s.is_alive(),
                },
                None if self.may_be_orphan(forest, s) => {
                    self.ask_orphan(forest, s, then, &mut found);
                }
                None => {}
            }
        }
        forest.all = all;
        found
    }

    /// Whether this zombie may be of this tree. Then a child of it may live that the scan did
    /// not see, and only of such: whoever lives has ancestors up to the main process or to one
    /// that was left to superd, and that one is seen alive or stays until superd reaps it.
    fn may_have_been_ours(&self, forest: &Forest, s: &Stat) -> bool {
        let is_left = s.ppid == forest.own;
        let is_others = forest.claimed.contains(&s.pid)
            || (s.session != self.leader && forest.claimed.contains(&s.session));
        self.main.is_some_and(|m| m.pid == s.pid) || (is_left && !is_others)
    }

    /// A process that was left to superd is whose mark it carries. A dying one carries none:
    /// one that has died since the scan may have been anybody's.
    fn ask_orphan(&self, forest: &mut Forest, s: &Stat, then: Then, found: &mut Found) {
        let mark = forest.carries(s, &self.mark);
        let is_ours = mark == Some(true);
        if forest.is_held && !is_ours {
            return; // numbers of the held scan are old anyway
        }
        match forest.meet(s, then, |_| is_ours) {
            Some(now) if is_ours => found.add(s, now),
            Some(now) if now.is_alive() && !now.is_exiting && mark.is_none() => {
                found.has_unread = true;
            }
            Some(now) if now.is_alive() && !now.is_exiting => {}
            // Under init or a shell somebody dies all the time, and that says nothing.
            _ => found.has_lost |= s.ppid == forest.own,
        }
    }

    fn may_be_orphan(&self, forest: &Forest, s: &Stat) -> bool {
        let is_left = s.ppid == forest.own || (self.is_adopted && forest.reapers.contains(&s.ppid));
        is_left && s.is_alive() && !forest.claimed.contains(&s.pid)
    }
}

/// Adds the children of these members and the processes in their sessions; false: no more.
fn next_generation(forest: &mut Forest, found: &mut Found, then: Then) -> bool {
    let claimed = std::mem::take(&mut forest.claimed);
    let (own, own_session) = (forest.own, forest.own_session);
    let members = &found.members;
    let pids: Set<i32> = members.iter().map(|m| m.pid).collect();
    // A child that has not called setsid(2) yet is in superd's session, with superd's shell.
    let is_own = |id: &i32| *id <= 0 || *id == own_session || *id == own;
    let mut sessions: Set<i32> = members.iter().map(|m| m.session).collect();
    sessions.retain(|id| !is_own(id));
    let belongs = |s: &Stat| pids.contains(&s.ppid) || sessions.contains(&s.session);
    let is_new = |s: &&Stat| belongs(s) && !pids.contains(&s.pid) && may_signal(s.pid);
    let new: Vec<Stat> = forest.all.iter().filter(is_new).copied().collect();
    let mut more = Found::default();
    let is_ours = |s: &Stat| belongs(s) && !claimed.contains(&s.pid);
    for s in &new {
        match forest.meet(s, then, is_ours) {
            Some(now) if is_ours(&now) => more.add(s, now),
            Some(now) if claimed.contains(&now.pid) => {}
            Some(_) | None => more.has_lost = true,
        }
    }
    forest.claimed = claimed;
    found.has_lost |= more.has_lost;
    found.members.extend(&more.members);
    !more.members.is_empty()
}
