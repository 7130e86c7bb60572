//! `mounts` of a bundle.

use serde::Deserialize;

use crate::ShimConfig;
use crate::config::{BindFlags, Mount, MountKind, Propagation, Shm};

#[derive(Deserialize)]
pub(super) struct OciMount {
    destination: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    options: Vec<String>,
}

/// What every container has, with what the shim mounts there.
const ALWAYS: [(&str, &str); 7] = [
    ("/proc", "proc"),
    ("/dev", "tmpfs"),
    ("/dev/pts", "devpts"),
    ("/dev/shm", "tmpfs"),
    ("/dev/mqueue", "mqueue"),
    ("/sys", "sysfs"),
    ("/sys/fs/cgroup", "cgroup"),
];

pub(super) fn convert(config: &mut ShimConfig, mounts: Vec<OciMount>) -> Result<(), String> {
    config.shm = Shm::None;
    for mount in mounts {
        let place = mount.destination.as_str();
        let wrong = |why: &str| format!("mounts: {place}: {why}");
        let is_bind = mount.kind == "bind"
            || mount
                .options
                .iter()
                .any(|option| option == "bind" || option == "rbind");
        match ALWAYS.iter().find(|(always, _)| *always == place) {
            Some((_, kind)) if mount.kind != *kind => {
                return Err(wrong(&format!("only {kind} can be mounted there")));
            }
            Some((_, "sysfs" | "cgroup")) if !mount.options.iter().any(|option| option == "ro") => {
                return Err(wrong("it is always read-only"));
            }
            Some(("/dev/shm", _)) => {
                config.shm = Shm::Private {
                    bytes: shm_bytes(&mount.options).ok_or_else(|| wrong("it needs a size"))?,
                };
            }
            Some(_) => {}
            None if is_bind => config.mounts.push(bind(mount)?),
            None if mount.kind == "tmpfs" => config.mounts.push(tmpfs(mount)),
            None => {
                return Err(wrong(&format!(
                    "the type {:?} is not supported",
                    mount.kind
                )));
            }
        }
    }
    Ok(())
}

fn shm_bytes(options: &[String]) -> Option<u64> {
    let size = options
        .iter()
        .find_map(|option| option.strip_prefix("size="))?;
    match size.strip_suffix('k') {
        Some(kilo) => kilo.parse::<u64>().ok()?.checked_mul(1024),
        None => size.parse().ok(),
    }
}

/// The shim forbids a tmpfs what docker forbids it; a bundle says it itself.
fn tmpfs(mount: OciMount) -> Mount {
    let options: Vec<&str> = ["exec", "suid", "dev"]
        .into_iter()
        .chain(mount.options.iter().map(String::as_str))
        .filter(|option| !matches!(*option, "private" | "rprivate"))
        .collect();
    Mount {
        target: mount.destination,
        kind: MountKind::Tmpfs {
            options: options.join(","),
        },
        readonly: false,
    }
}

fn bind(mount: OciMount) -> Result<Mount, String> {
    let mut flags = BindFlags::default();
    let mut propagation = Propagation::default();
    let (mut readonly, mut non_recursive) = (false, true);
    for option in &mount.options {
        match option.as_str() {
            "ro" => readonly = true,
            "rw" | "bind" | "suid" | "dev" | "exec" | "relatime" => {}
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
                    "mounts: {}: the option {other:?} is not supported",
                    mount.destination
                ));
            }
        }
    }
    Ok(Mount {
        target: mount.destination,
        kind: MountKind::Bind {
            source: mount.source.into(),
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
