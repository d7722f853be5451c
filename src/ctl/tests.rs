//! superctl against a fake superd: a thread on a socket in a temporary directory that
//! follows a script. Nothing here is a process. Long, because each case brings its script.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::*;
use crate::control::codec::{decode_line, encode_reply, Line, REPLY_CAP};
use crate::control::reply::{LogLine, Status, StopStatus};
use crate::control::request::{Request, Verb};
use crate::machine::report::Verdict;

/// A place for one test's socket, removed with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("superctl-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Place(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }

    fn listen(&self) -> UnixListener {
        UnixListener::bind(self.socket()).unwrap()
    }

    /// A superd that accepts one client and treats it with `script`.
    fn serve(&self, script: impl FnOnce(Peer) + Send + 'static) -> JoinHandle<()> {
        let listener = self.listen();
        std::thread::spawn(move || script(Peer::accept(&listener)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok(); // only leaves a file in /tmp
    }
}

/// superd's end of a connection.
struct Peer {
    reader: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Peer {
    fn accept(listener: &UnixListener) -> Peer {
        let (stream, _) = listener.accept().unwrap();
        Peer {
            reader: BufReader::new(stream.try_clone().unwrap()),
            stream,
        }
    }

    /// The next request; `None` when superctl has hung up.
    fn request(&mut self) -> Option<Request> {
        let mut line = String::new();
        if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        Some(decode_line(Line::Whole(line.as_bytes())).unwrap().unwrap())
    }

    fn say(&mut self, reply: &Reply) {
        let mut bytes = Vec::new();
        encode_reply(reply, &mut bytes);
        self.stream.write_all(&bytes).ok(); // superctl may have gone already
    }

    fn states(&mut self, id: u64, states: &[Status]) {
        for state in states {
            let mut reply = Reply::ok(id);
            reply.more = true;
            reply.status = Some(Box::new(state.clone()));
            self.say(&reply);
        }
        self.say(&Reply::ok(id));
    }
}

fn state(service: &str, state: &str) -> Status {
    Status {
        service: service.to_owned(),
        state: state.to_owned(),
        want: "up".to_owned(),
        ..Status::default()
    }
}

struct Ran {
    status: i32,
    out: String,
    err: String,
    took: Duration,
}

fn superctl_on(socket: &Path, line: &str, terminal: bool) -> Ran {
    let words = ["superctl", "--socket"].map(OsString::from).into_iter();
    let words = words
        .chain([socket.as_os_str().to_owned()])
        .chain(line.split_whitespace().map(OsString::from));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let around = Around {
        root: None,
        socket: None,
        out_is_terminal: terminal,
        err_is_terminal: terminal,
    };
    let began = Instant::now();
    let status = match args::ctl(words) {
        Ok(ctl) => run(&ctl, &around, &mut out, &mut err),
        Err(instead) => print_instead(&instead, PROGRAM, false, &mut out, &mut err),
    };
    Ran {
        status,
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
        took: began.elapsed(),
    }
}

fn superctl(place: &Place, line: &str) -> Ran {
    superctl_on(&place.socket(), line, false)
}

#[test]
fn status_fails_at_once_when_superd_does_not_run() {
    let place = Place::new();
    let ran = superctl(&place, "status caddy");
    assert_eq!(ran.status, 4);
    assert!(ran.took < Duration::from_millis(1500), "{:?}", ran.took);
    let path = place.socket();
    let expected = format!(
        "superctl: superd is not running (no socket {})\n",
        path.display()
    );
    assert_eq!((ran.err, ran.out), (expected, String::new()));
    // A socket file without a listener is the same to the operator.
    drop(place.listen());
    let ran = superctl(&place, "stop caddy --json");
    assert_eq!((ran.status, ran.err.as_str()), (7, ""));
    let expected = format!(
        "{{\"id\":1,\"ok\":false,\"code\":\"not-running\",\
         \"message\":\"superd is not running (nobody listens on {})\"}}\n",
        path.display()
    );
    assert_eq!(ran.out, expected);
}

#[test]
fn start_waits_for_a_superd_that_is_about_to_listen() {
    let place = Place::new();
    let path = place.socket();
    let server = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(400));
        let listener = UnixListener::bind(path).unwrap();
        let mut peer = Peer::accept(&listener);
        let asked = peer.request().unwrap();
        assert_eq!((asked.verb, asked.wait), (Verb::Start, true));
        peer.say(&Reply::ok(asked.id));
    });
    let ran = superctl(&place, "start caddy");
    server.join().unwrap();
    assert_eq!((ran.status, ran.out.as_str()), (0, "caddy: up\n"));
}

