//! What is made of what a section and the defaults say, and the checks that concern one service.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::values::{Kind, CHECK_TIMEOUT, CRASH_LOOP};
use super::Said;
use crate::config::model::{Made, Output, PolicyDef, Program, ServiceDef};
use crate::config::problem::Place;
use crate::config::read::{Reader, Spots};
use crate::config::{confine, hooks, limits, ready};
use crate::machine::files::{OnChange, Watched};
use crate::machine::health::Health;
use crate::machine::ready::Sign;
use crate::machine::spec::{Checker, Oneshot, Policy, Reload, Restart, Schedule, Until};

/// Makes a definition of what a service's section says and what the defaults say, and
/// checks what concerns this service alone. None when there is nothing to execute.
pub(in crate::config) fn define(
    r: &mut Reader,
    name: &str,
    section: Range<usize>,
    mut said: Said,
    defaults: &Said,
) -> Option<ServiceDef> {
    let keys = std::mem::take(&mut said.spots);
    let at = Spots { section, keys };
    let stop = said.schedule(defaults);
    let notify = said.notify.or(defaults.notify).unwrap_or(true);
    let to = said.output.take().or_else(|| defaults.output.clone());
    let (output, log_file) = to.unwrap_or((Output::Log, None));
    let parts = |s: &Said| ready::Parts {
        ready: s.ready.clone(),
        after: s.ready_after,
        within: s.start_timeout,
    };
    let oneshot = define_oneshot(r, &at, &said);
    let ready = match oneshot {
        Some(_) => ready::of_oneshot(r, &at, &parts(&said)),
        None => ready::define(r, &at, parts(&said), parts(defaults), notify, output),
    };
    if let Some(Sign::Descriptor(number)) = ready.as_ref().map(|r| &r.sign) {
        let sockets = i32::try_from(said.sockets.len()).unwrap_or(i32::MAX);
        if *number < sockets.saturating_add(3) {
            r.problem(
                at.of(&["ready", "sockets"]),
                format_args!("`notify-fd` = {number} is the number of one of its `sockets`"),
            );
        }
    }
    let (health, watchdog) = define_watch(r, &at, &said, defaults, oneshot, notify);
    let policy = match (said.restart.or(defaults.restart), oneshot) {
        // What the defaults say is about those that run.
        (None | Some(Policy::Always), Some(_)) => Policy::OnFailure,
        (policy, _) => policy.unwrap_or(Policy::Always),
    };
    let restart = Restart {
        policy,
        delay: said
            .restart_delay
            .or(defaults.restart_delay)
            .unwrap_or(Duration::from_millis(200)),
        max_delay: said
            .max_delay
            .or(defaults.max_delay)
            .unwrap_or(Duration::from_secs(30)),
        stable: said
            .stable
            .or(defaults.stable)
            .unwrap_or(Duration::from_secs(10)),
        crash_loop: said
            .crash_loop
            .or_else(|| defaults.crash_loop.clone())
            .unwrap_or(Some(CRASH_LOOP)),
    };
    check_restart(r, &at, &restart);
    check_stop(r, &at, &stop, notify, output);
    let reload = said.reload.take();
    let reload = reload.or_else(|| defaults.reload.clone()).flatten();
    let own_hooks = std::mem::take(&mut said.hooks);
    let (hooks, stop) = hooks::define(r, &at, own_hooks, &defaults.hooks, oneshot, stop);
    check_reload(r, &at, &stop, &reload);
    let watch = define_files(
        r,
        &at,
        (said.watch.take(), said.on_change),
        defaults,
        reload.is_some(),
    );
    let check = said
        .check
        .take()
        .or_else(|| defaults.check.clone())
        .flatten();
    if check.is_none() && said.check_timeout.is_some() {
        let text = "`check-timeout` goes with `check`";
        r.problem(at.of(&["check-timeout"]), text);
    }
    let check_timeout = said.check_timeout.or(defaults.check_timeout);
    let check = check.map(|argv| Checker {
        argv,
        wait: check_timeout.unwrap_or(CHECK_TIMEOUT),
    });
    let success = said.success.or_else(|| defaults.success.clone());
    let (success_exit, success_signal) = success.unwrap_or_default();
    let confine = confine::define(r, &at, said.confine, &defaults.confine);
    let Some(command) = said.command else {
        // One that is there is wrong: that was said.
        if at.keys.iter().all(|(key, _)| *key != "command") {
            r.problem(at.section, "has no `command`");
        }
        return None;
    };
    let mut environment = defaults.environment.clone();
    environment.extend(said.environment);
    Some(ServiceDef {
        name: name.to_owned(),
        place: r.place(&at.section).to_string(),
        made: Made::InFile,
        program: Rc::new(Program {
            command,
            user: said.user.or_else(|| defaults.user.clone()),
            group: said.group.or_else(|| defaults.group.clone()),
            groups: said.groups.or_else(|| defaults.groups.clone()),
            umask: said.umask.or(defaults.umask).unwrap_or(0o022),
            nice: said.nice.or(defaults.nice),
            oom_score_adj: said.oom_score_adj.or(defaults.oom_score_adj),
            environment,
            environment_file: said
                .environment_file
                .or_else(|| defaults.environment_file.clone()),
            directory: said.directory.or_else(|| defaults.directory.clone()),
            limits: limits::merged(said.limits, &defaults.limits),
            notify,
            watchdog,
            output,
            log_file,
            sockets: said.sockets,
            confine,
        }),
        policy: PolicyDef {
            autostart: said.autostart.or(defaults.autostart).unwrap_or(true),
            after: names(said.after),
            requires: names(said.requires),
            wants: names(said.wants),
            restart_with: names(said.restart_with),
            conflicts: names(said.conflicts),
            oneshot,
            timer: said.timers.first().copied(),
            wait_for: said
                .wait_for
                .or_else(|| defaults.wait_for.clone())
                .flatten(),
            ready,
            health,
            stop,
            restart,
            success_exit,
            success_signal,
            reload,
            check,
            watch,
            max_connections: said.max_connections.or(defaults.max_connections).flatten(),
            hooks,
        },
    })
}

