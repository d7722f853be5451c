//! From the command line to a running reactor: `superd` and `superd run`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mio::Poll;
use signal_hook::consts::SIGHUP;
use syslog::Severity;

use super::announce::Announcer;
use super::clients::Clients;
use super::notify::Notify;
use super::reactor::{Mode, Options, Parts, Reactor};
use super::rundir::{in_time, is_taken, plain, RunDir};
use super::signals::{self, Wakeup};
use super::sink::{Sink, Stamp};
use super::trees::Trees;
use super::upgrade::state::{Body, Head};
use super::upgrade::{self, Received};
use crate::config::model::{CgroupUse, Config, Daemon, LogTo};
use crate::machine::report::Origin;
use crate::machine::supervisor::{Ending, Supervisor};
use crate::sys;
use crate::sys::handover::Inherited;

/// What `superd` is told on its command line.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The main configuration file.
    pub config: PathBuf,
    /// Messages go to standard error instead of syslog where `log` is `auto`.
    pub foreground: bool,
}

/// Prints a line after the program's name and gives the status 1.
fn refuse(text: &str) -> ExitCode {
    for line in text.lines() {
        eprintln!("superd: {line}");
    }
    ExitCode::from(1)
}

/// What superd cannot be without is not to be had.
fn failed(what: &str) -> impl Fn(std::io::Error) -> String + use<'_> {
    move |e| {
        let hint = match e.raw_os_error() {
            Some(libc::EMFILE) => "; superd needs a higher limit of open files (ulimit -n)",
            _ => "",
        };
        format!("{what}: {}{hint}", plain(&e))
    }
}

/// Runs the daemon until it is asked to end.
pub fn run(options: &DaemonOptions) -> ExitCode {
    // The signals are still held if there is a state.
    let mut complaint = None;
    match upgrade::receive() {
        Received::Nothing => sys::handover::close_what_was_left(),
        Received::Bad(why) => complaint = Some(why),
        Received::State(state) => match go_on(options, *state) {
            Ok(reactor) => return serve(reactor),
            Err(why) => complaint = Some(why),
        },
    }
    if let Err(e) = sys::signals::clean_start() {
        return refuse(&format!("setting up signals: {}", plain(&e)));
    }
    let config = match crate::config::load(&options.config) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems.to_string()),
    };
    let run_dir = match RunDir::take(&config.daemon.run_dir) {
        Ok(run_dir) => run_dir,
        Err(text) => return refuse(&text),
    };
    match build(options, &config.daemon, run_dir) {
        Ok((reactor, mut complaints)) => {
            let text = |why| {
                format!(
                    "the state that the superd before has left cannot be used: {why}; going on \
                     from the journal"
                )
            };
            complaints.extend(complaint.map(text));
            drive(reactor, config, &complaints, Origin::Config)
        }
        Err(text) => refuse(&text),
    }
}

/// The reactor of a superd that was another program a moment ago.
fn go_on(options: &DaemonOptions, state: (Head, Body, Inherited)) -> Result<Reactor, String> {
    let (head, Body { base, work }, mut left) = state;
    let words = |e: std::io::Error| plain(&e);
    sys::signals::clean_dispositions().map_err(words)?;
    let poll = Poll::new().map_err(words)?;
    let registry = poll.registry();
    let run_dir = left.take(base.run_dir_lock);
    let run_dir = run_dir.and_then(|lock| RunDir::kept(base.run_dir, lock));
    let notify = base.notify.map(|n| Notify::kept(n, &mut left, registry));
    let clients = base.clients.map(|c| Clients::kept(c, &mut left, registry));
    let trees = Trees::kept(base.trees, &mut left).map_err(words)?;
    let daemon = work.registry.daemon();
    let parts = Parts {
        options: Options {
            mode: Mode::Daemon,
            config: Some(options.config.clone()),
            foreground: options.foreground,
            program: base.program,
        },
        machine: Supervisor::new(seed(), Ending::WhenAsked),
        sink: Sink::new(daemon.log, options.foreground, local_time),
        run_dir: Some(run_dir.map_err(words)?),
        notify: notify.transpose().map_err(words)?,
        trees,
        ring: daemon.ring,
        poll,
        wakeup: Wakeup::install(false).map_err(words)?,
    };
    let mut reactor = Reactor::new(parts).map_err(words)?;
    reactor.clients = clients.transpose().map_err(words)?;
    signals::take_up(&base.signals);
    reactor.take_up(&head, work, &mut left).map_err(words)?;
    sys::handover::unblock_signals();
    Ok(reactor)
}

