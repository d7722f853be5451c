use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Socket;

use super::connection::Connection;
use super::*;
use crate::control::reply::Code;

struct Bench {
    dir: PathBuf,
    poll: mio::Poll,
    clients: Clients,
    now: Tick,
}

impl Bench {
    fn new(name: &str) -> Bench {
        let dir = std::env::temp_dir().join(format!("superd-ctl-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let poll = mio::Poll::new().unwrap();
        let clients = Clients::bind(&dir.join("sock"), Access::private(), poll.registry()).unwrap();
        Bench {
            dir,
            poll,
            clients,
            now: Tick(1),
        }
    }

    fn connect(&self) -> Socket {
        let s = Socket::connect(self.dir.join("sock")).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        s
    }

    /// One turn of a reactor: poll (at most `wait`), remember, turn.
    fn turn(&mut self, wait: Duration) -> Vec<ClientEvent> {
        let mut events = mio::Events::with_capacity(64);
        let wait = if self.clients.more_work() {
            Duration::ZERO
        } else {
            wait
        };
        self.poll.poll(&mut events, Some(wait)).unwrap();
        for e in &events {
            self.clients.ready(Source::of(e.token()).unwrap(), e);
        }
        let mut out = Vec::new();
        self.clients.turn(self.now, self.poll.registry(), &mut out);
        out
    }

    /// Turns until nothing is left to do that is there already.
    fn settle(&mut self) -> Vec<ClientEvent> {
        let mut all = Vec::new();
        loop {
            let more = self.turn(Duration::ZERO);
            let quiet = more.is_empty() && !self.clients.more_work();
            all.extend(more);
            if quiet {
                return all;
            }
        }
    }

    fn flush(&mut self) {
        self.clients.flush(self.now, self.poll.registry());
    }

    fn after(&mut self, s: u64) -> Vec<ClientEvent> {
        self.now = self.now + Duration::from_secs(s);
        self.clients.expire(self.now, self.poll.registry());
        self.settle()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

fn line(s: &Socket) -> Reply {
    let mut text = Vec::new();
    let mut byte = [0];
    let mut s = s;
    while s.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    crate::json::from_slice(&text).unwrap()
}

fn is_closed(mut s: &Socket) -> bool {
    let mut rest = Vec::new();
    s.read_to_end(&mut rest).is_ok() || s.read(&mut [0]).is_err()
}

const STATUS: &[u8] = b"{\"v\":1,\"id\":7,\"do\":\"status\"}\n";
const STOP: &[u8] = b"{\"v\":1,\"id\":9,\"do\":\"stop\",\"service\":\"x\",\"wait\":true}\n";

fn tickets(events: &[ClientEvent]) -> Vec<Ticket> {
    let ticket = |e: &ClientEvent| match e {
        ClientEvent::Request { ticket, .. } => Some(*ticket),
        ClientEvent::Gone(_) | ClientEvent::Refused { .. } | ClientEvent::Trouble { .. } => None,
    };
    events.iter().filter_map(ticket).collect()
}

fn gone(events: &[ClientEvent]) -> Vec<u64> {
    let number = |e: &ClientEvent| match e {
        ClientEvent::Gone(n) => Some(*n),
        ClientEvent::Request { .. } | ClientEvent::Refused { .. } | ClientEvent::Trouble { .. } => {
            None
        }
    };
    events.iter().filter_map(number).collect()
}

#[test]
fn a_request_comes_with_its_peer_and_goes_with_its_id() {
    let mut b = Bench::new("one");
    let mode = std::fs::metadata(b.dir.join("sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    b.settle();
    assert_eq!(b.clients.next_deadline(), None, "idle costs nothing");
    let mut c = b.connect();
    c.write_all(&STOP[..20]).unwrap();
    assert!(b.settle().is_empty());
    c.write_all(&STOP[20..]).unwrap();
    let events = b.settle();
    let ClientEvent::Request {
        ticket,
        request,
        peer,
    } = &events[0]
    else {
        panic!("{events:?}");
    };
    assert_eq!(
        (request.verb, request.id, request.wait),
        (Verb::Stop, 9, true)
    );
    assert_eq!(peer.pid, std::process::id() as i32);
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(*peer.command, *comm.trim_end());
    assert_eq!(b.clients.next_deadline(), None, "who waits has no limit");
    let mut first = Reply::ok(0);
    first.more = true;
    b.clients.reply(*ticket, first);
    b.clients.reply(*ticket, Reply::ok(0));
    b.clients.reply(*ticket, Reply::ok(0)); // settled: goes nowhere
    b.flush();
    let (first, last) = (line(&c), line(&c));
    assert_eq!(
        (first.more, first.id, last.more, last.id),
        (true, 9, false, 9)
    );
    drop(c);
    assert_eq!(gone(&b.settle()), [ticket.client]);
    assert_eq!(b.clients.len(), 0);
}

#[test]
fn thousands_of_pipelined_requests_each_get_their_answer() {
    const CLIENTS: usize = 8;
    const EACH: u64 = 2_000;
    let mut b = Bench::new("pipeline");
    let threads: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let c = b.connect();
            let mut w = c.try_clone().unwrap();
            std::thread::spawn(move || {
                let writer = std::thread::spawn(move || {
                    for id in 1..=EACH {
                        let r = Request {
                            service: Some("x".into()),
                            ..Request::new(id, Verb::Stop)
                        };
                        w.write_all(crate::json::to_string(&r).unwrap().as_bytes())
                            .unwrap();
                        w.write_all(b"\n").unwrap();
                    }
                });
                let mut lines = BufReader::new(c).lines();
                for id in 1..=EACH {
                    let r: Reply = crate::json::from_str(&lines.next().unwrap().unwrap()).unwrap();
                    assert_eq!(r.id, id);
                }
                writer.join().unwrap();
            })
        })
        .collect();
    // Answers are held back until every client has run into its limit, then given.
    let mut held: Vec<Ticket> = Vec::new();
    let mut answered = 0;
    while answered < CLIENTS as u64 * EACH {
        let events = b.turn(Duration::from_millis(200));
        let new = tickets(&events);
        for c in 1..=CLIENTS as u64 {
            assert!(new.iter().filter(|t| t.client == c).count() <= PER_TURN * 2);
        }
        held.extend(new);
        for c in 1..=CLIENTS as u64 {
            assert!(held.iter().filter(|t| t.client == c).count() <= 64);
        }
        if held.len() == CLIENTS * 64 || events.is_empty() {
            for t in held.drain(..) {
                b.clients.reply(t, Reply::ok(0));
                answered += 1;
            }
            b.flush();
        }
    }
    while !b.clients.is_flushed() {
        b.turn(Duration::from_millis(200));
    }
    for t in threads {
        t.join().unwrap();
    }
}

#[test]
fn nonsense_is_answered_and_an_endless_line_ends_the_connection() {
    let mut b = Bench::new("nonsense");
    let mut c = b.connect();
    c.write_all(
        b"\n\x00\xff\n{}\n{\"v\":2,\"id\":5,\"do\":\"fly\"}\n{\"v\":1,\"id\":6,\"do\":\"fly\"}\n",
    )
    .unwrap();
    let told = b.settle();
    assert!(
        matches!(told.as_slice(), [ClientEvent::Trouble { more: 0, .. }]),
        "{told:?}"
    );
    for id in [0, 0, 5, 6] {
        let r = line(&c);
        assert_eq!((r.id, r.code), (id, Some(Code::BadRequest)), "{r:?}");
    }
    c.write_all(STATUS).unwrap();
    assert_eq!(tickets(&b.settle()).len(), 1, "still there");
    let mut endless = b.connect();
    endless.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(n) = endless.write(&[b'x'; 4096]) {
        sent += n;
    }
    assert!(sent > 16 * 1024);
    let events = b.settle();
    assert_eq!(gone(&events), [2]);
    endless.set_nonblocking(false).unwrap();
    assert_eq!(line(&endless).code, Some(Code::BadRequest));
    assert_eq!(b.clients.len(), 1);
}

#[test]
fn a_flood_of_empty_lines_is_taken_a_few_per_turn() {
    let mut b = Bench::new("empty");
    let mut c = b.connect();
    b.settle();
    c.write_all(&[b'\n'; 500]).unwrap();
    c.write_all(STATUS).unwrap();
    let mut turns = 0;
    while tickets(&b.turn(Duration::from_secs(5))).is_empty() {
        turns += 1;
    }
    assert!(turns >= 500 / PER_TURN);
}

#[test]
fn half_lines_idlers_and_those_who_do_not_read_are_dropped() {
    let mut b = Bench::new("limits");
    let mut half = b.connect();
    half.write_all(b"{\"v\"").unwrap();
    b.settle();
    b.after(6);
    half.write_all(b":").unwrap(); // one more byte buys no time
    b.settle();
    assert_eq!(gone(&b.after(5)), [1]);
    let idle = b.connect();
    b.settle();
    assert!(gone(&b.after(59)).is_empty());
    assert_eq!(gone(&b.after(1)), [2]);
    assert!(is_closed(&idle));
    let mut deaf = b.connect();
    deaf.write_all(STATUS).unwrap();
    let ticket = tickets(&b.settle())[0];
    for _ in 0..40 {
        let mut big = Reply::ok(0);
        (big.more, big.message) = (true, "m".repeat(10_000));
        b.clients.reply(ticket, big);
    }
    b.flush();
    assert!(gone(&b.after(29)).is_empty());
    assert_eq!(gone(&b.after(1)), [3]);
    assert_eq!(b.clients.next_deadline(), None);
}

#[test]
fn a_client_that_lets_megabytes_pile_up_is_dropped() {
    let mut b = Bench::new("pile");
    let mut c = b.connect();
    c.write_all(STATUS).unwrap();
    let ticket = tickets(&b.settle())[0];
    for _ in 0..500 {
        let mut big = Reply::ok(0);
        (big.more, big.message) = (true, "m".repeat(10_000));
        b.clients.reply(ticket, big);
    }
    b.flush();
    assert_eq!(gone(&b.settle()), [ticket.client]);
}

#[test]
fn when_full_the_longest_idle_one_gives_way_and_a_waiting_one_does_not() {
    let mut b = Bench::new("full");
    let mut all = Vec::new();
    for _ in 0..CLIENTS {
        b.now = b.now + Duration::from_millis(1);
        all.push(b.connect());
        b.settle();
    }
    all[0].write_all(STOP).unwrap(); // the oldest one waits for something
    assert_eq!(tickets(&b.settle()).len(), 1);
    let new = b.connect();
    assert_eq!(gone(&b.settle()), [2]);
    assert_eq!(line(&all[1]).code, Some(Code::Busy));
    all.push(new);
    for c in &mut all {
        c.write_all(STOP).ok(); // one of them is closed
    }
    b.settle();
    let late = b.connect();
    assert!(gone(&b.settle()).is_empty());
    assert_eq!(line(&late).code, Some(Code::Busy));
    assert_eq!(b.clients.len(), CLIENTS);
}

#[test]
fn a_thousand_connections_do_not_keep_a_real_client_out() {
    let mut b = Bench::new("thousand");
    let mut crowd = Vec::new();
    for i in 0..1_000 {
        crowd.push(b.connect());
        if i % 50 == 0 {
            b.settle();
        }
    }
    b.settle();
    let mut real = b.connect();
    real.write_all(STATUS).unwrap();
    let found = tickets(&b.settle());
    assert_eq!(found.len(), 1);
    b.clients.reply(found[0], Reply::ok(0));
    b.flush();
    assert!(line(&real).ok);
    assert!(b.clients.len() <= CLIENTS);
}

#[test]
fn who_only_closes_its_sending_half_still_gets_its_answer() {
    let mut b = Bench::new("half-close");
    let mut c = b.connect();
    c.write_all(STATUS).unwrap();
    c.shutdown(std::net::Shutdown::Write).unwrap();
    let events = b.settle();
    assert!(gone(&events).is_empty());
    b.clients.reply(tickets(&events)[0], Reply::ok(0));
    b.flush();
    assert_eq!(line(&c).id, 7);
    assert_eq!(gone(&b.settle()).len(), 1);
    // Who asks and goes at once has asked.
    let mut c = b.connect();
    c.write_all(STOP).unwrap();
    drop(c);
    let events = b.settle();
    assert_eq!((tickets(&events).len(), gone(&events).len()), (1, 1));
    assert!(matches!(events.last(), Some(ClientEvent::Gone(2))));
}

#[test]
fn who_may_only_look_is_refused_and_the_log_is_not_flooded() {
    let mut b = Bench::new("refuse");
    let mut c = b.connect();
    b.settle();
    b.clients.slots[0].as_mut().unwrap().rights = Rights::Look;
    for _ in 0..3 {
        c.write_all(STOP).unwrap();
    }
    c.write_all(STATUS).unwrap();
    let events = b.settle();
    assert_eq!(tickets(&events).len(), 1);
    let refused = events
        .iter()
        .filter(|e| matches!(e, ClientEvent::Refused { .. }));
    assert_eq!(refused.count(), 1);
    assert_eq!(line(&c).code, Some(Code::NotPermitted));
    b.now = b.now + REFUSED_EVERY;
    c.write_all(STOP).unwrap();
    let events = b.settle();
    assert!(matches!(
        &events[..],
        [ClientEvent::Refused {
            verb: Some(Verb::Stop),
            ..
        }]
    ));
}

#[test]
fn a_slow_follower_misses_lines_and_is_told_how_many() {
    let mut b = Bench::new("follow");
    let mut c = b.connect();
    c.write_all(b"{\"v\":1,\"id\":3,\"do\":\"logs\",\"follow\":true}\n")
        .unwrap();
    let ticket = tickets(&b.settle())[0];
    let x = ServiceId(4);
    b.clients
        .publish(Stream::Logs, x, || panic!("nobody follows"));
    b.clients.subscribe(ticket, Stream::Logs, Some(x));
    assert!(!b.clients.has_subscribers(Stream::Events, x));
    assert!(!b.clients.has_subscribers(Stream::Logs, ServiceId(5)));
    let text = || Reply {
        message: "m".repeat(1_000),
        ..Reply::ok(0)
    };
    for _ in 0..3_000 {
        b.clients.publish(Stream::Logs, x, text);
        b.flush();
    }
    let reader = std::thread::spawn(move || {
        let mut lines = BufReader::new(c).lines();
        let mut got = 0;
        loop {
            let r: Reply = crate::json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            assert_eq!(r.id, 3);
            if !r.more {
                return got;
            }
            match r.message.split_once(" lines dropped") {
                Some((n, _)) => got += n.parse::<u64>().unwrap(),
                None => got += 1,
            }
        }
    });
    while !b.clients.is_flushed() {
        b.turn(Duration::from_secs(5));
    }
    b.clients.publish(Stream::Logs, x, text);
    b.clients.end_streams(x);
    b.flush();
    assert_eq!(reader.join().unwrap(), 3_001);
    assert!(b.clients.of(ticket).unwrap().is_idle());
}

#[test]
fn requests_in_small_pieces_come_out_whole() {
    let (ours, theirs) = Socket::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let stream = UnixStream::from_std(ours);
    let peer = Peer::of(&stream).unwrap();
    let mut c = Connection::new(1, stream, peer, Rights::All, Tick(0));
    let mut theirs = theirs;
    let mut n = 0;
    for chunk in STATUS.repeat(20).chunks(13) {
        theirs.write_all(chunk).unwrap();
        c.wake();
        while let Some(heard) = c.next(Tick(0)) {
            assert!(matches!(heard, Heard::Request(..)));
            n += 1;
        }
    }
    assert_eq!(n, 20);
}
