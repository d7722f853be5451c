//! Making a process: the child's half, from the fork to execve(2).
//!
//! The order is: signals, session, cgroup, descriptors, then the lookup of user and groups
//! (here and not in superd, because a name service on the network may block), nice,
//! OOM score and limits while it still may, then the user, the directory as that user, and
//! the program. Lookups come before limits, which may leave no descriptor to do them with, and
//! before another network is entered. What `confine.rs` takes away goes as late as it can:
//! namespaces while it may, the right to write after the last file of /proc was written, the
//! capabilities last.
//!
//! What every child does is written as bare system calls, without the C library's functions, the
//! allocator, or errno: a child has none of superd's pages mapped when it begins, and each other
//! place of code or data that it touches is a page fault, which cost more than the calls do.
//!
//! Longer than a file should be: a step each, in the order in which a child takes them.

use std::borrow::Cow;
use std::convert::Infallible;
use std::ffi::{c_char, CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::{getegid, geteuid, Gid, Group, Uid, User};

use super::limits;
use super::signals::{Numbers, SIGNALS};
use super::spawn::{above_own, above_sockets, Ends, Plan, Prepared, SpawnFault, Step, Why};

/// Becomes the program, or reports why not and exits with status 127; 126 where a shell does.
pub(super) fn run(prepared: &Prepared<'_>, ends: &Ends<'_>) -> ! {
    let _guard = ExitGuard;
    let Err(fault) = become_program(prepared, ends);
    // If even the report fails, the exit status 127 is all that is left to say.
    nix::unistd::write(&ends.report, &fault.to_bytes()).ok();
    exit(match fault.step {
        // As a shell says it: it is there, and cannot be executed.
        Step::Exec if fault.errno != libc::ENOENT || fault.why == Why::Interpreter => 126,
        _ => 127,
    })
}

/// A panic must not unwind into the copy of superd's loop.
struct ExitGuard;

impl Drop for ExitGuard {
    fn drop(&mut self) {
        exit(127);
    }
}

fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes a number; no exit handler of superd's may run in the child.
    unsafe { libc::_exit(status) }
}

