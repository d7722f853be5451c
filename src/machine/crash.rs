//! What the last output of an instance says about its death.
//!
//! Pure: lines and an exit in, a [`Crash`] out. Text alone is no crash (programs print
//! `panic: ` and go on, `net/http` recovers) and a status alone is none either (2 is a
//! Go panic and Caddy's forced quit), so each pattern names the exits that confirm it.

use super::report::{Crash, Exit};
use super::signal::Signal;

/// How many lines after the first one may still belong to it.
const WINDOW: usize = 24;

/// The longest text and frame that are kept, in bytes.
const TEXT_CAP: usize = 240;

/// Prefixes of a first line. Whoever keeps output in a small buffer keeps the lines
/// after such a line, because the stack dump that follows can be longer than the buffer.
const BEGINNINGS: [&[u8]; 12] = [
    b"panic: ",
    b"fatal error: ",
    b"thread '",
    b"terminate called ",
    b"*** stack smashing detected ***",
    b"*** buffer overflow detected ***",
    b"Traceback (most recent call last):",
    b"double free or corruption",
    b"free(): ",
    b"malloc(): ",
    b"Uncaught ",
    b"node:",
];

/// Whether this line may be the first one of a crash.
pub fn begins(line: &[u8]) -> bool {
    // Almost every line of a flood fails at its first byte.
    matches!(
        line.first(),
        Some(b'p' | b'f' | b't' | b'*' | b'T' | b'd' | b'm' | b'U' | b'n')
    ) && BEGINNINGS.iter().any(|b| line.starts_with(b))
}

/// The crash that these lines (oldest first) and this exit tell of.
pub fn recognise<S: AsRef<str>>(lines: &[S], exit: Exit) -> Option<Crash> {
    let line = |i: usize| lines.get(i).map(AsRef::as_ref);
    // The last one that is confirmed counts: an earlier one was survived.
    let by_text = (0..lines.len()).rev().find_map(|i| {
        let first = line(i)?;
        let end = (i + 1 + WINDOW).min(lines.len());
        let rest: Vec<&str> = lines.get(i + 1..end)?.iter().map(AsRef::as_ref).collect();
        go(first, &rest, exit)
            .or_else(|| rust(first, &rest, exit))
            .or_else(|| libc_abort(first, &rest, exit))
            .or_else(|| python(first, lines.get(i + 1..)?, exit))
            .or_else(|| node(first, &rest, exit))
    });
    by_text.or_else(|| by_signal(exit))
}

fn crash(kind: &str, text: &str, frame: &str) -> Crash {
    Crash {
        kind: kind.to_owned(),
        text: cut(text.trim()),
        frame: cut(frame.trim()),
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_CAP);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

fn aborted(exit: Exit) -> bool {
    exit == Exit::Signal(Signal(libc::SIGABRT)) || exit == Exit::Unknown
}

/// `panic: ` or `fatal error: ` at the beginning of a line, then `goroutine N [` at the
/// beginning of one; the Go runtime exits with 2, or aborts under GOTRACEBACK=crash.
fn go(first: &str, rest: &[&str], exit: Exit) -> Option<Crash> {
    let (kind, text) = match first.strip_prefix("panic: ") {
        Some(text) => ("go-panic", text),
        None => ("go-fatal", first.strip_prefix("fatal error: ")?),
    };
    if exit != Exit::Code(2) && !aborted(exit) {
        return None;
    }
    let header = rest.iter().position(|l| is_goroutine(l))?;
    let frames = rest.get(header + 1..).unwrap_or_default();
    Some(crash(kind, text, go_frame(frames).unwrap_or_default()))
}

fn is_goroutine(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("goroutine ") else {
        return false;
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && rest.get(digits..).is_some_and(|r| r.starts_with(" ["))
        || digits > 0 && rest.contains(" gp=") && rest.contains('[')
}

/// The first frame that is not the runtime's: a line with the function, then
/// a tab, path, `:line +0xoffset`. Of the path only the file's name is kept.
fn go_frame<'a>(frames: &[&'a str]) -> Option<&'a str> {
    frames.windows(2).find_map(|pair| {
        let [function, place] = pair else { return None };
        let own = !function.starts_with('\t')
            && !function.starts_with("runtime.")
            && !function.starts_with("runtime/")
            && !function.starts_with("panic(")
            && !function.starts_with("created by ");
        let place = place.strip_prefix('\t').filter(|_| own)?;
        let place = place.split(" +0x").next()?;
        place.rsplit('/').next()
    })
}

