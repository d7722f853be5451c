//! Nothing is left behind: whatever a service does with its processes, they end with it.

use std::collections::BTreeSet;
use std::process::{Child, Command};

use serde_json::json;

use crate::support::*;

/// A child in its group (g), one in a session of its own (s), one double-forked (d).
const TREE: &str = r#"
    [service.tree]
    command = [$TWIN:tree, "tree"]
    restart = "on-failure"
    restart-delay = "1ms"
"#;

/// None of them minds anything but KILL.
const STUBBORN: &str = r#"
    [service.tree]
    command = [$TWIN:tree, "tree", "--stubborn"]
    leftover-grace = "50ms"
"#;

/// Waits until the main process and its three children are there.
fn grown(s: &Superd, trees: usize) -> BTreeSet<i32> {
    let record = s.wait_record("tree", "begun", 3 * trees);
    s.wait_record("tree", "start", trees);
    s.wait_state("tree", "up");
    let mut pids: BTreeSet<i32> = record.all("begun").map(|n| n.pid).collect();
    pids.extend(record.all("start").map(|n| n.pid));
    pids
}

/// With cgroups, the processes are really in one.
fn contained(s: &Superd, flavour: Flavour) {
    let pid = s.pid_of("tree");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = groups
        .lines()
        .any(|l| l.starts_with("0::") && l.ends_with("/tree.service"));
    assert_eq!(own, flavour == Flavour::Cgroups, "{groups}");
}

