//! What becomes of files: golden stacks, merges, extensions, and what must not matter.

mod golden;
#[path = "../support/mod.rs"]
mod support;

use serde_json::{Value, json};
use skep_compose::{Options, Source, load};
use support::{load_texts, shown, text_options};

fn stack(texts: &[&str]) -> Value {
    let loaded =
        load_texts(texts, &text_options()).unwrap_or_else(|found| panic!("{}", shown(&found)));
    serde_json::to_value(&loaded.stack).unwrap()
}

/// The container part of the only service.
fn container(texts: &[&str]) -> Value {
    stack(texts)["Services"][0]["TaskTemplate"]["ContainerSpec"].clone()
}

fn spec(body: &str) -> String {
    format!("services:\n  a:\n    image: x\n    {body}\n")
}

#[test]
fn each_slot_may_have_a_volume_of_its_own() {
    let mounts = |volumes: &str, top: &str| {
        let text = spec(volumes) + top;
        let mounts = container(&[&text])["Mounts"].clone();
        let mounts = mounts.as_array().unwrap().clone();
        let source = mounts[0]["Source"].as_str().unwrap().to_owned();
        let labels = mounts[0]["VolumeOptions"]["Labels"].clone();
        (source, labels)
    };
    let own = json!({"com.docker.stack.namespace": "zz"});
    let short = "volumes: [\"data-{{.Task.Slot}}:/data\"]";
    let long = "volumes: [{type: volume, source: \"data-{{.Task.Slot}}\", target: /data}]";
    let per_slot = "zz_data-{{.Task.Slot}}".to_owned();
    assert_eq!(mounts(short, ""), (per_slot.clone(), own.clone()));
    assert_eq!(mounts(long, ""), (per_slot, own.clone()));
    // With options of the volume: the name is given at the top level, as docker's client wants it.
    let top = "volumes:\n  data:\n    name: \"db-{{.Task.Slot}}\"\n    labels: {a: b}\n";
    let labels = json!({"a": "b", "com.docker.stack.namespace": "zz"});
    assert_eq!(
        mounts("volumes: [\"data:/data\"]", top),
        ("db-{{.Task.Slot}}".to_owned(), labels)
    );
}

#[test]
fn the_order_of_maps_and_lists_does_not_matter() {
    let one = "
services:
  b:
    image: y
  a:
    environment: [B=2, A=1]
    labels: [y=2, x=1]
    image: x
    networks: [n, m]
    secrets: [t, s]
    cap_add: [B, A]
    ports: ['81:81', '80:80']
    deploy: {labels: {d: 1, c: 2}}
networks: {n: , m: }
secrets: {t: {file: secret.txt}, s: {file: secret.txt}}
";
    let other = "
secrets: {s: {file: secret.txt}, t: {file: secret.txt}}
networks: {m: , n: }
services:
  a:
    image: x
    deploy: {labels: [c=2, d=1]}
    ports: ['80:80', '81:81']
    cap_add: [A, B]
    secrets: [s, t]
    networks: {m: , n: }
    labels: {x: 1, y: 2}
    environment: {A: 1, B: 2}
  b:
    image: y
";
    assert_eq!(stack(&[one]), stack(&[other]));
}

#[test]
fn our_own_extensions_are_read_where_docker_reads_nothing() {
    let made = stack(&[&spec("x-skep-drain: 30s")]);
    let template = &made["Services"][0]["TaskTemplate"];
    assert_eq!(template["DrainPeriod"], json!(30_000_000_000_u64));
    let wrong = load_texts(&[&spec("x-skep-drain: soon")], &text_options());
    let wrong = shown(&wrong.unwrap_err());
    assert!(
        wrong.contains("4:19: services.a.x-skep-drain Does not match format 'duration'"),
        "{wrong}"
    );
}

