//! Services that are up and not well: health checks and the watchdog, with real children.

use std::fs;

use serde_json::json;

use crate::support::*;

/// What the server answers from now on.
fn set_status(s: &Superd, status: &str) {
    fs::write(s.place.file("status.new"), status).unwrap();
    fs::rename(s.place.file("status.new"), s.place.file("status")).unwrap();
}

fn web(health: &str) -> String {
    format!(
        r#"
        [service.web]
        command = [$TWIN:web, "web", "--listen", "$HOST:7021", "--status", "$DIR/status"]
        ready = {{ tcp = "$HOST:7021", interval = "20ms" }}
        health = {health}
        restart-delay = "1ms"
        stop = [{{ signal = "INT", wait = "10m" }}]
        "#
    )
}

in_both_flavours! {
    fn a_failing_check_is_an_orderly_stop_and_a_start_and_why_tells_it(flavour: Flavour) {
        let health = r#"{ http = "http://$HOST:7021/health", interval = "10ms", failures = 3 }"#;
        let s = Superd::start_in(flavour, &web(health));
        s.wait_state("web", "up");
        s.wait_record("web", "request GET /health", 3);
        assert_eq!(s.status("web")["health"], "well");
        assert_eq!(s.record("web").count("signal"), 0);
        set_status(&s, "503");
        s.wait_record("web", "signal INT", 1);
        set_status(&s, "200");
        s.wait_record("web", "start", 2);
        s.wait_state("web", "up");
        let end = &s.ends("web")[0];
        assert_eq!(end["by"]["kind"], "unfit", "{end}");
        assert_eq!(end["verdict"], "clean");
        let why = s.ok(&["why", "web"]);
        let text = "asked by    superd: its health check failed 3 times in a row: GET http://";
        assert!(why.contains(text) && why.contains("HTTP 503"), "{why}");
        assert!(why.contains("health check failed, 1 of 3"), "{why}");
        wait_until("it is well", || s.status("web")["health"] == "well");
        s.end();
    }

    fn what_superd_has_no_descriptor_to_ask_is_no_wrong_answer(flavour: Flavour) {
        for health in [
            r#"{ http = "http://$HOST:7021/health", interval = "10ms", failures = 1 }"#,
            r#"{ exec = ["/bin/true"], interval = "10ms", failures = 1 }"#,
        ] {
            let s = Superd::start_in(flavour, &web(health));
            let mut raw = s.raw();
            let mut health = || {
                let status = &raw.ask(&json!({"do": "status", "service": "web"}))[0]["status"];
                status["health"].as_str().unwrap_or_default().to_owned()
            };
            wait_until("it is well", || health() == "well");
            let before = limit_open_files(s.pid, 3);
            wait_until("it cannot be asked", || health().starts_with("not checked: "));
            assert!(health().contains("oo many open files"), "{}", health());
            limit_open_files(s.pid, before);
            wait_until("it is well again", || health() == "well");
            assert_eq!(s.record("web").count("signal"), 0);
            assert_eq!(s.record("web").count("start"), 1);
            let told = s.place.log().matches("could not be checked").count();
            assert!(told > 0, "{}", s.place.log());
            s.end();
        }
    }

    fn a_server_that_hangs_is_not_well(flavour: Flavour) {
        let health =
            r#"{ http = "http://$HOST:7021/", interval = "10ms", timeout = "50ms", failures = 2, action = "stop" }"#;
        let s = Superd::start_in(flavour, &web(health));
        s.wait_state("web", "up");
        set_status(&s, "hang");
        s.wait_state("web", "failed");
        assert_eq!(s.record("web").count("signal INT"), 1);
        let why = s.ok(&["why", "web"]);
        assert!(why.contains("no answer within 50 ms"), "{why}");
        assert!(why.contains("not started again: its health check failed"), "{why}");
        set_status(&s, "200");
        s.ok(&["start", "web"]);
        s.end();
    }

    fn an_answer_is_right_when_its_status_is_one_of_those_that_are_named(flavour: Flavour) {
        let health = |status: &str| {
            format!(
                r#"{{ http = "http://$HOST:7021/health", status = {status}, interval = "10ms", failures = 2, action = "stop" }}"#
            )
        };
        for (status, right, wrong) in [("401", "401", "200"), ("[204, 503]", "503", "401")] {
            let place = Place::new();
            fs::write(place.file("status"), right).unwrap();
            place.configure(flavour, &web(&health(status)));
            let s = place.resume();
            s.wait_state("web", "up");
            s.wait_record("web", "request GET /health", 5);
            assert_eq!((s.status("web")["health"].clone(), s.state("web")), ("well".into(), "up".to_owned()));
            set_status(&s, wrong);
            s.wait_state("web", "failed");
            let why = s.ok(&["why", "web"]);
            assert!(why.contains(&format!("HTTP {wrong}")), "{why}");
            assert_eq!(s.record("web").count("signal INT"), 1);
            s.end();
        }
    }

    fn a_port_that_nobody_listens_on_is_not_well(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "obey"]
            health = { tcp = "$HOST:7022", interval = "10ms", failures = 2, action = "stop" }
            "#,
        );
        s.wait_state("web", "failed");
        let why = s.ok(&["why", "web"]);
        let text = "its health check failed 2 times in a row: tcp ";
        assert!(why.contains(text) && why.contains("connection refused"), "{why}");
        assert_eq!(s.verdict("web"), "clean");
        s.end();
    }

    fn a_command_is_run_in_its_place_and_the_service_runs_on(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "obey"]
            health = { exec = ["/bin/sh", "-c", "! test -e $DIR/sick"], interval = "10ms", failures = 1, run = ["/bin/rm", "$DIR/sick"] }
            "#,
        );
        s.wait_record("web", "start", 1);
        let before = s.pid_of("web");
        fs::write(s.place.file("sick"), "").unwrap();
        wait_until("it is cured", || !s.place.file("sick").exists());
        wait_until("that is told", || {
            s.events("web").iter().any(|e| e["event"] == "healthy")
        });
        assert_eq!((s.state("web"), s.pid_of("web")), ("up".to_owned(), before));
        s.end();
    }

    fn a_watchdog_has_to_be_fed(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "web", "--ping-until", "$DIR/tired"]
            watchdog = "2s"
            restart = "never"
            [service.quits]
            command = [$TWIN:quits, "notify", "WATCHDOG=trigger"]
            watchdog = "10m"
            ready-after = "100ms"
            restart = "never"
            [service.shows]
            command = ["/bin/sh", "-c", "echo \"usec=$WATCHDOG_USEC\"; exec sleep 1000"]
            watchdog = "1m30s"
            "#,
        );
        s.wait_record("web", "notify WATCHDOG=1", 20);
        assert_eq!((s.state("web"), s.record("web").count("signal")), ("up".to_owned(), 0));
        wait_until("its environment is shown", || {
            s.ok(&["logs", "shows"]).contains("usec=90000000")
        });
        fs::write(s.place.file("tired"), "").unwrap();
        s.wait_record("web", "signal TERM", 1);
        wait_until("it has stopped", || !s.ends("web").is_empty());
        let why = s.ok(&["why", "web"]);
        assert!(why.contains("superd: no WATCHDOG=1 within 2 s"), "{why}");
        // What is said before it is up is no sign of what comes later.
        s.wait_record("quits", "notified", 1);
        assert!(s.ends("quits").is_empty());
        s.end();
    }

    fn an_upgrade_goes_on_counting(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "web", "--ping-until", "$DIR/tired"]
            watchdog = "3s"
            health = { exec = ["/bin/sh", "-c", "echo >> $DIR/asked; exit 1"], interval = "200ms", failures = 4 }
            "#,
        );
        let asked = || fs::read_to_string(s.place.file("asked")).unwrap_or_default().len();
        wait_until("two have failed", || {
            s.status("web")["health"].to_string().contains("2 of 4")
        });
        s.ok(&["upgrade"]);
        s.wait_record("web", "signal TERM", 1);
        assert_eq!(asked(), 4, "the count goes on");
        let end = wait_for("its end", || s.ends("web").pop());
        assert_eq!(end["by"]["kind"], "unfit", "{end}");
        s.end();
    }

    fn another_superd_goes_on_watching(flavour: Flavour) {
        let health = r#"{ http = "http://$HOST:7021/", interval = "10ms", failures = 2 }"#;
        let s = Superd::start_in(flavour, &web(health));
        s.wait_record("web", "request", 2);
        let s = s.succeed();
        let before = s.record("web").count("request");
        s.wait_record("web", "request", before + 2);
        set_status(&s, "500");
        s.wait_record("web", "signal INT", 1);
        set_status(&s, "200");
        s.wait_record("web", "start", 2);
        assert_eq!(s.record("web").count("signal INT"), 1);
        s.end();
    }
}
