//! Drains: what is open finishes whole, who is new is delayed, and the server takes no part.

use std::net::{TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use crate::drain_support::*;
use crate::support::*;

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
