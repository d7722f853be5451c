//! A server with quic-go 0.48.0: each second client kills it.

use std::process::Command;
use std::time::Instant;

use super::*;

const ROUNDS: usize = 20;

/// "port answering again <= 0.5 s".
const BACK: Duration = Duration::from_millis(500);

/// One client comes, gets its page, and goes.
fn client(quic: &Path, port: u16) -> bool {
    let url = format!("https://127.0.0.1:{port}/");
    run(Command::new(quic).args(["get", &url])).code == 0
}

/// Whether somebody is bound to the UDP port.
fn is_bound(port: u16) -> bool {
    let own = format!(":{port:04X} ");
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    table.lines().any(|l| l.contains(&format!("0100007F{own}")))
}

/// The two clients that kill it. When it was dead, by a pidfd.
fn two_clients(s: &Superd, quic: &Path, port: u16, gone: usize) -> Instant {
    let process = Pidfd::of(s.pid_of("http3")).unwrap();
    assert!(client(quic, port), "the first client is served");
    // Else the second may come before the first has left.
    wait_until("the server has seen the client leave", || {
        s.place.log().matches("http3 | client gone").count() > gone
    });
    client(quic, port); // whether it gets its page or dies with the server is luck
    assert!(process.wait(LIMIT), "two clients are what kills it");
    Instant::now()
}

#[test]
fn every_crash_is_told_and_it_is_back_within_half_a_second() {
    let name = "every_crash_is_told_and_it_is_back_within_half_a_second";
    let Some(quic) = server_or_skip(name, "quic") else {
        return;
    };
    alone(|| {
        let port = free_port();
        let command = format!("[{quic:?}, \"serve\", \"{port}\"]");
        let text = shipped("quic", &command, None);
        // Its pauses are those of the shipped definition; only the limit is set to be reached.
        let limit = format!("crash-loop = {{ burst = {ROUNDS}, within = \"1h\", retry = \"1h\" }}");
        let text = without_key(&text, "crash-loop") + &limit;
        let s = Superd::start(&text);
        s.know_faults();
        s.ok(&["start", "http3"]);
        let mut back = Times::within(BACK);
        for round in 1..=ROUNDS + 1 {
            wait_until("the port is bound", || is_bound(port));
            s.wait_state("http3", "up");
            let gone = s.place.log().matches("http3 | client gone").count();
            let died = two_clients(&s, &quic, port, gone);
            wait_until("the crash is told", || {
                s.place.log().matches("superd: http3: crashed").count() == round
            });
            let end = s.last_end("http3");
            assert_eq!(end["verdict"], "crashed", "{end}");
            assert_eq!(end["exit"], json!({"code": 2}), "{end}");
            let crash = json!({"kind": "go-panic", "text": "close of closed channel",
                "frame": "server.go:289", "frames": end["crash"]["frames"]});
            assert_eq!(end["crash"], crash);
            let top = &end["crash"]["frames"][0];
            assert_eq!(top, "http3.(*Server).decreaseConnCount at server.go:289");
            assert_eq!(end["repeat"]["count"], round, "{end}");
            if round > ROUNDS {
                break;
            }
            wait_until("the port is bound", || is_bound(port));
            back.add(died.elapsed());
            assert_eq!(s.status("http3")["restarts"], round, "restarts");
        }
        told_of_it(&s);
        s.wait_state("http3", "failed");
        let retry = s.status("http3")["retry_ms"].as_u64().unwrap();
        assert!(retry > 3_000_000, "the limit does not hold: {retry}");
        assert!(!is_bound(port));
        row(
            "quic-go 0.48.0",
            "two clients, no signal: not back within 0.5 s",
            "quic",
            back.late(),
            ROUNDS,
            back.longest(),
        );
        back.assert_mostly_in_time();
        s.ok(&["stop", "http3"]);
        s.end();
    });
}

/// The same words wherever somebody may look.
fn told_of_it(s: &Superd) {
    let why = s.ok(&["why", "http3"]);
    for word in [
        "go-panic: close of closed channel",
        "server.go:289",
        " time since ",
        "known fault quic-go (HTTP/3 servers in Go) 0.48.0: ",
    ] {
        assert!(why.contains(word), "{why}");
    }
    let status = s.ctl(&["status", "http3"]).out;
    assert!(status.contains("crashed (status 2)"), "{status}");
    let events = s.ok(&["events", "--json", "http3"]);
    let crashes = events.matches("\"kind\":\"go-panic\"").count();
    assert!(crashes >= 2, "{events}");
}

