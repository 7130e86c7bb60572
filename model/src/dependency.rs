//! What a service of a stack waits for before it starts, or is updated.
//!
//! Source: Compose Specification, `depends_on`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// How far another service must be.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum DependencyCondition {
    /// The containers of all of its tasks have been started.
    #[default]
    #[serde(rename = "service_started")]
    Started,
    /// All of its tasks run, and their health checks say so where they have one.
    #[serde(rename = "service_healthy")]
    Healthy,
    /// All of its tasks have ended without an error.
    #[serde(rename = "service_completed_successfully")]
    CompletedSuccessfully,
}

impl DependencyCondition {
    pub const ALL: [Self; 3] = [Self::Started, Self::Healthy, Self::CompletedSuccessfully];

    /// As compose files have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "service_started",
            Self::Healthy => "service_healthy",
            Self::CompletedSuccessfully => "service_completed_successfully",
        }
    }
}

/// One service that another one waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Dependency {
    /// Full name of the service.
    pub service: String,
    pub condition: DependencyCondition,
}

/// A way on which services wait for each other: names, the first once more at the end. `edges` are
/// those that each service waits for.
pub fn circle(edges: &BTreeMap<&str, Vec<&str>>) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    for start in edges.keys() {
        // The way here, and of each service on it how many of its edges were followed.
        let mut way: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((name, followed)) = way.last_mut() {
            let name: &str = name;
            let edge = edges.get(name).and_then(|on| on.get(*followed));
            *followed += 1;
            let Some(&to) = edge else {
                done.insert(name);
                way.pop();
                continue;
            };
            if let Some(at) = way.iter().position(|(name, _)| *name == to) {
                let names = way[at..].iter().map(|(name, _)| (*name).to_owned());
                return Some(names.chain([to.to_owned()]).collect());
            }
            if !done.contains(to) {
                way.push((to, 0));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_and_other_ways_are_not() {
        let circle = |edges: &[(&'static str, &[&'static str])]| {
            let edges = edges.iter().map(|(name, on)| (*name, on.to_vec()));
            circle(&edges.collect()).unwrap_or_default().join(" ")
        };
        assert_eq!(
            circle(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &["d"])]),
            ""
        );
        assert_eq!(circle(&[("a", &["a"])]), "a a");
        assert_eq!(
            circle(&[("a", &["b"]), ("b", &["c", "d"]), ("d", &["b"])]),
            "b d b"
        );
    }
}
