//! Committed writes per second: three voters in one process, each on its own directory, every
//! write synced; commands of 1 KiB from 1, 64 and 256 proposers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use skep_consensus::{
    Backend, Chunks, Consensus, Member, Options, StateMachine, Transport, TransportError,
};
use skep_pki::{Sealer, SecretKey};

use crate::table::Table;

const VOTERS: u64 = 3;
const COMMAND_BYTES: usize = 1024;

/// Counts.
struct Counter(Mutex<u64>);

impl StateMachine for Counter {
    fn apply(&self, index: u64, _command: &[u8]) -> Vec<u8> {
        *self.0.lock().expect("nothing panics while it counts") = index;
        Vec::new()
    }

    fn dump(&self) -> Box<dyn Iterator<Item = Vec<u8>> + Send> {
        let count = *self.0.lock().expect("nothing panics while it counts");
        Box::new(std::iter::once(count.to_be_bytes().to_vec()))
    }

    fn restore(
        &self,
        index: u64,
        _chunks: &mut dyn Iterator<Item = Vec<u8>>,
    ) -> Result<(), String> {
        *self.0.lock().expect("nothing panics while it counts") = index;
        Ok(())
    }
}

/// Calls the other member directly.
#[derive(Clone, Default)]
struct Direct(Arc<Mutex<BTreeMap<u64, Consensus>>>);

impl Direct {
    fn reach(&self, to: &Member) -> Result<Consensus, TransportError> {
        let members = self
            .0
            .lock()
            .expect("nothing panics while it holds the members");
        let down = || TransportError::Unreachable("not started".to_owned());
        members.get(&to.id).cloned().ok_or_else(down)
    }
}

#[async_trait]
impl Transport for Direct {
    async fn send(
        &self,
        to: &Member,
        message: Bytes,
        _: Duration,
    ) -> Result<Bytes, TransportError> {
        Ok(self.reach(to)?.handle(message).await)
    }

    async fn send_snapshot(
        &self,
        to: &Member,
        header: Bytes,
        chunks: Chunks,
    ) -> Result<Bytes, TransportError> {
        Ok(self.reach(to)?.handle_snapshot(header, chunks).await)
    }
}

fn member(id: u64) -> Member {
    Member {
        id,
        address: format!("10.0.0.{id}:2377"),
        node: id.to_string(),
    }
}

async fn start(directory: &Path, backend: Backend) -> Result<Vec<Consensus>> {
    let sealer = Sealer::new(&SecretKey::generate());
    let direct = Direct::default();
    let mut members = Vec::new();
    for id in 1..=VOTERS {
        let mut options = Options::new(id, directory.join(id.to_string()), sealer.clone());
        options.backend = backend;
        let machine = Arc::new(Counter(Mutex::new(0)));
        let opened = Consensus::open(options, machine, Arc::new(direct.clone())).await?;
        direct
            .0
            .lock()
            .expect("nothing panics while it holds the members")
            .insert(id, opened.clone());
        members.push(opened);
    }
    let leader = &members[0];
    leader.bootstrap(member(1)).await?;
    for id in 2..=VOTERS {
        leader.add_learner(member(id)).await?;
        leader.promote(id).await?;
    }
    Ok(members)
}

/// How long each row is measured.
const ROW: Duration = Duration::from_secs(3);

/// Both back ends, one after the other.
pub fn run(table: &mut Table) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    for (name, backend) in [("sled", Backend::Sled), ("segments", Backend::Segments)] {
        let directory = std::env::temp_dir().join(format!("skb-writes-{}", std::process::id()));
        let measured = runtime.block_on(measure(table, name, backend, &directory));
        std::fs::remove_dir_all(&directory)?;
        measured?;
    }
    Ok(())
}

async fn measure(table: &mut Table, name: &str, backend: Backend, directory: &Path) -> Result<()> {
    let members = start(directory, backend).await?;
    for proposers in [1, 64, 256] {
        let leader = members[0].clone();
        let began = Instant::now();
        let until = began + ROW;
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..proposers {
            let leader = leader.clone();
            running.spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < until {
                    let sent = Instant::now();
                    leader.propose(vec![7; COMMAND_BYTES]).await?;
                    latencies.push(sent.elapsed());
                }
                Ok::<_, skep_consensus::ProposeError>(latencies)
            });
        }
        let mut latencies = Vec::new();
        for proposer in running.join_all().await {
            latencies.extend(proposer?);
        }
        let rate = latencies.len() as f64 / began.elapsed().as_secs_f64();
        latencies.sort();
        let middle = latencies[latencies.len() / 2].as_secs_f64() * 1000.0;
        let row = format!("{name}, {proposers} proposers");
        table.add("writes", row.clone(), rate, "/s");
        table.add("write latency", format!("{row}, median"), middle, "ms");
    }
    for member in members {
        member.shutdown().await;
    }
    Ok(())
}
