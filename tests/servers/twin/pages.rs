//! `pages`: a server that cannot drain. What is open is cut the moment it gets a TERM.
//!
//! A client says what the server is to do, a line each, on one connection as often as it
//! likes: `begin` is answered by `begun`, `end` by `whole`, `send N` by a line of N bytes, and
//! `crash` by a panic. USR1 opens the port of --also. On the UDP port of --udp it sends back
//! what comes. An address may be `fd/3`, of a socket that was passed.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::FromRawFd;
use std::thread;

use super::{hold_signals, usage, Twin};

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
    match passed(at).unwrap_or_else(|| TcpListener::bind(at)) {
        Ok(listener) => {
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
    for at in at.split(',') {
        bind(twin, at);
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
