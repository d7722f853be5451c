//! What a service says about itself (sd_notify(3)): which process is the main one, whether
//! it is ready. Only its own tree is believed.

use serde_json::{json, Value};

use crate::support::*;

/// Waits until the child is the main process, and gives its pid.
fn handed_over(s: &Superd, name: &str) -> i32 {
    let record = s.wait_record(name, "handed over", 1);
    let child: i32 = record.rest("handed over to")[0].trim().parse().unwrap();
    wait_until("MAINPID is followed", || s.pid_of(name) == child);
    child
}

fn events_called(s: &Superd, name: &str, what: &str) -> Vec<Value> {
    let mut events = s.events(name);
    events.retain(|e| e["event"] == what);
    events
}

in_both_flavours! {
    fn a_service_that_goes_into_the_background_stays_up_and_is_stopped_there(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "handover", "--session"]
            success-exit = [3]
            "#,
        );
        let child = handed_over(&s, "web");
        s.wait_record("web", "exit 0", 1);
        s.wait_record("web", "heir", 1);
        wait_until("the first process is reaped", || s.status("web")["processes"] == 1);
        assert_eq!(s.state("web"), "up");
        assert!(s.ends("web").is_empty(), "its first process is not the service");
        let told = events_called(&s, "web", "main-process");
        assert_eq!(told[0]["pid"], child);
        assert!(s.ok(&["why", "web"]).contains(&format!("its main process is pid {child} now")));
        s.ok(&["stop", "web"]);
        let record = s.record("web");
        let term: Vec<i32> = record.all("signal TERM").map(|n| n.pid).collect();
        assert_eq!(term, [child]);
        // Left to superd, it is superd's child: its status is known.
        let end = s.last_end("web");
        assert_eq!(end["exit"], json!({"code": 3}));
        assert_eq!(end["verdict"], "clean");
        assert_eq!(end["pid"], child);
        s.end();
    }

    fn the_end_of_a_main_process_that_is_another_ones_child_is_noticed(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "handover", "--stay"]
            restart-delay = "1ms"
            "#,
        );
        let child = handed_over(&s, "web");
        s.wait_record("web", "heir", 1);
        kill(child, libc::SIGKILL);
        // Its parent may have reaped it: then nobody can say how it ended.
        let record = s.wait_record("web", "start", 2);
        assert_eq!(record.count("start"), 2);
        let end = s.last_end("web");
        let known = json!({"signal": 9});
        assert!(end["exit"] == "unknown" || end["exit"] == known, "{end}");
        assert_eq!(end["left"], 1, "the parent goes with it");
        // And again, by the schedule: nothing speaks against it.
        s.wait_record("web", "handed over", 2);
        s.wait_record("web", "heir", 2);
        wait_until("MAINPID is followed", || {
            events_called(&s, "web", "main-process").len() == 2
        });
        s.ok(&["stop", "web"]);
        s.assert_nothing_left();
        s.end();
    }

    fn a_main_process_that_hands_over_while_it_stops_is_waited_for(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "handover", "--on-term", "--session"]
            stop = [
                { signal = "TERM", until = "log=handed over", wait = "10m" },
                { signal = "INT", wait = "10m" },
            ]
            "#,
        );
        s.wait_record("web", "start", 1);
        s.wait_state("web", "up");
        s.ctl(&["stop", "web"]);
        // The TERM had its effect, and is not repeated; the next step finds the new one.
        let record = s.record("web");
        let term: Vec<i32> = record.all("signal TERM").map(|n| n.pid).collect();
        let int: Vec<i32> = record.all("signal INT").map(|n| n.pid).collect();
        assert_eq!((term.len(), int.len()), (1, 1), "{:?}", record.rest("signal"));
        assert_ne!(term, int);
        let end = s.last_end("web");
        assert_eq!(end["exit"], json!({"code": 3}));
        assert_eq!(end["pid"], int[0]);
        s.end();
    }

    fn the_last_mainpid_counts_and_it_may_be_the_first_process_again(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "handover", "--stay", "--then", "MAINPID=$SELF"]
            "#,
        );
        let record = s.wait_record("web", "handed over", 1);
        s.wait_record("web", "heir", 1);
        let first = record.all("start").next().unwrap().pid;
        let child: i32 = record.rest("handed over to")[0].trim().parse().unwrap();
        wait_until("the first one is the main one", || s.pid_of("web") == first);
        kill(child, libc::SIGKILL);
        s.wait_record("web", "child reaped", 1);
        assert_eq!(s.state("web"), "up");
        s.ok(&["stop", "web"]);
        assert_eq!(s.last_end("web")["exit"], json!({"code": 0}));
        assert_eq!(s.last_end("web")["pid"], first);
        s.end();
    }

    fn a_mainpid_that_is_gone_or_not_its_own_is_ignored_and_told(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            &format!(
                r#"
                [service.web]
                command = [$TWIN:web, "notify", "MAINPID=2147483647"]
                [service.bad]
                command = [$TWIN:bad, "notify", "MAINPID={}"]
                "#,
                std::process::id()
            ),
        );
        for name in ["web", "bad"] {
            let record = s.wait_record(name, "notified", 1);
            let own = record.all("start").next().unwrap().pid;
            wait_until("it is told", || {
                events_called(&s, name, "main-process-refused").len() == 1
            });
            assert_eq!(s.pid_of(name), own);
        }
        let log = s.place.log();
        assert!(log.contains("web: MAINPID=2147483647 is ignored: there is no such process"), "{log}");
        assert!(log.contains("bad: MAINPID="), "{log}");
        s.end();
    }
}

#[test]
fn what_a_service_says_of_its_readiness_is_shown() {
    let s = Superd::start(
        r#"
        [service.mute]
        command = [$TWIN:mute, "obey"]
        [service.busy]
        command = [$TWIN:busy, "notify", "STATUS=loading"]
        [service.web]
        command = [$TWIN:web, "notify", "READY=1"]
        [service.again]
        command = [$TWIN:again, "notify", "READY=1", "RELOADING=1"]
        [service.done]
        command = [$TWIN:done, "notify", "READY=1", "RELOADING=1", "READY=1"]
        "#,
    );
    s.wait_record("mute", "start", 1);
    for name in ["busy", "web", "again", "done"] {
        s.wait_record(name, "notified", 1);
    }
    for (name, ready, reloading) in [
        ("mute", "not-told", false),
        ("busy", "no", false),
        ("web", "yes", false),
        ("again", "yes", true),
        ("done", "yes", false),
    ] {
        let is_so = || {
            let status = s.status(name);
            status["ready"] == ready && status["reloading"].as_bool().unwrap_or(false) == reloading
        };
        wait_until(&format!("{name}: {ready}, {reloading}"), is_so);
    }
    wait_until("all is told", || {
        events_called(&s, "done", "ready").len() == 2
    });
    assert_eq!(events_called(&s, "done", "says-reloading").len(), 1);
    assert!(s
        .ok(&["status", "again"])
        .contains("ready         reloading"));
    assert!(s.ok(&["status", "web"]).contains("ready         yes"));
    // Nothing waits for it.
    assert_eq!(s.state("busy"), "up");
    s.end();
}
