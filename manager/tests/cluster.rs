//! Managers over real TLS on loopback: they form a cluster, forward, survive their leader.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use skep_manager::{Manager, ManagerConfig, Timing, clock};
use skep_model::node::{ManagerStatus, NodeDescription, Reachability};
use skep_model::{
    ClusterId, ControlRequest, JoinTokens, Kind, NodeId, NodeRole, SecretSpec, ServiceSpec,
    TaskState,
};
use skep_pki::tls::{client_config, server_config};
use skep_pki::{Authority, Identity, Sealer, SecretKey, generate_root, request_certificate};
use skep_proto::connect::Connector;
use skep_proto::encode;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::membership_client::MembershipClient;
use skep_proto::v1::{AgentMessage, Hello, JoinRequest, agent_message, manager_message};
use skep_reconcile::{InitialCluster, NewNode};
use tokio_stream::wrappers::ReceiverStream;

const DEADLINE: Duration = Duration::from_secs(20);

struct Root {
    authority: Authority,
    cert_pem: String,
    key_pem: String,
    cluster: ClusterId,
}

impl Root {
    fn new() -> Self {
        let root = generate_root(clock::now()).unwrap();
        Self {
            authority: Authority::from_pem(&root.cert_pem, &root.key_pem).unwrap(),
            cert_pem: root.cert_pem,
            key_pem: root.key_pem,
            cluster: ClusterId::new("cluster"),
        }
    }

    fn identity(&self, node: &NodeId, role: NodeRole) -> Identity {
        let request = request_certificate().unwrap();
        let life = Duration::from_secs(3600);
        let cert = self
            .authority
            .sign(
                &request.csr_pem,
                node,
                role,
                &self.cluster,
                life,
                clock::now(),
            )
            .unwrap();
        Identity::from_pem(&cert, &request.key_pem, &self.cert_pem).unwrap()
    }

    fn connector(&self, node: &NodeId, role: NodeRole) -> Arc<Connector> {
        let config = client_config(&self.identity(node, role)).unwrap();
        Arc::new(Connector::new(Arc::new(ArcSwap::new(config))))
    }
}

struct Member {
    manager: Manager,
    address: SocketAddr,
    node: NodeId,
    raft_id: u64,
    connector: Arc<Connector>,
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

async fn start(root: &Root, name: &str, raft_id: u64, directory: PathBuf) -> Member {
    let node = NodeId::new(name);
    let identity = root.identity(&node, NodeRole::Manager);
    let connector = root.connector(&node, NodeRole::Manager);
    let address = free_address();
    let manager = Manager::start(ManagerConfig {
        node: node.clone(),
        cluster: root.cluster.clone(),
        raft_id,
        address: address.to_string(),
        listen: address,
        directory,
        sealer: Sealer::new(&SecretKey::generate()),
        connector: Arc::clone(&connector),
        server_tls: Arc::new(ArcSwap::new(server_config(&identity).unwrap())),
        timing: Timing::default(),
        snapshot_every: 10_000,
        keep_entries: 500,
    })
    .await
    .unwrap();
    Member {
        manager,
        address,
        node,
        raft_id,
        connector,
    }
}

async fn bootstrap(root: &Root, first: &Member) {
    let initial = InitialCluster {
        id: root.cluster.clone(),
        root_ca: skep_model::cluster::RootCa {
            cert: root.cert_pem.clone(),
            key: root.key_pem.clone(),
        },
        join_tokens: JoinTokens {
            worker: "w".into(),
            manager: "m".into(),
        },
        ..Default::default()
    };
    let first_commit = skep_reconcile::initial_cluster(initial, clock::now(), &mut clock::random());
    let me = NewNode {
        id: first.node.clone(),
        role: NodeRole::Manager,
        manager_status: Some(ManagerStatus {
            leader: true,
            reachability: Reachability::Reachable,
            addr: first.address.to_string(),
            raft_id: first.raft_id,
        }),
        addr: "127.0.0.1".into(),
        ..Default::default()
    };
    first.manager.bootstrap(&first_commit, me).await.unwrap();
}

/// Adds a node object for `member` and lets it join through `via`.
async fn join(via: &Member, member: &Member) {
    let snapshot = via.manager.snapshot(false).await.unwrap();
    let new = NewNode {
        id: member.node.clone(),
        role: NodeRole::Manager,
        description: NodeDescription::default(),
        ..Default::default()
    };
    let commit = skep_reconcile::add_node(&snapshot, new, clock::now()).unwrap();
    via.manager.commit(&commit).await.unwrap();
    let mut client = MembershipClient::new(member.connector.channel(&via.address.to_string()));
    let request = JoinRequest {
        raft_id: member.raft_id,
        address: member.address.to_string(),
    };
    tokio::time::timeout(DEADLINE, client.join(request))
        .await
        .unwrap()
        .unwrap();
}

fn service(name: &str) -> ControlRequest {
    let json = format!(
        r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"x"}}}},"Mode":{{"Replicated":{{"Replicas":2}}}}}}"#
    );
    let spec: ServiceSpec = serde_json::from_str(&json).unwrap();
    ControlRequest::CreateService {
        spec: Box::new(spec),
    }
}

