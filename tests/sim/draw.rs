//! Random definitions of services: schedules of every kind, policies, graphs.

use std::rc::Rc;
use std::time::Duration;

use superd::machine::event::ServiceId;
use superd::machine::files::{OnChange, Watched};
use superd::machine::health::{Health, Remedy};
use superd::machine::hook::{Hook, Hooks};
use superd::machine::outlook::{Condition, Then, WaitFor};
use superd::machine::ready::{Probe, Question, Ready, Sign};
use superd::machine::signal::Signal;
use superd::machine::spec::{
    Action, Checker, CrashLoop, Http, HttpAddress, MaxConnections, Oneshot, Policy, Reload,
    Restart, Schedule, Spec, Step, To, Until,
};
use superd::machine::timer::Timer;

use crate::dice::Dice;

fn argv(dice: &mut Dice) -> Rc<[String]> {
    vec![format!("/bin/stop-{}", dice.below(3))].into()
}

fn http(dice: &mut Dice) -> Rc<Http> {
    Rc::new(Http {
        method: "POST".to_owned(),
        to: HttpAddress::Unix("/run/admin".to_owned()),
        host: "localhost".to_owned(),
        path: format!("/stop{}", dice.below(3)),
    })
}

fn action(dice: &mut Dice) -> Action {
    let to = *dice.pick(&[
        To::Main,
        To::Main,
        To::Main,
        To::Group,
        To::Descendants,
        To::Tree,
    ]);
    match dice.below(10) {
        0..=3 => Action::Signal(Signal::TERM, to),
        4 => Action::Signal(Signal::INT, to),
        5 => Action::Signal(Signal::QUIT, To::Main),
        6 => Action::Signal(Signal::USR2, To::Main),
        7 => Action::Run(argv(dice)),
        8 => Action::Http(http(dice)),
        _ => Action::Drain(Rc::default()),
    }
}

fn until(dice: &mut Dice, action: &Action) -> Until {
    match (action, dice.below(8)) {
        (Action::Drain(_), 0..=6) => Until::NoConnections,
        (Action::Run(_) | Action::Http(_), 0..=2) => Until::ActionEnded,
        (_, 0) => Until::PortsClosed,
        (_, 1) => Until::DescendantsGone,
        (_, 2) => Until::Stopping,
        (_, 3) => Until::Log("bye".into()),
        _ => Until::Gone,
    }
}

fn pause(dice: &mut Dice) -> Duration {
    match dice.below(6) {
        0 => Duration::ZERO,
        1 => dice.ms(3),
        2 | 3 => dice.ms(500),
        _ => dice.ms(15_000),
    }
}

pub fn schedule(dice: &mut Dice) -> Schedule {
    let steps = (0..=dice.below(3))
        .map(|_| {
            let action = action(dice);
            Step {
                until: until(dice, &action),
                action,
                wait: pause(dice),
                settle: match dice.chance(25) {
                    true => dice.ms(300),
                    false => Duration::ZERO,
                },
            }
        })
        .collect();
    Schedule {
        steps,
        leftover_grace: match dice.chance(20) {
            true => Duration::ZERO,
            false => dice.ms(3_000),
        },
        after: Duration::ZERO,
    }
}

fn restart(dice: &mut Dice) -> Restart {
    Restart {
        policy: *dice.pick(&[
            Policy::Always,
            Policy::Always,
            Policy::OnFailure,
            Policy::Never,
        ]),
        delay: Duration::from_millis(1 + dice.below(500)),
        max_delay: Duration::from_secs(1 + dice.below(30)),
        stable: Duration::from_millis(1 + dice.below(10_000)),
        crash_loop: dice.chance(50).then(|| CrashLoop {
            burst: dice.below(6) as u32,
            within: Duration::from_secs(1 + dice.below(60)),
            retry: Duration::from_secs(1 + dice.below(300)),
        }),
    }
}

fn ready(dice: &mut Dice) -> Option<Rc<Ready>> {
    let probe = |dice: &mut Dice, what| {
        Sign::Probe(Rc::new(Probe {
            what,
            interval: Duration::from_millis(10 + dice.below(2_000)),
            timeout: Duration::from_millis(1 + dice.below(3_000)),
            memory: None,
        }))
    };
    let sign = match dice.below(10) {
        0 => Sign::Notify,
        1 => Sign::Descriptor(3),
        2 => Sign::Log("up".into()),
        3 => Sign::After(dice.ms(3_000)),
        4 => {
            let argv = argv(dice);
            probe(dice, Question::Exec(argv))
        }
        5 => probe(dice, Question::File("/run/x.pid".into())),
        _ => return None,
    };
    let limited = match sign {
        Sign::After(_) | Sign::Exit => 0,
        Sign::Probe(_) => 60,
        Sign::Notify | Sign::Descriptor(_) | Sign::Log(_) => 100,
    };
    let within = dice
        .chance(limited)
        .then(|| Duration::from_millis(1 + dice.below(20_000)));
    Some(Rc::new(Ready { sign, within }))
}

