//! Templates: `[service."go2rtc@"]` is no service but the pattern of `go2rtc@cam1`,
//! `go2rtc@cam2` ..., its instances.
//!
//! A template is kept as text and read again for each instance, with `%i` filled in: so
//! an instance is whatever a section of its own could have said. What was wrong with it is
//! seen when the file is read, as if there were an instance `1`.
//!
//! An instance comes to be in one of three ways ([`Made`]): by a section of its own, whose
//! keys replace those of the template; because somebody requires or wants it; because
//! somebody asked for its start.
//!
//! (Past 400 lines because all that tells an instance from a service is here and nowhere else.)

use std::fmt::Write;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::keys;
use super::load::SERVICES_CAP;
use super::model::{Config, Made, ServiceDef};
use super::order::{self, Named};
use super::output;
use super::problem::{word, Place, Problems, Source};
use super::read::Reader;
use super::service::{self, Said};
use crate::json::{FromJson, ToJson};
use crate::map::Map;

/// The most instances that have no section of their own: who may start services may name
/// what he likes.
pub const INSTANCES_CAP: usize = 256;

/// A template must do for this instance.
const SAMPLE: &str = "1";

/// The sections that services are made of later.
#[derive(Clone, PartialEq, Eq, Debug, Default, ToJson, FromJson)]
pub struct Templates {
    /// `[defaults]` as TOML, where there are templates.
    defaults: String,
    list: Vec<Template>,
}

/// `[service."go2rtc@"]`.
#[derive(Clone, PartialEq, Eq, Debug, ToJson, FromJson)]
pub(super) struct Template {
    /// With its `@`.
    pub name: String,
    /// Where it is defined, for messages.
    pub place: String,
    /// Its keys as TOML; none: something is wrong with them.
    pub keys: Option<String>,
}

/// Whether the name is that of a template and of no service.
pub fn is_template(name: &str) -> bool {
    name.len() > 1 && name.find('@') == Some(name.len() - 1)
}

/// Template and instance of a name like `go2rtc@cam1`.
pub fn parts(name: &str) -> Option<(&str, &str)> {
    let (template, instance) = name.split_at_checked(name.find('@')? + 1)?;
    (!instance.is_empty() && template.len() > 1).then_some((template, instance))
}

/// What goes in the place of `%i`: it may become a file's name or an argument.
pub(super) fn instance_name(instance: &str) -> Result<(), &'static str> {
    match instance.bytes().next() {
        Some(b) if b.is_ascii_alphanumeric() => Ok(()),
        _ => Err("after the @, the name of an instance begins with a letter or digit"),
    }
}

impl Templates {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The names of all, with their `@`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|t| t.name.as_str())
    }

    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether the service of this name would be made from a template.
    pub fn make(&self, name: &str) -> bool {
        parts(name).is_some_and(|(template, _)| self.has(template))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Template> {
        self.list.iter().find(|t| t.name == name)
    }

    pub(super) fn add(&mut self, template: Template) {
        self.list.push(template);
    }

    pub(super) fn set_defaults(&mut self, table: Option<&DeTable>) {
        self.defaults = table.map(text_of).unwrap_or_default();
    }

    /// As [`super::load`] has read them.
    fn defaults(&self) -> Said {
        let mut problems = Problems::default();
        let mut said = Said::default();
        if let Ok(table) = DeTable::parse(&self.defaults) {
            let source = Source::at(Place::unreadable(), &self.defaults);
            let mut r = Reader::new(&source, &mut problems, String::new());
            service::read_into(&mut r, &mut said, table.get_ref(), keys::SERVICE);
        }
        said.with_schedule()
    }
}

/// Looks at a template and keeps it. `table` is the section, `r` reads it.
pub(super) fn check(
    r: &mut Reader,
    name: &str,
    at: Range<usize>,
    table: &DeTable,
    defaults: &Said,
) -> (Template, Vec<(&'static str, String, Place)>) {
    let before = r.problems();
    let mut sample = table.clone();
    fill(r, &mut sample, SAMPLE);
    let place = r.place(&at).to_string();
    let mut said = Said::default();
    service::read_into(r, &mut said, &sample, keys::SERVICE);
    // Names with a `%i` are looked at when that is known.
    let named = fixed_names(&said, table);
    service::define(r, &format!("{name}{SAMPLE}"), at, said, defaults);
    let is_sound = r.problems() == before;
    let template = Template {
        name: name.to_owned(),
        place,
        keys: is_sound.then(|| text_of(table)),
    };
    (template, named)
}

fn fixed_names(said: &Said, table: &DeTable) -> Vec<(&'static str, String, Place)> {
    let mut named = Vec::new();
    for (key, list) in said.names() {
        let Some(DeValue::Array(texts)) = table.get(key).map(|v| v.get_ref()) else {
            continue;
        };
        for ((name, place), text) in list.iter().zip(texts.iter()) {
            let is_fixed = text.get_ref().as_str().is_some_and(|t| !t.contains('%'));
            if is_fixed {
                named.push((key, name.clone(), place.clone()));
            }
        }
    }
    named
}

impl Reader<'_> {
    /// What the template says of the instance whose section this is.
    pub fn of_template(&mut self, template: &Template, instance: &str) -> Option<Said> {
        let who = self.who().to_owned();
        let mut said = said(template, instance, self.problems_mut(), &who)?;
        said.forget_places();
        Some(said)
    }
}

