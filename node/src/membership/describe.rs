//! What this node says of itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use skep_model::encryption::{EncryptionMethod as Method, NodeEncryption};
use skep_model::node::{EngineDescription, NodeDescription, PluginDescription};
use skep_model::placement::Platform;
use skep_model::resources::Resources;
use skep_model::{MemoryBytes, NanoCpus};
use skep_net::{EncryptionMethod, Host};
use skep_pki::Identity;

use super::{Surroundings, address};

/// Addresses that are told of one node: every other node keeps them.
const ADDRESSES_MAX: usize = 64;

/// The description of a node that has its certificate.
pub async fn node(
    around: &Arc<Surroundings>,
    identity: &Identity,
    data_path: IpAddr,
) -> NodeDescription {
    let mut description = without_identity(around, data_path).await;
    description.tls_info = identity.tls_info();
    description
}

/// The description of a node that has no certificate yet.
pub async fn without_identity(around: &Arc<Surroundings>, data_path: IpAddr) -> NodeDescription {
    let host = Arc::clone(&around.host);
    // The device that carries the address, not the way to it: that would be the loopback.
    let look = move || {
        let own = address::without_mtu(host.outer_addresses().unwrap_or_default());
        let mtu = host.mtu_of(data_path).unwrap_or(0);
        (mtu, encryption(&host), told(&own))
    };
    let looked = tokio::task::spawn_blocking(look).await;
    let (mtu, encryption, addresses) = looked.unwrap_or_default();
    let info = around.engine.info();
    let plugins = |kind: &str, names: &[String]| -> Vec<PluginDescription> {
        names
            .iter()
            .map(|name| PluginDescription {
                kind: kind.to_owned(),
                name: name.clone(),
            })
            .collect()
    };
    let mut offered = plugins("Log", &info.log_drivers);
    offered.extend(plugins("Network", &info.network_drivers));
    offered.extend(plugins("Volume", &info.volume_drivers));
    let labels: BTreeMap<String, String> = around
        .labels
        .iter()
        .map(|label| {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            (key.to_owned(), value.to_owned())
        })
        .collect();
    NodeDescription {
        hostname: around.hostname.clone(),
        platform: Platform {
            architecture: std::env::consts::ARCH.to_owned(),
            os: std::env::consts::OS.to_owned(),
        },
        resources: Resources {
            nano_cpus: NanoCpus(processors() * 1_000_000_000),
            memory_bytes: MemoryBytes(memory_bytes()),
            generic_resources: around.generic_resources.clone(),
        },
        engine: EngineDescription {
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            labels,
            plugins: offered,
        },
        tls_info: Default::default(),
        data_path_addr: Some(data_path),
        addresses,
        network_problems: Vec::new(),
        data_path_mtu: mtu,
        holds_leases: true,
        takes_registry_logins: true,
        knows_variables: true,
        asks_stores: true,
        encryption,
    }
}

/// How this node encrypts what it sends to others. It has keys only once a network needs them.
fn encryption(host: &Host) -> NodeEncryption {
    let (method, reason) = match host.encryption_method() {
        Ok(EncryptionMethod::Kernel) => (Method::Kernel, String::new()),
        Ok(EncryptionMethod::Userspace) => (Method::Userspace, String::new()),
        Err(why) => (Method::None, why),
    };
    NodeEncryption {
        method,
        reason,
        keys: Vec::new(),
    }
}

/// Which of this host's addresses are told.
pub fn told(own: &[(String, IpNet)]) -> Vec<IpAddr> {
    let outer = own.iter().filter(|(name, _)| !is_of_dockerd(name));
    let mut addresses: Vec<IpAddr> = outer.map(|(_, net)| net.addr()).collect();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

/// Whether a bridge is one of a dockerd on this host: they have the same addresses on every host, and
/// nobody outside sees them.
fn is_of_dockerd(interface: &str) -> bool {
    let is_id = |id: &str| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(interface, "docker0" | "docker_gwbridge")
        || interface.strip_prefix("br-").is_some_and(is_id)
}

fn processors() -> i64 {
    std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1))
}

/// Total memory as the kernel reports it, in bytes.
fn memory_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: i64 = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    kib * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_once_and_not_those_of_a_dockerd() {
        let own: Vec<(String, IpNet)> = [
            ("eth0", "192.0.2.9/24"),
            ("eth0", "192.0.2.1/24"),
            ("eth1", "192.0.2.1/32"),
            ("br-lan", "198.51.100.1/24"),
            ("br-0123456789ab", "172.19.0.1/16"),
            ("docker0", "172.17.0.1/16"),
            ("docker_gwbridge", "172.18.0.1/16"),
        ]
        .map(|(name, net)| (name.to_owned(), net.parse().unwrap()))
        .into();
        let told: Vec<String> = told(&own).iter().map(IpAddr::to_string).collect();
        assert_eq!(told, ["192.0.2.1", "192.0.2.9", "198.51.100.1"]);
        let many: Vec<(String, IpNet)> = (0..=u8::MAX)
            .map(|last| {
                (
                    "eth0".to_owned(),
                    IpNet::from(IpAddr::from([192, 0, 2, last])),
                )
            })
            .collect();
        assert_eq!(super::told(&many).len(), ADDRESSES_MAX);
    }
}
