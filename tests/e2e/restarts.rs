//! Always back: at once after a stable run, then with pauses, then slowly; and reloads.

use serde_json::json;

use crate::support::*;

#[test]
fn the_first_restart_is_immediate_and_the_next_ones_have_growing_pauses() {
    let s = Superd::start(
        r#"
        [service.flaky]
        command = [$TWIN:flaky, "exit", "1", "--first", "4"]
        restart-delay = "100ms"
        max-delay = "150ms"
        "#,
    );
    let record = s.wait_record("flaky", "start", 5);
    let starts: Vec<u64> = record.all("start").map(|n| n.at).collect();
    let exits: Vec<u64> = record.all("exit").map(|n| n.at).collect();
    let pause = |n: usize| (starts[n + 1] - exits[n]) / 1_000_000;
    // 10 % of jitter either way; and never longer than `max-delay`, so that the last are 136 ms but for that.
    assert!(pause(1) >= 90, "{} ms", pause(1));
    assert!(pause(2) >= 122, "{} ms", pause(2));
    assert!(pause(3) >= 122, "{} ms", pause(3));
    let events = s.events("flaky");
    let pauses: Vec<bool> = events
        .iter()
        .filter(|e| e["event"] == "restarting")
        .map(|e| e["pause"] == json!({"secs": 0, "nanos": 0}))
        .collect();
    assert_eq!(
        pauses,
        [true, false, false, false],
        "only the first is immediate"
    );
    assert_eq!(s.status("flaky")["restarts"], 4);
    s.end();
}

/// `stable`: who has run for so long has no failures behind it.
#[test]
fn after_a_stable_run_each_restart_is_immediate_again() {
    let s = Superd::start(
        r#"
        [service.a]
        command = [$TWIN:a, "obey"]
        restart-delay = "1h"
        max-delay = "1h"
        stable = "1ms"
        crash-loop = false
        [service.b]
        command = [$TWIN:b, "obey"]
        restart-delay = "1h"
        max-delay = "1h"
        stable = "1d"
        crash-loop = false
        "#,
    );
    for n in 1..=4 {
        s.wait_record("a", "start", n);
        s.wait_state("a", "up");
        kill(s.pid_of("a"), libc::SIGKILL);
    }
    s.wait_record("a", "start", 5);
    for n in 1..=2 {
        s.wait_record("b", "start", n);
        s.wait_state("b", "up");
        kill(s.pid_of("b"), libc::SIGKILL);
    }
    s.wait_state("b", "backoff");
    s.end();
}

#[test]
fn a_crash_loop_is_retried_slowly_until_somebody_starts_it() {
    let s = Superd::start(
        r#"
        [service.loop]
        command = [$TWIN:loop, "exit", "1"]
        restart-delay = "1ms"
        crash-loop = { burst = 3, within = "1m", retry = "1h" }
        "#,
    );
    s.wait_state("loop", "failed");
    s.assert_starts("loop", 4);
    let retry = s.status("loop")["retry_ms"].as_u64().unwrap();
    assert!(retry > 3_000_000, "never silently given up: {retry}");
    let events = s.events("loop");
    assert!(events.iter().any(|e| e["crash_loop"] == true));
    // The operator has mended it, or believes so: everything from the beginning.
    s.ctl(&["start", "loop"]);
    s.wait_record("loop", "start", 8);
    s.wait_state("loop", "failed");
    s.ok(&["stop", "loop"]);
    assert_eq!(s.state("loop"), "down");
    assert_eq!(s.status("loop")["retry_ms"], json!(null));
    s.ctl(&["start", "loop"]);
    s.wait_record("loop", "start", 12);
    s.end();
}

