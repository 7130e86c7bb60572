#![doc = include_str!("../README.md")]

mod admission;
mod allocate;
pub mod audit;
pub mod autoscale;
mod backup;
pub mod control;
mod data_keys;
mod drain;
mod expiry;
mod gate;
mod in_place;
mod initial;
mod memory;
mod nodes;
mod place;
mod preview;
mod progress;
mod rebalance;
mod reminders;
mod reports;
mod rollout;
mod rotation;
mod settle;
mod stack_plan;
mod step;
pub mod why;

pub use admission::{admit, token_digest};
pub use backup::{restored, summary};
pub use data_keys::{DATA_KEY_LIFE, advance_keys, awaited as awaited_by_keys};
pub use drain::confirm_drained;
pub use expiry::{Expiry, expire_nodes};
pub use initial::{InitialCluster, initial_cluster};
pub use memory::Memory;
pub use nodes::{
    NewNode, NodeReport, NodeWord, add_node, describe_nodes, record_node_states, sole_manager,
};
pub use preview::preview;
pub use progress::stack_progress;
pub use rebalance::{REBALANCE_LABEL, is_automatic};
pub use reminders::remind;
pub use reports::record_statuses;
pub use rollout::advance_stacks;
pub use rotation::{RENEWAL_PATIENCE, RENEWALS_MAX, advance_root, follows_root, renewal_due};
pub use settle::{Resting, settle_stacks};
pub use stack_plan::plan_stack;
pub use step::{Step, reconcile};
