//! Resource limits by number (getrlimit(2)), with 64-bit values on every architecture.

use std::io;

use crate::json::{FromJson, ToJson};

/// RLIMIT_NOFILE, as a plain number.
pub const NOFILE: u32 = libc::RLIMIT_NOFILE as _;

/// One limit.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Limit {
    /// What is in force.
    pub soft: u64,
    /// Up to where an unprivileged process may raise it.
    pub hard: u64,
}

/// Our own limit of this RLIMIT_ number.
pub fn get(resource: u32) -> io::Result<Limit> {
    let mut old = Limit { soft: 0, hard: 0 };
    prlimit(resource, std::ptr::null(), &mut old)?;
    Ok(old)
}

/// Sets our own limit. EPERM: the hard limit may only be raised by root; EINVAL: soft is
/// above hard, or no such resource.
pub fn set(resource: u32, limit: Limit) -> io::Result<()> {
    prlimit(resource, &limit, std::ptr::null_mut())
}

/// Raises the soft limit of open files to the hard one and returns what it was, which is
/// what children are to get: programs that use select(2) break above 1024.
pub fn raise_open_files() -> io::Result<Limit> {
    let old = get(NOFILE)?;
    if old.soft < old.hard {
        let soft = old.hard;
        set(NOFILE, Limit { soft, ..old })?;
    }
    Ok(old)
}

fn prlimit(resource: u32, new: *const Limit, old: *mut Limit) -> io::Result<()> {
    // SAFETY: prlimit64 of pid 0 (ourselves) reads and writes two u64 each, which is what
    // Limit is; null means "not wanted".
    match unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, old) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_comes_back_as_it_was_set() {
        let core = libc::RLIMIT_CORE as _;
        let old = get(core).unwrap();
        set(core, old).unwrap();
        assert_eq!(get(core).unwrap(), old);
        assert!(get(9_999).is_err());
    }
}
