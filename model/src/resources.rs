//! What tasks reserve and what nodes have.

use serde::{Deserialize, Serialize};

use crate::serde_help::{is_zero, null_default};

/// Billionths of a processor.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NanoCpus(pub i64);

/// Bytes of memory.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MemoryBytes(pub i64);

/// Upper bounds of a task; they never influence placement.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Limits {
    #[serde(
        rename = "NanoCPUs",
        skip_serializing_if = "is_zero",
        deserialize_with = "null_default"
    )]
    pub nano_cpus: NanoCpus,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub memory_bytes: MemoryBytes,
    /// Processes; 0 is unlimited.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub pids: i64,
}

/// What a node offers, or what a task reserves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Resources {
    #[serde(
        rename = "NanoCPUs",
        skip_serializing_if = "is_zero",
        deserialize_with = "null_default"
    )]
    pub nano_cpus: NanoCpus,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub memory_bytes: MemoryBytes,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub generic_resources: Vec<GenericResource>,
}

/// A user-defined resource: so many of a kind, or one by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GenericResource {
    #[serde(rename = "NamedResourceSpec")]
    Named {
        #[serde(rename = "Kind")]
        kind: String,
        #[serde(rename = "Value")]
        value: String,
    },
    #[serde(rename = "DiscreteResourceSpec")]
    Discrete {
        #[serde(rename = "Kind")]
        kind: String,
        #[serde(rename = "Value")]
        value: i64,
    },
}

impl GenericResource {
    pub fn kind(&self) -> &str {
        match self {
            Self::Named { kind, .. } | Self::Discrete { kind, .. } => kind,
        }
    }
}

/// `Resources` of a task spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ResourceRequirements {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservations: Option<Resources>,
}
