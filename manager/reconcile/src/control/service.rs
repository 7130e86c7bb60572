//! Services: create, update, roll back, remove.

use skep_model::control::RegistryAuthFrom;
use skep_model::service::{UpdateState, UpdateStatus};
use skep_model::stack::STACK_LABEL;
use skep_model::validate::check_service;
use skep_model::volume_home::{VOLUME_PLACEMENT_LABEL, is_sticky};
use skep_model::{
    Config, ControlError, Kind, Network, NetworkId, NodeId, PublishMode, Secret, Service,
    ServiceId, ServiceMode, ServiceSpec, TaskSpec, Version,
};
use skep_plan::allocate::ports::PortsInUse;
use skep_plan::service::dirty::runs_the_same;
use skep_plan::service::{revision, run};
use skep_store::Key;

use super::version::Settle;
use super::{Done, Door, check_version, not_found, variable};
use crate::allocate::NODE_LOCAL;
use crate::rebalance;

impl Door<'_> {
    pub(super) fn create_service(&mut self, spec: &ServiceSpec) -> Result<ServiceId, ControlError> {
        let spec = self.settled(spec, Settle::Present)?;
        let id = ServiceId::random(self.random);
        self.check_ports(&id, &spec)?;
        let (job_status, schedule) = run::first(&spec, self.now);
        let service = Service {
            id: id.clone(),
            stack: spec.labels.get(STACK_LABEL).cloned().unwrap_or_default(),
            job_status,
            schedule,
            spec_version: Version::at(1),
            revision: revision::first(self.now),
            spec,
            ..Service::default()
        };
        self.put(service)?;
        Ok(id)
    }

    pub(super) fn update_service(
        &mut self,
        id: &ServiceId,
        version: Version,
        spec: &ServiceSpec,
        credentials: RegistryAuthFrom,
    ) -> Done {
        let service = self.service(id)?;
        check_version(version, service.version)?;
        let mut spec = self.settled(spec, Settle::AsIn(&service.spec))?;
        if spec.name != service.spec.name {
            return unsupported("renaming services is not supported");
        }
        if std::mem::discriminant(&spec.mode) != std::mem::discriminant(&service.spec.mode) {
            return unsupported("service mode change is not allowed");
        }
        if spec.task_template.pull_credentials.is_empty() {
            let from = match credentials {
                RegistryAuthFrom::Spec => Some(&service.spec),
                RegistryAuthFrom::PreviousSpec => service.previous_spec.as_deref(),
            };
            if let Some(from) = from {
                spec.task_template
                    .pull_credentials
                    .clone_from(&from.task_template.pull_credentials);
            }
        }
        keep_platforms(&mut spec.task_template, &service.spec.task_template);
        self.check_ports(&service.id, &spec)?;
        self.put_spec(service, spec)
    }

    /// Gives a service a checked spec: it becomes the present one, and the present the previous.
    pub(super) fn put_spec(&mut self, service: Service, spec: ServiceSpec) -> Done {
        self.put_spec_because(service, spec, "updated")
    }

    /// The same, and says what for.
    pub(super) fn put_spec_because(
        &mut self,
        mut service: Service,
        spec: ServiceSpec,
        because: &str,
    ) -> Done {
        let forced = spec.task_template.force_update != service.spec.task_template.force_update;
        self.turn_to(&mut service, spec, because)?;
        service.update_status = None;
        if forced && service.spec.is_scheduled() {
            self.begin_run(&mut service)?;
        }
        self.put(service)
    }

    /// Only a job that is to run something else, or so many times, runs again. One with a schedule
    /// waits for its time.
    fn turn_to(&mut self, service: &mut Service, spec: ServiceSpec, because: &str) -> Done {
        let had = service.spec.clone();
        let runs_again = counted(&had.mode) != counted(&spec.mode)
            || !runs_the_same(&had.task_template, &spec.task_template);
        revision::turn(service, spec, because, self.now);
        if !is_sticky(&service.spec.labels) {
            self.warn_of_homes(service);
        }
        service.stack = service
            .spec
            .labels
            .get(STACK_LABEL)
            .cloned()
            .unwrap_or_default();
        run::turned(service, &had, self.now);
        service.autoscale = service
            .autoscale
            .take()
            .filter(|_| service.spec.is_autoscaled());
        match service.spec.mode.is_job() && runs_again && !service.spec.is_scheduled() {
            true => self.begin_run(service),
            false => Ok(()),
        }
    }

    fn begin_run(&mut self, service: &mut Service) -> Done {
        let tasks: Vec<_> = self.tx.tasks_of_service(&service.id).cloned().collect();
        run::begin_now(service, &tasks, self.now).map_err(|error| {
            let kind = match error {
                run::NoRun::NotAJob(_) => Kind::Invalid,
                run::NoRun::Busy { .. } | run::NoRun::TooMany(_) => Kind::FailedPrecondition,
            };
            ControlError::new(kind, error.to_string())
        })
    }

    /// Begins an iteration of a job although nothing else asks for it.
    pub(super) fn run_job(&mut self, id: &ServiceId) -> Done {
        let mut service = self.service(id)?;
        self.begin_run(&mut service)?;
        self.put(service)
    }

    /// Goes back to a revision. Without one the present and the previous spec are swapped, so that
    /// a second rollback goes forward again.
    pub(super) fn roll_back_service(
        &mut self,
        id: &ServiceId,
        version: Version,
        to: Option<u64>,
    ) -> Done {
        let mut service = self.service(id)?;
        check_version(version, service.version)?;
        let refused = |message: String| ControlError::new(Kind::FailedPrecondition, message);
        let (spec, because) = match to {
            Some(number) => {
                let found = revision::target(&service, number);
                let (spec, number) = found.map_err(|error| refused(error.to_string()))?;
                (spec, format!("rolled back to {number}"))
            }
            None => {
                let previous = service.previous_spec.as_deref().ok_or_else(|| {
                    refused(format!("service {id} does not have a previous spec"))
                })?;
                (previous.clone(), "rolled back".to_owned())
            }
        };
        let spec = self.settled(&spec, Settle::AsItWas)?;
        self.check_ports(&service.id, &spec)?;
        self.turn_to(&mut service, spec, &because)?;
        let rolling = !service.spec.mode.is_job();
        service.update_status = rolling.then(|| UpdateStatus {
            state: UpdateState::RollbackStarted,
            started_at: Some(self.now),
            completed_at: None,
            message: "manually requested rollback".to_owned(),
        });
        self.put(service)
    }

    /// Has tasks replaced that would be better on other nodes.
    pub(super) fn rebalance_service(&mut self, id: &ServiceId, most: Option<u64>) -> Done {
        let service = self.service(id)?;
        let name = &service.spec.name;
        if !matches!(service.spec.mode, ServiceMode::Replicated(_)) {
            return Err(ControlError::invalid(format!(
                "service {name} is not replicated: its tasks are where they are meant to be"
            )));
        }
        if is_sticky(&service.spec.labels) {
            return Err(ControlError::invalid(format!(
                "tasks of service {name} stay with their volumes (label {VOLUME_PLACEMENT_LABEL})"
            )));
        }
        if !rebalance::is_idle(&service) {
            return Err(ControlError::new(
                Kind::FailedPrecondition,
                format!("service {name} is being updated, or its update has failed"),
            ));
        }
        let view = self.tx.view().clone();
        let table = crate::preview::table(&view);
        let tasks: Vec<_> = view.tasks_of_service(&service.id).cloned().collect();
        let most = most.map_or(usize::MAX, |most| {
            usize::try_from(most).unwrap_or(usize::MAX)
        });
        let Some((begun, moves)) = rebalance::begin(&service, &tasks, &table, most, self.now)
        else {
            return Ok(());
        };
        let host = |id: &NodeId| {
            let node = view.node(id);
            node.map_or_else(|| id.to_string(), |node| node.description.hostname.clone())
        };
        for one in &moves {
            let task = view
                .task(&one.task)
                .map_or_else(String::new, |task| task.name());
            let (from, to) = (host(&one.from), host(&one.to));
            self.response
                .actions
                .push(format!("{task}: {from} -> {to}"));
        }
        self.put(begun)
    }

    pub(super) fn remove_service(&mut self, id: &ServiceId) -> Done {
        let service = self.service(id)?;
        self.warn_of_homes(&service);
        self.tx.remove::<Service>(&service.id)?;
        Ok(())
    }

    pub(super) fn service(&self, id: &ServiceId) -> Result<Service, ControlError> {
        let found = self.tx.find::<Service>(id.as_str()).map_err(not_found)?;
        Ok(Service::clone(found))
    }

    /// The spec as it is stored: valid, with every reference found and turned into an id.
    pub(super) fn settled(
        &mut self,
        spec: &ServiceSpec,
        versions: Settle<'_>,
    ) -> Result<ServiceSpec, ControlError> {
        let mut spec = spec.clone();
        check_service(&spec)?;
        let legacy = std::mem::take(&mut spec.networks);
        if spec.task_template.networks.is_empty() {
            spec.task_template.networks = legacy;
        }
        for attachment in &mut spec.task_template.networks {
            if NODE_LOCAL.contains(&attachment.target.as_str()) {
                continue;
            }
            let network = self
                .tx
                .find::<Network>(&attachment.target)
                .map_err(not_found)?
                .clone();
            if network.spec.ingress {
                return Err(ControlError::invalid(format!(
                    "Service cannot be explicitly attached to the ingress network {:?}",
                    network.spec.name
                )));
            }
            attachment.target = network.id.to_string();
            self.tx.rely_on(Key::Network(network.id.clone()));
        }
        self.settle_files(&mut spec, versions)?;
        spec.mode = counted(&spec.mode);
        Ok(spec)
    }

    fn settle_files(&mut self, spec: &mut ServiceSpec, versions: Settle<'_>) -> Done {
        let Some(container) = &mut spec.task_template.container_spec else {
            return Ok(());
        };
        let mut missing = Vec::new();
        for reference in &mut container.secrets {
            let found = match reference.secret_id.is_empty() {
                true => self.tx.by_name::<Secret>(&reference.secret_name),
                false => self.tx.secret(&reference.secret_id),
            };
            match found.cloned() {
                Some(secret) => {
                    self.tx.rely_on(Key::Secret(secret.id.clone()));
                    reference.secret_id = secret.id.clone();
                    let target = reference.file.as_ref();
                    versions.version(&*secret, target, &mut reference.version)?;
                    variable::settle(&*secret, target, &mut reference.version)?;
                }
                None => missing.push(reference.secret_name.clone()),
            }
        }
        refuse_missing("secret", &missing)?;
        for reference in &mut container.configs {
            let found = match reference.config_id.is_empty() {
                true => self.tx.by_name::<Config>(&reference.config_name),
                false => self.tx.config(&reference.config_id),
            };
            match found.cloned() {
                Some(config) => {
                    self.tx.rely_on(Key::Config(config.id.clone()));
                    reference.config_id = config.id.clone();
                    let target = reference.file.as_ref();
                    versions.version(&*config, target, &mut reference.version)?;
                    variable::settle(&*config, target, &mut reference.version)?;
                }
                None => missing.push(reference.config_name.clone()),
            }
        }
        refuse_missing("config", &missing)
    }

    /// Refuses ports that another service holds or asks for.
    pub(super) fn check_ports(&self, id: &ServiceId, spec: &ServiceSpec) -> Done {
        if spec.ports().iter().all(|port| port.published_port == 0) {
            return Ok(());
        }
        let mut in_use = PortsInUse::default();
        for service in self.tx.services().filter(|service| service.id != *id) {
            in_use.add_wanted(service);
        }
        let published = spec.published().map_err(ControlError::invalid)?;
        for port in &published {
            in_use
                .check(id, port)
                .map_err(|error| ControlError::invalid(error.to_string()))?;
        }
        Ok(())
    }

    /// Refuses to take the ingress network away from services that publish through it.
    pub(super) fn ingress_user(&self) -> Option<ServiceId> {
        self.tx
            .services()
            .find(|service| {
                let ports = service.spec.ports().iter();
                ports
                    .chain(&service.endpoint.ports)
                    .any(|port| port.publish_mode == PublishMode::Ingress)
            })
            .map(|service| service.id.clone())
    }

    /// Services whose spec names this network, by id.
    pub(super) fn network_user(&self, id: &NetworkId) -> Option<ServiceId> {
        let mut users = self.tx.services_on_network(id);
        users.next().map(|service| service.id.clone())
    }
}

