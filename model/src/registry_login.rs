//! Credentials for registries that the cluster keeps for all of its services: what every node pulls
//! with where a service brings none of its own, or is refused with them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::is_registry;
use crate::serde_help::null_default;
use crate::{RegistryLoginId, Timestamp, Version};

/// The registry of images that name none.
pub const DOCKER_HUB: &str = "docker.io";
/// Most of them that a cluster keeps.
pub const REGISTRY_LOGINS_MAX: usize = 100;
/// Longest user name; a bound on mistakes.
const USERNAME_BYTES_MAX: usize = 1024;
/// Longest password or token. Some registries' tokens are several thousand bytes long.
const PASSWORD_BYTES_MAX: usize = 64 << 10;
/// Longest name of a registry, with its port.
const HOST_LEN_MAX: usize = 255;

/// What a user stores: who the cluster is at a registry. The password never prints.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RegistryLoginSpec {
    /// The registry as images name it, with its port: `registry.example:5000`.
    #[serde(deserialize_with = "null_default")]
    pub host: String,
    #[serde(deserialize_with = "null_default")]
    pub username: String,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub password: String,
}

impl fmt::Debug for RegistryLoginSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryLoginSpec")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// The same as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RegistryLogin {
    #[serde(rename = "ID")]
    pub id: RegistryLoginId,
    pub version: Version,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// When they were given last, by the clock of whoever led then.
    pub kept_at: Timestamp,
    pub spec: RegistryLoginSpec,
}

/// Why credentials cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryLoginError {
    #[error("`{0}` is no registry: want a host with a dot or a port, as images name it")]
    Host(String),
    #[error("a user name has 1 to {USERNAME_BYTES_MAX} bytes and no colon")]
    Username,
    #[error("a password has 1 to {PASSWORD_BYTES_MAX} bytes")]
    Password,
}

impl RegistryLoginSpec {
    /// The same with the host as images name it.
    ///
    /// # Errors
    /// A field is empty, too long, or no host.
    pub fn checked(&self) -> Result<Self, RegistryLoginError> {
        let host = host(&self.host)?;
        let lengths = 1..=USERNAME_BYTES_MAX;
        if !lengths.contains(&self.username.len()) || self.username.contains(':') {
            return Err(RegistryLoginError::Username);
        }
        if !(1..=PASSWORD_BYTES_MAX).contains(&self.password.len()) {
            return Err(RegistryLoginError::Password);
        }
        Ok(Self {
            host,
            ..self.clone()
        })
    }
}

/// A registry's name as images have it, from what people call it: an address, or one of Docker's names.
///
/// # Errors
/// It names no registry.
pub fn host(given: &str) -> Result<String, RegistryLoginError> {
    let rest = given.trim();
    let rest = rest.strip_prefix("https://").unwrap_or(rest);
    let rest = rest.strip_prefix("http://").unwrap_or(rest);
    let name = rest.split('/').next().unwrap_or_default();
    match name {
        "" if given.trim().is_empty() => Ok(DOCKER_HUB.to_owned()),
        "index.docker.io" | "registry-1.docker.io" | DOCKER_HUB => Ok(DOCKER_HUB.to_owned()),
        name if is_registry(name)
            && name.len() <= HOST_LEN_MAX
            && is_named_by_images(&name.to_lowercase()) =>
        {
            Ok(name.to_lowercase())
        }
        _ => Err(RegistryLoginError::Host(given.to_owned())),
    }
}

/// Whether images can name a registry so: one word alone is the first part of a path.
fn is_named_by_images(name: &str) -> bool {
    name == "localhost" || name.contains(['.', ':'])
}

/// The registry that an image comes from, in small letters.
pub fn host_of(image: &str) -> String {
    let host = crate::image::registry(image).map(str::to_lowercase);
    match host.as_deref() {
        None | Some("index.docker.io" | "registry-1.docker.io") => DOCKER_HUB.to_owned(),
        Some(host) => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_called_as_images_call_them() {
        for (given, wanted) in [
            ("", DOCKER_HUB),
            ("https://index.docker.io/v1/", DOCKER_HUB),
            ("registry.example:5000", "registry.example:5000"),
            ("https://Registry.example/v2/", "registry.example"),
            ("localhost:5000", "localhost:5000"),
            ("localhost", "localhost"),
            ("myreg:5000", "myreg:5000"),
        ] {
            assert_eq!(host(given).as_deref(), Ok(wanted), "{given}");
        }
        for wrong in ["a b", "-x", "http://", "reg:port", "myreg"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
        for (image, wanted) in [
            ("web", DOCKER_HUB),
            ("team/web:1", DOCKER_HUB),
            ("docker.io/web", DOCKER_HUB),
            ("registry-1.docker.io/team/web", DOCKER_HUB),
            ("Registry.example/web", "registry.example"),
            ("registry.example:5000/web:1", "registry.example:5000"),
        ] {
            assert_eq!(host_of(image), wanted);
        }
    }

    #[test]
    fn what_is_no_login_is_refused_and_nothing_prints_a_password() {
        let spec = |username: &str, password: &str| RegistryLoginSpec {
            host: "https://r.example/".to_owned(),
            username: username.to_owned(),
            password: password.to_owned(),
        };
        let good = spec("ali", "open-sesame").checked().unwrap();
        assert_eq!(good.host, "r.example");
        assert!(!format!("{good:?}").contains("sesame"));
        assert_eq!(spec("", "x").checked(), Err(RegistryLoginError::Username));
        assert_eq!(
            spec("a:b", "x").checked(),
            Err(RegistryLoginError::Username)
        );
        assert_eq!(spec("a", "").checked(), Err(RegistryLoginError::Password));
    }
}
