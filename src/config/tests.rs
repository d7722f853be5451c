//! The configuration from the outside: what a file means, and what is said about a bad one.
//!
//! Long because it is mostly tables: a wrong setting, and the line it must yield.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::limits::LIMITS;
use super::load::{load_with, SERVICES_CAP};
use super::model::*;
use super::problem::SHOWN;
use super::*;
use crate::machine::event::Change;
use crate::machine::files::OnChange;
use crate::machine::health::Remedy;
use crate::machine::outlook::Then;
use crate::machine::ready::{Question, Ready, Sign};
use crate::machine::signal::Signal;
use crate::machine::spec::{Action, CrashLoop, Oneshot, Policy, Reload, To, Until};
use crate::machine::timer::Timer;
use crate::map::Map;

const MAIN: &str = "/etc/superd/superd.toml";

fn load_files(files: &[(&str, &str)]) -> Result<Config, Problems> {
    let mut memory: Map<PathBuf, Vec<u8>> = files
        .iter()
        .map(|(name, text)| {
            (
                Path::new("/etc/superd").join(name),
                text.as_bytes().to_vec(),
            )
        })
        .collect();
    load_with(Path::new(MAIN), &mut memory)
}

pub(super) fn load_text(text: &str) -> Result<Config, Problems> {
    load_files(&[("superd.toml", text)])
}

fn good(text: &str) -> Config {
    load_text(text).unwrap_or_else(|p| panic!("{p}"))
}

/// The problems of a text, without the name of the file.
fn bad(text: &str) -> Vec<String> {
    let problems = load_text(text).expect_err("no problem found");
    let strip = |l: String| {
        l.strip_prefix("/etc/superd/superd.toml:")
            .unwrap_or(&l)
            .to_owned()
    };
    problems.lines().into_iter().map(strip).collect()
}

/// The problems of keys of one service that is fine otherwise.
fn bad_service(keys: &str) -> String {
    let lines = bad(&format!("[service.x]\ncommand = [\"/bin/x\"]\n{keys}\n"));
    assert_eq!(lines.len(), 1, "{keys}: {lines:#?}");
    lines[0].clone()
}

fn service(keys: &str) -> ServiceDef {
    good(&format!("[service.x]\ncommand = [\"/bin/x\"]\n{keys}\n")).services["x"].clone()
}

