//! Drains where something is against them: superd has no descriptors left or is forbidden what it
//! needs, the service does its worst to its own sockets, or everybody wants something else at once.

use std::io::BufReader;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use serde_json::json;

use crate::drain_support::*;
use crate::support::*;

/// A superd without descriptors cannot count, and must not take that for "nobody is there".
#[test]
fn without_descriptors_nobody_is_taken_for_gone() {
    let name = "without_descriptors_nobody_is_taken_for_gone";
    for flavour in [Flavour::NoCgroups, Flavour::Cgroups] {
        if flavour == Flavour::Cgroups && !cgroups_or_skip(name) {
            continue;
        }
        let Some((s, at)) = start(name, flavour, PAGES) else {
            return;
        };
        let mut client = Client::begin(&at);
        let mut raw = s.raw();
        raw.ask(&json!({"do": "status"})); // it is accepted
        s.ok(&["stop", "--no-wait", "pages"]);
        wait_connections(&s, 1);
        let before = limit_open_files(s.pid, 3);
        // Ten looks, if it looks in vain: it would send TERM, which cuts the client.
        let until = monotonic() + 1_000_000_000;
        sleep_until(until);
        assert_eq!(s.record("pages").count("signal"), 0);
        let status = &raw.ask(&json!({"do": "status", "service": "pages"}))[0]["status"];
        assert_eq!(status["connections"], 1, "as it was told last");
        limit_open_files(s.pid, before);
        assert_eq!(client.ask("end"), "whole");
        drop(client);
        s.wait_state("pages", "down");
        assert_eq!(s.verdict("pages"), "clean");
        s.end();
    }
}

/// The same where a step waits for ports to be closed.
#[test]
fn without_descriptors_no_port_is_taken_for_closed() {
    let toml = r#"
        [service.pages]
        command = [$TWIN:pages, "pages", "--listen", "$HOST:8080"]
        stop = [
            { signal = "USR2", until = "ports-closed", wait = "10m" },
            { signal = "TERM", wait = "10m" },
        ]
    "#;
    let s = Superd::start(toml);
    s.wait_record("pages", "start", 1);
    let mut raw = s.raw();
    raw.ask(&json!({"do": "status"})); // it is accepted
    s.ok(&["stop", "--no-wait", "pages"]);
    s.wait_record("pages", "signal USR2", 1);
    let before = limit_open_files(s.pid, 3);
    let until = monotonic() + 1_000_000_000;
    sleep_until(until);
    assert_eq!(s.record("pages").count("signal TERM"), 0);
    limit_open_files(s.pid, before);
    assert_eq!(s.state("pages"), "stopping");
    s.ok(&["stop", "--now", "pages"]);
    s.end();
}

#[test]
fn without_descriptors_a_limit_stays_as_it_is_and_is_taken_back() {
    let name = "without_descriptors_a_limit_stays_as_it_is_and_is_taken_back";
    let toml = PAGES.replace(
        "stop = ",
        "max-connections = { high = 2, low = 1 }\nstop = ",
    );
    let Some((s, at)) = start(name, Flavour::NoCgroups, &toml) else {
        return;
    };
    let clients: Vec<Client> = (0..3).map(|_| Client::begin(&at)).collect();
    let says = |what: &str| s.place.log().contains(what);
    wait_until("they are held back", || {
        says("more than 2: new ones are held back")
    });
    let mut raw = s.raw();
    raw.ask(&json!({"do": "status"})); // it is accepted
    let before = limit_open_files(s.pid, 3);
    let until = monotonic() + 1_000_000_000;
    sleep_until(until);
    let said = &raw.ask(&json!({"do": "status", "service": "pages"}))[0]["status"];
    assert!(said["connections"].is_null(), "{said}");
    assert!(!says("new ones are let in again"));
    drop(clients);
    limit_open_files(s.pid, before);
    wait_let_in(&at);
    s.end();
}

/// And one that cannot look into /proc must not take its processes for dead: `down` means that
/// nobody is left.
#[test]
fn without_descriptors_no_tree_is_taken_for_dead() {
    let toml = r#"
        [service.tree]
        command = [$TWIN:tree, "tree", "--stubborn"]
        restart = "never"
        leftover-grace = "20ms"
    "#;
    let s = Superd::start(toml);
    s.wait_state("tree", "up");
    s.wait_record("tree", "start", 1);
    let main = s.pid_of("tree");
    let left = || {
        let mut all = s.place.processes();
        all.retain(|pid| ![s.pid, main].contains(pid));
        all
    };
    wait_until("its children", || left().len() == 3);
    let mut raw = s.raw();
    raw.ask(&json!({"do": "status"})); // it is accepted
    let before = limit_open_files(s.pid, 3);
    kill(main, libc::SIGKILL);
    let state = |raw: &mut Raw| {
        raw.ask(&json!({"do": "status", "service": "tree"}))[0]["status"]["state"].clone()
    };
    wait_until("it is seen", || state(&mut raw) != "up");
    let until = monotonic() + 1_000_000_000;
    sleep_until(until);
    let (seen, left) = (state(&mut raw), left());
    assert!(seen == "sweeping" || left.is_empty(), "{seen}: {left:?}");
    limit_open_files(s.pid, before);
    s.wait_state("tree", "failed");
    s.assert_nothing_left();
    s.end();
}

