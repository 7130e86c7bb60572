//! The law of task states: who may move a task from which state to which.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use TaskState::*;

/// The state of a task, observed or desired. A state only ever grows; the gaps are Swarm's.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u16)]
pub enum TaskState {
    /// Made by an orchestrator; no addresses yet.
    #[default]
    New = 0,
    /// Addresses and ports are allocated; waits for a node.
    Pending = 64,
    /// A node was chosen.
    Assigned = 192,
    /// The node's agent has it.
    Accepted = 256,
    /// Image, networks and volumes are being made ready.
    Preparing = 320,
    /// Everything but the process is there; waits for desired `Running`.
    Ready = 384,
    /// The process runs but is not yet healthy.
    Starting = 448,
    /// Runs, and is healthy if it has a health check.
    Running = 512,
    /// Ended by itself with status 0.
    Complete = 576,
    /// Ended because it was told to.
    Shutdown = 640,
    /// Ended with an error at or after `Starting`.
    Failed = 704,
    /// Could not start, or no longer allowed on its node.
    Rejected = 768,
    /// Only ever desired: to be stopped and forgotten.
    Remove = 800,
    /// Its node is gone for good.
    Orphaned = 832,
}

/// Who moves tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Actor {
    /// Gives tasks addresses and ports.
    Allocator,
    /// Chooses nodes.
    Scheduler,
    /// Runs tasks on a node.
    Agent,
    /// Evicts tasks from nodes that no longer match.
    Enforcer,
    /// Declares nodes gone.
    NodeMonitor,
}

/// Every state, in order.
pub const ALL_STATES: [TaskState; 14] = [
    New, Pending, Assigned, Accepted, Preparing, Ready, Starting, Running, Complete, Shutdown,
    Failed, Rejected, Remove, Orphaned,
];

impl TaskState {
    /// Whether `by` may move a task whose observed state is `self` to `next`.
    pub const fn may_become(self, next: TaskState, by: Actor) -> bool {
        let forward = (self as u16) < (next as u16);
        forward
            && match self {
                New => match by {
                    Actor::Allocator => matches!(next, Pending),
                    Actor::NodeMonitor => matches!(next, Orphaned),
                    // A task that is not wanted any more before it had addresses.
                    Actor::Scheduler => matches!(next, Shutdown),
                    Actor::Agent | Actor::Enforcer => false,
                },
                Pending => match by {
                    Actor::Scheduler => matches!(next, Assigned | Shutdown),
                    Actor::NodeMonitor => matches!(next, Orphaned),
                    Actor::Allocator | Actor::Agent | Actor::Enforcer => false,
                },
                // Agents report in batches, so a short task may be seen to jump from
                // Assigned straight to Complete.
                Assigned | Accepted | Preparing | Ready | Starting | Running => match by {
                    Actor::Agent => !matches!(next, Remove | Orphaned),
                    Actor::Enforcer => matches!(next, Rejected),
                    Actor::NodeMonitor => matches!(next, Orphaned),
                    Actor::Allocator | Actor::Scheduler => false,
                },
                Complete | Shutdown | Failed | Rejected | Remove | Orphaned => false,
            }
    }

    /// Whether a task in this observed state has ended.
    pub const fn is_terminal(self) -> bool {
        (self as u16) > (Running as u16)
    }

    /// The name the API prints.
    pub const fn as_str(self) -> &'static str {
        match self {
            New => "new",
            Pending => "pending",
            Assigned => "assigned",
            Accepted => "accepted",
            Preparing => "preparing",
            Ready => "ready",
            Starting => "starting",
            Running => "running",
            Complete => "complete",
            Shutdown => "shutdown",
            Failed => "failed",
            Rejected => "rejected",
            Remove => "remove",
            Orphaned => "orphaned",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Text that names no task state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a task state")]
pub struct TaskStateError {
    given: String,
}

impl FromStr for TaskState {
    type Err = TaskStateError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        ALL_STATES
            .into_iter()
            .find(|state| state.as_str().eq_ignore_ascii_case(given))
            .ok_or_else(|| TaskStateError {
                given: given.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTORS: [Actor; 5] = [
        Actor::Allocator,
        Actor::Scheduler,
        Actor::Agent,
        Actor::Enforcer,
        Actor::NodeMonitor,
    ];

    #[test]
    fn no_actor_may_move_a_task_backwards_or_out_of_its_end() {
        for from in ALL_STATES {
            for to in ALL_STATES {
                for by in ACTORS {
                    if to <= from || from.is_terminal() {
                        assert!(!from.may_become(to, by), "{from} -> {to} by {by:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn remove_is_never_observed() {
        for from in ALL_STATES {
            for by in ACTORS {
                assert!(!from.may_become(Remove, by));
            }
        }
    }

    #[test]
    fn each_live_state_can_reach_an_end() {
        for from in ALL_STATES.into_iter().filter(|state| !state.is_terminal()) {
            assert!(from.may_become(Orphaned, Actor::NodeMonitor), "{from}");
        }
    }

    #[test]
    fn names_survive_a_round_trip() {
        for state in ALL_STATES {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("allocated".parse::<TaskState>().is_err());
    }
}
