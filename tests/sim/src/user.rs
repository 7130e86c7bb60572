//! A user who asks for random things, some of them impossible.

use skep_model::container::ContainerSpec;
use skep_model::network::{IpamConfig, IpamOptions};
use skep_model::placement::{Placement, PlacementPreference, SpreadOver};
use skep_model::resources::{ResourceRequirements, Resources};
use skep_model::service::{
    Empty, EndpointSpec, FailureAction, Replicated, ReplicatedJob, ResolutionMode, UpdateConfig,
    UpdateOrder,
};
use skep_model::task::{NetworkAttachmentConfig, RestartCondition, RestartPolicy, TaskSpec};
use skep_model::volume_home::VOLUME_PLACEMENT_LABEL;
use skep_model::{
    Availability, ControlRequest, MemoryBytes, Nanos, NetworkSpec, PortConfig, Protocol,
    PublishMode, SecretSpec, Service, ServiceMode, ServiceSpec,
};
use skep_store::Snapshot;

use crate::random::Dice;
use crate::wants;

pub(crate) const NAMES: [&str; 7] = ["web", "db", "cache", "proxy", "queue", "job", "agent"];
const NETWORKS: [&str; 3] = ["front", "back", "small"];
const IMAGES: [&str; 8] = [
    "good:1", "good:2", "good:3", "good:4", "good:5", "slow", "missing", "crash",
];

/// The next thing the user wants; nothing when there is nothing to ask it of.
pub fn wish(snapshot: &Snapshot, dice: &mut Dice) -> Option<ControlRequest> {
    let services: Vec<_> = snapshot.services().cloned().collect();
    let nodes: Vec<_> = snapshot.nodes().cloned().collect();
    match dice.below(24) {
        0..=3 => Some(create(snapshot, dice)),
        4..=6 => dice
            .pick(&services)
            .map(|service| update(service, dice, image)),
        7..=9 => dice
            .pick(&services)
            .map(|service| update(service, dice, scale)),
        10 => dice.pick(&services).map(|service| {
            update(service, dice, |spec, _| {
                spec.task_template.force_update += 1;
            })
        }),
        11 => dice.pick(&services).map(|service| {
            update(service, dice, |spec, dice| {
                let value = dice.below(3).to_string();
                spec.labels.insert("note".to_owned(), value);
            })
        }),
        12 => dice
            .pick(&services)
            .map(|service| update(service, dice, constraints)),
        13 => dice
            .pick(&services)
            .map(|service| ControlRequest::UpdateService {
                id: service.id.clone(),
                version: service.version,
                spec: Box::new(service.spec.clone()),
                registry_auth_from: Default::default(),
                rollback: true,
                // Either way of going back.
                revision: service.version.index.is_multiple_of(2).then_some(0),
            }),
        14 => dice
            .pick(&services)
            .map(|service| ControlRequest::RemoveService {
                id: service.id.clone(),
            }),
        15 | 16 => dice.pick(&nodes).map(|node| {
            let mut spec = node.spec.clone();
            spec.availability = match dice.below(4) {
                0 => Availability::Drain,
                1 => Availability::Pause,
                _ => Availability::Active,
            };
            if dice.chance(40) {
                let zone = ["a", "b"][usize::from(dice.chance(50))];
                spec.labels.insert("zone".to_owned(), zone.to_owned());
            }
            ControlRequest::UpdateNode {
                id: node.id.clone(),
                version: node.version,
                spec,
            }
        }),
        17 => dice.pick(&NETWORKS).map(|name| network(name, dice)),
        18 => {
            let networks: Vec<_> = snapshot
                .networks()
                .filter(|network| !network.spec.ingress)
                .collect();
            dice.pick(&networks)
                .map(|network| ControlRequest::RemoveNetwork {
                    id: network.id.clone(),
                })
        }
        19 => dice
            .pick(&services)
            .map(|service| update(service, dice, wants::company)),
        20 | 21 => dice
            .pick(&services)
            .map(|service| wants::rebalancing(service, dice)),
        _ => {
            let secrets: Vec<_> = snapshot.secrets().collect();
            match dice.pick(&secrets) {
                Some(secret) if dice.chance(30) => Some(ControlRequest::RemoveSecret {
                    id: secret.id.clone(),
                }),
                _ => Some(ControlRequest::CreateSecret {
                    spec: SecretSpec {
                        name: format!("secret{}", dice.below(5)),
                        data: vec![1, 2, 3],
                        ..SecretSpec::default()
                    },
                }),
            }
        }
    }
}

