#![doc = include_str!("../README.md")]

mod history;
mod search;
mod smallest;
mod versioned;

pub use history::{Model, Operation, show};
pub use search::{STEPS_MAX, Verdict, check};
pub use smallest::smallest;
pub use versioned::{Answer, Asked, Call, Versioned};
