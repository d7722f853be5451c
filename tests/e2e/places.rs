//! Where superd runs: run directories of every kind, PID 1, no log daemon, a log daemon that
//! comes and goes, and clocks.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::*;

const WEB: &str = r#"
    [service.web]
    command = [$TWIN:web, "obey"]
"#;

/// superd in a mount namespace of its own, after `script` has been run in it. The pid stays
/// the one of the child.
fn in_namespace(place: &Place, script: &str) -> Command {
    let superd = place.superd_args();
    let mut args: Vec<String> = ["unshare", "-m", "sh", "-ec"].map(str::to_owned).to_vec();
    args.push(format!("{}\nexec \"$@\"", place.expand(script)));
    args.push("sh".to_owned());
    args.extend(superd);
    place.command(&args)
}

fn namespaces_or_skip(name: &str) -> bool {
    root_or_skip(name) && program_or_skip(name, "unshare") && {
        let works = run(Command::new("unshare").args(["-pfm", "--mount-proc", "true"]));
        if works.code != 0 {
            skip(name, &format!("no namespaces here: {}", works.err.trim()));
        }
        works.code == 0
    }
}

#[test]
fn without_cgroups_and_proc_superd_says_what_it_cannot_see() {
    if !namespaces_or_skip("without_cgroups_and_proc_superd_says_what_it_cannot_see") {
        return;
    }
    let place = Place::new();
    place.configure(Flavour::NoCgroups, WEB);
    // The client and the test see /proc, superd does not.
    let command = in_namespace(&place, "umount -l /proc");
    let s = Superd::launch(place, command);
    s.wait_record("web", "start", 1);
    let blind = "neither cgroups nor /proc: what a service leaves behind is not found";
    assert!(s.place.log().contains(blind), "{}", s.place.log());
    let doctor = s.ctl(&["doctor"]);
    assert!(doctor.out.contains(blind), "{doctor:?}");
    assert_eq!(s.ctl(&["stop", "web"]).code, 0);
    s.end();
}

in_both_flavours! {
    fn with_hardly_any_descriptor_superd_goes_on_and_leaves_nothing_behind(flavour: Flavour) {
        let place = Place::new();
        place.configure(flavour, WEB);
        let mut args: Vec<String> = ["sh", "-ec", "ulimit -n 20\nexec \"$@\"", "sh"]
            .map(str::to_owned)
            .to_vec();
        args.extend(place.superd_args());
        let command = place.command(&args);
        let mut s = Superd::launch_unheard(place, command);
        wait_until("a start, or why there is none", || {
            let log = s.place.log();
            log.contains("web: up") || log.contains("Too many open files")
        });
        s.signal(libc::SIGTERM);
        assert_eq!(s.wait().code(), Some(0));
        assert_eq!(s.place.cgroups(), [""; 0].map(std::path::PathBuf::from));
        s.assert_nothing_left();
    }
}

#[test]
fn a_second_superd_is_refused_in_one_line() {
    let s = Superd::start(WEB);
    s.wait_record("web", "start", 1);
    let said = run(Command::new(SUPERD)
        .arg("--config")
        .arg(s.place.file("superd.toml")));
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
    assert!(said.err.contains(&format!("pid {}", s.pid)), "{said:?}");
    s.assert_starts("web", 1);
    s.wait_state("web", "up");
    s.end();
}

