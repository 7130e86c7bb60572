//! Snapshots: taken, restored, streamed, and refused when they are damaged.

mod support;

use std::sync::atomic::Ordering;

use skep_consensus::{Backend, OpenError};
use support::{Cluster, eventually, largest_file, member};

async fn snapshot_cluster(count: u64) -> Cluster {
    let mut cluster = Cluster::new(Backend::Sled);
    cluster.snapshot_every = 50;
    cluster.keep_entries = 10;
    cluster.grow(count).await;
    cluster
}

async fn write(cluster: &Cluster, among: &[u64], range: std::ops::Range<u64>) {
    for number in range {
        cluster.write(among, &format!("command {number}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_starts_from_its_snapshot() {
    let mut cluster = snapshot_cluster(1).await;
    write(&cluster, &[1], 0..180).await;
    let member = cluster.member(1);
    eventually("entries are dropped", || {
        member.metrics().purged_log > Some(100)
    })
    .await;
    assert!(member.metrics().snapshot_log >= member.metrics().purged_log);
    drop(member);
    let before = cluster.journal(1).commands();
    for _ in 0..2 {
        cluster.stop(1).await;
        cluster.open(1).await.unwrap();
        assert_eq!(cluster.journal(1).restores.load(Ordering::SeqCst), 1);
        cluster.leader().await;
        cluster.member(1).read_barrier().await.unwrap();
        assert_eq!(cluster.journal(1).commands(), before);
    }
    assert_eq!(cluster.write(&[1], "next").await, 181);
    let kept = std::fs::read_dir(cluster.path(1).join("snapshots"))
        .unwrap()
        .count();
    assert_eq!(kept, 1, "old snapshots are removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_far_behind_gets_a_snapshot() {
    let mut cluster = snapshot_cluster(3).await;
    let leader = cluster.leader().await;
    let slow = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != slow).collect();
    write(&cluster, &[1, 2, 3], 0..10).await;
    cluster.stop(slow).await;
    write(&cluster, &others, 10..200).await;
    // Chunks of several pieces too.
    cluster
        .member(leader)
        .propose(vec![9; 3 << 20])
        .await
        .unwrap();
    write(&cluster, &others, 201..260).await;
    let leading = cluster.member(leader);
    eventually("entries are dropped", || {
        leading.metrics().purged_log > Some(150)
    })
    .await;
    let sent = cluster.net.snapshots_sent();
    cluster.open(slow).await.unwrap();
    let commands = cluster.converged(&[1, 2, 3]).await;
    assert_eq!(commands.len(), 260);
    assert!(
        cluster.net.snapshots_sent() > sent,
        "it was brought up with entries alone"
    );
    assert!(cluster.journal(slow).restores.load(Ordering::SeqCst) >= 1);

    // And keeps it.
    cluster.stop(slow).await;
    cluster.open(slow).await.unwrap();
    assert!(cluster.converged(&[1, 2, 3]).await == commands);
    write(&cluster, &[1, 2, 3], 260..265).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_joins_from_a_snapshot() {
    let mut cluster = snapshot_cluster(1).await;
    write(&cluster, &[1], 0..120).await;
    let leader = cluster.member(1);
    eventually("entries are dropped", || {
        leader.metrics().purged_log > Some(60)
    })
    .await;
    cluster.open(2).await.unwrap();
    leader.add_learner(member(2)).await.unwrap();
    leader.promote(2).await.unwrap();
    assert_eq!(cluster.converged(&[1, 2]).await.len(), 120);
    assert_eq!(cluster.member(2).applied_index(), 120);
    assert_eq!(cluster.member(2).members(), leader.members());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_missing_snapshot_is_refused() {
    let mut cluster = snapshot_cluster(1).await;
    write(&cluster, &[1], 0..120).await;
    let member = cluster.member(1);
    eventually("entries are dropped", || {
        member.metrics().purged_log > Some(60)
    })
    .await;
    drop(member);
    cluster.stop(1).await;
    let path = largest_file(&cluster.path(1).join("snapshots"));
    let whole = std::fs::read(&path).unwrap();
    let step = whole.len() / 60;
    let mut damaged: Vec<Vec<u8>> = (0..whole.len())
        .step_by(step)
        .map(|at| {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            damaged
        })
        .collect();
    damaged.push(whole[..whole.len() - 1].to_vec());
    damaged.push(whole[..whole.len() / 2].to_vec());
    damaged.push([&whole[..], b"x"].concat());
    damaged.push(Vec::new());
    for (case, bytes) in damaged.into_iter().enumerate() {
        std::fs::write(&path, bytes).unwrap();
        let Err(OpenError::Damaged { what, .. }) = cluster.open(1).await else {
            panic!("case {case}: a damaged snapshot was believed");
        };
        assert!(what.contains("snapshot"), "{what}");
    }
    std::fs::remove_file(&path).unwrap();
    let Err(OpenError::Damaged { what, .. }) = cluster.open(1).await else {
        panic!("a missing snapshot was not missed");
    };
    assert!(what.contains("missing"), "{what}");
    std::fs::write(&path, whole).unwrap();
    cluster.open(1).await.unwrap();
    cluster.leader().await;
    cluster.member(1).read_barrier().await.unwrap();
    assert_eq!(cluster.journal(1).commands().len(), 120);
}

/// The log's own file is damaged where its newest record lies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_file_is_refused() {
    for backend in [Backend::Sled, Backend::Segments] {
        let mut cluster = Cluster::start(backend, 1).await;
        write(&cluster, &[1], 0..30).await;
        cluster.stop(1).await;
        let path = match backend {
            Backend::Sled => cluster.path(1).join("sled/log/db"),
            Backend::Segments => largest_file(&cluster.path(1).join("segments")),
        };
        let whole = std::fs::read(&path).unwrap();
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
        let mut damaged = whole.clone();
        for at in [end - 40, end / 2, end / 3] {
            damaged[at] ^= 0xff;
        }
        std::fs::write(&path, &damaged).unwrap();
        for _ in 0..2 {
            let refused = cluster.open(1).await;
            assert!(
                matches!(refused, Err(OpenError::Damaged { .. })),
                "{backend:?}: {refused:?}"
            );
        }

        // The end of the file is gone: a shorter log that is well-formed, and refused all the same.
        std::fs::write(&path, &whole[..end - 200]).unwrap();
        let refused = cluster.open(1).await;
        assert!(
            matches!(refused, Err(OpenError::Damaged { .. })),
            "{backend:?}: {refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_opened_once_and_with_its_own_key() {
    let mut cluster = Cluster::start(Backend::Sled, 1).await;
    assert!(matches!(
        cluster.open(1).await,
        Err(OpenError::InUse { .. })
    ));
    cluster.stop(1).await;
    let sealer = std::mem::replace(
        &mut cluster.sealer,
        skep_pki::Sealer::new(&skep_pki::SecretKey::generate()),
    );
    assert!(matches!(
        cluster.open(1).await,
        Err(OpenError::WrongKey { .. })
    ));
    cluster.sealer = sealer;
    cluster.open(1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_often_and_how_many_can_be_changed_while_it_runs() {
    let mut cluster = Cluster::new(Backend::Sled);
    cluster.keep_entries = 5;
    cluster.grow(1).await;
    let member = cluster.member(1);
    let kept = || {
        std::fs::read_dir(cluster.path(1).join("snapshots"))
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|it| it == "snapshot"))
            .count()
    };
    write(&cluster, &[1], 0..60).await;
    assert_eq!(
        member.metrics().snapshot_log,
        None,
        "10 000 are not reached"
    );
    // What was written before counts as well.
    member.set_snapshots(20, 2).await;
    eventually("a snapshot", || member.metrics().snapshot_log > Some(50)).await;
    for round in 0..4 {
        let last = member.metrics().snapshot_log;
        write(&cluster, &[1], 60 + round * 25..85 + round * 25).await;
        eventually("the next one", || member.metrics().snapshot_log > last).await;
    }
    eventually("old ones are kept", || kept() == 3).await;
    member.set_snapshots(1_000, 0).await;
    assert_eq!(kept(), 1, "and go when they are wanted no more");
    write(&cluster, &[1], 160..220).await;
    // One may have been due before.
    let last = member.metrics().snapshot_log;
    assert!(last < Some(170), "{last:?}");
    drop(member);
    cluster.stop(1).await;
    cluster.open(1).await.unwrap();
    cluster.leader().await;
    cluster.member(1).read_barrier().await.unwrap();
    assert_eq!(cluster.journal(1).commands().len(), 220);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_forgotten_when_it_is_asked_for() {
    let mut cluster = Cluster::new(Backend::Sled);
    cluster.grow(1).await;
    let member = cluster.member(1);
    member.set_snapshots(20, 3).await;
    for round in 0..3 {
        let last = member.metrics().snapshot_log;
        write(&cluster, &[1], round * 25..(round + 1) * 25).await;
        eventually("a snapshot", || member.metrics().snapshot_log > last).await;
    }
    let applied = member.metrics().last_applied_log;
    assert!(member.metrics().purged_log < applied);
    let within = std::time::Duration::from_secs(10);
    member.forget_history(within).await.unwrap();
    let after = member.metrics();
    assert!(after.purged_log >= applied && after.snapshot_log >= applied);
    let left = std::fs::read_dir(cluster.path(1).join("snapshots")).unwrap();
    assert_eq!(left.count(), 1, "old snapshots are gone, this once");
    // Nothing is left to be forgotten, and all goes on.
    member.forget_history(within).await.unwrap();
    write(&cluster, &[1], 75..80).await;
    drop(member);
    cluster.stop(1).await;
    cluster.open(1).await.unwrap();
    cluster.leader().await;
    cluster.member(1).read_barrier().await.unwrap();
    assert_eq!(cluster.journal(1).commands().len(), 80);
}
