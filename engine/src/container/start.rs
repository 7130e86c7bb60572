//! `docker start`, in two phases: prepare, then let go.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use skep_shim::config::{InjectedFile as ShimFile, InjectedVariable as ShimVariable, Paths};
use skep_shim::{InjectedBytes, StartError};

use super::record::{ContainerRecord, Status};
use super::spec::{self, Surroundings};
use super::{Container, Prepared, files, monitor, validate};
use crate::cdi;
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Kind, Result};
use crate::extras::{self, DnsPorts, HostsEntry, StartExtras};
use crate::network::Attached;
use crate::record as file;
use crate::streams::blocking;

impl Engine {
    /// Makes a container's namespaces and its shim, and stops short of running
    /// the program. The caller may now install rules for the DNS ports, attach,
    /// and then call [`Engine::container_start`]. A container that is prepared is
    /// prepared anew. When the engine ends before the start, nothing is left.
    pub async fn container_prepare(
        &self,
        name: &str,
        extras: StartExtras,
    ) -> Result<extras::Prepared> {
        let container = self.containers.find(name)?;
        let _turn = container.turn().await;
        startable(&container)?;
        self.prepare(&container, extras).await
    }

    /// Starts a container, or lets a prepared one go. `NotModified` if it runs.
    /// Returns when its program was executed.
    pub async fn container_start(&self, name: &str, extras: StartExtras) -> Result<()> {
        let container = self.containers.find(name)?;
        let _turn = container.turn().await;
        startable(&container)?;
        has_what_it_needs(&container, &extras)?;
        container
            .alter(|inner| {
                inner.record.stopped_by_hand = false;
                inner.record.restart_count = 0;
                inner.backoff = super::restart::Backoff::default();
            })
            .await?;
        self.start(&container, extras).await
    }

    /// Starts a container. The caller has its turn.
    pub(super) async fn start(
        &self,
        container: &Arc<Container>,
        extras: StartExtras,
    ) -> Result<()> {
        has_what_it_needs(container, &extras)?;
        let is_prepared = container.lock().prepared.is_some();
        if !is_prepared || !extras.is_empty() {
            self.prepare(container, extras).await?;
        }
        let engine = self.shared();
        let target = Arc::clone(container);
        let started = blocking(move || engine.let_go(&target)).await;
        match started {
            Ok(()) => {
                monitor::watch(self, container);
                self.container_event(container, "start", &[]);
                Ok(())
            }
            Err(error) => {
                let (engine, target) = (self.shared(), Arc::clone(container));
                blocking(move || {
                    engine.undo(&target);
                    Ok(())
                })
                .await?;
                self.failed_start(container, &error).await;
                Err(error)
            }
        }
    }

    async fn prepare(
        &self,
        container: &Arc<Container>,
        extras: StartExtras,
    ) -> Result<extras::Prepared> {
        let engine = self.shared();
        let target = Arc::clone(container);
        let prepared = blocking(move || engine.prepare_blocking(&target, extras)).await;
        if let Err(error) = &prepared {
            self.failed_start(container, error).await;
        }
        prepared
    }

    fn prepare_blocking(
        &self,
        container: &Container,
        extras: StartExtras,
    ) -> Result<extras::Prepared> {
        // An earlier preparation that nobody let go.
        self.abandon(container);
        file::remove_file(&container.exit_file())?;
        file::make_directory(&container.runtime, 0o700)?;
        let attached = self.attach_networks(container)?;
        let record = container.record();
        if let Err(error) = self.ready_mounts(&record) {
            self.detach_networks(container);
            return Err(error);
        }
        let prepared = self.prepare_shim(container, &attached, extras);
        if prepared.is_err() {
            self.undo(container);
        }
        prepared
    }

    /// Takes everything away that a preparation made. Blocking.
    fn undo(&self, container: &Container) {
        self.release_volumes(&container.record());
        self.detach_networks(container);
    }