in_both_flavours! {
    // Issue 4: any user could, and then no successor came up.
    fn nobody_else_can_hold_the_locks_of_superd(flavour: Flavour) {
        let s = Superd::start_in(flavour, WEB);
        s.wait_record("web", "start", 1);
        let mut places = s.place.cgroups();
        assert_eq!(places.is_empty(), flavour != Flavour::Cgroups, "{places:?}");
        places.push(s.place.file("run"));
        for place in places {
            let mode = std::fs::metadata(&place).unwrap().permissions().mode();
            assert_eq!(mode & 0o044, 0, "{}: {mode:o}", place.display());
        }
        s.end();
    }

    fn a_run_dir_that_is_removed_or_moved_away_comes_back(flavour: Flavour) {
        let s = Superd::start_in(flavour, WEB);
        s.wait_record("web", "start", 1);
        let pid = s.pid_of("web");
        let run_dir = s.place.file("run");
        let second = || {
            run(Command::new(SUPERD)
                .arg("--config")
                .arg(s.place.file("superd.toml")))
        };
        let works_again = |what: &str| {
            wait_until(what, || {
                let asked = json!({"do": "status", "service": "web"});
                let raw = Raw::connect(&s.place.socket()).ok();
                let answer = raw.and_then(|mut raw| raw.try_ask(&asked));
                answer.is_some_and(|a| a[0]["status"]["pid"] == pid)
            });
            wait_until("the notify socket", || run_dir.join("notify").exists());
            let said = second();
            assert_eq!((said.code, said.err.lines().count()), (1, 1), "{said:?}");
            assert!(said.err.contains(&format!("pid {}", s.pid)), "{said:?}");
        };
        // While superd stands still, so that it cannot come in between.
        s.signal(libc::SIGSTOP);
        wait_until("it stands still", || state_of(s.pid) == Some('T'));
        std::fs::remove_dir_all(&run_dir).unwrap();
        if flavour == Flavour::Cgroups {
            // The directory is free, the services are not.
            let said = second();
            assert_eq!((said.code, said.err.lines().count()), (1, 1), "{said:?}");
            assert!(said.err.contains("another superd"), "{said:?}");
        }
        s.signal(libc::SIGCONT);
        works_again("after the removal");
        std::fs::rename(&run_dir, s.place.file("elsewhere")).unwrap();
        works_again("after the move");
        std::fs::remove_file(s.place.socket()).unwrap();
        works_again("after the loss of the socket");
        assert!(s.place.log().contains("was removed"), "it is told");
        s.assert_starts("web", 1);
        s.ok(&["stop", "web"]);
        s.end();
    }
}

#[test]
fn a_configuration_with_problems_starts_nothing() {
    let place = Place::new();
    place.configure(
        Flavour::NoCgroups,
        "[service.web]\ncommand = []\nnice = 99\n",
    );
    let said = run(Command::new(SUPERD)
        .arg("--config")
        .arg(place.file("superd.toml")));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.lines().count() >= 2, "all problems: {said:?}");
    assert!(
        said.err.lines().all(|l| l.starts_with("superd: ")),
        "{said:?}"
    );
    let missing = run(Command::new(SUPERD).args(["--config", "/no/such/file"]));
    assert_eq!(missing.code, 1);
    assert_eq!(missing.err.lines().count(), 1, "{missing:?}");
}

#[test]
fn what_others_can_write_is_refused() {
    let name = "what_others_can_write_is_refused";
    if !root_or_skip(name) {
        return;
    }
    let place = Place::new();
    place.configure(Flavour::NoCgroups, WEB);
    let config = place.file("superd.toml");
    let open = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&config, open).unwrap();
    let said = run(Command::new(SUPERD).arg("--config").arg(&config));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("write"), "{said:?}");
    let closed = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&config, closed).unwrap();
    std::fs::create_dir(place.file("run")).unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(place.file("run"), open).unwrap();
    let said = run(Command::new(SUPERD).arg("--config").arg(&config));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("run-dir"), "{said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
}

#[test]
fn a_stale_socket_is_replaced_and_the_services_outlive_a_killed_superd() {
    let mut s = Superd::start(WEB);
    let main = s.wait_record("web", "start", 1).first("start").pid;
    s.kill();
    assert!(s.place.socket().exists());
    let pidfd = Pidfd::of(main).unwrap();
    assert!(!pidfd.wait(Duration::ZERO), "the service went with superd");
    let stale = run(&mut s.ctl_command(&["status"]));
    assert_eq!(
        stale.code, 4,
        "status of what nobody answers for: {stale:?}"
    );
    assert_eq!(run(&mut s.ctl_command(&["stop", "web"])).code, 7);
    kill(main, libc::SIGKILL);
    assert!(pidfd.wait(LIMIT));
    let command = s.place.command(&s.place.superd_args());
    let place = std::mem::replace(&mut s.place, Place::new());
    let next = Superd::launch(place, command);
    next.wait_record("web", "start", 2);
    next.end();
}

