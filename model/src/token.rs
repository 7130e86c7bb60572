//! Join tokens that end by themselves, beside the cluster's ordinary ones.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::serde_help::{is_zero, null_default};
use crate::{NodeRole, Timestamp};

/// Most of them that a cluster keeps.
pub const TOKENS_MAX: usize = 1000;

/// A join token that was made for a time or for a number of nodes. Its secret is told once and kept
/// as a digest only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IssuedToken {
    /// What it is listed and removed by.
    #[serde(rename = "ID")]
    pub id: String,
    /// What its nodes become.
    pub role: NodeRole,
    pub created_at: Timestamp,
    /// From when on it is refused; zero: never.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub expires_at: Timestamp,
    /// How many nodes it admits; 0: any number.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub uses_max: u64,
    /// How many it has admitted.
    pub uses: u64,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub used_at: Timestamp,
    /// SHA-256 of the whole token, in hexadecimal. Hidden from the API.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub digest: String,
}

/// Why a token admits nobody any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenEnd {
    #[error("it expired at {0}")]
    Expired(Timestamp),
    #[error("it was for {0} and has been used up")]
    UsedUp(Nodes),
}

/// A number of nodes, as it is spoken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nodes(pub u64);

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 node"),
            count => write!(f, "{count} nodes"),
        }
    }
}

impl IssuedToken {
    /// Why it admits nobody at this time; `None` while it does.
    pub fn end(&self, now: Timestamp) -> Option<TokenEnd> {
        if !self.expires_at.is_zero() && self.expires_at <= now {
            return Some(TokenEnd::Expired(self.expires_at));
        }
        let used_up = self.uses_max > 0 && self.uses >= self.uses_max;
        used_up.then_some(TokenEnd::UsedUp(Nodes(self.uses_max)))
    }
}

/// A secret on its way to who asked for it. Debug output hides it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revealed(pub String);

impl fmt::Debug for Revealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revealed(hidden)")
    }
}
