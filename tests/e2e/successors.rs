//! superd's own death is no outage: it is killed, and the next one goes on.
//!
//! The services write down their starts and every signal they get, so what is checked here
//! is what reached them: no second instance, no signal twice, nothing left in the end.

use crate::support::*;
use serde_json::json;
use std::fs;

/// A service that writes its starts (and `two`, if the one before is there) and each TERM, INT and USR1 it gets into `NAME.record`,
/// and ends by USR2 or TERM as it is told.
pub fn scribe(name: &str, ends_by: &str) -> String {
    // One shell, no child that would be left behind: it sleeps in `read` on a FIFO of its own.
    let script = format!(
        "note() {{ echo \"0 $$ $1\" >> $DIR/{name}.record; }}; \
         for s in TERM INT USR1 USR2; do \
           if [ $s = {ends_by} ]; then trap \"note $s; note end; exit 0\" $s; \
           else trap \"note $s\" $s; fi; done; \
         mkfifo $DIR/{name}.$$ && exec 3<>$DIR/{name}.$$ && rm $DIR/{name}.$$; \
         o=; {{ while read -r _ p w; do [ $w = start ] && o=$p; done < $DIR/{name}.record; \
         [ $o ] && read -r _ _ st _ < /proc/$o/stat && [ $st != Z ] && note two; }} 2>/dev/null; \
         note start; while :; do read -r _ <&3; done"
    );
    let script = script.replace('\\', "\\\\").replace('"', "\\\"");
    format!("[service.{name}]\ncommand = [\"/bin/bash\", \"-c\", \"{script}\"]\n")
}

const THREE: &str = "stop = [\n\
    { signal = \"TERM\", wait = \"1s\" },\n\
    { signal = \"INT\", wait = \"1s\" },\n\
    { signal = \"USR2\", wait = \"20s\" },\n]\n";

fn once(superd: &Superd, name: &str, what: &str) {
    let record = superd.record(name);
    assert_eq!(record.count(what), 1, "{what}: {record:?}");
}

