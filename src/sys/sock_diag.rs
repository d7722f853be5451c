//! Listening sockets and connections by NETLINK_SOCK_DIAG (sock_diag(7)), in superd's own network namespace.
//!
//! /proc/net/tcp walks the whole table of connections, for milliseconds on a machine with
//! much memory; this asks for sockets in the state LISTEN only. The module inet_diag is
//! not in every image: then the answer is an error, and the caller reads /proc.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    bind, recv, send, socket, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol,
    SockType,
};

use super::proc::{connection_state, Connection, Listener, Transport};

/// SOCK_DIAG_BY_FAMILY (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST | NLM_F_DUMP (netlink(7)).
const DUMP: u16 = 0x301;
/// INET_DIAG_REQ_BYTECODE, INET_DIAG_BC_S_GE, INET_DIAG_BC_S_LE (linux/inet_diag.h).
const BYTECODE: u16 = 1;
const AT_LEAST: u8 = 2;
const AT_MOST: u8 = 3;
/// NLMSG_ERROR and NLMSG_DONE.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// struct nlmsghdr, struct inet_diag_req_v2, struct inet_diag_msg (linux/inet_diag.h).
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
/// Datagrams of one answer; far more than any table of listening sockets needs.
const MOST: usize = 4096;

/// Adds the listening sockets: TCP in LISTEN, UDP bound and not connected.
///
/// # Errors
/// Of socket(2), send(2) and recv(2); ENOENT where the kernel has no inet_diag. What was
/// found until then is in `found`.
pub fn listeners(found: &mut Vec<Listener>) -> io::Result<()> {
    let mut diag = Diag::open()?;
    for (family, transport) in [
        (libc::AF_INET, Transport::Tcp),
        (libc::AF_INET6, Transport::Tcp),
        (libc::AF_INET, Transport::Udp),
        (libc::AF_INET6, Transport::Udp),
    ] {
        let (protocol, states) = protocol_and_states(transport);
        diag.dump(&request(family, protocol, states, None), &mut |message| {
            found.extend(listener(message, transport));
        })?;
    }
    Ok(())
}

/// Adds the TCP connections to these ports. The kernel walks its whole table for that and
/// passes on no others.
///
/// # Errors
/// As [`listeners`].
pub fn connections(ports: &RangeInclusive<u16>, found: &mut Vec<Connection>) -> io::Result<()> {
    let mut diag = Diag::open()?;
    // TCP_ESTABLISHED, TCP_SYN_RECV, TCP_CLOSE_WAIT, TCP_NEW_SYN_RECV.
    let states = 1 << 1 | 1 << 3 | 1 << 8 | 1 << 12;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = request(family, libc::IPPROTO_TCP, states, Some(ports));
        diag.dump(&request, &mut |message| {
            let ours = connection(message).filter(|c| ports.contains(&c.local.port()));
            found.extend(ours);
        })?;
    }
    Ok(())
}

/// Adds the TCP sockets that listen on these ports: address and inode.
///
/// # Errors
/// As [`listeners`].
pub fn listening(
    ports: &RangeInclusive<u16>,
    found: &mut Vec<(SocketAddr, u64)>,
) -> io::Result<()> {
    let mut diag = Diag::open()?;
    let (protocol, states) = protocol_and_states(Transport::Tcp);
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = request(family, protocol, states, Some(ports));
        diag.dump(&request, &mut |message| {
            let inode = u32_at(message, HEADER + 68).map(u64::from);
            let ours = local(message).filter(|at| ports.contains(&at.port()));
            found.extend(ours.zip(inode));
        })?;
    }
    Ok(())
}

/// A netlink socket that asks questions of that kind.
struct Diag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Diag {
    fn open() -> io::Result<Diag> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkSockDiag;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Diag {
            socket,
            buffer: vec![0; 16 * 1024],
        })
    }

    fn dump(&mut self, request: &[u8], f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        send(self.socket.as_raw_fd(), request, MsgFlags::empty())?;
        for _ in 0..MOST {
            let n = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            if parse(self.buffer.get(..n).unwrap_or_default(), f)? {
                break;
            }
        }
        Ok(())
    }
}

fn protocol_and_states(transport: Transport) -> (i32, u32) {
    match transport {
        Transport::Tcp => (libc::IPPROTO_TCP, 1 << 10), // TCP_LISTEN
        Transport::Udp => (libc::IPPROTO_UDP, 1 << 7),  // TCP_CLOSE: not connected
    }
}

/// struct nlattr and two conditions: the local port is at least, and at most; each is two of
/// struct inet_diag_bc_op, with the offsets of what follows if so and if not (past the end).
const CONDITION: usize = 4 + 16;

fn request(
    family: i32,
    protocol: i32,
    states: u32,
    ports: Option<&RangeInclusive<u16>>,
) -> Vec<u8> {
    let length = HEADER + REQUEST + ports.map_or(0, |_| CONDITION);
    let mut bytes = vec![0_u8; length];
    let small = |n: i32| u8::try_from(n).unwrap_or(0);
    let mut put = |at: usize, what: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + what.len()) {
            place.copy_from_slice(what);
        }
    };
    put(0, &(length as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &DUMP.to_ne_bytes());
    put(HEADER, &[small(family), small(protocol)]);
    put(HEADER + 4, &states.to_ne_bytes());
    if let Some(ports) = ports {
        let at = HEADER + REQUEST;
        put(at, &(CONDITION as u16).to_ne_bytes());
        put(at + 2, &BYTECODE.to_ne_bytes());
        for (at, code, no, port) in [
            (at + 4, AT_LEAST, 20_u16, *ports.start()),
            (at + 12, AT_MOST, 12_u16, *ports.end()),
        ] {
            put(at, &[code, 8]);
            put(at + 2, &no.to_ne_bytes());
            put(at + 6, &port.to_ne_bytes());
        }
    }
    bytes
}

