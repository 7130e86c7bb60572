//! Join tokens: `SWMTKN-1-<digest of the root certificate>-<secret>`.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use skep_model::id::base36;

const DIGEST_LEN: usize = 50;
const SECRET_LEN: usize = 25;

/// Admits nodes. The digest pins the cluster's root, so that nothing is sent to a stranger.
/// It never prints by accident; [`JoinToken::reveal`] gives its text.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    digest: String,
    secret: String,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(hidden)")
    }
}

/// Why text is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid join token")]
pub struct TokenParseError;

impl JoinToken {
    /// A fresh token for the cluster whose root certificate is `root_pem`.
    pub fn generate(root_pem: &str) -> Self {
        let secret = base36_padded(&crate::random_bytes::<16>(), SECRET_LEN);
        Self {
            digest: root_digest(root_pem),
            secret,
        }
    }

    /// Whether `root_pem` is the root that this token pins.
    pub fn pins(&self, root_pem: &str) -> bool {
        root_digest(root_pem) == self.digest
    }

    /// The digest of the root that this token pins, in hexadecimal.
    pub fn pinned(&self) -> String {
        hex::encode(digest_bytes(&self.digest).unwrap_or_default())
    }

    /// The token's text, to be shown to an administrator.
    pub fn reveal(&self) -> String {
        format!("SWMTKN-1-{}-{}", self.digest, self.secret)
    }
}

impl FromStr for JoinToken {
    type Err = TokenParseError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let mut parts = given.split('-');
        let (Some("SWMTKN"), Some("1"), Some(digest), Some(secret), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(TokenParseError);
        };
        let sound = |text: &str, len| {
            text.len() == len
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
        };
        let sound = sound(digest, DIGEST_LEN) && sound(secret, SECRET_LEN);
        if !sound || digest_bytes(digest).is_none() {
            return Err(TokenParseError);
        }
        Ok(Self {
            digest: digest.to_owned(),
            secret: secret.to_owned(),
        })
    }
}

/// Compares two texts in a time that does not depend on where they differ.
pub fn same_secret(one: &str, other: &str) -> bool {
    let (one, other) = (
        Sha256::digest(one.as_bytes()),
        Sha256::digest(other.as_bytes()),
    );
    one.iter()
        .zip(other.iter())
        .fold(0u8, |sum, (a, b)| sum | (a ^ b))
        == 0
}

/// How tokens pin `root_pem`: its SHA-256 digest in base 36.
pub fn root_digest(root_pem: &str) -> String {
    base36_padded(&Sha256::digest(root_pem.as_bytes()), DIGEST_LEN)
}

/// The bytes that base 36 digits stand for; `None` when they are more than a digest has.
fn digest_bytes(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0u8; 32];
    for digit in digits.chars() {
        let mut carry = digit.to_digit(36)?;
        for byte in bytes.iter_mut().rev() {
            let value = u32::from(*byte) * 36 + carry;
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(bytes)
}

fn base36_padded(bytes: &[u8], len: usize) -> String {
    format!("{:0>len$}", base36(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_pins_one_root() {
        let token = JoinToken::generate("root A");
        let text = token.reveal();
        assert_eq!(text.len(), "SWMTKN-1-".len() + DIGEST_LEN + 1 + SECRET_LEN);
        let read: JoinToken = text.parse().unwrap();
        assert_eq!(read, token);
        assert!(read.pins("root A"));
        assert!(!read.pins("root B"));
        assert_ne!(JoinToken::generate("root A").reveal(), text);
    }

    #[test]
    fn a_token_tells_the_digest_it_pins() {
        let token = JoinToken::generate("root A");
        assert_eq!(token.pinned(), hex::encode(Sha256::digest("root A")));
        let too_much = format!("SWMTKN-1-{}-{}", "z".repeat(50), "0".repeat(25));
        assert_eq!(too_much.parse::<JoinToken>(), Err(TokenParseError));
    }

    #[test]
    fn other_text_is_refused() {
        let good = JoinToken::generate("x").reveal();
        for bad in [
            "",
            "SWMTKN-1",
            "SWMTKN-1-a-b",
            &good[1..],
            &format!("{good}0"),
            &good.to_uppercase(),
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(TokenParseError), "{bad}");
        }
    }

    #[test]
    fn secrets_compare_by_content() {
        assert!(same_secret("abc", "abc"));
        assert!(!same_secret("abc", "abd"));
        assert!(!same_secret("abc", "abcd"));
    }
}
