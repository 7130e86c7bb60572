//! Networks of a project, and how its services join them.

use serde_json::{Value, json};

use super::{ProjectEndpoint, ProjectNetwork, ProjectOptions, name_of};
use crate::file::host::Host;
use crate::file::network::Network;
use crate::file::service::Service;

/// A network as it is created.
pub(super) fn of(key: &str, network: &Network, options: &ProjectOptions) -> ProjectNetwork {
    let pools: Vec<Value> = network
        .ipam
        .iter()
        .flatten()
        .map(|pool| {
            let pool = &pool.value;
            let mut config = serde_json::Map::new();
            for (name, value) in [
                ("Subnet", &pool.subnet),
                ("IPRange", &pool.ip_range),
                ("Gateway", &pool.gateway),
            ] {
                config.extend(value.as_ref().map(|value| (name.to_owned(), json!(value))));
            }
            if !pool.aux_addresses.is_empty() {
                config.insert("AuxiliaryAddresses".to_owned(), json!(pool.aux_addresses));
            }
            Value::Object(config)
        })
        .collect();
    let mut body = json!({
        "Driver": network.driver.clone().unwrap_or_else(|| "bridge".to_owned()),
        "Options": network.driver_opts.clone().unwrap_or_default(),
        "Internal": network.internal.unwrap_or(false),
        "Attachable": network.attachable.unwrap_or(false),
        "Labels": network.labels.clone().unwrap_or_default(),
    });
    if let Some(on) = network.enable_ipv6 {
        body["EnableIPv6"] = json!(on);
    }
    if network.ipam_driver.is_some() || network.ipam_options.is_some() || !pools.is_empty() {
        body["IPAM"] = json!({
            "Driver": network.ipam_driver.clone().unwrap_or_else(|| "default".to_owned()),
            "Config": pools,
            "Options": network.ipam_options.clone().unwrap_or_default(),
        });
    }
    ProjectNetwork {
        name: name_of(network.name.as_ref(), key, options),
        external: network.is_external(),
        body,
    }
}

/// The networks a service joins: those of the highest priority first, then by name.
pub(super) fn endpoints(service: &Service, host: &Host) -> Vec<ProjectEndpoint> {
    if host.text("network_mode").is_some() {
        return Vec::new();
    }
    if service.networks.is_empty() {
        return vec![ProjectEndpoint {
            network: "default".to_owned(),
            aliases: Vec::new(),
            settings: json!({}),
        }];
    }
    let mut all: Vec<(i64, ProjectEndpoint)> = service
        .networks
        .iter()
        .map(|(key, joined)| {
            let joined = joined.value.clone().unwrap_or_default();
            let mut settings = serde_json::Map::new();
            let addresses = (joined.ipv4_address.is_some()
                || joined.ipv6_address.is_some()
                || !joined.link_local_ips.is_empty())
            .then(|| {
                json!({
                    "IPv4Address": joined.ipv4_address.clone().unwrap_or_default(),
                    "IPv6Address": joined.ipv6_address.clone().unwrap_or_default(),
                    "LinkLocalIPs": joined.link_local_ips,
                })
            });
            settings.extend(addresses.map(|addresses| ("IPAMConfig".to_owned(), addresses)));
            settings.extend(
                joined
                    .mac_address
                    .as_ref()
                    .map(|mac| ("MacAddress".to_owned(), json!(mac))),
            );
            settings.extend(
                joined
                    .driver_opts
                    .as_ref()
                    .map(|options| ("DriverOpts".to_owned(), json!(options))),
            );
            settings.extend(
                joined
                    .gw_priority
                    .map(|priority| ("GwPriority".to_owned(), json!(priority))),
            );
            let endpoint = ProjectEndpoint {
                network: key.clone(),
                aliases: joined.aliases.clone().unwrap_or_default(),
                settings: Value::Object(settings),
            };
            (joined.priority.unwrap_or(0), endpoint)
        })
        .collect();
    all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.network.cmp(&b.1.network)));
    all.into_iter().map(|(_, endpoint)| endpoint).collect()
}
