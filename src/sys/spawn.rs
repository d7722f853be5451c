//! Making a process: the parent's half. What the child does is in `child.rs`.
//!
//! A plain copy of superd is forked, never a vfork: nothing in superd's loop may wait while
//! a child does chdir(2) or execve(2) on a mount that hangs. Where a cgroup is given and the
//! kernel can, the child is born in it (clone3(2) with CLONE_INTO_CGROUP): moving a process
//! by writing to cgroup.procs takes a lock that can cost tens of milliseconds.
//!
//! The child tells of a failure through a close-on-exec pipe: end of file means that
//! execve(2) succeeded, a record says what did not.
//!
//! After a fork each page that superd writes to is copied first, which costs more than most
//! system calls. So what can be prepared is prepared for a whole batch, and between the
//! forks of a batch superd touches little more than its stack.
//!
//! Longer than a file should be: a plan, what is prepared from it, and the fork belong together.

use std::borrow::Cow;
use std::ffi::{c_char, CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{fcntl, FcntlArg, OFlag};

use super::cgroup::Group;
use super::confine::Confine;
use super::limits::Limit;
use super::{child, proc, signals};
use super::{errno_of, own_pid};

/// Where a start fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Step {
    /// Making the status pipe.
    Pipe,
    /// Opening or entering the cgroup.
    Cgroup,
    /// clone3(2), fork(2).
    Fork,
    /// setsid(2).
    Session,
    /// Standard input, output, error.
    Stdio,
    /// A resource limit.
    Limits,
    /// setpriority(2).
    Nice,
    /// `/proc/self/oom_score_adj`.
    OomScore,
    /// The user.
    User,
    /// The groups.
    Group,
    /// chdir(2).
    Directory,
    /// execve(2).
    Exec,
    /// Entering a network namespace.
    Network,
    /// An own /tmp.
    PrivateTmp,
    /// Making a path read-only.
    ReadOnly,
    /// Landlock.
    Writable,
    /// Capabilities.
    Capabilities,
    /// PR_SET_NO_NEW_PRIVS.
    NoNewPrivileges,
}

impl Step {
    const ALL: [Step; 18] = [
        Step::Pipe,
        Step::Cgroup,
        Step::Fork,
        Step::Session,
        Step::Stdio,
        Step::Limits,
        Step::Nice,
        Step::OomScore,
        Step::User,
        Step::Group,
        Step::Directory,
        Step::Exec,
        Step::Network,
        Step::PrivateTmp,
        Step::ReadOnly,
        Step::Writable,
        Step::Capabilities,
        Step::NoNewPrivileges,
    ];
}

/// What the errno does not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Why {
    /// The errno says it all.
    Errno,
    /// There is no such user or group.
    Unknown,
    /// A user by number without an entry has no primary group, and none was given.
    NoGroup,
    /// The program exists; what it names after `#!`, or its dynamic loader, does not.
    Interpreter,
}

/// Why there is no process, or why it could not become the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpawnFault {
    /// Where.
    pub step: Step,
    /// What the errno does not say.
    pub why: Why,
    /// Which one: an index into `limits` ([`Step::Limits`]) or into paths; the number of a
    /// capability; for [`Step::Group`] 0 is the primary group, n the (n-1)th of `groups`.
    pub index: u16,
    /// The errno, 0 when there is none.
    pub errno: i32,
    /// It was optional: the start went on without it.
    pub skipped: bool,
}

impl SpawnFault {
    pub(super) fn new(step: Step, errno: i32) -> SpawnFault {
        SpawnFault {
            step,
            why: Why::Errno,
            index: 0,
            errno,
            skipped: false,
        }
    }

    pub(super) fn skipped(self) -> SpawnFault {
        SpawnFault {
            skipped: true,
            ..self
        }
    }

    pub(super) fn io(step: Step) -> impl Fn(io::Error) -> SpawnFault {
        move |e| SpawnFault::new(step, errno_of(&e))
    }

    /// The record on the status pipe. Shorter than PIPE_BUF, so it arrives whole.
    pub(super) fn to_bytes(self) -> [u8; RECORD] {
        let [i0, i1] = self.index.to_ne_bytes();
        let [e0, e1, e2, e3] = self.errno.to_ne_bytes();
        let step = self.step as u8 | if self.skipped { SKIPPED } else { 0 };
        [step, self.why as u8, i0, i1, e0, e1, e2, e3]
    }