fn health(dice: &mut Dice) -> Rc<Health> {
    let what = Question::Exec(argv(dice));
    let probe = Probe {
        what,
        interval: Duration::from_millis(10 + dice.below(2_000)),
        timeout: Duration::from_millis(1 + dice.below(3_000)),
        memory: None,
    };
    let remedy = match dice.below(4) {
        0 => Remedy::Stop,
        1 => Remedy::Run(argv(dice)),
        _ => Remedy::Restart,
    };
    Rc::new(Health {
        probe: Rc::new(probe),
        failures: 1 + dice.below(3) as u32,
        remedy,
    })
}

/// A definition that depends on some of `others` only, which come before it.
pub fn spec(dice: &mut Dice, id: ServiceId, others: &[ServiceId]) -> Spec {
    let mut after = Vec::new();
    let mut requires = Vec::new();
    let (mut wants, mut conflicts) = (Vec::new(), Vec::new());
    let mut restart_with = Vec::new();
    let autostart = dice.chance(80);
    let companions = *dice.pick(&[0, 0, 10, 60]);
    for other in others.iter().filter(|other| **other < id) {
        match dice.below(12) {
            0 | 1 => after.push(*other),
            // Two that conflict are never required both: `config` refuses that.
            2..=4 if other.0 % 3 != 2 => requires.push(*other),
            5 => wants.push(*other),
            // Never both from the start.
            6 | 7 if !autostart && other.0 % 3 == 2 && id.0 % 3 == 2 => conflicts.push(*other),
            _ => {}
        }
        // Often besides another edge to the same one.
        if dice.chance(companions) {
            restart_with.push(*other);
        }
    }
    let oneshot = dice
        .chance(12)
        .then(|| *dice.pick(&[Oneshot::Remains, Oneshot::Again]));
    if oneshot.is_some() {
        restart_with.clear(); // `config` refuses that
    }
    let ready = match oneshot {
        Some(_) => Some(Rc::new(Ready {
            sign: Sign::Exit,
            within: dice.chance(50).then(|| dice.ms(20_000)),
        })),
        None => ready(dice),
    };
    let health = (oneshot.is_none() && dice.chance(20)).then(|| health(dice));
    let watchdog = (oneshot.is_none() && dice.chance(10))
        .then(|| Duration::from_millis(1 + dice.below(5_000)));
    let wait_for = dice.chance(15).then(|| {
        Rc::new(WaitFor {
            all: vec![Condition::Interface("wan".into()), Condition::Synced],
            timeout: dice.chance(50).then(|| dice.ms(20_000)),
            then: *dice.pick(&[Then::Fail, Then::Start]),
        })
    });
    let stop = schedule(dice);
    let (hooks, stop) = hooks(dice, oneshot.is_some(), stop);
    Spec {
        name: format!("s{}", id.0).into(),
        autostart,
        after,
        requires,
        wants,
        restart_with,
        conflicts,
        oneshot,
        wait_for,
        timer: (oneshot.is_some() && dice.chance(70)).then(|| match dice.chance(50) {
            true => Timer::Every(Duration::from_secs(1 + dice.below(30))),
            false => Timer::At(dice.below(86_400) as u32),
        }),
        ready,
        health,
        watchdog,
        stop,
        restart: restart(dice),
        success_exit: vec![3],
        success_signal: Vec::new(),
        reload: match dice.below(4) {
            0 => None,
            1 => Some(Reload::Signal(Signal::HUP)),
            2 => Some(Reload::Http(http(dice), pause(dice))),
            _ => Some(Reload::Run(argv(dice), pause(dice))),
        },
        check: dice.chance(30).then(|| Checker {
            argv: argv(dice),
            wait: pause(dice),
        }),
        watch: dice.chance(30).then(|| {
            Rc::new(Watched {
                files: vec!["/etc/one".into(), "/etc/two".into()],
                then: *dice.pick(&[OnChange::Restart, OnChange::Restart, OnChange::Reload]),
            })
        }),
        max_connections: dice
            .chance(30)
            .then_some(MaxConnections { high: 20, low: 10 }),
        hooks,
    }
}

/// The hooks of a service, and its schedule with them.
fn hooks(dice: &mut Dice, oneshot: bool, mut stop: Schedule) -> (Option<Rc<Hooks>>, Rc<Schedule>) {
    if dice.chance(60) {
        return (None, Rc::new(stop));
    }
    let mut hook = |chance| {
        dice.chance(chance).then(|| Hook {
            argv: argv(dice),
            wait: Duration::from_millis(1 + dice.below(10_000)),
        })
    };
    let hooks = Hooks {
        pre_start: hook(60),
        post_start: hook(40).filter(|_| !oneshot),
        on_crash: hook(40),
        post_stop: hook(60),
    };
    if let Some(first) = hook(50) {
        stop.steps.insert(0, Step::hook(&first));
    }
    stop.after = hooks.after();
    (Some(Rc::new(hooks)), Rc::new(stop))
}
