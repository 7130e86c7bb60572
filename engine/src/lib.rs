#![doc = include_str!("../README.md")]

mod build;
mod cdi;
mod clock;
mod config;
mod container;
mod engine;
mod error;
mod events;
mod extras;
mod filters;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod image;
mod locks;
mod names;
mod network;
mod options;
mod record;
mod registry;
mod shim_binary;
mod streams;
mod tree;
mod turns;
pub mod types;
pub mod userns;
mod volume;

pub use build::BuildOptions;
pub use clock::{parse_go_duration, parse_moment};
pub use config::{AddressPool, EngineConfig, RegistryConfig};
pub use container::{ContainerWaiter, ReservedExec};
pub use engine::Engine;
pub use error::{EngineError, Kind, Result};
pub use events::EventStream;
pub use extras::{
    CreateExtras, DnsPorts, HostsEntry, InjectedFile, InjectedVariable, Prepared, StartExtras,
};
pub use filters::Filters;
pub use image::parse_platform;
pub use names::{random_id, random_name};
pub use network::{Guest, GuestEndpoint, GuestIdentity, SharedNetworks};
pub use options::{
    AttachOptions, CommitOptions, DiskUsage, EngineInfo, EventQuery, ExecStart, ImageRemoveOptions,
    ImportOptions, ListOptions, LoadOptions, LogOptions, Pruned, PullOptions, PutArchiveOptions,
    RegistryAuth, RemoveOptions, StopOptions, WaitCondition,
};
pub use registry::{
    Claim, Holder, Offer, OwnedImage, Peers, Refusal, SearchResult, Verdict, newest, newest_own,
    with_credentials,
};
pub use shim_binary::SHIM;
pub use skep_shim::time::since_boot;
pub use streams::{
    Attachment, ByteStream, LogFrame, LogStream, OutputFrame, OutputStream, Progress, StatsStream,
    StdStream,
};
