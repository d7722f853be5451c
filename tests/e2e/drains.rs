//! Drains: what is open finishes whole, who is new is delayed, and the server takes no part.
//!
//! The server is the twin `pages`, which cuts everything the moment it gets TERM. So each
//! answer that comes whole is the drain's doing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::*;

pub const PAGES: &str = r#"
    [service.pages]
    command = [$TWIN:pages, "pages", "--listen", "$HOST:8080", "--also", "$HOST:8081"]
    stop = [{ drain = "10m" }, { signal = "TERM", wait = "10m" }]
"#;

/// A client with a connection that stays open.
pub struct Client(pub BufReader<TcpStream>);

impl Client {
    pub fn connect(at: &str) -> Client {
        let stream = wait_for("it takes connections", || TcpStream::connect(at).ok());
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client(BufReader::new(stream))
    }

    /// One whose request the server has begun with.
    pub fn begin(at: &str) -> Client {
        let mut client = Client::connect(at);
        assert_eq!(client.ask("begin"), "begun");
        client
    }

    pub fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }

    pub fn line(&mut self) -> String {
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// The server has hung up, or cut the connection.
    pub fn is_cut(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// Whether a new connection is made within so long. Panics when it is refused.
pub fn is_held(at: &str, within: Duration) -> bool {
    let at: SocketAddr = at.parse().unwrap();
    match TcpStream::connect_timeout(&at, within) {
        Ok(_) => false,
        Err(e) if e.kind() == std::io::ErrorKind::TimedOut => true,
        Err(e) => panic!("{at}: {e}"),
    }
}

pub const SHORT: Duration = Duration::from_millis(100);

pub fn stop(s: &Superd) -> Child {
    let mut command = s.ctl_command(&["stop", "pages"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

pub fn connections(s: &Superd) -> Option<u64> {
    s.status("pages")["connections"].as_u64()
}

pub fn wait_connections(s: &Superd, n: u64) {
    wait_until(&format!("{n} connections"), || connections(s) == Some(n));
}

pub fn can_drain(name: &str) -> bool {
    let s = Superd::start("");
    let doctor = s.ok(&["doctor"]);
    s.end();
    let can = doctor.lines().any(|l| l.starts_with("ok  drain"));
    if !can {
        skip(
            &format!("drains::{name}"),
            "superd cannot drain here (superctl doctor)",
        );
    }
    can
}

pub fn start(name: &str, flavour: Flavour, toml: &str) -> Option<(Superd, String)> {
    if !can_drain(name) {
        return None;
    }
    let s = Superd::start_in(flavour, toml);
    s.wait_record("pages", "start", 1);
    let at = format!("{}:8080", s.place.host);
    Some((s, at))
}

in_both_flavours! {
    fn what_is_open_finishes_whole_and_who_is_new_waits(flavour: Flavour) {
        let name = "what_is_open_finishes_whole_and_who_is_new_waits";
        let Some((s, at)) = start(name, flavour, PAGES) else { return };
        let mut clients = [Client::begin(&at), Client::begin(&at), Client::begin(&at)];
        assert_eq!(connections(&s), None, "nobody counts when nothing is drained");
        let stop = stop(&s);
        wait_connections(&s, 3);
        assert!(is_held(&at, SHORT));
        let status = s.ok(&["status", "pages"]);
        assert!(status.contains("draining: 3 connections, "), "{status}");
        assert!(status.contains(" of 10 min"), "{status}");
        // A connection that lives on is served like before.
        assert_eq!(clients[0].ask("begin"), "begun");
        assert_eq!(clients[0].ask("send 100000").len(), 100_000);
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.ask("end"), "whole");
            assert_eq!(s.record("pages").count("signal"), 0, "client {n}");
        }
        let [first, rest @ ..] = clients;
        drop(first);
        wait_connections(&s, 2);
        assert_eq!(s.record("pages").count("signal"), 0);
        drop(rest);
        let said = finish(stop);
        assert_eq!(said.code, 0, "{said:?}");
        let end = s.last_end("pages");
        assert_eq!(end["verdict"], "clean", "{end}");
        assert_eq!(end["steps"][0]["what"], "drain", "{end}");
        assert_eq!(s.record("pages").count("signal"), 1);
        assert!(TcpStream::connect(&at).is_err(), "its port is free");
        s.end();
    }

    fn a_crash_in_the_middle_is_a_crash_and_the_next_one_takes_connections(flavour: Flavour) {
        let name = "a_crash_in_the_middle_is_a_crash_and_the_next_one_takes_connections";
        let Some((s, at)) = start(name, flavour, PAGES) else { return };
        let mut client = Client::begin(&at);
        s.ok(&["restart", "--no-wait", "pages"]);
        wait_connections(&s, 1);
        client.say("crash");
        assert!(client.is_cut());
        s.wait_record("pages", "start", 2);
        assert_eq!(Client::begin(&at).ask("end"), "whole");
        assert_eq!(s.verdict("pages"), "panicked-while-stopping");
        assert_eq!(connections(&s), None);
        s.end();
    }

    fn a_killed_superd_s_drain_is_gone_on_with(flavour: Flavour) {
        let name = "a_killed_superd_s_drain_is_gone_on_with";
        let Some((mut s, at)) = start(name, flavour, PAGES) else { return };
        let mut one = Client::begin(&at);
        let two = Client::begin(&at);
        s.ok(&["stop", "--no-wait", "pages"]);
        wait_connections(&s, 2);
        let place = s.abandon();
        assert!(is_held(&at, SHORT), "the filter outlives superd");
        s = place.resume();
        wait_connections(&s, 2);
        assert!(is_held(&at, SHORT));
        assert_eq!(one.ask("end"), "whole");
        drop(two);
        wait_connections(&s, 1);
        s = s.succeed();
        assert_eq!(s.record("pages").count("signal"), 0);
        assert_eq!(one.ask("end"), "whole");
        drop(one);
        s.wait_state("pages", "down");
        assert_eq!(s.record("pages").count("signal TERM"), 1);
        s.ok(&["start", "pages"]);
        assert_eq!(Client::begin(&at).ask("end"), "whole");
        s.end();
    }
}

/// The twin's connections come and go with a client, so whether a new one is let in is tried.
pub fn wait_let_in(at: &str) {
    wait_until("new connections are let in", || {
        Client::connect(at).ask("begin") == "begun"
    });
}

in_both_flavours! {
    fn a_drain_without_a_stop_is_for_maintenance(flavour: Flavour) {
        let name = "a_drain_without_a_stop_is_for_maintenance";
        let Some((s, at)) = start(name, flavour, PAGES) else { return };
        let mut client = Client::begin(&at);
        let mut drain = s.ctl_command(&["drain", "pages"]);
        let drain = drain.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_connections(&s, 1);
        assert_eq!(s.status("pages")["drain"], "draining");
        assert!(s.ok(&["status", "pages"]).contains("drain         draining: 1 connection\n"));
        assert!(is_held(&at, SHORT));
        assert_eq!(client.ask("end"), "whole");
        drop(client);
        assert_eq!(finish(drain).out, "pages: drained, no connection is open\n");
        assert_eq!(s.status("pages")["drain"], "drained");
        assert_eq!(s.state("pages"), "up");
        assert!(is_held(&at, SHORT), "until it is taken back");
        assert!(s.ok(&["drain", "pages"]).contains("nothing to do"));
        assert_eq!(s.ok(&["undrain", "pages"]), "pages: takes connections again\n");
        assert_eq!(Client::begin(&at).ask("end"), "whole");
        assert!(s.status("pages")["drain"].is_null());
        s.assert_starts("pages", 1);
        // It ends with the run that it is about.
        s.ok(&["drain", "--no-wait", "pages"]);
        assert!(is_held(&at, SHORT));
        kill(s.pid_of("pages"), libc::SIGKILL);
        s.wait_record("pages", "start", 2);
        wait_let_in(&at);
        s.end();
    }

    fn a_killed_superd_s_filter_is_kept_or_removed_as_it_was_meant(flavour: Flavour) {
        let name = "a_killed_superd_s_filter_is_kept_or_removed_as_it_was_meant";
        let Some((mut s, at)) = start(name, flavour, PAGES) else { return };
        s.ok(&["drain", "pages"]);
        s = s.succeed();
        assert!(is_held(&at, SHORT), "meant to be drained");
        wait_until("it is drained", || s.status("pages")["drain"] == "drained");
        s.ok(&["undrain", "pages"]);
        wait_let_in(&at);
        // Without a journal nobody knows who wanted what: connections are let in.
        s.ok(&["drain", "pages"]);
        let place = s.abandon();
        std::fs::remove_file(place.file("run/journal")).unwrap();
        s = place.resume();
        wait_let_in(&at);
        assert!(s.place.log().contains("new connections to tcp/8080 are let in again"));
        s.assert_starts("pages", 1);
        s.end();
    }
}

in_both_flavours! {
    fn an_upgrade_holds_on_to_what_is_held_back(flavour: Flavour) {
        let name = "an_upgrade_holds_on_to_what_is_held_back";
        let toml = PAGES.replace("stop = ", "max-connections = { high = 3, low = 2 }\nstop = ");
        let Some((s, at)) = start(name, flavour, &toml) else { return };
        let mut clients: Vec<Client> = (0..4).map(|_| Client::begin(&at)).collect();
        let says = |what: &str| s.place.log().contains(what);
        wait_until("there are too many", || says("more than 3: new ones are held back"));
        s.ok(&["upgrade"]);
        wait_connections(&s, 4);
        clients.truncate(1);
        wait_let_in(&at);
        // For maintenance.
        s.ok(&["drain", "--no-wait", "pages"]);
        s.ok(&["upgrade"]);
        assert!(is_held(&at, SHORT));
        wait_connections(&s, 1);
        s.ok(&["undrain", "pages"]);
        wait_let_in(&at);
        // In a stop.
        s.ok(&["stop", "--no-wait", "pages"]);
        wait_connections(&s, 1);
        s.ok(&["upgrade"]);
        assert!(is_held(&at, SHORT));
        wait_connections(&s, 1);
        assert_eq!(s.record("pages").count("signal"), 0);
        assert_eq!(clients[0].ask("end"), "whole");
        drop(clients);
        s.wait_state("pages", "down");
        assert_eq!(s.record("pages").count("signal TERM"), 1);
        s.ok(&["start", "pages"]);
        assert_eq!(Client::begin(&at).ask("end"), "whole");
        s.end();
    }
}

#[test]
fn an_upgrade_passes_on_the_sockets_of_superd() {
    let name = "an_upgrade_passes_on_the_sockets_of_superd";
    let Some((s, at)) = start(name, Flavour::NoCgroups, PASSED) else {
        return;
    };
    assert_eq!(Client::begin(&at).ask("end"), "whole");
    // While nobody else has them.
    for n in 2..=3 {
        kill(s.pid_of("pages"), libc::SIGKILL);
        if n == 3 {
            s.wait_state("pages", "backoff");
            let mut early = Client::connect(&at);
            early.say("begin");
            s.ok(&["upgrade"]);
            let mut answer = String::new();
            early.0.read_line(&mut answer).unwrap();
            assert_eq!(answer, "begun\n");
        }
        s.wait_record("pages", "start", n);
    }
    s.ok(&["stop", "pages"]);
    assert!(TcpStream::connect(&at).is_err());
    s.end();
}

#[test]
fn a_second_stop_changes_nothing_and_now_is_at_once() {
    let name = "a_second_stop_changes_nothing_and_now_is_at_once";
    let Some((s, at)) = start(name, Flavour::NoCgroups, PAGES) else {
        return;
    };
    let mut client = Client::begin(&at);
    let first = stop(&s);
    wait_connections(&s, 1);
    let left = || s.status("pages")["stop"]["left_ms"].as_u64().unwrap();
    let before = left();
    let second = stop(&s);
    wait_until("it has joined", || {
        s.status("pages")["stop"]["absorbed"] == 1
    });
    assert!(left() <= before);
    assert!(is_held(&at, SHORT));
    s.ok(&["stop", "--now", "pages"]);
    assert!(client.is_cut());
    for stop in [first, second] {
        finish(stop);
    }
    assert_eq!(
        s.record("pages").count("signal"),
        0,
        "KILL, and nothing else"
    );
    assert_eq!(s.verdict("pages"), "killed");
    s.end();
}

#[test]
fn a_drain_that_takes_too_long_gives_up_those_who_are_left() {
    let name = "a_drain_that_takes_too_long_gives_up_those_who_are_left";
    let toml = PAGES.replacen("10m", "300ms", 1);
    let Some((s, at)) = start(name, Flavour::NoCgroups, &toml) else {
        return;
    };
    let mut client = Client::begin(&at);
    s.ok(&["stop", "pages"]);
    assert!(client.is_cut());
    let end = s.last_end("pages");
    assert_eq!(end["verdict"], "clean-after-escalation", "{end}");
    assert_eq!(end["steps"][0]["what"], "drain, 1 connection left", "{end}");
    s.end();
}

#[test]
fn a_port_that_is_opened_while_it_drains_is_drained_too() {
    let name = "a_port_that_is_opened_while_it_drains_is_drained_too";
    let Some((s, at)) = start(name, Flavour::NoCgroups, PAGES) else {
        return;
    };
    let also = format!("{}:8081", s.place.host);
    let mut client = Client::begin(&at);
    let stop = stop(&s);
    wait_connections(&s, 1);
    kill(s.pid_of("pages"), libc::SIGUSR1);
    let record = s.wait_record("pages", "listening", 2);
    assert_eq!(record.rest("listening")[1], also);
    wait_until("it is held back", || {
        s.place.log().contains("tcp/8081 are held back, too")
    });
    assert!(is_held(&also, SHORT));
    assert_eq!(client.ask("end"), "whole");
    drop(client);
    assert_eq!(finish(stop).code, 0);
    s.end();
}

/// Connections that nobody has accepted yet are somebody's requests as well.
#[test]
fn what_waits_to_be_accepted_counts() {
    let name = "what_waits_to_be_accepted_counts";
    let toml = PAGES.replace("\"pages\", \"--listen\"", "\"bind\", \"--listen\"");
    let Some((s, at)) = start(name, Flavour::NoCgroups, &toml) else {
        return;
    };
    let clients: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(&at).unwrap()).collect();
    let stop = stop(&s);
    wait_connections(&s, 5);
    drop(clients);
    // Nobody closes them at the other end: they are not over.
    s.ok(&["stop", "--now", "pages"]);
    finish(stop);
    s.end();
}

#[test]
fn only_the_ports_that_are_named_are_held_back_and_never_the_one_of_an_http_step() {
    let name = "only_the_ports_that_are_named_are_held_back_and_never_the_one_of_an_http_step";
    let toml = PAGES
        .replace("\"$HOST:8080\"", "\"$HOST:8080,$HOST:8082,$HOST:8083\"")
        .replace(
            "stop = [{ drain = \"10m\" }, {",
            "stop = [{ drain = \"10m\", ports = [8080, \"tcp/8083\", \"udp/8082\"], until = \"connections=0\" }, \
             { http = \"POST http://$HOST:8083/stop\", until = \"done\", wait = \"10m\" }, {",
        );
    let Some((s, at)) = start(name, Flavour::NoCgroups, &toml) else {
        return;
    };
    let host = s.place.host.clone();
    let mut others = Client::begin(&format!("{host}:8082"));
    let client = Client::begin(&at);
    let stop = stop(&s);
    wait_connections(&s, 1);
    assert!(is_held(&at, SHORT));
    Client::begin(&format!("{host}:8082"));
    Client::begin(&format!("{host}:8083"));
    drop(client);
    // The request of the next step arrives; that the twin does not understand it is its answer.
    assert_eq!(finish(stop).code, 0);
    assert!(others.ask("end").is_empty(), "it is not waited for");
    let steps = &s.last_end("pages")["steps"];
    assert_eq!(steps[0]["outcome"], "held", "{steps}");
    s.end();
}

#[test]
fn what_cannot_be_drained_is_skipped_with_one_line() {
    let name = "what_cannot_be_drained_is_skipped_with_one_line";
    let toml = r#"
        [service.pages]
        command = [$TWIN:pages, "obey"]
        stop = [{ drain = "10m" }, { signal = "TERM", wait = "10m" }]
        [service.unix]
        command = [$TWIN:unix, "bind", "--listen", "unix:$DIR/socket"]
        stop = [{ drain = "10m" }, { signal = "TERM", wait = "10m" }]
        [service.both]
        command = ["/bin/sh", "-c", '"$0" bind --listen unix:$DIR/both & exec "$0" "$@"',
            $TWIN:both, "pages", "--listen", "$HOST:8082"]
        stop = [{ drain = "10m" }, { signal = "TERM", to = "tree", until = "descendants-gone", wait = "10m" }]
    "#;
    let Some((s, _)) = start(name, Flavour::NoCgroups, toml) else {
        return;
    };
    s.wait_record("unix", "start", 1);
    s.wait_record("both", "start", 1);
    let both = s.place.file("both");
    wait_until("both listen", || both.exists());
    for (service, why) in [
        ("pages", "cannot drain: it takes no connections"),
        (
            "unix",
            "cannot drain: it takes connections on unix sockets only, which cannot be held back",
        ),
    ] {
        s.ok(&["stop", service]);
        let end = s.last_end(service);
        assert_eq!(end["verdict"], "clean", "{end}");
        assert_eq!(s.place.log().matches(why).count(), 1, "{why}");
    }
    // What can be drained is, and the rest is told.
    s.ok(&["stop", "both"]);
    let end = s.last_end("both");
    assert_eq!(end["steps"][0]["outcome"], "held", "{end}");
    let why = format!(
        "unix:{} cannot be held back: unix sockets have no such filter",
        both.display()
    );
    assert_eq!(s.place.log().matches(&why).count(), 1, "{why}");
    s.end();
}

/// The sockets are superd's; the first one is the second descriptor of the service.
const PASSED: &str = r#"
    [service.pages]
    command = [$TWIN:pages, "pages", "--listen", "fd/4,fd/3"]
    sockets = ["tcp://$HOST:8081", "tcp://$HOST:8080"]
    restart-delay = "3s"
    stop = [{ drain = "10m" }, { signal = "TERM", wait = "10m" }]
"#;

#[test]
fn with_sockets_of_superd_a_restart_in_a_storm_refuses_and_loses_nobody() {
    let name = "with_sockets_of_superd_a_restart_in_a_storm_refuses_and_loses_nobody";
    alone(|| {
        let Some((s, at)) = start(name, Flavour::NoCgroups, PASSED) else {
            return;
        };
        let storm = restarts_in_a_storm(&s, &at, 5);
        tell(&format!(
            "sockets and drain: 5 restarts among 200 new connections a second: {} whole, {} \
             refused, {} lost; the longest took {:?}",
            storm.whole,
            storm.late,
            storm.lost.len(),
            storm.longest
        ));
        assert_eq!(storm.lost, Vec::<String>::new());
        assert_eq!(storm.late, 0, "refused");
        s.end();
    });
}

in_both_flavours! {
    fn sockets_of_superd_outlive_the_service_and_superd(flavour: Flavour) {
        let name = "sockets_of_superd_outlive_the_service_and_superd";
        let Some((mut s, at)) = start(name, flavour, PASSED) else { return };
        assert_eq!(Client::begin(&at).ask("end"), "whole");
        // Twice, so that there is a pause: who comes in it waits.
        for n in 2..=3 {
            kill(s.pid_of("pages"), libc::SIGKILL);
            if n == 3 {
                s.wait_state("pages", "backoff");
                let mut early = Client::connect(&at);
                early.say("begin");
                let mut answer = String::new();
                early.0.read_line(&mut answer).unwrap();
                assert_eq!(answer, "begun\n");
            }
            s.wait_record("pages", "start", n);
        }
        s = s.succeed();
        let address: SocketAddr = at.parse().unwrap();
        let is_over = AtomicBool::new(false);
        let storm = std::thread::scope(|scope| {
            let storm = scope.spawn(|| storm(address, &is_over));
            s.ok(&["restart", "pages"]);
            is_over.store(true, Ordering::SeqCst);
            storm.join().unwrap()
        });
        assert_eq!((storm.late, storm.lost), (0, Vec::new()), "after an adoption");
        s.ok(&["stop", "pages"]);
        assert_eq!(s.verdict("pages"), "clean");
        assert!(TcpStream::connect(&at).is_err(), "stopped means that its ports are free");
        std::net::TcpListener::bind(&at).unwrap();
        s.ok(&["start", "pages"]);
        assert_eq!(Client::begin(&at).ask("end"), "whole");
        s.end();
    }
}

#[test]
fn a_socket_that_cannot_be_opened_is_told_and_tried_again() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind((place.host.as_str(), 8080)).unwrap();
    place.configure(Flavour::NoCgroups, &PASSED.replace("3s", "20ms"));
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    let why = format!(
        "opening socket \"tcp://{}:8080\": Address already in use",
        s.place.host
    );
    wait_until("it is told", || s.place.log().contains(&why));
    drop(taken);
    s.wait_record("pages", "start", 1);
    s.end();
}

/// A superd that is hindered before it begins: its drains are skipped with one line,
/// the stop goes on, and doctor has said so before.
pub fn hindered(
    toml: &str,
    hinder: impl Fn() -> std::io::Result<()> + Send + Sync + 'static,
    why: &str,
) -> Superd {
    let place = Place::new();
    place.configure(Flavour::NoCgroups, toml);
    // For a service of another user.
    std::fs::write(place.file("pages.record"), "").unwrap();
    let mode = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(place.file("pages.record"), mode).unwrap();
    let mut command = place.command(&place.superd_args());
    // SAFETY: it makes system calls only.
    unsafe { command.pre_exec(hinder) };
    let s = Superd::launch(place, command);
    s.wait_record("pages", "start", 1);
    let at = format!("{}:8080", s.place.host);
    let mut client = Client::begin(&at);
    let said = s.ctl(&["drain", "pages"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains(why), "{said:?}");
    assert!(s.status("pages")["drain"].is_null());
    let before = s.place.log().matches(why).count();
    s.ok(&["stop", "pages"]);
    assert!(client.is_cut());
    let end = s.last_end("pages");
    assert_eq!(end["verdict"], "clean", "{end}");
    assert_eq!(s.place.log().matches(why).count(), before + 1);
    s
}

#[test]
fn without_the_privilege_to_look_at_others_it_is_skipped() {
    let name = "drains::without_the_privilege_to_look_at_others_it_is_skipped";
    if !root_or_skip(name) {
        return;
    }
    const CAP_SYS_PTRACE: libc::c_ulong = 19;
    let toml = PAGES.replace("stop = ", "user = \"65534\"\ngroup = \"65534\"\nstop = ");
    let drop = || {
        // SAFETY: prctl(2) with numbers.
        match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let why = "superd may not look at the sockets of all its processes";
    let s = hindered(&toml, drop, why);
    assert!(s.ok(&["doctor"]).contains("needs CAP_SYS_PTRACE"));
    s.end();
}

/// A client that sends something, and whether it comes back.
pub fn is_answered(socket: &UdpSocket, first: u8, version: u32) -> bool {
    let mut bytes = vec![first];
    bytes.extend(version.to_be_bytes());
    bytes.resize(1200, 0);
    socket.send(&bytes).unwrap();
    socket.recv(&mut [0; 2000]).is_ok()
}

#[test]
fn a_quic_connection_that_is_new_waits_and_what_is_open_goes_on() {
    let name = "a_quic_connection_that_is_new_waits_and_what_is_open_goes_on";
    let toml = PAGES.replace("\"--also\", \"$HOST:8081\"", "\"--udp\", \"$HOST:8080\"");
    let Some((s, at)) = start(name, Flavour::NoCgroups, &toml) else {
        return;
    };
    let client = UdpSocket::bind((s.place.host.as_str(), 0)).unwrap();
    client.connect(&at).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    assert!(is_answered(&client, 0xc0, 1));
    let stop = stop(&s);
    wait_connections(&s, 1);
    client.set_read_timeout(Some(SHORT)).unwrap();
    assert!(!is_answered(&client, 0xc0, 1), "Initial of version 1");
    assert!(
        !is_answered(&client, 0xd0, 0x6b33_43cf),
        "Initial of version 2"
    );
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let asked = monotonic();
    assert!(is_answered(&client, 0x40, 0), "an open connection");
    assert_eq!(finish(stop).code, 0);
    let waited = Duration::from_nanos(monotonic() - asked);
    assert!(
        waited >= Duration::from_secs(4),
        "{waited:?} after the last packet"
    );
    assert_eq!(s.verdict("pages"), "clean");
    s.end();
}

/// A later step that waits for closed ports means those of the service, not superd's copies.
#[test]
fn ports_are_closed_when_the_service_has_closed_them() {
    let name = "ports_are_closed_when_the_service_has_closed_them";
    let toml = r#"
        [service.pages]
        command = [$TWIN:pages, "twohandlers", "--listen", "$HOST:8080", "--panic", "0"]
        stop = [
            { drain = "10m" },
            { signal = "USR2", until = "ports-closed", wait = "10m" },
            { signal = "TERM", wait = "10m" },
        ]
    "#;
    let Some((s, _)) = start(name, Flavour::NoCgroups, toml) else {
        return;
    };
    s.ok(&["stop", "pages"]);
    let end = s.last_end("pages");
    assert_eq!(end["verdict"], "clean", "{end}");
    assert_eq!(end["steps"].as_array().unwrap().len(), 3, "{end}");
    s.end();
}

/// Nanoseconds of processor time that superd, one thread, has used.
pub fn used(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// When the first connection was held back, tried one after the other.
fn first_held(at: &SocketAddr) -> u64 {
    loop {
        let began = monotonic();
        match TcpStream::connect_timeout(at, Duration::from_millis(300)) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::TimedOut => return began,
            Err(e) => panic!("{at}: {e}"),
        }
    }
}

#[test]
fn five_milliseconds_after_the_request_who_is_new_is_held_back() {
    const ROUNDS: usize = 20;
    let name = "five_milliseconds_after_the_request_who_is_new_is_held_back";
    alone(|| {
        let Some((s, at)) = start(name, Flavour::NoCgroups, PAGES) else {
            return;
        };
        let address: SocketAddr = at.parse().unwrap();
        let mut times = Times::within(Duration::from_millis(5));
        for round in 1..=ROUNDS {
            let client = Client::begin(&at);
            let trying = std::thread::spawn(move || first_held(&address));
            let mut raw = s.raw();
            let asked = monotonic();
            raw.ask(&json!({"do": "stop", "service": "pages"}));
            let held = trying.join().unwrap();
            times.add(Duration::from_nanos(held.saturating_sub(asked)));
            drop(client);
            s.wait_state("pages", "down");
            s.ok(&["start", "pages"]);
            s.wait_record("pages", "start", round + 1);
        }
        let (best, median) = times.usual();
        tell(&format!(
            "drain: from the request to the first packet held back: best {best:?}, median {median:?}, \
             longest {:?}, late {} of {ROUNDS}",
            times.longest(),
            times.late()
        ));
        times.assert_in_time_when_undisturbed(name);
        s.end();
    });
}

#[test]
fn a_drain_of_a_thousand_connections_takes_a_hundredth_of_a_processor() {
    const CLIENTS: u64 = 1000;
    let name = "a_drain_of_a_thousand_connections_takes_a_hundredth_of_a_processor";
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, hard) = nix::sys::resource::getrlimit(limit).unwrap();
    if hard < 4096 || nix::sys::resource::setrlimit(limit, 4096.max(hard), hard).is_err() {
        return skip(name, "needs 4096 descriptors");
    }
    alone(|| {
        let toml = PAGES.replace("stop = ", "limits = { nofile = 4096 }\nstop = ");
        let Some((s, at)) = start(name, Flavour::NoCgroups, &toml) else {
            return;
        };
        wait_until("superd has nothing to do", || {
            let before = used(s.pid);
            std::thread::sleep(SHORT);
            used(s.pid) == before
        });
        let idle = used(s.pid);
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::begin(&at)).collect();
        let unused = used(s.pid) - idle;
        let stop = stop(&s);
        wait_connections(&s, CLIENTS);
        let (began, before) = (monotonic(), used(s.pid));
        // Nothing but time is measured here.
        sleep_until(began + 5_000_000_000);
        let share = (used(s.pid) - before) as f64 / (monotonic() - began) as f64;
        tell(&format!(
            "drain: {CLIENTS} open connections cost {:.2} % of a processor",
            share * 100.0
        ));
        for client in &mut clients {
            assert_eq!(client.ask("end"), "whole");
        }
        drop(clients);
        assert_eq!(finish(stop).code, 0);
        assert_eq!(s.verdict("pages"), "clean");
        assert_eq!(unused, 0, "what is not drained costs nothing");
        // superctl, which asks for the progress twice a second, has its share in it.
        // A processor shared with others counts what their caches cost, and a debug build does
        // more: what holds is the release build alone on its machine.
        let most = if cfg!(debug_assertions) { 0.05 } else { 0.01 };
        assert!(share <= most, "{share}");
        s.end();
    });
}

#[test]
fn who_was_answered_and_is_silent_is_closed_and_who_waits_is_not() {
    let name = "who_was_answered_and_is_silent_is_closed_and_who_waits_is_not";
    let toml = PAGES.replace("drain = \"10m\"", "drain = \"10m\", idle = \"300ms\"");
    let Some((s, at)) = start(name, Flavour::NoCgroups, &toml) else {
        return;
    };
    let mut answered: Vec<Client> = (0..3).map(|_| Client::begin(&at)).collect();
    // Its request is half there, so it has no answer.
    let mut waiting = Client::begin(&at);
    std::thread::sleep(SHORT); // the kernel's clock for this is coarse
    waiting.0.get_mut().write_all(b"en").unwrap();
    // And one that has most of its answer on the way, and does not read.
    let mut slow = Client::begin(&at);
    slow.say("send 20000000");
    let stop = stop(&s);
    for client in &mut answered {
        assert!(client.is_cut(), "half-closed");
    }
    drop(answered);
    wait_connections(&s, 2);
    assert!(s
        .place
        .log()
        .contains(" connections without data for 300 ms"));
    waiting.0.get_mut().write_all(b"d\n").unwrap();
    let mut answer = String::new();
    waiting.0.read_line(&mut answer).unwrap();
    assert_eq!(answer, "whole\n");
    let mut got = String::new();
    slow.0.read_line(&mut got).unwrap();
    assert_eq!(got.len(), 20_000_001);
    // Now these are idle, too.
    assert!(waiting.is_cut() && slow.is_cut());
    assert_eq!(finish(stop).code, 0);
    assert_eq!(s.verdict("pages"), "clean");
    s.end();
}

#[test]
fn too_many_connections_wait_until_there_are_few() {
    let name = "too_many_connections_wait_until_there_are_few";
    let toml = PAGES.replace(
        "stop = ",
        "max-connections = { high = 5, low = 3 }\nstop = ",
    );
    let Some((s, at)) = start(name, Flavour::NoCgroups, &toml) else {
        return;
    };
    let said = |what: &str| s.place.log().matches(what).count();
    let (on, off) = (
        "more than 5: new ones are held back",
        "less than 3: new ones are let in again",
    );
    for round in 1..=2 {
        let mut clients: Vec<Client> = (0..5).map(|_| Client::begin(&at)).collect();
        assert!(s
            .ok(&["status", "pages"])
            .contains("connections   5 of 5\n"));
        assert!(!is_held(&at, LIMIT), "the limit itself is let in");
        clients.push(Client::begin(&at));
        wait_until("they are held back", || said(on) == round);
        assert!(is_held(&at, SHORT));
        let status = s.ok(&["status", "pages"]);
        assert!(
            status.contains("connections   6 of 5, new ones are held back\n"),
            "{status}"
        );
        for client in &mut clients {
            assert_eq!(client.ask("end"), "whole");
        }
        clients.truncate(3);
        wait_connections(&s, 3);
        assert!(is_held(&at, SHORT), "not yet");
        assert_eq!(said(off), round - 1);
        drop(clients);
        wait_until("they are let in", || said(off) == round);
        assert_eq!(Client::begin(&at).ask("end"), "whole");
        wait_connections(&s, 0);
        assert_eq!(
            (said(on), said(off)),
            (round, round),
            "one line for each change"
        );
    }
    // A superd that is killed in the meantime leaves it to the next one.
    let clients: Vec<Client> = (0..6).map(|_| Client::begin(&at)).collect();
    wait_until("they are held back", || said(on) == 3);
    let s = s.succeed();
    drop(clients);
    wait_let_in(&at);
    let clients: Vec<Client> = (0..6).map(|_| Client::begin(&at)).collect();
    wait_until("they are held back", || is_held(&at, SHORT));
    // The limit goes with its key, and at once.
    s.place.configure(Flavour::NoCgroups, PAGES);
    s.ok(&["reload"]);
    assert!(!is_held(&at, LIMIT));
    drop(clients);
    s.assert_starts("pages", 1);
    s.end();
}

/// What became of clients that come at a steady rate.
#[derive(Default, Debug)]
struct Storm {
    whole: usize,
    /// Refused at first; whole when they had tried again, for a while.
    late: usize,
    /// Whole, and had to wait for longer than [`PATIENCE`].
    slow: usize,
    /// Everything else.
    lost: Vec<String>,
    longest: Duration,
}

const PATIENCE: Duration = Duration::from_secs(3);
/// On a busy machine a restart takes its time. SYNs are sent again after 1 s, 3 s, 7 s.
const PATIENCE_WHEN_BUSY: Duration = Duration::from_secs(20);

/// One client: a request, two steps long. Tries to connect for so long; true if it was refused
/// in between.
fn come(at: SocketAddr) -> Result<bool, String> {
    let until = Instant::now() + PATIENCE_WHEN_BUSY;
    let mut refused = false;
    let stream = loop {
        let left = until.saturating_duration_since(Instant::now());
        match TcpStream::connect_timeout(&at, left.max(Duration::from_millis(1))) {
            Ok(stream) => break stream,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused && !left.is_zero() => {
                refused = true;
                std::thread::sleep(Duration::from_millis(20)); // as a patient client does
            }
            Err(e) => return Err(format!("connect: {e}")),
        }
    };
    stream
        .set_read_timeout(Some(LIMIT))
        .map_err(|e| e.to_string())?;
    let mut client = Client(BufReader::new(stream));
    for (asked, wanted) in [("begin", "begun"), ("end", "whole")] {
        let line = format!("{asked}\n");
        let mut answer = String::new();
        let sent = client.0.get_mut().write_all(line.as_bytes());
        let read = sent.and_then(|()| client.0.read_line(&mut answer));
        if read.is_err() || answer.trim_end() != wanted {
            return Err(format!("{asked}: {read:?} {answer:?}"));
        }
    }
    Ok(refused)
}

/// 200 clients a second, until `is_over`.
fn storm(at: SocketAddr, is_over: &AtomicBool) -> Storm {
    let clients = std::thread::scope(|scope| {
        let mut clients = Vec::new();
        let began = monotonic();
        while !is_over.load(Ordering::SeqCst) && clients.len() < 4000 {
            sleep_until(began + clients.len() as u64 * 5_000_000);
            clients.push(scope.spawn(move || {
                let began = Instant::now();
                (come(at), began.elapsed())
            }));
        }
        clients
            .into_iter()
            .map(|c| c.join().unwrap())
            .collect::<Vec<_>>()
    });
    let mut storm = Storm::default();
    for (result, took) in clients {
        storm.longest = storm.longest.max(took);
        storm.slow += usize::from(took > PATIENCE);
        match result {
            Ok(false) => storm.whole += 1,
            Ok(true) => storm.late += 1,
            Err(e) => storm.lost.push(e),
        }
    }
    storm
}

/// Restarts in the middle of a storm, with requests open at their beginning.
fn restarts_in_a_storm(s: &Superd, at: &str, restarts: usize) -> Storm {
    let address: SocketAddr = at.parse().unwrap();
    let is_over = AtomicBool::new(false);
    let starts = s.record("pages").count("start");
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| storm(address, &is_over));
        for n in 1..=restarts {
            let mut open = Client::begin(at);
            let mut keep_alive = Client::begin(at);
            assert_eq!(keep_alive.ask("end"), "whole");
            let mut download = Client::begin(at);
            download.say("send 20000000");
            s.ok(&["restart", "--no-wait", "pages"]);
            wait_until("it drains", || connections(s).is_some_and(|n| n > 0));
            assert_eq!(keep_alive.ask("end"), "whole");
            let mut got = String::new();
            download.0.read_line(&mut got).unwrap();
            assert_eq!(got.len(), 20_000_001, "a download in the middle is whole");
            assert_eq!(open.ask("end"), "whole");
            drop((open, keep_alive, download));
            s.wait_record("pages", "start", starts + n);
            wait_until("it takes connections", || TcpStream::connect(at).is_ok());
        }
        is_over.store(true, Ordering::SeqCst);
        storm.join().unwrap()
    })
}

