//! Crash reports on a real disk, with a clock of the test's own.

use super::disk::FILE_CAP;
use super::*;
use crate::control::crash::VERSION;
use crate::machine::event::Instance;
use crate::machine::report::{Crash, EndReport, Exit, Origin, Verdict};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let name = format!("superd-crashes-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::remove_dir_all(&dir).ok(); // of an earlier process of this number
        Dir(dir)
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok(); // a test that never wrote
    }
}

fn crashes(dir: &Dir) -> Crashes {
    let mut c = Crashes::default();
    c.configure(&CrashReports {
        written: true,
        dir: dir.0.clone(),
        keep: 3,
        pause: Duration::from_secs(60),
    });
    c
}

fn at(seconds: u64) -> Tick {
    Tick(seconds * 1_000_000_000)
}

fn report(service: &str, text: &str, last: u64) -> CrashReport {
    let crash = Crash {
        kind: "go-panic".to_owned(),
        text: text.to_owned(),
        frame: "tls.go:338".to_owned(),
        frames: vec!["caddytls.(*TLS).Stop at tls.go:338".to_owned()],
    };
    CrashReport {
        v: VERSION,
        service: service.to_owned(),
        fingerprint: crash.fingerprint(),
        count: 0,
        first: 0,
        last,
        crash,
        known: String::new(),
        end: EndReport {
            instance: Instance(3),
            pid: None,
            by: Origin::Itself,
            absorbed: 0,
            stopping_seen: 0,
            ran: Duration::from_secs(2),
            took: Duration::from_millis(3),
            steps: Vec::new(),
            exit: Exit::Code(2),
            crash: None,
            left: 0,
            ports_held: 0,
            hooks: Vec::new(),
            stuck: Vec::new(),
            verdict: Verdict::Crashed,
        },
        dump: vec!["panic: x".to_owned()],
        output: vec!["last words".to_owned()],
    }
}

/// A crash, and time for it to be written.
fn crash(c: &mut Crashes, service: &str, text: &str, seconds: u64) -> u64 {
    let last = 1_800_000_000 + seconds;
    let count = c.note(report(service, text, last), at(seconds)).count;
    c.work(at(seconds), true);
    count
}

#[test]
fn a_repeat_is_counted_over_the_lives_of_superd_and_written_when_it_is_time() {
    let dir = Dir::new("repeat");
    let mut c = crashes(&dir);
    for n in 1..=5 {
        assert_eq!(crash(&mut c, "caddy", "closed 17", n), n);
    }
    let files = dir.files();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(files[0].starts_with("caddy.") && files[0].ends_with(".json"));
    let on_disk = || {
        let bytes = fs::read(dir.0.join(&files[0])).unwrap();
        crate::json::from_slice::<CrashReport>(&bytes).unwrap()
    };
    assert_eq!(on_disk().count, 1, "the next four came within the pause");
    assert_eq!(
        crash(&mut c, "caddy", "closed 4", 61),
        6,
        "numbers do not count"
    );
    assert_eq!((on_disk().count, on_disk().first), (6, 1_800_000_001));
    crash(&mut c, "caddy", "closed 4", 62);
    assert_eq!(on_disk().count, 6);
    c.flush(at(63));
    assert_eq!((on_disk().count, on_disk().last), (7, 1_800_000_062));
    let mut next = crashes(&dir);
    let again = next.note(report("caddy", "closed 0", 1_800_000_100), at(1));
    assert_eq!((again.count, again.first), (8, 1_800_000_001));
    assert_eq!(next.reports("caddy", 9).len(), 1);
    assert_eq!(next.reports("caddy", 9)[0].dump, ["panic: x"]);
    assert_eq!(next.take_lines(), [""; 0]);
}

