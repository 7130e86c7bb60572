//! What a shim must know to run one container.
//!
//! The engine writes this as JSON into the container's directory; the shim reads
//! it once. Everything here may be read by whoever reads that directory, so the
//! bytes of secrets are never part of it: see [`InjectedFile`] and [`InjectedVariable`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skep_dns::DnsConfig;

use crate::cgroup::Limits;
pub use crate::log::{Address, RemoteConfig, SyslogFormat};
use crate::profile;
use crate::userns::UserNamespace;

/// Largest configuration file a shim reads.
pub const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Most files that may be injected into one container.
pub const INJECTED_FILES_MAX: usize = 1024;
/// Most bytes all injected files of one container may have together.
pub const INJECTED_BYTES_MAX: usize = 256 << 20;

/// One container, as its shim sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShimConfig {
    /// The container's id; also the name of its cgroup.
    pub id: String,
    /// What runs in it.
    pub process: Process,
    /// What it sees as `/`.
    pub rootfs: Rootfs,
    /// Host name in a new uts namespace; ignored in a shared one.
    #[serde(default)]
    pub hostname: String,
    /// NIS domain name in a new uts namespace; empty leaves it unset.
    #[serde(default)]
    pub domainname: String,
    /// Mounts in the order they are made, after `/proc`, `/dev`, `/sys`.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// What `/dev/shm` is.
    #[serde(default)]
    pub shm: Shm,
    /// Namespaces; the mount namespace is always new.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// A user namespace of its own; the host's if absent. The root file system and
    /// mounts with `idmapped` keep the container's ids on the disk.
    #[serde(default)]
    pub user_namespace: Option<UserNamespace>,
    /// Where the cgroup is and what it is limited to.
    #[serde(default)]
    pub cgroup: CgroupConfig,
    /// Which system calls are allowed.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// Paths hidden from the container (files behind `/dev/null`, directories
    /// behind an empty read-only tmpfs). Docker's list by default.
    #[serde(default = "profile::masked_paths")]
    pub masked_paths: Vec<String>,
    /// Paths made read-only. Docker's list by default.
    #[serde(default = "profile::readonly_paths")]
    pub readonly_paths: Vec<String>,
    /// Kernel parameters written in the container's namespaces, by dotted name.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Device nodes besides docker's default ones, which are always there.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Device cgroup rules in docker's form (`c 1:3 rwm`), besides the default
    /// ones and those of `devices`.
    #[serde(default)]
    pub device_cgroup_rules: Vec<String>,
    /// No seccomp, all host devices, writable `/sys` and cgroups, nothing masked.
    /// The capability list is still the one in `process`.
    #[serde(default)]
    pub privileged: bool,
    /// Where output goes.
    pub log: LogConfig,
    /// Health check, if any.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// Resolver at 127.0.0.11 in the container's network namespace, if wanted.
    /// The shim does not write `resolv.conf`; the engine mounts one.
    #[serde(default)]
    pub dns: Option<DnsConfig>,
    /// Whether a tiny init is process 1 (`docker run --init`).
    #[serde(default)]
    pub init: bool,
    /// Files whose bytes come with the start command.
    #[serde(default)]
    pub injected: Vec<InjectedFile>,
    /// Variables of all its processes whose values come with the start command.
    #[serde(default)]
    pub variables: Vec<InjectedVariable>,
    /// Signal number that asks the container to stop; the shim only reports it.
    #[serde(default = "default_stop_signal")]
    pub stop_signal: i32,
    /// Where the shim writes and listens.
    pub paths: Paths,
}

fn default_stop_signal() -> i32 {
    libc::SIGTERM
}

/// Files the shim makes, all absolute. Their directories must exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// The control socket. Any length is fine: it is bound through its directory.
    pub socket: PathBuf,
    /// The exit record, written once, atomically, when all is over.
    pub exit: PathBuf,
    /// The present state, replaced atomically at every change of state or health.
    pub status: PathBuf,
    /// Where the shim's own complaints go; nowhere if absent.
    #[serde(default)]
    pub shim_log: Option<PathBuf>,
}

