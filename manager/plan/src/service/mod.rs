//! One service's next step: which tasks to make, which to stop, which to let run.
//!
//! Everything is read off the stored tasks, so a new leader goes on where the old one stopped.

use std::sync::Arc;

use skep_model::service::{UpdateConfig, UpdateOrder};
use skep_model::{
    Cluster, Node, NodeId, Service, ServiceMode, Task, TaskId, TaskState, TaskStatus, Timestamp,
    Version,
};

use crate::schedule::NodeTable;

pub(crate) use slot::{in_order, stop_wait};

pub mod dirty;
mod exclusive;
mod global;
mod job;
mod replicated;
pub mod restart;
pub mod revision;
pub mod run;
mod slot;
pub mod standing;
mod update;

/// What a decision about one service looks at.
#[derive(Clone, Copy)]
pub struct ServiceView<'a> {
    pub service: &'a Service,
    /// Every stored task of the service.
    pub tasks: &'a [Arc<Task>],
    pub nodes: &'a NodeTable,
    pub now: Timestamp,
    /// Since when this leader has measured time without a break: moments before it are of other
    /// clocks, and prove nothing about how long something has lasted.
    pub steady_since: Timestamp,
    /// Most tasks to make in this step; the rest waits for the next one.
    pub budget: usize,
    /// What the service waits for before it starts, or is updated, a sentence each.
    pub waits: &'a [String],
    /// When the cluster was last given credentials for the registry of the service's image.
    pub registry_login_at: Option<Timestamp>,
}

/// A task to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    /// 0 for global services.
    pub slot: u64,
    /// The node of a task of a global service.
    pub node: Option<NodeId>,
    /// `Running`, or `Ready` when it has to wait for its turn.
    pub desired: TaskState,
    /// When desired `Ready` may become `Running`; zero for no delay.
    pub start_not_before: Timestamp,
    /// Whether the updater makes it.
    pub by_update: bool,
    /// How often its slot was restarted before.
    pub restarts: u64,
    /// The job's iteration, where it is not the present one.
    pub iteration: Option<Version>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Create(NewTask),
    /// Raise the desired state.
    Raise {
        task: TaskId,
        to: TaskState,
    },
}

/// What to do for one service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// The service as it should be stored, when that changes: update status, rollback.
    pub service: Option<Box<Service>>,
    /// When to look again although nothing has changed.
    pub wake_at: Option<Timestamp>,
    /// The budget did not suffice: look again at once.
    pub unfinished: bool,
    /// What is being waited for, one sentence each.
    pub notes: Vec<String>,
    /// Tasks made so far, against the budget.
    made: usize,
}

impl Plan {
    pub(crate) fn raise(&mut self, task: &Task, to: TaskState) {
        if task.desired_state < to {
            self.actions.push(Action::Raise {
                task: task.id.clone(),
                to,
            });
        }
    }

    pub(crate) fn create(&mut self, view: &ServiceView<'_>, task: NewTask) {
        if self.made >= view.budget {
            self.unfinished = true;
        } else {
            self.made += 1;
            self.actions.push(Action::Create(task));
        }
    }

    /// Adds what is to be done for another iteration of the same job. What becomes of the service is
    /// the caller's to say.
    pub(crate) fn add(&mut self, other: Self, iteration: Version) {
        let actions = other.actions.into_iter().map(|action| match action {
            Action::Create(task) => Action::Create(NewTask {
                iteration: Some(iteration),
                ..task
            }),
            raise @ Action::Raise { .. } => raise,
        });
        self.actions.extend(actions);
        self.made += other.made;
        self.unfinished |= other.unfinished;
        self.notes.extend(other.notes);
        if let Some(at) = other.wake_at {
            self.wake(at);
        }
    }

    /// Asks to be woken at `at`, or earlier.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }
}

/// Decides the next step of one service.
pub fn plan_service(view: &ServiceView<'_>) -> Plan {
    match view.service.spec.is_scheduled() {
        true => run::plan(view, plan_mode),
        false if is_held(view) => Plan {
            notes: view.waits.to_vec(),
            ..Plan::default()
        },
        false => plan_mode(view),
    }
}

/// Whether the service has not begun, and has to wait. What has begun goes on, whatever becomes of those
/// it waited for.
fn is_held(view: &ServiceView<'_>) -> bool {
    !view.waits.is_empty() && standing::has_not_begun(view.service, view.tasks)
}

fn plan_mode(view: &ServiceView<'_>) -> Plan {
    match &view.service.spec.mode {
        ServiceMode::Replicated(replicated) => replicated::plan(view, replicated.count()),
        ServiceMode::Global(_) => global::plan(view),
        ServiceMode::ReplicatedJob(job) => job::plan_replicated(view, job),
        ServiceMode::GlobalJob(_) => job::plan_global(view),
    }
}

/// The task that `wanted` describes, as stored.
pub fn new_task(
    service: &Service,
    cluster: Option<&Cluster>,
    id: TaskId,
    wanted: &NewTask,
    now: Timestamp,
) -> Task {
    let mut spec = service.spec.task_template.clone();
    if spec.log_driver.is_none() {
        spec.log_driver = cluster.and_then(|cluster| cluster.spec.task_defaults.log_driver.clone());
    }
    Task {
        id,
        labels: service.spec.labels.clone(),
        spec,
        service_id: service.id.clone(),
        service_name: service.spec.name.clone(),
        slot: wanted.slot,
        node_id: wanted.node.clone().unwrap_or_default(),
        status: TaskStatus {
            timestamp: now,
            state: TaskState::New,
            message: "created".to_owned(),
            applied_at: now,
            ..TaskStatus::default()
        },
        desired_state: wanted.desired,
        job_iteration: wanted
            .iteration
            .or(service.job_status.as_ref().map(|job| job.job_iteration)),
        spec_version: service.spec_version,
        start_not_before: wanted.start_not_before,
        by_update: wanted.by_update,
        restarts: wanted.restarts,
        ..Task::default()
    }
}

/// Whether tasks must leave this node: it is gone, down, or drained.
pub(crate) fn is_lost(node: Option<&Node>) -> bool {
    use skep_model::{Availability, NodeState};
    node.is_none_or(|node| {
        node.status.state == NodeState::Down || node.spec.availability == Availability::Drain
    })
}

/// Whether nothing can be heard from this node.
pub(crate) fn is_silent(node: Option<&Node>) -> bool {
    node.is_none_or(|node| node.status.state == skep_model::NodeState::Down)
}

/// Whether an update or a rollback is under way.
pub(crate) fn is_updating(service: &Service) -> bool {
    let status = service.update_status.as_ref();
    status.is_some_and(|status| status.state.is_active())
}

/// How a service's tasks are replaced now: a rollback has a configuration of its own.
pub fn update_config(service: &Service) -> UpdateConfig {
    update::config(service)
}

/// Which of an old and a new task goes first now.
pub(crate) fn update_order(service: &Service) -> UpdateOrder {
    update::config(service).order
}

/// The job iteration the service is in.
pub(crate) fn iteration(service: &Service) -> Version {
    service
        .job_status
        .as_ref()
        .map_or(Version::default(), |job| job.job_iteration)
}
