//! The engine itself: what it owns, how it opens and closes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use skep_net::Host;
use skep_shim::Launcher;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::build::caches::Caches;
use crate::config::EngineConfig;
use crate::container::{Container, ContainerIndex, ContainerRecord, ExecTable};
use crate::error::{EngineError, IoContext as _, Result};
use crate::events::{EventBus, EventStream, event};
use crate::filters::Filters;
use crate::image::{Digest, ImageStore};
use crate::locks::{Ordered, Rank};
use crate::network::{NetworkStore, SharedNetworks};
use crate::options::{DiskUsage, EngineInfo, EventQuery, ListOptions};
use crate::record;
use crate::registry::{Peers, Registries, pull::Downloads};
use crate::streams::blocking;
use crate::types::EventMessage;
use crate::volume::VolumeStore;

/// The container engine of one host. Every call may be made from any number of
/// tasks at once.
///
/// Containers are named by id, by a prefix of an id that only one has, or by name
/// with or without `/`.
pub struct Engine {
    pub(crate) config: EngineConfig,
    itself: Weak<Engine>,
    pub(crate) containers: ContainerIndex,
    pub(crate) execs: ExecTable,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) registries: Registries,
    pub(crate) downloads: Downloads,
    pub(crate) volumes: VolumeStore,
    pub(crate) builds: Caches,
    pub(crate) networks: NetworkStore,
    pub(crate) net: Arc<Host>,
    /// Who keeps the networks that are not of this host alone.
    pub(crate) shared_networks: Mutex<Option<Arc<dyn SharedNetworks>>>,
    /// Who else may have images.
    pub(crate) peers: Mutex<Option<Arc<dyn Peers>>>,
    pub(crate) events: EventBus,
    pub(crate) launcher: Launcher,
    /// Held while a container with ids of its own is made.
    pub(crate) private_ids: Ordered<()>,
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Held as long as the engine is open: one engine per data root.
    _lock: Flock<File>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("data_root", &self.config.data_root)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the engine with a data plane of its own. See [`Engine::open_with`].
    pub async fn open(config: EngineConfig) -> Result<Arc<Self>> {
        let net = Host::open(skep_net::HostConfig::new(&config.exec_root))
            .map_err(|error| EngineError::internal("cannot open the data plane").because(error))?;
        Self::open_with(config, Arc::new(net)).await
    }

    /// Opens the engine: reads its records, finds the containers that run, notes
    /// those that ended meanwhile, clears what a crash left half made, restores
    /// networks, and starts containers by their restart policies.
    pub async fn open_with(config: EngineConfig, net: Arc<Host>) -> Result<Arc<Self>> {
        let engine = blocking(move || Self::assemble(config, net)).await?;
        engine.adopt().await?;
        engine.clear_builds().await?;
        Ok(engine)
    }

    fn assemble(mut config: EngineConfig, net: Arc<Host>) -> Result<Arc<Self>> {
        record::make_directory(&config.data_root, 0o711)?;
        record::make_directory(&config.exec_root, 0o711)?;
        for root in [&mut config.data_root, &mut config.exec_root] {
            *root = root
                .canonicalize()
                .during(|| format!("cannot open `{}`", root.display()))?;
        }
        let lock = lock(&config.data_root.join("engine.lock"))?;
        for directory in ["containers", "networks"] {
            record::make_directory(&config.data_root.join(directory), 0o710)?;
        }
        for directory in ["containers", "dns"] {
            record::make_directory(&config.exec_root.join(directory), 0o711)?;
        }
        let volumes = VolumeStore::open(&config.data_root.join("volumes"))?;
        let records = read_containers(&config, &volumes)?;
        let in_use: BTreeSet<Digest> = records
            .iter()
            .flat_map(|record| record.chain.iter().cloned())
            .collect();
        let images = Arc::new(ImageStore::open(&config.data_root, &in_use)?);
        let builds = Caches::open(&config.data_root)?;
        let networks = NetworkStore::open(&config)?;
        let launcher =
            Launcher::new(crate::shim_binary::SHIM).during(|| "cannot load the shim".into())?;
        let engine = Arc::new_cyclic(|itself| Self {
            itself: itself.clone(),
            containers: ContainerIndex::default(),
            execs: ExecTable::default(),
            images,
            registries: Registries::new(config.registries.clone(), &config.version),
            downloads: Downloads::default(),
            volumes,
            builds,
            networks,
            net,
            shared_networks: Mutex::default(),
            peers: Mutex::default(),
            events: EventBus::default(),
            launcher,
            private_ids: Ordered::new(Rank::PrivateIds, ()),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            _lock: lock,
            config,
        });
        for record in records {
            let (directory, runtime) = engine.container_directories(&record.id);
            engine.containers.reserve(&record.name, &record.id)?;
            engine
                .containers
                .insert(Arc::new(Container::new(record, directory, runtime)));
        }
        Ok(engine)
    }

    /// Ends our own tasks and streams. Containers go on; the next `open` finds
    /// them. Calls made afterwards may fail.
    pub async fn close(&self) {
        self.closing.cancel();
        self.events.close();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// This engine for a task or thread of its own.
    pub(crate) fn shared(&self) -> Arc<Self> {
        self.itself
            .upgrade()
            .expect("a method runs, so somebody holds the engine")
    }

    /// Runs a task that ends at the latest when the engine closes.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// The directory of a container's data and that of its runtime state.
    pub(crate) fn container_directories(&self, id: &str) -> (PathBuf, PathBuf) {
        (
            self.config.data_root.join("containers").join(id),
            self.config.exec_root.join("containers").join(id),
        )
    }

    /// Remembered and future events.
    pub fn events(&self, query: EventQuery) -> Result<EventStream> {
        self.events.subscribe(query)
    }

    /// Puts an event of somebody else (services, nodes, …) on the bus. Without a
    /// time it happened now.
    pub fn publish_event(&self, event: EventMessage) {
        self.events.publish(event);
    }

    pub(crate) fn prune_event(&self, kind: &str, reclaimed: i64) {
        let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        self.events.publish(event(kind, "prune", "", attributes));
    }

    /// Counts and settings for `docker info`.
    pub fn info(&self) -> EngineInfo {
        let containers = self.containers.all();
        let count = |test: fn(crate::container::Status) -> bool| {
            containers
                .iter()
                .filter(|container| test(container.status()))
                .count()
        };
        use crate::container::Status;
        let running = count(|status| matches!(status, Status::Running | Status::Restarting));
        let paused = count(|status| status == Status::Paused);
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let devices = crate::cdi::Devices::read(&self.config.cdi_spec_dirs);
        let row = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        EngineInfo {
            containers: containers.len(),
            containers_running: running,
            containers_paused: paused,
            containers_stopped: containers.len() - running - paused,
            images: self.images.all().len(),
            driver: "overlay2".into(),
            driver_status: vec![
                row("Backing Filesystem", &backing_file_system(&self.config)),
                row("Supports d_type", "true"),
                row("Using metacopy", "false"),
                row("Native Overlay Diff", "true"),
                row("userxattr", "false"),
            ],
            default_log_driver: self.config.default_log.kind.clone(),
            log_drivers: words(&crate::container::LOG_DRIVERS),
            volume_drivers: words(&["local"]),
            network_drivers: words(&["bridge", "host", "ipvlan", "macvlan", "null", "overlay"]),
            cgroup_version: if is_unified() { "2" } else { "1" }.into(),
            cgroup_driver: "cgroupfs".into(),
            security_options: match self.config.userns_remap {
                Some(_) => words(&["name=seccomp,profile=builtin", "name=userns"]),
                None => words(&["name=seccomp,profile=builtin"]),
            },
            cdi_spec_dirs: self
                .config
                .cdi_spec_dirs
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            cdi_devices: devices.names(),
            labels: self.config.labels.clone(),
            data_root: self.config.data_root.display().to_string(),
            events_listeners: self.events.listeners(),
            mirrors: self.config.registries.mirrors.clone(),
            insecure_registries: self.config.registries.insecure.clone(),
            warnings: devices
                .complaints
                .iter()
                .map(|complaint| format!("CDI: Error associated with spec file {complaint}"))
                .collect(),
            extra: BTreeMap::new(),
        }
    }

    /// `docker system df`.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        let containers = self
            .container_list(ListOptions {
                all: true,
                size: true,
                ..ListOptions::default()
            })
            .await?;
        let mut images = self.image_list(false, &Filters::none()).await?;
        for image in &mut images {
            let users = containers.iter().filter(|c| c.image_id == image.id).count();
            image.containers = users as i64;
            image.shared_size = self.shared_bytes(&image.id);
        }
        let engine = self.shared();
        let volumes = blocking(move || Ok(engine.volumes_with_usage())).await?;
        Ok(DiskUsage {
            layers_size: self.layer_bytes()?,
            images,
            containers,
            volumes,
            build_cache: self.build_cache().await?,
        })
    }

    /// Bytes of an image's layers that other images have too.
    pub fn shared_bytes(&self, id: &str) -> i64 {
        let all = self.images.all();
        let Some(image) = all.iter().find(|image| image.id().as_str() == id) else {
            return 0;
        };
        image
            .chain
            .iter()
            .filter(|chain| {
                all.iter()
                    .any(|other| other.id() != image.id() && other.chain.contains(chain))
            })
            .filter_map(|chain| self.images.layers.get(chain).ok().flatten())
            .map(|layer| layer.size as i64)
            .sum()
    }
}

