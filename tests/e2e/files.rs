//! Output that goes to a file of its own: bounded, whole, and nothing lost or there twice
//! when superd is killed.

use crate::drain_hostile::forbid;
use crate::points::{attach, is_traceable};
use crate::startup::{entering, is_wait};
use crate::support::*;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;

/// Says what it is told by the FIFO `say`.
const PARROT: &str = "[service.parrot]\ncommand = [\"/bin/bash\", \"-c\", \"mkfifo $DIR/say; \
    exec 3<>$DIR/say; echo begun; while read -r line <&3; do echo $line; done\"]\n";

/// Counts.
fn counter(lines: usize, output: &str) -> String {
    format!(
        "[service.count]\ncommand = [\"/bin/bash\", \"-c\", \"for ((n = 0; n < {lines}; n++)); do \
         echo number $n of this service; done; echo over; exec sleep 1000\"]\n\
         output = {output}\n"
    )
}

fn text(superd: &Superd, name: &str) -> String {
    fs::read_to_string(superd.place.file(name)).unwrap_or_default()
}

#[test]
fn a_flood_into_a_file_is_bounded_and_keeps_its_end() {
    let output = "{ file = \"$DIR/count.log\", max-size = \"16KiB\", keep = 2 }";
    let superd = Superd::start(&counter(5_000, output));
    wait_until("the end of the flood", || {
        text(&superd, "count.log").ends_with("over\n")
    });
    let files = ["count.log.2", "count.log.1", "count.log"];
    let all: String = files.map(|name| text(&superd, name)).concat();
    assert!(files
        .iter()
        .all(|name| text(&superd, name).len() <= 16 << 10));
    assert!(!superd.place.file("count.log.3").exists());
    let lines: Vec<&str> = all.lines().collect();
    let from = 5_000 + 1 - lines.len();
    for (n, line) in lines.iter().take(lines.len() - 1).enumerate() {
        assert_eq!(*line, format!("number {} of this service", from + n));
    }
    assert!(lines.len() > 1_000);
    // The ring is kept beside it.
    assert!(superd.ok(&["logs", "-n", "1", "count"]).contains("over"));
    let found = superd.ok(&["logs", "--since", "1h", "--grep", "r 4999 o", "count"]);
    assert!(found.trim_end().ends_with("number 4999 of this service"));
    assert_eq!(found.lines().count(), 1);
    assert_eq!(superd.ok(&["logs", "--grep", "no such", "count"]), "");
}

#[test]
fn a_superd_that_may_not_splice_writes_its_files() {
    use std::os::unix::process::CommandExt;
    for errno in [libc::EPERM, libc::ENOSYS] {
        let place = Place::new();
        place.configure(
            Flavour::NoCgroups,
            &counter(3_000, "{ file = \"$DIR/count.log\" }"),
        );
        let mut command = place.command(&place.superd_args());
        // SAFETY: it makes system calls, and takes memory of a process of one thread.
        unsafe { command.pre_exec(move || forbid(&[(libc::SYS_splice, [None; 3])], errno)) };
        let superd = Superd::launch(place, command);
        // What cannot be written is dropped, and the ring has it all the same.
        wait_until("the end of the output", || {
            superd.ok(&["logs", "-n", "1", "count"]).contains("over")
        });
        let lines = (0..3_000).map(|n| format!("number {n} of this service\n"));
        let whole = lines.chain(["over\n".to_owned()]).collect::<String>();
        assert_eq!(text(&superd, "count.log"), whole, "{errno}");
        superd.end();
    }
}

