//! What other clients make of a stack, service by service: it becomes part of the history before
//! the stack is deployed as a whole, so that it can be compared with and gone back to.

use std::collections::{BTreeMap, BTreeSet};

use skep_model::payload::Pin;
use skep_model::rollout::{Rollout, RolloutState, RolloutWish, ServiceStage};
use skep_model::service::UpdateState;
use skep_model::stack::STACK_LABEL;
use skep_model::{
    ConfigId, Network, NetworkId, SecretId, SecretSpec, Service, ServiceMode, ServiceSpec, Stack,
    StackId, StackSpec, Timestamp,
};
use skep_store::Snapshot;

use super::order::put_in_order;
use super::prune::Objects;
use crate::control::service::counted;
use crate::control::{Done, Door};
use crate::progress::stack_progress;

const DEPLOYED: &str = "deployed by another client";
const CHANGED: &str = "changed by another client";

/// Whether a revision that began for this reason was not deployed as a whole.
pub(crate) fn is_of_others(because: &str) -> bool {
    because == DEPLOYED || because == CHANGED
}

impl Door<'_> {
    /// Takes the stack as it is now for a revision, where it is none that was deployed as a whole: it is
    /// about to become another.
    pub(super) fn adopt_stack(&mut self, name: &str) -> Done {
        let view = self.tx.view().clone();
        // It is gone back to only if it runs.
        let runs = stack_progress(&view, name).is_some_and(|progress| {
            let mut services = progress.services.iter();
            services.all(|one| one.stage == ServiceStage::Done)
        });
        let state = match runs {
            true => RolloutState::Deployed,
            false => RolloutState::Failed,
        };
        let of_it = view.services().filter(|service| service.stack == name);
        let since = of_it.map(|one| one.updated_at).max().unwrap_or_default();
        self.take_stack(name, state, since)
    }

    /// The same for a stack that stays as it is: how it comes to its end is still to be seen. One of
    /// which nothing is left goes.
    pub(in crate::control) fn settle_stack(&mut self, name: &str, since: Timestamp) -> Done {
        let known = self.tx.by_name::<Stack>(name);
        let known = known.filter(|stack| stack.spec.name == name);
        let known = known.map(|stack| (stack.id.clone(), stack.spec.services.is_empty()));
        match known {
            Some((id, false)) if Objects::of(self.tx.view(), name).is_empty() => {
                self.tx.remove::<Stack>(&id)?;
                Ok(())
            }
            _ => self.take_stack(name, RolloutState::Deploying, since),
        }
    }

    fn take_stack(&mut self, name: &str, state: RolloutState, since: Timestamp) -> Done {
        let view = self.tx.view().clone();
        let mut found = found(&view, name);
        if found.services.is_empty() {
            return Ok(());
        }
        let known = view.by_name::<Stack>(name);
        let because = match known {
            None => DEPLOYED,
            // Another one, whose name differs in case: names of objects are told apart without.
            Some(known) if known.spec.name != name => return Ok(()),
            Some(known) => {
                let Some(drifted) = self.drifted(known, &view) else {
                    return Ok(());
                };
                keep_unchanged(&mut found, &known.spec, &drifted);
                CHANGED
            }
        };
        put_in_order(&mut found);
        let mut stack = match known {
            // It cannot be brought to what it is any closer than this.
            Some(known) if known.spec == found => return Ok(()),
            Some(known) => Stack::clone(known),
            None => Stack {
                id: StackId::random(self.random),
                ..Stack::default()
            },
        };
        let rollout = Rollout {
            state,
            message: String::new(),
            wish: RolloutWish::default(),
            started_at: since,
            ended_at: None,
        };
        let versions = self.versions_of(&found);
        stack.advance(found, because.to_owned(), rollout);
        stack.secret_versions = versions;
        self.put(stack)
    }

    /// The services that a deploy of what the stack is said to be would change, if there are any; all of
    /// them where it can be deployed no more. How many replicas there are is no part of that: services
    /// are scaled. One that went back by itself is not as anybody wants it.
    fn drifted(&mut self, stack: &Stack, view: &Snapshot) -> Option<BTreeSet<String>> {
        let mut door = Door::new(view, self.now, self.random);
        let said = match door.bring_stack(&stack.spec, false) {
            Ok(_) => specs(door.tx.view(), &stack.spec.name),
            Err(_) => BTreeMap::new(),
        };
        let now = specs(view, &stack.spec.name);
        let went_back = |name: &str| {
            let service = view.by_name::<Service>(name);
            let status = service.and_then(|service| service.update_status.as_ref());
            status.is_some_and(|status| {
                use UpdateState::*;
                matches!(
                    status.state,
                    RollbackStarted | RollbackPaused | RollbackCompleted
                )
            })
        };
        let names: BTreeSet<&String> = now.keys().chain(said.keys()).collect();
        let names = names
            .into_iter()
            .filter(|name| now.get(*name) != said.get(*name) && !went_back(name));
        let drifted: BTreeSet<String> = names.cloned().collect();
        (!drifted.is_empty()).then_some(drifted)
    }
}

