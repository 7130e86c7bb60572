//! Addresses, ports and network ids: what is free, and which free one is taken.

pub mod addresses;
pub mod numbers;
pub mod ports;
pub mod subnets;

pub use addresses::AddressPool;
pub use ports::{PortError, PortsInUse};