/// What a sensible user does when peace comes: asks for nothing impossible any more.
pub fn make_amends(snapshot: &Snapshot) -> Vec<ControlRequest> {
    let mut requests = Vec::new();
    for node in snapshot.nodes() {
        if node.spec.availability != Availability::Active {
            let mut spec = node.spec.clone();
            spec.availability = Availability::Active;
            requests.push(ControlRequest::UpdateNode {
                id: node.id.clone(),
                version: node.version,
                spec,
            });
        }
    }
    for service in snapshot.services() {
        let mut spec = service.spec.clone();
        let template = &mut spec.task_template;
        if matches!(template.image(), "missing" | "crash")
            && let Some(container) = &mut template.container_spec
        {
            container.image = "good:1".to_owned();
        }
        // Slots that gave up are not tried again without a change, so there must be one.
        let gives_up = template.restart_policy.as_ref().is_some_and(|policy| {
            policy.condition != RestartCondition::Any || policy.max_attempts.unwrap_or(0) > 0
        });
        if gives_up {
            template.restart_policy = None;
        }
        let constrained = template.placement.as_ref().is_some_and(|placement| {
            !placement.constraints.is_empty() || placement.max_replicas > 0
        });
        if constrained {
            template.placement = None;
        }
        // A node that is full is waited for in vain.
        spec.labels.remove(VOLUME_PLACEMENT_LABEL);
        let host_port = spec
            .ports()
            .iter()
            .any(|port| port.publish_mode == PublishMode::Host);
        let small = snapshot
            .networks()
            .find(|network| network.spec.name == "small");
        let is_small = |network: &NetworkAttachmentConfig| {
            small.is_some_and(|small| small.id.as_str() == network.target)
        };
        let networks = &mut spec.task_template.networks;
        let in_small = networks.iter().any(is_small);
        match &mut spec.mode {
            // A node's port and a small network have room for few.
            ServiceMode::Replicated(replicated) => {
                let most = [3, 1][usize::from(host_port || in_small)];
                replicated.replicas = Some(replicated.count().min(most));
            }
            ServiceMode::Global(_) => {
                networks.retain(|network| !is_small(network));
                if host_port {
                    spec.endpoint_spec = None;
                }
            }
            ServiceMode::ReplicatedJob(_) | ServiceMode::GlobalJob(_) => (),
        }
        // A start-first update cannot place a task whose host port the old one holds.
        let scarce = host_port || in_small;
        let configs = [&mut spec.update_config, &mut spec.rollback_config];
        for config in configs.into_iter().flatten().filter(|_| scarce) {
            config.order = UpdateOrder::StopFirst;
        }
        let stopped = service
            .update_status
            .as_ref()
            .is_some_and(|status| status.completed_at.is_none() && !status.state.is_active());
        if spec != service.spec || stopped {
            requests.push(change(service, spec));
        }
    }
    requests
}

fn create(snapshot: &Snapshot, dice: &mut Dice) -> ControlRequest {
    let name = NAMES[usize::try_from(dice.below(NAMES.len() as u64)).unwrap_or(0)];
    let mode = match name {
        "agent" => ServiceMode::Global(Empty {}),
        "job" if dice.chance(30) => ServiceMode::GlobalJob(Empty {}),
        "job" => ServiceMode::ReplicatedJob(ReplicatedJob {
            max_concurrent: Some(dice.between(1, 2)),
            total_completions: Some(dice.between(1, 4)),
        }),
        _ => ServiceMode::Replicated(Replicated {
            replicas: Some(dice.between(0, 5)),
        }),
    };
    let networks: Vec<_> = snapshot
        .networks()
        .filter(|network| !network.spec.ingress)
        .collect();
    let attached = networks.iter().filter(|_| dice.chance(60));
    let mut spec = ServiceSpec {
        name: name.to_owned(),
        task_template: TaskSpec {
            container_spec: Some(ContainerSpec::default()),
            networks: attached
                .map(|network| NetworkAttachmentConfig {
                    target: network.spec.name.clone(),
                    ..NetworkAttachmentConfig::default()
                })
                .collect(),
            restart_policy: restart(dice),
            ..TaskSpec::default()
        },
        ..ServiceSpec::default()
    };
    if !mode.is_job() {
        spec.update_config = update_config(dice, true);
        spec.rollback_config = update_config(dice, false);
        spec.endpoint_spec = endpoint(dice);
    }
    if dice.chance(30) {
        spec.task_template.resources = Some(ResourceRequirements {
            reservations: Some(Resources {
                memory_bytes: MemoryBytes(100 << 20),
                ..Resources::default()
            }),
            ..ResourceRequirements::default()
        });
    }
    if dice.chance(20) {
        spec.task_template.placement = Some(Placement {
            preferences: vec![PlacementPreference {
                spread: SpreadOver {
                    spread_descriptor: "node.labels.zone".to_owned(),
                },
            }],
            ..Placement::default()
        });
    }
    spec.mode = mode;
    wants::secrets(&mut spec, snapshot, dice);
    if dice.chance(40) {
        wants::evenness(&mut spec);
    }
    if matches!(spec.mode, ServiceMode::Replicated(_)) && dice.chance(30) {
        wants::volumes(&mut spec);
    }
    image(&mut spec, dice);
    ControlRequest::CreateService {
        spec: Box::new(spec),
    }
}

