//! Names of containers on a network, as the zone file their resolvers read.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_dns::Zone;

use crate::container::{Container, ContainerRecord};
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};
use crate::record;
use crate::types::{EndpointSettings, NetworkInspect};

/// Networks a container can be on at the same time: each is a file its resolver
/// looks at with every question.
pub(crate) const SLOTS: usize = 8;

/// The zone files of a container, in the order of its networks. They are links
/// to the networks' zones, so that networks can come and go while it runs.
pub(crate) fn slots(runtime: &Path) -> Vec<PathBuf> {
    (0..SLOTS)
        .map(|slot| runtime.join(format!("{slot}.zone")))
        .collect()
}

/// The names an endpoint is found under.
pub(crate) fn names(name: &str, id: &str, endpoint: &EndpointSettings) -> Vec<String> {
    let aliases = endpoint.aliases.iter().flatten().cloned();
    let mut names = vec![name.to_owned()];
    names.extend(aliases);
    names.push(crate::names::short_id(id).to_owned());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// What the zone of a container's links is called.
const LINKS: &str = "links";

fn links_file(runtime: &Path) -> PathBuf {
    runtime.join("links.zone")
}

fn has_links(record: &ContainerRecord) -> bool {
    let mut endpoints = record.networks.values();
    endpoints.any(|endpoint| {
        endpoint
            .links
            .as_ref()
            .is_some_and(|links| !links.is_empty())
    })
}

impl Engine {
    pub(super) fn zone_file(&self, network: &NetworkInspect) -> PathBuf {
        self.config
            .exec_root
            .join("dns")
            .join(format!("{}.zone", network.id))
    }

    /// Writes a network's zone anew from the containers that are on it.
    pub(crate) fn write_zone(&self, network: &NetworkInspect) -> Result<()> {
        let mut zone = Zone::new(network.name.clone());
        let mut linked = Vec::new();
        for container in self.containers.all() {
            let inner = container.lock();
            let record = &inner.record;
            let Some(endpoint) = record.networks.get(&network.name) else {
                continue;
            };
            if !endpoint.network_id.is_empty() && endpoint.network_id != network.id {
                // Of the same name, and not of this host.
                continue;
            }
            if inner.record.state.status.is_live() && has_links(record) {
                linked.push(Arc::clone(&container));
            }
            let addresses = [&endpoint.ip_address, &endpoint.global_ipv6_address];
            for address in addresses
                .into_iter()
                .filter_map(|text| text.parse::<IpAddr>().ok())
            {
                for name in names(&record.name, &record.id, endpoint) {
                    zone.add(&name, address);
                }
                if !record.config.hostname.is_empty() && record.config.hostname != record.id[..12] {
                    zone.add(&record.config.hostname, address);
                }
                zone.point(address, &record.name);
            }
        }
        zone.write_if_changed(&self.zone_file(network))
            .map_err(|error| EngineError::internal("cannot write names").because(error))?;
        // Who they are linked to may have another address now.
        for container in linked {
            self.write_links(&container)?;
        }
        Ok(())
    }

    /// Writes the names that only one container knows: those its endpoints are linked to.
    fn write_links(&self, container: &Container) -> Result<()> {
        let record = container.record();
        let mut zone = Zone::new(LINKS);
        for (network, endpoint) in &record.networks {
            for link in endpoint.links.iter().flatten() {
                let (target, alias) = link.split_once(':').unwrap_or((link, link));
                let Ok(target) = self.containers.find(target) else {
                    continue;
                };
                let inner = target.lock();
                let Some(there) = inner.record.networks.get(network) else {
                    continue;
                };
                for address in [&there.ip_address, &there.global_ipv6_address] {
                    if let Ok(address) = address.parse::<IpAddr>() {
                        zone.add(alias, address);
                    }
                }
            }
        }
        zone.write_if_changed(&links_file(&container.runtime))
            .map(drop)
            .map_err(|error| EngineError::internal("cannot write names").because(error))
    }

    /// Points a container's slots at the zones of its networks, and at that of its links.
    pub(super) fn link_zones(
        &self,
        container: &Container,
        networks: &[&NetworkInspect],
    ) -> Result<()> {
        let has_links = has_links(&container.record());
        if has_links {
            self.write_links(container)?;
        }
        let own = has_links.then(|| links_file(&container.runtime));
        let zones: Vec<PathBuf> = own
            .into_iter()
            .chain(networks.iter().map(|network| self.zone_file(network)))
            .collect();
        if zones.len() > SLOTS {
            return Err(EngineError::invalid(format!(
                "a container can be on at most {SLOTS} networks"
            )));
        }
        for (slot, path) in slots(&container.runtime).iter().enumerate() {
            record::remove_file(path)?;
            if let Some(zone) = zones.get(slot) {
                std::os::unix::fs::symlink(zone, path)
                    .during(|| format!("cannot make `{}`", path.display()))?;
            }
        }
        Ok(())
    }
}
