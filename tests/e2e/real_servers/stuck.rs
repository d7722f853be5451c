//! A Go program that hangs in its own clean-up says where, before it is killed.

use super::*;

#[test]
fn quit_makes_a_stuck_go_program_say_where_it_hangs() {
    let name = "quit_makes_a_stuck_go_program_say_where_it_hangs";
    let Some(stuck) = server_or_skip(name, "stuck") else {
        return;
    };
    let s = Superd::start(&format!(
        r#"
        [service.stuck]
        command = [{stuck:?}]
        stop = [{{ signal = "TERM", wait = "100ms" }}, {{ signal = "QUIT", wait = "2s" }}]
        "#
    ));
    wait_until("it is ready", || s.place.log().contains("stuck | ready"));
    s.ctl(&["stop", "stuck"]);
    let end = s.last_end("stuck");
    assert_eq!(
        end["exit"],
        json!({"code": 2}),
        "by QUIT, not by KILL: {end}"
    );
    assert_eq!(end["steps"].as_array().unwrap().len(), 2, "{end}");
    assert_ne!(end["verdict"], "clean", "{end}");
    let dump = s.ok(&["logs", "-n", "1000", "stuck"]);
    for word in ["SIGQUIT: quit", "goroutine 1 ", "main.flushCache"] {
        assert!(dump.contains(word), "no {word}: {dump}");
    }
    let why = s.ok(&["why", "stuck"]);
    for word in [
        "TERM at",
        "still there after",
        "QUIT at",
        "status 2",
        "dump        go-dump: SIGQUIT: quit",
        "main.flushCache at ",
    ] {
        assert!(why.contains(word), "no {word}: {why}");
    }
    let file = || {
        std::fs::read_dir(s.place.file("crashes"))
            .ok()?
            .flatten()
            .next()
    };
    let file = wait_for("the report", || {
        file().filter(|f| f.path().extension().is_some_and(|e| e == "json"))
    });
    let text = std::fs::read_to_string(file.path()).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["dump"][0], "SIGQUIT: quit", "{report}");
    assert!(text.contains("main.flushCache"), "{text}");
    row(
        "our own Go program",
        "hangs on TERM; no goroutine dump by QUIT",
        "-",
        0,
        1,
        duration(&end["took"]),
    );
    s.end();
}