in_both_flavours! {
    fn a_stop_leaves_none_of_the_tree(flavour: Flavour) {
        let s = Superd::start_in(flavour, TREE);
        grown(&s, 1);
        contained(&s, flavour);
        assert_eq!(s.status("tree")["processes"], 4);
        // Issue 5: "left children", as if they were there.
        let said = s.ok(&["stop", "tree"]);
        assert_eq!(said, "tree: stopped, left processes behind, which superd removed\n");
        s.assert_nothing_left();
        let line = "; 3 processes of its tree outlived it and were removed";
        assert!(s.place.log().contains(line), "{}", s.place.log());
        // The main process went; what it left was asked once, and went too.
        let record = s.record("tree");
        assert_eq!(record.count("signal TERM"), 4, "{:?}", record.rest("signal"));
        let end = s.last_end("tree");
        assert_eq!(end["left"], 3);
        assert_eq!(end["verdict"], "left-children");
        s.end();
    }

    fn a_stop_kills_what_does_not_go(flavour: Flavour) {
        let s = Superd::start_in(flavour, STUBBORN);
        for round in 1..=3 {
            grown(&s, round);
            s.stop("tree");
            s.assert_nothing_left();
            assert_eq!(s.verdict("tree"), "left-children");
            // What was killed does not stand in the way of the next start.
            s.ok(&["start", "tree"]);
        }
        grown(&s, 4);
        s.end();
    }

    fn a_crash_leaves_none_of_the_tree_and_the_next_instance_waits_for_that(flavour: Flavour) {
        let s = Superd::start_in(flavour, STUBBORN);
        for round in 1..=3 {
            let old = grown(&s, round);
            let main = s.pid_of("tree");
            kill(main, libc::SIGKILL);
            s.wait_record("tree", "start", round + 1);
            grown(&s, round + 1);
            let record = s.record("tree");
            let next = record.all("start").nth(round).unwrap();
            let alive: BTreeSet<i32> = s.place.processes().intersection(&old).copied().collect();
            assert!(alive.is_empty(), "{} beside {next:?}", describe(&alive));
        }
        assert_eq!(s.ends("tree").len(), 3);
        assert_eq!(s.verdict("tree"), "crashed");
        s.end();
    }

    fn superds_own_shutdown_leaves_none_of_the_tree(flavour: Flavour) {
        let s = Superd::start_in(flavour, STUBBORN);
        grown(&s, 1);
        s.end();
    }

    fn a_forced_shutdown_leaves_none_of_the_tree(flavour: Flavour) {
        let mut s = Superd::start_in(flavour, STUBBORN);
        grown(&s, 1);
        s.signal(libc::SIGQUIT);
        assert_eq!(s.wait().code(), Some(0));
        s.assert_nothing_left();
    }

    fn a_killed_service_can_be_started_again(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.deaf]
            command = [$TWIN:deaf, "ignore"]
            stop = [{ signal = "TERM", wait = "10ms" }]
            "#,
        );
        for round in 1..=5 {
            s.wait_record("deaf", "start", round);
            s.wait_state("deaf", "up");
            s.stop("deaf");
            s.ok(&["start", "deaf"]);
        }
        s.wait_record("deaf", "start", 6);
        assert_eq!(s.status("deaf")["restarts"], 0);
        s.end();
    }

    fn an_application_in_a_session_of_its_own_goes_with_its_wrapper(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.air]
            command = [$TWIN:air, "wrapper", "--pty"]
            [service.panics]
            command = [$TWIN:panics, "wrapper", "--panic", "100"]
            [service.hangs]
            command = [$TWIN:hangs, "wrapper", "--hang", "100"]
            stop = [{ signal = "TERM", wait = "100ms" }]
            "#,
        );
        for (name, verdict) in [
            ("air", "left-children"),
            ("panics", "panicked-while-stopping"),
            ("hangs", "killed"),
        ] {
            s.wait_record(name, "start", 1);
            s.wait_record(name, "begun app", 1);
            s.wait_state(name, "up");
            s.stop(name);
            assert_eq!(s.verdict(name), verdict, "{name}");
        }
        s.assert_nothing_left();
        s.end();
    }

    fn children_first_spares_the_wrapper_any_signal(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.air]
            command = [$TWIN:air, "wrapper", "--panic", "50", "--hang", "50"]
            stop = "children-first"
            "#,
        );
        for round in 1..=5 {
            s.wait_record("air", "start", round);
            s.wait_record("air", "begun app", round);
            s.wait_state("air", "up");
            s.stop("air");
            s.assert_nothing_left();
            let record = s.record("air");
            assert_eq!(record.count("ended by TERM"), round, "the application");
            assert_eq!(record.count("panic"), 0);
            let wrapper = record.all("start").last().unwrap().pid;
            let told = record.0.iter().any(|n| n.pid == wrapper && n.what.starts_with("signal"));
            assert!(!told, "a signal to the wrapper");
            s.ok(&["start", "air"]);
        }
        s.end();
    }

    fn who_leaves_with_status_0_is_swept_up_after(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.go2rtc]
            command = [$TWIN:go2rtc, "leaver"]
            [service.hasty]
            command = [$TWIN:hasty, "leaver", "--at-once", "--stubborn"]
            restart = "never"
            leftover-grace = "20ms"
            "#,
        );
        s.wait_record("go2rtc", "begun camera", 1);
        s.wait_record("go2rtc", "start", 1);
        s.wait_state("go2rtc", "up");
        s.stop("go2rtc");
        assert_eq!(s.verdict("go2rtc"), "left-children");
        wait_until("the hasty one is swept", || !s.ends("hasty").is_empty());
        s.wait_state("hasty", "down");
        assert_eq!(s.verdict("hasty"), "left-children");
        s.assert_nothing_left();
        s.end();
    }

    fn a_restart_has_the_port_for_itself(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "bind", "--listen", "$HOST:8080"]
            restart-delay = "1ms"
            crash-loop = false
            "#,
        );
        for round in 1..=10 {
            s.wait_record("web", "start", round);
            s.wait_state("web", "up");
            if round % 2 == 0 {
                s.ok(&["restart", "web"]);
            } else {
                kill(s.pid_of("web"), libc::SIGKILL);
            }
        }
        s.wait_record("web", "start", 11);
        assert_eq!(s.record("web").count("bind failed"), 0);
        s.end();
    }

    fn a_busy_machine_is_not_taken_for_left_children(flavour: Flavour) {
        alone(|| stops_on_a_busy_machine(flavour)); // it would disturb the others
    }

    fn a_fork_bomb_within_its_limits_is_cleared_away(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.bomb]
            command = [$TWIN:bomb, "fork-bomb", "300"]
            leftover-grace = "10ms"
            [service.bystander]
            command = [$TWIN:bystander, "obey"]
            "#,
        );
        s.wait_record("bomb", "start", 1);
        assert_eq!(s.record("bomb").rest("bombed"), ["300 errno 0"]);
        s.stop("bomb");
        assert_eq!(s.state("bomb"), "down");
        assert_eq!(s.state("bystander"), "up");
        let mut left = s.place.processes();
        left.remove(&s.pid);
        assert_eq!(left.len(), 1, "{}", describe(&left));
        assert_eq!(children_of(s.pid).len(), 1);
        s.end();
    }

    fn a_service_that_execs_something_else_stays_the_same_service(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.shell]
            command = [$TWIN:shell, "exec-other"]
            "#,
        );
        let record = s.wait_record("shell", "start", 1);
        assert_eq!(record.first("execs").pid, record.first("start").pid);
        s.wait_state("shell", "up");
        assert_eq!(s.pid_of("shell"), record.first("start").pid);
        assert_eq!(s.ok(&["stop", "shell"]), "shell: stopped, clean\n");
        s.end();
    }
}

