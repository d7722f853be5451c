//! The real machine in a fake world (DESIGN 9): children of every character, clients,
//! reloads, a virtual clock, and the promises checked after every step.
//!
//!     cargo test --test sim                                   a short run
//!     SUPERD_SIM_STEPS=1000000 cargo test --test sim          ten seconds or two; the release
//!                                                             profile takes longer to link
//!     SUPERD_SIM_SEED=0x1234 cargo test --test sim a_million  the one episode of that seed
//!
//! A failure names the seed of its episode and shows what happened last.
#![allow(clippy::panic, clippy::indexing_slicing, clippy::cast_precision_loss)]

#[path = "sim/dice.rs"]
mod dice;
#[path = "sim/draw.rs"]
mod draw;
#[path = "sim/drive.rs"]
mod drive;
#[path = "sim/judge.rs"]
mod judge;
#[path = "sim/tamper.rs"]
mod tamper;
#[path = "sim/world.rs"]
mod world;

use dice::Dice;
use drive::{Notes, Outcome, Sim};
use judge::Broken;
use tamper::Tamper;

/// Steps without `SUPERD_SIM_STEPS`: a second or two.
const STEPS: u64 = 100_000;
/// The first episode's seed without `SUPERD_SIM_SEED`.
const SEED: u64 = 0x5bd1_e995;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match number {
        Ok(n) => Some(n),
        Err(e) => panic!("{name}: {e}"),
    }
}

/// Plays one episode; a failure is played once more, for the record.
fn play(seed: u64) -> Outcome {
    match Sim::new(seed, Tamper::Not, Notes::None).episode() {
        Ok(outcome) => outcome,
        Err(_) => {
            let mut sim = Sim::new(seed, Tamper::Not, Notes::Lines);
            let Err(Broken { rule, text }) = sim.episode() else {
                panic!("SUPERD_SIM_SEED={seed:#x}: it did not happen again: not deterministic");
            };
            for line in &sim.lines {
                println!("{line}");
            }
            println!("{}", sim.describe());
            panic!("SUPERD_SIM_SEED={seed:#x}: not kept: {rule}: {text}");
        }
    }
}

#[test]
fn a_million_steps_keep_every_promise() {
    if let (Some(seed), None) = (number("SUPERD_SIM_SEED"), number("SUPERD_SIM_STEPS")) {
        play(seed);
        return;
    }
    let mut seeds = Dice::new(number("SUPERD_SIM_SEED").unwrap_or(SEED));
    let wanted = number("SUPERD_SIM_STEPS").unwrap_or(STEPS);
    let began = std::time::Instant::now();
    let (mut steps, mut episodes, mut spawns, mut stops, mut replies) = (0, 0, 0, 0, 0);
    while steps < wanted {
        let outcome = play(seeds.roll());
        steps += outcome.steps;
        episodes += 1;
        spawns += outcome.spawns;
        stops += outcome.stops;
        replies += outcome.replies;
    }
    println!(
        "{steps} steps in {episodes} episodes: {spawns} starts, {stops} stops, {replies} replies, {:.1} s",
        began.elapsed().as_secs_f64()
    );
    assert!(spawns > episodes && stops > episodes && replies > episodes);
}

#[test]
fn the_same_seed_has_the_same_effects() {
    for seed in 0..20 {
        let hash = |seed| match Sim::new(seed, Tamper::Not, Notes::Hash).episode() {
            Ok(outcome) => outcome.hash,
            Err(_) => play(seed).hash,
        };
        assert_eq!(hash(seed), hash(seed));
        assert_ne!(hash(seed), hash(seed + 1));
    }
}

/// Spoils what the machine says; some episode must notice, by one of these rules.
fn is_noticed(tamper: Tamper, rules: &[&str]) {
    for seed in 0..1_000 {
        let mut sim = Sim::new(seed, tamper, Notes::None);
        if let Err(Broken { rule, text }) = sim.episode() {
            assert!(rules.contains(&rule), "{tamper:?}: {rule}: {text}");
            return;
        }
    }
    panic!("{tamper:?} went unnoticed");
}

#[test]
fn every_mistake_made_on_purpose_is_noticed() {
    let not_there = "nothing is done to an instance that is not there";
    is_noticed(
        Tamper::TermTwice,
        &[
            "each step once",
            "leftovers get one TERM",
            "as the schedule says",
            "only a stop does that",
        ],
    );
    is_noticed(Tamper::TermAfterRelease, &[not_there]);
    is_noticed(
        Tamper::NoRelease,
        &["never two", "only a gone service at rest is forgotten"],
    );
    is_noticed(Tamper::ReleaseTwice, &[not_there]);
    is_noticed(Tamper::NoReply, &["each request is answered"]);
    is_noticed(Tamper::ReplyTwice, &["one reply for each request"]);
    is_noticed(Tamper::SpawnTwice, &["never two"]);
    is_noticed(
        Tamper::SilentChange,
        &[
            "a change is acted upon",
            "a checker is asked once, of what is up",
            "only a stop does that",
            "never without being wanted",
        ],
    );
    is_noticed(Tamper::SilentBlock, &["who cannot be started says why"]);
    is_noticed(Tamper::SpawnUnseen, &["never while something is missing"]);
    is_noticed(
        Tamper::SpawnUnprepared,
        &["started when its pre-start is happy"],
    );
    is_noticed(
        Tamper::ReleaseEarly,
        &[
            "no hook outlives its instance",
            "no action outlives its instance",
        ],
    );
    is_noticed(
        Tamper::KillAtOnce,
        &["KILL is never early", "only a stop does that"],
    );
    is_noticed(
        Tamper::NoKill,
        &[
            "a stop ends in time",
            "it comes to rest",
            "--now kills at once",
        ],
    );
    is_noticed(Tamper::FinishTwice, &["nothing after Finish"]);
    is_noticed(Tamper::FinishEarly, &["Finish when asked and nothing runs"]);
    is_noticed(Tamper::NoFinish, &["Finish comes in the end"]);
    is_noticed(Tamper::DueLost, &["what is due is not left out"]);
    is_noticed(Tamper::DueAgain, &["what is due is run once"]);
    is_noticed(
        Tamper::HeededLost,
        &[
            "a checker is asked once, of what is up",
            "restarted with what has begun anew, once",
        ],
    );
    is_noticed(
        Tamper::HeededEver,
        &["who is restarted with one that begins anew is at once"],
    );
}
