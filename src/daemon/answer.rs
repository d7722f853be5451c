//! From requests to events and answers: what each verb of the protocol means.
//!
//! Longer than a file should be: a verb each.

use std::rc::Rc;

use std::fmt::Write as _;

use super::clients::{ClientEvent, Peer, Stream};
use super::reactor::Reactor;
use super::status;
use crate::config::faults;
use crate::control::reply::{Code, LogLine, PlanLine, Reply};
use crate::control::request::{Request, Verb};
use crate::latch::Bit;
use crate::machine::event::{self, Answer, Event, ServiceId, Target, Ticket, Wait};
use crate::machine::report::{Crash, Verdict};
use crate::machine::time::{Span, Tick};

/// Lines of output or history that are sent when the client does not say how many.
const LINES: u32 = 20;

/// Crash reports that are sent at once: some 20 KiB each.
const REPORTS_MOST: usize = 20;

/// The most that is sent at once, whatever the client says.
const LINES_MOST: u32 = 10_000;

impl Reactor {
    /// A client says something, or is gone.
    pub(super) fn hear_client(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Request {
                ticket,
                request,
                peer,
            } => {
                self.hear_request(ticket, &request, &peer);
            }
            ClientEvent::Gone(client) => {
                self.awaiting_end.retain(|ticket| ticket.client != client);
                self.upgrade.client_gone(client);
                self.feed(Event::ClientGone(client));
            }
            ClientEvent::Trouble { peer, what, more } => {
                let mut text = format!("control: {} {what}", peer.origin());
                if more > 0 {
                    write!(text, " ({more} more of the kind)").ok(); // a String takes everything
                }
                self.say(syslog::Severity::LOG_WARNING, &text);
            }
            ClientEvent::Refused { peer, verb, more } => {
                let mut text = format!("control: refused {}", peer.origin());
                match verb {
                    Some(verb) => write!(text, ": may only look, asked for {}", verb_word(verb)),
                    None => write!(text, ": not a member of control-group or status-group"),
                }
                .ok(); // a String takes everything
                if more > 0 {
                    write!(text, " ({more} more refusals)").ok();
                }
                self.say(syslog::Severity::LOG_WARNING, &text);
            }
        }
    }

    fn hear_request(&mut self, ticket: Ticket, request: &Request, peer: &Peer) {
        match request.verb {
            Verb::Start
            | Verb::Stop
            | Verb::Restart
            | Verb::Signal
            | Verb::Drain
            | Verb::Undrain => {
                self.act(ticket, request, peer);
            }
            Verb::Reload if request.service.is_some() => self.act(ticket, request, peer),
            Verb::Reload => self.reload_by(ticket, peer),
            Verb::Shutdown => self.shutdown_by(ticket, request, peer),
            Verb::Upgrade => self.upgrade_by(ticket, request.if_changed, peer.origin()),
            Verb::Status => self.tell_status(ticket, request),
            Verb::Logs => self.tell_logs(ticket, request),
            Verb::Why => self.tell_why(ticket, request),
            Verb::Crashes => self.tell_crashes(ticket, request),
            Verb::Events => self.tell_events(ticket, request),
            Verb::Plan => self.tell_plan(ticket),
            Verb::Graph => self.tell_graph(ticket),
            Verb::Doctor => self.tell_doctor(ticket),
        }
    }

    fn act(&mut self, ticket: Ticket, request: &Request, peer: &Peer) {
        let target = match (&request.service, request.all) {
            (None, true) if request.verb != Verb::Signal => Target::All,
            (Some(name), false) => match self.find_or_make(ticket, request.verb, name, peer) {
                Some(id) => Target::One(id),
                None => return,
            },
            _ => {
                let text = "say which service (or, for start, stop and restart, all of them)";
                self.reply(ticket, Reply::error(0, Code::BadRequest, text));
                return;
            }
        };
        let verb = match (request.verb, request.now) {
            (Verb::Start, _) => event::Verb::Start,
            (Verb::Stop, false) => event::Verb::Stop,
            (Verb::Stop, true) => event::Verb::StopNow,
            (Verb::Restart, false) => event::Verb::Restart,
            (Verb::Restart, true) => event::Verb::RestartNow,
            (Verb::Reload, _) => event::Verb::Reload,
            (Verb::Drain, _) => event::Verb::Drain,
            (Verb::Undrain, _) => event::Verb::Undrain,
            (Verb::Signal, _) => {
                let parsed = request.signal.as_deref().unwrap_or("").parse();
                match parsed {
                    Ok(signal) => event::Verb::Signal(signal),
                    Err(why) => {
                        self.reply(ticket, Reply::error(0, Code::BadRequest, why));
                        return;
                    }
                }
            }
            (
                Verb::Status
                | Verb::Logs
                | Verb::Why
                | Verb::Crashes
                | Verb::Events
                | Verb::Plan
                | Verb::Graph
                | Verb::Doctor
                | Verb::Shutdown
                | Verb::Upgrade,
                _,
            ) => return,
        };
        // STOPPING=1 of a service that is being stopped behind our back may wait in the
        // socket: it comes first.
        self.hear_notices();
        let wait = match request.wait {
            true => Wait::Done,
            false => Wait::No,
        };
        let by = peer.origin();
        self.feed(Event::Request {
            ticket: Some(ticket),
            target,
            verb,
            wait,
            by,
        });
    }

    /// The service of this name; the client is told if there is none.
    fn find(&mut self, ticket: Ticket, name: &str) -> Option<ServiceId> {
        let id = self.registry.id(name);
        if id.is_none() {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            let text = match self.registry.nearest(&shown) {
                _ if self.registry.templates().has(name) => format!(
                    "\"{shown}\" is a template and no service: name an instance of it, like {shown}1"
                ),
                _ if self.registry.templates().make(name) => {
                    format!("no service \"{shown}\" (superctl start makes it from its template)")
                }
                Some(near) => format!("no service \"{shown}\" (did you mean \"{near}\"?)"),
                None => format!("no service \"{shown}\""),
            };
            self.reply(ticket, Reply::error(0, Code::UnknownService, text));
        }
        id
    }

    /// The service of this name; an instance of a template is made for a start, and need not be
    /// there to be stopped.
    fn find_or_make(
        &mut self,
        ticket: Ticket,
        verb: Verb,
        name: &str,
        peer: &Peer,
    ) -> Option<ServiceId> {
        let is_there = self.registry.id(name).is_some();
        match verb {
            Verb::Start | Verb::Restart => {
                if let Err((code, text)) = self.make_instance(name, peer.origin()) {
                    self.reply(ticket, Reply::error(0, code, text));
                    return None;
                }
            }
            Verb::Stop if !is_there && self.registry.templates().make(name) => {
                self.answer(ticket, Answer::Already);
                return None;
            }
            _ => {}
        }
        self.find(ticket, name)
    }

    /// The service that the request names, or all; the client is told if there is none.
    fn asked_about(&mut self, ticket: Ticket, request: &Request) -> Option<Vec<ServiceId>> {
        match &request.service {
            Some(name) => Some(vec![self.find(ticket, name)?]),
            None => Some(self.sorted_ids()),
        }
    }

    fn reload_by(&mut self, ticket: Ticket, peer: &Peer) {
        let reply = match self.reload(&peer.origin()) {
            Ok(text) => Reply {
                message: text,
                ..Reply::ok(0)
            },
            Err(text) => Reply::error(0, Code::Failed, text),
        };
        self.reply(ticket, reply);
    }

    fn shutdown_by(&mut self, ticket: Ticket, request: &Request, peer: &Peer) {
        if request.leave_running {
            return self.leave(ticket, request, peer);
        }
        self.note_asked(Bit::Stop);
        if request.now {
            self.note_asked(Bit::Force);
        }
        match request.wait {
            true => self.awaiting_end.push(ticket),
            false => self.reply(ticket, Reply::ok(0)),
        }
        self.begin_shutdown(request.now, Some(peer.origin()));
    }

    /// superd ends, its services do not: the next superd adopts them.
    fn leave(&mut self, ticket: Ticket, request: &Request, peer: &Peer) {
        self.remember();
        let why_not = match &self.journal {
            _ if request.now => Some("either --now or --leave-running"),
            _ if self.machine.is_shutting_down() => Some("superd stops its services already"),
            Some(journal) if journal.failing().is_none() => None,
            Some(_) | None => Some("the journal cannot be written: nobody could take over"),
        };
        if let Some(text) = why_not {
            return self.reply(ticket, Reply::error(0, Code::Refused, text));
        }
        let text = format!("ending without its services: {} asked", peer.origin());
        self.say(syslog::Severity::LOG_NOTICE, &text);
        self.leaving = true;
        match request.wait {
            true => self.awaiting_end.push(ticket),
            false => self.reply(ticket, Reply::ok(0)),
        }
        self.finish();
    }

    fn tell_status(&mut self, ticket: Ticket, request: &Request) {
        let now = self.now();
        let Some(ids) = self.asked_about(ticket, request) else {
            return;
        };
        self.trees.hold_look();
        for id in ids {
            if let Some(line) = self.status_line(id, now) {
                let reply = Reply {
                    more: true,
                    status: Some(Box::new(line)),
                    ..Reply::ok(0)
                };
                self.reply(ticket, reply);
            }
        }
        self.trees.release_look();
        self.reply(ticket, Reply::ok(0));
    }

    /// One service's status.
    pub(super) fn status_line(
        &mut self,
        id: ServiceId,
        now: Tick,
    ) -> Option<crate::control::reply::Status> {
        let Reactor { machine, trees, .. } = self;
        let mut status = status::status(machine, id, now, || trees.usage(id))?;
        if status.connections.is_none() {
            status.connections = self.drains.watched(&mut self.trees, id);
        }
        Some(status)
    }

    /// Every service, by name.
    pub(super) fn sorted_ids(&self) -> Vec<ServiceId> {
        let mut all: Vec<(&str, ServiceId)> = self
            .machine
            .services()
            .map(|s| (&*s.spec.name, s.id))
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    fn tell_graph(&mut self, ticket: Ticket) {
        for node in status::graph(&self.machine) {
            let reply = Reply {
                more: true,
                node: Some(Box::new(node)),
                ..Reply::ok(0)
            };
            self.reply(ticket, reply);
        }
        self.reply(ticket, Reply::ok(0));
    }

    fn tell_logs(&mut self, ticket: Ticket, request: &Request) {
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
            self.reply(
                ticket,
                Reply {
                    more: true,
                    line: Some(line),
                    ..Reply::ok(0)
                },
            );
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

    fn tell_why(&mut self, ticket: Ticket, request: &Request) {
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
            let reply = Reply {
                more: true,
                event: Some(Box::new(event)),
                ..Reply::ok(0)
            };
            self.reply(ticket, reply);
        }
        if request.all {
            for mut report in self.crashes.reports(&name, REPORTS_MOST) {
                self.explain(&report.crash, &mut report.known);
                let reply = Reply {
                    more: true,
                    report: Some(Box::new(report)),
                    ..Reply::ok(0)
                };
                self.reply(ticket, reply);
            }
        }
        if let Some(line) = self.status_line(id, now) {
            let reply = Reply {
                more: true,
                status: Some(Box::new(line)),
                ..Reply::ok(0)
            };
            self.reply(ticket, reply);
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
    fn tell_crashes(&mut self, ticket: Ticket, request: &Request) {
        let lines = self.crashes.list(request.service.as_deref());
        if let (Some(name), true) = (&request.service, lines.is_empty()) {
            if self.find(ticket, name).is_none() {
                return;
            }
        }
        for mut line in lines {
            self.explain(&line.crash, &mut line.known);
            let reply = Reply {
                more: true,
                crash: Some(Box::new(line)),
                ..Reply::ok(0)
            };
            self.reply(ticket, reply);
        }
        self.reply(ticket, Reply::ok(0));
    }

    fn tell_events(&mut self, ticket: Ticket, request: &Request) {
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
            let reply = Reply {
                more: true,
                event: Some(Box::new(event)),
                ..Reply::ok(0)
            };
            self.reply(ticket, reply);
        }
        self.end_or_follow(ticket, request, Stream::Events, &ids);
    }

    fn tell_plan(&mut self, ticket: Ticket) {
        for line in PlanLine::all(&self.registry.plan()) {
            self.reply(
                ticket,
                Reply {
                    more: true,
                    plan: Some(line),
                    ..Reply::ok(0)
                },
            );
        }
        self.reply(ticket, Reply::ok(0));
    }

    fn tell_doctor(&mut self, ticket: Ticket) {
        for finding in self.findings() {
            self.reply(
                ticket,
                Reply {
                    more: true,
                    finding: Some(finding),
                    ..Reply::ok(0)
                },
            );
        }
        self.reply(ticket, Reply::ok(0));
    }

    /// The machine's answer, in the words of the protocol.
    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.reply(ticket, words(answer));
    }

    /// Sends a line, if there are clients at all.
    pub(super) fn reply(&mut self, ticket: Ticket, reply: Reply) {
        if let Some(clients) = &mut self.clients {
            clients.reply(ticket, reply);
        }
    }
}

