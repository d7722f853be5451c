//! The configuration: from TOML files to [`model::Config`], or to every problem in them.
//!
//! One schema for every file, declared in [`keys`] and described in superd.toml(5).
//! Reading goes file by file (`load`), section by section (`service`, `daemon`), value by
//! value (`read`, `value`, `stop`); what concerns several services comes last (`order`).
//! A key or value that is not understood is never skipped: it is a problem with its
//! place, and all problems come out at once.
//!
//! Nothing here starts, stops or asks anything. Whether users, programs and directories
//! exist is seen when a service is started: they may come and go while superd runs. Only
//! [`check`] warns of them.
//!
//! ```
//! use superd::map::Map;
//! use std::path::{Path, PathBuf};
//! use superd::config;
//!
//! let mut files = Map::from([(
//!     PathBuf::from("/etc/superd/superd.toml"),
//!     b"[service.dnsd]\ncomand = [\"/usr/sbin/dnsd\"]\n".to_vec(),
//! )]);
//! let problems = config::load_with(Path::new("/etc/superd/superd.toml"), &mut files).unwrap_err();
//! assert_eq!(
//!     problems.lines(),
//!     [
//!         "/etc/superd/superd.toml:1:10: service \"dnsd\": has no `command`",
//!         "/etc/superd/superd.toml:2:1: service \"dnsd\": unknown key `comand` (did you mean `command`?)",
//!     ]
//! );
//! ```
#![forbid(unsafe_code)]

pub mod confine;
mod daemon;
mod diff;
pub mod faults;
pub(crate) mod files;
mod health;
mod hooks;
pub mod keys;
mod limits;
mod load;
pub mod model;
mod order;
mod outlook;
mod output;
mod plan;
mod problem;
mod read;
mod ready;
mod service;
mod stop;
mod template;
mod value;
mod wrap;

#[cfg(test)]
mod hints;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::unistd::{Group, User};

pub use diff::diff;
pub use files::FILE_CAP;
pub use load::{load, load_with};
pub use model::Config;
pub use plan::{plan, term_timeout, Plan};
pub use problem::{nearest, Problems};
pub use stop::PRESETS;
pub use template::{parts, Templates, INSTANCES_CAP};
pub use value::{duration_or_seconds, service_name};
pub use wrap::{wrap, Wrapped};

use crate::machine::spec::Schedule;
use crate::machine::time::Span;
use crate::sys::spawn::USUAL_PATH;

/// What [`check`] found in a configuration without problems.
#[derive(Clone, PartialEq, Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// How long a stop can take.
    pub plan: Plan,
    /// What works but is probably not what was meant, a line each.
    pub warnings: Vec<String>,
}

/// Loads a configuration as [`load()`] does and looks at its stop times: `superctl check`.
/// `term_timeout` is procd's, in seconds; that it is not longer than the longest stop is
/// a problem, because procd then KILLs superd in the middle of it.
pub fn check(path: &Path, term_timeout: Option<u64>) -> Result<Checked, Problems> {
    let config = load(path)?;
    let plan = plan(&config);
    if let Some(seconds) = term_timeout {
        if std::time::Duration::from_secs(seconds) <= plan.longest {
            return Err(Problems::of_file(
                path,
                format_args!(
                    "stopping everything can take {} ({}), not less than procd's term_timeout of \
                     {seconds} s, after which it KILLs superd: set term_timeout to {}",
                    Span(plan.longest),
                    plan.critical.join(", then "),
                    plan.max_stop_seconds(),
                ),
            ));
        }
    }
    let warnings = warnings(&config, &plan);
    Ok(Checked {
        config,
        plan,
        warnings,
    })
}

/// The stop schedule of a `--stop` option: a preset (`caddy-api`), a signal (`INT`), or
/// what could stand in the file (`[{ signal = "TERM", wait = "5s" }]`). The problem is
/// one line without a place.
pub fn stop_schedule(text: &str) -> Result<Schedule, String> {
    load::stop_schedule(text)
}

/// What it names and this machine has not.
fn missing(program: &model::Program) -> Vec<(&'static str, &str)> {
    let mut missing = Vec::new();
    let is_number = |name: &str| name.parse::<u32>().is_ok();
    if let Some(command) = program.command.first().filter(|c| !is_program(program, c)) {
        missing.push(("there is no program", command.as_str()));
    }
    if let Some(user) = program.user.as_ref().filter(|u| !is_number(u)) {
        if let Ok(None) = User::from_name(user) {
            missing.push(("there is no user", user));
        }
    }
    for group in program.group.iter().chain(program.groups.iter().flatten()) {
        if let (false, Ok(None)) = (is_number(group), Group::from_name(group)) {
            missing.push(("there is no group", group));
        }
    }
    if let Some(directory) = program.directory.as_ref() {
        if !Path::new(directory).is_dir() {
            missing.push(("there is no directory", directory));
        }
    }
    if let Some(file) = &program.log_file {
        if std::fs::metadata(&file.path).is_ok_and(|m| !m.is_file()) {
            missing.push(("its log is no regular file:", &file.path));
        }
    }
    missing
}

/// Whether the command can be executed, as far as that can be told.
fn is_program(program: &model::Program, command: &str) -> bool {
    let path = match program.environment.get("PATH") {
        // Joined with an absolute path that is left as it is.
        _ if command.contains('/') => program.directory.as_deref().unwrap_or("/"),
        Some(path) => path,
        None if program.environment_file.is_some() => return true, // it may be in there
        None => USUAL_PATH,
    };
    path.split(':').any(|directory| {
        let file = std::fs::metadata(Path::new(directory).join(command));
        file.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

fn warnings(config: &Config, plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.services.is_empty() && config.templates.is_empty() {
        warnings.push("no service is configured".to_owned());
    }
    if let Err(problems) = faults::load(&config.daemon.known_faults) {
        warnings.extend(problems.lines());
    }
    for (name, def) in config.services.iter().filter(|(_, d)| d.policy.autostart) {
        let asleep = |need: &&String| {
            let known = config.services.get(*need);
            known.is_some_and(|d| !d.policy.autostart)
        };
        for need in def.policy.requires.iter().filter(asleep) {
            warnings.push(format!(
                "service \"{name}\": requires \"{need}\", which has autostart = false: it waits \
                 until somebody starts that"
            ));
        }
    }
    for (name, def) in &config.services {
        let missing = missing(&def.program).into_iter();
        warnings.extend(missing.map(|(what, which)| {
            format!("service \"{name}\": {what} `{}` here", problem::word(which))
        }));
    }
    if let Some(deadline) = config.daemon.shutdown_deadline {
        if plan.uncapped > deadline {
            warnings.push(format!(
                "stopping everything can take {}, and shutdown-deadline KILLs what is left after {}",
                Span(plan.uncapped),
                Span(deadline)
            ));
        }
    }
    warnings
}
