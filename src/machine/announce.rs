//! What superd says of itself to the init system that has started it (sd_notify(3)): which
//! message, and when. The socket is the daemon's.
//!
//! Messages about the life of superd (READY, RELOADING, STOPPING) go out in their order, each
//! in a datagram of its own. STATUS is only ever the newest, at most once a second. WATCHDOG
//! goes out twice in the time that the init system has asked for. What could not be sent is
//! kept and tried again with growing pauses; the list is bounded, and the oldest goes.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::Tick;

/// STATUS at most this often.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// The first pause after a message that could not be sent.
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// The longest.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Messages that are kept: a reload makes two.
const KEPT: usize = 8;

/// What is to be said, and when.
#[derive(Debug)]
pub struct Herald {
    /// Half of WATCHDOG_USEC.
    watchdog: Option<Duration>,
    watchdog_at: Tick,
    /// Messages that are not sent yet, oldest first.
    waiting: VecDeque<String>,
    /// What STATUS is to be, as last told.
    status: String,
    /// What it is out there.
    status_said: String,
    status_from: Tick,
    /// After a message that could not be sent: nothing before this.
    retry: Option<(Tick, Duration)>,
    is_stopping: bool,
}

/// What of a [`Herald`] is in a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The oldest message.
    Message,
    /// STATUS.
    Status,
    /// WATCHDOG=1.
    Watchdog,
}

impl Herald {
    /// `watchdog`: WATCHDOG_USEC.
    pub fn new(now: Tick, watchdog: Option<Duration>) -> Herald {
        Herald {
            watchdog: watchdog.filter(|w| !w.is_zero()).map(|w| w / 2),
            watchdog_at: now,
            waiting: VecDeque::new(),
            status: String::new(),
            status_said: String::new(),
            status_from: now,
            retry: None,
            is_stopping: false,
        }
    }

    /// superd does its work; after a start, and after [`Herald::reloading`].
    pub fn ready(&mut self) {
        self.add("READY=1".to_owned());
    }

    /// superd reads its configuration again. `now` is CLOCK_MONOTONIC, as systemd wants it.
    pub fn reloading(&mut self, now: Tick) {
        let micros = now.0 / 1000;
        self.add(format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// superd is to end, which takes at most this long. Only the first call says so.
    pub fn stopping(&mut self, longest: Duration) {
        if !std::mem::replace(&mut self.is_stopping, true) {
            let micros = longest.as_micros();
            self.add(format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}"));
        }
    }

    /// What superd does, in words.
    pub fn status(&mut self, text: String) {
        self.status = text;
    }

    fn add(&mut self, message: String) {
        if self.waiting.len() >= KEPT {
            self.waiting.pop_front();
        }
        self.waiting.push_back(message);
    }

    /// A datagram that is due; tell [`Herald::sent`] or [`Herald::not_sent`] what became of it.
    pub fn due(&self, now: Tick) -> Option<(What, String)> {
        if self.retry.is_some_and(|(at, _)| now < at) {
            return None;
        }
        if let Some(message) = self.waiting.front() {
            return Some((What::Message, message.clone()));
        }
        if self.status != self.status_said && now >= self.status_from {
            return Some((What::Status, format!("STATUS={}", self.status)));
        }
        (self.watchdog.is_some() && now >= self.watchdog_at)
            .then(|| (What::Watchdog, "WATCHDOG=1".to_owned()))
    }

    /// It is on its way.
    pub fn sent(&mut self, now: Tick, what: What) {
        self.retry = None;
        match what {
            What::Message => {
                self.waiting.pop_front();
            }
            What::Status => {
                self.status_said.clone_from(&self.status);
                self.status_from = now + STATUS_PAUSE;
            }
            What::Watchdog => self.watchdog_at = now + self.watchdog.unwrap_or(LAST_RETRY),
        }
    }

    /// Nobody takes it now.
    pub fn not_sent(&mut self, now: Tick) {
        let pause = self.retry.map_or(FIRST_RETRY, |(_, last)| last * 2);
        let pause = pause.min(LAST_RETRY);
        self.retry = Some((now + pause, pause));
    }

    /// When [`Herald::due`] is to be asked again.
    pub fn next_deadline(&self) -> Option<Tick> {
        let message = (!self.waiting.is_empty()).then_some(Tick(1)); // 0 would disarm a timer
        let status = (self.status != self.status_said).then_some(self.status_from);
        let watchdog = self.watchdog.map(|_| self.watchdog_at);
        let due = [message, status, watchdog].into_iter().flatten().min()?;
        Some(self.retry.map_or(due, |(at, _)| due.max(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Tick {
        Tick(n * 1_000_000)
    }

    /// Sends what is due.
    fn all(herald: &mut Herald, now: Tick) -> Vec<String> {
        let mut said = Vec::new();
        while let Some((what, text)) = herald.due(now) {
            herald.sent(now, what);
            said.push(text);
        }
        said
    }

    #[test]
    fn messages_keep_their_order_and_status_comes_after_them() {
        let mut herald = Herald::new(ms(1), None);
        herald.status("1 service: 1 up".to_owned());
        herald.ready();
        herald.reloading(ms(5));
        herald.ready();
        herald.stopping(Duration::from_secs(17));
        herald.stopping(Duration::from_secs(99));
        assert_eq!(
            all(&mut herald, ms(1)),
            [
                "READY=1",
                "RELOADING=1\nMONOTONIC_USEC=5000",
                "READY=1",
                "STOPPING=1\nEXTEND_TIMEOUT_USEC=17000000",
                "STATUS=1 service: 1 up"
            ]
        );
        assert_eq!(herald.next_deadline(), None, "nothing wakes superd up");
    }

    #[test]
    fn status_is_the_newest_and_at_most_once_a_second() {
        let mut herald = Herald::new(ms(0), None);
        herald.status("a".to_owned());
        assert_eq!(all(&mut herald, ms(0)), ["STATUS=a"]);
        for text in ["b", "c", "a"] {
            herald.status(text.to_owned());
            assert_eq!(all(&mut herald, ms(10)), [""; 0]);
        }
        assert_eq!(herald.next_deadline(), None, "it is what it was");
        herald.status("d".to_owned());
        assert_eq!(herald.next_deadline(), Some(ms(1000)));
        assert_eq!(all(&mut herald, ms(1000)), ["STATUS=d"]);
    }

    #[test]
    fn the_watchdog_is_told_twice_in_its_time() {
        let mut herald = Herald::new(ms(0), Some(Duration::from_secs(2)));
        let mut told = 0;
        for now in (0..10_000).step_by(100) {
            told += all(&mut herald, ms(now)).len();
        }
        assert_eq!(told, 10);
        assert_eq!(
            Herald::new(ms(0), Some(Duration::ZERO)).next_deadline(),
            None
        );
    }

    #[test]
    fn what_nobody_takes_is_kept_and_bounded_and_pauses_grow() {
        let mut herald = Herald::new(ms(0), None);
        for _ in 0..1000 {
            herald.reloading(ms(1));
            herald.ready();
        }
        let mut now = ms(1);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            assert!(herald.due(now).is_some());
            herald.not_sent(now);
            assert_eq!(herald.due(now), None);
            let next = herald.next_deadline().unwrap();
            pauses.push(next - now);
            now = next;
        }
        assert!(pauses.windows(2).all(|p| p[0] <= p[1]));
        assert_eq!(pauses.last(), Some(&LAST_RETRY));
        let said = all(&mut herald, now);
        assert_eq!(said.len(), KEPT);
        assert_eq!(said.last().unwrap(), "READY=1");
    }
}