/// The reactor, and what could not be had but is no reason not to run the services.
fn build(
    options: &DaemonOptions,
    daemon: &Daemon,
    run_dir: RunDir,
) -> Result<(Reactor, Vec<String>), String> {
    let mut complaints = Vec::new();
    leave_foreign_session();
    if let Err(e) = sys::subreaper::become_subreaper() {
        complaints.push(format!(
            "becoming the reaper of orphans: {}; what leaves its parent behind may escape",
            plain(&e)
        ));
    }
    let poll = Poll::new().map_err(failed("epoll"))?;
    let wakeup = Wakeup::install(false).map_err(failed("signal handlers"))?;
    let mut trees = trees(&daemon.cgroup, run_dir.path(), &mut complaints)?;
    let until_exec = match run_dir.until_exec() {
        Ok((file, killed)) => {
            let who = killed.iter().map(|pid| {
                format!("pid {pid}, a start of an earlier superd that hung, was killed")
            });
            complaints.extend(who);
            Some(file)
        }
        Err(e) => {
            complaints.push(format!(
                "{}: {}; if superd is killed during a start, that start may happen twice",
                run_dir.file("starting").display(),
                plain(&e)
            ));
            None
        }
    };
    trees.belong_to(run_dir.path().display().to_string(), until_exec);
    let notify = Notify::bind(&run_dir.file("notify"), poll.registry())
        .map_err(|e| complaints.push(format!("no notify socket: {e}")))
        .ok();
    let mut machine = Supervisor::new(seed(), Ending::WhenAsked);
    machine.number_actions_after(sys::timer::monotonic());
    let reactor = Reactor::new(Parts {
        options: Options {
            mode: Mode::Daemon,
            config: Some(options.config.clone()),
            foreground: options.foreground,
            program: upgrade::own_program(),
        },
        machine,
        sink: Sink::new(daemon.log, options.foreground, local_time),
        run_dir: Some(run_dir),
        notify,
        trees,
        ring: daemon.ring,
        poll,
        wakeup,
    })
    .map_err(failed("timer"))?;
    Ok((reactor, complaints))
}

fn trees(using: &CgroupUse, run_dir: &Path, complaints: &mut Vec<String>) -> Result<Trees, String> {
    let base = match using {
        CgroupUse::Off => None,
        CgroupUse::Auto => sys::cgroup::own_directory(),
        CgroupUse::Below(path) => Some(path.clone()),
    };
    let Some(base) = base else {
        return Ok(Trees::new(None));
    };
    match sys::cgroup::Root::make(&base, &run_dir.to_string_lossy()) {
        Ok(root) => {
            // Children of a killed superd have it for a moment more.
            let lock = in_time(|| root.lock().transpose()).transpose();
            let lock = match lock {
                Ok(Some(lock)) => Some(lock),
                Ok(None) => return Err(is_taken(run_dir, "")),
                Err(e) => {
                    complaints.push(format!("locking {}: {}", root.path().display(), plain(&e)));
                    None
                }
            };
            // Where superd itself is, if that is not said.
            if *using != CgroupUse::Auto || sys::cgroup::can_be_killed(&base) {
                try_birth(&root);
            }
            Ok(Trees::locked(root, lock))
        }
        Err(e) if *using == CgroupUse::Auto => {
            complaints.push(format!(
                "no cgroups below {}: {}; sessions and /proc are used instead",
                base.display(),
                plain(&e)
            ));
            Ok(Trees::new(None))
        }
        Err(e) => Err(format!("cgroup {}: {}", base.display(), plain(&e))),
    }
}

/// Once, with a group that no service can have. Not where superd is in the root of the
/// hierarchy, which nobody can have killed.
fn try_birth(root: &sys::cgroup::Root) {
    if let Ok(group) = root.group("birth/") {
        sys::spawn::try_birth(&group);
        group.remove().ok(); // empty, so nothing keeps it
    }
}

