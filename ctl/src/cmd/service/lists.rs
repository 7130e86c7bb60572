//! What the `-add` and `-rm` flags of `service update` do to the lists of a spec. Pure.
//!
//! Lists whose order means nothing come out sorted, so that an update without effect changes
//! nothing. Lists whose order may matter (environment, preferences) keep it.

use std::collections::BTreeMap;

use skep_model::PortConfig;
use skep_model::container::Ulimit;
use skep_model::mount::Mount;
use skep_model::port::PublishMode;
use skep_model::resources::GenericResource;

/// Adds pairs, then takes keys away. Keys that are not there are no mistake.
pub fn labels(
    labels: &mut BTreeMap<String, String>,
    add: BTreeMap<String, String>,
    remove: &[String],
) {
    labels.extend(add);
    for key in remove {
        labels.remove(key);
    }
}

/// Adds and takes away whole entries, sorted, each once.
pub fn set(entries: &mut Vec<String>, add: Vec<String>, remove: &[String]) {
    if add.is_empty() && remove.is_empty() {
        return;
    }
    entries.extend(add);
    entries.retain(|entry| !remove.contains(entry));
    entries.sort();
    entries.dedup();
}

/// Variables: a new value stands where the old one stood.
pub fn environment(entries: &mut Vec<String>, add: Vec<String>, remove: &[String]) {
    let name = |entry: &str| entry.split('=').next().unwrap_or("").to_owned();
    for variable in add {
        match entries
            .iter_mut()
            .find(|entry| name(entry) == name(&variable))
        {
            Some(entry) => *entry = variable,
            None => entries.push(variable),
        }
    }
    entries.retain(|entry| {
        !remove
            .iter()
            .any(|removed| *removed == name(entry) || removed == entry)
    });
}

/// Mounts by target.
pub fn mounts(mounts: &mut Vec<Mount>, add: Vec<Mount>, remove: &[String]) -> Result<(), String> {
    if add.is_empty() && remove.is_empty() {
        return Ok(());
    }
    for (index, mount) in add.iter().enumerate() {
        if add[..index]
            .iter()
            .any(|other| other.target == mount.target)
        {
            return Err("duplicate mount target".to_owned());
        }
    }
    mounts.retain(|mount| !add.iter().any(|added| added.target == mount.target));
    mounts.extend(add);
    mounts.retain(|mount| !remove.contains(&mount.target));
    mounts.sort_by(|a, b| (&a.source, &a.target).cmp(&(&b.source, &b.target)));
    Ok(())
}

/// A port that is no longer to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRemoval {
    pub port: PortConfig,
    /// Whether only ports of this mode are meant: so in the long form.
    pub mode_matters: bool,
}

impl PortRemoval {
    /// A removal that names an address or an interface is of that one only.
    fn is_from(&self, port: &PortConfig) -> bool {
        let named = |port: &PortConfig| (port.host_ip.clone(), port.interface.clone());
        named(&self.port) == named(&PortConfig::default()) || named(&self.port) == named(port)
    }
}

/// Ports: removals first, then what is not published already. One that is published in another mode
/// only is published in the new one.
pub fn ports(ports: &mut Vec<PortConfig>, add: Vec<PortConfig>, remove: &[PortRemoval]) {
    if add.is_empty() && remove.is_empty() {
        return;
    }
    let key = |port: &PortConfig| {
        (
            port.published_port,
            port.target_port,
            port.protocol,
            port.publish_mode == PublishMode::Host,
            (port.host_ip.clone(), port.interface.clone()),
            (port.source, port.balance),
        )
    };
    let before: Vec<_> = ports.iter().map(key).collect();
    ports.retain(|port| {
        !remove.iter().any(|removal| {
            removal.port.protocol == port.protocol
                && removal.port.target_port == port.target_port
                && removal.is_from(port)
                && (!removal.mode_matters || removal.port.publish_mode == port.publish_mode)
        })
    });
    for port in add {
        let known = ports.iter().any(|other| key(other) == key(&port));
        ports.retain(|other| {
            let same_place = other.published_port != 0
                && (other.published_port, other.target_port, other.protocol)
                    == (port.published_port, port.target_port, port.protocol)
                && (&other.host_ip, &other.interface) == (&port.host_ip, &port.interface);
            !same_place || other.publish_mode == port.publish_mode
        });
        if !known && !before.contains(&key(&port)) {
            ports.push(port);
        }
    }
    ports.sort_by_key(key);
    ports.dedup_by_key(|port| key(port));
}

