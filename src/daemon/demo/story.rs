//! What the demonstration sees: processes, a request, and a timeline of who said what.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{getpid, Pid};

use super::server::{BEGUN, DONE};
use crate::control::codec::decode_reply;
use crate::daemon::rundir::plain;
use crate::machine::report::{EndReport, Happening};
use crate::sys::proc::Scanner;
pub use crate::sys::program::Program;

/// The longest pause between two lines of output before the demonstration is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// A line of the timeline fits into 80 columns.
const WIDTH: usize = 80;
/// Prints a line. Nobody reads it: the exit status still tells.
pub fn tell(line: &str) {
    writeln!(io::stdout(), "{line}").ok();
}

/// What superd says when the service is up.
pub const UP: &str = "up";

/// Standard output.
pub const STDOUT: RawFd = 1;
/// Standard error.
pub const STDERR: RawFd = 2;

/// Starts a program; what is heard of it can be read.
pub fn start(program: &Program<'_>) -> Result<(Pid, Option<File>), String> {
    program.start().map_err(|e| {
        let program = program.argv.first().copied().unwrap_or_default();
        format!("starting {}: {}", program.display(), plain(&e))
    })
}

/// A process that was started here. It is killed when it is dropped before it has ended.
pub struct Running {
    /// None: it has been waited for.
    pid: Option<Pid>,
    /// What is heard of it.
    pub output: Option<File>,
}

impl Running {
    /// Starts it.
    pub fn start(program: &Program<'_>) -> Result<Running, String> {
        let (pid, output) = start(program)?;
        let pid = Some(pid);
        Ok(Running { pid, output })
    }

    /// Its pid cannot be another's: it is our child and not reaped as long as we hold it.
    pub fn signal(&self, signal: Signal) -> Result<(), String> {
        self.pid
            .map_or(Err(Errno::ESRCH), |pid| kill(pid, signal))
            .map_err(|e| format!("sending {signal}: {}", e.desc()))
    }

    /// Waits for its end and gives its exit status; none if a signal ended it.
    pub fn ended(&mut self) -> Result<Option<i32>, String> {
        let Some(pid) = self.pid.take() else {
            return Ok(None);
        };
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, status)) => Ok(Some(status)),
            Ok(_) => Ok(None),
            Err(e) => Err(format!("waiting for a process: {}", e.desc())),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        remove(self.pid.map(Pid::as_raw).as_slice());
    }
}

/// Our children: being a subreaper, also those that others left behind. Zombies do not count.
pub fn children() -> Vec<i32> {
    let me = getpid().as_raw();
    let mut found = Vec::new();
    if let Ok(mut proc) = Scanner::new() {
        proc.each(|stat| {
            if stat.ppid == me && stat.is_alive() {
                found.push(stat.pid);
            }
        })
        .ok(); // what was found until then
    }
    found
}

/// Kills and reaps children of ours.
pub fn remove(children: &[i32]) {
    for pid in children {
        let pid = Pid::from_raw(*pid);
        kill(pid, Signal::SIGKILL).ok(); // it may have ended by itself; reaped it is not
        waitpid(pid, None).ok();
    }
}

/// A request that the server has begun to answer, open until it is finished.
pub struct Request(UnixStream);

impl Request {
    /// Makes a request and waits until the server has it in hand.
    pub fn open(socket: &Path) -> Result<Request, String> {
        let begun = UnixStream::connect(socket).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            match byte {
                [BEGUN] => Ok(stream),
                _ => Err(io::Error::other("not the server's answer")),
            }
        });
        begun
            .map(Request)
            .map_err(|e| format!("a request to the server: {}", plain(&e)))
    }

    /// Sends the rest of the request. Whether the whole answer comes.
    pub fn finish(mut self) -> bool {
        let mut rest = Vec::new();
        self.0.shutdown(Shutdown::Write).is_ok()
            && self.0.read_to_end(&mut rest).is_ok()
            && rest == [DONE]
    }
}

struct Entry {
    at: Instant,
    who: &'static str,
    text: String,
}

impl Voice {
    /// Reads what there is and hands on what the whole lines of it say. False: it has ended.
    fn take(&mut self, mut hear: impl FnMut(&'static str, Said)) -> bool {
        let mut buf = [0; 4096];
        let read = self.from.read(&mut buf).unwrap_or(0);
        self.rest.extend(buf.iter().take(read));
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            for said in (self.read)(String::from_utf8_lossy(&line).trim_end()) {
                hear(self.who, said);
            }
        }
        read > 0
    }
}

/// What a line of somebody's output says; none: nothing that belongs here.
type Reading = fn(&str) -> Vec<Said>;

/// Part of what one line says.
pub enum Said {
    /// Something to show.
    Text(String),
    /// How superd says that the stop went.
    End(Box<EndReport>),
}

