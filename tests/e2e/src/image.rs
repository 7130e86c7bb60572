//! Images without a registry, made of busybox.

use std::io::Write as _;

use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Programs of busybox that the checks use.
const PROGRAMS: [&str; 16] = [
    "sh", "ls", "cat", "sleep", "echo", "wget", "nc", "id", "true", "false", "stat", "env",
    "hostname", "ps", "head", "dd",
];

/// A root file system with busybox, as a tar archive.
pub fn root_file_system(busybox: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(1_767_225_600);
        header
    };
    for (directory, mode) in [
        ("bin/", 0o755),
        ("etc/", 0o755),
        ("tmp/", 0o1777),
        ("root/", 0o700),
    ] {
        archive
            .append_data(
                &mut header(tar::EntryType::Directory, mode, 0),
                directory,
                &[][..],
            )
            .expect("memory can be written to");
    }
    archive
        .append_data(
            &mut header(tar::EntryType::Regular, 0o755, busybox.len() as u64),
            "bin/busybox",
            busybox,
        )
        .expect("memory can be written to");
    for name in PROGRAMS {
        archive
            .append_link(
                &mut header(tar::EntryType::Symlink, 0o777, 0),
                format!("bin/{name}"),
                "busybox",
            )
            .expect("memory can be written to");
    }
    let users = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    archive
        .append_data(
            &mut header(tar::EntryType::Regular, 0o644, users.len() as u64),
            "etc/passwd",
            &users[..],
        )
        .expect("memory can be written to");
    archive.into_inner().expect("memory can be written to")
}

/// An image archive as `docker save` has made them for years, of one layer.
pub fn archive(name: &str, layer: &[u8]) -> Vec<u8> {
    let digest = hex::encode(Sha256::digest(layer));
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin", "MADE=by-hand"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "COPY busybox /bin/busybox"}],
    })
    .to_string();
    let config_name = format!("{}.json", hex::encode(Sha256::digest(config.as_bytes())));
    let manifest =
        json!([{"Config": config_name, "RepoTags": [name], "Layers": [format!("{digest}/layer.tar")]}]).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in [
        (config_name.as_str(), config.as_bytes()),
        (&format!("{digest}/layer.tar"), layer),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive
            .append_data(&mut header, path, bytes)
            .expect("memory can be written to");
    }
    let mut bytes = archive.into_inner().expect("memory can be written to");
    bytes.flush().expect("memory can be written to");
    bytes
}
