//! A cluster of one manager, over real TLS on loopback.
#![allow(dead_code)] // each test binary uses its part

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use skep_manager::stores::Stores;
use skep_manager::{Manager, ManagerConfig, Timing, clock};
use skep_model::cluster::RootCa;
use skep_model::node::{ManagerStatus, Reachability};
use skep_model::{ClusterSpec, ControlError, ControlRequest, JoinTokens, NodeRole};
use skep_pki::authority::NewRoot;
use skep_pki::tls::{client_config, server_config};
use skep_pki::{Authority, Identity, Sealer, SecretKey, request_certificate};
use skep_proto::connect::Connector;
use skep_reconcile::{InitialCluster, NewNode};

/// How long certificates live.
pub const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// A manager's certificate.
pub fn identity(root: &NewRoot, node: &str) -> Identity {
    identity_of(root, node, NodeRole::Manager)
}

/// A node's certificate.
pub fn identity_of(root: &NewRoot, node: &str, role: NodeRole) -> Identity {
    let key = request_certificate().unwrap();
    let cluster = "c".into();
    let cert = Authority::from_pem(&root.cert_pem, &root.key_pem)
        .unwrap()
        .sign(
            &key.csr_pem,
            &node.into(),
            role,
            &cluster,
            LIFE,
            clock::now(),
        )
        .unwrap();
    Identity::from_pem(&cert, &key.key_pem, &root.cert_pem).unwrap()
}

pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A cluster of one manager.
pub async fn manager(root: &NewRoot, spec: ClusterSpec, directory: &Path) -> (Manager, SocketAddr) {
    manager_with(root, spec, directory, Stores::new(Vec::new())).await
}

/// The same with stores of secrets.
pub async fn manager_with(
    root: &NewRoot,
    spec: ClusterSpec,
    directory: &Path,
    stores: Stores,
) -> (Manager, SocketAddr) {
    let identity = identity(root, "m");
    let address = free_address();
    let config = ManagerConfig {
        node: "m".into(),
        cluster: "c".into(),
        raft_id: 1,
        address: address.to_string(),
        listen: address,
        directory: directory.to_owned(),
        sealer: Sealer::new(&SecretKey::generate()),
        connector: Arc::new(Connector::new(Arc::new(ArcSwap::new(
            client_config(&identity).unwrap(),
        )))),
        server_tls: Arc::new(ArcSwap::new(server_config(&identity).unwrap())),
        timing: Timing::default(),
        snapshot_every: 10_000,
        keep_entries: 500,
        secret_stores: Arc::new(stores),
    };
    let manager = Manager::start(config).await.unwrap();
    let initial = InitialCluster {
        id: "c".into(),
        spec,
        root_ca: RootCa {
            cert: root.cert_pem.clone(),
            key: root.key_pem.clone(),
            ..RootCa::default()
        },
        tls_info: identity.tls_info(),
        join_tokens: JoinTokens {
            worker: "w".into(),
            manager: "m".into(),
        },
        ..InitialCluster::default()
    };
    let first = skep_reconcile::initial_cluster(initial, clock::now(), &mut clock::random());
    let me = NewNode {
        id: "m".into(),
        role: NodeRole::Manager,
        manager_status: Some(ManagerStatus {
            leader: true,
            reachability: Reachability::Reachable,
            addr: address.to_string(),
            raft_id: 1,
        }),
        ..NewNode::default()
    };
    manager.bootstrap(&first, me).await.unwrap();
    (manager, address)
}

/// Changes the cluster's settings.
pub async fn update(
    manager: &Manager,
    edit: impl FnOnce(&mut ClusterSpec),
) -> Result<(), ControlError> {
    let snapshot = manager.snapshot(false).await.unwrap();
    let cluster = snapshot.cluster().unwrap();
    let mut spec = cluster.spec.clone();
    edit(&mut spec);
    let request = ControlRequest::UpdateCluster {
        version: cluster.version,
        spec: Box::new(spec),
        rotate_worker_token: false,
        rotate_manager_token: false,
        rotate_unlock_key: false,
        rotate_data_keys: false,
    };
    manager.submit(request).await.map(drop)
}
