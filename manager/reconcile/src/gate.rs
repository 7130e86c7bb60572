//! Which services wait for which others of their stack.

use skep_model::{Service, ServiceId, Stack};
use skep_plan::service::standing::{Standing, standing};
use skep_store::Snapshot;

/// What `service` waits for before it starts or is updated, a sentence each. A service that is not there
/// is not waited for: other clients remove services without a word to the stack.
pub(crate) fn waits(view: &Snapshot, service: &Service) -> Vec<String> {
    let Some(stack) = stack_of(view, service) else {
        return Vec::new();
    };
    let on = stack.spec.depends_on.get(&service.spec.name);
    // What runs is held by a deploy that goes on, or has gone wrong; not by what comes later.
    let rollout = stack.rollout.as_ref();
    let is_settled = rollout.is_none_or(|rollout| rollout.state.is_good());
    if is_settled && view.tasks_of_service(&service.id).next().is_some() {
        return Vec::new();
    }
    let unmet = on.into_iter().flatten().filter_map(|dependency| {
        let other = view.by_name::<Service>(&dependency.service)?;
        let far = standing_of(view, other);
        let name = &other.spec.name;
        (!far.meets(dependency.condition)).then(|| far.lacks(name, dependency.condition))
    });
    unmet.collect()
}

/// The services that may wait for `service`.
pub(crate) fn dependents(view: &Snapshot, service: &Service) -> Vec<ServiceId> {
    let Some(stack) = stack_of(view, service) else {
        return Vec::new();
    };
    let name = &service.spec.name;
    let waiting = stack.spec.depends_on.iter();
    let waiting = waiting.filter(|(_, on)| on.iter().any(|one| one.service == *name));
    waiting
        .filter_map(|(waiting, _)| view.by_name::<Service>(waiting))
        .filter(|waiting| is_held(view, waiting))
        .map(|waiting| waiting.id.clone())
        .collect()
}

/// Whether what it waits for can matter to a service now.
fn is_held(view: &Snapshot, service: &Service) -> bool {
    let updating = service.update_status.as_ref();
    let updating = updating.is_some_and(|status| status.state.is_active());
    let is_job = service.spec.mode.is_job();
    is_job || updating || view.tasks_of_service(&service.id).next().is_none()
}

/// How far a service is.
pub(crate) fn standing_of(view: &Snapshot, service: &Service) -> Standing {
    let tasks = view.tasks_of_service(&service.id);
    standing(service, tasks, view.nodes().map(|node| &**node))
}

fn stack_of<'a>(view: &'a Snapshot, service: &Service) -> Option<&'a Stack> {
    if service.stack.is_empty() {
        return None;
    }
    view.by_name::<Stack>(&service.stack).map(|stack| &**stack)
}
