//! What services may want of each other, of nodes that came later, and of secrets.

use skep_model::container::SecretReference;
use skep_model::mount::Mount;
use skep_model::placement::Placement;
use skep_model::volume_home::VOLUME_PLACEMENT_LABEL;
use skep_model::{ControlRequest, Service, ServiceSpec};
use skep_reconcile::REBALANCE_LABEL;
use skep_store::Snapshot;

use crate::random::Dice;
use crate::user::{NAMES, update};

/// Wants to be beside another service, or apart from one.
pub(crate) fn company(spec: &mut ServiceSpec, dice: &mut Dice) {
    let other = *dice.pick(&NAMES).unwrap_or(&"db");
    let operator = ["==", "!=", "!="][usize::try_from(dice.below(3)).unwrap_or(0)];
    spec.task_template.placement = Some(Placement {
        constraints: vec![format!("service{operator}{other}")],
        ..Placement::default()
    });
}

/// Is to be spread anew when nodes come.
pub(crate) fn evenness(spec: &mut ServiceSpec) {
    spec.labels
        .insert(REBALANCE_LABEL.to_owned(), "auto".to_owned());
}

/// Has a volume for each slot, and tasks that return to it.
pub(crate) fn volumes(spec: &mut ServiceSpec) {
    let container = spec.task_template.container_spec.get_or_insert_default();
    container.mounts.push(Mount {
        source: "data-{{.Task.Slot}}".to_owned(),
        target: "/data".to_owned(),
        ..Mount::default()
    });
    spec.labels
        .insert(VOLUME_PLACEMENT_LABEL.to_owned(), "sticky".to_owned());
}

/// Asks for it now, or for ever, or takes that back.
pub(crate) fn rebalancing(service: &Service, dice: &mut Dice) -> ControlRequest {
    match dice.below(4) {
        0 | 1 => ControlRequest::RebalanceService {
            id: service.id.clone(),
            most: dice.chance(30).then_some(1),
        },
        2 => update(service, dice, |spec, _| evenness(spec)),
        _ => update(service, dice, |spec, _| {
            spec.labels.remove(REBALANCE_LABEL);
        }),
    }
}

/// Uses some of the secrets that there are.
pub(crate) fn secrets(spec: &mut ServiceSpec, snapshot: &Snapshot, dice: &mut Dice) {
    let Some(container) = &mut spec.task_template.container_spec else {
        return;
    };
    for secret in snapshot.secrets() {
        if dice.chance(40) {
            container.secrets.push(SecretReference {
                secret_id: secret.id.clone(),
                secret_name: secret.spec.name.clone(),
                ..SecretReference::default()
            });
        }
    }
}
