//! Requests from outside: what is refused, in which words, and what a stack deploy does.

mod support;

use skep_model::placement::Platform;
use skep_model::{
    ConfigSpec, ControlRequest, Kind, NetworkSpec, NodeRole, NodeState, Secret, SecretSpec,
    ServiceMode, StackSpec, Version,
};
use support::{cluster, spec};

fn secret(name: &str, data: &[u8]) -> SecretSpec {
    SecretSpec {
        name: name.to_owned(),
        data: data.to_vec(),
        ..SecretSpec::default()
    }
}

fn create(name: &str, rest: &str) -> ControlRequest {
    ControlRequest::CreateService {
        spec: Box::new(spec(name, 1, rest)),
    }
}

#[test]
fn wrong_requests_are_refused_in_swarms_words() {
    let mut cluster = cluster(2);
    cluster.create(spec("web", 1, ""));
    let refuse = |cluster: &mut support::Cluster, request: ControlRequest| {
        let error = cluster.ask(request).unwrap_err();
        (error.kind, error.message)
    };
    let cases = [
        (
            create("WEB", ""),
            Kind::Conflict,
            "name conflicts with an existing object: service WEB already exists",
        ),
        (
            create(
                "a",
                r#"{"TaskTemplate":{"Networks":[{"Target":"nowhere"}]}}"#,
            ),
            Kind::NotFound,
            "network nowhere not found",
        ),
        (
            create(
                "a",
                r#"{"TaskTemplate":{"Networks":[{"Target":"ingress"}]}}"#,
            ),
            Kind::Invalid,
            "Service cannot be explicitly attached to the ingress network \"ingress\"",
        ),
        (
            create(
                "a",
                r#"{"TaskTemplate":{"ContainerSpec":{"Secrets":[{"SecretName":"x"},{"SecretName":"y"}]}}}"#,
            ),
            Kind::Invalid,
            "secrets not found: x, y",
        ),
        (
            create(
                "a",
                r#"{"TaskTemplate":{"ContainerSpec":{"Configs":[{"ConfigName":"x"}]}}}"#,
            ),
            Kind::Invalid,
            "config not found: x",
        ),
        (
            ControlRequest::RemoveService { id: "none".into() },
            Kind::NotFound,
            "service none not found",
        ),
        (
            cluster.change("web", |spec| spec.name = "other".into()),
            Kind::Unimplemented,
            "renaming services is not supported",
        ),
        (
            cluster.change("web", |spec| {
                spec.mode = ServiceMode::Global(Default::default())
            }),
            Kind::Unimplemented,
            "service mode change is not allowed",
        ),
        (
            ControlRequest::CreateSecret {
                spec: secret("s", &[]),
            },
            Kind::Invalid,
            "secret data must be larger than 0 and less than 512000 bytes",
        ),
        (
            ControlRequest::CreateNetwork {
                spec: Box::new(NetworkSpec {
                    name: "ingress".into(),
                    ..NetworkSpec::default()
                }),
            },
            Kind::Conflict,
            "network with name ingress already exists",
        ),
        (
            ControlRequest::RemoveNode {
                id: "n1".into(),
                force: false,
            },
            Kind::FailedPrecondition,
            "node n1 is not down and can't be removed",
        ),
        (
            ControlRequest::RemoveNode {
                id: "n0".into(),
                force: true,
            },
            Kind::FailedPrecondition,
            "node n0 is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal",
        ),
        (
            cluster.node_request("n0", |spec| spec.role = NodeRole::Worker),
            Kind::FailedPrecondition,
            "attempting to demote the last manager of the swarm",
        ),
        (
            ControlRequest::RemoveStack { name: "app".into() },
            Kind::NotFound,
            "Nothing found in stack: app",
        ),
    ];
    for (request, kind, message) in cases {
        let shown = format!("{request:?}");
        assert_eq!(
            refuse(&mut cluster, request),
            (kind, message.to_owned()),
            "{shown}"
        );
    }
}

#[test]
fn an_update_of_an_old_version_is_out_of_sequence() {
    let mut cluster = cluster(1);
    cluster.create(spec("web", 1, ""));
    let stale = cluster.change("web", |spec| spec.labels.clear());
    cluster.update("web", |spec| {
        spec.labels.insert("a".into(), "b".into());
    });
    let error = cluster.ask(stale).unwrap_err();
    assert_eq!(error.kind, Kind::OutOfSequence);
    assert_eq!(error.message, "update out of sequence");
}

