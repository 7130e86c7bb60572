//! The passphrase of a backup, and the key that is made of it.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::BackupError;
use crate::SecretKey;
use crate::seal::{KEY_LEN, random_bytes};

/// Bytes of the longest passphrase.
const LEN_MAX: usize = 1024;
/// Characters of the shortest passphrase that a new backup is sealed with. A bound on mistakes: an
/// empty file, a word that was cut off.
const CHARS_MIN: usize = 8;
const SALT_LEN: usize = 16;
/// The only function there is so far, by its name in RFC 9106.
const ARGON2ID: &str = "argon2id";
/// What a file may ask for: it is read by root.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 64;

/// A passphrase. It never prints, and is wiped when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(hidden)")
    }
}

/// Why text is no passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    #[error("the passphrase is empty")]
    Empty,
    #[error("the passphrase is longer than {LEN_MAX} bytes")]
    Long,
    #[error(
        "the passphrase is too short: a backup holds the swarm's keys and secrets, so give at least {CHARS_MIN} characters"
    )]
    Short,
}

impl Passphrase {
    /// One that opens what there is.
    pub fn new(text: impl Into<String>) -> Result<Self, PassphraseError> {
        let text = Zeroizing::new(text.into());
        match text.len() {
            0 => Err(PassphraseError::Empty),
            1..=LEN_MAX => Ok(Self(text)),
            _ => Err(PassphraseError::Long),
        }
    }

    /// One for a new backup.
    pub fn for_sealing(text: impl Into<String>) -> Result<Self, PassphraseError> {
        let passphrase = Self::new(text)?;
        match passphrase.0.chars().count() < CHARS_MIN {
            true => Err(PassphraseError::Short),
            false => Ok(passphrase),
        }
    }
}

/// What it costs to try one passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for Cost {
    /// The second choice of RFC 9106, section 4: 64 MiB, three passes.
    fn default() -> Self {
        Self {
            memory_kib: 64 * 1024,
            passes: 3,
            lanes: 4,
        }
    }
}

/// How the key is made, as the header says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Derivation {
    name: String,
    #[serde(rename = "MemoryKiB")]
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    /// Base64.
    salt: String,
}

impl Derivation {
    /// One with a salt of its own.
    pub fn fresh(cost: Cost) -> Self {
        Self {
            name: ARGON2ID.to_owned(),
            memory_kib: cost.memory_kib,
            passes: cost.passes,
            lanes: cost.lanes,
            salt: STANDARD.encode(random_bytes::<SALT_LEN>()),
        }
    }

    /// The key. Takes as long and as much memory as the costs say.
    pub fn key(&self, passphrase: &Passphrase) -> Result<SecretKey, BackupError> {
        let is_bounded = self.memory_kib <= MEMORY_KIB_MAX
            && self.passes <= PASSES_MAX
            && self.lanes <= LANES_MAX;
        if self.name != ARGON2ID || !is_bounded {
            return Err(BackupError::Damaged(
                "the key is not made of the passphrase in a way that is known",
            ));
        }
        let wrong = BackupError::Damaged("the costs of the passphrase make no sense");
        let Ok(params) = Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_LEN))
        else {
            return Err(wrong);
        };
        let Some(salt) = STANDARD
            .decode(&self.salt)
            .ok()
            .filter(|salt| salt.len() == SALT_LEN)
        else {
            return Err(wrong);
        };
        let mut key = Zeroizing::new([0; KEY_LEN]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.0.as_bytes(), &salt, &mut *key)
            .map_err(|_| wrong)?;
        Ok(SecretKey::from_bytes(*key))
    }
}
