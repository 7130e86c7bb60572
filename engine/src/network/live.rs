//! Networks that come to running containers and go from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_net::BridgeEndpoint;

use super::attach::net_error;
use super::endpoint::{bridge_endpoint, gateway_network, in_order};
use super::ports;
use super::shared::is_shared;
use crate::container::{Container, ContainerRecord};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::types::NetworkInspect;

impl Engine {
    /// Connects a running container to one more network. Blocking.
    pub(super) fn attach_running(
        &self,
        container: &Container,
        network: &Arc<NetworkInspect>,
    ) -> Result<()> {
        if is_shared(network) {
            self.reserve(container, &network.name, network)?;
        }
        let attached = self
            .attach_to_running(container, network)
            .and_then(|()| self.wire_places(container));
        if let Err(error) = attached {
            let _work = self.networks.work.lock();
            let settings = container.record().networks.get(&network.name).cloned();
            self.detach_one(container, &network.name, &settings.unwrap_or_default());
            if self.guest(&container.record()).is_none() {
                self.detach_gateway(container);
            }
            return Err(error);
        }
        Ok(())
    }

    fn attach_to_running(
        &self,
        container: &Container,
        network: &Arc<NetworkInspect>,
    ) -> Result<()> {
        let _work = self.networks.work.lock();
        let network = self.with_subnets(Arc::clone(network))?;
        let netns = self.managed_netns(container)?;
        let record = container.record();
        let has_gateway = record.gateway.is_some()
            || record
                .networks
                .iter()
                .any(|(name, endpoint)| *name != network.name && !endpoint.gateway.is_empty());
        let ifname = self.free_interface(container, &netns)?;
        let leads_out = !has_gateway && !network.internal;
        if is_shared(&network) {
            self.attach_shared(container, &network.name, &ifname)?;
            if leads_out {
                let ifname = self.free_interface(container, &netns)?;
                self.attach_gateway(container, &netns, &ifname)?;
            }
        } else {
            self.attach_one(container, &network, &netns, &ifname, leads_out)?;
        }
        self.renew_names(container)
    }

    /// Disconnects a running container from a network. Blocking.
    pub(super) fn detach_running(
        &self,
        container: &Container,
        network: &NetworkInspect,
    ) -> Result<()> {
        let _work = self.networks.work.lock();
        let record = container.record();
        let settings = record
            .networks
            .get(&network.name)
            .cloned()
            .unwrap_or_default();
        if matches!(network.driver.as_str(), "macvlan" | "ipvlan") {
            return Err(EngineError::not_implemented(format!(
                "a running container cannot leave a {} network",
                network.driver
            )));
        }
        let led_out = self
            .way_out(&record)
            .is_some_and(|way| way.name == network.name);
        self.detach_one(container, &network.name, &settings);
        container.change(|inner| inner.record.networks.remove(&network.name).map(drop))?;
        if self.guest(&container.record()).is_none() {
            self.detach_gateway(container);
        }
        // The network is left, whatever becomes of the rest.
        let moved = match led_out || record.gateway.is_some() {
            true => self.move_way_out(container),
            false => Ok(()),
        };
        if !is_shared(network) {
            self.write_zone(network)?;
        }
        self.renew_names(container)?;
        moved
    }

    /// The network of this host that gives a container its default route.
    fn way_out(&self, record: &ContainerRecord) -> Option<Arc<NetworkInspect>> {
        let local = record
            .networks
            .iter()
            .filter(|(name, endpoint)| self.is_local(name, endpoint))
            .filter_map(|(name, _)| Some((name.clone(), self.networks.exact(name)?)));
        let local: BTreeMap<_, _> = local.collect();
        local.get(&gateway_network(record, &local)?).cloned()
    }

    /// Leads a container that has lost its way out by another of its networks, with what it
    /// publishes. The lock of the networks' work is held.
    fn move_way_out(&self, container: &Container) -> Result<()> {
        let record = container.record();
        let netns = self.managed_netns(container)?;
        if record.gateway.is_some() {
            return Ok(());
        }
        match self.way_out(&record) {
            Some(network) if network.driver == "bridge" => {
                let order = in_order(&record);
                let number = order.iter().position(|name| **name == network.name);
                let endpoint = BridgeEndpoint {
                    default_route: true,
                    ports: ports::requests(&record)?,
                    ..bridge_endpoint(&record, &network, &netns, number.unwrap_or_default())
                };
                let bound = self.net.connect(&endpoint).map_err(net_error)?;
                self.note_ports(container, &record, &bound)
            }
            Some(_) => Ok(()),
            None if self.has_shared_way_out(&record) => {
                let ifname = self.free_interface(container, &netns)?;
                self.attach_gateway(container, &netns, &ifname)
            }
            None => Ok(()),
        }
    }

    /// Whether a container is on a shared network that is not internal.
    fn has_shared_way_out(&self, record: &ContainerRecord) -> bool {
        record.networks.iter().any(|(name, endpoint)| {
            let network = self.network_on_record(name, endpoint);
            !self.is_local(name, endpoint) && network.is_some_and(|network| !network.internal)
        })
    }

    fn managed_netns(&self, container: &Container) -> Result<PathBuf> {
        let name = skep_net::names::container_netns(&container.id);
        if self.net.namespaces().exists(&name) {
            Ok(self.net.namespaces().path(&name))
        } else {
            Err(EngineError::forbidden(
                "container sharing network namespace with another container or host cannot be connected to any other network",
            ))
        }
    }

    /// A name that no interface has, or is about to get.
    fn free_interface(&self, container: &Container, netns: &Path) -> Result<String> {
        let present = self.net.counters(netns).map_err(net_error)?;
        let taken = container.record().interfaces;
        let free = (0..).map(|number| format!("eth{number}")).find(|name| {
            !present.iter().any(|link| link.name == *name)
                && !taken.values().any(|other| other == name)
        });
        Ok(free.expect("numbers do not end"))
    }

    /// Writes zones, their links and resolv.conf of a container anew.
    fn renew_names(&self, container: &Container) -> Result<()> {
        let record = container.record();
        let mut user_defined = Vec::new();
        for name in in_order(&record) {
            let Some(network) = self.network_on_record(name, &record.networks[name]) else {
                continue;
            };
            if !is_shared(&network) {
                self.write_zone(&network)?;
            }
            if network.name != "bridge" {
                user_defined.push(network);
            }
        }
        let borrowed: Vec<&NetworkInspect> =
            user_defined.iter().map(|network| &**network).collect();
        self.link_zones(container, &borrowed)?;
        self.write_resolv_conf(container, &record, !borrowed.is_empty(), true)
    }
}