    fn from_bytes(record: [u8; RECORD]) -> Option<SpawnFault> {
        let [step, why, i0, i1, e0, e1, e2, e3] = record;
        let whys = [Why::Errno, Why::Unknown, Why::NoGroup, Why::Interpreter];
        Some(SpawnFault {
            step: *Step::ALL.get(usize::from(step & !SKIPPED))?,
            why: *whys.get(usize::from(why))?,
            index: u16::from_ne_bytes([i0, i1]),
            errno: i32::from_ne_bytes([e0, e1, e2, e3]),
            skipped: step & SKIPPED != 0,
        })
    }
}

const RECORD: usize = 8;

/// In the first byte of a record: the start goes on.
const SKIPPED: u8 = 0x80;

/// An environment. Most services have the same one, and share it.
pub type Variables<'a> = Cow<'a, [Rc<CStr>]>;

/// Everything about a process to be.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Program and arguments. A program without a slash is searched in PATH of `env`.
    pub argv: Vec<CString>,
    /// `NAME=value`. HOME, USER, LOGNAME and SHELL of `user` are added unless they are here.
    pub env: Variables<'a>,
    /// Put after everything else in the environment.
    pub env_last: Vec<CString>,
    /// Standard input; none: /dev/null.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Standard output; none: /dev/null. Its description should be in blocking mode.
    pub stdout: Option<BorrowedFd<'a>>,
    /// Standard error; none: /dev/null.
    pub stderr: Option<BorrowedFd<'a>>,
    /// Both are a pipe of superd's, which is given to `user`: else it could not be opened as
    /// /dev/stdout or /dev/stderr.
    pub give_output: bool,
    /// One more descriptor, and its number in the program: above 2.
    pub extra: Option<(BorrowedFd<'a>, RawFd)>,
    /// Become 3, 4 ...; LISTEN_FDS and LISTEN_PID tell of them (sd_listen_fds(3)).
    pub sockets: Vec<BorrowedFd<'a>>,
    /// Stays open until execve(2), and is closed by that: a lock which tells that a start is
    /// under way.
    pub until_exec: Option<BorrowedFd<'a>>,
    /// The cgroup it is to live in.
    pub cgroup: Option<&'a Group>,
    /// Files created get no more than this takes away.
    pub umask: u32,
    /// RLIMIT_ number and values, in this order.
    pub limits: Vec<(u32, Limit)>,
    /// -20 to 19; none: as superd.
    pub nice: Option<i32>,
    /// -1000 to 1000; none: as superd.
    pub oom_score_adj: Option<i32>,
    /// By name or number; looked up by the child.
    pub user: Option<&'a str>,
    /// Primary group by name or number; none: the user's.
    pub group: Option<&'a str>,
    /// Supplementary groups; none: the user's.
    pub groups: Option<&'a [String]>,
    /// Working directory, entered as the user.
    pub directory: Cow<'a, CStr>,
    /// What is taken away from it; none: nothing.
    pub confine: Option<Box<Confine>>,
    /// Whether it is killed when superd is: nobody would know of it any more. Not for a program
    /// that gains privileges, which forgets it (PR_SET_PDEATHSIG(2const)).
    pub goes_along: bool,
    /// Never clone3(2): the caller has more than one thread, so the C library's own fork
    /// must put its locks in order. Set in unit tests, whose harness is threaded.
    pub threads: bool,
}

impl Plan<'_> {
    /// A plan that runs these words as superd's user in `/` with nothing set.
    pub fn new(argv: Vec<CString>) -> Self {
        Plan {
            argv,
            env: Variables::Borrowed(&[]),
            env_last: Vec::new(),
            stdin: None,
            stdout: None,
            stderr: None,
            give_output: false,
            extra: None,
            sockets: Vec::new(),
            until_exec: None,
            cgroup: None,
            umask: 0o022,
            limits: Vec::new(),
            nice: None,
            oom_score_adj: None,
            user: None,
            group: None,
            groups: None,
            directory: c"/".into(),
            confine: None,
            goes_along: false,
            threads: cfg!(test),
        }
    }
}

/// A process that was made, and is on its way to become the program.
#[derive(Debug)]
pub struct Child {
    /// Its pid; also the id of its session and process group (from setsid(2) on).
    pub pid: i32,
    /// What becomes of it.
    pub status: StatusPipe,
    /// When it came into being, as [`super::proc::Stat::start`] has it, if the clock tells
    /// that without a look at /proc.
    pub start: Option<u64>,
}

