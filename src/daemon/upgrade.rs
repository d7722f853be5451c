//! superd becomes another program: `superctl upgrade` and SIGUSR2. Same process, same
//! children, same connections. When and whether, `machine::upgrade` decides.
//!
//! 1. The state is written to a file in memory and the new program is run as a child with it:
//!    `superd --check-state` says whether it understands it. The loop goes on meanwhile.
//! 2. At the end of a turn, when nothing is left to be done, the journal is brought up to date,
//!    signals are held, the state is written once more, and execve(2) is called. If that
//!    fails, the old one goes on as if nothing had happened.
//! 3. The new one takes over descriptors and state before it opens anything, installs its
//!    handlers, lets the signals go that have arrived meanwhile, and looks for children that
//!    have ended. If it cannot use the state after all, there is still the journal.
//!
//! An upgrade is no reload: the configuration stays the one that was in force.
//!
//! (Past 400 lines with its tests; the new program's part is in `arrival.rs`, the format in
//! `state.rs`.)

mod arrival;
pub mod state;

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::unistd::pipe2;
use syslog::Severity;

use super::adopt::AdoptedCommand;
use super::journal;
use super::reactor::{Followed, Reactor, Role, Start};
use super::rundir::plain;
use super::signals;
use crate::control::reply::{Code, Reply};
use crate::machine::event::{Instance, ServiceId, Ticket};
use crate::machine::report::Origin;
use crate::machine::upgrade::{CameToNothing, Wished};
use crate::map::Map;
use crate::sys;
use crate::sys::handover;
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::{Plan, Status, StatusPipe};
use crate::sys::wait::Ended;
pub use arrival::{receive, Received};
use state::{Fds, Writing, WritingBase, WritingWork};

/// By this variable the new program finds the state: the number of its descriptor.
const STATE: &str = "SUPERD_STATE";

/// What the new program says when it understands the state, after `superd VERSION`.
const UNDERSTOOD: &str = " understands this state";

/// The new program is asked with so many lines of output of each service: they are alike.
const SOME_LINES: u64 = 8;

/// Of what the new program says, so much is read.
const ANSWER: usize = 4096;

/// And so many characters are told.
const TOLD: usize = 200;

/// The new program, which was asked.
pub(super) struct Asked {
    status: StatusPipe,
    output: File,
}

/// The program that runs, whatever has become of its name.
const OWN: &str = "/proc/self/exe";

// ---- which program -------------------------------------------------------------

/// The path that superd was started as, to be asked at the start: a link may lead to another
/// file later. Without one in the arguments it is the file itself.
pub fn own_program() -> PathBuf {
    let named = std::env::args_os().next().map(PathBuf::from);
    let named = named.filter(|p| p.as_os_str().as_bytes().contains(&b'/'));
    let named = named.map(|p| match p.is_absolute() {
        true => p,
        false => std::env::current_dir().unwrap_or_default().join(p),
    });
    if let Some(named) = named.as_ref().filter(|p| is_own(p)) {
        return named.clone();
    }
    match fs::read_link(OWN) {
        Ok(exe) => without_deleted(&exe),
        Err(_) => named.unwrap_or_default(), // no /proc
    }
}

