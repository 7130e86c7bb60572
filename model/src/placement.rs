//! Where tasks may and should run.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::serde_help::{is_zero, null_default};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Placement {
    /// Constraint expressions; all must hold. Parsed by [`crate::Constraint`].
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub constraints: Vec<String>,
    /// Spread preferences, outermost first.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub preferences: Vec<PlacementPreference>,
    /// Most tasks of the service on one node; 0 is unlimited.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub max_replicas: u64,
    /// Platforms the image runs on; empty is any.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub platforms: Vec<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementPreference {
    #[serde(rename = "Spread")]
    pub spread: SpreadOver,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpreadOver {
    /// `node.labels.KEY` or `engine.labels.KEY`.
    #[serde(rename = "SpreadDescriptor")]
    pub spread_descriptor: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `x86_64` or `amd64`, `aarch64` or `arm64`, …
    #[serde(rename = "Architecture", deserialize_with = "null_default")]
    pub architecture: String,
    #[serde(rename = "OS", deserialize_with = "null_default")]
    pub os: String,
}

/// `linux/x86_64`.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// Label of a service that says by what its nodes are ranked; clients of others have no field for it.
pub const RANK_LABEL: &str = "skep.placement";

/// By what the nodes that will do are ranked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ranking {
    /// Few tasks of the service, then few tasks.
    #[default]
    Tasks,
    /// Little of the node reserved.
    Reserved,
    /// Much of the node reserved, so that others stay free for what needs much room.
    BinPack,
}

/// A label that says something else than it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label {RANK_LABEL}: `{0}` is none of tasks, reserved, binpack")]
pub struct RankingError(String);

impl FromStr for Ranking {
    type Err = RankingError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        match given {
            "tasks" => Ok(Self::Tasks),
            "reserved" => Ok(Self::Reserved),
            "binpack" => Ok(Self::BinPack),
            other => Err(RankingError(other.to_owned())),
        }
    }
}

impl Ranking {
    /// What the labels of a service ask for.
    pub fn of(labels: &BTreeMap<String, String>) -> Result<Self, RankingError> {
        labels
            .get(RANK_LABEL)
            .map_or(Ok(Self::default()), |given| given.parse())
    }
}
