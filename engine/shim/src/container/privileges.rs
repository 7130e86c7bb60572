//! What the process may do: user, capabilities, limits of resources.

use std::io;

use crate::capabilities;
use crate::config::Rlimit;
use crate::container::user::User;
use crate::failure::{Context as _, failure};
use crate::protocol::StartFailure;
use crate::sys;

/// Highest capability number asked about; the kernel says which it has.
const CAPABILITY_NUMBER_MAX: u64 = 63;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Version 3: two words of 32 bits.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// What this process may use at most.
pub fn permitted() -> io::Result<u64> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let mut words = [CapabilityWord::default(); 2];
    // SAFETY: header and two words are what this version of the call wants.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(words[0].permitted) | u64::from(words[1].permitted) << 32)
}

/// Sets the permitted and effective capabilities and empties the inheritable ones.
pub fn set_capabilities(mask: u64) -> io::Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let word = |bits: u32| CapabilityWord {
        effective: bits,
        permitted: bits,
        inheritable: 0,
    };
    let words = [word(mask as u32), word((mask >> 32) as u32)];
    // SAFETY: header and two words are what this version of the call wants.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes every capability that is not in `keep` away for good.
pub fn limit_bounding_set(keep: u64) -> Result<(), StartFailure> {
    for number in 0..=CAPABILITY_NUMBER_MAX {
        let known = matches!(sys::prctl(libc::PR_CAPBSET_READ, number, 0), Ok(1));
        if known && keep & (1 << number) == 0 {
            sys::prctl(libc::PR_CAPBSET_DROP, number, 0)
                .context(|| format!("dropping capability {number} from the bounding set"))?;
        }
    }
    // Nothing is to be kept across the change of user by way of ambient sets.
    let _ = sys::prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as u64,
        0,
    );
    Ok(())
}

/// The capabilities the process gets: those asked for that this host has.
pub fn wanted_mask(names: &[String]) -> Result<u64, StartFailure> {
    let mask = capabilities::mask(names).map_err(|error| failure(error.to_string()))?;
    Ok(mask & permitted().context(|| "reading capabilities")?)
}

/// Becomes this user. Keeps the permitted capabilities; the caller drops them.
pub fn become_user(user: &User) -> Result<(), StartFailure> {
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).context(|| "keeping capabilities")?;
    let result = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // The raw calls, as the shim has one thread and libc's versions would signal others.
    // SAFETY: the pointer and the count describe the same live vector.
    let groups =
        unsafe { libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) };
    result(groups as libc::c_int).context(|| "setgroups")?;
    // SAFETY: no pointers.
    let gid = unsafe { libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid) };
    result(gid as libc::c_int).context(|| "setgid")?;
    // SAFETY: no pointers.
    let uid = unsafe { libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid) };
    result(uid as libc::c_int).context(|| "setuid")
}

/// Sets resource limits. What is above the hard limit this process has, and may not
/// raise, is clipped to it.
pub fn set_rlimits(limits: &[Rlimit]) -> Result<(), StartFailure> {
    for limit in limits {
        let resource = resource(&limit.name)
            .ok_or_else(|| failure(format!("invalid ulimit type: {}", limit.name)))?;
        let wanted = libc::rlimit64 {
            rlim_cur: limit.soft.min(limit.hard),
            rlim_max: limit.hard,
        };
        if set_rlimit(resource, &wanted).is_ok() {
            continue;
        }
        let have = get_rlimit(resource).context(|| format!("reading limit {}", limit.name))?;
        let clipped = libc::rlimit64 {
            rlim_cur: wanted.rlim_cur.min(have.rlim_max),
            rlim_max: wanted.rlim_max.min(have.rlim_max),
        };
        set_rlimit(resource, &clipped)
            .context(|| format!("error setting rlimit {}", limit.name))?;
    }
    Ok(())
}

/// One limit of this process.
pub fn get_rlimit(resource: i32) -> io::Result<libc::rlimit64> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live structure that the kernel fills.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<libc::rlimit64>(),
            &raw mut limit,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

/// Sets one limit of this process.
pub fn set_rlimit(resource: i32, limit: &libc::rlimit64) -> io::Result<()> {
    // SAFETY: the pointer is to a live structure that the kernel reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::from_ref(limit),
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The number of a limit, by docker's name.
pub fn resource(name: &str) -> Option<i32> {
    let resource = match name.to_ascii_lowercase().trim_start_matches("rlimit_") {
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "locks" => libc::RLIMIT_LOCKS,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "msgqueue" => libc::RLIMIT_MSGQUEUE,
        "nice" => libc::RLIMIT_NICE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rss" => libc::RLIMIT_RSS,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "rttime" => libc::RLIMIT_RTTIME,
        "sigpending" => libc::RLIMIT_SIGPENDING,
        "stack" => libc::RLIMIT_STACK,
        "as" => libc::RLIMIT_AS,
        _ => return None,
    };
    Some(resource as i32)
}
