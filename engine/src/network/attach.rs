//! Putting containers on networks and taking them off.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use skep_dns::DnsConfig;
use skep_net::{BoundPort, BridgeEndpoint, Mac};
use skep_shim::config::Namespace;

use super::endpoint::{
    bridge_of, emptied, filled, gateway_network, in_order, own_hosts, vlan_endpoint,
};
use super::shared::is_shared;
use super::{ports, zones};
use crate::container::{Container, ContainerRecord};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::events::event;
use crate::extras::HostsEntry;
use crate::names;
use crate::types::{EndpointSettings, IpamConfig, NetworkInspect};

/// What a container needs to know of its network to start.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) net: Namespace,
    pub(crate) dns: Option<DnsConfig>,
    /// Whether its resolv.conf names our resolver.
    pub(crate) own_resolver: bool,
    /// Its addresses with its host name, for /etc/hosts.
    pub(crate) own_hosts: Vec<HostsEntry>,
    /// The pinned namespace, if the engine made one.
    pub(crate) netns: Option<PathBuf>,
}

pub(super) fn net_error(error: skep_net::NetError) -> EngineError {
    let kind = match error.kind() {
        skep_net::Kind::NotFound => crate::Kind::NotFound,
        skep_net::Kind::Invalid => crate::Kind::Invalid,
        // dockerd answers a port that is taken with 500, as do we.
        skep_net::Kind::Unavailable => crate::Kind::Unavailable,
        _ => crate::Kind::Internal,
    };
    EngineError::new(kind, error.to_string())
}

impl Engine {
    /// Makes the network of a container that is about to start. All of it or
    /// nothing. Blocking.
    pub(crate) fn attach_networks(&self, container: &Container) -> Result<Attached> {
        let record = container.record();
        if let Some(netns) = &record.extras.netns {
            return Ok(Attached {
                net: Namespace::Join(netns.clone()),
                own_resolver: record.extras.dns.is_some(),
                dns: record.extras.dns.clone(),
                own_hosts: own_hosts(&record),
                netns: None,
            });
        }
        let plain = |net: Namespace| Attached {
            net,
            dns: None,
            own_resolver: false,
            own_hosts: Vec::new(),
            netns: None,
        };
        let mode = record.host_config.network_mode.as_str();
        if let Some(other) = mode.strip_prefix("container:") {
            let other = self.containers.find(other)?;
            let (live, pid) = {
                let inner = other.lock();
                let state = &inner.record.state;
                (state.status.is_live(), state.pid)
            };
            if !live {
                return Err(EngineError::conflict(format!(
                    "cannot join network of a non running container: {}",
                    other.id
                )));
            }
            return Ok(plain(Namespace::Join(format!("/proc/{pid}/ns/net").into())));
        }
        if matches!(mode, "host" | "none") {
            // An endpoint for inspecting only.
            container.change(|inner| {
                if let Some(endpoint) = inner.record.networks.get_mut(mode) {
                    endpoint.endpoint_id = names::new_id(&mut rand::rng());
                }
            })?;
            if let Ok(network) = self.networks.find(mode) {
                self.network_event("connect", &network, Some(&container.id));
            }
        }
        match mode {
            "host" => return Ok(plain(Namespace::Host)),
            "none" => return Ok(plain(Namespace::New)),
            _ if record.config.network_disabled => return Ok(plain(Namespace::New)),
            _ => {}
        }
        let attached = self
            .networks_of(&record)
            .and_then(|networks| self.attach_managed(container, &networks));
        attached.inspect_err(|_| self.detach_networks(container))
    }

    /// The networks a container names, with their subnets.
    fn networks_of(
        &self,
        record: &ContainerRecord,
    ) -> Result<BTreeMap<String, Arc<NetworkInspect>>> {
        let mut networks = BTreeMap::new();
        for name in record.networks.keys() {
            let network = self.network_of(name).map_err(|error| {
                let text = format!("failed to set up container networking: {error}");
                EngineError::new(error.kind(), text)
            })?;
            networks.insert(name.clone(), self.with_subnets(network)?);
        }
        Ok(networks)
    }

