//! `pre-start`, `post-start`, `pre-stop`, `post-stop` and `on-crash`: a command each, and how
//! long it may take.

use std::rc::Rc;
use std::time::Duration;

use toml::de::DeValue;

use crate::machine::hook::{Hook, Hooks};
use crate::machine::spec::{Oneshot, Schedule, Step};

use super::keys;
use super::read::{Reader, Spots, Value};
use super::stop::positive;

/// The longest a hook takes before it is killed. Short: a start, a stop or a restart waits for
/// it, and so does procd.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a section says of them; `Some(None)`: `false`.
#[derive(Clone, Default)]
pub(super) struct Said {
    pub pre_start: Option<Option<Hook>>,
    pub post_start: Option<Option<Hook>>,
    pub pre_stop: Option<Option<Hook>>,
    pub post_stop: Option<Option<Hook>>,
    pub on_crash: Option<Option<Hook>>,
}

/// `["/program", "argument"]`, `{ run = [...], timeout = "10s" }`, or false.
pub(super) fn read(r: &mut Reader, key: &str, v: &Value) -> Option<Option<Hook>> {
    let table = match v.get_ref() {
        DeValue::Boolean(false) => return Some(None),
        DeValue::Table(table) => table,
        _ => {
            let argv = r.command(key, v)?.into();
            let wait = TIMEOUT;
            return Some(Some(Hook { argv, wait }));
        }
    };
    let (mut argv, mut wait) = (None, TIMEOUT);
    let mut is_whole = true;
    for (name, value) in table.iter() {
        is_whole &= match name.get_ref().as_ref() {
            _ if !r.known(name, keys::HOOK) => false,
            "run" => {
                argv = r.command("run", value);
                argv.is_some()
            }
            _ => positive(r, "timeout", value).map(|t| wait = t).is_some(),
        };
    }
    if !is_whole {
        return None;
    }
    let Some(argv) = argv else {
        r.problem(
            v.span(),
            format_args!(
                "`{key}` has no command: write [\"/program\"] or {{ run = [\"/program\"], timeout = \"10s\" }}"
            ),
        );
        return None;
    };
    Some(Some(Hook {
        argv: argv.into(),
        wait,
    }))
}

/// What becomes of a service's hooks: those around it, and the schedule of its stop with
/// `pre-stop` as the first step and the time of those after the end.
pub(super) fn define(
    r: &mut Reader,
    at: &Spots,
    said: Said,
    defaults: &Said,
    oneshot: Option<Oneshot>,
    stop: Rc<Schedule>,
) -> (Option<Rc<Hooks>>, Rc<Schedule>) {
    if oneshot.is_some() && said.post_start.iter().flatten().next().is_some() {
        r.problem(
            at.of(&["post-start"]),
            "a oneshot is done when it ends: what is to follow is its `post-stop`, not `post-start`",
        );
    }
    let of = |own: Option<Option<Hook>>, defaults: &Option<Option<Hook>>| {
        own.or_else(|| defaults.clone()).flatten()
    };
    let hooks = Hooks {
        pre_start: of(said.pre_start, &defaults.pre_start),
        post_start: of(said.post_start, &defaults.post_start).filter(|_| oneshot.is_none()),
        on_crash: of(said.on_crash, &defaults.on_crash),
        post_stop: of(said.post_stop, &defaults.post_stop),
    };
    let pre_stop = of(said.pre_stop, &defaults.pre_stop);
    let after = hooks.after();
    let stop = match pre_stop.is_none() && after.is_zero() {
        true => stop, // it may be the one that many share
        false => {
            let first = pre_stop.iter().map(Step::hook);
            Rc::new(Schedule {
                steps: first.chain(stop.steps.iter().cloned()).collect(),
                leftover_grace: stop.leftover_grace,
                after,
            })
        }
    };
    ((!hooks.is_nothing()).then(|| Rc::new(hooks)), stop)
}
