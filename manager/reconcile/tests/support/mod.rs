//! A small cluster for tests: one store, the control loop, and agents that do as they are told.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::time::Duration;

use skep_model::node::{ManagerStatus, NodeDescription, Reachability};
use skep_model::resources::Resources;
use skep_model::service::Replicated;
use skep_model::{
    Availability, ControlError, ControlRequest, ControlResponse, MemoryBytes, NanoCpus, Network,
    NodeId, NodeRole, NodeState, Service, ServiceMode, ServiceSpec, Task, TaskId, TaskState,
    TaskStatus, Timestamp,
};
use skep_reconcile::{
    InitialCluster, Memory, NewNode, NodeReport, Step, add_node, control, initial_cluster,
    reconcile, record_node_states, record_statuses,
};
use skep_store::{Commit, Snapshot, Store};

pub struct Cluster {
    pub store: Store,
    pub memory: Memory,
    pub now: Timestamp,
    pub wake_at: Option<Timestamp>,
    index: u64,
    seed: u64,
}

/// A cluster of `nodes` ready nodes n0, n1, …; n0 is its manager.
pub fn cluster(nodes: usize) -> Cluster {
    let mut cluster = Cluster {
        store: Store::new(),
        memory: Memory::new(),
        now: Timestamp::from_secs(1_000_000),
        wake_at: None,
        index: 0,
        seed: 7,
    };
    let wanted = InitialCluster {
        id: "cluster".into(),
        ..InitialCluster::default()
    };
    let mut seed = 3;
    let commit = initial_cluster(wanted, cluster.now, &mut || next(&mut seed));
    cluster.apply(&commit);
    for at in 0..nodes {
        cluster.join(&format!("n{at}"), at == 0);
    }
    cluster.step();
    cluster
}

fn next(seed: &mut u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(99);
    *seed ^ (*seed >> 29)
}

/// A service spec from the part of its JSON that matters.
pub fn spec(name: &str, replicas: u64, rest: &str) -> ServiceSpec {
    let json = format!(
        r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"img:1"}}}},"Mode":{{"Replicated":{{"Replicas":{replicas}}}}}}}"#
    );
    let mut value: serde_json::Value = serde_json::from_str(&json).unwrap();
    if !rest.is_empty() {
        merge(&mut value, serde_json::from_str(rest).unwrap());
    }
    serde_json::from_value(value).unwrap()
}

/// `Mode` is replaced; all else is merged.
fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                match into.get_mut(&key) {
                    Some(known) if key != "Mode" => merge(known, value),
                    _ => drop(into.insert(key, value)),
                }
            }
        }
        (into, from) => *into = from,
    }
}

impl Cluster {
    pub fn view(&self) -> Snapshot {
        self.store.snapshot()
    }

    pub fn apply(&mut self, commit: &Commit) {
        self.index += 1;
        self.store.apply(self.index, commit).unwrap();
    }

    /// One step of the control loop, applied.
    pub fn step(&mut self) -> Step {
        let step = self.decide();
        if let Some(commit) = &step.commit {
            self.apply(commit);
        }
        step
    }

    /// One step of the control loop, not applied.
    pub fn decide(&mut self) -> Step {
        let view = self.view();
        let seed = &mut self.seed;
        let step = reconcile(&view, &mut self.memory, self.now, &mut || next(seed));
        self.wake_at = step.wake_at;
        step
    }

    /// Steps until there is nothing to do now.
    pub fn settle(&mut self) {
        for _ in 0..50 {
            if self.step().commit.is_none() {
                return;
            }
        }
        panic!("the control loop does not come to rest");
    }

    /// Lets time pass, and the loop with it.
    pub fn wait(&mut self, length: Duration) {
        self.now = self.now.plus(length);
        self.settle();
    }

    pub fn ask(&mut self, request: ControlRequest) -> Result<ControlResponse, ControlError> {
        let view = self.view();
        let seed = &mut self.seed;
        let (commit, response) = control::execute(&request, &view, self.now, &mut || next(seed))?;
        if !commit.is_empty() {
            self.apply(&commit);
        }
        Ok(response)
    }

