//! Stacks under way: when a deploy has come to its end, and the way back of one that failed.

use std::time::Duration;

use skep_model::rollout::{RolloutState, ServiceStage, StackFailureAction};
use skep_model::{Random, Stack, Timestamp};
use skep_store::{Commit, Snapshot, Transaction};

use crate::control;
use crate::progress::{judge, stack_progress};

/// The next thing to do about a stack under way, one at a time. To be asked again and again by whoever
/// leads; `steady_since` is since when it has measured time without a break.
pub fn advance_stacks(
    snapshot: &Snapshot,
    steady_since: Timestamp,
    now: Timestamp,
    random: &mut dyn Random,
) -> Option<Commit> {
    let active = snapshot.stacks().filter(|stack| {
        let rollout = stack.rollout.as_ref();
        rollout.is_some_and(|rollout| rollout.state.is_active())
    });
    active
        .into_iter()
        .find_map(|stack| advance(snapshot, stack, steady_since, now, random))
}

fn advance(
    snapshot: &Snapshot,
    stack: &Stack,
    steady_since: Timestamp,
    now: Timestamp,
    random: &mut dyn Random,
) -> Option<Commit> {
    let rollout = stack.rollout.as_ref()?;
    let progress = stack_progress(snapshot, &stack.spec.name)?;
    let (mut state, mut message) = judge(&progress.services, rollout.state);
    let timeout = rollout.wish.timeout.duration();
    let had = now.since(rollout.started_at.max(steady_since));
    if state.is_active() && timeout > Duration::ZERO && had >= timeout {
        let mut late = progress.services.iter();
        let late = late.find(|one| one.stage != ServiceStage::Done);
        let late = late.map(|one| format!("{}: {}", one.name, one.told()));
        message = format!(
            "not deployed within {} s: {}",
            timeout.as_secs(),
            late.unwrap_or_default()
        );
        state = match rollout.state {
            RolloutState::RollingBack => RolloutState::RollbackFailed,
            _ => RolloutState::TimedOut,
        };
    }
    if state.is_active() {
        return None;
    }
    let back = rollout.wish.failure_action == StackFailureAction::Rollback;
    if matches!(state, RolloutState::Failed | RolloutState::TimedOut) && back {
        match refuge(stack) {
            None => message.push_str("; there is no earlier revision to go back to"),
            Some(number) => {
                let name = &stack.spec.name;
                let failure = (state, message.as_str());
                match control::return_stack(snapshot, name, number, failure, now, random) {
                    Ok(commit) if !commit.is_empty() => return Some(commit),
                    Ok(_) => message.push_str("; the earlier revision is the same"),
                    Err(error) => message = format!("{message}; cannot go back: {error}"),
                }
            }
        }
    }
    let mut stack = stack.clone();
    let ended = stack.rollout.as_mut()?;
    ended.state = state;
    if !message.is_empty() {
        ended.message = message;
    }
    ended.ended_at = Some(now);
    let mut tx = Transaction::new(snapshot, now);
    tx.put(stack).ok()?;
    tx.commit()
}

/// The last revision that is not known to have failed, and is not what the present one is.
fn refuge(stack: &Stack) -> Option<u64> {
    let mut past = stack.history.iter();
    let good = past.find(|past| {
        let same = past.spec == stack.spec && past.secret_versions == stack.secret_versions;
        !same && past.outcome.is_none_or(RolloutState::is_good)
    });
    good.map(|past| past.number)
}
