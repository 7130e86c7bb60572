//! Services: what is sent for a command, and what is said while they come to be.

use super::*;

#[test]
fn a_service_is_created_by_digest_and_waited_for() {
    let daemon = Daemon::start(vec![
        (
            "GET /distribution/nginx:1/json",
            json(
                r#"{"Descriptor":{"digest":"sha256:1111111111111111111111111111111111111111111111111111111111111111"},"Platforms":[{"architecture":"amd64","os":"linux"}]}"#,
            ),
        ),
        ("GET /networks/front", json(r#"{"Id":"net1"}"#)),
        (
            "GET /secrets",
            json(r#"[{"ID":"sec1","Spec":{"Name":"key"}}]"#),
        ),
        (
            "POST /services/create",
            Answer::Json(201, r#"{"ID":"s1","Warnings":["careful"]}"#.to_owned()),
        ),
        ("GET /services/s1", json(SERVICE)),
        ("GET /tasks", json(TASK)),
        ("GET /nodes", json(&format!("[{NODE}]"))),
    ]);
    let created = daemon.run(
        "service create --name web -p 8080:80 --network front --secret key -e A=1 nginx:1 sleep 5",
    );
    assert_eq!(
        created,
        Ran {
            out: "s1\n\
                  overall progress: 0 out of 1 tasks\n\
                  1/1:  \n\
                  overall progress: 1 out of 1 tasks\n\
                  verify: Service s1 converged\n"
                .to_owned(),
            err: "careful\n".to_owned(),
            status: 0,
        }
    );
    let spec = daemon.body("POST /services/create");
    let container = &spec["TaskTemplate"]["ContainerSpec"];
    assert_eq!(
        container["Image"],
        format!("nginx:1@sha256:{}", "1".repeat(64))
    );
    assert_eq!(container["Args"], serde_json::json!(["sleep", "5"]));
    assert_eq!(container["Secrets"][0]["SecretID"], "sec1");
    assert_eq!(spec["TaskTemplate"]["Networks"][0]["Target"], "net1");
    assert_eq!(
        spec["TaskTemplate"]["Placement"]["Platforms"][0]["Architecture"],
        "amd64"
    );
    assert_eq!(spec["EndpointSpec"]["Ports"][0]["PublishedPort"], 8080);
}

#[test]
fn of_a_service_that_is_refused_only_the_refusal_is_told() {
    let daemon = Daemon::start(vec![(
        "POST /services/create",
        Answer::Json(400, r#"{"message":"no"}"#.to_owned()),
    )]);
    let refused = daemon.run("service create -d private/x");
    assert_eq!(refused.err, "Error response from daemon: no\n");
    assert_eq!(refused.status, 1);
}

#[test]
fn a_registry_that_does_not_answer_is_a_warning() {
    let daemon = Daemon::start(vec![(
        "POST /services/create",
        Answer::Json(201, r#"{"ID":"s1"}"#.to_owned()),
    )]);
    let created = daemon.run("service create -d private/x");
    assert_eq!((created.out.as_str(), created.status), ("s1\n", 0));
    assert!(created.err.starts_with(
        "image private/x:latest could not be accessed on a registry to record\nits digest."
    ));
    assert_eq!(
        daemon.body("POST /services/create")["TaskTemplate"]["ContainerSpec"]["Image"],
        "private/x:latest"
    );
}

#[test]
fn an_update_changes_what_its_flags_name() {
    let daemon = Daemon::start(vec![
        ("GET /services/web", json(SERVICE)),
        (
            "POST /services/s1qwertyuiopasdfghjklzxcv/update",
            json("{}"),
        ),
    ]);
    assert_eq!(
        daemon.run("service update -d --env-add B=9 --env-rm A --force --replicas 3 web"),
        said("web\n")
    );
    let request = &daemon.requests("POST /services/")[0];
    assert!(
        request.line.contains("version=7") && request.line.contains("registryAuthFrom=spec"),
        "{}",
        request.line
    );
    let spec: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(
        spec["TaskTemplate"]["ContainerSpec"]["Env"],
        serde_json::json!(["B=9"])
    );
    assert_eq!(spec["TaskTemplate"]["ForceUpdate"], 1);
    assert_eq!(spec["Mode"]["Replicated"]["Replicas"], 3);
    assert_eq!(spec["UpdateConfig"]["Monitor"], 1);
}

#[test]
fn paused_and_rolled_back_updates_are_failures() {
    let state = |state: &str| {
        json(&SERVICE.replacen(
            "\"Spec\"",
            &format!("\"UpdateStatus\":{{\"State\":\"{state}\",\"Message\":\"why\"}},\"Spec\""),
            1,
        ))
    };
    for (ended, command, err, status) in [
        (
            "paused",
            "service update --force web",
            "service update paused: why\n",
            1,
        ),
        (
            "rollback_completed",
            "service update --force web",
            "service update rolled back: why\n",
            1,
        ),
        ("rollback_completed", "service rollback web", "", 0),
    ] {
        let daemon = Daemon::start(vec![
            ("GET /services/web", json(SERVICE)),
            (
                "POST /services/s1qwertyuiopasdfghjklzxcv/update",
                json("{}"),
            ),
            ("GET /services/web", state(ended)),
            ("GET /tasks", json(TASK)),
            ("GET /nodes", json(&format!("[{NODE}]"))),
        ]);
        let ran = daemon.run(command);
        assert_eq!(
            (ran.err.as_str(), ran.status),
            (err, status),
            "{ended} {command}: {}",
            ran.out
        );
    }
}

#[test]
fn join_commands_and_scaling() {
    let daemon = Daemon::start(vec![
        ("GET /info", json(r#"{"Swarm":{"NodeID":"n1"}}"#)),
        (
            "GET /nodes/n1",
            json(r#"{"ID":"n1","ManagerStatus":{"Addr":"10.0.0.1:2377"}}"#),
        ),
        (
            "GET /swarm",
            json(
                r#"{"Version":{"Index":4},"Spec":{},"JoinTokens":{"Worker":"SWMTKN-1-w","Manager":"SWMTKN-1-m"}}"#,
            ),
        ),
        ("POST /swarm/update", json("")),
        ("GET /services/web", json(SERVICE)),
        (
            "POST /services/s1qwertyuiopasdfghjklzxcv/update",
            json("{}"),
        ),
    ]);
    assert_eq!(
        daemon.run("swarm join-token worker"),
        said(
            "To add a worker to this swarm, run the following command:\n\n    skep swarm join --token SWMTKN-1-w 10.0.0.1:2377\n\n"
        )
    );
    assert_eq!(
        daemon.run("swarm join-token -q manager"),
        said("SWMTKN-1-m\n")
    );
    let scaled = daemon.run("service scale -d web=4 web=x");
    assert_eq!(
        (scaled.out.as_str(), scaled.err.as_str(), scaled.status),
        (
            "web scaled to 4\n",
            "web: invalid replicas value x: strconv.ParseUint: parsing \"x\": invalid syntax\n",
            1
        )
    );
}