/// `/etc/hosts` lines (`IP name`); removals are `name` or `name:ip`.
pub fn hosts(lines: &mut Vec<String>, add: Vec<String>, remove: &[String]) {
    lines.retain(|line| {
        let (address, name) = line.split_once(' ').unwrap_or(("", line));
        !remove.iter().any(|removed| match removed.split_once(':') {
            Some((removed_name, removed_address)) => {
                removed_name == name && removed_address == address
            }
            None => removed == name,
        })
    });
    for line in add {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
}

/// Limits by name, sorted.
pub fn ulimits(limits: &mut Vec<Ulimit>, add: Vec<Ulimit>, remove: &[String]) {
    if add.is_empty() && remove.is_empty() {
        return;
    }
    limits.retain(|limit| !remove.contains(&limit.name));
    for limit in add {
        limits.retain(|other| other.name != limit.name);
        limits.push(limit);
    }
    limits.sort_by(|a, b| a.name.cmp(&b.name));
}

/// Generic resources by kind; removing one that is not there is a mistake.
pub fn generic(
    resources: &mut Vec<GenericResource>,
    add: Vec<GenericResource>,
    remove: &[String],
) -> Result<(), String> {
    for resource in add {
        resources.retain(|other| other.kind() != resource.kind());
        resources.push(resource);
    }
    for kind in remove {
        if !resources.iter().any(|resource| resource.kind() == kind) {
            return Err(format!(
                "could not find generic-resource `{kind}` to remove it"
            ));
        }
        resources.retain(|resource| resource.kind() != kind);
    }
    resources.sort_by(|a, b| a.kind().cmp(b.kind()));
    Ok(())
}

/// Capabilities: adding one that was dropped takes it from there, and the other way round.
pub fn capabilities(
    added: &mut Vec<String>,
    dropped: &mut Vec<String>,
    add: Vec<String>,
    drop: Vec<String>,
) {
    for capability in drop {
        if added.contains(&capability) {
            added.retain(|other| *other != capability);
        } else if !dropped.contains(&capability) {
            dropped.push(capability);
        }
    }
    for capability in add {
        if dropped.contains(&capability) {
            dropped.retain(|other| *other != capability);
        } else if !added.contains(&capability) {
            added.push(capability);
        }
    }
    for list in [added, dropped] {
        list.sort();
        // All of them are no more with another one.
        if list.iter().any(|capability| capability == "ALL") {
            list.retain(|capability| capability == "ALL");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn environment_keeps_its_order() {
        let mut env = texts(&["A=1", "B=2", "C=3"]);
        environment(&mut env, texts(&["B=9", "D=4"]), &texts(&["A"]));
        assert_eq!(env, ["B=9", "C=3", "D=4"]);
    }

    #[test]
    fn sets_are_sorted_and_removal_wins() {
        let mut entries = texts(&["b", "a"]);
        set(&mut entries, texts(&["c", "b"]), &texts(&["a"]));
        assert_eq!(entries, ["b", "c"]);
        let mut untouched = texts(&["b", "a"]);
        set(&mut untouched, Vec::new(), &[]);
        assert_eq!(untouched, ["b", "a"]);
    }

    #[test]
    fn ports_are_added_once_and_removed_by_target() {
        let port = |published_port, target_port, publish_mode| PortConfig {
            published_port,
            target_port,
            publish_mode,
            ..PortConfig::default()
        };
        use PublishMode::{Host, Ingress};
        let removal = |target, mode, mode_matters| PortRemoval {
            port: port(0, target, mode),
            mode_matters,
        };
        let mut published = vec![port(80, 80, Ingress), port(90, 90, Host)];
        ports(
            &mut published,
            vec![port(80, 80, Ingress), port(81, 81, Ingress)],
            &[],
        );
        assert_eq!(published.len(), 3);
        ports(&mut published, vec![port(81, 81, Host)], &[]);
        assert_eq!(
            published.len(),
            3,
            "another mode takes the place of the one before"
        );
        ports(&mut published, vec![port(81, 81, Ingress)], &[]);
        ports(&mut published, Vec::new(), &[removal(90, Ingress, true)]);
        assert_eq!(published.len(), 3, "the long form names a mode");
        ports(&mut published, Vec::new(), &[removal(90, Ingress, false)]);
        assert_eq!(published, [port(80, 80, Ingress), port(81, 81, Ingress)]);
        ports(
            &mut published,
            vec![port(8080, 80, Ingress)],
            &[removal(80, Ingress, false)],
        );
        assert_eq!(published, [port(81, 81, Ingress), port(8080, 80, Ingress)]);
    }

    #[test]
    fn mounts_are_replaced_by_target() {
        let mount = |source: &str, target: &str| Mount {
            source: source.to_owned(),
            target: target.to_owned(),
            ..Mount::default()
        };
        let mut mounted = vec![mount("a", "/a"), mount("b", "/b")];
        mounts(&mut mounted, vec![mount("c", "/a")], &texts(&["/b"])).unwrap();
        assert_eq!(mounted, [mount("c", "/a")]);
        assert!(mounts(&mut mounted, vec![mount("x", "/x"), mount("y", "/x")], &[]).is_err());
    }

    #[test]
    fn hosts_capabilities_and_resources() {
        let mut lines = texts(&["1.2.3.4 a", "1.2.3.5 b", "1.2.3.6 b"]);
        hosts(
            &mut lines,
            texts(&["1.2.3.7 c"]),
            &texts(&["a", "b:1.2.3.6"]),
        );
        assert_eq!(lines, ["1.2.3.5 b", "1.2.3.7 c"]);
        let (mut added, mut dropped) = (texts(&["CAP_A"]), texts(&["CAP_B"]));
        capabilities(
            &mut added,
            &mut dropped,
            texts(&["CAP_B", "CAP_C"]),
            texts(&["CAP_A"]),
        );
        assert_eq!((added, dropped), (texts(&["CAP_C"]), Vec::new()));
        let gpu = |value| GenericResource::Discrete {
            kind: "gpu".to_owned(),
            value,
        };
        let mut resources = vec![gpu(1)];
        generic(&mut resources, vec![gpu(2)], &[]).unwrap();
        assert_eq!(resources, [gpu(2)]);
        assert!(generic(&mut resources, Vec::new(), &texts(&["x"])).is_err());
    }
}
