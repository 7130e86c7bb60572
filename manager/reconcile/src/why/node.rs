//! Nodes.

use skep_model::node::Reachability;
use skep_model::why::{Cause, Trouble, Why};
use skep_model::{Availability, Node, NodeRole, NodeState, TaskState};

use super::{View, name_of};

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
        let name = name_of(node);
        let cause = |trouble, message: String, advice: &str| Cause {
            subject: name.clone(),
            trouble,
            message,
            advice: advice.to_owned(),
            since: node.status.since,
            ..Cause::default()
        };
        let mut causes = Vec::new();
        let said = match node.status.message.as_str() {
            "" => String::new(),
            message => format!(": {message}"),
        };
        match node.status.state {
            NodeState::Ready => (),
            NodeState::Down => causes.push(cause(
                Trouble::NodeDown,
                format!("the node is down{said}"),
                "look whether its daemon runs and reaches a manager's port 2377; \
                 `node rm` it if it does not come back",
            )),
            NodeState::Unknown | NodeState::Disconnected => causes.push(cause(
                Trouble::NodeDown,
                format!("the node has no session with a manager{said}"),
                "it is counted as down when it does not come within a short time",
            )),
        }
        match node.spec.availability {
            Availability::Active => (),
            Availability::Pause => causes.push(Cause {
                since: Default::default(),
                ..cause(
                    Trouble::NodePaused,
                    "the node takes no new tasks".to_owned(),
                    "node update --availability active",
                )
            }),
            Availability::Drain => causes.push(Cause {
                since: Default::default(),
                ..cause(
                    Trouble::NodeDrained,
                    "the node takes no tasks".to_owned(),
                    "node update --availability active",
                )
            }),
        }
        let unreachable = node
            .manager_status
            .as_ref()
            .filter(|manager| manager.reachability == Reachability::Unreachable);
        if let Some(manager) = unreachable {
            causes.push(cause(
                Trouble::ManagerUnreachable,
                format!("the leader does not reach this manager at {}", manager.addr),
                "one more manager lost may stop the cluster from deciding; bring it back, or \
                 demote and remove it",
            ));
        }
        if node.role != node.spec.role {
            let wanted = match node.spec.role {
                NodeRole::Manager => "a manager",
                NodeRole::Worker => "a worker",
            };
            causes.push(Cause {
                since: Default::default(),
                ..cause(
                    Trouble::Updating,
                    format!("the node is becoming {wanted}"),
                    "",
                )
            });
        }
        for problem in &node.description.network_problems {
            let about = match problem.network.as_str() {
                "" => String::new(),
                network => format!("network {network}: "),
            };
            causes.push(Cause {
                since: Default::default(),
                ..cause(
                    Trouble::NetworkPath,
                    format!("{about}{}", problem.message),
                    "network check",
                )
            });
        }
        causes
    }
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
