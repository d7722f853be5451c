//! cgroup v2 (Documentation/admin-guide/cgroup-v2.rst) as a container of processes.
//!
//! As long as no service has a limit no controller is used: with none enabled, processes in
//! inner nodes are fine, so superd stays where it was started and its services get groups below.
//! The first limit makes superd move into a leaf of its own ([`Root::enable`]). Everything is
//! found by path at each use: a descriptor per service would cost more than the lookup.
//!
//! One file, although it is long: all of it is about these directories.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::fcntl::{Flock, FlockArg};

use super::kill::kill;
use super::proc::read_capped;
use crate::json::{FromJson, ToJson};

/// Nested groups that a service makes are followed this deep.
const DEPTH: usize = 16;
/// cgroup.procs is read up to this many bytes: 100,000 processes.
const PROCS_CAP: u64 = 1 << 20;
/// Mounts are read up to this many bytes.
const LIST_CAP: u64 = 1 << 20;
/// How often one call of [`Group::kill`] looks for survivors where cgroup.kill is missing.
const PASSES: usize = 8;

/// The cgroup that superd was given, as a directory: its own, or the one above if its own is
/// that part of it which the init system starts superd in, so that superd is never in the way
/// of a controller. None where cgroup v2 is not mounted.
pub fn own_directory() -> Option<PathBuf> {
    let mounts = read_capped("/proc/self/mountinfo", LIST_CAP).ok()?;
    let own = read_capped("/proc/self/cgroup", LIST_CAP).ok()?;
    let mut found = directory(&mounts, &own)?;
    if found.ends_with(SUBGROUP) {
        found.pop();
    }
    Some(found)
}

/// Whether a group can be killed as a whole, and so may have been: all but the root of the
/// hierarchy, since Linux 5.14. See [`Group::is_fresh`].
pub fn can_be_killed(dir: &Path) -> bool {
    dir.join("cgroup.kill").exists()
}

/// The directory of the process that has this mountinfo and this cgroup file.
fn directory(mountinfo: &[u8], cgroup: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut lines = cgroup.split(|b| *b == b'\n');
    let path = lines.find_map(|l| l.strip_prefix(b"0::"))?;
    let inside = |(root, point): (Vec<u8>, Vec<u8>)| {
        // The mount may show a part of the hierarchy only; the path is from the whole.
        let rest = match root.as_slice() {
            b"/" => path,
            root => path.strip_prefix(root)?,
        };
        let up = rest.split(|b| *b == b'/').any(|c| c == b"..");
        (!up && (rest.is_empty() || rest.starts_with(b"/")))
            .then(|| [point.as_slice(), rest].concat())
    };
    let mut found = mountinfo
        .split(|b| *b == b'\n')
        .filter_map(cgroup2_mount)
        .filter_map(inside)
        .next()?;
    while found.len() > 1 && found.last() == Some(&b'/') {
        found.pop();
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(found)))
}

/// Root and mount point, if this line of mountinfo (proc(5)) is a cgroup v2 mount.
fn cgroup2_mount(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').take(64).collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    match fields.get(dash + 1) {
        Some(kind) if *kind == b"cgroup2" => {
            Some((unescape(fields.get(3)?), unescape(fields.get(4)?)))
        }
        _ => None,
    }
}

/// Undoes the `\040` of mountinfo.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', more @ ..]) =
            (*first, tail)
        {
            out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = more;
        } else {
            out.push(*first);
        }
    }
    out
}

/// The directory below which all services of one superd have their groups.
#[derive(Clone, Debug, ToJson, FromJson)]
pub struct Root {
    dir: PathBuf,
    /// Whether cgroup.kill exists (Linux 5.14).
    has_kill: bool,
    /// Whether a controller was enabled for the groups below, ever.
    #[serde(default)]
    limited: Cell<bool>,
}

/// Why a controller cannot be used.
#[derive(Debug)]
pub enum Lack {
    /// It is not among those of this directory.
    NotThere(PathBuf),
    /// There are other processes than superd in this directory, which must be empty.
    NotAlone(PathBuf),
    /// The kernel refuses to enable it here.
    Refused(PathBuf, io::Error),
}

