//! The rules of a time zone: what the local clock shows at a moment, and at which moment it
//! shows a time of day. Pure: the daemon reads the rules from where the machine has them.
//!
//! Two forms: the text of TZ (POSIX.1, `CET-1CEST,M3.5.0,M10.5.0/3`, as OpenWrt's /etc/TZ has
//! it), and a file of the zone database (tzfile(5), RFC 9636), which is a list of changes and then
//! such a text.
//!
//! Not the C library's localtime(3): that reads files by itself, whenever it likes, never again
//! after the first time on musl, and without OpenWrt's /etc/TZ in a static program.
//!
//! A little long: two forms are read, and one question is asked of both.

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// One day of a year, and the local time of it at which the clocks are changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Change {
    day: Day,
    /// Seconds after the beginning of that day, before it or later than it where negative or large.
    at: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Day {
    /// `Jn`: 1 to 365, the 29th of February is never counted.
    Julian(i64),
    /// `n`: 0 to 365.
    OfYear(i64),
    /// `Mm.w.d`: the w-th (5: the last) of this weekday of this month.
    Weekday { month: i64, week: i64, weekday: i64 },
}

/// Local time minus UTC, in seconds: in winter, and in summer with the days of the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Rule {
    standard: i64,
    summer: Option<(i64, Change, Change)>,
}

/// A time zone. The default is UTC.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Zone {
    /// From when on, and which offset, in order.
    changes: Vec<(i64, i64)>,
    /// Before the first of them, where there are some.
    before: i64,
    /// After the last of them.
    rule: Option<Rule>,
}

impl Zone {
    /// As TZ says it; none: it is not of that form.
    pub fn from_text(text: &str) -> Option<Zone> {
        let rule = Some(Text(text.as_bytes()).rule()?);
        Some(Zone {
            rule,
            ..Zone::default()
        })
    }

    /// As a file of the zone database has it; none: it is not one.
    pub fn from_file(bytes: &[u8]) -> Option<Zone> {
        let (first, rest) = Block::read(bytes, 4)?;
        if first.version == 0 {
            return first.zone();
        }
        let (second, rest) = Block::read(rest, 8)?;
        let mut zone = second.zone()?;
        let line = rest.strip_prefix(b"\n")?.split(|b| *b == b'\n').next()?;
        // Empty: what holds after the last change holds for ever.
        if !line.is_empty() {
            zone.rule = Some(Text(line).rule()?);
        }
        Some(zone)
    }

    /// Local time minus UTC at this moment, in seconds.
    pub fn offset_at(&self, unix: i64) -> i64 {
        let after = self.changes.partition_point(|(at, _)| *at <= unix);
        let last = after.checked_sub(1).and_then(|n| self.changes.get(n));
        match (last, &self.rule) {
            (None, None) => self.before,
            (None, Some(_)) if !self.changes.is_empty() => self.before,
            (_, Some(rule)) if after == self.changes.len() => rule.offset_at(unix),
            (Some((_, offset)), _) => *offset,
            (None, Some(rule)) => rule.offset_at(unix),
        }
    }

    /// The day that the local clock shows, counted from 1970.
    pub fn day_at(&self, unix: i64) -> i64 {
        unix.saturating_add(self.offset_at(unix)).div_euclid(DAY)
    }

    /// The moment of a time of day (in seconds). Of a time that comes twice, when the clocks
    /// are put back, the first; of one that is left out, when they are put forward, the change.
    pub fn moment(&self, day: i64, time: i64) -> i64 {
        let local = day.saturating_mul(DAY).saturating_add(time);
        let old = self.offset_at(local.saturating_sub(DAY));
        let new = self.offset_at(local.saturating_add(DAY));
        let moments = [
            local.saturating_sub(old.max(new)),
            local.saturating_sub(old.min(new)),
        ];
        let shows = |at: &&i64| at.saturating_add(self.offset_at(**at)) == local;
        if let Some(at) = moments.iter().find(shows) {
            return *at;
        }
        // Left out: somewhere between the two the clocks go from the old to the new.
        let [mut low, mut high] = moments;
        while high.saturating_sub(low) > 1 {
            let middle = low.midpoint(high);
            match self.offset_at(middle) == old {
                true => low = middle,
                false => high = middle,
            }
        }
        high
    }
}

