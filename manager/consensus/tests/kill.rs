//! A process that is killed at any moment has everything it acknowledged.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use skep_consensus::{Backend, Consensus, Options, StateMachine};
use skep_pki::{Sealer, SecretKey};
use support::{Journal, Net, Port, acknowledged, answer, backend_of, eventually, member, timing};

const KILLS: usize = 20;
const PROPOSERS: usize = 8;

fn options(directory: PathBuf, backend: Backend) -> Options {
    let sealer = Sealer::new(&SecretKey::from_bytes([3; 32]));
    let mut options = Options::new(1, directory, sealer);
    options.backend = backend;
    options.timing = timing();
    // Snapshots and the dropping of entries are among what is interrupted.
    options.snapshot_every = 100;
    options.keep_entries = 20;
    options
}

async fn open(directory: &Path, backend: Backend) -> (Consensus, Arc<Journal>) {
    let journal = Arc::new(Journal::default());
    let port = Arc::new(Port {
        net: Net::default(),
        from: 1,
    });
    let machine = Arc::clone(&journal) as Arc<dyn StateMachine>;
    let options = options(directory.to_owned(), backend);
    let consensus = Consensus::open(options, machine, port).await.unwrap();
    if !consensus.is_initialized().await {
        consensus.bootstrap(member(1)).await.unwrap();
    }
    let leadership = consensus.leadership();
    eventually("it leads", || leadership.borrow().is_me).await;
    consensus.read_barrier().await.unwrap();
    (consensus, journal)
}

/// Not a test of its own: the process that is killed. It prints each command that was acknowledged.
#[test]
#[ignore = "started by the others"]
fn child() {
    let directory = std::env::var("SKEP_KILL_DIRECTORY").unwrap();
    let backend = backend_of(&std::env::var("SKEP_KILL_BACKEND").unwrap());
    let round = std::env::var("SKEP_KILL_ROUND").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let (consensus, _) = open(Path::new(&directory), backend).await;
        println!("open");
        let padding: usize =
            std::env::var("SKEP_KILL_PADDING").map_or(0, |padding| padding.parse().unwrap());
        let mut proposers = tokio::task::JoinSet::new();
        for proposer in 0..PROPOSERS {
            let consensus = consensus.clone();
            let round = round.clone();
            proposers.spawn(async move {
                // Bounded: the parent kills, or the disk is full, long before.
                for number in 0..100_000 {
                    let command = format!("{round}/{proposer}/{number}");
                    let mut bytes = command.clone().into_bytes();
                    bytes.resize(bytes.len() + padding, b' ');
                    let Ok(bytes) = consensus.propose(bytes).await else {
                        return;
                    };
                    let (index, _) = answer(&bytes);
                    let line = format!("ack {index} {command}\n");
                    let mut out = std::io::stdout().lock();
                    out.write_all(line.as_bytes()).unwrap();
                    out.flush().unwrap();
                }
            });
        }
        proposers.join_all().await;
        println!("stopped {:?}", consensus.stopped().await);
    });
}

/// Runs the child, kills it after a random time, and answers what it acknowledged.
fn run_and_kill(directory: &Path, backend: &str, round: usize) -> Vec<(u64, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child", "--nocapture"])
        .env("SKEP_KILL_DIRECTORY", directory)
        .env("SKEP_KILL_BACKEND", backend)
        .env("SKEP_KILL_ROUND", round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let opened = lines.by_ref().any(|line| line.unwrap() == "open");
    // From another thread, so that the lines go on being read.
    let killer = std::thread::spawn(move || {
        let moment = Duration::from_micros(rand::rng().random_range(0..250_000));
        std::thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    assert!(opened, "the child did not open its directory");
    let mut more = Vec::new();
    for line in lines {
        let line = line.unwrap();
        // The last line may be cut short: it ends with a newline only when it is whole.
        more.extend(acknowledged(&line));
    }
    killer.join().unwrap();
    more
}

async fn survive(backend: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("member");
    let mut acknowledged: Vec<(u64, String)> = Vec::new();
    for round in 0..KILLS {
        let more = {
            let path = path.clone();
            let backend = backend.to_owned();
            tokio::task::spawn_blocking(move || run_and_kill(&path, &backend, round))
                .await
                .unwrap()
        };
        acknowledged.extend(more);
        let (consensus, journal) = open(&path, backend_of(backend)).await;
        let commands = journal.commands();
        for (index, command) in &acknowledged {
            let found = commands.get(usize::try_from(*index).unwrap() - 1);
            assert_eq!(
                found
                    .map(|found| String::from_utf8_lossy(found).into_owned())
                    .as_deref(),
                Some(command.as_str()),
                "{backend}, round {round}: command {index} was acknowledged"
            );
        }
        consensus.shutdown().await;
    }
    assert!(
        acknowledged.len() > 200,
        "only {} were acknowledged at all",
        acknowledged.len()
    );
}

/// A child whose files may not grow any more: it stops by itself, says why, and has lost nothing.
async fn stop_when_full(backend: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("member");
    // The signal that comes with the limit is ignored, so writing fails as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 14336; exec \"$0\" --ignored --exact child --nocapture";
    let child = Command::new("sh")
        .args([
            "-c",
            script,
            std::env::current_exe().unwrap().to_str().unwrap(),
        ])
        .env("SKEP_KILL_DIRECTORY", &path)
        .env("SKEP_KILL_BACKEND", backend)
        .env("SKEP_KILL_ROUND", "full")
        .env("SKEP_KILL_PADDING", "65536")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .output();
    let output = tokio::task::spawn_blocking(move || child)
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("stopped Failed("), "{text}");
    let acknowledged: Vec<_> = text.lines().filter_map(acknowledged).collect();
    assert!(acknowledged.len() > 20, "{text}");
    let (consensus, journal) = open(&path, backend_of(backend)).await;
    let commands = journal.commands();
    for (index, command) in acknowledged {
        let found = &commands[usize::try_from(index).unwrap() - 1];
        assert!(
            found.starts_with(command.as_bytes()),
            "command {index} was acknowledged"
        );
    }
    consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_a_member_on_sled_and_loses_nothing() {
    stop_when_full("sled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_a_member_on_segments_and_loses_nothing() {
    stop_when_full("segments").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_sled_is_killed() {
    survive("sled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_segments_are_killed() {
    survive("segments").await;
}
