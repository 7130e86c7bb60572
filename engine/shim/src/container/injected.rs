//! Files that only memory ever holds: secrets and configs of a task.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::config::InjectedFile;
use crate::container::place::{self, Kind};
use crate::failure::{Context as _, failure};
use crate::protocol::StartFailure;
use crate::sys::{self, FsContext};
use crate::userns::IdMap;

/// The bytes of one file, wiped when dropped. No `Debug`.
pub struct Secret {
    pub name: String,
    pub bytes: Box<[u8]>,
}

impl Drop for Secret {
    fn drop(&mut self) {
        for byte in &mut self.bytes {
            // SAFETY: a plain write through a valid reference; volatile, so that it
            // is not optimised away before the memory is freed.
            unsafe { std::ptr::write_volatile(byte, 0) };
        }
    }
}

/// Files in memory, each a mount that has no place yet.
pub struct Files<'a> {
    mounts: Vec<(&'a InjectedFile, OwnedFd)>,
}

/// Writes the files to memory of their own. `scratch` is an empty directory where
/// nothing may be mounted before or after. `map` says which ids of the host the owners are.
pub fn write<'a>(
    files: &'a [InjectedFile],
    secrets: &[Secret],
    scratch: &Path,
    map: Option<&IdMap>,
) -> Result<Files<'a>, StartFailure> {
    if files.is_empty() {
        return Ok(Files { mounts: Vec::new() });
    }
    let doing = || "preparing memory for secrets";
    let memory = memory().context(doing)?;
    let place = sys::open(scratch, libc::O_PATH | libc::O_DIRECTORY).context(doing)?;
    // A mount can be copied only once it is attached somewhere.
    sys::attach_mount(memory.as_fd(), place.as_fd()).context(doing)?;
    let mut mounts = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let secret = secrets
            .iter()
            .find(|secret| secret.name == file.name)
            .ok_or_else(|| failure(format!("the bytes of `{}` were not sent", file.name)))?;
        let written = write_one(memory.as_fd(), number, file, secret, map);
        let written = written.context(|| format!("writing `{}` to memory", file.name))?;
        let mount = sys::clone_tree(written.as_fd(), false).context(doing)?;
        sys::set_mount(
            mount.as_fd(),
            libc::MOUNT_ATTR_RDONLY
                | libc::MOUNT_ATTR_NODEV
                | libc::MOUNT_ATTR_NOSUID
                | libc::MOUNT_ATTR_NOEXEC,
            0,
            libc::MS_PRIVATE,
            false,
        )
        .context(doing)?;
        mounts.push((file, mount));
    }
    let scratch = sys::c_path(scratch).context(doing)?;
    // The whole file system, not only this mount of it, becomes read-only.
    sys::mount(
        c"none",
        &scratch,
        c"",
        libc::MS_REMOUNT | libc::MS_RDONLY | libc::MS_NODEV | libc::MS_NOSUID | libc::MS_NOEXEC,
        c"",
    )
    .context(doing)?;
    sys::detach_mount(&scratch).context(doing)?;
    Ok(Files { mounts })
}

/// Memory that, where the kernel can (6.4), is never swapped out.
fn memory() -> std::io::Result<OwnedFd> {
    let attributes = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    let context = || {
        let context = FsContext::new(c"tmpfs")?;
        context.set("source", "tmpfs")?;
        context.set("mode", "0700")?;
        Ok::<_, std::io::Error>(context)
    };
    let resident = context()?;
    if resident.flag("noswap").is_ok() {
        return resident.mount(attributes);
    }
    context()?.mount(attributes)
}

fn write_one(
    memory: BorrowedFd<'_>,
    number: usize,
    file: &InjectedFile,
    secret: &Secret,
    map: Option<&IdMap>,
) -> std::io::Result<OwnedFd> {
    let (uid, gid) = match map {
        None => (file.uid, file.gid),
        Some(map) => map
            .uid(file.uid)
            .zip(map.gid(file.gid))
            .ok_or_else(|| std::io::Error::other("its owner is not in the container's id map"))?,
    };
    let name = number.to_string();
    let opened = sys::open_in_root(
        memory,
        Path::new(&name),
        libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY,
        0o600,
    )?;
    let mut rest = &secret.bytes[..];
    while !rest.is_empty() {
        let count = sys::write(opened.as_fd(), rest)?;
        rest = &rest[count..];
    }
    nix::unistd::fchown(&opened, Some(uid.into()), Some(gid.into()))?;
    let mode = nix::sys::stat::Mode::from_bits_truncate(file.mode & 0o7777);
    nix::sys::stat::fchmod(&opened, mode)?;
    drop(opened);
    sys::open_in_root(memory, Path::new(&name), libc::O_PATH, 0)
}

impl<'a> Files<'a> {
    /// Each file and its mount.
    pub fn into_mounts(self) -> Vec<(&'a InjectedFile, OwnedFd)> {
        self.mounts
    }
}

impl Files<'_> {
    /// Shows each file at its target.
    pub fn attach_all(self, root: BorrowedFd<'_>) -> Result<(), StartFailure> {
        for (file, mount) in self.mounts {
            place::attach(root, mount.as_fd(), &file.target, Kind::File)?;
        }
        Ok(())
    }
}
