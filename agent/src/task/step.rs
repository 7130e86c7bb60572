//! Decides the next thing to do for one task, from what is wanted and what is there.
//!
//! Called again after each operation, each change of the assignment, each event of the
//! container and each daemon restart: the same look at the same state, so all of them lead to
//! the same road.

use std::time::Duration;

use skep_model::{TaskState, Timestamp};

use crate::leases::Lease;

/// The task's container as the engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// There is none.
    Absent,
    /// Made, never started.
    Created,
    Running {
        health: Health,
    },
    Exited {
        code: i64,
        oom_killed: bool,
        error: String,
    },
}

/// Whether stores outside of the cluster have given what the task's secrets hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// They have, or there are none.
    Done,
    Due,
    /// One has refused, and is asked again then.
    Later(Timestamp),
}

/// What the health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// There is no check.
    None,
    Starting,
    Healthy,
    Unhealthy,
}

/// Everything that counts for the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What the manager wants; `None` when the task is no longer assigned.
    pub desired: Option<TaskState>,
    /// What was last reported.
    pub state: TaskState,
    pub observed: Observed,
    /// The image is on this node.
    pub image_ready: bool,
    /// What secrets of outside stores hold is here.
    pub secrets: Fetch,
    /// The network namespace exists.
    pub sandbox_ready: bool,
    /// The task takes part in balancers or names: its stop must wait until they know.
    pub has_endpoints: bool,
    /// When this agent learned that the task is to stop.
    pub stop_since: Option<Timestamp>,
    /// When this agent learned that no node leads anybody to the task any more.
    pub drained_since: Option<Timestamp>,
    /// Clients are connected.
    pub serves_clients: bool,
    /// How long those may go on before the stop signal.
    pub drain: Duration,
    /// When this agent first saw that the container has ended.
    pub ended_since: Option<Timestamp>,
    /// Whether it may run.
    pub lease: Lease,
    /// The container's last words are still on their way to its clients.
    pub undelivered: bool,
}

/// How long a stop waits for all nodes to forget the task's endpoints.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(5);
/// Packets that were on their way when the last node forgot the endpoints arrive within this.
const ARRIVED_WITHIN: Duration = Duration::from_millis(100);
/// Connected clients are looked at this often.
const CLIENTS_LOOK: Duration = Duration::from_millis(50);
/// How long last words may take to arrive before the namespace goes.
const DELIVERED_WITHIN: Duration = Duration::from_secs(1);

/// What a task says that was stopped for want of managers.
const CUT_OFF: &str = "stopped: its node heard of no manager for too long";

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Tell the manager a new state.
    Report {
        state: TaskState,
        message: &'static str,
        err: String,
    },
    PullImage,
    /// Ask stores outside of the cluster for what the task's secrets hold.
    FetchSecrets,
    PrepareNetwork,
    CreateContainer,
    StartContainer,
    /// Send the stop signal, then kill after the grace period.
    StopContainer,
    /// Take the namespace down; the container stays for its logs.
    RemoveSandbox,
    /// Remove all traces and forget the task.
    Forget,
    /// Nothing until something changes, or until this moment.
    Wait {
        until: Option<Timestamp>,
    },
}

fn report(state: TaskState, message: &'static str) -> Op {
    Op::Report {
        state,
        message,
        err: String::new(),
    }
}

fn failed(err: impl Into<String>) -> Op {
    Op::Report {
        state: TaskState::Failed,
        message: "started",
        err: err.into(),
    }
}