/// The repository's own files, without regard to who may write a checkout.
pub(super) fn shipped() -> Map<PathBuf, Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc");
    let mut files = Map::new();
    for dir in [root.clone(), root.join("services.d")] {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            // The known faults are no configuration; `faults.rs` reads them.
            let is_other = path.ends_with("known-faults.toml");
            if path.extension().is_some_and(|e| e == "toml") && !is_other {
                let name = path.strip_prefix(&root).unwrap();
                files.insert(
                    Path::new("/etc/superd").join(name),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
    }
    files
}

#[test]
fn a_service_that_says_nothing_gets_the_defaults() {
    let config = good("[service.x]\ncommand = [\"/bin/x\"]");
    let x = &config.services["x"];
    assert_eq!(x.place, "/etc/superd/superd.toml:1:10");
    assert_eq!(x.program.umask, 0o22);
    assert!(x.program.notify && x.policy.autostart);
    assert_eq!(x.program.output, Output::Log);
    assert_eq!(x.policy.stop.steps.len(), 1);
    assert_eq!(
        x.policy.stop.steps[0].action,
        Action::Signal(Signal::TERM, To::Main)
    );
    assert_eq!(x.policy.stop.longest(), Duration::from_secs(17));
    let r = &x.policy.restart;
    assert_eq!(
        (r.policy, r.delay),
        (Policy::Always, Duration::from_millis(200))
    );
    assert_eq!(r.crash_loop.as_ref().map(|c| c.burst), Some(5));
    assert_eq!(config.daemon, Daemon::default());
    assert_eq!(config.files, [Path::new(MAIN)]);
}

#[test]
fn every_key_is_understood() {
    let x = service(
        r#"
        user = "nobody"
        group = "nogroup"
        groups = ["dialout"]
        umask = "077"
        nice = -5
        oom-score-adj = -500
        environment = { HOME = "/root", EMPTY = "" }
        environment-file = "-/etc/default/x"
        directory = "/srv"
        limits = { nofile = [1024, "unlimited"], core = 0, as = "64MiB" }
        notify = true
        output = "ring"
        autostart = false
        stop = [
            { run = ["/bin/pre", "a"], until = "done", wait = "1s" },
            { http = "POST http://localhost:2019/stop" },
            { signal = "USR2", until = "ports-closed", wait = "30s", settle = "200ms" },
            { signal = "SIGINT", to = "tree", until = "log=bye now", wait = "0s" },
        ]
        leftover-grace = "0s"
        restart = "on-failure"
        restart-delay = "1s"
        max-delay = "1m"
        stable = "1h"
        crash-loop = { burst = 3, retry = "1h" }
        success-exit = [143, 1, 1, "HUP"]
        reload = { signal = "HUP" }
        "#,
    );
    let p = &x.program;
    assert_eq!(p.user.as_deref(), Some("nobody"));
    assert_eq!(
        (p.umask, p.nice, p.oom_score_adj),
        (0o77, Some(-5), Some(-500))
    );
    assert_eq!(p.environment["HOME"], "/root");
    assert_eq!(p.environment_file.as_deref(), Some("-/etc/default/x"));
    let limits: Vec<_> = p.limits.iter().map(|l| (l.name, l.soft, l.hard)).collect();
    assert_eq!(
        limits,
        [
            ("as", 64 << 20, 64 << 20),
            ("core", 0, 0),
            ("nofile", 1024, u64::MAX)
        ]
    );
    let steps = &x.policy.stop.steps;
    assert_eq!(steps[0].until, Until::ActionEnded);
    assert_eq!(steps[1].wait, Duration::from_secs(15));
    assert_eq!(steps[2].settle, Duration::from_millis(200));
    assert_eq!(steps[3].until, Until::Log("bye now".into()));
    assert_eq!(steps[3].action, Action::Signal(Signal::INT, To::Tree));
    assert_eq!(x.policy.success_exit, [1, 143]);
    assert_eq!(x.policy.success_signal, [Signal::HUP]);
    assert_eq!(x.policy.reload, Some(Reload::Signal(Signal::HUP)));
    let retry = Duration::from_secs(3600);
    let within = Duration::from_secs(60);
    assert_eq!(
        x.policy.restart.crash_loop,
        Some(CrashLoop {
            burst: 3,
            within,
            retry
        })
    );
    let config = good(
        "[daemon]\nrun-dir = \"/run/s\"\nlog = \"none\"\ncontrol-group = \"a\"\n\
         status-group = \"b\"\nshutdown-deadline = \"1m\"\ncgroup = \"/sys/fs/cgroup/s\"\nring = \"4KiB\"",
    );
    assert_eq!(config.daemon.ring, 4096);
    assert_eq!(
        config.daemon.cgroup,
        CgroupUse::Below("/sys/fs/cgroup/s".into())
    );
}

#[test]
fn every_listed_key_is_read() {
    // A value of a type that no key takes: the key itself must be known and looked at.
    for key in keys::SERVICE {
        let said = bad(&format!("[service.x]\n{key} = 1979-05-27\n")).join("\n");
        assert!(
            said.contains("2:") && !said.contains("unknown key") && !said.contains("is known but"),
            "{key}: {said}"
        );
    }
    for key in keys::DAEMON {
        let said = bad(&format!("[daemon]\n{key} = 1979-05-27\n")).join("\n");
        assert!(
            said.contains("2:") && !said.contains("unknown key") && !said.contains("is known but"),
            "{key}: {said}"
        );
    }
    for key in keys::READY {
        let said = bad_service(&format!("ready = {{ {key} = 1979-05-27 }}"));
        assert!(!said.contains("unknown key"), "{key}: {said}");
        assert!(said.starts_with("3:"), "{key}: {said}");
    }
    for key in keys::HEALTH {
        let said = bad_service(&format!("health = {{ {key} = 1979-05-27 }}"));
        assert!(!said.contains("unknown key"), "{key}: {said}");
        assert!(said.starts_with("3:"), "{key}: {said}");
    }
    for key in keys::STEP {
        let said = bad_service(&format!("stop = [{{ {key} = 1979-05-27 }}]"));
        assert!(
            !said.contains("unknown key") && !said.contains("is known but"),
            "{key}: {said}"
        );
    }
}

fn ready(keys: &str) -> Option<Ready> {
    service(keys).policy.ready.map(|r| (*r).clone())
}

#[test]
fn readiness_is_read_in_each_of_its_forms() {
    let sign = |value: &str| ready(&format!("ready = {value}")).unwrap().sign;
    assert_eq!(ready(""), None);
    assert_eq!(ready("ready = false"), None);
    assert_eq!(sign("{ notify = true }"), Sign::Notify);
    assert_eq!(sign("{ notify-fd = 3 }"), Sign::Descriptor(3));
    assert_eq!(sign("{ log = \"up\" }"), Sign::Log("up".into()));
    let probe = |value: &str| match sign(value) {
        Sign::Probe(probe) => (*probe).clone(),
        other => panic!("{other:?}"),
    };
    let p = probe("{ tcp = \"localhost:80\", interval = \"2s\", timeout = \"300ms\" }");
    assert_eq!(p.what.to_string(), "tcp 127.0.0.1:80");
    assert_eq!(p.interval, Duration::from_secs(2));
    assert_eq!(p.timeout, Duration::from_millis(300));
    let p = probe("{ tcp = \"unix:/run/x.sock\" }");
    assert_eq!(p.what.to_string(), "unix:/run/x.sock");
    assert_eq!(
        (p.interval, p.timeout),
        (Duration::from_secs(1), Duration::from_secs(5))
    );
    let p = probe("{ http = \"http://127.0.0.1/x\", status = [200, 401] }");
    assert_eq!(p.what.to_string(), "GET http://127.0.0.1:80/x");
    assert!(matches!(&p.what, Question::Http(_, s) if **s == [200, 401]));
    let p = probe("{ http = \"HEAD unix:/run/x.sock:/y\", status = 204 }");
    assert_eq!(p.what.to_string(), "HEAD unix:/run/x.sock:/y");
    assert_eq!(
        probe("{ exec = [\"/bin/a\", \"b\"] }").what.to_string(),
        "exec /bin/a b"
    );
    assert_eq!(
        probe("{ file = \"/run/a\" }").what.to_string(),
        "file /run/a"
    );
    let within = |keys: &str| ready(keys).unwrap().within;
    assert_eq!(
        within("ready = { notify = true }"),
        Some(Duration::from_secs(60))
    );
    assert_eq!(
        within("ready = { notify = true }\nstart-timeout = false"),
        None
    );
    let after = ready("ready-after = \"2s\"").unwrap();
    assert_eq!(
        (after.sign, after.within),
        (Sign::After(Duration::from_secs(2)), None)
    );
    // What a service says goes before what the defaults say, as a whole.
    let config = good(
        "[defaults]\nready = { notify = true }\nstart-timeout = \"3s\"\n\
         [service.a]\ncommand = [\"/bin/a\"]\n\
         [service.b]\ncommand = [\"/bin/b\"]\nready = false\n\
         [service.c]\ncommand = [\"/bin/c\"]\nready-after = \"1s\"\n",
    );
    let of = |name: &str| config.services[name].policy.ready.clone();
    let a = of("a").unwrap();
    assert_eq!(
        (&a.sign, a.within),
        (&Sign::Notify, Some(Duration::from_secs(3)))
    );
    assert_eq!(of("b"), None);
    assert_eq!(of("c").unwrap().sign, Sign::After(Duration::from_secs(1)));
}

#[test]
fn what_a_service_is_kept_to_is_read() {
    let confine = |keys: &str| service(keys).program.confine.clone();
    assert!(confine("").is_nothing());
    assert!(
        confine("capabilities = false\nmemory-max = false\nwritable-paths = false").is_nothing()
    );
    let c = confine(
        "memory-max = \"64MiB\"\nmemory-high = \"48MiB\"\npids-max = 50\ncpu-weight = 200\n\
         cpu-max = \"250%\"\nio-weight = 10\ncapabilities = [\"net-bind-service\", \"CAP_CHOWN\"]\n\
         network-namespace = \"vpn\"\nread-only-paths = [\"/etc\", \"-/mnt\"]\nwritable-paths = []\n\
         no-new-privileges = true\nprivate-tmp = true\noptional = [\"io-weight\", \"cpu-max\"]",
    );
    let written: Vec<_> = c
        .controls
        .iter()
        .map(|set| {
            let control = confine::CONTROLS.iter().find(|c| c.key == set.key).unwrap();
            format!("{}={}", control.file, control.text(set.value))
        })
        .collect();
    assert_eq!(
        written,
        [
            "memory.max=67108864",
            "memory.high=50331648",
            "pids.max=50",
            "cpu.weight=200",
            "cpu.max=250000 100000",
            "io.weight=default 10"
        ]
    );
    assert_eq!(c.capabilities, Some(1 << 10 | 1));
    assert_eq!(c.writable_paths, Some(Vec::new()));
    assert_eq!(c.optional, ["cpu-max", "io-weight"]);
    assert_eq!(c.network_namespace.as_deref(), Some("vpn"));
    // Key by key a service goes before the defaults; false is as if nobody had said it.
    let config = good(
        "[defaults]\nmemory-max = \"1MiB\"\npids-max = 5\nprivate-tmp = true\n\
         capabilities = []\n[service.a]\ncommand = [\"/bin/a\"]\npids-max = false\n\
         capabilities = false\n",
    );
    let a = &config.services["a"].program.confine;
    assert_eq!(a.controls.len(), 1);
    assert_eq!((a.private_tmp, a.capabilities), (true, None));
    // It is kept as it was over a change of superd's own program.
    let text = crate::json::to_string(&c).unwrap();
    let read: model::Confine = crate::json::from_str(&text).unwrap();
    assert_eq!(read, c);
    // A changed key is a changed program.
    let with = |keys: &str| good(&format!("[service.x]\ncommand = [\"/bin/x\"]\n{keys}\n"));
    for key in [
        "memory-max = \"1MiB\"",
        "private-tmp = true",
        "capabilities = []",
        "optional = [\"cpu-max\"]",
    ] {
        let changed = diff(&with(""), &with(key)).changed;
        assert_eq!(changed, [("x".to_owned(), Change::Program)], "{key}");
    }
}

#[test]
fn what_a_service_cannot_be_kept_to_is_told_with_its_place() {
    for (keys, said) in [
        ("memory-max = \"12 apples\"", "3:14: service \"x\": `memory-max`: `12 apples` is not a size: write \"4MiB\" (units: KiB, MiB, GiB; none: bytes)"),
        ("memory-max = 64", "3:14: service \"x\": `memory-max` must be at least 256KiB, not 64 bytes"),
        ("memory-high = true", "3:15: service \"x\": `memory-high` must be a size, not true: write \"4MiB\" (units: KiB, MiB, GiB; none: bytes)"),
        ("memory-max = \"1MiB\"\nmemory-high = \"2MiB\"", "4:1: service \"x\": `memory-high` is above `memory-max`"),
        ("pids-max = 0", "3:12: service \"x\": `pids-max` must be a whole number from 1 to 4194304, not 0"),
        ("cpu-weight = 10001", "3:14: service \"x\": `cpu-weight` must be a whole number from 1 to 10000, not 10001"),
        ("io-weight = \"high\"", "3:13: service \"x\": `io-weight` must be a whole number from 1 to 10000, not `high`"),
        ("cpu-max = 50", "3:11: service \"x\": `cpu-max`: `50` is not a share of CPU time: write \"50%\" for half of one CPU, \"200%\" for two; from 1% to 102400%"),
        ("cpu-max = \"200000%\"", "3:11: service \"x\": `cpu-max`: `200000%` is not a share of CPU time: write \"50%\" for half of one CPU, \"200%\" for two; from 1% to 102400%"),
        ("cpu-max = \"0%\"", "3:11: service \"x\": `cpu-max`: `0%` is not a share of CPU time: write \"50%\" for half of one CPU, \"200%\" for two; from 1% to 102400%"),
        ("capabilities = [\"net-bind-servise\"]", "3:17: service \"x\": `capabilities`: `net-bind-servise` is not a capability: write \"net-bind-service\""),
        ("capabilities = \"chown\"", "3:16: service \"x\": `capabilities` must be an array of strings, not `chown`: write [\"net-bind-service\"]"),
        ("no-new-privileges = 1", "3:21: service \"x\": `no-new-privileges` must be true or false, not 1"),
        ("private-tmp = \"yes\"", "3:15: service \"x\": `private-tmp` must be true or false, not `yes`"),
        ("read-only-paths = [\"etc\"]", "3:20: service \"x\": `read-only-paths` must be a path that begins with / (or -/), not `etc`"),
        ("writable-paths = [\"-var\"]", "3:19: service \"x\": `writable-paths` must be a path that begins with / (or -/), not `-var`"),
        ("network-namespace = \"/run/netns/a\"", "3:21: service \"x\": `network-namespace` is the name that `ip netns list` shows, not `/run/netns/a`"),
        ("optional = [\"memory-mx\"]", "3:13: service \"x\": `optional`: `memory-mx` is not a key that can be optional: write \"memory-max\""),
        ("optional = [\"user\"]", "3:13: service \"x\": `optional`: `user` is not a key that can be optional: write \"cpu-max\""),
        ("netns = \"a\"", "3:1: service \"x\": unknown key `netns` (did you mean `network-namespace`?)"),
        ("health = { memory = \"1KiB\" }", "3:21: service \"x\": `health`: `memory` must be at least 256KiB, not 1024 bytes"),
        ("health = { memory = \"1MiB\", timeout = \"1s\" }", "3:39: service \"x\": `health`: memory is looked at, not waited for: no `timeout`"),
    ] {
        assert_eq!(bad_service(keys), said, "{keys}");
    }
    let health =
        |value: &str| (*service(&format!("health = {value}")).policy.health.unwrap()).clone();
    let h = health("{ memory = \"64MiB\" }");
    assert_eq!(
        (h.probe.what.clone(), h.probe.memory),
        (Question::Memory, Some(65_536))
    );
    let h = health("{ memory = \"64MiB\", tcp = \"127.0.0.1:1\" }");
    assert_eq!(
        (h.probe.what.to_string().as_str(), h.probe.memory),
        ("tcp 127.0.0.1:1", Some(65_536))
    );
}

#[test]
fn readiness_that_makes_no_sense_is_told_with_its_place() {
    for (keys, said) in [
        ("ready = true", "3:9: service \"x\": `ready` must be a table, not true: write { notify = true }"),
        ("ready = {}", "3:9: service \"x\": `ready` has one of notify, notify-fd, tcp, http, exec, log and file: write { notify = true }"),
        ("ready = { notify = true, tcp = \"127.0.0.1:1\" }", "3:9: service \"x\": `ready` has one of notify, notify-fd, tcp, http, exec, log and file: write { notify = true }"),
        ("ready = { notify = false }", "3:20: service \"x\": `ready`: `notify` is true here, or ready = false"),
        ("ready = { notfy = true }", "3:11: service \"x\": `ready`: unknown key `notfy` (did you mean `notify`?)"),
        ("ready = { notify-fd = 2 }", "3:23: service \"x\": `ready`: `notify-fd` must be a whole number from 3 to 255, not 2"),
        ("ready = { tcp = \"127.0.0.1\" }", "3:17: service \"x\": `ready`: `tcp`: `127.0.0.1` is not an address with a port: write \"127.0.0.1:80\", \"[::1]:80\" or \"unix:/run/x.sock\""),
        ("ready = { tcp = \"unix:x\" }", "3:17: service \"x\": `ready`: `tcp`: `x` is not a path of at most 107 bytes that begins with /"),
        ("ready = { tcp = \"127.0.0.1:1\", status = 200 }", "3:41: service \"x\": `ready`: `status` goes with `http`"),
        ("ready = { http = \"x\" }", "3:18: service \"x\": `ready`: `http`: `x` is not an address: write \"http://127.0.0.1:8080/health\" or \"unix:/run/x.sock:/health\""),
        ("ready = { http = \"https://127.0.0.1/\" }", "3:18: service \"x\": `ready`: `http`: https is not spoken here: use http on a loopback address, or a unix socket"),
        ("ready = { http = \"http://127.0.0.1/\", status = 99 }", "3:48: service \"x\": `ready`: `status` must be a whole number from 200 to 599, not 99"),
        ("ready = { file = \"/x\", timeout = \"1s\" }", "3:34: service \"x\": `ready`: a file is looked at, not waited for: no `timeout`"),
        ("ready = { file = \"x\" }", "3:18: service \"x\": `ready`: `file` must be a path that begins with /, not `x`"),
        ("ready = { log = \" \" }", "3:17: service \"x\": `ready`: `log` needs a text of 1 to 256 bytes on one line"),
        ("ready = { log = \"x\", timeout = \"1s\" }", "3:32: service \"x\": `ready`: nobody is asked: `interval`, `timeout` and `status` go with tcp, http and exec"),
        ("ready = { exec = [\"/x\"], interval = \"1ms\" }", "3:37: service \"x\": `ready`: `interval` must be at least 10ms"),
        ("ready = { notify = true }\nnotify = false", "4:1: service \"x\": ready = { notify = true } needs notify = true"),
        ("ready = { log = \"x\" }\noutput = \"null\"", "4:1: service \"x\": ready = { log = ... } needs output = \"log\", \"ring\" or a file"),
        ("ready = { notify = true }\nready-after = \"1s\"", "4:1: service \"x\": `ready` or `ready-after`, not both"),
        ("ready-after = \"0s\"", "3:15: service \"x\": `ready-after` must be longer than 0"),
        ("start-timeout = \"5s\"", "3:1: service \"x\": has `start-timeout` and nothing to wait for: it needs `ready`"),
        ("ready = { notify-fd = 4 }\nsockets = [\"tcp://127.0.0.1:1\", \"tcp://127.0.0.1:2\"]", "4:1: service \"x\": `notify-fd` = 4 is the number of one of its `sockets`"),
        ("redy = { notify = true }", "3:1: service \"x\": unknown key `redy` (did you mean `ready`?)"),
    ] {
        assert_eq!(bad_service(keys), said, "{keys}");
    }
}

#[test]
fn health_and_watchdog_are_read() {
    let health = |value: &str| {
        let policy = service(&format!("health = {value}")).policy;
        (*policy.health.unwrap()).clone()
    };
    let h = health("{ http = \"http://127.0.0.1/x\" }");
    assert_eq!(
        (h.failures, h.remedy, h.probe.interval),
        (3, Remedy::Restart, Duration::from_secs(30))
    );
    assert_eq!(h.probe.timeout, Duration::from_secs(5));
    let h = health("{ tcp = \"127.0.0.1:1\", interval = \"5s\", timeout = \"1s\", failures = 1, action = \"stop\" }");
    assert_eq!((h.failures, h.remedy), (1, Remedy::Stop));
    let h = health("{ exec = [\"/bin/a\"], run = [\"/bin/b\", \"c\"] }");
    let run: std::rc::Rc<[String]> = vec!["/bin/b".to_owned(), "c".to_owned()].into();
    assert_eq!(h.remedy, Remedy::Run(run));
    assert_eq!(service("health = false").policy.health, None);
    let watchdog = |keys: &str| service(keys).program.watchdog;
    assert_eq!(
        watchdog("watchdog = \"30s\""),
        Some(Duration::from_secs(30))
    );
    assert_eq!((watchdog(""), watchdog("watchdog = false")), (None, None));
    for (keys, said) in [
        ("health = {}", "3:10: service \"x\": `health` asks one of tcp, http and exec, or for `memory`: write { http = \"http://127.0.0.1/\" }"),
        ("health = { htp = \"x\" }", "3:12: service \"x\": `health`: unknown key `htp` (did you mean `http`?)"),
        ("health = { file = \"/x\" }", "3:12: service \"x\": `health`: unknown key `file`"),
        ("health = { exec = [\"/x\"], failures = 0 }", "3:38: service \"x\": `health`: `failures` must be a whole number from 1 to 1000, not 0"),
        ("health = { exec = [\"/x\"], action = \"reboot\" }", "3:36: service \"x\": `health`: `action` cannot be `reboot`; it is one of restart, stop, run"),
        ("health = { exec = [\"/x\"], action = \"run\" }", "3:10: service \"x\": action = \"run\" needs `run`, a command"),
        ("health = { exec = [\"/x\"], action = \"stop\", run = [\"/y\"] }", "3:50: service \"x\": `health`: `run` goes with action = \"run\""),
        ("watchdog = \"30s\"\nnotify = false", "4:1: service \"x\": `watchdog` needs notify = true"),
        ("watchdog = 30", "3:12: service \"x\": `watchdog`: `30` is not a duration: write \"30s\" (units: ms, s, m, h, d)"),
        ("type = \"oneshot\"\nwatchdog = \"30s\"", "4:1: service \"x\": a oneshot is watched by `start-timeout` only: neither `health` nor `watchdog`"),
    ] {
        assert_eq!(bad_service(keys), said, "{keys}");
    }
}

#[test]
fn oneshots_and_conflicts_are_read() {
    let kind = |keys: &str| {
        let policy = service(keys).policy;
        (policy.oneshot, policy.restart.policy, policy.ready)
    };
    let exit = |within| {
        Some(std::rc::Rc::new(Ready {
            sign: Sign::Exit,
            within,
        }))
    };
    assert_eq!(kind("type = \"daemon\""), (None, Policy::Always, None));
    assert_eq!(
        kind("type = \"oneshot\""),
        (Some(Oneshot::Remains), Policy::OnFailure, exit(None))
    );
    let keys = "type = \"oneshot\"\nremain = false\nrestart = \"never\"\nstart-timeout = \"5s\"";
    let five = exit(Some(Duration::from_secs(5)));
    assert_eq!(kind(keys), (Some(Oneshot::Again), Policy::Never, five));
    // What the defaults say is about services that run.
    let config = good(
        "[defaults]\nrestart = \"always\"\nready = { notify = true }\nstart-timeout = \"1s\"\n\
         [service.x]\ncommand = [\"/bin/x\"]\ntype = \"oneshot\"\n",
    );
    let policy = &config.services["x"].policy;
    assert_eq!(policy.restart.policy, Policy::OnFailure);
    assert_eq!(policy.ready, exit(None));
    for (keys, said) in [
        ("type = \"onshot\"", "3:8: service \"x\": `type` cannot be `onshot` (did you mean `oneshot`?); it is one of daemon, oneshot"),
        ("remain = true", "3:1: service \"x\": `remain`, `every` and `at` go with type = \"oneshot\""),
        ("type = \"oneshot\"\nrestart = \"always\"", "4:1: service \"x\": a oneshot that has succeeded is not started again: restart = \"on-failure\" or \"never\""),
        ("type = \"oneshot\"\nready = { notify = true }", "4:1: service \"x\": a oneshot is ready when it has ended: neither `ready` nor `ready-after`"),
        ("wants = [\"y\"]", "3:10: service \"x\": `wants`: no service \"y\" (did you mean `x`?)"),
        ("conflicts = [\"x\"]", "3:14: service \"x\": `conflicts` names the service itself"),
        ("restart-with = [\"xx\"]", "3:17: service \"x\": `restart-with`: no service \"xx\" (did you mean `x`?)"),
        ("restart-with = [\"x\"]", "3:17: service \"x\": `restart-with` names the service itself"),
        ("restart-with = \"y\"", "3:16: service \"x\": `restart-with` must be an array of strings, not `y`: write [\"y\"]"),
        ("restart-wth = [\"y\"]", "3:1: service \"x\": unknown key `restart-wth` (did you mean `restart-with`?)"),
        ("part-of = [\"y\"]", "3:1: service \"x\": unknown key `part-of` (did you mean `restart-with`?)"),
    ] {
        assert_eq!(bad_service(keys), said, "{keys}");
    }
    let two = |a: &str, b: &str| {
        format!(
            "[service.a]\ncommand = [\"/bin/a\"]\n{a}\n[service.b]\ncommand = [\"/bin/b\"]\n{b}\n"
        )
    };
    let both = "3:14: service \"a\": conflicts with \"b\", and both have autostart = true";
    assert_eq!(bad(&two("conflicts = [\"b\"]", "")), [both]);
    assert_eq!(
        bad(&two("conflicts = [\"b\"]", "conflicts = [\"a\"]")),
        [both]
    );
    assert_eq!(
        bad(&two("", "conflicts = [\"a\"]")),
        ["6:14: service \"b\": conflicts with \"a\", and both have autostart = true"]
    );
    assert_eq!(
        bad(&two(
            "conflicts = [\"b\"]",
            "autostart = false\nrequires = [\"a\"]"
        )),
        ["3:14: service \"a\": conflicts with \"b\", and one requires the other"]
    );
    good(&two("conflicts = [\"b\"]", "autostart = false"));
    let three = two(
        "conflicts = [\"b\"]",
        "autostart = false\nrequires = [\"d\"]",
    )
        + "[service.c]\ncommand = [\"/bin/c\"]\nautostart = false\nrequires = [\"a\", \"b\"]\n\
           [service.d]\ncommand = [\"/bin/d\"]\n";
    assert_eq!(
        bad(&three),
        ["11:18: service \"c\": requires both \"a\" and \"b\", which conflict"]
    );
    assert_eq!(
        bad(&two("wants = [\"b\"]", "after = [\"a\"]")),
        ["3:10: service \"a\": dependency cycle: a -> b -> a"]
    );
    assert_eq!(
        bad(&two("restart-with = [\"b\"]", "after = [\"a\"]")),
        ["3:17: service \"a\": dependency cycle: a -> b -> a"]
    );
}

#[test]
fn who_is_restarted_with_another_one_comes_after_it_and_the_plan_says_so() {
    assert_eq!(
        bad("[service.db]\ncommand = [\"/db\"]\n[service.job]\ncommand = [\"/job\"]\ntype = \"oneshot\"\nrestart-with = [\"db\"]\n"),
        ["6:1: service \"job\": a oneshot is never restarted: `restart-with` goes with what stays (`requires`, `after`)"]
    );
    let config = good(
        "[service.db]\ncommand = [\"/db\"]\n\
         [service.web]\ncommand = [\"/web\"]\nrestart-with = [\"db\", \"cam@x\", \"db\"]\n\
         [service.\"cam@\"]\ncommand = [\"/cam\"]\nrestart-with = [\"db\"]\n",
    );
    let policy = &config.services["web"].policy;
    assert_eq!(policy.restart_with, ["cam@x", "db"]);
    assert!(policy.after.is_empty() && policy.requires.is_empty());
    // It is not made by that, as by `after`.
    assert!(!config.services.contains_key("cam@x"));
    let plan = plan(&config);
    let of = |name: &str| plan.services.iter().find(|s| s.name == name).unwrap();
    assert_eq!(of("db").restarts, ["cam@", "web"]);
    assert_eq!(of("db").stops_after, ["cam@", "web"]);
    assert!(of("web").restarts.is_empty());
    // A new number of what is named is a change for who names it.
    let with_cam = config.with_instances(std::iter::once("cam@x")).unwrap();
    let changed = diff(&config, &with_cam).changed;
    assert!(changed.contains(&("web".to_owned(), Change::Policy)));
    assert_eq!(
        bad("[defaults]\nrestart-with = [\"x\"]\n[service.x]\ncommand = [\"/x\"]\n"),
        ["2:1: [defaults]: `restart-with` belongs to [service.NAME]"]
    );
}

#[test]
fn defaults_fill_in_what_a_service_does_not_say() {
    let config = good(
        r#"
        [service.a]
        command = ["/bin/a"]
        [service.b]
        command = ["/bin/b"]
        user = "root"
        stop = "INT"
        environment = { A = "b" }
        crash-loop = false
        [defaults]
        user = "nobody"
        stop = "go-default"
        leftover-grace = "5s"
        environment = { A = "a", B = "a" }
        limits = { nofile = 10 }
        reload = { signal = "HUP" }
        "#,
    );
    let (a, b) = (&config.services["a"], &config.services["b"]);
    assert_eq!(a.program.user.as_deref(), Some("nobody"));
    assert_eq!(b.program.user.as_deref(), Some("root"));
    assert_eq!(a.policy.stop.steps.len(), 2);
    assert_eq!(b.policy.stop.steps.len(), 1);
    assert_eq!(b.policy.stop.leftover_grace, Duration::from_secs(5));
    assert_eq!(b.program.environment["A"], "b");
    assert_eq!(b.program.environment["B"], "a");
    assert_eq!(b.program.limits.len(), 1);
    assert_eq!(b.policy.restart.crash_loop, None);
    assert!(b.policy.reload.is_some());
}

#[test]
fn all_problems_come_out_at_once_in_the_order_of_the_file() {
    let lines = bad(
        "[daemon]\nlogg = \"auto\"\n\n[service.dnsd]\ncommand = \"/usr/sbin/dnsd -f\"\ngrace = \"2s\"\n\
         nice = 20\nafter = [\"ntp\"]\n\n[service.ntpd]\nuser = \"\"\nrun_dir = \"/\"\n",
    );
    assert_eq!(
        lines,
        [
            "2:1: [daemon]: unknown key `logg` (did you mean `log`?)",
            "5:11: service \"dnsd\": `command` must be an array of strings, not `/usr/sbin/dnsd -f`: write [\"/usr/sbin/dnsd\", \"-f\"]",
            "6:1: service \"dnsd\": unknown key `grace` (`wait` belongs to a step of `stop`)",
            "7:8: service \"dnsd\": `nice` must be a whole number from -20 to 19, not 20",
            "8:10: service \"dnsd\": `after`: no service \"ntp\" (did you mean `ntpd`?)",
            "10:10: service \"ntpd\": has no `command`",
            "11:8: service \"ntpd\": `user` is empty",
            "12:1: service \"ntpd\": unknown key `run_dir` (`run-dir` belongs to [daemon])",
        ]
    );
}

#[test]
fn what_is_wrong_with_a_service_is_said_in_one_line() {
    for (keys, said) in [
        ("stop = []", "3:8: service \"x\": `stop` must be a schedule, not an array: write [{ signal = \"TERM\", wait = \"15s\" }], a signal or one of caddy-api, nats-lame-duck, children-first, go-default"),
        ("stop = \"TREM\"", "did you mean `TERM`?"),
        ("stop = \"nats-lameduck\"", "did you mean `nats-lame-duck`?"),
        (
            "stop = [{ drain = \"30s\" }]",
            "3:8: service \"x\": `stop` ends with `drain`, which does not end the service: add a step like { signal = \"TERM\" }",
        ),
        (
            "stop = [{ drain = \"30s\", wait = \"30s\" }, { signal = \"TERM\" }]",
            "3:26: service \"x\": `stop`: `drain` is itself the longest wait: leave `wait` out",
        ),
        (
            "stop = [{ drain = \"30s\", until = \"gone\" }, { signal = \"TERM\" }]",
            "3:26: service \"x\": `stop`: a step with `drain` ends when no connection is open: leave `until` out",
        ),
        (
            "stop = [{ drain = \"0s\" }, { signal = \"TERM\" }]",
            "3:19: service \"x\": `stop`: `drain` must be longer than 0",
        ),
        (
            "stop = [{ drain = \"5s\", ports = [] }, { signal = \"TERM\" }]",
            "3:33: service \"x\": `stop`: `ports` is empty: leave it out for all ports of the service",
        ),
        (
            "stop = [{ drain = \"5s\", ports = [80, \"sctp/80\"] }, { signal = \"TERM\" }]",
            "3:38: service \"x\": `stop`: `ports`: `sctp/80` is not a port: write 443, \"tcp/443\" or \"udp/443\"",
        ),
        (
            "stop = [{ drain = \"5s\", ports = [\"tcp/+80\"] }, { signal = \"TERM\" }]",
            "3:34: service \"x\": `stop`: `ports`: `tcp/+80` is not a port: write 443, \"tcp/443\" or \"udp/443\"",
        ),
        (
            "stop = [{ drain = \"5s\", ports = [65536] }, { signal = \"TERM\" }]",
            "3:34: service \"x\": `stop`: `ports` must be a whole number from 1 to 65535, not 65536",
        ),
        (
            "stop = [{ signal = \"TERM\", idle = \"5s\" }]",
            "3:28: service \"x\": `stop`: `idle` is only for a step with `drain`",
        ),
        (
            "stop = [{ drain = \"5s\", idle = \"0s\" }, { signal = \"TERM\" }]",
            "3:32: service \"x\": `stop`: `idle` must be longer than 0",
        ),
        (
            "stop = [{ signal = \"TERM\", ports = [80] }]",
            "3:28: service \"x\": `stop`: `ports` is only for a step with `drain`",
        ),
        (
            "stop = [{ signal = \"TERM\", drain = \"5s\" }]",
            "a step does one thing: `drain` or `signal`, not both",
        ),
        (
            "stop = [{ signal = \"TERM\", until = \"connections=0\" }]",
            "3:28: service \"x\": `stop`: until = \"connections=0\" is only for a step with `drain`",
        ),
        (
            "stop = [{ wait = \"1s\" }]",
            "a step needs one of `signal`, `run`, `http` and `drain`",
        ),
        (
            "stop = [{ signal = \"TERM\", run = [\"/x\"] }]",
            "a step does one thing",
        ),
        (
            "stop = [{ run = [\"/x\"], to = \"tree\" }]",
            "`to` is only for a step with `signal`",
        ),
        (
            "stop = [{ signal = \"TERM\", until = \"done\" }]",
            "only for a step with `run` or `http`",
        ),
        (
            "stop = [{ signal = \"TERM\", settle = \"1s\" }]",
            "`settle` needs an `until`",
        ),
        ("stop = [{ signal = \"STOP\" }]", "STOP freezes a process"),
        (
            "reload = { signal = \"TERM\" }",
            "`reload` sends TERM, which `stop` sends too: it must come once",
        ),
        (
            "reload = { signal = \"USR2\" }\nstop = \"nats-lame-duck\"",
            "`reload` sends USR2, which `stop` sends too: it must come once",
        ),
        (
            "stop = [{ signal = 15 }]",
            "3:20: service \"x\": `stop`: `signal` must be a string, not 15: write \"15\"",
        ),
        (
            "stop = [{ signal = \"TERM\", wait = 15 }]",
            "3:35: service \"x\": `stop`: `wait`: `15` is not a duration: write \"15s\" (units: ms, s, m, h, d)",
        ),
        (
            "stop = [{ signal = \"TERM\", wait = \"15\" }]",
            "`15` is not a duration",
        ),
        (
            "stop = [{ signal = \"TERM\", wait = \"9999d\" }]",
            "longer than a year",
        ),
        (
            "stop = [{ signal = \"TERM\", until = \"port-closed\" }]",
            "did you mean `ports-closed`?",
        ),
        ("stop = { signal = \"TERM\" }", "3:8: service \"x\": `stop` must be a schedule, not a table: write [{ signal = \"TERM\", wait = \"15s\" }], a signal or one of caddy-api, nats-lame-duck, children-first, go-default"),
        (
            "stop = [{ http = \"POST https://127.0.0.1/\" }]",
            "https is not spoken here",
        ),
        (
            "stop = [{ http = \"POST http://caddy:2019/\" }]",
            "names are not looked up",
        ),
        (
            "notify = false\nstop = [{ signal = \"TERM\", until = \"stopping\" }]",
            "needs notify = true",
        ),
        (
            "output = \"null\"\nstop = [{ signal = \"TERM\", until = \"log=x\" }]",
            "needs output = ",
        ),
        ("umask = 22", "3:9: service \"x\": `umask` must be a string, not 22: write \"22\""),
        ("umask = \"9\"", "is not a file mode mask"),
        (
            "limits = { nofiles = 1 }",
            "unknown limit `nofiles` (did you mean `nofile`?)",
        ),
        (
            "limits = { nofile = [9, 8] }",
            "the soft limit is above the hard limit",
        ),
        ("limits = { nofile = -1 }", "3:21: service \"x\": `limits`: `nofile` must be a whole number that is at least 4, or \"unlimited\", not -1"),
        (
            "environment = { \"A=B\" = \"\" }",
            "is not a variable's name",
        ),
        (
            "environment = { PORT = 80 }",
            "3:24: service \"x\": `environment`: `PORT` must be a string, not 80: write \"80\"",
        ),
        ("directory = \"srv\"", "must be a path that begins with /"),
        ("restart = \"on-failur\"", "did you mean `on-failure`?"),
        ("restart-delay = \"1h\"", "longer than `max-delay`"),
        (
            "restart-delay = \"0s\"\ncrash-loop = false",
            "without any pause",
        ),
        (
            "sockets = [\"tcp://0.0.0.0:0\"]",
            "3:12: service \"x\": `sockets`: `tcp://0.0.0.0:0` is not a socket: write \"tcp://0.0.0.0:443\" or \"tcp://[::]:443\"",
        ),
        (
            "sockets = [\"udp://0.0.0.0:443\"]",
            "3:12: service \"x\": `sockets`: `udp://0.0.0.0:443` is not a socket: write \"tcp://0.0.0.0:443\" or \"tcp://[::]:443\"",
        ),
        (
            "sockets = [\"tcp://[::]:80\", \"tcp://[::]:80\"]",
            "3:11: service \"x\": `sockets` has `tcp://[::]:80` twice",
        ),
        (
            "max-connections = 200",
            "3:19: service \"x\": `max-connections` must be a table, not 200: write { high = 200, low = 180 }",
        ),
        (
            "max-connections = { high = 200 }",
            "3:19: service \"x\": `max-connections` has two limits: write { high = 200, low = 180 }",
        ),
        (
            "max-connections = { high = 20, low = 20 }",
            "3:19: service \"x\": `max-connections`: `low` must be less than `high`",
        ),
        (
            "max-connections = { high = 0, low = 20 }",
            "3:28: service \"x\": `max-connections`: `high` must be a whole number from 1 to 1000000, not 0",
        ),
        (
            "max-connections = { high = 9, low = 8, hi = 0 }",
            "3:40: service \"x\": `max-connections`: unknown key `hi`",
        ),
        ("crash-loop = { burst = 0 }", "3:24: service \"x\": `crash-loop`: `burst` must be a whole number from 1 to 1000, not 0"),
        ("crash-loop = { within = \"0s\" }", "must be longer than 0"),
        ("success-exit = 1", "write [1, \"HUP\"]"),
        ("success-exit = [256]", "3:17: service \"x\": `success-exit` must be a whole number from 0 to 255, not 256"),
        (
            "reload = { signal = \"HUP\", run = [\"/x\"] }",
            "3:10: service \"x\": `reload` has one of { signal = \"HUP\" }, { run = [...] } and { http = \"POST ...\" }",
        ),
        (
            "reload = { http = \"POST http://127.0.0.1:1/x\", run = [\"/x\"] }",
            "3:10: service \"x\": `reload` has one of { signal = \"HUP\" }, { run = [...] } and { http = \"POST ...\" }",
        ),
        (
            "reload = { http = \"POST http://example.org:1/x\" }",
            "3:19: service \"x\": `reload`: `http`: `example.org` must be an address like 127.0.0.1 or [::1], or localhost (names are not looked up)",
        ),
        (
            "reload = { http = \"POST\" }",
            "3:19: service \"x\": `reload`: `http`: `POST` is not a request: write \"POST http://127.0.0.1:2019/stop\" or \"POST unix:/run/x.sock:/stop\"",
        ),
        (
            "check = true",
            "3:9: service \"x\": `check` must be a command: write [\"/path/to/program\", \"argument\"]",
        ),
        (
            "check = []",
            "3:9: service \"x\": `check` is empty: write [\"/path/to/program\", \"argument\"]",
        ),
        (
            "check = \"caddy validate\"",
            "3:9: service \"x\": `check` must be an array of strings, not `caddy validate`: write [\"caddy\", \"validate\"]",
        ),
        (
            "check = [\"/x\"]\ncheck-timeout = \"0s\"",
            "4:17: service \"x\": `check-timeout` must be longer than 0",
        ),
        (
            "check-timeout = \"1s\"",
            "service \"x\": `check-timeout` goes with `check`",
        ),
        (
            "pre-start = true",
            "3:13: service \"x\": `pre-start` must be a command: write [\"/path/to/program\", \"argument\"]",
        ),
        (
            "post-stop = \"umount /mnt\"",
            "3:13: service \"x\": `post-stop` must be an array of strings, not `umount /mnt`: write [\"umount\", \"/mnt\"]",
        ),
        (
            "on-crash = { run = [] }",
            "3:20: service \"x\": `on-crash`: `run` is empty: write [\"/path/to/program\", \"argument\"]",
        ),
        (
            "pre-stop = { timeout = \"1s\" }",
            "3:12: service \"x\": `pre-stop` has no command: write [\"/program\"] or { run = [\"/program\"], timeout = \"10s\" }",
        ),
        (
            "post-start = { run = [\"/x\"], timeout = \"0s\" }",
            "`timeout` must be longer than 0",
        ),
        (
            "post-start = { run = [\"/x\"], wait = \"1s\" }",
            "unknown key `wait`",
        ),
        ("exec-start-pre = [\"/x\"]", "did you mean `pre-start`"),
        (
            "type = \"oneshot\"\npost-start = [\"/x\"]",
            "service \"x\": a oneshot is done when it ends: what is to follow is its `post-stop`, not `post-start`",
        ),
        ("reload = { signal = \"KILL\" }", "does not reload"),
        (
            "reload = { signal = \"HUP\", wait = \"1s\" }",
            "3:35: service \"x\": `reload`: a signal is not waited for: `wait` goes with `run` and `http`",
        ),
        ("requires = [\"x\"]", "names the service itself"),
        ("after = \"y\"", "write [\"y\"]"),
        ("user = \"a\\u0000b\"", "contains a NUL"),
        ("nice = 99999999999999999999", "3:8: service \"x\": `nice` must be a whole number from -20 to 19, not 99999999999999999999"),
        (
            "oom-score-adj = 1.5",
            "3:17: service \"x\": `oom-score-adj` must be a whole number from -1000 to 1000, not a fraction",
        ),
        ("timeout = \"5s\"", "`wait` belongs to a step"),
        ("ring = 1", "belongs to [daemon]"),
        ("writable-paths = [\"/x\"]\nno-new-privileges = false", "4:1: service \"x\": `writable-paths` implies `no-new-privileges`: leave that out"),
        ("watchdog = \"1ms\"", "at least 100ms"),
        ("stable = \"0s\"\ncrash-loop = false", "4:1: service \"x\": crash-loop = false with \"0s\" as `restart-delay` or `stable` would restart without any pause"),
        ("reload = { run = [\"/x\"], wait = \"0s\" }", "`reload`: `wait` must be longer than 0"),
        ("limits = { nofile = 3 }", "at least 4"),
        ("limits = { as = 4096 }", "at least 256KiB"),
        ("limits = { as = -1 }", "is not a size"),
    ] {
        let line = bad_service(keys);
        assert!(
            line.contains(said),
            "{keys}\n  said: {line}\n  not:  {said}"
        );
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_in_one_line() {
    for (text, said) in [
        (
            "[service.a]\ncommand = [\"/a\"]\n[service.a]\n",
            "3:10: `a` is here for the second time",
        ),
        (
            "[daemon]\nring = 1\nring = 2\n",
            "3:1: `ring` is here for the second time",
        ),
        ("[service.a\ncommand = 1", "1:11: syntax: "),
        (
            "[[service]]\n",
            "`service` must be a table: write [service.NAME]",
        ),
        (
            "[service]\ncommand = [\"/a\"]",
            "2:1: service \"command\": `command` belongs to [service.NAME]",
        ),
        (
            "[services.a]\n",
            "unknown key `services` (did you mean `service`?)",
        ),
        (
            "command = [\"/a\"]\n",
            "`command` belongs to [service.NAME]",
        ),
        (
            "[service.all]\ncommand = [\"/a\"]",
            "`all` means every service",
        ),
        (
            "[service.\"a b\"]\ncommand = [\"/a\"]",
            "a name has 1 to 64 characters",
        ),
        ("[service.a]\ncommand = []", "`command` is empty"),
        ("[service.a]\ncommand = [\"\"]", "empty program name"),
        (
            "[defaults]\ncommand = [\"/a\"]",
            "`command` belongs to [service.NAME]",
        ),
        ("[daemon]\nring = \"1GiB\"", "at most"),
        ("[daemon]\ncgroup = \"of\"", "did you mean `off`?"),
        ("daemon = 1", "`daemon` must be a table"),
        ("include = \"x\"", "write [\"x\"]"),
        ("include = [\"superd.toml\"]", "matches this file itself"),
        (
            "include = [\"no.toml\"]",
            "1:12: `include`: /etc/superd/no.toml: cannot open",
        ),
        ("include = [\"*/x.toml\"]", "only the last part may contain"),
        ("include = [\"x/\"]", "does not end in a file name"),
    ] {
        let lines = bad(text);
        assert_eq!(lines.len(), 1, "{text}: {lines:#?}");
        assert!(
            lines[0].contains(said),
            "{text}\n  said: {}\n  not:  {said}",
            lines[0]
        );
    }
    let dotted = bad("[service.my.app]\ncommand = [\"/a\"]");
    assert!(dotted[1].contains("quote the whole name"), "{dotted:?}");
}

#[test]
fn files_that_are_no_text_or_too_much_of_it_are_refused() {
    let load = |bytes: Vec<u8>| {
        let mut files = Map::from([(PathBuf::from(MAIN), bytes)]);
        load_with(Path::new(MAIN), &mut files).map_err(|p| p.to_string())
    };
    let e = load(b"a = 1\n# \xff".to_vec()).unwrap_err();
    assert!(
        e.ends_with("superd.toml:2:3: is not UTF-8 from here on"),
        "{e}"
    );
    let e = load(b"\xff\xfea\0".to_vec()).unwrap_err();
    assert!(
        e.ends_with("superd.toml: is UTF-16: save it as UTF-8"),
        "{e}"
    );
    let e = load(vec![b'#'; FILE_CAP + 1]).unwrap_err();
    assert!(e.ends_with("superd.toml: is larger than 1 MiB"), "{e}");
    // A byte order mark and DOS line ends are somebody's editor, not a mistake.
    load(b"\xef\xbb\xbf[service.a]\r\ncommand = [\"/a\"]\r\n".to_vec()).unwrap();
    load(Vec::new()).unwrap();
}

#[test]
fn what_is_nested_too_deeply_is_refused_and_not_recursed_into() {
    for text in [
        "a.".repeat(400_000) + "a = 1",
        "[".to_owned() + &"a.".repeat(400_000) + "a]",
        "a = ".to_owned() + &"[".repeat(400_000),
        "a = ".to_owned() + &"{a=".repeat(300_000),
        "a = ".to_owned() + &("{".to_owned() + &"a.".repeat(24) + "a =\n").repeat(10_000),
        "\"\"\"".repeat(200_000),
        "a = '''".to_owned() + &"a.".repeat(400_000),
    ] {
        let lines = bad(&text);
        assert!(!lines.is_empty() && lines.len() <= SHOWN + 1);
    }
}

#[test]
fn included_files_have_services_only_and_come_sorted() {
    let config = load_files(&[
        (
            "superd.toml",
            "include = [\"services.d/*.toml\", \"services.d/b.toml\"]\n[defaults]\nuser = \"u\"\n",
        ),
        (
            "services.d/b.toml",
            "[service.b]\ncommand = [\"/b\"]\nafter = [\"a\"]",
        ),
        ("services.d/a.toml", "[service.a]\ncommand = [\"/a\"]"),
        ("services.d/.hidden.toml", "!"),
        ("services.d/a.toml~", "!"),
    ])
    .unwrap();
    let names: Vec<_> = config
        .files
        .iter()
        .map(|f| f.display().to_string())
        .collect();
    assert_eq!(
        names,
        [
            MAIN,
            "/etc/superd/services.d/a.toml",
            "/etc/superd/services.d/b.toml"
        ]
    );
    assert_eq!(config.services["b"].program.user.as_deref(), Some("u"));
    assert_eq!(
        config.services["b"].place,
        "/etc/superd/services.d/b.toml:1:10"
    );
    let e = load_files(&[
        (
            "superd.toml",
            "include = [\"*.d/x\", \"d/*\"]\n[service.a]\ncommand = [\"/a\"]\nafter=[\"lost\"]",
        ),
        ("d/1", "include = [\"2\"]\n[daemon]\n[defaults]\n"),
        ("d/2", "[service.a]\ncommand = [\"/a\"]\n"),
    ])
    .unwrap_err();
    assert_eq!(
        e.lines(),
        [
            "/etc/superd/superd.toml:1:12: `include`: `*.d/x`: only the last part may contain * and ?",
            "/etc/superd/d/1:1:1: `include` is only allowed in the main file; an included one has [service.NAME]",
            "/etc/superd/d/1:2:2: `daemon` is only allowed in the main file; an included one has [service.NAME]",
            "/etc/superd/d/1:3:2: `defaults` is only allowed in the main file; an included one has [service.NAME]",
            "/etc/superd/d/2:1:10: service \"a\": is defined a second time; first at /etc/superd/superd.toml:2:10",
        ]
    );
}

#[test]
fn files_together_are_limited_too() {
    let big = "#".repeat(FILE_CAP);
    let e = load_files(&[
        ("superd.toml", "include = [\"d/*\"]"),
        ("d/1", &big),
        ("d/2", &big),
        ("d/3", &big),
        ("d/4", &big),
        ("d/5", ""),
    ])
    .unwrap_err();
    assert_eq!(
        e.to_string(),
        "/etc/superd/superd.toml:1:12: `include`: /etc/superd/d/4: all files together are larger than 4 MiB"
    );
    let many: String = (0..=SERVICES_CAP)
        .map(|i| format!("[service.s{i}]\ncommand = [\"/x\"]\n"))
        .collect();
    let lines = bad(&many);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("more than 4096 services"));
}

#[test]
fn a_cycle_is_told_once_and_by_its_members() {
    let s = |name: &str, keys: &str| format!("[service.{name}]\ncommand = [\"/x\"]\n{keys}\n");
    let text = s("b", "after = [\"a\"]")
        + &s("a", "requires = [\"b\"]")
        + &s("waits", "after = [\"a\"]")
        + &s("c", "after = [\"d\"]")
        + &s("d", "after = [\"e\"]")
        + &s("e", "after = [\"c\", \"free\"]")
        + &s("free", "");
    assert_eq!(
        bad(&text),
        [
            "6:13: service \"a\": dependency cycle: a -> b -> a",
            "12:10: service \"c\": dependency cycle: c -> d -> e -> c",
        ]
    );
    // A chain as long as it may be is none, and needs no stack.
    let chain: String = (0..SERVICES_CAP - 1)
        .map(|i| s(&format!("s{i}"), &format!("after = [\"s{}\"]", i + 1)))
        .collect();
    let config = good(&(chain + &s("s4095", "")));
    assert_eq!(plan(&config).longest, Duration::from_secs(19 * 4096));
}

/// Issue 5: a cycle of services with other problems came out when those were mended.
#[test]
fn a_cycle_is_told_beside_what_else_is_wrong_with_its_members() {
    let text = "[service.a]\ncommand = [\"/x\"]\nafter = [\"free\", \"b\"]\nnice = 99\n\
                [service.b]\nrequires = [\"a\"]\n[service.free]\ncommand = [\"/x\"]\nafter = [\"none\"]\n";
    assert_eq!(
        bad(text),
        [
            "3:18: service \"a\": dependency cycle: a -> b -> a",
            "4:8: service \"a\": `nice` must be a whole number from -20 to 19, not 99",
            "5:10: service \"b\": has no `command`",
            "9:10: service \"free\": `after`: no service \"none\"",
        ]
    );
}

/// Issue 5: `superctl check` was content, and each start failed.
#[test]
fn limits_of_a_cgroup_need_cgroups() {
    let text = |keys: &str| {
        format!("[daemon]\ncgroup = \"off\"\n[defaults]\npids-max = 5\n[service.x]\ncommand = [\"/x\"]\n{keys}")
    };
    let said = |key: &str| {
        format!("service \"x\": `{key}` needs cgroups, and [daemon] has cgroup = \"off\": one of them, or `optional`")
    };
    assert_eq!(
        bad(&text("memory-max = \"64MiB\"\nnice = 1")),
        [
            format!("5:10: {}", said("pids-max")),
            format!("7:1: {}", said("memory-max")),
        ]
    );
    good(&text(
        "memory-max = \"64MiB\"\noptional = [\"pids-max\", \"memory-max\"]",
    ));
    good(&text("pids-max = false\ncpu-max = false"));
    good(&text("pids-max = false").replace("off", "auto"));
}

#[test]
fn many_problems_are_counted_and_not_all_shown() {
    let text: String = (0..2000).map(|i| format!("k{i} = 1\n")).collect();
    let problems = load_text(&text).unwrap_err();
    assert_eq!(problems.len(), 2000);
    let lines = problems.lines();
    assert_eq!(lines.len(), SHOWN + 1);
    assert_eq!(lines[SHOWN], "and 1950 more problems");
}

#[test]
fn the_longest_stop_is_the_longest_chain_and_is_capped() {
    let text = |daemon: &str| {
        format!(
            "[daemon]\n{daemon}\n\
             [service.db]\ncommand = [\"/db\"]\nstop = \"nats-lame-duck\"\n\
             [service.app]\ncommand = [\"/app\"]\nrequires = [\"db\"]\n\
             [service.web]\ncommand = [\"/web\"]\nafter = [\"app\"]\nstop = \"caddy-api\"\nleftover-grace = \"0s\"\n\
             [service.lone]\ncommand = [\"/lone\"]\nstop = [{{ signal = \"TERM\", wait = \"50s\" }}]\n"
        )
    };
    let p = plan(&good(&text("")));
    // web 12 s, app 17 s, db 30.2 s + 15 s + 2 s; and each 2 s for its ports.
    assert_eq!(p.longest, Duration::from_millis(14_000 + 19_000 + 49_200));
    assert_eq!(p.critical, ["web", "app", "db"]);
    assert_eq!(p.max_stop_seconds(), 84);
    let db = p.services.iter().find(|s| s.name == "db").unwrap();
    assert_eq!(db.stops_after, ["app"]);
    assert_eq!(
        db.steps,
        [
            "USR2, until its ports are closed, at most 30 s, then 200 ms",
            "TERM, until it is gone, at most 15 s",
            "KILL the service if it is still there; TERM to processes it left, 2 s later KILL",
            "its ports are free, at most 2 s later",
        ]
    );
    let order: Vec<_> = p.services.iter().map(|s| s.name.as_str()).collect();
    let at = |n: &str| order.iter().position(|o| *o == n).unwrap();
    assert!(at("web") < at("app") && at("app") < at("db"));
    let capped = plan(&good(&text("shutdown-deadline = \"20s\"")));
    assert_eq!(capped.longest, Duration::from_secs(24));
    assert_eq!(capped.uncapped, p.longest);
    assert_eq!(plan(&good("")).longest, Duration::ZERO);
}

#[test]
fn a_reload_touches_only_what_changed() {
    let text = |a: &str, more: &str| {
        format!("[service.a]\ncommand = [\"/a\"]\n{a}\n[service.b]\ncommand = [\"/b\"]\nafter = [\"a\"]\n{more}")
    };
    let old = good(&text("", "[service.gone]\ncommand = [\"/g\"]"));
    let same = diff(
        &old,
        &good(&format!(
            "# moved\n\n{}",
            text("stop = \"TERM\"", "[service.gone]\ncommand = [\"/g\"]")
        )),
    );
    assert_eq!(same.changed, []);
    assert_eq!(same.unchanged, ["a", "b", "gone"]);
    let new = good(&text("nice = 1\nstop = \"INT\"", "stable = \"1s\"\n[service.new]\ncommand = [\"/n\"]\n[daemon]\nring = 0\nrun-dir = \"/r\"\n"));
    let d = diff(&old, &new);
    assert_eq!(
        d.changed,
        [
            ("a".into(), Change::Program),
            ("b".into(), Change::Policy),
            ("new".into(), Change::New)
        ]
    );
    assert_eq!(d.gone, ["gone"]);
    assert_eq!(d.now, ["ring: 16384 bytes -> 0 bytes"]);
    assert_eq!(
        d.next_start,
        ["run-dir: /var/run/superd -> /r takes effect at the next start"]
    );
}

#[test]
fn a_stop_option_is_what_could_stand_in_the_file() {
    assert_eq!(
        stop_schedule("INT").unwrap().steps[0].action,
        Action::Signal(Signal::INT, To::Main)
    );
    assert_eq!(stop_schedule("caddy-api").unwrap().steps.len(), 2);
    assert_eq!(
        stop_schedule("[{ signal = \"TERM\", wait = \"5s\" }]")
            .unwrap()
            .longest(),
        Duration::from_secs(7)
    );
    assert!(stop_schedule("TREM")
        .unwrap_err()
        .contains("did you mean `TERM`?"));
    for bad in ["", "'", "[", "[]", "[1]", "[{}]"] {
        assert!(!stop_schedule(bad).unwrap_err().is_empty(), "{bad}");
    }
}

#[test]
fn the_disk_is_read_without_waiting_and_only_regular_files() {
    let dir = std::env::temp_dir().join(format!("superd-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let said = |path: &Path| {
        load(path)
            .map(|_| String::new())
            .unwrap_or_else(|p| p.to_string())
    };
    assert!(said(&dir).contains("is a directory, not a file"));
    assert!(said(&dir.join("none")).contains("cannot open: No such file or directory"));
    assert!(said(Path::new("/dev/null")).contains("is not a regular file"));
    let fifo = dir.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(said(&fifo).contains("is not a regular file"));
    let main = dir.join("superd.toml");
    std::fs::write(
        &main,
        format!(
            "include = [\"none.d/*.toml\"]\n[daemon]\nknown-faults = \"{}/none.toml\"\n\
             [service.x]\ncommand = [\"/x\"]",
            dir.display()
        ),
    )
    .unwrap();
    assert_eq!(said(&main), "");
    let checked = check(&main, Some(20)).unwrap();
    let missing = "service \"x\": there is no program `/x` here";
    assert_eq!(checked.warnings, [missing]);
    let e = check(&main, Some(5)).unwrap_err().to_string();
    assert!(
        e.contains("not less than procd's term_timeout of 5 s")
            && e.ends_with("set term_timeout to 20"),
        "{e}"
    );
    if nix::unistd::geteuid().is_root() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&main, 0o666);
        assert!(said(&main).contains("chmod go-w"));
        mode(&main, 0o644);
        // Issue 5: who can write there can put another file in its place.
        mode(&dir, 0o775);
        let text = format!(
            "others than root can write {0} (chmod go-w {0})",
            dir.display()
        );
        assert!(said(&main).contains(&text), "{}", said(&main));
        mode(&dir, 0o1777);
        assert_eq!(said(&main), "");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// The file may be meant for another machine: that is no error.
#[test]
fn what_is_not_on_this_machine_is_warned_of() {
    let warnings = |keys: &str| {
        let config = good(&format!(
            "[daemon]\nknown-faults = \"/none\"\n[service.x]\n{keys}\n"
        ));
        super::warnings(&config, &plan(&config))
    };
    let none = Vec::<String>::new();
    assert_eq!(
        warnings("command = [\"/bin/sh\"]\nuser = \"root\"\ngroup = \"0\"\ngroups = [\"12345\"]"),
        none
    );
    assert_eq!(
        warnings("command = [\"sh\"]\noutput = { file = \"/none/x\" }"),
        none
    );
    assert_eq!(
        warnings(
            "command = [\"/etc/passwd\"]\nuser = \"nobody-here\"\ngroup = \"none-here\"\n\
             groups = [\"root\", \"wheel-here\"]\ndirectory = \"/none\"\noutput = { file = \"/dev/null\" }"
        ),
        [
            "service \"x\": there is no program `/etc/passwd` here",
            "service \"x\": there is no user `nobody-here` here",
            "service \"x\": there is no group `none-here` here",
            "service \"x\": there is no group `wheel-here` here",
            "service \"x\": there is no directory `/none` here",
            "service \"x\": its log is no regular file: `/dev/null` here",
        ]
    );
    let elsewhere = "command = [\"sh\"]\nenvironment = { PATH = \"/etc:/none\" }";
    assert_eq!(
        warnings(elsewhere),
        ["service \"x\": there is no program `sh` here"]
    );
    // Nobody can say.
    assert_eq!(
        warnings("command = [\"none-here\"]\nenvironment-file = \"/x\""),
        none
    );
    assert_eq!(warnings("command = [\"./sh\"]\ndirectory = \"/bin\""), none);
}

#[test]
fn the_shipped_files_load() {
    let mut files = shipped();
    let config = load_with(Path::new(MAIN), &mut files).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(config.files.len(), files.len(), "a file is not included");
    for name in ["caddy", "nats", "http3", "air", "go2rtc"] {
        assert!(!config.services[name].policy.autostart, "{name}");
    }
    assert_eq!(config.daemon, Daemon::default());
}

/// The steps of a schedule in short: what, to whom, until when.
fn in_short(steps: &[crate::machine::spec::Step]) -> Vec<String> {
    let step = |s: &crate::machine::spec::Step| {
        let what = match &s.action {
            Action::Signal(signal, To::Main) => signal.to_string(),
            Action::Signal(signal, to) => format!("{signal} to {to:?}"),
            Action::Http(_) => "http".to_owned(),
            Action::Run(_) => "run".to_owned(),
            Action::Drain(_) => "drain".to_owned(),
            Action::Hook(_) => "hook".to_owned(),
        };
        let settle = if s.settle.is_zero() { "" } else { ", settle" };
        format!("{what}, {:?} {} s{settle}", s.until, s.wait.as_secs())
    };
    steps.iter().map(step).collect()
}

/// What the measurements of the five faulty servers ask for, whoever tidies up the files.
#[test]
fn the_shipped_schedules_are_those_that_were_measured() {
    let config = load_with(Path::new(MAIN), &mut shipped()).unwrap_or_else(|p| panic!("{p}"));
    let steps = |name: &str| in_short(&config.services[name].policy.stop.steps);
    // Never a signal beside the API: the two together are the panic.
    assert_eq!(steps("caddy"), ["http, Gone 10 s", "QUIT, Gone 2 s"]);
    // TERM only when NATS, which knows USR2 alone, is down already.
    let nats = ["USR2, PortsClosed 30 s, settle", "TERM, Gone 15 s"];
    assert_eq!(steps("nats"), nats);
    // No signal to the wrapper.
    let air = ["TERM to Descendants, DescendantsGone 5 s"];
    assert_eq!(steps("air"), air);
    assert_eq!(steps("go2rtc"), ["TERM, Gone 5 s"]);
    // It waits for nobody itself.
    let http3 = [
        "drain, NoConnections 30 s",
        "TERM, Gone 15 s",
        "QUIT, Gone 2 s",
    ];
    assert_eq!(steps("http3"), http3);
    // Each crash is answered within half a second, ten percent of jitter and the start included.
    let restart = &config.services["http3"].policy.restart;
    assert!(restart.max_delay <= Duration::from_millis(200));
    assert!(config.services["nats"].policy.success_exit.contains(&1));
}

/// A definition without its reason would be changed by the next one who reads it.
#[test]
fn the_shipped_services_say_why_their_schedule_is_what_it_is() {
    for (path, text) in shipped() {
        if path == Path::new(MAIN) {
            continue;
        }
        let text = String::from_utf8(text).unwrap();
        let (reason, definition) = text.split_once("[service.").unwrap();
        let words = reason.lines().filter(|l| l.starts_with("# ")).count();
        assert!(words >= 8, "{}: no reason given", path.display());
        assert!(reason.contains('#') && reason.contains('/'), "no source");
        assert!(definition.contains("\nstop = "), "{}", path.display());
    }
}

/// The presets as superd.toml(5) shows them are what they are.
#[test]
fn the_manual_shows_the_steps_of_each_preset() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let man = std::fs::read_to_string(root.join("packaging/man/superd.toml.5")).unwrap();
    for name in PRESETS {
        let item = man.split(&format!(".It Ql {name}\n")).nth(1).unwrap();
        let literal = item.split(".Bd -literal -compact\n").nth(1).unwrap();
        let shown = literal.split("\n.Ed").next().unwrap();
        let typed = shown.replace(",\n ", ", ").replace("}\n{", "}, {");
        let typed = service(&format!("stop = [{typed}]"));
        let named = service(&format!("stop = \"{name}\""));
        assert_eq!(typed.policy.stop.steps, named.policy.stop.steps, "{name}");
    }
}

/// `etc/superd.toml` with every setting that is commented out put in force.
pub(super) fn uncommented() -> String {
    let text = String::from_utf8(shipped().remove(Path::new(MAIN)).unwrap()).unwrap();
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| !" #".contains(c)) => setting.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|l| uncomment(l) + "\n").collect()
}

