//! Restarts with a drain while clients come at a steady rate: what becomes of each of them.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::drain_support::*;
use crate::support::*;

/// What became of clients that come at a steady rate.
#[derive(Default, Debug)]
pub struct Storm {
    pub whole: usize,
    /// Refused at first; whole when they had tried again, for a while.
    pub late: usize,
    /// Whole, and had to wait for longer than [`PATIENCE`].
    pub slow: usize,
    /// Everything else.
    pub lost: Vec<String>,
    pub longest: Duration,
}

const PATIENCE: Duration = Duration::from_secs(3);
/// On a busy machine a restart takes its time. SYNs are sent again after 1 s, 3 s, 7 s.
const PATIENCE_WHEN_BUSY: Duration = Duration::from_secs(20);

/// One client: a request, two steps long. Tries to connect for so long; true if it was refused
/// in between.
fn come(at: SocketAddr) -> Result<bool, String> {
    let until = Instant::now() + PATIENCE_WHEN_BUSY;
    let mut refused = false;
    let stream = loop {
        let left = until.saturating_duration_since(Instant::now());
        match TcpStream::connect_timeout(&at, left.max(Duration::from_millis(1))) {
            Ok(stream) => break stream,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused && !left.is_zero() => {
                refused = true;
                std::thread::sleep(Duration::from_millis(20)); // as a patient client does
            }
            Err(e) => return Err(format!("connect: {e}")),
        }
    };
    stream
        .set_read_timeout(Some(LIMIT))
        .map_err(|e| e.to_string())?;
    let mut client = Client(BufReader::new(stream));
    for (asked, wanted) in [("begin", "begun"), ("end", "whole")] {
        let line = format!("{asked}\n");
        let mut answer = String::new();
        let sent = client.0.get_mut().write_all(line.as_bytes());
        let read = sent.and_then(|()| client.0.read_line(&mut answer));
        if read.is_err() || answer.trim_end() != wanted {
            return Err(format!("{asked}: {read:?} {answer:?}"));
        }
    }
    Ok(refused)
}

impl Storm {
    /// Tells, for people, what became of them.
    pub fn tell(&self, what: &str, restarts: usize) {
        tell(&format!(
            "{what}: {restarts} restarts among 200 new connections a second: {} whole, {} refused \
             in the moment between two instances and whole when they tried again, {} after more \
             than 3 s, {} lost; the longest took {:?}",
            self.whole,
            self.late,
            self.slow,
            self.lost.len(),
            self.longest
        ));
    }

    /// Nobody was refused, not even at first.
    pub fn assert_nobody_refused(&self) {
        assert_eq!(self.lost, Vec::<String>::new());
        assert_eq!(self.late, 0, "refused");
    }
}

/// 200 clients a second, until `is_over`.
pub fn storm(at: SocketAddr, is_over: &AtomicBool) -> Storm {
    let clients = std::thread::scope(|scope| {
        let mut clients = Vec::new();
        let began = monotonic();
        while !is_over.load(Ordering::SeqCst) && clients.len() < 4000 {
            sleep_until(began + clients.len() as u64 * 5_000_000);
            clients.push(scope.spawn(move || {
                let began = Instant::now();
                (come(at), began.elapsed())
            }));
        }
        clients
            .into_iter()
            .map(|c| c.join().unwrap())
            .collect::<Vec<_>>()
    });
    let mut storm = Storm::default();
    for (result, took) in clients {
        storm.longest = storm.longest.max(took);
        storm.slow += usize::from(took > PATIENCE);
        match result {
            Ok(false) => storm.whole += 1,
            Ok(true) => storm.late += 1,
            Err(e) => storm.lost.push(e),
        }
    }
    storm
}

/// Restarts in the middle of a storm, with requests open at their beginning.
pub fn restarts_in_a_storm(s: &Superd, at: &str, restarts: usize) -> Storm {
    let address: SocketAddr = at.parse().unwrap();
    let is_over = AtomicBool::new(false);
    let starts = s.record("pages").count("start");
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| storm(address, &is_over));
        for n in 1..=restarts {
            let mut open = Client::begin(at);
            let mut keep_alive = Client::begin(at);
            assert_eq!(keep_alive.ask("end"), "whole");
            let mut download = Client::begin(at);
            download.say("send 20000000");
            s.ok(&["restart", "--no-wait", "pages"]);
            wait_until("it drains", || connections(s).is_some_and(|n| n > 0));
            assert_eq!(keep_alive.ask("end"), "whole");
            let mut got = String::new();
            download.0.read_line(&mut got).unwrap();
            assert_eq!(got.len(), 20_000_001, "a download in the middle is whole");
            assert_eq!(open.ask("end"), "whole");
            drop((open, keep_alive, download));
            s.wait_record("pages", "start", starts + n);
            wait_until("it takes connections", || TcpStream::connect(at).is_ok());
        }
        is_over.store(true, Ordering::SeqCst);
        storm.join().unwrap()
    })
}

#[test]
fn in_a_storm_of_clients_a_restart_with_a_drain_loses_none_that_tries_again() {
    let name = "in_a_storm_of_clients_a_restart_with_a_drain_loses_none_that_tries_again";
    alone(|| {
        let Some((s, at)) = start(name, Flavour::NoCgroups, PAGES) else {
            return;
        };
        // How long the new one takes until it listens is a busy machine's doing: one quiet storm of three will do.
        let is_short = (0..3).any(|_| {
            let storm = restarts_in_a_storm(&s, &at, 5);
            storm.tell("drain", 5);
            assert_eq!(storm.lost, Vec::<String>::new());
            storm.whole > 100 && storm.late * 10 < storm.whole
        });
        assert!(is_short, "see the lines that begin with `drain`");
        s.end();
    });
}

#[test]
fn who_shares_its_port_refuses_nobody_in_a_restart() {
    let name = "who_shares_its_port_refuses_nobody_in_a_restart";
    alone(|| {
        let Some((s, at)) = start(name, Flavour::NoCgroups, &shared("/nowhere")) else {
            return;
        };
        let storm = restarts_in_a_storm(&s, &at, 5);
        storm.tell("drain and SO_REUSEPORT", 5);
        storm.assert_nobody_refused();
        // Stopped means that its port is free.
        s.ok(&["stop", "pages"]);
        std::net::TcpListener::bind(&at).unwrap();
        s.end();
    });
}
