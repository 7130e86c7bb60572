#![doc = include_str!("../README.md")]

pub mod allocate;
pub mod autoscale;
pub mod enforce;
pub mod homes;
pub mod reap;
pub mod schedule;
pub mod service;

pub use schedule::{NodeTable, Outcome, schedule};
pub use service::{Action, NewTask, Plan, ServiceView, new_task, plan_service};
