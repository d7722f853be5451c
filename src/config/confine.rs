//! What a service is kept to: limits of its cgroup, capabilities, files, network.
//!
//! What of this a machine can do is none of a check's business: the same file may be meant for
//! another one. A start fails where it cannot, see `optional`.

use toml::de::DeValue;

use super::keys;
use super::model::{self, Confine};
use super::problem::{nearest, word};
use super::read::{Reader, Spots, Value};
use crate::json::{Fault, Node};

/// How the value of a limit is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Bytes.
    Size,
    /// A number up to this.
    Number(i64),
    /// Percent of one CPU.
    Percent,
}

/// A limit of a cgroup (Documentation/admin-guide/cgroup-v2.rst).
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// The key.
    pub key: &'static str,
    /// The controller that has to be enabled.
    pub controller: &'static str,
    /// The file that is written.
    pub file: &'static str,
    /// What is in it when nobody has set anything.
    pub default: &'static str,
    /// How its value is written.
    pub kind: Kind,
}

const fn control(
    key: &'static str,
    controller: &'static str,
    file: &'static str,
    default: &'static str,
    kind: Kind,
) -> Control {
    Control {
        key,
        controller,
        file,
        default,
        kind,
    }
}

/// Every limit.
pub const CONTROLS: &[Control] = &[
    control("memory-max", "memory", "memory.max", "max", Kind::Size),
    control("memory-high", "memory", "memory.high", "max", Kind::Size),
    control(
        "pids-max",
        "pids",
        "pids.max",
        "max",
        Kind::Number(4_194_304),
    ),
    control(
        "cpu-weight",
        "cpu",
        "cpu.weight",
        "100",
        Kind::Number(10_000),
    ),
    control("cpu-max", "cpu", "cpu.max", "max 100000", Kind::Percent),
    control(
        "io-weight",
        "io",
        "io.weight",
        "default 100",
        Kind::Number(10_000),
    ),
];

impl Control {
    /// What is written into the file.
    pub fn text(&self, value: u64) -> String {
        match (self.kind, self.file) {
            // Of 100 ms.
            (Kind::Percent, _) => format!("{} 100000", value * 1000),
            (_, "io.weight") => format!("default {value}"),
            _ => value.to_string(),
        }
    }
}

