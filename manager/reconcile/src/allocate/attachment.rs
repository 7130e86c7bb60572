//! Addresses for plain containers on attachable networks.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use skep_model::{Attachment, Network};
use skep_plan::allocate::AddressPool;

use super::{Allocator, exhausted, pools};
use crate::step::Stage;

/// A place that got no address is taken back after so long.
const UNGIVEN: Duration = Duration::from_secs(30);

impl Allocator {
    /// Gives places that have no addresses yet what they want, or writes down why not.
    pub(crate) fn guests(&mut self, stage: &mut Stage<'_>) {
        let view = stage.tx.view().clone();
        let waiting = view
            .attachments()
            .filter(|place| place.addresses.is_empty());
        for place in waiting {
            if stage.room() == 0 {
                let now = stage.now;
                stage.wake(now);
                return;
            }
            if place.updated_at.plus(UNGIVEN) <= stage.now {
                // Whoever asked has long been told why, or is gone.
                if let Err(error) = stage.tx.remove::<Attachment>(&place.id) {
                    stage.step.notes.push(error.to_string());
                }
                continue;
            }
            stage.wake(place.updated_at.plus(UNGIVEN));
            if !place.waits_for.is_empty() {
                continue;
            }
            let Some(network) = view.network(&place.network_id) else {
                continue;
            };
            if !network.is_allocated() {
                continue;
            }
            let mut given = Attachment::clone(place);
            let pools = self
                .pools
                .entry(network.id.clone())
                .or_insert_with(|| pools(&view, network, stage.now));
            match choose(pools, network, &place.wanted) {
                Ok(addresses) => given.addresses = addresses,
                Err(reason) => given.waits_for = reason,
            }
            if let Err(error) = stage.tx.put(given) {
                stage.step.notes.push(error.to_string());
            }
        }
    }
}

/// One address of each family that the network has: the wanted one, or a free one.
fn choose(
    pools: &mut [AddressPool],
    network: &Arc<Network>,
    wanted: &[IpAddr],
) -> Result<Vec<String>, String> {
    let strange = wanted
        .iter()
        .find(|address| !pools.iter().any(|pool| pool.holds(**address)));
    if let Some(address) = strange {
        return Err(format!(
            "invalid config for network {}: invalid endpoint settings:\nno configured subnet contains IP address {address}",
            network.spec.name
        ));
    }
    let mut addresses = Vec::new();
    for is_v4 in [true, false] {
        let mut family: Vec<_> = pools
            .iter_mut()
            .filter(|pool| pool.is_v4() == is_v4)
            .collect();
        if family.is_empty() {
            continue;
        }
        let asked = wanted.iter().find(|address| address.is_ipv4() == is_v4);
        let found = family.iter_mut().find_map(|pool| match asked {
            Some(address) => pool.take_this(*address),
            None => pool.take(),
        });
        match found {
            Some(address) => addresses.push(address.to_string()),
            None if asked.is_some() => return Err("Address already in use".to_owned()),
            None => return Err(exhausted(network)),
        }
    }
    Ok(addresses)
}
