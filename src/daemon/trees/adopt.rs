//! What the journal says of trees, and how the next superd takes them over by it.

use super::{seconds, Live, Trees};
use crate::daemon::journal::{Place, Process};
use crate::daemon::tree::{Forest, Tree};
use crate::machine::event::{ActionId, Instance, Pid, ServiceId};
use crate::map::Map;
use crate::sys::cgroup::{Group, Root};
use crate::sys::pidfd::PidFd;
use crate::sys::proc::Stat;

/// The main process of an adopted instance.
#[derive(Debug)]
pub struct Adopted {
    /// Its number.
    pub pid: Pid,
    /// None where there are no pidfds (before Linux 5.3), or no descriptor is left.
    pub held: Option<PidFd>,
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

impl Trees {
    /// For the journal: where the instance is, or is about to be. `look`: its start time is
    /// worth a look at /proc.
    pub fn journal(&mut self, service: ServiceId, look: bool) -> Option<Place> {
        if let Some(cookie) = self.marks.get(&service) {
            return Some(unborn(cookie, self.groups.get(&service)));
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

    /// Takes over an instance of an earlier superd. Returns its main process, held, if that is
    /// there; else only what it left behind is the tree.
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
        let oom_kills = group.as_ref().and_then(Group::oom_kills);
        let (tree, held) = self.tree_of(place, group, main);
        let live = Live {
            instance,
            tree,
            began: seconds(),
            // As far as they can be counted from here on.
            oom_kills,
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

/// Of what has its mark and its cgroup, and no process yet.
pub(super) fn unborn(cookie: &str, group: Option<&Group>) -> Place {
    Place {
        main: None,
        leader: 0,
        cookie: cookie.to_owned(),
        group: group.map(|g| g.path().to_owned()),
        ports: Vec::new(),
    }
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
