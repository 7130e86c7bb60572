//! Secrets and stacks.

use super::*;

#[test]
fn secrets_come_from_stdin() {
    let daemon = Daemon::start(vec![(
        "POST /secrets/create",
        Answer::Json(201, r#"{"ID":"sec1"}"#.to_owned()),
    )]);
    assert_eq!(
        daemon.run_with_input("secret create -l a=b key -", "hush"),
        said("sec1\n")
    );
    let body = daemon.body("POST /secrets/create");
    assert_eq!(body["Data"], "aHVzaA==");
    assert_eq!(body["Labels"]["a"], "b");
    let empty = daemon.run("secret create key -");
    assert_eq!(
        (empty.err.as_str(), empty.status),
        ("error reading from STDIN: data is empty\n", 1)
    );
}

#[test]
fn secrets_of_other_stores_have_options_and_no_bytes() {
    let daemon = Daemon::start(vec![
        (
            "POST /secrets/create",
            Answer::Json(
                201,
                r#"{"ID":"sec1","Warnings":["nobody has it"]}"#.to_owned(),
            ),
        ),
        (
            "GET /secrets/db",
            json(r#"{"ID":"sec1","Spec":{"Name":"db","Driver":{"Name":"vault"}}}"#),
        ),
        (
            "POST /skep/v1/secrets/db/versions",
            json(r#"{"Version":2,"Actions":["Updating service web"]}"#),
        ),
    ]);
    let made = daemon.run(
        "secret create -d vault --driver-opt path=a/b --driver-opt field=x=y --driver-opt none= db",
    );
    assert_eq!((made.out.as_str(), made.status), ("sec1\n", 0));
    assert_eq!(made.err, "nobody has it\n");
    let driver = daemon.body("POST /secrets/create")["Driver"].clone();
    assert_eq!(driver["Name"], "vault");
    assert_eq!(
        driver["Options"],
        serde_json::json!({"path": "a/b", "field": "x=y", "none": ""})
    );
    let updated = daemon.run("secret update --driver-opt path=c db");
    assert_eq!(updated.out, "2\n");
    let body = daemon.body("POST /skep/v1/secrets/db/versions");
    assert_eq!(body["DriverOptions"], serde_json::json!({"path": "c"}));
    assert!(body.get("Data").is_none(), "{body}");
    for (line, why) in [
        (
            "secret create --driver-opt path=c db file",
            "--driver-opt needs --driver",
        ),
        (
            "secret create -d vault --driver-opt path db",
            "want KEY=VALUE",
        ),
        ("secret update --driver-opt path=c db file", "give no file"),
        ("secret update db", "--driver-opt to fetch them"),
    ] {
        let refused = daemon.run(line);
        assert!(
            matches!(refused.status, 1 | 125) && refused.err.contains(why),
            "{line}: {refused:?}"
        );
    }
}

fn compose_file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yml");
    std::fs::write(
        &path,
        "services:\n  web:\n    image: nginx:1\n    ports: [\"80:80\"]\n",
    )
    .unwrap();
    (directory, path)
}

#[test]
fn a_stack_is_deployed_as_one() {
    let daemon = Daemon::start(vec![
        ("GET /skep/v1/version", json("{}")),
        ("GET /info", json(r#"{"Swarm":{"ControlAvailable":true}}"#)),
        (
            "POST /skep/v1/stacks/app",
            json(
                r#"{"ID":"st1","Warnings":["careful"],"Actions":["Creating network app_default","Creating service app_web"]}"#,
            ),
        ),
    ]);
    let (_directory, path) = compose_file();
    let ran = daemon.run(&format!(
        "stack deploy -d --prune --resolve-image never -c {} app",
        path.display()
    ));
    assert_eq!(
        ran,
        Ran {
            out: "Creating network app_default\nCreating service app_web\n".to_owned(),
            err: "careful\n".to_owned(),
            status: 0,
        }
    );
    let request = &daemon.requests("POST /skep/v1/stacks/app")[0];
    assert!(request.line.ends_with("?prune=true"), "{}", request.line);
    let spec: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(spec["Services"][0]["Name"], "app_web");
    assert_eq!(
        spec["Services"][0]["TaskTemplate"]["ContainerSpec"]["Image"],
        "nginx:1"
    );
}

#[test]
fn a_plain_dockerd_has_no_stacks_to_deploy_to() {
    let daemon = Daemon::start(vec![
        (
            "GET /services",
            json(
                r#"[{"ID":"s1","Spec":{"Name":"app_web","Labels":{"com.docker.stack.namespace":"app"}}}]"#,
            ),
        ),
        ("GET /secrets", json("[]")),
        ("GET /configs", json("[]")),
        (
            "GET /networks",
            json(r#"[{"Id":"n1","Name":"app_default"}]"#),
        ),
        ("DELETE /services/s1", json("")),
        ("DELETE /networks/n1", json("")),
    ]);
    let (_directory, path) = compose_file();
    let ran = daemon.run(&format!("stack deploy -d -c {} app", path.display()));
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("is not a skep daemon"), "{}", ran.err);
    assert!(daemon.requests("POST").is_empty());
    assert_eq!(
        daemon.run("stack ls"),
        said("NAME      SERVICES\napp       1\n")
    );
    assert_eq!(
        daemon.run("stack rm app"),
        said("Removing service app_web\nRemoving network app_default\n")
    );
}
