//! A cluster of one manager in memory: a real store, and a control API just clever enough.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use skep_api::Cluster;
use skep_api::cluster::{
    InitRequest, JoinRequest, LocalCluster, LocalState, LogLine, LogOptions, LogSource, LogStream,
};
use skep_api::texts;
use skep_model::node::{ManagerStatus, NodeStatus, Reachability};
use skep_model::{
    Config, ConfigId, ControlError, ControlRequest, ControlResponse, JoinTokens, Kind, Network,
    NetworkId, Node, NodeId, NodeRole, NodeState, Secret, SecretId, Service, ServiceId, Stack,
    StackId, Timestamp, Version,
};
use skep_store::{Change, Commit, Conflict, Key, Object, Snapshot, Store, Watch};

/// The moment at which everything in these tests happens.
pub const NOW: Timestamp = Timestamp(1_763_892_000_500_000_000);

pub struct FakeCluster {
    pub store: Store,
    pub local: Mutex<LocalCluster>,
    pub submitted: Mutex<Vec<ControlRequest>>,
    pub inits: Mutex<Vec<InitRequest>>,
    pub logs: Mutex<Vec<Result<LogLine, ControlError>>>,
    /// The `stale` of each snapshot taken.
    pub stale: Mutex<Vec<bool>>,
    index: AtomicU64,
}

impl FakeCluster {
    /// A node in no cluster.
    pub fn inactive() -> Arc<Self> {
        Arc::new(Self {
            store: Store::new(),
            local: Mutex::default(),
            submitted: Mutex::default(),
            inits: Mutex::default(),
            logs: Mutex::default(),
            stale: Mutex::default(),
            index: AtomicU64::new(10),
        })
    }

    /// A manager called `n1` that leads.
    pub fn manager() -> Arc<Self> {
        let cluster = Self::inactive();
        *cluster.local.lock().unwrap() = LocalCluster {
            state: LocalState::Active,
            node_id: NodeId::new("node1aaaaaaaaaaaaaaaaaaaa"),
            node_addr: "10.0.0.1".into(),
            is_manager: true,
            remote_managers: vec![(
                NodeId::new("node1aaaaaaaaaaaaaaaaaaaa"),
                "10.0.0.1:2377".into(),
            )],
            ..LocalCluster::default()
        };
        let mut state = skep_model::Cluster {
            id: skep_model::ClusterId::new("cluster1"),
            created_at: NOW,
            updated_at: NOW,
            default_addr_pool: vec!["10.0.0.0/8".parse().unwrap()],
            subnet_size: 24,
            data_path_port: 4789,
            join_tokens: JoinTokens {
                worker: "SWMTKN-1-worker".into(),
                manager: "SWMTKN-1-manager".into(),
            },
            unlock_key: "SWMKEY-1-never-shown".into(),
            ..skep_model::Cluster::default()
        };
        state.spec.name = "default".into();
        state.spec.ca_config.signing_ca_key = "KEY never shown".into();
        state.root_ca.key = "ROOT KEY never shown".into();
        cluster.put(Object::Cluster(Arc::new(state)));
        cluster.put(Object::Node(Arc::new(node(
            "node1aaaaaaaaaaaaaaaaaaaa",
            "n1",
            NodeRole::Manager,
        ))));
        cluster
    }

    /// Stores an object past the control API.
    pub fn put(&self, object: Object) {
        self.commit(vec![Change::Put(object)]).unwrap();
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), Conflict> {
        let commit = Commit {
            expected: Vec::new(),
            changes,
        };
        let index = self.index.fetch_add(1, Ordering::SeqCst);
        self.store.apply(index, &commit).map(drop)
    }

    fn create(&self, object: Object) -> Result<ControlResponse, ControlError> {
        let id = match object.key() {
            Key::Service(id) => id.to_string(),
            Key::Network(id) => id.to_string(),
            Key::Secret(id) => id.to_string(),
            Key::Config(id) => id.to_string(),
            Key::Stack(id) => id.to_string(),
            other => panic!("{other} is not made by a request"),
        };
        self.commit(vec![Change::Put(object)]).map_err(refusal)?;
        Ok(ControlResponse {
            token: Default::default(),
            id,
            ..ControlResponse::default()
        })
    }

    fn remove(&self, key: Key) -> Result<ControlResponse, ControlError> {
        self.commit(vec![Change::Remove(key)]).map_err(refusal)?;
        Ok(ControlResponse::default())
    }

    fn fresh(&self, word: &str) -> String {
        let number = self.index.load(Ordering::SeqCst);
        format!("{word}{number}{}", "x".repeat(25))[..25].to_owned()
    }

    fn replaced(&self, object: Object, given: Version) -> Result<ControlResponse, ControlError> {
        if self.store.snapshot().version_of(&object.key()) != given {
            return Err(ControlError::new(
                Kind::OutOfSequence,
                "update out of sequence",
            ));
        }
        self.commit(vec![Change::Put(object)]).map_err(refusal)?;
        Ok(ControlResponse::default())
    }

    pub fn last_request(&self) -> ControlRequest {
        self.submitted.lock().unwrap().last().cloned().unwrap()
    }
}

fn refusal(conflict: Conflict) -> ControlError {
    ControlError::new(conflict.kind(), conflict.to_string())
}

