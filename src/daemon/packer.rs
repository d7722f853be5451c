//! Runs the program that makes full log files smaller (`compress` of an `output`): one at a time,
//! with a low priority, as superd's user, with the file for its standard input and a new one
//! for its output. superd itself only waits for its end. What becomes of the files is
//! `logs/file/pack.rs`'s.
//!
//! It is not carried over an upgrade, nor found by a successor: that one begins anew.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;
use std::time::Duration;

use super::logs::Packing;
use super::reactor::{Reactor, Role};
use crate::machine::event::ServiceId;
use crate::machine::signal::Signal;
use crate::machine::time::{Span, Tick};
use crate::sys;
use crate::sys::limits::Limit;
use crate::sys::spawn::{Plan, Status, StatusPipe, USUAL_PATH};
use crate::sys::wait::Ended;

/// So long it may take at least.
const LEAST: Duration = Duration::from_secs(20);

/// So many bytes a second are asked of it beyond that.
const SPEED: u64 = 32 * 1024;

/// What a file that cannot be made smaller may grow by.
const MORE: u64 = 64 * 1024;

/// It gets a tenth of what others get who want the processor too. With the lowest priority it
/// could not end in time beside a server that takes all.
const NICE: i32 = 10;

/// Its type differs between C libraries.
#[allow(clippy::unnecessary_cast)]
const FILE_SIZE: u32 = libc::RLIMIT_FSIZE as u32;

/// One that runs.
pub(super) struct Packer {
    pid: i32,
    service: ServiceId,
    status: StatusPipe,
    packing: Packing,
    /// How long it may take.
    limit: Duration,
    /// When it is killed; `NEVER`: it was.
    pub deadline: Tick,
}

/// How long it may take to compress so many bytes.
fn limit(bytes: u64) -> Duration {
    LEAST + Duration::from_secs(bytes / SPEED)
}

/// Whether it has done its work. `late`: it was killed after that time.
fn judge(status: Status, ended: Ended, late: Option<Duration>) -> Result<(), String> {
    match (status, ended, late) {
        (Status::Failed(fault), ..) => Err(sys::strerror(fault.errno).to_owned()),
        (_, Ended::Code(0), _) => Ok(()),
        (_, _, Some(limit)) => Err(format!("not done after {}, killed", Span(limit))),
        (_, Ended::Code(n), _) => Err(format!("it ended with status {n}")),
        (_, Ended::Signal(libc::SIGXFSZ), _) => Err("it makes the file larger".to_owned()),
        (_, Ended::Signal(n), _) => Err(format!("it was ended by SIG{}", Signal(n))),
    }
}

impl Reactor {
    /// Begins with the next full file, or ends a program that hangs.
    pub(super) fn pack_logs(&mut self) {
        if let Some(packer) = &mut self.packer {
            let now = Tick(sys::timer::monotonic());
            if packer.deadline <= now {
                packer.deadline = Tick::NEVER;
                sys::kill::kill(packer.pid, libc::SIGKILL).ok(); // our child, not reaped yet
            }
            return;
        }
        if self.is_ending() || !self.logs.may_pack() {
            return;
        }
        let Some((service, argv, packing)) = self.logs.next_packing() else {
            return self.say_of_output();
        };
        match spawn(&argv, &packing) {
            Ok(child) => {
                let limit = limit(packing.length());
                self.trees.claim(child.pid);
                self.children.insert(child.pid, Role::Packer);
                self.packer = Some(Packer {
                    pid: child.pid,
                    service,
                    status: child.status,
                    packing,
                    limit,
                    deadline: self.now() + limit,
                });
            }
            Err(why) => {
                self.logs.end_packing(service, packing, Err(why));
                self.say_of_output();
            }
        }
    }

    /// It has ended, and is reaped.
    pub(super) fn packer_ended(&mut self, pid: i32, ended: Ended) {
        self.trees.unclaim(pid);
        if let Some(packer) = self.packer.take_if(|p| p.pid == pid) {
            let late = (packer.deadline == Tick::NEVER).then_some(packer.limit);
            let result = judge(packer.status.read(), ended, late);
            self.logs
                .end_packing(packer.service, packer.packing, result);
            self.say_of_output();
        }
    }

    /// superd ends, or becomes another program.
    pub(super) fn dismiss_packer(&mut self) {
        if let Some(packer) = self.packer.take() {
            packer.packing.abandon();
            self.trees.unclaim(packer.pid); // a stray from here on
            sys::kill::kill(packer.pid, libc::SIGKILL).ok(); // our child, not reaped yet
        }
    }
}

fn spawn(argv: &[String], packing: &Packing) -> Result<sys::spawn::Child, String> {
    let words = |text: &String| CString::new(text.as_str()).map_err(|e| e.to_string());
    let mut plan = Plan::new(argv.iter().map(words).collect::<Result<_, _>>()?);
    let path = std::env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
    let path = CString::new([b"PATH=".to_vec(), path.into_vec()].concat());
    plan.env = path.into_iter().map(Rc::from).collect(); // no environment holds a NUL
    plan.stdin = Some(packing.from.as_fd());
    plan.stdout = Some(packing.into.as_fd());
    plan.nice = Some(NICE);
    plan.goes_along = true;
    let most = packing.length().saturating_add(MORE);
    let limit = Limit {
        soft: most,
        hard: most,
    };
    plan.limits = vec![(FILE_SIZE, limit)];
    sys::spawn::spawn(&plan).map_err(|fault| sys::strerror(fault.errno).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::spawn::{SpawnFault, Step, Why};

    #[test]
    fn a_large_file_may_take_longer() {
        assert_eq!(limit(0), LEAST);
        assert_eq!(limit(1 << 20), Duration::from_secs(20 + 32));
        assert!(limit(u64::MAX) > Duration::from_secs(1 << 30));
    }

    #[test]
    fn only_who_has_ended_well_has_done_it() {
        let said = |ended, late| judge(Status::Execed, ended, late).unwrap_err();
        assert_eq!(judge(Status::Execed, Ended::Code(0), None), Ok(()));
        // Right before it was killed.
        assert_eq!(judge(Status::Execed, Ended::Code(0), Some(LEAST)), Ok(()));
        let killed = Ended::Signal(libc::SIGKILL);
        assert_eq!(said(killed, Some(LEAST)), "not done after 20 s, killed");
        assert_eq!(said(killed, None), "it was ended by SIGKILL");
        assert_eq!(said(Ended::Code(1), None), "it ended with status 1");
        let full = Ended::Signal(libc::SIGXFSZ);
        assert_eq!(said(full, None), "it makes the file larger");
        let fault = SpawnFault {
            step: Step::Exec,
            why: Why::Errno,
            index: 0,
            errno: libc::ENOENT,
            skipped: false,
        };
        let said = judge(Status::Failed(fault), Ended::Code(127), None);
        assert_eq!(said, Err("No such file or directory".to_owned()));
    }
}
