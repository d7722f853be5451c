//! HTTP requests and attempts to connect while they are under way: of stop steps, and of the
//! questions whether a service is ready or well. Commands are processes, and
//! so the business of `trees` and the reaper.
//!
//! No time limit lives here. The machine knows how long a step may take and ends the
//! action with it ([`Actions::cancel`]).
//!
//! Longer than a file should be, but for its tests: a request from its first byte to its verdict.

use std::io::{self, Read, Write};
use std::mem;
use std::rc::Rc;

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry};

use super::token::Source;
use super::upgrade::state::Fds;
use crate::json::{FromJson, ToJson};
use crate::machine::event::{ActionId, Instance, Outcome, ServiceId};
use crate::machine::ready::Question;
use crate::machine::spec::{Http, HttpAddress};
use crate::sys::handover::Inherited;

/// The most of a response that is read, interim ones included.
const HEAD_CAP: usize = 8 * 1024;

/// HTTP requests at a time; one per service that is stopping.
const REQUESTS: usize = 256;

/// Of these, so many may be probes: a stop must not wait for them.
const PROBES: usize = 192;

/// An action is over; what [`crate::machine::event::Event::ActionEnded`] wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Which service.
    pub service: ServiceId,
    /// Which run of it.
    pub instance: Instance,
    /// Which action.
    pub action: ActionId,
    /// How it went.
    pub outcome: Outcome,
}

/// All actions under way.
#[derive(Default)]
pub struct Actions {
    requests: Vec<Option<Request>>,
    /// Some request has news.
    news: bool,
}

struct Request {
    service: ServiceId,
    instance: Instance,
    action: ActionId,
    what: Wanted,
    stream: Stream,
    state: State,
    ready: bool,
}

/// What is wanted of the other side.
#[derive(Clone, ToJson, FromJson)]
enum Wanted {
    /// An answer with one of these statuses; none: any of the 200s.
    Answer(Rc<Http>, Rc<[u16]>),
    /// That it accepts the connection.
    Connection(HttpAddress),
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Answer(http, _) => write!(f, "{http}"),
            Wanted::Connection(to) => write!(f, "{}", Question::Tcp(to.clone())),
        }
    }
}

impl Wanted {
    fn statuses(&self) -> &[u16] {
        match self {
            Wanted::Answer(_, statuses) => statuses,
            Wanted::Connection(_) => &[],
        }
    }
}

#[derive(Clone, ToJson, FromJson)]
enum State {
    /// Not connected yet.
    Connecting,
    /// From this byte on it is still to be sent.
    Sending(Vec<u8>, usize),
    /// The response so far without its interim parts, and how many bytes came in all.
    Reading(Vec<u8>, usize),
}

