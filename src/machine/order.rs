//! The order of starts and stops: which services come before which. Pure graph work.
//!
//! `config` reports cycles as errors. Should one reach this place all the same, the
//! edge that closes it is left out, so that nobody waits for himself.

use super::event::ServiceId;
use super::spec::Spec;
use crate::map::Map;

/// The edges of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    /// It starts after these and stops before them.
    pub before: Vec<ServiceId>,
    /// Those of them it cannot run without.
    pub requires: Vec<ServiceId>,
    /// Those of them that are started along with it.
    pub wants: Vec<ServiceId>,
    /// They never run at the same time as it.
    pub rivals: Vec<ServiceId>,
    /// The services that have it in `before`.
    pub followers: Vec<ServiceId>,
    /// The services that have it in `requires`.
    pub dependents: Vec<ServiceId>,
}

/// The whole graph.
#[derive(Clone, Debug, Default)]
pub struct Order {
    edges: Map<ServiceId, Edges>,
    /// Every service after all that it waits for.
    line: Vec<ServiceId>,
    places: Map<ServiceId, usize>,
}

static NOBODY: Edges = Edges {
    before: Vec::new(),
    requires: Vec::new(),
    wants: Vec::new(),
    rivals: Vec::new(),
    followers: Vec::new(),
    dependents: Vec::new(),
};

impl Order {
    /// Works the graph out. Names of services that do not exist are left out.
    pub fn new<'a>(specs: impl Iterator<Item = (ServiceId, &'a Spec)>) -> Order {
        let specs: Map<ServiceId, &Spec> = specs.collect();
        let line = line_up(&specs);
        let places: Map<ServiceId, usize> =
            line.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let mut edges: Map<ServiceId, Edges> = Map::new();
        for (id, spec) in &specs {
            let comes_before = |other: &&ServiceId| places.get(other) < places.get(id);
            let known = |other: &&ServiceId| specs.contains_key(other);
            let requires: Vec<ServiceId> = spec
                .requires
                .iter()
                .filter(known)
                .filter(comes_before)
                .copied()
                .collect();
            let wants = spec.wants.iter().filter(known).filter(comes_before);
            let wants: Vec<ServiceId> = wants.copied().collect();
            for other in spec.conflicts.iter().filter(known).filter(|o| *o != id) {
                edges.entry(*other).or_default().rivals.push(*id);
                edges.entry(*id).or_default().rivals.push(*other);
            }
            let mut before: Vec<ServiceId> = requires.clone();
            before.extend(&wants);
            before.extend(
                spec.after
                    .iter()
                    .chain(&spec.restart_with)
                    .filter(known)
                    .filter(comes_before)
                    .copied(),
            );
            before.sort_unstable();
            before.dedup();
            for other in &before {
                edges.entry(*other).or_default().followers.push(*id);
            }
            for other in &requires {
                edges.entry(*other).or_default().dependents.push(*id);
            }
            let own = edges.entry(*id).or_default();
            own.before = before;
            own.requires = requires;
            own.wants = wants;
        }
        for edges in edges.values_mut() {
            edges.rivals.sort_unstable();
            edges.rivals.dedup();
        }
        Order {
            edges,
            line,
            places,
        }
    }

    /// Every service, each after all that it waits for.
    pub fn line(&self) -> &[ServiceId] {
        &self.line
    }

    /// The place of a service in [`Order::line`].
    pub fn place(&self, id: ServiceId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// The edges of one service.
    pub fn of(&self, id: ServiceId) -> &Edges {
        self.edges.get(&id).unwrap_or(&NOBODY)
    }
}

