//! Which mounts a container gets: what the request says, as records.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::record::MountRecord;
use crate::clock;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::names;
use crate::types::{ContainerConfig, HostConfig, Mount, MountPoint, MountType};
use crate::volume::{ANONYMOUS_LABEL, VolumeRecord, driver};

/// A mount before its volume exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) record: MountRecord,
    /// Labels and options of a volume that may have to be made.
    pub(crate) volume: Option<(BTreeMap<String, String>, BTreeMap<String, String>)>,
}

/// All mounts of a request but those of `volumes-from`, in the order given.
/// `reserved` are destinations that are taken already.
pub(crate) fn wanted(
    config: &ContainerConfig,
    host: &HostConfig,
    reserved: &[String],
) -> Result<Vec<Wanted>> {
    let mut all: Vec<Wanted> = Vec::new();
    let mut add = |mount: Wanted| {
        let destination = &mount.record.point.destination;
        if all
            .iter()
            .any(|other| other.record.point.destination == *destination)
            || host.tmpfs.keys().any(|path| clean(path) == *destination)
        {
            return Err(EngineError::invalid(format!(
                "Duplicate mount point: {destination}"
            )));
        }
        all.push(mount);
        Ok(())
    };
    for bind in host.binds.iter().flatten() {
        let mount = parse_bind(bind)?;
        if mount.record.point.kind == "volume" {
            driver_of(host)?;
        }
        add(mount)?;
    }
    for mount in &host.mounts {
        add(from_mount(mount)?)?;
    }
    for path in config.volumes.iter().flatten().map(|(path, _)| path) {
        let destination = check_destination(path, path)?;
        let taken = reserved.contains(&destination)
            || host.tmpfs.keys().any(|path| clean(path) == destination)
            || all
                .iter()
                .any(|other| other.record.point.destination == destination);
        if !taken {
            driver_of(host)?;
            all.push(volume(
                String::new(),
                destination,
                String::new(),
                true,
                true,
            ));
        }
    }
    Ok(all)
}

/// `--volume-driver` is for volumes that name no driver themselves.
fn driver_of(host: &HostConfig) -> Result<()> {
    driver::choose(&host.volume_driver)
}

/// Reads `[source:]destination[:mode]`.
fn parse_bind(spec: &str) -> Result<Wanted> {
    let invalid = || EngineError::invalid(format!("invalid volume specification: '{spec}'"));
    let parts: Vec<&str> = spec.split(':').collect();
    let (source, destination, mode) = match parts[..] {
        [destination] if !destination.is_empty() => ("", destination, ""),
        [source, destination] if !source.is_empty() && !destination.is_empty() => {
            (source, destination, "")
        }
        [source, destination, mode]
            if !source.is_empty() && !destination.is_empty() && !mode.is_empty() =>
        {
            (source, destination, mode)
        }
        _ => return Err(invalid()),
    };
    let destination = check_destination(destination, spec)?;
    let is_bind = source.starts_with('/');
    let (mut rw, mut copy_up, mut propagation) = (true, true, String::new());
    let mut seen = Vec::new();
    for word in mode.split(',').filter(|word| !word.is_empty()) {
        let sort = match word {
            "ro" | "rw" => {
                rw = word == "rw";
                "access"
            }
            "nocopy" if !is_bind => {
                copy_up = false;
                "copy"
            }
            "z" | "Z" => "label",
            "consistent" | "cached" | "delegated" | "default" => "consistency",
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" if is_bind => {
                propagation = word.to_owned();
                "propagation"
            }
            _ => return Err(EngineError::invalid(format!("invalid mode: {mode}"))),
        };
        if seen.contains(&sort) {
            return Err(EngineError::invalid(format!("invalid mode: {mode}")));
        }
        seen.push(sort);
    }
    if !is_bind {
        let mut wanted = volume(source.to_owned(), destination, mode.to_owned(), rw, copy_up);
        if source.is_empty() {
            wanted.record.anonymous = true;
        } else if mode.is_empty() {
            // As dockerd shows it, labels or not.
            wanted.record.point.mode = "z".into();
        }
        if !source.is_empty() && !names::is_valid_name(source) {
            return Err(EngineError::invalid(format!(
                "create {source}: \"{source}\" includes invalid characters for a local volume name, only \"{}\" are allowed. If you intended to pass a host directory, use absolute path",
                names::NAME_PATTERN
            )));
        }
        return Ok(wanted);
    }
    let source = clean(source);
    Ok(Wanted {
        record: MountRecord {
            source: source.clone().into(),
            point: MountPoint {
                kind: "bind".into(),
                source,
                destination,
                mode: mode.to_owned(),
                rw,
                propagation: default_propagation(propagation),
                ..MountPoint::default()
            },
            make_source: true,
            ..MountRecord::default()
        },
        volume: None,
    })
}