#[test]
fn what_is_commented_out_in_the_reference_is_right_and_is_the_default() {
    let text = uncommented();
    let config = load_text(&text).unwrap_or_else(|p| panic!("{p}\n{text}"));
    assert!(config.services.len() >= 2);
    let plain = service("");
    let defaults: String = text
        .split_inclusive('\n')
        .skip_while(|l| *l != "[defaults]\n")
        .take_while(|l| !l.starts_with("[service"))
        .collect();
    let with = good(&format!(
        "{defaults}\n[service.x]\ncommand = [\"/bin/x\"]\n"
    ));
    assert_eq!(with.services["x"].policy, plain.policy);
    assert_eq!(with.services["x"].program, plain.program);
}

#[test]
fn every_is_for_oneshots() {
    let every = |keys: &str| service(keys).policy.timer;
    assert_eq!(every("type = \"oneshot\""), None);
    let six = Some(Timer::Every(Duration::from_secs(6 * 3600)));
    assert_eq!(every("type = \"oneshot\"\nevery = \"6h\""), six);
    let at = Some(Timer::At(12_600));
    assert_eq!(every("type = \"oneshot\"\nat = \"03:30\""), at);
    for (keys, said) in [
        (
            "every = \"6h\"",
            "3:1: service \"x\": `remain`, `every` and `at` go with type = \"oneshot\"",
        ),
        (
            "every = \"999ms\"",
            "3:9: service \"x\": `every` must be at least 1000ms",
        ),
        (
            "at = \"03:30\"",
            "3:1: service \"x\": `remain`, `every` and `at` go with type = \"oneshot\"",
        ),
        (
            "at = \"3:30\"",
            "3:6: service \"x\": `at`: `3:30` is not a time of day: write \"03:30\" or \"03:30:15\"",
        ),
        (
            "at = 330",
            "3:6: service \"x\": `at`: `330` is not a time of day: write \"03:30\" or \"03:30:15\"",
        ),
        (
            "at = \"03:30\"\nevery = \"1h\"\ntype = \"oneshot\"",
            "4:1: service \"x\": `every` or `at`, not both",
        ),
    ] {
        assert_eq!(bad_service(keys), said, "{keys}");
    }
}

