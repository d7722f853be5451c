//! JSON Schema of the configuration, for editors (taplo, Even Better TOML, VS Code): made from
//! the lists in `keys` and of the words that the readers know. Only a test: what is
//! shipped as `etc/superd.schema.json` is held to it, and costs no byte in superd.
//!
//!     SUPERD_WRITE=1 cargo test --lib shipped       writes it anew when a key has come in
//!
//! A schema knows less than superd: `superctl check` has the last word. What it refuses
//! superd refuses too, and that is tested.
//!
//! (Past 400 lines because the validator that the tests need is in it.)

use serde_json::{json, Map, Value};
use toml::de::{DeTable, DeValue};

use super::confine::{CAPABILITIES, CONTROLS};
use super::limits::LIMITS;
use super::tests::{load_text, shipped, uncommented};
use super::{keys, value, PRESETS};

const DURATION: &str = "^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";
const TIME_OF_DAY: &str = "^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$";
const SIZE: &str = "^[0-9]+([KMG]iB)?$";
const PATH: &str = "^/";
const MAYBE_PATH: &str = "^-?/";
const OCTAL: &str = "^[0-7]{1,4}$";
const SOCKET: &str = "^tcp://.+:[0-9]+$";
const CAPABILITY: &str = "^CAP_[A-Z_]+$";
const NAMED: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]*@?$";
const INSTANCE: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]*@[A-Za-z0-9_.@-]+$";
const REQUEST: &str = "^[A-Z]+ (http://|unix:/)";
const URL: &str = "^([A-Z]+ )?(http://|unix:/)";

