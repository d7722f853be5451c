//! superd becomes another program: same process, same children, and nobody notices.
//!
//! The new program is the same superd, if need be behind a script that does what a broken or a
//! changed one would do.

use crate::points::judge;
use crate::successors::{chatting, scribe, stop_and_count};
use crate::support::*;
use serde_json::{json, Value};
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Three steps, of which the last one ends the service.
const THREE: &str = "stop = [\n\
    { signal = \"TERM\", wait = \"300ms\" },\n\
    { signal = \"INT\", wait = \"300ms\" },\n\
    { signal = \"USR2\", wait = \"30s\" },\n]\n";

/// Upgrades that the log tells of.
fn upgrades(superd: &Superd) -> usize {
    superd.place.log().matches("superd: upgraded from ").count()
}

fn upgrade(superd: &Superd) {
    let said = superd.ok(&["upgrade"]);
    let version = env!("CARGO_PKG_VERSION");
    let wanted = format!("superd: upgraded from {version} to {version}\n");
    assert_eq!(said, wanted);
}

fn once(superd: &Superd, name: &str, what: &str) {
    let record = superd.record(name);
    assert_eq!(record.count(what), 1, "{what}: {record:?}");
}

/// A superd that is started by a path of its own, which a test can put another file at.
fn replaceable(toml: &str) -> (Superd, PathBuf) {
    let place = Place::new();
    place.configure(Flavour::NoCgroups, toml);
    fs::create_dir(place.file("bin")).unwrap();
    let program = place.file("bin/superd");
    put(&program, &fs::read(SUPERD).unwrap());
    let mut args = place.superd_args();
    args[0] = program.display().to_string();
    let command = place.command(&args);
    (Superd::launch(place, command), program)
}

/// Puts a script there, as a package manager does it: another file takes the name.
fn put_script(program: &Path, script: &str) {
    let script = script.replace("@SUPERD@", SUPERD);
    put(program, format!("#!/bin/bash\n{script}\n").as_bytes());
}

fn put(program: &Path, bytes: &[u8]) {
    let fresh = program.with_extension("fresh");
    fs::write(&fresh, bytes).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    // What another test has just forked may hold it open for writing, and then it cannot be
    // executed: a lease is given when nobody does.
    let file = fs::File::open(&fresh).unwrap();
    wait_until("nobody writes to it", || {
        // SAFETY: fcntl(2) with a descriptor that is open, and numbers.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) == 0 }
    });
    drop(file);
    fs::rename(fresh, program).unwrap();
}

