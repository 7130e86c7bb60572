//! `GET /info`: everything about this daemon and its host on one page.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use serde_json::{Value, json};
use skep_model::expiry::Stage;
use skep_model::{Nanos, Node, NodeRole, Timestamp};
use skep_store::Snapshot;

use crate::cluster::LocalCluster;
use crate::host::Host;
use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};
use crate::swarm::ClusterInfo;
use crate::version::ApiVersion;

/// May always be spoken to in the clear.
const LOOPBACK: [&str; 2] = ["::1/128", "127.0.0.0/8"];

/// `GET /info`
pub(crate) async fn info(call: Call) -> Outcome {
    // It reads files.
    let engine = Arc::clone(call.engine());
    let engine = tokio::task::spawn_blocking(move || engine.info())
        .await
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let host = Host::read();
    let about = &call.state.about;
    let (swarm, mut warnings) = swarm(&call).await;
    warnings.splice(0..0, engine.warnings.iter().cloned());
    warnings.splice(0..0, about.warnings.iter().cloned());
    if !host.forwards_ipv4 {
        warnings.push("WARNING: IPv4 forwarding is disabled".to_owned());
    }
    let mirrors: Vec<&String> = engine.mirrors.iter().collect();
    let cidrs: Vec<&str> = engine
        .insecure_registries
        .iter()
        .map(String::as_str)
        .filter(|entry| entry.contains('/') && !LOOPBACK.contains(entry))
        .chain(LOOPBACK)
        .collect();
    let mut indexes = serde_json::Map::new();
    indexes.insert(
        "docker.io".to_owned(),
        json!({ "Name": "docker.io", "Mirrors": mirrors, "Secure": true, "Official": true }),
    );
    for registry in engine
        .insecure_registries
        .iter()
        .filter(|entry| !entry.contains('/'))
    {
        indexes.insert(
            registry.clone(),
            json!({ "Name": registry, "Mirrors": [], "Secure": false, "Official": false }),
        );
    }
    let driver_status: Vec<[&String; 2]> = engine
        .driver_status
        .iter()
        .map(|(key, value)| [key, value])
        .collect();
    let name = match about.node_name.as_str() {
        "" => host.name.as_str(),
        given => given,
    };
    // Under both names: clients ask for `runc`, and inspecting a container shows what they asked for.
    let runtime = json!({ "runc": { "path": "skep" }, "skep": { "path": "skep" } });
    let devices: Vec<Value> = engine
        .cdi_devices
        .iter()
        .map(|id| json!({ "Source": "cdi", "ID": id }))
        .collect();
    let mut page = json!({
        "ID": about.daemon_id,
        "Containers": engine.containers,
        "ContainersRunning": engine.containers_running,
        "ContainersPaused": engine.containers_paused,
        "ContainersStopped": engine.containers_stopped,
        "Images": engine.images,
        "Driver": engine.driver,
        "DriverStatus": driver_status,
        "DockerRootDir": engine.data_root,
        "Plugins": {
            "Volume": engine.volume_drivers,
            "Network": engine.network_drivers,
            "Authorization": null,
            "Log": engine.log_drivers,
        },
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "OomKillDisable": engine.cgroup_version != "2",
    });
    let rest = json!({
        "IPv4Forwarding": host.forwards_ipv4,
        "Debug": about.debug,
        "NFd": host.open_files,
        "NGoroutines": 0,
        "SystemTime": now(),
        "LoggingDriver": engine.default_log_driver,
        "CgroupDriver": engine.cgroup_driver,
        "CgroupVersion": engine.cgroup_version,
        "NEventsListener": engine.events_listeners,
        "KernelVersion": host.kernel,
        "OperatingSystem": host.system,
        "OSVersion": host.system_version,
        "OSType": "linux",
        "Architecture": host.machine,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "IndexConfigs": indexes,
            "InsecureRegistryCIDRs": cidrs,
            "Mirrors": mirrors,
        },
        "NCPU": host.processors,
        "MemTotal": host.memory,
        "GenericResources": null,
        "HttpProxy": without_password(&about.http_proxy),
        "HttpsProxy": without_password(&about.https_proxy),
        "NoProxy": about.no_proxy,
        "Name": name,
        "Labels": engine.labels,
        "ExperimentalBuild": false,
        "ServerVersion": about.version,
        "Runtimes": runtime,
        "DefaultRuntime": "runc",
        "Swarm": swarm,
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "skep",
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        "SecurityOptions": engine.security_options,
        "FirewallBackend": { "Driver": "nftables" },
        "CDISpecDirs": engine.cdi_spec_dirs,
        "Warnings": warnings,
    });
    if !devices.is_empty() {
        page["DiscoveredDevices"] = json!(devices);
    }
    if let (Some(page), Value::Object(rest)) = (page.as_object_mut(), rest) {
        page.extend(rest);
    }
    if call.version < ApiVersion::new(1, 50) {
        page["BridgeNfIptables"] = json!(false);
        page["BridgeNfIp6tables"] = json!(false);
    }
    if call.version < ApiVersion::new(1, 49) {
        for part in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            page[part]["Expected"] = page[part]["ID"].clone();
        }
    }
    if call.version < ApiVersion::new(1, 47) {
        page["RegistryConfig"]["AllowNondistributableArtifactsCIDRs"] = Value::Null;
        page["RegistryConfig"]["AllowNondistributableArtifactsHostnames"] = Value::Null;
    }
    if let (Some(page), false) = (page.as_object_mut(), engine.extra.is_empty()) {
        let rows: Vec<[&String; 2]> = engine
            .extra
            .iter()
            .map(|(key, value)| [key, value])
            .collect();
        page.insert("SystemStatus".to_owned(), json!(rows));
    }
    reply::json(&page)
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(Nanos::from(since).0)
}

