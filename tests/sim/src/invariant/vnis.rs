//! A VXLAN network id has one network, and rests after its removal.

use std::collections::BTreeMap;

use skep_store::Snapshot;

pub(super) fn no_vni_twice_or_too_early(snapshot: &Snapshot) -> Result<(), String> {
    let mut seen = BTreeMap::new();
    let resting = snapshot.cluster().map(|cluster| &cluster.resting_vnis);
    for network in snapshot.networks().filter(|network| network.vni != 0) {
        if let Some(other) = seen.insert(network.vni, &network.spec.name) {
            return Err(format!(
                "{other} and {} both have VNI {}",
                network.spec.name, network.vni
            ));
        }
        let too_early = resting
            .into_iter()
            .flatten()
            .any(|rest| rest.vni == network.vni && rest.until > network.updated_at);
        if too_early {
            return Err(format!(
                "{} has VNI {} although it rests",
                network.spec.name, network.vni
            ));
        }
        let subnets = network.ipam.iter().filter_map(|config| config.subnet);
        for subnet in subnets {
            let overlaps = |other: &_| skep_plan::allocate::subnets::overlap(&subnet, other);
            let others = snapshot
                .networks()
                .filter(|other| other.id != network.id)
                .flat_map(|other| &other.ipam)
                .filter_map(|config| config.subnet);
            if let Some(other) = others.into_iter().find(overlaps) {
                return Err(format!("subnets {subnet} and {other} overlap"));
            }
        }
    }
    Ok(())
}