/// The end of the status pipe that superd reads; non-blocking.
#[derive(Debug)]
pub struct StatusPipe(OwnedFd);

/// What the status pipe says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Nothing yet.
    Pending,
    /// execve(2) succeeded (or the child died before it: its exit tells).
    Execed,
    /// It could not become the program, and exits.
    Failed(SpawnFault),
    /// Something optional is not possible: it goes on without. More may follow.
    Without(SpawnFault),
}

impl StatusPipe {
    /// One that another program has left to this one.
    pub fn left(fd: OwnedFd) -> StatusPipe {
        StatusPipe(fd)
    }

    /// Reads it. After anything but `Pending` and `Without` it has nothing more to say.
    pub fn read(&self) -> Status {
        let mut record = [0_u8; RECORD];
        loop {
            return match nix::unistd::read(self.0.as_fd(), &mut record) {
                Ok(0) => Status::Execed,
                Ok(RECORD) => match SpawnFault::from_bytes(record) {
                    Some(fault) if fault.skipped => Status::Without(fault),
                    Some(fault) => Status::Failed(fault),
                    None => Status::Failed(SpawnFault::new(Step::Pipe, libc::EPROTO)),
                },
                Ok(_) => Status::Failed(SpawnFault::new(Step::Pipe, libc::EPROTO)),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(nix::errno::Errno::EAGAIN) => Status::Pending,
                Err(e) => Status::Failed(SpawnFault::new(Step::Pipe, e as i32)),
            };
        }
    }
}

impl AsRawFd for StatusPipe {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What the child needs and the parent has prepared.
pub(super) struct Prepared<'a> {
    pub plan: &'a Plan<'a>,
    /// Ends in a null pointer.
    pub argv: Vec<*const c_char>,
    /// The environment if the user's entry adds nothing. Ends in a null pointer.
    pub env: Vec<*const c_char>,
    /// The candidates for execve(2), in order.
    pub programs: Vec<Cow<'a, CStr>>,
    /// Signals that are not at their default disposition.
    pub signals: signals::Numbers,
    /// superd.
    pub parent: i32,
}

/// The descriptors that the child needs, made right before it: no sibling inherits them.
pub(super) struct Ends<'a> {
    /// /dev/null, to be read and written.
    pub null: BorrowedFd<'a>,
    /// Where the child reports; above 2.
    pub report: OwnedFd,
    /// cgroup.procs, when the child has to enter by itself.
    pub procs: Option<OwnedFd>,
}

/// Set once the kernel has refused clone3(2) (older than 5.3, older than 5.7 with a cgroup,
/// or a seccomp filter): asking again would cost a system call for nothing.
static NO_CLONE: AtomicBool = AtomicBool::new(false);

/// Whether the kernel has refused clone3(2).
pub fn is_clone_refused() -> bool {
    NO_CLONE.load(Ordering::Relaxed)
}

/// It has refused it to the program that this process was before.
pub fn refuse_clone(refused: bool) {
    NO_CLONE.store(refused, Ordering::Relaxed);
}

/// Makes the process. It runs the program when [`StatusPipe::read`] says so. An error
/// means that no process came into being.
pub fn spawn(plan: &Plan<'_>) -> Result<Child, SpawnFault> {
    let parent = own_pid();
    let prepared = prepare(plan, signals::not_default(), parent)?;
    let null = open_null()?;
    let mask = signals::block_all().map_err(SpawnFault::io(Step::Fork))?;
    let made = make(&prepared, &null);
    signals::restore(&mask);
    made
}

/// One for all children that are made at once. Opened here, because it costs as much as the rest
/// of what a child does with its descriptors.
fn open_null() -> Result<OwnedFd, SpawnFault> {
    let opened = super::file::open(Path::new("/dev/null"), libc::O_RDWR, 0);
    opened
        .map(OwnedFd::from)
        .map_err(SpawnFault::io(Step::Stdio))
}

/// Results that [`spawn_all`] has on its stack.
const AT_ONCE: usize = 16;