/// The next operation for a task.
pub fn step(progress: &Progress, now: Timestamp) -> Op {
    use TaskState::*;

    let Some(desired) = progress.desired else {
        return match progress.observed {
            Observed::Running { .. } => stop(progress, now),
            Observed::Absent | Observed::Created | Observed::Exited { .. } => Op::Forget,
        };
    };
    if progress.state.is_terminal() {
        return match (&progress.observed, progress.sandbox_ready) {
            (Observed::Running { .. }, _) => Op::StopContainer,
            (_, true) => Op::RemoveSandbox,
            (_, false) => Op::Wait { until: None },
        };
    }
    if let (Observed::Exited { .. }, true, Some(since)) = (
        &progress.observed,
        progress.undelivered,
        progress.ended_since,
    ) && now < since.plus(DELIVERED_WITHIN)
    {
        return Op::Wait {
            until: Some(now.plus(CLIENTS_LOOK)),
        };
    }
    // A job's task is desired to complete: it runs like any other.
    let wanted = if desired == Complete {
        Running
    } else {
        desired
    };
    if wanted > Running {
        return match progress.observed {
            Observed::Running { .. } => stop(progress, now),
            Observed::Absent | Observed::Created | Observed::Exited { .. } => {
                report(Shutdown, "shutdown")
            }
        };
    }
    match &progress.observed {
        Observed::Absent if progress.state >= Starting => {
            failed("the container is gone from this node")
        }
        Observed::Absent => before_create(progress),
        Observed::Created if progress.state < Ready => report(Ready, "prepared"),
        Observed::Created if wanted < Running => Op::Wait { until: None },
        Observed::Created if matches!(progress.lease, Lease::Unknown | Lease::Lapsed) => {
            Op::Wait { until: None }
        }
        Observed::Created if progress.secrets != Fetch::Done => fetch(progress.secrets),
        Observed::Created if !progress.sandbox_ready => Op::PrepareNetwork,
        Observed::Created => Op::StartContainer,
        Observed::Running { .. } if progress.lease == Lease::Lapsed => Op::StopContainer,
        Observed::Exited { .. } if progress.lease == Lease::Lapsed => failed(CUT_OFF),
        Observed::Running { health } => match health {
            Health::Starting if progress.state < Starting => report(Starting, "starting"),
            // A check that starts over (after a daemon restart) does not undo `Running`.
            Health::Starting => Op::Wait { until: None },
            Health::None | Health::Healthy if progress.state < Running => {
                report(Running, "started")
            }
            Health::None | Health::Healthy => Op::Wait { until: None },
            Health::Unhealthy => Op::StopContainer,
        },
        Observed::Exited { code: 0, .. } => report(Complete, "finished"),
        Observed::Exited {
            code,
            oom_killed,
            error,
        } => failed(match (error.as_str(), oom_killed) {
            ("", false) => format!("task: non-zero exit ({code})"),
            ("", true) => format!("task: non-zero exit ({code}): out of memory"),
            (error, _) => format!("task: non-zero exit ({code}): {error}"),
        }),
    }
}

fn before_create(progress: &Progress) -> Op {
    use TaskState::*;

    if progress.state < Accepted {
        report(Accepted, "accepted")
    } else if progress.state < Preparing {
        report(Preparing, "preparing")
    } else if !progress.image_ready {
        Op::PullImage
    } else if progress.secrets != Fetch::Done {
        fetch(progress.secrets)
    } else if !progress.sandbox_ready {
        Op::PrepareNetwork
    } else {
        Op::CreateContainer
    }
}

fn fetch(secrets: Fetch) -> Op {
    match secrets {
        Fetch::Later(at) => Op::Wait { until: Some(at) },
        Fetch::Due | Fetch::Done => Op::FetchSecrets,
    }
}

/// Stops a running container once every node has stopped leading others to it and the clients
/// that it still had are gone, each within its bound.
fn stop(progress: &Progress, now: Timestamp) -> Op {
    let Some(since) = progress.stop_since.filter(|_| progress.has_endpoints) else {
        return Op::StopContainer;
    };
    let forgotten = match (progress.drained_since, progress.desired) {
        (Some(at), _) => at,
        // The managers know nothing of it any more: neither does a balancer.
        (None, None) => since,
        (None, Some(_)) => since.plus(FORGOTTEN_WITHIN),
    };
    let (earliest, latest) = (
        forgotten.plus(ARRIVED_WITHIN),
        forgotten.plus(progress.drain),
    );
    if now < earliest {
        return Op::Wait {
            until: Some(earliest),
        };
    }
    if progress.serves_clients && now < latest {
        return Op::Wait {
            until: Some(now.plus(CLIENTS_LOOK).min(latest)),
        };
    }
    Op::StopContainer
}

#[cfg(test)]
mod tests {
    use super::*;
    use TaskState::*;

    const NOW: Timestamp = Timestamp::from_secs(100);

    fn progress(desired: TaskState, state: TaskState, observed: Observed) -> Progress {
        Progress {
            desired: Some(desired),
            state,
            observed,
            image_ready: true,
            secrets: Fetch::Done,
            sandbox_ready: true,
            has_endpoints: false,
            stop_since: None,
            drained_since: None,
            serves_clients: false,
            drain: Duration::from_secs(2),
            ended_since: None,
            lease: Lease::Unbound,
            undelivered: false,
        }
    }

