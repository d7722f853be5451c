//! One connection to superd: a blocking socket with a deadline on everything it does.
//!
//! What is said over it is not decided here (see `converse`).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    connect, getsockopt, send, setsockopt, socket, sockopt, AddressFamily, MsgFlags, SockFlag,
    SockType, UnixAddr,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::control::codec::{decode_reply, encode_request, Line, Lines, REPLY_CAP};
use crate::control::reply::Reply;
use crate::control::request::Request;
use crate::sys::pidfd::PidFd;

/// Between two attempts to connect.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The longest that superd may take to accept a connection or a request. It never
/// blocks, so this only runs out when it is stopped or starved.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no answer. Reads as one line after the program's name.
#[derive(Debug)]
pub enum Trouble {
    /// Nobody listens.
    NotRunning(String),
    /// The socket may not be opened.
    NotPermitted(String),
    /// superd has too many clients.
    Busy(String),
    /// The deadline has passed.
    TimedOut,
    /// superd accepts, and then says nothing.
    Silent,
    /// The other side hung up.
    Closed,
    /// The other side is not superd.
    Garbage(String),
    /// Anything else.
    Failed(String),
    /// Standard output cannot be written to.
    Output(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Output(error)
    }
}

/// A reply, and the line it came as.
#[derive(Clone, PartialEq, Debug)]
pub struct Incoming {
    /// As superd wrote it, without the newline.
    pub raw: String,
    /// What it says.
    pub reply: Reply,
}

/// Whether a superd holds the directory of its socket: its lock is on that.
fn is_held(socket: &Path) -> bool {
    let directory = socket.parent().and_then(|d| File::open(d).ok());
    let lock = directory.map(|d| Flock::lock(d, FlockArg::LockSharedNonblock));
    matches!(lock, Some(Err((_, Errno::EWOULDBLOCK))))
}

/// A connection to superd.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    lines: Lines,
}

impl Connection {
    /// Connects; while nobody listens, tries again until `give_up`. A superd that does
    /// not accept is waited for until `deadline`, but never long.
    ///
    /// # Errors
    /// `NotRunning`, `NotPermitted`, `Silent`, `Failed`.
    pub fn open(
        path: &Path,
        give_up: Instant,
        deadline: Option<Instant>,
    ) -> Result<Connection, Trouble> {
        loop {
            let at = path.display();
            let trouble = match connect_once(path, deadline) {
                Ok(stream) => return Ok(Connection::new(stream)),
                Err(Errno::ENOENT | Errno::ENOTDIR) => {
                    Trouble::NotRunning(format!("superd is not running (no socket {at})"))
                }
                Err(Errno::ECONNREFUSED) => {
                    Trouble::NotRunning(format!("superd is not running (nobody listens on {at})"))
                }
                // SO_SNDTIMEO ran out: the queue of the socket is full and stays so.
                Err(Errno::EAGAIN) => return Err(Trouble::Silent),
                Err(Errno::EINTR) => continue,
                Err(Errno::EACCES | Errno::EPERM) => {
                    return Err(Trouble::NotPermitted(format!(
                        "not permitted to talk to superd on {at}"
                    )))
                }
                Err(Errno::ENAMETOOLONG) => {
                    return Err(Trouble::Failed(format!(
                        "the name of the socket is too long: {at}"
                    )))
                }
                Err(errno) => {
                    return Err(Trouble::Failed(format!(
                        "connecting to {at}: {}",
                        io::Error::from(errno)
                    )))
                }
            };
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(match trouble {
                    Trouble::NotRunning(_) if is_held(path) => Trouble::Failed(format!(
                        "superd runs, but does not listen on {at}: it is ending, or could not \
                         make that socket (its log says why; SIGHUP lets it try again)"
                    )),
                    trouble => trouble,
                });
            }
            std::thread::sleep(AGAIN_AFTER.min(left));
        }
    }

    /// On a socket that is connected already.
    pub fn new(stream: UnixStream) -> Connection {
        Connection {
            stream,
            lines: Lines::new(REPLY_CAP),
        }
    }

    /// The superd that listens. None where it cannot be held: old kernels, other pid namespaces,
    /// and a superd that is the first process, with which everything ends.
    pub fn superd(&self) -> Option<PidFd> {
        let listens = getsockopt(&self.stream, sockopt::PeerCredentials).ok()?;
        PidFd::open(listens.pid()).ok()
    }

    /// Sends requests.
    ///
    /// # Errors
    /// `Silent` when superd does not read. A hang-up is no error here: what it said
    /// before it hung up is still to be read, and [`Connection::receive`] then tells.
    pub fn send(&mut self, requests: &[&Request]) -> Result<(), Trouble> {
        let mut bytes = Vec::new();
        for request in requests {
            encode_request(request, &mut bytes);
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // Not write(2): SIGPIPE has its default disposition so that `superctl | head` ends.
            match send(self.stream.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(Trouble::Silent),
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(()),
                Err(errno) => {
                    return Err(Trouble::Failed(format!(
                        "talking to superd: {}",
                        io::Error::from(errno)
                    )))
                }
            }
        }
        Ok(())
    }

    /// The next reply that is here already, without waiting.
    ///
    /// # Errors
    /// `Garbage`.
    pub fn next_reply(&mut self) -> Result<Option<Incoming>, Trouble> {
        let line = match self.lines.next_line() {
            None => return Ok(None),
            Some(Line::Whole(line)) => line,
            Some(Line::TooLong(_)) => {
                return Err(Trouble::Garbage(format!(
                    "a line of it is longer than {} KiB",
                    REPLY_CAP / 1024
                )))
            }
        };
        match (decode_reply(line), std::str::from_utf8(line)) {
            (Ok(reply), Ok(raw)) => Ok(Some(Incoming {
                raw: raw.trim().to_owned(),
                reply,
            })),
            (Err(reason), _) => Err(Trouble::Garbage(reason)),
            (_, Err(_)) => Err(Trouble::Garbage("it is not UTF-8".to_owned())),
        }
    }

    /// Waits for the next reply, until `until` (`None`: for ever). `Ok(None)`: time is up.
    ///
    /// # Errors
    /// `Garbage`, `Closed`, `Failed`.
    pub fn receive(&mut self, until: Option<Instant>) -> Result<Option<Incoming>, Trouble> {
        let mut buf = [0u8; 16 * 1024];
        loop {
            if let Some(reply) = self.next_reply()? {
                return Ok(Some(reply));
            }
            let left = until.map(|u| u.saturating_duration_since(Instant::now()));
            if left.is_some_and(|l| l.is_zero()) {
                return Ok(None);
            }
            let room = self.lines.room().min(buf.len());
            let got = self
                .stream
                .set_read_timeout(left)
                .and_then(|()| self.stream.read(buf.get_mut(..room).unwrap_or_default()));
            match got {
                Ok(0) => return Err(Trouble::Closed),
                Ok(n) => {
                    // All of it is taken: no more than `room` was read.
                    self.lines.push(buf.get(..n).unwrap_or_default());
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                        return Err(Trouble::Closed)
                    }
                    _ => return Err(Trouble::Failed(format!("talking to superd: {e}"))),
                },
            }
        }
    }
}

