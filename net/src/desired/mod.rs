//! The desired state of a host, as plain values.

pub mod bridge;
pub mod cluster;
pub mod tunnel;
