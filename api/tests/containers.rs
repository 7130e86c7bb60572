//! Containers through the unmodified docker CLI: the streams and the JSON it relies on.
//!
//! The image is made of the host's static busybox, so no registry is asked.

mod common;

use common::cluster::FakeCluster;
use common::docker::{Ran, can_run, docker, docker_with, import, prints};
use common::{Server, filters, with_server};
use serde_json::{Value, json};

async fn shell(server: &Server, before: &[&str], script: &str, input: &[u8]) -> Ran {
    let mut words = before.to_vec();
    words.extend(["/bin/sh", "-c", script]);
    docker_with(server, &words, input).await
}

#[test]
fn run_carries_output_input_and_exit_status() {
    if !can_run() {
        return;
    }
    with_server(FakeCluster::inactive(), |server| async move {
        import(&server).await;
        let run = ["run", "--rm", "--network", "none", "bb:1"];
        let ran = shell(&server, &run, "echo out; echo err >&2; exit 7", b"").await;
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "err\n"));
        assert!(!ran.ok);
        let run = ["run", "--rm", "-i", "--network", "none", "bb:1"];
        let ran = shell(&server, &run, "tr a-z A-Z; echo end", b"hello\n").await;
        assert_eq!(ran.out, "HELLO\nend\n", "{}", ran.err);
        let big = vec![b'x'; 1 << 20];
        let ran = shell(&server, &run, "cat", &big).await;
        assert_eq!(ran.out.len(), big.len(), "{}", ran.err);
        let none = prints(&server, "ps -aq").await;
        assert_eq!(none, "");
        let missing = docker(&server, "run --rm --network none --pull never nothing:1").await;
        assert!(
            missing.err.contains("No such image: nothing:1"),
            "{}",
            missing.err
        );
    });
}

#[test]
fn a_container_is_looked_at_while_it_runs() {
    if !can_run() {
        return;
    }
    with_server(FakeCluster::inactive(), |server| async move {
        import(&server).await;
        let run = [
            "run",
            "-d",
            "--name",
            "one",
            "--label",
            "a=b",
            "--network",
            "none",
            "bb:1",
        ];
        let ran = shell(&server, &run, "echo ready; echo odd >&2; sleep 600", b"").await;
        assert!(ran.ok, "{}", ran.err);
        let id = ran.out.trim().to_owned();
        let shown = prints(
            &server,
            "ps --format {{.ID}}|{{.Image}}|{{.Names}}|{{.State}}",
        )
        .await;
        assert_eq!(shown, format!("{}|bb:1|one|running\n", &id[..12]));

        // The line may still be on its way from the container to the log.
        let logs = loop {
            let logs = docker(&server, "logs -t one").await;
            if logs.out.contains("ready") && logs.err.contains("odd") {
                break logs;
            }
            tokio::task::yield_now().await;
        };
        assert!(logs.out.ends_with("Z ready\n"), "{}", logs.out);
        let ran = shell(&server, &["exec", "-i", "one"], "cat; exit 3", b"typed").await;
        assert_eq!((ran.out.as_str(), ran.ok), ("typed", false), "{}", ran.err);
        let ran = docker(&server, "exec one /bin/nothing").await;
        assert!(
            !ran.ok && ran.out.contains("nothing"),
            "{}{}",
            ran.out,
            ran.err
        );
        assert!(prints(&server, "top one").await.contains("sleep 600"));
        assert!(
            prints(&server, "stats --no-stream one")
                .await
                .contains("one")
        );
        assert!(prints(&server, "inspect one").await.contains(&id));
        prints(&server, "pause one").await;
        let paused = prints(&server, "ps --format {{.Status}}").await;
        assert!(paused.contains("(Paused)"), "{paused}");
        prints(&server, "unpause one").await;
        prints(&server, "rename one two").await;
        prints(&server, "update --memory 64m --memory-swap 64m two").await;

        let file = server.socket.with_extension("copied");
        std::fs::write(&file, "payload").unwrap();
        let path = file.display();
        prints(&server, &format!("cp {path} two:/tmp/there")).await;
        let ran = docker(&server, "exec two cat /tmp/there").await;
        assert_eq!(ran.out, "payload", "{}", ran.err);
        prints(&server, &format!("cp two:/tmp/there {path}.back")).await;
        let back = std::fs::read_to_string(format!("{path}.back")).unwrap();
        assert_eq!(back, "payload");
        assert!(prints(&server, "diff two").await.contains("A /tmp/there"));

        let waiting = docker(&server, "wait two");
        let killing = docker(&server, "kill -s KILL two");
        let (waited, killed) = tokio::join!(waiting, killing);
        assert!(killed.ok, "{}", killed.err);
        assert_eq!(waited.out, "137\n", "{}", waited.err);
        prints(&server, "commit two bb:2").await;
        assert!(prints(&server, "history bb:2").await.starts_with("IMAGE"));
        prints(&server, "rm two").await;
        let gone = docker(&server, "inspect --type container two").await;
        assert!(gone.err.contains("No such container: two"), "{}", gone.err);
    });
}