impl Paths {
    /// The usual names in one container's directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            socket: directory.join("shim.sock"),
            exit: directory.join("exit.json"),
            status: directory.join("status.json"),
            shim_log: Some(directory.join("shim.log")),
        }
    }
}

/// The main process of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Program and arguments; the program is looked up in `PATH` of `env`.
    pub args: Vec<String>,
    /// Environment as `NAME=value`. `HOME` is added from the container's passwd
    /// file when missing.
    pub env: Vec<String>,
    /// Working directory; made when missing, `/` when empty.
    pub cwd: String,
    /// `name|uid[:group|gid]`, resolved in the container; empty is root.
    pub user: String,
    /// Further groups, by name or number.
    pub additional_groups: Vec<String>,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// Size of that terminal at start.
    pub console_size: Option<ConsoleSize>,
    /// Whether standard input can be attached; otherwise it is `/dev/null`.
    pub open_stdin: bool,
    /// Whether standard input closes when the first client that attached it leaves.
    pub stdin_once: bool,
    /// Capabilities by name, with or without `CAP_`. See
    /// [`crate::capabilities::resolve`].
    pub capabilities: Vec<String>,
    /// Resource limits. A limit above what this host may grant is clipped.
    pub rlimits: Vec<Rlimit>,
    /// Forbid gaining privileges through execve.
    pub no_new_privileges: bool,
    /// `oom_score_adj` of the process; absent leaves the daemon's.
    pub oom_score_adj: Option<i32>,
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSize {
    pub height: u16,
    pub width: u16,
}

/// One resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Docker's name: `nofile`, `nproc`, `core`, …
    pub name: String,
    /// `u64::MAX` is unlimited.
    pub soft: u64,
    /// `u64::MAX` is unlimited.
    pub hard: u64,
}

/// What the container sees as `/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Where it comes from.
    pub source: RootSource,
    /// An existing empty directory on the host, the place of the mount inside
    /// the container's mount namespace. Nothing is mounted there on the host.
    pub merged: PathBuf,
    /// Whether the container may write to it.
    #[serde(default)]
    pub readonly: bool,
}

/// Where a root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootSource {
    /// Read-only layers, **topmost first**, under a writable one.
    Overlay {
        lower: Vec<PathBuf>,
        upper: PathBuf,
        work: PathBuf,
    },
    /// A directory used as it is.
    Directory { path: PathBuf },
}

/// One mount inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container; made when missing.
    pub target: String,
    /// What is mounted.
    pub kind: MountKind,
    /// Whether the container may only read it (recursively).
    #[serde(default)]
    pub readonly: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A path of the host, which must exist. A volume is one of these too.
    Bind {
        source: PathBuf,
        /// What of `source` is mounted, if not all: a relative path that may not lead out
        /// of it, whatever links are there.
        #[serde(default)]
        subpath: PathBuf,
        #[serde(default)]
        propagation: Propagation,
        /// Leave out the mounts below `source`.
        #[serde(default)]
        non_recursive: bool,
        /// If `source` is an empty directory, first fill it with what the image
        /// has at the target, ownership included (a new named volume).
        #[serde(default)]
        copy_up: bool,
        /// In a user namespace: files keep the container's ids on the disk (volumes).
        /// Without it they belong to the host's users, of which the container knows
        /// those in its map only.
        #[serde(default)]
        idmapped: bool,
        /// What else it may not.
        #[serde(default)]
        flags: BindFlags,
    },
    /// Memory. `options` is what follows the colon in `--tmpfs /x:size=64m,mode=1777`;
    /// docker's `noexec,nosuid,nodev` come first.
    Tmpfs {
        #[serde(default)]
        options: String,
    },
}

/// What a bind forbids besides writing, recursively.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindFlags {
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
}

/// How mounts travel between host and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    Private,
    #[default]
    Rprivate,
    Slave,
    Rslave,
    Shared,
    Rshared,
}