#[test]
fn several_stops_go_out_at_once_and_the_highest_status_counts() {
    let place = Place::new();
    let server = place.serve(|mut peer| {
        let asked: Vec<Request> = (0..3).map(|_| peer.request().unwrap()).collect();
        assert!(asked.iter().all(|r| r.wait && r.verb == Verb::Stop));
        // Answers come in any order.
        let mut clean = Reply::ok(asked[2].id);
        clean.verdict = Some(Verdict::Clean);
        peer.say(&clean);
        peer.say(&Reply::error(
            asked[1].id,
            Code::UnknownService,
            "no such service",
        ));
        peer.say(&Reply::error(asked[0].id, Code::Failed, "it hangs"));
    });
    let ran = superctl(&place, "stop a b c");
    server.join().unwrap();
    assert_eq!(ran.status, 6);
    assert_eq!(ran.out, "c: stopped, clean\n");
    assert_eq!(
        ran.err,
        "superctl: b: no such service\nsuperctl: a: it hangs\n"
    );
}

#[test]
fn a_wait_shows_its_progress_on_a_terminal() {
    let place = Place::new();
    let server = place.serve(|mut peer| {
        let stop = peer.request().unwrap();
        let poll = peer.request().unwrap();
        assert_eq!(
            (poll.verb, poll.service.as_deref()),
            (Verb::Status, Some("caddy"))
        );
        let mut caddy = state("caddy", "stopping");
        caddy.processes = 4;
        caddy.stop = Some(StopStatus {
            step: "TERM sent".to_owned(),
            step_ms: 3200,
            step_of_ms: 15_000,
            left_ms: 13_800,
            absorbed: 0,
        });
        peer.states(poll.id, &[caddy]);
        // It goes on asking.
        peer.request().unwrap();
        peer.say(&Reply::ok(stop.id));
    });
    let ran = superctl_on(&place.socket(), "stop caddy", true);
    server.join().unwrap();
    assert_eq!((ran.status, ran.out.as_str()), (0, "caddy: stopped\n"));
    let line = "caddy: TERM sent, 3.2 s of 15 s, 4 processes left";
    let blank = " ".repeat(line.len());
    assert_eq!(ran.err, format!("\r{line}\r{blank}\r"));
}

#[test]
fn a_timeout_says_that_superd_goes_on() {
    let place = Place::new();
    let server = place.serve(|mut peer| while peer.request().is_some() {});
    let ran = superctl(&place, "--timeout 300ms stop caddy");
    server.join().unwrap();
    assert_eq!(ran.status, 124);
    assert!(ran.err.starts_with("superctl: caddy: not done after "));
    assert!(ran.err.ends_with("; superd goes on with it\n"));
    assert!(ran.took >= Duration::from_millis(300));
}

#[test]
fn a_busy_superd_is_asked_again() {
    let place = Place::new();
    let listener = place.listen();
    let server = std::thread::spawn(move || {
        // At the door: nothing was read.
        let mut peer = Peer::accept(&listener);
        peer.say(&Reply::error(0, Code::Busy, "too many clients"));
        drop(peer);
        // Then for one request only.
        let mut peer = Peer::accept(&listener);
        let first = peer.request().unwrap();
        peer.say(&Reply::error(first.id, Code::Busy, "too many requests"));
        let again = peer.request().unwrap();
        assert_eq!(again, first);
        peer.say(&Reply::ok(again.id));
    });
    let ran = superctl(&place, "restart caddy");
    server.join().unwrap();
    assert_eq!((ran.status, ran.out.as_str()), (0, "caddy: restarted\n"));
    assert_eq!(ran.err, "");
}

