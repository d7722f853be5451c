//! Scenarios, one sentence each.

use std::rc::Rc;

use super::event::{Change, Event, Outcome, Pid, ServiceId, Target, Verb, Wait};
use super::report::{Crash, Exit, SpawnError, Stage, Verdict};
use super::rig::{by, ms, schedule, signal, step, Rig, A, B, C};
use super::service::{Rest, State, Want};
use super::signal::Signal;
use super::spec::{Action, CrashLoop, Policy, Reload, Spec, To, Until};
use super::testing::spec;

/// A service called `name` that requires these.
fn needs(name: &str, requires: &[ServiceId]) -> Spec {
    let mut s = spec(name);
    s.requires = requires.to_vec();
    s
}

#[test]
fn a_stop_by_a_dependency_that_is_called_off_is_no_business_of_the_restart_policy() {
    let mut b = needs("b", &[A]);
    b.restart.policy = Policy::OnFailure;
    let mut rig = Rig::new(vec![spec("a"), b]);
    rig.ask(A, Verb::Stop);
    assert_eq!((rig.state(A), rig.state(B)), ("up", "stopping"));
    rig.ask(A, Verb::Start);
    rig.exits(B, Exit::Code(0), 0);
    assert_eq!(rig.state(B), "up", "it was made to go, it has not finished");
    assert_eq!(rig.count("spawn b2"), 1);
}

#[test]
fn a_service_that_backs_off_does_not_come_back_before_what_it_requires() {
    let mut rig = Rig::new(vec![spec("a"), needs("b", &[A])]);
    for _ in 0..2 {
        rig.exits(A, Exit::Code(1), 0); // the first time it is back at once
    }
    assert_eq!(rig.state(A), "backoff");
    rig.did();
    rig.exits(B, Exit::Code(1), 0);
    assert_eq!(rig.state(B), "waiting");
    assert_eq!(rig.did(), ["release b1"]);
    rig.pass(1000);
    assert_eq!(rig.did(), ["spawn a3", "spawn b2"]);
}

#[test]
fn a_start_that_comes_during_the_sweep_of_a_crash_is_answered_when_the_next_one_is_up() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.exits(A, Exit::Code(1), 1);
    assert_eq!(rig.state(A), "sweeping");
    rig.ask(A, Verb::Start);
    rig.did();
    rig.tree = 0;
    rig.hear(Event::OrphanReaped);
    assert_eq!(rig.did(), ["release a1", "spawn a2", "reply 1: done"]);
}

#[test]
fn who_waits_for_a_start_is_told_when_what_it_requires_is_stopped() {
    let mut rig = Rig::new(vec![spec("a"), needs("b", &[A])]);
    rig.ask(A, Verb::Stop);
    rig.slow_start = true;
    let restart = rig.ask(B, Verb::Restart);
    rig.exits(B, Exit::Code(0), 0);
    rig.did();
    rig.ask(A, Verb::Stop);
    assert_eq!(rig.did()[0], format!("reply {restart}: failed"));
}

#[test]
fn who_waits_for_a_start_is_told_when_what_it_requires_has_failed_for_good() {
    let mut a = spec("a");
    a.restart.policy = Policy::Never;
    a.autostart = false;
    let mut b = needs("b", &[A]);
    b.autostart = false;
    let mut rig = Rig::new(vec![a, b]);
    rig.slow_start = true;
    let start = rig.ask(B, Verb::Start);
    assert_eq!(rig.did(), ["spawn a1"]);
    let instance = rig.at(A).instance;
    rig.hear(Event::Spawned(A, instance, Pid(7)));
    rig.exits(A, Exit::Code(1), 0);
    assert_eq!(rig.state(B), "waiting");
    assert_eq!(rig.count(&format!("reply {start}: failed")), 1);
}

#[test]
fn who_waits_for_a_restart_is_told_when_superd_ends() {
    let mut rig = Rig::new(vec![spec("a")]);
    let restart = rig.ask(A, Verb::Restart);
    rig.shut_down(false);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.count(&format!("reply {restart}: failed")), 1);
    assert_eq!(rig.count("finish"), 1);
}

#[test]
fn a_stop_that_had_not_begun_is_called_off_by_a_start_and_both_are_told() {
    let mut rig = Rig::new(vec![spec("a"), needs("b", &[A])]);
    let stop = rig.ask(A, Verb::Stop);
    assert_eq!(rig.state(A), "up", "b goes first");
    let start = rig.ask(A, Verb::Start);
    assert_eq!(rig.at(A).want, Want::Up);
    assert_eq!(rig.count(&format!("reply {stop}: failed")), 1);
    assert_eq!(rig.count(&format!("reply {start}: done")), 1);
    rig.exits(B, Exit::Code(0), 0);
    assert_eq!((rig.state(A), rig.state(B)), ("up", "up"));
    assert_eq!((rig.count("TERM a1"), rig.count("spawn a2")), (0, 0));
}