fn become_program(prepared: &Prepared<'_>, ends: &Ends<'_>) -> Result<Infallible, SpawnFault> {
    let plan = prepared.plan;
    let session = call(libc::SYS_setsid, [0; 4]);
    own_signals(prepared.parent, prepared.signals);
    session.map_err(at(Step::Session))?;
    if plan.goes_along {
        go_along(prepared.parent).map_err(at(Step::Session))?;
    }
    if let Some(procs) = &ends.procs {
        nix::unistd::write(procs, b"0").map_err(at(Step::Cgroup))?;
    }
    stdio(plan, ends.null.as_raw_fd()).map_err(at(Step::Stdio))?;
    let report = ends.report.as_raw_fd();
    let (low, high) = (above_sockets(plan), above_own(plan));
    let to_high = |fd: RawFd| at_least(fd, high).map_err(at(Step::Stdio));
    let lock = match plan.until_exec {
        Some(fd) => to_high(fd.as_raw_fd())?,
        None => report,
    };
    let extra = match plan.extra {
        Some((from, number)) => Some((to_high(from.as_raw_fd())?, number)),
        None => None,
    };
    pass_sockets(plan, high).map_err(at(Step::Stdio))?;
    let mut keep = [report, lock, report];
    if let Some((from, number)) = extra {
        dup2(from, number).map_err(at(Step::Stdio))?;
        keep = [report, lock, number];
    }
    close_others(low.unsigned_abs(), &keep);
    let identity = Identity::look_up(prepared)?;
    // One record more on the status pipe; if it cannot be written, nobody is told.
    let skip = |fault: SpawnFault| {
        nix::unistd::write(&ends.report, &fault.skipped().to_bytes()).ok();
    };
    let confine = plan.confine.as_deref();
    if let Some(confine) = confine {
        confine.enter(&skip)?;
    }
    if let Some(nice) = plan.nice {
        // SAFETY: setpriority(2) takes three numbers; 0 is ourselves.
        if unsafe { libc::setpriority(libc::PRIO_PROCESS as _, 0, nice) } != 0 {
            return Err(SpawnFault::io(Step::Nice)(io::Error::last_os_error()));
        }
    }
    if let Some(score) = plan.oom_score_adj {
        oom_score(score).map_err(SpawnFault::io(Step::OomScore))?;
    }
    if let Some(confine) = confine {
        confine.restrict(&skip)?;
        confine.bound_capabilities(&skip)?;
    }
    call(libc::SYS_umask, [plan.umask as usize, 0, 0, 0]).ok(); // cannot fail
    for (i, (resource, limit)) in plan.limits.iter().enumerate() {
        limits::set(*resource, *limit).map_err(|e| SpawnFault {
            index: u16::try_from(i).unwrap_or(u16::MAX),
            ..SpawnFault::io(Step::Limits)(e)
        })?;
    }
    if let (true, Some(uid)) = (plan.give_output, identity.uid) {
        // Without it the descriptors themselves still work.
        nix::unistd::fchown(io::stdout(), Some(uid), None).ok();
        nix::unistd::fchown(io::stderr(), Some(uid), None).ok();
    }
    identity.assume()?;
    let directory = plan.directory.as_ptr() as usize;
    call(libc::SYS_chdir, [directory, 0, 0, 0]).map_err(at(Step::Directory))?;
    if let Some(confine) = confine {
        confine.set_privileges(&skip)?;
    }
    Err(match (&identity.entry, plan.sockets.as_slice()) {
        // The usual case allocates nothing: each page that is written to is copied first.
        (None, []) => execute(prepared, &prepared.env),
        (entry, _) => {
            let env = environment(prepared, entry.as_ref());
            let pointers = env.iter().map(|v| v.as_ptr());
            let null = std::iter::once(std::ptr::null());
            execute(prepared, &pointers.chain(null).collect::<Vec<_>>())
        }
    })
}

/// A system call with up to four arguments.
fn call(number: libc::c_long, [a, b, c, d]: [usize; 4]) -> nix::Result<usize> {
    // SAFETY: the callers pass numbers, and pointers to what the call reads or writes while it
    // lasts; descriptors belong to the child alone.
    let result = unsafe { libc::syscall(number, a, b, c, d) };
    usize::try_from(result).map_err(|_| Errno::last())
}

fn at(step: Step) -> impl Fn(Errno) -> SpawnFault {
    move |e| SpawnFault::new(step, e as i32)
}

/// Default dispositions for all signals that have another one, real-time ones too, and
/// nothing blocked.
///
/// What is pending now reached superd's process group before setsid(2) (a terminal's
/// Ctrl-C, a `kill` of the group) and was not meant for this process: it is dropped. What
/// superd itself has sent (a stop that comes this early) is kept.
fn own_signals(superd: i32, not_default: Numbers) {
    /// Bytes of the kernel's set of signals.
    const SIZE: usize = SIGNALS as usize / 8;
    let mut pending = [0_u64; 2];
    let at = std::ptr::from_mut(&mut pending) as usize;
    call(libc::SYS_rt_sigpending, [at, SIZE, 0, 0]).ok();
    let kept = match pending {
        [0, 0] => 0,
        _ => take_pending(superd),
    };
    // The C library's sigaction(3) refuses the signals it uses itself (32, 33), but an
    // ignored one would stay ignored in the program.
    //
    // rt_sigaction(2) reads a kernel sigaction (at most 160 bytes); all zeroes is SIG_DFL with
    // an empty mask and no flags. KILL and STOP are refused: EINVAL.
    let default = [0_u64; 20];
    let default = default.as_ptr() as usize;
    each_of(not_default, |signal| {
        call(libc::SYS_rt_sigaction, [signal, default, 0, SIZE]).ok();
    });
    each_of(kept, |signal| {
        let own = call(libc::SYS_getpid, [0; 4]).unwrap_or(0);
        // To ourselves, the new child.
        call(libc::SYS_kill, [own, signal, 0, 0]).ok();
    });
    let how = libc::SIG_SETMASK as usize;
    // Sixteen bytes of zeroes: nothing is blocked.
    call(libc::SYS_rt_sigprocmask, [how, default, 0, SIZE]).ok();
}

