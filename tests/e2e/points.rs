//! superd is killed after each system call that it makes, by ptrace(2), and a successor is
//! started each time. The service itself records its starts and signals.
//!
//! `SUPERD_KILL_POINTS=all` takes every point (some minutes); else some, spread evenly.

use crate::support::*;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Points of each story without `SUPERD_KILL_POINTS`.
const SOME: usize = 12;

const STOP: &str = "stop = [\n\
    { signal = \"TERM\", wait = \"30ms\" },\n\
    { signal = \"INT\", wait = \"30ms\" },\n\
    { signal = \"USR2\", wait = \"3s\" },\n]\nrestart-delay = \"1ms\"\n";

fn scribe() -> String {
    crate::successors::scribe("web", "USR2") + STOP
}

/// How a traced superd ended.
#[derive(PartialEq, Eq, Debug)]
enum Ended {
    /// Killed after so many system calls.
    Killed,
    /// It had not made so many, but this many, when somebody else killed it.
    Before(usize),
}

/// Lets a stopped tracee run until it has made `calls` more system calls, and kills it.
fn kill_after(pid: i32, calls: usize) -> Ended {
    let (mut made, mut inside, mut signal) = (0, false, 0);
    loop {
        let mut status = 0;
        // SAFETY: our own tracee, which is stopped; waitpid(2) writes one int of ours.
        unsafe {
            libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, signal);
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        }
        if !libc::WIFSTOPPED(status) {
            return Ended::Before(made);
        }
        signal = match libc::WSTOPSIG(status) {
            s if s == libc::SIGTRAP | 0x80 => {
                inside = !inside;
                if !inside {
                    made += 1;
                }
                if made == calls {
                    // SAFETY: as above.
                    unsafe {
                        libc::kill(pid, libc::SIGKILL);
                        libc::waitpid(pid, &mut status, 0);
                    }
                    return Ended::Killed;
                }
                0
            }
            libc::SIGTRAP => 0,
            _ if status >> 16 != 0 => 0,
            s => s,
        };
    }
}

pub fn set_options(pid: i32) {
    // SAFETY: our own tracee, which is stopped.
    let r = unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_TRACESYSGOOD) };
    assert_eq!(r, 0);
}

/// Stops a running superd of ours for tracing by this thread.
pub fn attach(pid: i32) {
    let mut status = 0;
    // SAFETY: our own child; waitpid(2) writes one int of ours.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0), 0);
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
    }
    set_options(pid);
}

/// Kills superd, which nobody else does, when `is_over`.
fn kill_when(pid: i32, is_over: impl Fn() -> bool + Send + 'static) -> Watch {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    // Held: the number may be somebody else's when it is dead.
    let held = Pidfd::of(pid).unwrap();
    let thread = std::thread::spawn(move || {
        while !told.load(Ordering::SeqCst) && !held.wait(std::time::Duration::from_millis(5)) {
            if is_over() {
                kill(pid, libc::SIGKILL);
                break;
            }
        }
    });
    Watch { stop, thread }
}

struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// Everything that the service has recorded: at no time two, and no signal twice.
pub fn judge(record: &Record, at: &str) {
    let mut running = None;
    let mut signals: BTreeMap<(i32, &str), u32> = BTreeMap::new();
    for n in &record.0 {
        match n.what.as_str() {
            "two" => panic!("{at}: two at a time: {record:?}"),
            "start" => {
                is_in_order(running, record, at);
                running = Some(n.pid);
            }
            "end" => running = None,
            signal => {
                let count = signals.entry((n.pid, signal)).or_default();
                *count += 1;
                assert_eq!(*count, 1, "{at}: {signal} twice: {record:?}");
            }
        }
    }
    is_in_order(running, record, at);
}

/// The one before has ended, by USR2. Or it was KILLed because it never got that: superd was
/// killed after it had written down that it would send it, and before it did. A signal that
/// was perhaps sent is not sent again.
fn is_in_order(running: Option<i32>, record: &Record, at: &str) {
    let told = |pid| record.all("USR2").any(|n| n.pid == pid);
    let lost = running.is_some_and(told);
    assert!(!lost, "{at}: one did not end in order: {record:?}");
}

