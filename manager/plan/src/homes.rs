//! Which node has the volumes of which slot, for services whose tasks return to them.
//!
//! A slot's home is where its first task is sent. It is kept from that moment, since a node that is
//! lost right after may have begun to write; it is given up again only when the task is known to have
//! come to nothing, before it had a container and so a volume. Once there was a container, nothing
//! but the user's word takes the home away.

use std::sync::Arc;

use skep_model::volume_home::{VOLUMES_OF_SLOT_MAX, VolumeHome, VolumeHomes, is_sticky, volumes};
use skep_model::{Availability, Node, NodeState, Service, Task, TaskState, Timestamp};

use crate::enforce::EVICTED;
use crate::schedule::NodeTable;
use crate::service::{is_lost, stop_wait};

/// Of a task whose end only its node can tell.
pub const WHEN_IT_SAYS_SO: Timestamp = Timestamp(i64::MAX);

/// The homes of a service's slots as its tasks show them; nothing when they are as they are stored.
pub fn settle(
    service: &Service,
    tasks: &[Arc<Task>],
    nodes: &NodeTable,
    now: Timestamp,
) -> Option<VolumeHomes> {
    let mut homes = service.volume_homes.clone();
    match is_sticky(&service.spec.labels) {
        true => {
            homes.retain(|slot, home| is_kept(*slot, home, tasks));
            for task in tasks.iter().filter(|task| has_had_container(task)) {
                hold(&mut homes, task, nodes, now);
            }
        }
        false => homes.clear(),
    }
    (homes != service.volume_homes).then_some(homes)
}

/// Makes the node that `task` is sent to the home of its slot, if that has none.
pub fn claim(homes: &mut VolumeHomes, task: &Task, node: &Node, now: Timestamp) {
    homes.entry(task.slot).or_insert_with(|| VolumeHome {
        node_id: node.id.clone(),
        hostname: node.description.hostname.clone(),
        since: now,
        task_id: task.id.clone(),
        ..VolumeHome::default()
    });
}

/// Volumes that `task` must find on `node`: those that it has in common with the tasks before it.
pub fn expected(homes: &VolumeHomes, task: &Task, node: &Node) -> Vec<String> {
    let home = homes.get(&task.slot);
    let Some(home) = home.filter(|home| home.is_held && home.node_id == node.id) else {
        return Vec::new();
    };
    let mut wanted = volumes_on(task, node);
    wanted.retain(|name| home.volumes.contains(name));
    wanted
}

/// The task of a slot that has its volumes, or is about to, where a node can still answer for it.
pub fn resident<'a>(
    home: &VolumeHome,
    slot: u64,
    tasks: &'a [Arc<Task>],
    nodes: &NodeTable,
) -> Option<&'a Arc<Task>> {
    tasks.iter().find(|task| {
        task.slot == slot
            && task.node_id == home.node_id
            && (TaskState::Assigned..=TaskState::Running).contains(&task.status.state)
            && !is_lost(nodes.node(&task.node_id))
    })
}

/// Until when a task before `task` may have the volumes of its slot, on a node that takes tasks: two
/// must not write to them at once. Nothing when none has.
pub fn occupied_until(
    home: &VolumeHome,
    task: &Task,
    tasks: &[Arc<Task>],
    nodes: &NodeTable,
    now: Timestamp,
) -> Option<Timestamp> {
    let node = nodes.node(&home.node_id)?;
    let takes_tasks =
        node.status.state == NodeState::Ready && node.spec.availability == Availability::Active;
    let others = tasks.iter().filter(|other| {
        other.id != task.id && other.slot == task.slot && other.node_id == home.node_id
    });
    others
        .filter(|_| takes_tasks)
        .filter_map(|other| leaves_by(other, node))
        .filter(|until| *until > now)
        .max()
}

/// When a task that is to be on `node` no more has stopped there at the latest.
fn leaves_by(task: &Task, node: &Node) -> Option<Timestamp> {
    let status = &task.status;
    match status.state {
        state if (TaskState::Assigned..=TaskState::Running).contains(&state) => {
            (task.desired_state > TaskState::Running).then_some(WHEN_IT_SAYS_SO)
        }
        // The manager's own words: what has become of the container nobody says, and a node that was
        // away hears of it when it is back.
        _ if is_only_supposed(task) => {
            let told = status.applied_at.max(node.status.since);
            Some(told.plus(stop_wait(task)))
        }
        _ => None,
    }
}

/// Whether a task has ended by what the manager says, and not its node.
fn is_only_supposed(task: &Task) -> bool {
    let status = &task.status;
    match status.state {
        TaskState::Orphaned => true,
        TaskState::Rejected => status.err == EVICTED,
        _ => false,
    }
}

