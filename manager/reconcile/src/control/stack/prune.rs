//! What a stack has no more: removed with `--prune`, as far as nothing needs it.

use std::collections::{BTreeMap, BTreeSet};

use skep_model::stack::STACK_LABEL;
use skep_model::{ConfigId, NetworkId, SecretId, ServiceId, Stack, StackSpec};
use skep_store::Snapshot;

use crate::control::{Done, Door};

impl Door<'_> {
    pub(super) fn prune_services(&mut self, wanted: &StackSpec) -> Done {
        let keep: BTreeSet<String> = wanted
            .services
            .iter()
            .map(|service| service.name.to_lowercase())
            .collect();
        let surplus: Vec<(ServiceId, String)> = self
            .tx
            .services()
            .filter(|service| service.stack == wanted.name)
            .filter(|service| !keep.contains(&service.spec.name.to_lowercase()))
            .map(|service| (service.id.clone(), service.spec.name.clone()))
            .collect();
        for (id, name) in surplus {
            self.note(format!("Removing service {name}"));
            self.remove_service(&id)?;
        }
        Ok(())
    }

    /// Removes networks, secrets and configs that the stack has no more. What others use stays, and what
    /// earlier revisions need to be gone back to.
    pub(super) fn prune_objects(&mut self, wanted: &StackSpec) -> Done {
        let keep =
            |names: Vec<&String>| -> BTreeSet<String> { names.into_iter().cloned().collect() };
        let networks = keep(wanted.networks.iter().map(|one| &one.name).collect());
        let secrets = keep(wanted.secrets.iter().map(|one| &one.name).collect());
        let configs = keep(wanted.configs.iter().map(|one| &one.name).collect());
        let (past_secrets, past_configs) = self.needed_to_go_back(&wanted.name);
        let found = Objects::of(self.tx.view(), &wanted.name);
        for (id, name) in found.networks {
            if !networks.contains(&name) {
                let removed = self.remove_network(&id);
                self.pruned("network", &name, removed);
            }
        }
        for (id, name) in found.secrets {
            if past_secrets.contains(&name) && !secrets.contains(&name) {
                self.note(format!("Keeping secret {name} for rollbacks"));
            } else if !secrets.contains(&name) {
                let removed = self.remove_secret(&id);
                self.pruned("secret", &name, removed);
            }
        }
        for (id, name) in found.configs {
            if past_configs.contains(&name) && !configs.contains(&name) {
                self.note(format!("Keeping config {name} for rollbacks"));
            } else if !configs.contains(&name) {
                let removed = self.remove_config(&id);
                self.pruned("config", &name, removed);
            }
        }
        Ok(())
    }

    /// Names of the secrets and configs that revisions of the stack, or of a service of it, have named:
    /// a payload that is gone cannot be gone back to, by an update that fails least of all.
    fn needed_to_go_back(&self, stack: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut secrets, mut configs) = (BTreeSet::new(), BTreeSet::new());
        if let Some(stack) = self.tx.by_name::<Stack>(stack) {
            let past = stack.history.iter().map(|past| &past.spec);
            for spec in past.chain([&stack.spec]) {
                secrets.extend(spec.secrets.iter().map(|secret| secret.name.clone()));
                configs.extend(spec.configs.iter().map(|config| config.name.clone()));
            }
        }
        for service in self.tx.services().filter(|service| service.stack == stack) {
            let past = service.history.iter().map(|past| &past.spec);
            for spec in past.chain(&service.previous_spec) {
                let Some(container) = spec.task_template.container() else {
                    continue;
                };
                let named = container.secrets.iter().map(|one| one.secret_name.clone());
                secrets.extend(named);
                let named = container.configs.iter().map(|one| one.config_name.clone());
                configs.extend(named);
            }
        }
        (secrets, configs)
    }

    fn pruned(&mut self, kind: &str, name: &str, removed: Done) {
        match removed {
            Ok(()) => self.note(format!("Removing {kind} {name}")),
            Err(error) => {
                let warning = format!("{kind} {name} is not removed: {}", error.message);
                self.response.warnings.push(warning);
            }
        }
    }
}

/// What of the cluster says that it belongs to a stack, by id and name.
pub(super) struct Objects {
    pub services: Vec<(ServiceId, String)>,
    pub networks: Vec<(NetworkId, String)>,
    pub secrets: Vec<(SecretId, String)>,
    pub configs: Vec<(ConfigId, String)>,
}

impl Objects {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.networks.is_empty()
            && self.secrets.is_empty()
            && self.configs.is_empty()
    }

    pub fn of(view: &Snapshot, stack: &str) -> Self {
        let belongs = |labels: &BTreeMap<String, String>| {
            labels.get(STACK_LABEL).is_some_and(|owner| owner == stack)
        };
        macro_rules! of {
            ($all:expr) => {
                $all.filter(|object| belongs(&object.spec.labels))
                    .map(|object| (object.id.clone(), object.spec.name.clone()))
                    .collect()
            };
        }
        Self {
            services: of!(view.services()),
            networks: of!(view.networks()),
            secrets: of!(view.secrets()),
            configs: of!(view.configs()),
        }
    }
}
