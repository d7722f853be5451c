use super::crash_text::{CRASH_AGAIN, CRASH_AGE, CRASH_BYTES, CRASH_LINES};
use super::*;
use crate::machine::report::Exit;
use crate::machine::signal::Signal;
use std::io::Write;
use std::time::Duration;

struct Bench {
    poll: mio::Poll,
    logs: Logs,
    name: Rc<str>,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            poll: mio::Poll::new().unwrap(),
            logs: Logs::new(16 * 1024),
            name: "x".into(),
        }
    }

    /// A writing end as a child would have it.
    fn start(&mut self, id: u32, output: Output) -> File {
        let (registry, name) = (self.poll.registry(), &self.name);
        let fd = self
            .logs
            .open(registry, ServiceId(id), name, output)
            .unwrap();
        let fd = fd.try_clone_to_owned().unwrap();
        self.logs.begin(ServiceId(id), Instance(1));
        File::from(fd)
    }

    /// Waits for events, then takes turns until nothing is left. Pipes that are left to fill are
    /// read at once.
    fn lines(&mut self) -> Vec<(u32, String)> {
        let mut events = mio::Events::with_capacity(8);
        let wait = self.logs.next_deadline().map(|_| Duration::ZERO);
        self.poll.poll(&mut events, wait).unwrap();
        self.logs.expire(Tick::NEVER);
        for e in &events {
            match Source::of(e.token()) {
                Some(Source::Log(id)) => self.logs.ready(ServiceId(id)),
                other => panic!("{other:?}"),
            }
        }
        let mut out = Vec::new();
        loop {
            self.logs.turn(self.poll.registry(), Tick(1), &mut |s| {
                out.push((s.service.0, shown(s.line)))
            });
            if !self.logs.more_work() {
                return out;
            }
        }
    }
}

#[test]
fn lines_arrive_and_are_kept_with_their_instance() {
    let mut b = Bench::new();
    let mut one = b.start(1, Output::Log);
    let mut two = b.start(2, Output::Ring);
    one.write_all(b"a\nb\nhalf").unwrap();
    assert_eq!(b.lines(), vec![(1, "a".into()), (1, "b".into())]);
    two.write_all(b"c\n").unwrap();
    assert_eq!(b.lines(), vec![(2, "c".into())]);
    let mut last = Vec::new();
    b.logs
        .drain(ServiceId(1), Tick(5), &mut |s| last.push(shown(s.line)));
    assert_eq!(last, ["half"]);
    assert_eq!(
        b.logs.last_of_instance(ServiceId(1), 10),
        ["a", "b", "half"]
    );
    b.logs.begin(ServiceId(1), Instance(2));
    assert!(b.logs.last_of_instance(ServiceId(1), 10).is_empty());
    let tail = b.logs.tail(ServiceId(1), 2);
    assert_eq!(tail, [(Tick(1), "b".into()), (Tick(5), "half".into())]);
    assert!(!b.logs.more_work());
}

#[test]
fn a_flood_does_not_starve_others_and_is_bounded_per_turn() {
    let mut b = Bench::new();
    let mut flood = b.start(1, Output::Log);
    let mut quiet = b.start(2, Output::Log);
    // A pipe holds 64 KiB: fill it, as a child writing at full speed does.
    flood.write_all(&b"0123456789abcde\n".repeat(4096)).unwrap();
    quiet.write_all(b"still here\n").unwrap();
    b.logs.ready(ServiceId(1));
    b.logs.ready(ServiceId(2));
    let mut seen = Vec::new();
    b.logs
        .turn(b.poll.registry(), Tick(1), &mut |s| seen.push(s.service.0));
    assert!(seen.contains(&2), "both had their turn");
    assert!(seen.len() <= LOGGED_SHARE / 16 + 1);
    assert!(b.logs.more_work());
    while b.logs.more_work() {
        b.logs
            .turn(b.poll.registry(), Tick(1), &mut |s| seen.push(s.service.0));
    }
    assert_eq!(seen.len(), 4096 + 1);
    quiet.write_all(b"and calm\n").unwrap();
    assert_eq!(b.lines().len(), 1);
    assert!(b.logs.buf.len() <= SMALL, "the large buffer is given back");
}

