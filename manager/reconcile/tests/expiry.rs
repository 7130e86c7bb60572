//! Workers that are down for as long as the cluster wishes are removed, and no others.

mod support;

use std::time::Duration;

use skep_model::cluster::NODE_EXPIRY_LABEL;
use skep_model::{Kind, NodeId, NodeState, Timestamp};
use skep_reconcile::{Expiry, expire_nodes};
use support::{Cluster, cluster};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Has nodes expire after so long; `0` is never.
fn wish(cluster: &mut Cluster, text: &str) -> Result<(), Kind> {
    let request = cluster.cluster_request(|spec| {
        spec.labels
            .insert(NODE_EXPIRY_LABEL.to_owned(), text.to_owned());
    });
    cluster.ask(request).map(drop).map_err(|error| error.kind)
}

/// What a leader does at each look, every so often, until `end`. Gives back whom it removed.
fn lead(cluster: &mut Cluster, since: Timestamp, length: Duration, look: Duration) -> Vec<String> {
    let end = cluster.now.plus(length);
    let mut removed = Vec::new();
    while cluster.now < end {
        let Expiry { notes, removal } =
            expire_nodes(&cluster.view(), since, cluster.now, &mut || 7);
        if let Some((id, commit)) = removal {
            cluster.apply(&commit);
            removed.push(id.to_string());
        } else if let Some(notes) = notes {
            cluster.apply(&notes);
        }
        cluster.now = cluster.now.plus(look);
    }
    removed
}

#[test]
fn a_worker_that_is_down_for_so_long_is_removed_as_by_force() {
    let mut cluster = cluster(3);
    wish(&mut cluster, "72h").unwrap();
    let since = cluster.now;
    cluster.heard("n2", NodeState::Down);
    assert_eq!(lead(&mut cluster, since, 71 * HOUR, MINUTE), [""; 0]);
    assert_eq!(lead(&mut cluster, since, 2 * HOUR, MINUTE), ["n2"]);
    let view = cluster.view();
    assert!(view.node(&"n2".into()).is_none());
    assert!(
        view.cluster()
            .unwrap()
            .removed_nodes
            .contains_key(&NodeId::new("n2"))
    );
    assert!(view.node(&"n1".into()).is_some(), "it was never down");
}

#[test]
fn managers_stay_and_nobody_goes_unless_it_is_asked_for() {
    let mut cluster = cluster(3);
    let since = cluster.now;
    cluster.heard("n0", NodeState::Down);
    cluster.heard("n1", NodeState::Down);
    assert_eq!(lead(&mut cluster, since, 1000 * HOUR, HOUR), [""; 0]);
    wish(&mut cluster, "0").unwrap();
    assert_eq!(lead(&mut cluster, since, 1000 * HOUR, HOUR), [""; 0]);
    // What was so before the wish counts: it is known since when.
    wish(&mut cluster, "72h").unwrap();
    assert_eq!(lead(&mut cluster, since, HOUR, MINUTE), ["n1"]);
    assert!(cluster.view().node(&"n0".into()).is_some(), "the manager");
    assert_eq!(wish(&mut cluster, "3s"), Err(Kind::Invalid));
    assert_eq!(wish(&mut cluster, "soon"), Err(Kind::Invalid));
}

#[test]
fn a_node_that_comes_back_begins_anew() {
    let mut cluster = cluster(2);
    wish(&mut cluster, "24h").unwrap();
    let since = cluster.now;
    cluster.heard("n1", NodeState::Down);
    assert_eq!(lead(&mut cluster, since, 23 * HOUR, MINUTE), [""; 0]);
    cluster.heard("n1", NodeState::Ready);
    assert_eq!(lead(&mut cluster, since, 48 * HOUR, MINUTE), [""; 0]);
    cluster.heard("n1", NodeState::Down);
    assert_eq!(
        lead(&mut cluster, since, 23 * HOUR + 30 * MINUTE, MINUTE),
        [""; 0]
    );
    // The very moment of its removal is lost to it.
    cluster.now = cluster.now.plus(31 * MINUTE);
    let due = expire_nodes(&cluster.view(), since, cluster.now, &mut || 7);
    let (_, removal) = due.removal.expect("its time is over");
    cluster.heard("n1", NodeState::Ready);
    assert!(cluster.store.apply(1_000_000, &removal).is_err());
    assert!(cluster.view().node(&"n1".into()).is_some());
}

#[test]
fn leaders_that_change_go_on_counting() {
    let mut cluster = cluster(2);
    wish(&mut cluster, "72h").unwrap();
    cluster.heard("n1", NodeState::Down);
    for _ in 0..14 {
        let since = cluster.now;
        assert_eq!(lead(&mut cluster, since, 5 * HOUR, MINUTE), [""; 0]);
        // An election, and a new one that does not know the old one's thoughts.
        cluster.now = cluster.now.plus(Duration::from_secs(5));
    }
    let since = cluster.now;
    assert_eq!(lead(&mut cluster, since, 3 * HOUR, MINUTE), ["n1"]);
}

#[test]
fn a_time_in_which_the_whole_cluster_was_off_does_not_count() {
    let mut cluster = cluster(2);
    wish(&mut cluster, "24h").unwrap();
    let since = cluster.now;
    cluster.heard("n1", NodeState::Down);
    assert_eq!(lead(&mut cluster, since, 5 * HOUR, MINUTE), [""; 0]);
    cluster.now = cluster.now.plus(240 * HOUR);
    let since = cluster.now;
    // What was counted since the last note is lost: an hour at most.
    assert_eq!(lead(&mut cluster, since, 18 * HOUR, MINUTE), [""; 0]);
    assert_eq!(lead(&mut cluster, since, 3 * HOUR, MINUTE), ["n1"]);
}

#[test]
fn who_starts_along_with_the_managers_has_time_to_come() {
    let mut cluster = cluster(2);
    wish(&mut cluster, "24h").unwrap();
    let since = cluster.now;
    cluster.heard("n1", NodeState::Down);
    assert_eq!(
        lead(&mut cluster, since, 23 * HOUR + 30 * MINUTE, MINUTE),
        [""; 0]
    );
    // Off for so short a time that it counts.
    cluster.now = cluster.now.plus(HOUR);
    let since = cluster.now;
    assert_eq!(lead(&mut cluster, since, 9 * MINUTE, MINUTE), [""; 0]);
    assert_eq!(lead(&mut cluster, since, 3 * MINUTE, MINUTE), ["n1"]);
}
