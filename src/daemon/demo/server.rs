//! The server of the demonstration, and the child it leaves behind.
//!
//! It has a fault that servers in wide use have: a second stop that reaches it while it is
//! stopping closes a channel twice. It waits for its open request, takes half a second to
//! tidy up, and forgets its child. It is not an example of how to write one.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::story::{Program, STDERR, STDOUT};

/// How long it tidies up after its last request is done.
const TIDY: Duration = Duration::from_millis(500);
/// The child ends by itself after this time, whoever forgets it.
const CHILD_LIFE: Duration = Duration::from_secs(60);
/// What Go exits with after a panic.
const PANIC_STATUS: u8 = 2;

/// What it says when it can be used.
pub const READY: &str = "ready";
/// In front of the name of each signal that it gets.
pub const GOT: &str = "got ";
/// What it says when it begins to stop.
pub const WAITING: &str = "waiting for the open request";
/// In front of the pid of its child.
pub const CHILD: &str = "left a child in a session of its own, pid ";
/// What it says when it is stopped twice.
pub const PANIC: &str = "panic: close of closed channel";
/// The answer to a request, as soon as it is begun.
pub const BEGUN: u8 = b'+';
/// The answer to a request, when it is done.
pub const DONE: u8 = b'.';

/// Runs the server on this unix socket. Returns with status 2 when it is stopped twice.
pub fn server(socket: &Path) -> ExitCode {
    let served = Server::start(socket).and_then(|mut server| server.serve());
    served.unwrap_or_else(|e| {
        say(&format!("failed: {e}"));
        ExitCode::FAILURE
    })
}

struct Server {
    listener: UnixListener,
    signals: SignalFd,
    /// The open request; one at a time.
    request: Option<UnixStream>,
    stopping: bool,
    /// Everything is done then.
    tidy_at: Option<Instant>,
}

impl Server {
    fn start(socket: &Path) -> io::Result<Server> {
        let mut stops = SigSet::empty();
        for signal in [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ] {
            stops.add(signal);
        }
        stops.thread_block()?;
        let signals = SignalFd::with_flags(&stops, SfdFlags::SFD_CLOEXEC)?;
        let child = leave_child()?;
        let listener = UnixListener::bind(socket)?;
        say(&format!("{CHILD}{child}"));
        say(READY);
        Ok(Server {
            listener,
            signals,
            request: None,
            stopping: false,
            tidy_at: None,
        })
    }

    fn serve(&mut self) -> io::Result<ExitCode> {
        loop {
            let (signal, client) = self.wait()?;
            if signal && self.stopped_again()? {
                say(PANIC);
                say("goroutine 1 [running]:");
                say("main.(*server).stop(...)");
                return Ok(ExitCode::from(PANIC_STATUS));
            }
            if client {
                self.go_on();
            }
            let now = Instant::now();
            if self.stopping && self.request.is_none() && self.tidy_at.is_none() {
                say("the request is done, tidying up");
                self.tidy_at = Some(now + TIDY);
            }
            if self.tidy_at.is_some_and(|t| t <= now) {
                say("stopped");
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    /// Waits for a signal, and for the client of the open request, else for a new one.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let client = match &self.request {
            Some(client) => client.as_fd(),
            None => self.listener.as_fd(),
        };
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(client, PollFlags::POLLIN),
        ];
        let left = self
            .tidy_at
            .map(|t| t.saturating_duration_since(Instant::now()));
        // Rounded up: not a millisecond of turning in circles at the end.
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        poll(&mut fds, timeout)?;
        let [signal, client] = fds.map(|fd| fd.any().unwrap_or(true));
        Ok((signal, client))
    }

    /// Takes a signal. True: it is the second one.
    fn stopped_again(&mut self) -> io::Result<bool> {
        let Some(info) = self.signals.read_signal()? else {
            return Ok(false);
        };
        let signal = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
        let name = Signal::try_from(signal)?.as_str();
        say(&format!(
            "{GOT}{}",
            name.strip_prefix("SIG").unwrap_or(name)
        ));
        if !self.stopping {
            say(WAITING);
        }
        Ok(std::mem::replace(&mut self.stopping, true))
    }

    /// A request is open until its client has sent everything, or hung up.
    fn go_on(&mut self) {
        self.request = match self.request.take() {
            Some(mut client) => match client.read(&mut [0; 64]) {
                Ok(1..) => Some(client),
                _ => {
                    client.write_all(&[DONE]).ok(); // the client is gone: its own wish
                    None
                }
            },
            None => self.listener.accept().ok().map(|(mut client, _)| {
                client.write_all(&[BEGUN]).ok(); // found out by the next read
                client
            }),
        };
    }
}

/// Starts a child that leaves our session, and forgets it. Returns its pid when it has.
fn leave_child() -> io::Result<Pid> {
    let exe = std::env::current_exe()?;
    let child = Program {
        argv: vec![exe.as_ref(), "demo-child".as_ref()],
        heard: Some(STDOUT),
        dropped: &[STDERR],
    };
    let (pid, out) = child.start()?;
    if let Some(out) = out {
        BufReader::new(out).read_line(&mut String::new())?;
    }
    Ok(pid)
}

/// The child: it makes a session of its own, says so, and stays.
pub fn child() -> ExitCode {
    nix::unistd::setsid().ok(); // fails only for who leads a group already
    SigSet::all().thread_unblock().ok(); // its parent blocks the signals that it waits for
    println!("{READY}");
    std::thread::sleep(CHILD_LIFE);
    ExitCode::SUCCESS
}

/// A line of output, in one write. Nobody reads it: no reason to end.
fn say(line: &str) {
    io::stderr().write_all(format!("{line}\n").as_bytes()).ok();
}
