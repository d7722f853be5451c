//! Who waits for whom, with real children: oneshots, what is wanted along, what conflicts.

use std::fs;

use serde_json::json;

use crate::support::*;

in_both_flavours! {
    fn what_requires_a_oneshot_starts_when_that_is_done(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.mount]
            command = ["/bin/sh", "-c", "while ! test -e $DIR/gate; do sleep 0.01; done; echo mounted >> $DIR/said"]
            type = "oneshot"
            [service.web]
            command = [$TWIN:web, "obey"]
            requires = ["mount"]
            "#,
        );
        wait_until("it works", || s.status("mount")["awaiting"]["what"] == "its end");
        assert_eq!(s.state("web"), "waiting");
        fs::write(s.place.file("gate"), "").unwrap();
        s.wait_record("web", "start", 1);
        assert_eq!(s.state("mount"), "done");
        assert_eq!(s.ctl(&["status", "mount"]).code, 0);
        // It is done, and remains so: for a start, for another superd, for who requires it.
        s.ok(&["start", "mount"]);
        s.ok(&["restart", "web"]);
        let s = s.succeed();
        assert_eq!((s.state("mount"), s.state("web")), ("done".to_owned(), "up".to_owned()));
        assert_eq!(fs::read_to_string(s.place.file("said")).unwrap(), "mounted\n");
        // Stopped, it takes along who requires it; and then it is to be done again.
        s.ok(&["stop", "mount"]);
        wait_until("web has stopped", || s.state("web") == "waiting");
        s.ok(&["start", "web"]);
        assert_eq!(fs::read_to_string(s.place.file("said")).unwrap(), "mounted\nmounted\n");
        s.end();
    }

    fn a_oneshot_that_does_not_remain_is_done_with_each_start(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.backup]
            command = [$TWIN:backup, "exit", "0"]
            type = "oneshot"
            remain = false
            autostart = false
            [service.bad]
            command = [$TWIN:bad, "exit", "3"]
            type = "oneshot"
            restart = "never"
            autostart = false
            [service.next]
            command = [$TWIN:next, "obey"]
            requires = ["bad"]
            autostart = false
            "#,
        );
        assert_eq!(s.ok(&["start", "backup"]), "backup: done\n");
        assert_eq!(s.record("backup").count("exit"), 1);
        s.ok(&["start", "backup"]);
        assert_eq!(s.record("backup").count("exit"), 2);
        assert_eq!(s.state("backup"), "done");
        let said = s.ctl(&["start", "next"]);
        assert_eq!(said.code, 1);
        assert!(said.err.contains("it requires bad, which could not be started: it exited with status 3"), "{said:?}");
        assert_eq!(s.record("next").count("start"), 0);
        s.end();
    }

    fn what_conflicts_never_runs_at_the_same_time(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.nginx]
            command = [$TWIN:nginx, "slow-stop", "0", "--gate", "$DIR/gate"]
            stop = [{ signal = "TERM", wait = "10m" }]
            [service.caddy]
            command = [$TWIN:caddy, "obey"]
            conflicts = ["nginx"]
            autostart = false
            "#,
        );
        s.wait_record("nginx", "start", 1);
        s.wait_state("nginx", "up");
        s.ok(&["start", "--no-wait", "caddy"]);
        s.wait_record("nginx", "signal TERM", 1);
        assert_eq!(s.status("caddy")["waiting_on"], json!(["nginx"]));
        assert_eq!(s.record("caddy").count("start"), 0);
        fs::write(s.place.file("gate"), "").unwrap();
        s.wait_record("caddy", "start", 1);
        assert_eq!(s.state("nginx"), "down");
        assert_eq!(s.last_end("nginx")["by"], json!({"kind": "conflict", "service": "caddy"}));
        let why = s.ok(&["why", "nginx"]);
        assert!(why.contains("asked by    caddy (conflicts with it)"), "{why}");
        s.ok(&["start", "nginx"]);
        assert_eq!(s.state("caddy"), "down");
        s.end();
    }
}

#[test]
fn what_is_wanted_is_started_along_and_the_graph_shows_it() {
    let s = Superd::start(
        r#"
        [service.net]
        command = [$TWIN:net, "obey"]
        [service.cache]
        command = [$TWIN:cache, "exit", "1"]
        autostart = false
        restart = "never"
        [service.web]
        command = [$TWIN:web, "obey"]
        autostart = false
        requires = ["net"]
        wants = ["cache"]
        [service.other]
        command = [$TWIN:other, "obey"]
        autostart = false
        after = ["web"]
        conflicts = ["net"]
        "#,
    );
    s.ok(&["start", "web"]);
    s.wait_record("cache", "exit 1", 1);
    s.wait_state("cache", "failed");
    assert_eq!(s.state("web"), "up");
    assert_eq!(
        s.ok(&["graph"]),
        "START  SERVICE  STATE   NEEDS\n\
         1      cache    failed  -\n\
         1      net      up      conflicts with other\n\
         2      web      up      requires net; wants cache\n\
         3      other    down    after web; conflicts with net\n"
    );
    let dot = s.ok(&["graph", "--dot"]);
    assert!(dot.starts_with("digraph superd {"), "{dot}");
    assert!(dot.contains("\"web\" -> \"net\" [style = solid];"), "{dot}");
    let json = s.ok(&["graph", "--json"]);
    assert!(
        json.contains(r#""service":"web","state":"up","level":2"#),
        "{json}"
    );
    s.end();
}