#[test]
fn a_crash_during_a_requested_stop_is_never_followed_by_a_start() {
    let name = "a_crash_during_a_requested_stop_is_never_followed_by_a_start";
    let Some(quic) = server_or_skip(name, "quic") else {
        return;
    };
    let port = free_port();
    // The stop itself brings the second client: the crash comes during it, every time.
    let text = shipped(
        "quic",
        &format!("[{quic:?}, \"serve\", \"{port}\"]"),
        Some(&format!(
            r#"[{{ run = [{quic:?}, "get", "https://127.0.0.1:{port}/"], wait = "20s" }}, {{ signal = "TERM" }}]"#
        )),
    );
    let s = Superd::start(&text);
    let mut longest = Duration::ZERO;
    for round in 1..=ROUNDS {
        s.ok(&["start", "http3"]);
        wait_until("the port is bound", || is_bound(port));
        let gone = || s.place.log().matches("http3 | client gone").count();
        let before = gone(); // who kills it is not always seen to leave
        assert!(client(&quic, port));
        wait_until("the server has seen the client leave", || gone() > before);
        s.ctl(&["stop", "http3"]);
        let end = s.last_end("http3");
        assert_eq!(end["verdict"], "panicked-while-stopping", "{end}");
        assert_eq!(end["steps"].as_array().unwrap().len(), 1, "{end}");
        assert_eq!(s.state("http3"), "down");
        longest = longest.max(duration(&end["took"]));
        let starts = s.place.log().matches("http3: starting (run ").count();
        assert_eq!(starts, round, "started again");
    }
    row(
        "quic-go 0.48.0",
        "the second client during a stop: started again",
        "-",
        0,
        ROUNDS,
        longest,
    );
    s.end();
}

/// In one round: a client that leaves, which is what breaks the server's own wait, then a
/// request that takes 0.7 s and a stop in its middle. Whether the request is answered whole.
fn drained_round(s: &Superd, quic: &Path, n: usize, port: u16) -> bool {
    let service = format!("http3-{n}");
    let said = |what: &str| {
        let line = format!("{service} | {what}");
        s.place.log().lines().any(|l| l.contains(&line))
    };
    wait_until("the port is bound", || is_bound(port));
    assert!(client(quic, port));
    wait_until("the server has seen the client leave", || {
        said("client gone")
    });
    let url = format!("https://127.0.0.1:{port}/slow");
    let slow = Command::new(quic)
        .args(["get", &url])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the request is served", || said("slow request begun"));
    s.ctl(&["stop", &service]);
    let said = finish(slow);
    let whole = said.code == 0 && said.out == "hello, late\n";
    if !whole {
        tell(&format!("{service}: {said:?}"));
    }
    whole
}

#[test]
fn with_a_drain_no_request_is_cut() {
    let name = "with_a_drain_no_request_is_cut";
    let Some(quic) = server_or_skip(name, "quic") else {
        return;
    };
    let ports: Vec<u16> = (0..ROUNDS).map(|_| free_port()).collect();
    let one = |(n, port): (usize, &u16)| {
        format!(
            "[service.http3-{n}]\ncommand = [{quic:?}, \"serve\", \"{port}\"]\nrestart = \"never\"\n\
             stop = [{{ drain = \"1m\" }}, {{ signal = \"TERM\", wait = \"15s\" }}]\n"
        )
    };
    let toml: String = ports.iter().enumerate().map(one).collect();
    let s = Superd::start(&toml);
    // All at once: a drain of a UDP socket takes some seconds.
    let whole = std::thread::scope(|scope| {
        let (s, quic) = (&s, &quic);
        let round = |(n, port): (usize, &u16)| {
            let port = *port;
            scope.spawn(move || drained_round(s, quic, n, port))
        };
        let rounds: Vec<_> = ports.iter().enumerate().map(round).collect();
        rounds
            .into_iter()
            .map(|r| r.join().unwrap())
            .collect::<Vec<bool>>()
    });
    let cut = whole.iter().filter(|whole| !**whole).count();
    let took = |n: usize| duration(&s.last_end(&format!("http3-{n}"))["took"]);
    let longest = (0..ROUNDS).map(took).max().unwrap();
    row(
        "quic-go 0.48.0",
        "a request in flight: drain, TERM: request cut",
        "quic-cut",
        cut,
        ROUNDS,
        longest,
    );
    assert_eq!(cut, 0);
    s.end();
}

