//! `superd rpcd`: what OpenWrt's rpcd runs for `ubus call superd METHOD` (and so LuCI): `list`
//! prints the methods, `call METHOD` reads its arguments as JSON on standard input and prints one
//! JSON object, `{"code":0,"replies":[...]}`: the exit status that superctl would have, and
//! superd's replies as they came.
//!
//! The same code as superctl's does the work. rpcd takes 256 KiB and 30 seconds: of more than
//! that the oldest lines are left out (`"truncated":true`), and a stop that takes longer is
//! gone on with by superd (code 124).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Duration;

use super::args::{Command, Ctl, Which, WhichNow};
use super::Around;
use crate::control::reply::{Code, Reply};
use crate::json::FromJson;

/// What rpcd reads of `list`: methods, arguments, and of each argument its type by example.
const METHODS: &str = r#"{"status":{"name":"str"},"why":{"name":"str","lines":32},"logs":{"name":"str","lines":32},"start":{"name":"str"},"stop":{"name":"str"},"restart":{"name":"str"}}"#;

/// More is no set of arguments.
const ASKED: usize = 16 * 1024;

/// Of the replies so much is passed on; the object around them is small.
const TOLD: usize = 240 * 1024;

/// rpcd waits for 30 seconds.
const LIMIT: Duration = Duration::from_secs(25);

/// Exit status: the arguments make no sense.
const USAGE: i32 = 2;

/// The arguments of every method; keys that are not known (rpcd adds some) are ignored.
#[derive(FromJson, Default)]
#[serde(default)]
struct Arguments {
    name: Option<String>,
    lines: Option<u32>,
}

/// `superd rpcd WHAT [METHOD]`. Returns the exit status of the plugin, which tells rpcd only
/// whether there is an answer at all.
pub fn main(
    what: &str,
    method: Option<&str>,
    around: &Around,
    input: &mut dyn Read,
    out: &mut dyn Write,
) -> i32 {
    let answer = match (what, method) {
        ("list", None) => METHODS.to_owned(),
        ("call", Some(method)) => call(method, around, input),
        _ => {
            let text = "say `list`, or `call` and a method";
            object(USAGE, &refusal(text), false)
        }
    };
    match writeln!(out, "{answer}").and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(_) => 1, // rpcd is gone
    }
}

fn call(method: &str, around: &Around, input: &mut dyn Read) -> String {
    let command = arguments(input).and_then(|a| command(method, a));
    let command = match command {
        Ok(command) => command,
        Err(why) => return object(USAGE, &refusal(&why), false),
    };
    let ctl = Ctl {
        socket: None,
        json: true,
        timeout: Some(LIMIT),
        command,
    };
    let mut kept = Kept::default();
    let code = super::run(&ctl, around, &mut kept, &mut io::sink());
    kept.object(code)
}

fn arguments(input: &mut dyn Read) -> Result<Arguments, String> {
    let mut text = Vec::new();
    let most = u64::try_from(ASKED).unwrap_or(u64::MAX);
    let read = input.take(most + 1).read_to_end(&mut text);
    read.map_err(|e| format!("reading the arguments: {e}"))?;
    if text.len() > ASKED {
        return Err(format!("the arguments are longer than {ASKED} bytes"));
    }
    if text.trim_ascii().is_empty() {
        return Ok(Arguments::default());
    }
    crate::json::from_slice(&text).map_err(|e| format!("the arguments: {e}"))
}

fn command(method: &str, arguments: Arguments) -> Result<Command, String> {
    let Arguments { name, lines } = arguments;
    if method == "status" {
        let names = name.into_iter().collect();
        return Ok(Command::Status { names });
    }
    // Asked for after the method: of one that there is not, that is what is wrong.
    let name = || name.ok_or("`name` is missing: say which service");
    let which = |name| Which {
        names: vec![name],
        all: false,
        no_wait: false,
        wait: false,
    };
    let which_now = |name| WhichNow {
        which: which(name),
        now: false,
    };
    Ok(match method {
        "start" => Command::Start(which(name()?)),
        "stop" => Command::Stop(which_now(name()?)),
        "restart" => Command::Restart(which_now(name()?)),
        "why" => Command::Why {
            all: false,
            lines,
            name: name()?,
        },
        "logs" => Command::Logs {
            follow: false,
            since: None,
            grep: None,
            lines,
            name: name()?,
        },
        other => return Err(format!("there is no method `{}`", other.escape_debug())),
    })
}

