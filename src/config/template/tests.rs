//! Templates and their instances, from files and from requests.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::config::load::load_with;
use crate::config::{diff, plan};
use crate::machine::event::Change;
use crate::machine::ready::{Question, Sign};
use crate::machine::spec::{Action, HttpAddress};
use crate::map::Map;

fn load(files: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let path = |name: &str| PathBuf::from(format!("/etc/superd/{name}"));
    let mut memory: Map<PathBuf, Vec<u8>> = files
        .iter()
        .map(|(name, text)| (path(name), text.as_bytes().to_vec()))
        .collect();
    load_with(Path::new("/etc/superd/superd.toml"), &mut memory).map_err(|problems| {
        let lines = problems.lines().into_iter();
        lines.map(|l| l.replace("/etc/superd/", "")).collect()
    })
}

fn good(text: &str) -> Config {
    load(&[("superd.toml", text)]).unwrap_or_else(|p| panic!("{p:#?}"))
}

fn bad(text: &str) -> Vec<String> {
    load(&[("superd.toml", text)]).expect_err("no problem found")
}

fn with(config: &Config, asked: &[&str]) -> Result<Config, Vec<String>> {
    let config = config.with_instances(asked.iter().copied());
    config.map_err(|p| {
        let lines = p.lines().into_iter();
        lines.map(|l| l.replace("/etc/superd/", "")).collect()
    })
}

#[test]
fn a_template_is_no_service_and_an_instance_is_one() {
    let config = good(
        r#"
        [defaults]
        restart-delay = "7s"
        environment = { A = "100%", B = "b" }
        [service."cam@"]
        command = ["/bin/cam", "--name=%i", "100%%", "%%i"]
        umask = "077"
        nice = 3
        environment = { CAM = "cam-%i", B = "\"\\\u0007 ü" }
        limits = { nofile = [10, "unlimited"] }
        directory = "/srv/%i"
        output = { file = "/var/log/%i.log", timestamps = false }
        sockets = ["tcp://127.0.0.1:%i"]
        ready = { http = "GET http://127.0.0.1:%i/", status = [200, 0x0_cc] }
        stop = [{ run = ["/bin/bye", "%i"], wait = "1s" }, { signal = "TERM" }]
        "#,
    );
    assert!(config.services.is_empty());
    assert_eq!(config.templates.names().collect::<Vec<_>>(), ["cam@"]);
    let config = with(&config, &["cam@8001", "cam@8002", "other@1", "cam"]).unwrap();
    let names: Vec<&String> = config.services.keys().collect();
    assert_eq!(names, ["cam@8001", "cam@8002"]);
    let cam = &config.services["cam@8002"];
    assert_eq!(cam.made, Made::Asked);
    assert_eq!(cam.place, "/etc/superd/superd.toml:5:18");
    let p = &cam.program;
    assert_eq!(p.command, ["/bin/cam", "--name=8002", "100%", "%i"]);
    assert_eq!((p.umask, p.nice), (0o077, Some(3)));
    let variable = |name: &str| p.environment.get(name).map(String::as_str);
    assert_eq!(variable("A"), Some("100%"), "the defaults are no template");
    assert_eq!(variable("B"), Some("\"\\\u{7} ü"));
    assert_eq!(variable("CAM"), Some("cam-8002"));
    assert_eq!(p.limits.len(), 1);
    assert_eq!(p.directory.as_deref(), Some("/srv/8002"));
    let file = p.log_file.as_ref().unwrap();
    assert_eq!(
        (file.path.as_str(), file.timestamps),
        ("/var/log/8002.log", false)
    );
    assert_eq!(p.sockets, ["127.0.0.1:8002".parse::<SocketAddr>().unwrap()]);
    let Sign::Probe(probe) = &cam.policy.ready.as_ref().unwrap().sign else {
        panic!("no probe");
    };
    let Question::Http(http, statuses) = &probe.what else {
        panic!("no request");
    };
    assert_eq!(http.to, HttpAddress::Tcp("127.0.0.1:8002".parse().unwrap()));
    assert_eq!(statuses[..], [200, 204]);
    let run = &cam.policy.stop.steps[0].action;
    assert!(matches!(run, Action::Run(argv) if argv.last().unwrap() == "8002"));
    assert_eq!(cam.policy.restart.delay, Duration::from_secs(7));
    assert!(!cam.policy.autostart, "it is started by who asks for it");
    // Others in their place.
    let config = with(&config, &["cam@8003"]).unwrap();
    assert_eq!(config.services.keys().collect::<Vec<_>>(), ["cam@8003"]);
}

