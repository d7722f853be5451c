//! What a service is kept to: limits, capabilities, files, networks. What a machine cannot do
//! keeps the service from starting, with one line, unless it is optional.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use serde_json::json;

use crate::support::*;

/// The output of a service that has ended.
fn output(s: &Superd, name: &str) -> String {
    s.ok(&["start", name]);
    wait_until("it has ended", || !s.ends(name).is_empty());
    s.ok(&["logs", name])
}

/// What was written, without the times.
fn lines(shown: &str) -> Vec<&str> {
    shown
        .lines()
        .filter_map(|l| l.split_once("Z ").map(|(_, text)| text))
        .collect()
}

/// The stage and the one line of a start that fails.
fn failure(s: &Superd, name: &str) -> (String, String) {
    let said = s.ctl(&["start", name]);
    assert_eq!(said.code, 1, "{name}: {said:?}");
    let text = said.err.trim().to_owned();
    assert_eq!(text.lines().count(), 1, "one clear line: {text}");
    let mut events = s.events(name);
    events.retain(|e| e["event"] == "start-failed");
    let stage = events.pop().map(|e| e["error"]["stage"].clone());
    let stage = stage.unwrap_or_default();
    (stage.as_str().unwrap_or("none").to_owned(), text)
}

/// Services that are started by hand and end by themselves.
const BY_HAND: &str = "[defaults]\nautostart = false\nrestart = \"never\"\n";

#[test]
fn a_service_without_root_binds_a_low_port_by_its_capability() {
    if !root_or_skip("a_service_without_root_binds_a_low_port_by_its_capability") {
        return;
    }
    let place = Place::new();
    for name in ["web", "poor"] {
        let record = place.file(&format!("{name}.record"));
        fs::write(&record, "").unwrap();
        std::os::unix::fs::chown(record, Some(65534), None).unwrap();
    }
    let text = r#"
        [service.web]
        command = [$TWIN:web, "web", "--listen", "$HOST:443"]
        user = "nobody"
        capabilities = ["CAP_NET_BIND_SERVICE"]
        no-new-privileges = true
        ready = { tcp = "$HOST:443", interval = "20ms" }
        [service.show]
        command = ["/bin/grep", "-E", "Cap|NoNew", "/proc/self/status"]
        user = "nobody"
        capabilities = ["net-bind-service"]
        no-new-privileges = true
        [service.nothing]
        command = ["/bin/grep", "-E", "Cap|NoNew", "/proc/self/status"]
        capabilities = []
        "#;
    place.configure(Flavour::NoCgroups, &format!("{BY_HAND}{text}"));
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    s.ok(&["start", "web"]);
    let shown = output(&s, "show");
    for set in ["Inh", "Prm", "Eff", "Bnd", "Amb"] {
        let line = format!("Cap{set}:\t0000000000000400");
        assert!(shown.contains(&line), "{shown}");
    }
    assert!(shown.contains("NoNewPrivs:\t1"), "{shown}");
    let shown = output(&s, "nothing");
    assert_eq!(shown.matches("0000000000000000").count(), 5, "{shown}");
    assert!(shown.contains("NoNewPrivs:\t0"), "{shown}");
    s.end();
}

#[test]
fn files_are_hidden_and_locked_for_the_service_alone() {
    if !root_or_skip("files_are_hidden_and_locked_for_the_service_alone") {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.file("locked")).unwrap();
    let text = r#"
        [service.tmp]
        command = ["/bin/sh", "-c", "ls -A /tmp | grep -v superd-e2e; test -e $DIR/superd.toml && echo seen; test -S $NOTIFY_SOCKET && echo told; touch /tmp/superd-e2e-own && echo own; echo out >/dev/stdout"]
        private-tmp = true
        [service.locked]
        command = ["/bin/sh", "-c", "touch $DIR/locked/a || echo no; touch $DIR/b && echo yes; mount | grep -c $DIR/locked"]
        read-only-paths = ["$DIR/locked", "-/no/such/path"]
        [service.missing]
        command = ["/bin/true"]
        read-only-paths = ["$DIR/locked", "/no/such/path"]
        "#;
    place.configure(Flavour::NoCgroups, &format!("{BY_HAND}{text}"));
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    let shown = output(&s, "tmp");
    let words = lines(&shown);
    assert_eq!(words, ["told", "own", "out"], "{shown}");
    assert!(!std::path::Path::new("/tmp/superd-e2e-own").exists());
    let shown = output(&s, "locked");
    let words = lines(&shown);
    assert!(words[0].contains("Read-only"), "{shown}");
    assert_eq!(words[1..], ["no", "yes", "1"], "{shown}");
    fs::write(s.place.file("locked/b"), "").unwrap(); // nobody else is kept from it
    let (stage, text) = failure(&s, "missing");
    assert_eq!(stage, "read-only", "{text}");
    let want = "setting read-only-paths \"/no/such/path\": No such file or directory";
    assert!(text.contains(want), "{text}");
    s.end();
}

