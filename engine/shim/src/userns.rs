//! User namespaces: which ids of a container are which ids of the host, and how such a
//! namespace is made.
//!
//! Files keep their ids on the disk: what the container sees and makes is mounted with the
//! ids mapped, so that images, volumes and layers are the same with and without a map.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sys::{self, Forked};

/// Most ranges of one map; the kernel takes 340.
const RANGES_MAX: usize = 340;

/// Ids that follow one another, in the container and on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id in the container.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The ids of a container and what they are on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

/// The user namespace of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    pub map: IdMap,
    /// A namespace of this map that exists, by path; a new one if absent. A network
    /// namespace that is joined and belongs to another user namespace than the host's
    /// brings that one along.
    #[serde(default)]
    pub join: Option<PathBuf>,
}

impl IdMap {
    /// The same ranges for users and groups, from 0 on.
    pub fn from_zero(outside: u32, count: u32) -> Self {
        let range = IdRange {
            inside: 0,
            outside,
            count,
        };
        Self {
            uids: vec![range],
            gids: vec![range],
        }
    }

    /// The user of the host that this user of the container is.
    pub fn uid(&self, inside: u32) -> Option<u32> {
        outside(&self.uids, inside)
    }

    /// The group of the host that this group of the container is.
    pub fn gid(&self, inside: u32) -> Option<u32> {
        outside(&self.gids, inside)
    }

    /// The user of the container that this user of the host is.
    pub fn uid_inside(&self, outside: u32) -> Option<u32> {
        inside(&self.uids, outside)
    }

    /// The group of the container that this group of the host is.
    pub fn gid_inside(&self, outside: u32) -> Option<u32> {
        inside(&self.gids, outside)
    }

    /// Root of the container, as user and group of the host.
    ///
    /// # Errors
    /// The map has no root, or more ranges than a kernel takes.
    pub fn root(&self) -> io::Result<(u32, u32)> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        if self.uids.len().max(self.gids.len()) > RANGES_MAX {
            return Err(invalid(format!(
                "an id map has more than {RANGES_MAX} ranges"
            )));
        }
        match (self.uid(0), self.gid(0)) {
            (Some(uid), Some(gid)) => Ok((uid, gid)),
            _ => Err(invalid(
                "the id map leaves root of the container out".into(),
            )),
        }
    }
}

fn outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.inside)?;
        (offset < range.count).then(|| range.outside.checked_add(offset))?
    })
}

fn inside(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.outside)?;
        (offset < range.count).then(|| range.inside.checked_add(offset))?
    })
}

fn lines(ranges: &[IdRange]) -> String {
    ranges
        .iter()
        .map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count))
        .collect()
}

/// A user namespace and a network namespace that belongs to it.
#[derive(Debug)]
pub(crate) struct Made {
    pub user: OwnedFd,
    pub net: OwnedFd,
}

/// Makes a user namespace of this map, and a network namespace that belongs to it. The
/// calling process stays where it is; it must have one thread.
pub(crate) fn make(map: &IdMap) -> io::Result<Made> {
    map.root()?;
    let (waits, release) = sys::pipe()?;
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET;
    // SAFETY: the caller has one thread.
    let (pid, _process) = match unsafe { sys::clone3(flags as u64, None) }? {
        Forked::Child => {
            drop(release);
            let _ = sys::read(&waits, &mut [0]);
            // SAFETY: ends the process at once, without running the parent's clean-up.
            unsafe { libc::_exit(0) }
        }
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    let made = write_map(pid, map).and_then(|()| {
        Ok(Made {
            user: sys::open(format!("/proc/{pid}/ns/user"), libc::O_RDONLY)?,
            net: sys::open(format!("/proc/{pid}/ns/net"), libc::O_RDONLY)?,
        })
    });
    drop(release);
    // Held by descriptors from here on, the namespaces outlive their first process.
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)?;
    made
}

fn write_map(pid: i32, map: &IdMap) -> io::Result<()> {
    // The kernel takes a map in one piece only.
    let write = |name: &str, text: String| {
        fs::File::options()
            .write(true)
            .open(format!("/proc/{pid}/{name}"))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| {
                io::Error::new(error.kind(), format!("write /proc/PID/{name}: {error}"))
            })
    };
    write("gid_map", lines(&map.gids))?;
    write("uid_map", lines(&map.uids))
}

/// The user namespace that a namespace belongs to; `None` if it is the caller's own.
pub(crate) fn owner(namespace: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701 as libc::Ioctl;
    // SAFETY: the call takes no argument and gives a new descriptor nobody else owns.
    let owner = unsafe {
        let fd = libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let own = sys::open("/proc/self/ns/user", libc::O_RDONLY)?;
    let (own, other) = (sys::fstat(own.as_fd())?, sys::fstat(owner.as_fd())?);
    let same = (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino);
    Ok((!same).then_some(owner))
}

/// Becomes root of the user namespace this process is in, with all its capabilities.
pub(crate) fn become_root() -> io::Result<()> {
    let check = |result: libc::c_long| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // The raw calls, as the shim has one thread and libc's versions would signal others.
    // SAFETY: no groups, so that no pointer is read.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) })
}

/// The `namespaces` command of the program: makes namespaces of the map in standard
/// input, says where they can be found, and holds them until nobody listens.
pub(crate) fn main() -> i32 {
    let run = || -> io::Result<()> {
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        let map: IdMap = serde_json::from_str(&line).map_err(io::Error::other)?;
        let made = make(&map)?;
        let pid = std::process::id();
        println!("/proc/{pid}/fd/{}", made.net.as_raw_fd());
        let _ = sys::read(io::stdin(), &mut [0]);
        Ok(())
    };
    match run() {
        Ok(()) => 0,
        Err(error) => {
            println!("!{error}");
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_in_and_out() {
        let map = IdMap {
            uids: vec![
                IdRange {
                    inside: 0,
                    outside: 100_000,
                    count: 10,
                },
                IdRange {
                    inside: 10,
                    outside: 5000,
                    count: 2,
                },
            ],
            gids: vec![],
        };
        assert_eq!(map.uid(0), Some(100_000));
        assert_eq!(map.uid(9), Some(100_009));
        assert_eq!(map.uid(11), Some(5001));
        assert_eq!(map.uid(12), None);
        assert_eq!(map.uid_inside(5001), Some(11));
        assert_eq!(map.uid_inside(0), None);
        assert!(map.root().is_err(), "there is no group 0");
        assert_eq!(IdMap::from_zero(7, 1).root().unwrap(), (7, 7));
    }

    #[test]
    fn ranges_at_the_end_do_not_overflow() {
        let map = IdMap::from_zero(u32::MAX - 1, u32::MAX);
        assert_eq!(map.uid(1), Some(u32::MAX));
        assert_eq!(map.uid(2), None);
    }
}
