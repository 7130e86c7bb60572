//! Encrypted networks: who may make one, what the cluster's default does, and how keys are
//! replaced.

mod support;

use std::collections::BTreeMap;

use skep_model::encryption::{DataKey, EncryptionMethod, KeyRing};
use skep_model::node::NodeDescription;
use skep_model::{ControlRequest, GuestContainer, Kind, NetworkSpec, NodeId, NodeState, Timestamp};
use skep_reconcile::audit::audit;
use skep_reconcile::{DATA_KEY_LIFE, NodeWord, advance_keys, awaited_by_keys, describe_nodes};
use skep_store::{Commit, Snapshot};
use support::{Cluster, cluster};

fn network(name: &str, option: Option<&str>) -> ControlRequest {
    let mut text = format!(r#"{{"Name":"{name}","DriverConfiguration":{{"Name":"overlay"}}}}"#);
    if let Some(value) = option {
        text = format!(
            r#"{{"Name":"{name}","DriverConfiguration":{{"Name":"overlay","Options":{{"encrypted":"{value}"}}}}}}"#
        );
    }
    let spec: NetworkSpec = serde_json::from_str(&text).unwrap();
    ControlRequest::CreateNetwork {
        spec: Box::new(spec),
    }
}

fn describe(
    view: &Snapshot,
    id: &NodeId,
    description: NodeDescription,
    now: Timestamp,
) -> Option<Commit> {
    let word = NodeWord {
        id: id.clone(),
        description: Some(description),
        ..NodeWord::default()
    };
    describe_nodes(view, &[word], now)
}

/// A node says whether it can, and which keys it has.
fn says(cluster: &mut Cluster, node: &str, able: bool, generations: &[u64]) {
    let view = cluster.view();
    let mut description = view.node(&node.into()).unwrap().description.clone();
    description.encryption.method = match able {
        true => EncryptionMethod::Userspace,
        false => EncryptionMethod::None,
    };
    description.encryption.reason = match able {
        true => String::new(),
        false => "switched off".to_owned(),
    };
    description.encryption.keys = generations
        .iter()
        .map(|generation| DataKey {
            generation: *generation,
            public_key: format!("{node}-{generation}"),
            port: 4790,
        })
        .collect();
    if let Some(commit) = describe(&view, &node.into(), description, cluster.now) {
        cluster.apply(&commit);
    }
}

fn encrypted(cluster: &Cluster, name: &str) -> bool {
    let view = cluster.view();
    let found = view.networks().find(|network| network.spec.name == name);
    found.unwrap().spec.is_encrypted()
}

#[test]
fn a_network_that_nobody_can_encrypt_is_refused_with_the_reasons() {
    let mut cluster = cluster(2);
    says(&mut cluster, "n0", false, &[]);
    let error = cluster.ask(network("secret", Some(""))).unwrap_err();
    assert_eq!(error.kind, Kind::FailedPrecondition);
    assert_eq!(
        error.message,
        "network secret cannot be encrypted: no node of the cluster is able to (n0: switched off; n1: it does not say that it can). Create it with `--opt encrypted=false`, or make a node able to"
    );
    cluster.ask(network("open", Some("false"))).unwrap();
    assert!(!encrypted(&cluster, "open"));
    says(&mut cluster, "n1", true, &[]);
    cluster.ask(network("secret", Some(""))).unwrap();
    assert!(encrypted(&cluster, "secret"));
    // A node that can but is down carries nothing.
    cluster.heard("n1", NodeState::Down);
    let error = cluster.ask(network("other", Some("true"))).unwrap_err();
    assert!(error.message.contains("n0: switched off"), "{error}");
    let error = cluster.ask(network("wild", Some("perhaps"))).unwrap_err();
    assert_eq!(error.kind, Kind::Invalid);
}

#[test]
fn the_default_of_the_cluster_is_for_networks_that_do_not_say() {
    let mut cluster = cluster(1);
    says(&mut cluster, "n0", true, &[]);
    cluster.ask(network("before", None)).unwrap();
    let present = skep_model::Cluster::clone(cluster.view().cluster().unwrap());
    let mut wanted = present.spec.clone();
    wanted.encryption_config.encrypt_networks = true;
    cluster.ask(update(&present, wanted, false)).unwrap();
    cluster.ask(network("by-default", None)).unwrap();
    cluster.ask(network("opted-out", Some("false"))).unwrap();
    assert!(!encrypted(&cluster, "before"));
    assert!(encrypted(&cluster, "by-default"));
    assert!(!encrypted(&cluster, "opted-out"));
    cluster.step();
    let view = cluster.view();
    let mtu = |name: &str| {
        let found = view.networks().find(|network| network.spec.name == name);
        found.unwrap().mtu
    };
    assert_eq!((mtu("by-default"), mtu("opted-out")), (1370, 1450));
}

fn update(
    present: &skep_model::Cluster,
    spec: skep_model::ClusterSpec,
    rotate_data_keys: bool,
) -> ControlRequest {
    ControlRequest::UpdateCluster {
        version: present.version,
        spec: Box::new(spec),
        rotate_worker_token: false,
        rotate_manager_token: false,
        rotate_unlock_key: false,
        rotate_data_keys,
    }
}

fn ring(cluster: &Cluster) -> (u64, u64, u64) {
    let KeyRing {
        oldest,
        used,
        newest,
        ..
    } = cluster.view().cluster().unwrap().data_keys;
    (oldest, used, newest)
}

/// One look of the leader, to whom the nodes n0 and n1 have told how far they follow.
fn advance(cluster: &mut Cluster, followed: [u64; 2]) -> (u64, u64, u64) {
    let nodes = ["n0", "n1"].map(NodeId::new);
    let networks: BTreeMap<NodeId, u64> = nodes.into_iter().zip(followed).collect();
    if let Some(commit) = advance_keys(&cluster.view(), &networks, cluster.now) {
        cluster.apply(&commit);
    }
    ring(cluster)
}

/// Two nodes that can, a third that cannot and never reports a key, an encrypted network.
fn with_keys() -> Cluster {
    let mut cluster = cluster(2);
    for node in ["n0", "n1"] {
        says(&mut cluster, node, true, &[0]);
    }
    cluster.ask(network("secret", Some(""))).unwrap();
    assert_eq!(advance(&mut cluster, [0, 0]), (0, 0, 0));
    cluster
}

#[test]
fn keys_move_on_only_when_every_ready_node_has_followed() {
    let mut cluster = with_keys();
    assert_eq!(awaited_by_keys(&cluster.view()), 0);
    let present = skep_model::Cluster::clone(cluster.view().cluster().unwrap());
    let request = update(&present, present.spec.clone(), true);
    cluster.ask(request).unwrap();
    assert_eq!(ring(&cluster), (0, 0, 1));
    let all = [u64::MAX; 2];
    assert_eq!(advance(&mut cluster, all), (0, 0, 1), "nobody has a key");
    says(&mut cluster, "n0", true, &[0, 1]);
    assert_eq!(advance(&mut cluster, all), (0, 0, 1), "n1 has none");
    says(&mut cluster, "n1", true, &[0, 1]);
    assert_eq!(awaited_by_keys(&cluster.view()), 0);
    assert_eq!(advance(&mut cluster, all), (0, 0, 1), "it is noted first");
    let told = awaited_by_keys(&cluster.view());
    assert!(told > 0);
    assert_eq!(advance(&mut cluster, [told, told - 1]), (0, 0, 1));
    assert_eq!(advance(&mut cluster, [told, told]), (0, 1, 1));
    assert_eq!(advance(&mut cluster, [told, told]), (0, 1, 1));
    let moved = awaited_by_keys(&cluster.view());
    assert!(moved > told);
    assert_eq!(advance(&mut cluster, [moved, moved]), (1, 1, 1));
    assert_eq!(awaited_by_keys(&cluster.view()), 0);
}

#[test]
fn a_node_that_is_down_or_cannot_encrypt_holds_nothing_up() {
    let mut cluster = with_keys();
    says(&mut cluster, "n1", false, &[]);
    cluster.now = cluster.now.plus(DATA_KEY_LIFE);
    assert_eq!(advance(&mut cluster, [0, 0]), (0, 0, 1), "it is time");
    says(&mut cluster, "n0", true, &[0, 1]);
    assert_eq!(advance(&mut cluster, [0, 0]), (0, 0, 1), "noted");
    let told = awaited_by_keys(&cluster.view());
    assert_eq!(
        advance(&mut cluster, [told, 0]),
        (0, 0, 1),
        "it follows too"
    );
    cluster.heard("n1", NodeState::Down);
    assert_eq!(advance(&mut cluster, [told, 0]), (0, 1, 1));
}

#[test]
fn only_keys_are_waited_for_and_a_key_that_is_made_anew_is() {
    let mut cluster = with_keys();
    cluster.now = cluster.now.plus(DATA_KEY_LIFE);
    assert_eq!(advance(&mut cluster, [0, 0]), (0, 0, 1));
    for node in ["n0", "n1"] {
        says(&mut cluster, node, true, &[0, 1]);
    }
    assert_eq!(advance(&mut cluster, [0, 0]), (0, 0, 1));
    let told = awaited_by_keys(&cluster.view());
    let describe_anew = |cluster: &mut Cluster, change: fn(&mut NodeDescription)| {
        let (view, id) = (cluster.view(), NodeId::new("n1"));
        let mut description = view.node(&id).unwrap().description.clone();
        change(&mut description);
        let commit = describe(&view, &id, description, cluster.now);
        cluster.apply(&commit.expect("it is another one"));
    };
    describe_anew(&mut cluster, |says| says.hostname.push_str("-renamed"));
    assert_eq!(awaited_by_keys(&cluster.view()), told);
    describe_anew(&mut cluster, |says| {
        says.encryption.keys[1].public_key = "another".into();
    });
    assert_eq!(advance(&mut cluster, [told, told]), (0, 0, 1));
    let again = awaited_by_keys(&cluster.view());
    assert!(again > told);
    assert_eq!(advance(&mut cluster, [told, again]), (0, 0, 1));
    assert_eq!(advance(&mut cluster, [again, again]), (0, 1, 1));
}

#[test]
fn without_encrypted_networks_there_is_nothing_to_replace() {
    let mut cluster = with_keys();
    cluster.now = cluster.now.plus(DATA_KEY_LIFE);
    assert_eq!(advance(&mut cluster, [0, 0]), (0, 0, 1));
    let view = cluster.view();
    let id = view.networks().find(|one| one.spec.name == "secret");
    let id = id.unwrap().id.clone();
    cluster.ask(ControlRequest::RemoveNetwork { id }).unwrap();
    assert_eq!(advance(&mut cluster, [0, 0]), (1, 1, 1));
    assert_eq!(awaited_by_keys(&cluster.view()), 0);
    let present = skep_model::Cluster::clone(cluster.view().cluster().unwrap());
    let refusal = cluster.refusal(update(&present, present.spec.clone(), true));
    assert_eq!(
        refusal,
        "no network is encrypted: there are no keys to replace"
    );
}

#[test]
fn keys_that_are_replaced_for_long_are_found_with_the_nodes_that_hold_them_up() {
    let mut cluster = with_keys();
    cluster.now = cluster.now.plus(DATA_KEY_LIFE);
    assert_eq!(advance(&mut cluster, [0, 0]), (0, 0, 1));
    says(&mut cluster, "n0", true, &[0, 1]);
    let found = |cluster: &Cluster, settled: Timestamp| {
        let findings = audit(&cluster.view(), settled).findings;
        let keys = findings.into_iter().map(|one| one.message);
        keys.filter(|text| text.starts_with("keys "))
            .collect::<Vec<_>>()
    };
    let began = cluster.now;
    assert!(found(&cluster, Timestamp(began.0 - 1)).is_empty());
    let [lagging] = found(&cluster, began).try_into().unwrap();
    assert!(
        lagging.ends_with("these nodes have no new key: n1"),
        "{lagging}"
    );
    says(&mut cluster, "n1", true, &[0, 1]);
    let [following] = found(&cluster, began).try_into().unwrap();
    assert!(
        following.ends_with("packets follow them yet"),
        "{following}"
    );
}

#[test]
fn a_container_of_a_node_that_cannot_encrypt_gets_no_place() {
    let mut cluster = cluster(2);
    says(&mut cluster, "n0", true, &[]);
    says(&mut cluster, "n1", false, &[]);
    let ControlRequest::CreateNetwork { mut spec } = network("secret", Some("")) else {
        unreachable!()
    };
    spec.attachable = true;
    cluster.ask(ControlRequest::CreateNetwork { spec }).unwrap();
    cluster.settle();
    let attach = |node: &str| ControlRequest::Attach {
        node: node.into(),
        network: "secret".into(),
        container: Box::new(GuestContainer {
            id: node.into(),
            ..GuestContainer::default()
        }),
        addresses: Vec::new(),
    };
    cluster.ask(attach("n0")).unwrap();
    let error = cluster.ask(attach("n1")).unwrap_err();
    assert_eq!(error.kind, Kind::FailedPrecondition);
    assert_eq!(
        error.message,
        "network secret is encrypted, and node n1 cannot encrypt: switched off"
    );
}