/// Whether Landlock is there: superd says so.
fn has_landlock(s: &Superd) -> bool {
    let doctor = s.ok(&["doctor"]);
    doctor.lines().any(|l| l.starts_with("ok  Landlock"))
}

#[test]
fn only_some_places_can_be_written_to() {
    let text = r#"
        [service.land]
        command = ["/bin/sh", "-c", "echo 1 >$DIR/yes/a && echo wrote; (echo 1 >$DIR/no) 2>/dev/null || echo kept; mkdir $DIR/yes/d && mv $DIR/yes/a $DIR/yes/d/ && echo moved; echo >/dev/null; echo out >/dev/stdout; truncate -s 0 $DIR/whole 2>/dev/null || echo whole; cat $DIR/whole; grep NoNew /proc/self/status"]
        writable-paths = ["$DIR/yes", "-/no/such/path"]
        [service.missing]
        command = ["/bin/true"]
        writable-paths = ["/no/such/path"]
        [service.nothing]
        command = ["/bin/sh", "-c", "echo 1 >$DIR/yes/b || echo kept"]
        writable-paths = []
        "#;
    let place = Place::new();
    fs::create_dir(place.file("yes")).unwrap();
    fs::write(place.file("whole"), "content\n").unwrap();
    place.configure(Flavour::NoCgroups, &format!("{BY_HAND}{text}"));
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    if !has_landlock(&s) {
        let (stage, text) = failure(&s, "land");
        assert!(stage == "writable" && text.contains("Landlock"), "{text}");
        skip(
            "only_some_places_can_be_written_to",
            "needs Landlock of Linux 6.2",
        );
        s.end();
        return;
    }
    let shown = output(&s, "land");
    let words = lines(&shown);
    let want = [
        "wrote",
        "kept",
        "moved",
        "out",
        "whole",
        "content",
        "NoNewPrivs:\t1",
    ];
    let others = words.iter().filter(|w| !w.contains("denied"));
    assert_eq!(others.copied().collect::<Vec<_>>(), want, "{shown}");
    assert!(lines(&output(&s, "nothing")).contains(&"kept"));
    let (stage, text) = failure(&s, "missing");
    assert_eq!(stage, "writable", "{text}");
    let want = "setting writable-paths \"/no/such/path\": No such file or directory";
    assert!(text.contains(want), "{text}");
    s.end();
}