/// Issue 5: what a flood costs superd. Time depends on the machine; system calls can be counted.
#[test]
fn a_flood_into_a_file_costs_few_system_calls() {
    /// Of a MiB, of them 26 for turning a file over; it is 60 where nothing holds superd up.
    const MOST: usize = 85;
    const BYTES: usize = 24 << 20;
    let name = "files: system calls";
    if !is_traceable(name) {
        return;
    }
    let superd = Superd::start(&format!(
        "[service.flood]\ncommand = [$TWIN:flood, \"flood\", \"--bytes\", \"{BYTES}\"]\n\
         output = {{ file = \"$DIR/flood.log\", max-size = \"1MiB\", keep = 10 }}\n\
         autostart = false\n"
    ));
    attach(superd.pid);
    superd
        .raw()
        .send(&json!({"v": 1, "id": 1, "do": "start", "service": "flood"}));
    let has = |what| superd.record("flood").count(what) > 0;
    let (mut calls, mut last) = (0, 0);
    let is_counted = loop {
        let mut status = 0;
        // SAFETY: our own tracee, which is stopped; waitpid(2) writes one int of ours.
        unsafe {
            libc::ptrace(libc::PTRACE_SYSCALL, superd.pid, 0, 0);
            assert_eq!(libc::waitpid(superd.pid, &mut status, 0), superd.pid);
        }
        assert!(libc::WIFSTOPPED(status), "{}", superd.place.log());
        match entering(superd.pid) {
            _ if libc::WSTOPSIG(status) != libc::SIGTRAP | 0x80 => continue, // SIGCHLD
            Ok(Some(call)) if is_wait(call) => {}
            Ok(other) => {
                calls += usize::from(other.is_some());
                continue;
            }
            Err(()) => break false,
        }
        // However slow the writer is: superd does not look before there is much.
        let fifo = superd.place.socket().with_file_name("flood.out");
        if has("flooding") {
            wait_until("more of it", || has("flooded") || fill(&fifo) > 75);
            calls += 1;
        } else {
            last = calls;
        }
        if has("flooded") && fill(&fifo) == 0 {
            break true;
        }
    };
    // SAFETY: as above.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, superd.pid, 0, 0) };
    if !is_counted {
        return skip(name, "needs PTRACE_GET_SYSCALL_INFO (Linux 5.3)");
    }
    let each = (calls - last) / (BYTES >> 20);
    tell(&format!("files: {each} system calls for a MiB of a flood"));
    assert!(each <= MOST, "{each}");
}

/// How full a pipe is, in hundredths; 0 only of an empty one.
fn fill(fifo: &std::path::Path) -> usize {
    let Ok(pipe) = fs::OpenOptions::new().read(true).write(true).open(fifo) else {
        return 0;
    };
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int; the other one takes none.
    let room = unsafe {
        assert_eq!(libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &mut n), 0);
        libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ)
    };
    usize::try_from(n * 100)
        .unwrap()
        .div_ceil(usize::try_from(room).unwrap())
}

#[test]
fn no_line_in_a_file_is_lost_or_there_twice_when_superd_is_killed() {
    for stamps in ["", ", timestamps = true"] {
        const LINES: usize = 60_000;
        let output =
            format!("{{ file = \"$DIR/count.log\", max-size = \"256KiB\", keep = 50{stamps} }}");
        let mut superd = Superd::start(&counter(LINES, &output));
        let mut seen = 0;
        for _ in 0..6 {
            wait_until("some more of it", || {
                let names = (1..50).map(|n| format!("count.log.{n}"));
                let size =
                    |name: &str| fs::metadata(superd.place.file(name)).map_or(0, |m| m.len());
                let all = names.map(|n| size(&n)).sum::<u64>() + size("count.log");
                let is_more = all > seen + 50_000 || text(&superd, "count.log").contains("over\n");
                if is_more {
                    seen = all;
                }
                is_more
            });
            superd = superd.succeed();
        }
        wait_until("the end", || text(&superd, "count.log").ends_with("over\n"));
        let mut all = String::new();
        for n in (1..=50).rev() {
            all += &text(&superd, &format!("count.log.{n}"));
        }
        all += &text(&superd, "count.log");
        let mut n = 0;
        for line in all.lines() {
            let said = match stamps {
                "" => line,
                _ => line.split_once("Z ").unwrap().1,
            };
            match n {
                LINES => assert_eq!(said, "over"),
                n => assert_eq!(said, format!("number {n} of this service"), "{line}"),
            }
            n += 1;
        }
        assert_eq!(n, LINES + 1);
    }
}

