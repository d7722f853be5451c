//! The group of one service: who is in it, and what is done to all of them.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{open_to_write, read_small, write};
use crate::json::{FromJson, ToJson};
use crate::sys::kill::kill;

/// Nested groups that a service makes are followed this deep.
pub(super) const DEPTH: usize = 16;
/// cgroup.procs is read up to this many bytes: 100,000 processes.
const PROCS_CAP: u64 = 1 << 20;
/// How often one call of [`Group::kill`] looks for survivors where cgroup.kill is missing.
const PASSES: usize = 8;

/// The group of one service.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Group {
    pub(super) dir: Rc<Path>,
    pub(super) has_kill: bool,
    /// Made by this process, and not killed since.
    pub(super) fresh: Rc<Cell<bool>>,
}

impl Group {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A group that an earlier superd has made, wherever; none if it is not there. Nobody is
    /// to be born in it.
    pub fn found(dir: &Path) -> Option<Group> {
        let is_ours = dir.extension().is_some_and(|e| e == "service");
        (is_ours && dir.is_absolute() && dir.join("cgroup.procs").exists()).then(|| Group {
            dir: dir.into(),
            has_kill: dir.join("cgroup.kill").exists(),
            fresh: Rc::new(Cell::new(false)),
        })
    }

    /// The directory, for clone3(2).
    pub fn open_dir(&self) -> io::Result<OwnedFd> {
        let flags = libc::O_DIRECTORY | libc::O_PATH;
        Ok(crate::sys::file::open(&self.dir, flags, 0)?.into())
    }

