//! Which tracked flows have outlived what they lead to.
//!
//! A UDP flow is bound to a backend for as long as packets come; it is cut as soon
//! as the backend leaves its service. A TCP connection may end in peace on a
//! backend that drains; it is cut when the backend's endpoint is gone, so that the
//! client hears of it at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::Proto;
use crate::desired::cluster::{HostState, IngressAddresses, TaskSandbox};
use crate::netlink::conntrack::Flow;
use crate::plan::published::Served;
use crate::plan::services::{RESOLVER, RESOLVER_PORT};

/// Where to look for flows that have outlived what they lead to, and how to tell them.
#[derive(Clone, Debug, Default)]
#[must_use = "stale flows are to be cut"]
pub struct StaleFlows {
    /// By the namespace's name.
    pub(crate) tasks: BTreeMap<String, TaskTargets>,
    pub(crate) mesh: Option<MeshTargets>,
}

impl StaleFlows {
    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.mesh.is_none()
    }

    /// Adds what was found later; of the same namespace the later word holds.
    pub fn add(&mut self, later: Self) {
        self.tasks.extend(later.tasks);
        self.mesh = later.mesh.or(self.mesh.take());
    }
}

/// What the flows of one task's namespace may lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskTargets {
    subnets: BTreeSet<IpNet>,
    /// Every endpoint of the task's networks.
    live: BTreeSet<IpAddr>,
    services: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
}

impl TaskTargets {
    pub fn of(state: &HostState, sandbox: &TaskSandbox) -> Self {
        let mut targets = Self::default();
        let networks: BTreeSet<&str> = sandbox
            .endpoints
            .iter()
            .map(|endpoint| endpoint.network.as_str())
            .collect();
        for overlay in state
            .overlays
            .iter()
            .filter(|overlay| networks.contains(overlay.id.as_str()))
        {
            targets
                .subnets
                .extend(overlay.subnets.iter().map(IpNet::trunc));
            targets
                .live
                .extend(overlay.remote.iter().flat_map(|endpoint| &endpoint.ips));
        }
        for endpoint in state
            .sandboxes
            .iter()
            .flat_map(|sandbox| &sandbox.endpoints)
        {
            if networks.contains(endpoint.network.as_str()) {
                targets
                    .live
                    .extend(endpoint.ips.iter().map(|net| net.addr()));
            }
        }
        for service in &sandbox.services {
            targets
                .services
                .entry(service.vip)
                .or_default()
                .extend(&service.backends);
        }
        targets
    }

    /// Whether something that flows could lead to is gone since `before`.
    pub fn lost_something(&self, before: &Self) -> bool {
        !before.live.is_subset(&self.live)
            || before.services.iter().any(|(vip, backends)| {
                self.services
                    .get(vip)
                    .is_none_or(|now| !backends.is_subset(now))
            })
    }

    pub fn is_stale(&self, flow: &Flow) -> bool {
        if flow.protocol == Proto::Udp.number() && !flow.is_redirected {
            // From while the tables were missing: nobody is there.
            return self.services.contains_key(&flow.to)
                || (flow.to, flow.to_port) == (RESOLVER, RESOLVER_PORT);
        }
        let ours = flow.is_redirected
            && flow.to != flow.answered_by
            && self.subnets.iter().any(|net| net.contains(&flow.to));
        if !ours {
            return false;
        }
        if flow.protocol == Proto::Udp.number() {
            let backends = self.services.get(&flow.to);
            return backends.is_none_or(|backends| !backends.contains(&flow.answered_by));
        }
        !self.live.contains(&flow.answered_by)
    }
}

/// What the flows of the root namespace that we redirect may lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MeshTargets {
    /// Where our redirections lead: ingress network and gateway legs.
    subnets: BTreeSet<IpNet>,
    live: BTreeSet<IpAddr>,
    served: Served,
}

impl MeshTargets {
    pub fn of(gateway_subnets: [IpNet; 2], state: &HostState, served: &Served) -> Self {
        let mut targets = Self {
            served: served.clone(),
            ..Self::default()
        };
        targets.subnets.extend(gateway_subnets);
        let ingress = state.node.ingress.iter();
        targets
            .subnets
            .extend(ingress.flat_map(IngressAddresses::subnets));
        targets.live.extend(
            state
                .ingress_endpoints
                .iter()
                .flat_map(|endpoint| &endpoint.ips),
        );
        for leg in state
            .sandboxes
            .iter()
            .filter_map(|sandbox| sandbox.gateway.as_ref())
        {
            targets.live.insert(leg.ip4.into());
            targets.live.extend(leg.ip6.map(IpAddr::V6));
            targets.live.extend(&leg.ingress);
        }
        targets
    }

