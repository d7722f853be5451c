//! Commands that look: status, logs, why, crashes, events, plan, doctor. Streams are printed as
//! they come, tables when they are complete.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::control::crash::{CrashLine, CrashReport};
use crate::control::reply::{Code, EventLine, Finding, LogLine, Node, PlanLine, Reply, Status};
use crate::control::request::{Request, Verb};

use super::act::json_line;
use super::converse::Hear;
use super::render::{self, crash, graph, result, status, story, Style};
use super::talk::{Incoming, Trouble};
use super::{action_code, lsb, PROGRAM};

/// The most lines of an answer that is shown as a whole. What says more than this is
/// not superd, and must not eat the router's memory.
const LINES_CAP: usize = 10_000;
/// The same in bytes, as they travelled.
const BYTES_CAP: usize = 16 * 1024 * 1024;

/// Gathers or prints what superd tells.
pub struct Looking<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    style: Style,
    json: bool,
    /// The exit status so far.
    pub exit: i32,
    states: Vec<Status>,
    events: Vec<EventLine>,
    plan: Vec<PlanLine>,
    nodes: Vec<Node>,
    /// Of `doctor`.
    pub findings: Vec<Finding>,
    crashes: Vec<CrashLine>,
    reports: Vec<CrashReport>,
    lines: usize,
    bytes: usize,
    /// When [`Style::now`] was.
    began: Instant,
    /// Of the lines of output.
    pub only: Only,
}

/// Which lines of output are shown.
#[derive(Default)]
pub struct Only {
    /// Not older than this when superd is asked.
    since: Option<Duration>,
    grep: Option<String>,
}

impl Only {
    /// As it was typed.
    pub fn new(since: Option<Duration>, grep: Option<String>) -> Only {
        Only { since, grep }
    }

    /// Nothing is left out.
    pub fn is_all(&self) -> bool {
        self.since.is_none() && self.grep.is_none()
    }

    /// `waited`: since superd was asked. By that much a line is older in its answer.
    fn shows(&self, line: &LogLine, waited: Duration) -> bool {
        let is_old =
            |since: Duration| Duration::from_millis(line.ago_ms) > since.saturating_add(waited);
        let has_text = |text: &String| line.text.contains(text.as_str());
        !self.since.is_some_and(is_old) && self.grep.as_ref().is_none_or(has_text)
    }
}

impl<'a> Looking<'a> {
    /// Nothing heard yet.
    pub fn new(
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
        style: Style,
        json: bool,
    ) -> Looking<'a> {
        Looking {
            out,
            err,
            style,
            json,
            exit: 0,
            states: Vec::new(),
            events: Vec::new(),
            plan: Vec::new(),
            nodes: Vec::new(),
            findings: Vec::new(),
            crashes: Vec::new(),
            reports: Vec::new(),
            lines: 0,
            bytes: 0,
            began: Instant::now(),
            only: Only::default(),
        }
    }

    /// `status`: what LSB says about the states, and the table. `names` as asked.
    pub fn finish_status(&mut self, names: &[String]) -> io::Result<()> {
        for s in &self.states {
            let code = lsb::of_state(&s.state);
            // Nobody asked about this one: that it is stopped on purpose is as it should be.
            let harmless = names.is_empty() && code == lsb::STOPPED;
            if !harmless {
                self.exit = lsb::worse(self.exit, code);
            }
        }
        if self.json {
            return Ok(());
        }
        let text = match (names, self.states.as_slice()) {
            ([_], [one]) => status::one(one, self.style),
            // There was no answer, and that has been said.
            ([], []) if self.exit != 0 => return Ok(()),
            ([], states) => status::all(states, self.style),
            (_, []) => return Ok(()),
            (_, states) => status::all(states, self.style),
        };
        self.out.write_all(text.as_bytes())
    }

    /// `why`: the story, if there was an answer.
    pub fn finish_why(&mut self, name: &str) -> io::Result<()> {
        if self.json || self.exit != 0 {
            return Ok(());
        }
        let text = story::why(name, &self.events, self.style);
        self.out.write_all(text.as_bytes())?;
        for report in &self.reports {
            let text = crash::report(report, self.style);
            self.out.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    /// `crashes`: the list, if there was an answer.
    pub fn finish_crashes(&mut self, name: Option<&str>) -> io::Result<()> {
        if self.json || self.exit != 0 {
            return Ok(());
        }
        let text = crash::list(name, &self.crashes, self.style);
        self.out.write_all(text.as_bytes())
    }

    /// `graph`: a table, or the language of graphviz.
    pub fn finish_graph(&mut self, dot: bool) -> io::Result<()> {
        if self.json || self.exit != 0 {
            return Ok(());
        }
        let text = match dot {
            true => graph::dot(&self.nodes),
            false => graph::table(&self.nodes, self.style),
        };
        self.out.write_all(text.as_bytes())
    }

    /// `plan`: all of it, or only the longest stop in seconds.
    pub fn finish_plan(&mut self, only_seconds: bool, json: bool) -> io::Result<()> {
        if self.exit != 0 || self.json {
            return Ok(());
        }
        if !only_seconds {
            let text = status::plan(&self.plan, self.style);
            return self.out.write_all(text.as_bytes());
        }
        match status::longest_seconds(&self.plan) {
            Some(seconds) => status::seconds(self.out, seconds, json, self.style),
            None => {
                self.exit = 1;
                writeln!(self.err, "{PROGRAM}: superd did not say how long it takes")
            }
        }
    }

    fn error(&mut self, asked: &Request, reply: &Reply) {
        let code = reply.code.unwrap_or(Code::Failed);
        if asked.verb == Verb::Status {
            self.exit = lsb::UNKNOWN;
        } else {
            self.exit = self.exit.max(action_code(code));
        }
        if !self.json {
            render::complain(self.err, PROGRAM, &result::failed(asked, reply));
        }
    }
}

impl Hear for Looking<'_> {
    fn heard(&mut self, asked: &Request, got: &Incoming) -> Result<(), Trouble> {
        let reply = &got.reply;
        let waited = self.began.elapsed();
        if (reply.line.as_ref()).is_some_and(|line| !self.only.shows(line, waited)) {
            return Ok(());
        }
        if self.json {
            json_line(self.out, &got.raw, self.style)?;
        }
        if !reply.ok {
            self.error(asked, reply);
            return Ok(());
        }
        let streams = matches!(asked.verb, Verb::Logs | Verb::Events);
        if !streams {
            self.lines += 1;
            self.bytes += got.raw.len();
            if self.lines > LINES_CAP || self.bytes > BYTES_CAP {
                return Err(Trouble::Garbage("the answer does not end".to_owned()));
            }
        }
        if let Some(status) = &reply.status {
            self.states.push((**status).clone());
        }
        if let Some(plan) = &reply.plan {
            self.plan.push(plan.clone());
        }
        if let Some(node) = &reply.node {
            self.nodes.push((**node).clone());
        }
        if let Some(finding) = &reply.finding {
            self.findings.push(finding.clone());
        }
        if let Some(crash) = &reply.crash {
            self.crashes.push((**crash).clone());
        }
        if let Some(report) = &reply.report {
            self.reports.push((**report).clone());
        }
        if let Some(event) = &reply.event {
            if !streams {
                self.events.push((**event).clone());
            } else if !self.json {
                let text = story::event(event, self.style.after(waited));
                self.out.write_all(text.as_bytes())?;
            }
        }
        if let (Some(line), false) = (&reply.line, self.json) {
            let text = story::log_line(line, self.style.after(waited));
            self.out.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    fn pause(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