#[test]
fn what_of_the_world_is_waited_for_is_read() {
    let wait_for = |keys: &str| service(keys).policy.wait_for.map(|w| (*w).clone());
    assert_eq!(wait_for(""), None);
    assert_eq!(wait_for("wait-for = false"), None);
    let all = wait_for(
        "wait-for = { interface = [\"wan\", \"br-lan\"], path = \"/mnt/usb\", address = \"fd00::1\", \
         time = \"synced\", timeout = \"1m\", then = \"start\" }",
    )
    .unwrap();
    let mut words: Vec<String> = all.all.iter().map(ToString::to_string).collect();
    words.sort();
    let wanted = [
        "address fd00::1",
        "interface br-lan",
        "interface wan",
        "path /mnt/usb",
        "synchronised time",
    ];
    assert_eq!(words, wanted);
    assert_eq!(
        (all.timeout, all.then),
        (Some(Duration::from_secs(60)), Then::Start)
    );
    let plain = wait_for("wait-for = { address = \"10.0.0.1\" }").unwrap();
    assert_eq!((plain.timeout, plain.then), (None, Then::Fail));
    for (keys, said) in [
        ("{}", "3:12: service \"x\": `wait-for` names 1 to 16 things: write { interface = \"wan\", path = \"/mnt/usb\" }"),
        ("{ timeout = \"1s\" }", "3:12: service \"x\": `wait-for` names 1 to 16 things: write { interface = \"wan\", path = \"/mnt/usb\" }"),
        ("{ iface = \"wan\" }", "3:14: service \"x\": `wait-for`: unknown key `iface`"),
        ("{ interface = \"a/b\" }", "3:26: service \"x\": `wait-for`: `interface`: `a/b` is not the name of an interface: write \"wan\" (at most 15 bytes without / : and spaces)"),
        ("{ interface = \"\" }", "3:26: service \"x\": `wait-for`: `interface` must be the name of an interface, not ``: write \"wan\" (at most 15 bytes without / : and spaces)"),
        ("{ path = \"mnt\" }", "3:21: service \"x\": `wait-for`: `path` must be a path that begins with /, not `mnt`"),
        ("{ address = \"wan\" }", "3:24: service \"x\": `wait-for`: `address`: `wan` is not the address of a machine: write \"10.0.0.1\" or \"fd00::1\""),
        ("{ address = \"0.0.0.0\" }", "3:24: service \"x\": `wait-for`: `address`: `0.0.0.0` is not the address of a machine: write \"10.0.0.1\" or \"fd00::1\""),
        ("{ time = \"set\" }", "3:21: service \"x\": `wait-for`: `time` cannot be `set`; it is one of synced"),
        ("{ time = \"synced\", then = \"start\" }", "3:38: service \"x\": `wait-for`: `then` goes with `timeout`"),
        ("{ time = \"synced\", timeout = \"0s\" }", "3:41: service \"x\": `wait-for`: `timeout` must be longer than 0"),
    ] {
        assert_eq!(bad_service(&format!("wait-for = {keys}")), said, "{keys}");
    }
}

