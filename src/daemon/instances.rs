//! Instances of templates: made when somebody asks for their start, made again for what an
//! earlier superd has left. What an instance is, `config` says; here it is only decided
//! which ones there are.

use syslog::Severity;

use super::reactor::Reactor;
use crate::config::model::Config;
use crate::config::{self, Problems, INSTANCES_CAP};
use crate::control::reply::Code;
use crate::machine::report::Origin;
use crate::machine::service::{Rest, Service, State, Want};
use crate::machine::spec::Oneshot;

impl Reactor {
    /// Makes this instance of a template, if it is one and is not there.
    pub(super) fn make_instance(&mut self, name: &str, by: Origin) -> Result<(), (Code, String)> {
        let id = self.registry.id(name);
        let is_there = id.is_some() && !self.registry.is_named_only(name);
        let service = id.and_then(|id| self.machine.service(id));
        let is_leaving = service.is_some_and(|s| s.gone);
        let makes = self.registry.templates().make(name);
        if !makes || (is_there && !is_leaving) || self.machine.is_shutting_down() {
            return Ok(());
        }
        let mut asked = self.registry.asked();
        if asked.len() >= INSTANCES_CAP {
            let Some(idle) = self.longest_idle(&asked) else {
                let text = format!(
                    "{name}: there are {INSTANCES_CAP} instances of templates already, and none \
                     of them is stopped"
                );
                return Err((Code::Refused, text));
            };
            asked.retain(|other| *other != idle);
        }
        asked.push(name);
        let config = self.registry.with_instances(&asked).map_err(|problems| {
            let code = match config::parts(name) {
                Some((_, instance))
                    if !instance.starts_with(|c: char| c.is_ascii_alphanumeric()) =>
                {
                    Code::BadRequest
                }
                _ => Code::Failed,
            };
            (code, one_line(&problems))
        })?;
        let delta = self.registry.apply(config);
        self.put_services(delta, by);
        // Its start is written down by its name: the next superd must know what that is.
        self.remember();
        Ok(())
    }

    /// Of these instances, the one that was stopped first.
    fn longest_idle(&self, of: &[&str]) -> Option<String> {
        let is_idle = |s: &&Service| match &s.state {
            State::Down(Rest::Stopped) => s.want == Want::Down,
            State::Down(Rest::Finished) => s.next_run().is_none(),
            State::Down(Rest::Done) => {
                s.spec.oneshot == Some(Oneshot::Again) && s.next_run().is_none()
            }
            State::Down(Rest::Failed(_) | Rest::Scheduled)
            | State::Waiting
            | State::Starting(_)
            | State::Up(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_)
            | State::Backoff { .. } => false,
        };
        let known = of.iter().filter_map(|name| self.registry.id(name));
        let idle = known
            .filter_map(|id| self.machine.service(id))
            .filter(is_idle);
        idle.min_by_key(|s| s.since)
            .map(|s| s.spec.name.to_string())
    }

    /// A configuration that was just read, with the instances that somebody has asked for.
    pub(super) fn with_asked(&self, config: Config) -> Result<Config, Problems> {
        let asked = self.registry.asked();
        match asked.is_empty() {
            true => Ok(config),
            false => config.with_instances(asked.into_iter()),
        }
    }

    /// The same at the start of superd, when nothing may keep it from starting: those that
    /// cannot be made any more are not.
    pub(super) fn make_again(&mut self, config: Config, names: Vec<String>) -> Config {
        let is_to_be_made =
            |n: &String| config.templates.make(n) && !config.services.contains_key(n);
        let mut names: Vec<String> = names.into_iter().filter(is_to_be_made).collect();
        let already = config
            .services
            .values()
            .filter(|d| d.made == config::model::Made::Asked);
        names.extend(already.map(|d| d.name.clone()));
        if names.is_empty() {
            return config;
        }
        if let Ok(config) = config.with_instances(names.iter().map(String::as_str)) {
            return config;
        }
        let mut made: Vec<&str> = Vec::new();
        let mut now = config;
        for name in &names {
            made.push(name);
            match now.with_instances(made.iter().copied()) {
                Ok(config) => now = config,
                Err(problems) => {
                    made.pop();
                    let text = format!("{name} cannot be made again: {}", one_line(&problems));
                    self.say(Severity::LOG_ERR, &text);
                }
            }
        }
        now
    }
}

fn one_line(problems: &Problems) -> String {
    let lines = problems.lines();
    let first = lines.first().cloned().unwrap_or_default();
    match problems.len() {
        0 | 1 => first,
        n => format!("{first} (and {} more)", n - 1),
    }
}
