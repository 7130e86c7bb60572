//! A daemon's API on its unix socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(180);

/// Where a daemon listens and which version of the API it is asked in.
pub struct Api {
    pub socket: PathBuf,
    pub version: &'static str,
}

impl Api {
    /// One request over a connection of its own.
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Value> {
        let mut stream = UnixStream::connect(&self.socket)?;
        let kind = match body.first() {
            Some(b'{') | None => "application/json",
            Some(_) => "application/x-tar",
        };
        write!(
            stream,
            "{method} /{}{path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nX-Registry-Auth: e30=\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            self.version,
            body.len()
        )?;
        stream.write_all(body)?;
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
        let chunked = head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        let body = if chunked {
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

    /// How many bytes the answer to a request has.
    pub fn size_of(&self, path: &str) -> Result<u64> {
        let mut stream = UnixStream::connect(&self.socket)?;
        write!(
            stream,
            "GET /{}{path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n",
            self.version
        )?;
        Ok(std::io::copy(&mut stream, &mut std::io::sink())?)
    }

    /// From the request until every replica is told to run.
    pub fn create_service(
        &self,
        name: &str,
        image: &str,
        command: &[&str],
        replicas: u64,
    ) -> Result<Duration> {
        let spec = serde_json::json!({
            "Name": name,
            "TaskTemplate": {"ContainerSpec": {
                "Image": image, "Command": command, "Healthcheck": {"Test": ["NONE"]},
            }},
            "Mode": {"Replicated": {"Replicas": replicas}},
        });
        let began = Instant::now();
        let made = self.ask("POST", "/services/create", spec.to_string().as_bytes())?;
        let id = made["ID"].as_str().unwrap_or_default().to_owned();
        loop {
            let filters = format!("%7B%22id%22%3A%5B%22{id}%22%5D%7D");
            let path = format!("/services?status=true&filters={filters}");
            let found = self.ask("GET", &path, b"")?;
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

    /// From the request until no task is left.
    pub fn remove_service(&self, name: &str) -> Result<Duration> {
        let began = Instant::now();
        self.ask("DELETE", &format!("/services/{name}"), b"")?;
        let is_gone = |tasks: &Value| tasks.as_array().is_none_or(Vec::is_empty);
        while !is_gone(&self.ask("GET", "/tasks", b"")?) {
            ensure!(
                began.elapsed() < DEADLINE,
                "{name} is not gone after {DEADLINE:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(began.elapsed())
    }

    /// The whole life of a container that ends at once, without a network.
    pub fn run_container(&self, name: &str, image: &str, command: &[&str]) -> Result<Duration> {
        let began = Instant::now();
        self.create(name, image, command, "none")?;
        self.start(name)?;
        self.ask("POST", &format!("/containers/{name}/wait"), b"")?;
        self.ask("DELETE", &format!("/containers/{name}"), b"")?;
        Ok(began.elapsed())
    }

    /// Makes a container on this network.
    pub fn create(&self, name: &str, image: &str, command: &[&str], network: &str) -> Result<()> {
        let spec = serde_json::json!({
            "Image": image, "Cmd": command, "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {"NetworkMode": network},
        });
        let path = format!("/containers/create?name={name}");
        self.ask("POST", &path, spec.to_string().as_bytes())?;
        Ok(())
    }

    pub fn start(&self, name: &str) -> Result<()> {
        self.ask("POST", &format!("/containers/{name}/start"), b"")?;
        Ok(())
    }

    /// What the docker client does for `run --rm`, but for attaching: create with
    /// removal at the end, wait for that, start.
    pub fn run_and_remove(
        &self,
        name: &str,
        image: &str,
        command: &[&str],
        network: &str,
    ) -> Result<Duration> {
        let spec = serde_json::json!({
            "Image": image, "Cmd": command,
            "HostConfig": {"NetworkMode": network, "AutoRemove": true},
        });
        let began = Instant::now();
        let path = format!("/containers/create?name={name}");
        self.ask("POST", &path, spec.to_string().as_bytes())?;
        let ended = std::thread::scope(|scope| {
            let path = format!("/containers/{name}/wait?condition=removed");
            let waiting = scope.spawn(move || self.ask("POST", &path, b""));
            self.start(name)?;
            waiting.join().expect("asking does not panic")
        })?;
        ensure!(ended["StatusCode"] == 0, "{name} ended with {ended}");
        Ok(began.elapsed())
    }

    /// Runs one more program in a container, to its end.
    pub fn exec(&self, name: &str, command: &[&str]) -> Result<Duration> {
        let began = Instant::now();
        let spec = serde_json::json!({"Cmd": command, "AttachStdout": true});
        let path = format!("/containers/{name}/exec");
        let made = self.ask("POST", &path, spec.to_string().as_bytes())?;
        let id = made["Id"].as_str().context("an exec without an id")?;
        self.ask("POST", &format!("/exec/{id}/start"), b"{}")?;
        let ended = self.ask("GET", &format!("/exec/{id}/json"), b"")?;
        ensure!(ended["ExitCode"] == 0, "{ended}");
        Ok(began.elapsed())
    }
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
