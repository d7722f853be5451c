//! What the last output of an instance says about its death.
//!
//! Pure: lines and an exit in, a [`Crash`] out. Text alone is no crash (programs print
//! `panic: ` and go on, `net/http` recovers) and a status alone is none either (2 is a
//! Go panic and Caddy's forced quit), so each pattern names the exits that confirm it.
//! The work is bounded by the number of lines and by `WINDOW`.
//!
//! (Past 400 lines because it is a list of what other people's runtimes print, and half of
//! it is their samples.)

use super::report::{Crash, Exit};
use super::signal::Signal;

/// How many lines after the first one may still belong to it.
const WINDOW: usize = 96;

/// How many lines after the first one a header (`goroutine 1 [running]:`) may come: a fatal
/// error tells the runtime's own stack before it.
const HEADER_WINDOW: usize = 48;

/// The longest text, in bytes.
const TEXT_CAP: usize = 240;

/// The longest frame, in bytes.
const FRAME_CAP: usize = 160;

/// So many frames are kept, the innermost first.
const FRAMES: usize = 6;

/// The kind of a dump that a Go program prints because somebody has asked for it (SIGQUIT).
pub const GO_DUMP: &str = "go-dump";

/// The kind of a death by a signal that only a broken program gets, without any text.
pub const BY_SIGNAL: &str = "signal";

/// Prefixes of a first line. Whoever keeps output in a small buffer keeps the lines
/// after such a line, because the stack dump that follows can be longer than the buffer.
const BEGINNINGS: [&[u8]; 25] = [
    b"panic: ",
    b"fatal error: ",
    b"SIGQUIT: quit",
    b"SIGSEGV: segmentation violation",
    b"SIGABRT: abort",
    b"SIGBUS: bus error",
    b"thread '",
    b"terminate called ",
    b"libc++abi: ",
    b"*** stack smashing detected ***",
    b"*** buffer overflow detected ***",
    b"*** Error in `",
    b"*** glibc detected ***",
    b"Fatal glibc error: ",
    b"Traceback (most recent call last):",
    b"  + Exception Group Traceback (most recent call last):",
    b"double free or corruption",
    b"corrupted ",
    b"free(): ",
    b"malloc(): ",
    b"realloc(): ",
    b"munmap_chunk(): ",
    b"Fatal Python error: ",
    b"Uncaught ",
    b"node:",
];

/// Whether this line may be the first one of a crash.
pub fn begins(line: &[u8]) -> bool {
    // Almost every line of a flood fails at its first byte.
    matches!(
        line.first(),
        Some(
            b'p' | b'f'
                | b't'
                | b'*'
                | b'T'
                | b'd'
                | b'm'
                | b'U'
                | b'n'
                | b'S'
                | b'l'
                | b'F'
                | b'c'
                | b'r'
                | b' '
        )
    ) && BEGINNINGS.iter().any(|b| line.starts_with(b))
}

/// The crash that these lines (oldest first) and this exit tell of, or the exit alone.
pub fn recognise<S: AsRef<str>>(lines: &[S], exit: Exit) -> Option<Crash> {
    by_text(lines, exit).or_else(|| by_signal(exit))
}

/// The crash that these lines (oldest first) tell of, if the exit confirms it.
pub fn by_text<S: AsRef<str>>(lines: &[S], exit: Exit) -> Option<Crash> {
    let line = |i: usize| lines.get(i).map(AsRef::as_ref);
    // The last one that is confirmed counts: an earlier one was survived.
    (0..lines.len()).rev().find_map(|i| {
        let first: &str = line(i)?;
        let end = (i + 1 + WINDOW).min(lines.len());
        let rest = || -> Vec<&str> {
            let rest = lines.get(i + 1..end).unwrap_or_default();
            rest.iter().map(AsRef::as_ref).collect()
        };
        go(first, rest, exit)
            .or_else(|| rust(first, rest, exit))
            .or_else(|| libc_abort(first, rest, exit))
            .or_else(|| python(first, rest, exit))
            .or_else(|| node(first, rest, exit))
    })
}

