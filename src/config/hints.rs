//! What an error proposes is tried: for each key and each wrong value, whatever follows `write` is
//! put in the place of that value, and must be accepted. Only a test.
//!
//! Not for the words of an error: those are in `tests`.

use toml::de::{DeTable, DeValue};
use toml::Spanned;

use super::keys;
use super::limits::LIMITS;
use super::tests::load_text;

/// A text in which `@` stands for the value, and what has to stand beside it.
struct Slot {
    key: &'static str,
    text: String,
}

const WRONG: &[&str] = &[
    "5",
    "0",
    "-1",
    "99",
    "0x10",
    "99999999999",
    "99999999999999999999",
    "1.5",
    "true",
    "false",
    "\"\"",
    "\"x\"",
    "\"/x\"",
    "\"5\"",
    "\"8M\"",
    "\"8 MB\"",
    "\"x y\"",
    "\"/usr/sbin/program --config /etc/program/program.conf --no-fork --user program --verbose\"",
    "\"a\\tb\\u001bc\"",
    "\"a\\u0000b\"",
    "\"/a\\u0000b\"",
    "[]",
    "[\"x\"]",
    "[\"/x\", \"/x\"]",
    "[1]",
    "[-1, true]",
    "[\"a\\u0000b\"]",
    "{}",
    "{ x = 1 }",
    "1979-05-27",
];

/// Keys that another one needs, or that need another one.
fn beside(key: &str) -> &'static str {
    match key {
        "remain" | "every" | "at" => "type = \"oneshot\"\n",
        "start-timeout" => "ready = { notify = true }\n",
        "check-timeout" => "check = [\"/x\"]\n",
        "on-change" => "watch = [\"/y\"]\nreload = { signal = \"HUP\" }\n",
        _ => "",
    }
}

fn slots() -> Vec<Slot> {
    let mut all = Vec::new();
    let mut add = |key: &'static str, text: String| all.push(Slot { key, text });
    let others = "[service.y]\ncommand = [\"/y\"]\nautostart = false\n[service.x]\n";
    for key in keys::SERVICE {
        let command = match *key {
            "command" => "",
            _ => "command = [\"/x\"]\n",
        };
        let beside = beside(key);
        add(key, format!("{others}{command}{beside}{key} = @\n"));
    }
    for key in keys::DAEMON {
        add(key, format!("[daemon]\n{key} = @\n"));
    }
    for key in keys::SERVICE {
        if !keys::NOT_IN_DEFAULTS.contains(key) {
            let text = format!("[defaults]\n{key} = @\n{others}command = [\"/x\"]\n");
            add(key, text);
        }
    }
    add("include", "include = @\n".to_owned());
    let mut inside = |list: &[&'static str], with: &dyn Fn(&str) -> String| {
        for key in list {
            add(key, format!("{others}command = [\"/x\"]\n{}\n", with(key)));
        }
    };
    inside(keys::STEP, &|key| {
        let beside = match key {
            "signal" | "run" | "http" => "",
            "drain" | "ports" | "idle" => "drain = \"5s\", ",
            "settle" => "signal = \"TERM\", until = \"ports-closed\", ",
            _ => "signal = \"TERM\", ",
        };
        let beside = if key == "drain" { "" } else { beside };
        format!("stop = [{{ {beside}{key} = @ }}, {{ signal = \"INT\" }}]")
    });
    inside(keys::READY, &|key| {
        let beside = match key {
            "status" => "http = \"http://127.0.0.1/\", ",
            "interval" | "timeout" => "tcp = \"127.0.0.1:1\", ",
            _ => "",
        };
        format!("ready = {{ {beside}{key} = @ }}")
    });
    inside(keys::HEALTH, &|key| {
        let beside = match key {
            "tcp" | "http" | "exec" | "memory" => "",
            "status" => "http = \"http://127.0.0.1/\", ",
            _ => "tcp = \"127.0.0.1:1\", ",
        };
        format!("health = {{ {beside}{key} = @ }}")
    });
    inside(keys::WAIT_FOR, &|key| {
        let beside = match key {
            "timeout" => "time = \"synced\", ",
            "then" => "time = \"synced\", timeout = \"1s\", ",
            _ => "",
        };
        format!("wait-for = {{ {beside}{key} = @ }}")
    });
    inside(keys::OUTPUT, &|key| {
        let beside = match key {
            "file" => "",
            _ => "file = \"/x\", ",
        };
        format!("output = {{ {beside}{key} = @ }}")
    });
    inside(keys::CRASH_LOOP, &|key| {
        format!("crash-loop = {{ {key} = @ }}")
    });
    inside(keys::MAX_CONNECTIONS, &|key| match key {
        "high" => "max-connections = { low = 1, high = @ }".to_owned(),
        _ => "max-connections = { high = 1000000, low = @ }".to_owned(),
    });
    inside(keys::RELOAD, &|key| {
        let beside = match key {
            "wait" => "run = [\"/x\"], ",
            _ => "",
        };
        format!("reload = {{ {beside}{key} = @ }}")
    });
    inside(keys::HOOK, &|key| {
        let beside = match key {
            "run" => "",
            _ => "run = [\"/x\"], ",
        };
        format!("pre-start = {{ {beside}{key} = @ }}")
    });
    let limits: Vec<&'static str> = LIMITS.iter().map(|(name, ..)| *name).collect();
    inside(&limits, &|key| format!("limits = {{ {key} = @ }}"));
    inside(&limits, &|key| {
        format!("limits = {{ {key} = [@, \"unlimited\"] }}")
    });
    inside(&["VARIABLE"], &|key| {
        format!("environment = {{ {key} = @ }}")
    });
    all
}

