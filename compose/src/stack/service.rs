//! One service of a stack.

use std::collections::HashSet;

use skep_model::image;
use skep_model::mount::Driver;
use skep_model::placement::{Placement, PlacementPreference, Platform, SpreadOver};
use skep_model::resources::{GenericResource, Limits, ResourceRequirements, Resources};
use skep_model::service::{
    Empty, EndpointSpec, FailureAction, Replicated, ReplicatedJob, ResolutionMode, UpdateConfig,
    UpdateOrder,
};
use skep_model::stack::IMAGE_LABEL;
use skep_model::task::{RestartCondition, RestartPolicy, TaskSpec};
use skep_model::validate::check_service;
use skep_model::{MemoryBytes, NanoCpus, Nanos, PortConfig, ServiceMode, ServiceSpec};

use super::{container, dependency, labelled, network, scoped};
use crate::context::Context;
use crate::file::File;
use crate::file::deploy::{self, Deploy};
use crate::file::service::Service;
use crate::report::Placed;

/// Makes one service; what is wrong goes to the report.
pub(super) fn service(
    name: &str,
    service: &Service,
    file: &File,
    cx: &mut Context<'_>,
) -> ServiceSpec {
    let errors_before = cx.report.errors();
    let deploy = service.deploy.clone().unwrap_or_default();
    let mut labels = labelled(deploy.labels.as_ref(), cx);
    check_image(name, service, cx);
    check_twice(name, service, cx);
    if let Some(image) = &service.image {
        labels.insert(IMAGE_LABEL.to_owned(), image.value.clone());
    }
    let spec = ServiceSpec {
        name: scoped(name, cx),
        labels,
        task_template: TaskSpec {
            container_spec: Some(container::container(name, service, file, cx)),
            resources: Some(resources(service, &deploy)),
            restart_policy: restart_policy(name, service, &deploy, file, cx),
            placement: Some(placement(name, service, &deploy, cx)),
            networks: network::attachments(name, service, file, cx),
            log_driver: service.logging.as_ref().map(|logging| Driver {
                name: logging.driver.clone().unwrap_or_default(),
                options: logging.options.clone().unwrap_or_default(),
            }),
            drain_period: service.drain,
            ..TaskSpec::default()
        },
        mode: mode(name, service, &deploy, cx),
        update_config: deploy.update_config.as_ref().map(update_config),
        rollback_config: deploy.rollback_config.as_ref().map(update_config),
        networks: Vec::new(),
        endpoint_spec: Some(endpoint(service, &deploy)),
    };
    // The last look catches what only the whole shows; after other errors it would repeat them.
    if cx.report.errors() == errors_before
        && let Err(wrong) = check_service(&spec)
    {
        cx.error(service.at, format!("service {name}: {}", wrong.message));
    }
    spec
}

/// Reports ports and mount points that are given twice, each at its second place.
fn check_twice(name: &str, service: &Service, cx: &mut Context<'_>) {
    let mut published = HashSet::new();
    for port in service.ports.iter().filter(|port| port.published != 0) {
        let host = (&port.extra.host_ip, &port.extra.interface);
        if !published.insert((port.published, port.protocol(), port.mode(), host)) {
            cx.error(
                port.at,
                format!("service {name}: EndpointSpec: duplicate published ports provided"),
            );
        }
    }
    let mut targets = HashSet::new();
    for volume in &service.volumes {
        if !targets.insert(&volume.target) {
            cx.error(
                volume.at,
                format!(
                    "service {name}: ContainerSpec: duplicate mount point: {}",
                    volume.target
                ),
            );
        }
    }
}

fn check_image(name: &str, service: &Service, cx: &mut Context<'_>) {
    match &service.image {
        None => cx.error_with_hint(
            service.at,
            format!("invalid image reference for service {name}: no image specified"),
            "a cluster runs images from a registry or from its nodes; it builds none",
        ),
        Some(image) => {
            if let Err(wrong) = image::check(&image.value) {
                cx.error(
                    image.at,
                    format!("invalid image reference for service {name}: {wrong}"),
                );
            }
        }
    }
}

