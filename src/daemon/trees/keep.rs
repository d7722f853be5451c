//! What of the trees outlives a change of the program (`superctl upgrade`).

use std::fs::File;
use std::io;

use nix::fcntl::{Flock, FlockArg};

use super::{Live, Trees};
use crate::daemon::spawn::Base;
use crate::daemon::tree::{Forest, KeptForest, Tree};
use crate::daemon::upgrade::state::Fds;
use crate::json::{FromJson, ToJson};
use crate::machine::event::{ActionId, ServiceId};
use crate::map::Map;
use crate::sys::cgroup::{Group, Root};
use crate::sys::handover::Inherited;
use crate::sys::klog::Klog;
use crate::sys::limits::Limit;
use crate::sys::spawn::{is_clone_refused, refuse_clone};

/// What [`Trees::keep`] says.
#[derive(ToJson)]
pub struct Keeping<'a> {
    forest: KeptForest,
    open_files: Option<Limit>,
    clone_is_refused: bool,
    root: &'a Option<Root>,
    lock: Option<i32>,
    live: &'a Map<ServiceId, Box<Live>>,
    groups: &'a Map<ServiceId, Group>,
    commands: &'a Map<ActionId, (ServiceId, Tree)>,
    scope: &'a str,
    until_exec: Option<i32>,
    ending: &'a [(ServiceId, Tree)],
}

/// The same, read.
#[derive(FromJson)]
pub struct Kept {
    forest: KeptForest,
    open_files: Option<Limit>,
    clone_is_refused: bool,
    root: Option<Root>,
    lock: Option<i32>,
    live: Map<ServiceId, Box<Live>>,
    groups: Map<ServiceId, Group>,
    commands: Map<ActionId, (ServiceId, Tree)>,
    scope: String,
    until_exec: Option<i32>,
    ending: Vec<(ServiceId, Tree)>,
}

impl Trees {
    /// For a superd that becomes another program.
    pub fn keep(&self, fds: &mut Fds) -> Keeping<'_> {
        Keeping {
            forest: self.forest.keep(),
            open_files: self.base.open_files(),
            clone_is_refused: is_clone_refused(),
            root: &self.root,
            lock: self.lock.as_deref().map(|l| fds.pass(l)),
            live: &self.live,
            groups: &self.groups,
            commands: &self.commands,
            scope: &self.scope,
            until_exec: self.until_exec.as_deref().map(|l| fds.pass(l)),
            ending: &self.ending,
        }
    }

    /// What [`Trees::keep`] said, in the new one.
    ///
    /// # Errors
    /// Of taking the locks over.
    pub fn kept(kept: Kept, left: &mut Inherited) -> io::Result<Trees> {
        let mut lock = |fd: Option<i32>, how| -> io::Result<Option<Flock<File>>> {
            let Some(fd) = fd else { return Ok(None) };
            // Held already by the same open file: this changes nothing.
            let held = Flock::lock(File::from(left.take(fd)?), how);
            held.map(Some).map_err(|(_, e)| e.into())
        };
        let own = lock(kept.lock, FlockArg::LockExclusiveNonblock)?;
        let until_exec = lock(kept.until_exec, FlockArg::LockSharedNonblock)?;
        refuse_clone(kept.clone_is_refused);
        let mut live = kept.live;
        for (service, group) in &kept.groups {
            if let Some(live) = live.get_mut(service) {
                live.tree.share_group(group);
            }
        }
        Ok(Trees {
            forest: Forest::kept(kept.forest),
            base: Base::of_this_process().with_open_files(kept.open_files),
            root: kept.root,
            lock: own,
            live,
            groups: kept.groups,
            unused: Vec::new(),
            commands: kept.commands,
            scope: kept.scope,
            marks: Map::new(),
            until_exec,
            klog: Klog::open(),
            ending: kept.ending,
            marked: None,
        })
    }
}