#[test]
fn secrets_in_use_stay_and_only_their_labels_change() {
    let mut cluster = cluster(1);
    let made = cluster.ask(ControlRequest::CreateSecret {
        spec: secret("x", b"1"),
    });
    let id = skep_model::SecretId::from(made.unwrap().id.as_str());
    let again = ControlRequest::CreateSecret {
        spec: secret("X", b"2"),
    };
    assert_eq!(cluster.refusal(again), "secret X already exists");
    let uses = r#"{"TaskTemplate":{"ContainerSpec":{"Secrets":[{"SecretName":"x"}]}}}"#;
    cluster.create(spec("web", 1, uses));
    let reference = &cluster
        .service("web")
        .spec
        .task_template
        .container_spec
        .unwrap()
        .secrets[0];
    assert_eq!(reference.secret_id, id, "the name became an id");
    let remove = ControlRequest::RemoveSecret { id: id.clone() };
    assert_eq!(
        cluster.refusal(remove.clone()),
        "secret 'x' is in use by the following service: web"
    );
    cluster.create(spec("db", 1, uses));
    let refusal = cluster.refusal(remove.clone());
    let prefix = "secret 'x' is in use by the following services: ";
    assert!(refusal.starts_with(prefix), "{refusal}");

    let version = cluster.view().secret(&id).unwrap().version;
    let update = |spec: SecretSpec| ControlRequest::UpdateSecret {
        id: id.clone(),
        version,
        spec,
    };
    assert_eq!(
        cluster.refusal(update(secret("x", b"2"))),
        "only updates to Labels are allowed"
    );
    let mut labelled = secret("x", &[]);
    labelled.labels.insert("a".into(), "b".into());
    cluster.ask(update(labelled)).unwrap();
    assert_eq!(cluster.view().secret(&id).unwrap().spec.data, b"1");

    for name in ["web", "db"] {
        let id = cluster.service(name).id;
        cluster.ask(ControlRequest::RemoveService { id }).unwrap();
    }
    cluster.ask(remove).unwrap();
    assert_eq!(cluster.view().count::<Secret>(), 0);
}

#[test]
fn a_network_in_use_stays_until_its_services_are_gone() {
    let mut cluster = cluster(1);
    cluster
        .ask(ControlRequest::CreateNetwork {
            spec: Box::new(NetworkSpec {
                name: "front".into(),
                ..NetworkSpec::default()
            }),
        })
        .unwrap();
    cluster.create(spec(
        "web",
        1,
        r#"{"TaskTemplate":{"Networks":[{"Target":"front"}]}}"#,
    ));
    cluster.converge();
    let (network, service) = (cluster.network("front").id, cluster.service("web").id);
    let remove = ControlRequest::RemoveNetwork {
        id: network.clone(),
    };
    assert_eq!(
        cluster.refusal(remove.clone()),
        format!("network {network} is in use by service {service}")
    );
    cluster
        .ask(ControlRequest::RemoveService { id: service })
        .unwrap();
    cluster.ask(remove).unwrap();
    cluster.converge();
    assert!(cluster.tasks("web").is_empty());
}