#[test]
fn every_key_is_in_the_manual_and_in_the_reference() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let man = std::fs::read_to_string(root.join("packaging/man/superd.toml.5")).unwrap();
    let reference = uncommented();
    let lists = [
        keys::DAEMON,
        keys::SERVICE,
        keys::STEP,
        keys::WAIT_FOR,
        keys::READY,
        keys::HEALTH,
        keys::CRASH_LOOP,
        keys::OUTPUT,
        keys::MAX_CONNECTIONS,
        keys::RELOAD,
        keys::HOOK,
    ];
    for key in lists.iter().copied().flatten() {
        let item = format!("\n.It Ic {key} ");
        let alone = format!("\n.It Ic {key}\n");
        assert!(
            man.contains(&item) || man.contains(&alone),
            "superd.toml(5) lacks {key}"
        );
        assert!(
            reference.contains(&format!("{key} = ")),
            "etc/superd.toml lacks {key}"
        );
    }
    for key in keys::TOP {
        assert!(man.contains(key) && reference.contains(key), "{key}");
    }
    let limits = LIMITS.iter().map(|(name, ..)| *name);
    let words = limits
        .chain(PRESETS.iter().copied())
        .chain(stop::UNTIL.iter().map(|(w, _)| *w))
        .chain(confine::CAPABILITIES.iter().copied());
    for word in words {
        assert!(
            man.contains(&format!(" {word}\n")) || man.contains(&format!(" {word} ")),
            "superd.toml(5) lacks {word}"
        );
    }
}

