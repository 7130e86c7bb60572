#![doc = include_str!("../README.md")]

pub mod host;
pub mod invariant;
pub mod log;
pub mod random;
pub mod user;
pub mod world;

pub use world::{Failure, Outcome, run};