async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"))
}

async fn three(root: &Root, directory: &std::path::Path) -> Vec<Member> {
    let mut members = Vec::new();
    for at in 1..=3u64 {
        let name = format!("m{at}");
        members.push(start(root, &name, at, directory.join(&name)).await);
    }
    bootstrap(root, &members[0]).await;
    for at in 1..3 {
        join(&members[0], &members[at]).await;
    }
    members
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_forwards_and_every_manager_reads_what_was_acknowledged() {
    let (root, directory) = (Root::new(), tempfile::tempdir().unwrap());
    let members = three(&root, directory.path()).await;
    for (at, member) in members.iter().enumerate() {
        let created = member
            .manager
            .submit(service(&format!("web{at}")))
            .await
            .unwrap();
        for reader in &members {
            let snapshot = reader.manager.snapshot(false).await.unwrap();
            assert!(
                snapshot
                    .services()
                    .any(|service| service.id.as_str() == created.id)
            );
        }
    }
    let taken = members[1]
        .manager
        .submit(service("web0"))
        .await
        .unwrap_err();
    assert_eq!(taken.kind, Kind::Conflict, "{taken}");
    let secret = ControlRequest::CreateSecret {
        spec: SecretSpec::default(),
    };
    assert_eq!(
        members[2].manager.submit(secret).await.unwrap_err().kind,
        Kind::Invalid
    );
    for member in &members {
        member.manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_on_without_its_leader() {
    let (root, directory) = (Root::new(), tempfile::tempdir().unwrap());
    let members = three(&root, directory.path()).await;
    members[0].manager.submit(service("before")).await.unwrap();
    members[0].manager.shutdown().await;
    let began = std::time::Instant::now();
    let rest = &members[1];
    eventually("a service is created without the old leader", async || {
        rest.manager.submit(service("after")).await.ok()
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(10));
    let snapshot = members[2].manager.snapshot(false).await.unwrap();
    let names: Vec<&str> = snapshot
        .services()
        .map(|service| service.spec.name.as_str())
        .collect();
    assert!(
        names.contains(&"before") && names.contains(&"after"),
        "{names:?}"
    );
    members[1].manager.shutdown().await;
    // One of three is no quorum: reads and writes say so instead of hanging.
    let refused = members[2]
        .manager
        .submit(service("alone"))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, Kind::Unavailable);
    members[2].manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_assigned_its_tasks_and_only_members_are_heard() {
    let (root, directory) = (Root::new(), tempfile::tempdir().unwrap());
    let first = start(&root, "m1", 1, directory.path().join("m1")).await;
    bootstrap(&root, &first).await;
    first.manager.submit(service("web")).await.unwrap();
    let (out, outgoing) = tokio::sync::mpsc::channel(8);
    let hello = Hello {
        description: encode(&NodeDescription::default()),
    };
    let hello = AgentMessage {
        content: Some(agent_message::Content::Hello(hello)),
    };
    out.send(hello).await.unwrap();
    let connector = root.connector(&first.node, NodeRole::Manager);
    let mut client = DispatcherClient::new(connector.channel(&first.address.to_string()));
    let mut incoming = client
        .session(ReceiverStream::new(outgoing))
        .await
        .unwrap()
        .into_inner();
    let mut assigned = 0;
    let hear = async {
        while assigned < 2 {
            let message = incoming.message().await.unwrap().unwrap();
            if let Some(manager_message::Content::Assignments(change)) = message.content {
                assigned += change
                    .put
                    .iter()
                    .filter(|item| item.key.starts_with("task/"))
                    .count();
            }
        }
    };
    tokio::time::timeout(DEADLINE, hear)
        .await
        .expect("two tasks are assigned to the only node");
    let snapshot = first.manager.snapshot(false).await.unwrap();
    assert!(
        snapshot
            .tasks()
            .all(|task| task.status.state == TaskState::Assigned)
    );

    // A certificate of another root does not even get a connection.
    let stranger = Root::new().connector(&NodeId::new("x"), NodeRole::Manager);
    let mut client = MembershipClient::new(stranger.channel(&first.address.to_string()));
    let request = JoinRequest {
        raft_id: 9,
        address: "127.0.0.1:1".into(),
    };
    assert!(client.join(request.clone()).await.is_err());
    // A worker's certificate may not join the log.
    let worker = root.connector(&NodeId::new("w"), NodeRole::Worker);
    let mut client = MembershipClient::new(worker.channel(&first.address.to_string()));
    let refused = client.join(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    first.manager.shutdown().await;
}