fn text(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

fn words(list: &[&str]) -> Value {
    json!({ "enum": list })
}

fn number(from: i64, to: i64) -> Value {
    json!({"type": "integer", "minimum": from, "maximum": to})
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

fn any(of: &[Value]) -> Value {
    json!({ "anyOf": of })
}

fn or_false(of: Value) -> Value {
    any(&[of, json!({"const": false})])
}

fn size() -> Value {
    any(&[text(SIZE), json!({"type": "integer", "minimum": 0})])
}

fn command() -> Value {
    json!({"type": "array", "items": {"type": "string"}, "minItems": 1})
}

/// A table with the keys of a list, and no others.
fn table(list: &[&str], of: impl Fn(&str) -> Value) -> Value {
    let mut properties = Map::new();
    for key in list {
        properties.insert((*key).to_owned(), described(key, of(key)));
    }
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// With the first sentence of superd.toml(5).
fn described(key: &str, mut of: Value) -> Value {
    let man = include_str!("../../packaging/man/superd.toml.5");
    let item = man
        .find(&format!("\n.It Ic {key} "))
        .or_else(|| man.find(&format!("\n.It Ic {key}\n")));
    if let (Some(at), Some(object)) = (item, of.as_object_mut()) {
        let lines = man[at + 1..].lines().skip(1);
        let text = sentence(lines);
        if !text.is_empty() {
            object.insert("description".to_owned(), text.into());
        }
    }
    of
}

/// mdoc(7) as plain text, up to the first full stop at the end of a line.
fn sentence<'m>(lines: impl Iterator<Item = &'m str>) -> String {
    let mut words: Vec<String> = Vec::new();
    for line in lines.take(8) {
        let macro_name = line.strip_prefix('.').and_then(|l| l.split(' ').next());
        let plain = match macro_name {
            None => line.to_owned(),
            Some("Ic" | "Ql" | "Pa" | "Ev" | "Em" | "Li" | "Ar" | "Fl" | "Cm" | "Nm") => {
                line.split(' ').skip(1).collect::<Vec<_>>().join(" ")
            }
            Some("Xr") => {
                let mut parts = line.split(' ').skip(1);
                let name = parts.next().unwrap_or_default();
                let section = parts.next().unwrap_or_default();
                let rest: String = parts.collect();
                format!("{name}({section}){rest}")
            }
            Some(_) => return String::new(),
        };
        let plain = plain
            .replace("\\(dq", "\"")
            .replace("\\&", "")
            .replace("\\-", "-");
        words.push(plain);
        let so_far = words
            .join(" ")
            .replace(" ,", ",")
            .replace(" .", ".")
            .replace(" ;", ";");
        if so_far.ends_with('.') || so_far.ends_with(':') {
            return so_far.trim_end_matches(':').to_owned();
        }
    }
    String::new()
}

fn probe(key: &str) -> Value {
    match key {
        "tcp" => json!({"type": "string", "minLength": 1}),
        "http" => text(URL),
        "status" => any(&[number(200, 599), list(number(200, 599))]),
        "exec" | "run" => command(),
        "file" => text(PATH),
        "interval" | "timeout" => text(DURATION),
        "memory" => size(),
        "failures" => number(1, 1000),
        "action" => words(&["restart", "stop", "run"]),
        "notify" => json!({"const": true}),
        "notify-fd" => json!({"type": "integer", "minimum": 3}),
        "log" => json!({"type": "string", "minLength": 1}),
        other => panic!("the schema does not know `{other}` of a probe"),
    }
}

fn step(key: &str) -> Value {
    match key {
        "signal" => json!({"type": "string", "minLength": 1}),
        "run" => command(),
        "http" => text(REQUEST),
        "drain" | "idle" | "wait" | "settle" => text(DURATION),
        "ports" => list(any(&[number(1, 65_535), text("^(tcp|udp)/[0-9]+$")])),
        "to" => words(&["main", "group", "descendants", "tree"]),
        "until" => json!({"type": "string", "minLength": 1}),
        other => panic!("the schema does not know `{other}` of a step"),
    }
}

fn wait_for(key: &str) -> Value {
    let some = json!({"type": "string", "minLength": 1});
    match key {
        "interface" | "address" => any(&[some.clone(), list(some)]),
        "path" => any(&[text(PATH), list(text(PATH))]),
        "time" => words(&["synced"]),
        "timeout" => text(DURATION),
        "then" => words(&["fail", "start"]),
        other => panic!("the schema does not know `{other}` of wait-for"),
    }
}

fn output(key: &str) -> Value {
    match key {
        "file" => text(PATH),
        "max-size" => size(),
        "keep" => number(0, 100),
        "timestamps" => json!({"type": "boolean"}),
        "compress" => command(),
        other => panic!("the schema does not know `{other}` of output"),
    }
}

fn service(key: &str) -> Value {
    let name = json!({"type": "string", "minLength": 1});
    let boolean = json!({"type": "boolean"});
    if let Some(control) = CONTROLS.iter().find(|c| c.key == key) {
        return or_false(match control.kind {
            super::confine::Kind::Size => size(),
            super::confine::Kind::Number(most) => number(1, most),
            super::confine::Kind::Percent => text("^[0-9]+%$"),
        });
    }
    match key {
        "command" => command(),
        "type" => words(&["daemon", "oneshot"]),
        "remain" | "notify" | "autostart" | "no-new-privileges" | "private-tmp" => boolean,
        "after" | "requires" | "wants" | "restart-with" | "conflicts" | "groups" => list(name),
        "wait-for" => or_false(table(keys::WAIT_FOR, wait_for)),
        "user" | "group" => name,
        "umask" => text(OCTAL),
        "nice" => number(-20, 19),
        "oom-score-adj" => number(-1000, 1000),
        "environment" => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        "environment-file" => text(MAYBE_PATH),
        "directory" => text(PATH),
        "limits" => {
            let names: Vec<&str> = LIMITS.iter().map(|(name, ..)| *name).collect();
            let one = any(&[size(), words(&["unlimited"])]);
            let pair = json!({"type": "array", "items": one, "minItems": 2, "maxItems": 2});
            table(&names, |_| any(&[one.clone(), pair.clone()]))
        }
        "output" => any(&[
            words(&["log", "ring", "null", "inherit"]),
            table(keys::OUTPUT, output),
        ]),
        "ready" => or_false(table(keys::READY, probe)),
        "health" => or_false(table(keys::HEALTH, probe)),
        "ready-after" | "leftover-grace" | "restart-delay" | "max-delay" | "stable"
        | "check-timeout" => text(DURATION),
        "every" => text(DURATION),
        "at" => text(TIME_OF_DAY),
        "start-timeout" | "watchdog" => or_false(text(DURATION)),
        "stop" => {
            let steps = json!({"type": "array", "items": table(keys::STEP, step), "minItems": 1, "maxItems": 16});
            any(&[
                words(PRESETS),
                text("^(SIG)?[A-Z]+[0-9]*([+-][0-9]+)?$|^[0-9]+$"),
                steps,
            ])
        }
        "restart" => words(&["always", "on-failure", "never"]),
        "crash-loop" => {
            let of = |key: &str| match key {
                "burst" => number(1, 1000),
                _ => text(DURATION),
            };
            any(&[table(keys::CRASH_LOOP, of), boolean])
        }
        "success-exit" => list(any(&[number(0, 255), name])),
        "reload" => or_false(table(keys::RELOAD, step)),
        "check" => or_false(command()),
        "watch" => or_false(
            json!({"type": "array", "items": text(PATH), "maxItems": crate::machine::files::MOST}),
        ),
        "on-change" => words(&["restart", "reload"]),
        "pre-start" | "post-start" | "pre-stop" | "post-stop" | "on-crash" => {
            let of = |key: &str| match key {
                "run" => command(),
                _ => text(DURATION),
            };
            any(&[command(), table(keys::HOOK, of), json!({"const": false})])
        }
        "max-connections" => or_false(table(keys::MAX_CONNECTIONS, |_| number(1, 1_000_000))),
        "sockets" => json!({"type": "array", "items": text(SOCKET), "maxItems": 16}),
        "capabilities" => or_false(list(any(&[words(CAPABILITIES), text(CAPABILITY)]))),
        "read-only-paths" => list(text(MAYBE_PATH)),
        "writable-paths" => or_false(list(text(MAYBE_PATH))),
        "network-namespace" => or_false(name),
        "optional" => list(words(keys::OPTIONAL)),
        other => panic!("the schema does not know the type of `{other}`: add it here"),
    }
}

fn daemon(key: &str) -> Value {
    match key {
        "run-dir" | "crash-dir" | "known-faults" => text(PATH),
        "log" => words(&["auto", "syslog", "stderr", "none"]),
        "control-group" | "status-group" => json!({"type": "string", "minLength": 1}),
        "shutdown-deadline" | "crash-pause" => text(DURATION),
        "cgroup" => any(&[words(&["auto", "off"]), text(PATH)]),
        "ring" => size(),
        "crash-reports" => json!({"type": "boolean"}),
        "crash-keep" => number(1, 100),
        other => panic!("the schema does not know the type of `{other}` of [daemon]: add it here"),
    }
}

fn schema() -> Value {
    let defaults: Vec<&str> = keys::SERVICE
        .iter()
        .filter(|k| !keys::NOT_IN_DEFAULTS.contains(k))
        .copied()
        .collect();
    let reference = json!({"$ref": "#/definitions/service"});
    let top = |key: &str| match key {
        "daemon" => table(keys::DAEMON, daemon),
        "defaults" => table(&defaults, service),
        "include" => list(json!({"type": "string", "minLength": 1})),
        "service" => json!({
            "type": "object",
            "patternProperties": {
                NAMED: {"allOf": [reference, {"required": ["command"]}]},
                INSTANCE: reference,
            },
            "additionalProperties": false,
        }),
        other => panic!("the schema does not know `{other}`: add it here"),
    };
    let mut schema = table(keys::TOP, top);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "superd.toml(5)".into();
    schema["definitions"] = json!({"service": table(keys::SERVICE, service)});
    schema
}

// ---- a small validator: what the schema uses of draft 7, and nothing else ----

/// What a pattern of the schema means, in Rust.
fn fits(pattern: &str, text: &str) -> bool {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let named = |t: &str| {
        t.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-@".contains(&b))
    };
    let begins = |t: &str| t.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let upper = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_uppercase());
    let http = |t: &str| t.starts_with("http://") || t.starts_with("unix:/");
    match pattern {
        DURATION => value::duration(text).is_ok(),
        TIME_OF_DAY => value::time_of_day(text).is_ok(),
        SIZE => value::size(text).is_ok(),
        PATH => text.starts_with('/'),
        MAYBE_PATH => text.strip_prefix('-').unwrap_or(text).starts_with('/'),
        OCTAL => (1..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b)),
        SOCKET => {
            let rest = text.strip_prefix("tcp://").and_then(|t| t.rsplit_once(':'));
            rest.is_some_and(|(host, port)| !host.is_empty() && digits(port))
        }
        CAPABILITY => text
            .strip_prefix("CAP_")
            .is_some_and(|t| t.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')),
        NAMED => begins(text) && named(text) && !text[..text.len() - 1].contains('@'),
        INSTANCE => {
            begins(text) && named(text) && text.find('@').is_some_and(|at| at + 1 < text.len())
        }
        REQUEST => text
            .split_once(' ')
            .is_some_and(|(m, rest)| upper(m) && http(rest)),
        URL => {
            http(text)
                || text
                    .split_once(' ')
                    .is_some_and(|(m, rest)| upper(m) && http(rest))
        }
        "^[0-9]+%$" => text.strip_suffix('%').is_some_and(digits),
        "^(tcp|udp)/[0-9]+$" => {
            let rest = text
                .strip_prefix("tcp/")
                .or_else(|| text.strip_prefix("udp/"));
            rest.is_some_and(digits)
        }
        "^(SIG)?[A-Z]+[0-9]*([+-][0-9]+)?$|^[0-9]+$" => {
            digits(text) || text.bytes().next().is_some_and(|b| b.is_ascii_uppercase())
        }
        other => panic!("what does {other} mean?"),
    }
}

fn accepts(root: &Value, schema: &Value, value: &Value) -> bool {
    let all = |key: &str, is_so: &dyn Fn(&Value) -> bool| schema.get(key).is_none_or(is_so);
    let known = [
        "$schema",
        "title",
        "definitions",
        "description",
        "$ref",
        "type",
        "enum",
        "const",
        "pattern",
        "minLength",
        "minimum",
        "maximum",
        "items",
        "minItems",
        "maxItems",
        "anyOf",
        "allOf",
        "required",
        "properties",
        "patternProperties",
        "additionalProperties",
    ];
    let object = schema.as_object().unwrap();
    for key in object.keys() {
        assert!(
            known.contains(&key.as_str()),
            "the validator does not know {key}"
        );
    }
    let ok = |schema: &Value, value: &Value| accepts(root, schema, value);
    let length = value.as_array().map_or(0, Vec::len) as u64;
    all("$ref", &|_| ok(&root["definitions"]["service"], value))
        && all("type", &|t| match t.as_str().unwrap() {
            "string" => value.is_string(),
            "integer" => value.is_i64(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{other}"),
        })
        && all("enum", &|e| e.as_array().unwrap().contains(value))
        && all("const", &|c| c == value)
        && all("pattern", &|p| {
            value.as_str().is_none_or(|t| fits(p.as_str().unwrap(), t))
        })
        && all("minLength", &|_| {
            value.as_str().is_none_or(|t| !t.is_empty())
        })
        && all("minimum", &|m| {
            value.as_i64().is_none_or(|n| n >= m.as_i64().unwrap())
        })
        && all("maximum", &|m| {
            value.as_i64().is_none_or(|n| n <= m.as_i64().unwrap())
        })
        && all("items", &|s| {
            value.as_array().is_none_or(|l| l.iter().all(|v| ok(s, v)))
        })
        && all("minItems", &|m| {
            !value.is_array() || length >= m.as_u64().unwrap()
        })
        && all("maxItems", &|m| {
            !value.is_array() || length <= m.as_u64().unwrap()
        })
        && all("anyOf", &|l| {
            l.as_array().unwrap().iter().any(|s| ok(s, value))
        })
        && all("allOf", &|l| {
            l.as_array().unwrap().iter().all(|s| ok(s, value))
        })
        && all("required", &|l| {
            l.as_array()
                .unwrap()
                .iter()
                .all(|key| value.get(key.as_str().unwrap()).is_some())
        })
        && value.as_object().is_none_or(|table| {
            table.iter().all(|(key, value)| {
                let own = schema.get("properties").and_then(|p| p.get(key));
                let mut by: Vec<&Value> = own.into_iter().collect();
                let patterns = schema.get("patternProperties").and_then(Value::as_object);
                for (pattern, of) in patterns.into_iter().flatten() {
                    by.extend(fits(pattern, key).then_some(of));
                }
                match by.as_slice() {
                    [] => match schema.get("additionalProperties") {
                        None | Some(Value::Bool(true)) => true,
                        Some(Value::Bool(false)) => false,
                        Some(other) => ok(other, value),
                    },
                    all => all.iter().all(|s| ok(s, value)),
                }
            })
        })
}

fn json_of(value: &DeValue) -> Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix())
            .unwrap_or(i64::MAX)
            .into(),
        DeValue::Float(n) => json!(n.as_str().parse::<f64>().unwrap_or(0.5)),
        DeValue::Boolean(b) => (*b).into(),
        DeValue::Datetime(t) => json!({"date": t.to_string()}),
        DeValue::Array(list) => list.iter().map(|v| json_of(v.get_ref())).collect(),
        DeValue::Table(table) => json_of_table(table),
    }
}

