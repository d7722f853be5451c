//! Scenarios, one sentence each. Long because there are many; none needs another one.

use std::rc::Rc;

use super::event::{
    Change, Check, Event, Found, Instance, Notice, Outcome, Pid, ServiceId, Target, Verb, Wait,
};
use super::report::{Crash, Exit, Happening, SpawnError, Stage, Stuck, Verdict};
use super::rig::{by, ms, schedule, signal, step, Rig, A, B, C};
use super::service::{State, Want};
use super::signal::Signal;
use super::spec::{Action, Checker, CrashLoop, MaxConnections, Policy, Reload, Spec, To, Until};
use super::supervisor::{Ending, Supervisor};
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
        step(Action::Drain(Rc::default()), Until::NoConnections, 5_000),
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
    assert_eq!(rig.did()[..2], ["let go a1", "release a1"]);
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
fn a_drain_ends_with_its_last_connection_and_holds_back_until_the_ports_are_free() {
    let mut rig = Rig::new(vec![drained()]);
    rig.ask(A, Verb::Stop);
    let instance = rig.at(A).instance;
    let progress = |rig: &Rig| rig.at(A).stop().unwrap().progress(rig.now).0;
    assert_eq!(progress(&rig), "draining");
    rig.hear(Event::Connections(A, instance, 2));
    assert_eq!(progress(&rig), "draining: 2 connections");
    rig.hear(Event::Connections(A, instance, 1));
    assert_eq!(progress(&rig), "draining: 1 connection");
    assert_eq!(rig.did(), ["spawn a1", "drain a1"]);
    rig.pass(100);
    rig.action_ends(A, 1, Outcome::Done);
    assert_eq!(rig.did(), ["TERM a1"]);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.did()[..2], ["let go a1", "release a1"]);
    let report = rig.report();
    assert_eq!(report.verdict, Verdict::Clean);
    assert_eq!(report.steps[0].what, "drain");
}

#[test]
fn a_drain_without_a_stop_holds_back_until_it_is_taken_back() {
    let mut rig = Rig::new(vec![drained()]);
    let first = rig.ask(A, Verb::Drain);
    let second = rig.ask(A, Verb::Drain);
    assert_eq!(rig.did(), ["spawn a1", "drain a1"], "once, and both wait");
    rig.action_ends(A, 1, Outcome::Done);
    let answers = rig.did();
    for ticket in [first, second] {
        assert!(
            answers.contains(&format!("reply {ticket}: done")),
            "{answers:?}"
        );
    }
    let third = rig.ask(A, Verb::Drain);
    assert_eq!(rig.did(), [format!("reply {third}: already")]);
    let back = rig.ask(A, Verb::Undrain);
    assert_eq!(
        rig.did(),
        ["let go a1".to_owned(), format!("reply {back}: done")]
    );
    // Who waits is told when somebody takes it back, or stops it.
    let fourth = rig.ask(A, Verb::Drain);
    rig.ask(A, Verb::Undrain);
    assert_eq!(rig.count(&format!("reply {fourth}: failed")), 1);
    let fifth = rig.ask(A, Verb::Drain);
    rig.ask(A, Verb::Stop);
    assert_eq!(rig.count(&format!("reply {fifth}: failed")), 1);
    assert_eq!(rig.count("drain a1"), 3, "the last is the stop's own");
}

/// For whose sake places are kept: who was stopped in order and begins again at once. Not for who
/// has crashed, who waits after that, and who is to be down.
#[test]
fn it_is_to_follow_only_after_a_stop_and_when_it_is_wanted() {
    let follows = |rig: &Rig, id, state: &str| {
        assert_eq!(rig.state(id), state);
        rig.at(id).is_to_follow()
    };
    let mut rig = Rig::new(vec![spec("a"), needs("b", &[A])]);
    assert!(follows(&rig, A, "up"));
    rig.ask(A, Verb::Restart);
    assert!(!follows(&rig, B, "stopping"), "it runs still");
    rig.exits(B, Exit::Code(0), 1);
    assert!(follows(&rig, B, "sweeping"));
    rig.tree = 0;
    rig.pass(2_000);
    assert!(follows(&rig, B, "waiting"), "for what it needs");
    assert!(!follows(&rig, A, "stopping"));
    rig.slow_start = true;
    rig.exits(A, Exit::Code(0), 0);
    assert!(follows(&rig, A, "starting"));

    // The same, and in the middle of it somebody wants it down.
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Restart);
    rig.exits(A, Exit::Code(0), 1);
    assert!(follows(&rig, A, "sweeping"));
    rig.ask(A, Verb::Stop);
    assert!(!follows(&rig, A, "sweeping"));
    rig.tree = 0;
    rig.pass(2_000);
    assert!(!follows(&rig, A, "down"));

    // superd itself is to end.
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Restart);
    rig.shut_down(false);
    rig.exits(A, Exit::Code(0), 1);
    assert!(!follows(&rig, A, "sweeping"));

    // It is no longer configured.
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Restart);
    rig.hear(Event::Configure {
        changed: vec![],
        gone: vec![A],
        by: by(),
    });
    rig.exits(A, Exit::Code(0), 1);
    assert!(!follows(&rig, A, "sweeping"));

    // A crash, and the pause after the second one.
    let mut rig = Rig::new(vec![spec("a")]);
    rig.exits(A, Exit::Signal(Signal::KILL), 1);
    assert!(!follows(&rig, A, "sweeping"));
    rig.tree = 0;
    rig.pass(2_000);
    rig.exits(A, Exit::Signal(Signal::KILL), 0);
    assert!(!follows(&rig, A, "backoff"));
}

#[test]
fn a_drain_without_a_stop_that_cannot_be_is_told_and_is_none() {
    let mut rig = Rig::new(vec![drained()]);
    let asked = rig.ask(A, Verb::Drain);
    rig.action_ends(A, 1, Outcome::Impossible("no pidfd_getfd".to_owned()));
    assert_eq!(rig.count(&format!("reply {asked}: failed")), 1);
    let back = rig.ask(A, Verb::Undrain);
    assert_eq!(rig.count(&format!("reply {back}: already")), 1);
}