fn mode(name: &str, service: &Service, deploy: &Deploy, cx: &mut Context<'_>) -> ServiceMode {
    let replicas = deploy
        .replicas
        .as_ref()
        .map(|replicas| replicas.value)
        .or(service.scale);
    let none_expected = |cx: &mut Context<'_>| {
        if replicas.is_some() {
            cx.error(
                deploy.replicas_at(service.at),
                format!(
                    "service {name}: replicas can only be used with replicated or \
                     replicated-job mode"
                ),
            );
        }
    };
    match deploy.mode.as_deref() {
        Some("global") => {
            none_expected(cx);
            ServiceMode::Global(Empty {})
        }
        Some("global-job") => {
            none_expected(cx);
            ServiceMode::GlobalJob(Empty {})
        }
        Some("replicated-job") => ServiceMode::ReplicatedJob(ReplicatedJob {
            max_concurrent: replicas,
            total_completions: replicas,
        }),
        _ => ServiceMode::Replicated(Replicated { replicas }),
    }
}

fn update_config(given: &deploy::UpdateConfig) -> UpdateConfig {
    UpdateConfig {
        parallelism: given.parallelism.unwrap_or(1),
        delay: given.delay.unwrap_or(Nanos(0)),
        failure_action: match given.failure_action.as_deref() {
            Some("continue") => FailureAction::Continue,
            Some("rollback") => FailureAction::Rollback,
            _ => FailureAction::Pause,
        },
        monitor: given.monitor.unwrap_or(Nanos(0)),
        max_failure_ratio: given.max_failure_ratio.unwrap_or(0.0),
        order: match given.order.as_deref() {
            Some("start-first") => UpdateOrder::StartFirst,
            _ => UpdateOrder::StopFirst,
        },
    }
}

/// `deploy.resources`, and below it the older keys of the service itself.
fn resources(service: &Service, deploy: &Deploy) -> ResourceRequirements {
    let cpus = |cpus: Option<&deploy::Cpus>| cpus.map_or(NanoCpus(0), |cpus| cpus.nanos);
    let limits = deploy.limits.clone().unwrap_or_default();
    let reservations = deploy.reservations.clone().unwrap_or_default();
    // -1 says "unlimited", which is what nothing says.
    let pids = limits.pids.or(service.pids_limit.filter(|pids| *pids > 0));
    let has_limits =
        deploy.limits.is_some() || service.cpus.is_some() || service.pids_limit.is_some();
    let has_reservations = deploy.reservations.is_some() || service.mem_reservation.is_some();
    ResourceRequirements {
        limits: has_limits.then(|| Limits {
            nano_cpus: cpus(limits.cpus.as_ref().or(service.cpus.as_ref())),
            memory_bytes: MemoryBytes(limits.memory.unwrap_or(0)),
            pids: pids.unwrap_or(0),
        }),
        reservations: has_reservations.then(|| Resources {
            nano_cpus: cpus(reservations.cpus.as_ref()),
            memory_bytes: MemoryBytes(reservations.memory.or(service.mem_reservation).unwrap_or(0)),
            generic_resources: reservations
                .generic_resources
                .iter()
                .map(|one| GenericResource::Discrete {
                    kind: one.kind.clone(),
                    value: one.value,
                })
                .collect(),
        }),
    }
}

fn restart_policy(
    name: &str,
    service: &Service,
    deploy: &Deploy,
    file: &File,
    cx: &mut Context<'_>,
) -> Option<RestartPolicy> {
    let is_job = deploy
        .mode
        .as_deref()
        .is_some_and(|mode| mode.ends_with("-job"));
    if is_job || !dependency::is_to_end(name, file) {
        return plain_restart_policy(name, service, deploy, cx);
    }
    match plain_restart_policy(name, service, deploy, cx) {
        Some(policy) if policy.condition == RestartCondition::Any => {
            let at = service.restart.as_ref().map_or(service.at, |one| one.at);
            cx.warn_with_hint(
                at,
                format!("service {name} is waited for until it ends, and is started again whenever it does"),
                "set deploy.restart_policy.condition to on-failure or none",
            );
            Some(policy)
        }
        Some(policy) => Some(policy),
        // What a cluster does with services that do not say would never come to an end.
        None => {
            let never = service
                .restart
                .as_ref()
                .is_some_and(|one| one.value == "no");
            let condition = match never {
                true => RestartCondition::None,
                false => RestartCondition::OnFailure,
            };
            Some(RestartPolicy {
                condition,
                ..RestartPolicy::default()
            })
        }
    }
}

