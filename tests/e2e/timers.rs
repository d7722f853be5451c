//! `every`: oneshots that are run again and again.

use std::fs;

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
    let left = s.status("rare")["retry_ms"].as_u64().unwrap();
    assert!(
        (6 * 3_600_000 - 600_000..=6 * 3_600_000).contains(&left),
        "{left}"
    );
    assert!(s.ctl(&["status", "rare"]).out.contains("next start"));
    // One that is under way is not doubled.
    assert_eq!(fs::read_to_string(s.place.file("said")).unwrap(), "run\n");
    // The next superd knows when it is due: not at once, and not six hours from now.
    let s = s.succeed();
    let later = s.status("rare")["retry_ms"].as_u64().unwrap();
    assert!(later < left, "{later} after {left}");
    let runs = s.record("job").count("start");
    s.wait_record("job", "start", runs + 2);
    s.ok(&["upgrade"]);
    let runs = s.record("job").count("start");
    s.wait_record("job", "start", runs + 2);
    assert!(s.status("rare")["retry_ms"].as_u64().unwrap() < later);
    assert_eq!(s.record("rare").count("start"), 1);
    assert_eq!(fs::read_to_string(s.place.file("said")).unwrap(), "run\n");
    // A stop ends it.
    s.ok(&["stop", "job", "rare"]);
    assert_eq!(s.status("rare")["retry_ms"], json!(null));
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
    let place = s.killed();
    // Time has to pass while there is no superd: two runs are due meanwhile.
    std::thread::sleep(std::time::Duration::from_millis(4_500));
    assert_eq!(place.record("job").count("start"), 1);
    let s = place.resume();
    s.wait_record("job", "start", 2);
    // And then it goes on in step.
    s.wait_state("job", "done");
    let left = s.status("job")["retry_ms"].as_u64();
    assert!(left.is_none_or(|ms| ms <= 2_000), "{left:?}");
    s.wait_record("job", "start", 3);
    s.end();
}