in_both_flavours! {
    fn services_history_and_output_outlive_it(flavour: Flavour) {
        let toml = scribe("web", "TERM") + "[service.talker]\ncommand = [\"/bin/sh\", \"-c\", \
            \"echo first words; read x < $DIR/gate; echo last words; exit 7\"]\nrestart = \"never\"\n";
        let place = Place::new();
        nix::unistd::mkfifo(&place.file("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        place.configure(flavour, &toml);
        let superd = place.resume();
        superd.wait_record("web", "start", 1);
        superd.wait_state("talker", "up");
        kill(superd.pid_of("web"), libc::SIGKILL);
        superd.wait_record("web", "start", 2);
        superd.wait_state("web", "up");
        wait_until("it has spoken", || superd.ok(&["logs", "talker"]).contains("first words"));
        let before = ["web", "talker"].map(|n| superd.status(n));
        let told = superd.events("web");
        assert_eq!(upgrades(&superd), 0);
        for _ in 0..3 {
            upgrade(&superd);
        }
        assert_eq!(upgrades(&superd), 3);
        for (name, before) in ["web", "talker"].iter().zip(before) {
            let after = superd.status(name);
            for key in ["state", "pid", "restarts", "last_exit", "adopted", "want"] {
                assert_eq!(after[key], before[key], "{name}: {key}");
            }
            assert_eq!(after["adopted"], Value::Null);
            assert!(after["since_ms"].as_u64() >= before["since_ms"].as_u64());
        }
        let now = superd.events("web");
        assert_eq!(now.len(), told.len(), "nothing is told anew: {now:?}");
        assert_eq!(superd.last_end("web")["exit"], json!({"signal": 9}));
        // Still its child: the status of its end is known on every kernel.
        fs::write(superd.place.file("gate"), "x\n").unwrap();
        superd.wait_state("talker", "failed");
        let end = superd.last_end("talker");
        assert_eq!(end["exit"], json!({"code": 7}), "{end}");
        assert_eq!(end["output"], json!(["first words", "last words"]));
        // Like any other: restart, stop.
        superd.ok(&["restart", "web"]);
        superd.wait_record("web", "start", 3);
        superd.ok(&["stop", "web"]);
        assert_eq!(superd.verdict("web"), "clean");
        assert_eq!(superd.record("web").count("TERM"), 2);
        assert_eq!(superd.record("web").count("two"), 0);
        let place = superd.end();
        let left: Vec<_> = fs::read_dir(place.file("run")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(place.cgroups(), Vec::<PathBuf>::new());
    }

    fn a_stop_under_way_goes_on_and_repeats_no_step(flavour: Flavour) {
        let superd = Superd::start_in(flavour, &(scribe("web", "USR2") + THREE));
        superd.wait_record("web", "start", 1);
        let mut waiting = superd.ctl_command(&["stop", "web"]);
        let waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        for step in ["TERM", "INT"] {
            superd.wait_record("web", step, 1);
            upgrade(&superd);
        }
        let said = finish(waiting);
        assert_eq!((said.code, said.out.as_str()), (0, "web: stopped, clean after escalation\n"), "{said:?}");
        for what in ["start", "TERM", "INT", "USR2", "end"] {
            once(&superd, "web", what);
        }
        let end = superd.last_end("web");
        assert_eq!(end["steps"].as_array().unwrap().len(), 3, "{end}");
        assert_eq!(end["exit"], json!({"code": 0}));
        superd.end();
    }

    fn what_a_step_waits_for_and_a_new_main_process_are_kept(flavour: Flavour) {
        let place = Place::new();
        for gate in ["gate", "web.pipe"] {
            nix::unistd::mkfifo(&place.file(gate), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        place.configure(flavour, r#"
            [service.handing]
            command = [$TWIN:handing, "handover", "--stay"]
            restart-delay = "1ms"
            [service.web]
            command = ["/bin/bash", "-c", "note() { echo 0 $$ $1 >> $DIR/web.record; }; trap 'note INT; exit 0' INT; trap 'note TERM; read x < $DIR/gate; echo going now' TERM; exec 3<>$DIR/web.pipe; note start; while :; do read -r _ <&3; done"]
            stop = [
                { http = "POST http://$HOST:2019/stop", until = "done", wait = "10m" },
                { signal = "TERM", until = "log=going", wait = "10m" },
                { signal = "INT", wait = "10m" },
            ]
        "#);
        let listener = std::net::TcpListener::bind((place.host.as_str(), 2019)).unwrap();
        let superd = place.resume();
        superd.wait_record("web", "start", 1);
        superd.wait_record("handing", "heir", 1);
        let main = |superd: &Superd| {
            let told = superd.events("handing");
            told.iter().filter(|e| e["event"] == "main-process").count()
        };
        wait_until("MAINPID is followed", || main(&superd) == 1);
        let heir = superd.pid_of("handing");
        upgrade(&superd);
        assert_eq!(superd.pid_of("handing"), heir);
        kill(heir, libc::SIGKILL);
        superd.wait_record("handing", "start", 2);
        // The request is under way, then the text is awaited.
        let waiting = superd.ctl_command(&["stop", "web"]).stdout(Stdio::piped()).spawn().unwrap();
        let (mut asked, _) = listener.accept().unwrap();
        upgrade(&superd);
        let mut request = vec![0; 1000];
        let n = std::io::Read::read(&mut asked, &mut request).unwrap();
        assert!(request[..n].starts_with(b"POST /stop"));
        upgrade(&superd);
        asked.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        superd.wait_record("web", "TERM", 1);
        upgrade(&superd);
        fs::write(superd.place.file("gate"), "x\n").unwrap();
        superd.wait_record("web", "INT", 1);
        assert_eq!(finish(waiting).code, 0);
        let end = superd.last_end("web");
        let outcomes: Vec<&Value> = end["steps"].as_array().unwrap().iter().map(|s| &s["outcome"]).collect();
        assert_eq!(outcomes, ["held", "held", "gone"], "{end}");
        for what in ["TERM", "INT"] {
            once(&superd, "web", what);
        }
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "asked once");
        superd.end();
    }

    fn what_superd_has_adopted_is_kept(flavour: Flavour) {
        let superd = Superd::start_in(flavour, &scribe("web", "TERM"));
        superd.wait_record("web", "start", 1);
        superd.wait_state("web", "up");
        let superd = superd.succeed();
        upgrade(&superd);
        assert_eq!(superd.status("web")["adopted"], true);
        let before = superd.pid_of("web");
        kill(before, libc::SIGKILL);
        superd.wait_record("web", "start", 2);
        superd.wait_state("web", "up");
        upgrade(&superd);
        // And the other way round: killed after an upgrade.
        let superd = superd.succeed();
        superd.ok(&["stop", "web"]);
        once(&superd, "web", "TERM");
        superd.assert_starts("web", 2);
        superd.end();
    }
}

/// Requests that are not answered when superd becomes another program are answered after it.
#[test]
fn who_waits_is_answered_by_the_new_one() {
    let toml = scribe("web", "USR2")
        + THREE
        + &scribe("other", "TERM")
        + "reload = { run = [\"/bin/sh\", \"-c\", \"echo reloading; read x < $DIR/gate\"], wait = \"60s\" }\n";
    let place = Place::new();
    nix::unistd::mkfifo(&place.file("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    place.configure(Flavour::NoCgroups, &toml);
    let superd = place.resume();
    superd.wait_record("web", "start", 1);
    superd.wait_record("other", "start", 1);
    superd.wait_state("other", "up");
    let mut raws: Vec<Raw> = (0..5).map(|_| superd.raw()).collect();
    let [stop, restart, all, reload, half] = &mut raws[..] else {
        panic!("five")
    };
    // The half of a request, whose other half comes later.
    half.stream
        .write_all(b"{\"v\":1,\"id\":77,\"do\":\"sta")
        .unwrap();
    let reloading = reload.send(&json!({"do": "reload", "service": "other", "wait": true}));
    wait_until("the command runs", || {
        superd.ok(&["logs", "other"]).contains("reloading")
    });
    let stopping = stop.send(&json!({"do": "stop", "service": "web", "wait": true}));
    superd.wait_record("web", "TERM", 1);
    // Joins the stop, and then wants it up again.
    let restarting = restart.send(&json!({"do": "restart", "service": "web", "wait": true}));
    wait_until("it is absorbed", || {
        superd.status("web")["stop"]["absorbed"] == 1
    });
    let mut follower = superd.raw();
    let events = json!({"do": "events", "service": "web", "lines": 0, "follow": true});
    let following = follower.send(&events);
    // Requests of a client are heard in their order.
    follower.send(&json!({"do": "plan"}));
    wait_for("it follows", || {
        follower.reply().filter(|r| r["id"] != following)
    });
    let starting = all.send(&json!({"do": "start", "all": true, "wait": true}));
    // A question behind it on the same connection: it is answered in between.
    let asking = all.send(&json!({"do": "status", "service": "other"}));
    assert_eq!(all.reply().unwrap()["id"], asking);
    all.reply().unwrap();
    upgrade(&superd);
    upgrade(&superd);
    half.stream
        .write_all(b"tus\",\"service\":\"other\"}\n")
        .unwrap();
    assert_eq!(half.reply().unwrap()["id"], 77);
    let answer = stop.reply().unwrap();
    assert_eq!(
        (&answer["id"], &answer["ok"]),
        (&json!(stopping), &json!(true)),
        "{answer}"
    );
    assert_eq!(answer["verdict"], "clean-after-escalation");
    for (raw, id) in [(restart, restarting), (all, starting)] {
        let answer = raw.reply().unwrap();
        assert_eq!(
            (&answer["id"], &answer["ok"]),
            (&json!(id), &json!(true)),
            "{answer}"
        );
    }
    assert_eq!(superd.state("web"), "up");
    fs::write(superd.place.file("gate"), "x\n").unwrap();
    let answer = reload.reply().unwrap();
    assert_eq!(
        (&answer["id"], &answer["ok"]),
        (&json!(reloading), &json!(true)),
        "{answer}"
    );
    wait_for("the stream goes on", || {
        let line = follower.reply().unwrap();
        (line["id"] == following && line["event"]["event"] == "ended").then_some(())
    });
    // It is up before it has written that it is.
    let record = superd.wait_record("web", "start", 2);
    for (what, n) in [
        ("start", 2),
        ("TERM", 1),
        ("INT", 1),
        ("USR2", 1),
        ("two", 0),
    ] {
        assert_eq!(record.count(what), n, "{what}: {record:?}");
    }
    superd.end();
}

#[test]
fn commands_back_off_and_counters_go_on() {
    let toml = scribe("web", "TERM")
        + "stop = [{ run = [\"/bin/sh\", \"-c\", \"echo 0 $$$$ asked >> $DIR/command.record; \
           read x < $DIR/gate\"], until = \"done\", wait = \"60s\" }, { signal = \"TERM\", wait = \"20s\" }]\n\
           [service.failing]\ncommand = [\"/bin/sh\", \"-c\", \"echo 0 $$$$ start >> $DIR/failing.record; exit 1\"]\n\
           restart-delay = \"3s\"\nmax-delay = \"3s\"\n";
    let toml = toml.replace("$$$$", "$$");
    let place = Place::new();
    nix::unistd::mkfifo(&place.file("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    place.configure(Flavour::NoCgroups, &toml);
    let superd = place.resume();
    superd.wait_record("web", "start", 1);
    superd.wait_record("failing", "start", 2);
    superd.wait_state("failing", "backoff");
    let (before, left) = (
        monotonic(),
        superd.status("failing")["retry_ms"].as_u64().unwrap(),
    );
    let waiting = superd
        .ctl_command(&["stop", "web"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    superd.wait_record("command", "asked", 1);
    upgrade(&superd);
    assert_eq!(superd.status("failing")["restarts"], 1);
    assert_eq!(superd.state("web"), "stopping");
    fs::write(superd.place.file("gate"), "x\n").unwrap();
    assert_eq!(finish(waiting).code, 0);
    let end = superd.last_end("web");
    assert_eq!(
        end["steps"][0]["outcome"], "held",
        "its status is known: {end}"
    );
    once(&superd, "command", "asked");
    once(&superd, "web", "TERM");
    superd.wait_record("failing", "start", 3);
    let waited = (monotonic() - before) / 1_000_000;
    assert!(waited + 5 >= left, "{waited} of {left} ms");
    superd.end();
}

#[test]
fn no_line_is_lost_or_said_twice_by_an_upgrade() {
    let (superd, names) = chatting(10, 50_000);
    let log = superd.place.file("superd.log");
    for _ in 0..20 {
        let size = || fs::metadata(&log).map_or(0, |m| m.len());
        let wanted = size() + 20_000;
        wait_until("they write", || size() > wanted);
        upgrade(&superd);
    }
    stop_and_count(&superd, &names, "upgrades: 20 in a row");
    superd.end();
}

#[test]
fn the_beginning_of_a_line_is_kept_until_its_end_comes() {
    let half = |name: &str, output: &str| {
        format!(
            "[service.{name}]\noutput = \"{output}\"\ncommand = [\"/bin/sh\", \"-c\", \"printf 'one half, '; \
             echo 0 $$ half >> $DIR/{name}.record; read x < $DIR/{name}; echo the other; exec sleep 1000\"]\n"
        )
    };
    let place = Place::new();
    let names = ["logged", "kept"];
    for name in names {
        nix::unistd::mkfifo(&place.file(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let toml = half("logged", "log") + &half("kept", "ring");
    place.configure(Flavour::NoCgroups, &toml);
    let superd = place.resume();
    for name in names {
        superd.wait_record(name, "half", 1);
        assert_eq!(superd.ok(&["logs", name]), "");
    }
    upgrade(&superd);
    for name in names {
        fs::write(superd.place.file(name), "x\n").unwrap();
        wait_until("the line is whole", || {
            superd
                .ok(&["logs", name])
                .ends_with("one half, the other\n")
        });
    }
    superd.end();
}

/// What is put in the place of superd, and what the operator is told.
const BROKEN: &[(&str, &str)] = &[
    ("exit 1", "it ended with status 1"),
    ("echo 'superd: no space left' >&2; exit 1", "no space left"),
    (
        "echo \"superd: unexpected argument '--check-state' found (see superd --help)\" >&2; exit 2",
        "unexpected argument '--check-state' found",
    ),
    ("exit 0", "does not answer like superd"),
    ("kill -SEGV $$", "it was ended by SIGSEGV"),
    (
        "sed 's/\"superd-state\":1/\"superd-state\":2/' | exec @SUPERD@ \"$@\"",
        "it is of version 2, not 1",
    ),
    (
        "sed 's/\"Up\"/\"Upside\"/g' | exec @SUPERD@ \"$@\"",
        "unknown variant `Upside`",
    ),
    (
        "sed 's/\"boot\":\"/&x/' | exec @SUPERD@ \"$@\"",
        "it is of another boot",
    ),
    // It agrees, and then cannot be executed.
    (
        "echo superd 9.9.9 understands this state; rm \"$0\"",
        "No such file or directory",
    ),
];

#[test]
fn the_old_one_goes_on_when_the_new_one_cannot() {
    let (superd, program) = replaceable(&scribe("web", "TERM"));
    superd.wait_record("web", "start", 1);
    superd.wait_state("web", "up");
    let pid = superd.pid_of("web");
    let told = |why: &str| {
        let said = superd.ctl(&["upgrade"]);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{why}: {said:?}");
        let line = said.err.strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'), "one line: {line}");
        assert!(line.starts_with("superctl: not upgraded: "), "{line}");
        assert!(line.contains(why), "{why}: {line}");
        assert_eq!(superd.pid_of("web"), pid);
        assert_eq!(superd.state("web"), "up");
    };
    for (script, why) in BROKEN {
        put_script(&program, script);
        told(why);
    }
    fs::remove_file(&program).ok(); // the last one has removed itself
    told("No such file or directory");
    put(&program, b"no program at all");
    told("Exec format error");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    told("Permission denied");
    assert_eq!(upgrades(&superd), 0);
    // With the right one in its place it goes well, and a signal will do.
    put(&program, &fs::read(SUPERD).unwrap());
    superd.signal(libc::SIGUSR2);
    wait_until("it is upgraded", || upgrades(&superd) == 1);
    assert_eq!(superd.pid_of("web"), pid);
    once(&superd, "web", "start");
    superd.end();
}

#[test]
fn a_new_one_that_hangs_is_given_up() {
    let (superd, program) = replaceable(&scribe("web", "TERM"));
    superd.wait_record("web", "start", 1);
    put_script(&program, "echo $$ > $(dirname $0)/pid; exec sleep 1000");
    let mut asking = superd.ctl_command(&["upgrade"]);
    let asking = asking
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let hanging = wait_for("it is asked", || {
        let text = fs::read_to_string(program.with_file_name("pid")).ok()?;
        text.trim().parse::<i32>().ok()
    });
    // Meanwhile everything goes on.
    superd.ok(&["restart", "web"]);
    superd.wait_record("web", "start", 2);
    let said = finish(asking);
    assert_eq!(said.code, 1);
    assert_eq!(
        said.err,
        "superctl: not upgraded: the new superd has not answered within 10 s\n"
    );
    wait_until("it is gone", || state_of(hanging).is_none());
    // The next wish is not answered by the one before.
    put(&program, &fs::read(SUPERD).unwrap());
    upgrade(&superd);
    superd.end();
}

#[test]
fn a_new_one_that_fails_after_all_leaves_the_journal() {
    let (mut superd, program) = replaceable(&scribe("web", "TERM"));
    superd.wait_record("web", "start", 1);
    superd.wait_state("web", "up");
    let pid = superd.pid_of("web");
    // It agrees, and then does something else.
    put_script(
        &program,
        "echo superd 9.9.9 understands this state; [ \"$1\" = --check-state ]",
    );
    superd.signal(libc::SIGUSR2);
    let status = superd.wait();
    assert_eq!(status.code(), Some(1));
    assert!(alive(pid));
    let superd = superd.killed().resume();
    assert_eq!(superd.pid_of("web"), pid);
    once(&superd, "web", "start");
    superd.ok(&["stop", "web"]);
    superd.end();
}

#[test]
fn a_state_that_cannot_be_used_after_all_leaves_the_journal_too() {
    let (superd, program) = replaceable(&scribe("web", "TERM"));
    superd.wait_record("web", "start", 1);
    superd.wait_state("web", "up");
    let pid = superd.pid_of("web");
    // As a new one that finds out too late: the state is cut off.
    put_script(
        &program,
        "[ \"$1\" = --check-state ] && exec @SUPERD@ \"$@\"\n\
         head -c 500 /proc/self/fd/$SUPERD_STATE > $0.state\n\
         eval \"exec $SUPERD_STATE<$0.state\"\nexec @SUPERD@ \"$@\"",
    );
    superd.ctl(&["upgrade"]);
    wait_until("it goes on", || {
        Raw::connect(&superd.place.socket())
            .ok()
            .and_then(|mut raw| raw.try_ask(&json!({"do": "status"})))
            .is_some()
    });
    let log = superd.place.log();
    assert!(log.contains("cannot be used: line 2"), "{log}");
    assert_eq!(
        (superd.pid_of("web"), superd.state("web")),
        (pid, "up".to_owned())
    );
    kill(pid, libc::SIGKILL);
    superd.wait_record("web", "start", 2);
    superd.wait_state("web", "up");
    superd.end();
}

#[test]
fn the_binary_may_have_been_replaced_and_the_format_may_have_grown() {
    let (superd, program) = replaceable(&scribe("web", "TERM"));
    superd.wait_record("web", "start", 1);
    let old = fs::metadata(format!("/proc/{}/exe", superd.pid))
        .unwrap()
        .ino();
    put(&program, &fs::read(SUPERD).unwrap());
    let exe = || fs::read_link(format!("/proc/{}/exe", superd.pid)).unwrap();
    assert!(exe().to_str().unwrap().ends_with("superd (deleted)"));
    upgrade(&superd);
    let new = fs::metadata(format!("/proc/{}/exe", superd.pid))
        .unwrap()
        .ino();
    assert!(new != old && new == fs::metadata(&program).unwrap().ino());
    assert_eq!(exe(), program.canonicalize().unwrap());
    // One that has another version of the format: keys that are not known, keys that are gone.
    let script = "if [ \"$1\" = --check-state ]; then\n\
         sed 's/\"machine\":{/&\"future\":[1,{\"a\":2}],/; s/\"by\":\"[^\"]*\"/\"by\":\"9.9.9\"/' | @SUPERD@ \"$@\"; exit; fi\n\
         sed 's/\"machine\":{/&\"future\":[1,{\"a\":2}],/; s/\"by\":\"[^\"]*\"/\"by\":\"9.9.9\"/' /proc/self/fd/$SUPERD_STATE > $0.state\n\
         eval \"exec $SUPERD_STATE<$0.state\"\nNEW=1 exec @SUPERD@ \"$@\"";
    put_script(&program, script);
    let said = superd.ok(&["upgrade"]);
    assert!(said.contains("upgraded from 9.9.9 to"), "{said}");
    let environ = fs::read(format!("/proc/{}/environ", superd.pid)).unwrap();
    let has = |v: &[u8]| environ.split(|b| *b == 0).any(|e| e == v);
    assert!(has(b"NEW=1"), "it was the script");
    // It still goes by the path that superd was started as.
    put(&program, &fs::read(SUPERD).unwrap());
    upgrade(&superd);
    assert_eq!(exe(), program.canonicalize().unwrap());
    once(&superd, "web", "start");
    superd.ok(&["restart", "web"]);
    let environ = fs::read(format!("/proc/{}/environ", superd.pid_of("web"))).unwrap();
    let is_ours = |e: &[u8]| e.starts_with(b"SUPERD_STATE=");
    assert!(
        !environ.split(|b| *b == 0).any(is_ours),
        "services do not see it"
    );
    superd.end();
}

#[test]
fn it_is_no_reload() {
    let superd = Superd::start(&scribe("web", "TERM"));
    superd.wait_record("web", "start", 1);
    let changed = scribe("web", "TERM") + "environment = { A = \"b\" }\n" + &scribe("new", "TERM");
    superd.place.configure(Flavour::NoCgroups, &changed);
    upgrade(&superd);
    assert_eq!(superd.ctl(&["status", "new"]).code, 4);
    once(&superd, "web", "start");
    fs::write(superd.place.file("superd.toml"), "nonsense").unwrap();
    upgrade(&superd);
    assert_eq!(superd.ctl(&["reload"]).code, 1);
    superd.place.configure(Flavour::NoCgroups, &changed);
    assert!(superd.ok(&["reload"]).contains("1 new, 1 changed"));
    superd.wait_record("web", "start", 2);
    superd.wait_record("new", "start", 1);
    upgrade(&superd);
    superd.ok(&["stop", "--all"]);
    superd.end();
}

#[test]
fn descriptors_do_not_grow_and_none_leaks_into_services() {
    let superd = Superd::start(&scribe("web", "TERM"));
    superd.wait_record("web", "start", 1);
    let count = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    upgrade(&superd);
    wait_until("the client is gone", || count(superd.pid) > 0);
    let own = superd.pid_of("web");
    let (before, of_web) = (count(superd.pid), count(own));
    for _ in 0..10 {
        upgrade(&superd);
    }
    wait_until("no more than before", || count(superd.pid) <= before);
    superd.ok(&["restart", "web"]);
    superd.wait_record("web", "start", 2);
    assert_eq!(count(superd.pid_of("web")), of_web);
    superd.end();
}

#[test]
fn a_storm_of_signals_harms_nobody() {
    let mut superd = Superd::start(&(scribe("web", "USR2") + THREE));
    superd.wait_record("web", "start", 1);
    superd.wait_state("web", "up");
    let pid = superd.pid_of("web");
    let target = superd.pid;
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    let storm = thread::spawn(move || {
        let mut sent = 0;
        while !stop.load(Ordering::SeqCst) {
            for signal in [libc::SIGUSR2, libc::SIGCHLD, libc::SIGUSR1] {
                kill(target, signal);
                sent += 1;
            }
            thread::sleep(Duration::from_micros(200));
        }
        sent
    });
    wait_until("it is upgraded again and again", || upgrades(&superd) >= 10);
    assert_eq!(superd.pid_of("web"), pid);
    superd.ok(&["restart", "web"]);
    superd.wait_record("web", "start", 2);
    // And in the midst of it the end.
    superd.signal(libc::SIGTERM);
    let status = superd.wait();
    over.store(true, Ordering::SeqCst);
    let sent = storm.join().unwrap();
    tell(&format!(
        "upgrades: {sent} signals, {} upgrades",
        upgrades(&superd)
    ));
    assert_eq!(status.code(), Some(0));
    superd.assert_nothing_left();
    judge(&superd.record("web"), "storm");
    superd.assert_starts("web", 2);
    assert_eq!(superd.record("web").count("USR2"), 2);
}

/// A request to stop that comes at any moment of an upgrade is heard, once.
#[test]
fn a_stop_of_superd_that_comes_meanwhile_is_not_lost() {
    for round in 0..20_u64 {
        let mut superd = Superd::start(&scribe("web", "TERM"));
        superd.wait_record("web", "start", 1);
        superd.signal(libc::SIGUSR2);
        let at = monotonic() + round * 1_500_000;
        sleep_until(at);
        superd.signal(libc::SIGTERM);
        superd.signal(libc::SIGINT);
        assert_eq!(superd.wait().code(), Some(0));
        superd.assert_nothing_left();
        once(&superd, "web", "TERM");
        once(&superd, "web", "end");
    }
}

#[test]
fn superd_that_ends_is_not_upgraded() {
    let superd = Superd::start(&(scribe("web", "USR2") + THREE));
    superd.wait_record("web", "start", 1);
    let ending = superd
        .ctl_command(&["shutdown"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    superd.wait_record("web", "TERM", 1);
    let said = superd.ctl(&["upgrade"]);
    assert_eq!(
        (said.code, said.err.as_str()),
        (1, "superctl: not upgraded: superd is ending\n")
    );
    superd.signal(libc::SIGUSR2);
    assert_eq!(finish(ending).code, 0);
    assert_eq!(upgrades(&superd), 0);
    assert!(superd
        .place
        .log()
        .contains("not upgraded: superd is ending"));
    superd.end();
}

#[test]
fn pid_one_is_upgraded_like_any_other() {
    let name = "pid_one_is_upgraded_like_any_other";
    if !root_or_skip(name) || !program_or_skip(name, "unshare") {
        return;
    }
    let place = Place::new();
    place.configure(Flavour::NoCgroups, &scribe("web", "TERM"));
    let mut args: Vec<String> = ["unshare", "-pf", "--mount-proc"]
        .map(str::to_owned)
        .to_vec();
    args.extend(place.superd_args());
    let command = place.command(&args);
    let mut superd = Superd::launch(place, command);
    superd.pid = *children_of(superd.pid).iter().next().unwrap();
    superd.wait_record("web", "start", 1);
    superd.wait_state("web", "up");
    let pid = superd.pid_of("web");
    for _ in 0..5 {
        upgrade(&superd);
    }
    assert_eq!(superd.pid_of("web"), pid);
    superd.ok(&["restart", "web"]);
    superd.signal(libc::SIGUSR2);
    wait_until("by a signal too", || upgrades(&superd) == 6);
    let record = superd.wait_record("web", "start", 2);
    assert_eq!(record.count("TERM"), 1);
    superd.signal(libc::SIGTERM);
    assert_eq!(superd.wait().code(), Some(0));
    let left = superd.place.processes();
    assert!(left.is_empty(), "{}", describe(&left));
}

#[test]
fn a_state_is_checked_and_nothing_else_is_done() {
    let place = Place::new();
    for (state, why) in [
        ("", "it does not begin like a state of superd"),
        ("{\"superd-state\":7}\n", "it is of version 7, not 1"),
    ] {
        let file = place.file("state");
        fs::write(&file, state).unwrap();
        let mut command = std::process::Command::new(SUPERD);
        command
            .arg("--check-state")
            .stdin(fs::File::open(&file).unwrap());
        let said = command.output().unwrap();
        assert_eq!(said.status.code(), Some(1));
        let err = String::from_utf8(said.stderr).unwrap();
        let wanted = format!("superd: the state on standard input cannot be used: {why}\n");
        assert_eq!(err, wanted);
    }
}

// ---- under load ----

/// What goes on while superd is upgraded.
struct Load {
    socket: PathBuf,
    record: PathBuf,
    steady: i32,
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Load {
    fn starts(&self) -> usize {
        let text = fs::read_to_string(&self.record).unwrap_or_default();
        text.matches("start\n").count()
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    /// Some 12 requests a second on connections that live for a while: each has its answer.
    fn look(&self, seed: usize) {
        let mut raw = Raw::connect(&self.socket).unwrap();
        for n in seed.. {
            if !self.goes_on() {
                return;
            }
            if n % 7 == 0 {
                raw = Raw::connect(&self.socket).unwrap();
            }
            match n % 4 {
                0 | 1 => {
                    let lines = raw.ask(&json!({"do": "status", "service": "steady"}));
                    let status = &lines[0]["status"];
                    assert_eq!(
                        (&status["state"], &status["pid"]),
                        (&json!("up"), &json!(self.steady))
                    );
                    assert_eq!(status["restarts"], 0, "{status}");
                }
                2 => {
                    let lines = raw.ask(&json!({"do": "status"}));
                    let names: Vec<_> = lines
                        .iter()
                        .filter_map(|l| l["status"]["service"].as_str())
                        .collect();
                    assert_eq!(names, ["steady", "web"], "{lines:?}");
                }
                _ => {
                    let lines = raw.ask(&json!({"do": "logs", "service": "steady", "lines": 5}));
                    assert_eq!(lines.last().unwrap()["ok"], true);
                    assert_eq!(lines[0]["line"]["text"], "steady as she goes", "{lines:?}");
                }
            }
            self.asked.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(80));
        }
    }

    /// The same by superctl, which is a process each time.
    fn look_by_superctl(&self) {
        while self.goes_on() {
            let mut command = std::process::Command::new(SUPERCTL);
            let args = ["status", "steady"];
            let said = run(command.arg("--socket").arg(&self.socket).args(args));
            assert_eq!(said.code, 0, "{said:?}");
            assert!(said.out.contains(&self.steady.to_string()), "{said:?}");
            self.asked.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// One stop after another; each is waited for, and each start. How many.
    fn stop_and_start(&self) -> usize {
        let mut raw = Raw::connect(&self.socket).unwrap();
        let mut stops = 0;
        while self.goes_on() {
            let answer = raw.ask(&json!({"do": "stop", "service": "web", "wait": true}));
            assert_eq!(answer.len(), 1, "{answer:?}");
            assert_eq!(answer[0]["ok"], true, "{answer:?}");
            assert_eq!(answer[0]["verdict"], "clean-after-escalation", "{answer:?}");
            stops += 1;
            let began = self.starts();
            let answer = raw.ask(&json!({"do": "start", "service": "web", "wait": true}));
            assert_eq!(answer[0]["ok"], true, "{answer:?}");
            self.asked.fetch_add(2, Ordering::SeqCst);
            // Before it has its handlers any signal would end it.
            wait_until("it has begun", || self.starts() > began);
        }
        stops
    }

    /// Asks for stops that are under way, on top: absorbed, and answered with the time left.
    fn stop_again(&self) {
        let mut raw = Raw::connect(&self.socket).unwrap();
        while self.goes_on() {
            let status = raw.ask(&json!({"do": "status", "service": "web"}));
            if status[0]["status"]["state"] == "stopping" {
                let request = json!({"do": "reload", "service": "web"});
                let answer = raw.ask(&request);
                assert_eq!(answer[0]["ok"], false, "{answer:?}");
                assert_eq!(answer[0]["code"], "refused", "{answer:?}");
            }
            self.asked.fetch_add(2, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(100));
        }
    }
}

const UPGRADES: usize = 100;

#[test]
fn a_hundred_upgrades_under_load_and_nobody_gets_a_wrong_answer() {
    let toml = scribe("web", "USR2")
        + THREE
        + "[service.steady]\ncommand = [\"/bin/sh\", \"-c\", \"echo steady as she goes; exec sleep 10000\"]\n";
    let superd = Superd::start(&toml);
    superd.wait_record("web", "start", 1);
    superd.wait_state("web", "up");
    superd.wait_state("steady", "up");
    wait_until("it has spoken", || {
        superd.ok(&["logs", "steady"]).contains("steady as")
    });
    let load = Load {
        socket: superd.place.socket(),
        record: superd.place.file("web.record"),
        steady: superd.pid_of("steady"),
        over: Arc::new(AtomicBool::new(false)),
        asked: Arc::default(),
    };
    let began = monotonic();
    let (mut done, mut stops) = (0, 0);
    thread::scope(|s| {
        let l = &load;
        for seed in 0..4 {
            s.spawn(move || l.look(seed));
        }
        s.spawn(|| l.look_by_superctl());
        s.spawn(|| l.stop_again());
        let stopping = s.spawn(|| l.stop_and_start());
        let upgrading = s.spawn(|| {
            for _ in 0..UPGRADES {
                upgrade(&superd);
                done += 1;
                // So that there is time for the others, too.
                thread::sleep(Duration::from_millis(30));
            }
        });
        let upgraded = upgrading.join();
        load.over.store(true, Ordering::SeqCst);
        stops = stopping.join().unwrap();
        upgraded.unwrap();
    });
    let took = (monotonic() - began) as f64 / 1e9;
    let asked = load.asked.load(Ordering::SeqCst);
    tell(&format!(
        "upgrades: {done} in {took:.1} s, {asked} requests ({:.0}/s), {stops} stops, none answered wrongly",
        asked as f64 / took
    ));
    assert_eq!((done, upgrades(&superd)), (UPGRADES, UPGRADES));
    assert!(stops >= 3, "{stops}");
    assert_eq!(superd.pid_of("steady"), load.steady);
    superd.ok(&["stop", "web"]);
    let record = superd.record("web");
    judge(&record, "a hundred upgrades");
    for signal in ["start", "TERM", "INT", "USR2", "end"] {
        assert_eq!(record.count(signal), stops + 1, "{signal}: {record:?}");
    }
    superd.end();
}
