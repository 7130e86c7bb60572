#![doc = include_str!("../README.md")]

pub mod days;
pub mod founding;
pub mod host;
pub mod invariant;
pub mod load;
pub mod log;
pub mod random;
pub mod sabotage;
pub mod session;
pub mod stacks;
mod tell;
pub mod user;
mod wants;
pub mod world;

pub use sabotage::Sabotage;
pub use tell::{Failure, Outcome};
pub use world::{run, run_with};
