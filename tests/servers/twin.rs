//! Small servers with the faults of real ones, and victims for the end-to-end tests.
//!
//! The twins (`doublestop`, `secondclient`, `twohandlers`, `wrapper`, `leaver`) behave, seen
//! from outside, as Caddy 2.8.4, quic-go 0.48.0, an embedded NATS server, Air 1.52.0 and
//! go2rtc 1.9.4 do when they are stopped; they need no Go and no network. The other modes
//! do one thing each that a supervisor has to cope with.
//!
//! It is not a library and knows nothing of superd. With `--record FILE` every process of
//! it appends one line per event, `NANOSECONDS PID EVENT ...` (CLOCK_MONOTONIC), each
//! with one write(2): the file tells of starts and signals also after a SIGKILL.
//!
//! It is one file past 400 lines because an example is one file, and its modes are a table.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]
// Children that nobody waits for are what much of this is about.
#![allow(clippy::zombie_processes)]

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::{exit, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const USAGE: &str = "twin [--record FILE] [--seed N] MODE [ARGS]
twins:
  doublestop --listen WHERE --drain MS   a second stop by a signal while it drains: panic
  secondclient --listen WHERE            panics when the second client leaves
  twohandlers --listen WHERE --panic P   TERM/INT panic with P %, unless USR2 came before
  wrapper [--panic P] [--hang P] [--pty] its application is in a session of its own
  leaver [--at-once] [--stubborn]        status 0 at once, leaves a child
victims:
  obey [--ready]       ends with 0 on TERM         ignore            nothing but KILL ends it
  slow-stop MS [--gate FILE] [--say TEXT]          ends MS after TERM, and when FILE is there
  exit CODE [--after MS] [--text T] [--first N]    crash SIGNAL [--after MS]
  tree [--stubborn]    children in its group, in a session of theirs, double-forked
  flood [--bytes N]    lines N     close-stdout    exec-other   bind --listen WHERE
  fork-bomb N          hop N [--every-us US]   show    pause
  godump [--stay] [--listen WHERE]   TERM does nothing, QUIT prints goroutines as Go does
  eat MIB --gate FILE  waits for the file, then uses so much memory
  notify MESSAGE...    mark TEXT [--exit CODE] [--after MS]
WHERE: 127.0.0.1:80 or unix:/path";

fn main() {
    let twin: &'static Twin = Box::leak(Box::new(Twin::new(std::env::args().skip(1).collect())));
    match twin.rest.first().map_or("", String::as_str) {
        "doublestop" => doublestop(twin),
        "secondclient" => secondclient(twin),
        "twohandlers" => twohandlers(twin),
        "wrapper" => wrapper(twin),
        "leaver" => leaver(twin),
        "obey" => obey(twin),
        "ignore" => ignore(twin),
        "slow-stop" => slow_stop(twin),
        "exit" => exit_with(twin),
        "crash" => crash(twin),
        "godump" => godump(twin),
        "eat" => eat(twin),
        "tree" => tree(twin),
        "child" => child(twin),
        "forker" => forker(twin),
        "flood" => flood(twin),
        "lines" => lines(twin),
        "close-stdout" => close_stdout(twin),
        "exec-other" => exec_other(twin),
        "bind" => bind(twin),
        "fork-bomb" => fork_bomb(twin),
        "hop" => hop(twin),
        "show" => show(twin),
        "pause" => pause(twin),
        "notify" => notify_mode(twin),
        "mark" => mark(twin),
        _ => usage(),
    }
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    exit(64)
}

// ---- the command line, the record, chance, signals ----

struct Twin {
    record: Option<(String, File)>,
    seed: AtomicU64,
    /// The mode and what follows it.
    rest: Vec<String>,
}

impl Twin {
    fn new(mut args: Vec<String>) -> Twin {
        let record = take(&mut args, "--record").map(|path| {
            let file = OpenOptions::new().create(true).append(true).open(&path);
            (path.clone(), file.unwrap_or_else(|e| panic!("{path}: {e}")))
        });
        let seed = take(&mut args, "--seed").map_or(1, |s| s.parse().unwrap());
        Twin {
            record,
            seed: AtomicU64::new(seed),
            rest: args,
        }
    }

    /// Appends a line to the record. One write(2), so that lines are whole.
    fn note(&self, event: &str) {
        if let Some((_, mut file)) = self.record.as_ref().map(|(p, f)| (p, f)) {
            let line = format!("{} {} {event}\n", monotonic(), std::process::id());
            file.write_all(line.as_bytes()).ok(); // a full disk is the test's own doing
        }
    }

    fn flag(&self, name: &str) -> bool {
        self.rest.iter().any(|a| a == name)
    }

    fn text(&self, name: &str) -> Option<String> {
        take(&mut self.rest.clone(), name)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name).map(|s| s.parse().unwrap())
    }

    /// The word after the mode.
    fn first(&self) -> &str {
        self.rest.get(1).unwrap_or_else(|| usage())
    }

    fn first_number(&self) -> u64 {
        self.first().parse().unwrap()
    }

    /// True in `percent` of 100 cases, always the same ones for a seed.
    fn chance(&self, percent: u64) -> bool {
        let mut x = self.seed.load(Ordering::Relaxed);
        x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for _ in 0..8 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        self.seed.store(x, Ordering::Relaxed);
        (x >> 33) % 100 < percent
    }

    fn end(&self, status: i32) -> ! {
        self.note(&format!("exit {status}"));
        exit(status)
    }

    /// As the Go runtime dies.
    fn panic(&self, text: &str) -> ! {
        self.note(&format!("panic {text}"));
        let dump = format!(
            "panic: {text}\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:12 +0x1d\n"
        );
        std::io::stderr().write_all(dump.as_bytes()).ok(); // nobody may be reading
        exit(2)
    }

    /// A command that runs this program again, with the same record.
    fn again(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        if let Some((path, _)) = &self.record {
            command.args(["--record", path]);
        }
        command.args(args);
        command
    }
}