#[test]
fn after_a_killed_superd_there_are_never_two() {
    let name = "after_a_killed_superd_there_are_never_two";
    if !cgroups_or_skip(name) {
        return;
    }
    let mut s = Superd::start_in(Flavour::Cgroups, WEB);
    let old = s.wait_record("web", "start", 1).first("start").pid;
    let pidfd = Pidfd::of(old).unwrap();
    s.kill();
    assert!(!pidfd.wait(Duration::ZERO));
    let command = s.place.command(&s.place.superd_args());
    let place = std::mem::replace(&mut s.place, Place::new());
    let next = Superd::launch(place, command);
    next.wait_state("web", "up");
    let pid = next.pid_of("web");
    assert!(
        pid == old || pidfd.wait(Duration::ZERO),
        "the old one lives, too"
    );
    next.end();
}

/// The service runs, superd ends as it should, and what it could not have is said.
fn runs_without_a_run_dir(name: &str, mount: &str, complaint: &str) {
    if !namespaces_or_skip(name) {
        return;
    }
    let place = Place::new();
    place.configure(Flavour::NoCgroups, WEB);
    std::fs::create_dir(place.file("run")).unwrap();
    let command = in_namespace(&place, mount);
    let mut s = Superd::launch_unheard(place, command);
    s.wait_record("web", "start", 1);
    let log = s.place.log();
    let lines: Vec<&str> = log.lines().filter(|l| l.contains("socket")).collect();
    assert!(lines.iter().any(|l| l.contains(complaint)), "{log}");
    for what in ["the journal cannot be written", "web.out", "/starting: "] {
        let said = log.lines().filter(|l| l.contains(what));
        let said: Vec<&str> = said.filter(|l| l.contains(complaint)).collect();
        assert_eq!(said.len(), 1, "{what}: {log}");
    }
    s.signal(libc::SIGHUP);
    // Issue 5: superctl said that no superd runs.
    let said = run(Command::new("nsenter")
        .arg("-m")
        .arg(format!("-t{}", s.pid))
        .args([SUPERCTL, "--socket"])
        .arg(s.place.socket())
        .args(["stop", "web"]));
    let runs = format!(
        "superctl: superd runs, but does not listen on {}",
        s.place.socket().display()
    );
    assert!(said.code == 1 && said.err.starts_with(&runs), "{said:?}");
    s.signal(libc::SIGTERM);
    assert_eq!(s.wait().code(), Some(0));
    assert_eq!(s.record("web").count("signal TERM"), 1);
    s.assert_nothing_left();
}

#[test]
fn a_full_run_dir_does_not_keep_the_services_from_running() {
    runs_without_a_run_dir(
        "a_full_run_dir_does_not_keep_the_services_from_running",
        "mount -t tmpfs -o size=16k,nr_inodes=2,mode=755 tmpfs $DIR/run; \
         head -c 64k /dev/zero >$DIR/run/filler || true",
        "No space left",
    );
}

#[test]
fn a_read_only_run_dir_does_not_keep_the_services_from_running() {
    runs_without_a_run_dir(
        "a_read_only_run_dir_does_not_keep_the_services_from_running",
        "mount -t tmpfs -o ro,mode=755 tmpfs $DIR/run",
        "Read-only",
    );
}

