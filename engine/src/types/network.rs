//! Networks of one host and a container's place on them.

use std::collections::BTreeMap;

use skep_model::Timestamp;

use super::is_default;

docker_json! {
    /// A container's connection to one network.
    #[serde(rename_all = "PascalCase")]
    pub struct EndpointSettings {
        #[serde(rename = "IPAMConfig")]
        pub ipam_config: Option<EndpointIpam>,
        pub links: Option<Vec<String>>,
        pub aliases: Option<Vec<String>>,
        pub mac_address: String,
        pub driver_opts: Option<BTreeMap<String, String>>,
        /// The highest priority gives the default route.
        pub gw_priority: i64,
        #[serde(rename = "NetworkID")]
        pub network_id: String,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub gateway: String,
        #[serde(rename = "IPAddress")]
        pub ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        pub ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        pub ipv6_gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        pub global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        pub global_ipv6_prefix_len: i64,
        #[serde(rename = "DNSNames")]
        pub dns_names: Option<Vec<String>>,
    }

    /// Addresses a user asks for.
    #[derive(Eq)]
    pub struct EndpointIpam {
        #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty")]
        pub ipv4_address: String,
        #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty")]
        pub ipv6_address: String,
        #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Vec::is_empty")]
        pub link_local_ips: Vec<String>,
    }

    /// Address management of a network.
    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct Ipam {
        pub driver: String,
        pub options: Option<BTreeMap<String, String>>,
        pub config: Vec<IpamConfig>,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct IpamConfig {
        #[serde(skip_serializing_if = "String::is_empty")]
        pub subnet: String,
        #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty")]
        pub ip_range: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub gateway: String,
        /// Names of addresses that are never given out.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub auxiliary_addresses: BTreeMap<String, String>,
    }

    /// Body of `POST /networks/create`.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkCreate {
        pub name: String,
        pub driver: String,
        pub scope: String,
        pub internal: bool,
        pub attachable: bool,
        pub ingress: bool,
        pub config_only: bool,
        pub config_from: ConfigReference,
        #[serde(rename = "IPAM")]
        pub ipam: Option<Ipam>,
        #[serde(rename = "EnableIPv4")]
        pub enable_ipv4: Option<bool>,
        #[serde(rename = "EnableIPv6")]
        pub enable_ipv6: Option<bool>,
        pub options: BTreeMap<String, String>,
        pub labels: BTreeMap<String, String>,
    }

    /// A network as `GET /networks/{id}` shows it.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkInspect {
        pub name: String,
        pub id: String,
        pub created: Timestamp,
        /// `local` here, always.
        pub scope: String,
        pub driver: String,
        #[serde(rename = "EnableIPv4")]
        pub enable_ipv4: bool,
        #[serde(rename = "EnableIPv6")]
        pub enable_ipv6: bool,
        #[serde(rename = "IPAM")]
        pub ipam: Ipam,
        pub internal: bool,
        pub attachable: bool,
        pub ingress: bool,
        pub config_from: ConfigReference,
        pub config_only: bool,
        /// Container id → its endpoint. Empty in lists.
        #[serde(skip_serializing_if = "is_default")]
        pub containers: Option<BTreeMap<String, NetworkContainer>>,
        pub options: BTreeMap<String, String>,
        pub labels: BTreeMap<String, String>,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct ConfigReference {
        pub network: String,
    }

    /// A container on a network.
    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkContainer {
        pub name: String,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub mac_address: String,
        /// With prefix length.
        #[serde(rename = "IPv4Address")]
        pub ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        pub ipv6_address: String,
    }
}
