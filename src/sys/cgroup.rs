//! cgroup v2 (Documentation/admin-guide/cgroup-v2.rst) as a container of processes.
//!
//! As long as no service has a limit no controller is used: with none enabled, processes in
//! inner nodes are fine, so superd stays where it was started and its services get groups below.
//! The first limit makes superd move into a leaf of its own ([`Root::enable`]). Everything is
//! found by path at each use: a descriptor per service would cost more than the lookup.
//!
//! Here is superd's own part of the hierarchy; `group` is a service's.

mod group;

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::fcntl::{Flock, FlockArg};

pub use group::Group;

use group::{nested, remove, DEPTH};

use super::proc::read_capped;
use crate::json::{FromJson, ToJson};

/// Mounts are read up to this many bytes.
const LIST_CAP: u64 = 1 << 20;

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

/// One of cgroupfs's own files that are shorter than a page: the kernel hands it out whole.
fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_capped(path, 4096)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
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
}
