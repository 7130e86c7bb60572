//! Compose files as projects of one host: what containers are made of, and what is refused.

mod support;

use serde_json::{Value, json};
use skep_compose::{Condition, Project, ProjectOptions, WatchAction, project};
use support::{reader, shown, text_sources};

fn options() -> ProjectOptions {
    ProjectOptions {
        name: "app".to_owned(),
        interpolate: true,
        working_dir: "/srv".to_owned(),
        profiles: Vec::new(),
        services: Vec::new(),
    }
}

fn load_with(texts: &[&str], options: &ProjectOptions) -> Result<Project, String> {
    let files = [
        ("/srv/vars.env", "A=\"x y\" # c\nB='${A}'\nC=${A}!\nD\n"),
        ("/srv/key.txt", "key"),
    ];
    let env = |name: &str| match name {
        "SET" => Some("set".to_owned()),
        _ => None,
    };
    let sources = text_sources(texts);
    project(&sources, &env, &mut reader(&files), options).map_err(|found| shown(&found))
}

#[track_caller]
fn load(text: &str) -> Project {
    load_with(&[text], &options()).unwrap_or_else(|wrong| panic!("{wrong}"))
}

#[track_caller]
fn body(service: &str) -> Value {
    let text = format!(
        "services:\n  a:\n    image: x\n{service}volumes: {{vol: {{}}}}\nsecrets: {{k: {{file: key.txt}}, e: {{environment: SET}}}}\nconfigs: {{c: {{content: hi}}}}\n"
    );
    load(&text).services["a"].body.clone()
}

