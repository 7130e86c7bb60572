//! What is kept of a container, on disk and in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use skep_model::Timestamp;
use skep_shim::userns::IdMap;

use crate::extras::CreateExtras;
use crate::image::Digest;
use crate::types::{ContainerConfig, EndpointSettings, HostConfig, MountPoint, PortMap};

/// The record of one container: `containers/<id>/container.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    /// Without a slash.
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    /// The create body merged with the image's configuration.
    pub(crate) config: ContainerConfig,
    pub(crate) host_config: HostConfig,
    pub(crate) extras: CreateExtras,
    pub(crate) image_id: Digest,
    /// The image's layers, base first; kept so that the container goes on when
    /// the image is removed.
    pub(crate) chain: Vec<Digest>,
    /// `linux`.
    pub(crate) platform: String,
    /// Mounts other than tmpfs of `HostConfig`, in the order they are made.
    pub(crate) mounts: Vec<MountRecord>,
    /// Networks by name: what was asked for, and the endpoint while it runs.
    pub(crate) networks: BTreeMap<String, EndpointSettings>,
    /// Its interfaces while it runs, by network.
    #[serde(default)]
    pub(crate) interfaces: BTreeMap<String, String>,
    /// The endpoint by which it leaves, when it is on shared networks alone.
    #[serde(default)]
    pub(crate) gateway: Option<EndpointSettings>,
    /// Ports as they are bound while it runs.
    #[serde(default)]
    pub(crate) ports: PortMap,
    pub(crate) state: State,
    /// Restarts by policy since the last start by hand.
    pub(crate) restart_count: i64,
    /// Stopped by somebody, so `unless-stopped` does not start it again.
    pub(crate) stopped_by_hand: bool,
    /// Ids of the host that its users are; `None` without a user namespace.
    #[serde(default)]
    pub(crate) ids: Option<IdMap>,
    /// The present run was given files from memory, so only whoever has them can
    /// start it again.
    #[serde(default)]
    pub(crate) has_injected: bool,
    /// Variables of the present run whose values are in its shim's memory alone.
    #[serde(default)]
    pub(crate) hidden_variables: Vec<String>,
    /// The ids its present run has: its own or those of the container it joined.
    #[serde(default)]
    pub(crate) run_ids: Option<IdMap>,
    /// While it is being removed: whether its anonymous volumes go too.
    #[serde(default)]
    pub(crate) removes_volumes: bool,
}

/// A bind mount or volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MountRecord {
    pub(crate) point: MountPoint,
    /// Where it comes from on the host.
    pub(crate) source: PathBuf,
    /// What of it is mounted, if not all. Links there are the container's, and must not
    /// lead out of it.
    pub(crate) subpath: PathBuf,
    /// Made by a `VOLUME` or a mount without a name: goes with the container.
    pub(crate) anonymous: bool,
    /// An empty volume is filled with what the image has there.
    pub(crate) copy_up: bool,
    pub(crate) non_recursive: bool,
    /// Make a missing source directory (`-v` and `create-mountpoint`).
    pub(crate) make_source: bool,
    /// A tmpfs with these options, instead of a bind.
    pub(crate) tmpfs: Option<String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    #[default]
    Created,
    Running,
    Paused,
    /// Ended, and waits to be started again by policy.
    Restarting,
    Exited,
    Removing,
    /// Could not be removed.
    Dead,
}

impl Status {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }

    /// Whether there is a process.
    pub(crate) const fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// What docker calls running: with a process, or about to have one again.
    pub(crate) const fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// The changing part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) status: Status,
    pub(crate) pid: i64,
    pub(crate) exit_code: i64,
    pub(crate) oom_killed: bool,
    pub(crate) error: String,
    pub(crate) started_at: Timestamp,
    pub(crate) finished_at: Timestamp,
}

impl ContainerRecord {
    /// Entrypoint and command as one list.
    pub(crate) fn command(&self) -> Vec<String> {
        let entrypoint = self.config.entrypoint.iter().flat_map(|words| &words.0);
        let command = self.config.cmd.iter().flat_map(|words| &words.0);
        entrypoint.chain(command).cloned().collect()
    }
}
