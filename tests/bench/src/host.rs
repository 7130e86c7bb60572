//! One host without a cluster: our daemon and dockerd, each in a network namespace of
//! its own and with its own defaults, asked in turn so that both have the same weather.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::api::Api;
use crate::dockerd::{self, Dockerd, archive, installed, remove_groups};
use crate::table::Table;

const IMAGE: &str = "bench:1";
/// Whole lives of containers, of which the median is told.
const LIVES: usize = 40;
const PARALLEL: usize = 100;
/// Clients that start them.
const CLIENTS: usize = 10;
const LOG_MEGABYTES: u64 = 50;
const LAYER_MEGABYTES: usize = 200;
const REGISTRY: &str = "127.0.0.1:5000";

/// Our daemon alone.
struct Skep {
    process: Child,
    root: PathBuf,
    program: PathBuf,
}

impl Skep {
    fn start() -> Result<Self> {
        let here = std::env::current_exe().context("the place of this program")?;
        let program = here.with_file_name("skep");
        ensure!(
            program.exists(),
            "{} is missing: cargo build --release first",
            program.display()
        );
        let root = std::env::temp_dir().join(format!("skb-host-{}", std::process::id()));
        std::fs::create_dir_all(&root)?;
        let at = |name: &str| root.join(name).display().to_string();
        let process = Command::new("unshare")
            .args(["--net", "--", "sh", "-c"])
            .arg("ip link set lo up && exec \"$0\" \"$@\"")
            .arg(&program)
            .args(["daemon", "--data-root", &at("data")])
            .args(["--exec-root", &at("run"), "--log-level", "warn"])
            .args(["--cgroup-parent", "/skb-host"])
            .args(["--host", &format!("unix://{}", at("sock"))])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(root.join("log"))?)
            .spawn()?;
        Ok(Self {
            process,
            root,
            program,
        })
    }

    fn api(&self) -> Result<Api> {
        let api = Api {
            socket: self.root.join("sock"),
            version: "v1.50",
        };
        let began = Instant::now();
        while let Err(error) = api.ask("GET", "/version", b"") {
            ensure!(
                began.elapsed() < Duration::from_secs(30),
                "skep does not answer: {error:#}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(api)
    }
}

impl Drop for Skep {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.process.wait();
        remove_groups("skb-host");
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// A daemon under test.
struct Host<'a> {
    name: String,
    api: Api,
    /// Its process, and the programs that are needed on a host for it.
    pid: u32,
    programs: Vec<PathBuf>,
    /// Its directory, which its helpers name in their command lines.
    root: &'a Path,
}

pub fn run(table: &mut Table) -> Result<()> {
    let Some(busybox) = installed("busybox") else {
        eprintln!("skipped: figures of one host: there is no busybox on this machine");
        return Ok(());
    };
    let skep = Skep::start()?;
    let mut hosts = vec![Host {
        name: "skep".into(),
        api: skep.api()?,
        pid: skep.process.id(),
        programs: vec![skep.program.clone()],
        root: &skep.root,
    }];
    let root = std::env::temp_dir().join(format!("skb-dockerd-host-{}", std::process::id()));
    let mut dockerd = match installed("dockerd") {
        Some(program) => Some(Dockerd::start(&program, root.clone(), &[])?),
        None => {
            eprintln!("skipped: dockerd's figures: it is not on this machine");
            None
        }
    };
    if let Some(dockerd) = &mut dockerd {
        let api = dockerd.api()?;
        let parts = ["dockerd", "containerd", "containerd-shim-runc-v2", "runc"];
        hosts.push(Host {
            name: dockerd::name(&api)?,
            api,
            pid: dockerd.pid(),
            programs: parts.iter().filter_map(|name| installed(name)).collect(),
            root: &root,
        });
    }
    for host in &hosts {
        let bytes: u64 = host
            .programs
            .iter()
            .filter_map(|program| std::fs::metadata(program).ok())
            .map(|program| program.len())
            .sum();
        table.add(
            "programs",
            format!("{}: its programs", host.name),
            bytes as f64 / 1e6,
            "MB",
        );
        let idle = private_megabytes(&[host.pid]) + private_megabytes(&helpers(host));
        table.add(
            "idle memory",
            format!("{}: private memory when idle", host.name),
            idle,
            "MB",
        );
        let layer = archive(&[("bin/busybox", &std::fs::read(&busybox)?)]);
        let path = "/images/create?fromSrc=-&repo=bench&tag=1";
        host.api.ask("POST", path, &layer)?;
    }
    lives(table, &hosts)?;
    crowds(table, &hosts)?;
    logs(table, &hosts)?;
    pulls(table, &hosts)
}

fn lives(table: &mut Table, hosts: &[Host<'_>]) -> Result<()> {
    for network in ["none", "bridge"] {
        let mut times = vec![Vec::new(); hosts.len()];
        for round in 0..LIVES {
            for (host, times) in hosts.iter().zip(&mut times) {
                let name = format!("life-{network}-{round}");
                let command = ["/bin/busybox", "true"];
                times.push(host.api.run_and_remove(&name, IMAGE, &command, network)?);
            }
        }
        for (host, times) in hosts.iter().zip(times) {
            let figure = format!("{}: run --rm true", host.name);
            table.add(&format!("network {network}"), figure, median(times), "ms");
        }
    }
    Ok(())
}

/// Many at once, what they weigh, and programs started in one of them.
fn crowds(table: &mut Table, hosts: &[Host<'_>]) -> Result<()> {
    let wait = ["/bin/busybox", "sleep", "1000"];
    for host in hosts {
        for number in 0..PARALLEL {
            host.api
                .create(&format!("many-{number}"), IMAGE, &wait, "none")?;
        }
        let before = private_megabytes(&helpers(host));
        let began = Instant::now();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    scope.spawn(move || {
                        (client..PARALLEL)
                            .step_by(CLIENTS)
                            .try_for_each(|number| host.api.start(&format!("many-{number}")))
                    })
                })
                .collect();
            clients
                .into_iter()
                .try_for_each(|client| client.join().expect("asking does not panic"))
        })?;
        let took = began.elapsed().as_secs_f64() * 1000.0;
        table.add(
            "crowd",
            format!("{}: {PARALLEL} starts by {CLIENTS} clients", host.name),
            took,
            "ms",
        );
        let each = (private_megabytes(&helpers(host)) - before) / PARALLEL as f64;
        table.add(
            "shim memory",
            format!("{}: private memory for each container", host.name),
            each,
            "MB",
        );
        table.add(
            "daemon memory",
            format!("{}: the daemon with {PARALLEL} containers", host.name),
            private_megabytes(&[host.pid]),
            "MB",
        );
    }
    let mut times = vec![Vec::new(); hosts.len()];
    for _ in 0..LIVES {
        for (host, times) in hosts.iter().zip(&mut times) {
            times.push(host.api.exec("many-0", &["/bin/busybox", "true"])?);
        }
    }
    for (host, times) in hosts.iter().zip(times) {
        table.add(
            "exec",
            format!("{}: exec true", host.name),
            median(times),
            "ms",
        );
        for number in 0..PARALLEL {
            let path = format!("/containers/many-{number}?force=true");
            host.api.ask("DELETE", &path, b"")?;
        }
    }
    Ok(())
}

