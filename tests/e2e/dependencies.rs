//! Who waits for whom, with real children: oneshots, what is wanted along, what conflicts, and
//! who is restarted with whom.

use std::fs;
use std::os::unix::fs::PermissionsExt;

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

    fn what_requires_one_that_has_failed_says_so_and_comes_back_with_it(flavour: Flavour) {
        let s = Superd::start_in(flavour, FAILING);
        // At boot, of one that cannot be started and is tried slowly.
        let status = wait_for("reader is blocked", || {
            Some(s.status("reader")).filter(|status| status["state"] == "failed")
        });
        let why = "it requires late, which has failed: executing \"";
        assert!(status["blocked"].as_str().unwrap().starts_with(why), "{status}");
        assert_eq!(status["waiting_on"], json!(["late"]));
        // Later, of one that is not tried again; and who requires that one in turn.
        s.wait_state("top", "up");
        fs::write(s.place.file("bad"), "").unwrap();
        kill(s.pid_of("db"), libc::SIGUSR1);
        for name in ["web", "top"] {
            s.wait_state(name, "failed");
        }
        let why = "it requires db, which has failed: exited with status 3";
        assert_eq!(s.status("top")["blocked"], why);
        for args in [&["status"][..], &["status", "web"], &["why", "web"], &["status", "top"], &["why", "top"]] {
            let said = s.ctl(args);
            assert!(said.out.contains(why), "{args:?}: {said:?}");
        }
        assert_eq!(s.ctl(&["status", "web"]).code, 1, "as of what has failed");
        assert_eq!(s.last_end("web")["by"], json!({"kind": "dependency", "service": "db"}));
        wait_until("that is in the log", || {
            s.place.log().contains(&format!("web: cannot be started: {why}"))
        });
        // For the next superd, and for the same one as another program.
        let s = s.succeed();
        s.ok(&["upgrade"]);
        assert_eq!(s.status("top")["blocked"], why);
        let told = s.events("top").iter().filter(|e| e["event"] == "blocked").count();
        assert_eq!(told, 1, "{:?}", s.events("top"));
        // Who asks for it is told, too: db is tried once more for it.
        let said = s.ctl(&["start", "top"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("it requires db, which could not be started"), "{said:?}");
        s.wait_state("top", "failed");
        fs::remove_file(s.place.file("bad")).unwrap();
        s.ok(&["start", "db"]);
        s.wait_record("web", "start", 2);
        s.wait_record("top", "start", 2);
        s.wait_state("top", "up");
        assert_eq!(s.status("top")["blocked"], json!(null));
        // What is tried slowly comes up by itself.
        let late = s.place.file("late");
        fs::write(&late, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        fs::set_permissions(&late, fs::Permissions::from_mode(0o755)).unwrap();
        s.wait_state("reader", "up");
        s.end();
    }

    fn what_requires_one_that_has_ended_or_is_stopped_waits_for_a_start(flavour: Flavour) {
        let s = Superd::start_in(flavour, FAILING);
        s.wait_state("top", "up");
        kill(s.pid_of("db"), libc::SIGUSR2);
        for name in ["web", "top"] {
            s.wait_state(name, "waiting");
        }
        let hint = "waits for db (not to run: superctl start db)";
        assert!(s.ctl(&["status"]).out.contains(hint));
        s.ok(&["start", "db"]);
        s.wait_state("top", "up");
        s.ok(&["stop", "db"]);
        assert_eq!(s.state("web"), "waiting");
        assert!(s.ctl(&["status"]).out.contains(hint));
        s.ok(&["start", "top"]);
        assert_eq!((s.state("db"), s.state("web")), ("up".to_owned(), "up".to_owned()));
        // A crash is no reason to stop it, also where it is tried slowly then.
        kill(s.pid_of("flaky"), libc::SIGKILL);
        s.wait_record("flaky", "start", 2);
        s.wait_state("flaky", "up");
        kill(s.pid_of("flaky"), libc::SIGKILL);
        s.wait_state("flaky", "failed");
        assert_eq!((s.state("user"), s.record("user").count("signal")), ("up".to_owned(), 0));
        // But it does not come back before that one.
        kill(s.pid_of("user"), libc::SIGKILL);
        s.wait_state("user", "failed");
        assert_eq!(s.status("user")["blocked"], "it requires flaky, which has failed: ended by SIGKILL");
        s.ok(&["start", "flaky"]);
        s.wait_record("user", "start", 2);
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

    fn who_is_restarted_with_another_one_is_when_that_has_begun_anew(flavour: Flavour) {
        let s = Superd::start_in(flavour, COMPANIONS);
        for name in ["db", "web", "mail", "other"] {
            s.wait_state(name, "up");
        }
        assert_eq!(s.ok(&["restart", "db"]), "db: up; web, mail are restarted with it\n");
        s.wait_record("web", "start", 2);
        s.wait_record("mail", "start", 2);
        for name in ["web", "mail"] {
            s.wait_state(name, "up");
            assert_eq!(s.record(name).count("signal TERM"), 1, "{name}");
        }
        let by = |service| json!({"kind": "restart-with", "service": service});
        assert_eq!(s.last_end("web")["by"], by("db"));
        assert_eq!(s.last_end("mail")["by"], by("web"), "a chain");
        let why = s.ok(&["why", "web"]);
        assert!(why.contains("asked by    db, which was restarted"), "{why}");
        assert!(why.contains("starting, run number 2, asked by db, which was restarted"), "{why}");
        // A crash is the same, and who is stopped stays so.
        s.ok(&["stop", "mail"]);
        kill(s.pid_of("db"), libc::SIGKILL);
        s.wait_record("web", "start", 3);
        s.wait_state("web", "up");
        // A reload, a stop and a restart that is refused are no new run.
        fs::write(s.place.file("bad"), "").unwrap();
        let said = s.ctl(&["restart", "db"]);
        assert_eq!(said.code, 1, "{said:?}");
        fs::remove_file(s.place.file("bad")).unwrap();
        s.ok(&["reload", "db"]);
        s.wait_record("db", "signal HUP", 1);
        s.ok(&["stop", "db"]);
        assert_eq!((s.state("web"), s.state("other")), ("up".to_owned(), "up".to_owned()));
        assert_eq!(s.ok(&["start", "db"]), "db: up; web is restarted with it\n");
        s.wait_record("web", "start", 4);
        s.wait_state("web", "up");
        let starts = |name| s.record(name).count("start");
        assert_eq!(["web", "mail", "other"].map(starts), [4, 2, 1]);
        s.end();
    }

    fn a_successor_restarts_who_is_to_be_restarted_and_nobody_twice(flavour: Flavour) {
        let s = Superd::start_in(flavour, COMPANIONS);
        s.wait_state("mail", "up");
        s.ok(&["restart", "db"]);
        s.wait_record("mail", "start", 2);
        s.wait_state("mail", "up");
        // As it should be: for the next superd, and for the same one in another program.
        let s = s.succeed();
        s.ok(&["upgrade"]);
        s.ok(&["restart", "other"]);
        let starts = |s: &Superd| ["db", "web", "mail"].map(|name| s.record(name).count("start"));
        assert_eq!(starts(&s), [2, 2, 2]);
        // It has ended while no superd was there, and begins anew by the next.
        let db = s.pid_of("db");
        let place = s.abandon();
        kill(db, libc::SIGKILL);
        let s = place.resume();
        s.wait_record("mail", "start", 3);
        s.wait_state("mail", "up");
        s.ok(&["restart", "other"]);
        assert_eq!(starts(&s), [3, 3, 3]);
        s.end();
    }
}

/// `db` fails for good, or ends; `late` and `flaky` are tried again, slowly.
const FAILING: &str = r#"
    [service.db]
    command = ["/bin/sh", "-c", "test -e $DIR/bad && exit 3; trap 'exit 3' USR1; trap 'exit 0' USR2; trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done"]
    ready = { log = "ready" }
    restart = "never"
    [service.web]
    command = [$TWIN:web, "obey"]
    requires = ["db"]
    [service.top]
    command = [$TWIN:top, "obey"]
    requires = ["web"]
    [service.late]
    command = ["$DIR/late"]
    crash-loop = { burst = 1, within = "1m", retry = "1s" }
    [service.reader]
    command = [$TWIN:reader, "obey"]
    requires = ["late"]
    [service.flaky]
    command = [$TWIN:flaky, "obey"]
    crash-loop = { burst = 1, within = "1m", retry = "1h" }
    [service.user]
    command = [$TWIN:user, "obey"]
    requires = ["flaky"]
"#;

/// A chain of three, the last of which takes its time to be ready; and one that minds nobody.
const COMPANIONS: &str = r#"
    [service.db]
    command = [$TWIN:db, "obey"]
    reload = { signal = "HUP" }
    check = ["/bin/sh", "-c", "! test -e $DIR/bad"]
    [service.web]
    command = [$TWIN:web, "obey"]
    restart-with = ["db"]
    ready-after = "20ms"
    [service.mail]
    command = [$TWIN:mail, "obey"]
    restart-with = ["web"]
    [service.other]
    command = [$TWIN:other, "obey"]
    after = ["db"]
"#;

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
        restart-with = ["cache"]
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
         3      other    down    after web; restarted with cache; conflicts with net\n"
    );
    let dot = s.ok(&["graph", "--dot"]);
    assert!(dot.starts_with("digraph superd {"), "{dot}");
    assert!(dot.contains("\"web\" -> \"net\" [style = solid];"), "{dot}");
    let edge = "\"other\" -> \"cache\" [style = bold, color = blue];";
    assert!(dot.contains(edge), "{dot}");
    assert!(s.ok(&["plan"]).contains("; other is restarted with it\n"));
    let json = s.ok(&["graph", "--json"]);
    assert!(
        json.contains(r#""service":"web","state":"up","level":2"#),
        "{json}"
    );
    s.end();
}
