//! `superctl doctor` on a router: what other init scripts do to superd's services.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::process::Command;

use crate::support::*;

fn write(root: &std::path::Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

/// What doctor says, a line of `good` or `bad`, what, and the text.
fn doctor(superd: &Superd, root: &std::path::Path) -> Vec<String> {
    let config = root.join("etc/superd/superd.toml").display().to_string();
    let mut command = superd.ctl_command(&["--json", "doctor", "--config", &config]);
    let said = run(command.env("SUPERCTL_ROOT", root));
    assert_eq!(said.code, 0, "{said:?}");
    findings(&said)
}

/// What doctor says where no superd runs.
fn alone(root: &std::path::Path) -> Vec<String> {
    let args = ["--socket", "/nobody/listens", "--json", "doctor"];
    let said = run(Command::new(SUPERCTL).args(args).env("SUPERCTL_ROOT", root));
    assert_eq!(said.code, 7, "{said:?}");
    findings(&said)
}

fn findings(said: &Said) -> Vec<String> {
    let found = said.json().into_iter().filter(|r| r["finding"].is_object());
    found
        .map(|r| {
            let f = &r["finding"];
            let good = if f["good"] == true { "good" } else { "bad" };
            let word = |key: &str| f[key].as_str().unwrap().to_owned();
            format!("{good} {}: {}", word("what"), word("text"))
        })
        .collect()
}

fn of<'a>(found: &'a [String], what: &str) -> Vec<&'a str> {
    let is_it = |f: &&String| f.contains(&format!("d {what}: "));
    found.iter().filter(is_it).map(String::as_str).collect()
}

#[test]
fn a_configuration_of_a_relative_path_is_found_from_anywhere() {
    let place = Place::new();
    place.configure(Flavour::NoCgroups, "");
    let args = [SUPERD, "--config", "superd.toml", "--foreground"].map(str::to_owned);
    let mut command = place.command(&args);
    command.current_dir(&place.dir);
    let superd = Superd::launch(place, command);
    let root = superd.place.file("root");
    fs::create_dir(&root).unwrap();
    let mut command = superd.ctl_command(&["--json", "doctor"]);
    let found = findings(&run(command.env("SUPERCTL_ROOT", &root)));
    let path = superd.place.file("superd.toml");
    assert_eq!(
        of(&found, "configuration file"),
        [format!("good configuration file: {}", path.display())]
    );
    assert!(
        !found.iter().any(|f| f.contains("has problems")),
        "{found:?}"
    );
    superd.ok(&["reload"]);
    superd.end();
}

