//! Where log lines go: syslog, superd's standard error, or nowhere. Not the ring that
//! `superctl logs` reads; that is `logs`.
//!
//! Writing never blocks. What the log daemon or the reader of standard error does not
//! take is dropped and counted, and the count is said as soon as a line gets through.
//! No timer runs for that: a lost log daemon is looked for at the next line, at most
//! once per second.
//!
//! syslog is spoken in the classic form of RFC 3164 with local time, because OpenWrt's
//! logd cuts sixteen bytes from a message without it, and in datagrams of at most 1023
//! bytes, because logd cuts what is longer. `syslog::Logger` does the numbering of
//! facility and severity; its own formatter stamps UTC and its own socket blocks.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{send, socket, AddressFamily, MsgFlags, SockFlag, SockType};
use nix::sys::stat::{fstat, SFlag};
use syslog::{Facility, LogFormat, Logger};

pub use syslog::Severity;

use super::logs::carry::Carry;
use crate::config::model::LogTo;
use crate::machine::time::Tick;
use crate::sys::file;

/// The longest datagram, priority and tag included.
const DATAGRAM_CAP: usize = 1023;

/// The longest piece of a line on standard error. With its prefix it fits into one page
/// of a pipe, and is written whole or not at all.
const STDERR_CAP: usize = 2048;

/// How often a log daemon that does not answer is looked for, and a loss is said.
const RETRY: Duration = Duration::from_secs(1);

/// Local time as it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60.
    pub second: u8,
}

/// Reads the wall clock (`sys` knows how; only for display).
pub type LocalTime = fn() -> Stamp;

/// Why the log is where it is.
const FALLEN_BACK: &str =
    "no log daemon takes lines at /dev/log: the log goes to standard error until one does";

/// One message as [`Classic`] puts it into a datagram. No newline in it.
struct Message<'a> {
    stamp: Stamp,
    tag: &'a str,
    pid: Option<i32>,
    text: &'a [u8],
}

/// `<PRI>Mmm dd hh:mm:ss tag[pid]: text`, the day padded with a space (RFC 3164, 4.1).
struct Classic {
    facility: Facility,
}

impl LogFormat<Message<'_>> for Classic {
    fn format<W: Write>(
        &self,
        w: &mut W,
        severity: Severity,
        m: Message<'_>,
    ) -> syslog::Result<()> {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let month = usize::from(m.stamp.month.saturating_sub(1));
        let mut put = || -> io::Result<()> {
            write!(
                w,
                "<{}>{} {:>2} {:02}:{:02}:{:02} {}",
                self.facility as u8 | severity as u8,
                MONTHS.get(month).unwrap_or(&"Jan"),
                m.stamp.day,
                m.stamp.hour,
                m.stamp.minute,
                m.stamp.second,
                m.tag,
            )?;
            if let Some(pid) = m.pid {
                write!(w, "[{pid}]")?;
            }
            w.write_all(b": ")?;
            w.write_all(m.text)?;
            w.flush()
        };
        put().map_err(syslog::Error::Write)
    }
}

/// A non-blocking datagram socket to the log daemon. A message is collected by `write`
/// and sent by `flush`.
struct Datagram {
    paths: Vec<PathBuf>,
    socket: Option<UnixDatagram>,
    message: Vec<u8>,
    /// Told when a line goes out.
    carry: Option<Rc<Carry>>,
    /// No attempt to connect before this.
    not_before: Tick,
}

impl Datagram {
    fn connect(&mut self, now: Tick) {
        if self.socket.is_some() || now < self.not_before {
            return;
        }
        self.not_before = now + RETRY;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let Ok(fd) = socket(AddressFamily::Unix, SockType::Datagram, flags, None) else {
            return;
        };
        let socket = UnixDatagram::from(fd);
        if self.paths.iter().any(|p| socket.connect(p).is_ok()) {
            self.socket = Some(socket);
        }
    }
}

impl Write for Datagram {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.message.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(carry) = &self.carry {
            carry.pass();
        }
        let sent = match &self.socket {
            Some(socket) => socket.send(&self.message).map(drop),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        self.message.clear();
        if let Err(e) = &sent {
            let full = matches!(
                e.raw_os_error(),
                Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR | libc::EMSGSIZE)
            );
            if !full {
                self.socket = None;
            }
        }
        sent
    }
}

