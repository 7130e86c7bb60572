//! Small value types of the data plane: hardware addresses and protocols.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An Ethernet address. As text `02:42:0a:00:01:05`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address an endpoint with this IP has everywhere: `02:42:` and the four
    /// bytes of an IPv4 address, or a hash of an IPv6 address. The same IP on
    /// another node is the same MAC, so caches of peers stay right when it moves.
    pub fn of(ip: IpAddr) -> Self {
        let tail = match ip {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(ip) => (crate::names::hash(&ip.octets()) as u32).to_be_bytes(),
        };
        Self([0x02, 0x42, tail[0], tail[1], tail[2], tail[3]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not an Ethernet address.
#[derive(Debug, thiserror::Error)]
#[error("invalid MAC address: {0}")]
pub struct MacParseError(String);

impl FromStr for Mac {
    type Err = MacParseError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = given.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| MacParseError(given.into()))?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(MacParseError(given.into())),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacParseError;

    fn try_from(given: String) -> Result<Self, Self::Error> {
        given.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// A transport protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, where the kernel has it.
    Sctp,
}

impl Proto {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Proto {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        match given.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(format!("invalid proto: {given}")),
        }
    }
}
