//! The part of `superctl doctor` that superd has no need to know: room on flash and in RAM, and
//! what other init scripts do to its services. Reads files and runs nothing.
//!
//! An init script is text, and what it does is guessed from its words; each finding names the
//! script, so that it can be looked at.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::basename;
use crate::config::{self, Checked};
use crate::control::reply::Finding;

/// Crash reports and a new binary need this much, in KiB.
const FLASH: u64 = 1024;

/// With less, the kernel soon kills somebody; in KiB.
const MEMORY: u64 = 8 * 1024;

/// Of an init script, so much is looked at.
const SCRIPT: u64 = 64 * 1024;

/// And so many of them.
const SCRIPTS: usize = 1000;

/// Words of a line that ends processes.
const ENDS: [&str; 6] = [
    "killall",
    "pkill",
    "kill ",
    "start-stop-daemon -K",
    "start-stop-daemon --stop",
    "service_stop ",
];

/// procd's `term_timeout`, if a script does not say another one.
const TERM_TIMEOUT: u64 = 5;

/// An init script that is not superd's own.
struct Script {
    name: String,
    text: String,
    is_enabled: bool,
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
    if code().any(|l| l.contains("--max-stop-seconds")) {
        let text = format!(
            "/etc/init.d/superd computes it at each start ({needed} s and 5 more); after a reload \
             that makes stops longer, restart superd when you can"
        );
        return finding(what, true, text);
    }
    let said = code().find_map(|l| {
        let rest = l.split_once("term_timeout")?.1;
        rest.split_whitespace()
            .next()?
            .trim_matches('"')
            .parse()
            .ok()
    });
    let seconds = said.unwrap_or(TERM_TIMEOUT);
    let good = seconds >= needed;
    let text = match good {
        true => format!("{seconds} s, and stopping everything takes less than {needed} s"),
        false => format!(
            "procd KILLs superd after {seconds} s, but a stop can take {needed} s: in \
             /etc/init.d/superd, procd_set_param term_timeout {needed}"
        ),
    };
    finding(what, good, text)
}

/// Whoever else starts or stops what superd supervises.
fn masters(scripts: &[Script], checked: &Checked) -> Vec<Finding> {
    let mut all = Vec::new();
    for service in checked.config.services.values() {
        let program = service.program.command.first().map_or("", String::as_str);
        let short = basename(Path::new(program));
        for script in scripts {
            let Script { name, text, .. } = script;
            let code = || text.lines().filter(|l| !l.trim_start().starts_with('#'));
            let runs = program.starts_with('/') && code().any(|l| has_word(l, program));
            if script.is_enabled && (*name == service.name || runs) {
                let text = format!(
                    "service {}: /etc/init.d/{name} is enabled, too, and starts a second one: \
                     /etc/init.d/{name} disable; /etc/init.d/{name} stop",
                    service.name
                );
                all.push(finding("two masters", false, text));
            }
            let ends = |l: &&str| ENDS.iter().any(|e| l.contains(e)) && has_word(l, short);
            let asks = |l: &&str| has_word(l, short) && has_word(l, "stop");
            let line = code().find(|l| !short.is_empty() && (ends(l) || asks(l)));
            if let Some(line) = line {
                let text = format!(
                    "service {}: /etc/init.d/{name} says `{}`, which stops it behind superd's \
                     back: say superctl stop {} there",
                    service.name,
                    line.trim(),
                    service.name
                );
                all.push(finding("other stops", false, text));
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
        // Ours, and those that ask superd.
        if name == "superd" || text.contains("superctl") || text.contains("superd run") {
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
            text,
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

fn finding(what: &str, good: bool, text: String) -> Finding {
    Finding {
        what: what.to_owned(),
        good,
        text,
    }
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
