//! Why a start failed: stage, thing and cause.

use std::fmt;

use crate::json::{FromJson, ToJson};

/// The stage at which a start failed, in the order in which a start goes through them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Reading the `environment-file`.
    EnvironmentFile,
    /// Opening a socket that is passed to it.
    Socket,
    /// Making the output pipe or the status pipe.
    Pipe,
    /// Making the service's cgroup or moving into it.
    Cgroup,
    /// fork(2) or clone3(2).
    Fork,
    /// setsid(2).
    Session,
    /// Standard input, output or error.
    Stdio,
    /// setrlimit(2).
    Limits,
    /// setpriority(2).
    Nice,
    /// `/proc/self/oom_score_adj`.
    OomScore,
    /// Looking up or setting the user.
    User,
    /// Looking up or setting the groups.
    Group,
    /// chdir(2).
    Directory,
    /// execve(2).
    Exec,
    /// A limit of its cgroup.
    Control,
    /// setns(2).
    Network,
    /// An own /tmp.
    PrivateTmp,
    /// mount_setattr(2).
    ReadOnly,
    /// Landlock.
    Writable,
    /// capset(2), prctl(2).
    Capabilities,
    /// prctl(2).
    NoNewPrivileges,
    /// The hook before the start.
    PreStart,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::EnvironmentFile => "reading the environment file",
            Stage::Socket => "opening socket",
            Stage::Pipe => "making a pipe",
            Stage::Cgroup => "entering the cgroup",
            Stage::Fork => "forking",
            Stage::Session => "making a session",
            Stage::Stdio => "setting up standard input and output",
            Stage::Limits => "setting limit",
            Stage::Nice => "setting nice",
            Stage::OomScore => "setting oom-score-adj",
            Stage::User => "setting user",
            Stage::Group => "setting group",
            Stage::Directory => "changing to directory",
            Stage::Exec => "executing",
            Stage::Control => "setting",
            Stage::Network => "entering network-namespace",
            Stage::PrivateTmp => "making private-tmp",
            Stage::ReadOnly => "setting read-only-paths",
            Stage::Writable => "setting writable-paths",
            Stage::Capabilities => "setting capabilities",
            Stage::NoNewPrivileges => "setting no-new-privileges",
            Stage::PreStart => "pre-start",
        })
    }
}

/// Why a service could not be started. Reads as
/// `setting user "dns": no such user`.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct SpawnError {
    /// Where it failed.
    pub stage: Stage,
    /// What was being set or opened (a path, a user, a limit); may be empty.
    pub thing: String,
    /// The errno, 0 when there is none (no such user).
    pub errno: i32,
    /// The cause in words.
    pub cause: String,
}

impl SpawnError {
    /// Whether it may work a moment later without anybody changing the configuration: a
    /// resource is short (EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC), something is in use (ETXTBSY,
    /// EBUSY, EADDRINUSE) or not there yet (EADDRNOTAVAIL), or the attempt itself failed (EIO,
    /// EINTR).
    pub fn is_transient(&self) -> bool {
        matches!(
            self.errno,
            libc::EAGAIN
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::EIO
                | libc::ETXTBSY
                | libc::EINTR
                | libc::ENOSPC
                | libc::EBUSY
                | libc::EADDRINUSE
                | libc::EADDRNOTAVAIL
        )
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.thing.is_empty() {
            true => write!(f, "{}: {}", self.stage, self.cause),
            false => write!(f, "{} \"{}\": {}", self.stage, self.thing, self.cause),
        }
    }
}