/// Issue 5: also of a flood, which is moved without being looked at.
#[test]
fn no_byte_of_a_flood_is_lost_or_there_twice_when_superd_is_killed() {
    for stamps in ["", ", timestamps = true"] {
        const BYTES: usize = 24 << 20;
        let mut superd = Superd::start(&format!(
            "[service.flood]\ncommand = [$TWIN:flood, \"flood\", \"--bytes\", \"{BYTES}\"]\n\
             output = {{ file = \"$DIR/flood.log\", max-size = \"1MiB\", keep = 50{stamps} }}\n"
        ));
        let names = || (1..=50).rev().map(|n| format!("flood.log.{n}"));
        let names = || names().chain(["flood.log".to_owned()]);
        let size = |s: &Superd, n: &str| fs::metadata(s.place.file(n)).map_or(0, |m| m.len());
        let total = |s: &Superd| names().map(|n| size(s, &n)).sum::<u64>();
        let mut seen = 0;
        for _ in 0..8 {
            wait_until("some more of it", || {
                let is_over = superd.record("flood").count("flooded") > 0;
                is_over || total(&superd) > seen + 2_000_000
            });
            seen = total(&superd);
            superd = superd.succeed();
        }
        let record = superd.wait_record("flood", "flooded", 1);
        let said = &record.all("flooded").next().unwrap().what;
        let written: usize = said.split(' ').next_back().unwrap().parse().unwrap();
        let without = |line: &str| match stamps {
            "" => line.to_owned(),
            _ => line.split_once("Z ").unwrap().1.to_owned(),
        };
        let all = wait_for("all of it", || {
            let all = || names().map(|n| text(&superd, &n));
            let is_there = all().map(|t| t.len()).sum::<usize>() >= written;
            let all = || all().collect::<String>();
            let all: Option<String> =
                is_there.then(|| all().split_inclusive('\n').map(without).collect());
            all.filter(|all| all.len() >= written)
        });
        assert_eq!(all.len(), written);
        let block = all.split_inclusive("\n0 ").next().unwrap();
        let block = block.strip_suffix("0 ").unwrap();
        assert!(all == block.repeat(written / block.len()));
        assert!(names().all(|n| text(&superd, &n).ends_with('\n') || size(&superd, &n) == 0));
    }
}

#[test]
fn a_log_file_that_is_moved_is_made_again_and_a_missing_directory_is_said() {
    let output = "output = { file = \"$DIR/logs/parrot.log\" }\n";
    let superd = Superd::start(&(PARROT.to_owned() + output));
    wait_until("that it is said", || {
        superd
            .place
            .log()
            .contains("parrot.log: its directory: No such file")
    });
    wait_until("that doctor knows", || {
        let told = superd.ctl(&["doctor"]).out;
        told.contains("logs/parrot.log cannot be written: lines dropped so far: 1")
    });
    let say = |line: &str| {
        let mut fifo = fs::OpenOptions::new()
            .write(true)
            .open(superd.place.file("say"));
        fifo.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    };
    fs::create_dir(superd.place.file("logs")).unwrap();
    wait_until("that it is written again", || {
        say("again\n");
        text(&superd, "logs/parrot.log").contains("again\n")
    });
    assert!(superd.place.log().contains("lines were dropped"));
    fs::rename(
        superd.place.file("logs/parrot.log"),
        superd.place.file("old"),
    )
    .unwrap();
    superd.ok(&["reload"]);
    say("after\n");
    wait_until("the new file", || {
        text(&superd, "logs/parrot.log").ends_with("after\n")
    });
    assert!(!text(&superd, "old").contains("after"));
}

