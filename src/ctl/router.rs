//! The part of `superctl doctor` that superd has no need to know: room on flash and in RAM, and
//! what other init scripts do to its services. Reads files, and runs nothing but `ubus call`.
//!
//! An init script is text, and what it does is guessed from its words; each finding names the
//! script, so that it can be looked at.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::waitpid;

use super::basename;
use super::render::visible;
use crate::config::{self, Checked};
use crate::control::findings::finding;
use crate::control::reply::Finding;
use crate::sys::program::Program;

/// Crash reports and a new binary need this much, in KiB.
const FLASH: u64 = 1024;

/// With less, the kernel soon kills somebody; in KiB.
const MEMORY: u64 = 8 * 1024;

/// Of an init script, so much is looked at.
const SCRIPT: u64 = 64 * 1024;

/// And so many of them.
const SCRIPTS: usize = 1000;

/// Words of a command that ends processes. Another is start-stop-daemon.
const ENDS: [&str; 4] = ["killall", "pkill", "kill ", "service_stop "];

/// With these they end nobody, but ask or tell something.
const SPARES: [&str; 3] = [" -0 ", " -HUP ", " -USR"];

/// What other servers are run by; a version may follow. None of them is the server.
const RUN_OTHERS: &str = "sh ash bash dash busybox env python micropython lua luajit ucode perl \
                          node ruby php php-cgi java nice ionice chroot setsid nohup exec su sudo \
                          timeout taskset chrt start-stop-daemon ujail ip";

/// What only says something.
const TALKS: [&str; 4] = ["echo", "logger", "printf", "extra_command"];

/// What may stand before a command.
const BEFORE: [&str; 5] = ["then", "do", "else", "{", "!"];

/// So many variables of a script are known, each with so long a value.
const VARIABLES: (usize, usize) = (64, 256);

/// From this length on a command is left as it is.
const COMMAND: usize = 4096;

/// Of a command so many characters are shown.
const SHOWN: usize = 120;

/// So long ubus may take to answer, and so much it may say.
const UBUS: (Duration, usize) = (Duration::from_secs(2), 16 * 1024);

/// procd's `term_timeout`, if a script does not say another one.
const TERM_TIMEOUT: u64 = 5;

/// An init script that is not superd's own.
struct Script {
    name: String,
    code: Vec<Code>,
    is_enabled: bool,
}

/// A command of a script.
struct Code {
    /// As it is written.
    said: String,
    /// With the script's variables replaced.
    meant: String,
}

/// Everything that was looked at. `root` is `/`, but in tests.
pub fn findings(root: &Path, config: &Path) -> Vec<Finding> {
    let mut all = vec![flash(root)];
    all.extend(memory(root));
    let Ok(checked) = config::check(config, None) else {
        let text = format!(
            "{} has problems, so init scripts were not looked at: superctl check",
            config.display()
        );
        all.push(finding("configuration", false, text));
        return all;
    };
    // Only procd has this.
    if root.join("etc/rc.common").exists() {
        all.push(term_timeout(root, &checked));
    }
    all.extend(masters(&scripts(root), &checked));
    all
}

fn flash(root: &Path) -> Finding {
    let what = "free flash";
    let place = root.join("etc");
    match nix::sys::statvfs::statvfs(&place) {
        // Field sizes differ from one C library to the next.
        #[allow(clippy::unnecessary_cast)]
        Ok(s) => {
            let free =
                (s.blocks_available() as u64).saturating_mul(s.fragment_size() as u64) / 1024;
            enough(
                what,
                &place.display().to_string(),
                free,
                FLASH,
                "remove packages or crash reports",
            )
        }
        Err(e) => finding(what, false, format!("{}: {e}", place.display())),
    }
}

fn memory(root: &Path) -> Option<Finding> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let free = line.split_whitespace().next()?.parse().ok()?;
    let advice = "limit what services use: limits = { as = \"64MiB\" }, or run fewer";
    Some(enough("free memory", "there", free, MEMORY, advice))
}

fn enough(what: &str, place: &str, free: u64, least: u64, advice: &str) -> Finding {
    let text = match free >= least {
        true => format!("{free} KiB {place}"),
        false => format!("{free} KiB {place}, less than {least} KiB: {advice}"),
    };
    finding(what, free >= least, text)
}

