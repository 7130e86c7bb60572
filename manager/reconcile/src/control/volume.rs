//! Slots that are let go from the nodes that have their volumes.

use skep_model::volume_home::{VOLUME_PLACEMENT_LABEL, VolumeHome, is_sticky};
use skep_model::{ControlError, Kind, Node, NodeId, Service, ServiceId, ServiceMode, TaskState};
use skep_plan::homes::resident;

use super::{Done, Door};

/// Slots whose volumes a warning names.
const HOMES_TOLD_MAX: usize = 20;

impl Door<'_> {
    /// The slots' next tasks go anywhere, or to `to`, and may begin with empty volumes there.
    pub(super) fn release_volumes(
        &mut self,
        id: &ServiceId,
        slots: Option<&[u64]>,
        to: Option<&NodeId>,
    ) -> Done {
        let mut service = self.service(id)?;
        let name = &service.spec.name;
        if !is_sticky(&service.spec.labels) {
            return Err(ControlError::invalid(format!(
                "tasks of service {name} are bound to no node by volumes: it has no label \
                 {VOLUME_PLACEMENT_LABEL}=sticky"
            )));
        }
        let to = to.map(|given| self.node(given)).transpose()?;
        let slots: Vec<u64> = match slots {
            Some(slots) => slots.to_vec(),
            None => service.volume_homes.keys().copied().collect(),
        };
        for slot in slots {
            self.release_slot(&mut service, slot, to.as_ref())?;
        }
        self.put(service)
    }

    fn release_slot(&mut self, service: &mut Service, slot: u64, to: Option<&Node>) -> Done {
        let name = service.spec.name.clone();
        if slot == 0 {
            return Err(ControlError::invalid("slots are counted from 1"));
        }
        let home = service.volume_homes.get(&slot);
        if let Some(home) = home {
            self.refuse_resident(&name, slot, home, to)?;
        } else if to.is_none() {
            return Err(ControlError::not_found(format!(
                "slot {slot} of service {name} has no volumes on any node"
            )));
        } else {
            self.refuse_unknown(service, slot)?;
        }
        let had = home.map_or_else(String::new, |home| match home.volumes.as_slice() {
            [] => format!(" no volumes yet on {}", home.hostname),
            volumes => format!(" {} on {}", volumes.join(", "), home.hostname),
        });
        let then = to.map_or_else(String::new, |node| {
            format!(" -> {}", node.description.hostname)
        });
        self.response
            .actions
            .push(format!("{name}.{slot}:{had}{then}"));
        match to {
            None => drop(service.volume_homes.remove(&slot)),
            Some(node) => {
                let home = VolumeHome {
                    node_id: node.id.clone(),
                    hostname: node.description.hostname.clone(),
                    since: self.now,
                    ..VolumeHome::default()
                };
                service.volume_homes.insert(slot, home);
            }
        }
        Ok(())
    }

    /// Volumes stay where they are when the service or its label goes, and nobody knows any more whose
    /// they were.
    pub(super) fn warn_of_homes(&mut self, service: &Service) {
        let homes = service.volume_homes.iter();
        let held: Vec<_> = homes.filter(|(_, home)| home.is_held).collect();
        let named = held.iter().take(HOMES_TOLD_MAX).map(|(slot, home)| {
            format!(
                "{} on {} (slot {slot})",
                home.volumes.join(", "),
                home.hostname
            )
        });
        let mut named: Vec<String> = named.collect();
        if named.is_empty() {
            return;
        }
        let more = held.len() - named.len();
        if more > 0 {
            named.push(format!("and those of {more} more slots"));
        }
        self.response.warnings.push(format!(
            "tasks of service {} return to their volumes no more, which stay: {}",
            service.spec.name,
            named.join("; ")
        ));
    }

    /// Refuses a slot that the service neither has nor has had.
    fn refuse_unknown(&self, service: &Service, slot: u64) -> Done {
        let replicas = match &service.spec.mode {
            ServiceMode::Replicated(replicated) => replicated.count(),
            _ => 0,
        };
        let mut tasks = self.tx.tasks_of_slot(&service.id, slot);
        match slot <= replicas || tasks.next().is_some() {
            true => Ok(()),
            false => Err(ControlError::not_found(format!(
                "service {} has no slot {slot}: it has {replicas} replicas",
                service.spec.name
            ))),
        }
    }

    /// Refuses to let go of volumes that a task has, or is about to have.
    fn refuse_resident(&self, name: &str, slot: u64, home: &VolumeHome, to: Option<&Node>) -> Done {
        let service = self.tx.by_name::<Service>(name).map(|it| it.id.clone());
        let tasks = service
            .iter()
            .flat_map(|id| self.tx.tasks_of_slot(id, slot));
        let tasks: Vec<_> = tasks.cloned().collect();
        let table = crate::preview::table(self.tx.view());
        let Some(task) = resident(home, slot, &tasks, &table) else {
            return Ok(());
        };
        // One that is about to start there is where it is to be.
        let stays = to.is_some_and(|node| node.id == home.node_id);
        if stays && task.status.state < TaskState::Ready {
            return Ok(());
        }
        Err(ControlError::new(
            Kind::FailedPrecondition,
            format!(
                "task {} of slot {slot} of service {name} is on node {}, with its volumes: drain \
                 that node or scale the service down first",
                task.id, home.hostname
            ),
        ))
    }
}
