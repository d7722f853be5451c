//! Whether superd becomes another program now, and who is told how that went.
//!
//! | asked \ is   | at rest | asking the new one | agreed |
//! |--------------|---------|--------------------|--------|
//! | wish         | ask     | joins              | joins  |
//! | new one: yes | -       | agreed             | -      |
//! | new one: no  | -       | at rest, all told  | -      |
//! | time is over | -       | at rest, all told  | -      |
//! | may I?       | no      | no                 | yes¹   |
//! | it failed    | -       | -                  | at rest, all told |
//!
//! ¹ once nothing is left to be done in this turn; not when superd is to end meanwhile: then all
//!   are told, and the old one does that.
//!
//! The new program is asked first whether it understands the state, as a child and with time
//! going on. A wish that comes while another one is under way is granted with it: what is
//! executed then is what is there after both were said.

use std::time::Duration;

use super::event::Ticket;
use super::report::Origin;
use super::time::Tick;

/// How long the new program may take to say that it understands the state.
pub const ASK_WITHIN: Duration = Duration::from_secs(10);

/// Why superd stays what it is while it ends.
const ENDING: &str = "superd is ending";

/// An upgrade, wished for or not.
#[derive(Debug, Default)]
pub struct Upgrade {
    stage: Stage,
    by: Option<Origin>,
    tickets: Vec<Ticket>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    #[default]
    AtRest,
    Asking {
        until: Tick,
    },
    Agreed,
}

/// What is to be done after a wish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wished {
    /// Ask the new program.
    Ask,
    /// Nothing: one is under way.
    Joined,
    /// Nothing; the reason.
    Refused(&'static str),
}

/// It came to nothing: these are told so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CameToNothing {
    /// Who waits.
    pub tickets: Vec<Ticket>,
    /// In one line.
    pub why: String,
}

impl Upgrade {
    /// Somebody wishes for one. `ending`: superd is to end, with its services or without.
    pub fn wish(&mut self, now: Tick, by: Origin, ticket: Option<Ticket>, ending: bool) -> Wished {
        if ending {
            return Wished::Refused(ENDING);
        }
        self.tickets.extend(ticket);
        match self.stage {
            Stage::Asking { .. } | Stage::Agreed => Wished::Joined,
            Stage::AtRest => {
                self.by = Some(by);
                self.stage = Stage::Asking {
                    until: now + ASK_WITHIN,
                };
                Wished::Ask
            }
        }
    }

    /// The new program has answered: it understands the state, or why not.
    pub fn answered(&mut self, answer: Result<(), String>) -> Option<CameToNothing> {
        match (self.stage, answer) {
            (Stage::AtRest | Stage::Agreed, _) => None,
            (Stage::Asking { .. }, Ok(())) => {
                self.stage = Stage::Agreed;
                None
            }
            (Stage::Asking { .. }, Err(why)) => Some(self.give_up(why)),
        }
    }

    /// When [`Upgrade::timeout`] is to be called.
    pub fn next_deadline(&self) -> Option<Tick> {
        match self.stage {
            Stage::Asking { until } => Some(until),
            Stage::AtRest | Stage::Agreed => None,
        }
    }

    /// Time has passed. The child that was asked is to be killed if something is returned.
    pub fn timeout(&mut self, now: Tick) -> Option<CameToNothing> {
        match self.stage {
            Stage::Asking { until } if now >= until => {
                let s = ASK_WITHIN.as_secs();
                let why = format!("the new superd has not answered within {s} s");
                Some(self.give_up(why))
            }
            Stage::AtRest | Stage::Asking { .. } | Stage::Agreed => None,
        }
    }

    /// Whether the new program has agreed.
    pub fn is_agreed(&self) -> bool {
        self.stage == Stage::Agreed
    }

