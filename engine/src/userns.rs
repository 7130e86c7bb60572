//! Which ids of the host the users of containers are: `--userns-remap` and the modes of
//! one container.
//!
//! What is on the disk is the same with and without: the shim mounts layers and volumes
//! with mapped ids. So there is one data root for all maps.

use std::fs;
use std::path::Path;

use skep_shim::userns::{IdMap, IdRange};

use crate::container::ContainerRecord;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::types::HostConfig;

/// The user whose ranges `default` takes.
const DEFAULT_USER: &str = "dockremap";
/// Ids of one range: all that POSIX asks for.
const RANGE: u32 = 65_536;
/// First id of the ranges that need no entry in a file. No tool gives ids from here on to
/// users (`/etc/subuid` grows from 100000, and systemd's containers end below).
const BUILT_IN: u32 = 1_879_048_192;
/// Built-in ranges; the first is the daemon's, the others are for single containers.
const BUILT_IN_MAX: u32 = 4096;

/// What `--userns-remap` came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remap {
    /// `None`: root is mapped to itself, and namespaces are off.
    pub map: Option<IdMap>,
    /// What an administrator should know about it.
    pub note: Option<String>,
}

/// The files that say who may use which ids.
#[derive(Debug)]
struct Files {
    passwd: String,
    group: String,
    subuid: String,
    subgid: String,
}

/// Reads `default` or `user|uid[:group|gid]` against this host's files, as dockerd does.
/// `default` without ranges for its user takes a built-in one.
///
/// # Errors
/// The user or group does not exist or has no ranges, in dockerd's words.
pub fn remap(spec: &str) -> Result<Remap> {
    let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
    resolve(
        spec,
        &Files {
            passwd: read("/etc/passwd"),
            group: read("/etc/group"),
            subuid: read("/etc/subuid"),
            subgid: read("/etc/subgid"),
        },
    )
}

fn resolve(spec: &str, files: &Files) -> Result<Remap> {
    let invalid = |text: String| Err(EngineError::invalid(text));
    let parts: Vec<&str> = spec.split(':').collect();
    let (user, group) = match parts[..] {
        [user] => (user, None),
        [user, group] => (user, Some(group)),
        _ => {
            return invalid(format!(
                "Invalid user/group specification in --userns-remap: {spec:?}"
            ));
        }
    };
    let is_default = user == "default";
    let name = match (number(user), is_default) {
        (_, true) => DEFAULT_USER,
        (Some(uid), _) => match by_id(&files.passwd, uid) {
            Some(name) => name,
            None => return invalid(format!("Uid {uid} has no entry in /etc/passwd")),
        },
        (None, _) => match id_of(&files.passwd, user) {
            Some(_) => user,
            None => {
                return invalid(format!(
                    "Error during uid lookup for {user:?}: no such user"
                ));
            }
        },
    };
    let group = match (group, number(group.unwrap_or(user))) {
        (None, _) if is_default => DEFAULT_USER,
        (_, Some(gid)) => match by_id(&files.group, gid) {
            Some(name) => name,
            None => return invalid(format!("Gid {gid} has no entry in /etc/group")),
        },
        (given, None) => {
            let group = given.unwrap_or(name);
            if id_of(&files.group, group).is_none() {
                return invalid(format!(
                    "Error during gid lookup for {group:?}: no such group"
                ));
            }
            group
        }
    };
    if name == "root" {
        return Ok(Remap {
            map: None,
            note: Some("root cannot be remapped with itself; user namespaces are OFF".to_owned()),
        });
    }
    let uids = ranges(&files.subuid, name, id_of(&files.passwd, name));
    // As dockerd: a group's ranges stand under the name of the user, else its own.
    let mut gids = ranges(&files.subgid, name, id_of(&files.passwd, name));
    if gids.is_empty() {
        gids = ranges(&files.subgid, group, id_of(&files.group, group));
    }
    if uids.is_empty() && gids.is_empty() && is_default {
        return Ok(Remap {
            map: Some(IdMap::from_zero(BUILT_IN, RANGE)),
            note: Some(format!(
                "/etc/subuid and /etc/subgid have no ranges for {DEFAULT_USER}: the built-in one is used, {RANGE} ids from {BUILT_IN} on"
            )),
        });
    }
    for (ranges, file, who) in [(&uids, "subuid", name), (&gids, "subgid", group)] {
        if ranges.is_empty() {
            return invalid(format!(
                "Can't create ID mappings: no {file} ranges found for {who:?}: add a line like `{who}:100000:{RANGE}` to /etc/{file}"
            ));
        }
    }
    Ok(Remap {
        map: Some(IdMap { uids, gids }),
        note: None,
    })
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

/// The fields of the lines of a passwd or group file: name and id.
fn entries(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    })
}

fn by_id(text: &str, id: u32) -> Option<&str> {
    entries(text)
        .find(|entry| entry.1 == id)
        .map(|entry| entry.0)
}

fn id_of(text: &str, name: &str) -> Option<u32> {
    entries(text)
        .find(|entry| entry.0 == name)
        .map(|entry| entry.1)
}

/// The ranges of a user in a `subuid` file, one after the other from 0 on.
fn ranges(text: &str, name: &str, id: Option<u32>) -> Vec<IdRange> {
    let mut inside = 0_u32;
    let mut ranges = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [who, first, count] = fields[..] else {
            continue;
        };
        let (Some(outside), Some(count)) = (number(first), number(count)) else {
            continue;
        };
        if (who == name || number(who).is_some_and(|uid| Some(uid) == id)) && count > 0 {
            ranges.push(IdRange {
                inside,
                outside,
                count,
            });
            inside = inside.saturating_add(count);
        }
    }
    ranges
}

