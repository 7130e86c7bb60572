//! All managers lose their power at once: what was acknowledged is there again.
//!
//! The members' directories are on a file system in an image. To cut the power is to stop the process
//! that writes, wherever it is, and to go on with a copy of the image: what the file system had not
//! written to its disk by then is gone, as it would be.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::Rng;
use skep_pki::SecretKey;
use support::{Cluster, acknowledged, answer, backend_of};

/// How often the power is cut; more often by `SKEP_POWER_CUTS`.
const CUTS: usize = 8;
const MEMBERS: [u64; 3] = [1, 2, 3];
const PROPOSERS: usize = 6;
const IMAGE_BYTES: u64 = 64 << 20;

fn cluster_at(directory: &Path, backend: &str) -> Cluster {
    let mut cluster = Cluster::at(
        directory.to_owned(),
        backend_of(backend),
        SecretKey::from_bytes([3; 32]),
    );
    // Snapshots and the dropping of entries are among what is interrupted.
    cluster.snapshot_every = 100;
    cluster.keep_entries = 20;
    cluster
}

/// Opens the members that are there, or makes them.
async fn open(directory: &Path, backend: &str) -> Cluster {
    let mut cluster = cluster_at(directory, backend);
    if !directory.join("made").exists() {
        cluster.grow(MEMBERS.len() as u64).await;
        std::fs::write(directory.join("made"), "").unwrap();
        std::fs::File::open(directory).unwrap().sync_all().unwrap();
    } else {
        for id in MEMBERS {
            cluster.open(id).await.unwrap();
        }
    }
    let leader = cluster.leader().await;
    cluster.member(leader).read_barrier().await.unwrap();
    cluster
}

/// Not a test of its own: the process that loses its power. It prints what was acknowledged, or, when it is
/// only to read, everything that is there.
#[test]
#[ignore = "started by the others"]
fn child() {
    let directory = PathBuf::from(std::env::var("SKEP_POWER_DIRECTORY").unwrap());
    let backend = std::env::var("SKEP_POWER_BACKEND").unwrap();
    let round = std::env::var("SKEP_POWER_ROUND").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let cluster = open(&directory, &backend).await;
        if round == "read" {
            let commands = cluster.converged(&MEMBERS).await;
            let mut out = std::io::stdout().lock();
            writeln!(out, "open").unwrap();
            for (at, command) in commands.iter().enumerate() {
                let command = String::from_utf8_lossy(command);
                writeln!(out, "ack {} {command}", at + 1).unwrap();
            }
            return;
        }
        println!("open");
        let mut proposers = tokio::task::JoinSet::new();
        for proposer in 0..PROPOSERS {
            let (net, round) = (cluster.net.clone(), round.clone());
            proposers.spawn(async move {
                // Bounded: the power is gone long before.
                for number in 0..100_000 {
                    let command = format!("{round}/{proposer}/{number}");
                    let Some(leader) = net.leader(&MEMBERS) else {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        continue;
                    };
                    if let Ok(bytes) = leader.propose(command.clone().into_bytes()).await {
                        let (index, _) = answer(&bytes);
                        let line = format!("ack {index} {command}\n");
                        let mut out = std::io::stdout().lock();
                        out.write_all(line.as_bytes()).unwrap();
                        out.flush().unwrap();
                    }
                }
            });
        }
        proposers.join_all().await;
    });
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// A file system in an image.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// `Err` where there is no way to have one.
    fn new(directory: &Path) -> Result<Self, String> {
        let disk = Self {
            image: directory.join("image"),
            mount: directory.join("mount"),
            is_mounted: false,
        };
        std::fs::create_dir(&disk.mount).unwrap();
        let image = std::fs::File::create(&disk.image).unwrap();
        image.set_len(IMAGE_BYTES).unwrap();
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(&disk.image))?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop"]).args([&self.image, &self.mount]))?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.is_mounted) {
            run(Command::new("umount").arg(&self.mount)).expect("nobody uses it any more");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = run(Command::new("umount").arg("-l").arg(&self.mount));
        }
    }
}

fn start(disk: &Disk, backend: &str, round: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child", "--nocapture"])
        .env("SKEP_POWER_DIRECTORY", &disk.mount)
        .env("SKEP_POWER_BACKEND", backend)
        .env("SKEP_POWER_ROUND", round)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs the writers, cuts the power after a random time, and answers what they acknowledged. The
/// disk is then what it was at that moment.
fn run_and_cut(disk: &mut Disk, backend: &str, round: usize) -> Vec<(u64, String)> {
    let mut child = start(disk, backend, &round.to_string());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let opened = lines.by_ref().any(|line| line.unwrap() == "open");
    assert!(opened, "round {round}: the members do not open");
    let next = disk.image.with_extension("next");
    let (image, copy) = (disk.image.clone(), next.clone());
    let killer = std::thread::spawn(move || {
        let moment = Duration::from_micros(rand::rng().random_range(0..400_000));
        std::thread::sleep(moment);
        let pid = child.id().to_string();
        run(Command::new("kill").args(["-STOP", &pid])).unwrap();
        std::fs::copy(image, copy).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let mut more = Vec::new();
    for line in lines {
        more.extend(acknowledged(&line.unwrap()));
    }
    killer.join().unwrap();
    disk.unmount();
    std::fs::rename(next, &disk.image).unwrap();
    more
}

/// Everything that the members have after their power is back.
fn read(disk: &Disk, backend: &str) -> Vec<(u64, String)> {
    let child = start(disk, backend, "read");
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "the members do not open: {text}");
    text.lines().filter_map(acknowledged).collect()
}

fn survive(backend: &str) {
    let directory = tempfile::tempdir().unwrap();
    let ready = Disk::new(directory.path()).and_then(|mut disk| disk.mount().map(|()| disk));
    let mut disk = match ready {
        Ok(disk) => disk,
        Err(why) => {
            println!("skipped: no file system in an image can be had here: {why}");
            return;
        }
    };
    let cuts = std::env::var("SKEP_POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let mut known: Vec<(u64, String)> = Vec::new();
    for round in 0..cuts {
        known.extend(run_and_cut(&mut disk, backend, round));
        disk.mount().unwrap();
        let there = read(&disk, backend);
        for (index, command) in &known {
            assert_eq!(
                there.get(usize::try_from(*index).unwrap() - 1),
                Some(&(*index, command.clone())),
                "{backend}, round {round}: command {index} was acknowledged"
            );
        }
    }
    println!("{backend}: {} acknowledged over {cuts} cuts", known.len());
    assert!(
        known.len() > 10 * cuts,
        "only {} were acknowledged",
        known.len()
    );
    disk.unmount();
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes_with_sled() {
    survive("sled");
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes_with_segments() {
    survive("segments");
}
