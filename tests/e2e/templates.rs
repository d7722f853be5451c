//! Templates: one section, many services, which come to be when somebody asks for them.

use std::fs;

use serde_json::json;

use crate::successors::scribe;
use crate::support::*;

/// `cam@`: its instances write `cam@NAME.record`.
fn cams(keys: &str) -> String {
    let twin = twin().display().to_string();
    format!(
        "[service.\"cam@\"]\ncommand = [{twin:?}, \"--record\", \"$DIR/cam@%i.record\", \"obey\"]\n{keys}\n"
    )
}

/// The names that `status` knows.
fn names(superd: &Superd) -> Vec<String> {
    let lines = superd.ask(json!({"do": "status"}));
    let name = |l: &serde_json::Value| Some(l["status"]["service"].as_str()?.to_owned());
    lines.iter().filter_map(name).collect()
}

in_both_flavours! {
    fn a_start_makes_an_instance_and_a_template_itself_is_never_run(flavour: Flavour) {
        let twin = twin().display().to_string();
        let keys = format!(
            "environment = {{ CAM = \"the %i\" }}\n[service.net]\ncommand = [{twin:?}, \"obey\"]\n"
        );
        let s = Superd::start_in(flavour, &cams(&keys));
        s.wait_state("net", "up");
        assert_eq!(names(&s), ["net"]);
        s.ok(&["start", "cam@one"]);
        s.ok(&["restart", "cam@two"]);
        assert_eq!(names(&s), ["cam@one", "cam@two", "net"]);
        let pid = s.pid_of("cam@one");
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment);
        assert!(environment.split('\0').any(|v| v == "CAM=the one"), "{environment}");
        for verb in ["status", "why", "events", "logs"] {
            s.ok(&[verb, "cam@one"]);
        }
        assert!(s.ok(&["graph"]).contains("cam@one"));
        let plan = s.ok(&["plan"]);
        assert!(plan.contains("\ncam@one ") && plan.contains("\ncam@ "), "{plan}");
        // Asked again it is the same one.
        s.ok(&["start", "cam@one"]);
        assert_eq!(s.pid_of("cam@one"), pid);
        s.assert_starts("cam@one", 1);
        // A stop ends it and keeps what is known of it.
        s.ok(&["stop", "cam@one"]);
        assert_eq!(s.record("cam@one").count("signal TERM"), 1);
        assert_eq!(s.state("cam@one"), "down");
        assert_eq!(s.verdict("cam@one"), "clean");
        assert_eq!(s.ctl(&["status", "cam@one"]).code, 3);
        // What was never made need not be stopped.
        assert!(s.ok(&["stop", "cam@three"]).contains("nothing to do"));
        for (verb, name, code, said) in [
            ("status", "cam@three", 4, "no service \"cam@three\" (superctl start makes it from its template)"),
            ("reload", "cam@three", 6, "no service \"cam@three\""),
            ("start", "cam@", 6, "\"cam@\" is a template and no service: name an instance of it, like cam@1"),
            ("stop", "cam@", 6, "\"cam@\" is a template and no service"),
            ("status", "cam@", 4, "\"cam@\" is a template and no service"),
            ("start", "car@1", 6, "no service \"car@1\""),
        ] {
            let answer = s.ctl(&[verb, name]);
            assert_eq!(answer.code, code, "{verb} {name}: {answer:?}");
            assert!(answer.err.contains(said), "{verb} {name}: {answer:?}");
        }
        assert_eq!(names(&s), ["cam@one", "cam@two", "net"]);
        s.ok(&["stop", "--all"]);
        for name in names(&s) {
            assert_eq!(s.state(&name), "down", "{name}");
        }
        s.ok(&["start", "--all"]);
        assert_eq!(s.state("cam@one"), "up");
        assert!(!s.place.file("cam@.record").exists() && !s.place.file("cam@1.record").exists());
        s.end();
    }

    fn instances_outlive_superd_and_an_upgrade(flavour: Flavour) {
        let more = "[service.\"cam@\"]\ncommand = [\"/bin/sleep\", \"1000\"]\n[service.\"pre@\"]\ncommand = [\"/bin/sleep\", \"%i\"]\n";
        let toml = scribe("cam-at", "TERM").replace("[service.cam-at]", "[service.\"cam@\"]");
        // The script has no %, which the template would take for its own.
        assert!(!toml.contains('%'));
        let toml = toml + "requires = [\"pre@1000\"]\n[service.\"pre@\"]\ncommand = [\"/bin/sleep\", \"%i\"]\n";
        let superd = Superd::start_in(flavour, &toml);
        assert!(names(&superd).is_empty());
        superd.ok(&["start", "cam@a"]);
        superd.wait_record("cam-at", "start", 1);
        let pids = [superd.pid_of("cam@a"), superd.pid_of("pre@1000")];
        superd.ok(&["upgrade"]);
        let check = |superd: &Superd| {
            assert_eq!([superd.pid_of("cam@a"), superd.pid_of("pre@1000")], pids);
            superd.assert_starts("cam-at", 1);
        };
        check(&superd);
        let superd = superd.succeed();
        check(&superd);
        assert_eq!(superd.status("cam@a")["adopted"], true);
        assert!(superd.ok(&["reload"]).contains("2 unchanged"));
        check(&superd);
        // Once more, and without the journal: found by cgroup or mark.
        let place = superd.abandon();
        fs::remove_file(place.file("run/journal")).unwrap();
        let superd = place.resume();
        assert_eq!(superd.pid_of("cam@a"), pids[0], "{}", superd.place.log());
        superd.assert_starts("cam-at", 1);
        superd.ok(&["stop", "cam@a"]);
        assert_eq!(superd.record("cam-at").count("TERM"), 1);
        // What was stopped is there and stays so; and another template makes it another one.
        let place = superd.abandon();
        place.configure(flavour, more);
        let superd = place.resume();
        assert_eq!(superd.state("cam@a"), "down");
        superd.ok(&["start", "cam@a"]);
        superd.assert_starts("cam-at", 1);
        let pid = superd.pid_of("cam@a");
        // Without the template nothing of it is left.
        let place = superd.abandon();
        place.configure(flavour, "[service.x]\ncommand = [\"/bin/sleep\", \"1000\"]\n");
        let superd = place.resume();
        wait_until("it is gone", || names(&superd) == ["x"]);
        assert!(!alive(pid));
        superd.end();
    }
}