/// One datagram of an answer; true when it was the last one.
fn parse(mut bytes: &[u8], f: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    while let Some(length) = u32_at(bytes, 0) {
        let length = length as usize;
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else {
            return Ok(true); // garbage: nothing more can be made of it
        };
        match u16_at(message, 4) {
            // Also the end may be one by an error: a module for this protocol is missing.
            Some(DONE) if u32_at(message, HEADER).is_none_or(|errno| errno == 0) => {
                return Ok(true);
            }
            Some(DONE | ERROR) => {
                let errno = u32_at(message, HEADER).unwrap_or(0).wrapping_neg();
                return Err(io::Error::from_raw_os_error(errno as i32));
            }
            Some(BY_FAMILY) if length >= HEADER + MESSAGE => {
                f(message);
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn listener(message: &[u8], transport: Transport) -> Option<Listener> {
    let port = message.get(HEADER + 4..HEADER + 6)?.try_into().ok()?;
    let port = u16::from_be_bytes(port);
    let inode = u64::from(u32_at(message, HEADER + 68)?);
    (port != 0 && inode != 0).then_some(Listener {
        transport,
        port,
        inode,
    })
}

/// struct inet_diag_msg: family, state, two more; local port, remote port; local address.
fn local(message: &[u8]) -> Option<SocketAddr> {
    let port = message.get(HEADER + 4..HEADER + 6)?.try_into().ok()?;
    let address = message.get(HEADER + 8..HEADER + 24)?;
    let ip = match i32::from(*message.get(HEADER)?) {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(address.get(..4)?).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

fn connection(message: &[u8]) -> Option<Connection> {
    let state = *message.get(HEADER + 1)?;
    Some(Connection {
        local: local(message)?,
        is_handshake: connection_state(state)?,
        inode: u64::from(u32_at(message, HEADER + 68)?),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(four))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_ne_bytes(two))
}

#[cfg(test)]
mod tests {
    use super::super::proc::read_connections;
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn it_sees_what_proc_sees() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let open = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let mut found = Vec::new();
        if let Err(e) = listeners(&mut found) {
            println!("skipped: sock_diag sees what /proc sees: {e}");
            return;
        }
        let has = |transport, port| {
            found
                .iter()
                .any(|l| l.transport == transport && l.port == port)
        };
        assert!(has(Transport::Tcp, tcp.local_addr().unwrap().port()));
        assert!(has(Transport::Udp, udp.local_addr().unwrap().port()));
        assert!(!has(Transport::Tcp, open.local_addr().unwrap().port()));
        let mut by_proc = Vec::new();
        super::super::proc::read_listeners("self", &mut by_proc).unwrap();
        let own = |l: &&Listener| {
            l.port == tcp.local_addr().unwrap().port() && l.transport == Transport::Tcp
        };
        assert_eq!(
            found.iter().find(own),
            by_proc.iter().find(own),
            "the same inode"
        );
    }

    #[test]
    fn connections_are_the_server_s_ends_accepted_or_not() {
        let Ok(tcp) = TcpListener::bind("[::]:0") else {
            println!("skipped: connections: no IPv6");
            return;
        };
        let port = tcp.local_addr().unwrap().port();
        let _v6 = TcpStream::connect(("::1", port)).unwrap();
        let _v4 = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (accepted, _) = tcp.accept().unwrap();
        let range = port..=port;
        let sorted = |mut all: Vec<Connection>| {
            all.sort_by_key(|c| c.local);
            all
        };
        let mut by_proc = Vec::new();
        read_connections("self", &range, &mut |c| by_proc.push(c)).unwrap();
        let by_proc = sorted(by_proc);
        assert_eq!(by_proc.len(), 2, "{by_proc:?}");
        assert_eq!(
            by_proc[0].local,
            SocketAddr::new("::1".parse().unwrap(), port)
        );
        let mut found = Vec::new();
        match connections(&range, &mut found) {
            Ok(()) => assert_eq!(sorted(found), by_proc),
            Err(e) => println!("skipped: connections by sock_diag: {e}"),
        }
        drop(accepted);
        let mut left = 0;
        read_connections("self", &range, &mut |_| left += 1).unwrap();
        assert_eq!(left, 1, "what the server has closed is not open");
    }

    /// Kernels have the modules tcp_diag and udp_diag, or one of them, or neither.
    #[test]
    fn a_protocol_that_is_not_known_is_no_empty_answer() {
        let Ok(mut diag) = Diag::open() else {
            println!("skipped: a_protocol_that_is_not_known_is_no_empty_answer: no sock_diag");
            return;
        };
        let unknown = request(libc::AF_INET, 250, 1 << 10, None);
        let e = diag.dump(&unknown, &mut |_| {}).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ENOENT));
        let done = |what: i32| {
            let mut bytes = 20_u32.to_ne_bytes().to_vec();
            bytes.extend(DONE.to_ne_bytes());
            bytes.resize(HEADER, 0);
            bytes.extend(what.to_ne_bytes());
            bytes
        };
        assert!(parse(&done(0), &mut |_| {}).unwrap());
        let e = parse(&done(-libc::ENOENT), &mut |_| {}).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn garbage_is_no_panic() {
        let mut seed = 7_u32;
        for length in 0..300 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8 & 0x5f
                })
                .collect();
            let mut found = Vec::new();
            parse(&bytes, &mut |m| {
                found.extend(listener(m, Transport::Tcp));
                connection(m);
            })
            .ok();
        }
    }
}
