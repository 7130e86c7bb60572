#![doc = include_str!("../README.md")]

pub mod capabilities;
pub mod cgroup;
pub mod client;
pub mod config;
pub mod exit;
pub mod launcher;
mod profile;
pub mod protocol;
pub mod stdcopy;

pub use client::{ClientError, ExecStream, ShimClient, Subscription};
pub use config::ShimConfig;
pub use exit::ExitRecord;
pub use launcher::{InjectedBytes, Launcher, Prepared, StartError};
