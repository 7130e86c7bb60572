//! Nodes.

use skep_model::node::Reachability;
use skep_model::why::{Cause, Trouble, Why};
use skep_model::{Availability, Node, NodeRole, NodeState, TaskState, Timestamp};

use super::{View, name_of};
use crate::expiry::removed_at;

impl View<'_> {
    pub(super) fn of_node(&self, node: &Node) -> Why {
        let tasks = || self.snapshot.tasks_on_node(&node.id).map(|task| &**task);
        let running = tasks().filter(|task| task.serves()).count();
        let stopping = tasks().filter(|task| {
            task.desired_state > TaskState::Running && !task.status.state.is_terminal()
        });
        let mut summary = format!(
            "{}, {}, {running} tasks run here",
            state(node.status.state),
            availability(node.spec.availability),
        );
        match stopping.count() {
            0 => (),
            stopping => summary.push_str(&format!(", {stopping} are to stop")),
        }
        let mut causes = self.node_causes(node);
        // What of its tasks is amiss is amiss with the node as well, for who asks about it.
        for task in tasks().filter(|task| task.is_live() && !task.serves()) {
            let service = self.snapshot.service(&task.service_id).map(AsRef::as_ref);
            causes.extend(self.task_cause(service, task, &self.slot_of(task)));
        }
        Why {
            object: format!("node {} ({})", name_of(node), node.id),
            summary,
            causes,
            transitions: self.transitions(tasks()),
        }
    }

    pub(super) fn node_causes(&self, node: &Node) -> Vec<Cause> {
        let mut causes = Vec::new();
        let removed_at = self
            .snapshot
            .cluster()
            .and_then(|cluster| removed_at(cluster, node, self.now));
        causes.extend(silence(node, removed_at));
        causes.extend(availability_cause(node));
        causes.extend(unreachable(node));
        causes.extend(changing_role(node));
        let problems = node.description.network_problems.iter();
        causes.extend(problems.map(|problem| {
            let about = match problem.network.as_str() {
                "" => String::new(),
                network => format!("network {network}: "),
            };
            let message = format!("{about}{}", problem.message);
            cause(node, Trouble::NetworkPath, message, "network check")
        }));
        causes
    }
}

fn cause(node: &Node, trouble: Trouble, message: impl Into<String>, advice: &str) -> Cause {
    Cause {
        subject: name_of(node),
        trouble,
        message: message.into(),
        advice: advice.to_owned(),
        ..Cause::default()
    }
}

/// A node that is not heard.
fn silence(node: &Node, removed_at: Option<Timestamp>) -> Option<Cause> {
    let mut said = match node.status.message.as_str() {
        "" => String::new(),
        message => format!(": {message}"),
    };
    if let Some(at) = removed_at {
        said.push_str(&format!(
            "; it is removed from the cluster at {at} if it does not come back"
        ));
    }
    let found = match node.status.state {
        NodeState::Ready => return None,
        NodeState::Down => cause(
            node,
            Trouble::NodeDown,
            format!("the node is down{said}"),
            "look whether its daemon runs and reaches a manager's port 2377; \
             `node rm` it if it does not come back",
        ),
        NodeState::Unknown | NodeState::Disconnected => cause(
            node,
            Trouble::NodeDown,
            format!("the node has no session with a manager{said}"),
            "it is counted as down when it does not come within a short time",
        ),
    };
    Some(Cause {
        since: node.status.since,
        ..found
    })
}

/// A node that is kept from taking tasks.
fn availability_cause(node: &Node) -> Option<Cause> {
    let (trouble, message) = match node.spec.availability {
        Availability::Active => return None,
        Availability::Pause => (Trouble::NodePaused, "the node takes no new tasks"),
        Availability::Drain => (Trouble::NodeDrained, "the node takes no tasks"),
    };
    let advice = "node update --availability active";
    Some(cause(node, trouble, message, advice))
}

/// A manager that the leader does not reach.
fn unreachable(node: &Node) -> Option<Cause> {
    let manager = node.manager_status.as_ref()?;
    (manager.reachability == Reachability::Unreachable).then(|| Cause {
        since: node.status.since,
        ..cause(
            node,
            Trouble::ManagerUnreachable,
            format!("the leader does not reach this manager at {}", manager.addr),
            "one more manager lost may stop the cluster from deciding; bring it back, or \
             demote and remove it",
        )
    })
}

fn changing_role(node: &Node) -> Option<Cause> {
    let wanted = match node.spec.role {
        _ if node.role == node.spec.role => return None,
        NodeRole::Manager => "a manager",
        NodeRole::Worker => "a worker",
    };
    let message = format!("the node is becoming {wanted}");
    Some(cause(node, Trouble::Updating, message, ""))
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Ready => "ready",
        NodeState::Down => "down",
        NodeState::Unknown => "unknown",
        NodeState::Disconnected => "disconnected",
    }
}

fn availability(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "paused",
        Availability::Drain => "drained",
    }
}
