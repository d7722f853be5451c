//! What superctl can do, its exit statuses, and `--json`.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::{json, Value};

use crate::support::*;

const TWO: &str = r#"
    [service.web]
    command = [$TWIN:web, "obey"]
    reload = { signal = "HUP" }
    [service.idle]
    command = [$TWIN:idle, "obey"]
    autostart = false
"#;

#[test]
fn a_service_is_started_stopped_and_restarted() {
    let s = Superd::start(TWO);
    let record = s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    assert_eq!(s.pid_of("web"), record.first("start").pid);
    assert_eq!(s.state("idle"), "down");

    assert_eq!(s.ok(&["start", "idle"]), "idle: up\n");
    s.wait_record("idle", "start", 1);

    assert_eq!(s.ok(&["stop", "web"]), "web: stopped, clean\n");
    assert_eq!(s.state("web"), "down");
    let record = s.record("web");
    assert_eq!(record.count("signal"), 1);
    assert_eq!(record.rest("signal TERM"), [format!("from {}", s.pid)]);
    assert_eq!(record.rest("exit"), ["0"]);

    s.ok(&["start", "web"]);
    let record = s.wait_record("web", "start", 2);
    let second = record.all("start").last().unwrap().pid;
    assert_eq!(s.ok(&["restart", "web"]), "web: restarted\n");
    let record = s.wait_record("web", "start", 3);
    let ended = record.all("exit").find(|e| e.pid == second).unwrap().at;
    let began = record.all("start").last().unwrap().at;
    assert!(ended < began, "two instances at once");
    s.end();
}

#[test]
fn what_is_done_already_is_no_error() {
    let s = Superd::start(TWO);
    s.wait_state("web", "up");
    assert_eq!(s.ctl(&["start", "web"]).code, 0);
    assert_eq!(s.ctl(&["stop", "idle"]).code, 0);
    s.ok(&["stop", "--all"]);
    s.ok(&["stop", "--all"]);
    s.assert_starts("web", 1);
    s.ok(&["start", "--all"]);
    s.wait_state("idle", "up");
    s.wait_state("web", "up");
    s.end();
}

#[test]
fn status_has_the_exit_statuses_of_lsb() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        [service.down]
        command = [$TWIN:down, "obey"]
        autostart = false
        [service.failed]
        command = [$TWIN:failed, "exit", "3"]
        restart = "on-failure"
        crash-loop = { burst = 1, within = "1m", retry = "1h" }
        "#,
    );
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    s.wait_state("failed", "failed");
    assert_eq!(s.ctl(&["status", "web"]).code, 0);
    assert_eq!(s.ctl(&["status", "failed"]).code, 1);
    assert_eq!(s.ctl(&["status", "down"]).code, 3);
    let unknown = s.ctl(&["status", "wep"]);
    assert_eq!(unknown.code, 4);
    assert!(unknown.err.contains("did you mean \"web\""), "{unknown:?}");
    assert_eq!(unknown.err.lines().count(), 1);
    let all = s.ctl(&["status"]);
    assert_eq!(all.code, 1, "one of them has failed: {all:?}");
    for name in ["web", "down", "failed"] {
        assert!(all.out.contains(name), "{all:?}");
    }
    let failed = s.ctl(&["status", "failed"]);
    assert!(failed.out.contains("status 3"), "{failed:?}");
    s.end();
}

#[test]
fn actions_have_the_exit_statuses_of_lsb() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        [service.broken]
        command = ["$DIR/no-such-program"]
        autostart = false
        "#,
    );
    assert_eq!(s.ctl(&["start", "broken"]).code, 1);
    assert_eq!(s.ctl(&["stop"]).code, 2);
    assert_eq!(s.ctl(&["signal", "web", "TREM"]).code, 2);
    assert_eq!(s.ctl(&["stop", "nobody"]).code, 6);
    assert_eq!(s.ctl(&["logs", "nobody"]).code, 6);
    let place = s.end();
    let gone = run(std::process::Command::new(SUPERCTL)
        .arg("--socket")
        .arg(place.socket())
        .args(["stop", "web"]));
    assert_eq!(gone.code, 7, "{gone:?}");
    assert_eq!(gone.err.lines().count(), 1, "{gone:?}");
}