#[test]
fn too_many_connections_are_held_back_until_there_are_few() {
    let mut limited = spec("a");
    limited.max_connections = Some(MaxConnections { high: 20, low: 10 });
    let mut rig = Rig::new(vec![limited.clone()]);
    assert_eq!(rig.did(), ["spawn a1", "watch connections of a1"]);
    let open = |rig: &mut Rig, n| {
        let instance = rig.at(A).instance;
        rig.hear(Event::Connections(A, instance, n));
        rig.did()
    };
    assert_eq!(open(&mut rig, 20), [""; 0]);
    assert_eq!(open(&mut rig, 21), ["limit a1"]);
    assert_eq!(open(&mut rig, 30), [""; 0], "once");
    assert_eq!(open(&mut rig, 10), [""; 0], "not yet");
    assert_eq!(open(&mut rig, 9), ["let go a1"]);
    assert_eq!(open(&mut rig, 3), [""; 0], "once");
    // A drain is more: it ends by nothing but an undrain.
    open(&mut rig, 21);
    rig.ask(A, Verb::Drain);
    assert_eq!(rig.did(), ["drain a1"]);
    assert_eq!(open(&mut rig, 3), [""; 0]);
    rig.ask(A, Verb::Undrain);
    let did = rig.did();
    assert_eq!(
        did[..3],
        ["end action a1", "let go a1", "watch connections of a1"]
    );
    // Without the key in the configuration there is no limit any more.
    open(&mut rig, 21);
    rig.change(A, spec("a"), Change::Policy);
    assert_eq!(rig.did(), ["let go a1", "watch no connections of a1"]);
    rig.change(A, limited, Change::Policy);
    assert_eq!(rig.did(), ["watch connections of a1"]);
    open(&mut rig, 21);
    rig.ask(A, Verb::Stop);
    assert_eq!(rig.did(), ["watch no connections of a1", "TERM a1"]);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.did()[..2], ["let go a1", "release a1"]);
}

#[test]
fn a_drain_that_takes_too_long_says_who_was_left() {
    let mut rig = Rig::new(vec![drained()]);
    rig.ask(A, Verb::Stop);
    let instance = rig.at(A).instance;
    rig.hear(Event::Connections(A, instance, 7));
    rig.pass(5_000);
    assert_eq!(
        rig.did(),
        ["spawn a1", "drain a1", "end action a1", "TERM a1"]
    );
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.report().steps[0].what, "drain, 7 connections left");
    assert_eq!(rig.report().verdict, Verdict::CleanAfterEscalation);
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

// ---- one stop --------------------------------------------------------------

#[test]
fn a_second_stop_sends_nothing_and_does_not_move_the_deadline() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Stop);
    let deadline = rig.at(A).stop().unwrap().deadline();
    rig.did();
    rig.pass(4_000);
    rig.request(Target::One(A), Verb::Stop, Wait::No);
    rig.ask(A, Verb::Restart);
    rig.ask(A, Verb::Stop);
    rig.shut_down(false);
    let did = rig.did();
    assert_eq!(did[0], "reply 2: joined, 13000 ms left");
    assert!(did.iter().all(|d| d.starts_with("reply")), "{did:?}");
    assert_eq!(rig.at(A).stop().unwrap().deadline(), deadline);
    rig.exits(A, Exit::Signal(Signal::TERM), 0);
    assert_eq!(rig.report().absorbed, 4);
    assert_eq!(rig.report().verdict, Verdict::Clean);
}

#[test]
fn stop_now_during_a_stop_kills_at_once_and_once() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Stop);
    let deadline = rig.at(A).stop().unwrap().deadline();
    rig.did();
    for _ in 0..3 {
        rig.ask(A, Verb::StopNow);
    }
    rig.shut_down(true);
    assert_eq!(rig.did(), ["kill a1"]);
    assert!(rig.at(A).stop().unwrap().deadline() < deadline);
    rig.exits(A, Exit::Signal(Signal::KILL), 0);
    assert_eq!(rig.report().verdict, Verdict::Killed);
    assert_eq!(rig.count("reply 4: done, killed"), 1);
}

#[test]
fn kill_comes_exactly_when_the_grace_has_run_out() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Stop);
    rig.pass(14_999);
    assert_eq!(rig.count("kill a1"), 0);
    rig.pass(1);
    assert_eq!(rig.count("kill a1"), 1);
    rig.pass(999);
    assert_eq!(rig.count("kill a1"), 1);
    rig.pass(6_001);
    assert_eq!(rig.count("kill a1"), 4, "again after 1, 3 and 7 s");
}

#[test]
fn each_step_waits_for_its_condition_and_settles_before_the_next_one() {
    let mut s = spec("a");
    let mut lame_duck = step(signal(Signal::USR2), Until::PortsClosed, 30_000);
    lame_duck.settle = ms(200);
    let term = step(signal(Signal::TERM), Until::Gone, 15_000);
    s.stop = schedule(vec![lame_duck, term]);
    let mut rig = Rig::new(vec![s]);
    rig.ports = 1;
    rig.ask(A, Verb::Stop);
    rig.pass(10_000);
    assert_eq!(rig.did(), ["spawn a1", "USR2 a1"]);
    rig.ports = 0;
    rig.pass(50);
    assert_eq!(rig.did(), [""; 0], "settling");
    rig.pass(200);
    assert_eq!(rig.did(), ["TERM a1"]);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.report().verdict, Verdict::Clean);
    assert_eq!(rig.report().steps.len(), 2);
}

#[test]
fn a_rival_s_stopping_makes_the_first_step_keep_its_hands_off() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.says_stopping(A);
    rig.ask(A, Verb::Stop);
    rig.pass(14_999);
    assert_eq!(rig.did(), ["spawn a1"]);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.report().verdict, Verdict::Clean);
    assert_eq!(rig.report().stopping_seen, 1);
}

#[test]
fn stopping_said_after_our_term_is_no_rival_and_changes_nothing() {
    let mut s = spec("a");
    let int = step(signal(Signal::INT), Until::Gone, 1_000);
    let term = step(signal(Signal::TERM), Until::Gone, 1_000);
    s.stop = schedule(vec![int, term]);
    let mut rig = Rig::new(vec![s]);
    rig.ask(A, Verb::Stop);
    rig.says_stopping(A);
    rig.pass(1_000);
    assert_eq!(rig.did(), ["spawn a1", "INT a1", "TERM a1"]);
}

#[test]
fn children_first_with_a_planned_kill_is_clean() {
    let mut s = spec("a");
    let to_children = Action::Signal(Signal::TERM, To::Descendants);
    s.stop = schedule(vec![step(to_children, Until::DescendantsGone, 5_000)]);
    let mut rig = Rig::new(vec![s]);
    rig.descendants = 2;
    rig.ask(A, Verb::Stop);
    rig.pass(100);
    rig.descendants = 0;
    rig.hear(Event::OrphanReaped);
    assert_eq!(
        rig.did(),
        ["spawn a1", "TERM to descendants of a1", "kill a1"]
    );
    rig.exits(A, Exit::Signal(Signal::KILL), 0);
    assert_eq!(rig.report().verdict, Verdict::Clean);
}

