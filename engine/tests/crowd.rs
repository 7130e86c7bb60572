//! Many containers at once, and many calls on the same one.

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::*;
use skep_engine::{Kind, RemoveOptions, StopOptions, WaitCondition};

#[tokio::test(flavor = "multi_thread")]
async fn forty_containers_come_and_go_together() {
    let Some(bench) = bench().await else { return };
    let began = Instant::now();
    let work = (0..40).map(|number| {
        let engine = Arc::clone(bench.engine());
        tokio::spawn(async move {
            let name = format!("crowd-{number}");
            let (code, text) = run_to_end(
                &engine,
                &name,
                shell(&format!("echo {number}; exit {number}")),
            )
            .await;
            assert_eq!((code, text), (number, format!("{number}\n")));
            start(&engine, &name).await.unwrap();
            let force = RemoveOptions {
                force: true,
                volumes: true,
            };
            engine.container_remove(&name, force).await.unwrap();
        })
    });
    for done in futures_util::future::join_all(work).await {
        done.unwrap();
    }
    println!("80 runs in {:?}", began.elapsed());
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_race_on_one_container_agree_in_the_end() {
    let Some(bench) = bench().await else { return };
    for round in 0..10 {
        let name = format!("raced-{round}");
        create(bench.engine(), &name, running(&["sleep", "1000"])).await;
        let calls = (0..12).map(|number| {
            let (engine, name) = (Arc::clone(bench.engine()), name.clone());
            tokio::spawn(async move {
                let quick = StopOptions {
                    timeout: Some(0),
                    ..StopOptions::default()
                };
                match number % 4 {
                    0 => start(&engine, &name).await,
                    1 => engine.container_stop(&name, quick).await,
                    2 => engine.container_kill(&name, "KILL").await,
                    _ => engine.container_restart(&name, quick).await,
                }
            })
        });
        for call in futures_util::future::join_all(calls).await {
            if let Err(error) = call.unwrap() {
                let kind = error.kind();
                assert!(
                    matches!(kind, Kind::NotModified | Kind::Conflict),
                    "{error}"
                );
            }
        }
        let gone = bench
            .engine()
            .container_wait(&name, WaitCondition::Removed)
            .unwrap();
        let removals = (0..3).map(|_| {
            let (engine, name) = (Arc::clone(bench.engine()), name.clone());
            tokio::spawn(async move {
                let force = RemoveOptions {
                    force: true,
                    volumes: false,
                };
                engine.container_remove(&name, force).await
            })
        });
        for removal in futures_util::future::join_all(removals).await {
            if let Err(error) = removal.unwrap() {
                assert!(
                    matches!(error.kind(), Kind::NotFound | Kind::Conflict),
                    "{error}"
                );
            }
        }
        gone.wait().await.unwrap();
    }
    bench.finish().await;
}
