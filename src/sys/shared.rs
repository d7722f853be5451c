//! A page of a file, mapped: what is stored there outlives the process at once, without a
//! system call.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};

/// Words in a page; a page of 4 KiB is the smallest there is.
const WORDS: usize = 1024;
const BYTES: usize = WORDS * size_of::<u32>();

/// The page. Not `Send`: one thread reads and writes it.
pub struct SharedPage {
    page: NonNull<[AtomicU32; WORDS]>,
}

impl SharedPage {
    /// Maps the file, which is made, and is all zeros, if it is not there or not of this
    /// length. Nobody else may be able to shorten it: that would be SIGBUS.
    ///
    /// # Errors
    /// Of open(2), write(2) (no space) and mmap(2).
    pub fn open(path: &Path) -> io::Result<SharedPage> {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW;
        let mut file = super::file::open(path, flags, 0o600)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        if meta.len() != BYTES as u64 {
            file.set_len(0)?;
            // Space that is written is there: a full disk is an error here, not a signal later.
            if let Err(e) = file.write_all(&[0; BYTES]) {
                file.set_len(0).ok(); // likewise full
                return Err(e);
            }
        }
        let length = NonZeroUsize::new(BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        Ok(SharedPage {
            page: map(&file, length, both)?.cast(),
        })
    }

    /// Its words.
    pub fn words(&self) -> &[AtomicU32; WORDS] {
        // SAFETY: the page is mapped for as long as this lives, aligned to its size, and any
        // bits are a u32; whoever else maps the file is held off by superd's lock.
        unsafe { self.page.as_ref() }
    }

    /// Reads at most one byte to the beginning of this word, and what follows into `rest`.
    ///
    /// # Errors
    /// Of readv(2); `InvalidInput` for a word that is not there.
    pub fn read_beside(
        &self,
        fd: BorrowedFd<'_>,
        word: usize,
        rest: &mut [u8],
    ) -> io::Result<usize> {
        let first = self.words().get(word).ok_or(io::ErrorKind::InvalidInput)?;
        let parts = [
            libc::iovec {
                iov_base: first.as_ptr().cast(),
                iov_len: 1,
            },
            libc::iovec {
                iov_base: rest.as_mut_ptr().cast(),
                iov_len: rest.len(),
            },
        ];
        // SAFETY: both ranges are writable for the whole call: the first is one byte of an
        // atomic, which may be written behind a shared reference, the second is borrowed.
        let n = unsafe { libc::readv(fd.as_raw_fd(), parts.as_ptr(), 2) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing borrows it any more.
        unsafe { munmap(self.page.cast(), BYTES) }.ok(); // fails for no such mapping only
    }
}

fn map(file: &File, length: NonZeroUsize, how: ProtFlags) -> io::Result<NonNull<libc::c_void>> {
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let page = unsafe { mmap(None, length, how, MapFlags::MAP_SHARED, file, 0) }?;
    Ok(page)
}

/// Bytes in a pipe that wait to be read (ioctl_fionread, pipe(7)).
///
/// # Errors
/// Of ioctl(2): what cannot tell.
pub fn waiting_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut n) };
    match rc {
        0 => Ok(usize::try_from(n).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}
