//! Gives networks, services, tasks and nodes their addresses, ports and numbers.
//!
//! What is in use is read off the state: an address belongs to a task until the task has ended, and
//! to a service or node until that is gone. Nothing else has to be released.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use skep_model::network::IpamConfig;
use skep_model::service::{Endpoint, ResolutionMode, VirtualIp};
use skep_model::task::NetworkAttachment;
use skep_model::{
    Cluster, Network, NetworkId, NodeId, PublishMode, Service, ServiceId, Task, TaskId, TaskState,
    TaskStatus, Timestamp, state::Actor,
};
use skep_plan::allocate::addresses::{AddressPool, default_gateway};
use skep_plan::allocate::ports::PortsInUse;
use skep_plan::allocate::{numbers, subnets};
use skep_store::{Key, Snapshot};

use crate::place::PENDING;
use crate::step::{Stage, waiting};

/// A container that was told to go may still use its address for as long as this after the
/// manager has written it off.
const EVICTED_HOLDS: Duration = Duration::from_secs(120);

/// Names of networks that every node has for itself. A service may name them; they have no
/// addresses to give.
pub(crate) const NODE_LOCAL: [&str; 3] = ["host", "bridge", "none"];

/// The label that asks for a certain VXLAN id, as in Swarm.
const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// What is in use, as far as this step has had to look.
#[derive(Debug, Default)]
pub(crate) struct Allocator {
    pools: BTreeMap<NetworkId, Vec<AddressPool>>,
    ports: Option<PortsInUse>,
}

impl Allocator {
    /// Allocates every network that has not been.
    pub(crate) fn networks(&mut self, stage: &mut Stage<'_>) {
        let waiting: Vec<_> = stage
            .tx
            .networks()
            .filter(|network| !network.is_allocated())
            .cloned()
            .collect();
        for network in waiting {
            let Some(cluster) = stage.tx.cluster().cloned() else {
                return;
            };
            let mut allocated = Network::clone(&network);
            match allocate_network(stage.tx.view(), &cluster, &mut allocated, stage.now) {
                Ok(()) => allocated.waits_for.clear(),
                Err(reason) => {
                    allocated = Network::clone(&network);
                    allocated.waits_for = reason;
                    let rests = cluster.resting_vnis.iter().map(|rest| rest.until);
                    if let Some(at) = rests.filter(|at| *at > stage.now).min() {
                        stage.wake(at);
                    }
                }
            }
            if let Err(error) = stage.tx.put(allocated) {
                stage.step.notes.push(error.to_string());
            }
        }
    }

    /// Gives a node its addresses on the ingress network.
    pub(crate) fn node(&mut self, stage: &mut Stage<'_>, id: &NodeId) {
        let Some(ingress) = stage.tx.ingress_network().cloned() else {
            return;
        };
        let Some(node) = stage.tx.node(id).cloned() else {
            return;
        };
        if !ingress.is_allocated() {
            return;
        }
        match self.addresses(stage.tx.view(), &ingress, stage.now) {
            Some(addresses) => {
                let mut node = skep_model::Node::clone(&node);
                node.ingress_addresses = addresses;
                stage.tx.rely_on(Key::Network(ingress.id.clone()));
                if let Err(error) = stage.tx.put(node) {
                    stage.step.notes.push(error.to_string());
                }
            }
            None => stage.step.notes.push(exhausted(&ingress)),
        }
    }

    /// Gives a service its ports and virtual addresses, or writes down what it waits for.
    pub(crate) fn service(&mut self, stage: &mut Stage<'_>, id: &ServiceId) {
        let Some(service) = stage.tx.service(id).cloned() else {
            return;
        };
        let mut changed = Service::clone(&service);
        match self.endpoint(stage.tx.view(), &service, stage.now) {
            Ok(endpoint) => {
                changed.endpoint = endpoint;
                changed.waits_for.clear();
            }
            Err(reason) => changed.waits_for = reason,
        }
        if changed != *service {
            stage.put_service(changed);
        }
    }