#[test]
fn leftovers_get_term_and_then_kill() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Stop);
    rig.exits(A, Exit::Code(0), 2);
    rig.pass(1_999);
    assert_eq!(rig.did(), ["spawn a1", "TERM a1", "TERM to tree of a1"]);
    rig.pass(1);
    assert_eq!(rig.did(), ["kill a1"]);
    rig.tree = 0;
    rig.hear(Event::OrphanReaped);
    assert_eq!(
        rig.did(),
        [
            "release a1",
            "reply 1: done, left processes behind, which superd removed"
        ]
    );
    assert_eq!(rig.report().left, 2);
}

#[test]
fn a_port_that_somebody_else_holds_is_reported_and_not_waited_for_for_ever() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ports = 1;
    rig.ask(A, Verb::Stop);
    rig.exits(A, Exit::Code(0), 0);
    rig.pass(1_999);
    assert_eq!(rig.state(A), "sweeping");
    rig.pass(1);
    assert_eq!(rig.state(A), "down");
    assert_eq!(rig.report().ports_held, 1);
}

// ---- every wish at every moment ----------------------------------------------

#[test]
fn restart_while_stopping_starts_once_after_the_end() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Stop);
    for _ in 0..3 {
        rig.ask(A, Verb::Restart);
    }
    rig.did();
    rig.exits(A, Exit::Code(0), 0);
    let did = rig.did();
    assert_eq!(did[..3], ["release a1", "reply 1: done, clean", "spawn a2"]);
    assert_eq!(
        did[3..],
        ["reply 2: done", "reply 3: done", "reply 4: done"]
    );
}

#[test]
fn start_while_stopping_starts_after_the_end_and_not_before() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Stop);
    rig.ask(A, Verb::Start);
    assert_eq!(rig.count("spawn a2"), 0);
    rig.exits(A, Exit::Code(0), 1);
    assert_eq!(rig.count("spawn a2"), 0, "something is left");
    rig.tree = 0;
    rig.hear(Event::OrphanReaped);
    assert_eq!(rig.count("spawn a2"), 1);
    assert_eq!(rig.count("reply 2: done"), 1);
}

#[test]
fn stop_while_backing_off_ends_the_retries() {
    let mut rig = in_crash_loop();
    rig.did();
    rig.ask(A, Verb::Stop);
    assert_eq!(rig.did(), ["reply 1: done"]);
    rig.pass(3_600_000);
    assert_eq!(rig.did(), [""; 0]);
    assert_eq!(rig.machine.next_deadline(), None);
}

#[test]
fn a_crash_during_a_requested_stop_is_never_followed_by_a_start() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Stop);
    let instance = rig.at(A).instance;
    rig.hear(Event::Exited {
        service: A,
        instance,
        exit: Exit::Code(2),
        crash: Some(panic()),
        left: Some(0),
    });
    rig.pass(3_600_000);
    assert_eq!(rig.count("spawn a2"), 0);
    assert_eq!(rig.report().verdict, Verdict::PanickedWhileStopping);
    assert_eq!(rig.at(A).record.failures(), 0, "it does not count");
}

#[test]
fn a_stop_before_the_fork_is_known_waits_for_it() {
    let mut rig = Rig::bare();
    rig.slow_start = true;
    rig.configure(vec![spec("a")]);
    rig.ask(A, Verb::Stop);
    assert_eq!(rig.did(), ["spawn a1"]);
    rig.hear(Event::Spawned(A, rig.at(A).instance, Pid(7)));
    assert_eq!(rig.did(), ["TERM a1"]);
}

#[test]
fn a_signal_by_hand_is_refused_while_it_stops_unless_it_is_harmless() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Stop);
    rig.did();
    rig.ask(A, Verb::Signal(Signal::TERM));
    rig.ask(A, Verb::Signal(Signal::USR1));
    rig.ask(A, Verb::Signal(Signal(libc::SIGCONT)));
    let refused = ["reply 2: refused", "reply 3: refused"];
    assert_eq!(
        rig.did(),
        [&refused[..], &["CONT a1", "reply 4: done"]].concat()
    );
}

#[test]
fn the_answer_about_all_services_names_those_it_is_about() {
    let mut rig = Rig::new(vec![spec("a"), spec("b"), spec("c")]);
    rig.did();
    rig.request(Target::All, Verb::Stop, Wait::Done);
    rig.exits(B, Exit::Code(9), 0);
    rig.exits(A, Exit::Code(0), 0);
    rig.did();
    rig.exits(C, Exit::Code(9), 0);
    let reply = "reply 1: b, c: failed while stopping".to_owned();
    assert!(rig.did().contains(&reply));
}

#[test]
fn a_command_that_failed_is_not_called_done() {
    let run = Action::Run(vec!["stop".to_owned()].into());
    let steps = vec![
        step(run, Until::ActionEnded, 100),
        step(signal(Signal::TERM), Until::Gone, 100),
    ];
    let stop = schedule(steps);
    let mut rig = Rig::new(vec![Spec { stop, ..spec("a") }]);
    rig.ask(A, Verb::Stop);
    rig.action_ends(
        A,
        1,
        Outcome::Unhappy("stop: exited with status 1".to_owned()),
    );
    rig.exits(A, Exit::Code(0), 0);
    let said: Vec<String> = rig.report().steps.iter().map(|s| s.to_string()).collect();
    assert!(
        said[0].contains("failed after") && said[0].ends_with("status 1"),
        "{said:?}"
    );
    assert!(said[1].contains("gone after"), "{said:?}");
}

#[test]
fn who_comes_back_with_what_it_requires_was_asked_for_by_that() {
    let mut rig = Rig::new(vec![needs("a", &[B]), spec("b")]);
    rig.ask(B, Verb::Stop);
    rig.exits(A, Exit::Code(0), 0);
    rig.exits(B, Exit::Code(0), 0);
    rig.told.clear();
    rig.ask(B, Verb::Start);
    let starts = rig.told.iter().filter_map(|(id, h)| match h {
        Happening::Starting { by, .. } => Some((*id, by.to_string())),
        _ => None,
    });
    let starts: Vec<(ServiceId, String)> = starts.collect();
    assert_eq!(starts[1], (A, "dependency b".to_owned()), "{starts:?}");
}