/// Depth first, without recursion: a chain of a thousand services is no reason to run
/// out of stack.
fn line_up(specs: &Map<ServiceId, &Spec>) -> Vec<ServiceId> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        Open,
        Done,
    }
    let mut marks: Map<ServiceId, Mark> = Map::new();
    let mut line = Vec::with_capacity(specs.len());
    for start in specs.keys() {
        let mut path = vec![(*start, 0_usize)];
        while let Some((id, next)) = path.pop() {
            if next == 0 {
                if marks.contains_key(&id) {
                    continue;
                }
                marks.insert(id, Mark::Open);
            }
            let spec = specs.get(&id);
            let deps = spec
                .map(|s| {
                    let needs = s.requires.iter().chain(&s.after);
                    needs.chain(&s.wants).chain(&s.restart_with)
                })
                .into_iter()
                .flatten();
            match deps.copied().nth(next) {
                Some(dep) => {
                    path.push((id, next + 1));
                    if specs.contains_key(&dep) && !marks.contains_key(&dep) {
                        path.push((dep, 0));
                    }
                }
                None => {
                    marks.insert(id, Mark::Done);
                    line.push(id);
                }
            }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::testing::spec;
    use super::*;

    fn ids(list: &[u32]) -> Vec<ServiceId> {
        list.iter().map(|n| ServiceId(*n)).collect()
    }

    #[test]
    fn everything_comes_after_what_it_waits_for() {
        let mut specs = Map::new();
        for (id, after, requires) in [
            (0, vec![2], vec![3]),
            (1, vec![0], vec![]),
            (2, vec![], vec![3]),
            (3, vec![], vec![]),
        ] {
            let mut s = spec("x");
            s.after = ids(&after);
            s.requires = ids(&requires);
            specs.insert(ServiceId(id), s);
        }
        let order = Order::new(specs.iter().map(|(id, s)| (*id, s)));
        assert_eq!(order.line(), ids(&[3, 2, 0, 1]));
        assert_eq!(order.of(ServiceId(3)).followers, ids(&[0, 2]));
        assert_eq!(order.of(ServiceId(0)).before, ids(&[2, 3]));
        assert_eq!(order.of(ServiceId(3)).dependents, ids(&[0, 2]));
    }

    #[test]
    fn who_wants_one_comes_after_it_and_who_conflicts_with_one_is_known_to_both() {
        let mut specs = Map::new();
        for (id, wants, conflicts) in [
            (0, vec![1], vec![2, 0, 9]),
            (1, vec![], vec![]),
            (2, vec![], vec![0]),
        ] {
            let mut s = spec("x");
            s.wants = ids(&wants);
            s.conflicts = ids(&conflicts);
            specs.insert(ServiceId(id), s);
        }
        let order = Order::new(specs.iter().map(|(id, s)| (*id, s)));
        assert_eq!(order.line(), ids(&[1, 0, 2]));
        let first = order.of(ServiceId(0));
        assert_eq!((&first.before, &first.requires), (&ids(&[1]), &Vec::new()));
        assert_eq!((&first.wants, &first.rivals), (&ids(&[1]), &ids(&[2])));
        assert_eq!(order.of(ServiceId(2)).rivals, ids(&[0]));
    }

    #[test]
    fn a_cycle_and_an_unknown_name_leave_nobody_waiting_for_himself() {
        let mut specs = Map::new();
        for (id, after) in [(0, vec![1, 9]), (1, vec![2]), (2, vec![0, 2])] {
            let mut s = spec("x");
            s.after = ids(&after);
            specs.insert(ServiceId(id), s);
        }
        let order = Order::new(specs.iter().map(|(id, s)| (*id, s)));
        assert_eq!(order.line().len(), 3);
        for (place, id) in order.line().iter().enumerate() {
            for before in &order.of(*id).before {
                let other = order.line().iter().position(|x| x == before).unwrap();
                assert!(other < place);
            }
        }
    }

    #[test]
    fn a_chain_of_ten_thousand_does_not_run_out_of_stack() {
        let mut specs = Map::new();
        for id in 0..10_000_u32 {
            let mut s = spec("x");
            s.requires = if id < 9_999 { ids(&[id + 1]) } else { vec![] };
            specs.insert(ServiceId(id), s);
        }
        let order = Order::new(specs.iter().map(|(id, s)| (*id, s)));
        assert_eq!(order.line().first(), Some(&ServiceId(9_999)));
    }
}
