//! The kernel's interfaces: thin, named wrappers, and the only unsafe code.
//!
//! Nothing here decides anything and nothing here knows of services, the machine or the
//! configuration: the arguments are pids, descriptors, bytes and numbers. Where nix(1) has
//! a safe wrapper it is used; what is left is this list. superd runs on one thread, and
//! several of these blocks rely on that (the child of a fork of one thread may allocate).
//!
//! | file | block | what its contract asks for |
//! |---|---|---|
//! | `child.rs` | `sigtimedwait` | initialised sets, writable siginfo |
//! | `child.rs` | `siginfo_t::si_pid` | the signal was sent by a process |
//! | `child.rs` | `rt_sigaction` | a zeroed kernel sigaction is SIG_DFL |
//! | `child.rs` | `dup2`, `close`, `close_range` | only the child's own descriptors, or superd's before it has opened any |
//! | `child.rs` | `setpriority` | no pointers |
//! | `child.rs` | `execve` | NUL-terminated arrays of C strings |
//! | `child.rs` | `_exit` | no pointers |
//! | `confine.rs` | `setns`, `unshare`, `prctl` | descriptors and numbers |
//! | `confine.rs` | `mount`, `mount_setattr` | C strings, a struct of the size given |
//! | `confine.rs` | `capget`, `capset` | a header and two sets of three u32 each |
//! | `features.rs` | probing system calls | null or absent objects: they fail, and say how |
//! | `filter.rs` | `setsockopt`, `getsockopt` | values and instructions of the lengths given |
//! | `filter.rs` | `ioctl(SIOCGSTAMPNS)` | room for a timespec |
//! | `handover.rs` | `OwnedFd::from_raw_fd` | a descriptor nobody else owns |
//! | `handover.rs` | `BorrowedFd::borrow_raw` | not -1; used for one call |
//! | `kill.rs` | `kill` | no pointers; guarded against groups, init, superd |
//! | `klog.rs` | `klogctl` | a writable buffer of the length given |
//! | `limits.rs` | `prlimit64` | valid pointers to two u64 each |
//! | `peer.rs` | `getsockopt` | a buffer of the length given |
//! | `pidfd.rs` | `pidfd_open`, `pidfd_send_signal`, `pidfd_getfd` | no pointers |
//! | `pidfd.rs` | `ioctl(PIDFD_GET_INFO)` | a struct of the size in the request |
//! | `pidfd.rs` | `OwnedFd::from_raw_fd` | a descriptor nobody else owns |
//! | `proc/scan.rs` | `getdents64` | a writable buffer of the length given |
//! | `proc.rs` | `sysconf` | no pointers |
//! | `signals.rs` | `register_sigaction` | an async-signal-safe action |
//! | `signals.rs` | `siginfo_t::si_pid`, `si_uid` | the signal was sent by a process |
//! | `signals.rs` | `sigaction` | valid or null pointers |
//! | `signals.rs` | `rt_sigaction` | room for any kernel's sigaction |
//! | `memory.rs` | `madvise`, `malloc_trim` | stack below all that is in use; code that nobody has written to |
//! | `memory.rs` | `__executable_start`, `etext` | only their addresses are used |
//! | `shared.rs` | `mmap`, `munmap` | a new mapping, nobody shortens its file |
//! | `shared.rs` | `readv`, `ioctl(FIONREAD)` | writable ranges of the lengths given |
//! | `spawn.rs` | `clone3`, `fork` | one thread, or fork(3)'s handlers |
//! | `spawn.rs` | `OwnedFd::from_raw_fd` | a descriptor nobody else owns |
//! | `tcp.rs` | `getsockopt`, `ioctl` | values of the lengths given |
//! | `terminal.rs` | `ioctl(TIOCGWINSZ)` | room for a winsize |
//! | `timer.rs` | `adjtimex` | a valid pointer; nothing is changed |
//! | `timer.rs` | `localtime_r` | valid pointers |
//! | `wait.rs` | `waitid` | writable siginfo |
//! | `wait.rs` | `siginfo_t::si_pid`, `si_status` | waitid filled it in |
//! | `wake.rs` | `write` | one readable byte; async-signal-safe |

use std::sync::atomic::{AtomicI32, Ordering};

pub mod cgroup;
mod child;
pub mod confine;
pub mod conntrack;
pub mod features;
pub mod file;
pub mod filter;
pub mod handover;
pub mod kill;
pub mod klog;
pub mod limits;
pub mod memory;
pub mod peer;
pub mod pidfd;
pub mod proc;
pub mod program;
pub mod shared;
pub mod signals;
mod sock_diag;
pub mod spawn;
pub mod subreaper;
pub mod tcp;
pub mod terminal;
pub mod timer;
pub mod wait;
pub mod wake;

/// superd's own pid, asked for once: the C library does not keep it. Not for a child on its way
/// to execve(2).
pub fn own_pid() -> i32 {
    static PID: AtomicI32 = AtomicI32::new(0);
    match PID.load(Ordering::Relaxed) {
        0 => {
            let pid = nix::unistd::getpid().as_raw();
            PID.store(pid, Ordering::Relaxed);
            pid
        }
        pid => pid,
    }
}

/// The errno of an I/O error; EIO when it has none.
pub fn errno_of(e: &std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// strerror(3) without the locale: `No such file or directory`.
pub fn strerror(errno: i32) -> &'static str {
    nix::errno::Errno::from_raw(errno).desc()
}
