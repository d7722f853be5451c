//! What `status` tells: the machine's state in the words of the protocol.

use std::rc::Rc;
use std::time::Duration;

use super::tree::Usage;
use crate::control::reply::{Awaiting, Node, Status, StopStatus};
use crate::machine::event::{Pid, ServiceId};
use crate::machine::report::{Exit, Verdict};
use crate::machine::service::{Readiness, Rest, Service, State, Want};
use crate::machine::supervisor::Supervisor;
use crate::machine::time::Tick;
use crate::map::Map;

/// State of a service. `usage` is asked for only when something runs.
pub fn status(
    machine: &Supervisor,
    id: ServiceId,
    now: Tick,
    usage: impl FnOnce() -> Usage,
) -> Option<Status> {
    let service = machine.service(id)?;
    let used = match service.is_at_rest() {
        true => Usage::default(),
        false => usage(),
    };
    let is_waiting = matches!(service.state, State::Waiting);
    let (drain, connections) = drain(service);
    Some(Status {
        service: service.spec.name.to_string(),
        state: state_word(service).to_owned(),
        want: match service.want {
            Want::Up => "up".to_owned(),
            Want::Down => "down".to_owned(),
        },
        since_ms: ms(now - service.since),
        pid: service.pid().map(|Pid(n)| n),
        processes: used.processes,
        adopted: service.run().is_some_and(|run| run.adopted),
        memory_kib: used.memory_kib,
        restarts: service.restarts,
        last_exit: last_exit(service),
        retry_ms: match &service.state {
            State::Backoff { until, .. } => Some(ms(*until - now)),
            State::Down(_)
            | State::Waiting
            | State::Starting(_)
            | State::Up(_)
            | State::Stopping(..)
            | State::Killing(..)
            | State::Sweeping(_) => None,
        },
        next_run_ms: service.next_run().map(|at| ms(at - now)),
        waiting_on: names(is_waiting, || machine.waits_for(id)),
        unwanted: names(is_waiting, || machine.unwanted(id)),
        blocked: machine.why_blocked(id).unwrap_or_default(),
        stop: stop_status(service, now),
        connections,
        drain,
        max_connections: service
            .run()
            .and(service.spec.max_connections)
            .map(|max| max.high),
        limited: service.run().is_some_and(|run| run.limited),
        ready: ready_word(service).map(str::to_owned),
        awaiting: awaiting(service, now),
        health: service.watch.as_ref().and_then(|w| w.progress()),
        reloading: service.run().is_some_and(|run| run.reloading),
        says: service.says.clone(),
    })
}

/// Every service and what it depends on, in the order of starts.
pub fn graph(machine: &Supervisor) -> Vec<Node> {
    let mut levels: Map<ServiceId, u32> = Map::new();
    let mut nodes = Vec::new();
    for id in machine.order().line() {
        let Some(service) = machine.service(*id) else {
            continue;
        };
        let edges = machine.order().of(*id);
        let before = edges.before.iter().filter_map(|b| levels.get(b));
        let level = before.max().map_or(1, |highest| highest + 1);
        levels.insert(*id, level);
        let names = |ids: &[ServiceId]| {
            let known = ids.iter().filter_map(|id| machine.service(*id));
            known.map(|s| s.spec.name.to_string()).collect()
        };
        let with = &service.spec.restart_with;
        let with: Vec<ServiceId> = edges
            .before
            .iter()
            .filter(|id| with.contains(id))
            .copied()
            .collect();
        let strong = [&edges.requires, &edges.wants, &with];
        let is_weak = |id: &&ServiceId| !strong.iter().any(|ids| ids.contains(id));
        let after: Vec<ServiceId> = edges.before.iter().filter(is_weak).copied().collect();
        nodes.push(Node {
            service: service.spec.name.to_string(),
            state: state_word(service).to_owned(),
            level,
            requires: names(&edges.requires),
            wants: names(&edges.wants),
            after: names(&after),
            restart_with: names(&with),
            conflicts: names(&edges.rivals),
        });
    }
    nodes.sort_unstable_by(|a, b| (a.level, &a.service).cmp(&(b.level, &b.service)));
    nodes
}

fn names(wanted: bool, all: impl FnOnce() -> Vec<Rc<str>>) -> Vec<String> {
    match wanted {
        true => all().iter().map(|n| n.to_string()).collect(),
        false => Vec::new(),
    }
}

