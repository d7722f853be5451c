//! Tests of `ready.rs`.

use super::super::event::{Change, Event, Notice, Pid, Presence, Verb};
use super::super::memory::Memory;
use super::super::report::{Exit, Happening, Origin};
use super::super::rig::{ms, Rig, A, B};
use super::super::service::{Rest, State};
use super::super::spec::{Policy, Spec};
use super::super::testing::spec;
use super::*;

fn ready(sign: Sign, within: u64) -> Option<Rc<Ready>> {
    let within = Some(ms(within));
    Some(Rc::new(Ready { sign, within }))
}

fn asks(timeout: u64) -> Spec {
    let probe = Probe {
        what: Question::Exec(vec!["/bin/ready".to_owned()].into()),
        interval: ms(100),
        timeout: ms(timeout),
        memory: None,
    };
    Spec {
        ready: ready(Sign::Probe(Rc::new(probe)), 10_000),
        ..spec("a")
    }
}

fn says() -> Spec {
    Spec {
        ready: ready(Sign::Notify, 10_000),
        ..spec("a")
    }
}

fn says_ready(rig: &mut Rig) {
    let instance = rig.at(A).instance;
    rig.hear(Event::Notified(A, instance, Notice::Ready));
}

fn refused(rig: &mut Rig, action: u64) {
    let why = "connection refused".to_owned();
    rig.action_ends(A, action, Outcome::Impossible(why));
}

#[test]
fn who_requires_it_and_who_waits_for_its_start_wait_until_it_is_ready() {
    let mut b = spec("b");
    b.requires = vec![A];
    let mut a = says();
    a.autostart = false;
    let mut rig = Rig::new(vec![a, b]);
    rig.ask(A, Verb::Start);
    assert_eq!(rig.did(), ["spawn a1"]);
    assert_eq!((rig.state(A), rig.state(B)), ("starting", "waiting"));
    says_ready(&mut rig);
    assert_eq!(rig.did(), ["reply 1: done", "spawn b1"]);
    assert_eq!(rig.machine.next_deadline(), None, "nothing is due any more");
}

#[test]
fn questions_are_asked_one_at_a_time_with_growing_pauses() {
    let mut rig = Rig::new(vec![asks(50)]);
    assert_eq!(rig.did(), ["spawn a1", "probe a1"]);
    let mut times = Vec::new();
    for n in 1..=5 {
        refused(&mut rig, n);
        assert_eq!(rig.did(), [""; 0]);
        let before = rig.now;
        rig.wake();
        times.push((rig.now - before).as_millis());
        assert_eq!(rig.did(), ["probe a1"]);
    }
    assert_eq!(times, [20, 40, 80, 100, 100]);
    // One that has no answer is ended, and asked again.
    rig.wake();
    assert_eq!(rig.did(), ["end action a1"]);
    let (what, left) = match &rig.at(A).state {
        State::Starting(run) => run.awaits.as_ref().unwrap().progress(rig.now),
        other => panic!("{other:?}"),
    };
    assert_eq!(what, "no answer within 50 ms");
    assert_eq!(left, Some(ms(10_000 - 340 - 50)));
    rig.wake();
    assert_eq!(rig.did(), ["probe a1"]);
    rig.action_ends(A, 6, Outcome::Done);
    assert_eq!(rig.state(A), "starting", "that was the one before");
    rig.action_ends(A, 7, Outcome::Done);
    assert_eq!(rig.state(A), "up");
}

#[test]
fn one_that_is_not_ready_in_time_is_stopped_in_order_and_tried_again_with_pauses() {
    let mut a = asks(50);
    a.autostart = false;
    let mut rig = Rig::new(vec![a]);
    rig.ask(A, Verb::Start);
    refused(&mut rig, 1);
    rig.did();
    while rig.state(A) == "starting" {
        rig.wake();
    }
    let did = rig.did();
    assert!(did.contains(&"end action a1".to_owned()), "{did:?}");
    assert_eq!(did.last().unwrap(), "TERM a1", "{did:?}");
    assert!(did.contains(&"reply 1: failed".to_owned()), "{did:?}");
    rig.exits(A, Exit::Code(0), 0);
    let why = "not ready within 10 s: no answer within 50 ms".to_owned();
    assert_eq!(rig.report().by, Origin::Unfit { why });
    // The first time at once; then with pauses, although each run was a stable one's length.
    assert_eq!(rig.state(A), "starting");
    rig.pass(11_000);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.state(A), "backoff");
    assert_eq!(rig.at(A).record.failures(), 2);
}

#[test]
fn a_policy_of_never_is_kept_and_a_wish_meanwhile_starts_it_again() {
    let mut a = says();
    a.restart.policy = Policy::Never;
    let mut rig = Rig::new(vec![a.clone()]);
    rig.pass(10_000);
    assert_eq!(rig.state(A), "stopping");
    rig.exits(A, Exit::Code(0), 0);
    let why = "not ready within 10 s: waited for READY=1".to_owned();
    assert_eq!(rig.at(A).state, State::Down(Rest::Failed(why)));
    let mut rig = Rig::new(vec![a]);
    rig.pass(10_000);
    rig.ask(A, Verb::Restart);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!((rig.state(A), rig.count("spawn a2")), ("starting", 1));
    rig.did();
    says_ready(&mut rig);
    assert_eq!(rig.did(), ["reply 1: done"]);
}