#[test]
fn ports_that_were_never_open_do_not_close_at_once() {
    let steps = || {
        let usr2 = step(signal(Signal::USR2), Until::PortsClosed, 100);
        vec![usr2, step(signal(Signal::TERM), Until::Gone, 100)]
    };
    let with = |ports: u32| {
        let stop = schedule(steps());
        let mut rig = Rig::new(vec![Spec { stop, ..spec("a") }]);
        rig.did();
        rig.ports = ports;
        rig.ask(A, Verb::Stop);
        rig
    };
    let mut rig = with(0);
    rig.pass(99);
    assert_eq!(rig.did(), ["USR2 a1"], "as if it said `gone`");
    let told = |(_, h): &(ServiceId, Happening)| match h {
        Happening::Step { what, .. } => what.contains("it has no open port"),
        _ => false,
    };
    assert!(rig.told.iter().any(told));
    rig.pass(1);
    assert_eq!(rig.did(), ["TERM a1"]);
    let mut rig = with(1);
    assert_eq!(rig.did(), ["USR2 a1"]);
    rig.ports = 0;
    rig.pass(50);
    assert_eq!(rig.did(), ["TERM a1"]);
}

#[test]
fn a_leftover_that_no_kill_ends_is_looked_at_with_growing_pauses_and_told() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.ask(A, Verb::Stop);
    rig.exits(A, Exit::Code(0), 1);
    rig.pass(2_000);
    assert_eq!(rig.did().last().unwrap(), "kill a1");
    rig.silent = true;
    rig.pass(120_000);
    let looks = rig.count("look tree a1");
    assert!((20..60).contains(&looks), "{looks} looks in two minutes");
    let told = |(_, h): &&(ServiceId, Happening)| matches!(h, Happening::Unkillable { .. });
    assert!(rig.told.iter().filter(told).count() > 3);
    // Every orphan that is reaped may have been the last one.
    rig.silent = false;
    rig.tree = 0;
    rig.hear(Event::OrphanReaped);
    assert_eq!(rig.state(A), "down");
}

#[test]
fn a_signal_that_its_stop_sends_is_not_sent_by_hand() {
    let usr2_first = vec![
        step(signal(Signal::USR2), Until::PortsClosed, 100),
        step(
            Action::Signal(Signal::TERM, To::Descendants),
            Until::Gone,
            100,
        ),
    ];
    let mut rig = Rig::new(vec![
        spec("a"),
        Spec {
            stop: schedule(usr2_first),
            ..spec("b")
        },
    ]);
    rig.did();
    rig.ask(A, Verb::Signal(Signal::TERM));
    rig.ask(B, Verb::Signal(Signal::USR2));
    assert_eq!(rig.did(), ["reply 1: refused", "reply 2: refused"]);
    // These are not what their stops send to the main process.
    rig.ask(A, Verb::Signal(Signal::USR2));
    rig.ask(B, Verb::Signal(Signal::TERM));
    let sent = ["USR2 a1", "reply 3: done", "TERM b1", "reply 4: done"];
    assert_eq!(rig.did(), sent);
}

// ---- order -------------------------------------------------------------------

#[test]
fn what_is_required_starts_first_and_stops_last() {
    let mut rig = Rig::new(vec![needs("a", &[C]), needs("b", &[A]), spec("c")]);
    assert_eq!(rig.did(), ["spawn c1", "spawn a1", "spawn b1"]);
    rig.shut_down(false);
    assert_eq!(rig.did(), ["TERM b1"]);
    rig.exits(B, Exit::Code(0), 0);
    assert_eq!(rig.did(), ["release b1", "TERM a1"]);
    rig.exits(A, Exit::Code(0), 0);
    rig.exits(C, Exit::Code(0), 0);
    assert_eq!(rig.did(), ["release a1", "TERM c1", "release c1", "finish"]);
}

#[test]
fn a_stop_takes_what_requires_it_along_and_leaves_what_only_comes_after_it() {
    let mut c = spec("c");
    c.after = vec![A];
    let mut rig = Rig::new(vec![spec("a"), needs("b", &[A]), c]);
    rig.did();
    rig.ask(A, Verb::Stop);
    assert_eq!(rig.did(), ["TERM b1"]);
    rig.exits(B, Exit::Code(0), 0);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.state(C), "up");
    assert_eq!(rig.state(B), "waiting");
    rig.did();
    rig.ask(A, Verb::Start);
    assert_eq!(rig.did(), ["spawn a2", "reply 2: done", "spawn b2"]);
}

#[test]
fn a_start_takes_what_it_requires_along() {
    let off = |mut s: Spec| {
        s.autostart = false;
        s
    };
    let mut rig = Rig::new(vec![off(spec("a")), off(needs("b", &[A]))]);
    rig.ask(B, Verb::Start);
    assert_eq!(rig.did(), ["spawn a1", "spawn b1", "reply 1: done"]);
}

#[test]
fn a_restart_takes_what_requires_it_along_once() {
    let mut rig = Rig::new(vec![spec("a"), needs("b", &[A])]);
    rig.ask(A, Verb::Restart);
    rig.exits(B, Exit::Code(0), 0);
    rig.exits(A, Exit::Code(0), 0);
    let did = ["TERM b1", "release b1", "TERM a1", "release a1"];
    assert_eq!(rig.did()[2..6], did);
    assert_eq!((rig.state(A), rig.state(B)), ("up", "up"));
    assert_eq!((rig.at(A).instance.0, rig.at(B).instance.0), (2, 2));
}

#[test]
fn a_request_about_all_is_answered_once_with_the_worst() {
    let mut rig = Rig::new(vec![spec("a"), spec("b"), spec("c")]);
    rig.request(Target::All, Verb::Stop, Wait::Done);
    rig.exits(A, Exit::Code(0), 0);
    rig.pass(15_000);
    rig.exits(B, Exit::Signal(Signal::KILL), 0);
    rig.exits(C, Exit::Signal(Signal::KILL), 0);
    let replies: Vec<String> = rig.did();
    let replies: Vec<&String> = replies.iter().filter(|d| d.starts_with("reply")).collect();
    assert_eq!(replies, ["reply 1: b, c: killed"]);
}

#[test]
fn a_client_that_is_gone_gets_no_answer_and_its_stop_goes_on() {
    let mut rig = Rig::new(vec![spec("a"), spec("b")]);
    rig.ask(A, Verb::Stop);
    rig.request(Target::All, Verb::Stop, Wait::Done);
    rig.hear(Event::ClientGone(1));
    rig.exits(A, Exit::Code(0), 0);
    rig.exits(B, Exit::Code(0), 0);
    assert!(rig.did().iter().all(|d| !d.starts_with("reply")));
    assert_eq!(rig.state(A), "down");
}

