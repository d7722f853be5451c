//! Bytes to requests and replies to bytes, with a limit on everything.
//!
//! [`Lines`] cuts a byte stream into lines and never holds more than its cap, whatever
//! the other side sends; a longer line is thrown away up to its newline and reported
//! once. [`decode_line`] makes a request of one. Nothing here reads or writes a socket. Its
//! length is that of its tests: this is what hostile clients meet first.

use std::fmt;

use super::reply::{Code, Reply};
use super::request::{Request, LINE_CAP, VERSION};
use crate::json::{self, FromJson};

/// The longest reply line in bytes, newline included. A client gives up on a longer one.
pub const REPLY_CAP: usize = 1024 * 1024;

/// The longest reason given for a bad line, in characters: it may quote what was sent.
const REASON_CAP: usize = 200;

/// Cuts a byte stream into lines, holding at most `cap` bytes.
#[derive(Debug)]
pub struct Lines {
    /// Never longer than `cap`.
    buf: Vec<u8>,
    /// Bytes at the front of `buf` that were handed out already.
    start: usize,
    /// Bytes at the front of `buf` known to hold no newline after `start`, so that a
    /// line that drips in byte by byte is not searched again and again.
    scanned: usize,
    /// The rest of an over-long line is being thrown away.
    discarding: bool,
    cap: usize,
}

/// What [`Lines::next_line`] finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<'a> {
    /// A line without its newline.
    Whole(&'a [u8]),
    /// The first `cap` bytes of a line that is longer. The rest is never seen.
    TooLong(&'a [u8]),
}

impl Lines {
    /// Lines of at most `cap` bytes, newline included.
    pub fn new(cap: usize) -> Lines {
        Lines {
            buf: Vec::new(),
            start: 0,
            scanned: 0,
            discarding: false,
            cap: cap.max(1),
        }
    }

    /// What was pushed and not handed out yet, and whether the rest of an over-long line is
    /// being thrown away: for a superd that becomes another program.
    pub fn keep(&self) -> (&[u8], bool) {
        (
            self.buf.get(self.start..).unwrap_or_default(),
            self.discarding,
        )
    }

    /// What [`Lines::keep`] said, in the new one.
    pub fn kept(cap: usize, bytes: &[u8], discarding: bool) -> Lines {
        let mut lines = Lines::new(cap);
        lines.push(bytes);
        lines.discarding = discarding;
        lines
    }

    /// How many bytes [`Lines::push`] is sure to take now. Never 0 after
    /// [`Lines::next_line`] returned `None`.
    pub fn room(&self) -> usize {
        self.cap - (self.buf.len() - self.start)
    }

    /// Whether [`Lines::next_line`] would find a whole line. Costs nothing after it has
    /// returned `None`.
    pub fn has_line(&self) -> bool {
        self.newline().is_some()
    }

    /// Whether the bytes that wait are the beginning of a line and no more.
    pub fn is_partial(&self) -> bool {
        self.start < self.buf.len() && !self.has_line()
    }

    /// Where the first newline is that was not handed out yet.
    fn newline(&self) -> Option<usize> {
        let from = self.scanned.max(self.start);
        let fresh = self.buf.get(from..).unwrap_or_default();
        memchr::memchr(b'\n', fresh).map(|at| from + at)
    }

    /// Takes bytes in and returns how many it took: fewer than all of them when lines
    /// wait to be fetched with [`Lines::next_line`].
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        if self.discarding {
            let Some(end) = memchr::memchr(b'\n', rest) else {
                return bytes.len();
            };
            self.discarding = false;
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        if self.start > 0 {
            self.buf.drain(..self.start);
            self.scanned = self.scanned.saturating_sub(self.start);
            self.start = 0;
        }
        let skipped = bytes.len() - rest.len();
        let n = rest.len().min(self.cap - self.buf.len());
        let need = self.buf.len() + n;
        if need > self.buf.capacity() {
            // Twice as much, but never more than the cap, which doubling alone would allow.
            let wanted = need.next_power_of_two().min(self.cap);
            self.buf.reserve_exact(wanted - self.buf.len());
        }
        self.buf
            .extend_from_slice(rest.get(..n).unwrap_or_default());
        skipped + n
    }

    /// The next complete line; `None` when more bytes are needed.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        let begin = self.start;
        if let Some(end) = self.newline() {
            self.start = end + 1;
            self.scanned = self.start;
            return self.buf.get(begin..end).map(Line::Whole);
        }
        self.scanned = self.buf.len();
        if self.buf.len() - begin >= self.cap {
            self.start = self.buf.len();
            self.discarding = true;
            return self.buf.get(begin..).map(Line::TooLong);
        }
        if self.start == self.buf.len() {
            // Idle connections hold no memory.
            self.buf = Vec::new();
            self.start = 0;
            self.scanned = 0;
        }
        None
    }
}

