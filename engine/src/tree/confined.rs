//! Runs code that sees one directory as `/`, so that no path in an archive and no
//! link in a container's files can lead anywhere else.
//!
//! A thread of its own leaves the process's shared file system context
//! (`CLONE_FS`), changes its root and then does the work. `openat2` with
//! `RESOLVE_IN_ROOT` would do for single paths, but not for the many calls of a
//! recursive walk.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use skep_shim::userns::IdMap;

use crate::error::{EngineError, IoContext as _, Result};

/// Which directory becomes `/`.
#[derive(Debug)]
pub(crate) enum Root {
    /// A directory of the host.
    Directory(PathBuf),
    /// An open directory (of another mount namespace, perhaps).
    Open(OwnedFd),
    /// The open root of a container whose users are these ids of the host: what is made
    /// there belongs to its root.
    Mapped(OwnedFd, IdMap),
    /// An overlay and binds mounted for this purpose, in a mount namespace of the
    /// thread's own. Nothing of it is seen elsewhere or left behind.
    Mounted {
        /// Topmost first.
        lower: Vec<PathBuf>,
        /// Upper and work directory; without them the overlay is read-only.
        upper: Option<(PathBuf, PathBuf)>,
        /// An existing empty directory.
        at: PathBuf,
        /// Host path, path inside, read-only.
        binds: Vec<(PathBuf, PathBuf, bool)>,
    },
}

impl Root {
    /// The ids that files show there, if not their own.
    pub(crate) fn ids(&self) -> Option<IdMap> {
        match self {
            Self::Mapped(_, ids) => Some(ids.clone()),
            _ => None,
        }
    }
}

/// Runs `work` with the current directory and root at `root`, and waits for it.
/// Blocking.
pub(crate) fn confined<T, F>(root: Root, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let thread = std::thread::Builder::new()
        .name("confined".into())
        .spawn(move || {
            enter(root)?;
            work()
        })
        .during(|| "cannot start a thread".into())?;
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn enter(root: Root) -> Result<()> {
    match root {
        Root::Directory(path) => {
            unshare(CloneFlags::CLONE_FS).during(|| "cannot leave the root directory".into())?;
            change_root(&path)
        }
        Root::Open(fd) => {
            unshare(CloneFlags::CLONE_FS).during(|| "cannot leave the root directory".into())?;
            nix::unistd::fchdir(&fd).during(|| "cannot enter the container's files".into())?;
            change_root(Path::new("."))
        }
        Root::Mapped(fd, ids) => {
            enter(Root::Open(fd))?;
            become_root_of(&ids).during(|| "cannot act as the container's root".into())
        }
        Root::Mounted {
            lower,
            upper,
            at,
            binds,
        } => {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
                .during(|| "cannot make a mount namespace".into())?;
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .during(|| "cannot separate mounts".into())?;
            mount_overlay(&lower, upper.as_ref(), &at)?;
            for (source, inside, readonly) in binds {
                bind(&source, &at, &inside, readonly, upper.is_some())?;
            }
            change_root(&at)
        }
    }
}

/// Makes files as root of a container, with all capabilities on the host. For this thread
/// alone, and for the rest of its life: libc's own calls would change all threads.
fn become_root_of(ids: &IdMap) -> io::Result<()> {
    /// Keeps capabilities when ids change.
    const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    let (uid, gid) = ids.root()?;
    // SAFETY: the three calls take integers only and change the calling thread, which
    // does nothing else afterwards.
    let kept = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) };
    if kept != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
    Ok(())
}

fn change_root(path: &Path) -> Result<()> {
    nix::unistd::chroot(path).during(|| format!("cannot enter `{}`", path.display()))?;
    nix::unistd::chdir("/").during(|| format!("cannot enter `{}`", path.display()))
}

/// Mounts an overlay. Lower directories go by descriptor paths, so that any
/// number of them fits into the one page the kernel takes.
fn mount_overlay(lower: &[PathBuf], upper: Option<&(PathBuf, PathBuf)>, at: &Path) -> Result<()> {
    let what = || format!("cannot mount the container's files at `{}`", at.display());
    let mut open = Vec::new();
    for path in lower {
        open.push(File::open(path).during(|| format!("cannot open layer `{}`", path.display()))?);
    }
    if let ([only], None) = (&lower, upper) {
        return mount(
            Some(only.as_path()),
            at,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .during(what);
    }
    let names: Vec<String> = open
        .iter()
        .map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()))
        .collect();
    let mut options = format!("index=off,lowerdir={}", names.join(":"));
    if let Some((upper, work)) = upper {
        let text = |path: &Path| {
            path.to_str()
                .filter(|text| !text.contains([',', ':', '\\']))
                .map(str::to_owned)
                .ok_or_else(|| {
                    EngineError::internal(what()).because("the path has a comma or colon")
                })
        };
        options += &format!(",upperdir={},workdir={}", text(upper)?, text(work)?);
    }
    mount(
        Some("overlay"),
        at,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .during(what)
}

/// Binds a host path at a path inside `root`, which the container's own links
/// must not lead elsewhere. In an overlay that is written to, a place that is not there yet is made.
fn bind(source: &Path, root: &Path, inside: &Path, readonly: bool, writable: bool) -> Result<()> {
    use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
    let directory = File::open(root).during(|| format!("cannot open `{}`", root.display()))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let relative = inside.strip_prefix("/").unwrap_or(inside);
    let opened = match openat2(&directory, relative, how) {
        Err(nix::errno::Errno::ENOENT) if writable => {
            // As the start of the container would.
            make_place(&directory, relative, source.is_dir());
            openat2(&directory, relative, how)
        }
        opened => opened,
    };
    // A mount without a place has nothing to show.
    let Ok(target) = opened else {
        return Ok(());
    };
    let target = format!("/proc/self/fd/{}", target.as_raw_fd());
    let what = || format!("cannot show `{}`", source.display());
    let none = None::<&str>;
    mount(
        Some(source),
        target.as_str(),
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .during(what)?;
    if readonly {
        let place = root.join(relative);
        let _ = mount(
            none,
            &place,
            none,
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY,
            none,
        );
    }
    Ok(())
}

/// Makes a directory or an empty file, and the directories above it, below `root`; links on the way are
/// followed inside only. What cannot be made stays away.
fn make_place(root: &File, relative: &Path, is_directory: bool) {
    use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
    use nix::sys::stat::{Mode, mkdirat};
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let count = relative.components().count();
    let mut so_far = PathBuf::new();
    for (number, part) in relative.components().enumerate() {
        let parent = match so_far.as_os_str().is_empty() {
            true => openat2(root, ".", how),
            false => openat2(root, &so_far, how),
        };
        let (Ok(parent), std::path::Component::Normal(name)) = (parent, part) else {
            return;
        };
        if number + 1 == count && !is_directory {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_WRONLY;
            let _ = openat(&parent, name, flags, Mode::from_bits_truncate(0o644));
        } else {
            let _ = mkdirat(&parent, name, Mode::from_bits_truncate(0o755));
        }
        so_far.push(part);
    }
}
