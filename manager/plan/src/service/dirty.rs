//! Whether a task still is what its service asks for.
//!
//! Specs are compared by meaning: an absent block equals one full of defaults, and nothing depends
//! on the order of maps. What must restart tasks and what must not is Swarm's (labels, replicas,
//! update settings, placement that the node still meets, and fresh credentials do not).

use skep_model::difference::differences;
use skep_model::disconnect::OnDisconnect;
use skep_model::payload::{Pin, PinnedFile};
use skep_model::placement::Placement;
use skep_model::service::EndpointSpec;
use skep_model::task::{NetworkAttachmentConfig, RestartPolicy};
use skep_model::{
    Constraint, ContainerSpec, Nanos, Node, PortConfig, PublishMode, Service, Task, TaskSpec,
    TaskState,
};

/// Whether `task` has to be replaced to match its service. `node` is where it runs; a task that
/// still waits for one waits for the wrong thing when the placement has changed.
pub fn is_dirty(task: &Task, service: &Service, node: Option<&Node>) -> bool {
    if service.moving.contains(&task.id) {
        return true;
    }
    if OnDisconnect::of(&task.labels) != OnDisconnect::of(&service.spec.labels) {
        return true;
    }
    if task.spec_version == service.spec_version {
        return false;
    }
    let wanted = &service.spec.task_template;
    if !same_template(&task.spec, wanted, task.status.state >= TaskState::Ready) {
        return true;
    }
    if beyond(task, wanted).next().is_some() {
        return true;
    }
    if endpoint_changed(task, service) {
        return true;
    }
    placement(&task.spec) != placement(wanted) && is_out_of_place(task, wanted, node)
}

