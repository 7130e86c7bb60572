//! The namespaces of this node's tasks.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use skep_model::{Protocol, PublishMode, Task, TaskId};
use skep_net::{Connections, HostPort, NetError, gateway_address6, names, next_gateway_address};
use tracing::warn;

use super::{Worker, lock};
use crate::assigned::Assigned;
use crate::network::{self, SandboxChoice};

/// Why a task's namespace cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("no free address is left for the task's gateway leg")]
    NoGatewayAddress,
    #[error("port {0}/sctp cannot be published on this node: its kernel has no SCTP")]
    NoSctp(u16),
}

impl Worker {
    pub(crate) fn netns_path(&self, task: &TaskId) -> PathBuf {
        self.host
            .namespaces()
            .path(&names::task_netns(task.as_str()))
    }

    pub(crate) fn has_sandbox(&self, task: &TaskId) -> bool {
        lock(&self.sandboxes).contains_key(task)
    }

    pub(crate) fn sandbox_choice(&self, task: &TaskId) -> Option<SandboxChoice> {
        lock(&self.sandboxes).get(task).cloned()
    }

    /// Makes a task's namespace and wires it up.
    pub(crate) async fn prepare_sandbox(
        self: &Arc<Self>,
        task: &Arc<Task>,
    ) -> Result<(), SandboxError> {
        let assigned = self.assigned();
        // An encrypted network's tunnel is there before the network is.
        let is_encrypted = network::named_networks(task, &assigned)
            .iter()
            .any(|network| network.spec.is_encrypted());
        if is_encrypted || self.is_first_published(task, &assigned) {
            self.apply_network().await;
        }
        let task = Arc::clone(task);
        let made = self.change_network(move |worker| worker.make_sandbox(&task));
        let made = made.await;
        self.network_changed.notify_one();
        made
    }

    /// Whether a task is the first one here that answers on published ports: the other nodes, which
    /// may all be asked for it, are known to this one only now.
    fn is_first_published(&self, task: &Task, assigned: &Assigned) -> bool {
        let Some(ingress) = assigned.ingress() else {
            return false;
        };
        let is_published = |task: &Task| {
            let mut attached = task.attachments.iter();
            attached.any(|attachment| attachment.network_id == ingress.id)
        };
        let there = lock(&self.sandboxes);
        let mut others = there.keys().filter_map(|id| assigned.tasks.get(id));
        is_published(task) && !others.any(|other| is_published(other))
    }

    fn make_sandbox(&self, task: &Task) -> Result<(), SandboxError> {
        let assigned = self.assigned();
        let choice = self.choose(task, &assigned)?;
        self.host.check_host_ports(&choice.host_ports)?;
        self.keep_choice(&task.id, &choice);
        lock(&self.sandboxes).insert(task.id.clone(), choice.clone());
        self.write_zones(&assigned);
        let sandbox = network::sandbox(task, &choice, &assigned);
        let overlays = network::overlays_of(task, &assigned);
        let made = self.host.prepare_sandbox(&sandbox, &overlays);
        if made.is_err() {
            lock(&self.sandboxes).remove(&task.id);
        }
        Ok(made.map(drop)?)
    }

    fn choose(&self, task: &Task, assigned: &Assigned) -> Result<SandboxChoice, SandboxError> {
        let ports = task.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
        let mut sctp = ports.filter(|port| port.protocol == Protocol::Sctp);
        if let Some(port) = sctp.next()
            && !self.host.capabilities().sctp
        {
            return Err(SandboxError::NoSctp(port.target_port));
        }
        let used: BTreeSet<Ipv4Addr> = lock(&self.sandboxes)
            .values()
            .filter_map(|choice| choice.gateway)
            .collect();
        let gateway = match network::needs_gateway(task, assigned) {
            false => None,
            true => Some(
                next_gateway_address(self.host.config().gateway_subnet, &used)
                    .ok_or(SandboxError::NoGatewayAddress)?,
            ),
        };
        let host_ports = task
            .endpoint
            .iter()
            .flat_map(|endpoint| &endpoint.ports)
            .filter(|port| port.publish_mode == PublishMode::Host)
            .map(|port| HostPort {
                host: network::port_host(port),
                proto: network::proto(port.protocol),
                published: if port.published_port == 0 {
                    free_port(port.protocol)
                } else {
                    port.published_port
                },
                target: port.target_port,
            })
            .collect();
        let gateway6 = gateway
            .filter(|_| self.host.speaks_ip6())
            .map(|ip4| gateway_address6(self.host.config(), ip4));
        Ok(SandboxChoice {
            gateway,
            gateway6,
            dns_ports: None,
            host_ports,
        })
    }

    /// Leads the namespace's name queries to where the task's resolver listens.
    pub(crate) async fn redirect_dns(
        self: &Arc<Self>,
        task: &TaskId,
        ports: (u16, u16),
    ) -> Result<(), NetError> {
        let choice = {
            let mut sandboxes = lock(&self.sandboxes);
            let Some(choice) = sandboxes.get_mut(task) else {
                return Ok(());
            };
            choice.dns_ports = Some(ports);
            choice.clone()
        };
        self.keep_choice(task, &choice);
        let netns = self.netns_path(task);
        self.change_network(move |worker| worker.host.redirect_dns(&netns, ports.0, ports.1))
            .await
    }

    /// Takes a task's namespace down. Unknown is fine.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, task: &TaskId) -> Result<(), NetError> {
        if !self.has_sandbox(task) {
            return Ok(());
        }
        let task = task.clone();
        self.change_network(move |worker| {
            let netns = names::task_netns(task.as_str());
            worker.host.remove_sandbox(&netns)?;
            lock(&worker.sandboxes).remove(&task);
            Ok::<_, NetError>(())
        })
        .await?;
        self.network_changed.notify_one();
        Ok(())
    }

    /// The TCP connections of a task; none when they cannot be told.
    pub(crate) async fn connections(self: &Arc<Self>, task: &TaskId) -> Connections {
        let (worker, netns) = (Arc::clone(self), names::task_netns(task.as_str()));
        let found = tokio::task::spawn_blocking(move || worker.host.connections(&netns)).await;
        found.ok().and_then(Result::ok).unwrap_or_default()
    }

    fn keep_choice(&self, task: &TaskId, choice: &SandboxChoice) {
        let mut remembered = lock(&self.remembered);
        let entry = remembered.entry(task.clone()).or_default();
        entry.sandbox = Some(choice.clone());
        let entry = entry.clone();
        drop(remembered);
        if let Err(error) = self.journal.put(task, &entry) {
            warn!(%task, %error, "a task's network choices could not be journalled");
        }
    }
}

/// A port of this node that nobody listens on; 0 when there is none to be had.
fn free_port(protocol: Protocol) -> u16 {
    let any = (Ipv4Addr::UNSPECIFIED, 0);
    let address = match protocol {
        Protocol::Udp => UdpSocket::bind(any).and_then(|socket| socket.local_addr()),
        Protocol::Tcp | Protocol::Sctp => {
            TcpListener::bind(any).and_then(|socket| socket.local_addr())
        }
    };
    address.map_or(0, |address| address.port())
}
