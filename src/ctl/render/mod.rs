//! Words for people. Everything here makes strings out of replies; nothing is printed.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::machine::time::Span;

pub mod crash;
pub mod graph;
pub mod result;
pub mod status;
pub mod story;

/// Where the words go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    /// To a terminal: what could drive it is made visible.
    pub terminal: bool,
    /// Seconds since 1970, for display; none while the clock is obviously not set.
    pub now: Option<u64>,
}

/// No clock that is set shows a time before superd existed. Routers boot in 1970.
const CLOCK_IS_SET: u64 = 1_700_000_000;

impl Style {
    /// With the time of day from the clock.
    pub fn new(terminal: bool) -> Style {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        Style {
            terminal,
            now: Some(now).filter(|n| *n >= CLOCK_IS_SET),
        }
    }

    /// The same so much later, for what is told while it happens.
    pub fn after(self, time: Duration) -> Style {
        Style {
            now: self.now.map(|now| now.saturating_add(time.as_secs())),
            ..self
        }
    }

    /// `text` on one line, without anything that could drive a terminal.
    pub fn line(self, text: &str) -> String {
        if self.terminal {
            visible(text)
        } else {
            text.replace('\n', "\\n").replace('\r', "\\r")
        }
    }

    /// Date and time in UTC, if they are known: `2026-07-31 12:34:56Z`.
    pub fn at(self, ago_ms: u64) -> Option<String> {
        let then = self.now?.checked_sub(ago_ms / 1000)?;
        Some(date(then)).filter(|_| then >= CLOCK_IS_SET)
    }

    /// A time in seconds since 1970 as a day: `Tuesday` within the last week, else the date;
    /// none when either clock was not set.
    pub fn day(self, then: u64) -> Option<String> {
        let now = self.now?;
        if then < CLOCK_IS_SET || then > now {
            return None;
        }
        let (day, today) = (then / 86_400, now / 86_400);
        Some(match today - day {
            0 => "today".to_owned(),
            1..=6 => weekday(day).to_owned(),
            _ => date(then).split(' ').next().unwrap_or_default().to_owned(),
        })
    }

    /// The beginning of a log or event line: the time, else how long ago.
    pub fn stamp(self, ago_ms: u64) -> String {
        self.at(ago_ms)
            .unwrap_or_else(|| format!("{} ago", span(ago_ms)))
    }
}

/// Whether the character changes the direction in which its neighbours are shown.
fn turns_the_line(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes control characters, and those that change the direction of writing.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if c.is_ascii_control() => {
                write!(out, "\\x{:02x}", u32::from(c)).ok(); // a String takes everything
            }
            c if c.is_control() || turns_the_line(c) => {
                write!(out, "\\u{{{:x}}}", u32::from(c)).ok(); // a String takes everything
            }
            c => out.push(c),
        }
    }
    out
}

/// Says what went wrong, each line after the program's name: a configuration can have
/// more than one problem. That nobody reads it is no error: the exit status still tells.
pub fn complain(err: &mut dyn std::io::Write, program: &str, text: &str) {
    for line in text.lines() {
        writeln!(err, "{program}: {}", visible(line)).ok();
    }
}

/// The same for a line of JSON: escapes that mean the same to a program.
pub fn visible_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns_the_line(c) {
            write!(out, "\\u{:04x}", u32::from(c)).ok(); // a String takes everything
        } else {
            out.push(c);
        }
    }
    out
}

/// Milliseconds for people.
pub fn span(ms: u64) -> Span {
    Span(Duration::from_millis(ms))
}

/// `1 process`, `4 processes`.
pub fn count(n: u32, one: &str, many: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{n} {many}"),
    }
}