/// `thread 'NAME' panicked at src/x.rs:1:2:` and the message on the next line (before
/// Rust 1.73: `panicked at 'message', src/x.rs:1:2`); status 101, or an abort.
fn rust(first: &str, rest: &[&str], exit: Exit) -> Option<Crash> {
    let after_name = first.strip_prefix("thread '")?;
    let (_, tail) = after_name.split_once(" panicked at ")?;
    if exit != Exit::Code(101) && !aborted(exit) {
        return None;
    }
    if let Some(old) = tail.strip_prefix('\'') {
        let (text, place) = old.rsplit_once("', ")?;
        return Some(crash("rust-panic", text, place));
    }
    let place = tail.strip_suffix(':')?;
    let text = rest.first().copied().unwrap_or_default();
    Some(crash("rust-panic", text, place))
}

/// What glibc, musl, libstdc++ and the sanitising compilers print before abort(3).
fn libc_abort(first: &str, rest: &[&str], exit: Exit) -> Option<Crash> {
    if !aborted(exit) {
        return None;
    }
    if let Some(text) = first.strip_prefix("terminate called ") {
        let what = rest.first().and_then(|l| l.trim().strip_prefix("what():"));
        return Some(match what {
            Some(what) => crash("c++-terminate", what, ""),
            None => crash("c++-terminate", text, ""),
        });
    }
    let heap = [
        "double free or corruption",
        "free(): ",
        "malloc(): ",
        "realloc(): ",
        "munmap_chunk(): ",
        "corrupted size vs. prev_size",
        "corrupted double-linked list",
        "malloc_consolidate(): ",
    ];
    if heap.iter().any(|h| first.starts_with(h)) {
        return Some(crash("heap-corruption", first, ""));
    }
    if first.starts_with("*** ") && first.contains(" detected ***") {
        let text = first.trim_start_matches("*** ");
        let text = text.split(" ***").next().unwrap_or(text);
        return Some(crash("stack-smashing", text, ""));
    }
    let assertion = first.contains(": Assertion `") && first.contains("' failed");
    (assertion || first.starts_with("Assertion failed: ")).then(|| crash("assertion", first, ""))
}

/// A traceback that the interpreter printed because nobody caught it: status 1. The
/// first unindented line after it is the exception.
fn python<S: AsRef<str>>(first: &str, rest: &[S], exit: Exit) -> Option<Crash> {
    if first != "Traceback (most recent call last):" || exit != Exit::Code(1) {
        return None;
    }
    let lines = || rest.iter().map(AsRef::as_ref);
    let at = lines().position(|l| !l.starts_with(' ') && !l.is_empty())?;
    let frame = lines()
        .take(at)
        .filter_map(|l| l.trim().strip_prefix("File \""))
        .last()
        .and_then(|l| l.split_once("\", line "))
        .map(|(path, line)| {
            let file = path.rsplit('/').next().unwrap_or(path);
            format!("{file}:{}", line.split(',').next().unwrap_or(line))
        });
    let text = rest.get(at).map_or("", AsRef::as_ref);
    Some(crash("python", text, &frame.unwrap_or_default()))
}

/// Best effort: `Uncaught ...`, or an error line with `    at ` frames below it and
/// `Node.js v` at the end of the dump; status 1 (7: an error in the error handler).
fn node(first: &str, rest: &[&str], exit: Exit) -> Option<Crash> {
    if exit != Exit::Code(1) && exit != Exit::Code(7) {
        return None;
    }
    let is_frame = |l: &&str| l.starts_with("    at ");
    let ends = rest.iter().any(|l| l.starts_with("Node.js v"));
    let text = match first.strip_prefix("Uncaught ") {
        Some(text) => text,
        None if ends && !is_frame(&first) && rest.first().is_some_and(is_frame) => first,
        None => return None,
    };
    let frame = rest.iter().find(|l| is_frame(l)).map_or("", |l| {
        let l = l.trim().trim_end_matches(')');
        let file = l.rsplit('/').next().unwrap_or(l);
        file.trim_start_matches("at ")
    });
    Some(crash("node", text, frame))
}

