//! Sockets: whose they are (`/proc/PID/fd`), where they listen, and the connections to them
//! (`/proc/PID/net`, proc_pid_net(5); where the kernel has it, sock_diag(7) instead).

use std::fs;
use std::io::{self, BufRead};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::number;
use crate::json::{FromJson, ToJson};
use crate::sys::sock_diag;

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
pub(in crate::sys) fn connection_state(state: u8) -> Option<bool> {
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
        if sock_diag::connections(ports, &mut found).is_ok() {
            found.into_iter().for_each(f);
            return Ok(());
        }
    }
    read_connections(pid, ports, f)
}

/// The same from /proc/net.
pub(in crate::sys) fn read_connections(
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
    if pid == "self" && sock_diag::listeners(found).is_ok() {
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
    if sock_diag::listening(ports, &mut found).is_err() {
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
pub(in crate::sys) fn read_listeners(pid: &str, found: &mut Vec<Listener>) -> io::Result<()> {
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
    let file = match crate::sys::file::open_to_read(path) {
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
