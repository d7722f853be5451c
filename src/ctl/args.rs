//! The command lines of superctl and superd. Each flag is declared here once; help comes
//! from it, and a test holds the man pages to it. One list, and therefore one long file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::duration_or_seconds;
use crate::machine::signal::Signal;

/// Where superctl looks for superd unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/superd/superd.sock";
/// Where superd looks for its configuration unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/superd/superd.toml";

/// Talk to superd: see, start and stop services.
#[derive(Parser, Clone, PartialEq, Debug)]
#[command(name = "superctl", version, disable_help_subcommand = true)]
#[command(arg_required_else_help = false)]
pub struct Ctl {
    /// superd's socket, else SUPERCTL_SOCKET names it
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,
    /// One JSON object per line, as superd answers
    #[arg(long, global = true)]
    pub json: bool,
    /// Wait at most so long (90, 1m30s), then exit 124
    #[arg(long, value_name = "TIME", global = true, value_parser = duration_or_seconds)]
    pub timeout: Option<Duration>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What superctl can do.
#[derive(Subcommand, Clone, PartialEq, Debug)]
pub enum Command {
    /// Show the state of all services, or of these
    Status {
        /// Services
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Start services
    Start(Which),
    /// Stop services by their stop schedule
    Stop(WhichNow),
    /// Stop services and start them again
    Restart(WhichNow),
    /// Let a service, or superd itself, read its configuration again
    Reload {
        /// Service
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Send a signal to the main process of a service
    Signal {
        /// Service
        #[arg(value_name = "NAME")]
        name: String,
        /// TERM, HUP, USR1 ... or a number
        #[arg(value_name = "SIGNAL")]
        signal: Signal,
    },
    /// Hold back new connections until none is open; services run on
    Drain(Which),
    /// End a drain: new connections are let in again
    Undrain(Which),
    /// Show what a service printed
    Logs {
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// Only so many of the last lines
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<u32>,
        /// Not older: 10m, 1h30m, or since a time like 14:05
        #[arg(long, value_name = "WHEN", value_parser = since)]
        since: Option<Duration>,
        /// Only lines that contain this text
        #[arg(long, value_name = "TEXT")]
        grep: Option<String>,
        /// Service
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Tell the last stops, crashes and restarts of a service
    Why {
        /// Everything that is known, with the crash reports on disk
        #[arg(long, conflicts_with = "lines")]
        all: bool,
        /// Only so many of the last ones
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<u32>,
        /// Service
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// List the crashes that are known, of one service or of all
    Crashes {
        /// Service
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Show what happened, to one service or to all
    Events {
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// Only so many of the last ones
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<u32>,
        /// Service
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Check a configuration file; superd need not run
    Check(CheckArgs),
    /// Show the longest time that a stop can take
    Plan(PlanArgs),
    /// Show which service depends on which, in the order of starts
    Graph {
        /// For graphviz: superctl graph --dot | dot -Tsvg
        #[arg(long, conflicts_with = "json")]
        dot: bool,
    },
    /// Show what superd found out about this machine
    Doctor {
        /// Configuration [default: the one superd has]
        #[arg(long, value_name = "PATH")]
        config: Option<PathBuf>,
    },
    /// Stop every service and end superd
    Shutdown {
        /// KILL the services instead of following schedules
        #[arg(long)]
        now: bool,
        /// Leave the services running for the next superd
        #[arg(long, conflicts_with = "now")]
        leave_running: bool,
        /// Do not wait until it is done
        #[arg(long)]
        no_wait: bool,
    },
    /// Replace superd by its new binary in place, unnoticed by services
    Upgrade {
        /// Do nothing if the file is still the one that runs
        #[arg(long)]
        if_changed: bool,
    },
    /// Show the version
    Version,
}

/// Services, and whether to wait.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Which {
    /// Services
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub names: Vec<String>,
    /// Every service
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Do not wait until it is done
    #[arg(long)]
    pub no_wait: bool,
    /// Wait until it is done (the default)
    #[arg(long, conflicts_with = "no_wait")]
    pub wait: bool,
}

/// Services, whether to wait, and whether to be patient with them.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct WhichNow {
    /// Which services.
    #[command(flatten)]
    pub which: Which,
    /// KILL instead of following the stop schedule
    #[arg(long)]
    pub now: bool,
}

/// `check`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct CheckArgs {
    /// Configuration [default: /etc/superd/superd.toml]
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Fail unless it is above the longest stop (procd)
    #[arg(long, value_name = "SECONDS")]
    pub term_timeout: Option<u64>,
}

/// `plan`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct PlanArgs {
    /// Plan from this file instead of asking superd
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Print only the longest stop in whole seconds
    #[arg(long)]
    pub max_stop_seconds: bool,
}

/// Supervise services and stop them safely.
#[derive(Parser, Clone, PartialEq, Debug)]
#[command(name = "superd", version, disable_help_subcommand = true)]
pub struct Superd {
    /// The configuration file
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Log to standard error; superd always stays in front
    #[arg(long)]
    pub foreground: bool,
    /// Say whether it can go on from the state on its input
    #[arg(long)]
    pub check_state: bool,
    /// What to do instead of supervising the configured services.
    #[command(subcommand)]
    pub command: Option<SuperdCommand>,
}

/// What superd can do besides its work.
#[derive(Subcommand, Clone, PartialEq, Debug)]
pub enum SuperdCommand {
    /// Run one command as a service in the foreground
    Run(RunArgs),
    /// Show the longest time that a stop can take, from the configuration file
    Plan(PlanArgs),
    /// Check the configuration file
    Check(CheckArgs),
    /// Show on a built-in server what superd is for
    Demo,
    /// The server of the demonstration
    #[command(hide = true)]
    DemoServer {
        /// Its unix socket
        socket: PathBuf,
    },
    /// The child that it leaves behind
    #[command(hide = true)]
    DemoChild,
    /// Answer OpenWrt's rpcd: list, or call METHOD with JSON as input
    Rpcd {
        /// list or call
        #[arg(value_name = "WHAT")]
        what: String,
        /// status, why, logs, start, stop or restart
        #[arg(value_name = "METHOD", allow_hyphen_values = true)]
        method: Option<String>,
    },
    /// The same as superctl
    Ctl(Later),
}

/// superctl's command line below superd's, which is put together where somebody asks for it
/// alone: a supervisor that starts would pay for it with its stack and its heap, as long as it runs.
#[derive(Clone, PartialEq, Debug)]
pub struct Later(pub Ctl);

impl Later {
    /// Adds superctl's arguments; what the command is for has been said.
    pub fn put_together(command: clap::Command) -> clap::Command {
        let about = command.get_about().cloned().unwrap_or_default();
        Ctl::augment_args(command).about(about)
    }
}

impl Args for Later {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.defer(Later::put_together)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        command.defer(Later::put_together)
    }
}

impl FromArgMatches for Later {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Later, clap::Error> {
        Ctl::from_arg_matches(matches).map(Later)
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Later, clap::Error> {
        Ctl::from_arg_matches_mut(matches).map(Later)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

/// `superd run`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct RunArgs {
    /// A preset, or steps as in the configuration
    #[arg(long, value_name = "STEPS", conflicts_with_all = ["stop_signal", "stop_timeout"])]
    pub stop: Option<String>,
    /// The signal that stops it [default: TERM]
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<Signal>,
    /// How long a stop may take [default: 15s]
    #[arg(long, value_name = "TIME", value_parser = duration_or_seconds)]
    pub stop_timeout: Option<Duration>,
    /// What to call it [default: the command's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Again: never (default), on-failure, always
    #[arg(long, value_name = "WHEN", value_enum, default_value = "never")]
    #[arg(hide_possible_values = true, hide_default_value = true)]
    pub restart: RestartWhen,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `--restart`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestartWhen {
    /// Never: superd ends with it and passes its exit status on.
    Never,
    /// After an exit that is not a success.
    OnFailure,
    /// After every exit.
    Always,
}

/// What to print instead of doing something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instead {
    /// Help or the version, for standard output; exit status 0.
    Text(String),
    /// What is wrong with the command line, in one line; exit status 2.
    Usage(String),
}

impl Instead {
    /// Makes one line of clap's several. `program` is superctl or superd.
    fn of(error: &clap::Error, program: &str) -> Instead {
        let text = error.render().to_string();
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            return Instead::Text(text);
        }
        let said = text.split("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = said.split_whitespace().collect();
        let line = words.join(" ");
        let line = line.strip_prefix("error: ").unwrap_or(&line);
        Instead::Usage(format!("{line} (see {program} --help)"))
    }
}

/// Reads superctl's command line, program name first.
///
/// # Errors
/// What to print instead.
pub fn ctl(args: impl IntoIterator<Item = OsString>) -> Result<Ctl, Instead> {
    Ctl::try_parse_from(args).map_err(|e| Instead::of(&e, "superctl"))
}

/// Reads superd's command line, program name first.
///
/// # Errors
/// What to print instead.
pub fn superd(args: impl IntoIterator<Item = OsString>) -> Result<Superd, Instead> {
    Superd::try_parse_from(args).map_err(|e| Instead::of(&e, "superd"))
}

/// How long ago: a duration, or a time of day, which was today or yesterday.
fn since(text: &str) -> Result<Duration, String> {
    if !text.contains(':') {
        let hint = "a time of day like 14:05, or 90, 10m, 1h30m";
        return duration_or_seconds(text).map_err(|_| format!("`{text}` is not {hint}"));
    }
    let local = crate::sys::timer::local(crate::sys::timer::wall());
    let now = [local.hour, local.minute, local.second].map(|n| u64::try_from(n).unwrap_or(0));
    let [hour, minute, second] = now;
    time_ago(text, hour * 3600 + minute * 60 + second)
        .ok_or_else(|| format!("`{text}` is not a time of day: write 14:05 or 14:05:30"))
}

/// `now`: seconds since midnight.
fn time_ago(text: &str, now: u64) -> Option<Duration> {
    let mut seconds = 0;
    let mut parts = 0;
    for (part, below) in text.split(':').zip([24, 60, 60, 0]) {
        let digits = matches!(part.len(), 1..=2) && part.bytes().all(|b| b.is_ascii_digit());
        let n: u64 = part.parse().ok().filter(|n| digits && *n < below)?;
        seconds = seconds * 60 + n;
        parts += 1;
    }
    let at = match parts {
        2 => seconds * 60,
        3 => seconds,
        _ => return None,
    };
    let day = 86_400;
    Some(Duration::from_secs((now + day - at) % day))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Ctl, Instead> {
        ctl(line.split_whitespace().map(OsString::from))
    }

    fn usage(line: &str) -> String {
        match parse(line) {
            Err(Instead::Usage(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_declarations_are_consistent() {
        Ctl::command().debug_assert();
        Superd::command().debug_assert();
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let ms = |t: &str| duration_or_seconds(t).map(|d| d.as_millis());
        assert_eq!(ms("5"), Ok(5000));
        assert_eq!(ms("0.5"), Ok(500));
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("1m30s"), Ok(90_000));
        assert_eq!(ms("2h"), Ok(7_200_000));
        assert_eq!(ms("0"), Ok(0));
        for wrong in [
            "",
            "s",
            "5x",
            "1m30",
            "-3",
            "1e9",
            "inf",
            "NaN",
            "5 s",
            "..",
            "9999999999999h",
        ] {
            assert!(duration_or_seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn flags_may_stand_before_and_after_the_command() {
        let a = parse("superctl --json --timeout 2s stop --now caddy nats").unwrap();
        let b = parse("superctl stop caddy nats --now --timeout 2 --json").unwrap();
        assert_eq!(a, b);
        assert!(parse("superctl stop --all --wait").is_ok());
    }

    #[test]
    fn a_usage_error_is_one_line() {
        assert_eq!(
            usage("superctl stop"),
            "the following required arguments were not provided: <NAME>... (see superctl --help)"
        );
        assert!(usage("superctl").starts_with("'superctl' requires a subcommand"));
        assert!(usage("superctl stop a --all").contains("cannot be used with"));
        assert!(usage("superctl signal a TREM").contains("`TREM` is not a signal"));
        assert!(usage("superctl --timeout soon status").contains("`soon` is not a duration"));
        assert!(usage("superctl --timeout 99999999999 status").contains("`99999999999` is longer"));
        for line in [
            "superctl",
            "superctl stop",
            "superctl frob",
            "superctl logs",
        ] {
            assert!(!usage(line).contains('\n'));
        }
        assert!(matches!(parse("superctl --help"), Err(Instead::Text(_))));
    }

    #[test]
    fn superd_takes_its_own_and_superctls_commands() {
        let parse = |line: &str| superd(line.split_whitespace().map(OsString::from));
        let plain = parse("superd").unwrap();
        assert_eq!(plain.config, PathBuf::from(DEFAULT_CONFIG));
        assert_eq!(plain.command, None);
        let Some(SuperdCommand::Run(run)) =
            parse("superd run --stop-signal INT --stop-timeout 3 --restart on-failure -- x --now")
                .unwrap()
                .command
        else {
            panic!("not run")
        };
        assert_eq!(run.command, ["x", "--now"]);
        assert_eq!(run.restart, RestartWhen::OnFailure);
        assert!(parse("superd run").is_err());
        assert!(parse("superd run --stop caddy-api --stop-signal INT -- x").is_err());
        let Some(SuperdCommand::Ctl(Later(ctl))) =
            parse("superd ctl stop a --json").unwrap().command
        else {
            panic!("not ctl")
        };
        assert!(ctl.json);
    }

    /// Every subcommand and long flag of `command`, and below.
    fn words(command: &clap::Command, found: &mut Vec<String>) {
        for arg in command.get_arguments().filter_map(clap::Arg::get_long) {
            // mdoc: `.Fl -json`, with its hyphens escaped.
            found.push(format!("Fl -{}", arg.replace('-', "\\-")));
        }
        for sub in command.get_subcommands().filter(|s| !s.is_hide_set()) {
            found.push(format!("Cm {}", sub.get_name()));
            if command.get_name() != "superd" || sub.get_name() != "ctl" {
                words(sub, found);
            }
        }
    }

    fn missing(command: &clap::Command, page: &str) -> Vec<String> {
        let mut found = Vec::new();
        words(command, &mut found);
        // As a whole word: `Fl -no` is not in `Fl -now`.
        found.retain(|word| {
            !page
                .match_indices(word.as_str())
                .any(|(at, _)| page[at + word.len()..].starts_with([' ', '\n']))
        });
        found
    }

    #[test]
    fn the_man_pages_name_every_command_and_flag() {
        let page = include_str!("../../packaging/man/superctl.1");
        assert_eq!(missing(&Ctl::command(), page), Vec::<String>::new());
        let page = include_str!("../../packaging/man/superd.8");
        assert_eq!(missing(&Superd::command(), page), Vec::<String>::new());
    }

    #[test]
    fn the_man_pages_refer_to_the_sections_that_the_pages_are_in() {
        for page in [
            include_str!("../../packaging/man/superctl.1"),
            include_str!("../../packaging/man/superd.8"),
            include_str!("../../packaging/man/superd.toml.5"),
        ] {
            for line in page
                .lines()
                .filter(|l| l.contains("Xr superctl") || l.contains("Xr superd"))
            {
                let mut words = line.split(' ').skip_while(|w| !w.ends_with("Xr")).skip(1);
                let (name, section) = (words.next().unwrap(), words.next().unwrap());
                let pages = [("superctl", "1"), ("superd", "8"), ("superd.toml", "5")];
                assert!(pages.contains(&(name, section)), "{line}");
            }
        }
    }

    #[test]
    fn since_takes_a_time_of_day() {
        let ago = |text: &str| time_ago(text, 14 * 3600).map(|d| d.as_secs());
        assert_eq!(ago("13:59"), Some(60));
        assert_eq!(ago("13:59:30"), Some(30));
        assert_eq!(ago("14:01"), Some(86_400 - 60), "yesterday");
        for bad in ["24:00", "1:2:3:4", "12:", ":", "12:60", "+1:00", "a:b"] {
            assert_eq!(ago(bad), None, "{bad}");
        }
        assert_eq!(since("10m").unwrap(), Duration::from_secs(600));
        assert!(since("soon").unwrap_err().contains("14:05"));
    }
}
