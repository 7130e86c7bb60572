#![doc = include_str!("../README.md")]

mod addr;
mod apply;
mod bridges;
mod cluster;
pub mod desired;
mod diff;
mod encryption;
mod error;
mod flows;
mod host;
pub mod names;
mod netlink;
mod netns;
mod nft;
mod outer;
mod passage;
mod paths;
mod plan;
mod ports;
mod probe;
pub mod relay;
mod report;
mod reserve;
mod sockets;
mod sysctl;
mod view;

pub use addr::{Mac, MacParseError, Proto};
pub use desired::bridge::{
    BoundPort, BridgeEndpoint, BridgeNetwork, BridgeState, PortRequest, VlanEndpoint, VlanMode,
};
pub use desired::cluster::{
    GatewayLeg, HostAddress, HostPort, HostState, IngressAddresses, IngressEndpoint, LocalEndpoint,
    LocalNode, Overlay, Peer, ProxyVersion, PublishedPort, RemoteEndpoint, Source, TaskSandbox,
    Vip,
};
pub use desired::tunnel::{Encryption, Tunnel, TunnelPeer};
pub use encryption::{EncryptionChoice, EncryptionMethod};
pub use error::{KernelError, Kind, NetError};
pub use flows::StaleFlows;
pub use host::{Host, HostConfig, InterfaceCounters, gateway_address6, next_gateway_address};
pub use netns::{Namespaces, Netns};
pub use outer::{Outer, OuterAddress};
pub use paths::{Heard, Path};
pub use probe::Capabilities;
pub use report::{Failure, Report};
pub use skep_wg::{PrivateKey, PublicKey};
pub use sockets::Connections;
