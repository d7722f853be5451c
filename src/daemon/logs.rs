//! The services' output: pipes in, lines out, the last ones kept. Where lines go from
//! here (syslog, followers of `superctl logs -f`) is the caller's business, which gets
//! each line by a callback.
//!
//! A service has one pipe for standard output and error, made at its first start and
//! kept until it is forgotten, so that leftovers of one instance and the next instance
//! never meet an EOF or a SIGPIPE. Where there is a run directory it is a FIFO there
//! (`fifo.rs`), which also outlives superd. Idle services cost nothing; the buffer for reading is
//! shared and grows only while somebody floods. Every service gets its share of a turn
//! and then goes to the end of the queue. A pipe into which somebody writes without a pause is
//! left to fill for a moment (`pace.rs`).
//!
//! (Past 400 lines because reading, keeping and passing on are done in one go per chunk.)

pub mod carry;
mod crash_text;
pub(super) mod fifo;
mod file;
mod pace;
mod ring;
mod split;

use std::collections::VecDeque;
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

use crash_text::{beginning, is_dump, long_crash, CrashText};
use file::LogFile;
pub use file::Packing;
use pace::Pace;
pub use ring::Ring;
use split::Splitter;

use carry::Carry;

use super::rundir::plain;
use super::token::Source;
use super::upgrade::state::{Bytes, Fds};
use crate::config::model::{FileOutput, Output};
use crate::json::{FromJson, ToJson};
use crate::machine::crash;
use crate::machine::event::{Instance, Pid, ServiceId};
use crate::machine::report::{Crash, Exit};
use crate::machine::time::Tick;
use crate::map::Map;
use crate::sys::handover::Inherited;
use crate::sys::shared::waiting_bytes;

/// The longest line; a longer one comes in pieces of this size.
pub const LINE_CAP: usize = 4096;

/// What one read takes at most, once a service has filled [`SMALL`].
const LARGE: usize = 64 * 1024;

/// What the shared buffer holds while nobody floods.
const SMALL: usize = 4096;

/// A service that has so much to say at once is flooding.
const FLOOD: usize = 32 * 1024;

/// So much at the end of a flood is looked at, also where the ring is smaller.
const SEEN: usize = 16 * 1024;

/// So many services at once have a large pipe while they flood.
const WIDE: usize = 4;

/// Bytes a service may read per turn when each line goes to the log or to a client, which may
/// cost a system call per line.
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
    logs: Map<ServiceId, Box<Log>>,
    /// Services that have, or may have, something to read. Each at most once.
    queue: VecDeque<ServiceId>,
    /// Services whose pipe is left to fill, and until when; epoll does not tell of these.
    paced: Vec<(Tick, ServiceId)>,
    /// So many pipes are large, see [`WIDE`].
    wide: usize,
    buf: Vec<u8>,
    /// Somebody wants each line.
    is_followed: bool,
    /// A log file may have become full.
    may_pack: bool,
    ring: usize,
    /// Where FIFOs are made; none: pipes without a name.
    home: Option<PathBuf>,
    /// None: what is read and not yet passed on is lost if superd is killed.
    carry: Option<Rc<Carry>>,
    /// It is not opened yet; and how long the log was, see [`Carry::open`].
    carry_due: Option<Option<u64>>,
    /// It is open, and nobody was told yet.
    is_carry_new: bool,
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
    /// The last visit brought at least [`FLOOD`] bytes.
    flooding: bool,
    /// Not carried over an upgrade: it is learned again with the next lines.
    pace: Pace,
    /// epoll does not tell of it.
    is_deaf: bool,
    /// Its pipe was made larger for a flood.
    is_wide: bool,
    /// Each line is wanted, by the log or by a client.
    is_heard: bool,
    splitter: Splitter,
    kept: Kept,
    /// With [`Output::File`].
    file: Option<Box<LogFile>>,
}

