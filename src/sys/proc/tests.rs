//! Tests of `proc.rs`.

use super::*;
use std::os::fd::AsFd;

fn line(comm: &str) -> Vec<u8> {
    format!("4242 ({comm}) S 17 4242 4240 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 99887766 1 2 3")
        .into_bytes()
}

#[test]
fn a_name_cannot_pretend_to_be_fields() {
    for comm in ["sh", "a) R 1 1 1 (b", ") Z 1 (", "a b\nc", "", "((("] {
        let stat = parse_stat(&line(comm)).unwrap();
        assert_eq!(
            stat,
            Stat {
                pid: 4242,
                state: b'S',
                ppid: 17,
                pgrp: 4242,
                session: 4240,
                is_exiting: false,
                threads: 3,
                start: 99_887_766,
            },
            "{comm}"
        );
    }
    let invalid = [&b"4242 (\xff\xfe) S"[..], b"", b"()", b"1 (x", b")("];
    assert!(invalid.iter().all(|l| parse_stat(l).is_none()));
}

#[test]
fn own_numbers_are_those_of_the_kernel() {
    let mut scanner = Scanner::new().unwrap();
    let own = nix::unistd::getpid().as_raw();
    let mut seen = None;
    scanner
        .each(|s| {
            if s.pid == own {
                seen = Some(*s);
            }
        })
        .unwrap();
    let seen = seen.unwrap();
    assert_eq!(seen.ppid, nix::unistd::getppid().as_raw());
    assert_eq!(seen.session, nix::unistd::getsid(None).unwrap().as_raw());
    assert_eq!(Some(seen.start), scanner.stat(own).map(|s| s.start));
    assert!(seen.is_alive() && seen.threads >= 1);
    assert!(resident_kib(own) > 100);
    assert!(!comm(own).is_empty());
    assert_eq!(comm(-1), "");
    assert_eq!(wchan(-1), "");
    assert_eq!(parse_wchan(b"do_epoll_wait"), "do_epoll_wait");
    assert_eq!(parse_wchan(b"0"), "");
    assert_eq!(parse_wchan(b"a\x1b[2J"), "");
}

#[test]
fn a_second_scan_sees_as_much_as_the_first() {
    let mut scanner = Scanner::new().unwrap();
    for _ in 0..2 {
        let (own, mut has_own) = (nix::unistd::getpid().as_raw(), false);
        scanner.each(|s| has_own |= s.pid == own).unwrap();
        assert!(has_own);
    }
}

#[test]
fn a_variable_is_found_whole_and_in_pieces() {
    let env = b"A=1\0SUPERD_INSTANCE=ab-1\0B=2\0";
    let found = |wanted: &[u8], size: usize| {
        let mut s = Search::new(wanted);
        env.chunks(size).any(|piece| s.feed(piece)) || s.finish()
    };
    for size in 1..=env.len() {
        assert!(found(b"SUPERD_INSTANCE=ab-1", size));
        assert!(found(b"A=1", size));
        assert!(!found(b"SUPERD_INSTANCE=ab-", size));
        assert!(!found(b"SUPERD_INSTANCE=ab-12", size));
        assert!(!found(b"UPERD_INSTANCE=ab-1", size));
        assert!(!found(b"", size));
    }
    let mut unterminated = Search::new(b"X=1");
    assert!(!unterminated.feed(b"X=1"));
    assert!(unterminated.finish());
}

#[test]
fn a_child_is_known_by_its_variable() {
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .env("SUPERD_INSTANCE", "test-77")
        .spawn()
        .unwrap();
    let mut scanner = Scanner::new().unwrap();
    let pid = child.id() as i32;
    // The parent goes on a little before the kernel has put the environment in place.
    while scanner.has_variable(pid, b"SUPERD_INSTANCE=test-77") != Some(true) {
        assert!(scanner.stat(pid).unwrap().is_alive());
    }
    let other = scanner.has_variable(pid, b"SUPERD_INSTANCE=test-7");
    assert_eq!(other, Some(false));
    child.kill().unwrap();
    // Not reaped yet: a zombie, sooner or later.
    while scanner.stat(pid).unwrap().is_alive() {
        std::thread::yield_now();
    }
    child.wait().unwrap();
    assert_eq!(scanner.stat(pid), None);
    // One without an environment is known not to have it.
    let mut bare = std::process::Command::new("sleep")
        .arg("60")
        .env_clear()
        .spawn()
        .unwrap();
    let pid = bare.id() as i32;
    while comm(pid) != "sleep" {
        std::thread::yield_now();
    }
    let other = scanner.has_variable(pid, b"SUPERD_INSTANCE=test-77");
    bare.kill().unwrap();
    bare.wait().unwrap();
    assert_eq!(other, Some(false));
}

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

/// Bytes that look a little like what the kernel writes: half of them from `like`.
fn garbage(seed: &mut u64, like: &[u8]) -> Vec<u8> {
    let mut next = || {
        // xorshift64
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    };
    let length = next() % 200;
    (0..length)
        .map(|_| match next() % 2 {
            0 => like[next() as usize % like.len()],
            _ => next() as u8,
        })
        .collect()
}

#[test]
fn garbage_makes_no_parser_panic() {
    let mut seed = 0x5eed_u64;
    for _ in 0..50_000 {
        let bytes = garbage(&mut seed, b"0123456789() SZ:ABCDEF\n\0=-");
        parse_stat(&bytes);
        parse_listener(Transport::Tcp, &bytes);
        parse_listener(Transport::Udp, &bytes);
        parse_connection(&bytes);
        parse_unix_listener(&bytes);
        pids_in(&bytes).for_each(drop);
        parse_wchan(&bytes);
        Search::new(b"A=1").feed(&bytes);
        String::from_utf8_lossy(&bytes).lines().for_each(|l| {
            parse_socket(l);
        });
    }
    let mut long = line("x");
    long.truncate(60);
    assert_eq!(parse_stat(&long), None);
    long.extend([b' '; 10_000]);
    assert_eq!(parse_stat(&long), None);
}