/// Whether this file is the program that runs.
fn is_own(path: &Path) -> bool {
    match (fs::metadata(path), fs::metadata(OWN)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// As /proc has it: ` (deleted)` is added when another file has taken the place.
fn without_deleted(exe: &Path) -> PathBuf {
    let bytes = exe.as_os_str().as_bytes();
    PathBuf::from(OsStr::from_bytes(
        bytes.strip_suffix(b" (deleted)").unwrap_or(bytes),
    ))
}

// ---- the new program, asked ------------------------------------------------------

/// `superd --check-state`: says whether the state on standard input can be gone on from.
pub fn check_state() -> ExitCode {
    let own = journal::Head::of_this_process();
    let answer = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|fd| state::read(File::from(fd)))
        .map_err(|e| plain(&e))
        .and_then(|text| {
            let (head, rest) = state::head(&text)?;
            state::is_of(&head, &own?)?;
            state::body(rest).map(drop)
        });
    match answer {
        Ok(()) => {
            println!("superd {}{UNDERSTOOD}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("superd: the state on standard input cannot be used: {why}");
            ExitCode::from(1)
        }
    }
}

/// What its answer means.
fn judge(status: Status, ended: Ended, said: &[u8]) -> Result<(), String> {
    if let Status::Failed(fault) = status {
        return Err(sys::strerror(fault.errno).to_owned());
    }
    let said = String::from_utf8_lossy(said);
    let mut lines = said.lines().map(str::trim).filter(|l| !l.is_empty());
    let first = lines.next().unwrap_or_default();
    let version = first.strip_prefix("superd ");
    let version = version.and_then(|v| v.strip_suffix(UNDERSTOOD));
    let clean = |c: &char| !c.is_control();
    let first: String = first.chars().filter(clean).take(TOLD).collect();
    let first = first.strip_prefix("superd: ").unwrap_or(&first);
    match (ended, version) {
        (Ended::Code(0), Some(_)) => Ok(()),
        (Ended::Code(0), None) => {
            Err("it does not answer like superd when it is asked for --check-state".to_owned())
        }
        (Ended::Code(_), _) if !first.is_empty() => Err(first.to_owned()),
        (Ended::Code(n), _) => Err(format!("it ended with status {n}")),
        (Ended::Signal(n), _) => {
            let signal = crate::machine::signal::Signal(n);
            Err(format!("it was ended by SIG{signal}"))
        }
    }
}

impl Reactor {
    /// SIGUSR2.
    pub(super) fn upgrade_by_signal(&mut self, by: Origin) {
        if let Err(why) = self.wish_for_upgrade(by, None) {
            self.say(Severity::LOG_WARNING, &format!("not upgraded: {why}"));
        }
    }

    /// `superctl upgrade`.
    pub(super) fn upgrade_by(&mut self, ticket: Ticket, if_changed: bool, by: Origin) {
        if if_changed && self.is_ending() {
            // An init script that starts superd is to start the next one.
            let text = "superd is ending";
            return self.reply(ticket, Reply::error(0, Code::NotRunning, text));
        }
        if if_changed && is_own(&self.options.program) {
            let message = "running already; its program has not changed".to_owned();
            let reply = Reply {
                message,
                ..Reply::ok(0)
            };
            return self.reply(ticket, reply);
        }
        if let Err(why) = self.wish_for_upgrade(by, Some(ticket)) {
            let text = format!("not upgraded: {why}");
            self.reply(ticket, Reply::error(0, Code::Refused, text));
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.machine.is_shutting_down() || self.leaving
    }

    fn wish_for_upgrade(&mut self, by: Origin, ticket: Option<Ticket>) -> Result<(), String> {
        let (now, ending) = (self.now(), self.is_ending());
        match self.upgrade.wish(now, by, ticket, ending) {
            Wished::Refused(why) => Err(why.to_owned()),
            Wished::Joined => Ok(()),
            Wished::Ask => {
                if let Err(why) = self.ask_new_one() {
                    let told = self.upgrade.answered(Err(why));
                    self.tell_of_nothing(told);
                }
                Ok(())
            }
        }
    }

    fn ask_new_one(&mut self) -> Result<(), String> {
        let words = |e: io::Error| plain(&e);
        let state = self.state_in_memory(SOME_LINES, &mut Fds::default());
        let state = state.map_err(words)?;
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| words(e.into()))?;
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| words(e.into()))?;
        let program = self.options.program.as_os_str().as_bytes();
        let program = CString::new(program).map_err(|e| e.to_string())?;
        let mut plan = Plan::new(vec![program, c"--check-state".to_owned()]);
        plan.env = environment()
            .filter_map(|(name, value)| {
                let pair = [name.into_vec(), value.into_vec()].join(&b'=');
                CString::new(pair).ok() // no environment holds a NUL
            })
            .map(Into::into)
            .collect();
        plan.stdin = Some(state.as_fd());
        plan.stdout = Some(write.as_fd());
        plan.stderr = Some(write.as_fd());
        let child = sys::spawn::spawn(&plan).map_err(|fault| {
            let why = sys::strerror(fault.errno);
            format!("starting the new superd: {why}")
        })?;
        drop(plan);
        self.trees.claim(child.pid);
        let asked = Asked {
            status: child.status,
            output: File::from(read),
        };
        self.children.insert(child.pid, Role::NewOne(Some(asked)));
        Ok(())
    }

    /// The new program that was asked has ended, and is reaped.
    pub(super) fn new_one_ended(&mut self, pid: i32, asked: Option<Asked>, ended: Ended) {
        self.trees.unclaim(pid);
        let Some(mut asked) = asked else { return };
        let mut said = vec![0; ANSWER];
        let n = asked.output.read(&mut said).unwrap_or(0); // it said nothing
        said.truncate(n);
        let answer = judge(asked.status.read(), ended, &said);
        let program = self.options.program.display();
        let told = self
            .upgrade
            .answered(answer.map_err(|why| format!("{program}: {why}")));
        self.tell_of_nothing(told);
    }

    /// It has not answered in time.
    pub(super) fn upgrade_timeout(&mut self) {
        let now = self.now();
        if let Some(told) = self.upgrade.timeout(now) {
            self.dismiss_new_one();
            self.tell_of_nothing(Some(told));
        }
    }

    /// Nobody waits for the answer of the new program any more.
    pub(super) fn dismiss_new_one(&mut self) {
        for (pid, role) in &mut self.children {
            if let Role::NewOne(asked) = role {
                *asked = None;
                self.trees.unclaim(*pid); // a stray from here on
                sys::kill::kill(*pid, libc::SIGKILL).ok(); // our child, not reaped yet
            }
        }
    }

    fn tell_of_nothing(&mut self, told: Option<CameToNothing>) {
        let Some(CameToNothing { tickets, why }) = told else {
            return;
        };
        let text = format!("not upgraded: {why}");
        self.say(Severity::LOG_ERR, &text);
        for ticket in tickets {
            self.reply(ticket, Reply::error(0, Code::Failed, text.as_str()));
        }
    }

    // ---- the old program, on its way out ---------------------------------------------

    /// The end of a turn: if the new program has agreed and nothing is left to be done, superd
    /// becomes it. Returns if not.
    pub(super) fn become_new_one(&mut self) {
        if !self.upgrade.is_agreed() || !self.effects.is_empty() {
            return;
        }
        match self.upgrade.may_go(self.is_ending()) {
            Ok(true) => {}
            Ok(false) => return,
            Err(told) => return self.tell_of_nothing(Some(told)),
        }
        self.dismiss_packer();
        // If the new one fails at once, the next one goes on from this.
        self.remember();
        let program = self.options.program.display().to_string();
        let why = match handover::hold_signals() {
            Err(e) => e,
            Ok(held) => {
                let why = self.execute_new_one();
                handover::release_signals(&held);
                why
            }
        };
        let told = self.upgrade.failed(format!("{program}: {}", plain(&why)));
        self.tell_of_nothing(Some(told));
    }

    fn execute_new_one(&mut self) -> io::Error {
        let mut fds = Fds::default();
        let state = match self.state_in_memory(u64::MAX, &mut fds) {
            Ok(state) => state,
            Err(e) => return e,
        };
        let place = OsString::from(fds.pass(&state).to_string());
        let environment = environment().chain([(STATE.into(), place)]);
        let args = std::env::args_os().collect();
        handover::execute(&self.options.program, args, environment, fds.numbers())
    }

    /// `lines`: of the output of each service, at most.
    fn state_in_memory(&self, lines: u64, fds: &mut Fds) -> io::Result<File> {
        let no = |what: &str| io::Error::other(what.to_owned());
        let own = journal::Head::of_this_process().map_err(io::Error::other)?;
        let run_dir = self.run_dir.as_ref();
        let run_dir = run_dir.ok_or_else(|| no("there is no run directory"))?;
        let base = WritingBase {
            program: &self.options.program,
            run_dir: run_dir.path(),
            run_dir_lock: fds.pass(run_dir.lock()),
            trees: self.trees.keep(fds),
            clients: self.clients.as_ref().map(|c| c.keep(fds)),
            notify: self.notify.as_ref().map(|n| n.keep(fds)),
            signals: signals::keep(),
        };
        let work = WritingWork {
            registry: &self.registry,
            machine: self.machine.keep(),
            logs: self.logs.keep(lines, fds),
            actions: self.actions.keep(fds),
            probes: self.probes.keep(fds),
            checkers: self.checkers.keep(fds),
            history: self.history.keep(),
            crashes: &self.crashes,
            lost_lines: self.sink.lost(),
            starts: self.keep_starts(fds),
            next_start: self.next_start,
            children: self.keep_children(fds),
            followed: self.keep_followed(fds),
            unheld: &self.unheld,
            commands: self.keep_adopted_commands(fds),
            sockets: self.sockets.keep(fds),
            absorbed: self.absorbed,
            wish: state::Wish {
                by: self.upgrade.by().cloned(),
                tickets: self.upgrade.tickets().to_vec(),
            },
        };
        let body = Writing { base, work };
        let mut file = handover::memory_file("superd-state")?;
        state::write(&mut file, own, &body, fds)?;
        Ok(file)
    }

    fn keep_children(&self, fds: &mut Fds) -> Map<i32, state::Child> {
        let mut children = Map::new();
        for (pid, role) in &self.children {
            let child = match role {
                Role::Main(service, instance) => state::Child::Main(*service, *instance),
                Role::Command(c, status) => state::Child::Command {
                    service: c.service,
                    instance: c.instance,
                    action: c.action,
                    argv: c.argv.clone(),
                    status: fds.pass(status),
                },
                Role::NewOne(_) | Role::Packer => continue, // killed, and an orphan to the next one
            };
            children.insert(*pid, child);
        }
        children
    }

    fn keep_starts(&self, fds: &mut Fds) -> Vec<state::Starting> {
        let keep = |(index, s): (&u32, &Start)| state::Starting {
            index: *index,
            service: s.service,
            instance: s.instance,
            status: fds.pass(&s.status),
        };
        self.starts.iter().map(keep).collect()
    }

    fn keep_followed(&self, fds: &mut Fds) -> Vec<state::Watched> {
        let keep = |(id, f): (&ServiceId, &Followed)| watched(*id, f.instance, &f.held, fds);
        self.followed.iter().map(keep).collect()
    }

    fn keep_adopted_commands(&self, fds: &mut Fds) -> Vec<state::Adopted> {
        let keep = |(slot, c): (&u32, &AdoptedCommand)| state::Adopted {
            slot: *slot,
            action: c.action,
            program: c.program.clone(),
            process: watched(c.service, c.instance, &c.held, fds),
        };
        self.adopted_commands.iter().map(keep).collect()
    }
}

fn watched(service: ServiceId, instance: Instance, held: &PidFd, fds: &mut Fds) -> state::Watched {
    state::Watched {
        service,
        instance,
        pid: held.pid(),
        fd: fds.pass(held),
    }
}

/// The environment without what is between two programs of superd.
fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name != STATE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::spawn::{SpawnFault, Step, Why};

    #[test]
    fn only_a_clear_yes_is_a_yes() {
        let said = |ended, text: &str| judge(Status::Execed, ended, text.as_bytes());
        let ok = Ended::Code(0);
        assert_eq!(said(ok, "superd 9.9 understands this state\n"), Ok(()));
        let why = |ended, text: &str| said(ended, text).unwrap_err();
        assert!(why(ok, "").contains("does not answer like superd"));
        assert!(why(ok, "superd 9.9 does not\n").contains("does not answer"));
        assert!(why(Ended::Code(1), "superd 9.9 understands this state\n").contains("9.9"));
        assert_eq!(why(Ended::Code(3), "\n"), "it ended with status 3");
        assert_eq!(
            why(Ended::Code(1), "superd: one\nsuperd: two\n"),
            "one",
            "a line"
        );
        assert_eq!(why(Ended::Code(1), "a\u{1b}[0mb\n"), "a[0mb");
        assert_eq!(why(Ended::Signal(9), "x\n"), "it was ended by SIGKILL");
        assert_eq!(why(Ended::Code(1), &"x".repeat(4000)).len(), TOLD);
        let fault = SpawnFault {
            step: Step::Exec,
            why: Why::Errno,
            index: 0,
            errno: libc::ENOEXEC,
            skipped: false,
        };
        let failed = judge(Status::Failed(fault), Ended::Code(127), b"");
        assert_eq!(failed.unwrap_err(), "Exec format error");
    }

    #[test]
    fn the_path_is_without_what_the_kernel_adds() {
        let cut = |p: &str| without_deleted(Path::new(p)).display().to_string();
        assert_eq!(cut("/usr/sbin/superd (deleted)"), "/usr/sbin/superd");
        assert_eq!(cut("/usr/sbin/superd"), "/usr/sbin/superd");
        assert!(own_program().is_absolute());
    }
}
