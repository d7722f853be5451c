//! Scenarios of oneshots, of what is wanted along, and of what conflicts.

use std::rc::Rc;

use super::event::{Adopted, Change, Event, Pid, Presence, ServiceId, Target, Verb, Wait};
use super::memory::Memory;
use super::ready::{Ready, Sign};
use super::report::{Exit, Origin, Verdict};
use super::rig::{ms, Rig, A, B, C};
use super::service::{Rest, State, Want};
use super::spec::{Oneshot, Policy, Spec};
use super::testing::spec;

fn oneshot(name: &str, kind: Oneshot) -> Spec {
    let mut spec = Spec {
        oneshot: Some(kind),
        ready: Some(Rc::new(Ready {
            sign: Sign::Exit,
            within: None,
        })),
        ..spec(name)
    };
    spec.restart.policy = Policy::OnFailure;
    spec
}

fn needs(name: &str, requires: &[ServiceId]) -> Spec {
    Spec {
        requires: requires.to_vec(),
        ..spec(name)
    }
}

fn off(spec: Spec) -> Spec {
    Spec {
        autostart: false,
        ..spec
    }
}

fn is_done(rig: &Rig, id: ServiceId) -> bool {
    matches!(rig.at(id).state, State::Down(Rest::Done))
}

#[test]
fn what_requires_a_oneshot_starts_when_that_has_succeeded_and_stays_when_it_is_done() {
    let mut rig = Rig::new(vec![
        oneshot("a", Oneshot::Remains),
        needs("b", &[A]),
        Spec {
            after: vec![A],
            ..spec("c")
        },
    ]);
    assert_eq!(rig.did(), ["spawn a1"]);
    assert_eq!((rig.state(A), rig.state(B)), ("starting", "waiting"));
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.did(), ["release a1", "spawn b1", "spawn c1"]);
    assert!(is_done(&rig, A));
    rig.pass(3_600_000);
    assert_eq!(
        (rig.state(B), rig.did().len()),
        ("up", 0),
        "it is not done again"
    );
    // Until it is stopped: then what requires it stops, too.
    rig.ask(A, Verb::Stop);
    assert_eq!(rig.did(), ["reply 1: done", "TERM b1"]);
    assert_eq!(rig.state(C), "up");
}

#[test]
fn a_start_of_a_oneshot_is_answered_when_it_is_done_and_only_some_are_done_again() {
    for (kind, again) in [(Oneshot::Remains, false), (Oneshot::Again, true)] {
        let mut rig = Rig::new(vec![off(oneshot("a", kind)), off(needs("b", &[A]))]);
        rig.ask(A, Verb::Start);
        assert_eq!(rig.did(), ["spawn a1"]);
        rig.exits(A, Exit::Code(0), 0);
        assert_eq!(rig.did(), ["release a1", "reply 1: finished"]);
        // Who requires it does not start it again.
        rig.ask(B, Verb::Start);
        assert_eq!(rig.did(), ["spawn b1", "reply 2: done"]);
        rig.ask(A, Verb::Start);
        match again {
            true => assert_eq!(rig.did(), ["spawn a2"]),
            false => assert_eq!(rig.did(), ["reply 3: already"]),
        }
        assert_eq!(rig.state(B), "up");
    }
}

#[test]
fn a_oneshot_that_fails_is_tried_again_with_pauses_and_keeps_the_others_waiting() {
    let mut rig = Rig::new(vec![
        off(oneshot("a", Oneshot::Remains)),
        off(needs("b", &[A])),
    ]);
    let b = rig.ask(B, Verb::Start);
    rig.did();
    rig.exits(A, Exit::Code(1), 0);
    let did = rig.did();
    assert!(did.contains(&format!("reply {b}: failed")), "{did:?}");
    assert!(did.contains(&"spawn a2".to_owned()), "{did:?}");
    rig.exits(A, Exit::Code(1), 0);
    assert_eq!((rig.state(A), rig.state(B)), ("backoff", "waiting"));
    rig.pass(1_000);
    rig.exits(A, Exit::Code(0), 0);
    assert!(is_done(&rig, A));
    assert_eq!(rig.state(B), "up");
}

#[test]
fn a_oneshot_that_is_stopped_or_takes_too_long_is_not_done() {
    let mut rig = Rig::new(vec![oneshot("a", Oneshot::Remains)]);
    rig.ask(A, Verb::Stop);
    rig.exits(A, Exit::Code(0), 0);
    assert!(matches!(rig.at(A).state, State::Down(Rest::Stopped)));
    assert_eq!(rig.report().verdict, Verdict::Clean);
    let mut limited = oneshot("a", Oneshot::Remains);
    limited.ready = Some(Rc::new(Ready {
        sign: Sign::Exit,
        within: Some(ms(500)),
    }));
    let mut rig = Rig::new(vec![limited]);
    rig.pass(500);
    assert_eq!(rig.state(A), "stopping");
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!((rig.state(A), rig.count("spawn a2")), ("starting", 1));
}

