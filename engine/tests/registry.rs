//! Pulling from and pushing to a real registry on loopback.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use common::*;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use skep_engine::types::ContainerConfig;
use skep_engine::{Engine, ImageRemoveOptions, Progress, PullOptions, RegistryAuth};

const PROGRAM: &str = "/usr/bin/docker-registry";

/// A registry of the test's own; ends with it.
struct Registry {
    process: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Registry {
    async fn start() -> Option<Self> {
        if !std::path::Path::new(PROGRAM).exists() {
            eprintln!("skipped: needs {PROGRAM}");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let config = directory.path().join("config.yml");
        std::fs::write(&config, format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            directory.path().join("store").display()
        ))
        .unwrap();
        let process = Command::new(PROGRAM)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self {
            process,
            address,
            _directory: directory,
        };
        until("the registry answers", || {
            TcpStream::connect(&registry.address).is_ok()
        })
        .await;
        Some(registry)
    }

    /// One request over plain HTTP: status, headers and body as text.
    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text)
    }

    /// Stores a blob; its digest.
    fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let (status, answer) =
            self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        assert_eq!(status, 202, "{answer}");
        let location = answer
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .unwrap()
            .split(&self.address)
            .nth(1)
            .unwrap();
        let (status, answer) = self.request(
            "PUT",
            &format!("{location}&digest={digest}"),
            "application/octet-stream",
            bytes,
        );
        assert_eq!(status, 201, "{answer}");
        digest
    }

    fn manifest(
        &self,
        repository: &str,
        tag: &str,
        kind: &str,
        document: &serde_json::Value,
    ) -> String {
        let bytes = document.to_string();
        let (status, answer) = self.request(
            "PUT",
            &format!("/v2/{repository}/manifests/{tag}"),
            kind,
            bytes.as_bytes(),
        );
        assert_eq!(status, 201, "{answer}");
        digest(bytes.as_bytes())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn one_file(name: &str, contents: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    add_file(&mut builder, name, 0o644, contents.as_bytes());
    builder.into_inner().unwrap()
}

/// Puts an image of busybox and one more file, as an index for two platforms.
fn publish(registry: &Registry, repository: &str, note: &str) -> (String, String) {
    let (base, top) = (busybox_archive(), one_file("note", note));
    let (base_blob, top_blob) = (gzip(&base), zstd::encode_all(&top[..], 3).unwrap());
    let config = json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"), "os": "linux",
        "config": {"Cmd": ["cat", "/note"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&base), digest(&top)]},
    })
    .to_string();
    for blob in [&base_blob, &top_blob, &config.clone().into_bytes()] {
        registry.blob(repository, blob);
    }
    let image_kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": image_kind,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config.as_bytes()), "size": config.len()},
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&base_blob), "size": base_blob.len()},
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": digest(&top_blob), "size": top_blob.len()},
        ],
    });
    let manifest_digest = registry.manifest(repository, "plain", image_kind, &manifest);
    let index_kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({
        "schemaVersion": 2, "mediaType": index_kind,
        "manifests": [{
            "mediaType": image_kind, "digest": manifest_digest, "size": manifest.to_string().len(),
            "platform": {"os": "linux", "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64")},
        }],
    });
    let index_digest = registry.manifest(repository, "1", index_kind, &index);
    (digest(config.as_bytes()), index_digest)
}

