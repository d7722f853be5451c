//! One stop: however many ask for it, and whoever else is at it, the service is stopped once.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{json, Value};

use crate::support::*;

const REQUESTS: usize = 10_000;
const CLIENTS: usize = 32;

/// Takes at least 500 ms to stop, and at least until `gate` is there: however slow the
/// machine is, every request comes while it is stopping.
const SLOW: &str = r#"
    [service.slow]
    command = [$TWIN:slow, "slow-stop", "500", "--gate", "$DIR/gate"]
    stop = [{ signal = "TERM", wait = "10m" }]
    [service.bystander]
    command = [$TWIN:bystander, "obey"]
"#;

#[derive(Default)]
struct Told {
    answers: usize,
    joined: usize,
}

/// Sends this client's share of the requests, and one more that waits for the end; reads
/// every answer. `sent` counts the answers of all clients.
fn storm(s: &Superd, share: usize, answered: &AtomicUsize) -> Told {
    let mut raw = s.raw();
    let request = json!({"do": "stop", "service": "slow"});
    let mut writer = raw.stream.try_clone().unwrap();
    let all: String = (1..=share)
        .map(|id| {
            let mut request = request.clone();
            request["v"] = json!(1);
            request["id"] = json!(id);
            request["wait"] = json!(id == share);
            format!("{request}\n")
        })
        .collect();
    // superd stops reading from who does not read: both at once.
    let writing = thread::spawn(move || writer.write_all(all.as_bytes()).unwrap());
    let mut told = Told::default();
    let mut ids = Vec::new();
    while told.answers < share {
        let reply = raw.reply().expect("an answer to each request");
        ids.push(reply["id"].as_u64().unwrap());
        told.answers += 1;
        told.joined += usize::from(reply["joined"] == true);
        assert_eq!(reply["ok"], true, "{reply}");
        answered.fetch_add(1, Ordering::SeqCst);
    }
    writing.join().unwrap();
    ids.sort_unstable();
    let expected: Vec<u64> = (1..=share as u64).collect();
    assert_eq!(ids, expected, "each request has one answer");
    told
}

#[test]
fn ten_thousand_requests_of_32_clients_are_one_stop() {
    let s = Superd::start(SLOW);
    s.wait_record("slow", "start", 1);
    s.wait_state("slow", "up");
    let answered = AtomicUsize::new(0);
    let told: Vec<Told> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let share = REQUESTS / CLIENTS + usize::from(n < REQUESTS % CLIENTS);
                let (s, answered) = (&s, &answered);
                scope.spawn(move || storm(s, share, answered))
            })
            .collect();
        // Everybody has been told that it is stopping; the 32 who wait have not.
        wait_until("all but the waiting are answered", || {
            answered.load(Ordering::SeqCst) >= REQUESTS - CLIENTS
        });
        std::fs::write(s.place.file("gate"), "").unwrap();
        clients.into_iter().map(|c| c.join().unwrap()).collect()
    });
    assert_eq!(told.iter().map(|t| t.answers).sum::<usize>(), REQUESTS);
    assert_eq!(s.state("slow"), "down");
    let record = s.record("slow");
    assert_eq!(record.count("signal"), 1, "{:?}", record.rest("signal"));
    assert_eq!(record.count("signal TERM"), 1);
    assert_eq!(record.rest("exit"), ["0"]);
    let end = s.last_end("slow");
    assert_eq!(end["absorbed"], json!(REQUESTS - 1), "{end}");
    assert_eq!(end["verdict"], "clean");
    assert_eq!(s.ends("slow").len(), 1);
    assert_eq!(s.state("bystander"), "up");
    s.end();
}

