//! What tasks have used lately, as their agents say. It goes the way of signs of life: nothing of it
//! is written down, and a leader begins with nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use skep_model::{NodeId, ServiceId, TaskId, Timestamp};
use skep_proto::v1::TaskUsage;
use skep_reconcile::autoscale::{Usage, Usages};
use skep_store::Snapshot;

/// The last so many measurements of a task count alike.
const SAMPLES: usize = 3;
/// What was heard longer ago says nothing of the present. Agents speak every few seconds.
const FRESH: Duration = Duration::from_secs(20);
/// Tasks that are remembered at most; a task has about 200 bytes.
const TASKS_MAX: usize = 50_000;

/// Whether a node speaks of a task of its own: nobody keeps anything else, which one node could say
/// without end.
pub fn is_own(snapshot: &Snapshot, node: &NodeId, usage: &TaskUsage) -> bool {
    let task = snapshot.task(&TaskId::new(&usage.task_id));
    task.is_some_and(|task| task.node_id == *node)
}

/// Used on the leader only.
#[derive(Debug, Default)]
pub struct Heard {
    tasks: BTreeMap<TaskId, VecDeque<(Timestamp, Usage)>>,
    values: BTreeMap<ServiceId, (Timestamp, f64)>,
}

impl Heard {
    /// Notes what a node said of one of its tasks. What is said of others is dropped: managers of
    /// before hand on whatever they are told.
    pub fn note(&mut self, snapshot: &Snapshot, usage: &TaskUsage, now: Timestamp) {
        if !is_own(snapshot, &NodeId::new(&usage.node_id), usage) {
            return;
        }
        let id = TaskId::new(&usage.task_id);
        if self.tasks.len() >= TASKS_MAX && !self.tasks.contains_key(&id) {
            return;
        }
        let samples = self.tasks.entry(id).or_default();
        samples.push_back((
            now,
            Usage {
                nano_cpus: usage.nano_cpus as f64,
                bytes: usage.memory_bytes as f64,
            },
        ));
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
    }

    /// Notes the value of a service's expression.
    pub fn value(&mut self, service: &ServiceId, value: f64, now: Timestamp) {
        self.values.insert(service.clone(), (now, value));
    }

    /// Forgets everything: a new term of office begins.
    pub fn clear(&mut self) {
        self.tasks.clear();
        self.values.clear();
    }

    /// What is known of the present, of tasks that are there. The rest is forgotten.
    pub fn present(&mut self, snapshot: &Snapshot, now: Timestamp) -> Usages {
        let is_fresh = |at: Timestamp| now.since(at) <= FRESH;
        self.tasks.retain(|id, samples| {
            samples.retain(|(at, _)| is_fresh(*at));
            !samples.is_empty() && snapshot.task(id).is_some()
        });
        self.values
            .retain(|id, (at, _)| is_fresh(*at) && snapshot.service(id).is_some());
        let mean = |samples: &VecDeque<(Timestamp, Usage)>| {
            let count = samples.len() as f64;
            let sum = |of: fn(&Usage) -> f64| samples.iter().map(|(_, one)| of(one)).sum::<f64>();
            Usage {
                nano_cpus: sum(|one| one.nano_cpus) / count,
                bytes: sum(|one| one.bytes) / count,
            }
        };
        let tasks = self.tasks.iter();
        let values = self.values.iter();
        Usages {
            tasks: tasks
                .map(|(id, samples)| (id.clone(), mean(samples)))
                .collect(),
            values: values
                .map(|(id, (_, value))| (id.clone(), *value))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{next_signs, next_usages};
    use crate::sessions::Sessions;
    use skep_model::Task;
    use skep_proto::v1;
    use skep_store::{Commit, Store, Transaction};

    fn snapshot() -> Snapshot {
        let store = Store::new();
        let mut transaction = Transaction::new(&store.snapshot(), Timestamp::ZERO);
        let task = Task {
            id: "t".into(),
            node_id: "n".into(),
            ..Task::default()
        };
        transaction.put(task).unwrap();
        let commit: Commit = transaction.commit().unwrap();
        store.apply(1, &commit).unwrap();
        store.snapshot()
    }

    fn usage(task: &str, node: &str, nano_cpus: u64) -> TaskUsage {
        TaskUsage {
            node_id: node.to_owned(),
            task_id: task.to_owned(),
            nano_cpus,
            memory_bytes: 7,
        }
    }

    #[test]
    fn the_last_measurements_count_alike_until_they_are_old() {
        let mut heard = Heard::default();
        for (at, cpus) in [(0, 900), (5, 100), (10, 200), (15, 300)] {
            heard.note(
                &snapshot(),
                &usage("t", "n", cpus),
                Timestamp::from_secs(at),
            );
        }
        let known = |heard: &mut Heard, at| {
            let usages = heard.present(&snapshot(), Timestamp::from_secs(at));
            usages.tasks.get("t").map(|usage| usage.nano_cpus)
        };
        assert_eq!(known(&mut heard, 15), Some(200.0));
        assert_eq!(known(&mut heard, 28), Some(250.0));
        assert_eq!(known(&mut heard, 36), None);
        assert!(heard.tasks.is_empty());
    }

    #[test]
    fn only_a_tasks_own_node_speaks_of_it() {
        let mut heard = Heard::default();
        heard.note(
            &snapshot(),
            &usage("t", "other", 900),
            Timestamp::from_secs(0),
        );
        heard.note(
            &snapshot(),
            &usage("gone", "n", 900),
            Timestamp::from_secs(0),
        );
        assert!(heard.tasks.is_empty(), "nothing of it is kept");
        heard.note(&snapshot(), &usage("t", "n", 100), Timestamp::from_secs(2));
        heard.note(
            &snapshot(),
            &usage("t", "other", 900),
            Timestamp::from_secs(3),
        );
        let usages = heard.present(&snapshot(), Timestamp::from_secs(4));
        assert_eq!(usages.tasks["t"].nano_cpus, 100.0);
    }

    #[test]
    fn nothing_waits_for_the_leader_but_what_a_node_says_of_its_own_tasks() {
        let sessions = Sessions::default();
        // One session can say this much at once, and as often as it likes.
        let foreign = (0..30_000).map(|at| usage(&format!("{at:01000}"), "n", 1));
        sessions.used(&snapshot(), &"n".into(), foreign.collect());
        sessions.used(&snapshot(), &"other".into(), vec![usage("t", "n", 900)]);
        assert!(next_usages(&sessions).is_none());
        // The certificate says who speaks, agents need not.
        sessions.used(&snapshot(), &"n".into(), vec![usage("t", "", 100)]);
        let request = next_usages(&sessions).unwrap();
        assert_eq!(request.usages, [usage("t", "n", 100)]);
        assert!(next_usages(&sessions).is_none());
    }

    #[test]
    fn signs_of_life_do_not_depend_on_what_tasks_use() {
        let sessions = Sessions::default();
        sessions.used(&snapshot(), &"n".into(), vec![usage("t", "n", 100)]);
        assert!(next_signs(&sessions).is_none());
        sessions.heard(v1::Heard {
            node_id: "n".to_owned(),
            ..v1::Heard::default()
        });
        let signs = next_signs(&sessions).unwrap();
        assert_eq!((signs.heard.len(), signs.usages.len()), (1, 0));
        let usages = next_usages(&sessions).unwrap();
        assert_eq!((usages.heard.len(), usages.usages.len()), (0, 1));
    }
}