/// A line that is no request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadLine {
    /// Longer than [`LINE_CAP`].
    TooLong {
        /// The request's number as far as it could be made out, else 0.
        id: u64,
    },
    /// Not UTF-8, not JSON, not a request, or of another version.
    BadRequest {
        /// The request's number as far as it could be made out, else 0.
        id: u64,
        /// One short line.
        reason: String,
    },
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadLine::TooLong { .. } => {
                write!(f, "the request is longer than {LINE_CAP} bytes")
            }
            BadLine::BadRequest { reason, .. } => f.write_str(reason),
        }
    }
}

impl BadLine {
    /// The answer to such a line.
    pub fn reply(&self) -> Reply {
        let (BadLine::TooLong { id } | BadLine::BadRequest { id, .. }) = self;
        Reply::error(*id, Code::BadRequest, self.to_string())
    }
}

/// What a line asks for, or what is wrong with it; `None`: it is blank.
///
/// ```
/// use superd::control::codec::{decode_line, Lines};
/// let mut lines = Lines::new(superd::control::request::LINE_CAP);
/// lines.push(b"{\"v\":1,\"id\":7,\"do\":\"status\"}\n");
/// let asked = decode_line(lines.next_line().unwrap()).unwrap();
/// assert_eq!(asked.unwrap().id, 7);
/// assert!(lines.next_line().is_none());
/// ```
pub fn decode_line(line: Line<'_>) -> Option<Result<Request, BadLine>> {
    match line {
        Line::Whole(line) if line.iter().all(u8::is_ascii_whitespace) => None,
        Line::Whole(line) => Some(decode_request(line)),
        Line::TooLong(head) => Some(Err(BadLine::TooLong {
            id: find_id(head).unwrap_or(0),
        })),
    }
}

/// As much of a request as is needed to answer a bad one.
#[derive(FromJson)]
struct Head {
    v: Option<u32>,
    id: Option<u64>,
}

fn decode_request(line: &[u8]) -> Result<Request, BadLine> {
    let bad = |id, reason: String| Err(BadLine::BadRequest { id, reason });
    let Ok(text) = std::str::from_utf8(line) else {
        let id = find_id(line).unwrap_or(0);
        return bad(id, "not a request: the line is not UTF-8".to_owned());
    };
    let wrong_version = |v| format!("protocol version {v} is not spoken here, only {VERSION}");
    match json::from_str::<Request>(text) {
        Ok(request) if request.v == VERSION => Ok(request),
        Ok(request) => bad(request.id, wrong_version(request.v)),
        Err(error) => {
            let head = json::from_str::<Head>(text).ok();
            let id = head.as_ref().and_then(|h| h.id).or_else(|| find_id(line));
            match head.and_then(|h| h.v) {
                // Another version may well look different, so this is said first.
                Some(v) if v != VERSION => bad(id.unwrap_or(0), wrong_version(v)),
                _ => bad(
                    id.unwrap_or(0),
                    one_line(&format!("not a request: {error}")),
                ),
            }
        }
    }
}

