//! Drains across a link: a service, or its clients, in a network namespace of its own.

use std::net::TcpStream;
use std::process::Command;

use crate::drain_sockets::PASSED;
use crate::drain_storms::restarts_in_a_storm;
use crate::drain_support::*;
use crate::support::*;

/// A network namespace of the test's own, with a link to it; both go with this.
struct Network {
    name: String,
    /// The address there.
    inner: String,
    /// The address in the namespace of the test.
    outer: String,
}

impl Network {
    /// None, with the reason, where such things cannot be made.
    ///
    /// `n`: each test has another number.
    fn make(n: u32) -> Result<Network, String> {
        let pid = std::process::id();
        let name = format!("superd-e2e-{pid}-{n}");
        let (link, peer) = (format!("sde{pid}a{n}"), format!("sde{pid}b{n}"));
        let net = format!("10.{}.{}", 128 + (pid >> 8 & 127), pid & 255);
        let (outer, inner) = (
            format!("{net}.{}", 4 * n + 1),
            format!("{net}.{}", 4 * n + 2),
        );
        let ip = |args: &str| {
            let args: Vec<&str> = args.split(' ').collect();
            let said = run(Command::new("ip").args(&args));
            match said.code {
                0 => Ok(()),
                _ => Err(format!("ip {}: {}", args.join(" "), said.err.trim())),
            }
        };
        ip(&format!("netns add {name}"))?;
        let network = Network {
            name: name.clone(),
            inner: inner.clone(),
            outer: outer.clone(),
        };
        for args in [
            format!("link add {link} type veth peer name {peer} netns {name}"),
            format!("addr add {outer}/30 dev {link}"),
            format!("link set {link} up"),
            format!("-n {name} addr add {inner}/30 dev {peer}"),
            format!("-n {name} link set {peer} up"),
            format!("-n {name} link set lo up"),
        ] {
            ip(&args)?;
        }
        Ok(network)
    }
}

impl Network {
    /// Moves this thread, and what it begins, into the namespace.
    fn enter(&self) {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
        // SAFETY: a descriptor that lives until the call returns, and a number.
        let r = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(r, 0, "setns: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The link goes with it.
        run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

#[test]
fn between_two_hosts_a_service_in_a_network_namespace_is_drained() {
    let name = "between_two_hosts_a_service_in_a_network_namespace_is_drained";
    let name = format!("drain_networks::{name}");
    if !root_or_skip(&name) || !program_or_skip(&name, "ip") {
        return;
    }
    let network = match Network::make(0) {
        Ok(network) => network,
        Err(why) => return skip(&name, &why),
    };
    let at = format!("{}:8080", network.inner);
    let toml = format!(
        r#"
        [service.pages]
        command = ["ip", "netns", "exec", "{}", $TWIN:pages, "pages", "--listen", "{at},127.0.0.1:8081"]
        environment = {{ PATH = "/usr/sbin:/usr/bin:/sbin:/bin" }}
        stop = [{{ drain = "10m" }}, {{ signal = "TERM", wait = "10m" }}]
        "#,
        network.name
    );
    let Some((s, _)) = start(&name, Flavour::NoCgroups, &toml) else {
        return;
    };
    // The same port in superd's own namespace is somebody else's.
    let other = std::net::TcpListener::bind((s.place.host.as_str(), 8080)).unwrap();
    let _stranger = TcpStream::connect(other.local_addr().unwrap()).unwrap();
    let mut client = Client::begin(&at);
    let stop = stop(&s);
    wait_connections(&s, 1);
    assert!(is_held(&at, SHORT));
    assert!(!is_held(&other.local_addr().unwrap().to_string(), LIMIT));
    let s = s.succeed();
    wait_connections(&s, 1);
    assert!(is_held(&at, SHORT));
    assert_eq!(client.ask("end"), "whole");
    drop(client);
    finish(stop);
    s.wait_state("pages", "down");
    assert_eq!(s.verdict("pages"), "clean");
    s.end();
}

/// The same storm as on loopback, from the other end of a link.
#[test]
fn between_two_hosts_a_restart_in_a_storm_refuses_and_loses_nobody() {
    let name = "between_two_hosts_a_restart_in_a_storm_refuses_and_loses_nobody";
    let name = format!("drain_networks::{name}");
    if !root_or_skip(&name) || !program_or_skip(&name, "ip") {
        return;
    }
    let network = match Network::make(1) {
        Ok(network) => network,
        Err(why) => return skip(&name, &why),
    };
    let reuseport = shared("/nowhere");
    for (what, toml) in [("sockets", PASSED), ("SO_REUSEPORT", reuseport.as_str())] {
        alone(|| {
            let toml = toml.replace("$HOST", &network.outer);
            let Some((s, _)) = start(&name, Flavour::NoCgroups, &toml) else {
                return;
            };
            let at = format!("{}:8080", network.outer);
            let storm = std::thread::scope(|scope| {
                let clients = scope.spawn(|| {
                    network.enter();
                    restarts_in_a_storm(&s, &at, 3)
                });
                clients.join().unwrap()
            });
            storm.tell(&format!("{what} and drain, two hosts"), 3);
            storm.assert_nobody_refused();
            assert!(storm.whole > 100);
            s.end();
        });
    }
}
