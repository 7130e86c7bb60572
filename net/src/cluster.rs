//! The cluster's half: overlays, sandboxes, service addresses, routing mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use crate::apply::{Outcome, open_socket};
use crate::flows::{MeshTargets, StaleFlows, TaskTargets};
use crate::host::lock;
use crate::names;
use crate::netlink::conntrack::{self, Flow, Which};
use crate::netlink::entry;
use crate::nft;
use crate::passage;
use crate::plan::published::Served;
use crate::plan::{mesh, overlay, path, services, task, tunnel};
use crate::reserve::MESH_OWNER;
use crate::sysctl;
use crate::view::{LinkKind, NsKey, Scope, Wanted};
use crate::{Host, HostState, NetError, Netns, Overlay, Proto, Report, TaskSandbox, Vip};

/// What is remembered between calls. Losing it (a restart) costs one look at all
/// tracked flows, nothing else.
#[derive(Default)]
pub(crate) struct Cluster {
    /// What the last call wanted of this node.
    state: Option<HostState>,
    /// What flows could lead to, by namespace.
    tasks: BTreeMap<String, TaskTargets>,
    mesh: Option<MeshTargets>,
}

impl Cluster {
    /// What the last call wanted of this node.
    pub(crate) fn state(&self) -> Option<&HostState> {
        self.state.as_ref()
    }
}

impl Host {
    /// Makes everything of the cluster's half as desired, and cuts what has
    /// outlived it: [`Host::follow`], then [`Host::cut_stale`].
    pub fn apply(&self, desired: &HostState) -> Report {
        let (mut report, stale) = self.follow(desired);
        let cut = self.cut_stale(&stale);
        report.changes.extend(cut.changes);
        report.failures.extend(cut.failures);
        report
    }

    /// Makes everything of the cluster's half as desired: level-triggered, the
    /// whole truth. Sandboxes and overlays that are not in `desired` are removed,
    /// so a caller that prepares sandboxes includes them here from then on.
    /// Goes on past failures. Returns what to look for among the tracked flows.
    pub fn follow(&self, desired: &HostState) -> (Report, StaleFlows) {
        let mut cluster = lock(&self.cluster);
        let mut report = Report::default();
        let mut desired = self.as_possible(desired);
        self.wait_for_ended();
        // Guards and tunnels before anything goes through them.
        let had_tunnels = cluster.state.as_ref().is_none_or(HostState::encrypts);
        if had_tunnels || desired.encrypts() {
            self.encrypt(&mut desired, &mut report);
        }
        let desired = &desired;
        let overlays: Vec<&Overlay> = desired
            .overlays
            .iter()
            .filter(|wanted| match overlay::check(wanted) {
                Ok(()) => true,
                Err(error) => {
                    report.fail(format!("overlay {}", wanted.id), error);
                    false
                }
            })
            .collect();

        self.remove_unwanted(desired, &overlays, &mut report);
        // The namespace of a plain container is its engine's to make.
        let own = |sandbox: &&TaskSandbox| is_cluster_namespace(&sandbox.netns);
        for sandbox in desired.sandboxes.iter().filter(own) {
            let made = self.ground.namespaces.create(&sandbox.netns).map(drop);
            if let Err(error) = made {
                report.fail(format!("sandbox {}", sandbox.id), error);
            }
        }

        // The root first: its table guards the overlays' frames.
        let served = self.reserve(desired, &mut report);
        let root = mesh::root(&self.config, desired, &served);
        let outcome = self.reconcile_ends(&NsKey::Root, &root, Scope::Mesh);
        let mut repaired = Repaired {
            mesh: outcome.changed_tables(),
            ..Repaired::default()
        };
        absorb(&mut report, "mesh", outcome);

        let mut local = overlay::by_network(&desired.sandboxes);
        for wanted in overlays {
            let endpoints = local.remove(wanted.id.as_str()).unwrap_or_default();
            let object = format!("overlay {}", wanted.id);
            absorb(
                &mut report,
                &object,
                self.overlay(desired, wanted, &endpoints),
            );
        }
        for (network, endpoints) in local {
            for (netns, endpoint) in endpoints {
                let missing = NetError::NotFound {
                    object: format!("overlay network `{network}`"),
                };
                report.fail(format!("endpoint {} of {netns}", endpoint.id), missing);
            }
        }
        for sandbox in &desired.sandboxes {
            let object = format!("sandbox {}", sandbox.id);
            let outcome = self.inside(sandbox);
            if outcome.changed_tables() {
                repaired.tasks.insert(sandbox.netns.clone());
            }
            absorb(&mut report, &object, outcome);
        }

        self.let_through(passage::of_cluster(), &mut report);
        let stale = self.stale_flows(&mut cluster, desired, &served, &repaired);
        cluster.state = Some(desired.clone());
        (report, stale)
    }