#[test]
fn a_start_of_a_service_that_is_about_to_go_with_another_one_keeps_both() {
    let mut rig = Rig::new(vec![spec("a"), needs("b", &[A]), needs("c", &[B])]);
    rig.ask(A, Verb::Stop);
    assert_eq!(rig.state(B), "up", "c goes first");
    let start = rig.ask(B, Verb::Start);
    assert_eq!(rig.count(&format!("reply {start}: done")), 1);
    rig.exits(C, Exit::Code(0), 0);
    assert_eq!(
        (rig.state(A), rig.state(B), rig.state(C)),
        ("up", "up", "up")
    );
    assert_eq!((rig.count("TERM a1"), rig.count("TERM b1")), (0, 0));
}

/// A service with a drain before its TERM.
fn drained() -> Spec {
    let mut s = spec("a");
    s.stop = schedule(vec![
        step(Action::Drain, Until::NoConnections, 5_000),
        step(signal(Signal::TERM), Until::Gone, 10_000),
    ]);
    s
}

#[test]
fn a_rival_that_comes_during_the_drain_is_left_alone_with_the_service() {
    let mut rig = Rig::new(vec![drained()]);
    rig.ask(A, Verb::Stop);
    rig.pass(1000);
    rig.says_stopping(A);
    rig.pass(4000);
    assert_eq!(rig.did(), ["spawn a1", "drain a1", "end action a1"]);
    rig.pass(9_999);
    assert_eq!(
        rig.did(),
        [""; 0],
        "TERM is held back as long as it may wait"
    );
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.did()[0], "release a1");
}

#[test]
fn a_rival_whose_stop_made_the_http_step_impossible_is_left_alone_with_the_service() {
    let mut s = spec("a");
    s.stop = schedule(vec![
        step(
            Action::Run(vec!["stop".to_owned()].into()),
            Until::Gone,
            5_000,
        ),
        step(signal(Signal::TERM), Until::Gone, 10_000),
    ]);
    let mut rig = Rig::new(vec![s]);
    rig.ask(A, Verb::Stop);
    rig.unread = 0;
    rig.action_ends(A, 1, Outcome::Impossible("refused".to_owned()));
    assert_eq!(rig.count("TERM a1"), 1, "nobody else stops it: go on");

    let mut rig = Rig::new(vec![rig.at(A).spec.as_ref().clone()]);
    rig.ask(A, Verb::Stop);
    rig.unread = 1;
    rig.action_ends(A, 1, Outcome::Impossible("refused".to_owned()));
    rig.pass(4_999);
    assert_eq!(rig.count("TERM a1"), 0, "it is stopping: wait");
    rig.pass(1);
    assert_eq!(rig.count("TERM a1"), 1, "it had its time");
}

#[test]
fn a_rival_is_not_killed_because_a_condition_of_the_last_step_holds() {
    let mut s = spec("a");
    s.stop = schedule(vec![step(signal(Signal::TERM), Until::Stopping, 5_000)]);
    let mut rig = Rig::new(vec![s]);
    rig.unread = 1;
    rig.ask(A, Verb::Stop);
    rig.pass(4_999);
    assert_eq!(rig.did(), ["spawn a1"]);
    rig.pass(1);
    assert_eq!(rig.did(), ["kill a1"]);
}

#[test]
fn leftovers_that_had_their_term_with_the_tree_get_no_second_one() {
    let mut s = spec("a");
    let to_tree = Action::Signal(Signal::TERM, To::Tree);
    s.stop = schedule(vec![step(to_tree, Until::Gone, 5_000)]);
    let mut rig = Rig::new(vec![s]);
    rig.ask(A, Verb::Stop);
    rig.exits(A, Exit::Code(0), 2);
    rig.pass(1_999);
    assert_eq!(rig.did(), ["spawn a1", "TERM to tree of a1"]);
    rig.pass(1);
    assert_eq!(rig.did(), ["kill a1"], "the grace is the same");
}

#[test]
fn a_reload_does_not_postpone_the_kill_of_leftovers_of_a_stop_under_way() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Stop);
    let mut longer = spec("a");
    Rc::make_mut(&mut longer.stop).leftover_grace = ms(60_000);
    rig.change(A, longer, Change::Policy);
    rig.exits(A, Exit::Code(0), 1);
    rig.pass(2_000);
    assert_eq!(rig.count("kill a1"), 1);
}

#[test]
fn a_service_that_was_taken_out_of_the_configuration_and_put_back_keeps_no_old_order() {
    let mut rig = Rig::new(vec![spec("a"), needs("b", &[A])]);
    let alone = spec("b");
    rig.hear(Event::Configure {
        changed: vec![(B, Rc::new(needs("b", &[A])), Change::Policy)],
        gone: vec![A],
        by: by(),
    });
    assert_eq!((rig.state(A), rig.state(B)), ("up", "stopping"));
    rig.change(A, alone, Change::Policy);
    assert!(rig.at(A).order.is_none(), "nobody wants it to go any more");
    for _ in 0..2 {
        rig.exits(A, Exit::Code(1), 0);
    }
    assert_eq!(rig.state(A), "backoff", "a crash is a crash");
}

