//! What a client asks a build for.

use std::collections::BTreeMap;

use crate::error::{EngineError, Result};
use crate::options::RegistryAuth;
use crate::types::{HostConfig, Platform};

/// How to build.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// A URL of an archive or of a Dockerfile; empty: the body is the archive.
    pub remote: String,
    /// Path of the Dockerfile in the context; empty: `Dockerfile`.
    pub dockerfile: String,
    /// Names of the result.
    pub tags: Vec<String>,
    /// Say nothing but the id.
    pub quiet: bool,
    pub no_cache: bool,
    /// Ask registries for newer base images.
    pub pull: bool,
    /// Remove containers of steps that went well.
    pub remove: bool,
    /// Remove all of them.
    pub force_remove: bool,
    /// Build arguments; `None` is a name without a value.
    pub build_args: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    /// The last stage to build.
    pub target: String,
    pub platform: Option<Platform>,
    /// Images whose layers may be used instead of running steps.
    pub cache_from: Vec<String>,
    /// Limits, network, hosts and so on of the containers that `RUN` makes.
    pub host: HostConfig,
    /// Credentials by registry.
    pub auths: BTreeMap<String, RegistryAuth>,
}

impl BuildOptions {
    pub(super) fn check(&self) -> Result<()> {
        let mode = self.host.network_mode.as_str();
        if let Some(name) = mode.strip_prefix("container:")
            && name.is_empty()
        {
            return Err(EngineError::invalid(
                "invalid network mode `container:`: it names no container",
            ));
        }
        Ok(())
    }

    /// Credentials for the registry of a name.
    pub(super) fn auth(&self, domain: &str) -> RegistryAuth {
        let host = |key: &str| {
            let key = key.split_once("://").map_or(key, |(_, rest)| rest);
            key.split('/').next().unwrap_or_default().to_owned()
        };
        let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"];
        self.auths
            .iter()
            .find(|(key, _)| {
                let key = host(key);
                key == domain || (domain == "docker.io" && hub.contains(&key.as_str()))
            })
            .map(|(_, auth)| auth.clone())
            .unwrap_or_default()
    }
}