#[test]
fn who_may_not_is_told_so() {
    let name = "who_may_not_is_told_so";
    if !root_or_skip(name) {
        return;
    }
    let s = Superd::start(TWO);
    s.wait_state("web", "up");
    let mut command = s.ctl_command(&["stop", "web"]);
    use std::os::unix::process::CommandExt;
    let said = run(command.uid(65534).gid(65534));
    assert_eq!(said.code, 4, "{said:?}");
    assert_eq!(s.state("web"), "up");
    assert_eq!(s.record("web").count("signal"), 0);
    s.end();
}

#[test]
fn groups_may_look_or_do_as_the_configuration_says() {
    use std::os::unix::process::CommandExt;
    let name = "groups_may_look_or_do_as_the_configuration_says";
    if !root_or_skip(name) {
        return;
    }
    let s = Superd::start(&format!(
        "control-group = \"bin\"\nstatus-group = \"daemon\"\n{TWO}"
    ));
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let (bin, daemon) = (2, 1);
    let by = |gid, args: &[&str]| run(s.ctl_command(args).uid(65534).gid(gid)).code;
    assert_eq!(by(daemon, &["status", "web"]), 0);
    assert_eq!(by(daemon, &["why", "--all", "web"]), 0);
    assert_eq!(by(daemon, &["crashes", "web"]), 0);
    assert_eq!(by(daemon, &["stop", "web"]), 4);
    assert_eq!(by(daemon, &["shutdown"]), 4);
    assert_eq!(s.record("web").count("signal"), 0);
    assert_eq!(by(bin, &["stop", "web"]), 0);
    assert_eq!(s.last_end("web")["by"]["uid"], 65534);
    s.end();
}

#[test]
fn waiting_ends_after_the_time_that_the_operator_has() {
    let s = Superd::start(
        r#"
        [service.slow]
        command = [$TWIN:slow, "slow-stop", "0", "--gate", "$DIR/gate"]
        stop = [{ signal = "TERM", wait = "10m" }]
        "#,
    );
    s.wait_record("slow", "start", 1);
    let said = s.ctl(&["--timeout", "200ms", "stop", "slow"]);
    assert_eq!(said.code, 124, "{said:?}");
    let said = s.ctl(&["stop", "--no-wait", "slow"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("under way"), "{said:?}");
    assert_eq!(s.state("slow"), "stopping");
    let status = s.ok(&["status", "slow"]);
    assert!(status.contains("TERM"), "{status}");
    std::fs::write(s.place.file("gate"), "").unwrap();
    s.wait_state("slow", "down");
    assert_eq!(s.record("slow").count("signal TERM"), 1);
    s.end();
}

#[test]
fn a_service_reads_its_configuration_again_or_gets_a_signal() {
    let s = Superd::start(TWO);
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    s.ok(&["reload", "web"]);
    s.wait_record("web", "signal HUP", 1);
    s.ok(&["signal", "web", "USR1"]);
    s.wait_record("web", "signal USR1", 1);
    let cannot = s.ctl(&["reload", "idle"]);
    assert_eq!(cannot.code, 1, "{cannot:?}");
    let down = s.ctl(&["signal", "idle", "HUP"]);
    assert_eq!(down.code, 1, "{down:?}");
    s.end();
}

#[test]
fn logs_are_kept_and_followed() {
    let s = Superd::start(
        r#"
        [service.talker]
        command = [$TWIN:talker, "lines", "30"]
        "#,
    );
    s.wait_record("talker", "start", 1);
    wait_until("the lines are there", || {
        s.ok(&["logs", "talker"]).contains("line 30")
    });
    let five = s.ok(&["logs", "-n", "5", "talker"]);
    assert_eq!(five.lines().count(), 5, "{five}");
    assert!(
        five.contains("line 26") && !five.contains("line 25"),
        "{five}"
    );

    let mut follow = s
        .ctl_command(&["logs", "-f", "-n", "1", "talker"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("line 30"));
    s.ok(&["restart", "talker"]);
    let next = lines.next().unwrap().unwrap();
    assert!(next.contains("line 1"), "{next}");
    follow.kill().unwrap();
    follow.wait().unwrap();
    s.end();
}

#[test]
fn why_tells_who_asked_what_was_sent_and_how_it_ended() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "slow-stop", "0", "--say", "last words"]
        "#,
    );
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    s.ok(&["stop", "web"]);
    let why = s.ok(&["why", "web"]);
    for part in ["superctl", "TERM", "clean", "last words"] {
        assert!(why.contains(part), "no {part} in:\n{why}");
    }
    let end = s.last_end("web");
    assert_eq!(end["by"]["kind"], "client");
    assert_eq!(end["by"]["command"], "superctl");
    assert_eq!(end["exit"], json!({"code": 0}));
    assert_eq!(end["steps"][0]["outcome"], "gone");
    let events = s.ok(&["events", "web"]);
    for part in ["starting", "up", "stop"] {
        assert!(
            events.to_lowercase().contains(part),
            "no {part} in:\n{events}"
        );
    }
    s.end();
}

