//! What is told of a run.

use std::any::Any;

use skep_model::ControlRequest;
use skep_store::{Event, Object};

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub seed: u64,
    /// Seconds into the run.
    pub at_secs: i64,
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {}, second {}: {}\n  to see it again: cargo run -p skep-sim -- --seed {}",
            self.seed, self.at_secs, self.what, self.seed
        )
    }
}

/// What a run that went well did, to tell that it did something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub commits: usize,
    pub conflicts: usize,
    pub elections: usize,
    pub node_faults: usize,
    pub requests: usize,
    pub refused: usize,
    /// Watchers that were too slow and began anew.
    pub fresh_watches: usize,
    pub peace_secs: i64,
}

/// What a panic said.
pub(crate) fn last_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without words"))
}

/// What an event means for a task or service, in one line.
pub(crate) fn tell(event: &Event) -> String {
    let version = event.version.index;
    let key = event.change.key();
    match event.change.after() {
        Some(Object::Task(task)) => format!(
            "  [{version}] {} slot {} v{} on {}: {} wants {} {}",
            task.id,
            task.slot,
            task.spec_version.index,
            task.node_id,
            task.status.state,
            task.desired_state,
            task.status.err
        ),
        Some(Object::Service(service)) => format!(
            "  [{version}] service {} v{} {:?} {}",
            service.spec.name,
            service.spec_version.index,
            service.update_status.as_ref().map(|status| status.state),
            service.waits_for
        ),
        Some(_) => format!("  [{version}] {key}"),
        None => format!("  [{version}] {key} is gone"),
    }
}

pub(crate) fn describe(request: &ControlRequest) -> String {
    let text = match request {
        ControlRequest::CreateService { spec } => format!(
            "create {} {} image {}",
            spec.mode.as_str(),
            spec.name,
            spec.task_template.image()
        ),
        ControlRequest::UpdateService { spec, rollback, .. } => format!(
            "update {} rollback {rollback} image {} mode {:?}",
            spec.name,
            spec.task_template.image(),
            spec.mode
        ),
        other => format!("{other:?}"),
    };
    format!("user: {text}")
}