/// The points to be taken, one after another, until the story has no more.
fn points(name: &str, step: usize, mut story: impl FnMut(usize) -> Ended) {
    let all = std::env::var("SUPERD_KILL_POINTS").is_ok_and(|v| v == "all");
    let step = if all { 1 } else { step };
    let mut taken = 0;
    let mut at = 1;
    let made = loop {
        if !all && taken == SOME {
            break at;
        }
        match story(at) {
            Ended::Killed => taken += 1,
            Ended::Before(made) => break made,
        }
        at += step;
    };
    tell(&format!(
        "points: {name}: killed at {taken} points, up to system call {made}"
    ));
    assert!(taken > SOME / 3, "{taken}");
}

pub fn is_traceable(name: &str) -> bool {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "" | "0" | "1" => true,
        _ => {
            skip(name, "needs ptrace");
            false
        }
    }
}

fn is_up(record: &std::path::Path) -> bool {
    std::fs::read_to_string(record).is_ok_and(|t| t.contains("start\n"))
}

/// The rest of each story: a successor that brings the service up, or leaves it down, and a
/// last stop after which nothing is there.
fn conclude(place: Place, at: &str, is_to_run: bool) -> Record {
    let superd = place.resume();
    if is_to_run {
        superd.wait_state("web", "up");
        wait_until("it has begun", || {
            let last = superd.record("web").all("start").last().map(|n| n.pid);
            last == Some(superd.pid_of("web"))
        });
    } else {
        wait_until("up or down", || {
            ["up", "down"].contains(&superd.state("web").as_str())
        });
    }
    superd.ok(&["stop", "web"]);
    let place = superd.end();
    let record = place.record("web");
    judge(&record, at);
    record
}

/// Who is asked whether it is ready is asked again, and is started once all the same.
const ASKED: &str = "ready = { exec = [\"/bin/sh\", \"-c\", \"echo asked >> $DIR/asked\"], \
    interval = \"10ms\" }\nstart-timeout = \"10m\"\n";

fn during_a_start(flavour: Flavour, ready: &str, step: usize) {
    let name = if ready.is_empty() {
        "start"
    } else {
        "start until ready"
    };
    let is_asked = !ready.is_empty();
    points(&format!("{name} {flavour:?}"), step, |at| {
        let place = Place::new();
        place.configure(flavour, &(scribe() + ready));
        let mut command = place.command(&place.superd_args());
        use std::os::unix::process::CommandExt;
        // SAFETY: ptrace(2) is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                Ok(())
            });
        }
        let superd = Superd::launch_unheard(place, command);
        let mut status = 0;
        // SAFETY: our own child, which stops at its execve(2).
        unsafe { libc::waitpid(superd.pid, &mut status, 0) };
        set_options(superd.pid);
        let record = superd.place.file("web.record");
        let (socket, asked) = (superd.place.socket(), superd.place.file("asked"));
        let watch = kill_when(superd.pid, move || {
            is_up(&record) && Raw::connect(&socket).is_ok() && (!is_asked || asked.exists())
        });
        let ended = kill_after(superd.pid, at);
        watch.end();
        let record = conclude(superd.killed(), &format!("{name}, call {at}"), true);
        assert_eq!(record.count("start"), 1, "{name}, call {at}: {record:?}");
        ended
    });
}

fn during_a_stop(flavour: Flavour, step: usize) {
    points(&format!("stop {flavour:?}"), step, |at| {
        let superd = Superd::start_in(flavour, &scribe());
        superd.wait_record("web", "start", 1);
        superd.wait_state("web", "up");
        attach(superd.pid);
        let mut ctl = superd.ctl_command(&["stop", "web"]);
        let mut asking = ctl.stderr(std::process::Stdio::null()).spawn().unwrap();
        let record = superd.place.file("web.record");
        let watch = kill_when(superd.pid, move || {
            std::fs::read_to_string(&record).is_ok_and(|t| t.contains("end\n"))
        });
        let ended = kill_after(superd.pid, at);
        watch.end();
        asking.kill().ok(); // it may have ended
        asking.wait().unwrap();
        conclude(superd.killed(), &format!("stop, call {at}"), false);
        ended
    });
}

