//! Rotation of the cluster's root, step by step.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use skep_model::cluster::{RootCa, RootRotation};
use skep_model::external_ca::ExternalCa;
use skep_model::node::TlsInfo;
use skep_model::{Cluster as Object, ControlRequest, Node, NodeId, NodeState, Timestamp};
use skep_reconcile::control::{self, NextRoot};
use skep_reconcile::{RENEWAL_PATIENCE, RENEWALS_MAX, advance_root, follows_root, renewal_due};
use skep_store::Transaction;
use support::{Cluster, cluster};

const SECOND: Duration = Duration::from_secs(1);

fn info(root: &str, issuer: &str) -> TlsInfo {
    TlsInfo {
        trust_root: root.into(),
        cert_issuer_subject: "CN=swarm-ca".into(),
        cert_issuer_public_key: issuer.into(),
    }
}

/// A cluster whose root is A and whose nodes have certificates of it.
fn with_root(nodes: usize) -> Cluster {
    let mut cluster = cluster(nodes);
    let view = cluster.view();
    let mut object = Object::clone(view.cluster().unwrap());
    object.root_ca = RootCa {
        cert: "A".into(),
        key: "key of A".into(),
        ..RootCa::default()
    };
    object.tls_info = info("A", "A");
    object.join_tokens.worker = "SWMTKN-1-pinA-worker".into();
    object.join_tokens.manager = "SWMTKN-1-pinA-manager".into();
    let mut tx = Transaction::new(&view, cluster.now);
    tx.put(object).unwrap();
    for node in view.nodes() {
        let mut node = Node::clone(node);
        node.description.tls_info = info("A", "A");
        tx.put(node).unwrap();
    }
    let commit = tx.commit().unwrap();
    cluster.apply(&commit);
    cluster
}

fn object(cluster: &Cluster) -> Object {
    Object::clone(cluster.view().cluster().unwrap())
}

/// What a manager makes when `root` is asked for.
fn next(cluster: &Cluster, root: &str, force_rotate: u64) -> NextRoot {
    let present = object(cluster).root_ca;
    NextRoot {
        tls_info: info(&present.cert, root),
        root_ca: RootCa {
            rotation: Some(RootRotation {
                cert: root.into(),
                key: format!("key of {root}"),
                cross_signed: format!("{root} by {}", present.cert),
                pinned: format!("pin{root}"),
            }),
            last_forced_rotation: force_rotate,
            ..present
        },
    }
}

/// `swarm ca --rotate`, once more than before.
fn rotate(cluster: &mut Cluster, root: &str) {
    let present = object(cluster);
    let count = present.spec.ca_config.force_rotate + 1;
    let next = next(cluster, root, count);
    let request = cluster.cluster_request(|spec| spec.ca_config.force_rotate = count);
    let without = control::execute(&request, &cluster.view(), cluster.now, &mut || 1).unwrap_err();
    assert!(without.message.contains("no root certificate was made"));
    let view = cluster.view();
    let (commit, _) =
        control::execute_with_root(&request, Some(next), &view, cluster.now, &mut || 1).unwrap();
    cluster.apply(&commit);
    let after = object(cluster);
    assert!(after.root_rotation_in_progress);
    assert_eq!(after.tls_info, info(&present.root_ca.cert, root));
    assert_eq!(after.join_tokens, present.join_tokens, "not yet");
}

/// One look of the leader; which nodes were told by it.
fn look(cluster: &mut Cluster) -> Vec<NodeId> {
    let before: BTreeMap<NodeId, _> = renewals(cluster);
    let view = cluster.view();
    let mut number = 0;
    let commit = advance_root(&view, cluster.now, &mut || {
        number += 1;
        number
    });
    if let Some(commit) = commit {
        cluster.apply(&commit);
    }
    let after = renewals(cluster);
    let told = after.into_iter().filter(|(id, at)| before[id] != *at);
    told.map(|(id, _)| id).collect()
}

