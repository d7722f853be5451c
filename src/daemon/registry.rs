//! Names and numbers: which service has which number, and its definition.
//!
//! A number belongs to a name until the machine has forgotten the service, so that one
//! that is taken out of the configuration and put back while it still stops is the same
//! service, and never runs twice.

use std::rc::Rc;

use crate::config::model::{Config, Daemon, Made, Program, ServiceDef};
use crate::config::{self, Plan, Problems, Templates};
use crate::json::{FromJson, ToJson};
use crate::machine::event::{Change, ServiceId};
use crate::machine::spec::Spec;
use crate::map::Map;

/// Every service that the machine knows.
#[derive(Debug, ToJson, FromJson)]
pub struct Registry {
    config: Config,
    ids: Map<String, ServiceId>,
    names: Map<ServiceId, Rc<str>>,
    /// Services that are no longer configured and not forgotten yet.
    leaving: Map<ServiceId, ServiceDef>,
    next: u32,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            config: Config {
                daemon: Daemon::default(),
                services: Map::new(),
                templates: Templates::default(),
                files: Vec::new(),
            },
            ids: Map::new(),
            names: Map::new(),
            leaving: Map::new(),
            next: 0,
        }
    }
}

/// What the machine is to be told, and the operator.
#[derive(Debug, Default)]
pub struct Delta {
    /// New, or defined differently.
    pub changed: Vec<(ServiceId, Rc<Spec>, Change)>,
    /// No longer configured.
    pub gone: Vec<ServiceId>,
    /// As before.
    pub unchanged: usize,
    /// `[daemon]` keys that changed, a line each.
    pub now: Vec<String>,
    /// `[daemon]` keys that changed in vain, a line each.
    pub next_start: Vec<String>,
}

impl Registry {
    /// Takes over a configuration and tells the difference.
    pub fn apply(&mut self, new: Config) -> Delta {
        let diff = config::diff(&self.config, &new);
        for name in &diff.gone {
            let def = self.config.services.remove(name);
            if let (Some(id), Some(def)) = (self.ids.get(name), def) {
                self.leaving.insert(*id, def);
            }
        }
        self.config = new;
        let mut changed = Vec::new();
        for (name, change) in diff.changed {
            let id = self.number(&name);
            // One that comes back before it is gone is another program to the machine:
            // what still runs is the old one.
            let back = self.leaving.remove(&id).is_some();
            changed.push((id, name, if back { Change::Program } else { change }));
        }
        let spec = |(id, name, change): (ServiceId, String, Change)| {
            let def = self.config.services.get(&name)?;
            Some((id, Rc::new(def.spec(|n| self.ids.get(n).copied())), change))
        };
        Delta {
            changed: changed.into_iter().filter_map(spec).collect(),
            gone: diff
                .gone
                .iter()
                .filter_map(|n| self.ids.get(n).copied())
                .collect(),
            unchanged: diff.unchanged.len(),
            now: diff.now,
            next_start: diff.next_start,
        }
    }

    fn number(&mut self, name: &str) -> ServiceId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = ServiceId(self.next);
        self.next = self.next.wrapping_add(1);
        self.ids.insert(name.to_owned(), id);
        self.names.insert(id, name.into());
        id
    }

    /// `[daemon]` as it is now.
    pub fn daemon(&self) -> &Daemon {
        &self.config.daemon
    }

    /// The longest stop of everything.
    pub fn plan(&self) -> Plan {
        config::plan(&self.config)
    }

    /// The number of a service: a configured one, or one that is no longer configured but
    /// not stopped yet. Who asks for that one means what still runs.
    pub fn id(&self, name: &str) -> Option<ServiceId> {
        self.ids.get(name).copied()
    }

    /// Its definition: the configured one, or that of a service that is still leaving.
    pub fn def(&self, id: ServiceId) -> Option<&ServiceDef> {
        let name = self.names.get(&id)?;
        let configured = self.config.services.get(&**name);
        configured.or_else(|| self.leaving.get(&id))
    }

    /// What an earlier superd had configured, before the configuration is read.
    pub fn recall(&mut self, services: Map<String, ServiceDef>) -> Delta {
        self.apply(Config {
            services,
            ..self.config.clone()
        })
    }

    /// The instances of templates that somebody asked for.
    pub fn asked(&self) -> Vec<&str> {
        let services = self.config.services.values();
        let asked = services.filter(|def| def.made == Made::Asked);
        asked.map(|def| def.name.as_str()).collect()
    }

    /// Whether this service is there because another one requires or wants it.
    pub fn is_named_only(&self, name: &str) -> bool {
        let def = self.config.services.get(name);
        def.is_some_and(|def| def.made == Made::Named)
    }

    /// What instances are made from.
    pub fn templates(&self) -> &Templates {
        &self.config.templates
    }

    /// As now, with these instances of templates in the place of those that were asked for.
    ///
    /// # Errors
    /// Of [`Config::with_instances`].
    pub fn with_instances(&self, asked: &[&str]) -> Result<Config, Problems> {
        self.config.with_instances(asked.iter().copied())
    }

    /// The machine's part of its definition.
    pub fn spec(&self, id: ServiceId) -> Option<Spec> {
        let def = self.def(id)?;
        Some(def.spec(|n| self.ids.get(n).copied()))
    }

    /// What is executed for it, and how.
    pub fn program(&self, id: ServiceId) -> Option<Rc<Program>> {
        self.def(id).map(|d| d.program.clone())
    }

    /// The name; of a service that is not known, a placeholder.
    pub fn name(&self, id: ServiceId) -> Rc<str> {
        self.names.get(&id).cloned().unwrap_or_else(|| "?".into())
    }

    /// The machine has forgotten it.
    pub fn forget(&mut self, id: ServiceId) {
        self.leaving.remove(&id);
        if let Some(name) = self.names.remove(&id) {
            self.ids.remove(&*name);
        }
    }

    /// The configured service whose name is most like this one, if one is.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        config::nearest(name, self.config.services.keys().map(String::as_str))
    }
}