/// What a service can do to a socket so that it takes no filter.
#[test]
fn a_socket_that_takes_no_filter_is_told_with_the_reason() {
    let name = "a_socket_that_takes_no_filter_is_told_with_the_reason";
    let mptcp = socket2(libc::IPPROTO_MPTCP);
    for (with, why) in [
        (r#""--filter", "own""#, "it has a filter of its own"),
        (r#""--filter", "locked""#, "it has a filter of its own"),
        (
            r#""--filter", "lock""#,
            "its filter is locked (SO_LOCK_FILTER)",
        ),
        (
            r#""--mptcp""#,
            "it is a socket of MPTCP, which knows no filters; for a program in Go set GODEBUG",
        ),
    ] {
        if with.contains("mptcp") && !mptcp {
            skip(&format!("drain_hostile::{name}"), "no MPTCP here");
            continue;
        }
        let toml = PAGES.replace("\"--also\"", &format!("{with}, \"--also\""));
        let Some((s, at)) = start(name, Flavour::NoCgroups, &toml) else {
            return;
        };
        let mut client = Client::begin(&at);
        s.ok(&["stop", "pages"]);
        assert!(client.is_cut());
        let line = format!("cannot drain: tcp/8080: {why}");
        assert_eq!(s.place.log().matches(&line).count(), 1, "{line}");
        assert_eq!(s.verdict("pages"), "clean");
        s.end();
    }
}

fn socket2(protocol: i32) -> bool {
    // SAFETY: numbers only; the descriptor is closed at once.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM, protocol);
        fd >= 0 && libc::close(fd) == 0
    }
}

/// A service with more sockets than superd has descriptors: it is drained as far as that goes, the
/// log is not flooded, and superd has enough left for everything else.
#[test]
fn thousands_of_sockets_take_neither_all_descriptors_nor_the_log() {
    let name = "thousands_of_sockets_take_neither_all_descriptors_nor_the_log";
    if !can_drain(name) {
        return;
    }
    let more = (0..20).map(|n| format!(",$HOST:{}", 9000 + n));
    let listen = format!("\"$HOST:8080{}\"", more.collect::<String>());
    let shared = "\"--reuseport\", \"30\", \"--also\"";
    let toml = PAGES
        .replace("\"$HOST:8080\"", &listen)
        .replace("\"--also\"", shared)
        .replace("stop = ", "limits = { nofile = 4096 }\nstop = ")
        + "[service.other]\ncommand = [$TWIN:other, \"obey\"]\nautostart = false\n";
    let place = Place::new();
    place.configure(Flavour::NoCgroups, &toml);
    let mut command = place.command(&place.superd_args());
    let limit = || {
        let limit = libc::rlimit {
            rlim_cur: 200,
            rlim_max: 4096,
        };
        // SAFETY: a struct of ours; numbers otherwise.
        match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: it makes system calls only.
    unsafe { command.pre_exec(limit) };
    let s = Superd::launch(place, command);
    s.wait_record("pages", "start", 1);
    // It has raised its own limit; now it is one of a small system.
    limit_open_files(s.pid, 200);
    let at = format!("{}:8080", s.place.host);
    let mut client = Client::begin(&at);
    s.ok(&["stop", "--no-wait", "pages"]);
    wait_connections(&s, 1);
    assert!(is_held(&at, SHORT));
    let log = s.place.log();
    assert!(
        log.contains("superd holds back 100 of its sockets, and no more"),
        "{log}"
    );
    assert!(
        log.lines().any(|l| l.ends_with(" others be held back")),
        "{log}"
    );
    assert!(log.matches("held back").count() < 20, "{log}");
    assert!(log.lines().all(|l| l.len() < 400), "{log}");
    s.ok(&["start", "other"]);
    assert_eq!(s.state("other"), "up");
    assert_eq!(client.ask("end"), "whole");
    drop(client);
    s.wait_state("pages", "down");
    s.end();
}

const PASSED_ALONE: &str = r#"
    [service.pages]
    command = [$TWIN:pages, "pages", "--listen", "fd/3"]
    sockets = ["tcp://$HOST:8080"]
    restart-delay = "1ms"
    stop = [{ drain = "10m" }, { signal = "TERM", wait = "10m" }]
"#;

/// Sockets of superd are shared with each run; none may spoil them for the next.
#[test]
fn what_a_run_does_to_a_socket_of_superd_does_not_reach_the_next() {
    let name = "what_a_run_does_to_a_socket_of_superd_does_not_reach_the_next";
    for (how, drained) in [
        ("shutdown", false),
        ("nonblock", true),
        ("own", false),
        ("locked", false),
        ("lock", false),
    ] {
        let Some((s, at)) = start(name, Flavour::NoCgroups, PASSED_ALONE) else {
            return;
        };
        let mut client = Client::begin(&at);
        assert_eq!(client.ask(&format!("spoil {how}")), "spoilt");
        drop(client);
        for n in 2..=3 {
            s.ok(&["restart", "pages"]);
            s.wait_record("pages", "start", n);
            assert_eq!(Client::begin(&at).ask("end"), "whole", "{how}");
        }
        let ends = s.ends("pages");
        let outcome = |n: usize| ends[n]["steps"][0]["outcome"].clone();
        assert_eq!(outcome(0) == "held", drained, "{how}: {ends:?}");
        assert_eq!(outcome(1), "held", "{how}: {ends:?}");
        s.end();
    }
}

#[test]
fn a_new_socket_that_cannot_be_opened_does_not_close_the_others() {
    let name = "a_new_socket_that_cannot_be_opened_does_not_close_the_others";
    let Some((s, at)) = start(name, Flavour::NoCgroups, PASSED_ALONE) else {
        return;
    };
    let other = format!("{}:8081", s.place.host);
    let taken = std::net::TcpListener::bind(&other).unwrap();
    let two = format!("sockets = [\"tcp://{at}\", \"tcp://{other}\"]");
    let toml = PASSED_ALONE.replace("sockets = [\"tcp://$HOST:8080\"]", &two);
    s.place.configure(Flavour::NoCgroups, &toml);
    s.ok(&["reload"]);
    wait_until("it is told", || {
        s.place.log().contains("8081\": Address already in use")
    });
    let early = TcpStream::connect(&at).expect("the first one is still open");
    let mut early = Client(BufReader::new(early));
    early.say("begin");
    drop(taken);
    assert_eq!(early.line(), "begun");
    drop(early);
    s.end();
}

/// Makes system calls fail in this process and all that it starts (seccomp(2)): each with its
/// first two arguments, where they matter.
pub fn forbid(calls: &[(libc::c_long, [Option<u32>; 3])], errno: i32) -> std::io::Result<()> {
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let mut ops = Vec::with_capacity(64);
    for (call, args) in calls {
        // As many instructions as are to be jumped over if it is not this call after all.
        let known = args.iter().flatten().count() as u8;
        ops.push(op(LOAD, 0, 0, 0)); // the call's number
        ops.push(op(EQUAL, 0, 1 + 2 * known, *call as u32));
        let mut left = known;
        for (at, arg) in args.iter().enumerate() {
            if let Some(arg) = arg {
                left -= 1;
                let low = 16 + 8 * at as u32 + if cfg!(target_endian = "big") { 4 } else { 0 };
                ops.push(op(LOAD, 0, 0, low));
                ops.push(op(EQUAL, 0, 1 + 2 * left, *arg));
            }
        }
        ops.push(op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32));
    }
    ops.push(op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: ops.len() as u16,
        filter: ops.as_mut_ptr(),
    };
    // SAFETY: prctl(2) with numbers, and with a program that lives until it returns.
    let r = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program)
    };
    match r {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// setsockopt(_, SOL_SOCKET, SO_ATTACH_FILTER).
const ATTACH: (libc::c_long, [Option<u32>; 3]) = (
    libc::SYS_setsockopt,
    [
        None,
        Some(libc::SOL_SOCKET as u32),
        Some(libc::SO_ATTACH_FILTER as u32),
    ],
);
const GETFD: (libc::c_long, [Option<u32>; 3]) = (libc::SYS_pidfd_getfd, [None; 3]);
/// socket(AF_NETLINK, _, NETLINK_SOCK_DIAG).
const DIAG: (libc::c_long, [Option<u32>; 3]) = (
    libc::SYS_socket,
    [Some(libc::AF_NETLINK as u32), None, Some(4)],
);

/// Lines of doctor with single blanks.
fn doctor(s: &Superd) -> Vec<String> {
    let words = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
    s.ok(&["doctor"]).lines().map(words).collect()
}

#[test]
fn a_superd_that_is_forbidden_what_a_drain_needs_skips_it_and_says_so() {
    let name = "a_superd_that_is_forbidden_what_a_drain_needs_skips_it_and_says_so";
    if !can_drain(name) {
        return;
    }
    const GETFD_SAYS: &str = "the kernel has no pidfd_getfd (Linux 5.6), or superd may not use it";
    const FILTER_SAYS: &str = "superd may not attach a filter to a TCP socket";
    for (call, says) in [(GETFD, GETFD_SAYS), (ATTACH, FILTER_SAYS)] {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let s = hindered(PAGES, move || forbid(&[call], errno), says);
            let told = format!("no drain {says}");
            let doctor = doctor(&s);
            assert!(
                doctor.iter().any(|l| l.starts_with(&told)),
                "{errno}: {doctor:?}"
            );
            s.end();
        }
    }
}