fn renewals(cluster: &Cluster) -> BTreeMap<NodeId, Option<Timestamp>> {
    let (view, object) = (cluster.view(), object(cluster));
    let nodes = view.nodes();
    nodes
        .map(|node| (node.id.clone(), renewal_due(&object, node)))
        .collect()
}

/// A node says whose certificate it has.
fn report(cluster: &mut Cluster, node: &str, issuer: &str) {
    let view = cluster.view();
    let mut description = view.node(&node.into()).unwrap().description.clone();
    description.tls_info = info("A", issuer);
    let word = skep_reconcile::NodeWord {
        id: node.into(),
        description: Some(description),
        ..Default::default()
    };
    let commit = skep_reconcile::describe_nodes(&view, &[word], cluster.now);
    cluster.apply(&commit.unwrap());
}

#[test]
fn nobody_is_told_anything_while_all_have_the_right_issuer() {
    let mut cluster = with_root(3);
    assert!(look(&mut cluster).is_empty());
    let object = object(&cluster);
    assert!(!object.root_rotation_in_progress);
    assert_eq!(object.join_tokens.worker, "SWMTKN-1-pinA-worker");
    assert_eq!(object.root_ca.trusted(), "A");
}

#[test]
fn a_rotation_ends_when_every_node_has_followed_and_not_before() {
    let mut cluster = with_root(3);
    rotate(&mut cluster, "B");
    assert_eq!(object(&cluster).root_ca.trusted(), "AB");
    assert_eq!(look(&mut cluster).len(), 3);
    assert!(look(&mut cluster).is_empty(), "they were told");
    for node in ["n0", "n2"] {
        report(&mut cluster, node, "B");
        assert!(look(&mut cluster).is_empty());
        assert!(object(&cluster).root_rotation_in_progress);
    }
    report(&mut cluster, "n1", "B");
    look(&mut cluster);
    let after = object(&cluster);
    assert!(!after.root_rotation_in_progress);
    assert_eq!(after.root_ca.cert, "B");
    assert_eq!(after.root_ca.key, "key of B");
    assert_eq!(after.root_ca.rotation, None);
    assert_eq!(after.root_ca.last_forced_rotation, 1);
    assert_eq!(after.tls_info, info("B", "B"));
    let tokens = after.join_tokens;
    for token in [&tokens.worker, &tokens.manager] {
        assert!(token.starts_with("SWMTKN-1-pinB-"), "{token}");
        assert_eq!(token.len(), "SWMTKN-1-pinB-".len() + 25);
    }
    assert_ne!(tokens.worker, tokens.manager);
    assert!(look(&mut cluster).is_empty());
}

#[test]
fn a_node_that_is_down_is_waited_for_until_it_is_back_or_removed() {
    for comes_back in [true, false] {
        let mut cluster = with_root(3);
        cluster.heard("n2", NodeState::Down);
        rotate(&mut cluster, "B");
        let told = look(&mut cluster);
        assert_eq!(told, [NodeId::new("n0"), NodeId::new("n1")]);
        report(&mut cluster, "n0", "B");
        report(&mut cluster, "n1", "B");
        cluster.now = cluster.now.plus(Duration::from_secs(30 * 24 * 3600));
        assert!(look(&mut cluster).is_empty());
        assert!(object(&cluster).root_rotation_in_progress);
        if comes_back {
            cluster.heard("n2", NodeState::Ready);
            assert_eq!(look(&mut cluster), [NodeId::new("n2")]);
            report(&mut cluster, "n2", "B");
        } else {
            let request = ControlRequest::RemoveNode {
                id: "n2".into(),
                force: false,
            };
            cluster.ask(request).unwrap();
        }
        look(&mut cluster);
        assert!(!object(&cluster).root_rotation_in_progress);
    }
}

