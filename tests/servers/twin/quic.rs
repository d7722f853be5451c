//! `secondclient`: a server with quic-go 0.48.0 (quic-go/quic-go#4705).

use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::{answer, hold_signals, Head, Listener, Stream, Twin};

const PANIC: &str = "close of closed channel";
const STACK: &str = "goroutine 35 [running]:
github.com/quic-go/quic-go/http3.(*Server).decreaseConnCount(...)
\t/twin/http3/server.go:289
github.com/quic-go/quic-go/http3.(*Server).serveListener.func1()
\t/twin/http3/server.go:340 +0x122
created by github.com/quic-go/quic-go/http3.(*Server).serveListener in goroutine 18
\t/twin/http3/server.go:333 +0x39
";

/// What `/slow` takes.
const SLOW: Duration = Duration::from_millis(700);

/// How long a stop waits for clients.
const SHUTDOWN: Duration = Duration::from_secs(3);

#[derive(Default)]
struct State {
    clients: u32,
    left: u32,
    /// The channel that says "no client is left", closed whenever that comes true.
    closed: bool,
}

struct Server {
    twin: &'static Twin,
    state: Mutex<State>,
    changed: Condvar,
}

/// The second time that the number of clients comes back to zero kills it; and a stop after
/// the first time believes that nobody is there, cuts who is, and exits with 0.
///
/// Over TCP, because a QUIC stack would not be small.
pub fn secondclient(twin: &'static Twin) {
    hold_signals();
    let listener = Listener::at(twin);
    let server: &'static Server = Box::leak(Box::new(Server {
        twin,
        state: Mutex::default(),
        changed: Condvar::new(),
    }));
    thread::spawn(move || loop {
        let stream = listener.accept();
        server.state.lock().unwrap().clients += 1;
        thread::spawn(move || server.serve(stream));
    });
    twin.note("start");
    println!("ready");
    twin.serve();
    let state = server.state.lock().unwrap();
    drop(
        server
            .changed
            .wait_timeout_while(state, SHUTDOWN, |s| s.clients > 0 && !s.closed),
    );
    println!("shutdown done");
    twin.end(0)
}

impl Server {
    fn serve(&self, mut stream: Box<dyn Stream>) {
        let head = Head::read(&mut *stream);
        if head.line.contains(" /slow") {
            println!("slow request begun");
            thread::sleep(SLOW);
        }
        answer(&mut *stream, "200 OK", "hello\n");
        let mut state = self.state.lock().unwrap();
        state.clients -= 1;
        state.left += 1;
        println!("client gone");
        self.twin.note(&format!("client gone {}", state.left));
        if state.clients == 0 && std::mem::replace(&mut state.closed, true) {
            self.twin.go_panic(PANIC, STACK);
        }
        // Only now: who sees the connection end may rely on all that.
        drop(state);
        self.changed.notify_all();
        drop(stream);
    }
}
