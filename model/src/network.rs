//! Networks that span the cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::mount::Driver;
use crate::serde_help::{is_zero, null_default};
use crate::{NetworkId, Timestamp, Version};

/// Options by which users of Docker's overlay and bridge drivers ask for an MTU.
const MTU_OPTIONS: [&str; 2] = ["com.docker.network.driver.mtu", "com.docker.network.mtu"];

/// What a user asks of a cluster network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSpec {
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(
        rename = "DriverConfiguration",
        skip_serializing_if = "Option::is_none"
    )]
    pub driver: Option<Driver>,
    #[serde(
        rename = "IPv6Enabled",
        skip_serializing_if = "is_zero",
        deserialize_with = "null_default"
    )]
    pub ipv6_enabled: bool,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub internal: bool,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub attachable: bool,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub ingress: bool,
    #[serde(rename = "IPAMOptions", skip_serializing_if = "Option::is_none")]
    pub ipam: Option<IpamOptions>,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub scope: String,
}

impl NetworkSpec {
    /// The MTU that the driver's options ask for.
    pub fn mtu(&self) -> Result<Option<u32>, String> {
        let options = self.driver.iter().flat_map(|driver| &driver.options);
        let mut asked = options.filter(|(key, _)| MTU_OPTIONS.contains(&key.as_str()));
        let Some((key, text)) = asked.next() else {
            return Ok(None);
        };
        // IPv6 asks more of a link (RFC 8200) than IPv4 (RFC 791).
        let least = if self.ipv6_enabled { 1280 } else { 68 };
        let mtu = text
            .parse()
            .ok()
            .filter(|mtu| (least..=65_535).contains(mtu));
        match mtu {
            Some(mtu) => Ok(Some(mtu)),
            None => Err(format!(
                "invalid value {text:?} for option {key}: must be a number from {least} to 65535"
            )),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    #[serde(deserialize_with = "null_default")]
    pub configs: Vec<IpamConfig>,
}

/// One address range of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<IpNet>,
    /// Addresses are taken from this part of the subnet.
    #[serde(rename = "Range", skip_serializing_if = "Option::is_none")]
    pub range: Option<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A network as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Network {
    #[serde(rename = "ID")]
    pub id: NetworkId,
    pub version: Version,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: NetworkSpec,
    /// Allocated ranges, gateways filled in; empty until the allocator has seen the network.
    #[serde(rename = "IPAM", deserialize_with = "null_default")]
    pub ipam: Vec<IpamConfig>,
    /// VXLAN network id; 0 until allocated.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub vni: u32,
    /// MTU of the tasks' interfaces; 0 until allocated.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub mtu: u32,
    /// Why the network cannot be allocated yet; empty when nothing is wrong.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub waits_for: String,
}

impl Network {
    /// Whether the allocator has given the network its addresses and id.
    pub fn is_allocated(&self) -> bool {
        self.vni != 0 && !self.ipam.is_empty()
    }

    /// The driver's name; `overlay` when none was given.
    pub fn driver_name(&self) -> &str {
        self.spec
            .driver
            .as_ref()
            .map_or("overlay", |driver| match driver.name.as_str() {
                "" => "overlay",
                name => name,
            })
    }
}
