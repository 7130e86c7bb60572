//! Swarm endpoints against a server with a cluster in memory.

mod common;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use common::cluster::{FakeCluster, NOW, node};
use common::{filters, with_server};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skep_api::cluster::{LocalState, LogLine};
use skep_api::texts;
use skep_model::service::{Endpoint, EndpointSpec};
use skep_model::task::NetworkAttachment;
use skep_model::{
    ControlError, ControlRequest, Kind, Network, NetworkId, NodeId, NodeRole, Service, ServiceId,
    Task, TaskId, TaskState, Timestamp, Version,
};
use skep_store::Object;

fn web() -> Value {
    json!({
        "Name": "web",
        "Labels": {"tier": "front"},
        "TaskTemplate": {"ContainerSpec": {"Image": "nginx:1"}},
        "Mode": {"Replicated": {"Replicas": 2}},
        "EndpointSpec": {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080}]},
    })
}

/// A service `web` with two tasks, one of which is outdated, on a network `app`.
fn populated() -> Arc<FakeCluster> {
    let cluster = FakeCluster::manager();
    cluster.put(Object::Node(Arc::new(node(
        "node2bbbbbbbbbbbbbbbbbbbb",
        "n2",
        NodeRole::Worker,
    ))));
    let mut network = Network {
        id: NetworkId::new("net1"),
        created_at: NOW,
        vni: 4097,
        ..Network::default()
    };
    network.spec.name = "app".into();
    cluster.put(Object::Network(Arc::new(network)));
    let mut service = Service {
        id: ServiceId::new("service1"),
        spec: serde_json::from_value(web()).unwrap(),
        spec_version: Version::at(7),
        created_at: NOW,
        ..Service::default()
    };
    service.spec.task_template.pull_credentials = "never shown".into();
    service.spec.task_template.networks = vec![skep_model::task::NetworkAttachmentConfig {
        target: "net1".into(),
        ..Default::default()
    }];
    cluster.put(Object::Service(Arc::new(service.clone())));
    for (slot, image, on) in [
        (1, "nginx:1", "node1aaaaaaaaaaaaaaaaaaaa"),
        (2, "nginx:0", "node2bbbbbbbbbbbbbbbbbbbb"),
    ] {
        let mut task = Task {
            id: TaskId::new(format!("task{slot}")),
            service_id: service.id.clone(),
            service_name: "web".into(),
            slot,
            node_id: NodeId::new(on),
            spec: service.spec.task_template.clone(),
            // A change of replicas made the service newer than both.
            spec_version: Version::at(6),
            desired_state: TaskState::Running,
            created_at: NOW,
            ..Task::default()
        };
        task.status.state = match slot {
            1 => TaskState::Running,
            _ => TaskState::Preparing,
        };
        task.status.timestamp = NOW;
        task.spec.container_spec.as_mut().unwrap().image = image.into();
        task.endpoint = Some(Endpoint {
            spec: service.spec.endpoint_spec.clone().unwrap(),
            ..Endpoint::default()
        });
        task.attachments = vec![NetworkAttachment {
            network_id: NetworkId::new("net1"),
            addresses: vec![format!("10.0.1.{slot}/24")],
            ..NetworkAttachment::default()
        }];
        cluster.put(Object::Task(Arc::new(task)));
    }
    cluster
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|object| object["ID"].as_str().unwrap())
        .collect()
}

