//! `check` and `plan` from a configuration file: superd need not run. The same code as
//! superd's own reads the file.

use std::io::{self, Write};
use std::path::Path;

use crate::config;
use crate::control::reply::{Code, PlanLine, Reply};

use super::act::json_reply;
use super::args::{CheckArgs, PlanArgs, DEFAULT_CONFIG};
use super::render::{self, status, Style};

/// What `check` and `plan` need to know of a good configuration.
struct Loaded {
    /// How many services it defines.
    services: usize,
    /// And how many templates of services.
    templates: usize,
    /// The longest stops.
    plan: Vec<PlanLine>,
    /// What is allowed and probably not meant.
    warnings: Vec<String>,
}

fn load(path: &Path, term_timeout: Option<u64>) -> Result<Loaded, Vec<String>> {
    match config::check(path, term_timeout) {
        Ok(checked) => Ok(Loaded {
            services: checked.config.services.len(),
            templates: checked.config.templates.len(),
            plan: PlanLine::all(&checked.plan),
            warnings: checked.warnings,
        }),
        Err(problems) => Err(problems.to_string().lines().map(str::to_owned).collect()),
    }
}

/// Where the words go.
pub struct Output<'a> {
    /// `superctl` or `superd`.
    pub program: &'a str,
    /// For results.
    pub out: &'a mut dyn Write,
    /// For problems.
    pub err: &'a mut dyn Write,
    /// How results are to look.
    pub style: Style,
    /// Reply objects instead of words.
    pub json: bool,
}

impl Output<'_> {
    /// Prints each problem on a line; exit status 1.
    fn problems(&mut self, problems: &[String]) -> io::Result<i32> {
        for (i, problem) in problems.iter().enumerate() {
            if self.json {
                let mut reply = Reply::error(0, Code::Failed, problem.as_str());
                reply.more = i + 1 < problems.len();
                json_reply(self.out, &reply, self.style)?;
            } else {
                writeln!(self.err, "{}: {}", self.program, render::visible(problem))?;
            }
        }
        Ok(1)
    }
}

/// `check`: all problems, or one line that says it is good.
pub fn check(args: &CheckArgs, default: Option<&Path>, to: &mut Output<'_>) -> io::Result<i32> {
    let path = file(args.config.as_deref(), default);
    let loaded = match load(path, args.term_timeout) {
        Ok(loaded) => loaded,
        Err(problems) => return to.problems(&problems),
    };
    for warning in &loaded.warnings {
        let text = format!("{}: {warning}", path.display());
        render::complain(to.err, to.program, &text);
    }
    let longest_ms = loaded
        .plan
        .iter()
        .find(|l| l.service.is_empty())
        .map_or(0, |l| l.longest_ms);
    let count =
        |n: usize, one, many| render::count(u32::try_from(n).unwrap_or(u32::MAX), one, many);
    let templates = match loaded.templates {
        0 => String::new(),
        n => format!(" and {}", count(n, "template", "templates")),
    };
    let good = format!(
        "{}: good, {}{templates}, stopping everything takes at most {}",
        path.display(),
        count(loaded.services, "service", "services"),
        render::span(longest_ms)
    );
    if to.json {
        let mut reply = Reply::ok(0);
        reply.message = good;
        json_reply(to.out, &reply, to.style)?;
    } else {
        writeln!(to.out, "{}", to.style.line(&good))?;
    }
    Ok(0)
}

/// `plan` from a file.
pub fn plan(args: &PlanArgs, default: Option<&Path>, to: &mut Output<'_>) -> io::Result<i32> {
    let path = file(args.config.as_deref(), default);
    let lines = match load(path, None) {
        Ok(loaded) => loaded.plan,
        Err(problems) => return to.problems(&problems),
    };
    if args.max_stop_seconds {
        let seconds = status::longest_seconds(&lines).unwrap_or(0);
        status::seconds(to.out, seconds, to.json, to.style)?;
    } else if to.json {
        for (i, line) in lines.iter().enumerate() {
            let mut reply = Reply::ok(0);
            reply.plan = Some(line.clone());
            reply.more = i + 1 < lines.len();
            json_reply(to.out, &reply, to.style)?;
        }
    } else {
        to.out
            .write_all(status::plan(&lines, to.style).as_bytes())?;
    }
    Ok(0)
}

fn file<'a>(asked: Option<&'a Path>, default: Option<&'a Path>) -> &'a Path {
    asked.or(default).unwrap_or(Path::new(DEFAULT_CONFIG))
}
