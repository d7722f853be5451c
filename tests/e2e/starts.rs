//! How a service is started: what it inherits, what it is given, in which order, and what is
//! said when that is impossible.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use serde_json::json;

use crate::support::*;

/// What the twin has found around itself.
struct Shown(Record);

impl Shown {
    fn of(s: &Superd, name: &str) -> Shown {
        Shown(s.wait_record(name, "shown", 1))
    }

    fn one(&self, key: &str) -> String {
        let all = self.0.rest(&format!("show {key}"));
        assert_eq!(all.len(), 1, "{key}: {all:?}");
        all[0].clone()
    }

    fn has(&self, line: &str) -> bool {
        self.0 .0.iter().any(|n| n.what == format!("show {line}"))
    }

    fn env(&self, name: &str) -> Option<String> {
        let all = self.0.rest("show env");
        all.iter()
            .find_map(|v| v.strip_prefix(&format!("{name}=")).map(str::to_owned))
    }
}

/// Runs in the new process, before superd is executed: what a careless parent leaves behind.
fn carelessly(command: &mut std::process::Command) {
    command
        .env("LD_PRELOAD", "/nowhere/libsetlbf.so")
        .env("NOTIFY_SOCKET", "/nowhere/notify")
        .env("LISTEN_FDS", "1")
        .env("KEPT", "yes");
    // SAFETY: each of these is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 2000,
                rlim_max: 4096,
            };
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            libc::dup2(2, 1000);
            libc::dup2(2, 17);
            for n in [
                libc::SIGTERM,
                libc::SIGPIPE,
                libc::SIGHUP,
                libc::SIGUSR1,
                40,
            ] {
                libc::signal(n, libc::SIG_IGN);
            }
            let mut mask: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut mask);
            for n in [libc::SIGTERM, libc::SIGCHLD, libc::SIGALRM, 41] {
                libc::sigaddset(&mut mask, n);
            }
            libc::sigprocmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut());
            Ok(())
        });
    }
}

in_both_flavours! {
    fn a_service_inherits_nothing_that_it_should_not(flavour: Flavour) {
        let place = Place::new();
        place.configure(
            flavour,
            r#"
            [service.web]
            command = [$TWIN:web, "show"]
            [service.again]
            command = [$TWIN:again, "show"]
            after = ["web"]
            "#,
        );
        let mut command = place.command(&place.superd_args());
        carelessly(&mut command);
        let s = Superd::launch(place, command);
        for name in ["web", "again"] {
            let shown = Shown::of(&s, name);
            let fds = shown.0.rest("show fd");
            let numbers: Vec<&str> = fds.iter().map(|f| f.split(' ').next().unwrap()).collect();
            assert_eq!(numbers, ["0", "1", "2"], "{fds:?}");
            assert_eq!(fds[0], "0 /dev/null");
            assert_eq!(shown.one("ignored"), "0");
            assert_eq!(shown.one("blocked"), "0");
            assert_eq!(shown.one("own-session"), "true");
            assert_eq!(shown.one("own-group"), "true");
            for name in ["LD_PRELOAD", "LISTEN_FDS"] {
                assert_eq!(shown.env(name), None, "{name}");
            }
            assert_eq!(shown.env("KEPT").as_deref(), Some("yes"));
            let socket = s.place.file("run/notify").display().to_string();
            assert_eq!(shown.env("NOTIFY_SOCKET"), Some(socket));
            // superd may raise its own limit; a service has what superd was started with.
            assert!(shown.has("limit Max open files 2000 4096 files"));
            assert_eq!(shown.one("cwd"), "/");
            assert_eq!(shown.one("Umask:"), "0022");
        }
        // superd itself was started with TERM ignored and blocked: it hears it all the same.
        s.end();
    }
}