#[test]
fn a_start_of_a_lattice_of_services_ends_before_the_sun_does() {
    let mut specs = Vec::new();
    for n in 0..80_u32 {
        let layer = n / 2 * 2;
        let before: Vec<ServiceId> = (0..layer).rev().take(2).map(ServiceId).collect();
        let mut s = needs("x", &before);
        s.autostart = false;
        specs.push(s);
    }
    let mut rig = Rig::new(specs);
    rig.ask(ServiceId(79), Verb::Start);
    assert_eq!(rig.count("reply 1: done"), 1);
}

#[test]
fn a_restart_of_a_long_chain_does_not_run_out_of_stack() {
    let mut specs = vec![spec("0")];
    for n in 1..20_000_u32 {
        specs.push(needs("x", &[ServiceId(n - 1)]));
    }
    let mut rig = Rig::new(specs);
    rig.ask(A, Verb::Restart);
    assert!(rig.at(A).cycle);
    assert!(rig.at(ServiceId(10_000)).cycle);
}

#[test]
fn a_drain_that_this_kernel_cannot_do_is_skipped_and_is_no_escalation() {
    let mut rig = Rig::new(vec![drained()]);
    rig.ask(A, Verb::Stop);
    rig.action_ends(A, 1, Outcome::Impossible("no pidfd_getfd".to_owned()));
    assert_eq!(rig.count("TERM a1"), 1);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.report().verdict, Verdict::Clean);
}

fn crash_looping() -> Spec {
    let mut s = spec("a");
    s.restart.crash_loop = Some(CrashLoop {
        burst: 2,
        within: ms(60_000),
        retry: ms(300_000),
    });
    s
}

fn in_crash_loop() -> Rig {
    let mut rig = Rig::new(vec![crash_looping()]);
    for _ in 0..3 {
        rig.exits(A, Exit::Code(1), 0);
        if rig.at(A).restarts < 2 {
            rig.pass(1000);
        }
    }
    assert!(matches!(rig.at(A).state, State::Backoff { slow: true, .. }));
    rig
}

#[test]
fn a_start_ends_a_crash_loop_at_once_and_forgets_it() {
    let mut rig = in_crash_loop();
    let start = rig.ask(A, Verb::Start);
    assert_eq!(rig.count(&format!("reply {start}: done")), 1);
    rig.exits(A, Exit::Code(1), 0);
    assert_eq!(rig.state(A), "up", "it counts from the beginning");
}

#[test]
fn a_start_during_the_sweep_of_the_last_crash_of_a_loop_does_not_wait_for_the_slow_retry() {
    let mut rig = Rig::new(vec![crash_looping()]);
    for _ in 0..2 {
        rig.exits(A, Exit::Code(1), 0);
        rig.pass(1000);
    }
    rig.exits(A, Exit::Code(1), 1);
    assert_eq!(rig.state(A), "sweeping");
    let start = rig.ask(A, Verb::Start);
    rig.tree = 0;
    rig.hear(Event::OrphanReaped);
    assert_eq!(rig.count(&format!("reply {start}: done")), 1);
}

#[test]
fn a_change_of_the_policy_retries_at_once_what_backs_off() {
    let mut rig = in_crash_loop();
    let mut calmer = crash_looping();
    calmer.restart.delay = ms(1);
    rig.change(A, calmer, Change::Policy);
    assert_eq!(rig.state(A), "up");
}

#[test]
fn a_stop_without_steps_is_a_kill() {
    let mut s = spec("a");
    s.stop = schedule(Vec::new());
    let mut rig = Rig::new(vec![s]);
    rig.ask(A, Verb::Stop);
    assert_eq!(rig.did(), ["spawn a1", "kill a1"]);
}

#[test]
fn a_restart_does_not_overtake_the_stop_of_who_requires_it() {
    let mut rig = Rig::new(vec![spec("a"), needs("b", &[A])]);
    rig.ask(A, Verb::Stop);
    assert_eq!((rig.state(A), rig.state(B)), ("up", "stopping"));
    rig.ask(A, Verb::Restart);
    assert_eq!(rig.state(A), "up", "b still goes first");
    rig.exits(B, Exit::Code(0), 0);
    assert_eq!(rig.state(A), "stopping");
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!((rig.state(A), rig.state(B)), ("up", "up"));
}

#[test]
fn a_service_that_comes_after_one_that_will_not_start_does_not_wait_for_it() {
    let mut a = spec("a");
    a.restart.policy = Policy::Never;
    let mut c = spec("c");
    c.after = vec![B];
    let mut rig = Rig::bare();
    rig.slow_start = true;
    rig.configure(vec![a, needs("b", &[A]), c]);
    assert_eq!((rig.state(B), rig.state(C)), ("waiting", "waiting"));
    rig.hear(Event::Spawned(A, rig.at(A).instance, Pid(7)));
    rig.exits(A, Exit::Code(1), 0);
    assert_eq!((rig.state(A), rig.state(B)), ("down", "waiting"));
    assert_eq!(rig.state(C), "starting");
}
