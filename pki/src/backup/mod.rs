//! Backups: the whole state of a cluster in one file, which nobody reads without the passphrase.
//!
//! `magic`, `[length u32][header, JSON]`, `[sha256 of everything before]`, then records
//! `[length u32][sealed]`. The header says what the file is of and how the key is made of the
//! passphrase; its digest is bound into the seal of every record together with the record's number,
//! so none can be changed, lost, moved or taken from another file. The last record counts them, and
//! nothing follows it. Numbers are big-endian.

mod header;
mod passphrase;
mod read;
mod write;

pub use header::{About, BackupHeader, FORMAT};
pub use passphrase::{Cost, Passphrase, PassphraseError};
pub use read::{BackupReader, read_header};
pub use write::BackupWriter;

/// Bytes of a chunk that are sealed in one record.
const PIECE_BYTES: usize = 512 * 1024;
/// Bytes of the largest record: a piece, what stands before it, and the seal.
const RECORD_BYTES_MAX: usize = PIECE_BYTES + 128;
/// Bytes of the largest chunk. A bound on what a file that is none of ours can ask for.
const CHUNK_BYTES_MAX: usize = 256 * 1024 * 1024;
/// First byte of an opened record: part of a chunk, end of a chunk, end of the file.
const PART: u8 = 0;
const CHUNK_END: u8 = 1;
const END: u8 = 2;

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("this is no backup of a swarm")]
    NotABackup,
    #[error(
        "the backup has format {found} (written by skep {software}), and this skep reads formats up to {FORMAT}: use a newer skep"
    )]
    Newer { found: u32, software: String },
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
    #[error("the passphrase is not the one of this backup")]
    WrongPassphrase,
    #[error("the backup cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

#[cfg(test)]
mod tests;