const OUT_OF_MEMORY: &str = "out-of-memory";

/// Whether it is [`out_of_memory`].
pub fn is_out_of_memory(crash: &Crash) -> bool {
    crash.kind == OUT_OF_MEMORY
}

/// A main process that the kernel has killed because there was no memory left.
pub fn out_of_memory() -> Crash {
    crash(OUT_OF_MEMORY, "killed by the kernel, out of memory", &[])
}

/// `frames`: the innermost first; the first one's place becomes the frame.
fn crash(kind: &str, text: &str, frames: &[Frame<'_>]) -> Crash {
    let own = frames.iter().any(|f| f.is_own);
    let mut kept: Vec<&Frame<'_>> = frames.iter().filter(|f| f.is_own || !own).collect();
    kept.truncate(FRAMES);
    Crash {
        kind: kind.to_owned(),
        text: cut(text.trim(), TEXT_CAP),
        frame: kept
            .first()
            .map_or_else(String::new, |f| cut(f.place.trim(), FRAME_CAP)),
        frames: kept.iter().map(|f| f.words()).collect(),
    }
}

/// One line of a stack.
struct Frame<'a> {
    /// Empty when it is not known.
    function: &'a str,
    /// `tls.go:338`
    place: String,
    /// It is the program's own code, not the runtime's or the standard library's.
    is_own: bool,
}

impl Frame<'_> {
    fn words(&self) -> String {
        let text = match self.function {
            "" => self.place.clone(),
            function => format!("{function} at {}", self.place),
        };
        cut(text.trim(), FRAME_CAP)
    }
}