    /// Ends a preparation, if there is one, and waits until its shim is gone, so
    /// that the next one finds the place free. Blocking.
    pub(super) fn abandon(&self, container: &Container) {
        let Some(prepared) = container.lock().prepared.take() else {
            return;
        };
        let pid = prepared.shim.info().shim_pid;
        drop(prepared);
        let deadline = std::time::Instant::now() + ABANDON_MAX;
        let process = PathBuf::from(format!("/proc/{pid}"));
        while process.exists() && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.undo(container);
    }

    fn prepare_shim(
        &self,
        container: &Container,
        attached: &Attached,
        extras: StartExtras,
    ) -> Result<extras::Prepared> {
        let record = container.record();
        self.write_files(container, &record, attached)?;
        let (ids, user_of) = self.effective_ids(&record)?;
        let run_ids = ids.clone();
        let own_directories =
            ["builds", "build-cache"].map(|name| self.config.data_root.join(name));
        let mut config = spec::build(
            &record,
            Surroundings {
                root: self.root_paths(&container.directory, &record),
                paths: Paths {
                    socket: container.runtime.join("shim.sock"),
                    exit: container.exit_file(),
                    status: container.runtime.join("status.json"),
                    shim_log: Some(container.directory.join("shim.log")),
                },
                log_path: container.log_file(),
                cgroup_parent: &self.config.cgroup_parent,
                net: attached.net.clone(),
                dns: attached.dns.clone(),
                files: self.file_sources(container, &record)?,
                joined: self.joined(&record)?,
                linked: self.linked_environment(&record),
                injected: injected_files(&extras),
                variables: injected_variables(&extras),
                default_ulimits: &self.config.default_ulimits,
                default_shm_bytes: self.config.default_shm_bytes,
                default_init: self.config.init,
                ids,
                user_of,
                own_directories: &own_directories,
            },
        )?;
        for mount in &record.mounts {
            // What a volume binds is the host's, and not seen with the container's ids.
            if mount.point.kind == "volume" && self.volumes.is_bound(&mount.point.name) {
                config.bind_as_it_is(&mount.point.destination);
            }
        }
        cdi::inject(
            &mut config,
            record
                .host_config
                .device_requests
                .as_deref()
                .unwrap_or_default(),
            &self.config.cdi_spec_dirs,
        )?;
        let path = container.runtime.join("config.json");
        config
            .write(&path)
            .during(|| format!("cannot write `{}`", path.display()))?;
        let shim = self.launcher.prepare(&path).map_err(start_error)?;
        let info = shim.info();
        let dns = info.dns.map(|ports| DnsPorts {
            udp: ports.udp,
            tcp: ports.tcp,
        });
        if let (Some(netns), Some(ports)) = (&attached.netns, dns) {
            self.lead_dns(netns, ports.udp, ports.tcp)?;
        }
        let answer = extras::Prepared {
            pid: u32::try_from(info.shim_pid).unwrap_or(0),
            dns,
        };
        let has_injected = !extras.is_empty();
        let hidden = extras.variables.iter().map(|one| one.name.clone());
        let hidden_variables: Vec<String> = hidden.collect();
        container.change(|inner| {
            inner.record.has_injected = has_injected;
            inner.record.hidden_variables = hidden_variables;
            inner.record.run_ids = run_ids;
            inner.prepared = Some(Prepared { shim, extras });
        })?;
        Ok(answer)
    }