/// Whether the home of a slot stays, having moved it on to the next task when the one that it was
/// chosen for has ended without a container, and another may have one there.
fn is_kept(slot: u64, home: &mut VolumeHome, tasks: &[Arc<Task>]) -> bool {
    if home.is_held || home.task_id.is_empty() {
        return true;
    }
    let first = tasks.iter().find(|task| task.id == home.task_id);
    // One that is not remembered proves nothing.
    if !first.is_some_and(|task| came_to_nothing(task)) {
        return true;
    }
    let mut others = tasks.iter().filter(|task| {
        let is_later = !task.status.state.is_terminal() || task.status.applied_at >= home.since;
        task.slot == slot && task.node_id == home.node_id && is_later
    });
    match others.find(|task| !came_to_nothing(task)) {
        Some(next) => {
            home.task_id = next.id.clone();
            true
        }
        None => false,
    }
}

/// Whether a task has ended without a container, by the word of its agent.
fn came_to_nothing(task: &Task) -> bool {
    task.status.state.is_terminal() && !is_only_supposed(task) && !has_had_container(task)
}

/// Whether the task's agent has said that there is, or was, a container, and with it the volumes.
fn has_had_container(task: &Task) -> bool {
    let status = &task.status;
    let is_told = status.container_status.as_ref();
    let is_told = is_told.is_some_and(|container| !container.container_id.is_empty());
    is_told
        || !task.running_since.is_zero()
        || matches!(
            status.state,
            TaskState::Ready
                | TaskState::Starting
                | TaskState::Running
                | TaskState::Complete
                | TaskState::Failed
        )
}

/// Takes in that a task has had its volumes on its node.
fn hold(homes: &mut VolumeHomes, task: &Task, nodes: &NodeTable, now: Timestamp) {
    let Some(node) = nodes.node(&task.node_id) else {
        return;
    };
    let home = match homes.get_mut(&task.slot) {
        Some(home) => home,
        // The label has come after the task, or somebody let go of a slot that has run on since.
        None if task.is_live() && !is_lost(Some(node)) => {
            claim(homes, task, node, now);
            let Some(home) = homes.get_mut(&task.slot) else {
                return;
            };
            home.since = task.status.applied_at.min(now);
            home
        }
        None => return,
    };
    // What was there before the home became one is not what it is to keep.
    let is_later = task.id == home.task_id || task.status.applied_at >= home.since;
    if home.node_id != task.node_id || !is_later {
        return;
    }
    home.is_held = true;
    for name in volumes_on(task, node) {
        if home.volumes.len() < VOLUMES_OF_SLOT_MAX && !home.volumes.contains(&name) {
            home.volumes.push(name);
        }
    }
}

fn volumes_on(task: &Task, node: &Node) -> Vec<String> {
    let description = &node.description;
    let platform = &description.platform;
    let mut task = Task::clone(task);
    task.node_id = node.id.clone();
    let context =
        task.template_context(&description.hostname, &platform.architecture, &platform.os);
    let container = task.spec.container();
    container.map_or_else(Vec::new, |container| volumes(container, &context))
}

#[cfg(test)]
mod tests {
    use skep_model::TaskId;
    use skep_model::volume_home::VOLUME_PLACEMENT_LABEL;

    use super::*;

    /// What becomes of a home that was chosen for task `a` once its tasks have ended so.
    fn homes_after(ends: &[(&str, TaskState, &str)]) -> Vec<TaskId> {
        let at = Timestamp::from_secs(100);
        let mut nodes = NodeTable::new();
        let node = Node {
            id: "n1".into(),
            ..Node::default()
        };
        nodes.put_node(&Arc::new(node));
        let mut service = Service::default();
        let label = (VOLUME_PLACEMENT_LABEL.to_owned(), "sticky".to_owned());
        service.spec.labels.extend([label]);
        let home = VolumeHome {
            node_id: "n1".into(),
            since: at,
            task_id: "a".into(),
            ..VolumeHome::default()
        };
        service.volume_homes.insert(1, home);
        let task = |(id, state, err): &(&str, TaskState, &str)| {
            let mut task = Task {
                id: (*id).into(),
                slot: 1,
                node_id: "n1".into(),
                ..Task::default()
            };
            task.status.state = *state;
            task.status.err = (*err).to_owned();
            task.status.applied_at = at;
            Arc::new(task)
        };
        let tasks: Vec<_> = ends.iter().map(task).collect();
        let homes = settle(&service, &tasks, &nodes, at).unwrap_or(service.volume_homes);
        homes.into_values().map(|home| home.task_id).collect()
    }

    #[test]
    fn a_home_goes_only_when_every_task_there_has_come_to_nothing() {
        use TaskState::{Orphaned, Preparing, Rejected, Shutdown};
        let none: [&str; 0] = [];
        assert_eq!(
            homes_after(&[("a", Rejected, "No such image")]),
            none.map(TaskId::from)
        );
        for supposed in [("a", Rejected, EVICTED), ("a", Orphaned, "")] {
            assert_eq!(homes_after(&[supposed]), ["a".into()]);
        }
        let first = ("a", Shutdown, "");
        assert_eq!(homes_after(&[first, ("b", Preparing, "")]), ["b".into()]);
        assert_eq!(
            homes_after(&[first, ("b", Rejected, EVICTED)]),
            ["b".into()]
        );
        assert_eq!(
            homes_after(&[first, ("b", Shutdown, "")]),
            none.map(TaskId::from)
        );
    }
}