#[test]
fn images_travel_and_volumes_and_networks_are_kept() {
    if !can_run() {
        return;
    }
    with_server(FakeCluster::inactive(), |server| async move {
        import(&server).await;
        let file = server.socket.with_extension("saved");
        let path = file.display();
        prints(&server, "tag bb:1 host.invalid/deep/name:2").await;
        prints(&server, &format!("save -o {path} host.invalid/deep/name:2")).await;
        let removed = prints(&server, "rmi bb:1 host.invalid/deep/name:2").await;
        assert!(
            removed.contains("Untagged: host.invalid/deep/name:2"),
            "{removed}"
        );
        assert!(removed.contains("Deleted: sha256:"), "{removed}");
        let loaded = prints(&server, &format!("load -i {path}")).await;
        assert!(
            loaded.contains("Loaded image: host.invalid/deep/name:2"),
            "{loaded}"
        );
        let list = prints(&server, "images --format {{.Repository}}:{{.Tag}}").await;
        assert_eq!(list, "host.invalid/deep/name:2\n");
        let list = prints(&server, "images -q --filter reference=none").await;
        assert_eq!(list, "");

        prints(&server, "volume create --label a=b vol").await;
        assert!(prints(&server, "volume ls").await.contains("local     vol"));
        let run = ["run", "--rm", "--network", "none", "-v", "vol:/data"];
        let run = [&run[..], &["host.invalid/deep/name:2"]].concat();
        let ran = shell(&server, &run, "echo kept > /data/file", b"").await;
        assert!(ran.ok, "{}", ran.err);
        let ran = shell(&server, &run, "cat /data/file", b"").await;
        assert_eq!(ran.out, "kept\n", "{}", ran.err);
        let usage = prints(&server, "system df").await;
        assert!(usage.contains("Local Volumes"), "{usage}");
        prints(&server, "volume rm vol").await;

        prints(&server, "network create --label a=b net").await;
        let shown = server.get("/networks/net").await.expect(200).json();
        assert_eq!(
            (&shown["Scope"], &shown["Driver"]),
            (&json!("local"), &json!("bridge"))
        );
        prints(&server, "network rm net").await;
        let pruned = prints(&server, "system prune -f").await;
        assert!(pruned.contains("Total reclaimed space"), "{pruned}");
    });
}

#[test]
fn events_are_replayed_and_filtered() {
    if !can_run() {
        return;
    }
    with_server(FakeCluster::inactive(), |server| async move {
        import(&server).await;
        prints(&server, "volume create vol").await;
        prints(&server, "create --name made --network none bb:1 true").await;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let only = filters(r#"{"type":["container"],"event":["create"]}"#);
        let path = format!("/events?since=1&until={}&{only}", now + 1);
        let events = server.get(&path).await.expect(200);
        let events: Vec<Value> = events
            .text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["Actor"]["Attributes"]["name"], "made");
        assert_eq!(events[0]["scope"], "local");
    });
}

#[test]
fn a_terminal_is_passed_through() {
    const SCRIPT: &str = "/usr/bin/script";
    if !can_run() {
        return;
    }
    if !std::path::Path::new(SCRIPT).exists() {
        eprintln!("skipped: no {SCRIPT} to make a terminal");
        return;
    }
    with_server(FakeCluster::inactive(), |server| async move {
        import(&server).await;
        let line = "docker run --rm -it --network none bb:1 /bin/sh -c '[ -t 0 ] && echo terminal'";
        let output = tokio::process::Command::new(SCRIPT)
            .args(["-qec", line, "/dev/null"])
            .env("HOME", server.socket.with_extension("cli"))
            .env("DOCKER_HOST", format!("unix://{}", server.socket.display()))
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("terminal\r\n"), "{text}");
        assert!(output.status.success(), "{text}");
    });
}

#[test]
fn input_over_plain_http_is_refused_and_output_is_not() {
    if !can_run() {
        return;
    }
    with_server(FakeCluster::inactive(), |server| async move {
        import(&server).await;
        let body = json!({"Image": "bb:1", "Cmd": ["/bin/echo", "hi"],
            "HostConfig": {"NetworkMode": "none"}});
        server
            .post("/containers/create?name=said", body)
            .await
            .expect(201);
        server
            .post("/containers/said/start", json!(null))
            .await
            .expect(204);
        server
            .post("/containers/said/wait", json!(null))
            .await
            .expect(200);
        let input = server
            .post("/containers/said/attach?stream=1&stdin=1", json!(null))
            .await;
        assert!(input.expect(400).message().contains("Upgrade: tcp"));
        let output = server
            .post("/containers/said/attach?logs=1&stdout=1", json!(null))
            .await
            .expect(200);
        assert_eq!(output.text.as_bytes(), b"\x01\0\0\0\0\0\0\x03hi\n");
        server
            .post("/containers/said/start", json!(null))
            .await
            .expect(204);
        let missing = server.post("/exec/none/start", json!({})).await.expect(404);
        assert_eq!(missing.message(), "No such exec instance: none");
    });
}
