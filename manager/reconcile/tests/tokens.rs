//! Join tokens that end by themselves, and whom tokens admit.

mod support;

use std::time::Duration;

use skep_model::{Cluster as Object, ControlRequest, IssuedToken, Nanos, NodeRole};
use skep_reconcile::{NewNode, admit};
use skep_store::Transaction;
use support::{Cluster, cluster};

const WRONG: &str = "A valid join token is necessary to join this cluster";

fn with_tokens() -> Cluster {
    let mut cluster = cluster(1);
    let view = cluster.view();
    let mut object = Object::clone(view.cluster().unwrap());
    object.join_tokens.worker = "SWMTKN-1-pin-worker".into();
    object.join_tokens.manager = "SWMTKN-1-pin-manager".into();
    let mut tx = Transaction::new(&view, cluster.now);
    tx.put(object).unwrap();
    let commit = tx.commit().unwrap();
    cluster.apply(&commit);
    cluster
}

fn create(role: NodeRole, expires_secs: i64, uses_max: u64) -> ControlRequest {
    ControlRequest::CreateJoinToken {
        role,
        expires_after: Nanos::from_secs(expires_secs),
        uses_max,
    }
}

/// A node with this id shows the token.
fn join(cluster: &mut Cluster, token: &str, id: &str) -> Result<NodeRole, String> {
    let new = NewNode {
        id: id.into(),
        ..NewNode::default()
    };
    let (commit, role) =
        admit(&cluster.view(), token, new, cluster.now).map_err(|error| error.message)?;
    cluster.apply(&commit.unwrap());
    let view = cluster.view();
    let node = view.node(&id.into()).unwrap();
    assert_eq!((node.spec.role, node.role), (role, role));
    Ok(role)
}

fn issued(cluster: &Cluster) -> Vec<IssuedToken> {
    cluster.view().cluster().unwrap().issued_tokens.clone()
}

#[test]
fn ordinary_tokens_admit_any_number_and_others_nobody() {
    let mut cluster = with_tokens();
    assert_eq!(
        join(&mut cluster, "SWMTKN-1-pin-worker", "a"),
        Ok(NodeRole::Worker)
    );
    assert_eq!(
        join(&mut cluster, "SWMTKN-1-pin-worker", "b"),
        Ok(NodeRole::Worker)
    );
    assert_eq!(
        join(&mut cluster, "SWMTKN-1-pin-manager", "c"),
        Ok(NodeRole::Manager)
    );
    for wrong in ["", "SWMTKN-1-pin-other", "SWMTKN-1-pin-worke"] {
        assert_eq!(join(&mut cluster, wrong, "d"), Err(WRONG.to_owned()));
    }
}

#[test]
fn a_counted_token_admits_so_many_and_its_secret_is_not_kept() {
    let mut cluster = with_tokens();
    let made = cluster.ask(create(NodeRole::Manager, 0, 2)).unwrap();
    let token = made.token.0;
    assert!(
        token.starts_with("SWMTKN-1-pin-") && token.len() == 13 + 25,
        "{token}"
    );
    let kept = serde_json::to_string(&**cluster.view().cluster().unwrap()).unwrap();
    assert!(!kept.contains(&token["SWMTKN-1-pin-".len()..]));
    assert_eq!(
        format!("{:?}", skep_model::token::Revealed(token.clone())),
        "Revealed(hidden)"
    );
    assert_eq!(join(&mut cluster, &token, "a"), Ok(NodeRole::Manager));
    assert_eq!(join(&mut cluster, &token, "b"), Ok(NodeRole::Manager));
    let refused = join(&mut cluster, &token, "c").unwrap_err();
    assert!(refused.starts_with(WRONG), "{refused}");
    assert!(
        refused.contains("it was for 2 nodes and has been used up"),
        "{refused}"
    );
    assert!(cluster.view().node(&"c".into()).is_none());
    assert_eq!(issued(&cluster)[0].uses, 2);
}

