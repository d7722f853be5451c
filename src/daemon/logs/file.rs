//! A service's output in a file of its own, turned over when it is full. Not the ring, which
//! is kept beside it.
//!
//! What a service writes goes from its pipe into the file by splice(2): what is in the file
//! is out of the pipe and the other way round, also when superd is killed in between, because
//! the kernel looks for signals before it takes the bytes out, and then takes exactly what it
//! has written. So no line is lost and none is there twice. In a flood it is not even looked at:
//! only where a file ends must it be known where a line does. Lines with time stamps are not the
//! bytes of the pipe: they are written, and the page `carry` tells a successor how far.
//!
//! A write waits for nobody but the file system (a hung disk blocks superd; the manual says so). What does not get through (disk full,
//! read-only, no directory, a strange thing at this place) is dropped and counted, said once,
//! and tried again each second. Nothing is made, renamed or written by way of a link that
//! somebody else could have put there; `place` holds the directory open.
//!
//! FILE.1 is the newest of those that are full. A superd that is killed while it renames
//! leaves a gap in the numbers, and the next turn closes it: nothing is written over. A number
//! may be one of a file that was made smaller (`pack.rs`), and for a moment of both.
//!
//! (Past 400 lines because each failure on the way to the disk is handled where it happens.)

mod pack;
mod place;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use nix::fcntl::{renameat, splice, SpliceFFlags};

pub use pack::Packing;
use place::Place;

use super::carry::Carry;
use super::{LARGE, LINE_CAP, SEEN, SMALL};
use crate::config::model::FileOutput;
use crate::daemon::rundir::plain;
use crate::machine::time::Tick;
use crate::sys::timer::wall;

/// How often it is looked whether the file is still the one at this path, and tried again
/// after a failure.
const LOOK: Duration = Duration::from_secs(1);

/// How often a failure is said, at most.
const SAY: Duration = Duration::from_secs(60);

/// A stamp and a newline.
const STAMP: usize = 26;

/// Files with a higher number than `keep` that are removed at once.
const LEFTOVERS: u32 = 100;

/// The file.
pub struct LogFile {
    service: Rc<str>,
    spec: FileOutput,
    open: Option<Open>,
    /// Not looked at, or tried again, before this.
    look_at: Tick,
    /// The last try has failed.
    is_blocked: bool,
    /// Lines that were dropped since that was said.
    lost: u64,
    /// A failure was said, and not yet that it is over.
    has_said: bool,
    say_at: Tick,
    /// A line has lost its end: the next one must not be joined to it.
    is_cut: bool,
    /// Lines with their stamps that are not written yet.
    stamped: Vec<u8>,
    stamp: Stamp,
    /// There may be a full file to be made smaller.
    is_due: bool,
    /// There may be files that were made smaller.
    has_packed: bool,
    /// At the last turn, since the file was looked at, each number up to `keep` had its file.
    is_complete: bool,
    /// That it cannot be was said.
    has_said_unpacked: bool,
    said: Vec<String>,
}

struct Open {
    file: File,
    place: Place,
    length: u64,
    /// Its last byte ends a line.
    at_line: bool,
}

/// The text of a time, made once per turn.
#[derive(Default)]
struct Stamp {
    of: Option<Tick>,
    text: String,
}

impl LogFile {
    /// Nothing is opened before the first line.
    pub fn new(service: Rc<str>, spec: FileOutput) -> LogFile {
        LogFile {
            service,
            spec,
            open: None,
            look_at: Tick(0),
            is_blocked: false,
            lost: 0,
            has_said: false,
            say_at: Tick(0),
            is_cut: false,
            stamped: Vec::new(),
            stamp: Stamp::default(),
            is_due: false,
            has_packed: false,
            is_complete: false,
            has_said_unpacked: false,
            said: Vec::new(),
        }
    }

    /// What it was made of.
    pub fn spec(&self) -> &FileOutput {
        &self.spec
    }

    /// Each line has its time before it, and goes through [`LogFile::add`].
    pub fn has_stamps(&self) -> bool {
        self.spec.timestamps
    }

    /// The next line goes to what is at the path then.
    pub fn reopen(&mut self) {
        self.open = None;
        self.look_at = Tick(0);
    }

