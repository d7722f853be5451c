//! What the unit tests of the machine share.

use std::rc::Rc;
use std::time::Duration;

use super::signal::Signal;
use super::spec::{Action, Policy, Restart, Schedule, Spec, Step, To, Until};

/// TERM to main, at most 15 s.
pub fn term_schedule() -> Schedule {
    Schedule {
        steps: vec![Step {
            action: Action::Signal(Signal::TERM, To::Main),
            until: Until::Gone,
            wait: Duration::from_secs(15),
            settle: Duration::ZERO,
        }],
        leftover_grace: Duration::from_secs(2),
        after: Duration::ZERO,
    }
}

/// A service with the defaults.
pub fn spec(name: &str) -> Spec {
    Spec {
        name: name.into(),
        autostart: true,
        after: Vec::new(),
        requires: Vec::new(),
        wants: Vec::new(),
        restart_with: Vec::new(),
        conflicts: Vec::new(),
        oneshot: None,
        wait_for: None,
        timer: None,
        ready: None,
        health: None,
        watchdog: None,
        stop: Rc::new(term_schedule()),
        restart: Restart {
            policy: Policy::Always,
            delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(30),
            stable: Duration::from_secs(10),
            crash_loop: None,
        },
        success_exit: Vec::new(),
        success_signal: Vec::new(),
        reload: None,
        check: None,
        watch: None,
        max_connections: None,
        hooks: None,
    }
}
