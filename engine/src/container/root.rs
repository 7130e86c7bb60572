//! A container's root file system as directories: layers, the init layer with
//! the places that every container needs, the writable layer.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::unistd::{Gid, Uid};

use super::{Container, ContainerRecord};
use crate::engine::Engine;
use crate::error::{IoContext as _, Result};
use crate::record;
use crate::tree::unpack::open_lower;
use crate::tree::{self, Live, Root};

/// Places that must exist in every container, so that mounting over them does
/// not show up as a change of the container's.
const DIRECTORIES: [&str; 6] = ["dev", "dev/pts", "dev/shm", "proc", "sys", "etc"];
const FILES: [&str; 5] = [
    ".dockerenv",
    "dev/console",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
];

/// The directories of one container.
#[derive(Debug, Clone)]
pub(crate) struct RootPaths {
    /// Topmost first, the init layer included.
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    /// Where it is mounted, in private.
    pub(crate) merged: PathBuf,
}

impl Engine {
    /// Where a container's files are.
    pub(crate) fn root_paths(&self, directory: &Path, record: &ContainerRecord) -> RootPaths {
        let mut lower = vec![directory.join("init")];
        lower.extend(
            record
                .chain
                .iter()
                .rev()
                .map(|chain| self.images.layers.files(chain)),
        );
        RootPaths {
            lower,
            upper: directory.join("upper"),
            work: directory.join("work"),
            merged: directory.join("merged"),
        }
    }

    /// Makes the directories of a new container. Blocking.
    pub(crate) fn make_root(&self, directory: &Path, record: &ContainerRecord) -> Result<()> {
        let paths = self.root_paths(directory, record);
        for path in [&paths.upper, &paths.merged, &directory.join("init")] {
            record::make_directory(path, 0o755)?;
        }
        record::make_directory(&paths.work, 0o700)?;
        let what = || "cannot make the init layer".to_owned();
        let layers = open_lower(&paths.lower[1..]).during(what)?;
        // The writable layer's root is what the container sees as `/` itself.
        if let Some(Seen::There(root)) = look(&layers, Path::new(".")) {
            dress(&paths.upper, &root).during(what)?;
            dress(&paths.lower[0], &root).during(what)?;
        }
        make_init(&layers, &paths.lower[0]).during(what)
    }

    /// The container's files for looking and copying: through its process while
    /// it runs, else mounted for the purpose. `writable` asks for a place to
    /// write to.
    pub(crate) fn root_of(&self, container: &Container, writable: bool) -> Result<Root> {
        let (record, pid) = {
            let inner = container.lock();
            let live = inner.record.state.status.is_live();
            (inner.record.clone(), live.then_some(inner.record.state.pid))
        };
        // Where that fails, it ended just now.
        if let Some(pid) = pid
            && let Ok(live) = Live::open(pid, record.run_ids.clone())
        {
            return Ok(Root::Live(live));
        }
        let paths = self.root_paths(&container.directory, &record);
        let binds = record
            .mounts
            .iter()
            .filter(|mount| mount.tmpfs.is_none() && mount.source.exists())
            .map(|mount| tree::Bind {
                source: mount.source.clone(),
                subpath: mount.subpath.clone(),
                inside: PathBuf::from(&mount.point.destination),
                readonly: !mount.point.rw,
            })
            .collect();
        let (mut lower, mut upper) = (paths.lower, Some((paths.upper, paths.work)));
        // For looking only, the writable layer is one more below nothing.
        if !writable && let Some((top, _)) = upper.take() {
            lower.insert(0, top);
        }
        Ok(Root::Mounted {
            lower,
            upper,
            at: paths.merged,
            binds,
        })
    }

    /// Runs `work` with the container's files as `/`. Blocking.
    pub(crate) fn inside<T, F>(&self, container: &Container, writable: bool, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        tree::confined(self.root_of(container, writable)?, work)
    }
}

/// What a name is in a stack of layers.
pub(super) enum Seen {
    There(FileStat),
    Hidden,
}

pub(super) fn look(layers: &[OwnedFd], path: &Path) -> Option<Seen> {
    for layer in layers {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let found = match openat2(layer, path, how) {
            Ok(found) => found,
            // A link on the way: whatever it leads to, it is not ours to shadow.
            Err(nix::errno::Errno::ELOOP) => return Some(Seen::Hidden),
            Err(_) => continue,
        };
        let stat = fstat(&found).ok()?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFCHR && stat.st_rdev == 0 {
            return None;
        }
        return Some(Seen::There(stat));
    }
    None
}

fn is_directory(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

fn dress(path: &Path, like: &FileStat) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    nix::unistd::chown(
        path,
        Some(Uid::from_raw(like.st_uid)),
        Some(Gid::from_raw(like.st_gid)),
    )?;
    fs::set_permissions(path, fs::Permissions::from_mode(like.st_mode & 0o7777))
}

/// Makes what the image lacks.
fn make_init(layers: &[OwnedFd], init: &Path) -> io::Result<()> {
    for directory in DIRECTORIES {
        if look(layers, Path::new(directory)).is_none() {
            make_parents(layers, init, Path::new(directory))?;
        }
    }
    for file in FILES {
        let path = Path::new(file);
        if look(layers, path).is_some() || !make_above(layers, init, path)? {
            continue;
        }
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o755)
            .open(init.join(path))?;
    }
    let mtab = Path::new("etc/mtab");
    if look(layers, mtab).is_none() && make_above(layers, init, mtab)? {
        match std::os::unix::fs::symlink("/proc/mounts", init.join(mtab)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Makes the directories above a path; false when the image has something else
/// than a directory there.
fn make_above(layers: &[OwnedFd], init: &Path, path: &Path) -> io::Result<bool> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => make_parents(layers, init, parent),
        _ => Ok(true),
    }
}

fn make_parents(layers: &[OwnedFd], init: &Path, path: &Path) -> io::Result<bool> {
    let mut so_far = PathBuf::new();
    for component in path.components() {
        so_far.push(component);
        let like = match look(layers, &so_far) {
            Some(Seen::Hidden) => return Ok(false),
            Some(Seen::There(stat)) if !is_directory(&stat) => return Ok(false),
            Some(Seen::There(stat)) => Some(stat),
            None => None,
        };
        let place = init.join(&so_far);
        match DirBuilder::new().mode(0o755).create(&place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made?;
                if let Some(like) = like {
                    dress(&place, &like)?;
                }
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_init_layer_adds_only_what_is_missing() {
        let base = tempfile::tempdir().unwrap();
        let (layer, init) = (base.path().join("layer"), base.path().join("init"));
        fs::create_dir_all(layer.join("etc")).unwrap();
        fs::create_dir_all(&init).unwrap();
        fs::write(layer.join("etc/hosts"), "image's").unwrap();
        std::os::unix::fs::symlink("etc", layer.join("dev")).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(layer.join("etc"), fs::Permissions::from_mode(0o711)).unwrap();

        make_init(&open_lower(std::slice::from_ref(&layer)).unwrap(), &init).unwrap();
        assert!(!init.join("etc/hosts").exists());
        assert!(init.join("etc/resolv.conf").exists());
        assert!(init.join("proc").is_dir());
        assert!(!init.join("dev").exists(), "a link is not shadowed");
        let mode = fs::metadata(init.join("etc")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o711);
    }
}
