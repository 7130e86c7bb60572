//! What a client sees of the server itself and of the engine behind it.

mod common;

use common::cluster::FakeCluster;
use common::{filters, with_server};
use http_body_util::Full;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn every_answer_says_what_speaks() {
    with_server(FakeCluster::inactive(), |server| async move {
        for (method, path) in [
            ("GET", "/_ping"),
            ("HEAD", "/v1.24/_ping"),
            ("GET", "/nope"),
        ] {
            let answer = server.request(method, path, &[], "").await;
            assert_eq!(answer.header("api-version"), "1.50", "{path}");
            assert_eq!(answer.header("docker-experimental"), "false");
            assert_eq!(answer.header("ostype"), "linux");
            assert_eq!(answer.header("server"), "skep/0.1.0");
        }
        let ping = server.get("/_ping").await.expect(200);
        assert_eq!(
            (ping.text.as_str(), ping.header("builder-version")),
            ("OK", "1")
        );
        assert_eq!(
            server.get("/nope").await.expect(404).message(),
            "page not found"
        );
        let old = server.get("/v1.10/info").await.expect(400);
        assert_eq!(
            old.message(),
            "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
        server.get("/v1.51/info").await.expect(400);
        let version = server.get("/version").await.expect(200).json();
        assert_eq!(version["ApiVersion"], "1.50");
        assert_eq!(version["MinAPIVersion"], "1.24");
        assert_eq!(version["Components"][0]["Name"], "Engine");
    });
}

#[test]
fn info_has_the_fields_clients_read() {
    with_server(FakeCluster::inactive(), |server| async move {
        let info = server.get("/info").await.expect(200).json();
        for field in [
            "ID",
            "Containers",
            "Images",
            "Driver",
            "DriverStatus",
            "DockerRootDir",
            "Plugins",
            "MemoryLimit",
            "NFd",
            "SystemTime",
            "LoggingDriver",
            "CgroupDriver",
            "CgroupVersion",
            "KernelVersion",
            "OperatingSystem",
            "OSType",
            "Architecture",
            "RegistryConfig",
            "NCPU",
            "MemTotal",
            "Name",
            "Labels",
            "ServerVersion",
            "Runtimes",
            "DefaultRuntime",
            "Swarm",
            "SecurityOptions",
            "Warnings",
        ] {
            assert!(!info[field].is_null(), "{field}");
        }
        assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
    });
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    with_server(FakeCluster::inactive(), |server| async move {
        let body = json!({"Image": "x", "HostConfig": {"Memory": "lots"}});
        let answer = server.post("/containers/create", body).await.expect(400);
        assert!(
            answer
                .message()
                .starts_with("invalid JSON: HostConfig.Memory: "),
            "{}",
            answer.text
        );
        let answer = server
            .request(
                "POST",
                "/containers/create",
                &[("content-type", "text/plain")],
                "{}",
            )
            .await;
        assert!(
            answer
                .expect(400)
                .message()
                .starts_with("unsupported Content-Type header")
        );
        let answer = server.request("POST", "/containers/create", &[], "").await;
        assert!(answer.expect(400).message().contains("EOF"));
        let answer = server.request("POST", "/build", &[], "").await.expect(400);
        assert!(
            answer
                .message()
                .contains("Cannot locate specified Dockerfile")
        );
        let answer = server.get("/containers/none/logs").await.expect(400);
        assert_eq!(
            answer.message(),
            "Bad parameters: you must choose at least one stream"
        );
        let answer = server.get("/containers/none/json").await.expect(404);
        assert_eq!(answer.message(), "No such container: none");
        let answer = server.get("/images/a/b/c:1/json").await.expect(404);
        assert!(
            answer.message().starts_with("No such image: a/b/c:1"),
            "{}",
            answer.text
        );
        let odd = format!("/containers/json?{}", filters(r#"{"x":["1"]}"#));
        let answer = server.get(&odd);
        assert_eq!(answer.await.expect(400).message(), "invalid filter 'x'");
        server.get("/system/df?type=odd").await.expect(400);
    });
}

#[test]
fn a_client_that_goes_ends_its_stream() {
    with_server(FakeCluster::inactive(), |server| async move {
        let before = server.engine.info().events_listeners;
        let request = http::Request::get("/events").header("host", "x");
        let response = server.open(request.body(Full::default()).unwrap()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(server.engine.info().events_listeners, before + 1);
        drop(response);
        // The whole test has a deadline.
        while server.engine.info().events_listeners != before {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn the_server_stops_in_time_though_a_client_listens() {
    with_server(FakeCluster::inactive(), |server| async move {
        let request = http::Request::get("/events").header("host", "x");
        let response = server.open(request.body(Full::default()).unwrap()).await;
        // Stopping is what every test ends with, and this connection is still open then.
        std::mem::forget(response);
    });
}

#[test]
fn tcp_serves_the_same() {
    with_server(FakeCluster::manager(), |server| async move {
        // Loopback is down in a fresh namespace.
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        if !up.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no ip(8) to bring loopback up");
            return;
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let address = match &listener {
            Ok(listener) => listener.local_addr().unwrap(),
            Err(error) => panic!("no loopback: {error}"),
        };
        let state = std::sync::Arc::new(skep_api::ApiState {
            engine: server.engine.clone(),
            cluster: server.cluster.clone(),
            asked: Default::default(),
            task_execs: Default::default(),
            about: skep_api::About::default(),
        });
        let stop = tokio_util::sync::CancellationToken::new();
        let listeners = vec![skep_api::Listener::Tcp(listener.unwrap())];
        let serving = tokio::spawn(skep_api::serve(listeners, state, stop.clone()));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200 OK") && text.ends_with("OK"),
            "{text}"
        );
        stop.cancel();
        serving.await.unwrap();
    });
}

#[test]
fn stale_reads_are_asked_for_by_name() {
    with_server(FakeCluster::manager(), |server| async move {
        server.get("/nodes").await.expect(200);
        server.get("/nodes?stale=1").await.expect(200);
        assert_eq!(*server.cluster.stale.lock().unwrap(), [false, true]);
    });
}

#[test]
fn a_body_without_end_is_cut() {
    with_server(FakeCluster::manager(), |server| async move {
        let big = format!("{{\"Name\":\"{}\"}}", "x".repeat(33 << 20));
        let headers = [("content-type", "application/json")];
        let answer = server
            .request("POST", "/secrets/create", &headers, &big)
            .await;
        assert_eq!(answer.status.as_u16(), 413, "{}", answer.text);
    });
}

#[test]
fn bodies_are_read_as_go_reads_them() {
    with_server(FakeCluster::inactive(), |server| async move {
        // Names of fields in any case, and null for nothing.
        let given = json!({ "name": "mixed", "driverOpts": null, "LABELS": { "a": "b" } });
        let volume = server.post("/volumes/create", given).await.expect(201);
        assert_eq!(volume.json()["Labels"], json!({ "a": "b" }));
        let again = server.get("/volumes/mixed").await.expect(200);
        assert_eq!(again.json()["Name"], "mixed");
        let wrong = server.post("/volumes/create", json!({ "Name": 5 })).await;
        assert!(
            wrong
                .expect(400)
                .message()
                .starts_with("invalid JSON: Name:")
        );
    });
}

/// A handler that does not want the body answers at once; a client that is still sending it then saw
/// a broken pipe instead of the answer.
#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    with_server(FakeCluster::inactive(), |server| async move {
        let mut stream = tokio::net::UnixStream::connect(&server.socket)
            .await
            .unwrap();
        let head = "PUT /containers/nosuch/archive?path=/ HTTP/1.1\r\nHost: docker\r\nContent-Length: 65536\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..64 {
            stream.write_all(&[0; 1024]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 404");
        // The connection goes on.
        let mut rest = vec![0; 4096];
        let _ = stream.read(&mut rest).await.unwrap();
        stream
            .write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")
            .await
            .unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200");
    });
}

#[test]
fn an_archive_that_is_none_is_told_in_the_stream() {
    with_server(FakeCluster::inactive(), |server| async move {
        let kind = [("content-type", "application/x-tar")];
        let answer = server
            .request("POST", "/images/load", &kind, "no archive")
            .await
            .expect(200);
        assert!(answer.json()["error"].is_string(), "{}", answer.text);
    });
}

#[test]
fn old_versions_of_the_api_have_what_they_had() {
    with_server(FakeCluster::inactive(), |server| async move {
        server.engine.ensure_hello_image().await.unwrap();
        let image = async |version: &str| {
            let path = format!("/{version}/images/skep/hello/json");
            server.get(&path).await.expect(200).json()
        };
        let (old, new) = (image("v1.43").await, image("v1.50").await);
        assert_eq!(old["ContainerConfig"], old["Config"]);
        for (field, value) in new["Config"].as_object().unwrap() {
            assert_eq!(old["Config"][field], *value, "{field}");
        }
        // What is empty is there all the same.
        for field in ["Hostname", "Image", "Labels", "Volumes", "OnBuild"] {
            assert!(old["Config"].get(field).is_some(), "{field}");
            assert!(new["Config"].get(field).is_none(), "{field}");
        }
        assert_eq!(old["VirtualSize"], new["Size"]);
        assert!(new.get("ContainerConfig").is_none() && new.get("VirtualSize").is_none());
        let list = server.get("/v1.43/images/json").await.expect(200).json();
        assert_eq!(list[0]["VirtualSize"], list[0]["Size"]);
        let shared = server
            .get("/images/json?shared-size=1")
            .await
            .expect(200)
            .json();
        assert_eq!(shared[0]["SharedSize"], 0);
    });
}

#[test]
fn a_search_is_checked_before_it_is_made() {
    with_server(FakeCluster::inactive(), |server| async move {
        for (query, want) in [
            ("", "term must be provided"),
            (
                "term=x&limit=101",
                "limit 101 is outside the range of [1, 100]",
            ),
            ("term=http://x", "should not have a scheme"),
        ] {
            let answer = server
                .get(&format!("/images/search?{query}"))
                .await
                .expect(400);
            assert!(answer.message().contains(want), "{}", answer.message());
        }
        let refused = server
            .get("/images/search?term=127.0.0.1:1/x")
            .await
            .expect(503);
        assert!(
            refused
                .message()
                .contains("dial tcp 127.0.0.1:1: connect: "),
            "{}",
            refused.message()
        );
    });
}
