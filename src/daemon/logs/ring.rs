//! The last lines of a service, bounded in bytes: one flat ring, no allocation per line.

use super::shown;
use crate::daemon::upgrade::state::Bytes;
use crate::json::{FromJson, ToJson};
use crate::machine::time::Tick;

/// Length and time before each line.
const HEAD: usize = 2 + 8;

/// The first allocation; it doubles up to the bound.
const FIRST: usize = 512;

/// What outlives a change of the program.
#[derive(ToJson, FromJson)]
pub struct Kept {
    lines: Vec<(Tick, Bytes)>,
    next: u64,
}

/// Lines with their times; the oldest make room for new ones.
pub struct Ring {
    /// All of it is used, wrapping round at its end.
    bytes: Vec<u8>,
    /// Where the oldest line begins.
    start: usize,
    /// Bytes in use from there on.
    used: usize,
    bound: usize,
    /// Number of the oldest line here, counted from the first one ever pushed.
    first: u64,
    /// Number of the next line.
    next: u64,
}

impl Ring {
    /// At most `bound` bytes, heads of the lines included. Nothing is allocated yet.
    pub fn new(bound: usize) -> Ring {
        Ring {
            bytes: Vec::new(),
            start: 0,
            used: 0,
            bound,
            first: 0,
            next: 0,
        }
    }

    /// For a superd that becomes another program: the last of the lines that are there, at most
    /// so many, and the number of the next one.
    pub fn keep(&self, most: u64) -> Kept {
        let mut lines = Vec::new();
        let mut at = 0;
        let from = self.next.saturating_sub(most);
        for n in self.first..self.next {
            let (tick, length) = self.head(at);
            at += HEAD;
            if n >= from {
                let mut line = vec![0; length];
                self.copy(at, &mut line);
                lines.push((tick, Bytes(line)));
            }
            at += length;
        }
        Kept {
            lines,
            next: self.next,
        }
    }

    /// What [`Ring::keep`] said, in the new one.
    pub fn kept(kept: Kept, bound: usize) -> Ring {
        let mut ring = Ring::new(bound);
        let n = kept.lines.len() as u64;
        ring.next = kept.next.saturating_sub(n);
        ring.first = ring.next;
        for (at, line) in kept.lines {
            ring.push(at, &line.0);
        }
        ring
    }

    /// The bound in bytes.
    pub fn bound(&self) -> usize {
        self.bound
    }

    /// Another bound; the oldest lines go at once if it is smaller.
    pub fn set_bound(&mut self, bound: usize) {
        self.bound = bound;
        self.make_room(0);
        if self.bytes.len() > bound {
            self.resize(bound);
        }
    }

    /// The number that the next line will get.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Adds a line. One that is longer than the whole ring keeps its beginning.
    pub fn push(&mut self, at: Tick, line: &[u8]) {
        self.next += 1;
        let Some(most) = self.bound.checked_sub(HEAD) else {
            self.first = self.next;
            return;
        };
        let line = line.get(..most.min(usize::from(u16::MAX))).unwrap_or(line);
        self.make_room(HEAD + line.len());
        let need = self.used + HEAD + line.len();
        if need > self.bytes.len() {
            let size = (self.bytes.len() * 2).max(FIRST).max(need);
            self.resize(size.min(self.bound));
        }
        let length = u16::try_from(line.len()).unwrap_or(u16::MAX);
        self.put(&length.to_ne_bytes());
        self.put(&at.0.to_ne_bytes());
        self.put(line);
    }

    /// The lines with this number and later ones, oldest first; bytes that are not UTF-8
    /// are replaced.
    pub fn since(&self, number: u64) -> Vec<(Tick, String)> {
        let mut out = Vec::new();
        let mut at = 0;
        for n in self.first..self.next {
            let (tick, length) = self.head(at);
            at += HEAD;
            if n >= number {
                let mut line = vec![0; length];
                self.copy(at, &mut line);
                out.push((tick, shown(&line)));
            }
            at += length;
        }
        out
    }

    /// Time and length of the line that begins this far from the start.
    fn head(&self, at: usize) -> (Tick, usize) {
        let mut length = [0; 2];
        let mut tick = [0; 8];
        self.copy(at, &mut length);
        self.copy(at + 2, &mut tick);
        (
            Tick(u64::from_ne_bytes(tick)),
            usize::from(u16::from_ne_bytes(length)),
        )
    }