    /// What a refused request says.
    pub fn refusal(&mut self, request: ControlRequest) -> String {
        self.ask(request).expect_err("the request is wrong").message
    }

    pub fn create(&mut self, spec: ServiceSpec) {
        self.ask(ControlRequest::CreateService {
            spec: Box::new(spec),
        })
        .unwrap();
    }

    pub fn service(&self, name: &str) -> Service {
        Service::clone(self.view().by_name::<Service>(name).unwrap())
    }

    pub fn network(&self, name: &str) -> Network {
        Network::clone(self.view().by_name::<Network>(name).unwrap())
    }

    /// The request that updates a service.
    pub fn change(&self, name: &str, edit: impl FnOnce(&mut ServiceSpec)) -> ControlRequest {
        let service = self.service(name);
        let mut spec = service.spec.clone();
        edit(&mut spec);
        ControlRequest::UpdateService {
            id: service.id,
            version: service.version,
            spec: Box::new(spec),
            registry_auth_from: Default::default(),
            rollback: false,
            revision: None,
        }
    }

    pub fn update(&mut self, name: &str, edit: impl FnOnce(&mut ServiceSpec)) {
        let request = self.change(name, edit);
        self.ask(request).unwrap();
    }

    pub fn set_image(&mut self, name: &str, image: &str) {
        self.update(name, |spec| {
            spec.task_template.container_spec.as_mut().unwrap().image = image.to_owned();
        });
    }

    pub fn rollback(&self, name: &str) -> ControlRequest {
        let service = self.service(name);
        ControlRequest::UpdateService {
            id: service.id,
            version: service.version,
            spec: Box::default(),
            registry_auth_from: Default::default(),
            rollback: true,
            revision: None,
        }
    }

    /// The request that goes back to a revision; 0 is the one before.
    pub fn rollback_to(&self, name: &str, number: u64) -> ControlRequest {
        match self.rollback(name) {
            ControlRequest::UpdateService {
                id,
                version,
                spec,
                registry_auth_from,
                rollback,
                ..
            } => ControlRequest::UpdateService {
                id,
                version,
                spec,
                registry_auth_from,
                rollback,
                revision: Some(number),
            },
            other => other,
        }
    }

    pub fn join(&mut self, id: &str, manager: bool) {
        let node = NewNode {
            id: id.into(),
            role: match manager {
                true => NodeRole::Manager,
                false => NodeRole::Worker,
            },
            description: NodeDescription {
                hostname: id.to_owned(),
                resources: Resources {
                    nano_cpus: NanoCpus(2_000_000_000),
                    memory_bytes: MemoryBytes(1 << 30),
                    generic_resources: Vec::new(),
                },
                data_path_mtu: 1500,
                holds_leases: true,
                knows_variables: true,
                asks_stores: true,
                ..NodeDescription::default()
            },
            manager_status: manager.then(|| ManagerStatus {
                reachability: Reachability::Reachable,
                ..ManagerStatus::default()
            }),
            ..NewNode::default()
        };
        let commit = add_node(&self.view(), node, self.now).unwrap();
        self.apply(&commit);
        self.heard(id, NodeState::Ready);
    }

    /// The node monitor declares a node up or down.
    pub fn heard(&mut self, id: &str, state: NodeState) {
        let report = NodeReport {
            state,
            ..NodeReport::default()
        };
        let commit = record_node_states(&self.view(), &[(id.into(), report)], self.now);
        if let Some(commit) = commit {
            self.apply(&commit);
        }
    }

    pub fn node_request(
        &self,
        id: &str,
        edit: impl FnOnce(&mut skep_model::NodeSpec),
    ) -> ControlRequest {
        let view = self.view();
        let node = view.node(&id.into()).unwrap();
        let mut spec = node.spec.clone();
        edit(&mut spec);
        ControlRequest::UpdateNode {
            id: id.into(),
            version: node.version,
            spec,
        }
    }

