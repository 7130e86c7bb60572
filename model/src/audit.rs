//! What `network check` finds.

use serde::{Deserialize, Serialize};

/// How the cluster's networks are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkAudit {
    /// How many networks, nodes, addresses and ways between nodes were looked at.
    pub networks: usize,
    pub nodes: usize,
    pub addresses: usize,
    /// What is wrong; empty when all is well.
    pub findings: Vec<NetworkFinding>,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingKind {
    /// An address has two holders, is not of its network, or belongs to nobody any more.
    Address,
    /// A VXLAN id or a subnet has two networks.
    Network,
    /// A published port has two services.
    Port,
    /// Two nodes do not reach each other as they should.
    Path,
    /// A node cannot do what its networks need.
    Node,
}

impl FindingKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Network => "network",
            Self::Port => "port",
            Self::Path => "path",
            Self::Node => "node",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkFinding {
    pub kind: FindingKind,
    /// The network's name; empty when it is about none in particular.
    pub network: String,
    /// Host name of the node that sees it; empty when the replicated state shows it.
    pub node: String,
    pub message: String,
}