// ---- superd's own end ----------------------------------------------------------

#[test]
fn a_shutdown_deadline_kills_what_is_left() {
    let mut rig = Rig::bare();
    rig.machine.set_shutdown_deadline(Some(ms(3_000)));
    rig.configure(vec![spec("a"), needs("b", &[A])]);
    rig.did();
    rig.shut_down(false);
    rig.pass(2_999);
    assert_eq!(rig.did(), ["TERM b1"]);
    rig.pass(1);
    assert_eq!(rig.did(), ["kill b1", "kill a1"]);
}

#[test]
fn with_one_service_superd_ends_with_it() {
    let mut rig = Rig::bare();
    rig.machine = Supervisor::new(1, Ending::WhenIdle);
    let mut s = spec("a");
    s.restart.policy = Policy::OnFailure;
    rig.configure(vec![s]);
    rig.exits(A, Exit::Code(1), 0);
    assert_eq!(rig.count("finish"), 0, "it comes back");
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.count("finish"), 1);
}

// ---- reload ----------------------------------------------------------------------

#[test]
fn a_reload_command_that_does_not_end_is_killed_and_the_next_one_may_run() {
    let mut s = spec("a");
    s.reload = Some(Reload::Run(vec!["reload".to_owned()].into(), ms(500)));
    let mut rig = Rig::new(vec![s]);
    rig.did();
    rig.ask(A, Verb::Reload);
    rig.pass(499);
    assert_eq!(rig.did(), ["run a1"]);
    rig.pass(1);
    assert_eq!(rig.did(), ["end action a1", "reply 1: failed"]);
    rig.ask(A, Verb::Reload);
    // The end of the killed one is not that of the one that runs.
    rig.action_ends(A, 1, Outcome::Unhappy("killed".to_owned()));
    assert_eq!(rig.did(), ["run a1"]);
    rig.action_ends(A, 2, Outcome::Done);
    assert_eq!(rig.did(), ["reply 2: done"]);
    assert_eq!(rig.state(A), "up");
    assert_eq!(rig.machine.next_deadline(), None);
}

#[test]
fn a_reload_command_answers_all_who_asked_for_it_meanwhile() {
    let mut s = spec("a");
    s.reload = Some(Reload::Run(vec!["reload".to_owned()].into(), ms(500)));
    let mut rig = Rig::new(vec![s, spec("b")]);
    rig.ask(A, Verb::Reload);
    rig.ask(A, Verb::Reload);
    rig.action_ends(A, 1, Outcome::Done);
    rig.ask(A, Verb::Reload);
    rig.action_ends(A, 2, Outcome::Unhappy("status 1".to_owned()));
    rig.ask(A, Verb::Reload);
    rig.ask(A, Verb::Stop);
    rig.ask(B, Verb::Reload);
    let did: Vec<String> = rig.did().split_off(2);
    let first = [
        "run a1",
        "reply 1: done",
        "reply 2: done",
        "run a1",
        "reply 3: failed",
    ];
    let then = [
        "run a1",
        "end action a1",
        "reply 4: failed",
        "TERM a1",
        "reply 6: refused",
    ];
    assert_eq!(did, [first, then].concat());
}

fn checked() -> Spec {
    let argv = |word: &str| vec![word.to_owned()].into();
    Spec {
        reload: Some(Reload::Run(argv("reload"), ms(500))),
        check: Some(Checker {
            argv: argv("check"),
            wait: ms(300),
        }),
        ..spec("a")
    }
}

fn unhappy() -> Outcome {
    Outcome::Unhappy("check: exited with status 1: line 3: no".to_owned())
}

#[test]
fn a_reload_comes_after_its_check_and_not_when_that_fails() {
    let mut rig = Rig::new(vec![checked()]);
    rig.did();
    rig.ask(A, Verb::Reload);
    rig.ask(A, Verb::Reload);
    assert_eq!(rig.did(), ["check a1"]);
    rig.action_ends(A, 1, Outcome::Done);
    assert_eq!(rig.did(), ["run a1"]);
    rig.action_ends(A, 2, Outcome::Done);
    assert_eq!(rig.did(), ["reply 1: done", "reply 2: done"]);
    rig.ask(A, Verb::Reload);
    rig.action_ends(A, 3, unhappy());
    assert_eq!(rig.did(), ["check a1", "reply 3: failed"]);
    rig.ask(A, Verb::Reload);
    rig.pass(300);
    assert_eq!(rig.did(), ["check a1", "end action a1", "reply 4: failed"]);
    assert_eq!(rig.state(A), "up");
    assert_eq!(rig.machine.next_deadline(), None);
}

#[test]
fn a_restart_comes_after_its_check_and_not_when_that_fails() {
    let mut rig = Rig::new(vec![checked()]);
    rig.did();
    rig.ask(A, Verb::Restart);
    rig.ask(A, Verb::Restart);
    rig.ask(A, Verb::Start);
    rig.ask(A, Verb::Reload);
    let did = rig.did();
    assert_eq!(did, ["check a1", "reply 3: already", "reply 4: refused"]);
    rig.action_ends(A, 1, unhappy());
    assert_eq!(rig.did(), ["reply 1: failed", "reply 2: failed"]);
    assert_eq!(rig.state(A), "up");
    rig.ask(A, Verb::Restart);
    rig.pass(300);
    assert_eq!(rig.did(), ["check a1", "end action a1", "reply 5: failed"]);
    rig.ask(A, Verb::Restart);
    rig.action_ends(A, 3, Outcome::Done);
    assert_eq!(rig.did(), ["check a1", "TERM a1"]);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.did(), ["release a1", "spawn a2", "reply 6: done"]);
}

#[test]
fn a_restart_that_was_asked_for_comes_although_the_checker_is_no_longer_configured() {
    let mut rig = Rig::new(vec![checked()]);
    rig.did();
    rig.ask(A, Verb::Restart);
    let plain = Spec {
        check: None,
        ..checked()
    };
    rig.change(A, plain, Change::Policy);
    assert_eq!(rig.did(), ["check a1"]);
    rig.action_ends(A, 1, Outcome::Done);
    assert_eq!(rig.did(), ["TERM a1"]);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.did(), ["release a1", "spawn a2", "reply 1: done"]);
}

