//! What the kernel knows of one TCP connection, through a copy of the server's socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::sys::socket::{shutdown, Shutdown};

/// Offsets in struct tcp_info (linux/tcp.h): how long ago data was sent and came, in
/// milliseconds.
const LAST_DATA_SENT: usize = 44;
const LAST_DATA_RECEIVED: usize = 52;
/// As much of it as is needed; every kernel with pidfd_getfd(2) has more.
const INFO: usize = 56;

/// How long a connection has been without data in either direction. None: the client has
/// spoken last, or something is still on its way through the kernel: it is not idle.
///
/// The clock is that of the kernel's timer (1 to 10 ms): of what is closer together the server
/// counts as having spoken last.
///
/// # Errors
/// Of getsockopt(2) and ioctl(2): it is no TCP socket.
pub fn idle(socket: BorrowedFd<'_>) -> io::Result<Option<Duration>> {
    if queued(socket, libc::FIONREAD)? > 0 || queued(socket, libc::TIOCOUTQ)? > 0 {
        return Ok(None);
    }
    let mut info = [0_u8; INFO];
    let mut length = INFO as libc::socklen_t;
    let place = info.as_mut_ptr().cast::<libc::c_void>();
    // SAFETY: getsockopt(2) writes at most `length` bytes to an array of that length.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            place,
            &mut length,
        )
    };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    let ms = |at: usize| {
        let four = info.get(at..at + 4).and_then(|b| b.try_into().ok());
        u64::from(four.map_or(0, u32::from_ne_bytes))
    };
    let (sent, received) = (ms(LAST_DATA_SENT), ms(LAST_DATA_RECEIVED));
    Ok((sent <= received).then(|| Duration::from_millis(sent)))
}

/// Bytes that the server has not read, or the client has not acknowledged (tcp(7)).
fn queued(socket: BorrowedFd<'_>, which: libc::Ioctl) -> io::Result<i32> {
    let mut bytes = 0_i32;
    // SAFETY: both requests write one int.
    match unsafe { libc::ioctl(socket.as_raw_fd(), which, &mut bytes) } {
        0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tells the client that nothing more will come. The server may go on reading.
///
/// # Errors
/// Of shutdown(2): ENOTCONN when it is closed already.
pub fn half_close(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(shutdown(socket.as_raw_fd(), Shutdown::Write)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Instant;

    /// Until the connection has been idle for some milliseconds. The clock of this is coarse.
    fn wait_idle(socket: &TcpStream) {
        let until = Instant::now() + Duration::from_secs(10);
        let long = Duration::from_millis(20);
        while idle(socket.as_fd()).unwrap().is_none_or(|d| d < long) {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn idle_is_who_was_answered_and_not_who_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        wait_idle(&server);
        std::thread::sleep(Duration::from_millis(20)); // the clock is coarse
        client.write_all(b"request").unwrap();
        assert_eq!(idle(server.as_fd()).unwrap(), None, "not read yet");
        server.read_exact(&mut [0; 7]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(idle(server.as_fd()).unwrap(), None, "not answered yet");
        server.write_all(b"answer").unwrap();
        wait_idle(&server);
        half_close(server.as_fd()).unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"answer");
        assert!(idle(std::fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    }
}