/// What outlives a change of the program.
#[derive(ToJson, FromJson)]
pub struct Kept {
    service: ServiceId,
    instance: Instance,
    action: ActionId,
    what: Wanted,
    is_tcp: bool,
    stream: i32,
    state: State,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Actions {
    /// Nothing is under way.
    pub fn new() -> Actions {
        Actions::default()
    }

    /// Begins a request. Its end comes from [`Actions::turn`].
    ///
    /// # Errors
    /// How it went, when it cannot even begin.
    pub fn begin_http(
        &mut self,
        registry: &Registry,
        service: ServiceId,
        instance: Instance,
        action: ActionId,
        http: &Rc<Http>,
    ) -> Result<(), Outcome> {
        let unfit = |t: &str| t.is_empty() || t.bytes().any(|b| b <= b' ' || b == 127);
        if unfit(&http.method) || unfit(&http.path) || unfit(&http.host) {
            let why = format!("{http}: method, host or path is not a word");
            return Err(Outcome::Impossible(why));
        }
        let wanted = Wanted::Answer(http.clone(), Rc::default());
        self.begin(registry, service, instance, action, wanted, REQUESTS)
    }

    /// Begins a probe that is an HTTP request or an attempt to connect. Its end comes from
    /// [`Actions::turn`].
    ///
    /// # Errors
    /// When it cannot even begin.
    pub fn begin_probe(
        &mut self,
        registry: &Registry,
        service: ServiceId,
        instance: Instance,
        action: ActionId,
        question: &Question,
    ) -> Result<(), Outcome> {
        let wanted = match question {
            Question::Tcp(to) => Wanted::Connection(to.clone()),
            Question::Http(http, statuses) => Wanted::Answer(http.clone(), statuses.clone()),
            Question::Exec(_) | Question::File(_) | Question::Memory => {
                let why = format!("{question}: this is no connection");
                return Err(Outcome::Impossible(why));
            }
        };
        self.begin(registry, service, instance, action, wanted, PROBES)
    }

    fn begin(
        &mut self,
        registry: &Registry,
        service: ServiceId,
        instance: Instance,
        action: ActionId,
        what: Wanted,
        most: usize,
    ) -> Result<(), Outcome> {
        let failed = |e: io::Error| {
            let why = format!("{what}: {}", words(&e));
            match e.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
                    Outcome::NotTried(why)
                }
                _ => Outcome::Impossible(why),
            }
        };
        let open = self.requests.iter().flatten().count();
        let slot = match self.requests.iter().position(Option::is_none) {
            _ if open >= most => {
                let why = format!("{what}: too many requests at a time");
                return Err(Outcome::NotTried(why));
            }
            Some(slot) => slot,
            None => {
                self.requests.push(None);
                self.requests.len() - 1
            }
        };
        let to = match &what {
            Wanted::Answer(http, _) => &http.to,
            Wanted::Connection(to) => to,
        };
        let mut stream = match to {
            HttpAddress::Tcp(address) => Stream::Tcp(TcpStream::connect(*address).map_err(failed)?),
            HttpAddress::Unix(path) => Stream::Unix(UnixStream::connect(path).map_err(failed)?),
        };
        let token = Source::Action(u32::try_from(slot).unwrap_or(u32::MAX)).token();
        let both = Interest::READABLE | Interest::WRITABLE;
        match &mut stream {
            Stream::Tcp(s) => registry.register(s, token, both).map_err(failed)?,
            Stream::Unix(s) => registry.register(s, token, both).map_err(failed)?,
        }
        if let Some(place) = self.requests.get_mut(slot) {
            *place = Some(Request {
                service,
                instance,
                action,
                what,
                stream,
                state: State::Connecting,
                ready: false,
            });
        }
        Ok(())
    }

    /// For a superd that becomes another program.
    pub fn keep(&self, fds: &mut Fds) -> Vec<Kept> {
        let mut keep = |r: &Request| Kept {
            service: r.service,
            instance: r.instance,
            action: r.action,
            what: r.what.clone(),
            is_tcp: matches!(r.stream, Stream::Tcp(_)),
            stream: match &r.stream {
                Stream::Tcp(s) => fds.pass(s),
                Stream::Unix(s) => fds.pass(s),
            },
            state: r.state.clone(),
        };
        self.requests.iter().flatten().map(&mut keep).collect()
    }

    /// What [`Actions::keep`] said, in the new one.
    ///
    /// # Errors
    /// Of epoll_ctl(2).
    pub fn kept(kept: Vec<Kept>, left: &mut Inherited, registry: &Registry) -> io::Result<Actions> {
        let mut actions = Actions::new();
        for (slot, r) in (0..).zip(kept) {
            let fd = left.take(r.stream)?;
            let token = Source::Action(slot).token();
            let both = Interest::READABLE | Interest::WRITABLE;
            let stream = match r.is_tcp {
                true => {
                    let mut s = TcpStream::from_std(fd.into());
                    registry.register(&mut s, token, both)?;
                    Stream::Tcp(s)
                }
                false => {
                    let mut s = UnixStream::from_std(fd.into());
                    registry.register(&mut s, token, both)?;
                    Stream::Unix(s)
                }
            };
            actions.requests.push(Some(Request {
                service: r.service,
                instance: r.instance,
                action: r.action,
                what: r.what,
                stream,
                state: r.state,
                ready: true,
            }));
            actions.news = true;
        }
        Ok(actions)
    }

    /// mio says something about the request in this slot ([`Source::Action`]).
    pub fn ready(&mut self, slot: u32) {
        if let Some(Some(r)) = self.requests.get_mut(slot as usize) {
            r.ready = true;
            self.news = true;
        }
    }

    /// Goes on with the requests that can; reports those that are over.
    pub fn turn(&mut self, out: &mut Vec<Ended>) {
        if !mem::take(&mut self.news) {
            return;
        }
        for slot in &mut self.requests {
            let result = match slot {
                Some(r) => mem::take(&mut r.ready).then(|| r.go_on()).flatten(),
                None => None,
            };
            if let Some(result) = result {
                if let Some(r) = slot.take() {
                    out.push(Ended {
                        service: r.service,
                        instance: r.instance,
                        action: r.action,
                        outcome: match result {
                            Ok(()) => Outcome::Done,
                            Err(why) if r.reached() => {
                                Outcome::Unhappy(format!("{}: {why}", r.what))
                            }
                            Err(why) => Outcome::Impossible(format!("{}: {why}", r.what)),
                        },
                    });
                }
            }
        }
    }

    /// It is no longer needed: hangs up.
    pub fn cancel(&mut self, action: ActionId) {
        for slot in &mut self.requests {
            if slot.as_ref().is_some_and(|r| r.action == action) {
                *slot = None;
            }
        }
    }
}