#[test]
fn a_file_at_its_limit_is_like_a_full_disk() {
    use std::os::unix::process::CommandExt;
    const MOST: u64 = 64 << 10;
    let place = Place::new();
    let output = "{ file = \"$DIR/count.log\", max-size = \"1MiB\" }";
    place.configure(Flavour::NoCgroups, &counter(5_000, output));
    let mut command = place.command(&place.superd_args());
    let limit = libc::rlimit {
        rlim_cur: MOST,
        rlim_max: MOST,
    };
    // SAFETY: setrlimit(2) is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
            Ok(())
        });
    }
    let superd = Superd::launch(place, command);
    wait_until("the end of the output", || {
        superd.ok(&["logs", "-n", "1", "count"]).contains("over")
    });
    assert!(text(&superd, "count.log").len() as u64 <= MOST);
    let log = superd.place.log();
    let line = "count.log: writing: File too large; its lines are dropped until that is over";
    assert!(log.contains(line), "{log}");
    let told = superd.ctl(&["doctor"]).out;
    assert!(told.contains("count.log cannot be written: lines dropped so far: "));
    // A service has all signals at their defaults.
    let status = format!("/proc/{}/status", superd.pid_of("count"));
    wait_until("sleep runs", || {
        let text = fs::read_to_string(&status).unwrap();
        text.contains("Name:\tsleep\n") && text.contains("SigIgn:\t0000000000000000\n")
    });
    superd.end();
}

/// So much that it fills some files.
const SOME: usize = 4_000;

fn count_to(output: &str) -> Superd {
    let file = "{ file = \"$DIR/count.log\", max-size = \"16KiB\", keep = 60, compress = ";
    Superd::start(&counter(SOME, &format!("{file}{output} }}")))
}

fn full(superd: &Superd, end: &str) -> Vec<PathBuf> {
    let names = (1..=60)
        .rev()
        .map(|n| superd.place.file(&format!("count.log.{n}{end}")));
    names.filter(|path| path.exists()).collect()
}

#[test]
fn full_files_are_compressed_and_nothing_is_lost() {
    if !program_or_skip("full_files_are_compressed_and_nothing_is_lost", "gzip") {
        return;
    }
    let superd = count_to("[\"gzip\", \"-9\"]");
    wait_until("the end, and that all full files are compressed", || {
        text(&superd, "count.log").ends_with("over\n") && full(&superd, "").is_empty()
    });
    let files = full(&superd, ".gz");
    assert!(files.len() >= 5, "{files:?}");
    let mut all = String::new();
    for file in &files {
        let said = run(Command::new("gzip").arg("-dc").arg(file));
        assert_eq!(said.code, 0, "{file:?}");
        all += &said.out;
        assert!(fs::metadata(file).unwrap().len() < 8_000);
    }
    all += &text(&superd, "count.log");
    assert_eq!(all.lines().count(), SOME + 1);
    for (n, line) in all.lines().take(SOME).enumerate() {
        assert_eq!(line, format!("number {n} of this service"));
    }
    assert!(!superd.place.file("count.log.gz-part").exists());
    assert!(!superd.place.log().contains("compressing"));
}

#[test]
fn a_compressor_that_is_not_there_or_fails_is_said_once_and_leaves_the_files() {
    for (command, why) in [
        (
            "[\"/no/such/gzip\"]",
            "/no/such/gzip: No such file or directory",
        ),
        ("[\"/bin/false\"]", "/bin/false: it ended with status 1"),
    ] {
        let superd = count_to(command);
        let line = format!("compressing with {why}; full files stay as they are");
        wait_until("that it is said", || superd.place.log().contains(&line));
        wait_until("the end", || text(&superd, "count.log").ends_with("over\n"));
        assert!(full(&superd, "").len() >= 5 && full(&superd, ".gz").is_empty());
        assert_eq!(superd.place.log().matches("compressing").count(), 1);
        superd.end();
    }
}

