//! From the main file and what it includes to a configuration, or to all problems.
//!
//! Which files, in which order, which sections they may have; what is in a section is
//! read elsewhere. A little long, because bytes, syntax and sections of a file share what
//! has been read so far.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use toml::de::{DeTable, DeValue};
use toml::Spanned;

use crate::machine::spec::Schedule;
use crate::map::Map;

use super::files::{self, Disk, Files, FILE_CAP, TOTAL_CAP};
use super::model::{CgroupUse, Config, Daemon, Made, ServiceDef};
use super::order::{self, Named};
use super::output;
use super::problem::{word, Place, Problems, Source};
use super::read::{Reader, Value};
use super::service::{self, Said};
use super::template::{self, Templates};
use super::{daemon, keys, value};

/// The most services.
pub const SERVICES_CAP: usize = 4096;

/// The most files.
const FILES_CAP: usize = 4096;

/// In larger files only the first syntax error is told: each costs memory.
const RECOVER_CAP: usize = 64 << 10;

/// The most parts of a dotted key. The parser nests a table per part without a limit,
/// and dropping what is nested too deeply overflows the stack.
const DOTS_CAP: usize = 24;

/// Loads a configuration from the disk.
pub fn load(path: &Path) -> Result<Config, Problems> {
    load_with(path, &mut Disk)
}

/// Loads a configuration from wherever `files` gets it.
pub fn load_with(path: &Path, files: &mut dyn Files) -> Result<Config, Problems> {
    let mut load = Load {
        files,
        room: TOTAL_CAP,
        read: Vec::new(),
        problems: Problems::default(),
        daemon: Daemon::default(),
        defaults: Said::default().with_schedule(),
        places: Map::new(),
        services: Map::new(),
        named: Vec::new(),
        logs: Vec::new(),
        templates: Templates::default(),
        later: Vec::new(),
        torn: false,
    };
    let includes = load.main_file(path);
    for (place, path) in includes {
        load.included_file(&place, &path);
    }
    load.instances();
    load.finish()
}

/// What has been read so far.
struct Load<'f> {
    files: &'f mut dyn Files,
    /// Bytes that may still be read.
    room: usize,
    /// Paths of the files, in the order of reading.
    read: Vec<PathBuf>,
    problems: Problems,
    daemon: Daemon,
    defaults: Said,
    /// Every service that has a section, also a broken one.
    places: Map<String, Place>,
    /// The services that can be made use of.
    services: Map<String, ServiceDef>,
    /// Who names whom.
    named: Vec<Named>,
    /// Who writes which log file.
    logs: Vec<Named>,
    templates: Templates,
    /// Files with sections of instances, which are read when all templates are known.
    later: Vec<(PathBuf, usize, String)>,
    /// Some file could not be read to its end: a service that seems to be missing may be there.
    torn: bool,
}

/// Files that the main file includes, each with the place that says so.
type Includes = Vec<(Place, PathBuf)>;

