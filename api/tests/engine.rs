//! What a client sees of the server itself and of the engine behind it.

mod common;

use common::cluster::FakeCluster;
use common::{filters, with_server};
use serde_json::json;

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
        let answer = server.request("POST", "/build", &[], "").await.expect(501);
        assert!(answer.message().contains("does not build images"));
        server.get("/images/search?term=x").await.expect(501);
        server.get("/containers/none/attach/ws").await.expect(501);
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
        let answer = server
            .post("/images/create?fromImage=busybox", json!(null))
            .await;
        answer.expect(501);
        server.get("/system/df?type=odd").await.expect(400);
    });
}
