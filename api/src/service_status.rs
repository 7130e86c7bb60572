//! How many tasks a service has and should have, for `service ls`.

use skep_model::service::ServiceStatus;
use skep_model::{Service, ServiceMode, TaskState};
use skep_store::Snapshot;

/// Counts a service's tasks. What earlier iterations of a job have completed does not count.
pub fn count(snapshot: &Snapshot, service: &Service) -> ServiceStatus {
    let iteration = service.job_status.as_ref().map(|job| job.job_iteration);
    let is_job = service.spec.mode.is_job();
    let mut status = ServiceStatus {
        desired_tasks: match &service.spec.mode {
            ServiceMode::Replicated(mode) => mode.count(),
            ServiceMode::ReplicatedJob(mode) => mode.max_concurrent.unwrap_or(1),
            ServiceMode::Global(_) | ServiceMode::GlobalJob(_) => 0,
        },
        ..ServiceStatus::default()
    };
    for task in snapshot.tasks_of_service(&service.id) {
        let wanted = match service.spec.mode.is_job() {
            true => task.desired_state <= TaskState::Complete,
            false => task.desired_state == TaskState::Running,
        };
        if wanted && task.status.state == TaskState::Running {
            status.running_tasks += 1;
        }
        // Earlier iterations of a job do not count, but runs may go on beside the last one.
        let of_last = !is_job || task.job_iteration == iteration;
        if of_last && task.status.state == TaskState::Complete {
            status.completed_tasks += 1;
        }
        if wanted && service.spec.mode.is_global() {
            status.desired_tasks += 1;
        }
    }
    if !is_job {
        status.completed_tasks = 0;
    } else if let Some(job) = service
        .job_status
        .as_ref()
        .filter(|job| job.finished_at.is_some())
    {
        // Tasks of a job that is done may be gone.
        status.completed_tasks = job.completed;
    }
    status
}
