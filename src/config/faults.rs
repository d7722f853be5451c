//! The file of known faults: which crash of which program is known, and what to do about it.
//!
//! Data for people, read strictly: a key that is not understood is a problem with its place.
//! Nothing in it changes what superd does with a service; it is only told.
//!
//! ```
//! use superd::config::faults;
//!
//! let text = r#"
//! [[fault]]
//! name = "example"
//! program = "exampled"
//! text = "close of closed channel"
//! frame = "(*App).Stop"
//! what = "a second stop closes a channel twice"
//! source = "https://example.org/1"
//! "#;
//! let faults = faults::parse("known-faults.toml".as_ref(), text).unwrap();
//! assert_eq!(faults.len(), 1);
//! ```

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::files::{Disk, Files};
use super::keys;
use super::load::too_many_dots;
use super::problem::{Problems, Source};
use super::read::Reader;
use crate::machine::report::Crash;

/// The largest file; it is read while services run.
const CAP: usize = 256 * 1024;

/// The most entries.
const ENTRIES: usize = 1000;

/// One known fault.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fault {
    /// A short name, for the log.
    pub name: String,
    /// The program, as its makers call it.
    pub program: String,
    /// Which versions have it; empty when nobody has said.
    pub versions: String,
    /// A part of the crash text.
    pub text: String,
    /// A part of one of the frames; empty: the text is enough.
    pub frame: String,
    /// What it is.
    pub what: String,
    /// The version that no longer has it; empty when nobody has said.
    pub fixed: String,
    /// What to do until then.
    pub meanwhile: String,
    /// Where that is known from.
    pub source: String,
}

impl Fault {
    fn is(&self, crash: &Crash) -> bool {
        let in_frames = || crash.frames.iter().any(|f| f.contains(&self.frame));
        crash.text.contains(&self.text)
            && (self.frame.is_empty() || in_frames() || crash.frame.contains(&self.frame))
    }

    /// `Caddy 2.7.0 to 2.9.0: a second stop ... Fixed in 2.9.1. Until then: ... (https://...)`
    pub fn sentence(&self) -> String {
        let mut text = self.program.clone();
        if !self.versions.is_empty() {
            text.push(' ');
            text.push_str(&self.versions);
        }
        text.push_str(": ");
        text.push_str(&ended(&self.what));
        if !self.fixed.is_empty() {
            text.push_str(&format!(" Fixed in {}", ended(&self.fixed)));
        }
        if !self.meanwhile.is_empty() {
            text.push_str(&format!(" Until then: {}", ended(&self.meanwhile)));
        }
        text.push_str(&format!(" ({})", self.source));
        text
    }
}

/// With a full stop.
fn ended(text: &str) -> String {
    format!("{}.", text.trim().trim_end_matches('.'))
}

/// The fault that this crash shows: one that names a frame comes before one that does not.
pub fn find<'f>(faults: &'f [Fault], crash: &Crash) -> Option<&'f Fault> {
    let all = || faults.iter().filter(|f| f.is(crash));
    all().find(|f| !f.frame.is_empty()).or_else(|| all().next())
}

/// Reads the file; nothing when there is none.
///
/// # Errors
/// Every problem with its place.
pub fn load(path: &Path) -> Result<Vec<Fault>, Problems> {
    // A path whose directory is missing is as good as a missing file.
    match std::fs::symlink_metadata(path) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Ok(Vec::new());
        }
        Err(_) | Ok(_) => {}
    }
    let bytes = Disk
        .read(path, super::FILE_CAP)
        .map_err(|e| Problems::of_file(path, e))?;
    if bytes.len() > CAP {
        return Err(Problems::of_file(path, "is larger than 256 KiB"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(path, &text),
        Err(_) => Err(Problems::of_file(path, "is not UTF-8")),
    }
}

/// What the text of such a file says.
///
/// # Errors
/// Every problem with its place.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Fault>, Problems> {
    let source = Source::new(path.into(), 0, text);
    let mut problems = Problems::default();
    let mut faults = Vec::new();
    if let Some(at) = too_many_dots(text) {
        problems.add(source.place(at), "too many dots in one line");
    } else {
        match DeTable::parse(text) {
            Ok(table) => read(&source, table.get_ref(), &mut problems, &mut faults),
            Err(e) => {
                let at = e.span().map_or(text.len(), |s| s.start);
                problems.add(source.place(at), format_args!("syntax: {}", e.message()));
            }
        }
    }
    problems.into_result()?;
    Ok(faults)
}

