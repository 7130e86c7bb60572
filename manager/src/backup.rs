//! The replicated state into a backup, and out of it into a new cluster.

use std::io::{self, Read, Write};

use skep_model::backup::BackupSummary;
use skep_model::{ControlError, Kind, Timestamp, Version};
use skep_pki::backup::{
    About, BackupError, BackupHeader, BackupReader, BackupWriter, Cost, Passphrase,
};
use skep_reconcile::NewNode;
use skep_store::{Snapshot, Store};

use crate::machine;

/// Objects in one chunk: configs are large, and a reader holds one chunk beside what it has read.
const OBJECTS_PER_CHUNK: usize = 20;
/// How far the versions of a restored cluster lie beyond those of its backup. The cluster went on
/// after the backup was taken; nodes and clients must not take a version that it gave then for one
/// of the restored cluster.
const VERSIONS_AHEAD: u64 = 1 << 20;

/// A backup that was read to its end.
#[derive(Debug)]
pub struct Loaded {
    pub header: BackupHeader,
    pub summary: BackupSummary,
    pub state: Snapshot,
}

/// Writes a backup of a state. `software` is the version of skep that does.
pub fn write<W: Write>(
    out: W,
    state: &Snapshot,
    passphrase: &Passphrase,
    (software, now): (&str, Timestamp),
    cost: Cost,
) -> io::Result<W> {
    let cluster = state
        .cluster()
        .ok_or_else(|| io::Error::other("the cluster has not been set up yet"))?;
    let about = About {
        cluster: cluster.id.clone(),
        created_at: now,
        version: state.version().index,
        software: software.to_owned(),
    };
    let mut writer = BackupWriter::begin(out, about, passphrase, cost)?;
    let summary = skep_reconcile::summary(state);
    writer.chunk(&serde_json::to_vec(&summary).map_err(io::Error::other)?)?;
    for chunk in machine::dump(state, OBJECTS_PER_CHUNK) {
        writer.chunk(&chunk)?;
    }
    writer.finish()
}

/// Reads and verifies a whole backup.
pub fn read(input: impl Read, passphrase: &Passphrase) -> Result<Loaded, BackupError> {
    let unreadable =
        || BackupError::Damaged("what is in it cannot be read by this version of skep");
    let mut reader = BackupReader::open(input, passphrase)?;
    let mut changes = Vec::new();
    let summary = match reader.next_chunk()? {
        None => return Err(BackupError::Damaged("it is empty")),
        Some(first) => serde_json::from_slice(&first).map_err(|_| unreadable())?,
    };
    while let Some(chunk) = reader.next_chunk()? {
        changes.extend(machine::read_chunk(&chunk).map_err(|_| unreadable())?);
    }
    let about = &reader.header.about;
    let store = Store::new();
    if store.restore(Version::at(about.version), changes).is_err() {
        return Err(unreadable());
    }
    let state = store.snapshot();
    let is_its_own = |cluster: &std::sync::Arc<skep_model::Cluster>| cluster.id == about.cluster;
    match state.cluster().is_some_and(is_its_own) {
        true => Ok(Loaded {
            header: reader.header,
            summary,
            state,
        }),
        false => Err(BackupError::Damaged("it holds no swarm")),
    }
}

/// The state that a cluster restored from `state` begins with, `me` its only manager.
pub fn begin_anew(state: &Snapshot, me: NewNode, now: Timestamp) -> Result<Snapshot, ControlError> {
    let failed = |error: &dyn std::fmt::Display| {
        ControlError::new(
            Kind::Internal,
            format!("the backup's state cannot be made a cluster's: {error}"),
        )
    };
    let store = Store::new();
    let version = state.version().index.saturating_add(VERSIONS_AHEAD);
    store
        .restore(Version::at(version), state.dump(usize::MAX).flatten())
        .map_err(|error| failed(&error))?;
    if let Some(commit) = skep_reconcile::restored(&store.snapshot(), me, now) {
        store
            .apply(version + 1, &commit)
            .map_err(|error| failed(&error))?;
    }
    Ok(store.snapshot())
}

#[cfg(test)]
mod tests {
    use skep_model::{Cluster, Secret};
    use skep_store::Transaction;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);
    const CHEAP: Cost = Cost {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };

    fn state() -> Snapshot {
        let store = Store::new();
        let mut tx = Transaction::new(&store.snapshot(), NOW);
        tx.put(Cluster {
            id: "c".into(),
            ..Cluster::default()
        })
        .unwrap();
        let mut secret = Secret {
            id: "s".into(),
            ..Secret::default()
        };
        secret.spec.name = "password".to_owned();
        secret.spec.data = b"hunter2".to_vec();
        tx.put(secret).unwrap();
        store.apply(7, &tx.commit().unwrap()).unwrap();
        store.snapshot()
    }

    fn backup(state: &Snapshot, key: &Passphrase) -> Vec<u8> {
        write(Vec::new(), state, key, ("1.2.3", NOW), CHEAP).unwrap()
    }

    #[test]
    fn a_backup_holds_the_whole_state_and_nothing_of_it_in_the_clear() {
        let (state, key) = (state(), Passphrase::new("correct horse").unwrap());
        let file = backup(&state, &key);
        let loaded = read(file.as_slice(), &key).unwrap();
        assert!(loaded.state.same_content(&state));
        assert_eq!(loaded.state.version(), Version::at(7));
        assert_eq!(loaded.summary.secrets, ["password"]);
        let about = loaded.header.about;
        assert_eq!((about.version, about.software.as_str()), (7, "1.2.3"));
        for clear in [b"hunter2".as_slice(), b"password", b"aHVudGVyMg"] {
            assert!(!file.windows(clear.len()).any(|bytes| bytes == clear));
        }
    }

    #[test]
    fn no_damaged_byte_of_a_backup_goes_unnoticed() {
        let key = Passphrase::new("correct horse").unwrap();
        let file = backup(&state(), &key);
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x40;
            assert!(read(damaged.as_slice(), &key).is_err(), "byte {at}");
            assert!(read(&file[..at], &key).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_restored_cluster_goes_on_with_versions_that_nobody_has_seen() {
        let state = state();
        let me = NewNode {
            id: "new".into(),
            role: skep_model::NodeRole::Manager,
            ..NewNode::default()
        };
        let next = begin_anew(&state, me, NOW).unwrap();
        assert_eq!(next.version().index, 7 + VERSIONS_AHEAD + 1);
        assert!(next.node(&"new".into()).is_some());
        assert_eq!(next.cluster().unwrap().id.as_str(), "c");
        assert_eq!(next.cluster().unwrap().version, Version::at(7));
        assert_eq!(next.secrets().count(), 1);
    }
}
