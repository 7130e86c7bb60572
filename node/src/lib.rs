#![doc = include_str!("../README.md")]

pub mod daemon;
pub mod dev;
mod listen;
pub mod membership;
pub mod options;

pub use skep_relay::main as relay;
