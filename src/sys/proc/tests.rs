//! Tests of `proc.rs`.

use super::scan::{pids_in, Search};
use super::*;

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

/// Bytes that look a little like what the kernel writes: half of them from `like`.
pub(super) fn garbage(seed: &mut u64, like: &[u8]) -> Vec<u8> {
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
        pids_in(&bytes).for_each(drop);
        parse_wchan(&bytes);
        Search::new(b"A=1").feed(&bytes);
    }
    let mut long = line("x");
    long.truncate(60);
    assert_eq!(parse_stat(&long), None);
    long.extend([b' '; 10_000]);
    assert_eq!(parse_stat(&long), None);
}