impl Rule {
    fn offset_at(&self, unix: i64) -> i64 {
        let Some((summer, begin, end)) = &self.summer else {
            return self.standard;
        };
        let year = year_of(unix.saturating_add(self.standard).div_euclid(DAY));
        let begin = begin.moment(year).saturating_sub(self.standard);
        let end = end.moment(year).saturating_sub(*summer);
        let is_summer = match begin <= end {
            true => begin <= unix && unix < end,
            // South of the equator.
            false => !(end <= unix && unix < begin),
        };
        match is_summer {
            true => *summer,
            false => self.standard,
        }
    }
}

impl Change {
    /// In seconds since 1970, on the clock that is to be changed.
    fn moment(&self, year: i64) -> i64 {
        let first = day_of(year, 1);
        let day = match self.day {
            Day::OfYear(n) => first.saturating_add(n),
            Day::Julian(n) => {
                let skipped = i64::from(is_leap(year) && n >= 60);
                first.saturating_add(n - 1 + skipped)
            }
            Day::Weekday {
                month,
                week,
                weekday,
            } => {
                let first = day_of(year, month);
                // 1970 began on a Thursday.
                let ahead = (weekday - (first.saturating_add(4)).rem_euclid(7)).rem_euclid(7);
                let day = first.saturating_add(ahead + 7 * (week - 1));
                let next = match month {
                    12 => day_of(year.saturating_add(1), 1),
                    month => day_of(year, month + 1),
                };
                if day >= next {
                    day.saturating_sub(7)
                } else {
                    day
                }
            }
        };
        day.saturating_mul(DAY).saturating_add(self.at)
    }
}

fn is_leap(year: i64) -> bool {
    year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0)
}

/// The first of a month (1 to 12), in days since 1970.
fn day_of(year: i64, month: i64) -> i64 {
    // Years that begin in March end with the day that is not always there.
    let year = year.saturating_sub(i64::from(month <= 2));
    let of_year = (153 * ((month + 9).rem_euclid(12)) + 2) / 5;
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = year.saturating_mul(365).saturating_add(leaps);
    days.saturating_add(of_year).saturating_sub(719_468)
}

/// The year of a day since 1970.
fn year_of(day: i64) -> i64 {
    // 400 years have 146 097 days: near enough to have only to look on both sides.
    let near = day
        .saturating_mul(400)
        .div_euclid(146_097)
        .saturating_add(1970);
    let begins = |year: &i64| day_of(*year, 1) <= day;
    let years = [near.saturating_add(1), near, near.saturating_sub(1)];
    years.into_iter().find(begins).unwrap_or(near)
}

/// What is left of a TZ text.
struct Text<'t>(&'t [u8]);