/// Standard error, in the way that cannot block for what it is.
enum Stderr {
    /// A pipe or terminal, opened again: O_NONBLOCK on the description that was inherited
    /// would also hold for the shell that started superd.
    Own(File),
    /// A socket: MSG_DONTWAIT does it per message.
    Socket,
    /// A regular file: writing to it does not wait for a reader. And how long it is, if
    /// nobody else writes to it.
    Plain(u64),
    /// A pipe or terminal that could not be opened again: written to only when poll(2)
    /// says there is room. Another writer of the same pipe could take that room between
    /// the two calls; there is no better way without /proc.
    Polled,
}

impl Stderr {
    fn new() -> Stderr {
        let Ok(stat) = fstat(io::stderr()) else {
            return Stderr::Polled;
        };
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        match kind {
            SFlag::S_IFSOCK => Stderr::Socket,
            SFlag::S_IFREG => Stderr::Plain(u64::try_from(stat.st_size).unwrap_or(0)),
            _ => {
                let flags = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
                let own = file::open(Path::new("/proc/self/fd/2"), flags, 0);
                own.map_or(Stderr::Polled, Stderr::Own)
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stderr = io::stderr();
        let n = match self {
            Stderr::Own(file) => file.write(bytes)?,
            Stderr::Socket => send(
                stderr.as_raw_fd(),
                bytes,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            )?,
            Stderr::Plain(length) => {
                let n = nix::unistd::write(&stderr, bytes)?;
                *length = length.wrapping_add(n as u64);
                n
            }
            Stderr::Polled => {
                let fd = std::os::fd::AsFd::as_fd(&stderr);
                let mut room = [PollFd::new(fd, PollFlags::POLLOUT)];
                if poll(&mut room, PollTimeout::ZERO)? == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                nix::unistd::write(&stderr, bytes)?
            }
        };
        // A terminal may take a part; the rest of the line is lost and counted.
        match n == bytes.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// Where the lines go.
pub struct Sink {
    syslog: Option<Logger<Datagram, Classic>>,
    stderr: Option<Stderr>,
    /// Standard error only serves until the log daemon answers.
    stderr_is_fallback: bool,
    /// It does now, and that was said.
    has_fallen_back: bool,
    /// How long the file was that standard error is, if it is one.
    file_was: Option<u64>,
    carry: Option<Rc<Carry>>,
    local: LocalTime,
    pid: i32,
    /// Lines dropped since that was last said.
    dropped: u64,
    /// Not said again before this.
    say_dropped: Tick,
    /// Lines dropped since the beginning, for `doctor`.
    lost: u64,
    scratch: Vec<u8>,
}

impl Sink {
    /// `foreground`: superd runs in a terminal or under somebody who reads its standard
    /// error, which then is what [`LogTo::Auto`] means.
    pub fn new(to: LogTo, foreground: bool, local: LocalTime) -> Sink {
        let paths = ["/dev/log", "/var/run/syslog", "/var/run/log"];
        Sink::with_paths(to, foreground, local, paths.map(PathBuf::from).to_vec())
    }

    fn with_paths(to: LogTo, foreground: bool, local: LocalTime, paths: Vec<PathBuf>) -> Sink {
        let (syslog, stderr) = match to {
            LogTo::Auto => (!foreground, true),
            LogTo::Syslog => (true, false),
            LogTo::Stderr => (false, true),
            LogTo::None => (false, false),
        };
        let stderr = stderr.then(Stderr::new);
        let file_was = match &stderr {
            Some(Stderr::Plain(length)) => Some(*length),
            Some(Stderr::Own(_) | Stderr::Socket | Stderr::Polled) | None => None,
        };
        let backend = Datagram {
            paths,
            socket: None,
            message: Vec::new(),
            carry: None,
            not_before: Tick(0),
        };
        let format = Classic {
            facility: Facility::LOG_DAEMON,
        };
        Sink {
            syslog: syslog.then(|| Logger::new(backend, format)),
            stderr_is_fallback: syslog && stderr.is_some(),
            has_fallen_back: false,
            stderr,
            file_was,
            carry: None,
            local,
            pid: crate::sys::own_pid(),
            dropped: 0,
            say_dropped: Tick(0),
            lost: 0,
            scratch: Vec::new(),
        }
    }

    /// In a superd that has become another program: so many lines were lost before.
    pub fn set_lost(&mut self, lost: u64) {
        self.lost = lost;
    }

    /// After a reload: from now on somewhere else. What was lost stays counted.
    pub fn redirect(&mut self, to: LogTo, foreground: bool) {
        let new = Sink::new(to, foreground, self.local);
        self.syslog = new.syslog;
        self.stderr = new.stderr;
        self.stderr_is_fallback = new.stderr_is_fallback;
        self.set_carry(self.carry.clone());
    }

    /// A message of superd's own.
    pub fn say(&mut self, now: Tick, severity: Severity, text: &str) {
        self.put(now, severity, None, text.as_bytes());
    }

    /// A line of a service's output (without its newline).
    pub fn line(&mut self, now: Tick, service: &str, pid: Option<i32>, text: &[u8]) {
        self.put(now, Severity::LOG_INFO, Some((service, pid)), text);
    }

    /// How long the file was that the log goes to, before anything was written, if it is one.
    pub fn file_was(&self) -> Option<u64> {
        self.file_was
    }

    /// Tells this page when a line goes out. Gives the last line of an earlier superd its end.
    pub fn set_carry(&mut self, carry: Option<Rc<Carry>>) {
        if let (Some(stderr), true) = (
            &mut self.stderr,
            carry.as_ref().is_some_and(|c| c.take_cut()),
        ) {
            stderr.write(b"\n").ok(); // looks, not more
        }
        if let Some(logger) = &mut self.syslog {
            logger.backend.carry.clone_from(&carry);
        }
        self.carry = carry;
    }

    /// Lines that were dropped since the beginning.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn put(
        &mut self,
        now: Tick,
        severity: Severity,
        service: Option<(&str, Option<i32>)>,
        text: &[u8],
    ) {
        if self.syslog.is_none() && self.stderr.is_none() {
            return;
        }
        let mut clean = std::mem::take(&mut self.scratch);
        clean.clear();
        clean.extend(text.iter().map(|b| match b {
            // NUL ends a line in logd, escapes play with the reader's terminal.
            0..=8 | 10..=31 | 127 => b' ',
            b => *b,
        }));
        // U+0080 to U+009F, among them a CSI without ESC.
        for i in 1..clean.len() {
            if let Some([first @ 0xc2, second @ 0x80..=0x9f]) = clean.get_mut(i - 1..=i) {
                (*first, *second) = (b' ', b' ');
            }
        }
        // Not with every line: a log daemon that is only slow would hear of nothing else.
        if self.dropped > 0 && now >= self.say_dropped {
            let lost = format!("lines of log dropped: {}", self.dropped);
            if self.deliver(now, Severity::LOG_WARNING, None, lost.as_bytes()) {
                self.dropped = 0;
                self.say_dropped = now + RETRY;
            }
        }
        if !self.deliver(now, severity, service, &clean) {
            self.dropped += 1;
            self.lost += 1;
        }
        clean.truncate(DATAGRAM_CAP);
        clean.shrink_to(DATAGRAM_CAP);
        self.scratch = clean;
    }

    /// Whether all of the line got through.
    fn deliver(
        &mut self,
        now: Tick,
        severity: Severity,
        service: Option<(&str, Option<i32>)>,
        text: &[u8],
    ) -> bool {
        if let Some(logger) = &mut self.syslog {
            logger.backend.connect(now);
            // A daemon that was restarted refuses the old socket once: try again at once.
            if logger.backend.socket.is_some() {
                let stamp = (self.local)();
                let (tag, pid) = service.unwrap_or(("superd", Some(self.pid)));
                if to_syslog(logger, severity, stamp, tag, pid, text) {
                    self.has_fallen_back = false;
                    return true;
                }
                if logger.backend.socket.is_none() {
                    logger.backend.connect(now);
                    if logger.backend.socket.is_some() {
                        return to_syslog(logger, severity, stamp, tag, pid, text);
                    }
                }
            }
            if logger.backend.socket.is_some() || !self.stderr_is_fallback {
                return false;
            }
        }
        match &mut self.stderr {
            Some(stderr) => {
                // Before a message of superd's own: one more line would confuse the account of
                // a service's.
                let is_new = self.stderr_is_fallback && !self.has_fallen_back;
                if is_new && service.is_none() {
                    self.has_fallen_back = true;
                    to_stderr(stderr, None, None, FALLEN_BACK.as_bytes());
                }
                let carry = self.carry.as_deref();
                to_stderr(stderr, carry, service.map(|s| s.0), text)
            }
            None => true,
        }
    }
}

/// Sends a line in as many datagrams as it needs. One that does not get through ends it.
fn to_syslog(
    logger: &mut Logger<Datagram, Classic>,
    severity: Severity,
    stamp: Stamp,
    tag: &str,
    pid: Option<i32>,
    text: &[u8],
) -> bool {
    // `<PRI>` at most 5, the time 16, `[pid]: ` at most 15.
    let room = DATAGRAM_CAP.saturating_sub(tag.len() + 36).max(64);
    pieces(text, room).all(|piece| {
        let message = Message {
            stamp,
            tag,
            pid,
            text: piece,
        };
        let sent = match severity {
            Severity::LOG_EMERG => logger.emerg(message),
            Severity::LOG_ALERT => logger.alert(message),
            Severity::LOG_CRIT => logger.crit(message),
            Severity::LOG_ERR => logger.err(message),
            Severity::LOG_WARNING => logger.warning(message),
            Severity::LOG_NOTICE => logger.notice(message),
            Severity::LOG_INFO => logger.info(message),
            Severity::LOG_DEBUG => logger.debug(message),
        };
        sent.is_ok()
    })
}

/// `superd: text` for superd's own messages, `service | text` for output.
fn to_stderr(
    stderr: &mut Stderr,
    carry: Option<&Carry>,
    service: Option<&str>,
    text: &[u8],
) -> bool {
    let prefix = match service {
        Some(name) => [name.as_bytes(), b" | "],
        None => [b"superd", b": " as &[u8]],
    };
    let mut lines = Vec::with_capacity(text.len().min(STDERR_CAP) + 40);
    // A pipe takes each piece whole or not at all.
    let at_once = matches!(stderr, Stderr::Plain(_));
    let mut put = |lines: &mut Vec<u8>| {
        match (&stderr, carry) {
            (Stderr::Plain(length), Some(carry)) => carry.attempt(*length, lines.len()),
            (_, Some(carry)) => carry.pass(),
            (_, None) => {}
        }
        let done = stderr.write(lines).is_ok();
        lines.clear();
        done
    };
    let all = pieces(text, STDERR_CAP).all(|piece| {
        lines.extend_from_slice(&prefix.concat());
        lines.extend_from_slice(piece);
        lines.push(b'\n');
        at_once || put(&mut lines)
    });
    all && (!at_once || put(&mut lines))
}

/// Cuts at `room` bytes, before a UTF-8 character rather than inside one. At least one
/// piece, also of an empty text.
fn pieces(text: &[u8], room: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        if text.len() <= room {
            rest = None;
            return Some(text);
        }
        let inside = |at: usize| text.get(at).is_some_and(|b| b & 0xc0 == 0x80);
        let at = (room.saturating_sub(3)..=room)
            .rev()
            .find(|at| *at > 0 && !inside(*at))
            .unwrap_or(room);
        let (piece, after) = text.split_at_checked(at)?;
        rest = Some(after);
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> Stamp {
        Stamp {
            month: 3,
            day: 7,
            hour: 12,
            minute: 4,
            second: 5,
        }
    }

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path =
                std::env::temp_dir().join(format!("superd-sink-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    fn daemon(dir: &Dir) -> (PathBuf, UnixDatagram) {
        let path = dir.0.join("log");
        std::fs::remove_file(&path).ok();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (path, socket)
    }

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut buf = [0; 4096];
        let n = socket.recv(&mut buf).ok()?;
        Some(String::from_utf8_lossy(&buf[..n]).into_owned())
    }

    fn sec(n: u64) -> Tick {
        Tick(n * 1_000_000_000)
    }

    #[test]
    fn a_line_has_the_classic_form_with_the_service_as_tag() {
        let dir = Dir::new("classic");
        let (path, log) = daemon(&dir);
        let mut sink = Sink::with_paths(LogTo::Syslog, false, noon, vec![path]);
        sink.line(sec(1), "caddy", Some(42), b"hello\x1b[0m\0there");
        assert_eq!(
            heard(&log).unwrap(),
            "<30>Mar  7 12:04:05 caddy[42]: hello [0m there"
        );
        let text = "\u{9b}31m \u{a0}\u{9b}";
        sink.line(sec(1), "caddy", Some(42), text.as_bytes());
        let said = "<30>Mar  7 12:04:05 caddy[42]:   31m \u{a0}  ";
        assert_eq!(heard(&log).unwrap(), said);
        sink.say(sec(1), Severity::LOG_ERR, "caddy: gone");
        let pid = std::process::id();
        assert_eq!(
            heard(&log).unwrap(),
            format!("<27>Mar  7 12:04:05 superd[{pid}]: caddy: gone")
        );
    }

    #[test]
    fn no_datagram_is_longer_than_1023_bytes_and_nothing_is_lost() {
        let dir = Dir::new("long");
        let (path, log) = daemon(&dir);
        let mut sink = Sink::with_paths(LogTo::Syslog, false, noon, vec![path]);
        let text = "ä".repeat(2_000);
        sink.line(
            sec(1),
            "a-service-with-a-long-name",
            Some(i32::MAX),
            text.as_bytes(),
        );
        let mut all = String::new();
        while let Some(m) = heard(&log) {
            assert!(m.len() <= DATAGRAM_CAP);
            all.push_str(m.split_once("]: ").unwrap().1);
        }
        assert_eq!(all, text);
    }

    #[test]
    fn a_log_daemon_may_go_and_come_and_the_loss_is_said() {
        let dir = Dir::new("restart");
        let (path, log) = daemon(&dir);
        let mut sink = Sink::with_paths(LogTo::Syslog, false, noon, vec![path.clone()]);
        sink.say(sec(1), Severity::LOG_INFO, "one");
        assert!(heard(&log).unwrap().ends_with("one"));
        drop(log);
        std::fs::remove_file(&path).unwrap();
        sink.say(sec(3), Severity::LOG_INFO, "two");
        sink.say(sec(3), Severity::LOG_INFO, "three");
        let (_, log) = daemon(&dir);
        sink.say(sec(3), Severity::LOG_INFO, "less than a second later");
        assert_eq!(heard(&log), None);
        sink.say(sec(5), Severity::LOG_INFO, "five");
        assert!(heard(&log).unwrap().ends_with(": lines of log dropped: 3"));
        assert!(heard(&log).unwrap().ends_with(": five"));
        assert_eq!(sink.lost(), 3);
        // A restart between two lines loses nothing.
        drop(log);
        let (_, log) = daemon(&dir);
        sink.say(sec(9), Severity::LOG_INFO, "six");
        assert!(heard(&log).unwrap().ends_with(": six"));
    }

    #[test]
    fn a_log_daemon_that_does_not_read_blocks_nobody() {
        let dir = Dir::new("full");
        let (path, log) = daemon(&dir);
        let mut sink = Sink::with_paths(LogTo::Syslog, false, noon, vec![path]);
        for i in 0..5_000 {
            sink.line(sec(1), "x", None, format!("{i}").as_bytes());
        }
        assert!(sink.lost() > 0);
        let mut got = 0;
        while heard(&log).is_some_and(|m| !m.contains("dropped")) {
            got += 1;
        }
        assert_eq!(got + sink.lost(), 5_000);
        sink.say(sec(3), Severity::LOG_INFO, "again");
        let said = format!(": lines of log dropped: {}", sink.lost());
        assert!(heard(&log).unwrap().ends_with(&said));
        assert!(heard(&log).unwrap().ends_with(": again"));
    }

    #[test]
    fn a_reader_of_standard_error_that_does_not_read_blocks_nobody() {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        let mut sink = Sink::with_paths(LogTo::None, true, noon, Vec::new());
        sink.stderr = Some(Stderr::Own(File::from(write)));
        for i in 0..5_000 {
            sink.line(
                sec(1),
                "x",
                None,
                format!("{i} {}", "y".repeat(90)).as_bytes(),
            );
        }
        let lost = sink.lost();
        assert!(lost > 0);
        let mut text = vec![0; 1 << 20];
        let n = nix::unistd::read(&read, &mut text).unwrap();
        let text = String::from_utf8_lossy(&text[..n]).into_owned();
        assert!(
            text.starts_with("x | 0 y") && text.ends_with('\n'),
            "whole lines only"
        );
        let got = text.lines().filter(|l| l.starts_with("x | ")).count() as u64;
        assert_eq!(got + lost, 5_000);
        sink.say(sec(3), Severity::LOG_INFO, "x: up");
        let mut rest = [0; 200];
        let n = nix::unistd::read(&read, &mut rest).unwrap();
        let said = String::from_utf8_lossy(&rest[..n]).into_owned();
        assert!(said.starts_with("superd: lines of log dropped: "), "{said}");
        assert!(said.ends_with("\nsuperd: x: up\n"), "{said}");
    }

    #[test]
    fn nowhere_costs_nothing_and_loses_nothing() {
        let mut sink = Sink::with_paths(LogTo::None, false, noon, Vec::new());
        sink.say(sec(1), Severity::LOG_INFO, "x");
        assert_eq!(sink.lost(), 0);
    }

    #[test]
    fn pieces_keep_characters_whole() {
        let text = "aéé€€𝄞𝄞".as_bytes();
        for room in 4..20 {
            let parts: Vec<&[u8]> = pieces(text, room).collect();
            assert_eq!(parts.concat(), text);
            for p in parts {
                assert!(p.len() <= room && std::str::from_utf8(p).is_ok());
            }
        }
        assert_eq!(pieces(b"", 9).count(), 1);
        assert_eq!(pieces(&[0x80; 100], 9).map(<[u8]>::len).max(), Some(9));
    }
}