/// What superd itself may not it cannot take away: each fails closed, and what is optional is
/// done without, and told.
#[test]
fn an_unprivileged_superd_says_what_it_may_not() {
    let place = Place::new();
    if is_root() {
        std::os::unix::fs::chown(&place.dir, Some(65534), Some(65534)).unwrap();
    }
    let keys = [
        ("tmp", "private-tmp", "private-tmp = true"),
        ("ro", "read-only", "read-only-paths = [\"/usr\"]"),
        ("caps", "capabilities", "capabilities = []"),
        (
            "bind",
            "capabilities",
            "capabilities = [\"net-bind-service\"]",
        ),
        ("net", "network", "network-namespace = \"superd-e2e-none\""),
        ("mem", "control", "memory-max = \"64MiB\""),
    ];
    // The last needs a user to whom nobody has given cgroups.
    let keys = keys.get(..if is_root() { 6 } else { 5 }).unwrap();
    let mut text = BY_HAND.to_owned();
    for (name, _, key) in keys {
        text.push_str(&format!(
            "[service.{name}]\ncommand = [\"/bin/true\"]\n{key}\n"
        ));
        let optional = key.split(' ').next().unwrap();
        text.push_str(&format!(
            "[service.{name}-maybe]\ncommand = [\"/bin/echo\", \"ran\"]\n{key}\noptional = [\"{optional}\"]\n"
        ));
    }
    // Wanted, and not to be had by this user: with cgroup = "off" the file would be refused.
    place.configure(Flavour::Cgroups, &text);
    let mut command = place.command(&place.superd_args());
    if is_root() {
        command.uid(65534).gid(65534);
    }
    let s = Superd::launch(place, command);
    for (name, stage, _) in keys.iter().copied() {
        let (at, text) = failure(&s, name);
        assert_eq!(at, stage, "{text}");
        let why = [
            "needs CAP_",
            "does not have it",
            "no such namespace",
            "no cgroups",
        ];
        assert!(why.iter().any(|w| text.contains(w)), "the reason: {text}");
        assert_eq!(s.state(name), "failed");
        let maybe = format!("{name}-maybe");
        assert!(output(&s, &maybe).contains("ran"));
        let why = s.ok(&["why", &maybe]);
        assert!(why.contains("starts without what is optional: "), "{why}");
    }
    s.end();
}

#[test]
fn a_service_lives_in_the_network_that_is_named() {
    let name = "a_service_lives_in_the_network_that_is_named";
    if !root_or_skip(name) || !program_or_skip(name, "unshare") {
        return;
    }
    let net = format!("superd-e2e-{}", std::process::id());
    // As `ip netns add` does it.
    let file = format!("/var/run/netns/{net}");
    fs::create_dir_all("/var/run/netns").unwrap();
    fs::write(&file, "").unwrap();
    let bind = ["-n", "mount", "-o", "bind", "/proc/self/ns/net", &file];
    let made = run(std::process::Command::new("unshare").args(bind));
    if made.code != 0 {
        fs::remove_file(&file).unwrap();
        return skip(name, &made.err);
    }
    let text = format!(
        "{BY_HAND}[service.net]\ncommand = [\"/bin/cat\", \"/proc/net/dev\"]\n\
         network-namespace = \"{net}\"\n[service.file]\ncommand = [\"/bin/true\"]\n\
         network-namespace = \"{net}.none\"\n"
    );
    let s = Superd::start(&text);
    let shown = output(&s, "net");
    let (stage, text) = failure(&s, "file");
    s.end();
    run(std::process::Command::new("umount").arg(&file));
    fs::remove_file(&file).unwrap();
    let devices = shown
        .lines()
        .filter(|l| l.contains(':') && !l.contains('|'));
    let devices: Vec<&str> = devices
        .filter_map(|l| l.split_whitespace().nth(2))
        .collect();
    assert!(
        devices.contains(&"lo:") && !devices.iter().any(|d| d.starts_with("eth")),
        "{shown}"
    );
    assert_eq!(stage, "network");
    assert!(text.contains("there is no such namespace"), "{text}");
}

