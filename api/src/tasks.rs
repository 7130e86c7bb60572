//! `/tasks`

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use skep_engine::Filters;
use skep_model::mount::Driver;
use skep_model::network::IpamOptions;
use skep_model::{ContainerSpec, Nanos, Network, Service, Task, TaskSpec, TaskState};
use skep_store::{FindError, Snapshot};

use crate::cluster_network::VNI_OPTION;
use crate::defaults;
use crate::nodes::{self, labels_match};
use crate::redact;
use crate::reply;
use crate::services;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

const KEYS: [&str; 9] = [
    "id",
    "name",
    "node",
    "service",
    "label",
    "desired-state",
    "runtime",
    "up-to-date",
    "_up-to-date",
];

/// A task in the API's shape: its attachments carry whole networks.
#[derive(Serialize)]
struct TaskView {
    #[serde(flatten)]
    task: Task,
    #[serde(rename = "NetworksAttachments", skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<AttachmentView>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AttachmentView {
    network: NetworkView,
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
}

/// A network as swarm objects show it, which is not how `/networks` does.
#[derive(Serialize)]
struct NetworkView {
    #[serde(flatten)]
    network: Arc<Network>,
    #[serde(rename = "DriverState")]
    driver_state: Driver,
    #[serde(rename = "IPAMOptions")]
    ipam_options: IpamOptions,
}

impl TaskView {
    fn of(snapshot: &Snapshot, task: &Task) -> Self {
        let mut public = redact::task(task);
        let attachments = std::mem::take(&mut public.attachments)
            .into_iter()
            .filter_map(|attachment| {
                let network = snapshot.network(&attachment.network_id)?;
                Some(AttachmentView {
                    network: NetworkView::of(network),
                    addresses: attachment.addresses,
                    aliases: attachment.aliases,
                })
            })
            .collect();
        Self {
            task: public,
            attachments,
        }
    }
}

impl NetworkView {
    fn of(network: &Arc<Network>) -> Self {
        let driver = |name: &str, options| Driver {
            name: name.to_owned(),
            options,
        };
        Self {
            driver_state: driver(
                network.driver_name(),
                BTreeMap::from([(VNI_OPTION.to_owned(), network.vni.to_string())]),
            ),
            ipam_options: IpamOptions {
                driver: Some(driver("default", BTreeMap::new())),
                configs: network.ipam.clone(),
            },
            network: network.clone(),
        }
    }
}

/// `GET /tasks`
pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.filters_of(&KEYS)?;
    let snapshot = call.snapshot().await?;
    let wanted = Wanted::of(&call, &snapshot, &filters)?;
    // Clients that watch a job's progress ask with this filter, and count its slots from 0: one
    // that is called 1 would never be seen to end. To everybody else slots are as services' are.
    let watches = filters.flag("_up-to-date")?.is_some();
    let views: Vec<TaskView> = wanted
        .candidates(&snapshot)
        .into_iter()
        .filter(|task| wanted.matches(&snapshot, task))
        .map(|task| {
            let mut view = TaskView::of(&snapshot, task);
            if watches && task.job_iteration.is_some() {
                view.task.slot = task.slot.saturating_sub(1);
            }
            view
        })
        .collect();
    reply::json(&views)
}

/// Filters with names resolved.
struct Wanted<'a> {
    filters: &'a Filters,
    services: Vec<Arc<Service>>,
    nodes: Vec<Arc<skep_model::Node>>,
    desired: Vec<TaskState>,
    up_to_date: Option<bool>,
}

impl<'a> Wanted<'a> {
    fn of(call: &Call, snapshot: &Snapshot, filters: &'a Filters) -> Outcome<Self> {
        let services = filters
            .values("service")
            .map(|given| services::find(snapshot, given))
            .collect::<Outcome<_>>()?;
        let nodes = filters
            .values("node")
            .map(|given| nodes::find(call, snapshot, given))
            .collect::<Outcome<_>>()?;
        let desired = filters
            .values("desired-state")
            .map(|given| {
                given.parse().map_err(|_| {
                    ApiError::invalid(format!("Invalid desired-state filter: '{given}'"))
                })
            })
            .collect::<Outcome<_>>()?;
        let up_to_date = match filters.flag("up-to-date")? {
            None => filters.flag("_up-to-date")?,
            given => given,
        };
        Ok(Self {
            filters,
            services,
            nodes,
            desired,
            up_to_date,
        })
    }

