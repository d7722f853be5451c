//! `wrapper`: Air 1.52.0 (air-verse/air#584).

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::thread;

use super::{answer, hold_signals, in_own_session, starts, Head, Listener, Stream, Twin};

const PANIC: &str = "runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x8 pc=0x7d2f0b]";
// The numbers of its lines are not the real ones'.
const STACK: &str = "goroutine 34 [running]:
github.com/cosmtrek/air/runner.(*ProxyStream).RemoveSubscriber(0xc00011a0c0, 0x1)
\t/twin/runner/proxy_stream.go:1 +0x6b
github.com/cosmtrek/air/runner.(*Proxy).reloadHandler(0xc00011a100)
\t/twin/runner/proxy.go:1 +0x2f1
created by net/http.(*Server).Serve in goroutine 21
\t/usr/local/go/src/net/http/server.go:1 +0x4b4
";

/// Its application is on a terminal (with `--pty`) and in a session of its own, and does not
/// mind a hang-up. With `--listen` it has a proxy with subscribers at `/internal/reload`, and the
/// application listens at `--app`.
///
/// It reads one signal in its life. Then, in so many % of the stops: `--panic`, which needs a
/// subscriber where there is a proxy; `--hang`; else status 0, the application left running in
/// `--orphan` % (default all), because nobody waits for the goroutine that should kill it.
pub fn wrapper(twin: &'static Twin) {
    let subscribers = Arc::new(AtomicU32::new(0));
    let mut app = match twin.text("--app") {
        Some(at) => twin.again(&["child", "app", "--listen", &at]),
        None => twin.again(&["child", "app"]),
    };
    if twin.flag("--pty") {
        on_a_terminal(&mut app);
    } else {
        in_own_session(&mut app);
    }
    let running = app.stdin(Stdio::null()).spawn().unwrap();
    hold_signals();
    twin.note(&format!("child app {}", running.id()));
    let proxy = twin.text("--listen").map(|_| Listener::at(twin));
    let has_proxy = proxy.is_some();
    if let Some(proxy) = proxy {
        let subscribers = subscribers.clone();
        thread::spawn(move || loop {
            let stream = proxy.accept();
            let subscribers = subscribers.clone();
            thread::spawn(move || serve(stream, &subscribers));
        });
    }
    twin.note("start");
    println!("ready");
    twin.serve();
    // Not the same fate in each run of a service: the starts so far count.
    twin.seed.fetch_add(starts(twin), Ordering::Relaxed);
    let racing = !has_proxy || subscribers.load(Ordering::Relaxed) > 0;
    if twin.chance(twin.number("--panic").unwrap_or(0)) && racing {
        twin.go_panic(PANIC, STACK);
    }
    if twin.chance(twin.number("--hang").unwrap_or(0)) {
        twin.note("hanging");
        loop {
            twin.heed(None);
        }
    }
    if !twin.chance(twin.number("--orphan").unwrap_or(100)) {
        // SAFETY: kill(2) touches no memory; the child leads its group and is not reaped.
        unsafe { libc::kill(-(running.id() as i32), libc::SIGKILL) };
    }
    twin.end(0)
}

fn serve(mut stream: Box<dyn Stream>, subscribers: &AtomicU32) {
    let head = Head::read(&mut *stream);
    if !head.line.contains(" /internal/reload") {
        return answer(&mut *stream, "200 OK", "hello\n");
    }
    subscribers.fetch_add(1, Ordering::Relaxed);
    let begin = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    stream.write_all(begin).ok(); // it may be gone
    stream.read_to_end(&mut Vec::new()).ok(); // until it leaves
    subscribers.fetch_sub(1, Ordering::Relaxed);
}

/// The terminal's other end stays open in this process: it hangs up when this one ends.
fn on_a_terminal(command: &mut Command) {
    // SAFETY: plain system calls on a descriptor of ours; the name is copied at once.
    let (master, name) = unsafe {
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(master >= 0, "no pseudo terminal");
        libc::grantpt(master);
        libc::unlockpt(master);
        let name = libc::ptsname(master);
        assert!(!name.is_null(), "no name for the pseudo terminal");
        (master, std::ffi::CStr::from_ptr(name).to_owned())
    };
    // SAFETY: setsid, open, ioctl and close are async-signal-safe; the closure owns the name.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            let slave = libc::open(name.as_ptr(), libc::O_RDWR);
            libc::ioctl(slave, libc::TIOCSCTTY, 0);
            libc::close(master);
            Ok(())
        });
    }
}
