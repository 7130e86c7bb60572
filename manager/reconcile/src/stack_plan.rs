//! What a deploy of a stack would do: the same decisions as for the deploy, and nothing is kept.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};
use skep_model::difference::differences;
use skep_model::payload::Payload;
use skep_model::stack::{ObjectAction, ObjectChange, STACK_LABEL, StackPlan};
use skep_model::{
    Config, ControlError, ControlRequest, Network, Random, Secret, Service, Stack, Timestamp,
};
use skep_store::Snapshot;

use crate::control::suppose;
use crate::preview;

/// What `request`, a deploy or a rollback of a stack, would do.
///
/// # Errors
/// Those that the deploy itself would have.
pub fn plan_stack(
    request: &ControlRequest,
    snapshot: &Snapshot,
    now: Timestamp,
    random: &mut dyn Random,
) -> Result<StackPlan, ControlError> {
    let name = match request {
        ControlRequest::DeployStack { spec, .. } => spec.name.clone(),
        ControlRequest::RollBackStack { name, .. } => name.clone(),
        _ => return Err(ControlError::invalid("only deploys of stacks are planned")),
    };
    let (after, response) = suppose(request, snapshot, now, random)?;
    let mut changes = Vec::new();
    for kind in [Kind::Network, Kind::Secret, Kind::Config, Kind::Service] {
        let (had, has) = (kind.objects(snapshot, &name), kind.objects(&after, &name));
        let ids: BTreeSet<&String> = had.keys().chain(has.keys()).collect();
        changes.extend(ids.into_iter().filter_map(|object| {
            let mut change = kind.change(object, had.get(object), has.get(object))?;
            if kind == Kind::Service {
                change.preview = service(snapshot, &after, object, now).map(Box::new);
                if let Some(preview) = &mut change.preview {
                    change.changes = std::mem::take(&mut preview.changes);
                }
            }
            Some(change)
        }));
    }
    Ok(StackPlan {
        basis: basis(snapshot, &name),
        name,
        changes,
        warnings: response.warnings,
    })
}

fn service(
    before: &Snapshot,
    after: &Snapshot,
    name: &str,
    now: Timestamp,
) -> Option<skep_model::preview::ServicePreview> {
    let had = before.by_name::<Service>(name);
    let has = after.by_name::<Service>(name)?;
    Some(preview::of_service(
        had.map(|service| &service.spec),
        has,
        after,
        now,
    ))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Network,
    Secret,
    Config,
    Service,
}

/// A word that is another one whenever others have changed the object, and what of it is to be compared.
type Seen = (String, Json);

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Secret => "secret",
            Self::Config => "config",
            Self::Service => "service",
        }
    }

    /// The stack's objects of this kind by name.
    fn objects(self, view: &Snapshot, stack: &str) -> BTreeMap<String, Seen> {
        let belongs = |labels: &BTreeMap<String, String>| {
            labels.get(STACK_LABEL).is_some_and(|owner| owner == stack)
        };
        fn seen(spec: &impl Serialize, word: impl FnOnce(&Json) -> String) -> Seen {
            let spec = serde_json::to_value(spec).unwrap_or_default();
            (word(&spec), spec)
        }
        macro_rules! of {
            ($all:expr, $word:expr) => {
                $all.filter(|object| belongs(&object.spec.labels))
                    .map(|object| {
                        let seen = seen(&object.spec, |spec| $word(object, spec));
                        (object.spec.name.clone(), seen)
                    })
                    .collect()
            };
        }
        // What is told of an object by itself, such as that a secret expires, is no change by others.
        match self {
            Self::Network => of!(view.networks(), |one: &Network, _| one
                .version
                .index
                .to_string()),
            Self::Secret => of!(view.secrets(), |one: &Secret, spec| payload(one, spec)),
            Self::Config => of!(view.configs(), |one: &Config, spec| payload(one, spec)),
            Self::Service => of!(view.services(), |_: &Service, spec: &Json| spec.to_string()),
        }
    }

    fn change(self, name: &str, had: Option<&Seen>, has: Option<&Seen>) -> Option<ObjectChange> {
        let action = match (had, has) {
            (None, Some(_)) => ObjectAction::Create,
            (Some(_), None) => ObjectAction::Remove,
            (Some(had), Some(has)) if had.1 != has.1 => ObjectAction::Update,
            _ => return None,
        };
        let changes = match (had, has) {
            // Services tell of themselves.
            (Some(had), Some(has)) if self != Self::Service => unlike(&had.1, &has.1),
            _ => Vec::new(),
        };
        Some(ObjectChange {
            kind: self.as_str().to_owned(),
            name: name.to_owned(),
            action,
            changes,
            preview: None,
        })
    }
}

/// Which one it is, the number of its version, and its spec without the bytes.
fn payload(object: &impl Payload, spec: &Json) -> String {
    let id = object.payload_id();
    format!("{} {} {}", id.as_str(), object.number(), bare(spec))
}

const DATA: &str = "Data";

fn bare(spec: &Json) -> Json {
    let mut spec = spec.clone();
    spec.as_object_mut().map(|spec| spec.remove(DATA));
    spec
}

/// How an object differs; of payloads only that they do.
fn unlike(had: &Json, has: &Json) -> Vec<String> {
    let mut unlike = differences(&bare(had), &bare(has));
    if had.get(DATA) != has.get(DATA) {
        unlike.push("other bytes: the next version".to_owned());
    }
    unlike
}

/// A word that is another one as soon as any object of the stack is. Of services, secrets and configs
/// what was asked for counts: their status goes on changing by itself.
pub(crate) fn basis(view: &Snapshot, stack: &str) -> String {
    let mut digest = Sha256::new();
    if let Some(stack) = view.by_name::<Stack>(stack) {
        digest.update(format!("{:?}\n", stack.spec.depends_on));
    }
    for kind in [Kind::Network, Kind::Secret, Kind::Config, Kind::Service] {
        for (name, (state, _)) in kind.objects(view, stack) {
            digest.update(format!("{} {name} {state}\n", kind.as_str()));
        }
    }
    hex::encode(&digest.finalize()[..8])
}
