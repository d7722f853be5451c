//! The commands of superctl: which requests each makes, how long they may take, and what
//! the outcome means. One [`Client`] does one command.
//!
//! A little long: a command each.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::control::findings::{finding, machine, CONFIGURATION};
use crate::control::reply::{Code, Reply};
use crate::control::request::{Request, Verb};
use crate::machine::time::Span;

use super::act::{json_reply, Acting};
use super::args::{self, Command, Ctl, PlanArgs, Which, WhichNow, DEFAULT_CONFIG, DEFAULT_SOCKET};
use super::converse::{converse, Patience, QUIET_POLL};
use super::look::{Looking, Only};
use super::render::{self, status, Style};
use super::talk::Trouble;
use super::{action_code, lsb, offline, Around, PROGRAM};

/// `S90superd` returns before superd listens, and `S95caddy` must not fail for that.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// A stop finds superd running or finds nothing to do; it only bridges a restart of superd.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// Whoever looks wants to know now.
const LOOK_PATIENCE: Duration = Duration::from_millis(300);
/// How long superd may be busy before that is an error.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);
/// How long `status` waits for the answer, unless `--timeout` says otherwise.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// The same for everything else that is not a stream and not an action.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// How often the progress on a terminal is brought up to date.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// One command of superctl.
pub struct Client<'a> {
    socket: PathBuf,
    timeout: Option<Duration>,
    began: Instant,
    style: Style,
    err_is_terminal: bool,
    json: bool,
    root: PathBuf,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

