//! How long a stop can take, in words and numbers: `superctl plan`, and the
//! `term_timeout` that the init script gives to procd.
//!
//! A service is stopped when everything that names it is down; the rest goes in
//! parallel. So the longest shutdown is the longest chain.

use std::time::Duration;

use crate::machine::end::PORTS_WAIT;
use crate::machine::hook::{Hooks, Kind};
use crate::machine::spec::{Schedule, Step, Until};
use crate::machine::time::Span;
use crate::map::Map;

use super::model::Config;
use super::order;

/// The longest possible stop of everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Each service by itself, in an order in which they can be stopped.
    pub services: Vec<ServicePlan>,
    /// The longest that superd's own shutdown can take: the longest chain of services, or
    /// `shutdown-deadline` and the longest end after it if that is less.
    pub longest: Duration,
    /// The longest chain without regard to `shutdown-deadline`.
    pub uncapped: Duration,
    /// The services of the longest chain, in the order in which they stop.
    pub critical: Vec<String>,
}

/// The longest possible stop of one service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePlan {
    /// Its name.
    pub name: String,
    /// The services that are stopped before it, by name.
    pub stops_after: Vec<String>,
    /// The services that are restarted when it has begun anew, by name.
    pub restarts: Vec<String>,
    /// What happens, step by step, in words.
    pub steps: Vec<String>,
    /// The longest it can take from the first step until it is stopped.
    pub longest: Duration,
}

impl Plan {
    /// What to tell procd: [`term_timeout`] for all of it.
    pub fn max_stop_seconds(&self) -> u64 {
        term_timeout(self.longest)
    }
}

/// Plans the stop of everything.
pub fn plan(config: &Config) -> Plan {
    let services = &config.possible();
    let mut dependents: Map<&str, Vec<&str>> = Map::new();
    let mut companions: Map<&str, Vec<&str>> = Map::new();
    for (name, def) in services {
        for need in order::needs(services, def) {
            dependents.entry(need).or_default().push(name);
        }
        for other in &def.policy.restart_with {
            companions.entry(other).or_default().push(name);
        }
    }
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    // The time at which each is down, and the dependent that it waits for longest.
    let mut down: Map<&str, (Duration, Option<&str>)> = Map::new();
    let mut plans = Vec::with_capacity(services.len());
    for name in order::sort(services, &[]).order.into_iter().rev() {
        let Some(def) = services.get(name) else {
            continue;
        };
        let waits = dependents.remove(name).unwrap_or_default();
        let last = waits
            .iter()
            .filter_map(|w| Some((down.get(w)?.0, *w)))
            .max_by_key(|(at, _)| *at);
        let own = longest(&def.policy.stop);
        let begins = last.map_or(Duration::ZERO, |(at, _)| at);
        down.insert(name, (begins.saturating_add(own), last.map(|(_, w)| w)));
        plans.push(ServicePlan {
            name: name.to_owned(),
            stops_after: owned(waits),
            restarts: owned(companions.remove(name).unwrap_or_default()),
            steps: words(&def.policy.stop, def.policy.hooks.as_deref()),
            longest: own,
        });
    }
    let last = down.iter().max_by_key(|(_, (at, _))| *at);
    let uncapped = last.map_or(Duration::ZERO, |(_, (at, _))| *at);
    let mut critical = Vec::new();
    let mut at = last.map(|(name, _)| *name);
    while let Some(name) = at {
        critical.push(name.to_owned());
        at = down.get(name).and_then(|(_, before)| *before);
    }
    critical.reverse();
    // What follows its KILL.
    let ends = services.values().map(|def| end(&def.policy.stop));
    let end = ends.max().unwrap_or(PORTS_WAIT);
    let cap = config.daemon.shutdown_deadline;
    let cap = cap.map_or(Duration::MAX, |d| d.saturating_add(end));
    Plan {
        services: plans,
        longest: uncapped.min(cap),
        uncapped,
        critical,
    }
}

/// The rest of the tree, the ports, which somebody else may hold, and the hooks.
fn end(stop: &Schedule) -> Duration {
    let end = stop.leftover_grace.saturating_add(PORTS_WAIT);
    end.saturating_add(stop.after)
}

/// The schedule ([`Schedule::longest`], also for one that did not come out of a file), and
/// what follows it.
fn longest(stop: &Schedule) -> Duration {
    stop.steps.iter().fold(end(stop), |sum, step| {
        sum.saturating_add(step.wait).saturating_add(step.settle)
    })
}

/// What to tell procd as `term_timeout` for a longest stop: whole seconds, it takes no
/// others, and one more, so that its KILL does not race with ours.
pub fn term_timeout(longest: Duration) -> u64 {
    let up = u64::from(longest.subsec_nanos() > 0);
    longest.as_secs().saturating_add(up).saturating_add(1)
}

/// A schedule in words, a line per step; what superd adds is the last one.
fn words(stop: &Schedule, hooks: Option<&Hooks>) -> Vec<String> {
    let mut lines: Vec<String> = stop.steps.iter().map(step_in_words).collect();
    lines.push(match stop.leftover_grace {
        Duration::ZERO => "KILL whatever is left".to_owned(),
        grace => format!(
            "KILL the service if it is still there; TERM to processes it left, {} later KILL",
            Span(grace)
        ),
    });
    lines.push(format!(
        "its ports are free, at most {} later",
        Span(PORTS_WAIT)
    ));
    let hooks = hooks.map(|h| [(&h.on_crash, Kind::OnCrash), (&h.post_stop, Kind::PostStop)]);
    for (hook, kind) in hooks.into_iter().flatten() {
        if let Some(hook) = hook {
            let when = match kind {
                Kind::OnCrash => "after a crash: ",
                _ => "",
            };
            let program = hook.argv.first().map_or("", |s| s);
            lines.push(format!(
                "{when}{kind} {program}, until that is done, at most {}",
                Span(hook.wait)
            ));
        }
    }
    lines
}

fn step_in_words(step: &Step) -> String {
    let until = match &step.until {
        Until::Gone => "until it is gone".to_owned(),
        Until::PortsClosed => "until its ports are closed".to_owned(),
        Until::DescendantsGone => "until its descendants are gone".to_owned(),
        Until::Stopping => "until it says that it is stopping".to_owned(),
        Until::Log(text) => format!("until it logs \"{text}\""),
        Until::NoConnections => "until no connection is open".to_owned(),
        Until::ActionEnded => "until that is done".to_owned(),
    };
    let action = &step.action;
    let mut line = match step.wait {
        Duration::ZERO => format!("{action}, no wait"),
        wait => format!("{action}, {until}, at most {}", Span(wait)),
    };
    if !step.settle.is_zero() {
        line.push_str(&format!(", then {}", Span(step.settle)));
    }
    line
}