#[test]
fn status_says_what_lsb_says() {
    for (states, line, status) in [
        (vec![state("a", "up")], "status a", 0),
        (vec![state("a", "failed")], "status a", 1),
        (vec![state("a", "backoff")], "status a", 1),
        (vec![state("a", "down")], "status a", 3),
        (vec![state("a", "stopping")], "status a", 0),
        (vec![state("a", "levitating")], "status a", 4),
        (vec![state("a", "up"), state("b", "down")], "status", 0),
        (vec![state("a", "up"), state("b", "failed")], "status", 1),
        (vec![], "status", 0),
    ] {
        let place = Place::new();
        let server = place.serve(move |mut peer| {
            let asked = peer.request().unwrap();
            peer.states(asked.id, &states);
        });
        assert_eq!(superctl(&place, line).status, status, "{line}");
        server.join().unwrap();
    }
}

#[test]
fn status_of_an_unknown_service_is_unknown() {
    let place = Place::new();
    let server = place.serve(|mut peer| {
        let a = peer.request().unwrap();
        let b = peer.request().unwrap();
        peer.states(a.id, &[state("a", "failed")]);
        peer.say(&Reply::error(
            b.id,
            Code::UnknownService,
            "no service \"b\"",
        ));
    });
    let ran = superctl(&place, "status a b");
    server.join().unwrap();
    assert_eq!(ran.status, 4);
    assert!(ran.out.starts_with("NAME  STATE"));
    assert_eq!(ran.err, "superctl: no service \"b\"\n");
}

#[test]
fn json_is_passed_on_as_it_came() {
    let place = Place::new();
    let raw = "{\"ok\":true,  \"id\":1,\"from-the-future\":[1,2]}\n";
    let server = place.serve(move |mut peer| {
        peer.request().unwrap();
        peer.stream.write_all(raw.as_bytes()).unwrap();
    });
    let ran = superctl(&place, "stop caddy --json");
    server.join().unwrap();
    assert_eq!((ran.status, ran.out.as_str()), (0, raw));
}

#[test]
fn a_client_without_permission_gets_status_4() {
    let place = Place::new();
    let server = place.serve(|mut peer| {
        peer.request().unwrap();
        peer.say(&Reply::error(
            0,
            Code::NotPermitted,
            "user 1000 may not do that",
        ));
    });
    let ran = superctl(&place, "stop caddy");
    server.join().unwrap();
    assert_eq!(ran.status, 4);
    assert_eq!(ran.err, "superctl: user 1000 may not do that\n");
}

#[test]
fn a_refused_status_does_not_say_that_there_are_no_services() {
    let place = Place::new();
    let server = place.serve(|mut peer| {
        let asked = peer.request().unwrap();
        peer.say(&Reply::error(asked.id, Code::NotPermitted, "you may not"));
    });
    let ran = superctl(&place, "status");
    server.join().unwrap();
    assert_eq!((ran.status, ran.out.as_str()), (4, ""));
    assert_eq!(ran.err, "superctl: you may not\n");
}

#[test]
fn output_that_drives_terminals_is_made_visible_on_one_only() {
    for (terminal, shown) in [(true, "\\x1b]0;owned\\x07"), (false, "\u{1b}]0;owned\u{7}")] {
        let place = Place::new();
        let server = place.serve(|mut peer| {
            let asked = peer.request().unwrap();
            assert_eq!((asked.lines, asked.follow), (Some(5), true));
            let mut reply = Reply::ok(asked.id);
            reply.more = true;
            reply.line = Some(LogLine {
                service: "x".to_owned(),
                ago_ms: 0,
                text: "\u{1b}]0;owned\u{7}".to_owned(),
            });
            peer.say(&reply);
            // superd ends: so does the stream.
        });
        let ran = superctl_on(&place.socket(), "logs -f -n 5 x", terminal);
        server.join().unwrap();
        assert_eq!((ran.status, ran.err.as_str()), (0, ""));
        assert!(ran.out.ends_with(&format!("{shown}\n")), "{}", ran.out);
    }
}

