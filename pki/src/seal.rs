//! Sealing of records at rest: XChaCha20-Poly1305 under a data key that never leaves the node.
//!
//! A random 24-byte nonce is safe for records that are rewritten under the same index, as raft
//! log entries are; a counter would not be.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use rand::{TryRngCore, rngs::OsRng};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of a key in bytes.
pub const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 24;
/// First byte of every sealed record.
const FORMAT: u8 = 1;

/// A symmetric key. It never prints, and is wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; KEY_LEN]);

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(hidden)")
    }
}

impl SecretKey {
    /// Draws a fresh key from the operating system.
    pub fn generate() -> Self {
        Self(random_bytes())
    }

    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

/// Bytes from the operating system's generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsRng
        .try_fill_bytes(&mut bytes)
        .expect("the operating system's generator answers");
    bytes
}

/// Why a sealed record cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("a sealed record is too short or of an unknown format")]
    Format,
    #[error("a sealed record was damaged, or sealed with another key or for another place")]
    Damaged,
}

/// Seals and opens records with one key.
#[derive(Clone)]
pub struct Sealer {
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(hidden)")
    }
}

impl Sealer {
    pub fn new(key: &SecretKey) -> Self {
        Self {
            cipher: XChaCha20Poly1305::new(Key::from_slice(&key.0)),
        }
    }

    /// Seals `plain` for the place that `context` names (table, term, index, …): opening it
    /// under another context fails.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = random_bytes();
        let sealed = self
            .cipher
            .encrypt(
                XNonce::from_slice(&nonce),
                Payload {
                    msg: plain,
                    aad: context,
                },
            )
            .expect("records are far below the cipher's bound of 256 GiB");
        let mut record = Vec::with_capacity(1 + NONCE_LEN + sealed.len());
        record.push(FORMAT);
        record.extend_from_slice(&nonce);
        record.extend_from_slice(&sealed);
        record
    }

    /// Opens what [`Sealer::seal`] made.
    pub fn open(&self, context: &[u8], record: &[u8]) -> Result<Vec<u8>, SealError> {
        let (format, rest) = record.split_first().ok_or(SealError::Format)?;
        if *format != FORMAT || rest.len() < NONCE_LEN {
            return Err(SealError::Format);
        }
        let (nonce, sealed) = rest.split_at(NONCE_LEN);
        self.cipher
            .decrypt(
                XNonce::from_slice(nonce),
                Payload {
                    msg: sealed,
                    aad: context,
                },
            )
            .map_err(|_| SealError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_place_open_a_record() {
        let sealer = Sealer::new(&SecretKey::generate());
        let record = sealer.seal(b"log/7", b"payload");
        assert!(!record.windows(7).any(|bytes| bytes == b"payload"));
        assert_eq!(sealer.open(b"log/7", &record).unwrap(), b"payload");
        assert_eq!(sealer.open(b"log/8", &record), Err(SealError::Damaged));
        assert_eq!(
            Sealer::new(&SecretKey::generate()).open(b"log/7", &record),
            Err(SealError::Damaged)
        );
        assert_eq!(sealer.open(b"log/7", b""), Err(SealError::Format));
    }

    #[test]
    fn each_flipped_bit_is_found() {
        let sealer = Sealer::new(&SecretKey::generate());
        let record = sealer.seal(b"x", b"payload");
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open(b"x", &damaged).is_err(), "bit {bit}");
        }
    }
}