    /// Lets a prepared container go.
    fn let_go(&self, container: &Container) -> Result<()> {
        let (prepared, waiting) = {
            let mut inner = container.lock();
            (inner.prepared.take(), std::mem::take(&mut inner.waiting))
        };
        let prepared = prepared.ok_or_else(|| {
            EngineError::internal(format!("container {} is not prepared", container.id))
        })?;
        // Who waits to attach does so before the first byte is written.
        for attach in waiting {
            let (ready, done) = std::sync::mpsc::sync_channel::<()>(1);
            if attach.send(ready).is_ok() {
                // The sender is dropped when it is attached or gave up.
                let _ = done.recv_timeout(ATTACH_WAIT);
            }
        }
        let extras = &prepared.extras;
        let files = injected_files(extras).into_iter().map(|file| file.name);
        let variables = injected_variables(extras).into_iter().map(|one| one.name);
        let names: Vec<String> = files.chain(variables).collect();
        let files = extras.files.iter().map(|file| &file.data);
        let values = files.chain(extras.variables.iter().map(|one| &one.value));
        let bytes = names.iter().zip(values);
        let bytes: Vec<InjectedBytes<'_>> = bytes
            .map(|(name, bytes)| InjectedBytes { name, bytes })
            .collect();
        let started = prepared.shim.start(&bytes).map_err(start_error)?;
        let started_at = skep_model::Timestamp::parse(&started.started_at)
            .unwrap_or_else(|_| crate::clock::now());
        container.change(|inner| {
            let state = &mut inner.record.state;
            state.status = Status::Running;
            state.pid = i64::from(started.pid);
            state.exit_code = 0;
            state.oom_killed = false;
            state.error.clear();
            state.started_at = started_at;
            inner.health = None;
        })
    }

    /// Notes why a start failed.
    async fn failed_start(&self, container: &Arc<Container>, error: &EngineError) {
        let exit_code = exit_code_of(error);
        let text = error.to_string();
        let target = Arc::clone(container);
        let noted = blocking(move || {
            target.lock().waiting.clear();
            target.change(|inner| {
                let state = &mut inner.record.state;
                if state.status != Status::Created {
                    state.status = Status::Exited;
                    state.finished_at = crate::clock::now();
                }
                state.pid = 0;
                state.exit_code = exit_code;
                state.error = text;
            })
        })
        .await;
        if let Err(error) = noted {
            tracing::error!(%error, container = container.id, "a failed start was not noted");
        }
        container.note_failed_start(exit_code, error.to_string());
        if container.lock().record.host_config.auto_remove {
            let (engine, id) = (self.shared(), container.id.clone());
            self.spawn(async move { engine.remove_by_itself(&id).await });
        }
    }

    /// Readies what is mounted: volumes with devices, missing bind sources. All of
    /// it or nothing.
    fn ready_mounts(&self, record: &ContainerRecord) -> Result<()> {
        let mut acquired = Vec::new();
        let ready = self.ready_each(record, &mut acquired);
        if ready.is_err() {
            for name in acquired {
                self.volumes.release(name);
            }
        }
        ready
    }

