//! `docker create`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::record::{ContainerRecord, State};
use super::{Container, merge, validate};
use crate::clock;
use crate::engine::{Engine, is_unified};
use crate::error::{EngineError, Result};
use crate::extras::CreateExtras;
use crate::image::manifest::host_platform;
use crate::names;
use crate::network::ops::asked;
use crate::record as file;
use crate::streams::blocking;
use crate::types::{
    ContainerConfig, ContainerCreated, EndpointSettings, HostConfig, NetworkInspect, StrSlice,
};

/// Tries for a generated name that nobody has.
const NAME_TRIES: usize = 64;

impl Engine {
    /// Makes a container of an image that is here. Without a name it gets one.
    pub async fn container_create(
        &self,
        name: Option<&str>,
        config: ContainerConfig,
        extras: CreateExtras,
    ) -> Result<ContainerCreated> {
        let engine = self.shared();
        let name = name.map(str::to_owned);
        blocking(move || engine.create_container(name.as_deref(), config, extras)).await
    }

    pub(crate) fn create_container(
        &self,
        name: Option<&str>,
        mut config: ContainerConfig,
        extras: CreateExtras,
    ) -> Result<ContainerCreated> {
        let mut host = config.host_config.take().unwrap_or_default();
        let networking = config.networking_config.take().unwrap_or_default();
        let mut discarded = discard(&mut host);
        self.fill(&mut host);
        // What is wrong in itself is told before an image is missed: clients pull what is missing.
        validate::create(&config, &host)?;
        if config.image.is_empty() {
            let words = |list: &Option<StrSlice>| list.as_ref().map_or(0, |list| list.0.len());
            return Err(EngineError::invalid(
                match words(&config.entrypoint) + words(&config.cmd) {
                    0 => "no command specified",
                    _ => "no image specified: containers without an image are not supported",
                },
            ));
        }
        // No layer may be swept between here and the record.
        let _activity = self.images.activity();
        let image = self.images.find(&config.image)?;
        merge::merge(&mut config, &image.config.config)?;
        let mut warnings = validate::create(&config, &host)?;
        // Until the record is in the index, nobody else may choose the same ids.
        let _choosing = (host.userns_mode == "private").then(|| self.private_ids.lock());
        let ids = self.ids_for(&host)?;
        if host.network_mode == "container:" {
            return Err(EngineError::invalid(
                "invalid network mode: invalid container format container:<name|id>",
            ));
        }
        // Whether the container whose namespaces are joined exists is for the start to say: clients
        // take "not found" here for an image to pull.
        let id = names::new_id(&mut rand::rng());
        if config.hostname.is_empty() {
            config.hostname = match host.network_mode.as_str() {
                "host" => nix::unistd::gethostname()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                _ => id[..12].to_owned(),
            };
        }
        let given: BTreeMap<String, EndpointSettings> = networking
            .endpoints_config
            .into_iter()
            .map(|(name, endpoint)| (name, endpoint.unwrap_or_default()))
            .collect();
        let networks = match &extras.netns {
            Some(_) => extras.networks.clone(),
            None => self.choose_networks(&config, &host, given)?,
        };
        self.check_links(&host)?;
        let name = self.reserve_name(name, &id)?;
        let record = ContainerRecord {
            id: id.clone(),
            name: name.clone(),
            created: clock::now(),
            image_id: image.id().clone(),
            chain: image.chain.clone(),
            platform: match image.config.os.as_str() {
                "" => host_platform().os,
                os => os.to_owned(),
            },
            mounts: Vec::new(),
            networks,
            interfaces: BTreeMap::new(),
            gateway: None,
            ports: BTreeMap::new(),
            state: State::default(),
            restart_count: 0,
            stopped_by_hand: false,
            ids,
            has_injected: false,
            hidden_variables: Vec::new(),
            run_ids: None,
            removes_volumes: false,
            config,
            host_config: host,
            extras,
        };
        let made = self.make_container(record);
        if made.is_err() {
            self.containers.release(&name, &id);
            let (directory, runtime) = self.container_directories(&id);
            super::owned::remove_leftover(&directory, &self.volumes, &BTreeSet::new())?;
            file::remove_tree(&runtime)?;
        }
        let container = made?;
        self.container_event(&container, "create", &[]);
        warnings.append(&mut discarded);
        Ok(ContainerCreated { id, warnings })
    }

