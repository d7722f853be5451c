//! One conversation: requests go out at once, and every line that comes back is handed
//! to a [`Hear`]. Deadlines, "busy, try again" and the questions about the progress of
//! a wait are dealt with here; what a reply means to the user is not.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::control::reply::{Code, Reply, Status};
use crate::control::request::{Request, Verb};

use super::talk::{Connection, Incoming, Trouble};

/// Before a request that superd was too busy for is sent again.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// The numbers of the questions about progress start here, far from the requests'.
const FIRST_POLL_ID: u64 = 1 << 32;
/// Who waits for a stop asks now and then whether superd is still there at all ...
pub const QUIET_POLL: Duration = Duration::from_secs(5);
/// ... and believes that it hangs when it has said nothing for this long.
const SILENCE: Duration = Duration::from_secs(15);
/// How long a superd that has hung up may take to be gone, in milliseconds.
const EXIT_MS: u16 = 2000;
/// The most services of which the progress is kept. No router has so many.
const STATES_CAP: usize = 10_000;

/// Who listens to a conversation.
pub trait Hear {
    /// A line that answers `asked`. With `reply.more`, further ones follow.
    ///
    /// # Errors
    /// Standard output cannot be written to, or the line is one too many.
    fn heard(&mut self, asked: &Request, got: &Incoming) -> Result<(), Trouble>;

    /// The present states while `pending` are not answered yet.
    fn waiting(&mut self, _pending: &[&Request], _states: &[Status]) {}

    /// Nothing more to read for the moment: show what there is.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    fn pause(&mut self) -> io::Result<()>;
}

/// How patient a conversation is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until when to try again while nobody listens.
    pub absent: Instant,
    /// Until when to try again while superd is busy.
    pub busy: Instant,
    /// When it all must be over.
    pub deadline: Option<Instant>,
    /// How often to ask for the states while waiting; none: not at all.
    pub poll: Option<Duration>,
}

struct Pending<'a> {
    request: &'a Request,
    /// Sent, and not answered with "busy" since.
    sent: bool,
    /// A line of its answer has come.
    begun: bool,
}

/// Sends `requests` and listens until each has its last answer. Returns those that
/// have none, with the reason.
pub fn converse<'a>(
    path: &Path,
    requests: &'a [Request],
    patience: Patience,
    hear: &mut dyn Hear,
) -> Result<(), (Trouble, Vec<&'a Request>)> {
    let mut pending: Vec<Pending<'a>> = requests
        .iter()
        .map(|request| Pending {
            request,
            sent: false,
            begun: false,
        })
        .collect();
    let limit = |t: Instant| patience.deadline.map_or(t, |d| d.min(t));
    loop {
        let mut superd = None;
        let round =
            Connection::open(path, limit(patience.absent), patience.deadline).and_then(|conn| {
                if requests.iter().any(Request::awaits_end) {
                    superd = conn.superd();
                }
                Talk::new(conn, patience).until_answered(&mut pending, hear)
            });
        let trouble = match round {
            Ok(()) => return Ok(()),
            Err(trouble) => trouble,
        };
        let trouble = match trouble {
            // Whoever is turned away at the door was not heard: nothing was begun.
            Trouble::Busy(_) if Instant::now() < limit(patience.busy) => {
                std::thread::sleep(BUSY_PAUSE);
                pending.iter_mut().for_each(|p| p.sent = false);
                continue;
            }
            Trouble::Closed if is_over(path, &pending) => {
                // It has hung up: what is left of it is its exit.
                if let Some(superd) = superd {
                    superd.ends_within(EXIT_MS);
                }
                return Ok(());
            }
            other => other,
        };
        return Err((trouble, pending.iter().map(|p| p.request).collect()));
    }
}