    #[test]
    fn a_lease_is_needed_to_start_and_to_go_on() {
        let mut now = progress(Running, Ready, Observed::Created);
        for (lease, op) in [
            (Lease::Unknown, Op::Wait { until: None }),
            (Lease::Lapsed, Op::Wait { until: None }),
            (Lease::Held, Op::StartContainer),
        ] {
            now.lease = lease;
            assert_eq!(step(&now, NOW), op, "{lease:?}");
        }
        let mut now = progress(Running, Running, running(Health::None));
        for (lease, op) in [
            (Lease::Unknown, Op::Wait { until: None }),
            (Lease::Held, Op::Wait { until: None }),
            (Lease::Lapsed, Op::StopContainer),
        ] {
            now.lease = lease;
            assert_eq!(step(&now, NOW), op, "{lease:?}");
        }
        now.observed = exited(143);
        assert_eq!(step(&now, NOW), failed(CUT_OFF));
    }

    fn running(health: Health) -> Observed {
        Observed::Running { health }
    }

    fn exited(code: i64) -> Observed {
        Observed::Exited {
            code,
            oom_killed: false,
            error: String::new(),
        }
    }

    #[test]
    fn a_new_task_walks_to_running() {
        let mut now = progress(Running, Assigned, Observed::Absent);
        now.image_ready = false;
        now.sandbox_ready = false;
        assert_eq!(step(&now, NOW), report(Accepted, "accepted"));
        now.state = Accepted;
        assert_eq!(step(&now, NOW), report(Preparing, "preparing"));
        now.state = Preparing;
        assert_eq!(step(&now, NOW), Op::PullImage);
        now.image_ready = true;
        assert_eq!(step(&now, NOW), Op::PrepareNetwork);
        now.sandbox_ready = true;
        assert_eq!(step(&now, NOW), Op::CreateContainer);
        now.observed = Observed::Created;
        assert_eq!(step(&now, NOW), report(Ready, "prepared"));
        now.state = Ready;
        assert_eq!(step(&now, NOW), Op::StartContainer);
        now.observed = running(Health::None);
        assert_eq!(step(&now, NOW), report(Running, "started"));
        now.state = Running;
        assert_eq!(step(&now, NOW), Op::Wait { until: None });
    }

    #[test]
    fn what_stores_hold_is_asked_for_before_the_task_is_ready_and_again_when_it_was_lost() {
        let mut now = progress(Running, Preparing, Observed::Absent);
        now.sandbox_ready = false;
        let later = NOW.plus(Duration::from_secs(4));
        for (secrets, op) in [
            (Fetch::Due, Op::FetchSecrets),
            (Fetch::Later(later), Op::Wait { until: Some(later) }),
            (Fetch::Done, Op::PrepareNetwork),
        ] {
            now.secrets = secrets;
            assert_eq!(step(&now, NOW), op, "{secrets:?}");
        }
        now.image_ready = false;
        now.secrets = Fetch::Due;
        assert_eq!(step(&now, NOW), Op::PullImage, "for as short as can be");
        // The daemon was started again between the container's making and its start.
        let mut now = progress(Running, Ready, Observed::Created);
        now.secrets = Fetch::Due;
        assert_eq!(step(&now, NOW), Op::FetchSecrets);
        now.desired = Some(Ready);
        assert_eq!(
            step(&now, NOW),
            Op::Wait { until: None },
            "not before its turn"
        );
        now.desired = Some(Shutdown);
        assert_eq!(step(&now, NOW), report(Shutdown, "shutdown"));
        // What runs has what it needs.
        let mut now = progress(Running, Running, running(Health::None));
        now.secrets = Fetch::Due;
        assert_eq!(step(&now, NOW), Op::Wait { until: None });
    }

    #[test]
    fn a_replacement_waits_ready_for_its_turn() {
        let waiting = progress(Ready, Ready, Observed::Created);
        assert_eq!(step(&waiting, NOW), Op::Wait { until: None });
    }

