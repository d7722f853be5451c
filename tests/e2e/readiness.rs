//! `ready`: a service counts as up when it is ready, and not before. Real servers that become
//! ready when the test lets them, by each of the ways in which that can be found out.

use std::fs;

use serde_json::json;

use crate::support::*;

/// A service that opens when the file `gate` is there, and one that requires it.
fn pair(ready: &str, arguments: &str) -> String {
    format!(
        r#"
        [service.web]
        command = [$TWIN:web, "web", "--gate", "$DIR/gate"{arguments}]
        ready = {ready}
        start-timeout = "10m"
        [service.next]
        command = [$TWIN:next, "obey"]
        requires = ["web"]
        "#
    )
}

fn open(s: &Superd) {
    fs::write(s.place.file("gate"), "").unwrap();
}

/// The service executes, is not ready, and somebody waits for it; then it becomes ready.
fn waits_until_ready(flavour: Flavour, ready: &str, arguments: &str) -> Superd {
    let s = Superd::start_in(flavour, &pair(ready, arguments));
    s.wait_record("web", "start", 1);
    wait_until("it is waited for", || {
        s.status("web")["awaiting"].is_object()
    });
    let status = s.status("web");
    assert_eq!(
        (&status["state"], &status["ready"]),
        (&json!("starting"), &json!("no"))
    );
    assert_eq!(s.state("next"), "waiting");
    assert_eq!(s.status("next")["waiting_on"], json!(["web"]));
    let said = std::thread::scope(|scope| {
        let start = scope.spawn(|| s.ctl(&["start", "web"]));
        wait_until("the client is there", || {
            s.status("web")["awaiting"].is_object()
        });
        assert_eq!(s.record("web").count("ready"), 0);
        open(&s);
        start.join().unwrap()
    });
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(s.state("web"), "up");
    assert_eq!(s.status("web")["ready"], "yes");
    s.wait_record("web", "ready", 1);
    s.wait_record("next", "start", 1);
    s.assert_starts("web", 1);
    s
}

