//! Commands that stop steps, hooks and reloads run: each has a tree of its own, which ends with it.

use std::os::fd::{AsFd, BorrowedFd};

use super::adopt::unborn;
use super::{failure, Trees};
use crate::config::model::Program;
use crate::daemon::journal::Place;
use crate::daemon::spawn::{self, Context};
use crate::daemon::tree::Tree;
use crate::machine::event::{ActionId, Pid, ServiceId};
use crate::machine::report::{SpawnError, Stage};
use crate::sys::cgroup::Group;
use crate::sys::spawn::Child;

/// Commands that are over and whose last processes are still dying, at most.
const ENDING: usize = 64;

/// A command that has its place and its mark, and no process yet.
pub(super) struct Marked {
    service: ServiceId,
    action: ActionId,
    program: String,
    cookie: String,
    group: Option<Group>,
}

impl Trees {
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
        let place = unborn(&marked.cookie, marked.group.as_ref());
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
        let limited = self.limit(group.as_ref(), &program.confine, &mut Vec::new());
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
        match limited.and_then(|()| spawn::run(program, argv, &self.base, &context)) {
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

    /// The start time of a command's process, if it is known.
    pub fn command_start(&self, action: ActionId) -> Option<u64> {
        self.commands.get(&action)?.1.known_start()
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
        self.look_at_ending(None);
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
        alive + self.look_at_ending(Some(of))
    }

    /// Looks again at commands that are over. Says how many processes those of this service have
    /// left.
    fn look_at_ending(&mut self, of: Option<ServiceId>) -> u32 {
        let mut alive = 0;
        for (service, mut tree) in std::mem::take(&mut self.ending) {
            let left = tree.count(&mut self.forest);
            if Some(service) == of {
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
}
