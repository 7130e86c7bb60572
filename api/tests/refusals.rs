//! What clients read when a request is wrong: dockerd's statuses and texts.

mod common;

use common::cluster::FakeCluster;
use common::{filters, with_server};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const IMAGE: &str = "skep/hello";

#[test]
fn a_wrong_container_is_refused_in_dockerds_words() {
    with_server(FakeCluster::inactive(), |server| async move {
        server.engine.ensure_hello_image().await.unwrap();
        let check = async |version: &str, body: Value, status: u16, text: &str| {
            let path = format!("{version}/containers/create");
            let answer = server.post(&path, body.clone()).await;
            assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text);
            assert!(answer.text.contains(text), "{body}: {}", answer.text);
        };
        let empty = "config cannot be empty in order to create a container";
        check("", json!({}), 400, empty).await;
        check("", json!({ "hostconfig": {} }), 400, empty).await;
        check("", json!({ "Env": [] }), 400, "no command specified").await;
        let missing = json!({ "Image": "no/such" });
        check("", missing, 404, "No such image: no/such:latest").await;
        // What is wrong anyway is told before an image is missed: clients would pull it first.
        let both = json!({ "Image": "no/such", "HostConfig": { "Memory": 1 } });
        check("", both, 400, "Minimum memory limit allowed is 6MB").await;
        for (host, text) in [
            (json!({ "IpcMode": "x" }), "invalid IPC mode: x"),
            (
                json!({ "PidMode": "container:" }),
                "invalid PID mode: container:",
            ),
            (
                json!({ "UTSMode": "container:x" }),
                "invalid UTS mode: container:x",
            ),
            (
                json!({ "CgroupnsMode": "none" }),
                "invalid cgroup namespace mode: none",
            ),
            (
                json!({ "Tmpfs": { "run": "" } }),
                "invalid mount path: 'run' mount path must be absolute",
            ),
            (
                json!({ "Tmpfs": { "//": "" } }),
                "invalid specification: destination can't be '/'",
            ),
            (
                json!({ "Mounts": [{ "Type": "tmpfs", "Target": "/" }] }),
                "invalid mount config for type \\\"tmpfs\\\": invalid specification: destination can't be '/'",
            ),
            (
                json!({ "Annotations": { "": "x" } }),
                "the empty string is not permitted as an annotation key",
            ),
            (
                json!({ "Links": ["nosuch:db"] }),
                "could not get container for nosuch",
            ),
            (
                json!({ "Runtime": "other" }),
                "unknown or invalid runtime name: other",
            ),
        ] {
            let body = json!({ "Image": IMAGE, "HostConfig": host });
            check("", body, 400, text).await;
        }
        let driver = json!({ "Image": IMAGE, "HostConfig": { "VolumeDriver": "far", "Binds": ["data:/b"] } });
        check("", driver, 404, "error looking up volume plugin far").await;
        let networks = json!({ "Image": IMAGE, "NetworkingConfig": { "EndpointsConfig": { "a": {}, "b": {} } } });
        let text = "Container cannot be created with multiple network endpoints";
        check("/v1.43", networks.clone(), 400, text).await;
        check("/v1.44", networks, 201, "Id").await;
        // Not checked by dockerd either, and never run.
        let odd = json!({ "Image": IMAGE, "Healthcheck": { "Test": ["true"] } });
        check("", odd, 201, "Id").await;
        let discarded = json!({ "Image": IMAGE, "HostConfig": { "BlkioWeightDevice": [{ "Path": "/dev/null", "Weight": 10 }] } });
        check("", discarded, 201, "Weight-device discarded").await;
    });
}

