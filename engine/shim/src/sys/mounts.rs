//! The system calls for mounts: trees as descriptors, attributes, new file systems.

use std::ffi::{CStr, OsStr};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr;

use libc::c_uint;

use super::{c_path, check, errno_text, owned};

/// A copy of the mount tree at an open path, attached nowhere yet.
pub fn clone_tree(at: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as c_uint;
    }
    // SAFETY: the empty path is a valid C string.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), c"".as_ptr(), flags) })
}

const BOTH_EMPTY: c_uint = 0x04 | 0x40; // MOVE_MOUNT_F_EMPTY_PATH | _T_EMPTY_PATH

/// Attaches a mount to an open path.
pub fn attach_mount(mount: BorrowedFd<'_>, at: BorrowedFd<'_>) -> io::Result<()> {
    move_mount(mount, at, BOTH_EMPTY)
}

/// Attaches a mount below the one whose root `top` is: it is seen once that one is taken off. Linux
/// 6.5; `EINVAL` before.
pub fn attach_beneath(mount: BorrowedFd<'_>, top: BorrowedFd<'_>) -> io::Result<()> {
    const MOVE_MOUNT_BENEATH: c_uint = 0x200;
    move_mount(mount, top, BOTH_EMPTY | MOVE_MOUNT_BENEATH)
}

fn move_mount(mount: BorrowedFd<'_>, at: BorrowedFd<'_>, flags: c_uint) -> io::Result<()> {
    // SAFETY: both paths are valid empty C strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            at.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    })?;
    Ok(())
}

/// Attributes of a mount to set and to clear (`MOUNT_ATTR_*`), and its propagation
/// (`MS_PRIVATE` and so on, 0 to leave it).
pub fn set_mount(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    // SAFETY: all zero is a valid mount_attr.
    let mut attributes: libc::mount_attr = unsafe { mem::zeroed() };
    attributes.attr_set = set;
    attributes.attr_clr = clear;
    attributes.propagation = propagation;
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: path and attributes outlive the call; the size is that of the struct.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            mem::size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Shows a mount, attached nowhere yet, with the ids of a user namespace: what belongs to
/// an id of that namespace on the disk belongs to the id of the host it is mapped to.
pub fn map_ids(mount: BorrowedFd<'_>, user: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    // SAFETY: all zero is a valid mount_attr.
    let mut attributes: libc::mount_attr = unsafe { mem::zeroed() };
    attributes.attr_set = MOUNT_ATTR_IDMAP;
    attributes.userns_fd = user.as_raw_fd() as u64;
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: path and attributes outlive the call; the size is that of the struct.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            mem::size_of::<libc::mount_attr>(),
        )
    })
    .map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => io::Error::new(
            io::ErrorKind::Unsupported,
            "its file system cannot be mounted with mapped ids (idmapped mounts): put it on ext4, xfs, btrfs or tmpfs of a newer kernel, or run the container with --userns=host",
        ),
        _ => error,
    })?;
    Ok(())
}

/// A file system being configured.
pub struct FsContext {
    fd: OwnedFd,
}

const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;

impl FsContext {
    /// Begins to configure a file system of this type.
    pub fn new(kind: &CStr) -> io::Result<Self> {
        // SAFETY: the name is a C string; 1 is FSOPEN_CLOEXEC.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) }).map(|fd| Self { fd })
    }

    fn configure(
        &self,
        command: c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
    ) -> io::Result<()> {
        // SAFETY: key and value are C strings or null, as each command wants.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.fd.as_raw_fd(),
                command,
                key.map_or(ptr::null(), CStr::as_ptr),
                value.map_or(ptr::null(), CStr::as_ptr),
                0,
            )
        })
        .map_err(|error| self.explained(error))?;
        Ok(())
    }

    /// Sets an option. The kernel takes at most 255 bytes of value.
    pub fn set(&self, key: &str, value: &str) -> io::Result<()> {
        let (key, value) = (c_path(key)?, c_path(value)?);
        self.configure(FSCONFIG_SET_STRING, Some(&key), Some(&value))
    }

    /// Sets an option without a value.
    pub fn flag(&self, key: &str) -> io::Result<()> {
        self.configure(FSCONFIG_SET_FLAG, Some(&c_path(key)?), None)
    }

    /// Makes the file system and a mount of it, attached nowhere yet.
    pub fn mount(self, attributes: u64) -> io::Result<OwnedFd> {
        self.configure(FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: no pointers; 1 is FSMOUNT_CLOEXEC.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.fd.as_raw_fd(), 1, attributes) })
    }

    /// The same error with what the kernel wrote about it in the context.
    fn explained(&self, error: io::Error) -> io::Error {
        let mut buffer = [0_u8; 512];
        // SAFETY: the buffer is live and its length given.
        let length = unsafe {
            libc::read(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        match usize::try_from(length) {
            Ok(length) if length > 2 => {
                let said = String::from_utf8_lossy(&buffer[2..length]);
                io::Error::new(
                    error.kind(),
                    format!("{} ({})", errno_text(&error), said.trim()),
                )
            }
            _ => error,
        }
    }
}

/// Unmounts what is at a path, now or as soon as it is free.
pub fn detach_mount(path: &CStr) -> io::Result<()> {
    // SAFETY: the path is a C string.
    check(
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }.into(),
    )?;
    Ok(())
}

/// Takes off the topmost mount at a name in an open directory. The thread's working directory is
/// that one afterwards.
pub fn detach_mount_at(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    nix::unistd::fchdir(directory)?;
    detach_mount(&c_path(name)?)
}

/// Whether an open path is the root of a mount.
pub fn is_mount_root(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: all zero is a valid statx, filled by the kernel.
    let mut status: libc::statx = unsafe { mem::zeroed() };
    // SAFETY: the path is a C string, the pointer is to a live statx.
    check(
        unsafe {
            libc::statx(
                fd.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                libc::STATX_BASIC_STATS,
                &raw mut status,
            )
        }
        .into(),
    )?;
    let wanted = libc::STATX_ATTR_MOUNT_ROOT as u64;
    Ok(status.stx_attributes & wanted != 0)
}

/// The classic mount call. Null-like empty strings are passed as they are.
pub fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: u64,
    options: &CStr,
) -> io::Result<()> {
    // SAFETY: all are C strings that outlive the call.
    check(
        unsafe {
            libc::mount(
                source.as_ptr(),
                target.as_ptr(),
                kind.as_ptr(),
                flags,
                options.as_ptr().cast(),
            )
        }
        .into(),
    )?;
    Ok(())
}