#[test]
fn a_reload_changes_the_instances_of_a_changed_template() {
    let other =
        "[service.\"other@\"]\ncommand = [\"/bin/sleep\", \"1000\"]\n[service.\"cam@fix\"]\n";
    let s = Superd::start(&(cams("") + other));
    s.wait_state("cam@fix", "up");
    for name in ["cam@a", "cam@b", "other@x"] {
        s.ok(&["start", name]);
    }
    s.ok(&["stop", "cam@b"]);
    let untouched = s.pid_of("other@x");
    s.place
        .configure(Flavour::NoCgroups, &(cams("nice = 1") + other));
    let said = s.ok(&["reload"]);
    assert!(
        said.contains("0 new, 3 changed, 0 gone, 1 unchanged"),
        "{said}"
    );
    for name in ["cam@a", "cam@fix"] {
        s.wait_record(name, "start", 2);
        s.wait_state(name, "up");
    }
    assert_eq!(s.state("cam@b"), "down");
    assert_eq!(s.pid_of("other@x"), untouched);
    // One that an instance cannot be made of: everything stays.
    let pid = s.pid_of("cam@a");
    let keys = "ready = { tcp = \"127.0.0.1:%i\" }";
    s.place.configure(
        Flavour::NoCgroups,
        &(cams(keys) + "[service.\"other@\"]\ncommand = [\"/bin/sleep\", \"1000\"]\n"),
    );
    let said = s.ctl(&["reload"]);
    assert_eq!(said.code, 1);
    assert!(
        said.err
            .contains("service \"cam@a\": `ready`: `tcp`: `a` is not a port"),
        "{said:?}"
    );
    assert_eq!(s.pid_of("cam@a"), pid);
    // Removed: they are gone, also the one with a section, which needs a command then.
    s.place.configure(Flavour::NoCgroups, other);
    assert!(s.ctl(&["reload"]).err.contains("has no `command`"));
    let other = "[service.\"other@\"]\ncommand = [\"/bin/sleep\", \"1000\"]\n";
    s.place.configure(Flavour::NoCgroups, other);
    assert!(s.ok(&["reload"]).contains("3 gone"));
    wait_until("they are gone", || names(&s) == ["other@x"]);
    assert!(!alive(pid));
    assert_eq!(s.record("cam@a").count("signal TERM"), 2);
    assert_eq!(s.pid_of("other@x"), untouched);
    s.end();
}

