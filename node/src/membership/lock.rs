//! Autolock: a manager's secrets lie sealed on its disk, and only the cluster's unlock key opens
//! them.
//!
//! They are sealed under a local key, and that key lies under the unlock key in one small file: a
//! new unlock key replaces the old one in one step, whatever happens in between.

use std::sync::{Mutex, MutexGuard, PoisonError};

use skep_pki::unlock::UnlockKey;
use skep_pki::{Sealer, SecretKey};

/// First bytes of a sealed file.
pub const SEALED: &[u8] = b"skep sealed 1\n";

/// The local key, while it is known.
#[derive(Default)]
pub struct Keyring(Mutex<Option<Held>>);

struct Held {
    local: SecretKey,
    /// What the local key lies under on disk.
    unlock: UnlockKey,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring(hidden)")
    }
}

impl Keyring {
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether secrets are sealed and can be opened.
    pub fn is_open(&self) -> bool {
        self.held().is_some()
    }

    /// The unlock key that is in force; `None` without autolock, or while locked.
    pub fn unlock_key(&self) -> Option<UnlockKey> {
        self.held().as_ref().map(|held| held.unlock.clone())
    }

    /// Takes the local key out of its file. False when it lies under another unlock key.
    pub fn open(&self, file: &[u8], unlock: &UnlockKey) -> bool {
        let sealed = file.strip_prefix(SEALED).unwrap_or_default();
        let local = Sealer::new(unlock.secret()).open(b"lock", sealed);
        let local = local
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let Some(local) = local else { return false };
        *self.held() = Some(Held {
            local: SecretKey::from_bytes(local),
            unlock: unlock.clone(),
        });
        true
    }

    /// The file that holds the local key, a new one if there is none, under this unlock key. Call
    /// [`Keyring::keep`] when it is on disk.
    pub fn wrap(&self, unlock: &UnlockKey) -> (Vec<u8>, SecretKey) {
        let local = match &*self.held() {
            Some(held) => held.local.clone(),
            None => SecretKey::generate(),
        };
        let sealed = Sealer::new(unlock.secret()).seal(b"lock", local.as_bytes());
        ([SEALED, &sealed].concat(), local)
    }

    pub fn keep(&self, local: SecretKey, unlock: UnlockKey) {
        *self.held() = Some(Held { local, unlock });
    }

    /// Forgets the local key: from now on nothing is sealed.
    pub fn forget(&self) {
        *self.held() = None;
    }

    /// A secret as it goes to disk: sealed for the file of this name, or plain without autolock.
    pub fn seal(&self, name: &str, plain: &[u8]) -> Vec<u8> {
        match &*self.held() {
            Some(held) => {
                let sealed = Sealer::new(&held.local).seal(name.as_bytes(), plain);
                [SEALED, &sealed].concat()
            }
            None => plain.to_vec(),
        }
    }

    /// A secret as it was read from disk; `None` when it cannot be opened.
    pub fn unseal(&self, name: &str, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let Some(sealed) = bytes.strip_prefix(SEALED) else {
            return Some(bytes);
        };
        let held = self.held();
        let sealer = Sealer::new(&held.as_ref()?.local);
        sealer.open(name.as_bytes(), sealed).ok()
    }
}
