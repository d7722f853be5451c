//! `wait-for`: a service is started when the interface, the path, the address and the time
//! that it needs are there. With real folders, and real interfaces of a network namespace
//! that the test makes and that goes with its superd.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::*;

#[test]
fn a_path_is_waited_for_wherever_its_folders_come_from() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        wait-for = { path = "$DIR/usb/www/index.html" }
        [service.next]
        command = [$TWIN:next, "obey"]
        requires = ["web"]
        "#,
    );
    let page = s.place.file("usb/www/index.html");
    let missing = format!("path {}", page.display());
    wait_until("it is known", || {
        s.status("web")["waiting_on"] == json!([missing])
    });
    assert_eq!(s.state("web"), "waiting");
    assert_eq!(s.status("next")["waiting_on"], json!(["web"]));
    assert!(s.ctl(&["status", "web"]).out.contains(&missing));
    // One folder after another; and one that comes whole, from elsewhere.
    fs::create_dir(s.place.file("usb")).unwrap();
    fs::create_dir(s.place.file("elsewhere")).unwrap();
    fs::write(s.place.file("elsewhere/index.html"), "").unwrap();
    s.ok(&["status"]);
    assert_eq!(s.record("web").count("start"), 0);
    fs::rename(s.place.file("elsewhere"), s.place.file("usb/www")).unwrap();
    s.wait_record("web", "start", 1);
    s.wait_record("next", "start", 1);
    // What goes later is no concern of the one that runs, but of the next start.
    fs::remove_file(&page).unwrap();
    wait_until("both are up", || s.state("next") == "up");
    s.ok(&["restart", "--no-wait", "web"]);
    s.wait_state("web", "waiting");
    fs::write(&page, "").unwrap();
    s.wait_record("web", "start", 2);
    s.end();
}

#[test]
fn a_wait_outlives_superd() {
    let s = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "obey"]
        wait-for = { path = "$DIR/gate" }
        "#,
    );
    let waits = |s: &Superd| {
        wait_until("it waits", || {
            s.status("web")["waiting_on"].to_string().contains("gate")
        });
    };
    waits(&s);
    let s = s.succeed();
    waits(&s);
    s.ok(&["upgrade"]);
    waits(&s);
    assert_eq!(s.record("web").count("start"), 0);
    fs::write(s.place.file("gate"), "").unwrap();
    s.wait_record("web", "start", 1);
    s.end();
}

