//! All processes, looked at in scans of /proc that serve all trees.
//!
//! One scan of /proc serves all trees that are only counted in one turn of the loop (see
//! [`Forest::begin_turn`]): of a hundred services that end at once, superd looks once. What it
//! lists is looked at again for each tree, and what is gone by then, or may have left a child
//! behind the scan, sends the tree to a scan of its own. So an old scan can say that somebody is
//! there, and that nobody is; it cannot be believed about a tree that was begun or signalled
//! after it.

use std::io;

use super::count;
use super::members::Then;
use crate::daemon::spawn::INSTANCE;
use crate::json::{FromJson, ToJson};
use crate::map::{Map, Set};
use crate::sys::kill::{kill, may_signal};
use crate::sys::pidfd::PidFd;
use crate::sys::proc::{self, Scanner, Stat};

/// All processes, as superd sees them: shared by all trees.
#[derive(Debug)]
pub struct Forest {
    /// None where /proc is not mounted: then only main processes are known.
    scanner: Option<Scanner>,
    /// The last scan, in the order of pids.
    pub(super) all: Vec<Stat>,
    /// Who has died since the last scan but one, or during the last: they may have left a
    /// child that was born behind the scan's back.
    pub(super) died: Vec<Stat>,
    /// Nobody was gone who had been listed.
    pub(super) is_whole: bool,
    /// The last scan broke off, for lack of a descriptor or of memory.
    pub(super) is_blind: bool,
    pub(super) is_held: bool,
    /// These were known to be dead before the last scan began, in order.
    pub(super) peeked: Vec<i32>,
    /// How many scans there were.
    pub(super) scans: u64,
    /// The last scan is of this turn of the loop; none: there are no turns yet.
    pub(super) is_current: Option<bool>,
    pub(super) own: i32,
    pub(super) own_session: i32,
    /// Main processes and commands: children of superd that are no orphans.
    pub(super) claimed: Set<i32>,
    /// Children that this process had before it was superd (`sleep 9 & exec superd`).
    inherited: Vec<(i32, u64)>,
    /// Who may have got the orphans of an earlier superd.
    pub(super) reapers: Set<i32>,
    /// While a scan is held: the marks that were read, so that each environment is read once
    /// and not once for each tree.
    marks: Map<(i32, u64), Option<Vec<u8>>>,
    /// Whether start times by the clock are those of /proc; none: not compared yet.
    is_clock_good: Option<bool>,
}

/// What outlives a change of the program.
#[derive(Debug, ToJson, FromJson)]
pub struct KeptForest {
    claimed: Set<i32>,
    inherited: Vec<(i32, u64)>,
    reapers: Set<i32>,
}

impl Forest {
    /// Nothing was looked at yet.
    fn empty() -> Forest {
        Forest {
            scanner: Scanner::new().ok(),
            all: Vec::new(),
            died: Vec::new(),
            is_whole: true,
            is_blind: false,
            is_held: false,
            peeked: Vec::new(),
            scans: 0,
            is_current: None,
            own: crate::sys::own_pid(),
            own_session: nix::unistd::getsid(None).map_or(0, |s| s.as_raw()),
            claimed: Set::new(),
            inherited: Vec::new(),
            reapers: Set::new(),
            marks: Map::new(),
            is_clock_good: None,
        }
    }

    /// Looks around once. Without /proc, containment needs cgroups.
    pub fn new() -> Forest {
        let mut forest = Forest::empty();
        if crate::sys::wait::has_children() {
            forest.scan();
            let own = forest.own;
            let ours = forest.all.iter().filter(|s| s.ppid == own);
            forest.inherited = ours.map(|s| (s.pid, s.start)).collect();
        }
        forest
    }

    /// For a superd that becomes another program.
    pub fn keep(&self) -> KeptForest {
        KeptForest {
            claimed: self.claimed.clone(),
            inherited: self.inherited.clone(),
            reapers: self.reapers.clone(),
        }
    }

    /// What [`Forest::keep`] said, in the new one. All zombies are new to it.
    pub fn kept(kept: KeptForest) -> Forest {
        Forest {
            claimed: kept.claimed,
            inherited: kept.inherited,
            reapers: kept.reapers,
            ..Forest::empty()
        }
    }

