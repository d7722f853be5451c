//! Every state under every event, for both wishes, as it is meant to be.
//!
//! The table was written from DESIGN, not printed from the machine: where they differ,
//! one of them is wrong, and each line can be argued about. A line reads
//!
//!     event, event ... -> state want: what is done at once
//!
//! and `-> -` means that nothing changes and nothing is done; `up up 8` that process 8 is
//! the main one. `waiting` and `backoff`
//! with want = down do not exist: a stop ends them at once, as their `stop` lines say.
//!
//! Longer than a file should be: it is one table.

use std::rc::Rc;

use super::event::{
    ActionId, Change, Check, Event, Found, Instance, Notice, Outcome, Pid, Target, Verb, Wait,
};
use super::files::{OnChange, Watched};
use super::hook::{Hook, Hooks};
use super::outlook::{Condition, Then, WaitFor};
use super::ready::{Ready, Sign};
use super::report::{Exit, Origin, SpawnError, Stage};
use super::rig::{ms, schedule, signal, step, Rig, A, B};
use super::service::{State, Want};
use super::signal::Signal;
use super::spec::{Action, Oneshot, Policy, Reload, Spec, Until};
use super::testing::spec;
use super::timer::Timer;

const EVENTS: [&str; 43] = [
    "start",
    "stop",
    "stop-now",
    "restart",
    "restart-now",
    "reload",
    "hup",
    "winch",
    "drain",
    "undrain",
    "gone",
    "program",
    "policy",
    "client-gone",
    "shutdown",
    "shutdown-now",
    "spawned",
    "not-spawned",
    "execed",
    "exec-failed",
    "exited",
    "exited-left",
    "exited-unsure",
    "looked",
    "noted",
    "ports-free",
    "tree-empty",
    "stopping",
    "ready",
    "reloading",
    "main",
    "action-ended",
    "connections",
    "output",
    "clock",
    "orphan",
    "hook-ended",
    "hook-failed",
    "commands-gone",
    "world-there",
    "world-lacks",
    "files",
    "timeout",
];

const TABLE: &str = "
# down down: it was never started
drain -> down down: reply refused
undrain -> down down: reply already
start, restart, restart-now -> starting up: spawn a1
stop, stop-now -> down down: reply already
reload, hup, winch -> down down: reply refused
gone -> none none: forget a
shutdown, shutdown-now -> down down: finish
program, policy, client-gone -> -
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, main, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, timeout, world-there, world-lacks, files -> -

# down up: it has failed and its policy is never
drain -> down up: reply refused
undrain -> down up: reply already
start, restart, restart-now, program -> starting up: spawn a2
stop, stop-now -> down down: reply already
reload, hup, winch -> down up: reply refused
gone -> none none: forget a
shutdown, shutdown-now -> down up: finish
policy, client-gone -> -
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, main, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, timeout, world-there, world-lacks, files -> -

# waiting up: it requires b, which is down
drain -> waiting up: reply refused
undrain -> waiting up: reply already
start, restart, restart-now -> waiting up: spawn b1
stop, stop-now -> down down: reply done
reload, hup, winch -> waiting up: reply refused
gone -> none none: forget a
shutdown, shutdown-now -> down up: finish
program, policy, client-gone -> -
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, main, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, timeout, world-there, world-lacks, files -> -

# blocked up: it requires b, which has failed
drain -> waiting up: reply refused
undrain -> waiting up: reply already
start, restart, restart-now -> waiting up: spawn b2
stop, stop-now -> down down: reply done
reload, hup, winch -> waiting up: reply refused
gone -> none none: forget a
shutdown, shutdown-now -> down up: finish
program, policy, client-gone -> -
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, main, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, timeout, world-there, world-lacks, files -> -

# looking up: nothing but the world lets it wait, and something there is missing
drain -> waiting up: reply refused
undrain -> waiting up: reply already
start, restart -> waiting up:
restart-now -> waiting up: look away a, look out a
stop, stop-now -> down down: look away a, reply done
reload, hup, winch -> waiting up: reply refused
gone -> none none: look away a, forget a
shutdown, shutdown-now -> down up: look away a, finish
program, policy, client-gone -> -
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, main, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, world-lacks, files -> -
world-there -> starting up: spawn a1, look away a
timeout -> backoff up: look away a