#[test]
fn a_service_is_the_body_of_a_container() {
    for (service, path, wanted) in [
        ("    command: a b\n", "/Cmd", json!(["a", "b"])),
        ("    user: 5:6\n", "/User", json!("5:6")),
        (
            "    restart: no\n",
            "/HostConfig/RestartPolicy/Name",
            json!("no"),
        ),
        (
            "    restart: on-failure:3\n",
            "/HostConfig/RestartPolicy",
            json!({"Name": "on-failure", "MaximumRetryCount": 3}),
        ),
        (
            "    deploy: {restart_policy: {condition: any}}\n",
            "/HostConfig/RestartPolicy/Name",
            json!("always"),
        ),
        (
            "    mem_limit: 64m\n",
            "/HostConfig/Memory",
            json!(64 << 20),
        ),
        (
            "    mem_limit: 64m\n    deploy: {resources: {limits: {memory: 32m, cpus: '0.5', pids: 9}}}\n",
            "/HostConfig/Memory",
            json!(32 << 20),
        ),
        (
            "    cpus: 1.5\n",
            "/HostConfig/NanoCpus",
            json!(1_500_000_000),
        ),
        (
            "    memswap_limit: -1\n",
            "/HostConfig/MemorySwap",
            json!(-1),
        ),
        (
            "    cpu_period: 50ms\n",
            "/HostConfig/CpuPeriod",
            json!(50_000),
        ),
        ("    stop_grace_period: 1500ms\n", "/StopTimeout", json!(2)),
        (
            "    ports: [\"127.0.0.1:80:8080/udp\"]\n",
            "/HostConfig/PortBindings",
            json!({"8080/udp": [{"HostIp": "127.0.0.1", "HostPort": "80"}]}),
        ),
        (
            "    expose: [80, \"90-91/udp\"]\n",
            "/ExposedPorts",
            json!({"80/tcp": {}, "90/udp": {}, "91/udp": {}}),
        ),
        (
            "    environment: {A: '', B: null, SET: null, C: 1}\n",
            "/Env",
            json!(["A=", "C=1", "SET=set"]),
        ),
        (
            "    env_file: vars.env\n",
            "/Env",
            json!(["A=x y", "B=${A}", "C=x y!"]),
        ),
        (
            "    devices: [/dev/fuse, {source: /dev/a, target: /dev/b, permissions: r}]\n",
            "/HostConfig/Devices",
            json!([
                {"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"},
                {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"},
            ]),
        ),
        (
            "    tmpfs: [/a, \"/b:size=1m\"]\n",
            "/HostConfig/Tmpfs",
            json!({"/a": "", "/b": "size=1m"}),
        ),
        (
            "    volumes: [\"vol:/v:ro\"]\n",
            "/HostConfig/Mounts",
            json!([{"Type": "volume", "Source": "app_vol", "Target": "/v", "ReadOnly": true}]),
        ),
        (
            "    volumes: [\"./d:/d\"]\n",
            "/HostConfig/Mounts/0/Source",
            json!("/srv/d"),
        ),
        (
            "    secrets: [k]\n",
            "/HostConfig/Mounts/0/Target",
            json!("/run/secrets/k"),
        ),
        (
            "    extra_hosts: {other: 192.0.2.5}\n",
            "/HostConfig/ExtraHosts",
            json!(["other:192.0.2.5"]),
        ),
        (
            "    privileged: true\n",
            "/HostConfig/Privileged",
            json!(true),
        ),
        (
            "    cgroup: host\n",
            "/HostConfig/CgroupnsMode",
            json!("host"),
        ),
        (
            "    blkio_config: {weight: 300, device_read_bps: [{path: /dev/sda, rate: 1mb}]}\n",
            "/HostConfig/BlkioDeviceReadBps",
            json!([{"Path": "/dev/sda", "Rate": 1 << 20}]),
        ),
        (
            "    gpus: all\n",
            "/HostConfig/DeviceRequests/0/Count",
            json!(-1),
        ),
        (
            "    healthcheck: {disable: true}\n",
            "/Healthcheck/Test",
            json!(["NONE"]),
        ),
        (
            "    healthcheck: {test: exit 0, interval: 1s, retries: 2}\n",
            "/Healthcheck/Test",
            json!(["CMD-SHELL", "exit 0"]),
        ),
    ] {
        assert_eq!(body(service).pointer(path), Some(&wanted), "{service}");
    }
}

#[test]
fn payloads_without_a_file_are_put_into_the_container() {
    let project = load(
        "services: {a: {image: x, secrets: [e, {source: k, mode: 0400, uid: '5'}], configs: [{source: c, target: /etc/c}]}}\nsecrets: {e: {environment: SET}, k: {file: key.txt}}\nconfigs: {c: {content: 'hi ${SET}'}}\n",
    );
    let files: Vec<_> = project.services["a"]
        .files
        .iter()
        .map(|file| {
            let content = String::from_utf8_lossy(&file.content).into_owned();
            (file.target.as_str(), content, file.mode, file.uid)
        })
        .collect();
    assert_eq!(
        files,
        [
            ("/run/secrets/e", "set".to_owned(), 0o444, 0),
            ("/run/secrets/k", "key".to_owned(), 0o400, 5),
            ("/etc/c", "hi set".to_owned(), 0o444, 0),
        ]
    );
}

#[test]
fn services_are_related() {
    let project = load(
        "services:\n  a:\n    image: x\n    depends_on: {b: {condition: service_healthy, restart: true}, gone: {condition: service_started, required: false}}\n    networks: {late: {priority: 1}, first: {priority: 5, aliases: [n], ipv4_address: 10.1.0.5}}\n  b: {image: x, network_mode: 'service:c', scale: 3}\n  c: {build: ., deploy: {replicas: 2}}\nnetworks: {late: {}, first: {name: real, external: true}}\n",
    );
    let a = &project.services["a"];
    assert_eq!(a.depends_on.len(), 1);
    assert!(a.depends_on["b"].restart && a.depends_on["b"].condition == Condition::Healthy);
    let networks: Vec<&str> = a.networks.iter().map(|one| one.network.as_str()).collect();
    assert_eq!(networks, ["first", "late"]);
    assert_eq!(
        a.networks[0].settings["IPAMConfig"]["IPv4Address"],
        "10.1.0.5"
    );
    let b = &project.services["b"];
    assert!(b.depends_on.contains_key("c") && b.networks.is_empty() && b.replicas == 3);
    assert_eq!(project.services["c"].replicas, 2);
    assert_eq!(
        project.services["c"].build.as_ref().unwrap().context,
        "/srv"
    );
    assert!(project.networks["first"].external && project.networks["first"].name == "real");
    assert_eq!(project.networks["late"].name, "app_late");
    assert_eq!(project.networks["default"].name, "app_default");
    assert!(project.document.starts_with("name: app\nservices:\n  a:\n"));
    assert_eq!(project.json["services"]["b"]["network_mode"], "service:c");
}

#[test]
fn profiles_choose_services() {
    let text = "services: {a: {image: x}, b: {image: x, profiles: [p], depends_on: [c]}, c: {image: x, profiles: [p]}, d: {image: x, profiles: [q]}}";
    let names = |profiles: &[&str], services: &[&str]| {
        let own = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
        let options = ProjectOptions {
            profiles: own(profiles),
            services: own(services),
            ..options()
        };
        let project = load_with(&[text], &options).unwrap();
        assert_eq!(skep_compose::profiles(&project).len(), 2);
        project.services.into_keys().collect::<String>()
    };
    assert_eq!(names(&[], &[]), "a");
    assert_eq!(names(&["p"], &[]), "abc");
    assert_eq!(names(&["*"], &[]), "abcd");
    assert_eq!(names(&[], &["b"]), "abc");
}

#[test]
fn later_files_are_put_over_earlier_ones() {
    let first = "version: '2.4'\nservices: {a: {build: one, privileged: true, expose: [80], depends_on: [b], container_name: n1}, b: {image: x}}";
    let later = "services: {a: {build: {target: t, args: {A: 1}}, expose: [80, 81], depends_on: {b: {condition: service_healthy}}, container_name: n2, privileged: false}}";
    let project = load_with(&[first, later], &options()).unwrap();
    let a = &project.services["a"];
    let build = a.build.as_ref().unwrap();
    assert_eq!(build.target, "t");
    assert_eq!(build.args["A"].as_deref(), Some("1"));
    assert_eq!(a.container_name.as_deref(), Some("n2"));
    assert_eq!(a.depends_on["b"].condition, Condition::Healthy);
    assert_eq!(a.body["ExposedPorts"].as_object().unwrap().len(), 2);
    assert_eq!(a.body["HostConfig"]["Privileged"], false);
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, wanted) in [
        (
            "services: {a: {command: x}}",
            "1.yml:1:12: service \"a\" has neither an image nor a build context",
        ),
        (
            "services: {a: {image: x, depends_on: [b]}}",
            "1.yml:1:39: service \"a\" depends on undefined service \"b\"",
        ),
        (
            "services: {a: {image: x, depends_on: [a]}}",
            "dependency cycle detected: a -> a",
        ),
        (
            "services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [c]}, c: {image: x, links: [a]}}",
            "dependency cycle detected: a -> b -> c -> a",
        ),
        (
            "services: {a: {image: x, networks: [n]}}",
            "refers to undefined network n",
        ),
        (
            "services: {a: {image: x, volumes: ['vol:/v']}}",
            "refers to undefined volume vol",
        ),
        (
            "services: {a: {image: x, secrets: [s]}}",
            "refers to undefined secret s",
        ),
        (
            "services: {a: {image: x, secrets: [s]}}\nsecrets: {s: {external: true}}",
            "unsupported external secret s",
        ),
        (
            "services: {a: {image: x, secrets: [s]}}\nsecrets: {s: {environment: NONE}}",
            "environment variable \"NONE\" required by secret \"s\" is not set",
        ),
        (
            "services: {a: {image: x, network_mode: host, networks: [default]}}",
            "mutually exclusive",
        ),
        (
            "services: {a: {image: x, container_name: n1, scale: 2}}",
            "more than one container and a container_name",
        ),
        (
            "services: {a: {image: x, container_name: -n}}",
            "container_name \"-n\" is not valid",
        ),
        (
            "services: {a: {image: x, privileged: 5}}",
            "services.a.privileged must be a boolean",
        ),
        (
            "services: {a: {image: x, pull_policy: sometimes}}",
            "pull_policy must be one of",
        ),
        (
            "services: {a: {image: x, restart: sometimes}}",
            "invalid restart policy \"sometimes\"",
        ),
        (
            "services: {a: {image: x, build: {secrets: [s]}}}",
            "services.a.build.secrets cannot be honoured",
        ),
        (
            "services: {a: {image: x, bogus: 1}}",
            "services.a Additional property bogus is not allowed",
        ),
        (
            "services: {a: {image: x, expose: [x]}}",
            "expose: invalid port \"x\"",
        ),
        (
            "services: {a: {image: x, depends_on: {b: {condition: soon}}}, b: {image: x}}",
            "must be one of the following",
        ),
    ] {
        match load_with(&[text], &options()) {
            Ok(project) => panic!("{text}: {project:?}"),
            Err(found) => assert!(found.contains(wanted), "{text}: {wanted}: {found}"),
        }
    }
}