fn take(args: &mut Vec<String>, name: &str) -> Option<String> {
    let at = args.iter().position(|a| a == name)?;
    args.remove(at);
    (at < args.len()).then(|| args.remove(at))
}

fn monotonic() -> u128 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime(2) writes to a timespec that is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u128 * 1_000_000_000 + t.tv_nsec as u128
}

fn all_signals() -> libc::sigset_t {
    // SAFETY: a sigset_t is plain data, and sigfillset(3) initialises it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        set
    }
}

/// From now on signals are taken with [`next_signal`]. To be called before any thread is
/// made. (std empties the mask again for programs that it starts.)
fn hold_signals() {
    let set = all_signals();
    // SAFETY: the set is initialised.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()) };
}

/// The next signal and its sender; none when the time is up first.
fn next_signal(limit: Option<Duration>) -> Option<(i32, i32)> {
    let set = all_signals();
    loop {
        // SAFETY: a siginfo_t is plain data.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let got = match limit {
            // SAFETY: all three pointers are to initialised data of ours.
            Some(d) => unsafe {
                let t = libc::timespec {
                    tv_sec: d.as_secs() as libc::time_t,
                    tv_nsec: d.subsec_nanos() as libc::c_long,
                };
                libc::sigtimedwait(&set, &mut info, &t)
            },
            // SAFETY: both pointers are to initialised data of ours.
            None => unsafe { libc::sigwaitinfo(&set, &mut info) },
        };
        if got > 0 {
            // SAFETY: si_pid is set for signals sent by kill(2), else it is 0 or harmless.
            return Some((got, unsafe { info.si_pid() }));
        }
        if std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) {
            return None;
        }
    }
}

fn name_of(signal: i32) -> String {
    match signal {
        libc::SIGHUP => "HUP",
        libc::SIGINT => "INT",
        libc::SIGQUIT => "QUIT",
        libc::SIGTERM => "TERM",
        libc::SIGUSR1 => "USR1",
        libc::SIGUSR2 => "USR2",
        libc::SIGCHLD => "CHLD",
        libc::SIGCONT => "CONT",
        n => return n.to_string(),
    }
    .to_owned()
}

