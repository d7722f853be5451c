//! loom models of the latch and the self-pipe (DESIGN 3.1): every interleaving, up to a
//! number of preemptions, of handlers that request and a loop that takes.
//!
//!     RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release --test loom
//!
//! Threads stand for signal handlers, which is more than a handler can do: it interrupts
//! the loop but is never interrupted by it. Without `--cfg loom` there is nothing to run
//! here but a note that says so.

#[cfg(loom)]
#[allow(dead_code)] // the models do not need all of it
#[path = "../src/latch.rs"]
mod latch;

#[cfg(not(loom))]
#[test]
#[ignore = "needs RUSTFLAGS=\"--cfg loom\", see the head of tests/loom.rs"]
fn the_latch_is_modelled_with_loom() {}

#[cfg(loom)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod models {
    use loom::sync::atomic::{AtomicU32, Ordering};
    use loom::sync::Arc;
    use loom::thread;

    use super::latch::{Bit, Latch, Phase, Seen, Taken};

    /// Enough for every bug that was ever planted here, and over within a minute.
    const PREEMPTIONS: usize = 3;

    fn model(f: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(PREEMPTIONS);
        builder.check(f);
    }

    /// The self-pipe, as far as it matters here: how many bytes are in it.
    struct Pipe(AtomicU32);

    impl Pipe {
        fn write(&self) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }

        /// Whether poll(2) would return.
        fn is_readable(&self) -> bool {
            self.0.load(Ordering::Acquire) > 0
        }

        fn drain(&self) {
            self.0.swap(0, Ordering::AcqRel);
        }
    }

    /// What handlers and loop share.
    struct World {
        latch: Latch,
        pipe: Pipe,
        /// Who asked, written by each handler before its request and read after `take`.
        who: [AtomicU32; 2],
    }

    impl World {
        fn new() -> Arc<World> {
            Arc::new(World {
                latch: Latch::new(),
                pipe: Pipe(AtomicU32::new(0)),
                who: [AtomicU32::new(0), AtomicU32::new(0)],
            })
        }

        /// As every signal handler does it.
        fn handler(&self, me: usize, bit: Bit) {
            self.who[me].store(1, Ordering::Relaxed);
            if self.latch.request(bit) == Seen::First {
                self.pipe.write();
            }
        }

        /// How many of the handlers have left their names.
        fn askers(&self) -> u32 {
            self.who.iter().map(|w| w.load(Ordering::Relaxed)).sum()
        }
    }

    /// Two handlers do what `handler` says while the loop makes a few turns; then it goes
    /// on until it would sleep. It must not sleep over anything that was asked for, and it
    /// must have found the name of everybody who asked.
    fn nothing_is_slept_over(
        bits: [Bit; 2],
        handler: fn(&World, usize, Bit),
        turn: fn(&World) -> Taken,
    ) {
        let world = World::new();
        let threads = [0, 1].map(|me| {
            let world = world.clone();
            thread::spawn(move || handler(&world, me, bits[me]))
        });
        let mut seen = [false; 2];
        let mut known = 0;
        let mut one_turn = |world: &World| {
            let taken = turn(world);
            for (seen, bit) in seen.iter_mut().zip(bits) {
                *seen |= taken.has(bit);
            }
            if bits.iter().any(|b| taken.has(*b)) {
                known = world.askers();
            }
        };
        for _ in 0..2 {
            if world.pipe.is_readable() {
                one_turn(&world);
            }
        }
        for thread in threads {
            thread.join().unwrap();
        }
        while world.pipe.is_readable() {
            one_turn(&world);
        }
        assert_eq!(seen, [true; 2], "the loop sleeps over a request");
        assert_eq!(known, 2, "the loop does not know who asked");
    }

    /// The order of the loop (DESIGN 3.2).
    fn drain_then_take(world: &World) -> Taken {
        world.pipe.drain();
        world.latch.take()
    }

    #[test]
    fn no_wake_up_is_lost_when_two_handlers_set_two_bits() {
        let bits = [Bit::Reap, Bit::Reload];
        model(move || nothing_is_slept_over(bits, World::handler, drain_then_take));
    }

    #[test]
    fn no_request_is_lost_when_two_handlers_set_the_same_bit() {
        let bits = [Bit::Reap, Bit::Reap];
        model(move || nothing_is_slept_over(bits, World::handler, drain_then_take));
    }

    #[test]
    fn no_wake_up_is_lost_between_a_sticky_and_another_bit() {
        let bits = [Bit::Stop, Bit::Reap];
        model(move || nothing_is_slept_over(bits, World::handler, drain_then_take));
    }

    #[test]
    #[should_panic(expected = "the loop sleeps over a request")]
    fn wrong_order_taking_before_draining_sleeps_over_a_request() {
        let bits = [Bit::Reap, Bit::Reload];
        model(move || {
            nothing_is_slept_over(bits, World::handler, |world| {
                let taken = world.latch.take();
                world.pipe.drain();
                taken
            });
        });
    }

    #[test]
    #[should_panic(expected = "the loop sleeps over a request")]
    fn wrong_order_writing_the_byte_before_the_bit_sleeps_over_a_request() {
        let bits = [Bit::Reap, Bit::Reload];
        model(move || {
            let handler = |world: &World, me: usize, bit| {
                world.who[me].store(1, Ordering::Relaxed);
                world.pipe.write();
                world.latch.request(bit);
            };
            nothing_is_slept_over(bits, handler, drain_then_take);
        });
    }

    #[test]
    fn a_sticky_bit_has_exactly_one_first_and_counts_the_others() {
        for bit in [Bit::Stop, Bit::Force] {
            model(move || {
                let latch = Arc::new(Latch::new());
                let threads: Vec<_> = (0..2)
                    .map(|_| {
                        let latch = latch.clone();
                        thread::spawn(move || latch.request(bit))
                    })
                    .collect();
                let mine = latch.request(bit);
                let taken = latch.take();
                assert!(taken.has(bit), "it was asked for before it was taken");
                let mut all: Vec<Seen> = threads.into_iter().map(|t| t.join().unwrap()).collect();
                all.push(mine);
                let firsts = all.iter().filter(|s| **s == Seen::First).count();
                assert_eq!(firsts, 1);
                let after = latch.take();
                assert!(after.has(bit), "it is never cleared");
                assert_eq!(after.absorbed(), 2);
            });
        }
    }

    #[test]
    fn the_phase_never_drops_a_request_and_a_request_never_drops_the_phase() {
        model(|| {
            let latch = Arc::new(Latch::new());
            let asker = {
                let latch = latch.clone();
                thread::spawn(move || {
                    assert_eq!(latch.request(Bit::Reload), Seen::First);
                    assert_eq!(latch.request(Bit::Stop), Seen::First);
                    assert_eq!(latch.request(Bit::Stop), Seen::Again);
                })
            };
            assert_eq!(latch.advance(Phase::Terminating), Phase::Terminating);
            assert_eq!(latch.advance(Phase::Killing), Phase::Killing);
            asker.join().unwrap();
            let taken = latch.take();
            assert!(taken.has(Bit::Reload) && taken.has(Bit::Stop));
            assert_eq!(taken.absorbed(), 1);
            assert_eq!(latch.phase(), Phase::Killing);
        });
    }

    #[test]
    fn two_who_advance_the_phase_leave_the_later_one() {
        model(|| {
            let latch = Arc::new(Latch::new());
            let other = {
                let latch = latch.clone();
                thread::spawn(move || assert_eq!(latch.advance(Phase::Done), Phase::Done))
            };
            assert!(latch.advance(Phase::Killing) >= Phase::Killing);
            let seen = latch.phase();
            assert!(seen >= Phase::Killing);
            other.join().unwrap();
            assert_eq!(latch.phase(), Phase::Done);
        });
    }
}