impl Root {
    /// Makes `BASE/superd.KEY` and makes sure that processes can be put there. `key` is
    /// stable over superd's lives (a hash of its run directory), so that the next superd
    /// finds the same groups. Errors: EROFS, EACCES where cgroups are not ours to make.
    pub fn make(base: &Path, key: &str) -> io::Result<Root> {
        let dir = base.join(format!("superd.{}", escape(key)));
        let is_new = make_dir(&dir)?;
        // Moving a process needs both ends, and the common ancestor, which is `base`. What was
        // made just now is ours.
        for place in [Some(base), Some(&*dir).filter(|_| !is_new)] {
            let procs = place.map(|place| place.join("cgroup.procs"));
            procs.as_deref().map(open_to_write).transpose()?;
        }
        // Below a threaded group no process can be placed.
        let kind = read_small(&dir.join("cgroup.type"))?;
        if !kind.starts_with(b"domain") || kind.starts_with(b"domain invalid") {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let has_kill = can_be_killed(&dir);
        let enabled = match is_new {
            true => Vec::new(),
            false => read_small(&dir.join(SUBTREE)).unwrap_or_default(),
        };
        let limited = Cell::new(enabled.iter().any(u8::is_ascii_alphabetic));
        Ok(Root {
            dir,
            has_kill,
            limited,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Whether the kernel kills a group by itself (5.14).
    pub fn has_kill(&self) -> bool {
        self.has_kill
    }

    /// The group of this name, made if it is not there. It may hold processes: those of an
    /// instance that an earlier superd started.
    pub fn group(&self, name: &str) -> io::Result<Group> {
        Ok(self.group_or_new(name)?.0)
    }

    /// Like [`Root::group`]; also whether it is new, so that nobody can be in it.
    pub fn group_or_new(&self, name: &str) -> io::Result<(Group, bool)> {
        let dir = self.dir.join(format!("{}.service", escape(name)));
        let mut fresh = make_dir(&dir)?;
        // What an earlier superd left empty may have been killed: made anew, it is fresh.
        if !fresh && fs::remove_dir(&dir).is_ok() {
            fresh = make_dir(&dir)?;
        }
        let group = Group {
            dir: dir.into(),
            has_kill: self.has_kill,
            fresh: Rc::new(Cell::new(fresh)),
        };
        Ok((group, fresh))
    }

    /// Keeps other superds away as long as this is held, or this process lives. None:
    /// another one holds it. Unlike a run directory this one cannot be removed while there
    /// are services in it.
    ///
    /// # Errors
    /// Of open(2) and flock(2).
    pub fn lock(&self) -> io::Result<Option<Flock<fs::File>>> {
        // Whoever can open it can hold the lock. Where this is refused it is not ours.
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o711)).ok();
        let dir = super::file::open(&self.dir, libc::O_DIRECTORY, 0)?;
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Some(held)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(e.into()),
        }
    }

    /// The group of this name, if it is there. Nobody is to be born in it.
    pub fn found(&self, name: &str) -> Option<Group> {
        Group::found(&self.dir.join(format!("{}.service", escape(name))))
    }

    /// The names of all groups that are there.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .filter_map(|name| name.strip_suffix(".service").map(str::to_owned))
            .collect()
    }

    /// Whether this is its group of this name.
    pub fn holds(&self, name: &str, group: &Group) -> bool {
        *group.dir == *self.dir.join(format!("{}.service", escape(name)))
    }

    /// Removes the directory if no group is left in it.
    pub fn remove(&self) -> io::Result<()> {
        if self.is_limited() {
            self.step_back();
        }
        fs::remove_dir(&self.dir)
    }

    /// Whether a controller was enabled for the groups below, ever: then each group has limits
    /// of somebody, if only those of the instance before.
    pub fn is_limited(&self) -> bool {
        self.limited.get()
    }

