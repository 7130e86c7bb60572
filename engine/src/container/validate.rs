//! What dockerd refuses in a create or update request, and what it warns about.

use crate::error::{EngineError, Result};
use crate::types::{ContainerConfig, HostConfig, RestartPolicy};

/// The least memory a container can live in.
const MEMORY_MIN: i64 = 6 << 20;

/// Checks a create request (after the merge with the image).
pub(crate) fn create(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(EngineError::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    for variable in &config.env {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(EngineError::invalid(format!(
                "invalid environment variable: {variable}"
            )));
        }
    }
    if !config.stop_signal.is_empty() {
        super::signal::parse(&config.stop_signal)?;
    }
    if let Some(health) = &config.healthcheck {
        for (name, value, min) in [
            ("Interval", health.interval.0, 1_000_000),
            ("Timeout", health.timeout.0, 1_000_000),
            ("StartPeriod", health.start_period.0, 1_000_000),
            ("StartInterval", health.start_interval.0, 1_000_000),
        ] {
            if value != 0 && value < min {
                return Err(EngineError::invalid(format!(
                    "{name} in Healthcheck cannot be less than 1ms"
                )));
            }
        }
        if health.retries < 0 {
            return Err(EngineError::invalid(
                "Retries in Healthcheck cannot be negative",
            ));
        }
    }
    restart_policy(&host.restart_policy)?;
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return Err(EngineError::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    resources(host, &mut warnings)?;
    for hosts in host.extra_hosts.iter().flatten() {
        extra_host(hosts)?;
    }
    if host.publish_all_ports || !host.port_bindings.is_empty() {
        if host.network_mode == "host" {
            warnings.push("Published ports are discarded when using host network mode".into());
        }
        if host.network_mode.starts_with("container:") {
            return Err(EngineError::invalid(
                "conflicting options: port publishing and the container type network mode",
            ));
        }
    }
    if host.network_mode.starts_with("container:") && !config.exposed_ports.is_empty() {
        // The image may expose ports; only a request that does so is wrong, and
        // the client checks that.
        tracing::debug!("exposed ports have no effect in another container's network");
    }
    for port in config.exposed_ports.keys().chain(host.port_bindings.keys()) {
        parse_port(port)?;
    }
    for bindings in host.port_bindings.values().flatten() {
        for binding in bindings {
            parse_port_range(&binding.host_port)?;
            if !binding.host_ip.is_empty() && binding.host_ip.parse::<std::net::IpAddr>().is_err() {
                return Err(EngineError::invalid(format!(
                    "invalid IP address: {}",
                    binding.host_ip
                )));
            }
        }
    }
    modes(host)?;
    for path in host.tmpfs.keys() {
        super::mounts::destination_of(path).map_err(EngineError::invalid)?;
    }
    if host.annotations.contains_key("") {
        return Err(EngineError::invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host" | "private") {
        return Err(EngineError::invalid(format!(
            "invalid user namespace mode: {}",
            host.userns_mode
        )));
    }
    if host.shm_size < 0 {
        return Err(EngineError::invalid("SHM size can not be less than 0"));
    }
    if !matches!(
        host.runtime.as_str(),
        "" | "runc" | "io.containerd.runc.v2" | "skep"
    ) {
        return Err(EngineError::invalid(format!(
            "unknown or invalid runtime name: {}",
            host.runtime
        )));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(EngineError::invalid(format!(
            "invalid isolation '{}' on linux",
            host.isolation
        )));
    }
    if !host.storage_opt.is_empty() {
        return Err(EngineError::invalid(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ));
    }
    super::log_options::log_config(
        &host.log_config,
        config,
        Default::default(),
        Default::default(),
        super::log_options::assume_found,
    )?;
    super::spec::security(host)?;
    for (field, names) in [("CapAdd", &host.cap_add), ("CapDrop", &host.cap_drop)] {
        skep_shim::capabilities::resolve(names.as_deref().unwrap_or_default(), &[], false)
            .map_err(|error| {
                let name = error.name;
                EngineError::invalid(format!("invalid {field}: unknown capability: \"{name}\""))
            })?;
    }
    Ok(warnings)
}

/// Checks a restart policy.
pub(crate) fn restart_policy(policy: &RestartPolicy) -> Result<()> {
    let invalid = |why: String| {
        Err(EngineError::invalid(format!(
            "invalid restart policy: {why}"
        )))
    };
    match policy.name.as_str() {
        "always" | "unless-stopped" | "no" if policy.maximum_retry_count != 0 => {
            invalid("maximum retry count can only be used with 'on-failure'".into())
        }
        "on-failure" if policy.maximum_retry_count < 0 => {
            invalid("maximum retry count cannot be negative".into())
        }
        "" if policy.maximum_retry_count != 0 => {
            invalid("maximum retry count can only be used with a restart policy".into())
        }
        "" | "no" | "always" | "unless-stopped" | "on-failure" => Ok(()),
        other => invalid(format!(
            "unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )),
    }
}

/// Checks whose namespaces the container is to have.
fn modes(host: &HostConfig) -> Result<()> {
    for (what, mode, words, joins) in [
        (
            "IPC",
            &host.ipc_mode,
            &["", "host", "none", "private", "shareable"][..],
            true,
        ),
        ("PID", &host.pid_mode, &["", "host"], true),
        ("UTS", &host.uts_mode, &["", "host"], false),
        (
            "cgroup namespace",
            &host.cgroupns_mode,
            &["", "host", "private"],
            false,
        ),
    ] {
        let other = mode.strip_prefix("container:");
        let is_known =
            words.contains(&mode.as_str()) || (joins && other.is_some_and(|name| !name.is_empty()));
        if !is_known {
            return Err(EngineError::invalid(format!("invalid {what} mode: {mode}")));
        }
    }
    Ok(())
}

/// Checks limits; shared by create and update.
pub(crate) fn resources(host: &HostConfig, warnings: &mut Vec<String>) -> Result<()> {
    let invalid = |text: &str| Err(EngineError::invalid(text));
    if host.memory != 0 && host.memory < MEMORY_MIN {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if host.memory == 0 && host.memory_swap > 0 {
        return invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if let Some(swappiness) = host.memory_swappiness
        && !(-1..=100).contains(&swappiness)
    {
        return Err(EngineError::invalid(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )));
    }
    if host.memory_reservation != 0 && host.memory_reservation < MEMORY_MIN {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if host.memory > 0 && host.memory_reservation > 0 && host.memory < host.memory_reservation {
        return invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    if host.oom_kill_disable == Some(true) && host.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.".into(),
        );
    }
    if host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0 {
        return invalid("kernel does not support CPU real-time scheduler");
    }
    if host.nano_cpus != 0 {
        if host.cpu_period > 0 {
            return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set");
        }
        if host.cpu_quota > 0 {
            return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
        }
        let available = std::thread::available_parallelism().map_or(1, usize::from) as i64;
        if host.nano_cpus < 0 || host.nano_cpus > available * 1_000_000_000 {
            return Err(EngineError::invalid(format!(
                "range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available"
            )));
        }
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if host.cpu_shares < 0 {
        return Err(EngineError::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        )));
    }
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return invalid("Range of blkio weight is from 10 to 1000");
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(EngineError::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    for limit in host.ulimits.iter() {
        if limit.soft > limit.hard && limit.hard != -1 {
            return Err(EngineError::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                limit.soft, limit.hard
            )));
        }
    }
    Ok(())
}

/// Reads `name:address`, where the address may have colons.
pub(crate) fn extra_host(text: &str) -> Result<(&str, &str)> {
    let (name, address) = text
        .split_once(':')
        .or_else(|| text.split_once('='))
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| EngineError::invalid(format!("bad format for add-host: \"{text}\"")))?;
    let plain = address.trim_matches(['[', ']']);
    if plain != "host-gateway" && plain.parse::<std::net::IpAddr>().is_err() {
        return Err(EngineError::invalid(format!(
            "invalid IP address in add-host: \"{address}\""
        )));
    }
    Ok((name, plain))
}

/// Reads `80`, `80/tcp`: port and protocol.
pub(crate) fn parse_port(text: &str) -> Result<(u16, &str)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port = port
        .parse()
        .map_err(|_| EngineError::invalid(format!("invalid port specification: \"{text}\"")))?;
    match protocol {
        "tcp" | "udp" | "sctp" => Ok((port, protocol)),
        other => Err(EngineError::invalid(format!("invalid proto: {other}"))),
    }
}

/// Reads `8080`, `8000-8010` or nothing (any port, `(0, 0)`).
pub(crate) fn parse_port_range(text: &str) -> Result<(u16, u16)> {
    let invalid = || EngineError::invalid(format!("invalid port specification: \"{text}\""));
    if text.is_empty() || text == "0" {
        return Ok((0, 0));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: u16 = first.parse().map_err(|_| invalid())?;
    let last: u16 = last.parse().map_err(|_| invalid())?;
    if first == 0 || last < first {
        return Err(invalid());
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses(host: HostConfig, text: &str) {
        let error = create(&ContainerConfig::default(), &host).unwrap_err();
        assert!(error.to_string().contains(text), "{error} has not {text}");
    }

    #[test]
    fn impossible_requests_are_refused_in_dockers_words() {
        refuses(
            HostConfig {
                memory: 1024,
                ..HostConfig::default()
            },
            "Minimum memory limit allowed is 6MB",
        );
        refuses(
            HostConfig {
                auto_remove: true,
                restart_policy: RestartPolicy {
                    name: "always".into(),
                    ..RestartPolicy::default()
                },
                ..HostConfig::default()
            },
            "can't create 'AutoRemove' container with restart policy",
        );
        refuses(
            HostConfig {
                cap_add: Some(vec!["FLY".into()]),
                ..HostConfig::default()
            },
            "invalid CapAdd: unknown capability: \"FLY\"",
        );
        refuses(
            HostConfig {
                nano_cpus: 1 << 60,
                ..HostConfig::default()
            },
            "range of CPUs is from 0.01",
        );
        refuses(
            HostConfig {
                port_bindings: [("x/tcp".to_owned(), None)].into(),
                ..HostConfig::default()
            },
            "invalid port specification: \"x/tcp\"",
        );
        assert!(create(&ContainerConfig::default(), &HostConfig::default()).is_ok());
    }

    #[test]
    fn hosts_and_ports_are_read() {
        assert_eq!(extra_host("db:10.0.0.1").unwrap(), ("db", "10.0.0.1"));
        assert_eq!(extra_host("db:::1").unwrap(), ("db", "::1"));
        assert_eq!(
            extra_host("up:host-gateway").unwrap(),
            ("up", "host-gateway")
        );
        assert!(extra_host("db").is_err());
        assert!(extra_host("db:x").is_err());
        assert_eq!(parse_port_range("8000-8010").unwrap(), (8000, 8010));
        assert_eq!(parse_port_range("").unwrap(), (0, 0));
        assert!(parse_port_range("9-8").is_err());
    }
}
