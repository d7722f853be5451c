//! The sd_notify(3) socket: one datagram socket for all services. Whether a sender belongs
//! to a service's own tree is for the reactor to find out; here a message only gets the
//! pid that the kernel vouches for (SCM_CREDENTIALS).
//!
//! The socket has a path in the run directory, mode 0666: services run as any user, an
//! abstract name could be taken by anybody while superd is away and is not seen from
//! another network namespace, and a service that outlives its superd finds the next one
//! under the same path.
//!
//! Descriptors sent along (FDSTORE=1) are never received: the control buffer has room for
//! the credentials only, which the kernel puts first, so it closes the rest itself. A
//! service cannot fill superd's descriptor table that way.

use std::io::{self, IoSliceMut};
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::sys::socket::{
    recvmsg, setsockopt, socket, sockopt, AddressFamily, MsgFlags, SockFlag, SockType,
};

use super::rundir::{bind_anew, plain};
use super::token::Source;
use super::upgrade::state::Fds;
use crate::json::{FromJson, ToJson};
use crate::machine::event::{Notice, Pid};
use crate::map::Map;
use crate::sys::handover::Inherited;

/// A longer datagram is dropped (systemd has the same limit).
const DATAGRAM_CAP: usize = 4096;

/// The longest STATUS= that is kept, in bytes.
const STATUS_CAP: usize = 256;

/// Datagrams that [`Notify::drain`] reads at most.
const DRAIN: usize = 1024;

/// What outlives a change of the program.
#[derive(ToJson, FromJson)]
pub struct Kept {
    socket: i32,
    path: PathBuf,
    dropped: u64,
}

/// The socket.
pub struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
    readable: bool,
    dropped: u64,
}

impl Notify {
    /// Binds the socket in the run directory; a file of that name is removed first, so the
    /// caller holds the lock of the run directory.
    ///
    /// # Errors
    /// Of bind(2) and chmod(2); the text names the path.
    pub fn bind(path: &Path, registry: &Registry) -> io::Result<Notify> {
        let named = |e: io::Error| {
            let text = format!("{}: {}", path.display(), plain(&e));
            io::Error::new(e.kind(), text)
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        bind_anew(&fd, path).map_err(named)?;
        let socket = UnixDatagram::from(fd);
        setsockopt(&socket, sockopt::PassCred, &true)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(named)?;
        registry.register(
            &mut SourceFd(&socket.as_raw_fd()),
            Source::Notify.token(),
            Interest::READABLE,
        )?;
        Ok(Notify {
            socket,
            path: path.to_owned(),
            readable: true,
            dropped: 0,
        })
    }

    /// For a superd that becomes another program. What lies in the socket stays there.
    pub fn keep(&self, fds: &mut Fds) -> Kept {
        Kept {
            socket: fds.pass(&self.socket),
            path: self.path.clone(),
            dropped: self.dropped,
        }
    }

    /// What [`Notify::keep`] said, in the new one.
    ///
    /// # Errors
    /// Of epoll_ctl(2).
    pub fn kept(kept: Kept, left: &mut Inherited, registry: &Registry) -> io::Result<Notify> {
        let socket = UnixDatagram::from(left.take(kept.socket)?);
        registry.register(
            &mut SourceFd(&socket.as_raw_fd()),
            Source::Notify.token(),
            Interest::READABLE,
        )?;
        Ok(Notify {
            socket,
            path: kept.path,
            readable: true,
            dropped: kept.dropped,
        })
    }

    /// The socket's file is gone: binds a new one of the same name. What has come is to be
    /// read first.
    ///
    /// # Errors
    /// As [`Notify::bind`]; then nothing changes.
    pub fn bind_again(&mut self, registry: &Registry) -> io::Result<()> {
        let mut new = Notify::bind(&self.path, registry)?;
        new.dropped = self.dropped;
        let mut old = std::mem::replace(self, new);
        old.path = PathBuf::new(); // the file of that name is the new one's
        Ok(())
    }

    /// What NOTIFY_SOCKET is to contain.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// mio says there is something.
    pub fn ready(&mut self) {
        self.readable = true;
    }

    /// Something may be there that was not read yet.
    pub fn more_work(&self) -> bool {
        self.readable
    }

    /// Reads all that has come, for [`crate::machine::event::Check::Notify`]: up to 1024
    /// datagrams, more than the kernel queues by default (`net.unix.max_dgram_qlen`).
    pub fn drain(&mut self, out: &mut Vec<(Pid, Notice)>) {
        self.readable = true;
        let mut buf = [0_u8; DATAGRAM_CAP];
        for _ in 0..DRAIN {
            if !self.readable {
                return;
            }
            let mut control = Control([0; CONTROL]);
            let mut iov = [IoSliceMut::new(&mut buf)];
            let got = recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut iov,
                Some(&mut control.0),
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
            )
            .map(|m| (m.bytes, m.flags.contains(MsgFlags::MSG_TRUNC)));
            match got {
                Ok((n, false)) => match control.sender() {
                    Some(pid) => {
                        let text = buf.get(..n).unwrap_or_default();
                        out.extend(parse(text).into_iter().map(|notice| (pid, notice)));
                    }
                    None => self.dropped += 1,
                },
                Ok((_, true)) => self.dropped += 1,
                Err(nix::errno::Errno::EINTR) => {}
                // WouldBlock; and an error of a datagram socket is over once it is read.
                Err(_) => self.readable = false,
            }
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok(); // it may be gone already
    }
}

/// cmsghdr and ucred, and nothing more.
const CONTROL: usize = size_of::<libc::cmsghdr>() + size_of::<libc::ucred>();

/// A control buffer. nix' iterator over it refuses a truncated one, and truncation is
/// what we want; so the one header we know of is read here.
#[repr(C, align(16))]
struct Control([u8; CONTROL]);

impl Control {
    fn sender(&self) -> Option<Pid> {
        let data = size_of::<libc::cmsghdr>();
        let level = self.int(offset_of!(libc::cmsghdr, cmsg_level))?;
        let kind = self.int(offset_of!(libc::cmsghdr, cmsg_type))?;
        let pid = self.int(data + offset_of!(libc::ucred, pid))?;
        let credentials = level == libc::SOL_SOCKET && kind == libc::SCM_CREDENTIALS;
        // 0: a process of another pid namespace. 1 is never a service.
        (credentials && pid > 1).then_some(Pid(pid))
    }