#[test]
fn the_newest_of_several_rotations_wins() {
    let mut cluster = with_root(2);
    rotate(&mut cluster, "B");
    assert_eq!(look(&mut cluster).len(), 2);
    report(&mut cluster, "n0", "B");
    // By now n0 has followed, and n1 has not.
    rotate(&mut cluster, "C");
    assert_eq!(look(&mut cluster).len(), 2, "both are told of the new one");
    report(&mut cluster, "n1", "B");
    assert!(look(&mut cluster).is_empty(), "B is nobody's wish any more");
    report(&mut cluster, "n1", "C");
    report(&mut cluster, "n0", "C");
    look(&mut cluster);
    let after = object(&cluster);
    assert_eq!(
        (&*after.root_ca.cert, after.root_rotation_in_progress),
        ("C", false)
    );
    assert!(after.join_tokens.worker.starts_with("SWMTKN-1-pinC-"));
}

#[test]
fn a_rotation_that_is_given_up_leads_back() {
    let mut cluster = with_root(2);
    rotate(&mut cluster, "B");
    look(&mut cluster);
    report(&mut cluster, "n0", "B");
    let mut back = object(&cluster);
    back.root_ca.rotation = None;
    back.tls_info = info("A", "A");
    back.root_rotation_in_progress = false;
    let mut tx = Transaction::new(&cluster.view(), cluster.now);
    tx.put(back).unwrap();
    let commit = tx.commit().unwrap();
    cluster.apply(&commit);
    assert_eq!(look(&mut cluster), [NodeId::new("n0")]);
    report(&mut cluster, "n0", "A");
    assert!(look(&mut cluster).is_empty());
    let after = object(&cluster);
    assert_eq!(after.join_tokens.worker, "SWMTKN-1-pinA-worker");
}

#[test]
fn nodes_are_told_in_batches_and_those_that_do_not_follow_hold_up_nobody() {
    let count = RENEWALS_MAX * 2 + 5;
    let mut cluster = with_root(count);
    rotate(&mut cluster, "B");
    let first = look(&mut cluster);
    assert_eq!(first.len(), RENEWALS_MAX);
    // Two follow, so that two more have their turn.
    report(&mut cluster, first[0].as_str(), "B");
    report(&mut cluster, first[1].as_str(), "B");
    let next = look(&mut cluster);
    assert_eq!(next.len(), 2);
    assert!(next.iter().all(|node| !first.contains(node)));
    cluster.now = cluster.now.plus(RENEWAL_PATIENCE - SECOND);
    assert!(look(&mut cluster).is_empty());
    // The others do not: those that were never told come first, and then they once more.
    cluster.now = cluster.now.plus(SECOND);
    let second = look(&mut cluster);
    assert_eq!(second.len(), RENEWALS_MAX);
    assert!(second.iter().all(|node| !first.contains(node)));
    cluster.now = cluster.now.plus(RENEWAL_PATIENCE);
    let third = look(&mut cluster);
    assert_eq!(third.len(), RENEWALS_MAX);
    let fresh = third.iter().filter(|node| !first.contains(node));
    assert_eq!(fresh.count(), count - RENEWALS_MAX * 2 - 2);
    let (view, object) = (cluster.view(), object(&cluster));
    let following = view.nodes().filter(|node| follows_root(&object, node));
    assert_eq!(following.count(), 2);
}

/// The root that each external authority signs for.
fn authorities(cluster: &Cluster) -> Vec<String> {
    let all = object(cluster).spec.ca_config.external_cas;
    let all = ExternalCa::read(&all).unwrap().into_iter();
    all.map(|authority| authority.ca_cert).collect()
}

fn complete(cluster: &mut Cluster, root: &str) {
    rotate(cluster, root);
    look(cluster);
    report(cluster, "n0", root);
    look(cluster);
    assert_eq!(object(cluster).root_ca.cert, root);
}