#[test]
fn a_service_gets_what_its_definition_says() {
    let name = "a_service_gets_what_its_definition_says";
    if !root_or_skip(name) {
        return;
    }
    let place = Place::new();
    std::fs::write(place.file("web.record"), "").unwrap();
    std::os::unix::fs::chown(place.file("web.record"), Some(65534), None).unwrap();
    std::fs::write(
        place.file("env"),
        "# a comment\nFROM_FILE=1\nBOTH=file\nQUOTED=\"two words\"\n",
    )
    .unwrap();
    place.configure(
        Flavour::NoCgroups,
        r#"
        [service.web]
        command = [$TWIN:web, "show"]
        user = "nobody"
        group = "daemon"
        groups = ["1234", "4321"]
        umask = "027"
        nice = 7
        oom-score-adj = 321
        environment = { OWN = "2", BOTH = "own" }
        environment-file = "$DIR/env"
        directory = "$DIR"
        limits = { nofile = [100, 200], core = 0, nproc = [500, 600], stack = "1MiB" }
        notify = false
        "#,
    );
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    let shown = Shown::of(&s, "web");
    assert_eq!(shown.one("Uid:"), "65534 65534 65534 65534");
    assert_eq!(shown.one("Gid:"), "1 1 1 1");
    assert_eq!(shown.one("Groups:"), "1234 4321");
    assert_eq!(shown.one("Umask:"), "0027");
    assert_eq!(shown.one("nice"), "7");
    assert_eq!(shown.one("oom"), "321");
    assert_eq!(shown.env("OWN").as_deref(), Some("2"));
    assert_eq!(shown.env("FROM_FILE").as_deref(), Some("1"));
    assert_eq!(shown.env("QUOTED").as_deref(), Some("two words"));
    assert_eq!(shown.env("NOTIFY_SOCKET"), None);
    assert_eq!(shown.one("cwd"), s.place.dir.display().to_string());
    assert!(shown.has("limit Max open files 100 200 files"));
    assert!(shown.has("limit Max core file size 0 0 bytes"));
    assert!(shown.has("limit Max stack size 1048576 1048576 bytes"));
    assert!(shown.has("limit Max processes 500 600 processes"));
    s.end();
}

/// The stage and the whole error of a start that fails.
fn failure(s: &Superd, name: &str) -> (String, String) {
    let said = s.ctl(&["start", name]);
    assert_eq!(said.code, 1, "{name}: {said:?}");
    let text = said.err.trim().to_owned();
    assert_eq!(text.lines().count(), 1, "one clear line: {text}");
    let mut events = s.events(name);
    events.retain(|e| e["event"] == "start-failed");
    let stage = events.pop().map(|e| e["error"]["stage"].clone());
    let stage = stage.unwrap_or(json!(null));
    (stage.as_str().unwrap_or("none").to_owned(), text)
}

#[test]
fn each_stage_of_a_start_that_fails_is_named() {
    let place = Place::new();
    std::fs::write(place.file("no-program"), "text").unwrap();
    std::fs::write(place.file("plain-file"), "").unwrap();
    std::fs::write(place.file("bad-script"), "#!/no/such/interpreter\n").unwrap();
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.file("bad-script"), executable).unwrap();
    place.configure(
        Flavour::NoCgroups,
        r#"
        [defaults]
        autostart = false
        restart = "never"
        [service.missing]
        command = ["$DIR/no-such-program"]
        [service.forbidden]
        command = ["$DIR/no-program"]
        [service.unfound]
        command = ["no-such-program-anywhere"]
        [service.script]
        command = ["$DIR/bad-script"]
        [service.user]
        command = ["/bin/true"]
        user = "no-such-user"
        [service.group]
        command = ["/bin/true"]
        group = "no-such-group"
        [service.directory]
        command = ["/bin/true"]
        directory = "$DIR/nowhere"
        [service.file]
        command = ["/bin/true"]
        directory = "$DIR/plain-file"
        [service.environment]
        command = ["/bin/true"]
        environment-file = "$DIR/no-such-file"
        [service.maybe]
        command = [$TWIN:maybe, "obey"]
        environment-file = "-$DIR/no-such-file"
        "#,
    );
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    for (name, stage, part) in [
        ("missing", "exec", "no-such-program"),
        ("forbidden", "exec", "no-program"),
        ("unfound", "exec", "no-such-program-anywhere"),
        ("script", "exec", "bad-script"),
        ("user", "user", "\"no-such-user\": no such user"),
        ("group", "group", "\"no-such-group\": no such group"),
        ("directory", "directory", "nowhere"),
        ("file", "directory", "plain-file"),
        ("environment", "environment-file", "no-such-file"),
    ] {
        let (at, text) = failure(&s, name);
        assert_eq!(at, stage, "{text}");
        assert!(text.contains(part), "{text}");
        assert_eq!(s.state(name), "failed");
    }
    s.ok(&["start", "maybe"]);
    s.end();
}