impl Twin {
    /// The next signal that is not about a child, written down.
    fn heed(&self, limit: Option<Duration>) -> Option<i32> {
        loop {
            let (signal, from) = next_signal(limit)?;
            if signal != libc::SIGCHLD {
                self.note(&format!("signal {} from {from}", name_of(signal)));
                return Some(signal);
            }
        }
    }

    /// Runs until TERM, INT or QUIT.
    fn serve(&self) -> i32 {
        loop {
            let signal = self.heed(None);
            if let Some(signal @ (libc::SIGTERM | libc::SIGINT | libc::SIGQUIT)) = signal {
                return signal;
            }
        }
    }

    fn notify(&self, message: &str) {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
            return;
        };
        let sent = UnixDatagram::unbound().and_then(|s| s.send_to(message.as_bytes(), path));
        let result = if sent.is_ok() { "" } else { " failed" };
        self.note(&format!("notify{result} {}", message.replace('\n', " ")));
    }
}

// ---- listening ----

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn at(twin: &Twin) -> Listener {
        let at = twin.text("--listen").unwrap_or_else(|| usage());
        let listener = match at.strip_prefix("unix:") {
            Some(path) => {
                std::fs::remove_file(path).ok(); // of an earlier run
                UnixListener::bind(path).map(Listener::Unix)
            }
            None => TcpListener::bind(&at).map(Listener::Tcp),
        };
        match listener {
            Ok(listener) => {
                twin.note(&format!("listening {at}"));
                listener
            }
            Err(e) => {
                eprintln!("{at}: {e}");
                twin.note(&format!("bind failed {e}"));
                twin.end(98)
            }
        }
    }

    fn accept(&self) -> Box<dyn Stream> {
        loop {
            let got: std::io::Result<Box<dyn Stream>> = match self {
                Listener::Tcp(l) => l.accept().map(|(s, _)| Box::new(s) as Box<dyn Stream>),
                Listener::Unix(l) => l.accept().map(|(s, _)| Box::new(s) as Box<dyn Stream>),
            };
            if let Ok(stream) = got {
                return stream;
            }
        }
    }
}

/// Reads a request's head and gives its first line; empty when the client went.
fn request_line(stream: &mut dyn Stream) -> String {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok(); // a client that goes away has asked for nothing
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap_or(0) > 0 && !line.trim().is_empty() {
        line.clear();
    }
    first
}

fn answer(stream: &mut dyn Stream, status: &str, body: &str) {
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).ok(); // the client may be gone
}

// ---- the twins ----

/// Caddy 2.8.4: API, TERM and INT all stop it. A second stop that comes by a signal while
/// it drains closes a channel twice; one that comes by the API panics where that is recovered.
fn doublestop(twin: &'static Twin) {
    hold_signals();
    let drain = Duration::from_millis(twin.number("--drain").unwrap_or(500));
    let listener = Listener::at(twin);
    let stopping = Arc::new(AtomicBool::new(false));
    let begin_drain = move || {
        thread::spawn(move || {
            thread::sleep(drain);
            twin.end(0)
        });
    };
    let by_api = stopping.clone();
    thread::spawn(move || loop {
        let mut stream = listener.accept();
        let line = request_line(&mut *stream);
        if !line.contains(" /stop") {
            answer(&mut *stream, "200 OK", "hello\n");
            continue;
        }
        twin.note("api stop");
        twin.notify("STOPPING=1");
        if by_api.swap(true, Ordering::SeqCst) {
            eprintln!("http: panic serving: close of closed channel");
            answer(&mut *stream, "500 Internal Server Error", "");
        } else {
            answer(&mut *stream, "200 OK", "");
            begin_drain();
        }
    });
    twin.note("start");
    twin.notify("READY=1");
    loop {
        match twin.heed(None) {
            Some(libc::SIGTERM | libc::SIGINT) => {
                twin.notify("STOPPING=1");
                if stopping.swap(true, Ordering::SeqCst) {
                    twin.panic("close of closed channel");
                }
                begin_drain();
            }
            Some(libc::SIGQUIT) => twin.end(2),
            _ => {}
        }
    }
}

