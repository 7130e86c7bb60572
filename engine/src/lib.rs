#![doc = include_str!("../README.md")]

mod config;
mod engine;
mod error;
mod extras;
mod filters;
mod options;
mod streams;
mod surface;
pub mod types;

pub use config::{AddressPool, EngineConfig, RegistryConfig};
pub use engine::Engine;
pub use error::{EngineError, Kind, Result};
pub use extras::{CreateExtras, DnsPorts, HostsEntry, InjectedFile, Prepared, StartExtras};
pub use filters::Filters;
pub use options::{
    AttachOptions, CommitOptions, DiskUsage, EngineInfo, EventQuery, ExecStart, ImageRemoveOptions,
    ImportOptions, ListOptions, LogOptions, Pruned, PullOptions, RegistryAuth, RemoveOptions,
    StopOptions, WaitCondition,
};
pub use streams::{
    Attachment, ByteStream, LogFrame, LogStream, OutputFrame, OutputStream, Progress, StatsStream,
    StdStream,
};
pub use surface::{ContainerWaiter, EventStream};