#[test]
fn a_stop_ends_the_check_before_a_restart_and_now_asks_none() {
    let mut rig = Rig::new(vec![checked()]);
    rig.did();
    rig.ask(A, Verb::Reload);
    rig.ask(A, Verb::Restart);
    let did = rig.did();
    let first = ["check a1", "end action a1", "check a1", "reply 1: failed"];
    assert_eq!(did, first);
    rig.ask(A, Verb::Stop);
    // The end of the killed one says nothing.
    rig.action_ends(A, 2, Outcome::Done);
    assert_eq!(rig.did(), ["reply 2: failed", "end action a1", "TERM a1"]);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.did(), ["release a1", "reply 3: done, clean"]);
    rig.ask(A, Verb::Start);
    rig.did();
    rig.ask(A, Verb::Restart);
    rig.ask(A, Verb::RestartNow);
    assert_eq!(rig.did(), ["check a2", "end action a2", "kill a2"]);
    rig.exits(A, Exit::Signal(Signal::KILL), 0);
    let did = rig.did();
    let last = ["release a2", "spawn a3", "reply 5: done", "reply 6: done"];
    assert_eq!(did, last);
}

#[test]
fn a_restart_that_was_checked_does_not_undo_a_stop_that_waits_for_others() {
    let mut b = spec("b");
    b.requires = vec![A];
    let mut rig = Rig::new(vec![checked(), b]);
    rig.did();
    rig.ask(A, Verb::Restart);
    rig.ask(A, Verb::Stop);
    rig.did();
    rig.action_ends(A, 1, Outcome::Done);
    rig.exits(B, Exit::Code(0), 0);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.state(A), "down");
}

#[test]
fn a_changed_program_is_replaced_and_a_changed_policy_is_not() {
    let mut rig = Rig::new(vec![spec("a"), spec("b")]);
    rig.did();
    rig.change(A, spec("a"), Change::Policy);
    assert_eq!(rig.did(), [""; 0]);
    rig.change(A, spec("a"), Change::Program);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.did(), ["TERM a1", "release a1", "spawn a2"]);
}

// ---- starts that fail ------------------------------------------------------------

#[test]
fn a_start_that_fails_is_told_with_stage_and_cause_and_tried_again_if_it_may_pass() {
    for (errno, next) in [(libc::EAGAIN, 100), (libc::ENOENT, 300_000)] {
        let mut rig = Rig::bare();
        rig.slow_start = true;
        let mut s = spec("a");
        s.autostart = false;
        rig.configure(vec![s]);
        rig.ask(A, Verb::Start);
        let instance = rig.at(A).instance;
        let error = SpawnError {
            stage: Stage::Exec,
            thing: "/bin/a".to_owned(),
            errno,
            cause: "no".to_owned(),
        };
        rig.hear(Event::NotSpawned(A, instance, error));
        assert_eq!(rig.did(), ["spawn a1", "release a1", "reply 1: failed"]);
        rig.pass(next - 1);
        assert_eq!(rig.did(), [""; 0]);
        rig.pass(1);
        assert_eq!(rig.did(), ["spawn a2"]);
    }
}

#[test]
fn who_waits_for_a_service_is_told_when_what_it_requires_cannot_start() {
    let mut rig = Rig::bare();
    rig.slow_start = true;
    let off = |mut s: Spec| {
        s.autostart = false;
        s
    };
    let (a, b, c) = (spec("a"), needs("b", &[A]), needs("c", &[B]));
    rig.configure(vec![off(a), off(b), off(c)]);
    rig.ask(C, Verb::Start);
    let instance = rig.at(A).instance;
    let error = SpawnError {
        stage: Stage::Exec,
        thing: "/bin/a".to_owned(),
        errno: libc::ENOENT,
        cause: "no".to_owned(),
    };
    rig.hear(Event::NotSpawned(A, instance, error));
    assert_eq!(rig.did(), ["spawn a1", "release a1", "reply 1: failed"]);
    assert_eq!((rig.state(B), rig.state(C)), ("waiting", "waiting"));
    rig.pass(300_000);
    assert_eq!(rig.did(), ["spawn a2"], "the wish stays");
}

// ---- the verdict -------------------------------------------------------------------

fn panic() -> Crash {
    Crash {
        kind: "go-panic".to_owned(),
        text: "close of closed channel".to_owned(),
        frame: String::new(),
        frames: Vec::new(),
    }
}

#[test]
fn the_verdict_is_not_the_exit_status_alone() {
    let term = Exit::Signal(Signal::TERM);
    let segv = Exit::Signal(Signal(libc::SIGSEGV));
    // (stopped, exit, crash text, left, ports held) -> verdict
    let table = [
        (true, Exit::Code(0), false, 0, 0, Verdict::Clean),
        (true, Exit::Code(3), false, 0, 0, Verdict::Clean), // success-exit
        (true, term, false, 0, 0, Verdict::Clean),
        (
            true,
            Exit::Code(1),
            false,
            0,
            0,
            Verdict::FailedWhileStopping,
        ),
        (true, segv, false, 0, 0, Verdict::FailedWhileStopping),
        (
            true,
            Exit::Code(2),
            true,
            0,
            0,
            Verdict::PanickedWhileStopping,
        ),
        (
            true,
            Exit::Code(0),
            true,
            0,
            0,
            Verdict::PanickedWhileStopping,
        ),
        (true, Exit::Code(0), false, 1, 0, Verdict::LeftChildren),
        (true, Exit::Code(0), false, 0, 1, Verdict::PortsHeld),
        (false, Exit::Code(0), false, 0, 0, Verdict::ExitedByItself),
        (false, Exit::Code(1), false, 0, 0, Verdict::ExitedByItself),
        (false, Exit::Code(0), false, 1, 0, Verdict::LeftChildren),
        (false, Exit::Code(2), true, 0, 0, Verdict::Crashed),
        (false, segv, false, 0, 0, Verdict::Crashed),
        (false, segv, false, 1, 0, Verdict::Crashed),
        (false, term, false, 0, 0, Verdict::Crashed),
    ];
    for (stopped, exit, crashed, left, ports, verdict) in table {
        let mut s = spec("a");
        s.success_exit = vec![3];
        let mut rig = Rig::new(vec![s]);
        rig.ports = ports;
        if stopped {
            rig.ask(A, Verb::Stop);
        }
        rig.tree = left;
        let instance = rig.at(A).instance;
        rig.hear(Event::Exited {
            service: A,
            instance,
            exit,
            crash: crashed.then(panic),
            left: Some(left),
        });
        rig.tree = 0;
        rig.pass(2_000);
        let case = format!("stopped {stopped}, {exit}, crash {crashed}, left {left}");
        assert_eq!(rig.report().verdict, verdict, "{case}");
    }
}

