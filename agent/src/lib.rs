#![doc = include_str!("../README.md")]

pub mod assigned;
mod cutter;
pub mod encryption;
pub mod guests;
pub mod journal;
mod logs;
pub mod network;
pub mod paths;
pub mod session;
pub mod status;
pub mod task;
pub mod worker;

pub use session::{AgentEvent, Session};
pub use worker::Worker;
