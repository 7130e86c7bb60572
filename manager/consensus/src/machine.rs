//! What the log drives.

/// The replicated state. All calls come from one task at a time, except that what
/// [`StateMachine::dump`] answered is walked by another thread while commands go on being applied.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one command and answers bytes for its proposer. Must be deterministic.
    ///
    /// `index` counts commands, 1, 2, 3, …: each command has its own, the same on all members.
    /// (Commands that travelled in one batch share a raft entry but never an index.)
    fn apply(&self, index: u64, command: &[u8]) -> Vec<u8>;

    /// A consistent dump of everything applied so far. Cheap to take; walked by another thread.
    /// Chunks may be of any size, about 64 KiB to 1 MiB is good, and arrive in
    /// [`StateMachine::restore`] as they were given.
    fn dump(&self) -> Box<dyn Iterator<Item = Vec<u8>> + Send>;

    /// Replaces the whole state by a dump taken after command `index`. An error stops this member:
    /// a state that cannot be read is damage.
    fn restore(&self, index: u64, chunks: &mut dyn Iterator<Item = Vec<u8>>) -> Result<(), String>;
}