#[test]
fn credentials_are_kept_and_old_networks_move_to_the_task_template() {
    let mut cluster = cluster(1);
    let mut wanted = spec("web", 1, r#"{"Networks":[{"Target":"host"}]}"#);
    wanted.task_template.pull_credentials = "secret".into();
    cluster.create(wanted);
    let stored = cluster.service("web").spec;
    assert!(stored.networks.is_empty());
    assert_eq!(stored.task_template.networks[0].target, "host");
    cluster.update("web", |spec| {
        spec.task_template.pull_credentials.clear();
        spec.task_template.force_update += 1;
    });
    let stored = cluster.service("web").spec;
    assert_eq!(stored.task_template.pull_credentials, "secret");
}

#[test]
fn losing_the_majority_by_demotion_is_refused() {
    let mut cluster = cluster(1);
    cluster.join("n1", true);
    cluster.join("n2", true);
    let demote = |cluster: &support::Cluster, id: &str| {
        cluster.node_request(id, |spec| spec.role = NodeRole::Worker)
    };
    let first = demote(&cluster, "n2");
    cluster.ask(first).unwrap();
    let second = demote(&cluster, "n1");
    cluster.ask(second).unwrap();
    let last = demote(&cluster, "n0");
    assert_eq!(
        cluster.refusal(last),
        "attempting to demote the last manager of the swarm"
    );
}

#[test]
fn removed_nodes_are_remembered_for_as_long_as_their_certificate_could_live() {
    let mut cluster = cluster(2);
    cluster.heard("n1", NodeState::Down);
    cluster
        .ask(ControlRequest::RemoveNode {
            id: "n1".into(),
            force: false,
        })
        .unwrap();
    let view = cluster.view();
    let until = view.cluster().unwrap().removed_nodes["n1"];
    assert_eq!(until.since(cluster.now).as_secs(), (2160 + 7 * 24) * 3600);
}

#[test]
fn tokens_and_keys_are_rotated_on_request_only() {
    let mut cluster = cluster(1);
    let present = skep_model::Cluster::clone(cluster.view().cluster().unwrap());
    let mut with_tokens = present.clone();
    with_tokens.join_tokens.worker = "SWMTKN-1-pin-old".into();
    with_tokens.join_tokens.manager = "SWMTKN-1-pin-other".into();
    let mut tx = skep_store::Transaction::new(&cluster.view(), cluster.now);
    tx.put(with_tokens.clone()).unwrap();
    let commit = tx.commit().unwrap();
    cluster.apply(&commit);
    let version = cluster.view().cluster().unwrap().version;
    let mut wanted = present.spec.clone();
    wanted.encryption_config.auto_lock_managers = true;
    cluster
        .ask(ControlRequest::UpdateCluster {
            version,
            spec: Box::new(wanted),
            rotate_worker_token: true,
            rotate_manager_token: false,
            rotate_unlock_key: false,
            rotate_data_keys: false,
        })
        .unwrap();
    let after = skep_model::Cluster::clone(cluster.view().cluster().unwrap());
    assert_eq!(after.join_tokens.manager, "SWMTKN-1-pin-other");
    let worker = after
        .join_tokens
        .worker
        .strip_prefix("SWMTKN-1-pin-")
        .unwrap();
    assert!(worker.len() == 25 && worker != "old", "{worker}");
    assert!(after.unlock_key.starts_with("SWMKEY-1-"));
    let mut expiry = present.spec.clone();
    expiry.ca_config.node_cert_expiry = skep_model::Nanos::from_secs(60);
    let refusal = cluster.refusal(ControlRequest::UpdateCluster {
        version: after.version,
        spec: Box::new(expiry),
        rotate_worker_token: false,
        rotate_manager_token: false,
        rotate_unlock_key: false,
        rotate_data_keys: false,
    });
    assert_eq!(refusal, "minimum certificate expiry time is: 1h0m0s");
}

fn stack() -> StackSpec {
    StackSpec {
        name: "app".into(),
        networks: vec![NetworkSpec {
            name: "app_default".into(),
            ..NetworkSpec::default()
        }],
        secrets: vec![secret("app_key", b"1")],
        configs: vec![ConfigSpec {
            name: "app_conf".into(),
            data: b"2".to_vec(),
            ..ConfigSpec::default()
        }],
        services: vec![
            spec(
                "app_web",
                2,
                r#"{"TaskTemplate":{"Networks":[{"Target":"app_default"}],
                    "ContainerSpec":{"Secrets":[{"SecretName":"app_key"}]}}}"#,
            ),
            spec("app_db", 1, ""),
        ],
        ..StackSpec::default()
    }
}

fn deploy(spec: StackSpec, prune: bool) -> ControlRequest {
    ControlRequest::DeployStack {
        spec: Box::new(spec),
        prune,
        basis: None,
        wish: Default::default(),
    }
}

