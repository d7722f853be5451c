//! What is told of services: status, output, history, crash reports, plan, graph, findings.

use std::time::Duration;

use crate::config::faults;
use crate::control::reply::{Code, LogLine, PlanLine, Reply, Status};
use crate::control::request::Request;
use crate::daemon::clients::Stream;
use crate::daemon::reactor::Reactor;
use crate::daemon::status;
use crate::machine::event::{ServiceId, Ticket};
use crate::machine::report::Crash;
use crate::machine::time::Tick;

/// Lines of output or history that are sent when the client does not say how many.
const LINES: u32 = 20;

/// Crash reports that are sent at once: some 20 KiB each.
const REPORTS_MOST: usize = 20;

/// The most that is sent at once, whatever the client says.
const LINES_MOST: u32 = 10_000;

impl Reactor {
    pub(super) fn tell_status(&mut self, ticket: Ticket, request: &Request) {
        let now = self.now();
        let Some(ids) = self.asked_about(ticket, request) else {
            return;
        };
        self.trees.hold_look();
        for id in ids {
            if let Some(line) = self.status_line(id, now) {
                let part = Reply {
                    status: Some(Box::new(line)),
                    ..Reply::ok(0)
                };
                self.reply_part(ticket, part);
            }
        }
        self.trees.release_look();
        self.reply(ticket, Reply::ok(0));
    }

    /// One service's status.
    pub(in crate::daemon) fn status_line(&mut self, id: ServiceId, now: Tick) -> Option<Status> {
        let Reactor { machine, trees, .. } = self;
        let mut status = status::status(machine, id, now, || trees.usage(id))?;
        if status.connections.is_none() {
            status.connections = self.drains.watched(&mut self.trees, id);
        }
        Some(status)
    }

