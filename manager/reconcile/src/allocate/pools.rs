//! Which addresses of a network are in use, read off the state.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use skep_model::{Network, Task, TaskState, Timestamp};
use skep_plan::allocate::addresses::AddressPool;
use skep_plan::enforce::EVICTED;
use skep_store::Snapshot;

/// A container that was told to go may still use its address for as long as this after the
/// manager has written it off.
const EVICTED_HOLDS: Duration = Duration::from_secs(120);

/// What is in use on a network, one pool per subnet.
pub(crate) fn pools(view: &Snapshot, network: &Network, now: Timestamp) -> Vec<AddressPool> {
    let mut pools: Vec<AddressPool> = network
        .ipam
        .iter()
        .filter_map(|config| {
            let subnet = config.subnet?;
            Some(AddressPool::new(subnet, config.range, config.gateway))
        })
        .collect();
    for service in view.services() {
        for vip in &service.endpoint.virtual_ips {
            if vip.network_id == network.id {
                mark(&mut pools, &vip.addr, true);
            }
        }
    }
    for task in view.tasks_on_network(&network.id) {
        let held = holds_addresses(task, now);
        let on_it = task
            .attachments
            .iter()
            .filter(|attachment| attachment.network_id == network.id);
        for text in on_it.flat_map(|attachment| &attachment.addresses) {
            mark(&mut pools, text, held);
        }
    }
    for place in view.attachments_on_network(&network.id) {
        for text in &place.addresses {
            mark(&mut pools, text, true);
        }
    }
    if network.spec.ingress {
        // The data plane routes replies through the subnet's last address, which nobody owns.
        for subnet in network.ipam.iter().filter_map(|config| config.subnet) {
            if let IpNet::V4(net) = subnet {
                let last = u32::from(net.broadcast()).saturating_sub(1);
                reserve(&mut pools, IpAddr::V4(last.into()));
            }
        }
        for node in view.nodes() {
            for text in &node.ingress_addresses {
                mark(&mut pools, text, true);
            }
        }
    }
    pools
}

/// Notes an address, in use or not any more, in the pool it belongs to.
fn mark(pools: &mut [AddressPool], text: &str, held: bool) {
    let Some(address) = address(text) else { return };
    for pool in pools {
        match held {
            true => pool.mark(address),
            false => pool.remember(address),
        }
    }
}

fn reserve(pools: &mut [AddressPool], address: IpAddr) {
    for pool in pools {
        pool.reserve(address);
    }
}

/// Whether a task's addresses may still be in use.
fn holds_addresses(task: &Task, now: Timestamp) -> bool {
    let state = task.status.state;
    // Also before it ran: its agent may have been starting it.
    let was_started = !task.running_since.is_zero() || task.status.err == EVICTED;
    let evicted = state == TaskState::Rejected && was_started;
    !state.is_terminal() || (evicted && now.since(task.status.applied_at) < EVICTED_HOLDS)
}

fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}
