//! `health` as typed: what is asked, and what is done when the answers are wrong.

use std::rc::Rc;
use std::time::Duration;

use toml::de::DeValue;

use crate::machine::health::{Health, Remedy};

use super::keys;
use super::read::{Reader, Value};
use super::ready::Asked;

/// The pause between two checks when it does not say.
const INTERVAL: Duration = Duration::from_secs(30);
/// Wrong answers in a row that are too many, when it does not say.
const FAILURES: u32 = 3;

const LIKE: &str = "http = \"http://127.0.0.1/\"";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Restart,
    Stop,
    Run,
}

const ACTION: &[(&str, Action)] = &[
    ("restart", Action::Restart),
    ("stop", Action::Stop),
    ("run", Action::Run),
];

/// `{ http = "http://127.0.0.1/", interval = "30s", failures = 3, action = "restart" }`, or false.
pub(super) fn read(r: &mut Reader, key: &str, v: &Value) -> Option<Option<Rc<Health>>> {
    if let DeValue::Boolean(false) = v.get_ref() {
        return Some(None);
    }
    let mut asked = Asked::default();
    let (mut failures, mut action, mut run) = (FAILURES, None, None);
    let mut is_whole = true;
    for (name, value) in r.table(key, v, LIKE)?.iter() {
        if !r.known(name, keys::HEALTH) {
            is_whole = false;
            continue;
        }
        is_whole &= match name.get_ref().as_ref() {
            "failures" => {
                let n = r.integer("failures", value, 1..1001);
                failures = n.and_then(|n| n.try_into().ok()).unwrap_or(FAILURES);
                n.is_some()
            }
            "action" => {
                action = r.choice("action", value, ACTION);
                action.is_some()
            }
            "run" => {
                run = r.command("run", value).map(|argv| (argv, value.span()));
                run.is_some()
            }
            probe => asked.read(r, probe, value).is_some(),
        };
    }
    if !is_whole {
        return None;
    }
    if !asked.is_one() {
        r.problem(
            v.span(),
            format_args!(
                "`{key}` asks one of tcp, http and exec, or for `memory`: write {{ {LIKE} }}"
            ),
        );
        return None;
    }
    let remedy = match (action, run) {
        (None | Some(Action::Restart), None) => Remedy::Restart,
        (Some(Action::Stop), None) => Remedy::Stop,
        (None | Some(Action::Run), Some((argv, _))) => Remedy::Run(argv.into()),
        (Some(Action::Run), None) => {
            r.problem(v.span(), "action = \"run\" needs `run`, a command");
            return None;
        }
        (Some(Action::Restart | Action::Stop), Some((_, at))) => {
            r.problem(at, "`run` goes with action = \"run\"");
            return None;
        }
    };
    Some(Some(Rc::new(Health {
        probe: Rc::new(asked.probe(r, INTERVAL)?),
        failures,
        remedy,
    })))
}