/// Whether this host has cgroups of version 2.
pub(crate) fn is_unified() -> bool {
    fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok()
}

/// How long the lock of an engine that was killed may stay: a shim it was about
/// to start holds it until it is executed.
const LOCK_WAIT: Duration = Duration::from_secs(2);

fn lock(path: &Path) -> Result<Flock<File>> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .during(|| format!("cannot open `{}`", path.display()))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, _)) if Instant::now() < deadline => {
                file = back;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((_, error)) => {
                let root = path.parent().unwrap_or(path).display();
                return Err(EngineError::failed_precondition(format!(
                    "another engine uses `{root}`"
                ))
                .because(error));
            }
        }
    }
}

/// The records of all containers. A directory without a record was never a whole
/// container, and goes.
fn read_containers(config: &EngineConfig, volumes: &VolumeStore) -> Result<Vec<ContainerRecord>> {
    let root = config.data_root.join("containers");
    let what = || format!("cannot read `{}`", root.display());
    let (mut records, mut leftovers) = (Vec::new(), Vec::new());
    let mut is_damaged = false;
    for entry in fs::read_dir(&root).during(what)? {
        let path = entry.during(what)?.path();
        match record::load::<ContainerRecord>(&path.join("container.json")) {
            Ok(Some(record)) => records.push(record),
            Ok(None) => leftovers.push(path),
            // The others must not suffer; somebody may repair this one.
            Err(error) => {
                tracing::error!(%error, "container is damaged");
                is_damaged = true;
            }
        }
    }
    if is_damaged {
        // Which volumes it uses is not known, so nothing is cleared up.
        return Ok(records);
    }
    let used: BTreeSet<&str> = records
        .iter()
        .flat_map(|record| &record.mounts)
        .map(|mount| mount.point.name.as_str())
        .collect();
    for path in leftovers {
        crate::container::owned::remove_leftover(&path, volumes, &used)?;
    }
    Ok(records)
}

fn backing_file_system(config: &EngineConfig) -> String {
    let kind = File::open(&config.data_root)
        .ok()
        .and_then(|directory| nix::sys::statfs::fstatfs(directory.as_fd()).ok())
        .map(|stat| stat.filesystem_type());
    match kind {
        Some(nix::sys::statfs::EXT4_SUPER_MAGIC) => "extfs",
        Some(nix::sys::statfs::TMPFS_MAGIC) => "tmpfs",
        Some(nix::sys::statfs::BTRFS_SUPER_MAGIC) => "btrfs",
        Some(nix::sys::statfs::XFS_SUPER_MAGIC) => "xfs",
        Some(nix::sys::statfs::OVERLAYFS_SUPER_MAGIC) => "overlayfs",
        _ => "<unknown>",
    }
    .into()
}
