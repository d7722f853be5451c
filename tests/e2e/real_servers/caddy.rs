//! Caddy 2.8.4 with a request open, while others stop it too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::*;

/// Fewer where each takes its time: a Caddy needs seconds to start on an emulated machine.
const ROUNDS: usize = if SLOWNESS > 1 { 10 } else { 30 };

/// How long the request stays open after the stop, and what a stop may take beyond that.
const OPEN: Duration = Duration::from_millis(500 * SLOWNESS);
const BEYOND: Duration = Duration::from_secs(8 * SLOWNESS);

/// Chance that is the same in each run.
struct Chance(u32);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u64::from(self.0 >> 8) % n
    }
}

/// A request that caddy.json.in cannot answer before its body has come; `100 Continue` says
/// that caddy has begun to.
struct OpenRequest(TcpStream);

impl OpenRequest {
    fn begin(address: &str) -> OpenRequest {
        let mut stream = wait_for("caddy accepts", || TcpStream::connect(address).ok());
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\
             Expect: 100-continue\r\nConnection: close\r\n\r\n";
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
    fn finish(mut self) {
        self.0.write_all(b"0123456789").unwrap();
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("0123456789"), "cut: {answer}");
    }
}

/// The schedule is caddy-api (a unit test holds it to that), at an address of the test's own.
const API: &str = r#"[
    { http = "POST http://$HOST:2019/stop", wait = "10s" },
    { signal = "QUIT", wait = "2s" },
]"#;

/// What a drain makes of a plain TERM.
pub(super) const DRAIN: &str = r#"[
    { drain = "30s", ports = [8080] },
    { signal = "TERM", wait = "10s" },
]"#;

/// A place with a Caddy that is not started yet.
pub(super) fn place(caddy: &Path, autostart: bool, stop: &str) -> Place {
    let place = Place::new();
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/caddy.json.in");
    let config = std::fs::read_to_string(template).unwrap();
    let config = config
        .replace("127.0.0.1", &place.host)
        .replace("@HTTP@", "8080")
        .replace("@ADMIN@", "2019");
    std::fs::write(place.file("caddy.json"), config).unwrap();
    place.configure(
        Flavour::NoCgroups,
        &format!(
            r#"
            [service.caddy]
            command = [{caddy:?}, "run", "--config", "$DIR/caddy.json"]
            environment = {{ HOME = "$DIR", XDG_DATA_HOME = "$DIR", XDG_CONFIG_HOME = "$DIR" }}
            stop = {stop}
            autostart = {autostart}
            "#
        ),
    );
    place
}

