//! One network's names (swarm.md §3.4). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use skep_dns::Zone;
use skep_model::Network;
use skep_model::service::ResolutionMode;
use skep_proto::assignment::{Endpoint, ServiceOnNetwork};

use super::{parse_all, serving};
use crate::assigned::Assigned;

/// What everybody on a network finds under which name:
///
/// | name | leads to |
/// |---|---|
/// | a service, its aliases | the virtual address, or the serving tasks where there is none |
/// | `tasks.NAME` | the serving tasks |
/// | `SLOT.NAME`, `NAME.SLOT` | the serving task of that slot, or on that node |
/// | `peers.NAME` | all tasks that have an address, those too that do not serve yet or any more |
/// | a container's name, short id, host name, and a plain container's aliases | that container |
///
/// Where stacks use the same alias, each finds its own; others find all of them.
pub fn zone(network: &Network, assigned: &Assigned) -> Zone {
    let services: Vec<&ServiceOnNetwork> = assigned.services_on(&network.id).collect();
    let shared = shared_names(&services);
    let mut zone = Zone::new(network.spec.name.clone());
    for service in services {
        let mut names = Names {
            zone: &mut zone,
            service,
            shared: &shared,
        };
        names.add_service();
        for endpoint in &service.endpoints {
            names.add_member(endpoint);
        }
        for endpoint in serving(service) {
            add_container(&mut zone, endpoint);
        }
    }
    zone
}

/// Names that services of different stacks have in common.
fn shared_names(services: &[&ServiceOnNetwork]) -> BTreeSet<String> {
    let mut owners: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for service in services {
        for name in names_of(service) {
            owners.entry(name).or_default().insert(&service.stack);
        }
    }
    let shared = owners.into_iter().filter(|(_, stacks)| stacks.len() > 1);
    shared.map(|(name, _)| name.to_owned()).collect()
}

/// A service's names; plain containers belong to none.
fn names_of(service: &ServiceOnNetwork) -> impl Iterator<Item = &str> {
    std::iter::once(&service.name)
        .chain(&service.aliases)
        .map(String::as_str)
        .filter(|name| !name.is_empty())
}

fn addresses(texts: &[String]) -> Vec<IpAddr> {
    parse_all(texts).iter().map(IpNet::addr).collect()
}

/// One service's names on their way into the zone.
struct Names<'a> {
    zone: &'a mut Zone,
    service: &'a ServiceOnNetwork,
    shared: &'a BTreeSet<String>,
}

impl Names<'_> {
    /// The names that the service keeps also without a serving task: they are known, so that
    /// connections are refused at once and no question about them leaves the host.
    fn add_service(&mut self) {
        let vips = addresses(&self.service.vips);
        for name in names_of(self.service) {
            self.zone.know(name);
            self.zone.know(&format!("tasks.{name}"));
            for vip in &vips {
                self.add(name, name, *vip);
            }
        }
        for vip in vips {
            self.zone.point(vip, &self.service.name);
        }
    }

    fn add_member(&mut self, endpoint: &Endpoint) {
        let service = self.service;
        let has_vip = service.mode == ResolutionMode::Vip && !service.vips.is_empty();
        let slot = endpoint
            .name
            .strip_prefix(&service.name)
            .and_then(|rest| rest.strip_prefix('.'));
        for address in addresses(&endpoint.addresses) {
            for name in names_of(service) {
                self.add(name, &format!("peers.{name}"), address);
                if !endpoint.serves {
                    continue;
                }
                self.add(name, &format!("tasks.{name}"), address);
                if !has_vip {
                    self.add(name, name, address);
                }
                if let Some(slot) = slot {
                    self.add(name, &format!("{slot}.{name}"), address);
                    self.add(name, &format!("{name}.{slot}"), address);
                }
            }
        }
    }

    /// Adds `derived`, a name made of `name`.
    fn add(&mut self, name: &str, derived: &str, address: IpAddr) {
        self.zone.add(derived, address);
        if self.shared.contains(name) && !self.service.stack.is_empty() {
            self.zone.add_for(&self.service.stack, derived, address);
        }
    }
}