#[test]
fn in_a_storm_of_clients_a_restart_with_a_drain_loses_none_that_tries_again() {
    let name = "in_a_storm_of_clients_a_restart_with_a_drain_loses_none_that_tries_again";
    alone(|| {
        let Some((s, at)) = start(name, Flavour::NoCgroups, PAGES) else {
            return;
        };
        // How long the new one takes until it listens is a busy machine's doing: one quiet storm of three will do.
        let is_short = (0..3).any(|_| {
            let storm = restarts_in_a_storm(&s, &at, 5);
            tell(&format!(
                "drain: 5 restarts among 200 new connections a second: {} whole, {} refused in the \
                 moment between two instances and whole when they tried again, {} after more than 3 s, {} lost; \
                 the longest took {:?}",
                storm.whole,
                storm.late,
                storm.slow,
                storm.lost.len(),
                storm.longest
            ));
            assert_eq!(storm.lost, Vec::<String>::new());
            storm.whole > 100 && storm.late * 10 < storm.whole
        });
        assert!(is_short, "see the lines that begin with `drain`");
        s.end();
    });
}

/// A server with four sockets for each of its addresses, SO_REUSEPORT.
fn shared(place: &str) -> String {
    let more = format!("\"--reuseport\", \"4\", \"--unshare\", \"{place}\", \"--also\"");
    PAGES.replace("\"--also\"", &more)
}

