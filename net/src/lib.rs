#![doc = include_str!("../README.md")]

mod addr;
pub mod desired;
mod error;
mod host;
pub mod names;
mod netlink;
mod netns;
mod probe;
mod report;
mod sysctl;

pub use addr::{Mac, MacParseError, Proto};
pub use desired::bridge::{
    BoundPort, BridgeEndpoint, BridgeNetwork, BridgeState, PortRequest, VlanEndpoint, VlanMode,
};
pub use desired::cluster::{
    GatewayLeg, HostPort, HostState, IngressAddresses, IngressEndpoint, LocalEndpoint, LocalNode,
    Overlay, Peer, PublishedPort, RemoteEndpoint, TaskSandbox, Vip,
};
pub use error::{KernelError, Kind, NetError};
pub use host::{Host, HostConfig, InterfaceCounters, next_gateway_address};
pub use netns::{Namespaces, Netns};
pub use probe::Capabilities;
pub use report::{Failure, Report};