fn read(source: &Source<'_>, top: &DeTable<'_>, problems: &mut Problems, into: &mut Vec<Fault>) {
    for (key, value) in top.iter() {
        let mut r = Reader::new(source, problems, String::new());
        if !r.known(key, &["fault"]) {
            continue;
        }
        let DeValue::Array(list) = value.get_ref() else {
            r.problem(value.span(), "write each fault as [[fault]]");
            continue;
        };
        if list.len() > ENTRIES {
            r.problem(value.span(), format_args!("more than {ENTRIES} faults"));
            continue;
        }
        for entry in list.iter() {
            match entry.get_ref() {
                DeValue::Table(table) => into.extend(fault(&mut r, table, entry.span())),
                _ => r.problem(entry.span(), "write each fault as [[fault]]"),
            }
        }
    }
}

fn fault(r: &mut Reader<'_>, table: &DeTable<'_>, span: std::ops::Range<usize>) -> Option<Fault> {
    let mut f = Fault::default();
    for (key, v) in table.iter() {
        if !r.known(key, keys::FAULT) {
            continue;
        }
        let key = key.get_ref().as_ref();
        let text = r.text(key, v)?;
        if text.chars().any(char::is_control) {
            r.problem(v.span(), format_args!("`{key}` must be one line"));
            return None;
        }
        match key {
            "name" => f.name = text,
            "program" => f.program = text,
            "versions" => f.versions = text,
            "text" => f.text = text,
            "frame" => f.frame = text,
            "what" => f.what = text,
            "fixed" => f.fixed = text,
            "meanwhile" => f.meanwhile = text,
            "source" => f.source = text,
            _ => r.problem(v.span(), format_args!("key `{key}` is known but not read")),
        }
    }
    let needed = [
        ("name", &f.name),
        ("program", &f.program),
        ("text", &f.text),
        ("what", &f.what),
        ("source", &f.source),
    ];
    let missing = needed.iter().find(|(_, value)| value.is_empty());
    if let Some((key, _)) = missing {
        r.problem(span, format_args!("a fault has no `{key}`"));
        return None;
    }
    Some(f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::crash::recognise;
    use crate::machine::report::Exit;

    const SHIPPED: &str = include_str!("../../etc/known-faults.toml");

    fn known(output: &str) -> String {
        let faults = parse(Path::new("known-faults.toml"), SHIPPED).unwrap();
        let lines: Vec<&str> = output.lines().collect();
        let crash = recognise(&lines, Exit::Code(2)).expect("a crash");
        find(&faults, &crash).map_or_else(String::new, |f| f.name.clone())
    }

    #[test]
    fn the_shipped_file_is_sound_and_every_entry_names_its_source() {
        let faults = parse(Path::new("known-faults.toml"), SHIPPED).unwrap();
        assert!(faults.len() >= 6);
        let mut names: Vec<&str> = faults.iter().map(|f| f.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), faults.len(), "a name is used twice");
        for f in &faults {
            assert!(f.source.starts_with("https://"), "{}", f.name);
            let sentence = f.sentence();
            assert!(
                !sentence.contains("..") && sentence.len() < 700,
                "{sentence}"
            );
        }
    }

    #[test]
    fn nats_may_also_find_nothing_where_its_channel_was() {
        let nil = "panic: runtime error: invalid memory address or nil pointer dereference\n\
            [signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x7fc491]\n\ngoroutine 1 [running]:\n\
            github.com/nats-io/nats-server/v2/server.(*Server).shutdownEventing(0x2e5f9a4c8008)\n\
            \tgithub.com/nats-io/nats-server/v2@v2.9.10/server/events.go:1327 +0x51\n";
        assert_eq!(known(nil), "nats-two-handlers-nil");
    }

    #[test]
    fn the_crashes_of_the_five_servers_are_known() {
        let caddy = "panic: close of closed channel\n\ngoroutine 51 [running]:\n\
            github.com/caddyserver/caddy/v2/modules/caddytls.(*TLS).Stop(0xc0002be3c0)\n\
            \t/root/go/pkg/mod/github.com/caddyserver/caddy/v2@v2.8.4/modules/caddytls/tls.go:338 +0x1e\n";
        assert_eq!(known(caddy), "caddy-second-stop");
        let quic = "panic: close of closed channel\n\ngoroutine 36 [running]:\n\
            github.com/quic-go/quic-go/http3.(*Server).decreaseConnCount(...)\n\
            \t/root/go/pkg/mod/github.com/quic-go/quic-go@v0.48.0/http3/server.go:604\n\
            github.com/quic-go/quic-go/http3.(*Server).serveListener.func1()\n\
            \t/root/go/pkg/mod/github.com/quic-go/quic-go@v0.48.0/http3/server.go:310 +0x8f\n";
        assert_eq!(known(quic), "quic-go-second-client");
        for text in ["close of nil channel", "close of closed channel"] {
            let nats = format!(
                "panic: {text}\n\ngoroutine 35 [running]:\n\
                 github.com/nats-io/nats-server/v2/server.(*Server).shutdownEventing(0xc0001e2008)\n\
                 \t/root/go/pkg/mod/github.com/nats-io/nats-server/v2@v2.10.22/server/events.go:1644 +0x1a5\n"
            );
            assert_eq!(known(&nats), "nats-two-handlers");
        }
        let air = "panic: runtime error: invalid memory address or nil pointer dereference\n\
            [signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x7a91c6]\n\n\
            goroutine 57 [running]:\n\
            github.com/cosmtrek/air/runner.(*ProxyStream).RemoveSubscriber(0xc00011c2a0, 0x3)\n\
            \t/root/go/pkg/mod/github.com/cosmtrek/air@v1.52.0/runner/proxy_stream.go:40 +0xa6\n";
        assert_eq!(known(air), "air-subscriber-removed-twice");
        let go2rtc = "panic: close of closed channel\n\ngoroutine 411 [running]:\n\
            github.com/AlexxIT/go2rtc/pkg/core.(*Sender).Close(0xc0003a6000)\n\
            \t/root/go/pkg/mod/github.com/!alexx!i!t/go2rtc@v1.9.4/pkg/core/track.go:151 +0x3c\n";
        assert_eq!(known(go2rtc), "go2rtc-sender-closed-twice");
        // The same words of somebody else are not theirs.
        let other = "panic: close of closed channel\n\ngoroutine 1 [running]:\nmain.main()\n\t/x/main.go:3 +0x1\n";
        assert_eq!(known(other), "");
    }

    #[test]
    fn problems_come_with_their_place_and_all_at_once() {
        let text = "[[fault]]\nname = \"x\"\nprogam = \"y\"\n[[fault]]\nname = 3\n[other]\n";
        let problems = parse(Path::new("/k.toml"), text).unwrap_err();
        assert_eq!(
            problems.lines(),
            [
                "/k.toml:1:1: a fault has no `program`",
                "/k.toml:3:1: unknown key `progam` (did you mean `program`?)",
                "/k.toml:5:8: `name` must be a string, not 3: write \"3\"",
                "/k.toml:6:2: unknown key `other`",
            ]
        );
        let syntax = parse(Path::new("/k.toml"), "[[fault]\n").unwrap_err();
        assert!(syntax.lines()[0].starts_with("/k.toml:1:"), "{syntax}");
        let control = "[[fault]]\nname = \"\\u001b[2J\"\n";
        let problems = parse(Path::new("/k.toml"), control).unwrap_err();
        assert!(problems.lines()[0].contains("must be one line"));
    }

    #[test]
    fn a_missing_file_is_no_problem_and_a_frame_is_more_than_a_text() {
        assert_eq!(load(Path::new("/nonexistent/k.toml")).unwrap(), []);
        let fault = |name: &str, frame: &str| Fault {
            name: name.to_owned(),
            text: "closed".to_owned(),
            frame: frame.to_owned(),
            ..Fault::default()
        };
        let faults = [fault("any", ""), fault("stop", ".Stop ")];
        let crash = |frame: &str| Crash {
            kind: "go-panic".to_owned(),
            text: "close of closed channel".to_owned(),
            frame: "x.go:1".to_owned(),
            frames: vec![frame.to_owned()],
        };
        let name = |c: &Crash| find(&faults, c).map(|f| f.name.clone());
        assert_eq!(name(&crash("app.Stop at x.go:1")).unwrap(), "stop");
        assert_eq!(name(&crash("app.Run at x.go:1")).unwrap(), "any");
    }
}