    /// Whether something is gone that flows could lead to, or a port is served
    /// anew (flows of the time before bypass it).
    pub fn changed_for_flows(&self, before: &Self) -> bool {
        !before.live.is_subset(&self.live)
            || before.served.ports.iter().any(|(at, answer)| {
                let now = self.served.ports.get(at);
                now.is_none_or(|now| !answer.backends.is_subset(&now.backends))
            })
            || self.served.ports.iter().any(|(at, answer)| {
                let before = before.served.ports.get(at);
                !answer.backends.is_empty()
                    && before.is_none_or(|before| before.backends.is_empty())
            })
    }

    /// `own`: this host's addresses.
    pub fn is_stale(&self, flow: &Flow, own: &BTreeSet<IpAddr>) -> bool {
        let proto = [Proto::Tcp, Proto::Udp, Proto::Sctp]
            .into_iter()
            .find(|proto| proto.number() == flow.protocol);
        let Some(proto) = proto else { return false };
        let answer = self.served.answer(proto, flow.to, flow.to_port);
        if answer.is_some_and(|answer| answer.source.is_relayed()) {
            // Its connections end at the relay.
            return flow.is_redirected
                && !self.live.contains(&flow.answered_by)
                && self
                    .subnets
                    .iter()
                    .any(|net| net.contains(&flow.answered_by));
        }
        if proto == Proto::Udp && self.is_in_the_way(flow) {
            return true;
        }
        let backends = answer.map(|answer| &answer.backends);
        if !flow.is_redirected {
            // From before the port was served; UDP never starts anew by itself.
            return proto == Proto::Udp
                && own.contains(&flow.to)
                && backends.is_some_and(|backends| !backends.is_empty());
        }
        if flow.to == flow.answered_by
            || !self
                .subnets
                .iter()
                .any(|net| net.contains(&flow.answered_by))
        {
            return false;
        }
        if proto == Proto::Udp {
            let answers = (flow.answered_by, flow.answered_by_port);
            return backends.is_none_or(|backends| !backends.contains(&answers));
        }
        !self.live.contains(&flow.answered_by)
    }