fn during_a_reload(flavour: Flavour, step: usize) {
    points(&format!("reload {flavour:?}"), step, |at| {
        let superd = Superd::start_in(flavour, &scribe());
        superd.wait_record("web", "start", 1);
        superd.wait_state("web", "up");
        attach(superd.pid);
        let changed = scribe() + "environment = { A = \"b\" }\n";
        superd.place.configure(flavour, &changed);
        superd.signal(libc::SIGHUP);
        let record = superd.place.file("web.record");
        let watch = kill_when(superd.pid, move || {
            let text = std::fs::read_to_string(&record).unwrap_or_default();
            text.matches("start\n").count() == 2
        });
        let ended = kill_after(superd.pid, at);
        watch.end();
        conclude(superd.killed(), &format!("reload, call {at}"), true);
        ended
    });
}

/// At rest the service is not touched at all, in the midst of a stop that goes on.
fn during_an_upgrade(flavour: Flavour, in_a_stop: bool, step: usize) {
    let name = if in_a_stop {
        "upgrade in a stop"
    } else {
        "upgrade"
    };
    points(&format!("{name} {flavour:?}"), step, |at| {
        let superd = Superd::start_in(flavour, &scribe());
        superd.wait_record("web", "start", 1);
        superd.wait_state("web", "up");
        if in_a_stop {
            superd.ok(&["stop", "--no-wait", "web"]);
        }
        attach(superd.pid);
        superd.signal(libc::SIGUSR2);
        let (log, record) = (
            superd.place.file("superd.log"),
            superd.place.file("web.record"),
        );
        let has = |file: &std::path::Path, what: &str| {
            std::fs::read_to_string(file).is_ok_and(|t| t.contains(what))
        };
        let watch = kill_when(superd.pid, move || {
            has(&log, "superd: upgraded from") && (!in_a_stop || has(&record, "end\n"))
        });
        let ended = kill_after(superd.pid, at);
        watch.end();
        let record = conclude(superd.killed(), &format!("{name}, call {at}"), !in_a_stop);
        assert_eq!(record.count("start"), 1, "{name}, call {at}: {record:?}");
        ended
    });
}

const DRAINED: &str = r#"
    [service.pages]
    command = [$TWIN:pages, "pages", "--listen", "$HOST:8080"]
    max-connections = { high = 2, low = 1 }
    stop = [{ drain = "10m" }, { signal = "TERM", wait = "10m" }]
"#;

fn says(stream: &mut BufReader<TcpStream>, line: &str, answer: &str) -> bool {
    let sent = stream.get_mut().write_all(format!("{line}\n").as_bytes());
    let mut got = String::new();
    sent.is_ok() && stream.read_line(&mut got).is_ok() && got.trim_end() == answer
}

fn client(at: &str) -> BufReader<TcpStream> {
    let stream = wait_for("it takes connections", || TcpStream::connect(at).ok());
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut stream = BufReader::new(stream);
    assert!(says(&mut stream, "begin", "begun"), "{at}");
    stream
}

/// What a superd is killed in the midst of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holding {
    /// A stop whose first step is a drain.
    Stop,
    /// `superctl drain`.
    Drain,
    /// `superctl undrain`.
    Undrain,
    /// There are more connections than there may be.
    Limit,
}