#[test]
fn limits_that_cannot_be_set_are_a_stage_of_their_own() {
    let name = "limits_that_cannot_be_set_are_a_stage_of_their_own";
    if !root_or_skip(name) {
        return;
    }
    // As a user who may not: superd runs unprivileged.
    let place = Place::new();
    std::os::unix::fs::chown(&place.dir, Some(65534), Some(65534)).unwrap();
    place.configure(
        Flavour::NoCgroups,
        r#"
        [defaults]
        autostart = false
        restart = "never"
        [service.limits]
        command = ["/bin/true"]
        limits = { nofile = 1000000 }
        [service.nice]
        command = ["/bin/true"]
        nice = -5
        [service.oom]
        command = ["/bin/true"]
        oom-score-adj = -500
        [service.user]
        command = ["/bin/true"]
        user = "root"
        "#,
    );
    let mut command = place.command(&place.superd_args());
    command.uid(65534).gid(65534);
    // SAFETY: setrlimit(2) is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 1000,
                rlim_max: 4096,
            };
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            Ok(())
        });
    }
    let s = Superd::launch(place, command);
    for (name, stage) in [
        ("limits", "limits"),
        ("nice", "nice"),
        ("oom", "oom-score"),
        ("user", "user"),
    ] {
        let (at, text) = failure(&s, name);
        assert!(
            at == stage || (name == "user" && at == "group"),
            "{at}: {text}"
        );
        assert!(
            text.contains("ermi") || text.contains("ermission"),
            "the reason: {text}"
        );
    }
    s.end();
}

#[test]
fn services_start_and_stop_in_their_order() {
    let s = Superd::start(
        r#"
        [service.a]
        command = [$TWIN:a, "slow-stop", "30"]
        [service.b]
        command = [$TWIN:b, "slow-stop", "30"]
        requires = ["a"]
        [service.c]
        command = [$TWIN:c, "slow-stop", "30"]
        after = ["b"]
        "#,
    );
    for name in ["a", "b", "c"] {
        s.wait_record(name, "start", 1);
        s.wait_state(name, "up");
    }
    // One that is required takes with it those that require it, first them.
    s.ok(&["stop", "a"]);
    assert_eq!(s.state("a"), "down");
    assert_eq!(s.state("b"), "waiting", "it is wanted, and cannot run");
    assert_eq!(s.state("c"), "up");
    let (a, b) = (s.record("a"), s.record("b"));
    assert!(b.first("exit").at < a.first("signal TERM").at);
    let end = s.last_end("b");
    assert_eq!(end["by"]["kind"], "dependency", "{end}");
    // And a start brings up what is needed.
    s.ok(&["start", "b"]);
    s.wait_record("a", "start", 2);
    s.wait_record("b", "start", 2);
    assert_eq!(s.state("a"), "up");
    let mut s = s;
    s.signal(libc::SIGTERM);
    s.wait();
    s.assert_nothing_left();
    let last = |name: &str, what: &str| s.record(name).all(what).last().unwrap().at;
    assert!(last("c", "exit") < last("b", "signal TERM"), "c goes first");
    assert!(last("b", "exit") < last("a", "signal TERM"), "then b");
}

#[test]
fn a_hundred_services_are_all_there() {
    let toml: String = (0..100)
        .map(|n| format!("[service.s{n}]\ncommand = [$TWIN:s{n}, \"obey\"]\n"))
        .collect();
    let s = Superd::start(&toml);
    for n in 0..100 {
        s.wait_record(&format!("s{n}"), "start", 1);
    }
    let mut up = 0;
    wait_until("all are up", || {
        let lines = s.ask(json!({"do": "status"}));
        up = lines
            .iter()
            .filter(|l| l["status"]["state"] == "up")
            .count();
        up == 100
    });
    s.ok(&["stop", "--all"]);
    s.assert_nothing_left();
    s.end();
}

