//! Commands that change something: start, stop, restart, reload, signal, shutdown.
//! One line per request, as soon as its answer is there.

use std::io::{self, Write};
use std::os::fd::AsFd;

use crate::control::reply::{Code, Reply, Status};
use crate::control::request::Request;

use super::converse::Hear;
use super::render::{self, result, Style};
use super::talk::{Incoming, Trouble};
use super::{action_code, PROGRAM};
use crate::sys::{signals, terminal};

/// The widest line of progress where the width of the terminal is not known. A longer one would
/// wrap, and could not be wiped away.
const WIDTH: usize = 78;
/// A line is never shorter, however narrow the terminal.
const NARROW: usize = 20;

/// What is told when Ctrl-C ends a wait, below a line of progress.
const GOES_ON: &[u8] = b"\nsuperctl: superd goes on with it; see superctl status\n";

/// Runs in a signal handler: write(2), then _exit(2).
fn leave(signal: i32, _: i32, _: u32) {
    nix::unistd::write(io::stderr(), GOES_ON).ok(); // nobody reads it
    signal_hook::low_level::exit(128 + signal);
}

/// Prints results, and on a terminal what is being waited for.
pub struct Acting<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    style: Style,
    /// Replies as they come instead of words.
    json: bool,
    /// Whether standard error is a terminal that progress can be shown on.
    shows: bool,
    /// Characters of the progress line that stands there now.
    shown: usize,
    /// The highest exit status so far.
    pub status: i32,
    /// The last line of progress: what is told when the time is up.
    pub last: String,
}

impl<'a> Acting<'a> {
    /// Nothing heard yet. `shows`: progress goes to `err`, a terminal.
    pub fn new(
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
        style: Style,
        json: bool,
        shows: bool,
    ) -> Acting<'a> {
        Acting {
            out,
            err,
            style,
            json,
            shows,
            shown: 0,
            status: 0,
            last: String::new(),
        }
    }

    /// Wipes the progress line away, so that something else can be printed.
    pub fn clear(&mut self) {
        if self.shown > 0 {
            let blank = " ".repeat(self.shown);
            // Progress that cannot be shown is no reason to fail.
            write!(self.err, "\r{blank}\r").ok();
            self.err.flush().ok();
            self.shown = 0;
        }
    }
}

impl Hear for Acting<'_> {
    fn heard(&mut self, asked: &Request, got: &Incoming) -> Result<(), Trouble> {
        let reply = &got.reply;
        if !reply.ok {
            let code = action_code(reply.code.unwrap_or(Code::Failed));
            self.status = self.status.max(code);
        }
        if self.json {
            return Ok(json_line(self.out, &got.raw, self.style)?);
        }
        // That superd ends is only known when it has: `shutdown` is told at the end.
        let later = asked.awaits_end() && reply.ok;
        if reply.more || later {
            return Ok(());
        }
        self.clear();
        if reply.ok {
            let line = self.style.line(&result::done(asked, reply));
            writeln!(self.out, "{line}")?;
            // Before the next line of progress, which goes to the same terminal.
            self.out.flush()?;
        } else {
            render::complain(self.err, PROGRAM, &result::failed(asked, reply));
        }
        Ok(())
    }

    fn waiting(&mut self, pending: &[&Request], states: &[Status]) {
        let wide = match terminal::columns(io::stderr().as_fd()) {
            0 => WIDTH,
            // In the last column some terminals begin a new line.
            columns => usize::from(columns - 1).max(NARROW),
        };
        let line = render::visible(&result::progress(pending, states));
        self.last = line.chars().take(wide).collect();
        if !self.shows {
            return;
        }
        if self.shown == 0 {
            signals::on(libc::SIGINT, leave).ok(); // else it ends without a word
        }
        let width = self.last.chars().count();
        self.shown = self.shown.min(wide); // it may be narrower now
        let blank = " ".repeat(self.shown.saturating_sub(width));
        // Progress that cannot be shown is no reason to fail.
        write!(self.err, "\r{}{blank}", self.last).ok();
        self.err.flush().ok();
        self.shown = width.max(self.shown);
    }

    fn pause(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Prints a line of JSON as it is, but for what could drive a terminal.
pub fn json_line(out: &mut dyn Write, raw: &str, style: Style) -> io::Result<()> {
    match style.terminal {
        true => writeln!(out, "{}", render::visible_json(raw)),
        false => writeln!(out, "{raw}"),
    }
}

/// Prints a reply that superctl made itself.
pub fn json_reply(out: &mut dyn Write, reply: &Reply, style: Style) -> io::Result<()> {
    let mut line = Vec::new();
    crate::control::codec::encode_reply(reply, &mut line);
    json_line(out, String::from_utf8_lossy(&line).trim_end(), style)
}