    fn ready_each<'a>(
        &self,
        record: &'a ContainerRecord,
        acquired: &mut Vec<&'a str>,
    ) -> Result<()> {
        for mount in &record.mounts {
            if mount.point.kind == "volume" {
                self.volumes.acquire(&mount.point.name)?;
                acquired.push(&mount.point.name);
                self.volume_event(
                    "mount",
                    &mount.point.name,
                    BTreeMap::from([
                        ("container".to_owned(), record.id.clone()),
                        ("destination".to_owned(), mount.point.destination.clone()),
                        ("propagation".to_owned(), mount.point.propagation.clone()),
                        ("read/write".to_owned(), mount.point.rw.to_string()),
                    ]),
                );
            }
            if mount.tmpfs.is_some() || mount.source.exists() {
                continue;
            }
            if mount.make_source {
                file::make_directory(&mount.source, 0o755)?;
            } else {
                return Err(EngineError::invalid(format!(
                    "error while creating mount source path '{}': no such file or directory",
                    mount.source.display()
                )));
            }
        }
        Ok(())
    }

    /// Gives volumes with devices back.
    pub(super) fn release_volumes(&self, record: &ContainerRecord) {
        for mount in &record.mounts {
            if mount.point.kind == "volume" {
                self.volumes.release(&mount.point.name);
            }
        }
    }

    /// Writes hosts, hostname and resolv.conf.
    fn write_files(
        &self,
        container: &Container,
        record: &ContainerRecord,
        attached: &Attached,
    ) -> Result<()> {
        if record.host_config.network_mode.starts_with("container:") {
            return Ok(());
        }
        let extra = self.extra_hosts(record)?;
        let hosts = match record.host_config.network_mode.as_str() {
            "host" if record.extras.netns.is_none() => files::hosts_of_host(
                &std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
                &extra,
            ),
            _ => files::hosts(&attached.own_hosts, &extra),
        };
        files::write(&container.directory.join("hosts"), &hosts)?;
        let hostname = format!("{}\n", record.config.hostname);
        files::write(&container.directory.join("hostname"), &hostname)?;
        let own_network = attached.netns.is_some() || record.extras.netns.is_some();
        self.write_resolv_conf(container, record, attached.own_resolver, own_network)
    }

    pub(crate) fn write_resolv_conf(
        &self,
        container: &Container,
        record: &ContainerRecord,
        own_resolver: bool,
        own_network: bool,
    ) -> Result<()> {
        let text = match (&record.extras.resolv_conf, &record.extras.dns) {
            (Some(text), _) => text.clone(),
            (None, Some(dns)) => dns.resolv_conf(),
            (None, None) => {
                let config = self.dns_config(record);
                match own_resolver {
                    true => config.resolv_conf(),
                    false => files::resolv_conf(&config, own_network),
                }
            }
        };
        files::write(&container.directory.join("resolv.conf"), &text)
    }

    /// Lines a user or a caller adds to /etc/hosts, links included.
    fn extra_hosts(&self, record: &ContainerRecord) -> Result<Vec<HostsEntry>> {
        let mut entries = record.extras.hosts.clone();
        for text in record.host_config.extra_hosts.iter().flatten() {
            let (name, address) = validate::extra_host(text)?;
            let address: IpAddr = match address {
                "host-gateway" => self.host_gateway()?,
                address => address
                    .parse()
                    .map_err(|_| EngineError::invalid(format!("invalid IP address: {address}")))?,
            };
            entries.push(HostsEntry {
                address,
                names: vec![name.to_owned()],
            });
        }
        for link in record.host_config.links.iter().flatten() {
            let (target, alias) = link.split_once(':').unwrap_or((link, link));
            let target = self.containers.find(target)?;
            let linked = target.record();
            if !linked.state.status.is_live() {
                return Err(EngineError::conflict(format!(
                    "Cannot link to a non running container: /{} AS {alias}",
                    linked.name
                )));
            }
            let alias = alias.rsplit('/').next().unwrap_or(alias).to_owned();
            let addresses = linked
                .networks
                .iter()
                .filter(|(name, _)| record.networks.contains_key(*name));
            for (_, endpoint) in addresses {
                if let Ok(address) = endpoint.ip_address.parse() {
                    entries.push(HostsEntry {
                        address,
                        names: vec![
                            alias.clone(),
                            linked.config.hostname.clone(),
                            linked.name.clone(),
                        ],
                    });
                }
            }
        }
        Ok(entries)
    }

    /// Where containers find this host: the gateway of the default bridge.
    fn host_gateway(&self) -> Result<IpAddr> {
        let bridge = self.networks.find("bridge")?;
        bridge
            .ipam
            .config
            .first()
            .and_then(|range| range.gateway.parse().ok())
            .ok_or_else(|| {
                EngineError::invalid(
                    "unable to derive the IP value for host-gateway: the default bridge has no address",
                )
            })
    }

    /// The three files on the host: the container's own, or those of the one
    /// whose network it shares.
    fn file_sources(
        &self,
        container: &Container,
        record: &ContainerRecord,
    ) -> Result<[(PathBuf, &'static str); 3]> {
        let directory = match record.host_config.network_mode.strip_prefix("container:") {
            Some(other) => self.containers.find(other)?.directory.clone(),
            None => container.directory.clone(),
        };
        Ok([
            (directory.join("resolv.conf"), "/etc/resolv.conf"),
            (directory.join("hostname"), "/etc/hostname"),
            (directory.join("hosts"), "/etc/hosts"),
        ])
    }

    /// The processes of containers whose namespaces this one joins.
    fn joined(&self, record: &ContainerRecord) -> Result<BTreeMap<String, i64>> {
        let host = &record.host_config;
        let mut joined = BTreeMap::new();
        for mode in [
            &host.pid_mode,
            &host.ipc_mode,
            &host.uts_mode,
            &host.cgroupns_mode,
        ] {
            let Some(name) = mode.strip_prefix("container:") else {
                continue;
            };
            let other = self.containers.find(name)?;
            let inner = other.lock();
            if inner.record.state.status.is_live() {
                joined.insert(name.to_owned(), inner.record.state.pid);
            }
        }
        Ok(joined)
    }
}

