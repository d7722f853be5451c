//! The supplementary groups that a peer of a unix socket had when it connected.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// More groups than this are not looked at; the kernel's own limit is 65,536.
const MOST: usize = 4096;

/// SO_PEERGROUPS (unix(7), Linux 4.13).
///
/// # Errors
/// ENOPROTOOPT on older kernels, ERANGE with more than 4096 groups.
pub fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut length = libc::socklen_t::try_from(groups.len() * 4).unwrap_or(0);
        // SAFETY: getsockopt(2) writes at most `length` bytes to the buffer, which has as
        // many, and the needed length to `length`.
        let r = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut length,
            )
        };
        let e = io::Error::last_os_error();
        let needed = length as usize / 4;
        match r {
            0 => {
                groups.truncate(needed);
                return Ok(groups);
            }
            _ if e.raw_os_error() == Some(libc::ERANGE)
                && needed > groups.len()
                && needed <= MOST =>
            {
                groups.resize(needed, 0);
            }
            _ => return Err(e),
        }
    }
}
