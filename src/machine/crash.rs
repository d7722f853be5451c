//! What the last output of an instance says about its death.
//!
//! Pure: lines and an exit in, a [`Crash`] out. Text alone is no crash (programs print
//! `panic: ` and go on, `net/http` recovers) and a status alone is none either (2 is a
//! Go panic and Caddy's forced quit), so each pattern names the exits that confirm it.
//! The work is bounded by the number of lines and by `WINDOW`.
//!
//! (Past 400 lines because it is a list of what other people's runtimes print.)

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
mod tests;
