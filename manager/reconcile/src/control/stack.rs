//! Stacks: a whole set of objects brought to its spec in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use skep_model::dependency;
use skep_model::expiry::Expiry;
use skep_model::mount::Driver;
use skep_model::payload::{Payload, PayloadId, VersionChange};
use skep_model::rollout::{Rollout, RolloutState, RolloutWish};
use skep_model::stack::{IMAGE_LABEL, STACK_LABEL};
use skep_model::{
    Config, ConfigSpec, ControlError, Kind, Network, Secret, SecretId, SecretSpec, Service,
    ServiceMode, ServiceSpec, Stack, StackId, StackSpec, Timestamp,
};
use skep_store::Snapshot;

use super::service::keep_platforms;
use super::version::Settle;
use super::{Done, Door, expiry};
use crate::stack_plan;
use order::{in_order, put_in_order};
use prune::Objects;

mod adopt;
pub(crate) use adopt::is_of_others;
mod back;
mod order;
mod prune;

impl Door<'_> {
    pub(super) fn deploy_stack(
        &mut self,
        wanted: &StackSpec,
        prune: bool,
        rollout: Because,
    ) -> Done {
        if wanted.name.trim().is_empty() {
            return Err(ControlError::invalid(format!(
                "invalid stack name: {:?}",
                wanted.name
            )));
        }
        self.adopt_stack(&wanted.name)?;
        self.turn_stack(wanted, prune, rollout)
    }

    /// Brings a stack to its spec, which becomes its revision.
    fn turn_stack(&mut self, wanted: &StackSpec, prune: bool, rollout: Because) -> Done {
        let wanted = self.bring_stack(wanted, prune)?;
        // What it was before is known by now, so that what only a forgotten revision needed goes as well.
        self.remember_stack(wanted.clone(), rollout)?;
        match prune {
            true => self.prune_objects(&wanted),
            false => Ok(()),
        }
    }

    /// Brings everything of a stack to its spec, which comes back as it is kept.
    fn bring_stack(&mut self, wanted: &StackSpec, prune: bool) -> Result<StackSpec, ControlError> {
        let before = self.tx.view().clone();
        let mut wanted = wanted.clone();
        claim(&mut wanted);
        self.check_externals(&wanted)?;
        check_dependencies(&wanted)?;
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
            self.bring_secret(spec, said_expiry(&before, &wanted.name, &spec.name))?;
        }
        for spec in &wanted.configs {
            self.bring_config(spec)?;
        }
        for spec in &wanted.services {
            self.deploy_service(spec, &before)?;
        }
        Ok(wanted)
    }

    /// Other bytes than it has are its next version, which its users get by their own updates. `said`
    /// is the expiry that the stack's present revision has for it.
    fn bring_secret(&mut self, spec: &SecretSpec, said: Option<&Expiry>) -> Done {
        let Some(known) = self.tx.by_name::<Secret>(&spec.name).cloned() else {
            self.note(format!("Creating secret {}", spec.name));
            self.create_secret(spec)?;
            return Ok(());
        };
        let turns = known.spec.driver.is_none() && is_turned(&spec.data, &known.spec.data);
        let moves = other_place(&known.spec, spec);
        let expiry = expiry::anew(spec.expiry.as_ref(), said, known.spec.expiry.as_ref());
        let labels = SecretSpec {
            data: match turns {
                true => Vec::new(),
                false => spec.data.clone(),
            },
            expiry: expiry.clone(),
            driver: spec.driver.clone(),
            ..spec.clone()
        };
        if let Some(changes) = moves {
            self.note(format!("Updating secret {}", spec.name));
            let anew = VersionChange::Anew(changes);
            let id = PayloadId::Secret(known.id.clone());
            // Before its labels are others: they are options of the version that it has.
            self.turn_version(&id, &anew, expiry.as_ref())?;
        }
        let labels = SecretSpec {
            driver: self.driver_of(&known.id, labels.driver),
            ..labels
        };
        self.update_secret(&known.id, None, &labels)?;
        if turns {
            self.note(format!("Updating secret {}", spec.name));
            let next = VersionChange::Next(spec.data.clone());
            let id = PayloadId::Secret(known.id.clone());
            self.turn_version(&id, &next, expiry.as_ref())?;
        }
        Ok(())
    }

    /// The driver that a secret has, where it is the one that is wanted: its options may be said by labels
    /// as well.
    fn driver_of(&self, id: &SecretId, wanted: Option<Driver>) -> Option<Driver> {
        let present = self.tx.find::<Secret>(id.as_str()).ok();
        let present = present.and_then(|secret| secret.spec.driver.clone());
        let name = |driver: &Option<Driver>| driver.as_ref().map(|driver| driver.name.clone());
        match name(&present) == name(&wanted) {
            true => present,
            false => wanted,
        }
    }

    /// As for secrets.
    fn bring_config(&mut self, spec: &ConfigSpec) -> Done {
        let Some(known) = self.tx.by_name::<Config>(&spec.name).cloned() else {
            self.note(format!("Creating config {}", spec.name));
            self.create_config(spec)?;
            return Ok(());
        };
        let turns = is_turned(&spec.data, &known.spec.data);
        let labels = ConfigSpec {
            data: match turns {
                true => Vec::new(),
                false => spec.data.clone(),
            },
            ..spec.clone()
        };
        self.update_config(&known.id, None, &labels)?;
        if turns {
            self.note(format!("Updating config {}", spec.name));
            let next = VersionChange::Next(spec.data.clone());
            self.turn_version(&PayloadId::Config(known.id.clone()), &next, None)?;
        }
        Ok(())
    }

    /// Refuses a deploy of what was planned for another state of the stack.
    pub(super) fn check_basis(&self, name: &str, basis: Option<&str>) -> Done {
        let now = stack_plan::basis(self.tx.view(), name);
        match basis {
            Some(basis) if basis != now => Err(ControlError::new(
                Kind::Conflict,
                format!("stack {name} has changed since it was planned: plan it again"),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn remove_stack(&mut self, name: &str) -> Done {
        let found = Objects::of(self.tx.view(), name);
        let stack = self.tx.by_name::<Stack>(name).map(|stack| stack.id.clone());
        if found.is_empty() && stack.is_none() {
            return Err(ControlError::not_found(format!(
                "Nothing found in stack: {name}"
            )));
        }
        for (id, name) in found.services {
            self.note(format!("Removing service {name}"));
            self.remove_service(&id)?;
        }
        for (id, name) in found.secrets {
            self.note(format!("Removing secret {name}"));
            self.remove_secret(&id)?;
        }
        for (id, name) in found.configs {
            self.note(format!("Removing config {name}"));
            self.remove_config(&id)?;
        }
        for (id, name) in found.networks {
            self.note(format!("Removing network {name}"));
            self.remove_network(&id)?;
        }
        if let Some(id) = stack {
            self.tx.remove::<Stack>(&id)?;
        }
        Ok(())
    }

    /// `before` is what was there before its secrets and configs had their next versions: it has them
    /// by the same step.
    fn deploy_service(&mut self, spec: &ServiceSpec, before: &Snapshot) -> Done {
        let Some(known) = self.tx.by_name::<Service>(&spec.name) else {
            self.create_service(spec)?;
            self.note(format!("Creating service {}", spec.name));
            return Ok(());
        };
        let known = Service::clone(known);
        let mut spec = spec.clone();
        keep_what_the_file_does_not_say(&mut spec, &known.spec);
        keep_replicas(&mut spec, &known.spec);
        let spec = self.settled(&spec, Settle::AsIn(&known.spec))?;
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
        let had = before.by_name::<Service>(&spec.name);
        let known = had.map_or(known, |had| Service::clone(had));
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

    fn remember_stack(&mut self, mut spec: StackSpec, because: Because) -> Done {
        let versions = self.versions_of(&spec);
        for secret in &mut spec.secrets {
            secret.data.clear();
        }
        for service in &mut spec.services {
            service.task_template.pull_credentials.clear();
        }
        put_in_order(&mut spec);
        let mut stack = match self.tx.by_name::<Stack>(&spec.name) {
            Some(known) if known.spec == spec && known.secret_versions == versions => {
                let known = Stack::clone(known);
                return self.go_on(known, because);
            }
            Some(known) => Stack::clone(known),
            None => Stack {
                id: StackId::random(self.random),
                ..Stack::default()
            },
        };
        // What is left to say of the revision before: it was not the last word.
        if let Some(rollout) = &mut stack.rollout
            && because.state == RolloutState::RollingBack
        {
            rollout.state = because.ended;
        }
        let (text, rollout) = (because.text.clone(), because.rollout(self.now));
        stack.advance(spec, text, rollout);
        stack.secret_versions = versions;
        self.put(stack)
    }

    /// The same revision is asked for once more. One that has failed, or is to do something again, has
    /// another chance to come to its end.
    fn go_on(&mut self, mut stack: Stack, because: Because) -> Done {
        let rollout = stack.rollout.get_or_insert_default();
        let does_something = !self.tx.is_empty();
        if rollout.state == RolloutState::Deploying {
            rollout.wish = because.wish;
        } else if because.state != RolloutState::RollingBack
            && !rollout.state.is_active()
            && (does_something || !rollout.state.is_good())
        {
            *rollout = because.rollout(self.now);
        }
        self.put(stack)
    }

    /// What becomes of the users is told with them.
    fn turn_version(
        &mut self,
        object: &PayloadId,
        change: &VersionChange,
        expiry: Option<&Expiry>,
    ) -> Done {
        let told = self.response.actions.len();
        let id = std::mem::take(&mut self.response.id);
        self.change_version(object, change, None, expiry)?;
        self.response.actions.truncate(told);
        self.response.id = id;
        Ok(())
    }

    /// The versions of a stack's secrets that are not the first.
    fn versions_of(&self, spec: &StackSpec) -> BTreeMap<String, u64> {
        let all = spec.secrets.iter().filter_map(|secret| {
            let known = self.tx.by_name::<Secret>(&secret.name)?;
            Some((secret.name.clone(), known.number()))
        });
        all.filter(|(_, number)| *number > 1).collect()
    }

    fn note(&mut self, action: String) {
        self.response.actions.push(action);
    }
}

/// Why a stack is given another revision.
pub(super) struct Because {
    /// As the history tells it.
    text: String,
    state: RolloutState,
    message: String,
    wish: RolloutWish,
    /// How the revision before has ended, where that is why.
    ended: RolloutState,
}

impl Because {
    /// The rollout that begins.
    fn rollout(self, now: Timestamp) -> Rollout {
        Rollout {
            state: self.state,
            message: self.message,
            wish: self.wish,
            started_at: now,
            ended_at: None,
        }
    }

    /// Somebody has asked for it.
    pub(super) fn asked(text: String, wish: RolloutWish) -> Self {
        Self {
            text,
            state: RolloutState::Deploying,
            message: String::new(),
            wish,
            ended: RolloutState::Deploying,
        }
    }
}

/// The expiry that the present revision of a stack has for a secret.
fn said_expiry<'a>(before: &'a Snapshot, stack: &str, secret: &str) -> Option<&'a Expiry> {
    let mut secrets = before.by_name::<Stack>(stack)?.spec.secrets.iter();
    let said = secrets.find(|one| one.name == secret)?;
    said.expiry.as_ref()
}

/// Whether a file has other bytes than what is there; a revision of the past has none of a secret's.
fn is_turned(wanted: &[u8], present: &[u8]) -> bool {
    !wanted.is_empty() && wanted != present
}

/// The changes of a driver's options by which a file says that the same store has the bytes elsewhere.
fn other_place(had: &SecretSpec, wanted: &SecretSpec) -> Option<BTreeMap<String, String>> {
    let (had_driver, driver) = had.driver.as_ref().zip(wanted.driver.as_ref())?;
    let stays = had.origin() == wanted.origin() && had.origin_with(&wanted.labels) == had.origin();
    if had_driver.name != driver.name || stays {
        return None;
    }
    let gone = had_driver.options.keys();
    let mut changes: BTreeMap<_, _> = gone.map(|key| (key.clone(), String::new())).collect();
    changes.extend(driver.options.clone());
    Some(changes)
}

/// Refuses services that wait for what is not in the stack, or for each other.
fn check_dependencies(wanted: &StackSpec) -> Done {
    let names: BTreeSet<&str> = wanted
        .services
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    for (name, on) in &wanted.depends_on {
        let all = [name].into_iter().chain(on.iter().map(|one| &one.service));
        for one in all {
            if !names.contains(one.as_str()) {
                return Err(ControlError::invalid(match one == name {
                    true => format!("depends_on: stack {} has no service {name}", wanted.name),
                    false => format!("service {name} depends on undefined service {one}"),
                }));
            }
        }
    }
    let edges = wanted.depends_on.iter();
    let edges = edges.map(|(name, on)| {
        let on = on.iter().map(|one| one.service.as_str()).collect();
        (name.as_str(), on)
    });
    match dependency::circle(&edges.collect()) {
        None => Ok(()),
        Some(circle) => Err(ControlError::invalid(format!(
            "dependency cycle detected: {}",
            circle.join(" -> ")
        ))),
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
    if let (Some(wanted), Some(known)) = (
        &mut template.container_spec,
        &known.task_template.container_spec,
    ) && in_order(&wanted.env) == in_order(&known.env)
    {
        wanted.env.clone_from(&known.env);
    }
    let resolved = template.image().contains('@');
    if let Some(container) = &mut template.container_spec
        && same_image
        && !resolved
    {
        container.image = known.task_template.image().to_owned();
    }
    keep_platforms(template, &known.task_template);
}

/// Replicas that follow what tasks use are not the file's: it says between which numbers they are.
fn keep_replicas(spec: &mut ServiceSpec, known: &ServiceSpec) {
    let both = spec.is_autoscaled() && known.is_autoscaled();
    if let (ServiceMode::Replicated(wanted), ServiceMode::Replicated(present)) =
        (&mut spec.mode, &known.mode)
        && both
    {
        wanted.replicas = present.replicas;
    }
}
