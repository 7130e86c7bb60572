//! Typed ids: 25 characters of lower-case base 36, about 129 random bits.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where randomness comes from. Deciding code takes it as an argument, so a seed replays a run.
pub trait Random {
    /// The next 64 random bits.
    fn next_u64(&mut self) -> u64;
}

impl<F: FnMut() -> u64> Random for F {
    fn next_u64(&mut self) -> u64 {
        self()
    }
}

/// Length of a generated id in characters.
pub const ID_LEN: usize = 25;

/// Makes the text of a fresh id: 17 random bytes with the top bit set, in base 36, the first
/// digit dropped and the next 25 kept.
pub fn random_id(random: &mut dyn Random) -> String {
    let mut bytes = [0u8; 24];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next_u64().to_be_bytes());
    }
    bytes[0] |= 0x80;
    base36(&bytes[..17])[1..=ID_LEN].to_owned()
}

/// Big-endian bytes as base 36 digits, most significant first.
pub fn base36(bytes: &[u8]) -> String {
    let mut number = bytes.to_vec();
    let mut digits = Vec::new();
    while number.iter().any(|&byte| byte != 0) {
        let mut rest = 0u32;
        for byte in &mut number {
            let value = (rest << 8) | u32::from(*byte);
            *byte = (value / 36) as u8;
            rest = value % 36;
        }
        digits.push(char::from_digit(rest, 36).expect("a remainder of 36 is a base 36 digit"));
    }
    digits.iter().rev().collect()
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes an id that was made elsewhere.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// Makes a fresh id.
            pub fn random(random: &mut dyn Random) -> Self {
                Self(Arc::from(random_id(random)))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first twelve characters, as tables show.
            pub fn short(&self) -> &str {
                self.0.get(..12).unwrap_or(&self.0)
            }

            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self(Arc::from(""))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                let text = Option::<String>::deserialize(input)?.unwrap_or_default();
                Ok(Self(Arc::from(text)))
            }
        }
    )*};
}

ids! {
    /// A cluster. The O of every certificate in it.
    ClusterId
    /// A node. The CN of its certificate.
    NodeId
    /// A service.
    ServiceId
    /// A task.
    TaskId
    /// A network of the cluster.
    NetworkId
    /// A secret.
    SecretId
    /// A config.
    ConfigId
    /// A stack.
    StackId
    /// The place of a plain container on a network.
    AttachmentId
    /// Credentials that the cluster keeps for a registry.
    RegistryLoginId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_25_base36_characters_and_follows_its_seed() {
        let mut state = 7u64;
        let mut random = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            state
        };
        let one = TaskId::random(&mut random);
        let two = TaskId::random(&mut random);
        assert_eq!(one.as_str().len(), ID_LEN);
        assert!(
            one.as_str()
                .bytes()
                .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        );
        assert_ne!(one, two);
        assert_eq!(TaskId::random(&mut || 0).as_str().len(), ID_LEN);
        assert_eq!(TaskId::random(&mut || u64::MAX).as_str().len(), ID_LEN);
    }

    #[test]
    fn base36_of_known_numbers() {
        assert_eq!(base36(&[0x24]), "10");
        assert_eq!(base36(&[0x01, 0x00]), "74");
    }
}
