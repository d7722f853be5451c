//! Who is on the other side, and what they may do (DESIGN 7).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;

use mio::net::UnixStream;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{getgrouplist, Gid, Group, Uid, User};

use crate::config::model::Daemon;
use crate::control::request::Verb;
use crate::json::{FromJson, ToJson};
use crate::machine::report::Origin;

/// The process that connected, as it was when it connected (SO_PEERCRED, unix(7)).
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Peer {
    /// 0 when it lives in another pid namespace.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// `/proc/PID/comm`; empty when it was gone already, or has only looked so far.
    pub command: Rc<str>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> io::Result<Peer> {
        let c = getsockopt(stream, sockopt::PeerCredentials)?;
        Ok(Peer {
            pid: c.pid(),
            uid: c.uid(),
            gid: c.gid(),
            command: "".into(),
        })
    }

    /// For reports.
    pub fn origin(&self) -> Origin {
        Origin::Client {
            pid: self.pid,
            uid: self.uid,
            command: (*self.command).to_owned(),
        }
    }

    /// With the command's name filled in. It is for people and nothing is decided by it:
    /// the pid could belong to another process by now.
    pub(super) fn with_command(mut self) -> Peer {
        if self.command.is_empty() && self.pid > 0 {
            self.command = crate::sys::proc::comm(self.pid).into();
        }
        self
    }
}

/// What a client may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// Everything.
    All,
    /// Verbs that only look.
    Look,
    /// Nothing.
    None,
}

impl Rights {
    pub(super) fn allow(self, verb: Verb) -> bool {
        match self {
            Rights::All => true,
            Rights::Look => verb.only_looks(),
            Rights::None => false,
        }
    }
}

/// Reads the supplementary groups that a peer had when it connected (SO_PEERGROUPS,
/// Linux 4.13). A wrapper for `sys`; not in nix.
pub type PeerGroups = fn(BorrowedFd<'_>) -> io::Result<Vec<u32>>;

/// Who may do what.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// superd's own user, who may do all; so may root.
    pub uid: u32,
    /// Members may do all.
    pub control: Option<u32>,
    /// Members may look.
    pub status: Option<u32>,
    /// How the peer's supplementary groups are found. Without it, or where the kernel
    /// does not know, the group database says of which groups its *user* is a member.
    ///
    /// `/proc/PID/status` is not asked: a client could exit and have its pid taken over
    /// by a privileged process while its connection lives on in a child.
    pub peer_groups: Option<PeerGroups>,
}

impl Access {
    /// Root and superd's own user only.
    pub fn private() -> Access {
        Access {
            uid: Uid::effective().as_raw(),
            control: None,
            status: None,
            peer_groups: None,
        }
    }

    /// As `[daemon]` says. The groups are looked up by name now; one that does not exist
    /// lets nobody in, which is what the operator is told.
    pub fn of(daemon: &Daemon) -> (Access, Vec<String>) {
        let mut unknown = Vec::new();
        let mut number = |key: &str, name: &Option<String>| {
            let name = name.as_deref()?;
            let found = name.parse().ok().or_else(|| {
                let group = Group::from_name(name).ok().flatten()?;
                Some(group.gid.as_raw())
            });
            if found.is_none() {
                unknown.push(format!("{key}: no such group \"{name}\""));
            }
            found
        };
        let access = Access {
            uid: Uid::effective().as_raw(),
            control: number("control-group", &daemon.control_group),
            status: number("status-group", &daemon.status_group),
            peer_groups: Some(crate::sys::peer::groups),
        };
        (access, unknown)
    }

    /// Puts owner and mode on the socket. With one group, the file mode keeps all others
    /// out; with two, a file has no place for the second, so everybody may connect and
    /// the credentials decide.
    pub(super) fn apply(&self, path: &Path) -> io::Result<()> {
        match (self.control, self.status) {
            (None, None) => set_mode(path, 0o600, None),
            (Some(g), None) | (None, Some(g)) => set_mode(path, 0o660, Some(g)),
            (Some(c), Some(s)) if c == s => set_mode(path, 0o660, Some(c)),
            (Some(_), Some(_)) => set_mode(path, 0o666, None),
        }
    }

    /// The rights of this peer.
    pub(super) fn rights(&self, peer: &Peer, stream: &UnixStream) -> Rights {
        if peer.uid == 0 || peer.uid == self.uid {
            return Rights::All;
        }
        if self.control.is_none() && self.status.is_none() {
            return Rights::None;
        }
        let asked = self.peer_groups.map(|f| f(stream.as_fd()));
        let groups = match asked {
            Some(Ok(groups)) => groups,
            Some(Err(_)) | None => groups_of_user(peer),
        };
        self.by_groups(peer.gid, &groups)
    }

    fn by_groups(&self, gid: u32, groups: &[u32]) -> Rights {
        let member = |of: Option<u32>| of.is_some_and(|g| g == gid || groups.contains(&g));
        if member(self.control) {
            Rights::All
        } else if member(self.status) {
            Rights::Look
        } else {
            Rights::None
        }
    }
}

/// By the group database (getgrouplist(3)).
fn groups_of_user(peer: &Peer) -> Vec<u32> {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(peer.uid)) else {
        return Vec::new();
    };
    let Ok(name) = std::ffi::CString::new(user.name) else {
        return Vec::new();
    };
    getgrouplist(&name, Gid::from_raw(peer.gid))
        .map(|all| all.into_iter().map(Gid::as_raw).collect())
        .unwrap_or_default()
}

/// Mode and owner for the path of the socket.
fn set_mode(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    if let Some(gid) = group {
        nix::unistd::chown(path, None, Some(Gid::from_raw(gid)))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_beats_status_and_others_get_nothing() {
        let access = Access {
            uid: 0,
            control: Some(10),
            status: Some(20),
            peer_groups: None,
        };
        assert_eq!(access.by_groups(10, &[]), Rights::All);
        assert_eq!(access.by_groups(5, &[20, 10]), Rights::All);
        assert_eq!(access.by_groups(5, &[20]), Rights::Look);
        assert_eq!(access.by_groups(20, &[]), Rights::Look);
        assert_eq!(access.by_groups(5, &[6, 7]), Rights::None);
        assert!(Rights::Look.allow(Verb::Why) && !Rights::Look.allow(Verb::Stop));
        assert!(Rights::All.allow(Verb::Shutdown) && !Rights::None.allow(Verb::Status));
    }

    #[test]
    fn the_database_knows_the_groups_of_root() {
        let peer = Peer {
            pid: 1,
            uid: 0,
            gid: 0,
            command: "".into(),
        };
        assert!(groups_of_user(&peer).contains(&0));
    }
}
