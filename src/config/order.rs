//! The order of services: that `after`, `requires` and so on name services which exist, and no
//! cycle. `plan` walks the same graph for the time a shutdown takes.

use super::model::ServiceDef;
use super::problem::{did_you_mean, word, Place, Problems, SHOWN};
use super::template::Templates;
use crate::map::{Map, Set};

/// A name of another service.
pub(super) struct Named {
    /// Whose.
    pub by: String,
    /// `after`, `requires`, `wants`, `restart-with` or `conflicts`.
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
    places: &Map<String, Place>,
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
    services: &Map<String, ServiceDef>,
    named: &[Named],
    places: &Map<String, Place>,
    problems: &mut Problems,
) {
    for cycle in sort(services, named).cycles {
        let [first, second, ..] = cycle.as_slice() else {
            continue;
        };
        let named = seen(named, problems);
        let Some(place) = place_of(first, second, named, places) else {
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

/// As long as somebody reads it: to look through all for each of thousands takes long.
fn seen<'n>(named: &'n [Named], problems: &Problems) -> &'n [Named] {
    match problems.len() < SHOWN {
        true => named,
        false => &[],
    }
}

/// Where one service names the other, else where it is defined itself.
fn place_of<'p>(
    by: &str,
    name: &str,
    named: &'p [Named],
    places: &'p Map<String, Place>,
) -> Option<&'p Place> {
    let is_it = |n: &&Named| n.by == by && n.name == name;
    let names = named.iter().find(is_it);
    names.map(|n| &n.place).or_else(|| places.get(by))
}

/// Reports services that conflict, and are to run at the same time all the same.
pub(super) fn check_conflicts(
    services: &Map<String, ServiceDef>,
    named: &[Named],
    places: &Map<String, Place>,
    problems: &mut Problems,
) {
    let mut dependents: Map<&str, Vec<&str>> = Map::new();
    for (name, def) in services {
        for need in &def.policy.requires {
            dependents.entry(need).or_default().push(name);
        }
    }
    let mut report = |name: &str, other: &str, text: String| {
        if let Some(place) = place_of(name, other, seen(named, problems), places) {
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
            let both = here.iter().find(|name| both.contains(**name)).copied();
            match both {
                Some(by) if by == name || by == other => report(
                    name,
                    other,
                    format!("conflicts with \"{other}\", and one requires the other"),
                ),
                Some(by) => report(
                    by,
                    other,
                    format!("requires both \"{name}\" and \"{other}\", which conflict"),
                ),
                None if def.policy.autostart && rival.policy.autostart => report(
                    name,
                    other,
                    format!("conflicts with \"{other}\", and both have autostart = true"),
                ),
                None => {}
            }
        }
    }
}

/// The service, and all that cannot run without it.
fn who_needs<'c>(name: &'c str, dependents: &Map<&str, Vec<&'c str>>) -> Set<&'c str> {
    let mut found = Set::from([name]);
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
    services: &'c Map<String, ServiceDef>,
    def: &'c ServiceDef,
) -> Set<&'c str> {
    let p = &def.policy;
    p.after
        .iter()
        .chain(&p.requires)
        .chain(&p.wants)
        .chain(&p.restart_with)
        .filter(|name| **name != def.name)
        .filter_map(|name| services.key(name))
        .map(String::as_str)
        .collect()
}

/// Kahn's algorithm: take what waits for nothing, again and again. What then remains waits
/// in a cycle, or for one. No recursion: a chain may be thousands long.
///
/// `named` are the names in sections that are no services, because something in them is wrong.
pub(super) fn sort<'c>(services: &'c Map<String, ServiceDef>, named: &'c [Named]) -> Sorted<'c> {
    let mut waits: Map<&str, Set<&str>> = Map::new();
    for (name, def) in services {
        waits.insert(name, needs(services, def));
    }
    let named = || {
        named
            .iter()
            .filter(|n| n.key != "conflicts" && n.name != n.by)
    };
    for n in named() {
        waits.entry(&n.by).or_default();
    }
    for n in named() {
        if waits.contains_key(n.name.as_str()) {
            waits.entry(&n.by).or_default().insert(&n.name);
        }
    }
    let mut dependents: Map<&str, Vec<&str>> = Map::new();
    for (name, needs) in &waits {
        for need in needs {
            dependents.entry(need).or_default().push(name);
        }
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
fn find_cycle<'c>(waits: &Map<&'c str, Set<&'c str>>) -> Option<Vec<&'c str>> {
    let mut path: Vec<&str> = Vec::new();
    let mut seen: Map<&str, usize> = Map::new();
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