#[test]
fn a_node_in_no_cluster_says_what_to_do() {
    with_server(FakeCluster::inactive(), |server| async move {
        for path in [
            "/swarm",
            "/nodes",
            "/services",
            "/tasks",
            "/secrets",
            "/configs",
        ] {
            let answer = server.get(path).await.expect(503);
            assert_eq!(answer.message(), texts::NO_SWARM, "{path}");
        }
        let answer = server.post("/services/create", web()).await.expect(503);
        assert_eq!(answer.message(), texts::NO_SWARM);
        let left = server.post("/swarm/leave", json!({})).await.expect(503);
        assert_eq!(left.message(), texts::NOT_PART);
        assert_eq!(server.get("/_ping").await.header("swarm"), "inactive");

        server.cluster.local.lock().unwrap().state = LocalState::Active;
        let answer = server.get("/nodes").await.expect(503);
        assert_eq!(answer.message(), texts::NOT_A_MANAGER);
        assert_eq!(server.get("/_ping").await.header("swarm"), "active/worker");
        server.cluster.local.lock().unwrap().state = LocalState::Locked;
        assert_eq!(
            server.get("/nodes").await.expect(503).message(),
            texts::LOCKED
        );
    });
}

#[test]
fn init_takes_what_the_cli_sends_and_answers_with_an_id() {
    with_server(FakeCluster::inactive(), |server| async move {
        let body = json!({
            "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "", "DataPathAddr": "",
            "DataPathPort": 0, "DefaultAddrPool": null, "ForceNewCluster": false,
            "Availability": "", "SubnetSize": 0, "AutoLockManagers": false,
            "Spec": {
                "Labels": null, "Orchestration": {},
                "Raft": {"ElectionTick": 0, "HeartbeatTick": 0},
                "Dispatcher": {}, "CAConfig": {}, "TaskDefaults": {},
                "EncryptionConfig": {"AutoLockManagers": false},
            },
        });
        let answer = server.post("/v1.50/swarm/init", body).await.expect(200);
        assert_eq!(answer.json(), json!("node1"));
        let asked = server.cluster.inits.lock().unwrap().pop().unwrap();
        assert_eq!(asked.spec.name, "default");
        assert_eq!(asked.spec.raft.election_tick, 10);
        assert_eq!(asked.availability, None);

        let body = json!({"ListenAddr": "0.0.0.0:2377", "RemoteAddrs": ["10.0.0.1:2377"],
            "JoinToken": "SWMTKN-1-x", "Availability": ""});
        server.post("/swarm/join", body).await.expect(200);
        let nowhere = server
            .post("/swarm/join", json!({"RemoteAddrs": null}))
            .await;
        assert_eq!(
            nowhere.expect(400).message(),
            "at least 1 RemoteAddr is required to join"
        );
        let body = json!({"Spec": {"Name": "other"}});
        let answer = server.post("/swarm/init", body).await.expect(400);
        assert_eq!(answer.message(), "swarm spec must be named \"default\"");
        let body = json!({"Spec": {"Raft": {"SnapshotInterval": "many"}}});
        let answer = server.post("/swarm/init", body).await.expect(400);
        assert!(
            answer.message().contains("Spec.Raft.SnapshotInterval"),
            "{}",
            answer.text
        );
    });
}

#[test]
fn the_cluster_shows_tokens_and_no_keys() {
    with_server(FakeCluster::manager(), |server| async move {
        let answer = server.get("/swarm").await.expect(200);
        assert!(!answer.text.contains("never"), "{}", answer.text);
        let swarm = answer.json();
        assert_eq!(swarm["JoinTokens"]["Worker"], "SWMTKN-1-worker");
        assert_eq!(swarm["SubnetSize"], 24);
        assert_eq!(swarm["DefaultAddrPool"], json!(["10.0.0.0/8"]));

        let info = server.get("/info").await.expect(200);
        assert!(!info.text.contains("SWMTKN") && !info.text.contains("never"));
        let info = info.json();
        assert_eq!(info["Swarm"]["LocalNodeState"], "active");
        assert_eq!(info["Swarm"]["ControlAvailable"], true);
        assert_eq!(info["Swarm"]["Managers"], 1);
        assert_eq!(info["Swarm"]["Cluster"]["DataPathPort"], 4789);
        assert_eq!(server.get("/_ping").await.header("swarm"), "active/manager");

        let version = swarm["Version"]["Index"].as_u64().unwrap();
        let update = json!({"Raft": {"SnapshotInterval": 5}});
        let path = format!("/swarm/update?version={version}&rotateWorkerToken=true");
        server.post(&path, update.clone()).await.expect(200);
        match server.cluster.last_request() {
            ControlRequest::UpdateCluster {
                spec,
                rotate_worker_token,
                rotate_manager_token,
                ..
            } => {
                assert_eq!(spec.raft.snapshot_interval, 5);
                assert_eq!(spec.name, "default");
                assert!(rotate_worker_token && !rotate_manager_token);
            }
            other => panic!("{other:?}"),
        }
        let stale = server.post(&path, update).await.expect(500);
        assert_eq!(
            stale.message(),
            "rpc error: code = Unknown desc = update out of sequence"
        );
        let key = server.get("/swarm/unlockkey").await.expect(200);
        assert_eq!(key.json()["UnlockKey"], "SWMKEY-1-asked-for");
        let wrong = json!({"UnlockKey": "x"});
        let answer = server.post("/swarm/unlock", wrong).await.expect(401);
        assert_eq!(
            answer.message(),
            "swarm could not be unlocked: invalid key provided"
        );
    });
}