/// What the template says of an instance; none when that was wrong before.
fn said(template: &Template, instance: &str, problems: &mut Problems, who: &str) -> Option<Said> {
    let text = template.keys.as_ref()?;
    let parsed = DeTable::parse(text).ok()?;
    let mut table = parsed.into_inner();
    let source = Source::at(Place::of_text(&template.place), text);
    let mut r = Reader::new(&source, problems, who.to_owned());
    fill(&mut r, &mut table, instance);
    let mut said = Said::default();
    service::read_into(&mut r, &mut said, &table, keys::SERVICE);
    Some(said)
}

/// `%i` and `%%` in every string that is a value.
pub(super) fn fill(r: &mut Reader, table: &mut DeTable, instance: &str) {
    for (_, value) in table.iter_mut() {
        let span = value.span();
        fill_value(r, value.get_mut(), &span, instance);
    }
}

fn fill_value(r: &mut Reader, value: &mut DeValue, at: &Range<usize>, instance: &str) {
    match value {
        DeValue::String(text) if text.contains('%') => match filled(text, instance) {
            Ok(done) => *text = done.into(),
            Err(bad) => r.problem(
                at.clone(),
                format_args!(
                    "`{}` is neither %i (the instance's name) nor %% (a percent sign)",
                    word(&bad)
                ),
            ),
        },
        DeValue::Array(list) => {
            for item in list.iter_mut() {
                let span = item.span();
                fill_value(r, item.get_mut(), &span, instance);
            }
        }
        DeValue::Table(table) => fill(r, table, instance),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

fn filled(text: &str, instance: &str) -> Result<String, String> {
    let mut done = String::with_capacity(text.len() + instance.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '%') {
            (c, false) => done.push(c),
            (_, true) => match chars.next() {
                Some('i') => done.push_str(instance),
                Some('%') => done.push('%'),
                other => return Err(format!("%{}", other.map_or(String::new(), String::from))),
            },
        }
    }
    Ok(done)
}

/// A table as TOML, one key a line.
fn text_of(table: &DeTable) -> String {
    let mut text = String::new();
    for (key, value) in table.iter() {
        quote(&mut text, key.get_ref());
        text.push_str(" = ");
        write_value(&mut text, value.get_ref());
        text.push('\n');
    }
    text
}

fn write_value(to: &mut String, value: &DeValue) {
    match value {
        DeValue::String(text) => quote(to, text),
        DeValue::Integer(n) => write!(to, "{n}").unwrap_or(()), // a String takes everything
        DeValue::Float(n) => write!(to, "{n}").unwrap_or(()),
        DeValue::Boolean(b) => write!(to, "{b}").unwrap_or(()),
        DeValue::Datetime(t) => write!(to, "{t}").unwrap_or(()),
        DeValue::Array(list) => {
            to.push('[');
            for item in list.iter() {
                write_value(to, item.get_ref());
                to.push(',');
            }
            to.push(']');
        }
        DeValue::Table(table) => {
            to.push('{');
            for (n, (key, value)) in table.iter().enumerate() {
                if n > 0 {
                    to.push(',');
                }
                quote(to, key.get_ref());
                to.push('=');
                write_value(to, value.get_ref());
            }
            to.push('}');
        }
    }
}

fn quote(to: &mut String, text: &str) {
    to.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => to.extend(['\\', c]),
            c if c.is_control() => write!(to, "\\u{:04X}", u32::from(c)).unwrap_or(()),
            c => to.push(c),
        }
    }
    to.push('"');
}

/// Makes the instances that somebody names and that have no section, and those of `asked`.
/// What has no template is left out.
pub(super) fn grow<'a>(
    services: &mut Map<String, ServiceDef>,
    templates: &Templates,
    defaults: &Said,
    asked: impl Iterator<Item = &'a str>,
    problems: &mut Problems,
) {
    if templates.is_empty() {
        return;
    }
    let mut todo: Vec<(String, Made)> = asked.map(|n| (n.to_owned(), Made::Asked)).collect();
    todo.extend(services.values().flat_map(needs));
    todo.reverse(); // the first is taken first
    let mut made = 0;
    while let Some((name, how)) = todo.pop() {
        if let Some(known) = services.get_mut(&name) {
            if known.made == Made::Named {
                known.made = how;
            }
            continue;
        }
        let Some(template) = parts(&name).and_then(|(t, _)| templates.get(t)) else {
            continue;
        };
        made += 1;
        if made > INSTANCES_CAP || services.len() == SERVICES_CAP {
            let text = format_args!("more than {INSTANCES_CAP} instances of templates");
            problems.add(Place::of_text(&template.place), text);
            return;
        }
        let Some(mut def) = instance(template, &name, services, templates, defaults, problems)
        else {
            continue;
        };
        def.made = how;
        if how == Made::Asked {
            // It is started by who asks for it.
            def.policy.autostart = false;
        }
        todo.extend(needs(&def));
        services.insert(name, def);
    }
}

