//! What a container is now: `inspect`, `ps`, `top`, `diff`, `wait`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skep_model::Timestamp;

use super::ContainerConfig;
use super::host::{HostConfig, PortMap};
use super::image::DriverData;
use super::network::EndpointSettings;

docker_json! {
    /// `GET /containers/{id}/json`.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerInspect {
        pub id: String,
        pub created: Timestamp,
        pub path: String,
        pub args: Vec<String>,
        pub state: ContainerState,
        /// Image id.
        pub image: String,
        pub resolv_conf_path: String,
        pub hostname_path: String,
        pub hosts_path: String,
        pub log_path: String,
        /// With a leading slash.
        pub name: String,
        pub restart_count: i64,
        pub driver: String,
        pub platform: String,
        pub mount_label: String,
        pub process_label: String,
        pub app_armor_profile: String,
        #[serde(rename = "ExecIDs")]
        pub exec_ids: Option<Vec<String>>,
        pub host_config: HostConfig,
        pub graph_driver: DriverData,
        /// Bytes the container wrote; only when sizes were asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_rw: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_root_fs: Option<i64>,
        pub mounts: Vec<MountPoint>,
        pub config: ContainerConfig,
        pub network_settings: NetworkSettings,
    }

    #[serde(rename_all = "PascalCase")]
    pub struct ContainerState {
        /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
        pub status: String,
        pub running: bool,
        pub paused: bool,
        pub restarting: bool,
        #[serde(rename = "OOMKilled")]
        pub oom_killed: bool,
        pub dead: bool,
        pub pid: i64,
        pub exit_code: i64,
        pub error: String,
        pub started_at: Timestamp,
        pub finished_at: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub health: Option<Health>,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct Health {
        /// `none`, `starting`, `healthy`, `unhealthy`.
        pub status: String,
        pub failing_streak: i64,
        /// The last five results, oldest first.
        pub log: Vec<HealthResult>,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct HealthResult {
        pub start: Timestamp,
        pub end: Timestamp,
        pub exit_code: i64,
        pub output: String,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct MountPoint {
        #[serde(rename = "Type")]
        pub kind: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub name: String,
        pub source: String,
        pub destination: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub driver: String,
        pub mode: String,
        #[serde(rename = "RW")]
        pub rw: bool,
        pub propagation: String,
    }

    #[serde(rename_all = "PascalCase")]
    pub struct NetworkSettings {
        pub bridge: String,
        #[serde(rename = "SandboxID")]
        pub sandbox_id: String,
        pub sandbox_key: String,
        pub ports: PortMap,
        pub hairpin_mode: bool,
        #[serde(rename = "LinkLocalIPv6Address")]
        pub link_local_ipv6_address: String,
        #[serde(rename = "LinkLocalIPv6PrefixLen")]
        pub link_local_ipv6_prefix_len: i64,
        #[serde(rename = "SecondaryIPAddresses")]
        pub secondary_ip_addresses: Option<Vec<String>>,
        #[serde(rename = "SecondaryIPv6Addresses")]
        pub secondary_ipv6_addresses: Option<Vec<String>>,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        pub global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        pub global_ipv6_prefix_len: i64,
        #[serde(rename = "IPAddress")]
        pub ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        pub ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        pub ipv6_gateway: String,
        pub mac_address: String,
        pub networks: BTreeMap<String, EndpointSettings>,
    }

    /// One line of `GET /containers/json`.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerSummary {
        pub id: String,
        pub names: Vec<String>,
        pub image: String,
        #[serde(rename = "ImageID")]
        pub image_id: String,
        pub command: String,
        /// Unix seconds.
        pub created: i64,
        pub ports: Vec<Port>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_rw: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_root_fs: Option<i64>,
        pub labels: BTreeMap<String, String>,
        pub state: String,
        /// `Up 3 minutes (healthy)` and so on.
        pub status: String,
        pub host_config: SummaryHostConfig,
        pub network_settings: SummaryNetworks,
        pub mounts: Vec<MountPoint>,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct SummaryHostConfig {
        pub network_mode: String,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub annotations: BTreeMap<String, String>,
    }

    #[serde(rename_all = "PascalCase")]
    pub struct SummaryNetworks {
        pub networks: BTreeMap<String, EndpointSettings>,
    }

    #[derive(Eq, PartialOrd, Ord)]
    #[serde(rename_all = "PascalCase")]
    pub struct Port {
        #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
        pub ip: String,
        pub private_port: u16,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub public_port: Option<u16>,
        #[serde(rename = "Type")]
        pub kind: String,
    }

    /// `GET /containers/{id}/top`.
    #[serde(rename_all = "PascalCase")]
    pub struct Top {
        pub titles: Vec<String>,
        pub processes: Vec<Vec<String>>,
    }

    /// One entry of `GET /containers/{id}/changes`.
    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct Change {
        pub path: String,
        /// 0 modified, 1 added, 2 deleted.
        pub kind: u8,
    }

    #[serde(rename_all = "PascalCase")]
    pub struct WaitResponse {
        pub status_code: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub error: Option<WaitError>,
    }

    #[serde(rename_all = "PascalCase")]
    pub struct WaitError {
        pub message: String,
    }
}

/// What `X-Docker-Container-Path-Stat` carries (base64 of this JSON).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    pub name: String,
    pub size: i64,
    /// Go's `os.FileMode` bits.
    pub mode: u32,
    pub mtime: Timestamp,
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}