    /// Room for so many bytes below the bound.
    fn make_room(&mut self, need: usize) {
        while self.used > 0 && self.used + need > self.bound {
            let (_, length) = self.head(0);
            let gone = (HEAD + length).min(self.used);
            self.start = self.place(gone);
            self.used -= gone;
            self.first += 1;
        }
    }

    /// Index of the byte this far from the start.
    fn place(&self, at: usize) -> usize {
        let i = self.start + at;
        if i >= self.bytes.len() {
            i - self.bytes.len()
        } else {
            i
        }
    }

    /// Appends; the room is there.
    fn put(&mut self, data: &[u8]) {
        let at = self.place(self.used);
        let (head, tail) = data
            .split_at_checked(self.bytes.len() - at)
            .unwrap_or((data, &[]));
        for (at, part) in [(at, head), (0, tail)] {
            if let Some(to) = self.bytes.get_mut(at..at + part.len()) {
                to.copy_from_slice(part);
            }
        }
        self.used += data.len();
    }

    /// Reads from this far from the start.
    fn copy(&self, at: usize, out: &mut [u8]) {
        let at = self.place(at);
        let head = out.len().min(self.bytes.len().saturating_sub(at));
        let Some((head, tail)) = out.split_at_mut_checked(head) else {
            return;
        };
        for (at, part) in [(at, head), (0, tail)] {
            if let Some(from) = self.bytes.get(at..at + part.len()) {
                part.copy_from_slice(from);
            }
        }
    }

    /// Another allocation, not smaller than what is in use.
    fn resize(&mut self, size: usize) {
        let mut bytes = vec![0; size];
        if let Some(used) = bytes.get_mut(..self.used) {
            self.copy(0, used);
        }
        self.bytes = bytes;
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_there_and_the_bound_holds() {
        let mut ring = Ring::new(1_000);
        assert_eq!(ring.bytes.len(), 0, "nothing before the first line");
        let mut seed = 9_u32;
        let mut all: Vec<String> = Vec::new();
        for i in 0..3_000_u64 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let line = format!("{i}{}", "z".repeat((seed >> 16) as usize % 150));
            ring.push(Tick(i), line.as_bytes());
            all.push(line);
            assert!(ring.used <= 1_000 && ring.bytes.len() <= 1_000);
            let got = ring.since(0);
            assert!(got.len() >= 5.min(all.len()));
            let tail = &all[all.len() - got.len()..];
            assert!(got.iter().map(|(_, l)| l).eq(tail));
            assert_eq!(got.last().unwrap().0, Tick(i));
        }
        assert_eq!(ring.since(2_999).len(), 1);
        assert_eq!(ring.since(3_000).len(), 0);
        ring.set_bound(300);
        assert!(ring.bytes.len() <= 300);
        assert_eq!(ring.since(2_999).len(), 1);
    }

    #[test]
    fn a_ring_comes_back_as_it_was_in_a_superd_that_is_another_program() {
        for bound in [0, 100, 2_000] {
            let mut ring = Ring::new(bound);
            for i in 0..100_u64 {
                ring.push(
                    Tick(i),
                    format!("{i} \u{e9}{}", "z".repeat(i as usize)).as_bytes(),
                );
                let text = crate::json::to_string(&ring.keep(u64::MAX)).unwrap();
                let mut again = Ring::kept(crate::json::from_str(&text).unwrap(), bound);
                assert_eq!(again.since(0), ring.since(0));
                assert_eq!((again.next, again.first), (ring.next, ring.first));
                again.push(Tick(i), b"more");
                assert_eq!(again.next, ring.next + 1);
            }
            let few = Ring::kept(ring.keep(2), bound);
            assert_eq!(few.since(0).len(), ring.since(98).len());
            assert_eq!(few.next, ring.next);
        }
    }

    #[test]
    fn a_line_longer_than_the_ring_and_a_ring_of_nothing_do_no_harm() {
        let mut ring = Ring::new(100);
        ring.push(Tick(1), &[b'a'; 4_000]);
        assert_eq!(ring.since(0), vec![(Tick(1), "a".repeat(90))]);
        let mut none = Ring::new(0);
        none.push(Tick(1), b"x");
        assert_eq!(none.since(0), Vec::new());
        assert_eq!(none.next(), 1);
    }
}
