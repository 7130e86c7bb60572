//! Networks after the engine was away.

use skep_net::{BridgeEndpoint, BridgeState};

use super::attach::net_error;
use super::endpoint::{addresses_of, bridge_endpoint, bridge_of, gateway_network, in_order};
use super::ports;
use crate::engine::Engine;
use crate::error::Result;
use crate::types::NetworkInspect;

impl Engine {
    /// Restores the networks after the engine was opened: what running containers
    /// have stays, everything else of ours goes. Blocking.
    pub(crate) fn restore_networks(&self) -> Result<()> {
        let _work = self.networks.work.lock();
        if let Err(error) = self.choose_default_subnet() {
            tracing::warn!(%error, "the default bridge has no subnet yet");
        }
        let mut desired = BridgeState::default();
        for network in self.networks.all() {
            if network.driver == "bridge" && self.is_made(&network)? {
                desired.networks.push(bridge_of(&network));
            }
        }
        let mut kept = Vec::new();
        for container in self.containers.all() {
            let record = container.record();
            if !record.state.status.is_live() || record.extras.netns.is_some() {
                continue;
            }
            let name = skep_net::names::container_netns(&record.id);
            let netns = self.net.namespaces().path(&name);
            kept.push(name);
            let networks = record
                .networks
                .iter()
                .filter(|(name, endpoint)| self.is_local(name, endpoint))
                .filter_map(|(name, _)| Some((name.clone(), self.networks.exact(name)?)))
                .collect();
            let gateway = gateway_network(&record, &networks);
            desired
                .endpoints
                .extend(self.gateway_endpoint(&record, &netns));
            for (number, name) in in_order(&record).into_iter().enumerate() {
                let (Some(network), settings) = (networks.get(name), &record.networks[name]) else {
                    continue;
                };
                let addresses = addresses_of(settings);
                for address in &addresses {
                    self.networks
                        .take(&network.id, address.addr(), &settings.endpoint_id);
                }
                if network.driver == "bridge" && !settings.endpoint_id.is_empty() {
                    let is_gateway = gateway.as_ref() == Some(name);
                    desired.endpoints.push(BridgeEndpoint {
                        default_route: is_gateway,
                        ports: match is_gateway {
                            true => ports::again(&record.ports),
                            false => Vec::new(),
                        },
                        ..bridge_endpoint(&record, network, &netns, number)
                    });
                }
            }
        }
        // A host that never had a network of ours is left alone.
        let report = self.net.apply_bridges(&desired);
        for failure in &report.failures {
            tracing::error!(object = %failure.object, error = %failure.error, "network is not as it should be");
        }
        for name in self.net.namespaces().list().map_err(net_error)? {
            if name.starts_with("c-")
                && !kept.contains(&name)
                && let Err(error) = self.net.namespaces().delete(&name)
            {
                tracing::warn!(%error, name, "a network namespace was left");
            }
        }
        for network in self.networks.all() {
            self.write_zone(&network)?;
        }
        Ok(())
    }

    /// Whether a network's bridge is to be there: the default one only where it is already, or a
    /// container names it.
    fn is_made(&self, network: &NetworkInspect) -> Result<bool> {
        let is_named = || {
            self.containers
                .all()
                .iter()
                .any(|container| container.lock().record.networks.contains_key(&network.name))
        };
        Ok(!network.ipam.config.is_empty()
            && (network.name != "bridge" || is_named() || self.has_default_bridge(network)?))
    }
}
