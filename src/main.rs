//! superd and superctl in one file: which one it is, argv[0] decides.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use superd::config::{self, Wrapped};
use superd::ctl::args::{self, RestartWhen, RunArgs, Superd, SuperdCommand};
use superd::ctl::{self, offline};
use superd::daemon::{self, DaemonOptions};
use superd::machine::spec::{Policy, Schedule};

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
        None if superd.check_state => daemon::upgrade::check_state(),
        // Also for who is somewhere else: `superctl doctor`, and superd itself after an upgrade.
        None => daemon::run(&DaemonOptions {
            config: std::path::absolute(&superd.config).unwrap_or(superd.config),
            foreground: superd.foreground,
        }),
        Some(SuperdCommand::Run(run)) => match wrapped(run) {
            Ok(config) => daemon::wrap(config),
            Err(text) => {
                eprintln!("superd: run: {text}");
                ExitCode::from(2)
            }
        },
        Some(SuperdCommand::Demo) => daemon::demo::run(),
        Some(SuperdCommand::DemoServer { socket }) => daemon::demo::server(socket),
        Some(SuperdCommand::DemoChild) => daemon::demo::child(),
        Some(SuperdCommand::Check(args)) => {
            ctl::check_or_plan(|to| offline::check(args, config, to))
        }
        Some(SuperdCommand::Plan(args)) => ctl::check_or_plan(|to| offline::plan(args, config, to)),
        Some(SuperdCommand::Rpcd { what, method }) => ctl::rpcd(what, method.as_deref()),
        Some(SuperdCommand::Ctl(args::Later(ctl))) => ctl::main_parsed(ctl),
    }
}

/// The command line of `superd run` as a configuration.
fn wrapped(run: &RunArgs) -> Result<config::Config, String> {
    let own = run
        .command
        .first()
        .map(|c| ctl::basename(Path::new(c)).to_owned());
    let name = match (&run.name, own) {
        (Some(name), _) => name.clone(),
        (None, Some(own)) if config::service_name(&own).is_ok() => own,
        (None, _) => "service".to_owned(),
    };
    let wrapped = Wrapped {
        name: &name,
        command: &run.command,
        stop: schedule(run)?,
        restart: match run.restart {
            RestartWhen::Never => Policy::Never,
            RestartWhen::OnFailure => Policy::OnFailure,
            RestartWhen::Always => Policy::Always,
        },
    };
    config::wrap(&wrapped)
}

fn schedule(run: &RunArgs) -> Result<Option<Schedule>, String> {
    if let Some(text) = &run.stop {
        return config::stop_schedule(text)
            .map(Some)
            .map_err(|e| format!("--stop: {e}"));
    }
    if run.stop_signal.is_none() && run.stop_timeout.is_none() {
        return Ok(None);
    }
    let signal = run.stop_signal.map_or("TERM".to_owned(), |s| s.to_string());
    let mut schedule = config::stop_schedule(&signal).map_err(|e| format!("--stop-signal: {e}"))?;
    if let (Some(step), Some(wait)) = (schedule.steps.first_mut(), run.stop_timeout) {
        step.wait = wait;
    }
    Ok(Some(schedule))
}