/// A request that is open is never cut by it, and when all is done nothing is held back.
fn during_a_drain(holding: Holding, step: usize) {
    points(&format!("{holding:?} with a filter"), step, |at| {
        let name = format!("{holding:?}, call {at}");
        let superd = Superd::start_in(Flavour::NoCgroups, DRAINED);
        superd.wait_record("pages", "start", 1);
        superd.wait_state("pages", "up");
        let address = format!("{}:8080", superd.place.host);
        let mut open = client(&address);
        if holding == Holding::Undrain {
            superd.ok(&["drain", "--no-wait", "pages"]);
        }
        attach(superd.pid);
        let verb = match holding {
            Holding::Stop => Some("stop"),
            Holding::Drain => Some("drain"),
            Holding::Undrain => Some("undrain"),
            Holding::Limit => None,
        };
        let mut asking = verb.map(|verb| {
            let mut ctl = superd.ctl_command(&[verb, "pages"]);
            ctl.stderr(std::process::Stdio::null()).spawn().unwrap()
        });
        // In the accept queue they count.
        let more = if holding == Holding::Limit { 3 } else { 0 };
        let more: Vec<TcpStream> = (0..more)
            .map(|_| TcpStream::connect(&address).unwrap())
            .collect();
        let log = superd.place.file("superd.log");
        let sign = match holding {
            Holding::Stop | Holding::Drain => "are held back",
            Holding::Undrain => "let in again",
            Holding::Limit => "more than 2: new ones are held back",
        };
        let watch = kill_when(superd.pid, move || {
            std::fs::read_to_string(&log).is_ok_and(|t| t.contains(sign))
        });
        let ended = kill_after(superd.pid, at);
        watch.end();
        if let Some(asking) = &mut asking {
            asking.kill().ok(); // it may have ended
            asking.wait().unwrap();
        }
        let superd = superd.killed().resume();
        // While it is open nobody has told the server to stop.
        assert!(says(&mut open, "end", "whole"), "{name}: cut");
        assert_eq!(superd.record("pages").count("signal"), 0, "{name}");
        drop((open, more));
        if holding == Holding::Stop {
            superd.ok(&["stop", "pages"]);
            superd.ok(&["start", "pages"]);
        } else {
            superd.ok(&["undrain", "pages"]);
        }
        assert!(says(&mut client(&address), "end", "whole"), "{name}: held");
        superd.ok(&["stop", "pages"]);
        let record = superd.record("pages");
        let runs = 1 + usize::from(holding == Holding::Stop);
        assert_eq!(record.count("start"), runs, "{name}: {record:?}");
        assert_eq!(record.count("bind failed"), 0, "{name}: two: {record:?}");
        assert_eq!(record.count("signal TERM"), runs, "{name}: {record:?}");
        superd.end();
        ended
    });
}

fn drains(name: &str, holding: Holding, step: usize) {
    if is_traceable(name) && crate::drain_support::can_drain(name) {
        during_a_drain(holding, step);
    }
}

#[test]
fn killed_after_a_system_call_of_a_stop_that_drains() {
    let name = "killed_after_a_system_call_of_a_stop_that_drains";
    drains(name, Holding::Stop, 9);
}

#[test]
fn killed_after_a_system_call_of_a_drain() {
    drains("killed_after_a_system_call_of_a_drain", Holding::Drain, 9);
}

#[test]
fn killed_after_a_system_call_of_an_undrain() {
    let name = "killed_after_a_system_call_of_an_undrain";
    drains(name, Holding::Undrain, 9);
}

#[test]
fn killed_after_a_system_call_of_a_limit_that_is_reached() {
    let name = "killed_after_a_system_call_of_a_limit_that_is_reached";
    drains(name, Holding::Limit, 9);
}

in_both_flavours! {
    fn killed_after_a_system_call_of_an_upgrade(flavour: Flavour) {
        if is_traceable("killed_after_a_system_call_of_an_upgrade") {
            during_an_upgrade(flavour, false, 31);
        }
    }

    fn killed_after_a_system_call_of_an_upgrade_in_a_stop(flavour: Flavour) {
        if is_traceable("killed_after_a_system_call_of_an_upgrade_in_a_stop") {
            during_an_upgrade(flavour, true, 37);
        }
    }

    fn killed_after_a_system_call_of_a_start(flavour: Flavour) {
        if is_traceable("killed_after_a_system_call_of_a_start") {
            during_a_start(flavour, "", 37);
        }
    }

    fn killed_after_a_system_call_of_a_start_until_it_is_ready(flavour: Flavour) {
        if is_traceable("killed_after_a_system_call_of_a_start_until_it_is_ready") {
            during_a_start(flavour, ASKED, 41);
        }
    }

    fn killed_after_a_system_call_of_a_stop(flavour: Flavour) {
        if is_traceable("killed_after_a_system_call_of_a_stop") {
            during_a_stop(flavour, 9);
        }
    }

    fn killed_after_a_system_call_of_a_reload(flavour: Flavour) {
        if is_traceable("killed_after_a_system_call_of_a_reload") {
            during_a_reload(flavour, 23);
        }
    }
}