#[test]
fn what_is_done_stays_done_for_another_superd_and_changes_are_done() {
    let a = oneshot("a", Oneshot::Remains);
    let mut rig = Rig::new(vec![a.clone()]);
    rig.exits(A, Exit::Code(0), 0);
    let text = crate::json::to_string(&Memory::of(rig.at(A))).unwrap();
    let mut next = Rig::bare();
    next.hear(Event::Adopt(Box::new(Adopted {
        service: A,
        spec: Rc::new(a.clone()),
        memory: crate::json::from_str(&text).unwrap(),
        found: Presence::Gone {
            crash: None,
            left: Some(0),
        },
    })));
    next.configure(vec![]);
    assert!(is_done(&next, A) && next.did().is_empty());
    next.change(A, a.clone(), Change::Policy);
    assert!(is_done(&next, A));
    next.change(A, a, Change::Program);
    assert_eq!(next.did(), ["spawn a2"]);
}

#[test]
fn what_is_wanted_is_started_along_and_its_failure_is_no_obstacle() {
    let wants = Spec {
        wants: vec![A],
        ..spec("b")
    };
    let mut rig = Rig::new(vec![off(spec("a")), off(wants.clone())]);
    rig.ask(B, Verb::Start);
    assert_eq!(rig.did(), ["spawn a1", "spawn b1", "reply 1: done"]);
    rig.ask(A, Verb::Stop);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!((rig.state(A), rig.state(B)), ("down", "up"));
    // It waits for it as long as that is on its way.
    let mut a = off(spec("a"));
    a.ready = Some(Rc::new(Ready {
        sign: Sign::Notify,
        within: Some(ms(1_000)),
    }));
    let mut rig = Rig::new(vec![a, off(wants)]);
    rig.ask(B, Verb::Start);
    assert_eq!(rig.did(), ["spawn a1"]);
    rig.pass(1_000);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.state(B), "waiting", "its first restart is immediate");
    rig.pass(1_000);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!((rig.state(A), rig.state(B)), ("backoff", "up"));
}

fn rivals() -> Rig {
    let b = Spec {
        conflicts: vec![A],
        ..off(spec("b"))
    };
    Rig::new(vec![spec("a"), b])
}

#[test]
fn a_start_stops_what_conflicts_with_it_and_waits_for_its_end() {
    for (first, second, names) in [(A, B, ["a", "b"]), (B, A, ["b", "a"])] {
        let mut rig = rivals();
        if first == B {
            rig.ask(B, Verb::Start);
            rig.exits(A, Exit::Code(0), 0);
        }
        rig.did();
        rig.ask(second, Verb::Start);
        let [one, two] = names;
        let runs = rig.at(first).instance.0;
        assert_eq!(rig.did(), [format!("TERM {one}{runs}")]);
        let by = Origin::Conflict {
            service: two.to_owned(),
        };
        assert_eq!(rig.at(first).stop().unwrap().order.by, by);
        assert_eq!(rig.state(second), "waiting");
        assert_eq!(rig.machine.waits_for(second), [one.into()]);
        rig.exits(first, Exit::Code(0), 0);
        assert_eq!((rig.state(first), rig.state(second)), ("down", "up"));
        assert_eq!(rig.at(first).want, Want::Down);
        assert!(rig.did().last().unwrap().contains(": done"));
    }
}

#[test]
fn a_start_of_everything_leaves_alternatives_alone() {
    let mut rig = rivals();
    rig.request(Target::All, Verb::Start, Wait::Done);
    assert_eq!((rig.state(A), rig.state(B)), ("up", "down"));
    rig.ask(B, Verb::Start);
    rig.exits(A, Exit::Code(0), 0);
    rig.request(Target::All, Verb::Restart, Wait::Done);
    rig.exits(B, Exit::Code(0), 0);
    assert_eq!(
        (rig.state(A), rig.state(B)),
        ("down", "up"),
        "who runs stays"
    );
    assert_eq!(rig.at(B).instance.0, 2);
}

#[test]
fn who_comes_back_by_itself_waits_for_what_conflicts_and_nobody_waits_for_it() {
    // A reload makes them conflict while both run.
    let mut rig = Rig::new(vec![
        spec("a"),
        spec("b"),
        Spec {
            after: vec![B],
            ..off(spec("c"))
        },
    ]);
    let b = Spec {
        conflicts: vec![A],
        ..spec("b")
    };
    rig.change(B, b, Change::Policy);
    rig.exits(B, Exit::Code(1), 0);
    assert_eq!((rig.state(A), rig.state(B)), ("up", "waiting"));
    rig.ask(C, Verb::Start);
    assert_eq!(rig.state(C), "up", "b is not on its way");
    rig.ask(A, Verb::Stop);
    rig.exits(A, Exit::Code(0), 0);
    assert_eq!(rig.state(B), "up");
    assert_eq!(rig.at(B).pid(), Some(Pid(102)));
}