fn cut(text: &str, cap: usize) -> String {
    let mut end = text.len().min(cap);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// What follows the last slash.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Also as a shell in between tells it: 128 and the signal.
fn aborted(exit: Exit) -> bool {
    [
        Exit::Signal(Signal(libc::SIGABRT)),
        Exit::Code(128 + libc::SIGABRT),
        Exit::Unknown,
    ]
    .contains(&exit)
}

impl Crash {
    /// What groups repeats: 16 hexadecimal digits, from the kind, the text without its
    /// numbers and addresses, and the top frame. The same for every version of superd, since
    /// it is the name of a file: FNV-1a of 64 bits.
    pub fn fingerprint(&self) -> String {
        let text = without_numbers(&self.text);
        let parts = [self.kind.as_str(), text.as_str(), self.frame.as_str()];
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for part in parts {
            for b in part.bytes().chain([0]) {
                hash = (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }
}

/// Every number becomes `#`, also a hexadecimal one: after `0x`, or a word of such digits of
/// which one at least is decimal (`fe80`).
fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_word = false;
    while let Some(c) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let length = match rest.strip_prefix("0x") {
            Some(hex) => 2 + hex.bytes().take_while(u8::is_ascii_hexdigit).count(),
            None if in_word => digits,
            None => hex_word(rest).unwrap_or(digits),
        };
        if length > 0 {
            out.push('#');
            rest = rest.get(length..).unwrap_or_default();
            in_word = true;
        } else {
            out.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            in_word = c.is_alphanumeric();
        }
    }
    out
}

/// The length of the word that the text begins with, if it is a number in hexadecimal digits.
fn hex_word(text: &str) -> Option<usize> {
    let end = text.find(|c: char| !c.is_alphanumeric());
    let word = text.get(..end.unwrap_or(text.len()))?;
    let is_number =
        word.bytes().all(|b| b.is_ascii_hexdigit()) && word.bytes().any(|b| b.is_ascii_digit());
    is_number.then_some(word.len())
}

/// `panic: ` or `fatal error: ` at the beginning of a line, then `goroutine N [` at the
/// beginning of one; the Go runtime exits with 2, or aborts under GOTRACEBACK=crash.
/// The same for a signal that it reports by itself (`SIGQUIT: quit`).
fn go<'a>(first: &str, rest: impl Fn() -> Vec<&'a str>, exit: Exit) -> Option<Crash> {
    let (kind, text) = go_beginning(first)?;
    // A dump is told whatever came of it: also of a program that prints it and stays.
    if exit != Exit::Code(2) && !aborted(exit) && kind != GO_DUMP {
        return None;
    }
    let rest = rest();
    let near = rest.get(..rest.len().min(HEADER_WINDOW))?;
    let header = near.iter().position(|l| is_goroutine(l))?;
    let after = rest.get(header + 1..).unwrap_or_default();
    let mut stacks = after.split(|l| is_goroutine(l)).map(go_frames);
    // A panic is the first goroutine's. Of a dump the first one that runs own code counts.
    let frames = match kind {
        GO_DUMP => stacks.find(|frames| frames.iter().any(|f| f.is_own)),
        _ => stacks.next(),
    };
    Some(crash(kind, text, &frames.unwrap_or_default()))
}

fn go_beginning(first: &str) -> Option<(&'static str, &str)> {
    const SIGNALS: [&str; 3] = [
        "SIGSEGV: segmentation violation",
        "SIGABRT: abort",
        "SIGBUS: bus error",
    ];
    if let Some(text) = first.strip_prefix("panic: ") {
        Some(("go-panic", text))
    } else if let Some(text) = first.strip_prefix("fatal error: ") {
        Some(("go-fatal", text))
    } else if first.starts_with("SIGQUIT: quit") {
        Some((GO_DUMP, first))
    } else {
        SIGNALS
            .iter()
            .any(|s| first.starts_with(s))
            .then_some(("go-fatal", first))
    }
}

fn is_goroutine(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("goroutine ") else {
        return false;
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && rest.get(digits..).is_some_and(|r| r.starts_with(" ["))
        || digits > 0 && rest.contains(" gp=") && rest.contains('[')
}

/// The first elements of the import paths of Go's standard library.
const GO_STANDARD: [&str; 46] = [
    "archive",
    "bufio",
    "bytes",
    "cmp",
    "compress",
    "container",
    "context",
    "crypto",
    "database",
    "debug",
    "embed",
    "encoding",
    "errors",
    "expvar",
    "flag",
    "fmt",
    "go",
    "hash",
    "html",
    "image",
    "index",
    "internal",
    "io",
    "iter",
    "log",
    "maps",
    "math",
    "mime",
    "net",
    "os",
    "path",
    "plugin",
    "reflect",
    "regexp",
    "runtime",
    "slices",
    "sort",
    "strconv",
    "strings",
    "sync",
    "syscall",
    "text",
    "time",
    "unicode",
    "unique",
    "vendor",
];

/// The frames of one goroutine: a line with the function, then a tab, path,
/// `:line +0xoffset`. Of the path only the file's name is kept. Never the runtime's own.
fn go_frames<'a>(lines: &[&'a str]) -> Vec<Frame<'a>> {
    let frame = |pair: &[&'a str]| {
        let [function, place] = pair else { return None };
        let place = place.strip_prefix('\t')?;
        let of_runtime = function.starts_with('\t')
            || function.starts_with("runtime.")
            || function.starts_with("runtime/")
            || function.starts_with("internal/runtime/")
            || function.starts_with("panic(")
            || function.starts_with("created by ");
        if of_runtime {
            return None;
        }
        let place = place.split(" +0x").next()?;
        // The arguments are the last thing in parentheses.
        let name = function.rfind('(').and_then(|at| function.get(..at));
        let name = name.filter(|n| !n.is_empty()).unwrap_or(function);
        let root = name.split(['/', '.']).next().unwrap_or(name);
        let is_module =
            name.split('/').next().is_some_and(|e| e.contains('.')) && name.contains('/');
        Some(Frame {
            function: file_name(name),
            place: file_name(place).to_owned(),
            is_own: is_module || !GO_STANDARD.contains(&root),
        })
    };
    lines.windows(2).filter_map(frame).collect()
}

