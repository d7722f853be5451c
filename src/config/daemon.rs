//! `[daemon]`: what concerns superd itself.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::keys;
use super::model::{CgroupUse, CrashReports, Daemon, LogTo};
use super::read::{Reader, Value};

/// Enough for the last words of a panic with its first goroutines.
const RING: usize = 16 << 10;

/// The largest ring: it is memory, per service.
const RING_CAP: u64 = 16 << 20;

/// Different crashes kept of a service: a report is a file of some KiB on small flash.
const CRASH_KEEP: usize = 5;

/// The most of them.
const CRASH_KEEP_CAP: i64 = 100;

impl Default for Daemon {
    fn default() -> Daemon {
        Daemon {
            run_dir: PathBuf::from("/var/run/superd"),
            log: LogTo::Auto,
            control_group: None,
            status_group: None,
            shutdown_deadline: None,
            cgroup: CgroupUse::Auto,
            ring: RING,
            crashes: CrashReports::default(),
            known_faults: PathBuf::from("/etc/superd/known-faults.toml"),
        }
    }
}

impl Default for CrashReports {
    fn default() -> CrashReports {
        CrashReports {
            written: true,
            dir: PathBuf::from("/etc/superd/crashes"),
            keep: CRASH_KEEP,
            pause: Duration::from_secs(600),
        }
    }
}

/// Reads the section into what is the default so far.
pub(super) fn read(r: &mut Reader, table: &DeTable, daemon: &mut Daemon) {
    for (key, v) in table.iter() {
        if !r.known(key, keys::DAEMON) {
            continue;
        }
        let key = key.get_ref().as_ref();
        match key {
            "run-dir" => {
                if let Some(path) = r.path(key, v) {
                    daemon.run_dir = path.into();
                }
            }
            "log" => daemon.log = r.choice(key, v, LOG).unwrap_or(daemon.log),
            "control-group" => daemon.control_group = r.text(key, v),
            "status-group" => daemon.status_group = r.text(key, v),
            "shutdown-deadline" => daemon.shutdown_deadline = r.duration(key, v),
            "cgroup" => daemon.cgroup = read_cgroup(r, key, v).unwrap_or(CgroupUse::Auto),
            "ring" => {
                let size = r.size(key, v, (0, RING_CAP));
                daemon.ring = size.and_then(|n| n.try_into().ok()).unwrap_or(RING);
            }
            "crash-reports" => {
                let written = r.boolean(key, v);
                daemon.crashes.written = written.unwrap_or(daemon.crashes.written);
            }
            "crash-dir" => {
                if let Some(path) = r.path(key, v) {
                    daemon.crashes.dir = path.into();
                }
            }
            "crash-keep" => {
                let n = r.integer(key, v, 1..CRASH_KEEP_CAP + 1);
                daemon.crashes.keep = n.and_then(|n| n.try_into().ok()).unwrap_or(CRASH_KEEP);
            }
            "crash-pause" => {
                daemon.crashes.pause = r.duration(key, v).unwrap_or(daemon.crashes.pause);
            }
            "known-faults" => {
                if let Some(path) = r.path(key, v) {
                    daemon.known_faults = path.into();
                }
            }
            _ => r.problem(v.span(), format_args!("key `{key}` is known but not read")),
        }
    }
}

const LOG: &[(&str, LogTo)] = &[
    ("auto", LogTo::Auto),
    ("syslog", LogTo::Syslog),
    ("stderr", LogTo::Stderr),
    ("none", LogTo::None),
];

fn read_cgroup(r: &mut Reader, key: &str, v: &Value) -> Option<CgroupUse> {
    match v.get_ref() {
        DeValue::String(s) if s.starts_with('/') => Some(CgroupUse::Below(r.path(key, v)?.into())),
        _ => r.choice(
            key,
            v,
            &[
                ("auto", CgroupUse::Auto),
                ("off", CgroupUse::Off),
                ("/path", CgroupUse::Auto),
            ],
        ),
    }
}
