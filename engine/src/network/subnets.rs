//! Which subnets networks get when nobody names one.

use std::sync::Arc;

use ipnet::IpNet;

use super::attach::net_error;
use super::ipam;
use crate::engine::Engine;
use crate::error::Result;
use crate::types::{IpamConfig, NetworkInspect};

impl Engine {
    /// Chooses the subnet of the default bridge at the start, before another network can take it:
    /// firewalls and scripts know it. The bridge itself is made for its first container. Blocking.
    pub(super) fn choose_default_subnet(&self) -> Result<()> {
        let network = self.networks.find("bridge")?;
        let is_used = self.containers.all().iter().any(|container| {
            let inner = container.lock();
            let record = &inner.record;
            record.state.status.is_live() && record.networks.contains_key(&network.name)
        });
        if is_used || !self.is_stale(&network)? {
            return Ok(());
        }
        let known = !network.ipam.config.is_empty();
        let mut cleared = (*network).clone();
        cleared.ipam.config.clear();
        match self.with_subnets(Arc::new(cleared)) {
            // The one it has is better than none.
            Err(error) if known => {
                tracing::warn!(%error, "the default bridge keeps its subnet, which the host has a route to");
                Ok(())
            }
            chosen => chosen.map(drop),
        }
    }

    /// Whether the default bridge has no subnet, another one than is configured, or one that the host
    /// has a route to by now.
    fn is_stale(&self, network: &NetworkInspect) -> Result<bool> {
        let Some(range) = network.ipam.config.first() else {
            return Ok(true);
        };
        if let Some(address) = self.config.bridge_address {
            return Ok(range.subnet != address.trunc().to_string()
                || range.gateway != address.addr().to_string());
        }
        if self.has_default_bridge(network)? {
            return Ok(false);
        }
        let routed = self.net.routed_subnets().map_err(net_error)?;
        let subnet = range.subnet.parse::<IpNet>();
        Ok(subnet.is_ok_and(|subnet| routed.iter().any(|net| ipam::overlap(net, &subnet))))
    }

    /// Whether the default bridge has its address on this host.
    pub(super) fn has_default_bridge(&self, network: &NetworkInspect) -> Result<bool> {
        let bridge = network.options.get("com.docker.network.bridge.name");
        let addresses = self.net.addresses().map_err(net_error)?;
        Ok(addresses.iter().any(|(name, _)| Some(name) == bridge))
    }

    /// The default bridge gets its subnet here if none was free at the start.
    pub(super) fn with_subnets(&self, network: Arc<NetworkInspect>) -> Result<Arc<NetworkInspect>> {
        if network.driver != "bridge" || !network.ipam.config.is_empty() {
            return Ok(network);
        }
        let range = match self.config.bridge_address {
            Some(address) if network.name == "bridge" => IpamConfig {
                subnet: address.trunc().to_string(),
                gateway: address.addr().to_string(),
                ..IpamConfig::default()
            },
            _ => IpamConfig {
                subnet: self.free_subnet(false)?.to_string(),
                ..IpamConfig::default()
            },
        };
        let mut changed = (*network).clone();
        changed.ipam.config = vec![ipam::complete(range)?];
        self.networks.put(changed)
    }

    /// A subnet nobody uses: no network of ours, nothing the host has a route to.
    pub(super) fn free_subnet(&self, six: bool) -> Result<IpNet> {
        let mut used = self.net.routed_subnets().map_err(net_error)?;
        used.push(self.net.config().gateway_subnet.into());
        used.extend(self.subnets_of_ours());
        ipam::free_subnet(&self.config.address_pools, &used, six)
    }

    pub(super) fn subnets_of_ours(&self) -> Vec<IpNet> {
        self.networks
            .all()
            .iter()
            .flat_map(|network| network.ipam.config.clone())
            .filter_map(|range| range.subnet.parse().ok())
            .collect()
    }
}
