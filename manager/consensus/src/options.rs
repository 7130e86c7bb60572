//! What can be chosen when a member is opened.

use std::path::PathBuf;
use std::time::Duration;

use skep_pki::Sealer;

/// Bytes of the largest command: one entry must fit into one message.
pub const COMMAND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Commands of one batch are no more than this many bytes; a bigger command travels alone.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Commands in one batch.
pub const BATCH_COMMANDS_MAX: usize = 512;
/// Bytes of a snapshot that travel in one chunk.
pub const SNAPSHOT_CHUNK_BYTES: usize = 512 * 1024;

/// Where the log lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    #[default]
    Sled,
    /// Plain append-only files with checksums.
    Segments,
}

/// Who writes the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogWriter {
    /// A thread of its own, so that a slow disk holds nobody else up.
    #[default]
    Thread,
    /// A task of the runtime, which stands still meanwhile, and with it a simulated clock: for tests.
    Task,
}

/// The clock of raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader tells that it lives.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a random time between these two asks for an election.
    pub election_min: Duration,
    pub election_max: Duration,
    /// How long a proposal waits for its quorum before it is [`crate::ProposeError::Unavailable`].
    pub propose: Duration,
    /// How long a membership change, including a learner's catching up, may take.
    pub membership: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(1200),
            propose: Duration::from_secs(10),
            membership: Duration::from_secs(30),
        }
    }
}

/// How to open a member.
#[derive(Debug, Clone)]
pub struct Options {
    /// This member's raft id.
    pub id: u64,
    /// A directory of its own; made when missing.
    pub directory: PathBuf,
    /// Seals every record at rest. The same key must be given at each open.
    pub sealer: Sealer,
    pub backend: Backend,
    pub timing: Timing,
    /// Entries after which a snapshot is taken and older entries are dropped. This and the number of
    /// old snapshots are what a member begins with: see [`crate::Consensus::set_snapshots`].
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot for followers that are a little slow.
    pub keep_entries: u64,
    /// Old snapshots kept beside the newest one.
    pub keep_snapshots: usize,
    pub log_writer: LogWriter,
    /// Where the random parts of its waits begin: other for each member, or elections collide.
    pub seed: u64,
}

impl Options {
    /// Swarm's defaults: sled, a snapshot every 10 000 entries, 500 entries kept, no old snapshot.
    pub fn new(id: u64, directory: impl Into<PathBuf>, sealer: Sealer) -> Self {
        Self {
            id,
            directory: directory.into(),
            sealer,
            backend: Backend::default(),
            timing: Timing::default(),
            snapshot_every: 10_000,
            keep_entries: 500,
            keep_snapshots: 0,
            log_writer: LogWriter::default(),
            seed: rand::random(),
        }
    }
}
