//! Members come, move and go.

mod support;

use skep_consensus::{Backend, Consensus, Member, MembershipError, OpenError, Part};
use support::{Cluster, eventually, member};

fn parts(cluster: &Cluster, id: u64) -> Vec<(u64, Part)> {
    cluster
        .member(id)
        .members()
        .into_iter()
        .map(|part| (part.member.id, part.part))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learners_are_added_promoted_and_removed() {
    let mut cluster = Cluster::start(Backend::Sled, 1).await;
    let leader = cluster.member(1);
    cluster.write(&[1], "one").await;
    cluster.open(2).await.unwrap();
    assert!(!cluster.member(2).is_initialized().await);

    leader.add_learner(member(2)).await.unwrap();
    assert_eq!(parts(&cluster, 1), [(1, Part::Voter), (2, Part::Learner)]);
    cluster.converged(&[1, 2]).await;
    leader.promote(2).await.unwrap();
    leader.promote(2).await.unwrap();
    assert_eq!(parts(&cluster, 1), [(1, Part::Voter), (2, Part::Voter)]);
    cluster.write(&[1, 2], "two").await;

    leader.remove(2).await.unwrap();
    assert_eq!(parts(&cluster, 1), [(1, Part::Voter)]);
    cluster.write(&[1], "three").await;
    assert_eq!(
        leader.remove(2).await,
        Err(MembershipError::NoSuchMember { id: 2 })
    );
    assert_eq!(
        leader.promote(2).await,
        Err(MembershipError::NoSuchMember { id: 2 })
    );
    assert_eq!(
        leader.remove(1).await,
        Err(MembershipError::LastVoter { id: 1 })
    );

    cluster.open(3).await.unwrap();
    leader.add_learner(member(3)).await.unwrap();
    leader.remove(3).await.unwrap();
    assert_eq!(parts(&cluster, 1), [(1, Part::Voter)]);
    assert_eq!(
        leader.bootstrap(member(1)).await,
        Err(MembershipError::AlreadyBootstrapped)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_queue_and_all_happen() {
    let mut cluster = Cluster::start(Backend::Sled, 1).await;
    let leader = cluster.member(1);
    for id in 2..=5 {
        cluster.open(id).await.unwrap();
    }
    let mut changes = tokio::task::JoinSet::new();
    for id in 2..=5 {
        let leader = leader.clone();
        changes.spawn(async move {
            leader.add_learner(member(id)).await?;
            leader.promote(id).await
        });
    }
    for changed in changes.join_all().await {
        changed.unwrap();
    }
    assert_eq!(
        parts(&cluster, 1),
        [1, 2, 3, 4, 5].map(|id| (id, Part::Voter))
    );
    cluster.write(&[1, 2, 3, 4, 5], "all").await;
    assert_eq!(cluster.converged(&[1, 2, 3, 4, 5]).await, [b"all".to_vec()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_would_lose_the_quorum_is_refused() {
    let mut cluster = Cluster::start(Backend::Sled, 3).await;
    let leader_id = cluster.leader().await;
    let leader = cluster.member(leader_id);
    let mut followers = cluster.ids();
    followers.retain(|id| *id != leader_id);
    let (dead, alive) = (followers[0], followers[1]);
    cluster.stop(dead).await;
    eventually("the leader misses it", || {
        leader
            .metrics()
            .followers
            .iter()
            .any(|follower| follower.id == dead && !follower.reachable)
    })
    .await;
    assert_eq!(
        leader.remove(alive).await,
        Err(MembershipError::WouldLoseQuorum {
            id: alive,
            reachable: 1,
            remaining: 2
        })
    );
    leader.remove(dead).await.unwrap();
    assert_eq!(leader.members().len(), 2);
    cluster.write(&[leader_id, alive], "goes on").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_can_remove_itself() {
    let cluster = Cluster::start(Backend::Sled, 3).await;
    let old = cluster.leader().await;
    cluster.member(old).remove(old).await.unwrap();
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
    let new = cluster.leader_among(&others).await;
    assert_eq!(cluster.member(new).members().len(), 2);
    cluster.write(&others, "without it").await;
    let leadership = cluster.member(old).leadership();
    eventually("it leads no more", || !leadership.borrow().is_me).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_moved_is_reached_at_its_new_address() {
    let cluster = Cluster::start(Backend::Sled, 3).await;
    let leader_id = cluster.leader().await;
    let leader = cluster.member(leader_id);
    let moved = [1, 2, 3].into_iter().find(|id| *id != leader_id).unwrap();
    cluster
        .net
        .join(moved, "192.168.7.7:2377", cluster.member(moved));
    eventually("it is missed", || {
        leader
            .metrics()
            .followers
            .iter()
            .any(|follower| follower.id == moved && !follower.reachable)
    })
    .await;
    cluster.write(&[leader_id], "unseen").await;
    leader
        .update_address(moved, "192.168.7.7:2377".to_owned())
        .await
        .unwrap();
    cluster.converged(&[1, 2, 3]).await;
    let addresses: Vec<_> = cluster
        .member(moved)
        .members()
        .into_iter()
        .map(|part| part.member.address)
        .collect();
    assert!(addresses.contains(&"192.168.7.7:2377".to_owned()));
    assert_eq!(
        leader.update_address(9, "x:1".to_owned()).await,
        Err(MembershipError::NoSuchMember { id: 9 })
    );
    let taken = Member {
        node: "another".to_owned(),
        ..member(moved)
    };
    assert_eq!(
        leader.add_learner(taken).await,
        Err(MembershipError::Exists {
            id: moved,
            node: format!("node{moved}")
        })
    );
}

/// A promotion is two steps; the leader dies between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_left_half_way_is_finished() {
    let mut cluster = Cluster::start(Backend::Sled, 1).await;
    let leader = cluster.member(1);
    cluster.open(2).await.unwrap();
    leader.add_learner(member(2)).await.unwrap();
    cluster.write(&[1], "one").await;
    cluster.converged(&[1, 2]).await;
    eventually("it answers", || {
        leader.metrics().followers.iter().any(|f| f.reachable)
    })
    .await;
    cluster.net.isolate(1, &[2]);
    let promoting = tokio::spawn(async move { leader.promote(2).await });
    eventually("the first step is taken", || {
        parts(&cluster, 1).contains(&(2, Part::Voter))
    })
    .await;
    cluster.stop(1).await;
    assert!(promoting.await.unwrap().is_err());
    cluster.net.heal();
    cluster.open(1).await.unwrap();

    let leader = cluster.member(cluster.leader().await);
    leader.promote(2).await.unwrap();
    cluster.write(&[1, 2], "two").await;
    cluster.converged(&[1, 2]).await;
    let other = if leader.metrics().id == 1 { 2 } else { 1 };
    leader.remove(other).await.unwrap();
    assert_eq!(leader.members().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_survivor_goes_on_alone_with_everything_it_had() {
    for backend in [Backend::Sled, Backend::Segments] {
        let mut cluster = Cluster::start(backend, 3).await;
        for at in 0..20 {
            cluster.write(&[1, 2, 3], &format!("before {at}")).await;
        }
        let before = cluster.converged(&[1, 2, 3]).await;
        let leader = cluster.leader().await;
        let survivor = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
        cluster.stop_all().await;

        // A member that was never part of a cluster has nothing to go on with.
        let nobody = Consensus::go_on_alone(cluster.options(9), member(9)).await;
        assert!(
            matches!(nobody, Err(OpenError::Damaged { .. })),
            "{nobody:?}"
        );

        // Told twice it is as if told once.
        for _ in 0..2 {
            Consensus::go_on_alone(cluster.options(survivor), member(survivor))
                .await
                .unwrap();
        }
        cluster.open(survivor).await.unwrap();
        assert_eq!(cluster.leader_among(&[survivor]).await, survivor);
        assert_eq!(parts(&cluster, survivor), [(survivor, Part::Voter)]);
        assert_eq!(cluster.converged(&[survivor]).await, before);
        cluster.write(&[survivor], "alone").await;

        // It takes in new members; an old one that comes back disturbs nobody.
        cluster.open(4).await.unwrap();
        let member_of = cluster.member(survivor);
        member_of.add_learner(member(4)).await.unwrap();
        member_of.promote(4).await.unwrap();
        cluster.open(leader).await.unwrap();
        cluster.write(&[survivor, 4], "with a new one").await;
        let log = cluster.converged(&[survivor, 4]).await;
        assert_eq!(log.len(), before.len() + 2);
        cluster.stop(leader).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_begins_with_a_state_from_elsewhere() {
    for backend in [Backend::Sled, Backend::Segments] {
        let mut cluster = Cluster::new(backend);
        // Several pieces long, too.
        let state: Vec<Vec<u8>> = (0..40)
            .map(|at| vec![at; 30_000 * usize::from(at)])
            .collect();
        let begin = |cluster: &Cluster| {
            Consensus::begin_with(cluster.options(7), member(7), 40, state.clone().into_iter())
        };
        begin(&cluster).await.unwrap();
        let again = begin(&cluster).await;
        assert!(matches!(again, Err(OpenError::Damaged { .. })), "{again:?}");
        for written in 0..2 {
            cluster.open(7).await.unwrap();
            assert_eq!(cluster.leader_among(&[7]).await, 7);
            assert_eq!(parts(&cluster, 7), [(7, Part::Voter)]);
            assert_eq!(
                cluster.write(&[7], &format!("new {written}")).await,
                41 + written
            );
            assert_eq!(cluster.journal(7).commands()[..40], state);
            if written == 0 {
                cluster.stop(7).await;
            }
        }
        // Others get it from there.
        cluster.open(8).await.unwrap();
        let leader = cluster.member(7);
        leader.add_learner(member(8)).await.unwrap();
        leader.promote(8).await.unwrap();
        cluster.write(&[7, 8], "with another").await;
        assert_eq!(cluster.converged(&[7, 8]).await.len(), 43);
    }
}
