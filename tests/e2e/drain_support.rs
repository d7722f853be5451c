//! What the tests of drains share: the twin `pages`, its clients, and whether they are held back.
//!
//! The twin cuts everything the moment it gets TERM. So each answer that comes whole is the
//! drain's doing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::*;

pub const PAGES: &str = r#"
    [service.pages]
    command = [$TWIN:pages, "pages", "--listen", "$HOST:8080", "--also", "$HOST:8081"]
    stop = [{ drain = "10m" }, { signal = "TERM", wait = "10m" }]
"#;

/// A client with a connection that stays open.
pub struct Client(pub BufReader<TcpStream>);

impl Client {
    pub fn connect(at: &str) -> Client {
        let stream = wait_for("it takes connections", || TcpStream::connect(at).ok());
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client(BufReader::new(stream))
    }

    /// One whose request the server has begun with.
    pub fn begin(at: &str) -> Client {
        let mut client = Client::connect(at);
        assert_eq!(client.ask("begin"), "begun");
        client
    }

    pub fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }

    pub fn line(&mut self) -> String {
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// The server has hung up, or cut the connection.
    pub fn is_cut(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// Whether a new connection is made within so long. Panics when it is refused.
pub fn is_held(at: &str, within: Duration) -> bool {
    let at: SocketAddr = at.parse().unwrap();
    match TcpStream::connect_timeout(&at, within) {
        Ok(_) => false,
        Err(e) if e.kind() == std::io::ErrorKind::TimedOut => true,
        Err(e) => panic!("{at}: {e}"),
    }
}

pub const SHORT: Duration = Duration::from_millis(100);

pub fn stop(s: &Superd) -> Child {
    let mut command = s.ctl_command(&["stop", "pages"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

pub fn connections(s: &Superd) -> Option<u64> {
    s.status("pages")["connections"].as_u64()
}

pub fn wait_connections(s: &Superd, n: u64) {
    wait_until(&format!("{n} connections"), || connections(s) == Some(n));
}

pub fn can_drain(name: &str) -> bool {
    let s = Superd::start("");
    let doctor = s.ok(&["doctor"]);
    s.end();
    let can = doctor.lines().any(|l| l.starts_with("ok  drain"));
    if !can {
        skip(
            &format!("drains::{name}"),
            "superd cannot drain here (superctl doctor)",
        );
    }
    can
}

pub fn start(name: &str, flavour: Flavour, toml: &str) -> Option<(Superd, String)> {
    if !can_drain(name) {
        return None;
    }
    let s = Superd::start_in(flavour, toml);
    s.wait_record("pages", "start", 1);
    let at = format!("{}:8080", s.place.host);
    Some((s, at))
}

/// A server with four sockets for each of its addresses, SO_REUSEPORT.
pub fn shared(place: &str) -> String {
    let more = format!("\"--reuseport\", \"4\", \"--unshare\", \"{place}\", \"--also\"");
    PAGES.replace("\"--also\"", &more)
}

/// Nanoseconds of processor time that superd, one thread, has used.
pub fn used(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// The twin's connections come and go with a client, so whether a new one is let in is tried.
pub fn wait_let_in(at: &str) {
    wait_until("new connections are let in", || {
        Client::connect(at).ask("begin") == "begun"
    });
}

/// A client that sends something, and whether it comes back.
pub fn is_answered(socket: &UdpSocket, first: u8, version: u32) -> bool {
    let mut bytes = vec![first];
    bytes.extend(version.to_be_bytes());
    bytes.resize(1200, 0);
    socket.send(&bytes).unwrap();
    socket.recv(&mut [0; 2000]).is_ok()
}

/// A superd that is hindered before it begins: its drains are skipped with one line,
/// the stop goes on, and doctor has said so before.
pub fn hindered(
    toml: &str,
    hinder: impl Fn() -> std::io::Result<()> + Send + Sync + 'static,
    why: &str,
) -> Superd {
    let place = Place::new();
    place.configure(Flavour::NoCgroups, toml);
    // For a service of another user.
    std::fs::write(place.file("pages.record"), "").unwrap();
    let mode = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(place.file("pages.record"), mode).unwrap();
    let mut command = place.command(&place.superd_args());
    // SAFETY: it makes system calls only.
    unsafe { command.pre_exec(hinder) };
    let s = Superd::launch(place, command);
    s.wait_record("pages", "start", 1);
    let at = format!("{}:8080", s.place.host);
    let mut client = Client::begin(&at);
    let said = s.ctl(&["drain", "pages"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains(why), "{said:?}");
    assert!(s.status("pages")["drain"].is_null());
    let before = s.place.log().matches(why).count();
    s.ok(&["stop", "pages"]);
    assert!(client.is_cut());
    let end = s.last_end("pages");
    assert_eq!(end["verdict"], "clean", "{end}");
    assert_eq!(s.place.log().matches(why).count(), before + 1);
    s
}
