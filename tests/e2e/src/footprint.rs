//! What a cluster may leave on a machine, before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs::program;
use crate::run::{TIMEOUT, run};

/// Directories in which daemons keep things.
const PLACES: [&str; 4] = ["/run", "/var/lib", "/dev/shm", "/etc"];

/// What is there that a cluster could have made, wherever it has no name of that cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    links: BTreeSet<String>,
    tables: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Footprint {
    pub fn take() -> Self {
        Self {
            links: links(),
            tables: tables(),
            files: files(),
        }
    }

    /// What the cluster in `root` left, compared with this; `interface` is its link to this machine.
    pub fn remains(&self, root: &Path, interface: &str) -> Vec<String> {
        let now = Self::take();
        let new = |kind: &str, before: &BTreeSet<String>, after: &BTreeSet<String>| {
            after
                .difference(before)
                .map(|name| format!("{kind} {name}"))
                .collect::<Vec<_>>()
        };
        // Other clusters on this machine may come and go meanwhile; their links begin so.
        let mut remains = new("link", &self.links, &now.links);
        remains.retain(|link| !link.starts_with("link skd") || link.ends_with(interface));
        remains.extend(new("nft table", &self.tables, &now.tables));
        remains.extend(new("file", &self.files, &now.files));
        let name = root.to_string_lossy();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let ours = mounts.lines().filter(|line| line.contains(&*name));
        remains.extend(ours.map(|line| format!("mount {line}")));
        remains.extend(cgroups(&tag(root)).map(|path| format!("cgroup {}", path.display())));
        remains.extend(
            processes(root)
                .into_iter()
                .map(|process| format!("process {process}")),
        );
        if root.exists() {
            remains.push(format!("directory {}", root.display()));
        }
        remains
    }
}

/// How the cluster's cgroups are told apart from others': their name has the directory in it.
pub fn tag(root: &Path) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '-'
        }
    };
    root.to_string_lossy().chars().map(plain).collect()
}

fn links() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names = text.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

fn tables() -> BTreeSet<String> {
    let Some(nft) = program("nft") else {
        println!("skipped: there is no nft to look for tables left behind");
        return BTreeSet::new();
    };
    let listed = run(Command::new(nft).args(["list", "tables"]), b"", TIMEOUT);
    listed.out.lines().map(str::to_owned).collect()
}

fn files() -> BTreeSet<String> {
    let entries = PLACES.iter().flat_map(|place| entries(Path::new(place)));
    let paths = entries.map(|path| path.to_string_lossy().into_owned());
    paths.filter(|path| path.contains("skep")).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Cgroups of the cluster under every controller.
fn cgroups(tag: &str) -> impl Iterator<Item = PathBuf> {
    let name = format!("skep-dev{tag}");
    let top = Path::new("/sys/fs/cgroup");
    let mut places = entries(top);
    places.push(top.to_owned());
    places
        .into_iter()
        .map(move |place| place.join(&name))
        .filter(|path| path.is_dir())
}

/// Processes that name the cluster's directory or live in its cgroups.
pub fn processes(root: &Path) -> Vec<String> {
    let (name, tag) = (root.to_string_lossy().into_owned(), tag(root));
    let mut found = Vec::new();
    for directory in entries(Path::new("/proc")) {
        let Some(pid) = directory
            .file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok())
        else {
            continue;
        };
        let command = fs::read(directory.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let cgroup = fs::read_to_string(directory.join("cgroup")).unwrap_or_default();
        let is_us = pid == std::process::id();
        if !is_us && (command.contains(&name) || cgroup.contains(&format!("skep-dev{tag}/"))) {
            found.push(format!("{pid} {command}"));
        }
    }
    found
}
