//! What a mio token stands for: the kind in the top four bits, an index below.
//!
//! The index is the owner's: a slot of `clients`, the number of a service, a slot of
//! `actions`. 28 bits are enough on 32-bit machines and the same everywhere.

use mio::Token;

const SHIFT: u32 = 28;
const INDEX: usize = (1 << SHIFT) - 1;

/// Whose event it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Source {
    /// The self-pipe of the signal handlers.
    Wake,
    /// The timer descriptor.
    Timer,
    /// The listening control socket.
    Listener,
    /// A control connection, by slot.
    Client(u32),
    /// The output pipe of a service, by [`crate::machine::event::ServiceId`].
    Log(u32),
    /// The sd_notify socket.
    Notify,
    /// An HTTP request of a stop step, by slot.
    Action(u32),
    /// A pidfd, by an index of the reactor's choice.
    Process(u32),
    /// The status pipe of a start, by an index of the reactor's choice.
    Spawn(u32),
    /// What tells of changes of the world, by an index of `world`'s choice.
    World(u32),
    /// The output of a service's checker, by [`crate::machine::event::ServiceId`].
    Checker(u32),
    /// What tells that the wall clock was set.
    Clock,
    /// Anything else of the reactor's, by an index of its choice.
    Other(u32),
}

impl Source {
    /// The token to register with. An index of 2^28 or more loses its top bits.
    pub fn token(self) -> Token {
        let (kind, index) = match self {
            Source::Wake => (0, 0),
            Source::Timer => (1, 0),
            Source::Listener => (2, 0),
            Source::Client(i) => (3, i),
            Source::Log(i) => (4, i),
            Source::Notify => (5, 0),
            Source::Action(i) => (6, i),
            Source::Process(i) => (7, i),
            Source::Spawn(i) => (8, i),
            Source::Other(i) => (9, i),
            Source::World(i) => (10, i),
            Source::Checker(i) => (11, i),
            Source::Clock => (12, 0),
        };
        Token((kind << SHIFT) | (index as usize & INDEX))
    }

    /// What a token stands for; none if [`Source::token`] did not make it.
    pub fn of(token: Token) -> Option<Source> {
        let index = (token.0 & INDEX) as u32;
        Some(match token.0 >> SHIFT {
            0 => Source::Wake,
            1 => Source::Timer,
            2 => Source::Listener,
            3 => Source::Client(index),
            4 => Source::Log(index),
            5 => Source::Notify,
            6 => Source::Action(index),
            7 => Source::Process(index),
            8 => Source::Spawn(index),
            9 => Source::Other(index),
            10 => Source::World(index),
            11 => Source::Checker(index),
            12 => Source::Clock,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_comes_back_from_its_token() {
        for source in [
            Source::Wake,
            Source::Timer,
            Source::Listener,
            Source::Client(31),
            Source::Log(0xfff_ffff),
            Source::Notify,
            Source::Action(0),
            Source::Process(7),
            Source::Spawn(1),
            Source::Other(9),
            Source::World(2),
            Source::Clock,
        ] {
            assert_eq!(Source::of(source.token()), Some(source));
            assert!(source.token().0 <= u32::MAX as usize, "fits 32 bits");
        }
        assert_eq!(Source::of(Token(15 << SHIFT)), None);
    }
}