/// Is killed with superd, also if that is gone by now.
fn go_along(superd: i32) -> nix::Result<()> {
    let (option, signal) = (libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize);
    call(libc::SYS_prctl, [option, signal, 0, 0])?;
    match call(libc::SYS_getppid, [0; 4])? {
        parent if i32::try_from(parent) == Ok(superd) => Ok(()),
        _ => Err(Errno::ESRCH),
    }
}

fn each_of(signals: Numbers, mut f: impl FnMut(usize)) {
    let (mut left, mut signal) = (signals, 1);
    while left != 0 {
        if left & 1 != 0 {
            f(signal);
        }
        (left, signal) = (left >> 1, signal + 1);
    }
}

/// Takes what is pending, and returns what of it superd has sent.
fn take_pending(superd: i32) -> Numbers {
    let all = SigSet::all();
    let mut kept = 0;
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    for _ in 0..64 {
        // SAFETY: sigtimedwait(2) gets an initialised set and timeout and a writable info.
        let signal = unsafe { libc::sigtimedwait(all.as_ref(), info.as_mut_ptr(), &now) };
        if signal <= 0 {
            break;
        }
        // SAFETY: zeroed, then written by the kernel.
        let info = unsafe { info.assume_init_ref() };
        // SAFETY: for these codes the kernel fills in the sender.
        let by_process = matches!(info.si_code, libc::SI_USER | libc::SI_TKILL);
        if by_process && unsafe { info.si_pid() } == superd {
            kept |= 1 << (signal - 1);
        }
    }
    kept
}

/// The plan's descriptors, or /dev/null, as standard input, output and error.
fn stdio(plan: &Plan<'_>, null: RawFd) -> nix::Result<()> {
    let raw = |fd: Option<BorrowedFd<'_>>| fd.map_or(null, |fd| fd.as_raw_fd());
    // Copies above 2 first: a source may itself be 0, 1 or 2.
    let sources = [raw(plan.stdin), raw(plan.stdout), raw(plan.stderr)];
    let [input, output, error] = sources.map(|fd| at_least(fd, 3));
    dup2(input?, 0)?;
    dup2(output?, 1)?;
    // The copies are closed with everything else that is above 2.
    dup2(error?, 2)
}

/// The descriptor, or a copy of it from `low` on.
fn at_least(fd: RawFd, low: RawFd) -> nix::Result<RawFd> {
    if fd >= low {
        return Ok(fd);
    }
    // SAFETY: fcntl(2) makes a new descriptor and touches no other.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, low) })
}

/// The sockets to 3, 4 and so on. Copies above first: a source may itself be one of those.
fn pass_sockets(plan: &Plan<'_>, low: RawFd) -> nix::Result<()> {
    if plan.sockets.is_empty() {
        return Ok(());
    }
    let mut sources = Vec::with_capacity(plan.sockets.len());
    for socket in &plan.sockets {
        sources.push(at_least(socket.as_raw_fd(), low)?);
    }
    for (target, source) in (3..).zip(sources) {
        dup2(source, target)?;
    }
    Ok(())
}

/// The copy is not close-on-exec. `from` is another number than `to`.
fn dup2(from: RawFd, to: RawFd) -> nix::Result<()> {
    // In the child, 0 to 2 and the plan's own numbers belong to the program to be.
    let [from, to] = [from, to].map(|fd| fd.unsigned_abs() as usize);
    call(libc::SYS_dup3, [from, to, 0, 0]).map(drop)
}