    /// Makes a controller work for the groups below.
    ///
    /// Only in a directory without processes (or in the very root) can it be enabled for those
    /// below. So superd moves into a leaf, if it is in the way and the only one.
    ///
    /// # Errors
    /// What is in the way.
    pub fn enable(&self, controller: &str) -> Result<(), Lack> {
        if lists(&self.dir.join(SUBTREE), controller) {
            return Ok(());
        }
        let base = self.dir.parent().unwrap_or(&self.dir);
        if !lists(&base.join("cgroup.controllers"), controller) {
            return Err(Lack::NotThere(base.to_path_buf()));
        }
        if is_in_the_way(base) {
            self.step_aside(base)?;
        }
        switch(base, '+', controller).map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => Lack::NotAlone(base.to_path_buf()),
            _ => Lack::Refused(base.to_path_buf(), e),
        })?;
        switch(&self.dir, '+', controller).map_err(|e| Lack::Refused(self.dir.clone(), e))?;
        self.limited.set(true);
        Ok(())
    }

    fn step_aside(&self, base: &Path) -> Result<(), Lack> {
        let refused = |e| Lack::Refused(base.to_path_buf(), e);
        let leaf = self.dir.join(LEAF);
        make_dir(&leaf).map_err(refused)?;
        move_to(&leaf).map_err(refused)?;
        if is_in_the_way(base) {
            move_to(base).ok(); // it came from there a moment ago
            fs::remove_dir(&leaf).ok(); // as before
            return Err(Lack::NotAlone(base.to_path_buf()));
        }
        Ok(())
    }

    /// Undoes [`Root::enable`]: whoever starts the next superd may want to put it where this
    /// one was.
    fn step_back(&self) {
        let base = self.dir.parent().unwrap_or(&self.dir);
        let leaf = self.dir.join(LEAF);
        let moved = leaf.exists();
        let enabled = read_small(&self.dir.join(SUBTREE)).unwrap_or_default();
        let names = enabled.split(|b| b.is_ascii_whitespace());
        for name in names.filter_map(|n| std::str::from_utf8(n).ok().filter(|n| !n.is_empty())) {
            switch(&self.dir, '-', name).ok(); // a service is left: then it stays
            if moved {
                switch(base, '-', name).ok(); // as above
            }
        }
        if moved {
            move_to(base).ok(); // as above
            fs::remove_dir(&leaf).ok(); // as above
        }
    }

    /// The controllers that services can have here.
    pub fn controllers(&self) -> String {
        let base = self.dir.parent().unwrap_or(&self.dir);
        let text = read_small(&base.join("cgroup.controllers")).unwrap_or_default();
        String::from_utf8_lossy(&text).trim().to_owned()
    }

    /// Removes the groups below it in which nobody is left, and it itself if none remains.
    pub fn clear(&self) -> io::Result<()> {
        for group in nested(&self.dir, 1)? {
            if group.ends_with(LEAF) {
                continue; // superd itself may be in it
            }
            remove(&group, DEPTH).ok(); // a process that cannot be killed keeps its group
        }
        self.remove()
    }
}

/// Which controllers the groups below a directory have.
const SUBTREE: &str = "cgroup.subtree_control";

/// superd's own group, once a controller is enabled. No service's group is called so.
const LEAF: &str = "superd";

/// `DelegateSubgroup=` of packaging/systemd/superd.service. Unlike [`LEAF`] it outlives superd
/// with its place: the next one can be put there, though controllers are enabled above it.
const SUBGROUP: &str = "superd.main";

/// Whether there are processes in it that keep those below it from having a controller. The
/// kernel refuses to enable a controller there (EBUSY) or, if it is one for threads (pids, cpu),
/// allows it, and then no group below can have processes. In the very root, which has no
/// cgroup.type, they may stay.
fn is_in_the_way(dir: &Path) -> bool {
    dir.join("cgroup.type").exists()
        && read_small(&dir.join("cgroup.procs")).is_ok_and(|text| !text.is_empty())
}

/// Whether a hierarchy of cgroup v1 has this controller: then v2 has not.
pub fn used_by_v1(controller: &str) -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut lists = own.lines().filter_map(|l| l.split(':').nth(1));
    lists.any(|list| {
        list.split(',')
            .any(|name| name == controller || (name, controller) == ("blkio", "io"))
    })
}

/// Whether a file with a list of controllers has this one.
fn lists(file: &Path, controller: &str) -> bool {
    let text = read_small(file).unwrap_or_default();
    let mut names = text.split(|b| b.is_ascii_whitespace());
    names.any(|name| name == controller.as_bytes())
}

fn switch(dir: &Path, sign: char, controller: &str) -> io::Result<()> {
    write(&dir.join(SUBTREE), format!("{sign}{controller}").as_bytes())
}

/// This process.
fn move_to(dir: &Path) -> io::Result<()> {
    write(&dir.join("cgroup.procs"), b"0")
}