    /// Makes the namespace of a container and puts it on its networks.
    fn attach_managed(
        &self,
        container: &Container,
        networks: &BTreeMap<String, Arc<NetworkInspect>>,
    ) -> Result<Attached> {
        // Others are asked before the lock is held: they may take their time.
        self.reserve_all(container, networks)?;
        let networks = &networks
            .values()
            .map(|network| (network.name.clone(), Arc::clone(network)))
            .collect();
        let attached = self.attach_here(container, networks)?;
        self.wire_places(container)?;
        Ok(attached)
    }

    fn attach_here(
        &self,
        container: &Container,
        networks: &BTreeMap<String, Arc<NetworkInspect>>,
    ) -> Result<Attached> {
        let _work = self.networks.work.lock();
        let record = container.record();
        let name = skep_net::names::container_netns(&record.id);
        let netns = self.net.namespaces().path(&name);
        match &record.ids {
            None => self.net.namespaces().create(&name),
            // Only a network of its own user namespace can the container configure.
            Some(ids) => {
                let held = self.launcher.network_namespace(ids).map_err(|error| {
                    EngineError::internal("cannot make a user namespace").because(error)
                })?;
                self.net.namespaces().pin(&name, held.path())
            }
        }
        .map_err(net_error)?;
        self.attach_all(container, networks, &netns)
    }

    fn attach_all(
        &self,
        container: &Container,
        networks: &BTreeMap<String, Arc<NetworkInspect>>,
        netns: &Path,
    ) -> Result<Attached> {
        let record = container.record();
        let gateway = gateway_network(&record, networks);
        for (number, name) in in_order(&record).into_iter().enumerate() {
            let is_gateway = gateway.as_ref() == Some(name);
            let (network, ifname) = (&networks[name], format!("eth{number}"));
            match is_shared(network) {
                true => self.attach_shared(container, name, &ifname)?,
                false => self.attach_one(container, network, netns, &ifname, is_gateway)?,
            }
        }
        let leaves = networks.values().any(|network| !network.internal);
        if gateway.is_none() && leaves {
            let ifname = format!("eth{}", networks.len());
            self.attach_gateway(container, netns, &ifname)?;
        }
        let record = container.record();
        let user_defined: Vec<&NetworkInspect> = in_order(&record)
            .into_iter()
            .map(|name| &*networks[name])
            .filter(|network| network.name != "bridge")
            .collect();
        self.link_zones(container, &user_defined)?;
        for network in networks.values().filter(|network| !is_shared(network)) {
            self.write_zone(network)?;
        }
        let mut dns = self.dns_config(&record);
        dns.zones = zones::slots(&container.runtime);
        if !networks.is_empty() && networks.values().all(|network| network.internal) {
            dns.upstreams.clear();
        }
        Ok(Attached {
            net: Namespace::Join(netns.to_owned()),
            dns: Some(dns),
            own_resolver: !user_defined.is_empty(),
            own_hosts: own_hosts(&record),
            netns: Some(netns.to_owned()),
        })
    }

    /// Resolvers, search list and options: the container's, the engine's or the
    /// host's.
    pub(crate) fn dns_config(&self, record: &ContainerRecord) -> DnsConfig {
        let host = &record.host_config;
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let of_host = DnsConfig::from_resolv_conf(&text);
        let servers: Vec<std::net::SocketAddr> = match (&host.dns[..], &self.config.dns[..]) {
            ([], []) => of_host.upstreams,
            ([], own) => own.iter().map(|ip| (*ip, 53).into()).collect(),
            (given, _) => given
                .iter()
                .filter_map(|text| text.parse::<IpAddr>().ok())
                .map(|ip| (ip, 53).into())
                .collect(),
        };
        let first = |lists: [&[String]; 3]| {
            let chosen = lists.into_iter().find(|list| !list.is_empty());
            let mut chosen = chosen.unwrap_or_default().to_vec();
            // `--dns-search .` means none.
            chosen.retain(|word| word != ".");
            chosen
        };
        DnsConfig {
            zones: Vec::new(),
            group: String::new(),
            upstreams: servers,
            search: first([&host.dns_search, &self.config.dns_search, &of_host.search]),
            options: first([
                &host.dns_options,
                &self.config.dns_options,
                &of_host.options,
            ]),
        }
    }