#[test]
fn a_run_dir_without_room_for_data_has_room_for_sockets() {
    let name = "a_run_dir_without_room_for_data_has_room_for_sockets";
    if !namespaces_or_skip(name) {
        return;
    }
    let place = Place::new();
    place.configure(Flavour::NoCgroups, WEB);
    std::fs::create_dir(place.file("run")).unwrap();
    let script = "mount -t tmpfs -o size=16k,nr_inodes=20,mode=755 tmpfs $DIR/run
        head -c 64k /dev/zero >$DIR/run/filler || true";
    let command = in_namespace(&place, script);
    let s = Superd::launch_unheard(place, command);
    s.wait_record("web", "start", 1);
    // The socket is in the other namespace, and so must superctl be.
    let inside = |args: &[&str]| {
        run(Command::new("nsenter")
            .arg("-m")
            .arg(format!("-t{}", s.pid))
            .arg(SUPERCTL)
            .arg("--socket")
            .arg(s.place.socket())
            .args(args))
    };
    wait_until("superd answers", || inside(&["status", "web"]).code == 0);
    let doctor = || {
        let said = inside(&["doctor"]).out;
        let line = said
            .lines()
            .find(|l| l.contains("journal"))
            .map(str::to_owned);
        line.unwrap_or(said)
    };
    assert!(
        doctor().contains("cannot be written: No space left"),
        "{}",
        doctor()
    );
    let root = format!("/proc/{}/root", s.pid);
    std::fs::remove_file(format!("{root}{}", s.place.file("run/filler").display())).unwrap();
    wait_until("the journal is written", || {
        s.place.log().contains("the journal is written again")
    });
    assert!(doctor().ends_with("is written"), "{}", doctor());
    assert_eq!(inside(&["stop", "web"]).code, 0);
    assert_eq!(s.record("web").count("signal TERM"), 1);
    s.end();
}

#[test]
fn a_full_disk_costs_a_log_file_its_lines_and_nothing_else() {
    let name = "a_full_disk_costs_a_log_file_its_lines_and_nothing_else";
    if !namespaces_or_skip(name) {
        return;
    }
    let place = Place::new();
    place.configure(
        Flavour::NoCgroups,
        r#"
        [service.parrot]
        command = ["/bin/bash", "-c", "mkfifo $DIR/say; exec 3<>$DIR/say; while read -r l <&3; do echo $l; done"]
        output = { file = "$DIR/disk/parrot.log", max-size = "16KiB", keep = 1 }
        [service.web]
        command = [$TWIN:web, "obey"]
        "#,
    );
    std::fs::create_dir(place.file("disk")).unwrap();
    let script = "mount -t tmpfs -o size=64k,mode=755 tmpfs $DIR/disk
        head -c 100k /dev/zero >$DIR/disk/filler || true";
    let command = in_namespace(&place, script);
    let s = Superd::launch(place, command);
    let disk = |name: &str| {
        let seen = s.place.file(&format!("disk/{name}"));
        std::path::PathBuf::from(format!("/proc/{}/root{}", s.pid, seen.display()))
    };
    let say = |line: &str| {
        let fifo = std::fs::OpenOptions::new()
            .write(true)
            .open(s.place.file("say"));
        writeln!(fifo.unwrap(), "{line}").unwrap();
    };
    wait_until("the parrot listens", || s.place.file("say").exists());
    // More than its pipe and its file could hold.
    for n in 0..2_000 {
        say(&format!("line {n}: {}", "x".repeat(100)));
    }
    wait_until("the parrot has said it all", || {
        s.ok(&["logs", "-n", "1", "parrot"]).contains("line 1999:")
    });
    let full = "log file $DIR/disk/parrot.log: writing: No space left on device";
    let full = s.place.expand(full);
    let said = |text: &str| s.place.log().matches(text).count();
    assert_eq!(said(&full), 1, "{}", s.place.log());
    // Others do not notice, and there is no line of which a part is missing.
    assert_eq!(s.state("web"), "up");
    std::fs::remove_file(disk("filler")).unwrap();
    wait_until("the file is written again", || {
        say("room");
        let text = std::fs::read_to_string(disk("parrot.log")).unwrap();
        text.ends_with("room\n")
    });
    assert_eq!(said("parrot.log: written again; "), 1);
    let text = std::fs::read_to_string(disk("parrot.log")).unwrap();
    let is_whole = |line: &str| line == "room" || line.ends_with('x') && line.len() > 100;
    assert!(text.lines().all(is_whole), "{text}");
    s.ok(&["stop", "parrot"]);
    s.end();
}

