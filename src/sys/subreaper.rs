//! PR_SET_CHILD_SUBREAPER (prctl(2)): orphans below superd become superd's children.

use std::io;

/// From now on a process below us whose parent ends becomes our child, and not init's.
/// Survives execve(2); children do not inherit it. Needless, and harmless, as PID 1.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}
