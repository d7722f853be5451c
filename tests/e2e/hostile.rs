//! Bad input: clients and services that do their worst. None stops superd or another service.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;

use crate::support::*;

const WEB: &str = r#"
    [service.web]
    command = [$TWIN:web, "obey"]
"#;

/// superd works as if nothing had happened, and so does the service.
fn unharmed(s: &Superd) {
    assert_eq!(s.state("web"), "up");
    s.assert_starts("web", 1);
    assert_eq!(s.record("web").count("signal"), 0);
    let threads = status_field(s.pid, "Threads").unwrap();
    assert_eq!(threads, "1");
}

fn rss_kib(pid: i32) -> u64 {
    let text = status_field(pid, "VmRSS").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn connect(s: &Superd) -> UnixStream {
    let stream = UnixStream::connect(s.place.socket()).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

#[test]
fn garbage_is_answered_or_hung_up_on() {
    let s = Superd::start(WEB);
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    for garbage in [
        &b"\n\n\n\n"[..],
        b"hello\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"{\"v\":2,\"id\":1,\"do\":\"status\"}\n",
        b"{\"v\":1,\"id\":1,\"do\":\"explode\"}\n",
        b"{\"v\":1,\"id\":-1,\"do\":\"status\"}\n",
        b"{\"v\":1,\"id\":1,\"do\":\"stop\"}\n",
        b"{\"v\":1,\"id\":1,\"do\":\"stop\",\"service\":\"\\u0000\"}\n",
        b"{\"v\":1,\"id\":1,\"do\":\"signal\",\"service\":\"web\",\"signal\":\"BANG\"}\n",
        b"\xff\xfe\x00\x01\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = connect(&s);
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).ok(); // a reset is an answer, too
        for line in said.lines() {
            let reply: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(reply["ok"], false, "{garbage:?}: {reply}");
        }
    }
    let deep = format!("{}{}\n", "[".repeat(16_000), "]".repeat(300));
    connect(&s).write_all(deep.as_bytes()).unwrap();
    unharmed(&s);
    s.end();
}

#[test]
fn a_line_of_a_gigabyte_costs_nothing() {
    let s = Superd::start(WEB);
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let before = rss_kib(s.pid);
    let mut stream = connect(&s);
    let block = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < 1 << 30 {
        match stream.write(&block) {
            Ok(n) => sent += n,
            Err(_) => break, // hung up on: that is what is hoped for
        }
    }
    assert!(sent < 1 << 24, "{sent} bytes of one line were read");
    let grown = rss_kib(s.pid).saturating_sub(before);
    assert!(grown < 2048, "{grown} KiB");
    unharmed(&s);
    s.end();
}

#[test]
fn half_lines_and_silence_keep_nobody_waiting() {
    let s = Superd::start(WEB);
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let mut held: Vec<UnixStream> = (0..20).map(|_| connect(&s)).collect();
    for stream in &mut held {
        stream.write_all(b"{\"v\":1,\"id\":1,").unwrap();
    }
    unharmed(&s);
    // The rest of the line is still good.
    held[0].write_all(b"\"do\":\"status\"}\n").unwrap();
    let mut one = [0; 1];
    held[0].read_exact(&mut one).unwrap();
    s.end();
}

#[test]
fn a_thousand_connections_are_bounded_and_the_operator_gets_in_again() {
    let s = Superd::start(WEB);
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let before = rss_kib(s.pid);
    let held: Vec<UnixStream> = (0..1000).map(|_| connect(&s)).collect();
    wait_until("superd has dealt with all of them", || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", s.pid)).unwrap();
        open.count() < 32 + 40
    });
    let grown = rss_kib(s.pid).saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    // The service does not notice.
    assert_eq!(s.record("web").count("signal"), 0);
    drop(held);
    let said = s.ctl(&["status", "web"]);
    assert_eq!(said.code, 0, "{said:?}");
    unharmed(&s);
    s.end();
}

#[test]
fn who_never_reads_is_dropped_and_not_waited_for() {
    let s = Superd::start(WEB);
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let before = rss_kib(s.pid);
    let mut stream = connect(&s);
    stream.set_nonblocking(true).unwrap();
    // As many questions as superd will take without ever being read from.
    let line = b"{\"v\":1,\"id\":1,\"do\":\"doctor\"}\n";
    let mut asked = 0;
    for _ in 0..200_000 {
        match stream.write(line) {
            Ok(_) => asked += 1,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(_) => break,
        }
    }
    assert!(asked > 0);
    unharmed(&s);
    let grown = rss_kib(s.pid).saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    // Nor does it keep superd from ending.
    s.end();
}

#[test]
fn a_follower_that_never_reads_costs_a_bounded_amount() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        [service.flood]
        command = [$TWIN:flood, "flood", "--bytes", "20000000"]
        output = "ring"
        autostart = false
        "#,
    );
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let mut raw = s.raw();
    raw.send(&json!({"do": "logs", "service": "flood", "follow": true}));
    let before = rss_kib(s.pid);
    s.ok(&["start", "flood"]);
    s.wait_record("flood", "flooded", 1);
    let grown = rss_kib(s.pid).saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    unharmed(&s);
    s.end();
}