/// `thread 'NAME' panicked at src/x.rs:1:2:` and the message on the next line (before
/// Rust 1.73: `panicked at 'message', src/x.rs:1:2`); status 101, or an abort. A stack
/// that overflows, and memory that cannot be had, are told by other words.
fn rust<'a>(first: &str, rest: impl Fn() -> Vec<&'a str>, exit: Exit) -> Option<Crash> {
    let after_name = first.strip_prefix("thread '")?;
    if aborted(exit) && after_name.contains(" has overflowed its stack") {
        return Some(crash("rust-fatal", "stack overflow", &[]));
    }
    let (_, tail) = after_name.split_once(" panicked at ")?;
    if exit != Exit::Code(101) && !aborted(exit) {
        return None;
    }
    let rest = rest();
    if let Some(old) = tail.strip_prefix('\'') {
        let (text, place) = old.rsplit_once("', ")?;
        return Some(crash("rust-panic", text, &rust_frames(place, &rest)));
    }
    let place = tail.strip_suffix(':')?;
    let text = rest.first().copied().unwrap_or_default();
    Some(crash("rust-panic", text, &rust_frames(place, &rest)))
}

/// The place of the panic, then what a backtrace says: `  3: app::stop`, `  at src/x.rs:1:2`.
fn rust_frames<'a>(place: &str, rest: &[&'a str]) -> Vec<Frame<'a>> {
    let top = Frame {
        function: "",
        place: place.to_owned(),
        is_own: true,
    };
    let below = rest.windows(2).filter_map(|pair| {
        let [name, at] = pair else { return None };
        let (number, function) = name.trim_start().split_once(": ")?;
        let at = at.trim_start().strip_prefix("at ")?;
        let foreign = ["core::", "std::", "alloc::", "rust_", "__rust", "<"];
        let is_own = number.bytes().all(|b| b.is_ascii_digit())
            && !at.starts_with("/rustc/")
            && !foreign.iter().any(|f| function.starts_with(f));
        is_own.then(|| Frame {
            function,
            place: file_name(at).to_owned(),
            is_own,
        })
    });
    std::iter::once(top).chain(below).collect()
}

/// What glibc, musl, libstdc++, libc++ and the sanitising compilers print before abort(3).
/// (musl prints nothing for a broken heap or stack: there it is SIGSEGV or SIGILL.)
fn libc_abort<'a>(first: &str, rest: impl Fn() -> Vec<&'a str>, exit: Exit) -> Option<Crash> {
    if !aborted(exit) {
        return None;
    }
    if let Some(text) = first.strip_prefix("terminate called ") {
        let rest = rest();
        let what = rest.first().and_then(|l| l.trim().strip_prefix("what():"));
        return Some(crash("c++-terminate", what.unwrap_or(text), &[]));
    }
    if let Some(text) = first.strip_prefix("libc++abi: ") {
        return Some(crash("c++-terminate", text, &[]));
    }
    if let Some(text) = first.strip_prefix("Fatal Python error: ") {
        return Some(crash("python", text, &python_frames(&rest())));
    }
    // glibc before 2.26 adds the program and an address.
    let old = first
        .strip_prefix("*** Error in `")
        .or_else(|| first.strip_prefix("*** glibc detected *** "));
    if let Some((_, text)) = old.and_then(|l| l.split_once(": ")) {
        let text = text.split(": 0x").next().unwrap_or(text);
        return Some(crash("heap-corruption", text, &[]));
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
        return Some(crash("heap-corruption", first, &[]));
    }
    if first.starts_with("*** ") && first.contains(" detected ***") {
        let text = first.trim_start_matches("*** ");
        let text = text.split(" ***").next().unwrap_or(text);
        return Some(crash("stack-smashing", text, &[]));
    }
    if let Some(text) = first.strip_prefix("Fatal glibc error: ") {
        return Some(crash("assertion", text, &[]));
    }
    if first.starts_with("memory allocation of ") && first.ends_with(" bytes failed") {
        return Some(crash("rust-fatal", first, &[]));
    }
    let assertion = first.contains(": Assertion `") && first.contains("' failed");
    (assertion || first.starts_with("Assertion failed: ")).then(|| crash("assertion", first, &[]))
}

