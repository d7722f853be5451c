//! How far the log has come in a service's output, kept where a successor finds it.
//!
//! What is read from a pipe is nowhere else any more. So output that goes to the log is
//! first looked at (tee(2)), passed on line by line, and only then taken out of the pipe. If
//! superd is killed in between, the next one finds it all still there, and in the page
//! `carry` of the run directory how much of it was passed on: no line is lost, and none is
//! said twice. The beginning of a line whose end has not come stays in the pipe.
//!
//! A line counts as passed on right before the system call that does it, because who is
//! killed while sending a datagram or writing a line to a pipe has done it. Not so a file: a
//! write(2) to it can end before it begins, or at the end of a page. There the length of the
//! file tells. Whether the last bytes were
//! taken out is told by the byte where the first of them lands: before that it is another.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::{fcntl, tee, FcntlArg, OFlag, SpliceFFlags};
use nix::unistd::{pipe2, read};

use super::{fifo, file};
use crate::sys::shared::{waiting_bytes, SharedPage};

/// Name of the page in the run directory.
pub const FILE: &str = "carry";

// The words of the page.
const STATE: usize = 0;
const PASSED: usize = 1;
const FIRST: usize = 2;
const LANDING: usize = 3;
const LENGTH: usize = 4;
// What PASSED will be when so many bytes are in the file behind this place; 0: no such try.
const TRY: usize = 5;
const TRY_AT: usize = 6;
const TRY_BYTES: usize = 7;
// How long the path of that file is; 0: it is superd's own log.
const PLACE_LENGTH: usize = NAME + NAME_CAP;
/// A letter in each word.
const PLACE: usize = PLACE_LENGTH + 1;
/// As `config/output.rs` has it.
const PLACE_CAP: usize = 500;
/// A letter in each word.
const NAME: usize = 8;
/// Names of files are not longer.
const NAME_CAP: usize = 255;

/// Somebody's output is being passed on. Another number is another layout.
const BUSY: u32 = 0x5355_0002;

/// The page, and the pipe that output is copied to.
pub struct Carry {
    page: SharedPage,
    path: PathBuf,
    out: OwnedFd,
    into: OwnedFd,
    /// Bytes that will be passed on with the next line.
    due: Cell<Option<u32>>,
    is_cut: Cell<bool>,
}

