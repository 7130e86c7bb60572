//! Every service is what its spec says.

use std::collections::BTreeSet;

use skep_model::{PublishMode, Service, ServiceMode, Task, TaskState};
use skep_plan::service::dirty::{is_dirty, meets_constraints};
use skep_store::Snapshot;

pub(super) fn everything(snapshot: &Snapshot) -> Result<(), String> {
    for service in snapshot.services() {
        service_converged(snapshot, service)?;
    }
    Ok(())
}

/// Whether one service is what its spec says, and what is missing if not.
pub fn service_converged(snapshot: &Snapshot, service: &Service) -> Result<(), String> {
    let name = &service.spec.name;
    if !service.waits_for.is_empty() {
        return Err(format!("{name} waits: {}", service.waits_for));
    }
    if is_crowded_out(snapshot, service) {
        return Ok(());
    }
    if let Some(status) = &service.update_status
        && status.state.is_active()
    {
        let tasks: Vec<&Task> = snapshot
            .tasks_of_service(&service.id)
            .map(|task| &**task)
            .collect();
        return Err(format!(
            "{name} is still {}: {}",
            status.state.as_str(),
            describe(&tasks)
        ));
    }
    let tasks: Vec<&Task> = snapshot
        .tasks_of_service(&service.id)
        .map(|task| &**task)
        .collect();
    match &service.spec.mode {
        ServiceMode::ReplicatedJob(job) => {
            let wanted = job.total_completions.or(job.max_concurrent).unwrap_or(1);
            let done = completed(service, &tasks).map(|task| task.slot);
            let done: BTreeSet<u64> = done.collect();
            return match done.len() as u64 >= wanted {
                true => Ok(()),
                false => Err(format!("job {name} completed {done:?} of {wanted}")),
            };
        }
        ServiceMode::GlobalJob(_) => {
            for node in snapshot.nodes() {
                let mut done = completed(service, &tasks);
                if !done.any(|task| task.node_id == node.id) {
                    return Err(format!("job {name} did not complete on {}", node.id));
                }
            }
            return Ok(());
        }
        ServiceMode::Replicated(_) | ServiceMode::Global(_) => (),
    }
    let running: Vec<&&Task> = tasks.iter().filter(|task| task.serves()).collect();
    let live = tasks.iter().filter(|task| task.is_live()).count();
    let places: BTreeSet<(u64, Option<&str>)> = running
        .iter()
        .map(|task| (task.slot, (task.slot == 0).then_some(task.node_id.as_str())))
        .collect();
    let wanted = match &service.spec.mode {
        ServiceMode::Replicated(replicated) => replicated.count() as usize,
        _ => snapshot
            .nodes()
            .filter(|node| meets_constraints(&service.spec.task_template, node))
            .count(),
    };
    if running.len() != wanted || places.len() != wanted || live != wanted {
        return Err(format!(
            "{name} wants {wanted} tasks, has {} running in {} places and {live} live: {}",
            running.len(),
            places.len(),
            describe(&tasks)
        ));
    }
    for task in running {
        if is_dirty(
            task,
            service,
            snapshot.node(&task.node_id).map(|node| &**node),
        ) {
            return Err(format!("{name}: task {} is outdated", task.id));
        }
    }
    Ok(())
}

/// Whether a task waits for a port of nodes that tasks of other services have, on every node that it
/// could be on: users may remove so many nodes that there is not one for each.
fn is_crowded_out(snapshot: &Snapshot, service: &Service) -> bool {
    let ports = |task: &Task| -> BTreeSet<u16> {
        let ports = task.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
        let ports = ports.filter(|port| port.publish_mode == PublishMode::Host);
        ports.map(|port| port.published_port).collect()
    };
    let is_crowded = |task: &Task| {
        let wanted = ports(task);
        let is_waiting = task.is_live() && task.status.state < TaskState::Assigned;
        let takes = |other: &Task| {
            other.service_id != service.id && other.serves() && !ports(other).is_disjoint(&wanted)
        };
        is_waiting
            && snapshot.nodes().all(|node| {
                !meets_constraints(&task.spec, node)
                    || snapshot.tasks_on_node(&node.id).any(|other| takes(other))
            })
    };
    let mut tasks = snapshot.tasks_of_service(&service.id);
    tasks.any(|task| is_crowded(task))
}

fn completed<'a>(service: &'a Service, tasks: &'a [&'a Task]) -> impl Iterator<Item = &'a Task> {
    let iteration = service.job_status.as_ref().map(|job| job.job_iteration);
    let done = tasks.iter().filter(move |task| {
        task.status.state == TaskState::Complete && task.job_iteration == iteration
    });
    done.copied()
}

fn describe(tasks: &[&Task]) -> String {
    let lines = tasks.iter().map(|task| {
        format!(
            "\n    {} slot {} on {} v{}: {} wants {} {}",
            task.id.short(),
            task.slot,
            task.node_id.short(),
            task.spec_version.index,
            task.status.state,
            task.desired_state,
            task.status.err
        )
    });
    lines.collect()
}