impl Load<'_> {
    fn main_file(&mut self, path: &Path) -> Includes {
        let whole = self.whole(path);
        let Some(text) = self.text(path, &whole) else {
            return Includes::new();
        };
        let source = Source::new(path.into(), whole.rank, &text);
        let Some(table) = self.parse(&source) else {
            return Includes::new();
        };
        // `[defaults]` first: the services of this file need them, wherever they stand.
        if let Some((key, value)) = table.get_ref().get_key_value("defaults") {
            let mut r = self.reader(&source, "[defaults]");
            if let Some(table) = section(&mut r, key, value) {
                let known: Vec<&str> = keys::SERVICE
                    .iter()
                    .filter(|k| !keys::NOT_IN_DEFAULTS.contains(k))
                    .copied()
                    .collect();
                self.defaults = service::read(&mut r, table, &known).with_schedule();
                self.templates.set_defaults(Some(table));
            }
        }
        let mut includes = Includes::new();
        for (key, value) in table.get_ref().iter() {
            match key.get_ref().as_ref() {
                "daemon" => {
                    let mut problems = std::mem::take(&mut self.problems);
                    let mut r = Reader::new(&source, &mut problems, "[daemon]".to_owned());
                    if let Some(table) = section(&mut r, key, value) {
                        daemon::read(&mut r, table, &mut self.daemon);
                    }
                    // Keys come in the order of the alphabet: services after this.
                    if self.daemon.cgroup == CgroupUse::Off {
                        self.defaults.forget_cgroups();
                    }
                    self.problems = problems;
                }
                "defaults" => {}
                "service" => self.sections(&source, key, value),
                "include" => includes = self.include(&source, value),
                _ => {
                    self.reader(&source, "").known(key, keys::TOP);
                }
            }
        }
        includes
    }

    fn included_file(&mut self, from: &Place, path: &Path) {
        if self.read.iter().any(|p| p == path) {
            return;
        }
        let Some(text) = self.text(path, from) else {
            return;
        };
        let source = Source::new(path.into(), self.read.len(), &text);
        let Some(table) = self.parse(&source) else {
            return;
        };
        for (key, value) in table.get_ref().iter() {
            let name = key.get_ref().as_ref();
            match name {
                "service" => self.sections(&source, key, value),
                "include" | "daemon" | "defaults" => self.reader(&source, "").problem(
                    key.span(),
                    format_args!("`{name}` is only allowed in the main file; an included one has [service.NAME]"),
                ),
                _ => {
                    self.reader(&source, "").known(key, keys::TOP);
                }
            }
        }
    }

    fn reader<'a>(&'a mut self, source: &'a Source<'a>, who: &str) -> Reader<'a> {
        Reader::new(source, &mut self.problems, who.to_owned())
    }

    /// The next file as a whole.
    fn whole(&self, path: &Path) -> Place {
        Place {
            file: path.into(),
            rank: self.read.len(),
            line: 0,
            col: 0,
        }
    }

    /// The text of a file; problems of the file as a whole are told at `from`, where it
    /// was asked for.
    fn text(&mut self, path: &Path, from: &Place) -> Option<String> {
        let cap = FILE_CAP.min(self.room);
        let whole = self.whole(path);
        let result = self.files.read(path, cap);
        self.read.push(path.to_owned());
        let mut bytes = match result {
            Ok(bytes) => bytes,
            Err(e) if from.line == 0 => {
                self.torn = true;
                self.problems.add(from.clone(), e);
                return None;
            }
            Err(e) => {
                self.torn = true;
                let text = format!("`include`: {}: {e}", path.display());
                self.problems.add(from.clone(), text);
                return None;
            }
        };
        self.room = self.room.saturating_sub(bytes.len());
        if bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        String::from_utf8(bytes)
            .map_err(|e| {
                self.torn = true;
                let good = e.utf8_error().valid_up_to();
                let bytes = e.into_bytes();
                if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
                    self.problems.add(whole, "is UTF-16: save it as UTF-8");
                    return;
                }
                let text = bytes.get(..good).and_then(|b| std::str::from_utf8(b).ok());
                let source = Source::new(path.into(), whole.rank, text.unwrap_or_default());
                self.problems
                    .add(source.place(good), "is not UTF-8 from here on");
            })
            .ok()
    }

    /// The document, when its syntax is sound. Keys given twice leave it sound enough to go on.
    fn parse<'i>(&mut self, source: &Source<'i>) -> Option<Spanned<DeTable<'i>>> {
        if let Some(at) = too_many_dots(source.text) {
            self.torn = true;
            self.problems.add(
                source.place(at),
                format_args!("more than {DOTS_CAP} dots on a line outside of strings"),
            );
            return None;
        }
        let (table, errors) = match source.text.len() {
            ..=RECOVER_CAP => {
                let (table, errors) = DeTable::parse_recoverable(source.text);
                (Some(table), errors)
            }
            _ => match DeTable::parse(source.text) {
                Ok(table) => (Some(table), Vec::new()),
                Err(e) => (None, vec![e]),
            },
        };
        let mut sound = true;
        let mut line = 0;
        for e in errors {
            let span = e.span().unwrap_or(source.text.len()..source.text.len());
            let place = source.place(span.start);
            if e.message() == "duplicate key" {
                let key = source.text.get(span).unwrap_or_default();
                self.problems.add(
                    place,
                    format_args!("`{}` is here for the second time", word(key)),
                );
                continue;
            }
            sound = false;
            // What follows on the same line is mostly a consequence.
            if place.line != line {
                line = place.line;
                self.problems
                    .add(place, format_args!("syntax: {}", e.message()));
            }
        }
        self.torn |= !sound;
        table.filter(|_| sound)
    }

    /// The files of `include`, relative to the including one. Every pattern's are sorted.
    fn include(&mut self, source: &Source, value: &Value) -> Includes {
        let mut r = self.reader(source, "");
        let Some(patterns) = r.strings("include", value) else {
            self.torn = true;
            return Includes::new();
        };
        let DeValue::Array(list) = value.get_ref() else {
            return Includes::new();
        };
        let spans: Vec<Range<usize>> = list.iter().map(Spanned::span).collect();
        let base = source.file.parent().unwrap_or(Path::new(""));
        let mut includes = Includes::new();
        for (pattern, span) in patterns.iter().zip(spans) {
            let place = source.place(span.start);
            let found = self.expand(base, pattern);
            let paths = match found {
                Ok(paths) => paths,
                Err(e) => {
                    self.torn = true;
                    self.problems.add(place, format_args!("`include`: {e}"));
                    continue;
                }
            };
            for path in paths {
                if *path == *source.file {
                    self.problems.add(
                        place.clone(),
                        format_args!("`include`: `{}` matches this file itself", word(pattern)),
                    );
                } else if includes.len() == FILES_CAP {
                    self.torn = true;
                    self.problems.add(
                        place,
                        format_args!("`include`: more than {FILES_CAP} files"),
                    );
                    return includes;
                } else {
                    includes.push((place.clone(), path));
                }
            }
        }
        includes
    }

    fn expand(&mut self, base: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
        let full = base.join(pattern);
        let Some(last) = full.file_name().filter(|_| !pattern.ends_with('/')) else {
            return Err(format!("`{}` does not end in a file name", word(pattern)));
        };
        let wild = |part: &OsStr| part.as_bytes().iter().any(|b| b"*?".contains(b));
        let directory = full.parent().unwrap_or(Path::new(""));
        // What the operator typed counts, not the directory that the main file is in.
        let typed = Path::new(pattern).parent().unwrap_or(Path::new(""));
        if wild(typed.as_os_str()) {
            return Err(format!(
                "`{}`: only the last part may contain * and ?",
                word(pattern)
            ));
        }
        if !wild(last) {
            return Ok(vec![full]);
        }
        let shown = match directory.as_os_str().is_empty() {
            true => Path::new("."),
            false => directory,
        };
        let mut names = self.files.list(shown)?;
        names.retain(|name| files::matches(last, name));
        names.sort_unstable();
        Ok(names.iter().map(|name| directory.join(name)).collect())
    }

    /// All `[service.NAME]` of a file.
    fn sections(&mut self, source: &Source, key: &Key, value: &Value) {
        let mut r = self.reader(source, "");
        let DeValue::Table(services) = value.get_ref() else {
            r.problem(
                key.span(),
                "`service` must be a table: write [service.NAME]",
            );
            return;
        };
        let mut later = false;
        for (key, value) in services.iter() {
            let name = key.get_ref().as_ref();
            let place = source.place(key.span().start);
            let who = format!("service \"{}\"", word(name));
            if let Some(other) = self.places.get(name) {
                let text = format_args!("{who}: is defined a second time; first at {other}");
                self.problems.add(place, text);
                continue;
            }
            if self.places.len() + self.templates.len() == SERVICES_CAP {
                self.torn = true;
                let text = format_args!("more than {SERVICES_CAP} services");
                self.problems.add(place, text);
                return;
            }
            if template::is_template(name) {
                self.template(source, key, value, place, who);
                continue;
            }
            self.places.insert(name.to_owned(), place);
            match template::parts(name) {
                Some(_) => later = true,
                None => self.service(source, key, value, who),
            }
        }
        if later {
            let text = source.text.to_owned();
            self.later
                .push((source.file.to_path_buf(), source.rank, text));
        }
    }

    fn template(&mut self, source: &Source, key: &Key, value: &Value, place: Place, who: String) {
        let name = key.get_ref().as_ref();
        if let Some(first) = self.templates.get(name) {
            let text = format_args!("{who}: is defined a second time; first at {}", first.place);
            return self.problems.add(place, text);
        }
        let mut r = Reader::new(source, &mut self.problems, who);
        if let Err(rule) = value::service_name(name) {
            return r.problem(key.span(), rule);
        }
        let Some(table) = section(&mut r, key, value) else {
            return;
        };
        let (template, named) = template::check(&mut r, name, key.span(), table, &self.defaults);
        self.templates.add(template);
        self.named
            .extend(named.into_iter().map(|(key, to, place)| Named {
                by: name.to_owned(),
                key,
                name: to,
                place,
            }));
    }

    /// The sections of instances.
    fn instances(&mut self) {
        for (path, rank, text) in std::mem::take(&mut self.later) {
            let source = Source::new(path.as_path().into(), rank, &text);
            // It was parsed before: keys that are given twice are known.
            let (table, _) = DeTable::parse_recoverable(&text);
            let Some(DeValue::Table(services)) =
                table.get_ref().get("service").map(|v| v.get_ref())
            else {
                continue;
            };
            for (key, value) in services.iter() {
                let name = key.get_ref().as_ref();
                let is_here = |p: &Place| *p == source.place(key.span().start);
                if template::parts(name).is_some() && self.places.get(name).is_some_and(is_here) {
                    let who = format!("service \"{}\"", word(name));
                    self.service(&source, key, value, who);
                }
            }
        }
    }

    fn service(&mut self, source: &Source, key: &Key, value: &Value, who: String) {
        let name = key.get_ref().as_ref();
        let mut r = Reader::new(source, &mut self.problems, who);
        if let Err(rule) = value::service_name(name) {
            r.problem(key.span(), rule);
        }
        if !matches!(value.get_ref(), DeValue::Table(_)) && keys::SERVICE.contains(&name) {
            r.problem(
                key.span(),
                format_args!("`{name}` belongs to [service.NAME]"),
            );
            return;
        }
        let Some(table) = section(&mut r, key, value) else {
            return;
        };
        let template = template::parts(name)
            .and_then(|(template, instance)| Some((self.templates.get(template)?, instance)));
        let said = match template {
            None => service::read(&mut r, table, keys::SERVICE),
            Some((template, instance)) => {
                if let Err(rule) = template::instance_name(instance) {
                    return r.problem(key.span(), rule);
                }
                let Some(mut said) = r.of_template(template, instance) else {
                    return; // that was said where the template is
                };
                let mut table = table.clone();
                template::fill(&mut r, &mut table, instance);
                service::read_into(&mut r, &mut said, &table, keys::SERVICE);
                said
            }
        };
        for (key, list) in said.names() {
            self.named.extend(list.iter().map(|(to, place)| Named {
                by: name.to_owned(),
                key,
                name: to.clone(),
                place: place.clone(),
            }));
        }
        self.logs.extend(said.log_file().map(|(file, at)| Named {
            by: name.to_owned(),
            key: "output",
            name: file.to_owned(),
            place: r.place(&at),
        }));
        if let Some(def) = service::define(&mut r, name, key.span(), said, &self.defaults) {
            self.services.insert(name.to_owned(), def);
        }
    }

    fn finish(mut self) -> Result<Config, Problems> {
        if !self.torn {
            let (named, templates) = (&self.named, &self.templates);
            order::check_names(named, &self.places, templates, &mut self.problems);
            let nobody = std::iter::empty();
            template::grow(
                &mut self.services,
                templates,
                &self.defaults,
                nobody,
                &mut self.problems,
            );
            for (name, def) in self.services.iter().filter(|(_, d)| d.made == Made::Named) {
                self.places.insert(name.clone(), Place::of_text(&def.place));
            }
        }
        let (services, named, places) = (&self.services, &self.named, &self.places);
        order::check_cycles(services, named, places, &mut self.problems);
        order::check_conflicts(services, named, places, &mut self.problems);
        output::check_files(services, &self.logs, places, &mut self.problems);
        if self.problems.is_empty() {
            let (templates, defaults) = (&self.templates, &self.defaults);
            template::check_cycles(templates, defaults, &mut self.problems);
        }
        self.problems.into_result()?;
        if self.templates.is_empty() {
            self.templates = Templates::default(); // nobody needs the defaults any more
        }
        Ok(Config {
            daemon: self.daemon,
            services: self.services,
            templates: self.templates,
            files: self.read,
        })
    }
}

