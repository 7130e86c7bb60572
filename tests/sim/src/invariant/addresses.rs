//! No two holders have the same address on a network, and nobody holds one that is not its.

use std::collections::BTreeMap;
use std::net::IpAddr;

use skep_model::NetworkId;
use skep_store::Snapshot;

type Holders = BTreeMap<(NetworkId, IpAddr), String>;

pub(super) fn no_address_twice(snapshot: &Snapshot) -> Result<(), String> {
    holders(snapshot).map(drop)
}

fn holders(snapshot: &Snapshot) -> Result<Holders, String> {
    let mut holders = Holders::new();
    for service in snapshot.services() {
        for vip in &service.endpoint.virtual_ips {
            let holder = format!("service {}", service.spec.name);
            hold(&mut holders, snapshot, &vip.network_id, &vip.addr, holder)?;
        }
    }
    for task in snapshot.tasks() {
        if task.status.state.is_terminal() {
            continue;
        }
        for attachment in &task.attachments {
            for address in &attachment.addresses {
                let holder = format!("task {} of {}", task.id, task.service_name);
                hold(
                    &mut holders,
                    snapshot,
                    &attachment.network_id,
                    address,
                    holder,
                )?;
            }
        }
    }
    if let Some(ingress) = snapshot.ingress_network() {
        for node in snapshot.nodes() {
            for address in &node.ingress_addresses {
                let holder = format!("node {}", node.id);
                hold(&mut holders, snapshot, &ingress.id, address, holder)?;
            }
        }
    }
    Ok(holders)
}

fn hold(
    holders: &mut Holders,
    snapshot: &Snapshot,
    network: &NetworkId,
    address: &str,
    holder: String,
) -> Result<(), String> {
    let parsed: IpAddr = address
        .split('/')
        .next()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("{holder} has the address {address:?}"))?;
    // Tasks of a removed network keep what they have until they have stopped.
    if let Some(known) = snapshot.network(network) {
        let config = known
            .ipam
            .iter()
            .find(|config| config.subnet.is_some_and(|net| net.contains(&parsed)));
        match config {
            None => {
                return Err(format!(
                    "{holder} has {address} outside of {}",
                    known.spec.name
                ));
            }
            Some(config) if config.gateway == Some(parsed) => {
                return Err(format!("{holder} has the gateway's address {address}"));
            }
            Some(_) => (),
        }
    }
    match holders.insert((network.clone(), parsed), holder.clone()) {
        None => Ok(()),
        Some(other) => Err(format!("{other} and {holder} both have {address}")),
    }
}

/// After peace only what lives holds addresses.
pub(super) fn nothing_leaked(snapshot: &Snapshot) -> Result<(), String> {
    for ((_, address), holder) in holders(snapshot)? {
        let Some(id) = holder.strip_prefix("task ") else {
            continue;
        };
        let id = id.split(' ').next().unwrap_or_default();
        let lives = snapshot
            .task(&id.into())
            .is_some_and(|task| task.is_live() && snapshot.service(&task.service_id).is_some());
        if !lives {
            return Err(format!("{holder} still has {address}"));
        }
    }
    Ok(())
}