    /// Whether a process may be born in it. Kernels from 6.14 on (and older ones with that
    /// patch, "cgroup: fix race between fork and cgroup.kill") count the kills of a group,
    /// compare the counts of the new process's group and of its parent's, and kill the
    /// newborn when they differ: in a group that was killed once, all of them.
    pub fn is_fresh(&self) -> bool {
        self.fresh.get()
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// Somebody else may have killed it.
    pub fn doubt(&self) {
        self.fresh.set(false);
    }

    /// cgroup.procs for writing: "0" moves the writer in.
    pub fn open_procs(&self) -> io::Result<OwnedFd> {
        Ok(open_to_write(&self.dir.join("cgroup.procs"))?.into())
    }

    /// Whether a process is alive in it or below it. Zombies do not count.
    pub fn populated(&self) -> io::Result<bool> {
        let events = match read_small(&self.dir.join("cgroup.events")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        Ok(events.split(|b| *b == b'\n').any(|l| l == b"populated 1"))
    }

    /// How many of its processes the kernel has killed for want of memory, ever; none where
    /// the memory controller is not enabled for it.
    pub fn oom_kills(&self) -> Option<u64> {
        let events = read_small(&self.dir.join("memory.events")).ok()?;
        parse_oom_kills(&events)
    }

    /// Adds the pids of the processes in it and below it. Zombies are not among them. The
    /// usual group without nested ones costs open, read, read, close and stat.
    pub fn members(&self, pids: &mut Vec<i32>) -> io::Result<()> {
        members(&self.dir, DEPTH, pids)
    }

    /// SIGKILL to everything in it and below it. With cgroup.kill that is one write;
    /// without, the group is frozen so that nothing forks, killed, and thawed, a bounded
    /// number of times: call again while it is populated.
    pub fn kill(&self) -> io::Result<()> {
        if self.has_kill {
            self.fresh.set(false);
            match self.write("cgroup.kill", b"1") {
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {} // threaded
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => return other,
            }
        }
        self.kill_each()
    }

    fn kill_each(&self) -> io::Result<()> {
        self.write("cgroup.freeze", b"1").ok(); // from 5.2 on; without it, passes must do
        let mut pids = Vec::new();
        let mut result = Ok(());
        for _ in 0..PASSES {
            pids.clear();
            result = self.members(&mut pids);
            if result.is_err() || pids.is_empty() {
                break;
            }
            for pid in &pids {
                // A frozen process dies of KILL, and nothing but its frozen parent or we
                // could reap it: the pid is still the one that was listed.
                kill(*pid, libc::SIGKILL).ok();
            }
        }
        self.write("cgroup.freeze", b"0").ok();
        result
    }

    /// Thaws it, and what the service has made below it, where that is frozen.
    pub fn thaw(&self) {
        thaw(&self.dir, DEPTH);
    }

    /// Removes it, and what the service has made below it. EBUSY: a process is left.
    pub fn remove(&self) -> io::Result<()> {
        remove(&self.dir, DEPTH)
    }

    /// Sets a limit: `memory.max`, `1048576`.
    ///
    /// # Errors
    /// ENOENT where the controller is not enabled, or the kernel was built without this file.
    pub fn limit(&self, file: &str, value: &str) -> io::Result<()> {
        self.write(file, value.as_bytes())
    }

    fn write(&self, file: &str, what: &[u8]) -> io::Result<()> {
        write(&self.dir.join(file), what)
    }
}

/// `oom_kill 3` of memory.events.
fn parse_oom_kills(events: &[u8]) -> Option<u64> {
    let mut lines = events.split(|b| *b == b'\n');
    let count = lines.find_map(|l| l.strip_prefix(b"oom_kill "))?;
    std::str::from_utf8(count).ok()?.trim().parse().ok()
}

fn members(dir: &Path, depth: usize, pids: &mut Vec<i32>) -> io::Result<()> {
    match crate::sys::file::open_to_read(dir.join("cgroup.procs")) {
        Ok(file) => {
            let mut text = Vec::new();
            match file.take(PROCS_CAP).read_to_end(&mut text) {
                // A threaded group: its processes are listed further up.
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(()), // removed
                other => {
                    other?;
                    pids.extend(parse_procs(&text));
                }
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    for nested in nested(dir, depth)? {
        members(&nested, depth - 1, pids)?;
    }
    Ok(())
}

/// The groups right below; the usual answer, none, costs one stat(2): a directory of
/// cgroupfs has two links and one for each directory in it.
pub(super) fn nested(dir: &Path, depth: usize) -> io::Result<Vec<PathBuf>> {
    let links = match fs::metadata(dir) {
        Ok(m) => m.nlink(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    if links <= 2 || depth == 0 {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir)?.filter_map(Result::ok);
    let is_dir = |e: &fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
    Ok(entries.filter(is_dir).map(|e| e.path()).collect())
}

fn thaw(dir: &Path, depth: usize) {
    let file = dir.join("cgroup.freeze"); // from Linux 5.2 on
    if read_small(&file).is_ok_and(|text| text.starts_with(b"1")) {
        fs::write(&file, b"0").ok(); // it cannot be: then its grace runs out
    }
    for nested in nested(dir, depth).unwrap_or_default() {
        thaw(&nested, depth - 1);
    }
}

pub(super) fn remove(dir: &Path, depth: usize) -> io::Result<()> {
    for nested in nested(dir, depth)? {
        remove(&nested, depth - 1)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// cgroup.procs: a pid per line; 0 for processes of another pid namespace.
fn parse_procs(text: &[u8]) -> impl Iterator<Item = i32> + '_ {
    text.split(|b| *b == b'\n')
        .filter_map(|l| std::str::from_utf8(l).ok()?.parse().ok())
        .filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::sys::cgroup::tests::test_root;

    fn sleeper_in(group: &Group) -> Child {
        let script = format!(
            "echo 0 >{}/cgroup.procs; exec sleep 60",
            group.dir.display()
        );
        Command::new("sh").args(["-c", &script]).spawn().unwrap()
    }

    fn wait_for_members(group: &Group, n: usize) -> Vec<i32> {
        loop {
            let mut pids = Vec::new();
            group.members(&mut pids).unwrap();
            if pids.len() == n {
                return pids;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn kills_for_want_of_memory_are_counted() {
        let events = b"low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(parse_oom_kills(events), Some(2));
        for garbage in [&b""[..], b"oom_kill\n", b"oom_kill x\n", b"oom_kill \xff\n"] {
            assert_eq!(parse_oom_kills(garbage), None);
        }
    }

    #[test]
    fn procs_are_read_and_garbage_is_not() {
        let pids: Vec<i32> = parse_procs(b"12\n0\n-3\nx\n99999999999\n7").collect();
        assert_eq!(pids, [12, 7]);
    }

    #[test]
    fn a_group_with_a_nested_one_is_listed_killed_and_removed() {
        let Some(root) = test_root("kill-nested") else {
            return;
        };
        for has_kill in [true, false] {
            let mut group = root.group("a").unwrap();
            group.has_kill &= has_kill;
            let below = Group {
                dir: group.dir.join("below").into(),
                has_kill,
                fresh: group.fresh.clone(),
            };
            fs::create_dir(&below.dir).unwrap();
            let mut children = [sleeper_in(&group), sleeper_in(&below)];
            let mut pids = wait_for_members(&group, 2);
            pids.sort_unstable();
            let mut started = children.each_ref().map(|c| c.id() as i32);
            started.sort_unstable();
            assert_eq!(pids, started);
            assert!(group.populated().unwrap());
            assert!(group.remove().is_err());
            group.kill().unwrap();
            for child in &mut children {
                child.wait().unwrap();
            }
            wait_for_members(&group, 0);
            assert!(!group.populated().unwrap());
            group.remove().unwrap();
            assert!(!group.populated().unwrap());
        }
        root.remove().unwrap();
    }
}
