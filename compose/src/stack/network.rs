//! Networks of a stack, and how its services join them.

use std::collections::{BTreeMap, BTreeSet};

use skep_model::NetworkSpec;
use skep_model::mount::Driver;
use skep_model::network::{IpamConfig, IpamOptions};
use skep_model::task::NetworkAttachmentConfig;
use skep_model::validate::check_network;

use super::{labelled, scoped, undefined};
use crate::context::Context;
use crate::file::File;
use crate::file::network::Network;
use crate::file::service::Service;

/// The network of services that name none.
const DEFAULT_NETWORK: &str = "default";
/// Networks that every host has; they know no aliases.
const PREDEFINED: [&str; 4] = ["default", "bridge", "host", "none"];

/// The networks that services use: those to be made, and the names of those that must exist.
pub(super) fn networks(file: &File, cx: &mut Context<'_>) -> (Vec<NetworkSpec>, Vec<String>) {
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for service in file.services.values() {
        if service.networks.is_empty() {
            used.insert(DEFAULT_NETWORK);
        }
        used.extend(service.networks.keys().map(String::as_str));
    }
    let mut made: BTreeMap<String, NetworkSpec> = BTreeMap::new();
    let mut external = BTreeSet::new();
    for (name, placed) in &file.networks {
        let network = &placed.value;
        if !used.contains(name.as_str()) {
            cx.warn(
                placed.at,
                format!("networks.{name} is not made: no service uses it"),
            );
        } else if network.is_external() {
            external.insert(network.name.clone().unwrap_or_else(|| name.clone()));
        } else {
            let spec = spec(name, network, cx);
            if let Err(wrong) = check_network(&spec) {
                cx.error(placed.at, format!("network {name}: {}", wrong.message));
            }
            if let Some(other) = made.insert(spec.name.clone(), spec) {
                cx.error(
                    placed.at,
                    format!(
                        "network {name}: another network is called {:?} too",
                        other.name
                    ),
                );
            }
        }
    }
    if used.contains(DEFAULT_NETWORK) && !file.networks.contains_key(DEFAULT_NETWORK) {
        let spec = spec(DEFAULT_NETWORK, &Network::default(), cx);
        made.insert(spec.name.clone(), spec);
    }
    (made.into_values().collect(), external.into_iter().collect())
}

fn spec(name: &str, network: &Network, cx: &Context<'_>) -> NetworkSpec {
    let pools: Vec<IpamConfig> = network
        .ipam
        .iter()
        .flatten()
        .map(|pool| IpamConfig {
            // Read as addresses before; what is none was reported there.
            subnet: pool
                .value
                .subnet
                .as_ref()
                .and_then(|text| text.parse().ok()),
            range: pool
                .value
                .ip_range
                .as_ref()
                .and_then(|text| text.parse().ok()),
            gateway: pool
                .value
                .gateway
                .as_ref()
                .and_then(|text| text.parse().ok()),
        })
        .collect();
    let ipam_driver = match (&network.ipam_driver, &network.ipam_options) {
        (None, None) => None,
        (name, options) => Some(Driver {
            name: name.clone().unwrap_or_default(),
            options: options.clone().unwrap_or_default(),
        }),
    };
    let ipam = (ipam_driver.is_some() || !pools.is_empty()).then_some(IpamOptions {
        driver: ipam_driver,
        configs: pools,
    });
    NetworkSpec {
        name: network.name.clone().unwrap_or_else(|| scoped(name, cx)),
        labels: labelled(network.labels.as_ref(), cx),
        driver: Some(Driver {
            name: network
                .driver
                .clone()
                .filter(|driver| !driver.is_empty())
                .unwrap_or_else(|| "overlay".to_owned()),
            options: network.driver_opts.clone().unwrap_or_default(),
        }),
        ipv6_enabled: network.enable_ipv6.unwrap_or(false),
        internal: network.internal.unwrap_or(false),
        attachable: network.attachable.unwrap_or(false),
        ingress: false,
        ipam,
        scope: String::new(),
    }
}

/// The networks of one service, ordered by the network's full name.
pub(super) fn attachments(
    name: &str,
    service: &Service,
    file: &File,
    cx: &mut Context<'_>,
) -> Vec<NetworkAttachmentConfig> {
    let mut attachments = Vec::new();
    let mut attach = |network: &str, aliases: Vec<String>, driver_opts, cx: &Context<'_>| {
        let target = file
            .networks
            .get(network)
            .and_then(|network| network.value.name.clone())
            .unwrap_or_else(|| scoped(network, cx));
        let mut aliases = aliases;
        if !PREDEFINED.contains(&target.as_str()) {
            aliases.push(name.to_owned());
        }
        attachments.push(NetworkAttachmentConfig {
            target,
            aliases,
            driver_opts,
        });
    };
    if service.networks.is_empty() {
        attach(DEFAULT_NETWORK, Vec::new(), BTreeMap::new(), cx);
    }
    for (network, joined) in &service.networks {
        if network != DEFAULT_NETWORK && !file.networks.contains_key(network) {
            undefined(name, "network", network, joined.at, &file.networks, cx);
            continue;
        }
        let options = joined.value.clone().unwrap_or_default();
        attach(
            network,
            options.aliases.unwrap_or_default(),
            options.driver_opts.unwrap_or_default(),
            cx,
        );
    }
    attachments.sort_by(|a, b| a.target.cmp(&b.target));
    attachments
}