    fn make_container(&self, mut record: ContainerRecord) -> Result<Arc<Container>> {
        let (directory, runtime) = self.container_directories(&record.id);
        file::make_directory(&directory, 0o710)?;
        file::make_directory(&runtime, 0o700)?;
        let mounts = self.plan_mounts(&record.config, &record.host_config)?;
        let anonymous: Vec<&str> = mounts
            .iter()
            .filter(|mount| mount.record.anonymous)
            .map(|mount| mount.record.point.name.as_str())
            .collect();
        super::owned::note(&directory, &anonymous)?;
        record.mounts = self.make_mounts(mounts)?;
        self.make_root(&directory, &record)?;
        let container = Arc::new(Container::new(record, directory, runtime));
        // The record last: a directory without one is not a container.
        container.change(|_| ())?;
        self.containers.insert(Arc::clone(&container));
        Ok(container)
    }

    /// Fills what a request leaves to the daemon.
    fn fill(&self, host: &mut HostConfig) {
        if host.log_config.kind.is_empty() {
            host.log_config
                .kind
                .clone_from(&self.config.default_log.kind);
            if host.log_config.config.is_empty() {
                host.log_config
                    .config
                    .clone_from(&self.config.default_log.config);
            }
        }
        if matches!(host.network_mode.as_str(), "" | "default") {
            host.network_mode = "bridge".into();
        }
        if host.shm_size == 0 {
            host.shm_size = self.config.default_shm_bytes;
        }
        if host.ipc_mode.is_empty() {
            host.ipc_mode = "private".into();
        }
        if host.cgroupns_mode.is_empty() {
            host.cgroupns_mode = if is_unified() { "private" } else { "host" }.into();
        }
        if host.restart_policy.name.is_empty() && host.restart_policy.maximum_retry_count == 0 {
            host.restart_policy.name = "no".into();
        }
        if host.runtime.is_empty() {
            host.runtime = "runc".into();
        }
        // What clients send for a flag that was not given.
        host.pids_limit = host.pids_limit.filter(|limit| *limit > 0);
        host.memory_swappiness = host.memory_swappiness.filter(|part| *part != -1);
        // Cgroups of version 2 have no such switch.
        host.oom_kill_disable = match is_unified() {
            true => host.oom_kill_disable.filter(|disable| *disable),
            false => host.oom_kill_disable.or(Some(false)),
        };
        if host.memory > 0 && host.memory_swap == 0 {
            host.memory_swap = host.memory.saturating_mul(2);
        }
        let paths = skep_shim::ShimConfig::new(
            "",
            skep_shim::config::Rootfs {
                source: skep_shim::config::RootSource::Directory { path: "/".into() },
                merged: "/".into(),
                readonly: false,
            },
            skep_shim::config::Paths::in_directory(std::path::Path::new("/")),
        );
        let unmasked = host.privileged;
        host.masked_paths.get_or_insert_with(|| match unmasked {
            true => Vec::new(),
            false => paths.masked_paths,
        });
        host.readonly_paths.get_or_insert_with(|| match unmasked {
            true => Vec::new(),
            false => paths.readonly_paths,
        });
    }

    /// A network of this host; the start of its id does only where that names no shared network.
    fn local_network(&self, given: &str) -> Result<Arc<NetworkInspect>> {
        match self.networks.exact(given) {
            Some(network) => Ok(network),
            None if self.is_shared_name(given) => Err(EngineError::no_such_network(given)),
            None => self.networks.find(given),
        }
    }

