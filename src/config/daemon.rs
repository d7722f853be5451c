//! `[daemon]`: what concerns superd itself.

use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::keys;
use super::model::{CgroupUse, Daemon, LogTo};
use super::read::{Reader, Value};

/// Enough for the last words of a panic with its first goroutines.
const RING: usize = 16 << 10;

/// The largest ring: it is memory, per service.
const RING_CAP: i64 = 16 << 20;

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
                let size = r.size(key, v, RING_CAP);
                daemon.ring = size.and_then(|n| n.try_into().ok()).unwrap_or(RING);
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
