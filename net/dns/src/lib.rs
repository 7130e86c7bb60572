#![doc = include_str!("../README.md")]

mod config;
mod message;
mod responder;
mod zone;

pub use config::{DnsConfig, SERVER_ADDRESS};
pub use message::{answers, is_truncated, servfail, with_id};
pub use responder::{Outcome, Responder};
pub use zone::{Zone, ZoneError};
