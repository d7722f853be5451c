//! Reading typed values out of a parsed file, with a problem for each that does not fit.
//!
//! What a key means is none of its business; that is `service`, `stop` and `main_file`.
//! Every reader returns `None` after it has reported, so that the caller goes on
//! with the next key and all problems come out at once.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use toml::Spanned;

use super::keys;
use super::problem::{did_you_mean, word, Place, Problems, Source};
use super::value;

/// A value with its place in the text.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// A section of a file while it is read.
pub(super) struct Reader<'a> {
    source: &'a Source<'a>,
    problems: &'a mut Problems,
    /// Who is meant, for messages: `service "dnsd"`; empty for the file as such.
    who: String,
}

impl<'a> Reader<'a> {
    pub fn new(source: &'a Source<'a>, problems: &'a mut Problems, who: String) -> Reader<'a> {
        Reader {
            source,
            problems,
            who,
        }
    }

    /// Who is meant.
    pub fn who(&self) -> &str {
        &self.who
    }

    /// For another reader about the same.
    pub fn problems_mut(&mut self) -> &mut Problems {
        self.problems
    }

    /// How many problems there are by now.
    pub fn problems(&self) -> usize {
        self.problems.len()
    }

    /// Reports a problem at a span.
    pub fn problem(&mut self, span: Range<usize>, text: impl fmt::Display) {
        let place = self.place(&span);
        match self.who.as_str() {
            "" => self.problems.add(place, text),
            who => self.problems.add(place, format_args!("{who}: {text}")),
        }
    }

    /// Where a span begins.
    pub fn place(&self, span: &Range<usize>) -> Place {
        self.source.place(span.start)
    }

    /// `key` has a value of the wrong type, or one that cannot be.
    fn wrong(&mut self, key: &str, value: &Value, want: &str, hint: &str) {
        let kind = kind(value.get_ref());
        self.problem(
            value.span(),
            format_args!("`{key}` must be {want}, not {kind}{hint}"),
        );
    }

    /// A string without NUL, which no argument, path or name can hold.
    pub fn string(&mut self, key: &str, value: &Value) -> Option<String> {
        match value.get_ref() {
            DeValue::String(s) if s.contains('\0') => {
                self.problem(
                    value.span(),
                    format_args!("`{key}` contains a NUL character"),
                );
                None
            }
            DeValue::String(s) => Some(s.clone().into_owned()),
            DeValue::Integer(n) => {
                let hint = format!(": write \"{n}\"");
                self.wrong(key, value, "a string", &hint);
                None
            }
            _ => {
                self.wrong(key, value, "a string", "");
                None
            }
        }
    }

    /// A string that says something.
    pub fn text(&mut self, key: &str, value: &Value) -> Option<String> {
        let s = self.string(key, value)?;
        if s.is_empty() {
            self.problem(value.span(), format_args!("`{key}` is empty"));
            return None;
        }
        Some(s)
    }

    /// A path that does not depend on where superd was started.
    pub fn path(&mut self, key: &str, value: &Value) -> Option<String> {
        let s = self.text(key, value)?;
        if !s.starts_with('/') {
            self.problem(
                value.span(),
                format_args!(
                    "`{key}` must be a path that begins with /, not `{}`",
                    word(&s)
                ),
            );
            return None;
        }
        Some(s)
    }

    /// An array of strings. A lone string gets the hint to put it into brackets.
    pub fn strings(&mut self, key: &str, value: &Value) -> Option<Vec<String>> {
        match value.get_ref() {
            DeValue::Array(list) => {
                let mut all = Some(Vec::with_capacity(list.len()));
                for item in list.iter() {
                    let item = self.string(key, item);
                    match (&mut all, item) {
                        (Some(all), Some(item)) => all.push(item),
                        _ => all = None,
                    }
                }
                all
            }
            DeValue::String(s) => {
                let words: Vec<String> = s.split_whitespace().map(|w| format!("{w:?}")).collect();
                let hint = format!(": write [{}]", word(&words.join(", ")));
                self.wrong(key, value, "an array of strings", &hint);
                None
            }
            _ => {
                self.wrong(key, value, "an array of strings", "");
                None
            }
        }
    }

    /// A command: program and arguments. No shell is involved.
    pub fn command(&mut self, key: &str, value: &Value) -> Option<Vec<String>> {
        let argv = self.strings(key, value)?;
        match argv.first() {
            None => {
                self.problem(
                    value.span(),
                    format_args!("`{key}` is empty: write [\"/path/to/program\", \"argument\"]"),
                );
                None
            }
            Some(program) if program.is_empty() => {
                self.problem(
                    value.span(),
                    format_args!("`{key}` has an empty program name"),
                );
                None
            }
            Some(_) => Some(argv),
        }
    }

    /// A whole number within limits.
    pub fn integer(&mut self, key: &str, value: &Value, range: Range<i64>) -> Option<i64> {
        let DeValue::Integer(n) = value.get_ref() else {
            self.wrong(key, value, "a whole number", "");
            return None;
        };
        match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) if range.contains(&n) => Some(n),
            _ => {
                let (low, high) = (range.start, range.end - 1);
                self.problem(
                    value.span(),
                    format_args!(
                        "`{key}` must be from {low} to {high}, not {}",
                        word(&n.to_string())
                    ),
                );
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &str, value: &Value) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(b) => Some(*b),
            _ => {
                self.wrong(key, value, "true or false", "");
                None
            }
        }
    }

    /// A duration like `1m30s`.
    pub fn duration(&mut self, key: &str, value: &Value) -> Option<Duration> {
        match value.get_ref() {
            DeValue::String(s) => self.parsed(key, value, value::duration(s)),
            DeValue::Integer(n) => {
                let hint = format!(": write \"{n}s\" or \"{n}ms\"");
                self.wrong(key, value, "a duration with its unit", &word(&hint));
                None
            }
            _ => {
                self.wrong(key, value, "a duration like \"15s\"", "");
                None
            }
        }
    }

    /// A size in bytes, or like `16KiB`.
    pub fn size(&mut self, key: &str, value: &Value, most: i64) -> Option<u64> {
        match value.get_ref() {
            DeValue::String(s) => {
                let size = self.parsed(key, value, value::size(s))?;
                if size > most.unsigned_abs() {
                    self.problem(
                        value.span(),
                        format_args!("`{key}` must be at most {most} bytes"),
                    );
                    return None;
                }
                Some(size)
            }
            _ => Some(
                self.integer(key, value, 0..most.saturating_add(1))?
                    .unsigned_abs(),
            ),
        }
    }

    /// One of some words.
    pub fn choice<T: Clone>(
        &mut self,
        key: &str,
        value: &Value,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let typed = self.string(key, value)?;
        let known = || words.iter().map(|(w, _)| *w);
        if let Some((_, meaning)) = words.iter().find(|(w, _)| *w == typed) {
            return Some(meaning.clone());
        }
        let all: Vec<&str> = known().collect();
        self.problem(
            value.span(),
            format_args!(
                "`{key}` cannot be `{}`{}; it is one of {}",
                word(&typed),
                did_you_mean(&typed, known()),
                all.join(", ")
            ),
        );
        None
    }

    /// What a reader of text made of it.
    pub fn parsed<T>(&mut self, key: &str, value: &Value, got: Result<T, String>) -> Option<T> {
        got.map_err(|e| self.problem(value.span(), format_args!("`{key}`: {e}")))
            .ok()
    }

    /// A table.
    pub fn table<'v, 'i>(&mut self, key: &str, value: &'v Value<'i>) -> Option<&'v DeTable<'i>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => {
                self.wrong(key, value, "a table", "");
                None
            }
        }
    }

    /// Reports a key that is not among the known ones, with what was probably meant.
    pub fn known(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        known: &[&'static str],
    ) -> bool {
        let typed: &str = key.get_ref();
        if known.contains(&typed) {
            return true;
        }
        let hint = unknown_hint(typed, known);
        self.problem(
            key.span(),
            format_args!("unknown key `{}`{hint}", word(typed)),
        );
        false
    }
}

/// What a message adds after an unknown key.
pub(super) fn unknown_hint(typed: &str, known: &[&'static str]) -> String {
    let typed = &typed.replace('_', "-");
    let alias = keys::ELSEWHERE.iter().find(|(there, _)| there == typed);
    let meant = alias.map_or(typed.as_str(), |(_, here)| here);
    if known.contains(&meant) {
        return format!(" (did you mean `{meant}`?)");
    }
    for (place, list) in [
        ("[daemon]", keys::DAEMON),
        ("[service.NAME]", keys::SERVICE),
        ("the top of the main file", keys::TOP),
        ("a step of `stop`", keys::STEP),
    ] {
        if list.contains(&meant) {
            return format!(" (`{meant}` belongs to {place})");
        }
    }
    did_you_mean(typed, known.iter().copied())
}

/// The type of a value, for messages.
fn kind(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