/// KiB for people: `812 KiB`, `12.3 MiB`, `1.2 GiB`.
pub fn memory(kib: u64) -> String {
    let tenths = |unit: u64| {
        let whole = kib / unit;
        format!("{whole}.{}", (kib % unit) * 10 / unit)
    };
    match kib {
        0..=1023 => format!("{kib} KiB"),
        1024..=1_048_575 => format!("{} MiB", tenths(1024)),
        _ => format!("{} GiB", tenths(1024 * 1024)),
    }
}

/// Rows as columns that line up, two spaces between them; the last one is as wide as it is.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:<width$}  ").ok(); // a String takes everything
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The day of the week of a day counted from 1 January 1970, which was a Thursday.
fn weekday(day: u64) -> &'static str {
    match day % 7 {
        0 => "Thursday",
        1 => "Friday",
        2 => "Saturday",
        3 => "Sunday",
        4 => "Monday",
        5 => "Tuesday",
        _ => "Wednesday",
    }
}

/// Seconds since 1970 as a date, by the days of the civil calendar counted from
/// 1 March of year 0 so that the leap day is the last of its year.
fn date(seconds: u64) -> String {
    let (days, day_seconds) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (
        day_seconds / 3600,
        day_seconds % 3600 / 60,
        day_seconds % 60,
    );
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00Z");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(date(1_709_251_199), "2024-02-29 23:59:59Z");
        assert_eq!(date(1_767_225_600), "2026-01-01 00:00:00Z");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00:00Z");
    }

    #[test]
    fn a_day_is_a_day_of_the_week_for_a_week() {
        // 2026-01-01 00:00 UTC, a Thursday.
        let style = Style {
            terminal: true,
            now: Some(1_767_225_600),
        };
        let day = |then| style.day(then).unwrap_or_default();
        assert_eq!(day(1_767_225_600), "today");
        assert_eq!(day(1_767_225_599), "Wednesday");
        assert_eq!(day(1_767_225_600 - 2 * 86_400), "Tuesday");
        assert_eq!(day(1_767_225_600 - 6 * 86_400), "Friday");
        assert_eq!(day(1_767_225_600 - 7 * 86_400), "2025-12-25");
        assert_eq!(day(0), "", "the clock was not set then");
        assert_eq!(day(1_767_300_000), "", "the clock went back");
        let unset = Style {
            terminal: true,
            now: None,
        };
        assert_eq!(unset.day(1_767_225_600), None);
    }

    #[test]
    fn what_is_told_later_has_a_later_stamp() {
        let style = Style {
            terminal: false,
            now: Some(1_767_225_600),
        };
        let later = style.after(Duration::from_millis(61_500));
        assert_eq!(later.stamp(0), "2026-01-01 00:01:01Z");
        assert_eq!(later.stamp(1000), "2026-01-01 00:01:00Z");
    }

    #[test]
    fn a_clock_that_is_not_set_shows_no_date() {
        let unset = Style {
            terminal: false,
            now: None,
        };
        assert_eq!(unset.stamp(3200), "3.2 s ago");
        let set = Style {
            terminal: false,
            now: Some(1_767_225_600),
        };
        assert_eq!(set.stamp(1000), "2025-12-31 23:59:59Z");
        // Before the clock was set, or before the world began.
        assert_eq!(set.at(u64::MAX), None);
    }

    #[test]
    fn hostile_text_cannot_drive_a_terminal() {
        let nasty = "a\u{1b}[2J\u{9b}1m\u{7f}\u{202e}b\r\n\tä";
        assert_eq!(visible(nasty), "a\\x1b[2J\\u{9b}1m\\x7f\\u{202e}b\\r\\n\tä");
        let json = visible_json("{\"a\":\"\u{7f}\u{9b}ä\"}");
        assert_eq!(json, "{\"a\":\"\\u007f\\u009bä\"}");
    }

    #[test]
    fn memory_is_in_the_unit_that_fits() {
        assert_eq!(memory(812), "812 KiB");
        assert_eq!(memory(12_600), "12.3 MiB");
        assert_eq!(memory(1_300_000), "1.2 GiB");
    }
}