#[test]
fn a_superd_that_may_not_ask_sock_diag_counts_by_proc() {
    let name = "a_superd_that_may_not_ask_sock_diag_counts_by_proc";
    if !can_drain(name) {
        return;
    }
    for errno in [libc::EPERM, libc::ENOSYS] {
        let place = Place::new();
        place.configure(Flavour::NoCgroups, PAGES);
        let mut command = place.command(&place.superd_args());
        // SAFETY: it makes system calls, and takes memory of a process of one thread.
        unsafe { command.pre_exec(move || forbid(&[DIAG], errno)) };
        let s = Superd::launch(place, command);
        s.wait_record("pages", "start", 1);
        let doctor = doctor(&s);
        assert!(
            doctor.iter().any(|l| l.starts_with("no sock_diag ")),
            "{doctor:?}"
        );
        assert!(
            doctor.iter().any(|l| l.starts_with("ok drain works")),
            "{doctor:?}"
        );
        let at = format!("{}:8080", s.place.host);
        let mut clients = [Client::begin(&at), Client::begin(&at)];
        s.ok(&["stop", "--no-wait", "pages"]);
        wait_connections(&s, 2);
        assert!(is_held(&at, SHORT));
        for client in &mut clients {
            assert_eq!(client.ask("end"), "whole");
        }
        drop(clients);
        s.wait_state("pages", "down");
        assert_eq!(s.verdict("pages"), "clean");
        s.end();
    }
}