#[test]
fn an_authority_that_names_no_root_keeps_the_one_that_it_was_given_for() {
    let mut cluster = with_root(1);
    let blank = vec![json!({"Protocol": "cfssl", "URL": "https://ca/"})];
    let given = cluster.cluster_request(|spec| spec.ca_config.external_cas = blank.clone());
    cluster.ask(given).unwrap();
    complete(&mut cluster, "B");
    assert_eq!(authorities(&cluster), ["A"]);
    let after = object(&cluster);
    let all = ExternalCa::read(&after.spec.ca_config.external_cas).unwrap();
    assert!(!all[0].signs_for(&after.root_ca.cert, true));

    // A client that drops what it does not know, or writes it in another way, is not refused.
    let same = vec![json!({"URL": "https://ca/", "CACert": "A\r\n", "Options": {}})];
    for (sent, root) in [(blank, "A"), (same, "A\r\n")] {
        let request = cluster.cluster_request(|spec| {
            spec.ca_config.external_cas = sent;
            spec.orchestration.task_history_retention_limit = Some(7);
        });
        cluster.ask(request).unwrap();
        assert_eq!(authorities(&cluster), [root]);
    }
    let other = vec![json!({"URL": "https://other/"})];
    let request = cluster.cluster_request(|spec| spec.ca_config.external_cas = other);
    cluster.ask(request).unwrap();
    assert_eq!(authorities(&cluster), ["B"]);
}

#[test]
fn what_was_stored_without_a_root_stays_with_the_one_that_goes() {
    for is_under_way in [false, true] {
        let mut cluster = with_root(1);
        let store = |cluster: &mut Cluster| {
            let mut object = object(cluster);
            object.spec.ca_config.external_cas = vec![json!({"URL": "https://ca/"})];
            let mut tx = Transaction::new(&cluster.view(), cluster.now);
            tx.put(object).unwrap();
            let commit = tx.commit().unwrap();
            cluster.apply(&commit);
        };
        if is_under_way {
            rotate(&mut cluster, "B");
            store(&mut cluster);
            look(&mut cluster);
            report(&mut cluster, "n0", "B");
            look(&mut cluster);
        } else {
            store(&mut cluster);
            complete(&mut cluster, "B");
        }
        assert_eq!(object(&cluster).root_ca.cert, "B");
        assert_eq!(authorities(&cluster), ["A"]);
    }
}

#[test]
fn the_authority_of_a_root_without_its_key_is_not_taken_away() {
    let mut cluster = with_root(1);
    let count = 1;
    let own = vec![json!({"URL": "https://ca/", "CACert": "B"})];
    let mut adopted = next(&cluster, "B", count);
    adopted.root_ca.rotation.as_mut().unwrap().key.clear();
    let request = cluster.cluster_request(|spec| {
        spec.ca_config.force_rotate = count;
        spec.ca_config.signing_ca_cert = "B".to_owned();
        spec.ca_config.external_cas = own.clone();
    });
    let view = cluster.view();
    let (commit, _) =
        control::execute_with_root(&request, Some(adopted), &view, cluster.now, &mut || 1).unwrap();
    cluster.apply(&commit);
    // Neither while nodes follow, nor afterwards.
    for is_over in [false, true] {
        if is_over {
            look(&mut cluster);
            report(&mut cluster, "n0", "B");
            look(&mut cluster);
            assert_eq!(object(&cluster).root_ca.cert, "B");
        }
        let none = cluster.cluster_request(|spec| spec.ca_config.external_cas.clear());
        let refused = cluster.refusal(none);
        assert!(refused.contains("`--external-ca`"), "{refused}");
        let kept = cluster.cluster_request(|spec| {
            spec.orchestration.task_history_retention_limit = Some(i64::from(is_over));
        });
        cluster.ask(kept).unwrap();
    }
    // Its key is brought: nobody else needs to have it.
    let mut with_key = object(&cluster).root_ca;
    with_key.key = "key of B".to_owned();
    let back = NextRoot {
        root_ca: with_key,
        tls_info: object(&cluster).tls_info,
    };
    let request = cluster.cluster_request(|spec| {
        spec.ca_config.signing_ca_cert = "B".to_owned();
        spec.ca_config.signing_ca_key = "key of B".to_owned();
        spec.ca_config.external_cas.clear();
    });
    let view = cluster.view();
    control::execute_with_root(&request, Some(back), &view, cluster.now, &mut || 1).unwrap();
}
