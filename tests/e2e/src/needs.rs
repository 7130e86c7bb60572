//! What a machine must have for clusters, and for single checks.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::run::{TIMEOUT, run};

/// Where Debian keeps programs of root.
const PLACES: [&str; 6] = [
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
];

/// Where a program is.
pub fn program(name: &str) -> Option<PathBuf> {
    PLACES
        .iter()
        .map(|place| Path::new(place).join(name))
        .find(|path| path.exists())
}

/// Why no cluster can be made here; `None` when one can.
pub fn missing_for_clusters() -> Option<String> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root {
        return Some("clusters need root".into());
    }
    let overlay =
        std::fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("\toverlay"));
    if !overlay {
        return Some("the kernel has no overlayfs".into());
    }
    let (Some(unshare), Some(ip)) = (program("unshare"), program("ip")) else {
        // Without them the kernel cannot be asked beforehand; the daemon will say what it lacks.
        return None;
    };
    for kind in ["bridge", "veth", "vxlan id 1 dstport 4789"] {
        let mut command = Command::new(&unshare);
        command
            .arg("-n")
            .arg(&ip)
            .args(["link", "add", "probe0", "type"])
            .args(kind.split(' '));
        if run(&mut command, b"", TIMEOUT).status != 0 {
            return Some(format!(
                "the kernel makes no {} in a namespace",
                kind.split(' ').next()?
            ));
        }
    }
    None
}

/// The docker client, of version 28 or later; says so when there is none.
pub fn docker() -> Option<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let path = program("docker").ok_or("there is no docker client")?;
        let version = run(Command::new(&path).arg("--version"), b"", TIMEOUT).out;
        let major = version
            .strip_prefix("Docker version ")
            .and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        match major {
            Some(28..) => Ok(path),
            _ => Err(format!(
                "the docker client is not 28 or later: {}",
                version.trim()
            )),
        }
    });
    match found {
        Ok(path) => Some(path),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

/// A static busybox, to make images of; says so when there is none.
pub fn busybox() -> Option<Vec<u8>> {
    let Some(bytes) = program("busybox").and_then(|path| std::fs::read(path).ok()) else {
        println!("skipped: there is no busybox (busybox-static) to make images of");
        return None;
    };
    // A dynamic one names its loader.
    if bytes
        .windows(7)
        .take(8192)
        .any(|window| window == b"/ld-lin" || window == b"/lib64/")
    {
        println!("skipped: busybox is not static");
        return None;
    }
    Some(bytes)
}
