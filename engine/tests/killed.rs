//! The engine's process is killed, at rest and in the middle of its work.

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use skep_engine::{Engine, EngineConfig, ListOptions, RemoveOptions, StartExtras};

const ROOT: &str = "SKEP_TEST_ROOT";
const WORK: &str = "SKEP_TEST_WORK";

/// Another process with the engine of this bench, killed when dropped.
struct Other(Child);

impl Other {
    fn start(bench: &Bench, work: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "engine_in_a_process_of_its_own"])
            .env(ROOT, bench.path())
            .env(WORK, work)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other tests start it as a process"]
async fn engine_in_a_process_of_its_own() {
    let root = std::path::PathBuf::from(std::env::var(ROOT).unwrap());
    let mut config = EngineConfig::new(root.join("data"), root.join("run"));
    config.cgroup_parent = format!("/{}", root.file_name().unwrap().to_string_lossy());
    let engine = Engine::open(config).await.unwrap();
    if std::env::var(WORK).unwrap() == "rest" {
        run(
            &engine,
            "rests",
            shell("i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"),
        )
        .await;
        std::fs::write(root.join("ready"), "").unwrap();
        std::future::pending::<()>().await;
    }
    std::fs::write(root.join("ready"), "").unwrap();
    // Until it is killed: a few workers make, start, stop and remove.
    let workers = (0..4).map(|worker| {
        let engine = engine.clone();
        async move {
            for round in 0.. {
                let name = format!("w{worker}-{round}");
                let config = with_host(running(&["sleep", "1000"]), |host| {
                    host.binds = Some(vec![format!("vol{worker}:/data"), "/anon".into()]);
                });
                create(&engine, &name, config).await;
                engine
                    .container_start(&name, StartExtras::default())
                    .await
                    .unwrap();
                if round % 2 == 0 {
                    let force = RemoveOptions {
                        force: true,
                        volumes: true,
                    };
                    engine.container_remove(&name, force).await.unwrap();
                }
            }
        }
    });
    futures_util::future::join_all(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_leaves_its_containers_running() {
    let Some(mut bench) = bench().await else {
        return;
    };
    bench.close().await;
    let other = Other::start(&bench, "rest");
    until("the other engine works", || {
        bench.path().join("ready").exists()
    })
    .await;
    other.kill();
    let pids = processes_naming(&bench.path().display().to_string());
    assert_eq!(pids.len(), 1, "the shim lives");
    bench.open().await;
    let engine = bench.engine();
    let found = engine.container_inspect("rests", false).await.unwrap();
    assert_eq!(found.state.status, "running");
    assert!(std::path::Path::new(&format!("/proc/{}", found.state.pid)).exists());
    let lines = log(engine, "rests").await.lines().count();
    let deadline = Instant::now() + DEADLINE;
    while log(engine, "rests").await.lines().count() <= lines {
        assert!(Instant::now() < deadline, "the log does not go on");
    }
    let numbers: Vec<usize> = log(engine, "rests")
        .await
        .lines()
        .map(|l| l.parse().unwrap())
        .collect();
    assert!(
        numbers.iter().copied().eq(0..numbers.len()),
        "no line is lost or doubled"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_in_the_middle_of_its_work_is_put_right() {
    let Some(mut bench) = bench().await else {
        return;
    };
    for round in 0u64..6 {
        bench.close().await;
        let _ = std::fs::remove_file(bench.path().join("ready"));
        let other = Other::start(&bench, "work");
        until("the other engine works", || {
            bench.path().join("ready").exists()
        })
        .await;
        // Each time a little later, so that it is at something else.
        let moment = Instant::now() + Duration::from_millis(60 + 37 * round);
        until("the moment", || Instant::now() >= moment).await;
        other.kill();
        bench.open().await;
        let engine = bench.engine();
        let all = ListOptions {
            all: true,
            ..ListOptions::default()
        };
        let mut live = 0;
        for container in engine.container_list(all).await.unwrap() {
            let found = engine
                .container_inspect(&container.id, false)
                .await
                .unwrap();
            match found.state.status.as_str() {
                "running" => {
                    live += 1;
                    assert!(std::path::Path::new(&format!("/proc/{}", found.state.pid)).exists());
                }
                "created" | "exited" => assert_eq!(found.state.pid, 0),
                other => panic!("{other}: {found:#?}"),
            }
            let force = RemoveOptions {
                force: true,
                volumes: true,
            };
            engine.container_remove(&container.id, force).await.unwrap();
        }
        println!("round {round}: {live} containers were found running");
        let text = bench.path().display().to_string();
        let deadline = Instant::now() + DEADLINE;
        while let [pid, ..] = processes_naming(&text)[..] {
            let shim = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "round {round}: a shim is left: {pid} {shim:?}"
            );
            tokio::task::yield_now().await;
        }
    }
    bench.finish().await;
}