#[test]
fn names_labels_and_aliases_are_the_stacks() {
    let stack = stack(&["
services:
  web: {image: nginx, networks: {front: {aliases: [www]}, outside: }}
  plain: {image: nginx}
networks: {front: , outside: {external: true}}
secrets: {s: {external: true, name: kept}}
configs: {c: {external: true}}
"]);
    assert_eq!(stack["Name"], "zz");
    assert_eq!(stack["ExternalNetworks"], json!(["outside"]));
    assert_eq!(stack["ExternalSecrets"], json!(["kept"]));
    assert_eq!(stack["ExternalConfigs"], json!(["c"]));
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap();
        list.iter()
            .map(|one| one["Name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&stack["Networks"]), ["zz_default", "zz_front"]);
    assert_eq!(names(&stack["Services"]), ["zz_plain", "zz_web"]);
    let web = &stack["Services"][1];
    assert_eq!(
        web["Labels"],
        json!({"com.docker.stack.namespace": "zz", "com.docker.stack.image": "nginx"})
    );
    let template = &web["TaskTemplate"];
    assert_eq!(template["ContainerSpec"]["Image"], "nginx:latest");
    assert_eq!(
        template["Networks"],
        json!([
            {"Target": "outside", "Aliases": ["web"]},
            {"Target": "zz_front", "Aliases": ["www", "web"]},
        ])
    );
}

#[test]
fn later_files_win_even_with_false_and_with_nothing_lost() {
    let base = spec(
        "tty: true\n    init: true\n    ports: ['53:53', '53:53/udp', '98', '99']\n    healthcheck: {test: old, retries: 3}\n    volumes: ['/one:/data']\n    deploy: {replicas: 3}",
    );
    let over = "services:\n  a:\n    tty: false\n    init: false\n    ports: ['53:54/udp', '97']\n    healthcheck: {test: new}\n    volumes: ['/two:/data']\n    deploy: {replicas: 0}\n";
    let merged = stack(&[&base, over]);
    let service = &merged["Services"][0];
    let container = &service["TaskTemplate"]["ContainerSpec"];
    assert_eq!(container["TTY"], Value::Null);
    assert_eq!(container["Init"], false);
    assert_eq!(
        container["Healthcheck"],
        json!({"Test": ["CMD-SHELL", "new"], "Retries": 3})
    );
    assert_eq!(container["Mounts"][0]["Source"], "/two");
    assert_eq!(container["Mounts"].as_array().unwrap().len(), 1);
    assert_eq!(service["Mode"]["Replicated"]["Replicas"], 0);
    let ports: Vec<_> = service["EndpointSpec"]["Ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| {
            let published = port["PublishedPort"].as_u64().unwrap_or(0);
            format!(
                "{published}:{}/{}",
                port["TargetPort"],
                port["Protocol"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        ports,
        ["0:97/tcp", "0:98/tcp", "0:99/tcp", "53:53/tcp", "53:54/udp"]
    );
}

#[test]
fn top_level_entries_are_merged_key_by_key() {
    let base = "services: {a: {image: x, networks: [n]}}\nnetworks: {n: {attachable: true, driver_opts: {a: 1}, labels: {l: 1}}}\n";
    let over = "networks: {n: {driver_opts: {b: 2}}}\n";
    let network = &stack(&[base, over])["Networks"][0];
    assert_eq!(network["Attachable"], true);
    assert_eq!(
        network["DriverConfiguration"]["Options"],
        json!({"a": "1", "b": "2"})
    );
    let external = "networks: {n: {external: true, name: o}}\n";
    let merged = stack(&[base, external]);
    assert_eq!(merged["Networks"], json!([]));
    assert_eq!(merged["ExternalNetworks"], json!(["o"]));
}

#[test]
fn a_service_may_be_called_like_an_extension() {
    let stack = stack(&["services: {x-ray: {image: x, networks: [x-n]}}\nnetworks: {x-n: {}}\n"]);
    assert_eq!(stack["Services"][0]["Name"], "zz_x-ray");
    assert_eq!(stack["Networks"][0]["Name"], "zz_x-n");
}

#[test]
fn merge_tags_take_values_away() {
    let base = spec("ports: ['80:80']\n    environment: {A: 1}\n    hostname: h");
    let over = "services:\n  a:\n    ports: !override ['81:81']\n    environment: !reset {}\n    hostname: !reset null\n";
    let service = &stack(&[&base, over])["Services"][0];
    assert_eq!(
        service["EndpointSpec"]["Ports"].as_array().unwrap().len(),
        1
    );
    assert_eq!(service["EndpointSpec"]["Ports"][0]["PublishedPort"], 81);
    let container = &service["TaskTemplate"]["ContainerSpec"];
    assert_eq!(
        (&container["Env"], &container["Hostname"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn services_extend_others() {
    let text = "
services:
  a:
    extends: {service: base, file: sub/base.yml}
    environment: {B: own}
    volumes: [./more:/more]
";
    let container = container(&[text]);
    assert_eq!(container["Image"], "base:latest");
    assert_eq!(container["Args"], json!(["one"]));
    assert_eq!(container["Env"], json!(["A=base", "B=own"]));
    // Paths start from the file that names them.
    let sources: Vec<_> = container["Mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["Source"])
        .collect();
    assert_eq!(sources, ["/project/sub/data", "/project/more"]);

    let same = "services:\n  a: {extends: b, tty: true}\n  b: {image: b, hostname: h}\n";
    let service = &stack(&[same])["Services"][0]["TaskTemplate"]["ContainerSpec"];
    assert_eq!(
        (&service["Hostname"], &service["TTY"]),
        (&json!("h"), &json!(true))
    );
}

#[test]
fn files_include_others() {
    let text = "include: [sub/base.yml]\nservices:\n  base: {hostname: h}\n";
    let container = container(&[text]);
    assert_eq!(
        (&container["Image"], &container["Hostname"]),
        (&json!("base:latest"), &json!("h"))
    );
}

#[test]
fn keys_of_todays_specification_are_honoured() {
    let body = "\
group_add: [audio, 44]
    tmpfs: ['/run:size=64m,mode=1770,ro', /tmp]
    dns_opt: [use-vc]
    oom_score_adj: -500
    ulimits: {core: 0}
    scale: 4
    cpus: 0.5
    mem_reservation: 64m
    pids_limit: 100
    platform: linux/arm64
    env_file: [{path: vars.env}]
    configs: [inline]
    secrets: [from_env]
    volumes:
      - {type: bind, source: /s, target: /t, bind: {create_host_path: true, recursive: disabled}}
      - {type: tmpfs, target: /u, tmpfs: {size: 1k, mode: 0700}}
      - {type: image, source: alpine, target: /i, image: {subpath: etc}}
    ports: [{target: 80, published: '8080', name: http}]";
    let text = spec(body)
        + "configs: {inline: {content: 'for ${TAG}'}}\nsecrets: {from_env: {environment: TAG}}\n";
    let stack = stack(&[&text]);
    let service = &stack["Services"][0];
    let container = &service["TaskTemplate"]["ContainerSpec"];
    assert_eq!(container["Groups"], json!(["audio", "44"]));
    assert_eq!(container["DNSConfig"]["Options"], json!(["use-vc"]));
    assert_eq!(container["OomScoreAdj"], -500);
    assert_eq!(
        container["Ulimits"],
        json!([{"Name": "core", "Hard": 0, "Soft": 0}])
    );
    assert_eq!(container["Env"], json!(["FROM_FILE=1"]));
    assert_eq!(
        container["Mounts"],
        json!([
            {"Type": "bind", "Source": "/s", "Target": "/t",
             "BindOptions": {"CreateMountpoint": true, "NonRecursive": true}},
            {"Type": "tmpfs", "Target": "/u", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 448}},
            {"Type": "image", "Source": "alpine", "Target": "/i", "ImageOptions": {"Subpath": "etc"}},
            {"Type": "tmpfs", "Target": "/run", "ReadOnly": true,
             "TmpfsOptions": {"SizeBytes": 67_108_864, "Mode": 1016}},
            {"Type": "tmpfs", "Target": "/tmp"},
        ])
    );
    assert_eq!(service["Mode"]["Replicated"]["Replicas"], 4);
    assert_eq!(
        service["TaskTemplate"]["Resources"],
        json!({"Limits": {"NanoCPUs": 500_000_000, "Pids": 100},
               "Reservations": {"MemoryBytes": 67_108_864}})
    );
    assert_eq!(
        service["TaskTemplate"]["Placement"]["Platforms"],
        json!([{"Architecture": "arm64", "OS": "linux"}])
    );
    assert_eq!(
        service["EndpointSpec"]["Ports"][0],
        json!({"Name": "http", "Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080,
               "PublishMode": "ingress"})
    );
    // "for 1.2" and "1.2" in base64.
    assert_eq!(stack["Configs"][0]["Data"], "Zm9yIDEuMg==");
    assert_eq!(stack["Secrets"][0]["Data"], "MS4y");
}

#[test]
fn modes_are_octal_however_they_are_written() {
    for written in [
        "0440",
        "0o440",
        "'0440'",
        "'440'",
        "288",
        "\"${MODE:-0440}\"",
    ] {
        let text = spec(&format!("secrets: [{{source: s, mode: {written}}}]"))
            + "secrets: {s: {file: secret.txt}}\n";
        let container = container(&[&text]);
        assert_eq!(container["Secrets"][0]["File"]["Mode"], 0o440, "{written}");
    }
}

#[test]
fn words_for_booleans_are_understood_unquoted_and_quoted() {
    for yes in ["true", "yes", "on", "'true'", "y", "True", "${X:-on}"] {
        assert_eq!(
            container(&[&spec(&format!("tty: {yes}"))])["TTY"],
            true,
            "{yes}"
        );
    }
    for no in ["false", "no", "off", "N"] {
        assert_eq!(
            container(&[&spec(&format!("tty: {no}"))])["TTY"],
            Value::Null,
            "{no}"
        );
    }
}

#[test]
fn inactive_profiles_are_left_out() {
    let text = "services:\n  a: {image: x}\n  b: {image: y, profiles: [debug]}\n";
    let with = |profiles: &'static str| {
        let sources = [Source {
            name: "f".to_owned(),
            text: text.to_owned(),
        }];
        let env = move |name: &str| (name == "COMPOSE_PROFILES").then(|| profiles.to_owned());
        let mut read = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        load(&sources, &env, &mut read, &text_options())
            .unwrap()
            .stack
            .services
            .len()
    };
    assert_eq!(
        (with(""), with("other"), with("x, debug"), with("*")),
        (1, 1, 2, 2)
    );
}

#[test]
fn without_interpolation_dollars_stay() {
    let options = Options {
        interpolate: false,
        ..text_options()
    };
    let loaded = load_texts(&[&spec("hostname: ${NOBODY}$$")], &options).unwrap();
    assert!(
        loaded.document.contains("hostname: ${NOBODY}$$\n"),
        "{}",
        loaded.document
    );
    assert!(loaded.warnings.is_empty());
}

#[test]
fn services_wait_for_what_they_depend_on() {
    let text = "
services:
  web: {image: x, depends_on: {db: {condition: service_healthy}, move: {condition: service_completed_successfully}}}
  db: {image: y}
  move: {image: z, depends_on: [db]}
  left: {image: z, depends_on: [right]}
  right: {image: z, depends_on: [left]}
";
    let later = "services: {web: {depends_on: [db, left]}}";
    let loaded = load_texts(&[text, later], &text_options()).unwrap();
    let spec = serde_json::to_value(&loaded.stack).unwrap();
    assert_eq!(
        spec["DependsOn"],
        json!({
            "zz_web": [
                {"Service": "zz_db", "Condition": "service_healthy"},
                {"Service": "zz_left", "Condition": "service_started"},
                {"Service": "zz_move", "Condition": "service_completed_successfully"},
            ],
            "zz_move": [{"Service": "zz_db", "Condition": "service_started"}],
            "zz_left": [{"Service": "zz_right", "Condition": "service_started"}],
        })
    );
    assert_eq!(loaded.warnings.len(), 1, "{}", shown(&loaded.warnings));
    let restarts = |service: usize| {
        let policy = &loaded.stack.services[service].task_template.restart_policy;
        policy.as_ref().map(|policy| policy.condition)
    };
    use skep_model::task::RestartCondition;
    assert_eq!(
        restarts(2),
        Some(RestartCondition::OnFailure),
        "it is to end"
    );
    assert_eq!(restarts(1), None);
}
