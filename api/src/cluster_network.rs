//! Networks of the cluster in the shape `/networks` gives them, and back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use skep_engine::types::{ContainerSummary, Ipam, NetworkContainer, NetworkCreate, NetworkInspect};
use skep_model::mount::Driver;
use skep_model::network::{IpamConfig, IpamOptions};
use skep_model::service::ResolutionMode;
use skep_model::{Network, NetworkSpec, NodeId, Service};
use skep_store::Snapshot;

use crate::status::{ApiError, Outcome};

/// The option under which an overlay's VXLAN id is shown.
pub const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// A network with what only cluster networks have.
#[derive(Serialize)]
pub struct NetworkView {
    #[serde(flatten)]
    pub network: NetworkInspect,
    /// Nodes that carry the network.
    #[serde(rename = "Peers", skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
    /// With `verbose`.
    #[serde(rename = "Services", skip_serializing_if = "Option::is_none")]
    pub services: Option<BTreeMap<String, ServiceOnNetwork>>,
}

#[derive(Serialize)]
pub struct Peer {
    #[serde(rename = "Name")]
    pub name: String,
    #[serde(rename = "IP")]
    pub ip: String,
}

#[derive(Serialize)]
pub struct ServiceOnNetwork {
    #[serde(rename = "VIP")]
    pub vip: String,
    #[serde(rename = "Ports")]
    pub ports: Vec<String>,
    #[serde(rename = "LocalLBIndex")]
    pub local_lb_index: u64,
    #[serde(rename = "Tasks")]
    pub tasks: Vec<TaskOnNetwork>,
}

#[derive(Serialize)]
pub struct TaskOnNetwork {
    #[serde(rename = "Name")]
    pub name: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    #[serde(rename = "EndpointIP")]
    pub endpoint_ip: String,
    #[serde(rename = "Info")]
    pub info: BTreeMap<String, String>,
}

/// A cluster network as lists show it.
pub fn summary(network: &Network) -> NetworkInspect {
    let spec = &network.spec;
    let mut options = spec
        .driver
        .as_ref()
        .map(|driver| driver.options.clone())
        .unwrap_or_default();
    if network.vni != 0 {
        options.insert(VNI_OPTION.to_owned(), network.vni.to_string());
    }
    let ranges = match (&network.ipam[..], &spec.ipam) {
        ([], Some(asked)) => &asked.configs[..],
        (given, _) => given,
    };
    let text = |range: &Option<IpNet>| range.map(|net| net.to_string()).unwrap_or_default();
    let ipam_driver = spec.ipam.as_ref().and_then(|ipam| ipam.driver.as_ref());
    NetworkInspect {
        name: spec.name.clone(),
        id: network.id.to_string(),
        created: network.created_at,
        scope: "swarm".to_owned(),
        driver: network.driver_name().to_owned(),
        enable_ipv4: true,
        enable_ipv6: spec.ipv6_enabled,
        ipam: Ipam {
            driver: ipam_driver
                .map(|driver| driver.name.clone())
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            options: ipam_driver
                .map(|driver| driver.options.clone())
                .filter(|options| !options.is_empty()),
            config: ranges
                .iter()
                .map(|range| skep_engine::types::IpamConfig {
                    subnet: text(&range.subnet),
                    ip_range: text(&range.range),
                    gateway: range.gateway.map(|ip| ip.to_string()).unwrap_or_default(),
                    ..Default::default()
                })
                .collect(),
        },
        internal: spec.internal,
        attachable: spec.attachable,
        ingress: spec.ingress,
        options,
        labels: spec.labels.clone(),
        ..NetworkInspect::default()
    }
}

/// A cluster network as `inspect` shows it, with the containers this host has on it.
pub fn detailed(
    snapshot: &Snapshot,
    network: &Network,
    containers: &[ContainerSummary],
    verbose: bool,
) -> NetworkView {
    let mut shown = summary(network);
    shown.containers = Some(local_containers(network, containers));
    NetworkView {
        network: shown,
        peers: peers(snapshot, network),
        services: verbose.then(|| services(snapshot, network)),
    }
}

