//! The body of the call that creates a service's container.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use skep_compose::{Project, ProjectService};

use super::labels;
use super::project::Loaded;
use crate::failure::{Failure, Outcome};
use crate::json::Json;

/// One container to be made.
pub struct Making<'a> {
    pub service: &'a str,
    pub name: &'a str,
    pub number: u64,
    /// Reference and id of its image.
    pub image: (&'a str, &'a str),
    /// Whether it is one of `run`, and not one of the service's own.
    pub oneoff: bool,
    /// Whether it is found by the service's name.
    pub has_service_alias: bool,
}

/// Containers by service, as names with ids.
pub type Peers = BTreeMap<String, Vec<(String, String)>>;

/// Of everything a service's containers are made of.
pub fn hash(project: &Project, service: &ProjectService) -> String {
    let files: Vec<Value> = service
        .files
        .iter()
        .map(|file| {
            let content = hex::encode(Sha256::digest(&file.content));
            json!([file.target, content, file.mode, file.uid, file.gid])
        })
        .collect();
    let networks: Vec<Value> = service
        .networks
        .iter()
        .map(|endpoint| {
            let name = project
                .networks
                .get(&endpoint.network)
                .map(|network| &network.name);
            json!([name, endpoint.aliases, endpoint.settings])
        })
        .collect();
    let shared = &service.shared;
    let whole = json!({
        "image": service.image,
        "platform": service.platform,
        "name": service.container_name,
        "body": service.body,
        "networks": networks,
        "shared": [shared.network, shared.pid, shared.ipc],
        "volumes_from": service.volumes_from,
        "links": service.links,
        "external_links": service.external_links,
        "files": files,
        "hooks": [service.post_start.len(), service.pre_stop.len()],
    });
    hex::encode(Sha256::digest(whole.to_string()))
}