/// A value at the beginning of a text, and how long it is.
fn value_at(text: &str) -> Option<&str> {
    let mut ends = (1..=text.len()).filter(|n| text.is_char_boundary(*n));
    let first = text.chars().next()?;
    match first {
        '"' | '[' | '{' => ends.map(|n| &text[..n]).find(|v| DeValue::parse(v).is_ok()),
        '0'..='9' | '-' => {
            let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            ends.rfind(|n| text[..*n].bytes().all(is_part))
                .map(|n| &text[..n])
        }
        _ => None,
    }
}

/// What an error proposes, as it would be typed.
fn proposed(said: &str) -> Vec<String> {
    let mut all = Vec::new();
    if let Some((_, mut rest)) = said.rsplit_once("write ") {
        while let Some(value) = value_at(rest) {
            all.push(match DeValue::parse(value) {
                Ok(_) => value.to_owned(),
                Err(_) => format!("\"{value}\""),
            });
            rest = &rest[value.len()..];
            let next = [", or ", ", ", " or "];
            match next.iter().find_map(|s| rest.strip_prefix(s)) {
                Some(more) => rest = more,
                None => break,
            }
        }
        assert!(!all.is_empty(), "what does one write? {said}");
    }
    if let Some((_, words)) = said.split_once("it is one of ") {
        let words = words.split(", ").filter(|w| !w.ends_with("TEXT"));
        all.extend(words.map(|w| format!("\"{w}\"")).take(1));
    }
    if let Some((_, range)) = said.split_once(" from ") {
        if let Some((low, high)) = range
            .split_once(", not")
            .and_then(|(r, _)| r.split_once(" to "))
        {
            all.extend([low.to_owned(), high.to_owned()]);
        }
    }
    if let Some((_, least)) = said.split_once("at least ") {
        let least = least.split([',', ' ', ':']).next().unwrap();
        all.push(match least.parse::<u32>() {
            Ok(_) => least.to_owned(),
            Err(_) => format!("\"{least}\""),
        });
    }
    all
}

/// Where the value begins that begins at this byte, and where it ends.
fn span_of(value: &Spanned<DeValue>, at: usize) -> Option<std::ops::Range<usize>> {
    if value.span().start == at {
        return Some(value.span());
    }
    match value.get_ref() {
        DeValue::Array(list) => list.iter().find_map(|v| span_of(v, at)),
        DeValue::Table(table) => span_in(table, at),
        _ => None,
    }
}

fn span_in(table: &DeTable, at: usize) -> Option<std::ops::Range<usize>> {
    table.iter().find_map(|(_, v)| span_of(v, at))
}

/// Each of the problems: the byte that it is at, and what is said.
fn problems(text: &str) -> Vec<(usize, String)> {
    let Err(problems) = load_text(text) else {
        return Vec::new();
    };
    let at = |line: usize, col: usize| {
        let before: usize = text
            .split_inclusive('\n')
            .take(line - 1)
            .map(str::len)
            .sum();
        before + col - 1
    };
    let each = problems.iter();
    each.map(|p| (at(p.place.line, p.place.col), p.text.clone()))
        .collect()
}

/// Tries what each error proposes: how many there were.
fn follow(text: &str) -> Result<usize, String> {
    let mut tried = 0;
    for (at, said) in problems(text) {
        let table = DeTable::parse(text).map_err(|e| e.to_string())?;
        for value in proposed(&said) {
            let Some(span) = span_in(table.get_ref(), at) else {
                return Err(format!("{said}\n  is said of no value in\n{text}"));
            };
            let better = format!("{}{value}{}", &text[..span.start], &text[span.end..]);
            // Whether there is such a service or file is another matter.
            let is_there =
                |said: &str| !said.contains("no service") && !said.contains("cannot open");
            let left = problems(&better);
            if let Some((_, again)) = left.iter().find(|(n, said)| *n == at && is_there(said)) {
                return Err(format!("{text}{said}\n  {value}\n  {again}"));
            }
            tried += 1;
        }
    }
    Ok(tried)
}

#[test]
fn what_an_error_proposes_is_accepted() {
    let mut tried = 0;
    let mut refused = Vec::new();
    for slot in slots() {
        for wrong in WRONG {
            let text = slot.text.replace('@', wrong);
            match follow(&text) {
                Ok(n) => tried += n,
                Err(why) => refused.push(format!("{}: {why}", slot.key)),
            }
        }
    }
    let shown: Vec<_> = refused.iter().take(20).map(String::as_str).collect();
    assert!(
        refused.is_empty(),
        "{} proposals are refused:\n{}",
        refused.len(),
        shown.join("\n\n")
    );
    assert!(tried > 1500, "{tried} proposals are not all");
}

/// Whoever reads an error sees which key is meant, also where a key is inside another one.
#[test]
fn each_error_names_its_key_and_the_one_around_it() {
    for slot in slots() {
        let line = slot.text.lines().find(|l| l.contains('@')).unwrap();
        let outer = line.split(" = ").next().unwrap();
        for wrong in WRONG {
            for (_, said) in problems(&slot.text.replace('@', wrong)) {
                let named =
                    said.contains(&format!("`{outer}`")) || said.contains(&format!("{outer} = "));
                assert!(named, "{}: {wrong}: {said}", slot.key);
            }
        }
    }
}
