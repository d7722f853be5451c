//! Files that are watched: what changes is acted upon once, and never at the cost of a
//! service that runs well.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{json, Value};

use crate::successors::scribe;
use crate::support::*;

fn changes(superd: &Superd, service: &str) -> Vec<Value> {
    let mut events = superd.events(service);
    events.retain(|e| e["event"] == "file-changed");
    events
}

fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text).unwrap();
    fs::rename(fresh, path).unwrap();
}

/// A place with a file, and a superd over a service that watches it.
fn watching(keys: &str) -> Superd {
    let place = Place::new();
    fs::write(place.file("conf"), "good 0").unwrap();
    let toml = scribe("web", "TERM") + "watch = [\"$DIR/conf\"]\n" + keys;
    place.configure(Flavour::NoCgroups, &toml);
    let superd = place.resume();
    superd.wait_record("web", "start", 1);
    superd.wait_state("web", "up");
    superd
}

#[test]
fn each_way_to_change_a_file_is_one_restart() {
    let s = watching("");
    let conf = s.place.file("conf");
    fs::write(&conf, "good one").unwrap();
    s.wait_record("web", "start", 2);
    // As editors and package managers do it.
    replace(&conf, "good two");
    s.wait_record("web", "start", 3);
    // It is away for a while, and comes back as another one.
    fs::remove_file(&conf).unwrap();
    fs::write(s.place.file("other"), "x").unwrap();
    fs::write(&conf, "good three").unwrap();
    s.wait_record("web", "start", 4);
    // A symbolic link, and then what it leads to, in another directory.
    fs::create_dir(s.place.file("elsewhere")).unwrap();
    let real = s.place.file("elsewhere/real");
    fs::write(&real, "good four").unwrap();
    symlink(&real, s.place.file("link")).unwrap();
    fs::rename(s.place.file("link"), &conf).unwrap();
    s.wait_record("web", "start", 5);
    fs::write(&real, "good five").unwrap();
    s.wait_record("web", "start", 6);
    // Many at once.
    for n in 0..200 {
        replace(&real, &format!("good {n}"));
        fs::write(&real, "again").unwrap();
    }
    s.wait_record("web", "start", 7);
    // And touch(1), which changes no byte.
    fs::File::options()
        .write(true)
        .open(&real)
        .unwrap()
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    s.wait_record("web", "start", 8);
    assert_eq!(s.record("web").count("TERM"), 7);
    assert_eq!(s.record("web").count("two"), 0);
    // The history is shorter than that, the log has all.
    let path = conf.display().to_string();
    let said = format!("web: its file {path} changed");
    assert_eq!(s.place.log().matches(&said).count(), 7);
    let changed = changes(&s, "web");
    assert!(!changed.is_empty() && changed.iter().all(|e| e["path"] == json!(path)));
    let why = s.ok(&["why", "web"]);
    assert!(why.contains(&format!("its file {path} changed")), "{why}");
    assert!(
        why.contains(&format!("asked by    its changed file {path}")),
        "{why}"
    );
    s.end();
}

#[test]
fn on_change_says_whether_it_is_restarted_or_told() {
    let reload = "reload = { signal = \"USR1\" }\n";
    for (then, told, other) in [("restart", "start", "USR1"), ("reload", "USR1", "TERM")] {
        let s = watching(&format!("{reload}on-change = \"{then}\"\n"));
        let before = s.record("web").count(told);
        fs::write(s.place.file("conf"), "good one").unwrap();
        s.wait_record("web", told, before + 1);
        assert_eq!(s.record("web").count(other), 0, "{then}");
        s.end();
    }
}

#[test]
fn a_directory_that_is_not_there_yet_and_one_that_is_replaced() {
    let s =
        Superd::start(&(scribe("web", "TERM") + "watch = [\"$DIR/a/b/conf\", \"$DIR/conf.d\"]\n"));
    s.wait_record("web", "start", 1);
    let deep = s.place.file("a/b");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("conf"), "1").unwrap();
    s.wait_record("web", "start", 2);
    // Others in that directory are none of its business; the next change is.
    fs::write(deep.join("other"), "1").unwrap();
    fs::rename(s.place.file("a"), s.place.file("gone")).unwrap();
    fs::create_dir_all(&deep).unwrap();
    replace(&deep.join("conf"), "2");
    s.wait_record("web", "start", 3);
    // A directory is what is in it, but for what editors put there.
    let dir = s.place.file("conf.d");
    fs::create_dir(&dir).unwrap();
    s.wait_record("web", "start", 4);
    fs::write(dir.join(".one.swp"), "").unwrap();
    fs::write(dir.join("one~"), "").unwrap();
    fs::write(dir.join("one"), "").unwrap();
    s.wait_record("web", "start", 5);
    fs::write(dir.join("one"), "more").unwrap();
    s.wait_record("web", "start", 6);
    fs::remove_file(dir.join("one")).unwrap();
    s.wait_record("web", "start", 7);
    assert_eq!(changes(&s, "web").len(), 6);
    s.end();
}

