//! Puts the container's root together, inside its own mount namespace.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use crate::config::{RootSource, Rootfs};
use crate::container::mapped::{self, Mapping};
use crate::failure::{Context as _, failure};
use crate::protocol::StartFailure;
use crate::sys::{self, FsContext};

/// The kernel takes one page of options; what is longer goes through short names.
const OPTIONS_BYTES_MAX: usize = 4000;
/// Most layers; overlayfs itself takes 500.
const LAYERS_MAX: usize = 500;
/// What docker asks of overlayfs, so that the writable layer can be read as a
/// difference: no index, no redirects, no metadata-only copies.
const PLAIN: &str = ",index=off,redirect_dir=off,metacopy=off";

/// Mounts the root at its place and opens it. With a user namespace, the ids of its files
/// are mapped and it becomes the working directory, see [`take_over`].
pub fn mount(rootfs: &Rootfs, mapping: Option<&Mapping<'_>>) -> Result<OwnedFd, StartFailure> {
    match &rootfs.source {
        RootSource::Overlay { lower, upper, work } => {
            check_layers(lower, upper, work)
                .and_then(|()| match mapping {
                    Some(mapping) => mount_mapped(lower, upper, work, &rootfs.merged, mapping),
                    None => mount_overlay(lower, upper, work, &rootfs.merged),
                })
                .context(|| {
                    format!(
                        "error creating overlay mount to {}",
                        rootfs.merged.display()
                    )
                })?;
        }
        RootSource::Directory { path } => {
            let doing = || format!("error mounting root {}", path.display());
            let source = sys::open(path, libc::O_PATH | libc::O_DIRECTORY).context(doing)?;
            let tree = sys::clone_tree(source.as_fd(), true).context(doing)?;
            sys::set_mount(tree.as_fd(), 0, 0, libc::MS_PRIVATE, true).context(doing)?;
            if let Some(mapping) = mapping {
                sys::map_ids(tree.as_fd(), mapping.namespace, true).context(doing)?;
            }
            let place =
                sys::open(&rootfs.merged, libc::O_PATH | libc::O_DIRECTORY).context(doing)?;
            sys::attach_mount(tree.as_fd(), place.as_fd()).context(doing)?;
        }
    }
    let doing = || format!("open {}", rootfs.merged.display());
    let root = sys::open(&rootfs.merged, libc::O_PATH | libc::O_DIRECTORY).context(doing)?;
    if mapping.is_some() {
        change_directory(&root).context(doing)?;
    }
    Ok(root)
}

/// Opens the mounted root, which is the working directory, from inside a new user and
/// mount namespace. Mounts that came along from a more powerful namespace cannot become
/// `/` there: a copy can.
pub fn take_over() -> Result<OwnedFd, StartFailure> {
    let doing = || "taking over the root";
    let place = sys::open(".", libc::O_PATH | libc::O_DIRECTORY).context(doing)?;
    let tree = sys::clone_tree(place.as_fd(), true).context(doing)?;
    sys::attach_mount(tree.as_fd(), place.as_fd()).context(doing)?;
    Ok(tree)
}

fn check_layers(lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<()> {
    if lower.is_empty() || lower.len() > LAYERS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} layers, 1 to {LAYERS_MAX} can be mounted", lower.len()),
        ));
    }
    // Messages of overlayfs name missing directories badly.
    for directory in lower.iter().map(PathBuf::as_path).chain([upper, work]) {
        if !directory.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} is not a directory", directory.display()),
            ));
        }
    }
    Ok(())
}

fn mount_overlay(lower: &[PathBuf], upper: &Path, work: &Path, merged: &Path) -> io::Result<()> {
    let options = options(lower, upper, work);
    if options.len() + PLAIN.len() <= OPTIONS_BYTES_MAX {
        return mount_with(&options, merged);
    }
    let scratch = short_names(lower, upper, work)?;
    let before = sys::open(".", libc::O_PATH | libc::O_DIRECTORY)?;
    change_directory(&scratch)?;
    let short: Vec<PathBuf> = (0..lower.len()).map(|n| n.to_string().into()).collect();
    let options = self::options(&short, Path::new("u"), Path::new("w"));
    let mounted = mount_with(&options, merged);
    change_directory(&before)?;
    mounted
}

