//! Plain containers of this node on networks of the cluster. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use skep_engine::{Guest, GuestIdentity};
use skep_model::{Network, NetworkId};
use skep_net::{LocalEndpoint, Mac, Overlay, TaskSandbox};
use skep_proto::assignment::Endpoint;

use super::{overlay, parse_all, services};
use crate::assigned::Assigned;

/// The networks of a guest that this node has been told of.
fn networks<'a>(guest: &Guest, assigned: &'a Assigned) -> Vec<&'a Network> {
    guest
        .endpoints
        .iter()
        .filter_map(|endpoint| assigned.networks.get(endpoint.network.as_str()))
        .map(|network| &**network)
        .collect()
}

/// What of a guest's namespace is the cluster's.
pub(crate) fn sandbox(guest: &Guest, assigned: &Assigned) -> TaskSandbox {
    let known = |network: &str| assigned.networks.contains_key(network);
    let endpoints = guest
        .endpoints
        .iter()
        .filter(|endpoint| known(&endpoint.network))
        .map(|endpoint| LocalEndpoint {
            id: format!("{}@{}", guest.id, endpoint.network),
            network: endpoint.network.clone(),
            mac: endpoint.addresses.first().map(|ip| Mac::of(ip.addr())),
            ips: endpoint.addresses.clone(),
            ifname: endpoint.ifname.clone(),
        })
        .collect();
    TaskSandbox {
        id: guest.id.clone(),
        netns: guest.netns.clone(),
        endpoints,
        gateway: None,
        services: services(&networks(guest, assigned), assigned),
        dns_ports: None,
    }
}

/// The overlays that a guest's namespace needs.
pub(crate) fn overlays_of(guest: &Guest, assigned: &Assigned) -> Vec<Overlay> {
    networks(guest, assigned)
        .into_iter()
        .map(|network| overlay(network, assigned))
        .collect()
}

/// The ids of the networks of a guest.
pub(super) fn network_ids(guest: &Guest, assigned: &Assigned) -> Vec<NetworkId> {
    let networks = networks(guest, assigned).into_iter();
    networks.map(|network| network.id.clone()).collect()
}

/// A place, by its network and its container.
pub(crate) type Place = (NetworkId, String);

/// Where the managers' idea of this node's places differs from what its containers have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Drift {
    /// Places whose container is gone.
    pub orphans: BTreeSet<Place>,
    /// Places that no manager knows of, or knows under other names.
    pub missing: BTreeMap<Place, (GuestIdentity, Vec<IpAddr>)>,
}

/// Compares the two.
pub(crate) fn drift(guests: &[Guest], assigned: &Assigned) -> Drift {
    let mut drift = Drift::default();
    let Some(local) = &assigned.local else {
        return drift;
    };
    let mut known: BTreeMap<Place, &Endpoint> = BTreeMap::new();
    let nobody = skep_model::ServiceId::default();
    for network in assigned.networks.keys() {
        let places = assigned.services.get(&(network.clone(), nobody.clone()));
        for endpoint in places.iter().flat_map(|places| &places.endpoints) {
            if endpoint.node == local.node {
                known.insert((network.clone(), endpoint.task.to_string()), endpoint);
            }
        }
    }
    let mut here = BTreeSet::new();
    for guest in guests {
        for endpoint in &guest.endpoints {
            let place = (NetworkId::new(&endpoint.network), guest.id.clone());
            let is_as_known = known.get(&place).is_some_and(|known| {
                known.container_name == endpoint.identity.name
                    && parse_all(&known.addresses) == endpoint.addresses
            });
            if !is_as_known {
                let addresses = endpoint.addresses.iter().map(IpNet::addr).collect();
                drift
                    .missing
                    .insert(place.clone(), (endpoint.identity.clone(), addresses));
            }
            here.insert(place);
        }
    }
    drift.orphans = known
        .into_keys()
        .filter(|place| !here.contains(place))
        .collect();
    drift
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_engine::GuestEndpoint;
    use skep_model::service::ResolutionMode;
    use skep_proto::assignment::{LocalNode, ServiceOnNetwork};

    use super::*;

    fn guest(id: &str, name: &str, address: &str) -> Guest {
        Guest {
            id: id.into(),
            netns: format!("c-{id}"),
            endpoints: vec![GuestEndpoint {
                network: "net".into(),
                identity: GuestIdentity {
                    id: id.into(),
                    name: name.into(),
                    ..GuestIdentity::default()
                },
                ifname: "eth1".into(),
                addresses: vec![address.parse().unwrap()],
            }],
        }
    }

    fn assigned(places: &[(&str, &str, &str)]) -> Assigned {
        let endpoints = places.iter().map(|(id, node, address)| Endpoint {
            task: (*id).into(),
            name: format!("name-{id}"),
            container_name: format!("name-{id}"),
            hostname: String::new(),
            node: (*node).into(),
            addresses: vec![(*address).to_owned()],
            serves: true,
            aliases: vec!["alias".into()],
        });
        let guests = ServiceOnNetwork {
            network: "net".into(),
            service: "".into(),
            name: String::new(),
            mode: ResolutionMode::Dnsrr,
            vips: Vec::new(),
            aliases: Vec::new(),
            stack: String::new(),
            ports: Vec::new(),
            endpoints: endpoints.collect(),
        };
        let mut assigned = Assigned::default();
        let network = Network {
            id: "net".into(),
            vni: 4097,
            mtu: 1450,
            ..Network::default()
        };
        assigned.networks.insert("net".into(), Arc::new(network));
        assigned
            .services
            .insert(("net".into(), "".into()), Arc::new(guests));
        assigned.local = Some(Arc::new(LocalNode {
            node: "me".into(),
            hostname: "me".into(),
            index: 1,
            ingress_addresses: Vec::new(),
            data_path_port: 4789,
            vtep: None,
            encryption: None,
        }));
        assigned
    }

    #[test]
    fn places_are_compared_with_the_containers_that_are_here() {
        let known = assigned(&[
            ("a", "me", "10.0.1.5/24"),
            ("b", "me", "10.0.1.6/24"),
            ("c", "other", "10.0.1.7/24"),
        ]);
        let here = [
            guest("a", "name-a", "10.0.1.5/24"),
            guest("d", "name-d", "10.0.1.8/24"),
        ];
        let found = drift(&here, &known);
        assert_eq!(found.orphans, BTreeSet::from([("net".into(), "b".into())]));
        let missing: Vec<&Place> = found.missing.keys().collect();
        assert_eq!(missing, [&("net".into(), "d".to_owned())]);
        let renamed = [guest("a", "new", "10.0.1.5/24")];
        assert_eq!(drift(&renamed, &known).missing.len(), 1);
        // Before a manager has spoken nobody can be wrong.
        assert_eq!(drift(&here, &Assigned::default()), Drift::default());
    }

    #[test]
    fn others_find_a_guest_by_its_names() {
        let known = assigned(&[("c", "other", "10.0.1.7/24")]);
        let zone = super::super::zone(&known.networks["net"], &known);
        let text = format!("{zone:?}");
        for name in ["name-c", "alias"] {
            assert!(text.contains(name), "{name} in {text}");
        }
        assert!(!text.contains("tasks."), "{text}");
    }
}
