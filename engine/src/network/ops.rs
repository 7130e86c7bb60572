//! The engine's network calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::{ipam, is_predefined};
use crate::clock;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::filters::Filters;
use crate::names;
use crate::options::Pruned;
use crate::streams::blocking;
use crate::types::{
    EndpointSettings, Ipam, IpamConfig, NetworkContainer, NetworkCreate, NetworkInspect,
};

impl Engine {
    /// Makes a network of this host; its id and a warning (or empty).
    pub async fn network_create(&self, network: NetworkCreate) -> Result<(String, String)> {
        let engine = self.shared();
        blocking(move || engine.create_network(network)).await
    }

    fn create_network(&self, request: NetworkCreate) -> Result<(String, String)> {
        let name = request.name.clone();
        if name.trim().is_empty() {
            return Err(EngineError::invalid("network name cannot be empty"));
        }
        if is_predefined(&name) || name == "default" || name.starts_with("container:") {
            return Err(EngineError::forbidden(format!(
                "operation is not permitted on predefined {name} network "
            )));
        }
        if self.networks.all().iter().any(|other| other.name == name) {
            return Err(EngineError::conflict(format!(
                "network with name {name} already exists"
            )));
        }
        let driver = match request.driver.as_str() {
            "" | "default" => "bridge",
            driver @ ("bridge" | "macvlan" | "ipvlan") => driver,
            "host" | "null" => {
                return Err(EngineError::forbidden(format!(
                    "only one instance of \"{}\" network is allowed",
                    request.driver
                )));
            }
            other => {
                return Err(EngineError::not_found(format!(
                    "could not find plugin {other} in v1 plugin registry: plugin \"{other}\" not found"
                )));
            }
        };
        if request.ingress {
            return Err(EngineError::invalid(
                "ingress network must be of swarm scope",
            ));
        }
        if request.config_only || !request.config_from.network.is_empty() {
            return Err(EngineError::not_implemented(
                "config-only networks, and networks configured from one, are not supported by this daemon",
            ));
        }
        if driver != "bridge" && !request.options.contains_key("parent") {
            return Err(EngineError::invalid(format!(
                "a {driver} network needs the option parent, an interface of this host"
            )));
        }
        let id = names::new_id(&mut rand::rng());
        let ipam = self.complete_ipam(&id, &request)?;
        let record = NetworkInspect {
            name,
            id,
            created: clock::now(),
            scope: "local".into(),
            driver: driver.into(),
            enable_ipv4: request.enable_ipv4.unwrap_or(true),
            enable_ipv6: request.enable_ipv6.unwrap_or(false)
                || ipam.config.iter().any(|range| range.subnet.contains(':')),
            ipam,
            internal: request.internal,
            attachable: request.attachable,
            options: request.options,
            labels: request.labels,
            ..NetworkInspect::default()
        };
        let network = self.networks.put(record)?;
        if let Err(error) = self.make_bridge(&network) {
            let _ = self.remove_bridge(&network);
            self.networks.forget(&network.id)?;
            return Err(error);
        }
        self.network_event("create", &network, None);
        Ok((network.id.clone(), String::new()))
    }

    /// Subnets and gateways of a new network.
    fn complete_ipam(&self, id: &str, request: &NetworkCreate) -> Result<Ipam> {
        let given = request.ipam.clone().unwrap_or_default();
        if !matches!(given.driver.as_str(), "" | "default") {
            return Err(EngineError::not_found(format!(
                "could not find plugin {0} in v1 plugin registry: plugin \"{0}\" not found",
                given.driver
            )));
        }
        let mut config = Vec::new();
        for range in given.config {
            if range.subnet.is_empty() {
                if !range.gateway.is_empty() || !range.ip_range.is_empty() {
                    return Err(EngineError::invalid(
                        "invalid network config:\nno subnet for the gateway or the ip-range",
                    ));
                }
                continue;
            }
            config.push(ipam::complete(range)?);
        }
        let has = |six: bool, config: &[IpamConfig]| {
            config.iter().any(|range| range.subnet.contains(':') == six)
        };
        let subnet = |subnet: IpNet| {
            ipam::complete(IpamConfig {
                subnet: subnet.to_string(),
                ..IpamConfig::default()
            })
        };
        if request.enable_ipv4.unwrap_or(true) && !has(false, &config) {
            config.insert(0, subnet(self.free_subnet(false)?)?);
        }
        if request.enable_ipv6.unwrap_or(false) && !has(true, &config) {
            let six = self
                .free_subnet(true)
                .unwrap_or_else(|_| ipam::local_six(id));
            config.push(subnet(six)?);
        }
        let ours = self.subnets_of_ours();
        for range in &config {
            let net: Result<IpNet, _> = range.subnet.parse();
            if net.is_ok_and(|net| ours.iter().any(|other| ipam::overlap(other, &net))) {
                return Err(EngineError::forbidden(
                    "invalid pool request: Pool overlaps with other one on this address space",
                ));
            }
        }
        Ok(Ipam {
            driver: "default".into(),
            options: given.options,
            config,
        })
    }

