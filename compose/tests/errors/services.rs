//! What a service says of itself.

use super::{check, service};

#[test]
fn keys_and_commands() {
    check(&[
        (
            service("imagee: y"),
            &["4:5 services.a Additional property imagee is not allowed"],
        ),
        (service("x-mine: y"), &[]),
        (
            service("deploy: {replica: 3}"),
            &["4:14 services.a.deploy Additional property replica is not allowed"],
        ),
        (
            service("networks: {default: {alias: [b]}}"),
            &["4:26 services.a.networks.default Additional property alias is not allowed"],
        ),
        (
            service("tty: maybe"),
            &["4:10 services.a.tty must be a boolean, found the string \"maybe\""],
        ),
        (
            service("tty: [true]"),
            &["4:10 services.a.tty must be a boolean, found a list"],
        ),
        (
            service("hostname: 5"),
            &["4:15 services.a.hostname must be a string, found the number `5`"],
        ),
        (
            service("hostname: {a: b}"),
            &["4:15 services.a.hostname must be a string, found a mapping"],
        ),
        (
            service("command: {a: b}"),
            &["4:14 services.a.command must be a string or list, found a mapping"],
        ),
        (
            service("command: 'a \"b'"),
            &[
                "4:14 services.a.command cannot be split into words: EOF found when expecting closing quote",
            ],
        ),
        (
            service("deploy: {replicas: many}"),
            &["4:24 services.a.deploy.replicas must be a integer, found the string \"many\""],
        ),
        (
            service("deploy: {replicas: -1}"),
            &["4:24 services.a.deploy.replicas must be at least 0, found -1"],
        ),
    ]);
}

#[test]
fn deploy() {
    check(&[
        (
            service("deploy: {replicas: 1.5}"),
            &["4:24 services.a.deploy.replicas must be a integer, found the number `1.5`"],
        ),
        (
            service("deploy: {mode: globl}"),
            &[
                "4:20 services.a.deploy.mode must be one of the following: \"replicated\", \"global\", \"replicated-job\", \"global-job\", found \"globl\"",
            ],
        ),
        (
            service("deploy: {mode: global, replicas: 2}"),
            &["4:38 service a: replicas can only be used with replicated or replicated-job mode"],
        ),
        (
            service("deploy: {update_config: {order: first-start}}"),
            &[
                "4:37 services.a.deploy.update_config.order must be one of the following: \"start-first\", \"stop-first\", found \"first-start\"",
            ],
        ),
        (
            service("deploy: {update_config: {max_failure_ratio: 2}}"),
            &[
                "4:49 services.a.deploy.update_config.max_failure_ratio must be from 0 to 1, found 2",
            ],
        ),
        (
            service("deploy: {rollback_config: {failure_action: rollback}}"),
            &[
                "4:48 services.a.deploy.rollback_config.failure_action must be one of the following: \"pause\", \"continue\", found \"rollback\"",
            ],
        ),
        (
            service("deploy: {resources: {limits: {memory: 5x}}}"),
            &["4:43 services.a.deploy.resources.limits.memory: invalid suffix: 'x'"],
        ),
        (
            service("deploy: {resources: {limits: {memory: 1M}}}"),
            &[
                "4:43 services.a.deploy.resources.limits.memory: invalid memory value 1048576: Must be at least 4MiB",
            ],
        ),
        (
            service("deploy: {resources: {limits: {cpus: lots}}}"),
            &[
                "4:41 services.a.deploy.resources.limits.cpus is no number of processors: failed to parse lots as a rational number",
            ],
        ),
        (
            service("deploy: {resources: {limits: {cpus: '0.0000000001'}}}"),
            &[
                "4:41 services.a.deploy.resources.limits.cpus is no number of processors: value is too precise",
            ],
        ),
        (
            service("deploy: {placement: {constraints: [node.id=x]}}"),
            &[
                "4:40 services.a.deploy.placement.constraints.0 is no constraint: constraint expected one operator from ==, !=",
            ],
        ),
        (
            service("deploy: {placement: {max_replicas_per_node: 1}, mode: global}"),
            &["2:3 service a: MaxReplicas is only supported for replicated services"],
        ),
    ]);
}

#[test]
fn environment_and_times() {
    check(&[
        (
            service("environment: 5"),
            &["4:18 services.a.environment must be a mapping or list, found the number `5`"],
        ),
        (
            service("environment: {A: [b]}"),
            &["4:22 services.a.environment.A must be a string, number or null, found a list"],
        ),
        (
            service("environment: [5]"),
            &["4:19 services.a.environment.0 must be a string, found the number `5`"],
        ),
        (
            service("environment: ['=x']"),
            &["4:19 services.a.environment has a variable without a name"],
        ),
        (
            service("env_file: missing.env"),
            &["4:15 open /project/missing.env: no such file or directory"],
        ),
        (
            service("env_file: [{path: missing.env, required: false}]"),
            &[
                "warning 4:23 the environment file /project/missing.env does not exist and is not required",
            ],
        ),
        (
            service("stop_grace_period: 5"),
            &["4:24 services.a.stop_grace_period must be a string, found the number `5`"],
        ),
        (
            service("stop_grace_period: 5x"),
            &["4:24 services.a.stop_grace_period Does not match format 'duration', found \"5x\""],
        ),
        (
            service("stop_grace_period: -5s"),
            &["4:24 services.a.stop_grace_period must not be negative, found \"-5s\""],
        ),
    ]);
}