#[test]
fn ten_thousand_requests_and_ten_thousand_sigterms_are_one_stop() {
    let mut s = Superd::start(SLOW);
    s.wait_record("slow", "start", 1);
    s.wait_state("slow", "up");
    let answered = AtomicUsize::new(0);
    let stormed = AtomicBool::new(false);
    let told: Vec<Told> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let share = REQUESTS / CLIENTS + usize::from(n < REQUESTS % CLIENTS);
                let (s, answered) = (&s, &answered);
                scope.spawn(move || storm(s, share, answered))
            })
            .collect();
        let (s, stormed) = (&s, &stormed);
        scope.spawn(move || {
            for n in 0..REQUESTS {
                s.signal(if n % 4 == 3 {
                    libc::SIGINT
                } else {
                    libc::SIGTERM
                });
            }
            stormed.store(true, Ordering::SeqCst);
        });
        wait_until("all but the waiting are answered", || {
            answered.load(Ordering::SeqCst) >= REQUESTS - CLIENTS && stormed.load(Ordering::SeqCst)
        });
        std::fs::write(s.place.file("gate"), "").unwrap();
        clients.into_iter().map(|c| c.join().unwrap()).collect()
    });
    assert_eq!(told.iter().map(|t| t.answers).sum::<usize>(), REQUESTS);
    assert_eq!(s.wait().code(), Some(0));
    s.assert_nothing_left();
    let record = s.record("slow");
    assert_eq!(record.count("signal"), 1, "{:?}", record.rest("signal"));
    assert_eq!(record.count("signal TERM"), 1);
    assert_eq!(s.record("bystander").count("signal"), 1);
}

#[test]
fn a_million_sigterms_are_one_stop() {
    let mut s = Superd::start(SLOW);
    s.wait_record("slow", "start", 1);
    s.wait_state("slow", "up");
    for _ in 0..100_000 {
        s.signal(libc::SIGTERM);
    }
    std::fs::write(s.place.file("gate"), "").unwrap();
    assert_eq!(s.wait().code(), Some(0));
    assert_eq!(s.record("slow").count("signal"), 1);
}

#[test]
fn a_second_stop_does_not_move_the_deadline() {
    let s = Superd::start(
        r#"
        [service.deaf]
        command = [$TWIN:deaf, "ignore"]
        stop = [{ signal = "TERM", wait = "600ms" }]
        "#,
    );
    s.wait_record("deaf", "start", 1);
    s.wait_state("deaf", "up");
    let pidfd = Pidfd::of(s.pid_of("deaf")).unwrap();
    let began = monotonic();
    let mut raw = s.raw();
    let mut last = u64::MAX;
    loop {
        let reply = raw.ask(&json!({"do": "stop", "service": "deaf"})).remove(0);
        if pidfd.wait(Duration::from_millis(20)) {
            break;
        }
        if let Some(left) = reply["left_ms"].as_u64() {
            assert!(left <= last, "the time left grows: {last} {left}");
            last = left;
        }
    }
    let took = Duration::from_nanos(monotonic() - began);
    assert!(took >= Duration::from_millis(600), "{took:?}");
    // Generous, for a busy machine: 25 requests would have made it 15 s.
    assert!(took < Duration::from_secs(5), "{took:?}");
    s.wait_state("deaf", "down");
    let record = s.record("deaf");
    assert_eq!(record.count("signal TERM"), 1);
    assert!(s.last_end("deaf")["absorbed"].as_u64() > Some(5));
    s.end();
}

const GRACE: u64 = 50_000_000;

/// What a machine as busy as this one makes of the same grace when nothing is in the way: a
/// timer of this thread, KILL, and the notice of the death. In nanoseconds after the deadline.
///
/// Without cgroups the tree has to be found before it can be killed, or its children would be
/// lost with their parent: a walk through /proc.
fn kill_by_hand(place: &Place, flavour: Flavour) -> i64 {
    let args = [twin().display().to_string(), "ignore".to_owned()];
    let mut child = place.command(&args).spawn().unwrap();
    let pidfd = Pidfd::of(child.id() as i32).unwrap();
    let deadline = monotonic() + GRACE;
    sleep_until(deadline);
    if flavour == Flavour::NoCgroups {
        children_of(child.id() as i32);
    }
    child.kill().unwrap();
    assert!(pidfd.wait(LIMIT));
    let died = monotonic();
    child.wait().unwrap();
    died as i64 - deadline as i64
}

