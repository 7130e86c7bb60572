//! Networks that are not this engine's own: those that a cluster shares among its hosts.
//!
//! Whoever keeps them is handed to the engine once there is a cluster. The engine asks for a
//! place and for the wiring, and its records say who has one: they are the only memory of it on
//! this host. The way out of such a network is a bridge of this host, as with dockerd.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use ipnet::IpNet;
use skep_net::{BridgeEndpoint, Mac};

use super::attach::net_error;
use super::endpoint::{addresses_of, bridge_of, emptied, filled};
use super::ports;
use crate::container::{Container, ContainerRecord};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::names;
use crate::types::{EndpointSettings, Ipam, NetworkInspect};

/// The bridge through which containers leave that are on shared networks alone. The name is
/// dockerd's.
pub(super) const GATEWAY_BRIDGE: &str = "docker_gwbridge";

/// Keeps networks that other hosts have a part in. Every method may block, for a bounded time.
pub trait SharedNetworks: Send + Sync {
    /// The network that a name or an id means.
    ///
    /// # Errors
    /// Not found; forbidden when containers may not join it.
    fn find(&self, given: &str) -> Result<NetworkInspect>;

    /// Gives a container a place on the network with this id: its addresses with prefix length.
    /// One that has a place keeps it.
    fn reserve(
        &self,
        network: &str,
        container: &GuestIdentity,
        addresses: &[IpAddr],
    ) -> Result<Vec<IpNet>>;

    /// Leads every endpoint of a guest into its network namespace.
    fn wire(&self, guest: &Guest) -> Result<()>;

    /// Takes a place back, some time soon.
    fn release(&self, network: &str, container: &str);
}

/// Who a container is to others on a shared network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestIdentity {
    pub id: String,
    pub name: String,
    /// Empty unless somebody chose it.
    pub hostname: String,
    pub aliases: Vec<String>,
}

/// A container with a place on shared networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    pub id: String,
    /// Name of its pinned network namespace.
    pub netns: String,
    pub endpoints: Vec<GuestEndpoint>,
}

/// One place of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestEndpoint {
    /// The network's id.
    pub network: String,
    pub identity: GuestIdentity,
    /// Name of the interface in the container.
    pub ifname: String,
    /// With the prefix length of their subnets.
    pub addresses: Vec<IpNet>,
}

impl Engine {
    /// Takes over who keeps the shared networks, `None` when nobody does any more, and starts
    /// the containers that waited for them.
    pub async fn set_shared_networks(&self, keeper: Option<Arc<dyn SharedNetworks>>) {
        let is_there = keeper.is_some();
        *self
            .shared_networks
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = keeper;
        if is_there {
            self.resume_guests().await;
        }
    }

    /// The containers that have a place on a shared network now, and what of it leads into them.
    pub fn guests(&self) -> Vec<Guest> {
        let mut guests = self.places();
        for guest in &mut guests {
            guest
                .endpoints
                .retain(|endpoint| !endpoint.ifname.is_empty());
        }
        guests.retain(|guest| !guest.endpoints.is_empty());
        guests
    }

    /// The containers that have a place on a shared network now, those too that are only about to
    /// be led to it: they have no interface yet.
    pub fn places(&self) -> Vec<Guest> {
        self.containers
            .all()
            .iter()
            .filter_map(|container| self.guest(&container.lock().record))
            .collect()
    }

    /// Whether a container names a network that is not of this host.
    pub(crate) fn is_guest(&self, record: &ContainerRecord) -> bool {
        let mode = record.host_config.network_mode.as_str();
        record.extras.netns.is_none()
            && !mode.starts_with("container:")
            && record.networks.iter().any(|(name, endpoint)| {
                !self.is_local(name, endpoint) && self.networks.exact(name).is_none()
            })
    }

    /// Whether an endpoint is on a network of this host. The id decides, once it is known: names
    /// may be given to a network of this host later.
    pub(super) fn is_local(&self, name: &str, endpoint: &EndpointSettings) -> bool {
        match endpoint.network_id.as_str() {
            "" => self.networks.exact(name).is_some(),
            id => self.networks.contains(id),
        }
    }

    /// A network of this host, or a shared one. Blocking.
    pub(super) fn network_of(&self, given: &str) -> Result<Arc<NetworkInspect>> {
        if let Some(network) = self.networks.exact(given) {
            return Ok(network);
        }
        // Its whole name or id means a shared network before the start of an id means one of here.
        let shared = self.keeper().map(|keeper| keeper.find(given));
        match (shared, self.networks.find(given)) {
            (Some(Ok(shared)), _) => Ok(Arc::new(shared)),
            (_, Ok(local)) => Ok(local),
            (Some(Err(error)), Err(_)) | (None, Err(error)) => Err(error),
        }
    }

