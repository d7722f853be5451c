//! Filters that hold back new connections: classic BPF on a socket (socket(7),
//! SO_ATTACH_FILTER; bpf(4) of the BSDs for the language).
//!
//! A TCP filter sees the packet from its TCP header on: what asks for a connection (SYN
//! without ACK) is dropped, as if it were lost on the way, so the client sends it again. All
//! else passes: open connections and handshakes that are under way go on.
//!
//! A filter outlives who attached it. Its first instruction loads a number that says whose
//! it is, so that a later superd knows it again.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::proc::Transport;

/// In the first instruction of every filter of superd's; the number is of no other use.
const MARK: u32 = 0x7375_7064; // "supd"

/// BPF_LD with BPF_IMM, BPF_B | BPF_ABS, BPF_W | BPF_ABS, BPF_W | BPF_LEN; BPF_ALU | BPF_AND;
/// BPF_JMP with BPF_JEQ, BPF_JGE; BPF_RET (linux/filter.h).
const LOAD_NUMBER: u16 = 0x00;
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const LOAD_LENGTH: u16 = 0x80;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Versions of QUIC (RFC 9000, RFC 9369).
const QUIC_1: u32 = 1;
const QUIC_2: u32 = 0x6b33_43cf;

/// Of a packet, all of it: it passes. None of it: it is dropped.
const PASS: u32 = u32::MAX;
const DROP: u32 = 0;

/// What is attached to a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attached {
    /// Nothing.
    Nothing,
    /// A filter of superd's, this one's or an earlier one's.
    Ours,
    /// Somebody else's.
    Foreign,
}

fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// SYN without ACK: bits 0x02 and 0x10 of byte 13 (RFC 9293, 3.1).
fn tcp() -> Vec<libc::sock_filter> {
    vec![
        op(LOAD_NUMBER, 0, 0, MARK),
        op(LOAD_BYTE, 0, 0, 13),
        op(AND, 0, 0, 0x12),
        op(JUMP_EQUAL, 0, 1, 0x02),
        op(RETURN, 0, 0, DROP),
        op(RETURN, 0, 0, PASS),
    ]
}

/// The first packet of a QUIC connection: byte 8 follows the UDP header and has the bits
/// 0x80 (long header) and 0x30 (type), then comes the version. An Initial has the type 0 in
/// version 1 (RFC 9000, 17.2.2) and 1 in version 2 (RFC 9369, 3.2). The bit 0x40 may have
/// any value (RFC 9287).
fn udp() -> Vec<libc::sock_filter> {
    vec![
        op(LOAD_NUMBER, 0, 0, MARK),
        // To look past the end of a packet would drop it.
        op(LOAD_LENGTH, 0, 0, 0),
        op(JUMP_AT_LEAST, 0, 10, 13),
        op(LOAD_WORD, 0, 0, 9),
        op(JUMP_EQUAL, 0, 3, QUIC_1),
        op(LOAD_BYTE, 0, 0, 8),
        op(AND, 0, 0, 0xb0),
        op(JUMP_EQUAL, 4, 5, 0x80),
        op(JUMP_EQUAL, 0, 4, QUIC_2),
        op(LOAD_BYTE, 0, 0, 8),
        op(AND, 0, 0, 0xb0),
        op(JUMP_EQUAL, 0, 1, 0x90),
        op(RETURN, 0, 0, DROP),
        op(RETURN, 0, 0, PASS),
    ]
}

fn program(transport: Transport) -> Vec<libc::sock_filter> {
    match transport {
        Transport::Tcp => tcp(),
        Transport::Udp => udp(),
    }
}

/// Holds back what asks for a connection on this socket. Replaces a filter that is there:
/// see [`attached`].
///
/// # Errors
/// Of setsockopt(2); EPERM when the socket's filter is locked (SO_LOCK_FILTER).
pub fn attach(socket: BorrowedFd<'_>, transport: Transport) -> io::Result<()> {
    let mut ops = program(transport);
    let filter = libc::sock_fprog {
        len: ops.len() as u16,
        filter: ops.as_mut_ptr(),
    };
    set(socket, libc::SO_ATTACH_FILTER, &filter)
}

/// Removes whatever filter the socket has.
///
/// # Errors
/// Of setsockopt(2); ENOENT when there is none.
pub fn detach(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SO_DETACH_FILTER, &0_i32)
}

