//! Opening a file with one system call.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{openat, OFlag, AT_FDCWD};
use nix::sys::stat::Mode;

/// Opens a file with the flags of open(2), and O_CLOEXEC. What it makes gets this mode.
///
/// By openat(2): the open(3) of musl sets close-on-exec once more by a call of its own, for the
/// sake of kernels that are older than the flag.
///
/// # Errors
/// Of open(2); it begins again when a signal has interrupted it.
pub fn open(path: &Path, flags: i32, mode: u32) -> io::Result<File> {
    let flags = OFlag::from_bits_retain(flags | libc::O_CLOEXEC | libc::O_LARGEFILE);
    let mode = Mode::from_bits_retain(mode);
    loop {
        match openat(AT_FDCWD, path, flags, mode) {
            Err(Errno::EINTR) => {}
            opened => return Ok(opened?.into()),
        }
    }
}

/// The same for reading alone.
///
/// # Errors
/// As [`open`].
pub fn open_to_read(path: impl AsRef<Path>) -> io::Result<File> {
    open(path.as_ref(), libc::O_RDONLY, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{fcntl, FcntlArg};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_not_passed_on_and_has_the_mode_that_was_said() {
        let path = std::env::temp_dir().join(format!("superd-file-{}", std::process::id()));
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let file = open(&path, flags, 0o600).unwrap();
        assert_eq!(fcntl(&file, FcntlArg::F_GETFD), Ok(libc::FD_CLOEXEC));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let again = open(&path, flags, 0o600).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        std::fs::remove_file(&path).unwrap();
        let gone = open_to_read(&path).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
