//! Clocks: monotonic time for decisions, a timerfd to wake up exactly, wall time to show.
//!
//! A poll timeout is rounded to milliseconds; a timerfd is not.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// CLOCK_MONOTONIC in nanoseconds. Does not count time in suspend.
pub fn monotonic() -> u64 {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    let Ok(t) = nix::time::clock_gettime(clock) else {
        return 0; // clock_gettime(2) cannot fail for this clock
    };
    let s = u64::try_from(t.tv_sec()).unwrap_or(0);
    let ns = u64::try_from(t.tv_nsec()).unwrap_or(0);
    s.saturating_mul(1_000_000_000).saturating_add(ns)
}

/// Processor time that this thread has used (CLOCK_THREAD_CPUTIME_ID).
pub fn cpu_used() -> Duration {
    shown(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn shown(clock: nix::time::ClockId) -> Duration {
    // clock_gettime(2) cannot fail for the clocks that are asked for here.
    nix::time::clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

/// A timer on CLOCK_MONOTONIC, readable when it has expired.
#[derive(Debug)]
pub struct Timer {
    fd: TimerFd,
}

impl Timer {
    /// A disarmed timer, non-blocking and close-on-exec.
    pub fn new() -> io::Result<Timer> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Timer { fd })
    }

    /// Expires at this time of [`monotonic`], at once if it is past. Replaces what was set.
    pub fn set(&self, at: u64) -> io::Result<()> {
        // An absolute time of zero would disarm the timer.
        let at = TimeSpec::from_duration(Duration::from_nanos(at.max(1)));
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
        Ok(self.fd.set(Expiration::OneShot(at), flags)?)
    }

    /// Never expires until it is set again; an expiry that nobody has read is dropped.
    pub fn disarm(&self) -> io::Result<()> {
        Ok(self.fd.unset()?)
    }

    /// Makes an expired timer unreadable again. Says whether it had expired.
    pub fn drain(&self) -> bool {
        let mut count = [0_u8; 8];
        matches!(nix::unistd::read(self.fd.as_fd(), &mut count), Ok(8))
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }
}

/// A timer on the wall clock that expires never: it becomes readable when that clock is set, or
/// jumps because the machine comes out of suspend (TFD_TIMER_CANCEL_ON_SET, timerfd_create(2)).
#[derive(Debug)]
pub struct WallTimer {
    fd: TimerFd,
}

impl WallTimer {
    /// Non-blocking and close-on-exec; from now on it notices.
    pub fn new() -> io::Result<WallTimer> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let fd = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
        // Later than any clock can be set to, and no overflow in the kernel.
        let never = TimeSpec::from_duration(Duration::from_secs(FAR));
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        fd.set(Expiration::OneShot(never), flags)?;
        Ok(WallTimer { fd })
    }

    /// Forgets that the clock was set.
    pub fn drain(&self) {
        let mut count = [0_u8; 8];
        nix::unistd::read(self.fd.as_fd(), &mut count).ok(); // ECANCELED: it was
    }
}

/// The last second that fits 32 bits: the most that is portable, and if it ever expires, that is one
/// look too many.
const FAR: u64 = 0x7fff_ffff;

impl AsRawFd for WallTimer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }
}

/// CLOCK_MONOTONIC, CLOCK_REALTIME and CLOCK_BOOTTIME at one moment, in nanoseconds. Read again
/// when it took so long that they would not belong together.
pub fn clocks() -> (u64, i64, u64) {
    let read = |clock| u64::try_from(shown(clock).as_nanos()).unwrap_or(u64::MAX);
    let mut all = (0, 0, 0);
    for _ in 0..5 {
        let before = monotonic();
        let unix = read(nix::time::ClockId::CLOCK_REALTIME);
        let boot = read(nix::time::ClockId::CLOCK_BOOTTIME);
        let after = monotonic();
        all = (before, i64::try_from(unix).unwrap_or(i64::MAX), boot);
        if after - before < 1_000_000 {
            break;
        }
    }
    all
}

/// Whether somebody has told the kernel that its clock is synchronised, as NTP daemons do
/// (adjtimex(2), STA_UNSYNC). Setting the clock takes that back until they say so again.
pub fn is_synchronised() -> bool {
    let mut state = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: adjtimex(2) gets a valid pointer to a timex of zeroes, whose `modes` of zero means
    // that nothing is changed; it fills the rest in. All zeroes is a valid timex.
    let (answer, state) = unsafe {
        let answer = libc::adjtimex(state.as_mut_ptr());
        (answer, state.assume_init())
    };
    answer >= 0 && state.status & libc::STA_UNSYNC == 0
}

/// Wall-clock time of day in the local zone, for display only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalTime {
    /// Year, such as 2025.
    pub year: i32,
    /// 1 to 12.
    pub month: i32,
    /// 1 to 31.
    pub day: i32,
    /// 0 to 23.
    pub hour: i32,
    /// 0 to 59.
    pub minute: i32,
    /// 0 to 60.
    pub second: i32,
    /// 0 to 999 999 999.
    pub nanosecond: u32,
}

/// Wall-clock time since 1970, for display only: it jumps.
pub fn wall() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
}

/// A wall-clock time broken down in the local zone (localtime_r(3)).
pub fn local(wall: Duration) -> LocalTime {
    let mut tm = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // Seconds since 1970 fit every time_t until 2038, and those of 64 bits for ever. The type is not
    // named: libc calls it deprecated on musl, where it is about to become wider.
    let s = wall.as_secs().try_into().unwrap_or(0);
    // SAFETY: localtime_r(3) gets two valid pointers; it may read TZ from the environment,
    // which nothing writes: superd is single-threaded and never sets variables of its own.
    // All zeroes is a valid tm where it fails.
    let tm = unsafe {
        libc::localtime_r(&s, tm.as_mut_ptr());
        tm.assume_init()
    };
    LocalTime {
        year: tm.tm_year.saturating_add(1900),
        month: tm.tm_mon + 1,
        day: tm.tm_mday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
        second: tm.tm_sec,
        nanosecond: wall.subsec_nanos(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_set_in_the_past_has_expired_and_a_disarmed_one_has_not() {
        let t = Timer::new().unwrap();
        assert!(!t.drain());
        t.set(0).unwrap();
        // An absolute time in the past expires within the call.
        assert!(t.drain());
        assert!(!t.drain());
        t.set(monotonic() + 3_600_000_000_000).unwrap();
        assert!(!t.drain());
        t.set(1).unwrap();
        t.disarm().unwrap();
        assert!(!t.drain());
    }

    #[test]
    fn local_time_is_a_date() {
        let t = local(Duration::from_secs(1_700_000_000));
        assert_eq!((t.year, t.month), (2023, 11));
        assert!((14..=15).contains(&t.day));
        assert!(monotonic() > 0);
    }
}
