//! Seals every record for the one place it belongs to.

use skep_pki::{SealError, Sealer};

/// Seals records of one member. A record copied to another member, table or index does not open.
#[derive(Debug, Clone)]
pub(crate) struct Vault {
    sealer: Sealer,
    member: u64,
}

/// The place of a record, bound into its seal.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    Identity,
    Mark { slot: u8 },
    Entry { index: u64, term: u64, leader: u64 },
    Meta { key: &'a str },
    Snapshot { id: &'a str, record: u64 },
}

impl Vault {
    pub fn new(sealer: Sealer, member: u64) -> Self {
        Self { sealer, member }
    }

    pub fn seal(&self, place: Place<'_>, plain: &[u8]) -> Vec<u8> {
        self.sealer.seal(&self.context(place), plain)
    }

    pub fn open(&self, place: Place<'_>, record: &[u8]) -> Result<Vec<u8>, SealError> {
        self.sealer.open(&self.context(place), record)
    }

    fn context(&self, place: Place<'_>) -> Vec<u8> {
        let mut context = b"skep/consensus/".to_vec();
        // The identity names the member, so it is sealed for none: a directory of another member
        // is then told apart from a wrong key.
        if !matches!(place, Place::Identity) {
            context.extend_from_slice(&self.member.to_be_bytes());
        }
        match place {
            Place::Identity => context.extend_from_slice(b"identity"),
            Place::Mark { slot } => context.extend_from_slice(&[b'k', slot]),
            Place::Entry {
                index,
                term,
                leader,
            } => {
                context.push(b'l');
                context.extend_from_slice(&index.to_be_bytes());
                context.extend_from_slice(&term.to_be_bytes());
                context.extend_from_slice(&leader.to_be_bytes());
            }
            Place::Meta { key } => {
                context.push(b'm');
                context.extend_from_slice(key.as_bytes());
            }
            Place::Snapshot { id, record } => {
                context.push(b's');
                context.extend_from_slice(&record.to_be_bytes());
                context.extend_from_slice(id.as_bytes());
            }
        }
        context
    }
}
