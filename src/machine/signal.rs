//! Signal numbers and their names, as `kill -l` spells them. No signal is sent here.

use std::fmt;
use std::str::FromStr;

use crate::json::{FromJson, ToJson};

/// A signal number of Linux, 1 to 64 (`signal(7)`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ToJson, FromJson)]
#[serde(transparent)]
pub struct Signal(pub i32);

/// The name without `SIG`; the C library has no table of them that is safe to ask.
fn name(number: i32) -> Option<&'static str> {
    signal_hook::low_level::signal_name(number).map(|n| n.strip_prefix("SIG").unwrap_or(n))
}

impl Signal {
    /// SIGHUP.
    pub const HUP: Signal = Signal(libc::SIGHUP);
    /// SIGINT.
    pub const INT: Signal = Signal(libc::SIGINT);
    /// SIGQUIT.
    pub const QUIT: Signal = Signal(libc::SIGQUIT);
    /// SIGKILL.
    pub const KILL: Signal = Signal(libc::SIGKILL);
    /// SIGUSR1.
    pub const USR1: Signal = Signal(libc::SIGUSR1);
    /// SIGUSR2.
    pub const USR2: Signal = Signal(libc::SIGUSR2);
    /// SIGTERM.
    pub const TERM: Signal = Signal(libc::SIGTERM);

    /// Whether a program that does nothing about it ends by it.
    pub fn ends_a_process(self) -> bool {
        let stops = matches!(
            self.0,
            libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU
        );
        self.ends_or_stops_a_process() && !stops
    }

    /// Whether a program that does nothing about it ends by it, or is stopped by it.
    /// Such a signal during a stop would be a second stop.
    pub fn ends_or_stops_a_process(self) -> bool {
        !matches!(
            self.0,
            libc::SIGCHLD | libc::SIGCONT | libc::SIGURG | libc::SIGWINCH
        )
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Signal {
    type Err = String;

    /// Takes `TERM`, `SIGTERM`, `term` and `15`.
    fn from_str(text: &str) -> Result<Signal, String> {
        let upper = text.to_ascii_uppercase();
        let wanted = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(n) = (1..=64).find(|n| name(*n) == Some(wanted)) {
            return Ok(Signal(n));
        }
        match wanted.parse::<i32>() {
            Ok(n) if (1..=64).contains(&n) => Ok(Signal(n)),
            _ => Err(format!(
                "`{text}` is not a signal (write TERM, HUP, USR1 ... or a number from 1 to 64)"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_from_its_number() {
        for n in 1..=64 {
            assert_eq!(Signal(n).to_string().parse::<Signal>().unwrap(), Signal(n));
        }
        for (word, n) in [
            ("HUP", 1),
            ("INT", 2),
            ("KILL", 9),
            ("TERM", 15),
            ("USR2", 12),
        ] {
            assert_eq!(word.parse::<Signal>().unwrap(), Signal(n));
            assert_eq!(Signal(n).to_string(), word);
        }
        assert_eq!("sigusr1".parse::<Signal>().unwrap(), Signal::USR1);
        assert_eq!("34".parse::<Signal>().unwrap().to_string(), "34");
        assert!("TREM".parse::<Signal>().is_err());
        assert!("0".parse::<Signal>().is_err());
    }
}