/// Who said what, and when.
pub struct Story {
    /// The time that the others are counted from.
    pub began: Instant,
    /// How superd says that the stop went, once it has.
    pub report: Option<Box<EndReport>>,
    entries: Vec<Entry>,
    voices: Vec<Voice>,
}

/// Somebody whose output is listened to.
struct Voice {
    who: &'static str,
    from: File,
    read: Reading,
    /// The beginning of a line.
    rest: Vec<u8>,
}

impl Story {
    pub fn new() -> Story {
        Story {
            began: Instant::now(),
            report: None,
            entries: Vec::new(),
            voices: Vec::new(),
        }
    }

    /// Listens to the output of a process from now on.
    pub fn follow(&mut self, who: &'static str, from: Option<File>, read: Reading) {
        self.voices.extend(from.map(|from| Voice {
            who,
            from,
            read,
            rest: Vec::new(),
        }));
    }

    /// Adds what we did ourselves.
    pub fn say(&mut self, text: String) {
        let at = Instant::now();
        let who = "demo";
        self.entries.push(Entry { at, who, text });
    }

    /// Waits until somebody has said this.
    pub fn until(&mut self, text: &str) -> Result<(), String> {
        while !self.said(text) {
            if self.voices.is_empty() {
                self.print();
                return Err(format!("everybody has ended, and nobody said `{text}`"));
            }
            self.wait()?;
        }
        Ok(())
    }

    /// Waits until all that are listened to have ended.
    pub fn until_the_end(&mut self) -> Result<(), String> {
        while !self.voices.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), String> {
        if self.listen(PATIENCE)? {
            return Ok(());
        }
        self.print();
        Err(format!("nothing happened for {} s", PATIENCE.as_secs()))
    }

    /// Takes what has been said since, for its time to be right.
    pub fn catch_up(&mut self) -> Result<(), String> {
        self.listen(Duration::ZERO).map(|_| ())
    }

    /// Whether somebody said something, or ended, within this time.
    fn listen(&mut self, within: Duration) -> Result<bool, String> {
        let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        let mut fds: Vec<PollFd<'_>> = self
            .voices
            .iter()
            .map(|v| PollFd::new(v.from.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut fds, timeout).map_err(|e| format!("poll: {}", e.desc()))?;
        let spoke: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        let at = Instant::now();
        let mut spoke_next = spoke.iter();
        let (entries, report) = (&mut self.entries, &mut self.report);
        self.voices.retain_mut(|voice| match spoke_next.next() {
            Some(true) => voice.take(|who, said| match said {
                Said::Text(text) => entries.push(Entry { at, who, text }),
                Said::End(end) => *report = Some(end),
            }),
            _ => true,
        });
        Ok(spoke.contains(&true))
    }

    /// Whether somebody has said this.
    pub fn said(&self, text: &str) -> bool {
        self.entries.iter().any(|e| e.text == text)
    }

    /// The rest of each line of the server's that begins so.
    pub fn rests(&self, start: &str) -> Vec<String> {
        let of_server = self.entries.iter().filter(|e| e.who == "server");
        of_server
            .filter_map(|e| Some(e.text.strip_prefix(start)?.to_owned()))
            .collect()
    }

    /// Prints it in the order of time. What came before the beginning has no time.
    pub fn print(&mut self) {
        self.entries.sort_by_key(|e| e.at);
        for Entry { at, who, text } in &self.entries {
            let time = match at.checked_duration_since(self.began) {
                Some(after) => format!("{} ms", after.as_millis()),
                None => String::new(),
            };
            let line = format!("{time:>8}  {who:<6} {text}");
            tell(&line.chars().take(WIDTH).collect::<String>());
        }
    }
}

/// The server's own output.
pub fn plain_line(line: &str) -> Vec<Said> {
    vec![Said::Text(line.to_owned())]
}

/// The same by `superctl --json logs`.
pub fn log_line(line: &str) -> Vec<Said> {
    let said = decode_reply(line.as_bytes()).ok().and_then(|r| r.line);
    said.map(|l| Said::Text(l.text)).into_iter().collect()
}

/// A line of `superctl --json events`.
pub fn event_line(line: &str) -> Vec<Said> {
    let Some(event) = decode_reply(line.as_bytes()).ok().and_then(|r| r.event) else {
        return Vec::new();
    };
    match event.what {
        Happening::Up { .. } => vec![Said::Text(UP.to_owned())],
        Happening::Stopping { by, .. } => vec![Said::Text(format!("stop by {by}"))],
        Happening::Step { what, .. } => vec![Said::Text(format!("step: {what}"))],
        Happening::Ended(end) => vec![
            Said::Text(format!("{}; removed what it left: {}", end.exit, end.left)),
            Said::End(end),
        ],
        _ => Vec::new(),
    }
}
