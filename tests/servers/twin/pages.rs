//! `pages`: a server that cannot drain. What is open is cut the moment it gets a TERM.
//!
//! A client says what the server is to do, a line each, on one connection as often as it
//! likes: `begin` is answered by `begun`, `end` by `whole`, `send N` by a line of N bytes, and
//! `crash` by a panic. USR1 opens the port of --also. On the UDP port of --udp it sends back
//! what comes. An address may be `fd/3`, of a socket that was passed. What it does to make a drain
//! difficult: `--mptcp` opens sockets of MPTCP; `--filter own|locked|lock` attaches a filter of
//! its own that drops nothing, locks it, or locks that it has none; by `spoil HOW` on a
//! connection it does that to descriptor 3, a socket that was passed, or `shutdown`, or `nonblock`.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread;

use super::{hold_signals, usage, Twin};

/// A filter that drops nothing.
fn filter(socket: &impl AsRawFd, how: &str) {
    let mut all = [libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: u32::MAX,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: all.as_mut_ptr(),
    };
    if how != "lock" {
        set(socket.as_raw_fd(), libc::SO_ATTACH_FILTER, &program).unwrap();
    }
    if how != "own" {
        set(socket.as_raw_fd(), libc::SO_LOCK_FILTER, &1_i32).unwrap();
    }
}

fn set<T>(fd: i32, option: i32, value: &T) -> std::io::Result<()> {
    let (place, length) = (std::ptr::from_ref(value).cast(), std::mem::size_of::<T>());
    // SAFETY: a value of that length.
    let r = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            option,
            place,
            length as libc::socklen_t,
        )
    };
    match r {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// What its owners share of a socket: all of it is changed.
fn spoil(how: &str) {
    // SAFETY: numbers only.
    unsafe {
        match how {
            "shutdown" => assert_eq!(libc::shutdown(3, libc::SHUT_RDWR), 0),
            "nonblock" => assert_eq!(libc::fcntl(3, libc::F_SETFL, libc::O_NONBLOCK), 0),
            how => filter(&std::os::fd::BorrowedFd::borrow_raw(3), how),
        }
    }
}

fn serve(twin: &'static Twin, stream: TcpStream) {
    let mut writer = stream.try_clone().unwrap();
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let answer = match line.split_once(' ') {
            None if line == "begin" => "begun\n".to_owned(),
            None if line == "end" => "whole\n".to_owned(),
            None if line == "crash" => twin.go_panic(
                "pages",
                "goroutine 7 [running]:\nmain.main()\n\t/twin/pages.go:1 +0x1\n",
            ),
            Some(("spoil", how)) => {
                spoil(how);
                "spoilt\n".to_owned()
            }
            Some(("send", n)) => "x".repeat(n.parse().unwrap()) + "\n",
            _ => return,
        };
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn accept(twin: &'static Twin, listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(twin, stream));
        }
    });
}

/// With SO_REUSEPORT, as a server with a socket for each of its workers does it, or one of MPTCP,
/// as programs in Go open it. Only IPv4.
fn special(at: &str, protocol: i32, options: &[i32]) -> std::io::Result<TcpListener> {
    let at: std::net::SocketAddrV4 = at.parse().unwrap();
    let failed = |r: i32| match r {
        0.. => Ok(r),
        _ => Err(std::io::Error::last_os_error()),
    };
    let length = |n: usize| n as libc::socklen_t;
    // SAFETY: plain system calls; what the pointers point to lives until they return.
    unsafe {
        let fd = failed(libc::socket(
            libc::AF_INET,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
            protocol,
        ))?;
        let socket = TcpListener::from_raw_fd(fd);
        for option in options {
            set(fd, *option, &1_i32)?;
        }
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = at.port().to_be();
        address.sin_addr.s_addr = u32::from_ne_bytes(at.ip().octets());
        let place = std::ptr::from_ref(&address).cast();
        failed(libc::bind(
            fd,
            place,
            length(std::mem::size_of_val(&address)),
        ))?;
        failed(libc::listen(fd, 511))?;
        Ok(socket)
    }
}

/// `fd/3`: a socket that was passed (sd_listen_fds(3)).
fn passed(at: &str) -> Option<std::io::Result<TcpListener>> {
    let fd: i32 = at.strip_prefix("fd/")?.parse().unwrap();
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    let is_ours = number("LISTEN_PID") == Some(std::process::id());
    let n = number("LISTEN_FDS").filter(|_| is_ours).unwrap_or(0);
    Some(match (3..3 + n as i32).contains(&fd) {
        // SAFETY: it was passed to us, and is taken once.
        true => Ok(unsafe { TcpListener::from_raw_fd(fd) }),
        false => Err(std::io::Error::other("not passed")),
    })
}

fn bind(twin: &'static Twin, at: &str) {
    open(
        twin,
        at,
        passed(at).unwrap_or_else(|| TcpListener::bind(at)),
    );
}

fn open(twin: &'static Twin, at: &str, listener: std::io::Result<TcpListener>) {
    match listener {
        Ok(listener) => {
            if let Some(how) = twin.text("--filter") {
                filter(&listener, &how);
            }
            accept(twin, listener);
            twin.note(&format!("listening {at}"));
        }
        Err(e) => {
            twin.note(&format!("bind failed {e}"));
            twin.end(98)
        }
    }
}

pub fn pages(twin: &'static Twin) {
    hold_signals();
    let at = twin.text("--listen").unwrap_or_else(|| usage());
    // So many sockets for each address that share it, in place of one. `--unshare FILE`: from
    // when the file is there, one that is not shared.
    let unshare = twin.text("--unshare");
    let is_shared = !unshare.is_some_and(|file| std::path::Path::new(&file).exists());
    let sockets = twin.number("--reuseport").filter(|_| is_shared);
    let shared = [libc::SO_REUSEADDR, libc::SO_REUSEPORT];
    let mptcp = |at| special(at, libc::IPPROTO_MPTCP, &shared[..1]);
    for at in at.split(',') {
        match sockets {
            None if twin.flag("--mptcp") => open(twin, at, mptcp(at)),
            None => bind(twin, at),
            Some(n) => (0..n).for_each(|_| open(twin, at, special(at, 0, &shared))),
        }
    }
    if let Some(at) = twin.text("--udp") {
        let socket = UdpSocket::bind(at).unwrap();
        thread::spawn(move || loop {
            let mut buffer = [0; 2000];
            if let Ok((n, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..n], from).ok(); // the client may be gone
            }
        });
    }
    twin.note("start");
    loop {
        match twin.heed(None) {
            Some(libc::SIGUSR1) => bind(twin, &twin.text("--also").unwrap_or_else(|| usage())),
            Some(libc::SIGTERM) => twin.end(0),
            _ => {}
        }
    }
}