/// What `/dev/shm` is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shm {
    /// Its own, of this many bytes.
    Private { bytes: u64 },
    /// A directory of the host (`--ipc host`: `/dev/shm`).
    Path { path: PathBuf },
    /// That of another container, named by a process in it (`--ipc container:x`).
    OfProcess { pid: i32 },
    /// There is none (`--ipc none`).
    None,
}

impl Default for Shm {
    fn default() -> Self {
        Self::Private { bytes: 64 << 20 }
    }
}

/// One namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// A new one.
    #[default]
    New,
    /// The host's.
    Host,
    /// The one this path stands for (`/proc/PID/ns/net`, a bind mount of one).
    Join(PathBuf),
}

/// The namespaces of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    pub pid: Namespace,
    pub net: Namespace,
    pub ipc: Namespace,
    pub uts: Namespace,
    pub cgroup: Namespace,
}

/// The cgroup of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupConfig {
    /// Group above the container's, from the root of the hierarchy; `/skep` when
    /// empty. Made when missing.
    pub parent: String,
    /// What the container may use.
    pub limits: Limits,
}

/// Which system calls are allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// Docker's allow list, as the capabilities make it.
    #[default]
    Default,
    /// All.
    Unconfined,
    /// A profile in docker's JSON format.
    Profile(String),
}

/// A device of the host given to the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// On the host; a directory gives all devices below it.
    pub path_on_host: PathBuf,
    /// In the container; the same path when empty.
    #[serde(default)]
    pub path_in_container: String,
    /// Some of `r`, `w`, `m`; all when empty.
    #[serde(default)]
    pub permissions: String,
    /// Kind and numbers, instead of those of the host's node, which then need not exist.
    #[serde(default)]
    pub number: Option<NodeNumber>,
    /// Permission bits, instead of those of the host's node.
    #[serde(default)]
    pub mode: Option<u32>,
    /// Owner in the container, instead of that of the host's node.
    #[serde(default)]
    pub uid: Option<u32>,
    #[serde(default)]
    pub gid: Option<u32>,
}

/// What the kernel knows a device by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNumber {
    pub block: bool,
    pub major: u32,
    pub minor: u32,
}

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    pub driver: LogDriver,
    /// The log file; rotated ones are `<path>.1`, `.2`, … (newest first).
    #[serde(default)]
    pub path: PathBuf,
    /// Rotate once the file has this many bytes, as docker does; absent: never.
    #[serde(default)]
    pub max_size: Option<u64>,
    /// Files kept, the current one included; at least 1.
    #[serde(default = "one")]
    pub max_file: u32,
    /// Extra attributes of every entry (`labels`, `env`, `tag` options resolved).
    #[serde(default)]
    pub attrs: BTreeMap<String, String>,
    /// Who else keeps the log.
    #[serde(default)]
    pub remote: Option<RemoteConfig>,
}

fn one() -> u32 {
    1
}

/// How output is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Docker's `json-file`.
    JsonFile,
    /// Docker's `local`, kept in the same form as `json-file`.
    Local,
    /// Not kept.
    None,
}

/// A health check with docker's meaning. Times in nanoseconds, zero is docker's
/// default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `["NONE"]`, `["CMD", arg…]`, `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    /// Shell of `CMD-SHELL`; `/bin/sh -c` when empty.
    pub shell: Vec<String>,
    /// Time between checks; 30 s.
    pub interval_ns: u64,
    /// Time one check may take; 30 s.
    pub timeout_ns: u64,
    /// Failures in a row that make it unhealthy; 3.
    pub retries: u32,
    /// Time after start in which failures do not count; none.
    pub start_period_ns: u64,
    /// Time between checks in the start period; 5 s.
    pub start_interval_ns: u64,
}

/// A file whose bytes the engine gives at start and which never touches a disk.
///
/// It lives on a tmpfs of the container's mount namespace (nodev, nosuid, noexec,
/// read-only once filled) and is bind-mounted at its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectedFile {
    /// Names the bytes in the start command; unique in one container.
    pub name: String,
    /// Absolute path in the container, e.g. `/run/secrets/db`.
    pub target: String,
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
    /// Permission bits, e.g. `0o444`.
    pub mode: u32,
}

