//! The last lines of a service, bounded in bytes: one flat ring, no allocation per line.

use std::collections::VecDeque;

use super::shown;
use crate::machine::time::Tick;

/// Length and time before each line.
const HEAD: usize = 2 + 8;

/// The first allocation; it doubles up to the bound.
const FIRST: usize = 512;

/// Lines with their times; the oldest make room for new ones.
pub struct Ring {
    bytes: VecDeque<u8>,
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
            bytes: VecDeque::new(),
            bound,
            first: 0,
            next: 0,
        }
    }

    /// The bound in bytes.
    pub fn bound(&self) -> usize {
        self.bound
    }

    /// Another bound; the oldest lines go at once if it is smaller.
    pub fn set_bound(&mut self, bound: usize) {
        self.bound = bound;
        self.make_room(0);
        self.bytes.shrink_to(bound);
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
        let need = self.bytes.len() + HEAD + line.len();
        if need > self.bytes.capacity() {
            let capacity = (self.bytes.capacity() * 2).max(FIRST).max(need);
            let capacity = capacity.min(self.bound);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        let length = u16::try_from(line.len()).unwrap_or(u16::MAX);
        self.bytes.extend(&length.to_ne_bytes());
        self.bytes.extend(&at.0.to_ne_bytes());
        self.bytes.extend(line);
    }

    /// The lines with this number and later ones, oldest first; bytes that are not UTF-8
    /// are replaced.
    pub fn since(&self, number: u64) -> Vec<(Tick, String)> {
        let mut out = Vec::new();
        let mut at = 0;
        for n in self.first..self.next {
            let Some((tick, length)) = self.head(at) else {
                break;
            };
            at += HEAD;
            if n >= number {
                let end = (at + length).min(self.bytes.len());
                let line: Vec<u8> = self.bytes.range(at..end).copied().collect();
                out.push((tick, shown(&line)));
            }
            at += length;
        }
        out
    }

    /// Time and length of the line that begins at this offset.
    fn head(&self, at: usize) -> Option<(Tick, usize)> {
        let mut head = [0_u8; HEAD];
        for (i, b) in head.iter_mut().enumerate() {
            *b = *self.bytes.get(at + i)?;
        }
        let (length, tick) = head.split_first_chunk::<2>()?;
        let tick = u64::from_ne_bytes(tick.try_into().ok()?);
        Some((Tick(tick), usize::from(u16::from_ne_bytes(*length))))
    }

    fn make_room(&mut self, need: usize) {
        let over = (self.bytes.len() + need).saturating_sub(self.bound);
        let mut cut = 0;
        while cut < over {
            let Some((_, length)) = self.head(cut) else {
                break;
            };
            cut += HEAD + length;
            self.first += 1;
        }
        self.bytes.drain(..cut.min(self.bytes.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_there_and_the_bound_holds() {
        let mut ring = Ring::new(1_000);
        assert_eq!(ring.bytes.capacity(), 0, "nothing before the first line");
        let mut seed = 9_u32;
        let mut all: Vec<String> = Vec::new();
        for i in 0..3_000_u64 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let line = format!("{i}{}", "z".repeat((seed >> 16) as usize % 150));
            ring.push(Tick(i), line.as_bytes());
            all.push(line);
            assert!(ring.bytes.len() <= 1_000 && ring.bytes.capacity() <= 1_000);
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