/// A traceback that the interpreter printed because nobody caught it: status 1. The
/// first unindented line after it is the exception.
fn python<'a>(first: &str, rest: impl Fn() -> Vec<&'a str>, exit: Exit) -> Option<Crash> {
    const BEGINNING: &str = "Traceback (most recent call last):";
    // A group of exceptions (3.11) has a margin; those in it have a wider one.
    let margin = match first {
        BEGINNING => "",
        _ if first.strip_prefix("  + Exception Group ") == Some(BEGINNING) => "  | ",
        _ => return None,
    };
    if exit != Exit::Code(1) {
        return None;
    }
    let rest: Vec<&str> = rest()
        .into_iter()
        .map(|l| l.strip_prefix(margin).unwrap_or(l))
        .collect();
    let at = rest
        .iter()
        .position(|l| !l.starts_with(' ') && !l.is_empty())?;
    let mut frames = python_frames(rest.get(..at).unwrap_or_default());
    frames.reverse(); // most recent call last
    Some(crash("python", rest.get(at).unwrap_or(&""), &frames))
}

/// `File "/srv/x.py", line 3, in main`, in the order in which they stand there.
fn python_frames<'a>(lines: &[&'a str]) -> Vec<Frame<'a>> {
    let frame = |l: &&'a str| {
        let (path, tail) = l.trim().strip_prefix("File \"")?.split_once("\", line ")?;
        let (line, function) = tail
            .split_once(", in ")
            .or_else(|| tail.split_once(" in "))
            .unwrap_or((tail, ""));
        Some(Frame {
            function: function.trim_start_matches("<module>"),
            place: format!("{}:{line}", file_name(path)),
            is_own: !path.starts_with('<')
                && !path.contains("/lib/python")
                && !path.contains("/lib64/python")
                && !path.contains("-packages/"),
        })
    };
    lines.iter().filter_map(frame).collect()
}

/// Best effort: `Uncaught ...`, or an error line with `    at ` frames below it and
/// `Node.js v` at the end of the dump; status 1 (7: an error in the error handler).
fn node<'a>(first: &str, rest: impl Fn() -> Vec<&'a str>, exit: Exit) -> Option<Crash> {
    if exit != Exit::Code(1) && exit != Exit::Code(7) {
        return None;
    }
    let is_frame = |l: &&str| l.starts_with("    at ");
    let uncaught = first.strip_prefix("Uncaught ");
    if uncaught.is_none() && (is_frame(&first) || first.is_empty()) {
        return None;
    }
    let rest = rest();
    let ends = || rest.iter().any(|l| l.starts_with("Node.js v"));
    // What is thrown need not be an Error, and then it has no stack.
    let follows = |l: &&str| is_frame(l) || l.starts_with("(Use `node --trace-uncaught");
    let text = match uncaught {
        Some(text) => text,
        None if rest.first().is_some_and(follows) && ends() => first,
        None => return None,
    };
    let frames: Vec<Frame<'_>> = rest
        .iter()
        .skip_while(|l| !is_frame(l))
        .map_while(|l| l.strip_prefix("    at "))
        .map(node_frame)
        .collect();
    Some(crash("node", text, &frames))
}

/// `main (/srv/app/index.js:3:7)`, or only the place.
fn node_frame(line: &str) -> Frame<'_> {
    let (function, place) = match line.rsplit_once(" (") {
        Some((function, place)) => (function, place.trim_end_matches(')')),
        None => ("", line),
    };
    Frame {
        function,
        place: file_name(place).to_owned(),
        is_own: !place.starts_with("node:") && !place.contains("node_modules/"),
    }
}

