//! A server on a unix socket in a directory of its own, and a client for it.
//!
//! The engine behind it is real. It makes networks and cgroups, so it needs root and gets a
//! network namespace of its own.

// Each test file uses its own part of this.
#![allow(dead_code)]

pub mod cluster;
pub mod docker;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use skep_api::{About, ApiState, Listener, serve};
use skep_engine::{Engine, EngineConfig, ListOptions, RemoveOptions};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use cluster::FakeCluster;

/// Counts servers, so that tests in one process have cgroups of their own.
static SERVERS: AtomicU64 = AtomicU64::new(0);

/// No test waits longer for anything.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub struct Server {
    pub socket: PathBuf,
    pub cluster: Arc<FakeCluster>,
    pub engine: Arc<Engine>,
    _root: tempfile::TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

/// Runs a test against a server, or says why it cannot run here.
pub fn with_server<F, Fut>(cluster: Arc<FakeCluster>, test: F)
where
    F: FnOnce(Arc<Server>) -> Fut,
    Fut: Future<Output = ()>,
{
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: the engine needs root");
        return;
    }
    // Threads of the runtime are born into this thread's namespace.
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let root = tempfile::tempdir().unwrap();
        let mut config = EngineConfig::new(root.path().join("data"), root.path().join("run"));
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let parent = format!("/skep-api-test-{}-{number}", std::process::id());
        config.cgroup_parent.clone_from(&parent);
        let engine = match Engine::open(config).await {
            Ok(engine) => engine,
            Err(error) => panic!("the engine does not open: {error}"),
        };
        let socket = root.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let state = Arc::new(ApiState {
            engine: engine.clone(),
            cluster: cluster.clone(),
            asked: Default::default(),
            task_execs: Default::default(),
            about: About {
                version: "0.1.0".into(),
                daemon_id: "test".into(),
                build_time: "2025-11-23T10:00:00Z".into(),
                ..About::default()
            },
        });
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(vec![Listener::Unix(listener)], state, stop.clone()));
        let server = Arc::new(Server {
            socket,
            cluster,
            engine: engine.clone(),
            _root: root,
        });
        // Also a test that failed leaves no container, process or cgroup behind.
        let work = AssertUnwindSafe(test(server.clone())).catch_unwind();
        let done = tokio::time::timeout(DEADLINE, work).await;
        remove_containers(&engine).await;
        stop.cancel();
        let stopped = tokio::time::timeout(DEADLINE, serving).await;
        engine.close().await;
        remove_cgroups(&parent);
        match done.expect("the test ends in time") {
            Ok(()) => stopped.expect("the server stops in time").unwrap(),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
}

async fn remove_containers(engine: &Arc<Engine>) {
    let all = ListOptions {
        all: true,
        ..ListOptions::default()
    };
    for container in engine.container_list(all).await.unwrap_or_default() {
        let options = RemoveOptions {
            force: true,
            volumes: true,
        };
        if let Err(error) = engine.container_remove(&container.id, options).await {
            eprintln!("left behind: container {}: {error}", container.id);
        }
    }
}

/// Takes this test's cgroups away, of whichever hierarchies there are.
fn remove_cgroups(parent: &str) {
    let name = parent.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
    let places = hierarchies.map(|entry| entry.path().join(name));
    for place in places.chain([root.join(name)]) {
        remove_tree(&place);
    }
}

fn remove_tree(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(directory);
}

impl Server {
    pub async fn open(&self, request: Request<Full<Bytes>>) -> http::Response<Incoming> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        sender.send_request(request).await.unwrap()
    }

    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "docker");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.to_owned()));
        let response = self.open(request.body(body).unwrap()).await;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        let body = body.to_string();
        self.request("POST", path, &[("content-type", "application/json")], &body)
            .await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, &[], "").await
    }
}

/// `filters` as a client writes them.
pub fn filters(json: &str) -> String {
    let mut text = String::from("filters=");
    for byte in json.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}