    /// A network that a container's record names, without asking anybody.
    pub(super) fn network_on_record(
        &self,
        name: &str,
        endpoint: &EndpointSettings,
    ) -> Option<Arc<NetworkInspect>> {
        if self.is_local(name, endpoint) {
            return self.networks.exact(match endpoint.network_id.as_str() {
                "" => name,
                id => id,
            });
        }
        (!endpoint.network_id.is_empty()).then(|| {
            Arc::new(NetworkInspect {
                id: endpoint.network_id.clone(),
                name: name.to_owned(),
                scope: "swarm".to_owned(),
                driver: "overlay".to_owned(),
                ..NetworkInspect::default()
            })
        })
    }

    /// Whether there is a shared network of this very name or id. Blocking.
    pub(crate) fn is_shared_name(&self, given: &str) -> bool {
        self.keeper()
            .is_some_and(|keeper| keeper.find(given).is_ok())
    }

    fn keeper(&self) -> Option<Arc<dyn SharedNetworks>> {
        self.shared_networks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn guest(&self, record: &ContainerRecord) -> Option<Guest> {
        if record.extras.netns.is_some() {
            return None;
        }
        let endpoints: Vec<GuestEndpoint> = record
            .networks
            .iter()
            .filter(|(name, endpoint)| {
                !endpoint.endpoint_id.is_empty()
                    && !endpoint.network_id.is_empty()
                    && !self.is_local(name, endpoint)
            })
            .map(|(name, endpoint)| GuestEndpoint {
                network: endpoint.network_id.clone(),
                identity: identity(record, endpoint),
                ifname: record.interfaces.get(name).cloned().unwrap_or_default(),
                addresses: addresses_of(endpoint),
            })
            .collect();
        (!endpoints.is_empty()).then(|| Guest {
            id: record.id.clone(),
            netns: skep_net::names::container_netns(&record.id),
            endpoints,
        })
    }

    /// Asks for a place on every shared network of a container that is about to start, before
    /// anything waits for it. Blocking.
    pub(super) fn reserve_all(
        &self,
        container: &Container,
        networks: &BTreeMap<String, Arc<NetworkInspect>>,
    ) -> Result<()> {
        for (name, network) in networks.iter().filter(|(_, network)| is_shared(network)) {
            self.reserve(container, name, network)?;
        }
        Ok(())
    }

    /// Asks for one place, and writes it down.
    pub(super) fn reserve(
        &self,
        container: &Container,
        name: &str,
        network: &NetworkInspect,
    ) -> Result<()> {
        let record = container.record();
        let wish = record.networks.get(name).cloned().unwrap_or_default();
        if !wish.mac_address.is_empty() {
            return Err(EngineError::invalid(format!(
                "network {}: MAC addresses of overlay networks follow from the IP address and cannot be chosen",
                network.name
            )));
        }
        let keeper = self
            .keeper()
            .ok_or_else(|| EngineError::no_such_network(&network.name))?;
        let asked = wish.ipam_config.clone().unwrap_or_default();
        let mut wanted = Vec::new();
        for text in [&asked.ipv4_address, &asked.ipv6_address] {
            if !text.is_empty() {
                wanted
                    .push(text.parse().map_err(|_| {
                        EngineError::invalid(format!("invalid IP address: {text}"))
                    })?);
            }
        }
        let addresses = keeper.reserve(&network.id, &identity(&record, &wish), &wanted)?;
        let mac = addresses.first().map(|net| Mac::of(net.addr()).to_string());
        let endpoint_id = names::new_id(&mut rand::rng());
        let settings = EndpointSettings {
            mac_address: mac.unwrap_or_default(),
            gateway: String::new(),
            ipv6_gateway: String::new(),
            ..filled(wish, network, &endpoint_id, &addresses, &record)
        };
        container.change(|inner| {
            let record = &mut inner.record;
            // It may have been named by its id.
            record.networks.remove(name);
            if record.host_config.network_mode == name {
                record.host_config.network_mode.clone_from(&network.name);
            }
            record.networks.insert(network.name.clone(), settings);
        })
    }

    /// Chooses the interface that a reserved place gets in the container; see
    /// [`Engine::wire_places`].
    pub(super) fn attach_shared(
        &self,
        container: &Container,
        name: &str,
        ifname: &str,
    ) -> Result<()> {
        container.change(|inner| {
            let interfaces = &mut inner.record.interfaces;
            interfaces.insert(name.to_owned(), ifname.to_owned());
        })
    }

    /// Leads the reserved places of a container into it, if it has any. Others are waited for, so
    /// no lock may be held. Blocking.
    pub(super) fn wire_places(&self, container: &Container) -> Result<()> {
        let record = container.record();
        let Some(guest) = self.guest(&record) else {
            return Ok(());
        };
        let keeper = self.keeper().ok_or_else(|| {
            EngineError::new(
                crate::Kind::Unavailable,
                "nobody keeps the container's shared networks",
            )
        })?;
        keeper.wire(&guest)?;
        for (name, endpoint) in &record.networks {
            if let Some(network) = self.network_on_record(name, endpoint)
                && is_shared(&network)
            {
                self.network_event("connect", &network, Some(&container.id));
            }
        }
        Ok(())
    }

    /// Gives a container on shared networks alone its way out, and its published ports.
    pub(super) fn attach_gateway(
        &self,
        container: &Container,
        netns: &Path,
        ifname: &str,
    ) -> Result<()> {
        let network = self.gateway_bridge()?;
        let record = container.record();
        let endpoint_id = names::new_id(&mut rand::rng());
        let wish = EndpointSettings::default();
        let addresses = self.allocate(&network, &wish, &endpoint_id)?;
        let settings = filled(wish, &network, &endpoint_id, &addresses, &record);
        container.change(|inner| {
            inner.record.gateway = Some(settings);
            let interfaces = &mut inner.record.interfaces;
            interfaces.insert(GATEWAY_BRIDGE.to_owned(), ifname.to_owned());
        })?;
        self.net
            .ensure_bridge(&bridge_of(&network))
            .map_err(net_error)?;
        let endpoint = BridgeEndpoint {
            id: endpoint_id,
            name: record.name.clone(),
            network: network.id.clone(),
            netns: netns.to_owned(),
            ifname: ifname.to_owned(),
            addresses,
            mac: None,
            default_route: true,
            ports: ports::requests(&record)?,
        };
        let bound = self
            .net
            .connect(&endpoint)
            .map_err(|error| net_error(error).context("failed to set up container networking"))?;
        self.note_ports(container, &record, &bound)
    }

    /// The endpoint of a container's way out, as the data plane wants it again after a restart.
    pub(super) fn gateway_endpoint(
        &self,
        record: &ContainerRecord,
        netns: &Path,
    ) -> Option<BridgeEndpoint> {
        let settings = record.gateway.as_ref()?;
        let addresses = addresses_of(settings);
        for address in &addresses {
            self.networks
                .take(&settings.network_id, address.addr(), &settings.endpoint_id);
        }
        Some(BridgeEndpoint {
            id: settings.endpoint_id.clone(),
            name: record.name.clone(),
            network: settings.network_id.clone(),
            netns: netns.to_owned(),
            ifname: record.interfaces.get(GATEWAY_BRIDGE)?.clone(),
            addresses,
            mac: None,
            default_route: true,
            ports: ports::again(&record.ports),
        })
    }

    /// Takes a container off a shared network.
    pub(super) fn detach_shared(&self, container: &Container, name: &str) {
        let record = container.record();
        let Some(settings) = record.networks.get(name) else {
            return;
        };
        let network = settings.network_id.clone();
        let cleared = container.change(|inner| {
            if let Some(endpoint) = inner.record.networks.get_mut(name) {
                *endpoint = emptied(endpoint);
            }
            inner.record.interfaces.remove(name);
        });
        if let Err(error) = cleared {
            tracing::warn!(%error, "cannot note a released endpoint");
        }
        if let Some(keeper) = self.keeper() {
            keeper.release(&network, &container.id);
        }
        let left = NetworkInspect {
            id: network,
            name: name.to_owned(),
            driver: "overlay".to_owned(),
            ..NetworkInspect::default()
        };
        self.network_event("disconnect", &left, Some(&container.id));
    }

    pub(super) fn detach_gateway(&self, container: &Container) {
        let Some(settings) = container.record().gateway else {
            return;
        };
        if let Err(error) = self.net.disconnect(&settings.endpoint_id) {
            tracing::warn!(%error, container = container.id, "the way out was left");
        }
        self.networks
            .give_back(&settings.network_id, &settings.endpoint_id);
        let cleared = container.change(|inner| {
            inner.record.gateway = None;
            inner.record.interfaces.remove(GATEWAY_BRIDGE);
        });
        if let Err(error) = cleared {
            tracing::warn!(%error, "cannot note a released endpoint");
        }
    }

    fn gateway_bridge(&self) -> Result<Arc<NetworkInspect>> {
        if let Ok(network) = self.networks.find(GATEWAY_BRIDGE) {
            return self.with_subnets(network);
        }
        let options = [
            ("com.docker.network.bridge.enable_icc", "false"),
            ("com.docker.network.bridge.enable_ip_masquerade", "true"),
            ("com.docker.network.bridge.name", GATEWAY_BRIDGE),
        ];
        let network = self.networks.put(NetworkInspect {
            name: GATEWAY_BRIDGE.to_owned(),
            id: names::new_id(&mut rand::rng()),
            created: crate::clock::now(),
            scope: "local".into(),
            driver: "bridge".into(),
            enable_ipv4: true,
            ipam: Ipam {
                driver: "default".into(),
                ..Ipam::default()
            },
            options: options
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..NetworkInspect::default()
        })?;
        self.with_subnets(network)
    }
}

/// Whether a network is one that a cluster shares.
pub(super) fn is_shared(network: &NetworkInspect) -> bool {
    network.driver == "overlay"
}

/// Who a container is on one network.
fn identity(record: &ContainerRecord, endpoint: &EndpointSettings) -> GuestIdentity {
    let chosen = record.config.hostname != record.id.get(..12).unwrap_or_default();
    GuestIdentity {
        id: record.id.clone(),
        name: record.name.clone(),
        hostname: match chosen {
            true => record.config.hostname.clone(),
            false => String::new(),
        },
        aliases: endpoint.aliases.clone().unwrap_or_default(),
    }
}