fn refusal(why: &str) -> String {
    let mut line = Vec::new();
    let reply = Reply::error(0, Code::BadRequest, why);
    crate::control::codec::encode_reply(&reply, &mut line);
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

fn object(code: i32, replies: &str, truncated: bool) -> String {
    let cut = if truncated { ",\"truncated\":true" } else { "" };
    format!("{{\"code\":{code},\"replies\":[{replies}]{cut}}}")
}

/// Lines of JSON, the newest ones up to [`TOLD`] bytes.
#[derive(Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
    begun: Vec<u8>,
    truncated: bool,
}

impl Kept {
    fn object(self, code: i32) -> String {
        let replies: Vec<String> = self.lines.into();
        object(code, &replies.join(","), self.truncated)
    }

    fn push(&mut self) {
        let line = std::mem::take(&mut self.begun);
        // A reply of superd's is UTF-8 and JSON, or it would not have come this far.
        let Ok(line) = String::from_utf8(line) else {
            self.truncated = true;
            return;
        };
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.bytes > TOLD {
            let gone = self.lines.pop_front().unwrap_or_default();
            self.bytes -= gone.len() + 1;
            self.truncated = true;
        }
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) => {
                    self.begun.extend_from_slice(end);
                    self.push();
                }
                None => self.begun.extend_from_slice(part),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn said(what: &str, method: Option<&str>, input: &[u8]) -> Value {
        let around = Around {
            socket: Some("/nobody/listens".into()),
            ..Around::default()
        };
        let mut out = Vec::new();
        main(what, method, &around, &mut &input[..], &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn it_lists_what_it_can_be_called_for() {
        let list = said("list", None, b"");
        let methods: Vec<_> = list.as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            methods,
            ["logs", "restart", "start", "status", "stop", "why"]
        );
        for method in methods {
            // Nobody listens, which each of them finds out.
            let said = said("call", Some(&method), br#"{"name":"x"}"#);
            assert_eq!(said["replies"][0]["ok"], false, "{said}");
            assert_ne!(said["code"], USAGE, "{said}");
        }
    }

    #[test]
    fn arguments_that_make_no_sense_are_one_clear_line() {
        let deep = "[".repeat(10_000);
        let long = format!("{{\"name\":\"{}\"}}", "x".repeat(ASKED));
        for (input, says) in [
            (&b"{"[..], "the arguments"),
            (b"null", "the arguments"),
            (b"[]x", "the arguments"),
            (b"{\"name\":7}", "the arguments"),
            (b"{\"name\":{}}", "the arguments"),
            (b"{\"lines\":-1,\"name\":\"a\"}", "the arguments"),
            (b"{\"lines\":99999999999,\"name\":\"a\"}", "the arguments"),
            (b"{\"name\":\"\xff\"}", "the arguments"),
            (b"{}{}", "the arguments"),
            (deep.as_bytes(), "the arguments"),
            (long.as_bytes(), "longer than"),
            (b"{}", "`name` is missing"),
            (b"", "`name` is missing"),
            (b"{\"name\":null}", "`name` is missing"),
        ] {
            let said = said("call", Some("stop"), input);
            let text = said["replies"][0]["message"].as_str().unwrap();
            assert!(text.contains(says), "{says}: {text}");
            assert!(!text.contains('\n'));
            assert_eq!(said["code"], USAGE);
        }
        for (what, method) in [("call", None), ("frob", None), ("list", Some("x"))] {
            assert_eq!(said(what, method, b"{}")["code"], USAGE);
        }
        let unknown = said("call", Some("sh\u{1b}utdown"), br#"{"name":"x"}"#);
        assert_eq!(unknown["code"], USAGE, "{unknown}");
        for method in ["frob", "--json"] {
            let said = said("call", Some(method), b"{}");
            let text = said["replies"][0]["message"].as_str().unwrap();
            assert_eq!(text, format!("there is no method `{method}`"));
        }
    }

    #[test]
    fn what_is_too_long_is_cut_at_whole_lines_and_the_newest_stay() {
        let mut kept = Kept::default();
        let line = |n: usize| format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(1000));
        for n in 0..1000 {
            let text = line(n) + "\n";
            let (a, b) = text.as_bytes().split_at(n % 7);
            kept.write_all(a).unwrap();
            kept.write_all(b).unwrap();
        }
        let text = kept.object(0);
        assert!(text.len() < 256 * 1024, "{}", text.len());
        let said: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(said["truncated"], true);
        let replies = said["replies"].as_array().unwrap();
        assert!(replies.len() > 200);
        assert_eq!(replies.last().unwrap()["n"], 999);
    }
}