/// quic-go 0.48.0: the second time that the number of clients comes back to zero kills it.
fn secondclient(twin: &'static Twin) {
    hold_signals();
    let listener = Listener::at(twin);
    thread::spawn(move || {
        for left in 1.. {
            let mut stream = listener.accept();
            request_line(&mut *stream);
            answer(&mut *stream, "200 OK", "hello\n");
            twin.note(&format!("client gone {left}"));
            if left == 2 {
                twin.panic("close of closed channel");
            }
        }
    });
    twin.note("start");
    twin.serve();
    twin.end(0)
}

/// Embedded NATS 2.9.10: one TERM reaches two handlers. USR2 reaches one of them and
/// closes the port; TERM is harmless after that, and only then is the clean-up certain.
fn twohandlers(twin: &Twin) {
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
            Some(libc::SIGTERM | libc::SIGINT) => {
                // Not the same fate in each run of a service: the starts so far count.
                twin.seed.fetch_add(starts(twin), Ordering::Relaxed);
                if twin.chance(percent) {
                    twin.panic("close of nil channel");
                }
                twin.end(1)
            }
            _ => {}
        }
    }
}

/// Air 1.52.0: its application is on a terminal of its own, and not waited for.
fn wrapper(twin: &Twin) {
    let mut app = twin.again(&["child", "app"]);
    if twin.flag("--pty") {
        on_a_terminal(&mut app);
    } else {
        in_own_session(&mut app);
    }
    let running = app.stdin(Stdio::null()).spawn().unwrap();
    hold_signals();
    twin.note(&format!("child app {}", running.id()));
    twin.note("start");
    twin.serve();
    if twin.chance(twin.number("--panic").unwrap_or(0)) {
        twin.panic("runtime error: invalid memory address or nil pointer dereference");
    }
    if twin.chance(twin.number("--hang").unwrap_or(0)) {
        twin.note("hanging");
        loop {
            twin.heed(None); // only the first signal counts
        }
    }
    twin.end(0)
}

/// go2rtc 1.9.4: status 0 in a millisecond, without a thought for its children.
fn leaver(twin: &Twin) {
    let mut camera = twin.again(&["child", "camera"]);
    if twin.flag("--stubborn") {
        camera.arg("--stubborn");
    }
    let running = in_own_session(&mut camera).spawn().unwrap();
    hold_signals();
    twin.note(&format!("child camera {}", running.id()));
    twin.note("start");
    if !twin.flag("--at-once") {
        twin.serve();
    }
    twin.end(0)
}

fn in_own_session(command: &mut Command) -> &mut Command {
    // SAFETY: setsid(2) is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        })
    }
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

// ---- the victims ----

fn obey(twin: &Twin) {
    hold_signals();
    twin.note("start");
    if twin.flag("--ready") {
        twin.notify("READY=1");
    }
    twin.serve();
    twin.end(0)
}

fn ignore(twin: &Twin) {
    hold_signals();
    twin.note("start");
    loop {
        twin.heed(None);
    }
}