fn local_containers(
    network: &Network,
    containers: &[ContainerSummary],
) -> BTreeMap<String, NetworkContainer> {
    let with_prefix = |address: &str, prefix: i64| match address {
        "" => String::new(),
        address => format!("{address}/{prefix}"),
    };
    let mut found = BTreeMap::new();
    for container in containers {
        for endpoint in container.network_settings.networks.values() {
            if endpoint.network_id != network.id.as_str() {
                continue;
            }
            let name = container.names.first().map(String::as_str);
            found.insert(
                container.id.clone(),
                NetworkContainer {
                    name: name.unwrap_or_default().trim_start_matches('/').to_owned(),
                    endpoint_id: endpoint.endpoint_id.clone(),
                    mac_address: endpoint.mac_address.clone(),
                    ipv4_address: with_prefix(&endpoint.ip_address, endpoint.ip_prefix_len),
                    ipv6_address: with_prefix(
                        &endpoint.global_ipv6_address,
                        endpoint.global_ipv6_prefix_len,
                    ),
                },
            );
        }
    }
    found
}

fn node_address(snapshot: &Snapshot, id: &NodeId) -> String {
    let Some(node) = snapshot.node(id) else {
        return String::new();
    };
    match node.description.data_path_addr {
        Some(address) => address.to_string(),
        None => node.status.addr.clone(),
    }
}

fn peers(snapshot: &Snapshot, network: &Network) -> Vec<Peer> {
    let mut nodes: Vec<NodeId> = snapshot
        .tasks_on_network(&network.id)
        .filter(|task| task.is_live() && !task.node_id.is_empty())
        .map(|task| task.node_id.clone())
        .collect();
    let places = snapshot.attachments_on_network(&network.id);
    nodes.extend(places.map(|place| place.node_id.clone()));
    nodes.sort();
    nodes.dedup();
    nodes
        .into_iter()
        .map(|id| Peer {
            ip: node_address(snapshot, &id),
            name: id.short().to_owned(),
        })
        .collect()
}

fn services(snapshot: &Snapshot, network: &Network) -> BTreeMap<String, ServiceOnNetwork> {
    let mut found: BTreeMap<String, ServiceOnNetwork> = BTreeMap::new();
    for task in snapshot.tasks_on_network(&network.id) {
        if !task.serves() {
            continue;
        }
        let service = snapshot.service(&task.service_id);
        let shown = found
            .entry(task.service_name.clone())
            .or_insert_with(|| on_network(service.map(AsRef::as_ref), network));
        let address = task
            .attachments
            .iter()
            .find(|attachment| attachment.network_id == network.id)
            .and_then(|attachment| attachment.addresses.first())
            .map(|address| address.split('/').next().unwrap_or_default().to_owned());
        shown.tasks.push(TaskOnNetwork {
            name: task.container_name(),
            endpoint_id: task.id.to_string(),
            endpoint_ip: address.unwrap_or_default(),
            info: BTreeMap::from([("Host IP".to_owned(), node_address(snapshot, &task.node_id))]),
        });
    }
    found
}

fn on_network(service: Option<&Service>, network: &Network) -> ServiceOnNetwork {
    let vip = service
        .filter(|service| service.spec.resolution() == ResolutionMode::Vip)
        .and_then(|service| {
            let mut all = service.endpoint.virtual_ips.iter();
            all.find(|vip| vip.network_id == network.id)
        })
        .map(|vip| vip.addr.split('/').next().unwrap_or_default().to_owned())
        .unwrap_or_default();
    let ports = service.map_or(&[][..], |service| &service.endpoint.ports);
    ServiceOnNetwork {
        vip,
        ports: ports
            .iter()
            .map(|port| {
                format!(
                    "Target: {}, Publish: {}",
                    port.target_port, port.published_port
                )
            })
            .collect(),
        local_lb_index: 0,
        tasks: Vec::new(),
    }
}

