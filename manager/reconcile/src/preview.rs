//! What an update of a service would do: the same decisions as for the update, and nothing is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_model::difference::differences;
use skep_model::preview::{Fate, ServicePreview, TaskPreview};
use skep_model::{
    ControlError, ControlRequest, Node, Random, SecretId, Service, ServiceSpec, Task, TaskId,
    TaskState, Timestamp,
};
use skep_plan::service::{dirty, update_config};
use skep_plan::{Action, NewTask, NodeTable, ServiceView, plan_service};
use skep_store::Snapshot;

use crate::control::suppose;

/// What `request`, an update of a service, would do.
///
/// # Errors
/// Those that the update itself would have.
pub fn preview(
    request: &ControlRequest,
    snapshot: &Snapshot,
    now: Timestamp,
    random: &mut dyn Random,
) -> Result<ServicePreview, ControlError> {
    let (ControlRequest::UpdateService { id, .. } | ControlRequest::RebalanceService { id, .. }) =
        request
    else {
        return Err(ControlError::invalid(
            "only updates of services can be tried",
        ));
    };
    let (after, response) = suppose(request, snapshot, now, random)?;
    let missing = || ControlError::not_found(format!("service {id} not found"));
    let before = snapshot
        .find::<Service>(id.as_str())
        .map_err(|_| missing())?;
    let service = after.service(&before.id).ok_or_else(missing)?;
    let preview = of_service(Some(&before.spec), service, &after, now);
    Ok(ServicePreview {
        warnings: response.warnings,
        ..preview
    })
}

/// What a service would do whose spec was `had`, in the state that it is in `after`.
pub(crate) fn of_service(
    had: Option<&ServiceSpec>,
    service: &Service,
    after: &Snapshot,
    now: Timestamp,
) -> ServicePreview {
    let tasks: Vec<Arc<Task>> = after.tasks_of_service(&service.id).cloned().collect();
    let table = table(after);
    let plan = plan_service(&ServiceView {
        service,
        tasks: &tasks,
        nodes: &table,
        now,
        steady_since: Timestamp::ZERO,
        budget: usize::MAX,
        // What comes after the waiting is what is asked about.
        waits: &[],
        registry_login_at: None,
    });
    let mut ended = BTreeMap::new();
    let mut made = Vec::new();
    for action in plan.actions {
        match action {
            Action::Raise { task, to } if to > TaskState::Running => {
                ended.insert(task, to);
            }
            Action::Raise { .. } => (),
            Action::Create(task) => made.push(task),
        }
    }
    let mut previews: Vec<TaskPreview> = tasks
        .iter()
        .filter(|task| task.is_live())
        .map(|task| of_task(task, service, table.node(&task.node_id), &ended))
        .collect();
    previews.extend(new_tasks(service, &made, &previews));
    let config = update_config(service);
    ServicePreview {
        changes: had
            .map(|had| differences(&public(had), &public(&service.spec)))
            .unwrap_or_default(),
        tasks: previews,
        parallelism: config.parallelism,
        order: config.order,
        warnings: Vec::new(),
    }
}

/// A spec without what nobody is to read.
fn public(spec: &ServiceSpec) -> ServiceSpec {
    let mut spec = spec.clone();
    spec.task_template.pull_credentials.clear();
    spec
}

/// Every node of a state with what runs there.
pub(crate) fn table(view: &Snapshot) -> NodeTable {
    let mut table = NodeTable::new();
    let networks = view
        .networks()
        .filter(|network| network.spec.is_encrypted());
    table.set_encrypted(networks.map(|network| network.id.clone()));
    table.set_outside(outside(view));
    for node in view.nodes() {
        table.put_node(node);
    }
    for task in view.tasks() {
        table.task_changed(None, Some(task));
    }
    table
}

/// Secrets whose bytes are in other stores.
pub(crate) fn outside(view: &Snapshot) -> impl Iterator<Item = SecretId> {
    let secrets = view.secrets().filter(|secret| secret.spec.driver.is_some());
    secrets.map(|secret| secret.id.clone())
}

fn of_task(
    task: &Task,
    service: &Service,
    node: Option<&Node>,
    ended: &BTreeMap<TaskId, TaskState>,
) -> TaskPreview {
    let current = service.job_status.as_ref().map(|job| job.job_iteration);
    let (fate, reasons) = match ended.get(&task.id) {
        Some(_) if task.job_iteration != current => {
            (Fate::Stop, vec!["the job begins anew".to_owned()])
        }
        Some(TaskState::Remove) => (Fate::Stop, vec!["one too many".to_owned()]),
        Some(_) => (Fate::Stop, vec!["its node is not to run it".to_owned()]),
        // Jobs are not updated: their tasks end by themselves.
        None if service.spec.mode.is_job() => (Fate::Keep, Vec::new()),
        None => match dirty::reasons(task, service, node) {
            reasons if reasons.is_empty() => (Fate::Keep, reasons),
            reasons => (Fate::Replace, reasons),
        },
    };
    TaskPreview {
        id: task.id.clone(),
        name: task.name(),
        node_id: task.node_id.clone(),
        fate,
        reasons,
    }
}

/// Tasks for places that nothing fills; those that take another one's place are told with it.
fn new_tasks(service: &Service, made: &[NewTask], known: &[TaskPreview]) -> Vec<TaskPreview> {
    let replaced: BTreeSet<&str> = known
        .iter()
        .filter(|task| task.fate == Fate::Replace)
        .map(|task| task.name.as_str())
        .collect();
    let named = made.iter().map(|new| {
        let node_id = new.node.clone().unwrap_or_default();
        let place = match new.slot {
            0 => node_id.to_string(),
            slot => slot.to_string(),
        };
        TaskPreview {
            name: format!("{}.{place}", service.spec.name),
            node_id,
            fate: Fate::Start,
            ..TaskPreview::default()
        }
    });
    named
        .filter(|task| !replaced.contains(task.name.as_str()))
        .collect()
}
