//! What a process loses before it executes its program: its view of the network and of files,
//! the right to write, capabilities. In the child, after the fork; nothing here concerns superd.
//!
//! Each of these fails as a start that fails, unless the plan says that it is optional: then
//! the start goes on without it, and the status pipe tells.
//!
//! A little long: a restriction each.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    AccessFs, LandlockStatus, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    ABI,
};
use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;

use super::errno_of;
use super::spawn::{SpawnFault, Step};

/// A path, and whether it may be missing.
pub type Place = (CString, bool);

/// What is taken away. The default takes nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Confine {
    /// The files of the network namespace (ip-netns(8)) that is entered: the first that is there.
    pub network: Vec<CString>,
    /// /tmp and /var/tmp are its own and empty.
    pub private_tmp: bool,
    /// What lies in there and is to be seen all the same.
    pub kept_in_tmp: Vec<PathBuf>,
    /// Cannot be written to, with all that is mounted below.
    pub read_only: Vec<Place>,
    /// The only places that can be written to (landlock(7)).
    pub writable: Option<Vec<Place>>,
    /// The only capabilities it has (bit = number) and can ever get; none: as they are.
    pub capabilities: Option<u64>,
    /// execve(2) gives nothing that it does not have (PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
    /// Steps that may fail.
    pub optional: Vec<Step>,
}

/// What to do with the fault of an optional step.
type Skip<'a> = &'a dyn Fn(SpawnFault);

impl Confine {
    /// Does one step.
    ///
    /// # Errors
    /// Of the step, unless it is optional.
    fn step(&self, skip: Skip<'_>, done: Result<(), SpawnFault>) -> Result<(), SpawnFault> {
        match done {
            Err(fault) if self.optional.contains(&fault.step) => {
                skip(fault);
                Ok(())
            }
            other => other,
        }
    }

    /// What superd's privileges are needed for: before the user changes.
    pub(super) fn enter(&self, skip: Skip<'_>) -> Result<(), SpawnFault> {
        self.step(skip, self.enter_network())?;
        if !self.private_tmp && self.read_only.is_empty() {
            return Ok(());
        }
        let own = own_mounts().map_err(|e| errno_of(&e));
        if self.private_tmp {
            let fault = |errno| SpawnFault::new(Step::PrivateTmp, errno);
            let done = own.map_err(fault).and_then(|()| {
                let mounted = self.mount_tmp();
                mounted.map_err(SpawnFault::io(Step::PrivateTmp))
            });
            self.step(skip, done)?;
        }
        if !self.read_only.is_empty() {
            let fault = |errno| SpawnFault::new(Step::ReadOnly, errno);
            let done = own.map_err(fault).and_then(|()| self.lock_paths());
            self.step(skip, done)?;
        }
        Ok(())
    }