/// Whether the socket's filter, or that it has none, is not to be changed (SO_LOCK_FILTER).
pub fn is_locked(socket: BorrowedFd<'_>) -> bool {
    number(socket, libc::SO_LOCK_FILTER).is_some_and(|n| n != 0)
}

/// Whether it is one of MPTCP (RFC 8684), which has the address of a TCP socket, but takes no
/// filter. Go programs open such since Go 1.24.
pub fn is_mptcp(socket: BorrowedFd<'_>) -> bool {
    number(socket, libc::SO_PROTOCOL) == Some(libc::IPPROTO_MPTCP)
}

/// An option of the socket that is a number.
fn number(socket: BorrowedFd<'_>, option: i32) -> Option<i32> {
    let mut value = 0_i32;
    let mut length = std::mem::size_of::<i32>() as libc::socklen_t;
    let place = std::ptr::from_mut(&mut value).cast::<libc::c_void>();
    // SAFETY: getsockopt(2) writes at most `length` bytes, an int, to an int.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            place,
            &mut length,
        )
    };
    (r == 0).then_some(value)
}

/// What is attached to this socket.
///
/// # Errors
/// Of getsockopt(2).
pub fn attached(socket: BorrowedFd<'_>) -> io::Result<Attached> {
    let mut ops = [op(0, 0, 0, 0); 32];
    // Not bytes: the instructions that there is room for, and then those of the filter.
    let mut n = ops.len() as libc::socklen_t;
    let place = ops.as_mut_ptr().cast::<libc::c_void>();
    // SAFETY: getsockopt(2) writes at most `n` instructions to the array of that length, and
    // their number to `n`.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            place,
            &mut n,
        )
    };
    match (r, n) {
        (0, 0) => Ok(Attached::Nothing),
        (0, _) => Ok(match ops.first() {
            Some(first) if first.code == LOAD_NUMBER && first.k == MARK => Attached::Ours,
            Some(_) | None => Attached::Foreign,
        }),
        _ => match io::Error::last_os_error() {
            // Longer than ours; an eBPF program, which has no text.
            e if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
                Ok(Attached::Foreign)
            }
            e => Err(e),
        },
    }
}