/// A signal that only a broken program gets, without any text.
fn by_signal(exit: Exit) -> Option<Crash> {
    match exit {
        Exit::Signal(s) => match s.0 {
            libc::SIGSEGV
            | libc::SIGBUS
            | libc::SIGILL
            | libc::SIGFPE
            | libc::SIGABRT
            | libc::SIGSYS => Some(crash("signal", &format!("SIG{s}"), "")),
            _ => None,
        },
        Exit::Code(_) | Exit::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABORT: Exit = Exit::Signal(Signal(libc::SIGABRT));

    fn see(text: &str, exit: Exit) -> Option<Crash> {
        recognise(&text.lines().collect::<Vec<_>>(), exit)
    }

    fn parts(text: &str, exit: Exit) -> (String, String, String) {
        let c = see(text, exit).expect("a crash");
        (c.kind, c.text, c.frame)
    }

    const GO: &str = "[17] 2026/11/20 10:00:00.1 [INF] Initiating Shutdown...
panic: close of nil channel

goroutine 35 [running]:
runtime.gopanic({0x8a1f40?, 0x9b5d10?})
\t/usr/lib/go/src/runtime/panic.go:770 +0x132
panic({0x8a1f40?, 0x9b5d10?})
\t/usr/lib/go/src/runtime/panic.go:770 +0x132
github.com/nats-io/nats-server/v2/server.(*Server).shutdownEventing(0xc0001e2008)
\t/root/go/pkg/mod/github.com/nats-io/nats-server/v2@v2.10.22/server/events.go:1644 +0x1a5
created by main.main in goroutine 1
\t/src/main.go:31 +0x2a5
exit status 2";

    #[test]
    fn a_go_panic_is_known_by_text_goroutine_and_status() {
        let (kind, text, frame) = parts(GO, Exit::Code(2));
        assert_eq!(kind, "go-panic");
        assert_eq!(text, "close of nil channel");
        assert_eq!(frame, "events.go:1644");
        assert_eq!(parts(GO, ABORT).0, "go-panic");
        assert_eq!(see(GO, Exit::Code(0)), None);
        assert_eq!(see(GO, Exit::Code(1)), None);
        assert_eq!(see(GO, Exit::Signal(Signal::TERM)), None);
    }

    #[test]
    fn a_go_panic_with_a_signal_note_and_a_fatal_error_are_known() {
        let nil = "panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x6b1f0e]

goroutine 1 [running]:
main.(*tls).close(0x0)
\t/src/internal/tls.go:338 +0x1e";
        assert_eq!(parts(nil, Exit::Code(2)).2, "tls.go:338");
        let fatal = "fatal error: concurrent map writes

goroutine 7 gp=0xc000007c00 m=4 mp=0xc00006e808 [running]:
internal/runtime/maps.fatal({0x1, 0x2})
\t/usr/lib/go/src/runtime/panic.go:1053 +0x18";
        assert_eq!(parts(fatal, Exit::Code(2)).0, "go-fatal");
    }

    #[test]
    fn a_recovered_http_panic_is_no_crash() {
        let http = "2026/11/20 10:00:00 http: panic serving 127.0.0.1:5123: boom
goroutine 22 [running]:
net/http.(*conn).serve.func1()
\t/usr/lib/go/src/net/http/server.go:1898 +0xbe";
        assert_eq!(see(http, Exit::Code(2)), None);
        // Without a goroutine header it is a word like another.
        assert_eq!(see("panic: is what we do not do", Exit::Code(2)), None);
        assert_eq!(see("panic: no\ngoroutine leak\n", Exit::Code(2)), None);
    }

    #[test]
    fn rust_panics_of_both_formats_are_known() {
        let new =
            "thread 'main' panicked at src/main.rs:4:5:\nattempt to divide by zero\nnote: run with";
        assert_eq!(
            parts(new, Exit::Code(101)),
            (
                "rust-panic".to_owned(),
                "attempt to divide by zero".to_owned(),
                "src/main.rs:4:5".to_owned()
            )
        );
        let numbered = "thread 'w' (4711) panicked at src/a.rs:1:2:\nboom";
        assert_eq!(parts(numbered, ABORT).1, "boom");
        let old = "thread 'main' panicked at 'no, really', src/x.rs:9:1";
        assert_eq!(parts(old, ABORT).1, "no, really");
        assert_eq!(see(new, Exit::Code(0)), None);
    }

    #[test]
    fn aborts_of_the_c_library_are_known() {
        for (text, kind) in [
            ("double free or corruption (fasttop)", "heap-corruption"),
            ("free(): invalid pointer", "heap-corruption"),
            ("malloc(): corrupted top size", "heap-corruption"),
            (
                "*** stack smashing detected ***: terminated",
                "stack-smashing",
            ),
            ("a.out: a.c:3: main: Assertion `x' failed.", "assertion"),
            ("Assertion failed: x (a.c: main: 3)", "assertion"),
        ] {
            assert_eq!(parts(text, ABORT).0, kind, "{text}");
            assert_eq!(see(text, Exit::Code(0)), None);
        }
        let cpp = "terminate called after throwing an instance of 'std::runtime_error'\n  what():  no disk";
        assert_eq!(parts(cpp, ABORT).1, "no disk");
    }

    #[test]
    fn a_python_traceback_ends_with_its_exception() {
        let text = "Traceback (most recent call last):
  File \"/srv/app.py\", line 12, in <module>
    main()
  File \"/srv/lib/x.py\", line 3, in main
    raise ValueError(\"no\")
ValueError: no";
        assert_eq!(
            parts(text, Exit::Code(1)),
            (
                "python".to_owned(),
                "ValueError: no".to_owned(),
                "x.py:3".to_owned()
            )
        );
        assert_eq!(see(text, Exit::Code(0)), None);
    }

    #[test]
    fn an_uncaught_error_of_node_is_known() {
        let text = "/srv/app/index.js:3
throw new Error('boom');
^

Error: boom
    at Object.<anonymous> (/srv/app/index.js:3:7)
    at Module._compile (node:internal/modules/cjs/loader:1554:14)

Node.js v22.14.0";
        assert_eq!(
            parts(text, Exit::Code(1)),
            (
                "node".to_owned(),
                "Error: boom".to_owned(),
                "index.js:3:7".to_owned()
            )
        );
    }

    #[test]
    fn a_deadly_signal_without_text_is_a_crash_and_term_is_none() {
        let c = see("all is well", Exit::Signal(Signal(libc::SIGSEGV))).unwrap();
        assert_eq!((c.kind.as_str(), c.text.as_str()), ("signal", "SIGSEGV"));
        assert_eq!(see("", Exit::Signal(Signal::TERM)), None);
        assert_eq!(see("", Exit::Signal(Signal::KILL)), None);
        assert_eq!(see("", Exit::Code(2)), None);
        assert_eq!(see(GO, Exit::Unknown).map(|c| c.kind).unwrap(), "go-panic");
    }

    #[test]
    fn of_two_panics_the_last_one_counts() {
        let two = format!("panic: first\n\ngoroutine 1 [running]:\n{GO}");
        assert_eq!(parts(&two, Exit::Code(2)).1, "close of nil channel");
    }

    #[test]
    fn every_beginning_is_seen_at_its_first_byte() {
        assert!(BEGINNINGS.iter().all(|b| begins(b)));
        assert!(!begins(b"") && !begins(b"2026 panic: x"));
    }

    #[test]
    fn garbage_and_long_text_do_no_harm() {
        let long = format!("panic: {}\ngoroutine 1 [running]:\n", "ä".repeat(5_000));
        assert!(see(&long, Exit::Code(2)).unwrap().text.len() <= TEXT_CAP);
        let mut seed = 7_u32;
        for _ in 0..2_000 {
            let mut text = String::new();
            for _ in 0..20 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let words = [
                    "panic: ",
                    "goroutine ",
                    "1 [",
                    "\n",
                    "\t/x/",
                    "thread '",
                    "' panicked at '",
                    "', ",
                    ":",
                    "Traceback (most recent call last):",
                    "    at ",
                    "Node.js v",
                    "é",
                ];
                text.push_str(words[(seed >> 16) as usize % words.len()]);
            }
            for exit in [Exit::Code(1), Exit::Code(2), Exit::Code(101), ABORT] {
                see(&text, exit);
            }
        }
    }
}