/// What the README shows is one configuration.
#[test]
fn what_the_readme_shows_is_accepted() {
    let blocks = include_str!("../../README.md").split("```toml\n").skip(1);
    let text: String = blocks.map(|b| b.split("```").next().unwrap()).collect();
    let config = good(&text);
    assert!(config.services.contains_key("web"));
    for key in ["wait-for", "capabilities", "compress", "restart-with"] {
        assert!(text.contains(&format!("{key} = ")), "no example of {key}");
    }
}

/// What a key does is tested with a real child. That it is the right test, only a reader can see.
#[test]
fn every_key_and_every_word_is_in_an_end_to_end_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e");
    let mut all = String::new();
    for dir in [root.clone(), root.join("real_servers")] {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "rs") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let all = all.replace("\\n", "\n"); // as in a string
    let is_set = |key: &str| {
        let set = format!("{key} = ");
        let free =
            |at: usize| !all[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
        all.match_indices(&set).any(|(at, _)| free(at)) || all.contains(&format!("\"{key}\""))
    };
    let lists = [
        keys::DAEMON,
        keys::SERVICE,
        keys::STEP,
        keys::READY,
        keys::WAIT_FOR,
        keys::HEALTH,
        keys::OUTPUT,
        keys::CRASH_LOOP,
        keys::MAX_CONNECTIONS,
        keys::RELOAD,
        keys::HOOK,
    ];
    let limits = LIMITS.iter().map(|(name, ..)| *name);
    let keys = lists.iter().copied().flatten().copied().chain(limits);
    let untested: Vec<&str> = keys.filter(|key| !is_set(key)).collect();
    assert_eq!(untested, [""; 0]);
    for word in stop::UNTIL.iter().map(|(w, _)| *w) {
        assert!(all.contains(word), "until = {word}");
    }
}