    /// Networks that pass the filters, by name.
    pub async fn network_list(&self, filters: &Filters) -> Result<Vec<NetworkInspect>> {
        filters.accept(&[
            "dangling", "driver", "id", "label", "label!", "name", "scope", "type",
        ])?;
        let dangling = filters.flag("dangling")?;
        for wanted in filters.values("type") {
            if !matches!(wanted, "custom" | "builtin") {
                return Err(filters.wrong("type", wanted));
            }
        }
        let mut list: Vec<NetworkInspect> = self
            .networks
            .all()
            .iter()
            .filter(|network| {
                let builtin = is_predefined(&network.name);
                let unused = !builtin && self.members(network).is_empty();
                filters.any("driver", |driver| network.driver == driver)
                    && filters.any("id", |id| network.id.starts_with(id))
                    && filters.any("name", |name| network.name.contains(name))
                    && filters.any("scope", |scope| network.scope == scope)
                    && filters.any("type", |kind| (kind == "builtin") == builtin)
                    && filters.labels(&network.labels)
                    && dangling.is_none_or(|wanted| wanted == unused)
            })
            .map(|network| NetworkInspect {
                containers: Some(BTreeMap::new()),
                ..(**network).clone()
            })
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// One network with the containers on it.
    pub async fn network_inspect(&self, name: &str) -> Result<NetworkInspect> {
        let network = self.networks.find(name)?;
        let containers = self
            .members(&network)
            .into_iter()
            .filter_map(|container| {
                let inner = container.lock();
                let record = &inner.record;
                let own = record.networks.get(&network.name);
                let endpoint = own.or(record.gateway.as_ref())?;
                if !record.state.status.is_live() {
                    return None;
                }
                let with_prefix = |address: &str, prefix: i64| match address {
                    "" => String::new(),
                    address => format!("{address}/{prefix}"),
                };
                Some((
                    record.id.clone(),
                    NetworkContainer {
                        name: record.name.clone(),
                        endpoint_id: endpoint.endpoint_id.clone(),
                        mac_address: endpoint.mac_address.clone(),
                        ipv4_address: with_prefix(&endpoint.ip_address, endpoint.ip_prefix_len),
                        ipv6_address: with_prefix(
                            &endpoint.global_ipv6_address,
                            endpoint.global_ipv6_prefix_len,
                        ),
                    },
                ))
            })
            .collect();
        Ok(NetworkInspect {
            containers: Some(containers),
            ..(*network).clone()
        })
    }

    /// The containers that name a network, running or not. Those of cluster tasks
    /// name networks that are not of this engine.
    fn members(&self, network: &NetworkInspect) -> Vec<Arc<Container>> {
        self.containers
            .all()
            .into_iter()
            .filter(|container| {
                let inner = container.lock();
                let record = &inner.record;
                let leaves_by_it = record
                    .gateway
                    .as_ref()
                    .is_some_and(|gateway| gateway.network_id == network.id);
                let is_named = record.networks.get(&network.name).is_some_and(|endpoint| {
                    // One that does not run finds the network by its name.
                    endpoint.network_id == network.id
                        || (endpoint.endpoint_id.is_empty()
                            && !self.networks.contains(&endpoint.network_id))
                });
                record.extras.netns.is_none() && (is_named || leaves_by_it)
            })
            .collect()
    }

    /// Removes a network that nothing runs on.
    pub async fn network_remove(&self, name: &str) -> Result<()> {
        let network = self.networks.find(name)?;
        if is_predefined(&network.name) {
            return Err(EngineError::forbidden(format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            )));
        }
        let active: Vec<String> = self
            .members(&network)
            .iter()
            .filter(|container| container.status().is_live())
            .map(|container| {
                let inner = container.lock();
                let endpoint = inner.record.networks.get(&network.name);
                format!(
                    "name:\"{}\" id:\"{}\"",
                    inner.record.name,
                    names::short_id(endpoint.map_or("", |e| &e.endpoint_id))
                )
            })
            .collect();
        if !active.is_empty() {
            return Err(EngineError::forbidden(format!(
                "error while removing network: network {} has active endpoints ({})",
                network.name,
                active.join(", ")
            )));
        }
        let engine = self.shared();
        blocking(move || {
            engine.remove_bridge(&network)?;
            engine.networks.forget(&network.id)?;
            engine.network_event("destroy", &network, None);
            Ok(())
        })
        .await
    }