#[test]
fn why_tells_what_a_crash_said_last() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "exit", "2", "--first", "1", "--text",
            "panic: close of closed channel\\n\\ngoroutine 7 [running]:\\nmain.main()\\n\\t/src/x.go:1 +0x1"]
        "#,
    );
    s.wait_record("web", "start", 2);
    wait_until("the end is told", || !s.ends("web").is_empty());
    let end = s.last_end("web");
    assert_eq!(end["verdict"], "crashed");
    assert_eq!(end["crash"]["kind"], "go-panic");
    let why = s.ok(&["why", "web"]);
    assert!(why.contains("close of closed channel"), "{why}");
    s.end();
}

#[test]
fn events_are_followed() {
    let s = Superd::start(TWO);
    s.wait_state("web", "up");
    let mut raw = s.raw();
    raw.send(&json!({"do": "events", "service": "idle", "lines": 0, "follow": true}));
    let mut other = s.raw();
    other.ask(&json!({"do": "status"})); // superd has read what was sent before
    s.ok(&["start", "idle"]);
    let event = raw.reply().unwrap();
    assert_eq!(event["event"]["event"], "starting", "{event}");
    assert_eq!(event["more"], true);
    s.end();
}

#[test]
fn what_check_says_does_not_play_with_the_terminal() {
    let place = Place::new();
    let service = "[service.a]\ncommand = [\"/no/\\u001b[31m\\u009b\"]\n";
    place.configure(Flavour::NoCgroups, service);
    let mut check = std::process::Command::new(SUPERCTL);
    let said = run(check
        .args(["check", "--config"])
        .arg(place.file("superd.toml")));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.err.contains(r"no program `/no/\x1b[31m\u{9b}`"),
        "{said:?}"
    );
}

#[test]
fn check_and_plan_work_with_and_without_superd() {
    let s = Superd::start(
        r#"
        [service.a]
        command = [$TWIN:a, "obey"]
        stop = [{ signal = "TERM", wait = "20s" }]
        [service.b]
        command = [$TWIN:b, "obey"]
        stop = [{ signal = "TERM", wait = "10s" }]
        after = ["a"]
        "#,
    );
    let plan = s.ok(&["plan"]);
    assert!(plan.contains("20 s") && plan.contains("10 s"), "{plan}");
    // b's 10 s, then a's 20 s, and for each 2 s for leftovers and 2 s for ports.
    assert_eq!(s.ok(&["plan", "--max-stop-seconds"]), "39\n");
    let config = s.place.file("superd.toml").display().to_string();
    assert_eq!(
        s.ok(&["plan", "--config", &config, "--max-stop-seconds"]),
        "39\n"
    );
    for args in [
        &["--json", "plan", "--max-stop-seconds"][..],
        &["--json", "plan", "--config", &config, "--max-stop-seconds"],
    ] {
        let reply: serde_json::Value = serde_json::from_str(&s.ok(args)).unwrap();
        assert_eq!(reply["max_stop_seconds"], 39, "{reply}");
    }
    let version: serde_json::Value = serde_json::from_str(&s.ok(&["--json", "version"])).unwrap();
    assert!(version["message"]
        .as_str()
        .unwrap()
        .starts_with("superctl "));
    let check = |args: &[&str]| {
        run(std::process::Command::new(SUPERCTL)
            .args(["check", "--config", &config])
            .args(args))
    };
    assert_eq!(check(&[]).code, 0);
    assert_eq!(check(&["--term-timeout", "39"]).code, 0);
    assert_eq!(check(&["--term-timeout", "38"]).code, 1, "KILLs would race");
    let short = check(&["--term-timeout", "5"]);
    assert_eq!(short.code, 1);
    assert!(short.err.contains("39"), "{short:?}");
    let place = s.end();
    place.configure(
        Flavour::NoCgroups,
        "[service.a]\ncomand = [\"x\"]\nstop = 3\n",
    );
    let config = place.file("superd.toml").display().to_string();
    let bad = run(std::process::Command::new(SUPERCTL).args(["check", "--config", &config]));
    assert_eq!(bad.code, 1);
    assert!(bad.err.contains("did you mean `command`"), "{bad:?}");
    assert!(bad.err.contains("superd.toml:8:1"), "place: {bad:?}");
    assert!(
        bad.err.lines().count() >= 2,
        "all problems at once: {bad:?}"
    );
}

