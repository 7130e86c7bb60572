//! Tasks as the cluster tells of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Cluster;
use crate::http::encoded;
use crate::wait::{eventually, holds, secs};

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    pub id: String,
    pub slot: u64,
    /// Name of its node; empty before it has one.
    pub node: String,
    pub state: String,
    pub desired: String,
    pub container: String,
    pub pid: u32,
    pub error: String,
    pub image: String,
    pub env: Vec<String>,
}

impl Task {
    pub fn is_running(&self) -> bool {
        self.state == "running" && self.desired == "running"
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Cluster {
    /// Names of nodes by id, as a node tells them.
    pub fn try_node_names(&self, at: &str) -> Result<BTreeMap<String, String>, String> {
        let nodes = self.try_api(at, "GET", "/nodes", None)?;
        let nodes = nodes.as_array().cloned().unwrap_or_default();
        Ok(nodes
            .iter()
            .map(|node| (text(&node["ID"]), text(&node["Description"]["Hostname"])))
            .collect())
    }

    /// All tasks of a service, as a node tells them, those of the past too.
    pub fn try_tasks(&self, at: &str, service: &str) -> Result<Vec<Task>, String> {
        let names = self.try_node_names(at)?;
        let filters = encoded(&json!({"service": [service]}).to_string());
        let found = self.try_api(at, "GET", &format!("/tasks?filters={filters}"), None)?;
        let read = |task: &Value| {
            let status = &task["Status"];
            let spec = &task["Spec"]["ContainerSpec"];
            Task {
                id: text(&task["ID"]),
                slot: task["Slot"].as_u64().unwrap_or_default(),
                node: names
                    .get(&text(&task["NodeID"]))
                    .cloned()
                    .unwrap_or_default(),
                state: text(&status["State"]),
                desired: text(&task["DesiredState"]),
                container: text(&status["ContainerStatus"]["ContainerID"]),
                pid: status["ContainerStatus"]["PID"]
                    .as_u64()
                    .and_then(|pid| pid.try_into().ok())
                    .unwrap_or(0),
                error: text(&status["Err"]),
                image: text(&spec["Image"]),
                env: spec["Env"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(text)
                    .collect(),
            }
        };
        let mut tasks: Vec<Task> = found.as_array().into_iter().flatten().map(read).collect();
        tasks.sort_by(|one, other| (one.slot, &one.id).cmp(&(other.slot, &other.id)));
        Ok(tasks)
    }

    #[track_caller]
    pub fn tasks(&self, at: &str, service: &str) -> Vec<Task> {
        self.try_tasks(at, service)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The tasks of a service that run and are to run.
    #[track_caller]
    pub fn running(&self, at: &str, service: &str) -> Vec<Task> {
        self.tasks(at, service)
            .into_iter()
            .filter(Task::is_running)
            .collect()
    }

    /// Waits until exactly so many tasks of a service run and no other is to run.
    #[track_caller]
    pub fn wait_running(
        &self,
        at: &str,
        service: &str,
        count: usize,
        within: Duration,
    ) -> Vec<Task> {
        eventually(&format!("{count} tasks of {service} run"), within, || {
            let wanted: Vec<Task> = self.try_tasks(at, service)?;
            let shown = shown(&wanted);
            let wanted: Vec<Task> = wanted
                .into_iter()
                .filter(|task| task.desired == "running")
                .collect();
            holds(
                wanted.len() == count && wanted.iter().all(Task::is_running),
                shown,
            )?;
            Ok::<_, String>(wanted)
        })
    }

    /// Removes a service and waits until nothing of it is left.
    #[track_caller]
    pub fn remove_service(&self, at: &str, name: &str) {
        let id = text(&self.get(at, &format!("/services/{name}"))["ID"]);
        let answer = self.api(at, "DELETE", &format!("/services/{id}"), None);
        assert_eq!(answer.status, 200, "{}", answer.body);
        self.wait_tasks_gone(at, &id);
    }

    /// Waits until no task of the service with this id is left.
    #[track_caller]
    pub fn wait_tasks_gone(&self, at: &str, id: &str) {
        eventually(
            &format!("no task of service {id} is left"),
            secs(40),
            || {
                let all = self.try_api(at, "GET", "/tasks", None)?;
                let left = all
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|task| task["ServiceID"] == id);
                holds(
                    left.is_none(),
                    left.map(Value::to_string).unwrap_or_default(),
                )
            },
        );
    }

    /// The process of a container of a node, as its engine tells.
    pub fn container_pid(&self, node: &str, container: &str) -> Option<u32> {
        let found = self
            .try_api(node, "GET", &format!("/containers/{container}/json"), None)
            .ok()?;
        found["State"]["Pid"]
            .as_u64()
            .and_then(|pid| pid.try_into().ok())
            .filter(|pid| *pid > 0)
    }

    /// Task id to the process that its node's engine tells, for all running tasks of a service.
    #[track_caller]
    pub fn pids(&self, at: &str, service: &str) -> BTreeMap<String, u32> {
        let running = self.running(at, service);
        let pid = |task: &Task| {
            self.container_pid(&task.node, &task.container)
                .unwrap_or_else(|| panic!("no process of {task:?}"))
        };
        running
            .iter()
            .map(|task| (task.id.clone(), pid(task)))
            .collect()
    }

    /// The name of the leader's node, as a node tells.
    pub fn leader(&self, at: &str) -> Result<String, String> {
        let nodes = self.try_api(at, "GET", "/nodes", None)?;
        let leader = nodes
            .as_array()
            .into_iter()
            .flatten()
            .find(|node| node["ManagerStatus"]["Leader"] == true);
        leader
            .map(|node| text(&node["Description"]["Hostname"]))
            .ok_or_else(|| "no leader".to_owned())
    }

    /// The state of a node, as another tells: ready, down.
    pub fn node_state(&self, at: &str, name: &str) -> Result<String, String> {
        let nodes = self.try_api(at, "GET", "/nodes", None)?;
        let found = nodes
            .as_array()
            .into_iter()
            .flatten()
            .find(|node| node["Description"]["Hostname"] == name);
        found
            .map(|node| text(&node["Status"]["State"]))
            .ok_or_else(|| format!("no node {name}"))
    }

    #[track_caller]
    pub fn wait_ready(&self, at: &str, name: &str, within: Duration) {
        eventually(&format!("{name} is ready"), within, || {
            let state = self.node_state(at, name)?;
            holds(state == "ready", state)
        });
    }
}

/// Tasks in one line each.
pub fn shown(tasks: &[Task]) -> String {
    let line = |task: &Task| {
        let Task {
            id,
            slot,
            node,
            state,
            desired,
            error,
            pid,
            ..
        } = task;
        format!("\n  {slot} {id} on {node}: {state}, wanted {desired}, pid {pid} {error}")
    };
    tasks.iter().map(line).collect()
}
