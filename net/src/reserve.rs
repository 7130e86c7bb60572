//! The node's published ports are its own, or told to be somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use ipnet::IpNet;

use crate::desired::bridge::BoundPort;
use crate::desired::cluster::{HostAddress, HostPort};
use crate::host::lock;
use crate::netlink::entry;
use crate::plan::published::{At, Served, addresses};
use crate::ports::{self, Refused};
use crate::{Host, HostState, NetError, Report};

/// The owner of cluster-wide ports in the table of held ports.
pub(crate) const MESH_OWNER: &str = "routing mesh";

impl Host {
    /// Holds the node's published ports; those that cannot be held are not
    /// served here, as another program of this host has them.
    pub(crate) fn reserve(&self, desired: &HostState, report: &mut Report) -> Served {
        let own: Vec<(String, IpNet)> = match desired.names_interfaces() {
            true => self.look(entry::addresses).into_iter().flatten().collect(),
            false => Vec::new(),
        };
        let mut served = Served::of(desired, &own);
        let bound = |at: &At| BoundPort {
            proto: at.proto,
            target: at.port,
            host_ip: at.ip,
            host_port: at.port,
        };
        let at = |held: &BoundPort| At {
            proto: held.proto,
            port: held.host_port,
            ip: held.host_ip,
        };
        let held = |served: &Served| -> BTreeSet<At> {
            let held = served.ports.iter();
            held.filter(|(_, answer)| !answer.source.is_relayed())
                .map(|(at, _)| *at)
                .collect()
        };
        let wanted = held(&served);
        let mut guard = lock(&self.ports);
        // A guard stays with its thread; what it guards may be lent to another.
        let table = &mut *guard;
        table.retain(MESH_OWNER, |held| wanted.contains(&at(held)));
        let present: BTreeSet<At> = table.of(MESH_OWNER).iter().map(at).collect();
        let refused = self.ground.root.run(|| {
            let mut refused: BTreeMap<At, Refused> = BTreeMap::new();
            for at in wanted.difference(&present) {
                // IPv4 comes first; a number is served on both families or none.
                if at.twins().any(|twin| refused.contains_key(&twin)) {
                    continue;
                }
                match table.hold(MESH_OWNER, &bound(at)) {
                    Ok(()) => {}
                    // IPv6 may be switched off.
                    Err(Refused::System(error))
                        if at.ip == Ipv6Addr::UNSPECIFIED
                            && error.kind() != std::io::ErrorKind::AddrInUse => {}
                    Err(error) => drop(refused.insert(*at, error)),
                }
            }
            refused
        });
        let refused = refused.unwrap_or_else(|error| {
            report.fail("published ports", error);
            BTreeMap::new()
        });
        served.ports.retain(|at, _| {
            let mut alike = at.twins().chain([*at]);
            !alike.any(|at| refused.contains_key(&at))
        });
        let doubled = std::mem::take(&mut served.doubled).into_iter();
        let doubled = doubled.map(|at| (at, Refused::Held));
        for (at, why) in refused.into_iter().chain(doubled) {
            let reason = match why {
                Refused::Held => "port is already allocated".into(),
                // The address is another node's.
                Refused::System(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                    continue;
                }
                Refused::System(error) => ports::reason(&error),
            };
            let error = NetError::PublishedPort {
                port: at.port,
                proto: at.proto,
                reason,
            };
            report.fail(format!("port {at}"), error);
        }
        let kept = held(&served);
        table.retain(MESH_OWNER, |held| kept.contains(&at(held)));
        drop(guard);
        self.relay(desired, &served, report);
        served
    }

    /// Whether a task may publish these ports of the node. Those that tasks of this node publish
    /// already are not asked about: who gets them is for the managers to say.
    ///
    /// # Errors
    /// [`NetError::PublishedPort`] for the first one that something else on this host has.
    pub fn check_host_ports(&self, wanted: &[HostPort]) -> Result<(), NetError> {
        let named = |port: &HostPort| matches!(port.host, HostAddress::Interface(_));
        let own: Vec<(String, IpNet)> = match wanted.iter().any(named) {
            true => self.look(entry::addresses).into_iter().flatten().collect(),
            false => Vec::new(),
        };
        let mut guard = lock(&self.ports);
        let table = &mut *guard;
        let checked = self.ground.root.run(|| {
            for port in wanted {
                for ip in addresses(&port.host, &own) {
                    let bound = BoundPort {
                        proto: port.proto,
                        target: port.target,
                        host_ip: ip,
                        host_port: port.published,
                    };
                    let reason = match table.check(MESH_OWNER, &bound) {
                        Ok(()) => continue,
                        Err(Refused::Held) => "port is already allocated".into(),
                        Err(Refused::System(error))
                            if error.kind() == std::io::ErrorKind::AddrInUse =>
                        {
                            ports::reason(&error)
                        }
                        // No IPv6, or an address of another node.
                        Err(Refused::System(_)) => continue,
                    };
                    return Err(NetError::PublishedPort {
                        port: port.published,
                        proto: port.proto,
                        reason,
                    });
                }
            }
            Ok(())
        });
        checked?
    }

    /// Has the relay take the ports that need one.
    fn relay(&self, desired: &HostState, served: &Served, report: &mut Report) {
        let mut relay = lock(&self.relay);
        let relay = &mut *relay;
        let ingress = desired.node.ingress.as_ref();
        // It is born into the namespace of the thread that starts it.
        let followed = self.ground.root.run(|| relay.follow(served, ingress));
        match followed.and_then(|followed| followed) {
            Err(error) => report.fail("relay", error),
            Ok(refused) => {
                let all_of_it = |at: &At| {
                    let mut twins = at.twins().filter(|twin| twin < at);
                    !twins.any(|twin| refused.contains_key(&twin))
                };
                for (at, reason) in refused.iter().filter(|(at, _)| all_of_it(at)) {
                    let (port, proto) = (at.port, at.proto);
                    let reason = reason.clone();
                    let error = NetError::PublishedPort {
                        port,
                        proto,
                        reason,
                    };
                    report.fail(format!("port {at}"), error);
                }
            }
        }
    }
}