/// Mounts layers with mapped ids one by one, and over them the overlay, which itself
/// knows nothing of maps.
fn mount_mapped(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    merged: &Path,
    mapping: &Mapping<'_>,
) -> io::Result<()> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    // The kernel wants both on one mount.
    let writable = upper
        .parent()
        .filter(|parent| work.parent() == Some(parent))
        .ok_or_else(|| invalid("upper and work directory are not in one directory"))?;
    let name = |path: &Path| {
        path.file_name()
            .map(|name| Path::new("c").join(name))
            .ok_or_else(|| invalid("a directory without a name"))
    };
    let place = sys::open(merged, libc::O_PATH | libc::O_DIRECTORY)?;
    // Overlayfs takes attached mounts only: for a moment they are here.
    let scratch = FsContext::new(c"tmpfs")?.mount(0)?;
    sys::attach_mount(scratch.as_fd(), place.as_fd())?;
    let show = |directory: &Path, name: &str| {
        let source = sys::open(directory, libc::O_PATH | libc::O_DIRECTORY)?;
        let tree = sys::clone_tree(source.as_fd(), false)?;
        sys::set_mount(tree.as_fd(), 0, 0, libc::MS_PRIVATE, false)?;
        sys::map_ids(tree.as_fd(), mapping.namespace, false)?;
        sys::mkdirat(scratch.as_fd(), Path::new(name), 0o700)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let place = sys::open_in_root(scratch.as_fd(), Path::new(name), flags, 0)?;
        sys::attach_mount(tree.as_fd(), place.as_fd())
    };
    for (number, layer) in lower.iter().enumerate() {
        show(layer, &number.to_string())?;
    }
    show(writable, "c")?;
    sys::mkdirat(scratch.as_fd(), Path::new("m"), 0o700)?;
    let before = sys::open(".", libc::O_PATH | libc::O_DIRECTORY)?;
    change_directory(&scratch)?;
    let short: Vec<PathBuf> = (0..lower.len()).map(|n| n.to_string().into()).collect();
    let options = options(&short, &name(upper)?, &name(work)?);
    // Who mounts it makes files in the work directory, which only ids of the map can.
    let mounted = mapped::as_root_of(mapping, || mount_with(&options, Path::new("m")))
        .and_then(|()| sys::open("m", libc::O_PATH | libc::O_DIRECTORY))
        .and_then(|root| sys::clone_tree(root.as_fd(), false));
    change_directory(&before)?;
    let mounted = mounted.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::new(
            io::ErrorKind::Unsupported,
            "overlayfs takes no layers with mapped ids here (it needs Linux 5.19): run the container with --userns=host",
        ),
        _ => error,
    })?;
    sys::detach_mount(&sys::c_path(merged)?)?;
    sys::attach_mount(mounted.as_fd(), place.as_fd())
}

fn options(lower: &[PathBuf], upper: &Path, work: &Path) -> String {
    let lower: Vec<String> = lower.iter().map(|path| escaped(path, true)).collect();
    format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        escaped(upper, false),
        escaped(work, false)
    )
}

/// Overlayfs splits at commas, and layers at colons, unless a backslash is before.
fn escaped(path: &Path, in_list: bool) -> String {
    let mut text = String::new();
    for letter in path.to_string_lossy().chars() {
        if matches!(letter, '\\' | ',') || (in_list && letter == ':') {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

fn mount_with(options: &str, merged: &Path) -> io::Result<()> {
    let target = sys::c_path(merged)?;
    let with = |extra: &str| {
        let options = sys::c_path(format!("{options}{extra}"))?;
        sys::mount(c"overlay", &target, c"overlay", 0, &options)
    };
    match with(PLAIN) {
        // A kernel built without one of these options, which then is off anyway.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => with(""),
        result => result,
    }
}

/// A memory directory, attached nowhere, with links of short names to the layers.
fn short_names(lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let scratch = FsContext::new(c"tmpfs")?.mount(0)?;
    let link = |target: &Path, name: &str| {
        nix::unistd::symlinkat(target, scratch.as_fd(), name).map_err(io::Error::from)
    };
    for (number, layer) in lower.iter().enumerate() {
        link(layer, &number.to_string())?;
    }
    link(upper, "u")?;
    link(work, "w")?;
    Ok(scratch)
}

fn change_directory(directory: &OwnedFd) -> io::Result<()> {
    // SAFETY: no pointers, the descriptor is live.
    match unsafe { libc::fchdir(directory.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the mounted root the only one: what was mounted before is gone from this
/// namespace.
pub fn enter(root: &OwnedFd) -> Result<(), StartFailure> {
    change_directory(root).context(|| "entering the root")?;
    // Old and new root at the same place: the old one ends up on top and is taken off.
    nix::unistd::pivot_root(".", ".").context(|| "pivot_root")?;
    sys::detach_mount(c".").context(|| "detaching the old root")?;
    std::env::set_current_dir("/").context(|| "chdir /")
}

/// Makes the root read-only, but not what is mounted in it.
pub fn make_readonly() -> Result<(), StartFailure> {
    let root = sys::open("/", libc::O_PATH | libc::O_DIRECTORY).context(|| "open /")?;
    sys::set_mount(root.as_fd(), libc::MOUNT_ATTR_RDONLY, 0, 0, false)
        .context(|| "making the root read-only")
}

/// Keeps what happens in this namespace from the host, while mounts of the host
/// still arrive where a bind asks for them.
pub fn part_from_host() -> Result<(), StartFailure> {
    sys::mount(c"none", c"/", c"", libc::MS_SLAVE | libc::MS_REC, c"")
        .map_err(|error| failure(format!("parting mounts from the host: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_do_not_split_the_options() {
        assert_eq!(
            options(
                &["/l/a:b".into(), "/l/c,d".into()],
                Path::new("/u:p"),
                Path::new("/w")
            ),
            "lowerdir=/l/a\\:b:/l/c\\,d,upperdir=/u:p,workdir=/w"
        );
    }
}