    /// Every service, by name.
    pub(in crate::daemon) fn sorted_ids(&self) -> Vec<ServiceId> {
        let mut all: Vec<(&str, ServiceId)> = self
            .machine
            .services()
            .map(|s| (&*s.spec.name, s.id))
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    pub(super) fn tell_graph(&mut self, ticket: Ticket) {
        for node in status::graph(&self.machine) {
            let part = Reply {
                node: Some(Box::new(node)),
                ..Reply::ok(0)
            };
            self.reply_part(ticket, part);
        }
        self.reply(ticket, Reply::ok(0));
    }

    pub(super) fn tell_logs(&mut self, ticket: Ticket, request: &Request) {
        let Some(ids) = self.asked_about(ticket, request) else {
            return;
        };
        self.hear_all_output();
        let now = self.now(); // not before the last line
        let n = request.lines.unwrap_or(LINES).min(LINES_MOST) as usize;
        let mut lines: Vec<(Tick, ServiceId, String)> = Vec::new();
        for id in &ids {
            let tail = self.logs.tail(*id, n);
            lines.extend(tail.into_iter().map(|(at, text)| (at, *id, text)));
        }
        lines.sort_by_key(|(at, _, _)| *at);
        let skip = lines.len().saturating_sub(n);
        for (at, id, text) in lines.into_iter().skip(skip) {
            let line = log_line(&self.registry.name(id), now - at, text);
            let part = Reply {
                line: Some(line),
                ..Reply::ok(0)
            };
            self.reply_part(ticket, part);
        }
        self.end_or_follow(ticket, request, Stream::Logs, &ids);
    }

    fn end_or_follow(
        &mut self,
        ticket: Ticket,
        request: &Request,
        stream: Stream,
        ids: &[ServiceId],
    ) {
        let one = match (&request.service, ids) {
            (Some(_), [id]) => Some(*id),
            _ => None,
        };
        match (&mut self.clients, request.follow) {
            (Some(clients), true) => clients.subscribe(ticket, stream, one),
            (Some(_), false) => self.reply(ticket, Reply::ok(0)),
            (None, _) => {}
        }
    }

    pub(super) fn tell_why(&mut self, ticket: Ticket, request: &Request) {
        let Some(name) = &request.service else {
            let text = "say which service";
            self.reply(ticket, Reply::error(0, Code::BadRequest, text));
            return;
        };
        let Some(id) = self.find(ticket, name) else {
            return;
        };
        let now = self.now();
        let usual = if request.all { LINES_MOST } else { LINES };
        let n = request.lines.unwrap_or(usual).min(LINES_MOST) as usize;
        let name = name.clone();
        for event in self.history.events(id, &self.registry.name(id), now, n) {
            let part = Reply {
                event: Some(Box::new(event)),
                ..Reply::ok(0)
            };
            self.reply_part(ticket, part);
        }
        if request.all {
            for mut report in self.crashes.reports(&name, REPORTS_MOST) {
                self.explain(&report.crash, &mut report.known);
                let part = Reply {
                    report: Some(Box::new(report)),
                    ..Reply::ok(0)
                };
                self.reply_part(ticket, part);
            }
        }
        if let Some(line) = self.status_line(id, now) {
            let part = Reply {
                status: Some(Box::new(line)),
                ..Reply::ok(0)
            };
            self.reply_part(ticket, part);
        }
        self.reply(ticket, Reply::ok(0));
    }

    /// What is known today: the file may have come, or grown, since it happened.
    fn explain(&self, crash: &Crash, known: &mut String) {
        if let Some(fault) = faults::find(&self.faults, crash) {
            *known = fault.sentence();
        }
    }

    /// Also of a service that is no longer configured, as long as its reports are there.
    pub(super) fn tell_crashes(&mut self, ticket: Ticket, request: &Request) {
        let lines = self.crashes.list(request.service.as_deref());
        if let (Some(name), true) = (&request.service, lines.is_empty()) {
            if self.find(ticket, name).is_none() {
                return;
            }
        }
        for mut line in lines {
            self.explain(&line.crash, &mut line.known);
            let part = Reply {
                crash: Some(Box::new(line)),
                ..Reply::ok(0)
            };
            self.reply_part(ticket, part);
        }
        self.reply(ticket, Reply::ok(0));
    }

    pub(super) fn tell_events(&mut self, ticket: Ticket, request: &Request) {
        let now = self.now();
        let Some(ids) = self.asked_about(ticket, request) else {
            return;
        };
        let n = request.lines.unwrap_or(LINES).min(LINES_MOST) as usize;
        let mut events = Vec::new();
        for id in &ids {
            events.extend(self.history.events(*id, &self.registry.name(*id), now, n));
        }
        events.sort_by_key(|e| std::cmp::Reverse(e.ago_ms));
        let skip = events.len().saturating_sub(n);
        for event in events.into_iter().skip(skip) {
            let part = Reply {
                event: Some(Box::new(event)),
                ..Reply::ok(0)
            };
            self.reply_part(ticket, part);
        }
        self.end_or_follow(ticket, request, Stream::Events, &ids);
    }

    pub(super) fn tell_plan(&mut self, ticket: Ticket) {
        for line in PlanLine::all(&self.registry.plan()) {
            let part = Reply {
                plan: Some(line),
                ..Reply::ok(0)
            };
            self.reply_part(ticket, part);
        }
        self.reply(ticket, Reply::ok(0));
    }

    pub(super) fn tell_doctor(&mut self, ticket: Ticket) {
        for finding in self.findings() {
            let part = Reply {
                finding: Some(finding),
                ..Reply::ok(0)
            };
            self.reply_part(ticket, part);
        }
        self.reply(ticket, Reply::ok(0));
    }

    /// One of several parts of an answer; a reply by itself is the last.
    fn reply_part(&mut self, ticket: Ticket, mut part: Reply) {
        part.more = true;
        self.reply(ticket, part);
    }
}

fn log_line(service: &str, ago: Duration, text: String) -> LogLine {
    LogLine {
        service: service.to_owned(),
        ago_ms: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX),
        text,
    }
}
