//! The twins of the five faulty servers (tests/servers/twin), with the shipped definitions, with
//! cgroups and without. They stand for the real ones where those are not built; of Air and
//! go2rtc there are only these.
//!
//! Same seed, same faults: what a round does is the same in each run of the suite.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use crate::support::*;

/// Connects as soon as somebody listens.
fn connect(address: &str) -> TcpStream {
    let stream = wait_for(&format!("{address} accepts"), || {
        TcpStream::connect(address).ok()
    });
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Sends a request and returns the connection.
fn request(address: &str, what: &str) -> TcpStream {
    let mut stream = connect(address);
    let text = format!("{what} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

/// What is answered until the other side hangs up, or dies.
fn answer(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok(); // it may die
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads up to the end of the head.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn is_free(address: &str) -> bool {
    TcpListener::bind(address).is_ok()
}

/// How it was found, for the table.
fn word(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Cgroups => "cgroups",
        Flavour::NoCgroups => "no cgroups",
    }
}

/// The reports of stops, and what went badly.
#[derive(Default)]
struct Stops {
    bad: usize,
    longest: Duration,
}

impl Stops {
    fn count(&mut self, end: &Value, good: bool) {
        self.longest = self.longest.max(duration(&end["took"]));
        if !good {
            self.bad += 1;
            tell(&format!("{end}"));
        }
    }
}

in_both_flavours! {
    fn a_twin_of_caddy_serves_its_open_request_whoever_else_stops_it(flavour: Flavour) {
        const ROUNDS: usize = 10;
        let stop = r#"[{ http = "POST http://$HOST:2019/stop", wait = "10s" }, { signal = "QUIT", wait = "2s" }]"#;
        let command = r#"[$TWIN:caddy, "doublestop", "--listen", "$HOST:2019", "--drain", "1"]"#;
        let s = Superd::start_in(flavour, &shipped("caddy", command, Some(stop)));
        let address = format!("{}:2019", s.place.host);
        let mut stops = Stops::default();
        for round in 1..=ROUNDS {
            s.ok(&["start", "caddy"]);
            let mut open = connect(&address);
            open.write_all(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n").unwrap();
            assert!(read_head(&mut open).starts_with("HTTP/1.1 100"));
            // The rival is first in one half of the rounds, and second in the other.
            if round % 2 == 0 {
                answer(request(&address, "POST /stop"));
                s.ok(&["stop", "--no-wait", "caddy"]);
            } else {
                s.ok(&["stop", "--no-wait", "caddy"]);
                answer(request(&address, "POST /stop"));
            }
            open.write_all(b"0123456789").unwrap();
            let page = answer(open);
            assert!(page.starts_with("HTTP/1.1 200") && page.ends_with("0123456789"), "{page}");
            s.ok(&["stop", "caddy"]);
            let end = s.last_end("caddy");
            stops.count(&end, end["verdict"] == "clean" && end["crash"].is_null());
        }
        let record = s.record("caddy");
        assert_eq!(record.count("signal"), 0);
        assert!(record.count("api stop") > ROUNDS, "{record:?}");
        let trigger = format!("POST /stop and superctl stop, {}", word(flavour));
        row("caddy (twin)", &trigger, "caddy --twin", stops.bad, ROUNDS, stops.longest);
        assert_eq!(stops.bad, 0);
        s.end();
    }

    fn a_twin_of_quic_go_is_back_after_each_crash_and_its_stop_is_final(flavour: Flavour) {
        const ROUNDS: usize = 10;
        let command = r#"[$TWIN:http3, "secondclient", "--listen", "$HOST:8443"]"#;
        // The stop itself brings the second client.
        let stop = r#"[{ http = "GET http://$HOST:8443/", wait = "10s" }, { signal = "TERM" }]"#;
        let text = without_key(&shipped("quic", command, Some(stop)), "crash-loop");
        let limit = format!("crash-loop = {{ burst = {ROUNDS}, within = \"1h\", retry = \"1h\" }}\n");
        let s = Superd::start_in(flavour, &(text + &limit));
        let address = format!("{}:8443", s.place.host);
        s.ok(&["start", "http3"]);
        // Half a second is asked of the real one.
        let mut back = Times::within(Duration::from_secs(1));
        for round in 1..=ROUNDS + 1 {
            s.wait_record("http3", "start", round);
            answer(request(&address, "GET /"));
            let died = Instant::now();
            answer(request(&address, "GET /"));
            wait_until("the crash is told", || {
                s.place.log().matches("http3: crashed: go-panic: close of closed channel at server.go:289").count() == round
            });
            if round <= ROUNDS {
                s.wait_record("http3", "start", round + 1);
                back.add(died.elapsed());
            }
        }
        back.assert_mostly_in_time();
        let trigger = format!("two clients: not back within 1 s, {}", word(flavour));
        row("quic-go (twin)", &trigger, "quic --twin", back.late(), ROUNDS, back.longest());
        s.wait_state("http3", "failed");
        s.assert_starts("http3", ROUNDS + 1);
        s.ok(&["stop", "http3"]);
        let mut stops = Stops::default();
        for round in ROUNDS + 2..=2 * ROUNDS + 1 {
            s.ok(&["start", "http3"]);
            s.wait_record("http3", "start", round);
            answer(request(&address, "GET /"));
            s.ctl(&["stop", "http3"]);
            let end = s.last_end("http3");
            assert_eq!(end["verdict"], "panicked-while-stopping", "{end}");
            assert_eq!(s.state("http3"), "down");
            stops.count(&end, s.record("http3").count("start") == round);
        }
        let trigger = format!("second client during a stop: started again, {}", word(flavour));
        row("quic-go (twin)", &trigger, "-", stops.bad, ROUNDS, stops.longest);
        assert_eq!(stops.bad, 0);
        s.end();
    }

    fn a_twin_of_nats_cleans_up_in_every_stop(flavour: Flavour) {
        const ROUNDS: usize = 15;
        let command = r#"[$TWIN:nats, "twohandlers", "--listen", "$HOST:4222", "--panic", "100"]"#;
        let s = Superd::start_in(flavour, &shipped("nats", command, None));
        let mut stops = Stops::default();
        for round in 1..=ROUNDS {
            s.ok(&["start", "nats"]);
            s.wait_record("nats", "start", round);
            s.ctl(&["stop", "nats"]);
            let end = s.last_end("nats");
            let cleaned = s.record("nats").count("cleanup") == round;
            stops.count(&end, end["verdict"] == "clean" && cleaned);
        }
        let trigger = format!("TERM (nats-lame-duck), {}", word(flavour));
        row("nats (twin)", &trigger, "nats --twin", stops.bad, ROUNDS, stops.longest);
        assert_eq!(stops.bad, 0);
        s.end();
    }

    fn a_twin_of_air_leaves_nothing_and_never_panics(flavour: Flavour) {
        const ROUNDS: usize = 40;
        let s = Superd::start_in(flavour, &shipped("air", AIR, None));
        let mut stops = Stops::default();
        for round in 1..=ROUNDS {
            let _browsers = air_is_up(&s, round);
            s.ctl(&["stop", "air"]);
            let end = s.last_end("air");
            // Its wrapper gets KILL, which is how this schedule goes.
            let good = end["crash"].is_null() && air_is_gone(&s);
            stops.count(&end, good);
        }
        let record = s.record("air");
        assert_eq!((record.count("panic"), record.count("hanging")), (0, 0));
        assert_eq!(record.count("ended by TERM"), ROUNDS, "the applications' own ends");
        let trigger = format!("stop with 5 subscribers (children-first), {}", word(flavour));
        row("air (twin)", &trigger, "air", stops.bad, ROUNDS, stops.longest);
        assert_eq!(stops.bad, 0);
        assert!(stops.longest <= Duration::from_secs(3), "{:?}", stops.longest);
        s.end();
    }

    fn a_twin_of_air_that_gets_int_is_told_for_what_it_did(flavour: Flavour) {
        const ROUNDS: usize = 40;
        // To panic takes a moment, too, where everything is slow.
        let stop = format!(r#"[{{ signal = "INT", wait = "{}ms" }}]"#, 200 * SLOWNESS);
        let s = Superd::start_in(flavour, &shipped("air", AIR, Some(&stop)));
        let (mut panics, mut hangs, mut left) = (0, 0, 0);
        for round in 1..=ROUNDS {
            let _browsers = air_is_up(&s, round);
            s.ctl(&["stop", "air"]);
            assert!(air_is_gone(&s));
            let end = s.last_end("air");
            match end["verdict"].as_str().unwrap() {
                "panicked-while-stopping" => panics += 1,
                "killed" => hangs += 1,
                "left-children" => left += 1,
                other => assert_eq!(other, "clean", "{end}"),
            }
        }
        let record = s.record("air");
        assert_eq!((panics, hangs), (record.count("panic"), record.count("hanging")));
        assert!(panics > 0 && hangs > 0 && left > 0, "{panics} {hangs} {left}");
        tell(&format!("air (twin): by a plain INT {panics} panics, {hangs} hangs, {left} applications left, all told"));
        s.end();
    }

    fn a_twin_of_go2rtc_leaves_no_camera_behind(flavour: Flavour) {
        const ROUNDS: usize = 10;
        let command = r#"[$TWIN:go2rtc, "leaver", "--listen", "$HOST:1984", "--camera", "$HOST:8554"]"#;
        let s = Superd::start_in(flavour, &shipped("go2rtc", command, None));
        let camera = format!("{}:8554", s.place.host);
        let (mut stops, mut restarts) = (Stops::default(), Stops::default());
        for round in 1..=ROUNDS {
            s.ok(&["start", "go2rtc"]);
            go2rtc_is_up(&s, 2 * round - 1);
            s.ok(&["restart", "go2rtc"]);
            let end = s.last_end("go2rtc");
            go2rtc_is_up(&s, 2 * round);
            restarts.count(&end, end["left"] == 1);
            s.ctl(&["stop", "go2rtc"]);
            let end = s.last_end("go2rtc");
            s.assert_nothing_left();
            stops.count(&end, end["verdict"] == "left-children" && is_free(&camera));
        }
        let record = s.record("go2rtc");
        assert_eq!(record.count("bind failed"), 0, "the old camera was still there");
        // The next instance begins after the camera before it has ended.
        let ends: Vec<u64> = record.all("ended by").map(|n| n.at).collect();
        let starts: Vec<u64> = record.all("child camera").map(|n| n.at).collect();
        assert_eq!((starts.len(), ends.len()), (2 * ROUNDS, 2 * ROUNDS));
        for n in 1..starts.len() {
            assert!(ends[n - 1] < starts[n], "two at once: {record:?}");
        }
        for (what, stops) in [("stop", stops), ("restart", restarts)] {
            let trigger = format!("{what}: child left, {}", word(flavour));
            row("go2rtc (twin)", &trigger, "go2rtc", stops.bad, ROUNDS, stops.longest);
            assert_eq!(stops.bad, 0, "{what}");
        }
        s.end();
    }
}

const AIR: &str = r#"[$TWIN:air, "--seed", "7", "wrapper", "--pty", "--listen", "$HOST:3000", "--app", "$HOST:3001",
    "--panic", "20", "--hang", "15", "--orphan", "35"]"#;

/// Starts it and connects five browsers, which stay until they are dropped.
fn air_is_up(s: &Superd, round: usize) -> Vec<TcpStream> {
    s.ok(&["start", "air"]);
    s.wait_record("air", "begun app", round);
    s.wait_record("air", "start", round);
    let proxy = format!("{}:3000", s.place.host);
    let mut browsers: Vec<TcpStream> = Vec::new();
    for _ in 0..5 {
        let mut browser = request(&proxy, "GET /internal/reload");
        assert!(read_head(&mut browser).contains("event-stream"));
        browsers.push(browser);
    }
    drop(connect(&format!("{}:3001", s.place.host)));
    browsers
}

/// Nothing is left of it, and both its ports can be had.
fn air_is_gone(s: &Superd) -> bool {
    s.assert_nothing_left();
    ["3000", "3001"]
        .iter()
        .all(|port| is_free(&format!("{}:{port}", s.place.host)))
}

/// It and its camera have begun for the so manieth time.
fn go2rtc_is_up(s: &Superd, times: usize) {
    s.wait_record("go2rtc", "begun camera", times);
    s.wait_record("go2rtc", "start", times);
}

#[test]
fn the_exit_status_of_go2rtcs_api_drives_the_restart_policy() {
    let s = Superd::start(
        r#"
        [service.go2rtc]
        command = [$TWIN:go2rtc, "leaver", "--listen", "$HOST:1984", "--camera", "$HOST:8554"]
        restart = "on-failure"
        success-exit = [3]
        restart-delay = "1ms"
        max-delay = "1ms"
        crash-loop = { burst = 5, within = "1h", retry = "1h" }
        "#,
    );
    let api = format!("{}:1984", s.place.host);
    let exit = |code: i32, round: usize| {
        go2rtc_is_up(&s, round);
        answer(request(&api, &format!("POST /api/exit?code={code}")));
        wait_until("the end is told", || s.ends("go2rtc").len() == round);
        let end = s.last_end("go2rtc");
        assert_eq!(end["exit"], json!({"code": code}), "{end}");
        assert_eq!(end["left"], 1, "{end}");
    };
    for (round, code) in [(1, 0), (2, 3)] {
        exit(code, round);
        s.wait_state("go2rtc", "down");
        s.assert_starts("go2rtc", round);
        s.ok(&["start", "go2rtc"]);
    }
    for round in 3..=8 {
        exit(2, round);
        if round < 8 {
            s.wait_record("go2rtc", "start", round + 1);
        }
    }
    s.wait_state("go2rtc", "failed");
    s.assert_starts("go2rtc", 8);
    assert_eq!(s.record("go2rtc").count("bind failed"), 0);
    s.ok(&["stop", "go2rtc"]);
    s.end();
}

#[test]
fn a_twin_of_go2rtc_is_back_after_each_viewer_that_kills_it() {
    const ROUNDS: usize = 50;
    alone(|| {
        let s = Superd::start(
            r#"
            [service.go2rtc]
            command = [$TWIN:go2rtc, "leaver", "--listen", "$HOST:1984", "--camera", "$HOST:8554", "--panic", "100"]
            restart-delay = "1ms"
            max-delay = "1ms"
            crash-loop = { burst = 1000, within = "1m", retry = "1m" }
            "#,
        );
        let api = format!("{}:1984", s.place.host);
        let mut back = Times::within(Duration::from_secs(1));
        for round in 1..=ROUNDS {
            go2rtc_is_up(&s, round);
            let mut viewers: Vec<TcpStream> =
                (0..4).map(|_| request(&api, "GET /api/ws")).collect();
            s.wait_record("go2rtc", "viewer", 4 * round);
            let left = Instant::now();
            viewers.pop();
            wait_until("the crash is told", || {
                s.place
                    .log()
                    .matches("go2rtc: crashed: go-panic: close of closed channel at track.go:1")
                    .count()
                    == round
            });
            drop(connect(&api));
            back.add(left.elapsed());
        }
        back.assert_mostly_in_time();
        assert_eq!(s.record("go2rtc").count("bind failed"), 0);
        row(
            "go2rtc (twin)",
            "a viewer leaves: not back within 1 s",
            "-",
            back.late(),
            ROUNDS,
            back.longest(),
        );
        s.end();
    });
}
