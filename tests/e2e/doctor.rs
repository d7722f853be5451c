//! `superctl doctor` on a router: what other init scripts do to superd's services.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};

use crate::support::*;

fn write(root: &std::path::Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

/// What doctor says, a line of `good` or `bad`, what, and the text.
fn doctor(superd: &Superd, root: &std::path::Path) -> Vec<String> {
    let mut command = superd.ctl_command(&["--json", "doctor"]);
    let said = run(command.env("SUPERCTL_ROOT", root));
    assert_eq!(said.code, 0, "{said:?}");
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