/// How long an abandoned shim may take to go.
const ABANDON_MAX: std::time::Duration = std::time::Duration::from_secs(5);
/// How long one client may take to attach before the start goes on without it.
const ATTACH_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// The files from memory as the shim knows them, in order.
fn injected_files(extras: &StartExtras) -> Vec<ShimFile> {
    let files = extras.files.iter().enumerate();
    files
        .map(|(number, file)| ShimFile {
            name: number.to_string(),
            target: file.target.to_string_lossy().into_owned(),
            uid: file.uid,
            gid: file.gid,
            mode: file.mode,
        })
        .collect()
}

/// The variables from memory as the shim knows them, in order.
fn injected_variables(extras: &StartExtras) -> Vec<ShimVariable> {
    let variables = extras.variables.iter();
    variables
        .map(|one| ShimVariable {
            name: format!("variable {}", one.name),
            variable: one.name.clone(),
        })
        .collect()
}

fn startable(container: &Container) -> Result<()> {
    match container.status() {
        Status::Running => Err(EngineError::not_modified(format!(
            "container {} is already running",
            container.id
        ))),
        Status::Paused => Err(EngineError::conflict(
            "cannot start a paused container, try unpause instead",
        )),
        Status::Removing | Status::Dead => Err(EngineError::conflict(
            "container is marked for removal and cannot be started",
        )),
        Status::Created | Status::Exited | Status::Restarting => Ok(()),
    }
}

/// The shim's failure in the words docker wraps around it.
fn start_error(error: StartError) -> EngineError {
    match error {
        StartError::Failed(failure) => {
            let kind = match failure.exit_code {
                126 | 127 => Kind::Invalid,
                _ => Kind::Internal,
            };
            // dockerd's log drivers are its own, not the runtime's.
            if failure.message.starts_with(skep_shim::LOG_FAILED) {
                return EngineError::new(kind, failure.message).with_exit_code(failure.exit_code);
            }
            // runc's words for a directory do not have what clients look for to end with 126.
            let denied = match failure.message.ends_with("is a directory") {
                true => ": permission denied",
                false => "",
            };
            EngineError::new(
                kind,
                format!(
                    "failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process: {}: unknown{denied}",
                    failure.message
                ),
            )
            .with_exit_code(failure.exit_code)
        }
        error @ StartError::Shim { .. } => {
            EngineError::internal("failed to create task for container").because(error)
        }
    }
}

/// The exit code docker notes for a start that failed.
pub(super) fn exit_code_of(error: &EngineError) -> i64 {
    error.exit_code().map_or(128, i64::from)
}

/// Refuses to start a container that had secrets without them: what the image says instead would hold.
pub(super) fn has_what_it_needs(container: &Container, extras: &StartExtras) -> Result<()> {
    let inner = container.lock();
    match inner.record.has_injected && inner.prepared.is_none() && extras.is_empty() {
        false => Ok(()),
        true => Err(EngineError::conflict(format!(
            "container {} cannot be started by hand: it has secrets or configs of its service, which are in memory alone; have the service start another one with `service update --force`",
            container.id
        ))),
    }
}
