//! From execve(2) to the loop: how many system calls superd makes, by ptrace(2). On a router's
//! flash and its one slow core each of them counts at boot.

use std::os::unix::process::CommandExt;

use crate::points::{is_traceable, set_options};
use crate::support::*;

/// From the first line of superd's own code to the first wait in its loop, where whoever has
/// connected is answered. What comes before is the loader's, and depends on the C library.
const OWN: usize = 94;
/// Finding out about cgroups, and making one.
const FOR_CGROUPS: usize = 22;
/// A child that is born and ends, where superd's own group may have been killed.
const FOR_A_BIRTH: usize = 14;

/// `struct ptrace_syscall_info` (ptrace(2)), as far as it is needed.
#[repr(C)]
#[derive(Default)]
struct Info {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    instruction: u64,
    stack: u64,
    number: i64,
    rest: [u64; 7],
}

/// PTRACE_GET_SYSCALL_INFO, Linux 5.3.
const GET_INFO: u32 = 0x420e;
/// The stop is at the entry of a system call.
const ENTRY: u8 = 1;

/// The system call at which this tracee of ours stands, if it is about to make one. Err: the
/// kernel does not tell.
pub fn entering(pid: i32) -> Result<Option<i64>, ()> {
    let mut info = Info::default();
    // SAFETY: our own tracee, which is stopped; the kernel writes at most the length given.
    let n = unsafe {
        let size = std::mem::size_of::<Info>();
        libc::ptrace(GET_INFO as _, pid, size, &raw mut info)
    };
    match n {
        1.. => Ok((info.op == ENTRY).then_some(info.number)),
        _ => Err(()),
    }
}

pub fn is_wait(call: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if call == libc::SYS_epoll_wait {
        return true;
    }
    call == libc::SYS_epoll_pwait
}

/// The system calls that a superd over this place's configuration makes up to its first wait.
/// None: the kernel does not tell them apart.
fn calls_to_the_loop(place: Place) -> Option<Vec<i64>> {
    let mut command = place.command(&place.superd_args());
    // SAFETY: ptrace(2) is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            Ok(())
        });
    }
    let mut superd = Superd::launch_unheard(place, command);
    let (pid, mut status) = (superd.pid, 0);
    // SAFETY: our own child, which stops at its execve(2).
    unsafe { libc::waitpid(pid, &mut status, 0) };
    set_options(pid);
    let mut calls = Vec::new();
    let done = loop {
        // SAFETY: our own tracee, which is stopped; waitpid(2) writes one int of ours.
        unsafe {
            libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, 0);
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        }
        assert!(libc::WIFSTOPPED(status), "{}", superd.place.log());
        if libc::WSTOPSIG(status) != libc::SIGTRAP | 0x80 {
            continue; // no signal is meant for it
        }
        match entering(pid) {
            Ok(Some(call)) => calls.push(call),
            Ok(None) => continue,
            Err(()) => break None,
        }
        if calls.last().copied().is_some_and(is_wait) {
            break Some(calls);
        }
    };
    superd.kill();
    done
}

in_both_flavours! {
    fn superd_is_in_its_loop_after_some_hundred_system_calls(flavour: Flavour) {
        let name = "startup: system calls";
        if !is_traceable(name) {
            return;
        }
        let place = Place::new();
        place.configure(flavour, "");
        let Some(calls) = calls_to_the_loop(place) else {
            return skip(name, "needs PTRACE_GET_SYSCALL_INFO (Linux 5.3)");
        };
        let first = calls.iter().position(|c| *c == libc::SYS_close_range);
        let own = calls.len() - first.unwrap();
        tell(&format!(
            "startup: {flavour:?}: {own} system calls of superd's own before its loop, and {} of \
             the loader's",
            calls.len() - own
        ));
        let can_be_killed = || own_cgroup().is_some_and(|dir| dir.join("cgroup.kill").exists());
        let most = match flavour {
            Flavour::NoCgroups => OWN,
            Flavour::Cgroups if can_be_killed() => OWN + FOR_CGROUPS + FOR_A_BIRTH,
            Flavour::Cgroups => OWN + FOR_CGROUPS,
        };
        assert!(own <= most, "{own} of {most}: {calls:?}");
    }
}

#[test]
fn where_too_few_files_may_be_open_it_is_said_that_it_is_so() {
    use std::os::unix::process::CommandExt;
    let mut said = String::new();
    for most in 8..=20 {
        let place = Place::new();
        place.configure(Flavour::NoCgroups, "");
        let mut command = place.command(&place.superd_args());
        let limit = libc::rlimit {
            rlim_cur: most,
            rlim_max: most,
        };
        // SAFETY: both are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                let (first, last, cloexec) = (3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
                libc::syscall(libc::SYS_close_range, first, last, cloexec);
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
                Ok(())
            });
        }
        let mut superd = Superd::launch_unheard(place, command);
        wait_until("that it runs, or not", || {
            superd.place.log().contains("configuration loaded") || !superd.is_alive()
        });
        let log = superd.place.log();
        if log.contains("configuration loaded") {
            superd.signal(libc::SIGTERM);
        } else {
            let end =
                "Too many open files; superd needs a higher limit of open files (ulimit -n)\n";
            assert!(log.ends_with(end), "{most}: {log}");
        }
        superd.wait();
        said.push_str(&log);
    }
    assert!(
        said.contains("superd: timer: Too many open files; superd needs"),
        "{said}"
    );
    let why = "boot id cannot be read: /proc/sys/kernel/random/boot_id: Too many open files; if";
    assert!(said.contains(why), "{said}");
}
