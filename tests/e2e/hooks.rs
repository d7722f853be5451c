//! Hooks: each once, at its time, told what has happened; and none that hangs, fails or leaves
//! something behind is in anybody's way.

use std::fs;

use crate::support::*;

/// What a hook writes down of itself.
const NOTE: &str = "echo \"$HOOK code=$EXIT_CODE status=$EXIT_STATUS result=$SERVICE_RESULT \
                    main=${MAINPID:+yes} name=$SERVICE\" >> $DIR/hooks";

/// A key with a hook that is noted and then does this.
fn hook(key: &str, then: &str) -> String {
    let script = format!("{NOTE}; {then}").replace('"', "\\\"");
    format!("{key} = [\"/bin/sh\", \"-c\", \"{script}\"]\n")
}

fn all() -> String {
    let keys = [
        "pre-start",
        "post-start",
        "pre-stop",
        "post-stop",
        "on-crash",
    ];
    keys.map(|key| hook(key, "true")).concat()
}

fn web(hooks: &str) -> String {
    format!("[service.web]\ncommand = [$TWIN:web, \"obey\"]\n{hooks}")
}

/// What hooks have written down.
fn noted(s: &Superd) -> Vec<String> {
    let text = fs::read_to_string(s.place.file("hooks")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn wait_noted(s: &Superd, n: usize) -> Vec<String> {
    wait_for(&format!("{n} hooks"), || {
        let noted = noted(s);
        (noted.len() >= n).then_some(noted)
    })
}

fn names(noted: &[String]) -> Vec<&str> {
    let name = |l: &String| -> usize { l.find(' ').unwrap_or(l.len()) };
    noted.iter().map(|l| &l[..name(l)]).collect()
}

/// Everything that runs here besides superd.
fn others(s: &Superd) -> Vec<i32> {
    let all = s.place.processes().into_iter();
    all.filter(|pid| *pid != s.pid).collect()
}

in_both_flavours! {
    fn each_hook_is_run_at_its_time_and_told_what_happened(flavour: Flavour) {
        let s = Superd::start_in(flavour, &web(&format!("restart-delay = \"1h\"\nmax-delay = \"1h\"\n{}", all())));
        s.wait_state("web", "up");
        let up = wait_noted(&s, 2);
        assert_eq!(up[0], "pre-start code= status= result= main= name=web");
        assert_eq!(up[1], "post-start code= status= result= main=yes name=web");
        s.ok(&["stop", "web"]);
        let down = noted(&s);
        let stop = [
            "pre-stop code= status= result=success main=yes name=web",
            "post-stop code=exited status=0 result=success main= name=web",
        ];
        assert_eq!(down[2..], stop, "{down:?}");
        assert_eq!(others(&s), Vec::<i32>::new());
        let why = s.ok(&["why", "web"]);
        assert!(why.contains("pre-stop /bin/sh at"), "{why}");
        assert!(why.contains("post-stop /bin/sh: done after"), "{why}");

        s.ok(&["start", "web"]);
        wait_noted(&s, 6);
        kill(s.pid_of("web"), libc::SIGKILL);
        // Down, and up again: a crash is followed by the next start.
        let crash = wait_noted(&s, 10);
        let after = [
            "on-crash code=killed status=KILL result=signal main= name=web",
            "post-stop code=killed status=KILL result=signal main= name=web",
            "pre-start code= status= result= main= name=web",
            "post-start code= status= result= main=yes name=web",
        ];
        assert_eq!(crash[6..], after, "{crash:?}");
        s.end();
    }

    fn what_a_hook_leaves_behind_is_dead_before_anybody_goes_on(flavour: Flavour) {
        let litter = "(setsid sleep 3000 & sleep 3000 &) ; true";
        let hooks = hook("pre-start", litter) + &hook("pre-stop", litter)
            + &hook("post-stop", litter) + &hook("post-start", litter);
        let s = Superd::start_in(flavour, &web(&hooks));
        s.wait_state("web", "up");
        s.wait_record("web", "start", 1);
        wait_noted(&s, 2);
        wait_until("the main process is alone", || others(&s) == [s.pid_of("web")]);
        s.ok(&["stop", "web"]);
        assert_eq!(others(&s), Vec::<i32>::new());
        assert_eq!(names(&noted(&s)), ["pre-start", "post-start", "pre-stop", "post-stop"]);
        s.end();
    }

    fn a_hook_that_hangs_is_killed_with_its_tree_and_told(flavour: Flavour) {
        let hang = |key: &str| {
            let line = hook(key, "setsid sleep 3000 & trap '' TERM; sleep 3000");
            let run = line.trim_end().split_once(" = ").unwrap().1.to_owned();
            format!("{key} = {{ run = {run}, timeout = \"200ms\" }}\n")
        };
        let config = web(&format!("restart = \"never\"\nautostart = false\n{}{}", hang("pre-start"), hang("post-stop")));
        let s = Superd::start_in(flavour, &config);
        let said = s.ctl(&["start", "web"]);
        assert_eq!(said.code, 1, "{said:?}");
        let why = "pre-start \"/bin/sh\": did not end within 200 ms and was killed";
        assert!(said.err.contains(why), "{}", said.err);
        assert_eq!(names(&noted(&s)), ["pre-start", "post-stop"]);
        assert!(noted(&s)[1].contains("result=timeout"), "{:?}", noted(&s));
        assert_eq!(others(&s), Vec::<i32>::new());
        assert_eq!(s.record("web").count("start"), 0);
        let log = s.place.log();
        assert!(log.contains("web: post-stop /bin/sh did not end within"), "{log}");
        s.end();
    }

    fn a_stop_while_a_hook_runs_ends_it_and_starts_nothing(flavour: Flavour) {
        let hooks = hook("pre-start", "setsid sleep 3000 & sleep 3000") + &hook("post-stop", "true");
        let s = Superd::start_in(flavour, &web(&hooks));
        wait_noted(&s, 1);
        assert_eq!(s.state("web"), "starting");
        let status = s.ok(&["status", "web"]);
        assert!(status.contains("pre-start /bin/sh runs"), "{status}");
        s.ok(&["stop", "web"]);
        assert_eq!(s.state("web"), "down");
        assert_eq!(others(&s), Vec::<i32>::new());
        assert_eq!(s.record("web").count("start"), 0);
        assert_eq!(names(&noted(&s)), ["pre-start", "post-stop"]);
        assert_eq!(s.verdict("web"), "clean");
        s.end();
    }

    fn now_skips_pre_stop_and_ends_a_hook_that_is_under_way(flavour: Flavour) {
        let hooks = hook("pre-stop", "sleep 3000") + &hook("post-stop", "sleep 3000");
        let s = Superd::start_in(flavour, &web(&hooks));
        s.wait_state("web", "up");
        s.wait_record("web", "start", 1);
        s.ok(&["stop", "--now", "--no-wait", "web"]);
        assert_eq!(names(&wait_noted(&s, 1)), ["post-stop"]);
        s.ok(&["stop", "--now", "web"]);
        assert_eq!(s.state("web"), "down");
        assert_eq!(others(&s), Vec::<i32>::new());
        let end = s.last_end("web");
        assert_eq!(end["hooks"][0]["outcome"], "cut-short", "{end}");
        assert_eq!(names(&noted(&s)), ["post-stop"]);
        s.end();
    }

    fn a_successor_goes_on_with_a_hook_and_begins_none_twice(flavour: Flavour) {
        let place = Place::new();
        for gate in ["before", "after"] {
            nix::unistd::mkfifo(&place.file(gate), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let hooks = hook("pre-start", "read x < $DIR/before")
            + &hook("post-stop", "read x < $DIR/after")
            // A kernel that does not tell how another's child ended makes the start fail.
            + "restart-delay = \"10ms\"\n";
        place.configure(flavour, &web(&hooks));
        let s = place.resume();
        wait_noted(&s, 1);
        let s = s.succeed();
        assert_eq!(s.state("web"), "starting");
        assert_eq!(noted(&s).len(), 1);
        fs::write(s.place.file("before"), "x\n").unwrap();
        let knows = wait_for("its end", || {
            let went_on = s.state("web") == "up";
            let failed = noted(&s).len() > 1;
            (went_on || failed).then_some(went_on)
        });
        if !knows {
            // Each failed attempt has its post-stop, and the next one goes well.
            fs::write(s.place.file("after"), "x\n").unwrap();
            wait_noted(&s, 3);
            fs::write(s.place.file("before"), "x\n").unwrap();
        }
        s.wait_record("web", "start", 1);
        s.wait_state("web", "up");
        let before = noted(&s).len();
        s.ok(&["stop", "--no-wait", "web"]);
        wait_noted(&s, before + 1);
        let s = s.succeed();
        assert_eq!(s.state("web"), "sweeping");
        fs::write(s.place.file("after"), "x\n").unwrap();
        s.wait_state("web", "down");
        assert_eq!(noted(&s).len(), before + 1, "{:?}", noted(&s));
        assert_eq!(others(&s), Vec::<i32>::new());
        s.end();
    }

    fn how_a_hook_ended_is_known_before_its_new_parent_reaps_it(flavour: Flavour) {
        let place = Place::new();
        nix::unistd::mkfifo(&place.file("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        place.configure(flavour, &web(&hook("pre-start", "read x < $DIR/gate")));
        // What superd leaves behind goes to a process that reaps nobody.
        let script = place.expand("\"$@\" & echo $! > $DIR/pid; exec sleep 1000");
        let mut args = ["/bin/sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
        args.extend(place.superd_args());
        let mut command = place.command(&args);
        // SAFETY: prctl(2) is async-signal-safe.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, || {
                libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
                Ok(())
            });
        }
        let mut parent = command.spawn().unwrap();
        wait_until("the hook runs", || place.file("hooks").exists());
        let first = fs::read_to_string(place.file("pid")).unwrap();
        let first = first.trim().parse().unwrap();
        kill(first, libc::SIGKILL);
        wait_until("superd is gone", || state_of(first) == Some('Z'));
        let s = place.resume();
        assert_eq!(s.state("web"), "starting");
        fs::write(s.place.file("gate"), "x\n").unwrap();
        s.wait_record("web", "start", 1);
        s.wait_state("web", "up");
        assert_eq!(noted(&s).len(), 1);
        parent.kill().unwrap();
        parent.wait().unwrap();
        s.end();
    }

    fn superd_becomes_another_program_while_a_hook_runs(flavour: Flavour) {
        let place = Place::new();
        nix::unistd::mkfifo(&place.file("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        place.configure(flavour, &web(&hook("pre-start", "read x < $DIR/gate")));
        let s = place.resume();
        wait_noted(&s, 1);
        s.ok(&["upgrade"]);
        assert_eq!(s.state("web"), "starting");
        fs::write(s.place.file("gate"), "x\n").unwrap();
        s.wait_record("web", "start", 1);
        s.wait_state("web", "up");
        assert_eq!(noted(&s).len(), 1);
        s.end();
    }
}

#[test]
fn a_failed_pre_start_is_a_failed_start_and_the_policy_decides() {
    let s = Superd::start(&web(&format!(
        "restart-delay = \"10ms\"\n{}{}",
        hook("pre-start", "test -e $DIR/there || exit 3"),
        hook("post-stop", "true")
    )));
    let four = wait_noted(&s, 4);
    assert_eq!(
        names(&four[..4]),
        ["pre-start", "post-stop", "pre-start", "post-stop"]
    );
    assert!(
        four[1].contains("code= status= result=exit-code"),
        "{four:?}"
    );
    let said = s.ctl(&["start", "web"]);
    let why = "pre-start \"/bin/sh\": exited with status 3";
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains(why), "{}", said.err);
    assert_eq!(s.record("web").count("start"), 0);
    let why_web = s.ok(&["why", "web"]);
    assert!(why_web.contains(why), "{why_web}");
    fs::write(s.place.file("there"), "").unwrap();
    s.wait_state("web", "up");
    s.end();
}

#[test]
fn hooks_that_cannot_be_run_are_told_and_stop_no_stop() {
    let no = "[\"/nowhere/hook\"]";
    let s = Superd::start(&web(&format!(
        "post-start = {no}\npre-stop = {no}\npost-stop = {no}\n"
    )));
    s.wait_state("web", "up");
    s.wait_record("web", "start", 1);
    let line = |kind: &str, log: &str| {
        log.lines()
            .any(|l| l.contains(kind) && l.contains("executing \"/nowhere/hook\": No such file"))
    };
    // A stop would end it before that is known.
    wait_until("post-start is told", || line("post-start", &s.place.log()));
    s.ok(&["stop", "web"]);
    assert_eq!(s.verdict("web"), "clean");
    let log = s.place.log();
    for kind in ["post-start", "pre-stop", "post-stop"] {
        let told = line(kind, &log);
        assert!(told, "{kind}: {log}");
    }
    s.end();
}

#[test]
fn a_report_has_what_the_service_said_last_and_not_its_hooks() {
    let s = Superd::start(
        "[service.web]\nrestart = \"never\"\ncommand = [\"/bin/sh\", \"-c\", \"echo mine; kill -SEGV $$\"]\n\
         on-crash = [\"/bin/sh\", \"-c\", \"echo not mine\"]\n",
    );
    s.wait_state("web", "failed");
    let why = s.ok(&["why", "web"]);
    assert!(why.contains("mine"), "{why}");
    assert!(!why.contains("not mine"), "{why}");
    assert!(s.ok(&["logs", "web"]).contains("not mine"));
    s.end();
}

#[test]
fn a_pre_stop_that_hangs_does_not_make_a_stop_unbounded_or_unclean() {
    let s = Superd::start(&web(
        "pre-stop = { run = [\"/bin/sleep\", \"3000\"], timeout = \"100ms\" }\n",
    ));
    s.wait_state("web", "up");
    s.wait_record("web", "start", 1);
    s.ok(&["stop", "web"]);
    assert_eq!(s.verdict("web"), "clean");
    let why = s.ok(&["why", "web"]);
    assert!(why.contains("its time was up, it was killed"), "{why}");
    assert_eq!(others(&s), Vec::<i32>::new());
    s.end();
}

#[test]
fn a_shutdown_waits_for_no_hook_that_hangs() {
    let s = Superd::start(&format!(
        "{}\n[service.db]\ncommand = [$TWIN:db, \"obey\"]\n{}",
        web(&hook("pre-start", "sleep 3000")),
        "post-stop = { run = [\"/bin/sleep\", \"3000\"], timeout = \"100ms\" }\n"
    ));
    wait_noted(&s, 1);
    s.wait_record("db", "start", 1);
    s.wait_state("db", "up");
    s.end();
}

#[test]
fn the_plan_has_the_hooks() {
    let s = Superd::start(&web(
        "autostart = false\nstop = [{ signal = \"TERM\", wait = \"5s\" }]\nleftover-grace = \"2s\"\n\
         pre-stop = { run = [\"/bin/a\"], timeout = \"3s\" }\n\
         post-stop = { run = [\"/bin/b\"], timeout = \"4s\" }\n\
         on-crash = { run = [\"/bin/c\"], timeout = \"6s\" }\n",
    ));
    let plan = s.ok(&["plan"]);
    for text in [
        "pre-stop /bin/a",
        "post-stop /bin/b",
        "after a crash: on-crash /bin/c",
    ] {
        assert!(plan.contains(text), "{text}: {plan}");
    }
    // 3 + 5 + 2, two for the ports, 6 + 4, and one more.
    assert_eq!(s.ok(&["plan", "--max-stop-seconds"]).trim(), "23");
    s.end();
}

#[test]
fn a_hook_has_the_user_and_the_environment_of_its_service() {
    if !root_or_skip("a_hook_has_the_user_and_the_environment_of_its_service") {
        return;
    }
    let place = Place::new();
    let out = place.file("out");
    fs::create_dir(&out).unwrap();
    std::os::unix::fs::chown(&out, Some(65534), Some(65534)).unwrap();
    let id = "echo $(id -u) $COLOUR $HOOK > $DIR/out/$HOOK";
    let hooks = ["pre-start", "post-start", "pre-stop", "post-stop"]
        .map(|key| format!("{key} = [\"/bin/sh\", \"-c\", \"{id}\"]\n"))
        .concat();
    place.configure(
        Flavour::NoCgroups,
        &format!(
            "[service.web]\ncommand = [\"/bin/sleep\", \"3000\"]\nuser = \"nobody\"\n\
             environment = {{ COLOUR = \"red\" }}\n{hooks}"
        ),
    );
    let s = place.resume();
    s.wait_state("web", "up");
    wait_until("post-start", || out.join("post-start").exists());
    s.ok(&["stop", "web"]);
    for kind in ["pre-start", "post-start", "pre-stop", "post-stop"] {
        let text = fs::read_to_string(out.join(kind)).unwrap();
        assert_eq!(text.trim(), format!("65534 red {kind}"));
    }
    s.end();
}
