//! What is open while a real server is stopped: a WebSocket, a long download, a request that is
//! half there, a connection that is kept alive, and 200 new connections a second. Each that the
//! server has taken finishes whole, though nginx cuts everything on TERM, and so does Caddy what
//! it has upgraded.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::nginx::{ask, open, read};
use super::*;

/// Where the server finds what it passes on: a WebSocket that echoes, and a slow page.
pub(super) const BACKEND: u16 = 8090;
const PIECE: usize = 20_000;
const PIECES: usize = 15;

/// The key and its answer that RFC 6455 has as an example (1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// One frame of less than 126 bytes (RFC 6455, 5.2), of a client masked.
fn send_frame(to: &mut TcpStream, opcode: u8, text: &[u8], mask: Option<[u8; 4]>) {
    let mut frame = vec![0x80 | opcode, text.len() as u8];
    assert!(text.len() < 126);
    if let Some(mask) = mask {
        frame[1] |= 0x80;
        frame.extend(mask);
        frame.extend(text.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    } else {
        frame.extend(text);
    }
    to.write_all(&frame).unwrap();
}

fn read_frame(from: &mut impl Read) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    from.read_exact(&mut head)?;
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        from.read_exact(&mut mask)?;
    }
    let mut text = vec![0; usize::from(head[1] & 0x7f)];
    from.read_exact(&mut text)?;
    let text = text.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m);
    Ok((head[0] & 0x0f, text.collect()))
}

/// The lines of a head, without their ends.
fn head(from: &mut impl BufRead) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => return lines,
            line => lines.push(line.to_owned()),
        }
    }
}

/// One connection of the server to the backend.
fn serve(stream: TcpStream) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    let asked = head(&mut reader);
    if !asked.first().is_some_and(|l| l.starts_with("GET /ws ")) {
        let length = PIECE * PIECES;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        writer.write_all(head.as_bytes()).unwrap();
        for _ in 0..PIECES {
            writer.write_all(&[b'x'; PIECE]).unwrap();
            std::thread::sleep(Duration::from_millis(100)); // a page that takes its time
        }
        return;
    }
    let has = |wanted: &str| asked.iter().any(|l| l.eq_ignore_ascii_case(wanted));
    assert!(has("Upgrade: websocket"), "{asked:?}");
    assert!(has(&format!("Sec-WebSocket-Key: {KEY}")), "{asked:?}");
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    writer.write_all(head.as_bytes()).unwrap();
    while let Ok((opcode, text)) = read_frame(&mut reader) {
        send_frame(&mut writer, opcode, &text, None);
        if opcode == CLOSE {
            return;
        }
    }
}

/// Takes connections as long as the test program runs.
fn backend(host: &str) {
    let listener = TcpListener::bind((host, BACKEND)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
}

struct WebSocket(BufReader<TcpStream>);

impl WebSocket {
    fn open(at: &str) -> WebSocket {
        let mut stream = open(at).unwrap();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        let answer = head(&mut stream);
        assert!(answer[0].starts_with("HTTP/1.1 101 "), "{answer:?}");
        let accept = format!("Sec-WebSocket-Accept: {ACCEPT}");
        assert!(
            answer.iter().any(|l| l.eq_ignore_ascii_case(&accept)),
            "{answer:?}"
        );
        WebSocket(stream)
    }

    fn ask(&mut self, opcode: u8, text: &[u8]) {
        send_frame(self.0.get_mut(), opcode, text, Some([7, 77, 177, 254]));
        let (answered, back) = read_frame(&mut self.0).expect("it is cut");
        assert_eq!((answered, back.as_slice()), (opcode, text));
    }

    /// Closes it as RFC 6455 says: a frame each, then the server ends the connection.
    fn close(mut self) {
        self.ask(CLOSE, &1000_u16.to_be_bytes());
        assert_eq!(self.0.read(&mut [0]).unwrap(), 0, "the end, and no reset");
    }
}

/// What became of clients that come at a steady rate while the server is stopped.
#[derive(Debug, Default)]
struct Storm {
    whole: usize,
    /// No connection: held back, and then nobody listened.
    outside: usize,
    cut: Vec<String>,
}

fn storm(at: SocketAddr, is_over: &AtomicBool, page: usize) -> Storm {
    let one = move || -> Result<bool, String> {
        let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_secs(5)) else {
            return Ok(false);
        };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        match ask(&mut BufReader::new(stream), "/", true) {
            Ok(n) if n == page => Ok(true),
            other => Err(format!("{other:?}")),
        }
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let (began, mut clients) = (monotonic(), Vec::new());
        while !is_over.load(Ordering::SeqCst) && clients.len() < 2000 {
            sleep_until(began + clients.len() as u64 * 5_000_000);
            clients.push(scope.spawn(one));
        }
        clients.into_iter().map(|c| c.join().unwrap()).collect()
    });
    let mut storm = Storm::default();
    for one in all {
        match one {
            Ok(true) => storm.whole += 1,
            Ok(false) => storm.outside += 1,
            Err(e) => storm.cut.push(e),
        }
    }
    storm
}