#[test]
fn doctor_tells_what_the_machine_can_do() {
    let s = Superd::start(TWO);
    let said = s.ok(&["doctor"]);
    assert!(said.contains("pidfd") && said.contains("cgroup"), "{said}");
    s.end();
}

#[test]
fn every_verb_speaks_json() {
    let s = Superd::start(TWO);
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    for (args, code) in [
        (vec!["status"], 0),
        (vec!["status", "web"], 0),
        (vec!["stop", "web"], 0),
        (vec!["start", "web"], 0),
        (vec!["status", "idle"], 3),
        (vec!["restart", "web"], 0),
        (vec!["reload", "web"], 0),
        (vec!["signal", "web", "USR1"], 0),
        (vec!["logs", "web"], 0),
        (vec!["why", "web"], 0),
        (vec!["events"], 0),
        (vec!["plan"], 0),
        (vec!["doctor"], 0),
        (vec!["stop", "nobody"], 6),
        (vec!["reload"], 0),
        (vec!["shutdown"], 0),
    ] {
        // Before it holds its signals, any would end it: without a word in the record.
        match args[0] {
            "restart" => drop(s.wait_record("web", "start", 2)),
            "reload" => drop(s.wait_record("web", "start", 3)),
            _ => {}
        }
        let said = s.ctl(&[&["--json"], args.as_slice()].concat());
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        let lines = said.json();
        let is_reply = |l: &Value| l["ok"].is_boolean() && l["id"].is_u64();
        assert!(!lines.is_empty() && lines.iter().all(is_reply), "{said:?}");
    }
}

#[test]
fn shutdown_stops_everything_and_waits() {
    let mut s = Superd::start(TWO);
    s.wait_record("web", "start", 1);
    s.ok(&["shutdown"]);
    // superctl has waited: superd may only still be on its way out.
    assert_eq!(s.wait().code(), Some(0));
    s.assert_nothing_left();
    assert_eq!(s.record("web").count("signal TERM"), 1);
    assert!(!s.place.socket().exists());
}

#[test]
fn shutdown_now_does_not_wait_for_anybody() {
    let mut s = Superd::start(
        r#"
        [service.deaf]
        command = [$TWIN:deaf, "ignore"]
        stop = [{ signal = "TERM", wait = "10m" }]
        "#,
    );
    s.wait_record("deaf", "start", 1);
    s.ok(&["shutdown", "--no-wait"]);
    s.wait_record("deaf", "signal TERM", 1);
    s.ok(&["shutdown", "--now", "--no-wait"]);
    assert_eq!(s.wait().code(), Some(0));
    s.assert_nothing_left();
}

#[test]
fn stop_now_kills_at_once() {
    let s = Superd::start(
        r#"
        [service.deaf]
        command = [$TWIN:deaf, "ignore"]
        stop = [{ signal = "TERM", wait = "10m" }]
        "#,
    );
    s.wait_record("deaf", "start", 1);
    s.wait_state("deaf", "up");
    s.ok(&["stop", "--no-wait", "deaf"]);
    s.wait_record("deaf", "signal TERM", 1);
    s.ctl(&["stop", "--now", "deaf"]);
    assert_eq!(s.state("deaf"), "down");
    assert_eq!(s.verdict("deaf"), "killed");
    s.assert_nothing_left();
    s.end();
}