/// What a create request asks of the cluster, and what of it has no effect there.
pub fn spec_of(body: NetworkCreate) -> Outcome<(NetworkSpec, Vec<String>)> {
    if body.enable_ipv4 == Some(false) {
        return Err(ApiError::invalid(
            "IPv4 cannot be disabled in a Swarm scoped network",
        ));
    }
    if body.config_only {
        return Err(ApiError::invalid(
            "configuration networks are local: create it without the swarm scope",
        ));
    }
    let mut warnings = Vec::new();
    let ipam = match body.ipam {
        None => None,
        Some(ipam) => {
            let auxiliary =
                |range: &skep_engine::types::IpamConfig| !range.auxiliary_addresses.is_empty();
            if ipam.config.iter().any(auxiliary) {
                warnings.push("auxiliary addresses have no effect on cluster networks".to_owned());
            }
            Some(ipam_of(ipam)?)
        }
    };
    let driver = match body.driver.as_str() {
        "" => "overlay".to_owned(),
        name => name.to_owned(),
    };
    let spec = NetworkSpec {
        name: body.name,
        labels: body.labels,
        driver: Some(Driver {
            name: driver,
            options: body.options,
        }),
        // The routing mesh serves both families unless it is asked not to.
        ipv6_enabled: body.enable_ipv6.unwrap_or(body.ingress),
        internal: body.internal,
        attachable: body.attachable,
        ingress: body.ingress,
        ipam,
        scope: "swarm".to_owned(),
    };
    Ok((spec, warnings))
}

fn ipam_of(ipam: Ipam) -> Outcome<IpamOptions> {
    let configs = ipam
        .config
        .iter()
        .map(|range| {
            Ok(IpamConfig {
                subnet: parsed("subnet", &range.subnet)?,
                range: parsed("ip-range", &range.ip_range)?,
                gateway: parsed::<IpAddr>("gateway", &range.gateway)?,
            })
        })
        .collect::<Outcome<Vec<_>>>()?;
    Ok(IpamOptions {
        driver: Some(Driver {
            name: ipam.driver,
            options: ipam.options.unwrap_or_default(),
        }),
        configs,
    })
}

fn parsed<T: std::str::FromStr>(what: &str, text: &str) -> Outcome<Option<T>> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            let wanted = match what {
                "gateway" => "invalid address",
                _ => "invalid CIDR block notation",
            };
            ApiError::invalid(format!(
                "invalid network config:\ninvalid {what} {text}: {wanted}"
            ))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(json: &str) -> NetworkCreate {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_create_body_becomes_a_spec_and_shows_again() {
        let body = create(
            r#"{"Name":"app","Driver":"overlay","Attachable":true,"Options":{"encrypted":""},
                "IPAM":{"Driver":"default","Config":[{"Subnet":"10.9.0.0/24","Gateway":"10.9.0.1",
                "AuxiliaryAddresses":{"x":"10.9.0.9"}}]},"Labels":{"a":"b"}}"#,
        );
        let (spec, warnings) = spec_of(body).unwrap();
        assert_eq!(warnings.len(), 1);
        let shown = summary(&Network {
            spec,
            vni: 4097,
            ..Network::default()
        });
        assert_eq!(shown.driver, "overlay");
        assert_eq!(shown.scope, "swarm");
        assert_eq!(shown.ipam.config[0].subnet, "10.9.0.0/24");
        assert_eq!(shown.ipam.config[0].gateway, "10.9.0.1");
        assert_eq!(shown.options[VNI_OPTION], "4097");
        assert!(shown.attachable && shown.options.contains_key("encrypted"));
    }

    #[test]
    fn wrong_ranges_are_refused_by_name() {
        let body = create(r#"{"Name":"a","IPAM":{"Config":[{"Subnet":"10.0/8"}]}}"#);
        assert_eq!(
            spec_of(body).unwrap_err().message(),
            "invalid network config:\ninvalid subnet 10.0/8: invalid CIDR block notation"
        );
        let body = create(r#"{"Name":"a","EnableIPv4":false}"#);
        assert!(spec_of(body).is_err());
    }
}
