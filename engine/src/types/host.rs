//! The host's side of a container's configuration.

use std::collections::BTreeMap;

use super::is_default;
use super::{List, Mount, Ulimit};

/// `80/tcp` → where it is published; `None` for exposed only.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

docker_json! {
    /// Docker's `HostConfig`, resources included.
    #[serde(rename_all = "PascalCase")]
    pub struct HostConfig {
        /// `source:target[:options]`.
        pub binds: Option<Vec<String>>,
        #[serde(rename = "ContainerIDFile")]
        pub container_id_file: String,
        pub log_config: LogConfig,
        pub network_mode: String,
        pub port_bindings: PortMap,
        pub restart_policy: RestartPolicy,
        pub auto_remove: bool,
        pub volume_driver: String,
        pub volumes_from: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub mounts: Vec<Mount>,
        /// Height and width of the terminal.
        pub console_size: (u32, u32),
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub annotations: BTreeMap<String, String>,
        pub cap_add: Option<Vec<String>>,
        pub cap_drop: Option<Vec<String>>,
        pub cgroupns_mode: String,
        pub dns: List<String>,
        pub dns_options: List<String>,
        pub dns_search: List<String>,
        pub extra_hosts: Option<Vec<String>>,
        pub group_add: Option<Vec<String>>,
        pub ipc_mode: String,
        pub cgroup: String,
        pub links: Option<Vec<String>>,
        pub oom_score_adj: i64,
        pub pid_mode: String,
        pub privileged: bool,
        pub publish_all_ports: bool,
        pub readonly_rootfs: bool,
        pub security_opt: Option<Vec<String>>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub storage_opt: BTreeMap<String, String>,
        /// Path → mount options.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub tmpfs: BTreeMap<String, String>,
        #[serde(rename = "UTSMode")]
        pub uts_mode: String,
        pub userns_mode: String,
        /// Bytes; 0 is the default of 64 MiB.
        pub shm_size: i64,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub sysctls: BTreeMap<String, String>,
        pub runtime: String,
        pub isolation: String,

        pub cpu_shares: i64,
        /// Bytes; 0 is unlimited.
        pub memory: i64,
        pub nano_cpus: i64,
        pub cgroup_parent: String,
        pub blkio_weight: u16,
        pub blkio_weight_device: List<WeightDevice>,
        pub blkio_device_read_bps: List<ThrottleDevice>,
        pub blkio_device_write_bps: List<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        pub blkio_device_read_iops: List<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        pub blkio_device_write_iops: List<ThrottleDevice>,
        /// Microseconds.
        pub cpu_period: i64,
        /// Microseconds per period.
        pub cpu_quota: i64,
        pub cpu_realtime_period: i64,
        pub cpu_realtime_runtime: i64,
        pub cpuset_cpus: String,
        pub cpuset_mems: String,
        pub devices: List<DeviceMapping>,
        pub device_cgroup_rules: Option<Vec<String>>,
        pub device_requests: Option<Vec<DeviceRequest>>,
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_default")]
        pub kernel_memory_tcp: i64,
        pub memory_reservation: i64,
        /// Memory and swap together; -1 is unlimited swap.
        pub memory_swap: i64,
        pub memory_swappiness: Option<i64>,
        pub oom_kill_disable: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub init: Option<bool>,
        pub pids_limit: Option<i64>,
        pub ulimits: List<Ulimit>,
        pub cpu_count: i64,
        pub cpu_percent: i64,
        #[serde(rename = "IOMaximumIOps")]
        pub io_maximum_iops: u64,
        #[serde(rename = "IOMaximumBandwidth")]
        pub io_maximum_bandwidth: u64,
        /// `None` is the default set, an empty list none.
        pub masked_paths: Option<Vec<String>>,
        /// `None` is the default set, an empty list none.
        pub readonly_paths: Option<Vec<String>>,
    }

    /// One host address and port (or range) a port is published on.
    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct PortBinding {
        pub host_ip: String,
        pub host_port: String,
    }

    /// When a stopped container is started again.
    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct RestartPolicy {
        /// `no`, `always`, `unless-stopped`, `on-failure`; empty is `no`.
        pub name: String,
        /// For `on-failure`; 0 is no limit.
        pub maximum_retry_count: i64,
    }

    /// The log driver and its options; an empty type takes the daemon's.
    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct LogConfig {
        #[serde(rename = "Type")]
        pub kind: String,
        pub config: BTreeMap<String, String>,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct DeviceMapping {
        pub path_on_host: String,
        pub path_in_container: String,
        pub cgroup_permissions: String,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct DeviceRequest {
        pub driver: String,
        pub count: i64,
        #[serde(rename = "DeviceIDs")]
        pub device_ids: Vec<String>,
        pub capabilities: Vec<Vec<String>>,
        pub options: BTreeMap<String, String>,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct ThrottleDevice {
        pub path: String,
        pub rate: u64,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct WeightDevice {
        pub path: String,
        pub weight: u16,
    }
}