/// The name of a key as superd has once written it.
pub(super) fn known(from: Node<'_>) -> Result<&'static str, Fault> {
    let text = from.text()?;
    let found = CONTROLS.iter().find(|c| c.key == text);
    found
        .map(|c| c.key)
        .ok_or_else(|| Fault::new("unknown limit"))
}

/// Less than this is a forgotten unit.
pub(super) const LEAST: u64 = 256 * 1024;

/// More CPUs than any machine of ours has.
const CPUS: u64 = 1024;

/// capabilities(7), each at its number.
pub const CAPABILITIES: &[&str] = &[
    "chown",
    "dac-override",
    "dac-read-search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux-immutable",
    "net-bind-service",
    "net-broadcast",
    "net-admin",
    "net-raw",
    "ipc-lock",
    "ipc-owner",
    "sys-module",
    "sys-rawio",
    "sys-chroot",
    "sys-ptrace",
    "sys-pacct",
    "sys-admin",
    "sys-boot",
    "sys-nice",
    "sys-resource",
    "sys-time",
    "sys-tty-config",
    "mknod",
    "lease",
    "audit-write",
    "audit-control",
    "setfcap",
    "mac-override",
    "mac-admin",
    "syslog",
    "wake-alarm",
    "block-suspend",
    "audit-read",
    "perfmon",
    "bpf",
    "checkpoint-restore",
];

/// What a section says of this; none where it is silent, `Some` of nothing where it says false.
#[derive(Clone, Default)]
pub(super) struct Said {
    controls: Vec<(&'static str, Option<u64>)>,
    network_namespace: Option<Option<String>>,
    private_tmp: Option<bool>,
    read_only_paths: Option<Vec<String>>,
    writable_paths: Option<Option<Vec<String>>>,
    capabilities: Option<Option<u64>>,
    no_new_privileges: Option<bool>,
    optional: Option<Vec<String>>,
    /// Of the defaults: `cgroup = "off"` says that there will be none.
    pub no_cgroups: bool,
}

/// Whether the key is one of these.
pub(super) fn read_key(r: &mut Reader, said: &mut Said, key: &str, v: &Value) -> bool {
    if let Some(control) = CONTROLS.iter().find(|c| c.key == key) {
        if let Some(value) = read_control(r, control, v) {
            said.controls.push((control.key, value));
        }
        return true;
    }
    match key {
        "network-namespace" => said.network_namespace = read_namespace(r, key, v),
        "private-tmp" => said.private_tmp = r.boolean(key, v),
        "read-only-paths" => said.read_only_paths = read_paths(r, key, v),
        "writable-paths" => {
            said.writable_paths = match is_false(v) {
                true => Some(None),
                false => read_paths(r, key, v).map(Some),
            }
        }
        "capabilities" => said.capabilities = read_capabilities(r, key, v),
        "no-new-privileges" => said.no_new_privileges = r.boolean(key, v),
        "optional" => said.optional = read_optional(r, key, v),
        _ => return false,
    }
    true
}

fn is_false(v: &Value) -> bool {
    matches!(v.get_ref(), DeValue::Boolean(false))
}

/// A value, or false.
fn read_control(r: &mut Reader, control: &Control, v: &Value) -> Option<Option<u64>> {
    if is_false(v) {
        return Some(None);
    }
    let key = control.key;
    Some(Some(match control.kind {
        Kind::Size => read_size(r, key, v)?,
        Kind::Number(most) => r.integer(key, v, 1..most + 1)?.unsigned_abs(),
        Kind::Percent => r.parse(key, v, percent)?,
    }))
}

/// A size that a program fits into.
pub(super) fn read_size(r: &mut Reader, key: &str, v: &Value) -> Option<u64> {
    r.size(key, v, (LEAST, u64::MAX))
}

/// `50%` of one CPU; `200%` are two.
fn percent(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('%').filter(|n| {
        let digits = n.bytes().all(|b| b.is_ascii_digit());
        digits && matches!(n.len(), 1..=6)
    });
    match number.and_then(|n| n.parse::<u64>().ok()) {
        Some(n) if (1..=100 * CPUS).contains(&n) => Ok(n),
        _ => Err(format!(
            "`{}` is not a share of CPU time: write \"50%\" for half of one CPU, \"200%\" for \
             two; from 1% to {}%",
            word(text),
            100 * CPUS
        )),
    }
}

/// A name below /var/run/netns, or false.
fn read_namespace(r: &mut Reader, key: &str, v: &Value) -> Option<Option<String>> {
    if is_false(v) {
        return Some(None);
    }
    let name = r.text(key, v)?;
    if name.contains('/') || name == "." || name == ".." || name.len() > 255 {
        r.problem(
            v.span(),
            format_args!(
                "`{key}` is the name that `ip netns list` shows, not `{}`",
                word(&name)
            ),
        );
        return None;
    }
    Some(Some(name))
}

/// Absolute paths; a leading `-` means that one may be missing.
fn read_paths(r: &mut Reader, key: &str, v: &Value) -> Option<Vec<String>> {
    r.list(key, v, "\"/etc\"", Reader::maybe_path)
}

/// Names of capabilities, or false.
fn read_capabilities(r: &mut Reader, key: &str, v: &Value) -> Option<Option<u64>> {
    if is_false(v) {
        return Some(None);
    }
    let names = r.list(key, v, "\"net-bind-service\"", |r, key, v| {
        r.parse(key, v, capability)
    })?;
    let is_named = |(known, _): &(&&str, i32)| names.iter().any(|n| n == *known);
    let all = CAPABILITIES.iter().zip(0..).filter(is_named);
    Some(Some(
        all.fold(0, |mask, (_, number)| mask | 1_u64 << number),
    ))
}

/// As it is in [`CAPABILITIES`].
fn capability(typed: &str) -> Result<String, String> {
    let plain = typed.to_ascii_lowercase().replace('_', "-");
    let plain = plain.strip_prefix("cap-").unwrap_or(&plain);
    one_of(plain, CAPABILITIES, "a capability", "net-bind-service")
}

/// Names of keys.
fn read_optional(r: &mut Reader, key: &str, v: &Value) -> Option<Vec<String>> {
    let mut names = r.list(key, v, "\"cpu-max\"", |r, key, v| {
        r.parse(key, v, |name| {
            one_of(
                name,
                keys::OPTIONAL,
                "a key that can be optional",
                "cpu-max",
            )
        })
    })?;
    names.sort_unstable();
    names.dedup();
    Some(names)
}

fn one_of(name: &str, known: &[&'static str], what: &str, like: &str) -> Result<String, String> {
    if known.contains(&name) {
        return Ok(name.to_owned());
    }
    let meant = nearest(name, known.iter().copied()).unwrap_or(like);
    Err(format!("`{}` is not {what}: write \"{meant}\"", word(name)))
}

/// What the service's section says, and the defaults where it is silent.
pub(super) fn define(r: &mut Reader, at: &Spots, said: Said, defaults: &Said) -> Confine {
    let mut controls = Vec::new();
    for control in CONTROLS {
        let say = |s: &Said| {
            s.controls
                .iter()
                .rfind(|(key, _)| *key == control.key)
                .copied()
        };
        if let Some((key, Some(value))) = say(&said).or_else(|| say(defaults)) {
            controls.push(model::Control { key, value });
        }
    }
    let value = |key: &str| {
        let found = controls.iter().find(|c: &&model::Control| c.key == key);
        found.map(|c| c.value)
    };
    if let (Some(high), Some(max)) = (value("memory-high"), value("memory-max")) {
        if high > max {
            let text = "`memory-high` is above `memory-max`";
            r.problem(at.of(&["memory-high", "memory-max"]), text);
        }
    }
    let optional = said.optional.or_else(|| defaults.optional.clone());
    let optional = optional.unwrap_or_default();
    for control in controls.iter().filter(|_| defaults.no_cgroups) {
        let key = control.key;
        if !optional.iter().any(|o| o == key) {
            let text = format_args!(
                "`{key}` needs cgroups, and [daemon] has cgroup = \"off\": one of them, or `optional`"
            );
            r.problem(at.of(&[key]), text);
        }
    }
    if said.no_new_privileges == Some(false) && matches!(said.writable_paths, Some(Some(_))) {
        let text = "`writable-paths` implies `no-new-privileges`: leave that out";
        r.problem(at.of(&["no-new-privileges"]), text);
    }
    Confine {
        controls,
        network_namespace: said
            .network_namespace
            .or_else(|| defaults.network_namespace.clone())
            .flatten(),
        private_tmp: said.private_tmp.or(defaults.private_tmp).unwrap_or(false),
        read_only_paths: said
            .read_only_paths
            .or_else(|| defaults.read_only_paths.clone())
            .unwrap_or_default(),
        writable_paths: said
            .writable_paths
            .or_else(|| defaults.writable_paths.clone())
            .flatten(),
        capabilities: said.capabilities.or(defaults.capabilities).flatten(),
        no_new_privileges: said
            .no_new_privileges
            .or(defaults.no_new_privileges)
            .unwrap_or(false),
        optional,
    }
}
