//! Published ports.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::publish::{PortBalance, PortSource};
use crate::serde_help::{is_zero, null_default};

/// Transport protocol of a port.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = PortParseError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        match given.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(PortParseError::Protocol {
                given: given.to_owned(),
            }),
        }
    }
}

/// Where a published port answers.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On every node, through the routing mesh.
    #[default]
    Ingress,
    /// Only on nodes that run a task.
    Host,
}

/// One published port of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortConfig {
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub protocol: Protocol,
    /// The port in the task.
    #[serde(deserialize_with = "null_default")]
    pub target_port: u16,
    /// The port on the nodes; 0 asks for a free one.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub published_port: u16,
    #[serde(deserialize_with = "null_default")]
    pub publish_mode: PublishMode,
    /// The only address that it answers on, on nodes that have it; empty: all. Ours, as are the
    /// fields below; see `publish`.
    #[serde(
        rename = "HostIP",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub host_ip: String,
    /// The only interface on whose addresses it answers; empty: all.
    #[serde(
        rename = "HostInterface",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub interface: String,
    /// Whom its tasks see as the client.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub source: PortSource,
    /// Which tasks a node leads its clients to.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub balance: PortBalance,
}

/// Why text is no published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortParseError {
    #[error("invalid port `{given}`: want a number from 1 to 65535")]
    Number { given: String },
    #[error("invalid protocol value '{given}'. Must be either tcp, udp or sctp")]
    Protocol { given: String },
}
