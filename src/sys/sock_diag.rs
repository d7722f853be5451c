//! Listening sockets by NETLINK_SOCK_DIAG (sock_diag(7)), in superd's own network namespace.
//!
//! /proc/net/tcp walks the whole table of connections, for milliseconds on a machine with
//! much memory; this asks for sockets in the state LISTEN only. The module inet_diag is
//! not in every image: then the answer is an error, and the caller reads /proc.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    bind, recv, send, socket, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol,
    SockType,
};

use super::proc::{Listener, Transport};

/// SOCK_DIAG_BY_FAMILY (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST | NLM_F_DUMP (netlink(7)).
const DUMP: u16 = 0x301;
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
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkSockDiag;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let mut buffer = vec![0_u8; 16 * 1024];
    for (family, transport) in [
        (libc::AF_INET, Transport::Tcp),
        (libc::AF_INET6, Transport::Tcp),
        (libc::AF_INET, Transport::Udp),
        (libc::AF_INET6, Transport::Udp),
    ] {
        send(
            fd.as_raw_fd(),
            &request(family, transport),
            MsgFlags::empty(),
        )?;
        for _ in 0..MOST {
            let n = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if parse(buffer.get(..n).unwrap_or_default(), transport, found)? {
                break;
            }
        }
    }
    Ok(())
}

fn protocol_and_states(transport: Transport) -> (i32, u32) {
    match transport {
        Transport::Tcp => (libc::IPPROTO_TCP, 1 << 10), // TCP_LISTEN
        Transport::Udp => (libc::IPPROTO_UDP, 1 << 7),  // TCP_CLOSE: not connected
    }
}

fn request(family: i32, transport: Transport) -> [u8; HEADER + REQUEST] {
    let (protocol, states) = protocol_and_states(transport);
    let mut bytes = [0_u8; HEADER + REQUEST];
    let small = |n: i32| u8::try_from(n).unwrap_or(0);
    let mut put = |at: usize, what: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + what.len()) {
            place.copy_from_slice(what);
        }
    };
    put(0, &((HEADER + REQUEST) as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &DUMP.to_ne_bytes());
    put(HEADER, &[small(family), small(protocol)]);
    put(HEADER + 4, &states.to_ne_bytes());
    bytes
}

/// One datagram of an answer; true when it was the last one.
fn parse(mut bytes: &[u8], transport: Transport, found: &mut Vec<Listener>) -> io::Result<bool> {
    while let Some(length) = u32_at(bytes, 0) {
        let length = length as usize;
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else {
            return Ok(true); // garbage: nothing more can be made of it
        };
        match u16_at(message, 4) {
            Some(DONE) => return Ok(true),
            Some(ERROR) => {
                let errno = u32_at(message, HEADER).unwrap_or(0).wrapping_neg();
                return Err(io::Error::from_raw_os_error(errno as i32));
            }
            Some(BY_FAMILY) if length >= HEADER + MESSAGE => {
                found.extend(listener(message, transport));
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
        super::super::proc::read_listeners("self", &mut by_proc);
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
            parse(&bytes, Transport::Tcp, &mut found).ok();
        }
    }
}
