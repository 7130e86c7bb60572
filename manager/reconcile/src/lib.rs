#![doc = include_str!("../README.md")]

mod admission;
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
mod rebalance;
mod reports;
mod rotation;
mod step;
pub mod why;

pub use admission::{admit, token_digest};
pub use data_keys::{DATA_KEY_LIFE, advance_keys, awaited as awaited_by_keys};
pub use drain::confirm_drained;
pub use initial::{InitialCluster, initial_cluster};
pub use memory::Memory;
pub use nodes::{
    NewNode, NodeReport, NodeWord, add_node, describe_nodes, record_node_states, sole_manager,
};
pub use preview::preview;
pub use rebalance::{REBALANCE_LABEL, is_automatic};
pub use reports::record_statuses;
pub use rotation::{RENEWAL_PATIENCE, RENEWALS_MAX, advance_root, follows_root, renewal_due};
pub use step::{Step, reconcile};