    fn int(&self, at: usize) -> Option<i32> {
        let bytes = self.0.get(at..at + size_of::<i32>())?;
        Some(i32::from_ne_bytes(bytes.try_into().ok()?))
    }
}

/// The messages in a datagram, in order. What is not known or makes no sense is left out.
pub fn parse(datagram: &[u8]) -> Vec<Notice> {
    datagram
        .split(|b| *b == b'\n')
        .filter_map(|line| match line {
            b"READY=1" => Some(Notice::Ready),
            b"STOPPING=1" => Some(Notice::Stopping),
            b"RELOADING=1" => Some(Notice::Reloading),
            b"WATCHDOG=1" => Some(Notice::Watchdog),
            b"WATCHDOG=trigger" => Some(Notice::WatchdogTrigger),
            _ => {
                if let Some(text) = line.strip_prefix(b"STATUS=") {
                    return Some(Notice::Status(status(text)));
                }
                if let Some(text) = line.strip_prefix(b"EXTEND_TIMEOUT_USEC=") {
                    let us = std::str::from_utf8(text).ok()?.parse::<u64>().ok()?;
                    return Some(Notice::Extend(Duration::from_micros(us)));
                }
                let pid = std::str::from_utf8(line.strip_prefix(b"MAINPID=")?).ok()?;
                let pid = pid.parse::<i32>().ok().filter(|pid| *pid > 1)?;
                Some(Notice::MainPid(Pid(pid)))
            }
        })
        .collect()
}

/// What was said, by whose instance. Each process is looked up once, however much it has
/// said: without cgroups that is a walk through all of /proc. Of several MAINPID= the last
/// one counts, and comes last.
pub fn attribute<K: Copy + Ord>(
    heard: impl Iterator<Item = (Pid, Notice)>,
    mut owner: impl FnMut(Pid) -> Option<K>,
) -> (Vec<(K, Notice)>, Map<K, Pid>) {
    let mut owners = Map::new();
    let mut said = Vec::new();
    let mut mains = Map::new();
    for (pid, notice) in heard {
        let Some(of) = *owners.entry(pid).or_insert_with(|| owner(pid)) else {
            continue;
        };
        match notice {
            Notice::MainPid(main) => drop(mains.insert(of, main)),
            notice => said.push((of, notice)),
        }
    }
    (said, mains)
}

fn status(text: &[u8]) -> String {
    let text = text.get(..STATUS_CAP).unwrap_or(text);
    let mut clean: String = String::from_utf8_lossy(text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    while clean.len() > STATUS_CAP {
        clean.pop();
    }
    clean.truncate(clean.trim_end().len());
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{sendmsg, ControlMessage, UnixAddr};
    use std::io::IoSlice;

    struct Bench {
        dir: PathBuf,
        poll: mio::Poll,
        notify: Notify,
        sender: UnixDatagram,
    }

    impl Bench {
        fn new(name: &str) -> Bench {
            let dir =
                std::env::temp_dir().join(format!("superd-notify-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            let poll = mio::Poll::new().unwrap();
            let notify = Notify::bind(&dir.join("notify"), poll.registry()).unwrap();
            let sender = UnixDatagram::unbound().unwrap();
            sender.set_nonblocking(true).unwrap();
            sender.connect(notify.path()).unwrap();
            Bench {
                dir,
                poll,
                notify,
                sender,
            }
        }

        fn heard(&mut self) -> Vec<(Pid, Notice)> {
            let mut out = Vec::new();
            self.notify.drain(&mut out);
            out
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.dir).ok();
        }
    }

    fn me() -> Pid {
        Pid(std::process::id() as i32)
    }

    #[test]
    fn messages_come_with_the_pid_that_the_kernel_vouches_for() {
        let mut b = Bench::new("pid");
        b.heard(); // nothing there yet
        b.sender.send(b"READY=1\nSTATUS=listening\nX=y").unwrap();
        b.sender.send(b"STOPPING=1").unwrap();
        let mut events = mio::Events::with_capacity(4);
        b.poll.poll(&mut events, None).unwrap();
        assert_eq!(
            events.iter().next().and_then(|e| Source::of(e.token())),
            Some(Source::Notify)
        );
        assert_eq!(
            b.heard(),
            vec![
                (me(), Notice::Ready),
                (me(), Notice::Status("listening".to_owned())),
                (me(), Notice::Stopping),
            ]
        );
        assert!(!b.notify.more_work());
    }

    #[test]
    fn descriptors_that_are_sent_along_are_never_received() {
        let mut b = Bench::new("fds");
        let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let fds: Vec<i32> = vec![b.sender.as_raw_fd(); 200];
        let text = [IoSlice::new(b"FDSTORE=1\nREADY=1")];
        sendmsg::<UnixAddr>(
            b.sender.as_raw_fd(),
            &text,
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        assert_eq!(b.heard(), vec![(me(), Notice::Ready)]);
        // Other tests open a few at the same time, not two hundred.
        let after = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(after < before + 100, "{before} before, {after} after");
    }

    #[test]
    fn long_datagrams_are_dropped_and_a_flood_is_taken_whole() {
        let mut b = Bench::new("flood");
        let long = [b"STATUS=".as_slice(), &[b'x'; DATAGRAM_CAP]].concat();
        b.sender.send(&long).unwrap();
        b.sender.send(b"").unwrap();
        assert_eq!(b.heard(), Vec::new());
        assert_eq!(b.notify.dropped, 1);
        let mut sent = 0;
        while b.sender.send(b"READY=1").is_ok() {
            sent += 1;
        }
        assert_eq!(b.heard().len(), sent);
        assert!(!b.notify.more_work());
    }

    #[test]
    fn a_status_is_one_clean_short_line() {
        assert_eq!(
            parse(b"STATUS=a\tb\x1b[31mc\0  "),
            vec![Notice::Status("a b [31mc".to_owned())]
        );
        let long = format!("STATUS={}", "é".repeat(1_000));
        match parse(long.as_bytes()).as_slice() {
            [Notice::Status(s)] => assert!(s.len() <= STATUS_CAP && s.starts_with("éé")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_says_much_is_looked_up_once_and_the_last_mainpid_counts() {
        let heard = (0..1000_i32).map(|n| {
            let notice = match n % 4 {
                0 => Notice::MainPid(Pid(n + 2)),
                _ => Notice::Ready,
            };
            (Pid(10 + n % 2), notice)
        });
        let mut looked_up = Vec::new();
        let (said, mains) = attribute(heard, |pid| {
            looked_up.push(pid);
            (pid == Pid(10)).then_some('a')
        });
        assert_eq!(looked_up, [Pid(10), Pid(11)]);
        assert_eq!(said.len(), 250, "the stranger is not believed");
        assert_eq!(mains, Map::from([('a', Pid(998))]));
    }

    #[test]
    fn nonsense_is_left_out() {
        for text in [
            "READY=0",
            "READY=11",
            " READY=1",
            "ready=1",
            "MAINPID=1",
            "MAINPID=-5",
            "MAINPID=99999999999",
            "MAINPID=",
            "=",
            "",
            "\0READY=1",
            "WATCHDOG=2",
            "EXTEND_TIMEOUT_USEC=-1",
            "EXTEND_TIMEOUT_USEC=1s",
        ] {
            assert_eq!(parse(text.as_bytes()), Vec::new(), "{text}");
        }
        assert_eq!(parse(b"MAINPID=77\n"), vec![Notice::MainPid(Pid(77))]);
        let more = Notice::Extend(Duration::from_secs(2));
        assert_eq!(parse(b"EXTEND_TIMEOUT_USEC=2000000"), vec![more]);
        let mut seed = 3_u32;
        for _ in 0..5_000 {
            let bytes: Vec<u8> = (0..60)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b"READY=1STOPPING\nMAID\xff\0"[(seed >> 20) as usize % 21]
                })
                .collect();
            parse(&bytes);
        }
    }
}