fn set<T>(socket: BorrowedFd<'_>, option: i32, value: &T) -> io::Result<()> {
    let length = std::mem::size_of::<T>() as libc::socklen_t;
    let place = std::ptr::from_ref(value).cast::<libc::c_void>();
    // SAFETY: setsockopt(2) reads a value of the length given, and the instructions that a
    // sock_fprog points to, which live until the caller returns.
    let r =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, place, length) };
    match r {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// SIOCGSTAMPNS with a timespec as the kernel has it by itself (asm/sockios.h).
const SIOCGSTAMPNS: libc::Ioctl = 0x8907;

/// When the last packet was that somebody has read from this UDP socket: not to be understood,
/// only to be compared. The first call makes the kernel keep that time (SIOCGSTAMPNS, socket(7)).
pub fn last_packet(socket: BorrowedFd<'_>) -> [u64; 2] {
    let mut time = [0_u64; 2];
    // SAFETY: ioctl(2) writes a timespec, at most 16 bytes, to 16 bytes of ours.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSTAMPNS, time.as_mut_ptr()) };
    match r {
        0 => time,
        _ => [0; 2], // none yet
    }
}

/// The inode of a socket, and whether it takes connections (SO_ACCEPTCONN).
///
/// # Errors
/// Of fstat(2) and getsockopt(2).
pub fn identity(socket: BorrowedFd<'_>) -> io::Result<(u64, bool)> {
    use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
    let stat = nix::sys::stat::fstat(socket)?;
    Ok((stat.st_ino, getsockopt(&socket, AcceptConn)?))
}

/// Whether the socket was opened so that others of the same user may listen at its address
/// (SO_REUSEPORT, socket(7)).
pub fn shares_port(socket: BorrowedFd<'_>) -> bool {
    use nix::sys::socket::{getsockopt, sockopt::ReusePort};
    getsockopt(&socket, ReusePort).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::time::Duration;

    const SOON: Duration = Duration::from_millis(150);

    fn connects(to: SocketAddr) -> bool {
        TcpStream::connect_timeout(&to, SOON).is_ok()
    }

    #[test]
    fn new_connections_wait_and_open_ones_go_on() {
        if !crate::sys::features::may_filter_tcp() {
            println!("skipped: new_connections_wait_and_open_ones_go_on: needs CAP_NET_ADMIN");
            return;
        }
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                println!("skipped: {address}: no such address here");
                continue;
            };
            let to = listener.local_addr().unwrap();
            assert_eq!(attached(listener.as_fd()).unwrap(), Attached::Nothing);
            let mut open = TcpStream::connect(to).unwrap();
            let (mut served, _) = listener.accept().unwrap();
            let _queued = TcpStream::connect(to).unwrap();
            attach(listener.as_fd(), Transport::Tcp).unwrap();
            assert_eq!(attached(listener.as_fd()).unwrap(), Attached::Ours);
            assert!(!connects(to), "held back");
            open.write_all(b"x").unwrap();
            served.read_exact(&mut [0]).unwrap();
            served.write_all(b"y").unwrap();
            open.read_exact(&mut [0]).unwrap();
            listener.accept().unwrap(); // the one in the queue
            detach(listener.as_fd()).unwrap();
            assert_eq!(attached(listener.as_fd()).unwrap(), Attached::Nothing);
            assert!(detach(listener.as_fd()).is_err());
            assert!(connects(to));
        }
    }

    /// A datagram that begins like this, as far as it is that long.
    fn datagram(first: u8, version: u32, length: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        bytes.extend(version.to_be_bytes());
        bytes.resize(length.max(5), 0x55);
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn of_quic_only_the_first_packet_of_a_connection_is_held_back() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        attach(server.as_fd(), Transport::Udp).unwrap();
        let held = [
            datagram(0xc3, 1, 1200),
            datagram(0x83, 1, 1200), // the bit that may be greased (RFC 9287)
            datagram(0xd0, QUIC_2, 1200),
            datagram(0xc0, 1, 5),
        ];
        let passes = [
            datagram(0xe0, 1, 1200),      // Handshake
            datagram(0xd0, 1, 1200),      // 0-RTT
            datagram(0xf0, 1, 1200),      // Retry
            datagram(0xc0, QUIC_2, 1200), // Retry
            datagram(0x43, 1, 60),        // a packet of an open connection
            datagram(0xc0, 2, 1200),      // a version nobody knows
            datagram(0xc0, 1, 4),
            datagram(0x01, 0, 1),
            Vec::new(),
        ];
        for bytes in held.iter().chain(&passes) {
            client.send_to(bytes, to).unwrap();
        }
        let mut buffer = [0; 2000];
        for bytes in &passes {
            let n = server.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], bytes.as_slice());
        }
        detach(server.as_fd()).unwrap();
        client.send_to(&held[0], to).unwrap();
        assert_eq!(server.recv(&mut buffer).unwrap(), 1200);
    }

    #[test]
    fn a_packet_that_is_read_leaves_its_time() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        last_packet(server.as_fd());
        let mut seen = vec![last_packet(server.as_fd())];
        for n in 1..5 {
            client.send_to(b"x", server.local_addr().unwrap()).unwrap();
            server.recv(&mut [0]).unwrap();
            let now = last_packet(server.as_fd());
            assert_eq!(now, last_packet(server.as_fd()), "nothing has come since");
            assert!(!seen.contains(&now), "packet {n}");
            seen.push(now);
        }
    }

    #[test]
    fn a_filter_of_somebody_else_is_known_as_such() {
        if !crate::sys::features::may_filter_tcp() {
            println!("skipped: a_filter_of_somebody_else_is_known_as_such: needs CAP_NET_ADMIN");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for length in [1, 40] {
            let mut ops = vec![op(LOAD_BYTE, 0, 0, 0); length];
            ops.push(op(RETURN, 0, 0, PASS));
            let filter = libc::sock_fprog {
                len: ops.len() as u16,
                filter: ops.as_mut_ptr(),
            };
            set(listener.as_fd(), libc::SO_ATTACH_FILTER, &filter).unwrap();
            assert_eq!(attached(listener.as_fd()).unwrap(), Attached::Foreign);
        }
        let (inode, listens) = identity(listener.as_fd()).unwrap();
        assert!(inode > 0 && listens);
    }
}