    /// A change of the cluster's spec; nothing is rotated beside it.
    pub fn cluster_request(
        &self,
        edit: impl FnOnce(&mut skep_model::ClusterSpec),
    ) -> ControlRequest {
        let view = self.view();
        let present = view.cluster().unwrap();
        let mut spec = present.spec.clone();
        edit(&mut spec);
        ControlRequest::UpdateCluster {
            version: present.version,
            spec: Box::new(spec),
            rotate_worker_token: false,
            rotate_manager_token: false,
            rotate_unlock_key: false,
            rotate_data_keys: false,
        }
    }

    pub fn set_availability(&mut self, id: &str, availability: Availability) {
        let request = self.node_request(id, |spec| spec.availability = availability);
        self.ask(request).unwrap();
    }

    pub fn set_label(&mut self, id: &str, value: &str) {
        let request = self.node_request(id, |spec| {
            spec.labels.insert("zone".to_owned(), value.to_owned());
        });
        self.ask(request).unwrap();
    }

    pub fn tasks(&self, service: &str) -> Vec<Task> {
        let view = self.view();
        let tasks = view.tasks().filter(|task| task.service_name == service);
        let mut tasks: Vec<Task> = tasks.map(|task| Task::clone(task)).collect();
        tasks.sort_by_key(|task| {
            (
                task.slot,
                task.created_at,
                task.spec_version,
                task.id.clone(),
            )
        });
        tasks
    }

    pub fn live(&self, service: &str) -> Vec<Task> {
        let tasks = self.tasks(service).into_iter();
        tasks.filter(Task::is_live).collect()
    }

    /// One line per task: `slot node image state/desired`.
    pub fn lines(&self, service: &str) -> Vec<String> {
        let tasks = self.tasks(service);
        let line = |task: &Task| {
            format!(
                "{} {} {} {}/{}",
                task.slot,
                match task.node_id.as_str() {
                    "" => "-",
                    node => node,
                },
                task.spec.image(),
                task.status.state,
                task.desired_state
            )
        };
        tasks.iter().map(line).collect()
    }

    pub fn report(&mut self, task: &TaskId, state: TaskState) {
        let view = self.view();
        let node: NodeId = view.task(task).unwrap().node_id.clone();
        let status = TaskStatus {
            timestamp: self.now,
            state,
            ..TaskStatus::default()
        };
        let reports = [(task.clone(), node, status)];
        if let Some(commit) = record_statuses(&view, &reports, self.now) {
            self.apply(&commit);
        }
    }

    /// Every agent does at once what it is told, and the loop answers, once.
    pub fn obey(&mut self) {
        self.obey_except("");
    }

    /// The same, but tasks of one image get no answer.
    pub fn obey_except(&mut self, image: &str) {
        let view = self.view();
        for task in view.tasks().filter(|task| task.spec.image() != image) {
            let down = view
                .node(&task.node_id)
                .is_none_or(|node| node.status.state == NodeState::Down);
            let state = task.status.state;
            if down || state < TaskState::Assigned || state.is_terminal() {
                continue;
            }
            let done = match task.desired_state {
                TaskState::Ready => TaskState::Ready,
                TaskState::Running => TaskState::Running,
                _ => TaskState::Shutdown,
            };
            self.report(&task.id, done);
        }
        self.settle();
    }

    /// Agents obey and time passes until all is quiet.
    pub fn converge(&mut self) {
        for _ in 0..60 {
            self.obey();
            self.wait(Duration::from_secs(1));
        }
    }
}

/// A converged service `web` on three nodes.
pub fn web(replicas: u64, rest: &str) -> Cluster {
    let mut cluster = cluster(3);
    cluster.create(spec("web", replicas, rest));
    cluster.converge();
    cluster
}

/// What to do to a spec so that it has so many replicas.
pub fn scale(replicas: u64) -> impl FnOnce(&mut ServiceSpec) {
    move |spec| {
        spec.mode = ServiceMode::Replicated(Replicated {
            replicas: Some(replicas),
        });
    }
}