impl<'a> Client<'a> {
    /// Ready to do what `ctl` says.
    pub fn new(
        ctl: &Ctl,
        around: &Around,
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
    ) -> Client<'a> {
        let socket = ctl
            .socket
            .clone()
            .or_else(|| around.socket.clone().map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET));
        Client {
            socket,
            timeout: ctl.timeout,
            began: Instant::now(),
            style: Style::new(around.out_is_terminal),
            err_is_terminal: around.err_is_terminal,
            json: ctl.json,
            root: PathBuf::from(around.root.clone().unwrap_or_else(|| "/".into())),
            out,
            err,
        }
    }

    /// Does the command and returns the exit status.
    ///
    /// # Errors
    /// Standard output cannot be written to; everything else is told and in the status.
    pub fn command(&mut self, command: &Command) -> io::Result<i32> {
        let about = |verb, name: &str| Request {
            service: Some(name.to_owned()),
            ..Request::new(1, verb)
        };
        match command {
            Command::Status { names } => self.status(names),
            Command::Start(which) => self.act(action(Verb::Start, which, false)),
            Command::Stop(WhichNow { which, now }) => self.act(action(Verb::Stop, which, *now)),
            Command::Restart(WhichNow { which, now }) => {
                self.act(action(Verb::Restart, which, *now))
            }
            Command::Drain(which) => self.act(action(Verb::Drain, which, false)),
            Command::Undrain(which) => self.act(action(Verb::Undrain, which, false)),
            Command::Reload { name } => self.act(vec![Request {
                service: name.clone(),
                wait: true,
                ..Request::new(1, Verb::Reload)
            }]),
            Command::Signal { name, signal } => self.act(vec![Request {
                signal: Some(signal.to_string()),
                ..about(Verb::Signal, name)
            }]),
            Command::Shutdown {
                now,
                leave_running,
                no_wait,
            } => self.act(vec![Request {
                now: *now,
                leave_running: *leave_running,
                wait: !no_wait,
                ..Request::new(1, Verb::Shutdown)
            }]),
            Command::Upgrade { if_changed } => self.act(vec![Request {
                wait: true,
                if_changed: *if_changed,
                ..Request::new(1, Verb::Upgrade)
            }]),
            Command::Logs {
                follow,
                lines,
                since,
                grep,
                name,
            } => {
                let only = Only::new(*since, grep.clone());
                // What is looked for may be anywhere in what superd has.
                let lines = lines.or((!only.is_all()).then_some(u32::MAX));
                let request = Request {
                    follow: *follow,
                    lines,
                    ..about(Verb::Logs, name)
                };
                self.look_for(only, request, |_| Ok(()))
            }
            Command::Events {
                follow,
                lines,
                name,
            } => self.look(
                Request {
                    service: name.clone(),
                    follow: *follow,
                    lines: *lines,
                    ..Request::new(1, Verb::Events)
                },
                |_| Ok(()),
            ),
            Command::Why { all, lines, name } => self.look(
                Request {
                    all: *all,
                    lines: *lines,
                    ..about(Verb::Why, name)
                },
                |looking| looking.finish_why(name),
            ),
            Command::Crashes { name } => self.look(
                Request {
                    service: name.clone(),
                    ..Request::new(1, Verb::Crashes)
                },
                |looking| looking.finish_crashes(name.as_deref()),
            ),
            Command::Graph { dot } => {
                self.look(Request::new(1, Verb::Graph), |l| l.finish_graph(*dot))
            }
            Command::Doctor { config } => self.doctor(config.as_deref()),
            Command::Plan(args) => self.plan(args),
            Command::Check(args) => offline::check(args, None, &mut self.offline()),
            Command::Version => {
                let text = format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
                if self.json {
                    let reply = Reply {
                        message: text,
                        ..Reply::ok(0)
                    };
                    json_reply(self.out, &reply, self.style)?;
                } else {
                    writeln!(self.out, "{text}")?;
                }
                Ok(0)
            }
        }
    }

    /// Writes out what is still buffered.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn offline(&mut self) -> offline::Output<'_> {
        offline::Output {
            program: PROGRAM,
            out: self.out,
            err: self.err,
            style: self.style,
            json: self.json,
        }
    }

    fn patience(&self, absent: Duration, busy: Duration, limit: Option<Duration>) -> Patience {
        let limit = self.timeout.or(limit);
        Patience {
            absent: self.began + absent,
            busy: self.began + busy,
            deadline: limit.and_then(|l| self.began.checked_add(l)),
            poll: None,
        }
    }

    /// Actions: all requests at once, each answer as soon as it is there.
    fn act(&mut self, requests: Vec<Request>) -> io::Result<i32> {
        let stops = requests
            .iter()
            .all(|r| matches!(r.verb, Verb::Stop | Verb::Shutdown));
        let absent = if stops { STOP_PATIENCE } else { START_PATIENCE };
        let waits = requests.iter().any(|r| r.wait);
        let limit = (!waits).then_some(LOOK_LIMIT);
        let mut patience = self.patience(absent, BUSY_PATIENCE, limit);
        let shows = self.err_is_terminal && !self.json;
        if waits {
            patience.poll = Some(if shows { PROGRESS_EVERY } else { QUIET_POLL });
        }
        let mut acting = Acting::new(self.out, self.err, self.style, self.json, shows);
        let outcome = converse(&self.socket, &requests, patience, &mut acting);
        acting.clear();
        let (status, last) = (acting.status, std::mem::take(&mut acting.last));
        match outcome {
            Ok(()) => {
                let ended = requests.iter().any(Request::awaits_end);
                if ended && status == 0 && !self.json {
                    writeln!(self.out, "superd: ended")?;
                }
                Ok(status)
            }
            Err((trouble, unanswered)) => {
                Ok(status.max(self.trouble(trouble, &unanswered, &last)?))
            }
        }
    }

    /// One question, and what to do when its answer is complete.
    fn look(
        &mut self,
        request: Request,
        finish: impl FnOnce(&mut Looking<'_>) -> io::Result<()>,
    ) -> io::Result<i32> {
        self.look_for(Only::default(), request, finish)
    }

    fn look_for(
        &mut self,
        only: Only,
        request: Request,
        finish: impl FnOnce(&mut Looking<'_>) -> io::Result<()>,
    ) -> io::Result<i32> {
        let limit = (!request.follow).then_some(LOOK_LIMIT);
        let patience = self.patience(LOOK_PATIENCE, BUSY_PATIENCE, limit);
        let requests = [request];
        let mut looking = Looking::new(self.out, self.err, self.style, self.json);
        looking.only = only;
        match converse(&self.socket, &requests, patience, &mut looking) {
            Ok(()) => {
                finish(&mut looking)?;
                Ok(looking.exit)
            }
            Err((trouble, unanswered)) => {
                let exit = looking.exit;
                Ok(exit.max(self.trouble(trouble, &unanswered, "")?))
            }
        }
    }

    fn status(&mut self, names: &[String]) -> io::Result<i32> {
        let mut requests: Vec<Request> = names
            .iter()
            .map(|name| Request {
                service: Some(name.clone()),
                ..Request::new(0, Verb::Status)
            })
            .collect();
        if requests.is_empty() {
            requests.push(Request::new(0, Verb::Status));
        }
        number(&mut requests);
        let patience = self.patience(LOOK_PATIENCE, LOOK_PATIENCE, Some(STATUS_LIMIT));
        let mut looking = Looking::new(self.out, self.err, self.style, self.json);
        match converse(&self.socket, &requests, patience, &mut looking) {
            Ok(()) => {
                looking.finish_status(names)?;
                Ok(looking.exit)
            }
            Err((trouble, unanswered)) => {
                self.trouble(trouble, &unanswered, "")?;
                Ok(lsb::UNKNOWN)
            }
        }
    }

    /// From superd; from the file when one is named or superd does not run.
    fn plan(&mut self, args: &PlanArgs) -> io::Result<i32> {
        if args.config.is_some() {
            return offline::plan(args, None, &mut self.offline());
        }
        let patience = self.patience(LOOK_PATIENCE, BUSY_PATIENCE, Some(LOOK_LIMIT));
        let requests = [Request::new(1, Verb::Plan)];
        let lines = self.json && !args.max_stop_seconds;
        let mut looking = Looking::new(self.out, self.err, self.style, lines);
        match converse(&self.socket, &requests, patience, &mut looking) {
            Ok(()) => {
                looking.finish_plan(args.max_stop_seconds, self.json)?;
                Ok(looking.exit)
            }
            Err((Trouble::NotRunning(_), _)) => {
                // Nobody reads the error output: the plan is the same.
                writeln!(
                    self.err,
                    "{PROGRAM}: superd is not running; this is the plan of {}",
                    args::DEFAULT_CONFIG
                )
                .ok();
                offline::plan(args, None, &mut self.offline())
            }
            Err((trouble, unanswered)) => self.trouble(trouble, &unanswered, ""),
        }
    }

    /// What superd has found, and what is found without it: most of all where it does not answer.
    fn doctor(&mut self, config: Option<&Path>) -> io::Result<i32> {
        let patience = self.patience(LOOK_PATIENCE, BUSY_PATIENCE, Some(LOOK_LIMIT));
        let requests = [Request::new(1, Verb::Doctor)];
        let mut looking = Looking::new(self.out, self.err, self.style, self.json);
        let outcome = converse(&self.socket, &requests, patience, &mut looking);
        let (mut found, mut exit) = (looking.findings, looking.exit);
        let mut own = Vec::new();
        let mut error = None;
        if found.is_empty() {
            own = machine(true);
        }
        if let Err((trouble, unanswered)) = outcome {
            let (code, text) = self.words(trouble, &unanswered, "")?;
            own.push(finding("superd", false, text.clone()));
            exit = exit.max(action_code(code));
            error = Some(Reply::error(1, code, text));
        }
        let told = found.iter().find(|f| f.what == CONFIGURATION);
        let told = told.map(|f| Path::new(&f.text));
        let config = match config.or(told.filter(|path| path.is_absolute())) {
            Some(path) => path.to_owned(),
            None => self.root.join(DEFAULT_CONFIG.trim_start_matches('/')),
        };
        own.extend(super::router::findings(&self.root, &config));
        if !self.json {
            found.extend(own);
            let text = status::doctor(&found, self.style);
            self.out.write_all(text.as_bytes())?;
            return Ok(exit);
        }
        let own = own.into_iter().map(|finding| Reply {
            finding: Some(finding),
            ..Reply::ok(0)
        });
        for reply in own.chain(error) {
            json_reply(self.out, &reply, self.style)?;
        }
        Ok(exit)
    }

    /// Says why there is no answer, once, and returns the exit status of an action.
    fn trouble(
        &mut self,
        trouble: Trouble,
        unanswered: &[&Request],
        progress: &str,
    ) -> io::Result<i32> {
        let (code, text) = self.words(trouble, unanswered, progress)?;
        if self.json {
            let id = match unanswered {
                [only] => only.id,
                _ => 0,
            };
            json_reply(self.out, &Reply::error(id, code, text), self.style)?;
        } else {
            render::complain(self.err, PROGRAM, &text);
        }
        Ok(action_code(code))
    }

    fn words(
        &self,
        trouble: Trouble,
        unanswered: &[&Request],
        progress: &str,
    ) -> io::Result<(Code, String)> {
        let socket = self.socket.display();
        Ok(match trouble {
            Trouble::Output(error) => return Err(error),
            Trouble::NotRunning(text) => (Code::NotRunning, text),
            Trouble::NotPermitted(text) => (Code::NotPermitted, text),
            Trouble::Busy(text) => (Code::Busy, text),
            Trouble::Failed(text) => (Code::Failed, text),
            Trouble::Silent => (
                Code::TimedOut,
                "superd does not answer; it is stuck or stopped".to_owned(),
            ),
            Trouble::Closed => (
                Code::Failed,
                "superd hung up before it had answered".to_owned(),
            ),
            Trouble::Garbage(why) => (
                Code::Failed,
                format!("what answers on {socket} is not superd: {why}"),
            ),
            Trouble::TimedOut => (Code::TimedOut, self.too_late(unanswered, progress)),
        })
    }

    fn too_late(&self, unanswered: &[&Request], progress: &str) -> String {
        let waited = Span(self.began.elapsed());
        let waits = unanswered.iter().any(|r| r.wait);
        if !waits {
            return format!("superd has not answered within {waited}");
        }
        let names: Vec<&str> = unanswered
            .iter()
            .filter_map(|r| r.service.as_deref())
            .collect();
        let who = match names.as_slice() {
            [] => String::new(),
            names => format!("{}: ", names.join(", ")),
        };
        match progress {
            "" => format!("{who}not done after {waited}; superd goes on with it"),
            last => format!("not done after {waited}; superd goes on with it ({last})"),
        }
    }
}

/// A request per service, or one for all of them.
fn action(verb: Verb, which: &Which, now: bool) -> Vec<Request> {
    let one = |service: Option<String>| Request {
        all: service.is_none(),
        service,
        now,
        wait: !which.no_wait,
        ..Request::new(0, verb)
    };
    let mut requests: Vec<Request> = match which.all {
        true => vec![one(None)],
        false => which.names.iter().cloned().map(Some).map(one).collect(),
    };
    number(&mut requests);
    requests
}

fn number(requests: &mut [Request]) {
    for (id, request) in (1..).zip(requests) {
        request.id = id;
    }
}