#[test]
fn two_nodes_do_not_come_in_by_one_use() {
    let mut cluster = with_tokens();
    let token = cluster.ask(create(NodeRole::Worker, 0, 1)).unwrap().token.0;
    let view = cluster.view();
    let commit = |id: &str| {
        let new = NewNode {
            id: id.into(),
            ..NewNode::default()
        };
        admit(&view, &token, new, cluster.now).unwrap().0.unwrap()
    };
    let (one, other) = (commit("a"), commit("b"));
    cluster.apply(&one);
    let index = cluster.view().version().index + 1;
    assert!(cluster.store.apply(index, &other).is_err(), "a lost race");
}

#[test]
fn a_token_expires_and_says_so() {
    let mut cluster = with_tokens();
    let token = cluster
        .ask(create(NodeRole::Worker, 60, 0))
        .unwrap()
        .token
        .0;
    cluster.now = cluster.now.plus(Duration::from_secs(59));
    assert_eq!(join(&mut cluster, &token, "a"), Ok(NodeRole::Worker));
    cluster.now = cluster.now.plus(Duration::from_secs(1));
    let refused = join(&mut cluster, &token, "b").unwrap_err();
    assert!(
        refused.contains("it expired at 1970-01-12T13:47:40Z"),
        "{refused}"
    );
    // A week later it is forgotten, when another one is made.
    cluster.now = cluster.now.plus(Duration::from_secs(7 * 24 * 3600 - 1));
    cluster.ask(create(NodeRole::Worker, 60, 0)).unwrap();
    assert_eq!(issued(&cluster).len(), 2);
    cluster.now = cluster.now.plus(Duration::from_secs(1));
    cluster.ask(create(NodeRole::Worker, 60, 0)).unwrap();
    assert_eq!(issued(&cluster).len(), 2);
    assert_eq!(join(&mut cluster, &token, "b"), Err(WRONG.to_owned()));
}

#[test]
fn a_token_can_be_removed_by_the_beginning_of_its_id() {
    let mut cluster = with_tokens();
    let made = cluster.ask(create(NodeRole::Worker, 60, 5)).unwrap();
    let remove = |id: &str| ControlRequest::RemoveJoinToken { id: id.into() };
    let refusal = cluster.refusal(remove("nosuch"));
    assert_eq!(refusal, "join token nosuch not found");
    assert_eq!(cluster.refusal(remove("")), "join token  not found");
    let removed = cluster.ask(remove(&made.id[..6])).unwrap();
    assert_eq!(removed.id, made.id);
    let refused = join(&mut cluster, &made.token.0, "a").unwrap_err();
    assert_eq!(refused, WRONG);
}

#[test]
fn tokens_that_would_never_end_or_are_too_many_are_refused() {
    let mut cluster = with_tokens();
    let refusal = cluster.refusal(create(NodeRole::Worker, 0, 0));
    assert!(
        refusal.contains("--expires") && refusal.contains("--uses"),
        "{refusal}"
    );
    for wrong in [-1, 366 * 24 * 3600] {
        let refusal = cluster.refusal(create(NodeRole::Worker, wrong, 1));
        assert!(refusal.contains("8760h"), "{refusal}");
    }
    for _ in 0..skep_model::token::TOKENS_MAX {
        cluster.ask(create(NodeRole::Worker, 60, 1)).unwrap();
    }
    let refusal = cluster.refusal(create(NodeRole::Worker, 60, 1));
    assert!(refusal.contains("join-token rm"), "{refusal}");
}

#[test]
fn removed_nodes_are_remembered_as_long_as_certificates_ever_lived() {
    let mut cluster = with_tokens();
    join(&mut cluster, "SWMTKN-1-pin-worker", "w").unwrap();
    let request = cluster.cluster_request(|spec| {
        spec.ca_config.node_cert_expiry = Nanos::from_secs(3600);
    });
    cluster.ask(request).unwrap();
    cluster
        .ask(ControlRequest::RemoveNode {
            id: "w".into(),
            force: true,
        })
        .unwrap();
    let view = cluster.view();
    let until = view.cluster().unwrap().removed_nodes["w"];
    // Its certificate is of when they lived for 90 days.
    assert_eq!(until.since(cluster.now).as_secs(), (2160 + 7 * 24) * 3600);
}