#[test]
fn a_flood_that_only_goes_to_the_ring_keeps_its_end() {
    let mut b = Bench::new();
    let writer = b.start(1, Output::Ring);
    const LINES: usize = 400_000;
    let child = std::thread::spawn(move || {
        let mut w = std::io::BufWriter::with_capacity(LARGE, writer);
        for i in 0..LINES {
            writeln!(w, "line {i}").unwrap();
        }
    });
    let mut last = String::new();
    while last != format!("line {}", LINES - 1) {
        for (_, line) in b.lines() {
            let n = line.strip_prefix("line ").map(str::parse::<usize>);
            assert!(matches!(n, Some(Ok(_))), "only whole lines: {line:?}");
            last = line;
        }
    }
    child.join().unwrap();
    let tail = b.logs.tail(ServiceId(1), 100);
    assert_eq!(tail.len(), 100);
    assert_eq!(tail[0].1, format!("line {}", LINES - 100));
}

#[test]
fn a_pipe_that_is_written_to_without_a_pause_is_left_to_fill_for_a_moment() {
    let mut b = Bench::new();
    let mut w = b.start(1, Output::Ring);
    let mut events = mio::Events::with_capacity(8);
    let mut now = Tick(1_000_000_000);
    let turn = |b: &mut Bench, now: Tick| {
        let mut lines = Vec::new();
        let registry = b.poll.registry();
        b.logs
            .turn(registry, now, &mut |s| lines.push(shown(s.line)));
        lines
    };
    while b.logs.next_deadline().is_none() {
        w.write_all(b"one\n").unwrap();
        b.poll.poll(&mut events, None).unwrap();
        b.logs.ready(ServiceId(1));
        now = now + Duration::from_micros(10);
        assert_eq!(turn(&mut b, now), ["one"], "nothing waits before that");
        assert!(now < Tick(1_001_000_000));
    }
    let at = b.logs.next_deadline().unwrap();
    assert!(at > now && at <= now + pace::LONGEST);
    // epoll does not tell of it, and it is not read before its time.
    w.write_all(b"two\nthree\n").unwrap();
    b.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(events.is_empty());
    b.logs.expire(now);
    assert!(!b.logs.more_work());
    b.logs.expire(at);
    assert_eq!(turn(&mut b, at), ["two", "three"]);
    // Unless somebody asks.
    w.write_all(b"four\n").unwrap();
    b.logs.hasten(None);
    b.logs.expire(at);
    assert_eq!(turn(&mut b, at), ["four"]);
    // Or the service ends.
    w.write_all(b"five").unwrap();
    let mut last = Vec::new();
    b.logs
        .drain(ServiceId(1), at, &mut |s| last.push(shown(s.line)));
    assert_eq!(last, ["five"]);
    // Nothing comes: it was looked at once in vain, no timer is left, and epoll tells again.
    b.logs.expire(Tick::NEVER);
    assert!(turn(&mut b, at).is_empty());
    assert_eq!(b.logs.next_deadline(), None);
    w.write_all(b"six\n").unwrap();
    assert_eq!(b.lines(), [(1, "six".to_owned())]);
}

#[test]
fn who_waits_for_a_text_does_not_wait_for_a_pipe_to_fill() {
    let mut b = Bench::new();
    let mut w = b.start(1, Output::Log);
    let mut read = |b: &mut Bench, text: &[u8]| {
        w.write_all(text).unwrap();
        b.logs.ready(ServiceId(1));
        b.logs.expire(Tick(1));
        let registry = b.poll.registry();
        b.logs.turn(registry, Tick(1), &mut |_| {});
        b.logs.next_deadline()
    };
    while read(&mut b, b"x\n").is_none() {}
    b.logs.watch(ServiceId(1), Instance(1), "ready".into());
    assert_eq!(b.logs.next_deadline(), Some(Tick(0)));
    for _ in 0..10 {
        assert_eq!(read(&mut b, b"x\n"), None);
    }
    read(&mut b, b"ready\n");
    while read(&mut b, b"x\n").is_none() {}
}

/// Of a flood that goes to the ring only its end is split into lines, unless somebody follows it.
#[test]
fn who_follows_a_flood_gets_each_line() {
    for is_followed in [true, false] {
        let mut b = Bench::new();
        b.logs.set_followed(is_followed);
        let mut w = b.start(1, Output::Ring);
        let mut lines = 0;
        for _ in 0..3 {
            w.write_all(&b"0123456789abcde\n".repeat(4096)).unwrap();
            let new = b.lines();
            assert!(new.iter().all(|(_, l)| l == "0123456789abcde"));
            lines += new.len();
        }
        assert_eq!(lines == 3 * 4096, is_followed);
    }
}

