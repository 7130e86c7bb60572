//! `docker ps`.

use std::sync::Arc;

use regex_lite::Regex;
use skep_model::Timestamp;

use super::record::{ContainerRecord, Status};
use super::{Container, Inner, inspect, validate};
use crate::clock::{self, human_duration};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::filters::Filters;
use crate::image::Digest;
use crate::options::ListOptions;
use crate::types::{ContainerSummary, Port, PortMap, SummaryHostConfig, SummaryNetworks};

/// What marks a container of a cluster task, for the `is-task` filter.
const TASK_LABEL: &str = "com.docker.swarm.task.id";

const FILTERS: [&str; 17] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "until",
];

/// Filters with what had to be looked up or read first.
struct Prepared<'a> {
    filters: &'a Filters,
    names: Vec<Regex>,
    ancestors: Option<Vec<Digest>>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    exited: Vec<i64>,
    is_task: Option<bool>,
    /// Names and ids of the networks asked for.
    networks: Option<Vec<String>>,
}

impl Engine {
    /// Containers that pass, newest first; without `all` only those that run.
    pub async fn container_list(&self, options: ListOptions) -> Result<Vec<ContainerSummary>> {
        let prepared = self.prepare_filters(&options.filters)?;
        let wants_all = options.all
            || options.limit > 0
            || ["status", "exited", "before", "since"]
                .iter()
                .any(|key| options.filters.has(key));
        let mut containers = self.containers.all();
        containers.sort_by_key(|container| std::cmp::Reverse(container.lock().record.created));
        let links = self.link_names();
        let mut list = Vec::new();
        for container in containers {
            if options.limit > 0 && list.len() == options.limit {
                break;
            }
            let passes = {
                let inner = container.lock();
                (wants_all || inner.record.state.status.is_running()) && prepared.passes(&inner)
            };
            if passes {
                let mut summary = self.summary(&container, options.size).await?;
                let linked = links.get(&container.id).into_iter().flatten().cloned();
                summary.names.extend(linked);
                list.push(summary);
            }
        }
        Ok(list)
    }

    fn prepare_filters<'a>(&self, filters: &'a Filters) -> Result<Prepared<'a>> {
        filters.accept(&FILTERS)?;
        for status in filters.values("status") {
            let known = [
                "created",
                "running",
                "paused",
                "restarting",
                "removing",
                "exited",
                "dead",
            ];
            if !known.contains(&status) {
                return Err(filters.wrong("status", status));
            }
        }
        for health in filters.values("health") {
            if !["starting", "healthy", "unhealthy", "none"].contains(&health) {
                return Err(filters.wrong("health", health));
            }
        }
        let names = filters
            .values("name")
            .map(|pattern| Regex::new(pattern).map_err(|_| filters.wrong("name", pattern)))
            .collect::<Result<_>>()?;
        let created = |key: &str| -> Result<Option<Timestamp>> {
            let mut moment = None;
            for name in filters.values(key) {
                moment = Some(self.containers.find(name)?.lock().record.created);
            }
            Ok(moment)
        };
        let exited = filters
            .values("exited")
            .map(|code| code.parse().map_err(|_| filters.wrong("exited", code)))
            .collect::<Result<_>>()?;
        let ancestors = filters.has("ancestor").then(|| {
            filters
                .values("ancestor")
                .filter_map(|name| Some(self.images.find(name).ok()?.id().clone()))
                .collect()
        });
        let networks = filters.has("network").then(|| {
            filters
                .values("network")
                .flat_map(|name| match self.networks.find(name) {
                    Ok(network) => vec![network.name.clone(), network.id.clone()],
                    Err(_) => vec![name.to_owned()],
                })
                .collect()
        });
        for key in ["expose", "publish"] {
            for value in filters.values(key) {
                port_range(value).map_err(|_| filters.wrong(key, value))?;
            }
        }
        Ok(Prepared {
            names,
            ancestors,
            before: created("before")?,
            since: created("since")?,
            exited,
            is_task: filters.flag("is-task")?,
            networks,
            filters,
        })
    }

    /// The name that a container was made with, or its image's id where the name stands for another one now.
    fn image_name(&self, container: &Container) -> String {
        let (name, id) = {
            let inner = container.lock();
            (
                inner.record.config.image.clone(),
                inner.record.image_id.clone(),
            )
        };
        match self.images.find(&name) {
            Ok(image) if *image.id() == id => name,
            _ => id.to_string(),
        }
    }

    async fn summary(&self, container: &Arc<Container>, size: bool) -> Result<ContainerSummary> {
        let sizes = match size {
            true => Some(self.sizes(container).await?),
            false => None,
        };
        // Images are asked first: their lock is taken before a container's.
        let image = self.image_name(container);
        let inner = container.lock();
        let record = &inner.record;
        Ok(ContainerSummary {
            id: record.id.clone(),
            names: vec![format!("/{}", record.name)],
            image,
            image_id: record.image_id.to_string(),
            command: command(record),
            created: record.created.0.div_euclid(1_000_000_000),
            ports: ports(&record.ports, record.state.status.is_live()),
            size_rw: sizes.map(|(rw, _)| rw),
            size_root_fs: sizes.map(|(_, all)| all),
            labels: record.config.labels.clone(),
            state: record.state.status.as_str().into(),
            status: status(&inner, clock::now()),
            host_config: SummaryHostConfig {
                network_mode: record.host_config.network_mode.clone(),
                annotations: record.host_config.annotations.clone(),
            },
            network_settings: SummaryNetworks {
                networks: record.networks.clone(),
            },
            mounts: inspect::mounts(record),
        })
    }
}

