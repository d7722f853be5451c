//! /proc as superd reads it: processes, their environment, their sockets.
//!
//! The parsers are pure functions over bytes that others can influence (a process names
//! itself, and its environment is its own memory): they never panic, never take more than
//! they were given, and answer None to garbage. What is read is old the moment it is read;
//! whoever acts on a pid compares the start time again.
//!
//! Longer than a file should be: a parser for each file of /proc, and none needs another.

use std::fs;
use std::io::{self, BufRead, Read};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// The pids among the entries that getdents64(2) wrote. A record is inode (8 bytes),
/// offset (8), length (2), type (1), name.
fn pids_in(entries: &[u8]) -> impl Iterator<Item = i32> + '_ {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.get(16)?, *rest.get(17)?]));
        let record = rest.get(..length.max(20))?;
        rest = rest.get(length.max(20)..)?;
        Some(record.get(19..).unwrap_or_default())
    })
    .filter_map(|name| number(name.split(|b| *b == 0).next()?))
    .filter(|pid| *pid > 0)
}

/// Reads /proc, with buffers that are made once.
#[derive(Debug)]
pub struct Scanner {
    proc: OwnedFd,
    /// Given up while a file is open, when superd has no other descriptor left: who is alive
    /// must be known then, too.
    spare: Option<OwnedFd>,
    entries: Vec<u8>,
    file: Vec<u8>,
}

impl Scanner {
    /// Fails where /proc is not mounted.
    pub fn new() -> io::Result<Scanner> {
        let proc = open_proc()?;
        Ok(Scanner {
            spare: open_proc().ok(),
            proc,
            entries: vec![0; 4096],
            file: vec![0; 4096],
        })
    }

    /// Every process that can be seen and has a session here, zombies included, in no promised
    /// order. A process born during the scan may be missed: scan again after stopping its
    /// parents. False if one that was listed was gone before it could be read.
    ///
    /// # Errors
    /// Of reading the directory; and where a process cannot be looked at although it may be
    /// there (EMFILE, ENFILE, ENOMEM): then who is there is not known.
    ///
    /// The kernel's threads, and what entered this pid namespace from outside, have session 0
    /// (getsid(2)); to ask for that costs a hundredth of reading a file of theirs.
    pub fn each(&mut self, mut f: impl FnMut(&Stat)) -> io::Result<bool> {
        use nix::unistd::{lseek, Whence};
        lseek(&self.proc, 0, Whence::SeekSet)?;
        let mut entries = std::mem::take(&mut self.entries);
        let is_whole = self.each_in(&mut entries, &mut f);
        self.entries = entries;
        is_whole
    }