#[test]
fn when_the_time_is_up_it_starts_all_the_same_or_has_failed() {
    let s = Superd::start(
        r#"
        [service.bold]
        command = [$TWIN:bold, "obey"]
        wait-for = { path = "$DIR/gate", timeout = "100ms", then = "start" }
        [service.timid]
        command = [$TWIN:timid, "obey"]
        wait-for = { path = "$DIR/gate", timeout = "100ms" }
        restart = "never"
        autostart = false
        "#,
    );
    s.wait_record("bold", "start", 1);
    let said = s.ctl(&["start", "timid"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("not there in time"), "{said:?}");
    assert_eq!(s.state("timid"), "failed");
    assert_eq!(s.record("timid").count("start"), 0);
    let log = s.place.log();
    assert!(log.contains(": started all the same"), "{log}");
    assert!(log.contains(": not started"), "{log}");
    // A stop and a reload end a wait as well.
    s.ok(&["start", "--no-wait", "timid"]);
    s.ok(&["stop", "timid"]);
    assert_eq!(s.state("timid"), "down");
    s.end();
}

#[test]
fn a_synchronised_clock_is_what_the_kernel_says() {
    let s = Superd::start(
        r#"
        [service.tls]
        command = [$TWIN:tls, "obey"]
        wait-for = { time = "synced" }
        "#,
    );
    // SAFETY: a timex of zeroes changes nothing.
    let is_synced = unsafe {
        let mut state: libc::timex = std::mem::zeroed();
        libc::adjtimex(&mut state) >= 0 && state.status & libc::STA_UNSYNC == 0
    };
    match is_synced {
        true => drop(s.wait_record("tls", "start", 1)),
        false => {
            wait_until("it is known", || {
                s.status("tls")["waiting_on"] == json!(["synchronised time"])
            });
            assert_eq!(s.record("tls").count("start"), 0);
        }
    }
    s.end();
}

fn net(s: &Superd, args: &[&str]) {
    let pid = s.pid.to_string();
    let said = run(Command::new("nsenter")
        .args(["-t", &pid, "-n", "ip"])
        .args(args));
    assert_eq!(said.code, 0, "{args:?}: {said:?}");
}

#[test]
fn an_interface_and_an_address_are_waited_for_at_no_cost() {
    let name = "an_interface_and_an_address_are_waited_for_at_no_cost";
    let tools = ["unshare", "nsenter", "ip"];
    if !root_or_skip(name) || !tools.iter().all(|t| program_or_skip(name, t)) {
        return;
    }
    alone(|| {
        let place = Place::new();
        place.configure(
            Flavour::NoCgroups,
            r#"
            [service.link]
            command = [$TWIN:link, "obey"]
            wait-for = { interface = "lo" }
            [service.address]
            command = [$TWIN:address, "obey"]
            wait-for = { address = "10.98.7.6" }
            [service.both]
            command = [$TWIN:both, "obey"]
            wait-for = { interface = "lo", address = "10.98.7.6", path = "$DIR/gate" }
            "#,
        );
        let mut args: Vec<String> = vec!["unshare".into(), "--net".into()];
        args.extend(place.superd_args());
        let command = place.command(&args);
        let s = Superd::launch(place, command);
        wait_until("all wait", || {
            let on = |name: &str| s.status(name)["waiting_on"].clone();
            on("link") == json!(["interface lo"])
                && on("address") == json!(["address 10.98.7.6"])
                && on("both").as_array().is_some_and(|a| a.len() == 3)
        });
        let switches = || -> u64 {
            let field = |key: &str| -> u64 { status_field(s.pid, key).unwrap().parse().unwrap() };
            field("voluntary_ctxt_switches") + field("nonvoluntary_ctxt_switches")
        };
        let mut last = switches();
        wait_until("superd sleeps", || {
            std::thread::sleep(Duration::from_millis(200));
            let now = switches();
            std::mem::replace(&mut last, now) == now
        });
        // Time has to pass here: that nothing happens in it is the claim.
        std::thread::sleep(Duration::from_secs(3));
        let woken = switches() - last;
        tell(&format!(
            "three services that wait, 3 s: {woken} context switches"
        ));
        assert_eq!(woken, 0);

        net(&s, &["link", "set", "lo", "up"]);
        s.wait_record("link", "start", 1);
        assert_eq!(
            s.status("address")["waiting_on"],
            json!(["address 10.98.7.6"])
        );
        fs::write(s.place.file("gate"), "").unwrap();
        wait_until("the path is seen", || {
            s.status("both")["waiting_on"] == json!(["address 10.98.7.6"])
        });
        // More messages than its socket holds: some are lost, and nothing is missed.
        s.signal(libc::SIGSTOP);
        let batch = s.place.file("batch");
        let one = "address add 10.1.2.3/32 dev lo\naddress del 10.1.2.3/32 dev lo\n";
        fs::write(&batch, one.repeat(1000)).unwrap();
        net(&s, &["-batch", batch.to_str().unwrap()]);
        net(&s, &["address", "add", "10.98.7.6/32", "dev", "lo"]);
        let sockets = fs::read_to_string(format!("/proc/{}/net/netlink", s.pid)).unwrap();
        let drops = |line: &str| -> u64 {
            let column = line.split_whitespace().nth(8);
            column.and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        let lost: u64 = sockets.lines().map(drops).sum();
        assert!(lost > 0, "the socket held all of it:\n{sockets}");
        s.signal(libc::SIGCONT);
        s.wait_record("address", "start", 1);
        s.wait_record("both", "start", 1);
        // What goes later does not concern who runs.
        net(&s, &["link", "set", "lo", "down"]);
        wait_until("all are up", || s.state("both") == "up");
        s.assert_starts("link", 1);
        s.end();
    });
}