#[test]
fn a_section_of_an_instance_replaces_keys_of_its_template_wherever_they_are() {
    let main = r#"
        include = ["*.conf"]
        [service."cam@a"]
        nice = 5
        environment = { X = "mine %i" }
        [service."cam@b"]
        command = ["/bin/other", "%%"]
        autostart = false
    "#;
    let included = r#"
        [service."cam@"]
        command = ["/bin/cam", "%i"]
        nice = 3
        environment = { X = "x", Y = "y%i" }
        [service."lone@x"]
        command = ["/bin/date", "+%i%H"]
    "#;
    let config = load(&[("superd.toml", main), ("cam.conf", included)]).unwrap();
    let get = |name: &str| &config.services[name];
    let a = get("cam@a");
    assert_eq!(a.program.command, ["/bin/cam", "a"]);
    assert_eq!(a.program.nice, Some(5));
    let variables: Vec<(&str, &str)> = a
        .program
        .environment
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(variables, [("X", "mine a"), ("Y", "ya")]);
    assert!(a.policy.autostart);
    assert_eq!(
        (a.made, a.place.as_str()),
        (Made::InFile, "/etc/superd/superd.toml:3:18")
    );
    assert_eq!(get("cam@b").program.command, ["/bin/other", "%"]);
    assert_eq!(
        get("lone@x").program.command[1],
        "+%i%H",
        "it has no template"
    );
    // Those of the file stay when others are asked for.
    let more = with(&config, &["cam@c", "cam@a"]).unwrap();
    let made: Vec<(&str, Made)> = more
        .services
        .values()
        .map(|d| (d.name.as_str(), d.made))
        .collect();
    assert_eq!(
        made,
        [
            ("cam@a", Made::InFile),
            ("cam@b", Made::InFile),
            ("cam@c", Made::Asked),
            ("lone@x", Made::InFile),
        ]
    );
}

#[test]
fn who_is_required_or_wanted_is_made_and_who_only_comes_before_is_not() {
    let config = good(
        r#"
        [service.web]
        command = ["/bin/web"]
        requires = ["net@lan"]
        after = ["cam@x"]
        [service."net@"]
        command = ["/bin/net", "%i"]
        wants = ["link@%i"]
        [service."link@"]
        command = ["/bin/link", "%i"]
        [service."cam@"]
        command = ["/bin/cam", "%i"]
        requires = ["net@%i"]
        stop = [{ signal = "TERM", wait = "1m" }]
        "#,
    );
    let names: Vec<&String> = config.services.keys().collect();
    assert_eq!(names, ["link@lan", "net@lan", "web"]);
    assert_eq!(config.services["link@lan"].made, Made::Named);
    assert!(config.services["link@lan"].policy.autostart);
    let with_cam = with(&config, &["cam@x"]).unwrap();
    let names: Vec<&String> = with_cam.services.keys().collect();
    assert_eq!(
        names,
        ["cam@x", "link@lan", "link@x", "net@lan", "net@x", "web"]
    );
    // Who names it is told, because its number is new.
    let changed = diff(&config, &with_cam).changed;
    let web = changed.iter().find(|(name, _)| name == "web");
    assert_eq!(web, Some(&("web".to_owned(), Change::Policy)));
    assert!(!changed.iter().any(|(name, _)| name == "net@lan"));
    let gone = diff(&with_cam, &config);
    assert_eq!(gone.gone, ["cam@x", "link@x", "net@x"]);
    assert!(gone.changed.iter().any(|(name, _)| name == "web"));
    // All that can be is in the plan: a link goes after its net, and that after its cam.
    let plan = plan(&config);
    assert_eq!(plan.critical, ["cam@", "net@", "link@"]);
    assert_eq!(plan.services.len(), 6);
}

#[test]
fn what_is_wrong_with_a_template_is_said_once_and_where_it_is() {
    assert_eq!(
        bad("[service.\"a@\"]\ncommand = [\"/bin/a\", \"%n\", \"%\"]\ntcp = 1\n[service.\"a@x\"]\n[service.b]\ncommand=[\"/b\"]\nrequires = [\"a@y\"]"),
        [
            "superd.toml:2:22: service \"a@\": `%n` is neither %i (the instance's name) nor %% (a percent sign)",
            "superd.toml:2:28: service \"a@\": `%` is neither %i (the instance's name) nor %% (a percent sign)",
            "superd.toml:3:1: service \"a@\": unknown key `tcp`",
        ]
    );
    assert_eq!(
        bad("[service.\"a@\"]\ncommand = [\"/a\"]\nrequires = [\"b@%i\"]\n[service.\"b@\"]\ncommand = [\"/b\"]\nafter = [\"a@%i\", \"c-%i\"]"),
        ["superd.toml:1:10: service \"a@1\": dependency cycle: a@1 -> b@1 -> a@1"]
    );
    assert_eq!(
        bad("[service.\"a@\"]\nuser = \"%i\""),
        ["superd.toml:1:10: service \"a@\": has no `command`"]
    );
    assert_eq!(
        bad("[service.\"a@\"]\ncommand = [\"/bin/a\"]\nrequires = [\"dnsd\", \"x-%i\"]\nafter = [\"a@\"]"),
        [
            "superd.toml:3:13: service \"a@\": `requires`: no service \"dnsd\"",
            "superd.toml:4:10: service \"a@\": `after` names the service itself",
        ]
    );
    assert_eq!(
        bad("[service.\"a@\"]\ncommand = [\"/bin/a\"]\n[service.b]\ncommand = [\"/b\"]\nwants = [\"a@\"]\nafter = [\"c@1\"]"),
        [
            "superd.toml:5:10: service \"b\": `wants`: \"a@\" is a template: name an instance of it, like \"a@1\"",
            "superd.toml:6:10: service \"b\": `after`: no service \"c@1\"",
        ]
    );
    let twice = load(&[
        (
            "superd.toml",
            "include = [\"x.toml\"]\n[service.\"a@\"]\ncommand = [\"/a\"]",
        ),
        ("x.toml", "[service.\"a@\"]\ncommand = [\"/b\"]"),
    ]);
    assert_eq!(
        twice.unwrap_err(),
        ["x.toml:1:10: service \"a@\": is defined a second time; first at superd.toml:2:10"]
    );
    assert_eq!(
        bad("[service.\"@\"]\ncommand = [\"/a\"]"),
        ["superd.toml:1:10: service \"@\": a name has 1 to 64 characters of A-Z a-z 0-9 _ . @ - and begins with a letter or digit"]
    );
}

