#![doc = include_str!("../README.md")]

pub mod bundle;
pub mod capabilities;
pub mod cgroup;
pub mod client;
pub mod config;
mod container;
mod dns;
#[doc(hidden)]
pub mod entry;
pub mod exit;
mod failure;
mod health;
mod hello;
mod init;
pub mod launcher;
mod log;
mod prepare;
mod profile;
pub mod protocol;
mod seccomp;
pub mod stdcopy;
mod streams;
mod supervisor;
mod sweep;
mod sys;
pub mod time;
pub mod userns;

pub use container::replaced as replace;

pub use client::{ClientError, ExecStream, ShimClient, Subscription};
pub use config::ShimConfig;
pub use exit::ExitRecord;
pub use launcher::{HeldNamespace, InjectedBytes, Launcher, Prepared, StartError};
pub use log::FAILED as LOG_FAILED;
pub use sweep::sweep;
