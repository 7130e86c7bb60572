//! Variables that tell a container of the ones it is linked to, as `--link` on the default bridge has
//! always set them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::record::ContainerRecord;
use super::validate::parse_port;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::types::HostConfig;

/// What a link says of a container.
struct Linked<'a> {
    /// The name of the container that has the link.
    owner: &'a str,
    alias: &'a str,
    address: IpAddr,
    environment: &'a [String],
    /// Ports it exposes, with their protocols.
    ports: Vec<(u16, String)>,
}

impl Engine {
    /// The variables of all links of a container on the default bridge; containers that do not run
    /// add none.
    pub(super) fn linked_environment(&self, record: &ContainerRecord) -> Vec<String> {
        if !matches!(
            record.host_config.network_mode.as_str(),
            "bridge" | "default"
        ) {
            return Vec::new();
        }
        let links = record.host_config.links.iter().flatten();
        links
            .flat_map(|link| {
                let (target, alias) = link.split_once(':').unwrap_or((link, link));
                let Ok(target) = self.containers.find(target) else {
                    return Vec::new();
                };
                let target = target.record();
                let address = target
                    .networks
                    .get("bridge")
                    .and_then(|endpoint| endpoint.ip_address.parse().ok());
                match address {
                    Some(address) => variables(&Linked {
                        owner: &record.name,
                        alias: alias.rsplit('/').next().unwrap_or(alias),
                        address,
                        environment: &target.config.env,
                        ports: exposed(&target),
                    }),
                    None => Vec::new(),
                }
            })
            .collect()
    }
}

impl Engine {
    /// Refuses links to containers that are not there. Only the default bridge has such links.
    pub(super) fn check_links(&self, host: &HostConfig) -> Result<()> {
        if !matches!(host.network_mode.as_str(), "bridge" | "default" | "host") {
            return Ok(());
        }
        for link in host.links.iter().flatten() {
            let name = link.split_once(':').map_or(link.as_str(), |(name, _)| name);
            // Not "not found": a client would look for the image.
            let target = self.containers.find(name).map_err(|error| {
                EngineError::invalid(format!("could not get container for {name}: {error}"))
            })?;
            let mode = target.lock().record.host_config.network_mode.clone();
            if mode == "host" || host.network_mode == "host" {
                return Err(EngineError::invalid(
                    "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
                ));
            }
        }
        Ok(())
    }

    /// Takes a link away, which `name` names as `container/alias`. Neither of the two containers goes.
    pub async fn container_unlink(&self, name: &str) -> Result<()> {
        let plain = name.trim_start_matches('/');
        let Some((owner, alias)) = plain.rsplit_once('/') else {
            // As dockerd: the name of a container is its link to itself.
            self.containers.find(plain)?;
            return Err(EngineError::internal(
                "Conflict, cannot remove the default link name of the container",
            ));
        };
        let missing = || EngineError::no_such_container(name);
        let container = self.containers.find(owner).map_err(|_| missing())?;
        let _turn = container.turn().await;
        let alias = alias.to_owned();
        let removed = container
            .alter(move |inner| {
                let Some(links) = &mut inner.record.host_config.links else {
                    return false;
                };
                let before = links.len();
                links.retain(|link| alias_of(link) != alias);
                links.len() < before
            })
            .await?;
        match removed {
            true => Ok(()),
            false => Err(missing()),
        }
    }

    /// The links of a container as inspecting it shows them: those of the default bridge, as `/target:/owner/alias`.
    /// Locks the containers it is linked to.
    pub(super) fn shown_links(&self, record: &ContainerRecord) -> Option<Vec<String>> {
        let links = record.host_config.links.as_ref()?;
        if !matches!(
            record.host_config.network_mode.as_str(),
            "bridge" | "default"
        ) {
            return None;
        }
        let shown: Vec<String> = links
            .iter()
            .filter_map(|link| {
                let target = link.split_once(':').map_or(link.as_str(), |(name, _)| name);
                let target = self.containers.find(target).ok()?;
                let (owner, target) = (&record.name, target.lock().record.name.clone());
                Some(format!("/{target}:/{owner}/{}", alias_of(link)))
            })
            .collect();
        (!shown.is_empty()).then_some(shown)
    }

    /// The names that links give containers, by the id of the container they lead to.
    pub(super) fn link_names(&self) -> BTreeMap<String, Vec<String>> {
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for owner in self.containers.all() {
            let (name, links) = {
                let inner = owner.lock();
                let links = inner.record.host_config.links.clone();
                (inner.record.name.clone(), links.unwrap_or_default())
            };
            for link in links {
                let target = link.split_once(':').map_or(link.as_str(), |(name, _)| name);
                if let Ok(target) = self.containers.find(target) {
                    let names = names.entry(target.id.clone()).or_default();
                    names.push(format!("/{name}/{}", alias_of(&link)));
                }
            }
        }
        names
    }
}

/// What a link, `target[:alias]`, calls its target.
fn alias_of(link: &str) -> &str {
    let (target, alias) = link.split_once(':').unwrap_or((link, link));
    match alias {
        "" => target.trim_start_matches('/'),
        alias => alias.rsplit('/').next().unwrap_or(alias),
    }
}

/// The ports a container exposes, TCP first, each lowest first.
fn exposed(record: &ContainerRecord) -> Vec<(u16, String)> {
    let mut ports: Vec<(u16, String)> = record
        .config
        .exposed_ports
        .keys()
        .chain(record.host_config.port_bindings.keys())
        .filter_map(|port| parse_port(port).ok())
        .map(|(number, protocol)| (number, protocol.to_string()))
        .collect();
    ports.sort_by_key(|(number, protocol)| (protocol != "tcp", protocol.clone(), *number));
    ports.dedup();
    ports
}

fn variables(linked: &Linked<'_>) -> Vec<String> {
    let Linked {
        owner,
        alias,
        address,
        environment,
        ports,
    } = linked;
    let prefix = alias.to_uppercase().replace('-', "_");
    let mut found = Vec::new();
    if let Some((number, protocol)) = ports.first() {
        found.push(format!("{prefix}_PORT={protocol}://{address}:{number}"));
    }
    for (number, protocol) in ports {
        let port = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        found.push(format!("{port}={protocol}://{address}:{number}"));
        found.push(format!("{port}_ADDR={address}"));
        found.push(format!("{port}_PORT={number}"));
        found.push(format!("{port}_PROTO={protocol}"));
    }
    found.push(format!("{prefix}_NAME=/{owner}/{alias}"));
    for variable in *environment {
        if let Some((name, value)) = variable.split_once('=')
            && !matches!(name, "HOME" | "PATH")
        {
            found.push(format!("{prefix}_ENV_{name}={value}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_tells_name_ports_and_environment() {
        let environment = ["PATH=/bin".to_owned(), "WHO=db".to_owned()];
        let linked = Linked {
            owner: "web",
            alias: "my-db",
            address: IpAddr::from([10, 0, 0, 2]),
            environment: &environment,
            ports: vec![(5432, "tcp".into())],
        };
        assert_eq!(
            variables(&linked),
            [
                "MY_DB_PORT=tcp://10.0.0.2:5432",
                "MY_DB_PORT_5432_TCP=tcp://10.0.0.2:5432",
                "MY_DB_PORT_5432_TCP_ADDR=10.0.0.2",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_NAME=/web/my-db",
                "MY_DB_ENV_WHO=db",
            ]
        );
    }
}
