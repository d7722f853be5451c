//! superd and superctl in one file: which one it is, argv[0] decides.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use superd::ctl::args::{self, Superd, SuperdCommand};
use superd::ctl::{self, offline};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let name = args.first().map(Path::new).map_or("", ctl::basename);
    if name == "superctl" {
        return ctl::main(args);
    }
    let superd = match args::superd(args) {
        Ok(superd) => superd,
        Err(instead) => {
            let (out, err) = (&mut std::io::stdout(), &mut std::io::stderr());
            let status = ctl::print_instead(&instead, "superd", false, out, err);
            return ExitCode::from(u8::try_from(status).unwrap_or(1));
        }
    };
    dispatch(superd)
}

fn dispatch(superd: Superd) -> ExitCode {
    let config = superd.config.clone();
    let config = Some(config.as_path());
    match &superd.command {
        None => entry::daemon(&superd),
        Some(SuperdCommand::Run(run)) => entry::wrap(run),
        Some(SuperdCommand::Demo) => entry::demo(),
        Some(SuperdCommand::Check(args)) => {
            ctl::check_or_plan(|to| offline::check(args, config, to))
        }
        Some(SuperdCommand::Plan(args)) => ctl::check_or_plan(|to| offline::plan(args, config, to)),
        Some(SuperdCommand::Ctl(ctl)) => ctl::main_parsed(ctl),
    }
}

/// SEAM: what the daemon does, to be connected to `superd::daemon::{run, wrap, demo}`.
mod entry {
    use std::process::ExitCode;

    use superd::ctl::args::{RunArgs, Superd};

    pub fn daemon(_args: &Superd) -> ExitCode {
        not_built_yet("supervising")
    }

    pub fn wrap(_args: &RunArgs) -> ExitCode {
        not_built_yet("run")
    }

    pub fn demo() -> ExitCode {
        not_built_yet("demo")
    }

    fn not_built_yet(what: &str) -> ExitCode {
        eprintln!("superd: {what}: not built yet");
        ExitCode::FAILURE
    }
}
