//! The trees of all services, and of the commands that stop steps run: made, signalled,
//! counted, let go. Who belongs to a tree is `tree.rs`'s knowledge.
//!
//! A service's cgroup is made at its first start and kept until the service is forgotten:
//! a restart must not wait for one to go and another to come.
//!
//! Here trees begin and end; `instance` has what is done to one meanwhile.

mod adopt;
mod commands;
mod instance;
mod keep;
mod limits;
mod owner;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::fcntl::Flock;

pub use adopt::Main;
pub use keep::{Keeping, Kept};

use commands::Marked;

use super::rundir::plain;
use super::spawn::{self, Base, Context};
use super::tree::{Forest, Tree};
use crate::config::model::{Output, Program};
use crate::json::{FromJson, ToJson};
use crate::machine::event::{ActionId, Instance, Pid, ServiceId};
use crate::machine::report::{SpawnError, Stage};
use crate::map::Map;
use crate::sys::cgroup::{Group, Root};
use crate::sys::klog::Klog;
use crate::sys::spawn::Child;
use crate::sys::{errno_of, strerror};

/// How often the end of superd looks for strays before it gives up on one that hangs in
/// the kernel.
const LAST_PASSES: usize = 64;

/// All trees.
pub struct Trees {
    forest: Forest,
    base: Base,
    root: Option<Root>,
    /// Keeps other superds from the groups.
    lock: Option<Flock<File>>,
    /// In boxes: a node of the map has eleven places, and half of them are empty.
    live: Map<ServiceId, Box<Live>>,
    /// Groups that were found empty at a first start. From then on the sweep after each
    /// instance vouches for it, and a restart need not look.
    groups: Map<ServiceId, Group>,
    /// Whose group was made for the start that is about to happen: nobody was in it yet.
    unused: Vec<ServiceId>,
    commands: Map<ActionId, (ServiceId, Tree)>,
    /// What the marks of all instances begin with: the run directory.
    scope: String,
    /// Marks of instances that are about to be started.
    marks: Map<ServiceId, String>,
    /// Is kept open by each child until it executes its program.
    until_exec: Option<Flock<File>>,
    klog: Klog,
    /// Of commands that are over: their last processes are dying.
    ending: Vec<(ServiceId, Tree)>,
    /// The command that is about to be run.
    marked: Option<Marked>,
}

/// The present instance of a service.
#[derive(ToJson, FromJson)]
struct Live {
    instance: Instance,
    tree: Tree,
    /// When it was started, in seconds of CLOCK_MONOTONIC.
    began: u64,
    /// Processes of its cgroup that the kernel had killed before, for want of memory.
    oom_kills: Option<u64>,
}

/// A new instance that has its place, and is to be started.
pub struct Wanted<'a> {
    /// Of which service.
    pub service: ServiceId,
    /// Which one.
    pub instance: Instance,
    /// The service's name.
    pub name: &'a str,
    /// What is executed.
    pub program: &'a Program,
    /// Its cgroup, from [`Trees::place`].
    pub group: Option<Group>,
    /// Where its output goes, if not where the program says.
    pub out: Option<BorrowedFd<'a>>,
    /// The address of the notify socket, if it gets one.
    pub notify: Option<&'a Path>,
    /// The descriptor by which it says that it is ready, and its number there.
    pub ready: Option<(BorrowedFd<'a>, i32)>,
    /// Listening sockets that it gets.
    pub sockets: Vec<BorrowedFd<'a>>,
}

impl Trees {
    /// What is started from now on is killed when superd is: no other superd would know of it.
    pub fn of_this_superd_alone(mut self) -> Trees {
        self.base.go_along();
        self
    }

    /// `root`: where cgroups are made; none: sessions and /proc.
    pub fn new(root: Option<Root>) -> Trees {
        Trees {
            forest: Forest::new(),
            base: Base::of_this_process(),
            root,
            lock: None,
            live: Map::new(),
            groups: Map::new(),
            unused: Vec::new(),
            commands: Map::new(),
            scope: "run".to_owned(),
            marks: Map::new(),
            until_exec: None,
            klog: Klog::open(),
            ending: Vec::new(),
            marked: None,
        }
    }