    /// Whether a task sent this out as if it were a published port's answer, and is none of those
    /// who answer there: what the client says to the port would be taken for an answer to that task.
    fn is_in_the_way(&self, flow: &Flow) -> bool {
        let is_of_task = self.subnets.iter().any(|net| net.contains(&flow.from));
        let (seen_as, port) = (flow.answered_to, flow.answered_to_port);
        let answer = self.served.answer(Proto::Udp, seen_as, port);
        is_of_task
            && !flow.is_redirected
            && flow.from != seen_as
            && answer.is_some_and(|answer| !answer.backends.contains(&(flow.from, flow.from_port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::published::{Answer, At};

    fn flow(proto: Proto, to: &str, answered_by: &str) -> Flow {
        Flow::sample(
            proto.number(),
            (to.parse().unwrap(), 80),
            (answered_by.parse().unwrap(), 80),
        )
    }

    fn targets(live: &[&str], backends: &[&str]) -> TaskTargets {
        let set = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
        TaskTargets {
            subnets: BTreeSet::from(["10.0.1.0/24".parse().unwrap()]),
            live: set(live),
            services: BTreeMap::from([("10.0.1.2".parse().unwrap(), set(backends))]),
        }
    }

    #[test]
    fn draining_keeps_tcp_and_cuts_udp() {
        let draining = targets(&["10.0.1.5", "10.0.1.6"], &["10.0.1.6"]);
        assert!(draining.is_stale(&flow(Proto::Udp, "10.0.1.2", "10.0.1.5")));
        assert!(!draining.is_stale(&flow(Proto::Udp, "10.0.1.2", "10.0.1.6")));
        assert!(!draining.is_stale(&flow(Proto::Tcp, "10.0.1.2", "10.0.1.5")));
        let gone = targets(&["10.0.1.6"], &["10.0.1.6"]);
        assert!(gone.is_stale(&flow(Proto::Tcp, "10.0.1.2", "10.0.1.5")));
        assert!(gone.lost_something(&draining));
        assert!(!draining.lost_something(&gone));
    }

    #[test]
    fn a_deleted_service_is_cut_and_strangers_are_left_alone() {
        let none = TaskTargets {
            services: BTreeMap::new(),
            ..targets(&["10.0.1.5"], &[])
        };
        assert!(none.is_stale(&flow(Proto::Udp, "10.0.1.2", "10.0.1.5")));
        assert!(!none.is_stale(&flow(Proto::Tcp, "10.0.1.2", "10.0.1.5")));
        assert!(!none.is_stale(&flow(Proto::Udp, "8.8.8.8", "10.0.1.5")));
        assert!(!none.is_stale(&flow(Proto::Udp, "10.0.1.9", "10.0.1.9")));
    }

    /// UDP port 80 of every address, answered by one task of two.
    fn mesh() -> MeshTargets {
        let (one, other) = ("10.255.1.5", "fd5a::1:5");
        let port = |all: &str, backend: &str| {
            let at = At {
                proto: Proto::Udp,
                port: 80,
                ip: all.parse().unwrap(),
            };
            let answer = Answer {
                backends: BTreeSet::from([(backend.parse().unwrap(), 80)]),
                ..Answer::default()
            };
            (at, answer)
        };
        let ips = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
        MeshTargets {
            subnets: ["10.255.0.0/16", "fd5a::/64"]
                .map(|net| net.parse().unwrap())
                .into(),
            live: ips(&[one, other, "10.255.1.6", "fd5a::1:6"]),
            served: Served {
                ports: BTreeMap::from([port("0.0.0.0", one), port("::", other)]),
                ..Served::default()
            },
        }
    }

    #[test]
    fn a_late_answer_is_not_in_the_way_of_what_its_client_says_next() {
        let mesh = mesh();
        let own = BTreeSet::from(["10.77.0.1".parse().unwrap(), "fd77::1".parse().unwrap()]);
        for (from, from_port, seen_as, port, is_stale) in [
            // Of a task that answers no more, of either family.
            ("10.255.1.6", 80, "10.77.0.1", 80, true),
            ("fd5a::1:6", 80, "fd77::1", 80, true),
            // A task that answers still may say something by itself.
            ("10.255.1.5", 80, "10.77.0.1", 80, false),
            ("fd5a::1:5", 80, "fd77::1", 80, false),
            // Another of its ports that came to look like the published one.
            ("10.255.1.5", 81, "10.77.0.1", 80, true),
            // In nobody's way.
            ("10.255.1.6", 80, "10.77.0.1", 81, false),
            ("10.255.1.6", 80, "10.255.1.6", 80, false),
            ("192.0.2.9", 80, "10.77.0.1", 80, false),
        ] {
            let ip = |text: &str| text.parse().unwrap();
            let (from, seen_as) = ((ip(from), from_port), (ip(seen_as), port));
            let flow = Flow::masqueraded(Proto::Udp.number(), from, seen_as);
            assert_eq!(mesh.is_stale(&flow, &own), is_stale, "{flow:?}");
            let tcp = Flow::masqueraded(Proto::Tcp.number(), from, seen_as);
            assert!(!mesh.is_stale(&tcp, &own), "{tcp:?}");
        }
    }

    #[test]
    fn datagrams_that_went_by_missing_tables_are_cut() {
        let all = targets(&["10.0.1.5"], &["10.0.1.5"]);
        assert!(all.is_stale(&flow(Proto::Udp, "10.0.1.2", "10.0.1.2")));
        assert!(!all.is_stale(&flow(Proto::Tcp, "10.0.1.2", "10.0.1.2")));
        let asked = |port| {
            let at = (RESOLVER, port);
            Flow::sample(Proto::Udp.number(), at, at)
        };
        assert!(all.is_stale(&asked(53)));
        assert!(!all.is_stale(&asked(54)));
    }

    #[test]
    fn mesh_flows_follow_their_port() {
        let mesh = MeshTargets {
            live: BTreeSet::from(["10.255.1.5".parse().unwrap()]),
            ..mesh()
        };
        let own = BTreeSet::from(["10.77.0.1".parse().unwrap()]);
        assert!(!mesh.is_stale(&flow(Proto::Udp, "10.77.0.1", "10.255.1.5"), &own));
        assert!(mesh.is_stale(&flow(Proto::Udp, "10.77.0.1", "10.255.1.6"), &own));
        assert!(
            mesh.is_stale(&flow(Proto::Udp, "10.77.0.1", "10.77.0.1"), &own),
            "from before"
        );
        assert!(
            !mesh.is_stale(&flow(Proto::Udp, "10.77.0.9", "10.77.0.9"), &own),
            "passing by"
        );
        assert!(mesh.is_stale(&flow(Proto::Tcp, "10.77.0.1", "10.255.1.6"), &own));
        assert!(
            !mesh.is_stale(&flow(Proto::Tcp, "10.77.0.1", "192.0.2.1"), &own),
            "not ours"
        );
        assert!(mesh.changed_for_flows(&MeshTargets::default()));
        assert!(!mesh.changed_for_flows(&mesh));
    }
}
