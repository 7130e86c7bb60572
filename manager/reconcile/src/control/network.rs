//! Networks: create and remove.

use std::time::Duration;

use skep_model::cluster::RestingVni;
use skep_model::limits::VNI_QUARANTINE_SECS;
use skep_model::validate::check_network;
use skep_model::{Cluster, ControlError, Kind, Network, NetworkId, NetworkSpec, TaskState};
use skep_plan::allocate::numbers;
use skep_plan::allocate::subnets::overlap;

use super::{Done, Door, not_found};
use crate::allocate::NODE_LOCAL;

/// Ids of removed networks that are kept from use.
const RESTING_VNIS_MAX: usize = 4096;

impl Door<'_> {
    pub(super) fn create_network(&mut self, spec: &NetworkSpec) -> Result<NetworkId, ControlError> {
        check_network(spec)?;
        let spec = &self.with_encryption(spec)?;
        let taken = self.tx.by_name::<Network>(&spec.name).is_some();
        if taken || NODE_LOCAL.contains(&spec.name.as_str()) {
            return Err(ControlError::new(
                Kind::Conflict,
                format!("network with name {} already exists", spec.name),
            ));
        }
        if spec.ingress
            && let Some(known) = self.tx.ingress_network()
        {
            return Err(ControlError::new(
                Kind::Conflict,
                format!("ingress network ({}) is already present", known.id),
            ));
        }
        let wanted = spec.ipam.iter().flat_map(|ipam| &ipam.configs);
        for subnet in wanted.filter_map(|config| config.subnet) {
            let in_use = self.tx.networks().flat_map(|network| &network.ipam);
            let mut in_use = in_use.filter_map(|config| config.subnet);
            if in_use.any(|other| overlap(&subnet, &other)) {
                return Err(ControlError::invalid(
                    "invalid pool request: Pool overlaps with other one on this address space",
                ));
            }
        }
        let id = NetworkId::random(self.random);
        self.put(Network {
            id: id.clone(),
            spec: NetworkSpec {
                scope: "swarm".to_owned(),
                ..spec.clone()
            },
            ..Network::default()
        })?;
        Ok(id)
    }

    pub(super) fn remove_network(&mut self, id: &NetworkId) -> Done {
        let network = self.tx.find::<Network>(id.as_str()).map_err(not_found)?;
        let network = Network::clone(network);
        let in_use = |message: String| Err(ControlError::new(Kind::FailedPrecondition, message));
        if network.spec.ingress
            && let Some(service) = self.ingress_user()
        {
            return in_use(format!(
                "ingress network cannot be removed because service {service} depends on it"
            ));
        }
        if let Some(service) = self.network_user(&network.id) {
            return in_use(format!(
                "network {} is in use by service {service}",
                network.id
            ));
        }
        let mut tasks = self.tx.tasks_on_network(&network.id);
        let user = tasks.find(|task| {
            (TaskState::Assigned..=TaskState::Running).contains(&task.status.state)
                && task.desired_state <= TaskState::Running
                // Tasks of a removed service are about to be told to stop.
                && self.tx.service(&task.service_id).is_some()
        });
        if let Some(task) = user {
            return in_use(format!(
                "network {} is in use by task {}",
                network.id, task.id
            ));
        }
        drop(tasks);
        let mut places = self.tx.attachments_on_network(&network.id);
        if let Some(place) = places.next() {
            return in_use(format!(
                "network {} is in use by container {} on node {}",
                network.id, place.container.name, place.node_id
            ));
        }
        drop(places);
        self.rest_vni(network.vni)?;
        self.tx.remove::<Network>(&network.id)?;
        Ok(())
    }

    /// A node that is cut off may still send frames with the id, so it is not used again at once.
    fn rest_vni(&mut self, vni: u32) -> Done {
        let Some(cluster) = self.tx.cluster().filter(|_| vni != 0) else {
            return Ok(());
        };
        let mut cluster = Cluster::clone(cluster);
        let now = self.now;
        let lost = numbers::is_any_lost(self.tx.nodes().map(|node| &**node));
        cluster
            .resting_vnis
            .retain(|rest| numbers::rests(rest, now, lost));
        // Where a node is lost for good, the oldest are forgotten in the end.
        let surplus = (cluster.resting_vnis.len() + 1).saturating_sub(RESTING_VNIS_MAX);
        cluster.resting_vnis.drain(..surplus);
        let rest = Duration::from_secs(VNI_QUARANTINE_SECS.unsigned_abs());
        cluster.resting_vnis.push(RestingVni {
            vni,
            until: now.plus(rest),
        });
        self.put(cluster)
    }
}