#[test]
fn who_shares_its_port_refuses_nobody_in_a_restart() {
    let name = "who_shares_its_port_refuses_nobody_in_a_restart";
    alone(|| {
        let Some((s, at)) = start(name, Flavour::NoCgroups, &shared("/nowhere")) else {
            return;
        };
        let storm = restarts_in_a_storm(&s, &at, 5);
        tell(&format!(
            "drain and SO_REUSEPORT: 5 restarts among 200 new connections a second: {} whole, {} \
             refused, {} after more than 3 s, {} lost; the longest took {:?}",
            storm.whole,
            storm.late,
            storm.slow,
            storm.lost.len(),
            storm.longest
        ));
        assert_eq!(storm.lost, Vec::<String>::new());
        assert_eq!(storm.late, 0, "refused");
        // Stopped means that its port is free.
        s.ok(&["stop", "pages"]);
        std::net::TcpListener::bind(&at).unwrap();
        s.end();
    });
}

in_both_flavours! {
    fn all_sockets_that_share_a_port_are_drained_and_counted(flavour: Flavour) {
        let name = "all_sockets_that_share_a_port_are_drained_and_counted";
        let Some((s, at)) = start(name, flavour, &shared("/nowhere")) else { return };
        let mut clients: Vec<Client> = (0..12).map(|_| Client::begin(&at)).collect();
        let stop = stop(&s);
        wait_connections(&s, 12);
        // Each source port is another socket's business.
        for _ in 0..8 {
            assert!(is_held(&at, Duration::from_millis(30)));
        }
        for client in &mut clients {
            assert_eq!(client.ask("end"), "whole");
        }
        assert_eq!(s.record("pages").count("signal"), 0);
        drop(clients);
        assert_eq!(finish(stop).code, 0);
        assert_eq!(s.verdict("pages"), "clean");
        s.end();
    }

    // It cannot bind while its place is kept: with its end that is over.
    fn who_no_longer_shares_its_port_gets_it_all_the_same(flavour: Flavour) {
        let name = "who_no_longer_shares_its_port_gets_it_all_the_same";
        if !can_drain(name) {
            return;
        }
        let place = Place::new();
        let file = place.file("unshare");
        place.configure(flavour, &shared(&file.display().to_string()));
        let command = place.command(&place.superd_args());
        let s = Superd::launch(place, command);
        s.wait_record("pages", "start", 1);
        let at = format!("{}:8080", s.place.host);
        std::fs::write(&file, "").unwrap();
        s.ok(&["restart", "--no-wait", "pages"]);
        s.wait_record("pages", "start", 2);
        assert_eq!(Client::begin(&at).ask("end"), "whole");
        s.end();
    }
}

