//! What `superctl doctor` tells: what superd has found out about this machine, what it
//! does where something is missing, and what the operator can do.

use syslog::Severity;

use super::adopt::unwritten;
use super::journal::Journal;
use super::reactor::Reactor;
use crate::control::findings::{finding, machine, CONFIGURATION};
use crate::control::reply::Finding;
use crate::sys;

/// What superd cannot do where it has neither cgroups nor /proc.
const BLIND: &str = "neither cgroups nor /proc: what a service leaves behind is not found, and \
                     not held against it; mount /proc before superd starts";

impl Reactor {
    /// Said once, at the start: after that `stopped` means the main process alone.
    pub(super) fn warn_if_blind(&mut self) {
        if self.trees.root().is_none() && !sys::proc::is_mounted() {
            self.say(Severity::LOG_ERR, BLIND);
        }
    }

    /// Everything that was looked at.
    pub(super) fn findings(&mut self) -> Vec<Finding> {
        let mut all = machine(self.trees.root().is_some());
        if let Some(file) = &self.options.config {
            all.push(finding(CONFIGURATION, true, file.display().to_string()));
        }
        all.push(self.journal());
        all.push(self.containment());
        all.push(self.controllers());
        all.push(drain());
        all.push(self.dropped_lines());
        all.push(self.shutdown_time());
        all.push(self.crash_reports());
        all
    }

    fn journal(&self) -> Finding {
        let failing = self.journal.as_ref().and_then(Journal::failing);
        let text = failing.map_or_else(|| "is written".to_owned(), unwritten);
        finding("journal", failing.is_none(), text)
    }

    fn containment(&self) -> Finding {
        match self.trees.root() {
            Some(root) => finding(
                "containment",
                true,
                format!("cgroups below {}", root.path().display()),
            ),
            None if !sys::proc::is_mounted() => finding("containment", false, BLIND.to_owned()),
            None => {
                let text = "sessions and /proc: a process that leaves its session, its parent and \
                            its environment behind escapes until superd ends; mount cgroup v2 \
                            writable for superd";
                finding("containment", false, text.to_owned())
            }
        }
    }

    /// What limits of memory, processes, CPU and disks rest on.
    fn controllers(&self) -> Finding {
        let without =
            "services with such limits are not started, or without the limit where it is \
                       optional";
        let Some(root) = self.trees.root() else {
            let text = format!("there are no cgroups: {without}");
            return finding("limits by cgroup", false, text);
        };
        let there = root.controllers();
        let is_there = |name: &str| there.split_whitespace().any(|n| n == name);
        let lacking: Vec<&str> = ["memory", "pids", "cpu", "io"]
            .into_iter()
            .filter(|name| !is_there(name))
            .collect();
        let used_by_v1 = lacking.iter().any(|n| sys::cgroup::used_by_v1(n));
        let why = match used_by_v1 {
            true => " (used by cgroup v1: boot with cgroup_no_v1=all)",
            false => "",
        };
        match lacking.as_slice() {
            [] => finding("limits by cgroup", true, "memory, pids, cpu, io".to_owned()),
            lacking => {
                let lacking = lacking.join(", ");
                let text = format!("no controller {lacking}{why}: {without}");
                finding("limits by cgroup", false, text)
            }
        }
    }

    fn dropped_lines(&self) -> Finding {
        let mut dropped = self.logs.dropping();
        match self.sink.lost() {
            0 => {}
            n => dropped.push(format!("{n} dropped because nobody took them")),
        }
        match dropped.as_slice() {
            [] => finding("log lines", true, "none dropped".to_owned()),
            all => finding("log lines", false, all.join("; ")),
        }
    }

    fn crash_reports(&self) -> Finding {
        let settings = &self.registry.daemon().crashes;
        let dir = settings.dir.display();
        match (settings.written, self.crashes.lost()) {
            (false, _) => finding("crash reports", true, "switched off".to_owned()),
            (true, None) => finding("crash reports", true, format!("go to {dir}")),
            (true, Some(n)) => finding(
                "crash reports",
                false,
                format!("{n} could not be written to {dir}; superd tries again"),
            ),
        }
    }

    fn shutdown_time(&self) -> Finding {
        let seconds = self.registry.plan().max_stop_seconds();
        let text = format!(
            "stopping everything takes at most {seconds} s: under procd, term_timeout must not be less"
        );
        finding("shutdown", true, text)
    }
}

fn drain() -> Finding {
    let text = match (
        sys::proc::is_mounted(),
        sys::features::may_copy_descriptors(),
        sys::features::may_trace(),
    ) {
        (false, ..) => "without /proc no socket is found",
        (true, false, _) => super::drain::NO_GETFD,
        (true, true, _) if !sys::features::may_filter_tcp() => super::drain::NO_FILTER,
        (true, true, true) if sys::features::has_mptcp() => {
            let text =
                "works, but for sockets of MPTCP, which programs in Go listen with here: set \
                        GODEBUG = \"multipathtcp=0\" in the environment of such a service";
            return finding("drain", true, text.to_owned());
        }
        (true, true, true) => return finding("drain", true, "works".to_owned()),
        (true, true, false) => {
            let text = "works for services of superd's own user; for others superd needs \
                        CAP_SYS_PTRACE, and steps that drain are skipped";
            return finding("drain", true, text.to_owned());
        }
    };
    let text = format!("{text}: steps that drain are skipped");
    finding("drain", false, text)
}
