//! Arguments of engine calls that have more than two.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skep_model::Timestamp;
use skep_model::image_source::ImageSource;

use crate::filters::Filters;
use crate::types::{BuildCache, ContainerSummary, ImageConfig, ImageSummary, Platform, Volume};

/// Which containers `container_list` shows.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// The newest so many, running or not; 0 is no limit.
    pub limit: usize,
    /// Compute `SizeRw` and `SizeRootFs`.
    pub size: bool,
    pub filters: Filters,
}

/// How to stop a container.
#[derive(Debug, Clone, Default)]
pub struct StopOptions {
    /// Instead of the container's stop signal: `TERM`, `SIGTERM` or `15`.
    pub signal: Option<String>,
    /// Seconds until the kill, instead of the container's; negative is never.
    pub timeout: Option<i64>,
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Kill it if it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
}

/// How to load images.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Only images for this platform.
    pub platform: Option<Platform>,
    /// Say how far each layer is.
    pub layers: bool,
    /// The archive may name files that it does not have: they are here, or on other hosts.
    pub partial: bool,
}

/// How to unpack an archive into a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutArchiveOptions {
    /// A directory and something else never replace one another.
    pub no_overwrite_dir_non_dir: bool,
    /// Everything belongs to the container's user, whatever the archive says. Nothing changes where the
    /// container has none.
    pub copy_uid_gid: bool,
}

/// What a wait waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run now.
    #[default]
    NotRunning,
    /// It stops after now, whatever it does at the moment.
    NextExit,
    /// It is gone.
    Removed,
}

impl WaitCondition {
    /// Reads the API's spelling; empty is `not-running`.
    pub fn parse(text: &str) -> crate::error::Result<Self> {
        match text {
            "" | "not-running" => Ok(Self::NotRunning),
            "next-exit" => Ok(Self::NextExit),
            "removed" => Ok(Self::Removed),
            other => Err(crate::error::EngineError::invalid(format!(
                "invalid condition: \"{other}\""
            ))),
        }
    }
}

/// Which part of a log.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    /// Go on with what is logged from now on.
    pub follow: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Only the last so many lines; `None` is all.
    pub tail: Option<usize>,
}

/// What of a container to connect to.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Go on with what is printed from now on.
    pub stream: bool,
    /// Begin with what the log has.
    pub logs: bool,
    /// Key sequence that detaches, such as `ctrl-p,ctrl-q` (the default).
    pub detach_keys: Option<String>,
}

/// How to start an exec.
#[derive(Debug, Clone, Default)]
pub struct ExecStart {
    /// Do not connect to it.
    pub detach: bool,
    pub tty: bool,
    /// Height and width.
    pub console_size: Option<(u32, u32)>,
}

/// How to make an image of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    pub repo: String,
    /// Empty: `latest`.
    pub tag: String,
    pub comment: String,
    pub author: String,
    /// Pause it meanwhile.
    pub pause: bool,
    /// Dockerfile instructions (`CMD`, `ENV`, `EXPOSE`, …).
    pub changes: Vec<String>,
    /// Replaces the container's configuration.
    pub config: Option<ImageConfig>,
}

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// `None`: this host's.
    pub platform: Option<Platform>,
    pub auth: RegistryAuth,
    /// What is tried where there are no credentials, or the registry refuses them.
    pub other_auth: Option<RegistryAuth>,
    /// Whether other hosts are asked too, and when; `None`: the registry alone.
    pub source: Option<ImageSource>,
}

/// Credentials for a registry, as in `X-Registry-Auth`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    pub serveraddress: String,
    /// An OAuth refresh token, instead of a password.
    pub identitytoken: String,
    /// A bearer token that is sent as it is.
    pub registrytoken: String,
}

impl RegistryAuth {
    /// Whether there is nothing in it to show to a registry.
    pub fn is_empty(&self) -> bool {
        let Self {
            username,
            password: _,
            serveraddress: _,
            identitytoken,
            registrytoken,
        } = self;
        username.is_empty() && identitytoken.is_empty() && registrytoken.is_empty()
    }
}

impl std::fmt::Debug for RegistryAuth {
    /// Never shows a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// How to remove an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageRemoveOptions {
    pub force: bool,
    /// Keep untagged parents.
    pub no_prune: bool,
}

/// How to make an image of a root file system archive.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Empty: no name.
    pub repo: String,
    pub tag: String,
    pub message: String,
    pub changes: Vec<String>,
    pub platform: Option<Platform>,
}

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// From this moment on, as far as remembered.
    pub since: Option<Timestamp>,
    /// The stream ends at this moment.
    pub until: Option<Timestamp>,
    pub filters: Filters,
}

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Container ids, volume names or network names.
    pub removed: Vec<String>,
    /// Bytes.
    pub space_reclaimed: i64,
}

/// `docker system df`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskUsage {
    pub layers_size: i64,
    pub images: Vec<ImageSummary>,
    pub containers: Vec<ContainerSummary>,
    pub volumes: Vec<Volume>,
    pub build_cache: Vec<BuildCache>,
}

/// What `GET /info` needs from the engine.
#[derive(Debug, Clone, Default)]
pub struct EngineInfo {
    pub containers: usize,
    pub containers_running: usize,
    pub containers_paused: usize,
    pub containers_stopped: usize,
    pub images: usize,
    /// `overlay2`.
    pub driver: String,
    /// Rows of `info`'s storage block.
    pub driver_status: Vec<(String, String)>,
    pub default_log_driver: String,
    pub log_drivers: Vec<String>,
    pub volume_drivers: Vec<String>,
    pub network_drivers: Vec<String>,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// `cgroupfs`.
    pub cgroup_driver: String,
    /// `name=seccomp,profile=builtin` and so on.
    pub security_options: Vec<String>,
    /// Where vendors describe devices.
    pub cdi_spec_dirs: Vec<String>,
    /// Qualified names of the devices that are described there.
    pub cdi_devices: Vec<String>,
    pub labels: Vec<String>,
    pub data_root: String,
    pub events_listeners: usize,
    /// Registry mirrors and insecure registries as configured.
    pub mirrors: Vec<String>,
    pub insecure_registries: Vec<String>,
    /// Build and host facts that only make sense as text.
    pub warnings: Vec<String>,
    /// Attributes for future use by `info` (`SystemStatus`).
    pub extra: BTreeMap<String, String>,
}