#[test]
fn a_service_with_a_user_can_open_its_output_by_name() {
    if !root_or_skip("a_service_with_a_user_can_open_its_output_by_name") {
        return;
    }
    let s = Superd::start(
        r#"
        [service.web]
        command = ["/bin/sh", "-c", "echo to-out > /dev/stdout; echo to-err > /dev/stderr; exec sleep 100"]
        user = "nobody"
        "#,
    );
    wait_until("both lines", || {
        let said = s.ok(&["logs", "web"]);
        assert!(!said.contains("denied"), "{said}");
        said.contains("to-out") && said.contains("to-err")
    });
    s.end();
}

#[test]
fn who_waits_for_a_service_that_nobody_starts_says_so() {
    let s = Superd::start(
        r#"
        [service.db]
        command = [$TWIN:db, "obey"]
        autostart = false
        [service.web]
        command = [$TWIN:web, "obey"]
        requires = ["db"]
        "#,
    );
    s.wait_state("web", "waiting");
    let hint = "db (not to run: superctl start db)";
    for args in [&["status"][..], &["status", "web"], &["why", "web"]] {
        let said = s.ctl(args).out;
        assert!(said.contains(hint), "{args:?}: {said}");
    }
    assert_eq!(s.status("web")["unwanted"], serde_json::json!(["db"]));
    let config = s.place.file("superd.toml").display().to_string();
    let checked = run(std::process::Command::new(SUPERCTL).args(["check", "--config", &config]));
    assert_eq!(checked.code, 0, "it is allowed: {checked:?}");
    assert!(
        checked.err.contains("\"web\": requires \"db\""),
        "{checked:?}"
    );
    s.ok(&["start", "db"]);
    s.wait_record("web", "start", 1);
    s.end();
}

#[test]
fn a_start_that_failed_is_no_exit_of_the_service() {
    let s = Superd::start(
        r#"
        [service.late]
        command = ["$DIR/late"]
        autostart = false
        restart = "never"
        "#,
    );
    let said = s.ctl(&["start", "late"]);
    assert_eq!(said.code, 1, "{said:?}");
    let shown = s.status("late")["last_exit"].to_string();
    assert!(shown.contains("No such file"), "{shown}");
    let late = s.place.file("late");
    std::fs::write(&late, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&late, std::fs::Permissions::from_mode(0o755)).unwrap();
    s.ok(&["start", "late"]);
    assert_eq!(s.status("late")["last_exit"], json!(null));
    s.end();
}

#[test]
fn every_limit_is_that_of_the_program() {
    let s = Superd::start(
        r#"
        [service.bound]
        command = ["/bin/sh", "-c", "cat /proc/self/limits; exec sleep 1000"]
        [service.bound.limits]
        as = "900MiB"
        core = 0
        cpu = [111, 222]
        data = "800MiB"
        fsize = "7MiB"
        locks = 33
        memlock = "48KiB"
        msgqueue = 5000
        nice = 0
        nofile = [66, 77]
        nproc = 4444
        rss = "700MiB"
        rtprio = 0
        rttime = [600000, 700000]
        sigpending = 55
        stack = ["3MiB", "4MiB"]
        "#,
    );
    wait_until("it has told them", || {
        s.ok(&["logs", "-n", "100", "bound"])
            .contains("Max realtime timeout")
    });
    let shown = s.ok(&["logs", "-n", "100", "bound"]);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: Vec<String> = shown.lines().map(words).collect();
    for (name, soft, hard) in [
        ("Max address space", 900 << 20, 900 << 20),
        ("Max core file size", 0, 0),
        ("Max cpu time", 111, 222),
        ("Max data size", 800 << 20, 800 << 20),
        ("Max file size", 7 << 20, 7 << 20),
        ("Max file locks", 33, 33),
        ("Max locked memory", 48 << 10, 48 << 10),
        ("Max msgqueue size", 5000, 5000),
        ("Max nice priority", 0, 0),
        ("Max open files", 66, 77),
        ("Max processes", 4444, 4444),
        ("Max resident set", 700 << 20, 700 << 20),
        ("Max realtime priority", 0, 0),
        ("Max realtime timeout", 600_000, 700_000),
        ("Max pending signals", 55, 55),
        ("Max stack size", 3 << 20, 4 << 20),
    ] {
        let line = format!("{name} {soft} {hard}");
        assert!(
            shown.iter().any(|l| l.contains(&line)),
            "{line} in {shown:?}"
        );
    }
    s.end();
}