#[test]
fn a_flood_of_output_disturbs_nobody() {
    let s = Superd::start(
        r#"
        log = "none"
        [service.web]
        command = [$TWIN:web, "obey"]
        [service.flood]
        command = [$TWIN:flood, "flood"]
        stop = [{ signal = "TERM", wait = "100ms" }]
        "#,
    );
    s.wait_record("web", "start", 1);
    s.wait_record("flood", "flooding", 1);
    s.wait_state("web", "up");
    for _ in 0..20 {
        unharmed(&s);
        let tail = s.ok(&["logs", "-n", "3", "flood"]);
        assert!(tail.lines().count() <= 3);
    }
    assert!(rss_kib(s.pid) < 20_000, "{} KiB", rss_kib(s.pid));
    s.ctl(&["stop", "flood"]);
    assert_eq!(s.state("flood"), "down");
    s.end();
}

#[test]
fn binary_output_cannot_drive_anybodys_terminal() {
    let s = Superd::start(
        r#"
        [service.rude]
        command = ["/bin/sh", "-c", "printf 'a\\033[2Jb\\377\\000c\\n'; exec sleep 1000"]
        "#,
    );
    wait_until("the line is there", || !s.ok(&["logs", "rude"]).is_empty());
    let lines = s.ask(json!({"do": "logs", "service": "rude"}));
    let text = lines[0]["line"]["text"].as_str().unwrap().to_owned();
    assert!(text.starts_with('a') && text.ends_with('c'), "{text:?}");
    s.end();
}

#[test]
fn a_service_may_close_its_output() {
    let s = Superd::start(
        r#"
        [service.quiet]
        command = [$TWIN:quiet, "close-stdout"]
        "#,
    );
    s.wait_record("quiet", "start", 1);
    s.wait_state("quiet", "up");
    assert_eq!(s.ok(&["stop", "quiet"]), "quiet: stopped, clean\n");
    s.end();
}

#[test]
fn notify_storms_disturb_nobody() {
    let s = Superd::start(WEB);
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    socket.set_nonblocking(true).unwrap();
    let path = s.place.file("run/notify");
    for n in 0..20_000 {
        let text = ["STOPPING=1", "READY=1", "MAINPID=1", "RELOADING=1"][n % 4];
        socket.send_to(text.as_bytes(), &path).ok(); // a full queue is as good
    }
    unharmed(&s);
    assert_eq!(s.pid_of("web"), s.record("web").first("start").pid);
    s.end();
}

#[test]
fn signals_in_any_number_disturb_nobody() {
    let s = Superd::start(WEB);
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    for n in 0..20_000 {
        let signals = [libc::SIGCHLD, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE];
        s.signal(signals[n % 4]);
    }
    unharmed(&s);
    s.end();
}

#[test]
fn with_no_descriptor_left_superd_lives_and_says_so() {
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    place.configure(
        Flavour::NoCgroups,
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        [service.more]
        command = [$TWIN:more, "obey"]
        autostart = false
        restart-delay = "10ms"
        "#,
    );
    let mut command = place.command(&place.superd_args());
    // SAFETY: setrlimit(2) is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 30,
                rlim_max: 30,
            };
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            Ok(())
        });
    }
    let s = Superd::launch(place, command);
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let mut held: Vec<UnixStream> = Vec::new();
    let full = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", s.pid)).unwrap();
        open.count() >= 29
    };
    for _ in 0..40 {
        held.push(connect(&s));
    }
    // Who asks gets in, in the place of one that only sits there.
    assert!(s.ok(&["status", "web"]).contains("up"));
    if full() {
        s.ctl(&["start", "--no-wait", "more"]);
    }
    drop(held);
    // It comes up by itself as soon as there are descriptors again.
    s.ctl(&["start", "--no-wait", "more"]);
    s.wait_record("more", "start", 1);
    s.wait_state("more", "up");
    unharmed(&s);
    s.end();
}

#[test]
fn the_operator_gets_in_when_services_have_taken_all_descriptors() {
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    let more: String = (0..60)
        .map(|n| format!("[service.s{n}]\ncommand = [\"/bin/sleep\", \"1000\"]\n"))
        .collect();
    place.configure(Flavour::NoCgroups, &more);
    let mut command = place.command(&place.superd_args());
    // SAFETY: setrlimit(2) is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 60,
                rlim_max: 60,
            };
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            Ok(())
        });
    }
    let s = Superd::launch(place, command);
    wait_until("there is no descriptor left", || {
        s.place.log().contains("Too many open files")
    });
    // One that stays, and one beside it; who comes then is told why, or takes an idle one's place.
    let mut stays = s.raw();
    assert!(stays.ask(&json!({"do": "status"})).len() > 1);
    assert!(s.ctl(&["status"]).out.contains("s59"));
    let _idle: Vec<UnixStream> = (0..10).map(|_| connect(&s)).collect();
    assert!(s.ok(&["status", "s0"]).contains("up"));
    s.ok(&["stop", "s0"]);
    assert_eq!(s.state("s0"), "down");
    s.end();
}