fn drive(mut reactor: Reactor, config: Config, complaints: &[String], by: Origin) -> ExitCode {
    for text in complaints {
        reactor.say(Severity::LOG_WARNING, text);
    }
    let config = reactor.take_over(config);
    let text = reactor.configure(config, by);
    reactor.say(Severity::LOG_INFO, &text);
    serve(reactor)
}

fn serve(mut reactor: Reactor) -> ExitCode {
    match Announcer::of_environment(reactor.now()) {
        Ok(announcer) => reactor.announcer = announcer,
        Err(e) => {
            let text = format!("NOTIFY_SOCKET is not used: {}", plain(&e));
            reactor.say(Severity::LOG_WARNING, &text);
        }
    }
    sys::memory::give_back();
    let ran = reactor.run();
    if let Err(e) = &ran {
        reactor.say(Severity::LOG_CRIT, &format!("epoll: {}", plain(e)));
    }
    reactor.clear_up();
    ExitCode::from(u8::from(ran.is_err()))
}

/// procd starts us in PID 1's session and process group: a signal to that group would
/// reach us, and ours it. A terminal keeps us, so that its Ctrl-C does.
fn leave_foreign_session() {
    let leader = nix::unistd::getpgrp().as_raw() == sys::own_pid();
    if !leader && !std::io::stdin().is_terminal() {
        nix::unistd::setsid().ok(); // only fails for a leader, which we are not
    }
}

/// Jitter needs chance, not secrecy.
fn seed() -> u64 {
    sys::timer::monotonic() ^ (u64::from(sys::own_pid().unsigned_abs()) << 32)
}

fn local_time() -> Stamp {
    let t = sys::timer::local(sys::timer::wall());
    let small = |n: i32| u8::try_from(n).unwrap_or(0);
    Stamp {
        month: small(t.month),
        day: small(t.day),
        hour: small(t.hour),
        minute: small(t.minute),
        second: small(t.second),
    }
}

/// `superd run`: one service in the foreground. Returns the child's exit status, 128 + n
/// for a signal.
pub fn wrap(config: Config) -> ExitCode {
    let ignores_hup = sys::signals::is_ignored(SIGHUP);
    sys::handover::close_what_was_left();
    if let Err(e) = sys::signals::clean_start() {
        return refuse(&format!("setting up signals: {}", plain(&e)));
    }
    match build_wrap(ignores_hup) {
        Ok((mut reactor, complaints)) => {
            for text in &complaints {
                reactor.say(Severity::LOG_WARNING, text);
            }
            reactor.configure(config, Origin::Config);
            if let Err(e) = reactor.run() {
                return refuse(&format!("epoll: {}", plain(&e)));
            }
            reactor.clear_up();
            let status = reactor.wrapped_status();
            ExitCode::from(u8::try_from(status).unwrap_or(255))
        }
        Err(text) => refuse(&text),
    }
}

fn build_wrap(ignores_hup: bool) -> Result<(Reactor, Vec<String>), String> {
    let mut complaints = Vec::new();
    if let Err(e) = sys::subreaper::become_subreaper() {
        complaints.push(format!("becoming the reaper of orphans: {}", plain(&e)));
    }
    let poll = Poll::new().map_err(failed("epoll"))?;
    let wakeup = Wakeup::install(true).map_err(failed("signal handlers"))?;
    let key = format!("run.{}", std::process::id());
    let own = sys::cgroup::own_directory();
    let root = own
        .as_ref()
        .and_then(|d| sys::cgroup::Root::make(d, &key).ok());
    if own.is_some_and(|d| sys::cgroup::can_be_killed(&d)) {
        root.iter().for_each(try_birth);
    }
    let reactor = Reactor::new(Parts {
        options: Options {
            mode: Mode::Wrap { ignores_hup },
            config: None,
            foreground: true,
            program: PathBuf::new(),
        },
        machine: Supervisor::new(seed(), Ending::WhenIdle),
        sink: Sink::new(LogTo::Stderr, true, local_time),
        run_dir: None,
        notify: None,
        trees: Trees::new(root).of_this_superd_alone(),
        ring: 4096,
        poll,
        wakeup,
    })
    .map_err(failed("timer"))?;
    Ok((reactor, complaints))
}
