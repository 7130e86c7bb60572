//! A service that is to be rebalanced by itself is spread evenly over nodes that came later, once all has been
//! quiet for long enough.

use std::collections::BTreeMap;

use skep_model::service::UpdateState;
use skep_model::{NodeId, PublishMode, Service, ServiceId, ServiceMode, TaskState};
use skep_reconcile::is_automatic;
use skep_store::{Change, Commit, Delta, Event, Object, Snapshot};

/// A node on which so many tasks of a service have failed is left out for minutes, longer than a run is quiet.
const FAILURES_MAX: usize = 5;

/// How many tasks of a service have failed on a node.
#[derive(Default)]
pub struct Failures(BTreeMap<(ServiceId, NodeId), usize>);

impl Failures {
    pub fn follow(&mut self, events: &[Event]) {
        for event in events {
            if let Delta::Updated {
                old: Object::Task(old),
                new: Object::Task(task),
            } = &event.change
                && !old.status.state.is_terminal()
                && matches!(
                    task.status.state,
                    TaskState::Failed | TaskState::Rejected | TaskState::Complete
                )
            {
                let key = (task.service_id.clone(), task.node_id.clone());
                *self.0.entry(key).or_default() += 1;
            }
        }
    }

    /// Whether a leader decides so only because it does not remember them: it moves tasks to where the
    /// one before it would not.
    pub fn explain(&self, commit: &Commit) -> bool {
        commit.changes.iter().any(|change| match change {
            Change::Put(Object::Service(service)) if !service.moving.is_empty() => {
                let mut failed = self.0.iter();
                failed.any(|((of, _), count)| *of == service.id && *count >= FAILURES_MAX)
            }
            _ => false,
        })
    }

    fn are_there(&self, service: &ServiceId, node: &NodeId) -> bool {
        let count = self.0.get(&(service.clone(), node.clone()));
        count.is_some_and(|count| *count >= FAILURES_MAX)
    }
}

pub(super) fn automatic_services_are(
    snapshot: &Snapshot,
    failures: &Failures,
) -> Result<(), String> {
    for service in snapshot.services().filter(|one| can_be(one)) {
        let taking = snapshot.nodes().filter(|node| node.takes_tasks());
        let mut counts: BTreeMap<_, usize> = taking.map(|node| (&node.id, 0)).collect();
        for task in snapshot.tasks_of_service(&service.id) {
            if let Some(count) = counts.get_mut(&task.node_id).filter(|_| task.serves()) {
                *count += 1;
            }
        }
        let most = counts.values().max().copied().unwrap_or_default();
        // Nobody is sent to where tasks have just failed.
        let welcome = counts
            .iter()
            .filter(|(node, _)| !failures.are_there(&service.id, node));
        let least = welcome.map(|(_, count)| *count).min().unwrap_or(most);
        if most > least + 1 {
            return Err(format!(
                "{} is not even: it has {:?} tasks on its nodes",
                service.spec.name,
                counts.values().collect::<Vec<_>>()
            ));
        }
    }
    Ok(())
}

/// Whether nothing else says where its tasks are, and nothing keeps them from being moved.
fn can_be(service: &Service) -> bool {
    let template = &service.spec.task_template;
    let reserves = template
        .resources
        .as_ref()
        .is_some_and(|resources| resources.reservations.is_some());
    let has_host_port = service
        .spec
        .ports()
        .iter()
        .any(|port| port.publish_mode == PublishMode::Host);
    let state = service.update_status.as_ref().map(|status| status.state);
    let is_idle = matches!(
        state,
        None | Some(UpdateState::Completed | UpdateState::RollbackCompleted)
    );
    is_automatic(service)
        && is_idle
        && matches!(service.spec.mode, ServiceMode::Replicated(_))
        && template.placement.is_none()
        && !reserves
        && !has_host_port
}
