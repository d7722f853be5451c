//! Signals that reach superd: clean dispositions at the start, handlers that say who sent.
//!
//! What a signal means is the latch's business; a handler here only passes numbers on.

use std::io;
use std::sync::OnceLock;

use nix::sys::signal::{SigSet, SigmaskHow};

use super::proc::read_capped;

/// Called inside a signal handler with the signal, and the pid and uid of the sender (0, 0
/// when a process did not send it). It must be async-signal-safe (signal-safety(7)):
/// atomics and write(2), no allocation, no lock. errno is preserved around it.
pub type Handler = fn(signal: i32, pid: i32, uid: u32);

/// Installs a handler for this signal, for good. Refused for KILL, STOP, ILL, FPE, SEGV.
pub fn on(signal: i32, handler: Handler) -> io::Result<()> {
    if signal_hook::consts::FORBIDDEN.contains(&signal) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let action = move |info: &libc::siginfo_t| {
        let errno = nix::errno::Errno::last_raw();
        let (pid, uid) = sender(info);
        handler(signal, pid, uid);
        nix::errno::Errno::set_raw(errno);
    };
    // SAFETY: the action is async-signal-safe: it reads the siginfo, reads and writes
    // errno, and calls a function of which `Handler` asks the same.
    unsafe { signal_hook_registry::register_sigaction(signal, action) }?;
    Ok(())
}

/// Who sent it: kill(2), sigqueue(3), tgkill(2); else nobody.
fn sender(info: &libc::siginfo_t) -> (i32, u32) {
    match info.si_code {
        // SAFETY: for these codes the kernel fills in pid and uid of the sender.
        libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL => unsafe {
            (info.si_pid(), info.si_uid())
        },
        _ => (0, 0),
    }
}

