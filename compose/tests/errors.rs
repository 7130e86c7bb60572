//! Every class of mistake is reported with its place and what to do.

mod support;

use skep_compose::{Options, Severity, Source, config};
use support::{load_texts, text_options};

/// Everything reported about `text`, one line each: `line:column message`.
fn found(text: &str) -> Vec<String> {
    let loaded = load_texts(&[text], &text_options());
    let diagnostics = match loaded {
        Ok(loaded) => loaded.warnings,
        Err(diagnostics) => diagnostics,
    };
    diagnostics
        .iter()
        .map(|d| {
            let kind = match d.severity {
                Severity::Warning => "warning ",
                Severity::Error => "",
            };
            format!("{kind}{}:{} {}", d.line, d.column, d.message)
        })
        .collect()
}

fn service(body: &str) -> String {
    format!("services:\n  a:\n    image: x\n    {body}\n")
}

fn check(cases: &[(String, &[&str])]) {
    let mut wrong = Vec::new();
    for (text, wanted) in cases {
        let found = found(text);
        if found != *wanted {
            wrong.push(format!("{text}wanted {wanted:#?}\nfound {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn mistakes_are_reported_with_their_place() {
    check(&[
        ("".to_owned(), &["0:0 top-level object must be a mapping"]),
        (
            "- a\n".to_owned(),
            &["1:1 top-level object must be a mapping"],
        ),
        (
            "a:\n  image: x\n".to_owned(),
            &["1:1 (root) Additional property a is not allowed"],
        ),
        (
            "version: \"1\"\nservices:\n  a: {image: x}\n".to_owned(),
            &["1:10 unsupported Compose file version: 1"],
        ),
        (
            "version: '2.1'\nservices:\n  a: {image: x, mem_limit: 5}\n".to_owned(),
            &["1:10 unsupported Compose file version: 2.1"],
        ),
        (
            "version: 3.14\nservices:\n  a: {image: x}\n".to_owned(),
            &["1:10 unsupported Compose file version: 3.14"],
        ),
        (
            "version: 3.8\nservices:\n  a: {image: x}\n".to_owned(),
            &["warning 1:10 version must be a string, found the number `3.8`"],
        ),
        (
            "name: other\nservices:\n  a: {image: x}\n".to_owned(),
            &["warning 1:1 name has no effect: the stack's name is given when it is deployed"],
        ),
        (
            "services:\n".to_owned(),
            &["1:1 services must be a mapping, found nothing"],
        ),
        (
            "services: [a]\n".to_owned(),
            &["1:11 services must be a mapping, found a list"],
        ),
        (
            "services:\n  a:\n".to_owned(),
            &["2:3 services.a must be a mapping, found nothing"],
        ),
        (
            "services:\n  b!: {image: x}\n".to_owned(),
            &["2:3 services Additional property b! is not allowed"],
        ),
        (
            service("image: y"),
            &["4:5 mapping key \"image\" already defined at line 3"],
        ),
        (
            "services:\n  a:\n   image: q\n  - z\n".to_owned(),
            &["4:5 yaml: while parsing a block mapping, did not find expected key"],
        ),
        (
            "services:\n  a: *nobody\n".to_owned(),
            &["2:6 yaml: while parsing node, found unknown anchor"],
        ),
        (
            "services:\n  a: {image: x}\n---\nservices: {}\n".to_owned(),
            &["warning 3:1 only the first document of a file is read"],
        ),
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
        (
            service("ports: 80"),
            &["4:12 services.a.ports must be a list, found the number `80`"],
        ),
        (
            service("ports: ['80:80:80:80']"),
            &[
                "4:13 services.a.ports.0 Does not match format 'ports', found \"80:80:80:80\": invalid IP address: 80:80",
            ],
        ),
        (
            service("ports: ['x:80']"),
            &[
                "4:13 services.a.ports.0 Does not match format 'ports', found \"x:80\": invalid hostPort: x",
            ],
        ),
        (
            service("ports: [{published: 80}]"),
            &["4:13 services.a.ports.0 target is required"],
        ),
        (
            service("ports: [{target: 80, published: 8000-8010}]"),
            &["4:37 services.a.ports.0.published must be a integer, found a range"],
        ),
        (
            service("ports: [{target: 80, mode: hots}]"),
            &[
                "4:32 services.a.ports.0.mode must be one of the following: \"ingress\", \"host\", found \"hots\"",
            ],
        ),
        (
            service("ports: [{target: 80, protocol: icmp}]"),
            &[
                "4:36 services.a.ports.0.protocol: invalid protocol value 'icmp'. Must be either tcp, udp or sctp",
            ],
        ),
        (service("ports: ['10.0.0.5:80:80', '10.0.0.6:80:81']"), &[]),
        (
            service("ports: [{target: 80, host_ip: 10.0.0.500}]"),
            &["4:35 services.a.ports.0.host_ip: invalid IP address syntax, found \"10.0.0.500\""],
        ),
        (
            service("ports: [{target: 80, x-skep-source: both}]"),
            &[
                "4:41 services.a.ports.0.x-skep-source: invalid source `both`: must be client, snat, proxy-protocol or proxy-protocol-v1, found \"both\"",
            ],
        ),
        (
            service("ports: ['80:80', '80:81']"),
            &["4:22 service a: EndpointSpec: duplicate published ports provided"],
        ),
        (
            service("volumes: ['aa:bb:cc:dd']"),
            &["4:15 services.a.volumes.0 invalid spec: aa:bb:cc:dd: too many colons"],
        ),
        (
            service("volumes: ['data:/data']"),
            &["4:15 service a: undefined volume \"data\""],
        ),
        (
            service("volumes: [relative]"),
            &[
                "4:15 service a: invalid mount config for type \"volume\": invalid mount path: 'relative' mount path must be absolute",
            ],
        ),
        (
            service("volumes: [{target: /x}]"),
            &["4:15 services.a.volumes.0 type is required"],
        ),
        (
            service("volumes: [{type: bind, target: /x}]"),
            &["4:15 invalid mount config for type \"bind\": field Source must not be empty"],
        ),
        (
            service("volumes: [{type: vol, target: /x}]"),
            &[
                "4:22 services.a.volumes.0.type must be one of the following: \"bind\", \"volume\", \"tmpfs\", \"npipe\", \"cluster\", \"image\", found \"vol\"",
            ],
        ),
        (
            service("volumes: [{type: tmpfs, source: a, target: /x}]"),
            &["4:15 service a: invalid tmpfs source, source must be empty"],
        ),
        (
            service("volumes: [{type: tmpfs, target: /x, bind: {}}]"),
            &["4:15 service a: bind options are incompatible with type tmpfs"],
        ),
        (
            service("volumes: ['/a:/b', '/c:/b']"),
            &["4:24 service a: ContainerSpec: duplicate mount point: /b"],
        ),
        (
            service("volumes: ['/a:/b:z']"),
            &["warning 4:15 services.a.volumes.0 option `z` has no effect"],
        ),
        (
            service("secrets: [nobody]"),
            &["4:15 service a: undefined secret \"nobody\""],
        ),
        (
            service("configs: [{target: /x}]"),
            &["4:15 services.a.configs.0 source is required"],
        ),
        (
            service("networks: [nobody]"),
            &["4:16 service a: undefined network \"nobody\""],
        ),
        (
            service("secrets: [{source: s, mode: 99}]") + "secrets: {s: {file: secret.txt}}\n",
            &[],
        ),
        (
            service("secrets: [{source: s, mode: 440}]") + "secrets: {s: {file: secret.txt}}\n",
            &["warning 4:33 services.a.secrets.0.mode is the decimal number 440"],
        ),
        (
            service("deploy: {resources: {reservations: {cpus: '0.0001'}}}"),
            &[
                "4:47 services.a.deploy.resources.reservations.cpus: invalid cpu value 0.0001: Must be at least 0.001",
            ],
        ),
        (
            service("secrets: [{source: s, mode: '0999'}]") + "secrets: {s: {file: secret.txt}}\n",
            &[
                "4:33 services.a.secrets.0.mode must be a number (permission bits, as 0440), found the string \"0999\"",
            ],
        ),
        (
            service("cap_add: [A, A]"),
            &["4:18 services.a.cap_add array items[0,1] must be unique"],
        ),
        (
            service("dns: [not-an-address]"),
            &["warning 4:11 the name server \"not-an-address\" has no effect: it is no IP address"],
        ),
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
            &[
                "warning 4:5 services.a.depends_on has no effect: services of a stack start in any order",
            ],
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
        (
            service("hostname: $NOBODY"),
            &["warning 4:15 The \"NOBODY\" variable is not set. Defaulting to a blank string."],
        ),
        (
            service("hostname: '${NOBODY:?set it}'"),
            &[
                "4:16 invalid interpolation format for services.a.hostname: \"required variable NOBODY is missing a value: set it\"; you may need to escape any $ with another $",
            ],
        ),
        (
            service("command: |\n      one\n      two ${"),
            &[
                "6:11 invalid interpolation format for services.a.command: \"one\\ntwo ${\\n\"; you may need to escape any $ with another $",
            ],
        ),
        (
            service("deploy: {replicas: '${NOBODY:-x}'}"),
            &["4:24 services.a.deploy.replicas must be a integer, found the string \"x\""],
        ),
        (
            service("extends: nobody"),
            &["4:14 cannot extend service \"nobody\": it is not in that file"],
        ),
        (
            service("extends: a"),
            &["4:14 service \"a\" extends itself"],
        ),
        (
            service("extends: {service: base, file: gone.yml}"),
            &["4:36 open /project/gone.yml: no such file or directory"],
        ),
        (
            service("tmpfs: /run:mode=9"),
            &["4:12 service a: tmpfs mode: want octal permission bits, found \"9\""],
        ),
        (
            "services:\n  a: {command: x}\n".to_owned(),
            &["2:3 invalid image reference for service a: no image specified"],
        ),
        (
            "services:\n  a: {image: UPPER}\n".to_owned(),
            &[
                "2:14 invalid image reference for service a: invalid reference format: repository name must be lowercase",
            ],
        ),
        (
            "services:\n  a.b: {image: x}\n".to_owned(),
            &["2:3 service a.b: name must be valid as a DNS name component"],
        ),
        (
            service("") + "networks: {n: {}}\n",
            &["warning 5:12 networks.n is not made: no service uses it"],
        ),
        (
            service("networks: [n]") + "networks: {n: {driver: bridge}}\n",
            &["5:12 network n: network driver bridge does not span a cluster; use overlay"],
        ),
        (
            service("networks: [n]") + "networks: {n: {ipam: {config: [{subnet: 10.0.0.0}]}}}\n",
            &[
                "5:41 networks.n.ipam.config.0.subnet is no address range, found \"10.0.0.0\": want 10.1.0.0/16",
            ],
        ),
        (
            service("networks: [n]") + "networks: {n: {external: {name: o}, name: p}}\n",
            &[
                "5:27 network n: network.external.name and network.name conflict; only use network.name",
            ],
        ),
        (
            service("networks: [n]") + "networks: {n: {external: {name: o}}}\n",
            &[
                "warning 5:27 network n: network.external.name is deprecated in favor of network.name",
            ],
        ),
        (
            service("") + "volumes: {v: {external: true, driver: d}}\n",
            &["5:15 conflicting parameters \"external\" and \"driver\" specified for volume \"v\""],
        ),
        (
            service("") + "secrets: {s: {file: gone.txt}}\n",
            &["5:21 open /project/gone.txt: no such file or directory"],
        ),
        (
            service("") + "secrets: {s: {}}\n",
            &["5:11 secret s has no payload"],
        ),
        (
            service("") + "secrets: {s: {driver: d, file: f}}\n",
            &["5:32 secret s: secret.driver and secret.file conflict; only use secret.driver"],
        ),
        (
            service("") + "secrets: {s: {environment: NOBODY}}\n",
            &["5:28 secret s: the variable \"NOBODY\" is not set"],
        ),
        (
            service("") + "configs: {c: {content: ''}}\n",
            &["5:11 config c: config data must be larger than 0 and less than 1024000 bytes"],
        ),
        (
            service("") + "include: [gone.yml]\n",
            &["5:11 open /project/gone.yml: no such file or directory"],
        ),
    ]);
}

#[test]
fn a_message_shows_the_line_and_what_to_do() {
    let text = "services:\n  web:\n\timage: x\n";
    let error = load_texts(&[text], &text_options()).unwrap_err();
    assert!(
        error[0].to_string().starts_with("error: 1.yml:3:"),
        "{}",
        error[0]
    );

    let text = service("enviroment: {A: 1}");
    let error = load_texts(&[&text], &text_options()).unwrap_err();
    let shown = error[0].to_string();
    let (message, hint) = shown.split_once("\nhint: ").unwrap();
    assert_eq!(
        message,
        "error: 1.yml:4:5: services.a Additional property enviroment is not allowed\n  \
         |\n4 |     enviroment: {A: 1}\n  |     ^"
    );
    assert!(
        hint.starts_with("did you mean `environment`? allowed here: annotations, "),
        "{hint}"
    );
    assert!(
        hint.contains(", image, ") && hint.ends_with(", working_dir, x-skep-drain"),
        "{hint}"
    );
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_files() {
    let first = "services:\n  a: {image: x, tty: maybe, colour: red}\n  b: {image: 5}\n";
    let second = "services:\n  a: {tty: no, dns: [1]}\n";
    let error = load_texts(&[first, second], &text_options()).unwrap_err();
    let places: Vec<_> = error
        .iter()
        .map(|d| (d.file.as_str(), d.line, d.column))
        .collect();
    assert_eq!(
        places,
        [
            ("1.yml", 2, 22),
            ("1.yml", 2, 29),
            ("1.yml", 3, 14),
            ("2.yml", 2, 22)
        ]
    );
}

#[test]
fn a_version_1_file_is_told_apart() {
    let error = load_texts(&["web:\n  image: x\n"], &text_options()).unwrap_err();
    assert!(
        error[0].hint.as_ref().unwrap().contains("version 1"),
        "{}",
        error[0]
    );
}

#[test]
fn strict_makes_warnings_errors() {
    let text = service("container_name: c");
    let loaded = load_texts(&[&text], &text_options()).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    let strict = Options {
        strict: true,
        ..text_options()
    };
    let error = load_texts(&[&text], &strict).unwrap_err();
    assert_eq!((error.len(), error[0].severity), (1, Severity::Error));
    assert!(load_texts(&[&service("tty: true")], &strict).is_ok());
}

#[test]
fn a_stack_has_a_name() {
    for stack in ["", " ", "''"] {
        let options = Options {
            stack: stack.to_owned(),
            ..text_options()
        };
        let error = load_texts(&[&service("tty: true")], &options).unwrap_err();
        assert!(
            error[0].message.starts_with("invalid stack name: "),
            "{}",
            error[0]
        );
        assert_eq!(error[0].file, "");
    }
    assert_eq!(
        load_texts(&[], &text_options()).unwrap_err()[0].message,
        "no files specified"
    );
}

#[test]
fn the_number_of_messages_is_bounded() {
    let mut text = String::from("services:\n  a:\n    image: x\n");
    for number in 0..1000 {
        text += &format!("    wrong{number}: x\n");
    }
    let error = load_texts(&[&text], &text_options()).unwrap_err();
    assert_eq!(error.len(), 201);
    assert_eq!(error[200].message, "800 more messages are not shown");
}

#[test]
fn what_only_a_cluster_refuses_is_printed_with_a_warning() {
    for (body, printed, message) in [
        (
            "deploy: {placement: {constraints: ['node.hostname == ${NOBODY}']}}",
            "'node.hostname == '",
            "is no constraint: value '' is invalid",
        ),
        (
            "deploy: {restart_policy: {condition: always}}",
            "condition: always",
            "must be one of the following: \"none\", \"on-failure\", \"any\", found \"always\"",
        ),
        (
            "deploy: {resources: {limits: {cpus: '0.0001', memory: 1k}}}",
            "cpus: \"0.0001\"",
            "invalid cpu value 0.0001: Must be at least 0.001",
        ),
        (
            "healthcheck: {test: [curl, x]}",
            "- curl",
            "must begin with NONE, CMD or CMD-SHELL, found \"curl\"",
        ),
    ] {
        let sources = [Source {
            name: "1.yml".to_owned(),
            text: service(body),
        }];
        let mut read = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let (document, warnings) =
            config(&sources, &support::env, &mut read, &text_options()).unwrap();
        assert!(document.contains(printed), "{body}: {document}");
        assert!(support::shown(&warnings).contains(message), "{body}");
        let errors = load_texts(&[&service(body)], &text_options()).unwrap_err();
        assert!(
            errors
                .iter()
                .any(|e| e.severity == Severity::Error && e.message.contains(message)),
            "{body}: {}",
            support::shown(&errors)
        );
    }
}
