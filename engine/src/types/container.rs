//! What a container is asked to be: the body of `POST /containers/create`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::host::{HostConfig, RestartPolicy};
use super::network::EndpointSettings;
use super::{DeviceMapping, HealthConfig, ThrottleDevice, Ulimit, WeightDevice};
use super::{is_default, null_if_empty};

docker_json! {
    /// The value of Go's `map[string]struct{}`.
    #[derive(Eq, Copy)]
    pub struct Empty {}

    /// A container's own configuration, and, in a create body, the host's part
    /// of it. `inspect` shows it without `HostConfig` and `NetworkingConfig`.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerConfig {
        pub hostname: String,
        pub domainname: String,
        pub user: String,
        pub attach_stdin: bool,
        pub attach_stdout: bool,
        pub attach_stderr: bool,
        /// `80/tcp` and so on.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub exposed_ports: BTreeMap<String, Empty>,
        pub tty: bool,
        pub open_stdin: bool,
        /// Close stdin when the first attached client goes.
        pub stdin_once: bool,
        /// `NAME=value`, or `NAME` to take a variable of the image away.
        #[serde(serialize_with = "null_if_empty")]
        pub env: Vec<String>,
        /// `None` takes the image's.
        pub cmd: Option<StrSlice>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub healthcheck: Option<HealthConfig>,
        #[serde(skip_serializing_if = "is_default")]
        pub args_escaped: bool,
        /// The image as the user named it.
        pub image: String,
        /// Paths that get an anonymous volume.
        pub volumes: Option<BTreeMap<String, Empty>>,
        pub working_dir: String,
        /// `None` takes the image's; an empty list means none.
        pub entrypoint: Option<StrSlice>,
        #[serde(skip_serializing_if = "is_default")]
        pub network_disabled: bool,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub mac_address: String,
        pub on_build: Option<Vec<String>>,
        pub labels: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub stop_signal: String,
        /// Seconds between the stop signal and the kill; negative waits for ever.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub stop_timeout: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub shell: Option<Vec<String>>,
        /// Create bodies only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub host_config: Option<HostConfig>,
        /// Create bodies only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub networking_config: Option<NetworkingConfig>,
    }

    /// The networks a new container joins, by name or id.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkingConfig {
        pub endpoints_config: BTreeMap<String, Option<EndpointSettings>>,
    }

    /// Answer to create.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerCreated {
        pub id: String,
        pub warnings: Vec<String>,
    }

    /// Body of `POST /containers/{id}/update`: zero and absent mean unchanged.
    #[serde(rename_all = "PascalCase")]
    pub struct UpdateConfig {
        pub cpu_shares: i64,
        pub memory: i64,
        pub blkio_weight: u16,
        pub blkio_weight_device: Vec<WeightDevice>,
        pub blkio_device_read_bps: Vec<ThrottleDevice>,
        pub blkio_device_write_bps: Vec<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        pub blkio_device_read_iops: Vec<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        pub blkio_device_write_iops: Vec<ThrottleDevice>,
        pub cpu_period: i64,
        pub cpu_quota: i64,
        pub cpu_realtime_period: i64,
        pub cpu_realtime_runtime: i64,
        pub cpuset_cpus: String,
        pub cpuset_mems: String,
        pub devices: Vec<DeviceMapping>,
        pub memory_reservation: i64,
        pub memory_swap: i64,
        pub nano_cpus: i64,
        pub pids_limit: Option<i64>,
        pub ulimits: Vec<Ulimit>,
        pub restart_policy: Option<RestartPolicy>,
    }
}

/// A command line: the API takes a list, or one string for a list of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct StrSlice(pub Vec<String>);

impl<'de> Deserialize<'de> for StrSlice {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a string or a list of strings")]
        enum Given {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match Given::deserialize(input)? {
            Given::One(word) => vec![word],
            Given::Many(words) => words,
        }))
    }
}

impl From<Vec<String>> for StrSlice {
    fn from(words: Vec<String>) -> Self {
        Self(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_go_clients_nulls_are_defaults_and_a_string_is_a_command() {
        let body = r#"{"Hostname":"","Env":null,"Cmd":"date","Entrypoint":null,"Volumes":{},
            "OnBuild":null,"Labels":null,"Nonsense":1,
            "HostConfig":{"Binds":null,"Memory":5,"ConsoleSize":[0,0],"PidsLimit":null},
            "NetworkingConfig":{"EndpointsConfig":{"x":null}}}"#;
        let config: ContainerConfig = serde_json::from_str(body).unwrap();
        assert_eq!(config.cmd, Some(StrSlice(vec!["date".into()])));
        assert_eq!(config.entrypoint, None);
        assert_eq!(config.host_config.unwrap().memory, 5);
    }

    #[test]
    fn lists_are_shown_as_they_were_given() {
        let check = |given: &str, shown: serde_json::Value| {
            let host: HostConfig = serde_json::from_str(given).unwrap();
            assert!(host.dns.is_empty());
            assert_eq!(
                serde_json::to_value(&host).unwrap()["Dns"],
                shown,
                "{given}"
            );
        };
        check("{}", serde_json::Value::Null);
        check(r#"{"Dns":null}"#, serde_json::Value::Null);
        check(r#"{"Dns":[]}"#, serde_json::json!([]));
    }

    #[test]
    fn an_empty_entrypoint_is_not_an_absent_one() {
        let config: ContainerConfig = serde_json::from_str(r#"{"Entrypoint":[]}"#).unwrap();
        assert_eq!(config.entrypoint, Some(StrSlice(vec![])));
    }
}
