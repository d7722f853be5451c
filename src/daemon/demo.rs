//! `superd demo`: what superd is for, shown on a server with a known fault.
//!
//! The same server is stopped twice by hand, and then 200 times with superd in front of it.
//! What is printed is what was observed, and the exit status is 0 only if all of it is as
//! superd promises. superd and superctl are run as the programs that they are; nothing of
//! the daemon is called from here. Only processes that were started here are signalled.
//!
//! A little long: the stage, the volley and what is made of it are one story.

mod server;
mod story;

use std::ffi::OsStr;
use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use self::story::{
    children, event_line, log_line, plain_line, remove, tell, Program, Request, Running, Story,
    STDERR, STDOUT, UP,
};
use super::rundir::plain;
use crate::json;
use crate::machine::report::{EndReport, Exit, Verdict};
use crate::machine::time::Span;
use crate::sys;

pub use server::{child, server};

/// Requests to stop, with superd: every other one is a `superctl stop`, the rest TERM and
/// INT to superd in turn.
const REQUESTS: usize = 200;
/// So many `superctl stop` wait for the end; superd serves 32 clients at once.
const WAITING: usize = 20;
/// So many that do not wait run at once, for the same reason.
const AT_ONCE: usize = 8;
/// The path of a unix socket has at most 107 bytes (unix(7)), with a name of ours in it.
const LONGEST_DIR: usize = 80;
/// superctl's status for "superd is not running".
const NOT_RUNNING: i32 = 7;