#[test]
fn a_stop_that_needed_its_second_step_is_clean_after_escalation() {
    let mut s = spec("a");
    let int = step(signal(Signal::INT), Until::Gone, 1_000);
    let quit = step(signal(Signal::QUIT), Until::Gone, 1_000);
    s.stop = schedule(vec![int, quit]);
    let mut rig = Rig::new(vec![s]);
    rig.ask(A, Verb::Stop);
    rig.pass(1_000);
    rig.exits(A, Exit::Signal(Signal::QUIT), 0);
    assert_eq!(rig.report().verdict, Verdict::CleanAfterEscalation);
}

#[test]
fn a_rival_found_out_while_the_last_step_settles_gets_the_rest_of_the_wait() {
    let mut s = spec("a");
    let stop = Action::Run(vec!["stop".to_owned()].into());
    let mut last = step(stop, Until::Log("bye".into()), 5_000);
    last.settle = ms(200);
    s.stop = schedule(vec![last]);
    let mut rig = Rig::new(vec![s]);
    rig.ask(A, Verb::Stop);
    let instance = rig.at(A).instance;
    rig.hear(Event::OutputMatched(A, instance));
    rig.says_stopping(A);
    rig.action_ends(A, 1, Outcome::Impossible("refused".to_owned()));
    rig.pass(4_999);
    assert_eq!(
        rig.count("kill a1"),
        0,
        "it was not ours that it says goodbye to"
    );
    rig.pass(1);
    assert_eq!(rig.count("kill a1"), 1);
}

// ---- what is stuck ------------------------------------------------------------------

fn stuck() -> Stuck {
    Stuck {
        pid: Pid(101),
        name: "deaf".to_owned(),
        state: 'S',
        wchan: "futex_wait_queue".to_owned(),
        threads: 9,
        listens: vec!["tcp/8080".to_owned()],
    }
}

#[test]
fn what_is_stuck_is_looked_at_before_the_deadline_and_kill_comes_at_it() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.stuck = vec![stuck()];
    let asked = rig.now;
    rig.ask(A, Verb::Stop);
    rig.pass(15_000);
    assert_eq!(rig.looks, [asked + ms(14_980)]);
    assert_eq!(rig.did(), ["spawn a1", "TERM a1", "kill a1"]);
    rig.exits(A, Exit::Signal(Signal::KILL), 0);
    assert_eq!(rig.report().stuck, [stuck()]);
    assert_eq!(
        stuck().to_string(),
        "101 (deaf): sleeping in futex_wait_queue, 9 threads, listens on tcp/8080"
    );
}

#[test]
fn a_service_that_goes_just_before_its_deadline_was_not_stuck() {
    let mut rig = Rig::new(vec![spec("a")]);
    rig.stuck = vec![stuck()];
    rig.ask(A, Verb::Stop);
    rig.pass(14_990);
    assert_eq!(rig.looks.len(), 1);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.report().stuck, []);
    assert_eq!(rig.report().verdict, Verdict::Clean);
}

#[test]
fn only_the_last_step_is_looked_at_and_a_short_one_in_its_middle() {
    let mut s = spec("a");
    let term = step(signal(Signal::TERM), Until::Gone, 1_000);
    let quit = step(signal(Signal::QUIT), Until::Gone, 10);
    s.stop = schedule(vec![term, quit]);
    let mut rig = Rig::new(vec![s]);
    let asked = rig.now;
    rig.ask(A, Verb::Stop);
    rig.pass(1_010);
    assert_eq!(rig.looks, [asked + ms(1_005)]);
    assert_eq!(rig.count("kill a1"), 1);
}

#[test]
fn stop_now_looks_at_what_is_stopping_and_not_at_what_was_not_asked() {
    let mut rig = Rig::new(vec![spec("a"), spec("b")]);
    rig.stuck = vec![stuck()];
    rig.ask(A, Verb::StopNow);
    assert_eq!(rig.looks, []);
    rig.ask(B, Verb::Stop);
    rig.ask(B, Verb::StopNow);
    assert_eq!(rig.looks, [rig.now]);
    rig.exits(B, Exit::Signal(Signal::KILL), 0);
    assert_eq!(rig.report().stuck, [stuck()]);
}

#[test]
fn leftovers_are_looked_at_before_their_kill_and_only_if_it_comes() {
    for stubborn in [true, false] {
        let mut rig = Rig::new(vec![spec("a")]);
        rig.stuck = vec![stuck()];
        let began = rig.now;
        rig.exits(A, Exit::Code(0), 1);
        rig.pass(1_985);
        assert_eq!(rig.looks, [began + ms(1_980)]);
        if stubborn {
            rig.pass(15);
            assert_eq!(rig.count("kill a1"), 1);
        }
        rig.tree = 0;
        rig.hear(Event::OrphanReaped);
        let seen = if stubborn { vec![stuck()] } else { Vec::new() };
        assert_eq!(rig.report().stuck, seen, "{stubborn}");
        assert_eq!(rig.report().verdict, Verdict::LeftChildren);
    }
}

#[test]
fn what_a_step_has_asked_for_is_no_crash() {
    let abrt = Signal(libc::SIGABRT);
    let by_signal = |s: Signal| super::crash::by_signal(Exit::Signal(s));
    let dump = |_| {
        Some(Crash {
            kind: super::crash::GO_DUMP.to_owned(),
            ..panic()
        })
    };
    let escalated = Verdict::CleanAfterEscalation;
    let panicked = Verdict::PanickedWhileStopping;
    let table: [(Signal, Exit, Option<Crash>, Verdict); 5] = [
        (Signal::QUIT, Exit::Code(2), dump(abrt), escalated),
        (Signal::QUIT, Exit::Code(2), Some(panic()), panicked),
        (abrt, Exit::Signal(abrt), by_signal(abrt), escalated),
        // Not what was sent.
        (Signal::INT, Exit::Signal(abrt), by_signal(abrt), panicked),
        (Signal::INT, Exit::Code(2), dump(abrt), panicked),
    ];
    for (second, exit, crash, verdict) in table {
        let mut s = spec("a");
        let term = step(signal(Signal::TERM), Until::Gone, 1_000);
        s.stop = schedule(vec![term, step(signal(second), Until::Gone, 1_000)]);
        let mut rig = Rig::new(vec![s]);
        rig.ask(A, Verb::Stop);
        rig.pass(1_000);
        let instance = rig.at(A).instance;
        rig.hear(Event::Exited {
            service: A,
            instance,
            exit,
            crash: crash.clone(),
            left: Some(0),
        });
        assert_eq!(rig.report().verdict, verdict, "{second}, {exit}");
        assert_eq!(rig.report().crash, crash, "it is told all the same");
    }
    // Without a stop nobody has asked.
    let mut rig = Rig::new(vec![spec("a")]);
    rig.hear(Event::Exited {
        service: A,
        instance: Instance(1),
        exit: Exit::Code(2),
        crash: dump(abrt),
        left: Some(0),
    });
    assert_eq!(rig.report().verdict, Verdict::Crashed);
}

