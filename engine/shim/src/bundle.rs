//! An OCI bundle as a container of the shim, so that it can be compared with other
//! runtimes on the same settings.
//!
//! What a bundle asks for and the shim does not do is an error that names the property;
//! nothing is left out in silence. The kernel's file systems (`/proc`, `/dev`, `/sys` and
//! those below) are always there, as docker mounts them.

mod cgroup;
mod mounts;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::ShimConfig;
use crate::config::{
    Device, LogConfig, LogDriver, Namespace, NodeNumber, Paths, Process, Rlimit, RootSource,
    Rootfs, Seccomp,
};
use crate::userns::{IdMap, IdRange, UserNamespace};

/// Reads `config.json` of a bundle. `state` is an existing directory for the shim's files:
/// sockets and records under their usual names, the log as `log`.
///
/// # Errors
/// The file is missing or wrong, or asks for something the shim does not do.
pub fn read(bundle: &Path, id: &str, state: &Path) -> io::Result<ShimConfig> {
    let path = bundle.join("config.json");
    let spec: Spec = serde_json::from_slice(&fs::read(&path)?)?;
    convert(spec, bundle, id, state).map_err(|why| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: {why}", path.display()),
        )
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    oci_version: String,
    process: OciProcess,
    root: Root,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    domainname: String,
    #[serde(default)]
    mounts: Vec<mounts::OciMount>,
    #[serde(default)]
    hooks: BTreeMap<String, Vec<Value>>,
    #[serde(default)]
    linux: Linux,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OciProcess {
    terminal: bool,
    user: User,
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    capabilities: Capabilities,
    rlimits: Vec<OciRlimit>,
    no_new_privileges: bool,
    oom_score_adj: Option<i32>,
    apparmor_profile: String,
    selinux_label: String,
    scheduler: Option<Value>,
    io_priority: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct User {
    uid: u32,
    gid: u32,
    umask: Option<u32>,
    additional_gids: Vec<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Capabilities {
    bounding: Vec<String>,
    effective: Vec<String>,
    permitted: Vec<String>,
    inheritable: Vec<String>,
    ambient: Vec<String>,
}

#[derive(Deserialize)]
struct OciRlimit {
    #[serde(rename = "type")]
    kind: String,
    hard: u64,
    soft: u64,
}

#[derive(Deserialize)]
struct Root {
    path: PathBuf,
    #[serde(default)]
    readonly: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<OciNamespace>,
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
    devices: Vec<OciDevice>,
    cgroups_path: String,
    resources: cgroup::Resources,
    rootfs_propagation: String,
    seccomp: Option<Value>,
    sysctl: BTreeMap<String, String>,
    masked_paths: Vec<String>,
    readonly_paths: Vec<String>,
    mount_label: String,
    intel_rdt: Option<Value>,
    personality: Option<Value>,
    time_offsets: Option<Value>,
}

#[derive(Deserialize)]
struct OciNamespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    #[serde(rename = "containerID")]
    container_id: u32,
    #[serde(rename = "hostID")]
    host_id: u32,
    size: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciDevice {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    major: u32,
    #[serde(default)]
    minor: u32,
    file_mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

fn convert(spec: Spec, bundle: &Path, id: &str, state: &Path) -> Result<ShimConfig, String> {
    if !spec.oci_version.starts_with("1.") {
        return Err(format!("ociVersion: {:?} is not 1.x", spec.oci_version));
    }
    refuse_what_is_not_done(&spec)?;
    let root = bundle.join(&spec.root.path);
    if !root.is_dir() {
        return Err(format!("root.path: {} is not a directory", root.display()));
    }
    let merged = state.join("merged");
    fs::create_dir_all(&merged).map_err(|error| format!("{}: {error}", merged.display()))?;
    let rootfs = Rootfs {
        source: RootSource::Directory { path: root },
        merged,
        readonly: spec.root.readonly,
    };
    let group = Path::new(&spec.linux.cgroups_path);
    let id = match group.file_name().and_then(|name| name.to_str()) {
        Some(name) => name,
        None => id,
    };
    let mut config = ShimConfig::new(id, rootfs, Paths::in_directory(state));
    if let Some(parent) = group.parent() {
        config.cgroup.parent = parent.display().to_string();
    }
    config.process = process(spec.process)?;
    config.hostname = spec.hostname;
    config.domainname = spec.domainname;
    namespaces(&mut config, &spec.linux)?;
    mounts::convert(&mut config, spec.mounts)?;
    for device in &spec.linux.devices {
        config
            .devices
            .push(self::device(device, &spec.linux.resources)?);
    }
    cgroup::convert(&mut config, &spec.linux.resources)?;
    config.seccomp = match spec.linux.seccomp {
        Some(profile) => Seccomp::Profile(profile.to_string()),
        None => Seccomp::Unconfined,
    };
    config.sysctls = spec.linux.sysctl;
    config.masked_paths = spec.linux.masked_paths;
    config.readonly_paths = spec.linux.readonly_paths;
    config.log = LogConfig {
        driver: LogDriver::JsonFile,
        path: state.join("log"),
        max_size: None,
        max_file: 1,
        attrs: BTreeMap::new(),
        remote: None,
    };
    Ok(config)
}

fn refuse_what_is_not_done(spec: &Spec) -> Result<(), String> {
    let (process, linux) = (&spec.process, &spec.linux);
    let asked = [
        (spec.hooks.values().any(|hooks| !hooks.is_empty()), "hooks"),
        (
            !process.apparmor_profile.is_empty(),
            "process.apparmorProfile",
        ),
        (!process.selinux_label.is_empty(), "process.selinuxLabel"),
        (process.scheduler.is_some(), "process.scheduler"),
        (process.io_priority.is_some(), "process.ioPriority"),
        (
            process.user.umask.is_some_and(|mask| mask != 0o022),
            "process.user.umask other than 0022",
        ),
        (!linux.mount_label.is_empty(), "linux.mountLabel"),
        (linux.intel_rdt.is_some(), "linux.intelRdt"),
        (linux.personality.is_some(), "linux.personality"),
        (linux.time_offsets.is_some(), "linux.timeOffsets"),
        (
            !matches!(
                linux.rootfs_propagation.as_str(),
                "" | "private" | "rprivate"
            ),
            "linux.rootfsPropagation other than private",
        ),
    ];
    match asked.iter().find(|(asked, _)| *asked) {
        Some((_, name)) => Err(format!("{name} is not supported")),
        None => Ok(()),
    }
}

fn process(spec: OciProcess) -> Result<Process, String> {
    if spec.args.is_empty() {
        return Err("process.args is empty".into());
    }
    if !spec.cwd.starts_with('/') {
        return Err("process.cwd is not an absolute path".into());
    }
    let mask =
        |names: &[String]| crate::capabilities::mask(names).map_err(|error| error.to_string());
    let sets = &spec.capabilities;
    let bounding = mask(&sets.bounding)?;
    if mask(&sets.effective)? != bounding
        || mask(&sets.permitted)? != bounding
        || mask(&sets.inheritable)? | mask(&sets.ambient)? != 0
    {
        return Err(
            "process.capabilities: bounding, effective and permitted must be the same, inheritable and ambient empty"
                .into(),
        );
    }
    Ok(Process {
        args: spec.args,
        env: spec.env,
        cwd: spec.cwd,
        user: format!("{}:{}", spec.user.uid, spec.user.gid),
        additional_groups: spec
            .user
            .additional_gids
            .iter()
            .map(u32::to_string)
            .collect(),
        terminal: spec.terminal,
        capabilities: spec.capabilities.bounding,
        rlimits: spec
            .rlimits
            .into_iter()
            .map(|limit| Rlimit {
                name: limit.kind,
                soft: limit.soft,
                hard: limit.hard,
            })
            .collect(),
        no_new_privileges: spec.no_new_privileges,
        oom_score_adj: spec.oom_score_adj,
        ..Process::default()
    })
}

fn namespaces(config: &mut ShimConfig, linux: &Linux) -> Result<(), String> {
    let find = |kind: &str| match linux.namespaces.iter().find(|given| given.kind == kind) {
        None => Namespace::Host,
        Some(given) if given.path.is_empty() => Namespace::New,
        Some(given) => Namespace::Join(given.path.clone().into()),
    };
    if find("mount") != Namespace::New {
        return Err("linux.namespaces: the mount namespace must be a new one".into());
    }
    if find("time") != Namespace::Host {
        return Err("linux.namespaces: a time namespace is not supported".into());
    }
    config.namespaces = crate::config::Namespaces {
        pid: find("pid"),
        net: find("network"),
        ipc: find("ipc"),
        uts: find("uts"),
        cgroup: find("cgroup"),
    };
    let ranges = |mappings: &[Mapping]| {
        mappings
            .iter()
            .map(|mapping| IdRange {
                inside: mapping.container_id,
                outside: mapping.host_id,
                count: mapping.size,
            })
            .collect()
    };
    let map = IdMap {
        uids: ranges(&linux.uid_mappings),
        gids: ranges(&linux.gid_mappings),
    };
    config.user_namespace = match find("user") {
        Namespace::Host => None,
        Namespace::New => Some(UserNamespace { map, join: None }),
        Namespace::Join(path) => Some(UserNamespace {
            map,
            join: Some(path),
        }),
    };
    Ok(())
}

fn device(device: &OciDevice, resources: &cgroup::Resources) -> Result<Device, String> {
    let block = match device.kind.as_str() {
        "b" => true,
        "c" | "u" => false,
        other => {
            return Err(format!(
                "linux.devices: the type {other:?} is not supported"
            ));
        }
    };
    Ok(Device {
        path_on_host: device.path.clone().into(),
        path_in_container: device.path.clone(),
        // Making nodes is always allowed; using one only by a rule.
        permissions: resources
            .access_to(block, device.major, device.minor)
            .unwrap_or("m")
            .to_owned(),
        number: Some(NodeNumber {
            block,
            major: device.major,
            minor: device.minor,
        }),
        mode: device.file_mode,
        uid: device.uid,
        gid: device.gid,
    })
}