/// connect(2) with a limit: on a full accept queue a blocking unix socket waits for as
/// long as SO_SNDTIMEO says (unix(7), socket(7)).
fn connect_once(path: &Path, deadline: Option<Instant>) -> Result<UnixStream, Errno> {
    let address = UnixAddr::new(path)?;
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
    let limit = left.map_or(SEND_LIMIT, |l| l.min(SEND_LIMIT));
    // Zero would mean no limit at all.
    let ms = i64::try_from(limit.as_millis()).unwrap_or(1).max(1);
    let limit = TimeVal::milliseconds(ms);
    setsockopt(&fd, sockopt::SendTimeout, &limit)?;
    connect(fd.as_raw_fd(), &address)?;
    Ok(UnixStream::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::new(ours), theirs)
    }

    #[test]
    fn nobody_there_is_said_at_once_when_there_is_no_patience() {
        let path = std::env::temp_dir().join("superctl-test-no-such.sock");
        match Connection::open(&path, Instant::now(), None) {
            Err(Trouble::NotRunning(text)) => {
                assert!(text.starts_with("superd is not running (no socket "));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_that_fits_no_socket_is_said_so() {
        let path = std::path::PathBuf::from(format!("/{}", "x".repeat(200)));
        assert!(matches!(
            Connection::open(&path, Instant::now(), None),
            Err(Trouble::Failed(_))
        ));
    }

    #[test]
    fn an_endless_line_is_given_up_on() {
        let (mut ours, mut theirs) = pair();
        let flood = std::thread::spawn(move || {
            let block = [b'x'; 64 * 1024];
            let mut sent = 0usize;
            while theirs.write_all(&block).is_ok() {
                sent += block.len();
            }
            sent
        });
        assert!(matches!(ours.receive(None), Err(Trouble::Garbage(_))));
        drop(ours);
        assert!(flood.join().unwrap() < 8 * REPLY_CAP);
    }

    #[test]
    fn what_was_said_before_the_hang_up_is_heard() {
        let (mut ours, mut theirs) = pair();
        theirs
            .write_all(b"{\"id\":0,\"ok\":false,\"code\":\"busy\"}\n")
            .unwrap();
        drop(theirs);
        let request = Request::new(1, crate::control::request::Verb::Status);
        ours.send(&[&request]).unwrap();
        assert!(ours.receive(None).unwrap().is_some());
        assert!(matches!(ours.receive(None), Err(Trouble::Closed)));
    }

    #[test]
    fn a_superd_that_accepts_nobody_is_not_waited_for_for_ever() {
        let dir = std::env::temp_dir().join(format!("superctl-full-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("s");
        let fd = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        nix::sys::socket::bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(&fd, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let began = Instant::now();
        let mut held = Vec::new();
        let trouble = loop {
            let soon = Instant::now() + Duration::from_millis(100);
            match Connection::open(&path, soon, Some(soon)) {
                Ok(conn) => held.push(conn),
                Err(trouble) => break trouble,
            }
        };
        assert!(matches!(trouble, Trouble::Silent), "{trouble:?}");
        assert!(began.elapsed() < Duration::from_secs(3));
        std::fs::remove_dir_all(&dir).ok(); // only leaves a file in /tmp
    }
}
