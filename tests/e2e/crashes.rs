//! Crashes: recognised, counted, reported, known. Real children print what real runtimes
//! print, and end as those end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{json, Value};

use crate::support::*;

/// A service that prints this and ends like that, started by hand and not again.
fn says(name: &str, text: &str, then: &str) -> String {
    let script = format!("cat <<'END' >&2\n{text}\nEND\n{then}");
    format!(
        "[service.{name}]\ncommand = [\"/bin/sh\", \"-c\", {}]\nautostart = false\nrestart = \"never\"\n",
        json!(script)
    )
}

const CADDY: &str = "panic: close of closed channel

goroutine 51 [running]:
github.com/caddyserver/caddy/v2/modules/caddytls.(*TLS).Stop(0xc0002be3c0)
\t/root/go/pkg/mod/github.com/caddyserver/caddy/v2@v2.8.4/modules/caddytls/tls.go:338 +0x1e
github.com/caddyserver/caddy/v2.unsyncedStop({{0x21f1da0, 0xc00061c1e0}})
\t/root/go/pkg/mod/github.com/caddyserver/caddy/v2@v2.8.4/caddy.go:692 +0xd7
created by github.com/caddyserver/caddy/v2.trapSignalsPosix in goroutine 1
\t/root/go/pkg/mod/github.com/caddyserver/caddy/v2@v2.8.4/sigtrap_posix.go:34 +0x1f";

impl Superd {
    /// Starts it and waits for its end: the n-th.
    fn crash(&self, service: &str, n: usize) -> Value {
        let run = |ends: &[Value]| ends.last().map(|e| e["instance"].clone());
        let before = run(&self.ends(service));
        self.ctl(&["start", service]); // it may be over before superctl has its answer
        wait_for(&format!("end {n} of {service}"), || {
            let mut ends = self.ends(service);
            // Only so many are remembered.
            let is_new = before.is_some() && run(&ends) != before;
            (ends.len() >= n || is_new).then(|| ends.pop().unwrap())
        })
    }

    fn reports(&self) -> Vec<PathBuf> {
        let dir = self.place.file("crashes");
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|e| e.path()).collect();
        files.retain(|f| f.extension().is_some_and(|e| e == "json"));
        files.sort();
        files
    }

    /// The first report that says what is wanted.
    fn wait_report(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for("a crash report", || {
            let texts = self.reports().into_iter().filter_map(|f| fs::read(f).ok());
            let all = texts.filter_map(|t| serde_json::from_slice::<Value>(&t).ok());
            { all }.find(|r| wanted(r))
        })
    }
}

