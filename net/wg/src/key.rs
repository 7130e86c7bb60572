//! Keys of a tunnel.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519::{PublicKey as Point, StaticSecret};
use zeroize::Zeroizing;

/// A text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a WireGuard key is 32 bytes in base64")]
pub struct KeyParseError;

/// A node's half of a tunnel. It has no `Display`, and debug output hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<[u8; 32]>);

impl PrivateKey {
    /// The key that these 32 bytes of a cryptographic source make.
    pub fn new(random: [u8; 32]) -> Self {
        let mut bytes = Zeroizing::new(random);
        // As WireGuard's own tools do, so that every implementation shows the same bytes.
        bytes[0] &= 248;
        bytes[31] = bytes[31] & 127 | 64;
        Self(bytes)
    }

    /// The bytes, for who configures a tunnel with them.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What others may know.
    pub fn public(&self) -> PublicKey {
        PublicKey(Point::from(&self.secret()).to_bytes())
    }

    pub(crate) fn secret(&self) -> StaticSecret {
        StaticSecret::from(*self.0)
    }

    /// The key in base64, for a file that only root reads.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

impl FromStr for PrivateKey {
    type Err = KeyParseError;

    fn from_str(text: &str) -> Result<Self, KeyParseError> {
        decode(text).map(Self::new)
    }
}

/// What the other nodes know a tunnel's node by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key of these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn point(self) -> Point {
        Point::from(self.0)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyParseError;

    fn from_str(text: &str) -> Result<Self, KeyParseError> {
        decode(text).map(Self)
    }
}

fn decode(text: &str) -> Result<[u8; 32], KeyParseError> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| KeyParseError)?);
    bytes.as_slice().try_into().map_err(|_| KeyParseError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_as_text_and_private_ones_do_not_show() {
        let private = PrivateKey::new([7; 32]);
        assert_eq!(private.to_text().parse(), Ok(private.clone()));
        let public = private.public();
        assert_eq!(public.to_string().parse(), Ok(public));
        assert_eq!(format!("{private:?}"), "PrivateKey(hidden)");
        assert!("short".parse::<PublicKey>().is_err());
    }

    #[test]
    fn the_public_key_is_the_one_of_the_standard() {
        // A pair that OpenSSL made.
        let bytes = |text: &str| -> [u8; 32] { hex::decode(text).unwrap().try_into().unwrap() };
        let private = bytes("e0ad2188a8f3133e0a55b84b327eda65956510b56ff0a1db31a5d0cc71644f40");
        let public = bytes("36f4de553dee4760b04a140f70af209d784481d0e51336696b2a041bd934ce28");
        // The last byte is clamped as WireGuard does it; the public key is the same.
        let private = PrivateKey::new(private);
        let shown = hex::encode(private.public().bytes());
        assert_eq!(shown, hex::encode(public));
    }
}
