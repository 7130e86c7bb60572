//! The types openraft works with. Nothing of them leaves this crate.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::de::{self, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Member;
use crate::snapshot::SnapshotFile;

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Batch,
        R = Answers,
        NodeId = u64,
        Node = Member,
        SnapshotData = Arc<SnapshotFile>,
);

pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
pub(crate) type ServerMetrics = openraft::metrics::RaftServerMetrics<u64, Member>;

/// Commands that share one raft entry.
#[derive(Clone, Default)]
pub(crate) struct Batch {
    pub commands: Vec<Bytes>,
    /// Set when the local log takes the entry: from then on its outcome is open. Not stored.
    pub taken: Option<Arc<AtomicBool>>,
}

impl Batch {
    pub fn bytes(&self) -> usize {
        self.commands.iter().map(Bytes::len).sum()
    }

    pub fn mark_taken(&self) {
        if let Some(taken) = &self.taken {
            taken.store(true, Ordering::SeqCst);
        }
    }
}

/// Commands hold secrets: only their number and size are ever printed.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Batch({} commands, {} bytes)",
            self.commands.len(),
            self.bytes()
        )
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Raw<'a>(&'a [u8]);
        impl Serialize for Raw<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(self.0)
            }
        }
        let mut seq = serializer.serialize_seq(Some(self.commands.len()))?;
        for command in &self.commands {
            seq.serialize_element(&Raw(command))?;
        }
        seq.end()
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Raw(Bytes);
        impl<'de> Deserialize<'de> for Raw {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct RawVisitor;
                impl Visitor<'_> for RawVisitor {
                    type Value = Raw;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("bytes")
                    }
                    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Raw, E> {
                        Ok(Raw(Bytes::copy_from_slice(bytes)))
                    }
                    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Raw, E> {
                        Ok(Raw(bytes.into()))
                    }
                }
                deserializer.deserialize_byte_buf(RawVisitor)
            }
        }
        struct BatchVisitor;
        impl<'de> Visitor<'de> for BatchVisitor {
            type Value = Batch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of commands")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Batch, A::Error> {
                let mut commands = Vec::new();
                while let Some(Raw(command)) = seq.next_element()? {
                    commands.push(command);
                }
                Ok(Batch {
                    commands,
                    taken: None,
                })
            }
        }
        deserializer.deserialize_seq(BatchVisitor)
    }
}

/// One answer for each command of a batch; none for raft's own entries.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answers(pub Vec<Vec<u8>>);

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answers({})", self.0.len())
    }
}

/// Bytes an entry takes in memory and, about, on the wire.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    const OVERHEAD: usize = 128;
    OVERHEAD
        + match &entry.payload {
            openraft::EntryPayload::Normal(batch) => batch.bytes() + 8 * batch.commands.len(),
            openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 0,
        }
}
