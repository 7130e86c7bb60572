//! What a backup says of itself to whoever has no passphrase.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skep_model::{ClusterId, Timestamp};

use super::BackupError;
use super::passphrase::Derivation;

/// The format that is written. A header of any format lies where this one does.
pub const FORMAT: u32 = 1;
pub(super) const MAGIC: &[u8; 8] = b"skepbak\n";
/// Bytes of the longest header.
pub(super) const HEADER_BYTES_MAX: usize = 64 * 1024;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct About {
    #[serde(rename = "ClusterID")]
    pub cluster: ClusterId,
    /// When it was taken.
    pub created_at: Timestamp,
    /// The version of the state: index of the last command in it.
    pub version: u64,
    /// The version of skep that wrote it.
    pub software: String,
}

/// The header of a backup. It is in the clear; nothing secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BackupHeader {
    pub format: u32,
    #[serde(flatten)]
    pub about: About,
    pub(super) derivation: Derivation,
    /// Base64 of nothing, sealed: tells a wrong passphrase from a damaged file.
    pub(super) check: String,
}

/// What is read before anything else: the rest may mean something else in another format.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AnyFormat {
    format: u32,
    #[serde(default)]
    software: String,
}

impl BackupHeader {
    /// The beginning of a file: everything before its first record.
    pub(super) fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_vec(self).expect("plain fields serialise");
        let len = u32::try_from(text.len()).expect("a header is a few hundred bytes");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(&text);
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        bytes
    }

    /// Reads the JSON of a header that was whole.
    pub(super) fn decode(text: &[u8]) -> Result<Self, BackupError> {
        let wrong = |_| BackupError::Damaged("its header cannot be read");
        let any: AnyFormat = serde_json::from_slice(text).map_err(wrong)?;
        if any.format > FORMAT {
            return Err(BackupError::Newer {
                found: any.format,
                software: any.software,
            });
        }
        serde_json::from_slice(text).map_err(wrong)
    }
}

/// The place of a record, bound into its seal. The check has a place of its own: the digest of the
/// header, which it is part of, is not known when it is made.
pub(super) fn place(header: &[u8; 32], record: u64) -> Vec<u8> {
    [b"skep/backup/".as_slice(), header, &record.to_be_bytes()].concat()
}

pub(super) const CHECK_PLACE: &[u8] = b"skep/backup/check";
