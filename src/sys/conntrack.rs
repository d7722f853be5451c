//! What the kernel's connection tracking knows about UDP (/proc/net/nf_conntrack).
//!
//! It is there on a router with a firewall, and only root may read it. An entry outlives its
//! connection by minutes, because UDP says no goodbye. But it carries the time that is left to
//! it, which every packet sets to the same value again: so how long it has been silent is
//! known, for both directions together.
//!
//! Not for TCP, whose sockets know better.

use std::fs;
use std::io::{self, BufRead};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Bytes that are read at most: some 40,000 entries.
const MOST: u64 = 8 << 20;

/// What an entry has left after a packet: both sides have spoken for a while, or not.
struct Timeouts {
    stream: u64,
    other: u64,
}

/// Calls `f` with the server's address of each UDP connection to this machine that had a packet
/// not longer ago than `quiet`, in superd's own network namespace. One that was never answered
/// is none: its client is held back. No call where nothing is tracked or may be read.
pub fn udp(quiet: Duration, f: &mut dyn FnMut(SocketAddr)) {
    let Ok(file) = fs::File::open("/proc/self/net/nf_conntrack") else {
        return;
    };
    // What is only forwarded is tracked as well.
    let own: Vec<IpAddr> = addresses();
    let is_own = |ip: IpAddr| ip.is_loopback() || own.contains(&ip);
    let seconds = |name: &str, usual| {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_udp_timeout{name}");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim().parse().unwrap_or(usual)
    };
    let timeouts = Timeouts {
        stream: seconds("_stream", 120),
        other: seconds("", 30),
    };
    let mut reader = io::BufReader::with_capacity(16 * 1024, io::Read::take(file, MOST));
    let mut line = String::with_capacity(256);
    while matches!(reader.read_line(&mut line), Ok(n) if n > 0) {
        if let Some((local, silent)) = parse(&line, &timeouts) {
            if silent <= quiet && is_own(local.ip()) {
                f(local);
            }
        }
        line.clear();
    }
}

/// Of all interfaces.
fn addresses() -> Vec<IpAddr> {
    let Ok(found) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    found
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect()
}

/// `ipv4 2 udp 17 118 src=C dst=S sport=1 dport=443 src=S dst=C sport=443 dport=1 [ASSURED] ...`:
/// the second half is what the server sends, so it has the server's own address also where
/// a port is forwarded.
fn parse(line: &str, timeouts: &Timeouts) -> Option<(SocketAddr, Duration)> {
    let mut fields = line.split_ascii_whitespace();
    if fields.nth(2)? != "udp" || line.contains("[UNREPLIED]") {
        return None;
    }
    let left: u64 = fields.nth(1)?.parse().ok()?;
    let full = match line.contains("[ASSURED]") {
        true => timeouts.stream,
        false => timeouts.other,
    };
    let second = |key: &str| {
        let mut values = line
            .split_ascii_whitespace()
            .filter_map(|f| f.strip_prefix(key));
        values.nth(1)
    };
    let ip: IpAddr = second("src=")?.parse().ok()?;
    let port: u16 = second("sport=")?.parse().ok()?;
    let silent = Duration::from_secs(full.saturating_sub(left));
    Some((SocketAddr::new(ip, port), silent))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Timeouts = Timeouts {
        stream: 120,
        other: 30,
    };

    fn entry(left: u64, state: &str) -> String {
        format!(
            "ipv4     2 udp      17 {left} src=198.51.100.7 dst=203.0.113.1 sport=50000 dport=443 \
             src=192.168.1.2 dst=198.51.100.7 sport=8443 dport=50000 {state}mark=0 zone=0 use=2\n"
        )
    }

    #[test]
    fn an_entry_tells_the_server_s_address_and_how_long_it_is_silent() {
        let own: SocketAddr = "192.168.1.2:8443".parse().unwrap();
        for (left, state, silent) in [
            (118, "[ASSURED] ", 2),
            (20, "[ASSURED] ", 100),
            (29, "", 1),
            (200, "[ASSURED] ", 0), // the timeout was shortened meanwhile
        ] {
            let parsed = parse(&entry(left, state), &USUAL);
            assert_eq!(parsed, Some((own, Duration::from_secs(silent))));
        }
        let v6 = "ipv6     10 udp      17 119 src=fd00::2 dst=fd00::1 sport=1 dport=443 \
                  src=fd00::1 dst=fd00::2 sport=443 dport=1 [ASSURED] mark=0 use=2";
        let parsed = parse(v6, &USUAL).unwrap();
        assert_eq!(parsed.0, "[fd00::1]:443".parse().unwrap());
    }

    #[test]
    fn the_machine_s_own_addresses_are_known() {
        assert!(addresses().iter().any(IpAddr::is_loopback));
    }

    #[test]
    fn what_is_no_open_connection_of_udp_is_left_out() {
        let unanswered = entry(29, "[UNREPLIED] ");
        let tcp = entry(118, "[ASSURED] ").replace("udp", "tcp");
        let cut: String = entry(118, "").chars().take(90).collect();
        for line in [unanswered.as_str(), &tcp, &cut, "", "\n", "a b udp"] {
            assert_eq!(parse(line, &USUAL), None, "{line}");
        }
    }
}