/// Like [`spawn`] for each of the plans, in their order; each has its own result.
pub fn spawn_all(plans: &[&Plan<'_>]) -> Vec<Result<Child, SpawnFault>> {
    let signals = signals::not_default();
    let parent = own_pid();
    let prepared: Vec<_> = plans.iter().map(|p| prepare(p, signals, parent)).collect();
    let mut made = Vec::with_capacity(plans.len());
    let blocked = || signals::block_all().map_err(SpawnFault::io(Step::Fork));
    let (null, mask) = match open_null().and_then(|null| Ok((null, blocked()?))) {
        Ok(both) => both,
        Err(fault) => return plans.iter().map(|_| Err(fault)).collect(),
    };
    for few in prepared.chunks(AT_ONCE) {
        // Nothing in here allocates or frees: see the head of this file. Each fork makes every
        // page one to be copied again before it is written to, so the results stay where the
        // stack is written to anyway.
        let mut results = [const { None }; AT_ONCE];
        for (each, result) in few.iter().zip(&mut results) {
            *result = Some(match each {
                Ok(prepared) => make(prepared, &null),
                Err(fault) => Err(*fault),
            });
        }
        made.extend(results.into_iter().flatten());
    }
    signals::restore(&mask);
    made
}

fn prepare<'a>(
    plan: &'a Plan<'a>,
    not_default: signals::Numbers,
    parent: i32,
) -> Result<Prepared<'a>, SpawnFault> {
    let argv = plan.argv.iter().map(|a| a.as_ptr());
    let env = plan.env.iter().map(|v| v.as_ptr());
    let last = plan.env_last.iter().map(|v| v.as_ptr());
    let null = std::iter::once(std::ptr::null());
    Ok(Prepared {
        plan,
        argv: argv.chain(null.clone()).collect(),
        env: env.chain(last).chain(null).collect(),
        programs: programs(plan)?,
        // Another thread may change them meanwhile.
        signals: if plan.threads {
            signals::Numbers::MAX
        } else {
            not_default
        },
        parent,
    })
}

/// The fork. All signals are blocked, until the child has default dispositions: a handler
/// that ran in the child would write to superd's self-pipe.
fn make(prepared: &Prepared<'_>, null: &OwnedFd) -> Result<Child, SpawnFault> {
    let plan = prepared.plan;
    let (read, write) = status_pipe(above_own(plan)).map_err(SpawnFault::io(Step::Pipe))?;
    let status = StatusPipe(read);
    let mut ends = Ends {
        null: null.as_fd(),
        report: write,
        procs: None,
    };
    let can_be_born_there = plan.cgroup.is_none_or(Group::is_fresh);
    if !plan.threads && can_be_born_there && !NO_CLONE.load(Ordering::Relaxed) {
        let dir = plan.cgroup.map(Group::open_dir).transpose();
        let dir = dir.map_err(SpawnFault::io(Step::Cgroup))?;
        let before = proc::ticks_now();
        if let Some(pid) = clone(prepared, &ends, dir.as_ref())? {
            return Ok(Child {
                pid,
                status,
                start: born(before),
            });
        }
    }
    if let Some(group) = plan.cgroup {
        ends.procs = Some(group.open_procs().map_err(SpawnFault::io(Step::Cgroup))?);
    }
    let before = proc::ticks_now();
    let pid = plain_fork(prepared, &ends)?;
    Ok(Child {
        pid,
        status,
        start: born(before),
    })
}

/// The start time of a process that was made since `before`: the kernel reads the same clock in
/// between, so when no tick has passed, it has read that one (`copy_process` in kernel/fork.c).
fn born(before: Option<u64>) -> Option<u64> {
    before.filter(|_| proc::ticks_now() == before)
}

/// The first descriptor after the sockets.
pub(super) fn above_sockets(plan: &Plan<'_>) -> RawFd {
    3 + RawFd::try_from(plan.sockets.len()).unwrap_or(0)
}

/// The first descriptor after all that are the program's.
pub(super) fn above_own(plan: &Plan<'_>) -> RawFd {
    let extra = plan.extra.map_or(0, |(_, number)| number + 1);
    above_sockets(plan).max(extra)
}

/// Both ends close-on-exec and non-blocking (the one record fits), the writing one from `low`
/// on so that nothing which the program is to have lands on it.
fn status_pipe(low: RawFd) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    if write.as_raw_fd() >= low {
        return Ok((read, write));
    }
    let high = fcntl(&write, FcntlArg::F_DUPFD_CLOEXEC(low))?;
    // SAFETY: fcntl(2) has just made this descriptor; nobody else owns it.
    Ok((read, unsafe { OwnedFd::from_raw_fd(high) }))
}

