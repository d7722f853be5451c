//! nginx of Debian with `reuseport`: a drain before TERM, on which nginx cuts everything at once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::open::BACKEND;
use super::*;

const RESTARTS: usize = 3;
const PAGE: usize = 2_000_000;
/// A little slower than the test is to wait for.
const RATE: &str = "1m";

/// nginx with its files in the directory of the test, or None, said by name.
pub(super) fn start(name: &str) -> Option<(Superd, String)> {
    let nginx = server_or_skip(name, "nginx")?;
    if !root_or_skip(&format!("real_servers::{name}")) || !crate::drain_support::can_drain(name) {
        return None;
    }
    let place = Place::new();
    let dir = place.file("nginx");
    std::fs::create_dir(&dir).unwrap();
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&dir, everybody).unwrap();
    std::fs::write(dir.join("page"), "x".repeat(PAGE)).unwrap();
    let (at, dir) = (format!("{}:8080", place.host), dir.display());
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {dir}/{what};"))
        .concat();
    let text = format!(
        "daemon off;\nuser root;\nworker_processes 2;\npid {dir}/pid;\nerror_log stderr;\n\
         events {{ worker_connections 2000; }}\n\
         http {{ access_log off; {temp}\n\
         map $http_upgrade $connection_up {{ default upgrade; \"\" close; }}\n\
         server {{ listen {at} reuseport; root {dir};\n\
         location = /page {{ limit_rate {RATE}; }}\n\
         location ~ ^/(ws|slow)$ {{ proxy_pass http://{}:{BACKEND}; proxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_up; }}\n\
         location / {{ return 200 whole; }} }} }}\n",
        place.host
    );
    std::fs::write(place.file("nginx/conf"), text).unwrap();
    place.configure(
        Flavour::NoCgroups,
        &format!(
            "[service.nginx]\ncommand = [\"{}\", \"-p\", \"{dir}\", \"-c\", \"{dir}/conf\"]\n\
             stop = [{{ drain = \"10m\" }}, {{ signal = \"TERM\", wait = \"1m\" }}]\n",
            nginx.display()
        ),
    );
    let command = place.command(&place.superd_args());
    let s = Superd::launch(place, command);
    wait_until("nginx answers", || get(&at, "/").is_ok());
    Some((s, at))
}

/// A request on a connection of its own; how many bytes its answer has.
pub(super) fn ask(
    stream: &mut BufReader<TcpStream>,
    path: &str,
    last: bool,
) -> std::io::Result<usize> {
    let end = if last { "close" } else { "keep-alive" };
    let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: {end}\r\n\r\n");
    stream.get_mut().write_all(head.as_bytes())?;
    read(stream)
}

pub(super) fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<usize> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::Error::other("no answer"));
        }
        if let Some(n) = line.strip_prefix("Content-Length: ") {
            length = n.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(length)
}

pub(super) fn open(at: &str) -> std::io::Result<BufReader<TcpStream>> {
    let at: SocketAddr = at.parse().unwrap();
    let stream = TcpStream::connect_timeout(&at, Duration::from_secs(20))?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(BufReader::new(stream))
}

fn get(at: &str, path: &str) -> std::io::Result<usize> {
    ask(&mut open(at)?, path, true)
}

/// Restarts a service whose stop begins with a drain, among 200 new connections a second. Before
/// each of them something is opened, and a connection that is kept alive; when superd drains both
/// are finished. Nobody may fail or be refused.
pub(super) fn restarts_that_nobody_notices<T>(
    s: &Superd,
    service: &str,
    at: &str,
    whole: usize,
    open_one: impl Fn() -> T,
    finish_it: impl Fn(T),
) {
    let is_over = AtomicBool::new(false);
    let (count, failed, longest) = std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let began = monotonic();
            let mut clients = Vec::new();
            while !is_over.load(Ordering::SeqCst) && clients.len() < 4000 {
                sleep_until(began + clients.len() as u64 * 5_000_000);
                clients.push(scope.spawn(|| {
                    let began = Instant::now();
                    (get(at, "/"), began.elapsed())
                }));
            }
            let all: Vec<_> = clients.into_iter().map(|c| c.join().unwrap()).collect();
            let longest = all.iter().map(|(_, took)| *took).max();
            let failed = all.iter().filter(|(r, _)| r.as_ref().ok() != Some(&whole));
            let failed: Vec<String> = failed.map(|(r, _)| format!("{r:?}")).collect();
            (all.len(), failed, longest.unwrap_or_default())
        });
        for _ in 0..RESTARTS {
            let before = s.pid_of(service);
            let opened = open_one();
            let mut keep_alive = open(at).unwrap();
            assert_eq!(ask(&mut keep_alive, "/", false).unwrap(), whole);
            s.ok(&["restart", "--no-wait", service]);
            wait_until("it drains", || {
                s.status(service)["connections"]
                    .as_u64()
                    .is_some_and(|n| n > 0)
            });
            assert_eq!(ask(&mut keep_alive, "/", true).unwrap(), whole);
            finish_it(opened);
            drop(keep_alive);
            wait_until("the next one runs", || {
                s.state(service) == "up" && s.pid_of(service) != before
            });
            wait_until("it answers", || get(at, "/").is_ok());
        }
        is_over.store(true, Ordering::SeqCst);
        storm.join().unwrap()
    });
    tell(&format!(
        "{service}, drain, SO_REUSEPORT: {RESTARTS} restarts among 200 new connections a second: \
         {count} clients, {} failed or refused, the longest took {longest:?}",
        failed.len()
    ));
    assert_eq!(failed, Vec::<String>::new());
    s.ok(&["stop", service]);
    assert_eq!(s.verdict(service), "clean");
}

#[test]
fn nginx_restarts_with_a_drain_and_nobody_notices() {
    let name = "nginx_restarts_with_a_drain_and_nobody_notices";
    alone(|| {
        let Some((s, at)) = start(name) else { return };
        let begin_download = || {
            let mut download = open(&at).unwrap();
            let head = "GET /page HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
            download.get_mut().write_all(head.as_bytes()).unwrap();
            download
        };
        let is_whole = |mut download| assert_eq!(read(&mut download).unwrap(), PAGE);
        restarts_that_nobody_notices(&s, "nginx", &at, 5, begin_download, is_whole);
        s.end();
    });
}
