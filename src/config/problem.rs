//! Problems: what is wrong, where, and what was probably meant.
//!
//! All problems of all files are collected, put in the order in which a person reads
//! the files, and shown one per line. Nothing here decides what a problem is.

use std::fmt;
use std::path::Path;
use std::rc::Rc;

/// So many are shown; of the rest only the number is told.
pub const SHOWN: usize = 50;

/// So many are kept. A hostile file of 1 MiB could hold a million.
const KEPT: usize = 1000;

/// Where something is. Cheap to keep when the text of the file is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The file.
    pub file: Rc<Path>,
    /// Files are told in the order in which they were read.
    pub(super) rank: usize,
    /// Line, from 1; 0: the file as a whole.
    pub line: usize,
    /// Character in the line, from 1; 0: the file as a whole.
    pub col: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", plain(&self.file.to_string_lossy()))?;
        match self.line {
            0 => Ok(()),
            line => write!(f, ":{line}:{}", self.col),
        }
    }
}

/// One problem: `/etc/superd/superd.toml:14:3: service "dnsd": unknown key ...`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, on one line.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.file.as_os_str().is_empty() {
            true => f.write_str(&self.text), // of a command line
            false => write!(f, "{}: {}", self.place, self.text),
        }
    }
}

/// All problems of a configuration, in the order of the files; at least one when it
/// is an error.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    more: usize,
}

impl Problems {
    /// Adds one.
    pub(super) fn add(&mut self, place: Place, text: impl fmt::Display) {
        if self.list.len() < KEPT {
            let text = plain(&text.to_string());
            // In order; two of one place as they came.
            let order = |p: &Place| (p.rank, p.line, p.col);
            let before = |p: &Problem| order(&p.place) <= order(&place);
            let at = self.list.iter().rposition(before).map_or(0, |n| n + 1);
            self.list.insert(at, Problem { place, text });
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// One that has no better place than the file.
    pub(super) fn of_file(file: &Path, text: impl fmt::Display) -> Problems {
        let mut problems = Problems::default();
        let place = Place {
            file: file.into(),
            rank: 0,
            line: 0,
            col: 0,
        };
        problems.add(place, text);
        problems
    }

    /// The problems when there are any, in order.
    pub(super) fn into_result(self) -> Result<(), Problems> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(self),
        }
    }

    /// The problems that were kept.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// How many there are, those that were not kept included.
    pub fn len(&self) -> usize {
        self.list.len().saturating_add(self.more)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What to show, a line each: at most `SHOWN`, then how many more there are.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .list
            .iter()
            .take(SHOWN)
            .map(Problem::to_string)
            .collect();
        match self.len().saturating_sub(SHOWN) {
            0 => {}
            1 => lines.push("and 1 more problem".to_owned()),
            n => lines.push(format!("and {n} more problems")),
        }
        lines
    }
}

impl fmt::Display for Problems {
    /// [`Problems::lines`], with newlines between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Problems {}

/// A file's text, with the way from an offset to a line.
pub(super) struct Source<'t> {
    /// Its path.
    pub file: Rc<Path>,
    /// Its number in the order of reading.
    pub rank: usize,
    /// What is in it.
    pub text: &'t str,
    /// Offset of each line's first byte.
    starts: Vec<usize>,
    /// All of it is told at this place.
    fixed: Option<Place>,
}

impl<'t> Source<'t> {
    pub fn new(file: Rc<Path>, rank: usize, text: &'t str) -> Source<'t> {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        let starts = std::iter::once(0)
            .chain(ends.map(|(at, _)| at + 1))
            .collect();
        Source {
            file,
            rank,
            text,
            starts,
            fixed: None,
        }
    }

    /// A text that nobody has written like this: its problems are told at one place.
    pub fn at(place: Place, text: &'t str) -> Source<'t> {
        Source {
            file: place.file.clone(),
            rank: place.rank,
            text,
            starts: Vec::new(),
            fixed: Some(place),
        }
    }

    /// The place of a byte. An offset beyond the end is the end.
    pub fn place(&self, offset: usize) -> Place {
        if let Some(place) = &self.fixed {
            return place.clone();
        }
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self
            .starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0);
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        // Characters, not bytes: every byte that does not continue a character begins one.
        let col = before.iter().filter(|b| (**b as i8) >= -0x40).count() + 1;
        Place {
            file: self.file.clone(),
            rank: self.rank,
            line,
            col,
        }
    }
}

/// Text of a stranger on one line: control characters escaped.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A stranger's word inside a message: not longer than a person wants to read.
pub(super) fn word(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", text.get(..cut).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// ` (did you mean ...?)` with the known word that is nearest to what was typed, or nothing.
pub(super) fn did_you_mean<'k>(typed: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let best = nearest(typed, known);
    best.map_or_else(String::new, meant)
}

#[inline(never)]
fn meant(word: &str) -> String {
    format!(" (did you mean `{word}`?)")
}

/// The known word that a typing mistake could have made into `typed`.
pub fn nearest<'k>(typed: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    nearest_of(typed, &known.into_iter().collect::<Vec<_>>())
}

/// For any kind of list the same code.
#[inline(never)]
fn nearest_of<'k>(typed: &str, known: &[&'k str]) -> Option<&'k str> {
    let length = typed.chars().count();
    if length > 64 {
        return None;
    }
    let allowed = (length / 3).clamp(1, 3);
    known
        .iter()
        .map(|k| (distance(typed, k), *k))
        .filter(|(d, _)| *d <= allowed)
        .min()
        .map(|(_, k)| k)
}

/// Edit distance: insertions, deletions, replacements and swaps of neighbours that make
/// `a` into `b` (optimal string alignment), without regard to capitals and to `_` for `-`.
fn distance(a: &str, b: &str) -> usize {
    let fold = |c: char| match c {
        '_' => '-',
        c => c.to_ascii_lowercase(),
    };
    let a: Vec<char> = a.chars().map(fold).collect();
    let b: Vec<char> = b.chars().map(fold).collect();
    let (mut before, mut above): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let replaced = at(&above, j) + usize::from(ca != cb);
            let mut best = replaced.min(at(&above, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(cb) && b.get(j - 1) == Some(ca);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_known_word_is_suggested_and_a_far_one_is_not() {
        let keys = ["command", "wait", "settle", "run-dir", "user"];
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest("comand", keys), Some("command"));
        assert_eq!(nearest("run_dir", keys), Some("run-dir"));
        assert_eq!(nearest("wiat", keys), Some("wait"));
        assert_eq!(nearest("wat", keys), Some("wait"));
        assert_eq!(nearest("colour", keys), None);
    }

    #[test]
    fn a_place_counts_characters_and_survives_any_offset() {
        let source = Source::new(Path::new("f").into(), 0, "a\nöb = 1\r\n");
        assert_eq!(source.place(0).to_string(), "f:1:1");
        assert_eq!(source.place(4).to_string(), "f:2:2");
        assert_eq!(source.place(999).to_string(), "f:3:1");
        assert_eq!(
            Source::new(Path::new("f").into(), 0, "")
                .place(7)
                .to_string(),
            "f:1:1"
        );
    }

    #[test]
    fn a_problem_stays_on_its_line_whatever_the_file_says() {
        let p = Problems::of_file(Path::new("/x"), "bad `\u{1b}[2J\n`");
        assert_eq!(p.to_string(), "/x: bad `\\u{1b}[2J\\n`");
    }
}
