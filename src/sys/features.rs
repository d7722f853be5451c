//! What this kernel can do, for `superctl doctor`. Nothing else reads these answers: each
//! call site finds out by itself and falls back by itself.

use std::os::fd::AsFd;

use super::cgroup;

/// One answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Feature {
    /// What it is called, with the Linux version that brought it.
    pub name: &'static str,
    /// Whether it is here.
    pub has: bool,
    /// What superd does where it is not.
    pub instead: &'static str,
}

/// Asks for everything. Makes one cgroup directory and removes it, when `cgroups`.
pub fn probe(cgroups: bool) -> Vec<Feature> {
    let feature = |name, has, instead| Feature { name, has, instead };
    let base = cgroup::own_directory().filter(|_| cgroups);
    let key = format!("probe-{}", std::process::id());
    let root = base.and_then(|base| cgroup::Root::make(&base, &key).ok());
    let (writable, has_kill) = (root.is_some(), root.as_ref().is_some_and(|r| r.has_kill()));
    if let Some(root) = root {
        root.remove().ok(); // an empty directory that nobody else knows
    }
    let pidfd = probe_errno(libc::SYS_pidfd_open, [-1, 0, 0]) != libc::ENOSYS;
    let getfd = may_copy_descriptors();
    // An empty range of numbers that no descriptor has: closes nothing.
    let close_range = probe_errno(libc::SYS_close_range, [1, 0, 0]) != libc::ENOSYS;
    vec![
        feature(
            "pidfd_open (Linux 5.3)",
            pidfd,
            "superd compares start times before each signal; looks twice a second whether an adopted process is there",
        ),
        feature(
            "pidfd_getfd (5.6)",
            getfd,
            "superd cannot drain: steps that drain are skipped",
        ),
        feature(
            "cgroup v2, writable",
            writable,
            "superd finds processes by session, ancestry and SUPERD_INSTANCE",
        ),
        feature(
            "cgroup.kill (5.14)",
            has_kill,
            "superd freezes a group, kills each process, and looks again",
        ),
        feature(
            "clone3 into a cgroup (5.7)",
            clone_into_cgroup(),
            "the child moves itself, which is slower",
        ),
        feature(
            "close_range (5.9)",
            close_range,
            "superd closes what /proc/self/fd lists",
        ),
        feature(
            "sock_diag",
            sock_diag(),
            "superd reads /proc/net/tcp and udp instead, which takes longer",
        ),
        feature(
            "exit status by pidfd (6.15)",
            pidfd_exit(),
            "the status of an adopted process is unknown",
        ),
        feature(
            "Landlock (6.2)",
            landlock_version() >= 3,
            "superd does not start services with writable-paths, or without that where it is optional",
        ),
        feature(
            "mount_setattr (5.12)",
            probe_errno(libc::SYS_mount_setattr, [-1, 0, 0]) != libc::ENOSYS,
            "superd does not start services with read-only-paths, or without that where it is optional",
        ),
        feature(
            "own mounts and networks (CAP_SYS_ADMIN)",
            has_capability(21),
            "superd does not start services with private-tmp, read-only-paths or network-namespace, or \
             without that where it is optional",
        ),
        feature(
            "fewer capabilities (CAP_SETPCAP)",
            has_capability(8),
            "superd does not start services with capabilities, or without that where it is optional",
        ),
        feature(
            "child subreaper (3.4)",
            nix::sys::prctl::get_child_subreaper().is_ok(),
            "orphans go to init and are found by SUPERD_INSTANCE only",
        ),
    ]
}

/// Whether pidfd_getfd(2) is there and no filter of system calls (seccomp(2)) forbids it.
pub fn may_copy_descriptors() -> bool {
    probe_errno(libc::SYS_pidfd_getfd, [-1, -1, 0]) == libc::EBADF
}

/// Whether superd may look into processes of other users (CAP_SYS_PTRACE, capabilities(7)).
pub fn may_trace() -> bool {
    const CAP_SYS_PTRACE: u32 = 19;
    has_capability(CAP_SYS_PTRACE)
}

/// Whether superd has a capability, by its number.
fn has_capability(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> number & 1 == 1)
}

/// Whether superd may attach a filter to a TCP socket. Newer kernels ask for CAP_NET_ADMIN
/// (seen on Linux 6.18; a UDP socket anybody may filter).
pub fn may_filter_tcp() -> bool {
    use nix::sys::socket::{socket, AddressFamily, SockFlag, SockType};
    [AddressFamily::Inet, AddressFamily::Inet6]
        .into_iter()
        .filter_map(|family| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).ok())
        .any(|own| super::filter::attach(own.as_fd(), super::proc::Transport::Tcp).is_ok())
}

/// Whether who asks for a socket of MPTCP gets one (mptcp(7)); none of them takes a filter.
pub fn has_mptcp() -> bool {
    let enabled = std::fs::read_to_string("/proc/sys/net/mptcp/enabled");
    enabled.is_ok_and(|text| text.trim() == "1")
}

/// The errno of a call that is made so that it cannot succeed or does nothing.
fn probe_errno(call: libc::c_long, args: [libc::c_long; 3]) -> i32 {
    let [a, b, c] = args;
    // SAFETY: numbers only: descriptors and pids of -1, or an empty range.
    match unsafe { libc::syscall(call, a, b, c) } {
        -1 => nix::errno::Errno::last_raw(),
        _ => 0,
    }
}

/// The version of Landlock's interface: 3 came with Linux 6.2. Less than 1: it is not there, or switched off.
fn landlock_version() -> libc::c_long {
    const VERSION: libc::c_int = 1; // LANDLOCK_CREATE_RULESET_VERSION
    let null = std::ptr::null::<u8>();
    // SAFETY: with this flag the call makes nothing and reads nothing: it returns a number.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, null, 0_usize, VERSION) }
}

fn clone_into_cgroup() -> bool {
    let mut args = [0_u64; 11]; // struct clone_args with the cgroup field, its last
    let [flags, .., cgroup] = &mut args;
    *flags = 0x2_0000_0000; // CLONE_INTO_CGROUP
    *cgroup = i32::MAX as u64; // no descriptor has this number
                               // SAFETY: clone3(2) reads the 88 bytes it is told of; with a cgroup that does not exist
                               // no process is made.
    let r = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            args.as_ptr(),
            std::mem::size_of_val(&args),
        )
    };
    r == -1 && nix::errno::Errno::last_raw() == libc::EBADF
}

/// NETLINK_SOCK_DIAG with inet_diag behind it: the module is not in every image.
fn sock_diag() -> bool {
    super::sock_diag::listeners(&mut Vec::new()).is_ok()
}

/// Whether a pidfd tells how its process ended. A running process does not give that away,
/// so the release number has to do.
fn pidfd_exit() -> bool {
    let Ok(name) = nix::sys::utsname::uname() else {
        return false;
    };
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0_u32);
    (next(), next()) >= (6, 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_answers_everything_and_leaves_nothing() {
        let features = probe(true);
        assert_eq!(features.len(), 13);
        for f in &features {
            println!("{:5} {} (else: {})", f.has, f.name, f.instead);
        }
        if let Some(base) = cgroup::own_directory() {
            let probe = format!("superd.probe-{}", std::process::id());
            assert!(!base.join(probe).exists());
        }
    }
}
