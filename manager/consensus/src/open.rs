//! Opens a member: reads and verifies its disk, then starts everything that runs.

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::applier::Applier;
use crate::consensus::Inner;
use crate::contact::Contacts;
use crate::election::Elections;
use crate::journal::{Journal, JournalError, Recovered};
use crate::log_store::{LogStore, Tail};
use crate::membership::Membership;
use crate::network::{Links, Network};
use crate::raft::Raft;
use crate::snapshot::{Shelf, policy};
use crate::standing::Standing;
use crate::vault::Vault;
use crate::{Consensus, OpenError, Options, StateMachine, Transport};
use crate::{barrier, batcher, writer};

/// Entries sent to a follower at a time; their bytes are bounded by the log store.
const ENTRIES_PER_MESSAGE: u64 = 256;
/// Bytes of new entries after which a snapshot is taken early.
const SNAPSHOT_AFTER_BYTES: u64 = 256 * 1024 * 1024;
/// How often what rarely happens is looked after.
const UPKEEP: Duration = Duration::from_secs(1);

/// What was read from disk.
struct Opened {
    journal: Journal,
    recovered: Recovered,
    tail: Arc<Tail>,
    shelf: Arc<Shelf>,
    applier: Applier,
    applied: watch::Receiver<u64>,
}