#[test]
fn a_container_is_found_renamed_and_sized_by_the_rules() {
    with_server(FakeCluster::inactive(), |server| async move {
        server.engine.ensure_hello_image().await.unwrap();
        let body =
            json!({ "Image": IMAGE, "HostConfig": { "AutoRemove": true, "Runtime": "runc" } });
        let made = server.post("/containers/create?name=one", body).await;
        made.expect(201);
        for (method, path, status, text) in [
            (
                "POST",
                "resize?h=&w=1",
                400,
                r#"invalid resize height "": invalid syntax"#,
            ),
            (
                "POST",
                "resize?h=1&w=4294967296",
                400,
                r#"invalid resize width "4294967296": value out of range"#,
            ),
            ("POST", "unpause", 500, "is not paused"),
            ("POST", "wait?condition=x", 400, r#"invalid condition: "x""#),
            (
                "POST",
                "rename?name=one",
                400,
                "Renaming a container with the same name as its current name",
            ),
            (
                "GET",
                "logs",
                400,
                "Bad parameters: you must choose at least one stream",
            ),
            (
                "GET",
                "stats?one-shot=1",
                400,
                "cannot have stream=true and one-shot=true",
            ),
        ] {
            let path = format!("/containers/one/{path}");
            let answer = server.request(method, &path, &[], "").await.expect(status);
            assert!(
                answer.message().contains(text),
                "{path}: {}",
                answer.message()
            );
        }
        let policy = json!({ "RestartPolicy": { "Name": "always" } });
        let refused = server.post("/containers/one/update", policy).await;
        assert!(refused.expect(409).message().contains("AutoRemove"));
        let runtimes = server.get("/info").await.expect(200).json();
        let shown = server.get("/containers/one/json").await.expect(200).json();
        let runtime = shown["HostConfig"]["Runtime"].as_str().unwrap().to_owned();
        assert!(runtimes["Runtimes"].get(&runtime).is_some(), "{runtime}");
        assert_eq!(runtimes["DefaultRuntime"], runtime);
        // No error, and nothing.
        let nothing = server
            .post("/containers/one/attach?logs=1&stream=0", json!({}))
            .await;
        assert_eq!(nothing.expect(200).text, "");
        let any = server.get("/containers/one/logs?stdout=1&tail=x").await;
        any.expect(200);
    });
}

#[test]
fn links_are_names_that_can_be_taken_away() {
    with_server(FakeCluster::inactive(), |server| async move {
        server.engine.ensure_hello_image().await.unwrap();
        let make = async |name: &str, host: Value| {
            let body = json!({ "Image": IMAGE, "HostConfig": host });
            let path = format!("/containers/create?name={name}");
            server.post(&path, body).await.expect(201);
        };
        make("db", json!({})).await;
        make("web", json!({ "Links": ["db:store"] })).await;
        let names = async || {
            let query = filters(r#"{"name":["db"]}"#);
            let list = server.get(&format!("/containers/json?all=1&{query}")).await;
            list.expect(200).json()[0]["Names"].clone()
        };
        assert_eq!(names().await, json!(["/db", "/web/store"]));
        for (path, status) in [
            ("/containers/web/other?link=1", 404),
            ("/containers/db?link=1", 500),
            ("/containers/web/store?link=1", 204),
            ("/containers/web/store?link=1", 404),
        ] {
            let answer = server.delete(path).await;
            assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text);
        }
        assert_eq!(names().await, json!(["/db"]));
        server.get("/containers/web/json").await.expect(200);
    });
}

#[test]
fn what_is_not_there_and_what_was_pruned_is_told_as_dockerd_does() {
    with_server(FakeCluster::inactive(), |server| async move {
        for (method, path, status, text) in [
            ("GET", "/v0/info", 400, "client version 0 is too old"),
            (
                "GET",
                "/plugins/a/b:1/json",
                404,
                r#"plugin "a/b:1" not found"#,
            ),
            ("DELETE", "/plugins/a", 404, r#"plugin "a" not found"#),
            (
                "POST",
                "/plugins/a/b/enable",
                404,
                r#"plugin "a/b" not found"#,
            ),
            ("POST", "/plugins/pull?remote=a", 501, "not supported"),
            (
                "PUT",
                "/volumes/v?version=1",
                503,
                "volume update only valid for cluster volumes, but swarm is unavailable",
            ),
            ("POST", "/session", 501, "BuildKit"),
            ("POST", "/grpc", 501, "BuildKit"),
            (
                "POST",
                "/images/create?fromImage=a&tag=1&platform=foobar",
                400,
                "unknown operating system or architecture",
            ),
            (
                "POST",
                "/images/create?fromSrc=-&platform=macos",
                400,
                "operating system is not supported",
            ),
            (
                "POST",
                "/build/prune?min-free-space=5",
                501,
                "min-free-space",
            ),
        ] {
            let answer = server.request(method, path, &[], "").await.expect(status);
            assert!(
                answer.message().contains(text),
                "{path}: {}",
                answer.message()
            );
        }
        for (path, key, value) in [
            ("containers", "ContainersDeleted", Value::Null),
            ("images", "ImagesDeleted", Value::Null),
            ("networks", "NetworksDeleted", Value::Null),
            ("volumes", "VolumesDeleted", json!([])),
            ("build", "CachesDeleted", Value::Null),
        ] {
            let answer = server.post(&format!("/{path}/prune"), json!({})).await;
            assert_eq!(answer.expect(200).json()[key], value, "{path}");
        }
        // Before 1.42, volumes with names went too.
        let volume = json!({ "Name": "kept" });
        server.post("/volumes/create", volume).await.expect(201);
        for (version, gone) in [("v1.50", json!([])), ("v1.41", json!(["kept"]))] {
            let answer = server
                .post(&format!("/{version}/volumes/prune"), json!({}))
                .await;
            assert_eq!(answer.expect(200).json()["VolumesDeleted"], gone);
        }
    });
}

/// `curl -g 'http://localhost/containers/json?filters={"name":["x"]}'` sends the quotes as they are, and
/// got a bare 400 for it.
#[test]
fn quotes_in_a_target_are_read_and_headers_are_written_as_go_does() {
    with_server(FakeCluster::inactive(), |server| async move {
        let mut stream = tokio::net::UnixStream::connect(&server.socket)
            .await
            .unwrap();
        let head = "GET /networks?filters={\"name\":[\"host\"]} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        for header in ["\r\nContent-Type: ", "\r\nApi-Version: ", "\r\nOstype: "] {
            assert!(answer.contains(header), "{answer}");
        }
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let networks: Value = serde_json::from_str(body).unwrap();
        assert_eq!(networks.as_array().unwrap().len(), 1, "{networks}");
        assert_eq!(networks[0]["Name"], "host");
    });
}
