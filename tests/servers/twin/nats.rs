//! `twohandlers`: an application that embeds NATS 2.9.10 (nats-io/nats-server#5922, #6358).

use std::sync::atomic::Ordering;

use super::{hold_signals, starts, Listener, Twin};

const PANIC: &str = "close of closed channel";
const STACK: &str = "goroutine 5 [running]:
github.com/nats-io/nats-server/v2/server.(*Server).shutdownEventing(0xc5d41444008)
\t/twin/server/events.go:1336 +0xb6
github.com/nats-io/nats-server/v2/server.(*Server).Shutdown(0xc5d41444008)
\t/twin/server/server.go:1902 +0x52
created by github.com/nats-io/nats-server/v2/server.(*Server).handleSignals in goroutine 1
\t/twin/server/signal.go:46 +0x106
";

/// One TERM or INT reaches two handlers: a panic in `--panic` % of the stops (default 60),
/// else NATS calls exit (1 for TERM, 0 for INT) before the application has cleaned up, or
/// now and then the application is faster.
/// USR2 reaches one of the two and closes the port; TERM and INT are harmless after that, and
/// only then is the clean-up certain.
pub fn twohandlers(twin: &Twin) {
    hold_signals();
    let mut listener = Some(Listener::at(twin));
    let percent = twin.number("--panic").unwrap_or(60);
    twin.note("start");
    println!("ready");
    loop {
        match twin.heed(None) {
            Some(libc::SIGUSR2) => {
                drop(listener.take());
                twin.note("port closed");
            }
            Some(libc::SIGTERM | libc::SIGINT) if listener.is_none() => {
                println!("app cleanup done");
                twin.note("cleanup");
                twin.end(0)
            }
            Some(signal @ (libc::SIGTERM | libc::SIGINT)) => {
                // Not the same fate in each run of a service: the starts so far count.
                twin.seed.fetch_add(starts(twin), Ordering::Relaxed);
                if twin.chance(percent) {
                    twin.go_panic(PANIC, STACK);
                }
                if twin.chance(30) {
                    println!("app cleanup done");
                    twin.note("cleanup");
                    twin.end(0)
                }
                twin.end(i32::from(signal == libc::SIGTERM))
            }
            _ => {}
        }
    }
}
