#![doc = include_str!("../README.md")]

pub mod assignments;
mod caller;
pub mod clock;
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
mod submit;
mod transport;

pub use manager::{Core, Manager, ManagerConfig, StartError};
pub use skep_consensus::Timing;