#[test]
fn every_kind_of_crash_is_recognised_with_its_frames() {
    let python = "Traceback (most recent call last):
  File \"/srv/app.py\", line 12, in <module>
    main()
  File \"/srv/lib.py\", line 3, in main
    raise ValueError(\"no\")
ValueError: no";
    let node = "/srv/index.js:3
throw new Error('boom');
^

Error: boom
    at stop (/srv/index.js:3:7)
    at Module._compile (node:internal/modules/cjs/loader:1554:14)

Node.js v22.14.0";
    let fatal = "fatal error: concurrent map writes

goroutine 7 [running]:
main.(*Registry).Close(...)
\t/src/registry.go:88";
    let recovered = "2026/11/20 10:00:00 http: panic serving 127.0.0.1:5123: boom
goroutine 22 [running]:
net/http.(*conn).serve.func1()
\t/usr/lib/go/src/net/http/server.go:1898 +0xbe";
    let rust = "thread 'main' panicked at src/x.rs:4:5:\nboom";
    let cpp = "terminate called after throwing an instance of 'E'\n  what():  no disk";
    let abort = "kill -ABRT $$";
    let glibc = "double free or corruption (fasttop)";
    let musl = "Assertion failed: x (a.c: main: 3)";
    let no = ("exited-by-itself", "", "");
    let cases = [
        ("go", CADDY, "exit 2", ("crashed", "go-panic", "tls.go:338")),
        (
            "fatal",
            fatal,
            "exit 2",
            ("crashed", "go-fatal", "registry.go:88"),
        ),
        ("recovered", recovered, "exit 2", no),
        ("survived", CADDY, "exit 0", no),
        (
            "rust",
            rust,
            "exit 101",
            ("crashed", "rust-panic", "src/x.rs:4:5"),
        ),
        ("glibc", glibc, abort, ("crashed", "heap-corruption", "")),
        ("musl", musl, abort, ("crashed", "assertion", "")),
        ("cpp", cpp, abort, ("crashed", "c++-terminate", "")),
        (
            "python",
            python,
            "exit 1",
            ("crashed", "python", "lib.py:3"),
        ),
        ("node", node, "exit 1", ("crashed", "node", "index.js:3:7")),
        (
            "segv",
            "all is well",
            "kill -SEGV $$",
            ("crashed", "signal", ""),
        ),
    ];
    let config = cases.map(|(name, text, then, _)| says(name, text, then));
    let s = Superd::start(&config.concat());
    for (name, _, _, (verdict, kind, frame)) in cases {
        let end = s.crash(name, 1);
        assert_eq!(end["verdict"], verdict, "{name}: {end}");
        let said = |what: &str| end["crash"][what].as_str().unwrap_or("");
        assert_eq!(
            (said("kind"), said("frame")),
            (kind, frame),
            "{name}: {end}"
        );
    }
    let frames = json!([
        "caddytls.(*TLS).Stop at tls.go:338",
        "v2.unsyncedStop at caddy.go:692"
    ]);
    assert_eq!(s.last_end("go")["crash"]["frames"], frames);
    assert_eq!(s.last_end("cpp")["crash"]["text"], "no disk");
    // The two that are none have no report.
    wait_until("a report of each crash", || s.reports().len() == 9);
    s.end();
}

#[test]
fn a_real_python_traceback_is_recognised() {
    if !program_or_skip("a_real_python_traceback_is_recognised", "python3") {
        return;
    }
    let s = Superd::start(
        r#"
        [service.snake]
        command = ["python3", "-c", "def stop():\n  {}['x']\nstop()"]
        autostart = false
        restart = "never"
        "#,
    );
    let end = s.crash("snake", 1);
    assert_eq!(end["crash"]["kind"], "python", "{end}");
    assert_eq!(end["crash"]["text"], "KeyError: 'x'", "{end}");
    s.end();
}

#[test]
fn a_repeat_is_counted_over_superd_s_own_end_and_told() {
    let s = Superd::start(&says("caddy", CADDY, "exit 2"));
    for n in 1..=3 {
        assert_eq!(s.crash("caddy", n)["repeat"]["count"], n);
    }
    let report = s.wait_report(|_| true);
    assert_eq!(report["v"], 1);
    assert_eq!(report["service"], "caddy");
    assert_eq!(report["end"]["exit"], json!({"code": 2}));
    assert_eq!(report["end"]["verdict"], "crashed");
    assert_eq!(report["dump"][0], "panic: close of closed channel");
    let file = s.reports().pop().unwrap();
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&s.place.file("crashes")), 0o700);
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with("caddy."), "{name}");

    // Two were held back; they are written at the end.
    let place = s.end();
    let bytes = fs::read(place.file("crashes").join(&name)).unwrap();
    let report: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(report["count"], 3);

    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    let listed = s.ok(&["crashes"]);
    assert!(listed.contains("3rd time since "), "{listed}");
    for n in 1..=4 {
        s.crash("caddy", n);
    }
    let why = s.ok(&["why", "caddy"]);
    // Since today, or since yesterday's day of the week if it is midnight just now.
    let repeated = |l: &&str| l.contains("repeated    7th time since ");
    let repeated = why
        .lines()
        .find(repeated)
        .unwrap_or_else(|| panic!("{why}"));
    assert!(repeated.ends_with(", always at tls.go:338"), "{why}");
    assert!(
        why.contains("frames      caddytls.(*TLS).Stop at tls.go:338\n"),
        "{why}"
    );
    assert!(s.place.log().contains("; 7th time"), "{}", s.place.log());
    let all = s.ok(&["why", "--all", "caddy"]);
    assert!(all.contains("\ncrash report "), "{all}");
    assert!(all.contains("whole text  | panic: "), "{all}");
    let lines = s.ctl(&["crashes", "caddy", "--json"]).json();
    assert_eq!(lines[0]["crash"]["count"], 7, "{lines:?}");
    assert_eq!(s.ctl(&["crashes", "nobody"]).code, 6);
    s.end();
}