fn logs(table: &mut Table, hosts: &[Host<'_>]) -> Result<()> {
    let script = format!(
        "/bin/busybox yes 'a line of a log with the usual length of eighty characters or so, as it is' | /bin/busybox head -c {}",
        LOG_MEGABYTES << 20
    );
    for host in hosts {
        let command = ["/bin/busybox", "sh", "-c", &script];
        host.api.create("talker", IMAGE, &command, "none")?;
        let began = Instant::now();
        host.api.start("talker")?;
        host.api.ask("POST", "/containers/talker/wait", b"")?;
        let speed = LOG_MEGABYTES as f64 / began.elapsed().as_secs_f64();
        table.add("log", format!("{}: written", host.name), speed, "MB/s");
        let began = Instant::now();
        let bytes = host.api.size_of("/containers/talker/logs?stdout=1")?;
        ensure!(bytes > LOG_MEGABYTES << 20, "{}: {bytes} bytes", host.name);
        let speed = LOG_MEGABYTES as f64 / began.elapsed().as_secs_f64();
        table.add("log read", format!("{}: read", host.name), speed, "MB/s");
        host.api.ask("DELETE", "/containers/talker", b"")?;
    }
    Ok(())
}

/// A registry in the network namespace of a daemon.
struct Registry(Child, PathBuf);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

fn pulls(table: &mut Table, hosts: &[Host<'_>]) -> Result<()> {
    let Some(program) = installed("docker-registry") else {
        eprintln!("skipped: pulling: there is no docker-registry on this machine");
        return Ok(());
    };
    // Half of it is noise, as in programs: it does not become small.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let contents: Vec<u8> = (0..LAYER_MEGABYTES << 17)
        .flat_map(|number| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if number % 2 == 0 {
                state
            } else {
                0x2020_6c61_7469_6e20
            }
            .to_le_bytes()
        })
        .collect();
    let pieces: Vec<(String, &[u8])> = contents
        .chunks(2 << 20)
        .enumerate()
        .map(|(number, piece)| (format!("data-{number}"), piece))
        .collect();
    let files: Vec<(&str, &[u8])> = pieces
        .iter()
        .map(|(name, piece)| (&**name, *piece))
        .collect();
    let layer = archive(&files);
    for host in hosts {
        let place = host.root.join("registry");
        std::fs::create_dir_all(&place)?;
        let config = place.join("config.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {REGISTRY}\n",
                place.join("store").display()
            ),
        )?;
        let process = Command::new("nsenter")
            .args(["-t", &host.pid.to_string(), "-n"])
            .arg(&program)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let _registry = Registry(process, place);
        std::thread::sleep(Duration::from_secs(1));
        let api = &host.api;
        let path = format!("/images/create?fromSrc=-&repo={REGISTRY}/large&tag=1");
        api.ask("POST", &path, &layer)?;
        api.ask("POST", &format!("/images/{REGISTRY}/large/push?tag=1"), b"")?;
        api.ask("DELETE", &format!("/images/{REGISTRY}/large:1"), b"")?;
        let began = Instant::now();
        let path = format!("/images/create?fromImage={REGISTRY}/large&tag=1");
        api.ask("POST", &path, b"")?;
        let took = began.elapsed().as_secs_f64();
        api.ask("GET", &format!("/images/{REGISTRY}/large:1/json"), b"")?;
        table.add(
            "pull",
            format!("{}: pull and unpack {LAYER_MEGABYTES} MB", host.name),
            LAYER_MEGABYTES as f64 / took,
            "MB/s",
        );
        api.ask("DELETE", &format!("/images/{REGISTRY}/large:1"), b"")?;
    }
    Ok(())
}

/// Processes that work for a daemon: their command lines name its directory, or they
/// are its children's.
fn helpers(host: &Host<'_>) -> Vec<u32> {
    let text = host.root.display().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != host.pid)
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&text)
        })
        .collect()
}

/// Memory that is nobody else's.
fn private_megabytes(pids: &[u32]) -> f64 {
    let kilobytes = |pid: &u32| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        text.unwrap_or_default()
            .lines()
            .filter(|line| line.starts_with("Private_"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum()
    };
    pids.iter().map(kilobytes).sum::<u64>() as f64 / 1024.0
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}