/// What superd's own script tells procd, against what a stop can take.
fn term_timeout(root: &Path, checked: &Checked) -> Finding {
    let what = "term_timeout";
    let needed = checked.plan.max_stop_seconds();
    let path = root.join("etc/init.d/superd");
    let Some(text) = read(&path) else {
        let text = "no /etc/init.d/superd: nobody starts superd at boot; install init.d/superd";
        return finding(what, false, text.to_owned());
    };
    let code = || text.lines().filter(|l| !l.trim_start().starts_with('#'));
    let computes = code().any(|l| l.contains("--max-stop-seconds"));
    let said = code().find_map(|l| {
        let rest = l.split_once("term_timeout")?.1;
        rest.split_whitespace()
            .next()?
            .trim_matches('"')
            .parse()
            .ok()
    });
    let said = said.unwrap_or(TERM_TIMEOUT);
    let (seconds, todo) = match held(root) {
        // What procd was told at the start.
        Some(held) if computes || said >= needed => {
            (held, "/etc/init.d/superd restart, when you can".to_owned())
        }
        None if computes => {
            let text = format!("/etc/init.d/superd computes it at each start: {needed} s");
            return finding(what, true, text);
        }
        _ => {
            let todo =
                format!("in /etc/init.d/superd, procd_set_param term_timeout {needed}; restart it");
            (said, todo)
        }
    };
    let good = seconds >= needed;
    let text = match good {
        true => format!("{seconds} s, and stopping everything takes less than {needed} s"),
        false => {
            format!("procd KILLs superd after {seconds} s, but a stop can take {needed} s: {todo}")
        }
    };
    finding(what, good, text)
}

/// The `term_timeout` that procd has for superd now, if ubus is here and says it in time.
fn held(root: &Path) -> Option<u64> {
    let ubus = root.join("bin/ubus");
    let words = ["call", "service", "list", "{\"name\":\"superd\"}"].map(AsRef::as_ref);
    let program = Program {
        argv: [&[ubus.as_os_str()], &words[..]].concat(),
        heard: Some(1),
        dropped: &[2],
    };
    let until = Instant::now() + UBUS.0;
    let (pid, output) = program.start().ok()?;
    let mut output = output?;
    let mut said = Vec::new();
    while said.len() < UBUS.1 {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut wait = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        let mut some = [0; 1024];
        match poll(&mut wait, left).map(|ready| ready > 0) {
            Ok(true) => match output.read(&mut some) {
                Ok(n @ 1..) => said.extend_from_slice(some.get(..n).unwrap_or_default()),
                _ => break,
            },
            _ => break,
        }
    }
    kill(pid, Signal::SIGKILL).ok(); // it may have ended by itself; reaped it is not
    waitpid(pid, None).ok();
    let said = String::from_utf8_lossy(&said);
    let number = said.split_once("\"term_timeout\":")?.1.trim_start();
    number
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// The server that a command line runs, which may be an interpreter's or a wrapper's argument;
/// empty where that cannot be told.
fn server(command: &[String]) -> &str {
    let runs_others = |word: &str| {
        let name = basename(Path::new(word));
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        RUN_OTHERS.split(' ').any(|other| other == name)
    };
    let mut words = command.iter().map(String::as_str);
    let first = words.next().unwrap_or_default();
    if !runs_others(first) {
        return first;
    }
    // Settings and directories are not run.
    let is_run = |w: &&str| {
        w.starts_with('/')
            && !w.starts_with("/etc/")
            && !w.contains(' ')
            && !runs_others(w)
            && !Path::new(w).is_dir()
    };
    if let Some(found) = words.clone().find(is_run) {
        return found;
    }
    let name = words.find(|w| !w.starts_with('-') && !w.contains('='));
    let is_env = basename(Path::new(first)) == "env";
    name.filter(|w| is_env && !runs_others(w))
        .unwrap_or_default()
}

/// Whoever else starts or stops what superd supervises.
fn masters(scripts: &[Script], checked: &Checked) -> Vec<Finding> {
    let mut all = Vec::new();
    for (service, def) in checked.config.possible() {
        let program = server(&def.program.command);
        let short = basename(Path::new(program));
        let pid_file = format!("{short}.pid");
        for Script {
            name,
            code,
            is_enabled,
        } in scripts
        {
            let mut bad = |what, text: String| all.push(finding(what, false, visible(&text)));
            let runs = program.starts_with('/') && code.iter().any(|c| has_word(&c.meant, program));
            if *is_enabled && (*name == service || runs) {
                let text = format!(
                    "service {service}: /etc/init.d/{name} is enabled, too, and starts a second \
                     one: /etc/init.d/{name} disable; /etc/init.d/{name} stop"
                );
                bad("two masters", text);
            }
            let stops = |c: &&Code| {
                let line = &*c.meant;
                let named = has_word(line, short);
                named && has_word(line, "stop")
                    || ends(line) && (named || has_word(line, &pid_file))
            };
            if short.is_empty() {
                continue;
            }
            if let Some(line) = code.iter().find(stops) {
                let said: String = line.said.chars().take(SHOWN).collect();
                let text = format!(
                    "service {service}: /etc/init.d/{name} says `{said}`, which stops it behind \
                     superd's back: say superctl stop {service} there"
                );
                bad("other stops", text);
            }
        }
    }
    if all.is_empty() {
        let text = format!(
            "none of {} scripts in /etc/init.d touches a service",
            scripts.len()
        );
        all.push(finding("other init scripts", true, text));
    }
    all
}

/// Whether a command ends processes.
fn ends(line: &str) -> bool {
    let is_stop =
        |w: &str| w == "--stop" || w.starts_with('-') && !w.starts_with("--") && w.contains('K');
    let mut options = line.split_whitespace().take_while(|w| *w != "--");
    let says = |words: &[&str]| words.iter().any(|w| line.contains(w));
    says(&ENDS) && !says(&SPARES) || line.contains("start-stop-daemon") && options.any(is_stop)
}

/// The commands of a script, but those that only say something. Nothing is executed, and of
/// the shell's language this is what init scripts are made of.
fn code(text: &str) -> Vec<Code> {
    let mut all = Vec::new();
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut begun = String::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') {
            continue;
        }
        if let Some(part) = line.strip_suffix('\\') {
            begun.push_str(part);
            continue;
        }
        begun.push_str(line);
        for said in commands(&begun) {
            let before = |w: &&str| w.ends_with(')') || BEFORE.contains(w);
            let first = said.split_whitespace().find(|w| !before(w));
            if first.is_none_or(|w| TALKS.contains(&w)) {
                continue;
            }
            let meant = expand(said, &variables);
            if variables.len() < VARIABLES.0 {
                variables.extend(assigned(&meant));
            }
            let said = said.to_owned();
            all.push(Code { said, meant });
        }
        begun.clear();
    }
    all
}

