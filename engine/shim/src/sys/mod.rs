//! The system calls that need more care than a crate gives them: descriptors for
//! processes and mounts, lookups that cannot leave a root, and their errors as text.
//!
//! All are thin: one call, its result checked, descriptors owned and close-on-exec.

mod mounts;
mod sockets;

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

use libc::{c_int, c_long, c_uint};

pub use mounts::{
    FsContext, attach_beneath, attach_mount, clone_tree, detach_mount, detach_mount_at,
    is_mount_root, map_ids, mount, set_mount,
};
pub use sockets::{
    begin_connect, connect_unix, is_stream, local_time, send, socket_error, wait_writable,
};

/// Turns a raw result into an error when negative.
fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes ownership of a descriptor a call has just made.
fn owned(result: c_long) -> io::Result<OwnedFd> {
    let fd = check(result)? as RawFd;
    // SAFETY: the kernel has just returned this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A path as a C string.
pub fn c_path(path: impl AsRef<Path>) -> io::Result<CString> {
    CString::new(path.as_ref().as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path contains a zero byte"))
}

/// The kernel's text for an error the way docker prints it: no number, small letter.
pub fn errno_text(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else {
        return error.to_string();
    };
    // SAFETY: strerror returns a valid static or thread-local C string, and the
    // shim has one thread.
    let text = unsafe { CStr::from_ptr(libc::strerror(number)) }.to_string_lossy();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

/// Which side of [`clone3`] this is.
pub enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// Forks with the given `CLONE_NEW*` flags and a process descriptor, into the
/// version 2 cgroup behind `cgroup` if given. With `CLONE_PARENT` the child is a
/// sibling, whose parent hears of its end.
///
/// # Safety
/// The process must have one thread, so that the child may go on with any code.
pub unsafe fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: c_int = -1;
    // SAFETY: all zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    if flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child has its own copy of everything; the
    // pointer in `args` outlives the call.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            mem::size_of::<libc::clone_args>(),
        )
    })?;
    match pid {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent {
            pid: pid as i32,
            pidfd: owned(pidfd.into())?,
        }),
    }
}

/// Sends a signal to exactly the process behind a descriptor.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers but a null siginfo.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// Enters namespaces: `fd` is a namespace or, with several `kinds`, a process.
pub fn setns(fd: BorrowedFd<'_>, kinds: c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setns(fd.as_raw_fd(), kinds) }.into())?;
    Ok(())
}

/// Leaves namespaces for new ones.
pub fn unshare(kinds: c_int) -> io::Result<()> {
    // SAFETY: no pointers; the shim has one thread.
    check(unsafe { libc::unshare(kinds) }.into())?;
    Ok(())
}

/// Opens `path` as if `root` were `/`: no component, symbolic link or `..` leads
/// out of it, and no magic link is followed.
pub fn open_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: c_int,
    mode: u32,
) -> io::Result<OwnedFd> {
    openat2(
        root,
        path,
        flags,
        mode,
        libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS,
    )
}

/// `openat2`, close-on-exec.
pub fn openat2(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: c_int,
    mode: u32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: all zero is a valid open_how.
    let mut how: libc::open_how = unsafe { mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = if flags & libc::O_CREAT != 0 {
        mode.into()
    } else {
        0
    };
    how.resolve = resolve;
    // The kernel asks to try again when a rename somewhere raced with the lookup.
    for _ in 0..128 {
        // SAFETY: path and `how` outlive the call, and the size is that of `how`.
        let result = owned(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                mem::size_of::<libc::open_how>(),
            )
        });
        match result {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            result => return result,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Opens a path of the host.
pub fn open(path: impl AsRef<Path>, flags: c_int) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: the path outlives the call.
    owned(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into())
}

/// Makes a directory below an open one.
pub fn mkdirat(directory: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<()> {
    let name = c_path(name)?;
    // SAFETY: the name outlives the call.
    check(unsafe { libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), mode) }.into())?;
    Ok(())
}

