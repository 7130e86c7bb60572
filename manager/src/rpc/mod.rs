//! The services that a manager's listener offers, one file each.

pub mod attach;
pub mod ca;
pub mod control;
pub mod dispatcher;
pub mod exec;
pub mod images;
pub mod logs;
pub mod membership;
pub mod raft;
pub mod secrets;