/// A signal that only a broken program gets, without any text.
pub fn by_signal(exit: Exit) -> Option<Crash> {
    match exit {
        Exit::Signal(s) => match s.0 {
            libc::SIGSEGV
            | libc::SIGBUS
            | libc::SIGILL
            | libc::SIGFPE
            | libc::SIGABRT
            | libc::SIGTRAP
            | libc::SIGSYS => Some(crash(BY_SIGNAL, &format!("SIG{s}"), &[])),
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
        let old =
            "*** Error in `velox': double free or corruption (fasttop): 0x00000000015fef40 ***";
        let c = see(old, ABORT).unwrap();
        assert_eq!(c.text, "double free or corruption (fasttop)");
        assert_eq!(c.kind, "heap-corruption");
        let older = "*** glibc detected *** ./x: free(): invalid pointer: 0x01 ***";
        assert_eq!(parts(older, ABORT).1, "free(): invalid pointer");
        let abi = "libc++abi: terminating due to uncaught exception of type std::bad_alloc";
        assert_eq!(parts(abi, ABORT).0, "c++-terminate");
        let overflow = "thread 'main' has overflowed its stack";
        assert_eq!(parts(overflow, ABORT).0, "rust-fatal");
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
    fn a_group_of_exceptions_of_python_is_known() {
        let text = "  + Exception Group Traceback (most recent call last):
  |   File \"/srv/app.py\", line 5, in <module>
  |     run(main)
  |     ~~~^^^^^^
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File \"/srv/app.py\", line 2, in f
    | ValueError: 7
    +------------------------------------";
        let (kind, text, frame) = parts(text, Exit::Code(1));
        assert_eq!(
            (kind.as_str(), text.as_str(), frame.as_str()),
            (
                "python",
                "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)",
                "app.py:5"
            )
        );
    }

    #[test]
    fn of_chained_exceptions_of_python_the_last_one_counts() {
        let text = "Traceback (most recent call last):
  File \"/srv/a.py\", line 3, in f
    d[\"x\"]
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File \"/srv/a.py\", line 9, in <module>
    f()
    ~^^
ValueError: bad";
        let (_, text, frame) = parts(text, Exit::Code(1));
        assert_eq!(
            (text.as_str(), frame.as_str()),
            ("ValueError: bad", "a.py:9")
        );
    }

    #[test]
    fn what_is_thrown_in_node_need_not_be_an_error() {
        let text = "\n[eval]:1\nthrow 5\n^\n5\n(Use `node --trace-uncaught ...` to show where the \
            exception was thrown)\n\nNode.js v20.20.2";
        let (kind, text, _) = parts(text, Exit::Code(1));
        assert_eq!((kind.as_str(), text.as_str()), ("node", "5"));
    }

    #[test]
    fn a_fatal_error_of_go_may_tell_a_long_stack_of_the_runtime_first() {
        let runtime = "runtime.(*mheap).grow(0x1)\n\t/usr/lib/go/src/runtime/mheap.go:7 +0x1\n";
        let text = format!(
            "fatal error: runtime: out of memory\n\nruntime stack:\n{}\ngoroutine 1 [running]:\n\
             main.grow(...)\n\t/src/main.go:7 +0x5",
            runtime.repeat(18)
        );
        let (kind, text, frame) = parts(&text, Exit::Code(2));
        assert_eq!(kind, "go-fatal");
        assert_eq!(
            (text.as_str(), frame.as_str()),
            ("runtime: out of memory", "main.go:7")
        );
    }

    #[test]
    fn an_abort_below_a_shell_is_one_too() {
        let text = "double free or corruption (fasttop)";
        assert_eq!(parts(text, Exit::Code(134)).0, "heap-corruption");
        assert_eq!(see("", Exit::Code(134)), None);
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
    fn frames_are_the_programs_own_the_innermost_first() {
        let go = "panic: close of closed channel

goroutine 51 [running]:
github.com/caddyserver/caddy/v2/modules/caddytls.(*TLS).Stop(0xc0002be3c0)
\t/root/go/pkg/mod/github.com/caddyserver/caddy/v2@v2.8.4/modules/caddytls/tls.go:338 +0x1e
github.com/caddyserver/caddy/v2.unsyncedStop({{0x21f1da0, 0xc00061c1e0}, 0xc00060c4e0})
\t/root/go/pkg/mod/github.com/caddyserver/caddy/v2@v2.8.4/caddy.go:692 +0xd7
net/http.HandlerFunc.ServeHTTP(...)
\t/usr/lib/go/src/net/http/server.go:2166 +0x29
created by main.main.func1 in goroutine 35
\t/src/main.go:31 +0x2a5

goroutine 1 [select (no cases)]:
main.main()
\t/src/main.go:12 +0x1d";
        let c = see(go, Exit::Code(2)).unwrap();
        assert_eq!(c.frame, "tls.go:338");
        assert_eq!(
            c.frames,
            [
                "caddytls.(*TLS).Stop at tls.go:338",
                "v2.unsyncedStop at caddy.go:692"
            ]
        );
        let rust = "thread 'main' panicked at src/stop.rs:4:5:
boom
stack backtrace:
   0: rust_begin_unwind
             at /rustc/90b35a623/library/std/src/panicking.rs:665:5
   1: app::stop
             at ./src/stop.rs:4:5
   2: app::main
             at ./src/main.rs:9:5";
        let c = see(rust, Exit::Code(101)).unwrap();
        assert_eq!(
            c.frames,
            [
                "src/stop.rs:4:5",
                "app::stop at stop.rs:4:5",
                "app::main at main.rs:9:5"
            ]
        );
        let python = "Traceback (most recent call last):
  File \"/srv/app.py\", line 12, in <module>
    main()
  File \"/srv/app.py\", line 7, in main
    json.loads(x)
  File \"/usr/lib/python3.11/json/__init__.py\", line 346, in loads
    return _default_decoder.decode(s)
json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)";
        let c = see(python, Exit::Code(1)).unwrap();
        assert_eq!(c.frames, ["main at app.py:7", "app.py:12"]);
        // Nothing but the standard library's: better than nothing.
        let std = "panic: x\n\ngoroutine 1 [running]:\nnet/http.(*conn).serve()\n\t/go/src/net/http/server.go:9 +0x1";
        assert_eq!(parts(std, Exit::Code(2)).2, "server.go:9");
    }

    #[test]
    fn a_dump_on_request_is_told_from_a_crash() {
        let dump = "SIGQUIT: quit
PC=0x46d4c1 m=0 sigcode=0

goroutine 0 gp=0x9c5140 m=0 mp=0x9c5fe0 [idle]:
runtime.futex(0x9c6120, 0x80, 0x0, 0x0, 0x0, 0x0)
\t/usr/lib/go/src/runtime/sys_linux_amd64.s:557 +0x21
runtime.mstart()
\t/usr/lib/go/src/runtime/asm_amd64.s:394 +0x5

goroutine 1 gp=0xc0000061c0 m=nil [chan receive]:
runtime.gopark(0x0?, 0x0?, 0x0?, 0x0?, 0x0?)
\t/usr/lib/go/src/runtime/proc.go:402 +0xce
main.stop(...)
\t/src/main.go:44 +0x1
main.main()
\t/src/main.go:12 +0x1d";
        let c = see(dump, Exit::Code(2)).unwrap();
        assert_eq!(
            (c.kind.as_str(), c.text.as_str()),
            (GO_DUMP, "SIGQUIT: quit")
        );
        assert_eq!(
            c.frames,
            ["main.stop at main.go:44", "main.main at main.go:12"]
        );
        let cgo = "SIGSEGV: segmentation violation\nPC=0x0 m=0 sigcode=1\nsignal arrived during cgo execution\n\ngoroutine 1 [syscall]:\nmain.main()\n\t/src/x.go:3 +0x1";
        assert_eq!(parts(cgo, Exit::Code(2)).0, "go-fatal");
        assert_eq!(see("SIGQUIT: quit", Exit::Code(2)), None);
        let killed = see(dump, Exit::Signal(Signal::KILL)).unwrap();
        assert_eq!(killed.kind, GO_DUMP);
    }

    #[test]
    fn a_fingerprint_groups_repeats_and_tells_others_apart() {
        let print = |kind: &str, text: &str, frame: &str| {
            Crash {
                kind: kind.to_owned(),
                text: text.to_owned(),
                frame: frame.to_owned(),
                frames: Vec::new(),
            }
            .fingerprint()
        };
        let one = print(
            "go-panic",
            "index out of range [7] with length 3 at 0xc0001a",
            "x.go:1",
        );
        assert_eq!(
            one,
            print(
                "go-panic",
                "index out of range [12] with length 9 at 0xbeef",
                "x.go:1"
            )
        );
        assert_eq!(one.len(), 16);
        assert_ne!(
            one,
            print(
                "go-panic",
                "index out of range [7] with length 3 at 0xc0001a",
                "x.go:2"
            )
        );
        assert_ne!(print("a", "bc", ""), print("ab", "c", ""));
        // It is a file's name: never another one for the same crash.
        assert_eq!(
            print("go-panic", "close of closed channel", "tls.go:338"),
            "10eb31d4b7bf7af0"
        );
        assert_eq!(without_numbers("0x 0xzz 12ab 12xy ä9é"), "# #zz # #xy ä#é");
        assert_eq!(
            without_numbers("[fe80::1%eth0]:80, decade cafe7, x509"),
            "[#::#%eth#]:#, decade #, x#"
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
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as usize
        };
        let words = [
            "panic: ",
            "goroutine ",
            "1 [",
            "\n",
            "\n\n",
            "\t/x/",
            "thread '",
            "' panicked at '",
            "', ",
            ":",
            "Traceback (most recent call last):",
            "  File \"",
            "\", line ",
            ", in ",
            "    at ",
            " (",
            ")",
            "Node.js v",
            "é",
            "0x",
            " +0x",
            "SIGQUIT: quit",
            "(",
            ".",
            "*** Error in `",
            " detected ***",
            "terminate called ",
            "main.",
            "/",
        ];
        for _ in 0..4_000 {
            let mut text = String::new();
            for _ in 0..next() % 60 {
                text.push_str(words[next() % words.len()]);
            }
            for exit in [
                Exit::Code(1),
                Exit::Code(2),
                Exit::Code(7),
                Exit::Code(101),
                Exit::Unknown,
                ABORT,
            ] {
                if let Some(c) = see(&text, exit) {
                    assert!(c.text.len() <= TEXT_CAP && c.frame.len() <= FRAME_CAP);
                    assert!(c.frames.len() <= FRAMES);
                    assert!(c.frames.iter().all(|f| f.len() <= FRAME_CAP));
                    assert_eq!(c.fingerprint().len(), 16);
                }
            }
        }
    }

    #[test]
    fn the_worst_output_costs_a_bounded_time() {
        // Every line may be the first one, and none is confirmed.
        let worst: Vec<&str> = std::iter::repeat_n("panic: x", 20_000).collect();
        let began = std::time::Instant::now();
        assert_eq!(recognise(&worst, Exit::Code(2)), None);
        let tracebacks: Vec<&str> =
            std::iter::repeat_n("Traceback (most recent call last):", 20_000).collect();
        recognise(&tracebacks, Exit::Code(1));
        // Each line looks at no more than WINDOW others; 40,000 lines in a test build.
        let took = began.elapsed();
        assert!(took < std::time::Duration::from_secs(20), "{took:?}");
    }
}