#[test]
fn something_that_is_not_superd_gets_one_clear_line() {
    let floods: [fn(&mut UnixStream); 4] = [
        |s| {
            s.write_all(b"220 mail ESMTP\r\n").ok();
        },
        |s| {
            s.write_all(b"\xff\xfe\x00\n").ok();
        },
        |s| {
            let block = vec![b'{'; REPLY_CAP / 4];
            while s.write_all(&block).is_ok() {}
        },
        |s| {
            let line = b"{\"id\":1,\"ok\":true,\"more\":true}\n";
            while s.write_all(line).is_ok() {}
        },
    ];
    for flood in floods {
        let place = Place::new();
        let server = place.serve(move |mut peer| {
            peer.request().unwrap();
            flood(&mut peer.stream);
        });
        let ran = superctl(&place, "why caddy");
        assert_eq!(ran.status, 1);
        assert!(ran.err.contains("is not superd: "), "{}", ran.err);
        assert_eq!(ran.err.matches('\n').count(), 1, "{}", ran.err);
        assert!(ran.err.len() < 500);
        server.join().unwrap();
    }
}

#[test]
fn a_superd_that_hangs_up_is_an_error_and_not_a_success() {
    let place = Place::new();
    let server = place.serve(|mut peer| {
        peer.request().unwrap();
    });
    let ran = superctl(&place, "stop caddy");
    server.join().unwrap();
    assert_eq!(ran.status, 1);
    assert_eq!(ran.err, "superctl: superd hung up before it had answered\n");
}

#[test]
fn shutdown_waits_until_superd_is_gone() {
    let place = Place::new();
    let server = place.serve(|mut peer| {
        let asked = peer.request().unwrap();
        assert_eq!((asked.verb, asked.wait), (Verb::Shutdown, true));
        let mut begun = Reply::ok(asked.id);
        begun.left_ms = Some(17_000);
        peer.say(&begun);
        std::thread::sleep(Duration::from_millis(100));
    });
    let ran = superctl(&place, "shutdown");
    server.join().unwrap();
    assert_eq!((ran.status, ran.out.as_str()), (0, "superd: ended\n"));
    assert!(ran.took >= Duration::from_millis(100));
}

/// `superctl logs | head`.
struct ClosedPipe;

impl Write for ClosedPipe {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let place = Place::new();
    let server = place.serve(|mut peer| {
        let asked = peer.request().unwrap();
        peer.states(asked.id, &[state("a", "up")]);
    });
    let words = ["superctl", "status", "--socket"].map(OsString::from);
    let words = words.into_iter().chain([place.socket().into_os_string()]);
    let ctl = args::ctl(words).unwrap();
    let mut err = Vec::new();
    assert_eq!(run(&ctl, &Around::default(), &mut ClosedPipe, &mut err), 0);
    assert_eq!(err, b"");
    server.join().unwrap();
}

#[test]
fn the_socket_comes_from_the_environment_unless_it_is_named() {
    let place = Place::new();
    let server = place.serve(|mut peer| {
        let asked = peer.request().unwrap();
        peer.states(asked.id, &[]);
    });
    let ctl = args::ctl(["superctl", "status"].map(OsString::from)).unwrap();
    let around = Around {
        socket: Some(place.socket().into_os_string()),
        ..Around::default()
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(run(&ctl, &around, &mut out, &mut err), 0);
    assert_eq!(out, b"no services are configured\n");
    server.join().unwrap();
}
