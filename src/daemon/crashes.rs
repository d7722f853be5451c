//! Crash reports: what is kept of crashes when superd, or the machine, was restarted.
//!
//! One file for each crash of a service that differs from the others by its fingerprint,
//! `NAME.FINGERPRINT.json`: how often, since when, and everything about the last time.
//! Whether something is a crash is not decided here.
//!
//! - **Bounded**: `crash-keep` files of a service (the one that was quiet the longest goes
//!   when another one is written), [`FILES`] in all, [`disk::FILE_CAP`] bytes each; so is what is
//!   read back. As many again are known that were not written.
//! - **Flash wears out**: a crash that repeats is counted in memory and written at most once
//!   in `crash-pause`, and so are more than `crash-keep` new ones. What was only counted is
//!   written when superd ends in good order.
//! - **Atomic**: a temporary file, then rename(2). Without fsync(2): that takes seconds on
//!   some flash, and the loop would stand still for them. A file that a power cut has left
//!   empty or half is set aside at the next reading.
//! - **The loop**: a report waits until nothing else is due, one file per turn
//!   ([`Crashes::work`]). A restart or a KILL does not wait for a disk.
//! - **Nothing fails**: a disk that is full or read-only is told once, what is lost is
//!   counted, and tried again a minute later.
//!
//! (Past 400 lines because what is known, what waits and what is written are one story; the
//! files themselves are `disk`'s.)

mod disk;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rundir::plain;
use crate::config::model::CrashReports;
use crate::control::crash::{CrashLine, CrashReport, Repeat};
use crate::json::{FromJson, ToJson};
use crate::machine::time::Tick;
use disk::{check_dir, open, parts, save, TEMPORARY};

/// Files in the directory, over all services.
pub const FILES: usize = 256;

/// Entries of the directory that are looked at.
const ENTRIES: usize = 4096;

/// Reports that wait to be written.
const WAITING: usize = 16;

/// A report waits at most this long for a quiet moment.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause before the next look for a quiet moment.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// After a write that failed.
const RETRY: Duration = Duration::from_secs(60);

/// No clock that is set shows a time before superd existed. Routers boot in 1970.
const CLOCK_IS_SET: u64 = 1_700_000_000;

/// Of damaged files so many are told by name.
const TOLD: usize = 8;

/// What a file that cannot be read is renamed to: there is one of it at most.
const DAMAGED: &str = "damaged";

/// What is known of crashes.
#[derive(Default, ToJson, FromJson)]
pub struct Crashes {
    settings: CrashReports,
    loaded: bool,
    /// The one that happened last at the end. A plain list, because there are few.
    known: Vec<Known>,
    /// Of which service a new crash was written, as far as `crash-pause` goes back.
    fresh: Vec<(String, Tick)>,
    waiting: VecDeque<Waiting>,
    look_again: Option<Tick>,
    /// Writing fails: not tried again before this time, and so many reports were lost.
    failing: Option<(Tick, u64)>,
    #[serde(default)]
    lines: Vec<String>,
}

#[derive(ToJson, FromJson)]
struct Known {
    line: CrashLine,
    /// When this superd wrote it last.
    written: Option<Tick>,
    /// The file does not have the present count.
    is_behind: bool,
    /// There is a file.
    on_disk: bool,
}

#[derive(ToJson, FromJson)]
struct Waiting {
    report: Box<CrashReport>,
    /// At the latest.
    until: Tick,
}

/// Seconds since 1970; 0 while the clock is not set.
pub fn wall_seconds() -> u64 {
    let now = crate::sys::timer::wall().as_secs();
    if now < CLOCK_IS_SET {
        0
    } else {
        now
    }
}

impl Crashes {
    /// What the configuration says, from now on.
    pub fn configure(&mut self, settings: &CrashReports) {
        if self.settings.dir != settings.dir {
            // Another directory, other counts: it is read when it is needed.
            self.loaded = false;
            self.known.clear();
            self.fresh.clear();
            self.waiting.clear();
        }
        if !settings.written {
            self.waiting.clear();
        }
        self.settings = settings.clone();
    }

