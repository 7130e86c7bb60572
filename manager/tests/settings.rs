//! Settings of the cluster that managers follow.

mod support;

use std::time::Duration;

use skep_manager::clock;
use skep_model::{ClusterSpec, ControlRequest, Kind, SecretSpec};
use skep_pki::generate_root;
use support::{manager, update};

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_cut_as_the_settings_say_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    let root = generate_root(clock::now()).unwrap();
    let (manager, _) = manager(&root, ClusterSpec::default(), directory.path()).await;
    let raft = |interval: u64, kept: u64| {
        move |spec: &mut ClusterSpec| {
            spec.raft.snapshot_interval = interval;
            spec.raft.keep_old_snapshots = Some(kept);
        }
    };
    let refused = update(&manager, raft(1, 0)).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Invalid);
    assert!(refused.message.contains("--snapshot-interval"), "{refused}");
    update(&manager, raft(15, 1)).await.unwrap();
    for number in 0..60 {
        let spec = SecretSpec {
            name: format!("s{number}"),
            data: b"x".to_vec(),
            ..SecretSpec::default()
        };
        let request = ControlRequest::CreateSecret { spec };
        manager.submit(request).await.unwrap();
    }
    let is_snapshot =
        |file: &std::fs::DirEntry| file.path().extension().is_some_and(|it| it == "snapshot");
    let cut = async {
        loop {
            let metrics = manager.core().consensus.metrics();
            let files = std::fs::read_dir(directory.path().join("snapshots"));
            let kept = files.map_or(0, |files| files.flatten().filter(is_snapshot).count());
            if metrics.snapshot_log > Some(40) && kept == 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, cut)
        .await
        .expect("two snapshots, the newest late in the log");
    manager.shutdown().await;
}
