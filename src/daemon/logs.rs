//! The services' output: pipes in, lines out, the last ones kept. Where lines go from
//! here (syslog, followers of `superctl logs -f`) is the caller's business, which gets
//! each line by a callback.
//!
//! A service has one pipe for standard output and error, made at its first start and
//! kept until it is forgotten, so that leftovers of one instance and the next instance
//! never meet an EOF or a SIGPIPE. Where there is a run directory it is a FIFO there
//! (`fifo.rs`), which also outlives superd. Idle services cost nothing; the buffer for reading is
//! shared and grows only while somebody floods. Every service gets its share of a turn
//! and then goes to the end of the queue.
//!
//! (Past 400 lines because reading, keeping and passing on are done in one go per chunk.)

pub mod carry;
mod crash_text;
pub(super) mod fifo;
mod file;
mod ring;
mod split;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use memchr::memmem;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::unistd::pipe2;
use serde::{Deserialize, Serialize};

use crash_text::{long_crash, CrashText};
use file::LogFile;
pub use ring::Ring;
use split::Splitter;

use carry::Carry;

use super::rundir::plain;
use super::token::Source;
use super::upgrade::state::{Bytes, Fds};
use crate::config::model::{FileOutput, Output};
use crate::machine::crash;
use crate::machine::event::{Instance, Pid, ServiceId};
use crate::machine::report::{Crash, Exit};
use crate::machine::time::Tick;
use crate::sys::handover::Inherited;
use crate::sys::shared::waiting_bytes;

/// The longest line; a longer one comes in pieces of this size.
pub const LINE_CAP: usize = 4096;

/// What one read takes at most, once a service has filled [`SMALL`].
const LARGE: usize = 64 * 1024;

/// What the shared buffer holds while nobody floods.
const SMALL: usize = 4096;

/// A service that has so much to say in a turn is flooding.
const FLOOD: usize = 32 * 1024;

/// Bytes a service may read per turn when each line goes to the log, which costs a
/// system call per line.
const LOGGED_SHARE: usize = 16 * 1024;

/// Cost of a whole turn over all services, in bytes that go to the ring only; about a
/// millisecond on a slow router.
const TURN: usize = 256 * 1024;

/// What [`Logs::drain`] reads at most.
const DRAIN: usize = 1024 * 1024;

/// Of an instance without such a text, so many of its last lines are looked at.
const LAST_LINES: usize = 40;

/// One line of output, without its newline.
pub struct Said<'a> {
    /// Whose.
    pub service: ServiceId,
    /// Its name.
    pub name: &'a Rc<str>,
    /// Where the configuration wants it to go.
    pub output: Output,
    /// The bytes, as they came.
    pub line: &'a [u8],
    /// It contains the text that [`Logs::watch`] was asked for, in the output of this
    /// instance. Said once.
    pub matched: Option<Instance>,
}

