//! Which services count, and how they depend on each other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Condition, ProjectDependency, ProjectOptions};
use crate::context::Context;
use crate::file::File;
use crate::file::service::Service;
use crate::report::At;

/// Takes the services away that no profile wants; with their profiles.
pub(super) fn split_disabled(
    file: &mut File,
    options: &ProjectOptions,
) -> BTreeMap<String, Vec<String>> {
    let mut wanted: BTreeSet<String> = options.profiles.iter().cloned().collect();
    for name in &options.services {
        if let Some(service) = file.services.get(name) {
            wanted.extend(service.profiles.iter().map(|profile| profile.value.clone()));
        }
    }
    let mut disabled = BTreeMap::new();
    file.services.retain(|name, service| {
        let profiles = || service.profiles.iter().map(|profile| &profile.value);
        let counts = service.profiles.is_empty()
            || wanted.contains("*")
            || profiles().any(|profile| wanted.contains(profile));
        if !counts {
            disabled.insert(name.clone(), profiles().cloned().collect());
        }
        counts
    });
    disabled
}

/// A service that another one needs, and where that was said.
struct Need {
    name: String,
    at: At,
    required: bool,
}

fn needs(service: &Service) -> Vec<Need> {
    let Some(host) = service.host.as_deref() else {
        return Vec::new();
    };
    let mut needs: Vec<Need> = service
        .depends_on
        .iter()
        .map(|dependency| Need {
            name: dependency.service.clone(),
            at: dependency.at,
            required: dependency.required,
        })
        .collect();
    let mut need = |name: &str, at: At| {
        needs.push(Need {
            name: name.to_owned(),
            at,
            required: true,
        });
    };
    for key in ["network_mode", "pid", "ipc"] {
        if let Some(name) = host
            .text(key)
            .and_then(|text| text.strip_prefix("service:"))
        {
            need(name, host.at(key, service.at));
        }
    }
    for link in host.list("links") {
        need(link.value.split(':').next().unwrap_or_default(), link.at);
    }
    for from in host.list("volumes_from") {
        let name = from.value.split(':').next().unwrap_or_default();
        if name != "container" {
            need(name, from.at);
        }
    }
    needs
}

/// Every service that another one needs is there, and nobody needs itself.
pub(super) fn check(
    file: &mut File,
    disabled: &BTreeMap<String, Vec<String>>,
    cx: &mut Context<'_>,
) {
    let names: BTreeSet<String> = file.services.keys().cloned().collect();
    for (name, service) in &mut file.services {
        for need in needs(service) {
            if names.contains(&need.name) || !need.required {
                continue;
            }
            let hint = disabled.get(&need.name).map(|profiles| {
                format!(
                    "it is of profile {}: enable that with --profile",
                    profiles.join(", ")
                )
            });
            let message = format!(
                "service {name:?} depends on undefined service {:?}: invalid compose project",
                need.name
            );
            match hint {
                Some(hint) => cx.error_with_hint(need.at, message, hint),
                None => cx.error(need.at, message),
            }
        }
        let written = &mut service.depends_on;
        written.retain(|dependency| names.contains(&dependency.service));
    }
    check_circles(file, cx);
}

fn check_circles(file: &File, cx: &mut Context<'_>) {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let needs: BTreeMap<&str, Vec<Need>> = file
        .services
        .iter()
        .map(|(name, service)| (name.as_str(), needs(service)))
        .collect();
    for start in needs.keys() {
        // Depth first without recursion: chains may be as long as the file.
        let mut way: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((name, next)) = way.pop() {
            if done.contains(name) {
                continue;
            }
            let Some(need) = needs.get(name).and_then(|needs| needs.get(next)) else {
                done.insert(name);
                continue;
            };
            way.push((name, next + 1));
            if let Some(from) = way.iter().position(|(passed, _)| *passed == need.name) {
                let mut circle: Vec<&str> = way[from..].iter().map(|(name, _)| *name).collect();
                circle.push(&need.name);
                cx.error(
                    need.at,
                    format!("dependency cycle detected: {}", circle.join(" -> ")),
                );
                return;
            }
            if let Some((name, _)) = needs.get_key_value(need.name.as_str()) {
                way.push((name, 0));
            }
        }
    }
}

/// What a service waits for: what it says, and whose namespaces, names and volumes it shares.
pub(super) fn dependencies(service: &Service) -> BTreeMap<String, ProjectDependency> {
    let mut all: BTreeMap<String, ProjectDependency> = needs(service)
        .into_iter()
        .map(|need| {
            let dependency = ProjectDependency {
                condition: Condition::Started,
                required: need.required,
                restart: false,
            };
            (need.name, dependency)
        })
        .collect();
    for dependency in &service.depends_on {
        all.insert(
            dependency.service.clone(),
            ProjectDependency {
                condition: dependency.condition,
                required: dependency.required,
                restart: dependency.restart,
            },
        );
    }
    all
}
