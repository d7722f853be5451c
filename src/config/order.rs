//! The order of services: that `after`, `requires` and so on name services which exist, and no
//! cycle. `plan` walks the same graph for the time a shutdown takes.

use std::collections::{BTreeMap, BTreeSet};

use super::model::ServiceDef;
use super::problem::{did_you_mean, word, Place, Problems, SHOWN};
use super::template::Templates;

/// A name of another service.
pub(super) struct Named {
    /// Whose.
    pub by: String,
    /// `after`, `requires`, `wants` or `conflicts`.
    pub key: &'static str,
    /// Which service.
    pub name: String,
    /// Where it stands.
    pub place: Place,
}

/// Reports names that no service has, and that none can be made for. `places`: every service,
/// also broken ones.
pub(super) fn check_names(
    named: &[Named],
    places: &BTreeMap<String, Place>,
    templates: &Templates,
    problems: &mut Problems,
) {
    for n in named {
        let Named {
            by,
            key,
            name,
            place,
        } = n;
        if name == by {
            problems.add(
                place.clone(),
                format_args!("service \"{by}\": `{key}` names the service itself"),
            );
        } else if templates.has(name) {
            problems.add(
                place.clone(),
                format_args!(
                    "service \"{by}\": `{key}`: \"{name}\" is a template: name an instance of it, \
                     like \"{name}1\""
                ),
            );
        } else if !places.contains_key(name) && !templates.make(name) {
            // Thousands of names against thousands would take minutes; nobody reads them.
            let hint = match problems.len() < SHOWN {
                true => did_you_mean(name, places.keys().map(String::as_str)),
                false => String::new(),
            };
            problems.add(
                place.clone(),
                format_args!(
                    "service \"{by}\": `{key}`: no service \"{}\"{hint}",
                    word(name)
                ),
            );
        }
    }
}

/// Reports each cycle once, at the service of it that comes first by name.
pub(super) fn check_cycles(
    services: &BTreeMap<String, ServiceDef>,
    places: &BTreeMap<String, Place>,
    problems: &mut Problems,
) {
    for cycle in sort(services).cycles {
        let Some(first) = cycle.first() else { continue };
        let Some(place) = places.get(*first) else {
            continue;
        };
        problems.add(
            place.clone(),
            format_args!(
                "service \"{first}\": dependency cycle: {} -> {first}",
                cycle.join(" -> ")
            ),
        );
    }
}

/// Reports services that conflict, and are to run at the same time all the same.
pub(super) fn check_conflicts(
    services: &BTreeMap<String, ServiceDef>,
    places: &BTreeMap<String, Place>,
    problems: &mut Problems,
) {
    let mut dependents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, def) in services {
        for need in &def.policy.requires {
            dependents.entry(need).or_default().push(name);
        }
    }
    let mut report = |name: &str, text: String| {
        if let Some(place) = places.get(name) {
            problems.add(place.clone(), format_args!("service \"{name}\": {text}"));
        }
    };
    for (name, def) in services {
        for other in &def.policy.conflicts {
            let Some(rival) = services.get(other).filter(|_| other != name) else {
                continue;
            };
            let mutual = rival.policy.conflicts.contains(name);
            if mutual && other < name {
                continue; // said there
            }
            let here = who_needs(name, &dependents);
            let both = who_needs(other, &dependents);
            let both = here.intersection(&both).next().copied();
            match both {
                Some(by) if by == name || by == other => report(
                    name,
                    format!("conflicts with \"{other}\", and one requires the other"),
                ),
                Some(by) => report(
                    by,
                    format!("requires both \"{name}\" and \"{other}\", which conflict"),
                ),
                None if def.policy.autostart && rival.policy.autostart => report(
                    name,
                    format!("conflicts with \"{other}\", and both have autostart = true"),
                ),
                None => {}
            }
        }
    }
}

/// The service, and all that cannot run without it.
fn who_needs<'c>(name: &'c str, dependents: &BTreeMap<&str, Vec<&'c str>>) -> BTreeSet<&'c str> {
    let mut found = BTreeSet::from([name]);
    let mut todo = vec![name];
    while let Some(name) = todo.pop() {
        for dependent in dependents.get(name).into_iter().flatten() {
            if found.insert(dependent) {
                todo.push(dependent);
            }
        }
    }
    found
}

/// The services in an order in which they can be started.
pub(super) struct Sorted<'c> {
    /// Each after everything it names.
    pub order: Vec<&'c str>,
    /// What has no such order: each names the next one, the last one the first. A self-reference
    /// is none; that is reported by its name.
    pub cycles: Vec<Vec<&'c str>>,
}

/// The services that `def` names and that exist, without itself.
pub(super) fn needs<'c>(
    services: &'c BTreeMap<String, ServiceDef>,
    def: &'c ServiceDef,
) -> BTreeSet<&'c str> {
    let p = &def.policy;
    p.after
        .iter()
        .chain(&p.requires)
        .chain(&p.wants)
        .filter(|name| **name != def.name)
        .filter_map(|name| services.get_key_value(name))
        .map(|(name, _)| name.as_str())
        .collect()
}

/// Kahn's algorithm: take what waits for nothing, again and again. What then remains waits
/// in a cycle, or for one. No recursion: a chain may be thousands long.
pub(super) fn sort(services: &BTreeMap<String, ServiceDef>) -> Sorted<'_> {
    let mut waits: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut dependents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, def) in services {
        let needs = needs(services, def);
        for need in &needs {
            dependents.entry(need).or_default().push(name);
        }
        waits.insert(name, needs);
    }
    let mut sorted = Sorted {
        order: Vec::with_capacity(services.len()),
        cycles: Vec::new(),
    };
    let mut ready: Vec<&str> = waits
        .iter()
        .filter(|(_, needs)| needs.is_empty())
        .map(|(name, _)| *name)
        .collect();
    ready.reverse();
    loop {
        while let Some(name) = ready.pop() {
            if waits.remove(name).is_none() {
                continue;
            }
            sorted.order.push(name);
            for dependent in dependents.remove(name).unwrap_or_default() {
                if let Some(needs) = waits.get_mut(dependent) {
                    needs.remove(name);
                    if needs.is_empty() {
                        ready.push(dependent);
                    }
                }
            }
        }
        let Some(cycle) = find_cycle(&waits) else {
            return sorted;
        };
        // Open the cycle, so that what only waits for it is not reported as another one.
        ready.extend(cycle.iter().rev());
        sorted.cycles.push(cycle);
    }
}

/// Follows the first need of each until one comes twice. Everything in `waits` waits for
/// something that is in it.
fn find_cycle<'c>(waits: &BTreeMap<&'c str, BTreeSet<&'c str>>) -> Option<Vec<&'c str>> {
    let mut path: Vec<&str> = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut at = *waits.keys().next()?;
    while !seen.contains_key(at) {
        seen.insert(at, path.len());
        path.push(at);
        at = waits.get(at)?.first()?;
    }
    let mut cycle = path.split_off(*seen.get(at)?);
    let first = cycle.iter().enumerate().min_by_key(|(_, name)| **name)?.0;
    cycle.rotate_left(first);
    Some(cycle)
}