fn endpoint(dice: &mut Dice) -> Option<EndpointSpec> {
    match dice.below(5) {
        0 => Some(EndpointSpec {
            mode: ResolutionMode::Dnsrr,
            ports: Vec::new(),
        }),
        1..=2 => {
            let number = [0, 0, 8080, 8081, 9090];
            Some(EndpointSpec {
                mode: ResolutionMode::Vip,
                ports: vec![PortConfig {
                    target_port: 80,
                    published_port: *dice.pick(&number).unwrap_or(&0),
                    protocol: Protocol::Tcp,
                    publish_mode: match dice.chance(25) {
                        true => PublishMode::Host,
                        false => PublishMode::Ingress,
                    },
                    ..PortConfig::default()
                }],
            })
        }
        _ => None,
    }
}

fn restart(dice: &mut Dice) -> Option<RestartPolicy> {
    let delay = Some(Nanos::from_secs(1));
    match dice.below(6) {
        0 => Some(RestartPolicy {
            condition: RestartCondition::OnFailure,
            delay,
            ..RestartPolicy::default()
        }),
        1 => Some(RestartPolicy {
            condition: RestartCondition::Any,
            max_attempts: Some(2),
            delay,
            ..RestartPolicy::default()
        }),
        2 => Some(RestartPolicy {
            condition: RestartCondition::None,
            ..RestartPolicy::default()
        }),
        3 => Some(RestartPolicy {
            delay: Some(Nanos(0)),
            ..RestartPolicy::default()
        }),
        _ => None,
    }
}

fn update_config(dice: &mut Dice, may_roll_back: bool) -> Option<UpdateConfig> {
    if dice.chance(30) {
        return None;
    }
    Some(UpdateConfig {
        parallelism: dice.below(3),
        delay: Nanos::from_secs(i64::try_from(dice.below(2)).unwrap_or(0)),
        failure_action: match dice.below(3) {
            0 if may_roll_back => FailureAction::Rollback,
            1 => FailureAction::Continue,
            _ => FailureAction::Pause,
        },
        monitor: Nanos::from_secs(2),
        max_failure_ratio: [0.0, 0.5][usize::from(dice.chance(30))],
        order: match dice.chance(40) {
            true => UpdateOrder::StartFirst,
            false => UpdateOrder::StopFirst,
        },
    })
}

fn network(name: &str, dice: &mut Dice) -> ControlRequest {
    let subnet = |text: &str| IpamOptions {
        driver: None,
        configs: vec![IpamConfig {
            subnet: text.parse().ok(),
            ..IpamConfig::default()
        }],
    };
    ControlRequest::CreateNetwork {
        spec: Box::new(NetworkSpec {
            name: name.to_owned(),
            ipam: (name == "small").then(|| subnet("192.168.7.0/28")),
            ipv6_enabled: dice.chance(30),
            ..NetworkSpec::default()
        }),
    }
}

fn image(spec: &mut ServiceSpec, dice: &mut Dice) {
    let image = *dice.pick(&IMAGES).unwrap_or(&"good:1");
    if let Some(container) = &mut spec.task_template.container_spec {
        container.image = image.to_owned();
    }
}

fn scale(spec: &mut ServiceSpec, dice: &mut Dice) {
    if let ServiceMode::Replicated(replicated) = &mut spec.mode {
        replicated.replicas = Some(dice.between(0, 6));
    }
}

fn constraints(spec: &mut ServiceSpec, dice: &mut Dice) {
    let zone = ["a", "b", "c"][usize::try_from(dice.below(3)).unwrap_or(0)];
    let mut placement = Placement::default();
    match dice.below(3) {
        0 => placement
            .constraints
            .push(format!("node.labels.zone=={zone}")),
        1 if matches!(spec.mode, ServiceMode::Replicated(_)) => placement.max_replicas = 1,
        _ => (),
    }
    spec.task_template.placement = Some(placement);
}

pub(crate) fn update(
    service: &Service,
    dice: &mut Dice,
    edit: impl FnOnce(&mut ServiceSpec, &mut Dice),
) -> ControlRequest {
    let mut spec = service.spec.clone();
    edit(&mut spec, dice);
    change(service, spec)
}

fn change(service: &Service, spec: ServiceSpec) -> ControlRequest {
    ControlRequest::UpdateService {
        id: service.id.clone(),
        version: service.version,
        spec: Box::new(spec),
        registry_auth_from: Default::default(),
        rollback: false,
        revision: None,
    }
}
