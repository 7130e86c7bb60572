//! A service as the body of the call that creates its containers.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{ProjectFile, ProjectVolume, mount, undefined};
use crate::context::Context;
use crate::file::File;
use crate::file::deploy::Deploy;
use crate::file::health::Health;
use crate::file::host::Host;
use crate::file::service::{Service, Ulimit};
use crate::out::Out;
use crate::report::Placed;
use crate::text::size;

pub(super) fn body(
    name: &str,
    service: &Service,
    host: &Host,
    file: &File,
    volumes: &BTreeMap<String, ProjectVolume>,
    files: &mut Vec<ProjectFile>,
    cx: &mut Context<'_>,
) -> Value {
    check(name, service, host, file, cx);
    let mut mounts = mount::mounts(name, service, volumes, cx);
    mount::objects(name, service, file, &mut mounts, files, cx);
    let (exposed, bindings) = ports(service, host, cx);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut body = json!({
        "Hostname": text(&service.hostname),
        "Domainname": host.text("domainname").unwrap_or_default(),
        "User": text(&service.user),
        "Tty": service.tty.unwrap_or(false),
        "OpenStdin": service.stdin_open.unwrap_or(false),
        "Env": environment(service),
        "WorkingDir": text(&service.working_dir),
        "Labels": service.labels.clone().unwrap_or_default(),
        "ExposedPorts": exposed,
        "HostConfig": host_config(service, host, mounts, bindings, cx),
    });
    let set = &mut body;
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            set[name] = value;
        }
    };
    put(
        "Cmd",
        service.command.as_ref().map(|command| json!(command)),
    );
    put(
        "Entrypoint",
        service
            .entrypoint
            .as_ref()
            .map(|entrypoint| json!(entrypoint)),
    );
    put(
        "StopSignal",
        service.stop_signal.as_ref().map(|signal| json!(signal)),
    );
    // Whole seconds, and never less than asked for.
    let grace = service
        .stop_grace_period
        .map(|grace| json!((grace.0 + 999_999_999) / 1_000_000_000));
    put("StopTimeout", grace);
    put(
        "Healthcheck",
        service
            .health
            .as_ref()
            .map(|health| healthcheck(name, health, cx)),
    );
    put("MacAddress", host.text("mac_address").map(|mac| json!(mac)));
    body
}

/// What nobody could start.
fn check(name: &str, service: &Service, host: &Host, file: &File, cx: &mut Context<'_>) {
    if service.image.is_none() && host.build.is_none() {
        cx.error(
            service.at,
            format!(
                "service {name:?} has neither an image nor a build context specified: invalid compose project"
            ),
        );
    }
    if let Some(mode) = host.texts.get("network_mode")
        && !service.networks.is_empty()
    {
        cx.error(
            mode.at,
            format!(
                "service {name} declares mutually exclusive `network_mode` and `networks`: invalid compose project"
            ),
        );
    }
    for (network, joined) in &service.networks {
        if network != "default" && !file.networks.contains_key(network) {
            undefined(name, "network", network, joined.at, cx);
        }
    }
    if let Some(container) = host.texts.get("container_name")
        && super::replicas(service) > 1
    {
        cx.error(
            container.at,
            format!(
                "service {name:?} has more than one container and a container_name: leave one of them out"
            ),
        );
    }
    if let Some(driver) = host.texts.get("volume_driver") {
        cx.error_with_hint(
            driver.at,
            format!("service {name}: volume_driver cannot be honoured"),
            "give the volume a driver below the top-level volumes",
        );
    }
    if let Some(spec) = &service.credential_spec {
        cx.warn(
            spec.at,
            format!("service {name}: credential_spec has no effect here"),
        );
    }
}

/// `NAME=value`, ordered. Names that nobody has a value for are left out.
fn environment(service: &Service) -> Vec<String> {
    service
        .environment
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
        .collect()
}

fn healthcheck(name: &str, health: &Health, cx: &mut Context<'_>) -> Value {
    if health.disable == Some(true) {
        return json!({"Test": ["NONE"]});
    }
    let test = health.test.as_ref().map(|test| test.value.clone());
    if let Some(placed) = &health.test
        && placed.value.len() == 1
        && placed.value[0] != "NONE"
    {
        cx.error(
            placed.at,
            format!("service {name}: healthcheck.test has no command"),
        );
    }
    let nanos = |length: Option<skep_model::Nanos>| length.map_or(0, |length| length.0);
    json!({
        "Test": test.unwrap_or_default(),
        "Interval": nanos(health.interval),
        "Timeout": nanos(health.timeout),
        "StartPeriod": nanos(health.start_period),
        "StartInterval": nanos(health.start_interval),
        "Retries": health.retries.unwrap_or(0),
    })
}

