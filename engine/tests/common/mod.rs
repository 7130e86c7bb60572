//! What the tests of a real engine share: one engine in a directory of its own,
//! an image of busybox, and a look at what is left afterwards.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod registry;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_engine::types::{ContainerConfig, ContainerInspect, HostConfig, StrSlice};
use skep_engine::{
    CreateExtras, Engine, EngineConfig, EngineError, ImportOptions, ListOptions, LogOptions,
    RemoveOptions, StartExtras, WaitCondition,
};

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(30);
pub const IMAGE: &str = "busybox:test";
const BUSYBOX: &str = "/bin/busybox";

/// An engine with a data root, an exec root and a cgroup of its own.
pub struct Bench {
    engine: Option<Arc<Engine>>,
    directory: Option<tempfile::TempDir>,
    cgroup: String,
}

/// The bench, or `None` with a reason printed when this machine cannot run it.
pub async fn bench() -> Option<Bench> {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    if !Path::new(BUSYBOX).exists() {
        eprintln!("skipped: needs {BUSYBOX} (busybox-static)");
        return None;
    }
    let directory = tempfile::Builder::new()
        .prefix("skep-engine-")
        .tempdir()
        .unwrap();
    let name = directory
        .path()
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    let mut bench = Bench {
        engine: None,
        directory: Some(directory),
        cgroup: format!("/{name}"),
    };
    bench.open().await;
    import_busybox(bench.engine(), IMAGE).await;
    Some(bench)
}

/// Runs a test in a fresh network namespace, loopback up, so that its bridges,
/// ports and firewall tables are nobody else's.
pub fn in_own_network<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F) {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    std::process::Command::new("/bin/busybox")
        .args(["ip", "link", "set", "lo", "up"])
        .status()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        if let Some(bench) = bench().await {
            test(bench).await;
        }
    });
}

impl Bench {
    pub fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().expect("the engine is open")
    }

    pub fn path(&self) -> &Path {
        self.directory.as_ref().expect("the bench is there").path()
    }

    pub fn config(&self) -> EngineConfig {
        let mut config = EngineConfig::new(self.path().join("data"), self.path().join("run"));
        config.cgroup_parent = self.cgroup.clone();
        config
    }

    pub async fn open(&mut self) {
        self.open_with(self.config()).await;
    }

    pub async fn open_with(&mut self, config: EngineConfig) {
        self.engine = Some(Engine::open(config).await.unwrap());
    }

    /// Opens the engine with this configuration.
    pub async fn open_as(&mut self, config: EngineConfig) {
        self.engine = Some(Engine::open(config).await.unwrap());
    }

    /// Ends the engine as a crash would, as far as one process can.
    pub async fn close(&mut self) {
        let engine = self.engine.take().unwrap();
        engine.close().await;
        let weak = Arc::downgrade(&engine);
        drop(engine);
        until("the engine is gone", || weak.upgrade().is_none()).await;
    }

    /// Removes everything and fails if something is left on the host.
    pub async fn finish(mut self) {
        let engine = Arc::clone(self.engine());
        let all = ListOptions {
            all: true,
            ..ListOptions::default()
        };
        for container in engine.container_list(all).await.unwrap() {
            engine
                .container_remove(
                    &container.id,
                    RemoveOptions {
                        force: true,
                        volumes: true,
                    },
                )
                .await
                .unwrap();
        }
        drop(engine);
        self.close().await;
        let path = self.path().to_owned();
        let text = path.display().to_string();
        until("all shims are gone", || processes_naming(&text).is_empty()).await;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&text), "mounts are left:\n{mounts}");
        assert!(
            empty(&path.join("data/containers")),
            "container directories are left"
        );
        assert!(
            empty(&path.join("run/containers")),
            "runtime directories are left"
        );
        let groups = cgroups(&self.cgroup);
        for group in &groups {
            let inside: Vec<_> = std::fs::read_dir(group)
                .unwrap()
                .filter_map(Result::ok)
                .filter(|entry| entry.path().is_dir())
                .collect();
            assert!(inside.is_empty(), "cgroups are left: {inside:?}");
        }
    }
}

impl Drop for Bench {
    /// Also after a failure: nothing stays on the host.
    fn drop(&mut self) {
        let Some(directory) = self.directory.take() else {
            return;
        };
        let text = directory.path().display().to_string();
        for pid in processes_naming(&text) {
            let config = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let config = String::from_utf8_lossy(&config)
                .split('\0')
                .nth(2)
                .map(PathBuf::from);
            unsafe { libc::kill(pid, libc::SIGKILL) };
            let gone = Instant::now() + Duration::from_secs(5);
            while Path::new(&format!("/proc/{pid}")).exists() && Instant::now() < gone {
                std::thread::yield_now();
            }
            if let Some(Ok(config)) = config.map(|path| skep_shim::ShimConfig::read(&path)) {
                let _ = skep_shim::sweep(&config);
            }
        }
        let netns = directory.path().join("run/netns");
        for entry in std::fs::read_dir(&netns).into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
        }
        for group in cgroups(&self.cgroup) {
            let _ = std::fs::remove_dir(group);
        }
    }
}

fn empty(path: &Path) -> bool {
    std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}

fn cgroups(name: &str) -> Vec<PathBuf> {
    let name = name.trim_start_matches('/');
    let mut found = vec![Path::new("/sys/fs/cgroup").join(name)];
    for entry in std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        found.push(entry.path().join(name));
    }
    found.retain(|path| path.is_dir());
    found
}

