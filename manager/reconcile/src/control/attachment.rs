//! Plain containers on attachable networks: who may join, and who has left.

use std::net::IpAddr;

use skep_model::{
    Attachment, AttachmentId, ControlError, GuestContainer, Kind, Network, NetworkId, NodeId,
};

use super::{Done, Door, not_found};

/// Plain containers that may be on one network: what a snapshot of it can carry.
const GUESTS_PER_NETWORK_MAX: usize = 10_000;
/// Bytes of one name of a container, and names beside its own.
const NAME_BYTES_MAX: usize = 255;
const ALIASES_MAX: usize = 64;

/// Refuses a network that only tasks of services may join. The text is Swarm's.
pub fn check_attachable(network: &Network) -> Result<(), ControlError> {
    if network.spec.attachable && !network.spec.ingress {
        return Ok(());
    }
    Err(ControlError::new(
        Kind::PermissionDenied,
        format!("network {} not manually attachable", network.spec.name),
    ))
}

/// Refuses what would make every node's assignments grow without need.
fn check_container(container: &GuestContainer, wanted: &[IpAddr]) -> Done {
    let names = [&container.id, &container.name, &container.hostname];
    let mut texts = names.into_iter().chain(&container.aliases);
    if container.id.is_empty() || texts.any(|text| text.len() > NAME_BYTES_MAX) {
        return Err(ControlError::invalid(format!(
            "a container's id, names and aliases must have 1 to {NAME_BYTES_MAX} bytes"
        )));
    }
    if container.aliases.len() > ALIASES_MAX || wanted.len() > 2 {
        return Err(ControlError::invalid(format!(
            "a container can have {ALIASES_MAX} aliases and one address of each family on a network"
        )));
    }
    Ok(())
}

impl Door<'_> {
    /// Notes that a container wants a place; the allocator gives it addresses. A container that
    /// has one keeps it, under the names it asks for now.
    pub(super) fn attach(
        &mut self,
        node: &NodeId,
        network: &NetworkId,
        container: &GuestContainer,
        wanted: &[IpAddr],
    ) -> Result<AttachmentId, ControlError> {
        check_container(container, wanted)?;
        let Some(host) = self.tx.node(node) else {
            return Err(ControlError::not_found(format!("node {node} not found")));
        };
        let (hostname, encryption) = (
            host.description.hostname.clone(),
            host.description.encryption.clone(),
        );
        let network = self
            .tx
            .find::<Network>(network.as_str())
            .map_err(not_found)?;
        check_attachable(network)?;
        if network.spec.is_encrypted() && !encryption.is_able() {
            return Err(ControlError::new(
                Kind::FailedPrecondition,
                format!(
                    "network {} is encrypted, and node {hostname} cannot encrypt: {}",
                    network.spec.name,
                    encryption.why_not()
                ),
            ));
        }
        let network = network.id.clone();
        if let Some(present) = self.place_of(node, &network, &container.id) {
            let mut place = present;
            let id = place.id.clone();
            // Who asks for what it has keeps all of it.
            let has = |address: &IpAddr| {
                let mut given = place.addresses.iter();
                given.any(|text| text.split('/').next() == Some(&address.to_string()))
            };
            if !wanted.iter().all(has) {
                place.wanted = wanted.to_vec();
                place.addresses.clear();
            }
            place.waits_for.clear();
            place.container = container.clone();
            self.put(place)?;
            return Ok(id);
        }
        if self.tx.attachments_on_network(&network).count() >= GUESTS_PER_NETWORK_MAX {
            return Err(ControlError::new(
                Kind::Exhausted,
                format!("network {network} has {GUESTS_PER_NETWORK_MAX} containers already"),
            ));
        }
        let id = AttachmentId::random(self.random);
        // The network must not go meanwhile.
        self.tx.rely_on(skep_store::Key::Network(network.clone()));
        self.put(Attachment {
            id: id.clone(),
            node_id: node.clone(),
            network_id: network,
            container: container.clone(),
            wanted: wanted.to_vec(),
            ..Attachment::default()
        })?;
        Ok(id)
    }

    pub(super) fn detach(&mut self, node: &NodeId, network: &NetworkId, container: &str) -> Done {
        if let Some(place) = self.place_of(node, network, container) {
            self.tx.remove::<Attachment>(&place.id)?;
        }
        Ok(())
    }

    /// Takes back every place of a node that is no member any more.
    pub(super) fn detach_all(&mut self, node: &NodeId) -> Done {
        let all = self.tx.attachments();
        let places: Vec<AttachmentId> = all
            .filter(|place| place.node_id == *node)
            .map(|place| place.id.clone())
            .collect();
        for place in places {
            self.tx.remove::<Attachment>(&place)?;
        }
        Ok(())
    }

    fn place_of(&self, node: &NodeId, network: &NetworkId, container: &str) -> Option<Attachment> {
        self.tx
            .attachments_on_network(network)
            .find(|place| place.node_id == *node && place.container.id == container)
            .map(|place| Attachment::clone(place))
    }
}
