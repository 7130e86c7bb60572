//! Endpoints and networks as values: from records to what the data plane wants,
//! and back. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use skep_net::{BridgeEndpoint, BridgeNetwork, Mac, VlanEndpoint, VlanMode};

use super::shared::is_shared;
use super::zones;
use crate::container::ContainerRecord;
use crate::error::{EngineError, Result};
use crate::extras::HostsEntry;
use crate::types::{EndpointSettings, IpamConfig, NetworkInspect};

const DEFAULT_MTU: u32 = 1500;

/// A network as the data plane wants it.
pub(super) fn bridge_of(network: &NetworkInspect) -> BridgeNetwork {
    let option = |key: &str| network.options.get(key).map(String::as_str);
    let flag = |key: &str| option(key).is_none_or(|value| value != "false" && value != "0");
    BridgeNetwork {
        id: network.id.clone(),
        bridge: option("com.docker.network.bridge.name").map(str::to_owned),
        gateways: network.ipam.config.iter().filter_map(gateway_of).collect(),
        mtu: option("com.docker.network.driver.mtu")
            .and_then(|mtu| mtu.parse().ok())
            .unwrap_or(DEFAULT_MTU),
        internal: network.internal,
        icc: flag("com.docker.network.bridge.enable_icc"),
        masquerade: flag("com.docker.network.bridge.enable_ip_masquerade"),
    }
}

fn gateway_of(range: &IpamConfig) -> Option<IpNet> {
    let subnet: IpNet = range.subnet.parse().ok()?;
    IpNet::new(range.gateway.parse().ok()?, subnet.prefix_len()).ok()
}

/// The networks of a container in the order of their interfaces: the one of its
/// network mode first, then by name.
pub(super) fn in_order(record: &ContainerRecord) -> Vec<&String> {
    let mode = match record.host_config.network_mode.as_str() {
        "" | "default" => "bridge",
        mode => mode,
    };
    let mut order: Vec<&String> = record.networks.keys().collect();
    order.sort_by_key(|name| (name.as_str() != mode, (*name).clone()));
    order
}

/// Which network gives the default route: not an internal or shared one, the highest
/// priority, the first by name.
pub(super) fn gateway_network(
    record: &ContainerRecord,
    networks: &BTreeMap<String, Arc<NetworkInspect>>,
) -> Option<String> {
    record
        .networks
        .iter()
        .filter(|(name, _)| {
            networks
                .get(*name)
                .is_some_and(|network| !network.internal && !is_shared(network))
        })
        .max_by(|(a, left), (b, right)| left.gw_priority.cmp(&right.gw_priority).then(b.cmp(a)))
        .map(|(name, _)| name.clone())
}

/// A container's place on a bridge, as its record has it: without default route and ports. Its
/// interface is named by `number` in records of before names were kept.
pub(super) fn bridge_endpoint(
    record: &ContainerRecord,
    network: &NetworkInspect,
    netns: &Path,
    number: usize,
) -> BridgeEndpoint {
    let settings = &record.networks[&network.name];
    let ifname = record.interfaces.get(&network.name).cloned();
    BridgeEndpoint {
        id: settings.endpoint_id.clone(),
        name: record.name.clone(),
        network: network.id.clone(),
        netns: netns.to_owned(),
        ifname: ifname.unwrap_or_else(|| format!("eth{number}")),
        addresses: addresses_of(settings),
        mac: settings.mac_address.parse().ok(),
        default_route: false,
        ports: Vec::new(),
    }
}