#[test]
fn failures_that_are_further_apart_than_within_are_no_crash_loop() {
    let s = Superd::start(
        r#"
        [service.rare]
        command = [$TWIN:rare, "exit", "1", "--first", "6"]
        restart-delay = "20ms"
        max-delay = "20ms"
        crash-loop = { burst = 1, within = "1ms", retry = "1h" }
        [service.often]
        command = [$TWIN:often, "exit", "1", "--first", "6"]
        restart-delay = "20ms"
        max-delay = "20ms"
        crash-loop = { burst = 3, within = "1h", retry = "1s" }
        "#,
    );
    // The first restart is immediate, but a process takes longer than that to begin and to end.
    s.wait_record("rare", "start", 7);
    s.wait_state("rare", "up");
    let slow = |name: &str| {
        let events = s.events(name);
        events.iter().filter(|e| e["crash_loop"] == true).count()
    };
    assert_eq!(slow("rare"), 0);
    // The other one comes up as well, because it is tried again.
    s.wait_record("often", "start", 7);
    s.wait_state("often", "up");
    assert!(slow("often") >= 3, "{:?}", s.events("often"));
    s.end();
}

#[test]
fn the_policy_decides_by_the_exit() {
    let s = Superd::start(
        r#"
        [service.done]
        command = [$TWIN:done, "exit", "0"]
        restart = "on-failure"
        [service.fine]
        command = [$TWIN:fine, "exit", "7"]
        restart = "on-failure"
        success-exit = [7]
        [service.signal]
        command = [$TWIN:signal, "crash", "12"]
        restart = "on-failure"
        success-exit = ["USR2"]
        [service.never]
        command = [$TWIN:never, "crash", "SEGV"]
        restart = "never"
        [service.again]
        command = [$TWIN:again, "exit", "0", "--first", "1"]
        restart = "always"
        "#,
    );
    s.wait_record("again", "start", 2);
    s.wait_state("done", "down");
    s.wait_state("fine", "down");
    s.wait_state("signal", "down");
    s.wait_state("never", "failed");
    for name in ["done", "fine", "signal", "never"] {
        s.assert_starts(name, 1);
        assert_eq!(s.ends(name).len(), 1);
    }
    assert_eq!(s.verdict("never"), "crashed");
    assert_eq!(s.verdict("done"), "exited-by-itself");
    s.end();
}

#[test]
fn a_panic_during_a_requested_stop_starts_nothing() {
    let s = Superd::start(
        r#"
        [service.nats]
        command = [$TWIN:nats, "twohandlers", "--listen", "$HOST:4222", "--panic", "100"]
        "#,
    );
    for round in 1..=5 {
        s.wait_record("nats", "start", round);
        s.wait_state("nats", "up");
        let said = s.ctl(&["stop", "nats"]);
        assert!(said.out.contains("panicked"), "{said:?}");
        assert_eq!(s.verdict("nats"), "panicked-while-stopping");
        assert_eq!(s.state("nats"), "down");
        s.assert_starts("nats", round);
        s.ok(&["start", "nats"]);
    }
    s.end();
}

#[test]
fn a_twin_of_quic_go_is_back_after_each_second_client() {
    let s = Superd::start(
        r#"
        [service.quic]
        command = [$TWIN:quic, "secondclient", "--listen", "$HOST:8443"]
        restart-delay = "1ms"
        max-delay = "1ms"
        crash-loop = { burst = 1000, within = "1m", retry = "1m" }
        "#,
    );
    use std::io::{Read, Write};
    for round in 1..=20 {
        s.wait_record("quic", "start", round);
        for _ in 0..2 {
            let mut stream =
                std::net::TcpStream::connect(format!("{}:8443", s.place.host)).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            stream.read_to_end(&mut Vec::new()).ok(); // it dies with its second client
        }
    }
    s.wait_record("quic", "start", 21);
    wait_until("all ends are told", || s.status("quic")["restarts"] == 20);
    assert!(s.ends("quic").len() >= 3, "the last ones are kept");
    for end in s.ends("quic") {
        assert_eq!(end["verdict"], "crashed");
        assert_eq!(end["crash"]["text"], "close of closed channel");
    }
    s.end();
}

const BEFORE: &str = r#"
    [service.same]
    command = [$TWIN:same, "obey"]
    [service.changed]
    command = [$TWIN:changed, "obey"]
    environment = { A = "1" }
    [service.policy]
    command = [$TWIN:policy, "obey"]
    [service.gone]
    command = [$TWIN:gone, "obey"]
"#;

