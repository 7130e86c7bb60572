//! Which spec becomes which revision, and which spec a rollback leads to.

use skep_model::revision::{Later, PastRevision, Revision, forget};
use skep_model::service::UpdateState;
use skep_model::{Service, ServiceId, ServiceSpec, Timestamp};

use super::dirty::runs_the_same;

/// The revision of a service that is made.
pub fn first(now: Timestamp) -> Revision {
    Revision {
        number: 1,
        since: now,
        because: "created".to_owned(),
        proven: true,
        ..Revision::default()
    }
}

/// Whether tasks of both specs are the same. `--force` begins no revision: it runs the same again.
fn is_alike(had: &ServiceSpec, wanted: &ServiceSpec) -> bool {
    let mut template = wanted.task_template.clone();
    template.force_update = had.task_template.force_update;
    let endpoint = |spec: &ServiceSpec| {
        let mut endpoint = spec.endpoint_spec.clone().unwrap_or_default();
        endpoint.ports.sort();
        endpoint
    };
    runs_the_same(&had.task_template, &template) && endpoint(had) == endpoint(wanted)
}

/// Gives a service another spec. The one of before becomes the previous one, and a revision of the
/// past when tasks are to be others. `because` is what the new revision is begun by.
pub fn turn(service: &mut Service, spec: ServiceSpec, because: &str, now: Timestamp) {
    let alike = is_alike(&service.spec, &spec);
    if alike {
        let later = Later {
            mode: service.spec.mode != spec.mode,
            labels: service.spec.labels != spec.labels,
            updates: service.spec.update_config != spec.update_config
                || service.spec.rollback_config != spec.rollback_config,
        };
        service.revision.later = service.revision.later.or(later);
        // The status goes with the spec of before.
        service.revision.doubtful |= !service.revision.proven && !is_settled(service);
    }
    service.moving.clear();
    let had = std::mem::replace(&mut service.spec, spec);
    if !alike {
        let mut revision = std::mem::take(&mut service.revision);
        revision.number = revision.number.max(1);
        revision.proven |= !revision.doubtful && is_settled(service);
        service.revision = Revision {
            number: revision.number + 1,
            since: now,
            because: because.to_owned(),
            doubtful: true,
            ..Revision::default()
        };
        let past = PastRevision {
            revision,
            spec: Box::new(had.clone()),
            spec_version: service.spec_version,
        };
        service.history.insert(0, past);
        forget(&mut service.history);
    }
    service.previous_spec = Some(Box::new(had));
    service.previous_spec_version = Some(service.spec_version);
    service.spec_version.index += 1;
}

/// Gives a service another spec because its present one fails.
pub(super) fn give_up(service: &mut Service, spec: ServiceSpec, because: &str, now: Timestamp) {
    let number = service.revision.number;
    turn(service, spec, because, now);
    if let Some(past) = service.history.first_mut()
        && past.revision.number == number
        && !past.revision.proven
    {
        past.revision.failed = true;
    }
}

/// Remembers that a revision's tasks have replaced all others.
pub(super) fn prove(revision: &mut Revision) {
    (revision.proven, revision.doubtful) = (true, false);
}

/// Whether the status tells nothing against the present spec: its update was completed, or there is
/// none.
fn is_settled(service: &Service) -> bool {
    let state = service.update_status.as_ref().map(|status| status.state);
    matches!(
        state,
        None | Some(UpdateState::Completed | UpdateState::RollbackCompleted)
    )
}

/// Why a rollback leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRevision {
    #[error("service {service} does not have a previous spec")]
    NoPrevious { service: ServiceId },
    #[error("service {service} has no revision {number}{known}")]
    Unknown {
        service: String,
        number: u64,
        known: String,
    },
    #[error("service {service} is in revision {number} already")]
    Present { service: String, number: u64 },
}

/// The spec that going back to a revision gives, and its number. 0 stands for the newest of before
/// that runs something else and was not given up by the cluster itself.
///
/// Replicas, labels and ways of updating that were changed for themselves since then stay, and so
/// do the count of forced updates and fresh credentials.
pub fn target(service: &Service, number: u64) -> Result<(ServiceSpec, u64), NoRevision> {
    let name = || service.spec.name.clone();
    let is_wanted = |past: &PastRevision| match number {
        0 => !past.revision.failed && !is_alike(&past.spec, &service.spec),
        number => past.revision.number == number,
    };
    match service.history.iter().position(is_wanted) {
        Some(at) => Ok((restored(service, at), service.history[at].revision.number)),
        None if number == 0 => Err(NoRevision::NoPrevious {
            service: service.id.clone(),
        }),
        None if number == service.revision.number => Err(NoRevision::Present {
            service: name(),
            number,
        }),
        None => Err(NoRevision::Unknown {
            service: name(),
            number,
            known: known(service),
        }),
    }
}

fn known(service: &Service) -> String {
    let numbers = service.history.iter();
    let numbers: Vec<String> = numbers
        .map(|past| past.revision.number.to_string())
        .collect();
    match numbers.as_slice() {
        [] => String::new(),
        numbers => format!("; it has {}", numbers.join(", ")),
    }
}

/// The spec that an update which fails goes back to: the newest revision that was once complete,
/// or, when the update runs the same as before, the spec of before.
pub(super) fn refuge(service: &Service) -> Option<(ServiceSpec, String)> {
    let proven = |past: &PastRevision| {
        past.revision.proven && !past.revision.failed && !is_alike(&past.spec, &service.spec)
    };
    let found = match service.revision.proven {
        true => None,
        false => service.history.iter().position(proven),
    };
    if let Some(at) = found {
        let number = service.history[at].revision.number;
        return Some((restored(service, at), format!("rolled back to {number}")));
    }
    let previous = service.previous_spec.as_deref();
    previous.map(|spec| (spec.clone(), "rolled back".to_owned()))
}

fn restored(service: &Service, at: usize) -> ServiceSpec {
    let past = &service.history[at];
    let newer = service.history[..at].iter();
    let later = newer.fold(service.revision.later, |later, newer| {
        later.or(newer.revision.later)
    });
    let present = &service.spec;
    let mut spec = ServiceSpec::clone(&past.spec);
    if later.mode {
        spec.mode.clone_from(&present.mode);
    }
    if later.labels {
        spec.labels.clone_from(&present.labels);
    }
    if later.updates {
        spec.update_config.clone_from(&present.update_config);
        spec.rollback_config.clone_from(&present.rollback_config);
    }
    spec.task_template.force_update = present.task_template.force_update;
    let credentials = &present.task_template.pull_credentials;
    if !credentials.is_empty() {
        spec.task_template.pull_credentials.clone_from(credentials);
    }
    spec
}