#[test]
fn a_watched_text_is_reported_once() {
    let mut b = Bench::new();
    let mut w = b.start(1, Output::Ring);
    b.logs.watch(ServiceId(1), Instance(1), "ready".into());
    w.write_all(b"not yet\nserver is ready\nready again\n")
        .unwrap();
    let mut matched = Vec::new();
    b.logs
        .drain(ServiceId(1), Tick(1), &mut |s| matched.push(s.matched));
    assert_eq!(matched, [None, Some(Instance(1)), None]);
    b.logs.watch(ServiceId(1), Instance(1), "x".into());
    b.logs.unwatch(ServiceId(1), Instance(1));
    w.write_all(b"x\n").unwrap();
    b.logs
        .drain(ServiceId(1), Tick(1), &mut |s| assert_eq!(s.matched, None));
}

#[test]
fn a_panic_is_found_although_its_dump_is_longer_than_the_ring() {
    let mut b = Bench::new();
    let mut w = b.start(1, Output::Log);
    let mut text = "panic: boom\n\ngoroutine 1 [running]:\nmain.f()\n\t/a/b.go:3 +0x1\n".to_owned();
    for i in 0..1_200 {
        text.push_str(&format!("goroutine {i} [select]:\nmain.g()\n"));
    }
    w.write_all(text.as_bytes()).unwrap();
    b.logs.drain(ServiceId(1), Tick(1), &mut |_| {});
    let c = b.logs.crash(ServiceId(1), Exit::Code(2), Tick(2)).unwrap();
    let lines = b.logs.crash_text(ServiceId(1), Exit::Code(2));
    assert_eq!((c.text.as_str(), c.frame.as_str()), ("boom", "b.go:3"));
    assert_eq!(lines[0], "panic: boom");
    let bytes: usize = lines.iter().map(|l| l.len() + 1).sum();
    assert!(lines.len() == CRASH_LINES && bytes <= CRASH_BYTES + 1);
    let later = Tick(1) + CRASH_AGE;
    assert_eq!(b.logs.crash(ServiceId(1), Exit::Code(2), later), None);
}

const PANIC: &str = "panic: boom\n\ngoroutine 1 [running]:\nmain.f()\n\t/a/b.go:3 +0x1\n";

#[test]
fn who_goes_on_after_a_panic_has_survived_it() {
    let seen = |pauses: &[(u64, &str)], exit| {
        let mut b = Bench::new();
        let mut w = b.start(1, Output::Log);
        let mut now = Tick(1);
        for (pause, text) in pauses {
            now = now + Duration::from_millis(*pause);
            w.write_all(text.as_bytes()).unwrap();
            b.logs.drain(ServiceId(1), now, &mut |_| {});
        }
        let text = b.logs.crash_text(ServiceId(1), exit);
        let crash = b.logs.crash(ServiceId(1), exit, now);
        crash.map_or_else(String::new, |c| format!("{} {}", c.text, text.len()))
    };
    let status = Exit::Code(2);
    let abort = Exit::Signal(Signal(libc::SIGABRT));
    assert_eq!(seen(&[(0, PANIC), (1_001, "serving\n")], status), "");
    // Slow, or others are heard in between, or a core is written.
    assert_eq!(
        seen(&[(0, PANIC), (900, "\n"), (900, "rax 0x0\n")], status),
        "boom 7"
    );
    assert_eq!(seen(&[(0, PANIC), (9_000, "")], status), "boom 5");
    assert_eq!(seen(&[(0, PANIC), (9_000, "x\n")], abort), "boom 6");
    // A program that speaks all the time has survived it, too.
    let mut busy = vec![(0, PANIC)];
    busy.extend(std::iter::repeat_n((500, "serving\n"), 21));
    assert_eq!(seen(&busy, status), "");
    // What it said before does not hide what comes after.
    let python =
        "Traceback (most recent call last):\n  File \"/a.py\", line 1, in f\nValueError: x\n";
    let odd = [(0, "corrupted file\n"), (1_001, "ok\n"), (1_001, python)];
    assert_eq!(seen(&odd, Exit::Code(1)), "ValueError: x 3");
    let node = "Error: x\n    at f (/x.js:1:2)\n\nNode.js v22.1.0\n";
    let odd = [(0, "corrupted file\n"), (1_001, node)];
    assert_eq!(seen(&odd, Exit::Code(1)), "Error: x 0");
}

