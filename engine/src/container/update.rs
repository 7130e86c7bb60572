//! `docker rename` and `docker update`.

use std::sync::Arc;

use super::{shim_link, spec, validate};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::names;
use crate::streams::blocking;
use crate::types::{HostConfig, UpdateConfig};

impl Engine {
    /// Gives a container another name.
    pub async fn container_rename(&self, name: &str, new_name: &str) -> Result<()> {
        let container = self.containers.find(name)?;
        let new = new_name.strip_prefix('/').unwrap_or(new_name).to_owned();
        if new.is_empty() {
            return Err(EngineError::invalid(
                "Neither old nor new names may be empty",
            ));
        }
        if !names::is_valid_name(&new) {
            return Err(EngineError::invalid(format!(
                "Error when allocating new name: Invalid container name ({new_name}), only {} are allowed",
                names::NAME_PATTERN
            )));
        }
        let _turn = container.turn().await;
        let old = container.lock().record.name.clone();
        if old == new {
            return Err(EngineError::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        self.containers
            .reserve(&new, &container.id)
            .map_err(|error| error.context("Error when allocating new name"))?;
        let (engine, target, taken) = (self.shared(), Arc::clone(&container), new.clone());
        let renamed = blocking(move || {
            target.change(|inner| inner.record.name.clone_from(&taken))?;
            for network in target.record().networks.keys() {
                if let Ok(network) = engine.networks.find(network) {
                    engine.write_zone(&network)?;
                }
            }
            Ok(())
        })
        .await;
        let left = if renamed.is_ok() { &old } else { &new };
        self.containers.release(left, &container.id);
        renamed?;
        self.container_event(&container, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// Changes limits and restart policy; warnings.
    pub async fn container_update(&self, name: &str, update: UpdateConfig) -> Result<Vec<String>> {
        let container = self.containers.find(name)?;
        let _turn = container.turn().await;
        let mut warnings = Vec::new();
        let mut host = container.lock().record.host_config.clone();
        if let Some(policy) = &update.restart_policy
            && !policy.name.is_empty()
        {
            validate::restart_policy(policy)?;
            if host.auto_remove && policy.name != "no" {
                return Err(EngineError::conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                ));
            }
        }
        let changed = apply(&mut host, update)?;
        validate::resources(&host, &mut warnings)?;
        if container.status().is_live() {
            let limits = spec::limits(&changed);
            shim_link::call(container.shim(), move |shim| shim.update(&limits))
                .await
                .map_err(|error| {
                    error.context(format!("Cannot update container {}", container.id))
                })?;
        }
        container
            .alter(|inner| inner.record.host_config = host)
            .await?;
        self.container_event(&container, "update", &[]);
        Ok(warnings)
    }
}

/// Changes what the update gives; the changes alone, for the running container.
fn apply(host: &mut HostConfig, update: UpdateConfig) -> Result<HostConfig> {
    let mut only = HostConfig::default();
    macro_rules! numbers {
        ($($field:ident),*) => {$(
            if update.$field != 0 {
                host.$field = update.$field;
                only.$field = update.$field;
            }
        )*};
    }
    if update.nano_cpus != 0 && (host.cpu_period != 0 || host.cpu_quota != 0) {
        return Err(EngineError::conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period/Quota has already been set",
        ));
    }
    if (update.cpu_period != 0 || update.cpu_quota != 0) && host.nano_cpus != 0 {
        return Err(EngineError::conflict(
            "Conflicting options: CPU Period/Quota cannot be updated as NanoCPUs has already been set",
        ));
    }
    if update.memory != 0
        && update.memory_swap == 0
        && host.memory_swap > 0
        && update.memory > host.memory_swap
    {
        return Err(EngineError::conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    numbers!(
        cpu_shares,
        memory,
        blkio_weight,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        memory_reservation,
        memory_swap,
        nano_cpus
    );
    if !update.cpuset_cpus.is_empty() {
        host.cpuset_cpus.clone_from(&update.cpuset_cpus);
        only.cpuset_cpus = update.cpuset_cpus;
    }
    if !update.cpuset_mems.is_empty() {
        host.cpuset_mems.clone_from(&update.cpuset_mems);
        only.cpuset_mems = update.cpuset_mems;
    }
    if update.pids_limit.is_some_and(|limit| limit != 0) {
        host.pids_limit = update.pids_limit;
        only.pids_limit = update.pids_limit;
    }
    if let Some(policy) = update
        .restart_policy
        .filter(|policy| !policy.name.is_empty())
    {
        host.restart_policy = policy;
    }
    // The running container's swap stays what it is unless it is named.
    if only.memory_swap == 0 && only.memory != 0 {
        only.memory_swap = host.memory_swap;
    }
    Ok(only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_changes() {
        let mut host = HostConfig {
            memory: 64 << 20,
            memory_swap: 128 << 20,
            cpu_shares: 512,
            ..HostConfig::default()
        };
        let only = apply(
            &mut host,
            UpdateConfig {
                memory: 32 << 20,
                pids_limit: Some(7),
                ..UpdateConfig::default()
            },
        )
        .unwrap();
        assert_eq!(
            (host.memory, host.cpu_shares, host.pids_limit),
            (32 << 20, 512, Some(7))
        );
        assert_eq!(
            (only.memory, only.memory_swap, only.cpu_shares),
            (32 << 20, 128 << 20, 0)
        );
        let too_much = UpdateConfig {
            memory: 256 << 20,
            ..UpdateConfig::default()
        };
        assert!(apply(&mut host, too_much).is_err());
    }
}
