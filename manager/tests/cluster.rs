//! Managers over real TLS on loopback: they form a cluster, forward, survive their leader.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use skep_manager::stores::Stores;
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
use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::membership_client::MembershipClient;
use skep_proto::v1::{
    AgentMessage, Heartbeat, Hello, IssueRequest, JoinRequest, LeaveRequest, agent_message,
    manager_message,
};
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

    fn client(&self, node: &NodeId, role: NodeRole) -> Arc<ClientConfig> {
        client_config(&self.identity(node, role)).unwrap()
    }

    fn connector(&self, node: &NodeId, role: NodeRole) -> Arc<Connector> {
        Arc::new(Connector::new(Arc::new(ArcSwap::new(
            self.client(node, role),
        ))))
    }
}

struct Member {
    manager: Manager,
    address: SocketAddr,
    node: NodeId,
    raft_id: u64,
    connector: Arc<Connector>,
    client_tls: Arc<ArcSwap<ClientConfig>>,
    server_tls: Arc<ArcSwap<ServerConfig>>,
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
    let client_tls = Arc::new(ArcSwap::new(client_config(&identity).unwrap()));
    let server_tls = Arc::new(ArcSwap::new(server_config(&identity).unwrap()));
    let connector = Arc::new(Connector::new(Arc::clone(&client_tls)));
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
        server_tls: Arc::clone(&server_tls),
        timing: Timing::default(),
        snapshot_every: 10_000,
        keep_entries: 500,
        secret_stores: Arc::new(Stores::new(Vec::new())),
    })
    .await
    .unwrap();
    Member {
        manager,
        address,
        node,
        raft_id,
        connector,
        client_tls,
        server_tls,
    }
}

async fn bootstrap(root: &Root, first: &Member) {
    let initial = InitialCluster {
        id: root.cluster.clone(),
        root_ca: skep_model::cluster::RootCa {
            cert: root.cert_pem.clone(),
            key: root.key_pem.clone(),
            ..Default::default()
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

/// A leader that has just lost the others does not know it for a second. It used to refuse, by what it
/// knew, names that were free again and versions that were the newest with the next leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_needs_a_quorum_as_well() {
    let (root, directory) = (Root::new(), tempfile::tempdir().unwrap());
    let members = three(&root, directory.path()).await;
    let leader = &members[0].manager;
    leader.submit(service("web")).await.unwrap();
    let taken = leader.submit(service("web")).await.unwrap_err();
    assert_eq!(taken.kind, Kind::Conflict, "{taken}");
    tokio::join!(members[1].manager.shutdown(), members[2].manager.shutdown());
    let refused = leader.submit(service("web")).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Unavailable, "{refused}");
    leader.shutdown().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_nodes_certificate_is_refused_though_it_has_not_run_out() {
    let (root, directory) = (Root::new(), tempfile::tempdir().unwrap());
    let first = start(&root, "m1", 1, directory.path().join("m1")).await;
    bootstrap(&root, &first).await;
    let snapshot = first.manager.snapshot(false).await.unwrap();
    let node = NodeId::new("w");
    let new = NewNode {
        id: node.clone(),
        ..Default::default()
    };
    let commit = skep_reconcile::add_node(&snapshot, new, clock::now()).unwrap();
    first.manager.commit(&commit).await.unwrap();
    let connector = root.connector(&node, NodeRole::Worker);
    let channel = connector.channel(&first.address.to_string());
    let renewal = || IssueRequest {
        csr_pem: request_certificate().unwrap().csr_pem,
        ..Default::default()
    };
    let mut ca = CaClient::new(channel.clone());
    ca.issue(renewal()).await.unwrap();
    let request = ControlRequest::RemoveNode {
        id: node,
        force: true,
    };
    first.manager.submit(request).await.unwrap();
    // On the connection that it has as on new ones, whatever it asks for.
    let refused = ca.issue(renewal()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    assert!(
        refused.message().contains("no longer accepted"),
        "{refused}"
    );
    let mut membership = MembershipClient::new(channel);
    let refused = membership
        .leave(LeaveRequest { node: true })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    first.manager.shutdown().await;
}

/// The certificate that a manager's listener shows to a new caller.
async fn shown(caller: &Root, member: &Member) -> Vec<u8> {
    let config = caller.client(&NodeId::new("looker"), NodeRole::Worker);
    let stream = tokio::net::TcpStream::connect(member.address)
        .await
        .unwrap();
    let name = skep_pki::MANAGER_NAME.try_into().unwrap();
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
        .unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Asks the cluster for the member's next certificate and puts it to use.
async fn renew(member: &Member) {
    let key = request_certificate().unwrap();
    let request = IssueRequest {
        csr_pem: key.csr_pem,
        ..Default::default()
    };
    let mut client = CaClient::new(member.connector.channel(&member.address.to_string()));
    let reply = client.issue(request).await.unwrap().into_inner();
    let next = Identity::from_pem(&reply.cert_pem, &key.key_pem, &reply.root_pem).unwrap();
    assert_eq!(next.peer.node, member.node);
    assert_eq!(next.peer.role, NodeRole::Manager);
    member.client_tls.store(client_config(&next).unwrap());
    member.server_tls.store(server_config(&next).unwrap());
    member.connector.forget_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_swapped_while_sessions_and_writes_go_on() {
    let (root, directory) = (Root::new(), tempfile::tempdir().unwrap());
    let members = three(&root, directory.path()).await;
    // A session on a follower, opened before anything is renewed.
    let follower = &members[1];
    let (out, outgoing) = tokio::sync::mpsc::channel(8);
    let hello = agent_message::Content::Hello(Hello {
        description: encode(&NodeDescription::default()),
    });
    let content = Some(hello);
    out.send(AgentMessage { content }).await.unwrap();
    let agent = root.connector(&follower.node, NodeRole::Manager);
    let mut session = DispatcherClient::new(agent.channel(&follower.address.to_string()))
        .session(ReceiverStream::new(outgoing))
        .await
        .unwrap()
        .into_inner();
    let mut writes = 0;
    for round in 0..2 {
        for member in &members {
            let before = shown(&root, member).await;
            renew(member).await;
            assert_ne!(
                shown(&root, member).await,
                before,
                "new callers see the new one"
            );
            for writer in &members {
                let name = format!("web{round}-{writes}");
                writer.manager.submit(service(&name)).await.unwrap();
                writes += 1;
            }
        }
    }
    // The session has heard of what was written after its manager's certificate changed.
    let beat = agent_message::Content::Heartbeat(Heartbeat { sent: 0 });
    let content = Some(beat);
    out.send(AgentMessage { content }).await.unwrap();
    let mut tasks = BTreeSet::new();
    let hear = async {
        // Two replicas each; a third of the tasks or so is this node's.
        while tasks.len() < writes / 2 {
            let message = session.message().await.unwrap().unwrap();
            if let Some(manager_message::Content::Assignments(change)) = message.content {
                let put = change.put.into_iter().map(|item| item.key);
                tasks.extend(put.filter(|key| key.starts_with("task/")));
            }
        }
    };
    tokio::time::timeout(DEADLINE, hear)
        .await
        .expect("the session goes on");
    for member in &members {
        member.manager.shutdown().await;
    }
}