/// The controllers that a cgroup of the tests can have.
fn controllers() -> Vec<String> {
    let file = own_cgroup().map(|dir| dir.join("cgroup.controllers"));
    let text = file.and_then(|f| fs::read_to_string(f).ok());
    let text = text.unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// A superd whose services can have this controller; else the test is skipped, and says so.
fn with_controller(name: &str, controller: &str, text: &str) -> Option<Superd> {
    if !cgroups_or_skip(name) {
        return None;
    }
    if !controllers().iter().any(|c| c == controller) {
        skip(name, &format!("needs the cgroup controller {controller}"));
        return None;
    }
    Some(Superd::start_in(
        Flavour::Cgroups,
        &format!("{BY_HAND}{text}"),
    ))
}

/// A file of the service's cgroup.
fn of_group(s: &Superd, service: &str, file: &str) -> String {
    let path = format!("{service}.service/{file}");
    let mut all = s.place.cgroups().into_iter().map(|g| g.join(&path));
    let found = all.find_map(|path| fs::read_to_string(path).ok());
    found.unwrap_or_else(|| panic!("{service}: no {file}: {:?}", s.place.cgroups()))
}

/// A number of such a file with a word before each.
fn counted(s: &Superd, service: &str, file: &str, key: &str) -> u64 {
    let text = of_group(s, service, file);
    let mut pairs = text.lines().filter_map(|l| l.split_once(' '));
    let value = pairs.find(|(k, _)| *k == key).map(|(_, v)| v.trim());
    value.and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[test]
fn who_takes_more_than_memory_max_is_ended_by_the_kernel() {
    let name = "who_takes_more_than_memory_max_is_ended_by_the_kernel";
    // One process each: of several, the kernel may end another one than the main one.
    let text = r#"
        [service.greedy]
        command = [$TWIN:greedy, "eat", "48", "--gate", "/"]
        memory-max = "16MiB"
        [service.modest]
        command = [$TWIN:modest, "eat", "1", "--gate", "/"]
        memory-max = "16MiB"
        "#;
    let Some(s) = with_controller(name, "memory", text) else {
        return;
    };
    let has_eaten = |name: &str| {
        s.ok(&["start", name]);
        wait_until("it has ended", || !s.ends(name).is_empty());
        let record = s.record(name);
        assert_eq!(record.count("start"), 1, "{record:?}");
        record.count("ate") == 1
    };
    assert!(!has_eaten("greedy"));
    assert_eq!(s.last_end("greedy")["exit"], json!({"signal": 9}));
    assert_eq!(s.verdict("greedy"), "crashed");
    assert!(has_eaten("modest"));
    s.end();
}

#[test]
fn who_takes_more_than_memory_high_is_slowed_down() {
    let name = "who_takes_more_than_memory_high_is_slowed_down";
    let text = r#"
        [service.a]
        command = ["/bin/sh", "-c", "x=$(head -c 4000000 /dev/zero | tr '\\0' a); exec sleep 3000"]
        memory-high = "1MiB"
        "#;
    let Some(s) = with_controller(name, "memory", text) else {
        return;
    };
    s.ok(&["start", "a"]);
    wait_until("it is held back", || {
        counted(&s, "a", "memory.events", "high") > 0
    });
    assert_eq!(of_group(&s, "a", "memory.high").trim(), "1048576");
    assert_eq!(s.state("a"), "up", "it is not ended for that");
    s.ok(&["stop", "--now", "a"]);
    s.end();
}

#[test]
fn nobody_forks_more_than_pids_max() {
    let name = "nobody_forks_more_than_pids_max";
    // The shell says that it cannot fork, in words of its own, and may give up.
    let text = r#"
        [service.a]
        command = ["/bin/sh", "-c", "for i in 1 2 3 4 5 6; do sleep 3000 & echo $i; done; wait"]
        pids-max = 4
        "#;
    let Some(s) = with_controller(name, "pids", text) else {
        return;
    };
    s.ok(&["start", "--no-wait", "a"]);
    wait_until("it is refused a process", || {
        s.ok(&["logs", "a"]).contains("fork")
    });
    let shown = s.ok(&["logs", "a"]);
    assert!(shown.contains("Z 3\n"), "the shell and three: {shown}");
    let mut own = s.place.processes();
    own.remove(&s.pid);
    assert!(own.len() <= 4, "{own:?}");
    s.ok(&["stop", "--now", "a"]);
    s.end();
}

#[test]
fn who_takes_more_than_cpu_max_is_held_back() {
    let name = "who_takes_more_than_cpu_max_is_held_back";
    let text = r#"
        [service.a]
        command = ["/bin/sh", "-c", "while :; do :; done"]
        cpu-max = "10%"
        "#;
    let Some(s) = with_controller(name, "cpu", text) else {
        return;
    };
    s.ok(&["start", "a"]);
    wait_until("it is held back", || {
        counted(&s, "a", "cpu.stat", "nr_throttled") > 0
    });
    s.ok(&["stop", "--now", "a"]);
    s.end();
}

/// What a weight does shows only where two compete for the last bit: that the kernel has taken
/// it has to do.
#[test]
fn the_kernel_has_the_weights() {
    let name = "the_kernel_has_the_weights";
    let text = r#"
        [service.cpu]
        command = [$TWIN:cpu, "obey"]
        cpu-weight = 37
        [service.io]
        command = [$TWIN:io, "obey"]
        io-weight = 250
        "#;
    let Some(s) = with_controller(name, "cpu", text) else {
        return;
    };
    s.ok(&["start", "cpu"]);
    assert_eq!(of_group(&s, "cpu", "cpu.weight").trim(), "37");
    // Not every kernel with the controller io has weights.
    match s.ctl(&["start", "io"]).code {
        0 => assert!(of_group(&s, "io", "io.weight").contains("default 250")),
        _ => {
            let (stage, text) = failure(&s, "io");
            assert_eq!(stage, "control", "{text}");
            assert!(text.contains("io"), "{text}");
            skip(name, "io-weight: not in this kernel");
        }
    }
    s.end();
}

#[test]
fn limits_of_the_cgroup_are_set_or_the_start_fails() {
    let name = "limits_of_the_cgroup_are_set_or_the_start_fails";
    if !cgroups_or_skip(name) {
        return;
    }
    let text = r#"
        [service.a]
        command = [$TWIN:a, "obey"]
        memory-max = "64MiB"
        memory-high = "48MiB"
        pids-max = 50
        cpu-weight = 200
        cpu-max = "50%"
        [service.maybe]
        command = ["/bin/echo", "ran"]
        io-weight = 50
        optional = ["io-weight"]
        "#;
    let s = Superd::start_in(Flavour::Cgroups, &format!("{BY_HAND}{text}"));
    assert!(output(&s, "maybe").contains("ran"));
    let there = controllers();
    let is_missing = |c: &&str| !there.iter().any(|t| t == c);
    if ["memory", "pids", "cpu"].iter().any(is_missing) {
        let (stage, text) = failure(&s, "a");
        assert_eq!(stage, "control", "{text}");
        assert!(text.contains("cgroup.controllers"), "{text}");
        let doctor = s.ok(&["doctor"]);
        assert!(doctor.contains("limits by cgroup"), "{doctor}");
        skip(name, "the rest needs the controllers memory, pids and cpu");
        s.end();
        return;
    }
    s.ok(&["start", "a"]);
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.high", "50331648"),
        ("pids.max", "50"),
        ("cpu.weight", "200"),
        ("cpu.max", "50000 100000"),
    ] {
        assert_eq!(of_group(&s, "a", file).trim(), value, "{file}");
    }
    s.end();
}

/// A superd started in this cgroup, as an init system does.
fn started_in(group: &Path, place: Place) -> Superd {
    let mut args = ["sh", "-ec", "echo 0 >\"$0\"; exec \"$@\""]
        .map(str::to_owned)
        .to_vec();
    args.push(group.join("cgroup.procs").display().to_string());
    args.extend(place.superd_args());
    let command = place.command(&args);
    Superd::launch(place, command)
}

/// Removes a cgroup and what is below it.
fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    wait_until("the cgroup is empty", || fs::remove_dir(group).is_ok());
}