    /// Makes one task's namespace and wires it up, at once, without touching
    /// anything else. `overlays` holds at least the networks of its endpoints;
    /// those this node has not yet are made. Returns where the namespace is
    /// pinned. Calling it again repairs. Needs an `apply` before (it tells who
    /// this node is); the next `apply` opens the task's published ports.
    pub fn prepare_sandbox(
        &self,
        sandbox: &TaskSandbox,
        overlays: &[Overlay],
    ) -> Result<PathBuf, NetError> {
        let mut cluster = lock(&self.cluster);
        let object = || format!("sandbox `{}`", sandbox.id);
        let Some(state) = cluster.state.as_mut() else {
            let reason = "the state of this node has not been applied yet".into();
            return Err(NetError::Invalid {
                object: object(),
                reason,
            });
        };
        self.ground.namespaces.create(&sandbox.netns)?;
        let mut outcome = Outcome::default();
        for (id, endpoints) in overlay::by_network([sandbox]) {
            let Some(network) = overlays.iter().find(|overlay| overlay.id == id) else {
                return Err(NetError::NotFound {
                    object: format!("overlay network `{id}`"),
                });
            };
            overlay::check(network)?;
            self.guard_network(state, network)?;
            if self.ground.namespaces.exists(&names::overlay_netns(id)) {
                outcome.absorb(self.attach(state, network, &endpoints));
            } else {
                outcome.absorb(self.overlay(state, network, &endpoints));
            }
        }
        if let Some(leg) = &sandbox.gateway {
            let mut root = Wanted::default();
            task::outside(&mut root, self.config.gateway_subnet, &sandbox.netns, leg);
            outcome.absorb(self.reconcile_ends(&NsKey::Root, &root, Scope::Partial));
        }
        outcome.absorb(self.inside(sandbox));
        outcome.into_result()?;
        state.sandboxes.retain(|known| known.netns != sandbox.netns);
        state.sandboxes.push(sandbox.clone());
        Ok(self.ground.namespaces.path(&sandbox.netns))
    }

    /// Takes one task off the network and removes its namespace (by its name
    /// under `<run>/netns`): links first, so that a process left inside cannot
    /// answer any more. Unknown is fine. Overlays stay until an `apply` without
    /// them.
    pub fn remove_sandbox(&self, netns: &str) -> Result<(), NetError> {
        let mut cluster = lock(&self.cluster);
        self.remove_namespace(netns)?;
        cluster.tasks.remove(netns);
        if let Some(state) = cluster.state.as_mut() {
            state.sandboxes.retain(|known| known.netns != netns);
        }
        Ok(())
    }

    /// Replaces the service addresses as seen from one task, by the name of its
    /// namespace. Flows of removed backends are cut by the next `apply`.
    pub fn set_services(&self, netns: &str, wanted: &[Vip]) -> Result<(), NetError> {
        let table = services::services(netns, wanted);
        self.ground.namespaces.open(netns)?.run(|| {
            let mut socket = open_socket(libc::NETLINK_NETFILTER)?;
            nft::reconcile(&mut socket, &[table], |_, _| false).map(drop)
        })?
    }

