//! Gives a container the devices it asks for.

use std::path::{Path, PathBuf};

use skep_shim::ShimConfig;
use skep_shim::config::{self, BindFlags, MountKind, NodeNumber, Propagation};

use super::Devices;
use super::spec::{DeviceNode, Edits, Mount};
use crate::error::{EngineError, Result};
use crate::types::DeviceRequest;

/// Carries out device requests on a configuration, in dockerd's words where it cannot.
pub(crate) fn inject(
    shim: &mut ShimConfig,
    requests: &[DeviceRequest],
    directories: &[PathBuf],
) -> Result<()> {
    for request in requests {
        if request.driver != "cdi" {
            return Err(EngineError::invalid(format!(
                "could not select device driver {:?} with capabilities: {}",
                request.driver,
                shown(&request.capabilities)
            )));
        }
        if request.count != 0 {
            return Err(EngineError::invalid(
                "unexpected count in CDI device request",
            ));
        }
        if !request.options.is_empty() {
            return Err(EngineError::invalid(
                "unexpected options in CDI device request",
            ));
        }
        if !request.device_ids.is_empty() {
            inject_devices(shim, &request.device_ids, directories).map_err(|why| {
                EngineError::internal(format!("CDI device injection failed: {why}"))
            })?;
        }
    }
    Ok(())
}

/// Lists of lists as Go prints them: `[[gpu compute] [x]]`.
fn shown(capabilities: &[Vec<String>]) -> String {
    let lists: Vec<String> = capabilities
        .iter()
        .map(|list| format!("[{}]", list.join(" ")))
        .collect();
    format!("[{}]", lists.join(" "))
}

fn inject_devices(
    shim: &mut ShimConfig,
    names: &[String],
    directories: &[PathBuf],
) -> Result<(), String> {
    if directories.is_empty() {
        return Err("no CDI specification directories specified".into());
    }
    let devices = Devices::read(directories);
    for complaint in &devices.complaints {
        tracing::warn!(complaint, "a CDI specification is wrong");
    }
    for edits in devices.edits(names)? {
        apply(shim, edits).map_err(|why| format!("failed to inject devices: {why}"))?;
    }
    // A mount below another's place must come after it.
    shim.mounts
        .sort_by_key(|mount| Path::new(&mount.target).components().count());
    Ok(())
}

fn apply(shim: &mut ShimConfig, edits: &Edits) -> Result<(), String> {
    if let Some(hook) = edits.hooks.first() {
        return Err(format!(
            "it has the {} hook {}, and hooks are not run by this daemon: have the vendor's tool write a specification without hooks",
            hook.hook_name, hook.path
        ));
    }
    if !edits.net_devices.is_empty() || edits.intel_rdt.is_some() {
        return Err("netDevices and intelRdt are not supported by this daemon".into());
    }
    for variable in &edits.env {
        let name = variable.split('=').next().unwrap_or_default();
        shim.process
            .env
            .retain(|other| other.split('=').next() != Some(name));
        shim.process.env.push(variable.clone());
    }
    for node in &edits.device_nodes {
        let device = device(node)?;
        shim.devices
            .retain(|other| other.path_in_container != device.path_in_container);
        shim.devices.push(device);
    }
    for mount in &edits.mounts {
        let mount = self::mount(mount)?;
        shim.mounts.retain(|other| other.target != mount.target);
        shim.mounts.push(mount);
    }
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        shim.process.additional_groups.push(gid.to_string());
    }
    Ok(())
}

fn device(node: &DeviceNode) -> Result<config::Device, String> {
    let number = match node.kind.as_str() {
        "p" => {
            return Err(format!(
                "device {:?} is a named pipe, which is not supported",
                node.path
            ));
        }
        // As the host has it.
        "" => None,
        _ if node.major == 0 => None,
        kind => Some(NodeNumber {
            block: kind == "b",
            major: node.major,
            minor: node.minor,
        }),
    };
    Ok(config::Device {
        path_on_host: match node.host_path.as_str() {
            "" => node.path.clone().into(),
            path => path.into(),
        },
        path_in_container: node.path.clone(),
        permissions: node.permissions.clone(),
        number,
        mode: node.file_mode,
        uid: node.uid,
        gid: node.gid,
    })
}