    /// This child is a command of superd's own and no orphan of a service.
    pub fn claim(&mut self, pid: i32) {
        self.claimed.insert(pid);
    }

    /// It is reaped, or about to be.
    pub fn unclaim(&mut self, pid: i32) {
        self.claimed.remove(&pid);
    }

    /// From here on until [`Forest::release`] one scan serves all who look: for numbers that
    /// are old when they are read anyway.
    pub fn hold(&mut self) {
        self.scan();
        self.is_held = true;
    }

    /// A turn of the loop begins: its first scan may serve all who count in it.
    pub fn begin_turn(&mut self) {
        self.is_current = Some(false);
    }

    /// Ends [`Forest::hold`].
    pub fn release(&mut self) {
        self.is_held = false;
        self.marks.clear();
    }

    /// Whether this process carries the mark. None: it cannot be told now.
    pub(super) fn carries(&mut self, s: &Stat, mark: &[u8]) -> Option<bool> {
        if !self.is_held {
            return match &mut self.scanner {
                Some(scanner) => scanner.has_variable(s.pid, mark),
                None => Some(false),
            };
        }
        let read = || proc::variable(s.pid, INSTANCE.as_bytes());
        let found = self.marks.entry((s.pid, s.start)).or_insert_with(read);
        let wanted = mark.get(INSTANCE.len() + 1..); // after the `=`
        Some(found.is_some() && found.as_deref() == wanted)
    }

    /// Orphans of adopted trees may be children of these.
    pub fn note_reapers(&mut self, pids: impl IntoIterator<Item = i32>) {
        self.reapers.extend(pids);
        self.reapers.insert(1);
    }

    /// Every process that carries a mark beginning like this, and the rest of its mark. Goes
    /// through the environment of everybody, so: once, when there is a reason.
    pub fn marked(&mut self, prefix: &[u8]) -> Vec<(Stat, Vec<u8>)> {
        self.scan();
        let all = std::mem::take(&mut self.all);
        let mut found = Vec::new();
        for s in all.iter().filter(|s| s.is_alive() && may_signal(s.pid)) {
            let value = proc::variable(s.pid, INSTANCE.as_bytes());
            let rest = value.as_deref().and_then(|v| v.strip_prefix(prefix));
            if let (Some(rest), Some(now)) = (rest, self.again(s)) {
                found.push((now, rest.to_vec()));
            }
        }
        self.all = all;
        found
    }

    /// A process that is alive now, by number and, if known, start time.
    pub fn alive(&mut self, pid: i32, start: Option<u64>) -> Option<Stat> {
        let is_it = |s: &Stat| s.is_alive() && start.is_none_or(|t| t == s.start);
        self.stat(pid).filter(is_it)
    }

    pub(super) fn scan(&mut self) {
        self.scan_after(Vec::new());
    }

    /// These are known to be dead.
    fn scan_after(&mut self, peeked: Vec<i32>) {
        if self.is_held {
            return;
        }
        self.scans += 1;
        self.is_current = self.is_current.map(|_| true);
        self.peeked = peeked;
        let dead = self.all.iter().filter(|s| !s.is_alive());
        let were_dead: Set<(i32, u64)> = dead.map(|s| (s.pid, s.start)).collect();
        self.all.clear();
        let scanned = match &mut self.scanner {
            Some(scanner) => scanner.each(|s| self.all.push(*s)).ok(),
            None => Some(true),
        };
        self.is_blind = scanned.is_none();
        self.is_whole = scanned.unwrap_or(false);
        let is_new = |s: &&Stat| !s.is_alive() && !were_dead.contains(&(s.pid, s.start));
        let died = self.all.iter().filter(is_new).copied();
        self.died.clear();
        let is_known = |s: &Stat| self.peeked.binary_search(&s.pid).is_ok();
        self.died.extend(died.filter(|s| !is_known(s)));
        self.all.sort_unstable_by_key(|s| s.pid);
    }