    fn enter_network(&self) -> Result<(), SpawnFault> {
        let mut result = Ok(());
        for file in &self.network {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            result = open(file.as_c_str(), flags, Mode::empty())
                .map_err(io::Error::from)
                .and_then(|ns| set_network(ns.as_fd()));
            match &result {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        result.map_err(SpawnFault::io(Step::Network))
    }

    fn mount_tmp(&self) -> io::Result<()> {
        let mut kept: Vec<(OwnedFd, &Path, bool)> = Vec::new();
        for path in &self.kept_in_tmp {
            // Gone since superd looked: then it is not there to be seen.
            let Ok(about) = path.metadata() else { continue };
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            kept.push((open(path, flags, Mode::empty())?, path, about.is_dir()));
        }
        for dir in [c"/tmp", c"/var/tmp"] {
            let path = to_path(dir);
            // /var may be a link into /tmp, and then /var/tmp is not there any more.
            let is_own = path.canonicalize().is_ok_and(|real| real == path);
            if is_own {
                mount(c"tmpfs", dir, Some(c"tmpfs"), TMPFS, Some(c"mode=1777"))?;
            }
        }
        for (held, path, is_dir) in kept {
            if is_dir {
                std::fs::create_dir_all(path)?;
            } else {
                path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                std::fs::File::create(path)?;
            }
            let from = cstring(&format!("/proc/self/fd/{}", held.as_raw_fd()))?;
            let flags = libc::MS_BIND | libc::MS_REC;
            mount(&from, &cstring_of(path)?, None, flags, None)?;
        }
        Ok(())
    }

    fn lock_paths(&self) -> Result<(), SpawnFault> {
        for ((path, may_be_missing), index) in self.read_only.iter().zip(0..) {
            match lock_path(path) {
                Err(e) if *may_be_missing && e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    return Err(SpawnFault {
                        index,
                        ..SpawnFault::io(Step::ReadOnly)(e)
                    })
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// After this no file can be opened for writing but those that may be.
    pub(super) fn restrict(&self, skip: Skip<'_>) -> Result<(), SpawnFault> {
        match &self.writable {
            Some(places) => self.step(skip, self.landlock(places)),
            None => Ok(()),
        }
    }

    /// Everything that writes and that Linux 6.2 (version 3 of Landlock) knows of: before that
    /// truncate(2) goes everywhere.
    fn landlock(&self, places: &[Place]) -> Result<(), SpawnFault> {
        let writes = AccessFs::from_write(ABI::V3);
        let fail = |e: landlock::RulesetError| SpawnFault::new(Step::Writable, cause(&e));
        let made = Ruleset::default().handle_access(writes).map_err(fail)?;
        let mut rules = made.create().map_err(fail)?;
        for ((path, may_be_missing), index) in places.iter().zip(0..) {
            let place = match open(
                path.as_c_str(),
                OFlag::O_PATH | OFlag::O_CLOEXEC,
                Mode::empty(),
            ) {
                Ok(place) => place,
                Err(nix::errno::Errno::ENOENT) if *may_be_missing => continue,
                Err(e) => {
                    return Err(SpawnFault {
                        index,
                        ..SpawnFault::new(Step::Writable, e as i32)
                    })
                }
            };
            rules = rules.add_rule(rule(place)).map_err(fail)?;
        }
        // What every program expects to write to.
        let tmp: &[&CStr] = match self.private_tmp {
            true => &[c"/tmp", c"/var/tmp"],
            false => &[],
        };
        for path in ALWAYS.iter().chain(tmp) {
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            if let Ok(place) = open(*path, flags, Mode::empty()) {
                rules = rules.add_rule(rule(place)).map_err(fail)?;
            }
        }
        // As /dev/stdout and /dev/stderr. An anonymous pipe takes no rule, and needs none.
        for own in [io::stdout().as_fd(), io::stderr().as_fd()] {
            if is_fifo(own) {
                rules = rules.add_rule(rule(own)).map_err(fail)?;
            }
        }
        let got = rules.restrict_self().map_err(fail)?;
        match (got.ruleset, got.landlock) {
            (RulesetStatus::FullyEnforced, _) => Ok(()),
            (_, LandlockStatus::NotImplemented) => Err(libc::ENOSYS),
            (_, LandlockStatus::NotEnabled) => Err(libc::EOPNOTSUPP),
            (_, LandlockStatus::Available { .. }) => Err(libc::EPROTONOSUPPORT),
        }
        .map_err(|errno| SpawnFault::new(Step::Writable, errno))
    }

    /// Before the user changes: from here on no more than these can be had, and what superd
    /// has is not lost with root's number.
    pub(super) fn bound_capabilities(&self, skip: Skip<'_>) -> Result<(), SpawnFault> {
        match self.capabilities {
            Some(wanted) => self.step(skip, bound(wanted)),
            None => Ok(()),
        }
    }

    /// The last thing before execve(2).
    pub(super) fn set_privileges(&self, skip: Skip<'_>) -> Result<(), SpawnFault> {
        if let Some(wanted) = self.capabilities {
            self.step(skip, assume(wanted))?;
        }
        if self.no_new_privileges {
            let set = nix::sys::prctl::set_no_new_privs();
            let fault = |e: nix::errno::Errno| SpawnFault::new(Step::NoNewPrivileges, e as i32);
            self.step(skip, set.map_err(fault))?;
        }
        Ok(())
    }
}

const TMPFS: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;

/// Written to by programs that write to nothing.
const ALWAYS: &[&CStr] = &[c"/dev/null", c"/dev/zero", c"/dev/full", c"/dev/tty"];

fn errno_now() -> i32 {
    nix::errno::Errno::last_raw()
}

fn to_path(text: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(text.to_bytes()))
}

fn cstring(text: &str) -> io::Result<CString> {
    Ok(CString::new(text)?)
}

fn cstring_of(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The errno that is behind it.
fn cause(e: &landlock::RulesetError) -> i32 {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return errno_of(io);
        }
        next = e.source();
    }
    libc::EINVAL
}

/// Everything that can be written there. A file has fewer rights than a directory, and rights
/// that are cut down would look like a kernel that does not know them.
fn rule<F: AsFd>(place: F) -> PathBeneath<F> {
    let all = AccessFs::from_write(ABI::V3);
    let is_dir = nix::sys::stat::fstat(place.as_fd())
        .is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFDIR);
    let rights = match is_dir {
        true => all,
        false => all & AccessFs::from_file(ABI::V3),
    };
    PathBeneath::new(place, rights)
}

fn is_fifo(fd: BorrowedFd<'_>) -> bool {
    nix::sys::stat::fstat(fd)
        .is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFIFO && s.st_nlink > 0)
        && !is_anonymous(fd)
}

/// Pipes of pipe2(2) live on a file system that nobody can see.
fn is_anonymous(fd: BorrowedFd<'_>) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.map_or(true, |to| !to.is_absolute())
}

fn set_network(ns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns(2) takes a descriptor, which is open, and a number.
    ok(unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) }.into())
}

