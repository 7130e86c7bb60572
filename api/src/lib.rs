#![doc = include_str!("../README.md")]

pub mod cluster;
pub mod texts;

mod backup;
mod build;
mod cluster_events;
mod cluster_logs;
mod cluster_network;
mod container_io;
mod containers;
mod defaults;
mod exec;
mod frames;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod handshake;
mod hijack;
mod host;
mod image_push;
mod image_transfer;
mod images;
mod info;
mod loose;
mod networks;
mod nodes;
mod platform;
mod query;
mod questions;
mod rebalance;
mod redact;
mod registry_logins;
mod reply;
mod request_body;
mod request_line;
mod resolve;

mod network_check;
mod payload_versions;
mod pin;
mod route;
mod runs;
mod secrets;
mod server;
mod service_status;
mod services;
mod stacks;
mod state;
mod status;
mod swarm;
mod system;
mod task_exec;
mod tasks;
mod tokens;
mod version;
mod volume_homes;
mod volumes;
mod websocket;
mod why;

pub use cluster::Cluster;
pub use pin::Asked;
pub use server::{Listener, serve};
pub use state::{About, ApiState};
pub use version::ApiVersion;