#[test]
fn watched_files_have_absolute_paths_and_places_to_go() {
    let text = "services:
  a:
    image: x
    build: .
    develop:
      watch:
        - {path: ./src, action: sync, target: /app, ignore: [node_modules/], initial_sync: true}
        - {path: package.json, action: rebuild}
        - {path: etc, action: sync+exec, target: /etc/a, include: '*.conf', exec: {command: reload it}}
";
    let project = load(text);
    let watch = &project.services["a"].watch;
    let shown: Vec<(&str, WatchAction, &str)> = watch
        .iter()
        .map(|rule| (rule.path.as_str(), rule.action, rule.target.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            ("/srv/src", WatchAction::Sync, "/app"),
            ("/srv/package.json", WatchAction::Rebuild, ""),
            ("/srv/etc", WatchAction::SyncExec, "/etc/a"),
        ]
    );
    assert_eq!(watch[0].ignore, ["node_modules/"]);
    assert!(watch[0].initial_sync && !watch[1].initial_sync);
    assert_eq!(watch[2].include, ["*.conf"]);
    assert_eq!(watch[2].exec.as_ref().unwrap().command, ["reload", "it"]);
    assert!(project.document.contains("action: sync+exec"));
    assert_eq!(project.warnings, []);
}

#[test]
fn what_has_no_effect_is_told() {
    let project = load(
        "services: {a: {image: x, develop: {watch: []}, build: {context: ., cache_from: [x]}}}",
    );
    let told: Vec<String> = project.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    // A project says nothing about what only a cluster does.
    let quiet = load(
        "version: '3.8'\nservices: {a: {image: x, restart: always, ports: ['80:80'], deploy: {placement: {constraints: [node.role == manager]}}}}",
    );
    assert_eq!(quiet.warnings, []);
}