/// A line without its comment, at `;`, `&&` and `||`.
fn commands(line: &str) -> Vec<&str> {
    let mut all = Vec::new();
    let (mut from, mut end) = (0, line.len());
    let (mut quote, mut last) = (None, ' ');
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (Some(q), _) if c == q && last != '\\' => quote = None,
            (None, '"' | '\'') if last != '\\' => quote = Some(c),
            (None, '#') if last.is_whitespace() => {
                end = at;
                break;
            }
            (None, ';' | '&' | '|') if c == ';' || c == last => {
                all.extend(line.get(from..at));
                from = at + 1;
            }
            _ => {}
        }
        last = c;
    }
    all.extend(line.get(from..end));
    all.into_iter().map(str::trim).collect()
}

/// The variable that a command sets, and its value.
fn assigned(command: &str) -> Option<(String, String)> {
    let (name, value) = command.split_once('=')?;
    let name = name.rsplit(' ').next()?;
    let value = match value.strip_prefix(['"', '\'']) {
        Some(quoted) => quoted.split(['"', '\'']).next()?,
        // What it prints is not known, what it reads is.
        None if value.contains(['(', '`']) => value,
        None => value.split_whitespace().next()?,
    };
    let is_name = !name.is_empty() && name.chars().all(is_of_name);
    (is_name && value.len() < VARIABLES.1).then(|| (name.to_owned(), value.to_owned()))
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// A command with the values of `$NAME`, `${NAME}` and, as a whole, `${NAME##*/}`.
fn expand(command: &str, variables: &[(String, String)]) -> String {
    let mut parts = command.split('$');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let braced = part.strip_prefix('{');
        let from = braced.unwrap_or(part);
        let name = from.split(|c| !is_of_name(c)).next().unwrap_or_default();
        let value = variables.iter().rev().find(|(known, _)| known == name);
        match value.filter(|_| out.len() < COMMAND) {
            Some((_, value)) => {
                let mut rest = from.strip_prefix(name).unwrap_or_default();
                if braced.is_some() {
                    rest = rest.split_once('}').map_or("", |(_, rest)| rest);
                }
                out.push_str(value);
                out.push_str(rest);
            }
            None => {
                out.push('$');
                out.push_str(part);
            }
        }
    }
    out
}

/// `web` is not in `webd` and not in `/etc/web.conf`, but in `/usr/bin/web`.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).unwrap_or_default().chars().next_back();
        let after = line.get(at + word.len()..).unwrap_or_default();
        !before.is_some_and(is_part) && !after.starts_with(is_part) && !after.starts_with('/')
    })
}

fn scripts(root: &Path) -> Vec<Script> {
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(root.join(dir)).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        names.take(SCRIPTS).collect()
    };
    let enabled = names("etc/rc.d");
    let mut scripts = Vec::new();
    for name in names("etc/init.d") {
        let path: PathBuf = root.join("etc/init.d").join(&name);
        let Some(text) = read(&path) else { continue };
        let code = code(&text);
        let asks = |c: &Code| c.meant.contains("superctl") || c.meant.contains("superd run");
        // Ours, and those that ask superd.
        if name == "superd" || code.iter().any(asks) {
            continue;
        }
        let is_start = |n: &String| {
            let rest = n
                .strip_prefix('S')
                .map(|n| n.trim_start_matches(|c: char| c.is_ascii_digit()));
            rest == Some(name.as_str())
        };
        scripts.push(Script {
            is_enabled: enabled.iter().any(is_start),
            name,
            code,
        });
    }
    scripts
}

/// The text of a regular file, as far as it is looked at.
fn read(path: &Path) -> Option<String> {
    // A FIFO would wait for a writer.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(SCRIPT)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_whole_one() {
        assert!(has_word("killall web", "web"));
        assert!(has_word("/usr/bin/web stop", "web"));
        assert!(has_word("kill $(pidof \"web\")", "web"));
        for line in [
            "killall webd",
            "rm /etc/web.conf",
            "killall my-web",
            "cd web/x",
        ] {
            assert!(!has_word(line, "web"), "{line}");
        }
    }
}