impl Request {
    /// Whether the server may have got it: from the first byte on.
    fn reached(&self) -> bool {
        match &self.state {
            State::Connecting | State::Sending(_, 0) => false,
            State::Sending(..) | State::Reading(..) => true,
        }
    }

    /// Does what can be done without waiting; some result when it is over.
    fn go_on(&mut self) -> Option<Result<(), String>> {
        loop {
            match &mut self.state {
                State::Connecting => {
                    match self.stream.connected() {
                        Ok(true) => {}
                        Ok(false) => return None,
                        Err(e) => return Some(Err(words(&e))),
                    }
                    match &self.what {
                        Wanted::Connection(_) => return Some(Ok(())),
                        Wanted::Answer(http, _) => self.state = State::Sending(text(http), 0),
                    }
                }
                State::Sending(text, sent) => {
                    let rest = text.get(*sent..).unwrap_or_default();
                    if rest.is_empty() {
                        self.state = State::Reading(Vec::new(), 0);
                        continue;
                    }
                    match self.stream.write(rest) {
                        Ok(n) => *sent += n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                        Err(e) => return Some(Err(words(&e))),
                    }
                }
                State::Reading(head, came) => {
                    let mut buf = [0; 1024];
                    match self.stream.read(&mut buf) {
                        Ok(0) => return verdict(head, true, self.what.statuses()),
                        Ok(n) => {
                            *came += n;
                            head.extend_from_slice(buf.get(..n).unwrap_or_default());
                        }
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                        // A server that ends may reset instead of closing: what it said
                        // before counts.
                        Err(e) if head.is_empty() => return Some(Err(words(&e))),
                        Err(_) => return verdict(head, true, self.what.statuses()),
                    }
                    drop_interim(head);
                    // All that came counts: interim responses without end must not keep
                    // superd here.
                    let full = *came >= HEAD_CAP;
                    if full && head.is_empty() {
                        return Some(Err("nothing but interim responses".to_owned()));
                    }
                    if let Some(result) = verdict(head, full, self.what.statuses()) {
                        return Some(result);
                    }
                }
            }
        }
    }
}

impl Stream {
    /// `Ok(false)`: not yet.
    fn connected(&self) -> io::Result<bool> {
        let (error, peer) = match self {
            Stream::Tcp(s) => (s.take_error()?, s.peer_addr().map(drop)),
            Stream::Unix(s) => (s.take_error()?, s.peer_addr().map(drop)),
        };
        if let Some(e) = error {
            return Err(e);
        }
        match peer {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.write(bytes),
            Stream::Unix(s) => s.write(bytes),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.read(buf),
            Stream::Unix(s) => s.read(buf),
        }
    }
}

/// The request (RFC 9112). `Content-Length: 0` because some servers refuse a POST without.
fn text(http: &Http) -> Vec<u8> {
    format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: superd\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        http.method, http.path, http.host
    )
    .into_bytes()
}