    /// To be asked right before: may superd become the other program now?
    pub fn may_go(&mut self, ending: bool) -> Result<bool, CameToNothing> {
        match (self.stage, ending) {
            (Stage::AtRest | Stage::Asking { .. }, _) => Ok(false),
            (Stage::Agreed, false) => Ok(true),
            (Stage::Agreed, true) => Err(self.give_up(ENDING.to_owned())),
        }
    }

    /// The other program could not be executed.
    pub fn failed(&mut self, why: String) -> CameToNothing {
        self.give_up(why)
    }

    /// Nothing reaches the tickets of this client any more.
    pub fn client_gone(&mut self, client: u64) {
        self.tickets.retain(|t| t.client != client);
    }

    /// Who wished for it first.
    pub fn by(&self) -> Option<&Origin> {
        self.by.as_ref()
    }

    /// Who waits.
    pub fn tickets(&self) -> &[Ticket] {
        &self.tickets
    }

    fn give_up(&mut self, why: String) -> CameToNothing {
        let tickets = std::mem::take(self).tickets;
        CameToNothing { tickets, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick(5);

    fn ticket(client: u64) -> Ticket {
        Ticket { client, request: 1 }
    }

    fn asking() -> Upgrade {
        let mut u = Upgrade::default();
        let asked = u.wish(NOW, Origin::Policy, Some(ticket(1)), false);
        assert_eq!(asked, Wished::Ask);
        u
    }

    #[test]
    fn it_is_done_only_after_the_new_one_has_agreed() {
        let mut u = asking();
        assert_eq!(u.may_go(false), Ok(false));
        assert_eq!(u.answered(Ok(())), None);
        assert_eq!(u.may_go(false), Ok(true));
        assert_eq!(u.tickets(), [ticket(1)]);
        assert_eq!(u.by(), Some(&Origin::Policy));
    }

    #[test]
    fn a_second_wish_joins_and_all_are_told_alike() {
        let mut u = asking();
        let second = u.wish(NOW, Origin::Config, Some(ticket(2)), false);
        assert_eq!(second, Wished::Joined);
        assert_eq!(u.wish(NOW, Origin::Config, None, false), Wished::Joined);
        assert_eq!(u.by(), Some(&Origin::Policy), "the first one");
        let told = u.answered(Err("no".to_owned())).unwrap();
        assert_eq!(told.tickets, [ticket(1), ticket(2)]);
        assert_eq!(told.why, "no");
        assert_eq!(u.answered(Ok(())), None, "late, and about nothing");
        assert_eq!(u.may_go(false), Ok(false));
        // And the next one begins afresh.
        assert_eq!(u.wish(NOW, Origin::Config, None, false), Wished::Ask);
        assert_eq!(u.tickets(), []);
    }

    #[test]
    fn silence_is_a_no() {
        let mut u = asking();
        let until = u.next_deadline().unwrap();
        assert_eq!(until, NOW + ASK_WITHIN);
        assert_eq!(u.timeout(NOW), None);
        let told = u.timeout(until).unwrap();
        assert!(told.why.contains("10 s"), "{told:?}");
        assert_eq!((u.next_deadline(), u.timeout(until)), (None, None));
    }

    #[test]
    fn superd_that_ends_does_not_become_another_one() {
        let mut u = Upgrade::default();
        let refused = u.wish(NOW, Origin::Policy, Some(ticket(1)), true);
        assert_eq!(refused, Wished::Refused(ENDING));
        assert_eq!(u.tickets(), [], "the refusal is the answer");
        let mut u = asking();
        u.answered(Ok(()));
        let told = u.may_go(true).unwrap_err();
        assert_eq!(told.tickets, [ticket(1)]);
        assert_eq!(u.may_go(false), Ok(false));
    }

    #[test]
    fn who_has_gone_is_not_told_and_a_failure_is() {
        let mut u = asking();
        u.wish(NOW, Origin::Config, Some(ticket(2)), false);
        u.client_gone(1);
        u.answered(Ok(()));
        assert_eq!(u.failed("exec".to_owned()).tickets, [ticket(2)]);
        assert!(!u.is_agreed());
    }
}