pub fn node(id: &str, hostname: &str, role: NodeRole) -> Node {
    let mut node = Node {
        id: NodeId::new(id),
        created_at: NOW,
        updated_at: NOW,
        role,
        status: NodeStatus {
            state: NodeState::Ready,
            addr: "10.0.0.1".into(),
            ..NodeStatus::default()
        },
        manager_status: (role == NodeRole::Manager).then(|| ManagerStatus {
            leader: true,
            reachability: Reachability::Reachable,
            addr: "10.0.0.1:2377".into(),
            raft_id: 1,
        }),
        ..Node::default()
    };
    node.spec.role = role;
    node.description.hostname = hostname.into();
    node.description.engine.engine_version = "0.1.0".into();
    node.description.platform.os = "linux".into();
    node.description.platform.architecture = "x86_64".into();
    node
}

#[async_trait]
impl Cluster for FakeCluster {
    fn local(&self) -> LocalCluster {
        self.local.lock().unwrap().clone()
    }

    async fn init(&self, request: InitRequest) -> Result<NodeId, ControlError> {
        if self.local().state != LocalState::Inactive {
            return Err(ControlError::new(Kind::Unavailable, texts::ALREADY_PART));
        }
        self.inits.lock().unwrap().push(request);
        Ok(NodeId::new("node1"))
    }

    async fn join(&self, _: JoinRequest) -> Result<(), ControlError> {
        Ok(())
    }

    async fn leave(&self, _: bool) -> Result<(), ControlError> {
        match self.local().state {
            LocalState::Inactive => Err(ControlError::new(Kind::Unavailable, texts::NOT_PART)),
            _ => Ok(()),
        }
    }

    async fn unlock(&self, _: &str) -> Result<(), ControlError> {
        Err(ControlError::new(
            Kind::Unauthenticated,
            "swarm could not be unlocked: invalid key provided",
        ))
    }

    async fn unlock_key(&self) -> Result<String, ControlError> {
        Ok("SWMKEY-1-asked-for".into())
    }

    async fn snapshot(&self, stale: bool) -> Result<Snapshot, ControlError> {
        self.stale.lock().unwrap().push(stale);
        match texts::unavailable(&self.local()) {
            Some(error) => Err(error),
            None => Ok(self.store.snapshot()),
        }
    }

    fn watch(&self) -> Option<Watch> {
        self.local().is_manager.then(|| self.store.watch(1000).1)
    }

    async fn submit(&self, request: ControlRequest) -> Result<ControlResponse, ControlError> {
        if let Some(error) = texts::unavailable(&self.local()) {
            return Err(error);
        }
        self.submitted.lock().unwrap().push(request.clone());
        let snapshot = self.store.snapshot();
        match request {
            ControlRequest::CreateService { spec } => {
                skep_model::validate::check_service(&spec)?;
                self.create(Object::Service(Arc::new(Service {
                    id: ServiceId::new(self.fresh("svc")),
                    created_at: NOW,
                    updated_at: NOW,
                    spec: *spec,
                    ..Service::default()
                })))
            }
            ControlRequest::UpdateService {
                id, version, spec, ..
            } => {
                let mut service = Service::clone(snapshot.service(&id).unwrap());
                service.previous_spec = Some(Box::new(service.spec));
                service.spec = *spec;
                service.spec_version.index += 1;
                self.replaced(Object::Service(Arc::new(service)), version)
            }
            ControlRequest::RemoveService { id } => self.remove(Key::Service(id)),
            ControlRequest::CreateNetwork { spec } => {
                self.create(Object::Network(Arc::new(Network {
                    id: NetworkId::new(self.fresh("net")),
                    created_at: NOW,
                    spec: *spec,
                    ..Network::default()
                })))
            }
            ControlRequest::RemoveNetwork { id } => self.remove(Key::Network(id)),
            ControlRequest::CreateSecret { spec } => {
                skep_model::validate::check_secret(&spec)?;
                self.create(Object::Secret(Arc::new(Secret {
                    id: SecretId::new(self.fresh("sec")),
                    created_at: NOW,
                    updated_at: NOW,
                    spec,
                    ..Secret::default()
                })))
            }
            ControlRequest::UpdateSecret { id, version, spec } => {
                let mut secret = Secret::clone(snapshot.secret(&id).unwrap());
                secret.spec.labels = spec.labels;
                self.replaced(Object::Secret(Arc::new(secret)), version)
            }
            ControlRequest::RemoveSecret { id } => self.remove(Key::Secret(id)),
            ControlRequest::CreateConfig { spec } => {
                self.create(Object::Config(Arc::new(Config {
                    id: ConfigId::new(self.fresh("cfg")),
                    created_at: NOW,
                    updated_at: NOW,
                    spec,
                    ..Config::default()
                })))
            }
            ControlRequest::RemoveConfig { id } => self.remove(Key::Config(id)),
            ControlRequest::UpdateNode { id, version, spec } => {
                let mut node = Node::clone(snapshot.node(&id).unwrap());
                node.spec = spec;
                self.replaced(Object::Node(Arc::new(node)), version)
            }
            ControlRequest::UpdateCluster { version, spec, .. } => {
                let mut cluster = skep_model::Cluster::clone(snapshot.cluster().unwrap());
                cluster.spec = *spec;
                self.replaced(Object::Cluster(Arc::new(cluster)), version)
            }
            ControlRequest::DeployStack { spec, .. } => {
                self.create(Object::Stack(Arc::new(Stack {
                    id: StackId::new(self.fresh("stk")),
                    created_at: NOW,
                    updated_at: NOW,
                    spec: *spec,
                    revision: 1,
                    ..Stack::default()
                })))
            }
            other => Err(ControlError::new(
                Kind::Unimplemented,
                format!("the fake knows no {other:?}"),
            )),
        }
    }

    async fn logs(&self, _: LogSource, _: LogOptions) -> Result<LogStream, ControlError> {
        let lines = std::mem::take(&mut *self.logs.lock().unwrap());
        Ok(Box::pin(futures_util::stream::iter(lines)))
    }
}
