//! Stacks: a whole set of objects brought to its spec in one transaction.

use std::collections::BTreeSet;

use skep_model::stack::{IMAGE_LABEL, STACK_LABEL};
use skep_model::{
    Config, ConfigId, ControlError, Kind, Network, NetworkId, Secret, SecretId, Service, ServiceId,
    ServiceSpec, Stack, StackId, StackSpec,
};

use super::service::keep_platforms;
use super::{Done, Door};

impl Door<'_> {
    pub(super) fn deploy_stack(&mut self, wanted: &StackSpec, prune: bool) -> Done {
        if wanted.name.trim().is_empty() {
            return Err(ControlError::invalid(format!(
                "invalid stack name: {:?}",
                wanted.name
            )));
        }
        let mut wanted = wanted.clone();
        claim(&mut wanted);
        self.check_externals(&wanted)?;
        if prune {
            self.prune_services(&wanted)?;
        }
        for spec in &wanted.networks {
            // An existing network is never changed.
            if self.tx.by_name::<Network>(&spec.name).is_none() {
                self.note(format!("Creating network {}", spec.name));
                self.create_network(spec)?;
            }
        }
        for spec in &wanted.secrets {
            let known = self.tx.by_name::<Secret>(&spec.name);
            match known.map(|secret| secret.id.clone()) {
                Some(id) => self.update_secret(&id, None, spec)?,
                None => {
                    self.note(format!("Creating secret {}", spec.name));
                    self.create_secret(spec)?;
                }
            }
        }
        for spec in &wanted.configs {
            let known = self.tx.by_name::<Config>(&spec.name);
            match known.map(|config| config.id.clone()) {
                Some(id) => self.update_config(&id, None, spec)?,
                None => {
                    self.note(format!("Creating config {}", spec.name));
                    self.create_config(spec)?;
                }
            }
        }
        for spec in &wanted.services {
            self.deploy_service(spec)?;
        }
        self.remember_stack(wanted)
    }

    pub(super) fn remove_stack(&mut self, name: &str) -> Done {
        let label = |labels: &std::collections::BTreeMap<String, String>| {
            labels.get(STACK_LABEL).is_some_and(|owner| owner == name)
        };
        let services: Vec<(ServiceId, String)> = self
            .tx
            .services()
            .filter(|service| label(&service.spec.labels))
            .map(|service| (service.id.clone(), service.spec.name.clone()))
            .collect();
        let secrets: Vec<(SecretId, String)> = self
            .tx
            .secrets()
            .filter(|secret| label(&secret.spec.labels))
            .map(|secret| (secret.id.clone(), secret.spec.name.clone()))
            .collect();
        let configs: Vec<(ConfigId, String)> = self
            .tx
            .configs()
            .filter(|config| label(&config.spec.labels))
            .map(|config| (config.id.clone(), config.spec.name.clone()))
            .collect();
        let networks: Vec<(NetworkId, String)> = self
            .tx
            .networks()
            .filter(|network| label(&network.spec.labels))
            .map(|network| (network.id.clone(), network.spec.name.clone()))
            .collect();
        let stack = self.tx.by_name::<Stack>(name).map(|stack| stack.id.clone());
        let nothing = services.is_empty()
            && secrets.is_empty()
            && configs.is_empty()
            && networks.is_empty()
            && stack.is_none();
        if nothing {
            return Err(ControlError::not_found(format!(
                "Nothing found in stack: {name}"
            )));
        }
        for (id, name) in services {
            self.note(format!("Removing service {name}"));
            self.remove_service(&id)?;
        }
        for (id, name) in secrets {
            self.note(format!("Removing secret {name}"));
            self.remove_secret(&id)?;
        }
        for (id, name) in configs {
            self.note(format!("Removing config {name}"));
            self.remove_config(&id)?;
        }
        for (id, name) in networks {
            self.note(format!("Removing network {name}"));
            self.remove_network(&id)?;
        }
        if let Some(id) = stack {
            self.tx.remove::<Stack>(&id)?;
        }
        Ok(())
    }

    fn deploy_service(&mut self, spec: &ServiceSpec) -> Done {
        let Some(known) = self.tx.by_name::<Service>(&spec.name) else {
            self.create_service(spec)?;
            self.note(format!("Creating service {}", spec.name));
            return Ok(());
        };
        let known = Service::clone(known);
        let mut spec = spec.clone();
        keep_what_the_file_does_not_say(&mut spec, &known.spec);
        let spec = self.settled(&spec)?;
        if std::mem::discriminant(&spec.mode) != std::mem::discriminant(&known.spec.mode) {
            return Err(ControlError::new(
                Kind::Unimplemented,
                format!(
                    "failed to update service {}: service mode change is not allowed",
                    spec.name
                ),
            ));
        }
        self.check_ports(&known.id, &spec)?;
        self.note(format!("Updating service {} (id: {})", spec.name, known.id));
        if spec == known.spec {
            return Ok(());
        }
        self.put_spec(known, spec)
    }

    fn check_externals(&self, wanted: &StackSpec) -> Done {
        for name in &wanted.external_networks {
            let local = crate::allocate::NODE_LOCAL.contains(&name.as_str());
            if !local && self.tx.by_name::<Network>(name).is_none() {
                return Err(ControlError::invalid(format!(
                    "network {name:?} is declared as external, but could not be found. You need to create a swarm-scoped network before the stack is deployed"
                )));
            }
        }
        for name in &wanted.external_secrets {
            if self.tx.by_name::<Secret>(name).is_none() {
                return Err(ControlError::invalid(format!("secret not found: {name}")));
            }
        }
        for name in &wanted.external_configs {
            if self.tx.by_name::<Config>(name).is_none() {
                return Err(ControlError::invalid(format!("config not found: {name}")));
            }
        }
        Ok(())
    }

    fn prune_services(&mut self, wanted: &StackSpec) -> Done {
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

    fn remember_stack(&mut self, mut spec: StackSpec) -> Done {
        for secret in &mut spec.secrets {
            secret.data.clear();
        }
        for service in &mut spec.services {
            service.task_template.pull_credentials.clear();
        }
        let stack = match self.tx.by_name::<Stack>(&spec.name) {
            Some(known) if known.spec == spec => return Ok(()),
            Some(known) => Stack {
                spec,
                revision: known.revision + 1,
                ..Stack::clone(known)
            },
            None => Stack {
                id: StackId::random(self.random),
                spec,
                revision: 1,
                ..Stack::default()
            },
        };
        self.put(stack)
    }

    fn note(&mut self, action: String) {
        self.response.actions.push(action);
    }
}

