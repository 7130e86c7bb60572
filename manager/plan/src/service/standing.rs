//! How far a service's tasks are, counted by its slots; and whether others may go on by that.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::service::ReplicatedJob;
use skep_model::{
    DependencyCondition, Node, NodeId, Service, ServiceMode, Task, TaskState, Version,
};

use super::dirty::is_dirty;
use super::global;
use super::restart::{Restart, decide, ended_by_itself};
use super::slot::in_order;

/// How many slots are how far, by tasks that are what the service now asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// Slots that there should be; of a global service the nodes that are to run it.
    pub wanted: u64,
    /// The container of their task was started, and has not ended.
    pub started: u64,
    /// Their task runs, and is healthy where that is checked.
    pub serving: u64,
    /// Their last task ended without an error, and none follows.
    pub completed: u64,
    /// A job that has done all it was asked for.
    pub finished: bool,
    /// Live tasks that are not what the service asks for any more.
    pub outdated: u64,
    /// A task that failed and is not followed by another one.
    pub gave_up: Option<Arc<Task>>,
    /// A task that waits and says for what.
    pub waiting: Option<Arc<Task>>,
}

/// Counts. `tasks` are all of the service's, `nodes` all of the cluster's.
pub fn standing<'a>(
    service: &Service,
    tasks: impl IntoIterator<Item = &'a Arc<Task>>,
    nodes: impl IntoIterator<Item = &'a Node>,
) -> Standing {
    let nodes: BTreeMap<&NodeId, &Node> = nodes.into_iter().map(|one| (&one.id, one)).collect();
    let node = |id: &NodeId| nodes.get(id).copied();
    let mode = &service.spec.mode;
    let iteration = service.job_status.as_ref().map(|job| job.job_iteration);
    let is_now = |task: &Task| !mode.is_job() || task.job_iteration == iteration;
    let mut slots: BTreeMap<(u64, NodeId), Vec<&Arc<Task>>> = BTreeMap::new();
    // What is left on nodes that are not to run a global service counts for nothing.
    let is_here = |task: &Task| {
        !mode.is_global() || node(&task.node_id).is_some_and(|node| global::runs_on(service, node))
    };
    for task in tasks {
        if task.desired_state < TaskState::Remove && is_now(task) && is_here(task) {
            let place = match mode.is_global() {
                true => task.node_id.clone(),
                false => NodeId::default(),
            };
            slots.entry((task.slot, place)).or_default().push(task);
        }
    }
    let mut standing = Standing {
        finished: service
            .job_status
            .as_ref()
            .is_some_and(|job| job.finished_at.is_some()),
        ..Standing::default()
    };
    let outdated = |task: &Task| is_dirty(task, service, node(&task.node_id));
    for tasks in slots.values_mut() {
        tasks.sort_by_key(|task| in_order(task));
        standing.count(service, tasks, &outdated);
    }
    standing.wanted = match mode {
        ServiceMode::Replicated(replicated) => replicated.count(),
        ServiceMode::ReplicatedJob(job) => completions(job),
        ServiceMode::Global(_) | ServiceMode::GlobalJob(_) => {
            let wanted = nodes.values();
            wanted.filter(|node| global::runs_on(service, node)).count() as u64
        }
    };
    if standing.finished {
        standing.completed = standing.completed.max(standing.wanted);
    } else if mode.is_job() && !service.spec.is_scheduled() {
        standing.finished = standing.wanted > 0 && standing.completed >= standing.wanted;
    }
    standing
}

/// Runs that a job asks for.
fn completions(job: &ReplicatedJob) -> u64 {
    let at_once = job.max_concurrent.unwrap_or(1).max(1);
    job.total_completions.unwrap_or(at_once)
}

impl Standing {
    fn count(
        &mut self,
        service: &Service,
        tasks: &[&Arc<Task>],
        outdated: &impl Fn(&Task) -> bool,
    ) {
        let live = || tasks.iter().filter(|task| task.is_live());
        let present = live().filter(|task| !outdated(task));
        self.outdated += live().filter(|task| outdated(task)).count() as u64;
        if let Some(best) = present.max_by_key(|task| (task.serves(), task.status.state)) {
            let has_started = best.status.state >= TaskState::Starting;
            self.started += u64::from(has_started);
            self.serving += u64::from(best.serves());
            if !best.status.err.is_empty() && !best.serves() {
                self.waiting = Some(Arc::clone(best));
            }
            return;
        }
        let ended = tasks.last().filter(|_| live().next().is_none());
        let Some(last) = ended.filter(|task| !outdated(task)) else {
            return;
        };
        let policy = service.spec.task_template.restart_policy.clone();
        let history = tasks.iter().map(|task| &***task);
        let is_job = service.spec.mode.is_job();
        let next = decide(last, &policy.unwrap_or_default(), history, false, is_job);
        if next != Restart::Never {
            self.waiting = Some(Arc::clone(last));
        } else if last.status.state == TaskState::Complete {
            self.completed += 1;
        } else if ended_by_itself(last) {
            self.gave_up = Some(Arc::clone(last));
        }
    }

    /// Whether a service with this condition on this one may go on.
    pub fn meets(&self, condition: DependencyCondition) -> bool {
        match condition {
            DependencyCondition::Started => {
                self.finished || self.started + self.completed >= self.wanted
            }
            DependencyCondition::Healthy => {
                self.finished || self.serving + self.completed >= self.wanted
            }
            DependencyCondition::CompletedSuccessfully => {
                self.finished || (self.wanted > 0 && self.completed >= self.wanted)
            }
        }
    }

    /// How far the service is from a condition, in words.
    pub fn lacks(&self, name: &str, condition: DependencyCondition) -> String {
        let (what, count) = match condition {
            DependencyCondition::Started => ("start", self.started + self.completed),
            DependencyCondition::Healthy => ("run and be healthy", self.serving + self.completed),
            DependencyCondition::CompletedSuccessfully => ("complete", self.completed),
        };
        let failed = match &self.gave_up {
            Some(task) => format!("; {} failed and is not tried again", task.name()),
            None => String::new(),
        };
        format!(
            "waits for service {name} to {what}: {count} of {} tasks{failed}",
            self.wanted
        )
    }
}

/// Whether nothing of the present job, or of the service at all, was ever begun.
pub(super) fn has_not_begun(service: &Service, tasks: &[Arc<Task>]) -> bool {
    let iteration: Option<Version> = service.job_status.as_ref().map(|job| job.job_iteration);
    match service.spec.mode.is_job() {
        true => tasks.iter().all(|task| task.job_iteration != iteration),
        false => tasks.is_empty(),
    }
}
