#![doc = include_str!("../README.md")]

pub mod assignments;
mod autoscale;
pub mod backup;
mod caller;
mod claims;
pub mod clock;
pub mod external;
mod forget;
mod leader;
mod liveness;
mod machine;
mod manager;
mod quorum;
mod relay;
mod roles;
pub mod root;
mod rounds;
pub mod rpc;
mod sessions;
pub mod stores;
mod submit;
mod transport;
mod usage;

pub use manager::{Core, Manager, ManagerConfig, StartError};
pub use skep_consensus::Timing;