/// Refuses what cannot be together with a user namespace, in dockerd's words.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    let refused = [
        (host.privileged, PRIVILEGED),
        (
            host.network_mode == "host",
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (
            host.pid_mode == "host",
            "cannot share the host PID namespace when user namespaces are enabled",
        ),
        (
            host.ipc_mode == "host",
            "cannot share the host IPC namespace when user namespaces are enabled",
        ),
    ];
    match refused.iter().find(|(applies, _)| *applies) {
        Some((_, text)) => Err(EngineError::invalid(*text)),
        None => Ok(()),
    }
}

const PRIVILEGED: &str = "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode";

/// The container whose namespaces a container joins; its users are theirs too.
pub(crate) fn joined(host: &HostConfig) -> Option<&str> {
    [&host.network_mode, &host.ipc_mode, &host.pid_mode]
        .into_iter()
        .find_map(|mode| mode.strip_prefix("container:"))
}

impl Engine {
    /// The ids of a new container. Who asks for a private range must hold the lock
    /// `private_ids` until the container's record is in the index.
    pub(crate) fn ids_for(&self, host: &HostConfig) -> Result<Option<IdMap>> {
        let map = match host.userns_mode.as_str() {
            "host" => None,
            "private" => Some(self.private_ids()?),
            _ => self.config.userns_remap.clone(),
        };
        if map.is_some() {
            check(host)?;
        }
        Ok(map)
    }

    /// The first built-in range that no container has.
    fn private_ids(&self) -> Result<IdMap> {
        let taken: Vec<u32> = self
            .containers
            .all()
            .iter()
            .filter_map(|container| container.lock().record.ids.as_ref()?.uid(0))
            .collect();
        (1..BUILT_IN_MAX)
            .map(|number| BUILT_IN + number * RANGE)
            .find(|first| !taken.contains(first))
            .map(|first| IdMap::from_zero(first, RANGE))
            .ok_or_else(|| {
                EngineError::conflict(format!(
                    "no ids are left: {BUILT_IN_MAX} containers have a private user namespace; remove some of them, or use the daemon's with --userns-remap"
                ))
            })
    }

    /// The ids of a container that starts: those of the container whose namespaces it
    /// joins, else its own. With it the process whose user namespace is joined.
    pub(crate) fn effective_ids(
        &self,
        record: &ContainerRecord,
    ) -> Result<(Option<IdMap>, Option<i64>)> {
        let Some(other) = joined(&record.host_config) else {
            return Ok((record.ids.clone(), None));
        };
        let other = self.containers.find(other)?;
        let (ids, pid) = {
            let inner = other.lock();
            (inner.record.ids.clone(), inner.record.state.pid)
        };
        Ok(match ids {
            Some(_) if record.host_config.privileged => {
                return Err(EngineError::invalid(PRIVILEGED));
            }
            Some(ids) => (Some(ids), Some(pid)),
            None => (None, None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd: "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\nfew:x:1001:1001::/:\n"
                .into(),
            group: "root:x:0:\nweb:x:1000:\nstaff:x:50:\nfew:x:1001:\n".into(),
            subuid: "web:100000:65536\n# remark\n1000:300000:10\nother:1:1\nstaff:7:7\n".into(),
            subgid: "web:200000:65536\n".into(),
        }
    }

    #[test]
    fn ranges_follow_one_another_by_name_and_number() {
        for spec in ["web", "1000", "web:web", "web:staff", "1000:50"] {
            let map = resolve(spec, &files()).unwrap().map.unwrap();
            assert_eq!(map.uid(0), Some(100_000), "{spec}");
            assert_eq!(map.uid(65_536), Some(300_000), "{spec}");
            assert_eq!(map.uid(65_546), None, "{spec}");
            assert_eq!(map.gid(1), Some(200_001), "{spec}");
        }
    }

    #[test]
    fn what_is_missing_is_said_in_dockerds_words() {
        for (spec, text) in [
            (
                "a:b:c",
                "Invalid user/group specification in --userns-remap: \"a:b:c\"",
            ),
            ("nobody", "Error during uid lookup for \"nobody\""),
            ("4000", "Uid 4000 has no entry in /etc/passwd"),
            ("web:nobody", "Error during gid lookup for \"nobody\""),
            ("web:4000", "Gid 4000 has no entry in /etc/group"),
            ("few", "no subuid ranges found for \"few\""),
        ] {
            let error = resolve(spec, &files()).unwrap_err().to_string();
            assert!(error.contains(text), "{spec}: {error}");
        }
    }

    #[test]
    fn the_default_needs_no_entry_and_root_is_no_map() {
        let built_in = resolve("default", &files()).unwrap();
        assert_eq!(built_in.map.unwrap().uid(0), Some(BUILT_IN));
        assert!(built_in.note.unwrap().contains("built-in"));
        let mut with_entry = files();
        with_entry.subuid += "dockremap:500000:65536\n";
        with_entry.subgid += "dockremap:600000:65536\n";
        let map = resolve("default", &with_entry).unwrap().map.unwrap();
        assert_eq!((map.uid(0), map.gid(0)), (Some(500_000), Some(600_000)));
        assert_eq!(resolve("root", &files()).unwrap().map, None);
    }

    #[test]
    fn what_shares_with_the_host_is_refused() {
        let refused = |host: HostConfig| check(&host).unwrap_err().to_string();
        assert!(
            refused(HostConfig {
                privileged: true,
                ..HostConfig::default()
            })
            .contains("incompatible with user namespaces")
        );
        assert!(
            refused(HostConfig {
                network_mode: "host".into(),
                ..HostConfig::default()
            })
            .contains("cannot share the host's network namespace")
        );
        assert!(check(&HostConfig::default()).is_ok());
    }
}
