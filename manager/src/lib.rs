#![doc = include_str!("../README.md")]

pub mod assignments;
mod caller;
pub mod clock;
mod leader;
mod liveness;
mod machine;
mod manager;
mod relay;
mod roles;
mod rounds;
pub mod rpc;
mod sessions;
mod submit;
mod transport;

pub use manager::{Core, Manager, ManagerConfig, StartError};
pub use skep_consensus::Timing;