#[test]
fn a_damaged_report_is_set_aside_and_a_hopeless_directory_fails_nothing() {
    let s = Superd::start(&says("caddy", CADDY, "exit 2"));
    s.crash("caddy", 1);
    s.wait_report(|_| true);
    let file = s.reports().pop().unwrap();
    let place = s.end();
    fs::write(&file, b"{\"v\":1,").unwrap();
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    assert_eq!(s.crash("caddy", 1)["repeat"]["count"], 1);
    wait_until("the damage is told", || {
        s.place.log().contains("set aside as")
    });
    s.wait_report(|r| r["count"] == 1);
    s.end();

    // Nothing can be made in there, not even by root.
    let caddy = says("caddy", CADDY, "exit 2");
    let s = Superd::start(&format!("crash-dir = \"/proc/superd-e2e\"\n{caddy}"));
    for n in 1..=3 {
        assert_eq!(s.crash("caddy", n)["repeat"]["count"], n);
    }
    let told = || s.place.log().matches("goes on without them").count();
    wait_until("it is told", || told() > 0);
    let doctor = s.ok(&["doctor"]);
    assert!(doctor.contains("could not be written"), "{doctor}");
    assert_eq!(told(), 1);
    s.end();
}

#[test]
fn a_known_fault_is_told_and_a_bad_file_of_them_changes_nothing() {
    let s = Superd::start(&says("caddy", CADDY, "exit 2"));
    let file = s.place.file("known-faults.toml");
    let write = |text: &str| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        s.ok(&["reload"]);
    };
    let missing = s.crash("caddy", 1);
    assert_eq!(missing["known"], Value::Null, "the file is missing");
    write(include_str!("../../etc/known-faults.toml"));
    let crashes = s.ok(&["crashes"]);
    let today = "known fault: Caddy 2.7.0 to 2.9.0: ";
    assert!(crashes.contains(today), "also of the one before: {crashes}");
    let known = s.crash("caddy", 2)["known"].as_str().unwrap().to_owned();
    assert!(known.starts_with("Caddy 2.7.0 to 2.9.0: "), "{known}");
    assert!(known.contains("caddyserver/caddy/issues/6707"), "{known}");
    write("[[fault]]\nnaem = \"x\"\n");
    let bad = format!("{}:1:1: ", file.display());
    wait_until("the mistake is told", || s.place.log().contains(&bad));
    assert_eq!(s.crash("caddy", 3)["known"], known.as_str());
    let why = s.ok(&["why", "caddy"]);
    assert!(why.contains(&format!("known fault {known}\n")), "{why}");
    let config = s.place.file("superd.toml").display().to_string();
    let check = s.ctl(&["check", "--config", &config]);
    let said = format!("{}{}", check.out, check.err);
    assert!(said.contains("did you mean `name`?"), "{said}");
    s.end();
}

#[test]
fn a_stuck_go_program_s_goroutines_and_what_it_waits_for_are_in_the_report() {
    let s = Superd::start(
        r#"
        [service.dumps]
        command = [$TWIN:dumps, "godump"]
        stop = [{ signal = "TERM", wait = "50ms" }, { signal = "QUIT", wait = "10m" }]
        [service.stays]
        command = [$TWIN:stays, "godump", "--stay", "--listen", "$HOST:2190"]
        stop = [{ signal = "TERM", wait = "50ms" }, { signal = "QUIT", wait = "500ms" }]
        "#,
    );
    s.wait_record("dumps", "start", 1);
    s.wait_record("stays", "start", 1);
    s.ok(&["stop", "dumps"]);
    let end = s.last_end("dumps");
    let asked_for = "clean-after-escalation";
    assert_eq!(end["verdict"], asked_for, "{end}");
    assert_eq!(end["crash"]["kind"], "go-dump");
    assert_eq!(end["stuck"], Value::Null, "it was not killed");
    let report = s.wait_report(|r| r["service"] == "dumps");
    assert_eq!(report["crash"]["frame"], "stop.go:44", "{report}");
    let dump = report["dump"].as_array().unwrap();
    assert_eq!(dump[0], "SIGQUIT: quit");
    let last = "\t/src/worker.go:9 +0x1d";
    assert!(dump.len() > 80 && dump.last().unwrap() == last, "{report}");

    s.ok(&["stop", "stays"]);
    let end = s.last_end("stays");
    assert_eq!(end["verdict"], "killed", "{end}");
    let report = s.wait_report(|r| r["service"] == "stays");
    assert_eq!(report["crash"]["kind"], "go-dump");
    let stuck = report["end"]["stuck"].as_array().unwrap();
    assert_eq!(stuck.len(), 1, "{report}");
    assert_eq!(stuck[0]["name"], "twin");
    assert_eq!(stuck[0]["state"], "S");
    assert_eq!(stuck[0]["threads"], 1);
    assert_eq!(stuck[0]["listens"], json!(["tcp/2190"]), "{report}");
    let steps = report["end"]["steps"].as_array().unwrap();
    assert!(
        steps[0]["what"].as_str().unwrap().starts_with("TERM"),
        "{report}"
    );
    assert_eq!(steps[1]["outcome"], "timed-out", "{report}");
    let why = s.ok(&["why", "stays"]);
    assert!(why.contains("(twin): sleeping"), "{why}");
    assert!(why.contains("listens on tcp/2190"), "{why}");
    let dump = "dump        go-dump: SIGQUIT: quit, in stop.go:44";
    assert!(why.contains(dump), "{why}");
    s.end();
}