/// Closes every descriptor from `first` on except these. procd's scripts leave number 1000
/// open; a lock that lives on in a server blocks every init script after it.
pub(super) fn close_others(first: u32, keep: &[RawFd]) {
    // Above 2, see status_pipe().
    let kept = || keep.iter().map(|fd| fd.unsigned_abs());
    let mut from = first;
    let mut done = true;
    while let Some(fd) = kept().filter(|fd| *fd >= from).min() {
        done = done && (fd == from || close_range(from, fd - 1));
        from = fd + 1;
    }
    if done && close_range(from, u32::MAX) {
        return;
    }
    // Before Linux 5.9. The numbers first: closing while reading would skip some.
    let listed: Vec<u32> = match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect(),
        Err(_) => {
            let limit = limits::get(limits::NOFILE).map_or(65_536, |l| l.hard);
            (first..u32::try_from(limit.clamp(65_536, 1 << 20)).unwrap_or(65_536)).collect()
        }
    };
    let is_kept = |fd: &u32| kept().any(|k| k == *fd);
    for fd in listed.into_iter().filter(|fd| *fd >= first && !is_kept(fd)) {
        // SAFETY: in the child nothing else uses superd's descriptors; EBADF is fine.
        unsafe { libc::close(fd as RawFd) };
    }
}

fn close_range(first: u32, last: u32) -> bool {
    call(libc::SYS_close_range, [first as usize, last as usize, 0, 0]).is_ok()
}

fn oom_score(score: i32) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/oom_score_adj")?;
    file.write_all(score.to_string().as_bytes())
}

/// Who the program runs as. A field that is none stays as superd's.
#[derive(Default)]
struct Identity {
    uid: Option<Uid>,
    gid: Option<Gid>,
    groups: Option<Vec<Gid>>,
    entry: Option<User>,
}

impl Identity {
    fn look_up(prepared: &Prepared<'_>) -> Result<Identity, SpawnFault> {
        let plan = prepared.plan;
        let mut found = Identity::default();
        if (plan.user, plan.group, plan.groups) == (None, None, None) {
            return Ok(found);
        }
        if let Some(user) = plan.user {
            let number = user.parse::<u32>().ok().filter(|n| *n != u32::MAX);
            found.entry = match number {
                Some(n) => known(User::from_uid(Uid::from_raw(n))),
                None => known(User::from_name(user)),
            }
            .map_err(at(Step::User))?;
            let uid = found.entry.as_ref().map(|e| e.uid);
            found.uid = uid.or(number.map(Uid::from_raw));
            if found.uid.is_none() {
                return Err(unknown(Step::User, Why::Unknown, 0));
            }
            found.gid = found.entry.as_ref().map(|e| e.gid);
        }
        if let Some(group) = plan.group {
            found.gid = Some(look_up_group(group, 0)?);
        }
        if found.uid.is_some() && found.gid.is_none() {
            return Err(unknown(Step::User, Why::NoGroup, 0));
        }
        found.groups = match (plan.groups, found.gid, &found.entry) {
            (Some(list), ..) => {
                let each = list.iter().zip(1..=u16::MAX);
                Some(
                    each.map(|(g, i)| look_up_group(g, i))
                        .collect::<Result<_, _>>()?,
                )
            }
            (None, Some(gid), Some(entry)) => Some(member_of(entry, gid)?),
            (None, Some(gid), None) => Some(vec![gid]),
            (None, None, _) => None,
        };
        let is_ours = found.uid.is_none_or(|u| u == geteuid())
            && found.gid.is_none_or(|g| g == getegid())
            && plan.groups.is_none();
        if is_ours && !geteuid().is_root() {
            // Nothing to change, and without root setgroups(2) would be refused.
            found.uid = None;
            found.gid = None;
            found.groups = None;
        }
        Ok(found)
    }

    fn assume(&self) -> Result<(), SpawnFault> {
        if let Some(groups) = &self.groups {
            nix::unistd::setgroups(groups).map_err(at(Step::Group))?;
        }
        if let Some(gid) = self.gid {
            nix::unistd::setresgid(gid, gid, gid).map_err(at(Step::Group))?;
        }
        if let Some(uid) = self.uid {
            nix::unistd::setresuid(uid, uid, uid).map_err(at(Step::User))?;
        }
        Ok(())
    }
}

