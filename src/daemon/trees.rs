//! The trees of all services, and of the commands that stop steps run: made, signalled,
//! counted, let go. Who belongs to a tree is `tree.rs`'s knowledge.
//!
//! A service's cgroup is made at its first start and kept until the service is forgotten:
//! a restart must not wait for one to go and another to come.
//!
//! Longer than a file should be: whatever is done to a tree goes by way of the one list of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::journal::{Place, Process};
use super::rundir::plain;
use super::spawn::{self, Base, Context, INSTANCE};
use super::tree::{Forest, KeptForest, Reachable, Tree, Usage};
use super::upgrade::state::Fds;
use crate::config::confine::{Control, CONTROLS};
use crate::config::model::{Confine, Output, Program};
use crate::json::{FromJson, ToJson};
use crate::machine::event::{ActionId, Instance, Pid, ServiceId};
use crate::machine::report::{SpawnError, Stage, Stuck};
use crate::machine::signal::Signal;
use crate::machine::spec::To;
use crate::map::{Map, Set};
use crate::sys::cgroup::{Group, Lack, Root};
use crate::sys::file;
use crate::sys::handover::Inherited;
use crate::sys::klog::Klog;
use crate::sys::limits::Limit;
use crate::sys::pidfd::PidFd;
use crate::sys::proc::Stat;
use crate::sys::spawn::{is_clone_refused, refuse_clone, Child};
use crate::sys::{errno_of, strerror};

/// The most of an environment that is searched for an instance's mark.
const ENVIRONMENT_CAP: u64 = 256 * 1024;

/// How often the end of superd looks for strays before it gives up on one that hangs in
/// the kernel.
const LAST_PASSES: usize = 64;

/// Commands that are over and whose last processes are still dying, at most.
const ENDING: usize = 64;

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

/// A command that has its place and its mark, and no process yet.
struct Marked {
    service: ServiceId,
    action: ActionId,
    program: String,
    cookie: String,
    group: Option<Group>,
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