/// What the response means, once its head is complete or nothing more can come
/// (`ended`). The head is waited for, not only the status line: a server that is asked to
/// stop should not find its client gone while it still answers.
/// `statuses`: those that are wanted; none: any of the 200s.
fn verdict(head: &[u8], ended: bool, statuses: &[u16]) -> Option<Result<(), String>> {
    let complete = end_of_head(head).is_some();
    if !complete && !ended {
        return None;
    }
    if head.is_empty() {
        return Some(Err("closed the connection without an answer".to_owned()));
    }
    let status = head.strip_prefix(b"HTTP/1.").and_then(|rest| {
        let digits = rest
            .get(2..5)
            .filter(|d| d.iter().all(u8::is_ascii_digit))?;
        std::str::from_utf8(digits).ok()?.parse::<u16>().ok()
    });
    match status {
        Some(200..=299) if statuses.is_empty() => Some(Ok(())),
        Some(n) if statuses.contains(&n) => Some(Ok(())),
        Some(n) => Some(Err(format!("HTTP {n}"))),
        None => Some(Err("the answer is not HTTP".to_owned())),
    }
}

/// Length of the head, blank line included.
fn end_of_head(head: &[u8]) -> Option<usize> {
    let crlf = memchr::memmem::find(head, b"\r\n\r\n").map(|at| at + 4);
    crlf.or_else(|| memchr::memmem::find(head, b"\n\n").map(|at| at + 2))
}

/// Drops complete interim responses (1xx) from the front.
fn drop_interim(head: &mut Vec<u8>) {
    while head.starts_with(b"HTTP/1.1 1") || head.starts_with(b"HTTP/1.0 1") {
        let Some(end) = end_of_head(head) else { return };
        head.drain(..end.min(head.len()));
    }
}