/// What the services of a stack are to be, by their names.
fn specs(view: &Snapshot, stack: &str) -> BTreeMap<String, ServiceSpec> {
    let of_it = view.services().filter(|one| one.stack == stack);
    let specs = of_it.map(|one| {
        let mut spec = one.spec.clone();
        spec.mode = counted(&spec.mode);
        if let ServiceMode::Replicated(replicated) = &mut spec.mode {
            replicated.replicas = None;
        }
        (spec.name.clone(), spec)
    });
    specs.collect()
}

/// What nobody has changed is as it was written.
fn keep_unchanged(found: &mut StackSpec, known: &StackSpec, drifted: &BTreeSet<String>) {
    for network in &mut found.networks {
        let mut had = known.networks.iter();
        if let Some(had) = had.find(|had| had.name == network.name) {
            network.clone_from(had);
        }
    }
    for secret in &mut found.secrets {
        let mut had = known.secrets.iter();
        if let Some(had) = had.find(|had| had.name == secret.name) {
            secret.clone_from(had);
        }
    }
    for service in &mut found.services {
        let mut had = known.services.iter();
        let had = had.find(|had| had.name == service.name);
        if let Some(had) = had.filter(|had| !drifted.contains(&had.name)) {
            service.clone_from(had);
        }
    }
    // What it waits for is nowhere else.
    let there = |name: &String| found.services.iter().any(|one| one.name == *name);
    let mut waits = known.depends_on.clone();
    waits.retain(|name, on| {
        on.retain(|one| there(&one.service));
        there(name) && !on.is_empty()
    });
    found.depends_on = waits;
    found.external_networks.clone_from(&known.external_networks);
    found.external_secrets.clone_from(&known.external_secrets);
    found.external_configs.clone_from(&known.external_configs);
}

/// The stack as its objects are, with names in place of ids, and of whatever version: those may be others
/// when it is gone back to.
fn found(view: &Snapshot, name: &str) -> StackSpec {
    let belongs = |labels: &BTreeMap<String, String>| {
        labels.get(STACK_LABEL).is_some_and(|owner| owner == name)
    };
    let named = |target: &mut String| {
        if let Some(network) = view.get::<Network>(&NetworkId::from(target.as_str())) {
            target.clone_from(&network.spec.name);
        }
    };
    let service = |service: &Service| {
        let mut spec = service.spec.clone();
        for network in &mut spec.task_template.networks {
            named(&mut network.target);
        }
        if let Some(container) = &mut spec.task_template.container_spec {
            for secret in &mut container.secrets {
                secret.secret_id = SecretId::default();
                secret.version = Pin::default();
            }
            for config in &mut container.configs {
                config.config_id = ConfigId::default();
                config.version = Pin::default();
            }
        }
        spec.task_template.pull_credentials.clear();
        spec
    };
    let services = view.services().filter(|one| belongs(&one.spec.labels));
    let networks = view.networks().filter(|one| belongs(&one.spec.labels));
    let secrets = view.secrets().filter(|one| belongs(&one.spec.labels));
    let configs = view.configs().filter(|one| belongs(&one.spec.labels));
    StackSpec {
        name: name.to_owned(),
        services: services.map(|one| service(one)).collect(),
        networks: networks.map(|one| one.spec.clone()).collect(),
        secrets: secrets
            .map(|one| SecretSpec {
                data: Vec::new(),
                expiry: None,
                ..one.spec.clone()
            })
            .collect(),
        configs: configs.map(|one| one.spec.clone()).collect(),
        ..StackSpec::default()
    }
}
