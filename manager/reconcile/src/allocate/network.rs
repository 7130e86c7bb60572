//! Subnets, VXLAN id and MTU of a new network.

use std::collections::BTreeSet;

use ipnet::IpNet;
use skep_model::network::IpamConfig;
use skep_model::{Cluster, Network, Timestamp};
use skep_plan::allocate::addresses::default_gateway;
use skep_plan::allocate::{numbers, subnets};
use skep_store::Snapshot;

/// The label that asks for a certain VXLAN id, as in Swarm.
const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// Fills in what a network has not been given yet, or says why it has to wait.
pub(super) fn allocate_network(
    view: &Snapshot,
    cluster: &Cluster,
    network: &mut Network,
    now: Timestamp,
) -> Result<(), String> {
    let taken: Vec<IpNet> = view
        .networks()
        .filter(|other| other.id != network.id)
        .flat_map(|other| &other.ipam)
        .filter_map(|config| config.subnet)
        .collect();
    network.ipam = ipam(cluster, network, &taken)?;
    let used: BTreeSet<u32> = view.networks().map(|other| other.vni).collect();
    let options = network.spec.driver.as_ref().map(|driver| &driver.options);
    network.vni = match options.and_then(|options| options.get(VNI_OPTION)) {
        Some(text) => {
            let vni = text
                .split(',')
                .next()
                .and_then(|first| first.trim().parse::<u32>().ok())
                .filter(|vni| (1..=skep_model::limits::VNI_LAST).contains(vni))
                .ok_or_else(|| format!("invalid vxlan id value {text:?} passed"))?;
            if used.contains(&vni) {
                return Err(format!("VXLAN id {vni} is in use by another network"));
            }
            vni
        }
        None => {
            let lost = numbers::is_any_lost(view.nodes().map(|node| &**node));
            numbers::choose_vni(&used, &cluster.resting_vnis, now, lost)
                .ok_or("no VXLAN id is free")?
        }
    };
    let encrypted = network.spec.is_encrypted();
    network.mtu = match network.spec.mtu()? {
        Some(mtu) => mtu,
        None => numbers::mtu(view.nodes().map(|node| &**node), encrypted),
    };
    Ok(())
}

fn ipam(cluster: &Cluster, network: &Network, taken: &[IpNet]) -> Result<Vec<IpamConfig>, String> {
    let mut configs: Vec<IpamConfig> = network
        .spec
        .ipam
        .iter()
        .flat_map(|ipam| ipam.configs.clone())
        .filter(|config| {
            let v6 = config.subnet.is_some_and(|net| net.addr().is_ipv6());
            !v6 || network.spec.ipv6_enabled
        })
        .collect();
    let has = |configs: &[IpamConfig], v6: bool| {
        let nets = configs.iter().filter_map(|config| config.subnet);
        nets.into_iter().any(|net| net.addr().is_ipv6() == v6)
    };
    let chosen = |net: IpNet| IpamConfig {
        subnet: Some(net),
        ..IpamConfig::default()
    };
    if !has(&configs, false) {
        let pools = match cluster.default_addr_pool.as_slice() {
            [] => vec![subnets::default_pool()],
            pools => pools.to_vec(),
        };
        let size = match cluster.subnet_size {
            0 => 24,
            size => size,
        };
        let net = subnets::choose(&pools, size, taken)
            .ok_or("could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network")?;
        configs.push(chosen(net));
    }
    if network.spec.ipv6_enabled && !has(&configs, true) {
        let net = subnets::choose_v6(cluster.id.as_str(), taken)
            .ok_or("no IPv6 subnet of the cluster is free")?;
        configs.push(chosen(net));
    }
    for config in &mut configs {
        let Some(subnet) = config.subnet.map(|net| net.trunc()) else {
            continue;
        };
        if taken.iter().any(|other| subnets::overlap(&subnet, other)) {
            return Err("Pool overlaps with other one on this address space".to_owned());
        }
        config.subnet = Some(subnet);
        config.gateway = Some(config.gateway.unwrap_or_else(|| default_gateway(subnet)));
    }
    Ok(configs)
}