/// Labels that say whose it is.
fn labels_of(loaded: &Loaded, service: &ProjectService, making: &Making<'_>) -> Map<String, Value> {
    let project = &loaded.project;
    let depends: Vec<String> = service
        .depends_on
        .iter()
        .map(|(name, dependency)| {
            format!(
                "{name}:{}:{}",
                dependency.condition.as_str(),
                dependency.restart
            )
        })
        .collect();
    let mut all: Map<String, Value> = match &service.body["Labels"] {
        Value::Object(own) => own.clone(),
        _ => Map::new(),
    };
    let oneoff = if making.oneoff { "True" } else { "False" };
    for (label, value) in [
        (labels::PROJECT, project.name.clone()),
        (labels::SERVICE, making.service.to_owned()),
        (labels::NUMBER, making.number.to_string()),
        (labels::ONEOFF, oneoff.to_owned()),
        (labels::CONFIG_HASH, hash(project, service)),
        (labels::WORKING_DIR, loaded.working_dir.clone()),
        (labels::CONFIG_FILES, loaded.files.join(",")),
        (labels::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (labels::DEPENDS_ON, depends.join(",")),
        (labels::IMAGE, making.image.1.to_owned()),
    ] {
        all.insert(label.to_owned(), json!(value));
    }
    if !loaded.env_files.is_empty() {
        let files = loaded.env_files.join(",");
        all.insert(labels::ENVIRONMENT_FILE.to_owned(), json!(files));
    }
    if making.oneoff {
        let slug = making.name.rsplit(['-', '_']).next().unwrap_or_default();
        all.insert(labels::SLUG.to_owned(), json!(slug));
    }
    all
}

/// The whole body.
pub fn create(
    loaded: &Loaded,
    service: &ProjectService,
    making: &Making<'_>,
    peers: &Peers,
) -> Outcome<Value> {
    let mut body = service.body.clone();
    body["Image"] = json!(making.image.0);
    body["Labels"] = Value::Object(labels_of(loaded, service, making));
    let first = |name: &str| -> Outcome<String> {
        let known = peers.get(name).and_then(|containers| containers.first());
        known
            .map(|(_, id)| format!("container:{id}"))
            .ok_or_else(|| {
                Failure::message(format!(
                    "service {:?} lives in that of {name:?}, which has no container",
                    making.service
                ))
            })
    };
    let shared = |mode: &Option<String>| -> Outcome<Option<String>> {
        match mode
            .as_deref()
            .map(|mode| (mode, mode.strip_prefix("service:")))
        {
            None => Ok(None),
            Some((_, Some(service))) => first(service).map(Some),
            Some((mode, None)) => Ok(Some(mode.to_owned())),
        }
    };
    let host = &mut body["HostConfig"];
    if let Some(mode) = shared(&service.shared.pid)? {
        host["PidMode"] = json!(mode);
    }
    if let Some(mode) = shared(&service.shared.ipc)? {
        host["IpcMode"] = json!(mode);
    }
    let from = volumes_from(service, peers);
    if !from.is_empty() {
        host["VolumesFrom"] = json!(from);
    }
    match shared(&service.shared.network)? {
        Some(mode) => {
            let has_own = matches!(mode.as_str(), "none" | "bridge" | "default");
            host["NetworkMode"] = json!(mode);
            if !has_own && mode.starts_with("container:") {
                // What is published is the other's.
                body["Hostname"] = json!("");
                body["ExposedPorts"] = json!({});
                body["HostConfig"]["PortBindings"] = json!({});
            }
        }
        None => {
            let endpoints = endpoints(&loaded.project, service, making, peers);
            let mode = endpoints.first().map_or("none", |(name, _)| name.as_str());
            host["NetworkMode"] = json!(mode);
            body["NetworkingConfig"] = json!({
                "EndpointsConfig": Value::Object(endpoints.into_iter().collect()),
            });
        }
    }
    Ok(body)
}

fn volumes_from(service: &ProjectService, peers: &Peers) -> Vec<String> {
    let mut all = Vec::new();
    for from in &service.volumes_from {
        if let Some(container) = from.strip_prefix("container:") {
            all.push(container.to_owned());
            continue;
        }
        let (name, mode) = from.split_once(':').unwrap_or((from, "rw"));
        for (_, id) in peers.get(name).into_iter().flatten() {
            all.push(format!("{id}:{mode}"));
        }
    }
    all
}

/// How each network is joined, by the network's name; the first is the container's own.
fn endpoints(
    project: &Project,
    service: &ProjectService,
    making: &Making<'_>,
    peers: &Peers,
) -> Vec<(String, Value)> {
    let mut links: Vec<String> = service.external_links.clone();
    for (name, alias) in &service.links {
        for (container, _) in peers.get(name).into_iter().flatten() {
            links.push(format!("{container}:{alias}"));
        }
    }
    service
        .networks
        .iter()
        .filter_map(|endpoint| {
            let name = project.networks.get(&endpoint.network)?.name.clone();
            let mut settings = endpoint.settings.clone();
            let mut aliases = vec![making.name.to_owned()];
            if making.has_service_alias {
                aliases.push(making.service.to_owned());
                aliases.extend(endpoint.aliases.clone());
            }
            settings["Aliases"] = json!(aliases);
            if making.oneoff
                && let Value::Object(settings) = &mut settings
            {
                // The service's own container may have them.
                settings.remove("IPAMConfig");
                settings.remove("MacAddress");
            }
            if !links.is_empty() {
                settings["Links"] = json!(links);
            }
            Some((name, settings))
        })
        .collect()
}

/// Names of the volumes without a name of their own that a container mounts.
pub fn unnamed(container: &Json) -> Vec<(String, String)> {
    let mounts = container.list("Mounts").iter().filter(|mount| {
        let name = mount.str("Name");
        mount.str("Type") == "volume"
            && name.len() == 64
            && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    mounts
        .map(|mount| {
            let (name, target) = (mount.str("Name"), mount.str("Destination"));
            (name.to_owned(), target.to_owned())
        })
        .collect()
}

/// Gives a new container the volumes without a name that the one before it had.
pub fn inherit(body: &mut Value, before: &Json) {
    for (name, target) in unnamed(before) {
        let list = &mut body["HostConfig"]["Mounts"];
        if !list.is_array() {
            *list = json!([]);
        }
        let Value::Array(list) = list else { continue };
        match list
            .iter_mut()
            .find(|known| known["Target"] == target.as_str())
        {
            Some(known) => {
                if known["Type"] == "volume" && known.get("Source").is_none() {
                    known["Source"] = json!(name);
                }
            }
            None => list.push(json!({"Type": "volume", "Source": name, "Target": target})),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_without_a_name_are_inherited() {
        let name = "a".repeat(64);
        let before = Json::of(&json!({"Mounts": [
            {"Type": "volume", "Name": name, "Destination": "/data"},
            {"Type": "volume", "Name": name, "Destination": "/own"},
            {"Type": "volume", "Name": name, "Destination": "/bound"},
            {"Type": "volume", "Name": "named", "Destination": "/named"},
            {"Type": "bind", "Source": "/x", "Destination": "/x"},
        ]}));
        let mut body = json!({"HostConfig": {"Mounts": [
            {"Type": "volume", "Target": "/own"},
            {"Type": "bind", "Source": "/y", "Target": "/bound"},
        ]}});
        inherit(&mut body, &before);
        assert_eq!(
            body["HostConfig"]["Mounts"],
            json!([
                {"Type": "volume", "Target": "/own", "Source": name},
                {"Type": "bind", "Source": "/y", "Target": "/bound"},
                {"Type": "volume", "Source": name, "Target": "/data"},
            ])
        );
    }

    #[test]
    fn the_hash_follows_what_containers_are_made_of() {
        let project = Project::default();
        let service = ProjectService::default();
        let before = hash(&project, &service);
        let more = ProjectService {
            replicas: 5,
            pull_policy: "always".to_owned(),
            ..service.clone()
        };
        assert_eq!(hash(&project, &more), before);
        let other = ProjectService {
            body: json!({"User": "1"}),
            ..service
        };
        assert_ne!(hash(&project, &other), before);
    }
}
