//! The life of containers, on a real kernel.

mod common;

use common::*;
use skep_engine::types::{RestartPolicy, UpdateConfig};
use skep_engine::{
    EventQuery, Filters, Kind, ListOptions, RemoveOptions, StopOptions, WaitCondition,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_prints_and_ends_with_its_code() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let (code, text) = run_to_end(engine, "one", shell("echo out; echo err >&2; exit 7")).await;
    assert_eq!((code, text.as_str()), (7, "out\nerr\n"));
    let found = engine.container_inspect("one", true).await.unwrap();
    assert_eq!(found.state.status, "exited");
    assert_eq!(found.state.exit_code, 7);
    assert_eq!(found.name, "/one");
    assert_eq!(found.path, "sh");
    assert!(found.size_root_fs.unwrap() > 500_000);
    assert_eq!(found.size_rw, Some(0), "nothing was written");
    assert!(engine.container_changes("one").await.unwrap().is_empty());
    bench.finish().await;
}
