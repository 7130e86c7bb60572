//! Device nodes of a container, and the rules that say which it may use.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::config::{Device, ShimConfig};
use crate::container::place::{self, Kind};
use crate::failure::{Context as _, failure};
use crate::protocol::StartFailure;
use crate::sys;

/// Nodes every container has: name, major and minor number.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Links every container has.
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// What docker lets every container do: make any node, and use the harmless ones
/// and terminals.
const RULES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Directories below `/dev` that are not the host's to give.
const NOT_GIVEN: [&str; 6] = ["pts", "shm", "fd", "mqueue", ".lxc", ".udev"];
/// Most nodes a privileged container, or a directory of devices, brings along.
const NODES_MAX: usize = 4096;

/// A node to be made.
struct Node {
    /// On the host.
    host: PathBuf,
    /// In the container.
    path: PathBuf,
    block: bool,
    number: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The host's nodes, to be shown in a container that may not make any.
pub struct Gathered {
    nodes: Vec<(PathBuf, OwnedFd)>,
}

/// Takes the host's nodes, each looked at after it was opened.
pub fn gather(config: &ShimConfig) -> Result<Gathered, StartFailure> {
    let mut nodes = Vec::new();
    let mut take = |host: &Path, inside: PathBuf, number: Option<u64>| {
        let doing = || format!("showing device {}", host.display());
        let node = sys::open(host, libc::O_PATH | libc::O_NOFOLLOW).context(doing)?;
        let status = sys::fstat(node.as_fd()).context(doing)?;
        let kind = status.st_mode & libc::S_IFMT;
        let is_device = matches!(kind, libc::S_IFCHR | libc::S_IFBLK);
        if !is_device || number.is_some_and(|number| number != status.st_rdev) {
            return Err(failure(format!("{}: it is not that device", doing())));
        }
        let tree = sys::clone_tree(node.as_fd(), false).context(doing)?;
        sys::set_mount(tree.as_fd(), 0, 0, libc::MS_PRIVATE, false).context(doing)?;
        nodes.push((inside, tree));
        Ok(())
    };
    for (name, major, minor) in NODES {
        let path = Path::new("/dev").join(name);
        take(&path, path.clone(), Some(libc::makedev(major, minor)))?;
    }
    for device in &config.devices {
        for node in nodes_of(device)? {
            take(&node.host, node.path, Some(node.number))?;
        }
    }
    Ok(Gathered { nodes })
}

/// Makes the nodes and links below the container's `/dev`, or shows the host's.
pub fn make_all(
    root: BorrowedFd<'_>,
    config: &ShimConfig,
    gathered: Option<Gathered>,
) -> Result<(), StartFailure> {
    let dev = place::open(root, "/dev").context(|| "open /dev")?;
    // Not every kernel shows its memory.
    let has_core = std::path::Path::new("/proc/kcore").exists();
    for (target, name) in LINKS {
        if name == "core" && !has_core {
            continue;
        }
        nix::unistd::symlinkat(target, dev.as_fd(), name)
            .context(|| format!("creating link /dev/{name}"))?;
    }
    let Some(gathered) = gathered else {
        return make_nodes(root, config);
    };
    for (path, tree) in gathered.nodes {
        place::attach(root, tree.as_fd(), &path.to_string_lossy(), Kind::File)?;
    }
    Ok(())
}

fn make_nodes(root: BorrowedFd<'_>, config: &ShimConfig) -> Result<(), StartFailure> {
    for (name, major, minor) in NODES {
        make_node(
            root,
            &Node {
                host: PathBuf::new(),
                path: Path::new("/dev").join(name),
                block: false,
                number: libc::makedev(major, minor),
                mode: 0o666,
                uid: 0,
                gid: 0,
            },
        )?;
    }
    let mut nodes = Vec::new();
    if config.privileged {
        collect(Path::new("/dev"), Path::new("/dev"), &mut nodes)
            .context(|| "listing the host's devices")?;
    }
    for device in &config.devices {
        nodes.extend(nodes_of(device)?);
    }
    nodes.iter().try_for_each(|node| make_node(root, node))
}

/// The device rules of a container; `None` allows everything.
///
/// # Errors
/// A device does not exist, or a rule is not in docker's form.
pub fn rules(config: &ShimConfig) -> Result<Option<Vec<String>>, StartFailure> {
    if config.privileged {
        return Ok(None);
    }
    let mut rules: Vec<String> = RULES.iter().map(|&rule| rule.to_owned()).collect();
    for device in &config.devices {
        let permissions = match device.permissions.as_str() {
            "" => "rwm",
            given if given.chars().all(|letter| "rwm".contains(letter)) => given,
            given => return Err(failure(format!("invalid device mode: {given}"))),
        };
        for node in nodes_of(device)? {
            rules.push(format!(
                "{} {}:{} {permissions}",
                if node.block { 'b' } else { 'c' },
                libc::major(node.number),
                libc::minor(node.number)
            ));
        }
    }
    for rule in &config.device_cgroup_rules {
        if !is_rule(rule) {
            return Err(failure(format!(
                "invalid device cgroup rule format: '{rule}'"
            )));
        }
        rules.push(rule.clone());
    }
    Ok(Some(rules))
}

/// `a|b|c MAJOR:MINOR rwm`, numbers may be `*`.
fn is_rule(rule: &str) -> bool {
    let words: Vec<&str> = rule.split(' ').collect();
    let [kind, numbers, permissions] = words[..] else {
        return false;
    };
    let number = |text: &str| text == "*" || (!text.is_empty() && text.parse::<u32>().is_ok());
    matches!(kind, "a" | "b" | "c")
        && numbers
            .split_once(':')
            .is_some_and(|(major, minor)| number(major) && number(minor))
        && (1..=3).contains(&permissions.len())
        && permissions.chars().all(|letter| "rwm".contains(letter))
}

fn nodes_of(device: &Device) -> Result<Vec<Node>, StartFailure> {
    let host = &device.path_on_host;
    let inside = match device.path_in_container.as_str() {
        "" => host.clone(),
        path => PathBuf::from(path),
    };
    let missing = || {
        format!(
            "error gathering device information while adding custom device \"{}\"",
            host.display()
        )
    };
    if let Some(number) = device.number {
        return Ok(vec![Node {
            host: host.clone(),
            path: inside,
            block: number.block,
            number: libc::makedev(number.major, number.minor),
            mode: device.mode.unwrap_or(0o666),
            uid: device.uid.unwrap_or(0),
            gid: device.gid.unwrap_or(0),
        }]);
    }
    let status = fs::metadata(host).context(missing)?;
    let mut nodes = Vec::new();
    if status.is_dir() {
        collect(host, &inside, &mut nodes).context(missing)?;
    } else if let Some(node) = node(&status, fs::canonicalize(host).context(missing)?, inside) {
        nodes.push(node);
    }
    if nodes.is_empty() {
        return Err(failure(format!("{}: not a device node", missing())));
    }
    for node in &mut nodes {
        node.mode = device.mode.unwrap_or(node.mode);
        node.uid = device.uid.unwrap_or(node.uid);
        node.gid = device.gid.unwrap_or(node.gid);
    }
    Ok(nodes)
}

fn node(status: &fs::Metadata, host: PathBuf, path: PathBuf) -> Option<Node> {
    let kind = status.file_type();
    let block = kind.is_block_device();
    (block || kind.is_char_device()).then(|| Node {
        host,
        path,
        block,
        number: status.rdev(),
        mode: status.mode() & 0o7777,
        uid: status.uid(),
        gid: status.gid(),
    })
}

/// All device nodes below a directory of the host. Links are left out, and so is
/// what vanishes meanwhile.
fn collect(host: &Path, inside: &Path, nodes: &mut Vec<Node>) -> io::Result<()> {
    for entry in fs::read_dir(host)? {
        let entry = entry?;
        let name = entry.file_name();
        let Ok(status) = entry.metadata() else {
            continue;
        };
        if status.is_dir() {
            if !NOT_GIVEN.iter().any(|given| name == *given) {
                collect(&entry.path(), &inside.join(&name), nodes)?;
            }
        } else if name != "console"
            && let Some(node) = node(&status, entry.path(), inside.join(&name))
        {
            nodes.push(node);
        }
        if nodes.len() > NODES_MAX {
            return Err(io::Error::other(format!(
                "more than {NODES_MAX} device nodes"
            )));
        }
    }
    Ok(())
}

fn make_node(root: BorrowedFd<'_>, node: &Node) -> Result<(), StartFailure> {
    use nix::sys::stat::{Mode, SFlag, mknodat};
    let doing = || format!("creating device node {}", node.path.display());
    let (Some(parent), Some(name)) = (node.path.parent(), node.path.file_name()) else {
        return Err(failure(doing()));
    };
    let parent = place::make_directories(root, parent).context(doing)?;
    let kind = if node.block {
        SFlag::S_IFBLK
    } else {
        SFlag::S_IFCHR
    };
    let mode = Mode::from_bits_truncate(node.mode);
    match mknodat(&parent, name, kind, mode, node.number) {
        // The default ones come first; a second wish for the same is granted.
        Err(nix::errno::Errno::EEXIST) => return Ok(()),
        result => result.context(doing)?,
    }
    nix::unistd::fchownat(
        &parent,
        name,
        Some(node.uid.into()),
        Some(node.gid.into()),
        nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_dockers_form() {
        for good in ["c 1:3 rwm", "b *:* m", "a *:* rw", "c 42:* r"] {
            assert!(is_rule(good), "{good}");
        }
        for bad in [
            "c 1 rwm", "d 1:3 r", "c 1:3", "c 1:3 x", "c a:b r", "c 1:3 ",
        ] {
            assert!(!is_rule(bad), "{bad}");
        }
    }
}
