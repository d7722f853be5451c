//! Names and numbers: which service has which number, and its definition.
//!
//! A number belongs to a name until the machine has forgotten the service, so that one
//! that is taken out of the configuration and put back while it still stops is the same
//! service, and never runs twice.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::config::model::{Config, Daemon, PolicyDef, ServiceDef};
use crate::machine::event::{Change, ServiceId};
use crate::machine::spec::Spec;

/// Every service that the machine knows.
#[derive(Debug, Default)]
pub struct Registry {
    ids: BTreeMap<String, ServiceId>,
    defs: BTreeMap<ServiceId, Entry>,
    next: u32,
}

#[derive(Debug)]
struct Entry {
    def: ServiceDef,
    /// Still in the configuration.
    configured: bool,
}

/// What the machine is to be told.
#[derive(Debug, Default)]
pub struct Delta {
    /// New, or defined differently.
    pub changed: Vec<(ServiceId, Rc<Spec>, Change)>,
    /// No longer configured.
    pub gone: Vec<ServiceId>,
    /// As before.
    pub unchanged: usize,
}

impl Registry {
    /// Takes over a configuration and tells the difference.
    pub fn apply(&mut self, config: Config) -> (Daemon, Delta) {
        let mut delta = Delta::default();
        for name in config.services.keys() {
            if !self.ids.contains_key(name) {
                self.ids.insert(name.clone(), ServiceId(self.next));
                self.next = self.next.wrapping_add(1);
            }
        }
        for (id, entry) in &mut self.defs {
            if entry.configured && !config.services.contains_key(&entry.def.name) {
                entry.configured = false;
                delta.gone.push(*id);
            }
        }
        let mut touched = Vec::new();
        for (name, def) in config.services {
            let Some(id) = self.ids.get(&name).copied() else { continue };
            let change = match self.defs.get(&id) {
                None => Some(Change::New),
                Some(old) if !old.configured => Some(Change::Program),
                Some(old) => difference(&old.def, &def),
            };
            match change {
                Some(change) => touched.push((id, change)),
                None => delta.unchanged += 1,
            }
            self.defs.insert(id, Entry { def, configured: true });
        }
        for (id, change) in touched {
            if let Some(entry) = self.defs.get(&id) {
                let spec = entry.def.spec(|n| self.ids.get(n).copied());
                delta.changed.push((id, Rc::new(spec), change));
            }
        }
        (config.daemon, delta)
    }

    /// The number of a configured service.
    pub fn id(&self, name: &str) -> Option<ServiceId> {
        let id = self.ids.get(name).copied()?;
        self.defs.get(&id).filter(|e| e.configured).map(|_| id)
    }

    /// The definition.
    pub fn def(&self, id: ServiceId) -> Option<&ServiceDef> {
        self.defs.get(&id).map(|e| &e.def)
    }

    /// The name; of a service that is not known, a placeholder.
    pub fn name(&self, id: ServiceId) -> &str {
        self.def(id).map_or("?", |d| d.name.as_str())
    }

    /// The machine has forgotten it.
    pub fn forget(&mut self, id: ServiceId) {
        if let Some(entry) = self.defs.remove(&id) {
            self.ids.remove(&entry.def.name);
        }
    }

    /// Every name, for "did you mean".
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.defs.values().filter(|e| e.configured).map(|e| e.def.name.as_str())
    }
}

fn difference(old: &ServiceDef, new: &ServiceDef) -> Option<Change> {
    let same_policy = |a: &PolicyDef, b: &PolicyDef| a == b;
    if old.program != new.program {
        Some(Change::Program)
    } else if !same_policy(&old.policy, &new.policy) {
        Some(Change::Policy)
    } else {
        None
    }
}