# starting up: ordered, not forked yet
drain -> starting up: reply refused
undrain -> starting up: reply already
start, restart, restart-now, program, policy, client-gone -> -
stop, stop-now, gone -> starting down:
reload, hup, winch -> starting up: reply refused
shutdown, shutdown-now -> -
spawned -> -
not-spawned -> backoff up: release a1
execed -> up up:
exec-failed -> -
exited -> starting up: release a1, spawn a2
exited-left -> sweeping up: TERM to tree of a1
exited-unsure -> sweeping up: look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, timeout, world-there, world-lacks, files -> -
main -> -

# forked up: forked, not executing yet
drain -> starting up: reply refused
undrain -> starting up: reply already
start, policy, client-gone -> -
stop, gone -> stopping down: look notify a1
restart, program, shutdown -> stopping up: look notify a1
stop-now -> killing down: kill a1
restart-now, shutdown-now -> killing up: kill a1
reload, hup, winch -> starting up: reply refused
spawned, not-spawned, exec-failed -> -
execed -> up up:
exited -> starting up: release a1, spawn a2
exited-left -> sweeping up: TERM to tree of a1
exited-unsure -> sweeping up: look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, timeout, world-there, world-lacks, files -> -
main -> starting up 8:

# unready up: executing, and waited for until it says READY=1
drain -> starting up: reply refused
undrain -> starting up: reply already
start, policy, client-gone -> -
stop, gone -> stopping down: look notify a1
restart, program, shutdown -> stopping up: look notify a1
stop-now -> killing down: kill a1
restart-now, shutdown-now -> killing up: kill a1
reload, hup, winch -> starting up: reply refused
spawned, not-spawned, execed, exec-failed -> -
exited -> starting up: release a1, spawn a2
exited-left -> sweeping up: TERM to tree of a1
exited-unsure -> sweeping up: look tree a1
looked, noted, ports-free, tree-empty, stopping, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, world-there, world-lacks, files -> -
ready -> up up:
timeout -> stopping up: look notify a1
main -> starting up 8:

# preparing up: its pre-start runs
drain -> starting up: reply refused
undrain -> starting up: reply already
start, policy, client-gone -> -
stop, stop-now, gone -> sweeping down: end action a1, look commands a1
restart, restart-now, program, shutdown, shutdown-now -> sweeping up: end action a1, look commands a1
reload, hup, winch -> starting up: reply refused
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure, main -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, world-there, world-lacks, commands-gone, files -> -
hook-ended, hook-failed -> starting up: look commands a1
timeout -> starting up: end action a1, look commands a1

# prepared up: its pre-start is over, and has left something behind
drain -> starting up: reply refused
undrain -> starting up: reply already
start, policy, client-gone -> -
stop, stop-now, gone -> sweeping down: look commands a1
restart, restart-now, program, shutdown, shutdown-now -> sweeping up: look commands a1
reload, hup, winch -> starting up: reply refused
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure, main -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, world-there, world-lacks, hook-ended, hook-failed, files -> -
orphan, timeout -> starting up: look commands a1
commands-gone -> starting up: spawn a1

# cleaning up: it has ended by itself, and its post-stop runs
drain, undrain -> sweeping up: reply refused
start, policy, client-gone, restart, program, shutdown -> -
stop, gone -> sweeping down:
stop-now -> sweeping down: end action a1, look commands a1
restart-now, shutdown-now -> sweeping up: end action a1, look commands a1
reload, hup, winch -> sweeping up: reply refused
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure, main -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, world-there, world-lacks, commands-gone, files -> -
orphan -> -
hook-ended, hook-failed -> sweeping up: look commands a1
timeout -> sweeping up: end action a1, look commands a1