/// systemd from 254 on starts it in the `DelegateSubgroup=` of its unit's cgroup, an older one in
/// that cgroup itself, and runs `ExecStopPost=` in one that is called `.control`.
#[test]
fn after_a_kill_systemd_can_put_the_next_superd_where_the_first_one_was() {
    let name = "after_a_kill_systemd_can_put_the_next_superd_where_the_first_one_was";
    if !cgroups_or_skip(name) {
        return;
    }
    let unit_file = include_str!("../../packaging/systemd/superd.service");
    let says = |key: &str| {
        let mut lines = unit_file.lines();
        let found = lines.find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {key}="))
    };
    let own = own_cgroup().unwrap();
    let is_limited = controllers().iter().any(|c| c == "pids");
    if is_limited {
        fs::write(own.join("cgroup.subtree_control"), "+pids").unwrap();
    } else {
        skip(name, "the rest needs the cgroup controller pids");
    }
    for has_subgroup in [true, false] {
        if !is_limited && !has_subgroup {
            continue;
        }
        let place = Place::new();
        let unit = own.join(format!("{}.unit", place.mark));
        let subgroup = unit.join(says("DelegateSubgroup"));
        let limit = if is_limited { "pids-max = 50\n" } else { "" };
        let text = format!("{BY_HAND}[service.a]\ncommand = [$TWIN:a, \"obey\"]\n{limit}");
        place.configure(Flavour::Cgroups, &text);
        fs::create_dir(&unit).unwrap();
        let at = if has_subgroup { &subgroup } else { &unit };
        fs::create_dir_all(at).unwrap();
        let s = started_in(at, place);
        s.ok(&["start", "a"]); // says why not
        s.wait_record("a", "start", 1);
        let group = fs::read_to_string(format!("/proc/{}/cgroup", s.pid_of("a"))).unwrap();
        let path = group.lines().find_map(|l| l.strip_prefix("0::/")).unwrap();
        let (_, below) = path.split_once(&format!("{}.unit/", s.place.mark)).unwrap();
        assert!(below.ends_with("/a.service"), "{below}");
        assert_eq!(
            below.matches('/').count(),
            1,
            "beside superd's own: {below}"
        );
        let pids_max = unit.join(below).join("pids.max");
        let limit = || fs::read_to_string(&pids_max).unwrap_or_default();
        let wanted = if is_limited { "50\n" } else { "" };
        assert_eq!(limit(), wanted);
        let place = s.abandon();
        if is_limited {
            let script = says("ExecStopPost").strip_prefix("-/bin/sh -c '").unwrap();
            let script = script.strip_suffix('\'').unwrap().replace("$$", "$");
            let control = unit.join(".control");
            fs::create_dir(&control).unwrap();
            let enter = format!("echo 0 >{}/cgroup.procs; {script}", control.display());
            let said = run(std::process::Command::new("sh").args(["-c", &enter]));
            assert_eq!(said.code, 0, "{said:?}");
        }
        // With a part of its own for superd no limit is lost meanwhile.
        assert_eq!(limit(), if has_subgroup { wanted } else { "" });
        let s = started_in(at, place);
        s.wait_state("a", "up");
        assert_eq!(limit(), wanted, "set again");
        assert_eq!(s.record("a").count("start"), 1);
        s.end();
        remove_group(&unit);
    }
}