#[test]
fn it_may_ask_for_more_time_and_never_gets_less() {
    let mut rig = Rig::new(vec![says()]);
    let more = |rig: &mut Rig, by| {
        rig.hear(Event::Notified(A, Instance(1), Notice::Extend(ms(by))));
    };
    more(&mut rig, 3_000);
    rig.pass(9_999);
    assert_eq!(rig.state(A), "starting");
    more(&mut rig, 3_000);
    rig.pass(2_999);
    assert_eq!(rig.state(A), "starting");
    rig.pass(1);
    assert_eq!(rig.state(A), "stopping");
    more(&mut rig, 60_000);
    rig.pass(15_000);
    assert_eq!(rig.state(A), "killing", "a stop is not put off");
    let mut rig = Rig::new(vec![says()]);
    more(&mut rig, u64::MAX);
    assert_eq!(rig.machine.next_deadline(), Some(rig.now + ms(10_000)));
}

#[test]
fn what_it_says_before_its_exec_is_known_counts() {
    for sign in [Sign::Notify, Sign::Log("up".into())] {
        let mut rig = Rig::bare();
        rig.slow_start = true;
        rig.configure(vec![Spec {
            ready: ready(sign, 10_000),
            ..spec("a")
        }]);
        rig.hear(Event::Spawned(A, Instance(1), Pid(7)));
        says_ready(&mut rig);
        rig.hear(Event::OutputMatched(A, Instance(1)));
        assert_eq!(rig.state(A), "starting");
        rig.hear(Event::Execed(A, Instance(1)));
        assert_eq!(rig.state(A), "up");
    }
}

#[test]
fn a_run_of_some_time_is_waited_for_without_anything_else() {
    let mut rig = Rig::new(vec![Spec {
        ready: Some(Rc::new(Ready {
            sign: Sign::After(ms(500)),
            within: None,
        })),
        ..spec("a")
    }]);
    rig.pass(499);
    assert_eq!(rig.state(A), "starting");
    rig.pass(1);
    assert_eq!(rig.state(A), "up");
    assert_eq!(rig.did(), ["spawn a1"]);
}

#[test]
fn who_ends_before_it_is_ready_is_told_so() {
    let mut rig = Rig::new(vec![Spec {
        autostart: false,
        ..says()
    }]);
    rig.ask(A, Verb::Start);
    rig.exits(A, Exit::Code(3), 0);
    assert!(rig.did().contains(&"reply 1: failed".to_owned()));
    assert_eq!(rig.state(A), "starting", "and it is tried again");
}

/// What the next superd makes of it.
fn adopted(rig: &Rig, spec: Spec) -> Rig {
    let text = crate::json::to_string(&Memory::of(rig.at(A))).unwrap();
    let memory: Memory = crate::json::from_str(&text).unwrap();
    assert_eq!(memory.fault(&spec), None);
    assert!(memory.is_awaited());
    let mut next = Rig::bare();
    next.now = rig.now;
    next.hear(Event::Adopt(Box::new(super::super::event::Adopted {
        service: A,
        spec: Rc::new(spec),
        memory,
        found: Presence::Running(Pid(101)),
    })));
    next.hear(Event::Configure {
        changed: Vec::new(),
        gone: Vec::new(),
        by: Origin::Config,
    });
    next
}

#[test]
fn another_superd_asks_again_and_takes_no_more_time_for_it() {
    let mut rig = Rig::new(vec![asks(50)]);
    refused(&mut rig, 1);
    rig.pass(20);
    let mut next = adopted(&rig, asks(50));
    assert_eq!(next.did(), ["probe a1"]);
    next.pass(9_980);
    assert_eq!(next.state(A), "stopping");
}

#[test]
fn another_superd_that_finds_a_start_half_done_listens_from_then_on() {
    let says = Spec {
        ready: ready(Sign::Log("up".into()), 10_000),
        ..spec("a")
    };
    let mut rig = Rig::bare();
    rig.slow_start = true;
    rig.configure(vec![says.clone()]);
    assert_eq!(rig.did(), ["spawn a1", "watch a1"]);
    let mut next = adopted(&rig, says);
    assert_eq!(next.did(), ["watch a1"]);
    assert_eq!(next.machine.next_deadline(), Some(next.now + ms(10_000)));
    next.hear(Event::OutputMatched(A, Instance(1)));
    assert_eq!(next.state(A), "up");
}

#[test]
fn what_was_perhaps_said_while_no_superd_was_there_is_held_against_nobody() {
    let rig = Rig::new(vec![says()]);
    let mut next = adopted(&rig, says());
    assert_eq!(next.state(A), "starting");
    next.pass(10_000);
    assert_eq!(next.state(A), "up");
    let mut next = adopted(&rig, says());
    says_ready(&mut next);
    assert_eq!(next.state(A), "up");
}

#[test]
fn a_changed_definition_does_not_change_a_start_under_way() {
    let mut rig = Rig::new(vec![says()]);
    rig.change(A, spec("a"), Change::Policy);
    assert_eq!(rig.state(A), "starting");
    says_ready(&mut rig);
    assert_eq!(rig.state(A), "up");
    let told =
        |h: &Happening| matches!(h, Happening::Executing { awaited, .. } if awaited == "READY=1");
    assert!(rig.told.iter().any(|(_, h)| told(h)));
}