const AFTER: &str = r#"
    [service.same]
    command = [$TWIN:same, "obey"]
    [service.changed]
    command = [$TWIN:changed, "obey"]
    environment = { A = "2" }
    [service.policy]
    command = [$TWIN:policy, "obey"]
    stop = [{ signal = "INT", wait = "10m" }]
    [service.new]
    command = [$TWIN:new, "obey"]
"#;

#[test]
fn a_reload_touches_what_changed_and_nothing_else() {
    for by_signal in [false, true] {
        let s = Superd::start(BEFORE);
        for name in ["same", "changed", "policy", "gone"] {
            s.wait_record(name, "start", 1);
            s.wait_state(name, "up");
        }
        s.place.configure(Flavour::NoCgroups, AFTER);
        if by_signal {
            s.signal(libc::SIGHUP);
        } else {
            s.ok(&["reload"]);
        }
        s.wait_record("new", "start", 1);
        s.wait_record("changed", "start", 2);
        s.wait_record("gone", "exit", 1);
        wait_until("the service is forgotten", || {
            s.ctl(&["status", "gone"]).code == 4
        });
        for name in ["same", "policy"] {
            let record = s.record(name);
            assert_eq!(record.count("start"), 1, "{name}");
            assert_eq!(record.count("signal"), 0, "{name}");
        }
        assert_eq!(s.record("changed").count("signal TERM"), 1);
        // The new stop schedule is in force without a restart.
        s.ok(&["stop", "policy"]);
        assert_eq!(s.record("policy").count("signal INT"), 1);
        assert_eq!(s.record("policy").count("signal TERM"), 0);
        s.end();
    }
}

#[test]
fn a_service_that_is_gone_from_the_configuration_answers_until_it_has_stopped() {
    let s = Superd::start(
        r#"
        [service.gone]
        command = [$TWIN:gone, "slow-stop", "0", "--gate", "$DIR/gate"]
        stop = [{ signal = "TERM", wait = "10m" }]
        "#,
    );
    s.wait_record("gone", "start", 1);
    s.wait_state("gone", "up");
    s.place.configure(
        Flavour::NoCgroups,
        "[service.new]\ncommand = [$TWIN:new, \"obey\"]\n",
    );
    s.ok(&["reload"]);
    s.wait_state("gone", "stopping");
    assert_eq!(s.ctl(&["status", "gone"]).code, 0, "it still runs");
    assert!(s.ok(&["why", "gone"]).contains("up, pid"));
    assert_eq!(s.ctl(&["start", "gone"]).code, 1, "refused");
    s.ok(&["stop", "--no-wait", "gone"]);
    let early = s.ctl(&["--timeout", "0.2", "stop", "gone"]);
    assert_eq!(early.code, 124, "a stop is waited for: {early:?}");
    std::fs::write(s.place.file("gate"), "").unwrap();
    wait_until("the service is forgotten", || {
        s.ctl(&["status", "gone"]).code == 4
    });
    assert_eq!(s.record("gone").count("signal TERM"), 1);
    s.end();
}

#[test]
fn a_bad_configuration_changes_nothing_and_is_answered() {
    let s = Superd::start(BEFORE);
    s.wait_record("same", "start", 1);
    s.wait_state("same", "up");
    for bad in [
        "[service.same]\ncommand = 3\n",
        "[service.same]\ncommand = [\"/bin/true\"]\nafter = [\"other\"]\n",
        "[service.a]\ncommand=[\"x\"]\nafter=[\"b\"]\n[service.b]\ncommand=[\"x\"]\nafter=[\"a\"]\n",
        "this is not toml [",
        "\u{0}\u{1}\u{2}",
    ] {
        s.place.configure(Flavour::NoCgroups, bad);
        let said = s.ctl(&["reload"]);
        assert_eq!(said.code, 1, "{bad}: {said:?}");
        assert!(said.err.contains("superd.toml:"), "{bad}: {said:?}");
        s.signal(libc::SIGHUP);
    }
    std::fs::remove_file(s.place.file("superd.toml")).unwrap();
    assert_eq!(s.ctl(&["reload"]).code, 1);
    assert_eq!(s.state("same"), "up");
    s.assert_starts("same", 1);
    assert_eq!(s.record("same").count("signal"), 0);
    s.place.configure(Flavour::NoCgroups, BEFORE);
    let said = s.ok(&["reload"]);
    assert!(said.contains("4 unchanged"), "{said}");
    s.end();
}