in_both_flavours! {
    fn every_process_of_a_stuck_tree_is_looked_at_before_it_is_killed(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.tree]
            command = [$TWIN:tree, "tree", "--stubborn"]
            stop = [{ signal = "USR1", wait = "300ms" }]
            "#,
        );
        s.wait_record("tree", "start", 1);
        wait_until("the tree is complete", || s.status("tree")["processes"] == 4);
        s.ok(&["stop", "tree"]);
        let end = s.last_end("tree");
        assert_eq!(end["verdict"], "killed", "{end}");
        assert_eq!(end["stuck"].as_array().unwrap().len(), 4, "{end}");
        let report = s.wait_report(|r| r["service"] == "tree");
        assert_eq!(report["crash"]["kind"], "stuck");
        assert_eq!(report["end"]["stuck"], end["stuck"]);
        s.end();
    }
}

#[test]
fn crash_reports_can_be_switched_off() {
    let caddy = says("caddy", CADDY, "exit 2");
    let s = Superd::start(&format!("crash-reports = false\n{caddy}"));
    s.crash("caddy", 1);
    let second = s.crash("caddy", 2);
    assert_eq!(second["repeat"]["count"], 2, "counted all the same");
    let crashes = s.ok(&["crashes"]);
    let told = "caddy: go-panic: close of closed channel";
    assert!(crashes.contains(told), "{crashes}");
    let place = s.end();
    assert!(!place.file("crashes").exists());
}

#[test]
fn a_crash_that_happens_again_is_written_again_after_the_pause() {
    let caddy = says("caddy", CADDY, "exit 2");
    let s = Superd::start(&format!("crash-pause = \"300ms\"\n{caddy}"));
    s.crash("caddy", 1);
    s.wait_report(|r| r["count"] == 1);
    let mut n = 1;
    wait_until("one of the next is written", || {
        n += 1;
        s.crash("caddy", n);
        let texts = s.reports().into_iter().map(|f| fs::read(f).unwrap());
        let mut reports = texts.map(|t| serde_json::from_slice::<Value>(&t).unwrap());
        reports.any(|r| r["count"].as_u64() > Some(1))
    });
    assert_eq!(s.reports().len(), 1);
    s.end();
    // Within it the first is all there is, until superd ends.
    let s = Superd::start(&format!("crash-pause = \"10m\"\n{caddy}"));
    for n in 1..=4 {
        s.crash("caddy", n);
    }
    let report = s.wait_report(|_| true);
    assert_eq!(report["count"], 1);
    let file = s.reports().pop().unwrap();
    let _place = s.end();
    let report: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(report["count"], 4);
}

