//! `superd rpcd`, over the protocol of rpcd's plugins: `list`, and `call METHOD` with JSON on
//! standard input.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use crate::support::*;

const PLUGIN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/packaging/openwrt/files/superd.rpcd"
);
const ACL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/packaging/openwrt/files/superd.acl.json"
);

/// Runs the plugin's script as rpcd does, with this superd in place of the router's.
fn plugin(superd: &Superd, args: &[&str], input: &[u8]) -> Value {
    let script = std::fs::read_to_string(PLUGIN).unwrap();
    let script = script.replace("/usr/sbin/superd", SUPERD);
    let mut child = Command::new("sh")
        .args(["-c", &script, "/usr/libexec/rpcd/superd"])
        .args(args)
        .env("SUPERCTL_SOCKET", superd.place.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).ok(); // it may have seen enough
    drop(stdin);
    let said = finish(child);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert!(said.out.len() < 256 * 1024);
    let value: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    assert!(value.is_object(), "blobmsg knows no other: {value}");
    value
}

fn call(superd: &Superd, method: &str, arguments: Value) -> Value {
    plugin(superd, &["call", method], arguments.to_string().as_bytes())
}

#[test]
fn every_method_does_what_superctl_does() {
    let superd = Superd::start(
        r#"
        [service.web]
        command = [$TWIN:web, "notify", "STATUS=caf\u00e9 \"x\""]
        [service.talker]
        command = ["/bin/sh", "-c", '''printf 'a"b\n\033[31m\377\n'; exec sleep 1000''']
        "#,
    );
    superd.wait_record("web", "notified", 1);
    superd.wait_state("talker", "up");
    let all = call(&superd, "status", json!({}));
    assert_eq!(
        (&all["code"], all["replies"].as_array().unwrap().len()),
        (&json!(0), 3)
    );
    // rpcd adds the session; it is none of ours.
    let one = json!({"name": "web", "ubus_rpc_session": "0123"});
    let status = call(&superd, "status", one);
    assert_eq!(status["replies"][0]["status"]["service"], "web");
    wait_until("it has spoken", || {
        superd.ok(&["logs", "talker"]).contains("a\"b")
    });
    let logs = call(&superd, "logs", json!({"name": "talker", "lines": 10}));
    let texts: Vec<&str> = logs["replies"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|r| r["line"]["text"].as_str())
        .collect();
    assert_eq!(texts, ["a\"b", "\u{1b}[31m\u{fffd}"]);
    for (method, state) in [("stop", "down"), ("start", "up"), ("restart", "up")] {
        let said = call(&superd, method, json!({"name": "talker"}));
        assert_eq!(said["code"], 0, "{said}");
        assert_eq!(superd.state("talker"), state);
    }
    let why = call(&superd, "why", json!({"name": "talker"}));
    let events = why["replies"].as_array().unwrap();
    let ended = events.iter().find(|r| r["event"]["event"] == "ended");
    // Not superd, which is what the plugin's program is called.
    assert_eq!(ended.unwrap()["event"]["by"]["command"], "rpcd", "{why}");
    for method in ["status", "stop", "start", "restart", "why", "logs"] {
        let said = call(&superd, method, json!({"name": "nobody"}));
        let code = if method == "status" { 4 } else { 6 };
        assert_eq!(said["code"], code, "{method}: {said}");
        assert_eq!(said["replies"][0]["code"], "unknown-service");
    }
    superd.end();
}

#[test]
fn a_method_that_looks_like_an_option_is_answered_in_json() {
    let s = Superd::start("[service.web]\ncommand = [$TWIN:web, \"obey\"]\n");
    for method in ["--json", "-x", "--socket"] {
        let said = plugin(&s, &["call", method], b"{}");
        assert_eq!(said["code"], 2, "{said}");
    }
    s.end();
}

#[test]
fn hostile_arguments_change_nothing() {
    let superd = Superd::start("[service.web]\ncommand = [$TWIN:web, \"obey\"]\n");
    superd.wait_record("web", "start", 1);
    superd.wait_state("web", "up");
    let names = [
        "web\", \"all\": true, \"x\": \"",
        "web\nstop",
        "--all",
        "$(reboot)",
        "../web",
        "web\u{0}",
        "\u{202e}bew",
        "",
        "*",
    ];
    for name in names {
        let said = call(&superd, "stop", json!({"name": name}));
        assert_eq!(said["code"], 6, "{name:?}: {said}");
    }
    let deep = format!("{}1{}", "{\"name\":".repeat(5000), "}".repeat(5000));
    for text in [
        &b"{\"name\":\"web\",\"name\":\"web\"}"[..],
        b"{\"name\":[\"web\"]}",
        b"{\"name\":\"web\"} trailing",
        b"{\"name\":\"\xc3\x28\"}",
        b"{\"name\":\"\\ud800\"}",
        b"\x00\x01\x02",
        b"[[[[",
        deep.as_bytes(),
        &vec![b' '; 1 << 20],
    ] {
        let said = plugin(&superd, &["call", "stop"], text);
        assert_eq!(said["code"], 2, "{said}");
    }
    for args in [
        &[][..],
        &["call"],
        &["call", "shutdown"],
        &["call", "../stop"],
        &["--help"],
    ] {
        let mut command = Command::new(SUPERD);
        let said = run(command
            .arg("rpcd")
            .args(args)
            .env("SUPERCTL_SOCKET", superd.place.socket()));
        assert!(
            said.out.contains("\"code\":2") || !said.out.starts_with('{'),
            "{said:?}"
        );
    }
    assert_eq!(superd.state("web"), "up");
    superd.assert_starts("web", 1);
    superd.end();
}

#[test]
fn what_is_more_than_rpcd_takes_is_cut_and_the_newest_stays() {
    let superd = Superd::start(
        "ring = \"1MiB\"\n[service.flood]\ncommand = [\"/bin/sh\", \"-c\", \"for i in $(seq 1000); \
         do echo $i $(printf %0900d 0); done; echo last; exec sleep 1000\"]\n",
    );
    wait_until("it is done", || {
        superd.ok(&["logs", "flood"]).contains("last")
    });
    let said = call(
        &superd,
        "logs",
        json!({"name": "flood", "lines": 4_000_000_000_u32}),
    );
    let replies = said["replies"].as_array().unwrap();
    let is_last = |r: &&Value| r["line"]["text"] == "last";
    assert!(replies.iter().any(|r| is_last(&r)), "{}", replies.len());
    assert_eq!(said["truncated"], true);
    assert!(replies.len() > 100);
    superd.end();
}

#[test]
fn the_access_lists_name_every_method_once_and_what_changes_something_is_for_writers() {
    let acl: Value = serde_json::from_str(&std::fs::read_to_string(ACL).unwrap()).unwrap();
    let of = |kind: &str| -> Vec<String> {
        serde_json::from_value(acl["superd"][kind]["ubus"]["superd"].clone()).unwrap()
    };
    assert_eq!(of("read"), ["status", "why", "logs"]);
    assert_eq!(of("write"), ["start", "stop", "restart"]);
    let list = run(Command::new(SUPERD).args(["rpcd", "list"]));
    let list: Value = serde_json::from_str(&list.out).unwrap();
    let mut methods: Vec<String> = list.as_object().unwrap().keys().cloned().collect();
    let mut named = [of("read"), of("write")].concat();
    methods.sort();
    named.sort();
    assert_eq!(methods, named);
}