/// Whether a hang-up is what was waited for: superd ends after `shutdown`, and a
/// stream that is followed ends with superd.
fn is_over(path: &Path, pending: &[Pending<'_>]) -> bool {
    pending.iter().all(|p| {
        p.request.follow
            || p.request.verb == Verb::Shutdown
                && (p.begun
                    || matches!(
                        Connection::open(path, Instant::now(), None),
                        Err(Trouble::NotRunning(_))
                    ))
    })
}

struct Talk {
    conn: Connection,
    patience: Patience,
    next_poll: Option<Instant>,
    /// The question about the progress that is not answered yet.
    polled: Option<Request>,
    poll_id: u64,
    states: Vec<Status>,
    last_heard: Instant,
}

impl Talk {
    fn new(conn: Connection, patience: Patience) -> Talk {
        let now = Instant::now();
        Talk {
            conn,
            patience,
            next_poll: patience.poll.map(|every| now + every),
            polled: None,
            poll_id: FIRST_POLL_ID,
            states: Vec::new(),
            last_heard: now,
        }
    }

    fn until_answered(
        &mut self,
        pending: &mut Vec<Pending<'_>>,
        hear: &mut dyn Hear,
    ) -> Result<(), Trouble> {
        let mut resend_at = None;
        self.send_unsent(pending)?;
        while !pending.is_empty() {
            let got = match self.conn.next_reply()? {
                Some(got) => Some(got),
                None => {
                    hear.pause()?;
                    let wake = [self.patience.deadline, self.next_poll, resend_at];
                    self.conn.receive(wake.into_iter().flatten().min())?
                }
            };
            let now = Instant::now();
            if let Some(got) = got {
                self.last_heard = now;
                if self.answer(&got, pending, hear)? {
                    resend_at = Some(now + BUSY_PAUSE);
                }
            }
            if pending.is_empty() {
                break;
            }
            if self.patience.deadline.is_some_and(|d| d <= now) {
                return Err(Trouble::TimedOut);
            }
            if resend_at.is_some_and(|t| t <= now) {
                resend_at = None;
                self.send_unsent(pending)?;
            }
            if self.next_poll.is_some_and(|t| t <= now) {
                self.poll(pending, now)?;
            }
        }
        hear.pause()?;
        Ok(())
    }

    fn send_unsent(&mut self, pending: &mut [Pending<'_>]) -> Result<(), Trouble> {
        let unsent: Vec<&Request> = pending
            .iter()
            .filter(|p| !p.sent)
            .map(|p| p.request)
            .collect();
        self.conn.send(&unsent)?;
        pending.iter_mut().for_each(|p| p.sent = true);
        Ok(())
    }

    /// Takes one line; `true`: a request is to be sent again later.
    fn answer(
        &mut self,
        got: &Incoming,
        pending: &mut Vec<Pending<'_>>,
        hear: &mut dyn Hear,
    ) -> Result<bool, Trouble> {
        let reply = &got.reply;
        if self.polled.as_ref().is_some_and(|p| p.id == reply.id) {
            self.progress(reply, pending, hear);
            return Ok(false);
        }
        if reply.id == 0 && !reply.ok {
            return Err(about_all(reply));
        }
        let Some(at) = pending.iter().position(|p| p.request.id == reply.id) else {
            return Ok(false);
        };
        let Some(asked) = pending.get_mut(at) else {
            return Ok(false);
        };
        let busy = reply.code == Some(Code::Busy) && !asked.begun;
        if busy && Instant::now() < self.patience.busy {
            asked.sent = false;
            return Ok(true);
        }
        asked.begun = true;
        let request = asked.request;
        // The answer to a shutdown that is waited for is that superd hangs up.
        let goes_on = reply.more || request.awaits_end() && reply.ok;
        if !goes_on {
            pending.remove(at);
        }
        hear.heard(request, got)?;
        Ok(false)
    }

    fn poll(&mut self, pending: &[Pending<'_>], now: Instant) -> Result<(), Trouble> {
        if self.polled.is_some() {
            if now.duration_since(self.last_heard) > SILENCE {
                return Err(Trouble::Silent);
            }
        } else {
            let mut request = Request::new(self.poll_id, Verb::Status);
            if let [only] = pending {
                request.service.clone_from(&only.request.service);
            }
            self.poll_id += 1;
            self.states.clear();
            self.conn.send(&[&request])?;
            self.polled = Some(request);
        }
        self.next_poll = self.patience.poll.map(|every| now + every);
        Ok(())
    }

    fn progress(&mut self, reply: &Reply, pending: &[Pending<'_>], hear: &mut dyn Hear) {
        if let Some(status) = &reply.status {
            if self.states.len() < STATES_CAP {
                self.states.push((**status).clone());
            }
        }
        if !reply.more {
            self.polled = None;
            let asked: Vec<&Request> = pending.iter().map(|p| p.request).collect();
            hear.waiting(&asked, &self.states);
        }
    }
}

/// An error that is not about one request but about the client as a whole.
fn about_all(reply: &Reply) -> Trouble {
    let said = |otherwise: &str| match reply.message.is_empty() {
        true => otherwise.to_owned(),
        false => reply.message.clone(),
    };
    match reply.code {
        Some(Code::Busy) => Trouble::Busy(said("superd has too many clients")),
        Some(Code::NotPermitted) => Trouble::NotPermitted(said("not permitted")),
        Some(
            Code::Failed
            | Code::BadRequest
            | Code::UnknownService
            | Code::Refused
            | Code::NotRunning
            | Code::TimedOut,
        )
        | None => Trouble::Failed(said("superd refused the request")),
    }
}
