//! `superd run`: one service in the foreground.

use std::process::{Child, Stdio};

use crate::support::*;

/// Starts `superd run` over the twin; `options` come before `--`.
fn wrap(place: &Place, options: &[&str], twin_args: &[&str]) -> Child {
    let mut args = vec![SUPERD.to_owned(), "run".to_owned()];
    args.extend(options.iter().map(|o| (*o).to_owned()));
    args.push("--".to_owned());
    args.push(twin().display().to_string());
    args.push("--record".to_owned());
    args.push(place.file("app.record").display().to_string());
    args.extend(twin_args.iter().map(|a| (*a).to_owned()));
    place
        .command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn nothing_left(place: &Place) {
    let left = place.processes();
    assert!(left.is_empty(), "{}", describe(&left));
}

#[test]
fn the_exit_status_is_the_services() {
    for (args, code) in [
        (&["exit", "0"][..], 0),
        (&["exit", "42"], 42),
        (&["crash", "SEGV"], 128 + libc::SIGSEGV),
        (&["crash", "KILL"], 128 + libc::SIGKILL),
    ] {
        let place = Place::new();
        let said = finish(wrap(&place, &[], args));
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        nothing_left(&place);
    }
}

#[test]
fn a_command_that_does_not_exist_is_said_with_the_status_of_a_shell() {
    let place = Place::new();
    let args: Vec<String> = [SUPERD, "run", "--", "/no/such/program"]
        .map(str::to_owned)
        .to_vec();
    let mut command = place.command(&args);
    let said = run(&mut command);
    assert_eq!(said.code, 127, "{said:?}");
    let line = "superd: program: executing \"/no/such/program\": No such file or directory\n";
    assert_eq!(said.err, line);
    // It is there and cannot be executed: what a shell says, too.
    let plain = place.file("plain");
    std::fs::write(&plain, "no program").unwrap();
    let path = plain.display().to_string();
    let args: Vec<String> = [SUPERD, "run", "--", &path].map(str::to_owned).to_vec();
    let said = run(&mut place.command(&args));
    assert_eq!(said.code, 126, "{said:?}");
    assert!(said.err.contains(&path), "{said:?}");
}

#[test]
fn any_number_of_term_and_int_is_one_stop() {
    let place = Place::new();
    let gate = place.file("gate");
    let child = wrap(
        &place,
        &["--stop-timeout", "10m"],
        &["slow-stop", "100", "--gate", gate.to_str().unwrap()],
    );
    let pid = child.id() as i32;
    place.wait_record("app", "start", 1);
    for n in 0..2000 {
        kill(
            pid,
            if n % 2 == 0 {
                libc::SIGTERM
            } else {
                libc::SIGINT
            },
        );
    }
    place.wait_record("app", "signal TERM", 1);
    for _ in 0..2000 {
        kill(pid, libc::SIGTERM);
    }
    std::fs::write(gate, "").unwrap();
    let said = finish(child);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(place.record("app").count("signal"), 1);
    nothing_left(&place);
}

#[test]
fn other_signals_are_passed_on() {
    let place = Place::new();
    let child = wrap(&place, &[], &["ignore"]);
    let pid = child.id() as i32;
    place.wait_record("app", "start", 1);
    for (signal, name) in [
        (libc::SIGHUP, "HUP"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGUSR2, "USR2"),
        (libc::SIGQUIT, "QUIT"),
    ] {
        kill(pid, signal);
        place.wait_record("app", &format!("signal {name}"), 1);
    }
    let main = place.record("app").first("start").pid;
    kill(main, libc::SIGKILL);
    assert_eq!(finish(child).code, 128 + libc::SIGKILL);
    assert_eq!(place.record("app").count("signal"), 4);
}

#[test]
fn below_nohup_a_terminal_that_closes_changes_nothing() {
    let place = Place::new();
    let mut command = place.command(&[
        "nohup".to_owned(),
        SUPERD.to_owned(),
        "run".to_owned(),
        "--".to_owned(),
        twin().display().to_string(),
        "--record".to_owned(),
        place.file("app.record").display().to_string(),
        "ignore".to_owned(),
    ]);
    let child = command.spawn().unwrap();
    let pid = child.id() as i32;
    place.wait_record("app", "start", 1);
    kill(pid, libc::SIGHUP);
    // It comes after HUP, and both are passed on in one turn or in that order.
    kill(pid, libc::SIGUSR1);
    place.wait_record("app", "signal USR1", 1);
    assert_eq!(place.record("app").count("signal"), 1);
    kill(place.record("app").first("start").pid, libc::SIGKILL);
    assert_eq!(finish(child).code, 128 + libc::SIGKILL);
}

#[test]
fn a_killed_superd_takes_its_command_along() {
    let place = Place::new();
    let child = wrap(&place, &[], &["ignore"]);
    let start = place.wait_record("app", "start", 1);
    kill(child.id() as i32, libc::SIGKILL);
    assert_eq!(finish(child).code, 128 + libc::SIGKILL);
    let main = start.first("start").pid;
    wait_until("the command is gone", || !place.processes().contains(&main));
}

#[test]
fn what_is_left_is_dead_before_it_exits() {
    for args in [&["tree", "--stubborn"][..], &["wrapper"], &["leaver"]] {
        let place = Place::new();
        let child = wrap(&place, &[], args);
        let pid = child.id() as i32;
        place.wait_record("app", "start", 1);
        place.wait_record("app", "begun", if args[0] == "tree" { 3 } else { 1 });
        kill(pid, libc::SIGTERM);
        let said = finish(child);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        nothing_left(&place);
    }
}

#[test]
fn who_does_not_stop_is_killed_after_its_time() {
    let place = Place::new();
    let child = wrap(&place, &["--stop-timeout", "50ms"], &["ignore"]);
    place.wait_record("app", "start", 1);
    kill(child.id() as i32, libc::SIGTERM);
    assert_eq!(finish(child).code, 128 + libc::SIGKILL);
    assert_eq!(place.record("app").count("signal TERM"), 1);
    nothing_left(&place);
}

#[test]
fn a_stop_schedule_can_be_given() {
    let place = Place::new();
    let address = format!("{}:4222", place.host);
    let child = wrap(
        &place,
        &["--stop", "nats-lame-duck", "--name", "nats"],
        &["twohandlers", "--listen", &address, "--panic", "100"],
    );
    place.wait_record("app", "start", 1);
    kill(child.id() as i32, libc::SIGTERM);
    let said = finish(child);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(place.record("app").count("cleanup"), 1);
    assert!(said.out.contains("app cleanup done"), "{said:?}");
}

#[test]
fn it_starts_again_when_it_is_told_to() {
    let place = Place::new();
    let child = wrap(
        &place,
        &["--restart", "on-failure"],
        &["exit", "1", "--first", "2"],
    );
    place.wait_record("app", "start", 3);
    kill(child.id() as i32, libc::SIGTERM);
    assert_eq!(finish(child).code, 0);
    assert_eq!(place.record("app").count("signal TERM"), 1);
}

#[test]
fn output_comes_through() {
    let place = Place::new();
    let said = {
        let child = wrap(&place, &[], &["lines", "3"]);
        place.wait_record("app", "start", 1);
        kill(child.id() as i32, libc::SIGTERM);
        finish(child)
    };
    assert_eq!(said.out, "line 1\nline 2\nline 3\n");
}

#[test]
fn the_callers_file_descriptors_and_dispositions_stay_with_the_caller() {
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    let mut args = vec![SUPERD.to_owned(), "run".to_owned(), "--".to_owned()];
    args.push(twin().display().to_string());
    args.push("--record".to_owned());
    args.push(place.file("app.record").display().to_string());
    args.push("show".to_owned());
    let mut command = place.command(&args);
    // SAFETY: both are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::dup2(2, 900);
            libc::signal(libc::SIGTERM, libc::SIG_IGN);
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            Ok(())
        });
    }
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let record = place.wait_record("app", "shown", 1);
    assert_eq!(record.count("show fd"), 3, "{:?}", record.rest("show fd"));
    assert_eq!(record.rest("show ignored"), ["0"]);
    assert_eq!(record.rest("show blocked"), ["0"]);
    kill(child.id() as i32, libc::SIGTERM);
    assert_eq!(finish(child).code, 0);
}