fn add_container(zone: &mut Zone, endpoint: &Endpoint) {
    let own = [&endpoint.name, &endpoint.container_name, &endpoint.hostname];
    for address in addresses(&endpoint.addresses) {
        for name in own.into_iter().chain(&endpoint.aliases) {
            if !name.is_empty() {
                zone.add(name, address);
            }
        }
        zone.point(address, &endpoint.container_name);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn endpoint(name: &str, address: &str, serves: bool) -> Endpoint {
        Endpoint {
            task: name.into(),
            name: name.to_owned(),
            container_name: format!("{name}.id"),
            hostname: String::new(),
            node: "node".into(),
            addresses: vec![address.to_owned()],
            serves,
            aliases: Vec::new(),
        }
    }

    fn service(stack: &str, vip: Option<&str>, endpoints: Vec<Endpoint>) -> ServiceOnNetwork {
        ServiceOnNetwork {
            network: "net".into(),
            service: format!("{stack}-id").as_str().into(),
            name: format!("{stack}_db"),
            mode: match vip {
                Some(_) => ResolutionMode::Vip,
                None => ResolutionMode::Dnsrr,
            },
            vips: vip.map(str::to_owned).into_iter().collect(),
            aliases: vec!["db".to_owned()],
            stack: stack.to_owned(),
            ports: Vec::new(),
            endpoints,
        }
    }

    fn made(services: Vec<ServiceOnNetwork>) -> Zone {
        let mut assigned = Assigned::default();
        for service in services {
            let key = (service.network.clone(), service.service.clone());
            assigned.services.insert(key, Arc::new(service));
        }
        let network = Network {
            id: "net".into(),
            ..Network::default()
        };
        zone(&network, &assigned)
    }

    fn found(zone: &Zone, group: &str, name: &str) -> Option<Vec<String>> {
        let addresses = zone.find(group, name)?;
        Some(addresses.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn names_lead_to_the_service_its_tasks_and_its_slots() {
        let zone = made(vec![service(
            "a",
            Some("10.0.1.2/24"),
            vec![
                endpoint("a_db.1", "10.0.1.3/24", true),
                endpoint("a_db.2", "10.0.1.4/24", false),
            ],
        )]);
        let cases: [(&str, Option<&[&str]>); 10] = [
            ("db", Some(&["10.0.1.2"])),
            ("a_db", Some(&["10.0.1.2"])),
            ("tasks.db", Some(&["10.0.1.3"])),
            ("peers.db", Some(&["10.0.1.3", "10.0.1.4"])),
            ("1.db", Some(&["10.0.1.3"])),
            ("db.1", Some(&["10.0.1.3"])),
            ("a_db.1", Some(&["10.0.1.3"])),
            ("a_db.1.id", Some(&["10.0.1.3"])),
            ("2.db", None),
            ("a_db.2.id", None),
        ];
        for (name, wanted) in cases {
            let wanted = wanted.map(|all| all.iter().map(|&one| one.to_owned()).collect());
            assert_eq!(found(&zone, "", name), wanted, "{name}");
        }
    }

    #[test]
    fn a_service_without_a_serving_task_keeps_its_names() {
        let zone = made(vec![service("a", None, Vec::new())]);
        assert_eq!(found(&zone, "", "db"), Some(Vec::new()));
        assert_eq!(found(&zone, "", "tasks.db"), Some(Vec::new()));
    }

    #[test]
    fn a_stack_finds_its_own_short_names_first() {
        let zone = made(vec![
            service("a", None, vec![endpoint("a_db.1", "10.0.1.3/24", true)]),
            service("b", None, vec![endpoint("b_db.1", "10.0.1.4/24", true)]),
        ]);
        for (group, wanted) in [("a", "10.0.1.3"), ("b", "10.0.1.4")] {
            for name in ["db", "tasks.db", "1.db"] {
                let wanted = Some(vec![wanted.to_owned()]);
                assert_eq!(found(&zone, group, name), wanted, "{name} in {group}");
            }
        }
        assert_eq!(found(&zone, "c", "db").map(|all| all.len()), Some(2));
        assert_eq!(found(&zone, "a", "b_db").map(|all| all.len()), Some(1));
    }
}