    pub(super) fn attach_one(
        &self,
        container: &Container,
        network: &NetworkInspect,
        netns: &Path,
        ifname: &str,
        is_gateway: bool,
    ) -> Result<()> {
        let record = container.record();
        let wish = record
            .networks
            .get(&network.name)
            .cloned()
            .unwrap_or_default();
        let endpoint_id = names::new_id(&mut rand::rng());
        let addresses = self.allocate(network, &wish, &endpoint_id)?;
        // The record knows of the endpoint before the kernel does, so that a
        // crash in between is cleaned up.
        let mac = match wish.mac_address.as_str() {
            "" => None,
            text => Some(
                text.parse::<Mac>()
                    .map_err(|_| EngineError::invalid(format!("invalid MAC address: {text}")))?,
            ),
        };
        let first = addresses.first().map(IpNet::addr);
        let mac_text = mac.or(first.map(Mac::of)).map(|mac| mac.to_string());
        let unrouted = link_local(&wish)?;
        let settings = filled(wish, network, &endpoint_id, &addresses, &record);
        let addresses = [addresses, unrouted].concat();
        container.change(|inner| {
            inner.record.networks.insert(
                network.name.clone(),
                EndpointSettings {
                    mac_address: mac_text.unwrap_or_default(),
                    ..settings
                },
            );
            let interfaces = &mut inner.record.interfaces;
            interfaces.insert(network.name.clone(), ifname.to_owned());
        })?;
        let bound = match network.driver.as_str() {
            "bridge" => {
                self.net
                    .ensure_bridge(&bridge_of(network))
                    .map_err(net_error)?;
                let endpoint = BridgeEndpoint {
                    id: endpoint_id,
                    name: record.name.clone(),
                    network: network.id.clone(),
                    netns: netns.to_owned(),
                    ifname: ifname.to_owned(),
                    addresses,
                    mac,
                    default_route: is_gateway,
                    ports: match is_gateway {
                        true => ports::requests(&record)?,
                        false => Vec::new(),
                    },
                };
                self.net.connect(&endpoint).map_err(|error| {
                    net_error(error).context("failed to set up container networking")
                })?
            }
            _ => {
                let endpoint = vlan_endpoint(
                    network,
                    endpoint_id,
                    netns,
                    ifname,
                    addresses,
                    mac,
                    is_gateway,
                )?;
                self.net.connect_vlan(&endpoint).map_err(net_error)?;
                Vec::new()
            }
        };
        if is_gateway || !bound.is_empty() {
            self.note_ports(container, &record, &bound)?;
        }
        self.network_event("connect", network, Some(&container.id));
        Ok(())
    }

    pub(super) fn note_ports(
        &self,
        container: &Container,
        record: &ContainerRecord,
        bound: &[BoundPort],
    ) -> Result<()> {
        let shown = ports::shown(record, bound);
        container.change(|inner| inner.record.ports = shown)
    }

    pub(super) fn allocate(
        &self,
        network: &NetworkInspect,
        wish: &EndpointSettings,
        owner: &str,
    ) -> Result<Vec<IpNet>> {
        let asked = wish.ipam_config.clone().unwrap_or_default();
        let parse = |text: &str| -> Result<Option<IpAddr>> {
            match text {
                "" => Ok(None),
                text => text
                    .parse()
                    .map(Some)
                    .map_err(|_| EngineError::invalid(format!("invalid IP address: {text}"))),
            }
        };
        let (four, six) = (parse(&asked.ipv4_address)?, parse(&asked.ipv6_address)?);
        let mut addresses = Vec::new();
        for is_six in [false, true] {
            let wanted = if is_six { six } else { four };
            let ranges: Vec<&IpamConfig> = network
                .ipam
                .config
                .iter()
                .filter(|range| range.subnet.contains(':') == is_six)
                .collect();
            let mut failure = wanted.map(|wanted| {
                EngineError::invalid(format!(
                    "invalid config for network {}: invalid endpoint settings:\nno configured subnet contains IP address {wanted}",
                    network.name
                ))
            });
            for range in ranges {
                match self.networks.allocate(network, range, wanted, owner) {
                    Ok(address) => {
                        addresses.push(address);
                        failure = None;
                        break;
                    }
                    Err(error) if wanted.is_none() || error.kind() == crate::Kind::Forbidden => {
                        failure = Some(error);
                    }
                    Err(_) => {}
                }
            }
            if let Some(error) = failure {
                self.networks.give_back(&network.id, owner);
                return Err(error);
            }
        }
        Ok(addresses)
    }