#[test]
fn other_init_scripts_are_found_and_it_is_said_what_to_do() {
    let superd = Superd::start("[service.x]\ncommand = [$TWIN:x, \"obey\"]\n");
    let root = superd.place.file("root");
    fs::create_dir(&root).unwrap();
    let toml = "[service.web]\ncommand = [\"/usr/bin/webd\", \"-f\"]\n\
        stop = [{ signal = \"TERM\", wait = \"40s\" }]\n\
        [service.cam]\ncommand = [\"/usr/bin/camd\"]\n";
    write(&root, "etc/superd/superd.toml", toml);
    write(&root, "etc/rc.common", "");
    write(
        &root,
        "proc/meminfo",
        "MemTotal: 100 kB\nMemAvailable:  4096 kB\n",
    );
    // Ours, and those that are none of our business.
    let own = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/init.d/superd")).unwrap();
    let shim = concat!(env!("CARGO_MANIFEST_DIR"), "/init.d/superd-service");
    let shim = fs::read_to_string(shim).unwrap();
    write(&root, "etc/init.d/superd", &own);
    write(&root, "etc/init.d/web", &shim);
    write(
        &root,
        "etc/init.d/other",
        "# killall webd\nstop() { killall webd-helper; }\n",
    );
    fs::create_dir(root.join("etc/rc.d")).unwrap();
    for name in ["superd", "web", "other"] {
        symlink(
            format!("../init.d/{name}"),
            root.join(format!("etc/rc.d/S90{name}")),
        )
        .unwrap();
    }
    let found = doctor(&superd, &root);
    assert!(
        of(&found, "containment").len() == 1,
        "superd's own: {found:?}"
    );
    assert!(of(&found, "free memory")[0].starts_with("bad"), "{found:?}");
    assert_eq!(of(&found, "free flash").len(), 1);
    let timeout = of(&found, "term_timeout");
    assert!(
        timeout[0].starts_with("good") && timeout[0].contains("computes"),
        "{timeout:?}"
    );
    assert!(
        of(&found, "other init scripts")[0].starts_with("good"),
        "{found:?}"
    );
    // Two masters, and a stop behind superd's back.
    write(
        &root,
        "etc/init.d/web",
        "PROG=/usr/bin/webd\nstart_service() { :; }\n",
    );
    write(
        &root,
        "etc/init.d/camera",
        "start() { /usr/bin/camd & }\nstop() {\n\tkillall camd\n}\n",
    );
    write(&root, "etc/init.d/helper", "reload() { webd stop; }\n");
    symlink("../init.d/camera", root.join("etc/rc.d/S50camera")).unwrap();
    let found = doctor(&superd, &root);
    let masters = of(&found, "two masters");
    assert_eq!(masters.len(), 2, "{found:?}");
    assert!(
        masters
            .iter()
            .any(|m| m.contains("/etc/init.d/camera disable")),
        "{masters:?}"
    );
    assert!(
        masters
            .iter()
            .any(|m| m.contains("/etc/init.d/web disable")),
        "{masters:?}"
    );
    let stops = of(&found, "other stops");
    assert_eq!(stops.len(), 2, "{found:?}");
    assert!(stops
        .iter()
        .any(|s| s.contains("`killall camd`") && s.contains("superctl stop cam")));
    assert!(stops.iter().any(|s| s.contains("/etc/init.d/helper")));
    assert!(of(&found, "other init scripts").is_empty());
    // procd's own timeout.
    for (script, good) in [
        ("procd_set_param term_timeout 20\n", false),
        ("# procd_set_param term_timeout 90\n", false),
        ("procd_set_param respawn\n", false),
        ("procd_set_param term_timeout 90\n", true),
    ] {
        write(&root, "etc/init.d/superd", script);
        let found = doctor(&superd, &root);
        let told = of(&found, "term_timeout")[0];
        assert_eq!(told.starts_with("good"), good, "{script}: {told}");
    }
    fs::remove_file(root.join("etc/init.d/superd")).unwrap();
    assert!(of(&doctor(&superd, &root), "term_timeout")[0].contains("nobody starts superd"));
    // A configuration with a problem, and no configuration.
    write(&root, "etc/superd/superd.toml", "[service.web]\n");
    assert!(of(&doctor(&superd, &root), "configuration")[0].contains("superctl check"));
    // For people.
    let mut command = superd.ctl_command(&["doctor"]);
    let said = run(command.env("SUPERCTL_ROOT", &root));
    assert!(said.out.contains("free memory"), "{said:?}");
    superd.end();
}

/// A router whose configuration is this, and with one enabled init script.
fn router(place: &Place, toml: &str, script: &str) -> std::path::PathBuf {
    let root = place.file("root");
    write(&root, "etc/superd/superd.toml", toml);
    write(&root, "etc/init.d/other", script);
    fs::create_dir_all(root.join("etc/rc.d")).unwrap();
    symlink("../init.d/other", root.join("etc/rc.d/S50other")).ok();
    root
}

