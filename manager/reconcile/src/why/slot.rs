//! Slots: what the task that should fill one waits for, or how its predecessors ended.

use std::time::Duration;

use skep_model::secret_store::STORE_WORDS;
use skep_model::task::RestartCondition;
use skep_model::why::{Cause, Trouble};
use skep_model::{NodeState, Service, Task, TaskState, Timestamp};
use skep_plan::service::restart::{Restart, decide, ended_by_itself};

use super::{View, words};

/// A task that runs again counts as well once it has for so long.
const WELL_AFTER: Duration = Duration::from_secs(60);

impl View<'_> {
    /// What is amiss in a slot; `tasks` are all of its tasks, the oldest first.
    pub(super) fn slot_causes(&self, service: &Service, tasks: &[&Task]) -> Vec<Cause> {
        let mut live: Vec<&Task> = tasks.iter().copied().filter(|one| one.is_live()).collect();
        // Where nothing lives, the last one tells why.
        if live.is_empty() {
            live.extend(tasks.last());
        }
        let mut causes: Vec<Cause> = live
            .into_iter()
            .filter_map(|task| self.task_cause(Some(service), task, tasks))
            .collect();
        // One that was told to stop in an emptied slot is told about already.
        let leaving = tasks.iter().filter(|task| {
            task.desired_state > TaskState::Running && !task.status.state.is_terminal()
        });
        if causes.is_empty() {
            causes.extend(leaving.filter_map(|task| self.leaving(task)));
        }
        causes
    }

    /// What is amiss with one task, seen with those of its slot.
    pub(super) fn task_cause(
        &self,
        service: Option<&Service>,
        task: &Task,
        slot: &[&Task],
    ) -> Option<Cause> {
        if task.status.state.is_terminal() {
            return self.ended(service, task, slot);
        }
        if task.desired_state > TaskState::Running && task.desired_state != TaskState::Complete {
            return self.leaving(task);
        }
        if let Some(cause) = self.of_its_node(task) {
            return Some(cause);
        }
        let failures = failures(task, slot);
        if task.status.state == TaskState::Running {
            if task.status.err.starts_with(STORE_WORDS) {
                // It goes on with the version that it has.
                return Some(self.waits_for_store(task));
            }
            let last = failures.last()?;
            let again = self.now.since(task.running_since) <= WELL_AFTER && failures.len() > 1;
            return again.then(|| self.after_failure(task, last, failures.len()));
        }
        if let Some(last) = failures.last() {
            // What is wrong with the new one, if that is known already, comes first.
            if task.status.err.is_empty() {
                return Some(self.after_failure(task, last, failures.len()));
            }
        }
        self.waiting(service, task, slot)
    }

    /// A task that takes the place of one that failed.
    fn after_failure(&self, task: &Task, last: &Task, failures: usize) -> Cause {
        let trouble = words::of_end(last);
        let times = match failures.max(usize::try_from(task.restarts).unwrap_or(usize::MAX)) {
            1 => "failed once".to_owned(),
            times => format!("failed {times} times"),
        };
        let on = self.node_name(&last.node_id);
        let now = match task.status.state {
            TaskState::Running => "runs again",
            _ if task.start_not_before > self.now => "waits for its restart delay",
            _ => "is tried again",
        };
        Cause {
            message: format!("{times}, last on {on}: {}; {now}", words::ended(last)),
            next: task.start_not_before,
            since: last.status.applied_at,
            ..cause(task, trouble)
        }
    }

    /// A task on a node that is not there.
    fn of_its_node(&self, task: &Task) -> Option<Cause> {
        if task.node_id.is_empty() {
            return None;
        }
        let node = self.snapshot.node(&task.node_id)?;
        (node.status.state == NodeState::Down).then(|| Cause {
            message: format!("its node {} is down", self.node_name(&task.node_id)),
            since: node.status.since,
            ..cause(task, Trouble::NodeDown)
        })
    }

    /// A task that lives and does not run yet, and no earlier one of its slot has failed.
    fn waiting(&self, service: Option<&Service>, task: &Task, slot: &[&Task]) -> Option<Cause> {
        let status = &task.status;
        let on = self.node_name(&task.node_id);
        let started = |trouble, message| Cause {
            message,
            since: status.applied_at,
            ..cause(task, trouble)
        };
        if status.state < TaskState::Assigned {
            if !status.err.is_empty() {
                return Some(self.no_node(task));
            }
            // The service itself says what it waits for.
            if service.is_some_and(|service| !service.waits_for.is_empty()) {
                return None;
            }
            return Some(started(Trouble::Starting, "is being placed".to_owned()));
        }
        if status.err.starts_with(STORE_WORDS) {
            return Some(self.waits_for_store(task));
        }
        if task.desired_state < TaskState::Running && status.state == TaskState::Ready {
            if task.start_not_before > self.now {
                let mut cause = started(
                    Trouble::RestartDelay,
                    "waits for its restart delay".to_owned(),
                );
                cause.next = task.start_not_before;
                return Some(cause);
            }
            let old = slot
                .iter()
                .rev()
                .find(|old| old.id != task.id && !old.status.state.is_terminal());
            if let Some(old) = old {
                return Some(started(
                    Trouble::Predecessor,
                    format!("is ready on {on}, and waits for {} to stop", old.id),
                ));
            }
        }
        Some(match status.state {
            TaskState::Running => return None,
            TaskState::Starting => started(
                Trouble::Health,
                format!("was started on {on}, and its health check has not passed yet"),
            ),
            TaskState::Ready => started(Trouble::Starting, format!("is ready on {on}, and starts")),
            TaskState::Preparing => started(
                Trouble::Pulling,
                format!(
                    "{on} gets the image {} and what else it needs",
                    task.spec.image()
                ),
            ),
            _ => started(
                Trouble::Starting,
                format!("was given to {on}, which has not begun"),
            ),
        })
    }

    /// A task that needs what a store outside of the cluster does not give.
    fn waits_for_store(&self, task: &Task) -> Cause {
        let on = self.node_name(&task.node_id);
        Cause {
            message: format!("waits on {on}: {}", task.status.err),
            since: task.status.applied_at,
            ..cause(task, Trouble::SecretStore)
        }
    }

    fn no_node(&self, task: &Task) -> Cause {
        let err = &task.status.err;
        let trouble = match err.starts_with(words::NO_NODE) {
            true => {
                let trouble = words::of_refused(err);
                if trouble != Trouble::Predecessor {
                    let mut waiting = self.waiting.borrow_mut();
                    waiting.insert(task.name(), task.id.clone());
                }
                trouble
            }
            false => words::of_allocation(err),
        };
        Cause {
            message: err.clone(),
            since: task.created_at,
            ..cause(task, trouble)
        }
    }

    /// A task that has been told to stop and has not ended.
    fn leaving(&self, task: &Task) -> Option<Cause> {
        if let Some(mut cause) = self.of_its_node(task) {
            cause.message.push_str(", and it is to stop there");
            return Some(cause);
        }
        let on = self.node_name(&task.node_id);
        if task.node_id.is_empty() {
            return None;
        }
        let (trouble, message) = match task.is_draining() {
            true => (
                Trouble::Draining,
                format!("is to stop on {on}, once no node leads clients there"),
            ),
            false => {
                let grace = task
                    .spec
                    .container()
                    .and_then(|container| container.stop_grace_period)
                    .map_or(10, |grace| grace.duration().as_secs());
                let message =
                    format!("stops on {on}; after a grace period of {grace} s it is killed");
                (Trouble::Stopping, message)
            }
        };
        Some(Cause {
            message,
            since: task.draining_since,
            ..cause(task, trouble)
        })
    }

    /// The last task of a slot, which has ended.
    fn ended(&self, service: Option<&Service>, task: &Task, slot: &[&Task]) -> Option<Cause> {
        let policy = task.spec.restart_policy.clone().unwrap_or_default();
        let is_job = service.is_some_and(|service| service.spec.mode.is_job());
        if is_job && task.status.state == TaskState::Complete {
            return None;
        }
        if !ended_by_itself(task) {
            // It was told to, or its node is lost.
            return None;
        }
        let history = slot.iter().copied();
        let why = words::ended(task);
        let again = decide(task, &policy, history, false, is_job);
        let trouble = words::of_end(task);
        Some(match again {
            Restart::At { make_at, start_at } => Cause {
                message: format!("{why}; another one is made"),
                since: task.status.applied_at,
                next: make_at.max(start_at),
                ..cause(task, trouble)
            },
            Restart::Never => {
                let attempts = policy.max_attempts.unwrap_or(0);
                let rule = match policy.condition {
                    RestartCondition::None => "its restart condition is none".to_owned(),
                    RestartCondition::OnFailure if task.status.state == TaskState::Complete => {
                        "its restart condition is on-failure".to_owned()
                    }
                    _ => format!("it was restarted {attempts} times, as often as it may be"),
                };
                Cause {
                    message: format!("{why}; not started again: {rule}"),
                    since: task.status.applied_at,
                    ..cause(task, Trouble::GaveUp)
                }
            }
        })
    }

    /// A task's state as a sentence.
    pub(super) fn in_words(&self, task: &Task) -> String {
        let mut text = words::state(&task.status);
        if !task.node_id.is_empty() {
            text.push_str(" on ");
            text.push_str(&self.node_name(&task.node_id));
        }
        text
    }
}

/// A cause with the trouble's usual advice.
fn cause(task: &Task, trouble: Trouble) -> Cause {
    Cause {
        subject: task.name(),
        trouble,
        advice: words::advice(trouble).replace("SERVICE", &task.service_name),
        since: Timestamp::ZERO,
        ..Cause::default()
    }
}

/// The tasks of the slot that ended by themselves in `task`'s version of the spec, before it.
fn failures<'a>(task: &Task, slot: &[&'a Task]) -> Vec<&'a Task> {
    let mut failed: Vec<&Task> = slot
        .iter()
        .copied()
        .filter(|one| one.id != task.id && one.spec_version == task.spec_version)
        .filter(|one| one.created_at <= task.created_at)
        .filter(|one| ended_by_itself(one))
        .collect();
    failed.sort_by_key(|one| one.status.applied_at);
    failed
}
