//! A dockerd beside ours, where one is installed: one node in a network namespace of its own.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::api::Api;
use crate::services::{self, Subject};
use crate::table::Table;

/// How long it may take to answer after its start.
const READY: Duration = Duration::from_secs(60);

pub struct Dockerd {
    process: Child,
    root: PathBuf,
}

impl Dockerd {
    /// Starts it in a network namespace of its own, with these flags more.
    pub fn start(program: &Path, root: PathBuf, flags: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(&root)?;
        let log = std::fs::File::create(root.join("log"))?;
        let at = |name: &str| root.join(name).display().to_string();
        let process = Command::new("unshare")
            .args([
                "--net",
                "--",
                "sh",
                "-c",
                "ip link set lo up && exec \"$0\" \"$@\"",
            ])
            .arg(program)
            .args(["--data-root", &at("data"), "--exec-root", &at("run")])
            .args([
                "--pidfile",
                &at("pid"),
                "--host",
                &format!("unix://{}", at("sock")),
            ])
            .args(["--cgroup-parent", "/skb-dockerd"])
            .args(flags)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("dockerd")?;
        Ok(Self { process, root })
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.process.wait();
        // It leaves what it mounted for the next start.
        let name = self.root.display().to_string();
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        for line in mounts.lines().rev() {
            if let Some(place) = line
                .split(' ')
                .nth(1)
                .filter(|place| place.starts_with(&name))
            {
                let _ = Command::new("umount").arg(place).status();
            }
        }
        remove_groups("skb-dockerd");
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Removes the empty control groups of this name, in every hierarchy.
pub fn remove_groups(name: &str) {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    let roots = hierarchies
        .filter_map(|entry| Some(entry.ok()?.path()))
        .chain([PathBuf::from("/sys/fs/cgroup")]);
    for group in roots.map(|root| root.join(name)) {
        for child in std::fs::read_dir(&group).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(child.path());
        }
        let _ = std::fs::remove_dir(group);
    }
}

/// Where a program is, if it is installed.
pub fn installed(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
        .iter()
        .map(|place| Path::new(place).join(name))
        .find(|path| path.exists())
}

impl Dockerd {
    /// Its process; the shell before it became it.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It does not within a minute, or ended: its log.
    pub fn api(&mut self) -> Result<Api> {
        let api = Api {
            socket: self.root.join("sock"),
            version: "v1.41",
        };
        let began = Instant::now();
        loop {
            match api.ask("GET", "/version", b"") {
                Ok(_) => return Ok(api),
                Err(error) if began.elapsed() > READY || self.process.try_wait()?.is_some() => {
                    let mut log = String::new();
                    std::fs::File::open(self.root.join("log"))?.read_to_string(&mut log)?;
                    bail!("dockerd does not answer: {error:#}\n{log}");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

/// `dockerd` and its version.
pub fn name(api: &Api) -> Result<String> {
    let version = api.ask("GET", "/version", b"")?;
    Ok(format!(
        "dockerd {}",
        version["Version"].as_str().unwrap_or_default()
    ))
}

pub fn run(table: &mut Table) -> Result<()> {
    let (Some(program), Some(busybox)) = (installed("dockerd"), installed("busybox")) else {
        eprintln!(
            "skipped: dockerd's figures: there is no dockerd, or no busybox, on this machine"
        );
        return Ok(());
    };
    let root = std::env::temp_dir().join(format!("skb-dockerd-{}", std::process::id()));
    let mut dockerd = Dockerd::start(&program, root, &["--iptables=false", "--bridge=none"])?;
    let api = dockerd.api()?;
    let layer = archive(&[("bin/busybox", &std::fs::read(busybox)?)]);
    api.ask("POST", "/images/create?fromSrc=-&repo=bench&tag=1", &layer)?;
    let init = br#"{"ListenAddr":"127.0.0.1:2377","AdvertiseAddr":"127.0.0.1"}"#;
    api.ask("POST", "/swarm/init", init)?;
    let name = name(&api)?;
    let subject = Subject {
        name: &name,
        api: &api,
        image: "bench:1",
        // A first process without a handler ignores the signal, and is killed after its grace.
        serve: &[
            "/bin/busybox",
            "sh",
            "-c",
            "trap 'exit 0' TERM; /bin/busybox sleep 1000 & wait",
        ],
        end: &["/bin/busybox", "true"],
    };
    services::run(table, &subject)
}

/// A tar archive of programs, as `docker import` takes it (POSIX.1-1988, ustar).
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, contents) in files {
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, b"0000755\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", contents.len()).as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, b"0");
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(contents);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}