#[test]
fn a_user_with_a_limit_of_processes_cannot_hurt_the_others() {
    let name = "a_user_with_a_limit_of_processes_cannot_hurt_the_others";
    if !root_or_skip(name) {
        return;
    }
    let place = Place::new();
    std::fs::write(place.file("bomb.record"), "").unwrap();
    std::os::unix::fs::chown(place.file("bomb.record"), Some(64321), None).unwrap();
    place.configure(
        Flavour::NoCgroups,
        r#"
        [service.bomb]
        command = [$TWIN:bomb, "fork-bomb", "400"]
        user = "64321"
        group = "64321"
        limits = { nproc = 50 }
        leftover-grace = "10ms"
        [service.bystander]
        command = [$TWIN:bystander, "obey"]
        "#,
    );
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    s.wait_record("bomb", "start", 1);
    let bombed = s.record("bomb").rest("bombed");
    assert_eq!(bombed, [format!("49 errno {}", libc::EAGAIN)]);
    s.stop("bomb");
    assert_eq!(s.state("bystander"), "up");
    let lines = s.ask(json!({"do": "status", "service": "bomb"}));
    assert_eq!(lines[0]["status"]["state"], "down");
    s.end();
}

// Without cgroups a process may be gone when it is looked at for the second time, and its
// child was not there yet when the first look was taken.
in_both_flavours! {
    fn processes_that_never_stay_are_caught(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.hop]
            command = [$TWIN:hop, "hop", "10", "--every-us", "200"]
            leftover-grace = "10ms"
            autostart = false
            "#,
        );
        for round in 1..=20 {
            s.ok(&["start", "hop"]);
            s.wait_record("hop", "start", round);
            s.stop("hop");
            assert_eq!(s.state("hop"), "down");
            s.assert_nothing_left();
        }
        s.end();
    }
}

/// Kernels from 6.14 on count the kills of a cgroup, and kill what is born into one whose count
/// is not that of its parent's.
#[test]
fn superd_in_a_cgroup_that_was_killed_once_can_start_services() {
    let name = "superd_in_a_cgroup_that_was_killed_once_can_start_services";
    if !cgroups_or_skip(name) {
        return;
    }
    let place = Place::new();
    let group = own_cgroup().unwrap().join(&place.mark);
    std::fs::create_dir(&group).unwrap();
    let killed = std::fs::write(group.join("cgroup.kill"), "1");
    place.configure(
        Flavour::Cgroups,
        "[service.web]\ncommand = [$TWIN:web, \"obey\"]\n",
    );
    let mut args: Vec<String> = ["sh", "-ec", "echo 0 >\"$0\"; exec \"$@\""]
        .map(str::to_owned)
        .to_vec();
    args.push(group.join("cgroup.procs").display().to_string());
    args.extend(place.superd_args());
    let command = place.command(&args);
    let s = Superd::launch(place, command);
    s.wait_record("web", "start", 1);
    assert_eq!(s.status("web")["restarts"], 0);
    s.end();
    std::fs::remove_dir(&group).unwrap();
    if killed.is_err() {
        skip(name, "cgroup.kill needs Linux 5.14");
    }
}

#[test]
fn stopped_is_said_when_a_crowd_of_zombies_is_reaped_too() {
    let s = Superd::start(
        r#"
        [service.crowd]
        command = [$TWIN:crowd, "fork-bomb", "500"]
        stop = [{ signal = "CONT", wait = "10m" }]
        "#,
    );
    s.wait_record("crowd", "bombed", 1);
    s.wait_state("crowd", "up");
    let main = s.pid_of("crowd");
    let mut raw = s.raw();
    raw.send(&json!({"do": "stop", "service": "crowd", "wait": true}));
    s.wait_state("crowd", "stopping");
    // All at once, and the main process among them.
    s.signal(libc::SIGSTOP);
    wait_until("superd stands still", || state_of(s.pid) == Some('T'));
    let mut all = s.place.processes();
    all.remove(&s.pid);
    // Of the 500, a small machine has room for some.
    assert!(all.len() > 50 && all.contains(&main), "{}", all.len());
    all.iter().for_each(|pid| kill(*pid, libc::SIGKILL));
    wait_until("they are dead", || {
        all.iter()
            .all(|pid| matches!(state_of(*pid), None | Some('Z')))
    });
    s.signal(libc::SIGCONT);
    let reply = raw.reply().unwrap();
    s.assert_nothing_left();
    assert_eq!(reply["ok"], true, "{reply}");
    s.end();
}

fn stops_on_a_busy_machine(flavour: Flavour) {
    let s = Superd::start_in(
        flavour,
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        "#,
    );
    // Processes that come and go all the time, and are none of superd's; at most so many.
    let busy = "i=0; while [ $i -lt 2500 ]; do /bin/true & /bin/true; wait; i=$((i+1)); done";
    let mut busy: Vec<Child> = (0..4)
        .map(|_| Command::new("sh").args(["-c", busy]).spawn().unwrap())
        .collect();
    for round in 1..=40 {
        s.wait_record("web", "start", round);
        s.wait_state("web", "up");
        s.stop("web");
        let end = s.last_end("web");
        assert_eq!(
            (&end["left"], &end["verdict"]),
            (&json!(0), &json!("clean")),
            "{end}"
        );
        s.ok(&["start", "web"]);
    }
    for child in &mut busy {
        child.kill().ok(); // it may be through
        child.wait().unwrap();
    }
    s.end();
}