/// As `ready` in its configuration says; where there is none, as it says itself.
fn ready_word(service: &Service) -> Option<&'static str> {
    let run = service.run()?;
    if run.awaits.is_some() {
        return Some("no");
    }
    if service.spec.ready.is_some() && matches!(service.state, State::Up(_)) {
        return Some("yes");
    }
    Some(match run.ready {
        Readiness::NotTold => "not-told",
        Readiness::No => "no",
        Readiness::Yes => "yes",
    })
}

fn awaiting(service: &Service, now: Tick) -> Option<Awaiting> {
    let State::Starting(run) = &service.state else {
        return None;
    };
    if let Some(hook) = run.hook.as_ref().filter(|_| run.is_preparing()) {
        let (what, elapsed, longest) = hook.progress(now);
        return Some(Awaiting {
            what,
            left_ms: Some(ms(longest.saturating_sub(elapsed))),
        });
    }
    let wait = run.awaits.as_ref().filter(|w| w.executing)?;
    let (what, left) = wait.progress(now);
    Some(Awaiting {
        what,
        left_ms: left.map(ms),
    })
}

fn state_word(service: &Service) -> &'static str {
    match &service.state {
        State::Down(Rest::Stopped | Rest::Finished) => "down",
        State::Down(Rest::Failed(_)) => "failed",
        State::Down(Rest::Done) => "done",
        State::Down(Rest::Scheduled) => "scheduled",
        State::Waiting if service.blocked_by().is_some() => "failed",
        State::Waiting => "waiting",
        State::Starting(_) => "starting",
        State::Up(_) => "up",
        State::Stopping(..) => "stopping",
        State::Killing(..) => "killing",
        State::Sweeping(_) => "sweeping",
        State::Backoff { slow: true, .. } => "failed",
        State::Backoff { slow: false, .. } => "backoff",
    }
}

fn last_exit(service: &Service) -> String {
    if let Some(error) = service.error() {
        return error.to_owned();
    }
    match service.last {
        None => String::new(),
        Some((exit, verdict)) => exit_words(exit, verdict),
    }
}

/// `clean (status 0)`, `crashed (SIGSEGV)`.
pub fn exit_words(exit: Exit, verdict: Verdict) -> String {
    match exit {
        Exit::Code(n) => format!("{verdict} (status {n})"),
        Exit::Signal(s) => format!("{verdict} (SIG{s})"),
        Exit::Unknown => format!("{verdict} (status unknown)"),
    }
}

fn stop_status(service: &Service, now: Tick) -> Option<StopStatus> {
    let of = |(step, elapsed, of): (String, Duration, Duration), left, absorbed| StopStatus {
        step,
        step_ms: ms(elapsed),
        step_of_ms: ms(of),
        left_ms: ms(left),
        absorbed,
    };
    match &service.state {
        State::Stopping(_, stop) => {
            Some(of(stop.progress(now), stop.left(now), stop.order.absorbed))
        }
        State::Killing(_, stop, kill) => {
            let step = "KILL sent to the tree".to_owned();
            let progress = (step, now - kill.since, kill.next - kill.since);
            Some(of(progress, kill.next - now, stop.order.absorbed))
        }
        State::Sweeping(end) => {
            let (step, elapsed, whole) = end.progress(now);
            let absorbed = end.stop.as_ref().map_or(0, |s| s.order.absorbed);
            Some(of(
                (step, elapsed, whole),
                whole.saturating_sub(elapsed),
                absorbed,
            ))
        }
        State::Down(_)
        | State::Waiting
        | State::Starting(_)
        | State::Up(_)
        | State::Backoff { .. } => None,
    }
}

/// The drain outside of a stop, and the open connections as far as they are counted.
fn drain(service: &Service) -> (Option<String>, Option<u32>) {
    let hold = match &service.state {
        State::Stopping(_, stop) => return (None, stop.connections()),
        State::Up(run) => run.drain.as_ref(),
        State::Down(_)
        | State::Waiting
        | State::Starting(_)
        | State::Killing(..)
        | State::Sweeping(_)
        | State::Backoff { .. } => None,
    };
    let word = |action: Option<_>| match action.is_some() {
        true => "draining",
        false => "drained",
    };
    let drain = hold.map(|hold| word(hold.action).to_owned());
    (drain, hold.and_then(|hold| hold.connections))
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
