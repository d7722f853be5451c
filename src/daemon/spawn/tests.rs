//! Tests of `spawn.rs`.

use super::*;
use crate::config::model::{self, Output};
use crate::map::Map;
use crate::sys::wait::reap;
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

fn program(command: &[&str]) -> Program {
    Program {
        command: command.iter().map(|w| (*w).to_owned()).collect(),
        user: None,
        group: None,
        groups: None,
        umask: 0o022,
        nice: None,
        oom_score_adj: None,
        environment: Map::new(),
        environment_file: None,
        directory: None,
        limits: Vec::new(),
        notify: false,
        watchdog: None,
        output: Output::Null,
        log_file: None,
        sockets: Vec::new(),
        confine: Confine::default(),
    }
}

fn base() -> Base {
    Base {
        environment: vec![c"PATH=/usr/bin:/bin".into(), c"HOME=/superd".into()],
        open_files: None,
        goes_along: false,
        nonce: 0xabc,
        count: 0,
    }
}

const CTX: Context<'static> = Context {
    service: "caddy",
    cookie: "c-1",
    stdout: None,
    stderr: None,
    is_pipe: false,
    notify_socket: None,
    ready: None,
    sockets: &[],
    until_exec: None,
    cgroup: None,
    news: &[],
};

/// A file of this test's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Scratch {
        use std::os::unix::fs::PermissionsExt;
        let file = format!("superd-spawn-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        Scratch(path)
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// Starts it, waits for the verdict of the status pipe, and reaps it.
fn run_to_end(program: &Program, ctx: &Context<'_>) -> Result<(), SpawnError> {
    let child = run(program, &program.command, &base(), ctx)?;
    let told = loop {
        match outcome(&child.status, program, &program.command, &mut Vec::new()) {
            Some(told) => break told,
            None => std::thread::yield_now(),
        }
    };
    while reap(child.pid).unwrap().is_none() {
        std::thread::yield_now();
    }
    told
}

fn why_not(program: &Program) -> String {
    run_to_end(program, &CTX).unwrap_err().to_string()
}

#[test]
fn a_failed_start_names_stage_thing_and_cause() {
    let exec = Stage::Exec.to_string();
    let missing = program(&["/nonexistent/caddy"]);
    assert_eq!(
        why_not(&missing),
        format!("{exec} \"/nonexistent/caddy\": No such file or directory")
    );
    let mut user = program(&["true"]);
    user.user = Some("dns-of-nobody".to_owned());
    assert_eq!(
        why_not(&user),
        "setting user \"dns-of-nobody\": no such user"
    );
    let mut group = program(&["true"]);
    group.groups = Some(vec!["0".to_owned(), "wheel-of-nobody".to_owned()]);
    let text = why_not(&group);
    assert!(
        text.ends_with("\"wheel-of-nobody\": no such group"),
        "{text}"
    );
    let mut limit = program(&["true"]);
    limit.limits.push(model::Limit {
        name: "core",
        resource: libc::RLIMIT_CORE as _,
        soft: 9,
        hard: 1,
    });
    let text = why_not(&limit);
    assert!(text.ends_with("\"core\": Invalid argument"), "{text}");
    let mut directory = program(&["true"]);
    directory.directory = Some("/nonexistent".to_owned());
    let text = why_not(&directory);
    assert!(
        text.ends_with("\"/nonexistent\": No such file or directory"),
        "{text}"
    );
    assert!(why_not(&program(&["a\0b"])).ends_with("contains a NUL byte"));
}

#[test]
fn a_start_that_fails_leaves_the_others_of_its_batch_alone() {
    let programs = [
        program(&["true"]),
        program(&["a\0b"]),
        program(&[""]),
        program(&["false"]),
    ];
    let starts: Vec<_> = programs.iter().map(|p| (p, CTX)).collect();
    let made = start_all(&starts, &base());
    let mut codes = Vec::new();
    for (result, program) in made.into_iter().zip(&programs) {
        codes.push(result.map_err(|e| e.to_string()).map(|child| {
            let ended = loop {
                match reap(child.pid).unwrap() {
                    Some(ended) => break ended,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(
                outcome(&child.status, program, &program.command, &mut Vec::new()),
                Some(Ok(()))
            );
            ended
        }));
    }
    use crate::sys::wait::Ended;
    assert_eq!(codes[0], Ok(Ended::Code(0)));
    assert!(codes[1]
        .as_ref()
        .is_err_and(|e| e.ends_with("contains a NUL byte")));
    assert!(codes[2]
        .as_ref()
        .is_err_and(|e| e.ends_with("No such file or directory")));
    assert_eq!(codes[3], Ok(Ended::Code(1)));
}

#[test]
fn the_environment_is_that_of_superd_the_file_the_definition_and_superd_again() {
    let file = Scratch::new("env", "A=file\nB=file\nSUPERD_INSTANCE=forged\n");
    let mut p = program(&["env"]);
    p.environment_file = Some(file.name());
    p.environment.insert("B".to_owned(), "config".to_owned());
    p.environment
        .insert("SERVICE".to_owned(), "forged".to_owned());
    let (read, write) = nix::unistd::pipe().unwrap();
    let ctx = Context {
        stdout: Some(write.as_fd()),
        notify_socket: Some(Path::new("/run/notify")),
        ..CTX
    };
    run_to_end(&p, &ctx).unwrap();
    drop(write);
    let mut text = String::new();
    fs::File::from(read).read_to_string(&mut text).unwrap();
    let expected = "PATH=/usr/bin:/bin\nHOME=/superd\nA=file\nB=config\n\
            NOTIFY_SOCKET=/run/notify\nSERVICE=caddy\nSUPERD_INSTANCE=c-1\n";
    assert_eq!(text, expected);
}

#[test]
fn what_was_meant_for_superd_is_not_inherited() {
    for name in ["LD_PRELOAD", "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"] {
        assert!(!is_inherited(name.as_bytes()), "{name}");
    }
    assert!(!is_inherited(b"SUPERD_INSTANCE"));
    assert!(is_inherited(b"PATH") && is_inherited(b"LD_LIBRARY_PATH"));
}

#[test]
fn no_two_instances_have_the_same_mark() {
    let (mut a, mut b) = (Base::of_this_process(), Base::of_this_process());
    let marks = [
        a.new_cookie("/run/superd", "web"),
        a.new_cookie("/run/superd", "web"),
        b.new_cookie("/run/superd", "web"),
    ];
    assert!(marks[0].starts_with("/run/superd:web:"));
    assert!(marks[0] != marks[1] && marks[0] != marks[2]);
    assert!(a.environment.iter().any(|v| is_named(v, b"PATH")));
}

#[test]
fn environment_files_are_read_as_systemd_reads_them() {
    let parse = |text: &str| {
        let found = parse_environment(text.as_bytes()).map_err(|(l, w)| format!("{l}: {w}"))?;
        let show = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let lines = found
            .iter()
            .map(|(n, v)| format!("{}={}", show(n), show(v)));
        Ok::<_, String>(lines.collect::<Vec<_>>().join("|"))
    };
    let ok = |text: &str, is: &str| assert_eq!(parse(text).as_deref(), Ok(is), "{text:?}");
    ok("", "");
    ok("A=1\n# c\n; c\n\n  B = 2  \nC=", "A=1|B=2|C=");
    ok("A=a b \t\r\nB=x#y\r\n", "A=a b|B=x#y");
    ok("A=\"a \\\"b\\\\ \\n $x\" \n", "A=a \"b\\ \\n $x");
    ok("A='a \\ \"b\"  '\nB=x' y'\"z\"", "A=a \\ \"b\"  |B=x yz");
    ok("A=one \\\ntwo\nB=\\ x\\ ", "A=one two|B= x ");
    ok("A='l1\nl2'", "A=l1\nl2");
    let fails = |text: &str, why: &str| assert_eq!(parse(text), Err(why.to_owned()));
    fails("A=1\nB\n", "2: no `=`");
    fails("\nexport A=1", "2: not a variable name before `=`");
    fails("=1", "1: not a variable name before `=`");
    fails("A='x\n\n", "1: a quote is not closed");
    fails("A=a\0b", "1: contains a NUL byte");
}

#[test]
fn an_environment_file_that_cannot_be_trusted_is_refused() {
    let read = |path: &str| read_environment_file(path).map_err(|e| e.cause);
    let cause = |path: &str| read(path).unwrap_err();
    assert_eq!(read("-/nonexistent"), Ok(Vec::new()));
    assert_eq!(cause("/nonexistent"), "No such file or directory");
    assert_eq!(cause("/dev/null"), "not a regular file");
    let fifo = std::env::temp_dir().join(format!("superd-fifo-{}", std::process::id()));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(cause(&fifo.display().to_string()), "not a regular file");
    fs::remove_file(&fifo).unwrap();
    let long = Scratch::new("long", &"A=1\n".repeat(20_000));
    assert_eq!(cause(&long.name()), "longer than 64 KiB");
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: owner and mode of environment files: needs root");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let file = Scratch::new("trust", "A=1");
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o664)).unwrap();
    assert_eq!(cause(&file.name()), "others can write it (mode 0664)");
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(read(&file.name()).is_ok());
    std::os::unix::fs::chown(&file.0, Some(12_345), None).unwrap();
    assert_eq!(cause(&file.name()), "owned by uid 12345, not by root");
}

#[test]
fn garbage_in_an_environment_file_is_no_panic() {
    let alphabet = b"A=\"'\\\n# ;\0\xffx";
    let mut seed = 7_u64;
    for _ in 0..50_000 {
        let text: Vec<u8> = (0..seed % 40)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                alphabet[(seed >> 33) as usize % alphabet.len()]
            })
            .collect();
        seed = seed.wrapping_add(1);
        parse_environment(&text).ok();
    }
}