/// What superd ignores: SIGPIPE, because a client that hangs up must not end it, and SIGXFSZ, so
/// that a file at its limit (RLIMIT_FSIZE) is an error of the write, EFBIG, like a full disk.
const IGNORED: [i32; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// Undoes what whoever started superd has left: nothing is blocked, nothing is ignored but
/// `IGNORED`. A shell without job control
/// ignores INT and QUIT for us, init scripts ignore TERM, and an ignored CHLD would reap
/// our children behind our back. Handlers (Rust's own, for stack overflows) stay.
pub fn clean_start() -> io::Result<()> {
    clean_dispositions()?;
    Ok(SigSet::empty().thread_set_mask()?)
}

/// The same, but what is blocked stays blocked, for a program that is to take over the signals
/// of the one before.
pub fn clean_dispositions() -> io::Result<()> {
    let ignored = match dispositions() {
        Some((ignored, _)) => ignored,
        None => numbers(|signal| is_ignored(*signal)),
    };
    for signal in 1..=SIGNALS {
        let is_ignored = ignored & (1 << (signal - 1)) != 0;
        match IGNORED.contains(&signal) {
            true if !is_ignored => set_disposition(signal, libc::SIG_IGN)?,
            false if is_ignored => {
                set_disposition(signal, libc::SIG_DFL).ok(); // the C library keeps some
            }
            true | false => {}
        }
    }
    Ok(())
}

/// What this process ignores, and what it handles, in one look in place of one for each signal;
/// none without /proc.
fn dispositions() -> Option<(Numbers, Numbers)> {
    let text = read_capped("/proc/self/status", 4096).ok()?;
    Some((mask_in(&text, b"SigIgn:")?, mask_in(&text, b"SigCgt:")?))
}

fn mask_in(status: &[u8], name: &[u8]) -> Option<Numbers> {
    let mut lines = status.split(|b| *b == b'\n');
    let mask = lines.find_map(|l| l.strip_prefix(name))?;
    Numbers::from_str_radix(std::str::from_utf8(mask).ok()?.trim(), 16).ok()
}

/// Those of which this is so.
fn numbers(is_so: impl Fn(&i32) -> bool) -> Numbers {
    (1..=SIGNALS)
        .filter(is_so)
        .fold(0, |all, signal| all | 1 << (signal - 1))
}

/// For a plain command like superctl: nothing is blocked, nothing is ignored, SIGPIPE ends it.
pub fn reset_dispositions() -> io::Result<()> {
    clean_start()?;
    IGNORED
        .iter()
        .try_for_each(|signal| set_disposition(*signal, libc::SIG_DFL))
}

/// Blocks everything and returns what was blocked before.
pub(super) fn block_all() -> io::Result<SigSet> {
    Ok(SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?)
}

/// Puts back what [`block_all`] returned.
pub(super) fn restore(mask: &SigSet) {
    mask.thread_set_mask().ok(); // cannot fail: the set is valid
}

/// Signals by number: bit 0 is signal 1.
pub(super) type Numbers = u128;

/// The kernel's number of signals; its sigset has as many bits.
#[cfg(any(target_arch = "mips", target_arch = "mips64"))]
pub(super) const SIGNALS: i32 = 128;
/// The kernel's number of signals; its sigset has as many bits.
#[cfg(not(any(target_arch = "mips", target_arch = "mips64")))]
pub(super) const SIGNALS: i32 = 64;

/// The signals that are ignored or handled: those that a child has to set back. The C
/// library's own (32, 33) are among those asked for. Looked at before the first start: superd's
/// handlers are there by then, and stay.
pub(super) fn not_default() -> Numbers {
    static FOUND: OnceLock<Numbers> = OnceLock::new();
    *FOUND.get_or_init(|| match dispositions() {
        Some((ignored, handled)) => ignored | handled,
        None => numbers(is_not_default),
    })
}

fn is_not_default(signal: &i32) -> bool {
    let mut now = [0_u64; 20];
    // SAFETY: rt_sigaction(2) without a new action writes a kernel sigaction (at most
    // 160 bytes) to the buffer.
    let r = unsafe {
        let null = std::ptr::null::<u8>();
        let size = SIGNALS as usize / 8;
        libc::syscall(
            libc::SYS_rt_sigaction,
            *signal,
            null,
            now.as_mut_ptr(),
            size,
        )
    };
    r != 0 || now.iter().any(|word| *word != 0)
}

/// Whether this process ignores it.
pub fn is_ignored(signal: i32) -> bool {
    disposition(signal) == Some(libc::SIG_IGN)
}

fn disposition(signal: i32) -> Option<libc::sighandler_t> {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction(2) with a null new action only writes the old one; zeroes are valid.
    let r = unsafe { libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: as above: initialised either way.
    (r == 0).then(|| unsafe { old.assume_init() }.sa_sigaction)
}

fn set_disposition(signal: i32, to: libc::sighandler_t) -> io::Result<()> {
    let mut new = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a zeroed sigaction with SIG_DFL or SIG_IGN has no handler that could run;
    // the old action is not wanted.
    let r = unsafe {
        (*new.as_mut_ptr()).sa_sigaction = to;
        libc::sigaction(signal, new.as_ptr(), std::ptr::null_mut())
    };
    match r {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

    static SEEN: AtomicU32 = AtomicU32::new(0);
    static FROM: AtomicI32 = AtomicI32::new(0);

    fn note(_: i32, pid: i32, _: u32) {
        FROM.store(pid, Ordering::SeqCst);
        SEEN.fetch_add(1, Ordering::SeqCst);
    }

    #[test]
    fn a_handler_learns_who_sent_the_signal() {
        on(libc::SIGURG, note).unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGURG).unwrap();
        assert_eq!(SEEN.load(Ordering::SeqCst), 1);
        assert_eq!(FROM.load(Ordering::SeqCst), nix::unistd::getpid().as_raw());
        assert!(on(libc::SIGKILL, note).is_err());
        assert!(on(libc::SIGSEGV, note).is_err());
    }

    #[test]
    fn an_ignored_signal_is_default_after_a_clean_start() {
        set_disposition(libc::SIGUSR2, libc::SIG_IGN).unwrap();
        let is_ignored = |signal: i32| dispositions().unwrap().0 >> (signal - 1) & 1 == 1;
        assert!(is_ignored(libc::SIGUSR2));
        clean_start().unwrap();
        assert!(!is_ignored(libc::SIGUSR2) && is_ignored(libc::SIGPIPE));
        assert_eq!(disposition(libc::SIGUSR2), Some(libc::SIG_DFL));
        for signal in IGNORED {
            assert_eq!(disposition(signal), Some(libc::SIG_IGN));
        }
        assert_eq!(disposition(libc::SIGKILL), Some(libc::SIG_DFL));
    }

    #[test]
    fn what_a_child_has_to_set_back_is_what_the_kernel_lists() {
        on(libc::SIGWINCH, note).unwrap();
        let (ignored, handled) = dispositions().unwrap();
        let one = |signal: i32| 1 << (signal - 1);
        let asked = numbers(is_not_default);
        for signal in [libc::SIGWINCH, libc::SIGPIPE] {
            assert!((ignored | handled) & asked & one(signal) != 0, "{signal}");
        }
        // What was handled once, and is at its default now, needs nothing.
        assert_eq!((ignored | handled) & !asked & !one(libc::SIGUSR2), 0);
    }
}
