//! Runs code that sees one directory as `/`, so that no path in an archive and no
//! link in a container's files can lead anywhere else.
//!
//! A thread of its own leaves the process's shared file system context
//! (`CLONE_FS`), changes its root and then does the work. `openat2` with
//! `RESOLVE_IN_ROOT` would do for single paths, but not for the many calls of a
//! recursive walk.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use skep_shim::userns::IdMap;

use crate::error::{EngineError, IoContext as _, Result};

/// Which directory becomes `/`.
#[derive(Debug)]
pub(crate) enum Root {
    /// A directory of the host.
    Directory(PathBuf),
    /// What a running container sees.
    Live(Live),
    /// An overlay and binds mounted for this purpose, in a mount namespace of the
    /// thread's own. Nothing of it is seen elsewhere or left behind.
    Mounted {
        /// Topmost first.
        lower: Vec<PathBuf>,
        /// Upper and work directory; without them the overlay is read-only.
        upper: Option<(PathBuf, PathBuf)>,
        /// An existing empty directory.
        at: PathBuf,
        binds: Vec<Bind>,
    },
}

/// A directory or file of the host that is seen inside.
#[derive(Debug)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    /// What of it, if not all; links may not lead out of it.
    pub(crate) subpath: PathBuf,
    /// Where it is seen.
    pub(crate) inside: PathBuf,
    pub(crate) readonly: bool,
}

/// A running container from inside, but for its views of processes: links in there could
/// lead anywhere a process of another container or of the host is.
#[derive(Debug)]
pub(crate) struct Live {
    namespace: File,
    /// Ids of the host that its users are: what is made belongs to its root.
    ids: Option<IdMap>,
}

impl Live {
    /// The container that this process is in.
    pub(crate) fn open(pid: i64, ids: Option<IdMap>) -> io::Result<Self> {
        let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
        Ok(Self { namespace, ids })
    }

    fn enter(self) -> Result<()> {
        let what = || "cannot enter the container's files".to_owned();
        let thread = File::open("/proc/thread-self").during(what)?;
        unshare(CloneFlags::CLONE_FS).during(what)?;
        // Moves root and working directory of this thread to those of the namespace.
        setns(&self.namespace, CloneFlags::CLONE_NEWNS).during(what)?;
        unshare(CloneFlags::CLONE_NEWNS).during(what)?;
        separate()?;
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mounts = openat(&thread, "mountinfo", flags, Mode::empty()).during(what)?;
        let mounts = io::read_to_string(File::from(mounts)).during(what)?;
        for view in process_views(&mounts) {
            // Not taken off, which in another user namespace is not allowed: covered. One
            // that is below another is covered with it.
            let covered = mount(
                Some("none"),
                &view,
                Some("tmpfs"),
                MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some("size=0,mode=555"),
            );
            match covered {
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                covered => covered.during(|| format!("cannot cover `{}`", view.display()))?,
            }
        }
        match &self.ids {
            Some(ids) => become_root_of(ids).during(|| "cannot act as the container's root".into()),
            None => Ok(()),
        }
    }
}

/// The places of `proc` in the text of a `mountinfo`.
fn process_views(mounts: &str) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let place = mount.split(' ').nth(4)?;
            (kind.split(' ').next() == Some("proc")).then(|| unescaped(place))
        })
        .collect()
}

/// The kernel writes blanks and backslashes as `\040` and so on.
fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// Keeps what this thread mounts to itself.
fn separate() -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .during(|| "cannot separate mounts".into())
}

impl Root {
    /// The ids that files show there, if not their own.
    pub(crate) fn ids(&self) -> Option<IdMap> {
        match self {
            Self::Live(live) => live.ids.clone(),
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
        Root::Live(live) => live.enter(),
        Root::Mounted {
            lower,
            upper,
            at,
            binds,
        } => {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
                .during(|| "cannot make a mount namespace".into())?;
            separate()?;
            mount_overlay(&lower, upper.as_ref(), &at)?;
            for wanted in binds {
                bind(&wanted, &at, upper.is_some())?;
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
fn bind(wanted: &Bind, root: &Path, writable: bool) -> Result<()> {
    let Bind {
        source,
        subpath,
        inside,
        readonly,
    } = wanted;
    let what = || format!("cannot show `{}`", source.display());
    let none = None::<&str>;
    let opened = nix::fcntl::open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let mut opened = opened.during(what)?;
    if !subpath.as_os_str().is_empty() {
        let beneath = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        opened = openat2(&opened, subpath, beneath).during(what)?;
    }
    let opened = File::from(opened);
    let is_directory = opened.metadata().during(what)?.is_dir();
    let directory = File::open(root).during(|| format!("cannot open `{}`", root.display()))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let relative = inside.strip_prefix("/").unwrap_or(inside);
    let place = match openat2(&directory, relative, how) {
        Err(Errno::ENOENT) if writable => {
            // As the start of the container would.
            make_place(&directory, relative, is_directory);
            openat2(&directory, relative, how)
        }
        found => found,
    };
    // A mount without a place has nothing to show.
    let Ok(target) = place else {
        return Ok(());
    };
    let target = format!("/proc/self/fd/{}", target.as_raw_fd());
    let opened = format!("/proc/self/fd/{}", opened.as_raw_fd());
    mount(
        Some(opened.as_str()),
        target.as_str(),
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .during(what)?;
    if !readonly {
        return Ok(());
    }
    // The same path now leads to what was mounted there.
    let mounted = openat2(&directory, relative, how).during(what)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    let mounted = format!("/proc/self/fd/{}", mounted.as_raw_fd());
    mount(none, mounted.as_str(), none, flags, none).during(what)
}

/// Makes a directory or an empty file, and the directories above it, below `root`; links on the way are
/// followed inside only. What cannot be made stays away.
fn make_place(root: &File, relative: &Path, is_directory: bool) {
    use nix::sys::stat::mkdirat;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_of_processes_are_found_whatever_they_are_called() {
        let mounts = "22 27 0:21 / / rw - overlay overlay rw\n\
            23 22 0:22 / /proc rw,relatime shared:5 - proc proc rw\n\
            24 23 0:22 /sys /proc/sys ro - proc proc rw\n\
            25 22 0:30 / /a\\040b\\134c rw - proc none rw\n\
            26 22 0:31 / /sys ro - sysfs sysfs rw\n";
        let views = process_views(mounts);
        assert_eq!(views, ["/proc", "/proc/sys", "/a b\\c"].map(PathBuf::from));
    }
}
