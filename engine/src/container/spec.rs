//! A container's record as its shim's configuration. Decides nothing that needs
//! looking at the host: what does comes as [`Surroundings`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep_dns::DnsConfig;
use skep_shim::cgroup::{BlkioThrottle, BlkioWeight, Limits, ThrottleKind};
use skep_shim::config::{
    CgroupConfig, ConsoleSize, Device, HealthCheck, InjectedFile, InjectedVariable, Mount,
    MountKind, Namespace, Namespaces, Paths, Process, Propagation, Rlimit, RootSource, Rootfs,
    Seccomp, ShimConfig, Shm,
};

use skep_shim::userns::{IdMap, UserNamespace};

use super::log_options::{ask_resolver, log_config, log_tag};
use super::record::{ContainerRecord, MountRecord};
use super::root::RootPaths;
use super::{merge, signal};
use crate::error::{EngineError, Result};
use crate::types::{ContainerConfig, HealthConfig, HostConfig, Ulimit};

/// What a configuration needs to know besides the record.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) root: RootPaths,
    pub(crate) paths: Paths,
    pub(crate) log_path: PathBuf,
    pub(crate) cgroup_parent: &'a str,
    pub(crate) net: Namespace,
    pub(crate) dns: Option<DnsConfig>,
    /// hosts, hostname and resolv.conf on the host.
    pub(crate) files: [(PathBuf, &'static str); 3],
    /// The processes of containers whose namespaces are joined, by container.
    pub(crate) joined: BTreeMap<String, i64>,
    /// Variables that links add.
    pub(crate) linked: Vec<String>,
    pub(crate) injected: Vec<InjectedFile>,
    pub(crate) variables: Vec<InjectedVariable>,
    pub(crate) default_ulimits: &'a [Ulimit],
    pub(crate) default_shm_bytes: i64,
    pub(crate) default_init: bool,
    /// Ids of the host that the container's users are, and the process whose user
    /// namespace is joined.
    pub(crate) ids: Option<IdMap>,
    pub(crate) user_of: Option<i64>,
    /// Directories of the engine's own, where files have the container's ids.
    pub(crate) own_directories: &'a [PathBuf],
}

/// The shim's configuration.
pub(crate) fn build(record: &ContainerRecord, around: Surroundings<'_>) -> Result<ShimConfig> {
    let (config, host) = (&record.config, &record.host_config);
    let rootfs = Rootfs {
        source: RootSource::Overlay {
            lower: around.root.lower,
            upper: around.root.upper,
            work: around.root.work,
        },
        merged: around.root.merged,
        readonly: host.readonly_rootfs,
    };
    let security = security(host)?;
    let mut shim = ShimConfig::new(record.id.clone(), rootfs, around.paths);
    shim.process = process(record, around.default_ulimits, security.no_new_privileges)?;
    shim.process.env = merge::environment(config, &around.linked);
    let hidden = around.variables.iter().map(|one| one.variable.as_str());
    merge::hide(&mut shim.process.env, hidden);
    let in_host_uts = host.uts_mode == "host";
    if !in_host_uts {
        shim.hostname.clone_from(&config.hostname);
        shim.domainname.clone_from(&config.domainname);
    }
    shim.mounts = mounts(record, &around.files, around.own_directories)?;
    let joined = |mode: &str| -> Result<Option<i64>> {
        match mode.strip_prefix("container:") {
            None => Ok(None),
            Some(name) => around.joined.get(name).copied().map(Some).ok_or_else(|| {
                EngineError::conflict(format!(
                    "cannot join namespace of a non running container: {name}"
                ))
            }),
        }
    };
    let namespace = |mode: &str, kind: &str| -> Result<Namespace> {
        Ok(match (mode, joined(mode)?) {
            (_, Some(pid)) => Namespace::Join(format!("/proc/{pid}/ns/{kind}").into()),
            ("host", None) => Namespace::Host,
            _ => Namespace::New,
        })
    };
    shim.namespaces = Namespaces {
        pid: namespace(&host.pid_mode, "pid")?,
        net: around.net,
        ipc: namespace(&host.ipc_mode, "ipc")?,
        uts: namespace(&host.uts_mode, "uts")?,
        cgroup: namespace(&host.cgroupns_mode, "cgroup")?,
    };
    shim.user_namespace = around.ids.map(|map| UserNamespace {
        map,
        join: around
            .user_of
            .map(|pid| format!("/proc/{pid}/ns/user").into()),
    });
    shim.shm = match (host.ipc_mode.as_str(), joined(&host.ipc_mode)?) {
        ("host", _) => Shm::Path {
            path: "/dev/shm".into(),
        },
        (_, Some(pid)) => Shm::OfProcess { pid: pid as i32 },
        ("none", None) => Shm::None,
        _ => Shm::Private {
            bytes: u64::try_from(match host.shm_size {
                0 => around.default_shm_bytes,
                given => given,
            })
            .unwrap_or(64 << 20),
        },
    };
    shim.cgroup = CgroupConfig {
        parent: match host.cgroup_parent.as_str() {
            "" => around.cgroup_parent.to_owned(),
            parent if parent.starts_with('/') => parent.to_owned(),
            parent => format!("{}/{parent}", around.cgroup_parent.trim_end_matches('/')),
        },
        limits: limits(host),
    };
    shim.seccomp = security.seccomp;
    if let Some(paths) = &host.masked_paths {
        shim.masked_paths.clone_from(paths);
    }
    if let Some(paths) = &host.readonly_paths {
        shim.readonly_paths.clone_from(paths);
    }
    if security.system_paths_unconfined {
        shim.masked_paths.clear();
        shim.readonly_paths.clear();
    }
    shim.sysctls.clone_from(&host.sysctls);
    if owns_network(record) {
        add_network_defaults(&mut shim.sysctls);
    }
    shim.devices = host
        .devices
        .iter()
        .map(|device| Device {
            path_on_host: device.path_on_host.clone().into(),
            path_in_container: device.path_in_container.clone(),
            permissions: device.cgroup_permissions.clone(),
            ..Device::default()
        })
        .collect();
    shim.device_cgroup_rules = host.device_cgroup_rules.clone().unwrap_or_default();
    shim.privileged = host.privileged;
    shim.log = log_config(
        &host.log_config,
        config,
        around.log_path,
        log_tag(record),
        ask_resolver,
    )?;
    shim.health = health(config);
    shim.dns = around.dns;
    shim.init = host.init.unwrap_or(around.default_init);
    shim.injected = around.injected;
    shim.variables = around.variables;
    shim.stop_signal = match config.stop_signal.as_str() {
        "" => libc::SIGTERM,
        name => signal::parse(name)?,
    };
    Ok(shim)
}

/// Whether the container's network is its own, be it made by the caller.
fn owns_network(record: &ContainerRecord) -> bool {
    let mode = record.host_config.network_mode.as_str();
    record.extras.netns.is_some() || !(mode == "host" || mode.starts_with("container:"))
}

/// What docker allows in a network of the container's own: ICMP echo without a raw socket,
/// and all ports to everybody. A kernel without such a parameter is left alone.
fn add_network_defaults(sysctls: &mut BTreeMap<String, String>) {
    for (name, value) in [
        ("net.ipv4.ping_group_range", "0 2147483647"),
        ("net.ipv4.ip_unprivileged_port_start", "0"),
    ] {
        if Path::new("/proc/sys").join(name.replace('.', "/")).exists() {
            sysctls
                .entry(name.to_owned())
                .or_insert_with(|| value.to_owned());
        }
    }
}

fn process(
    record: &ContainerRecord,
    default_ulimits: &[Ulimit],
    no_new_privileges: bool,
) -> Result<Process> {
    let (config, host) = (&record.config, &record.host_config);
    let capabilities = skep_shim::capabilities::resolve(
        host.cap_add.as_deref().unwrap_or_default(),
        host.cap_drop.as_deref().unwrap_or_default(),
        host.privileged,
    )
    .map_err(|error| EngineError::invalid(error.to_string()))?;
    let mut ulimits: Vec<&Ulimit> = host.ulimits.iter().collect();
    for default in default_ulimits {
        if !ulimits.iter().any(|own| own.name == default.name) {
            ulimits.push(default);
        }
    }
    let (height, width) = host.console_size;
    Ok(Process {
        args: record.command(),
        env: Vec::new(),
        cwd: config.working_dir.clone(),
        user: config.user.clone(),
        additional_groups: host.group_add.clone().unwrap_or_default(),
        terminal: config.tty,
        console_size: console_size(height, width),
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        capabilities,
        rlimits: ulimits
            .into_iter()
            .map(|limit| Rlimit {
                name: limit.name.clone(),
                soft: u64::try_from(limit.soft).unwrap_or(u64::MAX),
                hard: u64::try_from(limit.hard).unwrap_or(u64::MAX),
            })
            .collect(),
        no_new_privileges,
        oom_score_adj: Some(host.oom_score_adj as i32),
    })
}

/// A terminal size; `None` when either side is missing.
pub(crate) fn console_size(height: u32, width: u32) -> Option<ConsoleSize> {
    match (u16::try_from(height), u16::try_from(width)) {
        (Ok(height), Ok(width)) if height > 0 && width > 0 => Some(ConsoleSize { height, width }),
        _ => None,
    }
}

fn mounts(
    record: &ContainerRecord,
    files: &[(PathBuf, &'static str)],
    own: &[PathBuf],
) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    // Files of ours come first, so that a user's own mount at the same place wins.
    for (source, target) in files {
        let taken = record
            .mounts
            .iter()
            .any(|mount| mount.point.destination == *target);
        if !taken && !source.as_os_str().is_empty() {
            mounts.push(Mount {
                target: (*target).into(),
                kind: MountKind::Bind {
                    source: source.clone(),
                    subpath: Default::default(),
                    propagation: Propagation::Rprivate,
                    non_recursive: false,
                    copy_up: false,
                    idmapped: true,
                    flags: Default::default(),
                },
                readonly: record.host_config.readonly_rootfs,
            });
        }
    }
    for (target, options) in &record.host_config.tmpfs {
        mounts.push(Mount {
            target: target.clone(),
            kind: MountKind::Tmpfs {
                options: options.clone(),
            },
            readonly: false,
        });
    }
    for mount in &record.mounts {
        mounts.push(one_mount(mount, own)?);
    }
    // A mount below another's place must come after it.
    mounts.sort_by_key(|mount| Path::new(&mount.target).components().count());
    Ok(mounts)
}

fn one_mount(mount: &MountRecord, own: &[PathBuf]) -> Result<Mount> {
    let point = &mount.point;
    let kind = match &mount.tmpfs {
        Some(options) => MountKind::Tmpfs {
            options: options.clone(),
        },
        None => MountKind::Bind {
            source: mount.source.clone(),
            subpath: mount.subpath.clone(),
            propagation: match point.propagation.as_str() {
                "" | "rprivate" => Propagation::Rprivate,
                "private" => Propagation::Private,
                "shared" => Propagation::Shared,
                "rshared" => Propagation::Rshared,
                "slave" => Propagation::Slave,
                "rslave" => Propagation::Rslave,
                other => {
                    return Err(EngineError::invalid(format!(
                        "invalid propagation mode: {other}"
                    )));
                }
            },
            non_recursive: mount.non_recursive,
            copy_up: mount.copy_up,
            idmapped: point.kind == "volume"
                || own
                    .iter()
                    .any(|directory| mount.source.starts_with(directory)),
            flags: Default::default(),
        },
    };
    Ok(Mount {
        target: point.destination.clone(),
        kind,
        readonly: !point.rw,
    })
}

/// Docker's zero means "not given".
pub(crate) fn limits(host: &HostConfig) -> Limits {
    let some = |value: i64| (value != 0).then_some(value);
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    let throttles = [
        (&host.blkio_device_read_bps, ThrottleKind::ReadBytes),
        (&host.blkio_device_write_bps, ThrottleKind::WriteBytes),
        (&host.blkio_device_read_iops, ThrottleKind::ReadOperations),
        (&host.blkio_device_write_iops, ThrottleKind::WriteOperations),
    ];
    Limits {
        memory: some(host.memory),
        memory_swap: some(host.memory_swap),
        memory_reservation: some(host.memory_reservation),
        memory_swappiness: host
            .memory_swappiness
            .and_then(|value| u64::try_from(value).ok()),
        oom_kill_disable: host.oom_kill_disable.unwrap_or(false),
        nano_cpus: some(host.nano_cpus),
        cpu_quota_us: some(host.cpu_quota),
        cpu_period_us: some(host.cpu_period).and_then(|value| u64::try_from(value).ok()),
        cpu_shares: some(host.cpu_shares).and_then(|value| u64::try_from(value).ok()),
        cpuset_cpus: text(&host.cpuset_cpus),
        cpuset_mems: text(&host.cpuset_mems),
        pids: host.pids_limit.filter(|limit| *limit != 0),
        blkio_weight: (host.blkio_weight != 0).then_some(host.blkio_weight),
        blkio_throttle: throttles
            .into_iter()
            .flat_map(|(devices, kind)| {
                devices.iter().map(move |device| BlkioThrottle {
                    device: device.path.clone().into(),
                    kind,
                    rate: device.rate,
                })
            })
            .collect(),
        blkio_weight_devices: host
            .blkio_weight_device
            .iter()
            .map(|device| BlkioWeight {
                device: device.path.clone().into(),
                weight: device.weight,
            })
            .collect(),
    }
}

/// Whether a health check says how to look. dockerd takes other words than these, and never looks.
pub(super) fn is_probed(check: &HealthConfig) -> bool {
    matches!(
        check.test.first().map(String::as_str),
        Some("CMD" | "CMD-SHELL")
    )
}

fn health(config: &ContainerConfig) -> Option<HealthCheck> {
    let check = config
        .healthcheck
        .as_ref()
        .filter(|check| is_probed(check))?;
    let nanos = |value: skep_model::Nanos| u64::try_from(value.0).unwrap_or(0);
    Some(HealthCheck {
        test: check.test.clone(),
        shell: config.shell.clone().unwrap_or_default(),
        interval_ns: nanos(check.interval),
        timeout_ns: nanos(check.timeout),
        retries: u32::try_from(check.retries).unwrap_or(0),
        start_period_ns: nanos(check.start_period),
        start_interval_ns: nanos(check.start_interval),
    })
}

/// What `SecurityOpt` says.
#[derive(Debug, Default)]
pub(crate) struct Security {
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Seccomp,
    pub(crate) system_paths_unconfined: bool,
}

/// Reads `SecurityOpt`.
pub(crate) fn security(host: &HostConfig) -> Result<Security> {
    let mut security = Security {
        seccomp: if host.privileged {
            Seccomp::Unconfined
        } else {
            Seccomp::Default
        },
        ..Security::default()
    };
    for option in host.security_opt.iter().flatten() {
        let (key, value) = option
            .split_once('=')
            .or_else(|| option.split_once(':'))
            .unwrap_or((option, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => security.no_new_privileges = false,
            ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin" | "") => security.seccomp = Seccomp::Default,
            ("seccomp", profile) => {
                serde_json::from_str::<serde_json::Value>(profile).map_err(|error| {
                    EngineError::invalid("Decoding seccomp profile failed").because(error)
                })?;
                security.seccomp = Seccomp::Profile(profile.to_owned());
            }
            ("systempaths", "unconfined") => security.system_paths_unconfined = true,
            // This host has neither; asking for none of it is fine.
            ("apparmor", "unconfined" | "docker-default" | "") | ("label", _) => {}
            ("apparmor", profile) => {
                return Err(EngineError::invalid(format!(
                    "AppArmor is not enabled on the system, but profile \"{profile}\" was asked for"
                )));
            }
            _ => {
                return Err(EngineError::invalid(format!(
                    "invalid --security-opt 2: \"{option}\""
                )));
            }
        }
    }
    Ok(security)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options_are_read() {
        let read = |options: &[&str]| {
            security(&HostConfig {
                security_opt: Some(options.iter().map(|o| (*o).to_owned()).collect()),
                ..HostConfig::default()
            })
        };
        let both = read(&["no-new-privileges", "seccomp=unconfined"]).unwrap();
        assert!(both.no_new_privileges);
        assert_eq!(both.seccomp, Seccomp::Unconfined);
        assert!(
            !read(&["no-new-privileges:false"])
                .unwrap()
                .no_new_privileges
        );
        assert!(read(&["seccomp={"]).is_err());
        assert!(read(&["colour=red"]).is_err());
    }

    #[test]
    fn zero_limits_are_no_limits() {
        assert_eq!(limits(&HostConfig::default()), Limits::default());
        let given = limits(&HostConfig {
            memory: 64 << 20,
            pids_limit: Some(-1),
            ..HostConfig::default()
        });
        assert_eq!(given.memory, Some(64 << 20));
        assert_eq!(given.pids, Some(-1));
    }
}
