//! What a drain costs and how fast it is, whom it closes for being idle, and the limit on
//! connections that works by the same means.

use std::io::{BufRead, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::drain_support::*;
use crate::support::*;

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
