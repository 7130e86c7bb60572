//! A registry on loopback, and images in it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{add_file, busybox_archive, until};

const PROGRAM: &str = "/usr/bin/docker-registry";

/// A registry of the test's own; ends with it.
pub struct Registry {
    process: Child,
    pub address: String,
    pub directory: tempfile::TempDir,
}

impl Registry {
    pub async fn start() -> Option<Self> {
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
            directory,
        };
        until("the registry answers", || {
            TcpStream::connect(&registry.address).is_ok()
        })
        .await;
        Some(registry)
    }

    /// One request over plain HTTP: status, headers and body as text.
    pub fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
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
    pub fn blob(&self, repository: &str, bytes: &[u8]) -> String {
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

    pub fn manifest(
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

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn one_file(name: &str, contents: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    add_file(&mut builder, name, 0o644, contents.as_bytes());
    builder.into_inner().unwrap()
}

/// Puts an image of busybox and one more file, as an index for two platforms.
pub fn publish(registry: &Registry, repository: &str, note: &str) -> (String, String) {
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