fn default_propagation(given: String) -> String {
    if given.is_empty() {
        "rprivate".into()
    } else {
        given
    }
}

fn volume(name: String, destination: String, mode: String, rw: bool, copy_up: bool) -> Wanted {
    Wanted {
        record: MountRecord {
            anonymous: name.is_empty(),
            copy_up,
            point: MountPoint {
                kind: "volume".into(),
                name,
                destination,
                driver: "local".into(),
                mode,
                rw,
                ..MountPoint::default()
            },
            ..MountRecord::default()
        },
        volume: Some(Default::default()),
    }
}

/// Reads one of `HostConfig.Mounts`.
fn from_mount(mount: &Mount) -> Result<Wanted> {
    let kind = match mount.kind {
        MountType::Bind => "bind",
        MountType::Volume => "volume",
        MountType::Tmpfs => "tmpfs",
        MountType::Npipe => "npipe",
        MountType::Cluster => "cluster",
        MountType::Image => "image",
    };
    let invalid = |why: String| {
        Err(EngineError::invalid(format!(
            "invalid mount config for type \"{kind}\": {why}"
        )))
    };
    if mount.target.is_empty() {
        return invalid("field Target must not be empty".into());
    }
    let destination = match destination_of(&mount.target) {
        Ok(destination) => destination,
        Err(why) => return invalid(why),
    };
    match mount.kind {
        MountType::Bind => {
            if mount.source.is_empty() {
                return invalid("field Source must not be empty".into());
            }
            if !mount.source.starts_with('/') {
                return invalid(format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    mount.source
                ));
            }
            let options = mount.bind_options.clone().unwrap_or_default();
            if !Path::new(&mount.source).exists() && !options.create_mountpoint {
                return invalid(format!("bind source path does not exist: {}", mount.source));
            }
            let known = [
                "", "private", "rprivate", "shared", "rshared", "slave", "rslave",
            ];
            if !known.contains(&options.propagation.as_str()) {
                return invalid(format!("invalid propagation mode: {}", options.propagation));
            }
            let source = clean(&mount.source);
            Ok(Wanted {
                record: MountRecord {
                    source: source.clone().into(),
                    point: MountPoint {
                        kind: kind.into(),
                        source,
                        destination,
                        rw: !mount.read_only,
                        propagation: default_propagation(options.propagation),
                        ..MountPoint::default()
                    },
                    non_recursive: options.non_recursive,
                    make_source: options.create_mountpoint,
                    ..MountRecord::default()
                },
                volume: None,
            })
        }
        MountType::Volume => {
            let options = mount.volume_options.clone().unwrap_or_default();
            if !mount.source.is_empty() && !names::is_valid_name(&mount.source) {
                return invalid(format!(
                    "invalid mount path: '{}' is not a volume name",
                    mount.source
                ));
            }
            let wanted_driver = options.driver_config.unwrap_or_default();
            driver::choose(&wanted_driver.name)?;
            if !options.subpath.is_empty() && mount.source.is_empty() {
                return invalid("must not set Subpath when using anonymous volumes".into());
            }
            if !is_below(Path::new(&options.subpath)) {
                return invalid("subpath must be a relative path within the volume".into());
            }
            let mut wanted = volume(
                mount.source.clone(),
                destination,
                "z".into(),
                !mount.read_only,
                !options.no_copy && options.subpath.is_empty(),
            );
            wanted.record.subpath = options.subpath.into();
            wanted.volume = Some((options.labels, wanted_driver.options));
            Ok(wanted)
        }
        MountType::Tmpfs => {
            if !mount.source.is_empty() {
                return invalid("field Source must not be specified".into());
            }
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            let mut words = Vec::new();
            if mount.read_only {
                words.push("ro".to_owned());
            }
            if options.size_bytes < 0 {
                return invalid("invalid size: must not be negative".into());
            }
            if options.size_bytes > 0 {
                words.push(format!("size={}", options.size_bytes));
            }
            if options.mode != 0 {
                words.push(format!("mode={:o}", options.mode));
            }
            Ok(Wanted {
                record: MountRecord {
                    point: MountPoint {
                        kind: kind.into(),
                        destination,
                        rw: !mount.read_only,
                        ..MountPoint::default()
                    },
                    tmpfs: Some(words.join(",")),
                    ..MountRecord::default()
                },
                volume: None,
            })
        }
        MountType::Npipe | MountType::Cluster | MountType::Image => Err(EngineError::invalid(
            format!("mount type {kind} is not supported"),
        )),
    }
}