#[test]
fn each_service_keeps_its_last_crashes_and_new_ones_are_not_written_without_end() {
    let dir = Dir::new("keep");
    let mut c = crashes(&dir);
    let words = ["a", "b", "c", "d", "e", "f"];
    for (n, text) in (1..).zip(words) {
        crash(&mut c, "x", text, n);
    }
    crash(&mut c, "y", "a", 7);
    let texts: Vec<String> = c
        .list(Some("x"))
        .into_iter()
        .map(|l| l.crash.text)
        .collect();
    // a, b and c were written; then the pause was not over, and they stay all the same.
    assert_eq!(texts, words, "three on disk, three in memory");
    assert_eq!(dir.files().len(), 4, "{:?}", dir.files());
    crash(&mut c, "x", "g", 8);
    crash(&mut c, "x", "e", 9); // again, and still not to be written
    let on_disk = |service| {
        let list = crashes(&dir).list(Some(service));
        let texts: Vec<String> = list.into_iter().map(|l| l.crash.text).collect();
        texts.concat()
    };
    assert_eq!(on_disk("x"), "abc");
    assert_eq!(c.list(None).len(), 7);
    for (n, text) in (70..).zip(words) {
        crash(&mut c, "x", text, n);
        assert!(dir.files().len() <= 4, "{:?}", dir.files());
    }
    // Three more may be written by then; those that are there already are no new ones.
    assert_eq!(on_disk("x"), "def");
    assert_eq!(on_disk("y"), "a");
}

#[test]
fn a_report_waits_for_a_quiet_moment_but_not_for_ever() {
    let dir = Dir::new("quiet");
    let mut c = crashes(&dir);
    assert_eq!(c.next_deadline(), None);
    c.note(report("x", "a", 1_800_000_000), at(10));
    assert_eq!(c.next_deadline(), Some(at(10)));
    c.work(at(10), false);
    assert!(dir.files().is_empty());
    assert_eq!(c.next_deadline(), Some(at(10) + LOOK_AGAIN));
    assert_eq!(c.reports("x", 9).len(), 1, "told before it is written");
    c.work(at(15), false);
    assert_eq!(dir.files().len(), 1);
    assert_eq!(c.next_deadline(), None);
}

#[test]
fn damaged_files_are_told_once_and_set_aside_and_strangers_are_not_touched() {
    let dir = Dir::new("damaged");
    let mut c = crashes(&dir);
    crash(&mut c, "good", "a", 1);
    let good = dir.files()[0].clone();
    let bytes = fs::read(dir.0.join(&good)).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.0.join(name), bytes).unwrap();
    let half = &bytes[..bytes.len() / 2];
    put("half.0123456789abcdef.json", half);
    put("empty.0123456789abcdef.json", b"");
    put("other.0123456789abcdef.json", &bytes);
    put("old.0123456789abcdef.json", b"{\"v\":7}");
    put("large.0123456789abcdef.json", &vec![b' '; FILE_CAP + 1]);
    put(".superd-99999", half);
    put("README", b"mine");
    put("../evil.json", b"");
    fs::remove_file(dir.0.join("../evil.json")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.0.join("link.0123456789abcdef.json")).unwrap();
    nix::unistd::mkfifo(
        &dir.0.join("fifo.0123456789abcdef.json"),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .unwrap();
    let mut next = crashes(&dir);
    assert_eq!(next.list(None).len(), 1);
    let lines = next.take_lines();
    assert_eq!(lines.len(), 7, "{lines:#?}");
    assert!(lines
        .iter()
        .all(|l| l.contains("set aside as ") && !l.contains('\n')));
    assert_eq!(dir.files(), ["README", "damaged", good.as_str()]);
    assert_eq!(crashes(&dir).list(None).len(), 1);
}

#[test]
fn no_mutation_of_a_file_does_harm() {
    let dir = Dir::new("mutations");
    let mut c = crashes(&dir);
    crash(&mut c, "x", "a", 1);
    let name = dir.files()[0].clone();
    let good = fs::read(dir.0.join(&name)).unwrap();
    let mut seed = 0x5eed_u64;
    let mut next = |below: usize| {
        // xorshift64
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    for _ in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            match next(3) {
                0 => bytes[at] = next(256) as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, b"\"{}[],:9-"[next(9)]),
            }
        }
        fs::write(dir.0.join(&name), &bytes).unwrap();
        let mut c = crashes(&dir);
        let known = c.list(None).len();
        assert_eq!(c.take_lines().len(), 1 - known, "read, or told why not");
        c.note(report("x", "a", 1_800_000_000), at(2));
        assert_eq!(c.list(None).len(), 1);
    }
}

