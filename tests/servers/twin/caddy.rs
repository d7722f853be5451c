//! `doublestop`: Caddy 2.8.4 (caddyserver/caddy#6707).

use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::{answer, hold_signals, Head, Listener, Stream, Twin};

const PANIC: &str = "close of closed channel";
const STACK: &str = "goroutine 24 [running]:
github.com/caddyserver/caddy/v2/modules/caddytls.(*TLS).Stop(0x495a92b6a50)
\t/twin/modules/caddytls/tls.go:338 +0x27
github.com/caddyserver/caddy/v2.unsyncedStop({{0x1dda570, 0x495a907e820}})
\t/twin/caddy.go:677 +0x9f
github.com/caddyserver/caddy/v2.exitProcessFromSignal({0x1afbbd4, 0x7})
\t/twin/sigtrap.go:59 +0x105
created by github.com/caddyserver/caddy/v2.trapSignalsPosix in goroutine 1
\t/twin/sigtrap_posix.go:31 +0x1a
";

#[derive(Clone, Copy, PartialEq)]
enum By {
    Api,
    Term,
    Int,
}

#[derive(Default)]
struct State {
    /// Who stopped it first.
    first: Option<By>,
    /// A second stop that came by a signal: it panics when the first one lets go.
    doomed: bool,
    /// Second stops that came by the API: they panic then as well, but are recovered.
    recovered: u32,
    /// Requests whose body has not come yet.
    open: u32,
}

struct Caddy {
    twin: &'static Twin,
    state: Mutex<State>,
    changed: Condvar,
}

/// API, TERM and INT all stop it. The first stop waits for the open requests and at least
/// `--drain` ms; who comes second waits for the first and then stops everything again.
///
/// By signal that is a panic (of `--panic` %, default all), by the API one that is
/// recovered. A second TERM is never read, a second INT and a QUIT end it at once.
/// Unlike the real one it answers `/stop` before it has stopped, and has its API and its
/// pages on one port.
pub fn doublestop(twin: &'static Twin) {
    hold_signals();
    let listener = Listener::at(twin);
    let caddy: &'static Caddy = Box::leak(Box::new(Caddy {
        twin,
        state: Mutex::default(),
        changed: Condvar::new(),
    }));
    thread::spawn(move || loop {
        let stream = listener.accept();
        thread::spawn(move || caddy.serve(stream));
    });
    twin.note("start");
    twin.notify("RELOADING=1");
    twin.notify("READY=1");
    loop {
        match twin.heed(None) {
            Some(libc::SIGTERM) => caddy.stop(By::Term),
            Some(libc::SIGINT) => caddy.stop(By::Int),
            Some(libc::SIGQUIT) => twin.end(2),
            _ => {}
        }
    }
}

impl Caddy {
    fn serve(&'static self, mut stream: Box<dyn Stream>) {
        let head = Head::read(&mut *stream);
        if head.line.contains(" /stop") {
            self.twin.note("api stop");
            self.stop(By::Api);
            answer(&mut *stream, "200 OK", "");
        } else if head.length == 0 {
            answer(&mut *stream, "200 OK", "hello\n");
        } else {
            self.change(|s| s.open += 1);
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok(); // it may be gone
            let mut body = vec![0; head.length.min(65_536)];
            if stream.read_exact(&mut body).is_ok() {
                answer(&mut *stream, "200 OK", &String::from_utf8_lossy(&body));
            }
            drop(stream);
            self.change(|s| s.open -= 1);
        }
    }

    fn change<T>(&self, how: impl FnOnce(&mut State) -> T) -> T {
        let result = how(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        result
    }

    fn stop(&'static self, by: By) {
        let first = self.state.lock().unwrap().first;
        match (first, by) {
            (Some(By::Term), By::Term) => return, // the handler is still at the first one
            (Some(By::Int), By::Int) => self.twin.end(2), // "force quit"
            _ => {}
        }
        // Before anything is waited for, and once per stop.
        self.twin.notify("STOPPING=1");
        let begins = self.change(|s| match (s.first, by) {
            (None, by) => {
                s.first = Some(by);
                true
            }
            (Some(_), By::Api) => {
                s.recovered += 1;
                false
            }
            (Some(_), By::Term | By::Int) => {
                s.doomed = true;
                false
            }
        });
        if begins {
            self.drain();
        }
    }

    /// On a thread of its own: waits, and ends the process.
    fn drain(&'static self) {
        let least = Duration::from_millis(self.twin.number("--drain").unwrap_or(500));
        thread::spawn(move || {
            thread::sleep(least);
            let state = self.state.lock().unwrap();
            let state = self.changed.wait_while(state, |s| s.open > 0).unwrap();
            for _ in 0..state.recovered {
                eprintln!("http: panic serving 127.0.0.1:1: {PANIC}");
            }
            let percent = self.twin.number("--panic").unwrap_or(100);
            if state.doomed && self.twin.chance(percent) {
                self.twin.go_panic(PANIC, STACK);
            }
            self.twin.end(0)
        });
    }
}
