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
//! One scan of /proc serves all trees that are only counted in one turn of the loop (see
//! [`Forest::begin_turn`]): of a hundred services that end at once, superd looks once. What it
//! lists is looked at again for each tree, and what is gone by then, or may have left a child
//! behind the scan, sends the tree to a scan of its own. So an old scan can say that somebody is
//! there, and that nobody is; it cannot be believed about a tree that was begun or signalled
//! after it.
//!
//! What escapes without a cgroup: a process that has left its session, lost its parent and
//! replaced its environment, all between two looks. [`Forest::kill_strays`] gets those when
//! superd ends. Zombies are not members: they are dead, and their parents', or ours, to reap.
//!
//! (Past 400 lines because the rules above are one thing.)
//!
//! Signals go to single processes that were verified a moment ago: the pidfd is opened
//! first, then the process is looked at again, then the pidfd is signalled. Without pidfds
//! (before Linux 5.3) the same look is taken right before kill(2).

use std::io;
use std::path::{Path, PathBuf};

use crate::json::{FromJson, ToJson};
use crate::machine::event::Pid;
use crate::machine::report::Stuck;
use crate::machine::spec::To;
use crate::map::{Map, Set};
use crate::sys::cgroup::Group;
use crate::sys::kill::{kill, may_signal};
use crate::sys::pidfd::PidFd;
use crate::sys::proc::{self, Listener, Scanner, Stat};

use super::spawn::INSTANCE;

/// How often one call of [`Tree::kill`] looks for new processes. The caller repeats it.
const PASSES: usize = 8;
/// So many looks in a row that find nothing count, although a process vanished in each, or
/// could not be recognized.
const BLURRED: u8 = 8;
/// Looks at most for one process that may be a member.
const LOOKS: usize = 5;
/// So many pidfds are held at once.
const BATCH: usize = 64;
/// Of a stuck process so many descriptors are looked at.
const STUCK_FDS: usize = 128;
/// So many of its listening sockets are told.
const STUCK_PORTS: usize = 8;

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

