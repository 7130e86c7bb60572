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

/// What a daemon is told that its node offers: `SSD=3` is a number of a kind, `GPU=id-1` one by name.
/// Each entry may be several with commas between.
pub fn offered(entries: &[String]) -> Result<Vec<GenericResource>, String> {
    let mut offered: Vec<GenericResource> = Vec::new();
    for entry in entries.iter().flat_map(|entry| entry.split(',')) {
        let (kind, value) = entry
            .split_once('=')
            .map(|(kind, value)| (kind.trim(), value.trim()))
            .filter(|(kind, value)| !kind.is_empty() && !value.is_empty())
            .ok_or_else(|| format!("`{entry}`: want KIND=COUNT or KIND=NAME"))?;
        let kind = kind.to_owned();
        let resource = match value.parse::<i64>() {
            Ok(value) if value > 0 => GenericResource::Discrete { kind, value },
            Ok(_) => return Err(format!("`{entry}`: the count must be more than 0")),
            Err(_) => GenericResource::Named {
                kind,
                value: value.to_owned(),
            },
        };
        for known in offered
            .iter()
            .filter(|known| known.kind() == resource.kind())
        {
            match (known, &resource) {
                (
                    GenericResource::Named { value: a, .. },
                    GenericResource::Named { value: b, .. },
                ) if a != b => {}
                (GenericResource::Named { .. }, GenericResource::Named { .. }) => {
                    return Err(format!("`{entry}` is offered twice"));
                }
                (GenericResource::Discrete { .. }, GenericResource::Discrete { .. }) => {
                    return Err(format!("`{entry}`: {} has a count already", known.kind()));
                }
                _ => {
                    return Err(format!(
                        "`{entry}`: {} is offered by name or by count, not both",
                        known.kind()
                    ));
                }
            }
        }
        offered.push(resource);
    }
    Ok(offered)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_offers_by_count_or_by_name() {
        let of = |texts: &[&str]| {
            let entries: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            offered(&entries)
        };
        let found = of(&["SSD=3", "GPU=a,GPU=b"]).unwrap();
        assert_eq!(found.len(), 3);
        assert!(matches!(
            &found[0],
            GenericResource::Discrete { value: 3, .. }
        ));
        assert!(matches!(&found[2], GenericResource::Named { value, .. } if value == "b"));
        for (wrong, why) in [
            (&["SSD"][..], "want KIND=COUNT"),
            (&["=3"], "want KIND=COUNT"),
            (&["SSD=0"], "more than 0"),
            (&["SSD=1", "SSD=2"], "has a count already"),
            (&["GPU=a,GPU=a"], "offered twice"),
            (&["GPU=a", "GPU=1"], "by name or by count, not both"),
        ] {
            let error = of(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong:?}: {error}");
        }
    }
}