    /// Removes the cluster's half of this host.
    pub fn remove_cluster(&self) -> Report {
        let mut cluster = lock(&self.cluster);
        let mut report = Report::default();
        lock(&self.ports).release(MESH_OWNER);
        let ended = lock(&self.relay).end();
        report.part("relay", ended.map(|()| Vec::new()));
        match self.ground.namespaces.list() {
            Ok(names) => {
                for name in names.iter().filter(|name| is_cluster_namespace(name)) {
                    report.part(format!("namespace {name}"), self.remove_namespace(name));
                }
            }
            Err(error) => report.fail("namespaces", error),
        }
        self.shut(passage::of_cluster(), &mut report);
        let nothing = Wanted::default();
        let outcome = self
            .ground
            .reconcile(&NsKey::Root, &nothing, Scope::Mesh, &BTreeSet::new());
        absorb(&mut report, "mesh", outcome);
        report.part("encryption", self.remove_encryption());
        *cluster = Cluster::default();
        report
    }

    /// What this host can do of what is desired: a host that has IPv6 switched off
    /// takes part in the mesh with IPv4 alone.
    fn as_possible(&self, desired: &HostState) -> HostState {
        let mut possible = desired.clone();
        if !self.speaks_ip6()
            && let Some(ingress) = possible.node.ingress.as_mut()
        {
            ingress.ip6 = None;
        }
        possible
    }

    fn remove_unwanted(&self, desired: &HostState, overlays: &[&Overlay], report: &mut Report) {
        let wanted: BTreeSet<String> = desired
            .sandboxes
            .iter()
            .map(|sandbox| sandbox.netns.clone())
            .chain(
                overlays
                    .iter()
                    .map(|overlay| names::overlay_netns(&overlay.id)),
            )
            .collect();
        match self.ground.namespaces.list() {
            Ok(present) => {
                for name in present {
                    if is_cluster_namespace(&name) && !wanted.contains(&name) {
                        report.part(format!("namespace {name}"), self.remove_namespace(&name));
                    }
                }
            }
            Err(error) => report.fail("namespaces", error),
        }
    }

    /// A whole overlay network.
    fn overlay(
        &self,
        state: &HostState,
        network: &Overlay,
        local: &[(&str, &crate::LocalEndpoint)],
    ) -> Outcome {
        let name = names::overlay_netns(&network.id);
        let made = tunnel::way(state, network)
            .and_then(|way| self.ground.namespaces.create(&name).map(|_| way));
        let (from, network) = match made {
            Ok(way) => way,
            Err(error) => return Outcome::failed(error),
        };
        let mut wanted =
            overlay::namespace(from, state.node.data_port, &network, local.iter().copied());
        if self.capabilities().ipv6 {
            path::add(&mut wanted, state, &network);
        }
        self.reconcile_ends(&NsKey::Pinned(name), &wanted, Scope::Overlay)
    }

    /// A new endpoint on an overlay network that is there.
    fn attach(
        &self,
        state: &HostState,
        network: &Overlay,
        local: &[(&str, &crate::LocalEndpoint)],
    ) -> Outcome {
        let (from, network) = match tunnel::way(state, network) {
            Ok(way) => way,
            Err(error) => return Outcome::failed(error),
        };
        let mut wanted =
            overlay::namespace(from, state.node.data_port, &network, local.iter().copied());
        wanted.forwarding.clear();
        wanted.neighbours.clear();
        let key = NsKey::Pinned(names::overlay_netns(&network.id));
        // It may have come here from another node whose entries are still there.
        let moved = self.ground.with_socket(&key, |socket| {
            let links = crate::netlink::link::list(socket).unwrap_or_default();
            let device = links.iter().find(|link| link.name == names::OVERLAY_VXLAN);
            let Some(index) = device.map(|link| link.index) else {
                return Ok(());
            };
            let stale = local.iter().flat_map(|(_, endpoint)| {
                let neighbours = endpoint
                    .ips
                    .iter()
                    .map(move |net| entry::delete_neighbour(index, net.addr()));
                let mac = overlay::mac_of(endpoint);
                neighbours.chain(mac.map(|mac| entry::forget_forwarding(index, mac)))
            });
            // Mostly there is nothing to forget, and the kernel says so.
            let _ = socket.batch(stale.collect());
            Ok(())
        });
        let mut outcome = self.reconcile_ends(&key, &wanted, Scope::Partial);
        outcome.failures.extend(moved.err());
        outcome
    }

