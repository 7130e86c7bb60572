//! Does to one namespace what `diff` says, from a thread inside it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;

use crate::diff::{self, LinkChange, Op};
use crate::netlink::entry::{self, Names};
use crate::netlink::link::{self, Birth, Change};
use crate::netlink::socket::Socket;
use crate::netlink::wire::Message;
use crate::nft::{self, Family};
use crate::view::{Link, LinkKind, NsKey, Route, Scope, Seen, SeenLink, Wanted};
use crate::{KernelError, Namespaces, NetError, Netns, sysctl};

/// The setting that makes a host forward IPv6.
const FORWARD_IP6: &str = "net/ipv6/conf/all/forwarding";

/// Where namespaces are and how devices of the root namespace are born in them.
pub(crate) struct Ground {
    pub namespaces: Namespaces,
    /// The namespace the daemon runs in.
    pub root: Netns,
    /// A socket there, for VXLAN devices: their UDP socket stays where they were
    /// made from.
    pub root_socket: Mutex<Socket>,
}

/// What a visit did, and all that it could not do.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub changes: Vec<String>,
    pub failures: Vec<NetError>,
}

impl Outcome {
    /// Whether a firewall table was not as it should be.
    pub fn changed_tables(&self) -> bool {
        self.changes
            .iter()
            .any(|change| change.starts_with(nft::CHANGED_TABLE))
    }

    pub fn absorb(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.failures.extend(other.failures);
    }

    pub fn failed(error: NetError) -> Self {
        Self {
            changes: Vec::new(),
            failures: vec![error],
        }
    }

    pub fn into_result(self) -> Result<Vec<String>, NetError> {
        match self.failures.into_iter().next() {
            None => Ok(self.changes),
            Some(error) => Err(error),
        }
    }
}

impl Ground {
    pub fn open(&self, key: &NsKey) -> Result<Netns, NetError> {
        match key {
            NsKey::Root => Netns::open_same(&self.root),
            NsKey::Pinned(name) => self.namespaces.open(name),
            NsKey::File(path) => Netns::open(path),
        }
    }

    /// Runs `f` with a routing socket in a namespace.
    pub fn with_socket<T: Send>(
        &self,
        key: &NsKey,
        f: impl FnOnce(&mut Socket) -> Result<T, NetError> + Send,
    ) -> Result<T, NetError> {
        self.open(key)?
            .run(|| f(&mut open_socket(libc::NETLINK_ROUTE)?))?
    }

    /// Makes a namespace hold what is wanted. Goes on past failures.
    pub fn reconcile(
        &self,
        key: &NsKey,
        wanted: &Wanted,
        scope: Scope,
        lost_peers: &BTreeSet<String>,
    ) -> Outcome {
        let visited = self
            .open(key)
            .and_then(|netns| netns.run(|| self.reconcile_here(key, wanted, scope, lost_peers)));
        visited.unwrap_or_else(Outcome::failed)
    }

    fn reconcile_here(
        &self,
        key: &NsKey,
        wanted: &Wanted,
        scope: Scope,
        lost_peers: &BTreeSet<String>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        // Guards first: no link is up before the rules that protect it. A chain
        // on a device can only come after that device.
        let ours = |family: Family, name: &str| owns_table(scope, family, name);
        let touches_tables =
            !wanted.tables.is_empty() || matches!(scope, Scope::Mesh | Scope::Bridges);
        let (late, early): (Vec<_>, Vec<_>) = wanted
            .tables
            .iter()
            .cloned()
            .partition(|table| table.family == Family::Netdev);
        let firewall = |outcome: &mut Outcome, tables: &[nft::Table], all: bool| {
            if !touches_tables {
                return;
            }
            let changed = open_socket(libc::NETLINK_NETFILTER).and_then(|mut socket| {
                nft::reconcile(&mut socket, tables, |family, name| {
                    let kept = wanted
                        .tables
                        .iter()
                        .any(|t| t.family == family && t.name == name);
                    all && !kept && ours(family, name)
                })
            });
            match changed {
                Ok(changes) => outcome.changes.extend(changes),
                Err(error) => outcome.failures.push(error),
            }
        };
        firewall(&mut outcome, &early, false);
        match open_socket(libc::NETLINK_ROUTE) {
            Ok(mut socket) => {
                outcome.absorb(self.links_here(key, &mut socket, wanted, scope, lost_peers))
            }
            Err(error) => outcome.failures.push(error),
        }
        if !late.is_empty() || matches!(scope, Scope::Mesh | Scope::Bridges) {
            firewall(&mut outcome, &late, true);
        }
        outcome
    }