/// A network namespace of the test's own, with a link to it; both go with this.
struct Network {
    name: String,
    /// The address there.
    inner: String,
    /// The address in the namespace of the test.
    outer: String,
}

impl Network {
    /// None, with the reason, where such things cannot be made.
    ///
    /// `n`: each test has another number.
    fn make(n: u32) -> Result<Network, String> {
        let pid = std::process::id();
        let name = format!("superd-e2e-{pid}-{n}");
        let (link, peer) = (format!("sde{pid}a{n}"), format!("sde{pid}b{n}"));
        let net = format!("10.{}.{}", 128 + (pid >> 8 & 127), pid & 255);
        let (outer, inner) = (
            format!("{net}.{}", 4 * n + 1),
            format!("{net}.{}", 4 * n + 2),
        );
        let ip = |args: &str| {
            let args: Vec<&str> = args.split(' ').collect();
            let said = run(Command::new("ip").args(&args));
            match said.code {
                0 => Ok(()),
                _ => Err(format!("ip {}: {}", args.join(" "), said.err.trim())),
            }
        };
        ip(&format!("netns add {name}"))?;
        let network = Network {
            name: name.clone(),
            inner: inner.clone(),
            outer: outer.clone(),
        };
        for args in [
            format!("link add {link} type veth peer name {peer} netns {name}"),
            format!("addr add {outer}/30 dev {link}"),
            format!("link set {link} up"),
            format!("-n {name} addr add {inner}/30 dev {peer}"),
            format!("-n {name} link set {peer} up"),
            format!("-n {name} link set lo up"),
        ] {
            ip(&args)?;
        }
        Ok(network)
    }
}