/// A Go program that hangs: TERM changes nothing, QUIT makes the runtime print what every
/// goroutine is at, and end with status 2. With --stay it does not even end then.
fn godump(twin: &Twin) {
    hold_signals();
    let _listener = twin.text("--listen").map(|_| Listener::at(twin));
    twin.note("start");
    while twin.heed(None) != Some(libc::SIGQUIT) {}
    let mut dump = String::from(
        "SIGQUIT: quit\nPC=0x46d4c1 m=0 sigcode=0\n\ngoroutine 0 gp=0x9c5140 m=0 mp=0x9c5fe0 [idle]:\n\
         runtime.futex(0x9c6120, 0x80, 0x0, 0x0, 0x0, 0x0)\n\t/usr/lib/go/src/runtime/sys_linux_amd64.s:557 +0x21\n\n\
         goroutine 1 gp=0xc0000061c0 m=nil [chan receive, 2 minutes]:\n\
         runtime.gopark(0x0?, 0x0?, 0x0?, 0x0?, 0x0?)\n\t/usr/lib/go/src/runtime/proc.go:402 +0xce\n\
         main.stopAll(0xc00001c0c0)\n\t/src/stop.go:44 +0x1d\nmain.main()\n\t/src/main.go:12 +0x1d\n",
    );
    for n in 18..40 {
        write!(
            dump,
            "\ngoroutine {n} gp=0xc0000061c0 m=nil [select]:\nmain.worker({n})\n\t/src/worker.go:9 +0x1d\n"
        )
        .unwrap();
    }
    std::io::stderr().write_all(dump.as_bytes()).ok(); // nobody may be reading
    twin.note("dumped");
    while twin.flag("--stay") {
        twin.heed(None);
    }
    twin.end(2)
}

/// Uses memory until the kernel has something against it.
fn eat(twin: &Twin) {
    twin.note("start");
    let gate = twin.text("--gate").unwrap_or_else(|| usage());
    while !std::path::Path::new(&gate).exists() {
        thread::sleep(Duration::from_millis(5));
    }
    let mut eaten = vec![0_u8; twin.first_number() as usize * 1024 * 1024];
    for page in eaten.chunks_mut(4096) {
        page[0] = 1;
    }
    twin.note("ate");
    drop(eaten);
    twin.end(0)
}

/// A child: it does not mind a hang-up, and with --stubborn nothing but KILL.
fn child(twin: &Twin) {
    hold_signals();
    twin.note(&format!("begun {}", twin.first()));
    loop {
        let signal = twin.serve();
        if !twin.flag("--stubborn") {
            twin.note(&format!("ended by {}", name_of(signal)));
            exit(0);
        }
    }
}

fn slow_stop(twin: &Twin) {
    hold_signals();
    let (ms, gate) = (twin.first_number(), twin.text("--gate"));
    twin.note("start");
    twin.serve();
    if let Some(text) = twin.text("--say") {
        println!("{text}");
    }
    let until = monotonic() + u128::from(ms) * 1_000_000;
    let is_shut = || {
        gate.as_ref()
            .is_some_and(|g| !std::path::Path::new(g).exists())
    };
    while monotonic() < until || is_shut() {
        let left = until.saturating_sub(monotonic());
        let left = left.clamp(1_000_000, 5_000_000) as u64;
        twin.heed(Some(Duration::from_nanos(left)));
    }
    twin.end(0)
}

fn exit_with(twin: &Twin) {
    let earlier = starts(twin);
    if twin.number("--first").is_some_and(|n| earlier >= n) {
        return obey(twin);
    }
    twin.note("start");
    if let Some(ms) = twin.number("--after") {
        thread::sleep(Duration::from_millis(ms));
    }
    if let Some(text) = twin.text("--text") {
        eprintln!("{}", text.replace("\\n", "\n").replace("\\t", "\t"));
    }
    twin.end(twin.first().parse().unwrap())
}

/// How many times a main process has started, by the record.
fn starts(twin: &Twin) -> u64 {
    let path = twin.record.as_ref().map(|(path, _)| path);
    let text = path.map(|p| std::fs::read_to_string(p).unwrap());
    let text = text.unwrap_or_default();
    text.lines().filter(|l| l.ends_with(" start")).count() as u64
}

