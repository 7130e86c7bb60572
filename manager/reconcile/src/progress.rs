//! How far a stack has come, service by service.

use skep_model::rollout::{RolloutState, ServiceProgress, ServiceStage, StackProgress};
use skep_model::service::UpdateState;
use skep_model::{Service, Stack, Timestamp};
use skep_plan::service::standing::Standing;
use skep_store::Snapshot;

use crate::gate;
use crate::why::words;

/// How far the stack of this name is; nothing where there is none, neither as an object nor by labels.
pub fn stack_progress(snapshot: &Snapshot, name: &str) -> Option<StackProgress> {
    let stack = snapshot.by_name::<Stack>(name);
    let name = stack.map_or(name, |stack| &stack.spec.name);
    let rollout = stack.and_then(|stack| stack.rollout.clone());
    let since = rollout
        .as_ref()
        .map_or(Timestamp::ZERO, |one| one.started_at);
    let mut services: Vec<ServiceProgress> = snapshot
        .services()
        .filter(|service| service.stack == name)
        .map(|service| of_service(snapshot, service, since))
        .collect();
    if stack.is_none() && services.is_empty() {
        return None;
    }
    services.sort_by(|a, b| a.name.cmp(&b.name));
    let mut progress = StackProgress {
        name: name.to_owned(),
        revision: stack.map_or(0, |stack| stack.revision),
        services,
        ..StackProgress::default()
    };
    (progress.state, progress.message) = match rollout {
        // How it ends is for the leader to say.
        Some(rollout) => (rollout.state, rollout.message),
        None => judge(&progress.services, RolloutState::Deploying),
    };
    Some(progress)
}

/// What the stages of its services make of a stack that is deploying, or going back.
pub(crate) fn judge(services: &[ServiceProgress], active: RolloutState) -> (RolloutState, String) {
    let back = active == RolloutState::RollingBack;
    let failed = services
        .iter()
        .find(|one| one.stage == ServiceStage::Failed);
    if let Some(failed) = failed {
        let state = match back {
            true => RolloutState::RollbackFailed,
            false => RolloutState::Failed,
        };
        return (state, format!("{}: {}", failed.name, failed.message));
    }
    let done = services.iter().all(|one| one.stage == ServiceStage::Done);
    let state = match (done, back) {
        (false, _) => active,
        (true, true) => RolloutState::RolledBack,
        (true, false) => RolloutState::Deployed,
    };
    (state, String::new())
}

/// How far a service is with what it was asked for at `since`.
fn of_service(view: &Snapshot, service: &Service, since: Timestamp) -> ServiceProgress {
    let far = gate::standing_of(view, service);
    let running = match service.spec.mode.is_job() {
        true => far.completed,
        false => far.serving + far.completed,
    };
    let (stage, message) = match trouble(service, since) {
        Some(message) => (ServiceStage::Failed, message),
        None => stage(view, service, &far, since),
    };
    ServiceProgress {
        name: service.spec.name.clone(),
        stage,
        running,
        wanted: far.wanted,
        message,
    }
}

/// An update since then that has not gone through.
fn trouble(service: &Service, since: Timestamp) -> Option<String> {
    let status = service.update_status.as_ref()?;
    // The whole stack's way back begins when the revision does; a service's own begins later.
    let began = status.started_at.unwrap_or_default();
    let failed = match status.state {
        UpdateState::Paused | UpdateState::RollbackPaused => true,
        UpdateState::RollbackStarted | UpdateState::RollbackCompleted => {
            !since.is_zero() && began > since
        }
        UpdateState::Updating | UpdateState::Completed => false,
    };
    failed.then(|| status.message.clone())
}

fn stage(
    view: &Snapshot,
    service: &Service,
    far: &Standing,
    since: Timestamp,
) -> (ServiceStage, String) {
    let mode = &service.spec.mode;
    if far.finished || (service.spec.is_scheduled() && far.gave_up.is_none()) {
        return (ServiceStage::Done, String::new());
    }
    if let Some(task) = &far.gave_up {
        // What has failed before is not this deploy's.
        if task.status.applied_at < since && task.spec_version == service.spec_version {
            return (ServiceStage::Done, String::new());
        }
        let message = format!(
            "{} failed and is not tried again: {}",
            task.name(),
            words::ended(task)
        );
        return (ServiceStage::Failed, message);
    }
    let updating = service.update_status.as_ref();
    let updating = updating.is_some_and(|status| status.state.is_active());
    let held = updating || view.tasks_of_service(&service.id).next().is_none();
    if held && let Some(wait) = gate::waits(view, service).into_iter().next() {
        return (ServiceStage::Waiting, wait);
    }
    if !service.waits_for.is_empty() {
        return (ServiceStage::Waiting, service.waits_for.clone());
    }
    let there = far.serving + far.completed;
    // Those that have come to an end are not watched for how long they run.
    let watched = service.revision.doubtful && far.completed == 0 && far.wanted > 0;
    let all = there >= far.wanted;
    if all && far.outdated == 0 && !updating && !mode.is_job() && !watched {
        return (ServiceStage::Done, String::new());
    }
    let message = match &far.waiting {
        Some(task) if task.status.state.is_terminal() => {
            format!("{} failed: {}", task.name(), words::ended(task))
        }
        Some(task) => format!("{}: {}", task.name(), task.status.err),
        None if all && far.outdated == 0 => "is watched for failures".to_owned(),
        None => String::new(),
    };
    (ServiceStage::Updating, message)
}
