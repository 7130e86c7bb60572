//! Builds the program that stays beside each container and hands it to the compiler
//! as bytes, so that one file is all a host needs.
//!
//! A build of its own, as the program differs in everything from the daemon: small,
//! linked without libraries (it also runs inside containers), in another profile.
//! It uses the same lock file and the same downloaded sources, and builds again only
//! when its own sources change: a newer version of a library in the lock file alone
//! reaches it with the next build from scratch.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the program is made of, from the workspace's root.
const SOURCES: [&str; 4] = [
    "engine/shim/src",
    "engine/shim/Cargo.toml",
    "net/dns/src",
    "net/dns/Cargo.toml",
];

fn main() -> Result<(), Box<dyn Error>> {
    let engine = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = engine.parent().ok_or("the engine is in a workspace")?;
    for source in SOURCES {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    println!("cargo::rerun-if-changed=build.rs");
    let program = build(workspace)?;
    println!("cargo::rustc-env=SKEP_SHIM_PROGRAM={}", program.display());
    Ok(())
}

fn build(workspace: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let target = env::var("TARGET")?;
    let directory = PathBuf::from(env::var("OUT_DIR")?).join("shim");
    let mut command = Command::new(env::var("CARGO")?);
    // What cargo tells build scripts, and what wraps the compiler for clippy or
    // check, is meant for this build and not for that one.
    for (name, _) in env::vars() {
        let kept = matches!(
            name.as_str(),
            "CARGO_HOME" | "CARGO_NET_OFFLINE" | "CARGO_HTTP_PROXY"
        ) || name.starts_with("CARGO_REGISTR")
            || name.starts_with("CARGO_SOURCE_")
            // How to link for another architecture.
            || (name.starts_with("CARGO_TARGET_") && name.ends_with("_LINKER"));
        let meant_for_this = name.starts_with("CARGO") || name.starts_with("DEP_");
        if meant_for_this && !kept {
            command.env_remove(&name);
        }
    }
    for name in [
        "RUSTC",
        "RUSTDOC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "RUSTFLAGS",
        "CLIPPY_ARGS",
        "CLIPPY_CONF_DIR",
        "TARGET",
        "HOST",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
        "OUT_DIR",
    ] {
        command.env_remove(name);
    }
    let status = command
        .args(["build", "--package", "skep-shim", "--bin", "skep-shim"])
        .args(["--profile", "shim", "--target", &target])
        .args(["--locked", "--target-dir"])
        .arg(&directory)
        .current_dir(workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .status()?;
    if !status.success() {
        return Err(format!("building the shim: {status}").into());
    }
    Ok(directory.join(target).join("shim").join("skep-shim"))
}