impl Consensus {
    /// Opens the member's directory, verifies every record in it, restores the state machine from
    /// the newest snapshot and starts taking part. A member with an empty directory waits until
    /// [`Consensus::bootstrap`] is called on it, or a leader adds it.
    pub async fn open(
        options: Options,
        machine: Arc<dyn StateMachine>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, OpenError> {
        let Options {
            id,
            timing,
            snapshot_every,
            log_writer,
            seed,
            ..
        } = options;
        let config = config(&options)?;
        let vault = Vault::new(options.sealer.clone(), id);
        let directory = options.directory.clone();
        let opened = {
            let vault = vault.clone();
            tokio::task::spawn_blocking(move || read_disk(&options, vault, machine))
                .await
                .map_err(|error| OpenError::Start(error.to_string()))??
        };
        let Opened {
            journal,
            recovered,
            tail,
            shelf,
            applier,
            applied,
        } = opened;

        let (writer, log_closed) =
            writer::start(journal, Arc::clone(&tail), log_writer).map_err(|source| {
                OpenError::Io {
                    path: directory.clone(),
                    source,
                }
            })?;
        let log_store = LogStore::new(Arc::clone(&tail), writer, recovered);
        let contacts = Arc::new(Contacts::new(id, Instant::now()));
        let network = Arc::new(Network {
            me: id,
            transport,
            contacts: Arc::clone(&contacts),
            vault,
            timing,
        });
        let links = Links(Arc::clone(&network));
        // The log was verified, so what fails here is the log not fitting together.
        let raft = Raft::new(id, Arc::new(config), links, log_store, applier)
            .await
            .map_err(|error| OpenError::Damaged {
                directory,
                what: error.to_string(),
            })?;

        let standing = Arc::new(Standing::new(
            id,
            raft.clone(),
            Arc::clone(&contacts),
            timing,
        ));
        let elections = Arc::new(Elections {
            me: id,
            raft: raft.clone(),
            contacts: Arc::clone(&contacts),
            network: Arc::clone(&network),
            standing: Arc::clone(&standing),
            tail: Arc::clone(&tail),
            timing,
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        let membership = Arc::new(Membership {
            me: id,
            raft: raft.clone(),
            standing: Arc::clone(&standing),
            contacts: Arc::clone(&contacts),
            timing,
            turn: tokio::sync::Mutex::new(()),
        });
        let (batcher, proposals) =
            batcher::new(raft.clone(), Arc::clone(&standing), timing.propose);
        let (barrier, readers) = barrier::new(
            raft.clone(),
            Arc::clone(&standing),
            applied.clone(),
            timing.propose,
            timing.heartbeat / 3,
        );
        let leadership = standing.leadership();
        let (snapshot_every, every) = watch::channel(snapshot_every);
        let tasks = vec![
            spawn(Arc::clone(&standing).run()),
            spawn(Arc::clone(&elections).run()),
            spawn(batcher.run()),
            spawn(barrier.run()),
            spawn(upkeep(raft.clone(), Arc::clone(&membership), tail)),
            spawn(policy::run(raft.clone(), every)),
        ];
        let inner = Inner {
            id,
            timing,
            raft,
            contacts,
            network,
            standing,
            elections,
            membership,
            shelf,
            snapshot_every,
            proposals,
            readers,
            applied,
            leadership,
            receiving: tokio::sync::Mutex::new(()),
            tasks,
            log_closed: Mutex::new(Some(log_closed)),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    let handle: JoinHandle<()> = tokio::spawn(task);
    handle.abort_handle()
}

/// Looks after what no event asks for.
async fn upkeep(raft: Raft, membership: Arc<Membership>, tail: Arc<Tail>) {
    let mut tick = tokio::time::interval(UPKEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        membership.finish_joint().await;
        if tail.take_appended_above(SNAPSHOT_AFTER_BYTES)
            && raft.trigger().snapshot().await.is_err()
        {
            return;
        }
    }
}

fn config(options: &Options) -> Result<Config, OpenError> {
    let timing = options.timing;
    let refuse = |why: &str| Err(OpenError::Options(why.to_owned()));
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if timing.heartbeat < Duration::from_millis(10) {
        return refuse("a heartbeat is at least 10 ms");
    }
    if timing.election_min < timing.heartbeat * 3 {
        return refuse("the shortest election time-out is at least three heartbeats");
    }
    if timing.election_max <= timing.election_min {
        return refuse("the longest election time-out is above the shortest");
    }
    if options.snapshot_every == 0 {
        return refuse("a snapshot is taken every so many entries, at least one");
    }
    // What openraft calls its longest election time-out is here only how long a voter stands by a
    // leader it has heard; it must be over when the pre-vote says so.
    let lease = millis(timing.election_min) * 9 / 10;
    let config = Config {
        cluster_name: "skep".to_owned(),
        // How long openraft waits for an answer; its own heartbeats come at one and a half of it.
        // Those in between, which keep followers quiet, are sent by `Elections`.
        heartbeat_interval: millis(timing.election_min) / 2,
        election_timeout_min: lease - 1,
        election_timeout_max: lease,
        enable_elect: false,
        install_snapshot_timeout: 60_000,
        max_payload_entries: ENTRIES_PER_MESSAGE,
        replication_lag_threshold: options.snapshot_every.saturating_mul(2),
        // Asked for by `snapshot::policy`, whose interval can be changed.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.keep_entries,
        purge_batch_size: 1,
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| OpenError::Options(error.to_string()))
}

fn read_disk(
    options: &Options,
    vault: Vault,
    machine: Arc<dyn StateMachine>,
) -> Result<Opened, OpenError> {
    let directory = &options.directory;
    let damaged = |what: String| OpenError::Damaged {
        directory: directory.clone(),
        what,
    };
    let tail = Tail::default();
    let seen = |entry| tail.recover(entry);
    let (journal, recovered) =
        Journal::open(directory, options.id, options.backend, vault.clone(), seen)
            .map_err(|error| open_error(error, options.id, directory))?;
    tail.opened(&recovered);
    let shelf = Shelf::open(&directory.join("snapshots"), vault, options.keep_snapshots)
        .map_err(|error| damaged(error.to_string()))?;
    let snapshot = shelf
        .current()
        .and_then(|current| current.source.meta.last_log_id);
    if snapshot < recovered.purged {
        return Err(damaged(
            "the snapshot that replaced the older entries is missing".to_owned(),
        ));
    }
    let shelf = Arc::new(shelf);
    let (applier, applied) = Applier::open(machine, Arc::clone(&shelf)).map_err(damaged)?;
    Ok(Opened {
        journal,
        recovered,
        tail: Arc::new(tail),
        shelf,
        applier,
        applied,
    })
}

pub(crate) fn open_error(error: JournalError, wanted: u64, directory: &Path) -> OpenError {
    let directory = directory.to_owned();
    match error {
        JournalError::Damaged(what) => OpenError::Damaged { directory, what },
        JournalError::WrongKey => OpenError::WrongKey { directory },
        JournalError::InUse => OpenError::InUse { directory },
        JournalError::OtherMember { found } => OpenError::OtherMember { found, wanted },
        JournalError::Io(source) => OpenError::Io {
            path: directory,
            source,
        },
    }
}
