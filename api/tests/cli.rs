//! The unmodified docker CLI against the server: what it prints for a cluster.

mod common;

use std::sync::Arc;

use common::cluster::{FakeCluster, NOW};
use common::docker::{docker, docker_is_here, prints};
use common::with_server;
use skep_model::service::Endpoint;
use skep_model::{Service, ServiceId, Task, TaskId, TaskState};
use skep_store::Object;

/// The words of each line: tables without their padding.
fn rows(text: &str) -> Vec<Vec<String>> {
    text.lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

fn with_a_service() -> Arc<FakeCluster> {
    let cluster = FakeCluster::manager();
    let spec = serde_json::json!({
        "Name": "web",
        "TaskTemplate": {"ContainerSpec": {"Image": format!("nginx:1@sha256:{}", "0123".repeat(16))}},
        "Mode": {"Replicated": {"Replicas": 2}},
        "EndpointSpec": {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080,
            "PublishMode": "ingress"}]},
    });
    let mut service = Service {
        id: ServiceId::new("service1aaaaaaaaaaaaaaaaa"),
        spec: serde_json::from_value(spec).unwrap(),
        created_at: NOW,
        updated_at: NOW,
        ..Service::default()
    };
    service.endpoint = Endpoint {
        spec: service.spec.endpoint_spec.clone().unwrap(),
        ports: service.spec.ports().to_vec(),
        virtual_ips: Vec::new(),
    };
    cluster.put(Object::Service(Arc::new(service.clone())));
    for slot in [1, 2] {
        let mut task = Task {
            id: TaskId::new(format!("task{slot}aaaaaaaaaaaaaaaaaaaa")),
            service_id: service.id.clone(),
            service_name: "web".into(),
            slot,
            node_id: cluster.local.lock().unwrap().node_id.clone(),
            spec: service.spec.task_template.clone(),
            desired_state: TaskState::Running,
            created_at: NOW,
            ..Task::default()
        };
        task.status.timestamp = NOW;
        task.status.state = match slot {
            1 => TaskState::Running,
            _ => TaskState::Pending,
        };
        if slot == 2 {
            task.status.err = "no suitable node".into();
        }
        cluster.put(Object::Task(Arc::new(task)));
    }
    cluster
}

#[test]
fn the_daemon_introduces_itself() {
    if !docker_is_here() {
        return;
    }
    with_server(FakeCluster::manager(), |server| async move {
        let version = prints(&server, "version").await;
        assert!(
            version.contains("API version:      1.50 (minimum version 1.24)"),
            "{version}"
        );
        let ran = docker(&server, "info").await;
        assert!(
            ran.ok && !ran.out.contains("ERROR"),
            "{}{}",
            ran.out,
            ran.err
        );
        for line in [
            "Swarm: active",
            "Is Manager: true",
            "Managers: 1",
            "Default Address Pool: 10.0.0.0/8",
            "Data Path Port: 4789",
            "Manager Addresses:",
        ] {
            assert!(ran.out.contains(line), "{line} in {}", ran.out);
        }
        assert!(
            prints(&server, "ps -a")
                .await
                .starts_with("CONTAINER ID   IMAGE")
        );
        assert!(prints(&server, "images").await.starts_with("REPOSITORY"));
        assert!(prints(&server, "volume ls").await.starts_with("DRIVER"));
    });
}

#[test]
fn tables_of_the_cluster_are_right() {
    if !docker_is_here() {
        return;
    }
    with_server(with_a_service(), |server| async move {
        let nodes = rows(&prints(&server, "node ls").await);
        assert_eq!(
            nodes[0].join(" "),
            "ID HOSTNAME STATUS AVAILABILITY MANAGER STATUS ENGINE VERSION"
        );
        assert_eq!(
            nodes[1].join(" "),
            "node1aaaaaaaaaaaaaaaaaaaa * n1 Ready Active Leader 0.1.0"
        );
        let services = rows(&prints(&server, "service ls").await);
        assert_eq!(services[0].join(" "), "ID NAME MODE REPLICAS IMAGE PORTS");
        assert_eq!(
            services[1].join(" "),
            "service1aaaa web replicated 1/2 nginx:1 *:8080->80/tcp"
        );
        let tasks = prints(
            &server,
            "service ps --format {{.Name}}|{{.Image}}|{{.Node}}|{{.DesiredState}}|{{.Error}} web",
        )
        .await;
        assert_eq!(
            tasks,
            "web.1|nginx:1|n1|Running|\nweb.2|nginx:1|n1|Running|\"no suitable node\"\n"
        );
        let pretty = prints(&server, "service inspect --pretty web").await;
        for line in [
            "Name:\t\tweb",
            "Replicas:\t2",
            "Parallelism:\t1",
            "PublishedPort = 8080",
        ] {
            assert!(pretty.contains(line), "{line} in {pretty}");
        }
        let pretty = prints(&server, "node inspect --pretty self").await;
        assert!(pretty.contains("Hostname:              \tn1"), "{pretty}");
        let networks = prints(&server, "network ls").await;
        assert!(networks.starts_with("NETWORK ID"), "{networks}");
        let token = prints(&server, "swarm join-token worker").await;
        assert!(
            token.contains("docker swarm join --token SWMTKN-1-worker"),
            "{token}"
        );
    });
}

