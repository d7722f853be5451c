//! The latch: the one atomic word between signal handlers and the loop (DESIGN 3.1).
//!
//! A handler does one read-modify-write and writes one byte to the self-pipe only if
//! its bit was not set: a storm of signals costs one wake-up. The loop drains the
//! pipe, *then* takes, then acts; the other order loses requests, as the loom models
//! in `tests/loom.rs` show.
//!
//! | bits  | name     | set by                              | cleared by |
//! |-------|----------|-------------------------------------|------------|
//! | 0     | STOP     | SIGTERM, SIGINT, `shutdown`         | never      |
//! | 1     | FORCE    | SIGQUIT, `shutdown --now`           | never      |
//! | 2     | RELOAD   | SIGHUP                              | `take`     |
//! | 3     | REAP     | SIGCHLD                             | `take`     |
//! | 4     | DUMP     | SIGUSR1                             | `take`     |
//! | 5     | UPGRADE  | SIGUSR2                             | `take`     |
//! | 6     | QUIT     | SIGQUIT in wrap mode (is passed on) | `take`     |
//! | 8-9   | PHASE    | the loop; only upwards              | never      |
//! | 10-31 | ABSORBED | stop requests after the first       | never      |

// Under test only: the library itself has a `static` of this type, which loom's cannot be.
#[cfg(all(loom, test))]
use loom::sync::atomic::{AtomicU32, Ordering};
#[cfg(not(all(loom, test)))]
use std::sync::atomic::{AtomicU32, Ordering};

/// Something to do. The value is its bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Bit {
    /// End superd by the schedules. Sticky.
    Stop = 1,
    /// End superd by KILL. Sticky.
    Force = 1 << 1,
    /// Read the configuration again.
    Reload = 1 << 2,
    /// A child changed its state.
    Reap = 1 << 3,
    /// Write the state to the log.
    Dump = 1 << 4,
    /// Execute the new binary.
    Upgrade = 1 << 5,
    /// Pass SIGQUIT on to the only service (wrap mode).
    Quit = 1 << 6,
}

const STICKY: u32 = Bit::Stop as u32 | Bit::Force as u32;
const ONCE: u32 = Bit::Reload as u32
    | Bit::Reap as u32
    | Bit::Dump as u32
    | Bit::Upgrade as u32
    | Bit::Quit as u32;
const PHASE_SHIFT: u32 = 8;
const PHASE_MASK: u32 = 0b11 << PHASE_SHIFT;
const ABSORBED_ONE: u32 = 1 << 10;
const ABSORBED_MAX: u32 = u32::MAX >> 10;

/// How far superd's own end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum Phase {
    /// In service.
    Running = 0,
    /// The stop schedules are under way.
    Terminating = 1,
    /// KILL has been decided.
    Killing = 2,
    /// Nothing is left.
    Done = 3,
}

/// What a request found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// The bit was not set: the caller owes the self-pipe a byte.
    First,
    /// It was set already; somebody else's wake-up serves this request too.
    Again,
}

/// What the loop takes: a copy of the word at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken(u32);

impl Taken {
    /// Whether this was asked for since the last `take` (or ever, for a sticky bit).
    pub fn has(self, bit: Bit) -> bool {
        self.0 & bit as u32 != 0
    }

    /// Stop requests that came after the first one, ever; saturating at 4,194,303.
    pub fn absorbed(self) -> u32 {
        self.0 >> 10
    }
}

/// The word.
#[derive(Debug)]
pub struct Latch(AtomicU32);

impl Default for Latch {
    fn default() -> Self {
        Latch::new()
    }
}

impl Latch {
    /// Nothing asked for, phase running.
    #[cfg(not(all(loom, test)))]
    pub const fn new() -> Latch {
        Latch(AtomicU32::new(0))
    }

    /// Nothing asked for, phase running.
    #[cfg(all(loom, test))]
    pub fn new() -> Latch {
        Latch(AtomicU32::new(0))
    }