/// How late KILL came, in nanoseconds after what [`kill_by_hand`] gives: medians of many,
/// because each sample is late by chance. superd is woken as the hand is, and then once more
/// by chance: on a busy machine that counts twice.
fn measure_grace(flavour: Flavour) -> i64 {
    let s = Superd::start_in(
        flavour,
        r#"
        [service.deaf]
        command = [$TWIN:deaf, "ignore"]
        stop = [{ signal = "TERM", wait = "50ms" }]
        autostart = false
        "#,
    );
    let (mut late, mut by_hand) = (Vec::new(), Vec::new());
    let mut heard = 0;
    for n in 1..=21 {
        s.ok(&["start", "deaf"]);
        let record = s.wait_record("deaf", "start", n);
        let pidfd = Pidfd::of(record.all("start").last().unwrap().pid).unwrap();
        let mut raw = s.raw();
        let asked = monotonic();
        raw.send(&json!({"do": "stop", "service": "deaf"}));
        assert!(pidfd.wait(LIMIT));
        let died = monotonic();
        let record = s.record("deaf");
        let early = (asked + GRACE).saturating_sub(died);
        assert_eq!(early, 0, "nanoseconds too early");
        // A busy machine may not let it run for the whole of its grace.
        if record.count("signal TERM") > heard {
            heard += 1;
            let told = record.all("signal TERM").last().unwrap().at;
            late.push(died as i64 - (told + GRACE) as i64);
        }
        s.wait_state("deaf", "down");
        by_hand.push(kill_by_hand(&s.place, flavour));
    }
    s.end();
    if late.len() < by_hand.len() / 2 {
        return i64::MAX;
    }
    let median = |all: &mut Vec<i64>| {
        all.sort_unstable();
        all[all.len() / 2]
    };
    let (superd, hand) = (median(&mut late), median(&mut by_hand));
    let ms = |ns: i64| ns as f64 / 1e6;
    tell(&format!(
        "grace, {flavour:?}: KILL {:.3} ms after the deadline (median of {}; least {:.3}, \
         most {:.3}); by hand {:.3}",
        ms(superd),
        late.len(),
        ms(late[0]),
        ms(late[late.len() - 1]),
        ms(hand)
    ));
    superd - 2 * hand
}

in_both_flavours! {
    fn kill_comes_never_early_and_at_most_a_millisecond_late(flavour: Flavour) {
        alone(|| {
            // Something else on the machine may be busy: one quiet batch of five will do.
            let good = (0..5).any(|_| measure_grace(flavour) <= 1_000_000);
            assert!(good, "see the lines that begin with `grace`");
        });
    }
}

#[test]
fn steps_follow_each_other_and_end_when_the_service_is_gone() {
    let s = Superd::start(
        r#"
        [service.deaf]
        command = [$TWIN:deaf, "ignore"]
        stop = [
            { signal = "USR1", wait = "30ms" },
            { run = [$TWIN:deaf, "mark", "step"], until = "done", wait = "30s" },
            { signal = "TERM", wait = "30ms" },
            { signal = "QUIT", wait = "30ms" },
        ]
        [service.meek]
        command = [$TWIN:meek, "obey"]
        stop = [{ signal = "TERM", wait = "10m" }, { signal = "QUIT", wait = "10m" }]
        "#,
    );
    s.wait_record("deaf", "start", 1);
    s.wait_record("meek", "start", 1);
    s.ok(&["stop", "meek"]);
    assert_eq!(s.record("meek").count("signal"), 1);
    assert_eq!(s.verdict("meek"), "clean");

    let said = s.ctl(&["stop", "deaf"]);
    assert!(said.out.contains("killed"), "{said:?}");
    let record = s.record("deaf");
    let order: Vec<&str> = record
        .0
        .iter()
        .map(|n| n.what.as_str())
        .filter(|w| w.starts_with("signal") || w.starts_with("mark"))
        .map(|w| w.split(" from").next().unwrap())
        .collect();
    assert_eq!(
        order,
        ["signal USR1", "mark step", "signal TERM", "signal QUIT"]
    );
    assert_eq!(s.verdict("deaf"), "killed");
    let steps = s.last_end("deaf")["steps"].clone();
    let outcomes: Vec<&Value> = steps
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["outcome"])
        .collect();
    assert_eq!(outcomes[1], "held", "{steps}");
    assert_eq!(outcomes[0], "timed-out", "{steps}");
    s.end();
}

#[test]
fn a_step_waits_for_a_line_of_output() {
    let s = Superd::start(
        r#"
        [service.talker]
        command = [$TWIN:talker, "slow-stop", "0", "--gate", "$DIR/gate", "--say", "all drained now"]
        stop = [
            { signal = "TERM", until = "log=drained", wait = "10m" },
            { signal = "USR1", until = "gone", wait = "10m" },
        ]
        "#,
    );
    s.wait_record("talker", "start", 1);
    s.wait_state("talker", "up");
    s.ok(&["stop", "--no-wait", "talker"]);
    s.wait_record("talker", "signal USR1", 1);
    std::fs::write(s.place.file("gate"), "").unwrap();
    s.wait_state("talker", "down");
    assert_eq!(s.verdict("talker"), "clean");
    s.end();
}