    /// A task's own namespace.
    fn inside(&self, sandbox: &TaskSandbox) -> Outcome {
        let wanted = task::namespace(self.config.gateway_subnet, sandbox);
        let key = NsKey::Pinned(sandbox.netns.clone());
        self.ground
            .reconcile(&key, &wanted, Scope::Container, &BTreeSet::new())
    }

    /// Reconciles a namespace that holds the near ends of veths.
    pub(crate) fn reconcile_ends(&self, key: &NsKey, wanted: &Wanted, scope: Scope) -> Outcome {
        let ends = wanted
            .links
            .iter()
            .filter_map(|(name, link)| match &link.kind {
                LinkKind::Veth { peer } => Some((&peer.netns, peer.ifname.as_str(), name.clone())),
                _ => None,
            });
        let lost = self.lost_peers(ends);
        self.ground.reconcile(key, wanted, scope, &lost)
    }

    fn stale_flows(
        &self,
        cluster: &mut Cluster,
        desired: &HostState,
        served: &Served,
        repaired: &Repaired,
    ) -> StaleFlows {
        let first = cluster.state.is_none();
        let mut stale = StaleFlows::default();
        let mut tasks = BTreeMap::new();
        for sandbox in &desired.sandboxes {
            let targets = TaskTargets::of(desired, sandbox);
            let lost = match cluster.tasks.get(&sandbox.netns) {
                Some(before) if *before == targets => repaired.tasks.contains(&sandbox.netns),
                Some(before) => targets.lost_something(before),
                None => first,
            };
            if lost {
                stale.tasks.insert(sandbox.netns.clone(), targets.clone());
            }
            tasks.insert(sandbox.netns.clone(), targets);
        }
        cluster.tasks = tasks;

        let subnets = mesh::gateway_subnets(&self.config);
        let targets = MeshTargets::of(subnets, desired, served);
        let lost = match &cluster.mesh {
            Some(before) if *before == targets => repaired.mesh,
            Some(before) => targets.changed_for_flows(before),
            None => true,
        };
        if lost {
            stale.mesh = Some(targets.clone());
        }
        cluster.mesh = Some(targets);
        stale
    }

    /// Cuts the flows that have outlived what they led to. A host with very many
    /// flows takes a while for it, so it is apart from [`Host::follow`], which
    /// others wait for. Sandboxes that went meanwhile took their flows along.
    pub fn cut_stale(&self, stale: &StaleFlows) -> Report {
        self.cut_each(stale, Which::All)
    }

    /// The same for datagrams alone, which is quick: connections, and all that is
    /// remembered of those that are over, are not looked at. Until it is done,
    /// datagrams go where they went before [`Host::follow`].
    pub fn cut_stale_datagrams(&self, stale: &StaleFlows) -> Report {
        self.cut_each(stale, Which::Protocol(Proto::Udp.number()))
    }