#[test]
fn a_message_that_the_limit_of_file_sizes_forbids_ends_nothing() {
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    let args = [SUPERD, "run", "--", "/no/such/program"].map(str::to_owned);
    let mut command = place.command(&args);
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: setrlimit(2) is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::setrlimit(libc::RLIMIT_FSIZE, &none);
            Ok(())
        });
    }
    // Its messages go to a file.
    let status = command.status().unwrap();
    assert_eq!(status.code(), Some(127), "{status:?}");
    assert_eq!(place.log(), "");
    nothing_left(&place);
}

#[test]
fn a_signal_that_the_stop_sends_begins_that_stop_and_comes_once() {
    let place = Place::new();
    let child = wrap(&place, &["--stop-signal", "QUIT"], &["slow-stop", "300"]);
    place.wait_record("app", "start", 1);
    let superd = child.id() as i32;
    kill(superd, libc::SIGQUIT);
    place.wait_record("app", "signal QUIT", 1);
    kill(superd, libc::SIGQUIT);
    kill(superd, libc::SIGTERM);
    let said = finish(child);
    assert_eq!(said.code, 0, "{said:?}");
    let record = place.record("app");
    assert_eq!(record.count("signal"), 1, "{:?}", record.rest("signal"));
    nothing_left(&place);
}