fn crash(twin: &Twin) {
    twin.note("start");
    if let Some(ms) = twin.number("--after") {
        thread::sleep(Duration::from_millis(ms));
    }
    let signal = match twin.first() {
        "SEGV" => libc::SIGSEGV,
        "ABRT" => libc::SIGABRT,
        "KILL" => libc::SIGKILL,
        other => other.parse().unwrap(),
    };
    // SAFETY: the default disposition and a signal to ourselves; we do not live to see more.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn tree(twin: &Twin) {
    let stubborn: &[&str] = if twin.flag("--stubborn") {
        &["--stubborn"]
    } else {
        &[]
    };
    let command = |word, kind| twin.again(&[&[word, kind], stubborn].concat());
    let g = command("child", "g").spawn().unwrap();
    let s = in_own_session(&mut command("child", "s")).spawn().unwrap();
    let d = in_own_session(&mut command("forker", "d")).status();
    assert!(d.unwrap().success());
    hold_signals();
    twin.note(&format!("child g {}", g.id()));
    twin.note(&format!("child s {}", s.id()));
    twin.note("start");
    twin.serve();
    twin.end(0)
}

/// The middle of a double fork.
fn forker(twin: &Twin) {
    let rest: Vec<&str> = twin.rest.iter().map(String::as_str).collect();
    let mut d = twin.again(&["child"]);
    d.args(&rest[1..]);
    let d = in_own_session(&mut d).spawn().unwrap();
    twin.note(&format!("child d {}", d.id()));
}

fn flood(twin: &Twin) {
    let mut block = String::new();
    while block.len() < 60_000 {
        let n = block.len();
        writeln!(block, "{n} all work and no play makes jack a dull boy").unwrap();
    }
    twin.note("flooding");
    let bytes = twin.number("--bytes").unwrap_or(u64::MAX);
    let (mut out, mut written) = (std::io::stdout(), 0);
    while written < bytes && out.write_all(block.as_bytes()).is_ok() {
        written += block.len() as u64;
    }
    twin.note(&format!("flooded {written}"));
    obey(twin)
}

fn lines(twin: &Twin) {
    let mut text = String::new();
    for n in 1..=twin.first_number() {
        writeln!(text, "line {n}").unwrap();
    }
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).ok(); // nobody may be reading
    out.flush().ok(); // as above
    obey(twin)
}

fn close_stdout(twin: &Twin) {
    for fd in 0..3 {
        // SAFETY: nothing of this program uses them after this line.
        unsafe { libc::close(fd) };
    }
    obey(twin)
}

fn exec_other(twin: &Twin) {
    twin.note("execs");
    let error = twin.again(&["obey"]).exec();
    panic!("{error}");
}

fn bind(twin: &Twin) {
    let _open = Listener::at(twin);
    obey(twin)
}

/// As many processes as it is allowed, at most so many; each in a session of its own.
fn fork_bomb(twin: &Twin) {
    let most = twin.first_number().min(500);
    let (mut made, mut failed) = (0, 0);
    for _ in 0..most {
        // SAFETY: one thread; the child only makes system calls.
        match unsafe { libc::fork() } {
            // SAFETY: as above.
            0 => unsafe {
                libc::setsid();
                loop {
                    libc::pause();
                }
            },
            -1 => {
                failed = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
                break;
            }
            _ => made += 1,
        }
    }
    twin.note(&format!("bombed {made} errno {failed}"));
    obey(twin)
}

/// So many processes that never stay: each forks the next one and ends, over and over.
///
/// Their number never grows, and they end by themselves after a few seconds: whoever has
/// escaped leaves a zombie per hop to PID 1, and must not use up the machine's pids.
fn hop(twin: &Twin) {
    let every = twin
        .number("--every-us")
        .unwrap_or(5_000)
        .clamp(50, 999_999);
    for _ in 0..twin.first_number().min(10) {
        // SAFETY: one thread; the child only makes system calls.
        if unsafe { libc::fork() } == 0 {
            hop_away(every * 1_000);
        }
    }
    obey(twin)
}

/// The most hops of one process and its successors.
const HOPS: u32 = 500;