/// An endpoint with its addresses filled in.
pub(super) fn filled(
    wish: EndpointSettings,
    network: &NetworkInspect,
    endpoint_id: &str,
    addresses: &[IpNet],
    record: &ContainerRecord,
) -> EndpointSettings {
    let four = addresses.iter().find(|net| net.addr().is_ipv4());
    let six = addresses.iter().find(|net| net.addr().is_ipv6());
    let gateway = |is_six: bool| {
        network
            .ipam
            .config
            .iter()
            .find(|range| range.subnet.contains(':') == is_six && !network.internal)
            .map(|range| range.gateway.clone())
            .unwrap_or_default()
    };
    let dns_names =
        (network.name != "bridge").then(|| zones::names(&record.name, &record.id, &wish));
    EndpointSettings {
        network_id: network.id.clone(),
        endpoint_id: endpoint_id.to_owned(),
        gateway: four.map(|_| gateway(false)).unwrap_or_default(),
        ip_address: four.map(|net| net.addr().to_string()).unwrap_or_default(),
        ip_prefix_len: four.map_or(0, |net| i64::from(net.prefix_len())),
        ipv6_gateway: six.map(|_| gateway(true)).unwrap_or_default(),
        global_ipv6_address: six.map(|net| net.addr().to_string()).unwrap_or_default(),
        global_ipv6_prefix_len: six.map_or(0, |net| i64::from(net.prefix_len())),
        dns_names,
        ..wish
    }
}

/// An endpoint without what it had while running. A MAC address that was not
/// asked for follows from the next address.
pub(super) fn emptied(endpoint: &EndpointSettings) -> EndpointSettings {
    let derived = endpoint
        .ip_address
        .parse::<IpAddr>()
        .is_ok_and(|ip| Mac::of(ip).to_string() == endpoint.mac_address);
    EndpointSettings {
        ipam_config: endpoint.ipam_config.clone(),
        links: endpoint.links.clone(),
        aliases: endpoint.aliases.clone(),
        driver_opts: endpoint.driver_opts.clone(),
        gw_priority: endpoint.gw_priority,
        network_id: endpoint.network_id.clone(),
        mac_address: match derived {
            true => String::new(),
            false => endpoint.mac_address.clone(),
        },
        ..EndpointSettings::default()
    }
}

pub(super) fn addresses_of(settings: &EndpointSettings) -> Vec<IpNet> {
    [
        (&settings.ip_address, settings.ip_prefix_len),
        (
            &settings.global_ipv6_address,
            settings.global_ipv6_prefix_len,
        ),
    ]
    .into_iter()
    .filter_map(|(address, prefix)| {
        IpNet::new(address.parse().ok()?, u8::try_from(prefix).ok()?).ok()
    })
    .collect()
}

pub(super) fn own_hosts(record: &ContainerRecord) -> Vec<HostsEntry> {
    let config = &record.config;
    let mut names = Vec::new();
    if !config.domainname.is_empty() {
        names.push(format!("{}.{}", config.hostname, config.domainname));
    }
    names.push(config.hostname.clone());
    record
        .networks
        .values()
        .flat_map(addresses_of)
        .map(|address| HostsEntry {
            address: address.addr(),
            names: names.clone(),
        })
        .collect()
}

pub(super) fn vlan_endpoint(
    network: &NetworkInspect,
    id: String,
    netns: &Path,
    ifname: &str,
    addresses: Vec<IpNet>,
    mac: Option<Mac>,
    is_gateway: bool,
) -> Result<VlanEndpoint> {
    let option = |key: &str| network.options.get(key).map_or("", String::as_str);
    let mode = match (
        network.driver.as_str(),
        option("macvlan_mode"),
        option("ipvlan_mode"),
    ) {
        ("macvlan", "" | "bridge", _) => VlanMode::MacvlanBridge,
        ("macvlan", "private", _) => VlanMode::MacvlanPrivate,
        ("macvlan", "vepa", _) => VlanMode::MacvlanVepa,
        ("macvlan", "passthru", _) => VlanMode::MacvlanPassthru,
        ("ipvlan", _, "" | "l2") => VlanMode::IpvlanL2,
        ("ipvlan", _, "l3") => VlanMode::IpvlanL3,
        (driver, ..) => {
            return Err(EngineError::invalid(format!(
                "network {} has an unknown {driver} mode",
                network.name
            )));
        }
    };
    Ok(VlanEndpoint {
        id,
        mode,
        parent: option("parent").to_owned(),
        netns: netns.to_owned(),
        ifname: ifname.to_owned(),
        addresses,
        mac,
        gateways: match is_gateway {
            true => network
                .ipam
                .config
                .iter()
                .filter_map(|range| range.gateway.parse().ok())
                .collect(),
            false => Vec::new(),
        },
        mtu: None,
    })
}