fn plain_restart_policy(
    name: &str,
    service: &Service,
    deploy: &Deploy,
    cx: &mut Context<'_>,
) -> Option<RestartPolicy> {
    if let Some(given) = &deploy.restart_policy {
        return Some(RestartPolicy {
            condition: match given.condition.as_deref() {
                Some("none") => RestartCondition::None,
                Some("on-failure") => RestartCondition::OnFailure,
                _ => RestartCondition::Any,
            },
            delay: given.delay,
            max_attempts: given.max_attempts,
            window: given.window,
        });
    }
    let restart = service.restart.as_ref()?;
    match older_restart(&restart.value) {
        Ok(policy) => policy,
        Err(wrong) => {
            cx.error(restart.at, format!("service {name}: {wrong}"));
            None
        }
    }
}

/// `restart: on-failure:3` and the like.
fn older_restart(text: &str) -> Result<Option<RestartPolicy>, String> {
    let (word, count) = text.split_once(':').unwrap_or((text, ""));
    if word.is_empty() && text.contains(':') {
        return Err("invalid restart policy format: no policy provided before colon".to_owned());
    }
    let count: i64 = match count {
        "" => 0,
        count => count.parse().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?,
    };
    let max_attempts = match u64::try_from(count) {
        Ok(count) => Some(count),
        Err(_) => {
            return Err(
                "invalid restart policy: maximum retry count cannot be negative".to_owned(),
            );
        }
    };
    let policy = |condition, max_attempts| {
        Ok(Some(RestartPolicy {
            condition,
            max_attempts,
            ..RestartPolicy::default()
        }))
    };
    match word {
        "" | "no" => Ok(None),
        "always" | "unless-stopped" => policy(
            RestartCondition::Any,
            max_attempts.filter(|count| *count > 0),
        ),
        "on-failure" => policy(RestartCondition::OnFailure, max_attempts),
        word => Err(format!(
            "invalid restart policy: unknown policy '{word}' (must be one of 'no', 'always', \
             'on-failure', or 'unless-stopped')"
        )),
    }
}

fn placement(name: &str, service: &Service, deploy: &Deploy, cx: &mut Context<'_>) -> Placement {
    let spread = |key: &String| PlacementPreference {
        spread: SpreadOver {
            spread_descriptor: key.clone(),
        },
    };
    Placement {
        constraints: deploy.constraints.clone(),
        preferences: deploy.preferences.iter().map(spread).collect(),
        max_replicas: deploy.max_replicas_per_node.unwrap_or(0),
        platforms: service
            .platform
            .as_ref()
            .and_then(|given| platform(name, given, cx))
            .into_iter()
            .collect(),
    }
}

/// `linux/arm64`, with a variant perhaps.
fn platform(name: &str, given: &Placed<String>, cx: &mut Context<'_>) -> Option<Platform> {
    let mut parts = given.value.split('/');
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next());
    let Some(architecture) = architecture.filter(|part| !part.is_empty() && !os.is_empty()) else {
        cx.error(
            given.at,
            format!(
                "service {name}: platform must be os/architecture, found \"{}\"",
                given.value
            ),
        );
        return None;
    };
    if let Some(variant) = parts.next() {
        cx.warn(
            given.at,
            format!("service {name}: the platform's variant `{variant}` has no effect"),
        );
    }
    Some(Platform {
        architecture: architecture.to_owned(),
        os: os.to_owned(),
    })
}

/// Ports ordered as docker orders them: by mode, target, published, protocol.
fn endpoint(service: &Service, deploy: &Deploy) -> EndpointSpec {
    let mut ports: Vec<PortConfig> = service.ports.iter().map(|port| port.config()).collect();
    ports.sort_by(|a, b| {
        (a.published_port, a.target_port, a.protocol).cmp(&(
            b.published_port,
            b.target_port,
            b.protocol,
        ))
    });
    EndpointSpec {
        mode: match deploy.endpoint_mode.as_deref() {
            Some("dnsrr" | "DNSRR") => ResolutionMode::Dnsrr,
            _ => ResolutionMode::Vip,
        },
        ports,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_restart_key_is_understood() {
        let policy = |text| {
            older_restart(text)
                .unwrap()
                .map(|p| (p.condition, p.max_attempts))
        };
        assert_eq!(policy("no"), None);
        assert_eq!(policy("always"), Some((RestartCondition::Any, None)));
        assert_eq!(
            policy("unless-stopped"),
            Some((RestartCondition::Any, None))
        );
        assert_eq!(
            policy("on-failure:3"),
            Some((RestartCondition::OnFailure, Some(3)))
        );
        for wrong in ["sometimes", ":3", "on-failure:x", "on-failure:-1"] {
            assert!(older_restart(wrong).is_err(), "{wrong}");
        }
    }
}