/// Issue 7: doctor took the shell for the server, and told to switch off the firewall.
#[test]
fn what_an_interpreter_runs_is_the_server_and_not_the_interpreter() {
    let place = Place::new();
    for (command, script, masters) in [
        (r#""/bin/sh", "/usr/libexec/mon.sh""#, "/bin/sh -c :", 0),
        (
            r#""/bin/sh", "/usr/libexec/mon.sh""#,
            "/usr/libexec/mon.sh &",
            1,
        ),
        (r#""/bin/sh", "-c", "exec /usr/bin/x""#, "/bin/sh -c :", 0),
        (
            r#""/usr/bin/python3.11", "-u", "/opt/mon.py""#,
            "/usr/bin/python3.11 /x",
            0,
        ),
        (
            r#""/usr/bin/python3.11", "-u", "/opt/mon.py""#,
            "python3 /opt/mon.py",
            1,
        ),
        (
            r#""/usr/bin/php-cgi", "-c", "/etc/php.ini""#,
            "cat /etc/php.ini",
            0,
        ),
        (
            r#""/usr/bin/nice", "/usr/bin/env", "A=/b", "/usr/bin/webd""#,
            "/usr/bin/env x",
            0,
        ),
        (
            r#""/usr/bin/nice", "/usr/bin/env", "A=/b", "/usr/bin/webd""#,
            "/usr/bin/webd &",
            1,
        ),
    ] {
        let root = router(
            &place,
            &format!("[service.mon]\ncommand = [{command}]\n"),
            script,
        );
        let found = alone(&root);
        assert_eq!(
            of(&found, "two masters").len(),
            masters,
            "{command}: {script}: {found:?}"
        );
        assert_eq!(
            of(&found, "other init scripts").len(),
            1 - masters,
            "{found:?}"
        );
    }
}

#[test]
fn stops_are_found_as_init_scripts_of_openwrt_write_them() {
    let place = Place::new();
    let toml = "[service.caddy]\ncommand = [\"/usr/bin/caddy\", \"run\"]\n\
        [service.www]\ncommand = [\"/usr/bin/env\", \"X=1\", \"nginx\"]\n\
        [service.\"cam@\"]\ncommand = [\"/usr/bin/camd\", \"%i\"]\n";
    for (script, stops) in [
        ("PROG=/usr/sbin/nginx\nstop() {\n\t$PROG -s stop\n}", 1),
        (
            "PROG=\"/usr/sbin/nginx\" # here\nstop() { service_stop ${PROG}; }",
            1,
        ),
        (
            "DIR=/usr/bin\nPROG=$DIR/caddy\nkillall $(basename $PROG)",
            1,
        ),
        ("BIN=/usr/bin/caddy\npkill -f \"${BIN##*/}\"", 1),
        ("kill `cat /var/run/caddy.pid`", 1),
        ("PID=$(cat /run/caddy.pid)\nkill -9 $PID", 1),
        ("start-stop-daemon -p /run/c -K -x /usr/bin/caddy", 1),
        ("start-stop-daemon -qKx /usr/bin/caddy", 1),
        ("start-stop-daemon --stop \\\n\t--exec /usr/bin/caddy", 1),
        ("start-stop-daemon -S -x /usr/bin/caddy -- -K", 0),
        ("killall camd", 1),
        ("# see superctl\nkillall caddy", 1),
        ("echo 'superctl does it; really'\nkillall caddy", 1),
        ("superctl stop caddy || killall caddy", 0),
        ("echo \"caddy may stop here\"", 0),
        ("kill -0 $(cat /var/run/caddy.pid)", 0),
        ("killall -HUP caddy", 0),
        ("[ -x /a ] && logger -t caddy \"stop; or not\"", 0),
        ("stop) echo \"no caddy\"; killall caddy ;;", 1),
        ("extra_command \"stop\" \"Stop caddy\"", 0),
        ("true # caddy stop", 0),
        ("A=$A$A; B=$B\nkillall $B$A ${ $ $( ${A", 0),
    ] {
        let root = router(&place, toml, script);
        let found = alone(&root);
        assert_eq!(
            of(&found, "other stops").len(),
            stops,
            "{script}: {found:?}"
        );
    }
}

#[test]
fn what_an_init_script_says_cannot_command_the_terminal() {
    let place = Place::new();
    let toml = "[service.caddy]\ncommand = [\"/usr/bin/caddy\"]\n";
    let root = router(
        &place,
        toml,
        &format!("killall caddy \x1b[2J{}", "x".repeat(4000)),
    );
    let found = alone(&root);
    let told = of(&found, "other stops")[0];
    assert!(
        told.contains("caddy \\x1b[2Jxxx") && told.len() < 400,
        "{told:?}"
    );
}

/// Issue 7: exactly when superd does not run, somebody asks the doctor.
#[test]
fn doctor_tells_what_it_finds_itself_when_superd_does_not_answer() {
    let superd = Superd::start("[service.x]\ncommand = [$TWIN:x, \"obey\"]\n");
    let root = router(&superd.place, "[service.other]\ncommand = [\"/b\"]\n", "");
    let doctor = |args: &[&str]| run(superd.ctl_command(args).env("SUPERCTL_ROOT", &root));
    // The file that superd has read, and another one.
    write(&root, "etc/init.d/x", "");
    symlink("../init.d/x", root.join("etc/rc.d/S50x")).unwrap();
    let said = doctor(&["doctor"]);
    let file = superd.place.file("superd.toml").display().to_string();
    assert!(said.out.contains(&file), "{said:?}");
    assert!(said.out.contains("/etc/init.d/x disable"), "{said:?}");
    let config = root.join("etc/superd/superd.toml").display().to_string();
    let said = doctor(&["doctor", "--config", &config]);
    assert!(said.out.contains("/etc/init.d/other disable"), "{said:?}");
    // It hangs: what is found is told, and the status is that of a timeout.
    superd.signal(libc::SIGSTOP);
    let said = doctor(&["--timeout", "1", "doctor"]);
    superd.signal(libc::SIGCONT);
    assert_eq!(said.code, 124, "{said:?}");
    for told in [
        "free flash",
        "other disable",
        "pidfd_open",
        "/dev/log",
        "has not answered",
    ] {
        assert!(said.out.contains(told), "{told}: {said:?}");
    }
    let place = superd.end();
    let said = run(Command::new(SUPERCTL)
        .args(["doctor", "--socket", "/nobody/listens"])
        .env("SUPERCTL_ROOT", &root));
    assert_eq!(said.code, 7, "{said:?}");
    for told in [
        "free flash",
        "other disable",
        "pidfd_open",
        "/dev/log",
        "no  superd",
    ] {
        assert!(said.out.contains(told), "{told}: {said:?}");
    }
    drop(place);
}

/// A reload tells procd nothing: what it was told at the start is what it does.
#[test]
fn procd_is_asked_how_long_it_waits() {
    let place = Place::new();
    let toml = "[service.web]\ncommand = [\"/usr/bin/webd\"]\n\
        stop = [{ signal = \"TERM\", wait = \"40s\" }]\n";
    let root = router(&place, toml, "");
    write(&root, "etc/rc.common", "");
    write(&root, "etc/init.d/superd", "x plan --max-stop-seconds\n");
    for (ubus, good, says) in [
        (
            "echo '{\"superd\":{\"term_timeout\": 20}}'",
            false,
            "after 20 s",
        ),
        ("echo '{\"superd\":{\"term_timeout\":90}}'", true, "90 s"),
        ("echo '{}'", true, "computes"),
        ("echo Failed; exit 1", true, "computes"),
        // Silent, and endless.
        ("exec sleep 1000", true, "computes"),
        ("exec cat /dev/zero", true, "computes"),
    ] {
        write(&root, "bin/ubus", &format!("#!/bin/sh\n{ubus}\n"));
        fs::set_permissions(root.join("bin/ubus"), fs::Permissions::from_mode(0o755)).unwrap();
        let found = alone(&root);
        let told = of(&found, "term_timeout")[0];
        assert_eq!(told.starts_with("good"), good, "{ubus}: {told}");
        assert!(told.contains(says), "{ubus}: {told}");
    }
}
