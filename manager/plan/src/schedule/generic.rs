//! User-defined resources of a node: so many of a kind, or named ones.

use std::collections::{BTreeMap, BTreeSet};

use skep_model::resources::GenericResource;

/// What of a node's generic resources is free.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    kinds: BTreeMap<String, Kind>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Kind {
    /// May be negative after a node has come to offer less than is in use.
    count: i64,
    names: BTreeSet<String>,
    /// Every name the node offers, whether free or not.
    known: BTreeSet<String>,
}

impl Pool {
    /// Everything a node offers.
    pub fn new(offered: &[GenericResource]) -> Self {
        let mut pool = Self::default();
        for resource in offered {
            let kind = pool.kinds.entry(resource.kind().to_owned()).or_default();
            match resource {
                GenericResource::Named { value, .. } => {
                    kind.names.insert(value.clone());
                    kind.known.insert(value.clone());
                }
                GenericResource::Discrete { value, .. } => kind.count += value,
            }
        }
        pool
    }

    /// How many of a kind are free.
    pub fn free(&self, kind: &str) -> i64 {
        let named = |kind: &Kind| i64::try_from(kind.names.len()).unwrap_or(i64::MAX);
        let free = self.kinds.get(kind);
        free.map_or(0, |kind| kind.count.max(0).saturating_add(named(kind)))
    }

    /// What a task that asks for `wanted` would get; nothing when it does not fit.
    pub fn grant(&self, wanted: &[GenericResource]) -> Option<Vec<GenericResource>> {
        if wanted.is_empty() {
            return Some(Vec::new());
        }
        let mut left = self.clone();
        let mut granted = Vec::new();
        for resource in wanted {
            let kind = left.kinds.get_mut(resource.kind())?;
            match resource {
                GenericResource::Named { value, .. } => {
                    if !kind.names.remove(value) {
                        return None;
                    }
                    granted.push(resource.clone());
                }
                GenericResource::Discrete { value, .. } if *value <= 0 => (),
                GenericResource::Discrete { kind: name, value } if !kind.known.is_empty() => {
                    for _ in 0..*value {
                        granted.push(GenericResource::Named {
                            kind: name.clone(),
                            value: kind.names.pop_first()?,
                        });
                    }
                }
                GenericResource::Discrete { value, .. } => {
                    if kind.count < *value {
                        return None;
                    }
                    kind.count -= value;
                    granted.push(resource.clone());
                }
            }
        }
        Some(granted)
    }

    /// Whether all of `granted` is free here.
    pub fn holds(&self, granted: &[GenericResource]) -> bool {
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        granted.iter().all(|resource| {
            let kind = self.kinds.get(resource.kind());
            match resource {
                GenericResource::Named { value, .. } => {
                    kind.is_some_and(|kind| kind.names.contains(value))
                }
                GenericResource::Discrete { kind: name, value } => {
                    let sum = counts.entry(name).or_default();
                    *sum += value;
                    kind.is_some_and(|kind| kind.count >= *sum)
                }
            }
        })
    }

    /// Takes what a task was granted.
    pub fn take(&mut self, granted: &[GenericResource]) {
        for resource in granted {
            let kind = self.kinds.entry(resource.kind().to_owned()).or_default();
            match resource {
                GenericResource::Named { value, .. } => {
                    kind.names.remove(value);
                }
                GenericResource::Discrete { value, .. } => kind.count -= value,
            }
        }
    }

    /// Takes back what a task had.
    pub fn give(&mut self, granted: &[GenericResource]) {
        for resource in granted {
            let kind = self.kinds.entry(resource.kind().to_owned()).or_default();
            match resource {
                // A name that the node offers no more does not become free.
                GenericResource::Named { value, .. } if kind.known.contains(value) => {
                    kind.names.insert(value.clone());
                }
                GenericResource::Named { .. } => (),
                GenericResource::Discrete { value, .. } => kind.count += value,
            }
        }
    }
}