fn needs(def: &ServiceDef) -> impl Iterator<Item = (String, Made)> + '_ {
    let needs = def.policy.requires.iter().chain(&def.policy.wants);
    needs
        .filter(|n| parts(n).is_some())
        .map(|n| (n.clone(), Made::Named))
}

/// An instance without a section of its own.
fn instance(
    template: &Template,
    name: &str,
    services: &Map<String, ServiceDef>,
    templates: &Templates,
    defaults: &Said,
    problems: &mut Problems,
) -> Option<ServiceDef> {
    let who = format!("service \"{}\"", word(name));
    let place = Place::of_text(&template.place);
    let (_, instance) = parts(name)?;
    if let Err(rule) = super::service_name(name).and_then(|()| instance_name(instance)) {
        problems.add(place, format_args!("{who}: {rule}"));
        return None;
    }
    let said = said(template, instance, problems, &who)?;
    let mut named = Vec::new();
    for (key, list) in said.names() {
        for (other, place) in list {
            if !services.contains_key(other) && !templates.make(other) || other == name {
                named.push(Named {
                    by: name.to_owned(),
                    key,
                    name: other.clone(),
                    place: place.clone(),
                });
            }
        }
    }
    order::check_names(&named, &Map::new(), templates, problems);
    let text = String::new();
    let source = Source::at(place, &text);
    let mut r = Reader::new(&source, problems, who);
    service::define(&mut r, name, 0..0, said, defaults)
}

/// Cycles that every instance of a template would make, by templates alone: one with a service
/// in it is found with the services.
pub(super) fn check_cycles(templates: &Templates, defaults: &Said, problems: &mut Problems) {
    for template in &templates.list {
        let sample = format!("{}{SAMPLE}", template.name);
        let mut all = Map::new();
        // Whom it names besides is there, or may come to be later.
        let mut unused = Problems::default();
        let asked = std::iter::once(sample.as_str());
        grow(&mut all, templates, defaults, asked, &mut unused);
        let before = problems.len();
        order::check_cycles(&all, &[], &places(&all), problems);
        if problems.len() > before {
            return; // another template may be in the same one
        }
    }
}

/// What concerns several services, when all are known.
pub(super) fn check_together(services: &Map<String, ServiceDef>, problems: &mut Problems) {
    let places = places(services);
    order::check_cycles(services, &[], &places, problems);
    order::check_conflicts(services, &[], &places, problems);
    output::check_files(services, &[], &places, problems);
}

fn places(services: &Map<String, ServiceDef>) -> Map<String, Place> {
    let place = |(name, def): (&String, &ServiceDef)| (name.clone(), Place::of_text(&def.place));
    services.iter().map(place).collect()
}

impl Config {
    /// This configuration with these instances of its templates, and without others that
    /// somebody asked for. A name whose template is not there is left out.
    ///
    /// # Errors
    /// What is wrong with an instance, or with all services together.
    pub fn with_instances<'a>(
        &self,
        asked: impl Iterator<Item = &'a str>,
    ) -> Result<Config, Problems> {
        let mut config = self.clone();
        config.services.retain(|_, def| def.made == Made::InFile);
        let mut problems = Problems::default();
        let defaults = self.templates.defaults();
        let templates = &self.templates;
        grow(
            &mut config.services,
            templates,
            &defaults,
            asked,
            &mut problems,
        );
        check_together(&config.services, &mut problems);
        problems.into_result()?;
        Ok(config)
    }

    /// The services, and of each template an instance that has the template's name: what
    /// there can be.
    pub fn possible(&self) -> Map<String, ServiceDef> {
        let mut all = self.services.clone();
        if self.templates.is_empty() {
            return all;
        }
        let defaults = self.templates.defaults();
        let mut unused = Problems::default();
        for template in &self.templates.list {
            let who = String::new();
            let Some(said) = said(template, SAMPLE, &mut unused, &who) else {
                continue;
            };
            let text = String::new();
            let source = Source::at(Place::of_text(&template.place), &text);
            let mut r = Reader::new(&source, &mut unused, who);
            let name = &template.name;
            let Some(mut def) = service::define(&mut r, name, 0..0, said, &defaults) else {
                continue;
            };
            let p = &mut def.policy;
            let lists = [
                &mut p.after,
                &mut p.requires,
                &mut p.wants,
                &mut p.restart_with,
            ];
            for list in lists {
                for other in list {
                    let template = parts(other).map(|(template, _)| template);
                    let template = template.filter(|t| self.templates.has(t));
                    if let Some(template) = template.map(str::to_owned) {
                        *other = template;
                    }
                }
            }
            all.insert(name.clone(), def);
        }
        all
    }
}

impl Place {
    /// One that was written down once, as text.
    pub(super) fn of_text(place: &str) -> Place {
        Place {
            file: Path::new(place).into(),
            rank: usize::MAX,
            line: 0,
            col: 0,
        }
    }

    fn unreadable() -> Place {
        Place::of_text("[defaults]")
    }
}

#[cfg(test)]
mod tests;