#[test]
fn a_stack_is_deployed_whole_and_deploying_it_again_restarts_nothing() {
    let mut cluster = cluster(2);
    let done = cluster.ask(deploy(stack(), false)).unwrap();
    assert_eq!(
        done.actions,
        [
            "Creating network app_default",
            "Creating secret app_key",
            "Creating config app_conf",
            "Creating service app_web",
            "Creating service app_db",
        ]
    );
    cluster.converge();
    assert_eq!(cluster.service("app_web").stack, "app");
    let version = cluster.view().version();
    let again = cluster.ask(deploy(stack(), false)).unwrap();
    assert!(
        again
            .actions
            .iter()
            .all(|line| line.starts_with("Updating service app_"))
    );
    assert_eq!(cluster.view().version(), version, "nothing was written");

    let mut smaller = stack();
    smaller.services.pop();
    smaller.services[0].labels.insert("a".into(), "b".into());
    let pruned = cluster.ask(deploy(smaller, true)).unwrap();
    assert_eq!(pruned.actions[0], "Removing service app_db");
    assert_eq!(cluster.view().stacks().next().unwrap().revision, 2);
    cluster.converge();

    let removed = cluster
        .ask(ControlRequest::RemoveStack { name: "app".into() })
        .unwrap();
    assert_eq!(
        removed.actions,
        [
            "Removing service app_web",
            "Removing secret app_key",
            "Removing config app_conf",
            "Removing network app_default"
        ]
    );
    cluster.converge();
    assert!(cluster.tasks("app_web").is_empty());
    assert_eq!(cluster.view().stacks().count(), 0);
}

#[test]
fn a_stack_that_cannot_be_deployed_changes_nothing() {
    let mut cluster = cluster(1);
    let before = cluster.view();
    let mut wrong = stack();
    wrong.external_networks.push("proxy".into());
    assert_eq!(
        cluster.refusal(deploy(wrong, false)),
        "network \"proxy\" is declared as external, but could not be found. You need to create a swarm-scoped network before the stack is deployed"
    );
    let mut wrong = stack();
    wrong.services[1].task_template.container_spec = None;
    assert_eq!(
        cluster.refusal(deploy(wrong, false)),
        "TaskSpec: missing runtime"
    );
    assert!(cluster.view().same_content(&before));

    cluster.ask(deploy(stack(), false)).unwrap();
    let mut wrong = stack();
    wrong.secrets[0].templating = Some(skep_model::mount::Driver {
        name: "golang".into(),
        ..Default::default()
    });
    assert_eq!(
        cluster.refusal(deploy(wrong, false)),
        "only updates to Labels are allowed"
    );
}

#[test]
fn forced_updates_and_resolved_images_outlive_a_deploy() {
    let label = "com.docker.stack.image";
    let mut cluster = cluster(1);
    let mut wanted = stack();
    wanted.services[1]
        .labels
        .insert(label.into(), "img:1".into());
    cluster.ask(deploy(wanted.clone(), false)).unwrap();
    cluster.update("app_db", |spec| {
        spec.task_template.force_update = 3;
        spec.task_template.container_spec.as_mut().unwrap().image =
            format!("img:1@sha256:{}", "a".repeat(64));
        let placement = spec.task_template.placement.get_or_insert_default();
        placement.platforms = vec![Platform {
            architecture: "arm64".into(),
            os: "linux".into(),
        }];
    });
    // Docker's client sends the digest that it knows, and nothing of platforms.
    cluster.update("app_db", |spec| {
        let placement = spec.task_template.placement.as_mut().unwrap();
        placement.platforms.clear();
    });
    let platforms = |cluster: &support::Cluster| {
        let template = cluster.service("app_db").spec.task_template;
        template
            .placement
            .map_or(0, |placement| placement.platforms.len())
    };
    assert_eq!(platforms(&cluster), 1);
    let version = cluster.service("app_db").version;
    cluster.ask(deploy(wanted, false)).unwrap();
    let service = cluster.service("app_db");
    assert_eq!(service.version, version);
    assert_eq!(service.spec.task_template.force_update, 3);
    assert_eq!(platforms(&cluster), 1);
    assert_ne!(version, Version::default());
    cluster.set_image("app_db", "img:2");
    cluster.update("app_db", |spec| {
        let placement = spec.task_template.placement.as_mut().unwrap();
        placement.platforms.clear();
    });
    assert_eq!(platforms(&cluster), 0, "another image may run elsewhere");
}
