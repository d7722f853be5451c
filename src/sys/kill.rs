//! kill(2), with the one guard that every signal of superd passes.
//!
//! Signals go to single processes only. Groups and sessions are the caller's loop: kill(2)
//! with 0, -1 or a negative number reaches processes that nobody has looked at.

use std::io;

use super::own_pid;

/// Whether superd may ever signal this pid: never 0 (its own group), never a negative one
/// (other groups, everybody), never 1, never itself.
pub fn may_signal(pid: i32) -> bool {
    pid > 1 && pid != own_pid()
}

/// The guard as an error, for the functions that send.
pub(super) fn guard(pid: i32) -> io::Result<()> {
    match may_signal(pid) {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

/// Sends `signal` (0 to 64) to one process. The caller has made sure that the pid still
/// means the process it has in mind: a child of ours that is not reaped, or a process
/// whose start time was just read. Errors: EPERM for a pid that [`may_signal`] refuses,
/// else those of kill(2).
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    guard(pid)?;
    // nix's enum ends at 31; real-time signals need the number.
    // SAFETY: kill(2) takes two numbers; the guard has refused groups, init and ourselves.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_init_and_superd_itself_are_never_signalled() {
        let own = own_pid();
        for pid in [0, 1, -1, -2, -own, own, i32::MIN] {
            assert!(!may_signal(pid), "{pid}");
            assert_eq!(
                kill(pid, libc::SIGTERM).unwrap_err().raw_os_error(),
                Some(libc::EPERM)
            );
            assert!(super::super::pidfd::PidFd::open(pid).is_err());
        }
        assert!(may_signal(own + 1));
    }
}