in_both_flavours! {
    fn services_run_on_while_superd_is_away(flavour: Flavour) {
        let toml = scribe("one", "TERM") + &scribe("two", "TERM");
        let superd = Superd::start_in(flavour, &toml);
        superd.wait_record("one", "start", 1);
        superd.wait_record("two", "start", 1);
        let pids = [superd.pid_of("one"), superd.pid_of("two")];
        let superd = superd.succeed();
        for (name, pid) in ["one", "two"].iter().zip(pids) {
            let status = superd.status(name);
            assert_eq!(status["state"], "up");
            assert_eq!(status["pid"], pid);
            assert_eq!(status["adopted"], true);
            once(&superd, name, "start");
        }
        assert!(superd.ok(&["status", "one"]).contains("adopted"));
        assert!(superd.ok(&["why", "one"]).contains("adopted from an earlier superd"));
        // Like any other: signals, reload of the configuration, restart, stop.
        superd.ok(&["signal", "one", "USR1"]);
        superd.wait_record("one", "USR1", 1);
        assert!(superd.ok(&["reload"]).contains("2 unchanged"));
        superd.ok(&["restart", "one"]);
        superd.wait_record("one", "start", 2);
        once(&superd, "one", "end");
        assert_eq!(superd.status("one")["adopted"], serde_json::Value::Null);
        superd.ok(&["stop", "two"]);
        assert_eq!(superd.verdict("two"), "clean");
        once(&superd, "two", "TERM");
        let superd = superd.succeed();
        assert_eq!(superd.state("two"), "down", "what was stopped stays so");
        assert_eq!(superd.state("one"), "up");
        let place = superd.end();
        let left: Vec<_> = fs::read_dir(place.file("run")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn a_stop_goes_on_at_its_step_and_repeats_none(flavour: Flavour) {
        for step in ["TERM", "INT", "USR2"] {
            let mut superd = Superd::start_in(flavour, &(scribe("web", "USR1") + THREE));
            superd.wait_record("web", "start", 1);
            superd.ok(&["stop", "--no-wait", "web"]);
            superd.wait_record("web", step, 1);
            superd = superd.succeed();
            assert_eq!(superd.state("web"), "stopping");
            superd.wait_record("web", "USR2", 1);
            // Ends on its own, as after a signal that its stop does not know.
            kill(superd.pid_of("web"), libc::SIGUSR1);
            superd.wait_state("web", "down");
            for signal in ["start", "TERM", "INT", "USR2", "end"] {
                once(&superd, "web", signal);
            }
            let end = superd.last_end("web");
            assert_eq!(end["steps"].as_array().unwrap().len(), 3, "{end}");
            superd.end();
        }
    }

    fn a_shutdown_is_not_gone_on_with_but_its_stops_are(flavour: Flavour) {
        let toml = scribe("web", "USR2") + THREE + &scribe("other", "TERM");
        let superd = Superd::start_in(flavour, &toml);
        superd.wait_record("web", "start", 1);
        superd.wait_record("other", "start", 1);
        superd.signal(libc::SIGTERM);
        superd.wait_record("other", "end", 1);
        superd.wait_record("web", "INT", 1);
        let superd = superd.succeed();
        for name in ["web", "other"] {
            superd.wait_record(name, "start", 2);
            superd.wait_state(name, "up");
        }
        for what in ["TERM", "INT", "USR2", "end"] {
            once(&superd, "web", what);
        }
        once(&superd, "other", "TERM");
        assert_eq!(superd.record("web").count("two"), 0);
        superd.end();
    }

    fn who_died_meanwhile_is_noticed_and_started_again(flavour: Flavour) {
        let superd = Superd::start_in(flavour, &scribe("web", "TERM"));
        superd.wait_record("web", "start", 1);
        let pid = superd.pid_of("web");
        let place = superd.abandon();
        kill(pid, libc::SIGKILL);
        wait_until("it is gone", || !alive(pid));
        let superd = place.resume();
        superd.wait_record("web", "start", 2);
        superd.wait_state("web", "up");
        let events = superd.events("web");
        assert!(events.iter().any(|e| e["event"] == "gone-meanwhile"), "{events:?}");
        assert_eq!(superd.last_end("web")["exit"], "unknown");
        superd.end();
    }

    fn the_end_of_an_adopted_service_is_seen_and_judged(flavour: Flavour) {
        let superd = Superd::start_in(flavour, &scribe("web", "TERM"));
        superd.wait_record("web", "start", 1);
        let superd = superd.succeed();
        let before = superd.pid_of("web");
        kill(before, libc::SIGKILL);
        superd.wait_record("web", "start", 2);
        let exit = superd.last_end("web")["exit"].clone();
        match exit == "unknown" {
            true => skip("exit status of an adopted process", "needs Linux 6.15"),
            false => assert_eq!(exit, json!({"signal": 9})),
        }
        superd.end();
    }

    fn a_service_that_is_no_longer_configured_is_stopped_as_it_was_configured(flavour: Flavour) {
        let toml = scribe("old", "USR2") + THREE;
        let superd = Superd::start_in(flavour, &(toml + &scribe("new", "TERM")));
        superd.wait_record("old", "start", 1);
        superd.wait_record("new", "start", 1);
        superd.wait_state("old", "up"); // from then on its definition is in the journal
        let place = superd.abandon();
        place.configure(flavour, &scribe("new", "TERM"));
        let superd = place.resume();
        superd.wait_record("old", "end", 1);
        for what in ["start", "TERM", "INT", "USR2"] {
            once(&superd, "old", what);
        }
        wait_until("it is forgotten", || superd.ctl(&["status", "old"]).code != 0);
        assert!(!superd.place.file("run/old.out").exists());
        assert!(superd.place.file("run/new.out").exists());
        once(&superd, "new", "start");
        superd.end();
    }

    fn a_changed_definition_is_taken_over_in_order(flavour: Flavour) {
        let superd = Superd::start_in(flavour, &scribe("web", "TERM"));
        superd.wait_record("web", "start", 1);
        superd.wait_state("web", "up");
        let place = superd.abandon();
        place.configure(flavour, &(scribe("web", "TERM") + "environment = { A = \"b\" }\n"));
        let superd = place.resume();
        let record = superd.wait_record("web", "start", 2);
        let order: Vec<&str> = record.0.iter().map(|n| n.what.as_str()).collect();
        assert_eq!(order, ["start", "TERM", "end", "start"]);
        superd.end();
    }

    fn without_a_journal_services_are_found_by_cgroup_or_mark(flavour: Flavour) {
        for damage in ["empty", "garbage", "other boot"] {
            let superd = Superd::start_in(flavour, &scribe("web", "TERM"));
            superd.wait_record("web", "start", 1);
            superd.wait_state("web", "up");
            let pid = superd.pid_of("web");
            let place = superd.abandon();
            let journal = place.file("run/journal");
            let text = fs::read_to_string(&journal).unwrap();
            let text = match damage {
                "empty" => String::new(),
                "garbage" => text.replace("\"Up\"", "\"Upside\""),
                _ => text.replacen("\"boot\":\"", "\"boot\":\"x", 1),
            };
            fs::write(&journal, text).unwrap();
            let superd = place.resume();
            assert_eq!(superd.pid_of("web"), pid, "{damage}");
            once(&superd, "web", "start");
            assert_eq!(superd.place.file("run/journal.bad").exists(), damage != "empty");
            assert!(damage == "empty" || superd.place.log().contains("is not used"));
            superd.ok(&["stop", "web"]);
            once(&superd, "web", "TERM");
            superd.end();
        }
    }

    fn ten_kills_in_a_row_lose_nobody(flavour: Flavour) {
        let names: Vec<String> = (0..5).map(|n| format!("s{n}")).collect();
        let toml: String = names.iter().map(|n| scribe(n, "TERM")).collect();
        let mut superd = Superd::start_in(flavour, &toml);
        for kills in 0..10 {
            // Not always at rest: sometimes in the middle of a restart.
            let name = &names[kills % names.len()];
            superd.wait_record(name, "start", 1 + kills / names.len());
            superd.ok(&["restart", "--no-wait", name]);
            let place = superd.abandon();
            superd = place.resume();
        }
        for name in &names {
            superd.wait_state(name, "up");
        }
        for name in &names {
            let record = superd.wait_record(name, "start", 3);
            // At no time two: each start but the first comes after an end.
            let mut running = 0;
            for noted in &record.0 {
                match noted.what.as_str() {
                    "start" => running += 1,
                    "end" => running -= 1,
                    _ => {}
                }
                assert!((0..=1).contains(&running), "{record:?}");
            }
            assert_eq!(record.count("TERM"), 2, "{record:?}");
            assert_eq!(record.count("start"), 3, "{record:?}");
        }
        superd.end();
    }

    fn services_can_be_left_to_the_next_superd(flavour: Flavour) {
        let superd = Superd::start_in(flavour, &(scribe("web", "USR2") + THREE));
        superd.wait_record("web", "start", 1);
        let pid = superd.pid_of("web");
        superd.ok(&["shutdown", "--leave-running"]);
        let place = superd.ended();
        assert!(!place.file("run/superd.sock").exists());
        assert!(alive(pid));
        let superd = place.resume();
        assert_eq!(superd.pid_of("web"), pid);
        superd.ok(&["stop", "web"]);
        for what in ["start", "TERM", "INT", "USR2"] {
            once(&superd, "web", what);
        }
        superd.end();
    }
}

in_both_flavours! {
    // Issue 4: nobody read it any more, and the service waited in write(2) for ever.
    fn output_is_read_on_after_the_run_dir_was_emptied(flavour: Flavour) {
        let toml = "[service.w]\ncommand = [$TWIN:w, \"chat\", \"20000\"]\n";
        let superd = Superd::start_in(flavour, toml);
        superd.wait_record("w", "start", 1);
        let run_dir = superd.place.file("run");
        wait_until("it writes", || superd.place.log().contains("w | chat"));
        // superd may make it again while it is being emptied: then once more.
        wait_until("removed", || fs::remove_dir_all(&run_dir).is_ok());
        wait_until("made again", || superd.place.log().contains("made again"));
        wait_until("also the journal", || run_dir.join("journal").exists());
        let mut superd = superd;
        for _ in 0..2 {
            superd = superd.succeed();
            assert_eq!(superd.status("w")["adopted"], true);
            wait_until("it is read on", || {
                let log = superd.place.log();
                let next = log.rfind("going on from an earlier superd");
                log[next.unwrap()..].contains("w | chat")
            });
        }
        superd.ok(&["stop", "w"]);
        let (log, _) = mend(&superd.place.log());
        let got = chat(&log, "w");
        assert!(got.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{got:?}");
        once(&superd, "w", "start");
        superd.end();
    }

    // Issue 4: it was taken for what the file says now, and ran on as it was.
    fn what_was_just_started_and_is_configured_otherwise_now_is_replaced(flavour: Flavour) {
        for (program, starts) in [(json!(null), 1), (json!(1), 2)] {
            let superd = Superd::start_in(flavour, &scribe("web", "TERM"));
            superd.wait_record("web", "start", 1);
            superd.wait_state("web", "up");
            let place = superd.abandon();
            // As if it had been killed before it could write more than that of the start.
            let journal = place.file("run/journal");
            let text = fs::read_to_string(&journal).unwrap();
            let all = text.lines().map(|l| serde_json::from_str(l).unwrap());
            let lines: Vec<serde_json::Value> = all.collect();
            let entry = &lines.iter().rfind(|l| l["is"]["name"] == "web").unwrap()["is"];
            let (memory, place_of) = (&entry["memory"], &entry["place"]);
            let begin = json!({"begin": {
                "name": "web",
                "begun": {"instance": memory["instance"], "at": memory["since"],
                    "by": memory["start_by"], "restarts": 0},
                "place": {"cookie": place_of["cookie"], "group": place_of["group"]},
                "program": program,
            }});
            fs::write(&journal, format!("{}\n{begin}\n", lines[0])).unwrap();
            let superd = place.resume();
            superd.wait_record("web", "start", starts);
            superd.wait_state("web", "up");
            let record = superd.record("web");
            let told = (record.count("start"), record.count("TERM"), record.count("two"));
            assert_eq!(told, (starts, starts - 1, 0), "{record:?}");
            superd.end();
        }
    }

    // Issue 4: of the first nothing was said when there was nothing to be started.
    fn what_is_in_the_way_of_a_successor_is_told(flavour: Flavour) {
        let superd = Superd::start_in(flavour, &scribe("web", "TERM"));
        superd.wait_record("web", "start", 1);
        let place = superd.abandon();
        for name in ["carry", "notify"] {
            let path = place.file("run").join(name);
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        }
        let superd = place.resume();
        superd.wait_state("web", "up");
        let log = superd.place.log();
        assert!(log.contains("run/carry: Is a directory; a line"), "{log}");
        let socket = "no notify socket: ";
        assert!(log.contains(socket) && log.contains("run/notify: Is a directory\n"), "{log}");
        once(&superd, "web", "start");
        superd.end();
    }

    // It was not tried again before something else happened to a service.
    fn a_journal_that_could_not_be_written_is_tried_again(flavour: Flavour) {
        let superd = Superd::start_in(flavour, "[service.w]\ncommand = [$TWIN:w, \"obey\"]\n");
        superd.wait_record("w", "start", 1);
        let journal = superd.place.file("run/journal");
        wait_until("it is written", || journal.exists());
        let in_the_way = superd.place.file("run/journal.new");
        // Not while superd is about to write it once more.
        wait_until("room for what is in the way", || fs::create_dir(&in_the_way).is_ok());
        fs::write(in_the_way.join("x"), "").unwrap();
        fs::remove_file(&journal).unwrap();
        wait_until("it is told", || superd.place.log().contains("the journal cannot be written"));
        fs::remove_dir_all(&in_the_way).unwrap();
        wait_until("it is written again", || journal.exists());
        let pid = superd.pid_of("w");
        let superd = superd.succeed();
        assert_eq!(superd.pid_of("w"), pid);
        assert_eq!(superd.status("w")["adopted"], true);
        assert_eq!(superd.place.log().matches("cannot be written").count(), 1);
        superd.ok(&["stop", "w"]);
        superd.end();
    }
}

#[test]
fn a_foreign_process_of_that_number_is_never_signalled() {
    let superd = Superd::start(&scribe("web", "TERM"));
    superd.wait_record("web", "start", 1);
    superd.wait_state("web", "up");
    let pid = superd.pid_of("web");
    let place = superd.abandon();
    let mut stranger = place.command(&["/bin/sleep".to_owned(), "1000".to_owned()]);
    let mut stranger = stranger.spawn().unwrap();
    let journal = place.file("run/journal");
    let text = fs::read_to_string(&journal).unwrap();
    let other = stranger.id();
    let text = text.replace(&format!("\"pid\":{pid}"), &format!("\"pid\":{other}"));
    fs::write(&journal, text).unwrap();
    let superd = place.resume();
    // To superd its main process is gone, and what else carries the mark is a leftover.
    superd.wait_record("web", "start", 2);
    superd.wait_state("web", "up");
    assert_ne!(superd.pid_of("web"), other as i32);
    superd.ok(&["stop", "--now", "web"]);
    assert!(stranger.try_wait().unwrap().is_none(), "it was signalled");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    let record = superd.record("web");
    let first = record.first("start").pid;
    assert!(!alive(first), "never two");
    superd.end();
}

#[test]
fn a_back_off_is_waited_for_to_its_end() {
    let toml = "[service.web]\ncommand = [\"/bin/sh\", \"-c\", \"echo 0 $$ start >> $DIR/web.record; exit 1\"]\n\
                restart-delay = \"2s\"\nmax-delay = \"2s\"\n";
    let superd = Superd::start(toml);
    superd.wait_record("web", "start", 2);
    superd.wait_state("web", "backoff");
    let before = monotonic();
    let left = superd.status("web")["retry_ms"].as_u64().unwrap();
    let superd = superd.succeed();
    let status = superd.status("web");
    assert_eq!(status["restarts"], 1, "{status}");
    superd.wait_record("web", "start", 3);
    let waited = (monotonic() - before) / 1_000_000;
    assert!(waited + 5 >= left, "{waited} of {left} ms");
    superd.end();
}

/// Makes pidfd_open(2) fail as it does before Linux 5.3.
fn without_pidfds(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let code = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let errno = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    // SAFETY: prctl(2) is async-signal-safe; the filter outlives the call.
    unsafe {
        command.pre_exec(move || {
            let mut filter = [
                code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
                code(
                    libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                    0,
                    1,
                    libc::SYS_pidfd_open as u32,
                ),
                code(libc::BPF_RET | libc::BPF_K, 0, 0, errno),
                code(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
            ];
            let program = libc::sock_fprog {
                len: filter.len() as u16,
                filter: filter.as_mut_ptr(),
            };
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            match libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}

#[test]
fn without_pidfds_adopted_services_are_watched_by_looking() {
    let superd = Superd::start(&scribe("web", "TERM"));
    superd.wait_record("web", "start", 1);
    superd.wait_state("web", "up");
    let place = superd.abandon();
    let mut command = place.command(&place.superd_args());
    without_pidfds(&mut command);
    let superd = Superd::launch(place, command);
    let before = superd.pid_of("web");
    once(&superd, "web", "start");
    kill(before, libc::SIGKILL);
    superd.wait_record("web", "start", 2);
    assert_eq!(superd.last_end("web")["exit"], "unknown");
    superd.wait_state("web", "up");
    let place = superd.abandon();
    let mut command = place.command(&place.superd_args());
    without_pidfds(&mut command);
    let superd = Superd::launch(place, command);
    superd.ok(&["stop", "web"]);
    assert_eq!(superd.record("web").count("TERM"), 1);
    assert_eq!(superd.record("web").count("two"), 0);
    superd.end();
}

/// How many services write, how fast each, and how often superd is killed under that:
/// SUPERD_KILLS=all is 10 MB/s in all, which takes a release build.
fn writers() -> (usize, u64, u64) {
    match std::env::var("SUPERD_KILLS").is_ok_and(|v| v == "all") {
        true => (100, 100_000, 100),
        false => (20, 10_000, 20),
    }
}

/// Strikes out lines that a SIGKILL has cut off, and says how many these were: a write(2) to
/// a regular file may end at the end of a page then, and nowhere else.
fn mend(log: &str) -> (String, usize) {
    let next = "superd: going on from an earlier superd";
    let (mut mended, mut torn) = (log.to_owned(), 0);
    for (at, _) in log.match_indices(next) {
        // superd gives it a newline, and says the line again.
        let end = at.saturating_sub(1);
        if end > 0 && end % 4096 == 0 && !log[..end].ends_with('\n') {
            let from = log[..end].rfind('\n').map_or(0, |n| n + 1);
            let line = &log[from..end];
            let pad = line.split(' ').nth(3).map_or(0, str::len);
            let number: usize = line.split(' ').nth(2).map_or(0, |n| n.parse().unwrap_or(0));
            if number == 0 || pad != number % 160 {
                mended.replace_range(from..end, &"#".repeat(end - from));
                torn += 1;
            }
        }
    }
    (mended, torn)
}

/// The numbers of a service's lines in superd's log, in order; each line is checked.
fn chat(log: &str, name: &str) -> Vec<u64> {
    let prefix = format!("{name} | chat ");
    let number = |text: &str| {
        let (n, pad) = text.split_once(' ').unwrap_or((text, ""));
        let number: u64 = n.parse().unwrap_or_else(|_| panic!("{name}: {text:?}"));
        let wanted = (number % 160) as usize;
        assert!(
            pad.len() == wanted && pad.bytes().all(|b| b == b'x'),
            "{name}: {text:?}"
        );
        number
    };
    let lines = log.lines().filter(|l| l.starts_with(&format!("{name} | ")));
    lines
        .map(|l| number(l.strip_prefix(&prefix).unwrap_or_else(|| panic!("{l:?}"))))
        .collect()
}

#[test]
fn no_line_is_lost_or_said_twice_however_often_superd_is_killed() {
    let (services, rate, kills) = writers();
    let (mut superd, names) = chatting(services, rate);
    let pids: Vec<i32> = names.iter().map(|n| superd.pid_of(n)).collect();
    let log = superd.place.file("superd.log");
    let mut seed = 3_u64;
    for _ in 0..kills {
        // After so many bytes of log, so that it is killed in the middle of things.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let size = || fs::metadata(&log).map_or(0, |m| m.len());
        let wanted = size() + (seed >> 33) % (rate * services as u64 / 5);
        wait_until("they write", || size() > wanted);
        superd = superd.succeed();
    }
    let now: Vec<i32> = names.iter().map(|n| superd.pid_of(n)).collect();
    assert_eq!(now, pids, "all of them run on");
    stop_and_count(&superd, &names, &format!("successors: {kills} kills"));
    superd.end();
}

/// Services that write numbered lines, so many bytes in a second each.
pub fn chatting(services: usize, rate: u64) -> (Superd, Vec<String>) {
    let names: Vec<String> = (0..services).map(|n| format!("w{n}")).collect();
    let one = |n: &String| format!("[service.{n}]\ncommand = [$TWIN:{n}, \"chat\", \"{rate}\"]\n");
    let toml: String = names.iter().map(one).collect();
    let superd = Superd::start(&toml);
    for n in &names {
        superd.wait_record(n, "start", 1);
        superd.wait_state(n, "up");
    }
    (superd, names)
}

/// Stops them: each line that they wrote is in the log, once.
pub fn stop_and_count(superd: &Superd, names: &[String], what: &str) {
    for n in names {
        superd.ok(&["stop", "--no-wait", n]);
    }
    for n in names {
        superd.wait_state(n, "down");
    }
    let (log, torn) = mend(&superd.place.log());
    let (mut lines, mut lost, mut twice) = (0, 0, 0);
    for n in names {
        let record = superd.record(n);
        assert_eq!(record.count("start"), 1);
        let last = record.0.iter().find_map(|e| e.what.strip_prefix("lines "));
        let last: u64 = last.unwrap().parse().unwrap();
        let got = chat(&log, n);
        assert_eq!(got.first().copied(), (last > 0).then_some(1), "{n}");
        assert_eq!(got.last().copied().unwrap_or(0), last, "{n}");
        lines += got.len();
        for pair in got.windows(2) {
            twice += usize::from(pair[1] <= pair[0]);
            lost += (pair[1] - pair[0]).saturating_sub(1);
        }
    }
    tell(&format!(
        "{what}: {} bytes of log, {lines} lines: {lost} lost, {torn} cut, {twice} twice",
        log.len()
    ));
    assert_eq!((lost, twice), (0, 0));
}

/// What a client saw of a server.
#[derive(Default)]
struct Seen {
    answers: u32,
    failures: Vec<String>,
    longest: std::time::Duration,
}

/// Says so when it goes.
struct Raise<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Release);
    }
}

/// Sends a byte and waits for it; with a new connection each time if none is kept.
fn ask(at: &str, kept: &mut Option<std::net::TcpStream>, byte: u8) -> std::io::Result<()> {
    use std::io::{Error, Read, Write};
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => std::net::TcpStream::connect(at)?,
    };
    stream.set_nodelay(true)?;
    stream.write_all(&[byte])?;
    let mut got = [0];
    stream.read_exact(&mut got)?;
    *kept = Some(stream);
    match got == [byte] {
        true => Ok(()),
        false => Err(Error::other("a wrong answer")),
    }
}

#[test]
fn clients_of_a_service_notice_nothing_of_superds_death() {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;
    const KILLS: u32 = 20;
    let toml = "[service.web]\ncommand = [$TWIN:web, \"echo\", \"--listen\", \"$HOST:8444\"]\n";
    let superd = Superd::start(toml);
    superd.wait_record("web", "listening", 1);
    let pid = superd.pid_of("web");
    let at = format!("{}:8444", superd.place.host);
    let over = AtomicBool::new(false);
    let client = |keeps: bool| {
        let mut seen = Seen::default();
        let mut kept = None;
        while !over.load(Ordering::Acquire) {
            let began = Instant::now();
            match ask(&at, &mut kept, seen.answers as u8) {
                Ok(()) => seen.answers += 1,
                Err(e) => seen.failures.push(e.to_string()),
            }
            seen.longest = seen.longest.max(began.elapsed());
            if !keeps {
                kept = None;
            }
            // Fast enough to be there in every gap; not so fast that all ports are used up.
            std::thread::yield_now();
            if !keeps {
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
        }
        seen
    };
    let (superd, held, new) = std::thread::scope(|scope| {
        let held = scope.spawn(|| client(true));
        let new = scope.spawn(|| client(false));
        let end = Raise(&over); // also when what follows fails
        let after = (0..KILLS).fold(superd, |superd, _| {
            let superd = superd.succeed();
            assert_eq!(superd.pid_of("web"), pid);
            superd
        });
        drop(end);
        (after, held.join().unwrap(), new.join().unwrap())
    });
    for (who, seen) in [("one that was held", &held), ("new ones", &new)] {
        tell(&format!(
            "successors: {KILLS} kills, connections: {who}: {} answers, {} failures, the slowest {:?}",
            seen.answers,
            seen.failures.len(),
            seen.longest
        ));
        assert_eq!(seen.failures, Vec::<String>::new(), "{who}");
        assert!(seen.answers > 2 * KILLS);
    }
    superd.end();
}

in_both_flavours! {
    // A measurement; a limit that only something broken misses, since any machine may be busy.
    fn a_successor_of_a_hundred_services_answers_soon(flavour: Flavour) {
        use std::time::{Duration, Instant};
        let one = |n: u32| format!("[service.s{n}]\ncommand = [\"/bin/sleep\", \"1000\"]\n");
        let toml: String = (0..100).map(one).collect();
        let superd = Superd::start_in(flavour, &toml);
        for n in 0..100 {
            superd.wait_state(&format!("s{n}"), "up");
        }
        let mut place = Some(superd.abandon());
        let mut last = None;
        let mut times: Vec<Duration> = (0..9)
            .map(|_| {
                let abandoned = last.take().map(Superd::abandon).or(place.take());
                let place = abandoned.unwrap();
                let command = place.command(&place.superd_args());
                let began = Instant::now();
                let superd = Superd::launch_unheard(place, command);
                let adopted = loop {
                    let raw = Raw::connect(&superd.place.socket()).ok();
                    let all = raw.and_then(|mut raw| raw.try_ask(&json!({"do": "status"})));
                    if let Some(all) = all {
                        break all.iter().filter(|s| s["status"]["adopted"] == true).count();
                    }
                    std::thread::yield_now();
                    assert!(began.elapsed() < LIMIT, "it answers");
                };
                let took = began.elapsed();
                assert_eq!(adopted, 100);
                last = Some(superd);
                took
            })
            .collect();
        times.sort();
        tell(&format!(
            "successors: {flavour:?}: exec to the status of 100 adopted: {:?} (median of 9; {:?} to {:?})",
            times[4], times[0], times[8]
        ));
        assert!(times[4] < Duration::from_secs(2));
        last.unwrap().end();
    }
}

/// As `kill -9 PID; superd` has it: the one before may still be on its way out.
#[test]
fn a_superd_that_is_started_right_after_a_kill_waits_for_its_end() {
    let mut s = Superd::start("[service.web]\ncommand = [$TWIN:web, \"obey\"]\n");
    s.wait_state("web", "up");
    let web = s.pid_of("web");
    for _ in 0..10 {
        s = s.followed();
        assert_eq!(s.pid_of("web"), web);
    }
    s.end();
}