    /// As few tasks as an index gives.
    fn candidates<'s>(&'s self, snapshot: &'s Snapshot) -> Vec<&'s Arc<Task>> {
        match (self.services.as_slice(), self.nodes.as_slice()) {
            ([], []) => snapshot.tasks().collect(),
            ([], nodes) => nodes
                .iter()
                .flat_map(|node| snapshot.tasks_on_node(&node.id))
                .collect(),
            (services, _) => services
                .iter()
                .flat_map(|service| snapshot.tasks_of_service(&service.id))
                .collect(),
        }
    }

    fn matches(&self, snapshot: &Snapshot, task: &Task) -> bool {
        let filters = self.filters;
        let on_node =
            self.nodes.is_empty() || self.nodes.iter().any(|node| node.id == task.node_id);
        let desired =
            self.desired.is_empty() || self.desired.contains(&redact::desired_state(task));
        let current = self
            .up_to_date
            .is_none_or(|wanted| wanted == is_up_to_date(snapshot, task));
        on_node
            && desired
            && current
            && filters.any("id", |id| task.id.as_str().starts_with(id))
            && filters.any("name", |name| {
                let (name, own) = (name.to_lowercase(), task.name().to_lowercase());
                own.starts_with(&name) || task.container_name().to_lowercase() == name
            })
            && filters.any("runtime", |wanted| wanted == "container")
            && labels_match(filters, "label", &task.labels)
    }
}

/// Whether a task runs what its service now asks for. A change of placement or credentials alone
/// makes no task outdated, nor does a number of replicas.
fn is_up_to_date(snapshot: &Snapshot, task: &Task) -> bool {
    let Some(service) = snapshot.service(&task.service_id) else {
        return false;
    };
    if task.spec_version == service.spec_version {
        return true;
    }
    if service.spec.mode.is_job() {
        let now = service.job_status.as_ref().map(|job| job.job_iteration);
        return task.job_iteration == now;
    }
    let wanted = &service.spec.task_template;
    let containers = task.spec.container().zip(wanted.container());
    let is_accepted = containers.is_some_and(|(had, wanted)| wanted.accepts_versions_of(had));
    let bare = |spec: &TaskSpec| {
        let mut bare = comparable(spec, wanted);
        if is_accepted {
            bare.container_spec = bare.container().map(ContainerSpec::without_versions);
        }
        bare
    };
    let endpoint = service.spec.endpoint_spec.clone().unwrap_or_default();
    let same_endpoint = task
        .endpoint
        .as_ref()
        .is_none_or(|given| given.spec == endpoint);
    bare(&task.spec) == bare(wanted) && same_endpoint
}

/// A spec with its defaults spoken out, and without what makes no task outdated.
fn comparable(spec: &TaskSpec, wanted: &TaskSpec) -> TaskSpec {
    let mut restart = spec.restart_policy.clone().unwrap_or_default();
    restart.delay.get_or_insert(defaults::RESTART_DELAY);
    restart.max_attempts.get_or_insert(0);
    restart.window.get_or_insert(Nanos(0));
    TaskSpec {
        placement: None,
        pull_credentials: String::new(),
        resources: Some(spec.resources.clone().unwrap_or_default()),
        restart_policy: Some(restart),
        // A task's copy holds the cluster's default where the service names no driver.
        log_driver: wanted
            .log_driver
            .as_ref()
            .and_then(|_| spec.log_driver.clone()),
        runtime: spec.runtime.replace("container", ""),
        ..spec.clone()
    }
}

/// A task by id, container name, or start of an id; by `web.3` if that slot has one task only.
pub(crate) fn find(snapshot: &Snapshot, given: &str) -> Outcome<Arc<Task>> {
    match snapshot.find::<Task>(given) {
        Ok(task) => Ok(task.clone()),
        Err(ambiguous @ FindError::Ambiguous { .. }) => Err(ambiguous.into()),
        Err(missing) => {
            let named: Vec<&Arc<Task>> = snapshot
                .tasks()
                .filter(|task| task.name() == given || task.container_name() == given)
                .collect();
            match named.as_slice() {
                [] => Err(missing.into()),
                [task] => Ok(Arc::clone(task)),
                several => Err(FindError::Ambiguous {
                    kind: "task",
                    given: given.to_owned(),
                    matches: several.len(),
                }
                .into()),
            }
        }
    }
}

/// `GET /tasks/{id}`
pub(crate) async fn inspect(call: Call, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    let task = find(&snapshot, &given)?;
    reply::json(&TaskView::of(&snapshot, &task))
}