    fn endpoint(
        &mut self,
        view: &Snapshot,
        service: &Service,
        now: Timestamp,
    ) -> Result<Endpoint, String> {
        let spec = service.spec.endpoint_spec.clone().unwrap_or_default();
        let ports = match service.endpoint.spec == spec && service.waits_for.is_empty() {
            true if service.endpoint.ports.len() == spec.ports.len() => {
                service.endpoint.ports.clone()
            }
            _ => self
                .ports(view)
                .resolve(service, &service.spec)
                .map_err(|error| error.to_string())?,
        };
        let mut virtual_ips = Vec::new();
        let networks = match spec.mode {
            ResolutionMode::Vip => service_networks(view, &service.spec.task_template)?,
            ResolutionMode::Dnsrr => Vec::new(),
        };
        for network in networks {
            let held = service
                .endpoint
                .virtual_ips
                .iter()
                .filter(|vip| vip.network_id == network.id)
                .cloned();
            let held: Vec<VirtualIp> = held.collect();
            if !held.is_empty() {
                virtual_ips.extend(held);
                continue;
            }
            let addresses = self
                .addresses(view, &network, now)
                .ok_or_else(|| exhausted(&network))?;
            virtual_ips.extend(addresses.into_iter().map(|addr| VirtualIp {
                network_id: network.id.clone(),
                addr,
            }));
        }
        Ok(Endpoint {
            spec,
            ports,
            virtual_ips,
        })
    }

    fn ports(&mut self, view: &Snapshot) -> &mut PortsInUse {
        self.ports.get_or_insert_with(|| {
            let mut ports = PortsInUse::default();
            for service in view.services() {
                ports.add(service);
            }
            ports
        })
    }

    /// Gives tasks that have none yet their addresses: those of the services just looked at, or
    /// all.
    pub(crate) fn tasks(&mut self, stage: &mut Stage<'_>, seen: &[ServiceId], all: bool) {
        let view = stage.tx.view().clone();
        let mut room = stage.room();
        for task in waiting(&view, seen, all) {
            let wanted =
                task.status.state == TaskState::New && task.desired_state <= TaskState::Running;
            let Some(service) = view.service(&task.service_id).filter(|_| wanted) else {
                continue;
            };
            if !stage.tx.is_touched(&Key::Task(task.id.clone())) {
                if room == 0 {
                    stage.memory.dirty.insert(service.id.clone());
                    continue;
                }
                room -= 1;
            }
            match self.attachments(&view, service, task, stage.now) {
                Ok(attachments) => {
                    let endpoint = service.endpoint.clone();
                    let status = pending(task, stage.now);
                    stage.tx.rely_on(Key::Service(service.id.clone()));
                    let moved = stage.tx.update_task(&task.id, Actor::Allocator, |task| {
                        task.attachments = attachments;
                        task.endpoint = Some(endpoint);
                        task.status = status;
                    });
                    if let Err(error) = moved {
                        stage.step.notes.push(error.to_string());
                    }
                }
                Err(reason) => wait(stage, &task.id, reason),
            }
        }
    }

    fn attachments(
        &mut self,
        view: &Snapshot,
        service: &Service,
        task: &Task,
        now: Timestamp,
    ) -> Result<Vec<NetworkAttachment>, String> {
        if !service.waits_for.is_empty() {
            return Err(service.waits_for.clone());
        }
        let mut networks = service_networks(view, &task.spec)?;
        let published = service
            .endpoint
            .ports
            .iter()
            .any(|port| port.publish_mode == PublishMode::Ingress);
        if published {
            let ingress = view
                .ingress_network()
                .filter(|network| network.is_allocated())
                .ok_or("the ingress network is missing")?;
            networks.push(Network::clone(ingress));
        }
        let mut attachments = Vec::new();
        for local in &task.spec.networks {
            if NODE_LOCAL.contains(&local.target.as_str()) {
                attachments.push(NetworkAttachment {
                    network_id: NetworkId::new(&local.target),
                    ..NetworkAttachment::default()
                });
            }
        }
        for network in networks {
            let addresses = self
                .addresses(view, &network, now)
                .ok_or_else(|| exhausted(&network))?;
            let named = task
                .spec
                .networks
                .iter()
                .find(|config| config.target == network.id.as_str());
            attachments.push(NetworkAttachment {
                network_id: network.id,
                addresses,
                aliases: named.map_or(Vec::new(), |config| config.aliases.clone()),
            });
        }
        Ok(attachments)
    }

