//! The real faulty servers, unmodified, stopped by superd: where a plain stop makes them
//! panic (tests/servers/baseline.py shows that), a stop by superd never does.
//!
//! The programs are built by tests/servers/build.sh. Where one is missing its tests are skipped
//! by name, or fail with SUPERD_REQUIRE_SERVERS=1.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::support::*;

const CADDY_ROUNDS: usize = 30;
const NATS_ROUNDS: usize = 50;

fn server_or_skip(name: &str, server: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers");
    let dir = std::env::var_os("SUPERD_SERVERS_DIR").map_or(own, PathBuf::from);
    let path = dir.join(server);
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var("SUPERD_REQUIRE_SERVERS").is_ok_and(|v| v == "1");
    assert!(!required, "{}: not built", path.display());
    let why = format!("{server} is not built (tests/servers/build.sh {server})");
    skip(&format!("real_servers::{name}"), &why);
    None
}

/// Chance that is the same in each run.
struct Chance(u32);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u64::from(self.0 >> 8) % n
    }
}

/// A port that was free a moment ago, for servers that insist on 127.0.0.1.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A request that caddy.json.in cannot answer before its body has come; `100 Continue` says
/// that caddy has begun to.
struct OpenRequest(TcpStream);

impl OpenRequest {
    fn begin(address: &str) -> OpenRequest {
        let mut stream = wait_for("caddy accepts", || TcpStream::connect(address).ok());
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let head =
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut line, mut end) = (String::new(), String::new());
        reader.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 100"), "{line}");
        reader.read_line(&mut end).unwrap();
        assert_eq!(end, "\r\n");
        assert!(reader.buffer().is_empty());
        OpenRequest(stream)
    }

    /// Sends the body and reads the whole answer.
    fn finish(mut self) -> String {
        self.0.write_all(b"0123456789").unwrap();
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn caddy_is_stopped_without_a_panic_whoever_else_stops_it() {
    let name = "caddy_is_stopped_without_a_panic_whoever_else_stops_it";
    let Some(caddy) = server_or_skip(name, "caddy") else {
        return;
    };
    let place = Place::new();
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/caddy.json.in");
    let config = std::fs::read_to_string(template).unwrap();
    let config = config
        .replace("127.0.0.1", &place.host)
        .replace("@HTTP@", "8080")
        .replace("@ADMIN@", "2019");
    std::fs::write(place.file("caddy.json"), config).unwrap();
    let caddy = caddy.display().to_string();
    place.configure(
        Flavour::NoCgroups,
        &format!(
            r#"
            [service.caddy]
            command = [{caddy:?}, "run", "--config", "$DIR/caddy.json"]
            environment = {{ HOME = "$DIR", XDG_DATA_HOME = "$DIR", XDG_CONFIG_HOME = "$DIR" }}
            stop = [
                {{ http = "POST http://$HOST:2019/stop", wait = "10s" }},
                {{ signal = "QUIT", wait = "2s" }},
            ]
            autostart = false
            "#
        ),
    );
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    let (address, admin) = (
        format!("{}:8080", s.place.host),
        format!("{}:2019", s.place.host),
    );
    let mut chance = Chance(7);
    let (mut panics, mut first) = (0, 0);
    for round in 0..CADDY_ROUNDS {
        s.ok(&["start", "caddy"]);
        let request = OpenRequest::begin(&address);
        let mut rival = Command::new(&caddy);
        let rival = rival
            .args(["stop", "--address", &admin])
            .env("HOME", &s.place.dir)
            .env("XDG_DATA_HOME", &s.place.dir)
            .env("XDG_CONFIG_HOME", &s.place.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Which of the two stops comes first is left to chance: this offset is the fault's.
        std::thread::sleep(Duration::from_millis(chance.below(81)));
        let stop = s
            .ctl_command(&["stop", "caddy"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The request is open for another half second.
        let pidfd = Pidfd::of(s.pid_of("caddy")).unwrap();
        assert!(
            !pidfd.wait(Duration::from_millis(500)),
            "it did not wait for its request"
        );
        let answer = request.finish();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("0123456789"), "cut: {answer}");
        let said = finish(stop);
        finish(rival); // its own status is no verdict
        assert_eq!(said.code, 0, "{said:?}");
        let end = s.last_end("caddy");
        first += usize::from(end["stopping_seen"].as_u64() > Some(1));
        if end["crash"].is_object() || end["verdict"] != "clean" {
            panics += 1;
            tell(&format!("caddy: round {round}: {end}"));
        }
        assert_eq!(end["exit"], json!({"code": 0}), "{end}");
    }
    tell(&format!(
        "caddy: with superd {panics} of {CADDY_ROUNDS} (stopped twice in {first} of them)"
    ));
    assert_eq!(panics, 0);
    let log = s.place.log();
    assert!(!log.contains("| goroutine "), "a panic in the output");
    s.end();
}

fn nats_config(nats: &Path, port: u16, stop: &str) -> String {
    let nats = nats.display().to_string();
    format!(
        r#"
        [service.nats]
        command = [{nats:?}, "{port}"]
        stop = {stop}
        autostart = false
        "#
    )
}

/// The lines of the instance that runs or ran last: those after the last "ready".
fn nats_said(s: &Superd) -> Vec<String> {
    let lines = s.ask(json!({"do": "logs", "service": "nats", "lines": 200}));
    let text = |l: &serde_json::Value| l["line"]["text"].as_str().map(str::to_owned);
    lines.iter().filter_map(text).collect()
}

#[test]
fn an_embedded_nats_server_is_stopped_without_a_panic_and_cleans_up() {
    let name = "an_embedded_nats_server_is_stopped_without_a_panic_and_cleans_up";
    let Some(nats) = server_or_skip(name, "nats") else {
        return;
    };
    let s = Superd::start(&nats_config(
        &nats,
        free_port(),
        r#"[{ signal = "USR2", until = "ports-closed", wait = "30s", settle = "200ms" },
            { signal = "TERM", wait = "15s" }]"#,
    ));
    let (mut panics, mut cleaned) = (0, 0);
    for round in 1..=NATS_ROUNDS {
        s.ok(&["start", "nats"]);
        wait_until("nats is ready", || {
            s.place.log().matches("nats | ready").count() == round
        });
        s.ctl(&["stop", "nats"]);
        let end = s.last_end("nats");
        if end["crash"].is_object() || end["verdict"] != "clean" {
            panics += 1;
            tell(&format!("nats: round {round}: {end}"));
        }
        cleaned += usize::from(
            nats_said(&s)
                .last()
                .is_some_and(|l| l == "app cleanup done"),
        );
    }
    tell(&format!(
        "nats: with superd {panics} of {NATS_ROUNDS}, clean-up done {cleaned} of {NATS_ROUNDS}"
    ));
    assert_eq!((panics, cleaned), (0, NATS_ROUNDS));
    s.end();
}

#[test]
fn every_panic_of_nats_by_a_plain_term_is_called_one() {
    let name = "every_panic_of_nats_by_a_plain_term_is_called_one";
    let Some(nats) = server_or_skip(name, "nats") else {
        return;
    };
    let s = Superd::start(&nats_config(
        &nats,
        free_port(),
        r#"[{ signal = "TERM", wait = "15s" }]"#,
    ));
    let (mut panics, mut told) = (0, 0);
    for round in 1..=NATS_ROUNDS {
        s.ok(&["start", "nats"]);
        wait_until("nats is ready", || {
            s.place.log().matches("nats | ready").count() == round
        });
        let before = s.place.log().len();
        s.ctl(&["stop", "nats"]);
        let end = s.last_end("nats");
        let called_one = end["verdict"] == "panicked-while-stopping";
        told += usize::from(called_one);
        let panicked = s.place.log()[before..].contains("nats | panic: ");
        panics += usize::from(panicked);
        assert_eq!(panicked, called_one, "{end}");
        assert_eq!(s.state("nats"), "down", "it was not started again");
    }
    tell(&format!(
        "nats: by a plain TERM {panics} of {NATS_ROUNDS} panicked, and superd says so of {told}"
    ));
    s.end();
}