in_both_flavours! {
    fn ready_by_its_message(flavour: Flavour) {
        waits_until_ready(flavour, "{ notify = true }", "").end();
    }

    fn ready_by_its_descriptor(flavour: Flavour) {
        let s = waits_until_ready(flavour, "{ notify-fd = 7 }", r#", "--fd", "7""#);
        assert!(!s.place.file("run/web.ready").exists());
        s.end();
    }

    fn ready_when_it_accepts_connections(flavour: Flavour) {
        let listen = r#", "--listen", "$HOST:7011""#;
        waits_until_ready(flavour, r#"{ tcp = "$HOST:7011", interval = "20ms" }"#, listen).end();
        let listen = r#", "--listen", "unix:$DIR/web.sock""#;
        waits_until_ready(flavour, r#"{ tcp = "unix:$DIR/web.sock" }"#, listen).end();
    }

    fn ready_when_a_command_says_so(flavour: Flavour) {
        let ready = r#"{ exec = ["/bin/sh", "-c", "test -e $DIR/gate"], interval = "20ms" }"#;
        waits_until_ready(flavour, ready, "").end();
    }

    fn ready_by_a_line_of_its_output(flavour: Flavour) {
        waits_until_ready(flavour, r#"{ log = "open for business" }"#, "").end();
    }

    fn ready_by_a_file(flavour: Flavour) {
        let touch = r#", "--touch", "$DIR/web.pid""#;
        let s = waits_until_ready(flavour, r#"{ file = "$DIR/web.pid" }"#, touch);
        // The file is still there at the next start; it is no sign of that one.
        fs::remove_file(s.place.file("gate")).unwrap();
        s.ok(&["restart", "--no-wait", "web"]);
        s.wait_record("web", "start", 2);
        wait_until("the old file is seen", || {
            let what = s.status("web")["awaiting"]["what"].to_string();
            what.contains("from before the start")
        });
        open(&s);
        s.wait_state("web", "up");
        s.end();
    }

    fn a_hung_probe_is_killed_with_all_that_it_started(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "obey"]
            ready = { exec = [$TWIN:probe, "tree", "--stubborn"], timeout = "300ms", interval = "10m" }
            start-timeout = "20m"
            "#,
        );
        let record = s.wait_record("probe", "start", 1);
        let probe = record.all("start").next().unwrap().pid;
        wait_until("the probe is given up", || {
            s.status("web")["awaiting"]["what"] == "no answer within 300 ms"
        });
        wait_until("it is gone", || state_of(probe).is_none());
        wait_until("nothing but superd and the service is left", || s.place.processes().len() == 2);
        s.end();
    }

    fn one_that_is_not_ready_in_time_is_stopped_by_its_schedule(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "obey"]
            autostart = false
            ready = { tcp = "$HOST:7012", interval = "20ms" }
            start-timeout = "200ms"
            restart = "never"
            stop = [{ signal = "INT", wait = "10m" }]
            "#,
        );
        let said = s.ctl(&["start", "web"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("not ready within"), "{said:?}");
        assert!(said.err.contains("connection refused"), "{said:?}");
        s.wait_state("web", "failed");
        let shown = s.status("web")["last_exit"].to_string();
        assert!(shown.contains("not ready within"), "{shown}");
        let end = s.last_end("web");
        assert_eq!(end["by"]["kind"], "unfit", "{end}");
        assert_eq!(end["verdict"], "clean");
        assert_eq!(s.record("web").count("signal INT"), 1);
        let why = s.ok(&["why", "web"]);
        assert!(why.contains("superd: not ready within"), "{why}");
        assert!(why.contains("INT at"), "{why}");
        s.end();
    }

    fn an_upgrade_goes_on_waiting(flavour: Flavour) {
        let exec = r#"{ exec = ["/bin/sh", "-c", "while ! test -e $DIR/gate; do sleep 0.01; done"], interval = "20ms", timeout = "10m" }"#;
        for (ready, arguments) in [
            (exec, ""),
            (r#"{ http = "http://$HOST:7014/" }"#, r#", "--listen", "$HOST:7014""#),
            (r#"{ log = "open for business" }"#, ""),
            (r#"{ notify-fd = 5 }"#, r#", "--fd", "5""#),
            (r#"{ notify = true }"#, ""),
        ] {
            let s = Superd::start_in(flavour, &pair(ready, arguments));
            s.wait_record("web", "start", 1);
            wait_until("it is waited for", || {
                s.status("web")["awaiting"].is_object()
            });
            s.ok(&["upgrade"]);
            assert_eq!(s.state("web"), "starting", "{ready}");
            open(&s);
            s.wait_state("web", "up");
            s.wait_record("next", "start", 1);
            s.assert_starts("web", 1);
            assert_eq!(s.record("web").count("signal"), 0, "{ready}");
            s.end();
        }
    }

    fn a_successor_goes_on_waiting(flavour: Flavour) {
        let exec = r#"{ exec = ["/bin/sh", "-c", "test -e $DIR/gate"], interval = "20ms" }"#;
        for (ready, arguments, meanwhile) in [
            (exec, "", true),
            (r#"{ log = "open for business" }"#, "", true),
            (r#"{ notify-fd = 3 }"#, r#", "--fd", "3""#, false),
            (r#"{ notify = true }"#, "", false),
        ] {
            let s = Superd::start_in(flavour, &pair(ready, arguments));
            s.wait_record("web", "start", 1);
            wait_until("it is waited for", || {
                s.status("web")["awaiting"].is_object()
            });
            let place = s.abandon();
            let gate = place.file("gate");
            if meanwhile {
                // It becomes ready while nobody is there.
                fs::write(&gate, "").unwrap();
                place.wait_record("web", "ready", 1);
            }
            let s = place.resume();
            if !meanwhile {
                assert_eq!(s.state("web"), "starting");
                fs::write(&gate, "").unwrap();
            }
            s.wait_state("web", "up");
            assert_eq!(s.status("web")["adopted"], true, "{ready}");
            s.wait_record("next", "start", 1);
            s.assert_starts("web", 1);
            assert_eq!(s.record("web").count("signal"), 0, "{ready}");
            s.end();
        }
    }
}

#[test]
fn ready_when_it_answers_http() {
    let ready = r#"{ http = "http://$HOST:7013/up", status = 204, interval = "20ms" }"#;
    let arguments = r#", "--listen", "$HOST:7013", "--status", "$DIR/status""#;
    let s = Superd::start(&pair(ready, arguments));
    s.wait_record("web", "start", 1);
    open(&s);
    s.wait_record("web", "request GET /up HTTP/1.1", 1);
    wait_until("its answer is another one", || {
        s.status("web")["awaiting"]["what"]
            .to_string()
            .contains("HTTP 200")
    });
    assert_eq!(s.state("next"), "waiting");
    fs::write(s.place.file("status.new"), "204").unwrap();
    fs::rename(s.place.file("status.new"), s.place.file("status")).unwrap();
    s.wait_state("web", "up");
    s.wait_record("next", "start", 1);
    // When it is ready nobody asks any more.
    let asked = s.record("web").count("request");
    s.ok(&["restart", "next"]);
    assert_eq!(s.record("web").count("request"), asked);
    s.end();
}

#[test]
fn ready_after_some_time_and_more_time_on_request() {
    let s = Superd::start(
        r#"
        [service.calm]
        command = [$TWIN:calm, "obey"]
        ready-after = "50ms"
        [service.slow]
        command = [$TWIN:slow, "web", "--gate", "$DIR/gate", "--say", "EXTEND_TIMEOUT_USEC=600000000"]
        ready = { notify = true }
        start-timeout = "1s"
        "#,
    );
    s.wait_state("calm", "up");
    let events = s.events("calm");
    let told = |what: &str| {
        let event = events.iter().find(|e| e["event"] == what);
        event.unwrap_or_else(|| panic!("{what}: {events:?}"))["ago_ms"]
            .as_u64()
            .unwrap()
    };
    // What is told is told a little later where much else runs, but a start before its exec.
    assert!(told("starting") >= told("up") + 49, "{events:?}");
    wait_until("more time is given", || {
        s.status("slow")["awaiting"]["left_ms"]
            .as_u64()
            .unwrap_or(0)
            > 60_000
    });
    open(&s);
    s.wait_state("slow", "up");
    s.end();
}

#[test]
fn who_ends_before_it_is_ready_is_told_with_its_exit() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "exit", "3"]
        autostart = false
        ready = { notify = true }
        restart = "never"
        "#,
    );
    let said = s.ctl(&["start", "web"]);
    assert_eq!(said.code, 1);
    assert!(
        said.err
            .contains("it exited with status 3 before it was ready"),
        "{said:?}"
    );
    s.end();
}