#[test]
fn a_step_waits_for_ports_to_close_and_settles() {
    let s = Superd::start(
        r#"
        [service.nats]
        command = [$TWIN:nats, "twohandlers", "--listen", "$HOST:4222", "--panic", "100"]
        stop = [
            { signal = "USR2", until = "ports-closed", wait = "10m", settle = "50ms" },
            { signal = "TERM", wait = "10m" },
        ]
        "#,
    );
    s.wait_record("nats", "start", 1);
    s.wait_state("nats", "up");
    assert_eq!(s.ok(&["stop", "nats"]), "nats: stopped, clean\n");
    let record = s.record("nats");
    let settled = record.first("signal TERM").at - record.first("port closed").at;
    assert!(settled >= 50_000_000, "{settled}");
    assert_eq!(record.count("cleanup"), 1);
    s.end();
}

#[test]
fn a_step_waits_until_the_service_says_that_it_stops() {
    let s = Superd::start(
        r#"
        [service.polite]
        command = [$TWIN:polite, "slow-stop", "0", "--gate", "$DIR/gate", "--tell", "$DIR/tell"]
        stop = [
            { signal = "TERM", until = "stopping", wait = "10m" },
            { run = [$TWIN:polite, "mark", "next"], until = "done", wait = "10m" },
            { signal = "USR1", wait = "10m" },
        ]
        [service.mute]
        command = [$TWIN:mute, "ignore"]
        stop = [
            { signal = "TERM", until = "stopping", wait = "20ms" },
            { signal = "USR1", until = "gone", wait = "20ms" },
        ]
        "#,
    );
    for name in ["polite", "mute"] {
        s.wait_record(name, "start", 1);
        s.wait_state(name, "up");
    }
    s.ok(&["stop", "--no-wait", "polite"]);
    s.wait_record("polite", "signal TERM", 1);
    // One that does not say it has its time, and then comes the next step.
    s.ctl(&["stop", "mute"]);
    let steps = &s.last_end("mute")["steps"];
    assert_eq!(steps[0]["outcome"], "timed-out", "{steps}");
    assert_eq!(s.record("mute").count("signal USR1"), 1);
    assert_eq!(
        s.record("polite").count("mark next"),
        0,
        "it has not said it"
    );
    std::fs::write(s.place.file("tell"), "").unwrap();
    let record = s.wait_record("polite", "signal USR1", 1);
    let order = ["notify STOPPING=1", "mark next", "signal USR1"].map(|what| record.first(what).at);
    assert!(order.is_sorted(), "{record:?}");
    std::fs::write(s.place.file("gate"), "").unwrap();
    s.wait_state("polite", "down");
    let end = s.last_end("polite");
    assert_eq!(end["steps"][0]["outcome"], "held", "{end}");
    s.end();
}

#[test]
fn a_stop_by_http_is_made_over_tcp_and_unix_sockets() {
    let s = Superd::start(
        r#"
        [service.tcp]
        command = [$TWIN:tcp, "doublestop", "--listen", "$HOST:2019", "--drain", "0"]
        stop = [{ http = "POST http://$HOST:2019/stop", wait = "10m" }]
        [service.unix]
        command = [$TWIN:unix, "doublestop", "--listen", "unix:$DIR/admin", "--drain", "0"]
        stop = [{ http = "POST unix:$DIR/admin:/stop", wait = "10m" }]
        [service.mute]
        command = [$TWIN:mute, "obey"]
        stop = [{ http = "POST http://$HOST:9/stop", wait = "10m" }, { signal = "TERM", wait = "10m" }]
        "#,
    );
    for name in ["tcp", "unix", "mute"] {
        s.wait_record(name, "start", 1);
        s.wait_state(name, "up");
    }
    for name in ["tcp", "unix"] {
        assert_eq!(s.ok(&["stop", name]), format!("{name}: stopped, clean\n"));
        let record = s.record(name);
        assert_eq!(record.count("api stop"), 1);
        assert_eq!(record.count("signal"), 0);
    }
    // Nobody listens: that is said, and the next step follows at once.
    s.ctl(&["stop", "mute"]);
    assert_eq!(s.verdict("mute"), "clean-after-escalation");
    let end = s.last_end("mute");
    assert!(end["steps"][0]["outcome"]["skipped"].is_string(), "{end}");
    s.end();
}