#[test]
fn superd_is_a_good_pid_1() {
    let name = "superd_is_a_good_pid_1";
    if !namespaces_or_skip(name) {
        return;
    }
    let place = Place::new();
    place.configure(
        Flavour::NoCgroups,
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        [service.orphans]
        command = ["/bin/sh", "-c", "for i in 1 2 3 4 5; do (/bin/true &) ; done; exec sleep 1000000"]
        [service.tree]
        command = [$TWIN:tree, "tree", "--stubborn"]
        leftover-grace = "10ms"
        "#,
    );
    let mut args: Vec<String> = ["unshare", "-pf", "--mount-proc"]
        .map(str::to_owned)
        .to_vec();
    args.extend(place.superd_args());
    let command = place.command(&args);
    let mut s = Superd::launch(place, command);
    let unshare = s.pid;
    s.pid = *children_of(unshare).iter().next().unwrap();
    s.wait_record("web", "start", 1);
    s.wait_record("tree", "start", 1);
    s.wait_record("tree", "begun", 3);
    s.wait_state("orphans", "up");
    wait_until("the orphans are reaped", || {
        let zombie = |p: &i32| status_field(*p, "State").is_some_and(|s| s.starts_with('Z'));
        !children_of(s.pid).iter().any(zombie)
    });
    s.ctl(&["stop", "tree"]);
    assert_eq!(s.state("tree"), "down");
    let children = children_of(s.pid);
    assert_eq!(children.len(), 2, "{}", describe(&children));
    s.ok(&["stop", "web"]);
    assert_eq!(s.record("web").rest("exit"), ["0"]);
    // A signal from outside reaches PID 1 only if it has a handler for it.
    s.signal(libc::SIGTERM);
    assert_eq!(s.wait().code(), Some(0));
    let left = s.place.processes();
    assert!(left.is_empty(), "{}", describe(&left));
}

/// What came to the log socket, as text.
fn received(socket: &UnixDatagram) -> Vec<String> {
    let mut lines = Vec::new();
    let mut buffer = [0; 70_000];
    while let Ok(n) = socket.recv(&mut buffer) {
        assert!(n <= 1023, "a datagram of {n} bytes");
        lines.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
    }
    lines
}