impl Network {
    /// Moves this thread, and what it begins, into the namespace.
    fn enter(&self) {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
        // SAFETY: a descriptor that lives until the call returns, and a number.
        let r = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(r, 0, "setns: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The link goes with it.
        run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

#[test]
fn between_two_hosts_a_service_in_a_network_namespace_is_drained() {
    let name = "between_two_hosts_a_service_in_a_network_namespace_is_drained";
    let name = format!("drains::{name}");
    if !root_or_skip(&name) || !program_or_skip(&name, "ip") {
        return;
    }
    let network = match Network::make(0) {
        Ok(network) => network,
        Err(why) => return skip(&name, &why),
    };
    let at = format!("{}:8080", network.inner);
    let toml = format!(
        r#"
        [service.pages]
        command = ["ip", "netns", "exec", "{}", $TWIN:pages, "pages", "--listen", "{at},127.0.0.1:8081"]
        environment = {{ PATH = "/usr/sbin:/usr/bin:/sbin:/bin" }}
        stop = [{{ drain = "10m" }}, {{ signal = "TERM", wait = "10m" }}]
        "#,
        network.name
    );
    let Some((s, _)) = start(&name, Flavour::NoCgroups, &toml) else {
        return;
    };
    // The same port in superd's own namespace is somebody else's.
    let other = std::net::TcpListener::bind((s.place.host.as_str(), 8080)).unwrap();
    let _stranger = TcpStream::connect(other.local_addr().unwrap()).unwrap();
    let mut client = Client::begin(&at);
    let stop = stop(&s);
    wait_connections(&s, 1);
    assert!(is_held(&at, SHORT));
    assert!(!is_held(&other.local_addr().unwrap().to_string(), LIMIT));
    let s = s.succeed();
    wait_connections(&s, 1);
    assert!(is_held(&at, SHORT));
    assert_eq!(client.ask("end"), "whole");
    drop(client);
    finish(stop);
    s.wait_state("pages", "down");
    assert_eq!(s.verdict("pages"), "clean");
    s.end();
}

/// The same storm as on loopback, from the other end of a link.
#[test]
fn between_two_hosts_a_restart_in_a_storm_refuses_and_loses_nobody() {
    let name = "between_two_hosts_a_restart_in_a_storm_refuses_and_loses_nobody";
    let name = format!("drains::{name}");
    if !root_or_skip(&name) || !program_or_skip(&name, "ip") {
        return;
    }
    let network = match Network::make(1) {
        Ok(network) => network,
        Err(why) => return skip(&name, &why),
    };
    let reuseport = shared("/nowhere");
    for (what, toml) in [("sockets", PASSED), ("SO_REUSEPORT", reuseport.as_str())] {
        alone(|| {
            let toml = toml.replace("$HOST", &network.outer);
            let Some((s, _)) = start(&name, Flavour::NoCgroups, &toml) else {
                return;
            };
            let at = format!("{}:8080", network.outer);
            let storm = std::thread::scope(|scope| {
                let clients = scope.spawn(|| {
                    network.enter();
                    restarts_in_a_storm(&s, &at, 3)
                });
                clients.join().unwrap()
            });
            tell(&format!(
                "{what} and drain, two hosts: 3 restarts among 200 new connections a second: {} whole, \
                 {} refused, {} lost; the longest took {:?}",
                storm.whole,
                storm.late,
                storm.lost.len(),
                storm.longest
            ));
            assert_eq!((storm.late, storm.lost), (0, Vec::new()));
            assert!(storm.whole > 100);
            s.end();
        });
    }
}
