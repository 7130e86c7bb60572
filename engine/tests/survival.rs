//! What outlives the engine, and what it clears away.

mod common;

use common::*;
use skep_engine::types::RestartPolicy;
use skep_engine::{
    CreateExtras, Engine, HostsEntry, InjectedFile, Kind, StartExtras, StopOptions, WaitCondition,
};

#[tokio::test(flavor = "multi_thread")]
async fn containers_go_on_while_the_engine_is_away() {
    let Some(mut bench) = bench().await else {
        return;
    };
    let engine = bench.engine().clone();
    let id = run(
        &engine,
        "stays",
        shell("i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"),
    )
    .await;
    run(
        &engine,
        "ends",
        shell("while ! test -e /tmp/go; do sleep 0.02; done; exit 42"),
    )
    .await;
    run(&engine, "frozen", running(&["sleep", "1000"])).await;
    engine.container_pause("frozen").await.unwrap();
    let before = engine.container_inspect("stays", false).await.unwrap();
    let ends = engine.container_inspect("ends", false).await.unwrap();
    let pid = ends.state.pid;
    drop(engine);
    bench.close().await;

    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    until("the container ended", || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    })
    .await;
    let exit = bench
        .path()
        .join("data/containers")
        .join(&ends.id)
        .join("exit.json");
    until("its end is written down", || exit.exists()).await;
    bench.open().await;

    let engine = bench.engine();
    let after = engine.container_inspect(&id, false).await.unwrap();
    assert_eq!(after.state, before.state);
    assert_eq!(
        engine
            .container_inspect("frozen", false)
            .await
            .unwrap()
            .state
            .status,
        "paused"
    );
    let ended = engine.container_inspect("ends", false).await.unwrap();
    assert_eq!(
        (ended.state.status.as_str(), ended.state.exit_code),
        ("exited", 42)
    );
    let lines = log(engine, "stays").await.lines().count();
    until("the log goes on", || {
        let text = std::fs::read_to_string(
            bench
                .path()
                .join("data/containers")
                .join(&id)
                .join(format!("{id}-json.log")),
        )
        .unwrap();
        text.lines().count() > lines + 3
    })
    .await;
    let waiter = engine
        .container_wait("stays", WaitCondition::NotRunning)
        .unwrap();
    engine.container_kill("stays", "").await.unwrap();
    assert_eq!(waiter.wait().await.unwrap().status_code, 137);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_engine_is_kept_out() {
    let Some(bench) = bench().await else { return };
    let error = Engine::open(bench.config()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_decide_what_starts_with_the_engine() {
    let Some(mut bench) = bench().await else {
        return;
    };
    let engine = bench.engine().clone();
    let with_policy = |name: &str| {
        with_host(running(&["sleep", "1000"]), |host| {
            host.restart_policy = RestartPolicy {
                name: name.into(),
                ..Default::default()
            };
        })
    };
    for name in ["always", "unless-stopped", "no"] {
        run(&engine, name, with_policy(name)).await;
        engine
            .container_stop(
                name,
                StopOptions {
                    timeout: Some(0),
                    ..Default::default()
                },
            )
            .await
            .unwrap();
    }
    create(&engine, "never-started", with_policy("always")).await;
    drop(engine);
    bench.close().await;
    bench.open().await;
    let engine = bench.engine();
    until_inspect(engine, "always", "started again", |found| {
        found.state.status == "running"
    })
    .await;
    for (name, status) in [
        ("unless-stopped", "exited"),
        ("no", "exited"),
        ("never-started", "created"),
    ] {
        assert_eq!(
            engine
                .container_inspect(name, false)
                .await
                .unwrap()
                .state
                .status,
            status,
            "{name}"
        );
    }
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_takes_its_container_along() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let id = run(engine, "orphan", running(&["sleep", "1000"])).await;
    let pid = engine
        .container_inspect("orphan", false)
        .await
        .unwrap()
        .state
        .pid;
    let shims = processes_naming(&id);
    assert_eq!(shims.len(), 1);
    unsafe { libc::kill(shims[0], libc::SIGKILL) };
    let found = until_inspect(engine, "orphan", "its end", |found| {
        found.state.status == "exited"
    })
    .await;
    assert_eq!(found.state.exit_code, 137);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "it lives: {stat}");
    start(engine, "orphan").await.unwrap();
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_half_made_is_cleared() {
    let Some(mut bench) = bench().await else {
        return;
    };
    create(bench.engine(), "whole", shell("true")).await;
    bench.close().await;
    let data = bench.path().join("data");
    let half = [
        data.join("containers").join("f".repeat(64)),
        data.join("layers/0123456789abcdef.aaaaaaaa.tmp"),
        data.join("layers/0123456789abcdef"),
        data.join("volumes/half"),
        bench.path().join("run/containers").join("e".repeat(64)),
    ];
    for path in &half {
        std::fs::create_dir_all(path.join("fs")).unwrap();
        std::fs::write(path.join("fs/file"), "x").unwrap();
    }
    std::fs::write(data.join("layers/0123456789abcdef/layer.json"), format!(
        "{{\"chain_id\":\"sha256:0123456789abcdef{0}\",\"diff_id\":\"sha256:0123456789abcdef{0}\",\"size\":1}}", "0".repeat(48)
    )).unwrap();
    std::fs::write(data.join("images/ingest/x.tmp"), "half").unwrap();
    std::fs::write(
        data.join("images/blobs/sha256").join("a".repeat(64)),
        "nobody's",
    )
    .unwrap();
    bench.open().await;
    for path in &half {
        assert!(!path.exists(), "{} is left", path.display());
    }
    assert!(!data.join("images/ingest/x.tmp").exists());
    assert!(
        !data
            .join("images/blobs/sha256")
            .join("a".repeat(64))
            .exists()
    );
    assert_eq!(
        run_to_end(bench.engine(), "works", shell("echo yes")).await,
        (0, "yes\n".into())
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phases_with_a_namespace_and_secrets_of_the_callers() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let namespaces = skep_net::Namespaces::new(&bench.path().join("run"));
    namespaces.create("t-test").unwrap();
    let netns = namespaces.path("t-test");
    let extras = CreateExtras {
        netns: Some(netns.clone()),
        hosts: vec![HostsEntry {
            address: "10.1.2.3".parse().unwrap(),
            names: vec!["peer".into()],
        }],
        dns: Some(skep_dns::DnsConfig {
            search: vec!["x.test".into()],
            ..Default::default()
        }),
        ..CreateExtras::default()
    };
    let config = shell(
        "cat /run/secrets/db /conf; stat -c '%a %u %g' /run/secrets/db; cat /etc/resolv.conf; grep peer /etc/hosts; cat /proc/self/net/dev | wc -l",
    );
    engine
        .container_create(Some("task"), config, extras)
        .await
        .unwrap();
    let files = || StartExtras {
        files: vec![
            InjectedFile {
                target: "/run/secrets/db".into(),
                uid: 1000,
                gid: 1000,
                mode: 0o440,
                data: b"s3cr3t-bytes\n".to_vec().into(),
            },
            InjectedFile {
                target: "/conf".into(),
                uid: 0,
                gid: 0,
                mode: 0o444,
                data: b"conf\n".to_vec().into(),
            },
        ],
        ..StartExtras::default()
    };
    engine.container_prepare("task", files()).await.unwrap();
    // Again, as after a failure of the caller's in between.
    let prepared = engine.container_prepare("task", files()).await.unwrap();
    let ports = prepared.dns.unwrap();
    assert!(ports.udp > 0 && ports.tcp > 0);
    assert_eq!(
        engine
            .container_inspect("task", false)
            .await
            .unwrap()
            .state
            .status,
        "created"
    );
    let waiter = engine
        .container_wait("task", WaitCondition::NextExit)
        .unwrap();
    engine
        .container_start("task", StartExtras::default())
        .await
        .unwrap();
    assert_eq!(waiter.wait().await.unwrap().status_code, 0);
    let text = log(engine, "task").await;
    assert!(
        text.starts_with(
            "s3cr3t-bytes\nconf\n440 1000 1000\nnameserver 127.0.0.11\nsearch x.test\n"
        ),
        "{text}"
    );
    assert!(text.contains("10.1.2.3\tpeer\n"), "{text}");
    std::fs::remove_file(
        bench
            .path()
            .join("data/containers")
            .join(
                engine
                    .container_inspect("task", false)
                    .await
                    .unwrap()
                    .id
                    .clone(),
            )
            .join(format!(
                "{}-json.log",
                engine.container_inspect("task", false).await.unwrap().id
            )),
    )
    .unwrap();
    assert_eq!(
        grep(bench.path(), b"s3cr3t-bytes"),
        Vec::<std::path::PathBuf>::new(),
        "a secret is on a disk"
    );
    // A preparation that is given up leaves nothing.
    engine.container_prepare("task", files()).await.unwrap();
    engine
        .container_remove("task", Default::default())
        .await
        .unwrap();
    namespaces.delete("t-test").unwrap();
    bench.finish().await;
}

/// Files below a directory that have these bytes.
fn grep(root: &std::path::Path, bytes: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                let contents = std::fs::read(entry.path()).unwrap_or_default();
                if contents.windows(bytes.len()).any(|window| window == bytes) {
                    found.push(entry.path());
                }
            }
        }
    }
    found
}