/// What outlives a change of the program.
#[derive(ToJson, FromJson)]
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
            if log.fifo.is_some() {
                fifo::narrow(&read); // until it floods again; else it is smaller after that
            }
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
                pace: Pace::default(),
                is_deaf: false,
                is_wide: false,
                is_heard: true,
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
    /// `log`: see [`Carry::open`], which comes with the first pipe.
    pub fn set_home(&mut self, run_dir: &Path, log: Option<u64>) {
        self.home = Some(run_dir.to_owned());
        self.carry_due = Some(log);
    }

    /// Makes sure that what is read from now on outlives superd. Where an earlier one may have
    /// left something, that is to be called before anything is read or said.
    pub fn open_carry(&mut self) {
        let Some((log, run_dir)) = self.carry_due.take().zip(self.home.as_deref()) else {
            return;
        };
        match Carry::open(run_dir, log) {
            Ok(carry) => {
                self.carry = Some(Rc::new(carry));
                self.is_carry_new = true;
            }
            Err(e) => {
                self.complaint = Some(format!(
                    "{}: {}; a line or more is lost if superd is killed",
                    run_dir.join(carry::FILE).display(),
                    plain(&e)
                ));
            }
        }
    }

    /// To be told before each line is passed on; once, when it is there.
    pub fn take_carry(&mut self) -> Option<Rc<Carry>> {
        let is_new = std::mem::take(&mut self.is_carry_new);
        self.carry.clone().filter(|_| is_new)
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
            self.open_carry();
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
                pace: Pace::default(),
                is_deaf: false,
                is_wide: false,
                is_heard: true,
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

    /// Of each file that cannot be written, how much was dropped.
    pub fn dropping(&self) -> Vec<String> {
        let files = self.logs.values().filter_map(|l| l.file.as_ref());
        files.filter_map(|file| file.dropping()).collect()
    }

    /// There may be something for [`Logs::next_packing`].
    pub fn may_pack(&self) -> bool {
        self.may_pack
    }

    /// A full file that is to be made smaller, and the command that does it.
    pub fn next_packing(&mut self) -> Option<(ServiceId, Vec<String>, Packing)> {
        self.may_pack = false;
        for (service, log) in &mut self.logs {
            let Some(file) = log.file.as_mut() else {
                continue;
            };
            if !file.take_due() {
                continue;
            }
            if let Some(packing) = file.begin_packing() {
                self.may_pack = true; // the next one may wait
                return Some((*service, file.spec().compress.clone(), packing));
            }
        }
        None
    }

    /// The command has ended, well or not.
    pub fn end_packing(
        &mut self,
        service: ServiceId,
        packing: Packing,
        result: Result<(), String>,
    ) {
        self.may_pack = true;
        let log = self.logs.get_mut(&service);
        match log.and_then(|log| log.file.as_mut()) {
            Some(file) if packing.is_at(&file.spec().path) => file.end_packing(packing, result),
            // A reload has sent its output elsewhere.
            Some(_) | None => packing.abandon(),
        }
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
            self.hasten(Some(service)); // somebody waits for it
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

    /// When the next of the pipes that are left to fill is read.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.paced.iter().map(|(at, _)| *at).min()
    }

    /// Those whose time has come are read in the next turn.
    pub fn expire(&mut self, now: Tick) {
        for i in (0..self.paced.len()).rev() {
            if self.paced.get(i).is_some_and(|(at, _)| *at <= now) {
                let (_, service) = self.paced.swap_remove(i);
                self.ready(service);
            }
        }
    }

    /// Whether somebody follows output: then each line is passed on, also of a flood.
    pub fn set_followed(&mut self, is_followed: bool) {
        self.is_followed = is_followed;
    }

    /// Somebody wants what this service, or any, has said up to now.
    pub fn hasten(&mut self, service: Option<ServiceId>) {
        let whose = |s: &ServiceId| service.is_none_or(|one| one == *s);
        let these = self.paced.iter_mut().filter(|(_, s)| whose(s));
        these.for_each(|(at, _)| *at = Tick(0));
    }

    /// Reads, a share of each service that has something, up to the budget of a turn.
    pub fn turn(&mut self, registry: &Registry, now: Tick, hear: Hear<'_>) {
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
            log.is_heard = self.is_followed || log.output == Output::Log;
            let (share, price) = match log.is_heard {
                true => (LOGGED_SHARE, LARGE / LOGGED_SHARE),
                false if log.is_spliced() => (TURN, 1),
                false => (LARGE, 1),
            };
            let carry = self.carry.as_deref();
            log.pace.visit(|| carry::is_full(log.write.as_fd()));
            let begun = log.begun;
            let (n, mut finished) = match carry.filter(|_| log.is_carried()) {
                _ if log.is_spliced() => {
                    log.pass_to_file(service, carry, &mut self.buf, share, now, hear)
                }
                Some(carry) => log.pass(service, carry, &mut self.buf, share, false, now, hear),
                None => log.read(service, &mut self.buf, share, now, hear),
            };
            let came = log.pace.came((n + log.begun).saturating_sub(begun));
            log.flooding = came >= FLOOD;
            if let (false, Some(file)) = (log.flooding, &mut log.file) {
                file.rest();
            }
            self.may_pack |= log.file.as_ref().is_some_and(|f| f.is_due());
            if finished {
                self.paced.retain(|(_, s)| *s != service);
                let was_wide = log.is_wide;
                if let Some(at) = log.pace(registry, service, now, self.wide < WIDE) {
                    self.paced.push((at, service));
                } else {
                    // Linux 5.5 to 5.13 tells only once of a pipe that was not empty.
                    finished = waiting_bytes(log.read.as_fd()).unwrap_or(0) <= log.begun;
                }
                self.wide += usize::from(log.is_wide);
                self.wide -= usize::from(was_wide);
            }
            budget = budget.saturating_sub(n.saturating_mul(price));
            calm &= came < SMALL;
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
        log.finish(service, now, hear);
        if let Some(file) = &mut log.file {
            file.flush(None, now);
            file.rest();
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
            self.wide -= usize::from(log.is_wide);
            let fd = log.read.as_raw_fd();
            registry.deregister(&mut SourceFd(&fd)).ok(); // closing it does the same
            self.queue.retain(|s| *s != service);
            self.paced.retain(|(_, s)| *s != service);
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

    /// Its pipe is empty: when it is read next; none: when epoll tells that there is something.
    fn pace(
        &mut self,
        registry: &Registry,
        service: ServiceId,
        now: Tick,
        may_widen: bool,
    ) -> Option<Tick> {
        let is_wide = &mut self.is_wide;
        let room = || {
            *is_wide |= may_widen && self.fifo.is_some() && fifo::widen(&self.write);
            let room = fcntl(&self.write, FcntlArg::F_GETPIPE_SZ).unwrap_or(0);
            usize::try_from(room).unwrap_or(0).max(SMALL)
        };
        let mut next = self.pace.emptied(now, room);
        if self.kept.watch.is_some() {
            self.pace.end(); // somebody waits for it
            next = None;
        }
        if self.is_wide && next.is_none() {
            self.is_wide = !fifo::narrow(&self.write);
        }
        if self.is_deaf != next.is_some() {
            // With this a pipe never has an event; going back tells of what is there.
            let what = match next {
                Some(_) => Interest::PRIORITY,
                None => Interest::READABLE,
            };
            let token = Source::Log(service.0).token();
            let fd = self.read.as_raw_fd();
            match registry.reregister(&mut SourceFd(&fd), token, what) {
                Ok(()) => self.is_deaf = next.is_some(),
                // Cannot be. Then a timer tells that there is something.
                Err(_) if self.is_deaf => next = Some(now + pace::LONGEST),
                Err(_) => {}
            }
        }
        next
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
    /// They are looked at before, for the ring; of a flood only its end.
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
        self.begun = 0;
        let there = waiting_bytes(self.read.as_fd()).unwrap_or(SMALL);
        let most = there.min(share);
        let (mut total, mut unseen) = (0, 0);
        while total < most {
            let left = there - total;
            let is_dull = self.is_dull(now);
            if let (true, Some(file)) = (is_dull, &mut self.file) {
                let dull = left.saturating_sub(self.kept.ring.bound().max(SEEN));
                let n = file.pass_unseen(self.read.as_fd(), dull.min(most - total), now);
                if n > 0 {
                    self.splitter.forget();
                    unseen += n;
                    total += n;
                    continue;
                }
            }
            let want = (most - total).min(if is_dull { SEEN } else { LARGE });
            if buf.len() < want {
                *buf = vec![0; want.max(SMALL)];
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
            self.look_back(service, unseen, chunk, now, hear);
            unseen = 0;
            self.take(service, chunk, left.saturating_sub(n), now, hear);
            if let Some(file) = &mut self.file {
                file.pass(self.read.as_fd(), chunk, now);
            }
            total += n;
        }
        (total, total == there) // what came since then is another visit
    }

    /// Of a flood that only goes to the ring, only what will still be there at the end of it is
    /// worth splitting. And a crash text, whose end may be a flood too.
    fn is_dull(&self, now: Tick) -> bool {
        let is_told = self.kept.crash.as_ref().is_some_and(|c| c.goes_on(now));
        self.flooding && !self.is_heard && self.kept.watch.is_none() && !is_told
    }

    /// If this is a part of a long crash text, its beginning may be in the bytes that have gone
    /// to the file `unseen` right before.
    fn look_back(
        &mut self,
        service: ServiceId,
        unseen: usize,
        chunk: &[u8],
        now: Tick,
        hear: Hear<'_>,
    ) {
        if unseen == 0 || !is_dump(chunk) {
            return;
        }
        let before = self.file.as_ref().map(|f| f.last(unseen));
        let before = before.unwrap_or_default();
        if let Some(text) = beginning(&before).and_then(|at| before.get(at..)) {
            let (kept, name, output) = (&mut self.kept, &self.name, self.output);
            self.splitter.push(text, &mut |line| {
                kept.take(line, service, name, output, now, hear);
            });
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
        let (mut total, mut all) = (0, None);
        loop {
            let there = waiting_bytes(self.read.as_fd()).unwrap_or(SMALL);
            if there == 0 || (there == self.begun && !last) {
                return (total, true);
            }
            let want = there.clamp(SMALL, LARGE).min(share - total);
            if buf.len() < want {
                *buf = vec![0; want];
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
            let is_end = last && end == n && n == there;
            let lines = chunk.get(..end).unwrap_or_default();
            if self.has_stamps() {
                let mut passed = 0;
                while passed < end {
                    // What is written in one go goes to one file.
                    let rest = lines.get(passed..).unwrap_or_default();
                    let fits = self.file.as_mut().map(|f| f.fits_stamped(rest, now));
                    let some = fits.and_then(|n| rest.get(..n)).unwrap_or(rest);
                    passed += some.len();
                    carry.due(passed);
                    self.take(service, some, there.saturating_sub(passed), now, hear);
                    if is_end && passed == end {
                        self.finish(service, now, hear);
                    }
                    if let Some(file) = &mut self.file {
                        file.flush(Some(carry), now);
                    }
                }
            } else {
                let (mut passed, name, output) = (0, &self.name, self.output);
                let kept = &mut self.kept;
                let mut take = |line: &[u8]| kept.take(line, service, name, output, now, hear);
                while passed < end {
                    let rest = lines.get(passed..).unwrap_or_default();
                    let length = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
                    passed += length;
                    carry.due(passed);
                    self.splitter
                        .push(rest.get(..length).unwrap_or_default(), &mut take);
                    if is_end && passed == end {
                        self.splitter.finish(&mut take);
                    }
                    carry.pass(); // whoever did not write it
                }
            }
            let taken = carry.take(self.read.as_fd(), end, space);
            total += end;
            // That was all: who writes on and on is not run after.
            if total + self.begun >= *all.get_or_insert(there) {
                return (total, true);
            }
            // A line may be longer than what is left of the share.
            if taken.is_err() || share - total < LINE_CAP {
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
                *buf = vec![0; SMALL];
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
            self.take(service, chunk, 0, now, hear);
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
            // As in `pass`.
            if n < room && total > SMALL && !self.is_of_packets() {
                return (total, true);
            }
            if n == SMALL && buf.len() == SMALL {
                *buf = vec![0; LARGE];
            }
        }
    }

    /// `behind`: so much more of it is in the pipe.
    fn take(&mut self, service: ServiceId, chunk: &[u8], behind: usize, now: Tick, hear: Hear<'_>) {
        let seen = self.kept.ring.bound().max(SEEN);
        let skip = (chunk.len() + behind).saturating_sub(seen);
        let mut rest = chunk;
        if skip > 0 && self.is_dull(now) {
            let skip = skip.min(chunk.len());
            let skip = long_crash(chunk).map_or(skip, |at| at.min(skip));
            let (dull, end) = chunk.split_at_checked(skip).unwrap_or((chunk, &[]));
            match self.file.as_mut().filter(|f| f.has_stamps()) {
                Some(file) => self.splitter.push(dull, &mut |line| file.add(line, now)),
                None => self.splitter.forget(),
            }
            rest = end;
        }
        let (kept, name, output) = (&mut self.kept, &self.name, self.output);
        let file = &mut self.file;
        self.splitter.push(rest, &mut |line| {
            stamp(file, line, now);
            kept.take(line, service, name, output, now, hear);
        });
    }

    /// What is left of a line counts as one.
    fn finish(&mut self, service: ServiceId, now: Tick, hear: Hear<'_>) {
        let (kept, name, output) = (&mut self.kept, &self.name, self.output);
        let file = &mut self.file;
        self.splitter.finish(&mut |line| {
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
