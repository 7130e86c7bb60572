//! `docker inspect` of a container.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::record::{ContainerRecord, Status};
use super::{Container, Inner};
use crate::engine::Engine;
use crate::error::Result;
use crate::streams::blocking;
use crate::types::{
    ContainerInspect, ContainerState, DriverData, Health, HostConfig, MountPoint, NetworkSettings,
};
use crate::volume::tree_bytes;

impl Engine {
    /// One container; `size` computes how much it wrote.
    pub async fn container_inspect(&self, name: &str, size: bool) -> Result<ContainerInspect> {
        let container = self.containers.find(name)?;
        let sizes = match size {
            true => Some(self.sizes(&container).await?),
            false => None,
        };
        // Before the lock, as it looks at other containers.
        let links = self.shown_links(&container.record());
        let inner = container.lock();
        let record = &inner.record;
        let command = record.command();
        let root = self.root_paths(&container.directory, record);
        let path = |name: &str| container.directory.join(name).display().to_string();
        let lower: Vec<String> = root.lower.iter().map(|l| l.display().to_string()).collect();
        let execs = self.execs.running_in(&container.id);
        Ok(ContainerInspect {
            id: record.id.clone(),
            created: record.created,
            path: command.first().cloned().unwrap_or_default(),
            args: command.iter().skip(1).cloned().collect(),
            state: state(&inner),
            image: record.image_id.to_string(),
            resolv_conf_path: path("resolv.conf"),
            hostname_path: path("hostname"),
            hosts_path: path("hosts"),
            log_path: match record.host_config.log_config.kind.as_str() {
                "none" => String::new(),
                _ => container.log_file().display().to_string(),
            },
            name: format!("/{}", record.name),
            restart_count: record.restart_count,
            driver: "overlay2".into(),
            platform: record.platform.clone(),
            exec_ids: (!execs.is_empty()).then_some(execs),
            host_config: HostConfig {
                links,
                ..record.host_config.clone()
            },
            graph_driver: DriverData {
                name: "overlay2".into(),
                data: Some(BTreeMap::from([
                    ("ID".to_owned(), record.id.clone()),
                    ("LowerDir".to_owned(), lower.join(":")),
                    ("MergedDir".to_owned(), root.merged.display().to_string()),
                    ("UpperDir".to_owned(), root.upper.display().to_string()),
                    ("WorkDir".to_owned(), root.work.display().to_string()),
                ])),
            },
            size_rw: sizes.map(|(rw, _)| rw),
            size_root_fs: sizes.map(|(_, all)| all),
            mounts: mounts(record),
            config: record.config.clone(),
            network_settings: network_settings(self, record),
            ..ContainerInspect::default()
        })
    }

    /// Bytes a container wrote, and those of its image as well.
    pub(super) async fn sizes(&self, container: &Arc<Container>) -> Result<(i64, i64)> {
        let upper = container.directory.join("upper");
        let written = blocking(move || Ok(tree_bytes(&upper))).await? as i64;
        let chain = container.lock().record.chain.clone();
        let mut image = 0;
        for layer in &chain {
            image += self
                .images
                .layers
                .get(layer)?
                .map_or(0, |layer| layer.size as i64);
        }
        Ok((written, written + image))
    }
}

/// The state as the API shows it.
pub(super) fn state(inner: &Inner) -> ContainerState {
    let state = &inner.record.state;
    let status = state.status;
    ContainerState {
        status: status.as_str().into(),
        running: status.is_running(),
        paused: status == Status::Paused,
        restarting: status == Status::Restarting,
        oom_killed: state.oom_killed,
        dead: status == Status::Dead,
        pid: state.pid,
        exit_code: state.exit_code,
        error: state.error.clone(),
        started_at: state.started_at,
        finished_at: state.finished_at,
        health: health(inner),
    }
}

/// Health of a container with a check: `starting` until its shim says more, and `unhealthy` while nothing
/// is probed, as dockerd tells old clients.
pub(super) fn health(inner: &Inner) -> Option<Health> {
    let check = inner.record.config.healthcheck.as_ref();
    check.filter(|check| super::spec::is_probed(check))?;
    let is_probed = inner.record.state.status == Status::Running;
    let mut health = inner.health.clone().unwrap_or_else(|| Health {
        status: "starting".into(),
        ..Health::default()
    });
    if !is_probed {
        health.status = "unhealthy".into();
    }
    Some(health)
}

pub(super) fn mounts(record: &ContainerRecord) -> Vec<MountPoint> {
    record
        .mounts
        .iter()
        .map(|mount| mount.point.clone())
        .collect()
}

fn network_settings(engine: &Engine, record: &ContainerRecord) -> NetworkSettings {
    let netns = match &record.extras.netns {
        Some(netns) => netns.clone(),
        // A container that shares a namespace has none of its own.
        None if record.state.status.is_live()
            && !record.host_config.network_mode.starts_with("container:") =>
        {
            engine
                .net
                .namespaces()
                .path(&skep_net::names::container_netns(&record.id))
        }
        None => Default::default(),
    };
    let mut settings = NetworkSettings {
        sandbox_key: netns.display().to_string(),
        sandbox_id: match netns.as_os_str().is_empty() {
            true => String::new(),
            false => record.id.clone(),
        },
        ports: record.ports.clone(),
        networks: record.networks.clone(),
        ..NetworkSettings::default()
    };
    // The old place of these fields, for the default bridge only.
    if let Some(bridge) = record.networks.get("bridge") {
        settings.endpoint_id.clone_from(&bridge.endpoint_id);
        settings.gateway.clone_from(&bridge.gateway);
        settings.ip_address.clone_from(&bridge.ip_address);
        settings.ip_prefix_len = bridge.ip_prefix_len;
        settings.mac_address.clone_from(&bridge.mac_address);
        settings.ipv6_gateway.clone_from(&bridge.ipv6_gateway);
        settings
            .global_ipv6_address
            .clone_from(&bridge.global_ipv6_address);
        settings.global_ipv6_prefix_len = bridge.global_ipv6_prefix_len;
    }
    settings
}
