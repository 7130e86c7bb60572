#![doc = include_str!("../README.md")]

pub mod assigned;
mod cutter;
pub mod encryption;
mod exec;
pub mod guests;
pub mod journal;
pub mod leases;
mod logs;
pub mod network;
pub mod paths;
pub mod peers;
pub mod session;
pub mod status;
pub mod task;
mod usage;
pub mod worker;

pub use session::{AgentEvent, Session};
pub use worker::Worker;