/// The cgroup of the only service.
fn group_of(s: &Superd) -> std::path::PathBuf {
    let groups = s.place.cgroups();
    let group = groups.first().unwrap().join("web.service");
    assert!(group.is_dir(), "{group:?}");
    group
}

#[test]
fn a_service_whose_cgroup_somebody_else_killed_comes_back() {
    if !cgroups_or_skip("a_service_whose_cgroup_somebody_else_killed_comes_back") {
        return;
    }
    let s = Superd::start_in(
        Flavour::Cgroups,
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        restart-delay = "1h"
        max-delay = "1h"
        "#,
    );
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let kill = group_of(&s).join("cgroup.kill");
    if !kill.exists() {
        skip(
            "a_service_whose_cgroup_somebody_else_killed_comes_back",
            "needs Linux 5.14",
        );
        s.end();
        return;
    }
    std::fs::write(kill, "1").unwrap();
    // At once: the second restart in a row would be in an hour.
    s.wait_record("web", "start", 2);
    s.wait_state("web", "up");
    s.end();
}

#[test]
fn a_service_whose_cgroup_somebody_removed_can_be_started() {
    if !cgroups_or_skip("a_service_whose_cgroup_somebody_removed_can_be_started") {
        return;
    }
    let s = Superd::start_in(
        Flavour::Cgroups,
        "[service.web]\ncommand = [$TWIN:web, \"obey\"]\n",
    );
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    s.ok(&["stop", "web"]);
    std::fs::remove_dir(group_of(&s)).unwrap();
    s.ok(&["start", "web"]);
    s.wait_state("web", "up");
    s.end();
}

#[test]
fn a_reload_by_sighup_tells_who_sent_it() {
    let service = |more: &str| format!("[service.web]\ncommand = [$TWIN:web, \"obey\"]\n{more}");
    let s = Superd::start(&service(""));
    s.wait_record("web", "start", 1);
    s.place
        .configure(Flavour::NoCgroups, &service("umask = \"027\"\n"));
    s.signal(libc::SIGHUP);
    s.wait_record("web", "start", 2);
    let by = s.last_end("web")["by"].clone();
    assert_eq!(by["kind"], "signal", "{by}");
    assert_eq!(by["signal"], libc::SIGHUP, "{by}");
    assert_eq!(by["pid"], std::process::id(), "{by}");
    s.end();
}

#[test]
fn a_reload_can_send_the_log_elsewhere_and_back() {
    let web = |log: &str| {
        format!(
            "log = \"{log}\"\n[service.web]\ncommand = [\"/bin/sh\", \"-c\", \
             \"trap 'echo heard' USR1; echo ready; while :; do sleep 0.01; done\"]\n"
        )
    };
    let s = Superd::start(&web("stderr"));
    wait_until("the service is ready", || {
        s.ok(&["logs", "web"]).contains("ready")
    });
    let heard = |what: &str, n: usize| {
        s.ok(&["signal", "web", "USR1"]);
        wait_until(what, || {
            s.ok(&["logs", "web"]).matches("heard").count() == n
        });
        s.place.log().matches("heard").count()
    };
    assert_eq!(heard("the first", 1), 1);
    s.place.configure(Flavour::NoCgroups, &web("none"));
    s.ok(&["reload"]);
    assert_eq!(heard("the second", 2), 1, "it goes nowhere");
    s.place.configure(Flavour::NoCgroups, &web("stderr"));
    s.ok(&["reload"]);
    assert_eq!(heard("the third", 3), 2, "it goes to standard error again");
    s.end();
}

/// What the checker of `web` does is in the file `verdict`, a shell script.
const CHECKED: &str = r#"
    [service.web]
    command = [$TWIN:web, "obey"]
    check = ["/bin/sh", "$DIR/verdict"]
    check-timeout = "60s"
    reload = { signal = "HUP" }
"#;

