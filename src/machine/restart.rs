//! Restart policy: whether to start again, and after which pause. Pure arithmetic.

use std::collections::VecDeque;
use std::time::Duration;

use super::spec::{Policy, Restart};
use super::time::Tick;
use crate::json::{FromJson, ToJson};

/// The shortest pause after a start that failed before the program ran: without it a
/// full process table would be hammered.
pub const SPAWN_RETRY: Duration = Duration::from_millis(100);

/// The pause before a start that failed for a reason that does not pass by itself is
/// tried again, where no crash loop is configured.
pub const LASTING_FAILURE_RETRY: Duration = Duration::from_secs(300);

/// A small random number generator (xorshift64*), seeded from outside.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Any seed will do.
    pub fn new(seed: u64) -> Rng {
        Rng(seed | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// What is remembered of earlier runs.
#[derive(Clone, PartialEq, Debug, Default, ToJson, FromJson)]
pub struct Record {
    /// Runs in a row that were not stable.
    failures: u32,
    /// When the last failures happened, at most `burst` + 1 of them.
    recent: VecDeque<Tick>,
}

/// What to do after an end that nobody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Start again after this pause, which may be zero.
    After(Duration),
    /// A crash loop: start again after this long pause.
    Slowly(Duration),
    /// Do not start again.
    Stay,
}

/// How an instance ended, as far as the policy is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// It ran and ended with a success.
    Success,
    /// It ran and failed.
    Failure,
    /// It never ran, for a reason that may pass by itself (EAGAIN).
    PassingSpawnError,
    /// It never ran, for a reason that somebody has to mend (ENOENT).
    LastingSpawnError,
}

impl Record {
    /// Somebody asked for a start, or what is started changed: begin afresh.
    pub fn clear(&mut self) {
        *self = Record::default();
    }

    /// Runs in a row that were not stable.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Decide, and remember this end.
    pub fn next(
        &mut self,
        rule: &Restart,
        now: Tick,
        ran: Duration,
        how: How,
        rng: &mut Rng,
    ) -> Next {
        match (rule.policy, how) {
            (Policy::Never, _) | (Policy::OnFailure, How::Success) => return Next::Stay,
            (Policy::Always | Policy::OnFailure, _) => {}
        }
        let slow = rule
            .crash_loop
            .as_ref()
            .map_or(LASTING_FAILURE_RETRY, |c| c.retry);
        if how == How::LastingSpawnError {
            return Next::Slowly(slow);
        }
        if how != How::Success && self.is_crash_loop(rule, now) {
            return Next::Slowly(slow);
        }
        if ran >= rule.stable {
            self.failures = 0;
        }
        let pause = self.pause(rule, rng);
        self.failures = self.failures.saturating_add(1);
        match how {
            How::PassingSpawnError => Next::After(pause.max(SPAWN_RETRY)),
            How::Success | How::Failure | How::LastingSpawnError => Next::After(pause),
        }
    }

    /// Remembers a failure; true when it is one too many.
    fn is_crash_loop(&mut self, rule: &Restart, now: Tick) -> bool {
        let Some(limit) = &rule.crash_loop else {
            return false;
        };
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|t| now - *t > limit.within)
            || self.recent.len() > limit.burst as usize + 1
        {
            self.recent.pop_front();
        }
        self.recent.len() > limit.burst as usize
    }

    /// Nothing for the first restart after a stable run, then `delay`, doubling up to
    /// `max_delay`, each 10 % shorter or longer by chance so that services which fail
    /// together do not come back together; the longest is `max_delay` with that.
    fn pause(&self, rule: &Restart, rng: &mut Rng) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let full = rule
            .delay
            .checked_mul(1 << doublings.min(20))
            .unwrap_or(rule.max_delay)
            .min(rule.max_delay / 11 * 10);
        let tenth = full / 10;
        let ns = u64::try_from(tenth.as_nanos()).unwrap_or(u64::MAX / 4);
        if ns == 0 {
            return full;
        }
        full - tenth + Duration::from_nanos(rng.draw() % (2 * ns + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::CrashLoop;
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    fn rule() -> Restart {
        Restart {
            policy: Policy::Always,
            delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(30),
            stable: Duration::from_secs(10),
            crash_loop: None,
        }
    }

    fn secs(s: u64) -> Tick {
        Tick(s * 1_000_000_000)
    }

    #[test]
    fn the_first_restart_is_immediate_and_then_pauses_double_up_to_the_limit() {
        let (mut record, mut rng) = (Record::default(), Rng::new(7));
        let mut pauses = Vec::new();
        for i in 0..14 {
            match record.next(&rule(), secs(i), SHORT, How::Failure, &mut rng) {
                Next::After(d) => pauses.push(d),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(pauses[0], Duration::ZERO);
        for (i, d) in pauses.iter().enumerate().skip(1) {
            let full = Duration::from_millis(200 << (i - 1)).min(Duration::from_secs(30) * 10 / 11);
            assert!(
                *d >= full * 9 / 10 && *d <= full * 11 / 10,
                "pause {i}: {d:?}"
            );
            // Issue 5: chance made it longer than the longest.
            assert!(*d <= Duration::from_secs(30), "pause {i}: {d:?}");
        }
        assert_ne!(pauses[12], pauses[13]);
        let stable = Duration::from_secs(10);
        assert_eq!(
            record.next(&rule(), secs(99), stable, How::Failure, &mut rng),
            Next::After(Duration::ZERO)
        );
    }

    #[test]
    fn a_crash_loop_is_retried_slowly_and_clean_exits_do_not_count() {
        let rule = Restart {
            crash_loop: Some(CrashLoop {
                burst: 5,
                within: Duration::from_secs(60),
                retry: Duration::from_secs(300),
            }),
            ..rule()
        };
        let (mut record, mut rng) = (Record::default(), Rng::new(7));
        for i in 0..20 {
            let next = record.next(&rule, secs(i), SHORT, How::Success, &mut rng);
            assert!(matches!(next, Next::After(_)));
        }
        for i in 20..25 {
            let next = record.next(&rule, secs(i), SHORT, How::Failure, &mut rng);
            assert!(matches!(next, Next::After(_)), "failure {i}");
        }
        let sixth = record.next(&rule, secs(25), SHORT, How::Failure, &mut rng);
        assert_eq!(sixth, Next::Slowly(Duration::from_secs(300)));
        let later = record.next(&rule, secs(325), SHORT, How::Failure, &mut rng);
        assert!(matches!(later, Next::After(_)), "the window has passed");
        record.clear();
        let fresh = record.next(&rule, secs(326), SHORT, How::Failure, &mut rng);
        assert_eq!(fresh, Next::After(Duration::ZERO));
    }

    #[test]
    fn the_policy_decides_which_exits_are_followed_by_a_start() {
        let mut rng = Rng::new(1);
        let mut next = |policy, how| {
            Record::default().next(&Restart { policy, ..rule() }, secs(1), SHORT, how, &mut rng)
        };
        assert_eq!(next(Policy::Never, How::Failure), Next::Stay);
        assert_eq!(next(Policy::OnFailure, How::Success), Next::Stay);
        assert_eq!(
            next(Policy::OnFailure, How::Failure),
            Next::After(Duration::ZERO)
        );
        assert_eq!(
            next(Policy::Always, How::Success),
            Next::After(Duration::ZERO)
        );
        assert_eq!(
            next(Policy::Always, How::PassingSpawnError),
            Next::After(SPAWN_RETRY)
        );
        assert_eq!(
            next(Policy::Always, How::LastingSpawnError),
            Next::Slowly(LASTING_FAILURE_RETRY)
        );
    }
}