fn api_stop(path: &std::path::Path) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream
        .write_all(b"POST /stop HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn who_says_stopping_is_waited_for_and_not_signalled_on_top() {
    let s = Superd::start(
        r#"
        [service.caddy]
        command = [$TWIN:caddy, "doublestop", "--listen", "unix:$DIR/admin", "--drain", "300"]
        restart = "on-failure"
        "#,
    );
    for round in 1..=5 {
        s.wait_record("caddy", "start", round);
        s.wait_state("caddy", "up");
        // Somebody runs `caddy stop` behind our back; then comes our own stop.
        api_stop(&s.place.file("admin"));
        s.ok(&["stop", "caddy"]);
        let record = s.record("caddy");
        assert_eq!(record.count("signal"), 0, "a signal on top");
        assert_eq!(record.count("panic"), 0);
        assert_eq!(s.verdict("caddy"), "clean");
        s.ok(&["start", "caddy"]);
    }
    s.end();
}

#[test]
fn without_stopping_a_rival_stop_is_what_makes_the_twin_panic() {
    let s = Superd::start(
        r#"
        [service.caddy]
        command = [$TWIN:caddy, "doublestop", "--listen", "unix:$DIR/admin", "--drain", "300"]
        notify = false
        "#,
    );
    s.wait_record("caddy", "start", 1);
    s.wait_state("caddy", "up");
    api_stop(&s.place.file("admin"));
    s.ctl(&["stop", "caddy"]);
    assert_eq!(s.verdict("caddy"), "panicked-while-stopping");
    let why = s.ok(&["why", "caddy"]);
    assert!(why.contains("close of closed channel"), "{why}");
    s.end();
}

#[test]
fn an_api_stop_with_any_rival_never_panics() {
    let s = Superd::start(
        r#"
        [service.caddy]
        command = [$TWIN:caddy, "doublestop", "--listen", "unix:$DIR/admin", "--drain", "100"]
        stop = [{ http = "POST unix:$DIR/admin:/stop", wait = "10m" }]
        notify = false
        "#,
    );
    for round in 1..=10 {
        s.wait_record("caddy", "start", round);
        s.wait_state("caddy", "up");
        api_stop(&s.place.file("admin"));
        s.ok(&["stop", "caddy"]);
        assert_eq!(s.record("caddy").count("panic"), 0);
        assert_eq!(s.verdict("caddy"), "clean");
        s.ok(&["start", "caddy"]);
    }
    s.end();
}

#[test]
fn notifications_count_only_from_the_services_own_tree() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "notify", "STATUS=all is well", "STOPPING=0\nX=1\nSTATUS=still well"]
        "#,
    );
    s.wait_record("web", "notified", 1);
    wait_until("several lines in a datagram", || {
        s.status("web")["says"] == "still well"
    });
    // From outside: nobody's, and it is not believed.
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let path = s.place.file("run/notify");
    socket.send_to(b"STATUS=forged", &path).unwrap();
    socket.send_to(b"STOPPING=1", &path).unwrap();
    socket.send_to(&[0xff; 2000], &path).unwrap();
    s.ok(&["stop", "web"]);
    assert_ne!(s.status("web")["says"], "forged");
    let record = s.record("web");
    assert_eq!(record.count("signal TERM"), 1, "STOPPING=1 was believed");
    assert_eq!(s.last_end("web")["stopping_seen"], 0);
    s.end();
}

#[test]
fn orders_in_any_sequence_end_in_what_was_asked_last() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "slow-stop", "5"]
        restart-delay = "1ms"
        crash-loop = false
        "#,
    );
    let mut raw = s.raw();
    let mut seed = 12345_u32;
    for _ in 0..300 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let verb = ["start", "stop", "restart", "stop", "start"][(seed >> 16) as usize % 5];
        let now = verb != "start" && (seed >> 8).is_multiple_of(7);
        raw.send(&json!({"do": verb, "service": "web", "now": now}));
        if (seed >> 20).is_multiple_of(3) {
            thread::sleep(Duration::from_micros(u64::from(seed >> 22)));
        }
        if (seed >> 24).is_multiple_of(16) {
            let pid = s.pid_of("web");
            // Not reaped while superd calls it the main process, or just now: ours anyway.
            if pid > 1 && s.place.processes().contains(&pid) {
                kill(pid, libc::SIGKILL);
            }
        }
    }
    for _ in 0..300 {
        assert!(raw.reply().is_some());
    }
    raw.ask(&json!({"do": "stop", "service": "web", "wait": true}));
    assert_eq!(s.state("web"), "down");
    s.assert_nothing_left();
    let record = s.record("web");
    // Never two: an instance begins after the one before has ended or was killed.
    let mut alive: Option<i32> = None;
    for noted in &record.0 {
        match noted.what.as_str() {
            "start" => {
                alive = Some(noted.pid);
            }
            "exit 0" => assert_eq!(alive, Some(noted.pid), "two at once: {record:?}"),
            _ => {}
        }
    }
    for pid in record.pids() {
        let terms = record
            .0
            .iter()
            .filter(|n| n.pid == pid && n.what.starts_with("signal TERM"));
        assert!(terms.count() <= 1, "two TERMs to {pid}: {record:?}");
    }
    s.end();
}