    /// Below this group, which is locked for as long as the trees are there.
    pub fn locked(root: Root, lock: Option<Flock<File>>) -> Trees {
        Trees {
            lock,
            ..Trees::new(Some(root))
        }
    }

    /// A child that is superd's own, and of no service.
    pub fn claim(&mut self, pid: i32) {
        self.forest.claim(pid);
    }

    /// It was reaped.
    pub fn unclaim(&mut self, pid: i32) {
        self.forest.unclaim(pid);
    }

    /// What marks begin with, and a file that each child keeps open until it executes its
    /// program.
    pub fn belong_to(&mut self, scope: String, until_exec: Option<Flock<File>>) {
        self.scope = scope;
        self.until_exec = until_exec;
    }

    /// Whether services get cgroups.
    pub fn root(&self) -> Option<&Root> {
        self.root.as_ref()
    }

    /// The cgroup for the next instance of a service, if there are cgroups.
    ///
    /// # Errors
    /// EBUSY at the stage `cgroup` when a process of an earlier instance is still there: it
    /// is KILLed, and the start is to be tried again.
    /// And at the stage `control` when a limit cannot be set; `without` has those that are
    /// optional.
    pub fn place(
        &mut self,
        service: ServiceId,
        name: &str,
        program: &Program,
        without: &mut Vec<SpawnError>,
    ) -> Result<Option<Group>, SpawnError> {
        let group = match self.groups.get(&service) {
            // Somebody may have removed it since the last instance.
            Some(group) if group.exists() => Some(group.clone()),
            Some(_) | None => self.empty_group(service, name)?,
        };
        self.limit(group.as_ref(), &program.confine, without)?;
        Ok(group)
    }

    /// Chooses the mark of the next instance, so that it can be written down before there is
    /// anything to be found by it.
    pub fn mark(&mut self, service: ServiceId, name: &str) {
        let cookie = self.base.new_cookie(&self.scope, name);
        self.marks.insert(service, cookie);
    }

