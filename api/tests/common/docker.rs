//! The unmodified docker CLI, pointed at a server.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Server;

const DOCKER: &str = "/usr/local/bin/docker";
const BUSYBOX: &str = "/bin/busybox";

/// Whether the CLI is here; says so if it is not.
pub fn docker_is_here() -> bool {
    let here = std::path::Path::new(DOCKER).exists();
    if !here {
        eprintln!("skipped: no docker CLI at {DOCKER}");
    }
    here
}

pub struct Ran {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

pub async fn docker(server: &Server, line: &str) -> Ran {
    docker_with(server, &line.split_whitespace().collect::<Vec<_>>(), b"").await
}

/// Runs the CLI with this input.
pub async fn docker_with(server: &Server, words: &[&str], input: &[u8]) -> Ran {
    let home = server.socket.with_extension("cli");
    let mut child = Command::new(DOCKER)
        .args(words)
        .env_clear()
        .env("HOME", &home)
        .env("DOCKER_HOST", format!("unix://{}", server.socket.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that reads nothing closes its end first.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Ran {
        ok: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a command that must succeed, and returns what it prints.
pub async fn prints(server: &Server, line: &str) -> String {
    let ran = docker(server, line).await;
    assert!(ran.ok, "docker {line}: {}{}", ran.out, ran.err);
    ran.out
}

/// Whether the CLI and a busybox to make images of are here; says so if they are not.
pub fn can_run() -> bool {
    let here = std::path::Path::new(BUSYBOX).exists();
    if !here {
        eprintln!("skipped: no busybox at {BUSYBOX}");
    }
    here && docker_is_here()
}

/// Imports an image `bb:1` with a shell in it.
pub async fn import(server: &Server) {
    let root = server.socket.with_extension("image");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::create_dir_all(root.join("tmp")).unwrap();
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for tool in ["sh", "cat", "echo", "sleep", "ls", "true", "head", "tr"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
    }
    let archive = server.socket.with_extension("tar");
    let made = tokio::process::Command::new("tar")
        .args([
            "-C",
            root.to_str().unwrap(),
            "-cf",
            archive.to_str().unwrap(),
            ".",
        ])
        .status()
        .await
        .unwrap();
    assert!(made.success());
    let archive = archive.display().to_string();
    prints(server, &format!("import {archive} bb:1")).await;
}
