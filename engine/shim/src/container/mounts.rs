//! Binds, volumes and tmpfs a container asked for.

use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use crate::config::{Mount, MountKind, Propagation};
use crate::container::copy_up;
use crate::container::mapped::Mapping;
use crate::container::place::{self, Kind};
use crate::failure::{Context as _, failure};
use crate::protocol::StartFailure;
use crate::sys;

/// What docker puts before the options of a `--tmpfs`.
const TMPFS_DEFAULTS: &str = "noexec,nosuid,nodev";

/// A mount whose source is at hand, waiting for its place.
pub struct Pending<'a> {
    mount: &'a Mount,
    /// The tree, when it had to be taken early.
    tree: Option<OwnedFd>,
    /// Whether the container has a user namespace of its own.
    mapped: bool,
}

/// Takes what must be taken while this namespace still is the host's peer: trees
/// that go on sharing mounts with the host. In a user namespace all are taken, as only
/// the host may open their sources and map their ids.
pub fn collect<'a>(
    mounts: &'a [Mount],
    mapping: Option<&Mapping<'_>>,
) -> Result<Vec<Pending<'a>>, StartFailure> {
    mounts
        .iter()
        .map(|mount| {
            let tree = match (&mount.kind, mapping) {
                (MountKind::Bind { .. }, Some(mapping)) => Some(mapped_tree(mount, mapping)?),
                (
                    MountKind::Bind {
                        propagation: Propagation::Shared | Propagation::Rshared,
                        ..
                    },
                    None,
                ) => Some(bind_tree(mount)?),
                _ => None,
            };
            Ok(Pending {
                mount,
                tree,
                mapped: mapping.is_some(),
            })
        })
        .collect()
}

fn mapped_tree(mount: &Mount, mapping: &Mapping<'_>) -> Result<OwnedFd, StartFailure> {
    let tree = bind_tree(mount)?;
    if let MountKind::Bind {
        source,
        non_recursive,
        idmapped: true,
        ..
    } = &mount.kind
    {
        sys::map_ids(tree.as_fd(), mapping.namespace, !non_recursive)
            .context(|| format!("mapping the ids of {}", source.display()))?;
    }
    Ok(tree)
}

/// Puts all mounts in their places below the root.
pub fn attach_all(root: BorrowedFd<'_>, pending: Vec<Pending<'_>>) -> Result<(), StartFailure> {
    for Pending {
        mount,
        tree,
        mapped,
    } in pending
    {
        match &mount.kind {
            MountKind::Bind { .. } => attach_bind(root, mount, tree, mapped)?,
            MountKind::Tmpfs { options } => attach_tmpfs(root, mount, options)?,
        }
    }
    Ok(())
}