/// Any bytes give a configuration, or problems with places that exist.
#[test]
fn no_mutation_of_a_file_makes_it_panic() {
    let seed = std::env::var("SUPERD_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or(0x5eed);
    println!("SUPERD_SEED={seed}");
    let mut state = seed;
    let mut random = move |below: usize| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below.max(1) as u64).unwrap()
    };
    let mut corpus: Vec<Vec<u8>> = shipped().into_values().collect();
    corpus.push(uncommented().into_bytes());
    let dictionary: &[&[u8]] = &[
        b"[",
        b"]",
        b"{",
        b"}",
        b"=",
        b"\"",
        b"'''",
        b"\"\"\"",
        b".",
        b"#",
        b"\n",
        b"\r",
        b"\0",
        b"\xff",
        b"99999999999999999999",
        b"-1",
        b"1e999",
        b"nan",
        b"0x",
        b"\\u0000",
        b"[service.x]\n",
        b"[daemon]\n",
        b"include = [\"*\"]\n",
        b"stop = ",
        b"\xc3\xb6",
        b"365d",
        b"after = [\"x\"]\n",
        b"[service.\"x@\"]\ncommand = [\"%i\"]\n",
        b"[service.\"x@y\"]\n",
        b"requires = [\"x@z\"]\n",
        b"%%",
        b"1979-05-27",
    ];
    let rounds = if cfg!(debug_assertions) {
        1_500
    } else {
        20_000
    };
    let mut loaded = 0;
    for _ in 0..rounds {
        let mut bytes = corpus[random(corpus.len())].clone();
        for _ in 0..=random(6) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 => drop(bytes.drain(at..(at + random(40)).min(bytes.len()))),
                2 => {
                    let word = dictionary[random(dictionary.len())];
                    bytes.splice(at..at, word.iter().copied());
                }
                _ => {
                    let end = (at + random(200)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = random(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let lines = bytes.iter().filter(|b| **b == b'\n').count() + 1;
        let mut files = Map::from([(PathBuf::from(MAIN), bytes)]);
        match load_with(Path::new(MAIN), &mut files) {
            Ok(config) => {
                loaded += 1;
                plan(&config);
                assert_eq!(diff(&config, &config).changed, []);
            }
            Err(problems) => {
                assert!(!problems.is_empty());
                for p in problems.iter() {
                    assert!(p.place.line <= lines, "{p}");
                    assert!(
                        p.place.line > 0 && p.place.col > 0 || p.place.line == 0,
                        "{p}"
                    );
                    assert!(
                        !p.to_string().contains('\n') && p.to_string().len() < 1000,
                        "{p}"
                    );
                }
            }
        }
    }
    assert!(
        loaded > rounds / 100,
        "{loaded} of {rounds}: the mutations are too wild to say much"
    );
}

#[test]
fn output_may_be_a_file() {
    let file = |keys: &str| service(keys).program.log_file.clone().unwrap();
    let f = file("output = { file = \"/var/log/x.log\" }");
    assert_eq!((f.max_size, f.keep, f.timestamps), (1 << 20, 4, false));
    let f = file("output = { file = \"/x\", max-size = \"64KiB\", keep = 0, timestamps = true }");
    assert_eq!((f.max_size, f.keep, f.timestamps), (65_536, 0, true));
    let f = file("output = { file = \"/x\", compress = [\"gzip\", \"-9\"] }");
    assert_eq!(f.compress, ["gzip", "-9"]);
    for (value, said) in [
        (
            "\"file\"",
            "3:10: service \"x\": `output` cannot be `file`; it is one of log, ring, null, inherit",
        ),
        (
            "{}",
            "3:10: service \"x\": `output` needs `file`: write { file = \"/var/log/name.log\" }",
        ),
        (
            "{ file = \"x.log\" }",
            "3:19: service \"x\": `output`: `file` must be a path that begins with /, not `x.log`",
        ),
        (
            "{ file = \"/var/log/\" }",
            "3:19: service \"x\": `output`: `file` must be the path of a file, of at most 500 bytes",
        ),
        (
            "{ file = \"/x\", max-size = 100 }",
            "3:36: service \"x\": `output`: `max-size` must be at least 16KiB, not 100 bytes",
        ),
        (
            "{ file = \"/x\", keep = 101 }",
            "3:32: service \"x\": `output`: `keep` must be a whole number from 0 to 100, not 101",
        ),
        (
            "{ file = \"/x\", compress = true }",
            "3:36: service \"x\": `output`: `compress` must be a command: write [\"/path/to/program\", \"argument\"]",
        ),
        (
            "{ file = \"/x\", compress = [] }",
            "3:36: service \"x\": `output`: `compress` is empty: write [\"/path/to/program\", \"argument\"]",
        ),
        (
            "{ file = \"/x\", keep = 0, compress = [\"gzip\"] }",
            "3:10: service \"x\": `compress` needs a `keep` of at least 1: there are no full files else",
        ),
        (
            "{ file = \"/x\", timestamps = 1 }",
            "3:38: service \"x\": `output`: `timestamps` must be true or false, not 1",
        ),
        (
            "{ file = \"/x\", keeps = 1 }",
            "3:25: service \"x\": `output`: unknown key `keeps` (did you mean `keep`?)",
        ),
    ] {
        assert_eq!(bad_service(&format!("output = {value}")), said, "{value}");
    }
}

#[test]
fn two_services_cannot_have_one_log_file() {
    let two = |a: &str, b: &str| {
        let one = |name: &str, file: &str| {
            format!("[service.{name}]\ncommand = [\"/x\"]\noutput = {{ file = \"{file}\" }}\n")
        };
        one("a", a) + &one("b", b)
    };
    // The second: what the other's file is renamed to when it is full.
    for (a, b) in [
        ("/l/x", "/l/x"),
        ("/l/x", "/l/x.1"),
        ("/l/x.12", "/l/x"),
        ("/l/x", "/l/x.3.gz"),
        ("/l/x", "/l/x.gz-part"),
    ] {
        let said = bad(&two(a, b));
        assert_eq!(said.len(), 1, "{said:?}");
        let end = format!(
            "service \"b\": {b} is the log file of service \"a\" too: each needs one of its own"
        );
        assert_eq!(said[0], format!("6:1: {end}"));
        // Issue 5: it came out when the rest was mended.
        let said = bad(&(two(a, b) + "nice = 99\n"));
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[0], format!("6:1: {end}"));
    }
    let of_defaults = "[defaults]\noutput = { file = \"/l/x\" }\n[service.a]\ncommand = [\"/x\"]\n\
                       [service.b]\ncommand = [\"/x\"]\n";
    let said = bad(of_defaults);
    assert!(
        said.len() == 1 && said[0].starts_with("5:10: service \"b\""),
        "{said:?}"
    );
    for (a, b) in [
        ("/l/x", "/l/y"),
        ("/l/x", "/l/x."),
        ("/l/x", "/l/x.1a"),
        ("/l/x", "/l/x1"),
    ] {
        good(&two(a, b));
    }
}

#[test]
fn a_reload_is_a_signal_a_command_or_a_request_and_has_a_checker() {
    let x = service("reload = { http = \"POST http://127.0.0.1:9090/-/reload\", wait = \"5s\" }");
    match x.policy.reload {
        Some(Reload::Http(http, wait)) => {
            assert_eq!(http.to_string(), "POST http://127.0.0.1:9090/-/reload");
            assert_eq!(wait, Duration::from_secs(5));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(x.policy.check, None);
    let check = service("check = [\"/bin/x\", \"-t\"]")
        .policy
        .check
        .unwrap();
    assert_eq!(check.argv.join(" "), "/bin/x -t");
    assert_eq!(check.wait, Duration::from_secs(30));
    let text = "[defaults]\ncheck = [\"/bin/t\"]\ncheck-timeout = \"2s\"\n\
                [service.x]\ncommand = [\"/bin/x\"]\n\
                [service.y]\ncommand = [\"/bin/y\"]\ncheck = false\n";
    let both = good(text).services;
    let wait = both["x"].policy.check.as_ref().unwrap().wait;
    assert_eq!(wait, Duration::from_secs(2));
    assert_eq!(both["y"].policy.check, None);
}

#[test]
fn files_that_are_watched_are_read() {
    let watch = |keys: &str| service(keys).policy.watch;
    assert_eq!(watch(""), None);
    assert_eq!(watch("watch = []"), None);
    assert_eq!(watch("watch = false"), None);
    let both = watch("watch = [\"/etc/a\", \"/etc/b.d\"]").unwrap();
    let files: Vec<&str> = both.files.iter().map(|f| &**f).collect();
    assert_eq!(
        (files, both.then),
        (vec!["/etc/a", "/etc/b.d"], OnChange::Restart)
    );
    let reload = "reload = { signal = \"HUP\" }\nwatch = [\"/etc/a\"]\n";
    assert_eq!(watch(reload).unwrap().then, OnChange::Reload);
    let restart = format!("{reload}on-change = \"restart\"");
    assert_eq!(watch(&restart).unwrap().then, OnChange::Restart);
    let config = good(
        "[defaults]\nwatch = [\"/etc/resolv.conf\"]\non-change = \"restart\"\n\
         [service.x]\ncommand = [\"/x\"]\nreload = { signal = \"HUP\" }\n\
         [service.y]\ncommand = [\"/y\"]\nwatch = false",
    );
    let of = |name: &str| config.services[name].policy.watch.clone();
    assert_eq!(of("x").unwrap().then, OnChange::Restart);
    assert_eq!(of("y"), None);
    let many: Vec<String> = (0..17).map(|n| format!("\"/{n}\"")).collect();
    let many = format!("watch = [{}]", many.join(","));
    for (keys, line) in [
        ("watch = [\"etc/x\"]", "3:10: service \"x\": `watch` must be a path that begins with /, not `etc/x`"),
        ("watch = [\"\"]", "3:10: service \"x\": `watch` must be a path that begins with /, not ``"),
        ("watch = [\"/a/*.conf\"]", "3:9: service \"x\": `watch`: `/a/*.conf` is a pattern, which is not understood here: name each file"),
        ("watch = [\"/a\", \"/a\"]", "3:9: service \"x\": `watch`: `/a` is there twice"),
        ("watch = \"/a\"", "3:9: service \"x\": `watch` must be an array of strings, not `/a`: write [\"/a\"]"),
        ("watch = [1]", "3:10: service \"x\": `watch` must be a path that begins with /, not 1"),
        (&many, "3:9: service \"x\": `watch`: `/16` is one too many: at most 16 files"),
        ("on-change = \"restart\"", "3:1: service \"x\": `on-change` goes with `watch`"),
        ("watch = [\"/a\"]\non-change = \"reload\"", "4:1: service \"x\": on-change = \"reload\" needs `reload`"),
        ("watch = [\"/a\"]\non-change = \"relaod\"", "4:13: service \"x\": `on-change` cannot be `relaod` (did you mean `reload`?); it is one of restart, reload"),
    ] {
        assert_eq!(bad_service(keys), line);
    }
}

#[test]
fn hooks_come_with_their_times_and_from_the_defaults() {
    assert!(service("").policy.hooks.is_none());
    let policy = service(
        "pre-stop = [\"/bin/a\"]\npost-stop = { run = [\"/bin/b\", \"-x\"], timeout = \"4s\" }\n\
         on-crash = { run = [\"/bin/c\"] }",
    )
    .policy;
    let hooks = policy.hooks.unwrap();
    assert_eq!(hooks.pre_start, None);
    assert_eq!(
        hooks.post_stop.as_ref().unwrap().argv.join(" "),
        "/bin/b -x"
    );
    assert_eq!(
        hooks.on_crash.as_ref().unwrap().wait,
        Duration::from_secs(10)
    );
    assert_eq!(policy.stop.after, Duration::from_secs(14));
    assert_eq!(
        in_short(&policy.stop.steps),
        ["hook, ActionEnded 10 s", "TERM, Gone 15 s"]
    );
    let text = "[defaults]\npre-start = [\"/bin/a\"]\npost-start = [\"/bin/b\"]\npre-stop = [\"/bin/c\"]\n\
                [service.x]\ncommand = [\"/bin/x\"]\n\
                [service.y]\ncommand = [\"/bin/y\"]\npre-start = false\npost-start = false\npre-stop = false\n\
                [service.z]\ncommand = [\"/bin/z\"]\ntype = \"oneshot\"\n";
    let all = good(text).services;
    let x = all["x"].policy.hooks.as_ref().unwrap();
    assert!(x.pre_start.is_some() && x.post_start.is_some());
    assert!(all["x"].policy.stop.has_hook());
    assert!(all["y"].policy.hooks.is_none() && !all["y"].policy.stop.has_hook());
    let z = all["z"].policy.hooks.as_ref().unwrap();
    assert!(z.pre_start.is_some() && z.post_start.is_none());
}