/// All processes, as superd sees them: shared by all trees.
#[derive(Debug)]
pub struct Forest {
    /// None where /proc is not mounted: then only main processes are known.
    scanner: Option<Scanner>,
    /// The last scan, in the order of pids.
    all: Vec<Stat>,
    /// Who has died since the last scan but one, or during the last: they may have left a
    /// child that was born behind the scan's back.
    died: Vec<Stat>,
    /// Nobody was gone who had been listed.
    is_whole: bool,
    /// The last scan broke off, for lack of a descriptor or of memory.
    is_blind: bool,
    is_held: bool,
    /// These were known to be dead before the last scan began, in order.
    peeked: Vec<i32>,
    /// How many scans there were.
    scans: u64,
    /// The last scan is of this turn of the loop; none: there are no turns yet.
    is_current: Option<bool>,
    own: i32,
    own_session: i32,
    /// Main processes and commands: children of superd that are no orphans.
    claimed: Set<i32>,
    /// Children that this process had before it was superd (`sleep 9 & exec superd`).
    inherited: Vec<(i32, u64)>,
    /// Who may have got the orphans of an earlier superd.
    reapers: Set<i32>,
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
    fn carries(&mut self, s: &Stat, mark: &[u8]) -> Option<bool> {
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

    fn scan(&mut self) {
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
    fn scan_for(&mut self, ended: i32) {
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

    fn stat(&mut self, pid: i32) -> Option<Stat> {
        self.scanner.as_mut()?.stat(pid)
    }

    /// Whether start times by the clock are those of /proc: the first one is compared. Where /proc
    /// is not the kernel's own, they need not be.
    fn agrees(&mut self, pid: i32, start: u64) -> bool {
        if self.is_clock_good.is_none() {
            self.is_clock_good = self.stat(pid).map(|s| s.start == start);
        }
        self.is_clock_good == Some(true)
    }

    fn is_still(&mut self, pid: i32, start: u64) -> bool {
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
    fn meet(&mut self, seen: &Stat, then: Then, is_ours: impl Fn(&Stat) -> bool) -> Option<Stat> {
        let held = (then == Then::Stop).then(|| PidFd::open(seen.pid));
        let now = self.again(seen)?;
        if let Some(held) = held.filter(|_| is_ours(&now) && now.state != b'T') {
            deliver(held, now.pid, libc::SIGSTOP);
        }
        Some(now)
    }

    /// Processes alive below superd that are no main process and no command, and that superd
    /// did not have from the beginning. While services run, most are their descendants.
    pub fn strays(&mut self) -> u32 {
        self.scan();
        count(self.find_strays().len())
    }

    /// KILLs the [`Forest::strays`], for the end of superd, when no service is left. Says
    /// how many there were; call again until there are none.
    pub fn kill_strays(&mut self) -> u32 {
        self.scan();
        let found = self.find_strays();
        self.send(&found, libc::SIGKILL);
        count(found.len()).max(u32::from(!self.died.is_empty()))
    }

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
    fn send(&mut self, members: &[Stat], signal: i32) -> u32 {
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
fn deliver(held: io::Result<PidFd>, pid: i32, signal: i32) -> bool {
    match held {
        Ok(pidfd) => pidfd.send(signal).is_ok(),
        // Gone: nobody to signal.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => false,
        // No pidfds here, or no descriptor left.
        Err(_) => kill(pid, signal).is_ok(),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Processes and memory of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// Processes alive.
    pub processes: u32,
    /// Resident memory of all of them; what they share counts for each.
    pub memory_kib: u64,
}

/// Processes whose memory a health check adds up, at most: some milliseconds.
const WEIGHED: usize = 1024;

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

    /// The members. When this one is not among them, it may have lost its parent in the
    /// middle of the look: then a few more are worth it.
    fn members_with(&mut self, forest: &mut Forest, pid: i32) -> Vec<Stat> {
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

    /// The instance is over: lets its cgroup go. EBUSY: a process is left in it.
    pub fn release(self, forest: &mut Forest) -> io::Result<()> {
        if let Some(main) = self.main {
            forest.unclaim(main.pid);
        }
        match &self.group {
            Some(group) => group.remove(),
            None => Ok(()),
        }
    }

    /// The members alive, with what /proc says of them.
    fn members(&mut self, forest: &mut Forest) -> Vec<Stat> {
        match self.pids(forest) {
            Some(pids) => pids.iter().filter_map(|pid| forest.stat(*pid)).collect(),
            None => self.find(forest),
        }
    }

    /// The same, perhaps by a scan that was made earlier in this turn.
    fn members_in_turn(&mut self, forest: &mut Forest) -> Vec<Stat> {
        match self.group.is_none() && self.is_told(forest) {
            true => self.find_in(forest),
            false => self.members(forest),
        }
    }

    /// The members by cgroup; none: there is no cgroup, or it cannot be read.
    fn pids(&self, forest: &mut Forest) -> Option<Vec<i32>> {
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

    /// The members by the rules at the head of this file.
    ///
    /// A scan is not a snapshot: what was read first may be gone, and its pid or session id
    /// somebody else's, when the last is read. So each process is looked at again before it
    /// counts, and then what it says now decides. One that is gone by then may have left a
    /// child that was born behind the scan: then it is worth another one.
    fn find(&mut self, forest: &mut Forest) -> Vec<Stat> {
        self.look(forest, Then::Nothing)
    }

    /// Who is there, perhaps by a scan that was made earlier in this turn.
    fn pids_in_turn(&mut self, forest: &mut Forest) -> Vec<i32> {
        self.pids(forest).unwrap_or_else(|| {
            let found = self.find_in_turn(forest, |_| true);
            found.iter().map(|m| m.pid).collect()
        })
    }

    /// Whether a scan of this turn tells of it.
    fn is_told(&self, forest: &Forest) -> bool {
        forest.is_current == Some(true) && forest.scans >= self.needs && !forest.is_held
    }

    /// The same by the scan of this turn, if that can tell: whoever it finds that `counts` is
    /// there, and who says that there is nobody has to be sure.
    fn find_in_turn(&mut self, forest: &mut Forest, counts: impl Fn(&Stat) -> bool) -> Vec<Stat> {
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
    fn find_in(&mut self, forest: &mut Forest) -> Vec<Stat> {
        self.look_at(forest, Then::Nothing)
    }

    fn look(&mut self, forest: &mut Forest, then: Then) -> Vec<Stat> {
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

/// What happens to a member the moment it is found: what lives for a few microseconds
/// cannot be stopped later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
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

#[cfg(test)]
mod tests;