fn write(path: &Path, what: &[u8]) -> io::Result<()> {
    open_to_write(path)?.write_all(what)
}

fn open_to_write(path: &Path) -> io::Result<fs::File> {
    super::file::open(path, libc::O_WRONLY, 0)
}

/// Whether it was not there.
fn make_dir(dir: &Path) -> io::Result<bool> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}

/// Letters, digits and `_.@-` stay; everything else becomes `%2F`. The suffix that is added
/// keeps `.`, `..` and the kernel's own file names out of the way.
fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for b in name.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'@' | b'-' => {
                out.push(char::from(b));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// The group of one service.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Group {
    dir: Rc<Path>,
    has_kill: bool,
    /// Made by this process, and not killed since.
    fresh: Rc<Cell<bool>>,
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
        Ok(super::file::open(&self.dir, flags, 0)?.into())
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
    match super::file::open_to_read(dir.join("cgroup.procs")) {
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
fn nested(dir: &Path, depth: usize) -> io::Result<Vec<PathBuf>> {
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

fn remove(dir: &Path, depth: usize) -> io::Result<()> {
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

/// One of cgroupfs's own files that are shorter than a page: the kernel hands it out whole.
fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_capped(path, 4096)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A root of its own for one test; none, with a line that says so, where impossible.
    pub(crate) fn test_root(name: &str) -> Option<Root> {
        let key = format!("test-{}-{name}", std::process::id());
        let made = own_directory().map(|base| Root::make(&base, &key));
        match made {
            Some(Ok(root)) => Some(root),
            Some(Err(e)) => {
                println!("skipped: {name}: needs root: cgroup v2 is not writable: {e}");
                None
            }
            None => {
                println!("skipped: {name}: needs cgroup v2");
                None
            }
        }
    }

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
    fn the_own_group_is_found_below_every_kind_of_mount() {
        let find = |m: &[u8], c: &[u8]| directory(m, c).map(|p| p.display().to_string());
        let plain = b"25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        assert_eq!(find(plain, b"0::/\n").unwrap(), "/sys/fs/cgroup");
        assert_eq!(
            find(plain, b"1:cpu:/x\n0::/services/superd\n").unwrap(),
            "/sys/fs/cgroup/services/superd"
        );
        let part = b"25 1 0:22 /docker/a /cg\\040roup rw shared:1 - cgroup2 none rw\n";
        assert_eq!(find(part, b"0::/docker/a/b\n").unwrap(), "/cg roup/b");
        assert_eq!(find(part, b"0::/docker/ab\n"), None);
        assert_eq!(find(plain, b"0::/../x\n"), None);
        assert_eq!(find(b"25 1 0:22 / /x rw - tmpfs t rw\n", b"0::/\n"), None);
        assert_eq!(find(plain, b"1:cpu:/\n"), None);
        assert_eq!(find(b"", b""), None);
    }

    #[test]
    fn a_controller_is_enabled_on_the_way_down_or_it_is_told_what_lacks() {
        let base = std::env::temp_dir().join(format!("superd-controls-{}", std::process::id()));
        let root = Root {
            dir: base.join("superd.x"),
            has_kill: false,
            limited: Cell::new(false),
        };
        fs::create_dir_all(&root.dir).unwrap();
        fs::write(base.join("cgroup.controllers"), "cpuset memory pids\n").unwrap();
        for dir in [&base, &root.dir] {
            fs::write(dir.join(SUBTREE), "").unwrap();
        }
        assert!(matches!(root.enable("cpu"), Err(Lack::NotThere(dir)) if dir == base));
        assert!(!root.is_limited());
        root.enable("memory").unwrap();
        assert!(root.is_limited());
        let written = |dir: &Path| fs::read_to_string(dir.join(SUBTREE)).unwrap();
        assert_eq!(written(&base), "+memory");
        assert_eq!(written(&root.dir), "+memory");
        assert_eq!(root.controllers(), "cpuset memory pids");
        fs::remove_file(base.join(SUBTREE)).unwrap();
        assert!(matches!(root.enable("pids"), Err(Lack::Refused(dir, _)) if dir == base));
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn names_cannot_leave_their_directory() {
        assert_eq!(escape("caddy@eth0.1"), "caddy@eth0.1");
        assert_eq!(escape("../x"), "..%2Fx");
        assert_eq!(escape("a b\n"), "a%20b%0A");
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
