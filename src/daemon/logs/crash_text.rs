//! What a program says last, kept apart from the ring: the lines from the last one on that may
//! begin a crash text, because the stack dump after it can be longer than the ring. Whether it
//! is a crash is `machine::crash`'s to say; whether the program went on after it is said here.

use std::time::Duration;

use memchr::memmem;

use super::{shown, LINE_CAP};
use crate::json::{FromJson, ToJson};
use crate::machine::crash;
use crate::machine::report::{Crash, Exit};
use crate::machine::signal::Signal;
use crate::machine::time::Tick;

/// Lines kept from the beginning of a crash text on: a goroutine dump is long.
pub const CRASH_LINES: usize = 240;

/// The same in bytes.
pub const CRASH_BYTES: usize = 16 * 1024;

/// A line that may begin a crash text, so long after the last such line, begins another one:
/// what was printed before was survived.
pub const CRASH_AGAIN: Duration = Duration::from_secs(1);

/// Such a text was survived when something is said so long after the line before, or so long
/// after its beginning: the longest dump is out by then.
const CRASH_PAUSE: Duration = Duration::from_secs(1);
const CRASH_DUMP: Duration = Duration::from_secs(10);

/// A crash text older than this at the time of the exit was survived.
pub const CRASH_AGE: Duration = Duration::from_secs(60);

/// The lines from the last beginning of a crash text on.
#[derive(Clone, ToJson, FromJson)]
pub struct CrashText {
    at: Tick,
    /// When the last line came, kept or not.
    last: Tick,
    /// The number in the ring of the line with which the program went on: whoever prints a
    /// crash text because of a crash says nothing any more a while later.
    pub survived: Option<u64>,
    pub lines: Vec<String>,
    /// Of all lines.
    bytes: usize,
    /// The last line was a piece of a longer one: what follows is not kept.
    is_piece: bool,
}

/// The newline before what begins a dump that is longer than a ring: Go tells every
/// goroutine. Not found where two chunks meet.
pub fn long_crash(chunk: &[u8]) -> Option<usize> {
    // Most of a flood is looked at for this only.
    is_dump(chunk).then(|| beginning(chunk)).flatten()
}

/// Whether there is a part of such a dump.
pub fn is_dump(chunk: &[u8]) -> bool {
    memmem::find(chunk, b"\ngoroutine ").is_some()
}

/// See [`long_crash`].
pub fn beginning(chunk: &[u8]) -> Option<usize> {
    const BEGINNINGS: [&[u8]; 3] = [b"\npanic: ", b"\nfatal error: ", b"\nSIGQUIT: quit"];
    let found = BEGINNINGS.iter().filter_map(|b| memmem::find(chunk, b));
    found.min()
}

impl CrashText {
    /// It begins with this line.
    pub fn begin(line: &[u8], now: Tick) -> CrashText {
        let mut text = CrashText {
            at: now,
            last: now,
            survived: None,
            lines: Vec::new(),
            bytes: 0,
            is_piece: false,
        };
        text.hear(line, 0, now);
        text
    }

    /// A line, or a piece of one, with the number that it has in the ring.
    pub fn hear(&mut self, line: &[u8], number: u64, now: Tick) {
        if now.since(self.last) > CRASH_PAUSE || now.since(self.at) > CRASH_DUMP {
            self.survived.get_or_insert(number);
        }
        self.last = now;
        if self.has_room() && !self.is_piece {
            self.push(shown(line));
        }
        self.is_piece = line.len() >= LINE_CAP;
    }

    /// The crash that it tells of. A program that goes on can have printed a dump that was
    /// asked for; and what is said while an abort writes its core is somebody else's.
    pub fn recognise(&self, exit: Exit) -> Option<Crash> {
        let is_certain = self.survived.is_none() || exit == Exit::Signal(Signal(libc::SIGABRT));
        crash::by_text(&self.lines, exit).filter(|c| is_certain || c.kind == crash::GO_DUMP)
    }

    /// Fresh enough to be why a program ends now.
    pub fn is_fresh(&self, now: Tick) -> bool {
        now.since(self.at) < CRASH_AGE
    }

    /// What comes now is still wanted.
    pub fn goes_on(&self, now: Tick) -> bool {
        self.has_room() && now.since(self.last) <= CRASH_PAUSE
    }

    /// Another text may begin.
    pub fn is_over(&self, now: Tick) -> bool {
        !self.has_room() || now.since(self.at) > CRASH_AGAIN
    }

    fn has_room(&self) -> bool {
        self.lines.len() < CRASH_LINES && self.bytes < CRASH_BYTES
    }

    fn push(&mut self, mut line: String) {
        let room = CRASH_BYTES.saturating_sub(self.bytes);
        if line.len() > room {
            let end = (0..=room).rev().find(|i| line.is_char_boundary(*i));
            line.truncate(end.unwrap_or(0));
        }
        self.bytes += line.len() + 1;
        self.lines.push(line);
    }
}
