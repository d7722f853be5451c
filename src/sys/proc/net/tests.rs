//! Tests of `net.rs`.

use std::os::fd::AsFd;

use super::*;
use crate::sys::proc::tests::garbage;

#[test]
fn listening_sockets_are_told_from_the_others() {
    let tcp = b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0000 100 0 0 10 0\n";
    let open = b"   1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 12346 1 0000 100 0 0 10 0\n";
    let udp = b"  99: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 777 2 0000 0\n";
    let l = parse_listener(Transport::Tcp, tcp).unwrap();
    assert_eq!((l.port, l.inode), (8080, 12_345));
    assert_eq!(parse_listener(Transport::Tcp, open), None);
    let l = parse_listener(Transport::Udp, udp).unwrap();
    assert_eq!((l.port, l.inode, l.to_string()), (53, 777, "udp/53".into()));
    assert_eq!(
        parse_listener(Transport::Tcp, b"  sl  local_address rem_address   st\n"),
        None
    );
}

#[test]
fn who_listens_on_a_port_is_found_with_its_address() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = std::net::TcpListener::bind(address) else {
            println!("skipped: {address}: no such address here");
            continue;
        };
        let at = listener.local_addr().unwrap();
        let (inode, _) = crate::sys::filter::identity(listener.as_fd()).unwrap();
        let ports = at.port()..=at.port();
        assert!(listening(&ports).unwrap().contains(&(at, inode)));
        let mut read = Vec::new();
        read_listening(&ports, &mut read).unwrap();
        assert!(read.contains(&(at, inode)));
    }
}

#[test]
fn connections_are_told_from_what_the_server_has_closed() {
    let line = |local: &str, state: &str| {
        format!("  1: {local} 0100007F:9999 {state} 00000000:00000000 00:00000000 00000000 0 0 12345 1\n")
    };
    let parsed = |local, state| parse_connection(line(local, state).as_bytes());
    let v4 = Connection {
        local: "127.0.0.1:8080".parse().unwrap(),
        is_handshake: false,
        inode: 12_345,
    };
    let word = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
    let own = format!("{}:1F90", word([127, 0, 0, 1]));
    assert_eq!(parsed(&own, "01"), Some(v4));
    assert_eq!(parsed(&own, "08"), Some(v4));
    assert!(parsed(&own, "03").unwrap().is_handshake);
    for closed in ["02", "04", "05", "06", "07", "09", "0A", "0B", "x"] {
        assert_eq!(parsed(&own, closed), None);
    }
    let zero = word([0; 4]);
    let mapped = format!(
        "{zero}{zero}{}{}:0050",
        word([0, 0, 255, 255]),
        word([10, 0, 0, 1])
    );
    let local: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
    assert_eq!(parsed(&mapped, "01").unwrap().local, local);
    let unix = b"0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/x.sock\n";
    let found = Some((12_345, "/run/x.sock".to_owned()));
    assert_eq!(parse_unix_listener(unix), found);
    let open = b"0000000000000000: 00000003 00000000 00000000 0001 03 12346 /run/x.sock\n";
    assert_eq!(parse_unix_listener(open), None);
}

#[test]
fn our_own_listening_socket_is_found_until_it_is_closed() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let (mut inodes, mut found) = (Vec::new(), Vec::new());
    socket_inodes(nix::unistd::getpid().as_raw(), &mut inodes);
    listeners("self", &mut found).unwrap();
    let ours = found.iter().find(|l| l.port == port).unwrap();
    assert_eq!(ours.transport, Transport::Tcp);
    assert!(inodes.contains(&ours.inode));
    drop(socket);
    let mut after = Vec::new();
    listeners("self", &mut after).unwrap();
    assert!(!after.iter().any(|l| l.inode == ours.inode));
}

#[test]
fn a_process_with_too_many_descriptors_is_looked_at_in_part() {
    let _open = [(); 4].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let own = nix::unistd::getpid().as_raw();
    let (mut left, mut all) = (100_000, Vec::new());
    sockets(own, &mut left, &mut all).unwrap();
    assert!(all.len() >= 4 && left <= 100_000 - 4);
    let (mut left, mut some) = (3, Vec::new());
    let e = sockets(own, &mut left, &mut some).unwrap_err();
    assert_eq!((left, e.raw_os_error()), (0, None));
    assert!(some.len() <= 3);
    assert!(sockets(i32::MAX, &mut 1, &mut some).is_ok(), "nobody");
}

#[test]
fn garbage_makes_no_parser_panic() {
    let mut seed = 0x5eed_u64;
    for _ in 0..50_000 {
        let bytes = garbage(&mut seed, b"0123456789() SZ:ABCDEF\n\0=-");
        parse_listener(Transport::Tcp, &bytes);
        parse_listener(Transport::Udp, &bytes);
        parse_connection(&bytes);
        parse_unix_listener(&bytes);
        String::from_utf8_lossy(&bytes).lines().for_each(|l| {
            parse_socket(l);
        });
    }
}