    /// Starts the programs of new instances, whose marks were chosen. Together, because what
    /// superd does between two forks costs more than it seems (`sys::spawn`).
    ///
    /// # Errors
    /// For each: stage, thing and cause.
    pub fn start_all(&mut self, wanted: Vec<Wanted<'_>>) -> Vec<Result<Child, SpawnError>> {
        let cookies: Vec<String> = wanted
            .iter()
            .map(|w| match self.marks.remove(&w.service) {
                Some(cookie) => cookie,
                None => self.base.new_cookie(&self.scope, w.name),
            })
            .collect();
        let until_exec = self.until_exec.as_ref().map(|f| f.as_fd());
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let context = |(w, cookie)| -> (&Program, Context<'_>) {
            let (w, cookie): (&Wanted<'_>, &String) = (w, cookie);
            let (out, err) = match w.program.output {
                Output::Inherit => (Some(stdout.as_fd()), Some(stderr.as_fd())),
                Output::Log | Output::Ring | Output::File | Output::Null => (None, None),
            };
            let context = Context {
                service: w.name,
                cookie,
                stdout: w.out.or(out),
                stderr: w.out.or(err),
                is_pipe: w.out.is_some(),
                notify_socket: w.notify,
                ready: w.ready,
                sockets: &w.sockets,
                until_exec,
                cgroup: w.group.as_ref(),
                news: &[],
            };
            (w.program, context)
        };
        let starts: Vec<_> = wanted.iter().zip(&cookies).map(context).collect();
        let made = spawn::start_all(&starts, &self.base);
        drop(starts);
        let began = seconds();
        for ((w, cookie), made) in wanted.into_iter().zip(&cookies).zip(&made) {
            match made {
                Ok(child) => {
                    let unused = self.unused.iter().position(|id| *id == w.service);
                    let oom_kills = match unused.map(|n| self.unused.swap_remove(n)) {
                        Some(_) => Some(0),
                        None => w.group.as_ref().and_then(Group::oom_kills),
                    };
                    let main = (Pid(child.pid), child.start);
                    let tree = Tree::started(&mut self.forest, main, cookie, w.group);
                    let live = Live {
                        instance: w.instance,
                        tree,
                        began,
                        oom_kills,
                    };
                    self.live.insert(w.service, Box::new(live));
                }
                // Somebody has removed it: the next try makes it anew.
                Err(error) if error.stage == Stage::Cgroup => {
                    self.groups.remove(&w.service);
                }
                Err(_) => {}
            }
        }
        made
    }

    /// The group for the first start of a service. What an earlier superd left in it is
    /// KILLed first: never two.
    fn empty_group(&mut self, service: ServiceId, name: &str) -> Result<Option<Group>, SpawnError> {
        let Some((group, is_new)) = self.group(name)? else {
            return Ok(None);
        };
        if !is_new && group.populated().unwrap_or(false) {
            group.kill().ok(); // if it cannot be, the next try will say so again
            return Err(failure(Stage::Cgroup, name, libc::EBUSY));
        }
        self.groups.insert(service, group.clone());
        if is_new && !self.unused.contains(&service) {
            self.unused.push(service);
        }
        Ok(Some(group))
    }

    /// The group of this name, and whether it was made just now.
    fn group(&self, name: &str) -> Result<Option<(Group, bool)>, SpawnError> {
        let Some(root) = &self.root else {
            return Ok(None);
        };
        match root.group_or_new(name) {
            Ok(found) => Ok(Some(found)),
            Err(e) => Err(SpawnError {
                cause: plain(&e),
                ..failure(Stage::Cgroup, name, errno_of(&e))
            }),
        }
    }

    /// A turn of the loop begins: one look at /proc may serve all who count in it.
    pub fn begin_turn(&mut self) {
        self.forest.begin_turn();
    }

    /// Until [`Trees::release_look`] what [`Trees::usage`] says is of one look at /proc.
    pub fn hold_look(&mut self) {
        if self.root.is_none() {
            self.forest.hold();
        }
    }

    /// Ends [`Trees::hold_look`].
    pub fn release_look(&mut self) {
        self.forest.release();
    }

    /// The main process ended by SIGKILL: perhaps it was its cgroup that was killed, by
    /// somebody else, and then no process can be born into it again.
    pub fn doubt_group(&mut self, service: ServiceId) {
        if let Some(group) = self.groups.get(&service) {
            group.doubt();
        }
    }

    /// The instance is over.
    pub fn release(&mut self, service: ServiceId, instance: Instance) {
        self.marks.remove(&service);
        if self
            .live
            .get(&service)
            .is_some_and(|l| l.instance == instance)
        {
            self.live.remove(&service);
            if let Some(group) = self.groups.get(&service).filter(|g| !g.is_fresh()) {
                // It was killed; the next instance is born into one that was not.
                group.remove().ok(); // in use: the next instance enters it by itself
                self.groups.remove(&service);
            }
        }
    }

    /// The service is no longer configured: its cgroup goes.
    pub fn forget(&mut self, service: ServiceId, name: &str) {
        self.live.remove(&service);
        self.groups.remove(&service);
        self.unused.retain(|id| *id != service);
        if let Ok(Some((group, _))) = self.group(name) {
            group.remove().ok(); // in use by somebody else: not ours to remove
        }
    }

    /// superd ends without its services: what it has just forked keeps the lock.
    pub fn leave(&mut self) {
        std::mem::forget(self.until_exec.take()); // dropping it would unlock it for all
    }

    /// superd ends: nothing that came from its services stays behind.
    pub fn end(&mut self) {
        for (_, tree) in self.commands.values_mut() {
            tree.kill(&mut self.forest);
        }
        for _ in 0..LAST_PASSES {
            if self.forest.kill_strays() == 0 {
                break;
            }
            while let Ok(Some((pid, _))) = crate::sys::wait::peek() {
                crate::sys::wait::reap(pid).ok(); // was there a moment ago
            }
        }
        if let Some(root) = &self.root {
            root.clear().ok(); // a process that hangs in the kernel keeps it
        }
    }
}

/// CLOCK_MONOTONIC.
fn seconds() -> u64 {
    crate::sys::timer::monotonic() / 1_000_000_000
}

fn failure(stage: Stage, thing: &str, errno: i32) -> SpawnError {
    SpawnError {
        stage,
        thing: thing.to_owned(),
        errno,
        cause: strerror(errno).to_owned(),
    }
}
