//! Faults at random, then peace: the acknowledged is there, once each and everywhere the same.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skep_consensus::{Backend, ProposeError};
use support::{Cluster, Writers};

const FAULTS: usize = 12;

async fn survive(backend: Backend, count: u64, seed: u64) {
    // More seeds: `SKEP_CHAOS_SEED=17`.
    let more = std::env::var("SKEP_CHAOS_SEED").map_or(0, |more| more.parse().unwrap());
    let seed = seed + 10 * more;
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::new(backend);
    // Purging, snapshots and truncation are all among what happens.
    cluster.snapshot_every = 60;
    cluster.keep_entries = 20;
    cluster.grow(count).await;
    let ids: Vec<u64> = (1..=count).collect();

    let writers = Writers::start(&cluster.net, &ids, 4);
    for _ in 0..FAULTS {
        let victim = ids[random.random_range(0..ids.len())];
        let others: Vec<u64> = ids.iter().copied().filter(|id| *id != victim).collect();
        let pause = Duration::from_millis(random.random_range(50..900));
        match random.random_range(0..4) {
            0 => {
                cluster.stop(victim).await;
                tokio::time::sleep(pause).await;
                cluster.open(victim).await.unwrap();
            }
            1 => {
                cluster.net.isolate(victim, &others);
                tokio::time::sleep(pause).await;
                cluster.net.heal();
            }
            2 => {
                // Hears others, is not heard.
                cluster.net.silence(victim, &others);
                tokio::time::sleep(pause).await;
                cluster.net.heal();
            }
            _ => {
                cluster
                    .net
                    .set_delay(Duration::from_millis(random.random_range(1..120)));
                tokio::time::sleep(pause).await;
                cluster.net.set_delay(Duration::ZERO);
            }
        }
    }
    let acknowledged = writers.stop().await;
    assert!(
        acknowledged.len() > 50,
        "seed {seed}: only {} writes",
        acknowledged.len()
    );
    cluster.leader().await;
    cluster.write(&ids, "peace").await;
    let commands = cluster.converged(&ids).await;
    let mut times: BTreeMap<&[u8], usize> = BTreeMap::new();
    for command in &commands {
        *times.entry(command).or_default() += 1;
    }
    for (index, command) in &acknowledged {
        let there = commands.get(usize::try_from(*index).unwrap() - 1);
        assert_eq!(there, Some(command), "seed {seed}: acknowledged as {index}");
        assert_eq!(
            times[command.as_slice()],
            1,
            "seed {seed}: applied more than once"
        );
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_on_sled_survive_faults() {
    survive(Backend::Sled, 3, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_on_segments_survive_faults() {
    survive(Backend::Segments, 3, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_members_survive_faults() {
    survive(Backend::Sled, 5, 3).await;
}

/// Linearizability of follower reads while leaders change: what was acknowledged before a read
/// began is seen by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_see_what_was_acknowledged_while_leaders_change() {
    let cluster = Cluster::start(Backend::Sled, 3).await;
    let ids = [1, 2, 3];
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for id in ids {
        let reader = cluster.member(id);
        let writer = cluster.net.clone();
        let done = Arc::clone(&done);
        readers.spawn(async move {
            let mut reads = 0;
            while !done.load(Ordering::SeqCst) {
                let Some(leader) = writer.leader(&ids) else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                let index = match leader.propose(b"x".to_vec()).await {
                    Ok(answer) => support::answer(&answer).0,
                    Err(ProposeError::Stopped) => panic!("nobody stops here"),
                    Err(_) => continue,
                };
                if let Ok(read) = reader.leader_read_index().await {
                    assert!(read >= index, "read {read} after {index} was acknowledged");
                    reads += 1;
                }
            }
            reads
        });
    }
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let Some(leader) = cluster.net.leader(&ids) else {
            continue;
        };
        let leader = leader.metrics().id;
        if round % 2 == 0 {
            let others: Vec<u64> = ids.into_iter().filter(|id| *id != leader).collect();
            cluster.net.isolate(leader, &others);
            tokio::time::sleep(Duration::from_millis(800)).await;
            cluster.net.heal();
        } else {
            cluster
                .member(leader)
                .step_down_hint(Duration::from_secs(5))
                .await;
        }
    }
    done.store(true, Ordering::SeqCst);
    for reads in readers.join_all().await {
        assert!(reads > 10, "only {reads} reads");
    }
}