/// Everything in a stack says which stack it belongs to.
fn claim(spec: &mut StackSpec) {
    let name = spec.name.clone();
    let labels = spec
        .networks
        .iter_mut()
        .map(|network| &mut network.labels)
        .chain(spec.secrets.iter_mut().map(|secret| &mut secret.labels))
        .chain(spec.configs.iter_mut().map(|config| &mut config.labels))
        .chain(spec.services.iter_mut().map(|service| &mut service.labels));
    for labels in labels {
        labels.insert(STACK_LABEL.to_owned(), name.clone());
    }
}

/// What earlier commands have done stays: forced updates, credentials, the digest that an
/// unchanged image was resolved to.
fn keep_what_the_file_does_not_say(spec: &mut ServiceSpec, known: &ServiceSpec) {
    let template = &mut spec.task_template;
    template.force_update = known.task_template.force_update;
    if template.pull_credentials.is_empty() {
        template
            .pull_credentials
            .clone_from(&known.task_template.pull_credentials);
    }
    let same_image = spec.labels.get(IMAGE_LABEL) == known.labels.get(IMAGE_LABEL)
        && spec.labels.contains_key(IMAGE_LABEL);
    let resolved = template.image().contains('@');
    if let Some(container) = &mut template.container_spec
        && same_image
        && !resolved
    {
        container.image = known.task_template.image().to_owned();
    }
    keep_platforms(template, &known.task_template);
}
