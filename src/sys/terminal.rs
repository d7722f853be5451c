//! How wide a terminal is (ioctl_tty(2)).

use std::os::fd::{AsRawFd, BorrowedFd};

/// Columns; 0: it is no terminal, or one that does not tell (a serial line).
pub fn columns(terminal: BorrowedFd<'_>) -> u16 {
    let mut size = std::mem::MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: TIOCGWINSZ writes a winsize; zeroes are valid.
    let size = unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr());
        size.assume_init()
    };
    size.ws_col
}