/// Where complete lines go.
pub type Hear<'h> = &'h mut dyn FnMut(Said<'_>);

/// All services' output.
#[derive(Default)]
pub struct Logs {
    logs: BTreeMap<ServiceId, Box<Log>>,
    /// Services that have, or may have, something to read. Each at most once.
    queue: VecDeque<ServiceId>,
    buf: Vec<u8>,
    ring: usize,
    /// Where FIFOs are made; none: pipes without a name.
    home: Option<PathBuf>,
    /// None: what is read and not yet passed on is lost if superd is killed.
    carry: Option<Rc<Carry>>,
    /// Why a FIFO could not be made, until it was said. Said once.
    complaint: Option<String>,
    has_complained: bool,
}

struct Log {
    name: Rc<str>,
    output: Output,
    read: File,
    write: OwnedFd,
    /// Where it is, if it has a name.
    fifo: Option<PathBuf>,
    queued: bool,
    /// So much of a line without its end is in the pipe.
    begun: usize,
    /// The last turn brought at least [`FLOOD`] bytes.
    flooding: bool,
    splitter: Splitter,
    kept: Kept,
    /// With [`Output::File`].
    file: Option<Box<LogFile>>,
}

/// What outlives a change of the program.
#[derive(Serialize, Deserialize)]
pub struct KeptLog {
    service: ServiceId,
    name: Rc<str>,
    output: Output,
    read: i32,
    write: i32,
    fifo: Option<PathBuf>,
    partial: Bytes,
    ring: ring::Kept,
    instance: Instance,
    began: u64,
    watch: Option<(Instance, Rc<str>)>,
    crash: Option<CrashText>,
    #[serde(default)]
    file: Option<FileOutput>,
}

/// What is remembered of the output.
struct Kept {
    ring: Ring,
    instance: Instance,
    /// Number of the instance's first line.
    began: u64,
    watch: Option<(Instance, Rc<str>)>,
    crash: Option<Box<CrashText>>,
}

/// What an instance has said last.
#[derive(Clone, Default)]
pub struct LastWords {
    /// Lines, oldest first.
    pub output: Vec<String>,
    crash: Option<CrashText>,
}

impl LastWords {
    /// The lines of its crash text, if this exit confirms it.
    pub fn crash_text(self, exit: Exit) -> Vec<String> {
        let confirmed = self.crash.filter(|c| c.recognise(exit).is_some());
        confirmed.map_or_else(Vec::new, |c| c.lines)
    }
}

impl Logs {
    /// `ring`: bytes of output kept per service.
    pub fn new(ring: usize) -> Logs {
        Logs {
            ring,
            ..Logs::default()
        }
    }

    /// Bytes to be kept per service from now on (after a reload). Takes effect with the
    /// next line of each service.
    pub fn set_ring(&mut self, bytes: usize) {
        self.ring = bytes;
        for log in self.logs.values_mut() {
            log.kept.ring.set_bound(bytes);
        }
    }

    /// For a superd that becomes another program; of each ring so many lines at most.
    pub fn keep(&self, most: u64, fds: &mut Fds) -> Vec<KeptLog> {
        let mut keep = |(service, log): (&ServiceId, &Log)| KeptLog {
            service: *service,
            name: log.name.clone(),
            output: log.output,
            read: fds.pass(&log.read),
            write: fds.pass(&log.write),
            fifo: log.fifo.clone(),
            partial: Bytes(log.splitter.partial().to_vec()),
            ring: log.kept.ring.keep(most),
            instance: log.kept.instance,
            began: log.kept.began,
            watch: log.kept.watch.clone(),
            crash: log.kept.crash.as_deref().cloned(),
            file: log.file.as_ref().map(|f| f.spec().clone()),
        };
        let all = self.logs.iter().map(|(service, log)| (service, &**log));
        all.map(&mut keep).collect()
    }

    /// What [`Logs::keep`] said, in the new one.
    ///
    /// # Errors
    /// Of epoll_ctl(2).
    pub fn take_up(
        &mut self,
        kept: Vec<KeptLog>,
        left: &mut Inherited,
        registry: &Registry,
    ) -> io::Result<()> {
        for log in kept {
            let read = File::from(left.take(log.read)?);
            registry.register(
                &mut SourceFd(&read.as_raw_fd()),
                Source::Log(log.service.0).token(),
                Interest::READABLE,
            )?;
            let file = log.file.map(|spec| LogFile::new(log.name.clone(), spec));
            let taken = Log {
                file: file.map(Box::new),
                name: log.name,
                output: log.output,
                read,
                write: left.take(log.write)?,
                fifo: log.fifo,
                queued: false,
                begun: 0, // it is looked at anew
                flooding: false,
                splitter: Splitter::kept(log.partial.0),
                kept: Kept {
                    ring: Ring::kept(log.ring, self.ring),
                    instance: log.instance,
                    began: log.began,
                    watch: log.watch,
                    crash: log.crash.map(Box::new),
                },
            };
            self.logs.insert(log.service, Box::new(taken));
        }
        Ok(())
    }

    /// From now on pipes are FIFOs in this directory, as far as they can be made there.
    /// `log`: see [`Carry::open`].
    pub fn set_home(&mut self, run_dir: &Path, log: Option<u64>) {
        self.home = Some(run_dir.to_owned());
        match Carry::open(run_dir, log) {
            Ok(carry) => self.carry = Some(Rc::new(carry)),
            Err(e) => {
                self.complaint = Some(format!(
                    "{}: {}; a line or more is lost if superd is killed",
                    run_dir.join(carry::FILE).display(),
                    plain(&e)
                ));
            }
        }
    }

    /// To be told before each line is passed on.
    pub fn carry(&self) -> Option<Rc<Carry>> {
        self.carry.clone()
    }

    /// Why output does not outlive superd: something to be said, once.
    pub fn take_complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// Both ends of a service's pipe; with its place, if it has one.
    fn pipe(
        &mut self,
        name: &str,
        main: Option<Pid>,
    ) -> io::Result<(File, OwnedFd, Option<PathBuf>)> {
        if let Some(home) = &self.home {
            let path = fifo::path(home, name);
            if let Some((read, write)) = main.and_then(|main| fifo::held(&path, main)) {
                return Ok((read, write, Some(path)));
            }
            match fifo::open(&path) {
                Ok((read, write)) => return Ok((read, write, Some(path))),
                Err(e) if !self.has_complained => {
                    self.has_complained = true;
                    self.complaint = Some(format!(
                        "{}: {}; output is lost, and a writer ends, if superd is killed",
                        path.display(),
                        plain(&e)
                    ));
                }
                Err(_) => {}
            }
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((File::from(read), write, None))
    }

    /// The descriptor that becomes a child's standard output and error. The pipe is made
    /// at the first call, or found as an earlier superd has left it. The child's end blocks,
    /// ours does not; both are close-on-exec.
    ///
    /// # Errors
    /// Of pipe2(2), fcntl(2) and epoll_ctl(2).
    pub fn open(
        &mut self,
        registry: &Registry,
        service: ServiceId,
        name: &Rc<str>,
        output: Output,
    ) -> io::Result<BorrowedFd<'_>> {
        if let Some(log) = self.logs.get(&service) {
            // The instance before may have set O_NONBLOCK: it belongs to the open file.
            fcntl(&log.write, FcntlArg::F_SETFL(OFlag::empty()))?;
        }
        self.adopt(registry, service, name, output, None)
    }

    /// The same for an instance of an earlier superd, whose main process this is. Its pipe is
    /// found there, too, if somebody has removed the FIFO from the run directory.
    ///
    /// # Errors
    /// As [`Logs::open`].
    pub fn adopt(
        &mut self,
        registry: &Registry,
        service: ServiceId,
        name: &Rc<str>,
        output: Output,
        main: Option<Pid>,
    ) -> io::Result<BorrowedFd<'_>> {
        if !self.logs.contains_key(&service) {
            let (read, write, fifo) = self.pipe(name, main)?;
            registry.register(
                &mut SourceFd(&read.as_raw_fd()),
                Source::Log(service.0).token(),
                Interest::READABLE,
            )?;
            let log = Log {
                name: name.clone(),
                output,
                read,
                write,
                fifo,
                queued: false,
                begun: 0,
                flooding: false,
                splitter: Splitter::default(),
                file: None,
                kept: Kept {
                    ring: Ring::new(self.ring),
                    instance: Instance::default(),
                    began: 0,
                    watch: None,
                    crash: None,
                },
            };
            self.logs.insert(service, Box::new(log));
        }
        let Some(log) = self.logs.get_mut(&service) else {
            return Err(io::ErrorKind::NotFound.into()); // was put there
        };
        log.output = output;
        Ok(log.write.as_fd())
    }

    /// With [`Output::File`]: where to.
    pub fn set_file(&mut self, service: ServiceId, to: Option<&FileOutput>) {
        if let Some(log) = self.logs.get_mut(&service) {
            if log.file.as_ref().map(|f| f.spec()) != to {
                let file = to.map(|spec| LogFile::new(log.name.clone(), spec.clone()));
                log.file = file.map(Box::new);
            }
        }
    }

    /// Somebody has moved the log files: what comes goes to new ones.
    pub fn reopen_files(&mut self) {
        let files = self.logs.values_mut().filter_map(|log| log.file.as_mut());
        files.for_each(|file| file.reopen());
    }

    /// What there is to be said about log files.
    pub fn take_said(&mut self) -> Vec<String> {
        let files = self.logs.values_mut().filter_map(|log| log.file.as_mut());
        files.flat_map(|file| file.take_said()).collect()
    }

    /// The descriptor that [`Logs::open`] gave, if it was called.
    pub fn writer(&self, service: ServiceId) -> Option<BorrowedFd<'_>> {
        self.logs.get(&service).map(|l| l.write.as_fd())
    }

    /// Lines from now on belong to this instance.
    pub fn begin(&mut self, service: ServiceId, instance: Instance) {
        if let Some(log) = self.logs.get_mut(&service) {
            log.kept.instance = instance;
            log.kept.began = log.kept.ring.next();
            log.kept.crash = None;
            log.kept.watch = None;
        }
    }

    /// Reports the first line of this instance, from now on, that contains `needle`.
    pub fn watch(&mut self, service: ServiceId, instance: Instance, needle: Rc<str>) {
        if let Some(log) = self.logs.get_mut(&service) {
            log.kept.watch = Some((instance, needle));
        }
    }

    /// Forgets a [`Logs::watch`].
    pub fn unwatch(&mut self, service: ServiceId, instance: Instance) {
        if let Some(log) = self.logs.get_mut(&service) {
            if log.kept.watch.as_ref().is_some_and(|w| w.0 == instance) {
                log.kept.watch = None;
            }
        }
    }

    /// mio says that [`Source::Log`] of this service has something.
    pub fn ready(&mut self, service: ServiceId) {
        if let Some(log) = self.logs.get_mut(&service) {
            if !log.queued {
                log.queued = true;
                self.queue.push_back(service);
            }
        }
    }

    /// The last turn left something unread: poll with a timeout of zero.
    pub fn more_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Reads, a share of each service that has something, up to the budget of a turn.
    pub fn turn(&mut self, now: Tick, hear: Hear<'_>) {
        let mut budget = TURN;
        let mut calm = true;
        for _ in 0..self.queue.len() {
            if budget == 0 {
                break;
            }
            let Some(service) = self.queue.pop_front() else {
                break;
            };
            let Some(log) = self.logs.get_mut(&service) else {
                continue;
            };
            let (share, price) = match log.output {
                Output::Log => (LOGGED_SHARE, LARGE / LOGGED_SHARE),
                Output::File if log.has_stamps() => (LOGGED_SHARE, LARGE / LOGGED_SHARE),
                Output::File | Output::Ring | Output::Null | Output::Inherit => (LARGE, 1),
            };
            let carry = self.carry.as_deref();
            let (n, finished) = match carry.filter(|_| log.is_carried()) {
                _ if log.is_spliced() => {
                    log.pass_to_file(service, carry, &mut self.buf, share, now, hear)
                }
                Some(carry) => log.pass(service, carry, &mut self.buf, share, false, now, hear),
                None => log.read(service, &mut self.buf, share, now, hear),
            };
            budget = budget.saturating_sub(n.saturating_mul(price));
            calm &= n < SMALL;
            log.flooding = n >= FLOOD;
            log.queued = !finished;
            if !finished {
                self.queue.push_back(service);
            }
        }
        if calm && self.queue.is_empty() && self.buf.len() > SMALL {
            self.buf = Vec::new();
        }
    }

    /// Reads what is in the pipe now, before an exit is reported, and takes a last line
    /// without newline for complete. Bounded by 1 MiB; the rest of a flood comes later.
    pub fn drain(&mut self, service: ServiceId, now: Tick, hear: Hear<'_>) {
        let Some(log) = self.logs.get_mut(&service) else {
            return;
        };
        let carry = self.carry.as_deref();
        match carry.filter(|_| log.is_carried()) {
            _ if log.is_spliced() => {
                log.pass_to_file(service, carry, &mut self.buf, DRAIN, now, hear)
            }
            Some(carry) => log.pass(service, carry, &mut self.buf, DRAIN, true, now, hear),
            None => log.read(service, &mut self.buf, DRAIN, now, hear),
        };
        let Log {
            splitter,
            kept,
            name,
            output,
            file,
            ..
        } = &mut **log;
        splitter.finish(&mut |line| {
            stamp(file, line, now);
            kept.take(line, service, name, *output, now, hear);
        });
        if let Some(file) = file {
            file.flush(None, now);
            file.end_line();
        }
    }

    /// The last `n` lines with their times, oldest first.
    pub fn tail(&self, service: ServiceId, n: usize) -> Vec<(Tick, String)> {
        self.logs.get(&service).map_or_else(Vec::new, |log| {
            let ring = &log.kept.ring;
            ring.since(ring.next().saturating_sub(n as u64))
        })
    }

    /// Up to `n` of the last lines since [`Logs::begin`], oldest first, for a report.
    pub fn last_of_instance(&self, service: ServiceId, n: usize) -> Vec<String> {
        self.last_since(service, n, 0)
    }

    /// Of these only the ones with this number in the ring and later ones.
    fn last_since(&self, service: ServiceId, n: usize, number: u64) -> Vec<String> {
        let Some(log) = self.logs.get(&service) else {
            return Vec::new();
        };
        let ring = &log.kept.ring;
        let from = ring.next().saturating_sub(n as u64).max(log.kept.began);
        ring.since(from.max(number))
            .into_iter()
            .map(|(_, l)| l)
            .collect()
    }

    /// The crash that the output of this instance and its exit tell of: by a text that was
    /// kept, if it is fresh, else by the last lines. The text is kept apart because the
    /// stack dump after it can be longer than the ring.
    pub fn crash(&self, service: ServiceId, exit: Exit, now: Tick) -> Option<Crash> {
        let kept = self.kept_text(service);
        let fresh = kept.filter(|c| c.is_fresh(now));
        let after = kept.and_then(|c| c.survived).unwrap_or_default();
        fresh
            .and_then(|c| c.recognise(exit))
            .or_else(|| crash::recognise(&self.last_since(service, LAST_LINES, after), exit))
    }

    /// What this instance has said up to now, for a report: up to `n` of its last lines.
    pub fn last_words(&self, service: ServiceId, n: usize) -> LastWords {
        LastWords {
            output: self.last_of_instance(service, n),
            crash: self.kept_text(service).cloned(),
        }
    }

    /// The lines of the crash text of this instance, if this exit confirms it.
    #[cfg(test)]
    fn crash_text(&self, service: ServiceId, exit: Exit) -> Vec<String> {
        self.last_words(service, 0).crash_text(exit)
    }

    fn kept_text(&self, service: ServiceId) -> Option<&CrashText> {
        self.logs.get(&service)?.kept.crash.as_deref()
    }

    /// The service is forgotten: closes and removes its pipe.
    pub fn close(&mut self, registry: &Registry, service: ServiceId) {
        if let Some(log) = self.logs.remove(&service) {
            let fd = log.read.as_raw_fd();
            registry.deregister(&mut SourceFd(&fd)).ok(); // closing it does the same
            self.queue.retain(|s| *s != service);
            log.remove_fifo();
        }
    }

    /// superd ends, and nobody writes any more. Also goes what an earlier superd has left of
    /// services that this one has not started.
    pub fn remove_fifos(&self) {
        if let Some(home) = &self.home {
            fifo::remove_all(home);
        }
        if let Some(carry) = &self.carry {
            carry.remove();
        }
    }
}