    fn links_here(
        &self,
        key: &NsKey,
        socket: &mut Socket,
        wanted: &Wanted,
        scope: Scope,
        lost_peers: &BTreeSet<String>,
    ) -> Outcome {
        let seen = match observe(socket, wanted, scope) {
            Ok(seen) => seen,
            Err(source) => {
                let object = key.to_string();
                return Outcome::failed(NetError::Kernel {
                    action: "look at",
                    object,
                    source,
                });
            }
        };
        let ops = diff::diff(wanted, &seen, scope, lost_peers);
        if ops.is_empty() {
            return Outcome::default();
        }
        self.execute(key, socket, seen, ops)
    }

    fn execute(&self, key: &NsKey, socket: &mut Socket, seen: Seen, ops: Vec<Op>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut indexes: BTreeMap<String, u32> = seen
            .links
            .values()
            .map(|link| (link.name.clone(), link.index))
            .collect();
        let is_deletion = |op: &Op| {
            matches!(
                op,
                Op::DeleteRule(_)
                    | Op::DeleteRoute(_)
                    | Op::DeleteNeighbour(..)
                    | Op::DeleteForwarding(..)
                    | Op::DeleteAddress(..)
                    | Op::DeleteLink(_)
            )
        };
        let (deletions, rest): (Vec<_>, Vec<_>) = ops.into_iter().partition(is_deletion);
        send(socket, key, &deletions, &indexes, &mut outcome);

        let (births, rest): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .partition(|op| matches!(op, Op::CreateLink(..)));
        for op in &births {
            if let Op::CreateLink(name, link) = op {
                match self.create(key, socket, name, link) {
                    Ok(()) => outcome.changes.push(op.to_string()),
                    Err(error) => outcome.failures.push(error),
                }
            }
        }
        if !births.is_empty() || deletions.iter().any(|op| matches!(op, Op::DeleteLink(_))) {
            match link::list(socket) {
                Ok(links) => {
                    indexes = links
                        .into_iter()
                        .map(|link| (link.name, link.index))
                        .collect();
                }
                Err(source) => outcome.failures.push(NetError::Kernel {
                    action: "list",
                    object: format!("links of {key}"),
                    source,
                }),
            }
        }
        let (settings, rest): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .partition(|op| matches!(op, Op::SetSysctl(..)));
        send(socket, key, &rest, &indexes, &mut outcome);
        for op in &settings {
            if let Op::SetSysctl(setting, value) = op {
                if setting == FORWARD_IP6 {
                    keep_listening_to_routers(socket);
                }
                match sysctl::set(setting, value) {
                    Ok(true) => outcome.changes.push(op.to_string()),
                    Ok(false) => {}
                    Err(error) => outcome.failures.push(error),
                }
            }
        }
        outcome
    }

    fn create(
        &self,
        key: &NsKey,
        socket: &mut Socket,
        name: &str,
        link: &Link,
    ) -> Result<(), NetError> {
        let failed = |source| NetError::Kernel {
            action: "create",
            object: format!("link `{name}` in {key}"),
            source,
        };
        let (mac, mtu) = (link.mac, link.mtu);
        match &link.kind {
            LinkKind::Given => Ok(()),
            LinkKind::Bridge => socket
                .request(link::create(name, mac, mtu, None, &Birth::Bridge))
                .map_err(failed),
            LinkKind::Vxlan {
                vni,
                local,
                port,
                proxy,
            } => {
                let birth = Birth::Vxlan {
                    vni: *vni,
                    local: *local,
                    port: *port,
                    proxy: *proxy,
                };
                let here = Netns::current()?;
                let message = link::create(name, mac, mtu, Some(here.as_fd().as_raw_fd()), &birth);
                let mut root = self
                    .root_socket
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                root.request(message).map_err(failed)
            }
            LinkKind::Veth { peer } => {
                let far = self.open(&peer.netns)?;
                let birth = Birth::Veth {
                    peer: &peer.ifname,
                    peer_netns: far.as_fd().as_raw_fd(),
                    peer_mac: peer.mac,
                    mtu: peer.mtu,
                };
                let make = |socket: &mut Socket| {
                    socket.request(link::create(name, mac, mtu, None, &birth))
                };
                match make(socket) {
                    Err(error) if error.errno == libc::EEXIST => {
                        // The far name is held by the rest of an earlier life.
                        self.with_socket(&peer.netns, |far| delete_named(far, &peer.ifname))?;
                        make(socket).map_err(failed)
                    }
                    made => made.map_err(failed),
                }
            }
        }
    }
}