fn json_of_table(table: &DeTable) -> Value {
    let pairs = table
        .iter()
        .map(|(k, v)| (k.get_ref().to_string(), json_of(v.get_ref())));
    Value::Object(pairs.collect())
}

fn is_accepted(schema: &Value, text: &str) -> bool {
    let table = DeTable::parse(text).unwrap();
    accepts(schema, schema, &json_of_table(table.get_ref()))
}

#[test]
fn the_shipped_schema_is_that_of_the_keys() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/superd.schema.json");
    let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    crate::shipped::assert_is(&path, &text);
}

#[test]
fn the_schema_accepts_what_is_shipped() {
    let schema = schema();
    for (path, bytes) in shipped() {
        let text = String::from_utf8(bytes).unwrap();
        assert!(is_accepted(&schema, &text), "{}", path.display());
    }
    let all = uncommented();
    assert!(is_accepted(&schema, &all));
    // One by one, so that it can be told which one it does not like.
    for key in keys::SERVICE {
        let line = all.lines().find(|l| {
            l.starts_with(&format!("{key} = ")) && l.matches('[').count() == l.matches(']').count()
        });
        if let Some(line) = line.filter(|_| *key != "command") {
            let text = format!("[service.x]\ncommand = [\"/x\"]\n{line}\n");
            assert!(is_accepted(&schema, &text), "{text}");
        }
    }
}