#[test]
fn a_service_lives_from_create_to_delete() {
    with_server(FakeCluster::manager(), |server| async move {
        let auth = URL_SAFE.encode(r#"{"username":"u","password":"p"}"#);
        let made = server
            .request(
                "POST",
                "/v1.41/services/create",
                &[
                    ("x-registry-auth", &auth),
                    ("content-type", "application/json"),
                ],
                &web().to_string(),
            )
            .await
            .expect(201)
            .json();
        let id = made["ID"].as_str().unwrap().to_owned();
        match server.cluster.last_request() {
            ControlRequest::CreateService { spec } => {
                assert_eq!(spec.task_template.pull_credentials, auth);
            }
            other => panic!("{other:?}"),
        }
        let twice = server.post("/services/create", web()).await.expect(409);
        assert_eq!(
            twice.message(),
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists"
        );
        let mut unnamed = web();
        unnamed["Name"] = json!("");
        server.post("/services/create", unnamed).await.expect(201);
        match server.cluster.last_request() {
            ControlRequest::CreateService { spec } => {
                assert!(
                    spec.name.contains('_'),
                    "a name is made up: {:?}",
                    spec.name
                );
            }
            other => panic!("{other:?}"),
        }
        let mut bad = web();
        bad["TaskTemplate"]["ContainerSpec"]["Image"] = json!("");
        let refused = server.post("/services/create", bad).await.expect(400);
        assert!(
            refused
                .message()
                .starts_with("rpc error: code = InvalidArgument desc = ContainerSpec: image"),
        );

        let shown = server
            .get("/services/web?insertDefaults=true")
            .await
            .expect(200);
        assert!(!shown.text.contains(&auth), "{}", shown.text);
        let shown = shown.json();
        assert_eq!(shown["ID"], json!(id));
        assert_eq!(shown["Spec"]["UpdateConfig"]["Monitor"], 5_000_000_000i64);
        assert_eq!(
            shown["Spec"]["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"],
            10_000_000_000i64
        );
        let plain = server.get("/services/web").await.json();
        assert!(plain["Spec"]["UpdateConfig"].is_null());

        let version = plain["Version"]["Index"].as_u64().unwrap();
        let path = format!("/services/web/update?version={version}&registryAuthFrom=previous-spec");
        server.post(&path, web()).await.expect(200);
        let stale = server.post(&path, web()).await.expect(500);
        assert!(stale.message().ends_with("update out of sequence"));
        let odd = server.post("/services/web/update?version=x", web()).await;
        assert!(
            odd.expect(400)
                .message()
                .starts_with("invalid service version 'x'")
        );
        let odd = server
            .post("/services/web/update?version=1&rollback=next", web())
            .await;
        assert_eq!(
            odd.expect(400).message(),
            "unrecognized rollback option next"
        );

        server
            .delete(&format!("/services/{}", &id[..6]))
            .await
            .expect(200);
        let gone = server.get("/services/web").await.expect(404);
        assert_eq!(gone.message(), "service web not found");
    });
}

#[test]
fn lists_of_services_count_tasks_and_filter() {
    with_server(populated(), |server| async move {
        let list = server.get("/services?status=true").await.expect(200);
        assert!(!list.text.contains("never shown"));
        let status = &list.json()[0]["ServiceStatus"];
        assert_eq!(
            *status,
            json!({"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 0})
        );
        assert!(server.get("/services").await.json()[0]["ServiceStatus"].is_null());
        let count = async |json: &str| {
            let path = format!("/services?{}", filters(json));
            server
                .get(&path)
                .await
                .expect(200)
                .json()
                .as_array()
                .unwrap()
                .len()
        };
        assert_eq!(count(r#"{"name":["we"]}"#).await, 1);
        assert_eq!(count(r#"{"name":{"WEB":true}}"#).await, 1);
        assert_eq!(count(r#"{"name":["x"]}"#).await, 0);
        assert_eq!(count(r#"{"mode":["global","replicated"]}"#).await, 1);
        assert_eq!(count(r#"{"mode":["global"]}"#).await, 0);
        assert_eq!(count(r#"{"label":["tier=front"]}"#).await, 1);
        assert_eq!(count(r#"{"label":["tier=back"]}"#).await, 0);
        let wrong = server
            .get(&format!("/services?{}", filters(r#"{"x":["1"]}"#)))
            .await;
        assert_eq!(wrong.expect(400).message(), "invalid filter 'x'");
    });
}

#[test]
fn tasks_carry_their_networks_and_obey_all_filters() {
    with_server(populated(), |server| async move {
        let list = server.get("/tasks").await.expect(200);
        assert!(!list.text.contains("never shown"));
        let list = list.json();
        assert_eq!(ids(&list), ["task1", "task2"]);
        let attachment = &list[0]["NetworksAttachments"][0];
        assert_eq!(attachment["Network"]["Spec"]["Name"], "app");
        assert_eq!(attachment["Network"]["DriverState"]["Name"], "overlay");
        assert_eq!(attachment["Addresses"], json!(["10.0.1.1/24"]));
        assert_eq!(list[0]["Status"]["State"], "running");
        assert!(list[0]["Attachments"].is_null());

        let found = async |json: &str| {
            let path = format!("/tasks?{}", filters(json));
            let list = server.get(&path).await.expect(200).json();
            ids(&list).join(" ")
        };
        assert_eq!(found(r#"{"service":["web"],"node":["n2"]}"#).await, "task2");
        assert_eq!(found(r#"{"node":["self"]}"#).await, "task1");
        assert_eq!(found(r#"{"node":["n1","n2"]}"#).await, "task1 task2");
        assert_eq!(found(r#"{"name":["web.2"]}"#).await, "task2");
        assert_eq!(found(r#"{"id":["task1"]}"#).await, "task1");
        assert_eq!(
            found(r#"{"desired-state":["RUNNING"]}"#).await,
            "task1 task2"
        );
        assert_eq!(found(r#"{"desired-state":["shutdown"]}"#).await, "");
        assert_eq!(found(r#"{"_up-to-date":["true"]}"#).await, "task1");
        assert_eq!(found(r#"{"up-to-date":["false"]}"#).await, "task2");
        let wrong = format!("/tasks?{}", filters(r#"{"desired-state":["odd"]}"#));
        assert_eq!(
            server.get(&wrong).await.expect(400).message(),
            "Invalid desired-state filter: 'odd'"
        );
        let missing = format!("/tasks?{}", filters(r#"{"service":["none"]}"#));
        assert_eq!(
            server.get(&missing).await.expect(404).message(),
            "service none not found"
        );
        assert_eq!(
            server.get("/tasks/web.1").await.expect(200).json()["ID"],
            "task1"
        );
        let many = server.get("/tasks/task").await.expect(400);
        assert_eq!(many.message(), "task task is ambiguous (2 matches found)");
    });
}

#[test]
fn secrets_keep_their_payload_and_configs_show_theirs() {
    with_server(FakeCluster::manager(), |server| async move {
        let payload = STANDARD.encode("hunter2");
        let body = json!({"Name": "key", "Labels": {"a": "b"}, "Data": payload});
        server
            .post("/secrets/create", body.clone())
            .await
            .expect(201);
        for path in ["/secrets", "/secrets/key"] {
            let answer = server.get(path).await.expect(200);
            assert!(!answer.text.contains(&payload) && !answer.text.contains("Data"));
        }
        server.post("/configs/create", body).await.expect(201);
        let config = server.get("/configs/key").await.expect(200).json();
        assert_eq!(config["Spec"]["Data"], json!(payload));

        let empty = server.post("/secrets/create", json!({"Name": "x"})).await;
        assert!(
            empty
                .expect(400)
                .message()
                .starts_with("rpc error: code = InvalidArgument desc = ")
        );
        let broken = json!({"Name": "x", "Data": "%%%"});
        let broken = server.post("/secrets/create", broken).await.expect(400);
        assert!(
            broken
                .message()
                .starts_with("invalid JSON: Data: illegal base64"),
            "{}",
            broken.text
        );
        let names = format!("/secrets?{}", filters(r#"{"names":["ke"]}"#));
        assert_eq!(server.get(&names).await.json(), json!([]));
        server.delete("/secrets/key").await.expect(204);
        let gone = server.delete("/secrets/key").await.expect(404);
        assert_eq!(gone.message(), "secret key not found");
    });
}

#[test]
fn nodes_are_found_by_name_and_never_demoted_by_accident() {
    with_server(populated(), |server| async move {
        let own = server.get("/nodes/n1").await.expect(200).json();
        assert_eq!(own["ManagerStatus"]["Leader"], true);
        let version = own["Version"]["Index"].as_u64().unwrap();
        let path = format!("/nodes/n1/update?version={version}");
        let refused = server.post(&path, json!({"Availability": "drain"})).await;
        assert_eq!(refused.expect(400).message(), "invalid Role: \"\"");
        let spec = json!({"Role": "manager", "Availability": "drain"});
        server.post(&path, spec).await.expect(200);
        let odd = json!({"Role": "boss", "Availability": "drain"});
        let refused = server.post(&path, odd).await.expect(400);
        assert_eq!(refused.message(), "invalid Role: \"boss\"");

        let found = async |json: &str| {
            let path = format!("/nodes?{}", filters(json));
            server
                .get(&path)
                .await
                .expect(200)
                .json()
                .as_array()
                .unwrap()
                .len()
        };
        assert_eq!(found(r#"{"role":["worker"]}"#).await, 1);
        assert_eq!(found(r#"{"role":["worker","manager"]}"#).await, 2);
        assert_eq!(found(r#"{"name":["n"]}"#).await, 2);
        assert_eq!(found(r#"{"membership":["pending"]}"#).await, 0);
        assert_eq!(
            server.get("/nodes/x").await.expect(404).message(),
            "node x not found"
        );
    });
}

#[test]
fn logs_of_a_service_are_framed_and_say_last_what_is_missing() {
    with_server(populated(), |server| async move {
        let line = LogLine {
            node: NodeId::new("n"),
            service: ServiceId::new("s"),
            task: TaskId::new("t"),
            is_stderr: true,
            at: Timestamp(1_763_892_000_500_000_000),
            data: Bytes::from_static(b"hello\n"),
            details: vec![("com.docker.swarm.task.id".into(), "forged".into())],
        };
        *server.cluster.logs.lock().unwrap() = vec![
            Err(ControlError::new(
                Kind::Unavailable,
                "node n2 is not available",
            )),
            Ok(line),
        ];
        let path = "/services/web/logs?stdout=1&stderr=1&details=1&timestamps=1";
        let request = http::Request::get(path).header("host", "x");
        let response = server.open(request.body(Full::default()).unwrap()).await;
        assert_eq!(
            response.headers()["content-type"],
            "application/vnd.docker.multiplexed-stream"
        );
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let expected = "2025-11-23T10:00:00.500000000Z com.docker.swarm.node.id=n,com.docker.swarm.service.id=s,com.docker.swarm.task.id=t hello\n";
        assert_eq!(bytes[..8], [2, 0, 0, 0, 0, 0, 0, expected.len() as u8]);
        assert_eq!(bytes[8..8 + expected.len()], *expected.as_bytes());
        let rest = &bytes[8 + expected.len()..];
        assert_eq!(rest[0], 3);
        assert!(String::from_utf8_lossy(&rest[8..]).contains("node n2 is not available"));

        let none = server.get("/services/web/logs").await.expect(400);
        assert_eq!(
            none.message(),
            "Bad parameters: you must choose at least one stream"
        );
    });
}

#[test]
fn cluster_networks_stand_beside_local_ones() {
    with_server(populated(), |server| async move {
        let list = server.get("/networks").await.expect(200).json();
        let names: Vec<&str> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|network| network["Name"].as_str().unwrap())
            .collect();
        for name in ["bridge", "host", "none", "app"] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        let swarm = format!("/networks?{}", filters(r#"{"scope":["swarm"]}"#));
        assert_eq!(server.get(&swarm).await.json().as_array().unwrap().len(), 1);
        let wrong = format!("/networks?{}", filters(r#"{"nope":["1"]}"#));
        assert_eq!(
            server.get(&wrong).await.expect(400).message(),
            "invalid filter 'nope'"
        );

        let app = server
            .get("/networks/app?verbose=true")
            .await
            .expect(200)
            .json();
        assert_eq!(app["Scope"], "swarm");
        assert_eq!(app["Driver"], "overlay");
        assert_eq!(app["Services"]["web"]["Tasks"][0]["EndpointIP"], "10.0.1.1");
        assert_eq!(app["Peers"].as_array().unwrap().len(), 2);

        let body = json!({"Name": "over", "Driver": "overlay", "Attachable": true,
            "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.9.0.0/24"}]}});
        server
            .post("/networks/create", body.clone())
            .await
            .expect(201);
        match server.cluster.last_request() {
            ControlRequest::CreateNetwork { spec } => {
                assert!(spec.attachable);
                assert_eq!(spec.driver.unwrap().name, "overlay");
            }
            other => panic!("{other:?}"),
        }
        let twice = server.post("/networks/create", body).await.expect(409);
        assert_eq!(twice.message(), "network with name over already exists");
        let taken = server
            .post("/networks/create", json!({"Name": "bridge"}))
            .await;
        assert_eq!(
            taken.expect(403).message(),
            "operation is not permitted on predefined bridge network "
        );
        let fixed = server.delete("/networks/bridge").await.expect(403);
        assert_eq!(
            fixed.message(),
            "bridge is a pre-defined network and cannot be removed"
        );
        server.delete("/networks/over").await.expect(204);
        let used = server.delete("/networks/app").await.expect(400);
        assert!(
            used.message().contains("is in use by service web"),
            "{}",
            used.text
        );
        let gone = server.get("/networks/over").await.expect(404);
        assert_eq!(gone.message(), "network over not found");

        let container = json!({"Image": "x", "NetworkingConfig": {"EndpointsConfig": {"app": {}}}});
        let refused = server
            .post("/containers/create", container)
            .await
            .expect(403);
        assert_eq!(
            refused.message(),
            "Could not attach to network app: rpc error: code = PermissionDenied desc = network app not manually attachable"
        );
        let joined = server
            .post("/networks/app/connect", json!({"Container": "x"}))
            .await;
        joined.expect(403);
        let pruned = server
            .post("/networks/prune", json!(null))
            .await
            .expect(200);
        assert_eq!(pruned.json()["NetworksDeleted"], json!(null));

        let mut spec = web();
        spec["Name"] = json!("other");
        spec["TaskTemplate"]["Networks"] = json!([{"Target": "app"}]);
        server
            .post("/services/create", spec.clone())
            .await
            .expect(201);
        match server.cluster.last_request() {
            ControlRequest::CreateService { spec } => {
                assert_eq!(spec.task_template.networks[0].target, "net1");
            }
            other => panic!("{other:?}"),
        }
        spec["TaskTemplate"]["Networks"] = json!([{"Target": "nowhere"}]);
        let missing = server.post("/services/create", spec).await.expect(404);
        assert_eq!(missing.message(), "network nowhere not found");
    });
}

#[test]
fn stacks_are_objects_and_labels() {
    with_server(populated(), |server| async move {
        let secret = STANDARD.encode("hidden");
        let body = json!({
            "Secrets": [{"Name": "app_key", "Data": secret}],
            "Services": [{"Name": "app_web", "TaskTemplate": {
                "ContainerSpec": {"Image": "x"}, "PullCredentials": "hidden"}}],
        });
        let done = server
            .post("/skep/v1/stacks/app?prune=true", body)
            .await
            .expect(200)
            .json();
        assert!(done["ID"].as_str().is_some_and(|id| id.starts_with("stk")));
        match server.cluster.last_request() {
            ControlRequest::DeployStack { spec, prune, .. } => {
                assert!(prune && spec.name == "app" && spec.services.len() == 1);
            }
            other => panic!("{other:?}"),
        }
        let odd = server.post("/skep/v1/stacks/a", json!({"Name": "b"})).await;
        odd.expect(400);

        let mut spec = web();
        spec["Name"] = json!("old_web");
        spec["Labels"] = json!({"com.docker.stack.namespace": "old"});
        server.post("/services/create", spec).await.expect(201);
        let list = server.get("/skep/v1/stacks").await.expect(200).json();
        let lines: Vec<(&str, u64, u64)> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|line| {
                (
                    line["Name"].as_str().unwrap(),
                    line["Revision"].as_u64().unwrap(),
                    line["Services"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(lines, [("app", 1, 0), ("old", 0, 1)]);
        let app = server.get("/skep/v1/stacks/app").await.expect(200);
        assert!(!app.text.contains(&secret) && !app.text.contains("hidden"));
        assert_eq!(app.json()["Spec"]["Services"][0]["Name"], "app_web");
        let old = server.get("/skep/v1/stacks/old").await.expect(200).json();
        assert_eq!(old["ServiceList"][0]["Spec"]["Name"], "old_web");
        server.get("/skep/v1/stacks/none").await.expect(404);
    });
}

#[test]
fn changes_of_the_cluster_are_events() {
    with_server(FakeCluster::manager(), |server| async move {
        let path = format!("/events?{}", filters(r#"{"type":["secret"]}"#));
        let request = http::Request::get(path).header("host", "x");
        let response = server.open(request.body(Full::default()).unwrap()).await;
        let mut body = response.into_body();
        // The carrier may not watch yet; a change it missed is followed by another.
        let mut number = 0;
        let frame = loop {
            number += 1;
            let secret = json!({"Name": format!("s{number}"), "Data": "eA=="});
            server.post("/secrets/create", secret).await.expect(201);
            let wait = std::time::Duration::from_millis(200);
            if let Ok(frame) = tokio::time::timeout(wait, body.frame()).await {
                break frame.unwrap().unwrap();
            }
        };
        let event: Value = serde_json::from_slice(frame.data_ref().unwrap()).unwrap();
        assert_eq!(event["Type"], "secret");
        assert_eq!(event["Action"], "create");
        assert_eq!(event["scope"], "swarm");
        assert!(event["Actor"]["Attributes"]["name"].is_string());
    });
}

#[test]
fn endpoint_specs_of_tasks_and_services_compare_equal_when_neither_says_anything() {
    assert_eq!(EndpointSpec::default(), Endpoint::default().spec);
}