impl Prepared<'_> {
    fn passes(&self, inner: &Inner) -> bool {
        let record = &inner.record;
        let filters = self.filters;
        let status = record.state.status;
        let health = inspect::health(inner).map_or("none".to_owned(), |health| health.status);
        let slashed = format!("/{}", record.name);
        let is_task = record.config.labels.contains_key(TASK_LABEL);
        (self.names.is_empty()
            || self
                .names
                .iter()
                .any(|name| name.is_match(&slashed) || name.is_match(&record.name)))
            && filters.any("id", |id| record.id.starts_with(id))
            && filters.any("status", |wanted| wanted == status.as_str())
            && filters.any("health", |wanted| wanted == health)
            && filters.any("isolation", |wanted| wanted == "default")
            && filters.labels(&record.config.labels)
            && self.is_task.is_none_or(|wanted| wanted == is_task)
            && self.before.is_none_or(|before| record.created < before)
            && self.since.is_none_or(|since| record.created > since)
            && (self.exited.is_empty()
                || (!status.is_live()
                    && record.state.finished_at != Timestamp::ZERO
                    && self.exited.contains(&record.state.exit_code)))
            && self
                .ancestors
                .as_ref()
                .is_none_or(|ids| ids.contains(&record.image_id))
            && self.networks.as_ref().is_none_or(|wanted| {
                record.networks.iter().any(|(name, endpoint)| {
                    wanted.contains(name) || wanted.contains(&endpoint.network_id)
                })
            })
            && filters.any("volume", |wanted| {
                record.mounts.iter().any(|mount| {
                    mount.point.name == wanted
                        || mount.point.destination == wanted
                        || mount.point.source == wanted
                })
            })
            && filters.any("expose", |wanted| {
                record
                    .config
                    .exposed_ports
                    .keys()
                    .any(|port| in_range(port, wanted))
            })
            && filters.any("publish", |wanted| {
                let bound = record.ports.iter().filter(|(_, bound)| bound.is_some());
                bound
                    .flat_map(|(port, bound)| {
                        let protocol = port.split_once('/').map_or("tcp", |(_, protocol)| protocol);
                        bound
                            .iter()
                            .flatten()
                            .map(move |binding| format!("{}/{protocol}", binding.host_port))
                    })
                    .any(|port| in_range(&port, wanted))
            })
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn port_range(text: &str) -> Result<((u16, u16), &str)> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let range = validate::parse_port_range(range)?;
    match range {
        (0, 0) => Err(EngineError::invalid("no port")),
        range => Ok((range, protocol)),
    }
}

fn in_range(port: &str, wanted: &str) -> bool {
    match (validate::parse_port(port), port_range(wanted)) {
        (Ok((port, protocol)), Ok(((first, last), wanted))) => {
            protocol == wanted && (first..=last).contains(&port)
        }
        _ => false,
    }
}

/// The command as one line.
fn command(record: &ContainerRecord) -> String {
    let words: Vec<String> = record
        .command()
        .into_iter()
        .enumerate()
        .map(|(number, word)| match number > 0 && word.contains(' ') {
            true => format!("'{word}'"),
            false => word,
        })
        .collect();
    words.join(" ")
}

fn ports(map: &PortMap, live: bool) -> Vec<Port> {
    let mut ports = Vec::new();
    if !live {
        return ports;
    }
    for (port, bindings) in map {
        let Ok((private, protocol)) = validate::parse_port(port) else {
            continue;
        };
        let plain = Port {
            private_port: private,
            kind: protocol.into(),
            ..Port::default()
        };
        match bindings.as_deref() {
            None | Some([]) => ports.push(plain),
            Some(bindings) => ports.extend(bindings.iter().map(|binding| Port {
                ip: binding.host_ip.clone(),
                public_port: binding.host_port.parse().ok(),
                ..plain.clone()
            })),
        }
    }
    ports.sort();
    ports
}

/// `Up 3 minutes (healthy)` and so on.
fn status(inner: &Inner, now: Timestamp) -> String {
    let state = &inner.record.state;
    let since = |moment: Timestamp| human_duration(now.since(moment));
    match state.status {
        Status::Running => {
            let health = inspect::health(inner).map_or(String::new(), |health| {
                match health.status.as_str() {
                    "starting" => " (health: starting)".into(),
                    other => format!(" ({other})"),
                }
            });
            format!("Up {}{health}", since(state.started_at))
        }
        Status::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Status::Restarting => format!(
            "Restarting ({}) {} ago",
            state.exit_code,
            since(state.finished_at)
        ),
        Status::Removing => "Removal In Progress".into(),
        Status::Dead => "Dead".into(),
        Status::Created => "Created".into(),
        Status::Exited => format!(
            "Exited ({}) {} ago",
            state.exit_code,
            since(state.finished_at)
        ),
    }
}