#[test]
fn different_crashes_without_end_leave_no_more_files_than_configured() {
    // Each run prints the first letter that was not printed yet.
    let script = "for x in a b c d e f; do [ -e $DIR/$x ] || break; done; touch $DIR/$x; \
                  echo \"panic: $x\"; echo; echo 'goroutine 1 [running]:'; exit 2";
    let s = Superd::start(&format!(
        "crash-keep = 2\n[service.many]\ncommand = [\"/bin/sh\", \"-c\", {}]\n\
         autostart = false\nrestart = \"never\"\n",
        json!(script)
    ));
    for n in 1..=6 {
        let end = s.crash("many", n);
        assert_eq!(end["repeat"]["count"], 1, "each is another one: {end}");
    }
    let known = s.ctl(&["crashes", "--json"]).json();
    let known = known.iter().filter(|l| l["crash"].is_object());
    assert_eq!(known.count(), 4, "two on disk, two in memory");
    // What may not be written has driven out nothing that was.
    let place = s.end();
    let mut files: Vec<String> = fs::read_dir(place.file("crashes"))
        .unwrap()
        .map(|e| fs::read_to_string(e.unwrap().path()).unwrap())
        .collect();
    files.sort_unstable_by_key(|text| text.contains("\"text\":\"b\""));
    assert_eq!(files.len(), 2);
    assert!(files[0].contains("\"text\":\"a\""), "{}", files[0]);
    assert!(files[1].contains("\"text\":\"b\""), "{}", files[1]);
}

/// A memory cgroup of version 1 below our own in which a process has little room.
struct Narrow(PathBuf);

impl Narrow {
    fn new(name: &str) -> Option<Narrow> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = groups.lines().find_map(|l| l.split_once(":memory:"))?.1;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mount = mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let is_it = right.starts_with("cgroup ") && right.ends_with("memory");
            is_it.then(|| left.split(' ').nth(4).map(PathBuf::from))?
        })?;
        let dir = mount.join(own.trim_start_matches('/')).join(name);
        fs::create_dir(&dir).ok()?;
        let narrow = Narrow(dir);
        let limit = (16 * 1024 * 1024).to_string();
        fs::write(narrow.0.join("memory.limit_in_bytes"), limit).ok()?;
        Some(narrow)
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        // A process that was killed in it may still be ending.
        let until = std::time::Instant::now() + LIMIT;
        while fs::remove_dir(&self.0).is_err() && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_kill_of_the_kernel_for_want_of_memory_is_told_from_somebody_s() {
    let name = "a_kill_of_the_kernel_for_want_of_memory_is_told_from_somebody_s";
    if !root_or_skip(name) {
        return;
    }
    let s = Superd::start(
        r#"
        [service.eater]
        command = [$TWIN:eater, "eat", "64", "--gate", "$DIR/gate"]
        restart = "never"
        autostart = false
        "#,
    );
    // By a person.
    s.ok(&["start", "eater"]);
    s.wait_record("eater", "start", 1);
    kill(s.pid_of("eater"), libc::SIGKILL);
    wait_until("its end", || s.ends("eater").len() == 1);
    assert_eq!(s.last_end("eater")["crash"], Value::Null);
    assert_eq!(s.verdict("eater"), "crashed");

    let Some(narrow) = Narrow::new(&s.place.mark) else {
        skip(name, "needs a memory cgroup of version 1 that is writable");
        s.end();
        return;
    };
    s.ok(&["start", "eater"]);
    s.wait_record("eater", "start", 2);
    let pid = s.pid_of("eater");
    fs::write(narrow.0.join("cgroup.procs"), pid.to_string()).unwrap();
    fs::write(s.place.file("gate"), b"").unwrap();
    wait_until("its end", || s.ends("eater").len() == 2);
    let killed = format!("Killed process {pid} (");
    if kernel_log().is_some_and(|log| log.contains(&killed)) {
        let end = s.last_end("eater");
        assert_eq!(end["crash"]["kind"], "out-of-memory", "{end}");
        assert_eq!(end["verdict"], "crashed");
    } else {
        skip(name, "the kernel's log does not tell");
    }
    drop(narrow);
    s.end();
}

/// The end of the kernel's log, if it may be read.
fn kernel_log() -> Option<String> {
    let mut buffer = vec![0_u8; 64 * 1024];
    let length = buffer.len() as i32;
    // SAFETY: SYSLOG_ACTION_READ_ALL writes at most as many bytes as the buffer is long.
    let n = unsafe { libc::klogctl(3, buffer.as_mut_ptr().cast(), length) };
    buffer.truncate(usize::try_from(n).ok()?);
    Some(String::from_utf8_lossy(&buffer).into_owned())
}