#[test]
fn an_instance_whose_name_could_do_harm_is_not_made() {
    let config = good("[service.\"a@\"]\ncommand = [\"/bin/a\", \"%i\"]\ndirectory = \"/srv/%i\"");
    let rule = "superd.toml:1:10: service \"a@..\": after the @, the name of an instance begins with a letter or digit";
    assert_eq!(with(&config, &["a@.."]).unwrap_err(), [rule]);
    for name in [
        "a@-rf", "a@@b", "a@x/y", "a@x y", "a@x\n", "a@\u{e9}", "a@.x",
    ] {
        assert_eq!(with(&config, &[name]).unwrap_err().len(), 1, "{name:?}");
    }
    let long = format!("a@{}", "x".repeat(63));
    assert_eq!(with(&config, &[&long]).unwrap_err().len(), 1);
    let long = format!("a@{}", "x".repeat(62));
    assert!(with(&config, &[&long]).is_ok());
    assert!(with(&config, &["a@x@y"]).is_ok());
    // In a file too.
    assert_eq!(
        bad("[service.\"a@\"]\ncommand = [\"/bin/a\", \"%i\"]\n[service.\"a@-x\"]"),
        ["superd.toml:3:10: service \"a@-x\": after the @, the name of an instance begins with a letter or digit"]
    );
}

#[test]
fn instances_are_bounded_and_cannot_make_each_other_for_ever() {
    let config = good("[service.\"a@\"]\ncommand = [\"/bin/a\"]");
    let names: Vec<String> = (0..=INSTANCES_CAP).map(|n| format!("a@{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(with(&config, &names[1..]).is_ok());
    assert_eq!(
        with(&config, &names).unwrap_err(),
        ["superd.toml:1:10: more than 256 instances of templates"]
    );
    // A name grows until it is too long.
    let config = good("[service.\"a@\"]\ncommand = [\"/bin/a\"]\nrequires = [\"a@%ix\"]");
    assert_eq!(with(&config, &["a@1"]).unwrap_err().len(), 1);
    let config = good("[service.\"a@\"]\ncommand = [\"/bin/a\"]\nrequires = [\"a@%i\"]");
    assert_eq!(
        with(&config, &["a@1"]).unwrap_err(),
        ["superd.toml:1:10: service \"a@1\": `requires` names the service itself"]
    );
    let config = good("[service.\"a@\"]\ncommand = [\"/bin/a\"]\nafter = [\"b-%i\"]\nready = { tcp = \"127.0.0.1:%i\" }");
    let said = with(&config, &["a@x"]).unwrap_err();
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(said.iter().any(|l| l.contains("no service \"b-x\"")));
    let config =
        good("[service.\"a@\"]\ncommand = [\"/bin/a\"]\noutput = { file = \"/var/log/a\" }");
    let said = with(&config, &["a@1", "a@2"]).unwrap_err();
    assert!(
        said[0].contains("is the log file of service \"a@1\" too"),
        "{said:?}"
    );
}

#[test]
fn a_template_as_text_says_the_same() {
    let text = "a = [1, 0x1f, 2.5, true, 1979-05-27T07:32:00Z, \"\\u0000\\n\\\"\", {b = {c = []}}]\n\"q \\\" k\" = {}\n";
    let table = DeTable::parse(text).unwrap();
    let once = text_of(table.get_ref());
    let twice = text_of(DeTable::parse(&once).unwrap().get_ref());
    assert_eq!(once, twice);
    assert!(
        once.contains("0x1f,2.5,true,1979-05-27T07:32:00Z,"),
        "{once}"
    );
}
