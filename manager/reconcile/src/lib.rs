#![doc = include_str!("../README.md")]

mod allocate;
pub mod audit;
pub mod control;
mod data_keys;
mod drain;
mod initial;
mod memory;
mod nodes;
mod place;
mod preview;
mod reports;
mod step;

pub use data_keys::{DATA_KEY_LIFE, advance_keys, awaited as awaited_by_keys};
pub use drain::confirm_drained;
pub use initial::{InitialCluster, initial_cluster};
pub use memory::Memory;
pub use nodes::{
    NewNode, NodeReport, NodeWord, add_node, describe_nodes, record_node_states, sole_manager,
};
pub use preview::preview;
pub use reports::record_statuses;
pub use step::{Step, reconcile};
