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

/// A longer command is not proposed word by word, and none is cut off.
const LONGEST_HINT: usize = 400;

/// Where the keys of a section stand.
pub(super) struct Spots {
    /// Of the section itself.
    pub section: Range<usize>,
    /// Of those that it has.
    pub keys: Vec<(&'static str, Range<usize>)>,
}

impl Spots {
    /// The last of these keys; the section, where it has none of them.
    pub fn of(&self, keys: &[&str]) -> Range<usize> {
        let there = self.keys.iter().filter(|(key, _)| keys.contains(key));
        let last = there.max_by_key(|(_, at)| at.start);
        last.map_or(&self.section, |(_, at)| at).clone()
    }
}

/// A section of a file while it is read.
pub(super) struct Reader<'a> {
    source: &'a Source<'a>,
    problems: &'a mut Problems,
    /// Who is meant, for messages: `service "dnsd"`; empty for the file as such.
    who: String,
    /// The key that is read now, and where its value begins.
    inside: (&'static str, usize),
}

impl<'a> Reader<'a> {
    pub fn new(source: &'a Source<'a>, problems: &'a mut Problems, who: String) -> Reader<'a> {
        Reader {
            source,
            problems,
            who,
            inside: ("", 0),
        }
    }

    /// What is read from now on is the value of this key: what is in that, names it too.
    pub fn enter(&mut self, key: &'static str, value: &Value) {
        self.inside = (key, value.span().start);
    }

    /// What is said from now on concerns no key alone.
    pub fn leave(&mut self) {
        self.inside = ("", 0);
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
        let mut text = text.to_string();
        let (key, begins) = self.inside;
        if !key.is_empty() && span.start != begins && !text.contains(&format!("`{key}`")) {
            text = format!("`{key}`: {text}");
        }
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
    pub fn wrong(&mut self, key: &str, value: &Value, want: impl fmt::Display, hint: &str) {
        let got = got(value);
        self.problem(
            value.span(),
            format_args!("`{key}` must be {want}, not {got}{hint}"),
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
            other => {
                let hint = match other {
                    DeValue::Integer(n) => format!(": write \"{}\"", word(&n.to_string())),
                    _ => String::new(),
                };
                self.wrong(key, value, "a string", &hint);
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
        match value.get_ref() {
            DeValue::String(s) if s.starts_with('/') => self.string(key, value),
            _ => {
                self.wrong(key, value, "a path that begins with /", "");
                None
            }
        }
    }

    /// The same; a leading `-` means that it may be missing.
    pub fn maybe_path(&mut self, key: &str, value: &Value) -> Option<String> {
        match value.get_ref() {
            DeValue::String(s) if s.strip_prefix('-').unwrap_or(s).starts_with('/') => {
                self.string(key, value)
            }
            _ => {
                self.wrong(key, value, "a path that begins with / (or -/)", "");
                None
            }
        }
    }

    /// An array of strings of any kind.
    pub fn strings(&mut self, key: &str, value: &Value) -> Option<Vec<String>> {
        self.list(key, value, "", Reader::string)
    }

    /// An array of strings, each read by `one`. `like`: one as it is typed. A lone string gets the hint to put it
    /// into brackets.
    pub fn list(
        &mut self,
        key: &str,
        value: &Value,
        like: &str,
        one: fn(&mut Reader<'a>, &str, &Value) -> Option<String>,
    ) -> Option<Vec<String>> {
        let hint = match value.get_ref() {
            DeValue::Array(list) => {
                let read: Vec<Option<String>> =
                    list.iter().map(|item| one(self, key, item)).collect();
                return read.into_iter().collect();
            }
            // What is there, if that can be right.
            DeValue::String(s)
                if s.len() < LONGEST_HINT
                    && !s.contains(char::is_control)
                    && (like.is_empty() || like.get(1..2) == s.get(..1)) =>
            {
                let words: Vec<String> = s.split_whitespace().map(|w| format!("{w:?}")).collect();
                words.join(", ")
            }
            _ => like.to_owned(),
        };
        let hint = match hint.as_str() {
            "" => String::new(),
            hint => format!(": write [{hint}]"),
        };
        self.wrong(key, value, "an array of strings", &hint);
        None
    }

    /// A command: program and arguments. No shell is involved.
    pub fn command(&mut self, key: &str, value: &Value) -> Option<Vec<String>> {
        const LIKE: &str = "[\"/path/to/program\", \"argument\"]";
        let wrong = match value.get_ref() {
            DeValue::Array(list) if list.is_empty() => "is empty",
            DeValue::String(s) if !s.trim().is_empty() => "",
            DeValue::Array(_) => "",
            _ => "must be a command",
        };
        if !wrong.is_empty() {
            self.problem(value.span(), format_args!("`{key}` {wrong}: write {LIKE}"));
            return None;
        }
        let argv = self.strings(key, value)?;
        if argv.first().is_some_and(String::is_empty) {
            self.problem(
                value.span(),
                format_args!("`{key}` has an empty program name"),
            );
            return None;
        }
        Some(argv)
    }

    /// A whole number within limits.
    pub fn integer(&mut self, key: &str, value: &Value, range: Range<i64>) -> Option<i64> {
        let number = match value.get_ref() {
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|n| range.contains(n));
        if number.is_none() {
            let (low, high) = (range.start, range.end - 1);
            let want = format_args!("a whole number from {low} to {high}");
            self.wrong(key, value, want, "");
        }
        number
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
        self.parse(key, value, value::duration)
    }

    /// A size in bytes, or like `16KiB`.
    pub fn size(&mut self, key: &str, value: &Value, (least, most): (u64, u64)) -> Option<u64> {
        let size = match value.get_ref() {
            DeValue::Integer(n) => {
                let number = u64::from_str_radix(n.as_str(), n.radix());
                let refused = |_| value::size(&n.to_string()).err();
                number.map_err(|e| self.refuse(key, value, refused(e)))
            }
            _ => self.parse(key, value, value::size).ok_or(()),
        };
        let size = size.ok()?;
        let (word, limit) = match size {
            n if n < least => ("least", least),
            n if n > most => ("most", most),
            n => return Some(n),
        };
        self.problem(
            value.span(),
            format_args!(
                "`{key}` must be at {word} {}KiB, not {size} bytes",
                limit >> 10
            ),
        );
        None
    }

    /// A string of a form of its own.
    pub fn parse<T>(
        &mut self,
        key: &str,
        value: &Value,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (text, is_text) = typed(value);
        match parse(&text) {
            Ok(got) if is_text => Some(got),
            got => {
                self.refuse(key, value, got.err());
                None
            }
        }
    }

    /// `why`: what [`Reader::parse`] has heard; none: as a string it would be right.
    #[inline(never)]
    fn refuse(&mut self, key: &str, value: &Value, why: Option<String>) {
        let has_nul = value.get_ref().as_str().is_some_and(|s| s.contains('\0'));
        let Some(why) = why.filter(|_| !has_nul) else {
            self.string(key, value);
            return;
        };
        match why
            .strip_prefix("`` is not ")
            .and_then(|w| w.split_once(": "))
        {
            Some((want, hint)) => self.wrong(key, value, want, &format!(": {hint}")),
            None => self.problem(value.span(), format_args!("`{key}`: {why}")),
        }
    }

    /// One of some words.
    pub fn choice<T: Clone>(
        &mut self,
        key: &str,
        value: &Value,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let typed = value.get_ref().as_str().unwrap_or_default();
        let found = words.iter().find(|(w, _)| *w == typed);
        if found.is_none() {
            self.none_of(
                key,
                value,
                &words.iter().map(|(w, _)| *w).collect::<Vec<_>>(),
            );
        }
        found.map(|(_, meaning)| meaning.clone())
    }

    #[inline(never)]
    fn none_of(&mut self, key: &str, value: &Value, words: &[&str]) {
        let typed = value.get_ref().as_str().unwrap_or_default();
        let hint = did_you_mean(typed, words.iter().copied());
        let text = format_args!(
            "`{key}` cannot be {}{hint}; it is one of {}",
            got(value),
            words.join(", ")
        );
        self.problem(value.span(), text);
    }

    /// A table. `like`: one as it is typed.
    pub fn table<'v, 'i>(
        &mut self,
        key: &str,
        value: &'v Value<'i>,
        like: &str,
    ) -> Option<&'v DeTable<'i>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => {
                self.wrong(key, value, "a table", &format!(": write {{ {like} }}"));
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

/// The text of a value, and whether it is a string that can be used.
fn typed(value: &Value) -> (String, bool) {
    match value.get_ref() {
        DeValue::String(s) => (s.to_string(), !s.contains('\0')),
        DeValue::Integer(n) => (n.to_string(), false),
        _ => (String::new(), false),
    }
}

/// A value, for messages: what it is, or of which type.
fn got(value: &Value) -> String {
    let kind = match value.get_ref() {
        DeValue::String(s) => return format!("`{}`", word(s)),
        DeValue::Integer(n) => return word(&n.to_string()),
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(true) => "true",
        DeValue::Boolean(false) => "false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    kind.to_owned()
}