/// Status of an open file.
pub fn fstat(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    // SAFETY: all zero is a valid stat, filled by the kernel.
    let mut status: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live stat.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut status) }.into())?;
    Ok(status)
}

/// The magic number of procfs.
pub const PROC_MAGIC: i64 = 0x9fa0;

/// The magic number of the file system an open file is on.
pub fn file_system(fd: BorrowedFd<'_>) -> io::Result<i64> {
    // SAFETY: all zero is a valid statfs, filled by the kernel.
    let mut status: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live statfs.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut status) }.into())?;
    Ok(status.f_type)
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as c_uint,
            c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// Closes every descriptor from `first` on.
///
/// # Safety
/// Nothing may own one of them.
pub unsafe fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; the caller promises that nobody uses them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first as c_uint, c_uint::MAX, 0) })?;
    Ok(())
}

/// `prctl` with integers only.
pub fn prctl(option: c_int, a: u64, b: u64) -> io::Result<c_int> {
    // SAFETY: only options that take integers are passed.
    let result = check(unsafe { libc::prctl(option, a, b, 0, 0) }.into())?;
    Ok(result as c_int)
}

/// Sets the user and group that files are made and looked at as. The call tells of no
/// failure, and there is none for who has the capabilities.
pub fn set_fs_ids(uid: u32, gid: u32) {
    // SAFETY: no pointers.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
}

/// Makes `descriptor` also the descriptor with number `target`, open across exec.
pub fn duplicate_to(descriptor: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; `target` is one of the three standard streams, which
    // nothing owns.
    check(unsafe { libc::dup2(descriptor.as_raw_fd(), target) }.into())?;
    Ok(())
}

/// Runs the program behind an open file in this process.
pub fn execveat(program: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in null and point to C strings that live here.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Runs a program in this process.
pub fn execve(program: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in null and point to C strings that live here.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}

/// A pipe: read end, write end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: the array has room for two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
    Ok((owned(ends[0].into())?, owned(ends[1].into())?))
}

/// A pair of connected sockets that keep messages apart.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: the array has room for two descriptors.
    check(
        unsafe {
            libc::socketpair(
                libc::AF_UNIX,
                libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
                0,
                ends.as_mut_ptr(),
            )
        }
        .into(),
    )?;
    Ok((owned(ends[0].into())?, owned(ends[1].into())?))
}

/// Reads what is there; `Ok(0)` is the end.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is live and its length given.
    let count = check(unsafe {
        libc::read(
            fd.as_fd().as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    } as c_long)?;
    Ok(count as usize)
}

/// Writes what fits.
pub fn write(fd: impl AsFd, buffer: &[u8]) -> io::Result<usize> {
    // SAFETY: the buffer is live and its length given.
    let count =
        check(
            unsafe { libc::write(fd.as_fd().as_raw_fd(), buffer.as_ptr().cast(), buffer.len()) }
                as c_long,
        )?;
    Ok(count as usize)
}

/// Makes reads and writes return at once.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain flag operations on a live descriptor.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }.into())? as c_int;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }.into())?;
    Ok(())
}

/// The size of a terminal.
pub fn set_window_size(terminal: BorrowedFd<'_>, height: u16, width: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads a winsize that outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into())?;
    Ok(())
}

/// A message and perhaps one descriptor.
pub fn send_message(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let raw = descriptor.map(|fd| [fd.as_raw_fd()]);
    let control = raw.as_ref().map(|raw| [ControlMessage::ScmRights(raw)]);
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[io::IoSlice::new(bytes)],
        control.as_ref().map_or(&[][..], |control| &control[..]),
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives what [`send_message`] sent; zero bytes is the end.
pub fn receive_message(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut received = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            for descriptor in descriptors {
                received = Some(owned(descriptor.into())?);
            }
        }
    }
    Ok((message.bytes, received))
}

/// Random bytes from the kernel.
pub fn random_u64() -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer is live; eight bytes are always given at once. Before the
    // kernel's pool is ready at boot the call waits.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u64::from_ne_bytes(bytes)
}
