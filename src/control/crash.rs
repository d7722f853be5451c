//! Crashes as they are written to disk and told to clients. The names of the fields are the
//! format of the files: `v` counts its versions.

use crate::json::{FromJson, ToJson};
use crate::machine::report::{Crash, EndReport};

/// The version of the files. One with another number is not read.
pub const VERSION: u32 = 1;

/// How often a crash has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct Repeat {
    /// The first time included.
    pub count: u64,
    /// When it was first seen, in seconds since 1970; 0: the clock was not set then.
    pub first: u64,
}

/// One crash of a service, however often it has happened, and its last occurrence.
#[derive(Clone, PartialEq, Debug, ToJson, FromJson)]
pub struct CrashReport {
    /// [`VERSION`].
    pub v: u32,
    /// Whose.
    pub service: String,
    /// What groups repeats ([`Crash::fingerprint`]).
    pub fingerprint: String,
    /// How often it has happened.
    pub count: u64,
    /// When it happened first, in seconds since 1970; 0: the clock was not set.
    pub first: u64,
    /// When it happened last; the rest of this is about that time.
    pub last: u64,
    /// What the program said, or what superd says when it said nothing.
    pub crash: Crash,
    /// What is known about it, in a sentence; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub known: String,
    /// Exit, verdict, the steps of the stop, what was stuck. Its `crash` is none: see above.
    pub end: EndReport,
    /// The lines from the beginning of the crash text on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dump: Vec<String>,
    /// The last lines of its output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

/// The same without what is long, for a list.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub struct CrashLine {
    /// Whose.
    pub service: String,
    /// What groups repeats.
    pub fingerprint: String,
    /// How often it has happened.
    pub count: u64,
    /// When it happened first, in seconds since 1970; 0: the clock was not set.
    pub first: u64,
    /// When it happened last.
    pub last: u64,
    /// What the program said.
    pub crash: Crash,
    /// What is known about it, in a sentence; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub known: String,
}

/// `1st`, `2nd`, `3rd`, `11th`, `22nd`.
pub fn ordinal(n: u64) -> String {
    let suffix = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::ordinal;

    #[test]
    fn ordinals_are_english() {
        let all = [1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111, 113].map(ordinal);
        let words = "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 101st 111th 113th";
        assert_eq!(all.join(" "), words);
    }
}
