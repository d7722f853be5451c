//! From signals to the latch: what the handlers do, and the self-pipe that wakes the loop.
//!
//! A handler does one read-modify-write on the latch, and writes one byte only if it was
//! the first to set its bit. Who sent the first stop request is kept beside it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use nix::fcntl::OFlag;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::json::{FromJson, ToJson};
use crate::latch::{Bit, Latch, Seen};
use crate::machine::report::Origin;
use crate::machine::signal::Signal;
use crate::sys::signals;

/// The one word. A static because a signal handler has nothing else.
pub static LATCH: Latch = Latch::new();

static WAKE: AtomicI32 = AtomicI32::new(-1);
static IS_INSTALLED: AtomicBool = AtomicBool::new(false);
static QUIT_IS_PASSED_ON: AtomicBool = AtomicBool::new(false);
static FIRST_STOP: Sender = Sender::new();
static FIRST_FORCE: Sender = Sender::new();
/// Of those that may come again and again: the last sender of each.
static HUP: Sender = Sender::new();
static USR1: Sender = Sender::new();
static USR2: Sender = Sender::new();
static QUIT: Sender = Sender::new();

/// Who sent a signal. Written before the latch publishes it.
struct Sender {
    signal: AtomicI32,
    pid: AtomicI32,
    uid: AtomicU32,
}

impl Sender {
    const fn new() -> Sender {
        Sender {
            signal: AtomicI32::new(0),
            pid: AtomicI32::new(0),
            uid: AtomicU32::new(0),
        }
    }

    /// The first one stays. Handlers run one after another on the only thread, or nested:
    /// then the outer one has already claimed the place.
    fn note(&self, signal: i32, pid: i32, uid: u32) {
        let claim = self
            .signal
            .compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
        if claim.is_ok() {
            self.pid.store(pid, Ordering::Relaxed);
            self.uid.store(uid, Ordering::Relaxed);
        }
    }

    /// The last one stays. A handler may interrupt the reader, which then sees one sender's
    /// pid and another one's user; it is for people, and nothing is decided by it.
    fn renew(&self, signal: i32, pid: i32, uid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
        self.uid.store(uid, Ordering::Relaxed);
        self.signal.store(signal, Ordering::Relaxed);
    }

    fn numbers(&self) -> (i32, i32, u32) {
        let signal = self.signal.load(Ordering::Relaxed);
        let pid = self.pid.load(Ordering::Relaxed);
        (signal, pid, self.uid.load(Ordering::Relaxed))
    }

    fn origin(&self) -> Option<Origin> {
        let signal = self.signal.load(Ordering::Relaxed);
        (signal != 0).then(|| {
            let pid = self.pid.load(Ordering::Relaxed);
            Origin::Signal {
                signal: Signal(signal),
                pid,
                uid: self.uid.load(Ordering::Relaxed),
                command: crate::sys::proc::comm(pid),
            }
        })
    }
}

/// What signals have asked for and nobody has heeded yet, and who has sent them: for a superd
/// that becomes another program. Only while signals are held.
#[derive(Debug, ToJson, FromJson)]
pub struct Kept {
    word: u32,
    senders: Vec<(i32, i32, u32)>,
}

const SENDERS: [&Sender; 6] = [&FIRST_STOP, &FIRST_FORCE, &HUP, &USR1, &USR2, &QUIT];

/// See [`Kept`]. A wish for an upgrade is granted by what follows.
pub fn keep() -> Kept {
    Kept {
        word: LATCH.word() & !(Bit::Upgrade as u32),
        senders: SENDERS.iter().map(|s| s.numbers()).collect(),
    }
}

/// What [`keep`] said, in the new one.
pub fn take_up(kept: &Kept) {
    LATCH.restore(kept.word);
    for (sender, (signal, pid, uid)) in SENDERS.iter().zip(&kept.senders) {
        sender.renew(*signal, *pid, *uid);
    }
}

/// Who asked superd to end, by a signal.
pub fn who_stopped() -> Option<Origin> {
    FIRST_STOP.origin()
}

/// Who asked superd to end at once, by a signal.
pub fn who_forced() -> Option<Origin> {
    FIRST_FORCE.origin()
}

/// Who sent the last HUP, USR1, USR2 or (passed on) QUIT.
pub fn who_sent(signal: Signal) -> Origin {
    let sender = match signal.0 {
        SIGHUP => &HUP,
        SIGUSR1 => &USR1,
        SIGUSR2 => &USR2,
        _ => &QUIT,
    };
    sender.origin().unwrap_or(Origin::Signal {
        signal,
        pid: 0,
        uid: 0,
        command: String::new(),
    })
}

/// Runs in a signal handler: atomics and at most one write(2).
fn handle(signal: i32, pid: i32, uid: u32) {
    let bit = match signal {
        SIGTERM | SIGINT => {
            FIRST_STOP.note(signal, pid, uid);
            Bit::Stop
        }
        SIGQUIT if QUIT_IS_PASSED_ON.load(Ordering::Relaxed) => {
            QUIT.renew(signal, pid, uid);
            Bit::Quit
        }
        SIGQUIT => {
            FIRST_FORCE.note(signal, pid, uid);
            Bit::Force
        }
        SIGHUP => {
            HUP.renew(signal, pid, uid);
            Bit::Reload
        }
        SIGCHLD => Bit::Reap,
        SIGUSR1 => {
            USR1.renew(signal, pid, uid);
            Bit::Dump
        }
        SIGUSR2 => {
            USR2.renew(signal, pid, uid);
            Bit::Upgrade
        }
        _ => return,
    };
    if LATCH.request(bit) == Seen::First {
        wake();
    }
}

/// One byte into the self-pipe. A full pipe is as good: the loop is awake already.
fn wake() {
    let fd = WAKE.load(Ordering::Relaxed);
    if fd >= 0 {
        crate::sys::wake::write_byte(fd);
    }
}

/// The end of the self-pipe that the loop reads.
#[derive(Debug)]
pub struct Wakeup {
    read: File,
    _write: OwnedFd,
}

impl Wakeup {
    /// Makes the self-pipe and installs every handler. `pass_quit_on`: SIGQUIT is for the
    /// service (wrap mode) and does not end superd.
    pub fn install(pass_quit_on: bool) -> io::Result<Wakeup> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        WAKE.store(write.as_raw_fd(), Ordering::Relaxed);
        QUIT_IS_PASSED_ON.store(pass_quit_on, Ordering::Relaxed);
        // Once, also when a start after an upgrade has to begin anew.
        if IS_INSTALLED.swap(true, Ordering::Relaxed) {
            return Ok(Wakeup {
                read: File::from(read),
                _write: write,
            });
        }
        for signal in [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGCHLD, SIGUSR1, SIGUSR2] {
            signals::on(signal, handle)?;
        }
        Ok(Wakeup {
            read: File::from(read),
            _write: write,
        })
    }

    /// Empties the pipe. The latch is taken *after* this.
    pub fn drain(&mut self) {
        let mut bytes = [0_u8; 64];
        while matches!(self.read.read(&mut bytes), Ok(n) if n == bytes.len()) {}
    }
}

impl AsRawFd for Wakeup {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.read.as_raw_fd()
    }
}
