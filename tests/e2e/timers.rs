//! `every` and `at`: oneshots that are run again and again.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::*;

#[test]
fn a_oneshot_is_run_by_its_timer_and_by_that_of_the_next_superd() {
    let s = Superd::start(
        r#"
        [service.job]
        command = [$TWIN:job, "exit", "0"]
        type = "oneshot"
        every = "1s"
        [service.slow]
        command = ["/bin/sh", "-c", "echo run >> $DIR/said; while ! test -e $DIR/gate; do sleep 0.05; done"]
        type = "oneshot"
        every = "1s"
        [service.rare]
        command = [$TWIN:rare, "exit", "0"]
        type = "oneshot"
        every = "6h"
        "#,
    );
    s.wait_record("job", "start", 3);
    let told = s.ok(&["why", "job"]);
    assert!(told.contains("its timer"), "{told}");
    s.wait_state("rare", "done");
    let left = s.status("rare")["next_run_ms"].as_u64().unwrap();
    assert!(
        (6 * 3_600_000 - 600_000..=6 * 3_600_000).contains(&left),
        "{left}"
    );
    assert!(s.ctl(&["status", "rare"]).out.contains("next run"));
    // One that is under way is not doubled, and that is told once.
    wait_until("it is told", || {
        s.ctl(&["why", "slow"]).out.contains("left out")
    });
    assert_eq!(fs::read_to_string(s.place.file("said")).unwrap(), "run\n");
    // The next superd knows when it is due: not at once, and not six hours from now.
    let s = s.succeed();
    let later = s.status("rare")["next_run_ms"].as_u64().unwrap();
    assert!(later < left, "{later} after {left}");
    let runs = s.record("job").count("start");
    s.wait_record("job", "start", runs + 2);
    s.ok(&["upgrade"]);
    let runs = s.record("job").count("start");
    s.wait_record("job", "start", runs + 2);
    assert!(s.status("rare")["next_run_ms"].as_u64().unwrap() < later);
    s.assert_starts("rare", 1);
    assert_eq!(fs::read_to_string(s.place.file("said")).unwrap(), "run\n");
    // A stop ends it.
    s.ok(&["stop", "job", "rare"]);
    assert_eq!(s.status("rare")["next_run_ms"], json!(null));
    fs::write(s.place.file("gate"), "").unwrap();
    s.end();
}

#[test]
fn what_was_missed_is_run_once() {
    let s = Superd::start(
        r#"
        [service.job]
        command = [$TWIN:job, "exit", "0"]
        type = "oneshot"
        every = "2s"
        "#,
    );
    s.wait_record("job", "start", 1);
    s.wait_state("job", "done");
    let place = s.abandon();
    // Time has to pass while there is no superd: two runs are due meanwhile.
    std::thread::sleep(Duration::from_millis(4_500));
    assert_eq!(place.record("job").count("start"), 1);
    let s = place.resume();
    s.wait_record("job", "start", 2);
    // And then it goes on in step.
    s.wait_state("job", "done");
    let left = s.status("job")["next_run_ms"].as_u64();
    assert!(left.is_none_or(|ms| ms <= 2_000), "{left:?}");
    s.wait_record("job", "start", 3);
    s.end();
}

/// A superd whose local time is this far from UTC.
fn in_zone(zone: &str, toml: &str) -> Superd {
    let place = Place::new();
    place.configure(Flavour::NoCgroups, toml);
    let mut command = place.command(&place.superd_args());
    command.env("TZ", zone);
    Superd::launch(place, command)
}

