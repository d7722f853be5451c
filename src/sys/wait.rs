//! waitid(2): look at a zombie first, reap it later.
//!
//! A zombie keeps its pid, and with it the session of that number, from being used
//! again. The reaper peeks, looks for leftovers, and only then reaps.

use std::io;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// exit(3) with this status.
    Code(i32),
    /// Ended by this signal.
    Signal(i32),
}

impl Ended {
    /// From the status word of wait(2).
    pub fn from_wait_status(status: i32) -> Ended {
        match libc::WIFSIGNALED(status) {
            true => Ended::Signal(libc::WTERMSIG(status)),
            false => Ended::Code(libc::WEXITSTATUS(status)),
        }
    }
}

/// Some child that has ended and is not reaped, without reaping it. None when there is
/// no such child, or no child at all.
pub fn peek() -> io::Result<Option<(i32, Ended)>> {
    waitid(libc::P_ALL, 0, libc::WNOWAIT)
}

/// Whether this process is a child of ours, running or ended.
pub fn is_child(pid: i32) -> bool {
    let Ok(id) = libc::id_t::try_from(pid) else {
        return false;
    };
    raw_waitid(libc::P_PID, id, libc::WNOWAIT).is_ok()
}

/// Whether this child of ours has ended. It is not reaped.
pub fn has_ended(pid: i32) -> bool {
    let Ok(id) = libc::id_t::try_from(pid) else {
        return false;
    };
    matches!(raw_waitid(libc::P_PID, id, libc::WNOWAIT), Ok(Some(_)))
}

/// Whether this process has any child, running or ended.
pub fn has_children() -> bool {
    !matches!(raw_waitid(libc::P_ALL, 0, libc::WNOWAIT), Err(e) if e.raw_os_error() == Some(libc::ECHILD))
}

/// Reaps this child. None when it still runs or is no child of ours.
pub fn reap(pid: i32) -> io::Result<Option<Ended>> {
    let Ok(id) = libc::id_t::try_from(pid) else {
        return Ok(None);
    };
    Ok(waitid(libc::P_PID, id, 0)?.map(|(_, ended)| ended))
}

fn waitid(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<(i32, Ended)>> {
    match raw_waitid(kind, id, flags) {
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        other => other,
    }
}

/// ECHILD when there is no such child at all.
fn raw_waitid(
    kind: libc::idtype_t,
    id: libc::id_t,
    flags: i32,
) -> io::Result<Option<(i32, Ended)>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | flags;
    loop {
        // SAFETY: waitid(2) writes one siginfo_t to the pointer, which is valid for it.
        if unsafe { libc::waitid(kind, id, info.as_mut_ptr(), flags) } == 0 {
            break;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => continue,
            _ => return Err(io::Error::last_os_error()),
        }
    }
    // SAFETY: all zeroes is a valid siginfo_t, and a successful waitid(2) fills in the
    // SIGCHLD fields, or leaves the pid 0 when there is nothing.
    let (pid, code, status) = unsafe {
        let info = info.assume_init_ref();
        (info.si_pid(), info.si_code, info.si_status())
    };
    Ok(match (pid, code) {
        (0, _) => None,
        (pid, libc::CLD_EXITED) => Some((pid, Ended::Code(status))),
        (pid, _) => Some((pid, Ended::Signal(status))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Waits for a child of ours to end, without a time of its own.
    fn reap_soon(pid: i32) -> Ended {
        loop {
            if let Some(ended) = reap(pid).unwrap() {
                return ended;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    #[allow(clippy::zombie_processes)] // reaped by what is tested here
    fn statuses_and_signals_are_told_apart() {
        let exit = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        assert_eq!(reap_soon(exit.id() as i32), Ended::Code(7));
        // A real-time signal: nix's WaitStatus has no name for it.
        let rt = Command::new("sh")
            .args(["-c", "kill -40 $$; sleep 60"])
            .spawn()
            .unwrap();
        assert_eq!(reap_soon(rt.id() as i32), Ended::Signal(40));
    }

    #[test]
    fn what_is_no_child_is_not_reaped() {
        assert_eq!(reap(1).unwrap(), None);
        assert_eq!(reap(-1).unwrap(), None);
        assert_eq!(reap(i32::MAX).unwrap(), None);
    }

    #[test]
    fn status_words_of_wait_are_read() {
        assert_eq!(Ended::from_wait_status(3 << 8), Ended::Code(3));
        assert_eq!(Ended::from_wait_status(9), Ended::Signal(9));
        assert_eq!(Ended::from_wait_status(11 | 0x80), Ended::Signal(11));
    }
}
