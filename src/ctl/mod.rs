//! superctl: the client. It turns a command line into requests, waits for the answers,
//! and says them in words (or as JSON) and in an exit status.
//!
//! `client` decides what is asked and how long it may take; `talk` is the socket,
//! `converse` one exchange, `act` and `look` what is printed, `render` the words.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::control::reply::{Code, Reply};

mod act;
pub mod args;
mod client;
#[cfg(test)]
mod completions;
mod converse;
mod look;
mod lsb;
pub mod offline;
mod render;
mod router;
pub mod rpcd;
mod talk;

use act::json_reply;
use args::{Ctl, Instead};
use client::Client;
use render::Style;

/// The name in front of every error.
pub const PROGRAM: &str = "superctl";

/// Exit status: wrong command line.
const USAGE: i32 = 2;
/// Exit status: it took too long (as timeout(1) has it).
const TIMED_OUT: i32 = 124;

/// What superctl finds around itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Around {
    /// SUPERCTL_SOCKET.
    pub socket: Option<OsString>,
    /// SUPERCTL_ROOT: where `doctor` looks for the files of the system. For tests.
    pub root: Option<OsString>,
    /// Standard output is a terminal.
    pub out_is_terminal: bool,
    /// Standard error is a terminal.
    pub err_is_terminal: bool,
}

/// superctl as a program: `args` with the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = args::ctl(args);
    as_program(|around, out, err| match parsed {
        Ok(ctl) => run(&ctl, around, out, err),
        Err(instead) => print_instead(&instead, PROGRAM, wants_json(), out, err),
    })
}

/// superctl as a program whose command line is read already (`superd ctl`).
pub fn main_parsed(ctl: &Ctl) -> ExitCode {
    as_program(|around, out, err| run(ctl, around, out, err))
}

/// `superd rpcd`.
pub fn rpcd(what: &str, method: Option<&str>) -> ExitCode {
    // Who asks is told by this name: rpcd, and not superd. Without /proc it is the other one.
    std::fs::write("/proc/self/comm", "rpcd").ok();
    as_program(|around, out, _| rpcd::main(what, method, around, &mut io::stdin().lock(), out))
}

fn as_program(body: impl FnOnce(&Around, &mut dyn Write, &mut dyn Write) -> i32) -> ExitCode {
    reset_signals();
    let around = Around {
        socket: std::env::var_os("SUPERCTL_SOCKET").filter(|s| !s.is_empty()),
        root: std::env::var_os("SUPERCTL_ROOT").filter(|s| !s.is_empty()),
        out_is_terminal: io::stdout().is_terminal(),
        err_is_terminal: io::stderr().is_terminal(),
    };
    // Written out whenever superctl is about to wait, and at the end.
    let mut out = BufWriter::new(io::stdout());
    let status = body(&around, &mut out, &mut io::stderr());
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// procd starts superctl with SIGTERM ignored, and Rust's runtime ignores SIGPIPE; TERM,
/// INT and PIPE are to end superctl.
fn reset_signals() {
    crate::sys::signals::reset_dispositions().ok(); // as good as before
}

fn wants_json() -> bool {
    std::env::args_os().any(|a| a == "--json")
}

/// Prints help, the version or a usage error.
pub fn print_instead(
    instead: &Instead,
    program: &str,
    json: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> i32 {
    // Nobody reads it: the exit status still tells.
    match instead {
        Instead::Text(text) => {
            out.write_all(text.as_bytes())
                .and_then(|()| out.flush())
                .ok();
            0
        }
        Instead::Usage(text) if json => {
            let reply = Reply::error(0, Code::BadRequest, text.as_str());
            json_reply(out, &reply, Style::new(false))
                .and_then(|()| out.flush())
                .ok();
            USAGE
        }
        Instead::Usage(text) => {
            writeln!(err, "{program}: {}", render::visible(text)).ok();
            USAGE
        }
    }
}

/// The exit status of an action that ended with this code (DESIGN 7).
fn action_code(code: Code) -> i32 {
    match code {
        Code::Failed | Code::Refused | Code::Busy => 1,
        Code::BadRequest => USAGE,
        Code::NotPermitted => 4,
        Code::UnknownService => 6,
        Code::NotRunning => 7,
        Code::TimedOut => TIMED_OUT,
    }
}

/// Does what the command line says and returns the exit status. Blocks for as long as
/// the command waits; touches nothing but the socket, a configuration file, and the two
/// outputs.
pub fn run(ctl: &Ctl, around: &Around, out: &mut dyn Write, err: &mut dyn Write) -> i32 {
    let mut client = Client::new(ctl, around, out, err);
    let done = client.command(&ctl.command);
    let status = match done {
        Ok(status) => status,
        Err(error) => return broken_output(&error, err),
    };
    match client.flush() {
        Ok(()) => status,
        Err(error) => broken_output(&error, err),
    }
}

/// `superctl logs x | head`: whoever reads has seen enough. A full disk is an error.
fn broken_output(error: &io::Error, err: &mut dyn Write) -> i32 {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return 0;
    }
    // Nobody reads the error output: the exit status still tells.
    writeln!(err, "{PROGRAM}: writing the output: {error}").ok();
    1
}

/// For superd's own `check` and `plan`, which take the place of superctl's.
pub fn check_or_plan(body: impl FnOnce(&mut offline::Output<'_>) -> io::Result<i32>) -> ExitCode {
    as_program(|around, out, err| {
        let mut to = offline::Output {
            program: "superd",
            out,
            err,
            style: Style::new(around.out_is_terminal),
            json: false,
        };
        let status = body(&mut to).and_then(|status| to.out.flush().map(|()| status));
        status.unwrap_or_else(|error| broken_output(&error, err))
    })
}

/// `path` as the name of a program: what follows the last slash.
pub fn basename(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or("")
}

#[cfg(test)]
mod tests;
