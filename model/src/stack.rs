//! Stacks: sets of services, networks, secrets and configs that are deployed as one.

use serde::{Deserialize, Serialize};

use crate::serde_help::null_default;
use crate::{ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec, StackId, Timestamp, Version};

/// Label that says which stack an object belongs to.
pub const STACK_LABEL: &str = "com.docker.stack.namespace";
/// Label with the image as the user wrote it.
pub const IMAGE_LABEL: &str = "com.docker.stack.image";

/// A stack's wanted content. Every name is already the full one (`stack_name`); services refer
/// to networks, secrets and configs by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StackSpec {
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub networks: Vec<NetworkSpec>,
    #[serde(deserialize_with = "null_default")]
    pub secrets: Vec<SecretSpec>,
    #[serde(deserialize_with = "null_default")]
    pub configs: Vec<ConfigSpec>,
    #[serde(deserialize_with = "null_default")]
    pub services: Vec<ServiceSpec>,
    /// Names of networks that must exist already.
    #[serde(deserialize_with = "null_default")]
    pub external_networks: Vec<String>,
    /// Names of secrets that must exist already.
    #[serde(deserialize_with = "null_default")]
    pub external_secrets: Vec<String>,
    /// Names of configs that must exist already.
    #[serde(deserialize_with = "null_default")]
    pub external_configs: Vec<String>,
}

/// A stack as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Stack {
    #[serde(rename = "ID")]
    pub id: StackId,
    pub version: Version,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Payloads of secrets are left out: the secrets hold them.
    pub spec: StackSpec,
    /// 1 for the first deploy, one more for each that changed something.
    pub revision: u64,
}