#[test]
fn a_broken_file_takes_no_service_down_and_who_asked_is_told_why() {
    let place = Place::new();
    let verdict = place.file("verdict");
    std::fs::write(
        &verdict,
        "echo first; echo 'line 3: no such word' >&2; exit 1",
    )
    .unwrap();
    place.configure(Flavour::NoCgroups, CHECKED);
    let s = place.resume();
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let pid = s.pid_of("web");
    for verb in ["restart", "reload"] {
        let said = s.ctl(&[verb, "web"]);
        assert_eq!(said.code, 1, "{verb}");
        let why = "`check`: /bin/sh: exited with status 1: first | line 3: no such word";
        assert!(said.err.contains(why), "{verb}: {}", said.err);
    }
    assert_eq!(s.pid_of("web"), pid);
    assert_eq!(s.record("web").count("signal HUP"), 0);
    std::fs::write(&verdict, "exit 0").unwrap();
    s.ok(&["reload", "web"]);
    s.wait_record("web", "signal HUP", 1);
    s.ok(&["restart", "web"]);
    s.wait_record("web", "start", 2);
    s.end();
}

#[test]
fn a_checker_that_hangs_is_killed_with_its_tree_and_is_a_no() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        check = [$TWIN:check, "tree", "--stubborn"]
        check-timeout = "200ms"
        reload = { signal = "HUP" }
        "#,
    );
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    for verb in ["reload", "restart"] {
        let said = s.ctl(&[verb, "web"]);
        assert_eq!(said.code, 1, "{said:?}");
        let why = "`check`: it did not end within 200 ms and was ended";
        assert!(said.err.contains(why), "{verb}: {said:?}");
    }
    let record = s.wait_record("check", "start", 1);
    wait_until("the checker's tree is gone", || {
        s.place.processes().is_disjoint(&record.pids())
    });
    assert_eq!(s.record("web").count("signal"), 0);
    s.assert_starts("web", 1);
    s.end();
}

/// A checker that is at work when superd is killed is heard by the next one.
#[test]
fn the_checker_before_a_restart_outlives_superd() {
    let place = Place::new();
    let gate = place.file("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = "echo begun > $DIR/begun; read x < $DIR/gate; echo late; exit 1";
    std::fs::write(place.file("verdict"), place.expand(script)).unwrap();
    place.configure(Flavour::NoCgroups, CHECKED);
    let s = place.resume();
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let pid = s.pid_of("web");
    s.ok(&["restart", "--no-wait", "web"]);
    let begun = s.place.file("begun");
    wait_until("the checker runs", || begun.exists());
    let s = s.succeed();
    std::fs::write(&gate, "x\n").unwrap();
    wait_until("its end is told", || {
        s.events("web")
            .iter()
            .any(|e| e["event"] == "action-failed")
    });
    assert_eq!(s.pid_of("web"), pid);
    s.assert_starts("web", 1);
    s.end();
}

#[test]
fn a_reload_by_a_request_has_gone_well_when_the_answer_says_so() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "web", "--listen", "$HOST:9090", "--status", "$DIR/status"]
        reload = { http = "POST http://$HOST:9090/-/reload", wait = "10m" }
        [service.mute]
        command = [$TWIN:mute, "obey"]
        reload = { http = "POST http://$HOST:9/-/reload" }
        "#,
    );
    s.wait_record("web", "ready", 1);
    s.wait_record("mute", "start", 1);
    s.wait_state("web", "up");
    s.wait_state("mute", "up");
    s.ok(&["reload", "web"]);
    let request = "request POST /-/reload HTTP/1.1";
    assert_eq!(s.record("web").count(request), 1);
    std::fs::write(s.place.file("status"), "500").unwrap();
    let said = s.ctl(&["reload", "web"]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("HTTP 500"), "{}", said.err);
    // Nobody listens there.
    let said = s.ctl(&["reload", "mute"]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("refused"), "{}", said.err);
    for name in ["web", "mute"] {
        s.assert_starts(name, 1);
        assert_eq!(s.record(name).count("signal"), 0);
        let failed = |e: &serde_json::Value| e["event"] == "action-failed";
        assert!(s.events(name).iter().any(failed), "{name}");
    }
    s.end();
}
