//! The encrypted ways between nodes.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use skep_wg::{PrivateKey, PublicKey};

use crate::HostState;

/// What encrypted networks need on every node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encryption {
    /// The VXLAN ids of all encrypted networks of the cluster: their frames are
    /// neither sent nor taken in clear, whether or not the node has a task there.
    pub vnis: BTreeSet<u32>,
    /// Whether the ingress network is encrypted.
    pub ingress: bool,
    /// Tunnels that are to be, two at most, of neighbouring generations.
    pub tunnels: Vec<Tunnel>,
    /// The generation whose tunnel frames go through.
    pub used: u64,
    /// Why there is no tunnel, for who asks for an encrypted network all the same.
    pub missing: String,
}

impl HostState {
    /// Whether anything here is encrypted.
    pub(crate) fn encrypts(&self) -> bool {
        self.encryption != Encryption::default() || self.overlays.iter().any(|one| one.encrypted)
    }
}

impl Encryption {
    /// The tunnel that frames go through.
    pub(crate) fn in_use(&self) -> Option<&Tunnel> {
        let mut tunnels = self.tunnels.iter();
        tunnels.find(|tunnel| tunnel.generation == self.used)
    }
}

/// This node's end of the tunnels to all others, by one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Which key it is; neighbouring ones have interfaces and addresses apart.
    pub generation: u64,
    /// This node's key.
    pub private_key: PrivateKey,
    /// UDP port that it is heard on.
    pub port: u16,
    /// MTU of the interface: the underlay's minus 80.
    pub mtu: u32,
    /// The other nodes that have a key of this generation.
    pub peers: Vec<TunnelPeer>,
}

/// Another node's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelPeer {
    /// The node's number, which gives its address in the tunnel.
    pub index: u16,
    /// Its key.
    pub public_key: PublicKey,
    /// Where it is heard.
    pub endpoint: SocketAddr,
}
