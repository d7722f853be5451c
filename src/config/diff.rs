//! What a reload changes. A service whose definition is the same is not in the list of
//! changes, and so is not touched; where it is defined makes no difference.

use crate::machine::event::Change;
use crate::machine::time::Span;

use super::model::{CgroupUse, Config, CrashReports, ServiceDef};

/// The difference between two configurations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diff {
    /// New services and services whose definition changed, by name.
    pub changed: Vec<(String, Change)>,
    /// Services that stay as they are, by name.
    pub unchanged: Vec<String>,
    /// Services that are no longer configured, by name.
    pub gone: Vec<String>,
    /// `[daemon]` keys whose new value takes effect now, a line each:
    /// `ring: 16384 bytes -> 4096 bytes`.
    pub now: Vec<String>,
    /// `[daemon]` keys that are read at start only, a line each:
    /// `run-dir: /a -> /b takes effect at the next start`.
    pub next_start: Vec<String>,
}

/// Compares two configurations.
pub fn diff(old: &Config, new: &Config) -> Diff {
    let mut diff = Diff::default();
    let appeared: Vec<&String> = instances(new, old).chain(instances(old, new)).collect();
    for (name, def) in &new.services {
        let names_one = |def: &ServiceDef| appeared.iter().any(|n| def.policy.names(n));
        let changed = change(old.services.get(name), def);
        match changed.or_else(|| names_one(def).then_some(Change::Policy)) {
            Some(change) => diff.changed.push((name.clone(), change)),
            None => diff.unchanged.push(name.clone()),
        }
    }
    let gone = old
        .services
        .keys()
        .filter(|n| !new.services.contains_key(*n));
    diff.gone = gone.cloned().collect();
    diff_daemon(&mut diff, old, new);
    diff
}

/// Instances that are here and not there: for those who name them that is a change too.
fn instances<'c>(here: &'c Config, there: &'c Config) -> impl Iterator<Item = &'c String> {
    let names = here.services.keys();
    names.filter(|n| super::parts(n).is_some() && !there.services.contains_key(*n))
}

fn change(old: Option<&ServiceDef>, new: &ServiceDef) -> Option<Change> {
    let Some(old) = old else {
        return Some(Change::New);
    };
    if old.program != new.program {
        return Some(Change::Program);
    }
    (old.policy != new.policy).then_some(Change::Policy)
}

fn diff_daemon(diff: &mut Diff, old: &Config, new: &Config) {
    let (old, new) = (&old.daemon, &new.daemon);
    let none = || "none".to_owned();
    let group = |g: &Option<String>| g.clone().unwrap_or_else(none);
    let mut now = |key: &str, old: String, new: String| {
        if old != new {
            diff.now.push(format!("{key}: {old} -> {new}"));
        }
    };
    now("log", old.log.word().into(), new.log.word().into());
    now(
        "control-group",
        group(&old.control_group),
        group(&new.control_group),
    );
    now(
        "status-group",
        group(&old.status_group),
        group(&new.status_group),
    );
    let deadline = |d: Option<std::time::Duration>| d.map_or_else(none, |d| Span(d).to_string());
    now(
        "shutdown-deadline",
        deadline(old.shutdown_deadline),
        deadline(new.shutdown_deadline),
    );
    now(
        "ring",
        format!("{} bytes", old.ring),
        format!("{} bytes", new.ring),
    );
    let reports = |c: &CrashReports| c.written.to_string();
    now(
        "crash-reports",
        reports(&old.crashes),
        reports(&new.crashes),
    );
    let dir = |c: &CrashReports| c.dir.display().to_string();
    now("crash-dir", dir(&old.crashes), dir(&new.crashes));
    let keep = |c: &CrashReports| c.keep.to_string();
    now("crash-keep", keep(&old.crashes), keep(&new.crashes));
    let pause = |c: &CrashReports| Span(c.pause).to_string();
    now("crash-pause", pause(&old.crashes), pause(&new.crashes));
    let faults = |path: &std::path::Path| path.display().to_string();
    now(
        "known-faults",
        faults(&old.known_faults),
        faults(&new.known_faults),
    );
    let cgroup = |c: &CgroupUse| match c {
        CgroupUse::Auto => "auto".to_owned(),
        CgroupUse::Off => "off".to_owned(),
        CgroupUse::Below(path) => path.display().to_string(),
    };
    for (key, old, new) in [
        (
            "run-dir",
            old.run_dir.display().to_string(),
            new.run_dir.display().to_string(),
        ),
        ("cgroup", cgroup(&old.cgroup), cgroup(&new.cgroup)),
    ] {
        if old != new {
            diff.next_start.push(format!(
                "{key}: {old} -> {new} takes effect at the next start"
            ));
        }
    }
}
