//! /proc as superd reads it: processes, their environment, their sockets.
//!
//! The parsers are pure functions over bytes that others can influence (a process names
//! itself, and its environment is its own memory): they never panic, never take more than
//! they were given, and answer None to garbage. What is read is old the moment it is read;
//! whoever acts on a pid compares the start time again.
//!
//! Here are the files of one process; `scan` reads those of all, and `net` what is said of sockets.

mod net;
mod scan;

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

pub(super) use net::connection_state;
pub use net::{
    connections, listeners, listening, network_of, parse_listener, socket_inodes, sockets,
    some_socket_inodes, tcp_in_use, unix_listeners, Connection, Listener, Transport,
};
#[cfg(test)]
pub(super) use net::{read_connections, read_listeners};
pub use scan::Scanner;

use crate::json::{FromJson, ToJson};

/// What superd wants of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Stat {
    /// The process.
    pub pid: i32,
    /// `R`, `S`, `D`, `Z` ...
    pub state: u8,
    /// Its parent.
    pub ppid: i32,
    /// Its process group.
    pub pgrp: i32,
    /// Its session.
    pub session: i32,
    /// Whether it is on its way out (PF_EXITING): its memory, with its environment, may be
    /// gone although it is no zombie yet.
    pub is_exiting: bool,
    /// Threads that are left.
    pub threads: u32,
    /// When it started, in clock ticks after boot: with the pid it names a process.
    pub start: u64,
}

impl Stat {
    /// Whether it still runs. A zombie does not, unless only its first thread has ended.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x') || self.threads > 1
    }
}

/// Whether there is a /proc to read (proc(5)).
pub fn is_mounted() -> bool {
    std::path::Path::new("/proc/self/stat").exists()
}

/// Of the flags in `/proc/PID/stat` (include/linux/sched.h).
const PF_EXITING: u32 = 4;

/// Parses a line of `/proc/PID/stat`. The name in parentheses is the process's own choice
/// and may hold parentheses, spaces, newlines and digits: the last `)` ends it.
pub fn parse_stat(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|b| *b == b'(')?;
    let close = line.iter().rposition(|b| *b == b')')?;
    let pid = number(line.get(..open)?.trim_ascii())?;
    let rest = line.get(close + 1..)?;
    let mut fields = rest
        .split(u8::is_ascii_whitespace)
        .filter(|f| !f.is_empty());
    let state = *fields.next()?.first()?;
    let ppid = number(fields.next()?)?;
    let pgrp = number(fields.next()?)?;
    let session = number(fields.next()?)?;
    // tty and tpgid come between, and then 4 faults, 4 times, priority, nice.
    let flags: u32 = number(fields.nth(2)?)?;
    let threads = number(fields.nth(10)?)?;
    let start = number(fields.nth(1)?)?;
    Some(Stat {
        pid,
        state,
        ppid,
        pgrp,
        session,
        is_exiting: flags & PF_EXITING != 0,
        threads,
        start,
    })
}

fn number<N: std::str::FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// One process, when none is looked at often.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&read_capped(format!("/proc/{pid}/stat"), 4096).ok()?)
}

/// How a zombie ended, as the status word of wait(2) says it. None: it is not one, or it may
/// not be looked at (proc_pid_stat(5), field 52).
pub fn zombie_status(pid: i32, start: u64) -> Option<i32> {
    let line = read_capped(format!("/proc/{pid}/stat"), 4096).ok()?;
    let stat = parse_stat(&line)?;
    if stat.start != start || stat.is_alive() {
        return None;
    }
    number(line.trim_ascii_end().rsplit(|b| *b == b' ').next()?)
}

/// The value of a variable in the environment that a process was started with.
pub fn variable(pid: i32, name: &[u8]) -> Option<Vec<u8>> {
    // execve(2) takes at most 6 MiB.
    let text = read_capped(format!("/proc/{pid}/environ"), 6 << 20).ok()?;
    text.split(|b| *b == 0)
        .find_map(|v| v.strip_prefix(name)?.strip_prefix(b"="))
        .map(<[u8]>::to_vec)
}

/// The pids of superd's parent, of that one's parent, and so on.
pub fn ancestors() -> Vec<i32> {
    let mut found = Vec::new();
    let mut pid = nix::unistd::getppid().as_raw();
    while pid > 1 && found.len() < 64 {
        found.push(pid);
        pid = stat(pid).map_or(0, |s| s.ppid);
    }
    found
}

/// The command name of a process, with what cannot be shown replaced; empty when it is gone.
pub fn comm(pid: i32) -> String {
    let text = read_capped(format!("/proc/{pid}/comm"), 256).unwrap_or_default();
    let name = String::from_utf8_lossy(text.trim_ascii_end());
    name.replace(|c: char| c.is_control(), "?")
}

/// The function of the kernel in which a process waits (proc_pid_wchan(5)); empty when it
/// runs, when it is gone, and where only the kernel may know (that needs CAP_SYS_PTRACE).
pub fn wchan(pid: i32) -> String {
    let text = read_capped(format!("/proc/{pid}/wchan"), 64).unwrap_or_default();
    parse_wchan(&text)
}

fn parse_wchan(text: &[u8]) -> String {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
    let name = text.trim_ascii_end();
    match name {
        b"0" => String::new(),
        name if name.iter().all(is_name) => String::from_utf8_lossy(name).into_owned(),
        _ => String::new(),
    }
}

/// Resident memory of a process in KiB, shared pages included; 0 when it is gone.
pub fn resident_kib(pid: i32) -> u64 {
    let text = read_capped(format!("/proc/{pid}/statm"), 256).unwrap_or_default();
    let mut fields = text.split(u8::is_ascii_whitespace);
    let pages = fields.nth(1).and_then(number::<u64>).unwrap_or(0);
    pages.saturating_mul(page_size() / 1024)
}

/// Now, in clock ticks after boot, as [`Stat::start`] has it. None within a microsecond of a tick.
pub(super) fn ticks_now() -> Option<u64> {
    /// USER_HZ of every architecture that superd runs on (time(7)).
    const TICK: u64 = 1_000_000_000 / 100;
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    let now = Duration::from(nix::time::clock_gettime(clock).ok()?);
    let now = u64::try_from(now.as_nanos()).ok()?;
    let since = now % TICK;
    (1_000..TICK - 1_000).contains(&since).then_some(now / TICK)
}

/// Bytes of a page.
pub(super) fn page_size() -> u64 {
    // SAFETY: sysconf(3) takes a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// The first `cap` bytes of one of the kernel's own files, which have no length. One read(2) with
/// a cap of at most a page; else one for what is usual, and one for its end.
///
/// # Errors
/// Of open(2) and read(2).
pub(crate) fn read_capped(path: impl AsRef<Path>, cap: u64) -> io::Result<Vec<u8>> {
    let mut file = super::file::open_to_read(path)?;
    if cap <= 4096 {
        // What is shorter than a page comes whole with one read(2).
        let mut text = vec![0; cap as usize];
        let n = file.read(&mut text)?;
        text.truncate(n);
        return Ok(text);
    }
    // Room for all that most of these files have: each read(2) of one makes it anew.
    let mut text = Vec::with_capacity(8 * 1024);
    file.take(cap).read_to_end(&mut text)?; // without `take` it asks for the length
    Ok(text)
}

#[cfg(test)]
mod tests;
