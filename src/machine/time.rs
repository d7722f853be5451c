//! Time as the machine sees it: a number that is handed in.
//!
//! Nothing here reads a clock. The daemon reads `CLOCK_MONOTONIC` once per turn
//! of its loop and passes the result to every call; wall-clock time never enters
//! (routers boot in 1970 and jump).

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use crate::json::{FromJson, ToJson};

/// A point in monotonic time, in nanoseconds since an origin that only the caller knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, ToJson, FromJson)]
#[serde(transparent)]
pub struct Tick(pub u64);

impl Tick {
    /// A tick that no clock reaches: "never".
    pub const NEVER: Tick = Tick(u64::MAX);

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;

    /// Saturates at [`Tick::NEVER`].
    fn add(self, d: Duration) -> Tick {
        let ns = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Tick(self.0.saturating_add(ns))
    }
}

impl Sub<Tick> for Tick {
    type Output = Duration;

    fn sub(self, earlier: Tick) -> Duration {
        self.since(earlier)
    }
}

/// A duration for people: `850 ms`, `3.2 s`, `4 min 10 s`, `3 h 2 min`, `5 d 1 h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let s = self.0.as_secs();
        match s {
            0 if ms == 0 && !self.0.is_zero() => write!(f, "{} us", self.0.as_micros()),
            0 => write!(f, "{ms} ms"),
            1..=59 if ms % 1000 < 50 => write!(f, "{s} s"),
            1..=59 => write!(f, "{}.{} s", s, (ms % 1000) / 100),
            60..=3599 if s.is_multiple_of(60) => write!(f, "{} min", s / 60),
            60..=3599 => write!(f, "{} min {} s", s / 60, s % 60),
            3600..=86_399 => write!(f, "{} h {} min", s / 3600, s % 3600 / 60),
            _ => write!(f, "{} d {} h", s / 86_400, s % 86_400 / 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_saturates_instead_of_wrapping() {
        assert_eq!(Tick(u64::MAX - 1) + Duration::from_secs(1), Tick::NEVER);
        assert_eq!(Tick(5) - Tick(9), Duration::ZERO);
    }

    #[test]
    fn spans_read_like_a_person_writes_them() {
        let show = |ms| Span(Duration::from_millis(ms)).to_string();
        assert_eq!(show(850), "850 ms");
        assert_eq!(show(3_210), "3.2 s");
        assert_eq!(show(15_000), "15 s");
        assert_eq!(show(250_000), "4 min 10 s");
        assert_eq!(show(10_920_000), "3 h 2 min");
    }
}