#[test]
fn the_log_goes_to_syslog_which_may_come_and_go() {
    let name = "the_log_goes_to_syslog_which_may_come_and_go";
    if !namespaces_or_skip(name) {
        return;
    }
    let place = Place::new();
    place.configure(
        Flavour::NoCgroups,
        r#"
        log = "syslog"
        [service.talker]
        command = ["/bin/sh", "-c", "exec 3<>$DIR/say; while read line <&3; do echo $line; done"]
        "#,
    );
    std::fs::create_dir(place.file("dev")).unwrap();
    let said = run(Command::new("mkfifo").arg(place.file("say")));
    assert_eq!(said.code, 0, "{said:?}");
    let script = "mknod $DIR/dev/null c 1 3; chmod 666 $DIR/dev/null; mount --bind $DIR/dev /dev";
    let command = in_namespace(&place, script);
    // No log daemon at first: nothing breaks.
    let s = Superd::launch(place, command);
    s.wait_state("talker", "up");
    let say = |text: &str| std::fs::write(s.place.file("say"), format!("{text}\n")).unwrap();
    let log_socket = || {
        std::fs::remove_file(s.place.file("dev/log")).ok(); // of an earlier life
        let socket = UnixDatagram::bind(s.place.file("dev/log")).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let heard = |socket: &UnixDatagram, text: &str| {
        let mut all: Vec<String> = Vec::new();
        let mut n = 0;
        wait_until(&format!("syslog hears {text}"), || {
            n += 1;
            // What is said while nobody listens may be lost: it is said again.
            if n % 100 == 0 {
                say(text);
            }
            all.extend(received(socket));
            all.iter().any(|l| l.contains(text))
        });
        all
    };
    let first = log_socket();
    say("one");
    let lines = heard(&first, "one");
    let line = lines.iter().find(|l| l.contains("one")).unwrap();
    // RFC 3164: <PRI>Mmm dd hh:mm:ss, then the service as the tag.
    let stamp = line.strip_prefix('<').unwrap().split_once('>').unwrap().1;
    assert_eq!(stamp.as_bytes()[3], b' ', "{line}");
    assert_eq!(stamp.as_bytes()[15], b' ', "{line}");
    assert!(stamp.contains("talker["), "{line}");
    // It goes, and another one comes.
    drop(first);
    say("lost");
    let second = log_socket();
    say("two");
    heard(&second, "two");
    // A long line is cut into datagrams that are not too long.
    say(&"x".repeat(5000));
    say("three");
    heard(&second, "three");
    // A daemon that does not read does not hold anybody up.
    for n in 0..300 {
        say(&format!("unread {n}"));
    }
    assert_eq!(s.state("talker"), "up");
    s.end();
}

/// Loaded into superd alone: from when the file is there, its wall clock is 50 years and 45
/// days ahead. (The machine's clock is not a test's to change.)
const FAKE_CLOCK: &str = r#"
    #define _GNU_SOURCE
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <sys/time.h>
    #include <time.h>
    #include <unistd.h>
    static time_t ahead(void) {
        const char *file = getenv("FAKE_CLOCK");
        return file && access(file, F_OK) == 0 ? (50L * 365 + 45) * 86400 : 0;
    }
    int clock_gettime(clockid_t clock, struct timespec *t) {
        int r = syscall(SYS_clock_gettime, clock, t);
        if (r == 0 && clock == CLOCK_REALTIME) t->tv_sec += ahead();
        return r;
    }
    int gettimeofday(struct timeval *t, void *zone) {
        struct timespec now;
        (void)zone;
        int r = clock_gettime(CLOCK_REALTIME, &now);
        t->tv_sec = now.tv_sec;
        t->tv_usec = now.tv_nsec / 1000;
        return r;
    }
    time_t time(time_t *out) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        if (out) *out = now.tv_sec;
        return now.tv_sec;
    }
"#;

#[test]
fn a_wall_clock_that_jumps_by_50_years_moves_nothing_but_the_stamps() {
    let name = "a_wall_clock_that_jumps_by_50_years_moves_nothing_but_the_stamps";
    if cfg!(target_feature = "crt-static") {
        return skip(name, "needs a superd that loads libraries");
    }
    if !namespaces_or_skip(name) || !program_or_skip(name, "cc") {
        return;
    }
    let place = Place::new();
    let (source, library) = (place.file("clock.c"), place.file("clock.so"));
    std::fs::write(&source, FAKE_CLOCK).unwrap();
    let mut cc = Command::new("cc");
    let built = run(cc
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source));
    assert_eq!(built.code, 0, "{built:?}");
    place.configure(
        Flavour::NoCgroups,
        r#"
        log = "syslog"
        [service.slow]
        command = [$TWIN:slow, "ignore"]
        stop = [{ signal = "TERM", wait = "10m" }]
        [service.loop]
        command = ["/bin/false"]
        restart-delay = "10m"
        max-delay = "10m"
        [service.deaf]
        command = [$TWIN:deaf, "ignore"]
        stop = [{ signal = "TERM", wait = "200ms" }]
        "#,
    );
    std::fs::create_dir(place.file("dev")).unwrap();
    let script = "mknod $DIR/dev/null c 1 3; chmod 666 $DIR/dev/null; mount --bind $DIR/dev /dev";
    let mut command = in_namespace(&place, script);
    command.env("LD_PRELOAD", &library);
    command.env("FAKE_CLOCK", place.file("jumped"));
    let socket = UnixDatagram::bind(place.file("dev/log")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let s = Superd::launch(place, command);
    s.wait_record("slow", "start", 1);
    s.wait_state("slow", "up");
    s.wait_state("loop", "backoff");
    s.ok(&["stop", "--no-wait", "slow"]);
    s.wait_record("slow", "signal TERM", 1);
    // Timers go on as they were set, and one that is set now ends when it should.
    let check = |round: usize| {
        let left = s.status("slow")["stop"]["left_ms"].as_u64().unwrap();
        assert!((400_000..=602_000).contains(&left), "{left} ms left");
        let retry = s.status("loop")["retry_ms"].as_u64().unwrap();
        assert!((400_000..=660_000).contains(&retry), "{retry} ms left");
        s.wait_record("deaf", "start", round);
        s.wait_state("deaf", "up");
        s.ctl(&["stop", "deaf"]);
        let end = s.last_end("deaf");
        assert_eq!(end["verdict"], "killed");
        assert!(end["took"]["secs"].as_u64() < Some(100), "{end}");
        assert!(end["ago_ms"].as_u64() < Some(100_000), "{end}");
        s.ok(&["start", "deaf"]);
        // What comes while nobody reads may be lost: it is done again.
        received(&socket);
        let line = wait_for("syslog hears of it", || {
            s.ok(&["signal", "slow", "CONT"]);
            let mut lines = received(&socket).into_iter();
            lines.find(|l| l.contains("slow: sent CONT"))
        });
        let stamp = line.strip_prefix('<').unwrap().split_once('>').unwrap().1;
        stamp[..3].to_owned()
    };
    let before = check(1);
    std::fs::write(s.place.file("jumped"), "").unwrap();
    let ahead = check(2);
    assert_ne!(before, ahead, "the month of the stamps: it did not jump");
    std::fs::remove_file(s.place.file("jumped")).unwrap();
    check(3);
    assert_eq!(s.record("slow").count("signal TERM"), 1);
    s.ctl(&["stop", "--now", "slow"]);
    s.end();
}

