//! A program that is started for what it prints.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::OFlag;
use nix::spawn::{posix_spawn, PosixSpawnAttr, PosixSpawnFileActions};
use nix::sys::stat::Mode;
use nix::unistd::{pipe2, Pid};

/// A program to start. std's `Command` would do, but with all it can do besides it is 12 KB of
/// the router's file.
pub struct Program<'a> {
    /// Its path, and what else it is called with.
    pub argv: Vec<&'a OsStr>,
    /// Which of its output is heard.
    pub heard: Option<RawFd>,
    /// Which of its output is thrown away. The rest is ours.
    pub dropped: &'a [RawFd],
}

impl Program<'_> {
    /// Starts it, with nothing on its standard input; what is heard of it can be read.
    ///
    /// # Errors
    /// posix_spawn(3) and pipe(2).
    pub fn start(&self) -> io::Result<(Pid, Option<File>)> {
        let words = self.argv.iter().map(|word| CString::new(word.as_bytes()));
        let words = words.collect::<Result<Vec<CString>, _>>()?;
        let env = std::env::vars_os()
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()));
        let env = env.collect::<Result<Vec<CString>, _>>()?;
        let mut files = PosixSpawnFileActions::init()?;
        for fd in [&[0], self.dropped].concat() {
            files.add_open(fd, "/dev/null", OFlag::O_RDWR, Mode::empty())?;
        }
        let mut pipe = None;
        if let Some(fd) = self.heard {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            files.add_dup2(write.as_raw_fd(), fd)?;
            pipe = Some((File::from(read), write));
        }
        let path = words.first().ok_or(io::ErrorKind::NotFound)?;
        let attributes = PosixSpawnAttr::init()?;
        let pid = posix_spawn(path.as_c_str(), &files, &attributes, &words, &env)?;
        Ok((pid, pipe.map(|(read, _)| read)))
    }
}