    fn each_in(&mut self, room: &mut [u8], f: &mut dyn FnMut(&Stat)) -> io::Result<bool> {
        let mut is_whole = true;
        loop {
            let (fd, buffer) = (self.proc.as_raw_fd(), room.as_mut_ptr());
            // SAFETY: getdents64(2) writes at most as many bytes as the buffer is long.
            let n = unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer, room.len()) };
            let entries = match usize::try_from(n) {
                Ok(0) => return Ok(is_whole),
                Ok(n) => room.get(..n).unwrap_or_default(),
                Err(_) => return Err(io::Error::last_os_error()),
            };
            for pid in pids_in(entries).filter(|pid| has_session(*pid)) {
                match self.try_stat(pid)? {
                    Some(stat) => f(&stat),
                    None => is_whole = false,
                }
            }
        }
    }

    /// One process; none when it is gone.
    pub fn stat(&mut self, pid: i32) -> Option<Stat> {
        self.try_stat(pid).ok().flatten()
    }

    /// None: it is gone, or not for this user to see.
    fn try_stat(&mut self, pid: i32) -> nix::Result<Option<Stat>> {
        use nix::errno::Errno;
        let opened = self.with_file(pid, "stat", |file, buffer| {
            let n = nix::unistd::read(file.as_fd(), &mut *buffer)?;
            Ok(buffer.get(..n).and_then(parse_stat))
        });
        match opened {
            Ok(stat) => Ok(stat),
            Err(e @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => Err(e),
            Err(_) => Ok(None),
        }
    }

    /// Opens a file of a process, if need be with the descriptor that is kept for that.
    fn with_file<T>(
        &mut self,
        pid: i32,
        name: &str,
        read: impl FnOnce(OwnedFd, &mut [u8]) -> nix::Result<T>,
    ) -> nix::Result<T> {
        use nix::errno::Errno;
        let file = match open_at(&self.proc, pid, name) {
            Err(Errno::EMFILE | Errno::ENFILE) if self.spare.take().is_some() => {
                open_at(&self.proc, pid, name)
            }
            other => other,
        };
        let result = file.and_then(|file| read(file, &mut self.file));
        if self.spare.is_none() {
            self.spare = open_proc().ok();
        }
        result
    }

    /// Whether the environment that a process was started with holds exactly this
    /// `NAME=value`. False when it may not be read. None: nobody can tell now, because the
    /// process is in the middle of execve(2) or of its end; ask again.
    pub fn has_variable(&mut self, pid: i32, variable: &[u8]) -> Option<bool> {
        // In the middle of execve(2) a process has no environment for some microseconds.
        for _ in 0..4 {
            match self.search_environ(pid, variable) {
                Some(found) => return Some(found),
                None => std::thread::yield_now(),
            }
        }
        // And no arguments either, unlike one that was started without an environment.
        let read = self.with_file(pid, "cmdline", |file, buffer| {
            nix::unistd::read(file.as_fd(), buffer)
        });
        matches!(read, Ok(1..)).then_some(false)
    }

    /// None: the environment is empty.
    fn search_environ(&mut self, pid: i32, variable: &[u8]) -> Option<bool> {
        let mut search = Search::new(variable);
        let found = self.with_file(pid, "environ", |file, buffer| {
            // execve(2) takes at most 6 MiB; the loop is bounded by more than that.
            for i in 0..2048 {
                match nix::unistd::read(file.as_fd(), &mut *buffer) {
                    Ok(0) if i == 0 => return Ok(None),
                    Ok(n) if n > 0 => {
                        if search.feed(buffer.get(..n).unwrap_or_default()) {
                            return Ok(Some(true));
                        }
                    }
                    _ => break,
                }
            }
            Ok(Some(search.finish()))
        });
        found.unwrap_or(Some(false))
    }
}

/// Asks for the process group as well: while a process calls setsid(2) each of the two may
/// be 0 for a moment, but never both.
fn has_session(pid: i32) -> bool {
    use nix::unistd::{getpgid, getsid, Pid};
    let pid = Some(Pid::from_raw(pid));
    // Gone, or a security module says no: then its file tells.
    let is_not_0 = |id: nix::Result<Pid>| id.is_err() || id.is_ok_and(|id| id.as_raw() != 0);
    is_not_0(getsid(pid)) || is_not_0(getpgid(pid))
}

fn open_proc() -> io::Result<OwnedFd> {
    Ok(super::file::open_to_read("/proc")?.into())
}

fn open_at(proc: &OwnedFd, pid: i32, file: &str) -> nix::Result<OwnedFd> {
    use nix::fcntl::{openat, OFlag};
    use std::io::Write;
    let mut path = [0_u8; 40];
    write!(path.as_mut_slice(), "{pid}/{file}\0").map_err(|_| nix::Error::ENAMETOOLONG)?;
    let path = std::ffi::CStr::from_bytes_until_nul(&path).unwrap_or_default();
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(proc, path, flags, nix::sys::stat::Mode::empty())
}

/// Looks for one entry among NUL-terminated ones that arrive in pieces.
struct Search<'a> {
    wanted: &'a [u8],
    /// How much of `wanted` the current entry has matched; none: it differs.
    matched: Option<usize>,
}

