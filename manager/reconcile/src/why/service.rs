//! Services: how many tasks they have, how their update goes, and what of their slots is amiss.

use std::collections::BTreeMap;

use skep_model::service::UpdateState;
use skep_model::volume_home::{VolumeHomes, is_sticky};
use skep_model::why::{Cause, Refusal, Trouble, Why};
use skep_model::{NodeId, Service, ServiceMode, Task, TaskState, Timestamp};
use skep_plan::schedule::examine;
use skep_plan::service::dirty::is_dirty;
use skep_plan::service::restart::ended_by_itself;
use skep_plan::{NewTask, new_task};

use super::{View, place, schedule, words};
use crate::gate;

impl View<'_> {
    pub(super) fn of_service(&self, service: &Service) -> Why {
        let tasks = self.snapshot.tasks_of_service(&service.id);
        Why {
            object: format!("service {}", service.spec.name),
            summary: self.service_summary(service)
                + &schedule::summary(service)
                + &autoscale(service, self.now),
            causes: self.service_causes(service),
            transitions: self.transitions(tasks.map(|task| &**task)),
        }
    }

    fn service_summary(&self, service: &Service) -> String {
        let tasks = || self.snapshot.tasks_of_service(&service.id);
        let running = tasks().filter(|task| task.serves()).count();
        let completed = || {
            let current = service.job_status.as_ref().map(|job| job.job_iteration);
            let done = tasks().filter(|task| {
                task.status.state == TaskState::Complete && task.job_iteration == current
            });
            let known = service.job_status.as_ref().map_or(0, |job| job.completed);
            known.max(done.count() as u64)
        };
        match &service.spec.mode {
            ServiceMode::Replicated(replicated) => {
                format!("{running} of {} tasks run", replicated.count())
            }
            ServiceMode::Global(_) => format!(
                "runs on {running} of {} nodes",
                self.snapshot.nodes().count()
            ),
            ServiceMode::ReplicatedJob(job) => {
                let total = job.total_completions.or(job.max_concurrent).unwrap_or(1);
                format!("{} of {total} runs completed", completed())
            }
            ServiceMode::GlobalJob(_) => format!("completed on {} nodes", completed()),
        }
    }

    /// What is amiss with a service or its tasks.
    pub(super) fn service_causes(&self, service: &Service) -> Vec<Cause> {
        let mut slots: BTreeMap<(u64, NodeId), Vec<&Task>> = BTreeMap::new();
        for task in self.snapshot.tasks_of_service(&service.id) {
            slots
                .entry((task.slot, place(task)))
                .or_default()
                .push(task);
        }
        let mut causes = self.spec_causes(service);
        causes.extend(schedule::causes(service));
        for tasks in slots.values_mut() {
            tasks.sort_by_key(|task| (task.created_at, task.status.applied_at));
            causes.extend(self.slot_causes(service, tasks));
        }
        if slots.is_empty() && service.waits_for.is_empty() {
            causes.extend(self.no_place(service));
        }
        causes
    }

    /// What is amiss with the service itself.
    pub(super) fn spec_causes(&self, service: &Service) -> Vec<Cause> {
        let cause = |trouble, message: &str, since, advice: &str| Cause {
            subject: service.spec.name.clone(),
            trouble,
            message: message.to_owned(),
            advice: advice.to_owned(),
            since,
            ..Cause::default()
        };
        let mut causes = Vec::new();
        if !service.waits_for.is_empty() {
            let trouble = words::of_allocation(&service.waits_for);
            causes.push(cause(
                trouble,
                &service.waits_for,
                service.updated_at,
                words::advice(trouble),
            ));
        }
        let begun = self.snapshot.tasks_of_service(&service.id).next().is_some();
        if !begun {
            let waits = gate::waits(self.snapshot, service);
            causes.extend(waits.iter().map(|wait| {
                cause(
                    Trouble::Dependency,
                    wait,
                    service.updated_at,
                    words::advice(Trouble::Dependency),
                )
            }));
        }
        let Some(status) = &service.update_status else {
            return causes;
        };
        let since = status.started_at.unwrap_or_default();
        causes.extend(match status.state {
            UpdateState::Updating | UpdateState::RollbackStarted => {
                Some(cause(Trouble::Updating, &status.message, since, ""))
            }
            UpdateState::Paused => Some(cause(
                Trouble::UpdatePaused,
                &status.message,
                since,
                "mend what failed and update again, or `service rollback`",
            )),
            UpdateState::RollbackPaused => Some(cause(
                Trouble::RollbackPaused,
                &status.message,
                since,
                "`service update` with a spec that runs; `service history` lists the earlier ones",
            )),
            UpdateState::RollbackCompleted => self.gone_back(service).map(|failed| {
                let why = words::ended(failed);
                cause(
                    Trouble::RolledBack,
                    &format!(
                        "went back to its previous spec: {} failed: {why}",
                        failed.name()
                    ),
                    status.completed_at.unwrap_or(since),
                    "`service ps` and `service logs` show the failed tasks",
                )
            }),
            UpdateState::Completed => None,
        });
        causes
    }

    /// The failed task for which an update went back, as long as it is listed.
    fn gone_back<'b>(&'b self, service: &'b Service) -> Option<&'b Task> {
        self.snapshot
            .tasks_of_service(&service.id)
            .filter(|task| task.by_update && ended_by_itself(task))
            .filter(|task| task.status.state != TaskState::Complete)
            .filter(|task| {
                is_dirty(
                    task,
                    service,
                    self.snapshot.node(&task.node_id).map(|n| &**n),
                )
            })
            .max_by_key(|task| task.status.applied_at)
            .map(|task| &**task)
    }

    /// A service that has no task at all, and should: one for each node, and no node will do.
    fn no_place(&self, service: &Service) -> Option<Cause> {
        if !matches!(
            service.spec.mode,
            ServiceMode::Global(_) | ServiceMode::GlobalJob(_)
        ) {
            return None;
        }
        let wanted = NewTask {
            slot: 0,
            node: None,
            desired: TaskState::Running,
            start_not_before: Timestamp::ZERO,
            by_update: false,
            restarts: 0,
            iteration: None,
        };
        let task = new_task(
            service,
            self.snapshot.cluster().map(|cluster| &**cluster),
            Default::default(),
            &wanted,
            self.now,
        );
        let refusals = self.refusals(&task);
        if refusals.iter().any(|refusal| refusal.reasons.is_empty()) {
            return None;
        }
        let trouble = words::of_refusals(&refusals);
        Some(Cause {
            subject: service.spec.name.clone(),
            trouble,
            message: "no node is one that it should run on".to_owned(),
            advice: words::advice(trouble).to_owned(),
            since: service.updated_at,
            refusals,
            ..Cause::default()
        })
    }

    /// What each node has against `task`, with the names of those that are in its way.
    pub(super) fn refusals(&self, task: &Task) -> Vec<Refusal> {
        let named = |verdict: skep_plan::schedule::Verdict| Refusal {
            node: self.node_name(&verdict.node),
            node_id: verdict.node,
            reasons: verdict.reasons,
        };
        let service = self.snapshot.service(&task.service_id);
        let service = service.filter(|service| is_sticky(&service.spec.labels));
        let none = VolumeHomes::new();
        let homes = service.map_or(&none, |service| &service.volume_homes);
        let verdicts = examine(self.nodes(), task, homes);
        verdicts.into_iter().map(named).collect()
    }
}

/// What is added to the summary of a service that is scaled by itself.
fn autoscale(service: &Service, now: Timestamp) -> String {
    let Ok(Some(wanted)) = service.spec.autoscale() else {
        return String::new();
    };
    let mut text = format!("; scaled by itself from {} to {}", wanted.min, wanted.max);
    let Some(status) = &service.autoscale else {
        return text;
    };
    let ago = |at: Timestamp| format!("{} s ago", now.since(at).as_secs());
    if !status.figures.is_empty() {
        let figures = status.figures.join(", ");
        text.push_str(&format!("; {figures} ({})", ago(status.measured_at)));
    }
    if let Some(at) = status.changed_at {
        let (from, to, because) = (status.from, status.to, &status.because);
        let ago = ago(at);
        text.push_str(&format!("; last from {from} to {to} {ago}: {because}"));
    }
    text
}