/// What a task was given in place that its service does not take for its own: it has gone back since. Files
/// never go back in a running task.
fn beyond<'a>(
    task: &'a Task,
    wanted: &'a TaskSpec,
) -> impl Iterator<Item = (u64, PinnedFile<'a>)> + 'a {
    let wanted = wanted.container().into_iter();
    let wanted = wanted.flat_map(|container| container.payloads());
    wanted.filter_map(|one| {
        let mut orders = task.in_place.iter();
        let order = orders.find(|order| order.object == one.object.as_str())?;
        let accepted = one.pin.accepts(&Pin::to(order.number));
        // One that is older than the spec's was given before that spec.
        (!accepted && order.number > one.pin.number()).then_some((order.number, one))
    })
}

/// Whether a task whose placement has changed cannot stay. One that waits does not for what it is
/// to wait for now, also where it was made for a node.
fn is_out_of_place(task: &Task, wanted: &TaskSpec, node: Option<&Node>) -> bool {
    let waits = task.status.state < TaskState::Assigned;
    waits || node.is_none_or(|node| !meets_constraints(wanted, node))
}

/// Why a task that is outdated is, one difference each. Nothing for one that is not.
pub fn reasons(task: &Task, service: &Service, node: Option<&Node>) -> Vec<String> {
    if !is_dirty(task, service, node) {
        return Vec::new();
    }
    if service.moving.contains(&task.id) {
        return vec!["another node has fewer of the service's tasks".to_owned()];
    }
    let wanted = &service.spec.task_template;
    let containers = task.spec.container().zip(wanted.container());
    let is_accepted = containers.is_some_and(|(had, wanted)| wanted.accepts_versions_of(had));
    // As the comparison sees them: what makes no task outdated is left out.
    let compared = |spec: &TaskSpec| {
        let mut networks = spec.networks.clone();
        networks.sort_by(|a, b| a.target.cmp(&b.target));
        TaskSpec {
            placement: None,
            pull_credentials: String::new(),
            restart_policy: Some(restart(spec)),
            runtime: runtime(spec).to_owned(),
            log_driver: wanted.log_driver.as_ref().and(spec.log_driver.clone()),
            networks,
            container_spec: spec.container().map(|container| match is_accepted {
                true => container.without_versions(),
                false => container.clone(),
            }),
            ..spec.clone()
        }
    };
    let mut reasons = differences(&compared(&task.spec), &compared(wanted));
    if task.status.state < TaskState::Ready && task.spec.pull_credentials != wanted.pull_credentials
    {
        reasons.push("registry credentials".to_owned());
    }
    if OnDisconnect::of(&task.labels) != OnDisconnect::of(&service.spec.labels) {
        reasons.push("what becomes of it on a node that is cut off".to_owned());
    }
    if endpoint_changed(task, service) {
        let had = task.endpoint.as_ref().map(|endpoint| &endpoint.spec);
        let endpoint = service.spec.endpoint_spec.clone().unwrap_or_default();
        reasons.extend(differences(&had.cloned().unwrap_or_default(), &endpoint));
    }
    if placement(&task.spec) != placement(wanted) && is_out_of_place(task, wanted, node) {
        reasons.push("its node does not meet the constraints".to_owned());
    }
    for (number, one) in beyond(task, wanted) {
        reasons.push(format!("it was given version {number} of {}", one.name));
    }
    if reasons.is_empty() {
        reasons.push("where its ports answer".to_owned());
    }
    reasons
}

/// Whether `node` meets every constraint of a task spec. A constraint that cannot be read is met
/// by no node.
pub fn meets_constraints(spec: &TaskSpec, node: &Node) -> bool {
    spec.placement.as_ref().is_none_or(|placement| {
        placement.constraints.iter().all(|text| {
            text.parse::<Constraint>()
                .is_ok_and(|constraint| constraint.matches(node))
        })
    })
}

/// Whether a job of this spec has nothing to do that one of the other has not done. Fresh
/// credentials are nothing to do.
pub fn runs_the_same(had: &TaskSpec, wanted: &TaskSpec) -> bool {
    same_template(had, wanted, true) && placement(had) == placement(wanted)
}

fn same_template(had: &TaskSpec, wanted: &TaskSpec, pulled: bool) -> bool {
    same_container(had.container(), wanted.container())
        && had.resources.clone().unwrap_or_default() == wanted.resources.clone().unwrap_or_default()
        && restart(had) == restart(wanted)
        && same_networks(&had.networks, &wanted.networks)
        // The task's copy holds the cluster's default, which may change without restarting anything.
        && wanted
            .log_driver
            .as_ref()
            .is_none_or(|driver| had.log_driver.as_ref() == Some(driver))
        && had.force_update == wanted.force_update
        && had.drain_period() == wanted.drain_period()
        && runtime(had) == runtime(wanted)
        && (pulled || had.pull_credentials == wanted.pull_credentials)
}

/// Versions of secrets and configs may be others where the service leaves such tasks alone.
fn same_container(had: Option<&ContainerSpec>, wanted: Option<&ContainerSpec>) -> bool {
    match (had, wanted) {
        _ if had == wanted => true,
        (Some(had), Some(wanted)) => {
            had.without_versions() == wanted.without_versions() && wanted.accepts_versions_of(had)
        }
        _ => false,
    }
}

fn placement(spec: &TaskSpec) -> Placement {
    spec.placement.clone().unwrap_or_default()
}

fn runtime(spec: &TaskSpec) -> &str {
    match spec.runtime.as_str() {
        "" => "container",
        other => other,
    }
}

fn restart(spec: &TaskSpec) -> RestartPolicy {
    let policy = spec.restart_policy.clone().unwrap_or_default();
    RestartPolicy {
        condition: policy.condition,
        delay: Some(policy.delay.unwrap_or(super::restart::DELAY_DEFAULT)),
        max_attempts: Some(policy.max_attempts.unwrap_or(0)),
        window: Some(policy.window.unwrap_or(Nanos(0))),
    }
}

fn same_networks(had: &[NetworkAttachmentConfig], wanted: &[NetworkAttachmentConfig]) -> bool {
    let sorted = |networks: &[NetworkAttachmentConfig]| {
        let mut networks = networks.to_vec();
        for network in &mut networks {
            network.aliases.sort();
        }
        networks.sort_by(|a, b| a.target.cmp(&b.target));
        networks
    };
    had == wanted || sorted(had) == sorted(wanted)
}

fn endpoint_changed(task: &Task, service: &Service) -> bool {
    let Some(had) = &task.endpoint else {
        return false;
    };
    let sorted = |endpoint: &EndpointSpec| {
        let mut endpoint = endpoint.clone();
        endpoint.ports.sort();
        endpoint
    };
    let wanted = service.spec.endpoint_spec.clone().unwrap_or_default();
    // Labels of the service may say where a port of its tasks' nodes answers.
    let hosts = |ports: &[PortConfig]| {
        let ports = ports.iter();
        let mut hosts: Vec<_> = ports
            .filter(|port| port.publish_mode == PublishMode::Host)
            .map(|port| (port.target_port, port.protocol, port.host().ok()))
            .collect();
        hosts.sort();
        hosts
    };
    sorted(&had.spec) != sorted(&wanted)
        || service
            .spec
            .published()
            .is_ok_and(|ports| hosts(&ports) != hosts(&had.ports))
}