# cleaning down: stopped in order, and its post-stop runs
drain, undrain -> sweeping down: reply refused
stop, policy, client-gone, program, shutdown, gone -> -
start, restart -> sweeping up:
restart-now -> sweeping up: end action a1, look commands a1
stop-now, shutdown-now -> sweeping down: end action a1, look commands a1
reload, hup, winch -> sweeping down: reply refused
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure, main -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, world-there, world-lacks, commands-gone, files -> -
orphan -> -
hook-ended, hook-failed -> sweeping down: look commands a1
timeout -> sweeping down: end action a1, look commands a1

# done up: a oneshot that has ended with success, and remains
drain -> down up: reply refused
undrain -> down up: reply already
start -> down up: reply already
restart, restart-now, program -> starting up: spawn a2
stop, stop-now -> down down: reply done
reload, hup, winch -> down up: reply refused
gone -> none none: forget a
shutdown, shutdown-now -> down up: finish
policy, client-gone -> -
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, main, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, timeout, world-there, world-lacks, files -> -

# timed up: a oneshot that has ended with success, and is run again by its timer
drain -> down up: reply refused
undrain -> down up: reply already
start, restart, restart-now, program -> starting up: spawn a2
stop, stop-now -> down down: reply done
reload, hup, winch -> down up: reply refused
gone -> none none: forget a
shutdown, shutdown-now -> down up: finish
policy, client-gone -> -
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, main, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, files, world-there, world-lacks -> -
timeout -> starting up: spawn a2

# scheduled up: a oneshot with a time of day, which has not come yet, in an hour
drain -> down up: reply refused
undrain -> down up: reply already
start, restart, restart-now -> starting up: spawn a1
program, policy -> down up: read the clock
stop, stop-now -> down down: reply done
reload, hup, winch -> down up: reply refused
gone -> none none: watch no clock, forget a
shutdown, shutdown-now -> down up: finish
client-gone -> -
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, main, action-ended, connections, output, orphan, hook-ended, hook-failed, commands-gone, files, world-there, world-lacks -> -
timeout -> down up: read the clock
clock -> starting up: spawn a1

# starting down: a stop came before the fork
drain -> starting down: reply refused
undrain -> starting down: reply already
start -> starting up: reply failed
restart, restart-now -> starting up:
stop, stop-now, gone, program, policy, client-gone, shutdown, shutdown-now -> -
reload, hup, winch -> starting down: reply refused
spawned -> stopping down: look notify a1
not-spawned -> down down: release a1, reply done
execed -> stopping down: look notify a1
exec-failed -> -
exited -> down down: release a1, reply done, exited by itself
exited-left -> sweeping down: TERM to tree of a1
exited-unsure -> sweeping down: look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, timeout, world-there, world-lacks, files -> -
main -> -

# up up
drain -> up up: drain a1
undrain -> up up: reply already
start -> up up: reply already
stop, gone -> stopping down: look notify a1
restart, program, shutdown -> stopping up: look notify a1
stop-now -> killing down: kill a1
restart-now, shutdown-now -> killing up: kill a1
reload, hup -> up up: HUP a1, reply done
winch -> up up: WINCH a1, reply done
policy, client-gone, spawned, not-spawned, execed, exec-failed -> -
exited -> starting up: release a1, spawn a2
exited-left -> sweeping up: TERM to tree of a1
exited-unsure -> sweeping up: look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, timeout, world-there, world-lacks, files -> -
main -> up up 8:

# drained up: new connections are held back, outside of a stop
drain -> -
undrain -> up up: end action a1, let go a1, reply done
start -> up up: reply already
stop, gone -> stopping down: end action a1, look notify a1
restart, program, shutdown -> stopping up: end action a1, look notify a1
stop-now -> killing down: end action a1, kill a1
restart-now, shutdown-now -> killing up: end action a1, kill a1
reload, hup -> up up: HUP a1, reply done
winch -> up up: WINCH a1, reply done
policy, client-gone, spawned, not-spawned, execed, exec-failed -> -
exited -> starting up: end action a1, let go a1, release a1, spawn a2
exited-left -> sweeping up: end action a1, TERM to tree of a1
exited-unsure -> sweeping up: end action a1, look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, timeout, world-there, world-lacks, files -> -
main -> up up 8:

# edited up: a file that it watches has changed a moment ago
drain -> up up: drain a1
undrain -> up up: reply already
start -> up up: reply already
stop, gone -> stopping down: look notify a1
restart, program, shutdown, timeout -> stopping up: look notify a1
stop-now -> killing down: kill a1
restart-now, shutdown-now -> killing up: kill a1
reload, hup -> up up: HUP a1, reply done
winch -> up up: WINCH a1, reply done
policy, client-gone, spawned, not-spawned, execed, exec-failed -> -
exited -> starting up: release a1, watch files of a, spawn a2
exited-left -> sweeping up: TERM to tree of a1
exited-unsure -> sweeping up: look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, world-there, world-lacks, files -> -
main -> up up 8:

# watched up: it has a watchdog
drain -> up up: drain a1
undrain -> up up: reply already
start -> up up: reply already
stop, gone -> stopping down: look notify a1
restart, program, shutdown -> stopping up: look notify a1
stop-now -> killing down: kill a1
restart-now, shutdown-now -> killing up: kill a1
reload, hup -> up up: HUP a1, reply done
winch -> up up: WINCH a1, reply done
policy, client-gone, spawned, not-spawned, execed, exec-failed -> -
exited -> starting up: release a1, spawn a2
exited-left -> sweeping up: TERM to tree of a1
exited-unsure -> sweeping up: look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, world-there, world-lacks, files -> -
timeout -> stopping up: look notify a1
main -> up up 8:

# up down: its stop waits for b, which requires it and goes first
drain -> up down: reply refused
undrain -> up down: reply already
start -> up up: reply failed, reply done
restart -> up up:
stop, gone, program, policy, client-gone, shutdown -> -
stop-now -> killing down: kill a1
restart-now -> killing up: kill a1
shutdown-now -> killing down: kill b1, kill a1
reload, hup -> up down: HUP a1, reply done
winch -> up down: WINCH a1, reply done
spawned, not-spawned, execed, exec-failed -> -
exited -> down down: release a1, reply done, exited by itself
exited-left -> sweeping down: TERM to tree of a1
exited-unsure -> sweeping down: look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, world-there, world-lacks, files -> -
timeout -> up down: kill b1
main -> up down 8:

# stopping down: TERM was sent
drain, undrain -> stopping down: reply refused
start, restart -> stopping up:
stop, gone, program, policy, client-gone, shutdown -> -
stop-now, shutdown-now, timeout -> killing down: kill a1
restart-now -> killing up: kill a1
reload, hup -> stopping down: reply refused
winch -> stopping down: WINCH a1, reply done
spawned, not-spawned, execed, exec-failed -> -
exited -> sweeping down: look ports a1
exited-left -> sweeping down: TERM to tree of a1
exited-unsure -> sweeping down: look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, world-there, world-lacks, files -> -
main -> stopping down 8:

# stopping up: TERM was sent, for a restart
drain, undrain -> stopping up: reply refused
stop, gone -> stopping down: reply failed
stop-now -> killing down: reply failed, kill a1
shutdown -> stopping up: reply failed
shutdown-now -> killing up: reply failed, kill a1
start, restart, program, policy, client-gone -> -
restart-now, timeout -> killing up: kill a1
reload, hup -> stopping up: reply refused
winch -> stopping up: WINCH a1, reply done
spawned, not-spawned, execed, exec-failed -> -
exited -> sweeping up: look ports a1
exited-left -> sweeping up: TERM to tree of a1
exited-unsure -> sweeping up: look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, world-there, world-lacks, files -> -
main -> stopping up 8:

# draining down: new connections are held back, in the first step of a stop
drain, undrain -> stopping down: reply refused
start, restart -> stopping up:
stop, gone, program, policy, client-gone, shutdown -> -
stop-now, shutdown-now -> killing down: end action a1, kill a1
restart-now -> killing up: end action a1, kill a1
timeout -> stopping down: end action a1, look notify a1
reload, hup -> stopping down: reply refused
winch -> stopping down: WINCH a1, reply done
spawned, not-spawned, execed, exec-failed -> -
exited -> sweeping down: end action a1, let go a1, look ports a1
exited-left -> sweeping down: end action a1, TERM to tree of a1
exited-unsure -> sweeping down: end action a1, look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, world-there, world-lacks, files -> -
main -> stopping down 8:

# killing down
drain, undrain -> killing down: reply refused
start, restart, restart-now -> killing up:
stop, stop-now, gone, program, policy, client-gone, shutdown, shutdown-now -> -
reload, hup, winch -> killing down: reply refused
spawned, not-spawned, execed, exec-failed -> -
exited -> sweeping down: look ports a1
exited-left -> sweeping down: kill a1, look tree a1
exited-unsure -> sweeping down: look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, world-there, world-lacks, files -> -
timeout -> killing down: kill a1
main -> killing down 8:

# killing up: for a restart
drain, undrain -> killing up: reply refused
stop, stop-now, gone -> killing down: reply failed
shutdown, shutdown-now -> killing up: reply failed
start, restart, restart-now, program, policy, client-gone -> -
reload, hup, winch -> killing up: reply refused
spawned, not-spawned, execed, exec-failed -> -
exited -> sweeping up: look ports a1
exited-left -> sweeping up: kill a1, look tree a1
exited-unsure -> sweeping up: look tree a1
looked, noted, ports-free, tree-empty, stopping, ready, reloading, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, world-there, world-lacks, files -> -
timeout -> killing up: kill a1
main -> killing up 8:

# sweeping down: stopped, and one process is left, which had its TERM
drain, undrain -> sweeping down: reply refused
start, restart -> sweeping up:
restart-now -> sweeping up: kill a1, look tree a1
stop, gone, program, policy, client-gone, shutdown -> -
stop-now, shutdown-now -> sweeping down: kill a1, look tree a1
reload, hup, winch -> sweeping down: reply refused
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure -> -
looked, noted, ports-free, stopping, ready, reloading, main, action-ended, connections, output, clock, world-there, world-lacks, hook-ended, hook-failed, commands-gone, files -> -
tree-empty -> sweeping down: look ports a1
orphan, timeout -> sweeping down: look tree a1

# sweeping up: it ended by itself and left a process, which had its TERM
drain, undrain -> sweeping up: reply refused
start, restart, program, policy, client-gone, shutdown -> -
stop, gone -> sweeping down:
stop-now -> sweeping down: kill a1, look tree a1
restart-now, shutdown-now -> sweeping up: kill a1, look tree a1
reload, hup, winch -> sweeping up: reply refused
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure -> -
looked, noted, ports-free, stopping, ready, reloading, main, action-ended, connections, output, clock, world-there, world-lacks, hook-ended, hook-failed, commands-gone, files -> -
tree-empty -> starting up: release a1, spawn a2
orphan, timeout -> sweeping up: look tree a1

# backoff up: the second failure in a row
drain -> backoff up: reply refused
undrain -> backoff up: reply already
start, restart, restart-now, program, policy, timeout -> starting up: spawn a3
stop, stop-now -> down down: reply done
gone -> none none: forget a
reload, hup, winch -> backoff up: reply refused
shutdown, shutdown-now -> down up: finish
client-gone -> -
spawned, not-spawned, execed, exec-failed, exited, exited-left, exited-unsure -> -
looked, noted, ports-free, tree-empty, stopping, ready, reloading, main, action-ended, connections, output, clock, orphan, hook-ended, hook-failed, commands-gone, world-there, world-lacks, files -> -
";

fn plain() -> Spec {
    Spec {
        reload: Some(Reload::Signal(Signal::HUP)),
        ..spec("a")
    }
}

fn off(mut spec: Spec) -> Spec {
    spec.autostart = false;
    spec
}

fn up() -> Rig {
    Rig::new(vec![plain()])
}

/// A start that the test answers, as far as the order to fork.
fn ordered() -> Rig {
    let mut rig = Rig::bare();
    rig.slow_start = true;
    rig.configure(vec![plain()]);
    rig
}

