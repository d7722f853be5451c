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
//! The twins are in a file each; the rest is one file past 400 lines because its modes are
//! a table.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]
// Children that nobody waits for are what much of this is about.
#![allow(clippy::zombie_processes)]

#[path = "twin/air.rs"]
mod air;
#[path = "twin/caddy.rs"]
mod caddy;
#[path = "twin/go2rtc.rs"]
mod go2rtc;
#[path = "twin/nats.rs"]
mod nats;
#[path = "twin/pages.rs"]
mod pages;
#[path = "twin/quic.rs"]
mod quic;
#[path = "twin/web.rs"]
mod web;

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::{exit, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const USAGE: &str = "twin [--record FILE] [--seed N] MODE [ARGS]
twins:
  doublestop --listen WHERE --drain MS [--panic P]   panics by a second stop while it drains
  secondclient --listen WHERE                        panics when the second client leaves
  twohandlers --listen WHERE --panic P               TERM/INT panic, unless USR2 came before
  wrapper [--listen WHERE] [--app WHERE] [--panic P] [--hang P] [--orphan P] [--pty]
                                                     its application has its own session
  leaver [--listen WHERE] [--camera WHERE] [--panic P] [--at-once] [--stubborn]
                                                     status 0 at once, leaves a child
victims:
  obey [--ready]       ends with 0 on TERM         ignore            nothing but KILL ends it
  slow-stop MS [--gate FILE] [--say TEXT] [--tell FILE]
                       ends MS after TERM, and when FILE is there; STOPPING=1 when the other is
  exit CODE [--after MS] [--text T] [--first N]    crash SIGNAL [--after MS]
  tree [--stubborn]    children in its group, in a session of theirs, double-forked
  flood [--bytes N]    lines N     chat BYTES-PER-SECOND     close-stdout    exec-other   bind --listen WHERE   echo --listen WHERE
  fork-bomb N          hop N [--every-us US]   show    pause
  pages --listen WHERE[,WHERE] [--also WHERE] [--udp WHERE] [--mptcp] [--filter own|locked|lock]
                       cuts what is open when it gets TERM
  godump [--stay] [--listen WHERE]   TERM does nothing, QUIT prints goroutines as Go does
  eat MIB --gate FILE  waits for the file, then uses so much memory
  handover [--stay] [--on-term] [--session] [--then MESSAGE] [--slow MS]
                       names a child by MAINPID= and ends, or stays
  web [--listen WHERE] [--gate FILE] [--fd N] [--touch FILE] [--say MESSAGE] [--status FILE]
      [--ping-until FILE]   ready when the file is there, in every way; answers as FILE says
  notify MESSAGE...    mark TEXT [--exit CODE] [--after MS]
WHERE: 127.0.0.1:80 or unix:/path";

fn main() {
    let twin: &'static Twin = Box::leak(Box::new(Twin::new(std::env::args().skip(1).collect())));
    match twin.rest.first().map_or("", String::as_str) {
        "doublestop" => caddy::doublestop(twin),
        "secondclient" => quic::secondclient(twin),
        "twohandlers" => nats::twohandlers(twin),
        "wrapper" => air::wrapper(twin),
        "leaver" => go2rtc::leaver(twin),
        "web" => web::web(twin),
        "pages" => pages::pages(twin),
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
        "chat" => chat(twin),
        "close-stdout" => close_stdout(twin),
        "exec-other" => exec_other(twin),
        "bind" => bind(twin),
        "echo" => echo(twin),
        "fork-bomb" => fork_bomb(twin),
        "hop" => hop(twin),
        "show" => show(twin),
        "pause" => pause(twin),
        "handover" => handover(twin),
        "handed" => handed(twin),
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
    fn go_panic(&self, text: &str, stack: &str) -> ! {
        self.note(&format!("panic {}", text.replace('\n', " ")));
        let dump = format!("panic: {text}\n\n{stack}");
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

/// The head of a request.
struct Head {
    /// The first line; empty when the client went.
    line: String,
    /// Of the body, which is not read.
    length: usize,
}

impl Head {
    fn read(stream: &mut dyn Stream) -> Head {
        // A byte at a time, because what follows is the body.
        let mut reader = BufReader::with_capacity(1, stream);
        let mut head = Head {
            line: String::new(),
            length: 0,
        };
        reader.read_line(&mut head.line).ok(); // a client that goes away has asked for nothing
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap_or(0) > 0 && !line.trim().is_empty() {
            if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                head.length = length.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        head
    }
}

fn answer(stream: &mut dyn Stream, status: &str, body: &str) {
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).ok(); // the client may be gone
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

/// A child: it does not mind a hang-up, and with --stubborn nothing but KILL. With --listen it
/// has a port, which the next one cannot have before.
fn child(twin: &Twin) {
    hold_signals();
    let _open = twin.flag("--listen").then(|| Listener::at(twin));
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
    let mut told = twin.text("--tell");
    while monotonic() < until || is_shut() {
        if told
            .take_if(|file| std::path::Path::new(file).exists())
            .is_some()
        {
            twin.notify("STOPPING=1");
        }
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

/// Numbered lines of about a hundred bytes, so many bytes in a second, in writes that end
/// anywhere. On TERM it finishes its line and notes how many there were.
fn chat(twin: &Twin) {
    hold_signals();
    twin.note("start");
    let (mut text, mut lines, mut owed) = (Vec::new(), 0_u64, 0);
    let mut out = std::io::stdout();
    while twin.heed(Some(Duration::from_millis(10))) != Some(libc::SIGTERM) {
        owed += twin.first_number() / 100;
        while (text.len() as u64) < owed {
            lines += 1;
            let pad = "x".repeat((lines % 160) as usize);
            writeln!(text, "chat {lines} {pad}").unwrap();
        }
        let some = usize::try_from(owed).unwrap();
        out.write_all(text.get(..some).unwrap()).ok(); // nobody may be reading
        out.flush().ok(); // as above
        text.drain(..some);
        owed = 0;
    }
    out.write_all(&text).ok(); // as above
    out.flush().ok(); // as above
    twin.note(&format!("lines {lines}"));
    twin.end(0)
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

/// Answers each byte with the same byte, on any number of connections.
fn echo(twin: &'static Twin) {
    hold_signals();
    let listener = Listener::at(twin);
    thread::spawn(move || loop {
        let mut stream = listener.accept();
        thread::spawn(move || {
            let mut byte = [0];
            while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
        });
    });
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

/// Makes another process the main one, as servers do that put themselves into the background
/// or replace themselves. The child ends with status 3 on TERM.
fn handover(twin: &'static Twin) {
    hold_signals();
    twin.note("start");
    if twin.flag("--on-term") {
        twin.serve();
    }
    let mut command = twin.again(&["handed"]);
    if let Some(ms) = twin.text("--slow") {
        command.args(["--slow", &ms]);
    }
    if twin.flag("--session") {
        // SAFETY: setsid(2) is async-signal-safe.
        unsafe { command.pre_exec(new_session) };
    }
    let mut child = command.spawn().unwrap();
    twin.notify(&format!("MAINPID={}", child.id()));
    if let Some(message) = twin.text("--then") {
        twin.notify(&message.replace("$SELF", &std::process::id().to_string()));
    }
    twin.note(&format!("handed over to {}", child.id()));
    println!("handed over");
    if !twin.flag("--stay") {
        twin.end(0);
    }
    thread::spawn(move || {
        child.wait().ok(); // it is ours
        twin.note("child reaped");
    });
    twin.serve();
    twin.end(0)
}

fn new_session() -> std::io::Result<()> {
    // SAFETY: setsid(2) takes nothing.
    match unsafe { libc::setsid() } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn handed(twin: &Twin) {
    hold_signals();
    twin.note("heir");
    twin.serve();
    if let Some(ms) = twin.number("--slow") {
        thread::sleep(Duration::from_millis(ms));
    }
    twin.end(3)
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
