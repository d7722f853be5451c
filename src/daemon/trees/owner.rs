//! To which instance a process belongs that has sent something.

use std::io::Read;
use std::path::Path;

use super::{Live, Trees};
use crate::daemon::spawn::INSTANCE;
use crate::machine::event::{Instance, Pid, ServiceId};
use crate::sys::file;

/// The most of an environment that is searched for an instance's mark.
const ENVIRONMENT_CAP: u64 = 256 * 1024;

impl Trees {
    /// The instance to whose tree a process belongs. What the process says of itself (its
    /// cgroup, its environment) leads to one tree, which is then looked at: the cost does
    /// not grow with the number of services, whoever sends notify messages.
    pub fn owner(&mut self, pid: Pid) -> Option<(ServiceId, Instance)> {
        let is_main = |l: &Live| l.tree.main() == Some(pid);
        let by_main = self
            .live
            .iter()
            .find(|(_, l)| is_main(l))
            .map(|(id, _)| *id);
        let id = match (by_main, &self.root) {
            (Some(id), _) => id,
            (None, Some(_)) => self.by_cgroup(pid)?,
            (None, None) => self.by_mark(pid)?,
        };
        let live = self.live.get_mut(&id)?;
        (by_main.is_some() || live.tree.holds(&mut self.forest, pid)).then_some((id, live.instance))
    }

    fn by_cgroup(&self, pid: Pid) -> Option<ServiceId> {
        let text = read(&format!("/proc/{}/cgroup", pid.0), 4096)?;
        let text = String::from_utf8(text).ok()?;
        let path = text.lines().find_map(|l| l.strip_prefix("0::/"))?;
        let is_in = |l: &Live| l.tree.group().is_some_and(|g| has_suffix(g.path(), path));
        self.live.iter().find(|(_, l)| is_in(l)).map(|(id, _)| *id)
    }

    fn by_mark(&self, pid: Pid) -> Option<ServiceId> {
        let text = read(&format!("/proc/{}/environ", pid.0), ENVIRONMENT_CAP)?;
        let prefix = format!("{INSTANCE}=").into_bytes();
        let mark = text.split(|b| *b == 0).find(|v| v.starts_with(&prefix))?;
        let is_it = |l: &Live| l.tree.mark() == mark;
        self.live.iter().find(|(_, l)| is_it(l)).map(|(id, _)| *id)
    }
}

/// The group of a process, or one that its service made below the group, ends the path.
fn has_suffix(group: &Path, path: &str) -> bool {
    let path = Path::new(path);
    path.ancestors()
        .any(|p| !p.as_os_str().is_empty() && group.ends_with(p) && is_named(group, p))
}

/// A suffix is a name only if it goes past the mount point, where all groups are alike.
fn is_named(group: &Path, suffix: &Path) -> bool {
    group.file_name().is_some() && suffix.file_name() == group.file_name()
}

fn read(path: &str, cap: u64) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    file::open_to_read(path)
        .ok()?
        .take(cap)
        .read_to_end(&mut text)
        .ok()?;
    Some(text)
}