impl Log {
    fn remove_fifo(&self) {
        if let Some(path) = &self.fifo {
            std::fs::remove_file(path).ok(); // somebody else did, or the directory is read-only
        }
    }

    /// Whether its output is left in the pipe until it was passed on.
    fn is_carried(&self) -> bool {
        let is_passed_on = self.output == Output::Log || self.has_stamps();
        self.fifo.is_some() && is_passed_on
    }

    fn has_stamps(&self) -> bool {
        self.output == Output::File && self.file.as_ref().is_some_and(|f| f.has_stamps())
    }

    /// Whether its output goes as it is into a file.
    fn is_spliced(&self) -> bool {
        self.output == Output::File && self.file.as_ref().is_some_and(|f| !f.has_stamps())
    }

    /// Moves at most `share` bytes into the file; how many it were, and whether that was all.
    /// They are looked at before, for the ring.
    fn pass_to_file(
        &mut self,
        service: ServiceId,
        carry: Option<&Carry>,
        buf: &mut Vec<u8>,
        share: usize,
        now: Tick,
        hear: Hear<'_>,
    ) -> (usize, bool) {
        let Some(carry) = carry else {
            return self.read(service, buf, share, now, hear);
        };
        let mut total = 0;
        loop {
            let there = waiting_bytes(self.read.as_fd()).unwrap_or(SMALL);
            if there == 0 {
                return (total, true);
            }
            let want = there.clamp(SMALL, LARGE).min(share - total);
            if buf.len() < want {
                buf.resize(want, 0);
            }
            let Some(space) = buf.get_mut(..want) else {
                return (total, true);
            };
            let n = match carry.look(self.read.as_fd(), space) {
                Ok(n) if n > 0 => n,
                // Interrupted before anything was copied, or it cannot be copied: the usual way.
                Ok(_) | Err(_) => return self.read(service, buf, share, now, hear),
            };
            let chunk = space.get(..n).unwrap_or_default();
            self.take(service, chunk, now, hear);
            if let Some(file) = &mut self.file {
                file.pass(self.read.as_fd(), chunk, now);
            }
            total += n;
            if total >= share {
                return (total, false);
            }
        }
    }