#[test]
fn what_a_list_holds_twice_counts_once() {
    let repeats = "    ports: [\"80:80\", \"443\", \"80:80\", {target: 80, published: 80}, 443]
    expose: [9, \"9\", 9]
    links: [b, b]
    env_file: [vars.env, vars.env]
    environment: [A=1, A=1]
    devices: [/dev/a, /dev/a, \"/dev/b:/dev/a:r\"]
    cap_add: [A, B, A]
    dns: [192.0.2.1, 192.0.2.1]
    tmpfs: [/t, /t]
    volumes: [\"vol:/v\", \"vol:/v\", \"vol:/v:ro\"]
    secrets: [k, k]
    profiles: [p, p]
    networks: {default: {aliases: [x, x]}}
    build: {context: ., args: [A=1, A=1], tags: [t, t]}
";
    let text = |own: &str| {
        format!(
            "services:\n  b: {{image: x}}\n  a:\n    image: x\n{own}volumes: {{vol: {{}}}}\nsecrets: {{k: {{file: key.txt}}}}\n"
        )
    };
    let options = ProjectOptions {
        profiles: vec!["p".to_owned()],
        ..options()
    };
    let project = load_with(&[&text(repeats)], &options).unwrap_or_else(|wrong| panic!("{wrong}"));
    let service = &project.services["a"];
    for (path, wanted) in [
        (
            "/HostConfig/PortBindings",
            json!({
                "80/tcp": [{"HostIp": "", "HostPort": "80"}],
                "443/tcp": [{"HostIp": "", "HostPort": ""}],
            }),
        ),
        (
            "/ExposedPorts",
            json!({"80/tcp": {}, "443/tcp": {}, "9/tcp": {}}),
        ),
        (
            "/HostConfig/Devices",
            json!([{"PathOnHost": "/dev/b", "PathInContainer": "/dev/a", "CgroupPermissions": "r"}]),
        ),
        ("/HostConfig/CapAdd", json!(["A", "B"])),
        ("/HostConfig/Dns", json!(["192.0.2.1"])),
        ("/HostConfig/Tmpfs", json!({"/t": ""})),
        (
            "/HostConfig/Mounts/0",
            json!({"Type": "volume", "Source": "app_vol", "Target": "/v", "ReadOnly": true}),
        ),
        ("/HostConfig/Mounts/1/Target", json!("/run/secrets/k")),
        ("/HostConfig/Mounts/2", Value::Null),
    ] {
        let found = service.body.pointer(path).unwrap_or(&Value::Null);
        assert_eq!(*found, wanted, "{path}");
    }
    assert_eq!(service.links.len(), 1);
    assert_eq!(service.networks[0].aliases, ["x"]);
    assert_eq!(service.build.as_ref().unwrap().tags, ["t"]);
    // These docker's compose does not go through before it checks them.
    for list in [
        "security_opt: [a, a]",
        "group_add: [a, a]",
        "volumes_from: [b, b]",
        "external_links: [c, c]",
        "device_cgroup_rules: [\"c 1:3 r\", \"c 1:3 r\"]",
        "depends_on: [b, b]",
        "extra_hosts: [\"h:192.0.2.1\", \"h:192.0.2.1\"]",
    ] {
        let wrong = load_with(&[&text(&format!("    {list}\n"))], &options).unwrap_err();
        let why = "array items[0,1] must be unique";
        assert!(wrong.contains(why), "{list}: {wrong}");
    }
}