fn log_line(service: &str, ago: std::time::Duration, text: String) -> LogLine {
    LogLine {
        service: service.to_owned(),
        ago_ms: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX),
        text,
    }
}

/// So many services are named in the answer to a request about all.
const NAMED: usize = 10;

fn some_names(of: &[Rc<str>]) -> String {
    let named: Vec<&str> = of.iter().take(NAMED).map(|n| &**n).collect();
    match of.len().checked_sub(NAMED) {
        None | Some(0) => named.join(", "),
        Some(more) => format!("{} and {more} more", named.join(", ")),
    }
}

fn words(answer: Answer) -> Reply {
    match answer {
        Answer::Done(None) => Reply::ok(0),
        Answer::Finished => Reply {
            message: "done".to_owned(),
            ..Reply::ok(0)
        },
        Answer::Along { finished, names } => {
            let now = match finished {
                true => "done",
                false => "up",
            };
            let are = match names.len() {
                1 => "is",
                _ => "are",
            };
            Reply {
                message: format!("{now}; {} {are} restarted with it", some_names(&names)),
                ..Reply::ok(0)
            }
        }
        Answer::Done(Some(verdict)) => Reply {
            verdict: Some(verdict),
            message: match verdict {
                Verdict::Clean => String::new(),
                other => format!("stopped, {other}"),
            },
            ..Reply::ok(0)
        },
        Answer::Already => Reply {
            message: "nothing to do".to_owned(),
            ..Reply::ok(0)
        },
        Answer::Accepted { joined, left } => Reply {
            joined,
            left_ms: left.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            message: match (joined, left) {
                (true, Some(left)) => {
                    format!("a stop is under way already, at most {} more", Span(left))
                }
                (false, Some(left)) => format!("at most {}", Span(left)),
                (_, None) => String::new(),
            },
            ..Reply::ok(0)
        },
        Answer::Failed(why) => Reply::error(0, Code::Failed, why),
        Answer::Refused(why) => Reply::error(0, Code::Refused, why),
        Answer::Worst(of, answer) => {
            let mut reply = words(*answer);
            if !reply.message.is_empty() {
                reply.message = format!("{}: {}", some_names(&of), reply.message);
            }
            reply
        }
    }
}

fn verb_word(verb: Verb) -> &'static str {
    match verb {
        Verb::Status => "status",
        Verb::Start => "start",
        Verb::Stop => "stop",
        Verb::Restart => "restart",
        Verb::Reload => "reload",
        Verb::Signal => "signal",
        Verb::Drain => "drain",
        Verb::Undrain => "undrain",
        Verb::Logs => "logs",
        Verb::Why => "why",
        Verb::Crashes => "crashes",
        Verb::Events => "events",
        Verb::Plan => "plan",
        Verb::Graph => "graph",
        Verb::Doctor => "doctor",
        Verb::Shutdown => "shutdown",
        Verb::Upgrade => "upgrade",
    }
}