impl Carry {
    /// In this run directory. What an earlier superd has passed on of somebody's output and
    /// not taken out of the pipe is taken out now. `log`: how long the file was that the log
    /// goes to, if that is one, before this superd wrote to it.
    ///
    /// # Errors
    /// Of making the page or the pipe; and of tee(2) where it may not be called.
    pub fn open(run_dir: &Path, log: Option<u64>) -> io::Result<Carry> {
        let path = run_dir.join(FILE);
        let page = SharedPage::open(&path)?;
        let (out, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // As many buffers as the other one may have.
        fcntl(&out, FcntlArg::F_SETPIPE_SZ(fifo::SIZE)).ok(); // then a copy is shorter
        let (empty, _other) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        match tee(&empty, &into, 1, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Err(nix::Error::EAGAIN) | Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        let carry = Carry {
            page,
            path,
            out,
            into,
            due: Cell::new(None),
            is_cut: Cell::new(false),
        };
        carry.resume(run_dir, log);
        Ok(carry)
    }

    /// superd ends, and there is nothing to be carried over.
    pub fn remove(&self) {
        std::fs::remove_file(&self.path).ok(); // somebody else did
    }

    /// Copies up to `buf` bytes of what is in a pipe, and leaves them there.
    ///
    /// # Errors
    /// `WouldBlock`: it is empty.
    pub fn look(&self, pipe: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
        let how = SpliceFFlags::SPLICE_F_NONBLOCK;
        let n = tee(pipe, &self.into, buf.len(), how)?;
        let mut copied = 0;
        while copied < n {
            let room = buf.get_mut(copied..n).unwrap_or_default();
            match read(&self.out, room) {
                Ok(more) if more > 0 => copied += more,
                Err(nix::Error::EINTR) => {}
                // Cannot be: it is there.
                Ok(_) | Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(copied)
    }

    /// The last line in the log, which is a file, is without its end. Said once.
    pub fn take_cut(&self) -> bool {
        self.is_cut.take()
    }

    /// From here on these bytes, which are at the head of the service's pipe, are passed on.
    pub fn begin(&self, service: &str, bytes: &[u8]) {
        let first = bytes.first().copied().unwrap_or(0);
        self.set(PASSED, 0);
        self.set(TRY, 0);
        self.set(PLACE_LENGTH, 0);
        self.set(FIRST, first.into());
        self.poison(first);
        let length = service.len().min(NAME_CAP);
        self.set(LENGTH, u32::try_from(length).unwrap_or(0));
        for (n, letter) in service.bytes().take(length).enumerate() {
            self.set(NAME + n, letter.into());
        }
        self.set(STATE, BUSY);
    }

    /// With what is passed on next, it is so many of them.
    pub fn due(&self, bytes: usize) {
        self.due.set(u32::try_from(bytes).ok());
    }

    /// It is passed on now.
    pub fn pass(&self) {
        if let Some(bytes) = self.due.take() {
            self.set(PASSED, bytes);
            self.set(TRY, 0);
        }
    }

    /// It is passed on when these bytes are in a file that is so long. That they are is said
    /// by [`Carry::pass`].
    pub fn attempt(&self, file: u64, bytes: usize) {
        if let Some(due) = self.due.get() {
            self.set(TRY_AT, file as u32); // the lower half is enough
            self.set(TRY_BYTES, u32::try_from(bytes).unwrap_or(u32::MAX));
            self.set(TRY, due);
        }
    }

    /// The same for a file of a service's own, at this path.
    pub fn attempt_at(&self, path: &str, file: u64, bytes: usize) {
        let length = path.len().min(PLACE_CAP);
        for (n, letter) in path.bytes().take(length).enumerate() {
            self.set(PLACE + n, letter.into());
        }
        self.set(PLACE_LENGTH, u32::try_from(length).unwrap_or(0));
        self.attempt(file, bytes);
    }

    /// They are passed on: takes so many out of the pipe, into `bin`.
    ///
    /// # Errors
    /// Of readv(2).
    pub fn take(&self, pipe: BorrowedFd<'_>, bytes: usize, bin: &mut [u8]) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let rest = bin.get_mut(..left - 1).unwrap_or_default();
            match self.page.read_beside(pipe, LANDING, rest) {
                Ok(0) => break,
                Ok(n) => left = left.saturating_sub(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.set(STATE, 0);
                    return Err(e);
                }
            }
        }
        self.set(STATE, 0);
        Ok(())
    }

    fn resume(&self, run_dir: &Path, log: Option<u64>) {
        let mut passed = self.get(PASSED) as usize;
        if self.get(STATE) == BUSY && self.get(TRY) > 0 && self.get(PLACE_LENGTH) > 0 {
            if file::settle(&self.place(), self.get(TRY_AT), self.get(TRY_BYTES)) {
                passed = self.get(TRY) as usize;
            }
        } else if let (BUSY, Some(log), 1..) = (self.get(STATE), log, self.get(TRY)) {
            let more = (log as u32).wrapping_sub(self.get(TRY_AT));
            if more >= self.get(TRY_BYTES) {
                passed = self.get(TRY) as usize;
            } else {
                self.is_cut.set(more > 0);
            }
        }
        let was_taken = self.landed() == (self.get(FIRST) & 0xff) as u8;
        if self.get(STATE) == BUSY && passed > 0 && !was_taken {
            // Not there any more, or something else: nothing to be taken out.
            if let Some(pipe) = self.pipe(run_dir) {
                let there = waiting_bytes(pipe.as_fd()).unwrap_or(0);
                if passed <= there {
                    // If that cannot be, they are said twice.
                    self.take(pipe.as_fd(), passed, &mut vec![0; passed]).ok();
                }
            }
        }
        self.set(STATE, 0);
    }

    fn letters(&self, at: usize, length: usize) -> Vec<u8> {
        let letter = |n| (self.get(at + n) & 0xff) as u8;
        (0..length).map(letter).collect()
    }

    fn place(&self) -> String {
        let length = (self.get(PLACE_LENGTH) as usize).min(PLACE_CAP);
        String::from_utf8_lossy(&self.letters(PLACE, length)).into_owned()
    }

    /// The pipe of the service that is noted.
    fn pipe(&self, run_dir: &Path) -> Option<File> {
        let length = (self.get(LENGTH) as usize).min(NAME_CAP);
        let name = self.letters(NAME, length);
        let name = std::str::from_utf8(&name).ok()?;
        crate::config::service_name(name).ok()?;
        fifo::find(&fifo::path(run_dir, name))
    }

    fn word(&self, n: usize) -> Option<&AtomicU32> {
        self.page.words().get(n)
    }

    fn get(&self, n: usize) -> u32 {
        self.word(n).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// In this order also for who finds it later: the compiler must not change it, and what
    /// a processor has done is done when its thread has ended.
    fn set(&self, n: usize, value: u32) {
        if let Some(word) = self.word(n) {
            word.store(value, Ordering::Release);
        }
    }

    fn poison(&self, first: u8) {
        self.set(LANDING, u32::from_ne_bytes([!first, 0, 0, 0]));
    }

    fn landed(&self) -> u8 {
        let [first, ..] = self.get(LANDING).to_ne_bytes();
        first
    }
}

/// Whether a write to a pipe would block.
pub fn is_full(write: BorrowedFd<'_>) -> bool {
    use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
    let mut room = [PollFd::new(write.as_fd(), PollFlags::POLLOUT)];
    poll(&mut room, PollTimeout::ZERO).is_ok_and(|n| n == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Read, Write};

    struct Home(PathBuf);

    impl Home {
        fn new(name: &str) -> Home {
            let dir =
                std::env::temp_dir().join(format!("superd-carry-{}-{name}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            Home(dir)
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn rest(mut pipe: File) -> Vec<u8> {
        let mut text = vec![0; 1000];
        let n = pipe.read(&mut text).unwrap_or(0);
        text.truncate(n);
        text
    }

    /// "ab\ncd\nef" is in the pipe, both lines are passed on, and superd is killed after so many steps.
    fn killed_after(steps: usize) -> (Vec<u8>, Vec<u8>) {
        let home = Home::new(&format!("steps{steps}"));
        let (pipe, write) = fifo::open(&home.0.join("x.out")).unwrap();
        File::from(write).write_all(b"ab\ncd\nef").unwrap();
        let mut said = Vec::new();
        {
            let carry = Carry::open(&home.0, None).unwrap();
            let mut buf = [0; 100];
            let n = carry.look(pipe.as_fd(), &mut buf).unwrap();
            assert_eq!(&buf[..n], b"ab\ncd\nef");
            let mut step = 0..steps;
            let mut go_on = || step.next().is_some();
            let mut live = || {
                for (due, line) in [(0, b"" as &[u8]), (3, b"ab\n"), (6, b"cd\n")] {
                    if due == 0 {
                        go_on().then(|| carry.begin("x", &buf[..n]))?;
                        continue;
                    }
                    carry.due(due);
                    go_on().then(|| carry.pass())?;
                    said.extend_from_slice(line);
                }
                go_on().then(|| carry.take(pipe.as_fd(), 6, &mut [0; 100]).unwrap())
            };
            live();
        }
        for _ in 0..3 {
            let next = Carry::open(&home.0, None).unwrap();
            assert_eq!(next.get(STATE), 0);
        }
        (said, rest(pipe))
    }

    #[test]
    fn whenever_superd_is_killed_each_line_is_said_once() {
        for steps in 0..=4 {
            let (said, left) = killed_after(steps);
            let all = [said, left].concat();
            assert_eq!(String::from_utf8_lossy(&all), "ab\ncd\nef", "{steps}");
        }
    }

    #[test]
    fn killed_between_taking_and_noting_it_takes_nothing_twice() {
        let home = Home::new("noting");
        let (pipe, write) = fifo::open(&home.0.join("x.out")).unwrap();
        let mut write = File::from(write);
        write.write_all(b"ab\n").unwrap();
        let carry = Carry::open(&home.0, None).unwrap();
        carry.begin("x", b"ab\n");
        carry.due(3);
        carry.pass();
        // As `take` does, without its last line.
        let n = carry
            .page
            .read_beside(pipe.as_fd(), LANDING, &mut [0; 2])
            .unwrap();
        assert_eq!(n, 3);
        write.write_all(b"cd\n").unwrap();
        Carry::open(&home.0, None).unwrap();
        assert_eq!(rest(pipe), b"cd\n");
    }

    #[test]
    fn of_a_file_its_length_tells() {
        // Nothing was written, a part, all, and more.
        for (n, (more, left, is_cut)) in [
            (0, "ab\ncd\n", false),
            (4, "ab\ncd\n", true),
            (7, "cd\n", false),
            (90, "cd\n", false),
        ]
        .into_iter()
        .enumerate()
        {
            let home = Home::new(&format!("file{n}"));
            let (pipe, write) = fifo::open(&home.0.join("x.out")).unwrap();
            File::from(write).write_all(b"ab\ncd\n").unwrap();
            let before = u64::from(u32::MAX) - 2;
            {
                let carry = Carry::open(&home.0, None).unwrap();
                carry.begin("x", b"ab\ncd\n");
                carry.due(3);
                carry.attempt(before, 7);
            }
            let next = Carry::open(&home.0, Some(before + more)).unwrap();
            assert_eq!(next.take_cut(), is_cut, "{more}");
            assert_eq!(rest(pipe), left.as_bytes(), "{more}");
        }
    }

    #[test]
    fn what_cannot_be_is_not_believed() {
        let home = Home::new("strange");
        let (pipe, write) = fifo::open(&home.0.join("x.out")).unwrap();
        File::from(write).write_all(b"ab\n").unwrap();
        let carry = Carry::open(&home.0, None).unwrap();
        for (name, passed) in [("x", u32::MAX), ("../x", 1), ("other", 1)] {
            carry.begin(name, b"ab\n");
            carry.set(PASSED, passed);
            Carry::open(&home.0, None).unwrap();
        }
        assert_eq!(rest(pipe), b"ab\n");
        // Of another length, or no file at all.
        fs::write(home.0.join(FILE), "short").unwrap();
        assert_eq!(Carry::open(&home.0, None).unwrap().get(STATE), 0);
        fs::remove_file(home.0.join(FILE)).unwrap();
        fs::create_dir(home.0.join(FILE)).unwrap();
        assert!(Carry::open(&home.0, None).is_err());
    }
}
