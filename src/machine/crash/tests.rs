//! Tests of `crash.rs`.

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
    let old = "*** Error in `velox': double free or corruption (fasttop): 0x00000000015fef40 ***";
    let c = see(old, ABORT).unwrap();
    assert_eq!(c.text, "double free or corruption (fasttop)");
    assert_eq!(c.kind, "heap-corruption");
    let older = "*** glibc detected *** ./x: free(): invalid pointer: 0x01 ***";
    assert_eq!(parts(older, ABORT).1, "free(): invalid pointer");
    let abi = "libc++abi: terminating due to uncaught exception of type std::bad_alloc";
    assert_eq!(parts(abi, ABORT).0, "c++-terminate");
    let overflow = "thread 'main' has overflowed its stack";
    assert_eq!(parts(overflow, ABORT).0, "rust-fatal");
    let cpp =
        "terminate called after throwing an instance of 'std::runtime_error'\n  what():  no disk";
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