#[test]
fn a_panic_with_a_giant_text_is_known() {
    let mut b = Bench::new();
    let mut w = b.start(1, Output::Log);
    let text = PANIC.replacen("boom", &"x".repeat(40_000), 1);
    w.write_all(text.as_bytes()).unwrap();
    b.logs.drain(ServiceId(1), Tick(1), &mut |_| {});
    let c = b.logs.crash(ServiceId(1), Exit::Code(2), Tick(2)).unwrap();
    assert_eq!(c.frame, "b.go:3");
}

/// The same where most of the flood goes to a file and is not looked at.
#[test]
fn a_long_dump_at_the_end_of_a_flood_is_known() {
    for output in [Output::Ring, Output::File] {
        let home = Home::new(&format!("dump{}", u8::from(output == Output::File)));
        let mut b = Bench::new();
        b.logs.set_home(&home.0, None);
        let mut w = b.start(1, output);
        let spec = FileOutput {
            path: home.0.join("x.log").to_str().unwrap().to_owned(),
            max_size: 1 << 20,
            keep: 3,
            timestamps: false,
            compress: Vec::new(),
        };
        let to = (output == Output::File).then_some(&spec);
        b.logs.set_file(ServiceId(1), to);
        let flood = "serving\n".repeat(30_000);
        for at in [8, 100_000, 110_000, 190_000] {
            let mut text = flood[..at].to_owned();
            text.push_str(PANIC);
            text.push_str(&"goroutine 7 [select]:\nmain.g()\n".repeat(1_500));
            b.logs.begin(ServiceId(1), Instance(at as u32));
            // It is known that it floods, and then all is there before it is read.
            for text in [flood.as_bytes(), text.as_bytes()] {
                w.write_all(text).unwrap();
                b.lines();
            }
            let c = b.logs.crash(ServiceId(1), Exit::Code(2), Tick(2)).unwrap();
            assert_eq!((c.text.as_str(), c.frame.as_str()), ("boom", "b.go:3"));
        }
    }
}

/// A pipe is large while somebody floods it, and not for long.
#[test]
fn few_pipes_are_large_and_none_for_long() {
    let home = Home::new("wide");
    let mut b = Bench::new();
    b.logs.set_home(&home.0, None);
    let mut start = |id: u32| {
        b.name = format!("x{id}").into();
        b.start(id, Output::Ring)
    };
    let mut out: Vec<File> = (0..WIDE as u32 + 2).map(&mut start).collect();
    let size = |out: &File| fcntl(out, FcntlArg::F_GETPIPE_SZ).unwrap();
    let wide = |out: &[File]| out.iter().filter(|o| size(o) > fifo::SIZE).count();
    for _ in 0..20 {
        out.iter_mut().for_each(|o| o.write_all(b"x\n").unwrap());
        b.lines();
    }
    assert_eq!(wide(&out), WIDE);
    // One is forgotten, another one falls silent.
    b.logs.close(b.poll.registry(), ServiceId(0));
    out.remove(0);
    for _ in 0..20 {
        for o in &mut out[1..] {
            o.write_all(b"x\n").unwrap();
        }
        b.lines();
    }
    assert_eq!((wide(&out), size(&out[0])), (WIDE - 2, fifo::SIZE));
    while b.logs.next_deadline().is_some() {
        b.lines();
    }
    assert_eq!((wide(&out), b.logs.wide), (0, 0));
}

#[test]
fn a_panic_that_was_survived_does_not_hide_the_one_that_kills() {
    let mut b = Bench::new();
    let mut w = b.start(1, Output::Ring);
    let (first, second) = (Tick(1), Tick(1) + CRASH_AGAIN + Duration::from_millis(1));
    for (at, text) in [(first, "survived"), (second, "deadly")] {
        let text = format!("panic: {text}\n\ngoroutine 1 [running]:\nmain.f()\n\t/b.go:3 +0x1\n");
        w.write_all(text.as_bytes()).unwrap();
        b.logs.drain(ServiceId(1), at, &mut |_| {});
    }
    let c = b.logs.crash(ServiceId(1), Exit::Code(2), second).unwrap();
    let lines = b.logs.crash_text(ServiceId(1), Exit::Code(2));
    assert_eq!((c.text.as_str(), lines.len()), ("deadly", 5));
    assert!(b.logs.crash_text(ServiceId(1), Exit::Code(0)).is_empty());
    // A line without end does not go past the bound.
    w.write_all(&[b'x'; 64 * 1024]).unwrap();
    b.logs.drain(ServiceId(1), second, &mut |_| {});
    let lines = b.logs.crash_text(ServiceId(1), Exit::Code(2));
    assert!(lines.iter().map(String::len).sum::<usize>() <= CRASH_BYTES);
}

