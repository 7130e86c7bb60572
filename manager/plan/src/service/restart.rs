//! Whether and when a task that ended is replaced.

use skep_model::task::{RestartCondition, RestartPolicy};
use skep_model::{Nanos, Task, TaskState, Timestamp};

/// Delay between an end and the next start when the policy names none.
pub const DELAY_DEFAULT: Nanos = Nanos::from_secs(5);

/// What becomes of a slot whose last task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The slot stays empty.
    Never,
    /// A new task is made at `make_at`, to run from `start_at` on.
    At {
        make_at: Timestamp,
        start_at: Timestamp,
    },
}

/// Whether a task ended by itself, and not because it was told to or its node was lost.
pub fn ended_by_itself(task: &Task) -> bool {
    match task.status.state {
        TaskState::Complete | TaskState::Failed => true,
        // A task that ran and is rejected was evicted by the enforcer.
        TaskState::Rejected => task.running_since.is_zero(),
        TaskState::New
        | TaskState::Pending
        | TaskState::Assigned
        | TaskState::Accepted
        | TaskState::Preparing
        | TaskState::Ready
        | TaskState::Starting
        | TaskState::Running
        | TaskState::Shutdown
        | TaskState::Remove
        | TaskState::Orphaned => false,
    }
}

/// Decides about the slot of `ended`, its last task.
///
/// `history` are the stored tasks of the slot, in any order. `hasty` skips the delay: the node is
/// lost, so there is no crash to wait out. Jobs treat `any` as `on-failure`.
pub fn decide<'a>(
    ended: &Task,
    policy: &RestartPolicy,
    history: impl IntoIterator<Item = &'a Task>,
    hasty: bool,
    is_job: bool,
) -> Restart {
    let delay = match hasty {
        true => Nanos(0),
        false => policy.delay.unwrap_or(DELAY_DEFAULT),
    };
    let completed = ended.status.state == TaskState::Complete;
    let wanted = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => !completed,
        RestartCondition::Any => !(is_job && completed),
    };
    if !wanted {
        return Restart::Never;
    }
    if !ended_by_itself(ended) {
        return Restart::At {
            make_at: Timestamp::ZERO,
            start_at: Timestamp::ZERO,
        };
    }
    let limit = policy.max_attempts.unwrap_or(0);
    if limit > 0 {
        let window = policy.window.unwrap_or(Nanos(0));
        let ended_at = ended.status.applied_at;
        // Without a window the task itself knows, however little history is kept.
        let counted = match window.0 <= 0 {
            true => earlier(ended, history),
            false => {
                let in_window =
                    |task: &&Task| ended_at.since(task.status.applied_at) <= window.duration();
                ended_before(ended, history).filter(in_window).count() as u64
            }
        };
        if counted >= limit {
            return Restart::Never;
        }
    }
    // A task that failed while it was waiting for its own delay does not shorten it.
    let in_delay = ended.start_not_before > ended.status.applied_at && !hasty;
    let make_at = match in_delay {
        true => ended.start_not_before,
        false => Timestamp::ZERO,
    };
    Restart::At {
        make_at,
        start_at: ended.status.applied_at.max(make_at).plus(delay.duration()),
    }
}

/// How often the slot of `ended` was filled again before, in its version of the spec. Tasks that
/// were stored before they counted themselves are counted from `history`.
pub fn earlier<'a>(ended: &Task, history: impl IntoIterator<Item = &'a Task>) -> u64 {
    ended
        .restarts
        .max(ended_before(ended, history).count() as u64)
}

/// The other tasks of the same version that ended by themselves.
fn ended_before<'a>(
    ended: &Task,
    history: impl IntoIterator<Item = &'a Task>,
) -> impl Iterator<Item = &'a Task> {
    let (id, version) = (ended.id.clone(), ended.spec_version);
    history
        .into_iter()
        .filter(move |task| task.id != id && task.spec_version == version)
        .filter(|task| ended_by_itself(task))
}