    /// A crash has happened. Its count and first time are filled in here, from all that is
    /// known of it. It will be written if it is time for that.
    pub fn note(&mut self, mut report: CrashReport, now: Tick) -> Repeat {
        self.load();
        let found = self.position(&report.service, &report.fingerprint);
        let mut known = match found {
            Some(at) => self.known.remove(at),
            None => Known {
                line: CrashLine {
                    service: report.service.clone(),
                    fingerprint: report.fingerprint.clone(),
                    count: 0,
                    first: report.last,
                    last: 0,
                    crash: report.crash.clone(),
                    known: String::new(),
                },
                written: None,
                is_behind: false,
                on_disk: false,
            },
        };
        known.line.count = known.line.count.saturating_add(1);
        known.line.last = report.last;
        known.line.crash = report.crash.clone();
        known.line.known = report.known.clone();
        known.is_behind = true;
        let repeat = Repeat {
            count: known.line.count,
            first: known.line.first,
        };
        report.count = repeat.count;
        report.first = repeat.first;
        let on_disk = known.on_disk;
        let due = known
            .written
            .is_none_or(|at| now.since(at) >= self.settings.pause);
        self.known.push(known);
        self.forget_oldest(&report.service);
        if self.settings.written && due && (on_disk || self.may_write_new(&report.service, now)) {
            self.enqueue(report, now);
        }
        repeat
    }

    /// Whether there were few new crashes of this service lately.
    fn may_write_new(&mut self, service: &str, now: Tick) -> bool {
        let pause = self.settings.pause;
        self.fresh.retain(|(_, at)| now.since(*at) < pause);
        let of_it = self.fresh.iter().filter(|(name, _)| name == service);
        let may = of_it.count() < self.settings.keep && self.fresh.len() < FILES;
        if may {
            self.fresh.push((service.to_owned(), now));
        }
        may
    }

    fn enqueue(&mut self, report: CrashReport, now: Tick) {
        let same = |w: &Waiting| {
            w.report.service == report.service && w.report.fingerprint == report.fingerprint
        };
        self.waiting.retain(|w| !same(w));
        if self.waiting.len() < WAITING {
            self.waiting.push_back(Waiting {
                report: Box::new(report),
                until: now + PATIENCE,
            });
            self.look_again = Some(now);
        }
    }

    /// Keeps within the bounds of this service and of all; the files go too. What has a file
    /// and what has none have the same bounds, each for itself: a crash that may not be
    /// written drives out none that is.
    fn forget_oldest(&mut self, service: &str) {
        for on_disk in [true, false] {
            let is_one = |k: &Known| k.on_disk == on_disk;
            let is_it = |k: &Known| is_one(k) && k.line.service == service;
            let mut all = self.known.iter().filter(|k| is_one(k)).count();
            let mut of_it = self.known.iter().filter(|k| is_it(k)).count();
            while of_it > self.settings.keep || all > FILES {
                let oldest = match of_it > self.settings.keep {
                    true => self.known.iter().position(is_it),
                    false => self.known.iter().position(is_one),
                };
                let Some(at) = oldest else { break };
                let gone = self.known.remove(at).line;
                all -= 1;
                of_it -= usize::from(gone.service == service);
                if on_disk && self.settings.written {
                    // Gone already, or a read-only disk: nothing to do about it.
                    fs::remove_file(self.path(&gone.service, &gone.fingerprint)).ok();
                }
            }
        }
    }

    fn path(&self, service: &str, fingerprint: &str) -> PathBuf {
        self.settings
            .dir
            .join(format!("{service}.{fingerprint}.json"))
    }

    /// When [`Crashes::work`] wants to be called.
    pub fn next_deadline(&self) -> Option<Tick> {
        match self.waiting.is_empty() {
            true => None,
            false => self.look_again,
        }
    }

    /// Writes one report, if it is `quiet` (nothing else is to be done in this turn, and
    /// nothing is due soon) or if it has waited long enough.
    pub fn work(&mut self, now: Tick, quiet: bool) {
        let Some(first) = self.waiting.front() else {
            return;
        };
        if !quiet && now < first.until {
            self.look_again = Some(now + LOOK_AGAIN);
            return;
        }
        if let Some(w) = self.waiting.pop_front() {
            self.write(*w.report, now);
        }
        self.look_again = Some(now + LOOK_AGAIN);
    }