/// `to`: who of the main process, a child of its group, one in a session of its own and one that
/// was forked twice gets the signal of the first step.
const TO: [(&str, &[&str]); 4] = [
    ("main", &["main"]),
    ("group", &["main", "g"]),
    ("descendants", &["g", "s", "d"]),
    ("tree", &["main", "g", "s", "d"]),
];

in_both_flavours! {
    fn a_signal_reaches_those_that_to_names_and_nobody_else(flavour: Flavour) {
        let service = |to: &str| {
            format!(
                "[service.{to}]\ncommand = [$TWIN:{to}, \"tree\"]\nleftover-grace = \"10m\"\n\
                 stop = [{{ signal = \"USR1\", to = \"{to}\", wait = \"0s\" }}, {{ signal = \"TERM\", wait = \"10m\" }}]\n"
            )
        };
        let s = Superd::start_in(flavour, &TO.map(|(to, _)| service(to)).concat());
        for (to, who) in TO {
            s.wait_record(to, "start", 1);
            s.wait_record(to, "begun", 3);
            s.wait_state(to, "up");
            s.stop(to);
            let record = s.record(to);
            // Who has a signal waiting takes the one with the lower number first: USR1.
            let kind = |pid: i32| {
                let begun = record.all("begun").find(|n| n.pid == pid);
                begun.map_or("main", |n| n.what.strip_prefix("begun ").unwrap())
            };
            let mut got: Vec<&str> = record.all("signal USR1").map(|n| kind(n.pid)).collect();
            got.sort_by_key(|kind| ["main", "g", "s", "d"].iter().position(|k| k == kind));
            assert_eq!(got, who, "{to}: {record:?}");
        }
        s.assert_nothing_left();
        s.end();
    }

    fn a_shutdown_has_its_deadline_wherever_the_schedules_are(flavour: Flavour) {
        let mut s = Superd::start_in(
            flavour,
            r#"
            shutdown-deadline = "300ms"
            [service.deaf]
            command = [$TWIN:deaf, "ignore"]
            stop = [{ signal = "TERM", wait = "10m" }, { signal = "USR1", wait = "10m" }]
            [service.meek]
            command = [$TWIN:meek, "obey"]
            stop = [{ signal = "TERM", wait = "10m" }]
            [service.last]
            command = [$TWIN:last, "obey"]
            stop = [{ signal = "TERM", wait = "10m" }]
            [service.first]
            command = [$TWIN:first, "ignore"]
            requires = ["last"]
            stop = [{ signal = "TERM", wait = "10m" }]
            "#,
        );
        for name in ["deaf", "meek", "last", "first"] {
            s.wait_record(name, "start", 1);
            s.wait_state(name, "up");
        }
        // For a stop of one service it does not matter, and `plan` knows it.
        let plan = s.ok(&["plan", "--json"]);
        let longest = "\"longest_ms\":4300";
        assert!(plan.contains(longest), "0.3 s, 2 s for what is left, 2 s for the ports: {plan}");
        let pidfd = Pidfd::of(s.pid_of("deaf")).unwrap();
        s.signal(libc::SIGTERM);
        assert!(pidfd.wait(LIMIT));
        let died = monotonic();
        assert_eq!(s.wait().code(), Some(0));
        let told = s.record("deaf").first("signal TERM").at;
        assert!(died - told >= 290_000_000, "{} ns", died - told);
        assert_eq!(s.record("deaf").count("signal"), 1, "and no second step");
        assert_eq!(s.record("meek").rest("exit"), ["0"]);
        // Its turn had not come.
        assert_eq!(s.record("last").count("signal"), 0);
        s.assert_nothing_left();
    }
}