#[test]
fn so_much_output_is_kept_as_the_ring_is_big() {
    let talk = "[service.talk]\ncommand = [$TWIN:talk, \"lines\", \"2000\"]\noutput = \"ring\"\n";
    for (ring, least, most) in [("2KiB", 100, 250), ("64KiB", 2000, 2000), ("0", 0, 0)] {
        let s = Superd::start(&format!(
            "ring = {}\n{talk}",
            if ring == "0" {
                "0".to_owned()
            } else {
                json!(ring).to_string()
            }
        ));
        s.wait_state("talk", "up");
        s.wait_record("talk", "start", 1);
        let kept = || s.ok(&["logs", "-n", "5000", "talk"]);
        if most > 0 {
            wait_until("the end is there", || kept().ends_with("line 2000\n"));
        }
        let lines = kept().lines().count();
        assert!((least..=most).contains(&lines), "{ring}: {lines}");
        assert!(!s.place.log().contains("line 2000"), "it is not logged");
        s.end();
    }
}

#[test]
fn cgroups_are_made_where_the_configuration_says() {
    let name = "cgroups_are_made_where_the_configuration_says";
    if !cgroups_or_skip(name) {
        return;
    }
    let below = own_cgroup()
        .unwrap()
        .join(format!("e2e-{}", std::process::id()));
    std::fs::create_dir(&below).unwrap();
    let place = Place::new();
    let configure = |at: &std::path::Path| {
        place.configure(
            Flavour::NoCgroups,
            "[service.web]\ncommand = [$TWIN:web, \"obey\"]\n",
        );
        let file = place.file("superd.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace("cgroup = \"off\"", &format!("cgroup = {at:?}"));
        std::fs::write(&file, text).unwrap();
    };
    // One that cannot be made is an error, and nothing is started.
    configure(&below.join("not/there"));
    let mut command = place.command(&place.superd_args());
    let ended = command.status().unwrap();
    assert_eq!(ended.code(), Some(1));
    assert!(place.log().contains("superd: cgroup /"), "{}", place.log());
    configure(&below);
    let s = place.resume();
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", s.pid_of("web"))).unwrap();
    let base = below.file_name().unwrap().to_str().unwrap().to_owned();
    let inside = |l: &str| l.contains(&format!("/{base}/")) && l.ends_with("/web.service");
    assert!(groups.lines().any(inside), "{groups}");
    s.end();
    for entry in std::fs::read_dir(&below).unwrap().flatten() {
        std::fs::remove_dir(entry.path()).ok(); // files cannot be removed, and need not
    }
    std::fs::remove_dir(&below).unwrap();
}

#[test]
fn files_that_are_included_have_services_too_and_output_goes_where_it_is_told() {
    let place = Place::new();
    std::fs::create_dir(place.file("more.d")).unwrap();
    let more = r#"
        [service.quiet]
        command = ["/bin/sh", "-c", "echo seen by nobody; is=$(readlink /proc/$$/fd/1); echo $is >$DIR/quiet.is; exec sleep 1000"]
        output = "null"
        [service.loud]
        command = ["/bin/sh", "-c", "echo as superd itself; exec sleep 1000"]
        output = "inherit"
        start-timeout = false
        ready = { file = "$DIR/quiet.is" }
    "#;
    let file = place.file("more.d/one.toml");
    std::fs::write(&file, place.expand(more)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = "shutdown-deadline = \"30s\"\ncrash-pause = \"1m\"\n";
    place.configure(Flavour::NoCgroups, text);
    let config = place.file("superd.toml");
    let whole = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("include = [\"more.d/*.toml\"]\n{whole}")).unwrap();
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    s.wait_state("quiet", "up");
    s.wait_state("loud", "up");
    let is = std::fs::read_to_string(s.place.file("quiet.is")).unwrap();
    assert_eq!(is.trim(), "/dev/null");
    wait_until("it is with superd's own", || {
        s.place.log().lines().any(|l| l == "as superd itself")
    });
    assert_eq!(s.ok(&["logs", "quiet"]), "");
    assert_eq!(s.ok(&["logs", "loud"]), "");
    s.end();
}