    /// Whether the service has set O_DIRECT (pipe(2)): then the rest of what it wrote at once
    /// is thrown away when a part is read.
    fn is_of_packets(&self) -> bool {
        let flags = fcntl(&self.write, FcntlArg::F_GETFL).unwrap_or(0);
        OFlag::from_bits_truncate(flags).contains(OFlag::O_DIRECT)
    }

    /// Passes on at most `share` bytes; how many it were, and whether that was all. The
    /// beginning of a line stays in the pipe, but for what is too long, and the `last` of all.
    #[allow(clippy::too_many_arguments)]
    fn pass(
        &mut self,
        service: ServiceId,
        carry: &Carry,
        buf: &mut Vec<u8>,
        share: usize,
        last: bool,
        now: Tick,
        hear: Hear<'_>,
    ) -> (usize, bool) {
        let mut total = 0;
        loop {
            let there = waiting_bytes(self.read.as_fd()).unwrap_or(SMALL);
            if there == 0 || (there == self.begun && !last) {
                return (total, true);
            }
            let want = there.clamp(SMALL, LARGE).min(share - total);
            if buf.len() < want {
                buf.resize(want, 0);
            }
            let Some(space) = buf.get_mut(..want) else {
                return (total, true);
            };
            let n = match carry.look(self.read.as_fd(), space) {
                Ok(n) if n > 0 => n,
                // Interrupted before anything was copied, or it cannot be copied: the usual way.
                Ok(_) | Err(_) => return self.read(service, buf, share, now, hear),
            };
            let chunk = space.get(..n).unwrap_or_default();
            let whole = memchr::memrchr(b'\n', chunk).map_or(0, |end| end + 1);
            // A line that is too long for the pipe or for a line.
            let is_stuck = || n >= LINE_CAP || n < there || carry::is_full(self.write.as_fd());
            let end = match whole {
                _ if last => n,
                0 if n < there && total > 0 => return (total, false), // the share is used up
                0 if is_stuck() => n,
                whole => whole,
            };
            if end < n && self.is_of_packets() {
                return self.read(service, buf, share, now, hear);
            }
            self.begun = n - end;
            if end == 0 {
                return (total, true);
            }
            carry.begin(&self.name, chunk);
            let (mut passed, name, output) = (0, &self.name, self.output);
            let has_stamps = self.has_stamps();
            let lines = chunk.get(..end).unwrap_or_default();
            for line in lines.split_inclusive(|b| *b == b'\n') {
                passed += line.len();
                carry.due(passed);
                let (kept, file) = (&mut self.kept, &mut self.file);
                let mut take = |line: &[u8]| {
                    stamp(file, line, now);
                    kept.take(line, service, name, output, now, hear);
                };
                self.splitter.push(line, &mut take);
                if last && passed == n && n == there {
                    self.splitter.finish(&mut take);
                }
                if !has_stamps {
                    carry.pass(); // whoever did not write it
                }
            }
            if let (true, Some(file)) = (has_stamps, &mut self.file) {
                file.flush(Some(carry), now);
            }
            let taken = carry.take(self.read.as_fd(), end, space);
            total += end;
            if taken.is_err() || total >= share {
                return (total, taken.is_err());
            }
        }
    }