    /// Sets the limits of a group; what is not said is as if nobody ever had.
    fn limit(
        &self,
        group: Option<&Group>,
        confine: &Confine,
        without: &mut Vec<SpawnError>,
    ) -> Result<(), SpawnError> {
        let is_limited = self.root.as_ref().is_some_and(Root::is_limited);
        if !is_limited && confine.controls.is_empty() {
            return Ok(());
        }
        for control in CONTROLS {
            let set = confine.controls.iter().find(|c| c.key == control.key);
            let Some(set) = set else {
                if let Some(group) = group.filter(|_| is_limited) {
                    group.limit(control.file, control.default).ok(); // never was enabled
                }
                continue;
            };
            if let Err(error) = self.set_limit(group, control, set.value) {
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
    pub fn limit_again(&self, name: &str, place: &Place, confine: &Confine) -> Vec<SpawnError> {
        let group = place.group.as_deref().and_then(Group::found);
        let is_here = |g: &Group| self.root.as_ref().is_some_and(|r| r.holds(name, g));
        let Some(group) = group.filter(is_here) else {
            return Vec::new();
        };
        let limits = CONTROLS.iter().filter_map(|control| {
            let set = confine.controls.iter().find(|c| c.key == control.key)?;
            self.set_limit(Some(&group), control, set.value).err()
        });
        limits.collect()
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
                let why = crate::sys::cgroup::used_by_v1(control.controller);
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

    /// Chooses the mark of the next instance, so that it can be written down before there is
    /// anything to be found by it.
    pub fn mark(&mut self, service: ServiceId, name: &str) {
        let cookie = self.base.new_cookie(&self.scope, name);
        self.marks.insert(service, cookie);
    }

    /// Starts the programs of new instances, whose marks were chosen. Together, because what superd does between two
    /// forks costs more than it seems (`sys::spawn`).
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

    /// Chooses place and mark of a command, so that they can be written down before there is
    /// anything to be found by them.
    ///
    /// # Errors
    /// Of its cgroup.
    pub fn mark_command(
        &mut self,
        (service, action): (ServiceId, ActionId),
        name: &str,
        argv: &[String],
    ) -> Result<(), SpawnError> {
        let group = self.group(&format!("{name}.command-{}", action.0))?;
        self.marked = Some(Marked {
            service,
            action,
            program: argv.first().cloned().unwrap_or_default(),
            cookie: self.base.new_cookie(&self.scope, name),
            group: group.map(|(group, _)| group),
        });
        Ok(())
    }

    /// For the journal: the command that is about to be run, and its program.
    pub fn marked_command(&self) -> Option<(ServiceId, ActionId, String, Place)> {
        let marked = self.marked.as_ref()?;
        let place = Place {
            main: None,
            leader: 0,
            cookie: marked.cookie.clone(),
            group: marked.group.as_ref().map(|g| g.path().to_owned()),
            ports: Vec::new(),
        };
        let program = marked.program.clone();
        Some((marked.service, marked.action, program, place))
    }

    /// Runs a command for a service, in a tree of its own.
    ///
    /// # Errors
    /// Stage, thing and cause.
    pub fn run(
        &mut self,
        (service, action): (ServiceId, ActionId),
        name: &str,
        program: &Program,
        argv: &[String],
        out: Option<BorrowedFd<'_>>,
        news: &[(&'static str, String)],
    ) -> Result<Child, SpawnError> {
        if self.marked.as_ref().is_none_or(|m| m.action != action) {
            self.mark_command((service, action), name, argv)?;
        }
        let Some(Marked { cookie, group, .. }) = self.marked.take() else {
            return Err(failure(Stage::Fork, name, libc::EINVAL));
        };
        // What is optional was told when the service started.
        if let Err(error) = self.limit(group.as_ref(), &program.confine, &mut Vec::new()) {
            if let Some(group) = group {
                group.remove().ok(); // nothing ever was in it
            }
            return Err(error);
        }
        let context = Context {
            service: name,
            cookie: &cookie,
            stdout: out,
            stderr: out,
            is_pipe: out.is_some(),
            notify_socket: None,
            ready: None,
            sockets: &[],
            until_exec: self.until_exec.as_ref().map(|f| f.as_fd()),
            cgroup: group.as_ref(),
            news,
        };
        match spawn::run(program, argv, &self.base, &context) {
            Ok(child) => {
                let main = (Pid(child.pid), child.start);
                let tree = Tree::started(&mut self.forest, main, &cookie, group);
                self.commands.insert(action, (service, tree));
                Ok(child)
            }
            Err(error) => {
                if let Some(group) = group {
                    group.remove().ok(); // nothing ever was in it
                }
                Err(error)
            }
        }
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

    fn tree(&mut self, service: ServiceId, instance: Instance) -> Option<(&mut Tree, &mut Forest)> {
        let live = self
            .live
            .get_mut(&service)
            .filter(|l| l.instance == instance)?;
        Some((&mut live.tree, &mut self.forest))
    }

    /// Sends a signal.
    pub fn signal(&mut self, service: ServiceId, instance: Instance, signal: Signal, to: To) {
        if let Some((tree, forest)) = self.tree(service, instance) {
            tree.signal(forest, signal.0, to);
        }
    }

    /// Lets those run that stand still.
    pub fn wake(&mut self, service: ServiceId, instance: Instance, to: To) {
        if let Some((tree, forest)) = self.tree(service, instance) {
            tree.wake(forest, to);
        }
    }

    /// SIGKILL to the whole tree.
    pub fn kill(&mut self, service: ServiceId, instance: Instance) {
        if let Some((tree, forest)) = self.tree(service, instance) {
            tree.kill(forest);
        }
    }

    /// What at most `most` processes of the tree are at.
    pub fn look(&mut self, service: ServiceId, instance: Instance, most: usize) -> Vec<Stuck> {
        self.tree(service, instance)
            .map_or_else(Vec::new, |(t, f)| t.see_stuck(f, most))
    }

    /// Remembers the listening sockets of the tree. Says how many.
    pub fn note_ports(&mut self, service: ServiceId, instance: Instance) -> u32 {
        self.tree(service, instance)
            .map_or(0, |(tree, forest)| tree.note_ports(forest))
    }

    /// How many of those are still open.
    ///
    /// Of those that superd has a copy of (`held`) only what the tree itself holds counts.
    pub fn ports_open(&mut self, service: ServiceId, instance: Instance, held: &[u64]) -> u32 {
        let Some((tree, forest)) = self.tree(service, instance) else {
            return 0;
        };
        let mut open = tree.open_ports(forest);
        if open.iter().any(|l| held.contains(&l.inode)) {
            let own = tree.holds_sockets(forest, held);
            open.retain(|l| !held.contains(&l.inode) || own.contains(&l.inode));
        }
        u32::try_from(open.len()).unwrap_or(u32::MAX)
    }

    /// The sockets by which an instance can be reached now; see [`Tree::sockets`].
    pub fn sockets(
        &mut self,
        service: ServiceId,
        instance: Instance,
        seen: &mut Set<u64>,
    ) -> Reachable {
        self.tree(service, instance)
            .map_or_else(Reachable::default, |(t, f)| t.sockets(f, seen))
    }

    /// Who of an instance holds these sockets: inode, process, descriptor; each once.
    pub fn holders(
        &mut self,
        service: ServiceId,
        instance: Instance,
        inodes: &Set<u64>,
    ) -> Vec<(u64, i32, i32)> {
        self.tree(service, instance)
            .map_or_else(Vec::new, |(t, f)| t.holders(f, inodes))
    }

    /// Some process of an instance in this network namespace.
    pub fn one_in(
        &mut self,
        service: ServiceId,
        instance: Instance,
        network: &Path,
    ) -> Option<i32> {
        let (tree, forest) = self.tree(service, instance)?;
        tree.one_in(forest, network)
    }

    /// How many processes are alive besides the main one; none: it cannot be told yet.
    pub fn descendants(&mut self, service: ServiceId, instance: Instance) -> Option<u32> {
        self.tree(service, instance)
            .map_or(Some(0), |(t, f)| t.count_descendants(f))
    }

    /// How many processes are alive; none: it cannot be told yet.
    pub fn alive(&mut self, service: ServiceId, instance: Instance) -> Option<u32> {
        self.tree(service, instance)
            .map_or(Some(0), |(t, f)| t.count(f))
    }

    /// MAINPID=: this process is the main one from now on. False, and nothing changes, if it
    /// is not alive and of the instance's tree.
    pub fn set_main(&mut self, service: ServiceId, instance: Instance, held: &PidFd) -> bool {
        self.tree(service, instance)
            .is_some_and(|(t, f)| t.set_main(f, held))
    }

    /// The start time of the main process, if it is known.
    pub fn main_start(&self, service: ServiceId) -> Option<u64> {
        self.live.get(&service)?.tree.known_start()
    }

    /// The main process is a zombie: how many processes it leaves; none: it
    /// cannot be told yet.
    pub fn before_reap(&mut self, service: ServiceId, instance: Instance) -> Option<u32> {
        self.tree(service, instance)
            .map_or(Some(0), |(t, f)| t.before_reap(f))
    }

    /// Whether the kernel has killed this main process for want of memory, as far as it
    /// says so. To be asked only when it died of a SIGKILL that superd did not send.
    pub fn died_of_no_memory(&mut self, service: ServiceId, pid: Pid) -> bool {
        let Some(live) = self.live.get(&service) else {
            return false;
        };
        let now = live.tree.group().and_then(Group::oom_kills);
        match (live.oom_kills, now) {
            (Some(before), Some(now)) => now > before,
            // A clock that is a little behind is no reason not to believe it.
            _ => self.klog.has_killed(pid.0, live.began.saturating_sub(2)),
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

    /// Processes and memory.
    pub fn usage(&mut self, service: ServiceId) -> Usage {
        match self.live.get_mut(&service) {
            Some(live) => live.tree.usage(&mut self.forest),
            None => Usage::default(),
        }
    }

    /// Resident memory of the tree, as [`Trees::usage`] counts it.
    pub fn memory_kib(&mut self, service: ServiceId) -> u64 {
        match self.live.get_mut(&service) {
            Some(live) => live.tree.memory_kib(&mut self.forest),
            None => 0,
        }
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

    /// A command was reaped: what it started goes too.
    pub fn command_over(&mut self, action: ActionId) {
        if let Some((service, mut tree)) = self.commands.remove(&action) {
            let left = tree.before_reap(&mut self.forest);
            self.clear_away(service, tree, left);
        }
    }

    /// A process was reaped that is nobody's main process: perhaps the last one of a
    /// command that is over.
    pub fn orphan_reaped(&mut self) {
        for (service, mut tree) in std::mem::take(&mut self.ending) {
            let left = tree.count(&mut self.forest);
            self.clear_away(service, tree, left);
        }
    }

    /// How many processes of a service's commands are alive, as far as it can be told; what
    /// those that are over have left is killed.
    pub fn commands_alive(&mut self, of: ServiceId) -> u32 {
        let mut alive = 0;
        for (service, tree) in self.commands.values_mut() {
            if *service == of {
                alive += tree.count(&mut self.forest).unwrap_or(1).max(1);
            }
        }
        for (service, mut tree) in std::mem::take(&mut self.ending) {
            let left = tree.count(&mut self.forest);
            if service == of {
                alive += left.unwrap_or(1);
            }
            self.clear_away(service, tree, left);
        }
        alive
    }

    /// Ends what is left of a command, now or with the next orphan that is reaped.
    fn clear_away(&mut self, service: ServiceId, mut tree: Tree, left: Option<u32>) {
        if left.is_some_and(|n| n > 0) {
            tree.kill(&mut self.forest);
        }
        let done = match tree.group() {
            Some(group) => group.remove().is_ok(),
            None => left == Some(0),
        };
        // More than these: superd's own end clears up after them.
        if !done && self.ending.len() < ENDING {
            self.ending.push((service, tree));
        }
    }

    /// Ends a command with all that it started.
    pub fn kill_command(&mut self, action: ActionId) {
        if let Some((_, tree)) = self.commands.get_mut(&action) {
            tree.kill(&mut self.forest);
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

    /// For the journal: where the instance is, or is about to be. `look`: its start time is
    /// worth a look at /proc.
    pub fn journal(&mut self, service: ServiceId, look: bool) -> Option<Place> {
        if let Some(cookie) = self.marks.get(&service) {
            let group = self.groups.get(&service);
            return Some(Place {
                main: None,
                leader: 0,
                cookie: cookie.clone(),
                group: group.map(|g| g.path().to_owned()),
                ports: Vec::new(),
            });
        }
        let live = self.live.get_mut(&service)?;
        Some(journal(&mut live.tree, &mut self.forest, look))
    }

    /// The same of a command.
    pub fn journal_command(&mut self, action: ActionId) -> Option<Place> {
        let (_, tree) = self.commands.get_mut(&action)?;
        Some(journal(tree, &mut self.forest, true))
    }

    /// Who may have got the orphans of an earlier superd.
    pub fn note_reapers(&mut self, pids: impl IntoIterator<Item = i32>) {
        self.forest.note_reapers(pids);
    }

    /// Takes over an instance of an earlier superd. `unborn`: which process is the main one
    /// was not written down. Its main process, held, if that is there; else only what it
    /// left behind is the tree.
    pub fn adopt(
        &mut self,
        service: ServiceId,
        name: &str,
        instance: Instance,
        place: &Place,
        main: Main,
    ) -> Option<Adopted> {
        let group = place.group.as_deref().and_then(Group::found);
        if let Some(group) = &group {
            let is_here = |r: &Root| r.holds(name, group);
            if self.root.as_ref().is_some_and(is_here) {
                self.groups.insert(service, group.clone());
            }
        }
        let (tree, held) = self.tree_of(place, group, main);
        let live = Live {
            instance,
            tree,
            began: crate::sys::timer::monotonic() / 1_000_000_000,
            // As far as they can be counted from here on.
            oom_kills: oom_kills(place),
        };
        self.live.insert(service, Box::new(live));
        held
    }

    /// Takes over a command of an earlier superd; its process, held, if that is there. What
    /// is left of one that is not is ended.
    pub fn adopt_command(
        &mut self,
        service: ServiceId,
        action: ActionId,
        place: &Place,
    ) -> Option<PidFd> {
        let group = place.group.as_deref().and_then(Group::found);
        let main = match place.main {
            Some(_) => Main::Noted,
            None => Main::ToBeFound, // superd was killed while it was being started
        };
        let (mut tree, main) = self.tree_of(place, group, main);
        let held = main.and_then(|main| main.held);
        if held.is_none() {
            tree.kill(&mut self.forest);
            self.ending.push((service, tree));
            return None;
        }
        self.commands.insert(action, (service, tree));
        held
    }

    fn tree_of(
        &mut self,
        place: &Place,
        group: Option<Group>,
        main: Main,
    ) -> (Tree, Option<Adopted>) {
        let forest = &mut self.forest;
        let noted = place.main.filter(|_| main == Main::Noted);
        let found = noted.and_then(|p| Some((hold(forest, p.pid, p.start)?, p.start.is_some())));
        let known = found.as_ref().filter(|(_, sure)| *sure);
        let main_of = known.map(|((_, stat), _)| (Pid(stat.pid), stat.start));
        let leader = Pid(place.leader);
        let mut tree = Tree::adopt(forest, main_of, leader, &place.cookie, group);
        tree.recall_ports(place.ports.clone());
        let found = match (found, main) {
            (Some((found, true)), _) => Some(found),
            // Its start time was not written down: it has to be one of the tree.
            (Some((found, false)), _) if tree.holds(forest, Pid(found.1.pid)) => {
                tree.put_main(forest, &found.1);
                Some(found)
            }
            (_, Main::ToBeFound) => tree.find_leader(forest).and_then(|stat| {
                let found = hold(forest, stat.pid, Some(stat.start))?;
                tree.put_main(forest, &stat);
                Some(found)
            }),
            (_, Main::Noted | Main::Gone) => None,
        };
        let main = found.map(|(held, stat)| Adopted {
            pid: Pid(stat.pid),
            held,
        });
        (tree, main)
    }

    /// Whether the main process of an instance runs. Only for one that cannot be held.
    pub fn is_main_alive(&mut self, service: ServiceId) -> bool {
        let Some(live) = self.live.get(&service) else {
            return false;
        };
        let (main, start) = (live.tree.main(), live.tree.known_start());
        main.is_some_and(|Pid(pid)| self.forest.alive(pid, start).is_some())
    }

    /// Processes with marks of this superd's run directory: service, mark, and their number.
    /// For the case that an earlier superd could not write down what it had started.
    pub fn marked(&mut self) -> Map<String, (String, u32)> {
        let prefix = format!("{}:", self.scope);
        let mut found: Map<String, (String, u32)> = Map::new();
        for (_, rest) in self.forest.marked(prefix.as_bytes()) {
            let Ok(rest) = String::from_utf8(rest) else {
                continue;
            };
            let Some((name, _)) = rest.split_once(':') else {
                continue;
            };
            let cookie = format!("{prefix}{rest}");
            let one = found.entry(name.to_owned()).or_insert((cookie, 0));
            one.1 += 1;
        }
        found
    }

    /// The names of all groups that an earlier superd has left.
    pub fn group_names(&self) -> Vec<String> {
        self.root
            .as_ref()
            .map(|root| root.names())
            .unwrap_or_default()
    }

    /// The group of this name that an earlier superd has left with processes in it.
    pub fn populated_group(&self, name: &str) -> Option<Group> {
        let group = self.root.as_ref()?.found(name)?;
        group.populated().unwrap_or(false).then_some(group)
    }

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

/// The main process of an adopted instance.
#[derive(Debug)]
pub struct Adopted {
    /// Its number.
    pub pid: Pid,
    /// None where there are no pidfds (before Linux 5.3), or no descriptor is left.
    pub held: Option<PidFd>,
}

/// Holds a process that was started then. The pidfd comes first: what is looked at then is
/// what it holds. None: it does not run.
fn hold(forest: &mut Forest, pid: i32, start: Option<u64>) -> Option<(Option<PidFd>, Stat)> {
    let held = match PidFd::open(pid) {
        Ok(held) => Some(held),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return None,
        Err(_) => None,
    };
    let stat = forest.alive(pid, start)?;
    // Without a start time there is nothing to go by later.
    if held.is_none() && start.is_none() {
        return None;
    }
    let is_it = held.as_ref().is_none_or(|held| held.send(0).is_ok());
    is_it.then_some((held, stat))
}

/// How the main process of an instance to be adopted is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Main {
    /// By what was written down.
    Noted,
    /// It was not written down: who leads the others.
    ToBeFound,
    /// It had ended already.
    Gone,
}

fn oom_kills(place: &Place) -> Option<u64> {
    let group = place.group.as_deref().and_then(Group::found)?;
    group.oom_kills()
}

fn journal(tree: &mut Tree, forest: &mut Forest, look: bool) -> Place {
    let start = match look {
        true => tree.main_start(forest),
        false => None,
    };
    let mark = String::from_utf8_lossy(tree.mark()).into_owned();
    let cookie = mark.split_once('=').map_or("", |(_, cookie)| cookie);
    Place {
        main: tree.main().map(|Pid(pid)| Process { pid, start }),
        leader: tree.leader(),
        cookie: cookie.to_owned(),
        group: tree.group().map(|g| g.path().to_owned()),
        ports: tree.noted_ports().to_vec(),
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