fn ports(
    service: &Service,
    host: &Host,
    cx: &mut Context<'_>,
) -> (Map<String, Value>, Map<String, Value>) {
    let mut exposed = Map::new();
    let mut bindings: Map<String, Value> = Map::new();
    for port in &service.ports {
        let key = format!("{}/{}", port.target, port.protocol().as_str());
        exposed.insert(key.clone(), json!({}));
        let published = match port.published {
            0 => String::new(),
            number => number.to_string(),
        };
        let binding = json!({"HostIp": port.extra.host_ip, "HostPort": published});
        match bindings.entry(key).or_insert_with(|| json!([])) {
            Value::Array(list) => list.push(binding),
            other => *other = json!([binding]),
        }
    }
    for item in host.list("expose") {
        let (numbers, protocol) = item.value.split_once('/').unwrap_or((&item.value, "tcp"));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) if first > 0 && first <= last => {
                for number in first..=last {
                    exposed.insert(format!("{number}/{protocol}"), json!({}));
                }
            }
            _ => cx.error(item.at, format!("expose: invalid port \"{}\"", item.value)),
        }
    }
    (exposed, bindings)
}

fn host_config(
    service: &Service,
    host: &Host,
    mounts: Vec<Value>,
    bindings: Map<String, Value>,
    cx: &mut Context<'_>,
) -> Value {
    let places = |list: &[Placed<String>]| -> Vec<String> {
        list.iter().map(|item| item.value.clone()).collect()
    };
    let logging = service.logging.clone().unwrap_or_default();
    let mut config = json!({
        "Mounts": mounts,
        "PortBindings": bindings,
        "RestartPolicy": restart_policy(service, cx),
        "LogConfig": {
            "Type": logging.driver.unwrap_or_default(),
            "Config": logging.options.unwrap_or_default(),
        },
        "CapAdd": service.cap_add,
        "CapDrop": service.cap_drop,
        "Dns": places(&service.dns),
        "DnsSearch": service.dns_search,
        "DnsOptions": service.dns_opt,
        "ExtraHosts": service.extra_hosts,
        "GroupAdd": service.group_add,
        "OomScoreAdj": service.oom_score_adj.unwrap_or(0),
        "Privileged": host.flags.get("privileged").copied().unwrap_or(false),
        "ReadonlyRootfs": service.read_only.unwrap_or(false),
        "SecurityOpt": security(host, cx),
        "DeviceCgroupRules": places(host.list("device_cgroup_rules")),
        "Devices": host.devices.iter().map(|one| device(&one.value)).collect::<Vec<_>>(),
        "Ulimits": service.ulimits.iter().map(|(name, limit)| {
            let (soft, hard) = match *limit {
                Ulimit::Both(both) => (both, both),
                Ulimit::Each { soft, hard } => (soft, hard),
            };
            json!({"Name": name, "Soft": soft, "Hard": hard})
        }).collect::<Vec<_>>(),
    });
    for (key, field) in [
        ("cgroup_parent", "CgroupParent"),
        ("cpuset", "CpusetCpus"),
        ("runtime", "Runtime"),
        ("userns_mode", "UsernsMode"),
        ("uts", "UTSMode"),
        ("cgroupns_mode", "CgroupnsMode"),
        ("cgroup", "CgroupnsMode"),
    ] {
        if let Some(text) = host.text(key) {
            config[field] = json!(text);
        }
    }
    for (key, field) in [
        ("annotations", "Annotations"),
        ("storage_opt", "StorageOpt"),
    ] {
        if let Some(map) = host.maps.get(key) {
            config[field] = json!(map);
        }
    }
    if let Some(on) = host.flags.get("oom_kill_disable") {
        config["OomKillDisable"] = json!(on);
    }
    if let Some(sysctls) = &service.sysctls {
        config["Sysctls"] = json!(sysctls);
    }
    if !service.tmpfs.is_empty() {
        config["Tmpfs"] = Value::Object(mount::tmpfs(service));
    }
    if let Some(init) = service.init {
        config["Init"] = json!(init);
    }
    if let Some(isolation) = &service.isolation {
        config["Isolation"] = json!(isolation);
    }
    resources(service, host, &mut config);
    if let Some(Out::Map(entries)) = &host.blkio {
        blkio(entries, &mut config);
    }
    config
}

/// Limits: those of `deploy` over the older ones.
fn resources(service: &Service, host: &Host, config: &mut Value) {
    let none = Deploy::default();
    let deploy = service.deploy.as_ref().unwrap_or(&none);
    let limits = deploy.limits.clone().unwrap_or_default();
    let reservations = deploy.reservations.clone().unwrap_or_default();
    let mut put = |field: &str, value: Option<i64>| {
        if let Some(value) = value {
            config[field] = json!(value);
        }
    };
    let size = |name: &str| host.sizes.get(name).copied();
    let cpus = limits.cpus.as_ref().or(service.cpus.as_ref());
    put("NanoCpus", cpus.map(|cpus| cpus.nanos.0));
    put("Memory", limits.memory.or(size("mem_limit")));
    put("MemorySwap", size("memswap_limit"));
    put(
        "MemoryReservation",
        reservations.memory.or(service.mem_reservation),
    );
    put(
        "PidsLimit",
        limits.pids.filter(|pids| *pids != 0).or(service.pids_limit),
    );
    put("ShmSize", size("shm_size"));
    for (key, field) in [
        ("cpu_shares", "CpuShares"),
        ("cpu_period", "CpuPeriod"),
        ("cpu_quota", "CpuQuota"),
        ("cpu_rt_period", "CpuRealtimePeriod"),
        ("cpu_rt_runtime", "CpuRealtimeRuntime"),
        ("mem_swappiness", "MemorySwappiness"),
    ] {
        put(field, host.numbers.get(key).copied());
    }
    let requests: Vec<&Value> = host
        .device_requests
        .iter()
        .chain(&reservations.devices)
        .collect();
    if !requests.is_empty() {
        config["DeviceRequests"] = json!(requests);
    }
}