in_both_flavours! {
    fn a_reload_command_that_hangs_is_killed_with_its_tree(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "obey"]
            reload = { run = [$TWIN:reload, "tree", "--stubborn"], wait = "200ms" }
            "#,
        );
        s.wait_record("web", "start", 1);
        s.wait_state("web", "up");
        let said = s.ctl(&["reload", "web"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("did not end within 200 ms"), "{said:?}");
        // However slow the machine: some command has grown its tree before it was killed.
        wait_until("a tree", || {
            s.ctl(&["reload", "web"]);
            s.record("reload").count("begun") >= 3
        });
        let record = s.record("reload");
        wait_until("the command's tree is gone", || {
            s.place.processes().is_disjoint(&record.pids())
        });
        assert_eq!(s.state("web"), "up");
        // Also where the group of the command was still in use when the command was reaped.
        for _ in 0..5 {
            s.ctl(&["reload", "web"]);
        }
        wait_until("the groups of the commands are gone", || {
            let roots = s.place.cgroups();
            let groups = roots.iter().filter_map(|r| std::fs::read_dir(r).ok()).flatten();
            let mut names = groups.flatten().map(|e| e.file_name());
            !names.any(|n| n.to_string_lossy().contains(".command-"))
        });
        s.end();
    }
}

/// Issue 5: it was in the log alone.
#[test]
fn a_reload_says_what_takes_effect_at_the_next_start() {
    let s = Superd::start("[service.x]\ncommand = [$TWIN:x, \"obey\"]\n");
    let path = s.place.file("superd.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let elsewhere = s.place.file("elsewhere").display().to_string();
    let run = s.place.file("run").display().to_string();
    std::fs::write(&path, text.replace(&run, &elsewhere)).unwrap();
    let said = s.ok(&["reload"]);
    let end = format!("; run-dir: {run} -> {elsewhere} takes effect at the next start\n");
    assert!(
        said.starts_with("superd: configuration loaded: ") && said.ends_with(&end),
        "{said}"
    );
    assert_eq!(
        s.ok(&["reload"]),
        "superd: configuration loaded: 0 new, 0 changed, 0 gone, 1 unchanged\n"
    );
    s.end();
}

#[test]
fn progress_fits_the_terminal_and_who_leaves_is_told_that_the_stop_goes_on() {
    let name = "a-service-that-stops-slowly";
    let s = Superd::start(&format!(
        "[service.{name}]\ncommand = [$TWIN:web, \"ignore\"]\n\
         stop = [{{ signal = \"TERM\", wait = \"100s\" }}]\n"
    ));
    s.wait_record("web", "start", 1);
    let size = nix::pty::Winsize {
        ws_row: 24,
        ws_col: 40,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = nix::pty::openpty(Some(&size), None).unwrap();
    let mut command = s.ctl_command(&["stop", name]);
    let mut child = command.stderr(pty.slave).spawn().unwrap();
    drop(command); // it has the terminal open
    let mut terminal = std::fs::File::from(pty.master);
    let mut said = String::new();
    let mut read = |said: &mut String| {
        let mut bytes = [0; 1024];
        // EIO: nobody has it open any more.
        let n = terminal.read(&mut bytes).unwrap_or(0);
        said.push_str(&String::from_utf8_lossy(&bytes[..n]));
        n > 0
    };
    while !said.contains("slowly: TERM sent") {
        assert!(read(&mut said), "{said}");
    }
    kill(child.id() as i32, libc::SIGINT);
    while read(&mut said) {}
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let (progress, end) = said.split_once("\r\n").unwrap();
    assert!(progress.split('\r').all(|line| line.len() < 40), "{said:?}");
    assert_eq!(
        end,
        "superctl: superd goes on with it; see superctl status\r\n"
    );
    assert_eq!(s.state(name), "stopping");
    s.ok(&["stop", "--now", name]);
    s.end();
}
