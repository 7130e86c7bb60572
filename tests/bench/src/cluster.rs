//! A dev cluster of three nodes: from `service create` to running, and a container's start.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::table::Table;

const DEADLINE: Duration = Duration::from_secs(120);
const ROUNDS: usize = 5;

struct Cluster {
    skep: PathBuf,
    root: PathBuf,
}

impl Cluster {
    fn up() -> Result<Self> {
        let here = std::env::current_exe().context("the place of this program")?;
        let skep = here.with_file_name("skep");
        ensure!(
            skep.exists(),
            "{} is missing: cargo build --release first",
            skep.display()
        );
        let root = std::env::temp_dir().join(format!("skb-{}", std::process::id()));
        let cluster = Self { skep, root };
        let up = [
            "up",
            "--nodes",
            "3",
            "--subnet",
            "10.198.0.0/24",
            "--log-level",
            "warn",
        ];
        cluster.dev(&up)?;
        Ok(cluster)
    }

    fn dev(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.skep);
        command
            .arg("dev")
            .arg(args[0])
            .arg("--root")
            .arg(&self.root)
            .args(&args[1..]);
        let status = command.stdout(Stdio::null()).status().context("skep dev")?;
        ensure!(status.success(), "skep dev {} failed", args[0]);
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.root.join("n1/run/skep.sock")
    }

    fn api(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        request(&self.socket(), method, path, body)
    }

    /// From the request until every replica is reported running.
    fn create(&self, name: &str, replicas: u64) -> Result<Duration> {
        let spec = format!(
            r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"skep/hello:latest","Healthcheck":{{"Test":["NONE"]}}}}}},"Mode":{{"Replicated":{{"Replicas":{replicas}}}}}}}"#
        );
        let began = Instant::now();
        let id = self.api("POST", "/services/create", &spec)?["ID"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        loop {
            let filters = format!("%7B%22id%22%3A%5B%22{id}%22%5D%7D");
            let found = self.api(
                "GET",
                &format!("/services?status=true&filters={filters}"),
                "",
            )?;
            let running = found[0]["ServiceStatus"]["RunningTasks"]
                .as_u64()
                .unwrap_or(0);
            if running == replicas {
                return Ok(began.elapsed());
            }
            if began.elapsed() > DEADLINE {
                bail!("{name}: {running} of {replicas} after {DEADLINE:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn remove(&self, name: &str) -> Result<Duration> {
        let began = Instant::now();
        self.api("DELETE", &format!("/services/{name}"), "")?;
        while !self
            .api("GET", "/tasks", "")?
            .as_array()
            .is_none_or(Vec::is_empty)
        {
            ensure!(
                began.elapsed() < DEADLINE,
                "{name} is not gone after {DEADLINE:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(began.elapsed())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.dev(&["down"]) {
            eprintln!("{error:#}");
        }
    }
}

/// One HTTP/1.0-like exchange over a unix socket.
fn request(socket: &Path, method: &str, path: &str, body: &str) -> Result<Value> {
    use std::io::{Read as _, Write as _};

    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    write!(
        stream,
        "{method} /v1.50{path} HTTP/1.1\r\nHost: skep\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("an answer without a body")?;
    let status: u16 = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status")?;
    let body = if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        dechunk(body)
    } else {
        body.to_owned()
    };
    ensure!(
        (200..300).contains(&status),
        "{method} {path}: {status} {body}"
    );
    Ok(serde_json::from_str(&body).unwrap_or(Value::Null))
}

fn dechunk(body: &str) -> String {
    let mut plain = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        if size == 0 || after.len() < size {
            break;
        }
        plain.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    plain
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

pub fn run(table: &mut Table) -> Result<()> {
    let cluster = Cluster::up()?;
    cluster.create("warm", 3)?;
    cluster.remove("warm")?;
    for replicas in [1, 10, 100] {
        let rounds = if replicas == 100 { 3 } else { ROUNDS };
        let (mut created, mut removed) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let name = format!("b{replicas}-{round}");
            created.push(cluster.create(&name, replicas)?);
            removed.push(cluster.remove(&name)?);
        }
        table.add(
            "service",
            format!("create to running, {replicas} replicas"),
            median(created),
            "ms",
        );
        table.add(
            "removal",
            format!("remove to gone, {replicas} replicas"),
            median(removed),
            "ms",
        );
    }
    let mut starts = Vec::new();
    for round in 0..ROUNDS * 4 {
        let name = format!("c{round}");
        let body = r#"{"Image":"skep/hello:latest","Cmd":["check","http://127.0.0.1:1/"],"Healthcheck":{"Test":["NONE"]},"HostConfig":{"NetworkMode":"none"}}"#;
        let began = Instant::now();
        cluster.api("POST", &format!("/containers/create?name={name}"), body)?;
        cluster.api("POST", &format!("/containers/{name}/start"), "")?;
        cluster.api("POST", &format!("/containers/{name}/wait"), "")?;
        cluster.api("DELETE", &format!("/containers/{name}"), "")?;
        starts.push(began.elapsed());
    }
    table.add(
        "container",
        "create, start, wait, remove; no network",
        median(starts),
        "ms",
    );
    Ok(())
}
