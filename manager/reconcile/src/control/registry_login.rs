//! Credentials that the cluster keeps for registries.

use skep_model::registry_login::{REGISTRY_LOGINS_MAX, host};
use skep_model::{ControlError, Kind, RegistryLogin, RegistryLoginId, RegistryLoginSpec};

use super::{Done, Door};

impl Door<'_> {
    /// Keeps credentials; the same ones kept again count as new, since the registry may take them now.
    pub(super) fn keep_registry_login(&mut self, spec: &RegistryLoginSpec) -> Done {
        let spec = spec.checked();
        let spec = spec.map_err(|error| ControlError::invalid(error.to_string()))?;
        let known = self.tx.by_name::<RegistryLogin>(&spec.host).cloned();
        if known.is_none() && self.tx.count::<RegistryLogin>() >= REGISTRY_LOGINS_MAX {
            return Err(ControlError::new(
                Kind::FailedPrecondition,
                format!(
                    "the cluster keeps credentials for {REGISTRY_LOGINS_MAX} registries already: \
                     registry rm HOST"
                ),
            ));
        }
        let id = match &known {
            Some(known) => known.id.clone(),
            None => RegistryLoginId::random(self.random),
        };
        self.response.id = id.to_string();
        self.put(RegistryLogin {
            id,
            kept_at: self.now,
            spec,
            ..RegistryLogin::default()
        })
    }

    pub(super) fn remove_registry_login(&mut self, given: &str) -> Done {
        let host = host(given).map_err(|error| ControlError::invalid(error.to_string()))?;
        let known = self.tx.by_name::<RegistryLogin>(&host).cloned();
        let known = known.ok_or_else(|| {
            ControlError::not_found(format!("the cluster keeps no credentials for {host}"))
        })?;
        self.response.id = known.id.to_string();
        self.tx.remove::<RegistryLogin>(&known.id)?;
        Ok(())
    }
}