#[test]
fn a_disk_that_cannot_be_written_is_told_once_and_tried_again() {
    let dir = Dir::new("full");
    fs::create_dir(&dir.0).unwrap();
    let place = dir.0.join("not-a-directory");
    fs::write(&place, b"").unwrap();
    let mut c = crashes(&dir);
    c.configure(&CrashReports {
        written: true,
        dir: place.clone(),
        keep: 5,
        pause: Duration::ZERO,
    });
    for n in 1..=9 {
        assert_eq!(crash(&mut c, "x", "a", n), n, "it is counted all the same");
    }
    let lines = c.take_lines();
    // Once for reading what is there, once for writing.
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].contains("not-a-directory"), "{lines:?}");
    assert_eq!(c.lost(), Some(9));
    fs::remove_file(&place).unwrap();
    crash(&mut c, "x", "a", 30);
    assert_eq!(
        c.lost(),
        Some(10),
        "not tried again before a minute is over"
    );
    crash(&mut c, "x", "a", 120);
    let lines = c.take_lines();
    assert!(
        lines.len() == 1 && lines[0].ends_with("lost: 10"),
        "{lines:?}"
    );
    assert_eq!(c.reports("x", 9)[0].count, 11);
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new("others");
    fs::create_dir(&dir.0).unwrap();
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o777)).unwrap();
    let mut c = crashes(&dir);
    crash(&mut c, "x", "a", 1);
    let lines = c.take_lines();
    assert!(lines.iter().all(|l| l.contains("refused")), "{lines:?}");
    assert!(dir.files().is_empty());
    // Nor is what somebody has put there believed.
    let mode = |mode| fs::set_permissions(&dir.0, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o700);
    crash(&mut crashes(&dir), "x", "a", 1);
    assert_eq!(crashes(&dir).list(None).len(), 1);
    mode(0o722);
    assert_eq!(crashes(&dir).list(None).len(), 0);
}

#[test]
fn the_directory_is_private_and_what_is_above_it_is_not() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new("above");
    let place = dir.0.join("etc/crashes");
    let mut c = crashes(&dir);
    c.configure(&CrashReports {
        dir: place.clone(),
        ..CrashReports::default()
    });
    crash(&mut c, "x", "a", 1);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    // What a umask of 077 would make of it, too, is the operator's wish.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let umask = status.lines().find_map(|l| l.strip_prefix("Umask:\t"));
    let umask = u32::from_str_radix(umask.unwrap(), 8).unwrap();
    assert_eq!(mode(&dir.0.join("etc")), 0o755 & !umask);
}

#[test]
fn nothing_is_written_or_read_when_it_is_switched_off() {
    let dir = Dir::new("off");
    let mut c = crashes(&dir);
    crash(&mut c, "x", "a", 1);
    c.configure(&CrashReports {
        written: false,
        dir: dir.0.clone(),
        ..CrashReports::default()
    });
    let before = dir.files();
    assert_eq!(crash(&mut c, "x", "a", 1000), 2);
    assert_eq!(crash(&mut c, "x", "b", 1001), 1);
    c.flush(at(1002));
    assert_eq!(dir.files(), before);
    let mut off = Crashes::default();
    off.configure(&CrashReports {
        written: false,
        dir: dir.0.clone(),
        ..CrashReports::default()
    });
    assert!(off.list(None).is_empty());
}

#[test]
fn the_whole_directory_is_bounded() {
    let dir = Dir::new("bounded");
    let mut c = crashes(&dir);
    for n in 0..FILES as u64 + 20 {
        crash(&mut c, &format!("s{n}"), "a", n + 1);
    }
    assert_eq!(dir.files().len(), FILES);
    assert_eq!(c.list(None).len(), FILES);
    assert!(c.list(Some("s0")).is_empty(), "the oldest went");
}
