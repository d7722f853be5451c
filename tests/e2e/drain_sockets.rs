//! Drains of a service whose listening sockets are superd's (`sockets`): nobody is refused, also
//! in the middle of a restart, a crash or an upgrade.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::drain_storms::{restarts_in_a_storm, storm};
use crate::drain_support::*;
use crate::support::*;

/// The sockets are superd's; the first one is the second descriptor of the service.
pub const PASSED: &str = r#"
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
        storm.tell("sockets and drain", 5);
        storm.assert_nobody_refused();
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
                assert_eq!(Client::connect(&at).ask("begin"), "begun");
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
        storm.assert_nobody_refused(); // after an adoption
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
            assert_eq!(early.line(), "begun");
        }
        s.wait_record("pages", "start", n);
    }
    s.ok(&["stop", "pages"]);
    assert!(TcpStream::connect(&at).is_err());
    s.end();
}
