//! The server of the demonstration, and the child it leaves behind.
//!
//! It has a fault that servers in wide use have: a second stop that reaches it while it is
//! stopping closes a channel twice. It waits for its open request, takes half a second to
//! tidy up, and forgets its child. It is not an example of how to write one.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

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

/// Held while a request is open.
static REQUEST: Mutex<()> = Mutex::new(());

/// Runs the server on this unix socket. Returns with status 2 when it is stopped twice.
pub fn server(socket: &Path) -> ExitCode {
    let mut stops = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        stops.add(signal);
    }
    let begun = stops
        .thread_block() // before there is a second thread, for sigwait(3) to get them all
        .map_err(io::Error::from)
        .and_then(|()| leave_child())
        .and_then(|child| Ok((child, UnixListener::bind(socket)?)));
    let (child, listener) = match begun {
        Ok(begun) => begun,
        Err(e) => {
            say(&format!("cannot start: {e}"));
            return ExitCode::FAILURE;
        }
    };
    say(&format!("{CHILD}{child}"));
    std::thread::spawn(move || serve(&listener));
    say(READY);

    wait_for_one(&stops);
    say(WAITING);
    std::thread::spawn(drain);
    wait_for_one(&stops);
    say(PANIC);
    say("goroutine 1 [running]:");
    say("main.(*server).stop(...)");
    ExitCode::from(PANIC_STATUS)
}

/// Waits for a signal and says which.
fn wait_for_one(stops: &SigSet) {
    if let Ok(signal) = stops.wait() {
        let name = signal.as_str();
        say(&format!(
            "{GOT}{}",
            name.strip_prefix("SIG").unwrap_or(name)
        ));
    }
}

/// One request after the other: each lasts until its client has sent everything.
fn serve(listener: &UnixListener) {
    for client in listener.incoming().flatten() {
        let _open = REQUEST.lock().unwrap_or_else(PoisonError::into_inner);
        answer(client).ok(); // a client that hangs up is a request that is done
    }
}

fn answer(mut client: UnixStream) -> io::Result<()> {
    client.write_all(&[BEGUN])?;
    client.read_to_end(&mut Vec::new())?;
    client.write_all(&[DONE])
}

/// The orderly end: the open request, half a second to tidy up, status 0.
fn drain() {
    let _done = REQUEST.lock().unwrap_or_else(PoisonError::into_inner);
    say("the request is done, tidying up");
    std::thread::sleep(TIDY);
    say("stopped");
    std::process::exit(0);
}

/// Starts a child that leaves our session, and forgets it. Returns its pid when it has.
#[allow(clippy::zombie_processes)] // that is the fault which is shown
fn leave_child() -> io::Result<u32> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("demo-child")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut String::new())?;
    }
    Ok(child.id())
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