/// The environment: the plan's, then what the user's entry adds, then what tells of sockets,
/// then what is last.
fn environment<'a>(prepared: &Prepared<'a>, entry: Option<&User>) -> Vec<Cow<'a, CStr>> {
    use std::os::unix::ffi::OsStrExt;
    let plan = prepared.plan;
    let mut env: Vec<Cow<'a, CStr>> = plan.env.iter().map(|v| Cow::from(&**v)).collect();
    if !plan.sockets.is_empty() {
        let (n, pid) = (plan.sockets.len(), nix::unistd::getpid());
        for var in [format!("LISTEN_FDS={n}"), format!("LISTEN_PID={pid}")] {
            env.extend(CString::new(var).ok().map(Cow::Owned)); // digits hold no NUL
        }
    }
    let name = entry.map_or(&b""[..], |e| e.name.as_bytes());
    let personal = entry.map(|e| {
        [
            ("HOME=", e.dir.as_os_str().as_bytes()),
            ("USER=", name),
            ("LOGNAME=", name),
            ("SHELL=", e.shell.as_os_str().as_bytes()),
        ]
    });
    for (key, value) in personal.into_iter().flatten() {
        let is_set = |v: &Rc<CStr>| v.to_bytes().starts_with(key.as_bytes());
        if !plan.env.iter().any(is_set) {
            let var = CString::new([key.as_bytes(), value].concat());
            env.extend(var.ok().map(Cow::Owned)); // an entry holds no NUL
        }
    }
    env.extend(plan.env_last.iter().map(Cow::from));
    env
}

fn unknown(step: Step, why: Why, index: u16) -> SpawnFault {
    SpawnFault {
        step,
        why,
        index,
        errno: 0,
        skipped: false,
    }
}

/// getpwnam(3) lists errnos that mean no more than "no such entry".
fn known<T>(found: nix::Result<Option<T>>) -> nix::Result<Option<T>> {
    match found {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        other => other,
    }
}

fn look_up_group(name: &str, index: u16) -> Result<Gid, SpawnFault> {
    if let Ok(n) = name.parse::<u32>() {
        if n != u32::MAX {
            return Ok(Gid::from_raw(n));
        }
    }
    match known(Group::from_name(name)) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(unknown(Step::Group, Why::Unknown, index)),
        Err(e) => Err(SpawnFault {
            index,
            ..SpawnFault::new(Step::Group, e as i32)
        }),
    }
}

fn member_of(entry: &User, gid: Gid) -> Result<Vec<Gid>, SpawnFault> {
    let Ok(name) = CString::new(entry.name.as_str()) else {
        return Ok(vec![gid]); // an entry holds no NUL
    };
    nix::unistd::getgrouplist(&name, gid).map_err(at(Step::Group))
}

/// execve(2) of the first candidate that there is, as execvp(3) does it.
fn execute(prepared: &Prepared<'_>, env: &[*const c_char]) -> SpawnFault {
    let mut fault = SpawnFault::new(Step::Exec, libc::ENOENT);
    for program in &prepared.programs {
        // execve(2) gets a C string and two arrays of C strings that end in null and outlive the
        // call, which returns only on failure.
        let (path, argv) = (program.as_ptr(), prepared.argv.as_ptr());
        let arguments = [path as usize, argv as usize, env.as_ptr() as usize, 0];
        let Err(errno) = call(libc::SYS_execve, arguments) else {
            continue; // it never returns otherwise
        };
        match errno as i32 {
            libc::ENOENT if program_exists(program) => {
                fault.why = Why::Interpreter;
                fault.errno = libc::ENOENT;
                return fault;
            }
            libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ESTALE => {}
            // There may be one in a later directory that we may execute.
            libc::EACCES => fault.errno = libc::EACCES,
            other => {
                fault.errno = other;
                return fault;
            }
        }
    }
    fault
}

fn program_exists(program: &CStr) -> bool {
    nix::sys::stat::stat(program).is_ok()
}