    /// Reads at most `share` bytes; how many it were, and whether that was all.
    fn read(
        &mut self,
        service: ServiceId,
        buf: &mut Vec<u8>,
        share: usize,
        now: Tick,
        hear: Hear<'_>,
    ) -> (usize, bool) {
        let mut total = 0;
        self.begun = 0;
        loop {
            if buf.is_empty() {
                buf.resize(SMALL, 0);
            }
            let room = buf.len().min(share - total);
            let Some(space) = buf.get_mut(..room) else {
                return (total, true);
            };
            let n = match self.read.read(space) {
                Ok(0) => return (total, true), // cannot be: we hold a writing end
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return (total, true), // WouldBlock
            };
            total += n;
            let chunk = space.get(..n).unwrap_or_default();
            self.take(service, chunk, now, hear);
            if let (true, Some(file)) = (self.output == Output::File, &mut self.file) {
                match file.has_stamps() {
                    true => file.flush(None, now),
                    false => file.write(chunk, now),
                }
            }
            // A packet is read whole or its rest is lost; none is longer than this.
            if share - total < SMALL {
                return (total, false);
            }
            if n == SMALL && buf.len() == SMALL {
                buf.resize(LARGE, 0);
            }
        }
    }

    fn take(&mut self, service: ServiceId, chunk: &[u8], now: Tick, hear: Hear<'_>) {
        // Of a flood that only goes to the ring, only what will still be there at the end
        // of the chunk is worth splitting. And a crash text, whose end may be a flood too.
        let skip = match self.output {
            Output::Log => 0,
            Output::File if self.has_stamps() => 0,
            Output::File | Output::Ring | Output::Null | Output::Inherit => {
                chunk.len().saturating_sub(self.kept.ring.bound())
            }
        };
        let is_told = self.kept.crash.as_ref().is_some_and(|c| c.goes_on(now));
        let mut rest = chunk;
        if skip > 0 && self.flooding && self.kept.watch.is_none() && !is_told {
            let skip = long_crash(chunk).map_or(skip, |at| at.min(skip));
            self.splitter.forget();
            rest = chunk.get(skip..).unwrap_or_default();
            if let Some(end) = memchr::memchr(b'\n', rest) {
                rest = rest.get(end + 1..).unwrap_or_default();
            }
        }
        let (kept, name, output) = (&mut self.kept, &self.name, self.output);
        let file = &mut self.file;
        self.splitter.push(rest, &mut |line| {
            stamp(file, line, now);
            kept.take(line, service, name, output, now, hear);
        });
    }
}

impl Kept {
    fn take(
        &mut self,
        line: &[u8],
        service: ServiceId,
        name: &Rc<str>,
        output: Output,
        now: Tick,
        hear: Hear<'_>,
    ) {
        self.ring.push(now, line);
        let matched = match &self.watch {
            Some((instance, needle)) if memmem::find(line, needle.as_bytes()).is_some() => {
                Some(*instance)
            }
            Some(_) | None => None,
        };
        if matched.is_some() {
            self.watch = None;
        }
        let number = self.ring.next().saturating_sub(1);
        match &mut self.crash {
            Some(c) if !(c.is_over(now) && crash::begins(line)) => c.hear(line, number, now),
            _ if crash::begins(line) => {
                self.crash = Some(Box::new(CrashText::begin(line, now)));
            }
            _ => {}
        }
        hear(Said {
            service,
            name,
            output,
            line,
            matched,
        });
    }
}

/// Adds the line to a file whose lines have stamps.
fn stamp(file: &mut Option<Box<LogFile>>, line: &[u8], now: Tick) {
    if let Some(file) = file.as_mut().filter(|f| f.has_stamps()) {
        file.add(line, now);
    }
}

/// A line as text: bytes that are not UTF-8 are replaced, control characters stay.
fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
mod tests;