#[test]
fn what_the_schema_refuses_superd_refuses_and_wrong_values_are_refused() {
    let schema = schema();
    let mut wrong: Vec<String> = [
        "include = \"x\"",
        "[daemon]\nring = \"16KB\"",
        "[daemon]\nlog = \"here\"",
        "[daemon]\ncrash-keep = 0",
        "[daemon]\nrun-dir = \"run\"",
        "[defaults]\ncommand = [\"/x\"]",
        "[service.x]\nuser = \"nobody\"",
        "[service.\"x@\"]\nuser = \"%i\"",
        "[service.\"-x\"]\ncommand = [\"/x\"]",
        "[service.\"x y\"]\ncommand = [\"/x\"]",
        "[services.x]\ncommand = [\"/x\"]",
        "[service]\nx = 1",
    ]
    .map(str::to_owned)
    .to_vec();
    let of_a_service = [
        "comand = [\"/x\"]",
        "type = \"forking\"",
        "remain = \"yes\"",
        "after = \"x\"",
        "umask = 22",
        "umask = \"888\"",
        "nice = 20",
        "oom-score-adj = -1001",
        "environment = { A = 1 }",
        "environment-file = \"etc/x\"",
        "directory = \"srv\"",
        "limits = { nofiles = 1 }",
        "limits = { nofile = [1, 2, 3] }",
        "limits = { nofile = \"many\" }",
        "output = \"syslog\"",
        "output = { file = \"x.log\" }",
        "output = { file = \"/x.log\", keep = 101 }",
        "autostart = \"true\"",
        "ready = { http = \"https://x/\" }",
        "ready = { notify = false }",
        "ready = { status = 100 }",
        "ready-after = \"1\"",
        "start-timeout = 5",
        "health = { failures = 0 }",
        "health = { tcp = \"127.0.0.1:80\", action = \"reboot\" }",
        "watchdog = \"1 s\"",
        "stop = []",
        "stop = [\"TERM\"]",
        "stop = \"caddy\"",
        "stop = [{ signal = \"TERM\", to = \"all\" }]",
        "stop = [{ signal = \"TERM\", wait = 5 }]",
        "stop = [{ http = \"POST https://x/\" }]",
        "leftover-grace = \"1s500\"",
        "restart = \"sometimes\"",
        "crash-loop = { burst = 0 }",
        "success-exit = [256]",
        "reload = \"HUP\"",
        "check = [\"\"]\ncheck-timeout = 1",
        "watch = [\"x\"]",
        "watch = \"/x\"",
        "on-change = \"stop\"",
        "max-connections = 5",
        "sockets = [\"0.0.0.0:80\"]",
        "memory-max = \"64MB\"",
        "pids-max = -1",
        "cpu-max = 50",
        "capabilities = [\"net-amin\"]",
        "optional = [\"user\"]",
        "wait-for = { time = \"set\" }",
        "wait-for = { path = \"mnt\" }",
    ];
    wrong.extend(of_a_service.map(|keys| format!("[service.x]\ncommand = [\"/x\"]\n{keys}")));
    for text in wrong {
        assert!(!is_accepted(&schema, &text), "the schema accepts\n{text}");
        assert!(load_text(&text).is_err(), "superd accepts\n{text}");
    }
}
