//! Parts of a service's spec that `create` and `update` read from flags in the same way.

use serde::de::DeserializeOwned;
use skep_model::Nanos;
use skep_model::container::HealthConfig;
use skep_model::service::UpdateConfig;
use skep_model::task::RestartPolicy;

use crate::failure::{Failure, Outcome};
use crate::flags::Args;

/// Monitoring period of updates when only other settings are given.
const MONITOR_DEFAULT: Nanos = Nanos::from_secs(5);
/// Delay between restarts when only other settings are given.
const RESTART_DELAY_DEFAULT: Nanos = Nanos::from_secs(5);

/// Whether any of the flags is given.
pub fn any(args: &Args, flags: &[&str]) -> bool {
    flags.iter().any(|flag| args.given(flag))
}

pub fn nanos(args: &Args, flag: &str) -> Option<Nanos> {
    args.duration(flag).map(Nanos)
}

/// A flag whose value is one of a few words.
pub fn word<T: DeserializeOwned>(args: &Args, flag: &str, what: &str) -> Outcome<Option<T>> {
    let Some(value) = args.maybe(flag) else {
        return Ok(None);
    };
    serde_json::from_value(value.to_lowercase().into())
        .map(Some)
        .map_err(|_| Failure::message(format!("invalid {what}: {}", crate::human::quote(value))))
}

/// Changes `config` by the flags that begin with `prefix` (`update` or `rollback`). `None` when
/// there is neither a config nor a flag.
pub fn update_config(
    args: &Args,
    prefix: &str,
    config: Option<UpdateConfig>,
) -> Outcome<Option<UpdateConfig>> {
    let flag = |name: &str| format!("{prefix}-{name}");
    let names = [
        "parallelism",
        "delay",
        "monitor",
        "failure-action",
        "max-failure-ratio",
        "order",
    ];
    if !names.iter().any(|name| args.given(&flag(name))) {
        return Ok(config);
    }
    let mut config = config.unwrap_or(UpdateConfig {
        monitor: MONITOR_DEFAULT,
        ..UpdateConfig::default()
    });
    if let Some(parallelism) = args.uint(&flag("parallelism")) {
        config.parallelism = parallelism;
    }
    if let Some(delay) = nanos(args, &flag("delay")) {
        config.delay = delay;
    }
    if let Some(monitor) = nanos(args, &flag("monitor")) {
        config.monitor = monitor;
    }
    if let Some(action) = word(
        args,
        &flag("failure-action"),
        &format!("{prefix} failure action"),
    )? {
        config.failure_action = action;
    }
    if let Some(ratio) = args.float(&flag("max-failure-ratio")) {
        config.max_failure_ratio = ratio as f32;
    }
    if let Some(order) = word(args, &flag("order"), &format!("{prefix} order"))? {
        config.order = order;
    }
    Ok(Some(config))
}

pub fn restart_policy(
    args: &Args,
    policy: Option<RestartPolicy>,
) -> Outcome<Option<RestartPolicy>> {
    let flags = [
        "restart-condition",
        "restart-delay",
        "restart-max-attempts",
        "restart-window",
    ];
    if !any(args, &flags) {
        return Ok(policy);
    }
    let mut policy = policy.unwrap_or(RestartPolicy {
        delay: Some(RESTART_DELAY_DEFAULT),
        max_attempts: Some(0),
        ..RestartPolicy::default()
    });
    if let Some(condition) = word(args, "restart-condition", "RestartCondition")? {
        policy.condition = condition;
    }
    if let Some(delay) = nanos(args, "restart-delay") {
        policy.delay = Some(delay);
    }
    if let Some(attempts) = args.uint("restart-max-attempts") {
        policy.max_attempts = Some(attempts);
    }
    if let Some(window) = nanos(args, "restart-window") {
        policy.window = Some(window);
    }
    Ok(Some(policy))
}

pub const HEALTH_FLAGS: [&str; 6] = [
    "health-cmd",
    "health-interval",
    "health-timeout",
    "health-retries",
    "health-start-period",
    "health-start-interval",
];

/// A health check from flags alone.
pub fn healthcheck(args: &Args) -> Outcome<Option<HealthConfig>> {
    let set = any(args, &HEALTH_FLAGS);
    if args.flag("no-healthcheck") {
        if set {
            return Err(Failure::message(
                "--no-healthcheck conflicts with --health-* options",
            ));
        }
        return Ok(Some(HealthConfig {
            test: vec!["NONE".to_owned()],
            ..HealthConfig::default()
        }));
    }
    if !set {
        return Ok(None);
    }
    let mut health = HealthConfig::default();
    merge_health(args, &mut health);
    Ok(Some(health))
}

/// Changes what the flags name.
pub fn merge_health(args: &Args, health: &mut HealthConfig) {
    if let Some(command) = args.maybe("health-cmd") {
        health.test = if command.is_empty() {
            Vec::new()
        } else {
            vec!["CMD-SHELL".to_owned(), command.to_owned()]
        };
    }
    if let Some(interval) = nanos(args, "health-interval") {
        health.interval = interval;
    }
    if let Some(timeout) = nanos(args, "health-timeout") {
        health.timeout = timeout;
    }
    if let Some(retries) = args.int("health-retries") {
        health.retries = retries;
    }
    if let Some(period) = nanos(args, "health-start-period") {
        health.start_period = period;
    }
    if let Some(interval) = nanos(args, "health-start-interval") {
        health.start_interval = interval;
    }
}

/// Capabilities in the form the daemon stores: upper case, with `CAP_`, sorted; what is both
/// added and dropped is added.
pub fn capabilities(add: Vec<String>, drop: Vec<String>) -> (Vec<String>, Vec<String>) {
    let normal = |names: Vec<String>| {
        let mut names: Vec<String> = names
            .iter()
            .map(|name| name.trim().to_uppercase())
            .map(|name| match name.as_str() {
                "ALL" | "RESET" => name,
                name if name.starts_with("CAP_") => name.to_owned(),
                name => format!("CAP_{name}"),
            })
            .collect();
        names.sort();
        names.dedup();
        if names.iter().any(|name| name == "ALL") {
            names = vec!["ALL".to_owned()];
        }
        names
    };
    let add = normal(add);
    let mut drop = normal(drop);
    drop.retain(|name| !add.contains(name));
    (add, drop)
}

/// `config://…`, `file://…` or `registry://…`.
pub fn credential_spec(value: &str) -> Result<serde_json::Value, String> {
    if value.is_empty() {
        return Ok(serde_json::Value::Null);
    }
    match value.split_once("://") {
        Some(("config", name)) => Ok(serde_json::json!({"Config": name})),
        Some(("file", name)) => Ok(serde_json::json!({"File": name})),
        Some(("registry", name)) => Ok(serde_json::json!({"Registry": name})),
        _ => Err(
            "invalid credential spec: value must be prefixed with \"config://\", \"file://\", or \"registry://\""
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_normalized() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let (add, drop) = capabilities(
            names(&["net_admin", "CAP_SYS_TIME"]),
            names(&["chown", "net_admin"]),
        );
        assert_eq!(add, ["CAP_NET_ADMIN", "CAP_SYS_TIME"]);
        assert_eq!(drop, ["CAP_CHOWN"]);
        assert_eq!(
            capabilities(names(&["all", "chown"]), names(&[])).0,
            ["ALL"]
        );
    }
}
