//! What tasks use: measured for the services that managers ask about, and told beside statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skep_engine::types::MemoryStats;
use skep_model::{Task, TaskId, TaskState};
use skep_proto::v1::{AgentMessage, TaskUsage, Usages, agent_message};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::session::message;
use crate::worker::Worker;

/// Between two measurements.
const PERIOD: Duration = Duration::from_secs(5);
/// Tasks measured at most; a node has some hundred.
const TASKS_MAX: usize = 2000;

/// Measures as long as it is kept.
pub struct Meter {
    wanted: watch::Sender<BTreeSet<String>>,
    running: JoinHandle<()>,
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Meter {
    /// Begins without a service to measure.
    pub fn new(worker: Arc<Worker>, out: mpsc::Sender<AgentMessage>) -> Self {
        let (wanted, services) = watch::channel(BTreeSet::new());
        Self {
            wanted,
            running: tokio::spawn(run(worker, out, services)),
        }
    }

    /// Services whose tasks are to be measured from now on.
    pub fn want(&self, services: Vec<String>) {
        self.wanted.send_replace(services.into_iter().collect());
    }
}

/// How long a task had the processors, at some moment. Both in nanoseconds.
type Reading = (i64, u64);

async fn run(
    worker: Arc<Worker>,
    out: mpsc::Sender<AgentMessage>,
    mut services: watch::Receiver<BTreeSet<String>>,
) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before: BTreeMap<TaskId, Reading> = BTreeMap::new();
    loop {
        tick.tick().await;
        let wanted = services.borrow_and_update().clone();
        if wanted.is_empty() {
            before.clear();
            if services.changed().await.is_err() {
                return;
            }
            continue;
        }
        let assigned = worker.assigned();
        let tasks = assigned
            .tasks
            .values()
            .filter(|task| is_measured(task, &wanted));
        let mut now = BTreeMap::new();
        let mut usages = Vec::new();
        for task in tasks.take(TASKS_MAX) {
            // One that has no container yet, or none any more, uses nothing that counts.
            let read = worker
                .engine
                .container_stats(&task.container_name(), true)
                .await;
            let Ok(stats) = read else { continue };
            let total = stats.cpu_stats.cpu_usage.total_usage;
            if total == 0 {
                continue;
            }
            let reading = (stats.read.0, total);
            if let Some(nano_cpus) = before.get(&task.id).and_then(|last| rate(*last, reading)) {
                usages.push(TaskUsage {
                    node_id: String::new(),
                    task_id: task.id.to_string(),
                    nano_cpus,
                    memory_bytes: memory(&stats.memory_stats),
                });
            }
            now.insert(task.id.clone(), reading);
        }
        before = now;
        if usages.is_empty() {
            continue;
        }
        // A manager that is slow to listen hears the next ones.
        let _ = out.try_send(message(agent_message::Content::Usages(Usages { usages })));
    }
}

fn is_measured(task: &Task, wanted: &BTreeSet<String>) -> bool {
    task.desired_state == TaskState::Running
        && !task.status.state.is_terminal()
        && wanted.contains(task.service_id.as_str())
}

/// Bytes in use without what the kernel can take back at once, as `stats` counts them. The name is
/// another one with version 1 of cgroups.
fn memory(stats: &MemoryStats) -> u64 {
    let known = |name| stats.stats.get(name).copied();
    let cache = known("total_inactive_file").or(known("inactive_file"));
    let usage = stats.usage.unwrap_or(0);
    usage.saturating_sub(cache.unwrap_or(0))
}

/// Processors used between two readings, in billionths. Nothing when they do not follow one another.
fn rate(before: Reading, now: Reading) -> Option<u64> {
    let passed = u64::try_from(now.0.checked_sub(before.0)?).ok()?;
    let used = now.1.checked_sub(before.1)?;
    let rate = u128::from(used) * 1_000_000_000 / u128::from(passed.max(1));
    (passed > 0).then(|| u64::try_from(rate).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_can_be_taken_back_does_not_count() {
        let of = |name: &str| MemoryStats {
            usage: Some(1000),
            stats: BTreeMap::from([(name.to_owned(), 300)]),
            ..MemoryStats::default()
        };
        assert_eq!(memory(&of("inactive_file")), 700);
        assert_eq!(memory(&of("total_inactive_file")), 700);
        assert_eq!(memory(&of("anon")), 1000);
        assert_eq!(memory(&MemoryStats::default()), 0);
    }

    #[test]
    fn a_rate_is_of_two_readings_that_follow_one_another() {
        let second = 1_000_000_000;
        assert_eq!(
            rate((0, 5), (4 * second, 5 + 2 * second as u64)),
            Some(500_000_000)
        );
        assert_eq!(rate((second, 5), (second, 9)), None, "no time has passed");
        assert_eq!(rate((second, 5), (0, 9)), None, "the clock went back");
        assert_eq!(rate((0, 9), (second, 5)), None, "another container");
        assert_eq!(rate((0, 0), (1, u64::MAX)), Some(u64::MAX));
    }
}