impl Text<'_> {
    fn rule(mut self) -> Option<Rule> {
        self.name()?;
        // West is positive there.
        let standard = -self.time(24)?;
        if self.0.is_empty() {
            return Some(Rule {
                standard,
                summer: None,
            });
        }
        self.name()?;
        let summer = match self.0.first() {
            Some(b',') | None => standard + 3600,
            Some(_) => -self.time(24)?,
        };
        let (begin, end) = match self.0.is_empty() {
            // What the C libraries take where nothing is said.
            true => (Text(b"M3.2.0").change()?, Text(b"M11.1.0").change()?),
            false => {
                self.expect(b',')?;
                let begin = self.change()?;
                self.expect(b',')?;
                (begin, self.change()?)
            }
        };
        let is_all = self.0.is_empty();
        is_all.then_some(Rule {
            standard,
            summer: Some((summer, begin, end)),
        })
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    /// `CET`, or anything in `<>`.
    fn name(&mut self) -> Option<()> {
        let (name, rest) = match self.0.strip_prefix(b"<") {
            Some(text) => {
                let end = text.iter().position(|b| *b == b'>')?;
                let (name, rest) = text.split_at_checked(end)?;
                (name, rest.strip_prefix(b">")?)
            }
            None => {
                let is_letter = |b: &u8| b.is_ascii_alphabetic();
                let end = self.0.iter().position(|b| !is_letter(b));
                self.0.split_at_checked(end.unwrap_or(self.0.len()))?
            }
        };
        self.0 = rest;
        (name.len() >= 3).then_some(())
    }

    fn number(&mut self, most: i64) -> Option<i64> {
        let end = self.0.iter().position(|b| !b.is_ascii_digit());
        let (digits, rest) = self.0.split_at_checked(end.unwrap_or(self.0.len()))?;
        let n: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        self.0 = rest;
        (n <= most).then_some(n)
    }

    /// `[+-]hh[:mm[:ss]]`, in seconds.
    fn time(&mut self, most: i64) -> Option<i64> {
        let sign = match self.0.first()? {
            b'-' => -1,
            _ => 1,
        };
        if let [b'+' | b'-', rest @ ..] = self.0 {
            self.0 = rest;
        }
        let mut seconds = self.number(most)? * 3600;
        for unit in [60, 1] {
            if let [b':', rest @ ..] = self.0 {
                self.0 = rest;
                seconds += self.number(59)? * unit;
            } else {
                break;
            }
        }
        Some(sign * seconds)
    }

    fn change(&mut self) -> Option<Change> {
        let day = match self.0 {
            [b'J', rest @ ..] => {
                self.0 = rest;
                Day::Julian(self.number(365)?.max(1))
            }
            [b'M', rest @ ..] => {
                self.0 = rest;
                let month = self.number(12)?;
                self.expect(b'.')?;
                let week = self.number(5)?;
                self.expect(b'.')?;
                let weekday = self.number(6)?;
                if month < 1 || week < 1 {
                    return None;
                }
                Day::Weekday {
                    month,
                    week,
                    weekday,
                }
            }
            _ => Day::OfYear(self.number(365)?),
        };
        let at = match self.0 {
            [b'/', rest @ ..] => {
                self.0 = rest;
                self.time(167)?
            }
            _ => 2 * 3600,
        };
        Some(Change { day, at })
    }
}

/// The data of a file, with times of 4 or 8 bytes.
struct Block<'f> {
    version: u8,
    size: usize,
    times: &'f [u8],
    kinds: &'f [u8],
    /// Six bytes each: the offset, whether it is summer, the place of its name.
    types: &'f [u8],
}

impl<'f> Block<'f> {
    /// The first one in there, and what follows it.
    fn read(bytes: &'f [u8], size: usize) -> Option<(Block<'f>, &'f [u8])> {
        let (head, mut rest) = bytes.split_at_checked(44)?;
        let head = head.strip_prefix(b"TZif")?;
        let count = |n: usize| {
            let at = 16 + 4 * n;
            let four = head.get(at..at + 4)?;
            usize::try_from(number(four)?).ok()
        };
        let mut take = |n: usize, each: usize| {
            let (this, left) = rest.split_at_checked(n.checked_mul(each)?)?;
            rest = left;
            Some(this)
        };
        let [isut, isstd, leaps, times, types, chars] = [
            count(0)?,
            count(1)?,
            count(2)?,
            count(3)?,
            count(4)?,
            count(5)?,
        ];
        let block = Block {
            version: *head.first()?,
            size,
            times: take(times, size)?,
            kinds: take(times, 1)?,
            types: take(types, 6)?,
        };
        take(chars, 1)?;
        take(leaps, size + 4)?;
        take(isstd, 1)?;
        take(isut, 1)?;
        Some((block, rest))
    }

    fn offset(&self, kind: usize) -> Option<i64> {
        let at = kind.checked_mul(6)?;
        let offset = number(self.types.get(at..at + 4)?)?;
        // RFC 9636: not more than about a day.
        (-93_600..=93_600).contains(&offset).then_some(offset)
    }