/// Processes with a text in their command line: the shims of one bench.
pub fn processes_naming(text: &str) -> Vec<i32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
        })
        .collect()
}

/// All that an engine keeps on disk and in the kernel, by name.
pub fn kept(bench: &Bench) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let places = [
        "data/images/blobs/sha256",
        "data/images/ingest",
        "data/images/records",
        "data/layers",
        "data/containers",
        "data/volumes",
        "data/builds",
        "run/containers",
        "run/netns",
    ];
    for place in places {
        for entry in std::fs::read_dir(bench.path().join(place))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Part of a download, for the next pull to go on from; dropped in time.
            if !name.ends_with(".part") {
                found.insert(format!("{place}/{name}"));
            }
        }
    }
    let links = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    for link in links.lines().filter_map(|line| line.split_once(':')) {
        found.insert(format!("link {}", link.0.trim()));
    }
    let own = bench.path().display().to_string();
    for line in std::fs::read_to_string("/proc/thread-self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains(&own))
    {
        let point = line.split(' ').nth(4).unwrap_or_default();
        found.insert(format!("mount {}", point.replace(&own, "")));
    }
    found
}

/// Waits for a condition, with a deadline.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until an inspect passes.
pub async fn until_inspect(
    engine: &Engine,
    name: &str,
    what: &str,
    condition: impl Fn(&ContainerInspect) -> bool,
) -> ContainerInspect {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = engine.container_inspect(name, false).await.unwrap();
        if condition(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out: {what}: {found:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A root file system archive with busybox and the usual links.
pub fn busybox_archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for directory in [
        "bin", "etc", "tmp", "root", "proc", "sys", "dev", "var", "home",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if directory == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        builder
            .append_data(&mut header, format!("{directory}/"), std::io::empty())
            .unwrap();
    }
    let program = std::fs::read(BUSYBOX).unwrap();
    add_file(&mut builder, "bin/busybox", 0o755, &program);
    for name in [
        "sh", "cat", "echo", "ls", "sleep", "true", "false", "touch", "rm", "mkdir", "id", "stat",
        "env", "kill", "mount", "hostname", "ip", "wget", "nc", "httpd", "nslookup", "ps", "dd",
        "head", "stty", "test", "ln", "chmod", "chown", "wc", "seq", "ping", "pwd", "tail",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        builder
            .append_link(&mut header, format!("bin/{name}"), "busybox")
            .unwrap();
    }
    add_file(
        &mut builder,
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home:/bin/sh\n",
    );
    add_file(
        &mut builder,
        "etc/group",
        0o644,
        b"root:x:0:\napp:x:1000:\n",
    );
    builder.into_inner().unwrap()
}

pub fn add_file(builder: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, contents: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(contents.len() as u64);
    builder.append_data(&mut header, path, contents).unwrap();
}

pub async fn import_busybox(engine: &Engine, name: &str) -> String {
    let (repo, tag) = name.split_once(':').unwrap();
    let options = ImportOptions {
        repo: repo.into(),
        tag: tag.into(),
        changes: vec!["CMD [\"sh\"]".into(), "ENV PATH=/bin".into()],
        ..ImportOptions::default()
    };
    engine
        .image_import(std::io::Cursor::new(busybox_archive()), options)
        .await
        .unwrap()
}

/// A container of busybox that runs these words, without a network.
pub fn running(words: &[&str]) -> ContainerConfig {
    ContainerConfig {
        image: IMAGE.into(),
        cmd: Some(StrSlice(
            words.iter().map(|word| (*word).to_owned()).collect(),
        )),
        host_config: Some(HostConfig {
            network_mode: "none".into(),
            ..HostConfig::default()
        }),
        ..ContainerConfig::default()
    }
}

pub fn shell(script: &str) -> ContainerConfig {
    running(&["sh", "-c", script])
}

/// The same with a changed host part.
pub fn with_host(
    mut config: ContainerConfig,
    change: impl FnOnce(&mut HostConfig),
) -> ContainerConfig {
    change(config.host_config.get_or_insert_default());
    config
}

pub async fn create(engine: &Engine, name: &str, config: ContainerConfig) -> String {
    engine
        .container_create(Some(name), config, CreateExtras::default())
        .await
        .unwrap()
        .id
}

pub async fn start(engine: &Engine, name: &str) -> Result<(), EngineError> {
    engine.container_start(name, StartExtras::default()).await
}

/// Creates and starts.
pub async fn run(engine: &Engine, name: &str, config: ContainerConfig) -> String {
    let id = create(engine, name, config).await;
    start(engine, name).await.unwrap();
    id
}

/// Creates, starts, waits: exit code and log.
pub async fn run_to_end(engine: &Engine, name: &str, config: ContainerConfig) -> (i64, String) {
    create(engine, name, config).await;
    let waiter = engine
        .container_wait(name, WaitCondition::NextExit)
        .unwrap();
    start(engine, name).await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, waiter.wait())
        .await
        .unwrap()
        .unwrap();
    (ended.status_code, log(engine, name).await)
}

pub async fn log(engine: &Engine, name: &str) -> String {
    let options = LogOptions {
        stdout: true,
        stderr: true,
        ..LogOptions::default()
    };
    let (_, mut lines) = engine.container_logs(name, options).await.unwrap();
    let mut text = String::new();
    while let Some(line) = lines.next().await {
        text.push_str(&String::from_utf8_lossy(&line.unwrap().line));
    }
    text
}