/// Shows it. The exit status is 0 if superd kept its promises, else 1.
pub fn run() -> ExitCode {
    let shown = Stage::new().and_then(|stage| stage.show());
    let problems = match shown {
        Ok(problems) => problems,
        Err(text) => vec![text],
    };
    for text in &problems {
        eprintln!("superd: demo: {text}");
    }
    match problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// A directory of our own with what both parts need in it.
struct Stage {
    dir: PathBuf,
    superd: PathBuf,
    superctl: PathBuf,
    /// Children from before the start of this program, which are not ours to touch.
    inherited: Vec<i32>,
}

/// What came of the server.
struct Outcome {
    requests: usize,
    /// Signals that the server got, by its own account.
    signals: Vec<String>,
    status: Option<i32>,
    panicked: bool,
    answered: bool,
    /// Processes that were alive when everything was over.
    left: Vec<i32>,
}

/// What came of superd and superctl.
struct Supervision {
    requests: usize,
    report: Box<EndReport>,
    superd: Option<i32>,
    /// `superctl stop` that ended with another status than 0.
    failed: Vec<i32>,
    /// Of these, those that came when superd had ended.
    late: usize,
    superctl: usize,
    took: Duration,
}

impl Stage {
    fn new() -> Result<Stage, String> {
        sys::subreaper::become_subreaper() // what is left behind becomes our child
            .map_err(|e| format!("becoming the reaper of orphans: {}", plain(&e)))?;
        let exe = std::env::current_exe().map_err(|e| format!("own path: {}", plain(&e)))?;
        let mut dir = std::env::temp_dir();
        if dir.as_os_str().len() > LONGEST_DIR {
            dir = PathBuf::from("/tmp");
        }
        dir.push(format!("superd-demo.{}", std::process::id()));
        let failed = |e| format!("making {}: {}", dir.display(), plain(&e));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(failed)?;
        let stage = Stage {
            superd: dir.join("superd"),
            superctl: dir.join("superctl"),
            dir: dir.clone(),
            inherited: children(),
        };
        for name in [&stage.superd, &stage.superctl] {
            std::os::unix::fs::symlink(&exe, name).map_err(failed)?;
        }
        Ok(stage)
    }

    fn show(&self) -> Result<Vec<String>, String> {
        tell("The server of this demonstration has one fault and one bad habit, both seen");
        tell("in servers in wide use: a second stop while it is stopping makes it panic, and");
        tell("it leaves a child behind in a session of its own.");
        tell("\n1. Without superd: somebody sends TERM, somebody else INT\n");
        let without = self.without()?;
        tell(&format!(
            "\n2. With superd: {REQUESTS} requests to stop, by superctl, TERM and INT\n"
        ));
        let (with, supervision) = self.with()?;
        compare(&without, &with);
        supervision.tell();
        let mut problems = without.fault_missing();
        problems.extend(with.broken());
        problems.extend(supervision.broken());
        Ok(problems)
    }

    /// The server alone, stopped twice.
    fn without(&self) -> Result<Outcome, String> {
        let socket = self.dir.join("alone");
        let mut story = Story::new();
        let mut server = Running::start(&Program {
            argv: vec![
                self.superd.as_ref(),
                "demo-server".as_ref(),
                socket.as_ref(),
            ],
            heard: Some(STDERR),
            dropped: &[STDOUT],
        })?;
        story.follow("server", server.output.take(), plain_line);
        story.until(server::READY)?;
        let request = Request::open(&socket)?;
        story.began = Instant::now();
        server.signal(Signal::SIGTERM)?;
        story.say("TERM sent to the server".to_owned());
        story.until(server::WAITING)?;
        server.signal(Signal::SIGINT)?;
        story.say("INT sent to the server".to_owned());
        story.until_the_end()?;
        let status = server.ended()?;
        story.say(match status {
            Some(status) => format!("the server has ended with status {status}"),
            None => "a signal has ended the server".to_owned(),
        });
        let left = self.left_behind();
        for pid in &left {
            story.say(format!("pid {pid} is still there; removed now"));
        }
        remove(&left);
        story.print();
        Ok(Outcome::of(&story, 2, status, request.finish(), left))
    }

    /// The server below superd, stopped 200 times.
    fn with(&self) -> Result<(Outcome, Supervision), String> {
        let socket = self.dir.join("supervised");
        let config = self.configure(&socket)?;
        let [foreground, option] = ["--foreground", "--config"].map(OsStr::new);
        let mut superd = Running::start(&Program {
            argv: vec![self.superd.as_ref(), foreground, option, config.as_ref()],
            heard: None,
            dropped: &[STDOUT],
        })?;
        let mut start = self.superctl(&["start", "demo"], None, &[STDOUT])?;
        if start.ended()? != Some(0) {
            return Err("superd did not start the server".to_owned());
        }
        let mut story = Story::new();
        // Each ends when superd does.
        let mut logs = self.superctl(&["--json", "logs", "-f", "demo"], Some(STDOUT), &[])?;
        story.follow("server", logs.output.take(), log_line);
        let mut events = self.superctl(&["--json", "events", "-f", "demo"], Some(STDOUT), &[])?;
        story.follow("superd", events.output.take(), event_line);
        story.until(server::READY)?;
        story.until(UP)?;

        let request = Request::open(&socket)?;
        story.began = Instant::now();
        let mut volley = Volley::default();
        let requests = volley.fire(self, &superd, &mut story)?;
        story.say(format!("{requests} requests to stop have been made"));
        let answered = request.finish();
        story.until_the_end()?;
        let status = superd.ended()?;
        let took = story.began.elapsed();
        logs.ended()?;
        events.ended()?;
        volley.wait(0)?;
        let left = self.left_behind();
        remove(&left);
        story.print();
        let Some(report) = story.report.take() else {
            return Err("superd did not tell how the stop went".to_owned());
        };
        let code = match report.exit {
            Exit::Code(code) => Some(code),
            Exit::Signal(_) | Exit::Unknown => None,
        };
        let supervision = Supervision {
            requests,
            report,
            superd: status,
            late: volley.failed.iter().filter(|s| **s == NOT_RUNNING).count(),
            failed: volley.failed,
            superctl: volley.asked,
            took,
        };
        let outcome = Outcome::of(&story, requests, code, answered, left);
        Ok((outcome, supervision))
    }

    fn configure(&self, socket: &Path) -> Result<PathBuf, String> {
        // A path that is not UTF-8 cannot be written into a configuration file.
        let quoted = |path: &Path| -> Result<String, String> {
            let text = path
                .to_str()
                .ok_or_else(|| format!("{} is not UTF-8; set TMPDIR", path.display()))?;
            json::to_string(&text).map_err(|e| e.to_string()) // valid TOML too
        };
        let text = format!(
            "[daemon]\nrun-dir = {}\nlog = \"none\"\ncrash-reports = false\n\
             [service.demo]\ncommand = [{}, \"demo-server\", {}]\n",
            quoted(&self.dir.join("run"))?,
            quoted(&self.superd)?,
            quoted(socket)?
        );
        let path = self.dir.join("superd.toml");
        fs::write(&path, text).map_err(|e| format!("writing {}: {}", path.display(), plain(&e)))?;
        Ok(path)
    }

    /// What has been started since the beginning and is now left to us.
    fn left_behind(&self) -> Vec<i32> {
        let mut left = children();
        left.retain(|pid| !self.inherited.contains(pid));
        left
    }

    fn superctl(
        &self,
        args: &[&str],
        heard: Option<RawFd>,
        dropped: &[RawFd],
    ) -> Result<Running, String> {
        let socket = self.dir.join("run/superd.sock");
        let mut argv = vec![self.superctl.as_ref(), "--socket".as_ref(), socket.as_ref()];
        argv.extend(args.iter().map(OsStr::new));
        Running::start(&Program {
            argv,
            heard,
            dropped,
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Only where something went wrong; what a process leaves comes to us when it ends.
        loop {
            let left = self.left_behind();
            if left.is_empty() {
                break;
            }
            remove(&left);
        }
        fs::remove_dir_all(&self.dir).ok(); // what is left is in a temporary directory
    }
}

/// The `superctl stop` that run, and how those that ended did.
#[derive(Default)]
struct Volley {
    running: Vec<Running>,
    asked: usize,
    failed: Vec<i32>,
}

impl Volley {
    /// Makes all requests as fast as it can, and says how many. When it returns, all but
    /// the first few `superctl` have had their answers.
    fn fire(
        &mut self,
        stage: &Stage,
        superd: &Running,
        story: &mut Story,
    ) -> Result<usize, String> {
        let mut made = 0;
        // A superd that ends before the open request is done has failed already.
        while made < REQUESTS && !self.failed.contains(&NOT_RUNNING) {
            match made % 4 {
                1 => superd.signal(Signal::SIGTERM)?,
                3 => superd.signal(Signal::SIGINT)?,
                _ => self.ask(stage)?,
            }
            made += 1;
            story.catch_up()?;
        }
        self.wait(WAITING)?;
        Ok(made)
    }

    fn ask(&mut self, stage: &Stage) -> Result<(), String> {
        let args: &[&str] = match self.asked < WAITING {
            true => &["stop", "demo"],
            false => &["stop", "--no-wait", "demo"],
        };
        self.asked += 1;
        // What it says, 100 times over, is told once in the end; its status counts.
        let superctl = stage.superctl(args, None, &[STDOUT, STDERR])?;
        self.running.push(superctl);
        match self.running.len() > WAITING + AT_ONCE {
            true => self.wait(WAITING + AT_ONCE - 1),
            false => Ok(()),
        }
    }

    /// Waits for those that came after the first `keep`.
    fn wait(&mut self, keep: usize) -> Result<(), String> {
        let keep = keep.min(self.running.len());
        for mut superctl in self.running.drain(keep..) {
            let status = superctl.ended()?.unwrap_or(-1);
            if status != 0 {
                self.failed.push(status);
            }
        }
        Ok(())
    }
}

impl Outcome {
    fn of(
        story: &Story,
        requests: usize,
        status: Option<i32>,
        answered: bool,
        left: Vec<i32>,
    ) -> Outcome {
        Outcome {
            requests,
            signals: story.rests(server::GOT),
            status,
            panicked: story.said(server::PANIC),
            answered,
            left,
        }
    }

    /// Without the fault this demonstration would show nothing.
    fn fault_missing(&self) -> Vec<String> {
        let shown = self.panicked && self.status == Some(2) && !self.left.is_empty();
        match shown {
            true => Vec::new(),
            false => vec!["the server did not show its fault without superd".to_owned()],
        }
    }

    /// What is not as superd promises.
    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut demand = |kept: bool, text: String| {
            if !kept {
                broken.push(text);
            }
        };
        demand(
            self.signals == ["TERM"],
            format!("the server got {} instead of one TERM", list(&self.signals)),
        );
        demand(!self.panicked, "the server panicked".to_owned());
        demand(
            self.status == Some(0),
            format!("the server ended with {}", status(self.status)),
        );
        demand(self.answered, "the open request was cut off".to_owned());
        demand(
            self.left.is_empty(),
            format!("{} processes were left", self.left.len()),
        );
        broken
    }
}

impl Supervision {
    fn tell(&self) {
        let EndReport {
            absorbed,
            verdict,
            left,
            ..
        } = *self.report;
        tell(&format!(
            "\nsuperd made one stop of it, in {}: one request began it, {absorbed} were absorbed{}",
            Span(self.took),
            match self.merged() {
                0 => ".",
                _ => ",",
            }
        ));
        if self.merged() > 0 {
            tell(&format!(
                "{} the kernel merged with an equal signal on its way (signal(7)).",
                self.merged()
            ));
        }
        if self.late > 0 {
            tell(&format!("{} came when superd had ended.", self.late));
        }
        tell(&format!("Its verdict: {verdict} ({left})."));
    }

    /// Signals that never reached superd: the same one was pending already.
    fn merged(&self) -> usize {
        let known = 1 + self.absorbed() + self.late;
        self.requests.saturating_sub(known)
    }

    fn absorbed(&self) -> usize {
        usize::try_from(self.report.absorbed).unwrap_or(usize::MAX)
    }

    /// What is not as superd promises.
    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut demand = |kept: bool, text: String| {
            if !kept {
                broken.push(text);
            }
        };
        demand(
            self.superd == Some(0),
            format!("superd ended with {}", status(self.superd)),
        );
        demand(
            self.requests == REQUESTS,
            format!("superd ended after {} requests", self.requests),
        );
        let failed = self.failed.len() - self.late;
        demand(
            failed == 0,
            format!("{failed} superctl failed: {:?}", self.failed),
        );
        demand(
            self.report.steps.len() == 1,
            format!("superd took {} steps", self.report.steps.len()),
        );
        demand(
            self.report.verdict == Verdict::LeftChildren && self.report.left == 1,
            format!("superd's verdict is {}", self.report.verdict),
        );
        // No request of superctl's is lost, and none is counted twice.
        let least = self.superctl.saturating_sub(self.late + 1);
        demand(
            (least..self.requests).contains(&self.absorbed()),
            format!("superd absorbed {} requests", self.absorbed()),
        );
        broken
    }
}

/// `TERM, INT`, or `nothing`.
fn list(signals: &[String]) -> String {
    match signals {
        [] => "nothing".to_owned(),
        some => some.join(", "),
    }
}

fn status(status: Option<i32>) -> String {
    match status {
        Some(n) => format!("status {n}"),
        None => "a signal".to_owned(),
    }
}

fn compare(without: &Outcome, with: &Outcome) {
    let row = |name: &str, without: String, with: String| {
        tell(&format!("{name:<28}{without:<20}{with}"));
    };
    let each = |name: &str, of: fn(&Outcome) -> String| row(name, of(without), of(with));
    tell("");
    row("", "without superd".to_owned(), "with superd".to_owned());
    each("requests to stop", |o| o.requests.to_string());
    each("signals to the server", |o| list(&o.signals));
    each("end of the server", |o| match o.panicked {
        true => format!("{}, panic", status(o.status)),
        false => status(o.status),
    });
    each("the request that was open", |o| match o.answered {
        true => "answered".to_owned(),
        false => "cut off".to_owned(),
    });
    each("processes left behind", |o| o.left.len().to_string());
}
