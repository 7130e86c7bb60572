//! How an engine is set up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use skep_shim::userns::IdMap;

use crate::types::{LogConfig, Ulimit};

/// Everything the engine is told once, at [`crate::Engine::open`].
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Images, layers, container records, logs and volumes. May be moved while
    /// the engine is closed and no container runs.
    pub data_root: PathBuf,
    /// Sockets and other state that does not outlive a boot.
    pub exec_root: PathBuf,
    /// Cgroup under which containers get theirs, absolute (`/skep`).
    pub cgroup_parent: String,
    /// Log driver and options of containers that name none.
    pub default_log: LogConfig,
    /// Where subnets of new networks are cut from.
    pub address_pools: Vec<AddressPool>,
    /// Address and subnet of the default bridge; `None` takes one from the pools.
    pub bridge_address: Option<IpNet>,
    /// How registries are spoken to.
    pub registries: RegistryConfig,
    /// The daemon's labels, shown by `info`.
    pub labels: Vec<String>,
    /// Resolvers, search list and options of containers that name none; empty
    /// takes the host's.
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// Limits of containers that set none.
    pub default_ulimits: Vec<Ulimit>,
    /// Bytes of /dev/shm of containers that name no size.
    pub default_shm_bytes: i64,
    /// Runs an init process in containers that do not say.
    pub init: bool,
    /// Ids of the host that containers' users are, unless a container says otherwise;
    /// see [`crate::userns::remap`].
    pub userns_remap: Option<IdMap>,
    /// Where vendors describe devices; a later directory overrides an earlier one.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// What a registry and `hello` are told we are.
    pub version: String,
}

/// A range that network subnets are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    pub base: IpNet,
    /// Prefix length of each subnet.
    pub size: u8,
}

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Tried in order before docker.io, as `https://host[:port]` or `http://…`.
    pub mirrors: Vec<String>,
    /// `host[:port]` or CIDR: may be spoken to in plain HTTP or without a valid
    /// certificate. Loopback addresses always may.
    pub insecure: Vec<String>,
    /// Directory of `<host[:port]>/*.crt` authorities.
    pub certificates: PathBuf,
    /// Layers fetched at the same time, per pull.
    pub downloads_max: usize,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            insecure: Vec::new(),
            certificates: "/etc/docker/certs.d".into(),
            downloads_max: 3,
        }
    }
}

impl EngineConfig {
    /// dockerd's defaults below these two directories.
    pub fn new(data_root: impl Into<PathBuf>, exec_root: impl Into<PathBuf>) -> Self {
        Self {
            data_root: data_root.into(),
            exec_root: exec_root.into(),
            cgroup_parent: "/skep".into(),
            default_log: LogConfig {
                kind: "json-file".into(),
                config: BTreeMap::new(),
            },
            address_pools: default_pools(),
            bridge_address: None,
            registries: RegistryConfig::default(),
            labels: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            default_ulimits: Vec::new(),
            default_shm_bytes: 64 << 20,
            init: false,
            userns_remap: None,
            cdi_spec_dirs: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).to_vec(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// dockerd's own local pools: 172.17 to 172.31 by /16, 192.168 by /20.
fn default_pools() -> Vec<AddressPool> {
    let parse = |text: &str| -> IpNet { text.parse().expect("written as a network") };
    let mut pools: Vec<AddressPool> = (17..=31)
        .map(|second| AddressPool {
            base: parse(&format!("172.{second}.0.0/16")),
            size: 16,
        })
        .collect();
    pools.push(AddressPool {
        base: parse("192.168.0.0/16"),
        size: 20,
    });
    pools
}