/// The error text may quote what was sent: no control characters, no endless names.
fn one_line(text: &str) -> String {
    text.chars()
        .take(REASON_CAP)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Looks for `"id": 7` in something that need not be JSON.
fn find_id(line: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"id\"";
    let at = line.windows(KEY.len()).position(|w| w == KEY)?;
    let rest = line.get(at + KEY.len()..)?.trim_ascii_start();
    let rest = rest.strip_prefix(b":")?.trim_ascii_start();
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
}

/// Appends the reply as one line. A reply that cannot be written or is longer than
/// [`REPLY_CAP`] becomes an error reply with the same number.
pub fn encode_reply(reply: &Reply, into: &mut Vec<u8>) {
    let before = into.len();
    let written = json::append(into, reply).is_ok();
    if !written || into.len() - before >= REPLY_CAP {
        into.truncate(before);
        let more = if reply.more { ",\"more\":true" } else { "" };
        into.extend_from_slice(
            format!(
                "{{\"id\":{},\"ok\":false,\"code\":\"failed\",\
                 \"message\":\"the answer is too long to be sent\"{more}}}",
                reply.id
            )
            .as_bytes(),
        );
    }
    into.push(b'\n');
}

/// Appends the request as one line.
pub fn encode_request(request: &Request, into: &mut Vec<u8>) {
    let before = into.len();
    if json::append(into, request).is_err() {
        // Numbers, strings and flags can always be written; should that ever change,
        // no half line must reach the other side.
        into.truncate(before);
        return;
    }
    into.push(b'\n');
}

/// Reads one reply line.
///
/// # Errors
/// One short line that says what is wrong with it.
pub fn decode_reply(line: &[u8]) -> Result<Reply, String> {
    json::from_slice(line).map_err(|e| one_line(&e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::crash::{CrashReport, Repeat};
    use crate::control::reply::{EventLine, LogLine, Status};
    use crate::control::request::Verb;
    use crate::machine::event::{Instance, Pid};
    use crate::machine::report::{
        Crash, EndReport, Exit, Happening, Origin, StepOutcome, StepReport, Stuck, Verdict,
    };
    use crate::machine::signal::Signal;
    use std::time::Duration;

    /// A connection as these tests see it: bytes in, requests and bad lines out.
    struct Decoder {
        lines: Lines,
    }

    impl Decoder {
        fn new() -> Decoder {
            Decoder {
                lines: Lines::new(LINE_CAP),
            }
        }

        fn next_line(&mut self) -> Option<Result<Request, BadLine>> {
            loop {
                if let Some(line) = decode_line(self.lines.next_line()?) {
                    return Some(line);
                }
            }
        }

        /// Until all bytes are taken and all lines handed out.
        fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Result<Request, BadLine>)) {
            loop {
                let taken = self.lines.push(bytes);
                bytes = bytes.get(taken..).unwrap_or_default();
                while let Some(line) = self.next_line() {
                    each(line);
                }
                if bytes.is_empty() {
                    return;
                }
            }
        }
    }

    fn all(bytes: &[u8]) -> Vec<Result<Request, BadLine>> {
        let mut found = Vec::new();
        Decoder::new().feed(bytes, |l| found.push(l));
        found
    }

    fn bad(bytes: &[u8]) -> (u64, String) {
        match all(bytes).pop() {
            Some(Err(BadLine::BadRequest { id, reason })) => (id, reason),
            other => panic!("{other:?}"),
        }
    }

    /// xorshift64: tests need many bytes, not good ones.
    struct Dice(u64);
    impl Dice {
        fn roll(&mut self, below: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % below as u64) as usize
        }
    }

    #[test]
    fn a_request_survives_the_journey() {
        let mut asked = Request::new(7, Verb::Stop);
        asked.service = Some("caddy".to_owned());
        asked.wait = true;
        let mut bytes = Vec::new();
        encode_request(&asked, &mut bytes);
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            "{\"v\":1,\"id\":7,\"do\":\"stop\",\"service\":\"caddy\",\"wait\":true}\n"
        );
        assert_eq!(all(&bytes), vec![Ok(asked)]);
    }

    #[test]
    fn unknown_keys_and_blank_lines_are_passed_over() {
        let found = all(b"\n \r\n{\"v\":1,\"id\":2,\"do\":\"status\",\"colour\":[1,{}]}\r\n\n");
        assert_eq!(found, vec![Ok(Request::new(2, Verb::Status))]);
    }

    #[test]
    fn a_bad_line_says_why_and_keeps_its_number() {
        let (id, why) = bad(b"{\"v\":1,\"id\":7,\"do\":\"sto\n");
        assert_eq!(id, 7);
        assert!(why.starts_with("not a request: EOF while parsing"), "{why}");
        assert_eq!(bad(b"{\"v\":1, \"id\" : 9, \"do\":\"explode\"}\n").0, 9);
        assert_eq!(bad(b"GET / HTTP/1.1\n").0, 0);
        assert_eq!(
            bad(b"\xff\"id\":3\xfe\n"),
            (3, "not a request: the line is not UTF-8".into())
        );
        assert_eq!(
            bad(b"{\"v\":2,\"id\":4,\"verb\":{}}\n"),
            (4, "protocol version 2 is not spoken here, only 1".into())
        );
        assert_eq!(bad(b"{\"id\":5,\"do\":\"status\"}\n").0, 5);
        assert_eq!(bad(b"{\"v\":1,\"id\":-1,\"do\":\"status\"}\n").0, 0);
        assert_eq!(bad(b"\"id\":99999999999999999999999\n").0, 0);
        let mut nested = vec![b'['; LINE_CAP - 1];
        nested.push(b'\n');
        assert_eq!(bad(&nested).0, 0);
    }

    #[test]
    fn the_reason_is_one_short_line_whatever_it_quotes() {
        let name = "x\\n\\u001b".repeat(500);
        let line = format!("{{\"v\":1,\"id\":1,\"do\":\"{name}\"}}\n");
        let (_, why) = bad(line.as_bytes());
        assert!(why.chars().count() <= REASON_CAP);
        assert!(!why.chars().any(char::is_control));
    }

    #[test]
    fn a_line_of_exactly_the_cap_passes_and_one_byte_more_does_not() {
        let head = "{\"v\":1,\"id\":6,\"do\":\"status\"";
        let line = |len: usize| {
            let mut text = head.to_owned();
            text.push_str(&" ".repeat(len - head.len() - 2));
            text.push_str("}\n");
            text.into_bytes()
        };
        assert_eq!(
            all(&line(LINE_CAP)),
            vec![Ok(Request::new(6, Verb::Status))]
        );
        assert_eq!(
            all(&line(LINE_CAP + 1)),
            vec![Err(BadLine::TooLong { id: 6 })]
        );
    }

    #[test]
    fn an_over_long_line_is_reported_once_and_takes_no_memory() {
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        for _ in 0..10_000 {
            decoder.feed(&[b'a'; 1000], |l| found.push(l));
            assert!(decoder.lines.buf.capacity() <= LINE_CAP);
        }
        assert_eq!(found, vec![Err(BadLine::TooLong { id: 0 })]);
        decoder.feed(b"\n{\"v\":1,\"id\":2,\"do\":\"doctor\"}\n", |l| {
            found.push(l);
        });
        assert_eq!(found.pop(), Some(Ok(Request::new(2, Verb::Doctor))));
        assert_eq!(decoder.lines.buf.capacity(), 0);
    }

    #[test]
    fn a_full_decoder_takes_nothing_until_its_lines_are_fetched() {
        let mut decoder = Decoder::new();
        let one = b"{\"v\":1,\"id\":2,\"do\":\"plan\"}\n";
        let many = one.repeat(2000);
        let taken = decoder.lines.push(&many);
        assert_eq!(taken, LINE_CAP);
        assert_eq!(decoder.lines.push(&many), 0);
        assert_eq!(decoder.lines.room(), 0);
        assert!(decoder.next_line().is_some());
        assert_eq!(decoder.lines.push(&many), one.len());
    }

    #[test]
    fn any_chunking_of_any_bytes_gives_the_same_lines() {
        let pieces: [&[u8]; 8] = [
            b"{\"v\":1,\"id\":2,\"do\":\"plan\"}\n",
            b"\n",
            b"{\"v\":1,\"id\":12,\"do\"",
            b"\xff\x00\"id\":5",
            b" ",
            b"]}",
            b"{\"v\":9,\"id\":3}\n",
            &[b'z'; 9000],
        ];
        for seed in 1..300u64 {
            let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut stream = Vec::new();
            for _ in 0..dice.roll(60) {
                match dice.roll(10) {
                    9 => stream.push(dice.roll(256) as u8),
                    n => stream.extend_from_slice(pieces[n % pieces.len()]),
                }
            }
            let whole = all(&stream);
            let mut decoder = Decoder::new();
            let mut found = Vec::new();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let most = [1, 7, 900, 20_000, 70_000][dice.roll(5)];
                let (now, later) = rest.split_at(rest.len().min(1 + dice.roll(most)));
                decoder.feed(now, |l| found.push(l));
                rest = later;
            }
            assert_eq!(found, whole, "seed {seed}");
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut dice = Dice(42);
        let letters = b"{}[]\":,\\u0019deitv\n \xc3\xff";
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..dice.roll(400))
                .map(|_| letters[dice.roll(letters.len())])
                .collect();
            for line in all(&bytes) {
                if let Err(bad) = line {
                    let mut out = Vec::new();
                    encode_reply(&bad.reply(), &mut out);
                    assert!(decode_reply(&out).is_ok());
                }
            }
            decode_reply(&bytes).ok();
        }
    }

    fn end_of_a_run() -> EndReport {
        EndReport {
            instance: Instance(3),
            pid: Some(Pid(77)),
            by: Origin::Dependency {
                service: "nats".to_owned(),
            },
            absorbed: 12,
            stopping_seen: 1,
            ran: Duration::from_secs(9000),
            took: Duration::from_millis(3210),
            steps: vec![StepReport {
                what: "TERM".to_owned(),
                began: Duration::ZERO,
                took: Duration::from_millis(3200),
                outcome: StepOutcome::Skipped("why\nnot".to_owned()),
            }],
            exit: Exit::Signal(Signal(11)),
            crash: Some(Crash {
                kind: "go-panic".to_owned(),
                text: "close of closed channel".to_owned(),
                frame: String::new(),
                frames: Vec::new(),
            }),
            left: 2,
            ports_held: 0,
            hooks: Vec::new(),
            stuck: Vec::new(),
            verdict: Verdict::PanickedWhileStopping,
        }
    }

    #[test]
    fn every_kind_of_reply_is_one_line_and_comes_back() {
        let mut status = Reply::ok(1);
        status.more = true;
        status.status = Some(Box::new(Status {
            service: "a\nb\u{1b}".to_owned(),
            ..Status::default()
        }));
        let mut event = Reply::ok(2);
        event.event = Some(Box::new(EventLine {
            service: "caddy".to_owned(),
            ago_ms: u64::MAX,
            what: Happening::Ended(Box::new(end_of_a_run())),
            output: vec!["panic: close of closed channel".to_owned()],
            repeat: Some(Repeat {
                count: u64::MAX,
                first: 1,
            }),
            known: "a known fault".to_owned(),
        }));
        let mut report = Reply::ok(3);
        let mut end = end_of_a_run();
        let crash = end.crash.take().unwrap();
        end.stuck.push(Stuck {
            pid: Pid(4),
            name: "a\nb".to_owned(),
            state: 'D',
            wchan: String::new(),
            threads: 2,
            listens: vec!["tcp/80".to_owned()],
        });
        report.report = Some(Box::new(CrashReport {
            v: crate::control::crash::VERSION,
            service: "caddy".to_owned(),
            fingerprint: crash.fingerprint(),
            count: 3,
            first: 0,
            last: 5,
            crash,
            known: String::new(),
            end,
            dump: vec!["goroutine 1 [running]:\u{1b}".to_owned()],
            output: Vec::new(),
        }));
        let mut line = Reply::ok(u64::MAX);
        line.line = Some(LogLine {
            service: "x".to_owned(),
            ago_ms: 3,
            text: "\u{0}\u{7f}\u{2028}\r\n".to_owned(),
        });
        for reply in [
            status,
            event,
            report,
            line,
            Reply::error(0, Code::Busy, "later"),
        ] {
            let mut bytes = Vec::new();
            encode_reply(&reply, &mut bytes);
            assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
            assert_eq!(decode_reply(&bytes), Ok(reply));
        }
    }

    #[test]
    fn a_reply_that_is_too_long_becomes_an_error_reply() {
        let mut reply = Reply::ok(8);
        reply.more = true;
        reply.message = "x".repeat(REPLY_CAP);
        let mut bytes = b"before\n".to_vec();
        encode_reply(&reply, &mut bytes);
        let sent = decode_reply(&bytes[7..]).unwrap();
        assert_eq!((sent.id, sent.ok, sent.more), (8, false, true));
        assert_eq!(sent.code, Some(Code::Failed));
    }
}
