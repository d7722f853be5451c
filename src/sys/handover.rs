//! What one program hands to the next by execve(2): descriptors, a file in memory, and the
//! signals that arrive in between.
//!
//! Descriptors are close-on-exec until the moment before; who takes them over makes them so
//! again before anything else.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::signal::SigSet;

use super::signals;
use crate::map::Map;

/// An empty file that no directory has, close-on-exec (memfd_create(2), Linux 3.17).
///
/// # Errors
/// ENOSYS on older kernels, EMFILE, ENFILE, ENOMEM.
pub fn memory_file(name: &str) -> io::Result<File> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC)?;
    Ok(File::from(fd))
}

/// Descriptors that another program has left to this one. Each can be taken once; what is not
/// taken is closed.
#[derive(Debug, Default)]
pub struct Inherited(Map<RawFd, OwnedFd>);

impl Inherited {
    /// Takes these over and makes them close-on-exec. To be called before this program has
    /// opened anything by itself.
    ///
    /// # Errors
    /// EBADF when one of them is not open, EINVAL when one is below 3.
    pub fn take_all(numbers: &[RawFd]) -> io::Result<Inherited> {
        let mut all = Inherited::default();
        for fd in numbers {
            if *fd < 3 {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            set_close_on_exec(*fd, true)?;
            all.0.entry(*fd).or_insert_with(|| {
                // SAFETY: it is open, nobody in this program has opened it, and a number that
                // is named twice is owned once.
                unsafe { OwnedFd::from_raw_fd(*fd) }
            });
        }
        Ok(all)
    }

    /// The descriptor of this number.
    ///
    /// # Errors
    /// EBADF when it was not left, or is taken already.
    pub fn take(&mut self, fd: RawFd) -> io::Result<OwnedFd> {
        let taken = self.0.remove(&fd);
        taken.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

/// Closes every descriptor from 3 on: when what was left cannot be used, and those that whoever
/// has started superd forgot (an init script's lock, which every later script would wait for).
/// To be called before this program has opened anything by itself.
pub fn close_what_was_left() {
    super::child::close_others(3, &[]);
}

fn set_close_on_exec(fd: RawFd, on: bool) -> io::Result<()> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: not -1; it is borrowed for this one call, which says EBADF if it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let flag = if on {
        FdFlag::FD_CLOEXEC
    } else {
        FdFlag::empty()
    };
    fcntl(fd, FcntlArg::F_SETFD(flag))?;
    Ok(())
}

/// The signals that were blocked before [`hold_signals`].
#[derive(Debug)]
pub struct Held(SigSet);

/// From here on no handler runs; what arrives waits, also for the program that is executed
/// next (signal(7): the mask and what is pending outlive execve(2)).
///
/// # Errors
/// Of sigprocmask(2); there is no reason for one.
pub fn hold_signals() -> io::Result<Held> {
    Ok(Held(signals::block_all()?))
}

/// Ends [`hold_signals`] in the same program.
pub fn release_signals(held: &Held) {
    signals::restore(&held.0);
}

/// Nothing is blocked any more. For the program that was executed, when its handlers are there.
pub fn unblock_signals() {
    signals::restore(&SigSet::empty());
}

/// Becomes another program, to which these descriptors stay open. Returns only if that fails;
/// then everything is as before.
pub fn execute(
    program: &Path,
    args: Vec<OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    keep: &[RawFd],
) -> io::Error {
    let word = |w: OsString| CString::new(w.into_vec());
    let pair = |(name, value): (OsString, OsString)| {
        CString::new([name.into_vec(), value.into_vec()].join(&b'='))
    };
    let path = CString::new(program.as_os_str().to_owned().into_vec());
    let args: Result<Vec<CString>, _> = args.into_iter().map(word).collect();
    let environment: Result<Vec<CString>, _> = environment.map(pair).collect();
    let (Ok(path), Ok(args), Ok(environment)) = (path, args, environment) else {
        return io::ErrorKind::InvalidInput.into(); // what a program was started with has no NUL
    };
    let mut failed = None;
    for fd in keep {
        failed = set_close_on_exec(*fd, false).err().or(failed);
    }
    let error = match failed {
        Some(e) => e,
        None => match nix::unistd::execve(&path, &args, &environment) {
            Ok(never) => match never {},
            Err(e) => e.into(),
        },
    };
    for fd in keep {
        set_close_on_exec(*fd, true).ok(); // it is open: it was a moment ago
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::fd::{AsRawFd, IntoRawFd};

    fn is_close_on_exec(fd: RawFd) -> bool {
        // SAFETY: the caller's descriptor is open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl(fd, FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC != 0
    }

    #[test]
    fn an_exec_that_fails_leaves_everything_as_it_was() {
        let mut file = memory_file("test").unwrap();
        file.write_all(b"x").unwrap();
        let none = Path::new("/nonexistent/program");
        let error = execute(none, Vec::new(), std::iter::empty(), &[file.as_raw_fd()]);
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert!(is_close_on_exec(file.as_raw_fd()));
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn what_was_left_is_taken_once() {
        let fd = memory_file("test").unwrap().into_raw_fd();
        set_close_on_exec(fd, false).unwrap();
        let mut left = Inherited::take_all(&[fd, fd]).unwrap();
        assert!(is_close_on_exec(fd));
        assert!(left.take(fd).is_ok());
        assert_eq!(left.take(fd).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(Inherited::take_all(&[1]).is_err());
        assert!(Inherited::take_all(&[i32::MAX]).is_err());
    }
}