    fn write(&mut self, mut report: CrashReport, now: Tick) {
        if let Some((again, lost)) = &mut self.failing {
            if now < *again {
                *lost = lost.saturating_add(1);
                return;
            }
        }
        let Some(known) = self.find(&report.service, &report.fingerprint) else {
            return; // forgotten meanwhile
        };
        (report.count, report.first) = (known.line.count, known.line.first);
        match save(&self.settings.dir, &report) {
            Ok(()) => {
                if let Some(known) = self.find(&report.service, &report.fingerprint) {
                    known.written = Some(now);
                    known.is_behind = false;
                    known.on_disk = true;
                }
                self.forget_oldest(&report.service);
                if let Some((_, lost)) = self.failing.take() {
                    self.lines.push(format!(
                        "crash reports: {} can be written again; lost: {lost}",
                        self.settings.dir.display()
                    ));
                }
            }
            Err(why) => {
                let dir = self.settings.dir.display();
                let lost = match self.failing {
                    Some((_, lost)) => lost.saturating_add(1),
                    None => {
                        self.lines.push(format!(
                            "crash reports: {dir}: {why}; superd goes on without them and tries again"
                        ));
                        1
                    }
                };
                self.failing = Some((now + RETRY, lost));
            }
        }
    }

    fn position(&self, service: &str, fingerprint: &str) -> Option<usize> {
        let is_it = |k: &Known| k.line.service == service && k.line.fingerprint == fingerprint;
        self.known.iter().position(is_it)
    }

    fn find(&mut self, service: &str, fingerprint: &str) -> Option<&mut Known> {
        let at = self.position(service, fingerprint)?;
        self.known.get_mut(at)
    }

    /// superd ends, everything is down: writes what waits, and the counts of what was held
    /// back.
    pub fn flush(&mut self, now: Tick) {
        if !self.settings.written {
            return;
        }
        while let Some(w) = self.waiting.pop_front() {
            self.write(*w.report, now);
        }
        let behind = |k: &&Known| k.is_behind && k.written.is_some();
        let all = self.known.iter().filter(behind);
        let lines: Vec<CrashLine> = all.map(|k| k.line.clone()).collect();
        for line in lines {
            if self.failing.is_some() {
                return;
            }
            let path = self.path(&line.service, &line.fingerprint);
            if let Ok(mut report) = open(&path, &line.service, &line.fingerprint) {
                report.last = line.last;
                self.write(report, now);
            }
        }
    }

    /// What is to be said to the log.
    pub fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// Why no report can be written now, and how many were lost, if that is so.
    pub fn lost(&self) -> Option<u64> {
        self.failing.map(|(_, lost)| lost)
    }

    /// Every crash that is known, of one service or of all; the one that happened last at
    /// the end.
    pub fn list(&mut self, service: Option<&str>) -> Vec<CrashLine> {
        self.load();
        let wanted = |name: &str| service.is_none_or(|s| s == name);
        let found = self.known.iter().filter(|k| wanted(&k.line.service));
        found.map(|k| k.line.clone()).collect()
    }

    /// The last reports about a service, `most` of them, as far as there are any; the one that
    /// happened last at the end.
    pub fn reports(&mut self, service: &str, most: usize) -> Vec<CrashReport> {
        let mut lines = self.list(Some(service));
        let waits = |l: &CrashLine| {
            let mut all = self.waiting.iter().map(|w| &w.report);
            all.any(|r| r.service == service && r.fingerprint == l.fingerprint)
        };
        let on_disk = |l: &CrashLine| {
            let known = self.position(service, &l.fingerprint);
            known
                .and_then(|at| self.known.get(at))
                .is_some_and(|k| k.on_disk)
        };
        lines.retain(|l| on_disk(l) || waits(l));
        lines.drain(..lines.len().saturating_sub(most));
        let report = |line: &CrashLine| {
            let waits = self.waiting.iter().map(|w| &w.report);
            let mut same =
                waits.filter(|r| r.service == service && r.fingerprint == line.fingerprint);
            let mut report = match same.next() {
                Some(report) => (**report).clone(),
                None if !self.settings.written => return None,
                None => open(
                    &self.path(service, &line.fingerprint),
                    service,
                    &line.fingerprint,
                )
                .ok()?,
            };
            (report.count, report.first) = (line.count, line.first);
            Some(report)
        };
        lines.iter().filter_map(report).collect()
    }

