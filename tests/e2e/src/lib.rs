#![doc = include_str!("../README.md")]

pub mod checks;
pub mod cluster;
pub mod compare;
pub mod dns;
mod footprint;
mod guard;
pub mod http;
pub mod image;
pub mod load;
pub mod needs;
pub mod pair;
pub mod places;
pub mod random;
pub mod registry;
pub mod run;
pub mod station;
pub mod steady;
pub mod talk;
pub mod tasks;
pub mod trouble;
pub mod truth;
pub mod visitor;
pub mod wait;

pub use checks::Checks;
pub use cluster::Cluster;
pub use run::Ran;
pub use wait::{eventually, patient, secs};