fn mount(mount: &Mount) -> Result<config::Mount, String> {
    if !matches!(mount.kind.as_str(), "" | "bind") {
        return Err(format!(
            "mount {:?} has the type {:?}, only bind is supported",
            mount.container_path, mount.kind
        ));
    }
    let mut flags = BindFlags::default();
    let mut propagation = Propagation::default();
    let (mut readonly, mut non_recursive) = (false, false);
    for option in &mount.options {
        match option.as_str() {
            "ro" => readonly = true,
            "rw" | "suid" | "dev" | "exec" | "relatime" | "" => {}
            "bind" => non_recursive = true,
            "rbind" => non_recursive = false,
            "nosuid" => flags.nosuid = true,
            "nodev" => flags.nodev = true,
            "noexec" => flags.noexec = true,
            "private" => propagation = Propagation::Private,
            "rprivate" => propagation = Propagation::Rprivate,
            "slave" => propagation = Propagation::Slave,
            "rslave" => propagation = Propagation::Rslave,
            "shared" => propagation = Propagation::Shared,
            "rshared" => propagation = Propagation::Rshared,
            other => {
                return Err(format!(
                    "mount {:?} has the option {other:?}, which is not supported",
                    mount.container_path
                ));
            }
        }
    }
    Ok(config::Mount {
        target: mount.container_path.clone(),
        kind: MountKind::Bind {
            source: mount.host_path.clone().into(),
            subpath: Default::default(),
            propagation,
            non_recursive,
            copy_up: false,
            idmapped: false,
            flags,
        },
        readonly,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_shim::config::{Paths, RootSource, Rootfs};

    fn config() -> ShimConfig {
        let rootfs = Rootfs {
            source: RootSource::Directory { path: "/".into() },
            merged: "/".into(),
            readonly: false,
        };
        let mut config = ShimConfig::new("c", rootfs, Paths::in_directory(Path::new("/")));
        config.process.env = vec!["A=old".into(), "B=kept".into()];
        config
    }

    fn check(edits: &str) -> Result<ShimConfig, String> {
        let mut config = config();
        apply(&mut config, &serde_json::from_str(edits).unwrap())?;
        Ok(config)
    }

    #[test]
    fn edits_change_what_the_container_is() {
        let config = check(
            r#"{"env": ["A=new"], "additionalGids": [0, 44],
                "deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/null", "permissions": "r", "gid": 7}],
                "mounts": [{"hostPath": "/lib", "containerPath": "/vendor", "options": ["ro", "nosuid", "nodev", "rbind", "rslave"]}]}"#,
        )
        .unwrap();
        assert_eq!(config.process.env, ["B=kept", "A=new"]);
        assert_eq!(config.process.additional_groups, ["44"]);
        let device = &config.devices[0];
        assert_eq!(device.path_on_host, Path::new("/dev/null"));
        assert_eq!((device.permissions.as_str(), device.gid), ("r", Some(7)));
        let MountKind::Bind {
            flags, propagation, ..
        } = &config.mounts[0].kind
        else {
            panic!("a bind");
        };
        assert!(config.mounts[0].readonly && flags.nosuid && flags.nodev && !flags.noexec);
        assert_eq!(*propagation, Propagation::Rslave);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (edits, why) in [
            (
                r#"{"hooks": [{"hookName": "createContainer", "path": "/usr/bin/ldcache"}]}"#,
                "the createContainer hook /usr/bin/ldcache",
            ),
            (r#"{"intelRdt": {}}"#, "intelRdt"),
            (
                r#"{"deviceNodes": [{"path": "/p", "type": "p"}]}"#,
                "named pipe",
            ),
            (
                r#"{"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["fly"]}]}"#,
                "\"fly\"",
            ),
        ] {
            let error = check(edits).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn other_drivers_are_refused_as_docker_does() {
        let request = DeviceRequest {
            count: -1,
            capabilities: vec![vec!["gpu".into()]],
            ..DeviceRequest::default()
        };
        assert_eq!(
            inject(&mut config(), &[request], &[])
                .unwrap_err()
                .to_string(),
            "could not select device driver \"\" with capabilities: [[gpu]]"
        );
        let request = DeviceRequest {
            driver: "cdi".into(),
            device_ids: vec!["vendor.com/none=0".into()],
            ..DeviceRequest::default()
        };
        assert_eq!(
            inject(&mut config(), &[request], &["/nowhere".into()])
                .unwrap_err()
                .to_string(),
            "CDI device injection failed: unresolvable CDI devices vendor.com/none=0"
        );
    }
}