#[test]
fn there_are_only_so_many_and_a_stopped_one_makes_room() {
    // They wait for what never comes: no processes.
    let s = Superd::start(
        "[service.\"w@\"]\ncommand = [\"/bin/true\"]\nwait-for = { path = \"$DIR/never\" }\n",
    );
    let mut raw = s.raw();
    let mut start = |n: usize| {
        let name = format!("w@{n}");
        let answer = raw.ask(&json!({"do": "start", "service": name, "wait": false}));
        answer.last().unwrap().clone()
    };
    for n in 0..256 {
        assert_eq!(start(n)["ok"], true, "{n}");
    }
    let full = start(256);
    assert_eq!(
        full["message"],
        "w@256: there are 256 instances of templates already, and none of them is stopped"
    );
    assert_eq!(names(&s).len(), 256);
    s.ok(&["stop", "w@7"]);
    s.ok(&["stop", "w@8"]);
    assert_eq!(start(256)["ok"], true);
    assert_eq!(names(&s).len(), 256);
    assert!(
        !names(&s).iter().any(|n| n == "w@7"),
        "it was stopped first"
    );
    assert_eq!(start(8)["ok"], true, "it is there");
    assert_eq!(
        start(257)["message"]
            .as_str()
            .map(|e| e.contains("already")),
        Some(true)
    );
    s.end();
}

#[test]
fn no_name_of_an_instance_does_harm() {
    let s = Superd::start(&(cams("") + "[service.ok]\ncommand = [\"/bin/sleep\", \"1000\"]\n"));
    s.wait_state("ok", "up");
    let before = s.pid_of("ok");
    let long = "x".repeat(65);
    let longer = "y".repeat(10_000);
    for name in [
        "..",
        ".",
        "-rf",
        "../../../etc/passwd",
        "a/b",
        "a b",
        "a\nb",
        "a\0b",
        "\u{1b}[2J",
        "%i",
        "%s%n",
        "$(reboot)",
        "ü",
        "@",
        "@@",
        "",
        &long,
        &longer,
    ] {
        let name = format!("cam@{name}");
        let answer = s.ask(json!({"do": "start", "service": name}));
        let last = answer.last().unwrap();
        assert_eq!(last["ok"], false, "{name:?}: {last}");
        let error = last["message"].as_str().unwrap();
        assert!(
            !error.contains(char::is_control) && error.len() < 300,
            "{error:?}"
        );
    }
    assert_eq!(names(&s), ["ok"]);
    assert_eq!(s.pid_of("ok"), before);
    let said = s.ctl(&["start", "cam@-rf"]);
    assert!(
        said.err.contains("begins with a letter or digit"),
        "{said:?}"
    );
    // Two that are almost too long, and one with another @.
    for name in [&format!("cam@{}", "x".repeat(60)), "cam@a@b"] {
        s.ok(&["start", name]);
        assert_eq!(s.state(name), "up");
    }
    s.end();
}

#[test]
fn two_who_ask_at_once_get_one_instance() {
    let s = Superd::start(&cams(""));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| s.ok(&["start", "cam@a"]));
        }
    });
    s.assert_starts("cam@a", 1);
    assert_eq!(names(&s), ["cam@a"]);
    s.end();
}