async fn pull(engine: &Engine, name: &str) -> (Result<String, String>, Vec<String>) {
    let (progress, mut lines) = Progress::channel();
    let pulled = engine
        .image_pull(name, PullOptions::default(), progress)
        .await;
    let mut said = Vec::new();
    while let Some(line) = lines.recv().await {
        said.extend(line.status);
    }
    (pulled.map_err(|error| error.to_string()), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_verified_and_runs() {
    let Some(bench) = bench().await else { return };
    let Some(registry) = Registry::start().await else {
        return bench.finish().await;
    };
    let engine = bench.engine();
    let (id, index) = publish(&registry, "team/app", "pulled\n");
    let name = format!("{}/team/app:1", registry.address);
    let (pulled, said) = pull(engine, &name).await;
    assert_eq!(pulled.unwrap(), id);
    for expected in [
        "Pulling from team/app",
        "Pulling fs layer",
        "Verifying Checksum",
        "Download complete",
        "Extracting",
        "Pull complete",
        &format!("Digest: {index}"),
        &format!("Status: Downloaded newer image for {name}"),
    ] {
        assert!(
            said.iter().any(|line| line == expected),
            "{expected} in {said:?}"
        );
    }
    let image = engine.image_inspect(&name).await.unwrap();
    assert_eq!(image.repo_tags.join(" "), name);
    assert_eq!(
        image.repo_digests,
        [format!("{}/team/app@{index}", registry.address)]
    );
    let config = ContainerConfig {
        image: name.clone(),
        cmd: None,
        ..shell("")
    };
    assert_eq!(run_to_end(engine, "pulled", config).await.1, "pulled\n");
    let (_, said) = pull(engine, &name).await;
    assert_eq!(
        said.last().unwrap(),
        &format!("Status: Image is up to date for {name}")
    );

    let inspected = engine
        .distribution_inspect(&name, RegistryAuth::default())
        .await
        .unwrap();
    assert_eq!(inspected.descriptor.digest, index);
    assert_eq!(inspected.platforms[0].os, "linux");
    // By digest it is here: no registry is needed.
    let by_digest = format!("{}/team/app@{index}", registry.address);
    drop(registry);
    assert_eq!(pull(engine, &by_digest).await.0.unwrap(), id);
    let gone = pull(engine, &name).await.0.unwrap_err();
    assert!(gone.contains("connect"), "{gone}");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_what_it_says_is_refused() {
    let Some(bench) = bench().await else { return };
    let Some(registry) = Registry::start().await else {
        return bench.finish().await;
    };
    let engine = bench.engine();
    publish(&registry, "team/app", "x");
    let (error, _) = pull(engine, &format!("{}/team/app:nope", registry.address)).await;
    assert_eq!(
        error.unwrap_err(),
        format!(
            "manifest for {0}/team/app:nope not found: manifest unknown: manifest unknown",
            registry.address
        )
    );
    // A blob that was changed on the registry's disk.
    let store = registry._directory.path().join("store");
    let mut blobs = Vec::new();
    let mut left = vec![store];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => left.push(entry.path()),
                false if entry.file_name() == "data" => blobs.push(entry.path()),
                false => {}
            }
        }
    }
    let biggest = blobs
        .iter()
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(biggest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(biggest, bytes).unwrap();
    let name = format!("{}/team/app:1", registry.address);
    let (error, _) = pull(engine, &name).await;
    assert!(
        error
            .unwrap_err()
            .starts_with("filesystem layer verification failed for digest sha256:")
    );
    assert!(
        engine
            .image_inspect(&name)
            .await
            .unwrap_err()
            .is_not_found()
    );
    let wrong = PullOptions {
        platform: Some(skep_engine::parse_platform("linux/s390x").unwrap()),
        ..PullOptions::default()
    };
    let error = engine
        .image_pull(&name, wrong, Progress::none())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no matching manifest for linux/s390x in the manifest list entries"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_can_be_pulled_and_pulls_share_work() {
    let Some(bench) = bench().await else { return };
    let Some(registry) = Registry::start().await else {
        return bench.finish().await;
    };
    let engine = bench.engine();
    let name = format!("{}/mine/busybox:v1", registry.address);
    let id = engine.image_inspect(IMAGE).await.unwrap().id;
    let missing = engine
        .image_push(&name, RegistryAuth::default(), Progress::none())
        .await
        .unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!(
            "An image does not exist locally with the tag: {}/mine/busybox",
            registry.address
        )
    );
    engine.image_tag(IMAGE, &name).await.unwrap();
    engine
        .image_push(&name, RegistryAuth::default(), Progress::none())
        .await
        .unwrap();
    engine
        .image_push(&name, RegistryAuth::default(), Progress::none())
        .await
        .unwrap();
    let force = ImageRemoveOptions {
        force: true,
        no_prune: false,
    };
    engine.image_remove(&id, force).await.unwrap();
    let pulls = (0..4).map(|_| pull(engine, &name));
    for (pulled, _) in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap(), id);
    }
    assert_eq!(
        std::fs::read_dir(bench.path().join("data/layers"))
            .unwrap()
            .count(),
        1
    );
    assert_eq!(
        std::fs::read_dir(bench.path().join("data/images/ingest"))
            .unwrap()
            .count(),
        0
    );
    let config = ContainerConfig {
        image: name,
        ..shell("echo ok")
    };
    assert_eq!(run_to_end(engine, "ran", config).await.1, "ok\n");
    // Without a tag, all of them go and come.
    let repository = format!("{}/mine/many", registry.address);
    for tag in ["a", "b"] {
        let named = format!("{repository}:{tag}");
        engine.image_tag(&id, &named).await.unwrap();
    }
    engine
        .image_push(&repository, RegistryAuth::default(), Progress::none())
        .await
        .unwrap();
    for tag in ["a", "b"] {
        let named = format!("{repository}:{tag}");
        engine.image_remove(&named, force).await.unwrap();
    }
    engine
        .image_pull_all(&repository, Default::default(), Progress::none())
        .await
        .unwrap();
    for tag in ["a", "b"] {
        let named = format!("{repository}:{tag}");
        assert_eq!(engine.image_inspect(&named).await.unwrap().id, id);
    }
    let login = RegistryAuth {
        serveraddress: registry.address.clone(),
        username: "any".into(),
        password: "any".into(),
        ..RegistryAuth::default()
    };
    assert_eq!(
        engine.registry_login(login).await.unwrap(),
        "Login Succeeded"
    );
    bench.finish().await;
}
