//! What this node says of itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use skep_model::encryption::{EncryptionMethod as Method, NodeEncryption};
use skep_model::node::{EngineDescription, NodeDescription, PluginDescription};
use skep_model::placement::Platform;
use skep_model::resources::Resources;
use skep_model::{MemoryBytes, NanoCpus};
use skep_net::{EncryptionMethod, Host};
use skep_pki::Identity;

use super::Surroundings;

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
    let told =
        tokio::task::spawn_blocking(move || (host.mtu_of(data_path), encryption(&host))).await;
    let (mtu, encryption) = match told {
        Ok((mtu, encryption)) => (mtu.unwrap_or(0), encryption),
        Err(_) => Default::default(),
    };
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
        addresses: addresses(around).await,
        network_problems: Vec::new(),
        data_path_mtu: mtu,
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

/// This node's addresses, apart from those that the data plane itself has put there.
async fn addresses(around: &Arc<Surroundings>) -> Vec<IpAddr> {
    let host = Arc::clone(&around.host);
    let found = tokio::task::spawn_blocking(move || host.addresses()).await;
    let found = found.ok().and_then(Result::ok).unwrap_or_default();
    let of_ours = |name: &str| ["gw-", "sk-"].iter().any(|ours| name.starts_with(ours));
    let mut addresses: Vec<IpAddr> = found
        .into_iter()
        .filter(|(name, _)| !of_ours(name))
        .map(|(_, net)| net.addr())
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    addresses
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