    /// Connects a container to a network, now if it runs.
    pub async fn network_connect(
        &self,
        name: &str,
        container: &str,
        endpoint: EndpointSettings,
    ) -> Result<()> {
        let (engine, given) = (self.shared(), name.to_owned());
        let network = blocking(move || engine.network_of(&given)).await?;
        let container = self.containers.find(container)?;
        if matches!(network.driver.as_str(), "host" | "null") {
            return Err(EngineError::forbidden(
                "container cannot be connected to host network or none network",
            ));
        }
        let _turn = container.turn().await;
        let record = container.record();
        let mode = record.host_config.network_mode.as_str();
        if matches!(mode, "host" | "none")
            || mode.starts_with("container:")
            || record.extras.netns.is_some()
        {
            return Err(EngineError::forbidden(
                "container sharing network namespace with another container or host cannot be connected to any other network",
            ));
        }
        if record.networks.contains_key(&network.name) {
            return Err(EngineError::forbidden(format!(
                "endpoint with name {} already exists in network {}",
                record.name, network.name
            )));
        }
        let engine = self.shared();
        let target = Arc::clone(&container);
        blocking(move || {
            target.change(|inner| {
                let settings = EndpointSettings {
                    network_id: network.id.clone(),
                    ..asked(endpoint)
                };
                inner.record.networks.insert(network.name.clone(), settings);
            })?;
            if !target.status().is_live() {
                return Ok(());
            }
            engine.attach_running(&target, &network).inspect_err(|_| {
                let _ =
                    target.change(|inner| inner.record.networks.remove(&network.name).map(drop));
            })
        })
        .await
    }

    /// Disconnects a container from a network, now if it runs.
    pub async fn network_disconnect(&self, name: &str, container: &str, force: bool) -> Result<()> {
        let container = match self.containers.find(container) {
            Err(error) if force && error.is_not_found() => return Ok(()),
            found => found?,
        };
        // A network that it is on needs nobody to be asked for.
        let on_record = container
            .record()
            .networks
            .iter()
            .find(|(own, endpoint)| *own == name || endpoint.network_id == name)
            .and_then(|(own, endpoint)| self.network_on_record(own, endpoint));
        let network = match on_record {
            Some(network) => network,
            None => {
                let (engine, given) = (self.shared(), name.to_owned());
                blocking(move || engine.network_of(&given)).await?
            }
        };
        let _turn = container.turn().await;
        if container.lock().record.extras.netns.is_some() {
            return Err(EngineError::forbidden(format!(
                "container {} is not attached to network {} by hand: its service decides",
                container.id, network.name
            )));
        }
        if !container.lock().record.networks.contains_key(&network.name) {
            return Err(EngineError::forbidden(format!(
                "container {} is not connected to network {}",
                container.id, network.name
            )));
        }
        let engine = self.shared();
        let target = Arc::clone(&container);
        blocking(move || {
            if target.status().is_live() {
                engine.detach_running(&target, &network)
            } else {
                target
                    .change(|inner| inner.record.networks.remove(&network.name))
                    .map(drop)
            }
        })
        .await
    }

    /// Removes networks that no container names.
    pub async fn network_prune(&self, filters: &Filters) -> Result<Pruned> {
        filters.accept(&["label", "label!", "until"])?;
        let mut until = None;
        for text in filters.values("until") {
            until = Some(clock::parse_moment(text, clock::now())?);
        }
        let mut pruned = Pruned::default();
        for network in self.networks.all() {
            if is_predefined(&network.name)
                || !self.members(&network).is_empty()
                || until.is_some_and(|until| network.created > until)
                || !filters.labels(&network.labels)
            {
                continue;
            }
            match self.network_remove(&network.id).await {
                Ok(()) => pruned.removed.push(network.name.clone()),
                Err(error) => tracing::warn!(%error, network = network.name, "not pruned"),
            }
        }
        self.prune_event("network", 0);
        Ok(pruned)
    }
}

/// What a user may ask of an endpoint; the rest is ours to fill in.
pub(crate) fn asked(endpoint: EndpointSettings) -> EndpointSettings {
    EndpointSettings {
        ipam_config: endpoint.ipam_config,
        links: endpoint.links,
        aliases: endpoint.aliases,
        mac_address: endpoint.mac_address,
        driver_opts: endpoint.driver_opts,
        gw_priority: endpoint.gw_priority,
        ..EndpointSettings::default()
    }
}
