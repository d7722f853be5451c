//! Drains of UDP by the kernel's own table of connections, in a network namespace of the test's
//! own, where a rule of nftables asks the kernel to keep it. It is the namespace of one thread,
//! and goes with it and with what it has started.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::drain_support::*;
use crate::support::*;

/// Attributes of netlink(7): length, kind, what is in it, and filled up to four bytes.
fn attribute(kind: u16, what: &[u8]) -> Vec<u8> {
    let length = 4 + what.len();
    let mut bytes = (length as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(what);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, what: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &what.concat()) // NLA_F_NESTED
}

fn text(kind: u16, what: &str) -> Vec<u8> {
    attribute(kind, format!("{what}\0").as_bytes())
}

fn number(kind: u16, what: u32) -> Vec<u8> {
    attribute(kind, &what.to_be_bytes())
}

/// struct nlmsghdr and struct nfgenmsg (linux/netfilter/nfnetlink.h).
fn message(kind: u16, flags: u16, family: u8, resource: u16, what: &[Vec<u8>]) -> Vec<u8> {
    let what = what.concat();
    let mut bytes = (20 + what.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((1 | flags).to_ne_bytes()); // NLM_F_REQUEST
    bytes.extend([0; 8]); // sequence, sender
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(what);
    bytes
}

/// What `nft add table inet t`, `nft add chain inet t c { type filter hook prerouting priority 0; }`
/// and `nft add rule inet t c ct state` do: one who asks is enough for all to be tracked.
fn track() -> Result<(), String> {
    use nix::sys::socket::{recv, send, socket, AddressFamily, MsgFlags, SockFlag, SockType};
    const TABLES: u16 = 10; // NFNL_SUBSYS_NFTABLES
    const INET: u8 = 1;
    const CREATE: u16 = 0x404; // NLM_F_CREATE | NLM_F_ACK
    let failed = |e: nix::errno::Errno| e.to_string();
    let protocol = nix::sys::socket::SockProtocol::NetlinkNetFilter;
    let flags = SockFlag::SOCK_CLOEXEC;
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(failed)?;
    let hook = nested(4, &[number(1, 0), number(2, 0)]); // prerouting, priority 0
    let state = nested(2, &[number(1, 8), number(2, 0)]); // into a register, the state
    let ct = nested(1, &[text(1, "ct"), state]);
    let batch = [
        message(0x10, 0, 0, TABLES, &[]),
        message(TABLES << 8, CREATE, INET, 0, &[text(1, "t")]),
        message(
            TABLES << 8 | 3,
            CREATE,
            INET,
            0,
            &[text(1, "t"), text(3, "c"), hook, text(7, "filter")],
        ),
        message(
            TABLES << 8 | 6,
            CREATE,
            INET,
            0,
            &[text(1, "t"), text(2, "c"), nested(4, &[ct])],
        ),
        message(0x11, 0, 0, TABLES, &[]),
    ];
    send(kernel.as_raw_fd(), &batch.concat(), MsgFlags::empty()).map_err(failed)?;
    for what in ["table", "chain", "rule"] {
        let mut buffer = [0; 4096];
        let n = recv(kernel.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(failed)?;
        let error = buffer[..n]
            .get(16..20)
            .map(|b| i32::from_ne_bytes(b.try_into().unwrap()));
        match error {
            Some(0) => {}
            Some(e) => {
                let e = std::io::Error::from_raw_os_error(-e);
                return Err(format!("nftables: new {what}: {e}"));
            }
            None => return Err(format!("nftables: new {what}: no answer")),
        }
    }
    Ok(())
}

/// A network namespace for this thread and what it starts, with nothing but loopback.
fn own_network() -> Result<(), String> {
    // SAFETY: a number; only this thread moves.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!("unshare: {}", std::io::Error::last_os_error()));
    }
    let any = UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
    let mut up = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::IFF_UP as libc::c_short,
        },
    };
    up.ifr_name[0] = b'l' as libc::c_char;
    up.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: the request reads an ifreq, which is ours.
    match unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS as _, &up) } {
        0 => Ok(()),
        _ => Err(format!("lo: {}", std::io::Error::last_os_error())),
    }
}

/// Sends a packet of an open connection and waits for its answer.
fn talk(client: &UdpSocket) {
    assert!(is_answered(client, 0x40, 0));
}

#[test]
fn connections_of_quic_are_counted_by_the_kernel_s_table() {
    let name = "drain_tracked::connections_of_quic_are_counted_by_the_kernel_s_table";
    if !root_or_skip(name) || !can_drain(name) {
        return;
    }
    let test = || {
        if let Err(why) = own_network().and_then(|()| track()) {
            return skip(name, &why);
        }
        let toml = PAGES.replace("\"--also\", \"$HOST:8081\"", "\"--udp\", \"$HOST:8080\"");
        let Some((s, at)) = start(name, Flavour::NoCgroups, &toml) else {
            return;
        };
        let client = || {
            let client = UdpSocket::bind((s.place.host.as_str(), 0)).unwrap();
            client.set_read_timeout(Some(LIMIT)).unwrap();
            client
        };
        let clients: Vec<UdpSocket> = (0..5).map(|_| client()).collect();
        for client in &clients {
            client.connect(&at).unwrap();
            assert!(is_answered(client, 0xc0, 1));
        }
        // Somebody else's, to another port; and one that nobody answers.
        let (other, unheard) = (client(), client());
        other.connect(client().local_addr().unwrap()).unwrap();
        let stranger = client();
        stranger.connect(other.local_addr().unwrap()).unwrap();
        other.connect(stranger.local_addr().unwrap()).unwrap();
        let greet = || {
            for (from, to) in [(&stranger, &other), (&other, &stranger)] {
                from.send(b"x").unwrap();
                to.recv(&mut [0]).unwrap();
            }
        };
        greet();
        let table = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
        assert_eq!(table.matches(" udp ").count(), 6, "{table}");
        s.ok(&["stop", "--no-wait", "pages"]);
        unheard.connect(&at).unwrap();
        unheard.set_read_timeout(Some(SHORT)).unwrap();
        assert!(!is_answered(&unheard, 0xc0, 1), "it is held back");
        wait_until("five connections", || {
            clients.iter().for_each(talk);
            connections(&s) == Some(5)
        });
        // They are known as streams by now, or soon; of three nothing more is heard.
        wait_until("two connections", || {
            clients[..2].iter().for_each(talk);
            greet();
            std::thread::sleep(Duration::from_millis(20));
            connections(&s) == Some(2)
        });
        let table = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
        assert!(table.contains("[ASSURED]"), "{table}");
        assert!(table.contains("[UNREPLIED]"), "{table}");
        assert!(
            table.matches(" udp ").count() >= 6,
            "entries outlive what they tell of: {table}"
        );
        assert_eq!(s.record("pages").count("signal"), 0);
        s.wait_state("pages", "down");
        assert_eq!(s.verdict("pages"), "clean");
        s.end();
    };
    // The namespace is that of the thread.
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(test).join() {
            std::panic::resume_unwind(panic);
        }
    });
}