    /// What there is to be said.
    pub fn take_said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }

    /// There may be a full file to be made smaller.
    pub fn is_due(&self) -> bool {
        self.is_due && !self.spec.compress.is_empty()
    }

    /// The same, said once.
    pub fn take_due(&mut self) -> bool {
        let is_due = self.is_due();
        self.is_due = false;
        is_due
    }

    /// Begins with it, if there is one.
    pub fn begin_packing(&mut self) -> Option<Packing> {
        let place = Place::find(Path::new(&self.spec.path))
            .map_err(|e| io::Error::other(format!("its directory: {}", plain(&e))));
        match place.and_then(|place| Packing::begin(place, self.spec.keep)) {
            Ok(packing) => packing,
            Err(e) => {
                self.say_unpacked(&plain(&e));
                None
            }
        }
    }

    /// The program has ended, well or not.
    pub fn end_packing(&mut self, packing: Packing, result: Result<(), String>) {
        let result = match result {
            Ok(()) => packing.finish(self.spec.keep).map_err(|e| plain(&e)),
            Err(why) => {
                packing.abandon();
                Err(why)
            }
        };
        match result {
            Ok(()) => {
                self.has_packed = true;
                self.has_said_unpacked = false;
                self.is_due = true; // more may have come
            }
            // Tried again when the next file is full.
            Err(why) => self.say_unpacked(&why),
        }
    }

    fn say_unpacked(&mut self, why: &str) {
        if !std::mem::replace(&mut self.has_said_unpacked, true) {
            let (service, path) = (&self.service, &self.spec.path);
            let program = self.spec.compress.first().map_or("", String::as_str);
            self.said.push(format!(
                "{service}: log file {path}: compressing with {program}: {why}; full files stay \
                 as they are"
            ));
        }
    }

    /// Passes these bytes, which are at the head of the pipe, to the file. Afterwards they are
    /// not in the pipe any more, whatever has happened.
    pub fn pass(&mut self, pipe: BorrowedFd<'_>, chunk: &[u8], now: Tick) {
        self.put(chunk, Some(pipe), now);
    }

    /// The same for at most so many bytes that nobody has looked at; how many it were. None
    /// where it depends on the bytes how they go on: near the end of a file, and after a failure.
    pub fn pass_unseen(&mut self, pipe: BorrowedFd<'_>, most: usize, now: Tick) -> usize {
        // Less is not worth a system call.
        if most < SEEN || !self.is_ready(now) {
            return 0;
        }
        let bytes = most.min(self.room().saturating_sub(2 * LINE_CAP));
        let (done, result) = self.splice(pipe, bytes);
        if let (true, Some(open)) = (done > 0, &mut self.open) {
            let mut last = [0];
            let at = open.length.saturating_sub(1);
            open.at_line = open.file.read_at(&mut last, at).is_ok() && last == [b'\n'];
        }
        match result {
            Ok(()) => self.succeed(),
            Err(e) if is_no_splice(&e) => {}
            Err(e) => self.fail("writing", &e, now),
        }
        done
    }

    /// The last bytes of the file, at most so many.
    pub fn last(&self, bytes: usize) -> Vec<u8> {
        let mut last = vec![0; bytes];
        let from = |o: &Open| o.length.saturating_sub(bytes as u64);
        let read = |o: &Open| o.file.read_at(&mut last, from(o)).ok();
        let n = self.open.as_ref().and_then(read).unwrap_or(0);
        last.truncate(n);
        last
    }

    /// The same for bytes that were read.
    pub fn write(&mut self, chunk: &[u8], now: Tick) {
        self.put(chunk, None, now);
    }

    /// Nobody goes on with a line that has no end yet.
    pub fn end_line(&mut self) {
        if self.spec.timestamps {
            return; // only whole lines are written
        }
        if self.open.as_ref().is_some_and(|o| !o.at_line) {
            // If it cannot be written now, the next line does it.
            self.is_cut = self.append(b"\n").is_err();
        }
    }

    /// A line, to be written with its time by [`LogFile::flush`].
    pub fn add(&mut self, line: &[u8], now: Tick) {
        if self.stamp.of != Some(now) {
            self.stamp.of = Some(now);
            self.stamp.text = utc(wall());
        }
        self.stamped.extend_from_slice(self.stamp.text.as_bytes());
        self.stamped.extend_from_slice(line);
        self.stamped.push(b'\n');
    }

    /// How many of these bytes can be added, as whole lines, before the file is full; at least
    /// one line.
    pub fn fits_stamped(&mut self, bytes: &[u8], now: Tick) -> usize {
        self.is_ready(now); // else it is lost anyway
        let mut room = self.room();
        let stamped = |n: usize, lines: usize| n + (n / LINE_CAP + lines) * STAMP;
        let lines = memchr::memchr_iter(b'\n', bytes).count();
        if stamped(bytes.len(), lines + 1) <= room {
            return bytes.len();
        }
        let mut fits = 0;
        while let Some(rest) = bytes.get(fits..).filter(|rest| !rest.is_empty()) {
            let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            let more = stamped(line, 1);
            if more > room && fits > 0 {
                break;
            }
            room = room.saturating_sub(more);
            fits += line;
        }
        fits
    }

    /// Writes what was added. `carry` is told what a successor must know.
    pub fn flush(&mut self, carry: Option<&Carry>, now: Tick) {
        let mut lines = std::mem::take(&mut self.stamped);
        if !lines.is_empty() && !self.write_stamped(&lines, carry, now) {
            self.lost += count(&lines);
        }
        if let Some(carry) = carry {
            carry.pass(); // written or dropped
        }
        lines.clear();
        lines.shrink_to(2 * LARGE);
        self.stamped = lines;
    }

    /// No flood, or none any more: gives back the memory for one.
    pub fn rest(&mut self) {
        self.stamped.shrink_to(SMALL);
    }

    fn write_stamped(&mut self, lines: &[u8], carry: Option<&Carry>, now: Tick) -> bool {
        let mut rest = lines;
        while !rest.is_empty() {
            if !self.is_ready(now) {
                return false;
            }
            let room = self.room();
            let fits = rest.get(..room.min(rest.len())).unwrap_or(rest);
            let end = match memchr::memrchr(b'\n', fits) {
                Some(end) => end + 1,
                None if self.length() > 0 => {
                    if let Err(e) = self.turn_over() {
                        self.fail("turning it over", &e, now);
                        return false;
                    }
                    continue;
                }
                None => rest.len(), // cannot be: a line is shorter than a file
            };
            let (part, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            // What is only a part of what is due is written again if superd is killed: where
            // the file was another one when it was asked what fits.
            if let (Some(carry), Some(open)) = (carry, &self.open) {
                if after.is_empty() {
                    carry.attempt_at(&self.spec.path, open.length, part.len());
                }
            }
            if let Err(e) = self.append(part) {
                self.fail("writing", &e, now);
                self.lost += count(after);
                return false;
            }
            self.succeed();
            rest = after;
        }
        true
    }

    fn put(&mut self, chunk: &[u8], pipe: Option<BorrowedFd<'_>>, now: Tick) {
        let mut rest = chunk;
        while !rest.is_empty() {
            if !self.is_ready(now) {
                return self.lose(rest, pipe);
            }
            let Some(end) = self.fits(rest) else {
                match self.turn_over() {
                    Ok(()) => continue,
                    Err(e) => {
                        self.fail("turning it over", &e, now);
                        return self.lose(rest, pipe);
                    }
                }
            };
            let (part, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            let (done, result) = match pipe {
                Some(pipe) => self.splice_seen(pipe, part),
                None => match self.append(part) {
                    Ok(()) => (part.len(), Ok(())),
                    Err(e) => (0, Err(e)),
                },
            };
            if let Err(e) = result {
                self.fail("writing", &e, now);
                return self.lose(rest.get(done..).unwrap_or_default(), pipe);
            }
            self.succeed();
            rest = after;
        }
    }

    /// How many of these bytes go into the file as it is; none: it is full. No line begins in
    /// it that would not end in it, and it is never longer than `max-size`.
    fn fits(&self, bytes: &[u8]) -> Option<usize> {
        let room = self.room();
        if bytes.len().saturating_add(LINE_CAP) <= room {
            return Some(bytes.len());
        }
        let soft = bytes.get(..room.saturating_sub(LINE_CAP).min(bytes.len()));
        if let Some(end) = memchr::memrchr(b'\n', soft.unwrap_or_default()) {
            return Some(end + 1);
        }
        let at_line = self.open.as_ref().is_none_or(|o| o.at_line);
        if at_line && self.length() > 0 {
            return None;
        }
        let hard = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        match memchr::memchr(b'\n', hard) {
            Some(end) => Some(end + 1),
            None if hard.is_empty() => None,
            None => Some(hard.len()),
        }
    }

    fn length(&self) -> u64 {
        self.open.as_ref().map_or(0, |o| o.length)
    }

    fn room(&self) -> usize {
        let room = self.spec.max_size.saturating_sub(self.length());
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// These bytes, which are at the head of the pipe, into the file; how many it were.
    fn splice_seen(&mut self, pipe: BorrowedFd<'_>, part: &[u8]) -> (usize, io::Result<()>) {
        let (mut done, mut result) = self.splice(pipe, part.len());
        let Some(open) = &mut self.open else {
            return (done, result);
        };
        let rest = part.get(done..).unwrap_or_default();
        // Where it cannot be, a killed superd may leave a line twice.
        if result.as_ref().is_err_and(is_no_splice) {
            result = open.file.write_all_at(rest, open.length);
            if result.is_ok() {
                skip(pipe, rest.len());
                open.length += rest.len() as u64;
                done = part.len();
            }
        }
        if let Some(last) = done.checked_sub(1).and_then(|last| part.get(last)) {
            open.at_line = *last == b'\n';
        }
        (done, result)
    }

    /// So many bytes of the pipe into the file; how many it were.
    fn splice(&mut self, pipe: BorrowedFd<'_>, bytes: usize) -> (usize, io::Result<()>) {
        let Some(open) = &mut self.open else {
            return (0, Err(io::ErrorKind::NotFound.into()));
        };
        let mut done = 0;
        while done < bytes {
            let mut at = i64::try_from(open.length).unwrap_or(i64::MAX);
            let how = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
            let n = match splice(pipe, None, &open.file, Some(&mut at), bytes - done, how) {
                Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => n,
                Err(nix::Error::EINTR) => continue,
                Err(e) => return (done, Err(e.into())),
            };
            done += n;
            open.length += n as u64;
        }
        (done, Ok(()))
    }

    /// All of it, or nothing.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Err(e) = open.file.write_all_at(bytes, open.length) {
            open.file.set_len(open.length).ok(); // then a part of it stays
            return Err(e);
        }
        open.length += bytes.len() as u64;
        open.at_line = bytes.last() == Some(&b'\n');
        Ok(())
    }

    /// These are dropped.
    fn lose(&mut self, bytes: &[u8], pipe: Option<BorrowedFd<'_>>) {
        if bytes.is_empty() {
            return;
        }
        self.is_cut |= self.open.as_ref().is_some_and(|o| !o.at_line);
        self.lost += count(bytes).max(1);
        if let Some(pipe) = pipe {
            skip(pipe, bytes.len());
        }
    }

    /// Whether there is a file to write to.
    fn is_ready(&mut self, now: Tick) -> bool {
        if now >= self.look_at {
            self.look_at = now + LOOK;
            self.is_blocked = false;
            self.is_complete = false;
            if self.open.as_ref().is_some_and(|o| !o.place.is_of(&o.file)) {
                self.open = None;
            }
            if self.open.is_none() {
                if let Err((stage, e)) = self.open_it() {
                    self.fail(stage, &e, now);
                }
            }
        }
        if self.is_blocked {
            return false;
        }
        let Some(open) = &mut self.open else {
            return false;
        };
        // Somebody may have shortened it.
        match open.file.metadata() {
            Ok(m) => open.length = m.len(),
            Err(_) => return false, // cannot be
        }
        let has_room = open.length > 0 && open.length < self.spec.max_size;
        if std::mem::take(&mut self.is_cut) && has_room && self.append(b"\n").is_err() {
            self.is_cut = true; // the write that follows says why
        }
        true
    }

    fn open_it(&mut self) -> Result<(), (&'static str, io::Error)> {
        let place = Place::find(Path::new(&self.spec.path)).map_err(|e| ("its directory", e))?;
        self.has_packed = (1..=self.spec.keep).any(|n| place.holds(&place.packed(n)));
        self.open = Some(open_in(place).map_err(|e| ("opening", e))?);
        self.is_due = true; // an earlier superd may have left some
        Ok(())
    }

    /// The full file gets the number 1, those that have one the next; the last one goes.
    fn turn_over(&mut self) -> io::Result<()> {
        let keep = self.spec.keep;
        let Some(open) = self.open.take() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if keep == 0 {
            open.file.set_len(0)?;
            self.open = Some(Open {
                length: 0,
                at_line: true,
                ..open
            });
            return Ok(());
        }
        let place = open.place;
        let names = |n| {
            let packed = self.has_packed.then(|| place.packed(n));
            std::iter::once(place.numbered(n)).chain(packed)
        };
        let is_gap = |n: &u32| names(*n).all(|name| !place.holds(&name));
        let is_complete = std::mem::take(&mut self.is_complete);
        let mut numbers = 1..=if is_complete { 0 } else { keep };
        let gap = numbers.find(is_gap).unwrap_or(keep);
        for name in names(gap) {
            place.remove(&name); // nothing, or the oldest
        }
        for n in (1..gap).rev() {
            for (from, to) in names(n).zip(names(n + 1)) {
                match renameat(place.dir(), &*from, place.dir(), &*to) {
                    // Not both are there, or somebody has just removed one.
                    Err(nix::Error::ENOENT) => {}
                    other => other?,
                }
            }
        }
        let first = place.numbered(1);
        renameat(place.dir(), place.name(), place.dir(), &*first)?;
        let leftovers = if is_complete { 0 } else { LEFTOVERS };
        for n in (keep + 1..).take(leftovers as usize) {
            if names(n).filter(|name| place.remove(name)).count() == 0 {
                break;
            }
        }
        self.is_due = true;
        self.is_complete = gap == keep;
        self.open = Some(open_in(place)?);
        Ok(())
    }

    fn fail(&mut self, stage: &str, e: &io::Error, now: Tick) {
        self.is_blocked = true;
        self.look_at = now + LOOK;
        if self.has_said || now < self.say_at {
            return;
        }
        self.has_said = true;
        self.say_at = now + SAY;
        let (service, path) = (&self.service, &self.spec.path);
        self.said.push(format!(
            "{service}: log file {path}: {stage}: {}; its lines are dropped until that is over",
            plain(e)
        ));
    }

    /// Lines that were dropped, while it cannot be written.
    pub fn dropping(&self) -> Option<String> {
        let (service, path, lost) = (&self.service, &self.spec.path, self.lost);
        let is_so = self.has_said && lost > 0;
        is_so.then(|| format!("{service}: {path} cannot be written: lines dropped so far: {lost}"))
    }

    fn succeed(&mut self) {
        if !self.has_said || self.is_blocked {
            return;
        }
        self.has_said = false;
        let (service, path) = (&self.service, &self.spec.path);
        let lost = std::mem::take(&mut self.lost);
        self.said.push(format!(
            "{service}: log file {path}: written again; {lost} lines were dropped"
        ));
    }
}

