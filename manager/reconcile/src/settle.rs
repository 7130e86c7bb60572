//! Stacks that other clients deploy service by service: once their services have come to rest, what
//! they are is a revision of the stack as any other.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use skep_model::service::UpdateState;
use skep_model::{Random, Service, Stack, Timestamp};
use skep_store::{Commit, Snapshot};

use crate::control;

/// How long the services of a stack have to stay as they are.
const REST: Duration = Duration::from_secs(5);
/// They are looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// What a leader remembers of the stacks' services.
#[derive(Debug, Default)]
pub struct Resting {
    looked_at: Timestamp,
    stacks: BTreeMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    mark: u64,
    since: Timestamp,
    /// They were not as now before.
    other_before: Timestamp,
    known: bool,
}

/// The revision that is due for a stack whose services have come to rest as something else than was
/// deployed as a whole; one at a time. A stack of which others have left nothing goes. To be asked again
/// and again by whoever leads.
pub fn settle_stacks(
    snapshot: &Snapshot,
    resting: &mut Resting,
    now: Timestamp,
    random: &mut dyn Random,
) -> Option<Commit> {
    if now.since(resting.looked_at) < LOOK {
        return None;
    }
    let marks = marks(snapshot);
    resting
        .stacks
        .retain(|name, _| marks.contains_key(name.as_str()));
    let looked_before = std::mem::replace(&mut resting.looked_at, now);
    for (name, mark) in marks {
        let seen = resting.stacks.get_mut(name);
        let Some(seen) = seen.filter(|seen| seen.mark == mark) else {
            let seen = Seen {
                mark,
                since: now,
                other_before: match looked_before.is_zero() {
                    true => newest_of(snapshot, name).unwrap_or(now),
                    false => looked_before,
                },
                known: false,
            };
            resting.stacks.insert(name.to_owned(), seen);
            continue;
        };
        if seen.known
            || now.since(seen.since) < REST
            || is_under_way(snapshot, name)
            || is_updating(snapshot, name)
        {
            continue;
        }
        let since = seen.other_before;
        if let Some(commit) = control::settle_stack(snapshot, name, since, now, random) {
            // Known once that is stored.
            return Some(commit);
        }
        seen.known = true;
    }
    None
}

/// By the name of each stack a number that is another one when any service or spec is.
fn marks(snapshot: &Snapshot) -> BTreeMap<&str, u64> {
    let stacks = snapshot.stacks();
    let mut marks: BTreeMap<&str, u64> =
        stacks.map(|stack| (stack.spec.name.as_str(), 0)).collect();
    for service in snapshot.services().filter(|one| !one.stack.is_empty()) {
        let mut hasher = DefaultHasher::new();
        (&service.id, service.spec_version).hash(&mut hasher);
        let mark = marks.entry(&service.stack).or_default();
        *mark = mark.wrapping_add(hasher.finish());
    }
    marks
}

fn of_stack<'a>(snapshot: &'a Snapshot, name: &str) -> impl Iterator<Item = &'a Service> {
    let services = snapshot.services().map(|one| &**one);
    services.filter(move |one| one.stack == name)
}

/// A deploy as a whole has not come to its end: what it is, is for that to say.
fn is_under_way(snapshot: &Snapshot, name: &str) -> bool {
    let rollout = snapshot.by_name::<Stack>(name);
    let rollout = rollout.and_then(|stack| stack.rollout.as_ref().map(|one| (stack, one)));
    rollout.is_some_and(|(stack, rollout)| {
        rollout.state.is_active() && !control::is_of_others(&stack.because)
    })
}

/// An update may still fail, and be taken back.
fn is_updating(snapshot: &Snapshot, name: &str) -> bool {
    of_stack(snapshot, name).any(|service| {
        let status = service.update_status.as_ref();
        status.is_some_and(|status| status.state == UpdateState::Updating)
    })
}

fn newest_of(snapshot: &Snapshot, name: &str) -> Option<Timestamp> {
    of_stack(snapshot, name).map(|one| one.updated_at).max()
}