/// `HH:MM:SS` of UTC, so many seconds from now.
fn time_of_day(ahead: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let s = (now.as_secs() as i64 + ahead).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

fn next_run(s: &Superd, service: &str) -> i64 {
    s.status(service)["next_run_ms"].as_i64().unwrap()
}

const HOUR: i64 = 3_600_000;

#[test]
fn a_oneshot_is_run_at_its_time_of_day_and_not_at_the_start() {
    let (soon, past) = (time_of_day(4), time_of_day(-3600));
    let job = |at: &str| format!("type = \"oneshot\"\nat = {at:?}\n");
    let s = in_zone(
        "UTC0",
        &format!(
            "[service.soon]\ncommand = [$TWIN:soon, \"exit\", \"0\"]\n{}\
             [service.past]\ncommand = [$TWIN:past, \"exit\", \"0\"]\n{}",
            job(&soon),
            job(&past)
        ),
    );
    assert_eq!(s.state("past"), "scheduled");
    let left = next_run(&s, "past");
    assert!((22 * HOUR..23 * HOUR).contains(&left), "{left}");
    assert!(s.ctl(&["status", "past"]).out.contains("next run"));
    // A start of everything is no reason to run it.
    s.ok(&["start", "--all"]);
    s.wait_record("soon", "start", 1);
    s.wait_state("soon", "done");
    assert!(s.ctl(&["why", "soon"]).out.contains("its timer"));
    assert!(next_run(&s, "soon") > 23 * HOUR);
    // The next superd does not run it once more, nor does one that it becomes.
    let s = {
        let place = s.abandon();
        let mut command = place.command(&place.superd_args());
        command.env("TZ", "UTC0");
        Superd::launch(place, command)
    };
    s.ok(&["upgrade"]);
    assert!(next_run(&s, "soon") > 23 * HOUR);
    assert_eq!(
        (s.state("soon"), s.state("past")),
        ("done".into(), "scheduled".into())
    );
    s.assert_starts("soon", 1);
    // Who names it means it.
    s.ok(&["start", "past"]);
    s.wait_record("past", "start", 1);
    s.ok(&["stop", "past"]);
    assert_eq!(s.status("past")["next_run_ms"], json!(null));
    s.end();
}

#[test]
fn what_was_due_while_superd_was_away_is_run_once() {
    let s = in_zone(
        "UTC0",
        &format!(
            "[service.job]\ncommand = [$TWIN:job, \"exit\", \"0\"]\ntype = \"oneshot\"\nat = {:?}\n",
            time_of_day(3)
        ),
    );
    let place = s.abandon();
    // Time has to pass while there is no superd.
    std::thread::sleep(Duration::from_millis(4_000));
    assert_eq!(place.record("job").count("start"), 0);
    let mut command = place.command(&place.superd_args());
    command.env("TZ", "UTC0");
    let s = Superd::launch(place, command);
    s.wait_record("job", "start", 1);
    s.wait_state("job", "done");
    assert!(next_run(&s, "job") > 23 * HOUR);
    s.assert_starts("job", 1);
    s.end();
}

#[test]
fn the_time_of_day_is_that_of_the_time_zone() {
    let job = "[service.job]\ncommand = [$TWIN:job, \"exit\", \"0\"]\ntype = \"oneshot\"\n";
    let at = format!("{job}at = {:?}\n", time_of_day(-3600));
    // Two hours behind, so it is an hour until then.
    let s = in_zone("<-02>2", &at);
    let left = next_run(&s, "job");
    assert!((HOUR - 120_000..=HOUR).contains(&left), "{left}");
    s.end();
    let s = in_zone("nonsense", &at);
    wait_until("it is told", || {
        let log = s.place.log();
        log.contains("the time zone is not understood: TZ=nonsense; UTC is used\n")
    });
    assert!(next_run(&s, "job") > 22 * HOUR, "UTC then");
    s.end();
    let s = in_zone(&"nonsense".repeat(100), &at);
    wait_until("it is told in short", || {
        let log = s.place.log();
        log.contains(&format!("TZ={}n; UTC is used", "nonsense".repeat(12)))
    });
    s.end();
}

/// Only where the clock of the machine may be set: in tests/vm.
#[test]
fn a_wall_clock_that_jumps_by_fifty_years_hurts_nobody() {
    const NAME: &str = "timers::a_wall_clock_that_jumps_by_fifty_years_hurts_nobody";
    if std::env::var_os("SUPERD_TEST_MAY_SET_CLOCK").is_none() {
        return skip(NAME, "sets the clock of the machine: only in tests/vm");
    }
    let set = |unix: i64| {
        let mut time = std::mem::MaybeUninit::<libc::timespec>::zeroed();
        // SAFETY: all zeroes is a valid timespec; clock_settime(2) gets a pointer to it.
        let done = unsafe {
            (*time.as_mut_ptr()).tv_sec = unix;
            libc::clock_settime(libc::CLOCK_REALTIME, time.as_ptr())
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    };
    let fifty_years = 50 * 365 * 86_400 + 12 * 86_400;
    set(12 * 3600);
    let s = in_zone(
        "UTC0",
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        [service.often]
        command = [$TWIN:often, "exit", "0"]
        type = "oneshot"
        every = "6h"
        [service.nightly]
        command = [$TWIN:nightly, "exit", "0"]
        type = "oneshot"
        at = "03:30"
        "#,
    );
    s.wait_state("web", "up");
    s.wait_state("often", "done");
    let web = s.pid_of("web");
    assert!((15 * HOUR..16 * HOUR).contains(&next_run(&s, "nightly")));
    // Forward, to four o'clock: that is noticed, and half past three never was.
    set(fifty_years + 4 * 3600);
    wait_until("it is noticed", || next_run(&s, "nightly") > 23 * HOUR);
    // And back to five seconds before.
    set(3 * 3600 + 1800 - 5);
    s.wait_record("nightly", "start", 1);
    s.wait_state("nightly", "done");
    assert!(next_run(&s, "nightly") > 23 * HOUR);
    // Once more over the same moment: it is not run again.
    set(3 * 3600 + 1800 - 5);
    wait_until("it is noticed", || next_run(&s, "nightly") > 24 * HOUR);
    set(fifty_years);
    s.assert_starts("nightly", 1);
    s.assert_starts("often", 1);
    assert_eq!((s.state("web"), s.pid_of("web")), ("up".into(), web));
    assert!((5 * HOUR..=6 * HOUR).contains(&next_run(&s, "often")));
    s.ok(&["restart", "web"]);
    s.end();
}