impl<'a> Search<'a> {
    fn new(wanted: &'a [u8]) -> Self {
        Search {
            wanted,
            matched: Some(0),
        }
    }

    fn feed(&mut self, piece: &[u8]) -> bool {
        for b in piece {
            if *b == 0 {
                if self.finish() {
                    return true;
                }
                self.matched = Some(0);
            } else {
                let next = self.matched.filter(|n| self.wanted.get(*n) == Some(b));
                self.matched = next.map(|n| n + 1);
            }
        }
        false
    }

    /// Whether the entry that was fed last is the wanted one.
    fn finish(&self) -> bool {
        self.matched == Some(self.wanted.len()) && !self.wanted.is_empty()
    }
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

/// Adds the inodes of the sockets that a process holds open. Nothing is added when it is
/// gone or may not be looked at. At most 65,536 descriptors are looked at.
pub fn socket_inodes(pid: i32, inodes: &mut Vec<u64>) {
    some_socket_inodes(pid, 65_536, inodes);
}

/// The same, looking at no more than so many descriptors.
pub fn some_socket_inodes(pid: i32, most: usize, inodes: &mut Vec<u64>) {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return;
    };
    for entry in entries.take(most).filter_map(Result::ok) {
        let link = fs::read_link(entry.path()).unwrap_or_else(|_| PathBuf::new());
        inodes.extend(link.to_str().and_then(parse_socket));
    }
}

/// Adds the sockets that a process holds open: descriptor and inode. `left` is how many
/// descriptors may be looked at; what was is taken from it.
///
/// # Errors
/// EACCES, when it may not be looked at: that needs CAP_SYS_PTRACE; EMFILE and the like, when
/// superd cannot; one without a number when it has more descriptors. None when it is gone.
pub fn sockets(pid: i32, left: &mut usize, found: &mut Vec<(i32, u64)>) -> io::Result<()> {
    let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries,
        Err(e) if is_gone(&e) => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries.filter_map(Result::ok) {
        let Some(less) = left.checked_sub(1) else {
            return Err(io::Error::other("it has too many descriptors open"));
        };
        *left = less;
        let link = match fs::read_link(entry.path()) {
            Ok(link) => link,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(e),
            Err(_) => continue, // closed meanwhile
        };
        let fd = entry.file_name().to_str().and_then(|n| n.parse().ok());
        let inode = link.to_str().and_then(parse_socket);
        found.extend(fd.zip(inode));
    }
    Ok(())
}

/// The process has ended: its directory is not there, or nothing is in it any more.
fn is_gone(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH)
}

/// `socket:[12345]`
fn parse_socket(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// The network namespace of a process (`net:[4026531840]`); `self` is superd's own.
pub fn network_of(pid: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// Transport of a listening socket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ToJson, FromJson)]
pub enum Transport {
    /// TCP, over IPv4 or IPv6.
    Tcp,
    /// UDP, over IPv4 or IPv6.
    Udp,
}

/// A socket that takes what comes in: TCP in state LISTEN, UDP bound and not connected.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ToJson, FromJson)]
pub struct Listener {
    /// TCP or UDP.
    pub transport: Transport,
    /// Local port.
    pub port: u16,
    /// The socket, until it is closed by everybody who holds it.
    pub inode: u64,
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "tcp/{}", self.port),
            Transport::Udp => write!(f, "udp/{}", self.port),
        }
    }
}

/// TCP sockets in use in superd's own network namespace, which is at least the number of
/// connections to any service in it (`/proc/net/sockstat` and `sockstat6`). Cheap.
pub fn tcp_in_use() -> Option<u32> {
    let read = |path| fs::read_to_string(path).ok();
    let v4 = parse_in_use("TCP: inuse ", &read("/proc/net/sockstat")?)?;
    let v6 = read("/proc/net/sockstat6").and_then(|text| parse_in_use("TCP6: inuse ", &text));
    Some(v4.saturating_add(v6.unwrap_or(0)))
}