/// What a round of [`a_restart_with_a_drain_cuts_nobody_and_who_is_new_comes_late`] has seen.
struct Restarted {
    /// The request that was open is answered whole.
    is_whole: bool,
    /// One that gives up after two seconds has done so.
    gave_up: bool,
    /// How long a patient one has waited; none: it was not served.
    waited: Option<Duration>,
    /// The stop.
    took: Duration,
}

/// A request is open, superd is to restart the server, and two clients come: one that tries for
/// two seconds and one that tries for thirty.
fn restarted_round(s: &Superd, quic: &Path, n: usize, port: u16) -> Restarted {
    let service = format!("http3-{n}");
    let said = |what: &str| {
        let line = format!("{service}{what}");
        s.place.log().lines().any(|l| l.contains(&line))
    };
    let begin = |how: &str, path: &str| {
        let url = format!("https://127.0.0.1:{port}/{path}");
        Command::new(quic)
            .args([how, &url])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    wait_until("the port is bound", || is_bound(port));
    let slow = begin("get", "slow");
    wait_until("the request is served", || said(" | slow request begun"));
    s.ok(&["restart", "--no-wait", &service]);
    wait_until("it drains", || said(": new connections to udp/"));
    let (hasty, patient) = (begin("get", ""), begin("wait", ""));
    let came = Instant::now();
    let slow = finish(slow);
    let hasty = finish(hasty);
    let patient = finish(patient);
    let waited = came.elapsed();
    wait_until("the next one runs", || said(": starting (run 2)"));
    if patient.code != 0 || slow.code != 0 {
        tell(&format!("{service}: {slow:?} {patient:?}"));
    }
    let end = s.last_end(&service);
    assert_eq!(end["verdict"], "clean", "{end}");
    Restarted {
        is_whole: slow.code == 0 && slow.out == "hello, late\n",
        gave_up: hasty.code == 1 && hasty.err.contains("timeout"),
        waited: (patient.code == 0 && patient.out == "hello from quic\n").then_some(waited),
        took: duration(&end["took"]),
    }
}

/// On UDP a drain takes the five seconds after the last packet, so a client must be patient.
#[test]
fn a_restart_with_a_drain_cuts_nobody_and_who_is_new_comes_late() {
    let name = "a_restart_with_a_drain_cuts_nobody_and_who_is_new_comes_late";
    let Some(quic) = server_or_skip(name, "quic") else {
        return;
    };
    if !crate::drain_support::can_drain(name) {
        return;
    }
    let ports: Vec<u16> = (0..ROUNDS).map(|_| free_port()).collect();
    let one = |(n, port): (usize, &u16)| {
        format!(
            "[service.http3-{n}]\ncommand = [{quic:?}, \"serve\", \"{port}\"]\n\
             stop = [{{ drain = \"1m\" }}, {{ signal = \"TERM\", wait = \"15s\" }}]\n"
        )
    };
    let toml: String = ports.iter().enumerate().map(one).collect();
    let s = Superd::start(&toml);
    let rounds = std::thread::scope(|scope| {
        let (s, quic) = (&s, &quic);
        let rounds: Vec<_> = ports
            .iter()
            .enumerate()
            .map(|(n, port)| scope.spawn(move || restarted_round(s, quic, n, *port)))
            .collect();
        rounds
            .into_iter()
            .map(|r| r.join().unwrap())
            .collect::<Vec<_>>()
    });
    let count = |is_it: fn(&Restarted) -> bool| rounds.iter().filter(|r| is_it(r)).count();
    let mut waits: Vec<Duration> = rounds.iter().filter_map(|r| r.waited).collect();
    waits.sort();
    let longest = rounds.iter().map(|r| r.took).max().unwrap();
    tell(&format!(
        "http3: {ROUNDS} restarts with a drain: {} open requests whole, stops of at most {longest:?}; \
         patient clients served {}, after {:?} (median) to {:?}; of those that try for 2 s {} gave up",
        count(|r| r.is_whole),
        waits.len(),
        waits.get(waits.len() / 2).copied().unwrap_or_default(),
        waits.last().copied().unwrap_or_default(),
        count(|r| r.gave_up),
    ));
    let bad = count(|r| !r.is_whole || r.waited.is_none());
    let trigger = "a request in flight: restart with a drain: request cut or new client lost";
    row("quic-go 0.48.0", trigger, "-", bad, ROUNDS, longest);
    assert_eq!(bad, 0);
    assert_eq!(
        count(|r| r.gave_up),
        ROUNDS,
        "nobody is let in during a drain"
    );
    s.end();
}