/// Of an earlier superd: it has begun to write so many bytes at the end of this file when it
/// was so long (the lower half of that). Whether all of them are there; a part is taken away.
pub fn settle(path: &str, at: u32, bytes: u32) -> bool {
    let Ok(open) = Place::find(Path::new(path)).and_then(open_in) else {
        return false;
    };
    let more = (open.length as u32).wrapping_sub(at);
    if more < bytes && more > 0 {
        // Else a part of a line stays.
        open.file.set_len(open.length - u64::from(more)).ok();
    }
    more >= bytes
}

fn open_in(place: Place) -> io::Result<Open> {
    let file = place.open()?;
    let length = file.metadata()?.size();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_at(&mut last, length - 1)?;
    }
    Ok(Open {
        file,
        place,
        length,
        at_line: last == [b'\n'],
    })
}

/// The file system cannot do it, or superd may not (a seccomp filter).
fn is_no_splice(e: &io::Error) -> bool {
    let errno = e.raw_os_error();
    matches!(errno, Some(libc::EINVAL | libc::ENOSYS | libc::EPERM))
}

/// Takes so many bytes out of a pipe.
fn skip(pipe: BorrowedFd<'_>, bytes: usize) {
    let mut bin = [0; 4096];
    let mut left = bytes;
    while left > 0 {
        let room = bin.get_mut(..left.min(4096)).unwrap_or_default();
        match nix::unistd::read(pipe.as_fd(), room) {
            Ok(n) if n > 0 => left = left.saturating_sub(n),
            Err(nix::Error::EINTR) => {}
            Ok(_) | Err(_) => return, // cannot be: they are there
        }
    }
}

fn count(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// `2026-03-07T12:04:05.123Z `, by the days of the civil calendar.
fn utc(since_1970: Duration) -> String {
    let (secs, ms) = (since_1970.as_secs(), since_1970.subsec_millis());
    let day = secs % 86_400;
    let days = secs / 86_400 + 719_468; // from 1 March of the year 0
    let (era, in_era) = (days / 146_097, days % 146_097);
    let year = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * in_year + 2) / 153;
    let date = in_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (day / 3600, day / 60 % 60, day % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z ")
}

#[cfg(test)]
mod tests;