in_both_flavours! {
    fn a_tree_that_grows_too_big_is_stopped_and_started_again(flavour: Flavour) {
        // It grows once, when it is told to.
        let text = r#"
            [service.fat]
            command = ["/bin/sh", "-c", "trap 'exit 0' TERM; echo begins; while :; do if test -e $DIR/grow; then rm $DIR/grow; x=$(head -c 50000000 /dev/zero | tr '\\0' a); fi; sleep 0.02; done"]
            health = { memory = "32MiB", interval = "20ms", failures = 2 }
            restart-delay = "1ms"
            "#;
        let s = Superd::start_in(flavour, text);
        s.wait_state("fat", "up");
        wait_until("it is well", || s.status("fat")["health"] == "well");
        fs::write(s.place.file("grow"), "").unwrap();
        wait_until("it is stopped", || !s.ends("fat").is_empty());
        let end = s.last_end("fat");
        assert_eq!(end["by"]["kind"], "unfit", "{end}");
        s.wait_state("fat", "up");
        let why = s.ok(&["why", "fat"]);
        let text = "its health check failed 2 times in a row: its memory is ";
        assert!(why.contains(text) && why.contains(", more than 32.0 MiB"), "{why}");
        s.end();
    }
}

#[test]
fn a_changed_key_is_a_changed_definition() {
    let text = |nnp: bool| {
        format!("[service.a]\ncommand = [$TWIN:a, \"obey\"]\nno-new-privileges = {nnp}\n")
    };
    let s = Superd::start(&text(false));
    s.wait_record("a", "start", 1);
    s.wait_state("a", "up");
    let privileges = || {
        let status = fs::read_to_string(format!("/proc/{}/status", s.pid_of("a"))).unwrap();
        status.contains("NoNewPrivs:\t1")
    };
    assert!(!privileges());
    s.place.configure(Flavour::NoCgroups, &text(true));
    s.ok(&["reload"]);
    s.wait_record("a", "start", 2);
    s.wait_state("a", "up");
    assert!(privileges());
    s.end();
}
