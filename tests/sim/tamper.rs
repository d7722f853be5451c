//! Mistakes on purpose: what the machine says is spoilt on its way to the world. Each
//! must be noticed, or the simulator proves nothing.

use serde_json::{json, Value};
use superd::machine::event::{Effect, Instance};
use superd::machine::hook::Kind;
use superd::machine::report::Happening;
use superd::machine::signal::Signal;
use superd::machine::spec::To;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tamper {
    /// The machine as it is.
    Not,
    /// Each TERM is sent twice.
    TermTwice,
    /// The TERM of leftovers goes out although nobody is left to be told.
    TermAfterRelease,
    /// An instance is never let go.
    NoRelease,
    /// An instance is let go twice.
    ReleaseTwice,
    /// An answer is lost.
    NoReply,
    /// An answer is given twice.
    ReplyTwice,
    /// A second instance is started at once.
    SpawnTwice,
    /// It does not wait for what it looks out for.
    SpawnUnseen,
    /// It does not wait for `pre-start`.
    SpawnUnprepared,
    /// An instance is let go while its `post-stop` runs.
    ReleaseEarly,
    /// It does not wait before it KILLs.
    KillAtOnce,
    /// KILL is forgotten.
    NoKill,
    /// Nobody is told that a file has changed.
    SilentChange,
    /// Nobody is told why one cannot be started.
    SilentBlock,
    /// superd ends twice.
    FinishTwice,
    /// superd ends with the first instance.
    FinishEarly,
    /// superd never ends.
    NoFinish,
    /// The next superd does not know when a timer is due.
    DueLost,
    /// The next superd takes what is done for due.
    DueAgain,
    /// The next superd does not know that a restart with another service was refused.
    HeededLost,
    /// The next superd takes all that begins anew for known.
    HeededEver,
}

impl Tamper {
    /// What is written down of a service.
    pub fn with_memory(self, written: &mut Value) {
        if let Value::Object(map) = written {
            match self {
                Tamper::HeededLost => drop(map.remove("heeded")),
                Tamper::HeededEver => drop(map.insert("heeded".to_owned(), (1_u64 << 60).into())),
                _ => {}
            }
        }
        for (key, done_with_nothing) in [
            ("due", Value::from(1)),
            ("covered", json!({ "boot": 1, "last": null })),
        ] {
            let value = written.get_mut(key).filter(|value| !value.is_null());
            match (self, value) {
                (Tamper::DueLost, Some(value)) => *value = Value::Null,
                (Tamper::DueAgain, Some(value)) => *value = done_with_nothing,
                _ => {}
            }
        }
    }

    pub fn with(self, effects: &mut Vec<Effect>) {
        let twice = |e: &Effect| match (self, e) {
            (Tamper::TermTwice, Effect::Signal(_, _, s, _)) => *s == Signal::TERM,
            (Tamper::ReleaseTwice, Effect::Release(..))
            | (Tamper::ReplyTwice, Effect::Reply(..))
            | (Tamper::FinishTwice, Effect::Finish) => true,
            _ => false,
        };
        let never = |e: &Effect| {
            matches!(
                (self, e),
                (Tamper::NoRelease, Effect::Release(..))
                    | (
                        Tamper::SilentChange,
                        Effect::Publish(_, Happening::FileChanged { .. })
                    )
                    | (
                        Tamper::SilentBlock,
                        Effect::Publish(_, Happening::Blocked { .. })
                    )
                    | (Tamper::NoReply, Effect::Reply(..))
                    | (Tamper::NoKill, Effect::KillTree(..))
                    | (Tamper::NoFinish, Effect::Finish)
            )
        };
        let mut spoilt = Vec::with_capacity(effects.len());
        for effect in effects.drain(..) {
            let more = match (self, &effect) {
                (Tamper::TermAfterRelease, Effect::Release(s, i)) => {
                    Some(Effect::Signal(*s, *i, Signal::TERM, To::Tree))
                }
                (Tamper::SpawnTwice, Effect::Spawn(s, i)) => {
                    Some(Effect::Spawn(*s, Instance(i.0 + 1)))
                }
                (Tamper::SpawnUnseen, Effect::LookOut(s, Some(_))) => {
                    Some(Effect::Spawn(*s, Instance(u32::MAX / 4)))
                }
                (Tamper::SpawnUnprepared, Effect::Hook(s, i, _, call))
                    if call.kind == Kind::PreStart =>
                {
                    Some(Effect::Spawn(*s, *i))
                }
                (Tamper::ReleaseEarly, Effect::Hook(s, i, _, call))
                    if call.kind == Kind::PostStop =>
                {
                    Some(Effect::Release(*s, *i))
                }
                (Tamper::KillAtOnce, Effect::Signal(s, i, Signal::TERM, _)) => {
                    Some(Effect::KillTree(*s, *i))
                }
                (Tamper::FinishEarly, Effect::Release(..)) => Some(Effect::Finish),
                _ => None,
            };
            if never(&effect) {
                continue;
            }
            if twice(&effect) {
                spoilt.push(effect.clone());
            }
            spoilt.push(effect);
            spoilt.extend(more);
        }
        *effects = spoilt;
    }
}
