//! Containers and builds: streams, statuses, contexts.

use super::*;

#[test]
fn a_container_runs_attached_and_its_status_is_ours() {
    let mut streams = frame(1, "out\n");
    streams.extend(frame(2, "err\n"));
    let daemon = Daemon::start(vec![
        (
            "POST /containers/create",
            Answer::Json(
                404,
                r#"{"message":"No such image: alpine:latest"}"#.to_owned(),
            ),
        ),
        (
            "POST /images/create",
            json(
                "{\"status\":\"Pulling from library/alpine\",\"id\":\"latest\"}\r\n{\"status\":\"Downloading\",\"progressDetail\":{\"current\":1,\"total\":2},\"id\":\"aa\"}\r\n{\"status\":\"Pull complete\",\"progressDetail\":{},\"id\":\"aa\"}\r\n",
            ),
        ),
        (
            "POST /containers/create",
            Answer::Json(201, r#"{"Id":"c1","Warnings":[]}"#.to_owned()),
        ),
        ("POST /containers/c1/attach", Answer::Stream(streams)),
        ("POST /containers/c1/wait", json(r#"{"StatusCode":3}"#)),
        (
            "POST /containers/c1/start",
            Answer::Json(204, String::new()),
        ),
    ]);
    let ran = daemon.run_with_input("run -i --rm -v /a:/b -e X=y alpine cat -n", "typed");
    assert_eq!((ran.out.as_str(), ran.status), ("out\n", 3));
    assert_eq!(
        ran.err,
        "Unable to find image 'alpine:latest' locally\nlatest: Pulling from library/alpine\naa: Pull complete\nerr\n"
    );
    let create = &daemon.requests("POST /containers/create")[1];
    let body: serde_json::Value = serde_json::from_str(&create.body).unwrap();
    assert_eq!(body["Cmd"], serde_json::json!(["cat", "-n"]));
    assert_eq!(body["HostConfig"]["Binds"], serde_json::json!(["/a:/b"]));
    assert_eq!(body["HostConfig"]["AutoRemove"], true);
    let attach = &daemon.requests("POST /containers/c1/attach")[0];
    assert_eq!(attach.body, "typed");
    assert!(attach.headers.to_lowercase().contains("upgrade: tcp"));
    assert!(
        daemon.requests("POST /containers/c1/wait")[0]
            .line
            .ends_with("condition=removed")
    );
}

#[test]
fn a_command_that_is_not_found_ends_with_127() {
    let daemon = Daemon::start(vec![
        (
            "POST /containers/create",
            Answer::Json(201, r#"{"Id":"c1"}"#.to_owned()),
        ),
        (
            "POST /containers/c1/start",
            Answer::Json(
                400,
                r#"{"message":"exec: \"x\": executable file not found in $PATH"}"#.to_owned(),
            ),
        ),
    ]);
    let ran = daemon.run("run -d alpine x");
    assert_eq!(ran.status, 127);
    assert_eq!(
        ran.err,
        "skep: Error response from daemon: exec: \"x\": executable file not found in $PATH\n\nRun 'skep run --help' for more information\n"
    );
}

#[test]
fn exec_passes_the_status_on() {
    let daemon = Daemon::start(vec![
        (
            "POST /containers/web/exec",
            Answer::Json(201, r#"{"Id":"e1"}"#.to_owned()),
        ),
        ("POST /exec/e1/start", Answer::Stream(frame(1, "hi\n"))),
        ("GET /exec/e1/json", json(r#"{"ExitCode":7}"#)),
    ]);
    let ran = daemon.run("exec -i -e A=1 web ls -l");
    assert_eq!(
        ran,
        Ran {
            out: "hi\n".to_owned(),
            err: String::new(),
            status: 7
        }
    );
    let body = daemon.body("POST /containers/web/exec");
    assert_eq!(body["Cmd"], serde_json::json!(["ls", "-l"]));
}

#[test]
fn logs_go_where_they_were_written() {
    let mut logs = frame(1, "one\n");
    logs.extend(frame(2, "two\n"));
    let daemon = Daemon::start(vec![
        (
            "GET /containers/web/json",
            json(r#"{"Id":"c1","Config":{"Tty":false}}"#),
        ),
        ("GET /containers/c1/logs", Answer::Bytes(logs)),
    ]);
    let ran = daemon.run("logs --tail 5 web");
    assert_eq!(
        ran,
        Ran {
            out: "one\n".to_owned(),
            err: "two\n".to_owned(),
            status: 0
        }
    );
    assert!(
        daemon.requests("GET /containers/c1/logs")[0]
            .line
            .contains("tail=5")
    );
}

#[test]
fn a_build_sends_its_context_and_fails_as_its_command_did() {
    let daemon = Daemon::start(vec![
        (
            "POST /build",
            json("{\"stream\":\"Step 1/1 : FROM x\\n\"}\r\n{\"aux\":{\"ID\":\"sha256:abc\"}}\r\n"),
        ),
        (
            "POST /build",
            json(
                "{\"errorDetail\":{\"code\":7,\"message\":\"it failed\"},\"error\":\"it failed\"}\r\n",
            ),
        ),
    ]);
    let line = "build -t a:1 -t b --build-arg X=1 --build-arg NOT_SET --label k=v --memory 64m --target t -";
    let ran = daemon.run_with_input(line, "FROM x\n");
    assert_eq!(
        ran,
        said("Sending build context to Docker daemon  2.048kB\nStep 1/1 : FROM x\n")
    );
    let request = daemon.requests("POST /build")[0].clone();
    for part in [
        "version=1",
        "t=a%3A1&t=b",
        "buildargs=%7B%22NOT%20SET%22%3Anull%2C%22X%22%3A%221%22%7D",
        "labels=%7B%22k%22%3A%22v%22%7D",
        "memory=67108864",
        "target=t",
        "rm=1",
        "dockerfile=Dockerfile",
    ] {
        assert!(request.line.contains(part), "{part}: {}", request.line);
    }
    assert!(request.body.contains("FROM x\n"));
    let ran = daemon.run_with_input("build -", "FROM x\n");
    assert_eq!((ran.status, ran.err.as_str()), (7, "it failed\n"));
    let ran = daemon.run_with_input("build --squash -", "FROM x\n");
    assert!(ran.err.starts_with("--squash is not supported"), "{ran:?}");
}
