//! One member on its host: opens its log, takes part, answers clients.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use skep_consensus::{
    Backend, Consensus, LogWriter, Member, Options, ProposeError, StateMachine, Stopped, Timing,
};
use skep_pki::{Sealer, SecretKey};
use tokio::io::AsyncReadExt;
use turmoil::net::{TcpListener, TcpStream};

use crate::machine::Registers;
use crate::shared::Shared;
use crate::wire::{self, Kind, PORT, Wire};

/// How long a read waits for its own member to follow.
const FOLLOWS: Duration = Duration::from_secs(2);
/// Before a member is asked for once more, while the cluster is made.
const AGAIN: Duration = Duration::from_millis(100);

/// The first byte of an answer to a client.
pub const DONE: u8 = 1;
/// It was not done, and will not be.
pub const REFUSED: u8 = 2;
/// It may have been done.
pub const UNKNOWN: u8 = 3;

/// What stays of a member when it dies.
#[derive(Clone)]
pub struct Seat {
    pub id: u64,
    pub members: u64,
    pub directory: PathBuf,
    pub seed: u64,
    /// How often it has started.
    pub starts: Arc<AtomicU64>,
    pub shared: Arc<Shared>,
    pub bug: Option<Bug>,
}

/// Put in on purpose, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Members answer reads from what they have, without asking the leader.
    BlindReads,
}

pub fn member(id: u64) -> Member {
    Member {
        id,
        address: wire::host(id),
        node: wire::host(id),
    }
}

fn options(seat: &Seat) -> Options {
    let sealer = Sealer::new(&SecretKey::from_bytes([7; 32]));
    let mut options = Options::new(seat.id, &seat.directory, sealer);
    options.backend = Backend::Segments;
    options.log_writer = LogWriter::Task;
    let starts = seat.starts.fetch_add(1, Ordering::Relaxed);
    options.seed = seat.seed ^ (seat.id << 32) ^ (starts << 48);
    options.timing = Timing {
        heartbeat: Duration::from_millis(60),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        propose: Duration::from_secs(3),
        membership: Duration::from_secs(20),
    };
    // Snapshots, purges and followers that need a snapshot are all among what happens.
    options.snapshot_every = 60;
    options.keep_entries = 20;
    options
}

/// Runs until its host is killed.
pub async fn live(seat: Seat) -> turmoil::Result {
    let machine = Arc::new(Registers::new(Arc::clone(&seat.shared)));
    let state = Arc::clone(&machine) as Arc<dyn StateMachine>;
    let consensus = Consensus::open(options(&seat), state, Arc::new(Wire)).await?;
    seat.shared.opened(seat.id, Arc::clone(&machine));
    tokio::spawn(watch_office(consensus.clone(), seat.clone()));
    tokio::spawn(watch_end(consensus.clone(), seat.clone()));
    if seat.id == 1 && !consensus.is_initialized().await {
        tokio::spawn(make_cluster(consensus.clone(), seat.clone()));
    }
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (consensus, machine) = (consensus.clone(), Arc::clone(&machine));
        let bug = seat.bug;
        // Whoever asked may be gone.
        tokio::spawn(async move { serve(&consensus, &machine, stream, bug).await });
    }
}

/// Tells which terms it leads.
async fn watch_office(consensus: Consensus, seat: Seat) {
    let mut leadership = consensus.leadership();
    loop {
        let now = leadership.borrow_and_update().clone();
        if now.is_me {
            seat.shared.leads(now.term, seat.id);
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_end(consensus: Consensus, seat: Seat) {
    if let Stopped::Failed(why) = consensus.stopped().await {
        seat.shared
            .fail(format!("member {} has stopped: {why}", seat.id));
    }
}

/// Makes the cluster: this member first, then the others.
async fn make_cluster(consensus: Consensus, seat: Seat) {
    if let Err(error) = consensus.bootstrap(member(seat.id)).await {
        return seat.shared.fail(format!("no cluster was made: {error}"));
    }
    for id in 2..=seat.members {
        while consensus.add_learner(member(id)).await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
        while consensus.promote(id).await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
    }
    seat.shared.is_ready.store(true, Ordering::Relaxed);
}

async fn serve(
    consensus: &Consensus,
    machine: &Registers,
    mut stream: TcpStream,
    bug: Option<Bug>,
) -> io::Result<()> {
    let Some(kind) = Kind::read(stream.read_u8().await?) else {
        return Err(io::Error::other("nobody asks so"));
    };
    let question = wire::take(&mut stream).await?;
    let answer = match kind {
        Kind::Message => consensus.handle(question.into()).await.to_vec(),
        Kind::Snapshot => take_snapshot(consensus, question, &mut stream).await?,
        Kind::Write => write(consensus, question).await,
        Kind::Read if bug == Some(Bug::BlindReads) => found(machine, &question),
        Kind::Read => read(consensus, machine, &question).await,
    };
    wire::put(&mut stream, &answer).await
}

async fn take_snapshot(
    consensus: &Consensus,
    header: Vec<u8>,
    stream: &mut TcpStream,
) -> io::Result<Vec<u8>> {
    let mut chunks = Vec::new();
    loop {
        // A stream that is cut short is noticed by who takes it in.
        let chunk = wire::take(stream).await?;
        if chunk.is_empty() {
            break;
        }
        chunks.push(chunk.into());
    }
    let chunks = Box::pin(stream::iter(chunks));
    Ok(consensus
        .handle_snapshot(header.into(), chunks)
        .await
        .to_vec())
}

async fn write(consensus: &Consensus, command: Vec<u8>) -> Vec<u8> {
    match consensus.propose(command).await {
        Ok(index) => [vec![DONE], index].concat(),
        Err(ProposeError::NotLeader { .. } | ProposeError::Busy) => vec![REFUSED],
        Err(_) => vec![UNKNOWN],
    }
}

/// Reads as managers do, leaders or not.
async fn read(consensus: &Consensus, machine: &Registers, question: &[u8]) -> Vec<u8> {
    let index = match consensus.leader_read_index().await {
        Ok(index) => index,
        Err(_) => return vec![UNKNOWN],
    };
    if consensus.wait_applied(index, FOLLOWS).await.is_err() {
        return vec![UNKNOWN];
    }
    found(machine, question)
}

fn found(machine: &Registers, question: &[u8]) -> Vec<u8> {
    let key = question.first().copied().unwrap_or_default();
    match machine.read(key) {
        None => vec![DONE],
        Some((value, version)) => [
            vec![DONE],
            value.to_be_bytes().to_vec(),
            version.to_be_bytes().to_vec(),
        ]
        .concat(),
    }
}