/// Whatever comes of it: who runs takes connections.
#[test]
fn drains_undrains_and_stops_at_once_leave_nobody_held_back() {
    let name = "drains_undrains_and_stops_at_once_leave_nobody_held_back";
    let Some((s, at)) = start(name, Flavour::NoCgroups, PAGES) else {
        return;
    };
    for round in 0..8 {
        let client = Client::begin(&at);
        let all: [&[&str]; 6] = [
            &["drain", "--no-wait", "pages"],
            &["undrain", "pages"],
            &["stop", "--no-wait", "pages"],
            &["undrain", "pages"],
            &["drain", "--no-wait", "pages"],
            &["undrain", "pages"],
        ];
        // Each round in another order.
        let running = (0..all.len()).map(|n| {
            let mut command = s.ctl_command(all[(n * 5 + round) % all.len()]);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        });
        for child in running.collect::<Vec<_>>() {
            finish(child);
        }
        drop(client);
        s.wait_state("pages", "down");
        assert_eq!(
            s.record("pages").count("signal"),
            round + 1,
            "one TERM each"
        );
        s.ok(&["start", "pages"]);
        s.wait_record("pages", "start", round + 2);
        assert!(!is_held(&at, LIMIT));
    }
    s.end();
}

/// It cannot do anything about its sockets, and superd can.
#[test]
fn a_service_that_is_stopped_by_a_signal_is_drained_all_the_same() {
    let name = "a_service_that_is_stopped_by_a_signal_is_drained_all_the_same";
    let Some((s, at)) = start(name, Flavour::NoCgroups, PASSED_ALONE) else {
        return;
    };
    let mut client = Client::begin(&at);
    let pid = s.pid_of("pages");
    kill(pid, libc::SIGSTOP);
    wait_until("it is stopped", || state_of(pid) == Some('T'));
    s.ok(&["stop", "--no-wait", "pages"]);
    wait_connections(&s, 1);
    assert!(is_held(&at, SHORT));
    let s = s.succeed();
    wait_connections(&s, 1);
    assert!(is_held(&at, SHORT));
    kill(pid, libc::SIGCONT);
    assert_eq!(client.ask("end"), "whole");
    drop(client);
    s.wait_state("pages", "down");
    s.end();
}
