//! The power goes at any moment: the engine's process is killed at each change it
//! makes to a file system, and the next start finds nothing half done.
//!
//! A library loaded before the C library counts the changes (`common/power_cut.c`).

mod common;

use std::ffi::CString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::registry::*;
use common::*;
use skep_engine::types::ContainerConfig;
use skep_engine::{
    CommitOptions, Engine, EngineConfig, ImageRemoveOptions, ListOptions, Progress, PullOptions,
    RemoveOptions,
};

const ROOT: &str = "SKEP_TEST_ROOT";
const WORK: &str = "SKEP_TEST_WORK";
const POINT: &str = "SKEP_TEST_POINT";
/// The image that is pulled.
const PULLED: &str = "SKEP_TEST_PULLED";
/// Every work has more points than this.
const POINTS_MIN: usize = 8;

const FORCE: RemoveOptions = RemoveOptions {
    force: true,
    volumes: true,
};

/// A container with everything a container can leave behind.
fn victim() -> ContainerConfig {
    with_host(running(&["sleep", "1000"]), |host| {
        host.network_mode = "bridge".into();
        host.binds = Some(vec!["named:/data".into(), "/anonymous".into()]);
    })
}

async fn work(engine: &Engine, name: &str) {
    match name {
        "pull" => {
            let image = std::env::var(PULLED).unwrap();
            let (progress, _lines) = Progress::channel();
            engine
                .image_pull(&image, PullOptions::default(), progress)
                .await
                .unwrap();
        }
        "commit" => {
            let options = CommitOptions {
                repo: "made".into(),
                tag: "1".into(),
                ..CommitOptions::default()
            };
            engine.container_commit("changed", options).await.unwrap();
        }
        "run" => {
            run(engine, "victim", victim()).await;
        }
        "rm" => engine.container_remove("victim", FORCE).await.unwrap(),
        other => panic!("no work {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other tests start it as a process"]
async fn engine_in_a_process_of_its_own() {
    let root = PathBuf::from(std::env::var(ROOT).unwrap());
    let mut config = EngineConfig::new(root.join("data"), root.join("run"));
    config.cgroup_parent = format!("/{}", root.file_name().unwrap().to_string_lossy());
    let engine = Engine::open(config).await.unwrap();
    let point: libc::c_long = std::env::var(POINT).unwrap().parse().unwrap();
    // SAFETY: the library loaded before all others has a function of this type.
    let arm: extern "C" fn(libc::c_long) =
        unsafe { std::mem::transmute(function("power_cut_arm")) };
    // SAFETY: the same.
    let seen: extern "C" fn() -> libc::c_long =
        unsafe { std::mem::transmute(function("power_cut_seen")) };
    arm(point);
    work(&engine, &std::env::var(WORK).unwrap()).await;
    std::fs::write(root.join("points"), seen().to_string()).unwrap();
    std::process::exit(0);
}

fn function(name: &str) -> *mut libc::c_void {
    let name = CString::new(name).unwrap();
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!found.is_null(), "the library is not loaded");
    found
}

/// The library that cuts the power; `None` with a reason without a C compiler.
fn library(directory: &Path) -> Option<PathBuf> {
    let library = directory.join("power_cut.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/power_cut.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .status();
    match built {
        Ok(status) => {
            assert!(status.success(), "the library does not build");
            Some(library)
        }
        Err(error) => {
            eprintln!("skipped: needs cc: {error}");
            None
        }
    }
}

/// Does the work in a process that is killed at this point; whether it was.
fn cut(bench: &Bench, library: &Path, work: &str, point: usize, pulled: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "engine_in_a_process_of_its_own"])
        .env("LD_PRELOAD", library)
        .env(ROOT, bench.path())
        .env(WORK, work)
        .env(POINT, point.to_string())
        .env(PULLED, pulled)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    match status.signal() {
        Some(libc::SIGKILL) => true,
        _ => {
            assert!(status.success(), "{work} at {point}: {status}");
            false
        }
    }
}

async fn addresses_in_use(engine: &Engine) -> usize {
    let network = engine.network_inspect("bridge").await.unwrap();
    network.containers.map_or(0, |containers| containers.len())
}