#[test]
fn no_timer_depends_on_the_wall_clock() {
    // It can be seen that nothing waits by the wall clock: every timer is of
    // CLOCK_MONOTONIC, and epoll knows no other.
    let s = Superd::start(
        r#"
        [service.deaf]
        command = [$TWIN:deaf, "ignore"]
        stop = [{ signal = "TERM", wait = "1m" }]
        [service.loop]
        command = ["/bin/false"]
        restart-delay = "1m"
        max-delay = "1m"
        "#,
    );
    s.wait_record("deaf", "start", 1);
    s.wait_state("loop", "backoff");
    s.wait_state("deaf", "up");
    s.ok(&["stop", "--no-wait", "deaf"]);
    s.wait_record("deaf", "signal TERM", 1);
    let mut clocks = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fdinfo", s.pid)).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let clock = text.lines().find_map(|l| l.strip_prefix("clockid:"));
        clocks.extend(clock.map(|c| c.trim().to_owned()));
    }
    assert!(!clocks.is_empty(), "no timer though two things are awaited");
    assert!(clocks.iter().all(|c| c == "1"), "{clocks:?}");
    let timers = std::fs::read_to_string(format!("/proc/{}/timers", s.pid)).unwrap_or_default();
    assert_eq!(timers, "", "timers by signal");
    s.ctl(&["stop", "--now", "deaf"]);
    s.end();
}

#[test]
fn without_a_log_daemon_the_log_says_where_it_goes() {
    let name = "without_a_log_daemon_the_log_says_where_it_goes";
    if !namespaces_or_skip(name) {
        return;
    }
    let place = Place::new();
    let text = format!("log = \"auto\"\n{WEB}");
    place.configure(Flavour::NoCgroups, &text);
    std::fs::create_dir(place.file("dev")).unwrap();
    // Without the last word, which is --foreground.
    let script = "mknod $DIR/dev/null c 1 3; chmod 666 $DIR/dev/null; mount --bind $DIR/dev /dev
        set -- \"$1\" \"$2\" \"$3\"";
    let command = in_namespace(&place, script);
    let s = Superd::launch(place, command);
    let text = "superd: no log daemon takes lines at /dev/log: the log goes to standard error";
    wait_until("it says so", || s.place.log().contains(text));
    assert_eq!(s.place.log().matches(text).count(), 1);
    s.end();
}
