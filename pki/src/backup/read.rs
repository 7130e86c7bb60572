//! Reads a backup, verifying as it goes.

use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::header::{BackupHeader, CHECK_PLACE, HEADER_BYTES_MAX, MAGIC, place};
use super::passphrase::Passphrase;
use super::{BackupError, CHUNK_BYTES_MAX, CHUNK_END, END, PART, RECORD_BYTES_MAX};
use crate::Sealer;

/// A backup that is being read. It is whole only if [`BackupReader::next_chunk`] came to its end.
pub struct BackupReader<R> {
    input: R,
    sealer: Sealer,
    pub header: BackupHeader,
    /// Digest of the beginning of the file.
    digest: [u8; 32],
    records: u64,
    ended: bool,
}

/// Reads the header alone, for which no passphrase is needed.
pub fn read_header(input: &mut impl Read) -> Result<BackupHeader, BackupError> {
    beginning(input).map(|(header, _)| header)
}

fn beginning(input: &mut impl Read) -> Result<(BackupHeader, [u8; 32]), BackupError> {
    let mut bytes = vec![0; MAGIC.len()];
    match fill(input, &mut bytes) {
        Err(BackupError::Damaged(_)) => return Err(BackupError::NotABackup),
        other => other?,
    }
    if bytes != MAGIC {
        return Err(BackupError::NotABackup);
    }
    let mut len = [0; 4];
    fill(input, &mut len)?;
    let header_len = u32::from_be_bytes(len) as usize;
    if header_len > HEADER_BYTES_MAX {
        return Err(BackupError::Damaged("its header has no sensible length"));
    }
    let mut text = vec![0; header_len];
    fill(input, &mut text)?;
    let mut found = [0; 32];
    fill(input, &mut found)?;
    bytes.extend_from_slice(&len);
    bytes.extend_from_slice(&text);
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    if digest != found {
        return Err(BackupError::Damaged("its header is not what was written"));
    }
    bytes.extend_from_slice(&found);
    let header = BackupHeader::decode(&text)?;
    Ok((header, Sha256::digest(&bytes).into()))
}

impl<R: Read> BackupReader<R> {
    /// Reads the beginning and tries the passphrase, which takes as long as the header says.
    pub fn open(mut input: R, passphrase: &Passphrase) -> Result<Self, BackupError> {
        let (header, digest) = beginning(&mut input)?;
        let sealer = Sealer::new(&header.derivation.key(passphrase)?);
        let check = STANDARD
            .decode(&header.check)
            .map_err(|_| BackupError::Damaged("its header cannot be read"))?;
        if sealer.open(CHECK_PLACE, &check).is_err() {
            return Err(BackupError::WrongPassphrase);
        }
        Ok(Self {
            input,
            sealer,
            header,
            digest,
            records: 0,
            ended: false,
        })
    }

    /// The next chunk; `None` once at the end of a file that is whole.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        let mut chunk = Vec::new();
        while !self.ended {
            let number = self.records;
            let (kind, bytes) = self.record()?;
            match kind {
                PART | CHUNK_END if chunk.len() + bytes.len() > CHUNK_BYTES_MAX => {
                    return Err(BackupError::Damaged("a piece of it is too large"));
                }
                PART => chunk.extend_from_slice(&bytes),
                CHUNK_END => {
                    chunk.extend_from_slice(&bytes);
                    return Ok(Some(chunk));
                }
                END if chunk.is_empty() && bytes == number.to_be_bytes() => {
                    self.end()?;
                }
                _ => return Err(BackupError::Damaged("a record of it makes no sense")),
            }
        }
        Ok(None)
    }

    fn end(&mut self) -> Result<(), BackupError> {
        match fill(&mut self.input, &mut [0]) {
            Ok(()) => return Err(BackupError::Damaged("something follows its end")),
            Err(BackupError::Damaged(_)) => self.ended = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn record(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        let mut len = [0; 4];
        fill(&mut self.input, &mut len)?;
        let len = u32::from_be_bytes(len) as usize;
        if len > RECORD_BYTES_MAX {
            return Err(BackupError::Damaged("a record has no sensible length"));
        }
        let mut sealed = vec![0; len];
        fill(&mut self.input, &mut sealed)?;
        let mut plain = self
            .sealer
            .open(&place(&self.digest, self.records), &sealed)
            .map_err(|_| BackupError::Damaged("a record is not what was written"))?;
        self.records += 1;
        match plain.is_empty() {
            true => Err(BackupError::Damaged("a record is empty")),
            false => Ok((plain.remove(0), plain)),
        }
    }
}

fn fill(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), BackupError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::Damaged("it ends too early"),
        _ => BackupError::Io(error),
    })
}
