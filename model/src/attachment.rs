//! Containers of single hosts on attachable networks of the cluster.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::serde_help::null_default;
use crate::{AttachmentId, Network, NetworkId, NodeId, Timestamp, Version};

/// The place of a plain container, one that belongs to no service, on an attachable network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Attachment {
    #[serde(rename = "ID")]
    pub id: AttachmentId,
    pub version: Version,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Where the container is.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    #[serde(rename = "NetworkID")]
    pub network_id: NetworkId,
    pub container: GuestContainer,
    /// Addresses it must have, at most one of each family.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub wanted: Vec<IpAddr>,
    /// With prefix length, one of each family; empty until the allocator has seen it.
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<String>,
    /// Why it has no addresses yet; empty when nothing is wrong.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub waits_for: String,
}

/// The container of an [`Attachment`], as far as others on the network can tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GuestContainer {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub hostname: String,
    /// Further names on the network.
    #[serde(deserialize_with = "null_default")]
    pub aliases: Vec<String>,
}

/// What a node asks its managers for on behalf of a container of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachRequest {
    /// The attachable network that is meant by a name or an id.
    Find { network: String },
    /// A place on the network; the one it has already, if any.
    Attach {
        network: NetworkId,
        container: Box<GuestContainer>,
        /// Addresses it must have, at most one of each family.
        addresses: Vec<IpAddr>,
    },
    /// Gives the place back. Nothing to give back is fine.
    Detach {
        network: NetworkId,
        /// The container's id.
        container: String,
    },
}

/// What came of an [`AttachRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachReply {
    Found(Box<Network>),
    Attached(Box<Attachment>),
    Detached,
}
