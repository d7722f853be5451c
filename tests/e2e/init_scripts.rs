//! The other init scripts: one for a service (plain, and for LuCI's list), `superd run` below
//! procd, SysV, OpenRC. Under busybox ash; procd is played as in `procd.rs`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::procd::{put_program, Router};
use crate::support::*;

const WEB: &str = "[service.web]\ncommand = [$TWIN:web, \"obey\"]\nreload = { signal = \"HUP\" }\n\
    [service.off]\ncommand = [$TWIN:off, \"obey\"]\nautostart = false\n\
    [service.bad]\ncommand = [\"/no/such/program\"]\n";

const SLOW: &str = "[service.web]\n\
    command = [$TWIN:web, \"slow-stop\", \"0\", \"--gate\", \"$DIR/gate\"]\n\
    stop = [{ signal = \"TERM\", wait = \"10m\" }]\n";

/// The two forms of the script for a service.
const FORMS: [&str; 2] = ["superd-service", "superd-service.procd"];

fn finished(stop: Child) {
    let said = finish(stop);
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn a_script_of_a_service_passes_every_status_on() {
    for form in FORMS {
        let Some(r) = Router::or_skip("a_script_of_a_service", WEB) else {
            return;
        };
        for name in ["web", "off", "bad", "unknown"] {
            r.install(form, name);
        }
        // superd does not run.
        for (action, code) in [("status", 4), ("running", 4), ("stop", 7), ("reload", 7)] {
            let said = r.run("web", &[action]);
            assert_eq!(said.code, code, "{form} {action}: {said:?}");
        }
        r.ok("superd", &["start"]);
        r.place.wait_record("web", "start", 1);
        wait_until("bad has failed", || r.ctl(&["status", "bad"]).code == 1);
        for (name, action, code) in [
            ("web", "status", 0),
            ("web", "running", 0),
            ("web", "start", 0),
            ("web", "reload", 0),
            ("web", "restart", 0),
            ("off", "status", 3),
            ("off", "running", 3),
            ("off", "stop", 0),
            ("off", "reload", 1),
            ("off", "start", 0),
            ("off", "status", 0),
            ("off", "stop", 0),
            ("off", "stop", 0),
            ("off", "boot", 0),
            ("off", "stop", 0),
            ("bad", "status", 1),
            ("bad", "start", 1),
            ("unknown", "status", 4),
            ("unknown", "start", 6),
            ("unknown", "stop", 6),
        ] {
            let said = r.run(name, &[action]);
            assert_eq!(said.code, code, "{form}: {name} {action}: {said:?}");
        }
        assert_eq!(r.started().len(), 1, "procd watches superd alone");
        let record = r.place.record("web");
        assert_eq!((record.count("start"), record.count("signal TERM")), (2, 1));
        if form == "superd-service" {
            assert!(r.ok("web", &["why"]).out.contains("superctl"));
            r.ok("web", &["logs", "-n", "3"]);
            assert_eq!(r.calls_of("delete") + r.calls_of("set"), 1, "superd's own");
        }
        r.ok("superd", &["stop"]);
    }
}

#[test]
fn it_goes_by_the_name_it_is_called_by() {
    let Some(r) = Router::or_skip("it_goes_by_the_name", WEB) else {
        return;
    };
    r.ok("superd", &["start"]);
    r.wait_up("web");
    fs::create_dir(r.place.file("rc.d")).unwrap();
    for form in FORMS {
        let copy = r.install(form, form);
        let link = r.place.file("init.d/off");
        std::os::unix::fs::symlink(&copy, &link).unwrap();
        let boot = r.place.file("rc.d/S95off");
        std::os::unix::fs::symlink("../init.d/off", &boot).unwrap();
        for (path, action, state) in [
            (&link, "start", "up"),
            (&link, "stop", "down"),
            (&boot, "boot", "up"),
            (&boot, "shutdown", "down"),
        ] {
            let said = run(&mut r.script_at(path, &[action]));
            assert_eq!(said.code, 0, "{form} {action}: {said:?}");
            assert_eq!(r.state_of("off"), state, "{form} {action}");
        }
        fs::remove_file(link).unwrap();
        fs::remove_file(boot).unwrap();
    }
    r.ok("superd", &["stop"]);
}

#[test]
fn two_stops_are_one_and_status_does_not_wait_for_them() {
    let Some(r) = Router::or_skip("two_stops_are_one", SLOW) else {
        return;
    };
    r.install("superd-service", "web");
    r.ok("superd", &["start"]);
    r.place.wait_record("web", "start", 1);
    r.wait_up("web");
    let mut stops: Vec<Child> = (0..4).map(|_| r.spawn("web", &["stop"])).collect();
    r.place.wait_record("web", "signal TERM", 1);
    for _ in 0..3 {
        let said = r.run("web", &["status"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.out.contains("stopping"), "{said:?}");
        r.ok("web", &["running"]);
    }
    for stop in &mut stops {
        assert!(stop.try_wait().unwrap().is_none(), "it waits");
    }
    fs::write(r.place.file("gate"), "").unwrap();
    stops.into_iter().for_each(finished);
    assert_eq!(r.run("web", &["status"]).code, 3);
    assert_eq!(r.place.record("web").count("signal TERM"), 1);
    r.ok("superd", &["stop"]);
}

#[test]
fn with_procd_stops_come_one_after_the_other_and_are_one() {
    let Some(r) = Router::or_skip("with_procd_stops", SLOW) else {
        return;
    };
    r.install("superd-service.procd", "web");
    r.ok("superd", &["start"]);
    r.place.wait_record("web", "start", 1);
    r.wait_up("web");
    let stops: Vec<Child> = (0..3).map(|_| r.spawn("web", &["stop"])).collect();
    r.place.wait_record("web", "signal TERM", 1);
    // Others wait for rc.common's lock; superctl does not.
    assert_eq!(r.ctl(&["status", "web"]).code, 0);
    fs::write(r.place.file("gate"), "").unwrap();
    stops.into_iter().for_each(finished);
    assert_eq!(r.place.record("web").count("signal TERM"), 1);
    // A restart goes by stop and start, with TERM ignored in the first half.
    r.ok("web", &["start"]);
    r.ok("web", &["restart"]);
    r.place.wait_record("web", "start", 3);
    r.ok("superd", &["stop"]);
}

#[test]
fn it_can_be_ended_though_term_is_ignored_and_holds_no_lock_afterwards() {
    let Some(r) = Router::or_skip("it_can_be_ended", SLOW) else {
        return;
    };
    r.install("superd-service", "web");
    r.ok("superd", &["start"]);
    r.place.wait_record("web", "start", 1);
    r.wait_up("web");
    // As in the first half of a restart: TERM is ignored, and descriptor 1000 holds a lock.
    let mut script = Command::new("busybox");
    let line = format!(
        "trap '' TERM; exec 1000>{0}/lock; flock 1000; {SUPERCTL} stop web & echo $!; wait $!",
        r.place.dir.display()
    );
    script
        .args(["ash", "-c", &line])
        .env("SUPERCTL_SOCKET", r.place.socket())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = script.spawn().unwrap();
    r.place.wait_record("web", "signal TERM", 1);
    let of_script = |pid: i32| {
        let mine = children_of(child.id() as i32);
        mine.contains(&pid)
    };
    let superctl = wait_for("superctl", || {
        children_of(child.id() as i32).into_iter().next()
    });
    assert!(of_script(superctl));
    kill(superctl, libc::SIGTERM);
    let said = finish(child);
    assert_eq!(said.code, 128 + libc::SIGTERM, "{said:?}");
    fs::write(r.place.file("gate"), "").unwrap();
    wait_until("the stop goes on", || r.state_of("web") == "down");
    r.ok("superd", &["stop"]);
}

#[test]
fn a_start_waits_for_a_superd_that_does_not_listen_yet() {
    for form in FORMS {
        let Some(r) = Router::or_skip("a_start_waits", WEB) else {
            return;
        };
        r.install(form, "off");
        // S95off is run before superd listens.
        let early = r.spawn("off", &["boot"]);
        wait_until("it tries", || early_connects(&early));
        r.ok("superd", &["boot"]);
        finished(early);
        assert_eq!(r.state_of("off"), "up");
        r.ok("superd", &["stop"]);
    }
}

/// Whether superctl is running below it: it has found nobody and tries again.
fn early_connects(script: &Child) -> bool {
    let exe = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let mut all = children_of(script.id() as i32);
    all.insert(script.id() as i32);
    all.into_iter().any(|pid| exe(pid).ends_with("superctl"))
}

#[test]
fn a_start_without_superd_gives_up_after_some_seconds() {
    let Some(r) = Router::or_skip("a_start_without_superd", WEB) else {
        return;
    };
    r.install("superd-service", "off");
    let began = Instant::now();
    assert_eq!(r.run("off", &["start"]).code, 7);
    assert!(began.elapsed().as_secs() >= 2);
}

// ---- superd run below procd ----

fn wrapped(r: &Router, command: &str, seconds: u64) {
    let path = r.install("wrapped", "recorder");
    let text = fs::read_to_string(&path).unwrap();
    let text: String = text
        .lines()
        .map(|l| match l.split_once('=') {
            Some(("COMMAND", _)) => format!("COMMAND=\"{command}\"\n"),
            Some(("STOP_SECONDS", _)) => format!("STOP_SECONDS={seconds}\n"),
            _ => format!("{l}\n"),
        })
        .collect();
    fs::write(path, text).unwrap();
}

fn twin_command(r: &Router, args: &str) -> String {
    let record = r.place.file("web.record");
    format!("{} --record {} {args}", twin().display(), record.display())
}

#[test]
fn a_wrapped_server_is_stopped_once_however_often_procd_asks() {
    let Some(r) = Router::or_skip("a_wrapped_server", "") else {
        return;
    };
    let gate = r.place.file("gate");
    wrapped(
        &r,
        &twin_command(&r, &format!("slow-stop 0 --gate {}", gate.display())),
        15,
    );
    r.ok("recorder", &["start"]);
    r.place.wait_record("web", "start", 1);
    let calls = r.calls();
    let set = calls
        .iter()
        .find(|c| c.starts_with("set\trecorder"))
        .unwrap();
    for part in [
        "term_timeout=20",
        "respawn=0",
        "stdout=1",
        "command=--stop-timeout",
        "command=15",
    ] {
        assert!(set.split('\t').any(|p| p == part), "{part}: {set}");
    }
    // Three stops: rc.common makes them come one after the other; procd sends TERM at each.
    let stops: Vec<Child> = (0..3).map(|_| r.spawn("recorder", &["stop"])).collect();
    r.place.wait_record("web", "signal TERM", 1);
    let wrapper = r.main_pid("recorder").unwrap();
    kill(wrapper, libc::SIGTERM);
    kill(wrapper, libc::SIGINT);
    fs::write(&gate, "").unwrap();
    stops.into_iter().for_each(finished);
    assert_eq!(r.place.record("web").count("signal TERM"), 1);
    assert!(r.place.processes().is_empty(), "and stopped it is");
}

#[test]
fn procd_starts_a_wrapped_server_again_and_leftovers_are_gone_before() {
    let Some(r) = Router::or_skip("procd_starts_a_wrapped", "") else {
        return;
    };
    wrapped(&r, &twin_command(&r, "tree"), 5);
    r.ok("recorder", &["start"]);
    let record = r.place.wait_record("web", "start", 1);
    let first = record.all("start").next().unwrap().pid;
    wait_until("it has children", || r.place.processes().len() > 3);
    let before = r.place.processes();
    let wrapper = r.main_pid("recorder").unwrap();
    kill(first, libc::SIGKILL);
    wait_until("the next one", || r.started().len() == 2);
    assert!(state_of(first).is_none_or(|s| s == 'Z'));
    assert_ne!(r.main_pid("recorder"), Some(wrapper));
    let now = r.place.processes();
    assert!(
        before.intersection(&now).next().is_none(),
        "all of the old ones are gone"
    );
    r.ok("recorder", &["stop"]);
    assert!(r.place.processes().is_empty());
}

// ---- SysV and OpenRC ----

fn kill_and_wait(pid: i32) {
    let process = Pidfd::of(pid).unwrap();
    kill(pid, libc::SIGKILL);
    assert!(process.wait(LIMIT));
}

fn lsb(r: &Router, action: &str) -> Said {
    let mut command = Command::new("busybox");
    command
        .args(["ash"])
        .arg(r.place.file("init.d/superd.lsb"))
        .arg(action)
        .env("SUPERCTL_SOCKET", r.place.socket())
        .env("E2E_MARK", &r.place.mark);
    // Descriptor 1000 as an init script may have it: whoever keeps it open keeps the lock.
    let lock = fs::File::create(r.place.file("lock")).unwrap();
    // SAFETY: dup2(2) and flock(2) are async-signal-safe; the file outlives the spawn.
    unsafe {
        command.pre_exec(move || {
            use std::os::fd::AsRawFd;
            libc::dup2(lock.as_raw_fd(), 1000);
            match libc::flock(1000, libc::LOCK_EX | libc::LOCK_NB) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    run(&mut command)
}

#[test]
fn the_sysv_script_has_the_statuses_of_the_lsb_and_leaves_no_lock_behind() {
    let Some(r) = Router::or_skip("the_sysv_script", WEB) else {
        return;
    };
    r.install("superd.lsb", "superd.lsb");
    for (action, code) in [
        ("status", 3),
        ("stop", 0),
        ("reload", 7),
        ("try-restart", 0),
    ] {
        assert_eq!(lsb(&r, action).code, code, "{action}");
    }
    for (action, code) in [("start", 0), ("start", 0), ("status", 0), ("reload", 0)] {
        let said = lsb(&r, action);
        assert_eq!(said.code, code, "{action}: {said:?}");
    }
    r.place.wait_record("web", "start", 1);
    let first = r.pid_of("web");
    assert_eq!(lsb(&r, "upgrade").code, 0);
    assert_eq!(r.pid_of("web"), first);
    assert_eq!(lsb(&r, "restart").code, 0);
    r.place.wait_record("web", "start", 2);
    assert_eq!(lsb(&r, "try-restart").code, 0);
    r.place.wait_record("web", "start", 3);
    assert_eq!(lsb(&r, "frobnicate").code, 2);
    assert_eq!(lsb(&r, "stop").code, 0);
    assert_eq!(lsb(&r, "status").code, 3);
    assert!(r.place.processes().is_empty());
    r.place.configure(Flavour::NoCgroups, "[service.web]\n");
    let said = lsb(&r, "start");
    assert_eq!(said.code, 6, "{said:?}");
    assert!(said.err.contains("superd.toml"), "{said:?}");
}

/// Issue 7: a stop found nobody to ask, said 0, and the services ran on for ever.
#[test]
fn the_sysv_script_stops_what_runs_on_when_superd_was_killed() {
    let Some(r) = Router::or_skip("the_sysv_script_stops", WEB) else {
        return;
    };
    r.install("superd.lsb", "superd.lsb");
    assert_eq!(lsb(&r, "start").code, 0);
    r.wait_up("web");
    kill_and_wait(superd_of(&r));
    assert_eq!(lsb(&r, "status").code, 3);
    let said = lsb(&r, "stop");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(r.place.record("web").count("signal TERM"), 1);
    assert!(r.place.processes().is_empty());
    assert_eq!(lsb(&r, "stop").code, 0, "and once more");
}

/// The superd that the SysV script has started.
fn superd_of(r: &Router) -> i32 {
    let is_it = |pid: &i32| status_field(*pid, "Name:").is_some_and(|n| n.trim() == "superd");
    r.place.processes().into_iter().find(is_it).unwrap()
}

/// A superctl that fails in this way.
fn failing(r: &Router, code: i32, why: &str) -> String {
    let path = r.place.file(&format!("superctl-{code}"));
    let text = r.place.file("superctl.text");
    fs::write(
        &text,
        format!("#!/bin/sh\necho 'superctl: {why}' >&2\nexit {code}\n"),
    )
    .unwrap();
    put_program(&path, &text);
    path.display().to_string()
}

#[test]
fn the_sysv_script_tells_apart_what_does_not_run_and_what_it_cannot_know() {
    let Some(r) = Router::or_skip("the_sysv_script_tells_apart", WEB) else {
        return;
    };
    let script = r.install("superd.lsb", "superd.lsb");
    assert_eq!(lsb(&r, "start").code, 0);
    r.wait_up("web");
    let superd = superd_of(&r);
    kill(superd, libc::SIGSTOP);
    let said = lsb(&r, "status");
    kill(superd, libc::SIGCONT);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.out.starts_with("superd: unknown: "), "{said:?}");
    assert!(said.out.contains("has not answered"), "{said:?}");
    let text = fs::read_to_string(&script).unwrap();
    for (code, why) in [(1, "superd does not answer"), (4, "not permitted to talk")] {
        let superctl = failing(&r, code, why);
        fs::write(&script, text.replace(SUPERCTL, &superctl)).unwrap();
        let said = lsb(&r, "status");
        assert_eq!(said.code, 4, "{said:?}");
        assert_eq!(said.out, format!("superd: unknown: {why}\n"));
        for action in ["start", "try-restart"] {
            let said = lsb(&r, action);
            assert_eq!(said.code, code, "{action}: {said:?}");
            let wanted = format!("superd: not known whether it runs: {why}\n");
            assert_eq!(said.err, wanted, "{action}");
        }
    }
    fs::write(&script, text).unwrap();
    assert_eq!(superd_of(&r), superd);
    assert_eq!(lsb(&r, "stop").code, 0);
}

#[test]
fn the_openrc_script_does_not_stop_superd_before_its_services_are() {
    let Some(r) = Router::or_skip("the_openrc_script_does_not", WEB) else {
        return;
    };
    let script = r.install("superd.openrc", "superd.openrc");
    let text = fs::read_to_string(&script).unwrap();
    let superctl = failing(&r, 1, "superd does not answer");
    let text = text.replace(SUPERCTL, &superctl);
    fs::write(&script, text).unwrap();
    let line = format!(
        "eerror() {{ echo \"$1\" >&2; }}; . {}; stop_pre",
        script.display()
    );
    let said = run(Command::new("busybox").args(["ash", "-c", &line]));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("not everything has stopped"), "{said:?}");
}

#[test]
fn the_openrc_script_says_what_supervise_daemon_needs() {
    if !program_or_skip("the_openrc_script", "busybox") {
        return;
    }
    let r = Router::with_respawn(WEB, Duration::from_secs(3600));
    let script = r.install("superd.openrc", "superd.openrc");
    let text = fs::read_to_string(&script).unwrap();
    let text = text
        .replace(
            "superctl=/usr/sbin/superctl",
            &format!("superctl={SUPERCTL}"),
        )
        .replace("command=/usr/sbin/superd", &format!("command={SUPERD}"));
    fs::write(&script, text).unwrap();
    let openrc = |what: &str| {
        let line = format!(
            "ebegin() {{ echo \"$1\"; }}; eend() {{ return $1; }}; ewarn() {{ echo \"$1\"; }}; \
             need() {{ echo need $*; }}; use() {{ echo use $*; }}; . {}; {what}",
            script.display()
        );
        let mut command = Command::new("busybox");
        run(command
            .args(["ash", "-c", &line])
            .env("SUPERCTL_SOCKET", r.place.socket()))
    };
    let plan = format!(
        "{SUPERD} --config {} plan --max-stop-seconds",
        r.place.file("superd.toml").display()
    );
    let longest = run(Command::new("sh").args(["-c", &plan])).out;
    let longest: u64 = longest.trim().parse().unwrap();
    let said = openrc("start_pre && echo \"$retry $supervisor $respawn_max $command_args\"");
    assert_eq!(said.code, 0, "{said:?}");
    let wanted = format!(
        "TERM/{}/KILL/5 supervise-daemon 0 --config {}\n",
        longest + 5,
        r.place.file("superd.toml").display()
    );
    assert_eq!(said.out, wanted);
    assert_eq!(openrc("depend").out, "need localmount\nuse logger net\n");
    assert_eq!(openrc("stop_pre").code, 0, "superd does not run");
    assert_eq!(openrc("reload").code, 7);
    r.ok("superd", &["start"]);
    r.wait_up("web");
    let pid = r.pid_of("web");
    for action in ["reload", "upgrade", "checkconfig"] {
        let said = openrc(action);
        assert_eq!(said.code, 0, "{action}: {said:?}");
    }
    assert_eq!(r.pid_of("web"), pid);
    assert_eq!(openrc("stop_pre").code, 0);
    assert_eq!(r.state_of("web"), "down");
    r.ok("superd", &["stop"]);
    // Issue 7: killed, it left services that nobody stopped.
    r.ok("superd", &["start"]);
    r.wait_up("web");
    let stops = r.place.record("web").count("signal TERM");
    kill_and_wait(superd_of(&r));
    let said = openrc("stop_pre");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(r.place.record("web").count("signal TERM"), stops + 1);
    assert!(r.place.processes().is_empty());
    r.place.configure(Flavour::NoCgroups, "[service.web]\n");
    assert_eq!(openrc("start_pre").code, 1);
    r.ok("superd", &["stop"]);
}