/// An error without "(os error 111)".
fn words(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(n) => nix::errno::Errno::from_raw(n).desc().to_lowercase(),
        None => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    const X: ServiceId = ServiceId(3);
    const RUN: Instance = Instance(1);
    const DO: ActionId = ActionId(7);

    fn post(to: HttpAddress) -> Rc<Http> {
        Rc::new(Http {
            method: "POST".into(),
            to,
            host: "127.0.0.1:2019".into(),
            path: "/stop".into(),
        })
    }

    /// Polls until the request is over.
    fn end(actions: &mut Actions, poll: &mut mio::Poll) -> Ended {
        let mut events = mio::Events::with_capacity(8);
        let mut out = Vec::new();
        while out.is_empty() {
            poll.poll(&mut events, Some(Duration::from_secs(20)))
                .unwrap();
            assert!(!events.is_empty(), "nothing happened for 20 s");
            for e in &events {
                match Source::of(e.token()) {
                    Some(Source::Action(slot)) => actions.ready(slot),
                    other => panic!("{other:?}"),
                }
            }
            actions.turn(&mut out);
        }
        assert!(actions.requests.iter().all(Option::is_none));
        out.remove(0)
    }

    /// What becomes of a request when the server sends these pieces and closes.
    fn ask(pieces: &'static [&'static str]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let http = post(HttpAddress::Tcp(listener.local_addr().unwrap()));
        let server = std::thread::spawn(move || {
            let (mut s, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            let mut buf = [0; 512];
            while !got.ends_with(b"\r\n\r\n") {
                let n = s.read(&mut buf).unwrap();
                got.extend_from_slice(&buf[..n]);
            }
            for p in pieces {
                s.write_all(p.as_bytes()).ok();
            }
            String::from_utf8(got).unwrap()
        });
        let mut poll = mio::Poll::new().unwrap();
        let mut actions = Actions::new();
        actions
            .begin_http(poll.registry(), X, RUN, DO, &http)
            .unwrap();
        let ended = end(&mut actions, &mut poll);
        assert_eq!((ended.service, ended.instance), (X, RUN));
        let request = server.join().unwrap();
        assert!(request.starts_with("POST /stop HTTP/1.1\r\nHost: 127.0.0.1:2019\r\n"));
        assert!(request.contains("\r\nContent-Length: 0\r\n"));
        assert_eq!(ended.action, DO);
        match ended.outcome {
            Outcome::Done => Ok(()),
            Outcome::Unhappy(e) => {
                let prefix = format!("{http}: ");
                Err(e.strip_prefix(&prefix).unwrap().to_owned())
            }
            Outcome::Impossible(e) | Outcome::NotTried(e) => {
                panic!("the server got it, and yet: {e}")
            }
        }
    }

    #[test]
    fn an_answer_of_the_200s_is_success_and_others_are_told() {
        assert_eq!(
            ask(&["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]),
            Ok(())
        );
        assert_eq!(ask(&["HTTP/1.", "0 204 No", "\r\n\r", "\n"]), Ok(()));
        assert_eq!(
            ask(&["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"]),
            Ok(())
        );
        let say = |s: &str| Err(s.to_owned());
        assert_eq!(ask(&["HTTP/1.1 503 No\r\n\r\n"]), say("HTTP 503"));
        assert_eq!(ask(&["SSH-2.0-x\r\n\r\n"]), say("the answer is not HTTP"));
        assert_eq!(ask(&[]), say("closed the connection without an answer"));
        let interim =
            ["HTTP/1.1 103 Early Hints\r\nX: 0123456789012345678901234567890\r\n\r\n"; 1000];
        assert!(ask(Box::leak(Box::new(interim))).is_err(), "it ends");
        assert_eq!(
            ask(&["HTTP/1.1 200 OK\r\n"]),
            Ok(()),
            "it ended in the middle of its head"
        );
    }

    #[test]
    fn a_head_without_end_is_bounded() {
        let mut head = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        assert_eq!(verdict(&head, false, &[]), None);
        head.resize(HEAD_CAP, b'x');
        assert_eq!(verdict(&head, head.len() >= HEAD_CAP, &[]), Some(Ok(())));
    }

    #[test]
    fn refused_connections_and_missing_sockets_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let http = post(HttpAddress::Tcp(listener.local_addr().unwrap()));
        drop(listener);
        let mut poll = mio::Poll::new().unwrap();
        let mut actions = Actions::new();
        let result = match actions.begin_http(poll.registry(), X, RUN, DO, &http) {
            Ok(()) => end(&mut actions, &mut poll).outcome,
            Err(outcome) => outcome,
        };
        let refused = format!("{http}: connection refused");
        assert_eq!(result, Outcome::Impossible(refused), "it never arrived");
        let none = post(HttpAddress::Unix("/nonexistent/admin.sock".into()));
        let e = actions
            .begin_http(poll.registry(), X, RUN, DO, &none)
            .unwrap_err();
        let why = "POST unix:/nonexistent/admin.sock:/stop: no such file or directory";
        assert_eq!(e, Outcome::Impossible(why.to_owned()));
        let mut evil = (*http).clone();
        evil.path = "/x HTTP/1.1\r\nEvil: yes".into();
        assert!(actions
            .begin_http(poll.registry(), X, RUN, DO, &Rc::new(evil))
            .is_err());
    }

    #[test]
    fn unix_sockets_are_spoken_to_and_a_cancelled_request_says_nothing() {
        let name = format!("superd-actions-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::remove_file(&path).ok();
        let listener = UnixListener::bind(&path).unwrap();
        let http = post(HttpAddress::Unix(path.to_str().unwrap().into()));
        let mut poll = mio::Poll::new().unwrap();
        let mut actions = Actions::new();
        actions
            .begin_http(poll.registry(), X, RUN, DO, &http)
            .unwrap();
        actions.cancel(DO);
        let (mut s, _) = listener.accept().unwrap();
        let mut nothing = Vec::new();
        s.read_to_end(&mut nothing).unwrap();
        assert!(nothing.is_empty());
        let server = std::thread::spawn(move || {
            let (mut s, _) = listener.accept().unwrap();
            let _some = s.read(&mut [0; 512]).unwrap();
            s.write_all(b"HTTP/1.1 200 OK\n\nbody").unwrap();
        });
        actions
            .begin_http(poll.registry(), X, RUN, DO, &http)
            .unwrap();
        assert_eq!(end(&mut actions, &mut poll).outcome, Outcome::Done);
        server.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