/// A destination as an absolute path without `.`, `..` and doubled slashes.
fn check_destination(given: &str, spec: &str) -> Result<String> {
    destination_of(given).map_err(|why| {
        let kind = match given.starts_with('/') {
            true => "",
            false => "invalid mount config for type \"volume\": ",
        };
        EngineError::invalid(format!(
            "invalid volume specification: '{spec}': {kind}{why}"
        ))
    })
}

/// The same, or what is wrong with it.
pub(super) fn destination_of(given: &str) -> Result<String, String> {
    if !given.starts_with('/') {
        return Err(format!(
            "invalid mount path: '{given}' mount path must be absolute"
        ));
    }
    match clean(given).as_str() {
        "/" => Err("invalid specification: destination can't be '/'".to_owned()),
        path => Ok(path.to_owned()),
    }
}

/// A path without `.`, `..` and doubled slashes.
pub(crate) fn clean(path: &str) -> String {
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean.to_string_lossy().into_owned()
}

/// Whether a relative path stays below where it starts.
fn is_below(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// A mount, and its volume if that may have to be made.
pub(crate) struct PlannedMount {
    pub(crate) record: MountRecord,
    volume: Option<VolumeRecord>,
}

/// Gives the volume its name.
fn plan(want: Wanted) -> PlannedMount {
    let Wanted { mut record, volume } = want;
    let volume = volume.map(|(mut labels, options)| {
        if record.point.name.is_empty() {
            record.point.name = names::new_id(&mut rand::rng());
            labels.insert(ANONYMOUS_LABEL.into(), String::new());
        }
        VolumeRecord {
            name: record.point.name.clone(),
            created: clock::now(),
            labels: (!labels.is_empty()).then_some(labels),
            options: (!options.is_empty()).then_some(options),
            anonymous: record.anonymous,
        }
    });
    PlannedMount { record, volume }
}

impl Engine {
    /// All mounts of a new container, and the volumes to make for them.
    pub(crate) fn plan_mounts(
        &self,
        config: &ContainerConfig,
        host: &HostConfig,
    ) -> Result<Vec<PlannedMount>> {
        let inherited = self.inherited_mounts(host)?;
        let reserved: Vec<String> = inherited
            .iter()
            .map(|mount| mount.point.destination.clone())
            .collect();
        let wanted = wanted(config, host, &reserved)?;
        // What the request says itself comes before what it inherits.
        let mut mounts: Vec<PlannedMount> = inherited
            .into_iter()
            .filter(|old| {
                !wanted
                    .iter()
                    .any(|new| new.record.point.destination == old.point.destination)
            })
            .map(|record| PlannedMount {
                record,
                volume: None,
            })
            .collect();
        mounts.extend(wanted.into_iter().map(plan));
        mounts.sort_by_key(|mount| {
            Path::new(&mount.record.point.destination)
                .components()
                .count()
        });
        Ok(mounts)
    }

    /// Makes the volumes of a plan that are not there. Blocking.
    pub(crate) fn make_mounts(&self, planned: Vec<PlannedMount>) -> Result<Vec<MountRecord>> {
        planned
            .into_iter()
            .map(|PlannedMount { mut record, volume }| {
                if let Some(volume) = volume {
                    let volume = self.ensure_volume(volume)?;
                    let data = self.volumes.data(&volume.name);
                    record.point.source = data.display().to_string();
                    record.source = data;
                }
                Ok(record)
            })
            .collect()
    }

    /// The mounts of the containers in `volumes-from`.
    fn inherited_mounts(&self, host: &HostConfig) -> Result<Vec<MountRecord>> {
        let mut mounts: Vec<MountRecord> = Vec::new();
        for spec in host.volumes_from.iter().flatten() {
            let (name, mode) = spec.split_once(':').unwrap_or((spec, "rw"));
            if !matches!(mode, "rw" | "ro" | "z" | "Z") || name.is_empty() {
                return Err(EngineError::invalid(format!(
                    "invalid specification for volumes-from: {spec}"
                )));
            }
            let from = self.containers.find(name)?;
            let inherited = from.lock().record.mounts.clone();
            for mut mount in inherited {
                mount.point.rw &= mode != "ro";
                mount.anonymous = false;
                mounts.retain(|other| other.point.destination != mount.point.destination);
                mounts.push(mount);
            }
        }
        Ok(mounts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_specifications_are_read_as_docker_does() {
        let check = |spec: &str, kind: &str, source: &str, destination: &str, rw: bool| {
            let wanted = parse_bind(spec).unwrap_or_else(|error| panic!("{spec}: {error}"));
            let point = wanted.record.point;
            let from = if kind == "bind" {
                &point.source
            } else {
                &point.name
            };
            assert_eq!(
                (
                    point.kind.as_str(),
                    from.as_str(),
                    point.destination.as_str(),
                    point.rw
                ),
                (kind, source, destination, rw)
            );
        };
        check("/a:/b", "bind", "/a", "/b", true);
        check("/a/../c:/b//d/:ro,rslave", "bind", "/c", "/b/d", false);
        check("data:/b:nocopy", "volume", "data", "/b", true);
        check("data:/b:ro", "volume", "data", "/b", false);
        check("/only", "volume", "", "/only", true);
        for wrong in [
            "",
            ":",
            "a:",
            ":/b",
            "a:b",
            "/a:/",
            "/a:/b:",
            "/a:/b:xx",
            "/a:/b:ro,rw",
            "a b:/c",
            "data:/b:rslave",
            "/a:/b:nocopy",
            "/a:/b:ro:x",
        ] {
            assert!(parse_bind(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_destination_is_mounted_once() {
        let host = HostConfig {
            binds: Some(vec!["/a:/x".into()]),
            mounts: vec![Mount {
                kind: MountType::Tmpfs,
                target: "/x/".into(),
                ..Mount::default()
            }],
            ..HostConfig::default()
        };
        let error = wanted(&ContainerConfig::default(), &host, &[]).unwrap_err();
        assert_eq!(error.to_string(), "Duplicate mount point: /x");
    }

    #[test]
    fn image_volumes_give_way_to_what_is_mounted_there() {
        let config = ContainerConfig {
            volumes: Some(
                ["/x", "/y", "/z", "/t"]
                    .map(|path| (path.to_owned(), Default::default()))
                    .into(),
            ),
            ..ContainerConfig::default()
        };
        let host = HostConfig {
            binds: Some(vec!["named:/x".into()]),
            tmpfs: [("/t".to_owned(), String::new())].into(),
            ..HostConfig::default()
        };
        let all = wanted(&config, &host, &["/z".into()]).unwrap();
        let shown: Vec<(&str, bool)> = all
            .iter()
            .map(|mount| {
                (
                    mount.record.point.destination.as_str(),
                    mount.record.anonymous,
                )
            })
            .collect();
        assert_eq!(shown, [("/x", false), ("/y", true)]);
    }
}
