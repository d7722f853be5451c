//! `output` as typed: a word, or the file that it goes to.

use toml::de::DeValue;

use super::keys;
use super::model::{FileOutput, Output, ServiceDef};
use super::order::Named;
use super::problem::{Place, Problems};
use super::read::{Reader, Value};
use crate::map::Map;

/// When it does not say.
const MAX_SIZE: u64 = 1 << 20;
const KEEP: u32 = 4;
/// The largest file that may be asked for.
const LARGEST: u64 = 1 << 40;
/// A file that is full must hold what is written at once (`LINE_CAP` in `daemon/logs.rs`).
const SMALLEST: u64 = 16 << 10;
/// What a superd that is killed leaves to its successor has room for so much.
const PATH_CAP: usize = 500;

const WORDS: &[(&str, Output)] = &[
    ("log", Output::Log),
    ("ring", Output::Ring),
    ("null", Output::Null),
    ("inherit", Output::Inherit),
];

/// `"log"`, or `{ file = "/var/log/x.log", max-size = "1MiB", keep = 4, timestamps = false,
/// compress = ["gzip"] }`.
pub(super) fn read(r: &mut Reader, key: &str, v: &Value) -> Option<(Output, Option<FileOutput>)> {
    let DeValue::Table(table) = v.get_ref() else {
        return Some((r.choice(key, v, WORDS)?, None));
    };
    let mut file = FileOutput {
        path: String::new(),
        max_size: MAX_SIZE,
        keep: KEEP,
        timestamps: false,
        compress: Vec::new(),
    };
    let mut is_whole = true;
    for (name, value) in table.iter() {
        if !r.known(name, keys::OUTPUT) {
            is_whole = false;
            continue;
        }
        is_whole &= match name.get_ref().as_ref() {
            "file" => read_path(r, value).map(|path| file.path = path).is_some(),
            "max-size" => {
                let size = r.size("max-size", value, (SMALLEST, LARGEST));
                size.map(|n| file.max_size = n).is_some()
            }
            "keep" => {
                let n = r.integer("keep", value, 0..101);
                file.keep = n.and_then(|n| n.try_into().ok()).unwrap_or(KEEP);
                n.is_some()
            }
            "compress" => {
                let argv = r.command("compress", value);
                argv.map(|argv| file.compress = argv).is_some()
            }
            _ => {
                let b = r.boolean("timestamps", value);
                file.timestamps = b.unwrap_or(false);
                b.is_some()
            }
        };
    }
    if is_whole && file.path.is_empty() {
        let text = "`output` needs `file`: write { file = \"/var/log/name.log\" }";
        r.problem(v.span(), text);
        return None;
    }
    if is_whole && file.keep == 0 && !file.compress.is_empty() {
        let text = "`compress` needs a `keep` of at least 1: there are no full files else";
        r.problem(v.span(), text);
        return None;
    }
    is_whole.then_some((Output::File, Some(file)))
}

fn read_path(r: &mut Reader, v: &Value) -> Option<String> {
    let path = r.path("file", v)?;
    let is_name = |p: &str| !matches!(p.rsplit('/').next(), None | Some("" | "." | ".."));
    if path.len() > PATH_CAP || !is_name(&path) {
        r.problem(
            v.span(),
            format_args!("`file` must be the path of a file, of at most {PATH_CAP} bytes"),
        );
        return None;
    }
    Some(path)
}

/// Two services that write one file would write over each other.
///
/// `said` are those that stand in sections, also in broken ones, each with its place.
pub(super) fn check_files(
    services: &Map<String, ServiceDef>,
    said: &[Named],
    places: &Map<String, Place>,
    problems: &mut Problems,
) {
    let of_sections = said.iter().map(|n| (&n.by, &n.name, Some(&n.place)));
    let of_others = services.iter().filter_map(|(name, def)| {
        let file = def.program.log_file.as_ref()?;
        Some((name, &file.path, places.get(name)))
    });
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (name, path, place) in of_sections.chain(of_others) {
        if seen.contains(&(path, name)) {
            continue;
        }
        let other = seen
            .iter()
            .find(|(p, _)| is_same(p, path) || is_same(path, p));
        if let (Some((_, other)), Some(place)) = (other, place) {
            problems.add(
                place.clone(),
                format_args!(
                    "service \"{name}\": {path} is the log file of service \"{other}\" too: \
                     each needs one of its own"
                ),
            );
        }
        seen.push((path, name));
    }
}

/// The same file, or one that the other gets when it is full.
fn is_same(one: &str, other: &str) -> bool {
    let rest = other.strip_prefix(one);
    let is_number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    let is_kept = |r: &str| is_number(r.strip_suffix(".gz").unwrap_or(r)) || r == "gz-part";
    rest.is_some_and(|r| r.is_empty() || r.strip_prefix('.').is_some_and(is_kept))
}