fn hop_away(nanoseconds: u64) -> ! {
    for _ in 0..HOPS {
        // SAFETY: one thread; setsid, nanosleep, fork and _exit are plain system calls.
        unsafe {
            libc::setsid();
            let pause = libc::timespec {
                tv_sec: 0,
                tv_nsec: nanoseconds as libc::c_long,
            };
            libc::nanosleep(&pause, std::ptr::null_mut());
            if libc::fork() > 0 {
                libc::_exit(0);
            }
        }
    }
    exit(0)
}

/// Holds no signal: each has the disposition that it was started with.
fn pause(twin: &Twin) {
    twin.note("start");
    loop {
        thread::park();
    }
}

fn notify_mode(twin: &Twin) {
    hold_signals();
    twin.note("start");
    for message in &twin.rest[1..] {
        twin.notify(&message.replace("\\n", "\n"));
    }
    twin.note("notified");
    twin.serve();
    twin.end(0)
}

fn mark(twin: &Twin) {
    twin.note(&format!("mark {}", twin.first()));
    if let Some(ms) = twin.number("--after") {
        thread::sleep(Duration::from_millis(ms));
    }
    exit(twin.number("--exit").unwrap_or(0) as i32)
}

// ---- what was inherited ----

/// Signals ignored and blocked before Rust's runtime has changed anything.
static IGNORED: AtomicU64 = AtomicU64::new(0);
static BLOCKED: AtomicU64 = AtomicU64::new(0);

#[used]
#[link_section = ".init_array"]
static LOOK: extern "C" fn() = look_early;

extern "C" fn look_early() {
    // SAFETY: sigaction(2) and sigprocmask(2) only look, into plain data of ours.
    unsafe {
        let mut ignored = 0;
        for n in 1..=64 {
            let mut old: libc::sigaction = std::mem::zeroed();
            let known = libc::sigaction(n, std::ptr::null(), &mut old) == 0;
            if known && old.sa_sigaction == libc::SIG_IGN {
                ignored |= 1_u64 << (n - 1);
            }
        }
        IGNORED.store(ignored, Ordering::Relaxed);
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask);
        let blocked = (1..=64).filter(|n| libc::sigismember(&mask, *n) == 1);
        let blocked = blocked.fold(0, |set, n| set | 1_u64 << (n - 1));
        BLOCKED.store(blocked, Ordering::Relaxed);
    }
}

fn show(twin: &Twin) {
    let mut fds: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    fds.sort_unstable();
    let own = twin.record.as_ref().map_or("", |(path, _)| path);
    for fd in fds {
        // Without the directory that was being read, and without the record.
        if let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{fd}")) {
            if target.as_os_str() != own {
                twin.note(&format!("show fd {fd} {}", target.display()));
            }
        }
    }
    let ignored = IGNORED.load(Ordering::Relaxed);
    let blocked = BLOCKED.load(Ordering::Relaxed);
    twin.note(&format!("show ignored {ignored:x}"));
    twin.note(&format!("show blocked {blocked:x}"));
    let own = std::process::id() as i32;
    // SAFETY: none of these touches memory.
    let (sid, pgid, nice) = unsafe {
        (
            libc::getsid(0),
            libc::getpgrp(),
            libc::getpriority(libc::PRIO_PROCESS, 0),
        )
    };
    twin.note(&format!("show own-session {}", sid == own));
    twin.note(&format!("show own-group {}", pgid == own));
    twin.note(&format!("show nice {nice}"));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for key in ["Uid:", "Gid:", "Groups:", "Umask:"] {
        let line = status.lines().find_map(|l| l.strip_prefix(key));
        let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        twin.note(&format!("show {key} {}", words.join(" ")));
    }
    let oom = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    twin.note(&format!("show oom {}", oom.trim()));
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    for line in limits.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        twin.note(&format!("show limit {}", words.join(" ")));
    }
    let cwd = std::env::current_dir().unwrap();
    twin.note(&format!("show cwd {}", cwd.display()));
    for (name, value) in std::env::vars() {
        twin.note(&format!("show env {name}={}", value.replace('\n', " ")));
    }
    twin.note("shown");
    obey(twin)
}