#[test]
fn a_closed_service_is_forgotten() {
    let mut b = Bench::new();
    let mut w = b.start(1, Output::Log);
    w.write_all(b"x\n").unwrap();
    b.logs.ready(ServiceId(1));
    b.logs.close(b.poll.registry(), ServiceId(1));
    assert!(!b.logs.more_work());
    assert!(b.logs.writer(ServiceId(1)).is_none());
    assert!(b.logs.tail(ServiceId(1), 9).is_empty());
}

#[test]
#[ignore = "a measurement: cargo test --release --lib -- --ignored --nocapture cost_of"]
fn cost_of_a_gigabyte() {
    for (output, what) in [(Output::Ring, "ring"), (Output::Log, "every line")] {
        let mut b = Bench::new();
        let mut w = b.start(1, output);
        let child = std::thread::spawn(move || {
            let chunk = b"2026-11-20 10:00:00 a line of output as servers write them, 100 bytes, or so, long enough to be one\n".repeat(650);
            for _ in 0..1_000_000_000 / chunk.len() {
                w.write_all(&chunk).unwrap();
            }
            w.write_all(b"end\n").unwrap();
        });
        let before = thread_cpu();
        let mut events = mio::Events::with_capacity(8);
        let (mut lines, mut turns, mut over) = (0_u64, 0_u64, false);
        while !over {
            let now = || Tick(crate::sys::timer::monotonic());
            let next = b.logs.next_deadline().map(|at| at.since(now()));
            let wait = b.logs.more_work().then_some(Duration::ZERO).or(next);
            b.poll.poll(&mut events, wait).unwrap();
            if !events.is_empty() {
                b.logs.ready(ServiceId(1));
            }
            b.logs.expire(now());
            turns += 1;
            b.logs.turn(b.poll.registry(), now(), &mut |s| {
                lines += 1;
                over |= s.line == b"end";
            });
        }
        let cost = thread_cpu() - before;
        child.join().unwrap();
        eprintln!("{what}: {cost:.2} CPU s/GB, {lines} lines split, {turns} turns");
    }
}