/// Mounts that nobody else sees. What others mount later (a USB stick) is seen here.
fn own_mounts() -> io::Result<()> {
    // SAFETY: unshare(2) takes a number; this process has one thread.
    ok(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into())?;
    mount(c"none", c"/", None, libc::MS_REC | libc::MS_SLAVE, None)
}

fn mount(
    from: &CStr,
    to: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    let data = pointer(data).cast();
    // SAFETY: mount(2) reads C strings, of which kind and data may be null.
    ok(unsafe { libc::mount(from.as_ptr(), to.as_ptr(), pointer(kind), flags, data) }.into())
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;

/// A mount of itself over itself, and that read-only with all below. Unlike a remount by
/// mount(2) this leaves the other flags (nosuid ...) as they are.
fn lock_path(path: &CStr) -> io::Result<()> {
    mount(path, path, None, libc::MS_BIND | libc::MS_REC, None)?;
    let attr = MountAttr {
        set: MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: mount_setattr(2) reads a C string and a struct of the size it is told.
    ok(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            std::ptr::from_ref(&attr),
            std::mem::size_of::<MountAttr>(),
        )
    })
}

fn ok(result: libc::c_long) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// prctl(2) with numbers.
fn prctl(what: libc::c_int, second: libc::c_ulong, third: libc::c_ulong) -> Result<i32, i32> {
    const NO: libc::c_ulong = 0;
    // SAFETY: the operations used here take numbers only.
    match unsafe { libc::prctl(what, second, third, NO, NO) } {
        -1 => Err(errno_now()),
        n => Ok(n),
    }
}

/// capabilities(7): `_LINUX_CAPABILITY_VERSION_3`, this process.
const HEADER: [u32; 2] = [0x2008_0522, 0];

/// Effective, permitted and inheritable ones; the lower 32 of each, then the upper.
type Sets = [u32; 6];

fn permitted() -> Result<u64, i32> {
    let (mut header, mut sets): ([u32; 2], Sets) = (HEADER, [0; 6]);
    // SAFETY: capget(2) reads a header of two u32 and writes two times three u32.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    let [_, low, _, _, high, _] = sets;
    match got {
        -1 => Err(errno_now()),
        _ => Ok(u64::from(high) << 32 | u64::from(low)),
    }
}

fn set_all(mask: u64) -> Result<(), i32> {
    let low = (mask & u64::from(u32::MAX)) as u32;
    let high = (mask >> 32) as u32;
    let mut header = HEADER;
    let sets: Sets = [low, low, low, high, high, high];
    // SAFETY: capset(2) reads a header of two u32 and two times three u32.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) };
    match set {
        -1 => Err(errno_now()),
        _ => Ok(()),
    }
}

/// The index of a fault that is about no capability alone.
pub const ALL: u16 = u16::MAX;

fn fault(number: u16, errno: i32) -> SpawnFault {
    SpawnFault {
        index: number,
        ..SpawnFault::new(Step::Capabilities, errno)
    }
}

fn each() -> impl Iterator<Item = (u16, u64)> {
    (0..64).map(|n| (n, 1 << n))
}

fn bound(wanted: u64) -> Result<(), SpawnFault> {
    let own = permitted().map_err(|e| fault(ALL, e))?;
    for (n, bit) in each() {
        let number = libc::c_ulong::from(n);
        let known = prctl(libc::PR_CAPBSET_READ, number, 0);
        match (known, wanted & bit != 0) {
            (Err(_), true) => return Err(fault(n, libc::EINVAL)),
            (Err(_), false) | (Ok(0), false) => {}
            (Ok(_), true) if own & bit == 0 => return Err(fault(n, libc::EPERM)),
            (Ok(_), true) => {}
            (Ok(_), false) => {
                prctl(libc::PR_CAPBSET_DROP, number, 0).map_err(|e| fault(ALL, e))?;
            }
        }
    }
    prctl(libc::PR_SET_KEEPCAPS, 1, 0).map_err(|e| fault(ALL, e))?;
    Ok(())
}

/// Permitted, effective, inheritable and ambient.
fn assume(wanted: u64) -> Result<(), SpawnFault> {
    set_all(wanted).map_err(|e| fault(ALL, e))?;
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong;
    match prctl(libc::PR_CAP_AMBIENT, clear, 0) {
        // Before Linux 4.3 there are none.
        Err(libc::EINVAL) if wanted == 0 => return Ok(()),
        other => other.map_err(|e| fault(ALL, e))?,
    };
    for (n, _) in each().filter(|(_, bit)| wanted & bit != 0) {
        let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
        prctl(libc::PR_CAP_AMBIENT, raise, n.into()).map_err(|e| fault(n, e))?;
    }
    Ok(())
}