fn attach_bind(
    root: BorrowedFd<'_>,
    mount: &Mount,
    tree: Option<OwnedFd>,
    mapped: bool,
) -> Result<(), StartFailure> {
    let MountKind::Bind {
        source,
        subpath: _,
        propagation,
        non_recursive,
        copy_up,
        idmapped: _,
        flags,
    } = &mount.kind
    else {
        return Err(failure("not a bind"));
    };
    let doing = || {
        format!(
            "error mounting \"{}\" to rootfs at \"{}\"",
            source.display(),
            mount.target
        )
    };
    if *copy_up {
        // Through the mount where there is one, as it maps ids.
        let volume = match &tree {
            Some(tree) => format!("/proc/self/fd/{}", tree.as_raw_fd()).into(),
            None => source.clone(),
        };
        copy_up::fill(root, &mount.target, &volume).context(|| {
            format!(
                "failed to populate volume {} from {}",
                source.display(),
                mount.target
            )
        })?;
    }
    let tree = match tree {
        Some(tree) => tree,
        None => bind_tree(mount)?,
    };
    let is_directory = is_directory(tree.as_fd()).context(doing)?;
    let kind = if is_directory {
        Kind::Directory
    } else {
        Kind::File
    };
    let (flag, recursive) = propagation_flag(*propagation);
    if mapped && flag == libc::MS_SHARED {
        // What is mounted in a user namespace must not reach the host.
        sys::set_mount(tree.as_fd(), 0, 0, libc::MS_SLAVE, recursive).context(doing)?;
    }
    sys::set_mount(tree.as_fd(), 0, 0, flag, recursive).context(doing)?;
    let attributes = [
        (mount.readonly, libc::MOUNT_ATTR_RDONLY),
        (flags.nosuid, libc::MOUNT_ATTR_NOSUID),
        (flags.nodev, libc::MOUNT_ATTR_NODEV),
        (flags.noexec, libc::MOUNT_ATTR_NOEXEC),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(0, |all, (_, attribute)| all | attribute);
    if attributes != 0 {
        sys::set_mount(tree.as_fd(), attributes, 0, 0, !non_recursive).context(doing)?;
    }
    let place = place::make(root, &mount.target, kind)?;
    check_place(root, place.as_fd(), tree.as_fd(), &mount.target)?;
    if self::is_directory(place.as_fd()).context(doing)? != is_directory {
        return Err(failure(format!(
            "{}: not a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type",
            doing()
        )));
    }
    sys::attach_mount(tree.as_fd(), place.as_fd()).context(doing)
}

/// Files of `/proc` that may be replaced: those that programs like to see made up.
const MADE_UP: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "net/dev",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// Refuses to cover the container's `/proc`, where what is hidden, protected and written
/// would be somebody else's then. A view of processes may be there.
fn check_place(
    root: BorrowedFd<'_>,
    place: BorrowedFd<'_>,
    mount: BorrowedFd<'_>,
    target: &str,
) -> Result<(), StartFailure> {
    let doing = || format!("checking the place of the mount at \"{target}\"");
    if sys::file_system(place).context(doing)? != sys::PROC_MAGIC {
        // `/proc` itself would be on procfs, as everything below it.
        return Ok(());
    }
    let identity =
        |file: BorrowedFd<'_>| sys::fstat(file).map(|status| (status.st_dev, status.st_ino));
    let here = identity(place).context(doing)?;
    let is = |path: &str| {
        place::open(root, path)
            .and_then(|found| identity(found.as_fd()))
            .is_ok_and(|found| found == here)
    };
    // Another one than the container's, say below a bound root of the host, is no concern.
    let device = |file: BorrowedFd<'_>| sys::fstat(file).map(|status| status.st_dev);
    let proc = place::open(root, "/proc").context(doing)?;
    if device(proc.as_fd()).context(doing)? != device(place).context(doing)? {
        return Ok(());
    }
    let own = identity(place).context(doing)? != identity(mount).context(doing)?;
    let view = own && sys::file_system(mount).context(doing)? == sys::PROC_MAGIC;
    if (is("/proc") && view) || MADE_UP.iter().any(|name| is(&format!("/proc/{name}"))) {
        return Ok(());
    }
    Err(failure(format!(
        "\"{target}\" cannot be mounted because it is inside /proc"
    )))
}

fn is_directory(place: BorrowedFd<'_>) -> std::io::Result<bool> {
    Ok(sys::fstat(place)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

fn bind_tree(mount: &Mount) -> Result<OwnedFd, StartFailure> {
    let MountKind::Bind {
        source,
        subpath,
        non_recursive,
        ..
    } = &mount.kind
    else {
        return Err(failure("not a bind"));
    };
    let opened = sys::open(source, libc::O_PATH).map_err(|error| {
        let text = match error.kind() {
            std::io::ErrorKind::NotFound => format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                source.display()
            ),
            _ => format!("open {}: {}", source.display(), sys::errno_text(&error)),
        };
        failure(text)
    })?;
    let opened = match subpath.as_os_str().is_empty() {
        true => opened,
        false => {
            let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
            sys::openat2(opened.as_fd(), subpath, libc::O_PATH, 0, resolve)
                .context(|| format!("cannot access path {}", source.join(subpath).display()))?
        }
    };
    sys::clone_tree(opened.as_fd(), !non_recursive)
        .context(|| format!("cloning the mounts at {}", source.display()))
}

fn propagation_flag(propagation: Propagation) -> (u64, bool) {
    match propagation {
        Propagation::Private => (libc::MS_PRIVATE, false),
        Propagation::Rprivate => (libc::MS_PRIVATE, true),
        Propagation::Slave => (libc::MS_SLAVE, false),
        Propagation::Rslave => (libc::MS_SLAVE, true),
        Propagation::Shared => (libc::MS_SHARED, false),
        Propagation::Rshared => (libc::MS_SHARED, true),
    }
}

fn attach_tmpfs(root: BorrowedFd<'_>, mount: &Mount, options: &str) -> Result<(), StartFailure> {
    let doing = || format!("error mounting \"tmpfs\" to rootfs at \"{}\"", mount.target);
    let place = place::make(root, &mount.target, Kind::Directory)?;
    check_place(root, place.as_fd(), place.as_fd(), &mount.target)?;
    // Without a mode of its own it gets that of what it covers, as docker does.
    let covered = sys::fstat(place.as_fd()).context(doing)?.st_mode & 0o7777;
    let parsed = TmpfsOptions::parse(options, covered)
        .map_err(|option| failure(format!("invalid tmpfs option [\"{option}\"]")))?;
    let flags = parsed.flags | if mount.readonly { libc::MS_RDONLY } else { 0 };
    let data = CString::new(parsed.data).map_err(|_| failure("zero byte in tmpfs options"))?;
    let at = sys::c_path(format!("/proc/self/fd/{}", place.as_raw_fd())).context(doing)?;
    sys::mount(c"tmpfs", &at, c"tmpfs", flags, &data).context(doing)
}

#[derive(Debug, PartialEq, Eq)]
struct TmpfsOptions {
    flags: u64,
    data: String,
}

impl TmpfsOptions {
    /// Flags from words, the rest as data. An unknown word is the error.
    fn parse(options: &str, default_mode: u32) -> Result<Self, String> {
        let mut flags = 0;
        let mut data = Vec::new();
        for option in TMPFS_DEFAULTS.split(',').chain(options.split(',')) {
            match option {
                "" | "defaults" | "rw" | "async" => {}
                "ro" => flags |= libc::MS_RDONLY,
                "exec" => flags &= !libc::MS_NOEXEC,
                "noexec" => flags |= libc::MS_NOEXEC,
                "suid" => flags &= !libc::MS_NOSUID,
                "nosuid" => flags |= libc::MS_NOSUID,
                "dev" => flags &= !libc::MS_NODEV,
                "nodev" => flags |= libc::MS_NODEV,
                "sync" => flags |= libc::MS_SYNCHRONOUS,
                "dirsync" => flags |= libc::MS_DIRSYNC,
                "atime" => flags &= !libc::MS_NOATIME,
                "noatime" => flags |= libc::MS_NOATIME,
                "diratime" => flags &= !libc::MS_NODIRATIME,
                "nodiratime" => flags |= libc::MS_NODIRATIME,
                "relatime" => flags |= libc::MS_RELATIME,
                "strictatime" => flags |= libc::MS_STRICTATIME,
                other => match other.split_once('=') {
                    Some((
                        "size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol"
                        | "huge",
                        _,
                    )) => data.push(other.to_owned()),
                    _ => return Err(other.to_owned()),
                },
            }
        }
        if !data.iter().any(|option| option.starts_with("mode=")) {
            data.push(format!("mode={default_mode:o}"));
        }
        Ok(Self {
            flags,
            data: data.join(","),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_is_locked_down_unless_asked_otherwise() {
        let parsed = TmpfsOptions::parse("size=64m,exec", 0o1777).unwrap();
        assert_eq!(parsed.flags, libc::MS_NOSUID | libc::MS_NODEV);
        assert_eq!(parsed.data, "size=64m,mode=1777");
        assert_eq!(
            TmpfsOptions::parse("mode=700", 0o755).unwrap().data,
            "mode=700"
        );
        assert_eq!(TmpfsOptions::parse("fly", 0), Err("fly".into()));
    }
}
