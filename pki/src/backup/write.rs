//! Writes a backup, sealing as it goes.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::header::{About, BackupHeader, CHECK_PLACE, FORMAT, place};
use super::passphrase::{Cost, Derivation, Passphrase};
use super::{CHUNK_END, END, PART, PIECE_BYTES};
use crate::Sealer;

/// A backup that is being written. It is none before [`BackupWriter::finish`].
pub struct BackupWriter<W> {
    out: W,
    sealer: Sealer,
    /// Digest of the beginning of the file.
    header: [u8; 32],
    records: u64,
}

impl<W: Write> BackupWriter<W> {
    /// Writes the beginning. Deriving the key takes as long as `cost` says.
    pub fn begin(
        mut out: W,
        about: About,
        passphrase: &Passphrase,
        cost: Cost,
    ) -> io::Result<Self> {
        let derivation = Derivation::fresh(cost);
        let key = derivation.key(passphrase).map_err(io::Error::other)?;
        let sealer = Sealer::new(&key);
        let header = BackupHeader {
            format: FORMAT,
            about,
            derivation,
            check: STANDARD.encode(sealer.seal(CHECK_PLACE, b"")),
        };
        let beginning = header.encode();
        out.write_all(&beginning)?;
        Ok(Self {
            out,
            sealer,
            header: Sha256::digest(&beginning).into(),
            records: 0,
        })
    }

    /// Writes one chunk, which is read back as a whole.
    pub fn chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut rest = chunk;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(PIECE_BYTES));
            rest = after;
            let kind = if rest.is_empty() { CHUNK_END } else { PART };
            self.record(kind, piece)?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Ends the file.
    pub fn finish(mut self) -> io::Result<W> {
        let records = self.records;
        self.record(END, &records.to_be_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn record(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let plain = [&[kind], bytes].concat();
        let sealed = self.sealer.seal(&place(&self.header, self.records), &plain);
        self.records += 1;
        let len = u32::try_from(sealed.len()).expect("pieces are far below 4 GiB");
        self.out.write_all(&len.to_be_bytes())?;
        self.out.write_all(&sealed)
    }
}