#[test]
fn hosts_checks_and_what_is_ignored() {
    check(&[
        (
            service("extra_hosts: [nothing]"),
            &["warning 4:19 bad format for add-host: \"nothing\" is left out"],
        ),
        (
            service("ulimits: {nofile: {soft: 1}}"),
            &["4:23 services.a.ulimits.nofile hard is required"],
        ),
        (
            service("healthcheck: {test: [curl]}"),
            &[
                "4:25 services.a.healthcheck.test must begin with NONE, CMD or CMD-SHELL, found \"curl\"",
            ],
        ),
        (
            service("healthcheck: {disable: true, test: x}"),
            &["4:40 service a: test and disable can't be set at the same time"],
        ),
        (
            service("healthcheck: {interval: 1us}"),
            &["2:3 service a: ContainerSpec: Interval in HealthConfig cannot be less than 1ms"],
        ),
        (
            service("credential_spec: {file: a, registry: b}"),
            &["4:22 invalid credential spec: cannot specify both \"File\" and \"Registry\""],
        ),
        (
            service("mem_limit: 5"),
            &["4:5 Compose file contains unsupported options: mem_limit (services.a.mem_limit)"],
        ),
        (
            service("volumes_from: [b]"),
            &[
                "4:5 Compose file contains unsupported options: volumes_from (services.a.volumes_from)",
            ],
        ),
        (
            service("build: ."),
            &["warning 4:5 Ignoring unsupported options: build (services.a.build)"],
        ),
        (
            service("container_name: c"),
            &[
                "warning 4:5 Ignoring deprecated options: container_name: Setting the container name is not supported. (services.a.container_name)",
            ],
        ),
        (
            service("expose: [80]"),
            &[
                "warning 4:5 Ignoring deprecated options: expose: Exposing ports is unnecessary - services on the same network can access each other's containers on any port. (services.a.expose)",
            ],
        ),
        (
            service("restart: always"),
            &["warning 4:5 services.a.restart is taken as deploy.restart_policy"],
        ),
        (
            service("restart: sometimes"),
            &[
                "warning 4:5 services.a.restart is taken as deploy.restart_policy",
                "4:14 service a: invalid restart policy: unknown policy 'sometimes' (must be one of 'no', 'always', 'on-failure', or 'unless-stopped')",
            ],
        ),
        (
            service("depends_on: {b: {condition: service_healthy}}"),
            &["4:18 service a depends on undefined service b"],
        ),
        (
            service("depends_on: [b]"),
            &["warning 4:18 service a depends on undefined service b: it does not wait for it"],
        ),
        (
            service("depends_on: {b: {condition: service_healthy, required: false}}"),
            &[],
        ),
        (
            service("depends_on: {b: {condition: healthy}}"),
            &[
                "4:33 services.a.depends_on.b.condition must be one of the following: \"service_started\", \"service_healthy\", \"service_completed_successfully\", found \"healthy\"",
            ],
        ),
        (
            service("depends_on: [a]"),
            &["warning 4:18 dependency cycle detected: a -> a: the last is not waited for"],
        ),
        (
            service("depends_on: {a: {condition: service_started}}"),
            &["4:18 dependency cycle detected: a -> a"],
        ),
        (
            service("gpus: all"),
            &[
                "warning 4:5 services.a.gpus has no effect: reserve what nodes offer with deploy.resources.reservations.generic_resources",
            ],
        ),
        (
            service("profiles: [debug]"),
            &["warning 4:16 service a is left out: none of its profiles is active"],
        ),
        (
            service("platform: linux"),
            &["4:15 service a: platform must be os/architecture, found \"linux\""],
        ),
        (
            service("hostname: ${"),
            &[
                "4:15 invalid interpolation format for services.a.hostname: \"${\"; you may need to escape any $ with another $",
            ],
        ),
    ]);
}

#[test]
fn lists_in_which_nothing_stands_twice() {
    for key in [
        "expose",
        "links",
        "external_links",
        "devices",
        "security_opt",
        "group_add",
        "ports",
    ] {
        let text = service(&format!("{key}:\n      - '80'\n      - '81'\n      - '80'"));
        let message = format!("7:9 services.a.{key} array items[0,2] must be unique");
        let found = super::found(&text);
        assert!(found.contains(&message), "{message}: {found:?}");
    }
    check(&[
        (
            service("ports: [{target: 80, mode: host}, {mode: host, target: 80}]"),
            &["4:39 services.a.ports array items[0,1] must be unique"],
        ),
        (service("ports: [80, '80', 80/udp]"), &[]),
        (
            service("env_file: [vars.env, vars.env]"),
            &["4:26 services.a.env_file array items[0,1] must be unique"],
        ),
    ]);
}