/// What is watched when it is up. A oneshot never is.
fn define_watch(
    r: &mut Reader,
    at: &Spots,
    said: &Said,
    defaults: &Said,
    oneshot: Option<Oneshot>,
    notify: bool,
) -> (Option<Rc<Health>>, Option<Duration>) {
    if oneshot.is_some() {
        if said.health.iter().flatten().next().is_some() || said.watchdog.flatten().is_some() {
            r.problem(
                at.of(&["health", "watchdog"]),
                "a oneshot is watched by `start-timeout` only: neither `health` nor `watchdog`",
            );
        }
        return (None, None);
    }
    let health = said.health.clone().or_else(|| defaults.health.clone());
    let watchdog = said.watchdog.or(defaults.watchdog).flatten();
    if watchdog.is_some() && !notify {
        let text = "`watchdog` needs notify = true";
        r.problem(at.of(&["watchdog", "notify"]), text);
    }
    (health.flatten(), watchdog)
}

fn define_oneshot(r: &mut Reader, at: &Spots, said: &Said) -> Option<Oneshot> {
    if said.kind != Some(Kind::Oneshot) {
        if said.remain.is_some() || !said.timers.is_empty() {
            let text = "`remain`, `every` and `at` go with type = \"oneshot\"";
            r.problem(at.of(&["remain", "every", "at"]), text);
        }
        return None;
    }
    if said.timers.len() > 1 {
        r.problem(at.of(&["every", "at"]), "`every` or `at`, not both");
    }
    if !said.restart_with.is_empty() {
        r.problem(
            at.of(&["restart-with"]),
            "a oneshot is never restarted: `restart-with` goes with what stays (`requires`, `after`)",
        );
    }
    if said.restart == Some(Policy::Always) {
        r.problem(
            at.of(&["restart"]),
            "a oneshot that has succeeded is not started again: restart = \"on-failure\" or \"never\"",
        );
    }
    Some(match said.remain {
        None | Some(true) => Oneshot::Remains,
        Some(false) => Oneshot::Again,
    })
}

/// The names, sorted and each once: their order in the file means nothing, and a
/// change of it is no change.
fn names(list: Vec<(String, Place)>) -> Vec<String> {
    let mut names: Vec<String> = list.into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn check_restart(r: &mut Reader, at: &Spots, restart: &Restart) {
    if restart.delay > restart.max_delay {
        let text = "`restart-delay` is longer than `max-delay`";
        r.problem(at.of(&["restart-delay", "max-delay"]), text);
    }
    let is_quick = restart.delay.is_zero() || restart.stable.is_zero();
    let spins = is_quick && restart.crash_loop.is_none();
    if spins && restart.policy != Policy::Never {
        r.problem(
            at.of(&["restart-delay", "stable", "crash-loop"]),
            "crash-loop = false with \"0s\" as `restart-delay` or `stable` would restart without any pause",
        );
    }
}

/// A step that waits for what nobody can see would wait its whole time.
fn check_stop(r: &mut Reader, at: &Spots, stop: &Schedule, notify: bool, output: Output) {
    let waits = |what: fn(&Until) -> bool| stop.steps.iter().any(|s| what(&s.until));
    if !notify && waits(|u| matches!(u, Until::Stopping)) {
        r.problem(
            at.of(&["stop", "notify"]),
            "until = \"stopping\" in `stop` needs notify = true",
        );
    }
    let unseen = matches!(output, Output::Null | Output::Inherit);
    if unseen && waits(|u| matches!(u, Until::Log(_))) {
        r.problem(
            at.of(&["stop", "output"]),
            "until = \"log=...\" in `stop` needs output = \"log\", \"ring\" or a file",
        );
    }
}

/// A signal that begins the stop would come twice: for the reload, and for the stop.
fn check_reload(r: &mut Reader, at: &Spots, stop: &Schedule, reload: &Option<Reload>) {
    match reload {
        Some(Reload::Signal(signal)) if stop.sends_to_main(*signal) => r.problem(
            at.of(&["reload", "stop"]),
            format_args!("`reload` sends {signal}, which `stop` sends too: it must come once"),
        ),
        Some(Reload::Signal(_) | Reload::Run(..) | Reload::Http(..)) | None => {}
    }
}

/// What is done when a file changes: a reload where the service can.
fn define_files(
    r: &mut Reader,
    at: &Spots,
    (watch, on_change): (Option<Vec<Rc<str>>>, Option<OnChange>),
    defaults: &Said,
    reload: bool,
) -> Option<Rc<Watched>> {
    let files = watch.or_else(|| defaults.watch.clone());
    let files = files.unwrap_or_default();
    if files.is_empty() {
        if on_change.is_some() {
            let text = "`on-change` goes with `watch`";
            r.problem(at.of(&["on-change", "watch"]), text);
        }
        return None;
    }
    let then = match on_change.or(defaults.on_change) {
        Some(OnChange::Reload) if !reload => {
            let text = "on-change = \"reload\" needs `reload`";
            r.problem(at.of(&["on-change"]), text);
            return None;
        }
        Some(then) => then,
        None if reload => OnChange::Reload,
        None => OnChange::Restart,
    };
    Some(Rc::new(Watched { files, then }))
}