    /// Takes a container that ended off its networks. Goes on past failures.
    /// Blocking.
    pub(crate) fn detach_networks(&self, container: &Container) {
        let _work = self.networks.work.lock();
        self.detach_all(container);
    }

    fn detach_all(&self, container: &Container) {
        let record = container.record();
        if record.extras.netns.is_some() {
            return;
        }
        for (name, settings) in &record.networks {
            self.detach_one(container, name, settings);
        }
        self.detach_gateway(container);
        let netns = skep_net::names::container_netns(&record.id);
        if self.net.namespaces().path(&netns).exists()
            && let Err(error) = self.net.namespaces().delete(&netns)
        {
            tracing::warn!(%error, container = record.id, "a network namespace was left");
        }
        if !record.ports.is_empty()
            && let Err(error) = container.change(|inner| inner.record.ports.clear())
        {
            tracing::warn!(%error, "cannot note released ports");
        }
    }

    pub(super) fn detach_one(
        &self,
        container: &Container,
        name: &str,
        settings: &EndpointSettings,
    ) {
        if settings.endpoint_id.is_empty() {
            return;
        }
        let local = self
            .network_on_record(name, settings)
            .filter(|network| !is_shared(network));
        let Some(network) = local else {
            return self.detach_shared(container, name);
        };
        if let Err(error) = self.net.disconnect(&settings.endpoint_id) {
            tracing::warn!(%error, container = container.id, network = name, "an endpoint was left");
        }
        self.networks
            .give_back(&settings.network_id, &settings.endpoint_id);
        let cleared = container.change(|inner| {
            if let Some(endpoint) = inner.record.networks.get_mut(name) {
                *endpoint = emptied(endpoint);
            }
            inner.record.interfaces.remove(name);
        });
        if let Err(error) = cleared {
            tracing::warn!(%error, "cannot note a released endpoint");
        }
        if let Err(error) = self.write_zone(&network) {
            tracing::warn!(%error, network = name, "names of a network are old");
        }
        self.network_event("disconnect", &network, Some(&container.id));
    }

    pub(super) fn remove_bridge(&self, network: &NetworkInspect) -> Result<()> {
        let _work = self.networks.work.lock();
        if network.driver == "bridge" {
            self.net.remove_bridge(&network.id).map_err(net_error)?;
        }
        crate::record::remove_file(&self.zone_file(network))
    }

    pub(super) fn make_bridge(&self, network: &NetworkInspect) -> Result<()> {
        let _work = self.networks.work.lock();
        if network.driver == "bridge" {
            self.net
                .ensure_bridge(&bridge_of(network))
                .map_err(net_error)?;
        }
        self.write_zone(network)
    }

    /// Leads the container's questions for names to its shim. Blocking.
    pub(crate) fn lead_dns(&self, netns: &Path, udp: u16, tcp: u16) -> Result<()> {
        self.net.redirect_dns(netns, udp, tcp).map_err(net_error)
    }

    /// What went through a container's interfaces. Blocking.
    pub(crate) fn interface_counters(&self, pid: i64) -> Vec<skep_net::InterfaceCounters> {
        self.net
            .counters(Path::new(&format!("/proc/{pid}/ns/net")))
            .unwrap_or_default()
    }

    pub(super) fn network_event(
        &self,
        action: &str,
        network: &NetworkInspect,
        container: Option<&str>,
    ) {
        let mut attributes = BTreeMap::from([
            ("name".to_owned(), network.name.clone()),
            ("type".to_owned(), network.driver.clone()),
        ]);
        if let Some(container) = container {
            attributes.insert("container".into(), container.into());
        }
        self.events
            .publish(event("network", action, network.id.clone(), attributes));
    }
}

/// The link-local addresses asked for, with the subnets they are from.
fn link_local(wish: &EndpointSettings) -> Result<Vec<IpNet>> {
    let asked = wish
        .ipam_config
        .iter()
        .flat_map(|ipam| &ipam.link_local_ips);
    asked
        .map(|text| {
            let address: IpAddr = text.parse().map_err(|_| {
                EngineError::invalid(format!("invalid link-local IP address {text}"))
            })?;
            let prefix = if address.is_ipv4() { 16 } else { 64 };
            IpNet::new(address, prefix)
                .map_err(|error| EngineError::internal("no such prefix").because(error))
        })
        .collect()
}