/// What there is is whole, and is taken away again.
async fn check(engine: &Engine, work: &str, point: usize) {
    // With its name or, as the name comes last, without.
    let text = if work == "pull" {
        "pulled\n"
    } else {
        "changed\n"
    };
    for image in engine.image_list(false, &Default::default()).await.unwrap() {
        if image.repo_tags == [IMAGE] {
            continue;
        }
        let config = ContainerConfig {
            image: image.id.clone(),
            ..running(&["cat", "/note"])
        };
        let (code, said) = run_to_end(engine, "reader", config).await;
        assert_eq!((code, said.as_str()), (0, text), "{work} at {point}");
        engine.container_remove("reader", FORCE).await.unwrap();
        let options = ImageRemoveOptions {
            force: true,
            ..ImageRemoveOptions::default()
        };
        engine.image_remove(&image.id, options).await.unwrap();
    }
    let all = ListOptions {
        all: true,
        ..ListOptions::default()
    };
    for container in engine.container_list(all).await.unwrap() {
        if container.names == ["/changed"] {
            continue;
        }
        let found = engine
            .container_inspect(&container.id, false)
            .await
            .unwrap();
        let lives = Path::new(&format!("/proc/{}", found.state.pid)).exists();
        match found.state.status.as_str() {
            "running" => assert!(lives && found.state.pid > 0, "{work} at {point}"),
            "created" | "exited" | "dead" => assert_eq!(found.state.pid, 0, "{work} at {point}"),
            other => panic!("{work} at {point}: {other}"),
        }
        engine.container_remove(&container.id, FORCE).await.unwrap();
    }
    // A named volume is the user's: it goes when it is told to.
    engine.volume_remove("named", true).await.unwrap();
}

fn at_every_point_of(name: &'static str) {
    in_own_network(async move |mut bench| {
        let Some(library) = library(bench.path()) else {
            return bench.finish().await;
        };
        let Some(registry) = Registry::start().await else {
            return bench.finish().await;
        };
        publish(&registry, "team/app", "pulled\n");
        let pulled = format!("{}/team/app:1", registry.address);
        run_to_end(bench.engine(), "changed", shell("echo changed > /note")).await;
        // Once whole, so that what the first of everything makes is there.
        let points = {
            prepare(&bench, name).await;
            bench.close().await;
            assert!(!cut(&bench, &library, name, 0, &pulled));
            bench.open().await;
            check(bench.engine(), name, 0).await;
            let seen = std::fs::read_to_string(bench.path().join("points")).unwrap();
            seen.parse::<usize>().unwrap()
        };
        assert!(points > POINTS_MIN, "{name} changes next to nothing");
        let before = kept(&bench);
        let mut cuts = 0;
        for point in 1..=points {
            prepare(&bench, name).await;
            bench.close().await;
            cuts += usize::from(cut(&bench, &library, name, point, &pulled));
            bench.open().await;
            check(bench.engine(), name, point).await;
            let after = kept(&bench);
            let left: Vec<_> = after.difference(&before).collect();
            let missing: Vec<_> = before.difference(&after).collect();
            assert!(
                left.is_empty() && missing.is_empty(),
                "{name} cut at {point} of {points}: left {left:#?}, missing {missing:#?}"
            );
            let addresses = addresses_in_use(bench.engine()).await;
            assert_eq!(addresses, 0, "{name} cut at {point} of {points}");
        }
        println!("{name}: cut {cuts} times at {points} points");
        // What runs at the same time moves the last points a little.
        assert!(cuts > points / 2, "{name}: {cuts} of {points}");
        bench.finish().await;
    });
}

async fn prepare(bench: &Bench, name: &str) {
    if name == "rm" {
        run(bench.engine(), "victim", victim()).await;
    }
}

#[test]
fn a_pull_is_whole_or_absent() {
    at_every_point_of("pull");
}

#[test]
fn a_commit_is_whole_or_absent() {
    at_every_point_of("commit");
}

#[test]
fn a_container_is_made_and_started_or_leaves_nothing() {
    at_every_point_of("run");
}

#[test]
fn a_container_is_removed_or_can_be_removed_again() {
    at_every_point_of("rm");
}
