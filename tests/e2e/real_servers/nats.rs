//! An application that embeds NATS: one signal, two handlers.

use super::*;

const ROUNDS: usize = 50;

/// "stop <= 1 s each".
const LONGEST: Duration = Duration::from_secs(1);

/// The shipped definition, with our command, and with this schedule when there is one.
fn definition(nats: &Path, stop: Option<&str>) -> String {
    let command = format!("[{nats:?}, \"{}\"]", free_port());
    shipped("nats", &command, stop)
}

/// Starts it, waits until it has two handlers, and stops it; the report.
fn stopped(s: &Superd, round: usize) -> Value {
    s.ok(&["start", "nats"]);
    wait_until("nats is ready", || {
        s.place.log().matches("nats | ready").count() == round
    });
    s.ctl(&["stop", "nats"]);
    s.last_end("nats")
}

/// Every stop without a panic, with the application's clean-up, and in time.
fn is_stopped_well(name: &str, trigger: &str, without: &str, stop: Option<&str>) {
    let Some(nats) = server_or_skip(name, "nats") else {
        return;
    };
    let s = Superd::start(&definition(&nats, stop));
    let (mut bad, mut cleaned, mut stops) = (0, 0, Times::within(LONGEST));
    for round in 1..=ROUNDS {
        let end = stopped(&s, round);
        if end["crash"].is_object() || end["verdict"] != "clean" || end["exit"]["code"] != 0 {
            bad += 1;
            tell(&format!("nats: round {round}: {end}"));
        }
        stops.add(duration(&end["took"]));
        let last = said(&s, "nats").pop();
        cleaned += usize::from(last.is_some_and(|l| l == "app cleanup done"));
    }
    let counted = bad + stops.late();
    row(
        "nats 2.9.10",
        trigger,
        without,
        counted,
        ROUNDS,
        stops.longest(),
    );
    assert_eq!((bad, cleaned), (0, ROUNDS));
    stops.assert_mostly_in_time();
    s.end();
}

#[test]
fn an_embedded_nats_server_is_stopped_without_a_panic_and_cleans_up() {
    is_stopped_well(
        "an_embedded_nats_server_is_stopped_without_a_panic_and_cleans_up",
        "TERM (nats-lame-duck)",
        "nats",
        None,
    );
}

#[test]
fn it_is_as_well_with_int_in_place_of_term() {
    is_stopped_well(
        "it_is_as_well_with_int_in_place_of_term",
        "INT (lame duck before it)",
        "nats --signal INT",
        Some(
            r#"[{ signal = "USR2", until = "ports-closed", wait = "30s", settle = "200ms" },
                { signal = "INT", wait = "15s" }]"#,
        ),
    );
}

#[test]
fn every_panic_of_nats_by_a_plain_term_is_called_one() {
    let name = "every_panic_of_nats_by_a_plain_term_is_called_one";
    let Some(nats) = server_or_skip(name, "nats") else {
        return;
    };
    let s = Superd::start(&definition(&nats, Some("\"TERM\"")));
    s.know_faults();
    let (mut panics, mut told) = (0, 0);
    for round in 1..=ROUNDS {
        let before = s.place.log().len();
        let end = stopped(&s, round);
        let called_one = end["verdict"] == "panicked-while-stopping";
        told += usize::from(called_one);
        let panicked = s.place.log()[before..].contains("nats | panic: ");
        panics += usize::from(panicked);
        assert_eq!(panicked, called_one, "{end}");
        if panicked {
            assert_eq!(end["crash"]["kind"], "go-panic", "{end}");
            let known = end["known"].as_str().unwrap_or("");
            assert!(known.starts_with("nats-server, embedded in "), "{end}");
            let out = s.ok(&["why", "nats"]);
            assert!(out.contains("panicked while stopping"), "{out}");
        }
        assert_eq!(s.state("nats"), "down", "it was not started again");
    }
    tell(&format!(
        "nats: by a plain TERM {panics} of {ROUNDS} panicked, and superd says so of {told}"
    ));
    assert!(panics >= 5, "this machine does not show the fault");
    s.end();
}
