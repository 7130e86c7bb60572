//! Calls that are promised and not there yet; each answers "not implemented".

use std::sync::Arc;

use tokio::io::AsyncRead;

use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::extras::{CreateExtras, Prepared, StartExtras};
use crate::filters::Filters;
use crate::options::*;
use crate::streams::*;
use crate::types::*;

fn pending<T>() -> Result<T> {
    Err(EngineError::not_implemented("not implemented yet"))
}

/// A wait that is registered: an exit after this value was made is not missed.
#[derive(Debug)]
pub struct ContainerWaiter {}

impl ContainerWaiter {
    /// Waits for the condition.
    pub async fn wait(self) -> Result<WaitResponse> {
        pending()
    }
}

/// Events, remembered ones first.
#[derive(Debug)]
pub struct EventStream {}

impl EventStream {
    /// The next event; `None` at `until`, or when the engine closes.
    pub async fn next(&mut self) -> Option<EventMessage> {
        None
    }
}

/// Names of containers are ids, unique id prefixes, or names with or without `/`.
impl Engine {
    /// Opens the engine, adopts what runs, clears what a crash left, restarts by
    /// policy.
    pub async fn open(config: EngineConfig) -> Result<Arc<Self>> {
        let _ = config;
        pending()
    }
    /// Stops our own tasks. Containers go on.
    pub async fn close(&self) {}
    pub fn info(&self) -> EngineInfo {
        EngineInfo::default()
    }
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        pending()
    }
    /// Remembered and future events.
    pub fn events(&self, _query: EventQuery) -> Result<EventStream> {
        pending()
    }
    /// Puts an event of somebody else (services, nodes, …) on the bus. `time` 0 is now.
    pub fn publish_event(&self, _event: EventMessage) {}

    pub async fn container_create(
        self: &Arc<Self>,
        _name: Option<&str>,
        _config: ContainerConfig,
        _extras: CreateExtras,
    ) -> Result<ContainerCreated> {
        pending()
    }
    /// Makes namespaces and mounts, and stops short of running the program.
    pub async fn container_prepare(
        self: &Arc<Self>,
        _name: &str,
        _extras: StartExtras,
    ) -> Result<Prepared> {
        pending()
    }
    /// Starts it; after `container_prepare`, lets it go. `NotModified` if it runs.
    pub async fn container_start(
        self: &Arc<Self>,
        _name: &str,
        _extras: StartExtras,
    ) -> Result<()> {
        pending()
    }
    /// `NotModified` if it does not run.
    pub async fn container_stop(&self, _name: &str, _options: StopOptions) -> Result<()> {
        pending()
    }
    pub async fn container_restart(
        self: &Arc<Self>,
        _name: &str,
        _options: StopOptions,
    ) -> Result<()> {
        pending()
    }
    /// `signal` empty: KILL.
    pub async fn container_kill(&self, _name: &str, _signal: &str) -> Result<()> {
        pending()
    }
    pub async fn container_pause(&self, _name: &str) -> Result<()> {
        pending()
    }
    pub async fn container_unpause(&self, _name: &str) -> Result<()> {
        pending()
    }
    pub async fn container_rename(&self, _name: &str, _new_name: &str) -> Result<()> {
        pending()
    }
    /// Warnings.
    pub async fn container_update(
        &self,
        _name: &str,
        _update: UpdateConfig,
    ) -> Result<Vec<String>> {
        pending()
    }
    /// Registered when this returns, so it is safe to start the container then.
    pub fn container_wait(
        &self,
        _name: &str,
        _condition: WaitCondition,
    ) -> Result<ContainerWaiter> {
        pending()
    }
    pub async fn container_remove(
        self: &Arc<Self>,
        _name: &str,
        _options: RemoveOptions,
    ) -> Result<()> {
        pending()
    }
    pub async fn container_prune(self: &Arc<Self>, _filters: &Filters) -> Result<Pruned> {
        pending()
    }
    pub async fn container_list(&self, _options: ListOptions) -> Result<Vec<ContainerSummary>> {
        pending()
    }
    pub async fn container_inspect(&self, _name: &str, _size: bool) -> Result<ContainerInspect> {
        pending()
    }
    /// `args` as for ps(1), empty for `-ef`.
    pub async fn container_top(&self, _name: &str, _args: &str) -> Result<Top> {
        pending()
    }
    /// One reading; with `one_shot` without waiting a second for a previous one.
    pub async fn container_stats(&self, _name: &str, _one_shot: bool) -> Result<Stats> {
        pending()
    }
    /// A reading a second.
    pub async fn container_stats_stream(self: &Arc<Self>, _name: &str) -> Result<StatsStream> {
        pending()
    }
    /// The container's tty flag (raw or framed), and the lines.
    pub async fn container_logs(
        self: &Arc<Self>,
        _name: &str,
        _options: LogOptions,
    ) -> Result<(bool, LogStream)> {
        pending()
    }
    pub async fn container_attach(
        self: &Arc<Self>,
        _name: &str,
        _options: AttachOptions,
    ) -> Result<Attachment> {
        pending()
    }
    pub async fn container_resize(&self, _name: &str, _height: u32, _width: u32) -> Result<()> {
        pending()
    }
    pub async fn container_changes(&self, _name: &str) -> Result<Vec<Change>> {
        pending()
    }
    /// The root file system as a tar archive.
    pub async fn container_export(&self, _name: &str) -> Result<ByteStream> {
        pending()
    }
    pub async fn container_path_stat(&self, _name: &str, _path: &str) -> Result<PathStat> {
        pending()
    }
    pub async fn container_get_archive(
        &self,
        _name: &str,
        _path: &str,
    ) -> Result<(PathStat, ByteStream)> {
        pending()
    }
    pub async fn container_put_archive<R>(
        &self,
        _name: &str,
        _path: &str,
        _no_overwrite_dir_non_dir: bool,
        _archive: R,
    ) -> Result<()>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        pending()
    }
    /// The new image's id.
    pub async fn container_commit(&self, _name: &str, _options: CommitOptions) -> Result<String> {
        pending()
    }

    /// The exec's id.
    pub async fn exec_create(&self, _container: &str, _config: ExecConfig) -> Result<String> {
        pending()
    }
    /// `None` when detached.
    pub async fn exec_start(
        self: &Arc<Self>,
        _id: &str,
        _options: ExecStart,
    ) -> Result<Option<Attachment>> {
        pending()
    }
    pub async fn exec_resize(&self, _id: &str, _height: u32, _width: u32) -> Result<()> {
        pending()
    }
    pub async fn exec_inspect(&self, _id: &str) -> Result<ExecInspect> {
        pending()
    }

    /// Pulls `name[:tag][@digest]`; the image's id. Present by digest: no request is made.
    pub async fn image_pull(
        &self,
        _reference: &str,
        _options: PullOptions,
        _progress: Progress,
    ) -> Result<String> {
        pending()
    }
    pub async fn image_push(
        &self,
        _reference: &str,
        _auth: RegistryAuth,
        _progress: Progress,
    ) -> Result<()> {
        pending()
    }
    pub async fn image_load<R>(&self, _archive: R, _progress: Progress) -> Result<()>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        pending()
    }
    pub async fn image_save(&self, _names: &[String]) -> Result<ByteStream> {
        pending()
    }
    /// The image's id.
    pub async fn image_import<R>(&self, _archive: R, _options: ImportOptions) -> Result<String>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        pending()
    }
    pub async fn image_tag(&self, _source: &str, _target: &str) -> Result<()> {
        pending()
    }
    pub async fn image_remove(
        &self,
        _name: &str,
        _options: ImageRemoveOptions,
    ) -> Result<Vec<DeleteItem>> {
        pending()
    }
    /// `all` shows intermediate images too; we have none.
    pub async fn image_list(&self, _all: bool, _filters: &Filters) -> Result<Vec<ImageSummary>> {
        pending()
    }
    pub async fn image_inspect(&self, _name: &str) -> Result<ImageInspect> {
        pending()
    }
    pub async fn image_history(&self, _name: &str) -> Result<Vec<HistoryItem>> {
        pending()
    }
    pub async fn image_prune(&self, _filters: &Filters) -> Result<(Vec<DeleteItem>, i64)> {
        pending()
    }
    pub async fn distribution_inspect(
        &self,
        _reference: &str,
        _auth: RegistryAuth,
    ) -> Result<DistributionInspect> {
        pending()
    }
    /// Makes `skep/hello:latest` if it is not there; its id.
    pub async fn ensure_hello_image(&self) -> Result<String> {
        pending()
    }
    /// Tries credentials at a registry (`docker login`); its status text.
    pub async fn registry_login(&self, _auth: RegistryAuth) -> Result<String> {
        pending()
    }

    pub async fn volume_create(&self, _volume: VolumeCreate) -> Result<Volume> {
        pending()
    }
    pub async fn volume_list(&self, _filters: &Filters) -> Result<Vec<Volume>> {
        pending()
    }
    pub async fn volume_inspect(&self, _name: &str) -> Result<Volume> {
        pending()
    }
    pub async fn volume_remove(&self, _name: &str, _force: bool) -> Result<()> {
        pending()
    }
    pub async fn volume_prune(&self, _filters: &Filters) -> Result<Pruned> {
        pending()
    }

    /// The network's id and a warning (or empty).
    pub async fn network_create(&self, _network: NetworkCreate) -> Result<(String, String)> {
        pending()
    }
    pub async fn network_list(&self, _filters: &Filters) -> Result<Vec<NetworkInspect>> {
        pending()
    }
    pub async fn network_inspect(&self, _name: &str) -> Result<NetworkInspect> {
        pending()
    }
    pub async fn network_remove(&self, _name: &str) -> Result<()> {
        pending()
    }
    pub async fn network_connect(
        &self,
        _name: &str,
        _container: &str,
        _endpoint: EndpointSettings,
    ) -> Result<()> {
        pending()
    }
    pub async fn network_disconnect(
        &self,
        _name: &str,
        _container: &str,
        _force: bool,
    ) -> Result<()> {
        pending()
    }
    pub async fn network_prune(&self, _filters: &Filters) -> Result<Pruned> {
        pending()
    }
}
