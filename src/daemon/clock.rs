//! The wall clock and the time zone, for services that are run at a time of day (`at`).
//!
//! The kernel says when the clock is set and when the machine comes out of suspend, by a timer
//! that expires never (TFD_TIMER_CANCEL_ON_SET, timerfd_create(2)). While no service goes by the
//! clock nothing is open, and it is never looked at.
//!
//! The zone is where the machine has it: TZ in superd's environment, else /etc/TZ (OpenWrt), else
//! /etc/localtime. It is read with the clock: when that is set, with each configuration, and right
//! before a run. Of one that cannot be understood the log tells, and UTC, or what it was before,
//! is taken.

use std::os::fd::AsRawFd;
use std::rc::Rc;

use mio::unix::SourceFd;
use mio::Interest;
use syslog::Severity;

use super::reactor::Reactor;
use super::token::Source;
use crate::config::files;
use crate::machine::event::Event;
use crate::machine::timer::Clock;
use crate::machine::zone::Zone;
use crate::sys::timer::{self, WallTimer};

/// The largest files of the zone database have some 4 KiB.
const CAP: usize = 64 << 10;

const DATABASE: &str = "/usr/share/zoneinfo";

/// The watch over the wall clock.
#[derive(Default)]
pub(super) struct Clocks {
    watch: Option<WallTimer>,
    zone: Rc<Zone>,
    /// What was said to be wrong with the zone.
    told: String,
    /// It was set, and that is to be told in this turn.
    is_due: bool,
}

impl Clocks {
    /// The kernel says that the clock was set.
    pub fn ready(&mut self) {
        // First forget it, then look: what comes between is told again.
        if let Some(watch) = &self.watch {
            watch.drain();
            self.is_due = true;
        }
    }

    fn read(&mut self) -> (Clock, Option<String>) {
        let mut news = None;
        match zone() {
            Ok(zone) if zone == *self.zone => self.told.clear(),
            Ok(zone) => {
                self.told.clear();
                self.zone = Rc::new(zone);
            }
            Err(why) if why == self.told => {}
            Err(why) => {
                self.told.clone_from(&why);
                let used = match *self.zone == Zone::default() {
                    true => "UTC is used",
                    false => "the one before is used",
                };
                // Whatever is in the environment, or in a file.
                news = Some(format!(
                    "the time zone is not understood: {why:.100}; {used}"
                ));
            }
        }
        let (at, unix, boot) = timer::clocks();
        let clock = Clock {
            at: crate::machine::time::Tick(at),
            unix,
            boot,
            zone: self.zone.clone(),
        };
        (clock, news)
    }
}

/// The rules of the time zone; an error says what is wrong with them.
fn zone() -> Result<Zone, String> {
    if let Some(text) = std::env::var_os("TZ").filter(|t| !t.is_empty()) {
        let Some(text) = text.to_str() else {
            return Err("TZ is no text".to_owned());
        };
        return named(text).ok_or_else(|| format!("TZ={text}"));
    }
    if let Some(bytes) = contents("/etc/TZ") {
        let text = String::from_utf8_lossy(&bytes);
        let text = text.lines().next().unwrap_or_default().trim();
        return match text {
            "" => Ok(Zone::default()),
            text => named(text).ok_or_else(|| format!("/etc/TZ says {text:?}")),
        };
    }
    match contents("/etc/localtime") {
        None => Ok(Zone::default()),
        Some(bytes) => Zone::from_file(&bytes).ok_or_else(|| "/etc/localtime".to_owned()),
    }
}

/// The rules themselves, or the name of a file with them: `Europe/Berlin`, `:/etc/localtime`.
fn named(text: &str) -> Option<Zone> {
    if let Some(zone) = Zone::from_text(text) {
        return Some(zone);
    }
    let name = text.strip_prefix(':').unwrap_or(text);
    let bytes = match name.starts_with('/') {
        true => contents(name),
        false if name.split('/').any(|part| part == "..") => None,
        false => contents(&format!("{DATABASE}/{name}")),
    };
    match (bytes, name) {
        (Some(bytes), _) => Zone::from_file(&bytes),
        // Names that mean the same everywhere, also where there is no database.
        (None, "UTC" | "GMT" | "Etc/UTC") => Some(Zone::default()),
        (None, _) => None,
    }
}

fn contents(path: &str) -> Option<Vec<u8>> {
    files::contents(path.as_ref(), CAP)
}

impl Reactor {
    /// Watches the wall clock, or no longer.
    pub(super) fn watch_clock(&mut self, wanted: bool) {
        let registry = self.poll.registry();
        if let Some(watch) = self.clocks.watch.take() {
            registry.deregister(&mut SourceFd(&watch.as_raw_fd())).ok(); // it was registered
        }
        if !wanted {
            return;
        }
        let watch = WallTimer::new().and_then(|watch| {
            let token = Source::Clock.token();
            registry.register(&mut SourceFd(&watch.as_raw_fd()), token, Interest::READABLE)?;
            Ok(watch)
        });
        match watch {
            Ok(watch) => self.clocks.watch = Some(watch),
            Err(e) => {
                let text = format!(
                    "the wall clock cannot be watched ({e}): services with `at` do not notice \
                     when it is set, until the next reload"
                );
                self.say(Severity::LOG_WARNING, &text);
            }
        }
    }

    /// Tells the machine what the clocks show.
    pub(super) fn read_clock(&mut self) {
        self.clocks.is_due = false;
        let (clock, news) = self.clocks.read();
        if let Some(text) = news {
            self.say(Severity::LOG_WARNING, &text);
        }
        self.feed(Event::Clock(Rc::new(clock)));
    }

    /// Tells the machine that the clock was set, if it was.
    pub(super) fn heed_clock(&mut self) {
        if self.clocks.is_due {
            self.read_clock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_its_rules_or_the_name_of_a_file() {
        assert_eq!(named("UTC"), named("UTC0").or(named("UTC")));
        assert_eq!(
            named("CET-1CEST,M3.5.0,M10.5.0/3").map(|z| z.offset_at(0)),
            Some(3600)
        );
        assert_eq!(named("../../../etc/passwd"), None);
        assert_eq!(named("/dev/zero"), None);
        assert_eq!(named("No/Such"), None);
        if std::path::Path::new("/usr/share/zoneinfo/Europe/Berlin").exists() {
            let berlin = named("Europe/Berlin").unwrap();
            let rule = named("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
            for month in 0..240 {
                let unix = 1_700_000_000 + month * 2_600_000;
                assert_eq!(berlin.offset_at(unix), rule.offset_at(unix), "{unix}");
            }
            assert_eq!(named(":/usr/share/zoneinfo/Europe/Berlin"), Some(berlin));
        }
    }
}