/// With a hook before the start and one after the end.
fn hooked() -> Spec {
    let hook = Hook {
        argv: Rc::new(["/hook".to_owned()]),
        wait: ms(10_000),
    };
    Spec {
        hooks: Some(Rc::new(Hooks {
            pre_start: Some(hook.clone()),
            post_stop: Some(hook),
            ..Hooks::default()
        })),
        ..plain()
    }
}

fn running_with_hooks() -> Rig {
    after(Rig::new(vec![hooked()]), |r| {
        r.action_ends(A, 1, Outcome::Done)
    })
}

fn after(mut rig: Rig, what: impl FnOnce(&mut Rig)) -> Rig {
    what(&mut rig);
    rig
}

/// Brings a service into the state of that heading, through events only.
fn reach(heading: &str) -> Rig {
    let needs_b = Spec {
        requires: vec![B],
        ..plain()
    };
    let needs_a = Spec {
        requires: vec![A],
        ..spec("b")
    };
    let never = after(up(), |r| {
        let mut spec = plain();
        spec.restart.policy = Policy::Never;
        r.change(A, spec, Change::Policy);
    });
    let mut rig = match heading {
        "down down" => Rig::new(vec![off(plain())]),
        "down up" => after(never, |r| r.exits(A, Exit::Code(1), 0)),
        "waiting up" => Rig::new(vec![needs_b, off(spec("b"))]),
        "blocked up" => {
            let mut b = spec("b");
            b.restart.policy = Policy::Never;
            after(Rig::new(vec![needs_b, b]), |r| {
                r.exits(B, Exit::Code(1), 0);
                r.exits(A, Exit::Code(0), 0);
                assert!(r.at(A).blocked_by().is_some());
            })
        }
        "looking up" => after(
            Rig::new(vec![Spec {
                wait_for: Some(Rc::new(WaitFor {
                    all: vec![Condition::Synced],
                    timeout: Some(ms(30_000)),
                    then: Then::Fail,
                })),
                ..plain()
            }]),
            |r| r.hear(Event::World(A, vec![Condition::Synced])),
        ),
        "starting up" => ordered(),
        "forked up" => after(ordered(), |r| {
            r.hear(Event::Spawned(A, Instance(1), Pid(7)));
        }),
        "unready up" => Rig::new(vec![Spec {
            ready: Some(Rc::new(Ready {
                sign: Sign::Notify,
                within: Some(ms(30_000)),
            })),
            ..plain()
        }]),
        "done up" => after(
            Rig::new(vec![Spec {
                oneshot: Some(Oneshot::Remains),
                ready: Some(Rc::new(Ready {
                    sign: Sign::Exit,
                    within: None,
                })),
                ..plain()
            }]),
            |r| r.exits(A, Exit::Code(0), 0),
        ),
        "timed up" => after(
            Rig::new(vec![Spec {
                oneshot: Some(Oneshot::Remains),
                timer: Some(Timer::Every(ms(3_600_000))),
                ready: Some(Rc::new(Ready {
                    sign: Sign::Exit,
                    within: None,
                })),
                ..plain()
            }]),
            |r| r.exits(A, Exit::Code(0), 0),
        ),
        "scheduled up" => {
            let mut rig = Rig::bare();
            rig.wall = Some(0);
            rig.configure(vec![Spec {
                oneshot: Some(Oneshot::Remains),
                timer: Some(Timer::At(3_601)),
                ready: Some(Rc::new(Ready {
                    sign: Sign::Exit,
                    within: None,
                })),
                ..plain()
            }]);
            rig.wall = None;
            rig
        }
        "starting down" => after(ordered(), |r| {
            r.ask(A, Verb::Stop);
        }),
        "watched up" => Rig::new(vec![Spec {
            watchdog: Some(ms(1_000)),
            ..plain()
        }]),
        "edited up" => after(
            Rig::new(vec![Spec {
                watch: Some(Rc::new(Watched {
                    files: vec!["/etc/x".into()],
                    then: OnChange::Restart,
                })),
                ..plain()
            }]),
            |r| {
                r.hear(Event::Files(A, vec![1]));
                r.pass(10_000);
                r.hear(Event::Files(A, vec![2]));
            },
        ),
        "up up" => up(),
        "drained up" => after(up(), |r| {
            r.hear(Event::Request {
                ticket: None,
                target: Target::One(A),
                verb: Verb::Drain,
                wait: Wait::No,
                by: Origin::Config,
            });
        }),
        "up down" => after(Rig::new(vec![plain(), needs_a]), |r| {
            r.ask(A, Verb::Stop);
        }),
        "stopping down" => after(up(), |r| {
            r.ask(A, Verb::Stop);
        }),
        "draining down" => {
            let mut spec = plain();
            spec.stop = schedule(vec![
                step(Action::Drain(Rc::default()), Until::NoConnections, 5_000),
                step(signal(Signal::TERM), Until::Gone, 10_000),
            ]);
            after(Rig::new(vec![spec]), |r| {
                r.ask(A, Verb::Stop);
            })
        }
        "stopping up" => after(up(), |r| {
            r.ask(A, Verb::Restart);
        }),
        "killing down" => after(up(), |r| {
            r.ask(A, Verb::StopNow);
        }),
        "killing up" => after(up(), |r| {
            r.ask(A, Verb::RestartNow);
        }),
        "sweeping down" => after(up(), |r| {
            r.ask(A, Verb::Stop);
            r.exits(A, Exit::Code(0), 1);
        }),
        "sweeping up" => after(up(), |r| r.exits(A, Exit::Code(1), 1)),
        "preparing up" => Rig::new(vec![hooked()]),
        "prepared up" => after(Rig::new(vec![hooked()]), |r| {
            r.commands = 1;
            r.action_ends(A, 1, Outcome::Done);
        }),
        "cleaning up" => after(running_with_hooks(), |r| r.exits(A, Exit::Code(1), 0)),
        "cleaning down" => after(running_with_hooks(), |r| {
            r.ask(A, Verb::Stop);
            r.exits(A, Exit::Code(0), 0);
        }),
        "backoff up" => after(up(), |r| {
            r.exits(A, Exit::Code(1), 0);
            r.exits(A, Exit::Code(1), 0);
        }),
        other => panic!("no such heading: {other}"),
    };
    // From here on nothing is answered but by the event under test.
    rig.slow_start = true;
    rig.silent = true;
    rig.did();
    rig
}