fn parse_in_use(head: &str, text: &str) -> Option<u32> {
    let line = text.lines().find_map(|l| l.strip_prefix(head))?;
    line.split(' ').next()?.parse().ok()
}

/// The server's end of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The address by which the client has reached it.
    pub local: SocketAddr,
    /// The three-way handshake is not complete yet.
    pub is_handshake: bool,
    /// The server's socket; 0: it is not accepted yet.
    pub inode: u64,
}

/// TCP_SYN_RECV: the first half of a handshake. TCP_ESTABLISHED, also what waits to be
/// accepted, and TCP_CLOSE_WAIT: the client has sent all, and may want an answer. What the
/// server has closed is no longer its business (net/tcp_states.h).
pub(super) fn connection_state(state: u8) -> Option<bool> {
    match state {
        3 | 12 => Some(true),
        1 | 8 => Some(false),
        _ => None,
    }
}

/// Calls `f` for each TCP connection to these ports in the network namespace that `pid` (or
/// `self`) lives in. Connections that are not accepted yet are among them.
///
/// # Errors
/// It cannot be told now, for want of descriptors or memory, or since that process is gone.
/// `f` may have been called then for some.
pub fn connections(
    pid: &str,
    ports: &RangeInclusive<u16>,
    f: &mut dyn FnMut(Connection),
) -> io::Result<()> {
    if pid == "self" {
        let mut found = Vec::new();
        if super::sock_diag::connections(ports, &mut found).is_ok() {
            found.into_iter().for_each(f);
            return Ok(());
        }
    }
    read_connections(pid, ports, f)
}

/// The same from /proc/net.
pub(super) fn read_connections(
    pid: &str,
    ports: &RangeInclusive<u16>,
    f: &mut dyn FnMut(Connection),
) -> io::Result<()> {
    for file in ["tcp", "tcp6"] {
        each_line(&format!("/proc/{pid}/net/{file}"), |line| {
            if let Some(c) = parse_connection(line).filter(|c| ports.contains(&c.local.port())) {
                f(c);
            }
        })?;
    }
    Ok(())
}

fn parse_connection(line: &[u8]) -> Option<Connection> {
    let mut fields = line
        .split(u8::is_ascii_whitespace)
        .filter(|f| !f.is_empty());
    let local = parse_address(fields.nth(1)?)?;
    let state = std::str::from_utf8(fields.nth(1)?).ok()?;
    let is_handshake = connection_state(u8::from_str_radix(state, 16).ok()?)?;
    // Queues, timer, retransmits, uid and timeout come between.
    let inode = number(fields.nth(5)?)?;
    Some(Connection {
        local,
        is_handshake,
        inode,
    })
}

