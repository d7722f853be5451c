//! From requests to events and answers: what each verb of the protocol means. Verbs that only
//! look are answered in [`tell`].

mod tell;

use std::fmt::Write as _;
use std::rc::Rc;

use super::clients::{ClientEvent, Peer};
use super::reactor::Reactor;
use crate::control::reply::{Code, Reply};
use crate::control::request::{Request, Verb};
use crate::latch::Bit;
use crate::machine::event::{self, Answer, Event, ServiceId, Target, Ticket, Wait};
use crate::machine::report::Verdict;
use crate::machine::time::Span;

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
