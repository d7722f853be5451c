//! What `doctor` looks at in the same way from superd and, where no superd answers, from
//! superctl. Not for: what only superd knows (`daemon/doctor`), and files (`ctl/router`).

use std::path::Path;

use super::reply::Finding;
use crate::sys;

/// The name of the finding whose text is superd's configuration file, for superctl, which
/// reads it, too.
pub const CONFIGURATION: &str = "configuration file";

/// The kernel, and whether somebody takes messages; with `cgroups`, also what they can do.
pub fn machine(cgroups: bool) -> Vec<Finding> {
    let mut all: Vec<Finding> = sys::features::probe(cgroups)
        .into_iter()
        .map(|f| {
            let text = match f.has {
                true => "there".to_owned(),
                false => format!("not there: {}", f.instead),
            };
            finding(f.name, f.has, text)
        })
        .collect();
    let has_log = Path::new("/dev/log").exists();
    let text = match has_log {
        true => "there",
        false => "no log daemon: messages go to standard error until one comes",
    };
    all.push(finding("/dev/log", has_log, text.to_owned()));
    all
}

/// One of them.
pub fn finding(what: &str, good: bool, text: String) -> Finding {
    Finding {
        what: what.to_owned(),
        good,
        text,
    }
}