/// `0100007F:1F90`: words of 32 bits as the machine has them, then the port.
fn parse_address(text: &[u8]) -> Option<SocketAddr> {
    let (words, port) = std::str::from_utf8(text).ok()?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = words.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match words.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for (at, place) in bytes.chunks_exact_mut(4).enumerate() {
                place.copy_from_slice(&word(at)?);
            }
            IpAddr::from(bytes)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Adds inode and path of the unix stream sockets that take connections, in the network
/// namespace that `pid` lives in (proc_pid_net(5)).
pub fn unix_listeners(pid: &str, found: &mut Vec<(u64, String)>) {
    let read = each_line(&format!("/proc/{pid}/net/unix"), |line| {
        found.extend(parse_unix_listener(line));
    });
    read.ok(); // they are told, and nothing else
}

/// `0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/x.sock`; the flag is
/// __SO_ACCEPTCON, the type SOCK_STREAM.
fn parse_unix_listener(line: &[u8]) -> Option<(u64, String)> {
    let mut fields = line
        .split(u8::is_ascii_whitespace)
        .filter(|f| !f.is_empty());
    let is_open = fields.nth(3)? == b"00010000";
    let is_stream = fields.next()? == b"0001";
    let inode = number(fields.nth(1)?)?;
    let path = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
    (is_open && is_stream).then_some((inode, path))
}

/// Parses a line of /proc/net/{tcp,tcp6,udp,udp6} (proc_pid_net(5)). None for the heading,
/// for garbage, and for sockets that are not listening.
pub fn parse_listener(transport: Transport, line: &[u8]) -> Option<Listener> {
    let mut fields = line
        .split(u8::is_ascii_whitespace)
        .filter(|f| !f.is_empty());
    let local = fields.nth(1)?;
    let colon = local.iter().rposition(|b| *b == b':')?;
    let hex = |text| u16::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
    let port = hex(local.get(colon + 1..)?)?;
    let state = hex(fields.nth(1)?)?;
    // Queues, timer, retransmits, uid and timeout come between.
    let inode: u64 = number(fields.nth(5)?)?;
    let listens = match transport {
        Transport::Tcp => state == 0x0a, // TCP_LISTEN
        Transport::Udp => state == 0x07, // TCP_CLOSE: not connected
    };
    (listens && port != 0 && inode != 0).then_some(Listener {
        transport,
        port,
        inode,
    })
}

/// Adds the listening sockets of the network namespace that `pid` (or `self`) lives in.
///
/// # Errors
/// As [`connections`]; what was found until then was added.
pub fn listeners(pid: &str, found: &mut Vec<Listener>) -> io::Result<()> {
    let before = found.len();
    if pid == "self" && super::sock_diag::listeners(found).is_ok() {
        return Ok(());
    }
    found.truncate(before);
    read_listeners(pid, found)
}

/// The TCP sockets that listen on these ports in superd's network namespace: address and inode.
///
/// # Errors
/// As [`connections`].
pub fn listening(ports: &RangeInclusive<u16>) -> io::Result<Vec<(SocketAddr, u64)>> {
    let mut found = Vec::new();
    if super::sock_diag::listening(ports, &mut found).is_err() {
        found.clear();
        read_listening(ports, &mut found)?;
    }
    Ok(found)
}

/// The same from /proc/net.
fn read_listening(
    ports: &RangeInclusive<u16>,
    found: &mut Vec<(SocketAddr, u64)>,
) -> io::Result<()> {
    for file in ["tcp", "tcp6"] {
        each_line(&format!("/proc/self/net/{file}"), |line| {
            let mut fields = line
                .split(u8::is_ascii_whitespace)
                .filter(|f| !f.is_empty());
            let local = fields.nth(1).and_then(parse_address);
            let local = local.filter(|at| ports.contains(&at.port()));
            if let Some(listener) = parse_listener(Transport::Tcp, line) {
                found.extend(local.map(|at| (at, listener.inode)));
            }
        })?;
    }
    Ok(())
}

/// The same from /proc/net.
pub(super) fn read_listeners(pid: &str, found: &mut Vec<Listener>) -> io::Result<()> {
    for (file, transport) in [
        ("tcp", Transport::Tcp),
        ("tcp6", Transport::Tcp),
        ("udp", Transport::Udp),
        ("udp6", Transport::Udp),
    ] {
        each_line(&format!("/proc/{pid}/net/{file}"), |line| {
            found.extend(parse_listener(transport, line));
        })?;
    }
    Ok(())
}

/// Reads a file line by line; none if it is not there (a kernel without IPv6). A line longer
/// than any kernel writes ends the reading.
fn each_line(path: &str, mut f: impl FnMut(&[u8])) -> io::Result<()> {
    let file = match super::file::open_to_read(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut reader = io::BufReader::with_capacity(16 * 1024, file);
    let mut line = Vec::with_capacity(256);
    loop {
        line.clear();
        let mut capped = io::Read::take(&mut reader, 1024);
        match capped.read_until(b'\n', &mut line)? {
            n if n > 0 && line.ends_with(b"\n") => f(&line),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
