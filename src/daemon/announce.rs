//! The socket of the init system that has started superd (NOTIFY_SOCKET, sd_notify(3)); what is
//! said there, and when, `machine::announce` decides.
//!
//! Not of `notify.rs`: that is superd's own socket, for its services. They never see this one,
//! nor the variables that name it (`spawn.rs`).
//!
//! Nothing of it outlives a change of the program or a killed superd: the variables stay in
//! the environment, and the next one says READY=1 again, which is true and does no harm.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::reactor::Reactor;
use crate::machine::announce::Herald;
use crate::machine::service::{Rest, Service, State};
use crate::machine::time::Tick;

/// Who has started superd, if it wants to hear.
#[derive(Debug)]
pub struct Announcer {
    socket: UnixDatagram,
    address: SocketAddr,
    pub(super) herald: Herald,
    counts: Option<Counts>,
}

impl Announcer {
    /// As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say; none when nobody wants to hear.
    ///
    /// # Errors
    /// Of socket(2), and an address that is none.
    pub fn of_environment(now: Tick) -> io::Result<Option<Announcer>> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|n| !n.is_empty()) else {
            return Ok(None);
        };
        let number = |name| std::env::var(name).ok()?.trim().parse::<u64>().ok();
        let is_for_us = number("WATCHDOG_PID").is_none_or(|p| p == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_for_us);
        let address = address(&name)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Some(Announcer {
            socket,
            address,
            herald: Herald::new(now, watchdog.map(Duration::from_micros)),
            counts: None,
        }))
    }

    fn send_what_is_due(&mut self, now: Tick) {
        while let Some((what, text)) = self.herald.due(now) {
            match self.socket.send_to_addr(text.as_bytes(), &self.address) {
                Ok(_) => self.herald.sent(now, what),
                Err(_) => return self.herald.not_sent(now),
            }
        }
    }
}

/// `@name` is an abstract one.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::other("neither a path nor an abstract name")),
    }
}

/// How many services there are of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Counts {
    all: u32,
    up: u32,
    starting: u32,
    stopping: u32,
    failed: u32,
}

impl Counts {
    fn of<'a>(services: impl Iterator<Item = &'a Service>) -> Counts {
        let mut counts = Counts::default();
        for service in services {
            counts.all += 1;
            match &service.state {
                State::Up(_) | State::Down(Rest::Done) => counts.up += 1,
                State::Waiting if service.blocked_by().is_some() => counts.failed += 1,
                State::Starting(_) | State::Waiting => counts.starting += 1,
                State::Stopping(..) | State::Killing(..) | State::Sweeping(_) => {
                    counts.stopping += 1;
                }
                State::Backoff { .. } | State::Down(Rest::Failed(_)) => counts.failed += 1,
                State::Down(Rest::Stopped | Rest::Finished | Rest::Scheduled) => {}
            }
        }
        counts
    }

    fn words(self) -> String {
        let s = if self.all == 1 { "" } else { "s" };
        let mut text = format!("{} service{s}: {} up", self.all, self.up);
        for (n, word) in [
            (self.starting, "starting"),
            (self.stopping, "stopping"),
            (self.failed, "failed"),
        ] {
            if n > 0 {
                text.push_str(&format!(", {n} {word}"));
            }
        }
        text
    }
}

impl Reactor {
    /// At the end of a turn: what whoever has started superd is to know.
    pub(super) fn announce(&mut self) {
        let (now, is_ending) = (self.now(), self.is_ending());
        let Some(announcer) = &mut self.announcer else {
            return;
        };
        if is_ending {
            let seconds = self.registry.plan().max_stop_seconds();
            announcer.herald.stopping(Duration::from_secs(seconds));
        }
        let counts = Counts::of(self.machine.services());
        if announcer.counts != Some(counts) {
            announcer.counts = Some(counts);
            announcer.herald.status(counts.words());
        }
        announcer.send_what_is_due(now);
    }

    /// The control socket is there and the services are being started.
    pub(super) fn announce_ready(&mut self) {
        if let Some(announcer) = &mut self.announcer {
            announcer.herald.ready();
        }
        self.announce();
    }

    /// Until [`Reactor::announce_ready`].
    pub(super) fn announce_reload(&mut self) {
        let now = self.now();
        if let Some(announcer) = &mut self.announcer {
            announcer.herald.reloading(now);
            announcer.send_what_is_due(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_an_abstract_name() {
        assert!(address(OsStr::new("/run/x"))
            .unwrap()
            .as_pathname()
            .is_some());
        let name = address(OsStr::new("@x")).unwrap();
        assert_eq!(name.as_abstract_name(), Some(&b"x"[..]));
        assert!(address(OsStr::new("vsock:2:3")).is_err());
        assert!(address(OsStr::new(&format!("/{}", "x".repeat(200)))).is_err());
    }

    #[test]
    fn the_status_is_a_sentence() {
        let counts = Counts {
            all: 3,
            up: 2,
            failed: 1,
            ..Counts::default()
        };
        assert_eq!(counts.words(), "3 services: 2 up, 1 failed");
    }
}
