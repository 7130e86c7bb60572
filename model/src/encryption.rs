//! Encryption between nodes: who can, by which keys, and which networks are encrypted.

use serde::{Deserialize, Serialize};

use crate::network::NetworkSpec;
use crate::serde_help::{is_zero, null_default};
use crate::{ControlError, Timestamp};

/// The network option that asks for encryption, as in Swarm.
pub const ENCRYPTED_OPTION: &str = "encrypted";

/// How a node encrypts what it sends to other nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncryptionMethod {
    /// It cannot, and is given no task on an encrypted network.
    #[default]
    None,
    /// WireGuard of the kernel.
    Kernel,
    /// WireGuard of a process: right, but slow.
    Userspace,
}

/// What a node says of its encryption.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeEncryption {
    pub method: EncryptionMethod,
    /// Why it cannot; empty when it can.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub reason: String,
    /// One key for each generation it takes part in; none while no network is encrypted.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub keys: Vec<DataKey>,
}

impl NodeEncryption {
    /// Whether tasks on encrypted networks may run on the node.
    pub fn is_able(&self) -> bool {
        self.method != EncryptionMethod::None
    }

    /// Why tasks on encrypted networks may not run on the node.
    pub fn why_not(&self) -> &str {
        match self.reason.as_str() {
            "" => "it does not say that it can",
            reason => reason,
        }
    }

    /// The key of one generation.
    pub fn key(&self, generation: u64) -> Option<&DataKey> {
        self.keys.iter().find(|key| key.generation == generation)
    }
}

/// The public half of a node's key. The private half never leaves the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DataKey {
    pub generation: u64,
    /// Base64.
    pub public_key: String,
    /// UDP port that the node hears encrypted datagrams on.
    pub port: u16,
}

/// The generations of keys that nodes hold, and the one their frames are encrypted with.
///
/// `oldest <= used <= newest`, and at most two generations at a time: all three are equal but
/// while keys are replaced. Then `newest` is made first, `used` follows when every node knows the
/// new keys of all others, and `oldest` when every node has followed that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KeyRing {
    pub oldest: u64,
    pub used: u64,
    pub newest: u64,
    /// When the ring last changed; zero before the first encrypted network.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub changed_at: Timestamp,
    /// Which keys of `newest` every node is known to have told of, while they are waited for:
    /// a digest. Zero before that.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub told: u64,
}

impl KeyRing {
    /// Whether there is one generation only.
    pub const fn is_settled(&self) -> bool {
        self.oldest == self.newest
    }

    /// The generations that nodes hold.
    pub const fn generations(&self) -> std::ops::RangeInclusive<u64> {
        self.oldest..=self.newest
    }

    /// The first step of a replacement; a ring in the midst of one stays as it is.
    pub fn begin(&mut self, now: Timestamp) {
        if self.is_settled() {
            self.newest += 1;
            self.changed_at = now;
        }
    }
}

/// What a user asked for with the option `encrypted`: nothing, yes or no. Swarm takes the mere
/// presence for a yes, so an empty value is one.
pub fn asked_for(spec: &NetworkSpec) -> Result<Option<bool>, ControlError> {
    let option = spec
        .driver
        .as_ref()
        .and_then(|driver| driver.options.get(ENCRYPTED_OPTION));
    match option
        .map(|value| value.trim().to_ascii_lowercase())
        .as_deref()
    {
        None => Ok(None),
        Some("" | "true" | "1") => Ok(Some(true)),
        Some("false" | "0") => Ok(Some(false)),
        Some(_) => Err(ControlError::invalid(format!(
            "invalid value {:?} for the option {ENCRYPTED_OPTION:?} of network {}: want true or false",
            option.map_or("", String::as_str),
            spec.name,
        ))),
    }
}

impl NetworkSpec {
    /// Whether frames of this network must be encrypted between nodes. What cannot be read counts
    /// as a yes.
    pub fn is_encrypted(&self) -> bool {
        asked_for(self).map_or(true, |asked| asked == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Driver;

    fn with(value: &str) -> NetworkSpec {
        NetworkSpec {
            name: "back".into(),
            driver: Some(Driver {
                name: "overlay".into(),
                options: [(ENCRYPTED_OPTION.to_owned(), value.to_owned())].into(),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn presence_is_a_yes_and_a_no_can_be_said() {
        for (value, wanted) in [("", true), ("true", true), ("True", true), ("false", false)] {
            assert_eq!(asked_for(&with(value)), Ok(Some(wanted)), "{value}");
            assert_eq!(with(value).is_encrypted(), wanted);
        }
        assert_eq!(asked_for(&NetworkSpec::default()), Ok(None));
        assert!(!NetworkSpec::default().is_encrypted());
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_never_sent_in_clear() {
        let error = asked_for(&with("maybe")).unwrap_err();
        assert_eq!(
            error.message,
            "invalid value \"maybe\" for the option \"encrypted\" of network back: want true or false"
        );
        assert!(with("maybe").is_encrypted());
    }

    #[test]
    fn a_replacement_begins_once() {
        let mut ring = KeyRing::default();
        ring.begin(Timestamp::from_secs(5));
        ring.begin(Timestamp::from_secs(6));
        assert_eq!((ring.oldest, ring.used, ring.newest), (0, 0, 1));
        assert_eq!(ring.changed_at, Timestamp::from_secs(5));
        assert_eq!(ring.generations(), 0..=1);
    }
}