#[test]
fn the_operator_gets_in_while_a_service_crashes_all_the_time() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        [service.crash]
        command = ["/bin/false"]
        restart-delay = "1ms"
        max-delay = "1ms"
        crash-loop = false
        "#,
    );
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    wait_until("it has crashed a hundred times", || {
        s.status("crash")["restarts"].as_u64() >= Some(100)
    });
    s.ok(&["stop", "crash"]);
    assert_eq!(s.state("crash"), "down");
    unharmed(&s);
    s.end();
}

#[test]
fn idle_costs_nothing() {
    alone(|| {
        let toml: String = (0..100)
            .map(|n| format!("[service.s{n}]\ncommand = [\"/bin/sleep\", \"1000000\"]\n"))
            .collect();
        let s = Superd::start(&toml);
        wait_until("all are up", || {
            let lines = s.ask(json!({"do": "status"}));
            lines
                .iter()
                .filter(|l| l["status"]["state"] == "up")
                .count()
                == 100
        });
        let counted = || {
            let field = |key: &str| -> u64 { status_field(s.pid, key).unwrap().parse().unwrap() };
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", s.pid)).unwrap();
            let ticks: Vec<u64> = stat
                .rsplit(") ")
                .next()
                .unwrap()
                .split(' ')
                .skip(11)
                .take(2)
                .map(|t| t.parse().unwrap())
                .collect();
            let switches = field("voluntary_ctxt_switches") + field("nonvoluntary_ctxt_switches");
            (switches, ticks)
        };
        // The last clients are gone as soon as nothing changes any more.
        let mut last = counted();
        wait_until("superd sleeps", || {
            std::thread::sleep(Duration::from_millis(200));
            let now = counted();
            let same = now == last;
            last = now;
            same
        });
        // Time has to pass here: that nothing happens in it is the claim.
        std::thread::sleep(Duration::from_secs(10));
        let after = counted();
        tell(&format!(
            "idle, 100 services, 5 s: {} context switches, {} ticks",
            after.0 - last.0,
            after.1.iter().sum::<u64>() - last.1.iter().sum::<u64>()
        ));
        assert_eq!(after, last);
        s.end();
    });
}

#[test]
fn a_late_signal_does_not_cut_off_the_last_answers() {
    alone(|| {
        let mut s = Superd::start(
            r#"
            ring = "1MiB"
            [service.web]
            command = [$TWIN:web, "lines", "4000"]
            "#,
        );
        s.wait_record("web", "start", 1);
        wait_until("all lines are there", || {
            s.ok(&["logs", "-n", "1", "web"]).contains("line 4000")
        });
        // More than fits into the socket, and not read yet.
        let mut slow = s.raw();
        let id = slow.send(&json!({"do": "logs", "service": "web", "lines": 4000}));
        let first = slow.reply().unwrap();
        assert_eq!((&first["id"], &first["more"]), (&json!(id), &json!(true)));
        // Its answer goes out when everything is down: now superd waits for the slow one.
        let answer = s.ask(json!({"do": "shutdown", "wait": true}));
        assert_eq!(answer[0]["ok"], true);
        for _ in 0..10 {
            if s.is_alive() {
                s.signal(libc::SIGUSR1);
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut last = String::new();
        while let Some(line) = slow.line() {
            last = line;
        }
        let whole: Result<serde_json::Value, _> = serde_json::from_str(&last);
        let is_last = whole.is_ok_and(|reply| reply["more"] != true);
        assert!(is_last, "cut off: {last}");
        assert_eq!(s.wait().code(), Some(0));
    });
}

#[test]
fn what_no_client_should_do_is_a_line_in_the_log() {
    let s = Superd::start("[service.web]\ncommand = [$TWIN:web, \"obey\"]\n");
    s.wait_state("web", "up");
    let connect = || std::os::unix::net::UnixStream::connect(s.place.socket()).unwrap();
    connect().write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let line = format!("(pid {}", std::process::id());
    wait_until("it is said", || {
        let log = s.place.log();
        let mut said = log
            .lines()
            .filter(|l| l.contains("sent what is no request"));
        said.any(|l| l.contains("control: ") && l.contains(&line))
    });
    // Many are one line and a number, and superd is unharmed.
    for _ in 0..20 {
        let mut stream = connect();
        stream.write_all(b"\x00\x01garbage\n").unwrap();
        assert!(stream.read(&mut [0; 512]).unwrap() > 0, "it is told");
    }
    assert_eq!(s.state("web"), "up");
    assert!(s.place.log().matches("sent what is no request").count() <= 2);
    s.end();
}