    /// Ask for something. Async-signal-safe: one lock-free loop on one word, which ends
    /// because every failed turn means that another request went through.
    pub fn request(&self, bit: Bit) -> Seen {
        let bit = bit as u32;
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let again = word & bit != 0;
            let next = match again && bit & STICKY != 0 {
                true if word >> 10 < ABSORBED_MAX => word + ABSORBED_ONE,
                true => word,
                false => word | bit,
            };
            // Release: what the handler stored before (who it was) is seen by `take`.
            // A request that changes nothing must still be a write: it has to come
            // before or after `take` in the word's order, not beside it.
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) if again => return Seen::Again,
                Ok(_) => return Seen::First,
                Err(now) => word = now,
            }
        }
    }

    /// Take what was asked for: clears all but the sticky bits, the phase and the count.
    /// Drain the self-pipe *before* this, not after.
    pub fn take(&self) -> Taken {
        Taken(self.0.fetch_and(!ONCE, Ordering::AcqRel))
    }

    /// Go on to a later phase. Never goes back, never loses a request. Returns the
    /// phase that holds now.
    pub fn advance(&self, to: Phase) -> Phase {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let held = phase_of(word);
            if held >= to {
                return held;
            }
            let next = (word & !PHASE_MASK) | ((to as u32) << PHASE_SHIFT);
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return to,
                Err(now) => word = now,
            }
        }
    }

    /// The word, for a program that this one becomes. To be called while signals are blocked.
    pub fn word(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// What [`Latch::word`] said in the program before. To be called while signals are blocked.
    pub fn restore(&self, word: u32) {
        self.0.store(word, Ordering::Release);
    }

    /// The phase that holds now.
    pub fn phase(&self) -> Phase {
        phase_of(self.0.load(Ordering::Acquire))
    }
}

fn phase_of(word: u32) -> Phase {
    match (word & PHASE_MASK) >> PHASE_SHIFT {
        0 => Phase::Running,
        1 => Phase::Terminating,
        2 => Phase::Killing,
        _ => Phase::Done,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_sticky_bit_has_one_first_and_stays() {
        let latch = Latch::new();
        assert_eq!(latch.request(Bit::Stop), Seen::First);
        assert_eq!(latch.request(Bit::Stop), Seen::Again);
        assert!(latch.take().has(Bit::Stop));
        assert_eq!(latch.request(Bit::Stop), Seen::Again);
        let taken = latch.take();
        assert!(taken.has(Bit::Stop));
        assert_eq!(taken.absorbed(), 2);
    }

    #[test]
    fn other_bits_are_taken_once() {
        let latch = Latch::new();
        assert_eq!(latch.request(Bit::Reload), Seen::First);
        assert_eq!(latch.request(Bit::Reload), Seen::Again);
        assert!(latch.take().has(Bit::Reload));
        assert!(!latch.take().has(Bit::Reload));
        assert_eq!(latch.request(Bit::Reload), Seen::First);
        assert_eq!(latch.take().absorbed(), 0, "only stop requests count");
    }

    #[test]
    fn the_phase_only_goes_up_and_keeps_the_rest() {
        let latch = Latch::new();
        latch.request(Bit::Dump);
        assert_eq!(latch.advance(Phase::Killing), Phase::Killing);
        assert_eq!(latch.advance(Phase::Terminating), Phase::Killing);
        assert_eq!(latch.phase(), Phase::Killing);
        assert!(latch.take().has(Bit::Dump));
        assert_eq!(latch.phase(), Phase::Killing);
    }

    #[test]
    fn the_count_of_absorbed_requests_saturates() {
        let latch = Latch(AtomicU32::new(
            Bit::Stop as u32
                | (ABSORBED_MAX - 1) << 10
                | (Phase::Terminating as u32) << PHASE_SHIFT,
        ));
        for _ in 0..3 {
            latch.request(Bit::Stop);
        }
        assert_eq!(latch.take().absorbed(), ABSORBED_MAX);
        assert_eq!(latch.phase(), Phase::Terminating);
    }
}
