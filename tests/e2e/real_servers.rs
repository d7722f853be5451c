//! The real faulty servers, unmodified, stopped by superd: where a plain stop makes them
//! panic (tests/servers/baseline.py shows that), a stop by superd never does.
//!
//! The programs are built by tests/servers/build.sh. Where one is missing its tests are skipped
//! by name, or fail with SUPERD_REQUIRE_SERVERS=1. What came out is told as rows of the table
//! that tests/servers/table.py prints.

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{json, Value};

use crate::support::*;

#[path = "real_servers/caddy.rs"]
mod caddy;
#[path = "real_servers/nats.rs"]
mod nats;
#[path = "real_servers/nginx.rs"]
mod nginx;
#[path = "real_servers/open.rs"]
mod open;
#[path = "real_servers/quic.rs"]
mod quic;
#[path = "real_servers/stuck.rs"]
mod stuck;

fn server_or_skip(name: &str, server: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers");
    let dir = std::env::var_os("SUPERD_SERVERS_DIR").map_or(own, PathBuf::from);
    let path = dir.join(server);
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var("SUPERD_REQUIRE_SERVERS").is_ok_and(|v| v == "1");
    assert!(!required, "{}: not built", path.display());
    let why = format!("{server} is not built (tests/servers/build.sh {server})");
    skip(&format!("real_servers::{name}"), &why);
    None
}

/// A port that was free a moment ago, for servers that insist on 127.0.0.1. Never the same twice,
/// and none that the kernel gives a client (net.ipv4.ip_local_port_range begins at 32768).
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const PORTS: u32 = 12_000;
    let first = std::process::id().wrapping_mul(97);
    let is_free = |port: &u16| {
        TcpListener::bind(("127.0.0.1", *port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", *port)).is_ok()
    };
    let next = || 20_000 + (first.wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst)) % PORTS) as u16;
    let mut ports = std::iter::repeat_with(next).take(PORTS as usize);
    ports.find(is_free).unwrap()
}

/// What `superctl logs` has of a service.
fn said(s: &Superd, service: &str) -> Vec<String> {
    let lines = s.ask(json!({"do": "logs", "service": service, "lines": 200}));
    let text = |l: &Value| l["line"]["text"].as_str().map(str::to_owned);
    lines.iter().filter_map(text).collect()
}