    /// The networks a container is on, by name, with what is asked of each.
    fn choose_networks(
        &self,
        config: &ContainerConfig,
        host: &HostConfig,
        given: BTreeMap<String, EndpointSettings>,
    ) -> Result<BTreeMap<String, EndpointSettings>> {
        let mode = host.network_mode.as_str();
        if mode.starts_with("container:") || config.network_disabled {
            return Ok(BTreeMap::new());
        }
        let mut networks = BTreeMap::new();
        for (name, endpoint) in given {
            // A network may be made between create and start: only the start wants it.
            let Ok(network) = self.local_network(&name) else {
                networks.insert(name, asked(endpoint));
                continue;
            };
            let has_address = endpoint.ipam_config.as_ref().is_some_and(|asked| {
                !asked.ipv4_address.is_empty() || !asked.ipv6_address.is_empty()
            });
            if has_address && crate::network::is_predefined(&network.name) {
                return Err(EngineError::invalid(
                    "user specified IP address is supported on user defined networks only",
                ));
            }
            if matches!(mode, "host" | "none") && network.name != mode {
                return Err(EngineError::invalid(
                    "conflicting options: host or none type networking can't be used with other networks",
                ));
            }
            let mut endpoint = asked(endpoint);
            endpoint.network_id.clone_from(&network.id);
            networks.insert(network.name.clone(), endpoint);
        }
        let (main, network_id) = match self.local_network(mode) {
            Ok(network) => (network.name.clone(), network.id.clone()),
            Err(_) => (mode.to_owned(), String::new()),
        };
        let endpoint = networks.entry(main).or_insert_with(|| EndpointSettings {
            network_id,
            ..EndpointSettings::default()
        });
        if endpoint.mac_address.is_empty() {
            endpoint.mac_address.clone_from(&config.mac_address);
        }
        if networks.len() > crate::network::SLOTS {
            return Err(EngineError::invalid(format!(
                "a container can be on at most {} networks",
                crate::network::SLOTS
            )));
        }
        Ok(networks)
    }

    fn reserve_name(&self, name: Option<&str>, id: &str) -> Result<String> {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            let plain = name.strip_prefix('/').unwrap_or(name);
            if !names::is_valid_name(plain) {
                return Err(EngineError::invalid(format!(
                    "Invalid container name ({name}), only {} are allowed",
                    names::NAME_PATTERN
                )));
            }
            self.containers.reserve(plain, id)?;
            return Ok(plain.to_owned());
        }
        for retry in 0..NAME_TRIES {
            let name = names::generated_name(&mut rand::rng(), retry);
            if self.containers.reserve(&name, id).is_ok() {
                return Ok(name);
            }
        }
        let name = id[..12].to_owned();
        self.containers.reserve(&name, id)?;
        Ok(name)
    }

    /// Tells what happened to a container.
    pub(crate) fn container_event(
        &self,
        container: &Container,
        action: &str,
        more: &[(&str, String)],
    ) {
        let mut attributes = container.attributes();
        for (key, value) in more {
            attributes.insert((*key).to_owned(), value.clone());
        }
        self.events.publish(crate::events::event(
            "container",
            action,
            container.id.clone(),
            attributes,
        ));
    }
}

/// Takes out limits that are not set here, with a warning for each as dockerd has for kernels without them.
fn discard(host: &mut HostConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if !host.blkio_weight_device.is_empty() && !skep_shim::cgroup::has_device_weights() {
        host.blkio_weight_device = Vec::new().into();
        warnings.push(
            "Your kernel does not support Block I/O weight_device or the device is not mounted. Weight-device discarded."
                .to_owned(),
        );
    }
    if std::mem::take(&mut host.kernel_memory_tcp) > 0 {
        warnings.push(
            "Limits of kernel memory for TCP are not supported. Limitation discarded.".to_owned(),
        );
    }
    warnings
}
