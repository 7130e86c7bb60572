//! A container on a busybox root, for tests that need the real thing.

#![allow(dead_code)]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use skep_shim::config::{LogConfig, LogDriver, Paths, RootSource, Rootfs};
use skep_shim::protocol::{AttachOptions, ExecSpec, Health, Started};
use skep_shim::{ExitRecord, InjectedBytes, Launcher, ShimClient, ShimConfig, StartError};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// Why containers cannot be run here, if so; printed once by each test.
pub fn cannot_run() -> bool {
    // SAFETY: no pointers.
    let root = unsafe { libc::geteuid() } == 0;
    let busybox = BUSYBOX.iter().any(|path| Path::new(path).exists());
    match (root, busybox) {
        (true, true) => false,
        (false, _) => {
            println!("skipped: containers need root");
            true
        }
        (true, false) => {
            println!("skipped: no busybox at {}", BUSYBOX[0]);
            true
        }
    }
}

/// The shim's program, sealed once.
pub fn launcher() -> &'static Launcher {
    static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
    LAUNCHER.get_or_init(|| {
        let program = fs::read(static_shim()).unwrap();
        Launcher::new(&program).unwrap()
    })
}

/// The program linked as it is shipped: without libraries, as it also runs inside
/// containers. Built once for all tests, by the first that needs it.
/// `SHIM_TEST_PROGRAM` names another to be used instead.
pub fn static_shim() -> PathBuf {
    if let Ok(program) = std::env::var("SHIM_TEST_PROGRAM") {
        return program.into();
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("static");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let program = target.join(&triple).join("debug/skep-shim");
    let modified = |path: &Path| fs::metadata(path).and_then(|status| status.modified()).ok();
    if modified(&program) >= modified(Path::new(env!("CARGO_BIN_EXE_skep-shim"))) {
        return program;
    }
    let status = std::process::Command::new(env!("CARGO"))
        .args([
            "build",
            "--offline",
            "--quiet",
            "-p",
            "skep-shim",
            "--bin",
            "skep-shim",
        ])
        .args(["--target", &triple, "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .status()
        .unwrap();
    assert!(status.success(), "building the static shim");
    // Cargo leaves a program that needs no new build as old as it is.
    let now = fs::File::options().append(true).open(&program).unwrap();
    now.set_modified(std::time::SystemTime::now()).unwrap();
    program
}

/// A container in a directory of its own; killed and cleaned when dropped.
pub struct Container {
    pub directory: tempfile::TempDir,
    pub config: ShimConfig,
}

impl Container {
    /// Runs this in a busybox root with docker's defaults and a log.
    pub fn new(args: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::Builder::new()
            .prefix("shim-test-")
            .tempdir()
            .unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["root", "upper", "work", "merged"] {
            fs::create_dir(at(name)).unwrap();
        }
        make_root(&at("root"));
        let id = format!(
            "shimtest-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let mut config = ShimConfig::new(
            id,
            Rootfs {
                source: RootSource::Overlay {
                    lower: vec![at("root")],
                    upper: at("upper"),
                    work: at("work"),
                },
                merged: at("merged"),
                readonly: false,
            },
            Paths::in_directory(directory.path()),
        );
        config.process.args = args.iter().map(|&arg| arg.into()).collect();
        config.process.env = vec!["PATH=/bin".into()];
        config.hostname = "box".into();
        // A parent of its own, so that it can be removed without disturbing others.
        config.cgroup.parent = format!("/above-{}", config.id);
        config.log = LogConfig {
            driver: LogDriver::JsonFile,
            path: at("log"),
            max_size: None,
            max_file: 1,
            attrs: Default::default(),
            remote: None,
        };
        Self { directory, config }
    }

    /// Runs a shell script.
    pub fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn client(&self) -> ShimClient {
        ShimClient::new(&self.config.paths.socket)
    }

    pub fn write_config(&self) -> PathBuf {
        let path = self.path("config.json");
        self.config.write(&path).unwrap();
        path
    }

    pub fn try_start(&self, files: &[InjectedBytes<'_>]) -> Result<Started, StartError> {
        launcher().prepare(&self.write_config())?.start(files)
    }

    pub fn start(&self) -> Started {
        self.try_start(&[]).unwrap()
    }

    /// Waits for the end and gives the record, which must also be on disk.
    pub fn wait(&self) -> ExitRecord {
        match self.client().wait(Some(PATIENCE)) {
            Ok(_) | Err(skep_shim::ClientError::Gone { .. }) => {}
            Err(error) => panic!("{error}: {}", self.complaints()),
        }
        let record = ExitRecord::read(&self.config.paths.exit).unwrap();
        record.unwrap_or_else(|| panic!("no exit record: {}", self.complaints()))
    }

    /// Starts, waits, gives the exit code and what was written.
    pub fn run(&self) -> (i32, String) {
        if let Err(error) = self.try_start(&[]) {
            panic!("{error:?}: {}", self.complaints());
        }
        let record = self.wait();
        (record.exit_code, self.output())
    }

    /// What the shim complained about.
    pub fn complaints(&self) -> String {
        fs::read_to_string(self.path("shim.log")).unwrap_or_default()
    }

    /// All text of the log.
    pub fn output(&self) -> String {
        let log = fs::read_to_string(&self.config.log.path).unwrap();
        log.lines()
            .map(|line| {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                entry["log"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    /// Runs one more process and gives its exit code and output.
    pub fn exec(&self, spec: ExecSpec) -> (i32, String) {
        let spec = ExecSpec {
            streams: AttachOptions {
                stdout: true,
                stderr: true,
                ..spec.streams
            },
            ..spec
        };
        let mut started = self.client().exec(&spec).unwrap();
        let mut bytes = Vec::new();
        started.stream.read_to_end(&mut bytes).unwrap();
        let code = self.client().exec_wait(&spec.id, Some(PATIENCE)).unwrap();
        let text = if spec.terminal {
            String::from_utf8(bytes).unwrap()
        } else {
            unframe(&bytes)
        };
        (code, text)
    }

    pub fn exec_shell(&self, id: &str, script: &str) -> (i32, String) {
        self.exec(ExecSpec {
            id: id.into(),
            args: ["sh", "-c", script].map(String::from).to_vec(),
            ..ExecSpec::default()
        })
    }

    /// Waits for a state of health.
    pub fn wait_for_health(&self, wanted: Health) -> skep_shim::protocol::HealthStatus {
        until("the health", || {
            let health = self.client().status().ok()?.health?;
            (health.status == wanted).then_some(health)
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The test may have ended it already, or failed anywhere.
        let _ = self.client().signal(libc::SIGKILL, false);
        let _ = self.client().wait(Some(PATIENCE));
        for group in groups_named(&format!("above-{}", self.config.id)) {
            let _ = fs::remove_dir(group);
        }
        if std::thread::panicking() {
            eprintln!("shim: {}", self.complaints());
        }
    }
}

/// Joins the pieces of a multiplexed stream.
pub fn unframe(mut bytes: &[u8]) -> String {
    let mut text = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<8>() {
        let (_, length) = skep_shim::stdcopy::parse_header(*header);
        let (piece, rest) = rest.split_at(length as usize);
        text.extend_from_slice(piece);
        bytes = rest;
    }
    String::from_utf8(text).unwrap()
}

/// Asks again until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn make_root(root: &Path) {
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "run", "root"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    let busybox = BUSYBOX
        .iter()
        .find(|path| Path::new(path).exists())
        .unwrap();
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "true", "false", "id", "env", "pwd", "hostname", "ls", "sleep", "dd",
        "head", "seq", "grep", "stat", "touch", "mkdir", "tty", "stty", "mount", "kill", "tail",
        "wc", "yes", "ps", "test", "rm", "ip", "nslookup", "ulimit", "sysctl", "readlink", "tr",
        "printf", "awk", "sort", "cut", "sed", "df",
    ] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/home/web:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nweb:x:1001:\nlogs:x:50:web\n",
    )
    .unwrap();
}

/// Directories of this container that are left in any hierarchy.
pub fn cgroups_left(id: &str) -> Vec<PathBuf> {
    groups_named(&format!("above-{id}/{id}"))
}

fn groups_named(path: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    hierarchies
        .filter_map(|entry| Some(entry.ok()?.path()))
        .chain([PathBuf::from("/sys/fs/cgroup")])
        .map(|root| root.join(path))
        .filter(|group| group.exists())
        .collect()
}
