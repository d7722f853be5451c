//! When a service's pipe is read next. Whoever writes without a pause would wake superd with
//! each write; such a pipe is left to fill for a moment, and one read takes what came
//! meanwhile. What comes after a pause is read at once, and while nothing comes no timer runs.
//! Only the decision: the pipe, the timer and what is not to wait are the caller's.

use std::time::Duration;

use crate::machine::time::Tick;

/// Reads that follow one another within this time, [`STREAK`] times in a row, are too many.
const CLOSE: Duration = Duration::from_millis(2);

/// See [`CLOSE`]. A few lines that belong together are read as they come.
const STREAK: u32 = 4;

/// So long a line is left in the pipe, and a writer that has filled it is left waiting, at most.
pub const LONGEST: Duration = Duration::from_millis(4);

/// A timer for less costs more than it saves.
const SHORTEST: Duration = Duration::from_micros(50);

/// Of one pipe.
#[derive(Default)]
pub struct Pace {
    /// Reads that came close after the one before.
    close: u32,
    /// When the pipe was emptied last.
    emptied: Tick,
    /// Bytes of a visit that has not emptied it yet.
    came: usize,
    /// That visit has found it full: its writer may have been waiting.
    was_full: bool,
    /// None: it is read when something comes.
    plan: Option<Plan>,
}

/// What is waited for.
#[derive(Clone, Copy)]
struct Plan {
    /// So many bytes are to be there at the next visit.
    target: usize,
    wait: Duration,
}

impl Pace {
    /// The pipe is left to fill.
    pub fn is_set(&self) -> bool {
        self.plan.is_some()
    }

    /// Somebody begins to read; it matters whether the pipe is full.
    pub fn visit(&mut self, is_full: impl FnOnce() -> bool) {
        if self.is_set() && self.came == 0 {
            self.was_full = is_full();
        }
    }

    /// So many bytes were read, or are left there for good reason. How many it were in this
    /// visit.
    pub fn came(&mut self, bytes: usize) -> usize {
        self.came = self.came.saturating_add(bytes);
        self.came
    }

    /// It is read when something comes.
    pub fn end(&mut self) {
        self.close = 0;
        self.plan = None;
    }

    /// The pipe is empty now. The time of the next visit; none: when something comes.
    /// `room`: what the pipe holds.
    pub fn emptied(&mut self, now: Tick, room: impl FnOnce() -> usize) -> Option<Tick> {
        let came = std::mem::take(&mut self.came);
        let was_full = std::mem::take(&mut self.was_full);
        let since = now.since(self.emptied);
        self.emptied = now;
        if came == 0 {
            self.end();
            return None;
        }
        let plan = match self.plan {
            // How fast it would have been filled is not known. And one of pages that are half
            // full holds less than it says.
            Some(plan) if was_full => Plan {
                target: plan.target.min(came / 2),
                wait: plan.wait / 2,
            },
            Some(plan) => Plan {
                wait: until(plan.target, since, came),
                ..plan
            },
            None => {
                self.close = if since < CLOSE { self.close + 1 } else { 0 };
                if self.close < STREAK {
                    return None;
                }
                let target = room() / 2;
                let wait = until(target, since, came);
                Plan { target, wait }
            }
        };
        let wait = plan.wait.clamp(SHORTEST, LONGEST);
        self.plan = Some(Plan { wait, ..plan });
        Some(now + wait)
    }
}

/// How long it takes until so many bytes are there, if `came` took `since`.
fn until(target: usize, since: Duration, came: usize) -> Duration {
    let ns = since.as_nanos().saturating_mul(target as u128) / (came as u128).max(1);
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 256 * 1024;

    /// A writer of so many bytes every so many nanoseconds, into a pipe that holds so many writes.
    struct Flood {
        bytes: usize,
        every: u64,
        fits: u64,
    }

    /// What a second of it was like.
    struct Second {
        visits: u64,
        /// So many of them were planned.
        planned: u64,
        /// The writer could not go on for so long.
        stuck: Duration,
    }

    impl Flood {
        fn run(&self, pace: &mut Pace) -> Second {
            let mut second = Second {
                visits: 0,
                planned: 0,
                stuck: Duration::ZERO,
            };
            let (mut now, mut next) = (Tick(0), None);
            while now < Tick(1_000_000_000) {
                let at = next.unwrap_or(now + Duration::from_nanos(self.every));
                let could = at.since(now).as_nanos() as u64 / self.every;
                let wrote = could.min(self.fits);
                second.stuck += Duration::from_nanos((could - wrote) * self.every);
                second.visits += 1;
                second.planned += u64::from(next.is_some());
                now = at;
                pace.visit(|| wrote == self.fits);
                pace.came(self.bytes * wrote as usize);
                next = pace.emptied(now, || ROOM);
                assert!(next.is_none_or(|at| at <= now + LONGEST && at >= now + SHORTEST));
                assert_eq!(next.is_some(), pace.is_set());
            }
            second
        }
    }

    #[test]
    fn a_flood_is_read_in_large_pieces_and_its_writer_does_not_wait() {
        // Full speed; a slow machine; writes that leave half of each page empty; lines.
        for (bytes, every, fits) in [
            (4000, 1_000, 64),
            (4000, 8_000, 64),
            (2100, 1_000, 64),
            (2100, 10_000, 64),
            (100, 300, 2560),
            (100, 5_000, 2560),
            (60, 100_000, 4352),
        ] {
            let flood = Flood { bytes, every, fits };
            let mut pace = Pace::default();
            let second = flood.run(&mut pace);
            let each = 1_000_000_000 / every * bytes as u64 / second.visits;
            let is_slow = second.visits <= 4 + 1_000_000_000 / LONGEST.as_nanos() as u64;
            assert!(each > 50_000 || is_slow, "{bytes} {every}: {each}");
            assert!(second.stuck < Duration::from_millis(20), "{bytes} {every}");
            assert!(pace.is_set());
            // It falls silent: one look for nothing.
            assert_eq!(pace.emptied(Tick(2_000_000_000), || ROOM), None);
            assert!(!pace.is_set());
        }
    }

    #[test]
    fn what_comes_now_and_then_is_read_as_it_comes() {
        for every in [CLOSE.as_nanos() as u64, 50_000_000] {
            let (bytes, fits) = (100, 2560);
            let second = Flood { bytes, every, fits }.run(&mut Pace::default());
            assert_eq!((second.planned, second.stuck), (0, Duration::ZERO));
        }
        // A few lines together are not a flood.
        let mut pace = Pace::default();
        let mut now = Tick(10_000_000_000);
        for _ in 0..100 {
            now = now + Duration::from_millis(100);
            for _ in 0..STREAK {
                now = now + Duration::from_micros(10);
                pace.came(100);
                assert_eq!(pace.emptied(now, || ROOM), None);
            }
        }
    }

    #[test]
    fn a_pipe_that_was_full_is_looked_at_earlier() {
        let mut pace = Pace::default();
        let mut now = Tick(1);
        for _ in 0..=STREAK {
            now = now + Duration::from_micros(10);
            pace.came(100);
            pace.emptied(now, || ROOM);
        }
        assert!(pace.is_set());
        let mut last = LONGEST;
        for _ in 0..6 {
            let since = last;
            now = now + since;
            pace.visit(|| true);
            pace.came(64_000);
            let next = pace.emptied(now, || ROOM).unwrap().since(now);
            assert_eq!(next, (since / 2).max(SHORTEST));
            last = next;
        }
    }
}