/// The files that may be the program: itself when it has a slash, else one per directory
/// of PATH (relative ones would depend on the working directory and are left out).
fn programs<'a>(plan: &'a Plan<'_>) -> Result<Vec<Cow<'a, CStr>>, SpawnFault> {
    let none = || SpawnFault::new(Step::Exec, libc::ENOENT);
    let name = plan.argv.first().ok_or_else(none)?;
    if name.as_bytes().is_empty() {
        return Err(none());
    }
    if name.as_bytes().contains(&b'/') {
        return Ok(vec![name.into()]);
    }
    let last = plan.env_last.iter().map(CString::as_c_str);
    let all = plan.env.iter().map(Rc::as_ref).chain(last);
    let path = all
        .filter_map(|v| v.to_bytes().strip_prefix(b"PATH="))
        .next_back()
        .unwrap_or(USUAL_PATH.as_bytes());
    let directories = path.split(|b| *b == b':').filter(|d| d.starts_with(b"/"));
    let join = |d: &[u8]| CString::new([d, b"/", name.as_bytes()].concat()).ok();
    Ok(directories.filter_map(join).map(Cow::Owned).collect())
}

/// `struct clone_args` as of CLONE_ARGS_SIZE_VER2 (clone3(2)); libc has it for some
/// architectures only.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Where programs are, if nobody has said.
pub const USUAL_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Whether a process that is born in a group lives. Where superd's own group was killed
/// once (and superd put into it later), the kernel kills every newborn of a fresh group: see
/// [`Group::is_fresh`]. Then, from now on, processes enter their groups by themselves. Only
/// to be called while there is one thread and no child.
pub fn try_birth(group: &Group) {
    let Ok(dir) = group.open_dir() else { return };
    let mut args = CloneArgs {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: dir.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    let size = std::mem::size_of::<CloneArgs>();
    // SAFETY: as in `clone`; the child only ends.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size) };
    if pid == 0 {
        // SAFETY: _exit(2) does not return, and touches nothing.
        unsafe { libc::_exit(0) };
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or(-1));
    let lived = pid.as_raw() > 0
        && matches!(
            nix::sys::wait::waitpid(pid, None),
            Ok(nix::sys::wait::WaitStatus::Exited(_, 0))
        );
    NO_CLONE.store(!lived, Ordering::Relaxed);
}

/// None: this kernel cannot, and will not be asked again.
fn clone(
    prepared: &Prepared<'_>,
    ends: &Ends<'_>,
    dir: Option<&OwnedFd>,
) -> Result<Option<i32>, SpawnFault> {
    let mut args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(dir) = dir {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    let size = std::mem::size_of::<CloneArgs>();
    // SAFETY: without CLONE_VM and with no stack this is fork(2): the child runs on its own
    // copy of everything. superd is single-threaded, so no lock is held by a thread that
    // the child does not have; callers with threads say so in the plan and never get here.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size) };
    if pid == 0 {
        child::run(prepared, ends);
    }
    let error = io::Error::last_os_error();
    match i32::try_from(pid) {
        Ok(pid) if pid > 0 => Ok(Some(pid)),
        _ => match errno_of(&error) {
            // Not known, filtered, or a cgroup that takes no processes this way.
            libc::ENOSYS | libc::EINVAL | libc::E2BIG | libc::EPERM | libc::EOPNOTSUPP => {
                NO_CLONE.store(true, Ordering::Relaxed);
                Ok(None)
            }
            // clone3(2): these are about the cgroup, not about processes.
            e @ (libc::EACCES | libc::EBUSY | libc::ENODEV | libc::EBADF) => {
                Err(SpawnFault::new(Step::Cgroup, e))
            }
            e => Err(SpawnFault::new(Step::Fork, e)),
        },
    }
}

fn plain_fork(prepared: &Prepared<'_>, ends: &Ends<'_>) -> Result<i32, SpawnFault> {
    // SAFETY: superd is single-threaded; in threaded tests fork(3) of the C library puts
    // the allocator's locks in order for the child.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        child::run(prepared, ends);
    }
    let error = io::Error::last_os_error();
    match pid {
        1.. => Ok(pid),
        _ => Err(SpawnFault::new(Step::Fork, errno_of(&error))),
    }
}

#[cfg(test)]
mod tests;
