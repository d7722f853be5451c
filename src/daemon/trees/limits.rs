//! Limits of a service's cgroup (cgroup controllers): set before each start, and again when an
//! instance is adopted.

use std::io;

use super::{failure, Trees};
use crate::config::confine::{Control, CONTROLS};
use crate::config::model::Confine;
use crate::daemon::journal::Place;
use crate::daemon::rundir::plain;
use crate::machine::report::{SpawnError, Stage};
use crate::sys::cgroup::{used_by_v1, Group, Lack, Root};
use crate::sys::errno_of;

impl Trees {
    /// Sets the limits of a group; what is not said is as if nobody ever had.
    pub(super) fn limit(
        &self,
        group: Option<&Group>,
        confine: &Confine,
        without: &mut Vec<SpawnError>,
    ) -> Result<(), SpawnError> {
        let is_limited = self.root.as_ref().is_some_and(Root::is_limited);
        if !is_limited && confine.controls.is_empty() {
            return Ok(());
        }
        for (control, value) in limits(confine) {
            let Some(value) = value else {
                if let Some(group) = group.filter(|_| is_limited) {
                    group.limit(control.file, control.default).ok(); // never was enabled
                }
                continue;
            };
            if let Err(error) = self.set_limit(group, control, value) {
                match confine.optional.iter().any(|key| key == control.key) {
                    true => without.push(error),
                    false => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Sets the limits of an instance that is about to be adopted: whoever started superd again
    /// may have had to take the controllers away (ExecStopPost= of superd.service). What is not
    /// limited is left as it is.
    pub fn limit_adopted(&self, name: &str, place: &Place, confine: &Confine) -> Vec<SpawnError> {
        let group = place.group.as_deref().and_then(Group::found);
        let is_here = |g: &Group| self.root.as_ref().is_some_and(|r| r.holds(name, g));
        let Some(group) = group.filter(is_here) else {
            return Vec::new();
        };
        let set = limits(confine).filter_map(|(control, value)| Some((control, value?)));
        set.filter_map(|(control, value)| self.set_limit(Some(&group), control, value).err())
            .collect()
    }

    fn set_limit(
        &self,
        group: Option<&Group>,
        control: &Control,
        value: u64,
    ) -> Result<(), SpawnError> {
        let fail = |errno, cause: String| SpawnError {
            cause,
            ..failure(Stage::Control, control.key, errno)
        };
        let Some((root, group)) = self.root.as_ref().zip(group) else {
            let text = "there are no cgroups here (see superctl doctor)";
            return Err(fail(0, text.to_owned()));
        };
        root.enable(control.controller).map_err(|lack| match lack {
            Lack::NotThere(dir) => {
                let list = dir.join("cgroup.controllers");
                let why = used_by_v1(control.controller);
                let why = if why { ": it is used by cgroup v1" } else { "" };
                let (name, list) = (control.controller, list.display());
                fail(0, format!("controller {name} is not in {list}{why}"))
            }
            Lack::NotAlone(dir) => {
                let dir = dir.display();
                fail(
                    0,
                    format!("others than superd are in {dir}: start it in a cgroup of its own"),
                )
            }
            Lack::Refused(dir, e) => {
                fail(errno_of(&e), format!("{}: {}", dir.display(), plain(&e)))
            }
        })?;
        match group.limit(control.file, &control.text(value)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(fail(0, format!("the kernel has no {}", control.file)))
            }
            other => other.map_err(|e| fail(errno_of(&e), plain(&e))),
        }
    }
}

/// Each limit that there is, and what the definition says of it.
fn limits(confine: &Confine) -> impl Iterator<Item = (&'static Control, Option<u64>)> + '_ {
    CONTROLS.iter().map(|control| {
        let set = confine.controls.iter().find(|c| c.key == control.key);
        (control, set.map(|set| set.value))
    })
}