/// A variable whose value the engine gives at start and which never touches a disk.
///
/// The shim keeps it in its own memory for as long as the container runs: execs and health
/// checks get it as well, whatever became of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectedVariable {
    /// Names the bytes in the start command; unique in one container, files included.
    pub name: String,
    /// What programs know it by.
    pub variable: String,
}

impl ShimConfig {
    /// A container with docker's defaults: all namespaces new, default
    /// capabilities, seccomp profile and masked paths, no limits, no log, `/` as
    /// working directory, root as user.
    pub fn new(id: impl Into<String>, rootfs: Rootfs, paths: Paths) -> Self {
        Self {
            id: id.into(),
            process: Process {
                cwd: "/".into(),
                capabilities: crate::capabilities::DEFAULT
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect(),
                ..Process::default()
            },
            rootfs,
            hostname: String::new(),
            domainname: String::new(),
            mounts: Vec::new(),
            shm: Shm::default(),
            namespaces: Namespaces::default(),
            user_namespace: None,
            cgroup: CgroupConfig::default(),
            seccomp: Seccomp::Default,
            masked_paths: profile::masked_paths(),
            readonly_paths: profile::readonly_paths(),
            sysctls: BTreeMap::new(),
            devices: Vec::new(),
            device_cgroup_rules: Vec::new(),
            privileged: false,
            log: LogConfig {
                driver: LogDriver::None,
                path: PathBuf::new(),
                max_size: None,
                max_file: 1,
                attrs: BTreeMap::new(),
                remote: None,
            },
            health: None,
            dns: None,
            init: false,
            injected: Vec::new(),
            variables: Vec::new(),
            stop_signal: default_stop_signal(),
            paths,
        }
    }

    /// Leaves the ids of the files mounted at this place as they are on the host.
    pub fn bind_as_it_is(&mut self, target: &str) {
        let mounts = self.mounts.iter_mut();
        for mount in mounts.filter(|mount| mount.target == target) {
            if let MountKind::Bind { idmapped, .. } = &mut mount.kind {
                *idmapped = false;
            }
        }
    }

    /// Writes the configuration, replacing what was there in one step. Mode 0600.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        write_atomically(path, &text)
    }

    /// Reads what [`ShimConfig::write`] wrote.
    ///
    /// # Errors
    /// The file is missing, too large ([`CONFIG_BYTES_MAX`]) or not a configuration.
    pub fn read(path: &Path) -> io::Result<Self> {
        let length = fs::metadata(path)?.len();
        if length > CONFIG_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("configuration of {length} bytes is larger than {CONFIG_BYTES_MAX}"),
            ));
        }
        serde_json::from_slice(&fs::read(path)?)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The cgroup of this container, from the root of the hierarchy.
    pub fn cgroup_path(&self) -> String {
        let parent = match self.cgroup.parent.trim_matches('/') {
            "" => "skep",
            parent => parent,
        };
        format!("/{parent}/{}", self.id)
    }
}

/// Writes a file under a temporary name and renames it over `path`; after a crash
/// there is the old file or the new one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path) -> ShimConfig {
        ShimConfig::new(
            "c1",
            Rootfs {
                source: RootSource::Directory {
                    path: directory.join("root"),
                },
                merged: directory.join("merged"),
                readonly: false,
            },
            Paths::in_directory(directory),
        )
    }

    #[test]
    fn what_is_written_is_read_back_and_only_root_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let config = config(directory.path());
        config.write(&path).unwrap();
        assert_eq!(ShimConfig::read(&path).unwrap(), config);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn damage_is_an_error_that_says_where() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, "{\"id\": 3}").unwrap();
        let error = ShimConfig::read(&path).unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
    }

    #[test]
    fn the_cgroup_is_below_its_parent() {
        let mut config = config(Path::new("/c"));
        assert_eq!(config.cgroup_path(), "/skep/c1");
        config.cgroup.parent = "/docker/".into();
        assert_eq!(config.cgroup_path(), "/docker/c1");
    }
}