/// A host that forwards IPv6 stops listening to routers, and loses its own default
/// route with that, unless told to go on. Where this fails, so will less.
fn keep_listening_to_routers(socket: &mut Socket) {
    let Ok(links) = link::list(socket) else {
        return;
    };
    let names: Names = links
        .into_iter()
        .map(|link| (link.index, link.name))
        .collect();
    for dev in entry::taught_by_routers(socket, &names).unwrap_or_default() {
        let setting = format!("net/ipv6/conf/{dev}/accept_ra");
        if sysctl::get(&setting).as_deref() == Some("1") {
            let _ = sysctl::set(&setting, "2");
        }
    }
}

fn owns_table(scope: Scope, family: Family, name: &str) -> bool {
    match scope {
        Scope::Mesh => name == crate::names::MESH_TABLE,
        Scope::Bridges => {
            family == Family::Inet && name.starts_with(crate::names::BRIDGE_TABLE_PREFIX)
        }
        Scope::Overlay | Scope::Container | Scope::Partial => false,
    }
}

pub(crate) fn open_socket(protocol: libc::c_int) -> Result<Socket, NetError> {
    Socket::open(protocol).map_err(|source| NetError::Io {
        action: "open",
        object: "netlink socket".into(),
        source,
    })
}

/// Deletes a link by its name; one that is not there is fine.
pub(crate) fn delete_named(socket: &mut Socket, name: &str) -> Result<(), NetError> {
    let failed = |source| NetError::Kernel {
        action: "delete",
        object: format!("link `{name}`"),
        source,
    };
    let links = link::list(socket).map_err(failed)?;
    let Some(found) = links.into_iter().find(|link| link.name == name) else {
        return Ok(());
    };
    match socket.request(link::delete(found.index)) {
        Err(error) if error.errno != libc::ENODEV => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Looks at a namespace, as far as what is wanted makes it interesting.
fn observe(socket: &mut Socket, wanted: &Wanted, scope: Scope) -> Result<Seen, KernelError> {
    let links = link::list(socket)?;
    let names: Names = links
        .iter()
        .map(|link| (link.index, link.name.clone()))
        .collect();
    let is_vxlan = |link: &&SeenLink| {
        matches!(
            wanted.links.get(&link.name),
            Some(Link {
                kind: LinkKind::Vxlan { .. },
                ..
            })
        )
    };
    let mut seen = Seen::default();
    let wants_entries = !matches!(scope, Scope::Container)
        && (scope != Scope::Partial
            || !wanted.forwarding.is_empty()
            || !wanted.neighbours.is_empty());
    if wants_entries && links.iter().any(|link| is_vxlan(&link)) {
        seen.neighbours = entry::neighbours(socket, &names)?;
        for link in links.iter().filter(is_vxlan) {
            seen.forwarding
                .extend(entry::forwarding(socket, link.index, &link.name)?);
        }
    }
    seen.addresses = entry::addresses(socket, &names)?;
    seen.routes = entry::our_routes(socket, &names)?;
    if scope == Scope::Mesh || !wanted.rules.is_empty() {
        seen.rules = entry::our_rules(socket)?;
    }
    for sysctl in &wanted.sysctls {
        if let Some(value) = sysctl::get(&sysctl.key) {
            seen.sysctls.insert(sysctl.key.clone(), value);
        }
    }
    seen.links = links
        .into_iter()
        .map(|link| (link.name.clone(), link))
        .collect();
    Ok(seen)
}

/// Sends operations in batches and sorts out what happened to each.
fn send(
    socket: &mut Socket,
    key: &NsKey,
    ops: &[Op],
    indexes: &BTreeMap<String, u32>,
    outcome: &mut Outcome,
) {
    let mut messages = Vec::with_capacity(ops.len());
    let mut sent = Vec::with_capacity(ops.len());
    for op in ops {
        match spell(op, indexes) {
            Ok(message) => {
                messages.push(message);
                sent.push(op);
            }
            Err(dev) => outcome.failures.push(NetError::NotFound {
                object: format!("link `{dev}` in {key}"),
            }),
        }
    }
    match socket.batch(messages) {
        Ok(failed) => {
            let mut failed: BTreeMap<_, _> = failed.into_iter().collect();
            for (position, op) in sent.into_iter().enumerate() {
                match failed.remove(&position) {
                    Some(error) if !is_fine(op, &error) => {
                        let (action, object) = op.said();
                        let object = format!("{object} in {key}");
                        outcome.failures.push(NetError::Kernel {
                            action,
                            object,
                            source: error,
                        });
                    }
                    _ => outcome.changes.push(op.to_string()),
                }
            }
        }
        Err(source) => outcome.failures.push(NetError::Kernel {
            action: "change",
            object: key.to_string(),
            source,
        }),
    }
}

/// Gone already, or there already.
fn is_fine(op: &Op, error: &KernelError) -> bool {
    match op {
        Op::DeleteRule(_)
        | Op::DeleteRoute(_)
        | Op::DeleteNeighbour(..)
        | Op::DeleteForwarding(..)
        | Op::DeleteAddress(..)
        | Op::DeleteLink(_) => {
            matches!(
                error.errno,
                libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL
            )
        }
        // A namespace whose IPv6 was switched off on purpose stays without.
        Op::AddAddress(_, IpNet::V6(_))
        | Op::SetRoute(Route {
            to: IpNet::V6(_), ..
        }) if error.errno == libc::EACCES => true,
        Op::AddRule(_) | Op::AddAddress(..) => error.errno == libc::EEXIST,
        // Without IPv6 there is nothing to silence.
        Op::Silence(_) => true,
        _ => false,
    }
}

/// The message of an operation; `Err` names a link that is not there.
fn spell<'a>(op: &'a Op, indexes: &BTreeMap<String, u32>) -> Result<Message, &'a str> {
    let index = |dev: &'a String| indexes.get(dev).copied().ok_or(dev.as_str());
    Ok(match op {
        Op::DeleteRule(rule) => entry::delete_rule(rule),
        Op::AddRule(rule) => entry::add_rule(rule),
        Op::DeleteRoute(route) => entry::delete_route(index(&route.dev)?, route),
        Op::SetRoute(route) => entry::set_route(index(&route.dev)?, route),
        Op::DeleteNeighbour(dev, ip) => entry::delete_neighbour(index(dev)?, *ip),
        Op::SetNeighbour(dev, ip, mac) => entry::set_neighbour(index(dev)?, *ip, *mac),
        Op::DeleteForwarding(dev, mac, node) => entry::delete_forwarding(index(dev)?, *mac, *node),
        Op::SetForwarding(dev, mac, node) => entry::set_forwarding(index(dev)?, *mac, *node),
        Op::DeleteAddress(dev, net) => entry::delete_address(index(dev)?, *net),
        Op::AddAddress(dev, net) => entry::add_address(index(dev)?, *net),
        Op::DeleteLink(name) => link::delete(index(name)?),
        Op::Silence(name) => link::no_link_local(index(name)?),
        Op::SetPort(name, options) => link::port_options(index(name)?, *options),
        Op::ChangeLink(
            name,
            LinkChange {
                mac,
                mtu,
                master,
                group,
                alias,
                local,
                up,
            },
        ) => {
            let change = Change {
                mac: *mac,
                mtu: *mtu,
                master: master.as_ref().map(index).transpose()?,
                group: *group,
                alias: alias.clone(),
                local: *local,
                up: *up,
            };
            link::change(index(name)?, &change)
        }
        // Done one by one, outside of batches.
        Op::CreateLink(name, _) | Op::SetSysctl(name, _) => return Err(name),
    })
}
