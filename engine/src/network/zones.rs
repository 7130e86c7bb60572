//! Names of containers on a network, as the zone file their resolvers read.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use skep_dns::Zone;

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
        for container in self.containers.all() {
            let inner = container.lock();
            let record = &inner.record;
            let Some(endpoint) = record.networks.get(&network.name) else {
                continue;
            };
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
            .map(drop)
            .map_err(|error| EngineError::internal("cannot write names").because(error))
    }

    /// Points a container's slots at the zones of its networks.
    pub(super) fn link_zones(&self, runtime: &Path, networks: &[&NetworkInspect]) -> Result<()> {
        if networks.len() > SLOTS {
            return Err(EngineError::invalid(format!(
                "a container can be on at most {SLOTS} networks"
            )));
        }
        for (slot, path) in slots(runtime).iter().enumerate() {
            record::remove_file(path)?;
            if let Some(network) = networks.get(slot) {
                std::os::unix::fs::symlink(self.zone_file(network), path)
                    .during(|| format!("cannot make `{}`", path.display()))?;
            }
        }
        Ok(())
    }
}