#[test]
fn a_name_of_a_signal_is_a_whole_schedule() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        stop = "INT"
        "#,
    );
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    assert_eq!(s.ok(&["stop", "web"]), "web: stopped, clean\n");
    let record = s.record("web");
    assert_eq!((record.count("signal"), record.count("signal INT")), (1, 1));
    s.end();
}

/// A step that nobody sits out in a test that succeeds.
const PATIENT: &str = r#"
    [service.web]
    command = [$TWIN:web, "obey"]
    stop = [{ signal = "TERM", wait = "10m" }]
"#;

in_both_flavours! {
    fn a_service_that_is_stopped_by_sigstop_is_let_go_on_to_end(flavour: Flavour) {
        let s = Superd::start_in(flavour, PATIENT);
        s.wait_record("web", "start", 1);
        s.wait_state("web", "up");
        let pid = s.pid_of("web");
        kill(pid, libc::SIGSTOP);
        wait_until("it stands still", || state_of(pid) == Some('T'));
        s.ok(&["stop", "web"]);
        assert_eq!(s.verdict("web"), "clean");
        assert_eq!(s.record("web").count("signal TERM"), 1);
        s.end();
    }

    fn what_a_service_leaves_behind_standing_still_is_let_go_on_to_end(flavour: Flavour) {
        let s = Superd::start_in(
            flavour,
            r#"
            [service.tree]
            command = [$TWIN:tree, "tree"]
            leftover-grace = "10m"
            "#,
        );
        let record = s.wait_record("tree", "begun", 3);
        s.wait_state("tree", "up");
        let children: Vec<i32> = record.all("begun").map(|n| n.pid).collect();
        for pid in &children {
            kill(*pid, libc::SIGSTOP);
            wait_until("it stands still", || state_of(*pid) == Some('T'));
        }
        s.ctl(&["stop", "tree"]);
        s.assert_nothing_left();
        assert_eq!(s.last_end("tree")["left"], 3);
        s.end();
    }
}

#[test]
fn a_frozen_service_is_thawed_to_end() {
    if !cgroups_or_skip("a_frozen_service_is_thawed_to_end") {
        return;
    }
    let s = Superd::start_in(Flavour::Cgroups, PATIENT);
    s.wait_record("web", "start", 1);
    s.wait_state("web", "up");
    let group = s.place.cgroups()[0].join("web.service");
    if std::fs::write(group.join("cgroup.freeze"), "1").is_err() {
        skip("a_frozen_service_is_thawed_to_end", "needs Linux 5.2");
        return;
    }
    wait_until("it is frozen", || {
        let events = std::fs::read_to_string(group.join("cgroup.events")).unwrap();
        events.contains("frozen 1")
    });
    s.ok(&["stop", "web"]);
    assert_eq!(s.verdict("web"), "clean");
    s.end();
}

#[test]
fn shutdown_says_that_superd_has_ended_when_it_has() {
    for _ in 0..10 {
        let s = Superd::start(
            r#"
            [service.quick]
            command = ["sleep", "1000"]
            "#,
        );
        s.ok(&["shutdown"]);
        // Whoever starts the next one now must not meet it.
        let state = state_of(s.pid);
        assert!(matches!(state, None | Some('Z' | 'X')), "{state:?}");
        s.end();
    }
}

#[test]
fn each_request_to_shut_down_is_counted_once() {
    let s = Superd::start(
        r#"
        [service.slow]
        command = [$TWIN:slow, "slow-stop", "0", "--gate", "$DIR/gate"]
        stop = [{ signal = "TERM", wait = "10m" }]
        "#,
    );
    s.wait_record("slow", "start", 1);
    s.wait_state("slow", "up");
    for _ in 0..4 {
        s.ok(&["shutdown", "--no-wait"]);
    }
    // What came by the latch and what came by the socket are one count.
    s.signal(libc::SIGTERM);
    let absorbed = || s.status("slow")["stop"]["absorbed"].as_u64();
    wait_until("the fifth is counted", || absorbed() >= Some(4));
    s.ok(&["shutdown", "--no-wait"]);
    assert_eq!(absorbed(), Some(5));
    std::fs::write(s.place.file("gate"), "").unwrap();
    s.end();
}