#[test]
fn objects_are_made_and_removed() {
    if !docker_is_here() {
        return;
    }
    with_server(with_a_service(), |server| async move {
        let file = server.socket.with_extension("payload");
        std::fs::write(&file, "hunter2").unwrap();
        for kind in ["secret", "config"] {
            prints(
                &server,
                &format!("{kind} create --label a=b key {}", file.display()),
            )
            .await;
            let list = rows(&prints(&server, &format!("{kind} ls --filter name=ke")).await);
            assert_eq!(list[1][1], "key");
            let shown = prints(&server, &format!("{kind} inspect --pretty key")).await;
            assert_eq!(shown.contains("hunter2"), kind == "config", "{shown}");
            prints(&server, &format!("{kind} rm key")).await;
            let gone = docker(&server, &format!("{kind} inspect key")).await;
            assert!(
                !gone.ok && gone.err.contains(&format!("{kind} key not found")),
                "{}",
                gone.err
            );
        }
        prints(&server, "network create -d overlay --attachable app").await;
        let networks = prints(&server, "network ls --filter scope=swarm").await;
        assert!(
            rows(&networks)[1][1..] == ["app", "overlay", "swarm"],
            "{networks}"
        );
        let wrong = docker(&server, "network create -d overlay app").await;
        assert_eq!(
            wrong.err.trim(),
            "Error response from daemon: network with name app already exists"
        );
        prints(&server, "network rm app").await;

        let made = docker(&server, "service create -d --name api nginx:2").await;
        assert!(made.ok, "{}", made.err);
        assert!(
            made.err
                .contains("image nginx:2 could not be accessed on a registry to record"),
            "{}",
            made.err
        );
        prints(&server, "service scale -d api=3").await;
        let list = prints(
            &server,
            "service ls --format {{.Name}}:{{.Replicas}} --filter name=api",
        )
        .await;
        assert_eq!(list, "api:0/3\n");
        prints(&server, "service rm api").await;
        prints(&server, "node update --availability drain n1").await;
        let nodes = prints(&server, "node ls --format {{.Availability}}").await;
        assert_eq!(nodes, "Drain\n");
    });
}

#[test]
fn a_stack_is_deployed_listed_and_removed() {
    if !docker_is_here() {
        return;
    }
    with_server(FakeCluster::manager(), |server| async move {
        let dir = server.socket.with_extension("stack");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("key"), "hunter2").unwrap();
        let file = dir.join("compose.yaml");
        std::fs::write(
            &file,
            "services:\n  web:\n    image: nginx:1\n    ports: [\"8080:80\"]\n    secrets: [key]\n    networks: [back]\n    deploy: {replicas: 2}\nnetworks:\n  back: {}\nsecrets:\n  key: {file: ./key}\n",
        )
        .unwrap();
        let line = format!(
            "stack deploy -d --resolve-image never -c {} app",
            file.display()
        );
        let made = prints(&server, &line).await;
        for part in ["network app_back", "secret app_key", "service app_web"] {
            assert!(made.contains(&format!("Creating {part}")), "{made}");
        }
        prints(&server, &line).await;
        let stacks = rows(&prints(&server, "stack ls").await);
        assert_eq!(stacks[1], ["app", "1"]);
        let services = prints(
            &server,
            "stack services --format {{.Name}}:{{.Replicas}} app",
        )
        .await;
        assert_eq!(services, "app_web:0/2\n");
        let removed = prints(&server, "stack rm app").await;
        assert!(removed.contains("Removing service app_web"), "{removed}");
        assert!(server.cluster.store.snapshot().networks().next().is_none());
    });
}

#[test]
fn the_cluster_is_governed_from_the_cli() {
    if !docker_is_here() {
        return;
    }
    with_server(FakeCluster::manager(), |server| async move {
        let key = prints(&server, "swarm unlock-key -q").await;
        assert_eq!(key, "SWMKEY-1-asked-for\n");
        prints(&server, "swarm update --task-history-limit 9").await;
        let info = prints(&server, "info").await;
        assert!(info.contains("Task History Retention Limit: 9"), "{info}");
        let again = docker(&server, "swarm init").await;
        assert!(
            again.err.contains("This node is already part of a swarm"),
            "{}",
            again.err
        );
        let stack = docker(&server, "service logs web").await;
        assert!(
            stack.err.contains("no such task or service: web"),
            "{}",
            stack.err
        );
    });
}

#[test]
fn a_node_in_no_cluster_gives_the_known_hint() {
    if !docker_is_here() {
        return;
    }
    with_server(FakeCluster::inactive(), |server| async move {
        let ran = docker(&server, "node ls").await;
        assert_eq!(
            ran.err.trim(),
            "Error response from daemon: This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."
        );
    });
}