    #[test]
    fn running_means_healthy() {
        assert_eq!(
            step(&progress(Running, Ready, running(Health::Starting)), NOW),
            report(Starting, "starting")
        );
        assert_eq!(
            step(&progress(Running, Starting, running(Health::Starting)), NOW),
            Op::Wait { until: None }
        );
        assert_eq!(
            step(&progress(Running, Starting, running(Health::Healthy)), NOW),
            report(Running, "started")
        );
        assert_eq!(
            step(&progress(Running, Running, running(Health::Unhealthy)), NOW),
            Op::StopContainer
        );
    }

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(
            step(&progress(Running, Running, exited(0)), NOW),
            report(Complete, "finished")
        );
        assert_eq!(
            step(&progress(Running, Running, exited(3)), NOW),
            failed("task: non-zero exit (3)")
        );
        assert_eq!(
            step(&progress(Running, Running, Observed::Absent), NOW),
            failed("the container is gone from this node")
        );
        assert_eq!(
            step(&progress(Shutdown, Running, exited(143)), NOW),
            report(Shutdown, "shutdown")
        );
    }

    #[test]
    fn endpoints_drain_before_the_stop_signal() {
        let mut stopping = progress(Shutdown, Running, running(Health::None));
        stopping.stop_since = Some(NOW);
        assert_eq!(
            step(&stopping, NOW),
            Op::StopContainer,
            "nobody is led here"
        );
        stopping.has_endpoints = true;
        // Nodes that are never heard of hold it up for so long and no longer.
        let until = NOW.plus(FORGOTTEN_WITHIN).plus(ARRIVED_WITHIN);
        assert_eq!(step(&stopping, NOW), Op::Wait { until: Some(until) });
        assert_eq!(step(&stopping, until), Op::StopContainer);
        // All nodes have followed, and nobody is connected.
        stopping.drained_since = Some(NOW);
        let until = NOW.plus(ARRIVED_WITHIN);
        assert_eq!(step(&stopping, NOW), Op::Wait { until: Some(until) });
        assert_eq!(step(&stopping, until), Op::StopContainer);
        // Clients that are connected have the drain period.
        stopping.serves_clients = true;
        let again = until.plus(CLIENTS_LOOK);
        assert_eq!(step(&stopping, until), Op::Wait { until: Some(again) });
        assert_eq!(step(&stopping, NOW.plus(stopping.drain)), Op::StopContainer);
    }

    #[test]
    fn last_words_are_delivered_before_the_end_is_told() {
        let mut ended = progress(Shutdown, Running, exited(0));
        ended.ended_since = Some(NOW);
        ended.undelivered = true;
        let again = NOW.plus(CLIENTS_LOOK);
        assert_eq!(step(&ended, NOW), Op::Wait { until: Some(again) });
        let late = NOW.plus(DELIVERED_WITHIN);
        assert_eq!(step(&ended, late), report(Shutdown, "shutdown"));
        ended.undelivered = false;
        assert_eq!(step(&ended, NOW), report(Shutdown, "shutdown"));
    }

    #[test]
    fn a_task_that_is_no_longer_assigned_leaves_nothing() {
        let mut gone = progress(Running, Running, running(Health::None));
        gone.desired = None;
        assert_eq!(step(&gone, NOW), Op::StopContainer);
        for observed in [Observed::Absent, Observed::Created, exited(0)] {
            gone.observed = observed;
            assert_eq!(step(&gone, NOW), Op::Forget);
        }
    }

    /// Each operation changes what the next decision sees, so no walk may go round in circles.
    #[test]
    fn every_state_leads_to_an_operation_that_the_law_allows() {
        let observations = [
            Observed::Absent,
            Observed::Created,
            running(Health::None),
            running(Health::Starting),
            running(Health::Healthy),
            running(Health::Unhealthy),
            exited(0),
            exited(1),
        ];
        for desired in skep_model::state::ALL_STATES {
            for state in skep_model::state::ALL_STATES
                .into_iter()
                .filter(|s| *s >= Assigned)
            {
                for observed in &observations {
                    for (image_ready, sandbox_ready) in
                        [(true, true), (true, false), (false, false)]
                    {
                        let mut now = progress(desired, state, observed.clone());
                        now.image_ready = image_ready;
                        now.sandbox_ready = sandbox_ready;
                        if let Op::Report { state: next, .. } = step(&now, NOW) {
                            assert!(
                                state.may_become(next, skep_model::Actor::Agent),
                                "{state} -> {next} for {now:?}"
                            );
                        }
                    }
                }
            }
        }
    }
}