#[test]
fn the_checker_is_asked_first_and_a_broken_file_takes_nothing_down() {
    let keys = "check = [\"/bin/grep\", \"-q\", \"good\", \"$DIR/conf\"]\n";
    for (more, told) in [("", "start"), ("reload = { signal = \"USR1\" }\n", "USR1")] {
        let s = watching(&(keys.to_owned() + more));
        let conf = s.place.file("conf");
        let pid = s.pid_of("web");
        let failed = |n: usize| {
            wait_until("the checker has failed", || {
                let events = s.events("web");
                events
                    .iter()
                    .filter(|e| e["event"] == "action-failed")
                    .count()
                    == n
            });
        };
        replace(&conf, "broken");
        failed(1);
        fs::write(&conf, "broken again").unwrap();
        failed(2);
        assert_eq!(s.pid_of("web"), pid);
        assert_eq!(s.state("web"), "up");
        let before = s.record("web").count(told);
        replace(&conf, "good");
        s.wait_record("web", told, before + 1);
        assert_eq!(s.record("web").count("TERM"), usize::from(more.is_empty()));
        assert_eq!(changes(&s, "web").len(), 3);
        s.end();
    }
}

#[test]
fn a_service_that_is_stopped_stays_so_and_one_that_has_failed_is_tried_at_once() {
    let place = Place::new();
    fs::write(place.file("conf"), "broken").unwrap();
    let web = scribe("web", "TERM") + "watch = [\"$DIR/conf\"]\n";
    let crash = "[service.crash]\ncommand = [\"/bin/sh\", \"-c\", \"grep -q good $DIR/conf && exec sleep 1000; exit 1\"]\n\
        watch = [\"$DIR/conf\"]\nrestart-delay = \"1ms\"\ncrash-loop = { burst = 2, within = \"1m\", retry = \"1h\" }\n";
    place.configure(Flavour::NoCgroups, &(web + crash));
    let s = place.resume();
    s.wait_record("web", "start", 1);
    s.wait_state("crash", "failed");
    s.ok(&["stop", "web"]);
    replace(&s.place.file("conf"), "good");
    s.wait_state("crash", "up");
    assert_eq!(changes(&s, "crash").len(), 1);
    assert_eq!(
        (s.state("web").as_str(), changes(&s, "web").len()),
        ("down", 0)
    );
    // And the start later is no change.
    s.ok(&["start", "web"]);
    let pid = s.pid_of("web");
    replace(&s.place.file("conf"), "good too");
    wait_until("both have it", || {
        changes(&s, "web").len() == 1 && changes(&s, "crash").len() == 2
    });
    s.wait_record("web", "start", 3);
    assert_ne!(s.pid_of("web"), pid);
    s.end();
}

in_both_flavours! {
    fn a_change_while_superd_is_away_is_seen_by_the_next_one(flavour: Flavour) {
        let place = Place::new();
        let conf = place.file("conf");
        fs::write(&conf, "0").unwrap();
        place.configure(flavour, &(scribe("web", "TERM") + "watch = [\"$DIR/conf\"]\n"));
        let s = place.resume();
        s.wait_record("web", "start", 1);
        s.wait_state("web", "up");
        let pid = s.pid_of("web");
        s.ok(&["upgrade"]);
        let s = s.succeed();
        assert_eq!(s.pid_of("web"), pid, "nothing has changed");
        let place = s.abandon();
        replace(&conf, "1");
        let s = place.resume();
        s.wait_record("web", "start", 2);
        s.wait_state("web", "up");
        // Noticed and not acted upon yet: the new program goes on with it.
        replace(&conf, "2");
        s.ok(&["upgrade"]);
        s.wait_record("web", "start", 3);
        assert_eq!(s.record("web").count("TERM"), 2);
        assert_eq!(s.record("web").count("two"), 0);
        s.end();
    }
}

#[test]
fn without_watches_superd_says_so_once_and_works() {
    let name = "without_watches_superd_says_so_once_and_works";
    let place = Place::new();
    fs::write(place.file("conf"), "0").unwrap();
    let web = scribe("web", "TERM") + "watch = [\"$DIR/conf\"]\n";
    let two = scribe("two", "TERM") + "watch = [\"$DIR/conf\", \"$DIR/other\"]\n";
    place.configure(Flavour::NoCgroups, &(web + &two));
    // One watch for a user namespace of its own, which superd needs for its run directory.
    let limit = "echo 1 > /proc/sys/user/max_inotify_watches";
    let unshare = |then: &str| {
        let script = format!("{limit} && exec {then}");
        ["unshare", "--user", "--map-root-user", "sh", "-c", &script].map(str::to_owned)
    };
    if !run(place.command(&unshare("true")).arg("sh")).code.eq(&0) {
        return skip(name, "no user namespaces");
    }
    let args = place.superd_args().join(" ");
    let command = place.command(&unshare(&args));
    let s = Superd::launch(place, command);
    s.wait_record("web", "start", 1);
    s.wait_record("two", "start", 1);
    replace(&s.place.file("conf"), "1");
    s.ok(&["restart", "web"]);
    s.wait_state("web", "up");
    let log = s.place.log();
    let said: Vec<&str> = log.lines().filter(|l| l.contains("watching")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(
        said[0].ends_with(
            "no watch is left: see fs.inotify.max_user_watches; changes of files are not noticed"
        ),
        "{said:?}"
    );
    s.end();
}
