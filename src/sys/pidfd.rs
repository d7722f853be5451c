//! pidfd_open(2) and friends: a process that cannot turn into another one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::kill::guard;
use super::wait::Ended;

/// A process, held. It is not kept alive by this, but its pid is never confused.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: i32,
}

impl PidFd {
    /// Opens a process. ENOSYS: the kernel is older than 5.3, use kill(2) and start times.
    /// ESRCH: it is gone. EPERM: superd must not signal it (0, 1, itself).
    pub fn open(pid: i32) -> io::Result<PidFd> {
        guard(pid)?;
        // SAFETY: pidfd_open(2) takes two numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        Ok(PidFd {
            fd: owned(fd)?,
            pid,
        })
    }

    /// Takes a descriptor of this pid that another program has left to this one.
    pub fn left(fd: OwnedFd, pid: i32) -> PidFd {
        PidFd { fd, pid }
    }

    /// The pid it was opened for.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal. ESRCH: the process ended, whoever has its pid now got nothing.
    pub fn send(&self, signal: i32) -> io::Result<()> {
        guard(self.pid)?;
        let null = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: pidfd_send_signal(2) takes a descriptor that lives as long as self; the
        // siginfo may be null.
        let r = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                null,
                0,
            )
        };
        match r {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A copy of a descriptor of the process (pidfd_getfd(2), Linux 5.6), close-on-exec.
    ///
    /// # Errors
    /// ENOSYS: the kernel is older. EPERM: superd may not look into the process, or a filter
    /// of system calls says no. EBADF: it has closed it. ESRCH: it is gone.
    pub fn copy_of(&self, fd: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: pidfd_getfd(2) takes three numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.fd.as_raw_fd(), fd, 0) };
        owned(fd)
    }

    /// Whether the process has ended: it is a zombie, or reaped.
    pub fn has_ended(&self) -> bool {
        self.ends_within(0)
    }

    /// Waits, at most so many milliseconds, until the process has ended; false: it has not,
    /// or a signal came. Not for the loop.
    pub fn ends_within(&self, ms: u16) -> bool {
        let mut one = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: poll(2) reads and writes one pollfd, which is ours.
        unsafe { libc::poll(&mut one, 1, i32::from(ms)) == 1 }
    }

    /// How a process that is gone ended, if the kernel still says (Linux 6.15,
    /// PIDFD_GET_INFO). None: it still runs, or nobody can say.
    pub fn ended(&self) -> Option<Ended> {
        let mut info = Info {
            mask: INFO_EXIT,
            ..Info::default()
        };
        // SAFETY: the request encodes the size of Info, and Info is plain numbers.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), GET_INFO, &mut info) };
        match r == 0 && info.mask & INFO_EXIT != 0 {
            true => Some(Ended::from_wait_status(info.exit_code)),
            false => None,
        }
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// `struct pidfd_info` as of PIDFD_INFO_SIZE_VER0 (include/uapi/linux/pidfd.h).
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroupid: u64,
    /// pid, tgid, ppid, then ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid.
    ids: [u32; 11],
    exit_code: i32,
}

const INFO_EXIT: u64 = 1 << 3;
const GET_INFO: libc::Ioctl = libc::_IOWR::<Info>(0xff, 11);

/// The result of a system call that returns a descriptor.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_descriptor_of_a_child_is_copied() {
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let copied = PidFd::open(child.id() as i32).and_then(|held| {
            assert_eq!(
                held.copy_of(9999).unwrap_err().raw_os_error(),
                Some(libc::EBADF)
            );
            held.copy_of(0)
        });
        match copied {
            Ok(fd) => {
                let own = nix::sys::stat::fstat(&fd).unwrap();
                let its = std::fs::metadata(format!("/proc/{}/fd/0", child.id())).unwrap();
                assert_eq!(own.st_ino, std::os::unix::fs::MetadataExt::ino(&its));
            }
            Err(e) => println!("skipped: pidfd_getfd: {e}"),
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_pidfd_signals_a_child_and_finds_it_gone_after_the_reaping() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let fd = match PidFd::open(child.id() as i32) {
            Ok(fd) => fd,
            Err(e) => {
                println!("skipped: pidfd: {e}");
                child.kill().unwrap();
                child.wait().unwrap();
                return;
            }
        };
        assert_eq!(fd.ended(), None);
        assert!(!fd.has_ended());
        fd.send(libc::SIGTERM).unwrap();
        child.wait().unwrap();
        assert!(fd.has_ended());
        assert_eq!(fd.send(0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        match fd.ended() {
            Some(e) => assert_eq!(e, Ended::Signal(libc::SIGTERM)),
            None => println!("skipped: exit status by pidfd: needs Linux 6.15"),
        }
    }
}