/// User and system seconds of this thread (proc(5), `/proc/thread-self/schedstat`).
fn thread_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// A run directory.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Home {
        let dir = std::env::temp_dir().join(format!("superd-logs-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Home(dir)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// With a run directory output stays in the pipe until it was passed on: the same lines come,
/// however they are written.
#[test]
fn what_is_passed_on_from_a_fifo_is_what_was_written() {
    let home = Home::new("passed");
    let mut b = Bench::new();
    b.logs.set_home(&home.0, None);
    assert!(b.logs.take_carry().is_none(), "not before there is output");
    let mut out = b.start(1, Output::Log);
    assert!(b.logs.take_carry().is_some() && b.logs.take_complaint().is_none());
    assert!(b.logs.take_carry().is_none(), "told once");
    let mut seed = 7_u32;
    let mut roll = |n: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % n
    };
    let mut written = Vec::new();
    for n in 0..400 {
        let length = [0, 1, 30, 200, LINE_CAP, 9000, 40_000][roll(7)];
        written.extend_from_slice(n.to_string().as_bytes());
        written.extend(std::iter::repeat_n(b'x', length));
        written.push(b'\n');
    }
    let (mut lines, mut rest) = (Vec::new(), written.as_slice());
    while !rest.is_empty() {
        let n = [1, 3, 100, 5000, 60_000][roll(5)].min(rest.len());
        out.write_all(&rest[..n]).unwrap();
        rest = &rest[n..];
        lines.extend(b.lines().into_iter().map(|(_, l)| l));
    }
    let (mut splitter, mut all) = (Splitter::default(), Vec::new());
    splitter.push(&written, &mut |l| all.push(shown(l)));
    assert_eq!(lines.len(), all.len());
    assert_eq!(lines, all);
    // A beginning stays in the pipe, and is a line when nothing can follow.
    out.write_all(b"the beg").unwrap();
    assert_eq!(b.lines(), []);
    let in_pipe = |b: &Bench| waiting_bytes(b.logs.logs[&ServiceId(1)].read.as_fd()).unwrap();
    assert_eq!(in_pipe(&b), 7);
    out.write_all(b"inning\nand the end").unwrap();
    assert_eq!(b.lines(), [(1, "the beginning".to_owned())]);
    let mut last = Vec::new();
    b.logs
        .drain(ServiceId(1), Tick(2), &mut |s| last.push(shown(s.line)));
    assert_eq!(last, ["and the end"]);
    assert_eq!(in_pipe(&b), 0);
    // A writer that fills the pipe in drops is not left waiting.
    let small = fcntl(&out, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    out.write_all(&vec![b'y'; small as usize]).unwrap();
    assert_eq!(b.lines(), []);
    assert_eq!(in_pipe(&b), 0);
}

/// Issue 4: the next instance had a standard output that does not block.
#[test]
fn what_an_instance_has_set_on_its_output_is_not_left_to_the_next_one() {
    let mut b = Bench::new();
    let one = b.start(1, Output::Log);
    fcntl(&one, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let two = b.start(1, Output::Log);
    let flags = OFlag::from_bits_truncate(fcntl(&two, FcntlArg::F_GETFL).unwrap());
    assert!(!flags.contains(OFlag::O_NONBLOCK), "{flags:?}");
}

/// Issue 4: with O_DIRECT what is left of a packet is thrown away when a part is read.
#[test]
fn a_line_in_two_packets_is_one_line() {
    let home = Home::new("packets");
    let mut b = Bench::new();
    b.logs.set_home(&home.0, None);
    let mut out = b.start(1, Output::Log);
    fcntl(&out, FcntlArg::F_SETFL(OFlag::O_DIRECT)).unwrap();
    out.write_all(b"one\nha").unwrap();
    let mut lines = b.lines();
    out.write_all(b"lf\n").unwrap();
    lines.extend(b.lines());
    assert_eq!(lines, [(1, "one".to_owned()), (1, "half".to_owned())]);
}

/// Issue 4: so many bytes were taken for the old beginning, which was gone.
#[test]
fn a_line_as_long_as_a_beginning_that_was_read_otherwise_is_heard() {
    let home = Home::new("beginning");
    let mut b = Bench::new();
    b.logs.set_home(&home.0, None);
    let mut out = b.start(1, Output::Log);
    out.write_all(b"abc").unwrap();
    assert_eq!(b.lines(), []);
    // A reload sends it elsewhere for a while.
    b.start(1, Output::Ring);
    out.write_all(b"d\n").unwrap();
    assert_eq!(b.lines(), [(1, "abcd".to_owned())]);
    b.start(1, Output::Log);
    out.write_all(b"ef\n").unwrap();
    assert_eq!(b.lines(), [(1, "ef".to_owned())]);
}

/// Where the ring is small, nothing of a flood need be split; what comes after it is.
#[test]
fn a_flood_takes_nothing_away_from_the_next_instance() {
    for (bound, end) in [(0, "\n"), (0, "cut"), (200, "\n"), (200, "cut")] {
        let mut b = Bench::new();
        b.logs.set_ring(bound);
        let mut one = b.start(1, Output::Ring);
        let line = "z".repeat(1_000);
        for _ in 0..2 {
            // It is known that it floods, and then all is there before it is read.
            one.write_all(format!("{line}\n").repeat(60).as_bytes())
                .unwrap();
            b.lines();
        }
        one.write_all(format!("{line}{end}").as_bytes()).unwrap();
        b.logs.drain(ServiceId(1), Tick(5), &mut |_| ());
        b.logs.begin(ServiceId(1), Instance(2));
        b.logs.watch(ServiceId(1), Instance(2), "ready".into());
        one.write_all(b"ready\n").unwrap();
        let mut matched = Vec::new();
        b.logs
            .drain(ServiceId(1), Tick(6), &mut |s| matched.extend(s.matched));
        assert_eq!(matched, [Instance(2)], "{bound} {end:?}");
    }
}
