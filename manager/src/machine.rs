//! The store as the state machine that the log drives.

use serde::{Deserialize, Serialize};
use skep_consensus::StateMachine;
use skep_model::{Kind, Version};
use skep_store::{Change, Commit, Snapshot, Store};
use tokio::sync::watch;

/// Objects in one piece of a snapshot.
pub const CHANGES_PER_CHUNK: usize = 200;

/// What applying a command came to, as its proposer hears it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Applied,
    /// Something the commit relied on has changed; nothing was done.
    Conflict {
        kind: Kind,
        message: String,
    },
}

/// Drives a [`Store`] from the log.
pub struct Machine {
    store: Store,
    /// Index of the last command applied here.
    applied: watch::Sender<u64>,
}

impl Machine {
    pub fn new(store: Store) -> Self {
        Self {
            store,
            applied: watch::Sender::new(0),
        }
    }

    /// The state on this manager.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Tells of each applied command; intermediate ones may be skipped.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }
}

/// A whole state, `objects` to a chunk: what [`read_chunk`] reads.
pub fn dump(snapshot: &Snapshot, objects: usize) -> impl Iterator<Item = Vec<u8>> + use<> {
    let pieces = snapshot.dump(objects);
    pieces.map(|piece| serde_json::to_vec(&piece).expect("objects serialise"))
}

/// The objects in one chunk of [`dump`].
pub fn read_chunk(chunk: &[u8]) -> serde_json::Result<Vec<Change>> {
    serde_json::from_slice(chunk)
}

/// A commit as a command of the log.
pub fn encode_command(commit: &Commit) -> Vec<u8> {
    serde_json::to_vec(commit).expect("commits have text keys and serialise")
}

/// Reads what [`StateMachine::apply`] answered.
pub fn decode_outcome(bytes: &[u8]) -> Outcome {
    serde_json::from_slice(bytes).unwrap_or_else(|error| Outcome::Conflict {
        kind: Kind::Internal,
        message: format!("the outcome of a commit cannot be read: {error}"),
    })
}

impl StateMachine for Machine {
    fn apply(&self, index: u64, command: &[u8]) -> Vec<u8> {
        // Every manager refuses an unreadable command alike, so the replicas stay equal.
        let outcome = match serde_json::from_slice::<Commit>(command) {
            Ok(commit) => match self.store.apply(index, &commit) {
                Ok(_) => Outcome::Applied,
                Err(conflict) => Outcome::Conflict {
                    kind: conflict.kind(),
                    message: conflict.to_string(),
                },
            },
            Err(error) => Outcome::Conflict {
                kind: Kind::Internal,
                message: format!("a command in the log cannot be read: {error}"),
            },
        };
        self.applied.send_replace(index);
        serde_json::to_vec(&outcome).expect("outcomes serialise")
    }

    fn dump(&self) -> Box<dyn Iterator<Item = Vec<u8>> + Send> {
        Box::new(dump(&self.store.snapshot(), CHANGES_PER_CHUNK))
    }

    fn restore(&self, index: u64, chunks: &mut dyn Iterator<Item = Vec<u8>>) -> Result<(), String> {
        let mut changes: Vec<Change> = Vec::new();
        for chunk in chunks {
            let piece = read_chunk(&chunk)
                .map_err(|error| format!("a piece of the snapshot cannot be read: {error}"))?;
            changes.extend(piece);
        }
        self.store
            .restore(Version::at(index), changes)
            .map_err(|error| error.to_string())?;
        self.applied.send_replace(index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use skep_model::{Node, Timestamp};
    use skep_store::Transaction;

    use super::*;

    fn add_node(machine: &Machine, index: u64, id: &str) -> Outcome {
        let mut transaction = Transaction::new(&machine.store.snapshot(), Timestamp::from_secs(1));
        transaction
            .put(Node {
                id: id.into(),
                ..Default::default()
            })
            .unwrap();
        let commit = transaction.commit().unwrap();
        decode_outcome(&machine.apply(index, &encode_command(&commit)))
    }

    #[test]
    fn a_dump_restores_the_same_state() {
        let machine = Machine::new(Store::new());
        assert_eq!(add_node(&machine, 1, "a"), Outcome::Applied);
        assert_eq!(add_node(&machine, 2, "b"), Outcome::Applied);
        let other = Machine::new(Store::new());
        other.restore(2, &mut machine.dump()).unwrap();
        assert_eq!(other.store.snapshot().nodes().count(), 2);
        assert_eq!(other.store.snapshot().version(), Version::at(2));
        assert!(
            other
                .restore(3, &mut std::iter::once(b"x".to_vec()))
                .is_err()
        );
    }

    #[test]
    fn an_unreadable_command_changes_nothing() {
        let machine = Machine::new(Store::new());
        let outcome = decode_outcome(&machine.apply(1, b"not a commit"));
        assert!(matches!(
            outcome,
            Outcome::Conflict {
                kind: Kind::Internal,
                ..
            }
        ));
    }
}