    fn cut_each(&self, stale: &StaleFlows, which: Which) -> Report {
        let mut report = Report::default();
        for (netns, targets) in &stale.tasks {
            if self.ground.namespaces.exists(netns) {
                let key = NsKey::Pinned(netns.clone());
                let found = self.flows(&key, which, |flow| targets.is_stale(flow));
                let cut = found.and_then(|found| {
                    self.cut_still(&key, found, |cluster, flow| {
                        let now = cluster.tasks.get(netns);
                        now.is_some_and(|now| now.is_stale(flow))
                    })
                });
                report.part(format!("flows of {netns}"), cut);
            }
        }
        if let Some(targets) = &stale.mesh {
            let own = self.look(entry::addresses);
            let own: BTreeSet<IpAddr> = own
                .unwrap_or_default()
                .into_iter()
                .map(|(_, net)| net.addr())
                .collect();
            let found = self.flows(&NsKey::Root, which, |flow| targets.is_stale(flow, &own));
            let cut = found.and_then(|found| {
                self.cut_still(&NsKey::Root, found, |cluster, flow| {
                    let now = cluster.mesh.as_ref();
                    now.is_some_and(|now| now.is_stale(flow, &own))
                })
            });
            report.part("flows of the mesh", cut);
        }
        report
    }

    /// Cuts those of the flows found that are stale by what is wanted now. To find them takes its
    /// time, in which other targets may have come that some of them lead to; none come meanwhile.
    fn cut_still(
        &self,
        key: &NsKey,
        mut found: Vec<Flow>,
        stale: impl Fn(&Cluster, &Flow) -> bool,
    ) -> Result<Vec<String>, NetError> {
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let cluster = lock(&self.cluster);
        found.retain(|flow| stale(&cluster, flow));
        self.cut_found(key, &found)
    }

    /// Cuts the flows of a namespace that `stale` says yes to.
    pub(crate) fn cut(
        &self,
        key: &NsKey,
        which: Which,
        stale: impl FnMut(&Flow) -> bool + Send,
    ) -> Result<Vec<String>, NetError> {
        self.cut_found(key, &self.flows(key, which, stale)?)
    }

    /// The flows of a namespace that `wanted` says yes to.
    fn flows(
        &self,
        key: &NsKey,
        which: Which,
        wanted: impl FnMut(&Flow) -> bool + Send,
    ) -> Result<Vec<Flow>, NetError> {
        self.ground.open(key).and_then(|netns: Netns| {
            netns.run(|| {
                // Looking costs the kernel milliseconds, however few there are.
                if sysctl::get("net/netfilter/nf_conntrack_count").as_deref() == Some("0") {
                    return Ok(Vec::new());
                }
                let mut socket = open_socket(libc::NETLINK_NETFILTER)?;
                let found = conntrack::flows(&mut socket, which, wanted);
                found.map_err(|source| not_cut(key, source))
            })?
        })
    }

    fn cut_found(&self, key: &NsKey, found: &[Flow]) -> Result<Vec<String>, NetError> {
        if found.is_empty() {
            return Ok(Vec::new());
        }
        self.ground.open(key).and_then(|netns: Netns| {
            netns.run(|| {
                let mut socket = open_socket(libc::NETLINK_NETFILTER)?;
                let cut = conntrack::cut(&mut socket, found);
                let count = cut.map_err(|source| not_cut(key, source))?;
                Ok(vec![format!("cut {count} flows of {key}")])
            })?
        })
    }
}

/// Where tables had to be changed. If nothing else was to change, others had broken them, and what
/// began meanwhile has gone by them since.
#[derive(Default)]
struct Repaired {
    mesh: bool,
    /// By namespace.
    tasks: BTreeSet<String>,
}

fn not_cut(key: &NsKey, source: crate::KernelError) -> NetError {
    NetError::Kernel {
        action: "cut",
        object: format!("flows of {key}"),
        source,
    }
}

/// Task and overlay namespaces; those of plain containers (`c-`) are the engine's.
fn is_cluster_namespace(name: &str) -> bool {
    name.starts_with("t-") || name.starts_with("n-")
}

fn absorb(report: &mut Report, object: &str, outcome: Outcome) {
    report.changes.extend(outcome.changes);
    for error in outcome.failures {
        report.fail(object, error);
    }
}
