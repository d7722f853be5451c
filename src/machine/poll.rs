//! When to look at what sends no event: ports, trees, and what is stuck before a KILL.

use std::time::Duration;

use super::time::Tick;

/// The first pause between two looks at a condition that sends no event.
pub const POLL_FIRST: Duration = Duration::from_millis(1);
/// The longest pause between two such looks.
pub const POLL_LONGEST: Duration = Duration::from_millis(50);

/// A KILL at a deadline is preceded by a look at what is stuck, so much earlier: the look
/// must not make the KILL late.
pub const LOOK_AHEAD: Duration = Duration::from_millis(20);

/// When to look before a wait that began then and ends then.
pub fn look_at(began: Tick, deadline: Tick) -> Tick {
    let ahead = LOOK_AHEAD.min((deadline - began) / 2);
    began + ((deadline - began).saturating_sub(ahead))
}

/// A look that is repeated with growing pauses.
#[derive(Clone, PartialEq, Debug)]
pub struct Poll {
    at: Tick,
    pause: Duration,
    longest: Duration,
}

impl Poll {
    /// The first look is long due.
    pub fn at_once() -> Poll {
        Poll::begin(Tick(0))
    }

    /// The first look is `POLL_FIRST` from now.
    pub fn begin(now: Tick) -> Poll {
        Poll::up_to(POLL_LONGEST, now)
    }

    /// The same with another longest pause.
    pub fn up_to(longest: Duration, now: Tick) -> Poll {
        Poll {
            at: now + POLL_FIRST,
            pause: POLL_FIRST,
            longest,
        }
    }

    /// When to look.
    pub fn at(&self) -> Tick {
        self.at
    }

    /// If it is time to look: yes, and plan the next look.
    pub fn is_due(&mut self, now: Tick) -> bool {
        if now < self.at {
            return false;
        }
        self.pause = (self.pause * 2).min(self.longest);
        self.at = now + self.pause;
        true
    }
}
