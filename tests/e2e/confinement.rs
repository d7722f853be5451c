//! What a service is kept to: limits, capabilities, files, networks. What a machine cannot do
//! keeps the service from starting, with one line, unless it is optional.

use std::fs;
use std::os::unix::process::CommandExt;

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
        skip("only_some_places_can_be_written_to", "needs Landlock");
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
    place.configure(Flavour::NoCgroups, &text);
    let mut command = place.command(&place.superd_args());
    if is_root() {
        command.uid(65534).gid(65534);
    }
    let s = Superd::launch(place, command);
    for (name, stage, _) in keys {
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
    if !root_or_skip(name) || !program_or_skip(name, "ip") {
        return;
    }
    let net = format!("superd-e2e-{}", std::process::id());
    let ip = |args: &[&str]| run(std::process::Command::new("ip").args(args));
    let made = ip(&["netns", "add", &net]);
    if made.code != 0 {
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
    ip(&["netns", "del", &net]);
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
    let controllers = own_cgroup().map(|dir| dir.join("cgroup.controllers"));
    let controllers = fs::read_to_string(controllers.unwrap()).unwrap_or_default();
    if ["memory", "pids", "cpu"]
        .iter()
        .any(|c| !controllers.contains(c))
    {
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
    let groups = s.place.cgroups();
    let group = groups.iter().find(|g| g.ends_with("a.service")).unwrap();
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.high", "50331648"),
        ("pids.max", "50"),
        ("cpu.weight", "200"),
        ("cpu.max", "50000 100000"),
    ] {
        let text = fs::read_to_string(group.join(file)).unwrap();
        assert_eq!(text.trim(), value, "{file}");
    }
    s.end();
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