#[test]
fn a_directory_that_is_gone_while_files_are_compressed_is_named() {
    let gate = "read x < $DIR/gate; cat";
    let place = Place::new();
    nix::unistd::mkfifo(&place.file("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(place.file("logs")).unwrap();
    let output = format!(
        "{{ file = \"$DIR/logs/count.log\", max-size = \"16KiB\", \
         compress = [\"/bin/bash\", \"-c\", \"{gate}\"] }}"
    );
    place.configure(Flavour::NoCgroups, &counter(1_000, &output));
    let superd = place.resume();
    wait_until("the end", || {
        text(&superd, "logs/count.log").ends_with("over\n")
    });
    let mut gate = fs::OpenOptions::new()
        .write(true)
        .open(superd.place.file("gate"))
        .unwrap();
    fs::remove_dir_all(superd.place.file("logs")).unwrap();
    gate.write_all(b"x\n").unwrap();
    let line =
        "count.log: compressing with /bin/bash: its directory: No such file or directory; full";
    wait_until("it is said", || superd.place.log().contains(line));
    superd.end();
}

#[test]
fn a_compressor_that_hangs_is_killed_and_said() {
    let superd = count_to("[\"/bin/bash\", \"-c\", \"echo $$ > $DIR/pid; exec sleep 1000\"]");
    let pid = || text(&superd, "pid").trim().parse::<i32>().ok();
    let pid = wait_for("the compressor", pid);
    wait_until("that it is said", || {
        let line = "compressing with /bin/bash: not done after 20 s, killed; full files stay";
        superd.place.log().contains(line)
    });
    assert!(!alive(pid));
    assert!(full(&superd, "").len() >= 5 && full(&superd, ".gz").is_empty());
}

#[test]
fn a_superd_that_is_killed_while_a_file_is_compressed_leaves_the_whole_file() {
    if !program_or_skip("a_superd_that_is_killed_while_a_file_is_compressed", "gzip") {
        return;
    }
    let compress = "[\"/bin/bash\", \"-c\", \"if [ -e $DIR/well ]; then exec gzip; fi; \
                    echo half; echo $$ > $DIR/pid; exec sleep 1000\"]";
    let output = format!(
        "output = {{ file = \"$DIR/parrot.log\", max-size = \"16KiB\", compress = {compress} }}\n"
    );
    let superd = Superd::start(&(PARROT.to_owned() + &output));
    let say = |superd: &Superd, line: &str| {
        let mut fifo = fs::OpenOptions::new()
            .write(true)
            .open(superd.place.file("say"));
        fifo.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    };
    wait_until("the parrot", || {
        text(&superd, "parrot.log").contains("begun")
    });
    let line = "x".repeat(1_000) + "\n";
    (0..20).for_each(|_| say(&superd, &line));
    let pid = || text(&superd, "pid").trim().parse::<i32>().ok();
    let pid = wait_for("the compressor", pid);
    let place = superd.abandon();
    wait_until("the compressor is gone too", || !alive(pid));
    let whole = fs::read(place.file("parrot.log.1")).unwrap();
    assert!(whole.len() > 8_000 && !place.file("parrot.log.1.gz").exists());
    assert_eq!(
        fs::read(place.file("parrot.log.gz-part")).unwrap(),
        b"half\n"
    );
    fs::write(place.file("well"), "").unwrap();
    let superd = place.resume();
    // It is looked for when the file is opened, with the next line.
    say(&superd, "next\n");
    let packed = superd.place.file("parrot.log.1.gz");
    wait_until("the file", || packed.exists());
    wait_until("the end of it", || {
        !superd.place.file("parrot.log.1").exists()
    });
    assert!(!superd.place.file("parrot.log.gz-part").exists());
    let said = run(Command::new("gzip").arg("-dc").arg(&packed));
    assert!(said.out.as_bytes() == whole);
}
