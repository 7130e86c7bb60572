//! Secrets and configs that tasks get as variables: what a program was started with stays as it
//! is, and not everything can be one.

use skep_model::container::{ContainerSpec, FileTarget};
use skep_model::payload::{OnUpdate, Payload, Pin};
use skep_model::variable::check_value;
use skep_model::{ControlError, ServiceSpec};

use super::Done;

/// Settles a reference whose version is known, if it is a variable.
pub(super) fn settle<P: Payload>(payload: &P, target: Option<&FileTarget>, pin: &mut Pin) -> Done {
    let Some(name) = target.and_then(FileTarget::variable) else {
        return Ok(());
    };
    // It cannot be given to a task in place.
    if !pin.signal.is_empty() {
        *pin = Pin::to(pin.number());
    }
    // One with a template is known on the node alone, one of another store not here.
    let data = payload.of_version(pin.number()).unwrap_or_default();
    match payload.is_as_stored() {
        true => check(payload, name, data),
        false => Ok(()),
    }
}

/// Refuses a next version that users of a payload could not be started with.
pub(super) fn check_users<P: Payload>(payload: &P, service: &ServiceSpec, data: &[u8]) -> Done {
    let object = payload.payload_id();
    let container = service.task_template.container().into_iter();
    let variables = container.flat_map(ContainerSpec::variables);
    let mut own = variables.filter(|one| one.object == object);
    match payload.is_as_stored() {
        true => own.try_for_each(|one| {
            check(payload, one.name, data).map_err(|error| {
                let message = format!("service {}: {}", service.name, error.message);
                ControlError::invalid(message)
            })
        }),
        false => Ok(()),
    }
}

fn check<P: Payload>(payload: &P, name: &str, data: &[u8]) -> Done {
    check_value(name, data).map_err(|error| {
        ControlError::invalid(format!(
            "{} {} cannot be variable {name}: {error}",
            P::WORD,
            payload.payload_name()
        ))
    })
}

/// What an update of a payload does to the tasks of a service: variables do not change while a
/// program runs.
pub(super) fn on_update<P: Payload>(
    payload: &P,
    container: &ContainerSpec,
    asked: OnUpdate,
) -> OnUpdate {
    let object = payload.payload_id();
    let mut variables = container.variables();
    match asked {
        OnUpdate::Signal(_) if variables.any(|one| one.object == object) => OnUpdate::Roll,
        asked => asked,
    }
}
