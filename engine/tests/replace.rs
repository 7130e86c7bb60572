//! Files in memory that are replaced while the container runs.

mod common;

use common::*;
use skep_engine::{CreateExtras, Engine, InjectedFile, StartExtras};

fn file(data: &str) -> Vec<InjectedFile> {
    vec![InjectedFile {
        target: "/run/secrets/db".into(),
        uid: 1000,
        gid: 1000,
        mode: 0o440,
        data: data.as_bytes().to_vec().into(),
    }]
}

async fn begin(engine: &Engine, name: &str, script: &str, userns: &str) {
    let config = with_host(shell(script), |host| host.userns_mode = userns.into());
    engine
        .container_create(Some(name), config, CreateExtras::default())
        .await
        .unwrap();
    let extras = StartExtras {
        files: file("first\n"),
        ..StartExtras::default()
    };
    engine.container_start(name, extras).await.unwrap();
}

fn has(text: &str, word: &str) -> bool {
    text.lines().any(|line| line == word)
}

/// Waits until the container has written a line.
async fn told(engine: &Engine, name: &str, word: &str) -> String {
    for _ in 0..200 {
        let text = log(engine, name).await;
        if has(&text, word) {
            return text;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("`{word}` was not told: {}", log(engine, name).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_the_old_file_or_the_new_one_and_nothing_else() {
    let Some(bench) = bench().await else {
        return;
    };
    let engine = bench.engine();
    let script = "while :; do cat /run/secrets/db || echo missing; \
                  stat -c '%a %u %g' /run/secrets/db; \
                  grep -c /run/secrets/db /proc/mounts; sleep 0.002; done 2>&1";
    for (name, userns) in [("plain", "host"), ("mapped", "private")] {
        begin(engine, name, script, userns).await;
        told(engine, name, "first").await;
        for number in 1..=5 {
            let word = format!("word-{number}");
            let files = file(&format!("{word}\n"));
            engine.container_replace_files(name, files).await.unwrap();
            told(engine, name, &word).await;
        }
        let text = told(engine, name, "440 1000 1000").await;
        // For a moment the new file's mount is there and the old one's still is.
        let other: Vec<&str> = text
            .lines()
            .filter(|line| !["first", "440 1000 1000", "1", "2"].contains(line))
            .filter(|line| !line.starts_with("word-"))
            .collect();
        assert_eq!(other, Vec::<&str>::new(), "{name}");
        let mut order: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("word-"))
            .collect();
        order.dedup();
        let wanted: Vec<String> = (1..=5).map(|number| format!("word-{number}")).collect();
        assert_eq!(order, wanted, "{name}: an old one never comes back");
        engine.container_kill(name, "KILL").await.unwrap();
    }
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_cannot_have_anything_else_replaced() {
    let Some(bench) = bench().await else {
        return;
    };
    let engine = bench.engine();
    let script =
        "mv /run/secrets /run/away; ln -s / /run/secrets; echo own > /db; echo ready; sleep 100";
    begin(engine, "moves", script, "host").await;
    told(engine, "moves", "ready").await;
    let refused = engine
        .container_replace_files("moves", file("second\n"))
        .await;
    let text = format!("{:?}", refused.unwrap_err());
    assert!(text.contains("what is there is no file of ours"), "{text}");
    let pid = engine
        .container_inspect("moves", false)
        .await
        .unwrap()
        .state
        .pid;
    let read = |path: &str| std::fs::read_to_string(format!("/proc/{pid}/root{path}")).unwrap();
    assert_eq!(read("/db"), "own\n");
    assert_eq!(read("/run/away/db"), "first\n");
    engine.container_kill("moves", "KILL").await.unwrap();
    until("it has ended", || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    })
    .await;
    let refused = engine
        .container_replace_files("moves", file("third\n"))
        .await;
    assert!(refused.is_err(), "it does not run");
    bench.finish().await;
}