/// `/dev/x[:/dev/y[:rwm]]`.
fn device(text: &str) -> Value {
    let mut parts = text.splitn(3, ':');
    let source = parts.next().unwrap_or_default();
    let target = parts.next().unwrap_or(source);
    json!({
        "PathOnHost": source,
        "PathInContainer": target,
        "CgroupPermissions": parts.next().unwrap_or("rwm"),
    })
}

fn blkio(entries: &[(String, Out)], config: &mut Value) {
    let number = |value: &Out| match value {
        Out::Int(number) => Some(*number),
        Out::Text(text) => size::parse(text).ok(),
        _ => None,
    };
    for (key, value) in entries {
        let (field, what) = match key.as_str() {
            "weight" => {
                config["BlkioWeight"] = json!(number(value));
                continue;
            }
            "weight_device" => ("BlkioWeightDevice", "weight"),
            "device_read_bps" => ("BlkioDeviceReadBps", "rate"),
            "device_write_bps" => ("BlkioDeviceWriteBps", "rate"),
            "device_read_iops" => ("BlkioDeviceReadIOps", "rate"),
            "device_write_iops" => ("BlkioDeviceWriteIOps", "rate"),
            _ => continue,
        };
        let Out::List(items) = value else { continue };
        let name = if what == "weight" { "Weight" } else { "Rate" };
        let devices: Vec<Value> = items
            .iter()
            .filter_map(|item| {
                let Out::Map(entries) = item else { return None };
                let field = |wanted: &str| {
                    let entry = entries.iter().find(|(key, _)| key == wanted);
                    entry.map(|(_, value)| value)
                };
                let Some(Out::Text(path)) = field("path") else {
                    return None;
                };
                Some(json!({"Path": path, name: number(field(what)?)}))
            })
            .collect();
        config[field] = json!(devices);
    }
}

/// `restart`, or what `deploy` says of it.
fn restart_policy(service: &Service, cx: &mut Context<'_>) -> Value {
    if let Some(restart) = &service.restart {
        let (name, count) = restart
            .value
            .split_once(':')
            .unwrap_or((&restart.value, ""));
        let retries = match count {
            "" => Some(0),
            count => count.parse::<u32>().ok(),
        };
        let known = ["", "no", "always", "on-failure", "unless-stopped"].contains(&name);
        match retries {
            Some(retries) if known && (retries == 0 || name == "on-failure") => {
                let name = if name.is_empty() { "no" } else { name };
                return json!({"Name": name, "MaximumRetryCount": retries});
            }
            _ => cx.error_with_hint(
                restart.at,
                format!("invalid restart policy \"{}\"", restart.value),
                "no, always, unless-stopped, on-failure or on-failure:3",
            ),
        }
    }
    let policy = service
        .deploy
        .as_ref()
        .and_then(|deploy| deploy.restart_policy.as_ref());
    match policy {
        None => json!({"Name": "no", "MaximumRetryCount": 0}),
        Some(policy) => match policy.condition.as_deref() {
            Some("none") => json!({"Name": "no", "MaximumRetryCount": 0}),
            Some("on-failure") => json!({
                "Name": "on-failure",
                "MaximumRetryCount": policy.max_attempts.unwrap_or(0),
            }),
            _ => json!({"Name": "always", "MaximumRetryCount": 0}),
        },
    }
}

/// Security options; a seccomp profile is read here and sent as text.
fn security(host: &Host, cx: &mut Context<'_>) -> Vec<String> {
    let mut options = Vec::new();
    for option in host.list("security_opt") {
        let (key, value) = match option.value.split_once(['=', ':']) {
            Some(parts) => parts,
            None => (option.value.as_str(), ""),
        };
        if key == "seccomp" && !matches!(value, "unconfined" | "builtin") {
            let path = cx.absolute(value, option.at);
            let Some(content) = cx.content(&path, option.at) else {
                continue;
            };
            match serde_json::from_slice::<Value>(&content) {
                Ok(profile) => options.push(format!("seccomp={profile}")),
                Err(wrong) => cx.error(option.at, format!("{path} is no seccomp profile: {wrong}")),
            }
        } else if value.is_empty() {
            options.push(key.to_owned());
        } else {
            options.push(format!("{key}={value}"));
        }
    }
    options
}