fn error(stage: Stage, errno: i32) -> SpawnError {
    SpawnError {
        stage,
        thing: String::new(),
        errno,
        cause: String::new(),
    }
}

fn happen(rig: &mut Rig, event: &str) {
    let service = rig.at(A);
    let (i, spec) = (service.instance, service.spec.clone());
    let run = match &service.state {
        State::Sweeping(end) => Some(&end.run),
        _ => service.run(),
    };
    let hook = run.and_then(|run| run.hook.as_ref()?.action());
    let hook = hook.unwrap_or(ActionId(98));
    let configure = |changed, gone| Event::Configure {
        changed,
        gone,
        by: Origin::Config,
    };
    let exited = |left| Event::Exited {
        service: A,
        instance: i,
        exit: Exit::Code(1),
        crash: None,
        left,
    };
    let verb = match event {
        "start" => Some(Verb::Start),
        "stop" => Some(Verb::Stop),
        "stop-now" => Some(Verb::StopNow),
        "restart" => Some(Verb::Restart),
        "restart-now" => Some(Verb::RestartNow),
        "reload" => Some(Verb::Reload),
        "hup" => Some(Verb::Signal(Signal::HUP)),
        "winch" => Some(Verb::Signal(Signal(libc::SIGWINCH))),
        "drain" => Some(Verb::Drain),
        "undrain" => Some(Verb::Undrain),
        _ => None,
    };
    if let Some(verb) = verb {
        rig.ask(A, verb);
        return;
    }
    rig.hear(match event {
        "gone" => configure(Vec::new(), vec![A]),
        "program" => configure(vec![(A, spec, Change::Program)], Vec::new()),
        "policy" => configure(vec![(A, Rc::clone(&spec), Change::Policy)], Vec::new()),
        "client-gone" => Event::ClientGone(1),
        "shutdown" => return rig.shut_down(false),
        "shutdown-now" => return rig.shut_down(true),
        "spawned" => Event::Spawned(A, i, Pid(7)),
        "not-spawned" => Event::NotSpawned(A, i, error(Stage::Fork, libc::EAGAIN)),
        "execed" => Event::Execed(A, i),
        "exec-failed" => Event::ExecFailed(A, i, error(Stage::Exec, libc::ENOENT)),
        "exited" => exited(Some(0)),
        "exited-left" => exited(Some(1)),
        "exited-unsure" => exited(None),
        "looked" => Event::Checked(A, i, Check::Notify, Found(0)),
        "noted" => Event::PortsNoted(A, i, 0),
        "ports-free" => Event::Checked(A, i, Check::Ports, Found(0)),
        "tree-empty" => Event::Checked(A, i, Check::Tree, Found(0)),
        "stopping" => Event::Notified(A, i, Notice::Stopping),
        "ready" => Event::Notified(A, i, Notice::Ready),
        "reloading" => Event::Notified(A, i, Notice::Reloading),
        "main" => Event::Notified(A, i, Notice::MainPid(Pid(8))),
        "action-ended" => Event::ActionEnded(A, i, ActionId(99), Outcome::Done),
        "connections" => Event::Connections(A, i, 7),
        "output" => Event::OutputMatched(A, i),
        "clock" => {
            let slept = rig.now.0 + 3_600_000_000_000;
            rig.clock(slept as i64, slept)
        }
        "orphan" => Event::OrphanReaped,
        "hook-ended" => Event::ActionEnded(A, i, hook, Outcome::Done),
        "hook-failed" => Event::ActionEnded(A, i, hook, Outcome::Unhappy(String::new())),
        "commands-gone" => Event::Checked(A, i, Check::Commands, Found(0)),
        "world-there" => Event::World(A, Vec::new()),
        "world-lacks" => Event::World(A, vec![Condition::Synced]),
        "files" => Event::Files(A, vec![3]),
        "timeout" => return rig.wake(),
        other => panic!("no such event: {other}"),
    });
}