fn superctl_stop(s: &Superd) -> Child {
    let mut command = s.ctl_command(&["stop", "caddy"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// How often somebody said that it ends, at most; whether the end was as it should be.
fn is_good(end: &Value, stopping: u64) -> bool {
    let good = end["crash"].is_null()
        && end["verdict"] == "clean"
        && end["exit"] == json!({"code": 0})
        && (1..=stopping).contains(&end["stopping_seen"].as_u64().unwrap());
    if !good {
        tell(&format!("caddy: {end}"));
    }
    good
}

/// Stops in which `rival` also stops it, or several of us do, while a request is open.
///
/// `rival` gets superd and an offset of 0 to 80 ms, and returns what we wait for at the end,
/// each with whether it must succeed.
fn rivals(
    name: &str,
    trigger: &str,
    without: &str,
    stopping: u64,
    schedule: &str,
    rival: impl Fn(&Superd, &Path, Duration) -> Vec<(Child, bool)>,
) {
    let Some(caddy) = server_or_skip(name, "caddy") else {
        return;
    };
    let place = place(&caddy, false, schedule);
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    let address = format!("{}:8080", s.place.host);
    let mut chance = Chance(7);
    let (mut bad, mut twice, mut longest) = (0, 0, Duration::ZERO);
    for _ in 0..ROUNDS {
        s.ok(&["start", "caddy"]);
        let request = OpenRequest::begin(&address);
        let pidfd = Pidfd::of(s.pid_of("caddy")).unwrap();
        let stops = rival(&s, &caddy, Duration::from_millis(chance.below(81)));
        assert!(!pidfd.wait(OPEN), "it did not wait for its request");
        request.finish();
        for (stop, ours) in stops {
            let said = finish(stop);
            assert!(said.code == 0 || !ours, "{said:?}");
        }
        let end = s.last_end("caddy");
        twice += usize::from(end["stopping_seen"].as_u64() > Some(1));
        bad += usize::from(!is_good(&end, stopping));
        longest = longest.max(duration(&end["took"]));
    }
    tell(&format!(
        "caddy: {trigger}: stopped twice in {twice} of {ROUNDS}"
    ));
    row("caddy 2.8.4", trigger, without, bad, ROUNDS, longest);
    assert_eq!(bad, 0);
    assert!(longest <= OPEN + BEYOND, "{longest:?}");
    let log = s.place.log();
    assert!(!log.contains("| goroutine "), "a panic in the output");
    s.end();
}

#[test]
fn caddy_is_stopped_without_a_panic_whoever_else_stops_it() {
    rivals(
        "caddy_is_stopped_without_a_panic_whoever_else_stops_it",
        "caddy stop, then superctl stop",
        "caddy",
        2,
        API,
        caddy_stop_and_superctl,
    );
}

#[test]
fn with_a_drain_a_plain_term_does_no_harm_either() {
    let name = "with_a_drain_a_plain_term_does_no_harm_either";
    let trigger = "caddy stop, then superctl stop: drain, TERM";
    rivals(name, trigger, "caddy", 2, DRAIN, caddy_stop_and_superctl);
    let trigger = "superctl stop: drain, TERM";
    rivals(name, trigger, "-", 1, DRAIN, |s, _, _| {
        vec![(superctl_stop(s), true)]
    });
}

/// What Go's net/http does with a half-closed idle connection: it waits for the client's half.
#[test]
fn an_idle_keep_alive_connection_is_closed_by_a_drain() {
    let name = "an_idle_keep_alive_connection_is_closed_by_a_drain";
    let Some(caddy) = server_or_skip(name, "caddy") else {
        return;
    };
    let schedule = DRAIN.replace("ports = [8080]", "ports = [8080], idle = \"300ms\"");
    let place = place(&caddy, true, &schedule);
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    let address = format!("{}:8080", s.place.host);
    let stream = wait_for("caddy accepts", || TcpStream::connect(&address).ok());
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut client = BufReader::new(stream);
    for _ in 0..2 {
        let request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
        client.get_mut().write_all(request).unwrap();
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            client.read_line(&mut line).unwrap();
            let is_length = line.to_ascii_lowercase();
            if let Some(n) = is_length.strip_prefix("content-length: ") {
                length = n.trim().parse().unwrap();
            }
        }
        client.read_exact(&mut vec![0; length]).unwrap();
    }
    let stop = superctl_stop(&s);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end, and no reset");
    drop(client);
    assert_eq!(finish(stop).code, 0);
    let end = s.last_end("caddy");
    assert!(is_good(&end, 1), "{end}");
    assert_eq!(end["steps"][0]["outcome"], "held", "{end}");
    s.end();
}

/// A caddy with this place's home.
fn caddy_command(caddy: &Path, place: &Place, args: &[&str]) -> Command {
    let mut all = vec![caddy.display().to_string()];
    all.extend(args.iter().map(|a| (*a).to_owned()));
    let mut command = place.command(&all);
    command
        .env("HOME", &place.dir)
        .env("XDG_DATA_HOME", &place.dir)
        .env("XDG_CONFIG_HOME", &place.dir);
    command
}

fn caddy_stop(caddy: &Path, place: &Place) -> Child {
    let admin = format!("{}:2019", place.host);
    let mut command = caddy_command(caddy, place, &["stop", "--address", &admin]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The same two stops without superd: what tests/servers/baseline.py counts, where there is no
/// python. A machine on which nothing panics would prove nothing.
#[test]
fn without_superd_two_stops_make_it_panic() {
    let name = "without_superd_two_stops_make_it_panic";
    let Some(caddy) = server_or_skip(name, "caddy") else {
        return;
    };
    const TRIES: usize = 10;
    let place = place(&caddy, false, API);
    let config = place.file("caddy.json").display().to_string();
    let mut chance = Chance(7);
    let mut panicked = 0;
    for _ in 0..TRIES {
        std::fs::write(place.file("superd.log"), "").unwrap();
        let mut server = caddy_command(&caddy, &place, &["run", "--config", &config])
            .spawn()
            .unwrap();
        let mut request = OpenRequest::begin(&format!("{}:8080", place.host)).0;
        let rival = caddy_stop(&caddy, &place);
        // Its start takes its time where the machine is slow; the fault's offset is from the request.
        wait_until("the rival's request", || {
            place.log().contains(r#""uri":"/stop""#)
        });
        std::thread::sleep(Duration::from_millis(chance.below(81)));
        kill(server.id() as i32, libc::SIGTERM);
        std::thread::sleep(OPEN);
        request.write_all(b"0123456789").ok(); // it may be gone already
        let status = server.wait().unwrap();
        finish(rival);
        panicked += usize::from(status.code() == Some(2) && place.log().contains("\ngoroutine "));
    }
    tell(&format!(
        "caddy: without superd: {panicked} of {TRIES} panicked"
    ));
    assert!(panicked * 2 >= TRIES, "this machine proves nothing");
}

/// The fault: `caddy stop`, and 0 to 80 ms later superd's own stop.
fn caddy_stop_and_superctl(s: &Superd, caddy: &Path, later: Duration) -> Vec<(Child, bool)> {
    let rival = caddy_stop(caddy, &s.place);
    // Which of the two stops comes first is left to chance: this offset is the fault's.
    std::thread::sleep(later);
    vec![(rival, false), (superctl_stop(s), true)] // its own status is no verdict
}

#[test]
fn a_rival_request_to_the_admin_api_does_no_harm() {
    rivals(
        "a_rival_request_to_the_admin_api_does_no_harm",
        "POST /stop, then superctl stop",
        "caddy --rival http",
        2,
        API,
        |s, _, later| {
            let mut admin = TcpStream::connect(format!("{}:2019", s.place.host)).unwrap();
            let request = format!(
                "POST /stop HTTP/1.1\r\nHost: {}:2019\r\nConnection: close\r\n\r\n",
                s.place.host
            );
            admin.write_all(request.as_bytes()).unwrap();
            std::thread::sleep(later);
            let stops = vec![(superctl_stop(s), true)];
            // It is answered when caddy has stopped, or never: nobody waits for that.
            std::thread::spawn(move || admin.read_to_end(&mut Vec::new()));
            stops
        },
    );
}

#[test]
fn five_superctl_at_once_are_one_stop() {
    rivals(
        "five_superctl_at_once_are_one_stop",
        "five superctl stop at once",
        "-",
        1,
        API,
        |s, _, _| (0..5).map(|_| (superctl_stop(s), true)).collect(),
    );
}

#[test]
fn int_and_term_to_superd_at_once_are_one_stop() {
    let name = "int_and_term_to_superd_at_once_are_one_stop";
    let Some(caddy) = server_or_skip(name, "caddy") else {
        return;
    };
    let mut place = place(&caddy, true, API);
    let (mut bad, mut longest) = (0, Duration::ZERO);
    for _ in 0..ROUNDS {
        let command = place.command(&place.superd_args());
        let mut s = Superd::launch(place, command);
        let request = OpenRequest::begin(&format!("{}:8080", s.place.host));
        s.wait_state("caddy", "up");
        let pidfd = Pidfd::of(s.pid_of("caddy")).unwrap();
        let mut follower = s.raw();
        follower.send(&json!({"do": "events", "service": "caddy", "follow": true}));
        // It is heard from then on.
        while follower.reply().unwrap()["event"]["event"] != "up" {}
        s.signal(libc::SIGINT);
        s.signal(libc::SIGTERM);
        assert!(!pidfd.wait(OPEN), "it did not wait for its request");
        request.finish();
        assert_eq!(s.wait().code(), Some(0), "superd's own exit status");
        let mut end = None;
        while let Some(line) = follower.reply() {
            if line["event"]["event"] == "ended" {
                end = Some(line["event"].clone());
            }
        }
        let end = end.expect("the end was told");
        bad += usize::from(!is_good(&end, 1));
        longest = longest.max(duration(&end["took"]));
        place = s.end();
    }
    row(
        "caddy 2.8.4",
        "INT and TERM to superd at once",
        "caddy --rival int",
        bad,
        ROUNDS,
        longest,
    );
    assert_eq!(bad, 0);
    assert!(longest <= OPEN + BEYOND, "{longest:?}");
    assert!(
        !place.log().contains("| goroutine "),
        "a panic in the output"
    );
}

/// Caddy opens its ports with SO_REUSEPORT, so superd can keep the place in between.
#[test]
fn caddy_restarts_with_a_drain_and_nobody_notices() {
    let name = "caddy_restarts_with_a_drain_and_nobody_notices";
    let Some(caddy) = server_or_skip(name, "caddy") else {
        return;
    };
    if !crate::drain_support::can_drain(name) {
        return;
    }
    alone(|| {
        let place = place(&caddy, true, DRAIN);
        let at = format!("{}:8080", place.host);
        let command = place.command(&place.superd_args());
        let s = Superd::launch(place, command);
        OpenRequest::begin(&at).finish();
        let whole = "hello from caddy\n".len();
        let begin = || OpenRequest::begin(&at);
        super::nginx::restarts_that_nobody_notices(
            &s,
            "caddy",
            &at,
            whole,
            begin,
            OpenRequest::finish,
        );
        s.end();
    });
}
