//! In which order services start: what is needed comes first.

use std::collections::{BTreeMap, BTreeSet};

use skep_compose::Project;

use crate::failure::{Failure, Outcome};

/// Services in groups: each needs only what stands in groups before its own.
pub fn groups(needs: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let mut left: BTreeMap<&String, BTreeSet<&String>> = needs
        .iter()
        .map(|(name, needed)| {
            let there = needed.iter().filter(|needed| needs.contains_key(*needed));
            (name, there.collect())
        })
        .collect();
    let mut groups = Vec::new();
    while !left.is_empty() {
        let mut ready: Vec<&String> = left
            .iter()
            .filter(|(_, needed)| needed.is_empty())
            .map(|(name, _)| *name)
            .collect();
        if ready.is_empty() {
            // A circle, which the reader of files refuses; labels of others may still hold one.
            ready = left.keys().copied().collect();
        }
        for name in &ready {
            left.remove(*name);
        }
        for needed in left.values_mut() {
            needed.retain(|name| !ready.contains(name));
        }
        groups.push(ready.into_iter().cloned().collect());
    }
    groups
}

/// What each service of a project needs.
pub fn needs(project: &Project) -> BTreeMap<String, BTreeSet<String>> {
    project
        .services
        .iter()
        .map(|(name, service)| (name.clone(), service.depends_on.keys().cloned().collect()))
        .collect()
}

/// The named services, with all they need unless `alone`; all of them when none is named.
pub fn wanted(project: &Project, named: &[String], alone: bool) -> Outcome<BTreeSet<String>> {
    if named.is_empty() {
        return Ok(project.services.keys().cloned().collect());
    }
    let mut wanted = BTreeSet::new();
    let mut next: Vec<String> = named.to_vec();
    while let Some(name) = next.pop() {
        let Some(service) = project.services.get(&name) else {
            return Err(Failure::message(format!("no such service: {name}")));
        };
        if wanted.insert(name) && !alone {
            next.extend(service.depends_on.keys().cloned());
        }
    }
    Ok(wanted)
}

/// The named services, with those that are to be started again whenever these are.
pub fn restarted_with(project: &Project, named: &[String]) -> Vec<String> {
    let mut wanted: Vec<String> = named.to_vec();
    let mut next = 0;
    while let Some(name) = wanted.get(next).cloned() {
        for (other, service) in &project.services {
            let follows = service
                .depends_on
                .get(&name)
                .is_some_and(|dependency| dependency.restart);
            if follows && !wanted.contains(other) {
                wanted.push(other.clone());
            }
        }
        next += 1;
    }
    wanted
}

/// The services of a project that are wanted, what is needed first.
pub fn sorted(project: &Project, wanted: &BTreeSet<String>) -> Vec<String> {
    groups(&needs(project))
        .into_iter()
        .flatten()
        .filter(|name| wanted.contains(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_compose::{Condition, ProjectDependency, ProjectService};

    #[test]
    fn who_starts_again_with_another_one_is_found() {
        let after = |name: &str, restart: bool| {
            let dependency = ProjectDependency {
                condition: Condition::Started,
                required: true,
                restart,
            };
            ProjectService {
                depends_on: [(name.to_owned(), dependency)].into(),
                ..ProjectService::default()
            }
        };
        let project = Project {
            services: [
                ("db".to_owned(), ProjectService::default()),
                ("web".to_owned(), after("db", true)),
                ("proxy".to_owned(), after("web", true)),
                ("other".to_owned(), after("db", false)),
            ]
            .into(),
            ..Project::default()
        };
        let found = |name: &str| restarted_with(&project, &[name.to_owned()]).join(" ");
        assert_eq!(found("db"), "db web proxy");
        assert_eq!(found("proxy"), "proxy");
        assert!(restarted_with(&project, &[]).is_empty());
    }

    #[test]
    fn what_is_needed_comes_first() {
        let needs = |pairs: &[(&str, &[&str])]| -> BTreeMap<String, BTreeSet<String>> {
            let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            pairs
                .iter()
                .map(|(name, needed)| ((*name).to_owned(), names(needed)))
                .collect()
        };
        assert_eq!(
            groups(&needs(&[
                ("web", &["db", "cache"]),
                ("db", &["disk"]),
                ("cache", &[]),
                ("disk", &["gone"])
            ])),
            [vec!["cache", "disk"], vec!["db"], vec!["web"]]
        );
        assert_eq!(
            groups(&needs(&[("a", &["b"]), ("b", &["a"])])),
            [vec!["a", "b"]]
        );
        assert!(groups(&needs(&[])).is_empty());
    }
}