    fn zone(&self) -> Option<Zone> {
        let mut changes = Vec::with_capacity(self.kinds.len());
        for (at, kind) in self.times.chunks_exact(self.size).zip(self.kinds) {
            changes.push((number(at)?, self.offset(usize::from(*kind))?));
        }
        let in_order = changes.is_sorted_by(|(a, _), (b, _)| a < b);
        in_order.then_some(Zone {
            changes,
            before: self.offset(0)?,
            rule: None,
        })
    }
}

/// Big end first, signed.
fn number(bytes: &[u8]) -> Option<i64> {
    match *bytes {
        [a, b, c, d] => Some(i64::from(i32::from_be_bytes([a, b, c, d]))),
        [a, b, c, d, e, f, g, h] => Some(i64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

    fn zone(text: &str) -> Zone {
        Zone::from_text(text).unwrap_or_else(|| panic!("{text}"))
    }

    /// Days since 1970.
    fn day(year: i64, month: i64, day: i64) -> i64 {
        day_of(year, month) + day - 1
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(day(1970, 1, 1), 0);
        assert_eq!(day(2000, 3, 1), 11_017);
        assert_eq!(day(2026, 11, 28), 20_785);
        assert_eq!(day(1969, 12, 31), -1);
        for n in -200_000..200_000 {
            let year = year_of(n);
            assert!(day_of(year, 1) <= n && n < day_of(year + 1, 1), "{n}");
        }
    }

    #[test]
    fn texts_of_tz_are_understood() {
        // 2026-01-15 and 2026-07-15, noon.
        let at = |text: &str| {
            let zone = zone(text);
            let noon = |m| day(2026, m, 15) * DAY + DAY / 2;
            (zone.offset_at(noon(1)), zone.offset_at(noon(7)))
        };
        assert_eq!(at("UTC0"), (0, 0));
        assert_eq!(at(BERLIN), (3600, 7200));
        assert_eq!(at("<-03>3"), (-10_800, -10_800));
        assert_eq!(at("<+0545>-5:45"), (20_700, 20_700));
        assert_eq!(at("EST5EDT,M3.2.0,M11.1.0"), (-18_000, -14_400));
        assert_eq!(at("EST5EDT"), (-18_000, -14_400));
        assert_eq!(at("AEST-10AEDT,M10.1.0,M4.1.0/3"), (39_600, 36_000));
        assert_eq!(at("IST-1GMT0,M10.5.0,M3.5.0/1"), (0, 3600));
        assert_eq!(at("<-02>2<-01>,M3.5.0/-1,M10.5.0/0"), (-7200, -3600));
        assert_eq!(at("XXX0YYY,J60,300/1:30"), (0, 3600));
        for bad in [
            "",
            "U0",
            "UTC",
            "UTC25",
            "CET-1CEST,",
            "CET-1CEST,M3.5.0",
            "CET-1CEST,M13.5.0,M10.5.0",
            "UTC0 ",
            "CET-1CEST,M3.5.0,M10.5.0/3x",
            "<UTC0",
            "CET-1CEST,M3.6.0,M10.5.0",
            "UTC99999999999999999999",
        ] {
            assert_eq!(Zone::from_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn clocks_are_changed_at_the_second() {
        let zone = zone(BERLIN);
        // 2026-03-29 and 2026-10-25, 01:00 UTC.
        let (spring, autumn) = (1_774_746_000, 1_792_890_000);
        assert_eq!(
            (zone.offset_at(spring - 1), zone.offset_at(spring)),
            (3600, 7200)
        );
        assert_eq!(
            (zone.offset_at(autumn - 1), zone.offset_at(autumn)),
            (7200, 3600)
        );
        // 02:30 is left out in spring and comes twice in autumn.
        let half_past_two = 2 * 3600 + 1800;
        assert_eq!(zone.moment(day(2026, 3, 29), half_past_two), spring);
        assert_eq!(zone.moment(day(2026, 10, 25), half_past_two), autumn - 1800);
        assert_eq!(zone.moment(day(2026, 3, 29), 3 * 3600 + 1), spring + 1);
        assert_eq!(
            zone.moment(day(2026, 3, 28), half_past_two),
            spring - DAY + 1800
        );
    }

    #[test]
    fn every_time_of_every_day_has_one_moment_and_they_are_in_order() {
        for text in [
            BERLIN,
            "EST5EDT",
            "AEST-10AEDT,M10.1.0,M4.1.0/3",
            "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
            "<-04>4<-03>,M9.1.6/24,M4.1.6/24",
        ] {
            let zone = zone(text);
            for time in [0, 1, 1800, 7199, 7200, 9000, 10_800, 86_399] {
                let mut last = zone.moment(day(2023, 12, 31), time);
                for n in day(2024, 1, 1)..day(2027, 1, 1) {
                    let at = zone.moment(n, time);
                    assert!((at - last - DAY).abs() <= 3600, "{text} {n} {time}");
                    let shown = at + zone.offset_at(at);
                    let wanted = n * DAY + time;
                    // Left out, or the first moment that shows it.
                    assert!(shown >= wanted && shown - wanted <= 3600);
                    let before = at - 1 + zone.offset_at(at - 1);
                    assert!(before < wanted, "{text} {n} {time}: {before} {wanted}");
                    last = at;
                }
            }
        }
    }

    #[test]
    fn what_is_no_file_of_the_zone_database_is_refused() {
        assert_eq!(Zone::from_file(b""), None);
        assert_eq!(Zone::from_file(&[0; 100]), None);
        let mut head = b"TZif2".to_vec();
        head.resize(44, 0xff);
        assert_eq!(Zone::from_file(&head), None);
    }

    /// One change, from +1 to +2 hours, and then what the text says.
    fn file(text: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for size in [4, 8] {
            bytes.extend(b"TZif2");
            bytes.extend([0; 15]);
            for n in [0_u32, 0, 0, 1, 2, 4] {
                bytes.extend(n.to_be_bytes());
            }
            let at = 1_000_000_000_i64.to_be_bytes();
            bytes.extend(at.get(8 - size..).unwrap());
            bytes.push(1);
            for offset in [3600_i32, 7200] {
                bytes.extend(offset.to_be_bytes());
                bytes.extend([0, 0]);
            }
            bytes.extend(b"ABC\0");
        }
        bytes.push(b'\n');
        bytes.extend(text);
        bytes.push(b'\n');
        bytes
    }

    #[test]
    fn a_file_is_a_list_of_changes_and_then_a_rule() {
        let zone = Zone::from_file(&file(b"XXX-3")).unwrap();
        let at = |unix| zone.offset_at(unix);
        assert_eq!(
            (at(0), at(999_999_999), at(1_000_000_000)),
            (3600, 3600, 10_800)
        );
        let zone = Zone::from_file(&file(b"")).unwrap();
        assert_eq!(
            (zone.offset_at(0), zone.offset_at(2_000_000_000)),
            (3600, 7200)
        );
        let whole = file(b"XXX-3");
        for n in 0..whole.len() - 1 {
            Zone::from_file(whole.get(..n).unwrap()); // nothing panics
        }
        assert_eq!(Zone::from_file(&file(b"nonsense")), None);
    }

    /// The C library reads the same files: they must agree.
    #[test]
    fn files_of_this_machine_say_what_the_c_library_says() {
        let Ok(bytes) = std::fs::read("/etc/localtime") else {
            return; // it has none, and then both say UTC
        };
        if std::env::var_os("TZ").is_some() {
            return; // the C library would not read it
        }
        let zone = Zone::from_file(&bytes).unwrap();
        for n in 0..4_000 {
            let unix = n * 500_000;
            let t = crate::sys::timer::local(std::time::Duration::from_secs(unix as u64));
            let shown = unix + zone.offset_at(unix);
            let seconds = (i64::from(t.hour) * 60 + i64::from(t.minute)) * 60 + i64::from(t.second);
            assert_eq!(shown.rem_euclid(DAY), seconds, "{unix}");
            assert_eq!(
                shown.div_euclid(DAY),
                day(i64::from(t.year), i64::from(t.month), i64::from(t.day))
            );
        }
    }
}
