//! Secrets and configs. Their payload never changes; only labels may be updated, and when a secret
//! expires.

use skep_model::expiry::Expiry;
use skep_model::validate::{check_config, check_secret};
use skep_model::{
    Config, ConfigId, ConfigSpec, ControlError, Kind, Secret, SecretId, SecretSpec, Service,
    Version,
};

use super::{Done, Door, check_version, expiry, not_found};

impl Door<'_> {
    pub(super) fn create_secret(&mut self, spec: &SecretSpec) -> Result<SecretId, ControlError> {
        check_secret(spec)?;
        if self.tx.by_name::<Secret>(&spec.name).is_some() {
            return exists("secret", &spec.name);
        }
        let id = SecretId::random(self.random);
        let mut spec = spec.clone();
        spec.expiry = Expiry::settled(spec.expiry.as_ref(), None, self.now);
        self.put(Secret {
            id: id.clone(),
            spec,
            ..Secret::default()
        })?;
        Ok(id)
    }

    pub(super) fn update_secret(
        &mut self,
        id: &SecretId,
        version: Option<Version>,
        spec: &SecretSpec,
    ) -> Done {
        let known = self.tx.find::<Secret>(id.as_str()).map_err(not_found)?;
        let mut secret = Secret::clone(known);
        if let Some(version) = version {
            check_version(version, secret.version)?;
        }
        // Clients never see the payload, so they send none or the very same.
        let same_data = spec.data.is_empty() || spec.data == secret.spec.data;
        let same = spec.name == secret.spec.name
            && same_data
            && spec.driver == secret.spec.driver
            && spec.templating == secret.spec.templating;
        if !same {
            return Err(ControlError::invalid("only updates to Labels are allowed"));
        }
        spec.expiry.as_ref().map_or(Ok(()), Expiry::check)?;
        secret.spec.labels.clone_from(&spec.labels);
        let had = secret.spec.expiry.as_ref();
        let expiry = Expiry::settled(spec.expiry.as_ref(), had, self.now);
        expiry::set(&mut secret, expiry);
        self.put(secret)
    }

    pub(super) fn remove_secret(&mut self, id: &SecretId) -> Done {
        let known = self.tx.find::<Secret>(id.as_str()).map_err(not_found)?;
        let secret = Secret::clone(known);
        let users = self.tx.services_with_secret(&secret.id);
        refuse_used("secret", &secret.spec.name, users.map(|service| &**service))?;
        self.tx.remove::<Secret>(&secret.id)?;
        Ok(())
    }

    pub(super) fn create_config(&mut self, spec: &ConfigSpec) -> Result<ConfigId, ControlError> {
        check_config(spec)?;
        if self.tx.by_name::<Config>(&spec.name).is_some() {
            return exists("config", &spec.name);
        }
        let id = ConfigId::random(self.random);
        self.put(Config {
            id: id.clone(),
            spec: spec.clone(),
            ..Config::default()
        })?;
        Ok(id)
    }

    pub(super) fn update_config(
        &mut self,
        id: &ConfigId,
        version: Option<Version>,
        spec: &ConfigSpec,
    ) -> Done {
        let known = self.tx.find::<Config>(id.as_str()).map_err(not_found)?;
        let mut config = Config::clone(known);
        if let Some(version) = version {
            check_version(version, config.version)?;
        }
        let same_data = spec.data.is_empty() || spec.data == config.spec.data;
        let same =
            spec.name == config.spec.name && same_data && spec.templating == config.spec.templating;
        if !same {
            return Err(ControlError::invalid("only updates to Labels are allowed"));
        }
        config.spec.labels.clone_from(&spec.labels);
        self.put(config)
    }

    pub(super) fn remove_config(&mut self, id: &ConfigId) -> Done {
        let known = self.tx.find::<Config>(id.as_str()).map_err(not_found)?;
        let config = Config::clone(known);
        let users = self.tx.services_with_config(&config.id);
        refuse_used("config", &config.spec.name, users.map(|service| &**service))?;
        self.tx.remove::<Config>(&config.id)?;
        Ok(())
    }
}

fn exists<T>(kind: &str, name: &str) -> Result<T, ControlError> {
    let message = format!("{kind} {name} already exists");
    Err(ControlError::new(Kind::Conflict, message))
}

fn refuse_used<'a>(kind: &str, name: &str, users: impl Iterator<Item = &'a Service>) -> Done {
    let names: Vec<&str> = users.map(|service| service.spec.name.as_str()).collect();
    let services = match names.len() {
        0 => return Ok(()),
        1 => "service",
        _ => "services",
    };
    Err(ControlError::invalid(format!(
        "{kind} '{name}' is in use by the following {services}: {}",
        names.join(", ")
    )))
}