    /// What is in the directory has been read, or is of no interest.
    pub fn is_loaded(&self) -> bool {
        self.loaded || !self.settings.written
    }

    /// Reads what is in the directory, once. Also called when nothing has crashed yet, in a
    /// quiet moment, so that the first crash need not wait for it.
    pub fn load(&mut self) {
        if self.is_loaded() {
            return;
        }
        self.loaded = true;
        let mut found = Vec::new();
        let mut damaged = 0;
        for (path, service, fingerprint) in self.names() {
            match open(&path, &service, &fingerprint) {
                // Of what is large nothing stays.
                Ok(r) => found.push(CrashLine {
                    service: r.service,
                    fingerprint: r.fingerprint,
                    count: r.count,
                    first: r.first,
                    last: r.last,
                    crash: r.crash,
                    known: r.known,
                }),
                Err(why) => {
                    damaged += 1;
                    let text = self.set_aside(&path, &why);
                    if damaged <= TOLD {
                        self.lines.push(text);
                    }
                }
            }
        }
        if damaged > TOLD {
            let more = damaged - TOLD;
            let text = format!("crash reports: {more} more files are damaged as well");
            self.lines.push(text);
        }
        for line in found {
            let service = line.service.clone();
            if let Some(same) = self.find(&line.service, &line.fingerprint) {
                // It has happened in this life of superd before this was read.
                same.line.count = same.line.count.saturating_add(line.count);
                same.line.first = line.first;
                same.on_disk = true;
                continue;
            }
            let is_later = |k: &Known| k.is_behind || k.line.last > line.last;
            let at = self.known.iter().position(is_later);
            let known = Known {
                line,
                written: None,
                is_behind: false,
                on_disk: true,
            };
            self.known.insert(at.unwrap_or(self.known.len()), known);
            self.forget_oldest(&service);
        }
    }

    /// The files that may be reports. What a superd that was killed has left half is removed.
    fn names(&mut self) -> Vec<(PathBuf, String, String)> {
        let dir = self.settings.dir.clone();
        if let Err(why) = check_dir(&dir) {
            let text = format!("crash reports: {}: not read, {why}", dir.display());
            self.lines.push(text);
            return Vec::new();
        }
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => {
                let text = format!("crash reports: reading {}: {}", dir.display(), plain(&e));
                self.lines.push(text);
                return Vec::new();
            }
        };
        let mut names: Vec<(PathBuf, String, String)> = Vec::new();
        for entry in entries.take(ENTRIES).filter_map(Result::ok) {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(TEMPORARY) {
                fs::remove_file(entry.path()).ok(); // a read-only disk: it stays
            } else if let Some((service, fingerprint)) = parts(name) {
                names.push((entry.path(), service.to_owned(), fingerprint.to_owned()));
            }
        }
        if names.len() > 2 * FILES {
            self.lines.push(format!(
                "crash reports: {} has {} of them; only {} are read",
                dir.display(),
                names.len(),
                2 * FILES
            ));
            names.truncate(2 * FILES);
        }
        names
    }

    fn set_aside(&self, path: &Path, why: &str) -> String {
        let aside = self.settings.dir.join(DAMAGED);
        let done = match fs::rename(path, &aside) {
            Ok(()) => format!("set aside as {}", aside.display()),
            Err(e) => format!("ignored, and cannot be set aside: {}", plain(&e)),
        };
        // What the file says may be in the reason.
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let why: String = why.chars().map(clean).take(200).collect();
        format!("crash reports: {}: {why}; {done}", path.display())
    }
}

#[cfg(test)]
#[path = "crashes/tests.rs"]
mod tests;
