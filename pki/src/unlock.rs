//! The key that a person types to unlock a manager: `SWMKEY-1-` and 32 bytes in base64, as Swarm
//! writes it.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::SecretKey;
use crate::seal::{KEY_LEN, random_bytes};

const PREFIX: &str = "SWMKEY-1-";

/// The cluster's unlock key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnlockKey(SecretKey);

/// Why text is no unlock key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an unlock key begins with SWMKEY-1-")]
pub struct UnlockKeyError;

impl UnlockKey {
    /// Draws a fresh key from the operating system.
    pub fn generate() -> Self {
        Self(SecretKey::from_bytes(random_bytes()))
    }

    /// The key as a person writes it down. Never log it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD_NO_PAD.encode(self.0.as_bytes()))
    }

    pub fn secret(&self) -> &SecretKey {
        &self.0
    }
}

impl FromStr for UnlockKey {
    type Err = UnlockKeyError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let encoded = given.trim().strip_prefix(PREFIX).ok_or(UnlockKeyError)?;
        let bytes = STANDARD_NO_PAD
            .decode(encoded)
            .map_err(|_| UnlockKeyError)?;
        let bytes: [u8; KEY_LEN] = bytes.try_into().map_err(|_| UnlockKeyError)?;
        Ok(Self(SecretKey::from_bytes(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let key = UnlockKey::generate();
        assert_eq!(key.reveal().parse(), Ok(key.clone()));
        assert_eq!(format!(" {}\n", key.reveal()).parse(), Ok(key));
        for wrong in ["", "SWMKEY-1-", "SWMKEY-1-abc", "SWMKEY-2-abc", "secret"] {
            assert_eq!(wrong.parse::<UnlockKey>(), Err(UnlockKeyError), "{wrong}");
        }
    }
}
