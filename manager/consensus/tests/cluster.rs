//! Replication: what was acknowledged stays, whoever dies.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use skep_consensus::{Backend, COMMAND_BYTES_MAX, ProposeError, ReadError};
use support::{Cluster, answer, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_commits_and_remembers() {
    for backend in [Backend::Sled, Backend::Segments] {
        let mut cluster = Cluster::start(backend, 1).await;
        for number in 1..=50 {
            assert_eq!(cluster.write(&[1], &format!("c{number}")).await, number);
        }
        cluster.stop(1).await;
        cluster.open(1).await.unwrap();
        assert!(cluster.member(1).is_initialized().await);
        assert_eq!(cluster.leader().await, 1);
        assert_eq!(cluster.member(1).read_barrier().await, Ok(50));
        assert_eq!(cluster.journal(1).commands().len(), 50);
        assert_eq!(cluster.write(&[1], "after").await, 51);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_proposer_gets_its_own_answer() {
    let cluster = Cluster::start(Backend::Sled, 3).await;
    let leader = cluster.member(cluster.leader().await);
    let mut proposers = tokio::task::JoinSet::new();
    for proposer in 0..64 {
        let leader = leader.clone();
        proposers.spawn(async move {
            let mut indexes = Vec::new();
            for number in 0..20 {
                let command = format!("{proposer}/{number}").into_bytes();
                let (index, echoed) = answer(&leader.propose(command.clone()).await.unwrap());
                assert_eq!(echoed, command);
                indexes.push(index);
            }
            assert!(
                indexes.is_sorted(),
                "one proposer's commands keep their order"
            );
            indexes
        });
    }
    let indexes: BTreeSet<u64> = proposers.join_all().await.into_iter().flatten().collect();
    assert!(
        indexes.into_iter().eq(1..=64 * 20),
        "every command has an index of its own"
    );
    let commands = cluster.converged(&[1, 2, 3]).await;
    assert_eq!(commands.len(), 64 * 20);
    let entries = leader.metrics().last_log.unwrap();
    assert!(entries < 64 * 20, "{entries} entries: nothing was batched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_the_death_of_leaders() {
    let mut cluster = Cluster::start(Backend::Sled, 5).await;
    let mut alive = cluster.ids();
    let mut written = Vec::new();
    for round in 0..2 {
        for number in 0..20 {
            let command = format!("r{round}/{number}");
            cluster.write(&alive, &command).await;
            written.push(command.into_bytes());
        }
        let leader = cluster.leader_among(&alive).await;
        cluster.stop(leader).await;
        alive = cluster.ids();
    }
    cluster.write(&alive, "last").await;
    written.push(b"last".to_vec());
    assert_eq!(cluster.converged(&alive).await, written);
    // The dead come back and catch up.
    for id in 1..=5 {
        if !alive.contains(&id) {
            cluster.open(id).await.unwrap();
        }
    }
    assert_eq!(cluster.converged(&[1, 2, 3, 4, 5]).await, written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_comes_back_from_disk() {
    for backend in [Backend::Sled, Backend::Segments] {
        let mut cluster = Cluster::start(backend, 3).await;
        let mut written = Vec::new();
        for round in 0..3 {
            for number in 0..10 {
                let command = format!("r{round}/{number}");
                cluster.write(&[1, 2, 3], &command).await;
                written.push(command.into_bytes());
            }
            cluster.stop_all().await;
            for id in [3, 1, 2] {
                cluster.open(id).await.unwrap();
            }
        }
        let leader = cluster.leader().await;
        assert_eq!(cluster.member(leader).read_barrier().await, Ok(30));
        assert_eq!(cluster.converged(&[1, 2, 3]).await, written);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_loses_its_office_and_nothing_else() {
    let cluster = Cluster::start(Backend::Sled, 3).await;
    for number in 0..10 {
        cluster.write(&[1, 2, 3], &format!("before {number}")).await;
    }
    let old = cluster.leader().await;
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
    cluster.net.isolate(old, &others);

    // Written on the lonely leader: never acknowledged.
    let lonely = cluster.member(old);
    let lost = tokio::spawn(async move { lonely.propose(b"lost".to_vec()).await });
    let new = cluster.leader_among(&others).await;
    assert_ne!(new, old);
    for number in 0..10 {
        cluster.write(&others, &format!("during {number}")).await;
    }
    let old_leadership = cluster.member(old).leadership();
    eventually("the old leader knows", || !old_leadership.borrow().is_me).await;
    assert_eq!(old_leadership.borrow().leader, None);
    assert_eq!(
        cluster.member(old).propose(b"refused".to_vec()).await,
        Err(ProposeError::NotLeader { leader: None })
    );
    assert_eq!(
        cluster.member(old).read_barrier().await,
        Err(ReadError::NotLeader { leader: None })
    );

    cluster.net.heal();
    let commands = cluster.converged(&[1, 2, 3]).await;
    assert!(matches!(
        lost.await.unwrap(),
        Err(ProposeError::Unavailable | ProposeError::NotLeader { .. })
    ));
    assert_eq!(commands.len(), 20);
    assert!(!commands.contains(&b"lost".to_vec()) && !commands.contains(&b"refused".to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_cut_off_does_not_disturb_the_leader() {
    let cluster = Cluster::start(Backend::Sled, 3).await;
    let leader = cluster.leader().await;
    let term = cluster.member(leader).leadership().borrow().term;
    let lonely = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != lonely).collect();
    cluster.net.isolate(lonely, &others);
    let leadership = cluster.member(lonely).leadership();
    eventually("the lonely one notices", || {
        leadership.borrow().leader.is_none()
    })
    .await;
    // Several election time-outs, in which it would have raised its term.
    for number in 0..40 {
        cluster.write(&others, &format!("{number}")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.net.heal();
    cluster.converged(&[1, 2, 3]).await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.member(leader).leadership().borrow().term, term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_reads_what_was_acknowledged() {
    let cluster = Cluster::start(Backend::Sled, 3).await;
    let leader = cluster.leader().await;
    cluster.net.set_delay(Duration::from_millis(5));
    for number in 0..30 {
        let command = format!("read {number}");
        cluster.write(&[1, 2, 3], &command).await;
        for id in [1, 2, 3] {
            let member = cluster.member(id);
            let index = member.leader_read_index().await.unwrap();
            member
                .wait_applied(index, Duration::from_secs(5))
                .await
                .unwrap();
            assert!(
                cluster.journal(id).contains(command.as_bytes()),
                "member {id} does not see `{command}`, the leader is {leader}"
            );
        }
    }
    let follower = cluster.member(if leader == 1 { 2 } else { 1 });
    assert!(matches!(
        follower.read_barrier().await,
        Err(ReadError::NotLeader { leader: Some(member) }) if member.id == leader
    ));
    assert!(matches!(
        follower.propose(b"x".to_vec()).await,
        Err(ProposeError::NotLeader { leader: Some(member) }) if member.id == leader
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_commands_travel_and_too_large_ones_are_refused() {
    let mut cluster = Cluster::new(Backend::Sled);
    // Sealing megabytes takes seconds where nothing is optimised, in which the leader must stay.
    cluster.timing.propose = Duration::from_secs(60);
    cluster.grow(3).await;
    let term = cluster.member(1).leadership().borrow().term;
    let leader = cluster.member(cluster.leader().await);
    // Slower than a heartbeat: the sending must outlive raft's patience.
    cluster.net.set_delay(Duration::from_millis(90));
    let sizes = [1 << 20, COMMAND_BYTES_MAX];
    let large = sizes.map(|size| {
        let leader = leader.clone();
        tokio::spawn(async move { leader.propose(vec![7; size]).await.map(|bytes| bytes.len()) })
    });
    for (proposed, size) in large.into_iter().zip(sizes) {
        assert_eq!(proposed.await.unwrap(), Ok(size + 8));
    }
    assert_eq!(
        leader.propose(vec![7; COMMAND_BYTES_MAX + 1]).await,
        Err(ProposeError::TooBig {
            bytes: COMMAND_BYTES_MAX + 1,
            max: COMMAND_BYTES_MAX
        })
    );
    cluster.net.set_delay(Duration::ZERO);
    let commands = cluster.converged(&[1, 2, 3]).await;
    assert_eq!(commands.len(), 2);
    assert_eq!(
        leader.leadership().borrow().term,
        term,
        "a busy disk unseated the leader"
    );
    cluster.stop_all().await;
    for id in 1..=3 {
        cluster.open(id).await.unwrap();
    }
    cluster.leader().await;
    assert!(cluster.converged(&[1, 2, 3]).await == commands);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_hands_over_when_asked() {
    let cluster = Cluster::start(Backend::Sled, 3).await;
    let old = cluster.leader().await;
    cluster.write(&[1, 2, 3], "before").await;
    assert!(
        cluster
            .member(old)
            .step_down_hint(Duration::from_secs(10))
            .await
    );
    let new = cluster.leader().await;
    assert_ne!(new, old);
    cluster.write(&[1, 2, 3], "after").await;
    assert_eq!(cluster.converged(&[1, 2, 3]).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_member_says_so() {
    let cluster = Cluster::start(Backend::Sled, 1).await;
    let member = cluster.member(1);
    member.shutdown().await;
    assert_eq!(member.stopped().await, skep_consensus::Stopped::Shutdown);
    assert_eq!(
        member.propose(b"x".to_vec()).await,
        Err(ProposeError::Stopped)
    );
    assert_eq!(member.read_barrier().await, Err(ReadError::Stopped));
    assert!(!member.leadership().borrow().is_me);
    // Twice does no harm.
    member.shutdown().await;
}

/// All processors are taken for seconds: with the default timing nobody loses an office.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_machine_unseats_nobody() {
    let mut cluster = Cluster::new(Backend::Sled);
    cluster.timing = skep_consensus::Timing::default();
    cluster.grow(3).await;
    let leader = cluster.member(1);
    let before = leader.leadership().borrow().clone();
    assert!(before.is_me);
    let busy = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let spinning: Vec<_> = (0..6)
        .map(|_| {
            let busy = std::sync::Arc::clone(&busy);
            std::thread::spawn(move || {
                while busy.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let until = std::time::Instant::now() + Duration::from_secs(4);
    while std::time::Instant::now() < until {
        cluster.write(&[1, 2, 3], "busy").await;
    }
    busy.store(false, std::sync::atomic::Ordering::Relaxed);
    for thread in spinning {
        thread.join().unwrap();
    }
    assert_eq!(*leader.leadership().borrow(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_wish_to_leave_is_dropped_leads_on() {
    let cluster = Cluster::start(Backend::Sled, 3).await;
    let old = cluster.member(cluster.leader().await);
    let wish = old.step_down_hint(Duration::from_secs(10));
    assert!(
        tokio::time::timeout(Duration::from_millis(20), wish)
            .await
            .is_err()
    );
    cluster.write(&[1, 2, 3], "goes on").await;
    cluster.converged(&[1, 2, 3]).await;
}