/// Stops the service, whose stop begins with a drain, with all of that open. `page` is how many
/// bytes `/` has.
fn a_stop_with_all_of_that_open(s: &Superd, service: &str, at: &str, page: usize) {
    backend(&s.place.host);
    let address: SocketAddr = at.parse().unwrap();
    let is_over = AtomicBool::new(false);
    let (storm, took) = std::thread::scope(|scope| {
        let mut web = WebSocket::open(at);
        web.ask(TEXT, b"one");
        let mut keep_alive = open(at).unwrap();
        assert_eq!(ask(&mut keep_alive, "/", false).unwrap(), page);
        let mut half = open(at).unwrap();
        let begun = b"GET / HTTP/1.1\r\nHost: test\r\n";
        half.get_mut().write_all(begun).unwrap();
        let mut download = open(at).unwrap();
        let request = b"GET /slow HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        download.get_mut().write_all(request).unwrap();
        let mut first = String::new();
        download.read_line(&mut first).unwrap();
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");

        let storm = scope.spawn(|| storm(address, &is_over, page));
        std::thread::sleep(Duration::from_millis(300)); // some come before the stop
        let mut command = s.ctl_command(&["stop", service]);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let (began, stop) = (Instant::now(), command.spawn().unwrap());
        let count = || s.status(service)["connections"].as_u64();
        wait_until("the storm is served", || count() == Some(4));
        web.ask(TEXT, b"two");
        assert_eq!(ask(&mut keep_alive, "/", true).unwrap(), page);
        half.get_mut()
            .write_all(b"Connection: close\r\n\r\n")
            .unwrap();
        assert_eq!(read(&mut half).unwrap(), page);
        assert_eq!(read(&mut download).unwrap(), PIECE * PIECES);
        drop((keep_alive, half, download));
        wait_until("nothing is open but the WebSocket", || count() == Some(1));
        web.ask(TEXT, b"three");
        web.close();
        let said = finish(stop);
        assert_eq!(said.code, 0, "{said:?}");
        let took = began.elapsed();
        is_over.store(true, Ordering::SeqCst);
        (storm.join().unwrap(), took)
    });
    let end = s.last_end(service);
    assert_eq!(end["verdict"], "clean", "{end}");
    assert_eq!(end["steps"][0]["outcome"], "held", "{end}");
    tell(&format!(
        "{service}: stop with a drain in {took:?}: WebSocket, download, half a request and keep-alive \
         whole; of 200 new clients a second {} whole, {} held back, {} cut",
        storm.whole,
        storm.outside,
        storm.cut.len()
    ));
    assert_eq!(storm.cut, Vec::<String>::new());
    assert!(storm.whole > 0 && storm.outside > 0, "{storm:?}");
    assert!(TcpStream::connect(address).is_err(), "its port is free");
}

#[test]
fn everything_that_nginx_has_open_finishes_whole() {
    let name = "everything_that_nginx_has_open_finishes_whole";
    alone(|| {
        let Some((s, at)) = super::nginx::start(name) else {
            return;
        };
        a_stop_with_all_of_that_open(&s, "nginx", &at, 5);
        s.end();
    });
}

#[test]
fn everything_that_caddy_has_open_finishes_whole() {
    let name = "everything_that_caddy_has_open_finishes_whole";
    let Some(caddy) = server_or_skip(name, "caddy") else {
        return;
    };
    if !crate::drain_support::can_drain(name) {
        return;
    }
    alone(|| {
        let place = super::caddy::place(&caddy, true, super::caddy::DRAIN);
        let file = place.file("caddy.json");
        let text = std::fs::read_to_string(&file).unwrap();
        let route = format!(
            "\"routes\": [{{\"match\": [{{\"path\": [\"/ws\", \"/slow\"]}}], \"handle\": [\
             {{\"handler\": \"reverse_proxy\", \"upstreams\": [{{\"dial\": \"{}:{BACKEND}\"}}]}}], \
             \"terminal\": true}},",
            place.host
        );
        let with = text.replacen("\"routes\": [", &route, 1);
        assert_ne!(text, with);
        std::fs::write(file, with).unwrap();
        let at = format!("{}:8080", place.host);
        let command = place.command(&place.superd_args());
        let s = Superd::launch(place, command);
        wait_until("caddy answers", || {
            open(&at).is_ok_and(|mut o| ask(&mut o, "/", true).is_ok())
        });
        a_stop_with_all_of_that_open(&s, "caddy", &at, "hello from caddy\n".len());
        s.end();
    });
}