    /// One address from each of a network's subnets.
    fn addresses(
        &mut self,
        view: &Snapshot,
        network: &Network,
        now: Timestamp,
    ) -> Option<Vec<String>> {
        let pools = self
            .pools
            .entry(network.id.clone())
            .or_insert_with(|| pools(view, network, now));
        let mut families: BTreeMap<bool, Option<IpNet>> = BTreeMap::new();
        // Several IPv4 subnets serve one after the other; a task gets one address per family.
        for (pool, config) in pools.iter_mut().zip(&network.ipam) {
            let v6 = config.subnet.is_some_and(|net| net.addr().is_ipv6());
            let found = families.entry(v6).or_default();
            if found.is_none() {
                *found = pool.take();
            }
        }
        families
            .into_values()
            .map(|address| address.map(|address| address.to_string()))
            .collect()
    }
}

fn allocate_network(
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
            numbers::choose_vni(&used, &cluster.resting_vnis, now).ok_or("no VXLAN id is free")?
        }
    };
    let encrypted = network.spec.is_encrypted();
    network.mtu = numbers::mtu(view.nodes().map(|node| &**node), encrypted);
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

/// The cluster networks that a task spec names, in its order.
fn service_networks(view: &Snapshot, spec: &skep_model::TaskSpec) -> Result<Vec<Network>, String> {
    let mut networks = Vec::new();
    for config in &spec.networks {
        if NODE_LOCAL.contains(&config.target.as_str()) {
            continue;
        }
        let id = NetworkId::new(&config.target);
        let network = view
            .network(&id)
            .ok_or_else(|| format!("network {id} not found"))?;
        if !network.is_allocated() {
            let reason = match network.waits_for.as_str() {
                "" => "it has no addresses yet",
                reason => reason,
            };
            return Err(format!("network {}: {reason}", network.spec.name));
        }
        networks.push(Network::clone(network));
    }
    Ok(networks)
}

/// What is in use on a network, one pool per subnet.
fn pools(view: &Snapshot, network: &Network, now: Timestamp) -> Vec<AddressPool> {
    let mut pools: Vec<AddressPool> = network
        .ipam
        .iter()
        .filter_map(|config| {
            let subnet = config.subnet?;
            Some(AddressPool::new(subnet, config.range, config.gateway))
        })
        .collect();
    for service in view.services() {
        for vip in &service.endpoint.virtual_ips {
            if vip.network_id == network.id {
                mark(&mut pools, &vip.addr, true);
            }
        }
    }
    for task in view.tasks_on_network(&network.id) {
        let held = holds_addresses(task, now);
        let on_it = task
            .attachments
            .iter()
            .filter(|attachment| attachment.network_id == network.id);
        for text in on_it.flat_map(|attachment| &attachment.addresses) {
            mark(&mut pools, text, held);
        }
    }
    if network.spec.ingress {
        // The data plane routes replies through the subnet's last address, which nobody owns.
        for subnet in network.ipam.iter().filter_map(|config| config.subnet) {
            if let IpNet::V4(net) = subnet {
                let last = u32::from(net.broadcast()).saturating_sub(1);
                reserve(&mut pools, IpAddr::V4(last.into()));
            }
        }
        for node in view.nodes() {
            for text in &node.ingress_addresses {
                mark(&mut pools, text, true);
            }
        }
    }
    pools
}

/// Notes an address, in use or not any more, in the pool it belongs to.
fn mark(pools: &mut [AddressPool], text: &str, held: bool) {
    let Some(address) = address(text) else { return };
    for pool in pools {
        match held {
            true => pool.mark(address),
            false => pool.remember(address),
        }
    }
}

fn reserve(pools: &mut [AddressPool], address: IpAddr) {
    for pool in pools {
        pool.reserve(address);
    }
}

/// Whether a task's addresses may still be in use.
fn holds_addresses(task: &Task, now: Timestamp) -> bool {
    let state = task.status.state;
    let evicted = state == TaskState::Rejected && !task.running_since.is_zero();
    !state.is_terminal() || (evicted && now.since(task.status.applied_at) < EVICTED_HOLDS)
}

fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

fn exhausted(network: &Network) -> String {
    format!(
        "network {}: no available IPv4 addresses on this network's address pools",
        network.spec.name
    )
}

fn pending(task: &Task, now: Timestamp) -> TaskStatus {
    TaskStatus {
        timestamp: now,
        state: TaskState::Pending,
        message: PENDING.to_owned(),
        err: String::new(),
        applied_at: now,
        ..task.status.clone()
    }
}

fn wait(stage: &mut Stage<'_>, id: &TaskId, reason: String) {
    let changed = stage.tx.update_task(id, Actor::Allocator, |task| {
        task.status.err = reason;
    });
    if let Err(error) = changed {
        stage.step.notes.push(error.to_string());
    }
}
