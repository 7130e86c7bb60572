//! Placements per second of the scheduler alone, on one core.

use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_model::placement::{Placement, PlacementPreference, SpreadOver};
use skep_model::volume_home::VolumeHomes;
use skep_model::{Node, NodeState, Task, TaskState, Timestamp};
use skep_plan::{NodeTable, schedule};

use crate::table::Table;

const TASKS: usize = 10_000;
const GROUP: usize = 100;

fn nodes(count: usize) -> NodeTable {
    let mut table = NodeTable::new();
    for at in 0..count {
        let mut node = Node {
            id: format!("node{at:05}").into(),
            ..Default::default()
        };
        node.status.state = NodeState::Ready;
        node.description.resources.nano_cpus.0 = 64_000_000_000;
        node.description.resources.memory_bytes.0 = 256 << 30;
        node.spec
            .labels
            .insert("zone".into(), format!("z{}", at % 5));
        node.spec.labels.insert(
            "disk".into(),
            if at % 2 == 0 { "ssd" } else { "hdd" }.into(),
        );
        table.put_node(&Arc::new(node));
    }
    table
}

fn task(group: usize, at: usize, placement: Option<Placement>) -> Arc<Task> {
    let mut task = Task {
        id: format!("task{group:05}x{at:05}").into(),
        service_id: format!("service{group:05}").into(),
        slot: at as u64 + 1,
        desired_state: TaskState::Running,
        ..Default::default()
    };
    task.status.state = TaskState::Pending;
    task.spec.placement = placement;
    Arc::new(task)
}

/// Places `TASKS` tasks in groups, as many services of 100 replicas would.
fn place(nodes_count: usize, placement: &Option<Placement>) -> Duration {
    let mut table = nodes(nodes_count);
    let groups: Vec<Vec<Arc<Task>>> = (0..TASKS / GROUP)
        .map(|group| {
            (0..GROUP)
                .map(|at| task(group, at, placement.clone()))
                .collect()
        })
        .collect();
    let began = Instant::now();
    let mut placed = 0;
    for group in &groups {
        placed += schedule(
            &mut table,
            group,
            &VolumeHomes::new(),
            Timestamp::from_secs(1),
        )
        .iter()
        .filter(|outcome| outcome.result.is_ok())
        .count();
    }
    assert_eq!(placed, TASKS, "every task finds a node");
    began.elapsed()
}

pub fn run(table: &mut Table) {
    let constrained = Some(Placement {
        constraints: vec!["node.labels.disk==ssd".into()],
        preferences: vec![PlacementPreference {
            spread: SpreadOver {
                spread_descriptor: "node.labels.zone".into(),
            },
        }],
        ..Default::default()
    });
    for (name, placement) in [("plain", &None), ("constraint and spread", &constrained)] {
        for count in [1_000, 5_000] {
            let best = (0..3)
                .map(|_| place(count, placement))
                .min()
                .unwrap_or_default();
            let rate = TASKS as f64 / best.as_secs_f64();
            table.add("placements", format!("{count} nodes, {name}"), rate, "/s");
        }
    }
}