#[test]
fn every_verdict_is_reached_and_has_its_own_words() {
    let kill = Exit::Signal(Signal::KILL);
    // (stop: none, asked, timed out into a second step, timed out into KILL), exit, crash, left
    let table = [
        (1, Exit::Code(0), false, 0, "clean"),
        (2, Exit::Code(0), false, 0, "clean after escalation"),
        (3, kill, false, 0, "killed"),
        (1, Exit::Code(2), true, 0, "panicked while stopping"),
        (0, Exit::Code(2), true, 0, "crashed"),
        (0, kill, false, 0, "crashed"),
        (0, Exit::Code(0), false, 0, "exited by itself"),
        (
            0,
            Exit::Code(0),
            false,
            1,
            "left processes behind, which superd removed",
        ),
        (
            1,
            Exit::Code(0),
            false,
            1,
            "left processes behind, which superd removed",
        ),
        (1, Exit::Code(1), false, 0, "failed while stopping"),
    ];
    let mut words = crate::map::Set::new();
    for (stop, exit, crashed, left, verdict) in table {
        let mut s = spec("a");
        let term = step(signal(Signal::TERM), Until::Gone, 1_000);
        let int = step(signal(Signal::INT), Until::Gone, 1_000);
        s.stop = schedule(vec![term, int]);
        let mut rig = Rig::new(vec![s]);
        if stop > 0 {
            rig.ask(A, Verb::Stop);
            rig.pass((stop - 1) * 1_000);
        }
        rig.tree = left;
        rig.hear(Event::Exited {
            service: A,
            instance: Instance(1),
            exit,
            crash: crashed.then(panic),
            left: Some(left),
        });
        rig.tree = 0;
        rig.pass(2_000);
        let ends = |(_, h): &&(ServiceId, Happening)| matches!(h, Happening::Ended(_));
        let told = rig.told.iter().filter(ends).count();
        assert_eq!(told, 1, "one end, one verdict: {verdict}");
        assert_eq!(rig.report().verdict.to_string(), verdict);
        words.insert(verdict);
    }
    assert_eq!(words.len(), 8);
}

/// The main process has ended, and nobody can say yet whether something is left.
fn unsure(grace: u64) -> Rig {
    let mut spec = spec("a");
    Rc::make_mut(&mut spec.stop).leftover_grace = ms(grace);
    let mut rig = Rig::new(vec![spec]);
    rig.silent = true;
    let instance = rig.at(A).instance;
    rig.did();
    rig.hear(Event::Exited {
        service: A,
        instance,
        exit: Exit::Code(0),
        crash: None,
        left: None,
    });
    rig
}

#[test]
fn what_cannot_be_told_yet_is_asked_again_and_held_against_nobody() {
    let mut rig = unsure(2_000);
    assert_eq!(rig.did(), ["look tree a1"], "no signal to nobody");
    rig.hear(Event::OrphanReaped);
    assert_eq!(rig.did(), ["look tree a1"]);
    rig.hear(Event::Checked(A, Instance(1), Check::Tree, Found(0)));
    assert_eq!(rig.report().verdict, Verdict::ExitedByItself);
    assert_eq!(rig.report().left, 0);
    // Somebody is left after all.
    let mut rig = unsure(2_000);
    rig.did();
    rig.hear(Event::Checked(A, Instance(1), Check::Tree, Found(2)));
    assert_eq!(rig.did(), ["TERM to tree of a1"]);
    rig.hear(Event::Checked(A, Instance(1), Check::Tree, Found(0)));
    assert_eq!(rig.report().verdict, Verdict::LeftChildren);
    assert_eq!(rig.report().left, 2);
}

#[test]
fn what_cannot_be_told_for_the_whole_grace_is_killed() {
    let mut rig = unsure(2_000);
    rig.pass(2_000);
    assert_eq!(rig.count("kill a1"), 1);
    rig.hear(Event::Checked(A, Instance(1), Check::Tree, Found(0)));
    assert_eq!(rig.report().verdict, Verdict::ExitedByItself);
    assert_eq!(unsure(0).did()[0], "kill a1", "there is no grace");
}

#[test]
fn a_service_that_talks_all_the_time_is_told_now_and_then() {
    let mut rig = Rig::new(vec![spec("a")]);
    let instance = rig.at(A).instance;
    rig.told.clear();
    let say = |rig: &mut Rig, n: u32| {
        for n in 0..n {
            for notice in [Notice::Reloading, Notice::Ready] {
                rig.hear(Event::Notified(A, instance, notice));
            }
            rig.hear(Event::Notified(A, instance, Notice::Status(n.to_string())));
        }
        std::mem::take(&mut rig.told)
    };
    let told = say(&mut rig, 10_000);
    assert_eq!(told.len(), 21);
    let last = (A, Happening::Talkative { seconds: 10 });
    assert_eq!(told.last(), Some(&last));
    assert_eq!(rig.at(A).says, "9999", "what is so is known all the same");
    rig.pass(9_999);
    assert_eq!(say(&mut rig, 100), []);
    rig.pass(1);
    assert_eq!(say(&mut rig, 1).len(), 3);
}

#[test]
fn who_waits_for_a_start_waits_on_while_what_it_requires_is_restarted() {
    let mut b = needs("b", &[A]);
    b.autostart = false;
    b.ready = Some(Rc::new(super::ready::Ready {
        sign: super::ready::Sign::Notify,
        within: None,
    }));
    let mut rig = Rig::new(vec![spec("a"), b]);
    rig.did();
    let ticket = rig.ask(B, Verb::Start);
    assert_eq!(rig.state(B), "starting");
    rig.ask(A, Verb::Restart);
    rig.exits(B, Exit::Signal(Signal::TERM), 0);
    rig.exits(A, Exit::Signal(Signal::TERM), 0);
    assert_eq!((rig.state(A), rig.state(B)), ("up", "starting"));
    let replies = |rig: &Rig| {
        rig.did
            .iter()
            .filter(|d| d.starts_with(&format!("reply {ticket}:")))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(replies(&rig), [""; 0]);
    let instance = rig.at(B).instance;
    rig.hear(Event::Notified(B, instance, Notice::Ready));
    assert_eq!(replies(&rig), [format!("reply {ticket}: done")]);
}