/// `scheme://user:password@host` without what is between.
fn without_password(proxy: &str) -> String {
    match (proxy.split_once("://"), proxy.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        _ => proxy.to_owned(),
    }
}

/// The block about the cluster, and what is to be warned of. Works without a leader.
async fn swarm(call: &Call) -> (Value, Vec<String>) {
    let local = call.cluster().local();
    let mut block = local_block(&local);
    let mut warnings = local.warnings.clone();
    if !local.is_manager {
        return (block, warnings);
    }
    let snapshot = match call.cluster().snapshot(true).await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            if let (Some(block), true) = (block.as_object_mut(), local.error.is_empty()) {
                block.insert("Error".to_owned(), json!(error.message));
            }
            return (block, warnings);
        }
    };
    let managers: Vec<&Node> = snapshot
        .nodes()
        .map(AsRef::as_ref)
        .filter(|node| node.spec.role == NodeRole::Manager)
        .collect();
    if let Some(block) = block.as_object_mut() {
        block.insert("Nodes".to_owned(), json!(snapshot.nodes().count()));
        block.insert("Managers".to_owned(), json!(managers.len()));
        if let Some(cluster) = snapshot.cluster() {
            block.insert("Cluster".to_owned(), json!(ClusterInfo::of(cluster)));
        }
    }
    if managers.len() == 2 {
        warnings.push("WARNING: Running Swarm in a two-manager configuration. This configuration provides\n         no fault tolerance, and poses a high risk to lose control over the cluster.\n         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the\n         Swarm for fault-tolerance.".to_owned());
    }
    warnings.extend(expiring(&snapshot, now()));
    (block, warnings)
}

/// Names told in one warning; there are more where that many expire.
const EXPIRING_TOLD_MAX: usize = 10;

/// What is to be said of secrets that expire soon, or have.
fn expiring(snapshot: &Snapshot, now: Timestamp) -> Option<String> {
    let due = snapshot.secrets();
    let due = due.filter(|secret| secret.stage(now) > Stage::Good);
    let names: Vec<&str> = due.map(|secret| secret.spec.name.as_str()).collect();
    let told = &names[..names.len().min(EXPIRING_TOLD_MAX)];
    let more = match names.len() - told.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!names.is_empty()).then(|| {
        format!(
            "WARNING: secrets expire soon or have expired: {}{more}\n         List them with \"skep secret ls --filter expiring=true\".",
            told.join(", ")
        )
    })
}

fn local_block(local: &LocalCluster) -> Value {
    let remote: Vec<Value> = local
        .remote_managers
        .iter()
        .map(|(node, address)| json!({ "NodeID": node, "Addr": address }))
        .collect();
    json!({
        "NodeID": local.node_id,
        "NodeAddr": local.node_addr,
        "LocalNodeState": local.state,
        "ControlAvailable": local.is_manager,
        "Error": local.error,
        "RemoteManagers": (!remote.is_empty()).then_some(remote),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_lose_their_passwords() {
        assert_eq!(
            without_password("http://me:secret@proxy:3128"),
            "http://xxxxx:xxxxx@proxy:3128"
        );
        assert_eq!(without_password("http://proxy:3128"), "http://proxy:3128");
        assert_eq!(without_password(""), "");
    }
}
