#![doc = include_str!("../README.md")]

mod client;
mod faults;
mod machine;
mod member;
mod run;
mod shared;
mod wire;

pub use member::Bug;
pub use run::{Failure, Outcome, run, run_with};