fn outcome(rig: &mut Rig) -> String {
    let place = match rig.machine.service(A) {
        None => "none none".to_owned(),
        Some(s) => {
            let want = match s.want {
                Want::Up => "up",
                Want::Down => "down",
            };
            let handed = match s.pid() {
                Some(Pid(8)) => " 8",
                _ => "",
            };
            format!("{} {want}{handed}", rig.state(A))
        }
    };
    let unnumbered = |d: String| match d.split_once(": ") {
        Some((reply, text)) if reply.starts_with("reply") => format!("reply {text}"),
        _ => d,
    };
    let did: Vec<String> = rig.did().into_iter().map(unnumbered).collect();
    format!("{place}: {}", did.join(", ")).trim_end().to_owned()
}

#[test]
fn every_state_and_want_under_every_event() {
    let mut wrong = Vec::new();
    let mut cells = 0;
    for block in TABLE.split("\n# ").skip(1) {
        let mut lines = block.lines();
        let heading = lines.next().unwrap().split(':').next().unwrap();
        let mut seen = Vec::new();
        for line in lines.filter(|l| !l.is_empty()) {
            let (events, expected) = line.split_once(" -> ").unwrap();
            for event in events.split(", ") {
                seen.push(event);
                cells += 1;
                let mut rig = reach(heading);
                let before = outcome(&mut rig);
                happen(&mut rig, event);
                let got = outcome(&mut rig);
                let wanted = match expected {
                    "-" => &before,
                    other => other,
                };
                if got != wanted {
                    wrong.push(format!("{heading}, {event}: `{got}`, not `{wanted}`"));
                }
            }
        }
        for event in EVENTS {
            let times = seen.iter().filter(|s| **s == event).count();
            assert_eq!(times, 1, "{heading}, {event}: written down {times} times");
        }
    }
    assert_eq!(cells, 29 * EVENTS.len());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