    /// This child has ended and is not reaped. A scan in which it is known to be dead, and with
    /// it all the others of which the same is true now.
    pub(super) fn scan_for(&mut self, ended: i32) {
        if self.is_current == Some(true) && self.peeked.binary_search(&ended).is_ok() {
            return;
        }
        let mut peeked = vec![ended];
        if self.is_current.is_some() {
            let others = self.claimed.iter().copied().filter(|pid| *pid != ended);
            peeked.extend(others.filter(|pid| crate::sys::wait::has_ended(*pid)));
            peeked.sort_unstable();
        }
        self.scan_after(peeked);
    }

    pub(super) fn stat(&mut self, pid: i32) -> Option<Stat> {
        self.scanner.as_mut()?.stat(pid)
    }

    /// Whether start times by the clock are those of /proc: the first one is compared. Where /proc
    /// is not the kernel's own, they need not be.
    pub(super) fn agrees(&mut self, pid: i32, start: u64) -> bool {
        if self.is_clock_good.is_none() {
            self.is_clock_good = self.stat(pid).map(|s| s.start == start);
        }
        self.is_clock_good == Some(true)
    }

    pub(super) fn is_still(&mut self, pid: i32, start: u64) -> bool {
        self.stat(pid).is_some_and(|s| s.start == start)
    }

    /// What this process is now, if it still is the one that was seen. A start time counts
    /// in hundredths of a second, and where a fork bomb has filled the numbers a pid comes
    /// back within one: session or parent must be the same too.
    fn again(&mut self, seen: &Stat) -> Option<Stat> {
        let is_it = |now: &Stat| {
            now.start == seen.start && (now.session == seen.session || now.ppid == seen.ppid)
        };
        self.stat(seen.pid).filter(is_it)
    }

    /// Like [`Forest::again`]; and what is ours is dealt with in the same moment.
    pub(super) fn meet(
        &mut self,
        seen: &Stat,
        then: Then,
        is_ours: impl Fn(&Stat) -> bool,
    ) -> Option<Stat> {
        let held = (then == Then::Stop).then(|| PidFd::open(seen.pid));
        let now = self.again(seen)?;
        if let Some(held) = held.filter(|_| is_ours(&now) && now.state != b'T') {
            deliver(held, now.pid, libc::SIGSTOP);
        }
        Some(now)
    }

    /// KILLs the strays, for the end of superd, when no service is left. Says how many there
    /// were; call again until there are none.
    pub fn kill_strays(&mut self) -> u32 {
        self.scan();
        let found = self.find_strays();
        self.send(&found, libc::SIGKILL);
        count(found.len()).max(u32::from(!self.died.is_empty()))
    }

    /// Processes alive below superd that are no main process and no command, and that superd
    /// did not have from the beginning. While services run, most are their descendants.
    fn find_strays(&self) -> Vec<Stat> {
        let mut below = Set::from([self.own]);
        let mut found = Vec::new();
        let is_inherited = |s: &Stat| self.inherited.contains(&(s.pid, s.start));
        loop {
            let new = self.all.iter().filter(|s| {
                below.contains(&s.ppid)
                    && !below.contains(&s.pid)
                    && !self.claimed.contains(&s.pid)
                    && !is_inherited(s)
            });
            let new: Vec<Stat> = new.copied().collect();
            if new.is_empty() {
                break;
            }
            below.extend(new.iter().map(|s| s.pid));
            found.extend(new.into_iter().filter(Stat::is_alive));
        }
        found
    }

    /// Signals each that is still the process it was. Says how many.
    pub(super) fn send(&mut self, members: &[Stat], signal: i32) -> u32 {
        let mut sent = 0;
        for m in members.iter().filter(|m| may_signal(m.pid)) {
            let held = PidFd::open(m.pid);
            if self.again(m).is_none() {
                continue;
            }
            sent += u32::from(deliver(held, m.pid, signal));
        }
        sent
    }
}

impl Default for Forest {
    fn default() -> Self {
        Forest::new()
    }
}

/// To a process that was looked at after the pidfd was opened.
pub(super) fn deliver(held: io::Result<PidFd>, pid: i32, signal: i32) -> bool {
    match held {
        Ok(pidfd) => pidfd.send(signal).is_ok(),
        // Gone: nobody to signal.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => false,
        // No pidfds here, or no descriptor left.
        Err(_) => kill(pid, signal).is_ok(),
    }
}