/// A key with its place.
type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;

/// A section's table; anything else is reported.
fn section<'v, 'i>(r: &mut Reader, key: &Key, value: &'v Value<'i>) -> Option<&'v DeTable<'i>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        DeValue::Array(_) => {
            r.problem(
                key.span(),
                "is a table: write it with single brackets, once",
            );
            None
        }
        _ => {
            r.problem(
                key.span(),
                format_args!("`{}` must be a table", word(key.get_ref())),
            );
            None
        }
    }
}

/// The offset of the first line with more than [`DOTS_CAP`] dots that are not in a string,
/// a number or a comment as far as one can tell without parsing.
pub(super) fn too_many_dots(text: &str) -> Option<usize> {
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let (mut quote, mut dots, mut before) = (None, 0, b' ');
        for b in line.bytes() {
            match (quote, b) {
                (None, b'"' | b'\'') => quote = Some(b),
                (Some(q), b) if q == b => quote = None,
                (None, b'#') => break,
                // Of the dots of an ellipsis one counts: there is no such key.
                (None, b'.') if before != b'.' => dots += 1,
                _ => {}
            }
            before = b;
        }
        if dots > DOTS_CAP {
            return Some(offset);
        }
        offset += line.len();
    }
    None
}

/// See [`super::stop_schedule`].
pub(super) fn stop_schedule(text: &str) -> Result<Schedule, String> {
    let bare = text.trim_start().starts_with('[');
    let value = match bare {
        true => text.to_owned(),
        false => format!("'{text}'"),
    };
    let path: Rc<Path> = Path::new("--stop").into();
    let source = Source::new(path, 0, &value);
    if too_many_dots(&value).is_some() {
        return Err("not a stop schedule".to_owned());
    }
    let parsed = DeValue::parse(&value).map_err(|e| format!("syntax: {}", e.message()))?;
    let mut problems = Problems::default();
    let steps = super::stop::read(
        &mut Reader::new(&source, &mut problems, String::new()),
        &parsed,
    );
    if let Some(problem) = problems.iter().next() {
        return Err(problem.text.clone());
    }
    let steps = steps.ok_or("not a stop schedule")?;
    Ok(service::schedule_of(steps))
}