/// The same digest runs where it ran before: a client that did not ask the registry again, as with
/// `stack deploy --resolve-image never`, says nothing of that.
pub(super) fn keep_platforms(wanted: &mut TaskSpec, known: &TaskSpec) {
    let had = known.placement.as_ref();
    let had = had.map_or(&[][..], |placement| &placement.platforms);
    let silent = wanted
        .placement
        .as_ref()
        .is_none_or(|placement| placement.platforms.is_empty());
    let same = wanted.image() == known.image() && known.image().contains('@');
    if same && silent && !had.is_empty() {
        let placement = wanted.placement.get_or_insert_default();
        placement.platforms = had.to_vec();
    }
}

/// A mode with the numbers that it has where none are said.
pub(super) fn counted(mode: &ServiceMode) -> ServiceMode {
    let mut mode = mode.clone();
    match &mut mode {
        ServiceMode::Replicated(replicated) => replicated.replicas = Some(replicated.count()),
        ServiceMode::ReplicatedJob(job) => {
            let at_once = job.max_concurrent.unwrap_or(1);
            job.max_concurrent = Some(at_once);
            job.total_completions.get_or_insert(at_once);
        }
        ServiceMode::Global(_) | ServiceMode::GlobalJob(_) => (),
    }
    mode
}

fn refuse_missing(kind: &str, missing: &[String]) -> Done {
    match missing {
        [] => Ok(()),
        [one] => Err(ControlError::invalid(format!("{kind} not found: {one}"))),
        several => Err(ControlError::invalid(format!(
            "{kind}s not found: {}",
            several.join(", ")
        ))),
    }
}

fn unsupported(message: &str) -> Done {
    Err(ControlError::new(Kind::Unimplemented, message))
}
